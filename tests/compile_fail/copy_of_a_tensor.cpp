// SPDX-License-Identifier: Apache-2.0
/// expected: deleted
#include "subbyte/tensor/tensor.hpp"

void use(const subbyte::tensor<float, 2>& w) {
#if defined(WRONG)
  const auto copy = w;
#else
  const auto copy = w.clone();
#endif
  (void)copy;
}
