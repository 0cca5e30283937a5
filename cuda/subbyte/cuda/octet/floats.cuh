// SPDX-License-Identifier: Apache-2.0
/// Octets of the floats.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/format/bf16.hpp"
#include "subbyte/format/f16.hpp"
#include "subbyte/format/f32.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Consecutive lanes read consecutive 16 bytes.
template <>
struct octet<f32> : octet_base<f32, 128> {
  static constexpr int alignment = 16;
  using quads = float_quads;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    quads out{{}, 1.0F};
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      std::uint32_t words[4];
      load_words(span + 4 * first(lane, q), words);
      SUBBYTE_UNROLL
      for (int i = 0; i < 4; ++i) out.level[q][i] = bit_cast<float>(words[i]);
    }
    return out;
  }
};

namespace detail {

/// Consecutive lanes read consecutive 8 bytes.
template <class F>
struct octet_of_16_bits : octet_base<F, 128> {
  static constexpr int alignment = 8;
  using quads = float_quads;

  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    quads out{{}, 1.0F};
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      std::uint32_t words[2];
      load_words(span + 2 * octet_of_16_bits::first(lane, q), words);
      SUBBYTE_UNROLL
      for (int i = 0; i < 2; ++i) {
        const bool is_half = std::is_same_v<F, f16>;
        out.level[q][2 * i] =
            is_half ? to_float(first_half({words[i]})) : bit_cast<float>(words[i] << 16);
        out.level[q][2 * i + 1] =
            is_half ? to_float(second_half({words[i]})) : bit_cast<float>(words[i] & 0xFFFF0000U);
      }
    }
    return out;
  }
};

}  // namespace detail

template <>
struct octet<f16> : detail::octet_of_16_bits<f16> {};
template <>
struct octet<bf16> : detail::octet_of_16_bits<bf16> {};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
