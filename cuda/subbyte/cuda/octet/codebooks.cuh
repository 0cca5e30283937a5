// SPDX-License-Identifier: Apache-2.0
/// Octets of the formats with 4-bit indices into a table: iq4_nl, iq4_xs, mxfp4 and nvfp4.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/cuda/octet/levels.cuh"
#include "subbyte/format/codebook.hpp"
#include "subbyte/format/iq4_nl.hpp"
#include "subbyte/format/iq4_xs.hpp"
#include "subbyte/format/mxfp4.hpp"
#include "subbyte/format/nvfp4.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Lanes take words of codes as those of q4_0.
template <>
struct octet<iq4_nl> : octet_base<iq4_nl, 16> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(iq4_nl));
    constexpr auto levels = level_bytes<iq4>();
    const float d = load_half(block);
    quads out{{}, {d, d}, {}};
    select16(levels.at, word(block + 2 + 4 * (lane % 4)), out.bytes);
    return out;
  }
};

/// Lane l takes word l of the codes: four weights of group l / 4 in the low nibbles, four in the
/// high ones.
template <>
struct octet<iq4_xs> : octet_base<iq4_xs, 16> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    constexpr auto levels = level_bytes<iq4>();
    const int g = lane / 4;
    const std::uint32_t low = word(span + 4) >> (4 * g) & 15U;
    const std::uint32_t high = load_u16(span + 2) >> (2 * g) & 3U;
    const float d = load_half(span) * integer_to_float<32>(low | high << 4);
    quads out{{}, {d, d}, {}};
    select16(levels.at, word(span + 8 + 4 * lane), out.bytes);
    return out;
  }
};

/// Lanes take words of codes as those of q4_0; levels are doubled, the scale is halved.
template <>
struct octet<mxfp4> : octet_base<mxfp4, 16> {
  static constexpr int alignment = 4;
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    constexpr auto levels = level_bytes<fp4_e2m1, 2>();
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(mxfp4));
    // Exact down to 2^-128, a subnormal, of whose multiples no bit is lost either.
    const float d = e8m0::from_bits(block[0]).to_float() * 0.5F;
    quads out{{}, {d, d}, {}};
    // The four bytes are in one or two words of the span.
    const int at = lane / 4 * static_cast<int>(sizeof(mxfp4)) + 1 + 4 * (lane % 4);
    const std::uint32_t low = load_word<4>(span + (at & ~3));
    const std::uint32_t high = load_word<4>(span + ((at + 3) & ~3));
    const std::uint32_t from = 0x3210U + static_cast<std::uint32_t>(at % 4) * 0x1111U;
    select16(levels.at, permute_bytes(low, high, from), out.bytes);
    return out;
  }
};

/// Eight lanes per block, two per group; a lane's word holds four weights in its low nibbles, those
/// 8 after them in its high ones. Levels are doubled, the scale is halved.
template <>
struct octet<nvfp4> : octet_base<nvfp4, 8> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    constexpr auto levels = level_bytes<fp4_e2m1, 2>();
    const std::uint8_t* block = span + lane / 8 * static_cast<int>(sizeof(nvfp4));
    const std::uint32_t scale = block[lane % 8 / 2] & 127U;
    // Its bits where a float has them give 2^-120 of its value, subnormal or not; NaN counts as 0.
    const float d = scale != 127U ? bit_cast<float>(scale << 20) * 0x1p119F : 0.0F;
    quads out{{}, {d, d}, {}};
    select16(levels.at, word(block + 4 + 4 * (lane % 8)), out.bytes);
    return out;
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
