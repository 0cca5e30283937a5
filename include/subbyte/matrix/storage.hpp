// SPDX-License-Identifier: Apache-2.0
/// The memory of a matrix owner, and what is said when there is none: compiled once for all
/// formats.
#pragma once

#include <cstring>  // std::memset
#include <new>      // aligned operator new
#include <string>

#include "subbyte/core/error.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

/// Throws bad_shape: "format: rows x cols: why".
template <class Arch>
[[noreturn, gnu::cold, gnu::noinline]] void reject_matrix(const char* format, index_t rows,
                                                          index_t cols, const char* why) {
  throw_error<Arch>(errc::bad_shape, format,
                    std::to_string(rows) + " x " + std::to_string(cols) + ": " + why);
}

/// Zeroed bytes, to be released by release_matrix() with the same alignment; null for none.
///
/// Throws  out_of_memory.
template <class Arch>
[[nodiscard]] std::uint8_t* allocate_matrix(const char* format, index_t rows, index_t cols,
                                            std::size_t bytes, std::size_t alignment) {
  if (bytes == 0) return nullptr;
  void* const memory =
      ::operator new(bytes, static_cast<std::align_val_t>(alignment), std::nothrow);
  if (memory == nullptr) {
    throw_error<Arch>(errc::out_of_memory, format,
                      "cannot allocate " + std::to_string(bytes) + " bytes for " +
                          std::to_string(rows) + " x " + std::to_string(cols) + " weights");
  }
  std::memset(memory, 0, bytes);
  return static_cast<std::uint8_t*>(memory);
}

SUBBYTE_INLINE void release_matrix(void* memory, std::size_t alignment) noexcept {
  ::operator delete(memory, static_cast<std::align_val_t>(alignment));
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
