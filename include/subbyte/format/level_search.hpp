// SPDX-License-Identifier: Apache-2.0
/// The scale of a block and the levels of its groups that leave the least squared error, when every
/// eight weights of the block have a short list of ways to be coded.
#pragma once

#include "subbyte/core/arch.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// How many scales an octet of weights is coded for, and so the most choices that it has.
inline constexpr int octet_trials = 8;

/// Ways to code eight weights x[i] with importance v[i]. Choice c stands for levels l[i]; with the
/// scale s its error is sum(v x^2) + s * (s * square[c] - twice[c]).
struct octet_choices {
  int count;
  float twice[octet_trials];         ///< 2 * sum(v x l)
  float square[octet_trials];        ///< sum(v l^2)
  std::uint32_t code[octet_trials];  ///< what the choice stores; of no meaning here

  /// The choice of least error at a scale >= 0; the earlier one on ties.
  [[nodiscard]] SUBBYTE_INLINE int best_at(float s) const noexcept {
    int best = 0;
    float least = 0;
    for (int c = 0; c < count; ++c) {
      const float error = unfused(s * square[c]) - twice[c];
      if (c == 0 || error < least) {
        best = c;
        least = error;
      }
    }
    return best;
  }
};

/// The search over a block of 32 octets in `Groups` groups. A group has a level in [0, Levels); its
/// scale is (2 * level + 1) times that of the block. It also has one of `Variants` variants of
/// choices.
///
/// Numerics  sums run in the stated order in fp32; lanes hold different scales.
template <int Groups, int Variants, int Levels, class Arch>
class level_search {
 public:
  static constexpr int octets = 32 / Groups;

  struct group {
    float scale;  ///< the best one were it free; 0 for none
    octet_choices octet[Variants][octets];
  };
  struct choice {
    int level;
    int variant;
  };

  group group_at[Groups];
  /// Weights were multiplied by this power of two before their choices were made.
  float unit;

  /// The stored scale, as the weights of the choices see it.
  [[nodiscard]] SUBBYTE_INLINE float seen(half scale) const noexcept {
    return scale.to_float() * unit;
  }

  /// Tries `count` scales of the block, those that give the group of largest scale the highest
  /// level and smaller or larger ones, then refines the best.
  ///
  /// Requires  count is a multiple of 16.
  /// Returns   0 when no scale leaves less error than zeros do.
  [[nodiscard]] half coarse(int count, float least_ratio, float most_ratio) const noexcept {
    float largest = 0;
    for (const group& g : group_at) largest = largest > g.scale ? largest : g.scale;
    const float base = largest / static_cast<float>(2 * Levels - 1) / unit;
    const float step = (most_ratio - least_ratio) / static_cast<float>(count - 1);
    scored best{half{}, 0};
    for (int k = 0; k < count; k += lane_count) {
      half scales[lane_count];
      for (int t = 0; t < lane_count; ++t) {
        const float ratio = least_ratio + unfused(step * static_cast<float>(k + t));
        scales[t] = stored(base * ratio);
      }
      keep_best(scales, best);
    }
    return best.scale;
  }

  /// Fits the scale to what is chosen with it, and chooses anew among it and its neighbours, until
  /// nothing improves or `rounds` times.
  [[nodiscard]] half refined(half scale, int rounds) const noexcept {
    if (scale.bits == 0) return scale;
    scored best{scale, error_of(scale)};
    for (int r = 0; r < rounds; ++r) {
      const int middle = stored(fitted(best.scale) / unit).bits;
      half scales[lane_count];
      for (int t = 0; t < lane_count; ++t) {
        const int bits = clamp(middle + t - lane_count / 2, 1, largest_half);
        scales[t].bits = static_cast<std::uint16_t>(bits);
      }
      const scored before = best;
      keep_best(scales, best);
      if (best.scale.bits == before.scale.bits) break;
    }
    return best.scale;
  }

  /// The best level and variant of a group for the block's scale.
  [[nodiscard]] choice best_choice(const group& g, half scale) const noexcept {
    float steps[lane_count];
    for (int l = 0; l < lane_count; ++l) steps[l] = static_cast<float>(2 * l + 1);
    const lanes s = lanes::broadcast(seen(scale)) * lanes::load(steps);
    float error[Variants][lane_count];
    for (int v = 0; v < Variants; ++v) error_at(g, v, s).store(error[v]);
    choice best{0, 0};
    for (int l = 0; l < Levels; ++l) {
      for (int v = 0; v < Variants; ++v) {
        if (error[v][l] < error[best.variant][best.level]) best = {l, v};
      }
    }
    return best;
  }

 private:
  static constexpr int lane_count = 16;
  static constexpr int largest_half = 0x7BFF;
  static_assert(Levels <= lane_count);
  using lanes = float_lanes<Arch, lane_count>;

  struct scored {
    half scale;
    float error;
  };

  [[nodiscard]] SUBBYTE_INLINE static lanes smaller(const lanes& a, const lanes& b) noexcept {
    return select(b < a, b, a);
  }

  /// The nearest positive scale that can be stored.
  [[nodiscard]] static half stored(float scale) noexcept {
    half s = half::nearest(scale);
    if (!(scale > 0) || s.bits == 0) s.bits = 1;
    if (s.bits > largest_half) s.bits = largest_half;
    return s;
  }

  /// The group's error with one scale per lane, less that of zeros.
  [[nodiscard]] SUBBYTE_INLINE static lanes error_at(const group& g, int variant,
                                                     const lanes& s) noexcept {
    lanes sum = lanes::broadcast(0);
    for (int o = 0; o < octets; ++o) {
      const octet_choices& own = g.octet[variant][o];
      lanes least = unfused(s * lanes::broadcast(own.square[0])) - lanes::broadcast(own.twice[0]);
      for (int c = 1; c < own.count; ++c) {
        least = smaller(
            least, unfused(s * lanes::broadcast(own.square[c])) - lanes::broadcast(own.twice[c]));
      }
      sum = sum + least;
    }
    return unfused(s * sum);
  }

  /// The block's error with one scale per lane; a group takes the level nearest to its own scale or
  /// one beside it.
  [[nodiscard]] lanes error_of(const lanes& scale) const noexcept {
    const lanes one = lanes::broadcast(1);
    lanes sum = lanes::broadcast(0);
    for (const group& g : group_at) {
      const lanes position = lanes::broadcast(0.5F) * (lanes::broadcast(g.scale) / scale - one);
      const auto level = rint_even(limited(unfused(position), 0, Levels - 1));
      lanes least = lanes::broadcast(3.40282347e+38F);
      for (int beside = -1; beside <= 1; ++beside) {
        const auto tried =
            to_float((level + decltype(level)::broadcast(beside)).clamped(0, Levels - 1));
        const lanes s = scale * (unfused(tried + tried) + one);
        for (int v = 0; v < Variants; ++v) least = smaller(least, error_at(g, v, s));
      }
      sum = sum + least;
    }
    return sum;
  }

  [[nodiscard]] float error_of(half scale) const noexcept {
    float errors[lane_count];
    error_of(lanes::broadcast(seen(scale))).store(errors);
    return errors[0];
  }

  void keep_best(const half (&scales)[lane_count], scored& best) const noexcept {
    float values[lane_count];
    for (int t = 0; t < lane_count; ++t) values[t] = seen(scales[t]);
    float errors[lane_count];
    error_of(lanes::load(values)).store(errors);
    for (int t = 0; t < lane_count; ++t) {
      if (errors[t] < best.error) best = {scales[t], errors[t]};
    }
  }

  /// The scale that suits best what `scale` chooses, as the weights see it.
  [[nodiscard]] float fitted(half scale) const noexcept {
    float twice = 0;
    float square = 0;
    for (const group& g : group_at) {
      const choice own = best_choice(g, scale);
      const float step = static_cast<float>(2 * own.level + 1);
      for (const octet_choices& o : g.octet[own.variant]) {
        const int c = o.best_at(seen(scale) * step);
        twice += unfused(step * o.twice[c]);
        square += unfused(step * step * o.square[c]);
      }
    }
    return square > 0 ? 0.5F * twice / square : seen(scale);
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
