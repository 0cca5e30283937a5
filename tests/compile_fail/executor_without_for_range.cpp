// SPDX-License-Identifier: Apache-2.0
/// expected: no_pool.*executor_ref
#include "subbyte/subbyte.hpp"

struct no_pool {};

void use(subbyte::matrix_view<const float> w) {
#if defined(WRONG)
  no_pool pool;
  (void)subbyte::quantize<subbyte::q8_0>(w, {}, pool);
#else
  (void)subbyte::quantize<subbyte::q8_0>(w, {}, subbyte::serial);
#endif
}
