// SPDX-License-Identifier: Apache-2.0
/// Q3_K: 256 weights as 16 groups of 16; signed 6-bit scales under one fp16 factor, 3-bit codes.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/format/superblock_search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q3_K: 256 weights as 16 groups of 16; signed 6-bit scales under one fp16 factor, 3-bit codes
/// with bias 4; 3.4375 bits per weight.
///
/// Layout   offset 0 codes_high:u8[32] | 32 codes_low:u8[64] | 96 scales_packed:u8[12] | 108
///          scale:f16.
///          Byte l of half h of codes_low (32 h + l, l < 32): bits 2r, 2r + 1 are the low bits of
///          weight 128 h + 32 r + l. Bit k of codes_high[l]: bit 2 of the code of weight 32 k + l.
///          scales_packed holds s[g] = scales[g] + 32:
///            byte k, k < 8    bits 3-0 s[k] & 15, bits 7-4 s[k + 8] & 15
///            byte 8 + k, k < 4   bits 2j, 2j + 1 are s[k + 4j] >> 4, j = 0 .. 3
/// Value    scale * scales[g] * (code - 4), g = i / 16; exact in fp32.
/// Partner  q8_k
/// Zero row all bytes 0.
/// Source   GGUF tensor type 11; ggml `block_q3_K` (hmask = codes_high, qs = codes_low, d = scale).
struct q3_k {
  static constexpr const char* name = "q3_k";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 11;
  using partner = q8_k;

  std::uint8_t codes_high[32];
  std::uint8_t codes_low[64];
  std::uint8_t scales_packed[12];
  half scale;

  struct params {
    half scale;
    std::int8_t scales[16];  ///< -32 .. 31

    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      for (int g = 0; g < 16; ++g) {
        if (a.scales[g] != b.scales[g]) return false;
      }
      return a.scale == b.scale;
    }
  };
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return step(i / 16, p) * static_cast<float>(code - 4);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = step(i / 16, p);
    const int guess = d != 0 ? clamp(trunc_to_int(weight / d + 4.5F), 0, 7) : 0;
    return nearest_beside<q3_k>(guess, weight, i, p, 7);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q3_k> split(const q3_k& b) noexcept {
    unpacked<q3_k> u{unpack_params(b), {}};
    for (int k = 0; k < 8; ++k) {
      for (int l = 0; l < 32; ++l) {
        const int low = b.codes_low[32 * (k / 4) + l] >> (2 * (k % 4)) & 3;
        const int high = b.codes_high[l] >> k & 1;
        u.codes[32 * k + l] = static_cast<std::uint8_t>(low | high << 2);
      }
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q3_k join(const params& p,
                                                             const codes& c) noexcept {
    q3_k b{{}, {}, {}, p.scale};
    for (int g = 0; g < 16; ++g) {
      const int raised = p.scales[g] + 32;
      std::uint8_t& low = b.scales_packed[g % 8];
      std::uint8_t& high = b.scales_packed[8 + g % 4];
      low = static_cast<std::uint8_t>(low | (raised & 15) << (g / 8 * 4));
      high = static_cast<std::uint8_t>(high | raised >> 4 << (g / 4 * 2));
    }
    for (int k = 0; k < 8; ++k) {
      for (int l = 0; l < 32; ++l) {
        const int code = c[32 * k + l];
        std::uint8_t& low = b.codes_low[32 * (k / 4) + l];
        std::uint8_t& high = b.codes_high[l];
        low = static_cast<std::uint8_t>(low | (code & 3) << (2 * (k % 4)));
        high = static_cast<std::uint8_t>(high | code >> 2 << k);
      }
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise: they unroll a loop of 16 into
  /// scalar code, so two groups go in one loop.
  SUBBYTE_HD_INLINE static constexpr void decode(const q3_k& b, float* __restrict out) noexcept {
    const unpacked<q3_k> u = split(b);
    const float scale = b.scale.to_float();
    for (int g = 0; g < 16; g += 2) {
      const float first_step = scale * static_cast<float>(u.params.scales[g]);
      const float second_step = scale * static_cast<float>(u.params.scales[g + 1]);
      for (int l = 0; l < 32; ++l) {
        const float code = static_cast<float>(u.codes[16 * g + l] - 4);
        out[16 * g + l] = (l < 16 ? first_step : second_step) * code;
      }
    }
  }

  /// The reference encoder's params.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    codes c{};
    return search<Arch>(w, importance, c);
  }

  /// Byte-identical to ggml's file quantizer. Without importance: search_symmetric_refined;
  ///; the group scale of largest magnitude becomes -32. With importance: weights importance *
  /// sqrt(2 * block mean square + x^2), and the group scales are searched under the groups' total
  /// weights. Codes are then rounded anew with the stored params, except where a group's scale is
  /// stored as 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q3_k encode_ref(const float* w, const float* importance,
                                                      float) noexcept {
    codes c{};
    const params p = search<Arch>(w, importance, c);
    return join(p, c);
  }

  /// Never a larger error than encode_ref's block; see lower_symmetric_superblock.
  template <class Arch = arch::native>
  [[nodiscard]] static q3_k encode_best(const float* w, const float* importance, float,
                                        int effort) noexcept {
    unpacked<q3_k> start{};
    start.params = search<Arch>(w, importance, start.codes);
    const descents plan = effort == 1 ? descents{importance != nullptr ? 3 : 1, 0}
                                      : (effort == 2 ? descents{5, 2} : descents{17, 4});
    return lower_symmetric_superblock<q3_k, Arch, 16>(start, {-4, 3, 4}, {-32, 31, 0.65F, 1.5F}, w,
                                                      importance, plan);
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float step(int g, const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(p.scales[g]);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr params unpack_params(const q3_k& b) noexcept {
    params p{b.scale, {}};
    for (int g = 0; g < 16; ++g) {
      const int low = b.scales_packed[g % 8] >> (g / 8 * 4) & 15;
      const int high = b.scales_packed[8 + g % 4] >> (g / 4 * 2) & 3;
      p.scales[g] = static_cast<std::int8_t>((low | high << 4) - 32);
    }
    return p;
  }

  template <class Arch>
  [[nodiscard]] static params search(const float* w, const float* importance, codes& c) noexcept {
    params p{};
    float scales[16];
    if (importance != nullptr) {
      const float variance = 2.0F * sum_of_squares<Arch>(w, 256) / 256.0F;
      float weight[16];
      float totals[16] = {};
      for (int g = 0; g < 16; ++g) {
        const float* x = w + 16 * g;
        energy_weights<Arch>(16, x, importance + 16 * g, variance, weight);
        for (int i = 0; i < 16; ++i) totals[g] += weight[i];
        scales[g] = search_symmetric<Arch>(16, 4, x, weight, c.code + 16 * g);
      }
      std::uint8_t raised[16];
      p.scale = half::nearest(search_symmetric<Arch>(16, 32, scales, totals, raised));
      for (int g = 0; g < 16; ++g) p.scales[g] = static_cast<std::int8_t>(raised[g] - 32);
    } else {
      search_symmetric_refined<Arch, 16>(4, w, c.code, scales);
      const float extreme = signed_extreme<Arch>(scales, 16);
      const float inverse = extreme != 0 ? -32.0F / extreme : 0.0F;
      for (int g = 0; g < 16; ++g) {
        // A byte first, then the limits: the reference's order.
        const int byte = static_cast<std::int8_t>(rint_even(unfused(inverse * scales[g])));
        // Without a scale the reference writes no scale bits, which reads back as -32.
        p.scales[g] = static_cast<std::int8_t>(extreme != 0 ? clamp(byte, -32, 31) : -32);
      }
      p.scale = half::nearest(extreme != 0 ? 1.0F / inverse : 0.0F);
    }
    for (int g = 0; g < 16; ++g) {
      round_symmetric<Arch>(16, 4, w + 16 * g, step(g, p), c.code + 16 * g);
    }
    return p;
  }
};
static_assert(sizeof(q3_k) == 110 && grid_format<q3_k> && reference_encodable<q3_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
