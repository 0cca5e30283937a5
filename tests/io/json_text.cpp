// SPDX-License-Identifier: Apache-2.0
/// JSON strings: every byte and every pair of bytes, and what a JSON reader makes of them.
#include "subbyte/io/json_text.hpp"

#include "subbyte/io/json_header.hpp"
#include "support/catch.hpp"

using subbyte::append_json_string;
using subbyte::is_utf8;

namespace {

struct one_string {
  std::string text;
  void open(subbyte::json_path<subbyte::arch::native>, subbyte::json_kind) {}
  void close(subbyte::json_path<subbyte::arch::native>, subbyte::json_kind) {}
  void value(subbyte::json_path<subbyte::arch::native>, const subbyte::json_scalar& scalar) {
    text = scalar.text;
  }
};

std::string as_json(std::string_view text) {
  std::string out;
  append_json_string(out, text);
  return out;
}

bool reads_as_itself(const std::string& text) {
  one_string read;
  subbyte::read_json(as_json(text), "string", read);
  return read.text == text;
}

std::string encoded(std::uint32_t code) {
  const auto byte = [](std::uint32_t bits) { return static_cast<char>(bits); };
  if (code < 0x80) return {byte(code)};
  if (code < 0x800) return {byte(0xC0 | code >> 6), byte(0x80 | (code & 63))};
  if (code < 0x10000) {
    return {byte(0xE0 | code >> 12), byte(0x80 | (code >> 6 & 63)), byte(0x80 | (code & 63))};
  }
  return {byte(0xF0 | code >> 18), byte(0x80 | (code >> 12 & 63)), byte(0x80 | (code >> 6 & 63)),
          byte(0x80 | (code & 63))};
}

}  // namespace

TEST_CASE("json_text: every character of Unicode is UTF-8, and surrogates are not") {
  bool right = true;
  for (std::uint32_t code = 0; code < 0x110000; ++code) {
    const bool surrogate = code >= 0xD800 && code < 0xE000;
    right = right && is_utf8(encoded(code)) == !surrogate;
  }
  REQUIRE(right);
  REQUIRE(!is_utf8(encoded(0x110000)));
  REQUIRE(is_utf8(""));
}

TEST_CASE("json_text: of all sequences of two bytes those are UTF-8 that the standard lists") {
  int accepted = 0;
  for (int a = 0; a < 256; ++a) {
    for (int b = 0; b < 256; ++b) {
      const char text[2] = {static_cast<char>(a), static_cast<char>(b)};
      accepted += is_utf8({text, 2}) ? 1 : 0;
    }
  }
  // Two of ASCII, or one of U+0080 .. U+07FF.
  REQUIRE(accepted == 128 * 128 + 0x780);
}

TEST_CASE("json_text: overlong and cut sequences are not UTF-8") {
  for (const std::string& text :
       {std::string("\xC0\x80"), std::string("\xC1\xBF"), std::string("\xE0\x9F\xBF"),
        std::string("\xF0\x8F\xBF\xBF"), std::string("\xF5\x80\x80\x80"), std::string("\x80"),
        std::string("a\xE2\x96"), std::string("\xF0\x90\x80"), std::string("\xE2\x96z"),
        std::string("\xE2\x96\x81\x81"), std::string("\xF0\x90\x80z")}) {
    INFO(subbyte::printable(text));
    REQUIRE(!is_utf8(text));
  }
}

TEST_CASE("json_text: every byte after the first of a sequence is one of 0x80 to 0xBF") {
  for (const std::string& text : {std::string("\xE2\x96\x81"), std::string("\xF1\x90\x80\x81")}) {
    for (std::size_t k = 1; k < text.size(); ++k) {
      for (int byte = 0; byte < 256; ++byte) {
        std::string changed = text;
        changed[k] = static_cast<char>(byte);
        INFO(subbyte::printable(changed));
        REQUIRE(is_utf8(changed) == (byte >= 0x80 && byte <= 0xBF));
      }
    }
  }
}

TEST_CASE("json_text: escapes are those that JSON demands, in their short forms") {
  REQUIRE(as_json("plain /path") == "\"plain /path\"");
  REQUIRE(as_json("\b\f\n\r\t\"\\") == R"("\b\f\n\r\t\"\\")");
  REQUIRE(as_json(std::string("\0\x1f\x7f", 3)) == "\"\\u0000\\u001f\x7f\"");
  REQUIRE(as_json("\xE2\x96\x81") == "\"\xE2\x96\x81\"");
}

TEST_CASE("json_text: a JSON reader gets back every ASCII pair and characters of every length") {
  for (int a = 0; a < 128; ++a) {
    std::string text;
    for (int b = 0; b < 128; ++b) text += {static_cast<char>(a), static_cast<char>(b)};
    REQUIRE(reads_as_itself(text));
  }
  REQUIRE(reads_as_itself(encoded(0x7FF) + encoded(0x800) + encoded(0xFFFF) + encoded(0x10FFFF)));
}
