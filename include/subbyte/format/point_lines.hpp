// SPDX-License-Identifier: Apache-2.0
/// Which points of a codebook are nearest to a vector of weights for each of some scales, found by
/// comparing all of them.
///
/// The error of a point with levels l at scale s is sum(v x^2) + s * (s * square - twice), where
/// square = sum(v l^2) and twice = 2 sum(v x l) know nothing of s: over s a point is a line, and
/// the points that matter are those on the lower envelope of the lines.
#pragma once

#include <utility>  // std::make_integer_sequence

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
    const lanes middle = lanes::broadcast(scales[octet_trials / 2]);
    // Two rows at a time: each waits for its own last comparison only.
    lanes least[2] = {lanes::broadcast(3.40282347e+38F), lanes::broadcast(3.40282347e+38F)};
    lanes first[2] = {lanes::broadcast(0), lanes::broadcast(0)};
    for (int p = 0; p < Size; p += 32) {
      for (int row = 0; row < 2; ++row) {
        const int q = p + 16 * row;
        const lanes value = unfused(middle * lanes::load(square + q)) - lanes::load(twice + q);
        const auto better = value < least[row];
        least[row] = select(better, value, least[row]);
        first[row] = select(better, lanes::broadcast(static_cast<float>(q)), first[row]);
      }
    }
    const auto second = least[1] < least[0];
    float values[16];
    float rows_of[16];
    select(second, least[1], least[0]).store(values);
    select(second, first[1], first[0]).store(rows_of);
    int column = 0;
    for (int k = 1; k < 16; ++k) {
      if (values[k] < values[column]) column = k;
    }
    const int centre = static_cast<int>(rows_of[column]) + column;

    // A line that is lowest between two scales and above another one at the middle is below that
    // one at one of the two.
    const lanes low = lanes::broadcast(scales[0]);
    const lanes high = lanes::broadcast(scales[octet_trials - 1]);
    const lanes low_limit = lanes::broadcast(unfused(scales[0] * square[centre]) - twice[centre]);
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
      for (int k = 0; k < 16; ++k) {
        for (int bits = rows_below[k]; bits != 0; bits &= bits - 1) {
          const int q = p + k + 16 * __builtin_ctz(static_cast<unsigned>(bits));
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
        const float level = static_cast<float>(elements_of<Codebook>(p).at[j]) * unit;
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
    if (v != nullptr) {
      trace<true, false>(x, v, &out, nullptr);
    } else {
      trace<false, false>(x, v, &out, nullptr);
    }
  }

  /// The same, and into `flipped` the lines when the element that matters least has the wrong sign.
  void lines_and_flipped(const float* x, const float* v, point_lines<size>& out,
                         point_lines<size>& flipped) const noexcept {
    if (v != nullptr) {
      trace<true, true>(x, v, &out, &flipped);
    } else {
      trace<false, true>(x, v, &out, &flipped);
    }
  }

  /// The lines of all points with every level shifted by `shift` up and down.
  void shifted_lines(const float* x, const float* v, float shift, point_lines<size>& up,
                     point_lines<size>& down) const noexcept {
    if (v != nullptr) {
      trace_shifted<true>(x, v, shift, up, down);
    } else {
      trace_shifted<false>(x, v, shift, up, down);
    }
  }

 private:
  static constexpr int lane_count = 16;
  using lanes = float_lanes<Arch, lane_count>;
  using every_dimension = std::make_integer_sequence<int, dimensions>;

  [[nodiscard]] SUBBYTE_INLINE const float* row(int j) const noexcept {
    return level_.data() + j * size;
  }

  /// Of 16 points.
  struct sums {
    lanes twice = lanes::broadcast(0);
    lanes square = lanes::broadcast(0);
    lanes level = lanes::broadcast(0);
    lanes least = lanes::broadcast(3.40282347e+38F);
  };

  // Compilers leave a loop over dimensions a loop.
  template <bool Weighted, bool Flips, bool Levels, int... J>
  SUBBYTE_INLINE sums sums_of(int point, const lanes* twice_wx, const lanes* w,
                              std::integer_sequence<int, J...>) const noexcept {
    sums s;
    (add<Weighted, Flips, Levels>(lanes::load(row(J) + point), twice_wx[J], w[J], s), ...);
    if constexpr (!Weighted) {
      s.square = lanes::load(row(dimensions + 1) + point);
      if constexpr (Levels) s.level = lanes::load(row(dimensions) + point);
    }
    return s;
  }

  template <bool Weighted, bool Flips, bool Levels>
  SUBBYTE_INLINE static void add(const lanes& level, const lanes& twice_wx, const lanes& w,
                                 sums& s) noexcept {
    const lanes term = unfused(level * twice_wx);
    s.twice = s.twice + term;
    if constexpr (Flips) s.least = select(term < s.least, term, s.least);
    if constexpr (Weighted) {
      const lanes weighted = unfused(level * w);
      if constexpr (Levels) s.level = s.level + weighted;
      s.square = s.square + unfused(weighted * level);
    }
  }

  static void broadcast(const float* x, const float* v, lanes (&twice_wx)[dimensions],
                        lanes (&w)[dimensions]) noexcept {
    for (int j = 0; j < dimensions; ++j) {
      w[j] = lanes::broadcast(v != nullptr ? v[j] : 1.0F);
      twice_wx[j] = lanes::broadcast(2 * (v != nullptr ? v[j] * x[j] : x[j]));
    }
  }

  template <bool Weighted, bool Flips>
  void trace(const float* x, const float* v, point_lines<size>* out,
             point_lines<size>* flipped) const noexcept {
    lanes twice_wx[dimensions];
    lanes w[dimensions];
    broadcast(x, v, twice_wx, w);
    for (int p = 0; p < size; p += lane_count) {
      const sums s = sums_of<Weighted, Flips, false>(p, twice_wx, w, every_dimension{});
      s.twice.store(out->twice + p);
      s.square.store(out->square + p);
      if constexpr (Flips) {
        (s.twice - (s.least + s.least)).store(flipped->twice + p);
        s.square.store(flipped->square + p);
      }
    }
  }

  template <bool Weighted>
  void trace_shifted(const float* x, const float* v, float shift, point_lines<size>& up,
                     point_lines<size>& down) const noexcept {
    lanes twice_wx[dimensions];
    lanes w[dimensions];
    broadcast(x, v, twice_wx, w);
    lanes sum_wx = lanes::broadcast(0);
    lanes sum_w = lanes::broadcast(0);
    for (int j = 0; j < dimensions; ++j) {
      sum_wx = sum_wx + twice_wx[j];
      sum_w = sum_w + w[j];
    }
    const lanes shifts = lanes::broadcast(shift);
    const lanes twice_shift = lanes::broadcast(2 * shift);
    const lanes shift_x = unfused(shifts * sum_wx);
    const lanes shift_w = unfused(shifts * shifts * sum_w);
    for (int p = 0; p < size; p += lane_count) {
      const sums s = sums_of<Weighted, false, true>(p, twice_wx, w, every_dimension{});
      const lanes cross = unfused(twice_shift * s.level);
      (s.twice + shift_x).store(up.twice + p);
      (s.twice - shift_x).store(down.twice + p);
      (s.square + cross + shift_w).store(up.square + p);
      (s.square - cross + shift_w).store(down.square + p);
    }
  }

  /// Row j is dimension j; then the sums and the sums of squares.
  tensor<float, 2> level_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
