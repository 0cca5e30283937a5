// SPDX-License-Identifier: Apache-2.0
/// Block decodes with the arch's own instructions, for formats whose portable decode compilers do
/// not turn into good code: those that look values up in a table.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/iq4_nl.hpp"
#include "subbyte/format/iq4_xs.hpp"
#include "subbyte/format/mxfp4.hpp"
#include "subbyte/simd/primitives.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// The arch whose registers hold the bytes of at most one group of 32: wider ones gain nothing.
template <class Arch>
using table_arch = std::conditional_t<
    std::is_base_of_v<arch::avx2, Arch>, arch::avx2,
    std::conditional_t<std::is_base_of_v<arch::neon, Arch>, arch::neon, arch::scalar>>;

/// Sixteen levels that 4-bit codes index.
struct byte_levels {
  std::int8_t at[16];
};

/// The levels of the IQ4 formats.
SUBBYTE_INLINE constexpr byte_levels iq4_byte_levels() noexcept {
  byte_levels levels{};
  for (int code = 0; code < 16; ++code)
    levels.at[code] = static_cast<std::int8_t>(iq4::level(code));
  return levels;
}

/// Twice the values of FP4 E2M1.
SUBBYTE_INLINE constexpr byte_levels fp4_byte_levels() noexcept {
  byte_levels levels{};
  for (int code = 0; code < 16; ++code) {
    levels.at[code] = static_cast<std::int8_t>(2.0F * fp4_e2m1::value(code));
  }
  return levels;
}

/// out[i] = step * levels[code i] for 32 codes: first the low nibbles of 16 bytes, then the high.
///
/// Numerics  one rounding per weight, none where the product is exact.
template <class Arch>
SUBBYTE_INLINE void decode_table(const byte_levels& levels, const std::uint8_t* packed, float step,
                                 float* out) noexcept {
  using bytes = reg<std::uint8_t, Arch>;
  using signed_bytes = reg<std::int8_t, Arch>;
  using floats = reg<float, Arch>;
  const auto table = subbyte::broadcast_16_bytes<Arch>(levels.at);
  const auto scale = floats::broadcast(step);
  std::uint8_t codes[32];
  for (int i = 0; i < 16; ++i) {
    codes[i] = static_cast<std::uint8_t>(packed[i] & 15);
    codes[i + 16] = static_cast<std::uint8_t>(packed[i] >> 4);
  }
  for (int i = 0; i < 32; i += bytes::size) {
    const signed_bytes found = subbyte::lut16<std::int8_t, Arch>(table, bytes::load(codes + i));
    const auto put = [&]<int quarter>(std::integral_constant<int, quarter>) {
      (subbyte::i8_to_f32<quarter>(found) * scale).store(out + i + quarter * floats::size);
    };
    put(std::integral_constant<int, 0>{});
    put(std::integral_constant<int, 1>{});
    put(std::integral_constant<int, 2>{});
    put(std::integral_constant<int, 3>{});
  }
}

}  // namespace detail

/// decode(), with Arch's instructions where that pays: what the kernels hand to decode_row.
///
/// Numerics  the bits of decode().
template <class Arch>
struct tuned_decode {
  template <block_format F>
  SUBBYTE_INLINE void operator()(const F& block, float* out) const noexcept {
    decode(block, out);
  }

  SUBBYTE_INLINE void operator()(const iq4_nl& block, float* out) const noexcept
      requires(!std::is_same_v<detail::table_arch<Arch>, arch::scalar>) {
    detail::decode_table<detail::table_arch<Arch>>(detail::iq4_byte_levels(), block.codes_packed,
                                                   block.scale.to_float(), out);
  }

  SUBBYTE_INLINE void operator()(const iq4_xs& block, float* out) const noexcept
      requires(!std::is_same_v<detail::table_arch<Arch>, arch::scalar>) {
    const float scale = block.scale.to_float();
    for (int g = 0; g < iq4_xs::groups; ++g) {
      detail::decode_table<detail::table_arch<Arch>>(
          detail::iq4_byte_levels(), block.codes_packed + 16 * g,
          scale * static_cast<float>(iq4_xs::group_scale(block, g)), out + iq4_xs::group_size * g);
    }
  }

  SUBBYTE_INLINE void operator()(const mxfp4& block, float* out) const noexcept
      requires(!std::is_same_v<detail::table_arch<Arch>, arch::scalar>) {
    // Half a power of two is exact, also the smallest.
    detail::decode_table<detail::table_arch<Arch>>(detail::fp4_byte_levels(), block.codes_packed,
                                                   0.5F * block.scale.to_float(), out);
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
