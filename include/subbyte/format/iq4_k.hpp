// SPDX-License-Identifier: Apache-2.0
/// IQ4_K: 256 weights in 16 groups with 6-bit scales under one fp16 scale, 4-bit indices into a
/// non-uniform table.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ4_K: 16 groups of 16 weights, 6-bit group scales with bias 32, 4-bit indices into the table of
/// iq4_nl, which a bit per group shifts; 4.5 bits per weight.
///
/// Layout   scale:f16 | shifted:u16 | scales_high:u8[4] | scales_low:u8[8] | codes:u8[128]; scales
///          as pack_6bit_scales; in run k of 32 weights weight j is the low nibble of codes[16 k +
///          j], weight j + 16 the high one.
/// Value    scale * (group scale - 32) * (iq4::value(code), plus 4 if shifted), exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 139 of ik_llama.cpp; its `block_iq4_k` (d = scale, extra = shifted).
struct iq4_k {
  static constexpr const char* name = "iq4_k";
  static constexpr int block_size = 256;
  static constexpr int group_size = 16;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-32, 1, 64};
  static constexpr std::uint32_t gguf_type = 139;
  using codebook = iq4_shifted;
  using partner = q8_k;

  half scale;
  std::uint16_t shifted;
  std::uint8_t scales_high[4];
  std::uint8_t scales_low[8];
  std::uint8_t codes_packed[128];

  using params = shifted_params<half, 16>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq4_k>(code, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq4_k>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq4_k> split(const iq4_k& b) noexcept {
    unpacked<iq4_k> u{{b.scale, {}, b.shifted}, {}};
    unpack_6bit_scales(b.scales_high, b.scales_low, u.params.group_scales);
    unpack_nibbles<16>(b.codes_packed, u.codes);
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq4_k join(const params& p,
                                                              const codes& c) noexcept {
    iq4_k b{p.scale, p.shifted, {}, {}, {}};
    pack_6bit_scales(p.group_scales, b.scales_high, b.scales_low);
    pack_nibbles<16>(c, b.codes_packed);
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq4_k& b, float* __restrict out) noexcept {
    shifted_decode(split(b), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's.
  ///
  /// Numerics  an all-zero block has scale 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    return fit_shifted<iq4_k, Arch>(w, importance);
  }
};
static_assert(sizeof(iq4_k) == 144 && grid_format<iq4_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
