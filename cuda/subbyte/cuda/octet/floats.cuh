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
struct octet<f32> : octet_base<f32> {
  static constexpr int alignment = 16;
  using quads = float_quads;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return 128 * q + 4 * lane;
  }
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

/// Consecutive lanes read consecutive 8 bytes.
template <>
struct octet<f16> : octet_base<f16> {
  static constexpr int alignment = 8;
  using quads = float_quads;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return 128 * q + 4 * lane;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    quads out{{}, 1.0F};
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      std::uint32_t words[2];
      load_words(span + 2 * first(lane, q), words);
      SUBBYTE_UNROLL
      for (int i = 0; i < 2; ++i) {
        out.level[q][2 * i] = to_float(first_half({words[i]}));
        out.level[q][2 * i + 1] = to_float(second_half({words[i]}));
      }
    }
    return out;
  }
};

/// Consecutive lanes read consecutive 8 bytes.
template <>
struct octet<bf16> : octet_base<bf16> {
  static constexpr int alignment = 8;
  using quads = float_quads;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return 128 * q + 4 * lane;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    quads out{{}, 1.0F};
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      std::uint32_t words[2];
      load_words(span + 2 * first(lane, q), words);
      SUBBYTE_UNROLL
      for (int i = 0; i < 2; ++i) {
        out.level[q][2 * i] = bit_cast<float>(words[i] << 16);
        out.level[q][2 * i + 1] = bit_cast<float>(words[i] & 0xFFFF0000U);
      }
    }
    return out;
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
