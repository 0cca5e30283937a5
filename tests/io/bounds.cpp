// SPDX-License-Identifier: Apache-2.0
/// Sums, products and paddings of claimed sizes.
#include "subbyte/io/bounds.hpp"

#include <vector>

#include "support/catch.hpp"

namespace {

constexpr subbyte::index_t largest = std::numeric_limits<subbyte::index_t>::max();
using limits = std::vector<subbyte::index_t>;
__extension__ using wide = __int128;

const limits edges = {0,
                      1,
                      2,
                      3,
                      31,
                      32,
                      33,
                      (1LL << 31) - 1,
                      1LL << 31,
                      (1LL << 32) - 1,
                      1LL << 32,
                      3037000499,
                      3037000500,
                      1LL << 61,
                      (1LL << 62) - 1,
                      1LL << 62,
                      largest - 31,
                      largest - 1,
                      largest};

}  // namespace

TEST_CASE("bounds: sums and products equal those of 128 bits or are refused") {
  for (const subbyte::index_t a : edges) {
    for (const subbyte::index_t b : edges) {
      const wide sum = wide{a} + b;
      const wide product = wide{a} * b;
      const auto checked_sum = subbyte::checked_add(a, b);
      const auto checked_product = subbyte::checked_multiply(a, b);
      REQUIRE(checked_sum.has_value() == (sum <= largest));
      REQUIRE(checked_product.has_value() == (product <= largest));
      if (checked_sum) REQUIRE(*checked_sum == sum);
      if (checked_product) REQUIRE(*checked_product == product);
    }
  }
}

TEST_CASE("bounds: padding goes to the next multiple and never wraps") {
  for (subbyte::index_t alignment = 1; alignment <= (1 << 20); alignment *= 2) {
    for (const subbyte::index_t a : edges) {
      const wide padded = (wide{a} + alignment - 1) / alignment * alignment;
      const auto checked = subbyte::checked_pad(a, alignment);
      REQUIRE(checked.has_value() == (wide{a} + alignment - 1 <= largest));
      if (checked) REQUIRE(*checked == padded);
    }
  }
}

TEST_CASE("bounds: an array's size is its product, and a zero does not hide an overflow") {
  REQUIRE(subbyte::checked_size(limits{}) == 1);
  REQUIRE(subbyte::checked_size(limits{7}) == 7);
  REQUIRE(subbyte::checked_size(limits{2, 3, 5}) == 30);
  REQUIRE(subbyte::checked_size(limits{2, 0, 5}) == 0);
  REQUIRE(subbyte::checked_size(limits{largest}) == largest);
  REQUIRE(!subbyte::checked_size(limits{1LL << 32, 1LL << 31}));
  // The wrapped product of these is zero.
  REQUIRE(!subbyte::checked_size(limits{1LL << 32, 1LL << 32}));
  REQUIRE(!subbyte::checked_size(limits{0, 1LL << 32, 1LL << 32}));
  REQUIRE(!subbyte::checked_size(limits{1LL << 32, 1LL << 32, 0}));
}

TEST_CASE("bounds: an array without elements has no absurd extents") {
  constexpr subbyte::index_t most = subbyte::max_empty_extents;
  REQUIRE(most == 2147483647);
  REQUIRE(subbyte::checked_size(limits{0, most}) == 0);
  REQUIRE(subbyte::checked_size(limits{most, 0, 0}) == 0);
  REQUIRE(!subbyte::checked_size(limits{0, most + 1}));
  REQUIRE(!subbyte::checked_size(limits{most + 1, 0}));
  REQUIRE(!subbyte::checked_size(limits{65536, 0, 32768}));
  REQUIRE(subbyte::checked_size(limits{most + 1, 1}) == most + 1);
}
