// SPDX-License-Identifier: Apache-2.0
/// IQ1_M: 256 weights, points of 8 values -1, 0 and 1, shifted by an eighth.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/ternary_best.hpp"
#include "subbyte/format/ternary_search.hpp"
#include "subbyte/format/vector_codebook.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ1_M: one fp16 scale, 16 groups of 16 with 3-bit scales, points of 8 ternary values, each with
/// a shift of 1/8 up or down; 1.75 bits per weight.
///
/// Layout   indices:u8[32] | points:u8[16] | scales:u8[8]; nibble p % 2 (low first) of
///          points[p / 2] holds the high three bits of index p and, above them, whether point p
///          shifts down.
///          scales are four 16-bit words: bits 3 (g % 4) and up of word g / 4 are the scale of
///          group g; the top nibbles of the words, first word lowest, are the fp16 scale.
/// Value    scale * (2 * group scale + 1) * (value +- 1/8), exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 29; ggml `block_iq1_m` (qs = indices, qh = points).
struct iq1_m {
  static constexpr const char* name = "iq1_m";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 29;
  using partner = q8_k;

  std::uint8_t indices[32];
  std::uint8_t points_packed[16];
  std::uint8_t scales[8];

  SUBBYTE_HD_INLINE static constexpr void decode(const iq1_m& b, float* __restrict out) noexcept {
    const float scale = scale_of(b).to_float();
    for (int g = 0; g < 16; ++g) {
      const unsigned level = scale_word(b, g / 4) >> (3 * (g % 4)) & 7U;
      const float d = scale * static_cast<float>(2 * level + 1);
      for (int p = 2 * g; p < 2 * g + 2; ++p) {
        const int high = b.points_packed[g] >> (4 * (p % 2));
        const float shift = (high & 8) != 0 ? -0.125F : 0.125F;
        const auto point = elements_of<iq1_codebook>(b.indices[p] | (high & 7) << 8);
        for (int j = 0; j < 8; ++j) {
          out[8 * p + j] = d * (static_cast<float>(point.at[j]) + shift);
        }
      }
    }
  }

  /// The scale of the block.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr half scale_of(const iq1_m& b) noexcept {
    unsigned bits = 0;
    for (int i = 0; i < 4; ++i) bits |= scale_word(b, i) >> 12 << (4 * i);
    return bit_cast<half>(static_cast<std::uint16_t>(bits));
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unsigned scale_word(const iq1_m& b,
                                                                       int i) noexcept {
    return b.scales[2 * i] | static_cast<unsigned>(b.scales[2 * i + 1]) << 8;
  }

 public:
  /// Byte-identical to ggml's file quantizer. Error weights are x^2, or
  /// with importance importance * sqrt(2 mean square of the block + x^2).
  ///
  /// Numerics  a block of weights below 1e-7 is all zero bytes. In another block such a group has
  ///           index 0, scale 0 and shifts up: it decodes to -7/8 of the least scale, not to 0. The
  ///           stored scale is 1.1125 times the one fitted to the whole block. Non-finite sums as
  ///           in ternary_search.
  template <class Arch = arch::native>
  class encoder {
   public:
    [[nodiscard]] iq1_m operator()(const float* w, const float* importance, float) const noexcept {
      float weight[256];
      ternary_weights<Arch>(w, importance, weight);
      return packed(search_(w, weight, 1e-7F), w, weight);
    }

    /// The block of least sum(importance * (w - decoded)^2), importance null: ones, among
    /// operator()'s and what searches find: one with effort 1, two or three with 2 or 3; see
    /// octet_search.
    ///
    /// Numerics  the same bits on every compiler, arch and flag. What is not finite, or too small
    ///           for an fp16 scale, is left to operator().
    [[nodiscard]] iq1_m best(const float* w, const float* importance, float,
                             int effort) const noexcept {
      float weight[256];
      ternary_weights<Arch>(w, importance, weight);
      const auto found = search_(w, weight, 1e-7F);
      const auto search = [&](int k) noexcept {
        const coder own({points_, search_.table()}, k > 0);
        return octet_search<coder, Arch>(own)(w, importance, found, octet_plans[k]);
      };
      const auto pack = [](const octet_block& b) noexcept { return packed(b); };
      return least_error_block<Arch>(packed(found, w, weight), w, importance, effort, search, pack);
    }

   private:
    using coder = ternary_coder<16, true, Arch>;

    [[nodiscard]] static iq1_m packed(const ternary_block<16>& found, const float* w,
                                      const float* weight) noexcept {
      octet_block b{};
      for (int g = 0; g < 16; ++g) {
        b.points[2 * g] = found.group_at[g].points[0];
        b.points[2 * g + 1] = found.group_at[g].points[1];
      }
      if (found.scale == 0) return packed(b);

      float sum_xl = 0;
      float sum_ll = 0;
      for (int i = 0; i < 256; ++i) {
        const auto& group = found.group_at[i / 16];
        const int p = i / 8 % 2;
        const float level = ternary_level(group.points[p], i % 8, (group.down >> p & 1U) != 0) *
                            static_cast<float>(2 * group.level + 1);
        sum_xl += unfused(weight[i] * level * w[i]);
        sum_ll += unfused(weight[i] * level * level);
      }
      const float fitted = sum_ll > 0 ? sum_xl / sum_ll : found.scale;
      b.scale = half::nearest(fitted * 1.1125F);
      for (int g = 0; g < 16; ++g) {
        const auto& group = found.group_at[g];
        b.level[g] = group.level;
        b.signs[2 * g] = group.down & 1U;
        b.signs[2 * g + 1] = group.down >> 1 & 1U;
      }
      return packed(b);
    }

    [[nodiscard]] static iq1_m packed(const octet_block& found) noexcept {
      iq1_m b{};
      for (int p = 0; p < 32; ++p) {
        const int index = found.points[p];
        b.indices[p] = static_cast<std::uint8_t>(index & 255);
        const int high = (index >> 8 | found.signs[p] << 3) << (4 * (p % 2));
        b.points_packed[p / 2] = static_cast<std::uint8_t>(b.points_packed[p / 2] | high);
      }
      const unsigned scale = found.scale.bits;
      for (int i = 0; i < 4; ++i) {
        unsigned word = (scale >> (4 * i) & 15U) << 12;
        for (int g = 0; g < 4; ++g) {
          word |= static_cast<unsigned>(found.level[4 * i + g]) << (3 * g);
        }
        store_le<std::uint16_t>(b.scales + 2 * i, static_cast<std::uint16_t>(word));
      }
      return b;
    }

    ternary_search<own_shifts, Arch> search_;
    point_levels<iq1_codebook, Arch> points_{1};
  };
};
static_assert(sizeof(iq1_m) == 56 && opaque_format<iq1_m>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
