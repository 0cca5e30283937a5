// SPDX-License-Identifier: Apache-2.0
/// The int32 words of compressed-tensors "pack-quantized": dense from version 0.17 on, padded
/// before.
#pragma once

#include "subbyte/core/bits.hpp"
#include "subbyte/layout/bit_stream.hpp"
#include "subbyte/layout/concepts.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// weight_packed: int32 words [n, ceil(k * Bits / 32)], every row one bit stream along k, the
/// unused top of its last word zero. A code is the signed value plus 2^(Bits-1). Experts' weights
/// [e, n, k] are e such matrices.
///
///     3 bit, row r      bit 31                                  0
///     word 0, line r        (k10 low two bits)  k9 ... k2  k1  k0
///     word 1, line r        (k21 low bit)  k20 ... k11 (k10 high bit)
///
/// Source    compressed-tensors 0.17 and later, pack_to_int32; at 1, 2, 4 and 8 bits any version.
template <int Bits>
struct compressed_tensors : detail::row_streams<Bits, 4> {
  static constexpr const char* name = "compressed_tensors";
};

/// weight_packed of versions before 0.17: floor(32 / Bits) codes per word, the top bits of every
/// word unused. The same as compressed_tensors at 1, 2, 4 and 8 bits. At the other widths the
/// tensor is wider: from 151 columns on and for multiples of 32, so that the width tells them apart
/// there.
///
///     3 bit, row r      bit 31 30 29                           0
///     word 0, line r        0  0  k9  k8 ...           k2  k1  k0
///     word 1, line r        0  0  k19 k18 ...         k12 k11 k10
///
/// Source    compressed-tensors 0.13, pack_to_int32.
template <int Bits>
struct compressed_tensors_padded : detail::any_shape<Bits, 1> {
  static constexpr const char* name = "compressed_tensors_padded";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.rows * row_words(s) * 4;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t k,
                                                                      int bit) noexcept {
    return detail::word_bit(row_words(s), r, k / codes_per_word, k % codes_per_word * Bits + bit);
  }

  template <class Arch>
  static void pack_rows(const matrix_shape& s, const std::uint8_t* codes, index_t begin,
                        index_t end, std::uint8_t* out) noexcept {
    for (index_t r = begin; r < end; ++r) {
      for (index_t w = 0; w < row_words(s); ++w) {
        const index_t k0 = w * codes_per_word;
        const index_t n = s.cols - k0 < codes_per_word ? s.cols - k0 : codes_per_word;
        std::uint32_t word = 0;
        for (index_t i = 0; i < n; ++i) {
          word |= static_cast<std::uint32_t>(codes[r * s.cols + k0 + i]) << (i * Bits);
        }
        __builtin_memcpy(out + (r * row_words(s) + w) * 4, &word, 4);
      }
    }
  }
  template <class Arch>
  static void unpack_rows(const matrix_shape& s, const std::uint8_t* in, index_t begin, index_t end,
                          std::uint8_t* codes) noexcept {
    for (index_t r = begin; r < end; ++r) {
      for (index_t w = 0; w < row_words(s); ++w) {
        const index_t k0 = w * codes_per_word;
        const index_t n = s.cols - k0 < codes_per_word ? s.cols - k0 : codes_per_word;
        std::uint32_t word;
        __builtin_memcpy(&word, in + (r * row_words(s) + w) * 4, 4);
        for (index_t i = 0; i < n; ++i) {
          codes[r * s.cols + k0 + i] =
              static_cast<std::uint8_t>(word >> (i * Bits) & ((1U << Bits) - 1));
        }
      }
    }
  }

 private:
  static constexpr index_t codes_per_word = 32 / Bits;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t row_words(
      const matrix_shape& s) noexcept {
    return ceil_div(s.cols, codes_per_word);
  }
};

/// weight_zero_point: int32 words [ceil(n * Bits / 32), groups], every column of words one bit
/// stream along n. The shape is [n, groups]; a field is the signed zero point plus 2^(Bits-1).
/// Versions before 0.10 keep int8 zero points unpacked.
///
/// Source    compressed-tensors 0.17 and later, pack_to_int32 with packed_dim 0.
template <int Bits>
struct compressed_tensors_zeros : detail::any_shape<Bits, 32> {
  static constexpr const char* name = "compressed_tensors_zeros";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return ceil_div(s.rows * Bits, 32) * s.cols * 4;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t g,
                                                                      int bit) noexcept {
    const index_t at = r * Bits + bit;
    return detail::word_bit(s.cols, at / 32, g, at % 32);
  }
};

/// weight_zero_point of versions 0.10 to 0.16: floor(32 / Bits) zero points per word.
///
/// Source    compressed-tensors 0.13, pack_to_int32 with packed_dim 0.
template <int Bits>
struct compressed_tensors_padded_zeros : detail::any_shape<Bits, 32 / Bits> {
  static constexpr const char* name = "compressed_tensors_padded_zeros";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return ceil_div(s.rows, zeros_per_word) * s.cols * 4;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t g,
                                                                      int bit) noexcept {
    return detail::word_bit(s.cols, r / zeros_per_word, g, r % zeros_per_word * Bits + bit);
  }

 private:
  static constexpr index_t zeros_per_word = 32 / Bits;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
