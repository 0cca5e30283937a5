// SPDX-License-Identifier: Apache-2.0
/// stub
#pragma once
#include "subbyte/cuda/octet.cuh"
#include "subbyte/format/grid.hpp"
namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {
template <group_grid G>
struct planar_octet {
  static constexpr int alignment = 1;
  static constexpr int span_bytes = 32 * G::bits;
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return 8 * lane + 4 * q;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static float_quads load(const std::uint8_t* span, int lane,
                                                          const typename G::params& p) noexcept {
    std::uint64_t word = 0;
    for (int i = 0; i < G::bits; ++i)
      word |= static_cast<std::uint64_t>(span[lane * G::bits + i]) << (8 * i);
    float_quads out{{}, p.scale};
    for (int i = 0; i < 8; ++i) {
      const int code = static_cast<int>(word >> (G::bits * i)) & ((1 << G::bits) - 1);
      typename G::params unit = p;
      unit.scale = 1.0F;
      out.level[i / 4][i % 4] = G::value(code, unit);
    }
    return out;
  }
};
}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
