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

/// Consecutive lanes read consecutive words.
template <>
struct octet<f32> : octet_base<f32> {
  using quads = float_quads;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return 128 * q + 4 * lane;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    quads out{{}, 1.0F};
    for (int q = 0; q < 2; ++q) {
      for (int i = 0; i < 4; ++i) {
        out.level[q][i] = bit_cast<float>(word(span + 4 * (first(lane, q) + i)));
      }
    }
    return out;
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
