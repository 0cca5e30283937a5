// SPDX-License-Identifier: Apache-2.0
/// Q4_K: 256 weights as 8 groups of 32; 6-bit scales and minimums under fp16 factors, 4-bit codes.
#pragma once

#include "subbyte/format/affine_superblock.hpp"
#include "subbyte/format/concepts.hpp"
#include "subbyte/format/superblock_search.hpp"
#include "subbyte/fwd.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q4_K: 256 weights as 8 groups of 32; 6-bit scales and minimums under fp16 factors, 4-bit codes;
/// 4.5 bits per weight.
///
/// Layout   offset 0 scale:f16 | 2 minimum:f16 | 4 scales_packed:u8[12] | 16 codes_packed:u8[128].
///          scales_packed: see pack_6bit_pairs. Byte l of quarter q (32 q + l, l < 32): low nibble
///          weight 64 q + l, high nibble weight 64 q + 32 + l.
/// Value    scale * scales[g] * code - minimum * minimums[g], g = i / 32: products exact in
///          fp32, one rounding in the subtraction.
/// Partner  q8_k
/// Zero row all bytes 0.
/// Source   GGUF tensor type 12; ggml `block_q4_K` (d, dmin = scale, minimum; qs = codes_packed).
struct q4_k {
  static constexpr const char* name = "q4_k";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 12;
  using partner = q8_k;

  half scale;
  half minimum;
  std::uint8_t scales_packed[12];
  std::uint8_t codes_packed[128];

  using params = affine_superblock_params;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return step(i, p) * static_cast<float>(code) - offset(i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = step(i, p);
    const int guess = d != 0 ? clamp(trunc_to_int((weight + offset(i, p)) / d + 0.5F), 0, 15) : 0;
    return nearest_beside<q4_k>(guess, weight, i, p, 15);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q4_k> split(const q4_k& b) noexcept {
    unpacked<q4_k> u{{b.scale, b.minimum, {}, {}}, {}};
    unpack_6bit_pairs(b.scales_packed, u.params.scales, u.params.minimums);
    for (int q = 0; q < 4; ++q) {
      for (int l = 0; l < 32; ++l) {
        const int byte = b.codes_packed[32 * q + l];
        u.codes[64 * q + l] = static_cast<std::uint8_t>(byte & 15);
        u.codes[64 * q + 32 + l] = static_cast<std::uint8_t>(byte >> 4);
      }
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q4_k join(const params& p,
                                                             const codes& c) noexcept {
    q4_k b{p.scale, p.minimum, {}, {}};
    pack_6bit_pairs(p.scales, p.minimums, b.scales_packed);
    for (int q = 0; q < 4; ++q) {
      for (int l = 0; l < 32; ++l) {
        b.codes_packed[32 * q + l] =
            static_cast<std::uint8_t>(c[64 * q + l] | c[64 * q + 32 + l] << 4);
      }
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const q4_k& b, float* __restrict out) noexcept {
    params p{b.scale, b.minimum, {}, {}};
    unpack_6bit_pairs(b.scales_packed, p.scales, p.minimums);
    const float scale = p.scale.to_float();
    const float minimum = p.minimum.to_float();
    for (int q = 0; q < 4; ++q) {
      const float low_step = scale * static_cast<float>(p.scales[2 * q]);
      const float low_offset = minimum * static_cast<float>(p.minimums[2 * q]);
      const float high_step = scale * static_cast<float>(p.scales[2 * q + 1]);
      const float high_offset = minimum * static_cast<float>(p.minimums[2 * q + 1]);
      for (int l = 0; l < 32; ++l) {
        const int byte = b.codes_packed[32 * q + l];
        out[64 * q + l] = low_step * static_cast<float>(byte & 15) - low_offset;
        out[64 * q + 32 + l] = high_step * static_cast<float>(byte >> 4) - high_offset;
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
  [[nodiscard]] SUBBYTE_INLINE static q4_k encode_ref(const float* w, const float* importance,
                                                      float) noexcept {
    codes c{};
    const params p = search<Arch>(w, importance, c);
    return join(p, c);
  }

  /// Never a larger error than encode_ref's block; see lower_affine_superblock.
  template <class Arch = arch::native>
  [[nodiscard]] static q4_k encode_best(const float* w, const float* importance, float mean_square,
                                        int effort) noexcept {
    const q4_k start = encode_ref<Arch>(w, importance, mean_square);
    const descents plan =
        effort == 1 ? descents{1, 2} : (effort == 2 ? descents{3, 4} : descents{9, 8});
    return lower_affine_superblock<q4_k, Arch, 32>(start, 15, 63, w, importance, plan);
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
    return encode_affine_superblock<Arch>(w, importance, 15, {-1.0F, 0.1F, 20, false}, c.code);
  }
};
static_assert(sizeof(q4_k) == 144 && grid_format<q4_k> && reference_encodable<q4_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
