// SPDX-License-Identifier: Apache-2.0
/// What a product may deviate by, from the weights themselves.
#pragma once

#include <cmath>
#include <cstring>
#include <vector>

#include "subbyte/cuda/gemv.cuh"

namespace cuda_cases {

using namespace subbyte;

/// Every decoded weight of the host's view, row-major.
template <class View>
std::vector<float> decoded(const View& w) {
  std::vector<float> out(static_cast<std::size_t>(w.rows() * w.cols()));
  for (index_t r = 0; r < w.rows(); ++r) w.decode_row(r, 0, w.cols(), out.data() + r * w.cols());
  return out;
}

/// |scale level| + |offset| of every weight, as the lanes hold it: what the bounds of products with
/// float and integer x are made of. The lanes' own test is octet.cpp.
template <class View>
std::vector<double> magnitudes(const View& host) {
  using reader = cuda::matrix_reader<View>;
  const reader source(host);
  std::vector<double> out(static_cast<std::size_t>(host.rows() * host.cols()));
  for (index_t r = 0; r < host.rows(); ++r) {
    for (int k0 = 0; k0 < source.cols(); k0 += cuda::span_weights) {
      alignas(16) std::uint8_t span[reader::span_bytes] = {};
      const index_t at = k0 / cuda::span_weights * reader::span_bytes;
      const index_t left = source.row_bytes() - at;
      std::memcpy(span, source.row(r) + at,
                  static_cast<std::size_t>(left < reader::span_bytes ? left : reader::span_bytes));
      for (int lane = 0; lane < cuda::warp_lanes; ++lane) {
        const auto quads = source.load(span, r, k0, lane);
        for (int q = 0; q < 2; ++q) {
          for (int i = 0; i < 4; ++i) {
            const index_t k = k0 + reader::first(lane, q) + i;
            if (k >= host.cols()) continue;
            double size = 0;
            if constexpr (requires { quads.bytes; }) {
              const int level = static_cast<int>(quads.bytes[q] >> (8 * i) & 0xFF) - quads.bias;
              size = std::fabs(static_cast<double>(quads.scale[q]) * level);
              if (quads.has_offset) size += std::fabs(static_cast<double>(quads.offset[q]));
            } else {
              size = std::fabs(static_cast<double>(quads.scale) *
                               static_cast<double>(quads.level[q][i]));
            }
            const index_t column = source.order() != nullptr ? source.order()[k] : k;
            out[static_cast<std::size_t>(r * host.cols() + column)] = size;
          }
        }
      }
    }
  }
  return out;
}

}  // namespace cuda_cases
