// SPDX-License-Identifier: Apache-2.0
/// Tests of core/constant_table.hpp.
#include "subbyte/core/constant_table.hpp"

#include "support/catch.hpp"

namespace {

struct squares {
  static constexpr subbyte::constant_array<int, 4> values() noexcept { return {{0, 1, 4, 9}}; }
};

}  // namespace

TEST_CASE("constant table: the same elements at compile time and at run time") {
  static_assert(subbyte::look_up<squares>(3) == 9);
  for (int i = 0; i < 4; ++i) CHECK(subbyte::look_up<squares>(i) == i * i);
}
