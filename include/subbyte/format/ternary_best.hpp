// SPDX-License-Identifier: Apache-2.0
/// The search of least error for the IQ1 formats.
#pragma once

#include "subbyte/format/octet_search.hpp"
#include "subbyte/format/point_lines.hpp"
#include "subbyte/format/ternary_search.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The points of the IQ1 formats, for searches that compare them all and for those that look near a
/// vector only.
template <class Arch>
struct ternary_points {
  const point_levels<iq1_codebook, Arch>& all;
  const point_table<iq1_codebook, 3, Arch>& near;
};

/// Codes octets by ternary points shifted by an eighth: all octets of a group the same way, which
/// makes two variants of it, or each its own.
///
/// Exhaustive, it compares every point at every scale. Else it takes, at every second scale, the
/// nearest of the points around the rounded octet: 2 % of the work, and nearly as good.
template <int GroupSize, bool OwnShifts, class Arch>
class ternary_coder {
  using lines = point_lines<iq1_codebook::size>;

 public:
  static constexpr int groups = 256 / GroupSize;
  static constexpr int levels = 8;
  static constexpr int variants = OwnShifts ? 1 : 2;
  static constexpr float top = 1.125F;

  ternary_coder(const ternary_points<Arch>& points, bool exhaustive) noexcept
      : points_(points), exhaustive_(exhaustive) {}

  void code(const float* x, const float* v, const float* scales,
            octet_trial (&out)[variants]) const noexcept {
    if (exhaustive_) {
      compare_all(x, v, scales, out);
    } else {
      look_around(x, v, scales, out);
    }
  }

  void store(const float*, const float*, std::uint32_t code, int, int at,
             octet_block& out) const noexcept {
    out.points[at] = static_cast<std::uint16_t>(code >> 1);
    out.signs[at] = code & 1U;
  }

 private:
  // Writes what point `index` is at trial t, unless another shift is better there.
  static void offer(int t, float scale, float twice, float square, int index, int down,
                    octet_trial (&out)[variants]) noexcept {
    octet_trial& own = out[OwnShifts ? 0 : down];
    if (OwnShifts && down == 1 &&
        !(unfused(scale * square) - twice < unfused(scale * own.square[t]) - own.twice[t])) {
      return;
    }
    own.twice[t] = twice;
    own.square[t] = square;
    own.code[t] = static_cast<std::uint32_t>(index << 1 | down);
  }

  void compare_all(const float* x, const float* v, const float* scales,
                   octet_trial (&out)[variants]) const noexcept {
    lines shifted[2];
    points_.all.shifted_lines(x, v, 0.125F, shifted[0], shifted[1]);
    for (int down = 0; down < 2; ++down) {
      const lines& own = shifted[down];
      int point[octet_trials];
      own.template nearest_each<Arch>(scales, point);
      for (int t = 0; t < octet_trials; ++t) {
        offer(t, scales[t], own.twice[point[t]], own.square[point[t]], point[t], down, out);
      }
    }
  }

  void look_around(const float* x, const float* v, const float* scales,
                   octet_trial (&out)[variants]) const noexcept {
    constexpr float ones[8] = {1, 1, 1, 1, 1, 1, 1, 1};
    const float* const weight = v != nullptr ? v : ones;
    for (int down = 0; down < 2; ++down) {
      const float shift = shifted_level(1, down != 0);
      int last_vector = -1;
      int index = 0;
      float twice = 0;
      float square = 0;
      for (int t = 0; t < octet_trials; ++t) {
        if (t % 2 == 0) {
          const float scale = scales[t];
          const float rise = scale * (shift - 0.5F);
          const float second_rise = scale * (shift + 0.5F);
          int vector = 0;
          for (int j = 7; j >= 0; --j) {
            vector = 3 * vector + (x[j] > rise ? 1 : 0) + (x[j] > second_rise ? 1 : 0);
          }
          if (vector != last_vector) {
            last_vector = vector;
            index = points_.near.point(vector);
            if (index < 0) {
              index =
                  points_.near.nearest(vector, {shifted_level(0, down != 0), 1}, scale, x, weight);
            }
            twice = 0;
            square = 0;
            for (int j = 0; j < 8; ++j) {
              const float level = points_.all.level(index, j) + shift;
              const float weighted = weight[j] * level;
              twice += unfused(2 * weighted * x[j]);
              square += unfused(weighted * level);
            }
          }
        }
        offer(t, scales[t], twice, square, index, down, out);
      }
    }
  }

  ternary_points<Arch> points_;
  bool exhaustive_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
