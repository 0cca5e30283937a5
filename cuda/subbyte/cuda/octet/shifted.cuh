// SPDX-License-Identifier: Apache-2.0
/// Octets of ik_llama.cpp's non-linear formats: iq2_k to iq6_k, and those whose rows begin with a
/// scale.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/cuda/octet/levels.cuh"
#include "subbyte/format/iq2_k.hpp"
#include "subbyte/format/iq2_ks.hpp"
#include "subbyte/format/iq3_k.hpp"
#include "subbyte/format/iq3_ks.hpp"
#include "subbyte/format/iq4_k.hpp"
#include "subbyte/format/iq4_ks.hpp"
#include "subbyte/format/iq4_kss.hpp"
#include "subbyte/format/iq5_k.hpp"
#include "subbyte/format/iq5_ks.hpp"
#include "subbyte/format/iq6_k.hpp"
#include "subbyte/format/shifted_codebook.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Four levels of codebook C, raised by its shift if `shifted`, which is 0 or 1.
template <class C>
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t raised(std::uint32_t levels,
                                                     std::uint32_t shifted) noexcept {
  // No byte overflows: the highest shifted level is 127 or less.
  constexpr auto step = static_cast<std::uint32_t>(C::shift) * 0x01010101U;
  return levels + shifted * step;
}

/// The levels of a lane of iq2_k and iq2_ks, whose runs are pairs p and p + 2 of word l % 8 of half
/// l / 16 of the codes, p = l / 8 % 2: the pairs stand in the low and the high nibbles.
///
/// Requires  bits 0 and `Far` of `shifted` say whether the first and the second run are raised.
template <int Far>
SUBBYTE_HD_INLINE void select_pairs(std::uint32_t codes, int p, std::uint32_t shifted,
                                    std::uint32_t (&out)[2]) noexcept {
  constexpr auto levels = level_bytes<iq2>();
  const std::uint32_t table[2] = {levels.at[0], 0};
  select8(table, codes >> (2 * p) & 0x33333333U, out);
  out[0] = raised<iq2>(out[0], shifted & 1U);
  out[1] = raised<iq2>(out[1], shifted >> Far & 1U);
}

/// As select_pairs, of iq3_k and iq3_ks: bits 0 and 2 of each byte of `high` are the third bits.
template <int Far>
SUBBYTE_HD_INLINE void select_triples(std::uint32_t codes, int p, std::uint32_t high,
                                      std::uint32_t shifted, std::uint32_t (&out)[2]) noexcept {
  constexpr auto levels = level_bytes<iq3>();
  const std::uint32_t thirds = (high << 2 & 0x04040404U) | (high << 4 & 0x40404040U);
  select8(levels.at, (codes >> (2 * p) & 0x33333333U) | thirds, out);
  out[0] = raised<iq3>(out[0], shifted & 1U);
  out[1] = raised<iq3>(out[1], shifted >> Far & 1U);
}

/// The levels of a word of iq4_k, iq4_ks and iq4_kss; bits 0 and `Far` of `shifted` raise the low
/// and the high nibbles.
template <int Far>
SUBBYTE_HD_INLINE void select_nibbles(std::uint32_t codes, std::uint32_t shifted,
                                      std::uint32_t (&out)[2]) noexcept {
  constexpr auto levels = level_bytes<iq4_shifted>();
  select16(levels.at, codes, out);
  out[0] = raised<iq4_shifted>(out[0], shifted & 1U);
  out[1] = raised<iq4_shifted>(out[1], shifted >> Far & 1U);
}

/// As select_nibbles, of iq5_k and iq5_ks: bits 0 and 1 of each byte of `high` are the fifth bits
/// of its two codes.
template <int Far>
SUBBYTE_HD_INLINE void select_fives(std::uint32_t codes, std::uint32_t high, std::uint32_t shifted,
                                    std::uint32_t (&out)[2]) noexcept {
  constexpr auto levels = level_bytes<iq5>();
  select32(levels.at, codes, (high << 2 & 0x04040404U) | (high << 5 & 0x40404040U), out);
  out[0] = raised<iq5>(out[0], shifted & 1U);
  out[1] = raised<iq5>(out[1], shifted >> Far & 1U);
}

/// Lane l takes pairs l / 8 % 2 and the next but one of a word: groups 4 apart.
template <>
struct octet<iq2_k> : octet_base<iq2_k, 64> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const int h = lane / 16;
    const int p = lane / 8 % 2;
    const int part = lane / 4 % 2;
    const float d = load_half(span);
    const std::uint32_t shifted = load_u16(span + 2) >> (8 * h + 2 * p + part);
    const std::uint32_t scales = word(span + 4 + 4 * h) >> (8 * p + 4 * part);
    quads out{};
    select_pairs<4>(word(span + 12 + 32 * h + 4 * (lane % 8)), p, shifted, out.bytes);
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      out.scale[q] = d * byte_to_float<8>(low_nibbles(scales), 2 * q);
    }
    return out;
  }
};

/// As iq2_k: groups 2 apart.
template <>
struct octet<iq2_ks> : octet_base<iq2_ks, 64> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane,
                                                    half row_scale) noexcept {
    const int h = lane / 16;
    const int p = lane / 8 % 2;
    const float d = to_float(row_scale);
    const std::uint32_t extra = load_u16(span) >> (4 * h + p);
    const std::uint32_t scales = load_u16(span + 2 + 2 * h) >> (4 * p);
    const std::uint32_t stored =
        low_nibbles(scales) | (extra >> 4 & 0x0010U) | (extra << 2 & 0x1000U);
    quads out{};
    select_pairs<2>(word(span + 6 + 32 * h + 4 * (lane % 8)), p, extra, out.bytes);
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      out.scale[q] = d * byte_to_float<16>(stored, q);
    }
    return out;
  }
};

/// As iq2_k, and of word l % 8 of the high bits those two that belong to it.
template <>
struct octet<iq3_k> : octet_base<iq3_k, 64> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const int h = lane / 16;
    const int p = lane / 8 % 2;
    const int part = lane / 4 % 2;
    const float d = load_half(span);
    const int bit = 8 * h + 2 * p + part;
    const std::uint32_t shifted = load_u16(span + 2) >> bit;
    const std::uint32_t negative = load_u16(span + 4) >> bit;
    const std::uint32_t scales = word(span + 6 + 4 * h) >> (8 * p + 4 * part);
    const std::uint32_t high = word(span + 78 + 4 * (lane % 8)) >> (4 * h + p);
    quads out{};
    select_triples<4>(word(span + 14 + 32 * h + 4 * (lane % 8)), p, high, shifted, out.bytes);
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      const float scale = d * byte_to_float<-1>(low_nibbles(scales) << 1, 2 * q);
      const std::uint32_t sign = negative << (31 - 4 * q) & 0x80000000U;
      out.scale[q] = bit_cast<float>(bit_cast<std::uint32_t>(scale) ^ sign);
    }
    return out;
  }
};

/// As iq2_ks, and of word l % 8 of the high bits those two that belong to it.
template <>
struct octet<iq3_ks> : octet_base<iq3_ks, 64> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane,
                                                    half row_scale) noexcept {
    const int h = lane / 16;
    const int p = lane / 8 % 2;
    const float d = to_float(row_scale);
    const std::uint32_t extra = load_u16(span) >> (4 * h + p);
    const std::uint32_t scales = word(span + 2) >> (8 * p + 4 * h);
    const std::uint32_t stored =
        low_nibbles(scales) | (extra << 4 & 0x00000010U) | (extra << 18 & 0x00100000U);
    const std::uint32_t high = word(span + 70 + 4 * (lane % 8)) >> (4 * h + p);
    quads out{};
    select_triples<2>(word(span + 6 + 32 * h + 4 * (lane % 8)), p, high, extra >> 8, out.bytes);
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      out.scale[q] = d * byte_to_float<16>(stored, 2 * q);
    }
    return out;
  }
};

/// Lane l takes word l of the codes: four weights of group 2 (l / 4) in the low nibbles, four of
/// the next in the high ones.
template <>
struct octet<iq4_k> : octet_base<iq4_k, 16> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const int pair = lane / 4;
    const float d = load_half(span);
    const std::uint32_t high = static_cast<std::uint32_t>(span[4 + pair / 2]) >> (4 * (pair % 2));
    const std::uint32_t low = span[8 + pair];
    const std::uint32_t stored =
        low_nibbles(low | low << 4) | (high << 4 & 0x0030U) | (high << 10 & 0x3000U);
    quads out{};
    select_nibbles<1>(word(span + 16 + 4 * lane), load_u16(span + 2) >> (2 * pair), out.bytes);
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      out.scale[q] = d * byte_to_float<32>(stored, q);
    }
    return out;
  }
};

/// The scale that a byte of pack_odd_scales is 127 more than, but for its lowest bit, which raises
/// the group.
[[nodiscard]] SUBBYTE_HD_INLINE float odd_scale(std::uint32_t byte) noexcept {
  return integer_to_float<127>(byte, 254U);
}

/// As iq4_k; both runs are of group l / 4.
template <>
struct octet<iq4_ks> : octet_base<iq4_ks, 16> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane,
                                                    f32_scale row_scale) noexcept {
    const std::uint32_t scale = span[lane / 4];
    const float d = row_scale.to_float() * odd_scale(scale);
    quads out{{}, {d, d}, {}};
    select_nibbles<0>(word(span + 8 + 4 * lane), scale, out.bytes);
    return out;
  }
};

/// As iq4_ks; the lowest bits of the eight 16-bit words of a group are its scale byte.
template <>
struct octet<iq4_kss> : octet_base<iq4_kss, 16> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane,
                                                    f32_scale row_scale) noexcept {
    std::uint32_t bits = 0;
    SUBBYTE_UNROLL
    for (int i = 0; i < 4; ++i) {
      bits |= (word(span + 16 * (lane / 4) + 4 * i) & 0x00010001U) << (2 * i);
    }
    const std::uint32_t scale = bits | bits >> 15;
    const std::uint32_t even = word(span + 4 * lane) & 0xFFFEFFFEU;
    const float d = row_scale.to_float() * odd_scale(scale);
    quads out{{}, {d, d}, {}};
    select_nibbles<0>(even ^ (even >> 1 & 0x7FFF7FFFU), scale, out.bytes);
    return out;
  }
};

/// Lane l takes word l of the low bits, and of word l % 8 of the fifth bits those two that belong
/// to it: groups 2 apart.
template <>
struct octet<iq5_k> : octet_base<iq5_k, 32> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const int k = lane / 8;
    const int part = lane / 4 % 2;
    const float d = load_half(span);
    const std::uint32_t scales_high = static_cast<std::uint32_t>(span[4 + k]) >> (2 * part);
    const std::uint32_t scales_low = load_u16(span + 8 + 2 * k) >> (4 * part);
    const std::uint32_t stored =
        low_nibbles(scales_low) | (scales_high << 4 & 0x0030U) | (scales_high << 8 & 0x3000U);
    const std::uint32_t high = word(span + 144 + 4 * (lane % 8)) >> (2 * k);
    quads out{};
    select_fives<2>(word(span + 16 + 4 * lane), high, load_u16(span + 2) >> (4 * k + part),
                    out.bytes);
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      out.scale[q] = d * byte_to_float<32>(stored, q);
    }
    return out;
  }
};

/// As iq5_k: groups 2 (l / 8) and the next.
template <>
struct octet<iq5_ks> : octet_base<iq5_ks, 32> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane,
                                                    f32_scale row_scale) noexcept {
    const std::uint32_t scales = load_u16(span + 2 * (lane / 8));
    const std::uint32_t high = word(span + 136 + 4 * (lane % 8)) >> (2 * (lane / 8));
    const float d = row_scale.to_float();
    quads out{};
    select_fives<8>(word(span + 8 + 4 * lane), high, scales, out.bytes);
    out.scale[0] = d * odd_scale(scales);
    out.scale[1] = d * odd_scale(scales >> 8);
    return out;
  }
};

/// Lane l takes weights 8 l and up, of group l / 2: a nibble of two words of low bits, a pair of
/// two of high bits. Levels are no integers.
template <>
struct octet<iq6_k> : octet_base<iq6_k, 4> {
  using quads = float_quads;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const int r = lane / 4 % 4;
    const std::uint8_t* low_bits = span + 20 + 32 * (lane / 8) + 8 * (lane % 4);
    const std::uint8_t* high_bits = span + 148 + 32 * (lane / 16) + 8 * (lane % 4);
    const float d = load_half(span);
    const std::uint32_t group_scale = span[4 + lane / 2] ^ 128U;
    const float shift = (load_u16(span + 2) >> (lane / 2) & 1U) != 0 ? iq6::shift : 0.0F;
    quads out{{}, d * integer_to_float<128>(group_scale)};
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      const std::uint32_t low = word(low_bits + 4 * q) >> (4 * (r % 2));
      const std::uint32_t high = word(high_bits + 4 * q) >> (2 * r);
      float code[4];
      bytes_to_floats<0>(low_nibbles(low) | low_pairs(high) << 4, code);
      SUBBYTE_UNROLL
      for (int i = 0; i < 4; ++i) out.level[q][i] = iq6::level_of(code[i]) + shift;
    }
    return out;
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
