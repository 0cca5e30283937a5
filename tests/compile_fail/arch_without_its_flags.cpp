// SPDX-License-Identifier: Apache-2.0
/// expected: constraint
#include "subbyte/simd/register.hpp"

// This unit is compiled without -m flags: no AVX2, and on ARM no 8-bit matrix product.
#if defined(__x86_64__)
using wide = subbyte::arch::avx2;
#else
using wide = subbyte::arch::neon_i8mm;
#endif

#if defined(WRONG)
using chosen = wide;
#else
using chosen = subbyte::arch::native;
#endif

subbyte::reg<float, chosen> use(const float* x) { return subbyte::reg<float, chosen>::load(x); }
