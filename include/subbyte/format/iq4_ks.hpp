// SPDX-License-Identifier: Apache-2.0
/// IQ4_KS: one fp32 scale per row; 256 weights in 8 groups with odd 8-bit scales, the codes of
/// IQ4_NL.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ4_KS: 8 groups of 32 weights, group scales -127, -125, ..., 127 under one fp32 scale per row,
/// 4-bit indices into the table of iq4_nl, which a bit per group shifts; 4.25 bits per weight and 4
/// bytes per row.
///
/// Layout   row: scale:f32 | blocks. Block: scales:u8[8] | codes:u8[128]; scales as
///          pack_odd_scales; in group g weight j is the low nibble of codes[16 g + j], weight j +
///          16 the high one.
/// Value    (row scale * group scale) * (iq4::value(code), plus 4 if shifted); each product rounds
///          once in fp32.
/// Source   GGUF tensor type 144 of ik_llama.cpp; its `block_iq4_ks`.
struct iq4_ks {
  static constexpr const char* name = "iq4_ks";
  static constexpr int block_size = 256;
  static constexpr int group_size = 32;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-127, 2, 128};
  static constexpr std::uint32_t gguf_type = 144;
  using row_scale = f32_scale;
  using codebook = iq4_shifted;

  std::uint8_t scales[8];
  std::uint8_t codes_packed[128];

  using params = shifted_params<row_scale, 8>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq4_ks>(code, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq4_ks>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq4_ks> split(
      const iq4_ks& b, const row_scale& scale) noexcept {
    unpacked<iq4_ks> u{{scale, {}, 0}, {}};
    unpack_odd_scales(b.scales, u.params);
    unpack_nibbles<16>(b.codes_packed, u.codes);
    return u;
  }

  /// The block; the row's scale in p is not part of it.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq4_ks join(const params& p,
                                                               const codes& c) noexcept {
    iq4_ks b{};
    pack_odd_scales(p, b.scales);
    pack_nibbles<16>(c, b.codes_packed);
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq4_ks& b, const row_scale& scale,
                                                 float* __restrict out) noexcept {
    shifted_decode(split(b, scale), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance,
                                                 const row_scale& scale) noexcept {
    return fit_shifted<iq4_ks, Arch>(w, importance, scale);
  }

  /// Nearest codes.
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static iq4_ks encode(const float* w, const float*,
                                                    const params& p) noexcept {
    return encode_shifted<iq4_ks, Arch>(w, p);
  }
};
static_assert(sizeof(iq4_ks) == 136 && row_scaled_grid_format<iq4_ks>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
