// SPDX-License-Identifier: Apache-2.0
/// Q4_0: 32 weights, one fp16 scale, 4-bit codes with bias 8.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q4_0: 32 weights, one fp16 scale, 4-bit codes with bias 8; 4.5 bits per weight.
///
/// Layout   scale:f16 | codes:u8[16]; weight j is the low nibble of codes[j], weight j + 16 the
///          high nibble.
/// Value    scale * (code - 8), exact in fp32.
/// Partner  q8_0
/// Source   GGUF tensor type 2; ggml `block_q4_0` (d = scale, qs = codes).
struct q4_0 {
  static constexpr const char* name = "q4_0";
  static constexpr int block_size = 32;
  static constexpr std::uint32_t gguf_type = 2;
  using partner = q8_0;

  half scale;
  std::uint8_t codes_packed[16];

  struct params {
    half scale;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale;
    }
  };
  using codes = code_block<32>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(code - 8);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = p.scale.to_float();
    const int guess = d != 0 ? clamp(trunc_to_int(weight / d + 8.5F), 0, 15) : 0;
    return nearest_beside<q4_0>(guess, weight, i, p, 15);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q4_0> split(const q4_0& b) noexcept {
    unpacked<q4_0> u{{b.scale}, {}};
    for (int j = 0; j < 16; ++j) {
      u.codes[j] = static_cast<std::uint8_t>(b.codes_packed[j] & 15);
      u.codes[j + 16] = static_cast<std::uint8_t>(b.codes_packed[j] >> 4);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q4_0 join(const params& p,
                                                             const codes& c) noexcept {
    q4_0 b{p.scale, {}};
    for (int j = 0; j < 16; ++j) {
      b.codes_packed[j] = static_cast<std::uint8_t>(c[j] | c[j + 16] << 4);
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const q4_0& b, float* __restrict out) noexcept {
    const float d = b.scale.to_float();
    for (int j = 0; j < 16; ++j) {
      const int pair = b.codes_packed[j];
      out[j] = d * static_cast<float>((pair & 15) - 8);
      out[j + 16] = d * static_cast<float>((pair >> 4) - 8);
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
  /// Numerics  an all-zero block has scale -0 and every code 8 without importance, all zero bytes
  ///           with it. Scales outside fp16's range are stored as 0 or Inf and the codes stay.
  ///           Weights so small that 1 / scale overflows (undefined in ggml) get the first or
  ///           last code, or 0 for a zero weight, under a scale of 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q4_0 encode_ref(const float* w, const float* importance,
                                                      float row_mean_square) noexcept {
    codes c{};
    if (importance != nullptr) {
      float weight[32];
      energy_weights<Arch>(32, w, importance, row_mean_square, weight);
      const float d = search_symmetric<Arch>(32, 8, w, weight, c.code);
      return join({half::nearest(d)}, c);
    }
    const float extreme = signed_extreme<Arch>(w, 32);
    const float d = extreme / -8.0F;
    const float inverse = d != 0 ? 1.0F / d : 0.0F;
    truncate_affine<Arch>(w, 0, inverse, 8.5F, 15, c.code);
    return join({half::nearest(d)}, c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself.
  template <class Arch = arch::native>
  [[nodiscard]] static q4_0 encode_best(const float* w, const float* importance,
                                        float row_mean_square, int effort) noexcept {
    const q4_0 start = encode_ref<Arch>(w, importance, row_mean_square);
    return lower_scaled_block<q4_0, Arch>(start, whole_levels{-8, 7, 8}, {8.6F, 5.5F, 0, true}, w,
                                          importance, effort);
  }
};
static_assert(sizeof(q4_0) == 18 && grid_format<q4_0> && reference_encodable<q4_0>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
