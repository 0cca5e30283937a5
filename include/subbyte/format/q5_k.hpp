// SPDX-License-Identifier: Apache-2.0
/// Q5_K: 256 weights as 8 groups of 32; 6-bit scales and minimums under fp16 factors, 5-bit codes.
#pragma once

#include "subbyte/format/affine_superblock.hpp"
#include "subbyte/format/concepts.hpp"
#include "subbyte/format/superblock_search.hpp"
#include "subbyte/fwd.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q5_K: 256 weights as 8 groups of 32; 6-bit scales and minimums under fp16 factors, 5-bit codes;
/// 5.5 bits per weight.
///
/// Layout   offset 0 scale:f16 | 2 minimum:f16 | 4 scales_packed:u8[12] | 16 codes_high:u8[32] |
///          48 codes_low:u8[128].
///          scales_packed: see pack_6bit_pairs. Byte l of quarter q of codes_low (32 q + l, l <
///          32): low nibble weight 64 q + l, high nibble weight 64 q + 32 + l. Bit g of
///          codes_high[l]: bit 4 of the code of weight 32 g + l.
/// Value    scale * scales[g] * code - minimum * minimums[g], g = i / 32: products exact in
///          fp32, one rounding in the subtraction.
/// Partner  q8_k
/// Zero row all bytes 0.
/// Source   GGUF tensor type 13; ggml `block_q5_K` (d, dmin = scale, minimum; qh = codes_high, qs =
///          codes_low).
struct q5_k {
  static constexpr const char* name = "q5_k";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 13;
  using partner = q8_k;

  half scale;
  half minimum;
  std::uint8_t scales_packed[12];
  std::uint8_t codes_high[32];
  std::uint8_t codes_low[128];

  using params = affine_superblock_params;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return step(i, p) * static_cast<float>(code) - offset(i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = step(i, p);
    const int guess = d != 0 ? clamp(trunc_to_int((weight + offset(i, p)) / d + 0.5F), 0, 31) : 0;
    return nearest_beside<q5_k>(guess, weight, i, p, 31);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q5_k> split(const q5_k& b) noexcept {
    unpacked<q5_k> u{{b.scale, b.minimum, {}, {}}, {}};
    unpack_6bit_pairs(b.scales_packed, u.params.scales, u.params.minimums);
    for (int q = 0; q < 4; ++q) {
      for (int l = 0; l < 32; ++l) {
        const int byte = b.codes_low[32 * q + l];
        const int fifth = b.codes_high[l] >> (2 * q);
        u.codes[64 * q + l] = static_cast<std::uint8_t>((byte & 15) | (fifth & 1) << 4);
        u.codes[64 * q + 32 + l] = static_cast<std::uint8_t>(byte >> 4 | (fifth & 2) << 3);
      }
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q5_k join(const params& p,
                                                             const codes& c) noexcept {
    q5_k b{p.scale, p.minimum, {}, {}, {}};
    pack_6bit_pairs(p.scales, p.minimums, b.scales_packed);
    for (int q = 0; q < 4; ++q) {
      for (int l = 0; l < 32; ++l) {
        const int first = c[64 * q + l];
        const int second = c[64 * q + 32 + l];
        b.codes_low[32 * q + l] = static_cast<std::uint8_t>((first & 15) | (second & 15) << 4);
        b.codes_high[l] =
            static_cast<std::uint8_t>(b.codes_high[l] | (first >> 4 | second >> 4 << 1) << (2 * q));
      }
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const q5_k& b, float* __restrict out) noexcept {
    const unpacked<q5_k> u = split(b);
    const float scale = b.scale.to_float();
    const float minimum = b.minimum.to_float();
    for (int g = 0; g < 8; ++g) {
      const float group_step = scale * static_cast<float>(u.params.scales[g]);
      const float group_offset = minimum * static_cast<float>(u.params.minimums[g]);
      for (int i = 32 * g; i < 32 * g + 32; ++i) {
        out[i] = group_step * static_cast<float>(u.codes[i]) - group_offset;
      }
    }
  }

  /// The reference encoder's params.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    codes c{};
    return search<Arch>(w, importance, c);
  }

  /// Byte-identical to ggml's file quantizer; see encode_affine_superblock.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q5_k encode_ref(const float* w, const float* importance,
                                                      float) noexcept {
    codes c{};
    const params p = search<Arch>(w, importance, c);
    return join(p, c);
  }

  /// Never a larger error than encode_ref's block; see lower_affine_superblock.
  template <class Arch = arch::native>
  [[nodiscard]] static q5_k encode_best(const float* w, const float* importance, float mean_square,
                                        int effort) noexcept {
    const q5_k start = encode_ref<Arch>(w, importance, mean_square);
    const descents plan =
        effort == 1 ? descents{1, 2} : (effort == 2 ? descents{3, 4} : descents{9, 8});
    return lower_affine_superblock<q5_k, Arch, 32>(start, 31, 63, w, importance, plan);
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float step(int i, const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(p.scales[i / 32]);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float offset(int i, const params& p) noexcept {
    return p.minimum.to_float() * static_cast<float>(p.minimums[i / 32]);
  }
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static params search(const float* w, const float* importance,
                                                    codes& c) noexcept {
    return encode_affine_superblock<Arch>(w, importance, 31, {-0.5F, 0.1F, 15, false}, c.code);
  }
};
static_assert(sizeof(q5_k) == 176 && grid_format<q5_k> && reference_encodable<q5_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
