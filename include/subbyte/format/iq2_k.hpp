// SPDX-License-Identifier: Apache-2.0
/// IQ2_K: 256 weights in 16 groups with 4-bit scales under one fp16 scale, 2-bit indices into a
/// non-uniform table.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ2_K: 16 groups of 16 weights, 4-bit group scales with bias 8, 2-bit indices into a non-uniform
/// table that a bit per group shifts; 2.375 bits per weight.
///
/// Layout   scale:f16 | shifted:u16 | scales:u8[8] | codes:u8[64]; bit g of `shifted` and nibble g
/// %
///          2 (low first) of scales[g / 2] belong to group g; codes as pack_bit_pairs.
/// Value    scale * (group scale - 8) * (iq2::value(code), plus 5 if shifted), exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 137 of ik_llama.cpp; its `block_iq2_k` (d = scale, extra = shifted).
struct iq2_k {
  static constexpr const char* name = "iq2_k";
  static constexpr int block_size = 256;
  static constexpr int group_size = 16;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-8, 1, 16};
  static constexpr std::uint32_t gguf_type = 137;
  using codebook = iq2;
  using partner = q8_k;

  half scale;
  std::uint16_t shifted;
  std::uint8_t scales[8];
  std::uint8_t codes_packed[64];

  using params = shifted_params<half, 16>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq2_k>(code, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq2_k>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq2_k> split(const iq2_k& b) noexcept {
    unpacked<iq2_k> u{{b.scale, {}, b.shifted}, {}};
    for (int g = 0; g < groups; ++g) {
      u.params.group_scales[g] =
          static_cast<std::int8_t>((b.scales[g / 2] >> (g % 2 * 4) & 15) - 8);
    }
    unpack_bit_pairs(b.codes_packed, u.codes);
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq2_k join(const params& p,
                                                              const codes& c) noexcept {
    iq2_k b{p.scale, p.shifted, {}, {}};
    for (int g = 0; g < groups; ++g) {
      const int stored = (p.group_scales[g] + 8) << (g % 2 * 4);
      b.scales[g / 2] = static_cast<std::uint8_t>(b.scales[g / 2] | stored);
    }
    pack_bit_pairs(c, b.codes_packed);
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq2_k& b, float* __restrict out) noexcept {
    shifted_decode(split(b), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's.
  ///
  /// Numerics  an all-zero block has scale 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    return fit_shifted<iq2_k, Arch>(w, importance);
  }
};
static_assert(sizeof(iq2_k) == 76 && grid_format<iq2_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
