// SPDX-License-Identifier: Apache-2.0
/// The IQ4 scale search against its definition, operation by operation.
#include "subbyte/format/iq4_nl.hpp"

#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;

float rounded(float a, float b) {
  const volatile float product = a * b;  // or the compiler may fuse it with an addition
  return product;
}

/// search_iq4 without lanes. The reference's first trial divides twice, 1 / (extreme / 127).
float defined_search(const std::vector<float>& x, const std::vector<float>& weight,
                     bool divides_twice) {
  const float extreme = signed_extreme<arch::native>(x.data(), 32);
  float scale = 0;
  float best = 0;
  for (int trial = 0; trial < 16; ++trial) {
    const float first = divides_twice ? 1.0F / (extreme / 127.0F) : 127.0F / extreme;
    const float inverse = trial == 0 ? first : -static_cast<float>(127 + 8 - trial) / extreme;
    float sum_xl = 0;
    float sum_ll = 0;
    for (std::size_t i = 0; i < 32; ++i) {
      const float level = iq4::value(iq4::nearest(rounded(inverse, x[i])));
      const float weighted = rounded(weight[i], level);
      sum_xl += rounded(weighted, x[i]);
      sum_ll += rounded(weighted, level);
    }
    if (trial == 0 || (sum_ll > 0 && rounded(sum_xl, sum_xl) > rounded(best, sum_ll))) {
      scale = sum_xl / sum_ll;
      best = scale * sum_xl;
    }
  }
  return scale;
}

}  // namespace

TEST_CASE("iq4: the levels of a register are those of nearest") {
  std::mt19937_64 generator(31);
  float x[16];
  float levels[16];
  for (int draw = 0; draw < 4000; ++draw) {
    for (float& v : x) {
      // Every other draw on a midpoint, where ties go up.
      const auto any = static_cast<float>(140 * (2 * test_support::uniform(generator) - 1));
      v = draw % 2 == 0 ? any : iq4::upper_bound(static_cast<int>(generator() % 15));
    }
    if (draw % 64 == 0) x[draw / 64 % 16] = std::nanf("");
    iq4_levels(float_lanes<arch::native, 16>::load(x)).store(levels);
    for (int i = 0; i < 16; ++i) REQUIRE(levels[i] == iq4::value(iq4::nearest(x[i])));
  }
}

TEST_CASE("search_iq4 is its definition for weights of many kinds") {
  std::mt19937_64 generator(32);
  for (int draw = 0; draw < 3000; ++draw) {
    std::vector<float> x(32);
    std::vector<float> weight(32);
    for (std::size_t i = 0; i < 32; ++i) {
      const double z = test_support::normal(generator);
      x[i] = static_cast<float>(draw % 3 == 0 ? z : draw % 3 == 1 ? z * z * z : 2 + 0.5 * z);
      weight[i] = static_cast<float>(0.01 + test_support::uniform(generator));
    }
    INFO("draw " << draw);
    REQUIRE(search_iq4<arch::native>(x.data(), weight.data()) == defined_search(x, weight, true));
  }
}

TEST_CASE("search_iq4 divides twice for its first trial, as the reference") {
  std::mt19937_64 generator(33);
  int sensitive = 0;
  for (int draw = 0; draw < 3000; ++draw) {
    // Weights on the grid whose +127 the extreme is, so that the first trial wins, and weights next
    // to the midpoints of its levels, where the last bit of the trial's scale decides.
    const auto step = static_cast<float>(0.01 + test_support::uniform(generator));
    std::vector<float> x(32);
    std::vector<float> weight(32, 1.0F);
    for (std::size_t i = 0; i < 16; ++i) x[i] = step * iq4::value(static_cast<int>(i));
    for (std::size_t i = 16; i < 32; ++i) {
      x[i] = step * iq4::upper_bound(static_cast<int>(1 + generator() % 14));
      const float towards = generator() % 2 == 0 ? -1e9F : 1e9F;
      for (std::uint64_t n = generator() % 3; n > 0; --n) x[i] = std::nextafter(x[i], towards);
      weight[i] = 1e-3F;
    }
    x[0] = step * 127.0F;
    weight[0] = 1e-6F;
    const float expected = defined_search(x, weight, true);
    sensitive += expected != defined_search(x, weight, false) ? 1 : 0;
    INFO("draw " << draw);
    REQUIRE(search_iq4<arch::native>(x.data(), weight.data()) == expected);
  }
  CHECK(sensitive > 100);  // else the data would prove nothing
}

TEST_CASE("search_iq4 takes a group for zero below 1e-15 and not at it") {
  const std::vector<float> ones(32, 1.0F);
  std::vector<float> x(32, 0.0F);
  x[3] = -zero_group_magnitude;
  CHECK(search_iq4<arch::native>(x.data(), ones.data()) != 0);
  x[3] = std::nextafter(zero_group_magnitude, 0.0F);
  CHECK(search_iq4<arch::native>(x.data(), ones.data()) == 0);
}
