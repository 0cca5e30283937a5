// SPDX-License-Identifier: Apache-2.0
/// Q8_0: 32 weights, one fp16 scale, signed 8-bit codes.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q8_0: 32 weights, one fp16 scale, 8-bit codes with bias 128; 8.5 bits per weight.
///
/// Layout   scale:f16 | signed_codes:i8[32]; signed_codes[j] = code j - 128.
/// Value    scale * (code - 128), exact in fp32.
/// Partner  q8_0; it is itself the partner of the symmetric 32-weight formats.
/// Source   GGUF tensor type 8; ggml `block_q8_0` (d = scale, qs = signed_codes).
struct q8_0 {
  static constexpr const char* name = "q8_0";
  static constexpr int block_size = 32;
  static constexpr std::uint32_t gguf_type = 8;
  using partner = q8_0;

  half scale;
  std::int8_t signed_codes[32];

  struct params {
    half scale;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale;
    }
  };
  using codes = code_block<32>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(code - 128);
  }

  /// Nearest over all 256 codes: unlike the encoder's, a result may be 0, which stands for -128.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = p.scale.to_float();
    const int guess = d != 0 ? clamp(trunc_to_int(weight / d + 128.5F), 0, 255) : 0;
    return nearest_beside<q8_0>(guess, weight, i, p, 255);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q8_0> split(const q8_0& b) noexcept {
    unpacked<q8_0> u{{b.scale}, {}};
    for (int j = 0; j < 32; ++j) u.codes[j] = static_cast<std::uint8_t>(b.signed_codes[j] + 128);
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q8_0 join(const params& p,
                                                             const codes& c) noexcept {
    q8_0 b{p.scale, {}};
    for (int j = 0; j < 32; ++j) b.signed_codes[j] = static_cast<std::int8_t>(c[j] - 128);
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const q8_0& b, float* __restrict out) noexcept {
    const float d = b.scale.to_float();
    for (int j = 0; j < 32; ++j) out[j] = d * static_cast<float>(b.signed_codes[j]);
  }

  /// The reference encoder's scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float*) noexcept {
    return {half::nearest(magnitude(signed_extreme<Arch>(w, block_size)) / 127.0F)};
  }

  /// Byte-identical to ggml's file quantizer: scale = max |w| / 127 and codes from the unrounded
  /// scale, ties away from zero, so signed codes are within +-127. Importance is not used.
  ///
  /// Numerics  an all-zero block is all zero bytes. A scale below fp16's range is stored as 0 and
  ///           the codes stay; above it as Inf. Weights so small that 1 / scale overflows
  ///           (undefined in ggml) get signed codes of +-127 or 0, under a scale of 0. NaN counts
  ///           as 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q8_0 encode_ref(const float* w, const float*,
                                                      float) noexcept {
    const float d = magnitude(signed_extreme<Arch>(w, block_size)) / 127.0F;
    q8_0 b{half::nearest(d), {}};
    quantize_with<Arch>(d, w, b.signed_codes);
    return b;
  }

  /// Never a larger error than encode_ref's block, under the importance itself.
  template <class Arch = arch::native>
  [[nodiscard]] static q8_0 encode_best(const float* w, const float* importance,
                                        float row_mean_square, int effort) noexcept {
    const q8_0 start = encode_ref<Arch>(w, importance, row_mean_square);
    return lower_scaled_block<q8_0, Arch>(start, whole_levels{-127, 127, 128},
                                          {128.5F, 116.0F, 0, false}, w, importance, effort);
  }

  /// 32 signed codes w / scale, rounded with ties away from zero and limited to +-127.
  template <class Arch>
  SUBBYTE_INLINE static void quantize_with(float scale, const float* w,
                                           std::int8_t* signed_codes) noexcept {
    using lanes = float_lanes<Arch, 16>;
    const float inverse = scale != 0 ? 1.0F / scale : 0.0F;
    for (int j = 0; j < 32; j += 16) {
      const lanes scaled = unfused(lanes::load(w + j) * lanes::broadcast(inverse));
      // NaN to 0; then what lies beyond the codes to where it rounds to the last one.
      const lanes bounded =
          limited(select(scaled == scaled, scaled, lanes::broadcast(0)), -127.0F, 127.0F);
      const auto whole = trunc_to_int(bounded);
      const lanes middle = to_float(whole);
      const auto up = !(bounded < middle + lanes::broadcast(0.5F));
      const auto down = !(bounded > middle - lanes::broadcast(0.5F));
      const auto rounded = whole - up + down;  // true is -1
      rounded.store_bytes(reinterpret_cast<std::uint8_t*>(signed_codes + j));
    }
  }
};
static_assert(sizeof(q8_0) == 34 && grid_format<q8_0> && reference_encodable<q8_0>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
