// SPDX-License-Identifier: Apache-2.0
#include "subbyte/format/affine_superblock.hpp"

#include <cstdint>
#include <cstring>
#include <random>

#include "support/catch.hpp"

using namespace subbyte;

TEST_CASE("affine_superblock: the layout of each 6-bit field, by hand") {
  // One field at a time at 63 = 0b111111; the rest zero.
  for (int k = 0; k < 8; ++k) {
    std::uint8_t scales[8] = {};
    std::uint8_t minimums[8] = {};
    std::uint8_t bytes[12] = {};
    std::uint8_t expected[12] = {};
    scales[k] = 63;
    pack_6bit_pairs(scales, minimums, bytes);
    if (k < 4) {
      expected[k] = 0x3F;
    } else {
      expected[k + 4] = 0x0F;
      expected[k - 4] = 0xC0;
    }
    INFO("scale " << k);
    REQUIRE(std::memcmp(bytes, expected, 12) == 0);

    scales[k] = 0;
    minimums[k] = 63;
    std::memset(expected, 0, 12);
    pack_6bit_pairs(scales, minimums, bytes);
    if (k < 4) {
      expected[k + 4] = 0x3F;
    } else {
      expected[k + 4] = 0xF0;
      expected[k] = 0xC0;
    }
    INFO("minimum " << k);
    REQUIRE(std::memcmp(bytes, expected, 12) == 0);
  }
}

TEST_CASE("affine_superblock: packing and unpacking are inverse, both ways") {
  std::mt19937_64 generator(41);
  for (int trial = 0; trial < 20000; ++trial) {
    std::uint8_t bytes[12];
    for (std::uint8_t& b : bytes) b = static_cast<std::uint8_t>(generator());
    std::uint8_t scales[8];
    std::uint8_t minimums[8];
    unpack_6bit_pairs(bytes, scales, minimums);
    for (int k = 0; k < 8; ++k) REQUIRE((scales[k] <= 63 && minimums[k] <= 63));
    std::uint8_t back[12];
    pack_6bit_pairs(scales, minimums, back);
    REQUIRE(std::memcmp(back, bytes, 12) == 0);
  }
}
