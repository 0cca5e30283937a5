// SPDX-License-Identifier: Apache-2.0
/// Which points of a codebook are nearest to a vector of weights for each of some scales, found by
/// comparing all of them.
///
/// The error of a point with levels l at scale s is sum(v x^2) + s * (s * square - twice), where
/// square = sum(v l^2) and twice = 2 sum(v x l) know nothing of s: over s a point is a line, and the
/// points that matter are those on the lower envelope of the lines.
#pragma once

#include "subbyte/format/level_search.hpp"
#include "subbyte/format/vector_codebook.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/tensor/tensor.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The lines of all points for one vector.
template <int Size>
struct point_lines {
  float twice[Size];
  float square[Size];

  /// found[t] is the point of least error at scales[t], the lower one on ties between points that
  /// survive the comparison with the middle scale's.
  ///
  /// Requires  octet_trials ascending scales > 0.
  template <class Arch>
  void nearest_each(const float* scales, int* found) const noexcept {
    using lanes = float_lanes<Arch, 16>;
    constexpr float counted[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const lanes middle = lanes::broadcast(scales[octet_trials / 2]);
    lanes least = lanes::broadcast(3.40282347e+38F);
    lanes index = lanes::load(counted);
    lanes at = index;
    for (int p = 0; p < Size; p += 16) {
      const lanes value = unfused(middle * lanes::load(square + p)) - lanes::load(twice + p);
      const auto better = value < least;
      least = select(better, value, least);
      at = select(better, index, at);
      index = index + lanes::broadcast(16);
    }
    float values[16];
    float places[16];
    least.store(values);
    at.store(places);
    int centre = 0;
    for (int k = 1; k < 16; ++k) {
      if (values[k] < values[centre]) centre = k;
    }
    centre = static_cast<int>(places[centre]);

    // A line that is lowest between two scales and above another one at the middle is below that
    // one at one of the two.
    const lanes low = lanes::broadcast(scales[0]);
    const lanes high = lanes::broadcast(scales[octet_trials - 1]);
    const lanes low_limit =
        lanes::broadcast(unfused(scales[0] * square[centre]) - twice[centre]);
    const lanes high_limit =
        lanes::broadcast(unfused(scales[octet_trials - 1] * square[centre]) - twice[centre]);
    using trials = float_lanes<Arch, octet_trials>;
    const trials s = trials::load(scales);
    trials best = unfused(s * trials::broadcast(square[centre])) - trials::broadcast(twice[centre]);
    trials point = trials::broadcast(static_cast<float>(centre));
    constexpr int rows = 4;
    static_assert(Size % (16 * rows) == 0);
    for (int p = 0; p < Size; p += 16 * rows) {
      auto below = lanes::mask::broadcast(0);
      for (int k = 0; k < rows; ++k) {
        const lanes b = lanes::load(square + p + 16 * k);
        const lanes a = lanes::load(twice + p + 16 * k);
        const auto here = (unfused(low * b) - a < low_limit) | (unfused(high * b) - a < high_limit);
        below = below | (here & lanes::mask::broadcast(1 << k));
      }
      if (!any(below)) continue;
      std::int32_t rows_below[16];
      below.store(rows_below);
      for (int column = 0; column < 16; ++column) {
        for (int bits = rows_below[column]; bits != 0; bits &= bits - 1) {
          const int q = p + column + 16 * __builtin_ctz(static_cast<unsigned>(bits));
          const trials value =
              unfused(s * trials::broadcast(square[q])) - trials::broadcast(twice[q]);
          const auto better = value < best;
          best = select(better, value, best);
          point = select(better, trials::broadcast(static_cast<float>(q)), point);
        }
      }
    }
    float points[octet_trials];
    point.store(points);
    for (int t = 0; t < octet_trials; ++t) found[t] = static_cast<int>(points[t]);
  }
};

/// The levels of a codebook's points as floats, one array per dimension.
///
/// Throws  the constructor error{out_of_memory}.
template <class Codebook, class Arch>
class point_levels {
 public:
  static constexpr int dimensions = Codebook::dimensions;
  static constexpr int size = Codebook::size;

  /// Levels are the codebook's times `unit`.
  explicit point_levels(float unit) : level_(uninitialized, dimensions + 2, size) {
    for (int p = 0; p < size; ++p) {
      float sum = 0;
      float square = 0;
      for (int j = 0; j < dimensions; ++j) {
        const float level = element_of<Codebook>(p, j) * unit;
        level_(j, p) = level;
        sum += level;
        square += unfused(level * level);
      }
      level_(dimensions, p) = sum;
      level_(dimensions + 1, p) = square;
    }
  }

  [[nodiscard]] float level(int point, int j) const noexcept { return row(j)[point]; }

  /// The lines of all points for a vector x with importance v (null: ones).
  void lines(const float* x, const float* v, point_lines<size>& out) const noexcept {
    trace<false>(x, v, &out, nullptr);
  }

  /// The same, and into `flipped` the lines when the element that matters least has the wrong sign.
  void lines_and_flipped(const float* x, const float* v, point_lines<size>& out,
                         point_lines<size>& flipped) const noexcept {
    trace<true>(x, v, &out, &flipped);
  }

  /// The lines of all points with every level shifted by `shift` up and down.
  void shifted_lines(const float* x, const float* v, float shift, point_lines<size>& up,
                     point_lines<size>& down) const noexcept {
    float wx[dimensions];
    float sum_wx = 0;
    float sum_w = 0;
    for (int j = 0; j < dimensions; ++j) {
      const float w = v != nullptr ? v[j] : 1.0F;
      wx[j] = 2 * w * x[j];
      sum_wx += wx[j];
      sum_w += w;
    }
    const lanes twice_shift = lanes::broadcast(2 * shift);
    const lanes shift_x = lanes::broadcast(shift * sum_wx);
    const lanes shift_w = lanes::broadcast(shift * shift * sum_w);
    for (int p = 0; p < size; p += lane_count) {
      lanes twice = lanes::broadcast(0);
      lanes square = twice;
      lanes sum = twice;
      if (v == nullptr) {
        for (int j = 0; j < dimensions; ++j) {
          twice = twice + unfused(lanes::load(row(j) + p) * lanes::broadcast(wx[j]));
        }
        square = lanes::load(row(dimensions + 1) + p);
        sum = lanes::load(row(dimensions) + p);
      } else {
        for (int j = 0; j < dimensions; ++j) {
          const lanes l = lanes::load(row(j) + p);
          const lanes wl = unfused(l * lanes::broadcast(v[j]));
          twice = twice + unfused(l * lanes::broadcast(wx[j]));
          sum = sum + wl;
          square = square + unfused(wl * l);
        }
      }
      const lanes cross = unfused(twice_shift * sum);
      (twice + shift_x).store(up.twice + p);
      (twice - shift_x).store(down.twice + p);
      (square + cross + shift_w).store(up.square + p);
      (square - cross + shift_w).store(down.square + p);
    }
  }

 private:
  static constexpr int lane_count = 16;
  using lanes = float_lanes<Arch, lane_count>;

  [[nodiscard]] const float* row(int j) const noexcept { return level_.data() + j * size; }

  template <bool Flips>
  void trace(const float* x, const float* v, point_lines<size>* out,
             point_lines<size>* flipped) const noexcept {
    float wx[dimensions];
    for (int j = 0; j < dimensions; ++j) wx[j] = 2 * (v != nullptr ? v[j] * x[j] : x[j]);
    for (int p = 0; p < size; p += lane_count) {
      lanes twice = lanes::broadcast(0);
      lanes square = twice;
      lanes least = lanes::broadcast(3.40282347e+38F);
      for (int j = 0; j < dimensions; ++j) {
        const lanes l = lanes::load(row(j) + p);
        const lanes term = unfused(l * lanes::broadcast(wx[j]));
        twice = twice + term;
        if constexpr (Flips) least = select(term < least, term, least);
        if (v != nullptr) square = square + unfused(unfused(l * l) * lanes::broadcast(v[j]));
      }
      if (v == nullptr) square = lanes::load(row(dimensions + 1) + p);
      twice.store(out->twice + p);
      square.store(out->square + p);
      if constexpr (Flips) {
        (twice - (least + least)).store(flipped->twice + p);
        square.store(flipped->square + p);
      }
    }
  }

  /// Row j is dimension j; then the sums and the sums of squares.
  tensor<float, 2> level_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
