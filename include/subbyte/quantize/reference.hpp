// SPDX-License-Identifier: Apache-2.0
/// The policy that gives the bytes of the tool that defined the format.
#pragma once

#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/quantize/block_rows.hpp"
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
    detail::check_column_importance<Arch>(importance, w.extent(1));
    detail::block_rows{importance, on_non_finite}.encode(block_encoder<F, Arch>{}, w, target, ex);
    return {};
  }

  /// Shapes    w [n, k]; target [n, k].
  /// Cost      four passes per row, parallel over rows; two floats of memory per group of 32
  ///           weights.
  /// Throws    as above; out_of_memory.
  template <shifted_row_format F, class Arch>
  policy_report apply(weights_view w, row_scaled_matrix<F, Arch>& target, executor_ref ex) const {
    detail::check_column_importance<Arch>(importance, w.extent(1));
    const detail::block_rows rows{importance, on_non_finite};
    const index_t blocks = w.extent(1) / F::block_size;
    if (blocks == 0) return {};
    tensor<group_fit, 2> groups(uninitialized, w.extent(0), blocks * F::groups);
    ex.for_range(w.extent(0), 1, [&](index_t begin, index_t end) noexcept {
      for (index_t r = begin; r < end; ++r) {
        const auto row = w[r];
        const auto load = [&](index_t b, float* x, float* weight) noexcept {
          for (index_t i = 0; i < F::block_size; ++i) {
            const index_t k = b * F::block_size + i;
            x[i] = rows.finite(row[k]);
            weight[i] = importance.size() != 0 ? importance[k] : 1.0F;
          }
        };
        target.set_scale(r,
                         encode_shifted_row<F, Arch>(blocks, load, &groups(r, 0), target.row(r)));
      }
    });
    return {};
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
