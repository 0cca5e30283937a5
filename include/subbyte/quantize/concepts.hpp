// SPDX-License-Identifier: Apache-2.0
/// What a quantizer policy is: an aggregate that holds its data and fills a matrix of blocks.
#pragma once

#include "subbyte/exec/executor.hpp"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Weights as quantizers read them: [n, k], any strides.
using weights_view = tensor_view<const float, 2, strided>;

/// What to do with NaN and Inf among the weights.
enum class non_finite {
  reject,  ///< throw errc::non_finite, naming the first one in row order
  zero     ///< quantize a zero in its place
};

/// A policy for Target: checks its own data against w, throws subbyte::error on bad input, and
/// fills every block of a target of the same shape. The result does not depend on the executor.
template <class Q, class Target>
concept quantizer_for = requires(const Q& q, weights_view w, Target& target, executor_ref ex) {
  q.apply(w, target, ex);
  { q.on_non_finite } -> std::convertible_to<non_finite>;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
