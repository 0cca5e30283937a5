// SPDX-License-Identifier: Apache-2.0
/// Grids: what the codes of a group of weights mean, where scales and zero points are stored beside
/// the codes and not in a block with them.
#pragma once

#include <concepts>

#include "subbyte/format/codebook.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// How the code that decodes to zero is stored.
enum class zero_points {
  none,     ///< not at all: it is the middle code, 2^(bits - 1)
  integer,  ///< per group, a code
  real      ///< per group, a real number, which need not be a code (HQQ)
};

/// The meaning of the codes of one group: 2^bits values that params place.
///
/// Laws, checked by tests/format/grid.cpp: round(value(c)) is a code of the same value; round is
/// nearest up to the rounding of w / scale.
template <class G>
concept group_grid = requires(const typename G::params& p, const float* x, index_t n, float v,
                              int code) {
  { G::bits } -> std::convertible_to<int>;
  { G::zeros } -> std::convertible_to<zero_points>;
  { p.scale } -> std::convertible_to<float>;
  { G::value(code, p) }
  noexcept->std::same_as<float>;
  { G::round(v, p) }
  noexcept->std::same_as<int>;
  { G::template fit<arch::scalar>(x, x, n) }
  noexcept->std::same_as<typename G::params>;  // weights, importance or null, count
};

/// Evenly spaced values around a zero point: w = scale * (code - zero).
///
/// Numerics  the subtraction is exact unless zero is real; the product rounds once, and not at all
///           under an fp16 scale.
/// Source    GPTQ (arXiv 2210.17323) and its checkpoints; AWQ, compressed-tensors, ONNX Runtime and
///           HQQ store the same grid.
template <int Bits, zero_points Zeros = zero_points::integer>
struct int_grid {
  static_assert(Bits >= 1 && Bits <= 8, "codes are stored in bytes");
  static constexpr int bits = Bits;
  static constexpr zero_points zeros = Zeros;
  static constexpr int last_code = (1 << Bits) - 1;
  /// The zero point where none is stored.
  static constexpr int middle_code = 1 << (Bits - 1);

  /// zero is middle_code where none is stored and a code where integers are.
  struct params {
    float scale;
    float zero;
  };

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, const params& p) noexcept {
    return p.scale * (static_cast<float>(code) - p.zero);
  }

  /// w / scale rounded half to even, raised by the zero point (a real one before rounding) and
  /// limited to the codes; a scale of 0 gives the code nearest to zero.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float w, const params& p) noexcept {
    constexpr float limit = 65536.0F;  // beyond every code, within rint_even
    float steps = p.scale != 0 ? w / p.scale : 0.0F;
    steps = steps > limit ? limit : (steps < -limit ? -limit : steps);
    if constexpr (Zeros == zero_points::real) {
      const float code = steps + p.zero;
      return clamp(rint_even(code > limit ? limit : (code < -limit ? -limit : code)), 0, last_code);
    } else {
      return clamp(rint_even(steps) + static_cast<int>(p.zero), 0, last_code);
    }
  }

  /// The range of the weights, with zero in it, over all codes. Importance changes nothing.
  ///
  /// Without stored zero points the range is made symmetric: the step is 2 max |w| / last_code, so
  /// that the extreme weight lies half a step from two codes. An all-zero group gets the range
  /// [-1, 1]; with real zero points the scale 1 and the zero point 0.
  /// Source  IST-DASLab/gptq quant.py, find_params; unlike there, a symmetric group without a
  ///         negative weight is not cut to half its range.
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* /*importance*/,
                                                 index_t n) noexcept {
    closed_interval range{0, 0};
    for (index_t at = 0; at < n; at += fit_piece) {
      range =
          extended<Arch>(range, w + at, static_cast<int>(n - at < fit_piece ? n - at : fit_piece));
    }
    return spanning(range);
  }

  /// The params whose codes span an interval that holds zero.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr params spanning(closed_interval range) noexcept {
    if constexpr (Zeros == zero_points::none) {
      const float most = range.high > -range.low ? range.high : -range.low;
      range = {-most, most};
    }
    if (range.low == 0 && range.high == 0 && Zeros != zero_points::real) range = {-1.0F, 1.0F};
    constexpr auto last = static_cast<float>(last_code);
    const float span = range.high - range.low;
    const float scale = span - span == 0 ? span / last : range.high / last - range.low / last;
    if constexpr (Zeros == zero_points::none) return {scale, static_cast<float>(middle_code)};
    // A real zero point may lie between codes: a group of nothing gets one that is a code.
    if (scale == 0) return {Zeros == zero_points::real ? 1.0F : 0.0F, 0.0F};
    const float zero = -range.low / scale;
    if constexpr (Zeros == zero_points::real) return {scale, zero};
    return {scale, static_cast<float>(clamp(rint_even(zero), 0, last_code))};
  }

 private:
  static constexpr index_t fit_piece = index_t{1} << 20;  // extended() counts in int
};

/// The values of a codebook times a scale: w = scale * C::value(code).
///
/// Source  bitsandbytes' NF4 and FP4, ggml's IQ4, OCP's MXFP4 as grids of any group size.
template <codebook C>
struct codebook_grid {
  static constexpr int bits = C::bits;
  static constexpr zero_points zeros = zero_points::none;
  static constexpr int last_code = (1 << C::bits) - 1;

  struct params {
    float scale;
  };

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, const params& p) noexcept {
    return p.scale * C::value(code);
  }
  /// The codebook's nearest to w / scale; a scale of 0 gives its nearest to 0.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float w, const params& p) noexcept {
    return C::nearest(p.scale != 0 ? w / p.scale : 0.0F);
  }

  /// The scale that puts the largest magnitude on the codebook's largest. Importance changes
  /// nothing.
  ///
  /// Where the codebook reaches further on one side, the extreme weight goes there, and the scale
  /// is negative if its sign is the other.
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* /*importance*/,
                                                 index_t n) noexcept {
    float extreme = 0;
    for (index_t i = 0; i < n; ++i) extreme = magnitude(w[i]) > magnitude(extreme) ? w[i] : extreme;
    return reaching(extreme);
  }

  /// The params that put a group's weight of largest magnitude on the codebook's largest value.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr params reaching(float extreme) noexcept {
    float low = 0;
    float high = 0;
    for (int code = 0; code <= last_code; ++code) {
      low = C::value(code) < low ? C::value(code) : low;
      high = C::value(code) > high ? C::value(code) : high;
    }
    if (low == -high) return {magnitude(extreme) / high};
    return {extreme / (-low > high ? low : high)};
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
