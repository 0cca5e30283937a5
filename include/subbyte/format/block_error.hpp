// SPDX-License-Identifier: Apache-2.0
/// The error of one encoded block, and when one is safely below another.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/num/float_lanes.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The sum of the lanes, by halves.
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE float lane_sum(const float_lanes<Arch, 16>& v) noexcept {
  float values[16];
  v.store(values);
  for (int width = 8; width > 0; width /= 2) {
    for (int k = 0; k < width; ++k) values[k] += values[k + width];
  }
  return values[0];
}

/// The weights of n squared errors: the importance, or 1 where none is given.
template <class Arch>
SUBBYTE_INLINE void error_weights(int n, const float* importance, float* out) noexcept {
  for (int i = 0; i < n; ++i) out[i] = importance != nullptr ? importance[i] : 1.0F;
}

/// Sum of weight * (x - w_hat)^2 over a block.
///
/// Requires  F::block_size is a multiple of 16.
/// Numerics  fp32; each term and the sums of 16 lanes round, so the relative error is below
///           (F::block_size / 16 + 8) * 2^-24 where nothing over- or underflows.
template <class F, class Arch>
[[nodiscard]] float block_error(const F& block, const float* x, const float* weight) noexcept {
  using lanes = float_lanes<Arch, 16>;
  float back[F::block_size];
  decode(block, back);
  lanes sum = lanes::broadcast(0);
  for (int i = 0; i < F::block_size; i += 16) {
    const lanes difference = lanes::load(back + i) - lanes::load(x + i);
    sum = sum + unfused(difference * difference * lanes::load(weight + i));
  }
  return lane_sum<Arch>(sum);
}

/// Whether one sum of errors is below another whatever the roundings of both: sums of at most 64
/// roundings each, that is 2^-18, and no term that has lost digits to underflow.
[[nodiscard]] SUBBYTE_INLINE bool clearly_lower(float error, float than) noexcept {
  constexpr float tiny = 1e-28F;
  return error < than - than * 0x1p-16F && than > tiny && than - than == 0;
}

/// Whichever of two blocks has the lower error, `reference` unless the other's is clearly lower.
template <class F, class Arch>
[[nodiscard]] SUBBYTE_INLINE F lower_of(const F& reference, const F& other, const float* x,
                                        const float* weight) noexcept {
  const float error = block_error<F, Arch>(other, x, weight);
  return clearly_lower(error, block_error<F, Arch>(reference, x, weight)) ? other : reference;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
