// SPDX-License-Identifier: Apache-2.0
/// expected: const
#include "subbyte/tensor/tensor_view.hpp"

void use(const float* data, float* writable) {
#if defined(WRONG)
  const subbyte::matrix_view<float> w(data, 2, 2);
#else
  const subbyte::matrix_view<float> w(writable, 2, 2);
#endif
  w(0, 0) = 1;
  (void)data;
  (void)writable;
}
