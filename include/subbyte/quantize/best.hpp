// SPDX-License-Identifier: Apache-2.0
/// The default policy: blocks of a lower error than the reference encoder's, as large and as
/// readable.
#pragma once

#include <string>

#include "subbyte/format/best_encoder.hpp"
#include "subbyte/quantize/block_rows.hpp"
#include "subbyte/quantize/reference.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Never a larger error than `reference` given the same importance, row by row, and a lower one on
/// average: sum (w - w_hat)^2, or with importance sum importance * (w - w_hat)^2, which is honoured
/// also where the format's own tool ignores it.
///
/// importance     one weight >= 0 per column [k], e.g. the mean of the squared activations; empty:
///                all columns count the same
/// effort         1 .. 3: how much the search tries (docs/methods/best.md has times and errors)
/// on_non_finite  NaN and Inf among the weights: an error, or zero
///
/// A row whose length is no multiple of the block is padded with zeros of importance zero.
/// Formats without a search (floats, q8_1, q8_k, ik_llama.cpp's) get what `reference` gives.
struct best {
  vector_view<const float> importance{};
  int effort = 1;
  non_finite on_non_finite = non_finite::reject;

  /// Shapes    w [n, k]; target [n, k].
  /// Numerics  the same bytes on every compiler, flag, arch and executor.
  /// Cost      one pass per row, parallel over rows; stack only, and for formats that search in
  ///           tables those, which are made once per call.
  /// Throws    bad_argument for another effort; bad_shape when importance is neither empty nor
  ///           [k]; non_finite when it holds a negative, NaN or Inf.
  template <block_format F, class Arch>
  policy_report apply(weights_view w, block_matrix<F, Arch>& target, executor_ref ex) const {
    check_effort<Arch>();
    detail::check_column_importance<Arch>(importance, w.extent(1));
    const best_encoder<F, Arch> encoder(effort);
    detail::block_rows{importance, on_non_finite}.encode(encoder, w, target, ex);
    return {};
  }

  /// What `reference` gives.
  template <row_scaled_format F, class Arch>
  requires quantizer_for<reference, row_scaled_matrix<F, Arch>> policy_report
  apply(weights_view w, row_scaled_matrix<F, Arch>& target, executor_ref ex)
  const {
    check_effort<Arch>();
    return reference{importance, on_non_finite}.apply(w, target, ex);
  }

 private:
  template <class Arch>
  void check_effort() const {
    if (effort >= 1 && effort <= 3) return;
    throw_error(errc::bad_argument, "effort",
                "is " + std::to_string(effort) + "; 1, 2 or 3 is required");
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
