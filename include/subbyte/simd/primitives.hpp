// SPDX-License-Identifier: Apache-2.0
/// The primitives of the CPU kernels: what a register wrapper lacks, named once for every arch.
///
/// A register is a piece of an array: each primitive gives the same array of results whatever the
/// register width, and the same bits on every arch, with the one exception that dot2_bf16 states.
/// The definition in simd/primitives/scalar.hpp is the specification; the other headers there
/// overload it for a tag, and overload resolution walks down the tags' lineage.
///
/// Memory operands are read and written for exactly `reg<...>::size` elements unless stated, at any
/// alignment. Everything assumes the default rounding mode, to nearest even.
#pragma once

#include "subbyte/simd/primitives/avx2.hpp"
#include "subbyte/simd/primitives/avx512.hpp"
#include "subbyte/simd/primitives/avx512_bf16.hpp"
#include "subbyte/simd/primitives/avx512_vnni.hpp"
#include "subbyte/simd/primitives/avx_vnni.hpp"
#include "subbyte/simd/primitives/neon.hpp"
#include "subbyte/simd/primitives/neon_dot.hpp"
#include "subbyte/simd/primitives/neon_i8mm.hpp"
#include "subbyte/simd/primitives/scalar.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// low[i] = packed[i] & 15, high[i] = packed[i] >> 4.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE nibbles<Arch> unpack_nibbles(reg<std::uint8_t, Arch> packed) noexcept {
  return detail::unpack_nibbles(Arch{}, packed);
}

/// part[j][i] = (packed[i] >> 2 j) & 3.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE two_bit_codes<Arch> unpack_2bit(
    reg<std::uint8_t, Arch> packed) noexcept {
  return detail::unpack_2bit(Arch{}, packed);
}

/// Byte i is 0xFF where bit i of mask is set and 0 elsewhere; bits beyond the register are ignored.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<std::uint8_t, Arch> expand_bits(std::uint64_t mask) noexcept {
  return detail::expand_bits<Arch>(Arch{}, mask);
}

/// The 16 bytes at p, repeated in every 128-bit lane: the table of lut16. T is a byte type.
template <class Arch, class T>
[[nodiscard]] SUBBYTE_INLINE reg<T, Arch> broadcast_16_bytes(const T* p) noexcept {
  static_assert(sizeof(T) == 1);
  return detail::broadcast_16_bytes<Arch>(Arch{}, p);
}

/// table[index[i]], looked up in the 16 bytes of i's own 128-bit lane.
///
/// Requires  index[i] < 16.
template <class T, class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<T, Arch> lut16(reg<T, Arch> table,
                                                reg<std::uint8_t, Arch> index) noexcept {
  static_assert(sizeof(T) == 1);
  return detail::lut16(Arch{}, table, index);
}

/// acc[i] + the sum over j < 4 of a[4 i + j] * b[4 i + j].
///
/// Requires  a[i] <= 127: AVX2's 16-bit intermediate sums saturate beyond.
/// Numerics  exact; acc wraps.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_u7i8(reg<std::int32_t, Arch> acc,
                                                               reg<std::uint8_t, Arch> a,
                                                               reg<std::int8_t, Arch> b) noexcept {
  return detail::dot4_u7i8(Arch{}, acc, a, b);
}

/// acc[i] + the sum over j < 4 of a[4 i + j] * b[4 i + j], for any values, -128 included.
///
/// Numerics  exact; acc wraps.
/// Cost      about twice dot4_u7i8 without a signed dot instruction (all of x86).
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_i8i8(reg<std::int32_t, Arch> acc,
                                                               reg<std::int8_t, Arch> a,
                                                               reg<std::int8_t, Arch> b) noexcept {
  return detail::dot4_i8i8(Arch{}, acc, a, b);
}

/// The values of as many halves as a float register has lanes.
///
/// Numerics  exact, subnormals included; a NaN keeps its sign and payload and becomes quiet.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<float, Arch> f16_to_f32(const half* p) noexcept {
  return detail::f16_to_f32<Arch>(Arch{}, p);
}

/// The values of as many bfloat16 as a float register has lanes.
///
/// Numerics  exact; the bits, moved up.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<float, Arch> bf16_to_f32(const bfloat16* p) noexcept {
  return detail::bf16_to_f32<Arch>(Arch{}, p);
}

/// out[i] = the half nearest to x[i].
///
/// Numerics  half::nearest: ties to even, overflow to infinity, subnormals kept. A NaN keeps its
///           sign and the upper bits of its payload and becomes quiet, as F16C and AArch64 do it;
///           half::nearest drops the payload.
template <class Arch>
SUBBYTE_INLINE void f32_to_f16(reg<float, Arch> x, half* out) noexcept {
  detail::f32_to_f16(Arch{}, x, out);
}

/// out[i] = bfloat16::nearest(x[i]).
///
/// Numerics  ties to even, overflow to infinity, subnormals kept (hence not VCVTNEPS2BF16, which
///           flushes them); a NaN keeps its sign only and is quiet.
template <class Arch>
SUBBYTE_INLINE void f32_to_bf16(reg<float, Arch> x, bfloat16* out) noexcept {
  detail::f32_to_bf16(Arch{}, x, out);
}

/// acc[i] + a[2 i] * b[2 i] + a[2 i + 1] * b[2 i + 1], of bfloat16 bits.
///
/// Numerics  two fused multiply-adds, the odd element's first. avx512_bf16 reads subnormals as zero
///           and flushes subnormal results to zero; without any, it gives the same bits.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<float, Arch> dot2_bf16(reg<float, Arch> acc,
                                                        reg<std::uint16_t, Arch> a,
                                                        reg<std::uint16_t, Arch> b) noexcept {
  return detail::dot2_bf16(Arch{}, acc, a, b);
}

/// As many signed bytes as a float register has lanes, as floats.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<float, Arch> i8_to_f32(const std::int8_t* p) noexcept {
  return detail::i8_to_f32<Arch>(Arch{}, p);
}

/// Quarter 0, 1, 2 or 3 of a register of signed bytes, as floats.
template <int Quarter, class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<float, Arch> i8_to_f32(reg<std::int8_t, Arch> x) noexcept {
  static_assert(Quarter >= 0 && Quarter < 4);
  return detail::i8_quarter_to_f32<Quarter>(Arch{}, x);
}

/// Stores a register past the caches where the arch can (AVX2 and up): for output that is larger
/// than they are. stream_fence() before another thread reads it.
///
/// Requires  `out` aligned to the register.
template <class Arch>
SUBBYTE_INLINE void stream(reg<float, Arch> x, float* out) noexcept {
  detail::stream(Arch{}, x, out);
}

/// Orders what stream() stored before all later stores.
template <class Arch>
SUBBYTE_INLINE void stream_fence() noexcept {
  detail::stream_fence(Arch{});
}

/// |x[i]| > acc[i] ? |x[i]| : acc[i]; where x is NaN, acc stays.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<float, Arch> abs_max(reg<float, Arch> acc,
                                                      reg<float, Arch> x) noexcept {
  return detail::abs_max(Arch{}, acc, x);
}

/// out[i] = x[i] * inverse[i], rounded to float, then to the nearest integer with ties to even,
/// then limited to [-128, 127]. NaN gives 127.
template <class Arch>
SUBBYTE_INLINE void round_to_i8(reg<float, Arch> x, reg<float, Arch> inverse,
                                std::int8_t* out) noexcept {
  detail::round_to_i8(Arch{}, x, inverse, out);
}

/// The sum of all lanes, upper half onto lower half until one lane is left.
///
/// Numerics  float: this fixed tree. The 16 virtual lanes of a dot product reduce to the same bits
///           from one register of 16, reduce_add(v0 + v1) of two registers of 8, or
///           reduce_add((v0 + v2) + (v1 + v3)) of four registers of 4.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE float reduce_add(reg<float, Arch> x) noexcept {
  return detail::reduce_add(Arch{}, x);
}

/// The sum of all lanes; wraps.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE std::int32_t reduce_add(reg<std::int32_t, Arch> x) noexcept {
  return detail::reduce_add(Arch{}, x);
}

/// The largest lane.
///
/// Requires  no NaN. A zero result has an unspecified sign where both zeros occur.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE float reduce_max(reg<float, Arch> x) noexcept {
  return detail::reduce_max(Arch{}, x);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
