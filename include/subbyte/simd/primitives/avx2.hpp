// SPDX-License-Identifier: Apache-2.0
/// Primitives with AVX2, FMA and F16C.
#pragma once

#include "subbyte/simd/register.hpp"

#if SUBBYTE_WITH_AVX2
#include <immintrin.h>

#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

template <class Arch>
SUBBYTE_INLINE nibbles<Arch> unpack_nibbles(arch::avx2, reg<std::uint8_t, Arch> packed) noexcept {
  const __m256i mask = _mm256_set1_epi8(15);
  return {{_mm256_and_si256(packed.native, mask)},
          {_mm256_and_si256(_mm256_srli_epi16(packed.native, 4), mask)}};
}

template <class Arch>
SUBBYTE_INLINE two_bit_codes<Arch> unpack_2bit(arch::avx2,
                                               reg<std::uint8_t, Arch> packed) noexcept {
  const __m256i mask = _mm256_set1_epi8(3);
  const __m256i x = packed.native;
  return {{{_mm256_and_si256(x, mask)},
           {_mm256_and_si256(_mm256_srli_epi16(x, 2), mask)},
           {_mm256_and_si256(_mm256_srli_epi16(x, 4), mask)},
           {_mm256_and_si256(_mm256_srli_epi16(x, 6), mask)}}};
}

template <class Arch>
SUBBYTE_INLINE reg<std::uint8_t, Arch> expand_bits(arch::avx2, std::uint64_t mask) noexcept {
  // Mask byte i / 8 moves to byte i, where one bit of it is kept.
  const __m256i source =
      _mm256_setr_epi64x(0, 0x0101010101010101, 0x0202020202020202, 0x0303030303030303);
  const __m256i bit = _mm256_set1_epi64x(static_cast<long long>(0x8040201008040201U));
  const __m256i bytes = _mm256_shuffle_epi8(_mm256_set1_epi32(static_cast<int>(mask)), source);
  return {_mm256_cmpeq_epi8(_mm256_and_si256(bytes, bit), bit)};
}

template <class Arch, class T>
SUBBYTE_INLINE reg<T, Arch> broadcast_16_bytes(arch::avx2, const T* p) noexcept {
  return {_mm256_broadcastsi128_si256(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

template <class T, class Arch>
SUBBYTE_INLINE reg<T, Arch> lut16(arch::avx2, reg<T, Arch> table,
                                  reg<std::uint8_t, Arch> index) noexcept {
  return {_mm256_shuffle_epi8(table.native, index.native)};
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_u7i8(arch::avx2, reg<std::int32_t, Arch> acc,
                                                 reg<std::uint8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  const __m256i pairs = _mm256_maddubs_epi16(a.native, b.native);
  return {_mm256_add_epi32(acc.native, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)))};
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_i8i8(arch::avx2, reg<std::int32_t, Arch> acc,
                                                 reg<std::int8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  // Even and odd bytes widened in place: exact for -128, where the sign trick is not, and the sums
  // stay in lane order.
  const __m256i even = _mm256_madd_epi16(_mm256_srai_epi16(_mm256_slli_epi16(a.native, 8), 8),
                                         _mm256_srai_epi16(_mm256_slli_epi16(b.native, 8), 8));
  const __m256i odd =
      _mm256_madd_epi16(_mm256_srai_epi16(a.native, 8), _mm256_srai_epi16(b.native, 8));
  return {_mm256_add_epi32(acc.native, _mm256_add_epi32(even, odd))};
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> f16_to_f32(arch::avx2, const half* p) noexcept {
  return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> bf16_to_f32(arch::avx2, const bfloat16* p) noexcept {
  const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
  return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
}

template <class Arch>
SUBBYTE_INLINE void f32_to_f16(arch::avx2, reg<float, Arch> x, half* out) noexcept {
  _mm_storeu_si128(reinterpret_cast<__m128i*>(out),
                   _mm256_cvtps_ph(x.native, _MM_FROUND_TO_NEAREST_INT));
}

template <class Arch>
SUBBYTE_INLINE void f32_to_bf16(arch::avx2, reg<float, Arch> x, bfloat16* out) noexcept {
  const __m256i bits = _mm256_castps_si256(x.native);
  const __m256i upper = _mm256_srli_epi32(bits, 16);
  // Adding half a unit, less one where the kept part is even, rounds to nearest even.
  const __m256i odd = _mm256_and_si256(upper, _mm256_set1_epi32(1));
  const __m256i bias = _mm256_add_epi32(odd, _mm256_set1_epi32(0x7FFF));
  const __m256i rounded = _mm256_srli_epi32(_mm256_add_epi32(bits, bias), 16);
  const __m256i quiet = _mm256_or_si256(_mm256_and_si256(upper, _mm256_set1_epi32(0x8000)),
                                        _mm256_set1_epi32(0x7FC0));
  const __m256i is_nan = _mm256_castps_si256(_mm256_cmp_ps(x.native, x.native, _CMP_UNORD_Q));
  const __m256i wide = _mm256_blendv_epi8(rounded, quiet, is_nan);
  _mm_storeu_si128(
      reinterpret_cast<__m128i*>(out),
      _mm_packus_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1)));
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> dot2_bf16(arch::avx2, reg<float, Arch> acc,
                                          reg<std::uint16_t, Arch> a,
                                          reg<std::uint16_t, Arch> b) noexcept {
  const __m256i upper = _mm256_set1_epi32(static_cast<int>(0xFFFF0000U));
  const __m256 odd =
      _mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_and_si256(a.native, upper)),
                      _mm256_castsi256_ps(_mm256_and_si256(b.native, upper)), acc.native);
  return {_mm256_fmadd_ps(_mm256_castsi256_ps(_mm256_slli_epi32(a.native, 16)),
                          _mm256_castsi256_ps(_mm256_slli_epi32(b.native, 16)), odd)};
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> i8_to_f32(arch::avx2, const std::int8_t* p) noexcept {
  const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(p));
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
}

template <int Quarter, class Arch>
SUBBYTE_INLINE reg<float, Arch> i8_quarter_to_f32(arch::avx2, reg<std::int8_t, Arch> x) noexcept {
  const __m128i lane = _mm256_extracti128_si256(x.native, Quarter / 2);
  const __m128i bytes = _mm_srli_si128(lane, Quarter % 2 * 8);
  return {_mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes))};
}

template <class Arch>
SUBBYTE_INLINE void round_to_i8(arch::avx2, reg<float, Arch> x, reg<float, Arch> inverse,
                                std::int8_t* out) noexcept {
  // A conversion that overflows, or meets NaN, gives the most negative integer. That saturates as
  // it should from below; min, which returns its second operand for NaN, keeps the rest in range.
  const __m256 below =
      _mm256_min_ps(_mm256_mul_ps(x.native, inverse.native), _mm256_set1_ps(127.0F));
  const __m256i wide = _mm256_cvtps_epi32(below);
  const __m128i words =
      _mm_packs_epi32(_mm256_castsi256_si128(wide), _mm256_extracti128_si256(wide, 1));
  _mm_storel_epi64(reinterpret_cast<__m128i*>(out), _mm_packs_epi16(words, words));
}

SUBBYTE_INLINE float reduce_add_256(__m256 x) noexcept {
  const __m128 four = _mm_add_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_shuffle_ps(two, two, 1)));
}

SUBBYTE_INLINE std::int32_t reduce_add_256(__m256i x) noexcept {
  const __m128i four = _mm_add_epi32(_mm256_castsi256_si128(x), _mm256_extracti128_si256(x, 1));
  const __m128i two = _mm_add_epi32(four, _mm_shuffle_epi32(four, 0x4E));
  return _mm_cvtsi128_si32(_mm_add_epi32(two, _mm_shuffle_epi32(two, 0xB1)));
}

SUBBYTE_INLINE float reduce_max_256(__m256 x) noexcept {
  const __m128 four = _mm_max_ps(_mm256_castps256_ps128(x), _mm256_extractf128_ps(x, 1));
  const __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_shuffle_ps(two, two, 1)));
}

template <class Arch>
SUBBYTE_INLINE float reduce_add(arch::avx2, reg<float, Arch> x) noexcept {
  return reduce_add_256(x.native);
}

template <class Arch>
SUBBYTE_INLINE std::int32_t reduce_add(arch::avx2, reg<std::int32_t, Arch> x) noexcept {
  return reduce_add_256(x.native);
}

template <class Arch>
SUBBYTE_INLINE float reduce_max(arch::avx2, reg<float, Arch> x) noexcept {
  return reduce_max_256(x.native);
}

template <class Arch>
SUBBYTE_INLINE void stream(arch::avx2, reg<float, Arch> x, float* out) noexcept {
  _mm256_stream_ps(out, x.native);
}

SUBBYTE_INLINE void stream_fence(arch::avx2) noexcept { _mm_sfence(); }

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
#endif
