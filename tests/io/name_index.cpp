// SPDX-License-Identifier: Apache-2.0
#include "subbyte/io/name_index.hpp"

#include <string>

#include "support/catch.hpp"

namespace io_name_index_test {

using namespace subbyte;

namespace {

using name_index = basic_name_index<arch::native>;

std::string_view name_of(const std::string& item) { return item; }

}  // namespace

TEST_CASE("name_index: finds every item by its name, and nothing else") {
  const std::vector<std::string> items = {"b", "", "a", "ab", "aa", "\xFF", "c", std::string(1, 0)};
  name_index index;
  REQUIRE_FALSE(index.assign(items, name_of));
  for (const std::string& item : items) CHECK(index.find(items, item, name_of) == &item);
  for (const char* absent : {"d", "A", "aaa", "ac", "bb", "\xFE", "\xFF\xFF"}) {
    CHECK(index.find(items, absent, name_of) == nullptr);
  }
}

TEST_CASE("name_index: an empty list has no names") {
  name_index index;
  const std::vector<std::string> items;
  CHECK(index.find(items, "", name_of) == nullptr);
  REQUIRE_FALSE(index.assign(items, name_of));
  CHECK(index.find(items, "", name_of) == nullptr);
}

TEST_CASE("name_index: a name that occurs again is reported with both positions, in order") {
  for (const std::size_t first : {0U, 1U, 3U}) {
    std::vector<std::string> items = {"m", "z", "a", "q", "f"};
    items.push_back(items[first]);
    const auto twice = name_index().assign(items, name_of);
    REQUIRE(twice.has_value());
    CHECK(twice->first == static_cast<index_t>(first));
    CHECK(twice->second == 5);
  }
}

TEST_CASE("name_index: a second list replaces the first") {
  name_index index;
  const std::vector<std::string> three = {"x", "y", "z"};
  const std::vector<std::string> one = {"y"};
  REQUIRE_FALSE(index.assign(three, name_of));
  REQUIRE_FALSE(index.assign(one, name_of));
  CHECK(index.find(one, "y", name_of) == &one[0]);
  CHECK(index.find(one, "z", name_of) == nullptr);
}

}  // namespace io_name_index_test
