// SPDX-License-Identifier: Apache-2.0
/// Rounding to integers against the standard library, and unfused against contraction.
#include "subbyte/num/rounding.hpp"

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

#include "support/all_binary32.hpp"
#include "support/catch.hpp"
#include "support/tally.hpp"

using subbyte::bit_cast;
using subbyte::rint_even;
using subbyte::round_half_away;
using subbyte::rounded_product;
using subbyte::trunc_to_int;
using subbyte::unfused;
using test_support::tally;

static_assert(rint_even(0.5F) == 0 && rint_even(1.5F) == 2 && rint_even(-2.5F) == -2);
static_assert(rint_even(4194303.0F) == 4194303 && rint_even(-4194303.0F) == -4194303);
static_assert(trunc_to_int(-2.75F) == -2 && trunc_to_int(3e9F) == 2147483647);
static_assert(round_half_away(2.5F) == 3 && round_half_away(-2.5F) == -3);
static_assert(round_half_away(0.49999997F) == 0 && round_half_away(8388607.5F) == 8388608);
static_assert(unfused(2.0F * 3.0F) == 6.0F && rounded_product(2.0F, 3.0F) == 6.0F);
static_assert(subbyte::clamp(5, 0, 3) == 3 && subbyte::clamp(-5, 0, 3) == 0 &&
              subbyte::clamp(2, 0, 3) == 2);

namespace {

std::uint32_t bits_of(float value) { return bit_cast<std::uint32_t>(value); }

std::uint64_t widened(int value) { return static_cast<std::uint64_t>(std::int64_t{value}); }

constexpr float rint_limit = 4194303.0F;

/// Calls body(x) for whole and whole + 0.5, their binary32 neighbours, and both signs.
template <class Body>
void around_integers(int first, int last, int step, Body body) {
  const float infinity = std::numeric_limits<float>::infinity();
  for (int whole = first; whole <= last; whole += step) {
    for (const float centre : {static_cast<float>(whole), static_cast<float>(whole) + 0.5F}) {
      for (const float x :
           {centre, std::nextafter(centre, infinity), std::nextafter(centre, -infinity)}) {
        body(x);
        body(-x);
      }
    }
  }
}

int limited_to_int(double whole) {
  if (!(whole > -2147483648.0)) return std::isnan(whole) ? 0 : std::numeric_limits<int>::min();
  return whole < 2147483647.0 ? static_cast<int>(whole) : std::numeric_limits<int>::max();
}

int required_trunc(float x) { return limited_to_int(std::trunc(static_cast<double>(x))); }

int required_round(float x) { return limited_to_int(std::round(static_cast<double>(x))); }

}  // namespace

TEST_CASE("rint_even: equals nearbyint over its domain", "[num]") {
  tally results;
  const auto compare = [&](float x) {
    if (std::fabs(x) > rint_limit) return;
    results.compare(bits_of(x), widened(rint_even(x)),
                    widened(static_cast<int>(std::nearbyint(x))));
  };
  around_integers(0, 70000, 1, compare);
  around_integers(70000, 4194303, 61, compare);
  around_integers(4194200, 4194303, 1, compare);
  around_integers(2097100, 2097200, 1, compare);
  std::mt19937_64 generator(20240614);
  for (int i = 0; i < 1000000; ++i) {
    const std::uint64_t raw = generator();
    const auto field = static_cast<std::uint32_t>(100 + (raw >> 40) % 49);  // 2^-27 .. 2^21
    compare(bit_cast<float>((static_cast<std::uint32_t>(raw) & 0x807FFFFFU) | (field << 23)));
  }
  for (const std::uint32_t bits : {0U, 1U, 0x007FFFFFU, 0x00800000U, 0x3EFFFFFFU, 0x3F000001U}) {
    compare(bit_cast<float>(bits));
    compare(bit_cast<float>(bits | 0x80000000U));
  }
  CHECK(results.report() == "all equal");
}

TEST_CASE("rint_even: beyond its domain the result is in range and does not vary", "[num]") {
  // The low 23 bits of value + 1.5 * 2^23, which any binary32 addition to nearest gives.
  CHECK(rint_even(4194303.5F) == -4194304);
  CHECK(rint_even(4194304.0F) == -4194304);
  CHECK(rint_even(-4194304.0F) == -4194304);
  CHECK(rint_even(12582912.0F) == 0);
  CHECK(rint_even(std::numeric_limits<float>::infinity()) == -4194304);
  CHECK(rint_even(-std::numeric_limits<float>::infinity()) == -4194304);
  CHECK(rint_even(std::numeric_limits<float>::quiet_NaN()) == 0);
  std::mt19937_64 generator(20240615);
  int outside = 0;
  for (int i = 0; i < 1000000; ++i) {
    const float x = bit_cast<float>(static_cast<std::uint32_t>(generator()));
    const int found = rint_even(x);
    if (found < -4194304 || found > 4194303) ++outside;
  }
  CHECK(outside == 0);
}

TEST_CASE("trunc_to_int: truncates, and saturates at the ends of int", "[num]") {
  tally results;
  const auto compare = [&](float x) {
    results.compare(bits_of(x), widened(trunc_to_int(x)), widened(required_trunc(x)));
  };
  around_integers(0, 70000, 1, compare);
  around_integers(8388500, 8388700, 1, compare);
  std::mt19937_64 generator(20240616);
  for (int i = 0; i < 1000000; ++i) {
    compare(bit_cast<float>(static_cast<std::uint32_t>(generator())));
  }
  CHECK(results.report() == "all equal");

  CHECK(trunc_to_int(2147483520.0F) == 2147483520);
  CHECK(trunc_to_int(2147483648.0F) == std::numeric_limits<int>::max());
  CHECK(trunc_to_int(-2147483648.0F) == std::numeric_limits<int>::min());
  CHECK(trunc_to_int(-2147483904.0F) == std::numeric_limits<int>::min());
  CHECK(trunc_to_int(std::numeric_limits<float>::infinity()) == std::numeric_limits<int>::max());
  CHECK(trunc_to_int(-std::numeric_limits<float>::infinity()) == std::numeric_limits<int>::min());
  CHECK(trunc_to_int(std::numeric_limits<float>::quiet_NaN()) == 0);
}

TEST_CASE("round_half_away: equals std::round, and saturates at the ends of int", "[num]") {
  tally results;
  const auto compare = [&](float x) {
    results.compare(bits_of(x), widened(round_half_away(x)), widened(required_round(x)));
  };
  around_integers(0, 70000, 1, compare);
  around_integers(4194200, 4194400, 1, compare);
  around_integers(8388500, 8388700, 1, compare);
  around_integers(16777100, 16777300, 1, compare);
  std::mt19937_64 generator(20240617);
  for (int i = 0; i < 1000000; ++i) {
    const std::uint64_t raw = generator();
    compare(bit_cast<float>(static_cast<std::uint32_t>(raw)));
    const auto field = static_cast<std::uint32_t>(120 + (raw >> 40) % 40);
    compare(bit_cast<float>((static_cast<std::uint32_t>(raw) & 0x807FFFFFU) | (field << 23)));
  }
  for (const float x :
       {2147483520.0F, 2147483648.0F, -2147483648.0F, -2147483904.0F,
        std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity(),
        std::numeric_limits<float>::quiet_NaN()}) {
    compare(x);
  }
  CHECK(results.report() == "all equal");
}

TEST_CASE("rounding to integers: all binary32 values as the standard library says",
          "[num][.slow]") {
  const auto compare = [](tally& results, std::uint32_t bits) {
    const float x = bit_cast<float>(bits);
    results.compare(bits, widened(round_half_away(x)), widened(required_round(x)));
    results.compare(bits, widened(trunc_to_int(x)), widened(required_trunc(x)));
    if (std::fabs(x) <= rint_limit) {
      results.compare(bits, widened(rint_even(x)), widened(static_cast<int>(std::nearbyint(x))));
    }
  };
  CHECK(test_support::over_all_binary32(compare) == "all equal");
}

namespace {

struct triples {
  std::vector<float> a, b, c;
  std::vector<float> rounded_twice;  ///< a * b rounded, + c rounded
};

/// Operands for which a fused multiply-add gives another result than two roundings.
triples operands_that_differ(std::size_t count) {
  std::mt19937_64 generator(20240618);
  const auto draw = [&] {
    const auto raw = static_cast<std::uint32_t>(generator());
    return bit_cast<float>((raw & 0x807FFFFFU) | ((120U + (raw >> 23) % 12U) << 23));
  };
  triples result;
  while (result.a.size() < count) {
    const float a = draw();
    const float b = draw();
    volatile float product = a * b;  // volatile: the roundings that no compiler may skip
    const float c = result.a.size() % 2 == 0 ? draw() : -product;
    volatile float stored_sum = product + c;
    const float sum = stored_sum;
    if (std::fma(a, b, c) == sum) continue;
    result.a.push_back(a);
    result.b.push_back(b);
    result.c.push_back(c);
    result.rounded_twice.push_back(sum);
  }
  return result;
}

__attribute__((noinline)) void add_product(const float* __restrict a, const float* __restrict b,
                                           const float* __restrict c, float* __restrict out,
                                           std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = unfused(a[i] * b[i]) + c[i];
}

__attribute__((noinline)) void add_product_in_statements(const float* __restrict a,
                                                         const float* __restrict b,
                                                         const float* __restrict c,
                                                         float* __restrict out, std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) {
    float product = a[i] * b[i];
    product = unfused(product);
    out[i] = c[i] + product;
  }
}

__attribute__((noinline)) void add_rounded_product(const float* __restrict a,
                                                   const float* __restrict b,
                                                   const float* __restrict c, float* __restrict out,
                                                   std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = rounded_product(a[i], b[i]) + c[i];
}

__attribute__((noinline)) void subtract_product(const float* __restrict a,
                                                const float* __restrict b,
                                                const float* __restrict c, float* __restrict out,
                                                std::size_t count) {
  for (std::size_t i = 0; i < count; ++i) out[i] = -c[i] - unfused(a[i] * b[i]);
}

}  // namespace

TEST_CASE("unfused: a product is rounded before the addition, in a loop too", "[num]") {
  constexpr std::size_t count = 4096;
  const triples t = operands_that_differ(count);
  std::vector<float> out(count);
  const auto compare = [&](float sign) {
    tally results;
    for (std::size_t i = 0; i < count; ++i) {
      results.compare(i, bits_of(sign * out[i]), bits_of(t.rounded_twice[i]));
    }
    return results.report();
  };
  add_product(t.a.data(), t.b.data(), t.c.data(), out.data(), count);
  CHECK(compare(1.0F) == "all equal");
  add_product_in_statements(t.a.data(), t.b.data(), t.c.data(), out.data(), count);
  CHECK(compare(1.0F) == "all equal");
  add_rounded_product(t.a.data(), t.b.data(), t.c.data(), out.data(), count);
  CHECK(compare(1.0F) == "all equal");
  subtract_product(t.a.data(), t.b.data(), t.c.data(), out.data(), count);
  // Where c = -product both this difference and the sum are +0; the negation below expects -0.
  for (float& x : out) x = x == 0.0F ? -0.0F : x;
  CHECK(compare(-1.0F) == "all equal");
  for (std::size_t i = 0; i < count; ++i) {
    const float one = unfused(t.a[i] * t.b[i]) + t.c[i];
    if (bits_of(one) != bits_of(t.rounded_twice[i])) FAIL("scalar, operands " << i);
  }
}

TEST_CASE("unfused: integer rounding of a product sees the rounded product", "[num]") {
  // Products that the rounding to binary32 takes onto a tie.
  std::mt19937_64 generator(20240619);
  tally even;
  tally away;
  int on_a_tie = 0;
  for (int i = 0; i < 2000000; ++i) {
    const auto raw = static_cast<std::uint32_t>(generator());
    const float a = bit_cast<float>((raw & 0x007FFFFFU) | 0x3F800000U);
    const float target = static_cast<float>(generator() % 2000) + 0.5F;
    const float b = target / a;
    volatile float product = a * b;
    const float rounded = product;
    if (static_cast<double>(a) * static_cast<double>(b) != static_cast<double>(target) &&
        rounded == target) {
      ++on_a_tie;
    }
    even.compare(raw, widened(rint_even(unfused(a * b))),
                 widened(static_cast<int>(std::nearbyint(rounded))));
    away.compare(raw, widened(round_half_away(a * b)),
                 widened(static_cast<int>(std::round(rounded))));
  }
  CHECK(on_a_tie > 100000);
  CHECK(even.report() == "all equal");
  CHECK(away.report() == "all equal");
}
