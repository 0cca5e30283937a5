// SPDX-License-Identifier: Apache-2.0
/// Searches for the stored scale (and minimum) under which the nearest codes of one group of
/// weights have the least error.
///
/// Numerics  as search.hpp: defined operation by operation, one candidate per lane, the same bits
///           on every compiler, flag and CPU.
#pragma once

#include "subbyte/format/block_error.hpp"
#include "subbyte/format/levels.hpp"
#include "subbyte/format/search.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// v rounded to the 11 significant bits of fp16, whose range it may leave.
///
/// Source  T. J. Dekker, A floating-point technique for extending the available precision (1971):
///         the high half of a split.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, 16> to_11_bits(
    const float_lanes<Arch, 16>& v) noexcept {
  const auto scaled = unfused(v * float_lanes<Arch, 16>::broadcast(8193.0F));
  return scaled - (scaled - v);
}

/// The largest |x| of weight above 0, and the mean of |x| over all n.
struct magnitudes {
  float largest;
  float mean;
};
template <class Arch>
[[nodiscard]] magnitudes magnitudes_of(int n, const float* x, const float* weight) noexcept {
  using lanes = float_lanes<Arch, 16>;
  lanes sum = lanes::broadcast(0);
  lanes most = sum;
  const lanes zero = sum;
  for (int i = 0; i < n; i += 16) {
    const lanes size = magnitude(lanes::load(x + i));
    const lanes counted = select(lanes::load(weight + i) > zero, size, zero);
    most = select(counted > most, counted, most);
    sum = sum + size;
  }
  float sizes[16];
  most.store(sizes);
  for (int k = 1; k < 16; ++k) sizes[0] = sizes[k] > sizes[0] ? sizes[k] : sizes[0];
  return {sizes[0], lane_sum<Arch>(sum) / static_cast<float>(n)};
}

/// x ~ scale * level for n weights, a multiple of 16 and at most 256; Levels maps lanes of
/// x / scale to the nearest level's value.
template <class Arch, class Levels>
class scale_sweep {
  using lanes = float_lanes<Arch, 16>;

 public:
  SUBBYTE_INLINE scale_sweep(const Levels& levels, int n, const float* x,
                             const float* weight) noexcept
      : levels_(levels), n_(n), x_(x), weight_(weight) {}

  /// The errors of R times 16 scales.
  template <int R>
  void errors(const lanes (&scale)[R], lanes (&error)[R]) const noexcept {
    lanes inverse[R];
    for (int r = 0; r < R; ++r) {
      inverse[r] = inverse_or_zero(scale[r]);
      error[r] = lanes::broadcast(0);
    }
    for (int i = 0; i < n_; ++i) {
      const lanes x = lanes::broadcast(x_[i]);
      const lanes weight = lanes::broadcast(weight_[i]);
      for (int r = 0; r < R; ++r) {
        const lanes level = levels_(unfused(x * inverse[r]));
        const lanes difference = unfused(level * scale[r]) - x;
        error[r] = error[r] + unfused(difference * difference * weight);
      }
    }
  }

  /// A scale of 11 significant bits with magnitude from `least` to `most`: of candidates in
  /// geometric progression, and of closer ones around the best of them, the one of the least error.
  ///
  /// Requires  0 < least <= most.
  /// Cost      effort 1, 2, 3: 96, 160, 416 candidates.
  [[nodiscard]] float search(float least, float most, bool both_signs, int effort) const noexcept {
    // The ratio of neighbours: the 16th or 32nd root of most / least.
    float ratio = most / least;
    for (int root = both_signs ? 16 : 32; root > 1; root /= 2) ratio = __builtin_sqrtf(ratio);
    float scales[32];
    float found[32];
    float size = least;
    for (int k = 0; k < (both_signs ? 16 : 32); ++k) {
      scales[k] = size;
      size *= ratio;
    }
    for (int k = 0; k < 16 && both_signs; ++k) scales[16 + k] = -scales[k];
    const lanes coarse[2] = {lanes::load(scales), lanes::load(scales + 16)};
    lanes coarse_error[2];
    errors(coarse, coarse_error);
    for (int r = 0; r < 2; ++r) coarse_error[r].store(found + 16 * r);

    float offsets[16];
    for (int k = 0; k < 16; ++k) offsets[k] = static_cast<float>(k - 16) * (1.0F / 16.0F);
    const lanes spread = lanes::broadcast(ratio - 1.0F);
    const lanes one = lanes::broadcast(1);
    float best = 0;
    float best_error = __builtin_inff();
    const int basins = effort == 1 ? 2 : (effort == 2 ? 4 : 12);
    for (int basin = 0; basin < basins; ++basin) {
      int lowest = 0;
      for (int k = 1; k < 32; ++k) lowest = found[k] < found[lowest] ? k : lowest;
      found[lowest] = __builtin_inff();
      const lanes middle = lanes::broadcast(scales[lowest]);
      const lanes below = unfused(spread * lanes::load(offsets));
      const lanes above = below + spread;
      const lanes scale[2] = {to_11_bits(unfused(middle * (one + below))),
                              to_11_bits(unfused(middle * (one + above)))};
      lanes error[2];
      errors(scale, error);
      const int chosen = lowest_of<Arch, 2>(error);
      float errors_of[32];
      float scales_of[32];
      for (int r = 0; r < 2; ++r) {
        error[r].store(errors_of + 16 * r);
        scale[r].store(scales_of + 16 * r);
      }
      if (errors_of[chosen] < best_error) {
        best_error = errors_of[chosen];
        best = scales_of[chosen];
      }
    }
    return best;
  }

  /// The codes of all weights.
  SUBBYTE_INLINE void store_codes(float scale, std::uint8_t* codes) const noexcept {
    const lanes inverse = inverse_or_zero(lanes::broadcast(scale));
    for (int i = 0; i < n_; i += 16) {
      levels_.store_codes(unfused(lanes::load(x_ + i) * inverse), codes + i);
    }
  }

 private:
  Levels levels_;
  int n_;
  const float* x_;
  const float* weight_;
};

/// The scales that a search of one fp16 scale looks among: the weight of largest magnitude at the
/// levels from `outer` down to `inner`, or from `of_mean` times the mean magnitude up to the
/// largest where that is given.
struct scale_range {
  float outer, inner, of_mean;
  bool both_signs;
};

/// Lowers the error of a block of F, which has one fp16 scale.
template <class F, class Arch, class Levels>
[[nodiscard]] F lower_scaled_block(const F& reference, const Levels& levels,
                                   const scale_range& range, const float* x,
                                   const float* importance, int effort) noexcept {
  float weight[F::block_size];
  error_weights<Arch>(F::block_size, importance, weight);
  const magnitudes size = magnitudes_of<Arch>(F::block_size, x, weight);
  // With importance what lies far out may matter little.
  const float inner = importance != nullptr ? range.inner * 0.85F : range.inner;
  const float outer = importance != nullptr ? range.outer * 1.4F : range.outer;
  const float most = range.of_mean > 0 ? size.largest : size.largest / inner;
  const float least = range.of_mean > 0 ? range.of_mean * size.mean : size.largest / outer;
  if (!(least > 0 && least <= most && most <= 65504.0F)) return reference;
  const scale_sweep<Arch, Levels> sweep(levels, F::block_size, x, weight);
  const half scale = half::nearest(sweep.search(least, most, range.both_signs, effort));
  typename F::codes codes{};
  sweep.store_codes(scale.to_float(), codes.code);
  return lower_of<F, Arch>(reference, F::join({scale}, codes), x, weight);
}

/// Lowers the error of a block of F, 32 weights with an fp16 scale and minimum, codes in [0, last]:
/// of ranges that leave out a part of either end, the one whose nearest codes have the least error.
///
/// Cost  effort 1, 2, 3: 192, 320, 576 ranges.
template <class F, class Arch>
[[nodiscard]] F lower_affine_block(const F& reference, int last, const float* x,
                                   const float* importance, int effort) noexcept {
  using lanes = float_lanes<Arch, 16>;
  float weight[32];
  error_weights<Arch>(32, importance, weight);
  const auto [low, high] = range_of<Arch>(x);
  const float top = static_cast<float>(last);
  if (!(high > low && high - low <= 65504.0F)) return reference;
  // Each round tries 8 x 8 ranges around the best so far, with steps that shrink.
  float best_low = low;
  float best_high = high;
  float best_error = __builtin_inff();
  float stride = (high - low) / top * (importance != nullptr ? 0.6F : 0.4F);
  float first = 0;
  half scale{};
  half minimum{};
  const int rounds = effort == 1 ? 3 : (effort == 2 ? 5 : 9);
  for (int round = 0; round < rounds; ++round) {
    float lows[64];
    float highs[64];
    for (int k = 0; k < 64; ++k) {
      lows[k] = best_low + unfused(stride * (first + static_cast<float>(k % 8)));
      highs[k] = best_high - unfused(stride * (first + static_cast<float>(k / 8)));
    }
    lanes step[4];
    lanes inverse[4];
    lanes offset[4];
    lanes error[4];
    for (int r = 0; r < 4; ++r) {
      const lanes from = lanes::load(lows + 16 * r);
      const lanes range = lanes::load(highs + 16 * r) - from;
      step[r] = to_11_bits(unfused(range * lanes::broadcast(1.0F / top)));
      inverse[r] = inverse_or_zero(step[r]);
      offset[r] = to_11_bits(from);
      error[r] = lanes::broadcast(0);
    }
    for (int i = 0; i < 32; ++i) {
      const lanes xi = lanes::broadcast(x[i]);
      const lanes wi = lanes::broadcast(weight[i]);
      for (int r = 0; r < 4; ++r) {
        const lanes level = rounded_within(unfused((xi - offset[r]) * inverse[r]), 0, last);
        const lanes difference = unfused(level * step[r]) + offset[r] - xi;
        error[r] = error[r] + unfused(difference * difference * wi);
      }
    }
    const int chosen = lowest_of<Arch, 4>(error);
    float values[3][64];
    for (int r = 0; r < 4; ++r) {
      error[r].store(values[0] + 16 * r);
      step[r].store(values[1] + 16 * r);
      offset[r].store(values[2] + 16 * r);
    }
    if (values[0][chosen] < best_error) {
      best_error = values[0][chosen];
      scale = half::nearest(values[1][chosen]);
      minimum = half::nearest(values[2][chosen]);
      best_low = lows[chosen];
      best_high = highs[chosen];
    }
    first = -3.5F;
    stride *= round % 2 == 0 ? 0.3F : 0.9F;
  }
  typename F::codes codes{};
  const float inverse = scale.to_float() != 0 ? 1.0F / scale.to_float() : 0.0F;
  for (int i = 0; i < 32; i += 16) {
    const lanes raised = lanes::load(x + i) - lanes::broadcast(minimum.to_float());
    rint_even(rounded_within(unfused(raised * lanes::broadcast(inverse)), 0, last))
        .store_bytes(codes.code + i);
  }
  return lower_of<F, Arch>(reference, F::join({scale, minimum}, codes), x, weight);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
