// SPDX-License-Identifier: Apache-2.0
#include <subbyte/cpu.hpp>

int main() {
  subbyte::tensor<float, 2> w(2, 32);
  subbyte::tensor<float, 1> x(32);
  subbyte::tensor<float, 1> y(2);
  for (subbyte::index_t i = 0; i < 64; ++i) w.data()[i] = static_cast<float>(i);
  for (subbyte::index_t i = 0; i < 32; ++i) x(i) = 1;
  subbyte::thread_pool pool(2);
  const auto q = subbyte::quantize<subbyte::q8_0>(w.view(), {}, pool);
  subbyte::gemv(q.view(), x.view(), y.view(), pool);
  return y(0) > 490 && y(0) < 502 ? 0 : 1;  // 0 + 1 + ... + 31 = 496
}
