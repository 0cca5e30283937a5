// SPDX-License-Identifier: Apache-2.0
/// What a quantizer policy is: an aggregate that holds its data and fills a matrix of blocks.
#pragma once

#include "subbyte/exec/executor.hpp"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/concepts.hpp"
#include "subbyte/matrix/planar_matrix.hpp"
#include "subbyte/matrix/row_scaled_matrix.hpp"
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

/// What a policy did beyond what it was asked; all zero for most.
struct policy_report {
  float damp = 0;            ///< of the Hessian's mean diagonal, as used in the end
  index_t dead_columns = 0;  ///< inputs that the calibration data never saw
  bool fell_back = false;    ///< the policy's own fallback was taken
  double objective = 0;      ///< what the policy minimised, where it knows it
};

/// A policy for Target: checks its own data against w, throws subbyte::error on bad input, and
/// fills every group of a target of the same shape. The result does not depend on the executor.
template <class Q, class Target>
concept quantizer_for = requires(const Q& q, weights_view w, Target& target, executor_ref ex) {
  { q.apply(w, target, ex) } -> std::same_as<policy_report>;
  { q.on_non_finite } -> std::convertible_to<non_finite>;
};

namespace detail {

template <class F, class Arch>
struct owner_of {
  using type = block_matrix<F, Arch>;
};
template <row_scaled_format F, class Arch>
struct owner_of<F, Arch> {
  using type = row_scaled_matrix<F, Arch>;
};
template <class G, class S, class Arch>
struct owner_of<planar<G, S>, Arch> {
  using type = planar_matrix<G, S, Arch>;
};

}  // namespace detail

/// The owner that weights in the format F, a block format, a row-scaled one or planar<G, S>, are
/// stored in.
template <class F, class Arch>
using matrix_of = typename detail::owner_of<F, Arch>::type;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
