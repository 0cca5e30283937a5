// SPDX-License-Identifier: Apache-2.0
/// The tiles of the Marlin kernels, and the orders of their scales, zero points and biases.
#pragma once

#include "subbyte/layout/bit_stream.hpp"
#include "subbyte/layout/concepts.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Marlin's weights: int32 words [k / 16, n * Bits / 2], tiles of 16 columns (k) and 64 rows (n),
/// n tiles next to each other. A code is the signed value plus 2^(Bits-1), or unsigned with zero
/// points.
///
/// In a tile, lane = 4 (n % 8) + k % 8 / 2 and sub = n % 64 / 16; with k0 = 2 (lane % 4) and
/// n0 = 16 sub + lane / 4:
///
///     4 bit, word 4 lane + sub, nibbles from bit 0 on, as (k, n)
///         (k0, n0) (k0+8, n0) (k0, n0+8) (k0+8, n0+8) (k0+1, n0) (k0+9, n0) (k0+1, n0+8) (k0+9,
///         n0+8)
///     8 bit, words 8 lane + 2 sub and the next, bytes from bit 0 on
///         (k0, n0) (k0+8, n0) (k0+1, n0) (k0+9, n0), and the same with n0+8
///
/// Requires  k divisible by 16 and n by 64; the original kernel wants 128 and 256, vLLM's kernels
///           128 and 64.
/// Source    IST-DASLab/marlin, Layer.pack; vLLM, gptq_marlin_repack.
template <int Bits>
struct marlin {
  static_assert(Bits == 4 || Bits == 8);
  static constexpr const char* name = "marlin";
  static constexpr const char* requirement = "rows divisible by 64 and columns divisible by 16";
  static constexpr int code_bits = Bits;
  static constexpr index_t shared_rows = 64;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape& s) noexcept {
    return s.rows % 64 == 0 && s.cols % 16 == 0;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.rows * s.cols * Bits / 8;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t k,
                                                                      int bit) noexcept {
    const index_t lane = r % 8 * 4 + k % 8 / 2;
    const index_t sub = r % 64 / 16;
    const index_t row_half = r % 16 / 8;
    const index_t column_half = k % 16 / 8;
    const index_t tile = (k / 16 * (s.rows / 64) + r / 64) * tile_bits;
    if constexpr (Bits == 4) {
      const index_t nibble = column_half + 2 * row_half + 4 * (k % 2);
      return tile + (lane * 4 + sub) * 32 + nibble * 4 + bit;
    } else {
      const index_t byte = column_half + 2 * (k % 2);
      return tile + (lane * 8 + sub * 2 + row_half) * 32 + byte * 8 + bit;
    }
  }

  template <class Arch>
  static void pack_rows(const matrix_shape& s, const std::uint8_t* codes, index_t begin,
                        index_t end, std::uint8_t* out) noexcept {
    for (index_t r0 = begin; r0 < end; r0 += 64) {
      for (index_t k0 = 0; k0 < s.cols; k0 += 16) {
        pack_tile<Arch>(codes + r0 * s.cols + k0, s.cols, out + bit_offset(s, r0, k0, 0) / 8);
      }
    }
  }
  template <class Arch>
  static void unpack_rows(const matrix_shape& s, const std::uint8_t* in, index_t begin, index_t end,
                          std::uint8_t* codes) noexcept {
    for (index_t r0 = begin; r0 < end; r0 += 64) {
      for (index_t k0 = 0; k0 < s.cols; k0 += 16) {
        unpack_tile<Arch>(in + bit_offset(s, r0, k0, 0) / 8, s.cols, codes + r0 * s.cols + k0);
      }
    }
  }

 private:
  static constexpr index_t tile_bits = 16 * 64 * Bits;

  // Rows n0 and n0 + 8 of a tile make four words of lane / 4 = n0 % 8, or eight at 8 bits.
  template <class Arch>
  static void pack_tile(const std::uint8_t* codes, index_t pitch, std::uint8_t* out) noexcept {
    for (index_t r = 0; r < 64; r += r % 8 == 7 ? 9 : 1) {
      const std::uint8_t* const a = codes + r * pitch;
      const std::uint8_t* const b = a + 8 * pitch;
      for (index_t j = 0; j < 4; ++j) {
        const index_t lane = r % 8 * 4 + j;
        const index_t sub = r / 16;
        if constexpr (Bits == 4) {
          const auto pair = [](const std::uint8_t* row, index_t k) noexcept {
            return static_cast<std::uint8_t>(row[k] | row[k + 8] << 4);
          };
          std::uint8_t* const word = out + (lane * 4 + sub) * 4;
          word[0] = pair(a, 2 * j);
          word[1] = pair(b, 2 * j);
          word[2] = pair(a, 2 * j + 1);
          word[3] = pair(b, 2 * j + 1);
        } else {
          std::uint8_t* const words = out + (lane * 8 + sub * 2) * 4;
          words[0] = a[2 * j];
          words[1] = a[2 * j + 8];
          words[2] = a[2 * j + 1];
          words[3] = a[2 * j + 9];
          words[4] = b[2 * j];
          words[5] = b[2 * j + 8];
          words[6] = b[2 * j + 1];
          words[7] = b[2 * j + 9];
        }
      }
    }
  }
  template <class Arch>
  static void unpack_tile(const std::uint8_t* in, index_t pitch, std::uint8_t* codes) noexcept {
    for (index_t r = 0; r < 64; r += r % 8 == 7 ? 9 : 1) {
      std::uint8_t* const a = codes + r * pitch;
      std::uint8_t* const b = a + 8 * pitch;
      for (index_t j = 0; j < 4; ++j) {
        const index_t lane = r % 8 * 4 + j;
        const index_t sub = r / 16;
        if constexpr (Bits == 4) {
          const auto split = [](std::uint8_t byte, std::uint8_t* row, index_t k) noexcept {
            row[k] = byte & 15;
            row[k + 8] = byte >> 4;
          };
          const std::uint8_t* const word = in + (lane * 4 + sub) * 4;
          split(word[0], a, 2 * j);
          split(word[1], b, 2 * j);
          split(word[2], a, 2 * j + 1);
          split(word[3], b, 2 * j + 1);
        } else {
          const std::uint8_t* const words = in + (lane * 8 + sub * 2) * 4;
          a[2 * j] = words[0];
          a[2 * j + 8] = words[1];
          a[2 * j + 1] = words[2];
          a[2 * j + 9] = words[3];
          b[2 * j] = words[4];
          b[2 * j + 8] = words[5];
          b[2 * j + 1] = words[6];
          b[2 * j + 9] = words[7];
        }
      }
    }
  }
};

/// Marlin's scales are [groups, n] with the columns of every 64 (of every 32 for one group per row)
/// reordered: new column i holds old column marlin_scale_source(i, one_group). The bias takes the
/// order of one group.
///
/// Source    IST-DASLab/marlin, _get_perms; vLLM, marlin_permute_scales.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t marlin_scale_source(index_t i,
                                                                      bool one_group) noexcept {
  if (one_group) return i / 32 * 32 + i % 32 / 8 * 2 + i % 8 / 2 * 8 + i % 2;
  return i / 64 * 64 + i % 8 * 8 + i % 64 / 8;
}

/// The inverse of marlin_scale_source: the new column of old column r.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t marlin_scale_slot(index_t r,
                                                                    bool one_group) noexcept {
  if (one_group) return r / 32 * 32 + r % 8 / 2 * 8 + r % 32 / 8 * 2 + r % 2;
  return r / 64 * 64 + r % 8 * 8 + r % 64 / 8;
}

/// Marlin's zero points: int32 words [groups, n * Bits / 32] of the columns in the order of the
/// grouped scales, then 0 2 4 6 1 3 5 7 of every 8 (4 bits) or 0 2 1 3 of every 4 (8 bits). The
/// shape is [n, groups].
///
/// Requires  n divisible by 64.
/// Source    vLLM, marlin_zero_points and awq_to_marlin_zero_points.
template <int Bits>
struct marlin_zeros {
  static_assert(Bits == 4 || Bits == 8);
  static constexpr const char* name = "marlin_zeros";
  static constexpr const char* requirement = "rows divisible by 64";
  static constexpr int code_bits = Bits;
  static constexpr index_t shared_rows = 64;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape& s) noexcept {
    return s.rows % 64 == 0;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.rows * s.cols * Bits / 8;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t g,
                                                                      int bit) noexcept {
    constexpr index_t per_word = 32 / Bits;
    const index_t slot = marlin_scale_slot(r, false);
    const index_t at = slot % per_word;
    const index_t field = at % 2 * (per_word / 2) + at / 2;
    return detail::word_bit(s.rows / per_word, g, slot / per_word, field * Bits + bit);
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
