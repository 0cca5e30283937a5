// SPDX-License-Identifier: Apache-2.0
/// F32: plain binary32 weights as blocks of one, so that an unquantized matrix is one like any
/// other.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/fwd.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// F32: one binary32 weight; 32 bits per weight.
///
/// Layout   weight:f32
/// Value    the weight; NaN keeps its bits.
/// Source   GGUF tensor type 0.
struct f32 {
  static constexpr const char* name = "f32";
  static constexpr int block_size = 1;
  static constexpr std::uint32_t gguf_type = 0;

  float weight;

  SUBBYTE_HD_INLINE static constexpr void decode(const f32& block, float* out) noexcept {
    *out = block.weight;
  }

  /// A copy. Importance and the row's mean square are not used.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static constexpr f32 encode_ref(const float* w, const float*,
                                                               float) noexcept {
    return {*w};
  }
};
static_assert(sizeof(f32) == 4 && opaque_format<f32> && reference_encodable<f32>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
