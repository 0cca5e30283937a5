// SPDX-License-Identifier: Apache-2.0
/// IQ1_S: 256 weights, points of 8 values -1, 0 and 1, shifted by an eighth.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/ternary_best.hpp"
#include "subbyte/format/ternary_search.hpp"
#include "subbyte/format/vector_codebook.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ1_S: one fp16 scale, 8 groups of 32 with 3-bit scales and a shift of 1/8 up or down, points of
/// 8 ternary values; 1.5625 bits per weight.
///
/// Layout   scale:f16 | indices:u8[32] | groups:u16[8]; bits 3 (p % 4) and up of groups[p / 4] are
///          the high three bits of index p; of groups[g], bits 12 to 14 are the group scale, bit 15
///          shifts down.
/// Value    scale * (2 * group scale + 1) * (value +- 1/8), exact in fp32.
/// Partner  q8_k
/// Source   GGUF tensor type 19; ggml `block_iq1_s` (d = scale, qs = indices, qh = groups).
struct iq1_s {
  static constexpr const char* name = "iq1_s";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 19;
  using partner = q8_k;

  half scale;
  std::uint8_t indices[32];
  std::uint16_t groups_packed[8];

  SUBBYTE_HD_INLINE static constexpr void decode(const iq1_s& b, float* __restrict out) noexcept {
    const float scale = b.scale.to_float();
    for (int g = 0; g < 8; ++g) {
      const unsigned group = b.groups_packed[g];
      const float d = scale * static_cast<float>(2 * (group >> 12 & 7U) + 1);
      const float shift = (group & 0x8000U) != 0 ? -0.125F : 0.125F;
      for (int p = 0; p < 4; ++p) {
        const auto index = static_cast<int>(b.indices[4 * g + p] | (group >> (3 * p) & 7U) << 8);
        const auto point = elements_of<iq1_codebook>(index);
        for (int j = 0; j < 8; ++j) {
          out[32 * g + 8 * p + j] = d * (static_cast<float>(point.at[j]) + shift);
        }
      }
    }
  }

  /// Byte-identical to ggml's file quantizer, with importance: error weights importance *
  /// sqrt(2 mean square of the block + x^2). ggml refuses to work without; here the weights are
  /// then those of IQ1_M, x^2.
  ///
  /// Numerics  a block of weights below 1e-12 is all zero bytes. In another block such a group has
  ///           index 0, scale 0 and a shift up: it decodes to -7/8 of the least scale, not to 0.
  ///           The stored scale is 1.125 times the fitted one. Non-finite sums as in
  ///           ternary_search.
  template <class Arch = arch::native>
  class encoder {
   public:
    [[nodiscard]] iq1_s operator()(const float* w, const float* importance, float) const noexcept {
      return packed(searched(w, importance));
    }

    /// The block of least sum(importance * (w - decoded)^2), importance null: ones, among
    /// operator()'s and what searches find: one with effort 1, two or three with 2 or 3; see
    /// octet_search.
    ///
    /// Numerics  the same bits on every compiler, arch and flag. What is not finite, or too small
    ///           for an fp16 scale, is left to operator().
    [[nodiscard]] iq1_s best(const float* w, const float* importance, float,
                             int effort) const noexcept {
      const auto found = searched(w, importance);
      const auto search = [&](int k) noexcept {
        const coder own({points_, search_.table()}, k > 0);
        return octet_search<coder, Arch>(own)(w, importance, found, octet_plans[k]);
      };
      const auto pack = [](const octet_block& b) noexcept { return packed(b); };
      return least_error_block<Arch>(packed(found), w, importance, effort, search, pack);
    }

   private:
    using coder = ternary_coder<32, false, Arch>;
    using searched_block = ternary_block<32>;

    [[nodiscard]] searched_block searched(const float* w, const float* importance) const noexcept {
      float weight[256];
      ternary_weights<Arch>(w, importance, weight);
      return search_(w, weight, 1e-12F);
    }

    [[nodiscard]] static iq1_s packed(const searched_block& found) noexcept {
      iq1_s b{half::nearest(found.scale * 1.125F), {}, {}};
      for (int g = 0; g < 8; ++g) {
        const auto& group = found.group_at[g];
        unsigned word = 0;
        for (int p = 0; p < 4; ++p) {
          b.indices[4 * g + p] = static_cast<std::uint8_t>(group.points[p] & 255);
          word |= static_cast<unsigned>(group.points[p] >> 8) << (3 * p);
        }
        if (found.scale != 0) {
          word |= static_cast<unsigned>(group.level) << 12 | (group.down & 1U) << 15;
        }
        b.groups_packed[g] = static_cast<std::uint16_t>(word);
      }
      return b;
    }

    [[nodiscard]] static iq1_s packed(const octet_block& found) noexcept {
      iq1_s b{found.scale, {}, {}};
      for (int g = 0; g < 8; ++g) {
        unsigned word = static_cast<unsigned>(found.level[g]) << 12;
        word |= static_cast<unsigned>(found.signs[4 * g]) << 15;
        for (int p = 0; p < 4; ++p) {
          b.indices[4 * g + p] = static_cast<std::uint8_t>(found.points[4 * g + p] & 255);
          word |= static_cast<unsigned>(found.points[4 * g + p] >> 8) << (3 * p);
        }
        b.groups_packed[g] = static_cast<std::uint16_t>(word);
      }
      return b;
    }

    ternary_search<common_shift, Arch> search_;
    point_levels<iq1_codebook, Arch> points_{1};
  };
};
static_assert(sizeof(iq1_s) == 50 && opaque_format<iq1_s>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
