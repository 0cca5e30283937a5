// SPDX-License-Identifier: Apache-2.0
/// MXFP4: 32 weights, one power-of-two scale, 4-bit floating-point codes.
#pragma once

#include "subbyte/format/codebook.hpp"
#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/e8m0.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// MXFP4: 32 weights, one power-of-two scale, FP4 E2M1 codes; 4.25 bits per weight.
///
/// Layout   scale:e8m0 | codes:u8[16]; weight j is the low nibble of codes[j], weight j + 16 the
///          high nibble. Checkpoints outside GGUF pack neighbours instead.
/// Value    scale * fp4_e2m1::value(code), exact in fp32; subnormal at the two smallest scales,
///          so no flush-to-zero mode. Code 8 is +0 here, as in ggml, not the -0 of E2M1. At
///          scales 2^126 and 2^127 the codes for 4 and 6 (and 2, 3) overflow to Inf. Scale 0xFF
///          makes every value NaN, as OCP says; ggml reads it as 2^128.
/// Partner  q8_0
/// Source   GGUF tensor type 39; ggml `block_mxfp4` (e = scale, qs = codes); OCP Microscaling
///          Formats 1.0 section 5.
struct mxfp4 {
  static constexpr const char* name = "mxfp4";
  static constexpr int block_size = 32;
  static constexpr std::uint32_t gguf_type = 39;
  using partner = q8_0;

  e8m0 scale;
  std::uint8_t codes_packed[16];

  struct params {
    e8m0 scale;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale;
    }
  };
  using codes = code_block<32>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    // Adding zero turns -0 into +0.
    return p.scale.to_float() * (fp4_e2m1::value(code) + 0.0F);
  }

  /// Ties go to the lower code, that is toward zero; the result is never 8.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float size = weight < 0 ? -weight : weight;
    int code = fp4_e2m1::nearest(size / p.scale.to_float());
    // Exact, because the scale is a power of two, unless some values have overflowed.
    if (p.scale.bits >= 253) code = nearest_beside<mxfp4>(code, size, i, p, 7);
    return code + (weight < 0 && code != 0 ? 8 : 0);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<mxfp4> split(const mxfp4& b) noexcept {
    unpacked<mxfp4> u{{b.scale}, {}};
    for (int j = 0; j < 16; ++j) {
      u.codes[j] = static_cast<std::uint8_t>(b.codes_packed[j] & 15);
      u.codes[j + 16] = static_cast<std::uint8_t>(b.codes_packed[j] >> 4);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr mxfp4 join(const params& p,
                                                              const codes& c) noexcept {
    mxfp4 b{p.scale, {}};
    for (int j = 0; j < 16; ++j) {
      b.codes_packed[j] = static_cast<std::uint8_t>((c[j] & 15) | c[j + 16] << 4);
    }
    return b;
  }

  /// The same values as value(), looked up in a table of the sixteen products.
  SUBBYTE_HD_INLINE static constexpr void decode(const mxfp4& b, float* __restrict out) noexcept {
    const params p{b.scale};
    float values[16] = {};
    for (int code = 0; code < 16; ++code) values[code] = value(code, 0, p);
    for (int j = 0; j < 16; ++j) {
      out[j] = values[b.codes_packed[j] & 15];
      out[j + 16] = values[b.codes_packed[j] >> 4];
    }
  }

  /// The scale for a block whose largest magnitude is `largest`: 2^(floor(log2(largest)) - 2),
  /// with log2 rounded to fp32 first, because the reference encoder calls log2f.
  ///
  /// That rounding lifts the topmost floats below a power of two into the next binade: floats
  /// 2^(E+1) (1 - n 2^-24) whose logarithm, E + 1 - n 2^-24 / ln 2, is nearer to E + 1 than to
  /// the float below it. With m = max(E, -1 - E) and b = floor(log2(m)), floats just below E + 1
  /// are 2^(b-23) apart, so the condition is n <= ln 2 * 2^b: 44 for b = 6, and half of it,
  /// rounded down, for every smaller b.
  ///
  /// Requires  largest >= 0. Zero and everything below 2^-125 give the smallest scale, 2^-127
  ///           (exponents that ggml leaves undefined); Inf and NaN give 2^127.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr e8m0 scale_for(float largest) noexcept {
    const std::uint32_t magnitude_bits = bit_cast<std::uint32_t>(largest) & 0x7FFFFFFFU;
    if (magnitude_bits >= 0x7F800000U) return e8m0::from_bits(254);
    const int field = static_cast<int>(magnitude_bits >> 23);
    const int exponent = field - 127;
    const int m = exponent >= 0 ? exponent : -1 - exponent;
    std::uint32_t lifted = 44;
    for (int bound = 64; bound > m && lifted != 0; bound /= 2) lifted /= 2;
    const std::uint32_t below = 0x800000U - (magnitude_bits & 0x7FFFFFU);
    const int rounded = field + (below <= lifted ? 1 : 0) - 2;
    return e8m0::from_bits(static_cast<std::uint8_t>(rounded > 0 ? rounded : 0));
  }

  /// The reference encoder's scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float*) noexcept {
    return {scale_for(magnitude(signed_extreme<Arch>(w, block_size)))};
  }

  /// Byte-identical to ggml's file quantizer: scale_for the largest magnitude, then round(); what
  /// lies above 6 * scale saturates. Importance is not used.
  ///
  /// Numerics  an all-zero block is all zero bytes.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static mxfp4 encode_ref(const float* w, const float* importance,
                                                       float) noexcept {
    const params p = fit<Arch>(w, importance);
    codes c{};
    if (p.scale.bits >= 253) {  // values overflow, and round() knows which
      for (int j = 0; j < 32; ++j) c[j] = static_cast<std::uint8_t>(round(w[j], j, p));
      return join(p, c);
    }
    using lanes = float_lanes<Arch, 16>;
    const lanes scale = lanes::broadcast(p.scale.to_float());
    const lanes zero = lanes::broadcast(0);
    for (int j = 0; j < 32; j += 16) {
      const lanes weight = lanes::load(w + j);
      const lanes size = magnitude(weight) / scale;
      auto code = int_lanes<Arch, 16>::broadcast(0);
      for (int k = 0; k < 7; ++k) {
        code = code - (size > lanes::broadcast(fp4_e2m1::upper_bound(k)));  // true is -1
      }
      const auto negative = (weight < zero) & (to_float(code) > zero);
      (code + (negative & int_lanes<Arch, 16>::broadcast(8))).store_bytes(c.code + j);
    }
    return join(p, c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself; the scale
  /// is the best of sixteen, whatever the effort.
  template <class Arch = arch::native>
  [[nodiscard]] static mxfp4 encode_best(const float* w, const float* importance,
                                         float row_mean_square, int effort) noexcept {
    const mxfp4 reference = encode_ref<Arch>(w, importance, row_mean_square);
    static_cast<void>(effort);
    if (reference.scale.bits < 15 || reference.scale.bits > 250) return reference;
    float weight[32];
    float sizes[32];
    error_weights<Arch>(32, importance, weight);
    for (int i = 0; i < 32; ++i) sizes[i] = magnitude(w[i]);
    // Far down too: what lies above may have no importance.
    const auto candidate = [&](int k) noexcept {
      return e8m0::from_bits(static_cast<std::uint8_t>(reference.scale.bits - 13 + k));
    };
    using lanes = float_lanes<Arch, 16>;
    float scales[16];
    for (int k = 0; k < 16; ++k) scales[k] = candidate(k).to_float();
    const lanes scale[1] = {lanes::load(scales)};
    lanes error[1];
    scale_sweep<Arch, fp4_magnitudes>({}, 32, sizes, weight).errors(scale, error);
    const params p{candidate(lowest_of<Arch, 1>(error))};
    codes c{};
    const float inverse = 1.0F / p.scale.to_float();
    for (int i = 0; i < 32; ++i) {
      c[i] = static_cast<std::uint8_t>(fp4_e2m1::nearest(w[i] * inverse));
    }
    return lower_of<mxfp4, Arch>(reference, join(p, c), w, weight);
  }
};
static_assert(sizeof(mxfp4) == 17 && grid_format<mxfp4> && reference_encodable<mxfp4>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
