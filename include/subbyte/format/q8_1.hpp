// SPDX-License-Identifier: Apache-2.0
/// Q8_1: Q8_0 with the sum of its values stored beside the scale; activations only.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/q8_0.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q8_1: 32 activations, one fp16 scale, their fp16 sum, 8-bit codes with bias 128; 9 bits per
/// weight.
///
/// The sum lets an integer product with a format that has a minimum add minimum * sum once per
/// block. No GGUF file stores weights in it (ggml's type number is 9), so it has no gguf_type.
///
/// Layout   scale:f16 | sum:f16 | signed_codes:i8[32]; signed_codes[j] = code j - 128.
/// Value    scale * (code - 128), exact in fp32. The sum plays no part: join() stores the one in
///          params, and whoever changes codes owns the update.
/// Partner  none: it is the partner of q4_1 and q5_1.
/// Source   ggml `block_q8_1` (d = scale, s = sum, qs = signed_codes).
struct q8_1 {
  static constexpr const char* name = "q8_1";
  static constexpr int block_size = 32;

  half scale;
  half sum;
  std::int8_t signed_codes[32];

  struct params {
    half scale;
    half sum;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale && a.sum == b.sum;
    }
  };
  using codes = code_block<32>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return q8_0::value(code, i, {p.scale});
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return q8_0::round(weight, i, {p.scale});
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q8_1> split(const q8_1& b) noexcept {
    unpacked<q8_1> u{{b.scale, b.sum}, {}};
    for (int j = 0; j < 32; ++j) u.codes[j] = static_cast<std::uint8_t>(b.signed_codes[j] + 128);
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q8_1 join(const params& p,
                                                             const codes& c) noexcept {
    q8_1 b{p.scale, p.sum, {}};
    for (int j = 0; j < 32; ++j) b.signed_codes[j] = static_cast<std::int8_t>(c[j] - 128);
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const q8_1& b, float* __restrict out) noexcept {
    const float d = b.scale.to_float();
    for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(b.signed_codes[j]);
  }

  /// The reference encoder's scale and sum.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    const q8_1 b = encode_ref<Arch>(w, importance, 0);
    return {b.scale, b.sum};
  }

  /// Byte-identical to ggml's reference quantizer: q8_0's codes, and sum = fp16(sum of signed
  /// codes * the unrounded scale). Importance is not used.
  ///
  /// Numerics  special values as in q8_0; the sum overflows to Inf (or Inf * 0 = NaN) like the
  ///           scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q8_1 encode_ref(const float* w, const float*,
                                                      float) noexcept {
    const float d = magnitude(signed_extreme<Arch>(w, block_size)) / 127.0F;
    q8_1 b{half::nearest(d), {}, {}};
    q8_0::quantize_with<Arch>(d, w, b.signed_codes);
    int total = 0;
    for (int j = 0; j < 32; ++j) total += b.signed_codes[j];
    b.sum = half::nearest(static_cast<float>(total) * d);
    return b;
  }
};
static_assert(sizeof(q8_1) == 36 && grid_format<q8_1> && reference_encodable<q8_1>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
