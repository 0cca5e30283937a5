// SPDX-License-Identifier: Apache-2.0
/// Primitives with AVX-512 F, BW, DQ and VL.
#pragma once

#include "subbyte/simd/primitives/avx2.hpp"
#include "subbyte/simd/register.hpp"

#if SUBBYTE_WITH_AVX512
#include <immintrin.h>

#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

// Some intrinsics stand in their zero-masked form under a full mask, which compiles to the plain
// instruction: g++ 12 warns of an uninitialised value inside the plain ones.

template <class Arch>
SUBBYTE_INLINE nibbles<Arch> unpack_nibbles(arch::avx512, reg<std::uint8_t, Arch> packed) noexcept {
  const __m512i mask = _mm512_set1_epi8(15);
  return {{_mm512_and_si512(packed.native, mask)},
          {_mm512_and_si512(_mm512_srli_epi16(packed.native, 4), mask)}};
}

template <class Arch>
SUBBYTE_INLINE two_bit_codes<Arch> unpack_2bit(arch::avx512,
                                               reg<std::uint8_t, Arch> packed) noexcept {
  const __m512i mask = _mm512_set1_epi8(3);
  const __m512i x = packed.native;
  return {{{_mm512_and_si512(x, mask)},
           {_mm512_and_si512(_mm512_srli_epi16(x, 2), mask)},
           {_mm512_and_si512(_mm512_srli_epi16(x, 4), mask)},
           {_mm512_and_si512(_mm512_srli_epi16(x, 6), mask)}}};
}

template <class Arch>
SUBBYTE_INLINE reg<std::uint8_t, Arch> expand_bits(arch::avx512, std::uint64_t mask) noexcept {
  return {_mm512_movm_epi8(mask)};
}

template <class Arch, class T>
SUBBYTE_INLINE reg<T, Arch> broadcast_16_bytes(arch::avx512, const T* p) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_maskz_broadcast_i32x4(0xFFFF, bytes)};
}

template <class T, class Arch>
SUBBYTE_INLINE reg<T, Arch> lut16(arch::avx512, reg<T, Arch> table,
                                  reg<std::uint8_t, Arch> index) noexcept {
  return {_mm512_shuffle_epi8(table.native, index.native)};
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_u7i8(arch::avx512, reg<std::int32_t, Arch> acc,
                                                 reg<std::uint8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  const __m512i pairs = _mm512_maddubs_epi16(a.native, b.native);
  return {_mm512_add_epi32(acc.native, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)))};
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_i8i8(arch::avx512, reg<std::int32_t, Arch> acc,
                                                 reg<std::int8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  // As in avx2.hpp.
  const __m512i even = _mm512_madd_epi16(_mm512_srai_epi16(_mm512_slli_epi16(a.native, 8), 8),
                                         _mm512_srai_epi16(_mm512_slli_epi16(b.native, 8), 8));
  const __m512i odd =
      _mm512_madd_epi16(_mm512_srai_epi16(a.native, 8), _mm512_srai_epi16(b.native, 8));
  return {_mm512_add_epi32(acc.native, _mm512_add_epi32(even, odd))};
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> f16_to_f32(arch::avx512, const half* p) noexcept {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  return {_mm512_maskz_cvtph_ps(0xFFFF, bits)};
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> bf16_to_f32(arch::avx512, const bfloat16* p) noexcept {
  const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(p));
  const __m512i wide = _mm512_maskz_cvtepu16_epi32(0xFFFF, bits);
  return {_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xFFFF, wide, 16))};
}

template <class Arch>
SUBBYTE_INLINE void f32_to_f16(arch::avx512, reg<float, Arch> x, half* out) noexcept {
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out),
                      _mm512_maskz_cvtps_ph(0xFFFF, x.native, _MM_FROUND_TO_NEAREST_INT));
}

template <class Arch>
SUBBYTE_INLINE void f32_to_bf16(arch::avx512, reg<float, Arch> x, bfloat16* out) noexcept {
  // As in avx2.hpp.
  const __m512i bits = _mm512_castps_si512(x.native);
  const __m512i upper = _mm512_maskz_srli_epi32(0xFFFF, bits, 16);
  const __m512i odd = _mm512_and_si512(upper, _mm512_set1_epi32(1));
  const __m512i bias = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7FFF));
  const __m512i rounded = _mm512_maskz_srli_epi32(0xFFFF, _mm512_add_epi32(bits, bias), 16);
  const __m512i quiet = _mm512_or_si512(_mm512_and_si512(upper, _mm512_set1_epi32(0x8000)),
                                        _mm512_set1_epi32(0x7FC0));
  const __mmask16 is_nan = _mm512_cmp_ps_mask(x.native, x.native, _CMP_UNORD_Q);
  const __m512i wide = _mm512_mask_mov_epi32(rounded, is_nan, quiet);
  _mm256_storeu_si256(reinterpret_cast<__m256i*>(out), _mm512_maskz_cvtepi32_epi16(0xFFFF, wide));
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> dot2_bf16(arch::avx512, reg<float, Arch> acc,
                                          reg<std::uint16_t, Arch> a,
                                          reg<std::uint16_t, Arch> b) noexcept {
  const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xFFFF0000U));
  const __m512 odd =
      _mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_and_si512(a.native, upper)),
                      _mm512_castsi512_ps(_mm512_and_si512(b.native, upper)), acc.native);
  return {_mm512_fmadd_ps(_mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xFFFF, a.native, 16)),
                          _mm512_castsi512_ps(_mm512_maskz_slli_epi32(0xFFFF, b.native, 16)), odd)};
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> i8_to_f32(arch::avx512, const std::int8_t* p) noexcept {
  const __m128i bytes = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm512_maskz_cvtepi32_ps(0xFFFF, _mm512_maskz_cvtepi8_epi32(0xFFFF, bytes))};
}

template <int Quarter, class Arch>
SUBBYTE_INLINE reg<float, Arch> i8_quarter_to_f32(arch::avx512, reg<std::int8_t, Arch> x) noexcept {
  const __m128i bytes = _mm512_maskz_extracti32x4_epi32(0xF, x.native, Quarter);
  return {_mm512_maskz_cvtepi32_ps(0xFFFF, _mm512_maskz_cvtepi8_epi32(0xFFFF, bytes))};
}

template <class Arch>
SUBBYTE_INLINE void round_to_i8(arch::avx512, reg<float, Arch> x, reg<float, Arch> inverse,
                                std::int8_t* out) noexcept {
  // As in avx2.hpp.
  const __m512 below =
      _mm512_maskz_min_ps(0xFFFF, _mm512_mul_ps(x.native, inverse.native), _mm512_set1_ps(127.0F));
  const __m512i wide = _mm512_maskz_cvtps_epi32(0xFFFF, below);
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out), _mm512_maskz_cvtsepi32_epi8(0xFFFF, wide));
}

template <class Arch>
SUBBYTE_INLINE float reduce_add(arch::avx512, reg<float, Arch> x) noexcept {
  return reduce_add_256(_mm256_add_ps(_mm512_maskz_extractf32x8_ps(0xFF, x.native, 0),
                                      _mm512_maskz_extractf32x8_ps(0xFF, x.native, 1)));
}

template <class Arch>
SUBBYTE_INLINE std::int32_t reduce_add(arch::avx512, reg<std::int32_t, Arch> x) noexcept {
  return reduce_add_256(_mm256_add_epi32(_mm512_maskz_extracti32x8_epi32(0xFF, x.native, 0),
                                         _mm512_maskz_extracti32x8_epi32(0xFF, x.native, 1)));
}

template <class Arch>
SUBBYTE_INLINE float reduce_max(arch::avx512, reg<float, Arch> x) noexcept {
  return reduce_max_256(_mm256_max_ps(_mm512_maskz_extractf32x8_ps(0xFF, x.native, 0),
                                      _mm512_maskz_extractf32x8_ps(0xFF, x.native, 1)));
}

template <class Arch>
SUBBYTE_INLINE void stream(arch::avx512, reg<float, Arch> x, float* out) noexcept {
  _mm512_stream_ps(out, x.native);
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
#endif
