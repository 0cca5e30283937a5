// SPDX-License-Identifier: Apache-2.0
/// Q5_0: 32 weights, one fp16 scale, 5-bit codes with bias 16.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q5_0: 32 weights, one fp16 scale, 5-bit codes with bias 16; 5.5 bits per weight.
///
/// Layout   scale:f16 | codes_high:u8[4] | codes_low:u8[16]; the low four bits of weight j are
///          the low nibble of codes_low[j], those of weight j + 16 the high nibble; the fifth bit
///          of weight j is bit j % 8 of codes_high[j / 8].
/// Value    scale * (code - 16), exact in fp32.
/// Partner  q8_0
/// Source   GGUF tensor type 6; ggml `block_q5_0` (d = scale, qh = codes_high, qs = codes_low).
struct q5_0 {
  static constexpr const char* name = "q5_0";
  static constexpr int block_size = 32;
  static constexpr std::uint32_t gguf_type = 6;
  using partner = q8_0;

  half scale;
  std::uint8_t codes_high[4];
  std::uint8_t codes_low[16];

  struct params {
    half scale;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale;
    }
  };
  using codes = code_block<32>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(code - 16);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = p.scale.to_float();
    const int guess = d != 0 ? clamp(trunc_to_int(weight / d + 16.5F), 0, 31) : 0;
    return nearest_beside<q5_0>(guess, weight, i, p, 31);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q5_0> split(const q5_0& b) noexcept {
    unpacked<q5_0> u{{b.scale}, {}};
    for (int j = 0; j < 16; ++j) {
      const int low = b.codes_low[j];
      const int first = b.codes_high[j / 8] >> (j % 8) & 1;
      const int second = b.codes_high[2 + j / 8] >> (j % 8) & 1;
      u.codes[j] = static_cast<std::uint8_t>((low & 15) | first << 4);
      u.codes[j + 16] = static_cast<std::uint8_t>(low >> 4 | second << 4);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q5_0 join(const params& p,
                                                             const codes& c) noexcept {
    q5_0 b{p.scale, {}, {}};
    for (int j = 0; j < 16; ++j) {
      b.codes_low[j] = static_cast<std::uint8_t>((c[j] & 15) | (c[j + 16] & 15) << 4);
    }
    std::uint32_t high = 0;
    for (int j = 0; j < 32; ++j) high |= static_cast<std::uint32_t>(c[j] >> 4 & 1) << j;
    store_le(b.codes_high, high);
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const q5_0& b, float* __restrict out) noexcept {
    const float d = b.scale.to_float();
    const std::uint32_t high = load_le<std::uint32_t>(b.codes_high);
    for (int j = 0; j < 16; ++j) {
      const int pair = b.codes_low[j];
      const int first = static_cast<int>(high >> j & 1U);
      const int second = static_cast<int>(high >> (j + 16) & 1U);
      out[j] = d * static_cast<float>(((pair & 15) | first << 4) - 16);
      out[j + 16] = d * static_cast<float>((pair >> 4 | second << 4) - 16);
    }
  }

  /// The reference encoder's scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    return {encode_ref<Arch>(w, importance, mean_square<Arch>(w, block_size)).scale};
  }

  /// Byte-identical to ggml's file quantizer. Without importance the weight of largest magnitude
  /// gets code 0; codes come from the unrounded scale. With importance: a weighted scale search.
  ///
  /// Numerics  an all-zero block has scale -0 and every code 16 without importance, all zero
  ///           bytes with it. Scales outside fp16's range are stored as 0 or Inf and the codes
  ///           stay. Weights so small that 1 / scale overflows (undefined in ggml) get the first
  ///           or last code, or 0 for a zero weight, under a scale of 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q5_0 encode_ref(const float* w, const float* importance,
                                                      float row_mean_square) noexcept {
    codes c{};
    if (importance != nullptr) {
      float weight[32];
      energy_weights<Arch>(32, w, importance, row_mean_square, weight);
      const float d = search_symmetric<Arch>(32, 16, w, weight, c.code);
      return join({half::nearest(d)}, c);
    }
    const float extreme = signed_extreme<Arch>(w, 32);
    const float d = extreme / -16.0F;
    const float inverse = d != 0 ? 1.0F / d : 0.0F;
    truncate_affine<Arch>(w, 0, inverse, 16.5F, 31, c.code);
    return join({half::nearest(d)}, c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself.
  template <class Arch = arch::native>
  [[nodiscard]] static q5_0 encode_best(const float* w, const float* importance,
                                        float row_mean_square, int effort) noexcept {
    const q5_0 start = encode_ref<Arch>(w, importance, row_mean_square);
    return lower_scaled_block<q5_0, Arch>(start, whole_levels{-16, 15, 16}, {17.0F, 12.5F, 0, true},
                                          w, importance, effort);
  }
};
static_assert(sizeof(q5_0) == 22 && grid_format<q5_0> && reference_encodable<q5_0>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
