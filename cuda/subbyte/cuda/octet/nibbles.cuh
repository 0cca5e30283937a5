// SPDX-License-Identifier: Apache-2.0
/// Octets of the formats of 32 weights with fp16 scales: q4_0.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/format/q4_0.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Four lanes per block; a lane's word holds four weights in its low nibbles, four in its high
/// ones.
template <>
struct octet<q4_0> : octet_base<q4_0> {
  using quads = integer_quads<8, false>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return 32 * (lane / 4) + 16 * q + 4 * (lane % 4);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static quads load(const std::uint8_t* span, int lane) noexcept {
    const std::uint8_t* block = span + lane / 4 * static_cast<int>(sizeof(q4_0));
    const float d = load_half(block);
    const std::uint32_t codes = word(block + 2 + 4 * (lane % 4));
    return {{low_nibbles(codes), low_nibbles(codes >> 4)}, {d, d}, {}};
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
