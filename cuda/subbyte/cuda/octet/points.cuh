// SPDX-License-Identifier: Apache-2.0
/// Octets of the vector codebooks: iq1_s to iq3_s.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/format/iq1_m.hpp"
#include "subbyte/format/iq1_s.hpp"
#include "subbyte/format/iq2_s.hpp"
#include "subbyte/format/iq2_xs.hpp"
#include "subbyte/format/iq2_xxs.hpp"
#include "subbyte/format/iq3_s.hpp"
#include "subbyte/format/iq3_xxs.hpp"
#include "subbyte/format/vector_codebook.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// The eight elements of a point, as bytes of two words.
template <class Codebook>
SUBBYTE_HD_INLINE void load_point(std::uint32_t index, std::uint32_t (&out)[2]) noexcept {
  const auto all = bit_cast<std::uint64_t>(elements_of<Codebook>(static_cast<int>(index)));
  out[0] = static_cast<std::uint32_t>(all);
  out[1] = static_cast<std::uint32_t>(all >> 32);
}
/// The four elements of a point, as bytes.
template <class Codebook>
[[nodiscard]] SUBBYTE_HD_INLINE std::uint32_t load_point(std::uint32_t index) noexcept {
  return bit_cast<std::uint32_t>(elements_of<Codebook>(static_cast<int>(index)));
}

/// Eight magnitudes with their signs: bit i of `negative` is that of number i.
[[nodiscard]] SUBBYTE_HD_INLINE integer_quads<128, false> signed_point(
    const std::uint32_t (&magnitudes)[2], std::uint32_t negative, float d) noexcept {
  return {
      {with_signs(magnitudes[0], negative), with_signs(magnitudes[1], negative >> 4)}, {d, d}, {}};
}

/// Eight ternary values with an eighth more or less, of which d8 is the step: 8 (value + 2) + 1 or
/// - 1.
[[nodiscard]] SUBBYTE_HD_INLINE integer_quads<16, false> shifted_point(std::uint32_t index,
                                                                       bool down,
                                                                       float d8) noexcept {
  const std::uint32_t eighth = down ? 0U - 0x01010101U : 0x01010101U;
  integer_quads<16, false> out{{}, {d8, d8}, {}};
  load_point<iq1_codebook>(index, out.bytes);
  SUBBYTE_UNROLL
  for (int q = 0; q < 2; ++q) {
    out.bytes[q] = (low_pairs(out.bytes[q]) ^ 0x02020202U) * 8 + eighth;
  }
  return out;
}

/// Lane l takes point l, of group l / 4.
template <>
struct octet<iq1_s> : octet_base<iq1_s, 4> {
  using quads = integer_quads<16, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint32_t group = load_u16(span + 34 + 2 * (lane / 4));
    const std::uint32_t index = span[2 + lane] | (group >> (3 * (lane % 4)) & 7U) << 8;
    const float d = load_half(span) * integer_to_float<-1>(group >> 11, 14U);
    return shifted_point(index, (group & 0x8000U) != 0, d * 0.125F);
  }
};

/// Lane l takes point l, of group l / 2.
template <>
struct octet<iq1_m> : octet_base<iq1_m, 4> {
  using quads = integer_quads<16, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint32_t low = word(span + 48);
    const std::uint32_t high = word(span + 52);
    const std::uint32_t scale = (low >> 12 & 0x000FU) | (low >> 24 & 0x00F0U) |
                                (high >> 4 & 0x0F00U) | (high >> 16 & 0xF000U);
    const std::uint32_t levels = (lane < 16 ? low : high) >> (lane / 8 % 2 * 16 + lane / 2 % 4 * 3);
    const std::uint32_t point = static_cast<std::uint32_t>(span[32 + lane / 2]) >> (4 * (lane % 2));
    const float d = to_float(half::from_bits(static_cast<std::uint16_t>(scale))) *
                    integer_to_float<-1>(levels << 1, 14U);
    return shifted_point(span[lane] | (point & 7U) << 8, (point & 8U) != 0, d * 0.125F);
  }
};

/// Lane l takes point l, of group l / 4, whose four indices lie before its word of signs.
template <>
struct octet<iq2_xxs> : octet_base<iq2_xxs, 4> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* group = span + 2 + 8 * (lane / 4);
    const std::uint32_t signs = word(group + 4);
    const float d = load_half(span) * integer_to_float<-1>(signs >> 27, 30U);
    std::uint32_t point[2];
    load_point<iq2_xxs_codebook>(group[lane % 4], point);
    return signed_point(point, signs_of_seven(signs >> (7 * (lane % 4))), d * 0.125F);
  }
};

/// scale (2 n + 1) / 8 of iq2_xs and iq2_s, n being the nibble of point `p`.
[[nodiscard]] SUBBYTE_HD_INLINE float scale_of_point(const std::uint8_t* scales, int p,
                                                     float scale) noexcept {
  const std::uint32_t pair = static_cast<std::uint32_t>(scales[p / 4]) << 1;
  return scale * integer_to_float<-1>(pair >> (4 * (p / 2 % 2)), 30U) * 0.125F;
}

/// Lane l takes point l, of group l / 2.
template <>
struct octet<iq2_xs> : octet_base<iq2_xs, 4> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint32_t packed = load_u16(span + 2 + 2 * lane);
    std::uint32_t point[2];
    load_point<iq2_xs_codebook>(packed & 511U, point);
    return signed_point(point, signs_of_seven(packed >> 9),
                        scale_of_point(span + 66, lane, load_half(span)));
  }
};

/// Lane l takes point l, of group l / 2.
template <>
struct octet<iq2_s> : octet_base<iq2_s, 4> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint32_t high = span[66 + lane / 4];
    std::uint32_t point[2];
    load_point<iq2_s_codebook>(span[2 + lane] | (high >> (2 * (lane % 4)) & 3U) << 8, point);
    return signed_point(point, span[34 + lane], scale_of_point(span + 74, lane, load_half(span)));
  }
};

/// Lane l takes points 2 l and 2 l + 1, of group l / 4.
template <>
struct octet<iq3_xxs> : octet_base<iq3_xxs, 4> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint32_t indices = load_u16(span + 2 + 2 * lane);
    const std::uint32_t signs = word(span + 66 + 4 * (lane / 4));
    const float d = load_half(span) * integer_to_float<-1>(signs >> 27, 30U);
    const std::uint32_t points[2] = {load_point<iq3_xxs_codebook>(indices & 255U),
                                     load_point<iq3_xxs_codebook>(indices >> 8)};
    return signed_point(points, signs_of_seven(signs >> (7 * (lane % 4))), d * 0.25F);
  }
};

/// Lane l takes points 2 l and 2 l + 1, of group l / 4.
template <>
struct octet<iq3_s> : octet_base<iq3_s, 4> {
  using quads = integer_quads<128, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint32_t indices = load_u16(span + 2 + 2 * lane);
    const std::uint32_t high = static_cast<std::uint32_t>(span[66 + lane / 4])
                               << (8 - lane % 4 * 2);
    const std::uint32_t pair = static_cast<std::uint32_t>(span[106 + lane / 8]) << 1;
    const float d = load_half(span) * integer_to_float<-1>(pair >> (lane / 4 % 2 * 4), 30U);
    const std::uint32_t points[2] = {load_point<iq3_s_codebook>((indices & 255U) | (high & 256U)),
                                     load_point<iq3_s_codebook>(indices >> 8 | (high >> 1 & 256U))};
    return signed_point(points, span[74 + lane], d);
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
