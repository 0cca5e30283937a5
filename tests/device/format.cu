// SPDX-License-Identifier: Apache-2.0
// Compiled, not run: decode, split, join, value and round of every format in device code.
#include "subbyte/format/list.hpp"

namespace {

template <class F>
__global__ void decode_blocks(const F* blocks, float* out) {
  subbyte::decode(blocks[blockIdx.x], out + blockIdx.x * F::block_size);
}

template <class F>
__global__ void round_blocks(F* blocks, const float* weights) {
  F& block = blocks[blockIdx.x];
  auto u = F::split(block);
  for (int i = 0; i < F::block_size; ++i) {
    const int code = F::round(weights[i], i, u.params);
    if (F::value(code, i, u.params) != 0) u.codes[i] = static_cast<std::uint8_t>(code);
  }
  block = F::join(u.params, u.codes);
}

template <class F>
__global__ void decode_rows(const F* blocks, typename F::row_scale scale, float* out) {
  F::decode(blocks[blockIdx.x], scale, out + blockIdx.x * F::block_size);
}

template <class F>
__global__ void round_rows(F* blocks, typename F::row_scale scale, const float* weights) {
  F& block = blocks[blockIdx.x];
  auto u = F::split(block, scale);
  for (int i = 0; i < F::block_size; ++i) {
    const int code = F::round(weights[i], i, u.params);
    if (F::value(code, i, u.params) != 0) u.codes[i] = static_cast<std::uint8_t>(code);
  }
  block = F::join(u.params, u.codes);
}

}  // namespace

void launch_every_format(void* blocks, float* floats) {
  subbyte::for_each_type(subbyte::all_formats{}, [&](auto tag) {
    using F = typename decltype(tag)::type;
    decode_blocks<F><<<1, 1>>>(static_cast<const F*>(blocks), floats);
    if constexpr (subbyte::grid_format<F>) {
      round_blocks<F><<<1, 1>>>(static_cast<F*>(blocks), floats);
    }
  });
  subbyte::for_each_type(subbyte::row_scaled_formats{}, [&](auto tag) {
    using F = typename decltype(tag)::type;
    const auto scale = F::row_scale::nearest(1.0F);
    decode_rows<F><<<1, 1>>>(static_cast<const F*>(blocks), scale, floats);
    if constexpr (subbyte::row_scaled_grid_format<F>) {
      round_rows<F><<<1, 1>>>(static_cast<F*>(blocks), scale, floats);
    }
  });
}
