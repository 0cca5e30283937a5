// SPDX-License-Identifier: Apache-2.0
/// The policy that gives the bytes of the tool that defined the format.
#pragma once

#include "subbyte/quantize/block_rows.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Byte-identical to the format's own tool (for GGUF types: ggml on x86-64, without contraction).
///
/// importance     one positive weight per column [k], e.g. the mean of the squared activations;
///                empty: none. Formats whose tool ignores it ignore it here.
/// on_non_finite  NaN and Inf among the weights: an error, or zero.
///
/// A row whose length is no multiple of the block is padded with zeros of importance zero.
/// Formats without a normative encoder take nearest codes to their fitted params.
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
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
