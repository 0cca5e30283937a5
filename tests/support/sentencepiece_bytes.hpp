// SPDX-License-Identifier: Apache-2.0
/// Protobuf messages byte by byte: nothing is checked, so that files can lie.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

namespace test_support {

struct message {
  std::string text;

  message& scalar(std::uint64_t number, std::uint64_t value) {
    varint(number << 3);
    varint(value);
    return *this;
  }
  message& bytes(std::uint64_t number, std::string_view value) {
    varint(number << 3 | 2);
    varint(value.size());
    text += value;
    return *this;
  }
  message& float32(std::uint64_t number, float value) {
    varint(number << 3 | 5);
    text.append(reinterpret_cast<const char*>(&value), sizeof(value));
    return *this;
  }

 private:
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) text += static_cast<char>(value | 0x80);
    text += static_cast<char>(value);
  }
};

}  // namespace test_support
