// SPDX-License-Identifier: Apache-2.0
/// Every minifloat: all codes, and rounding at every midpoint, against two independent definitions,
/// the ml_dtypes tables and the CUDA toolkit's host headers.
#include "subbyte/num/minifloat.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <string>
#include <type_traits>
#include <utility>
#include <vector>

#include "support/all_binary32.hpp"
#include "support/catch.hpp"
#include "support/float_environment.hpp"
#include "support/float_oracle.hpp"
#include "support/safetensors_bytes.hpp"
#include "support/tally.hpp"

#if defined(SUBBYTE_HAVE_CUDA_HEADERS)
#define CUDA_NO_HALF  // no ::half of theirs
#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>
#endif

using subbyte::bfloat16;
using subbyte::bit_cast;
using subbyte::e2m1;
using subbyte::e2m3;
using subbyte::e3m2;
using subbyte::e4m3fn;
using subbyte::e4m3fnuz;
using subbyte::e5m2;
using subbyte::float_specials;
using subbyte::half;
using test_support::code_value;
using test_support::e3m4;
using test_support::e4m3;
using test_support::e5m2fnuz;
using test_support::layout_of;
using test_support::nearest_oracle;
using test_support::sign_bit;
using test_support::step_oracle;
using test_support::tally;

#define SUBBYTE_TEST_ALL_TYPES \
  half, bfloat16, e4m3fn, e5m2, e4m3fnuz, e2m1, e3m2, e2m3, e3m4, e4m3, e5m2fnuz

namespace {

template <class T>
constexpr unsigned code_count = 1U << T::total_bits;

template <class T>
T from_code(unsigned code) {
  return T::from_bits(static_cast<typename T::storage>(code));
}

std::uint32_t bits_of(float value) { return bit_cast<std::uint32_t>(value); }

/// Every value, every midpoint between neighbours (the first overflowing value included), the two
/// binary32 neighbours of each, and Inf, NaN, the ends of binary32; of both signs.
std::vector<float> hard_inputs(const nearest_oracle& oracle) {
  const float infinity = std::numeric_limits<float>::infinity();
  std::vector<float> result;
  const auto add = [&](double exact) {
    const float x = static_cast<float>(exact);  // exact, or Inf beyond bfloat16's largest value
    for (const float y : {x, std::nextafter(x, -infinity), std::nextafter(x, infinity)}) {
      result.push_back(y);
      result.push_back(-y);
    }
  };
  const std::vector<double>& values = oracle.values();
  for (std::size_t i = 0; i + 1 < values.size(); ++i) {
    add(values[i]);
    add((values[i] + values[i + 1]) / 2);
  }
  add(values.back());
  add(static_cast<double>(std::numeric_limits<float>::max()));
  add(static_cast<double>(std::numeric_limits<float>::min()));
  for (const std::uint32_t bits : {0x7F800000U, 0x7FC00000U, 0x7F800001U, 0x7FFFFFFFU}) {
    result.push_back(bit_cast<float>(bits));
    result.push_back(bit_cast<float>(bits | 0x80000000U));
  }
  return result;
}

template <class T>
constexpr bool round_trips(unsigned first, unsigned count) {
  for (unsigned code = first; code < first + count; ++code) {
    const T number = T::from_bits(static_cast<typename T::storage>(code));
    const float value = number.to_float();
    if ((value != value) != number.is_nan()) return false;
    if (number.is_nan()) {
      if (!T::nearest(value).is_nan()) return false;
    } else {
      if (!(T::nearest(value) == number)) return false;
    }
  }
  return true;
}

// A constant expression per 4096 codes, below the step limits of the compilers.
template <class T, unsigned Chunk>
constexpr bool chunk_round_trips = round_trips<T>(Chunk * 4096, 4096);
template <class T, unsigned... Chunk>
constexpr bool all_round_trip(std::integer_sequence<unsigned, Chunk...>) {
  return (chunk_round_trips<T, Chunk> && ...);
}
static_assert(all_round_trip<half>(std::make_integer_sequence<unsigned, 16>()));
// Of bfloat16 the chunks with zero, subnormals, Inf and NaN of both signs.
static_assert(all_round_trip<bfloat16>(std::integer_sequence<unsigned, 0, 7, 8, 15>()));
static_assert(round_trips<e4m3fn>(0, 256));
static_assert(round_trips<e5m2>(0, 256));
static_assert(round_trips<e4m3fnuz>(0, 256));
static_assert(round_trips<e2m1>(0, 16));
static_assert(round_trips<e3m2>(0, 64));
static_assert(round_trips<e2m3>(0, 64));

template <class T>
constexpr bool is_plain_storage =
    std::is_trivially_copyable_v<T>&& std::is_standard_layout_v<T>&& std::is_aggregate_v<T>;
static_assert(is_plain_storage<half> && sizeof(half) == 2);
static_assert(is_plain_storage<bfloat16> && sizeof(bfloat16) == 2);
static_assert(is_plain_storage<e4m3fn> && sizeof(e4m3fn) == 1);
static_assert(is_plain_storage<e2m1> && sizeof(e2m1) == 1);

}  // namespace

TEMPLATE_TEST_CASE("minifloat: every code has the value that the fields define", "[num]",
                   SUBBYTE_TEST_ALL_TYPES) {
  const auto& type = layout_of<TestType>;
  REQUIRE(TestType::total_bits == type.width);
  REQUIRE(TestType::bias == type.bias);
  REQUIRE(unsigned{TestType::max_finite().bits} == type.max_finite);
  tally values;
  tally classes;
  for (unsigned code = 0; code < code_count<TestType>; ++code) {
    const double required = code_value(type, code);
    const TestType number = from_code<TestType>(code);
    const float found = number.to_float();
    if (std::isnan(required)) {
      values.compare(code, std::isnan(found) ? 1 : 0, 1);
    } else {
      values.compare(code, bits_of(found), bits_of(static_cast<float>(required)));
      values.compare(code, static_cast<double>(found) == required ? 1 : 0, 1);
    }
    classes.compare(code, number.is_nan() ? 1 : 0, std::isnan(required) ? 1 : 0);
    classes.compare(code, number.is_finite() ? 1 : 0, std::isfinite(required) ? 1 : 0);
  }
  CHECK(values.report() == "all equal");
  CHECK(classes.report() == "all equal");
}

TEMPLATE_TEST_CASE("minifloat: every code but a NaN comes back from its value", "[num]",
                   SUBBYTE_TEST_ALL_TYPES) {
  const auto& type = layout_of<TestType>;
  tally nearest;
  tally saturating;
  for (unsigned code = 0; code < code_count<TestType>; ++code) {
    const double value = code_value(type, code);
    const float x = from_code<TestType>(code).to_float();
    if (std::isnan(value)) {
      nearest.compare(code, TestType::nearest(x).is_nan() ? 1 : 0, 1);
      saturating.compare(code, TestType::nearest_saturating(x).is_nan() ? 1 : 0, 1);
      continue;
    }
    nearest.compare(code, TestType::nearest(x).bits, code);
    const unsigned limited = std::isinf(value) ? (code & sign_bit(type)) | type.max_finite : code;
    saturating.compare(code, TestType::nearest_saturating(x).bits, limited);
  }
  CHECK(nearest.report() == "all equal");
  CHECK(saturating.report() == "all equal");
}

TEMPLATE_TEST_CASE("minifloat: values grow with the code", "[num]", SUBBYTE_TEST_ALL_TYPES) {
  tally order;
  for (unsigned code = 1; code <= layout_of<TestType>.max_finite; ++code) {
    const float lower = from_code<TestType>(code - 1).to_float();
    const float upper = from_code<TestType>(code).to_float();
    order.compare(code, lower < upper ? 1 : 0, 1);
  }
  CHECK(order.report() == "all equal");
}

TEMPLATE_TEST_CASE("minifloat: rounding is to nearest, ties to even, at every midpoint", "[num]",
                   SUBBYTE_TEST_ALL_TYPES) {
  const nearest_oracle oracle(layout_of<TestType>);
  tally nearest;
  tally saturating;
  for (const float x : hard_inputs(oracle)) {
    nearest.compare(bits_of(x), TestType::nearest(x).bits, oracle.code(x, false));
    saturating.compare(bits_of(x), TestType::nearest_saturating(x).bits, oracle.code(x, true));
  }
  CHECK(nearest.report() == "all equal");
  CHECK(saturating.report() == "all equal");
}

TEMPLATE_TEST_CASE("minifloat: rounding is to nearest for random binary32 bits", "[num]",
                   SUBBYTE_TEST_ALL_TYPES) {
  const nearest_oracle oracle(layout_of<TestType>);
  std::mt19937_64 generator(20240611);
  tally nearest;
  tally saturating;
  for (int i = 0; i < 200000; ++i) {
    const std::uint64_t raw = generator();
    // Odd draws stay within 2^-40 .. 2^24, where all types have their values.
    const auto field = static_cast<std::uint32_t>(87 + (raw >> 40) % 64);
    std::uint32_t bits = static_cast<std::uint32_t>(raw);
    if (i % 2 == 1) bits = (bits & 0x807FFFFFU) | (field << 23);
    const float x = bit_cast<float>(bits);
    nearest.compare(bits, TestType::nearest(x).bits, oracle.code(x, false));
    saturating.compare(bits, TestType::nearest_saturating(x).bits, oracle.code(x, true));
  }
  CHECK(nearest.report() == "all equal");
  CHECK(saturating.report() == "all equal");
}

TEMPLATE_TEST_CASE("minifloat: bits above the type's width do not matter to the value", "[num]",
                   e2m1, e3m2, e2m3) {
  tally values;
  for (unsigned code = 0; code < 256; ++code) {
    const unsigned low = code % code_count<TestType>;
    values.compare(code, bits_of(from_code<TestType>(code).to_float()),
                   bits_of(from_code<TestType>(low).to_float()));
  }
  CHECK(values.report() == "all equal");
}

TEMPLATE_TEST_CASE("minifloat: neither rounding mode nor flush-to-zero changes a bit", "[num]",
                   half, bfloat16, e4m3fn, e4m3fnuz, e2m3) {
  struct expectation {
    std::vector<std::uint32_t> values;
    std::vector<std::uint32_t> inputs;
    std::vector<typename TestType::storage> codes;
  };
  static expectation required;
  for (unsigned code = 0; code < code_count<TestType>; ++code) {
    required.values.push_back(bits_of(from_code<TestType>(code).to_float()));
  }
  const nearest_oracle oracle(layout_of<TestType>);
  for (const float x : hard_inputs(oracle)) {
    required.inputs.push_back(bits_of(x));
    required.codes.push_back(TestType::nearest(x).bits);
  }
  const auto body = [] {
    for (unsigned code = 0; code < code_count<TestType>; ++code) {
      if (bits_of(from_code<TestType>(code).to_float()) != required.values[code]) return false;
    }
    for (std::size_t i = 0; i < required.inputs.size(); ++i) {
      const float x = bit_cast<float>(required.inputs[i]);
      if (TestType::nearest(x).bits != required.codes[i]) return false;
    }
    return true;
  };
  CHECK(test_support::in_every_float_environment(body));
}

TEST_CASE("minifloat: documented vectors of the 8-bit types", "[num]") {
  struct vector {
    float x;
    unsigned e4m3fn_code, e4m3fn_saturated, e5m2_code, e5m2_saturated, e4m3fnuz_code;
  };
  const float infinity = std::numeric_limits<float>::infinity();
  // Overflow: e4m3fn beyond the tie 464, e5m2 from 61440 on, e4m3fnuz from 248 on.
  const vector vectors[] = {
      {0.0F, 0x00, 0x00, 0x00, 0x00, 0x00},
      {-0.0F, 0x80, 0x80, 0x80, 0x80, 0x00},
      {std::ldexp(1.0F, -11), 0x00, 0x00, 0x10, 0x10, 0x00},
      {std::ldexp(1.0F, -10), 0x00, 0x00, 0x14, 0x14, 0x01},
      {std::ldexp(1.5F, -10), 0x01, 0x01, 0x16, 0x16, 0x02},
      {std::ldexp(3.0F, -10), 0x02, 0x02, 0x1A, 0x1A, 0x03},
      {0.1F, 0x1D, 0x1D, 0x2E, 0x2E, 0x25},
      {1.0F, 0x38, 0x38, 0x3C, 0x3C, 0x40},
      {1.0625F, 0x38, 0x38, 0x3C, 0x3C, 0x40},
      {1.1875F, 0x3A, 0x3A, 0x3D, 0x3D, 0x42},
      {17.0F, 0x58, 0x58, 0x4C, 0x4C, 0x60},
      {19.0F, 0x5A, 0x5A, 0x4D, 0x4D, 0x62},
      {240.0F, 0x77, 0x77, 0x5C, 0x5C, 0x7F},
      {248.0F, 0x78, 0x78, 0x5C, 0x5C, 0x80},
      {464.0F, 0x7E, 0x7E, 0x5F, 0x5F, 0x80},
      {464.1F, 0x7F, 0x7E, 0x5F, 0x5F, 0x80},
      {480.0F, 0x7F, 0x7E, 0x60, 0x60, 0x80},
      {57344.0F, 0x7F, 0x7E, 0x7B, 0x7B, 0x80},
      {61439.0F, 0x7F, 0x7E, 0x7B, 0x7B, 0x80},
      {61440.0F, 0x7F, 0x7E, 0x7C, 0x7B, 0x80},
      {infinity, 0x7F, 0x7E, 0x7C, 0x7B, 0x80},
      {-infinity, 0xFF, 0xFE, 0xFC, 0xFB, 0x80},
  };
  for (const vector& v : vectors) {
    CAPTURE(v.x);
    CHECK(unsigned{e4m3fn::nearest(v.x).bits} == v.e4m3fn_code);
    CHECK(unsigned{e4m3fn::nearest_saturating(v.x).bits} == v.e4m3fn_saturated);
    CHECK(unsigned{e5m2::nearest(v.x).bits} == v.e5m2_code);
    CHECK(unsigned{e5m2::nearest_saturating(v.x).bits} == v.e5m2_saturated);
    CHECK(unsigned{e4m3fnuz::nearest(v.x).bits} == v.e4m3fnuz_code);
  }
}

TEST_CASE("minifloat: the sixteen values of e2m1", "[num]") {
  const float values[] = {0.0F, 0.5F, 1.0F, 1.5F, 2.0F, 3.0F, 4.0F, 6.0F};
  for (unsigned code = 0; code < 8; ++code) {
    CHECK(from_code<e2m1>(code).to_float() == values[code]);
    CHECK(from_code<e2m1>(code + 8).to_float() == -values[code]);
  }
}

TEST_CASE("minifloat: equality is of bits", "[num]") {
  CHECK_FALSE(half::from_bits(0x0000) == half::from_bits(0x8000));
  CHECK(half::from_bits(0x7E00) == half::from_bits(0x7E00));
  CHECK(half::from_bits(0x7E00) != half::from_bits(0x7E01));
}

#if defined(SUBBYTE_TEST_HAS_SAFETENSORS)

TEMPLATE_TEST_CASE("minifloat: decoding equals ml_dtypes", "[num][golden]", e4m3fn, e5m2, e4m3fnuz,
                   e2m1, e3m2, e2m3, e3m4, e4m3, e5m2fnuz) {
  const test_support::safetensors_bytes file("ml_dtypes/decode.safetensors");
  const auto required = file.elements<std::uint32_t>(layout_of<TestType>.name);
  REQUIRE(required.size() == code_count<TestType>);
  tally values;
  for (unsigned code = 0; code < code_count<TestType>; ++code) {
    const float value = bit_cast<float>(required[code]);
    const TestType number = from_code<TestType>(code);
    if (std::isnan(value)) {
      values.compare(code, number.is_nan() ? 1 : 0, 1);
    } else {
      values.compare(code, bits_of(number.to_float()), required[code]);
    }
  }
  CHECK(values.report() == "all equal");
}

namespace {

/// What ml_dtypes is to give where this library gives `code`: types without NaN turn NaN into a
/// zero there (negative for a NaN without sign bit), into the largest value here.
template <class T>
unsigned as_ml_dtypes(float x, unsigned code) {
  if (T::specials == float_specials::none && std::isnan(x)) {
    return std::signbit(x) ? 0 : sign_bit(layout_of<T>);
  }
  return code;
}

}  // namespace

TEMPLATE_TEST_CASE("minifloat: rounding equals ml_dtypes for special binary32 values",
                   "[num][golden]", e4m3fn, e5m2, e4m3fnuz, e2m1, e3m2, e2m3, e3m4, e4m3,
                   e5m2fnuz) {
  const test_support::safetensors_bytes file("ml_dtypes/special_f32_inputs.safetensors");
  const auto inputs = file.elements<std::uint32_t>("input_f32_bits");
  const auto required = file.elements<std::uint8_t>(layout_of<TestType>.name);
  REQUIRE(inputs.size() == required.size());
  tally codes;
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const float x = bit_cast<float>(inputs[i]);
    const unsigned found = as_ml_dtypes<TestType>(x, TestType::nearest(x).bits);
    codes.compare(inputs[i], found, required[i]);
  }
  CHECK(codes.report() == "all equal");
}

TEMPLATE_TEST_CASE("minifloat: rounding equals ml_dtypes for every binary16 value", "[num][golden]",
                   e4m3fn, e5m2, e4m3fnuz, e2m1, e3m2, e2m3, e3m4, e4m3, e5m2fnuz) {
  const test_support::safetensors_bytes file("ml_dtypes/all_f16_inputs.safetensors");
  const std::string name = layout_of<TestType>.name;
  const auto starts = file.elements<std::uint32_t>(name + ".start");
  const auto required = file.elements<std::uint8_t>(name + ".code");
  REQUIRE(starts.size() == required.size());
  REQUIRE(starts.front() == 0);
  tally codes;
  std::size_t run = 0;
  for (std::uint32_t pattern = 0; pattern < 65536; ++pattern) {
    if (run + 1 < starts.size() && starts[run + 1] == pattern) ++run;
    const float x = from_code<half>(pattern).to_float();
    const unsigned found = as_ml_dtypes<TestType>(x, TestType::nearest(x).bits);
    codes.compare(pattern, found, required[run]);
  }
  REQUIRE(run + 1 == starts.size());
  CHECK(codes.report() == "all equal");
}

#endif  // SUBBYTE_TEST_HAS_SAFETENSORS

#if defined(SUBBYTE_HAVE_CUDA_HEADERS)

namespace {

template <class T>
struct toolkit;
template <>
struct toolkit<e4m3fn> {
  static unsigned nearest(float x) { return __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E4M3); }
  static unsigned saturating(float x) {
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
  }
  static unsigned half_bits(std::uint8_t code) {
    return __nv_cvt_fp8_to_halfraw(code, __NV_E4M3).x;
  }
};
template <>
struct toolkit<e5m2> {
  static unsigned nearest(float x) { return __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E5M2); }
  static unsigned saturating(float x) {
    return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2);
  }
  static unsigned half_bits(std::uint8_t code) {
    return __nv_cvt_fp8_to_halfraw(code, __NV_E5M2).x;
  }
};
template <>
struct toolkit<e3m2> {
  static unsigned nearest(float x) { return __nv_cvt_float_to_fp6(x, __NV_E3M2, cudaRoundNearest); }
  static unsigned saturating(float x) { return nearest(x); }
  static unsigned half_bits(std::uint8_t code) {
    return __nv_cvt_fp6_to_halfraw(code, __NV_E3M2).x;
  }
};
template <>
struct toolkit<e2m3> {
  static unsigned nearest(float x) { return __nv_cvt_float_to_fp6(x, __NV_E2M3, cudaRoundNearest); }
  static unsigned saturating(float x) { return nearest(x); }
  static unsigned half_bits(std::uint8_t code) {
    return __nv_cvt_fp6_to_halfraw(code, __NV_E2M3).x;
  }
};
template <>
struct toolkit<e2m1> {
  static unsigned nearest(float x) { return __nv_cvt_float_to_fp4(x, __NV_E2M1, cudaRoundNearest); }
  static unsigned saturating(float x) { return nearest(x); }
  static unsigned half_bits(std::uint8_t code) {
    return __nv_cvt_fp4_to_halfraw(code, __NV_E2M1).x;
  }
};

}  // namespace

TEMPLATE_TEST_CASE("minifloat: equals the CUDA toolkit's host conversions", "[num][cuda_headers]",
                   e4m3fn, e5m2, e2m1, e3m2, e2m3) {
  const nearest_oracle oracle(layout_of<TestType>);
  tally nearest;
  tally saturating;
  tally not_a_number;
  for (const float x : hard_inputs(oracle)) {
    const TestType number = TestType::nearest(x);
    if (std::isnan(x) && TestType::specials != float_specials::none) {
      // The toolkit's NaN is 0x7F in both types: without sign, and in e5m2 with a payload.
      not_a_number.compare(bits_of(x), toolkit<TestType>::nearest(x), 0x7F);
      not_a_number.compare(bits_of(x), number.is_nan() ? 1 : 0, 1);
      not_a_number.compare(bits_of(x), TestType::nearest_saturating(x).is_nan() ? 1 : 0, 1);
      continue;
    }
    nearest.compare(bits_of(x), number.bits, toolkit<TestType>::nearest(x));
    saturating.compare(bits_of(x), TestType::nearest_saturating(x).bits,
                       toolkit<TestType>::saturating(x));
  }
  CHECK(nearest.report() == "all equal");
  CHECK(saturating.report() == "all equal");
  CHECK(not_a_number.report() == "all equal");

  tally values;
  for (unsigned code = 0; code < code_count<TestType>; ++code) {
    const unsigned required = toolkit<TestType>::half_bits(static_cast<std::uint8_t>(code));
    const TestType number = from_code<TestType>(code);
    if (number.is_nan()) {
      values.compare(code, from_code<half>(required).is_nan() ? 1 : 0, 1);
    } else {
      values.compare(code, bits_of(number.to_float()),
                     bits_of(from_code<half>(required).to_float()));
    }
  }
  CHECK(values.report() == "all equal");
}

#endif  // SUBBYTE_HAVE_CUDA_HEADERS

TEMPLATE_TEST_CASE("minifloat: all binary32 values round as an addition in double says",
                   "[num][.slow]", half, bfloat16, e4m3fn, e5m2) {
  const auto& type = layout_of<TestType>;
  const step_oracle oracle(type);
  const double largest = code_value(type, type.max_finite);
  const auto compare = [&](tally& results, std::uint32_t bits) {
    const float x = bit_cast<float>(bits);
    const TestType found = TestType::nearest(x);
    const TestType limited = TestType::nearest_saturating(x);
    const unsigned sign = (bits >> 31) << (type.width - 1);
    if (std::isnan(x)) {
      results.compare(bits, found.is_nan() && limited.is_nan() ? 1 : 0, 1);
      return;
    }
    const double required = oracle.rounded(static_cast<double>(std::fabs(x)));
    if (required > largest || std::isinf(x)) {
      results.compare(bits, found.bits, sign | (type.max_finite + 1));  // Inf, in e4m3fn NaN
      results.compare(bits, limited.bits, sign | type.max_finite);
    } else {
      const double value = static_cast<double>(from_code<TestType>(found.bits ^ sign).to_float());
      results.compare(bits, bit_cast<std::uint64_t>(value), bit_cast<std::uint64_t>(required));
      results.compare(bits, limited.bits, found.bits);
    }
  };
  CHECK(test_support::over_all_binary32(compare) == "all equal");
}
