// SPDX-License-Identifier: Apache-2.0
/// The checks of a debug build, whatever this build is; expects_release.cpp has the other kind.
#undef NDEBUG
#include "subbyte/core/expects.hpp"

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <type_traits>

#include "support/catch.hpp"

namespace {

constexpr int expected(int value) {
  SUBBYTE_EXPECTS(value > 0);
  return value;
}
constexpr int asserted(int value) {
  SUBBYTE_ASSERT(value > 0);
  return value;
}
template <int Value>
concept expectation_met = requires {
  typename std::bool_constant<(expected(Value), true)>;
};
template <int Value>
concept assertion_met = requires {
  typename std::bool_constant<(asserted(Value), true)>;
};
static_assert(expectation_met<1> && !expectation_met<0>);
static_assert(assertion_met<1> && !assertion_met<0>);

/// The signal that ends a process which runs body; 0 if it returns.
template <class Body>
int signal_of(Body body) {
  const pid_t child = ::fork();
  if (child == 0) {
    // Catch's handlers would report the signal as a failed test.
    for (const int s : {SIGILL, SIGTRAP, SIGABRT}) std::signal(s, SIG_DFL);
    body();
    ::_exit(0);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  return WIFSIGNALED(status) ? WTERMSIG(status) : 0;
}

}  // namespace

TEST_CASE("expects: a broken expectation traps, a met one does nothing") {
  CHECK(signal_of([] { (void)expected(1); }) == 0);
  CHECK(signal_of([] { (void)expected(-1); }) != 0);
  CHECK(signal_of([] { (void)asserted(1); }) == 0);
  CHECK(signal_of([] { (void)asserted(-1); }) != 0);
}

TEST_CASE("expects: the condition is evaluated once") {
  int calls = 0;
  SUBBYTE_EXPECTS(++calls > 0);
  CHECK(calls == 1);
  SUBBYTE_ASSERT(++calls > 0);
  CHECK(calls == 2);
}
