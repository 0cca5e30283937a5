// SPDX-License-Identifier: Apache-2.0
/// How a lane decodes rows of planar matrices, whose codes are one stream of bits and whose scales
/// lie elsewhere.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/cuda/octet/levels.cuh"
#include "subbyte/format/grid.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Eight codes of a planar matrix, which are Bits bytes: code i is in bits Bits * i and up.
template <int Bits>
class packed_octet {
 public:
  /// What the address of a span is a multiple of.
  static constexpr int alignment = Bits == 8 ? 8 : (Bits <= 2 ? Bits : 4);

  /// The Bits bytes from byte Bits * lane of a span on.
  ///
  /// Reads nothing beyond the 32-bit words of the span that hold them.
  SUBBYTE_HD_INLINE packed_octet(const std::uint8_t* span, int lane) noexcept {
    const int at = Bits * lane;
    if constexpr (Bits == 8) {
      load_words(span + at, words_);
    } else if constexpr (Bits == 4) {
      words_[0] = load_word<4>(span + at);
    } else if constexpr (Bits == 2) {
      words_[0] = load_u16(span + at);
    } else if constexpr (Bits == 1) {
      words_[0] = span[at];
    } else {
      // From any byte of a word on; in two words up to 6 bits, in three with 7.
      const int begin = at & ~3;
      const int last = (at + Bits - 1) & ~3;
      const int next = begin + 4 < last ? begin + 4 : last;
      const std::uint32_t low = load_word<4>(span + begin);
      const std::uint32_t high = load_word<4>(span + next);
      const std::uint32_t from = 0x3210U + static_cast<std::uint32_t>(at - begin) * 0x1111U;
      words_[0] = permute_bytes(low, high, from);
      if constexpr (Bits > 4) {
        words_[1] = permute_bytes(high, Bits == 7 ? load_word<4>(span + last) : high, from);
      }
    }
  }

  /// The first four bytes, in which codes of 4 bits are nibbles.
  [[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t nibbles() const noexcept requires(Bits == 4) {
    return words_[0];
  }

  [[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t code(int i) const noexcept {
    return above(i) & ((1U << Bits) - 1);
  }

  /// 2^23 + code i, as the bits of a float.
  [[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t float_bits(int i) const noexcept {
    constexpr std::uint32_t exponent = 0x4B000000U;
    if constexpr (Bits == 8) {
      return permute_bytes(words_[i / 4], exponent, 0x7440U | static_cast<std::uint32_t>(i % 4));
    } else if constexpr (Bits == 4) {
      // The even codes and the odd ones become bytes in one step each.
      return permute_bytes(low_nibbles(words_[0] >> (4 * (i % 2))), exponent,
                           0x7440U | static_cast<std::uint32_t>(i / 2));
    } else {
      return masked_or(above(i), (1U << Bits) - 1, exponent);
    }
  }

 private:
  // Code i and what follows it.
  [[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t above(int i) const noexcept {
    const int bit = Bits * i % 32;
    const std::uint32_t low = words_[Bits * i / 32] >> bit;
    return bit + Bits > 32 ? low | words_[1] << (32 - bit) : low;
  }

  std::uint32_t words_[2] = {};
};

/// As octet, of the codes of a planar matrix with grid G: lane l takes codes 8 l to 8 l + 7 of a
/// span. They have one scale, because groups are multiples of 8 or whole rows.
///
/// load(span, lane, params) gives quads whose weights are G::value(code, params).
template <group_grid G>
struct planar_octet;

/// What the octets of planar matrices share.
template <group_grid G>
struct planar_octet_base : runs_apart<4> {
  static constexpr int span_bytes = span_weights / 8 * G::bits;
  static constexpr int alignment = packed_octet<G::bits>::alignment;
  using quads = float_quads;
  using params = typename G::params;
};

template <int Bits, zero_points Zeros>
struct planar_octet<int_grid<Bits, Zeros>> : planar_octet_base<int_grid<Bits, Zeros>> {
  [[nodiscard]] SUBBYTE_HD_INLINE static float_quads load(
      const std::uint8_t* span, int lane,
      const typename int_grid<Bits, Zeros>::params& params) noexcept {
    const packed_octet<Bits> codes(span, lane);
    float_quads out{{}, params.scale};
    // A whole zero point joins 2^23 exactly, and one subtraction gives the level. A real one is
    // subtracted from the code alone: that is the level's one rounding.
    constexpr bool real = Zeros == zero_points::real;
    const float shift = real ? 8388608.0F : 8388608.0F + params.zero;
    SUBBYTE_UNROLL
    for (int i = 0; i < 8; ++i) {
      const float level = bit_cast<float>(codes.float_bits(i)) - shift;
      out.level[i / 4][i % 4] = real ? level - params.zero : level;
    }
    return out;
  }
};

template <codebook C>
struct planar_octet<codebook_grid<C>> : planar_octet_base<codebook_grid<C>> {
  [[nodiscard]] SUBBYTE_HD_INLINE static float_quads load(
      const std::uint8_t* span, int lane,
      const typename codebook_grid<C>::params& params) noexcept {
    const packed_octet<C::bits> codes(span, lane);
    float_quads out{{}, params.scale};
    if constexpr (C::bits == 4 && has_byte_levels<C>()) {
      constexpr auto levels = level_bytes<C>();
      std::uint32_t bytes[2];
      select16(levels.at, codes.nibbles(), bytes);
      float even[4];
      float odd[4];
      bytes_to_floats<128>(bytes[0], even);
      bytes_to_floats<128>(bytes[1], odd);
      SUBBYTE_UNROLL
      for (int i = 0; i < 8; ++i) out.level[i / 4][i % 4] = i % 2 == 0 ? even[i / 2] : odd[i / 2];
    } else {
      SUBBYTE_UNROLL
      for (int i = 0; i < 8; ++i) {
        out.level[i / 4][i % 4] = C::value(static_cast<int>(codes.code(i)));
      }
    }
    return out;
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
