// SPDX-License-Identifier: Apache-2.0
/// NVFP4's scales: which code the reference encoder stores for a float, and what codes mean.
#include "subbyte/format/nvfp4.hpp"

#include <cmath>
#include <limits>

#include "support/catch.hpp"

namespace {

using subbyte::nvfp4;
using subbyte::ue4m3;

int code_of(float x) { return nvfp4::stored_scale(x).bits; }
float value_of(int code) { return ue4m3::from_bits(static_cast<std::uint8_t>(code)).to_float(); }
float below(float x) { return std::nextafter(x, 0.0F); }

}  // namespace

TEST_CASE("nvfp4: a scale goes to the nearest code, halves up") {
  for (int code = 0; code < 0x77; ++code) {
    CAPTURE(code);
    CHECK(code_of(value_of(code)) == code);
    const float middle = (value_of(code) + value_of(code + 1)) / 2;  // exact
    if (code == 7) continue;
    CHECK(code_of(middle) == code + 1);
    // The rule for subnormals adds a half in fp32, which itself rounds.
    CHECK(code_of(code < 8 ? middle * (1 - 0x1p-20F) : below(middle)) == code);
  }
}

TEST_CASE("nvfp4: the last subnormal code reaches to the first normal one") {
  CHECK(code_of(0x1p-6F) == 8);
  CHECK(code_of(below(0x1p-6F)) == 7);
}

TEST_CASE("nvfp4: from 248 on every scale is 448") {
  CHECK(value_of(0x77) == 240);
  CHECK(code_of(248.0F) == 0x7E);
  CHECK(code_of(below(248.0F)) == 0x77);
  CHECK(code_of(300.0F) == 0x7E);
  CHECK(code_of(std::numeric_limits<float>::infinity()) == 0x7E);
  CHECK(value_of(0x7E) == 448);
}

TEST_CASE("nvfp4: what is no positive scale is stored as 0") {
  CHECK(code_of(0.0F) == 0);
  CHECK(code_of(-1.0F) == 0);
  CHECK(code_of(std::numeric_limits<float>::quiet_NaN()) == 0);
  CHECK(code_of(std::numeric_limits<float>::denorm_min()) == 0);
}

TEST_CASE("nvfp4: a NaN scale decodes to zeros, code 8 to +0, and groups have their own scales") {
  nvfp4 block{};
  block.scales[0] = ue4m3::from_bits(0x7F);
  block.scales[1] = ue4m3::from_bits(0x38);  // 1
  block.scales[3] = ue4m3::from_bits(0x7E);  // 448
  for (int i = 0; i < 32; ++i) block.codes_packed[i] = 0xF8;
  float out[64];
  subbyte::decode(block, out);
  for (int i = 0; i < 64; ++i) {
    CAPTURE(i);
    const float largest = i / 16 == 1 ? 6.0F : i / 16 == 3 ? 6 * 448.0F : 0.0F;
    const bool high = i % 16 >= 8;
    CHECK(out[i] == (high ? -largest : 0));
    CHECK((high || !std::signbit(out[i])));
  }
}
