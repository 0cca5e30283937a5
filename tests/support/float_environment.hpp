// SPDX-License-Identifier: Apache-2.0
/// Runs a function under every rounding mode and, where the CPU has it, with flush-to-zero.
#pragma once

#include <cfenv>

#if defined(__SSE2__)
#include <immintrin.h>
#endif

namespace test_support {

/// Calls body() once per setting and restores the environment; false from any call gives false.
/// body must be a plain function, called through a volatile pointer: the compiler does not know
/// that arithmetic depends on the environment and would otherwise move it.
inline bool in_every_float_environment(bool (*body)()) {
  bool (*volatile call)() = body;
  bool good = call();
  const int saved_mode = std::fegetround();
  for (const int mode : {FE_UPWARD, FE_DOWNWARD, FE_TOWARDZERO}) {
    std::fesetround(mode);
    const bool result = call();
    std::fesetround(saved_mode);
    good = good && result;
  }
#if defined(__SSE2__)
  const unsigned saved = _mm_getcsr();
  _mm_setcsr(saved | 0x8040U);  // flush results to zero, read subnormals as zero
  const bool result = call();
  _mm_setcsr(saved);
  good = good && result;
#endif
  return good;
}

}  // namespace test_support
