// SPDX-License-Identifier: Apache-2.0
/// Counts mismatches of an exhaustive loop and keeps the first, so that a test asserts once.
#pragma once

#include <cstdint>
#include <sstream>
#include <string>

namespace test_support {

class tally {
 public:
  /// `where`, `found` and `required` are printed in hexadecimal; only the first mismatch is kept.
  void compare(std::uint64_t where, std::uint64_t found, std::uint64_t required) {
    if (found == required) return;
    if (count_++ == 0) {
      std::ostringstream text;
      text << std::hex << "at 0x" << where << ": found 0x" << found << ", required 0x" << required;
      first_ = text.str();
    }
  }

  void add(const tally& later) {
    if (count_ == 0) first_ = later.first_;
    count_ += later.count_;
  }

  /// "all equal", or the number of mismatches and the first of them.
  [[nodiscard]] std::string report() const {
    return count_ == 0 ? "all equal" : std::to_string(count_) + " mismatches, the first " + first_;
  }

 private:
  std::uint64_t count_ = 0;
  std::string first_;
};

}  // namespace test_support
