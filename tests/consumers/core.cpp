// SPDX-License-Identifier: Apache-2.0
#include <subbyte/subbyte.hpp>

int main() {
  subbyte::tensor<float, 2> w(2, 32);
  for (subbyte::index_t i = 0; i < 64; ++i) w.data()[i] = static_cast<float>(i);
  const auto q = subbyte::quantize<subbyte::q4_0>(w.view());
  return q.report.error.sqnr_db > 15 ? 0 : 1;
}
