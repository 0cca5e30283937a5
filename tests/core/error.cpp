// SPDX-License-Identifier: Apache-2.0
#include "subbyte/core/error.hpp"

#include <stdexcept>
#include <string>
#include <type_traits>

#include "support/catch.hpp"
#include "support/error_of.hpp"

using namespace subbyte;

static_assert(std::is_base_of_v<std::runtime_error, error>);

TEST_CASE("error: carries its code, its subject and both in one line") {
  const error e(errc::bad_shape, "blk.0.ffn_up.weight", "found 3, required 4");
  CHECK(e.code() == errc::bad_shape);
  CHECK(e.subject() == "blk.0.ffn_up.weight");
  CHECK(std::string(e.what()) == "blk.0.ffn_up.weight: found 3, required 4");
}

TEST_CASE("error: a copy keeps the subject when the original is gone") {
  const auto copy_of = [](const error& e) { return e; };
  const error copy = copy_of(error(errc::truncated, std::string(100, 's'), "ends early"));
  CHECK(copy.code() == errc::truncated);
  CHECK(copy.subject() == std::string(100, 's'));
}

#if defined(__cpp_exceptions)
TEST_CASE("error: throw_error throws what it is given") {
  for (const errc code : {errc::bad_magic, errc::not_found, errc::non_finite, errc::io}) {
    const error e =
        test_support::error_of([code] { throw_error(code, "a file", "is not what it says"); });
    CHECK(e.code() == code);
    CHECK(e.subject() == "a file");
    CHECK(std::string(e.what()) == "a file: is not what it says");
  }
}
#endif
