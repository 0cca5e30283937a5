// SPDX-License-Identifier: Apache-2.0
/// TQ1_0's bytes: five ternary digits each, whichever they are, and the digits' places.
#include "subbyte/format/tq1_0.hpp"

#include <set>

#include "support/catch.hpp"

using subbyte::tq1_0;

TEST_CASE("tq1_0: every five digits have a byte of their own and come back") {
  std::set<int> bytes;
  for (int number = 0; number < 243; ++number) {
    tq1_0::codes c{};
    int rest = number;
    for (int digit = 4; digit >= 0; --digit) {  // of the first byte, the last one least
      c[32 * digit] = static_cast<std::uint8_t>(rest % 3);
      rest /= 3;
    }
    const tq1_0 block = tq1_0::join({}, c);
    CHECK(tq1_0::split(block).codes == c);
    // number / 243 as a fraction of 256, rounded up.
    const int byte = block.codes_packed[0];
    CHECK((byte * 243 >= number * 256 && (byte - 1) * 243 < number * 256));
    CHECK(bytes.insert(byte).second);
  }
}

TEST_CASE("tq1_0: each weight has one digit of one byte") {
  const tq1_0 none = tq1_0::join({}, {});
  std::set<int> seen;
  for (int j = 0; j < 256; ++j) {
    tq1_0::codes c{};
    c[j] = 1;
    const tq1_0 block = tq1_0::join({}, c);
    int place = -1;
    for (int i = 0; i < 52; ++i) {
      const int byte = i < 48 ? block.codes_packed[i] : block.codes_rest[i - 48];
      const int zero = i < 48 ? none.codes_packed[i] : none.codes_rest[i - 48];
      if (byte == zero) continue;
      CHECK(place == -1);
      place = i * 256 + byte;  // the byte tells the digit: 256 / 3^(n + 1) rounded up
    }
    CAPTURE(j);
    CHECK(place >= 0);
    CHECK(seen.insert(place).second);
    CHECK(place / 256 == (j < 160 ? j % 32 : j < 240 ? 32 + (j - 160) % 16 : 48 + (j - 240) % 4));
  }
}
