// SPDX-License-Identifier: Apache-2.0
/// How far an estimate is from its signal: MSE, NMSE, relative RMSE, SQNR, MAE, largest error,
/// cosine.
#pragma once

#include <cmath>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/bits.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The usual figures for x (signal) and e = x - estimate, from error_sums::report().
///
/// No elements count as an exact estimate of a zero signal. A NaN or Inf in the data gives NaN or
/// Inf in the figures that it enters.
struct error_report {
  index_t count;         ///< elements
  double mse;            ///< mean e^2
  double nmse;           ///< sum e^2 / sum x^2; 0 if e is zero, +inf if only x is
  double relative_rmse;  ///< sqrt(nmse): the relative Frobenius error
  double sqnr_db;        ///< -10 log10(nmse); +inf if e is zero, -inf if only x is
  double mae;            ///< mean |e|
  double max_abs;        ///< max |e|
  double cosine;  ///< <x, estimate> / (|x| |estimate|); 1 if both are zero, 0 if one of them is
};

/// Sums from which every figure of an error_report follows.
///
/// Numerics  double. Merging partial sums in a fixed order gives the same bits for any number of
///           threads; builds that contract multiply-adds differ in the last bits.
struct error_sums {
  index_t count = 0;
  double squared_error = 0;
  double absolute_error = 0;
  double largest_error = 0;
  double squared_signal = 0;
  double squared_estimate = 0;
  double product = 0;

  SUBBYTE_INLINE constexpr error_sums() noexcept = default;

  /// Adds one pair.
  SUBBYTE_INLINE constexpr void add(float signal, float estimate) noexcept {
    const double x = static_cast<double>(signal);
    const double y = static_cast<double>(estimate);
    const double difference = x - y;
    const double magnitude = difference < 0 ? -difference : difference;
    ++count;
    squared_error += difference * difference;
    absolute_error += magnitude;
    keep_largest(magnitude);
    squared_signal += x * x;
    squared_estimate += y * y;
    product += x * y;
  }

  /// Adds vectors of the same length, in four interleaved partial sums.
  template <class Arch = arch::native>
  void add(vector_view<const float> signal, vector_view<const float> estimate) noexcept {
    SUBBYTE_EXPECTS(signal.size() == estimate.size());
    const index_t n = signal.size();
    const float* const x = signal.data();
    const float* const y = estimate.data();
    error_sums lanes[4];  // four chains of additions instead of one
    const index_t whole = n - n % 4;
    for (index_t i = 0; i < whole; i += 4) {
      for (int lane = 0; lane < 4; ++lane) lanes[lane].add(x[i + lane], y[i + lane]);
    }
    for (index_t i = whole; i < n; ++i) lanes[0].add(x[i], y[i]);
    for (const error_sums& lane : lanes) merge(lane);
  }

  /// Adds the sums of other elements.
  SUBBYTE_INLINE constexpr void merge(const error_sums& other) noexcept {
    count += other.count;
    squared_error += other.squared_error;
    absolute_error += other.absolute_error;
    keep_largest(other.largest_error);
    squared_signal += other.squared_signal;
    squared_estimate += other.squared_estimate;
    product += other.product;
  }

  [[nodiscard]] SUBBYTE_INLINE error_report report() const noexcept {
    const double n = count > 0 ? static_cast<double>(count) : 1.0;
    const double nmse = squared_error == 0 ? 0.0 : squared_error / squared_signal;
    // One square root of the product: it is exact for equal vectors, so their cosine is 1.
    const double norms = std::sqrt(squared_signal * squared_estimate);
    double cosine = 1;
    if (squared_signal != 0 || squared_estimate != 0) cosine = norms == 0 ? 0 : product / norms;
    if (cosine > 1) cosine = 1;
    if (cosine < -1) cosine = -1;
    return {count,
            squared_error / n,
            nmse,
            std::sqrt(nmse),
            -10.0 * std::log10(nmse),
            absolute_error / n,
            largest_error,
            cosine};
  }

 private:
  // A NaN, once seen, stays.
  SUBBYTE_INLINE constexpr void keep_largest(double magnitude) noexcept {
    if (magnitude > largest_error || magnitude != magnitude) largest_error = magnitude;
  }
};

namespace detail {

// Partial sums over pieces that depend on the count alone, merged in order.
template <class Arch, class Add>
SUBBYTE_INLINE error_sums sum_pieces(index_t n, index_t smallest_piece, executor_ref ex,
                                     const Add& add) {
  constexpr index_t most_pieces = 64;
  error_sums partial[most_pieces];
  const index_t share = ceil_div(n, most_pieces);
  const index_t piece = share > smallest_piece ? share : smallest_piece;
  const index_t pieces = ceil_div(n, piece);
  ex.for_range(pieces, 1, [&](index_t first, index_t last) noexcept {
    for (index_t i = first; i < last; ++i) {
      const index_t begin = i * piece;
      add(partial[i], begin, n - begin < piece ? n : begin + piece);
    }
  });
  error_sums total;
  for (index_t i = 0; i < pieces; ++i) total.merge(partial[i]);
  return total;
}

}  // namespace detail

/// The error of an estimate of a vector.
///
/// Shapes    signal [n]; estimate [n].
/// Numerics  double; the same bits for any executor.
/// Cost      reads both once; no allocation.
/// Throws    what the executor throws.
template <class Arch = arch::native>
[[nodiscard]] error_report measure_error(vector_view<const float> signal,
                                         vector_view<const float> estimate,
                                         executor_ref ex = serial) {
  SUBBYTE_EXPECTS(signal.size() == estimate.size());
  return detail::sum_pieces<Arch>(signal.size(), 4096, ex,
                                  [&](error_sums& sums, index_t begin, index_t end) noexcept {
                                    sums.add<Arch>({signal.data() + begin, end - begin},
                                                   {estimate.data() + begin, end - begin});
                                  })
      .report();
}

/// The error of an estimate of a matrix: of weights, or of outputs, |XW - XW'|^2 / |XW|^2 = nmse.
///
/// Shapes    signal [n, k]; estimate [n, k].
/// Numerics  double; the same bits for any executor.
/// Cost      reads both once; no allocation.
/// Throws    what the executor throws.
template <class Arch = arch::native>
[[nodiscard]] error_report measure_error(tensor_view<const float, 2, row_pitched> signal,
                                         tensor_view<const float, 2, row_pitched> estimate,
                                         executor_ref ex = serial) {
  SUBBYTE_EXPECTS(signal.extent(0) == estimate.extent(0));
  SUBBYTE_EXPECTS(signal.extent(1) == estimate.extent(1));
  return detail::sum_pieces<Arch>(signal.extent(0), 1, ex,
                                  [&](error_sums& sums, index_t begin, index_t end) noexcept {
                                    for (index_t row = begin; row < end; ++row) {
                                      sums.add<Arch>(signal[row], estimate[row]);
                                    }
                                  })
      .report();
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
