// SPDX-License-Identifier: Apache-2.0
/// IQ3_S: 256 weights, points of 4 magnitudes, free signs.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/magnitude_best.hpp"
#include "subbyte/format/vector_codebook.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ3_S: one fp16 scale, 8 groups of 32 with 4-bit scales, points of 4 magnitudes with 4
/// signs; 3.4375 bits per weight.
///
/// Layout   scale:f16 | indices:u8[64] | indices_high:u8[8] | signs:u8[32] | scales:u8[4]; the high
///          bit of index p is bit p % 8 of indices_high[p / 8]; bit j of signs[i] makes weight
///          8 i + j negative; the scale of group g is nibble g % 2 (low first) of scales[g / 2].
/// Value    scale * (2 * group scale + 1) * +-magnitude, exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 21; ggml `block_iq3_s` (d = scale, qs = indices, qh = indices_high).
struct iq3_s {
  static constexpr const char* name = "iq3_s";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 21;
  using partner = q8_k;

  half scale;
  std::uint8_t indices[64];
  std::uint8_t indices_high[8];
  std::uint8_t signs[32];
  std::uint8_t scales[4];

  SUBBYTE_HD_INLINE static constexpr void decode(const iq3_s& b, float* __restrict out) noexcept {
    for (int p = 0; p < 64; ++p) {
      const int level = b.scales[p / 16] >> (4 * (p / 8 % 2)) & 15;
      const float d = b.scale.to_float() * static_cast<float>(1 + 2 * level);
      const int index = b.indices[p] | (b.indices_high[p / 8] >> (p % 8) & 1) << 8;
      const auto signs = static_cast<unsigned>(b.signs[p / 2] >> (4 * (p % 2)));
      decode_point<iq3_s_codebook>(index, signs, d, out + 4 * p);
    }
  }

 private:
  struct rule {
    using format = iq3_s;
    using codebook = iq3_s_codebook;
    static constexpr int shells = 3;
    static constexpr int group_size = 32;
    static constexpr float unit = 1;
    static constexpr bool even_signs = false;
    static constexpr float zero_below = 0;
    static constexpr float energy_factor = 2;
    static constexpr bool floored_weights = false;
    static constexpr int trials = 19;
    static constexpr float trial_step = 0.2F;
    static constexpr bool starts_from_levels = false;
    static constexpr second_choice again = second_choice::all_if_any_off;

    template <class Arch>
    [[nodiscard]] static iq3_s packed(const magnitude_block<rule>& found) noexcept {
      iq3_s b{half::nearest(found.scale * 1.033F), {}, {}, {}, {}};
      int next = 0;
      for (int g = 0; g < 8; ++g) {
        const auto& group = found.group_at[g];
        if (group.skipped) continue;
        for (int p = 0; p < 8; ++p) {
          b.indices[8 * next + p] = static_cast<std::uint8_t>(group.points[p] & 255);
          const int high = group.points[p] >> 8 << p;
          b.indices_high[g] = static_cast<std::uint8_t>(b.indices_high[g] | high);
        }
        for (int i = 0; i < 4; ++i) {
          b.signs[4 * next + i] = static_cast<std::uint8_t>(group.signs >> (8 * i));
        }
        ++next;
      }
      for (int g = 0; g < 8; g += 2) {
        const int pair = found.group_at[g].level | found.group_at[g + 1].level << 4;
        b.scales[g / 2] = static_cast<std::uint8_t>(found.scale != 0 ? pair : 0);
      }
      return b;
    }

    template <class Arch>
    [[nodiscard]] static iq3_s packed(const octet_block& found) noexcept {
      iq3_s b{found.scale, {}, {}, {}, {}};
      for (int p = 0; p < 64; ++p) {
        b.indices[p] = static_cast<std::uint8_t>(found.points[p] & 255);
        const int high = found.points[p] >> 8 << (p % 8);
        b.indices_high[p / 8] = static_cast<std::uint8_t>(b.indices_high[p / 8] | high);
      }
      for (int o = 0; o < 32; ++o) b.signs[o] = found.signs[o];
      for (int g = 0; g < 8; g += 2) {
        b.scales[g / 2] = static_cast<std::uint8_t>(found.level[g] | found.level[g + 1] << 4);
      }
      return b;
    }
  };

 public:
  /// Byte-identical to ggml's file quantizer. Error weights are x^2, or
  /// with importance importance * sqrt(2 mean square of the block + x^2).
  ///
  /// Numerics  an all-zero block is all zero bytes. A group of zeros in another block takes no
  ///           place among the indices and signs, as in ggml: those of the groups behind it stand
  ///           too far to the front, so the block decodes to wrong values. The stored scale is
  ///           1.033 times the fitted one. Non-finite sums as in magnitude_search.
  template <class Arch = arch::native>
  using encoder = magnitude_encoder<rule, Arch>;
};
static_assert(sizeof(iq3_s) == 110 && opaque_format<iq3_s>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
