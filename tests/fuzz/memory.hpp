// SPDX-License-Identifier: Apache-2.0
/// Holds a reader to the memory that its header states.
#pragma once

#include <cstdio>
#include <cstdlib>

#include "support/allocation_peak.hpp"

namespace fuzz {

/// From its making on, operator new may give out this many bytes at most.
class memory_bound {
 public:
  /// Ends the program if it gave out more.
  void expect_at_most(std::size_t bytes) const {
    if (peak_.bytes() <= bytes) return;
    std::fprintf(stderr, "%zu bytes were allocated, at most %zu are promised\n", peak_.bytes(),
                 bytes);
    std::abort();
  }

 private:
  test_support::allocation_peak peak_;
};

}  // namespace fuzz
