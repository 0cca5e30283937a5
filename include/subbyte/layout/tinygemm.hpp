// SPDX-License-Identifier: Apache-2.0
/// The layout of PyTorch's 4-bit CPU product (tinygemm), as an AVX-512 build makes it.
#pragma once

#include "subbyte/layout/concepts.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Bytes [n / 64, k, 32]: for every column the codes of 64 rows, row j in the low and row j + 32 in
/// the high nibble of byte j. A last block of 32 rows is [k, 16] and pairs neighbours: row 2 j low,
/// row 2 j + 1 high. Weights are (code - 8) * scale + zero.
///
///     column k of rows 0 to 63     bit 7        0
///     byte 32 k + j                    n(j+32)  n(j)
///
/// In memory only: other CPU capabilities of PyTorch and its CUDA kernel use other orders.
/// Requires  n divisible by 32, k even.
/// Source    measured: torch 2.15, _convert_weight_to_int4pack_for_cpu with AVX-512.
struct tinygemm_avx512 {
  static constexpr const char* name = "tinygemm_avx512";
  static constexpr const char* requirement = "rows divisible by 32 and columns divisible by 2";
  static constexpr int code_bits = 4;
  static constexpr index_t shared_rows = 64;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape& s) noexcept {
    return s.rows % 32 == 0 && s.cols % 2 == 0;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.rows * (s.cols / 2);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t k,
                                                                      int bit) noexcept {
    const index_t block = r / 64 * 64 * (s.cols / 2);
    if (r / 64 * 64 + 64 <= s.rows) {
      return (block + k * 32 + r % 32) * 8 + r % 64 / 32 * 4 + bit;
    }
    return (block + k * 16 + r % 32 / 2) * 8 + r % 2 * 4 + bit;
  }

  // A block of rows, 32 columns at a time: the byte of a pair of rows, for column after column.
  template <class Arch>
  static void pack_rows(const matrix_shape& s, const std::uint8_t* codes, index_t begin,
                        index_t end, std::uint8_t* out) noexcept {
    for_each_pair(
        s, begin, end,
        [&](index_t low, index_t high, index_t k0, index_t n, index_t at, index_t step) noexcept {
          for (index_t k = k0; k < k0 + n; ++k) {
            out[at + (k - k0) * step] =
                static_cast<std::uint8_t>(codes[low * s.cols + k] | codes[high * s.cols + k] << 4);
          }
        });
  }
  template <class Arch>
  static void unpack_rows(const matrix_shape& s, const std::uint8_t* in, index_t begin, index_t end,
                          std::uint8_t* codes) noexcept {
    for_each_pair(
        s, begin, end,
        [&](index_t low, index_t high, index_t k0, index_t n, index_t at, index_t step) noexcept {
          for (index_t k = k0; k < k0 + n; ++k) {
            const std::uint8_t pair = in[at + (k - k0) * step];
            codes[low * s.cols + k] = pair & 15;
            codes[high * s.cols + k] = pair >> 4;
          }
        });
  }

 private:
  template <class Body>
  SUBBYTE_INLINE static void for_each_pair(const matrix_shape& s, index_t begin, index_t end,
                                           Body&& body) noexcept {
    for (index_t r0 = begin; r0 < end; r0 += 64) {
      const bool whole = r0 + 64 <= s.rows;
      const index_t pairs = whole ? 32 : 16;
      for (index_t k0 = 0; k0 < s.cols; k0 += 32) {
        const index_t n = s.cols - k0 < 32 ? s.cols - k0 : 32;
        for (index_t j = 0; j < pairs; ++j) {
          const index_t low = r0 + (whole ? j : 2 * j);
          body(low, low + (whole ? 32 : 1), k0, n, r0 * (s.cols / 2) + k0 * pairs + j, pairs);
        }
      }
    }
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
