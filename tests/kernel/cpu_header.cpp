// SPDX-License-Identifier: Apache-2.0
/// The header of the component cpu brings products, decoding and the thread pool.
#include "subbyte/cpu.hpp"

#include "support/catch.hpp"

using namespace subbyte;

TEST_CASE("cpu.hpp: every product and the pool, from one include") {
  tensor<float, 2> w(2, 32);
  tensor<float, 2> x(3, 32);
  for (index_t i = 0; i < 64; ++i) w.data()[i] = static_cast<float>(i % 2);
  for (index_t i = 0; i < 96; ++i) x.data()[i] = 1;
  thread_pool pool(2);
  const auto q = quantize<f32>(w.view(), {}, pool);
  tensor<float, 1> y(2);
  gemv(q.view(), x.view()[0], y.view(), pool);
  CHECK(y(1) == 16);
  tensor<float, 2> c(3, 2);
  gemm(q.view(), x.view(), c.view(), pool);
  CHECK(c(2, 1) == 16);
  tensor<float, 2> decoded(2, 32);
  dequantize(q.view(), decoded.view(), pool);
  CHECK(decoded(1, 31) == 1);
}
