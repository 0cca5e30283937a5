// SPDX-License-Identifier: Apache-2.0
/// A quantized matrix, or chosen rows of it, as dense floats.
#pragma once

#include "subbyte/exec/executor.hpp"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// One row of W as T: float as decoded, half and bfloat16 rounded once from it.
template <class T, class Arch, class F>
void store_row(block_matrix_view<F> w, index_t r, T* out) noexcept {
  if constexpr (std::is_same_v<T, float>) {
    w.template decode_row<Arch>(r, 0, w.cols(), out);
  } else {
    constexpr index_t chunk = 256;
    float buffer[chunk];
    for (index_t k0 = 0; k0 < w.cols(); k0 += chunk) {
      const index_t n = w.cols() - k0 < chunk ? w.cols() - k0 : chunk;
      w.template decode_row<Arch>(r, k0, n, buffer);
      for (index_t i = 0; i < n; ++i) out[k0 + i] = T::nearest(buffer[i]);
    }
  }
}

}  // namespace detail

/// W -> out, every weight.
///
/// Shapes    W [n, k]; out [n, k], rows at any pitch, of float, half or bfloat16.
/// Numerics  float: exact decode, the same bits on every arch. half and bfloat16: rounded
///           to nearest even from the float; overflow gives Inf.
/// Cost      reads W once; parallel over rows; no allocation.
/// Throws    what the executor throws.
template <class T = float, class Arch = arch::native, class F>
void dequantize(block_matrix_view<F> w, std::type_identity_t<tensor_view<T, 2, row_pitched>> out,
                executor_ref ex = serial) {
  SUBBYTE_EXPECTS(out.extent(0) == w.rows() && out.extent(1) == w.cols());
  ex.for_range(w.rows(), 16, [&](index_t begin, index_t end) noexcept {
    for (index_t r = begin; r < end; ++r) detail::store_row<T, Arch>(w, r, out[r].data());
  });
}

/// Row indices[i] of W -> row i of out: the embedding look-up.
///
/// Shapes    W [n, k]; indices [m], each in [0, n); out [m, k].
/// Numerics  as dequantize.
/// Throws    what the executor throws.
template <class T = float, class Arch = arch::native, class F>
void get_rows(block_matrix_view<F> w, std::type_identity_t<vector_view<const index_t>> indices,
              std::type_identity_t<tensor_view<T, 2, row_pitched>> out, executor_ref ex = serial) {
  SUBBYTE_EXPECTS(out.extent(0) == indices.size() && out.extent(1) == w.cols());
  ex.for_range(indices.size(), 16, [&](index_t begin, index_t end) noexcept {
    for (index_t i = begin; i < end; ++i) {
      SUBBYTE_EXPECTS(indices[i] >= 0 && indices[i] < w.rows());
      detail::store_row<T, Arch>(w, indices[i], out[i].data());
    }
  });
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
