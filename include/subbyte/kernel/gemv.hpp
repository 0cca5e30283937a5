// SPDX-License-Identifier: Apache-2.0
/// y = W x for a quantized W and float x: portable, for any quantized matrix.
#pragma once

#include "subbyte/exec/executor.hpp"
#include "subbyte/kernel/decode.hpp"
#include "subbyte/kernel/lanes.hpp"
#include "subbyte/matrix/concepts.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// Rows first .. first + Rows - 1 of W x. Several rows share each load of x and hide the latency of
/// the fma chain.
template <class Arch, int Rows, quantized_matrix M>
void dot_rows(M w, index_t first, const float* x, float* y) noexcept {
  constexpr index_t chunk = 256;
  constexpr index_t step = lanes<Arch>::count;
  alignas(64) float weights[Rows][chunk];
  lanes<Arch> sum[Rows];
  for (int j = 0; j < Rows; ++j) sum[j] = lanes<Arch>::zero();
  for (index_t k0 = 0; k0 < w.cols(); k0 += chunk) {
    const index_t n = w.cols() - k0 < chunk ? w.cols() - k0 : chunk;
    for (int j = 0; j < Rows; ++j) decode_run<Arch>(w, first + j, k0, n, weights[j]);
    const index_t whole = n - n % step;
    for (index_t i = 0; i < whole; i += step) {
      const auto activations = lanes<Arch>::load(x + k0 + i);
      for (int j = 0; j < Rows; ++j) {
        sum[j].add_product(lanes<Arch>::load(weights[j] + i), activations);
      }
    }
    if (whole < n) {
      const auto activations = lanes<Arch>::load_first(x + k0 + whole, n - whole);
      for (int j = 0; j < Rows; ++j) {
        sum[j].add_product(lanes<Arch>::load_first(weights[j] + whole, n - whole), activations);
      }
    }
  }
  for (int j = 0; j < Rows; ++j) y[j] = sum[j].sum();
}

}  // namespace detail

/// y = W x.
///
/// Shapes    W [n, k]; x [k]; y [n].
/// Requires  y does not alias x or W.
/// Numerics  consistent: sixteen virtual lanes, lane = column % 16, each lane a chain of fma
///           in column order, then a halving tree; the same bits on every arch and executor.
/// Cost      reads W once; parallel over rows; no allocation.
/// Throws    what the executor throws.
template <class Arch = arch::native, quantized_matrix M>
void gemv(M w, std::type_identity_t<vector_view<const float>> x,
          std::type_identity_t<vector_view<float>> y, executor_ref ex = serial) {
  SUBBYTE_EXPECTS(x.size() == w.cols() && y.size() == w.rows());
  constexpr index_t together = 4;
  ex.for_range(w.rows(), 16 * together, [&](index_t begin, index_t end) noexcept {
    index_t r = begin;
    for (; r + together <= end; r += together) {
      detail::dot_rows<Arch, together>(w, r, x.data(), y.data() + r);
    }
    for (; r < end; ++r) detail::dot_rows<Arch, 1>(w, r, x.data(), y.data() + r);
  });
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
