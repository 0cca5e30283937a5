// SPDX-License-Identifier: Apache-2.0
/// Primitives with AVX-512's bfloat16 dot product.
#pragma once

#include "subbyte/simd/register.hpp"

#if SUBBYTE_WITH_AVX512_BF16
#include <immintrin.h>

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> dot2_bf16(arch::avx512_bf16, reg<float, Arch> acc,
                                          reg<std::uint16_t, Arch> a,
                                          reg<std::uint16_t, Arch> b) noexcept {
  return {_mm512_dpbf16_ps(acc.native, __builtin_bit_cast(__m512bh, a.native),
                           __builtin_bit_cast(__m512bh, b.native))};
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
#endif
