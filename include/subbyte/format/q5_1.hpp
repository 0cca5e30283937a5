// SPDX-License-Identifier: Apache-2.0
/// Q5_1: 32 weights, fp16 scale and minimum, 5-bit codes.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q5_1: 32 weights, fp16 scale and minimum, 5-bit codes; 6 bits per weight.
///
/// Layout   scale:f16 | minimum:f16 | codes_high:u8[4] | codes_low:u8[16]; the low four bits of
///          weight j are the low nibble of codes_low[j], those of weight j + 16 the high nibble;
///          the fifth bit of weight j is bit j % 8 of codes_high[j / 8].
/// Value    scale * code + minimum: the product is exact in fp32, the sum rounds once.
/// Partner  q8_1
/// Source   GGUF tensor type 7; ggml `block_q5_1` (d = scale, m = minimum, qh = codes_high, qs =
///          codes_low).
struct q5_1 {
  static constexpr const char* name = "q5_1";
  static constexpr int block_size = 32;
  static constexpr std::uint32_t gguf_type = 7;
  using partner = q8_1;

  half scale;
  half minimum;
  std::uint8_t codes_high[4];
  std::uint8_t codes_low[16];

  struct params {
    half scale;
    half minimum;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale && a.minimum == b.minimum;
    }
  };
  using codes = code_block<32>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(code) + p.minimum.to_float();
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = p.scale.to_float();
    const float above = weight - p.minimum.to_float();
    const int guess = d != 0 ? clamp(trunc_to_int(above / d + 0.5F), 0, 31) : 0;
    return nearest_beside<q5_1>(guess, weight, i, p, 31);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q5_1> split(const q5_1& b) noexcept {
    unpacked<q5_1> u{{b.scale, b.minimum}, {}};
    for (int j = 0; j < 16; ++j) {
      const int low = b.codes_low[j];
      const int first = b.codes_high[j / 8] >> (j % 8) & 1;
      const int second = b.codes_high[2 + j / 8] >> (j % 8) & 1;
      u.codes[j] = static_cast<std::uint8_t>((low & 15) | first << 4);
      u.codes[j + 16] = static_cast<std::uint8_t>(low >> 4 | second << 4);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q5_1 join(const params& p,
                                                             const codes& c) noexcept {
    q5_1 b{p.scale, p.minimum, {}, {}};
    for (int j = 0; j < 16; ++j) {
      b.codes_low[j] = static_cast<std::uint8_t>((c[j] & 15) | (c[j + 16] & 15) << 4);
    }
    std::uint32_t high = 0;
    for (int j = 0; j < 32; ++j) high |= static_cast<std::uint32_t>(c[j] >> 4 & 1) << j;
    store_le(b.codes_high, high);
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const q5_1& b, float* __restrict out) noexcept {
    const float d = b.scale.to_float();
    const float m = b.minimum.to_float();
    const std::uint32_t high = load_le<std::uint32_t>(b.codes_high);
    for (int j = 0; j < 16; ++j) {
      const int pair = b.codes_low[j];
      const int first = static_cast<int>(high >> j & 1U);
      const int second = static_cast<int>(high >> (j + 16) & 1U);
      out[j] = d * static_cast<float>((pair & 15) | first << 4) + m;
      out[j + 16] = d * static_cast<float>(pair >> 4 | second << 4) + m;
    }
  }

  /// The reference encoder's scale and minimum.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    const q5_1 b = encode_ref<Arch>(w, importance, mean_square<Arch>(w, block_size));
    return {b.scale, b.minimum};
  }

  /// Byte-identical to ggml's file quantizer. Without importance the range [min, max] is cut into
  /// 31 steps and codes come from the unrounded scale. With importance: a weighted search for
  /// scale and minimum, in which the minimum is at most 0.
  ///
  /// Numerics  an all-zero block is all zero bytes; a constant one has scale 0 and the constant
  ///           as minimum (with importance only a negative constant, a positive one has minimum 0
  ///           and codes 31). Scales outside fp16's range are stored as 0 or Inf and the codes
  ///           stay. Codes that ggml leaves undefined (a range whose 1 / scale overflows, or that
  ///           itself does) saturate, and 0 * Inf gives code 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q5_1 encode_ref(const float* w, const float* importance,
                                                      float row_mean_square) noexcept {
    if (importance != nullptr) {
      q5_1 b;
      encode_ref_blocks<Arch>(w, importance, row_mean_square, 1, &b);
      return b;
    }
    codes c{};
    const auto [low, high] = range_of<Arch>(w);
    const float d = (high - low) / 31.0F;
    const float inverse = d != 0 ? 1.0F / d : 0.0F;
    truncate_affine<Arch>(w, low, inverse, 0.5F, 31, c.code);
    return join({half::nearest(d), half::nearest(low)}, c);
  }

  /// encode_ref of `count` <= encode_ref_batch consecutive blocks, with importance in the time of
  /// one.
  static constexpr int encode_ref_batch = affine_batch;
  template <class Arch>
  static void encode_ref_blocks(const float* w, const float* importance, float row_mean_square,
                                int count, q5_1* out) noexcept {
    if (importance == nullptr) {
      for (int b = 0; b < count; ++b) out[b] = encode_ref<Arch>(w + 32 * b, nullptr, 0);
    } else {
      encode_affine_blocks<q5_1, Arch>(31, w, importance, row_mean_square, count, out);
    }
  }

  /// Never a larger error than encode_ref's block, under the importance itself.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q5_1 encode_best(const float* w, const float* importance,
                                                       float row_mean_square, int effort) noexcept {
    q5_1 b;
    encode_best_blocks<Arch>(w, importance, row_mean_square, effort, 1, &b);
    return b;
  }

  /// encode_best of `count` <= encode_ref_batch consecutive blocks.
  template <class Arch>
  static void encode_best_blocks(const float* w, const float* importance, float row_mean_square,
                                 int effort, int count, q5_1* out) noexcept {
    encode_ref_blocks<Arch>(w, importance, row_mean_square, count, out);
    for (int b = 0; b < count; ++b) {
      const float* const own = importance != nullptr ? importance + 32 * b : nullptr;
      out[b] = lower_affine_block<q5_1, Arch>(out[b], 31, w + 32 * b, own, effort);
    }
  }
};
static_assert(sizeof(q5_1) == 24 && grid_format<q5_1> && reference_encodable<q5_1>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
