// SPDX-License-Identifier: Apache-2.0
/// expected: q.apply
#include "subbyte/subbyte.hpp"

struct policy_without_apply {};

void use(subbyte::matrix_view<const float> w) {
#if defined(WRONG)
  (void)subbyte::quantize<subbyte::q4_k>(w, policy_without_apply{});
#else
  (void)subbyte::quantize<subbyte::q4_k>(w, subbyte::reference{});
#endif
}
