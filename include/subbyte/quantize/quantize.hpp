// SPDX-License-Identifier: Apache-2.0
/// Weights in, quantized matrix out, by a policy.
#pragma once

#include <atomic>
#include <limits>
#include <string>
#include <utility>  // std::move

#include "subbyte/metrics/cost.hpp"
#include "subbyte/metrics/weight_error.hpp"
#include "subbyte/quantize/best.hpp"
#include "subbyte/quantize/concepts.hpp"
#include "subbyte/quantize/reference.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// What quantizing cost, in space and in error.
struct quant_report {
  double bits_per_weight;  ///< everything stored, padding of cut blocks too, over n * k
  error_report error;      ///< of the decoded weights; see metrics/error.hpp
  policy_report policy{};  ///< what the policy says of its work
};

/// A matrix quantized to F, a block format or planar<G, S>, and its report.
template <class F, class Arch>
struct quantized {
  matrix_of<F, Arch> matrix;
  quant_report report;

  [[nodiscard]] SUBBYTE_INLINE auto view() const& noexcept { return matrix.view(); }
  auto view() const&& = delete;
};

namespace detail {

template <class Arch>
[[noreturn, gnu::cold, gnu::noinline]] void reject_target_shape(index_t rows, index_t cols,
                                                                weights_view w) {
  throw_error(errc::bad_shape, "target",
              "is " + std::to_string(rows) + " x " + std::to_string(cols) + ", the weights are " +
                  std::to_string(w.extent(0)) + " x " + std::to_string(w.extent(1)));
}

/// Throws non_finite for the first NaN or Inf in row order.
template <class Arch>
void check_finite(weights_view w, executor_ref ex) {
  constexpr index_t none = std::numeric_limits<index_t>::max();
  std::atomic<index_t> first{none};
  ex.for_range(w.extent(0), 16, [&](index_t begin, index_t end) noexcept {
    for (index_t r = begin; r < end; ++r) {
      const auto row = w[r];
      // x - x is NaN for NaN and Inf, 0 otherwise; the sum costs one pass without branches.
      float poison = 0;
      for (index_t k = 0; k < row.extent(0); ++k) poison += row[k] - row[k];
      if (poison == 0) continue;
      index_t seen = first.load(std::memory_order_relaxed);
      while (r < seen && !first.compare_exchange_weak(seen, r, std::memory_order_relaxed)) {
      }
      return;
    }
  });
  if (first == none) return;
  const auto row = w[first];
  index_t k = 0;
  while (row[k] - row[k] == 0) ++k;
  throw_error(errc::non_finite, "weights",
              "row " + std::to_string(first) + ", column " + std::to_string(k) + " holds " +
                  std::to_string(row[k]) + "; finite weights are required");
}

}  // namespace detail

/// Fills `target` with the quantized weights.
///
/// Shapes    w [n, k], any strides; target [n, k].
/// Numerics  the same bytes for any executor and thread count.
/// Cost      one pass to look for NaN and Inf, then the policy's.
/// Throws    bad_shape when the shapes differ; non_finite; what the policy throws. The target's
///           content is then unspecified, unless the policy says more.
template <class Q = best, class Target, class Arch = arch::native>
requires quantizer_for<Q, Target> policy_report quantize_into(weights_view w, Target& target,
                                                              const Q& policy = {},
                                                              executor_ref ex = serial) {
  if (target.rows() != w.extent(0) || target.cols() != w.extent(1)) {
    detail::reject_target_shape<Arch>(target.rows(), target.cols(), w);
  }
  if (policy.on_non_finite == non_finite::reject) detail::check_finite<Arch>(w, ex);
  return policy.apply(w, target, ex);
}

namespace detail {

template <class F, class Arch, class Q>
[[nodiscard]] quantized<F, Arch> quantize_to(weights_view w, matrix_of<F, Arch> matrix,
                                             const Q& policy, executor_ref ex) {
  const policy_report notes = quantize_into<Q, matrix_of<F, Arch>, Arch>(w, matrix, policy, ex);
  const storage_cost cost{w.size(), 0, matrix.view().size_bytes()};
  const quant_report report{cost.bits_per_weight(), measure_error<Arch>(w, matrix.view(), ex),
                            notes};
  return {std::move(matrix), report};
}

}  // namespace detail

/// The weights as blocks of F, with what that cost.
///
/// Shapes    w [n, k], any strides. k need not be a multiple of F::block_size: the last block of a
///           row is padded.
/// Numerics  the same bytes for any executor and thread count.
/// Cost      the policy's, plus one pass of decoding for the report.
/// Throws    non_finite, naming the first NaN or Inf, unless the policy says zero; out_of_memory;
///           what the policy throws.
template <class F, class Q = best, class Arch = arch::native>
requires block_format<F> && quantizer_for<Q, block_matrix<F, Arch>>
[[nodiscard]] quantized<F, Arch> quantize(weights_view w, const Q& policy = {},
                                          executor_ref ex = serial) {
  return detail::quantize_to<F, Arch>(w, block_matrix<F, Arch>(w.extent(0), w.extent(1)), policy,
                                      ex);
}

/// The weights in a row-scaled format, with what that cost.
///
/// Shapes    w [n, k], any strides; k a multiple of F::block_size.
/// Numerics  the same bytes for any executor and thread count.
/// Cost      the policy's, plus one pass of decoding for the report.
/// Throws    bad_shape for other k; non_finite unless the policy says zero; out_of_memory; what the
///           policy throws.
template <class F, class Q = best, class Arch = arch::native>
requires row_scaled_format<F> && quantizer_for<Q, row_scaled_matrix<F, Arch>>
[[nodiscard]] quantized<F, Arch> quantize(weights_view w, const Q& policy = {},
                                          executor_ref ex = serial) {
  return detail::quantize_to<F, Arch>(w, row_scaled_matrix<F, Arch>(w.extent(0), w.extent(1)),
                                      policy, ex);
}

/// The weights as planes, planar<G, S>, with what that cost.
///
/// Shapes    w [n, k], any strides; groups of shape.group_size along k.
/// Numerics  the same bytes for any executor and thread count.
/// Cost      the policy's, plus one pass of decoding for the report.
/// Throws    bad_argument for a group size that planar_matrix refuses; non_finite unless the policy
///           says zero; out_of_memory; what the policy throws.
template <class P, class Q, class Arch = arch::native>
requires quantizer_for<Q, planar_matrix<typename P::grid, typename P::scale, Arch>>
[[nodiscard]] quantized<P, Arch> quantize(weights_view w, planar_shape shape, const Q& policy,
                                          executor_ref ex = serial) {
  return detail::quantize_to<P, Arch>(w, matrix_of<P, Arch>(w.extent(0), w.extent(1), shape),
                                      policy, ex);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
