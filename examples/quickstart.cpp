// SPDX-License-Identifier: Apache-2.0
/// Quantize a matrix, measure what that cost, multiply with it.
#include <cmath>
#include <cstdio>
#include <vector>

#include "subbyte/cpu.hpp"

int main() {
  const subbyte::index_t n = 512, k = 1024;
  std::vector<float> weights(static_cast<std::size_t>(n * k)), x(k, 1.0F), y(n);
  for (std::size_t i = 0; i < weights.size(); ++i) weights[i] = std::sin(static_cast<float>(i));

  const subbyte::matrix_view<const float> w(weights.data(), n, k);
  const auto q = subbyte::quantize<subbyte::q4_k>(w);
  std::printf("q4_k: %.2f bits per weight, relative error %.4f, SQNR %.1f dB\n",
              q.report.bits_per_weight, q.report.error.relative_rmse, q.report.error.sqnr_db);
  subbyte::gemv(q.view(), x, y);
  std::printf("y = W x; y[0] = %.4f\n", static_cast<double>(y[0]));
}
