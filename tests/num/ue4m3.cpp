// SPDX-License-Identifier: Apache-2.0
/// ue4m3: all codes, and rounding at every midpoint.
#include "subbyte/num/ue4m3.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>

#include "support/catch.hpp"
#include "support/float_oracle.hpp"
#include "support/tally.hpp"

using subbyte::bit_cast;
using subbyte::e4m3fn;
using subbyte::ue4m3;
using test_support::nearest_oracle;
using test_support::tally;

namespace {

constexpr bool round_trips() {
  for (int code = 0; code < 128; ++code) {
    const ue4m3 scale = ue4m3::from_bits(static_cast<std::uint8_t>(code));
    if (!(ue4m3::nearest(scale.to_float()) == scale)) return false;
  }
  return true;
}
static_assert(round_trips());
static_assert(ue4m3::max_finite().to_float() == 448.0F);
static_assert(std::is_trivially_copyable_v<ue4m3> && std::is_standard_layout_v<ue4m3> &&
              std::is_aggregate_v<ue4m3> && sizeof(ue4m3) == 1);

void compare(tally& codes, const nearest_oracle& oracle, float x) {
  unsigned required = oracle.code(x, true) & 0x7FU;
  if (std::signbit(x) && !std::isnan(x)) required = 0;
  codes.compare(bit_cast<std::uint32_t>(x), ue4m3::nearest(x).bits, required);
}

}  // namespace

TEST_CASE("ue4m3: every code has the value of e4m3fn's lower seven bits", "[num]") {
  const auto& type = test_support::layout_of<e4m3fn>;
  for (unsigned code = 0; code < 256; ++code) {
    CAPTURE(code);
    const ue4m3 scale = ue4m3::from_bits(static_cast<std::uint8_t>(code));
    const double required = test_support::code_value(type, code & 0x7FU);
    CHECK(scale.is_nan() == std::isnan(required));
    CHECK(std::isnan(scale.to_float()) == std::isnan(required));
    if (!std::isnan(required)) {
      CHECK(static_cast<double>(scale.to_float()) == required);
      CHECK_FALSE(std::signbit(scale.to_float()));
    }
  }
}

TEST_CASE("ue4m3: rounding is to nearest, ties to even, saturating, without a sign", "[num]") {
  const float infinity = std::numeric_limits<float>::infinity();
  const nearest_oracle oracle(test_support::layout_of<e4m3fn>);
  tally codes;
  const auto& values = oracle.values();
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    for (const double exact : {values[i], (values[i] + values[i + 1]) / 2, values[i + 1]}) {
      const auto x = static_cast<float>(exact);
      for (const float y : {x, std::nextafter(x, -infinity), std::nextafter(x, infinity)}) {
        compare(codes, oracle, y);
        compare(codes, oracle, -y);
      }
    }
  }
  std::mt19937_64 generator(20240613);
  for (int i = 0; i < 200000; ++i) {
    compare(codes, oracle, bit_cast<float>(static_cast<std::uint32_t>(generator())));
  }
  CHECK(codes.report() == "all equal");
}

TEST_CASE("ue4m3: zero, negative values, overflow, Inf and NaN are as documented", "[num]") {
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float x : {0.0F, -0.0F, -1.0F, -1e-30F, -448.0F, -1e30F, -infinity}) {
    CAPTURE(x);
    CHECK(unsigned{ue4m3::nearest(x).bits} == 0);
  }
  for (const float x : {448.0F, 464.1F, 1e30F, infinity}) {
    CAPTURE(x);
    CHECK(unsigned{ue4m3::nearest(x).bits} == 0x7E);
  }
  for (const std::uint32_t bits : {0x7FC00000U, 0xFFC00000U, 0x7F800001U, 0xFFFFFFFFU}) {
    CAPTURE(bits);
    CHECK(unsigned{ue4m3::nearest(bit_cast<float>(bits)).bits} == 0x7F);
  }
}
