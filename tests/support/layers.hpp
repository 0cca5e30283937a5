// SPDX-License-Identifier: Apache-2.0
/// Weight matrices that quantizers are tried on: three fixed ones, and rows of corner cases.
#pragma once

#include <limits>
#include <vector>

#include "subbyte/tensor/tensor_view.hpp"
#include "support/random.hpp"

namespace test_support {

/// A matrix with its own memory.
struct layer {
  const char* name;
  subbyte::index_t rows;
  subbyte::index_t cols;
  std::vector<float> w;

  [[nodiscard]] subbyte::matrix_view<const float> view() const { return {w.data(), rows, cols}; }
};

/// Gaussian, Gaussian with large columns, and the cube of a Gaussian: 12 x 200, so that groups of
/// 32 and 128 and blocks of 256 all end short.
inline std::vector<layer> fixed_layers() {
  std::vector<layer> layers = {{"gaussian", 12, 200, normal_vector(2400, 0.02, 101)},
                               {"outlier columns", 12, 200, normal_vector(2400, 0.02, 102)},
                               {"heavy tails", 12, 200, normal_vector(2400, 0.3, 103)}};
  for (std::size_t i = 0; i < 2400; ++i) {
    if (i % 200 % 37 == 5) layers[1].w[i] *= 12.0F;
    float& v = layers[2].w[i];
    v = v * v * v;
  }
  return layers;
}

/// One case per row, 64 columns.
inline layer corner_rows() {
  layer l{"corners", 0, 64, {}};
  const auto row = [&](auto value) {
    for (int i = 0; i < 64; ++i) l.w.push_back(value(i));
    ++l.rows;
  };
  row([](int) { return 0.0F; });
  row([](int) { return -0.0F; });
  row([](int) { return 0.75F; });
  row([](int) { return -0.75F; });
  row([](int i) { return i == 17 ? 3.0F : 0.0F; });
  row([](int i) { return i == 17 ? -3.0F : 0.0F; });
  row([](int i) { return i == 9 ? 100.0F : 0.01F * static_cast<float>(i % 7 - 3); });
  row([](int i) { return 0.1F + 0.01F * static_cast<float>(i); });
  row([](int i) { return -0.1F - 0.01F * static_cast<float>(i); });
  row([](int i) { return static_cast<float>(i - 31); });
  row([](int i) { return 1e-7F * static_cast<float>(i % 5 - 2); });
  row([](int i) { return 1e-30F * static_cast<float>(i % 5 - 2); });
  row([](int i) { return 1e-44F * static_cast<float>(i % 5 - 2); });
  row([](int i) { return 1e7F * static_cast<float>(i % 5 - 2); });
  row([](int i) { return 1e30F * static_cast<float>(i % 5 - 2); });
  row([](int i) { return i % 2 == 0 ? 65504.0F : -65504.0F; });
  return l;
}

}  // namespace test_support
