// SPDX-License-Identifier: Apache-2.0
/// Weights that no model has: blocks whose scales or values are Inf or NaN, magnitudes out of all
/// range, tensors of zeros.
#pragma once

#include <cstdio>  // std::snprintf: the shortest form of a float
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "subbyte/core/bits.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/format/concepts.hpp"
#include "subbyte/io/diagnostics.hpp"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/row_scaled_matrix.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// What is wrong with a file, or only strange in it.
template <class Arch>
struct basic_finding {
  bool fault = true;    ///< false: a note, nothing that stops an engine
  std::string subject;  ///< a tensor or a key, safe to print; empty: the whole file
  index_t row = -1;     ///< of a tensor, or -1
  index_t block = -1;   ///< within the row; of formats without blocks the weight; or -1
  std::string message;

  /// "blk.0.ffn_up.weight, row 3, block 7: the scale is nan", in one line.
  [[nodiscard]] std::string text() const {
    std::string out = subject;
    if (row >= 0) out += ", row " + std::to_string(row);
    if (block >= 0) out += ", block " + std::to_string(block);
    return out + (out.empty() ? "" : ": ") + message;
  }
};
using finding = basic_finding<arch::native>;

struct value_check_options {
  /// Magnitudes above this are faults: far above any weight, far below what overflows in a product.
  float largest = 1e6F;
  /// At most so many findings of one kind for one tensor; the last says how many blocks there are.
  index_t findings_per_tensor = 4;
};

namespace detail {

inline constexpr index_t most_kept_places = 16;

/// Blocks of one kind: how many, and the first of them.
struct block_places {
  index_t count = 0;
  index_t kept = 0;
  index_t row[most_kept_places];
  index_t block[most_kept_places];
  const char* what[most_kept_places];  // of this block in particular; or null

  SUBBYTE_INLINE block_places() noexcept {}
  SUBBYTE_INLINE void add(index_t r, index_t b, const char* w) noexcept {
    ++count;
    if (kept == most_kept_places) return;
    row[kept] = r;
    block[kept] = b;
    what[kept] = w;
    ++kept;
  }
  /// Those of later rows.
  SUBBYTE_INLINE void append(const block_places& later) noexcept {
    const index_t total = count + later.count;
    for (index_t i = 0; i < later.kept; ++i) add(later.row[i], later.block[i], later.what[i]);
    count = total;
  }
};

struct value_scan {
  block_places not_finite;
  block_places too_large;
  float largest = 0;  // of the finite magnitudes
  bool any_weight = false;
  bool any_nonzero = false;

  SUBBYTE_INLINE void append(const value_scan& later) noexcept {
    not_finite.append(later.not_finite);
    too_large.append(later.too_large);
    if (later.largest > largest) largest = later.largest;
    any_weight = any_weight || later.any_weight;
    any_nonzero = any_nonzero || later.any_nonzero;
  }
};

/// The n > 0 weights of one block, `block` of row r; what is Inf or NaN among its scales, or null.
template <class Arch>
void scan_weights(const float* w, index_t n, index_t r, index_t block, const char* bad_scale,
                  float limit, value_scan& scan) noexcept {
  bool finite = bad_scale == nullptr;
  float largest = 0;
  for (index_t i = 0; i < n; ++i) {
    const std::uint32_t magnitude = bit_cast<std::uint32_t>(w[i]) & 0x7FFFFFFFU;
    if (magnitude >= 0x7F800000U) {
      finite = false;
    } else if (bit_cast<float>(magnitude) > largest) {
      largest = bit_cast<float>(magnitude);
    }
  }
  scan.any_weight = true;
  if (largest != 0 || !finite) scan.any_nonzero = true;
  if (largest > scan.largest) scan.largest = largest;
  if (!finite) {
    scan.not_finite.add(r, block, bad_scale);
  } else if (largest > limit) {
    scan.too_large.add(r, block, nullptr);
  }
}

/// A matrix of any type, for a scan that is compiled once for all of them: scan() of `count` rows
/// from `first` on.
struct row_scanner {
  const void* matrix;
  void (*scan)(const void* matrix, index_t first, index_t count, float limit,
               value_scan& scan) noexcept;
};

/// All rows, in pieces that depend on their number alone.
template <class Arch>
value_scan scan_all_rows(row_scanner scanner, index_t rows, float limit, executor_ref ex) {
  constexpr index_t most_pieces = 64;
  const index_t piece = rows > most_pieces ? ceil_div(rows, most_pieces) : 1;
  const index_t pieces = ceil_div(rows, piece);
  std::vector<value_scan> scans(static_cast<std::size_t>(pieces));
  ex.for_range(pieces, 1, [&](index_t begin, index_t end) noexcept {
    for (index_t p = begin; p < end; ++p) {
      const index_t first = p * piece;
      const index_t count = rows - first < piece ? rows - first : piece;
      scanner.scan(scanner.matrix, first, count, limit, scans[static_cast<std::size_t>(p)]);
    }
  });
  value_scan all;
  for (const value_scan& scan : scans) all.append(scan);
  return all;
}

/// Whether a number of any of the library's types is Inf or NaN.
template <class T>
[[nodiscard]] SUBBYTE_INLINE bool is_not_finite(const T& number) noexcept {
  float value = 0;
  if constexpr (std::is_same_v<T, float>) {
    value = number;
  } else if constexpr (requires { number.to_float(); }) {
    value = number.to_float();
  }
  return (bit_cast<std::uint32_t>(value) & 0x7F800000U) == 0x7F800000U;
}

/// Which of a block's floating-point fields is Inf or NaN; null if none has such a name.
template <class F>
[[nodiscard]] SUBBYTE_INLINE const char* bad_field(const F& block) noexcept {
  if constexpr (requires { block.scale; }) {
    if (is_not_finite(block.scale)) return "the scale is Inf or NaN";
  }
  if constexpr (requires { block.minimum; }) {
    if (is_not_finite(block.minimum)) return "the minimum is Inf or NaN";
  }
  if constexpr (requires { block.scales[0].to_float(); }) {
    for (const auto& scale : block.scales) {
      if (is_not_finite(scale)) return "one of the scales is Inf or NaN";
    }
  }
  return nullptr;
}

template <class Arch>
[[nodiscard]] std::string float_text(float value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", static_cast<double>(value));
  return text;
}

/// One finding for each place that is kept; `otherwise` where the place does not say what is wrong.
template <class Arch>
void report_places(const block_places& places, std::string_view name,
                   const value_check_options& options, const std::string& otherwise,
                   std::vector<basic_finding<Arch>>& out) {
  index_t limit = options.findings_per_tensor < 1 ? 1 : options.findings_per_tensor;
  if (limit > places.kept) limit = places.kept;
  for (index_t i = 0; i < limit; ++i) {
    std::string text = places.what[i] != nullptr ? places.what[i] : otherwise;
    if (i + 1 == limit && places.count > limit) {
      text += "; " + std::to_string(places.count) + " such blocks in all";
    }
    out.push_back({true, printable<Arch>(name), places.row[i], places.block[i], std::move(text)});
  }
}

/// `not_finite`: what is wrong with a block whose scales are finite, but not all of its weights.
template <class Arch>
void report_scan(const value_scan& scan, const std::string& not_finite, std::string_view name,
                 const value_check_options& options, std::vector<basic_finding<Arch>>& out) {
  report_places<Arch>(scan.not_finite, name, options, not_finite, out);
  report_places<Arch>(scan.too_large, name, options,
                      "a magnitude above " + float_text<Arch>(options.largest) +
                          ", the largest of the tensor is " + float_text<Arch>(scan.largest),
                      out);
  if (scan.any_weight && !scan.any_nonzero) {
    out.push_back({false, printable<Arch>(name), -1, -1, "every weight is zero"});
  }
}

/// What is Inf or NaN among the scales of a block, or null.
template <class F>
[[nodiscard]] SUBBYTE_INLINE const char* bad_field_at(const block_matrix_view<F>& w, index_t row,
                                                      index_t block) noexcept {
  return bad_field(w.row(row)[block]);
}
template <class F>
[[nodiscard]] SUBBYTE_INLINE const char* bad_field_at(const row_scaled_matrix_view<F>& w,
                                                      index_t row, index_t) noexcept {
  const float scale = w.scale(row).to_float();
  return scale - scale != 0 ? "the row's scale is Inf or NaN" : nullptr;
}

template <class View, class Arch>
struct rows_of {
  static void scan(const void* matrix, index_t first, index_t count, float limit,
                   value_scan& scan) noexcept {
    using F = typename View::format;
    const View& w = *static_cast<const View*>(matrix);
    for (index_t r = first; r < first + count; ++r) {
      for (index_t b = 0; b < w.blocks_per_row(); ++b) {
        float values[static_cast<std::size_t>(F::block_size)];
        const index_t left = w.cols() - b * F::block_size;
        const index_t n = left < F::block_size ? left : F::block_size;
        w.template decode_row<Arch>(r, b * F::block_size, n, values);
        scan_weights<Arch>(values, n, r, b, bad_field_at(w, r, b), limit, scan);
      }
    }
  }
};

}  // namespace detail

/// Adds what is wrong with the blocks of a matrix, in the order of its rows: blocks that decode to
/// Inf or NaN or hold a scale or minimum that is, and magnitudes above options.largest; as a note,
/// a matrix of zeros.
///
/// w: a block_matrix_view or a row_scaled_matrix_view.
///
/// Numerics  the same findings for any executor.
/// Cost      decodes every block once; no memory beyond the findings and 64 times 816 bytes.
/// Throws    what the executor throws.
/// Source    the first rule is that of ggml_validate_row_data, src/ggml-quants.c at d99724f2, which
///           looks at the stored scales alone.
template <class View, class Arch = arch::native>
requires requires { typename View::format; }
void check_values(const View& w, std::string_view name, std::vector<basic_finding<Arch>>& out,
                  const value_check_options& options = {}, executor_ref ex = serial) {
  const detail::value_scan scan = detail::scan_all_rows<Arch>(
      {&w, &detail::rows_of<View, Arch>::scan}, w.rows(), options.largest, ex);
  const bool blocks = View::format::block_size > 1;
  detail::report_scan<Arch>(scan, blocks ? "weights are Inf or NaN" : "the weight is Inf or NaN",
                            name, options, out);
}

/// The same for rows of floats that read(first, count, out) gives; the block of a finding is the
/// number of a float in its row, and `what` what the floats are.
///
/// Cost    memory: one row.
/// Throws  what read() throws.
template <class Arch = arch::native, class Read>
void check_values(index_t rows, index_t cols, const Read& read, std::string_view name,
                  std::vector<basic_finding<Arch>>& out, const value_check_options& options = {},
                  const std::string& what = "weight") {
  detail::value_scan scan;
  std::vector<float> row(static_cast<std::size_t>(cols));
  for (index_t r = 0; r < rows; ++r) {
    read(r, index_t{1}, row.data());
    for (index_t k = 0; k < cols; ++k) {
      detail::scan_weights<Arch>(row.data() + k, 1, r, k, nullptr, options.largest, scan);
    }
  }
  detail::report_scan<Arch>(scan, "the " + what + " is Inf or NaN", name, options, out);
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
