// SPDX-License-Identifier: Apache-2.0
/// The order in which exllama's kernels keep the words of a GPTQ qweight after loading.
#pragma once

#include "subbyte/layout/bit_stream.hpp"
#include "subbyte/layout/concepts.hpp"
#include "subbyte/layout/gptq_int32.hpp"  // words along columns

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Words as in gptq_int32, codes of a word reordered: those at even places in its low half, those
/// at odd places in its high half, so that one mask takes two codes for a pair of halves. Never in
/// a file. With act-order the rows of k are sorted by group first.
///
///     4 bit             bit 31                                0
///     word 0                k7  k5  k3  k1  k6  k4  k2  k0
///
///     3 bit: word y of three holds codes 10 y .. 10 y + 9
///     bits 0 .. 14          10 y + 0, 2, 4, 6, 8     bit 15: bit y of code 30
///     bits 16 .. 30         10 y + 1, 3, 5, 7, 9     bit 31: bit y of code 31
///
/// 8 bits: as gptq_int32.
/// Requires  k * Bits divisible by 32.
/// Source    exllamav2, the shuffle functions of its quantized matrix; also in vLLM.
template <int Bits>
struct exllama
    : detail::words_along_columns<exllama<Bits>, Bits, detail::codes_of_whole_words(Bits)> {
  static_assert(Bits == 2 || Bits == 3 || Bits == 4 || Bits == 8);
  static constexpr const char* name = "exllama";
  static constexpr const char* requirement = "columns * bits divisible by 32";

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_of_block(index_t i,
                                                                        int bit) noexcept {
    if constexpr (Bits == 8) {
      return i * 8 + bit;
    } else if constexpr (Bits == 3) {
      if (i >= 30) return bit * 32 + (i - 30) * 16 + 15;
      return i / 10 * 32 + i % 2 * 16 + i % 10 / 2 * 3 + bit;
    } else {
      constexpr index_t per_word = 32 / Bits;
      const index_t j = i % per_word;
      return i / per_word * 32 + j % 2 * 16 + j / 2 * Bits + bit;
    }
  }

  template <class Arch>
  static void pack_words(const std::uint8_t* codes, index_t cols, std::uint32_t* words) noexcept {
    detail::pack_stream<Bits, Arch>(codes, cols, reinterpret_cast<std::uint8_t*>(words));
    if constexpr (Bits == 3) {
      for (index_t w = 0; w < cols * Bits / 32; w += 3)
        shuffle_block(codes + w / 3 * 32, words + w);
    } else if constexpr (Bits != 8) {
      for (index_t w = 0; w < cols * Bits / 32; ++w) words[w] = shuffle(words[w]);
    }
  }
  template <class Arch>
  static void unpack_words(const std::uint32_t* words, index_t cols, std::uint8_t* codes) noexcept {
    if constexpr (Bits == 3) {
      for (index_t w = 0; w < cols * Bits / 32; w += 3)
        restore_block(words + w, codes + w / 3 * 32);
    } else {
      for (index_t w = 0; w < cols * Bits / 32; ++w) {
        const std::uint32_t word = Bits == 8 ? words[w] : restore(words[w]);
        detail::unpack_stream<Bits, Arch>(reinterpret_cast<const std::uint8_t*>(&word), 32 / Bits,
                                          codes + w * (32 / Bits));
      }
    }
  }

 private:
  [[nodiscard]] SUBBYTE_INLINE static constexpr std::uint32_t exchange(std::uint32_t word, int by,
                                                                       std::uint32_t low) noexcept {
    const std::uint32_t differing = (word ^ word >> by) & low;
    return word ^ differing ^ differing << by;
  }

  /// Even places into the low half: pairs of neighbours are exchanged, each time twice as wide.
  [[nodiscard]] SUBBYTE_INLINE static constexpr std::uint32_t shuffle(std::uint32_t word) noexcept {
    if constexpr (Bits == 2) word = exchange(word, 2, 0x0C0C0C0CU);
    word = exchange(word, 4, 0x00F000F0U);
    return exchange(word, 8, 0x0000FF00U);
  }

  [[nodiscard]] SUBBYTE_INLINE static constexpr std::uint32_t restore(std::uint32_t word) noexcept {
    word = exchange(exchange(word, 8, 0x0000FF00U), 4, 0x00F000F0U);
    return Bits == 2 ? exchange(word, 2, 0x0C0C0C0CU) : word;
  }

  SUBBYTE_INLINE static void shuffle_block(const std::uint8_t* codes,
                                           std::uint32_t* words) noexcept {
    for (int y = 0; y < 3; ++y) {
      std::uint32_t word = 0;
      for (int i = 0; i < 10; ++i) {
        word |= static_cast<std::uint32_t>(codes[10 * y + i]) << (i % 2 * 16 + i / 2 * 3);
      }
      word |= (codes[30] >> y & 1U) << 15 | (codes[31] >> y & 1U) << 31;
      words[y] = word;
    }
  }

  SUBBYTE_INLINE static void restore_block(const std::uint32_t* words,
                                           std::uint8_t* codes) noexcept {
    unsigned last[2] = {0, 0};
    for (int y = 0; y < 3; ++y) {
      for (int i = 0; i < 10; ++i) {
        codes[10 * y + i] = static_cast<std::uint8_t>(words[y] >> (i % 2 * 16 + i / 2 * 3) & 7U);
      }
      last[0] |= (words[y] >> 15 & 1U) << y;
      last[1] |= (words[y] >> 31) << y;
    }
    codes[30] = static_cast<std::uint8_t>(last[0]);
    codes[31] = static_cast<std::uint8_t>(last[1]);
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
