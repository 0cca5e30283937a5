// SPDX-License-Identifier: Apache-2.0
// Compiled, not run: one kernel of every kind.
#include "subbyte/cuda/dequantize.cuh"
#include "subbyte/cuda/gemv.cuh"
#include "subbyte/cuda/octet/all.cuh"
#include "subbyte/cuda/quantize.cuh"

namespace {

using namespace subbyte;

template <class View>
void queue_all(cuda::stream_ref s, const View& host) {
  const cuda::device_view<View> w(host);
  const cuda::device_tensor_view<float, 2> floats;
  const cuda::device_tensor_view<subbyte::half, 2> halves;
  const cuda::device_tensor_view<bfloat16, 2> bfloats;
  cuda::dequantize(s, w, floats);
  cuda::dequantize(s, w, halves);
  cuda::dequantize(s, w, bfloats);
  cuda::gemv(s, w, floats, floats);
  if constexpr (cuda::integer_levels<View>) {
    cuda::gemv(s, w, halves, floats);
    cuda::gemv(s, w, cuda::quantize_activations(s, floats, {}), floats);
  }
}

}  // namespace

void queue_every_kind(cuda::stream_ref s) {
  queue_all(s, block_matrix_view<q4_0>());
  queue_all(s, block_matrix_view<q4_k>());
  queue_all(s, block_matrix_view<iq2_s>());
  queue_all(s, row_scaled_matrix_view<iq4_ks>());
  queue_all(s, planar_matrix_view<int_grid<4>, subbyte::half>());
  queue_all(s, planar_matrix_view<codebook_grid<nf4>, nested_scale<e4m3fn>>());
  const cuda::device_tensor_view<float, 2> floats;
  cuda::quantize(s, floats, cuda::device_tensor_view<q8_0, 2>());
  cuda::quantize_groups<codebook_grid<nf4>>(s, floats, 64,
                                            cuda::device_tensor_view<std::uint8_t, 2>(),
                                            cuda::device_tensor_view<f32_scale, 2>());
}
