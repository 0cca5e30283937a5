// SPDX-License-Identifier: Apache-2.0
#include "subbyte/layout/exllama.hpp"

#include <vector>

#include "support/catch.hpp"
#include "support/packed.hpp"

namespace {

using test_support::counting;
using test_support::packed;
using test_support::packed_words;
using bytes = std::vector<std::uint8_t>;
using words = std::vector<std::uint32_t>;

}  // namespace

TEST_CASE("exllama: the published words of 2 and 4 bits") {
  CHECK(packed_words<subbyte::exllama<4>>(counting(8, 16), 1) == words{0x75316420U});
  CHECK(packed_words<subbyte::exllama<2>>(counting(16, 4), 1) == words{0xDDDD8888U});
}

TEST_CASE("exllama: 8-bit words are those of the file") {
  const bytes codes = counting(64, 251);
  CHECK(packed<subbyte::exllama<8>>(codes, 2) == packed<subbyte::gptq_int32<8>>(codes, 2));
}

TEST_CASE("exllama: two codes at a time come out under one mask") {
  // What a kernel does: shift right by the width, mask the lowest code of both halves.
  bytes codes = counting(32, 7);
  codes[30] = 5;
  codes[31] = 6;
  const words three = packed_words<subbyte::exllama<3>>(codes, 1);
  REQUIRE(three.size() == 3);
  for (unsigned y = 0; y < 3; ++y) {
    for (unsigned j = 0; j < 5; ++j) {
      const std::uint32_t pair = three[y] >> (3 * j) & 0x00070007U;
      CHECK((pair & 7) == codes[10 * y + 2 * j]);
      CHECK(pair >> 16 == codes[10 * y + 2 * j + 1]);
    }
  }
  // The last two codes are spread over the spare bits.
  const std::uint32_t last = (three[0] >> 15 & 0x00010001U) | (three[1] >> 14 & 0x00020002U) |
                             (three[2] >> 13 & 0x00040004U);
  CHECK(last == 0x00060005U);
  for (auto& c : codes) c = c & 3;
  const words two = packed_words<subbyte::exllama<2>>(codes, 1);
  REQUIRE(two.size() == 2);
  for (unsigned i = 0; i < 16; ++i) {
    const std::uint32_t pair = two[i / 8] >> (2 * (i % 8)) & 0x00030003U;
    CHECK((pair & 3) == codes[2 * i]);
    CHECK(pair >> 16 == codes[2 * i + 1]);
  }
}

TEST_CASE("exllama: shapes that do not fill words are refused") {
  CHECK(subbyte::exllama<3>::accepts({3, 32}));
  CHECK_FALSE(subbyte::exllama<3>::accepts({3, 16}));
  CHECK_FALSE(subbyte::exllama<4>::accepts({3, 4}));
}
