// SPDX-License-Identifier: Apache-2.0
/// The error of a quantized matrix against the weights it was made from.
#pragma once

#include "subbyte/matrix/concepts.hpp"
#include "subbyte/metrics/error.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The error of decoded blocks as an estimate of the weights.
///
/// Shapes    signal [n, k], any strides; estimate [n, k].
/// Numerics  double; the same bits for any executor.
/// Cost      decodes every block once; parallel over rows; no allocation.
/// Throws    what the executor throws.
template <class Arch = arch::native, quantized_matrix M>
[[nodiscard]] error_report measure_error(
    std::type_identity_t<tensor_view<const float, 2, strided>> signal, M estimate,
    executor_ref ex = serial) {
  SUBBYTE_EXPECTS(signal.extent(0) == estimate.rows() && signal.extent(1) == estimate.cols());
  return detail::sum_pieces<Arch>(
             estimate.rows(), 1, ex,
             [&](error_sums& sums, index_t begin, index_t end) noexcept {
               constexpr index_t chunk = 256;
               float decoded[chunk];
               float gathered[chunk];
               for (index_t r = begin; r < end; ++r) {
                 const auto row = signal[r];
                 for (index_t k0 = 0; k0 < estimate.cols(); k0 += chunk) {
                   const index_t n = estimate.cols() - k0 < chunk ? estimate.cols() - k0 : chunk;
                   estimate.template decode_row<Arch>(r, k0, n, decoded);
                   for (index_t i = 0; i < n; ++i) gathered[i] = row[k0 + i];
                   sums.add<Arch>({gathered, n}, {decoded, n});
                 }
               }
             })
      .report();
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
