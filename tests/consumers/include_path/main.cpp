// SPDX-License-Identifier: Apache-2.0
/// Every umbrella in two units of one program; compiled by check.cmake with -I and nothing else of
/// the library's.
#include <subbyte/cpu.hpp>
#include <subbyte/subbyte.hpp>
#if !defined(WITHOUT_IO)
#include <subbyte/io.hpp>
#endif

float product_of_another_unit();

int main() {
  subbyte::tensor<float, 2> w(2, 32);
  subbyte::tensor<float, 1> x(32);
  subbyte::tensor<float, 1> y(2);
  for (subbyte::index_t i = 0; i < 32; ++i) w(0, i) = x(i) = 1;
  const auto q = subbyte::quantize<subbyte::q8_0>(w.view());
  subbyte::gemv(q.view(), x.view(), y.view());
  return y(0) == product_of_another_unit() ? 0 : 1;
}
