// SPDX-License-Identifier: Apache-2.0
/// The layouts of AWQ checkpoints: gemm, gemv and gemv_fast.
#pragma once

#include "subbyte/core/bits.hpp"
#include "subbyte/layout/bit_stream.hpp"
#include "subbyte/layout/concepts.hpp"
#include "subbyte/layout/gptq_int32.hpp"  // words along rows

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// AWQ "gemm", also the file of version "marlin": qweight int32 words [k, n * Bits / 32], and
/// qzeros [groups, n * Bits / 32] with the shape [n, groups]. Fields of qzeros are zero points.
///
/// 4 bits: nibble i of a word is row 8 w + order[i], order = 0 2 4 6 1 3 5 7. Other widths, which
/// only gptqmodel writes: one bit stream along n.
///
///     4 bit, column k   bit 31                                0
///     word 0, line k        n7  n5  n3  n1  n6  n4  n2  n0
///
/// Requires  n * Bits divisible by 32.
/// Source    AutoAWQ, WQLinear_GEMM; GPTQModel, AwqTorchLinear.
template <int Bits>
struct awq_gemm
    : detail::words_along_rows<awq_gemm<Bits>, Bits, detail::codes_of_whole_words(Bits)> {
  static constexpr const char* name = "awq_gemm";
  static constexpr const char* requirement = "rows * bits divisible by 32";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_of_block(index_t i,
                                                                        int bit) noexcept {
    if constexpr (Bits == 4) {
      return i / 8 * 32 + 4 * (i % 8 / 2 + i % 2 * 4) + bit;
    } else {
      return i * Bits + bit;
    }
  }
};

/// AWQ "gemv": qweight int32 words [n, k / 8], codes in their natural order.
///
///     row r             bit 31                                0
///     word 0, line r        k7  k6  k5  k4  k3  k2  k1  k0
///
/// Requires  k divisible by 8.
/// Source    AutoAWQ, WQLinear_GEMV.
struct awq_gemv : detail::row_streams<4, 4> {
  static constexpr const char* name = "awq_gemv";
  static constexpr const char* requirement = "columns divisible by 8";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape& s) noexcept {
    return s.cols % 8 == 0;
  }
};

/// Words per row that "gemv" keeps for the zero points of a row; its scales are [n, 8 * words], and
/// those of "gemv_fast" [8 * words, n]. Slots past the last group are zero.
/// Requires  group_size at least 32; the whole row counts as 128.
/// Source    AutoAWQ, calculate_zeros_width.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t awq_zero_words(index_t groups,
                                                                 index_t group_size) noexcept {
  const index_t multiple = group_size >= 128 ? 1 : group_size >= 64 ? 2 : 4;
  return ceil_div(ceil_div(groups, 8), multiple) * multiple;
}

/// AWQ "gemv": qzeros int32 words [n, awq_zero_words], zero points in their natural order along the
/// groups. The shape is [n, groups]; Multiple is 1, 2 or 4 for group sizes of 128, 64 and 32.
///
/// Source    AutoAWQ, WQLinear_GEMV.
template <index_t Multiple>
struct awq_gemv_zeros : detail::row_streams<4, 4 * Multiple> {
  static_assert(Multiple == 1 || Multiple == 2 || Multiple == 4);
  static constexpr const char* name = "awq_gemv_zeros";
};

/// AWQ "gemv_fast" and llm-awq: qweight int16 [n / 4, k], in tiles of 4 rows and 64 columns. Word t
/// of a tile holds row t / 16 and the columns c, c + 8, c + 16, c + 24 with
/// c = 32 * (t % 16 / 8) + t % 8, the first in the least significant nibble.
///
///     tile of rows 0 to 3, columns 0 to 63     bit 15            0
///     word 0        row 0                         k24 k16 k8  k0
///     word 7        row 0                         k31 k23 k15 k7
///     word 8        row 0                         k56 k48 k40 k32
///     word 16       row 1                         k24 k16 k8  k0
///
/// Requires  n divisible by 4, k divisible by 64.
/// Source    AutoAWQ, WQLinear_GEMVFast; llm-awq, pack_intweight.
struct awq_gemv_tiled {
  static constexpr const char* name = "awq_gemv_tiled";
  static constexpr const char* requirement = "rows divisible by 4 and columns divisible by 64";
  static constexpr int code_bits = 4;
  static constexpr index_t shared_rows = 4;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape& s) noexcept {
    return s.rows % 4 == 0 && s.cols % 64 == 0;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.rows * (s.cols / 2);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t k,
                                                                      int bit) noexcept {
    const index_t word = k / 64 * 64 + r % 4 * 16 + k % 64 / 32 * 8 + k % 8;
    return (r / 4 * s.cols + word) * 16 + k % 32 / 8 * 4 + bit;
  }

  // 32 codes of a row are four runs of 8, one per nibble of 8 words.
  template <class Arch>
  static void pack_rows(const matrix_shape& s, const std::uint8_t* codes, index_t begin,
                        index_t end, std::uint8_t* out) noexcept {
    for (index_t r = begin; r < end; ++r) {
      for (index_t k = 0; k < s.cols; k += 32) {
        const std::uint8_t* const from = codes + r * s.cols + k;
        std::uint8_t words[16];
        for (int i = 0; i < 8; ++i) {
          words[2 * i] = static_cast<std::uint8_t>(from[i] | from[8 + i] << 4);
          words[2 * i + 1] = static_cast<std::uint8_t>(from[16 + i] | from[24 + i] << 4);
        }
        __builtin_memcpy(out + bit_offset(s, r, k, 0) / 8, words, 16);
      }
    }
  }
  template <class Arch>
  static void unpack_rows(const matrix_shape& s, const std::uint8_t* in, index_t begin, index_t end,
                          std::uint8_t* codes) noexcept {
    for (index_t r = begin; r < end; ++r) {
      for (index_t k = 0; k < s.cols; k += 32) {
        const std::uint8_t* const from = in + bit_offset(s, r, k, 0) / 8;
        std::uint8_t* const to = codes + r * s.cols + k;
        for (int i = 0; i < 8; ++i) {
          to[i] = from[2 * i] & 15;
          to[8 + i] = from[2 * i] >> 4;
          to[16 + i] = from[2 * i + 1] & 15;
          to[24 + i] = from[2 * i + 1] >> 4;
        }
      }
    }
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
