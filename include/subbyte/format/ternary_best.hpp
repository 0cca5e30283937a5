// SPDX-License-Identifier: Apache-2.0
/// The search of least error for the IQ1 formats.
#pragma once

#include "subbyte/format/octet_search.hpp"
#include "subbyte/format/point_lines.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Codes octets by ternary points shifted by an eighth: all octets of a group the same way, which
/// makes two variants of it, or each its own. Every point is compared.
///
/// Cost  the constructor a table of 80 KB.
template <int GroupSize, bool OwnShifts, class Arch>
class ternary_coder {
  using lines = point_lines<iq1_codebook::size>;

 public:
  static constexpr int groups = 256 / GroupSize;
  static constexpr int levels = 8;
  static constexpr int variants = OwnShifts ? 1 : 2;
  static constexpr float top = 1.125F;

  ternary_coder() : points_(1) {}

  void code(const float* x, const float* v, const float* scales,
            octet_trial (&out)[variants]) const noexcept {
    lines shifted[2];
    points_.shifted_lines(x, v, 0.125F, shifted[0], shifted[1]);
    for (int down = 0; down < 2; ++down) {
      int point[octet_trials];
      shifted[down].template nearest_each<Arch>(scales, point);
      octet_trial& own = out[OwnShifts ? 0 : down];
      for (int t = 0; t < octet_trials; ++t) {
        const float twice = shifted[down].twice[point[t]];
        const float square = shifted[down].square[point[t]];
        if (OwnShifts && down == 1 &&
            !(unfused(scales[t] * square) - twice <
              unfused(scales[t] * own.square[t]) - own.twice[t])) {
          continue;
        }
        own.twice[t] = twice;
        own.square[t] = square;
        own.code[t] = static_cast<std::uint32_t>(point[t] << 1 | down);
      }
    }
  }

  void store(const float*, const float*, std::uint32_t code, int, int at,
             octet_block& out) const noexcept {
    out.points[at] = static_cast<std::uint16_t>(code >> 1);
    out.signs[at] = code & 1U;
  }

 private:
  point_levels<iq1_codebook, Arch> points_;
};

template <int GroupSize, bool OwnShifts, class Arch>
using ternary_best = octet_search<ternary_coder<GroupSize, OwnShifts, Arch>, Arch>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
