// SPDX-License-Identifier: Apache-2.0
/// Every arch tag, for tests that run once per arch this translation unit is compiled for.
#pragma once

#include <type_traits>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/type_list.hpp"

namespace test_support {

// A build may name those that its tests walk, so that a test of one of them compiles quickly.
#if defined(SUBBYTE_TESTED_ARCHS)
using all_archs = subbyte::type_list<SUBBYTE_TESTED_ARCHS>;
#else
using all_archs =
    subbyte::type_list<subbyte::arch::scalar, subbyte::arch::avx2, subbyte::arch::avx_vnni,
                       subbyte::arch::avx512, subbyte::arch::avx512_vnni,
                       subbyte::arch::avx512_bf16, subbyte::arch::amx, subbyte::arch::neon,
                       subbyte::arch::neon_dot, subbyte::arch::neon_i8mm>;
#endif

/// Calls body(std::type_identity<Arch>{}) for every enabled arch.
template <class Body>
void for_each_enabled_arch(Body&& body) {
  subbyte::for_each_type(all_archs{}, [&]<class Arch>(std::type_identity<Arch> tag) {
    if constexpr (Arch::enabled) body(tag);
  });
}

}  // namespace test_support
