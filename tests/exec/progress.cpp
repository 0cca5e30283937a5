// SPDX-License-Identifier: Apache-2.0
/// What a progress_ref binds to, calls and answers.
#include "subbyte/exec/progress.hpp"

#include <type_traits>
#include <vector>

#include "support/catch.hpp"

using subbyte::progress_ref;

namespace {

bool never(double) { return false; }

struct counter {
  int calls = 0;
  bool operator()(double) {
    ++calls;
    return calls < 3;
  }
};

// A temporary would be gone before it is called.
static_assert(!std::is_constructible_v<progress_ref, counter&&>);
static_assert(std::is_convertible_v<counter&, progress_ref>);
static_assert(!std::is_constructible_v<progress_ref, int&>);
static_assert(std::is_trivially_copyable_v<progress_ref>);

}  // namespace

TEST_CASE("progress_ref: without a callback the work goes on") {
  REQUIRE(progress_ref{}(0.0));
  REQUIRE(progress_ref{}(1.0));
}

TEST_CASE("progress_ref: hands on the fraction and the answer") {
  std::vector<double> seen;
  auto callback = [&](double fraction) {
    seen.push_back(fraction);
    return fraction < 0.5;
  };
  const progress_ref progress = callback;
  REQUIRE(progress(0.25));
  REQUIRE_FALSE(progress(0.75));
  REQUIRE(seen == std::vector<double>{0.25, 0.75});
}

TEST_CASE("progress_ref: refers, so that copies share the callable's state") {
  counter count;
  const progress_ref first = count;
  const progress_ref second = first;
  REQUIRE(first(0.1));
  REQUIRE(second(0.2));
  REQUIRE_FALSE(first(0.3));
  REQUIRE(count.calls == 3);
}

TEST_CASE("progress_ref: takes a function") {
  bool (*function)(double) = never;
  REQUIRE_FALSE(progress_ref(function)(0.5));
}
