// SPDX-License-Identifier: Apache-2.0
/// expected: no matching function|no viable conversion|could not convert
#include "subbyte/cuda/gemv.cuh"
#include "subbyte/cuda/octet/nibbles.cuh"

namespace {
struct no_queue {};
template <class Kernel, class... Args>
void launch(const no_queue&, subbyte::index_t, Args...) {}
}  // namespace

void multiply(subbyte::cuda::device_view<subbyte::block_matrix_view<subbyte::q4_0>> w,
              subbyte::cuda::device_tensor_view<float, 2> x, subbyte::matrix_view<float> on_host,
              subbyte::cuda::device_tensor_view<float, 2> y) {
#if defined(WRONG)
  subbyte::cuda::gemv(no_queue{}, w, on_host, y);
#else
  subbyte::cuda::gemv(no_queue{}, w, x, y);
#endif
  (void)x;
  (void)on_host;
}
