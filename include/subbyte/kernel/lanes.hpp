// SPDX-License-Identifier: Apache-2.0
/// The sixteen virtual lanes of a float dot product: one order of additions for every register
/// width.
#pragma once

#include "subbyte/simd/register.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

/// Sixteen float accumulators in as many registers as Arch needs: one on avx512, two on avx2, four
/// on neon.
template <class Arch>
struct lanes {
  using vector = reg<float, Arch>;
  static constexpr int count = 16;
  static constexpr int registers = count / vector::size;
  static_assert(registers * vector::size == count);

  vector part[registers];

  [[nodiscard]] SUBBYTE_INLINE static lanes zero() noexcept {
    lanes out;
    for (int i = 0; i < registers; ++i) out.part[i] = vector::broadcast(0.0F);
    return out;
  }
  [[nodiscard]] SUBBYTE_INLINE static lanes load(const float* p) noexcept {
    lanes out;
    for (int i = 0; i < registers; ++i) out.part[i] = vector::load(p + i * vector::size);
    return out;
  }
  /// load of p[0, n), zero beyond; reads nothing past n.
  [[nodiscard]] SUBBYTE_INLINE static lanes load_first(const float* p, index_t n) noexcept {
    float padded[count] = {};
    for (index_t i = 0; i < n; ++i) padded[i] = p[i];
    return load(padded);
  }
  /// this + a * b, each lane rounded once.
  SUBBYTE_INLINE void add_product(const lanes& a, const lanes& b) noexcept {
    for (int i = 0; i < registers; ++i) part[i] = fma(a.part[i], b.part[i], part[i]);
  }
  /// Halving tree: lane i + lane i + 8, then + 4, + 2, + 1.
  [[nodiscard]] SUBBYTE_INLINE float sum() const noexcept {
    float lane[count];
    for (int i = 0; i < registers; ++i) part[i].store(lane + i * vector::size);
    for (int stride = count / 2; stride > 0; stride /= 2) {
      for (int i = 0; i < stride; ++i) lane[i] += lane[i + stride];
    }
    return lane[0];
  }
};

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
