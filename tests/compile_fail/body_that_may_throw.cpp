// SPDX-License-Identifier: Apache-2.0
/// expected: noexcept
#include "subbyte/exec/executor.hpp"

void use(subbyte::executor_ref ex) {
#if defined(WRONG)
  ex.for_range(8, 1, [](subbyte::index_t, subbyte::index_t) {});
#else
  ex.for_range(8, 1, [](subbyte::index_t, subbyte::index_t) noexcept {});
#endif
}
