// SPDX-License-Identifier: Apache-2.0
/// MXFP4: the scale rule against libm's log2f, values of every byte, codes against a search.
#include "subbyte/format/mxfp4.hpp"

#include <cmath>
#include <vector>

#include "support/all_binary32.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;

/// The reference rule, for a finite positive magnitude: floor(log2f) - 2, in a byte with bias 127.
/// What does not fit the byte is undefined there and limited here.
int rule(float largest) {
  return std::max(0, static_cast<int>(std::floor(std::log2(largest))) - 2 + 127);
}

/// The table of the reference decoder: doubled FP4 values, +0 for code 8.
constexpr int doubled[16] = {0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12};

/// A block by the reference algorithm: the first code of least |F * 2^(e - 128) - w| in fp32.
std::vector<int> searched(const std::vector<float>& w, int e) {
  const float scale = std::ldexp(1.0F, e - 128);
  std::vector<int> codes;
  for (const float v : w) {
    int best = 0;
    float least = std::fabs(static_cast<float>(doubled[0]) * scale - v);
    for (int code = 1; code < 16; ++code) {
      const float error = std::fabs(static_cast<float>(doubled[code]) * scale - v);
      if (error < least) {
        least = error;
        best = code;
      }
    }
    codes.push_back(best);
  }
  return codes;
}

}  // namespace

TEST_CASE("mxfp4: the scale follows libm's log2f around every power of two") {
  int wrong = 0;
  for (std::uint32_t field = 0; field < 255; ++field) {
    for (std::uint32_t step = 0; step < 300; ++step) {
      for (const std::uint32_t mantissa : {step, 0x7FFFFFU - step, step * 27963U}) {
        const float largest = bit_cast<float>(field << 23 | mantissa);
        if (largest == 0) continue;
        wrong += mxfp4::scale_for(largest).bits == rule(largest) ? 0 : 1;
      }
    }
  }
  CHECK(wrong == 0);
}

TEST_CASE("mxfp4: the scale follows libm's log2f for every positive float", "[.slow]") {
  const std::string report = test_support::over_all_binary32([](test_support::tally& tally,
                                                                std::uint32_t bits) {
    if (bits == 0 || bits >= 0x7F800000U) return;
    const float largest = bit_cast<float>(bits);
    tally.compare(bits, mxfp4::scale_for(largest).bits, static_cast<std::uint64_t>(rule(largest)));
  });
  CHECK(report == "all equal");
}

TEST_CASE("mxfp4: 44 floats below 2^100 count as 2^100, 22 below 2^40, none below 2") {
  const auto scale_below = [](float power, int steps) {
    return mxfp4::scale_for(
               bit_cast<float>(bit_cast<std::uint32_t>(power) - static_cast<std::uint32_t>(steps)))
        .bits;
  };
  CHECK(scale_below(0x1p100F, 44) == 225);
  CHECK(scale_below(0x1p100F, 45) == 224);
  CHECK(scale_below(0x1p40F, 22) == 165);
  CHECK(scale_below(0x1p40F, 23) == 164);
  CHECK(scale_below(2.0F, 1) == 125);
  CHECK(scale_below(1.0F, 1) == 124);
}

TEST_CASE("mxfp4: the scale of zero, of tiny and of not finite magnitudes is defined") {
  CHECK(mxfp4::scale_for(0.0F).bits == 0);
  CHECK(mxfp4::scale_for(1e-45F).bits == 0);
  CHECK(mxfp4::scale_for(0x1p-125F).bits == 0);
  CHECK(mxfp4::scale_for(0x1p-124F).bits == 1);
  CHECK(mxfp4::scale_for(3.4028235e38F).bits == 253);
  CHECK(mxfp4::scale_for(HUGE_VALF).bits == 254);
  CHECK(mxfp4::scale_for(std::nanf("")).bits == 254);
}

TEST_CASE("mxfp4: every scale and code decodes exactly, with +0 for code 8") {
  for (int e = 0; e < 255; ++e) {
    for (int code = 0; code < 16; ++code) {
      const double exact = std::ldexp(doubled[code], e - 128);
      const float value = mxfp4::value(code, 0, {e8m0::from_bits(static_cast<std::uint8_t>(e))});
      const double limit = 3.4028234663852886e38;
      const double expected = exact > limit ? HUGE_VAL : (exact < -limit ? -HUGE_VAL : exact);
      if (value != expected || std::signbit(value) != (doubled[code] < 0)) {
        FAIL("scale " << e << ", code " << code << ": " << value);
      }
    }
  }
  for (int code = 0; code < 16; ++code) {
    CHECK(std::isnan(mxfp4::value(code, 0, {e8m0::from_bits(255)})));
  }
}

TEST_CASE("mxfp4: the largest floats saturate at the largest finite value of their scale") {
  const std::vector<float> w(32, -3.4028235e38F);
  const mxfp4 block = encode<mxfp4, arch::native>(w.data(), nullptr, 0);
  float values[32];
  decode(block, values);
  CHECK(block.scale.bits == 253);
  CHECK(values[0] == -3 * 0x1p126F);
}

TEST_CASE("mxfp4: codes are those of a search over the table in fp32, for weights of any size") {
  std::mt19937_64 generator(5);
  for (int draw = 0; draw < 4000; ++draw) {
    const int exponent = static_cast<int>(generator() % 274) - 149;
    std::vector<float> w(32);
    for (float& v : w) {
      // Multiples of 1/4 hit the midpoints between codes; the others are arbitrary.
      const double draw_in = 16 * test_support::uniform(generator) - 8;
      const double rounded = std::floor(draw_in * 4) / 4;
      v = static_cast<float>(std::ldexp(draw % 2 == 0 ? rounded : draw_in, exponent));
    }
    float largest = 0;
    for (const float v : w) largest = std::max(largest, std::fabs(v));
    if (!(largest > 0)) continue;
    const mxfp4 block = encode<mxfp4, arch::native>(w.data(), nullptr, 0);
    const std::vector<int> expected = searched(w, rule(largest));
    const auto u = mxfp4::split(block);
    INFO("exponent " << exponent << ", largest " << largest);
    CHECK(block.scale.bits == rule(largest));
    int wrong = 0;
    for (int i = 0; i < 32; ++i) {
      wrong += u.codes[i] == expected[static_cast<std::size_t>(i)] ? 0 : 1;
    }
    CHECK(wrong == 0);
  }
}
