// SPDX-License-Identifier: Apache-2.0
#include "subbyte/core/bits.hpp"

#include <cstring>
#include <limits>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

static_assert(bit_cast<std::uint32_t>(1.0F) == 0x3F800000U);
static_assert(bit_cast<float>(0xC0000000U) == -2.0F);
static_assert(ceil_div(7, 3) == 3 && ceil_div(6, 3) == 2);

constexpr bool stored_and_loaded(std::uint64_t value) {
  std::uint8_t bytes[8] = {};
  store_le(bytes, value);
  return load_le<std::uint64_t>(bytes) == value;
}
static_assert(stored_and_loaded(0x0123456789ABCDEFU));

}  // namespace

TEST_CASE("ceil_div: the smallest q with q * b >= a") {
  for (index_t b = 1; b <= 70; ++b) {
    for (index_t a = 0; a <= 300; ++a) {
      CAPTURE(a, b);
      const index_t q = ceil_div(a, b);
      CHECK(q * b >= a);
      CHECK((q == 0 ? a == 0 : (q - 1) * b < a));
    }
  }
}

TEST_CASE("ceil_div: the largest numbers do not overflow") {
  const index_t most = std::numeric_limits<index_t>::max();
  CHECK(ceil_div(most, 1) == most);
  CHECK(ceil_div(most, most) == 1);
  CHECK(ceil_div(most - 1, most) == 1);
  CHECK(ceil_div(most, 2) == most / 2 + 1);
}

TEST_CASE("load_le and store_le: bytes least significant first, at any address") {
  std::uint8_t bytes[16] = {};
  for (unsigned i = 0; i < 16; ++i) bytes[i] = static_cast<std::uint8_t>(0x80 + 17 * i);
  for (int at = 0; at < 8; ++at) {
    CAPTURE(at);
    // Little-endian machines only: the value in memory is the value.
    std::uint64_t wide = 0;
    std::uint32_t word = 0;
    std::uint16_t narrow = 0;
    std::memcpy(&wide, bytes + at, 8);
    std::memcpy(&word, bytes + at, 4);
    std::memcpy(&narrow, bytes + at, 2);
    CHECK(load_le<std::uint64_t>(bytes + at) == wide);
    CHECK(load_le<std::uint32_t>(bytes + at) == word);
    CHECK(load_le<std::uint16_t>(bytes + at) == narrow);
    CHECK(load_le<std::uint8_t>(bytes + at) == bytes[at]);

    std::uint8_t out[16] = {};
    store_le(out + at, wide);
    CHECK(std::memcmp(out + at, bytes + at, 8) == 0);
    std::memset(out, 0x5A, sizeof out);
    store_le(out + at, narrow);
    CHECK(std::memcmp(out + at, bytes + at, 2) == 0);
    CHECK(out[at + 2] == 0x5A);  // nothing beyond the value
  }
}
