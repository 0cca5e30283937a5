// SPDX-License-Identifier: Apache-2.0
/// The search of least error of the IQ formats: a block as 32 octets of weights, scales tried for
/// each group, and the comparison with the reference encoder's block.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/level_search.hpp"
#include "subbyte/format/search.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// What a block stores, unpacked.
struct octet_block {
  half scale;              ///< 0: no scale leaves less error than zeros do
  std::uint8_t level[16];  ///< of every group
  std::uint8_t signs[32];  ///< of every octet: bit j makes weight j negative; or bit 0 shifts down
  std::uint16_t points[64];  ///< in row order
};

/// How a search of least error goes.
struct octet_plan {
  float spread;    ///< a group's scales are tried from 1 - spread to 1 + spread times a first guess
  int scales;      ///< block scales, a multiple of 16
  float least;     ///< the first of them, of the one that gives the largest group the highest level
  float most;      ///< the last of them, likewise
  int passes;      ///< how often all octets are coded anew around the stored scales
  float narrowed;  ///< the spread of these
};

/// The searches of an encoder: effort 1 makes the first, 2 the first two, 3 all.
inline constexpr octet_plan octet_plans[3] = {
    {0.25F, 16, 0.86F, 1.2F, 0, 0},
    {0.4F, 64, 0.8F, 1.5F, 1, 0.1F},
    {0.3F, 256, 0.6F, 1.9F, 1, 0.15F},
};

/// What an octet is coded as at each tried scale; see octet_choices.
struct octet_trial {
  float twice[octet_trials];
  float square[octet_trials];
  std::uint32_t code[octet_trials];
};

/// Weights times a power of two that makes the largest magnitude at least 1 and less than 2, and
/// importance likewise.
struct scaled_octets {
  float x[256];
  float v[256];
  bool weighted;  ///< false: v counts as ones
  float unit;     ///< the power of two
  bool usable;    ///< false: something is not finite, all is zero, or too small for an fp16 scale

  [[nodiscard]] SUBBYTE_INLINE const float* importance_at(int i) const noexcept {
    return weighted ? v + i : nullptr;
  }

  template <class Arch>
  [[nodiscard]] static scaled_octets of(const float* w, const float* given) noexcept {
    scaled_octets s;
    const float largest = largest_magnitude<Arch>(w);
    s.weighted = given != nullptr;
    s.usable = largest >= 0x1p-60F && largest <= 3.40282347e+38F;
    if (!s.usable) return s;
    s.unit = inverse_power(largest);
    for (int i = 0; i < 256; ++i) s.x[i] = w[i] * s.unit;
    if (given == nullptr) return s;
    const float most = largest_magnitude<Arch>(given);
    s.usable = most >= 0x1p-120F && most <= 3.40282347e+38F;
    if (!s.usable) return s;
    const float factor = inverse_power(most);
    for (int i = 0; i < 256; ++i) s.v[i] = given[i] * factor;
    return s;
  }

 private:
  /// Infinite if one of them is not finite.
  template <class Arch>
  [[nodiscard]] static float largest_magnitude(const float* x) noexcept {
    // The bits of magnitudes order as they do, and NaNs above infinity.
    std::uint32_t largest = 0;
    for (int i = 0; i < 256; ++i) {
      const std::uint32_t bits = bit_cast<std::uint32_t>(x[i]) & 0x7FFFFFFFU;
      largest = bits > largest ? bits : largest;
    }
    return bit_cast<float>(largest < 0x7F800000U ? largest : 0x7F800000U);
  }

  /// 2^-e for 2^e <= value < 2^(e + 1), value normal; 2^-126 for the largest binade.
  [[nodiscard]] SUBBYTE_INLINE static float inverse_power(float value) noexcept {
    const std::uint32_t exponent = bit_cast<std::uint32_t>(value) >> 23;
    return bit_cast<float>((exponent < 253 ? 254 - exponent : 1U) << 23);
  }
};

/// sum(importance * (w - decoded)^2) over a block, in double; importance null: of ones.
template <class Arch, block_format F>
[[nodiscard]] double block_error(const F& block, const float* w, const float* importance) noexcept {
  float decoded[F::block_size];
  decode(block, decoded);
  double error = 0;
  for (int i = 0; i < F::block_size; ++i) {
    const double difference = static_cast<double>(w[i]) - static_cast<double>(decoded[i]);
    error += (importance != nullptr ? static_cast<double>(importance[i]) : 1.0) * difference *
             difference;
  }
  return error;
}

/// The block of least error among `block` and those of the searches that `effort` asks for; the
/// earlier one on ties. search(k) is what plan k finds, packed(search(k)) its block.
template <class Arch, block_format F, class Search, class Pack>
[[nodiscard]] F least_error_block(F block, const float* w, const float* importance, int effort,
                                  const Search& search, const Pack& packed) noexcept {
  double least = block_error<Arch>(block, w, importance);
  for (int k = 0; k < effort; ++k) {
    const octet_block found = search(k);
    if (found.scale.bits == 0) continue;
    const F tried = packed(found);
    const double error = block_error<Arch>(tried, w, importance);
    // A scale that overflowed leaves no number.
    if (error < least || (least != least && error == error)) {
      block = tried;
      least = error;
    }
  }
  return block;
}

/// The search of one format. Coder, which outlives it, says how:
/// groups, levels, variants   of a block; see level_search
/// top                        the largest magnitude of a level
/// code(x, v, scales, out)    the best way to code eight weights at each of octet_trials ascending
///                            scales: out[variant]
/// store(x, v, code, variant, octet, out)  writes a code into an octet_block
///
/// Scales of a group are tried around a guess, and around better ones as long as the best lies at
/// the border. Then one search finds the scale of the block together with all levels, from what the
/// trials chose; with more effort the octets are coded anew around the stored scales, and so on.
///
/// Numerics  sums run in fp32 in a stated order: the same bits on every compiler, arch and flag.
template <class Coder, class Arch>
class octet_search {
  static constexpr int groups = Coder::groups;
  static constexpr int variants = Coder::variants;
  static constexpr int octets = 32 / groups;
  using levels = level_search<groups, variants, Coder::levels, Arch>;
  using group = typename levels::group;

 public:
  explicit octet_search(const Coder& coder) noexcept : coder_(coder) {}

  /// guess.group_at[g].scale is about the scale of group g, or anything.
  ///
  /// Returns  a scale of 0 when nothing better than zeros was found, or something is not finite.
  template <class Guess>
  [[nodiscard]] octet_block operator()(const float* w, const float* importance, const Guess& guess,
                                       const octet_plan& plan) const noexcept {
    const auto weights = scaled_octets::of<Arch>(w, importance);
    if (!weights.usable) return {};
    levels search;
    search.unit = weights.unit;
    for (int g = 0; g < groups; ++g) {
      find_scale(weights, g, guess.group_at[g].scale * weights.unit, plan.spread,
                 search.group_at[g]);
    }
    half scale = search.refined(search.coarse(plan.scales, plan.least, plan.most), 1);
    for (int pass = 0; pass < plan.passes && scale.bits != 0; ++pass) {
      for (int g = 0; g < groups; ++g) {
        const int level = search.best_choice(search.group_at[g], scale).level;
        const float centre = search.seen(scale) * static_cast<float>(2 * level + 1);
        float scales[octet_trials];
        spread_around(centre, plan.narrowed, scales);
        (void)list_choices(weights, g, scales, search.group_at[g]);
      }
      const half before = scale;
      scale = search.refined(scale, 3);
      if (scale.bits == before.bits) break;
    }
    return unpacked(weights, search, scale);
  }

 private:
  /// The best of the tried scales of a group.
  struct best_trial {
    int index;
    float twice;
    float square;
  };

  static void spread_around(float centre, float spread, float (&scales)[octet_trials]) noexcept {
    for (int t = 0; t < octet_trials; ++t) {
      const float place = static_cast<float>(2 * t - (octet_trials - 1)) / (octet_trials - 1);
      scales[t] = centre * (1.0F + unfused(spread * place));
    }
  }

  void find_scale(const scaled_octets& weights, int g, float centre, float spread,
                  group& out) const noexcept {
    constexpr int n = 8 * octets;
    float largest = 0;
    for (int i = n * g; i < n * g + n; ++i) {
      const float size = magnitude(weights.x[i]);
      largest = size > largest ? size : largest;
    }
    // Also when the guess is NaN. Magnitudes are below 2 and levels at least 1/8.
    if (!(centre > 0 && centre < 16)) centre = largest > 0 ? largest / Coder::top : 1.0F;
    constexpr int attempts = 8;
    for (int attempt = 0; attempt < attempts; ++attempt) {
      float scales[octet_trials];
      spread_around(centre, spread, scales);
      const best_trial best = list_choices(weights, g, scales, out);
      out.scale = best.square > 0 && best.twice > 0 ? 0.5F * best.twice / best.square : 0.0F;
      const bool inside = best.index > 0 && best.index < octet_trials - 1;
      if (inside || out.scale == 0) return;
      centre = scales[best.index];
    }
  }

  [[nodiscard]] best_trial list_choices(const scaled_octets& weights, int g,
                                        const float (&scales)[octet_trials],
                                        group& out) const noexcept {
    float twice[variants][octet_trials] = {};
    float square[variants][octet_trials] = {};
    for (int o = 0; o < octets; ++o) {
      const int at = 8 * (octets * g + o);
      octet_trial found[variants];
      coder_.code(weights.x + at, weights.importance_at(at), scales, found);
      for (int v = 0; v < variants; ++v) {
        octet_choices& choices = out.octet[v][o];
        choices.count = 0;
        for (int t = 0; t < octet_trials; ++t) {
          twice[v][t] += found[v].twice[t];
          square[v][t] += found[v].square[t];
          const int last = choices.count - 1;
          if (last >= 0 && choices.code[last] == found[v].code[t]) continue;
          choices.twice[last + 1] = found[v].twice[t];
          choices.square[last + 1] = found[v].square[t];
          choices.code[last + 1] = found[v].code[t];
          ++choices.count;
        }
      }
    }
    best_trial best{0, 0, 0};
    float least = 3.40282347e+38F;
    for (int v = 0; v < variants; ++v) {
      for (int t = 0; t < octet_trials; ++t) {
        const float error = scales[t] * (unfused(scales[t] * square[v][t]) - twice[v][t]);
        if (error < least) {
          best = {t, twice[v][t], square[v][t]};
          least = error;
        }
      }
    }
    return best;
  }

  [[nodiscard]] octet_block unpacked(const scaled_octets& weights, const levels& search,
                                     half scale) const noexcept {
    octet_block b{};
    b.scale = scale;
    if (scale.bits == 0) return b;
    for (int g = 0; g < groups; ++g) {
      const auto own = search.best_choice(search.group_at[g], scale);
      b.level[g] = static_cast<std::uint8_t>(own.level);
      const float s = search.seen(scale) * static_cast<float>(2 * own.level + 1);
      for (int o = 0; o < octets; ++o) {
        const int octet = octets * g + o;
        const octet_choices& choices = search.group_at[g].octet[own.variant][o];
        coder_.store(weights.x + 8 * octet, weights.importance_at(8 * octet),
                     choices.code[choices.best_at(s)], own.variant, octet, b);
      }
    }
    return b;
  }

  const Coder& coder_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
