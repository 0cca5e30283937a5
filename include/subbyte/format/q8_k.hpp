// SPDX-License-Identifier: Apache-2.0
/// Q8_K: 256 activations, one fp32 scale, signed 8-bit codes and their sums by 16.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q8_K: 256 activations, one fp32 scale, signed 8-bit codes and their sums by 16; 9.125 bits per
/// weight. The partner of the k-quants and iq4_xs in integer products.
///
/// Layout   offset 0 scale:f32 | 4 signed_codes:i8[256] | 260 sums:i16[16]; sums[g] is the sum of
///          signed_codes[16 g .. 16 g + 15], which join() computes.
/// Value    scale * (code - 128), code = signed code + 128; rounded once.
/// Zero row all bytes 0.
/// Source   ggml `block_q8_K` (d = scale, qs = signed_codes, bsums = sums). Its ggml type number is
/// 15,
///          but no GGUF file stores weights in it, so it has no gguf_type.
struct q8_k {
  static constexpr const char* name = "q8_k";
  static constexpr int block_size = 256;

  float scale;
  std::int8_t signed_codes[256];
  std::int16_t sums[16];

  struct params {
    float scale;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return bit_cast<std::uint32_t>(a.scale) == bit_cast<std::uint32_t>(b.scale);
    }
  };
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return p.scale * static_cast<float>(code - 128);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const int guess = p.scale != 0 ? clamp(trunc_to_int(weight / p.scale + 128.5F), 0, 255) : 0;
    return nearest_beside<q8_k>(guess, weight, i, p, 255);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q8_k> split(const q8_k& b) noexcept {
    unpacked<q8_k> u{{b.scale}, {}};
    for (int i = 0; i < 256; ++i) u.codes[i] = static_cast<std::uint8_t>(b.signed_codes[i] + 128);
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q8_k join(const params& p,
                                                             const codes& c) noexcept {
    q8_k b{p.scale, {}, {}};
    for (int i = 0; i < 256; ++i) b.signed_codes[i] = static_cast<std::int8_t>(c[i] - 128);
    for (int g = 0; g < 16; ++g) {
      int sum = 0;
      for (int l = 0; l < 16; ++l) sum += b.signed_codes[16 * g + l];
      b.sums[g] = static_cast<std::int16_t>(sum);
    }
    return b;
  }

  /// The same values as value(), straight from the stored codes.
  SUBBYTE_HD_INLINE static constexpr void decode(const q8_k& b, float* __restrict out) noexcept {
    for (int i = 0; i < 256; ++i) out[i] = b.scale * static_cast<float>(b.signed_codes[i]);
  }

  /// The reference encoder's scale; importance has no effect.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float*) noexcept {
    const float extreme = signed_extreme<Arch>(w, 256);
    return {extreme != 0 ? 1.0F / (-127.0F / extreme) : 0.0F};
  }

  /// Byte-identical to ggml's quantizer: the weight of largest magnitude becomes -127. Importance
  /// has no effect.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q8_k encode_ref(const float* w, const float*,
                                                      float) noexcept {
    return search<Arch>(w);
  }

 private:
  template <class Arch>
  [[nodiscard]] static q8_k search(const float* w) noexcept {
    const float extreme = signed_extreme<Arch>(w, 256);
    codes c{};
    if (extreme == 0) {
      for (int i = 0; i < 256; ++i) c[i] = 128;
      return join({0.0F}, c);
    }
    const float inverse = -127.0F / extreme;
    using lanes = float_lanes<Arch, 16>;
    const auto raise = int_lanes<Arch, 16>::broadcast(128);
    for (int i = 0; i < 256; i += 16) {
      const lanes scaled = unfused(lanes::broadcast(inverse) * lanes::load(w + i));
      // No lower limit: the reference has none, and what falls below -128 wraps.
      (rint_even(scaled).clamped(-0x400000, 127) + raise).store_bytes(c.code + i);
    }
    return join({1.0F / inverse}, c);
  }
};
static_assert(sizeof(q8_k) == 292 && grid_format<q8_k> && reference_encodable<q8_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
