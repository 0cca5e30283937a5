// SPDX-License-Identifier: Apache-2.0
/// IQ3_XXS: 256 weights, points of 4 magnitudes, even signs.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/magnitude_best.hpp"
#include "subbyte/format/vector_codebook.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ3_XXS: one fp16 scale, 8 groups of 32 with 4-bit scales, points of 4 magnitudes with 7-bit
/// signs for 8; 3.0625 bits per weight.
///
/// Layout   scale:f16 | indices:u8[64] | words:u8[32]; the four bytes of words from 4 g on,
///          least first, are the 32-bit word of group g: the signs of its weights 8 p .. 8 p + 7 in
///          bits 7 p and up, the group scale in bits 28 and up.
/// Value    scale * (group scale + 0.5) / 2 * +-magnitude, exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 18; ggml `block_iq3_xxs` (d = scale, qs = indices and words).
struct iq3_xxs {
  static constexpr const char* name = "iq3_xxs";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 18;
  using partner = q8_k;

  half scale;
  std::uint8_t indices[64];
  std::uint8_t words[32];

  SUBBYTE_HD_INLINE static constexpr void decode(const iq3_xxs& b, float* __restrict out) noexcept {
    for (int g = 0; g < 8; ++g) {
      const std::uint8_t* const bytes = b.words + 4 * g;
      const unsigned word = bytes[0] | static_cast<unsigned>(bytes[1]) << 8 |
                            static_cast<unsigned>(bytes[2]) << 16 |
                            static_cast<unsigned>(bytes[3]) << 24;
      const float d = b.scale.to_float() * (0.5F + static_cast<float>(word >> 28)) * 0.5F;
      for (int p = 0; p < 8; ++p) {
        const unsigned signs = signs_of_seven(word >> (7 * (p / 2))) >> (4 * (p % 2));
        decode_point<iq3_xxs_codebook>(b.indices[8 * g + p], signs, d, out + 32 * g + 4 * p);
      }
    }
  }

 private:
  struct rule {
    using format = iq3_xxs;
    using codebook = iq3_xxs_codebook;
    static constexpr int shells = 2;
    static constexpr int group_size = 32;
    static constexpr float unit = 0.25F;
    static constexpr bool even_signs = true;
    static constexpr float zero_below = 1e-8F;
    static constexpr float energy_factor = 2;
    static constexpr bool floored_weights = false;
    static constexpr int trials = 31;
    static constexpr float trial_step = 0.2F;
    static constexpr bool starts_from_levels = false;
    static constexpr second_choice again = second_choice::off_points;

    template <class Arch>
    [[nodiscard]] static iq3_xxs packed(const magnitude_block<rule>& found) noexcept {
      iq3_xxs b{half::nearest(found.scale * 1.0125F), {}, {}};
      if (found.scale == 0) return b;
      for (int g = 0; g < 8; ++g) {
        const auto& group = found.group_at[g];
        for (int p = 0; p < 8; ++p) {
          b.indices[8 * g + p] = static_cast<std::uint8_t>(group.points[p]);
        }
        store_le<std::uint32_t>(b.words + 4 * g, word_of_sevens(group.signs, group.level));
      }
      return b;
    }

    template <class Arch>
    [[nodiscard]] static iq3_xxs packed(const octet_block& found) noexcept {
      iq3_xxs b{found.scale, {}, {}};
      for (int p = 0; p < 64; ++p) b.indices[p] = static_cast<std::uint8_t>(found.points[p]);
      for (int g = 0; g < 8; ++g) {
        std::uint32_t signs = 0;
        for (int o = 0; o < 4; ++o) signs |= std::uint32_t{found.signs[4 * g + o]} << (8 * o);
        store_le<std::uint32_t>(b.words + 4 * g, word_of_sevens(signs, found.level[g]));
      }
      return b;
    }
  };

 public:
  /// Byte-identical to ggml's file quantizer. Error weights are x^2, or
  /// with importance importance * sqrt(2 mean square of the block + x^2).
  ///
  /// Numerics  a block of weights below 1e-8 is all zero bytes; in another block such a group has
  ///           indices, signs and scale 0. The stored scale is 1.0125 times the fitted one.
  ///           Non-finite sums as in magnitude_search.
  template <class Arch = arch::native>
  using encoder = magnitude_encoder<rule, Arch>;
};
static_assert(sizeof(iq3_xxs) == 98 && opaque_format<iq3_xxs>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
