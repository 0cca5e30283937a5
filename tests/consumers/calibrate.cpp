// SPDX-License-Identifier: Apache-2.0
#include <subbyte/calibrate.hpp>

int main() {
  constexpr subbyte::index_t rows = 4, cols = 32;
  subbyte::tensor<float, 2> w(rows, cols);
  for (subbyte::index_t i = 0; i < rows * cols; ++i) {
    w.data()[i] = static_cast<float>((i * 37) % 29) - 14.0F;
  }
  subbyte::tensor<double, 2> hessian(cols, cols);
  for (subbyte::index_t i = 0; i < cols; ++i) {
    for (subbyte::index_t j = 0; j < cols; ++j) {
      hessian(i, j) = 1.0 / static_cast<double>(1 + (i < j ? j - i : i - j));
    }
  }
  using format = subbyte::planar<subbyte::int_grid<4>, subbyte::half>;
  subbyte::gptq policy;
  policy.hessian = subbyte::hessian_view(hessian.view());
  const auto q = subbyte::quantize<format>(w.view(), {16}, policy);
  const auto k = subbyte::quantize<subbyte::q4_0>(w.view(), policy);
  return q.report.error.sqnr_db > 15 && k.report.error.sqnr_db > 12 ? 0 : 1;
}
