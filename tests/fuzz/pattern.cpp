// SPDX-License-Identifier: Apache-2.0
/// Any line as a pattern over module names and any other as a name: a typed error, or an answer
/// that a group around the pattern does not change.
#include <cstdio>
#include <cstdlib>

#include "subbyte/checkpoint/module_pattern.hpp"

namespace {

enum class answer { refused, no, yes };

answer matches(const std::string& pattern, std::string_view name) {
  try {
    const subbyte::checkpoint::module_pattern p(pattern, "fuzz");
    return p.matches(name) ? answer::yes : answer::no;
  } catch (const subbyte::error&) {
    return answer::refused;
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const std::size_t line = text.find('\n');
  const std::string pattern(text.substr(0, line));
  const std::string_view name = line == std::string_view::npos ? "" : text.substr(line + 1);
  const answer plain = matches(pattern, name);
  if (plain == answer::refused) return 0;
  for (const char* const group : {"(", "(?:"}) {
    const answer grouped = matches(group + pattern + ")", name);
    if (grouped == plain || grouped == answer::refused) continue;  // refused: too deep, too long
    std::fprintf(stderr, "the pattern matches otherwise in %s...)\n", group);
    std::abort();
  }
  return 0;
}
