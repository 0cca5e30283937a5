// SPDX-License-Identifier: Apache-2.0
/// JSON values: parsed, changed, compared and written.
#include "subbyte/io/json_value.hpp"

#include <limits>

#include "support/allocation_peak.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"

using subbyte::index_t;
using subbyte::json_kind;
using subbyte::json_value;
using subbyte::parse_json;

TEST_CASE("json_value: every kind of value is kept as it was written") {
  const json_value v = parse_json(
      R"({"a": [1, -2, {"b": 1e-05}, [], {}], "c": null, "d": "x\n\u00e9", "e": true, "f": 1.50})",
      "text");
  CHECK(v.is_object());
  CHECK(v.members().size() == 5);
  CHECK(v.members()[1].key == "c");
  const auto& list = v.find("a")->items();
  CHECK(list.size() == 5);
  CHECK(list[0].integer() == 1);
  CHECK(list[1].integer() == -2);
  CHECK(list[2].find("b")->kind() == json_kind::real);
  CHECK(list[2].find("b")->text() == "1e-05");
  CHECK_FALSE(list[2].find("b")->integer());
  CHECK(list[3].kind() == json_kind::array);
  CHECK(v.find("c")->is_null());
  CHECK(v.find("d")->text() == "x\n\xC3\xA9");
  CHECK(v.find("e")->boolean());
  CHECK_FALSE(v.find("d")->boolean());
  CHECK(v.find("f")->text() == "1.50");
  CHECK(v.find("g") == nullptr);
  CHECK(list[0].find("g") == nullptr);
  CHECK(parse_json(v.to_text(), "again") == v);
}

TEST_CASE("json_value: texts are laid out as Python's json.dumps does with an indent of 2") {
  json_value v = json_value::object();
  v.set("list", json_value::array({"a", "b\"c"}))
      .set("none", json_value())
      .set("empty", json_value::array())
      .set("inner", json_value::object().set("n", -7).set("yes", true))
      .set("nothing", json_value::object());
  CHECK(v.to_text() == R"({
  "list": [
    "a",
    "b\"c"
  ],
  "none": null,
  "empty": [],
  "inner": {
    "n": -7,
    "yes": true
  },
  "nothing": {}
})");
}

TEST_CASE("json_value: members are replaced in their place, added behind, and removed") {
  json_value v = json_value::object();
  v.set("a", 1).set("b", 2).set("a", "x");
  CHECK(v.members().size() == 2);
  CHECK(v.members()[0].value.text() == "x");
  v.erase("a");
  v.erase("c");
  CHECK(v.members().size() == 1);
  CHECK(v.members()[0].key == "b");
  json_value list = json_value::array();
  list.append(3);
  CHECK(list.items()[0].integer() == 3);
}

TEST_CASE("json_value: equality goes by members, items and written numbers") {
  const auto equal = [](const char* a, const char* b) {
    return parse_json(a, "a") == parse_json(b, "b");
  };
  CHECK(equal(R"({"a":1,"b":[1,2]})", R"({ "b": [1, 2], "a": 1 })"));
  CHECK_FALSE(equal(R"({"a":1})", R"({"b":1})"));
  CHECK_FALSE(equal(R"({"a":1})", R"({"a":2})"));
  CHECK_FALSE(equal(R"({"a":1})", R"({"a":1,"b":1})"));
  CHECK_FALSE(equal("[1,2]", "[2,1]"));
  CHECK_FALSE(equal("[1]", "[1,1]"));
  CHECK_FALSE(equal("1", "1.0"));
  CHECK_FALSE(equal("true", "false"));
  CHECK_FALSE(equal("[]", "{}"));
  CHECK_FALSE(equal("\"1\"", "1"));
  CHECK_FALSE(equal("null", "\"\""));
}

TEST_CASE("json_value: integers up to the ends of their range") {
  const auto integer = [](const char* text) { return parse_json(text, "n").integer(); };
  CHECK(integer("9223372036854775807") == std::numeric_limits<index_t>::max());
  CHECK(integer("-9223372036854775808") == std::numeric_limits<index_t>::min());
  CHECK_FALSE(integer("9223372036854775808"));
  CHECK_FALSE(integer("18446744073709551615"));
  CHECK_FALSE(integer("99999999999999999999"));
  CHECK(integer("0") == 0);
  CHECK(integer("-0") == 0);
  CHECK_FALSE(integer("1.0"));
  CHECK_FALSE(integer("\"1\""));
  CHECK_FALSE(integer("null"));
}

TEST_CASE("json_value: what read_json refuses is refused") {
  for (const char* text : {"", "{", "[1,]", R"({"a":1,"a":2})", "1 2", "nul"}) {
    CAPTURE(text);
    CHECK(test_support::error_of([&] { (void)parse_json(text, "f"); }).code() ==
          subbyte::errc::bad_metadata);
  }
}

TEST_CASE("json_value: a number has a value, whatever it is written as") {
  const json_value v = subbyte::parse_json(
      R"([0, -7, 1e3, -2.5, 18446744073709551615, 1e-300, "1", true, null])", "text");
  const std::optional<double> expected[] = {0.0,    -7.0,         1000.0,       -2.5, 0x1p64,
                                            1e-300, std::nullopt, std::nullopt, {}};
  REQUIRE(v.items().size() == 9);
  for (std::size_t i = 0; i < 9; ++i) {
    CAPTURE(i);
    CHECK(v.items()[i].number() == expected[i]);
  }
  CHECK(json_value(index_t{-3}).number() == -3.0);
}

TEST_CASE("json_value: memory of texts that are made to cost much") {
  constexpr int count = 16385;  // just after a list has grown
  const auto joined = [](const std::string& begin, const auto& item, const std::string& end) {
    std::string text = begin;
    for (int i = 0; i < count; ++i) text += (i == 0 ? "" : ",") + item(i);
    return text + end;
  };
  const auto key = [](int i) {
    std::string text{'"', static_cast<char>('a' + i % 26), static_cast<char>('A' + i / 26 % 26)};
    return text + static_cast<char>('a' + i / 676) + '"';
  };
  using std::string;
  const string deep = string(31, '[') + string(31, ']');
  string nested = "0";
  for (int level = 0; level < 30; ++level) nested = "[0,0," + nested + "]";
  const string texts[] = {
      joined(
          "[", [](int) { return string("0"); }, "]"),
      joined(
          "[", [](int) { return string("[]"); }, "]"),
      joined(
          "[", [](int) { return string("[0]"); }, "]"),
      joined(
          "[", [](int) { return string("\"\""); }, "]"),
      joined(
          "[", [](int) { return string("-1e-99999999999999999"); }, "]"),
      joined(
          "{", [&](int i) { return key(i) + ":0"; }, "}"),
      joined(
          "{", [&](int i) { return key(i) + ":{}"; }, "}"),
      joined(
          "[", [](int) { return string("{\"\":{\"\":0}}"); }, "]"),
      joined(
          "[", [&](int) { return deep; }, "]"),
      joined(
          "[", [&](int) { return nested; }, "]"),
      "\"" + string(400000, 'x') + "\"",
      "{\"" + string(400000, 'x') + "\":0}",
      string(400000, '['),
      joined(
          "[", [](int) { return string("0"); }, ""),  // refused at its end
  };
  for (const string& text : texts) {
    CAPTURE(text.substr(0, 40), text.size());
    const test_support::allocation_peak peak;
    try {
      (void)parse_json(text, "text");
    } catch (const subbyte::error&) {
    }
    const std::size_t allocated = peak.bytes();
    CHECK(allocated <= subbyte::json_memory_factor * text.size() + 16384);
    CHECK(allocated > 0);
  }
}
