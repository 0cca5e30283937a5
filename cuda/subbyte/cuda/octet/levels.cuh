// SPDX-License-Identifier: Apache-2.0
/// Codebooks of small integers as the bytes that select8, select16 and select32 choose from.
#pragma once

#include "subbyte/core/constant_table.hpp"
#include "subbyte/cuda/decode.cuh"
#include "subbyte/format/codebook.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// The levels of a codebook, times `Multiple` integers from -128 to 127, plus 128: four bytes per
/// word.
template <class C, int Multiple = 1>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr constant_array<std::uint32_t, (1 << C::bits) / 4>
level_bytes() noexcept {
  constant_array<std::uint32_t, (1 << C::bits) / 4> words{};
  for (int code = 0; code < 1 << C::bits; ++code) {
    const int level = static_cast<int>(C::value(code) * static_cast<float>(Multiple)) + 128;
    words.at[code / 4] |= static_cast<std::uint32_t>(level) << (8 * (code % 4));
  }
  return words;
}

/// Whether bytes hold the levels of C: integers from -128 to 127, none of them -0.
template <codebook C>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr bool has_byte_levels() noexcept {
  for (int code = 0; code < 1 << C::bits; ++code) {
    const float level = C::value(code);
    if (!(level >= -128 && level <= 127)) return false;
    const auto whole = static_cast<float>(static_cast<int>(level));
    if (bit_cast<std::uint32_t>(whole) != bit_cast<std::uint32_t>(level)) return false;
  }
  return true;
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
