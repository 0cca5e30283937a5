// SPDX-License-Identifier: Apache-2.0
/// A quantized matrix as every checkpoint is read into and written from: one code per byte, and one
/// scale and zero point per row and group.
#pragma once

#include <cmath>  // std::isfinite
#include <string>
#include <string_view>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/bits.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/format/grid.hpp"
#include "subbyte/format/scale.hpp"
#include "subbyte/matrix/planar_matrix.hpp"
#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/tensor/tensor.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// How a file keeps the scales of a matrix.
enum class scale_type : std::uint8_t { f16, bf16, f32 };

/// "f16", "bf16" or "f32".
[[nodiscard]] SUBBYTE_INLINE constexpr const char* name_of(scale_type type) noexcept {
  return type == scale_type::f16 ? "f16" : type == scale_type::bf16 ? "bf16" : "f32";
}

/// The value that a file with scales of this type gives back for `value`.
[[nodiscard]] SUBBYTE_INLINE constexpr float nearest(scale_type type, float value) noexcept {
  return type == scale_type::f16    ? half::nearest(value).to_float()
         : type == scale_type::bf16 ? bfloat16::nearest(value).to_float()
                                    : value;
}

/// W(r, k) = scales(r, g) * (codes(r, k) - zero(r, g)), where g is the group of column k.
///
/// Shapes    codes [n, k], columns in the original order; scales [n, groups] with
///           groups = ceil(k / group_size); zeros [n, groups] or empty; group_of_column [k] or
///           empty.
/// Requires  what validate() checks: call it on anything that came from outside.
/// Numerics  scales are exact widenings of what the file holds. A scale may be negative or zero.
template <class Arch>
struct basic_group_codes {
  int bits = 4;                   ///< 1 to 8
  index_t group_size = 0;         ///< columns per group; the last may be short
  tensor<std::uint8_t, 2> codes;  ///< unsigned, one per byte
  tensor<float, 2> scales;        ///< per row and group
  scale_type stored_scale = scale_type::f16;
  tensor<float, 2> zeros;                   ///< empty: symmetric, every zero is 2^(bits-1)
  bool real_zeros = false;                  ///< zeros need not be integers
  tensor<std::int32_t, 1> group_of_column;  ///< empty: column / group_size

  [[nodiscard]] index_t rows() const noexcept { return codes.extent(0); }
  [[nodiscard]] index_t cols() const noexcept { return codes.extent(1); }
  /// Groups per row.
  [[nodiscard]] index_t groups() const noexcept { return ceil_div(cols(), group_size); }
  [[nodiscard]] bool symmetric() const noexcept { return zeros.extent(0) == 0; }
  /// Whether every column is in the group of its position, whatever group_of_column holds.
  [[nodiscard]] bool sequential() const noexcept {
    for (index_t k = 0; k < group_of_column.extent(0); ++k) {
      if (group_of_column(k) != k / group_size) return false;
    }
    return true;
  }

  /// The group of column k.
  [[nodiscard]] index_t group_of(index_t k) const noexcept {
    return group_of_column.extent(0) == 0 ? k / group_size : group_of_column(k);
  }
  /// The zero point of row r and group g.
  [[nodiscard]] float zero(index_t r, index_t g) const noexcept {
    return symmetric() ? static_cast<float>(1 << (bits - 1)) : zeros(r, g);
  }
  /// W(r, k): one subtraction and one product, each rounded.
  [[nodiscard]] float value(index_t r, index_t k) const noexcept {
    const index_t g = group_of(k);
    return scales(r, g) * (static_cast<float>(codes(r, k)) - zero(r, g));
  }

  /// Writes W, row by row.
  /// Requires  out is [rows(), cols()].
  void dequantize(matrix_view<float> out) const noexcept {
    SUBBYTE_EXPECTS(out.extent(0) == rows() && out.extent(1) == cols());
    for (index_t r = 0; r < rows(); ++r) {
      for (index_t k = 0; k < cols(); ++k) out(r, k) = value(r, k);
    }
  }

  /// A copy in memory of its own.
  [[nodiscard]] basic_group_codes clone() const {
    return {bits,         group_size,    codes.clone(), scales.clone(),
            stored_scale, zeros.clone(), real_zeros,    group_of_column.clone()};
  }

  /// Columns sorted by their group, columns of one group in their original order: position j of
  /// the sorted matrix holds column order[j]. Without group_of_column: 0, 1, 2, ...
  ///
  /// Throws  bad_shape if a group does not hold group_size columns (the last one: the rest),
  /// because
  ///         no column order makes such groups equal runs.
  [[nodiscard]] tensor<std::int32_t, 1> column_order(
      std::string_view subject = "group_codes") const {
    tensor<std::int32_t, 1> next(groups());
    for (index_t g = 0; g < groups(); ++g) next(g) = static_cast<std::int32_t>(g * group_size);
    tensor<std::int32_t, 1> order(cols());
    for (index_t k = 0; k < cols(); ++k) {
      const index_t g = group_of(k);
      const index_t end = g + 1 < groups() ? (g + 1) * group_size : cols();
      if (next(g) == end) {
        throw_error(errc::bad_shape, std::string(subject),
                    "group " + std::to_string(g) + " holds more than " +
                        std::to_string(end - g * group_size) +
                        " columns: every group but the last needs " + std::to_string(group_size));
      }
      order(next(g)) = static_cast<std::int32_t>(k);
      next(g) = next(g) + 1;
    }
    return order;
  }

  /// Checks everything that a reader of this matrix relies on.
  ///
  /// Throws  bad_argument (bits, group_size), bad_shape (an extent), bad_metadata (a code, integer
  ///         zero point or group out of range, a scale that stored_scale cannot hold), non_finite
  ///         (a scale or zero point).
  void validate(std::string_view subject = "group_codes") const {
    if (bits < 1 || bits > 8) {
      reject(errc::bad_argument, subject, "bits is " + std::to_string(bits) + ", needs 1 to 8");
    }
    if (group_size < 1) {
      reject(errc::bad_argument, subject,
             "group_size is " + std::to_string(group_size) + ", needs at least 1");
    }
    check_extents(subject, "scales", scales.extent(0), scales.extent(1));
    if (!symmetric() || zeros.extent(1) != 0) {
      check_extents(subject, "zeros", zeros.extent(0), zeros.extent(1));
    }
    if (group_of_column.extent(0) != 0 && group_of_column.extent(0) != cols()) {
      reject(errc::bad_shape, subject,
             "group_of_column has " + std::to_string(group_of_column.extent(0)) +
                 " entries, needs one for each of " + std::to_string(cols()) + " columns");
    }
    for (index_t k = 0; k < group_of_column.extent(0); ++k) {
      if (group_of_column(k) < 0 || group_of_column(k) >= groups()) {
        reject(errc::bad_metadata, subject,
               "column " + std::to_string(k) + " is in group " +
                   std::to_string(group_of_column(k)) + " of " + std::to_string(groups()));
      }
    }
    check_codes(subject);
    for (index_t r = 0; r < rows(); ++r) {
      for (index_t g = 0; g < groups(); ++g) check_parameters(subject, r, g);
    }
  }

 private:
  [[noreturn]] static void reject(errc code, std::string_view subject, const std::string& message) {
    throw_error(code, std::string(subject), message);
  }

  [[nodiscard]] static std::string place(const char* what, index_t r, index_t g) {
    return std::string(what) + " of row " + std::to_string(r) + ", group " + std::to_string(g);
  }

  void check_extents(std::string_view subject, const char* what, index_t found_rows,
                     index_t found_groups) const {
    if (found_rows != rows() || found_groups != groups()) {
      reject(errc::bad_shape, subject,
             std::string(what) + " are " + std::to_string(found_rows) + " x " +
                 std::to_string(found_groups) + ", need " + std::to_string(rows()) + " x " +
                 std::to_string(groups()));
    }
  }

  void check_codes(std::string_view subject) const {
    const int last = (1 << bits) - 1;
    for (index_t r = 0; r < rows(); ++r) {
      const std::uint8_t* const row = codes.data() + r * cols();
      unsigned seen = 0;
      for (index_t k = 0; k < cols(); ++k) seen |= row[k];
      if (seen <= static_cast<unsigned>(last)) continue;
      for (index_t k = 0; k < cols(); ++k) {
        if (row[k] > last) {
          reject(errc::bad_metadata, subject,
                 "the code of row " + std::to_string(r) + ", column " + std::to_string(k) + " is " +
                     std::to_string(row[k]) + ", needs 0 to " + std::to_string(last));
        }
      }
    }
  }

  void check_parameters(std::string_view subject, index_t r, index_t g) const {
    const float scale = scales(r, g);
    if (!std::isfinite(scale)) {
      reject(errc::non_finite, subject, place("the scale", r, g) + " is not finite");
    }
    if (nearest(stored_scale, scale) != scale) {
      reject(errc::bad_metadata, subject,
             place("the scale", r, g) + " is " + std::to_string(scale) + ", which no " +
                 name_of(stored_scale) + " holds");
    }
    if (symmetric()) return;
    const float z = zeros(r, g);
    if (!std::isfinite(z)) {
      reject(errc::non_finite, subject, place("the zero point", r, g) + " is not finite");
    }
    if (real_zeros) return;
    const auto last = static_cast<float>((1 << bits) - 1);
    if (!(z >= 0 && z <= last) || z != static_cast<float>(static_cast<int>(z))) {
      reject(errc::bad_metadata, subject,
             place("the zero point", r, g) + " is " + std::to_string(z) +
                 ", needs an integer from 0 to " + std::to_string((1 << bits) - 1));
    }
  }
};

using group_codes = basic_group_codes<arch::native>;

namespace detail {

template <class S, class Arch>
[[nodiscard]] S exact_scale(float v, const char* what, index_t r, index_t g,
                            std::string_view subject) {
  const S stored = S::nearest(v);
  if (!(stored.to_float() == v)) {
    throw_error(errc::bad_metadata, std::string(subject),
                std::string(what) + " of row " + std::to_string(r) + ", group " +
                    std::to_string(g) + " is " + std::to_string(v) +
                    ", which the planar matrix's type cannot hold");
  }
  return stored;
}

}  // namespace detail

/// The same weights in planes, every code kept; with group_of_column the columns are stored in
/// column_order().
///
/// Requires  w.validate() has passed.
/// Throws    bad_argument (G has other bits, a group size that a planar matrix does not take),
///           bad_shape (unequal groups), bad_metadata (a scale that S cannot hold, a zero point
///           that G cannot), out_of_memory.
template <group_grid G, scale_store S, class Arch>
[[nodiscard]] planar_matrix<G, S, Arch> to_planar(const basic_group_codes<Arch>& w,
                                                  executor_ref ex = serial,
                                                  std::string_view subject = "group_codes") {
  if (w.bits != G::bits) {
    throw_error(errc::bad_argument, std::string(subject),
                "codes have " + std::to_string(w.bits) + " bits, the planar matrix needs " +
                    std::to_string(int{G::bits}));
  }
  planar_matrix<G, S, Arch> out(w.rows(), w.cols(), {w.group_size});
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t g = 0; g < w.groups(); ++g) {
      (void)detail::exact_scale<S, Arch>(w.scales(r, g), "the scale", r, g, subject);
      const float z = w.zero(r, g);
      if constexpr (G::zeros == zero_points::real) {
        (void)detail::exact_scale<S, Arch>(z, "the zero point", r, g, subject);
      } else {
        const bool kept = G::zeros == zero_points::none
                              ? z == static_cast<float>(1 << (G::bits - 1))
                              : z >= 0 && z < static_cast<float>(1 << G::bits) &&
                                    z == static_cast<float>(static_cast<int>(z));
        if (!kept) {
          throw_error(errc::bad_metadata, std::string(subject),
                      "the zero point of row " + std::to_string(r) + ", group " +
                          std::to_string(g) + " is " + std::to_string(z) +
                          ", which the planar matrix's grid cannot hold");
        }
      }
    }
  }
  const bool ordered = !w.sequential();
  const tensor<std::int32_t, 1> order =
      ordered ? w.column_order(subject) : tensor<std::int32_t, 1>();
  if (ordered) out.set_column_order(order.view());
  tensor<std::uint8_t, 2> sorted;
  if (ordered) sorted = tensor<std::uint8_t, 2>(uninitialized, w.rows(), w.cols());
  auto body = [&](index_t begin, index_t end) noexcept {
    for (index_t r = begin; r < end; ++r) {
      const std::uint8_t* row = w.codes.data() + r * w.cols();
      if (ordered) {
        std::uint8_t* const in_order = sorted.data() + r * w.cols();
        for (index_t j = 0; j < w.cols(); ++j) in_order[j] = row[order(j)];
        row = in_order;
      }
      for (index_t g = 0; g < w.groups(); ++g) {
        const index_t j0 = g * w.group_size;
        const index_t n = w.cols() - j0 < w.group_size ? w.cols() - j0 : w.group_size;
        out.store(r, g, typename G::params{w.scales(r, g), w.zero(r, g)}, row + j0, n);
      }
    }
  };
  ex.for_range<decltype(body)&, Arch>(w.rows(), 16, body);
  return out;
}

/// The codes and params of a planar matrix; a column order becomes group_of_column.
///
/// Numerics  exact. Scales of types other than half and bfloat16 are kept as f32.
template <group_grid G, scale_store S, class Arch = arch::native>
requires requires(typename G::params p) { p.zero; }
[[nodiscard]] basic_group_codes<Arch> from_planar(planar_matrix_view<G, S> w,
                                                  executor_ref ex = serial) {
  basic_group_codes<Arch> out;
  out.bits = G::bits;
  out.group_size = w.group_size();
  out.stored_scale = std::is_same_v<S, half>       ? scale_type::f16
                     : std::is_same_v<S, bfloat16> ? scale_type::bf16
                                                   : scale_type::f32;
  out.real_zeros = G::zeros == zero_points::real;
  out.codes = tensor<std::uint8_t, 2>(uninitialized, w.rows(), w.cols());
  out.scales = tensor<float, 2>(uninitialized, w.rows(), w.groups());
  if (G::zeros != zero_points::none) {
    out.zeros = tensor<float, 2>(uninitialized, w.rows(), w.groups());
  }
  if (w.order() != nullptr) {
    out.group_of_column = tensor<std::int32_t, 1>(uninitialized, w.cols());
    for (index_t j = 0; j < w.cols(); ++j) {
      out.group_of_column(w.order()[j]) = static_cast<std::int32_t>(j / w.group_size());
    }
  }
  auto body = [&](index_t begin, index_t end) noexcept {
    for (index_t r = begin; r < end; ++r) {
      for (index_t g = 0; g < w.groups(); ++g) {
        const typename G::params p = w.group_params(r, g);
        out.scales(r, g) = p.scale;
        if (G::zeros != zero_points::none) out.zeros(r, g) = p.zero;
      }
      std::uint8_t* const row = out.codes.data() + r * w.cols();
      if (w.order() == nullptr) {
        w.template stored_codes<Arch>(r, 0, w.cols(), row);
      } else {
        for (index_t j = 0; j < w.cols(); ++j) {
          row[w.order()[j]] = static_cast<std::uint8_t>(w.stored_code(r, j));
        }
      }
    }
  };
  ex.for_range<decltype(body)&, Arch>(w.rows(), 16, body);
  return out;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
