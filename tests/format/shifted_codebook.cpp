// SPDX-License-Identifier: Apache-2.0
/// The codebooks that come in two positions, and the integers of group scales.
#include "subbyte/format/shifted_codebook.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "subbyte/core/type_list.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;

using codebooks = type_list<iq2, iq3, iq4_shifted, iq5, iq6>;

/// The last of the nearest codes, by comparing with every one.
template <class C>
int searched(float x) {
  int best = 0;
  for (int code = 1; code < 1 << C::bits; ++code) {
    const double sum = static_cast<double>(C::value(best)) + static_cast<double>(C::value(code));
    if (2.0 * static_cast<double>(x) >= sum) best = code;
  }
  return best;
}

}  // namespace

TEST_CASE("shifted codebooks ascend, and nearest is nearest, ties to the upper code") {
  for_each_type(codebooks{}, [](auto tag) {
    using C = typename decltype(tag)::type;
    constexpr int last = (1 << C::bits) - 1;
    std::vector<float> values{0.0F, -0.0F, 1e30F, -1e30F, HUGE_VALF, -HUGE_VALF};
    for (int code = 0; code <= last; ++code) {
      CHECK(C::nearest(C::value(code)) == code);
      if (code == last) break;
      CHECK(C::value(code) < C::value(code + 1));
      const float middle = 0.5F * (C::value(code) + C::value(code + 1));
      values.push_back(middle);
      values.push_back(std::nextafter(middle, HUGE_VALF));
      values.push_back(std::nextafter(middle, -HUGE_VALF));
    }
    std::mt19937_64 generator(71);
    for (int draw = 0; draw < 2000; ++draw) {
      values.push_back(static_cast<float>(300 * (test_support::uniform(generator) - 0.5)));
    }
    for (const float x : values) {
      INFO(last + 1 << " codes, " << x);
      CHECK(C::nearest(x) == searched<C>(x));
    }
    CHECK(C::nearest(std::numeric_limits<float>::quiet_NaN()) == last);
  });
}

TEST_CASE("iq6's polynomial has the rounded values of ik_llama.cpp's integer table at its ends") {
  CHECK(iq6::value(0) == -127);
  CHECK(std::lround(iq6::value(1)) == -121);
  CHECK(std::lround(iq6::value(32)) == -2);
  CHECK(std::lround(iq6::value(63)) == 121);
  // The last place tells the order of operations; a fused one would give other bits for some code.
  int differs = 0;
  for (int code = 0; code < 64; ++code) {
    const float q = static_cast<float>(code);
    const float fused =
        std::fmaf(q, std::fmaf(q, std::fmaf(q, 0.0011972F, -0.11218F), 6.2568F), -127.0F);
    differs += fused != iq6::value(code) ? 1 : 0;
    CHECK(std::fabs(fused - iq6::value(code)) < 1e-4F);
  }
  CHECK(differs > 0);
}

TEST_CASE("scale levels: nearest is nearest, and what it gives is among them") {
  for (const scale_levels levels : {scale_levels{-8, 1, 16}, scale_levels{-31, 2, 32},
                                    scale_levels{-127, 2, 128}, scale_levels{-128, 1, 256}}) {
    std::mt19937_64 generator(72);
    for (int draw = 0; draw < 2000; ++draw) {
      const auto x = static_cast<float>(400 * (test_support::uniform(generator) - 0.5));
      const int level = levels.nearest(x);
      CHECK((level - levels.first) % levels.step == 0);
      CHECK(level >= levels.first);
      CHECK(level <= levels.last());
      const float distance = std::fabs(x - static_cast<float>(level));
      for (int k = 0; k < levels.count; ++k) {
        const auto other = static_cast<float>(levels.first + levels.step * k);
        // x - first is rounded: below 512 by at most 2^-15.
        if (std::fabs(x - other) < distance - 0x1p-14F) FAIL(other << " is nearer to " << x);
      }
    }
    CHECK(levels.nearest(1e30F) == levels.last());
    CHECK(levels.nearest(-1e30F) == levels.first);
    CHECK(levels.nearest(std::numeric_limits<float>::quiet_NaN()) == levels.first);
  }
}
