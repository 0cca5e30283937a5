// SPDX-License-Identifier: Apache-2.0
/// half against Eigen's type and the CPU's own conversion instructions. What holds for every
/// minifloat is tested in minifloat.cpp.
#include "subbyte/num/half.hpp"

#include <cmath>
#include <cstdint>

#include "support/all_binary32.hpp"
#include "support/catch.hpp"
#include "support/float_oracle.hpp"
#include "support/tally.hpp"

#if __has_include(<Eigen/Core>)
#include <Eigen/Core>
#define SUBBYTE_TEST_HAS_EIGEN 1
#endif
#if defined(__F16C__)
#include <immintrin.h>
#endif

using subbyte::bit_cast;
using subbyte::half;
using test_support::tally;

static_assert(half::nearest(1.0F).bits == 0x3C00);
static_assert(half::nearest(-2.0F).bits == 0xC000);
static_assert(half::nearest(65504.0F) == half::max_finite());
static_assert(half::nearest(65519.99F).bits == 0x7BFF && half::nearest(65520.0F).bits == 0x7C00);
static_assert(half::nearest_saturating(65520.0F).bits == 0x7BFF);
static_assert(half::from_bits(0x0001).to_float() == 1.0F / 16777216.0F);
static_assert(half::from_bits(0x3555).to_float() == 0.333251953125F);

TEST_CASE("half: NaN keeps sign and payload upwards, and only the sign downwards", "[num]") {
  CHECK(bit_cast<std::uint32_t>(half::from_bits(0x7D23).to_float()) ==
        (0x7F800000U | 0x123U << 13));
  CHECK(bit_cast<std::uint32_t>(half::from_bits(0xFE01).to_float()) ==
        (0xFF800000U | 0x201U << 13));
  CHECK(unsigned{half::nearest(bit_cast<float>(0x7F800001U)).bits} == 0x7E00);
  CHECK(unsigned{half::nearest(bit_cast<float>(0xFFC12345U)).bits} == 0xFE00);
}

#if defined(SUBBYTE_TEST_HAS_EIGEN)

TEST_CASE("half: every code has Eigen's value", "[num]") {
  tally values;
  for (unsigned code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    const float required = static_cast<float>(Eigen::numext::bit_cast<Eigen::half>(bits));
    const float found = half::from_bits(bits).to_float();
    if (std::isnan(required)) {
      values.compare(code, std::isnan(found) ? 1 : 0, 1);
    } else {
      values.compare(code, bit_cast<std::uint32_t>(found), bit_cast<std::uint32_t>(required));
    }
  }
  CHECK(values.report() == "all equal");
}

namespace {

/// Eigen's code; in a translation unit with F16C Eigen uses that, otherwise its own software.
std::uint16_t eigen_code(float x) { return Eigen::numext::bit_cast<std::uint16_t>(Eigen::half(x)); }

void compare_with_eigen(tally& codes, std::uint32_t bits) {
  const float x = bit_cast<float>(bits);
  if (std::isnan(x)) {
    // F16C keeps payloads.
    codes.compare(bits, half::nearest(x).is_nan() ? 1 : 0, 1);
    codes.compare(bits, half::from_bits(eigen_code(x)).is_nan() ? 1 : 0, 1);
  } else {
    codes.compare(bits, half::nearest(x).bits, eigen_code(x));
  }
}

}  // namespace

TEST_CASE("half: midpoints and their neighbours round as Eigen rounds", "[num]") {
  const test_support::nearest_oracle oracle(test_support::layout_of<half>);
  const auto& values = oracle.values();
  tally codes;
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    const float middle = static_cast<float>((values[i] + values[i + 1]) / 2);
    const std::uint32_t bits = bit_cast<std::uint32_t>(middle);
    for (const std::uint32_t sign : {0U, 0x80000000U}) {
      compare_with_eigen(codes, (bits - 1) | sign);
      compare_with_eigen(codes, bits | sign);
      compare_with_eigen(codes, (bits + 1) | sign);
    }
  }
  CHECK(codes.report() == "all equal");
}

TEST_CASE("half: all binary32 values round as Eigen rounds", "[num][.slow]") {
  CHECK(test_support::over_all_binary32(compare_with_eigen) == "all equal");
}

#endif  // SUBBYTE_TEST_HAS_EIGEN

#if defined(__F16C__)

namespace {

/// Not _cvtss_sh, a macro that clang takes for a C99 extension.
unsigned narrowed(float x) {
  const __m128i codes = _mm_cvtps_ph(_mm_set_ss(x), _MM_FROUND_TO_NEAREST_INT);
  return static_cast<unsigned>(_mm_cvtsi128_si32(codes)) & 0xFFFFU;
}

}  // namespace

TEST_CASE("half: every code has the value that F16C gives", "[num]") {
  tally values;
  for (unsigned code = 0; code < 65536; ++code) {
    const auto bits = static_cast<std::uint16_t>(code);
    // The instruction makes a signalling NaN quiet, to_float does not.
    const std::uint32_t quiet = half::from_bits(bits).is_nan() ? 0x400000U : 0U;
    values.compare(code, bit_cast<std::uint32_t>(half::from_bits(bits).to_float()) | quiet,
                   bit_cast<std::uint32_t>(_cvtsh_ss(bits)));
  }
  CHECK(values.report() == "all equal");
}

TEST_CASE("half: all binary32 values round as F16C rounds", "[num][.slow]") {
  const auto compare = [](tally& codes, std::uint32_t bits) {
    const float x = bit_cast<float>(bits);
    const unsigned required = narrowed(x);
    // The instruction keeps the payload of a NaN, nearest does not.
    codes.compare(bits, half::nearest(x).bits,
                  std::isnan(x) ? (required & 0x8000U) | 0x7E00U : required);
  };
  CHECK(test_support::over_all_binary32(compare) == "all equal");
}

#endif  // __F16C__
