// SPDX-License-Identifier: Apache-2.0
/// Primitives with AArch64 Advanced SIMD.
#pragma once

#include "subbyte/simd/register.hpp"

#if SUBBYTE_WITH_NEON
#include <arm_neon.h>

#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

template <class Arch>
SUBBYTE_INLINE nibbles<Arch> unpack_nibbles(arch::neon, reg<std::uint8_t, Arch> packed) noexcept {
  return {{vandq_u8(packed.native, vdupq_n_u8(15))}, {vshrq_n_u8(packed.native, 4)}};
}

template <class Arch>
SUBBYTE_INLINE two_bit_codes<Arch> unpack_2bit(arch::neon,
                                               reg<std::uint8_t, Arch> packed) noexcept {
  const uint8x16_t mask = vdupq_n_u8(3);
  const uint8x16_t x = packed.native;
  return {{{vandq_u8(x, mask)},
           {vandq_u8(vshrq_n_u8(x, 2), mask)},
           {vandq_u8(vshrq_n_u8(x, 4), mask)},
           {vshrq_n_u8(x, 6)}}};
}

template <class Arch>
SUBBYTE_INLINE reg<std::uint8_t, Arch> expand_bits(arch::neon, std::uint64_t mask) noexcept {
  const uint8x16_t bytes = vcombine_u8(vdup_n_u8(static_cast<std::uint8_t>(mask)),
                                       vdup_n_u8(static_cast<std::uint8_t>(mask >> 8)));
  return {vtstq_u8(bytes, vreinterpretq_u8_u64(vdupq_n_u64(0x8040201008040201U)))};
}

template <class Arch, class T>
SUBBYTE_INLINE reg<T, Arch> broadcast_16_bytes(arch::neon, const T* p) noexcept {
  return reg<T, Arch>::load(p);
}

template <class Arch>
SUBBYTE_INLINE reg<std::uint8_t, Arch> lut16(arch::neon, reg<std::uint8_t, Arch> table,
                                             reg<std::uint8_t, Arch> index) noexcept {
  return {vqtbl1q_u8(table.native, index.native)};
}

template <class Arch>
SUBBYTE_INLINE reg<std::int8_t, Arch> lut16(arch::neon, reg<std::int8_t, Arch> table,
                                            reg<std::uint8_t, Arch> index) noexcept {
  return {vqtbl1q_s8(table.native, index.native)};
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_i8i8(arch::neon, reg<std::int32_t, Arch> acc,
                                                 reg<std::int8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  const int16x8_t low = vmull_s8(vget_low_s8(a.native), vget_low_s8(b.native));
  const int16x8_t high = vmull_high_s8(a.native, b.native);
  const int32x4_t sums = vpaddq_s32(vpaddlq_s16(low), vpaddlq_s16(high));
  return {vaddq_s32(acc.native, sums)};
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_u7i8(arch::neon, reg<std::int32_t, Arch> acc,
                                                 reg<std::uint8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  const reg<std::int8_t, Arch> signed_a{vreinterpretq_s8_u8(a.native)};
  return dot4_i8i8(Arch{}, acc, signed_a, b);
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> f16_to_f32(arch::neon, const half* p) noexcept {
  return {vcvt_f32_f16(vreinterpret_f16_u16(vld1_u16(&p->bits)))};
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> bf16_to_f32(arch::neon, const bfloat16* p) noexcept {
  return {vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(&p->bits), 16))};
}

template <class Arch>
SUBBYTE_INLINE void f32_to_f16(arch::neon, reg<float, Arch> x, half* out) noexcept {
  vst1_u16(&out->bits, vreinterpret_u16_f16(vcvt_f16_f32(x.native)));
}

template <class Arch>
SUBBYTE_INLINE void f32_to_bf16(arch::neon, reg<float, Arch> x, bfloat16* out) noexcept {
  const uint32x4_t bits = vreinterpretq_u32_f32(x.native);
  // Adding half a unit, less one where the kept part is even, rounds to nearest even.
  const uint32x4_t odd = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  const uint32x4_t rounded = vaddq_u32(bits, vaddq_u32(odd, vdupq_n_u32(0x7FFF)));
  const uint32x4_t quiet =
      vorrq_u32(vandq_u32(bits, vdupq_n_u32(0x80000000U)), vdupq_n_u32(0x7FC00000U));
  const uint32x4_t is_number = vceqq_f32(x.native, x.native);
  vst1_u16(&out->bits, vshrn_n_u32(vbslq_u32(is_number, rounded, quiet), 16));
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> dot2_bf16(arch::neon, reg<float, Arch> acc,
                                          reg<std::uint16_t, Arch> a,
                                          reg<std::uint16_t, Arch> b) noexcept {
  const uint32x4_t upper = vdupq_n_u32(0xFFFF0000U);
  const uint32x4_t left = vreinterpretq_u32_u16(a.native);
  const uint32x4_t right = vreinterpretq_u32_u16(b.native);
  const float32x4_t odd = vfmaq_f32(acc.native, vreinterpretq_f32_u32(vandq_u32(left, upper)),
                                    vreinterpretq_f32_u32(vandq_u32(right, upper)));
  return {vfmaq_f32(odd, vreinterpretq_f32_u32(vshlq_n_u32(left, 16)),
                    vreinterpretq_f32_u32(vshlq_n_u32(right, 16)))};
}

SUBBYTE_INLINE float32x4_t four_i8_to_f32(int16x4_t x) noexcept {
  return vcvtq_f32_s32(vmovl_s16(x));
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> i8_to_f32(arch::neon, const std::int8_t* p) noexcept {
  std::int32_t bytes;
  __builtin_memcpy(&bytes, p, sizeof(bytes));
  const int8x8_t x = vreinterpret_s8_s32(vdup_n_s32(bytes));
  return {four_i8_to_f32(vget_low_s16(vmovl_s8(x)))};
}

template <int Quarter, class Arch>
SUBBYTE_INLINE reg<float, Arch> i8_quarter_to_f32(arch::neon, reg<std::int8_t, Arch> x) noexcept {
  const int8x8_t eight = Quarter < 2 ? vget_low_s8(x.native) : vget_high_s8(x.native);
  const int16x8_t wide = vmovl_s8(eight);
  return {four_i8_to_f32(Quarter % 2 == 0 ? vget_low_s16(wide) : vget_high_s16(wide))};
}

template <class Arch>
SUBBYTE_INLINE void round_to_i8(arch::neon, reg<float, Arch> x, reg<float, Arch> inverse,
                                std::int8_t* out) noexcept {
  // The comparison is false for NaN, which the conversion would turn into 0.
  const float32x4_t product = vmulq_f32(x.native, inverse.native);
  const float32x4_t limit = vdupq_n_f32(127.0F);
  const float32x4_t below = vbslq_f32(vcltq_f32(product, limit), product, limit);
  const int16x4_t words = vqmovn_s32(vcvtnq_s32_f32(below));
  const int8x8_t bytes = vqmovn_s16(vcombine_s16(words, words));
  const std::int32_t four = vget_lane_s32(vreinterpret_s32_s8(bytes), 0);
  __builtin_memcpy(out, &four, sizeof(four));
}

template <class Arch>
SUBBYTE_INLINE float reduce_add(arch::neon, reg<float, Arch> x) noexcept {
  return vaddv_f32(vadd_f32(vget_low_f32(x.native), vget_high_f32(x.native)));
}

template <class Arch>
SUBBYTE_INLINE std::int32_t reduce_add(arch::neon, reg<std::int32_t, Arch> x) noexcept {
  return vaddvq_s32(x.native);
}

template <class Arch>
SUBBYTE_INLINE float reduce_max(arch::neon, reg<float, Arch> x) noexcept {
  return vmaxvq_f32(x.native);
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
#endif
