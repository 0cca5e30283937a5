// SPDX-License-Identifier: Apache-2.0
/// IQ2_S: 256 weights, points of 8 magnitudes, free signs.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/magnitude_best.hpp"
#include "subbyte/format/vector_codebook.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ2_S: one fp16 scale, 16 groups of 16 with 4-bit scales, points of 8 magnitudes with 8
/// signs; 2.5625 bits per weight.
///
/// Layout   scale:f16 | indices:u8[32] | signs:u8[32] | indices_high:u8[8] | scales:u8[8]; the high
///          two bits of index p are bits 2 (p % 4) and up of indices_high[p / 4]; bit j of signs[p]
///          makes element j of point p negative; group scales as in IQ2_XS.
/// Value    scale * (group scale + 0.5) / 4 * +-magnitude, exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 22; ggml `block_iq2_s` (d = scale, qs = indices and signs,
///          qh = indices_high).
struct iq2_s {
  static constexpr const char* name = "iq2_s";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 22;
  using partner = q8_k;

  half scale;
  std::uint8_t indices[32];
  std::uint8_t signs[32];
  std::uint8_t indices_high[8];
  std::uint8_t scales[8];

  SUBBYTE_HD_INLINE static constexpr void decode(const iq2_s& b, float* __restrict out) noexcept {
    for (int p = 0; p < 32; ++p) {
      const int level = b.scales[p / 4] >> (4 * (p / 2 % 2)) & 15;
      const float d = b.scale.to_float() * (0.5F + static_cast<float>(level)) * 0.25F;
      const int index = b.indices[p] | (b.indices_high[p / 4] >> (2 * (p % 4)) & 3) << 8;
      decode_point<iq2_s_codebook>(index, b.signs[p], d, out + 8 * p);
    }
  }

 private:
  struct rule {
    using format = iq2_s;
    using codebook = iq2_s_codebook;
    static constexpr int shells = 1;
    static constexpr int group_size = 16;
    static constexpr float unit = 0.125F;
    static constexpr bool even_signs = false;
    static constexpr float zero_below = 1e-8F;
    static constexpr float energy_factor = 2;
    static constexpr bool floored_weights = true;
    static constexpr int trials = 19;
    static constexpr float trial_step = 0.1F;
    static constexpr bool starts_from_levels = false;
    static constexpr second_choice again = second_choice::off_points;

    template <class Arch>
    [[nodiscard]] static iq2_s packed(const magnitude_block<rule>& found) noexcept {
      iq2_s b{half::nearest(found.scale * 0.9875F), {}, {}, {}, {}};
      for (int p = 0; p < 32; ++p) {
        const auto& group = found.group_at[p / 2];
        const int index = group.points[p % 2];
        b.indices[p] = static_cast<std::uint8_t>(index & 255);
        b.signs[p] = static_cast<std::uint8_t>(group.signs >> (8 * (p % 2)));
        const int high = index >> 8 << (2 * (p % 4));
        b.indices_high[p / 4] = static_cast<std::uint8_t>(b.indices_high[p / 4] | high);
      }
      for (int g = 0; g < 16; g += 2) {
        const int pair = found.group_at[g].level | found.group_at[g + 1].level << 4;
        b.scales[g / 2] = static_cast<std::uint8_t>(found.scale != 0 ? pair : 0);
      }
      return b;
    }

    template <class Arch>
    [[nodiscard]] static iq2_s packed(const octet_block& found) noexcept {
      iq2_s b{found.scale, {}, {}, {}, {}};
      for (int p = 0; p < 32; ++p) {
        b.indices[p] = static_cast<std::uint8_t>(found.points[p] & 255);
        b.signs[p] = found.signs[p];
        const int high = found.points[p] >> 8 << (2 * (p % 4));
        b.indices_high[p / 4] = static_cast<std::uint8_t>(b.indices_high[p / 4] | high);
      }
      for (int g = 0; g < 16; g += 2) {
        b.scales[g / 2] = static_cast<std::uint8_t>(found.level[g] | found.level[g + 1] << 4);
      }
      return b;
    }
  };

 public:
  /// Byte-identical to ggml's file quantizer. Error weights are x^2 + half the mean square of the
  /// block, or with importance importance * sqrt(2 mean square + x^2).
  ///
  /// Numerics  a block of weights below 1e-8 is all zero bytes; in another block such a group has
  ///           indices, signs and scale 0. The stored scale is 0.9875 times the fitted one.
  ///           Non-finite sums as in magnitude_search.
  template <class Arch = arch::native>
  using encoder = magnitude_encoder<rule, Arch>;
};
static_assert(sizeof(iq2_s) == 82 && opaque_format<iq2_s>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
