// SPDX-License-Identifier: Apache-2.0
/// The checks with NDEBUG, and one that the user replaced.
#if !defined(NDEBUG)
#define NDEBUG
#endif
namespace {
int asserted = 0;
}
#define SUBBYTE_ASSERT(condition) ((condition) ? ++asserted : --asserted)
#include "subbyte/core/expects.hpp"
#include "support/catch.hpp"

TEST_CASE("expects: with NDEBUG an expectation is not even evaluated") {
  int calls = 0;
  SUBBYTE_EXPECTS(++calls > 0);
  SUBBYTE_EXPECTS(calls > 0);
  CHECK(calls == 0);
  STATIC_REQUIRE(std::is_void_v<decltype(SUBBYTE_EXPECTS(calls > 0))>);
}

TEST_CASE("expects: a check that the user defined first is the one that runs") {
  SUBBYTE_ASSERT(1 > 0);
  CHECK(asserted == 1);
  SUBBYTE_ASSERT(asserted > 1);
  CHECK(asserted == 0);
}
