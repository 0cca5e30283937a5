// SPDX-License-Identifier: Apache-2.0
/// Octets of the formats of 32 weights with fp16 scales: q4_0 to q8_1 and q6_0.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/format/q4_0.hpp"
#include "subbyte/format/q4_1.hpp"
#include "subbyte/format/q5_0.hpp"
#include "subbyte/format/q5_1.hpp"
#include "subbyte/format/q6_0.hpp"
#include "subbyte/format/q8_0.hpp"
#include "subbyte/format/q8_1.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Four lanes per block; a lane's word holds four weights in its low nibbles, four in its high
/// ones. So do the other formats of 32 weights with low nibbles.
template <>
struct octet<q4_0> : octet_base<q4_0, 16> {
  using quads = integer_quads<8, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(q4_0));
    const float d = load_half(block);
    const std::uint32_t codes = word(block + 2 + 4 * (lane % 4));
    return {{low_nibbles(codes), low_nibbles(codes >> 4)}, {d, d}, {}};
  }
};

/// As q4_0.
template <>
struct octet<q4_1> : octet_base<q4_1, 16> {
  using quads = integer_quads<0, true>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(q4_1));
    const float d = load_half(block);
    const float m = load_half(block + 2);
    const std::uint32_t codes = word(block + 4 + 4 * (lane % 4));
    return {{low_nibbles(codes), low_nibbles(codes >> 4)}, {d, d}, {m, m}};
  }
};

/// Codes of 5 bits of q5_0 and q5_1: bit i of `high` is the fifth of the code in low nibble i, bit
/// 16 + i that of the one in high nibble i.
SUBBYTE_HD_INLINE void join_fifths(std::uint32_t low, std::uint32_t high,
                                   std::uint32_t (&out)[2]) noexcept {
  out[0] = low_nibbles(low) | bits_to_bytes(high) << 4;
  out[1] = low_nibbles(low >> 4) | bits_to_bytes(high >> 16) << 4;
}

/// As q4_0, with four bits of each half of the word of fifth bits.
template <>
struct octet<q5_0> : octet_base<q5_0, 16> {
  using quads = integer_quads<16, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(q5_0));
    const float d = load_half(block);
    const std::uint32_t high = word(block + 2) >> (4 * (lane % 4));
    quads out{{}, {d, d}, {}};
    join_fifths(word(block + 6 + 4 * (lane % 4)), high, out.bytes);
    return out;
  }
};

/// As q5_0.
template <>
struct octet<q5_1> : octet_base<q5_1, 16> {
  using quads = integer_quads<0, true>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(q5_1));
    const float d = load_half(block);
    const float m = load_half(block + 2);
    const std::uint32_t high = word(block + 4) >> (4 * (lane % 4));
    quads out{{}, {d, d}, {m, m}};
    join_fifths(word(block + 8 + 4 * (lane % 4)), high, out.bytes);
    return out;
  }
};

/// As q4_0; the high bits of both runs stand in one nibble of each byte of a word that two lanes
/// share.
template <>
struct octet<q6_0> : octet_base<q6_0, 16> {
  using quads = integer_quads<32, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(q6_0));
    const int i = lane % 4;
    const float d = load_half(block);
    const std::uint32_t high = word(block + 2 + 4 * (i % 2)) >> (4 * (i / 2));
    const std::uint32_t low = word(block + 10 + 4 * i);
    return {{low_nibbles(low) | low_pairs(high) << 4, low_nibbles(low >> 4) | (high & 0x0C0C0C0CU)
                                                                                  << 2},
            {d, d},
            {}};
  }
};

/// Four lanes per block; a lane takes two words 16 bytes apart.
template <>
struct octet<q8_0> : octet_base<q8_0, 16> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(q8_0));
    const float d = load_half(block);
    const std::uint8_t* codes = block + 2 + 4 * (lane % 4);
    return {{word(codes) ^ 0x80808080U, word(codes + 16) ^ 0x80808080U}, {d, d}, {}};
  }
};

/// As q8_0.
template <>
struct octet<q8_1> : octet_base<q8_1, 16> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(q8_1));
    const float d = load_half(block);
    const std::uint8_t* codes = block + 4 + 4 * (lane % 4);
    return {{word(codes) ^ 0x80808080U, word(codes + 16) ^ 0x80808080U}, {d, d}, {}};
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
