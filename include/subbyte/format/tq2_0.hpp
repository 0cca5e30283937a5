// SPDX-License-Identifier: Apache-2.0
/// TQ2_0: 256 ternary weights, one fp16 scale, 2 bits each.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/ternary.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// TQ2_0: 256 weights, one fp16 scale, 2-bit codes with bias 1; 2.0625 bits per weight.
///
/// Layout   codes:u8[64] | scale:f16; weight j is bits 2s and 2s + 1 of codes[32 h + j % 32], with
///          h = j / 128 and s = j % 128 / 32.
/// Value    scale * (code - 1), exact in fp32: -1, 0, 1 and 2 scales. The reference encoder never
///          uses the last.
/// Partner  q8_k
/// Source   GGUF tensor type 35; ggml `block_tq2_0` (qs = codes, d = scale).
struct tq2_0 {
  static constexpr const char* name = "tq2_0";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 35;
  using partner = q8_k;

  std::uint8_t codes_packed[64];
  half scale;

  using params = ternary::params;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return ternary::value(code, p);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return ternary::round<tq2_0>(weight, i, p, 3);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<tq2_0> split(const tq2_0& b) noexcept {
    unpacked<tq2_0> u{{b.scale}, {}};
    for (int j = 0; j < block_size; ++j) {
      u.codes[j] = static_cast<std::uint8_t>(b.codes_packed[byte_of(j)] >> shift_of(j) & 3);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr tq2_0 join(const params& p,
                                                              const codes& c) noexcept {
    tq2_0 b{{}, p.scale};
    for (int j = 0; j < block_size; ++j) {
      std::uint8_t& byte = b.codes_packed[byte_of(j)];
      byte = static_cast<std::uint8_t>(byte | (c[j] & 3) << shift_of(j));
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const tq2_0& b, float* __restrict out) noexcept {
    const float d = b.scale.to_float();
    for (int half_block = 0; half_block < 2; ++half_block) {
      for (int place = 0; place < 4; ++place) {
        for (int l = 0; l < 32; ++l) {
          const int code = b.codes_packed[32 * half_block + l] >> (2 * place) & 3;
          out[128 * half_block + 32 * place + l] = d * static_cast<float>(code - 1);
        }
      }
    }
  }

  /// The reference encoder's scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float*) noexcept {
    return ternary::fit<Arch>(w, block_size);
  }

  /// Byte-identical to ggml's file quantizer: the largest magnitude is the scale, codes are 0 to 2.
  /// Importance is not used.
  ///
  /// Numerics  an all-zero block has scale 0 and every code 1.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static tq2_0 encode_ref(const float* w, const float*,
                                                       float) noexcept {
    codes c{};
    ternary::quantize<Arch>(w, block_size, c.code);
    return join(fit<Arch>(w, nullptr), c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself.
  template <class Arch = arch::native>
  [[nodiscard]] static tq2_0 encode_best(const float* w, const float* importance,
                                         float row_mean_square, int effort) noexcept {
    const tq2_0 start = encode_ref<Arch>(w, importance, row_mean_square);
    return lower_scaled_block<tq2_0, Arch>(start, whole_levels{-1, 2, 1}, {0, 0, 0.4F, true}, w,
                                           importance, effort);
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int byte_of(int j) noexcept {
    return 32 * (j / 128) + j % 32;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int shift_of(int j) noexcept {
    return 2 * (j % 128 / 32);
  }
};
static_assert(sizeof(tq2_0) == 66 && grid_format<tq2_0> && reference_encodable<tq2_0>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
