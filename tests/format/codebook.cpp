// SPDX-License-Identifier: Apache-2.0
/// nearest() of every codebook against a search over all its values.
#include "subbyte/format/codebook.hpp"

#include <cmath>
#include <vector>

#include "support/all_binary32.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;

/// The code that a search over all values finds; among equally near ones the first, or the last.
/// Differences of a table entry and a float are taken as a comparison of exact doubles.
template <class C>
int searched(float x, bool last_on_ties) {
  int best = 0;
  for (int code = 1; code < 1 << C::bits; ++code) {
    const double a = C::value(best);
    const double b = C::value(code);
    const double twice = 2.0 * x;
    const bool nearer = a < b ? twice > a + b : (b < a && twice < a + b);
    const bool tied = a != b && twice == a + b;
    if (nearer || (tied && last_on_ties)) best = code;
  }
  return best;
}

template <class C>
bool agrees(float x, bool last_on_ties) {
  return C::nearest(x) == searched<C>(x, last_on_ties);
}

/// Table entries, midpoints of neighbours, both with the floats beside them, and far values.
template <class C>
std::vector<float> telling_values() {
  std::vector<float> values{0.0F, -0.0F, 1e-45F, -1e-45F, 3e38F, -3e38F, HUGE_VALF, -HUGE_VALF};
  for (int a = 0; a < 1 << C::bits; ++a) {
    for (int b = 0; b < 1 << C::bits; ++b) {
      const float middle = 0.5F * (C::value(a) + C::value(b));
      values.push_back(middle);
      values.push_back(std::nextafter(middle, HUGE_VALF));
      values.push_back(std::nextafter(middle, -HUGE_VALF));
    }
  }
  return values;
}

}  // namespace

TEST_CASE("iq4: the table ascends, has its published ends and sum, and nearest inverts it") {
  int sum = 0;
  for (int code = 0; code < 16; ++code) {
    sum += iq4::level(code);
    CHECK(iq4::nearest(iq4::value(code)) == code);
    if (code > 0) CHECK(iq4::level(code) > iq4::level(code - 1));
  }
  CHECK(iq4::level(0) == -127);
  CHECK(iq4::level(15) == 113);
  CHECK(sum == -94);
}

TEST_CASE("iq4: nearest gives the upper code on ties, and 15 for NaN") {
  for (const float x : telling_values<iq4>()) {
    INFO(x);
    CHECK(agrees<iq4>(x, true));
  }
  std::mt19937_64 generator(1);
  for (int draw = 0; draw < 20000; ++draw) {
    const float x = static_cast<float>(140 * (2 * test_support::uniform(generator) - 1));
    if (!agrees<iq4>(x, true)) FAIL(x);
  }
  CHECK(iq4::nearest(std::nanf("")) == 15);
}

TEST_CASE("nf4: the table ascends from -1 to 1 through zero, and nearest inverts it") {
  for (int code = 0; code < 16; ++code) {
    CHECK(nf4::nearest(nf4::value(code)) == code);
    if (code > 0) CHECK(nf4::value(code) > nf4::value(code - 1));
    if (code < 15) {
      // All bounds are below 1: half a unit in the last place is at most 2^-25.
      const double middle = 0.5 * (double{nf4::value(code)} + double{nf4::value(code + 1)});
      CHECK(std::fabs(double{nf4::upper_bound(code)} - middle) <= 0x1p-25);
    }
  }
  CHECK(nf4::value(0) == -1.0F);
  CHECK(nf4::value(7) == 0.0F);
  CHECK(nf4::value(15) == 1.0F);
  CHECK(nf4::nearest(std::nanf("")) == 0);
}

TEST_CASE("nf4: nearest gives the lower code at the rounded midpoints, and is exact elsewhere") {
  const auto at_a_bound = [](float x) {
    for (int code = 0; code < 15; ++code) {
      if (x == nf4::upper_bound(code)) return true;
    }
    return false;
  };
  for (int code = 0; code < 15; ++code) {
    const float bound = nf4::upper_bound(code);
    CHECK(nf4::nearest(bound) == code);
    CHECK(nf4::nearest(std::nextafter(bound, HUGE_VALF)) == code + 1);
  }
  for (const float x : telling_values<nf4>()) {
    INFO(x);
    if (!at_a_bound(x)) CHECK(agrees<nf4>(x, false));
  }
}

TEST_CASE("fp4_e2m1: values are those of OCP FP4, negatives from code 8") {
  const float magnitudes[8] = {0, 0.5F, 1, 1.5F, 2, 3, 4, 6};
  for (int code = 0; code < 8; ++code) {
    CHECK(fp4_e2m1::value(code) == magnitudes[code]);
    CHECK(fp4_e2m1::value(code + 8) == -magnitudes[code]);
    CHECK(fp4_e2m1::nearest(magnitudes[code]) == code);
    if (code > 0) CHECK(fp4_e2m1::nearest(-magnitudes[code]) == code + 8);
  }
  CHECK(std::signbit(fp4_e2m1::value(8)));
}

TEST_CASE("fp4_e2m1: nearest gives the lower code on ties, never 8, and 0 for NaN") {
  for (const float x : telling_values<fp4_e2m1>()) {
    INFO(x);
    CHECK(agrees<fp4_e2m1>(x, false));
  }
  std::mt19937_64 generator(2);
  for (int draw = 0; draw < 20000; ++draw) {
    const float x = static_cast<float>(8 * (2 * test_support::uniform(generator) - 1));
    if (!agrees<fp4_e2m1>(x, false)) FAIL(x);
  }
  CHECK(fp4_e2m1::nearest(std::nanf("")) == 0);
}

TEST_CASE("codebooks: nearest agrees with a search for every float of the tables' range",
          "[.slow]") {
  const std::string report =
      test_support::over_all_binary32([](test_support::tally& tally, std::uint32_t bits) {
        const float x = bit_cast<float>(bits);
        // No midpoint of either table lies below 1/8 or above 128: beyond, nearest cannot change.
        if (!(std::fabs(x) >= 0.125F && std::fabs(x) <= 128)) return;
        tally.compare(bits, static_cast<std::uint32_t>(iq4::nearest(x)),
                      static_cast<std::uint32_t>(searched<iq4>(x, true)));
        tally.compare(bits, static_cast<std::uint32_t>(fp4_e2m1::nearest(x)),
                      static_cast<std::uint32_t>(searched<fp4_e2m1>(x, false)));
      });
  CHECK(report == "all equal");
}
