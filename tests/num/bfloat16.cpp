// SPDX-License-Identifier: Apache-2.0
/// bfloat16 against Eigen's type. What holds for every minifloat is tested in minifloat.cpp.
#include "subbyte/num/bfloat16.hpp"

#include <cstdint>

#include "support/all_binary32.hpp"
#include "support/catch.hpp"
#include "support/tally.hpp"

#if __has_include(<Eigen/Core>)
#include <Eigen/Core>
#define SUBBYTE_TEST_HAS_EIGEN 1
#endif

using subbyte::bfloat16;
using subbyte::bit_cast;
using test_support::tally;

static_assert(bfloat16::nearest(1.0F).bits == 0x3F80);
static_assert(bfloat16::nearest(1.00390625F).bits == 0x3F80);  // a tie, to even
static_assert(bfloat16::nearest(1.01171875F).bits == 0x3F82);  // a tie, to even
static_assert(bfloat16::nearest(3.4028234e38F).bits == 0x7F80);
static_assert(bfloat16::nearest_saturating(3.4028234e38F) == bfloat16::max_finite());

TEST_CASE("bfloat16: every code is the upper half of its value, NaN payloads included", "[num]") {
  tally values;
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const auto number = bfloat16::from_bits(static_cast<std::uint16_t>(code));
    values.compare(code, bit_cast<std::uint32_t>(number.to_float()), code << 16);
  }
  CHECK(values.report() == "all equal");
}

TEST_CASE("bfloat16: NaN becomes the quiet NaN of its sign", "[num]") {
  CHECK(unsigned{bfloat16::nearest(bit_cast<float>(0x7F800001U)).bits} == 0x7FC0);
  CHECK(unsigned{bfloat16::nearest(bit_cast<float>(0xFFFFFFFFU)).bits} == 0xFFC0);
}

#if defined(SUBBYTE_TEST_HAS_EIGEN)

TEST_CASE("bfloat16: every code has Eigen's value", "[num]") {
  tally values;
  for (unsigned code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float required = static_cast<float>(Eigen::numext::bit_cast<Eigen::bfloat16>(bits));
    values.compare(code, bit_cast<std::uint32_t>(bfloat16::from_bits(bits).to_float()),
                   bit_cast<std::uint32_t>(required));
  }
  CHECK(values.report() == "all equal");
}

namespace {

void compare_with_eigen(tally& codes, std::uint32_t bits) {
  const float x = bit_cast<float>(bits);
  const auto required = Eigen::numext::bit_cast<std::uint16_t>(Eigen::bfloat16(x));
  codes.compare(bits, bfloat16::nearest(x).bits, required);
}

}  // namespace

TEST_CASE("bfloat16: midpoints and their neighbours round as Eigen rounds", "[num]") {
  tally codes;
  for (std::uint32_t code = 0; code < 65536; ++code) {
    const std::uint32_t middle = (code << 16) | 0x8000U;
    for (const std::uint32_t bits : {middle - 1, middle, middle + 1}) {
      compare_with_eigen(codes, bits);
    }
  }
  CHECK(codes.report() == "all equal");
}

TEST_CASE("bfloat16: all binary32 values round as Eigen rounds", "[num][.slow]") {
  CHECK(test_support::over_all_binary32(compare_with_eigen) == "all equal");
}

#endif  // SUBBYTE_TEST_HAS_EIGEN
