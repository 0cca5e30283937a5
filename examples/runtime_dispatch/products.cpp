// SPDX-License-Identifier: Apache-2.0
/// The code behind products.hpp: PRODUCT is the name of this copy, given by CMakeLists.txt.
#include "runtime_dispatch/products.hpp"

#include "subbyte/cpu.hpp"

void products::PRODUCT(const void* blocks, std::int64_t rows, std::int64_t cols, const float* x,
                       float* y) {
  const subbyte::block_matrix_view<subbyte::q4_0> w(static_cast<const subbyte::q4_0*>(blocks), rows,
                                                    cols);
  subbyte::gemv(w, subbyte::vector_view<const float>(x, cols),
                subbyte::vector_view<float>(y, rows));
}
