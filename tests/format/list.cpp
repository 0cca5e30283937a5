// SPDX-License-Identifier: Apache-2.0
/// Look-ups in the registry, by name and by GGUF tensor type number.
#include "subbyte/format/list.hpp"

#include <string>

#include "support/catch.hpp"

namespace {

using namespace subbyte;

/// The names of the formats that the look-up visits, with a space after each.
template <class List = all_formats, class Key>
std::string visited(Key key) {
  std::string names;
  const bool found = visit_format<List>(
      key, [&](auto format) { names += std::string(decltype(format)::type::name) + ' '; });
  CHECK(found == !names.empty());
  return names;
}

constexpr int block_size_of(const char* name) {
  int size = 0;
  visit_format(name, [&](auto format) { size = decltype(format)::type::block_size; });
  return size;
}
static_assert(block_size_of("iq4_xs") == 256 && block_size_of("Q4_0") == 32 &&
              block_size_of("q4") == 0);

}  // namespace

TEST_CASE("visit_format finds every format by its name, whatever the case") {
  for_each_type(all_formats{}, [](auto format) {
    const std::string name = decltype(format)::type::name;
    std::string upper = name;
    for (char& c : upper) c = c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    CHECK(visited(name.c_str()) == name + ' ');
    CHECK(visited(upper.c_str()) == name + ' ');
  });
}

TEST_CASE("visit_format finds no format for a name that is not one") {
  for (const char* name : {"", "q4_", "q4_00", "q4_0 ", "q4-0", "q4_K_M", "iq4_ks", "Q"}) {
    CHECK(visited(name) == "");
  }
  CHECK(visited(static_cast<const char*>(nullptr)) == "");
}

TEST_CASE("visit_format finds ik_llama.cpp's types, row-scaled ones in their own list") {
  CHECK(visited("IQ4_K") == "iq4_k ");
  CHECK(visited(133) == "q6_0 ");
  CHECK(visited(144) == "");
  CHECK(visited<row_scaled_formats>("IQ4_KS") == "iq4_ks ");
  CHECK(visited<row_scaled_formats>(146) == "iq4_kss ");
  CHECK(visited<file_formats>(141) == "iq6_k ");
  CHECK(visited<file_formats>(156) == "iq3_ks ");
  CHECK(visited<file_formats>(339) == "");
}

TEST_CASE("same_format_name ignores the case of ASCII letters and of nothing else") {
  for (int a = 1; a < 256; ++a) {
    for (int b = 1; b < 256; ++b) {
      const auto letter = [](int c) { return (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z'); };
      const bool expected = a == b || (letter(a) && letter(b) && (a ^ b) == 0x20);
      const char one[] = {'q', static_cast<char>(a), '\0'};
      const char other[] = {'Q', static_cast<char>(b), '\0'};
      if (same_format_name(one, other) != expected) FAIL(a << " and " << b);
    }
  }
  CHECK(same_format_name("", ""));
  CHECK(!same_format_name("q4", "q4_0"));
  CHECK(!same_format_name("q4_0", "q4"));
  CHECK(!same_format_name(nullptr, "q4_0"));
  CHECK(!same_format_name("q4_0", nullptr));
  CHECK(!same_format_name(nullptr, nullptr));
}

TEST_CASE("visit_format finds formats by GGUF type number, and partners not at all") {
  const char* const expected[] = {"f32 ",  "f16 ",  "q4_0 ", "q4_1 ", "",      "",
                                  "q5_0 ", "q5_1 ", "q8_0 ", "",      "q2_k ", "q3_k ",
                                  "q4_k ", "q5_k ", "q6_k ", ""};
  for (int number = 0; number < 16; ++number) CHECK(visited(number) == expected[number]);
  CHECK(visited(20) == "iq4_nl ");
  CHECK(visited(23U) == "iq4_xs ");
  CHECK(visited(std::uint32_t{30}) == "bf16 ");
  CHECK(visited(std::uint64_t{39}) == "mxfp4 ");
  CHECK(visited(34) == "tq1_0 ");
  CHECK(visited(35) == "tq2_0 ");
  CHECK(visited(40) == "nvfp4 ");
  CHECK(visited(41) == "q1_0 ");
  CHECK(visited(42) == "q2_0 ");
  CHECK(visited(16) == "iq2_xxs ");
  CHECK(visited(17) == "iq2_xs ");
  CHECK(visited(18) == "iq3_xxs ");
  CHECK(visited(19) == "iq1_s ");
  CHECK(visited(21) == "iq3_s ");
  CHECK(visited(22) == "iq2_s ");
  CHECK(visited(29) == "iq1_m ");
  for (const int number : {24, 28, 31, 33, 36, 38, 43, 1000}) {
    CHECK(visited(number) == "");
  }
}

TEST_CASE("visit_format does not wrap numbers outside 32 bits") {
  CHECK(visited(-1) == "");
  CHECK(visited(std::int64_t{-4294967294}) == "");
  CHECK(visited((std::uint64_t{1} << 32) + 2) == "");
}

TEST_CASE("visit_format walks a caller's own list") {
  using own = type_list<q4_0, q6_k>;
  CHECK(visited<own>("q6_k") == "q6_k ");
  CHECK(visited<own>("q5_k") == "");
  CHECK(visited<own>(2) == "q4_0 ");
  CHECK(visited<own>(8) == "");
}
