// SPDX-License-Identifier: Apache-2.0
/// Bit casts, little-endian loads and stores, and integer division upward; constexpr, host and
/// device.
#pragma once

#include "subbyte/core/config.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The bits of `value` as another type of the same size. Not std::bit_cast, which nvcc warns about.
template <class To, class From>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr To bit_cast(const From& value) noexcept {
  static_assert(sizeof(To) == sizeof(From));
  return __builtin_bit_cast(To, value);
}

/// ceil(a / b) for a >= 0 and b > 0, without overflow.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t ceil_div(index_t a, index_t b) noexcept {
  return a / b + (a % b != 0 ? 1 : 0);
}

/// An unsigned integer from sizeof(U) bytes, least significant first; any alignment.
template <class U>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr U load_le(const std::uint8_t* p) noexcept {
  U value = 0;
  for (std::size_t i = 0; i < sizeof(U); ++i) {
    value = static_cast<U>(value | static_cast<U>(static_cast<U>(p[i]) << (8 * i)));
  }
  return value;
}

/// Writes an unsigned integer as sizeof(U) bytes, least significant first; any alignment.
template <class U>
SUBBYTE_HD_INLINE constexpr void store_le(std::uint8_t* p, U value) noexcept {
  for (std::size_t i = 0; i < sizeof(U); ++i) {
    p[i] = static_cast<std::uint8_t>(value >> (8 * i));
  }
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
