// SPDX-License-Identifier: Apache-2.0
/// Codes into the bytes or words of a packing layout and back, for tests of layouts.
#pragma once

#include <cstdint>
#include <cstring>
#include <vector>

#include "subbyte/layout/pack.hpp"

namespace test_support {

/// The buffer of codes [rows, codes.size() / rows] in layout L.
template <class L>
std::vector<std::uint8_t> packed(const std::vector<std::uint8_t>& codes, subbyte::index_t rows) {
  const auto cols = static_cast<subbyte::index_t>(codes.size()) / rows;
  std::vector<std::uint8_t> out(static_cast<std::size_t>(L::bytes({rows, cols})));
  subbyte::pack<L>(subbyte::matrix_view<const std::uint8_t>(codes.data(), rows, cols), out);
  return out;
}

/// The same as words.
template <class L>
std::vector<std::uint32_t> packed_words(const std::vector<std::uint8_t>& codes,
                                        subbyte::index_t rows) {
  const std::vector<std::uint8_t> bytes = packed<L>(codes, rows);
  std::vector<std::uint32_t> words(bytes.size() / 4);
  std::memcpy(words.data(), bytes.data(), bytes.size());
  return words;
}

/// The codes [rows, cols] of a buffer in layout L.
template <class L>
std::vector<std::uint8_t> unpacked(const std::vector<std::uint8_t>& buffer, subbyte::index_t rows,
                                   subbyte::index_t cols) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(rows * cols));
  subbyte::unpack<L>(buffer, subbyte::matrix_view<std::uint8_t>(codes.data(), rows, cols));
  return codes;
}

/// i mod `period` for i = 0 .. count - 1.
inline std::vector<std::uint8_t> counting(int count, int period) {
  std::vector<std::uint8_t> codes;
  for (int i = 0; i < count; ++i) codes.push_back(static_cast<std::uint8_t>(i % period));
  return codes;
}

}  // namespace test_support
