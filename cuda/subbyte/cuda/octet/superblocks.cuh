// SPDX-License-Identifier: Apache-2.0
/// Octets of the k-quants: 256 weights under small integer scales.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/format/q4_k.hpp"
#include "subbyte/format/q6_k.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Scale (low byte) and minimum (next byte) of group g of q4_k and q5_k, from the twelve bytes that
/// pack_6bit_pairs makes.
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t pair_of_group(const std::uint8_t* packed,
                                                            int g) noexcept {
  const std::uint32_t at = packed[g % 4];
  const std::uint32_t beside = packed[4 + g % 4];
  if (g < 4) return (at & 63U) | (beside & 63U) << 8;
  const std::uint32_t low = packed[8 + g % 4];
  return (low & 15U) | (at >> 6) << 4 | ((low >> 4) | (beside >> 6) << 4) << 8;
}

/// Lane l takes word l of the codes: four weights of group 2 (l / 8) in the low nibbles, four of
/// the group after it in the high ones.
template <>
struct octet<q4_k> : octet_base<q4_k> {
  using quads = integer_quads<0, true>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return 64 * (lane / 8) + 32 * q + 4 * (lane % 8);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const float d = load_half(span);
    const float m = load_half(span + 2);
    const std::uint32_t codes = word(span + 16 + 4 * lane);
    quads out{{low_nibbles(codes), low_nibbles(codes >> 4)}, {}, {}};
    for (int q = 0; q < 2; ++q) {
      const std::uint32_t pair = pair_of_group(span + 4, 2 * (lane / 8) + q);
      out.scale[q] = d * static_cast<float>(pair & 63U);
      out.offset[q] = -(m * static_cast<float>(pair >> 8));
    }
    return out;
  }
};

/// Lane l takes a word of the low bits, and of the word of high bits those that belong to it.
template <>
struct octet<q6_k> : octet_base<q6_k> {
  using quads = integer_quads<32, false>;

  // Half h of the block: weights 32 q + i of it have their low bits in nibble q / 2 of byte
  // 32 (q % 2) + i, their high bits in pair q of byte i.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return 128 * (lane / 16) + 64 * q + 4 * (lane % 16);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const int h = lane / 16;
    const int i = lane % 16;
    const std::uint32_t low = word(span + 64 * h + 4 * i);
    const std::uint32_t high = word(span + 128 + 32 * h + 4 * (i % 8)) >> (2 * (i / 8));
    const float d = load_half(span + 208);
    quads out{{low_nibbles(low) | low_pairs(high) << 4, low_nibbles(low >> 4) | low_pairs(high >> 4)
                                                                                    << 4},
              {},
              {}};
    for (int q = 0; q < 2; ++q) {
      const auto scale = static_cast<std::int8_t>(span[192 + first(lane, q) / 16]);
      out.scale[q] = d * static_cast<float>(scale);
    }
    return out;
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
