// SPDX-License-Identifier: Apache-2.0
/// Names from files, made safe to print.
#include "subbyte/io/diagnostics.hpp"

#include <cerrno>

#include "support/files.hpp"

TEST_CASE("diagnostics: printable text of any byte is printable ASCII and tells bytes apart") {
  std::vector<std::string> seen;
  for (int code = 0; code < 256; ++code) {
    const std::string text = subbyte::printable(std::string(1, static_cast<char>(code)));
    for (const char c : text) REQUIRE((c >= 0x20 && c < 0x7F));
    for (const std::string& other : seen) REQUIRE(other != text);
    seen.push_back(text);
  }
  REQUIRE(subbyte::printable("blk.0.w") == "blk.0.w");
  REQUIRE(subbyte::printable("\x1b[31m\n") == "\\x1b[31m\\x0a");
  REQUIRE(subbyte::printable("a\\b") == "a\\\\b");
}

TEST_CASE("diagnostics: long names are cut") {
  REQUIRE(subbyte::printable(std::string(96, 'x')) == std::string(96, 'x'));
  REQUIRE(subbyte::printable(std::string(97, 'x')) == std::string(96, 'x') + "...");
  REQUIRE(subbyte::printable("abcdef", 3) == "abc...");
}

TEST_CASE("diagnostics: an errno becomes an io error with path, action and reason") {
  const subbyte::error e =
      test_support::error_of([] { subbyte::throw_errno("some/file", "open", ENOENT); });
  REQUIRE(e.code() == subbyte::errc::io);
  REQUIRE(e.subject() == "some/file");
  REQUIRE(std::string(e.what()) == "some/file: cannot open: No such file or directory");
  const subbyte::error nameless =
      test_support::error_of([] { subbyte::throw_errno("", "open", ENOENT); });
  REQUIRE(nameless.subject() == "(empty path)");
}
