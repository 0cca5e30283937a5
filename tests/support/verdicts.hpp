// SPDX-License-Identifier: Apache-2.0
/// Counts what becomes of many broken files: each must end in a typed error or in a correct read,
/// within a bound of memory.
#pragma once

#include <cstddef>
#include <exception>
#include <string>

#include "subbyte/core/error.hpp"
#include "support/allocation_peak.hpp"

namespace test_support {

/// What a reader may throw about the contents of a file.
[[nodiscard]] inline bool is_format_error(subbyte::errc code) {
  using subbyte::errc;
  return code == errc::bad_magic || code == errc::truncated || code == errc::bad_metadata ||
         code == errc::unsupported_format || code == errc::bad_shape || code == errc::non_finite;
}

class verdicts {
 public:
  /// Opens one file and has its contents checked. open() returns the file; flaw_of(file) says what
  /// is wrong with it, or nothing; memory counts while open() runs.
  template <class Open, class FlawOf, class Where>
  void judge(std::size_t memory_allowed, const Open& open, const FlawOf& flaw_of,
             const Where& where) {
    std::string flaw;
    std::size_t used = 0;
    bool opened = false;
    const allocation_peak peak;
    try {
      const auto file = open();
      used = peak.bytes();
      opened = true;
      ++accepted;
      flaw = flaw_of(file);
    } catch (const subbyte::error& e) {
      if (!opened) {
        used = peak.bytes();
        ++refused;
      }
      if (opened || !is_format_error(e.code())) flaw = std::string("it throws ") + e.what();
    } catch (const std::exception& e) {
      flaw = std::string("it throws no typed error: ") + e.what();
    }
    if (used > memory_allowed) {
      flaw =
          std::to_string(used) + " bytes of memory, allowed are " + std::to_string(memory_allowed);
    }
    if (flaw.empty()) return;
    if (flaws++ == 0) first_flaw = where() + ": " + flaw;
  }

  long accepted = 0;
  long refused = 0;
  long flaws = 0;
  std::string first_flaw;
};

}  // namespace test_support
