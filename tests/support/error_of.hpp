// SPDX-License-Identifier: Apache-2.0
/// The error that a call must end in.
#pragma once

#include <optional>

#include "subbyte/core/error.hpp"
#include "support/catch.hpp"

#if defined(__cpp_exceptions)
namespace test_support {

/// What a call that must fail throws; fails the test if it returns.
template <class Call>
[[nodiscard]] subbyte::error error_of(Call&& call) {
  std::optional<subbyte::error> caught;
  try {
    call();
  } catch (const subbyte::error& e) {
    caught = e;
  }
  if (!caught) FAIL("no subbyte::error was thrown");
  return *caught;
}

}  // namespace test_support
#endif
