// SPDX-License-Identifier: Apache-2.0
/// expected: deleted
#include "subbyte/subbyte.hpp"

void use(subbyte::matrix_view<const float> w) {
#if defined(WRONG)
  const auto view = subbyte::quantize<subbyte::q4_0>(w).view();  // the blocks are gone
#else
  const auto q = subbyte::quantize<subbyte::q4_0>(w);
  const auto view = q.view();
#endif
  (void)view;
}
