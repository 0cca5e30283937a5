// SPDX-License-Identifier: Apache-2.0
/// The int32 words of GPTQ checkpoints: the bit stream of every column, its planar variant, and
/// the two meanings of a zero point.
#pragma once

#include "subbyte/core/bits.hpp"
#include "subbyte/layout/bit_stream.hpp"
#include "subbyte/layout/concepts.hpp"
#include "subbyte/layout/pack.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// The smallest number of codes that fill whole words.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t codes_of_whole_words(int bits) noexcept {
  return 32 / (bits & -bits);
}

/// Words [k * Bits / 32, n]: word row w holds the w-th word of every row of codes. Derived gives
/// the place of a bit inside the Bits words of 32 codes, and the words of 32 codes at once.
template <class Derived, int Bits, index_t Columns>
struct words_along_columns {
  static_assert(Bits >= 1 && Bits <= 8);
  static constexpr int code_bits = Bits;
  static constexpr index_t shared_rows = 1;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape& s) noexcept {
    return s.cols % Columns == 0;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.cols * Bits / 32 * s.rows * 4;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t k,
                                                                      int bit) noexcept {
    const index_t at = k / 32 * (32 * Bits) + Derived::bit_of_block(k % 32, bit);
    return word_bit(s.rows, at / 32, r, at % 32);
  }

  template <class Arch>
  static void pack_rows(const matrix_shape& s, const std::uint8_t* codes, index_t begin,
                        index_t end, std::uint8_t* out) noexcept {
    std::uint32_t tile[packed_tile_rows * tile_words];
    for (index_t r0 = begin; r0 < end; r0 += packed_tile_rows) {
      const index_t rows = end - r0 < packed_tile_rows ? end - r0 : packed_tile_rows;
      for (index_t k0 = 0; k0 < s.cols; k0 += tile_columns) {
        const index_t cols = s.cols - k0 < tile_columns ? s.cols - k0 : tile_columns;
        for (index_t r = 0; r < rows; ++r) {
          Derived::template pack_words<Arch>(codes + (r0 + r) * s.cols + k0, cols,
                                             tile + r * tile_words);
        }
        store_tile<Arch>(tile, rows, cols * Bits / 32, out + 4 * (k0 * Bits / 32 * s.rows + r0),
                         s.rows);
      }
    }
  }

  template <class Arch>
  static void unpack_rows(const matrix_shape& s, const std::uint8_t* in, index_t begin, index_t end,
                          std::uint8_t* codes) noexcept {
    std::uint32_t tile[packed_tile_rows * tile_words];
    for (index_t r0 = begin; r0 < end; r0 += packed_tile_rows) {
      const index_t rows = end - r0 < packed_tile_rows ? end - r0 : packed_tile_rows;
      for (index_t k0 = 0; k0 < s.cols; k0 += tile_columns) {
        const index_t cols = s.cols - k0 < tile_columns ? s.cols - k0 : tile_columns;
        load_tile<Arch>(in + 4 * (k0 * Bits / 32 * s.rows + r0), s.rows, rows, cols * Bits / 32,
                        tile);
        for (index_t r = 0; r < rows; ++r) {
          Derived::template unpack_words<Arch>(tile + r * tile_words, cols,
                                               codes + (r0 + r) * s.cols + k0);
        }
      }
    }
  }

 private:
  /// Columns whose words fill a row of the tile.
  static constexpr index_t tile_columns = tile_words / Bits * 32;
};

/// Words [k, n * Bits / 32]: column k of W is one line of words. Derived gives the place of a bit
/// inside the Bits words of 32 rows.
template <class Derived, int Bits, index_t Rows>
struct words_along_rows {
  static_assert(Bits >= 1 && Bits <= 8);
  static constexpr int code_bits = Bits;
  static constexpr index_t shared_rows = 32;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape& s) noexcept {
    return s.rows % Rows == 0;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.rows * Bits / 32 * s.cols * 4;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t k,
                                                                      int bit) noexcept {
    const index_t at = r / 32 * (32 * Bits) + Derived::bit_of_block(r % 32, bit);
    return word_bit(s.rows * Bits / 32, k, at / 32, at % 32);
  }

  // Words of whole codes only: a word is then the sum of shifted rows, many columns at a time.
  template <class Arch>
  requires(32 % Bits == 0) static void pack_rows(const matrix_shape& s, const std::uint8_t* codes,
                                                 index_t begin, index_t end,
                                                 std::uint8_t* out) noexcept {
    std::uint32_t tile[packed_tile_rows * tile_words];
    const index_t line = s.rows / codes_per_word;
    for (index_t r0 = begin; r0 < end; r0 += packed_tile_rows * codes_per_word) {
      const index_t words = words_from(r0, end);
      for (index_t k0 = 0; k0 < s.cols; k0 += tile_words) {
        const index_t cols = s.cols - k0 < tile_words ? s.cols - k0 : tile_words;
        for (index_t w = 0; w < words; ++w) {
          pack_word<Arch>(codes + (r0 + w * codes_per_word) * s.cols + k0, s.cols, cols,
                          tile + w * tile_words);
        }
        store_tile<Arch>(tile, words, cols, out + 4 * (k0 * line + r0 / codes_per_word), line);
      }
    }
  }

  template <class Arch>
  requires(32 % Bits == 0) static void unpack_rows(const matrix_shape& s, const std::uint8_t* in,
                                                   index_t begin, index_t end,
                                                   std::uint8_t* codes) noexcept {
    std::uint32_t tile[packed_tile_rows * tile_words];
    const index_t line = s.rows / codes_per_word;
    for (index_t r0 = begin; r0 < end; r0 += packed_tile_rows * codes_per_word) {
      const index_t words = words_from(r0, end);
      for (index_t k0 = 0; k0 < s.cols; k0 += tile_words) {
        const index_t cols = s.cols - k0 < tile_words ? s.cols - k0 : tile_words;
        load_tile<Arch>(in + 4 * (k0 * line + r0 / codes_per_word), line, words, cols, tile);
        for (index_t w = 0; w < words; ++w) {
          unpack_word<Arch>(tile + w * tile_words, s.cols, cols,
                            codes + (r0 + w * codes_per_word) * s.cols + k0);
        }
      }
    }
  }

 private:
  static constexpr index_t codes_per_word = 32 / Bits;

  [[nodiscard]] SUBBYTE_INLINE static constexpr index_t words_from(index_t r0,
                                                                   index_t end) noexcept {
    const index_t words = (end - r0) / codes_per_word;
    return words < packed_tile_rows ? words : packed_tile_rows;
  }

  /// The words of `cols` columns from codes_per_word rows: first the four bytes of every word, each
  /// a plane of bytes, because bytes shift eight at a time.
  template <class Arch>
  static void pack_word(const std::uint8_t* codes, index_t pitch, index_t cols,
                        std::uint32_t* words) noexcept {
    std::uint64_t planes[4][tile_words / 8] = {};
    for (index_t i = 0; i < codes_per_word; ++i) {
      const index_t at = Derived::bit_of_block(i, 0);
      std::uint64_t row[tile_words / 8] = {};
      if (cols == tile_words) {
        __builtin_memcpy(row, codes + i * pitch, tile_words);
      } else {
        __builtin_memcpy(row, codes + i * pitch, static_cast<std::size_t>(cols));
      }
      for (index_t j = 0; j < tile_words / 8; ++j) planes[at / 8][j] |= row[j] << (at % 8);
    }
    std::uint8_t bytes[4][tile_words];
    __builtin_memcpy(bytes, planes, sizeof(bytes));
    for (index_t k = 0; k < tile_words; ++k) {
      words[k] = static_cast<std::uint32_t>(bytes[0][k]) |
                 static_cast<std::uint32_t>(bytes[1][k]) << 8 |
                 static_cast<std::uint32_t>(bytes[2][k]) << 16 |
                 static_cast<std::uint32_t>(bytes[3][k]) << 24;
    }
  }

  /// The inverse of pack_word.
  template <class Arch>
  static void unpack_word(const std::uint32_t* words, index_t pitch, index_t cols,
                          std::uint8_t* codes) noexcept {
    constexpr std::uint32_t mask = (1U << Bits) - 1;
    for (index_t i = 0; i < codes_per_word; ++i) {
      const auto shift = static_cast<int>(Derived::bit_of_block(i, 0));
      std::uint8_t* const row = codes + i * pitch;
      if (cols == tile_words) {
        for (index_t k = 0; k < tile_words; ++k) {
          row[k] = static_cast<std::uint8_t>(words[k] >> shift & mask);
        }
      } else {
        for (index_t k = 0; k < cols; ++k) {
          row[k] = static_cast<std::uint8_t>(words[k] >> shift & mask);
        }
      }
    }
  }
};

/// Where bit `bit` of code i of 32 lies in the words of gptqmodel's planes: plane after plane from
/// the low bits up, each plane a bit stream of its own.
template <int Bits>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t plane_bit(index_t i, int bit) noexcept {
  int low = 0;  // the bits below the plane
  for (int width = 8; width > 0; width /= 2) {
    if ((Bits & width) == 0) continue;
    if (bit < low + width) return 32 * low + i * width + (bit - low);
    low += width;
  }
  return 0;
}

}  // namespace detail

/// GPTQ's qweight: int32 words [k * Bits / 32, n], every column of words one bit stream of codes
/// along k, first code in the least significant bits (3, 5, 6 and 7 bit codes straddle words).
///
///     4 bit, row r      bit 31                                0
///     word 0, column r      k7  k6  k5  k4  k3  k2  k1  k0
///     word 1, column r      k15 k14 k13 k12 k11 k10 k9  k8
///
/// Requires  k * Bits divisible by 32; gptqmodel and others also want k and n divisible by 32.
/// Source    AutoGPTQ and GPTQModel, pack of their linear layers.
template <int Bits>
struct gptq_int32
    : detail::words_along_columns<gptq_int32<Bits>, Bits, detail::codes_of_whole_words(Bits)> {
  static constexpr const char* name = "gptq_int32";
  static constexpr const char* requirement = "columns * bits divisible by 32";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_of_block(index_t i,
                                                                        int bit) noexcept {
    return i * Bits + bit;
  }
  template <class Arch>
  static void pack_words(const std::uint8_t* codes, index_t cols, std::uint32_t* words) noexcept {
    detail::pack_stream<Bits, Arch>(codes, cols, reinterpret_cast<std::uint8_t*>(words));
  }
  template <class Arch>
  static void unpack_words(const std::uint32_t* words, index_t cols, std::uint8_t* codes) noexcept {
    detail::unpack_stream<Bits, Arch>(reinterpret_cast<const std::uint8_t*>(words), cols, codes);
  }
};

/// The qweight of checkpoint_format "gptq_p": the Bits words of 32 codes hold planes of 8, 4, 2 or
/// 1 bits, the low bits first. Widths 1, 2, 4 and 8 are gptq_int32.
///
///     3 bit = planes of 2 and 1, row r
///     words 0 and 1     the low two bits of k0 .. k15, and of k16 .. k31
///     word 2            the high bits of k0 .. k31
///
/// Requires  k divisible by 32.
/// Source    GPTQModel, format gptq_p.
template <int Bits>
struct gptq_planar : detail::words_along_columns<gptq_planar<Bits>, Bits, 32> {
  static constexpr const char* name = "gptq_planar";
  static constexpr const char* requirement = "columns divisible by 32";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_of_block(index_t i,
                                                                        int bit) noexcept {
    return detail::plane_bit<Bits>(i, bit);
  }
  template <class Arch>
  static void pack_words(const std::uint8_t* codes, index_t cols, std::uint32_t* words) noexcept {
    for (index_t k = 0; k < cols; k += 32) {
      auto* const block = reinterpret_cast<std::uint8_t*>(words + k * Bits / 32);
      pack_plane<8, Arch>(codes + k, block);
      pack_plane<4, Arch>(codes + k, block);
      pack_plane<2, Arch>(codes + k, block);
      pack_plane<1, Arch>(codes + k, block);
    }
  }
  template <class Arch>
  static void unpack_words(const std::uint32_t* words, index_t cols, std::uint8_t* codes) noexcept {
    for (index_t k = 0; k < cols; k += 32) {
      const auto* const block = reinterpret_cast<const std::uint8_t*>(words + k * Bits / 32);
      for (int i = 0; i < 32; ++i) codes[k + i] = 0;
      unpack_plane<8, Arch>(block, codes + k);
      unpack_plane<4, Arch>(block, codes + k);
      unpack_plane<2, Arch>(block, codes + k);
      unpack_plane<1, Arch>(block, codes + k);
    }
  }

 private:
  /// The bits below the plane of this width: those of the wider planes.
  template <int Width>
  static constexpr int low = Bits & ~(2 * Width - 1);

  template <int Width, class Arch>
  static void pack_plane(const std::uint8_t* codes, std::uint8_t* block) noexcept {
    if constexpr ((Bits & Width) != 0) {
      for (int i = 0; i < 32; i += 8) {
        std::uint64_t eight;
        __builtin_memcpy(&eight, codes + i, 8);
        eight = detail::join_codes<Width>(eight >> low<Width> & detail::lane_mask(8, Width));
        __builtin_memcpy(block + 4 * low<Width> + i / 8 * Width, &eight, Width);
      }
    }
  }
  template <int Width, class Arch>
  static void unpack_plane(const std::uint8_t* block, std::uint8_t* codes) noexcept {
    if constexpr ((Bits & Width) != 0) {
      for (int i = 0; i < 32; i += 8) {
        std::uint64_t plane = 0;
        std::uint64_t eight;
        __builtin_memcpy(&plane, block + 4 * low<Width> + i / 8 * Width, Width);
        __builtin_memcpy(&eight, codes + i, 8);
        eight |= detail::split_codes<Width>(plane) << low<Width>;
        __builtin_memcpy(codes + i, &eight, 8);
      }
    }
  }
};

/// GPTQ's qzeros: int32 words [groups, n * Bits / 32], every line of words one bit stream of zero
/// points along n. The shape is [n, groups]. What a field means is a gptq_zero_field.
///
///     4 bit, group g    bit 31                                0
///     word 0, line g        n7  n6  n5  n4  n3  n2  n1  n0
///
/// Requires  n * Bits divisible by 32.
/// Source    AutoGPTQ and GPTQModel, pack of their linear layers.
template <int Bits>
struct gptq_int32_zeros
    : detail::words_along_rows<gptq_int32_zeros<Bits>, Bits, detail::codes_of_whole_words(Bits)> {
  static constexpr const char* name = "gptq_int32_zeros";
  static constexpr const char* requirement = "rows * bits divisible by 32";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_of_block(index_t i,
                                                                        int bit) noexcept {
    return i * Bits + bit;
  }
};

/// The qzeros of checkpoint_format "gptq_p": as gptq_planar, along n. The shape is [n, groups]; a
/// field is the zero point itself.
///
/// Requires  n divisible by 32.
/// Source    GPTQModel, format gptq_p.
template <int Bits>
struct gptq_planar_zeros : detail::words_along_rows<gptq_planar_zeros<Bits>, Bits, 32> {
  static constexpr const char* name = "gptq_planar_zeros";
  static constexpr const char* requirement = "rows divisible by 32";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_of_block(index_t i,
                                                                        int bit) noexcept {
    return detail::plane_bit<Bits>(i, bit);
  }
};

/// What a field of qzeros holds.
enum class gptq_zero_field : std::uint8_t {
  /// The zero point minus one, modulo 2^bits: checkpoint_format "gptq", or none named. A zero point
  /// of 0 is the field of all ones, which some readers take for 2^bits: write "gptq_v2" instead.
  minus_one,
  /// The zero point: "gptq_v2" and "gptq_p".
  zero_point,
  /// "gptq" of 2, 4 and 8 bits as gptqmodel writes it: the whole word minus the word of ones, so
  /// that a zero point of 0 borrows from the fields above it. The same as minus_one where no zero
  /// point is 0, and at the other widths.
  minus_one_with_borrow,
};

namespace detail {

/// Adds a one to every field, or takes one away; with carry, in the 32 / bits fields of a word at
/// once.
template <class Arch>
void add_to_zero_fields(matrix_view<std::uint8_t> fields, int bits, gptq_zero_field meaning,
                        bool add) noexcept {
  SUBBYTE_EXPECTS(bits >= 1 && bits <= 8);
  if (meaning == gptq_zero_field::zero_point) return;
  const std::uint32_t last = (1U << bits) - 1;
  const bool carry = meaning == gptq_zero_field::minus_one_with_borrow && 32 % bits == 0;
  const index_t run = carry ? 32 / bits : 1;
  // The word that holds a one in each of its fields.
  const std::uint32_t ones = carry ? 0xFFFFFFFFU / last : 1U;
  const index_t rows = fields.extent(0);
  for (index_t r0 = 0; r0 < rows; r0 += run) {
    const index_t n = rows - r0 < run ? rows - r0 : run;
    for (index_t g = 0; g < fields.extent(1); ++g) {
      std::uint32_t word = 0;
      for (index_t i = 0; i < n; ++i) {
        word |= static_cast<std::uint32_t>(fields(r0 + i, g)) << (i * bits);
      }
      word = add ? word + ones : word - ones;
      for (index_t i = 0; i < n; ++i) {
        fields(r0 + i, g) = static_cast<std::uint8_t>(word >> (i * bits) & last);
      }
    }
  }
}

}  // namespace detail

/// Turns the fields of an unpacked qzeros into zero points, in place.
///
/// Shapes    fields [n, groups], as unpack<gptq_int32_zeros<bits>> gives them.
/// Numerics  exact. A zero point of 0 in a file of auto-gptq overwrote the fields above it in its
///           word: no reading brings those back.
/// Source    AutoGPTQ, pack of its linear layers; GPTQModel, conversion between its two formats.
template <class Arch = arch::native>
void zeros_from_gptq_fields(matrix_view<std::uint8_t> fields, int bits,
                            gptq_zero_field meaning) noexcept {
  detail::add_to_zero_fields<Arch>(fields, bits, meaning, true);
}

/// The inverse of zeros_from_gptq_fields: zero points into the fields to pack.
template <class Arch = arch::native>
void gptq_fields_from_zeros(matrix_view<std::uint8_t> zeros, int bits,
                            gptq_zero_field meaning) noexcept {
  detail::add_to_zero_fields<Arch>(zeros, bits, meaning, false);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
