// SPDX-License-Identifier: Apache-2.0
/// What an engine's one unit of products costs to compile: gemv for every format of the registry.
#include "subbyte/format/list.hpp"
#include "subbyte/kernel/gemv.hpp"

using product = void(const void* blocks, subbyte::index_t rows, subbyte::index_t cols,
                     const float* x, float* y);

template <class F>
void multiply(const void* blocks, subbyte::index_t rows, subbyte::index_t cols, const float* x,
              float* y) {
  const subbyte::block_matrix_view<F> w(static_cast<const F*>(blocks), rows, cols);
  subbyte::gemv(w, subbyte::vector_view<const float>(x, cols),
                subbyte::vector_view<float>(y, rows));
}

product* product_of(std::string_view format) {
  product* found = nullptr;
  subbyte::for_each_type(subbyte::all_formats{}, [&]<class F>(std::type_identity<F>) {
    if (format == F::name) found = multiply<F>;
  });
  return found;
}
