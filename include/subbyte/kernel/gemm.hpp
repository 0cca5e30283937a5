// SPDX-License-Identifier: Apache-2.0
/// C = A W^T and dX = dY W for a quantized W and float activations: portable, for any quantized
/// matrix.
#pragma once

#include "subbyte/exec/executor.hpp"
#include "subbyte/kernel/decode.hpp"
#include "subbyte/kernel/lanes.hpp"
#include "subbyte/matrix/concepts.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// Activation rows x weight rows whose accumulators fit the registers of Arch.
template <class Arch>
inline constexpr int tile_rows =
    std::is_base_of_v<arch::avx512, Arch>                                        ? 4
    : std::is_base_of_v<arch::avx2, Arch> || std::is_base_of_v<arch::neon, Arch> ? 2
                                                                                 : 1;

/// c[i * c_pitch + j] += sum over k of a[i * a_pitch + k] * w[j * w_pitch + k].
template <class Arch, int Rows, int Columns>
SUBBYTE_INLINE void tile_product(const float* a, index_t a_pitch, const float* w, index_t w_pitch,
                                 index_t k, float* c, index_t c_pitch) noexcept {
  using vector = reg<float, Arch>;
  constexpr index_t step = vector::size;
  vector sum[Rows][Columns];
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Columns; ++j) sum[i][j] = vector::broadcast(0.0F);
  }
  const index_t whole = k - k % step;
  for (index_t at = 0; at < whole; at += step) {
    vector activations[Rows];
    for (int i = 0; i < Rows; ++i) activations[i] = vector::load(a + i * a_pitch + at);
    for (int j = 0; j < Columns; ++j) {
      const vector weights = vector::load(w + j * w_pitch + at);
      for (int i = 0; i < Rows; ++i) {
        // The specification must not pay for fma as a library call; this product is tolerant.
        if constexpr (std::is_same_v<Arch, arch::scalar>) {
          sum[i][j] = sum[i][j] + activations[i] * weights;
        } else {
          sum[i][j] = fma(activations[i], weights, sum[i][j]);
        }
      }
    }
  }
  for (int i = 0; i < Rows; ++i) {
    for (int j = 0; j < Columns; ++j) {
      float lane[vector::size];
      sum[i][j].store(lane);
      for (int stride = vector::size / 2; stride > 0; stride /= 2) {
        for (int l = 0; l < stride; ++l) lane[l] += lane[l + stride];
      }
      float total = lane[0];
      for (index_t at = whole; at < k; ++at) total += a[i * a_pitch + at] * w[j * w_pitch + at];
      c[i * c_pitch + j] += total;
    }
  }
}

/// Columns [first, first + Columns) of C.
template <class Arch, int Columns, quantized_matrix M>
void gemm_columns(M w, index_t first, const tensor_view<const float, 2, row_pitched>& a,
                  const tensor_view<float, 2, row_pitched>& c) noexcept {
  constexpr index_t chunk = 1024;  // 16 KiB of decoded weights: half of a first-level cache
  constexpr int rows_together = tile_rows<Arch>;
  alignas(64) float weights[Columns][chunk];
  const index_t m = a.extent(0);
  for (index_t i = 0; i < m; ++i) {
    for (int j = 0; j < Columns; ++j) c(i, first + j) = 0.0F;
  }
  for (index_t k0 = 0; k0 < w.cols(); k0 += chunk) {
    const index_t n = w.cols() - k0 < chunk ? w.cols() - k0 : chunk;
    for (int j = 0; j < Columns; ++j) decode_run<Arch>(w, first + j, k0, n, weights[j]);
    index_t i = 0;
    for (; i + rows_together <= m; i += rows_together) {
      tile_product<Arch, rows_together, Columns>(&a(i, k0), a.stride(0), weights[0], chunk, n,
                                                 &c(i, first), c.stride(0));
    }
    for (; i < m; ++i) {
      tile_product<Arch, 1, Columns>(&a(i, k0), a.stride(0), weights[0], chunk, n, &c(i, first),
                                     c.stride(0));
    }
  }
}

/// Rows [i0, i1) and columns [k0, k0 + n) of dX = dY W, weight rows in order.
template <class Arch, quantized_matrix M>
void gemm_transposed_block(M w, index_t i0, index_t i1, index_t k0, index_t n,
                           const tensor_view<const float, 2, row_pitched>& dy,
                           const tensor_view<float, 2, row_pitched>& dx) noexcept {
  using vector = reg<float, Arch>;
  constexpr index_t chunk = 256;
  constexpr index_t together = 8;  // weight rows for each load and store of dX
  SUBBYTE_ASSERT(n <= chunk);
  alignas(64) float weights[together][chunk];
  const index_t whole = n - n % vector::size;
  for (index_t i = i0; i < i1; ++i) {
    for (index_t k = 0; k < n; ++k) dx(i, k0 + k) = 0.0F;
  }
  for (index_t r0 = 0; r0 < w.rows(); r0 += together) {
    const index_t rows = w.rows() - r0 < together ? w.rows() - r0 : together;
    for (index_t j = 0; j < rows; ++j) decode_run<Arch>(w, r0 + j, k0, n, weights[j]);
    for (index_t i = i0; i < i1; ++i) {
      float* out = &dx(i, k0);
      for (index_t k = 0; k < whole; k += vector::size) {
        vector sum = vector::load(out + k);
        for (index_t j = 0; j < rows; ++j) {
          const vector gradient = vector::broadcast(dy(i, r0 + j));
          const vector weight = vector::load(weights[j] + k);
          if constexpr (std::is_same_v<Arch, arch::scalar>) {
            sum = sum + gradient * weight;
          } else {
            sum = fma(gradient, weight, sum);
          }
        }
        sum.store(out + k);
      }
      for (index_t k = whole; k < n; ++k) {
        for (index_t j = 0; j < rows; ++j) out[k] += dy(i, r0 + j) * weights[j][k];
      }
    }
  }
}

}  // namespace detail

/// C = A W^T: a batch of activations through one layer.
///
/// Shapes    A [m, k], rows at any pitch; W [n, k]; C [m, n], rows at any pitch.
/// Requires  C does not alias A or W.
/// Numerics  tolerant: |error| <= (k + 1) * eps * sum_k |A W|, eps = 2^-23, the bound of any
///           order of additions; independent of the executor and the thread count, not of the arch.
/// Cost      decodes each weight once; parallel over weight rows; no allocation.
/// Throws    what the executor throws.
template <class Arch = arch::native, quantized_matrix M>
void gemm(M w, std::type_identity_t<tensor_view<const float, 2, row_pitched>> a,
          std::type_identity_t<tensor_view<float, 2, row_pitched>> c, executor_ref ex = serial) {
  SUBBYTE_EXPECTS(a.extent(1) == w.cols());
  SUBBYTE_EXPECTS(c.extent(0) == a.extent(0) && c.extent(1) == w.rows());
  if (a.extent(0) == 0) return;
  constexpr index_t together = 4;
  ex.for_range(w.rows(), 4 * together, [&](index_t begin, index_t end) noexcept {
    index_t r = begin;
    for (; r + together <= end; r += together) {
      detail::gemm_columns<Arch, together>(w, r, a, c);
    }
    for (; r < end; ++r) detail::gemm_columns<Arch, 1>(w, r, a, c);
  });
}

/// dX = dY W: the gradient of gemm's activations.
///
/// Shapes    dY [m, n], rows at any pitch; W [n, k]; dX [m, k], rows at any pitch.
/// Requires  dX does not alias dY or W.
/// Numerics  tolerant: |error| <= (n + 1) * eps * sum_n |dY W|, eps = 2^-23; independent of the
///           executor and the thread count.
/// Cost      decodes each weight once per 64 rows of dY; parallel over blocks of dX; no allocation.
/// Throws    what the executor throws.
template <class Arch = arch::native, quantized_matrix M>
void gemm_transposed(M w, std::type_identity_t<tensor_view<const float, 2, row_pitched>> dy,
                     std::type_identity_t<tensor_view<float, 2, row_pitched>> dx,
                     executor_ref ex = serial) {
  SUBBYTE_EXPECTS(dy.extent(1) == w.rows());
  SUBBYTE_EXPECTS(dx.extent(0) == dy.extent(0) && dx.extent(1) == w.cols());
  if (dy.extent(0) == 0) return;
  constexpr index_t chunk = 256;
  constexpr index_t rows_together = 64;
  const index_t row_blocks = ceil_div(dx.extent(0), rows_together);
  ex.for_range(ceil_div(w.cols(), chunk) * row_blocks, 1, [&](index_t begin, index_t end) noexcept {
    for (index_t b = begin; b < end; ++b) {
      const index_t i0 = b % row_blocks * rows_together;
      const index_t i1 = i0 + rows_together < dx.extent(0) ? i0 + rows_together : dx.extent(0);
      const index_t k0 = b / row_blocks * chunk;
      const index_t n = w.cols() - k0 < chunk ? w.cols() - k0 : chunk;
      detail::gemm_transposed_block<Arch>(w, i0, i1, k0, n, dy, dx);
    }
  });
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
