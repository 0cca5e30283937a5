// SPDX-License-Identifier: Apache-2.0
/// IQ5_KS: one fp32 scale per row; 256 weights in 8 groups with odd 8-bit scales, 5-bit indices
/// into a non-uniform table.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ5_KS: 8 groups of 32 weights, group scales -127, -125, ..., 127 under one fp32 scale per row,
/// 5-bit indices into a non-uniform table that a bit per group shifts; 5.25 bits per weight and 4
/// bytes per row.
///
/// Layout   row: scale:f32 | blocks. Block: scales:u8[8] | codes_low:u8[128] | codes_high:u8[32];
///          scales as pack_odd_scales; in run k of 64 weights weight j is the low nibble of
///          codes_low[32 k + j], weight j + 32 the high one; codes_high as pack_bit_plane.
/// Value    (row scale * group scale) * (iq5::value(code), plus 2 if shifted); each product rounds
///          once in fp32.
/// Source   GGUF tensor type 152 of ik_llama.cpp; its `block_iq5_ks`.
struct iq5_ks {
  static constexpr const char* name = "iq5_ks";
  static constexpr int block_size = 256;
  static constexpr int group_size = 32;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-127, 2, 128};
  static constexpr std::uint32_t gguf_type = 152;
  using row_scale = f32_scale;
  using codebook = iq5;

  std::uint8_t scales[8];
  std::uint8_t codes_low[128];
  std::uint8_t codes_high[32];

  using params = shifted_params<row_scale, 8>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq5_ks>(code, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq5_ks>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq5_ks> split(
      const iq5_ks& b, const row_scale& scale) noexcept {
    unpacked<iq5_ks> u{{scale, {}, 0}, {}};
    unpack_odd_scales(b.scales, u.params);
    unpack_nibbles<32>(b.codes_low, u.codes);
    unpack_bit_plane(b.codes_high, 4, u.codes);
    return u;
  }

  /// The block; the row's scale in p is not part of it.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq5_ks join(const params& p,
                                                               const codes& c) noexcept {
    iq5_ks b{};
    pack_odd_scales(p, b.scales);
    pack_nibbles<32>(c, b.codes_low);
    pack_bit_plane(c, 4, b.codes_high);
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq5_ks& b, const row_scale& scale,
                                                 float* __restrict out) noexcept {
    shifted_decode(split(b, scale), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance,
                                                 const row_scale& scale) noexcept {
    return fit_shifted<iq5_ks, Arch>(w, importance, scale);
  }

  /// Nearest codes.
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static iq5_ks encode(const float* w, const float*,
                                                    const params& p) noexcept {
    return encode_shifted<iq5_ks, Arch>(w, p);
  }
};
static_assert(sizeof(iq5_ks) == 168 && row_scaled_grid_format<iq5_ks>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
