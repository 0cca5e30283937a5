// SPDX-License-Identifier: Apache-2.0
/// Octets of the k-quants, 256 weights under small integer scales, and of q8_k.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/format/q2_k.hpp"
#include "subbyte/format/q3_k.hpp"
#include "subbyte/format/q4_k.hpp"
#include "subbyte/format/q5_k.hpp"
#include "subbyte/format/q6_k.hpp"
#include "subbyte/format/q8_k.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// The scales of groups 2 k and 2 k + 1 of q4_k and q5_k in the low two bytes, their minimums in
/// the high two, from the twelve bytes that pack_6bit_pairs makes; 0 <= k < 4.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t pairs_of_groups(const std::uint8_t* packed,
                                                              int k) noexcept {
  const std::uint8_t* at = packed + 2 * (k % 2);
  const std::uint32_t own = load_u16(at) | load_u16(at + 4) << 16;
  const std::uint32_t low = load_u16(at + 8);
  const std::uint32_t split = (low & 0x0F0FU) | (low << 12 & 0x0F0F0000U);
  return k < 2 ? own & 0x3F3F3F3FU : split | (own >> 2 & 0x30303030U);
}

/// The scales and offsets of q4_k and q5_k for a lane whose runs are in groups 2 k and 2 k + 1.
template <class Quads>
SUBBYTE_HD_INLINE void scale_by_pairs(const std::uint8_t* block, int k, Quads& out) noexcept {
  const float d = load_half(block);
  const float m = load_half(block + 2);
  const std::uint32_t pairs = pairs_of_groups(block + 4, k);
  SUBBYTE_UNROLL
  for (int q = 0; q < 2; ++q) {
    out.scale[q] = d * byte_to_float<0>(pairs, q);
    out.offset[q] = -(m * byte_to_float<0>(pairs, 2 + q));
  }
}

/// Lane l takes, of word l % 8 of half l / 16 of the codes, pairs 2 (l / 8 % 2) and the next.
template <>
struct octet<q2_k> : octet_base<q2_k, 32> {
  using quads = integer_quads<0, true>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const int h = lane / 16;
    const int p = lane / 8 % 2;
    const int i = lane % 8;
    const float d = load_half(span + 80);
    const float m = load_half(span + 82);
    const std::uint32_t codes = word(span + 16 + 32 * h + 4 * i) >> (4 * p);
    // Groups 8 h + 4 p + i / 4 and the next but one.
    const std::uint32_t groups = word(span + 8 * h + 4 * p) >> (8 * (i / 4));
    quads out{{low_pairs(codes), low_pairs(codes >> 2)}, {}, {}};
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      out.scale[q] = d * byte_to_float<0>(low_nibbles(groups), 2 * q);
      out.offset[q] = -(m * byte_to_float<0>(low_nibbles(groups >> 4), 2 * q));
    }
    return out;
  }
};

/// As q2_k, and of word l % 8 of the high bits those two that belong to it.
template <>
struct octet<q3_k> : octet_base<q3_k, 32> {
  using quads = integer_quads<4, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const int h = lane / 16;
    const int p = lane / 8 % 2;
    const int i = lane % 8;
    const float d = load_half(span + 108);
    const std::uint32_t low = word(span + 32 + 32 * h + 4 * i) >> (4 * p);
    const std::uint32_t high = word(span + 4 * i) >> (4 * h + 2 * p);
    // Groups 8 h + 4 p + i / 4 and the next but one: 6 bits in each half.
    const std::uint32_t scales_low = word(span + 96 + 4 * p) >> (8 * (i / 4) + 4 * h);
    const std::uint32_t scales_high = word(span + 104) >> (8 * (i / 4) + 4 * h + 2 * p);
    const std::uint32_t scales = (scales_low & 0x000F000FU) | (scales_high & 0x00030003U) << 4;
    quads out{{low_pairs(low) | (high & 0x01010101U) << 2,
               low_pairs(low >> 2) | (high & 0x02020202U) << 1},
              {},
              {}};
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      out.scale[q] = d * byte_to_float<32>(scales, 2 * q);
    }
    return out;
  }
};

/// Lane l takes word l of the codes: four weights of group 2 (l / 8) in the low nibbles, four of
/// the group after it in the high ones.
template <>
struct octet<q4_k> : octet_base<q4_k, 32> {
  using quads = integer_quads<0, true>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint32_t codes = word(span + 16 + 4 * lane);
    quads out{{low_nibbles(codes), low_nibbles(codes >> 4)}, {}, {}};
    scale_by_pairs(span, lane / 8, out);
    return out;
  }
};

/// As q4_k, and of word l % 8 of the fifth bits those two that belong to it.
template <>
struct octet<q5_k> : octet_base<q5_k, 32> {
  using quads = integer_quads<0, true>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint32_t high = word(span + 16 + 4 * (lane % 8)) >> (2 * (lane / 8));
    const std::uint32_t low = word(span + 48 + 4 * lane);
    quads out{{low_nibbles(low) | (high & 0x01010101U) << 4,
               low_nibbles(low >> 4) | (high & 0x02020202U) << 3},
              {},
              {}};
    scale_by_pairs(span, lane / 8, out);
    return out;
  }
};

/// Lane l takes a word of the low bits, and of the word of high bits those that belong to it.
template <>
struct octet<q6_k> : octet_base<q6_k, 64> {
  using quads = integer_quads<32, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    // Half h of the block: weights 32 r + i of it have their low bits in nibble r / 2 of byte
    // 32 (r % 2) + i, their high bits in pair r of byte i.
    const int h = lane / 16;
    const int i = lane % 16;
    const std::uint32_t low = word(span + 64 * h + 4 * i);
    const std::uint32_t high = word(span + 128 + 32 * h + 4 * (i % 8)) >> (2 * (i / 8));
    const float d = load_half(span + 208);
    quads out{
        {low_nibbles(low) | low_pairs(high) << 4, low_nibbles(low >> 4) | (high & 0x30303030U)},
        {},
        {}};
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      const std::uint32_t scale = span[192 + first(lane, q) / 16];
      out.scale[q] = d * integer_to_float<128>(scale ^ 128U);
    }
    return out;
  }
};

/// Consecutive lanes read consecutive words.
template <>
struct octet<q8_k> : octet_base<q8_k, 128> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const float d = bit_cast<float>(word(span));
    return {{word(span + 4 + first(lane, 0)) ^ 0x80808080U,
             word(span + 4 + first(lane, 1)) ^ 0x80808080U},
            {d, d},
            {}};
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
