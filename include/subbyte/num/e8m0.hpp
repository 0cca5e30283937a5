// SPDX-License-Identifier: Apache-2.0
/// The power-of-two scale of the OCP microscaling formats.
#pragma once

#include "subbyte/core/bits.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// 2^(bits - 127); 255 is NaN. No sign, no zero, no Inf: the smallest value is 2^-127.
///
/// The three conversions from float look at the magnitude only: the sign is ignored, as in PTX and
/// torch (ml_dtypes gives NaN for negatives and zero). All three: zero and what lies below 2^-127
/// give 0, that is 2^-127; NaN and Inf give NaN.
///
/// Numerics  exact bit operations; independent of the rounding mode and of flush-to-zero settings.
/// Source    OCP Microscaling Formats 1.0 section 5.4.1; PTX ISA, cvt to ue8m0x2.
struct e8m0 {
  std::uint8_t bits;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr e8m0 from_bits(std::uint8_t code) noexcept {
    return e8m0{code};
  }

  /// The largest power of two not above |value|: the scale rule of the OCP specification.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr e8m0 floor(float value) noexcept {
    return e8m0{static_cast<std::uint8_t>(magnitude_bits(value) >> 23)};
  }

  /// The smallest power of two not below |value|: PTX cvt.rp.satfinite, the step of the RCEIL rule.
  /// Finite values above 2^127 give 2^127; Inf gives NaN, where PTX gives 2^127 too.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr e8m0 round_up(float value) noexcept {
    const std::uint32_t magnitude = magnitude_bits(value);
    const std::uint32_t field = magnitude >> 23;
    const std::uint32_t fraction = magnitude & 0x7FFFFFU;
    // In the lowest binade of binary32 codes 0 and 1 are 2^-127 (fraction 0x400000) and 2^-126.
    const bool above = field != 0 ? fraction != 0 : fraction > 0x400000U;
    return e8m0{static_cast<std::uint8_t>(field + (above && field < 254 ? 1U : 0U))};
  }

  /// The nearest power of two, ties (1.5 times a power of two) up, as torch and ml_dtypes cast.
  /// As there, everything between 2^-127 and 2^-126 goes up, and from 1.5 * 2^127 on it is NaN.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr e8m0 nearest(float value) noexcept {
    const std::uint32_t magnitude = magnitude_bits(value);
    const std::uint32_t field = magnitude >> 23;
    const std::uint32_t fraction = magnitude & 0x7FFFFFU;
    const bool up = field != 0 ? fraction >= 0x400000U : fraction > 0x400000U;
    return e8m0{static_cast<std::uint8_t>(field + (up && field < 255 ? 1U : 0U))};
  }

  /// The value, exactly; code 0 is a subnormal float, which a flush-to-zero mode turns into 0 as
  /// soon as arithmetic touches it.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr float to_float() const noexcept {
    const std::uint32_t wide = bits == 0 ? 0x00400000U : static_cast<std::uint32_t>(bits) << 23;
    return bit_cast<float>(bits == 255 ? 0x7FC00000U : wide);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr bool is_nan() const noexcept { return bits == 255; }

  /// Equality of bits: a NaN equals itself. Blocks are compared as bytes.
  SUBBYTE_HD_INLINE friend constexpr bool operator==(const e8m0& a, const e8m0& b) noexcept {
    return a.bits == b.bits;
  }

 private:
  SUBBYTE_HD_INLINE static constexpr std::uint32_t magnitude_bits(float value) noexcept {
    return bit_cast<std::uint32_t>(value) & 0x7FFFFFFFU;
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
