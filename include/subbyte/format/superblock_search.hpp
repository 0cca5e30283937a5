// SPDX-License-Identifier: Apache-2.0
/// Searches for the least error of a super-block: integer scales (and minimums) of groups under one
/// or two fp16 factors, the codes nearest under what is stored.
///
/// Both searches descend from the reference encoder's block: for fixed factors every group takes
/// the best of a window of integers, each with its nearest codes; for fixed integers and codes the
/// factors are a least squares fit, rounded to fp16; and again while the error falls.
///
/// Numerics  as search.hpp: defined operation by operation, one candidate per lane, the same bits
///           on every compiler, flag and CPU.
#pragma once

#include "subbyte/format/block_error.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Nearest integers, ties to even, limited to [low, high].
///
/// Requires  low and high within +-2^22.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> rounded_within(const float_lanes<Arch, N>& v,
                                                                 int low, int high) noexcept {
  using ints = typename int_lanes<Arch, N>::native;
  using floats = typename float_lanes<Arch, N>::native;
  constexpr float shift = 12582912.0F;  // 1.5 * 2^23: one unit in the last place is 1
  const auto bits_of = [](int i) noexcept {
    return bit_cast<std::int32_t>(shift + static_cast<float>(i));
  };
  int_lanes<Arch, N> shifted;
  // As integers the sums are in the order of the numbers, far outside the range too.
  for (int k = 0; k < shifted.registers; ++k) {
    shifted.part[k] = __builtin_bit_cast(ints, v.part[k] + shift);
  }
  shifted = shifted.clamped(bits_of(low), bits_of(high));
  float_lanes<Arch, N> rounded;
  for (int k = 0; k < rounded.registers; ++k) {
    rounded.part[k] = __builtin_bit_cast(floats, shifted.part[k]) - shift;
  }
  return rounded;
}

/// 1 / step, and 0 for a step of 0.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> inverse_or_zero(
    const float_lanes<Arch, N>& step) noexcept {
  using lanes = float_lanes<Arch, N>;
  const lanes zero = lanes::broadcast(0);
  return select(step == zero, zero, lanes::broadcast(1) / step);
}

/// The lowest of the candidates in R rows of 16 lanes, the first one on ties; NaN is never lowest.
template <class Arch, int R>
[[nodiscard]] int lowest_candidate(const float_lanes<Arch, 16> (&error)[R], float& lowest) noexcept {
  float_lanes<Arch, 16> least = error[0];
  float_lanes<Arch, 16> row = float_lanes<Arch, 16>::broadcast(0);
  for (int r = 1; r < R; ++r) {
    const auto lower = error[r] < least;
    least = select(lower, error[r], least);
    row = select(lower, float_lanes<Arch, 16>::broadcast(static_cast<float>(r)), row);
  }
  float errors[16];
  float rows[16];
  least.store(errors);
  row.store(rows);
  int chosen = 0;
  for (int k = 1; k < 16; ++k) chosen = errors[k] < errors[chosen] ? k : chosen;
  lowest = errors[chosen];
  return 16 * static_cast<int>(rows[chosen]) + chosen;
}

/// G groups of n weights, w_hat = scale * scales[g] * code - minimum * minimums[g], and the error
/// of nearest codes.
template <int G>
struct affine_superblock {
  half scale;
  half minimum;
  std::uint8_t scales[G];
  std::uint8_t minimums[G];
  float error;
};

template <class Arch, int n, int G>
class affine_superblock_search {
 public:
  /// Codes in [0, last], scales and minimums in [0, limit]; x and weight are G * n numbers.
  SUBBYTE_INLINE affine_superblock_search(int last, int limit, const float* x,
                                          const float* weight) noexcept
      : last_(last), limit_(limit), x_(x), weight_(weight) {}

  /// For the factors of b the best of 8 x 8 integers around those of every group.
  void choose_integers(affine_superblock<G>& b) const noexcept {
    const float scale = b.scale.to_float();
    const float minimum = b.minimum.to_float();
    b.error = 0;
    for (int g = 0; g < G; ++g) {
      const int first_scale = clamp(b.scales[g] - 3, 0, limit_ - 7);
      const int first_minimum = clamp(b.minimums[g] - 3, 0, limit_ - 7);
      float steps[16];
      float offsets[64];
      for (int k = 0; k < 16; ++k) steps[k] = scale * static_cast<float>(first_scale + k % 8);
      for (int k = 0; k < 64; ++k) offsets[k] = minimum * static_cast<float>(first_minimum + k / 8);
      const lanes step = lanes::load(steps);
      const lanes inverse = inverse_or_zero(step);
      lanes offset[4];
      lanes error[4];
      for (int r = 0; r < 4; ++r) {
        offset[r] = lanes::load(offsets + 16 * r);
        error[r] = lanes::broadcast(0);
      }
      for (int i = g * n; i < g * n + n; ++i) {
        const lanes x = lanes::broadcast(x_[i]);
        const lanes weight = lanes::broadcast(weight_[i]);
        for (int r = 0; r < 4; ++r) {
          const lanes level = rounded_within(unfused((x + offset[r]) * inverse), 0, last_);
          const lanes difference = level * step - offset[r] - x;  // the product is exact
          error[r] = error[r] + unfused(difference * difference * weight);
        }
      }
      float lowest = 0;
      const int chosen = lowest_candidate<Arch>(error, lowest);
      b.scales[g] = static_cast<std::uint8_t>(first_scale + chosen % 8);
      b.minimums[g] = static_cast<std::uint8_t>(first_minimum + chosen / 8);
      b.error += lowest;
    }
  }

  /// The factors of the least error for the integers of b and their nearest codes.
  void refit(affine_superblock<G>& b) const noexcept {
    lanes aa = lanes::broadcast(0);
    lanes ab = aa;
    lanes bb = aa;
    lanes xa = aa;
    lanes xb = aa;
    for (int g = 0; g < G; ++g) {
      const lanes multiple = lanes::broadcast(static_cast<float>(b.minimums[g]));
      for (int i = g * n; i < g * n + n; i += 16) {
        const lanes x = lanes::load(x_ + i);
        const lanes weight = lanes::load(weight_ + i);
        const lanes level =
            levels(b, g, x) * lanes::broadcast(static_cast<float>(b.scales[g]));
        const lanes weighted_level = weight * level;
        const lanes weighted_multiple = weight * multiple;
        aa = aa + unfused(weighted_level * level);
        ab = ab + unfused(weighted_level * multiple);
        bb = bb + unfused(weighted_multiple * multiple);
        xa = xa + unfused(weighted_level * x);
        xb = xb + unfused(weighted_multiple * x);
      }
    }
    const float saa = lane_sum<Arch>(aa);
    const float sab = lane_sum<Arch>(ab);
    const float sbb = lane_sum<Arch>(bb);
    const float sxa = lane_sum<Arch>(xa);
    const float sxb = lane_sum<Arch>(xb);
    const float determinant = unfused(saa * sbb) - unfused(sab * sab);
    if (determinant > 1e-4F * unfused(saa * sbb)) {
      b.scale = half::nearest((unfused(sbb * sxa) - unfused(sab * sxb)) / determinant);
      b.minimum = half::nearest((unfused(sab * sxa) - unfused(saa * sxb)) / determinant);
    } else if (saa > 0) {
      b.scale = half::nearest((sxa + unfused(b.minimum.to_float() * sab)) / saa);
    }
  }

  /// Codes of every weight.
  void round(const affine_superblock<G>& b, std::uint8_t* codes) const noexcept {
    for (int g = 0; g < G; ++g) {
      for (int i = g * n; i < g * n + n; i += 16) {
        rint_even(levels(b, g, lanes::load(x_ + i))).store_bytes(codes + i);
      }
    }
  }

 private:
  using lanes = float_lanes<Arch, 16>;

  [[nodiscard]] SUBBYTE_INLINE lanes levels(const affine_superblock<G>& b, int g,
                                            const lanes& x) const noexcept {
    const float step = b.scale.to_float() * static_cast<float>(b.scales[g]);
    const float offset = b.minimum.to_float() * static_cast<float>(b.minimums[g]);
    const float inverse = step != 0 ? 1.0F / step : 0.0F;
    return rounded_within(unfused((x + lanes::broadcast(offset)) * lanes::broadcast(inverse)), 0,
                          last_);
  }

  int last_, limit_;
  const float* x_;
  const float* weight_;
};

/// How long the searches descend at each effort.
struct descent_rounds {
  int rounds;
};

/// Lowers the error of a block of F, which has scale, minimum, scales[G] and minimums[G] as params,
/// codes in [0, last] and integers in [0, limit].
template <class F, class Arch, int n>
[[nodiscard]] F lower_affine_superblock(const F& reference, int last, int limit, const float* x,
                                        const float* importance, int effort) noexcept {
  constexpr int G = F::block_size / n;
  float weight[F::block_size];
  error_weights<Arch>(F::block_size, importance, weight);
  const typename F::params start = F::split(reference).params;
  affine_superblock<G> best{start.scale, start.minimum, {}, {}, 0};
  for (int g = 0; g < G; ++g) {
    best.scales[g] = start.scales[g];
    best.minimums[g] = start.minimums[g];
  }
  const affine_superblock_search<Arch, n, G> search(last, limit, x, weight);
  search.choose_integers(best);
  affine_superblock<G> trial = best;
  const int rounds = effort == 1 ? 2 : (effort == 2 ? 6 : 20);
  for (int round = 0; round < rounds; ++round) {
    search.refit(trial);
    search.choose_integers(trial);
    if (!(trial.error < best.error)) break;
    best = trial;
  }
  if (!clearly_lower(best.error, block_error<F, Arch>(reference, x, weight))) return reference;
  typename F::params p{best.scale, best.minimum, {}, {}};
  for (int g = 0; g < G; ++g) {
    p.scales[g] = best.scales[g];
    p.minimums[g] = best.minimums[g];
  }
  typename F::codes codes{};
  search.round(best, codes.code);
  return F::join(p, codes);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
