// SPDX-License-Identifier: Apache-2.0
/// Binary floating-point storage types of at most 16 bits, from one template.
#pragma once

#include <type_traits>  // std::conditional_t

#include "subbyte/core/bits.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Which codes of a minifloat are not finite numbers.
enum class float_specials {
  ieee,                  ///< the top exponent holds Inf and NaN
  nan_only,              ///< all ones is NaN, no Inf ("fn")
  nan_as_negative_zero,  ///< the code of -0 is NaN, no Inf, no -0, bias one larger ("fnuz")
  none                   ///< every code is a finite number
};

/// A storage type: sign, ExponentBits and MantissaBits in the low bits of one unsigned integer.
///
/// Numerics  exact to_float; conversion from float rounds to nearest, ties to the even code, from
///           binary32 in one step. Independent of the rounding mode and of flush-to-zero settings.
/// Source    IEEE 754-2019 section 3; OCP OFP8 revision 1.0; OCP Microscaling Formats 1.0 section
///           5.3; the FNUZ variant as in ml_dtypes.
template <int ExponentBits, int MantissaBits, float_specials Specials>
struct minifloat {
  static_assert(ExponentBits >= 2 && ExponentBits <= 8 && MantissaBits >= 1);
  static_assert(1 + ExponentBits + MantissaBits <= 16);
  static_assert(ExponentBits < 8 || Specials == float_specials::ieee);

  static constexpr int exponent_bits = ExponentBits;
  static constexpr int mantissa_bits = MantissaBits;
  static constexpr int total_bits = 1 + ExponentBits + MantissaBits;
  static constexpr float_specials specials = Specials;
  static constexpr int bias =
      (1 << (ExponentBits - 1)) - (Specials == float_specials::nan_as_negative_zero ? 0 : 1);
  using storage = std::conditional_t<(total_bits <= 8), std::uint8_t, std::uint16_t>;

  storage bits;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr minifloat from_bits(storage code) noexcept {
    return minifloat{code};
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr minifloat max_finite() noexcept {
    return minifloat{static_cast<storage>(max_finite_code)};
  }

  /// The nearest value. Overflow gives Inf; without an Inf it gives NaN; without either, the
  /// largest finite value of that sign. NaN stays NaN (quiet, sign kept, payload dropped); in a
  /// type without NaN it becomes the largest positive value, as in PTX.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr minifloat nearest(float value) noexcept {
    return rounded(value, Specials == float_specials::none);
  }

  /// The nearest finite value: overflow and Inf give the largest finite value of that sign. NaN as
  /// in nearest().
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr minifloat nearest_saturating(
      float value) noexcept {
    return rounded(value, true);
  }

  /// The value, exactly. With ieee specials a NaN keeps its sign and payload and stays quiet or
  /// signalling; the others give the quiet NaN 0x7FC00000, with the sign of nan_only kept.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr float to_float() const noexcept {
    const std::uint32_t magnitude = bits & magnitude_mask;
    std::uint32_t sign = (static_cast<std::uint32_t>(bits) & sign_mask) << (32 - total_bits);
    std::uint32_t wide = magnitude << (23 - MantissaBits);
    if constexpr (ExponentBits < 8) {
      // A subnormal code becomes a normal float, by a product that no flush-to-zero mode touches.
      const float subnormal = static_cast<float>(static_cast<int>(magnitude)) * smallest_step();
      wide += static_cast<std::uint32_t>(127 - bias) << 23;
      wide = select(magnitude < (1U << MantissaBits), bit_cast<std::uint32_t>(subnormal), wide);
      if constexpr (Specials == float_specials::ieee) {
        wide |= select(magnitude >= infinity_code, 0x7F800000U, 0U);
      }
      if constexpr (Specials == float_specials::nan_only) {
        wide = select(magnitude == magnitude_mask, 0x7FC00000U, wide);
      }
      if constexpr (Specials == float_specials::nan_as_negative_zero) {
        const bool nan = bits == sign_mask;
        wide = select(nan, 0x7FC00000U, wide);
        sign = select(nan, 0U, sign);
      }
    }
    return bit_cast<float>(wide | sign);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr bool is_nan() const noexcept {
    const std::uint32_t magnitude = bits & magnitude_mask;
    switch (Specials) {
      case float_specials::ieee:
        return magnitude > infinity_code;
      case float_specials::nan_only:
        return magnitude == magnitude_mask;
      case float_specials::nan_as_negative_zero:
        return bits == sign_mask;
      case float_specials::none:
        return false;
    }
    return false;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr bool is_finite() const noexcept {
    return !is_nan() && (bits & magnitude_mask) <= max_finite_code;
  }

  /// Equality of bits: +0 and -0 differ, a NaN equals itself. Blocks are compared as bytes.
  SUBBYTE_HD_INLINE friend constexpr bool operator==(const minifloat& a,
                                                     const minifloat& b) noexcept {
    return a.bits == b.bits;
  }

 private:
  static constexpr std::uint32_t sign_mask = 1U << (total_bits - 1);
  static constexpr std::uint32_t magnitude_mask = sign_mask - 1;
  static constexpr std::uint32_t infinity_code = ((1U << ExponentBits) - 1) << MantissaBits;
  static constexpr std::uint32_t max_finite_code =
      Specials == float_specials::ieee       ? infinity_code - 1
      : Specials == float_specials::nan_only ? magnitude_mask - 1
                                             : magnitude_mask;

  SUBBYTE_HD_INLINE static constexpr float smallest_step() noexcept {
    return bit_cast<float>(static_cast<std::uint32_t>(127 + 1 - bias - MantissaBits) << 23);
  }

  // Masks, because g++ makes a branch of ?: when one arm is a float operation, and a loop with a
  // branch stays scalar.
  SUBBYTE_HD_INLINE static constexpr std::uint32_t select(bool condition, std::uint32_t chosen,
                                                          std::uint32_t otherwise) noexcept {
    const std::uint32_t mask = 0U - static_cast<std::uint32_t>(condition);
    return (chosen & mask) | (otherwise & ~mask);
  }

  SUBBYTE_HD_INLINE static constexpr minifloat rounded(float value, bool saturate) noexcept {
    const std::uint32_t source = bit_cast<std::uint32_t>(value);
    const std::uint32_t magnitude = source & 0x7FFFFFFFU;
    const std::uint32_t sign = (source >> 31) << (total_bits - 1);
    if (magnitude > 0x7F800000U) {
      switch (Specials) {
        case float_specials::ieee:
          return minifloat{static_cast<storage>(sign | infinity_code | (1U << (MantissaBits - 1)))};
        case float_specials::nan_only:
          return minifloat{static_cast<storage>(sign | magnitude_mask)};
        case float_specials::nan_as_negative_zero:
          return minifloat{static_cast<storage>(sign_mask)};
        case float_specials::none:
          return max_finite();
      }
    }
    const int field = static_cast<int>(magnitude >> 23);
    const std::uint32_t significand = (magnitude & 0x7FFFFFU) | (field != 0 ? 0x800000U : 0U);
    // Exponent field of the result if it is normal; a subnormal one shifts further instead.
    const int exponent = (field != 0 ? field : 1) - 127 + bias;
    const int shift = 23 - MantissaBits + (exponent < 1 ? 1 - exponent : 0);
    std::uint32_t code = 0;
    if (shift <= 24) {
      const std::uint32_t odd = (significand >> shift) & 1U;
      code = (significand + (1U << (shift - 1)) - 1U + odd) >> shift;
      // The hidden bit adds one to the exponent field, and so does a carry out of the mantissa.
      code += static_cast<std::uint32_t>(exponent < 1 ? 0 : exponent - 1) << MantissaBits;
    }
    if (code > max_finite_code) {
      if (saturate) {
        code = max_finite_code;
      } else if constexpr (Specials == float_specials::ieee) {
        code = infinity_code;
      } else if constexpr (Specials == float_specials::nan_only) {
        code = magnitude_mask;
      } else {
        return minifloat{static_cast<storage>(sign_mask)};
      }
    }
    if constexpr (Specials == float_specials::nan_as_negative_zero) {
      if (code == 0) return minifloat{0};
    }
    return minifloat{static_cast<storage>(sign | code)};
  }
};

/// OCP FP8 E4M3: largest value 448, NaN 0x7F and 0xFF, no Inf.
using e4m3fn = minifloat<4, 3, float_specials::nan_only>;
/// OCP FP8 E5M2: IEEE-like, largest value 57344.
using e5m2 = minifloat<5, 2, float_specials::ieee>;
/// The E4M3 of AMD gfx94x and Graphcore: bias 8, largest value 240, NaN 0x80.
using e4m3fnuz = minifloat<4, 3, float_specials::nan_as_negative_zero>;
/// OCP FP4: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and their negatives.
using e2m1 = minifloat<2, 1, float_specials::none>;
/// OCP FP6 with 3 exponent bits: largest value 28.
using e3m2 = minifloat<3, 2, float_specials::none>;
/// OCP FP6 with 2 exponent bits: largest value 7.5.
using e2m3 = minifloat<2, 3, float_specials::none>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
