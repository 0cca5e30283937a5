// SPDX-License-Identifier: Apache-2.0
/// E4M3 without a sign: the block scale of NVFP4.
#pragma once

#include "subbyte/num/minifloat.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The non-negative half of e4m3fn in 7 bits: 0, 2^-9 .. 448, and the NaN 0x7F. The top bit is 0 in
/// every code made here, and to_float() and is_nan() do not look at it.
///
/// Source    PTX ISA, ue4m3; ggml reads its NaN code as 0, which is the format's affair, not ours.
struct ue4m3 {
  std::uint8_t bits;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr ue4m3 from_bits(std::uint8_t code) noexcept {
    return ue4m3{code};
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr ue4m3 max_finite() noexcept {
    return ue4m3{e4m3fn::max_finite().bits};
  }

  /// The nearest value, ties to the even code; negative values, -0 and -Inf give 0, overflow and
  /// Inf give 448, any NaN gives the NaN.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr ue4m3 nearest(float value) noexcept {
    const e4m3fn rounded = e4m3fn::nearest_saturating(value);
    const bool negative = (rounded.bits & 0x80) != 0;
    if (rounded.is_nan()) return ue4m3{0x7F};
    return negative ? ue4m3{0} : ue4m3{rounded.bits};
  }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr float to_float() const noexcept {
    return e4m3fn::from_bits(static_cast<std::uint8_t>(bits & 0x7F)).to_float();
  }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr bool is_nan() const noexcept {
    return (bits & 0x7F) == 0x7F;
  }

  /// Equality of bits: a NaN equals itself. Blocks are compared as bytes.
  SUBBYTE_HD_INLINE friend constexpr bool operator==(const ue4m3& a, const ue4m3& b) noexcept {
    return a.bits == b.bits;
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
