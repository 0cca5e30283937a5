// SPDX-License-Identifier: Apache-2.0
/// expected: no match|no matching
#include "subbyte/tensor/tensor.hpp"

float use(const subbyte::tensor<float, 2>& w) {
#if defined(WRONG)
  return w(1);
#else
  return w(1, 1);
#endif
}
