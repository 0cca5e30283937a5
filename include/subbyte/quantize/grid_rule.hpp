// SPDX-License-Identifier: Apache-2.0
/// How the published tools place an integer grid over a group of weights: the same idea five times,
/// with other roundings and other corner cases.
#pragma once

#include "subbyte/format/grid.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Whose formula gives scale, zero point and codes; b bits, Q = 2^b - 1, [low, high] the range.
///
/// | rule               | range             | symmetric scale           | asymmetric |
/// |--------------------|-------------------|---------------------------|-----------------------------|
/// | target             | with zero         | 2 max|w| / Q              | (high - low) / Q | | gptq
/// | with zero         | max|w| / Q if no w < 0    | the same                    | | awq | as it is
/// | max|w| / (2^(b-1) - 1)    | zero limited to the codes   | | compressed_tensors | with zero | 2
/// max|w| / Q              | zero added before rounding  | | onnx               | with zero |
/// extreme / -2^(b-1)        | w * (1 / scale)             |
enum class grid_rule {
  target,              ///< the target's own fit: any target
  gptq,                ///< gptqmodel, AutoGPTQ, IST-DASLab; a group without negatives loses half
  awq,                 ///< AutoAWQ, llm-awq; a group away from zero saturates
  compressed_tensors,  ///< compressed-tensors, llm-compressor, in fp32 arithmetic
  onnx                 ///< ONNX Runtime's MatMulNBits; symmetric scales may be negative
};

namespace detail {

template <class Arch>
[[nodiscard]] closed_interval exact_range(const float* w, index_t n) noexcept {
  closed_interval range{w[0], w[0]};
  for (index_t i = 1; i < n; ++i) {
    range.low = w[i] < range.low ? w[i] : range.low;
    range.high = w[i] > range.high ? w[i] : range.high;
  }
  return range;
}

}  // namespace detail

/// The params that a rule gives n >= 1 weights; grid_rule::target gives G::fit's.
///
/// Numerics  fp32, one division per quotient, half to even.
/// Source    gptqmodel quantization/quantizer.py; AutoAWQ quantize/quantizer.py;
///           compressed-tensors quantization/utils/helpers.py; ONNX Runtime
///           core/mlas/lib/q4_dq.cpp.
template <class Arch, class G>
[[nodiscard]] typename G::params rule_params(grid_rule rule, const float* w, index_t n) noexcept {
  static_assert(G::zeros != zero_points::real, "the rules give integer zero points");
  constexpr bool symmetric = G::zeros == zero_points::none;
  constexpr auto last = static_cast<float>(G::last_code);
  constexpr auto middle = static_cast<float>(G::middle_code);
  if (rule == grid_rule::target) return G::template fit<Arch>(w, nullptr, n);
  const closed_interval bare = detail::exact_range<Arch>(w, n);
  closed_interval range{bare.low < 0 ? bare.low : 0.0F, bare.high > 0 ? bare.high : 0.0F};
  const float most = range.high > -range.low ? range.high : -range.low;

  if (rule == grid_rule::awq) {
    constexpr float least = 1e-5F;
    if constexpr (symmetric) {
      // One bit has no positive code: the range of the two codes is that of one.
      const float steps = middle > 1 ? middle - 1 : 1.0F;
      return {(most > least ? most : least) / steps, middle};
    } else {
      const float span = bare.high - bare.low;
      const float scale = (span > least ? span : least) / last;
      const float zero = -bare.low / scale;
      constexpr float limit = 65536.0F;
      return {scale, static_cast<float>(
                         clamp(rint_even(zero > limit ? limit : (zero < -limit ? -limit : zero)), 0,
                               G::last_code))};
    }
  }
  if (rule == grid_rule::onnx) {
    if constexpr (symmetric) {
      const float extreme = -range.low > range.high ? range.low : range.high;
      return {extreme / -middle, middle};
    } else {
      const float scale = (range.high - range.low) / last;
      return {scale, scale != 0 ? static_cast<float>(rint_even(-range.low / scale)) : 0.0F};
    }
  }
  if (rule == grid_rule::compressed_tensors) {
    constexpr float epsilon = 1.1920929e-7F;  // torch.finfo(float32).eps
    if constexpr (symmetric) {
      const float scale = most / (last / 2);
      return {scale != 0 ? scale : epsilon, middle};
    } else {
      const float scale = (range.high - range.low) / last;
      if (scale == 0) return {epsilon, middle};
      const int zero = rint_even(-middle - range.low / scale) + G::middle_code;
      return {scale, static_cast<float>(clamp(zero, 0, G::last_code))};
    }
  }
  if constexpr (symmetric) range = {range.low < 0 ? -most : 0.0F, most};
  if (range.low == 0 && range.high == 0) range = {-1.0F, 1.0F};
  const float scale = (range.high - range.low) / last;
  if constexpr (symmetric) return {scale, middle};
  return {scale, static_cast<float>(clamp(rint_even(-range.low / scale), 0, G::last_code))};
}

/// The code that a rule gives w under its params; G::round's except for compressed_tensors, which
/// rounds w / scale + zero, and onnx, which multiplies by the reciprocal.
template <class G>
[[nodiscard]] SUBBYTE_INLINE int rule_code(grid_rule rule, float w,
                                           const typename G::params& p) noexcept {
  if (rule == grid_rule::compressed_tensors) {
    const float signed_zero = p.zero - static_cast<float>(G::middle_code);
    const float code = (p.scale != 0 ? w / p.scale : 0.0F) + signed_zero;
    constexpr float limit = 65536.0F;
    return clamp(rint_even(code > limit ? limit : (code < -limit ? -limit : code)) + G::middle_code,
                 0, G::last_code);
  }
  if (rule == grid_rule::onnx) {
    const float steps = p.scale != 0 ? unfused(w * (1.0F / p.scale)) : 0.0F;
    constexpr float limit = 65536.0F;
    return clamp(rint_even(steps > limit ? limit : (steps < -limit ? -limit : steps)) +
                     static_cast<int>(p.zero),
                 0, G::last_code);
  }
  return G::round(w, p);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
