// SPDX-License-Identifier: Apache-2.0
/// What the encoders of least error of the IQ formats share: a block of 32 octets unpacked, its
/// weights brought to one magnitude, and the comparison with the reference encoder's block.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/level_search.hpp"
#include "subbyte/format/search.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// What a block stores, unpacked.
struct octet_block {
  half scale;                ///< 0: no scale leaves less error than zeros do
  std::uint8_t level[16];    ///< of every group
  std::uint8_t signs[32];    ///< of every octet: bit j makes weight j negative; or bit 0 shifts down
  std::uint16_t points[64];  ///< in row order
};

/// How much an encoder of least error tries.
struct octet_effort {
  float spread;     ///< a group's scales are tried from 1 - spread to 1 + spread times a first guess
  int scales;       ///< block scales, a multiple of 16
  float least, most;  ///< from the least to the most times that of the group of largest scale
  int passes;       ///< how often all points are chosen anew with the stored scales
};

[[nodiscard]] SUBBYTE_INLINE constexpr octet_effort octet_effort_of(int effort) noexcept {
  if (effort <= 1) return {0.14F, 32, 0.86F, 1.32F, 1};
  if (effort == 2) return {0.14F, 64, 0.80F, 1.50F, 2};
  return {0.14F, 256, 0.60F, 1.90F, 4};
}

/// Weights times a power of two that makes the largest magnitude at least 1 and less than 2, and
/// importance likewise.
struct scaled_octets {
  float x[256];
  float v[256];
  const float* importance;  ///< v, or null for ones
  float unit;               ///< the power of two
  bool usable;  ///< false: something is not finite, all is zero, or too small for an fp16 scale

  template <class Arch>
  [[nodiscard]] static scaled_octets of(const float* w, const float* given) noexcept {
    scaled_octets s;
    const float largest = largest_magnitude<Arch>(w);
    s.importance = nullptr;
    s.usable = largest >= 0x1p-60F && largest <= 3.40282347e+38F;
    if (!s.usable) return s;
    s.unit = inverse_power(largest);
    for (int i = 0; i < 256; ++i) s.x[i] = w[i] * s.unit;
    if (given == nullptr) return s;
    const float most = largest_magnitude<Arch>(given);
    s.usable = most >= 0x1p-120F && most <= 3.40282347e+38F;
    if (!s.usable) return s;
    const float factor = inverse_power(most);
    for (int i = 0; i < 256; ++i) s.v[i] = given[i] * factor;
    s.importance = s.v;
    return s;
  }

 private:
  /// Infinite if one of them is not finite.
  template <class Arch>
  [[nodiscard]] static float largest_magnitude(const float* x) noexcept {
    // The bits of magnitudes order as they do, and NaNs above infinity.
    std::uint32_t largest = 0;
    for (int i = 0; i < 256; ++i) {
      const std::uint32_t bits = bit_cast<std::uint32_t>(x[i]) & 0x7FFFFFFFU;
      largest = bits > largest ? bits : largest;
    }
    return bit_cast<float>(largest < 0x7F800000U ? largest : 0x7F800000U);
  }

  /// 2^-e for 2^e <= value < 2^(e + 1), value normal; 2^-126 for the largest binade.
  [[nodiscard]] SUBBYTE_INLINE static float inverse_power(float value) noexcept {
    const std::uint32_t exponent = bit_cast<std::uint32_t>(value) >> 23;
    return bit_cast<float>((exponent < 253 ? 254 - exponent : 1U) << 23);
  }
};

/// sum(importance * (w - decoded)^2) over a block, in double; importance null: of ones.
template <class Arch, block_format F>
[[nodiscard]] double block_error(const F& block, const float* w, const float* importance) noexcept {
  float decoded[F::block_size];
  decode(block, decoded);
  double error = 0;
  for (int i = 0; i < F::block_size; ++i) {
    const double difference = static_cast<double>(w[i]) - static_cast<double>(decoded[i]);
    error += (importance != nullptr ? static_cast<double>(importance[i]) : 1.0) * difference *
             difference;
  }
  return error;
}

/// The block of less error; the first one on ties and when the second one's is no number.
template <class Arch, block_format F>
[[nodiscard]] F better_block(const F& first, const F& second, const float* w,
                             const float* importance) noexcept {
  const double before = block_error<Arch>(first, w, importance);
  const double after = block_error<Arch>(second, w, importance);
  const bool improves = after < before || (before != before && after == after);
  return improves ? second : first;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
