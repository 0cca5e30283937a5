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
#include "subbyte/format/concepts.hpp"
#include "subbyte/format/levels.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// From how many factors a search descends, and for how many rounds at most.
struct descents {
  int starts, rounds;

  /// What start k multiplies the reference's factors by: 1, then by turns below and above.
  [[nodiscard]] SUBBYTE_INLINE float factor(int k) const noexcept {
    const float spread = unfused(0.04F * static_cast<float>((k + 1) / 2));
    return k % 2 == 0 ? 1.0F + spread : 1.0F - spread;
  }
};

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
      float errors[64];
      for (int r = 0; r < 4; ++r) error[r].store(errors + 16 * r);
      const int chosen = lowest_of<Arch, 4>(error);
      b.scales[g] = static_cast<std::uint8_t>(first_scale + chosen % 8);
      b.minimums[g] = static_cast<std::uint8_t>(first_minimum + chosen / 8);
      b.error += errors[chosen];
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
        const lanes level = levels(b, g, x) * lanes::broadcast(static_cast<float>(b.scales[g]));
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

/// Lowers the error of a block of F, with params scale, minimum, scales and minimums,
/// codes in [0, last] and integers in [0, limit].
template <class F, class Arch, int n>
[[nodiscard]] F lower_affine_superblock(const F& reference, int last, int limit, const float* x,
                                        const float* importance, const descents& plan) noexcept {
  constexpr int groups = F::block_size / n;
  float weight[F::block_size];
  error_weights<Arch>(F::block_size, importance, weight);
  const typename F::params start = F::split(reference).params;
  const affine_superblock_search<Arch, n, groups> search(last, limit, x, weight);
  affine_superblock<groups> best{};
  best.error = __builtin_inff();
  for (int k = 0; k < plan.starts; ++k) {
    const float factor = plan.factor(k);
    affine_superblock<groups> trial{};
    trial.scale = half::nearest(unfused(start.scale.to_float() * factor));
    trial.minimum = half::nearest(unfused(start.minimum.to_float() * factor));
    for (int g = 0; g < groups; ++g) {
      const auto kept = [&](int i) noexcept {
        const int divided = rint_even(static_cast<float>(i) / factor);
        return static_cast<std::uint8_t>(clamp(divided, 0, limit));
      };
      trial.scales[g] = kept(start.scales[g]);
      trial.minimums[g] = kept(start.minimums[g]);
    }
    search.choose_integers(trial);
    affine_superblock<groups> lowest = trial;
    for (int round = 0; round < plan.rounds; ++round) {
      search.refit(trial);
      search.choose_integers(trial);
      if (!(trial.error < lowest.error)) break;
      lowest = trial;
    }
    if (lowest.error < best.error) best = lowest;
  }
  if (!clearly_lower(best.error, block_error<F, Arch>(reference, x, weight))) return reference;
  typename F::params p{best.scale, best.minimum, {}, {}};
  for (int g = 0; g < groups; ++g) {
    p.scales[g] = best.scales[g];
    p.minimums[g] = best.minimums[g];
  }
  typename F::codes codes{};
  search.round(best, codes.code);
  return F::join(p, codes);
}

/// G groups of n weights, w_hat = scale * scales[g] * level, and the error of nearest levels.
template <int G>
struct symmetric_superblock {
  half scale;
  int scales[G];
  float error;
};

/// Which integer scales a search tries for a group that has s: those in [least, most] from
/// lowest * s to highest * s, and the same of the other sign.
struct scale_window {
  int least, most;
  float lowest, highest;
};

/// Levels maps lanes of x / step to the nearest level's value.
template <class Arch, int n, int G, class Levels>
class symmetric_superblock_search {
  using lanes = float_lanes<Arch, 16>;

 public:
  /// x and weight are G * n numbers.
  SUBBYTE_INLINE symmetric_superblock_search(const Levels& levels, const scale_window& window,
                                             const float* x, const float* weight) noexcept
      : levels_(levels), window_(window), x_(x), weight_(weight) {}

  /// For the factor of b the best of 16 integers of either sign for every group.
  void choose_integers(symmetric_superblock<G>& b) const noexcept {
    const lanes scale = lanes::broadcast(b.scale.to_float());
    float counts[16];
    for (int k = 0; k < 16; ++k) counts[k] = static_cast<float>(k);
    const lanes count = lanes::load(counts);
    float multiples[32];
    float errors[32];
    float total = 0;
    for (int g = 0; g < G; ++g) {
      const float around = static_cast<float>(b.scales[g] < 0 ? -b.scales[g] : b.scales[g]);
      const float range = (window_.highest - window_.lowest) * around;
      const lanes stride = lanes::broadcast(range > 15.0F ? range * (1.0F / 15.0F) : 1.0F);
      const lanes walk =
          lanes::broadcast(unfused(window_.lowest * around)) + unfused(stride * count);
      const lanes multiple[2] = {
          rounded_within(walk, window_.least, window_.most),
          rounded_within(lanes::broadcast(0) - walk, window_.least, window_.most)};
      lanes step[2];
      lanes inverse[2];
      lanes error[2];
      for (int r = 0; r < 2; ++r) {
        multiple[r].store(multiples + 16 * r);
        step[r] = multiple[r] * scale;
        inverse[r] = inverse_or_zero(step[r]);
        error[r] = lanes::broadcast(0);
      }
      for (int i = g * n; i < g * n + n; ++i) {
        const lanes x = lanes::broadcast(x_[i]);
        const lanes weight = lanes::broadcast(weight_[i]);
        for (int r = 0; r < 2; ++r) {
          const lanes level = levels_(unfused(x * inverse[r]));
          const lanes difference = level * step[r] - x;  // the product is exact
          error[r] = error[r] + unfused(difference * difference * weight);
        }
      }
      for (int r = 0; r < 2; ++r) error[r].store(errors + 16 * r);
      const int chosen = lowest_of<Arch, 2>(error);
      total += errors[chosen];
      b.scales[g] = static_cast<int>(multiples[chosen]);
    }
    b.error = total;
  }

  /// The error of levels that were chosen otherwise.
  [[nodiscard]] float error_of(const symmetric_superblock<G>& b,
                               const float* levels) const noexcept {
    lanes sum = lanes::broadcast(0);
    for (int g = 0; g < G; ++g) {
      const float step = b.scale.to_float() * static_cast<float>(b.scales[g]);
      for (int i = g * n; i < g * n + n; i += 16) {
        const lanes back = lanes::load(levels + i) * lanes::broadcast(step);
        const lanes difference = back - lanes::load(x_ + i);
        sum = sum + unfused(difference * difference * lanes::load(weight_ + i));
      }
    }
    return lane_sum<Arch>(sum);
  }

  /// Replaces b, the reference encoder's with its levels, by a super-block whose nearest levels
  /// have a lower error.
  ///
  /// Returns  whether there is one.
  [[nodiscard]] bool descend(symmetric_superblock<G>& b, const float* levels,
                             const descents& plan) const noexcept {
    const symmetric_superblock<G> start = b;
    b.error = __builtin_inff();
    for (int k = 0; k < plan.starts; ++k) {
      symmetric_superblock<G> trial = start;
      trial.scale = half::nearest(unfused(start.scale.to_float() * plan.factor(k)));
      choose_integers(trial);
      symmetric_superblock<G> lowest = trial;
      for (int round = 0; round < plan.rounds; ++round) {
        refit(trial);
        choose_integers(trial);
        if (!(trial.error < lowest.error)) break;
        lowest = trial;
      }
      if (lowest.error < b.error) b = lowest;
    }
    return clearly_lower(b.error, error_of(start, levels));
  }

  /// The factor of the least error for the integers of b and their nearest levels.
  void refit(symmetric_superblock<G>& b) const noexcept {
    lanes aa = lanes::broadcast(0);
    lanes xa = aa;
    for (int g = 0; g < G; ++g) {
      for (int i = g * n; i < g * n + n; i += 16) {
        const lanes x = lanes::load(x_ + i);
        const lanes level =
            levels_(steps(b, g, i)) * lanes::broadcast(static_cast<float>(b.scales[g]));
        const lanes weighted = lanes::load(weight_ + i) * level;
        aa = aa + unfused(weighted * level);
        xa = xa + unfused(weighted * x);
      }
    }
    const float saa = lane_sum<Arch>(aa);
    if (saa > 0) b.scale = half::nearest(lane_sum<Arch>(xa) / saa);
  }

  /// The codes of 16 weights from x[i] on, of group g.
  SUBBYTE_INLINE void store_codes(const symmetric_superblock<G>& b, int g, int i,
                                  std::uint8_t* codes) const noexcept {
    levels_.store_codes(steps(b, g, i), codes);
  }

 private:
  // x / step of 16 weights.
  [[nodiscard]] SUBBYTE_INLINE lanes steps(const symmetric_superblock<G>& b, int g,
                                           int i) const noexcept {
    const float step = b.scale.to_float() * static_cast<float>(b.scales[g]);
    const float inverse = step != 0 ? 1.0F / step : 0.0F;
    return unfused(lanes::load(x_ + i) * lanes::broadcast(inverse));
  }

  Levels levels_;
  scale_window window_;
  const float* x_;
  const float* weight_;
};

/// Lowers the error of a block of F, with params scale and scales.
template <class F, class Arch, int n>
[[nodiscard]] F lower_symmetric_superblock(const unpacked<F>& reference, const whole_levels& levels,
                                           const scale_window& window, const float* x,
                                           const float* importance, const descents& plan) noexcept {
  constexpr int groups = F::block_size / n;
  float weight[F::block_size];
  error_weights<Arch>(F::block_size, importance, weight);
  symmetric_superblock<groups> start{reference.params.scale, {}, 0};
  float chosen[F::block_size];
  for (int g = 0; g < groups; ++g) start.scales[g] = reference.params.scales[g];
  for (int i = 0; i < F::block_size; ++i) {
    chosen[i] = static_cast<float>(reference.codes[i] - levels.middle);
  }
  const symmetric_superblock_search<Arch, n, groups, whole_levels> search(levels, window, x,
                                                                          weight);
  symmetric_superblock<groups> best = start;
  if (!search.descend(best, chosen, plan)) return F::join(reference.params, reference.codes);
  typename F::params p{best.scale, {}};
  typename F::codes codes{};
  for (int g = 0; g < groups; ++g) {
    p.scales[g] = static_cast<std::int8_t>(best.scales[g]);
    for (int i = g * n; i < g * n + n; i += 16) {
      search.store_codes(best, g, i, codes.code + i);
    }
  }
  return F::join(p, codes);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
