// SPDX-License-Identifier: Apache-2.0
/// Rounding to integers with a defined result for every input, and the guard against contraction.
#pragma once

#include "subbyte/core/bits.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The argument, opaque to the optimiser: `unfused(a * b) + c` rounds twice on every compiler and
/// flag.
///
/// Compilers contract a * b + c into one fma under -mfma, also across statements, and a detour
/// through double is folded back. An empty asm that claims to change the register stops them;
/// nothing else we tried survives vectorisation and forced inlining. No instruction is emitted. On
/// a device, where ptxas contracts past such an asm, an addition of -0 takes its place;
/// rounded_product costs nothing there.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr float unfused(float product) noexcept {
  if (!__builtin_is_constant_evaluated()) {
#if SUBBYTE_ON_DEVICE
    product = __fadd_rn(product, -0.0F);
#elif defined(__x86_64__)
    asm("" : "+x"(product));
#elif defined(__aarch64__)
    asm("" : "+w"(product));
#else
    asm("" : "+m"(product));
#endif
  }
  return product;
}

/// unfused(a * b), on a device too in one instruction.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr float rounded_product(float a, float b) noexcept {
#if SUBBYTE_ON_DEVICE
  if (!__builtin_is_constant_evaluated()) return __fmul_rn(a, b);
  return a * b;
#else
  return unfused(a * b);
#endif
}

/// Nearest integer, ties to even, for |value| <= 4194303 (2^22 - 1).
///
/// Outside that range, and for NaN, an unspecified but reproducible integer in [-2^22, 2^22): the
/// reference encoders rely on it for blocks whose scales overflow.
///
/// Requires  the default rounding mode; a product as argument goes through unfused() first, or the
///           addition in here may be contracted with it.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int rint_even(float value) noexcept {
  const float shifted = value + 12582912.0F;  // 1.5 * 2^23: one unit in the last place is 1
  return static_cast<int>(bit_cast<std::uint32_t>(shifted) & 0x7FFFFFU) - 0x400000;
}

/// Integer part, toward zero. NaN gives 0; values beyond int give the nearest int.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int trunc_to_int(float value) noexcept {
  if (!(value == value)) return 0;
  if (value >= 2147483648.0F) return 2147483647;
  if (value <= -2147483648.0F) return -2147483647 - 1;
  return static_cast<int>(value);
}

/// Nearest integer, ties away from zero. NaN gives 0; values beyond int give the nearest int.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int round_half_away(float value) noexcept {
  const int whole = trunc_to_int(value);
  const float middle =
      static_cast<float>(whole);  // exact below 2^23, and there is no fraction above
  if (!(value < 8388608.0F && value > -8388608.0F)) return whole;
  // Comparisons and not value - whole: a compiler may contract that when value is a product.
  if (value >= middle + 0.5F) return whole + 1;
  if (value <= middle - 0.5F) return whole - 1;
  return whole;
}

/// value limited to [low, high].
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int clamp(int value, int low, int high) noexcept {
  return value < low ? low : (value > high ? high : value);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
