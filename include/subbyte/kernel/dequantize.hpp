// SPDX-License-Identifier: Apache-2.0
/// A quantized matrix, or chosen rows of it, as dense floats.
#pragma once

#include "subbyte/exec/executor.hpp"
#include "subbyte/kernel/decode.hpp"
#include "subbyte/matrix/concepts.hpp"
#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/simd/primitives.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// One row of W as T: float as decoded, half and bfloat16 rounded once from it.
template <class T, class Arch, quantized_matrix M>
void store_row(M w, index_t r, T* out) noexcept {
  if constexpr (std::is_same_v<T, float>) {
    decode_run<Arch>(w, r, 0, w.cols(), out);
  } else {
    constexpr index_t chunk = 256;
    float buffer[chunk];
    for (index_t k0 = 0; k0 < w.cols(); k0 += chunk) {
      const index_t n = w.cols() - k0 < chunk ? w.cols() - k0 : chunk;
      decode_run<Arch>(w, r, k0, n, buffer);
      for (index_t i = 0; i < n; ++i) out[k0 + i] = T::nearest(buffer[i]);
    }
  }
}

/// Output from this size on goes past the caches: it would not stay in them, and a plain store
/// first reads the line that it overwrites.
inline constexpr index_t streamed_output_bytes = index_t{32} << 20;

/// from -> out, past the caches where whole registers are aligned.
template <class Arch>
SUBBYTE_INLINE void stream_copy(const float* from, index_t n, float* out) noexcept {
  constexpr index_t size = reg<float, Arch>::size;
  const auto misaligned = static_cast<index_t>(reinterpret_cast<std::uintptr_t>(out) /
                                               sizeof(float) % static_cast<std::uintptr_t>(size));
  const index_t lead = misaligned == 0 ? 0 : size - misaligned;
  index_t i = 0;
  for (; i < n && i < lead; ++i) out[i] = from[i];
  for (; i + size <= n; i += size) stream(reg<float, Arch>::load(from + i), out + i);
  for (; i < n; ++i) out[i] = from[i];
}

/// store_row for output beyond the caches.
template <class Arch, quantized_matrix M>
void stream_row(M w, index_t r, float* out) noexcept {
  // Long, because a cache line that two pieces share is stored plainly.
  constexpr index_t piece = 1024;
  float buffer[piece];
  for (index_t k0 = 0; k0 < w.cols(); k0 += piece) {
    const index_t n = w.cols() - k0 < piece ? w.cols() - k0 : piece;
    decode_run<Arch>(w, r, k0, n, buffer);
    stream_copy<Arch>(buffer, n, out + k0);
  }
}

}  // namespace detail

/// W -> out, every weight.
///
/// Shapes    W [n, k]; out [n, k], rows at any pitch, of float, half or bfloat16.
/// Numerics  float: exact decode, the same bits on every arch. half and bfloat16: rounded
///           to nearest even from the float; overflow gives Inf.
/// Cost      reads W once; parallel over rows; no allocation. Floats of 32 MiB and more are stored
///           past the caches.
/// Throws    what the executor throws.
template <class T = float, class Arch = arch::native, quantized_matrix M>
void dequantize(M w, std::type_identity_t<tensor_view<T, 2, row_pitched>> out,
                executor_ref ex = serial) {
  SUBBYTE_EXPECTS(out.extent(0) == w.rows() && out.extent(1) == w.cols());
  if constexpr (std::is_same_v<T, float>) {
    const index_t bytes = w.rows() * w.cols() * static_cast<index_t>(sizeof(float));
    if (bytes >= detail::streamed_output_bytes) {
      ex.for_range(w.rows(), 16, [&](index_t begin, index_t end) noexcept {
        for (index_t r = begin; r < end; ++r) detail::stream_row<Arch>(w, r, out[r].data());
        stream_fence<Arch>();
      });
      return;
    }
  }
  ex.for_range(w.rows(), 16, [&](index_t begin, index_t end) noexcept {
    for (index_t r = begin; r < end; ++r) detail::store_row<T, Arch>(w, r, out[r].data());
  });
}

/// Row indices[i] of W -> row i of out: the embedding look-up.
///
/// Shapes    W [n, k]; indices [m], each in [0, n); out [m, k].
/// Numerics  as dequantize.
/// Throws    what the executor throws.
template <class T = float, class Arch = arch::native, quantized_matrix M>
void get_rows(M w, std::type_identity_t<vector_view<const index_t>> indices,
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
