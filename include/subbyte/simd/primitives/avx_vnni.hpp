// SPDX-License-Identifier: Apache-2.0
/// Primitives with the VEX-encoded 8-bit dot product.
#pragma once

#include "subbyte/simd/register.hpp"

#if SUBBYTE_WITH_AVX_VNNI
#include <immintrin.h>

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_u7i8(arch::avx_vnni, reg<std::int32_t, Arch> acc,
                                                 reg<std::uint8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  return {_mm256_dpbusd_avx_epi32(acc.native, a.native, b.native)};
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_i8i8(arch::avx_vnni, reg<std::int32_t, Arch> acc,
                                                 reg<std::int8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  // a + 128 is unsigned; 128 times the sum of b is taken back.
  const __m256i bias = _mm256_set1_epi8(-128);
  const __m256i biased =
      _mm256_dpbusd_avx_epi32(acc.native, _mm256_xor_si256(a.native, bias), b.native);
  const __m256i excess = _mm256_dpbusd_avx_epi32(_mm256_setzero_si256(), bias, b.native);
  return {_mm256_sub_epi32(biased, excess)};
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
#endif
