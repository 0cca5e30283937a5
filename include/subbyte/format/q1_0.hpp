// SPDX-License-Identifier: Apache-2.0
/// Q1_0: 128 weights, one fp16 scale, their signs.
#pragma once

#include "subbyte/format/block_error.hpp"
#include "subbyte/format/concepts.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q1_0: 128 weights, one fp16 scale, one bit each; 1.125 bits per weight.
///
/// Layout   scale:f16 | codes:u8[16]; weight j is bit j % 8 of codes[j / 8].
/// Value    code ? scale : -scale.
/// Partner  q8_0
/// Source   GGUF tensor type 41; ggml `block_q1_0` (d = scale, qs = codes).
struct q1_0 {
  static constexpr const char* name = "q1_0";
  static constexpr int block_size = 128;
  static constexpr std::uint32_t gguf_type = 41;
  using partner = q8_0;

  half scale;
  std::uint8_t codes_packed[16];

  struct params {
    half scale;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale;
    }
  };
  using codes = code_block<128>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    const float d = p.scale.to_float();
    return code != 0 ? d : -d;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int,
                                                             const params& p) noexcept {
    const float d = p.scale.to_float();
    return (d > 0 && weight > 0) || (d < 0 && weight < 0) ? 1 : 0;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q1_0> split(const q1_0& b) noexcept {
    unpacked<q1_0> u{{b.scale}, {}};
    for (int j = 0; j < block_size; ++j) {
      u.codes[j] = static_cast<std::uint8_t>(b.codes_packed[j / 8] >> (j % 8) & 1);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q1_0 join(const params& p,
                                                             const codes& c) noexcept {
    q1_0 b{p.scale, {}};
    for (int j = 0; j < block_size; ++j) {
      b.codes_packed[j / 8] =
          static_cast<std::uint8_t>(b.codes_packed[j / 8] | (c[j] & 1) << (j % 8));
    }
    return b;
  }

  /// The reference encoder's scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float*) noexcept {
    return {half::nearest(mean_magnitude<Arch>(w))};
  }

  /// Byte-identical to ggml's file quantizer: the mean magnitude, and bit 1 for every weight that
  /// is not below zero. Importance is not used.
  ///
  /// Numerics  an all-zero block has scale 0 and every bit 1; a NaN has bit 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q1_0 encode_ref(const float* w, const float*,
                                                      float) noexcept {
    codes c{};
    for (int j = 0; j < block_size; ++j) c[j] = w[j] >= 0 ? 1 : 0;
    return join(fit<Arch>(w, nullptr), c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself: the scale is the
  /// weighted mean magnitude. Without importance the reference is the least error already.
  template <class Arch = arch::native>
  [[nodiscard]] static q1_0 encode_best(const float* w, const float* importance,
                                        float row_mean_square, int) noexcept {
    const q1_0 reference = encode_ref<Arch>(w, importance, row_mean_square);
    if (importance == nullptr) return reference;
    float sum = 0;
    float total = 0;
    for (int i = 0; i < block_size; ++i) {
      sum += unfused(importance[i] * magnitude(w[i]));
      total += importance[i];
    }
    q1_0 other = reference;
    other.scale = half::nearest(total > 0 ? sum / total : 0.0F);
    const bool lower = clearly_lower(block_error<q1_0, Arch>(other, w, importance),
                                     block_error<q1_0, Arch>(reference, w, importance));
    return lower ? other : reference;
  }

 private:
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static float mean_magnitude(const float* w) noexcept {
    float sum = 0;
    for (int j = 0; j < block_size; ++j) sum += magnitude(w[j]);
    return sum / static_cast<float>(block_size);
  }
};
static_assert(sizeof(q1_0) == 18 && grid_format<q1_0> && reference_encodable<q1_0>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
