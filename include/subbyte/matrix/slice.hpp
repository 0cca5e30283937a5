// SPDX-License-Identifier: Apache-2.0
/// Columns cut out of quantized matrices, and matrices put side by side or on top of each other,
/// without requantizing: what tensor parallelism and fused projections do. (Rows are cut without a
/// copy, by the views' row_range.)
#pragma once

#include <cstring>  // std::memcpy
#include <span>
#include <string>
#include <vector>

#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/planar_matrix.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

SUBBYTE_INLINE void check_cut(index_t first, index_t count, index_t cols, index_t group) {
  if (first < 0 || count < 0 || count > cols || first > cols - count) {
    throw_error(errc::bad_shape, "column slice",
                "columns " + std::to_string(first) + " to " + std::to_string(first + count) +
                    " of " + std::to_string(cols));
  }
  const index_t end = first + count;
  if (first % group != 0 || (end % group != 0 && end != cols)) {
    throw_error(errc::layout_rejected, "column slice",
                "columns " + std::to_string(first) + " to " + std::to_string(end) +
                    " cut a group; multiples of " + std::to_string(group) + " are required");
  }
}

SUBBYTE_INLINE void check_joint(const char* what, index_t found, index_t required) {
  if (found != required) {
    throw_error(errc::bad_shape, "concatenation",
                std::string(what) + " " + std::to_string(found) + " beside " +
                    std::to_string(required) + "; equal ones are required");
  }
}

// A part ends inside a group: the next one's columns would have to join it.
SUBBYTE_INLINE void check_whole_groups(index_t cols, index_t group) {
  if (cols % group != 0) {
    throw_error(errc::layout_rejected, "concatenation",
                std::to_string(cols) + " columns before others; a multiple of the group of " +
                    std::to_string(group) + " is required");
  }
}

// Every group of `from` into rows [row, ...) and groups [group, ...) of `to`.
template <class Arch, class G, class S>
void copy_groups(const planar_matrix_view<G, S>& from, index_t first, index_t count,
                 planar_matrix<G, S, Arch>& to, index_t row, index_t group) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(from.group_size()));
  for (index_t r = 0; r < from.rows(); ++r) {
    for (index_t g = first; g < first + count; ++g) {
      const index_t j0 = g * from.group_size();
      const index_t n = from.cols() - j0 < from.group_size() ? from.cols() - j0 : from.group_size();
      from.template stored_codes<Arch>(r, j0, n, codes.data());
      to.store(row + r, group + g - first, from.group_params(r, g), codes.data(), n);
    }
  }
}

template <class G, class S>
[[nodiscard]] SUBBYTE_INLINE bool same_order(const planar_matrix_view<G, S>& a,
                                             const planar_matrix_view<G, S>& b) noexcept {
  if ((a.order() == nullptr) != (b.order() == nullptr)) return false;
  return a.order() == nullptr ||
         std::memcmp(a.order(), b.order(),
                     static_cast<std::size_t>(a.cols()) * sizeof(std::int32_t)) == 0;
}

}  // namespace detail

/// Columns [first, first + count) as a matrix of their own.
///
/// Throws  bad_shape outside the matrix; layout_rejected for a cut inside a block.
template <class Arch = arch::native, class F>
[[nodiscard]] block_matrix<F, Arch> slice_columns(block_matrix_view<F> w, index_t first,
                                                  index_t count) {
  detail::check_cut(first, count, w.cols(), F::block_size);
  block_matrix<F, Arch> out(w.rows(), count);
  const auto bytes = static_cast<std::size_t>(out.view().blocks_per_row()) * sizeof(F);
  if (bytes == 0) return out;
  for (index_t r = 0; r < w.rows(); ++r) {
    std::memcpy(static_cast<void*>(out.row(r)), w.row(r) + first / F::block_size, bytes);
  }
  return out;
}

/// Columns [first, first + count) as a matrix of their own.
///
/// Throws  bad_shape outside the matrix; layout_rejected for a cut inside a group, and for a matrix
///         with a column order, whose groups hold columns from everywhere.
template <class Arch = arch::native, class G, class S>
[[nodiscard]] planar_matrix<G, S, Arch> slice_columns(planar_matrix_view<G, S> w, index_t first,
                                                      index_t count) {
  detail::check_cut(first, count, w.cols(), w.group_size());
  if (w.order() != nullptr && count != w.cols()) {
    throw_error(errc::layout_rejected, "column slice",
                "the matrix has a column order (act-order); slice in_stored_order() instead");
  }
  planar_matrix<G, S, Arch> out(w.rows(), count, {w.group_size()});
  if (w.order() != nullptr) out.set_column_order({w.order(), w.cols()});
  detail::copy_groups(w, first / w.group_size(), out.groups(), out, 0, 0);
  return out;
}

/// The rows of all parts, in order: fused q/k/v or gate/up.
///
/// Throws  bad_argument without parts; bad_shape unless all have the same columns.
template <class Arch = arch::native, class F>
[[nodiscard]] block_matrix<F, Arch> concatenate_rows(std::span<const block_matrix_view<F>> parts) {
  if (parts.empty()) throw_error(errc::bad_argument, "concatenation", "no parts");
  index_t rows = 0;
  for (const block_matrix_view<F>& part : parts) {
    detail::check_joint("columns:", part.cols(), parts[0].cols());
    rows += part.rows();
  }
  block_matrix<F, Arch> out(rows, parts[0].cols());
  index_t row = 0;
  for (const block_matrix_view<F>& part : parts) {
    if (part.size_bytes() == 0) continue;
    std::memcpy(static_cast<void*>(out.row(row)), part.data(),
                static_cast<std::size_t>(part.size_bytes()));
    row += part.rows();
  }
  return out;
}

/// The rows of all parts, in order.
///
/// Throws  bad_argument without parts; bad_shape unless all have the same columns and group size;
///         layout_rejected unless all have the same column order.
template <class Arch = arch::native, class G, class S>
[[nodiscard]] planar_matrix<G, S, Arch> concatenate_rows(
    std::span<const planar_matrix_view<G, S>> parts) {
  if (parts.empty()) throw_error(errc::bad_argument, "concatenation", "no parts");
  const planar_matrix_view<G, S>& model = parts[0];
  index_t rows = 0;
  for (const planar_matrix_view<G, S>& part : parts) {
    detail::check_joint("columns:", part.cols(), model.cols());
    detail::check_joint("group size", part.group_size(), model.group_size());
    if (!detail::same_order(part, model)) {
      throw_error(errc::layout_rejected, "concatenation",
                  "the parts have different column orders (act-order); equal ones are required");
    }
    rows += part.rows();
  }
  planar_matrix<G, S, Arch> out(rows, model.cols(), {model.group_size()});
  if (model.order() != nullptr) out.set_column_order({model.order(), model.cols()});
  index_t row = 0;
  for (const planar_matrix_view<G, S>& part : parts) {
    detail::copy_groups(part, 0, part.groups(), out, row, 0);
    row += part.rows();
  }
  return out;
}

/// The columns of all parts, in order: the slices of a row-parallel layer put together.
///
/// Throws  bad_argument without parts; bad_shape unless all have the same rows; layout_rejected
/// when
///         a part before the last ends inside a block.
template <class Arch = arch::native, class F>
[[nodiscard]] block_matrix<F, Arch> concatenate_columns(
    std::span<const block_matrix_view<F>> parts) {
  if (parts.empty()) throw_error(errc::bad_argument, "concatenation", "no parts");
  index_t cols = 0;
  for (const block_matrix_view<F>& part : parts) {
    detail::check_joint("rows:", part.rows(), parts[0].rows());
    detail::check_whole_groups(cols, F::block_size);
    cols += part.cols();
  }
  block_matrix<F, Arch> out(parts[0].rows(), cols);
  index_t block = 0;
  for (const block_matrix_view<F>& part : parts) {
    const auto bytes = static_cast<std::size_t>(part.blocks_per_row()) * sizeof(F);
    for (index_t r = 0; r < part.rows() && bytes != 0; ++r) {
      std::memcpy(static_cast<void*>(out.row(r) + block), part.row(r), bytes);
    }
    block += part.blocks_per_row();
  }
  return out;
}

/// The columns of all parts, in order; the parts' column orders are put behind each other too.
///
/// Throws  bad_argument without parts; bad_shape unless all have the same rows and group size (the
///         last part may be shorter than a group); layout_rejected when a part before the last ends
///         inside a group.
template <class Arch = arch::native, class G, class S>
[[nodiscard]] planar_matrix<G, S, Arch> concatenate_columns(
    std::span<const planar_matrix_view<G, S>> parts) {
  if (parts.empty()) throw_error(errc::bad_argument, "concatenation", "no parts");
  const index_t group = parts[0].group_size();
  index_t cols = 0;
  bool ordered = false;
  for (const planar_matrix_view<G, S>& part : parts) {
    detail::check_joint("rows:", part.rows(), parts[0].rows());
    const bool short_last = &part == &parts.back() && part.cols() < group;
    if (!short_last) detail::check_joint("group size", part.group_size(), group);
    detail::check_whole_groups(cols, group);
    cols += part.cols();
    ordered = ordered || part.order() != nullptr;
  }
  planar_matrix<G, S, Arch> out(parts[0].rows(), cols, {group});
  std::vector<std::int32_t> order;
  index_t first = 0;
  for (const planar_matrix_view<G, S>& part : parts) {
    for (index_t j = 0; j < part.cols() && ordered; ++j) {
      const index_t column = part.order() != nullptr ? part.order()[j] : j;
      order.push_back(static_cast<std::int32_t>(first + column));
    }
    detail::copy_groups(part, 0, part.groups(), out, 0, first / group);
    first += part.cols();
  }
  if (ordered) out.set_column_order(order);
  return out;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
