// SPDX-License-Identifier: Apache-2.0
/// IQ2_XS: 256 weights, points of 8 magnitudes, even signs.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/magnitude_best.hpp"
#include "subbyte/format/vector_codebook.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ2_XS: one fp16 scale, 16 groups of 16 with 4-bit scales, points of 8 magnitudes with 7-bit
/// signs; 2.3125 bits per weight.
///
/// Layout   scale:f16 | points:u16[32] | scales:u8[8]; point p has its index in bits 0 to 8 of
///          points[p] and its signs above; the scale of group g is nibble g % 2 (low first) of
///          scales[g / 2].
/// Value    scale * (group scale + 0.5) / 4 * +-magnitude, exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 17; ggml `block_iq2_xs` (d = scale, qs = points).
struct iq2_xs {
  static constexpr const char* name = "iq2_xs";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 17;
  using partner = q8_k;

  half scale;
  std::uint16_t points_packed[32];
  std::uint8_t scales[8];

  SUBBYTE_HD_INLINE static constexpr void decode(const iq2_xs& b, float* __restrict out) noexcept {
    for (int p = 0; p < 32; ++p) {
      const int level = b.scales[p / 4] >> (4 * (p / 2 % 2)) & 15;
      const float d = b.scale.to_float() * (0.5F + static_cast<float>(level)) * 0.25F;
      const unsigned packed = b.points_packed[p];
      decode_point<iq2_xs_codebook>(static_cast<int>(packed & 511U), signs_of_seven(packed >> 9), d,
                                    out + 8 * p);
    }
  }

 private:
  struct rule {
    using format = iq2_xs;
    using codebook = iq2_xs_codebook;
    static constexpr int shells = 2;
    static constexpr int group_size = 16;
    static constexpr float unit = 0.125F;
    static constexpr bool even_signs = true;
    static constexpr float zero_below = zero_group_magnitude;
    static constexpr float energy_factor = 1;
    static constexpr bool floored_weights = true;
    static constexpr int trials = 19;
    static constexpr float trial_step = 0.1F;
    static constexpr bool starts_from_levels = false;
    static constexpr second_choice again = second_choice::off_points;

    template <class Arch>
    [[nodiscard]] static iq2_xs packed(const magnitude_block<rule>& found) noexcept {
      iq2_xs b{half::nearest(found.scale), {}, {}};
      if (found.scale == 0) return b;
      for (int p = 0; p < 32; ++p) {
        const auto& group = found.group_at[p / 2];
        const unsigned signs = group.signs >> (8 * (p % 2)) & 127U;
        b.points_packed[p] = static_cast<std::uint16_t>(group.points[p % 2] | signs << 9);
      }
      for (int g = 0; g < 16; g += 2) {
        const int pair = found.group_at[g].level | found.group_at[g + 1].level << 4;
        b.scales[g / 2] = static_cast<std::uint8_t>(pair);
      }
      return b;
    }

    template <class Arch>
    [[nodiscard]] static iq2_xs packed(const octet_block& found) noexcept {
      iq2_xs b{found.scale, {}, {}};
      for (int p = 0; p < 32; ++p) {
        const int signs = found.signs[p] & 127;
        b.points_packed[p] = static_cast<std::uint16_t>(found.points[p] | signs << 9);
      }
      for (int g = 0; g < 16; g += 2) {
        b.scales[g / 2] = static_cast<std::uint8_t>(found.level[g] | found.level[g + 1] << 4);
      }
      return b;
    }
  };

 public:
  /// Byte-identical to ggml's file quantizer, with importance: error weights importance *
  /// sqrt(mean square of the block + x^2). ggml refuses to work without; here the weights are then
  /// those of IQ2_S, x^2 + half the mean square.
  ///
  /// Numerics  a block of weights below 1e-15 is all zero bytes; in another block such a group has
  ///           indices, signs and scale 0. Non-finite sums as in magnitude_search.
  template <class Arch = arch::native>
  using encoder = magnitude_encoder<rule, Arch>;
};
static_assert(sizeof(iq2_xs) == 74 && opaque_format<iq2_xs>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
