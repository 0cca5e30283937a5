// SPDX-License-Identifier: Apache-2.0
/// Arithmetic on sizes that a file claims: every sum, product and rounding up says when it does not
/// fit.
#pragma once

#include <limits>
#include <optional>
#include <span>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// a + b for a, b >= 0, if it fits.
[[nodiscard]] SUBBYTE_INLINE constexpr std::optional<index_t> checked_add(index_t a,
                                                                          index_t b) noexcept {
  if (a > std::numeric_limits<index_t>::max() - b) return std::nullopt;
  return a + b;
}

/// a * b for a, b >= 0, if it fits.
[[nodiscard]] SUBBYTE_INLINE constexpr std::optional<index_t> checked_multiply(index_t a,
                                                                               index_t b) noexcept {
  if (a != 0 && b > std::numeric_limits<index_t>::max() / a) return std::nullopt;
  return a * b;
}

/// The next multiple of a power of two at or above a >= 0, if it fits.
[[nodiscard]] SUBBYTE_INLINE constexpr std::optional<index_t> checked_pad(
    index_t a, index_t alignment) noexcept {
  const std::optional<index_t> sum = checked_add(a, alignment - 1);
  if (!sum) return std::nullopt;
  return *sum & ~(alignment - 1);
}

/// The other extents of an array without elements multiply to this at most.
inline constexpr index_t max_empty_extents = (index_t{1} << 31) - 1;

/// The number of elements of an array with these extents (>= 0), if it fits.
///
/// In an array without elements the product of the extents other than zero must not exceed
/// max_empty_extents: no byte of a file backs such an extent, and loops over rows follow it.
template <class Arch = arch::native>
[[nodiscard]] constexpr std::optional<index_t> checked_size(
    std::span<const index_t> extents) noexcept {
  index_t product = 1;
  bool empty = false;
  for (const index_t extent : extents) {
    if (extent == 0) {
      empty = true;
      continue;
    }
    const std::optional<index_t> next = checked_multiply(product, extent);
    if (!next) return std::nullopt;
    product = *next;
  }
  if (!empty) return product;
  if (product > max_empty_extents) return std::nullopt;
  return 0;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
