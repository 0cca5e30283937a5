// SPDX-License-Identifier: Apache-2.0
/// e8m0: all codes, and each conversion against a search over the powers of two, the ml_dtypes
/// tables and the CUDA toolkit's host headers.
#include "subbyte/num/e8m0.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <vector>

#include "subbyte/num/half.hpp"
#include "support/catch.hpp"
#include "support/float_environment.hpp"
#include "support/safetensors_bytes.hpp"
#include "support/tally.hpp"

#if defined(SUBBYTE_HAVE_CUDA_HEADERS)
#define CUDA_NO_HALF  // no ::half of theirs
#include <cuda_fp8.h>
#endif

using subbyte::bit_cast;
using subbyte::e8m0;
using test_support::tally;

namespace {

constexpr bool round_trips() {
  for (int code = 0; code < 255; ++code) {
    const e8m0 scale = e8m0::from_bits(static_cast<std::uint8_t>(code));
    const float value = scale.to_float();
    if (!(e8m0::floor(value) == scale)) return false;
    if (!(e8m0::round_up(value) == scale)) return false;
    if (!(e8m0::nearest(value) == scale)) return false;
  }
  return true;
}
static_assert(round_trips());
static_assert(e8m0::floor(6.0F).to_float() == 4.0F);
static_assert(e8m0::round_up(4.0001F).to_float() == 8.0F);
static_assert(e8m0::nearest(6.0F).to_float() == 8.0F);
static_assert(e8m0::nearest(5.9F).to_float() == 4.0F);
static_assert(std::is_trivially_copyable_v<e8m0> && std::is_standard_layout_v<e8m0> &&
              std::is_aggregate_v<e8m0> && sizeof(e8m0) == 1);

double scale_value(int code) { return std::ldexp(1.0, code - 127); }

int required_floor(double magnitude) {
  if (!std::isfinite(magnitude)) return 255;
  int code = 0;
  while (code < 254 && scale_value(code + 1) <= magnitude) ++code;
  return code;
}

int required_round_up(double magnitude) {
  if (!std::isfinite(magnitude)) return 255;
  int code = 0;
  while (code < 254 && scale_value(code) < magnitude) ++code;
  return code;
}

int required_nearest(double magnitude) {
  if (!std::isfinite(magnitude)) return 255;
  // Stated exception: nothing but 2^-127 itself and what is smaller goes down to code 0.
  if (magnitude <= scale_value(0)) return 0;
  if (magnitude < scale_value(1)) return 1;
  int code = 1;
  while (code < 255 && 1.5 * scale_value(code) <= magnitude) ++code;
  return code;
}

/// Around every power of two and every 1.5 times one, the lowest binades, specials, random bits.
std::vector<std::uint32_t> inputs() {
  std::vector<std::uint32_t> result;
  const auto add = [&](std::uint32_t magnitude) {
    result.push_back(magnitude);
    result.push_back(magnitude | 0x80000000U);
  };
  for (std::uint32_t field = 0; field < 255; ++field) {
    for (const std::uint32_t fraction :
         {0U, 1U, 0x1FFFFFU, 0x200000U, 0x200001U, 0x3FFFFFU, 0x400000U, 0x400001U, 0x5FFFFFU,
          0x600000U, 0x600001U, 0x7FFFFFU}) {
      add((field << 23) | fraction);
    }
  }
  for (const std::uint32_t bits : {0x7F800000U, 0x7F800001U, 0x7FC00000U, 0x7FFFFFFFU}) add(bits);
  std::mt19937_64 generator(20240612);
  for (int i = 0; i < 20000; ++i) result.push_back(static_cast<std::uint32_t>(generator()));
  return result;
}

}  // namespace

TEST_CASE("e8m0: every code is its power of two, built from bits", "[num]") {
  for (int code = 0; code < 255; ++code) {
    const e8m0 scale = e8m0::from_bits(static_cast<std::uint8_t>(code));
    CAPTURE(code);
    CHECK(static_cast<double>(scale.to_float()) == scale_value(code));
    CHECK_FALSE(scale.is_nan());
  }
  CHECK(bit_cast<std::uint32_t>(e8m0::from_bits(0).to_float()) == 0x00400000U);
  CHECK(bit_cast<std::uint32_t>(e8m0::from_bits(255).to_float()) == 0x7FC00000U);
  CHECK(e8m0::from_bits(255).is_nan());
}

TEST_CASE("e8m0: the three conversions equal a search over the powers of two", "[num]") {
  tally floor;
  tally up;
  tally nearest;
  for (const std::uint32_t bits : inputs()) {
    const float x = bit_cast<float>(bits);
    const double magnitude = std::fabs(static_cast<double>(x));
    floor.compare(bits, e8m0::floor(x).bits, static_cast<unsigned>(required_floor(magnitude)));
    up.compare(bits, e8m0::round_up(x).bits, static_cast<unsigned>(required_round_up(magnitude)));
    nearest.compare(bits, e8m0::nearest(x).bits,
                    static_cast<unsigned>(required_nearest(magnitude)));
  }
  CHECK(floor.report() == "all equal");
  CHECK(up.report() == "all equal");
  CHECK(nearest.report() == "all equal");
}

TEST_CASE("e8m0: zero, the ends of the range, NaN and Inf are as documented", "[num]") {
  const float infinity = std::numeric_limits<float>::infinity();
  const float largest = std::numeric_limits<float>::max();
  const float smallest = std::numeric_limits<float>::denorm_min();
  for (const float sign : {1.0F, -1.0F}) {
    CAPTURE(sign);
    CHECK(unsigned{e8m0::floor(sign * 0.0F).bits} == 0);
    CHECK(unsigned{e8m0::round_up(sign * 0.0F).bits} == 0);
    CHECK(unsigned{e8m0::nearest(sign * 0.0F).bits} == 0);
    CHECK(unsigned{e8m0::round_up(sign * smallest).bits} == 0);
    CHECK(unsigned{e8m0::floor(sign * largest).bits} == 254);
    CHECK(unsigned{e8m0::round_up(sign * largest).bits} == 254);
    CHECK(unsigned{e8m0::nearest(sign * largest).bits} == 255);
    CHECK(e8m0::floor(sign * infinity).is_nan());
    CHECK(e8m0::round_up(sign * infinity).is_nan());
    CHECK(e8m0::nearest(sign * infinity).is_nan());
  }
}

TEST_CASE("e8m0: neither rounding mode nor flush-to-zero changes a bit", "[num]") {
  const auto body = [] {
    for (int code = 0; code < 255; ++code) {
      const std::uint32_t wide = code == 0 ? 0x00400000U : static_cast<std::uint32_t>(code) << 23;
      const e8m0 scale = e8m0::from_bits(static_cast<std::uint8_t>(code));
      if (bit_cast<std::uint32_t>(scale.to_float()) != wide) return false;
      if (!(e8m0::floor(bit_cast<float>(wide)) == scale)) return false;
      if (!(e8m0::round_up(bit_cast<float>(wide)) == scale)) return false;
      if (!(e8m0::nearest(bit_cast<float>(wide)) == scale)) return false;
    }
    return true;
  };
  CHECK(test_support::in_every_float_environment(body));
}

#if defined(SUBBYTE_TEST_HAS_SAFETENSORS)

namespace {

/// What ml_dtypes is to give where this library gives `code`: there zero and everything with a sign
/// is NaN.
unsigned as_ml_dtypes(float x, unsigned code) { return x > 0.0F ? code : 255; }

}  // namespace

TEST_CASE("e8m0: nearest and to_float equal ml_dtypes for positive values", "[num][golden]") {
  const test_support::safetensors_bytes decode("ml_dtypes/decode.safetensors");
  const auto values = decode.elements<std::uint32_t>("float8_e8m0fnu");
  REQUIRE(values.size() == 256);
  for (unsigned code = 0; code < 256; ++code) {
    const float found = e8m0::from_bits(static_cast<std::uint8_t>(code)).to_float();
    if (code == 255) {
      CHECK(std::isnan(bit_cast<float>(values[code])));
    } else {
      CHECK(bit_cast<std::uint32_t>(found) == values[code]);
    }
  }

  const test_support::safetensors_bytes special("ml_dtypes/special_f32_inputs.safetensors");
  const auto bits = special.elements<std::uint32_t>("input_f32_bits");
  const auto codes = special.elements<std::uint8_t>("float8_e8m0fnu");
  REQUIRE(bits.size() == codes.size());
  tally specials;
  for (std::size_t i = 0; i < bits.size(); ++i) {
    const float x = bit_cast<float>(bits[i]);
    specials.compare(bits[i], as_ml_dtypes(x, e8m0::nearest(x).bits), codes[i]);
  }
  CHECK(specials.report() == "all equal");

  const test_support::safetensors_bytes halves("ml_dtypes/all_f16_inputs.safetensors");
  const auto starts = halves.elements<std::uint32_t>("float8_e8m0fnu.start");
  const auto run_codes = halves.elements<std::uint8_t>("float8_e8m0fnu.code");
  REQUIRE(starts.size() == run_codes.size());
  tally all_halves;
  std::size_t run = 0;
  for (std::uint32_t pattern = 0; pattern < 65536; ++pattern) {
    if (run + 1 < starts.size() && starts[run + 1] == pattern) ++run;
    const float x = subbyte::half::from_bits(static_cast<std::uint16_t>(pattern)).to_float();
    all_halves.compare(pattern, as_ml_dtypes(x, e8m0::nearest(x).bits), run_codes[run]);
  }
  CHECK(all_halves.report() == "all equal");
}

#endif  // SUBBYTE_TEST_HAS_SAFETENSORS

#if defined(SUBBYTE_HAVE_CUDA_HEADERS)

TEST_CASE("e8m0: floor and round_up equal the CUDA toolkit's host conversions",
          "[num][cuda_headers]") {
  tally floor;
  tally up;
  for (const std::uint32_t bits : inputs()) {
    const float x = bit_cast<float>(bits);
    floor.compare(bits, e8m0::floor(x).bits, __nv_cvt_float_to_e8m0(x, __NV_NOSAT, cudaRoundZero));
    // Saturating takes Inf to the largest scale in the toolkit; here Inf is NaN.
    const unsigned required = __nv_cvt_float_to_e8m0(x, __NV_SATFINITE, cudaRoundPosInf);
    if (std::isinf(x)) {
      up.compare(bits, required, 254);
      up.compare(bits, e8m0::round_up(x).bits, 255);
    } else {
      up.compare(bits, e8m0::round_up(x).bits, required);
    }
  }
  CHECK(floor.report() == "all equal");
  CHECK(up.report() == "all equal");
  for (unsigned code = 0; code < 255; ++code) {
    const std::uint32_t required = __nv_cvt_e8m0_to_bf16raw(static_cast<std::uint8_t>(code)).x;
    const e8m0 scale = e8m0::from_bits(static_cast<std::uint8_t>(code));
    CHECK(bit_cast<std::uint32_t>(scale.to_float()) == required << 16);
  }
}

#endif  // SUBBYTE_HAVE_CUDA_HEADERS
