// SPDX-License-Identifier: Apache-2.0
/// What ik_llama.cpp's non-linear formats share: 256 weights in groups of 16 or 32, each group with
/// an integer scale under one factor and a choice between two positions of a codebook.
///
/// A format F of this kind states `codebook` (a type of shifted_codebook.hpp), `group_size`,
/// `groups` and `levels`, which integers a group's scale can be. Its params are shifted_params.
///
/// Numerics  the searches are defined operation by operation, as those of search.hpp: the same bits
///           on every compiler, flag and CPU.
#pragma once

#include <utility>  // std::integer_sequence

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/format/shifted_codebook.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// A weight of group g is scale * group_scales[g] * level(code), the level being the shifted one
/// where bit g of `shifted` is set.
template <class Scale, int Groups>
struct shifted_params {
  Scale scale;
  std::int8_t group_scales[Groups];
  std::uint16_t shifted;

  SUBBYTE_HD_INLINE friend constexpr bool operator==(const shifted_params& a,
                                                     const shifted_params& b) noexcept {
    for (int g = 0; g < Groups; ++g) {
      if (a.group_scales[g] != b.group_scales[g]) return false;
    }
    return a.scale == b.scale && a.shifted == b.shifted;
  }
};

/// A row-scaled format of this kind: what encode_shifted_row makes rows of.
template <class F>
concept shifted_row_format = row_scaled_format<F> && requires {
  typename F::codebook;
  F::levels;
  F::groups;
};

/// The integers first, first + step, ..., `count` of them; first has the largest magnitude.
struct scale_levels {
  int first;
  int step;  ///< 1 or 2
  int count;

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr int last() const noexcept {
    return first + step * (count - 1);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr int limited(int level) const noexcept {
    return level < first ? first : (level > last() ? last() : level);
  }
  /// The integer nearest to x, up to the rounding of x - first; NaN gives the first.
  [[nodiscard]] SUBBYTE_INLINE constexpr int nearest(float x) const noexcept {
    if (!(x > static_cast<float>(first))) return first;
    if (x > static_cast<float>(last())) return last();
    const float above = x - static_cast<float>(first);
    return first + step * clamp(rint_even(step == 2 ? unfused(0.5F * above) : above), 0, count - 1);
  }
};

template <class F>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr float shifted_step(int g,
                                                             const typename F::params& p) noexcept {
  return p.scale.to_float() * static_cast<float>(p.group_scales[g]);
}

/// F::value: the weight that a code stands for.
template <class F>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr float shifted_value(
    int code, int i, const typename F::params& p) noexcept {
  const int g = i / F::group_size;
  return shifted_step<F>(g, p) *
         shifted_level<typename F::codebook>(code, (p.shifted >> g & 1) != 0);
}

/// F::round: the nearest code; ties to the lower one.
template <class F>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int shifted_round(float weight, int i,
                                                            const typename F::params& p) noexcept {
  using codebook = typename F::codebook;
  const int g = i / F::group_size;
  const float d = shifted_step<F>(g, p);
  const float shift = (p.shifted >> g & 1) != 0 ? codebook::shift : 0.0F;
  const int guess = d != 0 ? codebook::nearest(weight / d - shift) : 0;
  return nearest_beside<F>(guess, weight, i, p, (1 << codebook::bits) - 1);
}

/// F::decode: the same values as shifted_value.
template <class F>
SUBBYTE_HD_INLINE constexpr void shifted_decode(const unpacked<F>& u,
                                                float* __restrict out) noexcept {
  for (int g = 0; g < F::groups; ++g) {
    const float d = shifted_step<F>(g, u.params);
    const bool shifted = (u.params.shifted >> g & 1) != 0;
    for (int j = F::group_size * g; j < F::group_size * (g + 1); ++j) {
      out[j] = d * shifted_level<typename F::codebook>(u.codes[j], shifted);
    }
  }
}

/// The low two bits of 256 codes in 64 bytes: code i in bits 2r and 2r + 1 of byte 32 (i / 128) +
/// i % 32, r = i % 128 / 32.
SUBBYTE_HD_INLINE constexpr void pack_bit_pairs(const code_block<256>& c,
                                                std::uint8_t* bytes) noexcept {
  for (int i = 0; i < 64; ++i) bytes[i] = 0;
  for (int i = 0; i < 256; ++i) {
    std::uint8_t& byte = bytes[32 * (i / 128) + i % 32];
    byte = static_cast<std::uint8_t>(byte | (c[i] & 3) << (i % 128 / 32 * 2));
  }
}
SUBBYTE_HD_INLINE constexpr void unpack_bit_pairs(const std::uint8_t* bytes,
                                                  code_block<256>& c) noexcept {
  for (int h = 0; h < 2; ++h) {
    for (int r = 0; r < 4; ++r) {
      for (int l = 0; l < 32; ++l) {
        c[128 * h + 32 * r + l] = static_cast<std::uint8_t>(bytes[32 * h + l] >> (2 * r) & 3);
      }
    }
  }
}

/// Bit `plane` of 256 codes in 32 bytes: that of code i is bit i / 32 of byte i % 32.
SUBBYTE_HD_INLINE constexpr void pack_bit_plane(const code_block<256>& c, int plane,
                                                std::uint8_t* bytes) noexcept {
  for (int l = 0; l < 32; ++l) {
    int byte = 0;
    for (int k = 0; k < 8; ++k) byte |= (c[32 * k + l] >> plane & 1) << k;
    bytes[l] = static_cast<std::uint8_t>(byte);
  }
}
SUBBYTE_HD_INLINE constexpr void unpack_bit_plane(const std::uint8_t* bytes, int plane,
                                                  code_block<256>& c) noexcept {
  for (int k = 0; k < 8; ++k) {
    for (int l = 0; l < 32; ++l) {
      c[32 * k + l] = static_cast<std::uint8_t>(c[32 * k + l] | (bytes[l] >> k & 1) << plane);
    }
  }
}

/// The low four bits of 256 codes in 128 bytes, in runs of 2 N codes: in run k code j is the low
/// nibble of byte N k + j, code j + N the high one. N is 16 or 32.
template <int N>
SUBBYTE_HD_INLINE constexpr void pack_nibbles(const code_block<256>& c,
                                              std::uint8_t* bytes) noexcept {
  for (int k = 0; k < 128 / N; ++k) {
    for (int j = 0; j < N; ++j) {
      const int pair = (c[2 * N * k + j] & 15) | (c[2 * N * k + j + N] & 15) << 4;
      bytes[N * k + j] = static_cast<std::uint8_t>(pair);
    }
  }
}
template <int N>
SUBBYTE_HD_INLINE constexpr void unpack_nibbles(const std::uint8_t* bytes,
                                                code_block<256>& c) noexcept {
  for (int k = 0; k < 128 / N; ++k) {
    for (int j = 0; j < N; ++j) {
      c[2 * N * k + j] = static_cast<std::uint8_t>(bytes[N * k + j] & 15);
      c[2 * N * k + j + N] = static_cast<std::uint8_t>(bytes[N * k + j] >> 4);
    }
  }
}

/// 16 group scales of 6 bits with bias 32 in 12 bytes: the low four bits of scale g are nibble
/// g % 2 (low first) of low[g / 2], its high two bits are bits 2 (g % 4) and 2 (g % 4) + 1 of
/// high[g / 4].
SUBBYTE_HD_INLINE constexpr void pack_6bit_scales(const std::int8_t* scales, std::uint8_t* high,
                                                  std::uint8_t* low) noexcept {
  for (int i = 0; i < 4; ++i) high[i] = 0;
  for (int i = 0; i < 8; ++i) low[i] = 0;
  for (int g = 0; g < 16; ++g) {
    const int stored = scales[g] + 32;
    low[g / 2] = static_cast<std::uint8_t>(low[g / 2] | (stored & 15) << (g % 2 * 4));
    high[g / 4] = static_cast<std::uint8_t>(high[g / 4] | (stored >> 4 & 3) << (g % 4 * 2));
  }
}
SUBBYTE_HD_INLINE constexpr void unpack_6bit_scales(const std::uint8_t* high,
                                                    const std::uint8_t* low,
                                                    std::int8_t* scales) noexcept {
  for (int g = 0; g < 16; ++g) {
    const int stored = (low[g / 2] >> (g % 2 * 4) & 15) | (high[g / 4] >> (g % 4 * 2) & 3) << 4;
    scales[g] = static_cast<std::int8_t>(stored - 32);
  }
}

/// 8 odd group scales and positions in 8 bytes: byte g is group scale + 127, which is even, plus 1
/// if the group is shifted.
template <class Scale>
SUBBYTE_HD_INLINE constexpr void pack_odd_scales(const shifted_params<Scale, 8>& p,
                                                 std::uint8_t* bytes) noexcept {
  for (int g = 0; g < 8; ++g) {
    bytes[g] = static_cast<std::uint8_t>((p.group_scales[g] + 127) | (p.shifted >> g & 1));
  }
}
template <class Scale>
SUBBYTE_HD_INLINE constexpr void unpack_odd_scales(const std::uint8_t* bytes,
                                                   shifted_params<Scale, 8>& p) noexcept {
  p.shifted = 0;
  for (int g = 0; g < 8; ++g) {
    p.group_scales[g] = static_cast<std::int8_t>((bytes[g] & 254) - 127);
    p.shifted = static_cast<std::uint16_t>(p.shifted | (bytes[g] & 1) << g);
  }
}

/// value(nearest(x)) of an ascending codebook in every lane.
template <class C, class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> nearest_levels(
    const float_lanes<Arch, N>& x) noexcept {
  using lanes = float_lanes<Arch, N>;
  constexpr int last = (1 << C::bits) - 1;
  lanes level = lanes::broadcast(C::value(last));
  const auto lower = [&]<int code>(std::integral_constant<int, code>) {
    constexpr float value = C::value(code);
    constexpr float bound = 0.5F * value + 0.5F * C::value(code + 1);
    level = select(x < lanes::broadcast(bound), lanes::broadcast(value), level);
  };
  // Unrolled by hand: compilers keep the loop, and the tables with it.
  [&]<int... up>(std::integer_sequence<int, up...>) {
    (lower(std::integral_constant<int, last - 1 - up>{}), ...);
  }
  (std::make_integer_sequence<int, last>{});
  return level;
}

/// A group's own best scale, before it becomes an integer, and the error's growth around it.
struct group_fit {
  float scale;
  float curvature;
};

/// x[i] ~ scale * level for n weights: the least weighted squared error among scales that put the
/// weight of largest magnitude near either end of the codebook, in both its positions, each
/// refitted to its levels.
///
/// Requires  weight is n non-negative numbers.
/// Returns   a scale of either sign; 0 for a group of zeros.
template <class C, class Arch, int n>
[[nodiscard]] group_fit search_shifted(const float* x, const float* weight) noexcept {
  const float extreme = signed_extreme<Arch>(x, n);
  if (magnitude(extreme) < zero_group_magnitude) return {0, 0};
  constexpr int trials = 16;
  constexpr int last = (1 << C::bits) - 1;
  // Where the extreme weight may fall, as a multiple of the end level: fine codebooks need a
  // narrower range and, per end, fewer trials.
  constexpr bool ends_apart = C::bits <= 3;
  constexpr int per_end = ends_apart ? trials : trials / 2;
  constexpr float from = C::bits == 2 ? 0.55F : C::bits == 3 ? 0.7F : C::bits == 4 ? 0.84F : 0.92F;
  constexpr float to = C::bits == 2 ? 1.45F : C::bits == 3 ? 1.25F : C::bits == 4 ? 1.12F : 1.05F;
  constexpr float spacing = (to - from) / static_cast<float>(per_end - 1);
  using lanes = float_lanes<Arch, trials>;
  group_fit best{extreme / C::value(0), 0};
  float least = -1;
  for (int round = 0; round < (ends_apart ? 4 : 2); ++round) {
    const bool shifted = round % 2 != 0;
    const float shift = shifted ? C::shift : 0.0F;
    float inverses[trials];
    for (int k = 0; k < trials; ++k) {
      const bool upper = ends_apart ? round >= 2 : k >= per_end;
      const float end = shifted_level<C>(upper ? last : 0, shifted);
      const float multiple = from + unfused(spacing * static_cast<float>(k % per_end));
      inverses[k] = multiple * end / extreme;
    }
    const lanes inverse = lanes::load(inverses);
    lanes sum_xl = lanes::broadcast(0);
    lanes sum_ll = lanes::broadcast(0);
    for (int i = 0; i < n; ++i) {
      const lanes target = unfused(inverse * lanes::broadcast(x[i])) - lanes::broadcast(shift);
      const lanes level = nearest_levels<C>(target) + lanes::broadcast(shift);
      const lanes weighted = lanes::broadcast(weight[i]) * level;
      sum_xl = sum_xl + unfused(weighted * lanes::broadcast(x[i]));
      sum_ll = sum_ll + unfused(weighted * level);
    }
    float xl[trials];
    float ll[trials];
    sum_xl.store(xl);
    sum_ll.store(ll);
    for (int k = 0; k < trials; ++k) {
      if (ll[k] > 0 && xl[k] * xl[k] > least * ll[k]) {
        best = {xl[k] / ll[k], ll[k]};
        least = best.scale * xl[k];
      }
    }
  }
  return best;
}

/// The factor that makes n group scales come out as integers of `levels` with the least weighted
/// squared error: 19 that put the scale of largest magnitude near the first integer, each refitted.
template <class Arch>
[[nodiscard]] float search_factor(const group_fit* groups, index_t n,
                                  const scale_levels& levels) noexcept {
  float extreme = 0;
  for (index_t g = 0; g < n; ++g) {
    if (magnitude(groups[g].scale) > magnitude(extreme)) extreme = groups[g].scale;
  }
  if (!(magnitude(extreme) > 0)) return 0;
  const float first = static_cast<float>(levels.first);
  float factor = extreme / first;
  float least = -1;
  for (int k = 0; k < 19; ++k) {
    const float multiple = 0.82F + unfused(0.02F * static_cast<float>(k));
    const float inverse = multiple * first / extreme;
    float sum_sl = 0;
    float sum_ll = 0;
    for (index_t g = 0; g < n; ++g) {
      const float level = static_cast<float>(levels.nearest(unfused(inverse * groups[g].scale)));
      sum_sl += unfused(groups[g].curvature * groups[g].scale * level);
      sum_ll += unfused(groups[g].curvature * level * level);
    }
    if (sum_ll > 0 && sum_sl * sum_sl > least * sum_ll) {
      factor = sum_sl / sum_ll;
      least = factor * sum_sl;
    }
  }
  return factor;
}

/// A group's integer scale and position under a given factor, and what refitting that factor needs.
struct group_choice {
  int level;
  bool shifted;
  float error;
  float sum_xl;
  float sum_ll;
};

/// The integer and the position with the least weighted squared error among the integers beside
/// scale / factor.
template <class F, class Arch>
[[nodiscard]] group_choice choose_level(float factor, float scale, const float* x,
                                        const float* weight) noexcept {
  using codebook = typename F::codebook;
  // Coarse codebooks are worth a wider search.
  constexpr int trials = codebook::bits <= 3 ? 16 : 8;
  using lanes = float_lanes<Arch, trials>;
  const int middle = factor != 0 ? F::levels.nearest(scale / factor) : F::levels.nearest(0);
  int levels[trials];
  float multiples[trials];
  float steps[trials];
  float inverses[trials];
  float shifts[trials];
  for (int k = 0; k < trials; ++k) {
    const int beside = (k / 2 + 1) / 2 * (k / 2 % 2 != 0 ? -1 : 1);  // 0, -1, 1, -2, 2, ...
    levels[k] = F::levels.limited(middle + F::levels.step * beside);
    multiples[k] = static_cast<float>(levels[k]);
    steps[k] = factor * multiples[k];
    inverses[k] = steps[k] != 0 ? 1.0F / steps[k] : 0.0F;
    shifts[k] = k % 2 != 0 ? codebook::shift : 0.0F;
  }
  const lanes step = lanes::load(steps);
  const lanes inverse = lanes::load(inverses);
  const lanes shift = lanes::load(shifts);
  const lanes multiple = lanes::load(multiples);
  lanes error = lanes::broadcast(0);
  lanes sum_xl = lanes::broadcast(0);
  lanes sum_ll = lanes::broadcast(0);
  for (int i = 0; i < F::group_size; ++i) {
    const lanes v = lanes::broadcast(x[i]);
    const lanes w = lanes::broadcast(weight[i]);
    const lanes level = nearest_levels<codebook>(unfused(inverse * v) - shift) + shift;
    const lanes difference = v - unfused(step * level);
    error = error + unfused(w * difference * difference);
    const lanes product = multiple * level;
    const lanes weighted = w * product;
    sum_xl = sum_xl + unfused(weighted * v);
    sum_ll = sum_ll + unfused(weighted * product);
  }
  float errors[trials];
  float xl[trials];
  float ll[trials];
  error.store(errors);
  sum_xl.store(xl);
  sum_ll.store(ll);
  int chosen = 0;
  for (int k = 1; k < trials; ++k) {
    if (errors[k] < errors[chosen]) chosen = k;
  }
  return {levels[chosen], chosen % 2 != 0, errors[chosen], xl[chosen], ll[chosen]};
}

/// The integer scales and positions of one block under a given factor.
template <class F>
struct block_choice {
  typename F::params stored;
  float error;
  float sum_xl;
  float sum_ll;
};

template <class F, class Arch>
[[nodiscard]] block_choice<F> choose_levels(decltype(F::params::scale) factor,
                                            const group_fit* groups, const float* x,
                                            const float* weight) noexcept {
  block_choice<F> block{{factor, {}, 0}, 0, 0, 0};
  for (int g = 0; g < F::groups; ++g) {
    const int first = F::group_size * g;
    const group_choice own =
        choose_level<F, Arch>(factor.to_float(), groups[g].scale, x + first, weight + first);
    block.stored.group_scales[g] = static_cast<std::int8_t>(own.level);
    if (own.shifted) {
      block.stored.shifted = static_cast<std::uint16_t>(block.stored.shifted | 1 << g);
    }
    block.error += own.error;
    block.sum_xl += own.sum_xl;
    block.sum_ll += own.sum_ll;
  }
  return block;
}

/// The error weights of the searches: importance, or 1 for all.
template <class Arch>
SUBBYTE_INLINE void shifted_weights(int n, const float* importance, float* out) noexcept {
  for (int i = 0; i < n; ++i) out[i] = importance != nullptr ? importance[i] : 1.0F;
}

template <class F, class Arch>
void search_groups(const float* x, const float* weight, group_fit* groups) noexcept {
  for (int g = 0; g < F::groups; ++g) {
    const int first = F::group_size * g;
    groups[g] =
        search_shifted<typename F::codebook, Arch, F::group_size>(x + first, weight + first);
  }
}

/// F::fit of a format whose factor is the block's own: a scale per group, a factor that makes
/// integers of them, then integers, positions and factor in turns under the weighted squared error
/// of what is stored.
template <class F, class Arch>
[[nodiscard]] typename F::params fit_shifted(const float* x, const float* importance) noexcept {
  using scale_type = decltype(F::params::scale);
  float weight[F::block_size];
  shifted_weights<Arch>(F::block_size, importance, weight);
  group_fit groups[F::groups];
  search_groups<F, Arch>(x, weight, groups);
  float factor = search_factor<Arch>(groups, F::groups, F::levels);
  block_choice<F> best = choose_levels<F, Arch>(scale_type::nearest(factor), groups, x, weight);
  block_choice<F> latest = best;
  for (int turn = 0; turn < 2 && latest.sum_ll > 0; ++turn) {
    factor = latest.sum_xl / latest.sum_ll;
    latest = choose_levels<F, Arch>(scale_type::nearest(factor), groups, x, weight);
    if (latest.error < best.error) best = latest;
  }
  return best.stored;
}

/// F::fit of a format whose factor is the row's: the integers and positions under that factor.
template <class F, class Arch>
[[nodiscard]] typename F::params fit_shifted(const float* x, const float* importance,
                                             const typename F::row_scale& factor) noexcept {
  float weight[F::block_size];
  shifted_weights<Arch>(F::block_size, importance, weight);
  group_fit groups[F::groups];
  search_groups<F, Arch>(x, weight, groups);
  return choose_levels<F, Arch>(factor, groups, x, weight).stored;
}

/// A row of a row-scaled format: as fit_shifted, with one factor for all its blocks.
///
/// load(b, x, weight) copies out the block_size weights and error weights of block b. It is called
/// several times for each block.
///
/// Shapes    groups [blocks * F::groups], scratch; out [blocks].
/// Returns   the scale of the row.
template <shifted_row_format F, class Arch, class Load>
[[nodiscard]] typename F::row_scale encode_shifted_row(index_t blocks, const Load& load,
                                                       group_fit* groups, F* out) noexcept {
  using scale_type = typename F::row_scale;
  float x[F::block_size];
  float weight[F::block_size];
  for (index_t b = 0; b < blocks; ++b) {
    load(b, x, weight);
    search_groups<F, Arch>(x, weight, groups + b * F::groups);
  }
  float factor = search_factor<Arch>(groups, blocks * F::groups, F::levels);
  scale_type best = scale_type::nearest(factor);
  float least = 0;
  for (int turn = 0; turn < 3; ++turn) {
    const scale_type stored = scale_type::nearest(factor);
    float error = 0;
    float sum_xl = 0;
    float sum_ll = 0;
    for (index_t b = 0; b < blocks; ++b) {
      load(b, x, weight);
      const block_choice<F> own = choose_levels<F, Arch>(stored, groups + b * F::groups, x, weight);
      error += own.error;
      sum_xl += own.sum_xl;
      sum_ll += own.sum_ll;
    }
    if (turn == 0 || error < least) {
      best = stored;
      least = error;
    }
    if (!(sum_ll > 0)) break;
    factor = sum_xl / sum_ll;
  }
  for (index_t b = 0; b < blocks; ++b) {
    load(b, x, weight);
    const typename F::params p =
        choose_levels<F, Arch>(best, groups + b * F::groups, x, weight).stored;
    out[b] = F::template encode<Arch>(x, weight, p);
  }
  return best;
}

/// Nearest codes under given params: F::encode of the formats whose codes are independent.
template <class F, class Arch>
[[nodiscard]] F encode_shifted(const float* x, const typename F::params& p) noexcept {
  typename F::codes c{};
  for (int i = 0; i < F::block_size; ++i) {
    c[i] = static_cast<std::uint8_t>(F::round(x[i], i, p));
  }
  return F::join(p, c);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
