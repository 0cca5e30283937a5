// SPDX-License-Identifier: Apache-2.0
/// The triangular factor of the inverse of a Hessian, which GPTQ and its relatives feed errors back
/// with: one reversed Cholesky factorisation and one triangular inversion, blocked.
#pragma once

#if !__has_include(<Eigen/Core>)
#error "subbyte/calibrate needs Eigen >= 3.4 on the include path (CMake: subbyte::calibrate)"
#endif

#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"  // g++ 12's own AVX-512 intrinsics, inlined
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <Eigen/Core>
#pragma GCC diagnostic pop
#include <limits>
#include <string>

#include "subbyte/core/bits.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/exec/progress.hpp"
#include "subbyte/tensor/tensor.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// A Hessian as policies take it: X^T X of a layer's input up to a positive factor, [k, k], in
/// float or in double, symmetric: whoever reads it may read either triangle.
///
/// Numerics  no factor changes a code: damping is relative to the mean of the diagonal.
class hessian_view {
 public:
  SUBBYTE_INLINE constexpr hessian_view() noexcept = default;
  SUBBYTE_INLINE constexpr hessian_view(  // NOLINT: implicit, so that a view is an argument
      tensor_view<const float, 2, strided> values) noexcept
      : single_(values), rows_(values.extent(0)), cols_(values.extent(1)) {}
  SUBBYTE_INLINE constexpr hessian_view(  // NOLINT: implicit, so that a view is an argument
      tensor_view<const double, 2, strided> values) noexcept
      : double_(values), is_double_(true), rows_(values.extent(0)), cols_(values.extent(1)) {}
  template <class T, class Layout>
  SUBBYTE_INLINE constexpr hessian_view(  // NOLINT: implicit, so that a view is an argument
      const tensor_view<T, 2, Layout>& values) noexcept
      : hessian_view(tensor_view<const T, 2, strided>(values)) {}

  [[nodiscard]] SUBBYTE_INLINE constexpr index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_INLINE constexpr index_t cols() const noexcept { return cols_; }
  [[nodiscard]] SUBBYTE_INLINE constexpr bool empty() const noexcept {
    return rows_ == 0 || cols_ == 0;
  }
  [[nodiscard]] SUBBYTE_INLINE constexpr double operator()(index_t i, index_t j) const noexcept {
    return is_double_ ? double_(i, j) : static_cast<double>(single_(i, j));
  }

 private:
  tensor_view<const float, 2, strided> single_{};
  tensor_view<const double, 2, strided> double_{};
  bool is_double_ = false;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

/// How a factorisation ended.
struct cholesky_outcome {
  index_t failed_column = -1;  ///< the first pivot that was not positive; -1: none
  double pivot = 0;            ///< its value
  bool cancelled = false;

  [[nodiscard]] SUBBYTE_INLINE constexpr bool ok() const noexcept {
    return failed_column < 0 && !cancelled;
  }
};

namespace detail {

using eigen_rows_d = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
template <class Plain>
using eigen_pitched = Eigen::Map<Plain, Eigen::Unaligned, Eigen::OuterStride<>>;

/// Columns factorised together, and rows per piece of work: both are part of the result's bits.
inline constexpr index_t cholesky_panel = 128;
inline constexpr index_t cholesky_tile = 256;

/// The square at `a` (upper triangle of an [n, n] matrix of pitch `pitch`) becomes the inverse of
/// the upper triangular V with V V^T = a. Returns the first column, from the last one down, whose
/// pivot is not positive, or -1. `smallest` holds for every column what its pivot must exceed.
template <class Arch>
[[nodiscard]] index_t invert_square(double* a, index_t pitch, index_t n, const double* smallest,
                                    double& pivot) noexcept {
  double column[static_cast<std::size_t>(cholesky_panel)];
  for (index_t j = n - 1; j >= 0; --j) {
    pivot = a[j * pitch + j];
    if (!(pivot > smallest[j] && pivot <= std::numeric_limits<double>::max())) return j;
    const double root = __builtin_sqrt(pivot);
    a[j * pitch + j] = root;
    for (index_t i = 0; i < j; ++i) {
      column[i] = a[i * pitch + j] / root;
      a[i * pitch + j] = column[i];
    }
    for (index_t i = 0; i < j; ++i) {
      double* const row = a + i * pitch;
      const double factor = column[i];
      for (index_t c = i; c < j; ++c) row[c] -= factor * column[c];
    }
  }
  // Row i of the inverse is (e_i - sum over c > i of V_ic times row c of the inverse) / V_ii.
  double row[static_cast<std::size_t>(cholesky_panel)];
  for (index_t i = n - 1; i >= 0; --i) {
    const double inverse = 1.0 / a[i * pitch + i];
    // The products around here know no triangles and have written below the diagonal.
    for (index_t c = 0; c < i; ++c) a[i * pitch + c] = 0;
    for (index_t c = i + 1; c < n; ++c) {
      row[c] = a[i * pitch + c];
      a[i * pitch + c] = 0;
    }
    a[i * pitch + i] = inverse;
    for (index_t c = i + 1; c < n; ++c) {
      const double factor = -inverse * row[c];
      const double* const below = a + c * pitch;
      double* const out = a + i * pitch;
      for (index_t j = c; j < n; ++j) out[j] += factor * below[j];
    }
  }
  return -1;
}

}  // namespace detail

/// Replaces a symmetric positive definite H by the upper triangular U with U^T U = inverse(H).
///
/// With V the upper triangular factor of H = V V^T (Cholesky from the last column up), U is the
/// inverse of V: one factorisation and one triangular inversion, 1/3 k^3 multiply-adds in all
/// instead of the 2/3 k^3 of Cholesky, inverse, Cholesky.
///
/// Shapes    h [k, k], any pitch; the upper triangle is read, zeros are written below it.
/// Numerics  double; the same bits for any executor. A pivot must exceed k * 2^-52 of the column's
///           own diagonal element: what is left below that is rounding.
/// Cost      1/3 k^3 multiply-adds, nearly all in matrix products of Eigen's on fixed tiles that
///           the executor's threads share; 128 k doubles besides h.
/// Throws    out_of_memory. Failure is an outcome: h is then unspecified.
template <class Arch = arch::native>
[[nodiscard]] cholesky_outcome inverse_cholesky_into(tensor_view<double, 2, row_pitched> h,
                                                     executor_ref ex = serial,
                                                     progress_ref progress = {}) {
  SUBBYTE_EXPECTS(h.extent(0) == h.extent(1));
  using matrix = detail::eigen_rows_d;
  using map = detail::eigen_pitched<matrix>;
  constexpr index_t width = detail::cholesky_panel;
  constexpr index_t tile = detail::cholesky_tile;
  const index_t k = h.extent(0);
  const index_t pitch = h.stride(0);
  double* const a = h.data();
  cholesky_outcome outcome;
  if (k == 0) return outcome;
  const auto block = [a, pitch](index_t row, index_t col, index_t rows, index_t cols) noexcept {
    return map(a + row * pitch + col, rows, cols, Eigen::OuterStride<>(pitch));
  };
  const index_t panels = ceil_div(k, width);

  tensor<double, 2> panel(uninitialized, k, width);
  tensor<double, 1> smallest(uninitialized, k);
  const double relative = static_cast<double>(k) * 0x1p-52;
  for (index_t i = 0; i < k; ++i) smallest.data()[i] = relative * a[i * pitch + i];
  for (index_t i = 0; i < k; ++i) {
    for (index_t c = 0; c < i; ++c) a[i * pitch + c] = 0;
  }

  // Work left in units of panels squared: the cubes' derivative is close enough for a report.
  const auto done = [panels](index_t p, bool inverting) {
    const double part = static_cast<double>(p) / static_cast<double>(panels);
    // Factorising, panels come from the last one, with long products in the middle.
    return inverting ? 0.5 + 0.5 * part * part * part : 0.5 * part;
  };

  for (index_t p = panels - 1; p >= 0; --p) {
    const index_t begin = p * width;
    const index_t end = begin + width < k ? begin + width : k;
    const index_t cols = end - begin;
    const index_t behind = k - end;
    if (behind > 0) {
      ex.for_range(end, tile, [&](index_t first, index_t last) noexcept {
        for (index_t r = first; r < last; r += tile) {
          const index_t rows = last - r < tile ? last - r : tile;
          block(r, begin, rows, cols).noalias() -=
              block(r, end, rows, behind) * block(begin, end, cols, behind).transpose();
        }
      });
    }
    const index_t failed = detail::invert_square<Arch>(a + begin * pitch + begin, pitch, cols,
                                                       smallest.data() + begin, outcome.pivot);
    if (failed >= 0) {
      outcome.failed_column = begin + failed;
      return outcome;
    }
    const auto inverse = block(begin, begin, cols, cols);
    ex.for_range(begin, tile, [&](index_t first, index_t last) noexcept {
      for (index_t r = first; r < last; r += tile) {
        const index_t rows = last - r < tile ? last - r : tile;
        map copy(&panel(r, index_t{0}), rows, cols, Eigen::OuterStride<>(width));
        copy = block(r, begin, rows, cols);
        block(r, begin, rows, cols).noalias() = copy * inverse.transpose();
      }
    });
    if (!progress(done(panels - p, false))) {
      outcome.cancelled = true;
      return outcome;
    }
  }

  // The diagonal blocks hold U already; above them U_p = -U_left V_p U_pp, panel by panel.
  for (index_t p = 1; p < panels; ++p) {
    const index_t begin = p * width;
    const index_t cols = k - begin < width ? k - begin : width;
    const auto inverse = block(begin, begin, cols, cols);
    ex.for_range(begin, tile, [&](index_t first, index_t last) noexcept {
      for (index_t r = first; r < last; r += tile) {
        const index_t rows = last - r < tile ? last - r : tile;
        map(&panel(r, index_t{0}), rows, cols, Eigen::OuterStride<>(width)).noalias() =
            block(r, begin, rows, cols) * inverse;
      }
    });
    ex.for_range(begin, tile, [&](index_t first, index_t last) noexcept {
      for (index_t r = first; r < last; r += tile) {
        const index_t rows = last - r < tile ? last - r : tile;
        const map right(&panel(r, index_t{0}), begin - r, cols, Eigen::OuterStride<>(width));
        block(r, begin, rows, cols).noalias() = -(block(r, r, rows, begin - r) * right);
      }
    });
    if (!progress(done(p + 1, true))) {
      outcome.cancelled = true;
      return outcome;
    }
  }
  return outcome;
}

/// The upper triangular U with U^T U = inverse(H + damp * mean(diag H) * I), in memory of its own.
///
/// Shapes    h [k, k], of which the upper triangle is read; the result [k, k], zeros below the
///           diagonal.
/// Numerics  see inverse_cholesky_into.
/// Throws    bad_shape when h is not square; not_positive_definite, naming the column and the damp;
///           cancelled; out_of_memory.
template <class Arch = arch::native>
[[nodiscard]] tensor<double, 2> inverse_cholesky(hessian_view h, double damp,
                                                 executor_ref ex = serial,
                                                 progress_ref progress = {}) {
  if (h.rows() != h.cols()) {
    throw_error(errc::bad_shape, "hessian",
                std::to_string(h.rows()) + " x " + std::to_string(h.cols()) +
                    "; a square matrix is required");
  }
  const index_t k = h.rows();
  tensor<double, 2> u(uninitialized, k, k);
  double trace = 0;
  for (index_t i = 0; i < k; ++i) trace += h(i, i);
  const double added = k > 0 ? damp * trace / static_cast<double>(k) : 0.0;
  ex.for_range(k, 16, [&](index_t begin, index_t end) noexcept {
    for (index_t i = begin; i < end; ++i) {
      for (index_t j = i; j < k; ++j) u(i, j) = h(i, j);
      u(i, i) += added;
    }
  });
  const cholesky_outcome outcome =
      inverse_cholesky_into<Arch>(tensor_view<double, 2>(u.view()), ex, progress);
  if (outcome.cancelled) throw_error(errc::cancelled, "hessian", "the progress callback said stop");
  if (!outcome.ok()) {
    throw_error(errc::not_positive_definite, "hessian",
                "with damp " + std::to_string(damp) + " the pivot of column " +
                    std::to_string(outcome.failed_column) + " of " + std::to_string(k) + " is " +
                    std::to_string(outcome.pivot) +
                    "; a positive definite matrix or a larger damp is required");
  }
  return u;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
