// SPDX-License-Identifier: Apache-2.0
/// Scale searches of the reference encoders: given a group of weights, the scale (and minimum) and
/// the codes that minimise a weighted error.
///
/// Numerics  every function here is defined operation by operation: sums run in element order in
///           fp32 and no product is fused with an addition, so the results are the same bits on
///           every compiler, flag and CPU. That is why products pass through unfused() or
///           unfuse_group(), and why lanes hold different sums and not parts of one
///           (docs/decisions/008).
/// Source    ggml src/ggml-quants.c: make_qx_quants, make_q3_quants, make_qkx2_quants,
///           make_qkx3_quants, make_qp_quants (what they compute; the code here is our own).
#pragma once

#include "subbyte/core/arch.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The largest group that a search accepts.
inline constexpr int max_search_group = 32;

/// A group whose largest magnitude is below this counts as zero.
/// Source  ggml GROUP_MAX_EPS.
inline constexpr float zero_group_magnitude = 1e-15F;

/// Makes a group of products opaque to the optimiser, as unfused() does for one, without keeping
/// the loops before and after from being vectorised.
SUBBYTE_INLINE void unfuse_group(float (&products)[max_search_group]) noexcept {
  asm("" : "+m"(products));
}

/// |value|: the sign bit cleared, also of a NaN.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr float magnitude(float value) noexcept {
  return bit_cast<float>(bit_cast<std::uint32_t>(value) & 0x7FFFFFFFU);
}

/// The ends of an interval.
struct closed_interval {
  float low;
  float high;
};

/// The interval, made to hold n weights; NaNs change nothing. Which zero is an end is unspecified.
template <class Arch>
[[nodiscard]] closed_interval extended(closed_interval range, const float* x, int n) noexcept {
  using lanes = float_lanes<Arch, 8>;
  lanes lowest = lanes::broadcast(range.low);
  lanes highest = lanes::broadcast(range.high);
  int i = 0;
  for (; i + 8 <= n; i += 8) {
    const lanes v = lanes::load(x + i);
    lowest = select(v < lowest, v, lowest);
    highest = select(v > highest, v, highest);
  }
  float lows[8];
  float highs[8];
  lowest.store(lows);
  highest.store(highs);
  for (int k = 0; k < 8; ++k) {
    range.low = lows[k] < range.low ? lows[k] : range.low;
    range.high = highs[k] > range.high ? highs[k] : range.high;
  }
  for (; i < n; ++i) {
    range.low = x[i] < range.low ? x[i] : range.low;
    range.high = x[i] > range.high ? x[i] : range.high;
  }
  return range;
}

/// The element of largest magnitude with its sign, the first one on ties; 0 when all are 0 or NaN.
template <class Arch>
[[nodiscard]] float signed_extreme(const float* x, int n) noexcept {
  const auto [low, high] = extended<Arch>({0, 0}, x, n);
  if (high != -low) return high > -low ? high : low;
  for (int i = 0; i < n && high != 0; ++i) {
    if (magnitude(x[i]) == high) return x[i];
  }
  return 0;
}

/// The least and the largest of 32 weights; of zeros the first one, of NaNs none.
template <class Arch>
[[nodiscard]] closed_interval range_of(const float* x) noexcept {
  constexpr float max_float = 3.40282347e+38F;
  closed_interval range = extended<Arch>({max_float, -max_float}, x, 32);
  // The lanes do not know which zero came first, and its sign is stored.
  for (int i = 31; i >= 0 && range.low == 0; --i) {
    if (x[i] == 0) range.low = x[i];
  }
  if (range.high == range.low) range.high = range.low;
  return range;
}

/// Sum of x[i]^2.
template <class Arch>
[[nodiscard]] float sum_of_squares(const float* x, index_t n) noexcept {
  float sum = 0;
  for (index_t i = 0; i < n; ++i) sum += unfused(x[i] * x[i]);
  return sum;
}

/// Mean of x[i]^2; n >= 1.
template <class Arch>
[[nodiscard]] float mean_square(const float* x, index_t n) noexcept {
  return sum_of_squares<Arch>(x, n) / static_cast<float>(n);
}

/// out[i] = importance[i] * sqrt(mean_square + x[i]^2): the error weights of the encoders that take
/// importance.
template <class Arch>
void energy_weights(int n, const float* x, const float* importance, float mean_square,
                    float* out) noexcept {
  for (int i = 0; i < n; ++i) {
    out[i] = importance[i] * __builtin_sqrtf(mean_square + unfused(x[i] * x[i]));
  }
}

/// x[i] ~ scale * (codes[i] - last), codes in [0, 2 * last): the least weighted squared error among
/// 19 scales, each refitted to its codes. Starts from the scale that puts the weight of largest
/// magnitude at code 0, and keeps an earlier candidate on ties.
///
/// Requires  n <= max_search_group; weight is n non-negative numbers, or null for x[i]^2.
/// Returns   the scale, of either sign. A zero group gives 0 and leaves every code 0, not `last`.
/// Source    make_qx_quants with rmse_type 1; last = nmax.
template <class Arch>
[[nodiscard]] float search_symmetric(int n, int last, const float* x, const float* weight,
                                     std::uint8_t* codes) noexcept {
  const float extreme = signed_extreme<Arch>(x, n);
  if (magnitude(extreme) < zero_group_magnitude) {
    for (int i = 0; i < n; ++i) codes[i] = 0;
    return 0;
  }
  // One candidate per lane. Candidate 0 first: it is the one that the others must beat.
  constexpr int candidates = 19;
  constexpr int lane_count = lanes_for<Arch, candidates>;
  using lanes = float_lanes<Arch, lane_count>;
  float inverses[lane_count];
  for (int k = 0; k < lane_count; ++k) {
    const int step = k == 0 ? 0 : (k < 10 ? k - 10 : k - 9);
    inverses[k] = -(static_cast<float>(last) + unfused(0.1F * static_cast<float>(step))) / extreme;
  }
  const lanes inverse = lanes::load(inverses);
  lanes sum_xl = lanes::broadcast(0);
  lanes sum_ll = lanes::broadcast(0);
  for (int i = 0; i < n; ++i) {
    const float w = weight != nullptr ? weight[i] : x[i] * x[i];
    const lanes scaled = unfused(inverse * lanes::broadcast(x[i]));
    const lanes level = to_float(rint_even(scaled).clamped(-last, last - 1));
    sum_xl = sum_xl + unfused(lanes::broadcast(w * x[i]) * level);
    sum_ll = sum_ll + unfused(lanes::broadcast(w) * level * level);
  }
  float xl[lane_count];
  float ll[lane_count];
  sum_xl.store(xl);
  sum_ll.store(ll);
  int chosen = 0;
  float scale = ll[0] != 0 ? xl[0] / ll[0] : 0.0F;
  float best = scale * xl[0];
  for (int k = 1; k < candidates; ++k) {
    if (ll[k] > 0 && xl[k] * xl[k] > best * ll[k]) {
      chosen = k;
      scale = xl[k] / ll[k];
      best = scale * xl[k];
    }
  }
  float scaled[max_search_group];
  for (int i = 0; i < n; ++i) scaled[i] = inverses[chosen] * x[i];
  unfuse_group(scaled);
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<std::uint8_t>(clamp(rint_even(scaled[i]), -last, last - 1) + last);
  }
  return scale;
}

/// For each of G groups of n consecutive weights, x[i] ~ scale * (codes[i] - last), codes in
/// [0, 2 * last), with error weights x[i]^2: one start scale, then up to five sweeps that move one
/// code at a time where that lowers the error. Like the reference it sweeps only where sum(w * x *
/// level) is positive, which is where the element of largest magnitude is negative.
///
/// Shapes    x, codes [G, n]; scales [G].
/// Returns   in scales: the scale, of either sign. A zero group gives 0 and leaves every code 0,
///           not `last`.
/// Cost      the groups run in lanes.
/// Source    make_q3_quants with do_rmse; last = nmax.
template <class Arch, int n, int G>
void search_symmetric_refined(int last, const float* x, std::uint8_t* codes,
                              float (&scales)[G]) noexcept {
  using lanes = float_lanes<Arch, G>;
  using mask = typename lanes::mask;
  // Element i of every group side by side.
  float x_of[n * G];
  for (int i = 0; i < n; ++i) {
    for (int g = 0; g < G; ++g) x_of[i * G + g] = x[g * n + i];
  }
  const lanes zero = lanes::broadcast(0);
  lanes extreme = zero;
  for (int i = 0; i < n; ++i) {
    const lanes xi = lanes::load(x_of + i * G);
    extreme = select(magnitude(xi) > magnitude(extreme), xi, extreme);
  }
  const mask is_zero = magnitude(extreme) < lanes::broadcast(zero_group_magnitude);
  const lanes inverse = lanes::broadcast(static_cast<float>(-last)) / extreme;
  lanes levels[n];
  lanes sum_xl = zero;
  lanes sum_ll = zero;
  for (int i = 0; i < n; ++i) {
    const lanes xi = lanes::load(x_of + i * G);
    const lanes w = xi * xi;
    levels[i] = to_float(rint_even(unfused(inverse * xi)).clamped(-last, last - 1));
    sum_xl = sum_xl + unfused(w * xi * levels[i]);
    sum_ll = sum_ll + unfused(w * levels[i] * levels[i]);
  }
  for (int sweep = 0; sweep < 5; ++sweep) {
    mask changed = mask::broadcast(0);
    for (int i = 0; i < n; ++i) {
      const lanes xi = lanes::load(x_of + i * G);
      const lanes w = xi * xi;
      const lanes wx = w * xi;
      lanes others_xl = sum_xl - unfused(wx * levels[i]);
      lanes others_ll = sum_ll - unfused(w * levels[i] * levels[i]);
      const mask sweeps = others_xl > zero;
      const lanes moved =
          to_float(rint_even(unfused(xi * others_ll / others_xl)).clamped(-last, last - 1));
      const mask differs = !(moved == levels[i]);
      others_xl = others_xl + unfused(wx * moved);
      others_ll = others_ll + unfused(w * moved * moved);
      const mask better = sweeps & differs & (others_ll > zero) &
                          (others_xl * others_xl * sum_ll > sum_xl * sum_xl * others_ll);
      levels[i] = select(better, moved, levels[i]);
      sum_xl = select(better, others_xl, sum_xl);
      sum_ll = select(better, others_ll, sum_ll);
      changed = changed + better;
    }
    if (!any(changed)) break;
  }
  select(is_zero, zero, select(sum_ll > zero, sum_xl / sum_ll, zero)).store(scales);
  std::int32_t zero_groups[G];
  is_zero.store(zero_groups);
  for (int i = 0; i < n; ++i) {
    float levels_of[G];
    levels[i].store(levels_of);
    for (int g = 0; g < G; ++g) {
      const int code = static_cast<int>(levels_of[g]) + last;
      codes[g * n + i] = static_cast<std::uint8_t>(zero_groups[g] != 0 ? 0 : code);
    }
  }
}

/// Which inverse scales search_affine tries, (last + first + step * k) / range for k in [0, steps],
/// and what it minimises: weighted absolute instead of squared error when `absolute_error`.
struct affine_candidates {
  float first;
  float step;
  int steps;
  bool absolute_error;
};

/// x[i] ~ scale * codes[i] - minimum.
struct affine_scale {
  float scale;
  float minimum;
};

/// For each of G groups of n consecutive weights, x[i] ~ scale * codes[i] - minimum, codes in
/// [0, last], minimum >= 0: the least weighted error among the candidates, each a weighted least
/// squares fit to its codes. The range that divides a candidate's inverse scale starts at the best
/// minimum so far, as in the reference.
///
/// Shapes    x, weight, codes [G, n]; found [G].
/// Requires  weights are non-negative; candidates.steps >= 0.
/// Returns   in found: scale 0 and all codes 0 for a constant group that is not positive; the
///           minimum alone carries it then.
/// Cost      the groups run in lanes: eight of them take hardly longer than one.
/// Source    make_qkx2_quants, and make_qkx3_quants with weights, which computes the same; last =
///           nmax, first = rmin, step = rdelta, steps = nstep.
template <class Arch, int n, int G>
void search_affine(int last, const float* x, const float* weight,
                   const affine_candidates& candidates, std::uint8_t* codes,
                   affine_scale (&found)[G]) noexcept {
  using lanes = float_lanes<Arch, G>;
  using mask = typename lanes::mask;
  // Element i of every group side by side.
  float x_of[n * G];
  float weight_of[n * G];
  for (int i = 0; i < n; ++i) {
    for (int g = 0; g < G; ++g) {
      x_of[i * G + g] = x[g * n + i];
      weight_of[i * G + g] = weight[g * n + i];
    }
  }
  const lanes zero = lanes::broadcast(0);
  lanes low = lanes::load(x_of);
  lanes high = low;
  lanes sum_w = lanes::load(weight_of);
  lanes sum_x = sum_w * low;
  for (int i = 1; i < n; ++i) {
    const lanes xi = lanes::load(x_of + i * G);
    const lanes wi = lanes::load(weight_of + i * G);
    low = select(xi < low, xi, low);
    high = select(xi > high, xi, high);
    sum_w = sum_w + wi;
    sum_x = sum_x + unfused(wi * xi);
  }
  low = select(low > zero, zero, low);
  const mask constant = high == low;

  const auto level_of = [&](const lanes& inverse, const lanes& from, int i) noexcept {
    const lanes scaled = unfused(inverse * (lanes::load(x_of + i * G) - from));
    return rint_even(scaled).clamped(0, last);
  };
  lanes levels[n];
  const auto error_of = [&](const lanes& scale, const lanes& offset) noexcept {
    lanes error = zero;
    for (int i = 0; i < n; ++i) {
      const lanes difference = unfused(scale * levels[i]) + offset - lanes::load(x_of + i * G);
      const lanes cost =
          candidates.absolute_error ? magnitude(difference) : difference * difference;
      error = error + unfused(lanes::load(weight_of + i * G) * cost);
    }
    return error;
  };

  // The codes are those of the best candidate: its inverse scale and the minimum of that moment.
  lanes best_inverse = lanes::broadcast(static_cast<float>(last)) / (high - low);
  lanes best_from = low;
  lanes scale = lanes::broadcast(1) / best_inverse;
  for (int i = 0; i < n; ++i) levels[i] = to_float(level_of(best_inverse, low, i));
  lanes best_error = error_of(scale, low);

  for (int k = 0; k <= candidates.steps; ++k) {
    const float numerator = candidates.first + unfused(candidates.step * static_cast<float>(k)) +
                            static_cast<float>(last);
    const lanes inverse = lanes::broadcast(numerator) / (high - low);
    lanes sum_l = zero;
    lanes sum_ll = zero;
    lanes sum_xl = zero;
    for (int i = 0; i < n; ++i) {
      levels[i] = to_float(level_of(inverse, low, i));
      const lanes l = unfused(lanes::load(weight_of + i * G) * levels[i]);
      sum_l = sum_l + l;
      sum_ll = sum_ll + unfused(l * levels[i]);
      sum_xl = sum_xl + unfused(l * lanes::load(x_of + i * G));
    }
    const lanes determinant = unfused(sum_w * sum_ll) - unfused(sum_l * sum_l);
    lanes trial_scale = (unfused(sum_w * sum_xl) - unfused(sum_x * sum_l)) / determinant;
    lanes trial_low = (unfused(sum_ll * sum_x) - unfused(sum_l * sum_xl)) / determinant;
    const mask positive = trial_low > zero;
    trial_scale = select(positive, sum_xl / sum_ll, trial_scale);
    trial_low = select(positive, zero, trial_low);
    const lanes error = error_of(trial_scale, trial_low);
    const mask better = (determinant > zero) & (error < best_error);
    best_error = select(better, error, best_error);
    best_inverse = select(better, inverse, best_inverse);
    best_from = select(better, low, best_from);
    scale = select(better, trial_scale, scale);
    low = select(better, trial_low, low);
  }

  std::int32_t is_constant[G];
  float scales[G];
  float lows[G];
  constant.store(is_constant);
  scale.store(scales);
  low.store(lows);
  for (int i = 0; i < n; ++i) {
    std::int32_t levels_of[G];
    level_of(best_inverse, best_from, i).store(levels_of);
    for (int g = 0; g < G; ++g) {
      codes[g * n + i] = static_cast<std::uint8_t>(is_constant[g] != 0 ? 0 : levels_of[g]);
    }
  }
  for (int g = 0; g < G; ++g) found[g] = {is_constant[g] != 0 ? 0.0F : scales[g], -lows[g]};
}

/// The most blocks that encode_affine_blocks takes.
inline constexpr int affine_batch = 8;

/// With importance, the reference encoder of formats with 32 weights, a scale and a minimum:
/// consecutive blocks of F, codes in [0, last], in the time of one.
template <class F, class Arch>
void encode_affine_blocks(int last, const float* w, const float* importance, float row_mean_square,
                          int count, F* out) noexcept {
  float x[32 * affine_batch] = {};
  float weight[32 * affine_batch] = {};
  for (int i = 0; i < 32 * count; ++i) x[i] = w[i];
  energy_weights<Arch>(32 * count, w, importance, row_mean_square, weight);
  std::uint8_t codes[32 * affine_batch];
  affine_scale found[affine_batch];
  search_affine<Arch, 32>(last, x, weight, {-0.9F, 0.05F, 36, false}, codes, found);
  for (int b = 0; b < count; ++b) {
    typename F::codes own;
    for (int i = 0; i < 32; ++i) own[i] = codes[32 * b + i];
    out[b] = F::join({half::nearest(found[b].scale), half::nearest(-found[b].minimum)}, own);
  }
}

/// x[i] ~ scale * codes[i] for x[i] >= 0, codes in [0, last]: the best of nine scales by weighted
/// squared error, then up to five sweeps that move one code at a time where that lowers the error.
///
/// Requires  n <= max_search_group; weight is n non-negative numbers.
/// Returns   the scale; 0 and all codes 0 for a zero group. For a negative x[i] the code is some
///           number modulo 256, as in the reference.
/// Source    make_qp_quants; last = nmax.
template <class Arch>
[[nodiscard]] float search_nonnegative(int n, int last, const float* x, const float* weight,
                                       std::uint8_t* codes) noexcept {
  float largest = 0;
  for (int i = 0; i < n; ++i) largest = largest > x[i] ? largest : x[i];
  if (largest < zero_group_magnitude) {
    for (int i = 0; i < n; ++i) codes[i] = 0;
    return 0;
  }
  float best_inverse = 0;
  float best_error = 0;
  // Candidate 0 first: it is the one that the others must beat.
  for (int order = 0; order < 9; ++order) {
    const int step = order == 0 ? 0 : (order < 5 ? order - 5 : order - 4);
    const float inverse =
        (unfused(0.1F * static_cast<float>(step)) + static_cast<float>(last)) / largest;
    const float scale = 1.0F / inverse;
    float error = 0;
    for (int i = 0; i < n; ++i) {
      const int nearest = rint_even(unfused(inverse * x[i]));
      // The reference stores the first candidate's levels in bytes and does not limit them.
      const int l = order == 0 ? nearest & 255 : (nearest < last ? nearest : last);
      const float difference = x[i] - unfused(scale * static_cast<float>(l));
      error += unfused(weight[i] * difference * difference);
    }
    if (order == 0 || error < best_error) {
      best_error = error;
      best_inverse = inverse;
    }
  }

  float sum_xl = 0;
  float sum_ll = 0;
  for (int i = 0; i < n; ++i) {
    const int nearest = rint_even(unfused(best_inverse * x[i]));
    const int l = nearest < last ? nearest : last;
    const float level = static_cast<float>(l);
    codes[i] = static_cast<std::uint8_t>(l);
    sum_xl += unfused(weight[i] * x[i] * level);
    sum_ll += unfused(weight[i] * level * level);
  }
  for (int sweep = 0; sweep < 5; ++sweep) {
    bool changed = false;
    for (int i = 0; i < n; ++i) {
      const float w = weight[i];
      const float level = static_cast<float>(codes[i]);
      float others_xl = sum_xl - unfused(w * x[i] * level);
      float others_ll = sum_ll - unfused(w * level * level);
      if (!(others_xl > 0 && others_ll > 0)) continue;
      const int nearest = rint_even(x[i] * others_ll / others_xl);
      const int moved = nearest < last ? nearest : last;
      if (moved == codes[i]) continue;
      const float moved_level = static_cast<float>(moved);
      others_xl += unfused(w * x[i] * moved_level);
      others_ll += unfused(w * moved_level * moved_level);
      if (others_xl * others_xl * sum_ll > sum_xl * sum_xl * others_ll) {
        codes[i] = static_cast<std::uint8_t>(moved);
        sum_xl = others_xl;
        sum_ll = others_ll;
        changed = true;
      }
    }
    if (!changed) break;
  }
  return sum_ll > 0 ? sum_xl / sum_ll : 0.0F;
}

/// codes[i] = (x[i] - low) * inverse + bias truncated and limited to [0, last], NaN giving 0, for
/// 32 weights.
template <class Arch>
SUBBYTE_INLINE void truncate_affine(const float* x, float low, float inverse, float bias, int last,
                                    std::uint8_t* codes) noexcept {
  using lanes = float_lanes<Arch, 16>;
  for (int i = 0; i < 32; i += 16) {
    const lanes raised = lanes::load(x + i) - lanes::broadcast(low);
    const lanes scaled = unfused(raised * lanes::broadcast(inverse)) + lanes::broadcast(bias);
    trunc_to_int(limited(scaled, 0, static_cast<float>(last))).store_bytes(codes + i);
  }
}

/// codes[i] = (x[i] + minimum) / step rounded and limited to [0, last]; unchanged when step is 0.
template <class Arch>
void round_affine(int n, int last, const float* x, float step, float minimum,
                  std::uint8_t* codes) noexcept {
  if (step == 0) return;
  const float shift = unfused(minimum);
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<std::uint8_t>(clamp(rint_even((x[i] + shift) / step), 0, last));
  }
}

/// codes[i] = x[i] / step rounded, limited to [-last, last) and raised by last; unchanged when step
/// is 0.
template <class Arch>
void round_symmetric(int n, int last, const float* x, float step, std::uint8_t* codes) noexcept {
  if (step == 0) return;
  for (int i = 0; i < n; ++i) {
    codes[i] = static_cast<std::uint8_t>(clamp(rint_even(x[i] / step), -last, last - 1) + last);
  }
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
