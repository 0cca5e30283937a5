// SPDX-License-Identifier: Apache-2.0
/// Block decodes with the arch's own instructions, for formats whose portable decode compilers do
/// not turn into good code: those that look values up in a table.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/iq4_k.hpp"
#include "subbyte/format/iq4_ks.hpp"
#include "subbyte/format/iq4_nl.hpp"
#include "subbyte/format/iq4_xs.hpp"
#include "subbyte/format/mxfp4.hpp"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/concepts.hpp"
#include "subbyte/matrix/row_scaled_matrix.hpp"
#include "subbyte/simd/primitives.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// Sixteen levels that 4-bit codes index.
struct byte_levels {
  std::int8_t at[16];
};

/// The levels of the IQ4 formats, raised by `shift`.
SUBBYTE_INLINE constexpr byte_levels iq4_byte_levels(int shift = 0) noexcept {
  byte_levels levels{};
  for (int code = 0; code < 16; ++code)
    levels.at[code] = static_cast<std::int8_t>(iq4::level(code) + shift);
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

/// out[i] = step * level of code i for 32 codes: first the low nibbles of 16 bytes, then the high
/// ones, with levels and a step of their own.
///
/// Numerics  one rounding per weight, none where the product is exact.
template <class Arch>
SUBBYTE_INLINE void decode_tables(const byte_levels& low_levels, float low_step,
                                  const byte_levels& high_levels, float high_step,
                                  const std::uint8_t* packed, float* out) noexcept {
  using floats = reg<float, Arch>;
  const auto low_scale = floats::broadcast(low_step);
  const auto high_scale = floats::broadcast(high_step);
  // The sixteen bytes in every 128-bit lane: the nibbles need not cross lanes, nor memory.
  const auto codes = subbyte::unpack_nibbles(subbyte::broadcast_16_bytes<Arch>(packed));
  const auto low = subbyte::lut16(subbyte::broadcast_16_bytes<Arch>(low_levels.at), codes.low);
  const auto high = subbyte::lut16(subbyte::broadcast_16_bytes<Arch>(high_levels.at), codes.high);
  const auto put = [&]<int quarter>(std::integral_constant<int, quarter>) {
    if constexpr (quarter * floats::size < 16) {
      (subbyte::i8_to_f32<quarter>(low) * low_scale).store(out + quarter * floats::size);
      (subbyte::i8_to_f32<quarter>(high) * high_scale).store(out + 16 + quarter * floats::size);
    }
  };
  put(std::integral_constant<int, 0>{});
  put(std::integral_constant<int, 1>{});
  put(std::integral_constant<int, 2>{});
  put(std::integral_constant<int, 3>{});
}

/// The same with one table and one step.
template <class Arch>
SUBBYTE_INLINE void decode_table(const byte_levels& levels, const std::uint8_t* packed, float step,
                                 float* out) noexcept {
  decode_tables<Arch>(levels, step, levels, step, packed, out);
}

/// Whether a table of 16 bytes is one instruction.
template <class Arch>
inline constexpr bool has_table_instruction =
    std::is_base_of_v<arch::avx2, Arch> || std::is_base_of_v<arch::neon, Arch>;

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
      requires(detail::has_table_instruction<Arch>) {
    detail::decode_table<Arch>(detail::iq4_byte_levels(), block.codes_packed,
                               block.scale.to_float(), out);
  }

  SUBBYTE_INLINE void operator()(const iq4_xs& block, float* out) const noexcept
      requires(detail::has_table_instruction<Arch>) {
    const float scale = block.scale.to_float();
    for (int g = 0; g < iq4_xs::groups; ++g) {
      detail::decode_table<Arch>(detail::iq4_byte_levels(), block.codes_packed + 16 * g,
                                 scale * static_cast<float>(iq4_xs::group_scale(block, g)),
                                 out + iq4_xs::group_size * g);
    }
  }

  SUBBYTE_INLINE void operator()(const mxfp4& block, float* out) const noexcept
      requires(detail::has_table_instruction<Arch>) {
    // Half a power of two is exact, also the smallest.
    detail::decode_table<Arch>(detail::fp4_byte_levels(), block.codes_packed,
                               0.5F * block.scale.to_float(), out);
  }

  SUBBYTE_INLINE void operator()(const iq4_k& block, float* out) const noexcept
      requires(detail::has_table_instruction<Arch>) {
    constexpr detail::byte_levels levels[2] = {
        detail::iq4_byte_levels(), detail::iq4_byte_levels(static_cast<int>(iq4_shifted::shift))};
    const float scale = block.scale.to_float();
    std::int8_t steps[iq4_k::groups];
    unpack_6bit_scales(block.scales_high, block.scales_low, steps);
    for (int g = 0; g < iq4_k::groups; g += 2) {
      detail::decode_tables<Arch>(
          levels[block.shifted >> g & 1], scale * static_cast<float>(steps[g]),
          levels[block.shifted >> (g + 1) & 1], scale * static_cast<float>(steps[g + 1]),
          block.codes_packed + 8 * g, out + 16 * g);
    }
  }

  template <row_scaled_format F>
  SUBBYTE_INLINE void operator()(const F& block, const typename F::row_scale& scale,
                                 float* out) const noexcept {
    F::decode(block, scale, out);
  }

  SUBBYTE_INLINE void operator()(const iq4_ks& block, const f32_scale& scale,
                                 float* out) const noexcept
      requires(detail::has_table_instruction<Arch>) {
    constexpr detail::byte_levels levels[2] = {
        detail::iq4_byte_levels(), detail::iq4_byte_levels(static_cast<int>(iq4_shifted::shift))};
    for (int g = 0; g < iq4_ks::groups; ++g) {
      const int stored = block.scales[g];
      detail::decode_table<Arch>(levels[stored & 1], block.codes_packed + 16 * g,
                                 scale.to_float() * static_cast<float>((stored & 254) - 127),
                                 out + iq4_ks::group_size * g);
    }
  }
};

namespace detail {

/// decode_row of any quantized matrix; blocks go through tuned_decode.
template <class Arch, class M>
SUBBYTE_INLINE void decode_run(const M& w, index_t r, index_t k0, index_t count,
                               float* out) noexcept {
  w.template decode_row<Arch>(r, k0, count, out);
}
template <class Arch, class F>
SUBBYTE_INLINE void decode_run(const block_matrix_view<F>& w, index_t r, index_t k0, index_t count,
                               float* out) noexcept {
  w.template decode_row<Arch>(r, k0, count, out, tuned_decode<Arch>{});
}
template <class Arch, class F>
SUBBYTE_INLINE void decode_run(const row_scaled_matrix_view<F>& w, index_t r, index_t k0,
                               index_t count, float* out) noexcept {
  w.template decode_row<Arch>(r, k0, count, out, tuned_decode<Arch>{});
}

}  // namespace detail

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
