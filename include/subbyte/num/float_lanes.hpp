// SPDX-License-Identifier: Apache-2.0
/// N independent fp32 computations side by side, each with the roundings of scalar code: what the
/// searches of the reference encoders run on.
///
/// Written with the compilers' vector extension and not with simd/, because formats and quantizers
/// ask for no third-party library, and because simd/'s fma would change the encoders' bits.
#pragma once

#include <type_traits>  // std::is_base_of_v

#include "subbyte/core/arch.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

template <class Arch>
inline constexpr int register_lanes = std::is_base_of_v<arch::avx512, Arch> ? 16
                                      : std::is_base_of_v<arch::avx2, Arch> ? 8
                                                                            : 4;

template <int Lanes>
struct lane_register {
  typedef float floats __attribute__((vector_size(4 * Lanes)));
  typedef std::int32_t ints __attribute__((vector_size(4 * Lanes)));
};

}  // namespace detail

/// How many lanes hold `n` values on Arch: n rounded up to whole registers, or n below one.
template <class Arch, int n>
inline constexpr int lanes_for = [] {
  constexpr int size = detail::register_lanes<Arch>;
  return n < size ? n : (n + size - 1) / size * size;
}();

/// N 32-bit integers; comparisons give lanes of 0 and -1.
///
/// Requires  N is 4 or 8 below Arch's register, else a multiple of its lanes.
template <class Arch, int N>
struct int_lanes {
  static constexpr int width = N < detail::register_lanes<Arch> ? N : detail::register_lanes<Arch>;
  static constexpr int registers = N / width;
  static_assert(N % width == 0 && N % 4 == 0);
  using native = typename detail::lane_register<width>::ints;

  native part[registers];

  [[nodiscard]] SUBBYTE_INLINE static int_lanes load(const std::int32_t* p) noexcept {
    int_lanes v;
    __builtin_memcpy(v.part, p, sizeof v.part);
    return v;
  }
  [[nodiscard]] SUBBYTE_INLINE static int_lanes broadcast(int x) noexcept {
    int_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = native{} + x;
    return v;
  }
  SUBBYTE_INLINE void store(std::int32_t* p) const noexcept {
    __builtin_memcpy(p, part, sizeof part);
  }
  /// The lowest byte of every lane.
  SUBBYTE_INLINE void store_bytes(std::uint8_t* p) const noexcept {
    std::int32_t values[N];
    store(values);
    for (int i = 0; i < N; ++i) p[i] = static_cast<std::uint8_t>(values[i]);
  }

  /// Each lane limited to [low, high].
  [[nodiscard]] SUBBYTE_INLINE int_lanes clamped(int low, int high) const noexcept {
    int_lanes v;
    for (int k = 0; k < registers; ++k) {
      const native least = native{} + low;
      const native most = native{} + high;
      const native raised = part[k] < least ? least : part[k];
      v.part[k] = raised > most ? most : raised;
    }
    return v;
  }
  SUBBYTE_INLINE friend int_lanes operator+(const int_lanes& a, const int_lanes& b) noexcept {
    int_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] + b.part[k];
    return v;
  }
  SUBBYTE_INLINE friend int_lanes operator-(const int_lanes& a, const int_lanes& b) noexcept {
    int_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] - b.part[k];
    return v;
  }
  /// Toward minus infinity.
  SUBBYTE_INLINE friend int_lanes operator>>(const int_lanes& a, int bits) noexcept {
    int_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] >> bits;
    return v;
  }
  /// For lanes of 0 and -1.
  SUBBYTE_INLINE friend int_lanes operator!(const int_lanes& a) noexcept {
    int_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = ~a.part[k];
    return v;
  }
  SUBBYTE_INLINE friend int_lanes operator&(const int_lanes& a, const int_lanes& b) noexcept {
    int_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] & b.part[k];
    return v;
  }
  SUBBYTE_INLINE friend int_lanes operator|(const int_lanes& a, const int_lanes& b) noexcept {
    int_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] | b.part[k];
    return v;
  }
  /// Whether a lane is not 0.
  [[nodiscard]] SUBBYTE_INLINE friend bool any(const int_lanes& a) noexcept {
    native merged = a.part[0];
    for (int k = 1; k < registers; ++k) merged = merged | a.part[k];
    std::int32_t values[width];
    __builtin_memcpy(values, &merged, sizeof merged);
    std::int32_t bits = 0;
    for (int i = 0; i < width; ++i) bits |= values[i];
    return bits != 0;
  }
};

/// N fp32 numbers. Every operation rounds once; a product that an addition uses goes through
/// unfused(), or compilers may contract the two.
///
/// Requires  as int_lanes.
template <class Arch, int N>
struct float_lanes {
  using mask = int_lanes<Arch, N>;
  static constexpr int registers = mask::registers;
  using native = typename detail::lane_register<mask::width>::floats;

  native part[registers];

  [[nodiscard]] SUBBYTE_INLINE static float_lanes load(const float* p) noexcept {
    float_lanes v;
    __builtin_memcpy(v.part, p, sizeof v.part);
    return v;
  }
  [[nodiscard]] SUBBYTE_INLINE static float_lanes broadcast(float x) noexcept {
    float_lanes v;
    // Not the sum, which loses the sign of -0.
    for (int k = 0; k < registers; ++k) v.part[k] = x - native{};
    return v;
  }
  SUBBYTE_INLINE void store(float* p) const noexcept { __builtin_memcpy(p, part, sizeof part); }

  SUBBYTE_INLINE friend float_lanes operator+(const float_lanes& a, const float_lanes& b) noexcept {
    float_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] + b.part[k];
    return v;
  }
  SUBBYTE_INLINE friend float_lanes operator-(const float_lanes& a, const float_lanes& b) noexcept {
    float_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] - b.part[k];
    return v;
  }
  SUBBYTE_INLINE friend float_lanes operator*(const float_lanes& a, const float_lanes& b) noexcept {
    float_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] * b.part[k];
    return v;
  }
  SUBBYTE_INLINE friend float_lanes operator/(const float_lanes& a, const float_lanes& b) noexcept {
    float_lanes v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] / b.part[k];
    return v;
  }
  SUBBYTE_INLINE friend mask operator<(const float_lanes& a, const float_lanes& b) noexcept {
    mask v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] < b.part[k];
    return v;
  }
  SUBBYTE_INLINE friend mask operator==(const float_lanes& a, const float_lanes& b) noexcept {
    mask v;
    for (int k = 0; k < registers; ++k) v.part[k] = a.part[k] == b.part[k];
    return v;
  }
  SUBBYTE_INLINE friend mask operator>(const float_lanes& a, const float_lanes& b) noexcept {
    return b < a;
  }
};

/// The argument, opaque to the optimiser; see num/rounding.hpp.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> unfused(float_lanes<Arch, N> v) noexcept {
  for (int k = 0; k < v.registers; ++k) {
#if defined(__AVX512F__)
    asm("" : "+v"(v.part[k]));
#elif defined(__x86_64__)
    asm("" : "+x"(v.part[k]));
#elif defined(__aarch64__)
    asm("" : "+w"(v.part[k]));
#else
    asm("" : "+m"(v.part[k]));
#endif
  }
  return v;
}

/// chosen[i] ? a[i] : b[i].
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> select(const int_lanes<Arch, N>& chosen,
                                                         const float_lanes<Arch, N>& a,
                                                         const float_lanes<Arch, N>& b) noexcept {
  float_lanes<Arch, N> v;
  for (int k = 0; k < v.registers; ++k) v.part[k] = chosen.part[k] ? a.part[k] : b.part[k];
  return v;
}

/// The sign bits cleared, also of NaNs.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> magnitude(float_lanes<Arch, N> v) noexcept {
  using ints = typename int_lanes<Arch, N>::native;
  using floats = typename float_lanes<Arch, N>::native;
  for (int k = 0; k < v.registers; ++k) {
    v.part[k] = __builtin_bit_cast(floats, __builtin_bit_cast(ints, v.part[k]) & 0x7FFFFFFF);
  }
  return v;
}

/// Each lane limited to [low, high]; NaN gives low.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> limited(const float_lanes<Arch, N>& v, float low,
                                                          float high) noexcept {
  const auto least = float_lanes<Arch, N>::broadcast(low);
  const auto most = float_lanes<Arch, N>::broadcast(high);
  const auto raised = select(v > least, v, least);
  return select(raised < most, raised, most);
}

/// Integer parts, toward zero.
///
/// Requires  magnitudes below 2^31, no NaN.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE int_lanes<Arch, N> trunc_to_int(
    const float_lanes<Arch, N>& v) noexcept {
  using ints = typename int_lanes<Arch, N>::native;
  int_lanes<Arch, N> whole;
  for (int k = 0; k < v.registers; ++k) whole.part[k] = __builtin_convertvector(v.part[k], ints);
  return whole;
}

/// Nearest integers, ties to even, as the scalar rint_even: defined for every input.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE int_lanes<Arch, N> rint_even(const float_lanes<Arch, N>& v) noexcept {
  using ints = typename int_lanes<Arch, N>::native;
  int_lanes<Arch, N> rounded;
  for (int k = 0; k < v.registers; ++k) {
    rounded.part[k] = (__builtin_bit_cast(ints, v.part[k] + 12582912.0F) & 0x7FFFFF) - 0x400000;
  }
  return rounded;
}

/// Exact for integers in [-2^22, 2^22).
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> to_float(const int_lanes<Arch, N>& v) noexcept {
  using floats = typename float_lanes<Arch, N>::native;
  float_lanes<Arch, N> x;
  // 0x4B400000 is 1.5 * 2^23, whose last place is 1.
  for (int k = 0; k < x.registers; ++k) {
    x.part[k] = __builtin_bit_cast(floats, v.part[k] + 0x4B400000) - 12582912.0F;
  }
  return x;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
