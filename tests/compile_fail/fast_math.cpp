// SPDX-License-Identifier: Apache-2.0
/// expected: -ffast-math breaks NaN checks
#if defined(WRONG)
#define __FAST_MATH__ 1  // as the compiler does with -ffast-math
#endif
#include "subbyte/core/config.hpp"
