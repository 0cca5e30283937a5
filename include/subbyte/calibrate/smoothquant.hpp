// SPDX-License-Identifier: Apache-2.0
/// SmoothQuant: one scale per input channel that moves part of the activations' range into the
/// weights, so that both fit 8 bits.
#pragma once

#include <cmath>
#include <span>
#include <string>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/tensor/tensor.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// alpha  how much of the range moves into the weights: 0 none of the activations' (only the
///        weights are levelled), 1 all of it. 0.5 suits most models, 0.75 to 0.9 those with
///        larger outliers.
struct smoothquant_options {
  float alpha = 0.5F;
};

/// s_j = max |x_j|^alpha / max |w_j|^(1 - alpha): divide the input by s, multiply the columns of
/// every weight that reads it (fold_norm, fold_linear).
///
/// A channel whose activations or whose weights are all zero has nothing to balance: s_j = 1.
///
/// Shapes    weights: each [n, k], any number of them with one input; max_magnitude [k], the
///           largest |x_j| of calibration (input_statistics::max_magnitude); returns [k].
/// Numerics  the powers in double, rounded once; a scale stays within [2^-60, 2^60].
/// Cost      reads the weights once, parallel over columns.
/// Throws    bad_shape; bad_argument for alpha outside [0, 1], no weight, or a negative magnitude;
///           non_finite for NaN or Inf in weights or magnitudes.
/// Source    SmoothQuant (Xiao et al. 2023), equation 4.
template <class Arch = arch::native>
[[nodiscard]] tensor<float, 1> smooth_scale(std::span<const matrix_view<const float>> weights,
                                            vector_view<const float> max_magnitude,
                                            const smoothquant_options& options = {},
                                            executor_ref ex = serial) {
  const index_t k = max_magnitude.size();
  if (!(options.alpha >= 0 && options.alpha <= 1)) {
    throw_error(errc::bad_argument, "alpha",
                std::to_string(options.alpha) + "; a number from 0 to 1 is required");
  }
  if (weights.empty()) {
    throw_error(errc::bad_argument, "weights", "none; at least one is required");
  }
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].extent(1) != k) {
      throw_error(errc::bad_shape, "weights",
                  "weight " + std::to_string(i) + " has " + std::to_string(weights[i].extent(1)) +
                      " columns, the activations have " + std::to_string(k) + " channels");
    }
  }
  for (index_t j = 0; j < k; ++j) {
    const float m = max_magnitude[j];
    if (m >= 0 && std::isfinite(m)) continue;
    throw_error(m < 0 ? errc::bad_argument : errc::non_finite, "max_magnitude",
                "channel " + std::to_string(j) + " holds " + std::to_string(m) +
                    "; a finite number of at least 0 is required");
  }
  tensor<float, 1> scale(k);
  constexpr index_t panel = 64;
  const double alpha = static_cast<double>(options.alpha);
  ex.for_range((k + panel - 1) / panel, 1, [&](index_t begin, index_t end) noexcept {
    for (index_t p = begin; p < end; ++p) {
      const index_t first = p * panel;
      const index_t count = k - first < panel ? k - first : panel;
      float largest[panel] = {};
      float poison[panel] = {};  // NaN once a weight is NaN or Inf
      for (const auto& w : weights) {
        for (index_t r = 0; r < w.extent(0); ++r) {
          const float* const row = w.data() + r * k + first;
          for (index_t j = 0; j < count; ++j) {
            const float magnitude = row[j] < 0 ? -row[j] : row[j];
            largest[j] = magnitude > largest[j] ? magnitude : largest[j];
            poison[j] += row[j] - row[j];
          }
        }
      }
      for (index_t j = 0; j < count; ++j) {
        double s = 1;
        if (poison[j] != 0) {
          s = 0;  // reported below
        } else if (largest[j] > 0 && max_magnitude[first + j] > 0) {
          s = std::pow(static_cast<double>(max_magnitude[first + j]), alpha) /
              std::pow(static_cast<double>(largest[j]), 1 - alpha);
          s = s < 0x1p-60 ? 0x1p-60 : (s > 0x1p60 ? 0x1p60 : s);
        }
        scale(first + j) = static_cast<float>(s);
      }
    }
  });
  for (index_t j = 0; j < k; ++j) {
    if (scale(j) == 0) {
      throw_error(errc::non_finite, "weights",
                  "column " + std::to_string(j) + " holds NaN or Inf; finite weights are required");
    }
  }
  return scale;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
