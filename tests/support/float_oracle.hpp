// SPDX-License-Identifier: Apache-2.0
/// What a small float type is, said a second time: values by std::ldexp, rounding by search in
/// double.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/minifloat.hpp"

namespace test_support {

/// The three types of ml_dtypes that the library does not name; they exercise the template.
using e3m4 = subbyte::minifloat<3, 4, subbyte::float_specials::ieee>;
using e4m3 = subbyte::minifloat<4, 3, subbyte::float_specials::ieee>;
using e5m2fnuz = subbyte::minifloat<5, 2, subbyte::float_specials::nan_as_negative_zero>;

struct float_layout {
  const char* name;  ///< as in ml_dtypes, where it has the type
  int width;
  int mantissa_bits;
  int bias;
  unsigned max_finite;  ///< code of the largest finite value
  subbyte::float_specials specials;
};

/// Typed in from the standards and not derived from T.
template <class T>
inline constexpr float_layout layout_of{};
template <>
inline constexpr float_layout layout_of<subbyte::half> = {
    "float16", 16, 10, 15, 0x7BFF, subbyte::float_specials::ieee};
template <>
inline constexpr float_layout layout_of<subbyte::bfloat16> = {
    "bfloat16", 16, 7, 127, 0x7F7F, subbyte::float_specials::ieee};
template <>
inline constexpr float_layout layout_of<subbyte::e4m3fn> = {
    "float8_e4m3fn", 8, 3, 7, 0x7E, subbyte::float_specials::nan_only};
template <>
inline constexpr float_layout layout_of<subbyte::e5m2> = {
    "float8_e5m2", 8, 2, 15, 0x7B, subbyte::float_specials::ieee};
template <>
inline constexpr float_layout layout_of<subbyte::e4m3fnuz> = {
    "float8_e4m3fnuz", 8, 3, 8, 0x7F, subbyte::float_specials::nan_as_negative_zero};
template <>
inline constexpr float_layout layout_of<subbyte::e2m1> = {
    "float4_e2m1fn", 4, 1, 1, 0x7, subbyte::float_specials::none};
template <>
inline constexpr float_layout layout_of<subbyte::e3m2> = {
    "float6_e3m2fn", 6, 2, 3, 0x1F, subbyte::float_specials::none};
template <>
inline constexpr float_layout layout_of<subbyte::e2m3> = {
    "float6_e2m3fn", 6, 3, 1, 0x1F, subbyte::float_specials::none};
template <>
inline constexpr float_layout layout_of<e3m4> = {
    "float8_e3m4", 8, 4, 3, 0x6F, subbyte::float_specials::ieee};
template <>
inline constexpr float_layout layout_of<e4m3> = {
    "float8_e4m3", 8, 3, 7, 0x77, subbyte::float_specials::ieee};
template <>
inline constexpr float_layout layout_of<e5m2fnuz> = {
    "float8_e5m2fnuz", 8, 2, 16, 0x7F, subbyte::float_specials::nan_as_negative_zero};

inline unsigned sign_bit(const float_layout& type) { return 1U << (type.width - 1); }

/// Value of a code without its sign, as if no code were special.
inline double magnitude_value(const float_layout& type, unsigned magnitude) {
  const unsigned hidden = 1U << type.mantissa_bits;
  const unsigned fraction = magnitude % hidden;
  const int field = static_cast<int>(magnitude / hidden);
  return field == 0 ? std::ldexp(fraction, 1 - type.bias - type.mantissa_bits)
                    : std::ldexp(hidden + fraction, field - type.bias - type.mantissa_bits);
}

/// Value of a code: NaN and infinities included.
inline double code_value(const float_layout& type, unsigned code) {
  const bool negative = (code & sign_bit(type)) != 0;
  const unsigned magnitude = code & (sign_bit(type) - 1);
  double value = magnitude_value(type, magnitude);
  if (magnitude > type.max_finite) {
    const bool infinite =
        type.specials == subbyte::float_specials::ieee && magnitude == type.max_finite + 1;
    value = infinite ? std::numeric_limits<double>::infinity()
                     : std::numeric_limits<double>::quiet_NaN();
  }
  if (type.specials == subbyte::float_specials::nan_as_negative_zero && code == sign_bit(type)) {
    value = std::numeric_limits<double>::quiet_NaN();
  }
  return std::copysign(value, negative ? -1.0 : 1.0);
}

/// Rounding to nearest, ties to the even code, by search among all values. The value after the
/// largest finite one takes part, so that overflow begins where the standards say.
class nearest_oracle {
 public:
  explicit nearest_oracle(const float_layout& type) : type_(type) {
    for (unsigned magnitude = 0; magnitude <= type.max_finite + 1; ++magnitude) {
      values_.push_back(magnitude_value(type, magnitude));
    }
  }

  /// All finite magnitudes in order of their codes, then the first that overflows.
  [[nodiscard]] const std::vector<double>& values() const { return values_; }

  [[nodiscard]] unsigned code(float x, bool saturating) const {
    using subbyte::float_specials;
    const unsigned sign = std::signbit(x) ? sign_bit(type_) : 0U;
    const bool saturates = saturating || type_.specials == float_specials::none;
    if (std::isnan(x)) {
      if (type_.specials == float_specials::none) return type_.max_finite;
      return not_a_number(sign);
    }
    // A midpoint has one significant bit more than the values, so it is exact in double.
    const double magnitude = std::fabs(static_cast<double>(x));
    unsigned result = type_.max_finite + 1;
    if (magnitude < values_.back()) {
      const auto above = std::upper_bound(values_.begin(), values_.end(), magnitude);
      const auto lower = static_cast<unsigned>(above - values_.begin()) - 1;
      const double middle = (values_[lower] + values_[lower + 1]) / 2;
      const bool up = magnitude > middle || (magnitude == middle && lower % 2 == 1);
      result = up ? lower + 1 : lower;
    }
    if (result > type_.max_finite) {
      if (saturates) return sign | type_.max_finite;
      // The code after the largest finite one is Inf or the NaN of an "fn" type.
      return type_.specials == float_specials::nan_as_negative_zero ? sign_bit(type_)
                                                                    : sign | result;
    }
    if (type_.specials == float_specials::nan_as_negative_zero && result == 0) return 0;
    return sign | result;
  }

 private:
  [[nodiscard]] unsigned not_a_number(unsigned sign) const {
    switch (type_.specials) {
      case subbyte::float_specials::ieee:  // quiet, no payload
        return sign | (type_.max_finite + 1) | (1U << (type_.mantissa_bits - 1));
      case subbyte::float_specials::nan_only:
        return sign | (type_.max_finite + 1);
      default:
        return sign_bit(type_);
    }
  }

  float_layout type_;
  std::vector<double> values_;
};

/// The nearest multiple of the type's step at x, by an addition in double; no upper limit. Quick
/// enough for all binary32 values, and unlike both the library and nearest_oracle.
class step_oracle {
 public:
  explicit step_oracle(const float_layout& type)
      : smallest_normal_(std::ldexp(1.0, 1 - type.bias)),
        magic_(std::ldexp(1.5, 52 - type.mantissa_bits)) {}

  [[nodiscard]] double rounded(double x) const {
    const auto exponent_only = __builtin_bit_cast(std::uint64_t, x) & 0x7FF0000000000000ULL;
    const double binade = std::max(__builtin_bit_cast(double, exponent_only), smallest_normal_);
    const double shift = binade * magic_;  // exact, so fusing it with the addition changes nothing
    return (x + shift) - shift;
  }

 private:
  double smallest_normal_;
  double magic_;
};

}  // namespace test_support
