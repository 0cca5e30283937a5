// SPDX-License-Identifier: Apache-2.0
/// What a packing layout is: one constexpr function from every bit of every code to its place.
#pragma once

#include <concepts>

#include "subbyte/core/config.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// W [n, k]: n rows (outputs) and k columns (inputs). Zero points are laid out as [n, groups].
struct matrix_shape {
  index_t rows;
  index_t cols;
};

/// Where a kernel or a checkpoint keeps the codes of a matrix.
///
/// name         its name in messages and docs
/// requirement  what accepts() asks for, as the end of a sentence
/// code_bits    bits of one code, 1 to 8
/// shared_rows  rows that may share bytes: rows r and s with different r / shared_rows never do
/// accepts      the divisibility rules; the other functions are called for accepted shapes only
/// bytes        size of the buffer; bits that no code lies in are zero
/// bit_offset   where bit `bit` (0 is the least) of the code of W(r, k) lies: bit offset % 8 of
/// byte
///              offset / 8, bit 0 of a byte being its least
///
/// Law, checked by tests/layout/list.cpp at small shapes: bit_offset is one to one, and inside
/// bytes().
template <class L>
concept packing_layout = requires(const matrix_shape& s, index_t r, index_t k, int bit) {
  { L::name } -> std::convertible_to<const char*>;
  { L::requirement } -> std::convertible_to<const char*>;
  { L::code_bits } -> std::convertible_to<int>;
  { L::shared_rows } -> std::convertible_to<index_t>;
  { L::accepts(s) }
  noexcept->std::same_as<bool>;
  { L::bytes(s) }
  noexcept->std::same_as<index_t>;
  { L::bit_offset(s, r, k, bit) }
  noexcept->std::same_as<index_t>;
};

namespace detail {

/// Row-major words [lines, words_per_line] of 32 bits: the offset of one bit of one word.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t word_bit(index_t words_per_line, index_t line,
                                                           index_t word, index_t bit) noexcept {
  return (line * words_per_line + word) * 32 + bit;
}

}  // namespace detail

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
