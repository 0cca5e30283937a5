// SPDX-License-Identifier: Apache-2.0
/// F16: plain binary16 weights as blocks of one, so that an unquantized matrix is one like any
/// other.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// F16: one binary16 weight; 16 bits per weight.
///
/// Layout   weight:f16
/// Value    the weight, exact in fp32.
/// Source   GGUF tensor type 1.
struct f16 {
  static constexpr const char* name = "f16";
  static constexpr int block_size = 1;
  static constexpr std::uint32_t gguf_type = 1;

  half weight;

  SUBBYTE_HD_INLINE static constexpr void decode(const f16& block, float* out) noexcept {
    *out = block.weight.to_float();
  }

  /// Nearest, ties to even; from 65520 on Inf (not saturated); NaN becomes the quiet NaN of its
  /// sign. Importance and the row's mean square are not used.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static constexpr f16 encode_ref(const float* w, const float*,
                                                               float) noexcept {
    return {half::nearest(*w)};
  }
};
static_assert(sizeof(f16) == 2 && opaque_format<f16> && reference_encodable<f16>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
