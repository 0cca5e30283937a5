// SPDX-License-Identifier: Apache-2.0
/// How much memory operator new has given out at most since a mark. A program that uses it holds
/// the replaced operators in one source file named allocation_peak.cpp.
#pragma once

#include <cstddef>

namespace test_support {

/// Bytes in use above those in use when the object was made, at their highest.
class allocation_peak {
 public:
  allocation_peak() noexcept;
  [[nodiscard]] std::size_t bytes() const noexcept;

 private:
  std::size_t base_;
};

}  // namespace test_support
