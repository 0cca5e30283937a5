// SPDX-License-Identifier: Apache-2.0
/// IQ5_K: 256 weights in 16 groups with 6-bit scales under one fp16 scale, 5-bit indices into a
/// non-uniform table.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ5_K: 16 groups of 16 weights, 6-bit group scales with bias 32, 5-bit indices into a
/// non-uniform table that a bit per group shifts; 5.5 bits per weight.
///
/// Layout   scale:f16 | shifted:u16 | scales_high:u8[4] | scales_low:u8[8] | codes_low:u8[128] |
///          codes_high:u8[32]; scales as pack_6bit_scales; in run k of 64 weights weight j is the
///          low nibble of codes_low[32 k + j], weight j + 32 the high one; codes_high as
///          pack_bit_plane.
/// Value    scale * (group scale - 32) * (iq5::value(code), plus 2 if shifted), exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 140 of ik_llama.cpp; its `block_iq5_k` (d = scale, extra = shifted,
/// qs,
///          qh = codes_low, codes_high).
struct iq5_k {
  static constexpr const char* name = "iq5_k";
  static constexpr int block_size = 256;
  static constexpr int group_size = 16;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-32, 1, 64};
  static constexpr std::uint32_t gguf_type = 140;
  using codebook = iq5;
  using partner = q8_k;

  half scale;
  std::uint16_t shifted;
  std::uint8_t scales_high[4];
  std::uint8_t scales_low[8];
  std::uint8_t codes_low[128];
  std::uint8_t codes_high[32];

  using params = shifted_params<half, 16>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq5_k>(code, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq5_k>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq5_k> split(const iq5_k& b) noexcept {
    unpacked<iq5_k> u{{b.scale, {}, b.shifted}, {}};
    unpack_6bit_scales(b.scales_high, b.scales_low, u.params.group_scales);
    unpack_nibbles<32>(b.codes_low, u.codes);
    unpack_bit_plane(b.codes_high, 4, u.codes);
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq5_k join(const params& p,
                                                              const codes& c) noexcept {
    iq5_k b{p.scale, p.shifted, {}, {}, {}, {}};
    pack_6bit_scales(p.group_scales, b.scales_high, b.scales_low);
    pack_nibbles<32>(c, b.codes_low);
    pack_bit_plane(c, 4, b.codes_high);
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq5_k& b, float* __restrict out) noexcept {
    shifted_decode(split(b), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's.
  ///
  /// Numerics  an all-zero block has scale 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    return fit_shifted<iq5_k, Arch>(w, importance);
  }
};
static_assert(sizeof(iq5_k) == 176 && grid_format<iq5_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
