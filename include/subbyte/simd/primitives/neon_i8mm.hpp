// SPDX-License-Identifier: Apache-2.0
/// Primitives with AArch64's mixed-sign 8-bit dot product, which comes with the 8-bit matrix
/// product.
#pragma once

#include "subbyte/simd/register.hpp"

#if SUBBYTE_WITH_NEON_I8MM
#include <arm_neon.h>

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_u7i8(arch::neon_i8mm, reg<std::int32_t, Arch> acc,
                                                 reg<std::uint8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  return {vusdotq_s32(acc.native, a.native, b.native)};
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
#endif
