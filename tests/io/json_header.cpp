// SPDX-License-Identifier: Apache-2.0
/// JSON as a stream of located values, and what is not strict JSON.
#include "subbyte/io/json_header.hpp"

#include "support/files.hpp"

using subbyte::errc;
using subbyte::json_kind;
using test_support::contains;
using test_support::error_of;

namespace {

using path_view = subbyte::json_path<subbyte::arch::native>;

// Writes every event as text.
struct recorder {
  std::string log;

  static std::string place(path_view path) {
    std::string text = "$";
    for (const auto& step : path) {
      text += step.in_array ? "[" + std::to_string(step.index) + "]" : "." + step.key;
    }
    return text;
  }
  void open(path_view path, json_kind kind) {
    log += place(path) + (kind == json_kind::array ? " [\n" : " {\n");
  }
  void close(path_view path, json_kind kind) {
    log += place(path) + (kind == json_kind::array ? " ]\n" : " }\n");
  }
  void value(path_view path, const subbyte::json_scalar& s) {
    log += place(path) + " ";
    switch (s.kind) {
      case json_kind::null:
        log += "null";
        break;
      case json_kind::boolean:
        log += s.boolean ? "true" : "false";
        break;
      case json_kind::integer:
        log += (s.negative ? "-" : "") + std::to_string(s.magnitude);
        break;
      case json_kind::real:
        log += "real " + std::to_string(s.real);
        break;
      case json_kind::string:
        log += "\"" + std::string(s.text) + "\"";
        break;
      case json_kind::array:
      case json_kind::object:
        log += "?";
    }
    log += s.is_count() ? " count\n" : "\n";
  }
};

std::string events(std::string_view text) {
  recorder r;
  subbyte::read_json(text, "text", r);
  return r.log;
}

subbyte::error failure(std::string_view text) {
  return error_of([&] { (void)events(text); });
}

}  // namespace

TEST_CASE("json_header: every value comes with its place") {
  REQUIRE(events(R"( {"a": [1, {"b": "x"}, []], "c": null, "": {"d": true, "e": false}} )") ==
          "$ {\n"
          "$.a [\n"
          "$.a[0] 1 count\n"
          "$.a[1] {\n"
          "$.a[1].b \"x\"\n"
          "$.a[1] }\n"
          "$.a[2] [\n"
          "$.a[2] ]\n"
          "$.a ]\n"
          "$.c null\n"
          "$. {\n"
          "$..d true\n"
          "$..e false\n"
          "$. }\n"
          "$ }\n");
  REQUIRE(events("7") == "$ 7 count\n");
}

TEST_CASE("json_header: integers keep all 64 bits and their sign, others are reals") {
  REQUIRE(
      events(
          "[18446744073709551615, -9223372036854775808, -1, 0, 18446744073709551616, 1.5, -0]") ==
      "$ [\n"
      "$[0] 18446744073709551615 count\n"
      "$[1] -9223372036854775808\n"
      "$[2] -1\n"
      "$[3] 0 count\n"
      "$[4] real 18446744073709551616.000000\n"
      "$[5] real 1.500000\n"
      "$[6] -0\n"
      "$ ]\n");
}

TEST_CASE("json_header: the same key twice in one object is an error, in two objects it is not") {
  REQUIRE(!events(R"({"a": {"x": 1}, "b": {"x": 1}, "x": [{"a": 1}, {"a": 1}]})").empty());
  const subbyte::error e = failure(R"({"a": 1, "b": 2, "\u0061": 3})");
  REQUIRE(e.code() == errc::bad_metadata);
  REQUIRE(e.subject() == "text");
  REQUIRE(contains(e.what(), "key a occurs twice"));
  REQUIRE(failure(R"({"o": {"k": 1, "k": 1}})").code() == errc::bad_metadata);
}

TEST_CASE("json_header: what is not one strict JSON value is an error with its position") {
  for (const char* text :
       {"",          " ",          "{",        "}",        "[1,]",         "{\"a\":}",
        "{\"a\" 1}", "{a: 1}",     "{} {}",    "[1] x",    "nul",          "01",
        "+1",        "NaN",        "\"\x01\"", "\"\xff\"", "\"\xc0\xaf\"", "\"\\ud800\"",
        "\"open",    "{\"a\":1,}", "// c\n1",  "'x'"}) {
    INFO(text);
    const subbyte::error e = failure(text);
    REQUIRE(e.code() == errc::bad_metadata);
    REQUIRE(contains(e.what(), "not valid JSON at byte"));
  }
  REQUIRE(contains(failure("[1, x]").what(), "byte 5"));
}

TEST_CASE("json_header: nothing hides behind a NUL, a byte order mark or a number out of range") {
  using namespace std::string_view_literals;
  for (const std::string_view text :
       {"{}\0"sv, "{}\0hidden"sv, "{} \0 {}"sv, "\0{}"sv, "{\"a\0\":1}"sv, "\xef\xbb\xbf{}"sv,
        "\xef\xbb\xbf"sv, "[1e999]"sv}) {
    INFO(text.size() << " bytes: " << std::string(text));
    const subbyte::error e = failure(text);
    REQUIRE(e.code() == errc::bad_metadata);
    REQUIRE(contains(e.what(), "not valid JSON at byte"));
  }
  REQUIRE(contains(failure("{}\0hidden"sv).what(), "byte 3"));
}

TEST_CASE("json_header: nesting has a limit, however long the text") {
  const std::string opened(subbyte::json_max_depth, '[');
  const std::string closed(subbyte::json_max_depth, ']');
  REQUIRE(!events(opened + closed).empty());
  const subbyte::error e = failure("[" + opened + closed + "]");
  REQUIRE(e.code() == errc::bad_metadata);
  REQUIRE(contains(e.what(), "deeper than 32"));
  REQUIRE(failure(std::string(1000000, '[')).code() == errc::bad_metadata);
}
