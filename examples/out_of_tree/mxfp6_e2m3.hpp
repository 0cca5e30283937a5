// SPDX-License-Identifier: Apache-2.0
/// MXFP6 (E2M3): a block format that the library does not have, as a user writes it.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/num/e8m0.hpp"
#include "subbyte/num/minifloat.hpp"

namespace out_of_tree {

/// MXFP6: 32 weights, one power-of-two scale, FP6 E2M3 codes; 6.25 bits per weight.
///
/// Layout   scale:e8m0 | bits:u8[24]; the code of weight j is bits 6 j .. 6 j + 5, counted from the
///          low bit of bits[0]: four codes fill three bytes. (OCP leaves the order in memory open.)
/// Value    scale * e2m3(code), exact in fp32; code 32 is -0.
/// Source   OCP Microscaling Formats 1.0, sections 5.2 (MXFP6) and 6.3 (the scale).
struct mxfp6_e2m3 {
  static constexpr const char* name = "mxfp6_e2m3";
  static constexpr int block_size = 32;

  subbyte::e8m0 scale;
  std::uint8_t bits[24];

  struct params {
    subbyte::e8m0 scale;
    friend constexpr bool operator==(const params&, const params&) = default;
  };
  using codes = subbyte::code_block<32>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    const auto element = subbyte::e2m3::from_bits(static_cast<std::uint8_t>(code));
    return p.scale.to_float() * element.to_float();
  }

  /// Codes 0 .. 31 are the magnitudes in order. Ties go to the lower code, that is toward zero.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float size = weight < 0 ? -weight : weight;
    // Without the sign, which a weight of -0 brings along.
    const int guess = subbyte::e2m3::nearest_saturating(size / p.scale.to_float()).bits & 31;
    const int code = subbyte::nearest_beside<mxfp6_e2m3>(guess, size, i, p, 31);
    return code + (weight < 0 && code != 0 ? 32 : 0);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr subbyte::unpacked<mxfp6_e2m3> split(
      const mxfp6_e2m3& b) noexcept {
    subbyte::unpacked<mxfp6_e2m3> u{{b.scale}, {}};
    for (int j = 0; j < 32; j += 4) {
      const std::uint8_t* const from = b.bits + j / 4 * 3;
      const unsigned four =
          from[0] | static_cast<unsigned>(from[1]) << 8 | static_cast<unsigned>(from[2]) << 16;
      for (int i = 0; i < 4; ++i) u.codes[j + i] = static_cast<std::uint8_t>(four >> 6 * i & 63U);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr mxfp6_e2m3 join(const params& p,
                                                                   const codes& c) noexcept {
    mxfp6_e2m3 b{p.scale, {}};
    for (int j = 0; j < 32; j += 4) {
      unsigned four = 0;
      for (int i = 0; i < 4; ++i) four |= (c[j + i] & 63U) << 6 * i;
      for (int i = 0; i < 3; ++i) {
        b.bits[j / 4 * 3 + i] = static_cast<std::uint8_t>(four >> 8 * i & 255U);
      }
    }
    return b;
  }

  /// The specification's scale: 2^(floor(log2(largest)) - 2), the exponent of E2M3's largest value.
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float*) noexcept {
    float largest = 0;
    for (int i = 0; i < block_size; ++i) {
      const float size = w[i] < 0 ? -w[i] : w[i];
      if (size > largest) largest = size;
    }
    const int exponent = subbyte::e8m0::floor(largest).bits - 2;
    return {subbyte::e8m0::from_bits(static_cast<std::uint8_t>(exponent > 0 ? exponent : 0))};
  }
};
static_assert(sizeof(mxfp6_e2m3) == 25 && subbyte::grid_format<mxfp6_e2m3>);

}  // namespace out_of_tree
