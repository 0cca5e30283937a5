// SPDX-License-Identifier: Apache-2.0
/// What io/ says when a file or the operating system is at fault: text that is safe to print.
#pragma once

#include <string>
#include <string_view>
#include <system_error>  // std::generic_category: the text of an errno

#include "subbyte/core/arch.hpp"
#include "subbyte/core/error.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Bytes from a file as one line of ASCII: everything but printable ASCII becomes \xNN, a backslash
/// becomes two, and what follows the first `limit` bytes becomes "...". Names in a hostile file may
/// hold terminal escapes or megabytes.
template <class Arch = arch::native>
[[nodiscard]] std::string printable(std::string_view bytes, std::size_t limit = 96) {
  constexpr char digits[] = "0123456789abcdef";
  std::string text;
  for (const char c : bytes.substr(0, limit)) {
    const unsigned code = static_cast<unsigned char>(c);
    if (c == '\\') {
      text += "\\\\";
    } else if (code >= 0x20 && code < 0x7F) {
      text += c;
    } else {
      text += "\\x";
      text += digits[code >> 4];
      text += digits[code & 15];
    }
  }
  if (bytes.size() > limit) text += "...";
  return text;
}

/// Throws errc::io for a system call that failed with `code` (an errno): "path: cannot ACTION:
/// reason".
template <class Arch = arch::native>
[[noreturn]] void throw_errno(const std::string& path, const char* action, int code) {
  throw_error(errc::io, path.empty() ? std::string("(empty path)") : path,
              std::string("cannot ") + action + ": " + std::generic_category().message(code));
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
