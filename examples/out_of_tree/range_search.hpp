// SPDX-License-Identifier: Apache-2.0
/// The range of a block searched on a grid: a quantizer policy for every grid format, also those of
/// others.
#pragma once

#include <string>

#include "subbyte/core/error.hpp"
#include "subbyte/quantize/concepts.hpp"

namespace out_of_tree {

/// Fits each block's params to the weights times factors between `smallest` and `largest`, so that
/// they clip the outliers or leave room for them, rounds the weights to each, and keeps what has
/// the least squared error: never more than fitting and rounding alone, the first candidate.
struct range_search {
  int steps = 24;
  float smallest = 0.5F;
  float largest = 1.25F;
  subbyte::non_finite on_non_finite = subbyte::non_finite::reject;

  template <subbyte::grid_format F, class Arch>
  subbyte::policy_report apply(subbyte::weights_view w, subbyte::block_matrix<F, Arch>& target,
                               subbyte::executor_ref executor) const {
    if (steps < 2 || !(smallest > 0 && smallest <= largest && largest <= 4)) {
      subbyte::throw_error(subbyte::errc::bad_argument, "range_search",
                           std::to_string(steps) + " steps from " + std::to_string(smallest) +
                               " to " + std::to_string(largest) +
                               "; at least 2, and factors in (0, 4], are required");
    }
    using subbyte::index_t;
    executor.for_range(w.extent(0), 8, [&](index_t begin, index_t end) noexcept {
      for (index_t r = begin; r < end; ++r) {
        F* block = target.row(r);
        for (index_t k = 0; k < w.extent(1); k += F::block_size) *block++ = encode<F>(w[r], k);
      }
    });
    return {};
  }

 private:
  template <class F>
  F encode(subbyte::tensor_view<const float, 1, subbyte::strided> row,
           subbyte::index_t first) const noexcept {
    float weights[F::block_size] = {};  // zeros past the end of the row
    for (int i = 0; i < F::block_size && first + i < row.extent(0); ++i) {
      const float weight = row[first + i];
      // NaN and Inf get here with non_finite::zero only.
      weights[i] = weight - weight == 0 ? weight : 0.0F;
    }
    typename F::params best_params{};
    typename F::codes best_codes{};
    double least = -1;
    for (int step = -1; step < steps; ++step) {
      const float part = static_cast<float>(step) / static_cast<float>(steps - 1);
      const float factor = step < 0 ? 1.0F : smallest + (largest - smallest) * part;
      float scaled[F::block_size];
      for (int i = 0; i < F::block_size; ++i) scaled[i] = factor * weights[i];
      const typename F::params params = F::fit(scaled, nullptr);
      typename F::codes codes{};
      double error = 0;
      for (int i = 0; i < F::block_size; ++i) {
        const int code = F::round(weights[i], i, params);
        codes[i] = static_cast<std::uint8_t>(code);
        const double difference = static_cast<double>(weights[i]) - F::value(code, i, params);
        error += difference * difference;
      }
      if (least < 0 || error < least) {
        least = error;
        best_params = params;
        best_codes = codes;
      }
    }
    return F::join(best_params, best_codes);
  }
};

}  // namespace out_of_tree
