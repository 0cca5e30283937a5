// SPDX-License-Identifier: Apache-2.0
/// Patterns over module names: what matches as in Python, what is refused, and hostile ones.
#include "subbyte/checkpoint/module_pattern.hpp"

#include "support/catch.hpp"
#include "support/error_of.hpp"

using subbyte::checkpoint::module_pattern;
using test_support::error_of;

namespace {

bool matches(const char* pattern, const char* name) {
  return module_pattern(pattern, "config").matches(name);
}

}  // namespace

TEST_CASE("module_pattern: a beginning of the name must match, as with Python's re.match") {
  CHECK(matches("", "anything"));
  CHECK(matches("model", "model.layers.0"));
  CHECK_FALSE(matches("layers", "model.layers.0"));
  CHECK_FALSE(matches("model$", "model.layers.0"));
  CHECK(matches("model\\.layers\\.0$", "model.layers.0"));
  CHECK_FALSE(matches("model\\.layers", "model_layers"));
  CHECK(matches("model.layers", "model_layers"));
  CHECK_FALSE(matches("a^b", "ab"));
  CHECK(matches("(^a|b)c", "ac"));
}

TEST_CASE("module_pattern: what configurations in use contain") {
  CHECK(matches(".*\\.19\\..*", "model.layers.19.mlp.up_proj"));
  CHECK_FALSE(matches(".*\\.19\\..*", "model.layers.119.mlp.up_proj"));
  CHECK(matches(".*\\.18\\..*down_proj.*", "model.layers.18.mlp.down_proj"));
  CHECK(matches(".*gate$", "model.layers.3.mlp.gate"));
  CHECK_FALSE(matches(".*gate$", "model.layers.3.mlp.gate_proj"));
  CHECK(matches("model\\.layers\\.(0|1|2)\\.", "model.layers.2.x"));
  CHECK_FALSE(matches("model\\.layers\\.(0|1|2)\\.", "model.layers.3.x"));
  CHECK(matches("^(?!.*(q_proj|k_proj)).*attn", "m.self_attn.o_proj"));
  CHECK_FALSE(matches("^(?!.*(q_proj|k_proj)).*attn", "m.self_attn.k_proj"));
  CHECK(matches("(?=.*lm_head).*", "model.lm_head"));
  CHECK_FALSE(matches("(?=.*lm_head).*", "model.head"));
}

TEST_CASE("module_pattern: classes, escapes and counts") {
  CHECK(matches("[a-c]+$", "abcabc"));
  CHECK_FALSE(matches("[a-c]+$", "abd"));
  CHECK(matches("[^0-9]$", "x"));
  CHECK_FALSE(matches("[^0-9]$", "5"));
  CHECK(matches("[]a]+$", "a]a"));
  CHECK(matches("[a-]+$", "a-a"));
  CHECK(matches("[\\d_]{2,3}$", "1_2"));
  CHECK_FALSE(matches("[\\d_]{2,3}$", "1_2_"));
  CHECK_FALSE(matches("[\\d_]{2,3}$", "1"));
  CHECK(matches("x{2}$", "xx"));
  CHECK_FALSE(matches("x{2}$", "xxx"));
  CHECK(matches("x{2,}$", "xxxxx"));
  CHECK(matches("x{,2}$", "xx"));
  CHECK_FALSE(matches("x{,2}$", "xxx"));
  CHECK(matches("\\w+\\s\\D\\W\\S$", "ab1 x.y"));
  CHECK(matches("a??b*?c+?d$", "bbccd"));
  CHECK(matches("(?:ab)?c$", "c"));
  CHECK(matches("(a*)*b", "aaab"));
  CHECK(matches("(a|)+$", ""));
  CHECK(matches("(a{0,3}){2}$", "aaaaaa"));
  CHECK_FALSE(matches("(a{0,3}){2}$", "aaaaaaa"));
}

TEST_CASE("module_pattern: what is not read is refused, with the pattern named") {
  for (const char* pattern :
       {"(",       ")",     "a)",      "[a",       "[",       "*",   "a**",
        "a{2}{3}", "a{",    "a{x}",    "a{3,2}",   "a{1001}", "\\",  "\\1",
        "\\b",     "(?i)a", "(?<=a)b", "(?P<n>a)", "[b-a]",   "a{1", "[a-\\"}) {
    CAPTURE(pattern);
    const auto e = error_of([&] { module_pattern(pattern, "config"); });
    CHECK(e.code() == subbyte::errc::bad_metadata);
    CHECK(e.subject() == "config");
  }
  CHECK(error_of([] { module_pattern(std::string(5000, 'a'), "config"); }).code() ==
        subbyte::errc::bad_metadata);
  CHECK(error_of([] { module_pattern(std::string(100, '('), "config"); }).code() ==
        subbyte::errc::bad_metadata);
}

TEST_CASE("module_pattern: patterns that make backtracking explode end soon") {
  const std::string name(200, 'a');
  CHECK_FALSE(module_pattern("(a+)+b", "config").matches(name));
  CHECK_FALSE(module_pattern("(a|a)*(a|a)*(a|a)*b", "config").matches(name));
  CHECK_FALSE(module_pattern("(.*)(.*)(.*)(.*)(.*)(.*)(.*)(.*)x", "config").matches(name));
  // Counted repetitions of counted repetitions are cut off.
  const module_pattern stubborn("(((b|a{0}){1000}){1000}){1000}c", "config");
  CHECK(error_of([&] { (void)stubborn.matches(name); }).code() == subbyte::errc::bad_metadata);
  // Found by tests/fuzz/pattern.cpp: repetitions cost time on an empty name too.
  const module_pattern empty("((b|a{0}){1000}){1000}c", "config");
  CHECK(error_of([&] { (void)empty.matches(""); }).code() == subbyte::errc::bad_metadata);
}

TEST_CASE("module_pattern: any part of the name may match, as with Python's re.search") {
  const auto found = [](const char* pattern, const char* name) {
    return module_pattern(pattern, "config").found_in(name);
  };
  CHECK(found("attn_v", "blk.1.attn_v.weight"));
  CHECK(found("weight$", "blk.1.attn_v.weight"));
  CHECK_FALSE(found("attn$", "blk.1.attn_v.weight"));
  CHECK(found("^blk", "blk.1.attn_v.weight"));
  CHECK_FALSE(found("^attn", "blk.1.attn_v.weight"));
  CHECK(found("", ""));
  CHECK(found("$", "x"));
  CHECK(found("\\.[0-3]\\.", "blk.3.x"));
  CHECK_FALSE(found("\\.[0-3]\\.", "blk.13.x"));
  CHECK(found("(?!blk)\\w+", "blk"));
}
