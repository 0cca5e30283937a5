// SPDX-License-Identifier: Apache-2.0
/// IQ4_XS: 256 weights in 8 groups with 6-bit scales under one fp16 scale, the codes of IQ4_NL.
#pragma once

#include "subbyte/format/codebook.hpp"
#include "subbyte/format/concepts.hpp"
#include "subbyte/format/iq4_nl.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/format/superblock_search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ4_XS: 8 groups of 32 weights, 6-bit group scales with bias 32, 4-bit indices into a
/// non-uniform table; 4.25 bits per weight.
///
/// Layout   scale:f16 | scales_high:u16 | scales_low:u8[4] | codes:u8[128]; the low four bits of
///          group scale g are nibble g % 2 (low first) of scales_low[g / 2], its high two bits
///          are bits 2g and 2g + 1 of scales_high. In group g weight j is the low nibble of
///          codes[16 g + j], weight j + 16 the high nibble.
/// Value    scale * (group scale - 32) * iq4::value(code), exact in fp32 in any order.
/// Partner  q8_k
/// Source   GGUF tensor type 23; ggml `block_iq4_xs` (d = scale, scales_h, scales_l, qs = codes).
struct iq4_xs {
  static constexpr const char* name = "iq4_xs";
  static constexpr int block_size = 256;
  static constexpr int group_size = 32;
  static constexpr int groups = block_size / group_size;
  static constexpr std::uint32_t gguf_type = 23;
  using partner = q8_k;

  half scale;
  std::uint16_t scales_high;
  std::uint8_t scales_low[4];
  std::uint8_t codes_packed[128];

  struct params {
    half scale;
    std::uint8_t group_scales[8];
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      for (int g = 0; g < groups; ++g) {
        if (a.group_scales[g] != b.group_scales[g]) return false;
      }
      return a.scale == b.scale;
    }
  };
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return group_value(i, p) * iq4::value(code);
  }

  /// Ties go to the lower code, unlike in the encoder.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = group_value(i, p);
    return nearest_beside<iq4_xs>(d != 0 ? iq4::nearest(weight / d) : 0, weight, i, p, 15);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq4_xs> split(
      const iq4_xs& b) noexcept {
    unpacked<iq4_xs> u{{b.scale, {}}, {}};
    for (int g = 0; g < groups; ++g) {
      u.params.group_scales[g] = static_cast<std::uint8_t>(group_scale(b, g) + 32);
      for (int j = 0; j < 16; ++j) {
        const int pair = b.codes_packed[16 * g + j];
        u.codes[32 * g + j] = static_cast<std::uint8_t>(pair & 15);
        u.codes[32 * g + j + 16] = static_cast<std::uint8_t>(pair >> 4);
      }
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq4_xs join(const params& p,
                                                               const codes& c) noexcept {
    iq4_xs b{p.scale, 0, {}, {}};
    for (int g = 0; g < groups; ++g) {
      const int low = (p.group_scales[g] & 15) << (4 * (g % 2));
      const int high = (p.group_scales[g] >> 4 & 3) << (2 * g);
      b.scales_low[g / 2] = static_cast<std::uint8_t>(b.scales_low[g / 2] | low);
      b.scales_high = static_cast<std::uint16_t>(b.scales_high | high);
      for (int j = 0; j < 16; ++j) {
        const int pair = (c[32 * g + j] & 15) | c[32 * g + j + 16] << 4;
        b.codes_packed[16 * g + j] = static_cast<std::uint8_t>(pair);
      }
    }
    return b;
  }

  /// The scale of group g as stored, -32 .. 31.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int group_scale(const iq4_xs& b,
                                                                   int g) noexcept {
    const int low = b.scales_low[g / 2] >> (4 * (g % 2)) & 15;
    const int high = b.scales_high >> (2 * g) & 3;
    return (low | high << 4) - 32;
  }

  /// The same values as value(), looked up in one table of products per group.
  SUBBYTE_HD_INLINE static constexpr void decode(const iq4_xs& b, float* __restrict out) noexcept {
    float levels[16] = {};
    for (int code = 0; code < 16; ++code) levels[code] = iq4::value(code);
    const float scale = b.scale.to_float();
    for (int g = 0; g < groups; ++g) {
      const float d = scale * static_cast<float>(group_scale(b, g));
      float values[16] = {};
      for (int code = 0; code < 16; ++code) values[code] = d * levels[code];
      for (int j = 0; j < 16; ++j) {
        const int pair = b.codes_packed[16 * g + j];
        out[32 * g + j] = values[pair & 15];
        out[32 * g + j + 16] = values[pair >> 4];
      }
    }
  }

  /// The reference encoder's scales.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    return search<Arch>(w, importance).stored;
  }

  /// Byte-identical to ggml's file quantizer: a weighted scale search per group, group scales
  /// from the largest, then codes from the product of the unrounded scale and the group scale.
  ///
  /// Numerics  an all-zero block has scale -0, group scales 32 and every code 8. Scales outside
  ///           fp16's range are stored as 0 or Inf, with the codes that the search found (its
  ///           sums overflow as in iq4_nl). Weights whose squares overflow make a group's scale
  ///           NaN, which plays no part in the block's scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static iq4_xs encode_ref(const float* w, const float* importance,
                                                        float) noexcept {
    const fitted f = search<Arch>(w, importance);
    codes c{};
    for (int g = 0; g < groups; ++g) {
      const float d = f.scale * static_cast<float>(f.stored.group_scales[g] - 32);
      const float inverse = d != 0 ? 1.0F / d : 0.0F;
      for (int j = 32 * g; j < 32 * g + 32; ++j) {
        c[j] = static_cast<std::uint8_t>(iq4::nearest(inverse * w[j]));
      }
    }
    return join(f.stored, c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself.
  template <class Arch = arch::native>
  [[nodiscard]] static iq4_xs encode_best(const float* w, const float* importance,
                                          float row_mean_square, int effort) noexcept {
    const iq4_xs reference = encode_ref<Arch>(w, importance, row_mean_square);
    const unpacked<iq4_xs> u = split(reference);
    float weight[block_size];
    error_weights<Arch>(block_size, importance, weight);
    float levels[block_size];
    for (int i = 0; i < block_size; ++i) levels[i] = iq4::value(u.codes[i]);
    symmetric_superblock<groups> best{u.params.scale, {}, 0};
    for (int g = 0; g < groups; ++g) best.scales[g] = u.params.group_scales[g] - 32;
    const symmetric_superblock_search<Arch, group_size, groups, iq4_grid> search(
        {}, {-32, 31, 0.8F, 1.3F}, w, weight);
    const descents plan =
        effort == 1 ? descents{3, 1} : (effort == 2 ? descents{7, 2} : descents{17, 4});
    if (!search.descend(best, levels, plan)) return reference;
    params p{best.scale, {}};
    codes c{};
    for (int g = 0; g < groups; ++g) {
      p.group_scales[g] = static_cast<std::uint8_t>(best.scales[g] + 32);
      for (int i = 32 * g; i < 32 * g + 32; i += 16) search.store_codes(best, g, i, c.code + i);
    }
    return join(p, c);
  }

 private:
  struct fitted {
    float scale;
    params stored;
  };

  SUBBYTE_HD_INLINE static constexpr float group_value(int i, const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(p.group_scales[i / group_size] - 32);
  }

  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static fitted search(const float* w,
                                                    const float* importance) noexcept {
    const float twice_mean_square = sum_of_squares<Arch>(w, block_size) * (2.0F / block_size);
    float scales[groups];
    for (int g = 0; g < groups; ++g) {
      const int first = group_size * g;
      float weight[group_size];
      iq4_weights<Arch>(group_size, w + first, importance != nullptr ? importance + first : nullptr,
                        twice_mean_square, weight);
      scales[g] = search_iq4<Arch>(w + first, weight);
    }
    const float d = -signed_extreme<Arch>(scales, groups) / 32.0F;
    const float inverse = d != 0 ? 1.0F / d : 0.0F;
    fitted f{d, {half::nearest(d), {}}};
    for (int g = 0; g < groups; ++g) {
      const int level = clamp(rint_even(unfused(inverse * scales[g])), -32, 31);
      f.stored.group_scales[g] = static_cast<std::uint8_t>(level + 32);
    }
    return f;
  }
};
static_assert(sizeof(iq4_xs) == 136 && grid_format<iq4_xs> && reference_encodable<iq4_xs>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
