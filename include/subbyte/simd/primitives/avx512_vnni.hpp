// SPDX-License-Identifier: Apache-2.0
/// Primitives with AVX-512's 8-bit dot product.
#pragma once

#include "subbyte/simd/register.hpp"

#if SUBBYTE_WITH_AVX512_VNNI
#include <immintrin.h>

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_u7i8(arch::avx512_vnni, reg<std::int32_t, Arch> acc,
                                                 reg<std::uint8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  return {_mm512_dpbusd_epi32(acc.native, a.native, b.native)};
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_i8i8(arch::avx512_vnni, reg<std::int32_t, Arch> acc,
                                                 reg<std::int8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  // a + 128 is unsigned; 128 times the sum of b is taken back.
  const __m512i bias = _mm512_set1_epi8(-128);
  const __m512i biased =
      _mm512_dpbusd_epi32(acc.native, _mm512_xor_si512(a.native, bias), b.native);
  const __m512i excess = _mm512_dpbusd_epi32(_mm512_setzero_si512(), bias, b.native);
  return {_mm512_sub_epi32(biased, excess)};
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
#endif
