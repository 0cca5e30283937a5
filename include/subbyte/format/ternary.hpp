// SPDX-License-Identifier: Apache-2.0
/// What the formats with codes for -1, 0 and 1 scales share.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// One fp16 scale, codes with bias 1.
struct ternary {
  struct params {
    half scale;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale;
    }
  };

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(code - 1);
  }

  template <class F>
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i, const params& p,
                                                             int last_code) noexcept {
    const float d = p.scale.to_float();
    const int guess = d != 0 ? clamp(trunc_to_int(weight / d + 1.5F), 0, last_code) : 0;
    return nearest_beside<F>(guess, weight, i, p, last_code);
  }

  /// The largest magnitude of n weights.
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, int n) noexcept {
    return {half::nearest(magnitude(signed_extreme<Arch>(w, n)))};
  }

  /// Codes 0, 1 and 2 under the unrounded largest magnitude, ties away from zero. NaN and weights
  /// so small that 1 / scale overflows get 1, as in ggml's TQ encoders (undefined in its Q2_0's).
  template <class Arch>
  static void quantize(const float* w, int n, std::uint8_t* codes) noexcept {
    const float d = magnitude(signed_extreme<Arch>(w, n));
    const float inverse = d != 0 ? 1.0F / d : 0.0F;
    for (int j = 0; j < n; ++j) {
      const float steps = unfused(w[j] * inverse);
      codes[j] = static_cast<std::uint8_t>(magnitude(steps) < 2 ? round_half_away(steps) + 1 : 1);
    }
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
