// SPDX-License-Identifier: Apache-2.0
/// The policy that gives the bytes of the tool that defined the format.
#pragma once

#include <string>

#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/num/rounding.hpp"
#include "subbyte/quantize/concepts.hpp"
#include "subbyte/tensor/tensor.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Byte-identical to the format's own tool (for GGUF types: ggml on x86-64, without contraction).
///
/// importance     one positive weight per column [k], e.g. the mean of the squared activations;
///                empty: none. Formats whose tool ignores it ignore it here.
/// on_non_finite  NaN and Inf among the weights: an error, or zero.
///
/// A row whose length is no multiple of the block is padded with zeros of importance zero.
/// Formats without a normative encoder take nearest codes to their fitted params; row-scaled ones
/// the library's own search for the row's scale.
struct reference {
  vector_view<const float> importance{};
  non_finite on_non_finite = non_finite::reject;

  /// Shapes    w [n, k]; target [n, k].
  /// Cost      one pass per row, parallel over rows; stack only, and for formats that search in
  ///           tables those, which are made once per call.
  /// Throws    bad_shape when importance is neither empty nor [k]; non_finite when it holds a
  ///           negative, NaN or Inf.
  template <block_format F, class Arch>
  policy_report apply(weights_view w, block_matrix<F, Arch>& target, executor_ref ex) const {
    check_importance<Arch>(w.extent(1));
    const block_encoder<F, Arch> encoder;
    ex.for_range(w.extent(0), 8, [&](index_t begin, index_t end) noexcept {
      for (index_t r = begin; r < end; ++r) encode_row<F, Arch>(encoder, w[r], target.row(r));
    });
    return {};
  }

  /// Shapes    w [n, k]; target [n, k].
  /// Cost      four passes per row, parallel over rows; two floats of memory per group of 32
  ///           weights.
  /// Throws    as above; out_of_memory.
  template <shifted_row_format F, class Arch>
  policy_report apply(weights_view w, row_scaled_matrix<F, Arch>& target, executor_ref ex) const {
    check_importance<Arch>(w.extent(1));
    const index_t blocks = w.extent(1) / F::block_size;
    if (blocks == 0) return {};
    tensor<group_fit, 2> groups(uninitialized, w.extent(0), blocks * F::groups);
    ex.for_range(w.extent(0), 1, [&](index_t begin, index_t end) noexcept {
      for (index_t r = begin; r < end; ++r) {
        const auto row = w[r];
        const auto load = [&](index_t b, float* x, float* weight) noexcept {
          for (index_t i = 0; i < F::block_size; ++i) {
            const index_t k = b * F::block_size + i;
            x[i] = finite(row[k]);
            weight[i] = importance.size() != 0 ? importance[k] : 1.0F;
          }
        };
        target.set_scale(r,
                         encode_shifted_row<F, Arch>(blocks, load, &groups(r, 0), target.row(r)));
      }
    });
    return {};
  }

 private:
  template <class Arch>
  void check_importance(index_t cols) const {
    if (importance.size() == 0) return;
    if (importance.size() != cols) {
      throw_error(errc::bad_shape, "importance",
                  std::to_string(importance.size()) + " values for " + std::to_string(cols) +
                      " columns; one per column is required");
    }
    for (index_t i = 0; i < cols; ++i) {
      const float v = importance[i];
      if (!(v >= 0 && v <= max_float)) {
        throw_error(errc::non_finite, "importance",
                    "column " + std::to_string(i) + " holds " + std::to_string(v) +
                        "; finite values >= 0 are required");
      }
    }
  }

  template <class F, class Arch>
  void encode_row(const block_encoder<F, Arch>& encoder, tensor_view<const float, 1, strided> row,
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
    }
  }

  static constexpr float max_float = 3.40282347e+38F;

  [[nodiscard]] SUBBYTE_INLINE float finite(float v) const noexcept {
    return on_non_finite == non_finite::zero && !(v >= -max_float && v <= max_float) ? 0.0F : v;
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
