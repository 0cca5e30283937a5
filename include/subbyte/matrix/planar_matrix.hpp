// SPDX-License-Identifier: Apache-2.0
/// A quantized matrix stored as planes: codes, one scale per group of any run-time size, and
/// optional zero points and column order.
#pragma once

#include <cstring>  // std::memcpy
#include <limits>
#include <string>
#include <utility>  // std::exchange

#include "subbyte/core/error.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/format/grid.hpp"
#include "subbyte/format/scale.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/matrix/scale_plane.hpp"
#include "subbyte/matrix/storage.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Names planar_matrix<G, S> as a target format: quantize<planar<int_grid<4>, half>>(w, {128}).
template <group_grid G, plane_scale S>
struct planar {
  using grid = G;
  using scale = S;
};

/// How the groups of a planar matrix lie.
struct planar_shape {
  /// Weights per scale along a row: a multiple of 8, or at least the row's length for one scale per
  /// row. The last group of a row may be short.
  index_t group_size;
};

namespace detail {

/// The element type of the plane of zero points. Real ones are never nested.
template <class G, class S>
using zero_of =
    std::conditional_t<G::zeros == zero_points::none, void,
                       std::conditional_t<G::zeros == zero_points::integer, std::uint8_t,
                                          std::conditional_t<is_nested_scale<S>, f32_scale, S>>>;

template <class Arch>
[[noreturn, gnu::cold, gnu::noinline]] void reject_group_size(index_t group_size, index_t cols) {
  throw_error<Arch>(errc::bad_argument, "group size",
                    std::to_string(group_size) + " for rows of " + std::to_string(cols) +
                        "; a positive multiple of 8, or the whole row, is required");
}

}  // namespace detail

/// W [rows, cols] in planes that live elsewhere; read only, never owns.
///
/// Layout   codes   row by row, each a bit stream with the least significant bits first (code j in
///                  bits j * G::bits and up), padded to a whole byte.
///          scales  S [rows, groups], or nested (matrix/scale_plane.hpp).
///          zeros   none, std::uint8_t or S [rows, groups], as G::zeros says.
///          order   null, or [cols]: stored column j is column order[j] of W, and groups are runs
///          of
///                  stored columns (GPTQ's act-order). position is its inverse.
template <class G, class S>
class planar_matrix_view {
  static_assert(group_grid<G>, "G is a grid: int_grid<Bits>, codebook_grid<C> or your own");
  static_assert(plane_scale<S>,
                "S stores scales: half, bfloat16, f32_scale, e8m0, ue4m3 or nested_scale");

 public:
  using grid = G;
  using scale = S;
  using params = typename G::params;
  using zero = detail::zero_of<G, S>;

  SUBBYTE_INLINE constexpr planar_matrix_view() noexcept = default;
  SUBBYTE_HD_INLINE constexpr planar_matrix_view(index_t rows, index_t cols, planar_shape shape,
                                                 const std::uint8_t* codes, scale_plane<S> scales,
                                                 const zero* zeros = nullptr,
                                                 const std::int32_t* order = nullptr,
                                                 const std::int32_t* position = nullptr) noexcept
      : rows_(rows),
        cols_(cols),
        group_size_(shape.group_size < cols ? shape.group_size : (cols > 0 ? cols : 1)),
        codes_(codes),
        scales_(scales),
        zeros_(zeros),
        order_(order),
        position_(position) {
    SUBBYTE_EXPECTS(rows >= 0 && cols >= 0 && shape.group_size > 0);
    SUBBYTE_EXPECTS(shape.group_size >= cols || shape.group_size % 8 == 0);
    SUBBYTE_EXPECTS((order == nullptr) == (position == nullptr));
  }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t cols() const noexcept { return cols_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t group_size() const noexcept {
    return group_size_;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t groups() const noexcept {
    return ceil_div(cols_, group_size_);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t row_bytes() const noexcept {
    return ceil_div(cols_ * G::bits, 8);
  }
  /// Everything that is stored: codes, scales, zero points and order, as they lie here.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t size_bytes() const noexcept {
    index_t zero_bytes = 0;
    if constexpr (G::zeros != zero_points::none) zero_bytes = sizeof(zero);
    return rows_ * (row_bytes() + groups() * zero_bytes) +
           scale_plane<S>::size_bytes(rows_ * groups()) +
           (order_ != nullptr ? cols_ * static_cast<index_t>(sizeof(std::int32_t)) : 0);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const std::uint8_t* codes() const noexcept {
    return codes_;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr scale_plane<S> scales() const noexcept {
    return scales_;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const zero* zeros() const noexcept { return zeros_; }
  /// Null, or the column that each stored column holds.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const std::int32_t* order() const noexcept {
    return order_;
  }
  /// Null, or the inverse of order().
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const std::int32_t* position() const noexcept {
    return position_;
  }

  /// The same planes with their columns as they are stored: products with it want x in that order.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr planar_matrix_view in_stored_order() const noexcept {
    return {rows_, cols_, {group_size_}, codes_, scales_, zeros_};
  }
  /// Rows [first, first + count) as a matrix of their own.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr planar_matrix_view row_range(
      index_t first, index_t count) const noexcept {
    SUBBYTE_EXPECTS(first >= 0 && count >= 0 && first + count <= rows_);
    const zero* zeros = nullptr;
    if constexpr (G::zeros != zero_points::none) zeros = zeros_ + first * groups();
    return {
        count, cols_,  {group_size_}, codes_ + first * row_bytes(), scales_.from(first * groups()),
        zeros, order_, position_};
  }

  /// The params of group g of row r.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr params group_params(index_t r,
                                                                index_t g) const noexcept {
    SUBBYTE_EXPECTS(r >= 0 && r < rows_ && g >= 0 && g < groups());
    return params_at(r * groups() + g);
  }
  /// The params of a group, counted through all rows.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr params params_at(index_t at) const noexcept {
    if constexpr (G::zeros == zero_points::integer) {
      return {scales_.at(at), static_cast<float>(zeros_[at])};
    } else if constexpr (G::zeros == zero_points::real) {
      return {scales_.at(at), zeros_[at].to_float()};
    } else if constexpr (requires { params{}.zero; }) {
      return {scales_.at(at), static_cast<float>(G::middle_code)};
    } else {
      return {scales_.at(at)};
    }
  }
  /// The code at stored column j of row r.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr int stored_code(index_t r, index_t j) const noexcept {
    SUBBYTE_EXPECTS(r >= 0 && r < rows_ && j >= 0 && j < cols_);
    const std::uint8_t* row = codes_ + r * row_bytes();
    const index_t bit = j * G::bits;
    const int shift = static_cast<int>(bit % 8);
    int word = row[bit / 8];
    if (shift + G::bits > 8) word |= row[bit / 8 + 1] << 8;
    return (word >> shift) & ((1 << G::bits) - 1);
  }

  /// The codes of row r at stored columns [j0, j0 + count), one per byte.
  template <class Arch = arch::native>
  void stored_codes(index_t r, index_t j0, index_t count, std::uint8_t* out) const noexcept {
    SUBBYTE_EXPECTS(j0 >= 0 && count >= 0 && j0 + count <= cols_);
    for (; count > 0 && j0 % 8 != 0; --count) {
      *out++ = static_cast<std::uint8_t>(stored_code(r, j0++));
    }
    // Eight codes are G::bits whole bytes.
    const std::uint8_t* bytes = codes_ + r * row_bytes() + j0 / 8 * G::bits;
    for (; count >= 8; count -= 8, j0 += 8, bytes += G::bits, out += 8) {
      std::uint64_t word = 0;
      std::memcpy(&word, bytes, static_cast<std::size_t>(G::bits));
      for (int i = 0; i < 8; ++i) {
        out[i] = static_cast<std::uint8_t>((word >> (G::bits * i)) & ((1U << G::bits) - 1));
      }
    }
    for (; count > 0; --count) *out++ = static_cast<std::uint8_t>(stored_code(r, j0++));
  }

  /// Weights [k0, k0 + count) of row r into out[0, count), in W's column order.
  ///
  /// Numerics  G::value of each code, the same bits on every compiler, arch and flag.
  /// Cost      with a column order each weight is gathered on its own; in_stored_order() is several
  ///           times quicker where x can be permuted instead.
  template <class Arch = arch::native>
  void decode_row(index_t r, index_t k0, index_t count, float* out) const noexcept {
    SUBBYTE_EXPECTS(k0 >= 0 && count >= 0 && k0 + count <= cols_);
    if (position_ != nullptr) {
      for (index_t i = 0; i < count; ++i) {
        const index_t j = position_[k0 + i];
        out[i] = G::value(stored_code(r, j), group_params(r, j / group_size_));
      }
      return;
    }
    constexpr index_t chunk = 256;
    std::uint8_t buffer[chunk];
    while (count > 0) {
      const index_t group = k0 / group_size_;
      index_t n = (group + 1) * group_size_ - k0;
      n = n < count ? n : count;
      const params p = group_params(r, group);
      for (index_t at = 0; at < n; at += chunk) {
        const index_t piece = n - at < chunk ? n - at : chunk;
        stored_codes<Arch>(r, k0 + at, piece, buffer);
        for (index_t i = 0; i < piece; ++i) out[at + i] = G::value(buffer[i], p);
      }
      k0 += n;
      out += n;
      count -= n;
    }
  }

 private:
  index_t rows_ = 0;
  index_t cols_ = 0;
  index_t group_size_ = 1;
  const std::uint8_t* codes_ = nullptr;
  scale_plane<S> scales_;
  const zero* zeros_ = nullptr;
  const std::int32_t* order_ = nullptr;
  const std::int32_t* position_ = nullptr;
};

/// Owns the planes of a [rows, cols] matrix, zero-filled at first; move-only. A quant_target,
/// unless its scales are nested: those are made from all scales at once, by nest_scales().
///
/// Throws  bad_shape for negative extents or a size beyond the address space; bad_argument for a
///         group size that is neither a multiple of 8 nor the whole row; out_of_memory.
template <class G, class S, class Arch>
class planar_matrix {
 public:
  using grid = G;
  using scale = S;
  using params = typename G::params;
  using zero = detail::zero_of<G, S>;

  SUBBYTE_INLINE planar_matrix() noexcept {}
  SUBBYTE_INLINE planar_matrix(index_t rows, index_t cols, planar_shape shape)
      : rows_(rows), cols_(cols) {
    if (shape.group_size <= 0 || (shape.group_size < cols && shape.group_size % 8 != 0)) {
      detail::reject_group_size<Arch>(shape.group_size, cols);
    }
    group_size_ = shape.group_size < cols ? shape.group_size : (cols > 0 ? cols : 1);
    memory_ = allocate();
  }
  SUBBYTE_INLINE planar_matrix(planar_matrix&& other) noexcept
      : rows_(std::exchange(other.rows_, 0)),
        cols_(std::exchange(other.cols_, 0)),
        group_size_(std::exchange(other.group_size_, 1)),
        memory_(std::exchange(other.memory_, nullptr)),
        ordered_(std::exchange(other.ordered_, false)) {}
  SUBBYTE_INLINE planar_matrix& operator=(planar_matrix&& other) noexcept {
    if (this != &other) {
      release();
      rows_ = std::exchange(other.rows_, 0);
      cols_ = std::exchange(other.cols_, 0);
      group_size_ = std::exchange(other.group_size_, 1);
      memory_ = std::exchange(other.memory_, nullptr);
      ordered_ = std::exchange(other.ordered_, false);
    }
    return *this;
  }
  planar_matrix(const planar_matrix&) = delete;
  planar_matrix& operator=(const planar_matrix&) = delete;
  SUBBYTE_INLINE ~planar_matrix() { release(); }

  [[nodiscard]] SUBBYTE_INLINE planar_matrix clone() const {
    planar_matrix copy(rows_, cols_, {group_size_});
    if (memory_ != nullptr) {
      std::memcpy(copy.memory_, memory_, static_cast<std::size_t>(total_bytes()));
    }
    copy.ordered_ = ordered_;
    return copy;
  }

  [[nodiscard]] SUBBYTE_INLINE planar_matrix_view<G, S> view() const& noexcept {
    const zero* zeros = nullptr;
    if constexpr (G::zeros != zero_points::none) zeros = zeros_plane();
    return {rows_,
            cols_,
            {group_size_},
            codes_plane(),
            scales(),
            zeros,
            ordered_ ? order_plane() : nullptr,
            ordered_ ? order_plane() + cols_ : nullptr};
  }
  planar_matrix_view<G, S> view() const&& = delete;

  [[nodiscard]] SUBBYTE_INLINE index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_INLINE index_t cols() const noexcept { return cols_; }
  [[nodiscard]] SUBBYTE_INLINE index_t group_size() const noexcept { return group_size_; }
  [[nodiscard]] SUBBYTE_INLINE index_t groups() const noexcept {
    return ceil_div(cols_, group_size_);
  }

  /// Makes stored column j column order[j] of W: what is stored from now on is in that order.
  ///
  /// Throws  bad_shape, bad_argument when order is no permutation of 0 .. cols - 1; there is no
  ///         column order then.
  template <class CheckArch = Arch>
  void set_column_order(vector_view<const std::int32_t> order) {
    std::int32_t* const stored = order_plane();
    std::int32_t* const position = stored + cols_;
    ordered_ = false;  // until the whole order has proved right
    if (order.size() != cols_) {
      throw_error(errc::bad_shape, "column order",
                  std::to_string(order.size()) + " entries for " + std::to_string(cols_) +
                      " columns; one per column is required");
    }
    for (index_t j = 0; j < cols_; ++j) position[j] = -1;
    for (index_t j = 0; j < cols_; ++j) {
      const std::int32_t column = order[j];
      if (column < 0 || column >= cols_ || position[column] >= 0) {
        throw_error(errc::bad_argument, "column order",
                    "entry " + std::to_string(j) + " is " + std::to_string(column) +
                        "; every column 0 to " + std::to_string(cols_ - 1) + " is required once");
      }
      stored[j] = column;
      position[column] = static_cast<std::int32_t>(j);
    }
    ordered_ = true;
  }

  /// Takes another matrix over with its scales quantized a second time; see
  /// matrix/scale_plane.hpp. `largest` is Inner's largest value that shall be used.
  ///
  /// Throws  what the constructor throws.
  template <class NestArch = Arch>
  [[nodiscard]] static planar_matrix nest_scales(const planar_matrix_view<G, f32_scale>& from,
                                                 float largest) requires(is_nested_scale<S>) {
    planar_matrix out(from.rows(), from.cols(), {from.group_size()});
    const index_t count = from.rows() * from.groups();
    if (count == 0) return out;
    std::memcpy(out.codes_plane(), from.codes(),
                static_cast<std::size_t>(from.rows() * from.row_bytes()));
    if constexpr (G::zeros != zero_points::none) {
      std::memcpy(out.zeros_plane(), from.zeros(), static_cast<std::size_t>(count) * sizeof(zero));
    }
    if (from.order() != nullptr) out.set_column_order({from.order(), from.cols()});
    float* const outer = out.outer_plane();
    static_assert(sizeof(f32_scale) == sizeof(float));
    outer[ceil_div(count, S::block)] = subbyte::nest_scales<NestArch, typename S::inner, S::block>(
        &from.scales().data()->value, count, largest,
        out.template scales_plane<typename S::inner>(), outer);
    return out;
  }

  /// G's params for n weights, rounded to what S and the zero points can hold.
  template <class FitArch>
  [[nodiscard]] static params fit(const float* w, const float* importance, index_t n) noexcept
      requires(!is_nested_scale<S>) {
    return storable(G::template fit<FitArch>(w, importance, n));
  }
  /// The params that p becomes when stored.
  [[nodiscard]] SUBBYTE_INLINE static params storable(params p) noexcept
      requires(!is_nested_scale<S>) {
    p.scale = stored_scale<S>(p.scale).to_float();
    if constexpr (G::zeros == zero_points::real) {
      p.zero = stored_scale<S>(p.zero).to_float();
    }
    return p;
  }
  [[nodiscard]] SUBBYTE_INLINE static int round(float v, index_t, const params& p) noexcept {
    return G::round(v, p);
  }
  [[nodiscard]] SUBBYTE_INLINE static float value(int code, index_t, const params& p) noexcept {
    return G::value(code, p);
  }
  /// Group g of row r from n codes, one per byte, for the group's stored columns.
  ///
  /// Requires  n is the group's length. Groups of different rows may be stored at the same time;
  ///           groups of one row too, as they share no byte.
  template <class StoreArch = Arch>
  void store(index_t r, index_t g, const params& p, const std::uint8_t* codes, index_t n) noexcept {
    SUBBYTE_EXPECTS(r >= 0 && r < rows_ && g >= 0 && g < groups());
    SUBBYTE_EXPECTS(
        n == (cols_ - g * group_size_ < group_size_ ? cols_ - g * group_size_ : group_size_));
    const index_t at = r * groups() + g;
    scales_plane()[at] = stored_scale<S>(p.scale);
    if constexpr (G::zeros == zero_points::integer) {
      zeros_plane()[at] = static_cast<std::uint8_t>(p.zero);
    } else if constexpr (G::zeros == zero_points::real) {
      zeros_plane()[at] = stored_scale<S>(p.zero);
    }
    std::uint8_t* bytes = codes_plane() + r * row_bytes() + g * group_size_ / 8 * G::bits;
    for (index_t i = 0; i < n; i += 8, bytes += G::bits) {
      const index_t count = n - i < 8 ? n - i : 8;
      std::uint64_t word = 0;
      for (index_t j = 0; j < count; ++j) {
        word |= static_cast<std::uint64_t>(codes[i + j]) << (G::bits * j);
      }
      std::memcpy(bytes, &word, static_cast<std::size_t>(ceil_div(count * G::bits, 8)));
    }
  }

 private:
  static constexpr index_t alignment = 64;

  [[nodiscard]] SUBBYTE_INLINE index_t row_bytes() const noexcept {
    return ceil_div(cols_ * G::bits, 8);
  }
  [[nodiscard]] SUBBYTE_INLINE static index_t aligned(index_t bytes) noexcept {
    return ceil_div(bytes, alignment) * alignment;
  }
  [[nodiscard]] SUBBYTE_INLINE static constexpr index_t zero_bytes() noexcept {
    if constexpr (G::zeros == zero_points::none) {
      return 0;
    } else {
      return sizeof(zero);
    }
  }
  // The planes, in this order in one piece of memory.
  [[nodiscard]] SUBBYTE_INLINE index_t scales_at() const noexcept {
    return aligned(rows_ * row_bytes());
  }
  [[nodiscard]] SUBBYTE_INLINE index_t zeros_at() const noexcept {
    // One plane of nested scales is aligned within.
    constexpr index_t slack = is_nested_scale<S> ? alignment : 0;
    return scales_at() + aligned(scale_plane<S>::size_bytes(rows_ * groups()) + slack);
  }
  [[nodiscard]] SUBBYTE_INLINE index_t order_at() const noexcept {
    return zeros_at() + aligned(rows_ * groups() * zero_bytes());
  }
  [[nodiscard]] SUBBYTE_INLINE index_t total_bytes() const noexcept {
    return order_at() + 2 * cols_ * static_cast<index_t>(sizeof(std::int32_t));
  }
  [[nodiscard]] SUBBYTE_INLINE std::uint8_t* codes_plane() const noexcept { return memory_; }
  template <class Element = S>
  [[nodiscard]] SUBBYTE_INLINE Element* scales_plane() const noexcept {
    return reinterpret_cast<Element*>(memory_ + scales_at());
  }
  // Behind the codes of nested scales: one float per block, then the offset.
  [[nodiscard]] SUBBYTE_INLINE float* outer_plane() const noexcept {
    return reinterpret_cast<float*>(
        memory_ + scales_at() +
        aligned(rows_ * groups() * static_cast<index_t>(sizeof(typename S::inner))));
  }
  [[nodiscard]] SUBBYTE_INLINE scale_plane<S> scales() const noexcept {
    if constexpr (is_nested_scale<S>) {
      if (memory_ == nullptr) return {};
      const float* const outer = outer_plane();
      return {scales_plane<typename S::inner>(), outer,
              outer[ceil_div(rows_ * groups(), S::block)]};
    } else {
      return {scales_plane()};
    }
  }
  [[nodiscard]] SUBBYTE_INLINE zero* zeros_plane() const noexcept {
    return reinterpret_cast<zero*>(memory_ + zeros_at());
  }
  [[nodiscard]] SUBBYTE_INLINE std::int32_t* order_plane() const noexcept {
    return reinterpret_cast<std::int32_t*>(memory_ + order_at());
  }

  [[nodiscard]] SUBBYTE_INLINE std::uint8_t* allocate() const {
    constexpr const char* name = "planar matrix";
    // The planes take at most 14 bytes per weight, the order 8 per column.
    constexpr index_t limit = std::numeric_limits<index_t>::max() / 32;
    if (rows_ < 0 || cols_ < 0) {
      detail::reject_matrix<Arch>(name, rows_, cols_, "extents must not be negative");
    }
    if (cols_ > std::numeric_limits<std::int32_t>::max() || (cols_ != 0 && rows_ > limit / cols_)) {
      detail::reject_matrix<Arch>(name, rows_, cols_,
                                  "below 2^31 columns and 2^58 weights are required");
    }
    return detail::allocate_matrix<Arch>(name, rows_, cols_,
                                         static_cast<std::size_t>(total_bytes()),
                                         static_cast<std::size_t>(alignment));
  }
  SUBBYTE_INLINE void release() noexcept {
    detail::release_matrix(memory_, static_cast<std::size_t>(alignment));
  }

  index_t rows_ = 0;
  index_t cols_ = 0;
  index_t group_size_ = 1;
  std::uint8_t* memory_ = nullptr;
  bool ordered_ = false;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
