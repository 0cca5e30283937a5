// SPDX-License-Identifier: Apache-2.0
/// Lanes of numbers to the nearest levels of a grid, and the lowest of lanes of errors: what the
/// searches for the least error are made of.
#pragma once

#include "subbyte/format/codebook.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Nearest integers, ties to even, limited to [low, high].
///
/// Requires  low and high within +-2^22.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> rounded_within(const float_lanes<Arch, N>& v,
                                                                 int low, int high) noexcept {
  using ints = typename int_lanes<Arch, N>::native;
  using floats = typename float_lanes<Arch, N>::native;
  constexpr float shift = 12582912.0F;  // 1.5 * 2^23: one unit in the last place is 1
  const auto bits_of = [](int i) noexcept {
    return bit_cast<std::int32_t>(shift + static_cast<float>(i));
  };
  int_lanes<Arch, N> shifted;
  // As integers the sums are in the order of the numbers, far outside the range too.
  for (int k = 0; k < shifted.registers; ++k) {
    shifted.part[k] = __builtin_bit_cast(ints, v.part[k] + shift);
  }
  shifted = shifted.clamped(bits_of(low), bits_of(high));
  float_lanes<Arch, N> rounded;
  for (int k = 0; k < rounded.registers; ++k) {
    rounded.part[k] = __builtin_bit_cast(floats, shifted.part[k]) - shift;
  }
  return rounded;
}

/// 1 / step, and 0 for a step of 0.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> inverse_or_zero(
    const float_lanes<Arch, N>& step) noexcept {
  using lanes = float_lanes<Arch, N>;
  const lanes zero = lanes::broadcast(0);
  return select(step == zero, zero, lanes::broadcast(1) / step);
}

/// Which of R rows of 16 errors is lowest, the first one of those that differ by less than 2^-17;
/// of NaNs none, unless all are.
template <class Arch, int R>
[[nodiscard]] SUBBYTE_INLINE int lowest_of(const float_lanes<Arch, 16> (&error)[R]) noexcept {
  static_assert(R <= 4);
  using ints = int_lanes<Arch, 16>;
  // The order of numbers >= 0 is that of their bits; the last six say which one it is.
  ints least;
  for (int r = 0; r < R; ++r) {
    ints bits;
    for (int k = 0; k < bits.registers; ++k) {
      bits.part[k] = __builtin_bit_cast(typename ints::native, error[r].part[k]);
    }
    const ints key = (bits & ints::broadcast(0x7FFFFFC0)) + ints::broadcast(r);
    for (int k = 0; k < key.registers; ++k) {
      if (r == 0) least.part[k] = key.part[k];
      least.part[k] = key.part[k] < least.part[k] ? key.part[k] : least.part[k];
    }
  }
  std::int32_t keys[16];
  least.store(keys);
  for (int k = 0; k < 16; ++k) keys[k] += 4 * k;
  for (int k = 0; k < 4; ++k) {
    for (int j = k + 4; j < 16; j += 4) keys[k] = keys[j] < keys[k] ? keys[j] : keys[k];
  }
  for (int k = 1; k < 4; ++k) keys[0] = keys[k] < keys[0] ? keys[k] : keys[0];
  return 16 * (keys[0] & 3) + (keys[0] >> 2 & 15);
}

/// Integer levels low .. high, whose codes are theirs plus `middle`.
struct whole_levels {
  int low, high, middle;
  template <class Arch, int N>
  [[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> operator()(
      const float_lanes<Arch, N>& v) const noexcept {
    return rounded_within(v, low, high);
  }
  /// The codes of those levels.
  template <class Arch>
  SUBBYTE_INLINE void store_codes(const float_lanes<Arch, 16>& v,
                                  std::uint8_t* codes) const noexcept {
    (rint_even((*this)(v)) + int_lanes<Arch, 16>::broadcast(middle)).store_bytes(codes);
  }
};

/// The magnitudes of FP4 E2M1, for numbers >= 0.
struct fp4_magnitudes {
  template <class Arch, int N>
  [[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> operator()(
      const float_lanes<Arch, N>& v) const noexcept {
    using lanes = float_lanes<Arch, N>;
    const lanes half_steps = rounded_within(v + v, 0, 4) * lanes::broadcast(0.5F);
    const lanes whole_steps = rounded_within(v, 2, 4);
    const lanes double_steps = rounded_within(v * lanes::broadcast(0.5F), 2, 3);
    return select(v < lanes::broadcast(2), half_steps,
                  select(v < lanes::broadcast(4), whole_steps, double_steps + double_steps));
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
