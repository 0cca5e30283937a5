// SPDX-License-Identifier: Apache-2.0
/// Q6_K: 256 weights as 16 groups of 16; signed 8-bit scales under one fp16 factor, 6-bit codes.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/format/superblock_search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q6_K: 256 weights as 16 groups of 16; signed 8-bit scales under one fp16 factor, 6-bit codes
/// with bias 32; 6.5625 bits per weight.
///
/// Layout   offset 0 codes_low:u8[128] | 128 codes_high:u8[64] | 192 scales:i8[16] | 208 scale:f16.
///          In half h (weights 128 h ..), row r of 32 weights (128 h + 32 r + l, l < 32):
///            low 4 bits   codes_low[64 h + 32 (r & 1) + l], low nibble for r < 2, else high nibble
///            high 2 bits  bits 2r, 2r + 1 of codes_high[32 h + l]
/// Value    scale * scales[g] * (code - 32), g = i / 16; exact in fp32.
/// Partner  q8_k
/// Zero row all bytes 0.
/// Source   GGUF tensor type 14; ggml `block_q6_K` (ql, qh = codes_low, codes_high; d = scale).
struct q6_k {
  static constexpr const char* name = "q6_k";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 14;
  using partner = q8_k;

  std::uint8_t codes_low[128];
  std::uint8_t codes_high[64];
  std::int8_t scales[16];
  half scale;

  struct params {
    half scale;
    std::int8_t scales[16];  ///< -128 .. 127

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
    return step(i / 16, p) * static_cast<float>(code - 32);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = step(i / 16, p);
    const int guess = d != 0 ? clamp(trunc_to_int(weight / d + 32.5F), 0, 63) : 0;
    return nearest_beside<q6_k>(guess, weight, i, p, 63);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q6_k> split(const q6_k& b) noexcept {
    unpacked<q6_k> u{{b.scale, {}}, {}};
    for (int g = 0; g < 16; ++g) u.params.scales[g] = b.scales[g];
    for (int k = 0; k < 8; ++k) {
      const int half_index = k / 4;
      const int r = k % 4;
      for (int l = 0; l < 32; ++l) {
        const int low = b.codes_low[64 * half_index + 32 * (r & 1) + l] >> (r / 2 * 4) & 15;
        const int high = b.codes_high[32 * half_index + l] >> (2 * r) & 3;
        u.codes[32 * k + l] = static_cast<std::uint8_t>(low | high << 4);
      }
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q6_k join(const params& p,
                                                             const codes& c) noexcept {
    q6_k b{{}, {}, {}, p.scale};
    for (int g = 0; g < 16; ++g) b.scales[g] = p.scales[g];
    for (int h = 0; h < 2; ++h) {
      for (int l = 0; l < 32; ++l) {
        const int c0 = c[128 * h + l];
        const int c1 = c[128 * h + 32 + l];
        const int c2 = c[128 * h + 64 + l];
        const int c3 = c[128 * h + 96 + l];
        b.codes_low[64 * h + l] = static_cast<std::uint8_t>((c0 & 15) | (c2 & 15) << 4);
        b.codes_low[64 * h + 32 + l] = static_cast<std::uint8_t>((c1 & 15) | (c3 & 15) << 4);
        b.codes_high[32 * h + l] =
            static_cast<std::uint8_t>(c0 >> 4 | c1 >> 4 << 2 | c2 >> 4 << 4 | c3 >> 4 << 6);
      }
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise: they unroll a loop of 16 into
  /// scalar code, so two groups go in one loop.
  SUBBYTE_HD_INLINE static constexpr void decode(const q6_k& b, float* __restrict out) noexcept {
    const unpacked<q6_k> u = split(b);
    const float scale = b.scale.to_float();
    for (int g = 0; g < 16; g += 2) {
      const float first_step = scale * static_cast<float>(u.params.scales[g]);
      const float second_step = scale * static_cast<float>(u.params.scales[g + 1]);
      for (int l = 0; l < 32; ++l) {
        const float code = static_cast<float>(u.codes[16 * g + l] - 32);
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

  /// Byte-identical to ggml's file quantizer: search_symmetric per group, under importance itself
  /// or x^2; the group scale of largest magnitude becomes -128. Codes are then rounded anew with
  /// the stored params, except where a group's scale is stored as 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q6_k encode_ref(const float* w, const float* importance,
                                                      float) noexcept {
    codes c{};
    const params p = search<Arch>(w, importance, c);
    return join(p, c);
  }

  /// Never a larger error than encode_ref's block; see lower_symmetric_superblock.
  template <class Arch = arch::native>
  [[nodiscard]] static q6_k encode_best(const float* w, const float* importance, float,
                                        int effort) noexcept {
    unpacked<q6_k> start{};
    start.params = search<Arch>(w, importance, start.codes);
    const descents plan =
        effort == 1 ? descents{2, 0} : (effort == 2 ? descents{5, 2} : descents{17, 4});
    return lower_symmetric_superblock<q6_k, Arch, 16>(
        start, {-32, 31, 32}, {-128, 127, 0.94F, 1.22F}, w, importance, plan);
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float step(int g, const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(p.scales[g]);
  }

  template <class Arch>
  [[nodiscard]] static params search(const float* w, const float* importance, codes& c) noexcept {
    params p{};
    float scales[16];
    for (int g = 0; g < 16; ++g) {
      const float* weight = importance != nullptr ? importance + 16 * g : nullptr;
      scales[g] = search_symmetric<Arch>(16, 32, w + 16 * g, weight, c.code + 16 * g);
    }
    const float extreme = signed_extreme<Arch>(scales, 16);
    if (magnitude(extreme) < zero_group_magnitude) {
      c = codes{};
      return p;
    }
    const float inverse = -128.0F / extreme;
    p.scale = half::nearest(1.0F / inverse);
    for (int g = 0; g < 16; ++g) {
      const int nearest = rint_even(unfused(inverse * scales[g]));
      p.scales[g] = static_cast<std::int8_t>(nearest < 127 ? nearest : 127);
      round_symmetric<Arch>(16, 32, w + 16 * g, step(g, p), c.code + 16 * g);
    }
    return p;
  }
};
static_assert(sizeof(q6_k) == 210 && grid_format<q6_k> && reference_encodable<q6_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
