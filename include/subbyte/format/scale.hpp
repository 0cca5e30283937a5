// SPDX-License-Identifier: Apache-2.0
/// How one scale of a group of weights is stored.
#pragma once

#include <concepts>
#include <type_traits>

#include "subbyte/core/bits.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// One stored scale: a value type with a rounding from float and an exact way back.
///
/// half, bfloat16, e8m0 and ue4m3 (num/) are scale stores as they stand; f32_scale is the fifth.
/// Law, checked by tests/format/scale.cpp: nearest(s.to_float()) == s for every finite s.
template <class S>
concept scale_store = std::is_trivially_copyable_v<S> && requires(const S& s, float v) {
  { S::nearest(v) }
  noexcept->std::same_as<S>;
  { s.to_float() }
  noexcept->std::same_as<float>;
};

/// A scale kept as the float it is.
struct f32_scale {
  float value;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr f32_scale nearest(float v) noexcept {
    return f32_scale{v};
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr float to_float() const noexcept { return value; }

  /// Equality of bits: a NaN equals itself.
  SUBBYTE_HD_INLINE friend constexpr bool operator==(const f32_scale& a,
                                                     const f32_scale& b) noexcept {
    return bit_cast<std::uint32_t>(a.value) == bit_cast<std::uint32_t>(b.value);
  }
};
static_assert(scale_store<f32_scale>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
