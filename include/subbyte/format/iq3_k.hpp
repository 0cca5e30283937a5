// SPDX-License-Identifier: Apache-2.0
/// IQ3_K: 256 weights in 16 groups with odd 5-bit scales under one fp16 scale, 3-bit indices into
/// a non-uniform table.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ3_K: 16 groups of 16 weights, group scales -31, -29, ..., 31, 3-bit indices into a non-uniform
/// table that a bit per group shifts; 3.4375 bits per weight.
///
/// Layout   scale:f16 | shifted:u16 | negative:u16 | scales:u8[8] | codes_low:u8[64] |
///          codes_high:u8[32]; the scale of group g is 2 n + 1, n being nibble g % 2 (low first) of
///          scales[g / 2], negated if bit g of `negative` is set; codes_low as pack_bit_pairs,
///          codes_high as pack_bit_plane.
/// Value    scale * group scale * (iq3::value(code), plus 4 if shifted), exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 138 of ik_llama.cpp; its `block_iq3_k` (d = scale, extra = shifted,
///          scales_h = negative, scales_l = scales, qs, qh = codes_low, codes_high).
struct iq3_k {
  static constexpr const char* name = "iq3_k";
  static constexpr int block_size = 256;
  static constexpr int group_size = 16;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-31, 2, 32};
  static constexpr std::uint32_t gguf_type = 138;
  using codebook = iq3;
  using partner = q8_k;

  half scale;
  std::uint16_t shifted;
  std::uint16_t negative;
  std::uint8_t scales[8];
  std::uint8_t codes_low[64];
  std::uint8_t codes_high[32];

  using params = shifted_params<half, 16>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq3_k>(code, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq3_k>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq3_k> split(const iq3_k& b) noexcept {
    unpacked<iq3_k> u{{b.scale, {}, b.shifted}, {}};
    for (int g = 0; g < groups; ++g) {
      const int size = 2 * (b.scales[g / 2] >> (g % 2 * 4) & 15) + 1;
      u.params.group_scales[g] =
          static_cast<std::int8_t>((b.negative >> g & 1) != 0 ? -size : size);
    }
    unpack_bit_pairs(b.codes_low, u.codes);
    unpack_bit_plane(b.codes_high, 2, u.codes);
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq3_k join(const params& p,
                                                              const codes& c) noexcept {
    iq3_k b{p.scale, p.shifted, 0, {}, {}, {}};
    for (int g = 0; g < groups; ++g) {
      const int level = p.group_scales[g];
      const int stored = (level < 0 ? -level : level) / 2 << (g % 2 * 4);
      b.scales[g / 2] = static_cast<std::uint8_t>(b.scales[g / 2] | stored);
      if (level < 0) b.negative = static_cast<std::uint16_t>(b.negative | 1 << g);
    }
    pack_bit_pairs(c, b.codes_low);
    pack_bit_plane(c, 2, b.codes_high);
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq3_k& b, float* __restrict out) noexcept {
    shifted_decode(split(b), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's.
  ///
  /// Numerics  an all-zero block has scale 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    return fit_shifted<iq3_k, Arch>(w, importance);
  }
};
static_assert(sizeof(iq3_k) == 110 && grid_format<iq3_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
