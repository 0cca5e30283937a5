// SPDX-License-Identifier: Apache-2.0
/// Strings as JSON writes them.
#pragma once

#include <string>
#include <string_view>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Whether the bytes are UTF-8: shortest forms only, no surrogates, nothing above U+10FFFF.
///
/// Source  RFC 3629, section 4.
template <class Arch = arch::native>
[[nodiscard]] bool is_utf8(std::string_view text) noexcept {
  std::size_t i = 0;
  const auto at = [&](std::size_t k) { return static_cast<unsigned char>(text[k]); };
  while (i < text.size()) {
    const unsigned lead = at(i);
    std::size_t length = 1;
    unsigned low = 0x80, high = 0xBF;  // bounds of the second byte
    if (lead >= 0x80) {
      if (lead < 0xC2 || lead > 0xF4) return false;
      length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
      if (lead == 0xE0) low = 0xA0;
      if (lead == 0xED) high = 0x9F;
      if (lead == 0xF0) low = 0x90;
      if (lead == 0xF4) high = 0x8F;
    }
    if (text.size() - i < length) return false;
    for (std::size_t k = 1; k < length; ++k) {
      const unsigned byte = at(i + k);
      if (byte < (k == 1 ? low : 0x80U) || byte > (k == 1 ? high : 0xBFU)) return false;
    }
    i += length;
  }
  return true;
}

/// Appends a JSON string: quotes, and escapes where JSON demands them, the short ones where there
/// are any; everything else as it is. Hugging Face's tools write the same.
///
/// Requires  is_utf8(text).
/// Source    RFC 8259, section 7.
template <class Arch = arch::native>
void append_json_string(std::string& out, std::string_view text) {
  constexpr char digits[] = "0123456789abcdef";
  out += '"';
  for (const char c : text) {
    const unsigned code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (code >= 0x20) {
      out += c;
    } else {
      out += '\\';
      switch (c) {
        case '\b':
          out += 'b';
          break;
        case '\f':
          out += 'f';
          break;
        case '\n':
          out += 'n';
          break;
        case '\r':
          out += 'r';
          break;
        case '\t':
          out += 't';
          break;
        default:
          out += "u00";
          out += digits[code >> 4];
          out += digits[code & 15];
      }
    }
  }
  out += '"';
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
