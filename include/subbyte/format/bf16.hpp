// SPDX-License-Identifier: Apache-2.0
/// BF16: plain bfloat16 weights as blocks of one, so that an unquantized matrix is one like any
/// other.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/bfloat16.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// BF16: one bfloat16 weight; 16 bits per weight.
///
/// Layout   weight:bf16
/// Value    the weight, exact in fp32.
/// Source   GGUF tensor type 30.
struct bf16 {
  static constexpr const char* name = "bf16";
  static constexpr int block_size = 1;
  static constexpr std::uint32_t gguf_type = 30;

  bfloat16 weight;

  SUBBYTE_HD_INLINE static constexpr void decode(const bf16& block, float* out) noexcept {
    *out = block.weight.to_float();
  }

  /// Nearest, ties to even; overflow gives Inf (not saturated). A NaN keeps its sign and the
  /// upper bits of its payload and is made quiet, as in ggml. Importance and the row's mean
  /// square are not used.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static constexpr bf16 encode_ref(const float* w, const float*,
                                                                float) noexcept {
    if (*w != *w) {
      const std::uint32_t upper = bit_cast<std::uint32_t>(*w) >> 16;
      return {bfloat16::from_bits(static_cast<std::uint16_t>(upper | 0x40U))};
    }
    return {bfloat16::nearest(*w)};
  }
};
static_assert(sizeof(bf16) == 2 && opaque_format<bf16> && reference_encodable<bf16>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
