// SPDX-License-Identifier: Apache-2.0
/// Octets of the formats of one and two bits: q1_0, q2_0, tq1_0 and tq2_0.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/format/q1_0.hpp"
#include "subbyte/format/q2_0.hpp"
#include "subbyte/format/tq1_0.hpp"
#include "subbyte/format/tq2_0.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Lane l takes byte l % 16 of the codes of block l / 16: levels -1 and 1 are 2 bit - 1.
template <>
struct octet<q1_0> : octet_base<q1_0, 4> {
  using quads = integer_quads<1, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 16 * static_cast<int>(sizeof(q1_0));
    const float d = load_half(block);
    const std::uint32_t codes = block[2 + lane % 16];
    return {{bits_to_bytes(codes) << 1, bits_to_bytes(codes >> 4) << 1}, {d, d}, {}};
  }
};

/// Lane l takes bytes 2 (l % 8) and the next of the codes of block l / 8.
template <>
struct octet<q2_0> : octet_base<q2_0, 4> {
  using quads = integer_quads<1, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 8 * static_cast<int>(sizeof(q2_0));
    const float d = load_half(block);
    const std::uint32_t codes = load_u16(block + 2 + 2 * (lane % 8));
    return {{pairs_to_bytes(codes & 255U), pairs_to_bytes(codes >> 8)}, {d, d}, {}};
  }
};

/// Digit n in base 3 of four bytes of tq1_0, `power` being 3^n.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t digits_base_3(std::uint32_t bytes,
                                                            std::uint32_t power) noexcept {
  // Every other byte in 16 bits of its own: the product with 81 fits.
  const std::uint32_t even = ((bytes & 0x00FF00FFU) * power & 0x00FF00FFU) * 3;
  const std::uint32_t odd = ((bytes >> 8 & 0x00FF00FFU) * power & 0x00FF00FFU) * 3;
  return (even >> 8 & 0x00030003U) | (odd & 0x03000300U);
}

/// Runs of four weights are digits of four consecutive bytes: eight words have the first 40 runs,
/// four words the next 20, the last word 4.
template <>
struct octet<tq1_0> : octet_base<tq1_0, 128> {
  using quads = integer_quads<1, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const float d = load_half(span + 52);
    // Run 32 + lane. Four lanes at a time: two times the fifth digits of four of the eight words,
    // five times a digit of the next four words, once the four digits of the last.
    const int four = lane / 4;
    const int at = four == 7 ? 12 : 4 * (four < 2 ? four : 2) + lane % 4;
    const int digit = four == 7 ? lane % 4 : 0x4321044 >> (4 * four) & 7;
    return {{digits_base_3(word(span + 4 * (lane % 8)), power_of_3(lane / 8)),
             digits_base_3(word(span + 4 * at), power_of_3(digit))},
            {d, d},
            {}};
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static std::uint32_t power_of_3(int n) noexcept {
    return permute_bytes(0x1B090301U, 81U, 0x5550U | static_cast<std::uint32_t>(n));
  }
};

/// Lane l takes, of word l % 8 of half l / 16 of the codes, pairs 2 (l / 8 % 2) and the next.
template <>
struct octet<tq2_0> : octet_base<tq2_0, 32> {
  using quads = integer_quads<1, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const float d = load_half(span + 64);
    const std::uint32_t codes =
        word(span + 32 * (lane / 16) + 4 * (lane % 8)) >> (4 * (lane / 8 % 2));
    return {{low_pairs(codes), low_pairs(codes >> 2)}, {d, d}, {}};
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
