// SPDX-License-Identifier: Apache-2.0
/// IQ6_K: 256 weights in 16 groups with 8-bit scales under one fp16 scale, 6-bit codes whose
/// levels are a cubic polynomial.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ6_K: 16 groups of 16 weights, signed 8-bit group scales, 6-bit codes whose levels are a cubic
/// polynomial that a bit per group shifts; 6.625 bits per weight.
///
/// Layout   scale:f16 | shifted:u16 | scales:i8[16] | codes_low:u8[128] | codes_high:u8[64]; in run
///          k of 64 weights weight j is the low nibble of codes_low[32 k + j], weight j + 32 the
///          high one; the two high bits of weight i are bits 2r and 2r + 1 of codes_high[32 (i /
///          128) + i % 32], r = i % 128 / 32.
/// Value    scale * group scale * (iq6::value(code), plus 1 if shifted); the first product is
/// exact,
///          the second rounds once in fp32. ik_llama.cpp built with contracted multiply-adds (as
///          -march=native gives) has other values in the last place.
/// Partner  q8_k
/// Source   GGUF tensor type 141 of ik_llama.cpp; its `block_iq6_k` (d = scale, extra = shifted,
/// qs,
///          qh = codes_low, codes_high).
struct iq6_k {
  static constexpr const char* name = "iq6_k";
  static constexpr int block_size = 256;
  static constexpr int group_size = 16;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-128, 1, 256};
  static constexpr std::uint32_t gguf_type = 141;
  using codebook = iq6;
  using partner = q8_k;

  half scale;
  std::uint16_t shifted;
  std::int8_t scales[16];
  std::uint8_t codes_low[128];
  std::uint8_t codes_high[64];

  using params = shifted_params<half, 16>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq6_k>(code, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq6_k>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq6_k> split(const iq6_k& b) noexcept {
    unpacked<iq6_k> u{{b.scale, {}, b.shifted}, {}};
    for (int g = 0; g < groups; ++g) u.params.group_scales[g] = b.scales[g];
    codes high{};
    unpack_bit_pairs(b.codes_high, high);
    unpack_nibbles<32>(b.codes_low, u.codes);
    for (int i = 0; i < block_size; ++i) {
      u.codes[i] = static_cast<std::uint8_t>(u.codes[i] | high[i] << 4);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq6_k join(const params& p,
                                                              const codes& c) noexcept {
    iq6_k b{p.scale, p.shifted, {}, {}, {}};
    for (int g = 0; g < groups; ++g) b.scales[g] = p.group_scales[g];
    codes high{};
    for (int i = 0; i < block_size; ++i) high[i] = static_cast<std::uint8_t>(c[i] >> 4);
    pack_bit_pairs(high, b.codes_high);
    pack_nibbles<32>(c, b.codes_low);
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq6_k& b, float* __restrict out) noexcept {
    shifted_decode(split(b), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's.
  ///
  /// Numerics  an all-zero block has scale 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    return fit_shifted<iq6_k, Arch>(w, importance);
  }
};
static_assert(sizeof(iq6_k) == 212 && grid_format<iq6_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
