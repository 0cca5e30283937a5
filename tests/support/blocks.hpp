// SPDX-License-Identifier: Apache-2.0
/// Matrices of blocks for tests: encoded from floats, in any format of the registry.
#pragma once

#include <vector>

#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/quantize/reference.hpp"

namespace test_support {

/// w [rows, cols], row-major, through the format's reference encoder.
template <class F>
subbyte::block_matrix<F> encoded(const std::vector<float>& w, subbyte::index_t rows,
                                 subbyte::index_t cols) {
  subbyte::block_matrix<F> m(rows, cols);
  subbyte::reference{}.apply(subbyte::matrix_view<const float>(w.data(), rows, cols), m,
                             subbyte::serial);
  return m;
}

/// Every weight as the format's decode gives it, row-major.
template <class F>
std::vector<float> decoded(subbyte::block_matrix_view<F> m) {
  std::vector<float> w(static_cast<std::size_t>(m.rows() * m.cols()));
  for (subbyte::index_t r = 0; r < m.rows(); ++r) {
    m.decode_row(r, 0, m.cols(), w.data() + r * m.cols());
  }
  return w;
}

}  // namespace test_support
