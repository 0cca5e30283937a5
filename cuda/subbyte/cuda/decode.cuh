// SPDX-License-Identifier: Apache-2.0
/// Register-level steps of decoding: what one or two instructions of a GPU do, each with its host
/// definition, so that everything made of them is tested without a device.
///
/// Needs no CUDA Toolkit: a host compiler sees the definitions, nvcc's device pass the
/// instructions.
#pragma once

#include "subbyte/core/bits.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"

/// A function that kernels are made of: device code under nvcc, plain code elsewhere.
#if defined(__CUDACC__)
#define SUBBYTE_DEVICE __device__ __forceinline__
#else
#define SUBBYTE_DEVICE SUBBYTE_INLINE
#endif

/// Before a loop whose counter indexes registers: a loop that stays one puts them in memory.
/// SUBBYTE_ROLLED keeps a loop that is seldom taken short.
#if SUBBYTE_ON_DEVICE
#define SUBBYTE_UNROLL _Pragma("unroll")
#define SUBBYTE_ROLLED _Pragma("unroll 1")
#else
#define SUBBYTE_UNROLL
#define SUBBYTE_ROLLED
#endif

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// a * b + c with one rounding.
[[nodiscard]] SUBBYTE_HD_INLINE float fused(float a, float b, float c) noexcept {
#if SUBBYTE_ON_DEVICE
  return __fmaf_rn(a, b, c);
#else
  return __builtin_fmaf(a, b, c);
#endif
}

/// a / b as IEEE 754 rounds it, whatever flags nvcc got.
[[nodiscard]] SUBBYTE_HD_INLINE float divided(float a, float b) noexcept {
#if SUBBYTE_ON_DEVICE
  return __fdiv_rn(a, b);
#else
  return a / b;
#endif
}

/// An fp16 number, exactly. NaN keeps being NaN.
[[nodiscard]] SUBBYTE_HD_INLINE float to_float(half value) noexcept {
#if SUBBYTE_ON_DEVICE
  float wide;
  asm("cvt.f32.f16 %0, %1;" : "=f"(wide) : "h"(value.bits));
  return wide;
#else
  return value.to_float();
#endif
}

/// T::nearest(value), where T is float, half or bfloat16.
template <class T>
[[nodiscard]] SUBBYTE_HD_INLINE T rounded(float value) noexcept {
  if constexpr (std::is_same_v<T, float>) {
    return value;
  } else {
#if SUBBYTE_ON_DEVICE
    T narrow;
    if constexpr (std::is_same_v<T, half>) {
      asm("cvt.rn.f16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
    } else {
      static_assert(std::is_same_v<T, bfloat16>);
      asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(narrow.bits) : "f"(value));
    }
    return narrow;
#else
    return T::nearest(value);
#endif
  }
}

/// (bits & mask) | other.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t masked_or(std::uint32_t bits, std::uint32_t mask,
                                                        std::uint32_t other) noexcept {
#if SUBBYTE_ON_DEVICE
  // ptxas makes two steps of it where mask and other are constants.
  std::uint32_t out;
  asm("lop3.b32 %0, %1, %2, %3, 0xEA;" : "=r"(out) : "r"(bits), "r"(mask), "r"(other));
  return out;
#else
  return (bits & mask) | other;
#endif
}

/// Byte i of the result is byte (selector >> 4 i) & 7 of the eight bytes `low`, `high`.
///
/// Requires  no selector above 7.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t permute_bytes(std::uint32_t low, std::uint32_t high,
                                                            std::uint32_t selector) noexcept {
#if SUBBYTE_ON_DEVICE
  return __byte_perm(low, high, selector);
#else
  const std::uint64_t bytes = static_cast<std::uint64_t>(high) << 32 | low;
  std::uint32_t out = 0;
  for (int i = 0; i < 4; ++i) {
    const auto from = selector >> (4 * i) & 7;
    out |= static_cast<std::uint32_t>(bytes >> (8 * from) & 0xFF) << (8 * i);
  }
  return out;
#endif
}

/// The upper half of the 64 bits of a product.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t high_product(std::uint32_t a,
                                                           std::uint32_t b) noexcept {
#if SUBBYTE_ON_DEVICE
  return __umulhi(a, b);
#else
  return static_cast<std::uint32_t>((static_cast<std::uint64_t>(a) * b) >> 32);
#endif
}

/// sum + the four products of signed bytes.
[[nodiscard]] SUBBYTE_HD_INLINE std::int32_t dot4(std::uint32_t a, std::uint32_t b,
                                                  std::int32_t sum) noexcept {
#if SUBBYTE_ON_DEVICE
  return __dp4a(static_cast<std::int32_t>(a), static_cast<std::int32_t>(b), sum);
#else
  for (int i = 0; i < 4; ++i) {
    sum += static_cast<std::int8_t>(a >> (8 * i)) * static_cast<std::int8_t>(b >> (8 * i));
  }
  return sum;
#endif
}

/// Two fp16 numbers in one register, the first in the low half.
struct half_pair {
  std::uint32_t bits;
};

[[nodiscard]] SUBBYTE_HD_INLINE half_pair join_halves(half first, half second) noexcept {
  return {static_cast<std::uint32_t>(first.bits) | static_cast<std::uint32_t>(second.bits) << 16};
}
[[nodiscard]] SUBBYTE_HD_INLINE half first_half(half_pair p) noexcept {
  return half::from_bits(static_cast<std::uint16_t>(p.bits));
}
[[nodiscard]] SUBBYTE_HD_INLINE half second_half(half_pair p) noexcept {
  return half::from_bits(static_cast<std::uint16_t>(p.bits >> 16));
}

/// a - b in both halves, each rounded once.
[[nodiscard]] SUBBYTE_HD_INLINE half_pair subtracted(half_pair a, half_pair b) noexcept {
#if SUBBYTE_ON_DEVICE
  half_pair out;
  asm("sub.rn.f16x2 %0, %1, %2;" : "=r"(out.bits) : "r"(a.bits), "r"(b.bits));
  return out;
#else
  return join_halves(half::nearest(first_half(a).to_float() - first_half(b).to_float()),
                     half::nearest(second_half(a).to_float() - second_half(b).to_float()));
#endif
}

/// a * b + c in both halves, each rounded once.
[[nodiscard]] SUBBYTE_HD_INLINE half_pair fused(half_pair a, half_pair b, half_pair c) noexcept {
#if SUBBYTE_ON_DEVICE
  half_pair out;
  asm("fma.rn.f16x2 %0, %1, %2, %3;" : "=r"(out.bits) : "r"(a.bits), "r"(b.bits), "r"(c.bits));
  return out;
#else
  // A product of two halves has 22 bits; double holds it and its sum with a third whose exponent is
  // within 31 of it, and a smaller one changes no rounding but by its sign.
  const auto once = [](half x, half y, half z) {
    const double exact = static_cast<double>(x.to_float()) * static_cast<double>(y.to_float()) +
                         static_cast<double>(z.to_float());
    // To odd in float, then to nearest: the only way through float that rounds once.
    const auto near = static_cast<float>(exact);
    if (static_cast<double>(near) == exact || near != near || near - near != 0) {
      return half::nearest(near);
    }
    std::uint32_t bits = bit_cast<std::uint32_t>(near);
    const double size = near < 0 ? -exact : exact;
    if (static_cast<double>(near < 0 ? -near : near) > size) --bits;
    return half::nearest(bit_cast<float>(bits | 1U));
  };
  return join_halves(once(first_half(a), first_half(b), first_half(c)),
                     once(second_half(a), second_half(b), second_half(c)));
#endif
}

/// The low 4 bits of each byte; the high ones are spread(word >> 4).
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t low_nibbles(std::uint32_t word) noexcept {
  return word & 0x0F0F0F0FU;
}
/// The low 2 bits of each byte.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t low_pairs(std::uint32_t word) noexcept {
  return word & 0x03030303U;
}
/// Bit i of the low four to bit 0 of byte i.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t bits_to_bytes(std::uint32_t bits) noexcept {
  // Copies at distances of 7 put bit i at bit 8 i; no two of the other bits meet in one place.
  return (bits & 15U) * 0x00204081U & 0x01010101U;
}
/// 0xFF in every byte whose lowest bit is set, else 0.
///
/// Requires  all other bits are 0.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t byte_masks(std::uint32_t bytes) noexcept {
  return bytes * 255U;
}

/// The bytes that the low nibbles of `codes` name of eight, in out[0], and those that the high ones
/// do, in out[1].
///
/// Requires  no nibble above 7. table [2]: the eight bytes, least significant first.
SUBBYTE_HD_INLINE void select8(const std::uint32_t (&table)[2], std::uint32_t codes,
                               std::uint32_t (&out)[2]) noexcept {
  // Nibbles are selectors as they stand, but those of low and high nibbles alternate.
  const std::uint32_t first = permute_bytes(table[0], table[1], codes);
  const std::uint32_t second = permute_bytes(table[0], table[1], codes >> 16);
  out[0] = permute_bytes(first, second, 0x6420U);
  out[1] = permute_bytes(first, second, 0x7531U);
}

/// As select8, of sixteen bytes; table [4].
SUBBYTE_HD_INLINE void select16(const std::uint32_t (&table)[4], std::uint32_t codes,
                                std::uint32_t (&out)[2]) noexcept {
  const std::uint32_t place = codes & 0x77777777U;
  // Byte i of the first or of the second eight, as bit 3 of code i says.
  const std::uint32_t side = masked_or(codes >> 1, 0x44444444U, 0x32103210U);
  std::uint32_t chosen[2];
  SUBBYTE_UNROLL
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t four = place >> (16 * i);
    const std::uint32_t low = permute_bytes(table[0], table[1], four);
    const std::uint32_t high = permute_bytes(table[2], table[3], four);
    chosen[i] = permute_bytes(low, high, side >> (16 * i));
  }
  out[0] = permute_bytes(chosen[0], chosen[1], 0x6420U);
  out[1] = permute_bytes(chosen[0], chosen[1], 0x7531U);
}

/// As select16, of 32 bytes: bit 2 of nibble i of `fifths` is bit 4 of code i; table [8].
///
/// Requires  no other bit of `fifths` is set.
SUBBYTE_HD_INLINE void select32(const std::uint32_t (&table)[8], std::uint32_t codes,
                                std::uint32_t fifths, std::uint32_t (&out)[2]) noexcept {
  const std::uint32_t place = codes & 0x77777777U;
  const std::uint32_t side = masked_or(codes >> 1, 0x44444444U, 0x32103210U);
  const std::uint32_t half = fifths | 0x32103210U;
  std::uint32_t chosen[2];
  SUBBYTE_UNROLL
  for (int i = 0; i < 2; ++i) {
    const std::uint32_t four = place >> (16 * i);
    std::uint32_t sixteen[2];
    SUBBYTE_UNROLL
    for (int k = 0; k < 2; ++k) {
      const std::uint32_t low = permute_bytes(table[4 * k], table[4 * k + 1], four);
      const std::uint32_t high = permute_bytes(table[4 * k + 2], table[4 * k + 3], four);
      sixteen[k] = permute_bytes(low, high, side >> (16 * i));
    }
    chosen[i] = permute_bytes(sixteen[0], sixteen[1], half >> (16 * i));
  }
  out[0] = permute_bytes(chosen[0], chosen[1], 0x6420U);
  out[1] = permute_bytes(chosen[0], chosen[1], 0x7531U);
}

/// 128 plus each of four bytes, or 128 less it where that of the low four bits of `negative` is
/// set.
///
/// Requires  every byte below 128.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t with_signs(std::uint32_t bytes,
                                                         std::uint32_t negative) noexcept {
  const std::uint32_t ones = bits_to_bytes(negative);
  // 128 + b is b ^ 0x80; 128 - b is (b ^ 0x7F) + 1.
  return (bytes ^ 0x80808080U ^ byte_masks(ones)) + ones;
}

/// The four pairs of bits of a byte, one per byte.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t pairs_to_bytes(std::uint32_t byte) noexcept {
  const std::uint32_t nibbles = (byte | byte << 12) & 0x000F000FU;
  return low_pairs(nibbles | nibbles << 6);
}

/// Byte i of four unsigned ones less `Bias`, as a float.
///
/// Numerics  exact: a byte in the mantissa of 2^23 is 2^23 + byte.
template <int Bias>
[[nodiscard]] SUBBYTE_HD_INLINE float byte_to_float(std::uint32_t bytes, int i) noexcept {
  constexpr std::uint32_t exponent = 0x4B000000U;  // 2^23
  constexpr float shift = 8388608.0F + static_cast<float>(Bias);
  const std::uint32_t bits =
      permute_bytes(bytes, exponent, 0x7440U | static_cast<std::uint32_t>(i));
  return bit_cast<float>(bits) - shift;
}

/// Four unsigned bytes less `Bias`, as floats.
template <int Bias>
SUBBYTE_HD_INLINE void bytes_to_floats(std::uint32_t bytes, float (&out)[4]) noexcept {
  SUBBYTE_UNROLL
  for (int i = 0; i < 4; ++i) out[i] = byte_to_float<Bias>(bytes, i);
}

/// A number below 2^23 less `Bias`, as a float: two steps, where a conversion takes more or waits.
///
/// Numerics  exact.
template <int Bias>
[[nodiscard]] SUBBYTE_HD_INLINE float integer_to_float(std::uint32_t number) noexcept {
  constexpr float shift = 8388608.0F + static_cast<float>(Bias);
  return bit_cast<float>(number | 0x4B000000U) - shift;
}
/// integer_to_float<Bias>(bits & mask), in two steps too.
template <int Bias>
[[nodiscard]] SUBBYTE_HD_INLINE float integer_to_float(std::uint32_t bits,
                                                       std::uint32_t mask) noexcept {
  return integer_to_float<Bias>(masked_or(bits, mask, 0x4B000000U));
}

/// Four unsigned bytes less `Bias`, as halves.
///
/// Requires  -1023 <= Bias <= 1024.
/// Numerics  exact: a byte in the mantissa of 1024 is 1024 + byte.
template <int Bias>
SUBBYTE_HD_INLINE void bytes_to_halves(std::uint32_t bytes, half_pair (&out)[2]) noexcept {
  static_assert(Bias > -1024 && Bias <= 1024);
  constexpr std::uint32_t exponent = 0x64646464U;  // the high byte of 1024
  constexpr std::uint16_t one = half::nearest(1024.0F + static_cast<float>(Bias)).bits;
  constexpr half_pair shift{static_cast<std::uint32_t>(one) * 0x10001U};
  out[0] = subtracted({permute_bytes(bytes, exponent, 0x4140U)}, shift);
  out[1] = subtracted({permute_bytes(bytes, exponent, 0x4342U)}, shift);
}

/// Four unsigned bytes less `Bias`, as signed bytes.
///
/// Requires  0 <= Bias <= 128, every difference within -128 to 127; every byte below 128 unless
///           Bias is 128.
template <int Bias>
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t signed_bytes(std::uint32_t bytes) noexcept {
  static_assert(Bias >= 0 && Bias <= 128);
  if constexpr (Bias == 0) {
    return bytes;
  } else if constexpr (Bias == 128) {
    return bytes ^ 0x80808080U;
  } else {
    // The set top bit of each byte pays for the borrow.
    return ((bytes | 0x80808080U) - static_cast<std::uint32_t>(Bias) * 0x01010101U) ^ 0x80808080U;
  }
}

/// A 32-bit word at p, whose address is a multiple of Alignment.
template <int Alignment>
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t load_word(const std::uint8_t* p) noexcept {
#if SUBBYTE_ON_DEVICE
  if constexpr (Alignment >= 4) {
    return *reinterpret_cast<const std::uint32_t*>(p);
  } else if constexpr (Alignment == 2) {
    const auto* halves = reinterpret_cast<const std::uint16_t*>(p);
    return static_cast<std::uint32_t>(halves[0]) | static_cast<std::uint32_t>(halves[1]) << 16;
  } else {
    return load_le<std::uint32_t>(p);
  }
#else
  SUBBYTE_ASSERT(reinterpret_cast<std::uintptr_t>(p) % Alignment == 0);
  return load_le<std::uint32_t>(p);
#endif
}

/// A 16-bit word at p, whose address is even.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t load_u16(const std::uint8_t* p) noexcept {
#if SUBBYTE_ON_DEVICE
  return *reinterpret_cast<const std::uint16_t*>(p);
#else
  SUBBYTE_ASSERT(reinterpret_cast<std::uintptr_t>(p) % 2 == 0);
  return load_le<std::uint16_t>(p);
#endif
}

/// Two or four 32-bit words at p, whose address is a multiple of what they take.
template <int N>
SUBBYTE_HD_INLINE void load_words(const std::uint8_t* p, std::uint32_t (&out)[N]) noexcept {
  static_assert(N == 2 || N == 4);
#if SUBBYTE_ON_DEVICE
  if constexpr (N == 4) {
    const uint4 all = *reinterpret_cast<const uint4*>(p);
    out[0] = all.x;
    out[1] = all.y;
    out[2] = all.z;
    out[3] = all.w;
  } else {
    const uint2 all = *reinterpret_cast<const uint2*>(p);
    out[0] = all.x;
    out[1] = all.y;
  }
#else
  SUBBYTE_ASSERT(reinterpret_cast<std::uintptr_t>(p) % (4 * N) == 0);
  for (int i = 0; i < N; ++i) out[i] = load_le<std::uint32_t>(p + 4 * i);
#endif
}

/// An fp16 number at p, whose address is even, as a float.
[[nodiscard]] SUBBYTE_HD_INLINE float load_half(const std::uint8_t* p) noexcept {
  return to_float(half::from_bits(static_cast<std::uint16_t>(load_u16(p))));
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
