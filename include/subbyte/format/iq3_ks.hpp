// SPDX-License-Identifier: Apache-2.0
/// IQ3_KS: one fp16 scale per row; 256 weights in 8 groups with 5-bit scales, 3-bit indices into a
/// non-uniform table.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ3_KS: 8 groups of 32 weights, 5-bit group scales with bias 16 under one fp16 scale per row,
/// 3-bit indices into a non-uniform table that a bit per group shifts; 3.1875 bits per weight and 2
/// bytes per row.
///
/// Layout   row: scale:f16 | blocks. Block: extra:u16 | scales:u8[4] | codes_low:u8[64] |
///          codes_high:u8[32]; the low four bits of group scale g are nibble g / 4 (low first) of
///          scales[g % 4], its fifth bit is bit g of extra; bit 8 + g of extra shifts group g;
///          codes_low as pack_bit_pairs, codes_high as pack_bit_plane.
/// Value    row scale * (group scale - 16) * (iq3::value(code), plus 4 if shifted), exact in fp32.
/// Source   GGUF tensor type 156 of ik_llama.cpp; its `block_iq3_ks`.
struct iq3_ks {
  static constexpr const char* name = "iq3_ks";
  static constexpr int block_size = 256;
  static constexpr int group_size = 32;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-16, 1, 32};
  static constexpr std::uint32_t gguf_type = 156;
  using row_scale = half;
  using codebook = iq3;

  std::uint16_t extra;
  std::uint8_t scales[4];
  std::uint8_t codes_low[64];
  std::uint8_t codes_high[32];

  using params = shifted_params<row_scale, 8>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq3_ks>(code, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq3_ks>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq3_ks> split(
      const iq3_ks& b, const row_scale& scale) noexcept {
    unpacked<iq3_ks> u{{scale, {}, static_cast<std::uint16_t>(b.extra >> 8)}, {}};
    for (int g = 0; g < groups; ++g) {
      const int stored = (b.scales[g % 4] >> (g / 4 * 4) & 15) | (b.extra >> g & 1) << 4;
      u.params.group_scales[g] = static_cast<std::int8_t>(stored - 16);
    }
    unpack_bit_pairs(b.codes_low, u.codes);
    unpack_bit_plane(b.codes_high, 2, u.codes);
    return u;
  }

  /// The block; the row's scale in p is not part of it.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq3_ks join(const params& p,
                                                               const codes& c) noexcept {
    iq3_ks b{static_cast<std::uint16_t>(p.shifted << 8), {}, {}, {}};
    for (int g = 0; g < groups; ++g) {
      const int stored = p.group_scales[g] + 16;
      const int low = (stored & 15) << (g / 4 * 4);
      b.scales[g % 4] = static_cast<std::uint8_t>(b.scales[g % 4] | low);
      b.extra = static_cast<std::uint16_t>(b.extra | stored >> 4 << g);
    }
    pack_bit_pairs(c, b.codes_low);
    pack_bit_plane(c, 2, b.codes_high);
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq3_ks& b, const row_scale& scale,
                                                 float* __restrict out) noexcept {
    shifted_decode(split(b, scale), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance,
                                                 const row_scale& scale) noexcept {
    return fit_shifted<iq3_ks, Arch>(w, importance, scale);
  }

  /// Nearest codes.
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static iq3_ks encode(const float* w, const float*,
                                                    const params& p) noexcept {
    return encode_shifted<iq3_ks, Arch>(w, p);
  }
};
static_assert(sizeof(iq3_ks) == 102 && row_scaled_grid_format<iq3_ks>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
