// SPDX-License-Identifier: Apache-2.0
/// IQ2_XXS: 256 weights, points of 8 magnitudes, even signs.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/magnitude_best.hpp"
#include "subbyte/format/vector_codebook.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ2_XXS: one fp16 scale, 8 groups of 32 with 4-bit scales, points of 8 magnitudes with 7-bit
/// signs; 2.0625 bits per weight.
///
/// Layout   scale:f16 | groups:u16[32]; group g is the 8 bytes from groups[4 g] on: four indices of
///          points, then a 32-bit word with the signs of point p in bits 7 p and up and the group
///          scale in bits 28 and up.
/// Value    scale * (group scale + 0.5) / 4 * +-magnitude, exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 16; ggml `block_iq2_xxs` (d = scale, qs = groups).
struct iq2_xxs {
  static constexpr const char* name = "iq2_xxs";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 16;
  using partner = q8_k;

  half scale;
  std::uint16_t groups_packed[32];

  SUBBYTE_HD_INLINE static constexpr void decode(const iq2_xxs& b, float* __restrict out) noexcept {
    for (int g = 0; g < 8; ++g) {
      const std::uint16_t* const group = b.groups_packed + 4 * g;
      const unsigned word = group[2] | static_cast<unsigned>(group[3]) << 16;
      const float d = b.scale.to_float() * (0.5F + static_cast<float>(word >> 28)) * 0.25F;
      for (int p = 0; p < 4; ++p) {
        const int index = group[p / 2] >> (8 * (p % 2)) & 255;
        decode_point<iq2_xxs_codebook>(index, signs_of_seven(word >> (7 * p)), d,
                                       out + 32 * g + 8 * p);
      }
    }
  }

 private:
  struct rule {
    using format = iq2_xxs;
    using codebook = iq2_xxs_codebook;
    static constexpr int shells = 2;
    static constexpr int group_size = 32;
    static constexpr float unit = 0.125F;
    static constexpr bool even_signs = true;
    static constexpr float zero_below = zero_group_magnitude;
    static constexpr float energy_factor = 1;
    static constexpr bool floored_weights = true;
    static constexpr int trials = 13;
    static constexpr float trial_step = 0.1F;
    static constexpr bool starts_from_levels = true;
    static constexpr second_choice again = second_choice::always;

    template <class Arch>
    [[nodiscard]] static iq2_xxs packed(const magnitude_block<rule>& found) noexcept {
      iq2_xxs b{half::nearest(found.scale), {}};
      if (found.scale == 0) return b;
      for (int g = 0; g < 8; ++g) {
        const auto& group = found.group_at[g];
        const std::uint32_t word = word_of_sevens(group.signs, group.level);
        std::uint16_t* const out = b.groups_packed + 4 * g;
        out[0] = static_cast<std::uint16_t>(group.points[0] | group.points[1] << 8);
        out[1] = static_cast<std::uint16_t>(group.points[2] | group.points[3] << 8);
        out[2] = static_cast<std::uint16_t>(word);
        out[3] = static_cast<std::uint16_t>(word >> 16);
      }
      return b;
    }

    template <class Arch>
    [[nodiscard]] static iq2_xxs packed(const octet_block& found) noexcept {
      iq2_xxs b{found.scale, {}};
      for (int g = 0; g < 8; ++g) {
        std::uint32_t signs = 0;
        for (int o = 0; o < 4; ++o) signs |= std::uint32_t{found.signs[4 * g + o]} << (8 * o);
        const std::uint32_t word = word_of_sevens(signs, found.level[g]);
        const std::uint16_t* const point = found.points + 4 * g;
        std::uint16_t* const out = b.groups_packed + 4 * g;
        out[0] = static_cast<std::uint16_t>(point[0] | point[1] << 8);
        out[1] = static_cast<std::uint16_t>(point[2] | point[3] << 8);
        out[2] = static_cast<std::uint16_t>(word);
        out[3] = static_cast<std::uint16_t>(word >> 16);
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
static_assert(sizeof(iq2_xxs) == 66 && opaque_format<iq2_xxs>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
