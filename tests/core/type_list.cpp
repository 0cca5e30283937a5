// SPDX-License-Identifier: Apache-2.0
#include "subbyte/core/type_list.hpp"

#include <string>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

using three = type_list<char, short, int>;
static_assert(three::size == 3 && type_list<>::size == 0);
static_assert(contains_v<three, char> && contains_v<three, short> && contains_v<three, int>);
static_assert(!contains_v<three, long> && !contains_v<three, const int>);
static_assert(!contains_v<type_list<>, int> && !contains_v<int, int>);

static_assert(std::is_same_v<joined_t<three, type_list<char>>, type_list<char, short, int, char>>);
static_assert(std::is_same_v<joined_t<type_list<>, three>, three>);

constexpr std::size_t bytes_of(three list) {
  std::size_t sum = 0;
  for_each_type(list, [&]<class T>(std::type_identity<T>) { sum += sizeof(T); });
  return sum;
}
static_assert(bytes_of({}) == sizeof(char) + sizeof(short) + sizeof(int));

// The sizes visited, in order, until one is `wanted` bytes.
std::string visited(std::size_t wanted, bool& found) {
  std::string sizes;
  found = any_type(three{}, [&]<class T>(std::type_identity<T>) {
    sizes += std::to_string(sizeof(T));
    return sizeof(T) == wanted;
  });
  return sizes;
}

}  // namespace

TEST_CASE("type_list: for_each_type visits every type once, in order") {
  std::string sizes;
  for_each_type(three{},
                [&]<class T>(std::type_identity<T>) { sizes += std::to_string(sizeof(T)); });
  CHECK(sizes == "124");
  for_each_type(type_list<>{}, [&](auto) { sizes += "never"; });
  CHECK(sizes == "124");
}

TEST_CASE("type_list: any_type stops at the first type that says yes") {
  bool found = false;
  CHECK(visited(1, found) == "1");
  CHECK(found);
  CHECK(visited(2, found) == "12");
  CHECK(found);
  CHECK(visited(4, found) == "124");
  CHECK(found);
  CHECK(visited(99, found) == "124");
  CHECK_FALSE(found);
  CHECK_FALSE(any_type(type_list<>{}, [](auto) { return true; }));
}
