// SPDX-License-Identifier: Apache-2.0
/// IQ2_KS: one fp16 scale per row; 256 weights in 8 groups with 5-bit scales, 2-bit indices into a
/// non-uniform table.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ2_KS: 8 groups of 32 weights, 5-bit group scales with bias 16 under one fp16 scale per row,
/// 2-bit indices into a non-uniform table that a bit per group shifts; 2.1875 bits per weight and 2
/// bytes per row.
///
/// Layout   row: scale:f16 | blocks. Block: extra:u16 | scales:u8[4] | codes:u8[64]; the low four
///          bits of group scale g are nibble g % 2 (low first) of scales[g / 2], its fifth bit is
///          bit 8 + g of extra; bit g of extra shifts group g; codes as pack_bit_pairs.
/// Value    row scale * (group scale - 16) * (iq2::value(code), plus 5 if shifted), exact in fp32.
/// Source   GGUF tensor type 145 of ik_llama.cpp; its `block_iq2_ks`.
struct iq2_ks {
  static constexpr const char* name = "iq2_ks";
  static constexpr int block_size = 256;
  static constexpr int group_size = 32;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-16, 1, 32};
  static constexpr std::uint32_t gguf_type = 145;
  using row_scale = half;
  using codebook = iq2;

  std::uint16_t extra;
  std::uint8_t scales[4];
  std::uint8_t codes_packed[64];

  using params = shifted_params<row_scale, 8>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq2_ks>(code, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq2_ks>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq2_ks> split(
      const iq2_ks& b, const row_scale& scale) noexcept {
    unpacked<iq2_ks> u{{scale, {}, static_cast<std::uint16_t>(b.extra & 255)}, {}};
    for (int g = 0; g < groups; ++g) {
      const int stored = (b.scales[g / 2] >> (g % 2 * 4) & 15) | (b.extra >> (8 + g) & 1) << 4;
      u.params.group_scales[g] = static_cast<std::int8_t>(stored - 16);
    }
    unpack_bit_pairs(b.codes_packed, u.codes);
    return u;
  }

  /// The block; the row's scale in p is not part of it.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq2_ks join(const params& p,
                                                               const codes& c) noexcept {
    iq2_ks b{p.shifted, {}, {}};
    for (int g = 0; g < groups; ++g) {
      const int stored = p.group_scales[g] + 16;
      const int low = (stored & 15) << (g % 2 * 4);
      b.scales[g / 2] = static_cast<std::uint8_t>(b.scales[g / 2] | low);
      b.extra = static_cast<std::uint16_t>(b.extra | stored >> 4 << (8 + g));
    }
    pack_bit_pairs(c, b.codes_packed);
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq2_ks& b, const row_scale& scale,
                                                 float* __restrict out) noexcept {
    shifted_decode(split(b, scale), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance,
                                                 const row_scale& scale) noexcept {
    return fit_shifted<iq2_ks, Arch>(w, importance, scale);
  }

  /// Nearest codes.
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static iq2_ks encode(const float* w, const float*,
                                                    const params& p) noexcept {
    return encode_shifted<iq2_ks, Arch>(w, p);
  }
};
static_assert(sizeof(iq2_ks) == 70 && row_scaled_grid_format<iq2_ks>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
