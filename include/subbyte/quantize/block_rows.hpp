// SPDX-License-Identifier: Apache-2.0
/// Rows of weights through an encoder of blocks: what the policies reference and best share.
#pragma once

#include "subbyte/num/rounding.hpp"
#include "subbyte/quantize/concepts.hpp"
#include "subbyte/quantize/importance.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

/// Fills a matrix of blocks row by row. A row whose length is no multiple of the block is padded
/// with zeros of importance zero; without importance its last block is encoder.cut(weights, columns
/// left), where the encoder has that.
struct block_rows {
  vector_view<const float> importance;  ///< [k] or empty, checked
  non_finite on_non_finite;

  /// Shapes    w [n, k]; target [n, k]. encoder as block_encoder's operator().
  /// Cost      one pass per row, parallel over rows; stack only.
  template <class F, class Arch, class Encoder>
  void encode(const Encoder& encoder, weights_view w, block_matrix<F, Arch>& target,
              executor_ref ex) const {
    ex.for_range(w.extent(0), 8, [&](index_t begin, index_t end) noexcept {
      for (index_t r = begin; r < end; ++r) encode_row<F>(encoder, w[r], target.row(r));
    });
  }

  /// v, or 0 where NaN and Inf count as zero.
  [[nodiscard]] SUBBYTE_INLINE float finite(float v) const noexcept {
    return on_non_finite == non_finite::zero && v - v != 0 ? 0.0F : v;
  }

 private:
  template <class F, class Encoder>
  void encode_row(const Encoder& encoder, tensor_view<const float, 1, strided> row,
                  F* out) const noexcept {
    const index_t cols = row.extent(0);
    const bool weighted = importance.size() != 0;
    float row_mean_square = 0;
    if (weighted) {
      for (index_t i = 0; i < cols; ++i) {
        const float v = finite(row[i]);
        row_mean_square += unfused(v * v);
      }
      row_mean_square /= static_cast<float>(cols);
    }
    constexpr index_t block = F::block_size;
    index_t done = 0;
    if (row.stride(0) == 1 && on_non_finite == non_finite::reject) {
      const index_t whole = cols / block;
      encoder(row.data(), weighted ? importance.data() : nullptr, row_mean_square, whole, out);
      done = whole * block;
    }
    // The rest in pieces, with zeros beyond the end of the row.
    constexpr index_t piece = block > 256 ? block : 256 / block * block;
    for (; done < cols; done += piece) {
      const index_t count = ceil_div(cols - done < piece ? cols - done : piece, block);
      float w[piece];
      float weight[piece];
      for (index_t i = 0; i < count * block; ++i) {
        const bool inside = done + i < cols;
        w[i] = inside ? finite(row[done + i]) : 0.0F;
        weight[i] = inside && weighted ? importance[done + i] : 0.0F;
      }
      encoder(w, weighted ? weight : nullptr, row_mean_square, count, out + done / block);
      // The columns behind the end of the row count as zeros; to some encoders not at all.
      if constexpr (requires { encoder.cut(w, 0); }) {
        const index_t last = done + (count - 1) * block;
        const index_t counted = cols - last;
        if (!weighted && counted < block) {
          out[last / block] = encoder.cut(w + (last - done), static_cast<int>(counted));
        }
      }
    }
  }
};

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
