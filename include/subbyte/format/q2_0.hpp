// SPDX-License-Identifier: Apache-2.0
/// Q2_0: 64 weights, one fp16 scale, 2-bit codes with bias 1.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/ternary.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q2_0: 64 weights, one fp16 scale, 2-bit codes with bias 1; 2.25 bits per weight.
///
/// Layout   scale:f16 | codes:u8[16]; weight j is bits 2 (j % 4) and 2 (j % 4) + 1 of codes[j / 4].
/// Value    scale * (code - 1), exact in fp32: -1, 0, 1 and 2 scales. The reference encoder never
///          uses the last.
/// Partner  q8_0
/// Source   GGUF tensor type 42; ggml `block_q2_0` (d = scale, qs = codes).
struct q2_0 {
  static constexpr const char* name = "q2_0";
  static constexpr int block_size = 64;
  static constexpr std::uint32_t gguf_type = 42;
  using partner = q8_0;

  half scale;
  std::uint8_t codes_packed[16];

  using params = ternary::params;
  using codes = code_block<64>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return ternary::value(code, p);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return ternary::round<q2_0>(weight, i, p, 3);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q2_0> split(const q2_0& b) noexcept {
    unpacked<q2_0> u{{b.scale}, {}};
    for (int j = 0; j < block_size; ++j) {
      u.codes[j] = static_cast<std::uint8_t>(b.codes_packed[j / 4] >> (2 * (j % 4)) & 3);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q2_0 join(const params& p,
                                                             const codes& c) noexcept {
    q2_0 b{p.scale, {}};
    for (int j = 0; j < block_size; ++j) {
      b.codes_packed[j / 4] =
          static_cast<std::uint8_t>(b.codes_packed[j / 4] | (c[j] & 3) << (2 * (j % 4)));
    }
    return b;
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
  [[nodiscard]] SUBBYTE_INLINE static q2_0 encode_ref(const float* w, const float*,
                                                      float) noexcept {
    codes c{};
    ternary::quantize<Arch>(w, block_size, c.code);
    return join(fit<Arch>(w, nullptr), c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself.
  template <class Arch = arch::native>
  [[nodiscard]] static q2_0 encode_best(const float* w, const float* importance,
                                        float row_mean_square, int effort) noexcept {
    const q2_0 start = encode_ref<Arch>(w, importance, row_mean_square);
    return lower_scaled_block<q2_0, Arch>(start, whole_levels{-1, 2, 1}, {0, 0, 0.4F, true}, w,
                                          importance, effort);
  }
};
static_assert(sizeof(q2_0) == 18 && grid_format<q2_0> && reference_encodable<q2_0>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
