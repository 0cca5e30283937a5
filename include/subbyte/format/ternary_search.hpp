// SPDX-License-Identifier: Apache-2.0
/// The reference encoder of the IQ1 formats up to the packing of its result: scales, shifts and
/// ternary points for a block of 256 weights.
///
/// A group's weights are sorted; a split of the sorted weights into low, middle and high ones gives
/// each its digit, so the best digits for a scale are found by trying every split.
#pragma once

#include "subbyte/format/search.hpp"
#include "subbyte/format/vector_search.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The value of a ternary digit, -1 to 1, shifted down or up by an eighth.
[[nodiscard]] SUBBYTE_INLINE constexpr float shifted_level(int digit, bool down) noexcept {
  return static_cast<float>(digit - 1) + (down ? -0.125F : 0.125F);
}

/// Element j of ternary point `index`, shifted.
[[nodiscard]] SUBBYTE_INLINE constexpr float ternary_level(int index, int j, bool down) noexcept {
  return shifted_level(iq1_codebook::point(index) >> (2 * j) & 3, down);
}

/// The sorted weights before `middle` are low, those from `high` on are high; bit p of `down`: the
/// digits of point p shift down.
struct ternary_split {
  float scale;
  int middle;
  int high;
  unsigned down;
  bool found;
};

/// order[k] is the place of the k-th smallest of x; equal weights keep their order.
template <class Arch>
void sort_places(int n, const float* x, int* order) noexcept {
  for (int i = 0; i < n; ++i) {
    int k = i;
    for (; k > 0 && x[i] < x[order[k - 1]]; --k) order[k] = order[k - 1];
    order[k] = i;
  }
}

/// The best split of 32 weights whose four points all shift the same way.
///
/// Numerics  the sums of a split are differences of sums over the sorted weights.
template <class Arch>
struct common_shift {
  static constexpr int group_size = 32;

  [[nodiscard]] static ternary_split best_split(const float* x, const float* weight,
                                                const int* order) noexcept {
    using lanes = float_lanes<Arch, step>;
    // Entry k of a prefix is the sum of k terms; places 33 and up fill the lanes.
    float prefix_x[places] = {};
    float prefix_w[places] = {};
    for (int k = 0; k < group_size; ++k) {
      const int i = order[k];
      prefix_x[k + 1] = prefix_x[k] + unfused(weight[i] * x[i]);
      prefix_w[k + 1] = prefix_w[k] + weight[i];
    }
    // What the high weights of a split add, by where they begin.
    float high_xl[2][places];
    float high_ll[2][places];
    for (int shift = 0; shift < 2; ++shift) {
      const float level = shifted_level(2, shift != 0);
      for (int k = 0; k < places; ++k) {
        high_xl[shift][k] = unfused((prefix_x[group_size] - prefix_x[k]) * level);
        high_ll[shift][k] = unfused((prefix_w[group_size] - prefix_w[k]) * level * level);
      }
    }

    ternary_split best{0, 0, 0, 0, false};
    float best_score = -3.40282347e+38F;
    for (int middle = 0; middle <= group_size; ++middle) {
      for (int block = middle / step * step; block <= group_size; block += step) {
        const lanes middle_x = lanes::load(prefix_x + block) - lanes::broadcast(prefix_x[middle]);
        const lanes middle_w = lanes::load(prefix_w + block) - lanes::broadcast(prefix_w[middle]);
        float xl[2][step];
        float ll[2][step];
        bool promising = false;
        for (int shift = 0; shift < 2; ++shift) {
          const float low = shifted_level(0, shift != 0);
          const float centre = shifted_level(1, shift != 0);
          const lanes low_xl = lanes::broadcast(unfused(prefix_x[middle] * low));
          const lanes low_ll = lanes::broadcast(unfused(prefix_w[middle] * low * low));
          const lanes centres = lanes::broadcast(centre);
          const lanes sum_xl =
              low_xl + unfused(middle_x * centres) + lanes::load(high_xl[shift] + block);
          const lanes sum_ll =
              low_ll + unfused(middle_w * centres * centres) + lanes::load(high_ll[shift] + block);
          promising = any(sum_xl * sum_xl > lanes::broadcast(best_score) * sum_ll) || promising;
          sum_xl.store(xl[shift]);
          sum_ll.store(ll[shift]);
        }
        // Nearly always no lane beats the score, and then none could have raised it.
        if (!promising) continue;
        const int end = block + step <= group_size ? block + step : group_size + 1;
        for (int high = middle > block ? middle : block; high < end; ++high) {
          for (int shift = 0; shift < 2; ++shift) {
            const float own_xl = xl[shift][high - block];
            const float own_ll = ll[shift][high - block];
            if (own_ll > 0 && own_xl * own_xl > best_score * own_ll) {
              best = {own_xl / own_ll, middle, high, shift != 0 ? 15U : 0U, true};
              best_score = best.scale * own_xl;
            }
          }
        }
      }
    }
    return best;
  }

 private:
  static constexpr int step = 8;
  static constexpr int places = 40;
};

/// The best split of 16 weights whose two points each have a shift.
///
/// Numerics  the sums of a split run over the sorted weights, for each of the four shifts.
template <class Arch>
struct own_shifts {
  static constexpr int group_size = 16;

  [[nodiscard]] static ternary_split best_split(const float* x, const float* weight,
                                                const int* order) noexcept {
    // Lanes 0 to 3 are sum(w * x * level) for the shifts ++, +-, -+, --; lanes 4 to 7
    // sum(w * level^2).
    using lanes = float_lanes<Arch, 8>;
    float term[3][group_size][8];
    for (int digit = 0; digit < 3; ++digit) {
      for (int k = 0; k < group_size; ++k) {
        const int i = order[k];
        for (int shifts = 0; shifts < 4; ++shifts) {
          const bool down = ((i < 8 ? shifts >> 1 : shifts) & 1) != 0;
          const float level = shifted_level(digit, down);
          term[digit][k][shifts] = unfused(weight[i] * level * x[i]);
          term[digit][k][4 + shifts] = unfused(weight[i] * level * level);
        }
      }
    }

    ternary_split best{0, 0, 0, 0, false};
    float best_score = -3.40282347e+38F;
    lanes low = lanes::broadcast(0);
    for (int middle = 0; middle <= group_size; ++middle) {
      lanes centre = low;
      for (int high = middle; high <= group_size; ++high) {
        lanes sum = centre;
        for (int k = high; k < group_size; ++k) sum = sum + lanes::load(term[2][k]);
        float sums[8];
        sum.store(sums);
        for (int shifts = 0; shifts < 4; ++shifts) {
          const float xl = sums[shifts];
          const float ll = sums[4 + shifts];
          if (ll > 0 && xl * xl > best_score * ll) {
            // Bit 0 of `down` is the first point's.
            const unsigned down = static_cast<unsigned>(shifts >> 1 | (shifts & 1) << 1);
            best = {xl / ll, middle, high, down, true};
            best_score = best.scale * xl;
          }
        }
        if (high < group_size) centre = centre + lanes::load(term[1][high]);
      }
      if (middle < group_size) low = low + lanes::load(term[0][middle]);
    }
    return best;
  }
};

/// What a block of ternary points stores, unpacked.
template <int GroupSize>
struct ternary_block {
  static constexpr int groups = 256 / GroupSize;
  static constexpr int group_points = GroupSize / 8;

  struct group {
    float scale;         ///< 0: the group is zero
    unsigned down;       ///< bit p: the digits of point p shift down
    std::uint8_t level;  ///< the scale as stored, in [0, 7]
    std::uint16_t points[group_points];
  };

  float scale;  ///< of level 7, over 15; 0 when every group's is
  group group_at[groups];
};

/// The error weights of the IQ1 formats for a block: x^2, or with importance importance *
/// sqrt(2 mean square + x^2).
template <class Arch>
void ternary_weights(const float* x, const float* importance, float* out) noexcept {
  if (importance != nullptr) {
    energy_weights<Arch>(256, x, importance, 2.0F * sum_of_squares<Arch>(x, 256) / 256.0F, out);
  } else {
    for (int i = 0; i < 256; ++i) out[i] = x[i] * x[i];
  }
}

/// The search of the IQ1 formats. Split<Arch> is common_shift or own_shifts.
///
/// Numerics  sums run in the stated order in fp32; see search.hpp. Groups whose scale is no number
///           count as zero; ggml aborts there.
/// Cost      the constructor as point_table; a block takes stack only, and threads may share it.
/// Source    ggml src/ggml-quants.c: quantize_row_iq1_{s,m}_impl. ggml sorts with qsort, whose
/// order of equal weights is
///           the C library's choice; glibc's is ours.
template <template <class> class Split, class Arch>
class ternary_search {
  static constexpr int n = Split<Arch>::group_size;
  static constexpr int points = n / 8;
  using block = ternary_block<n>;
  using group = typename block::group;

 public:
  /// Groups whose magnitudes are all below zero_below are zero.
  [[nodiscard]] block operator()(const float* x, const float* weight,
                                 float zero_below) const noexcept {
    block b;
    float largest = 0;
    for (int g = 0; g < block::groups; ++g) {
      b.group_at[g] = search_group(x + n * g, weight + n * g, zero_below);
      largest = largest > b.group_at[g].scale ? largest : b.group_at[g].scale;
    }
    b.scale = largest / 15.0F;
    const float inverse = 1.0F / b.scale;
    for (group& g : b.group_at) {
      const float position = 0.5F * (unfused(inverse * g.scale) - 1.0F);
      g.level = static_cast<std::uint8_t>(clamp(rint_even(unfused(position)), 0, 7));
    }
    return b;
  }

  /// Which points are near to a vector of digits.
  [[nodiscard]] const point_table<iq1_codebook, 3, Arch>& table() const noexcept { return table_; }

 private:
  [[nodiscard]] group search_group(const float* x, const float* weight,
                                   float zero_below) const noexcept {
    group g{};
    float largest = magnitude(x[0]);
    for (int i = 1; i < n; ++i) largest = largest > magnitude(x[i]) ? largest : magnitude(x[i]);
    if (largest < zero_below) return g;
    int order[n];
    sort_places<Arch>(n, x, order);
    ternary_split split = Split<Arch>::best_split(x, weight, order);
    if (!split.found) return g;

    // A negative scale mirrors digits and shifts.
    const bool mirrored = split.scale < 0;
    if (mirrored) {
      split.scale = -split.scale;
      split.down = ~split.down;
    }
    int digit[n];
    for (int k = 0; k < n; ++k) {
      const int rising = k < split.middle ? 0 : (k < split.high ? 1 : 2);
      digit[order[k]] = mirrored ? 2 - rising : rising;
    }
    bool all_points = true;
    for (int p = 0; p < points; ++p) {
      int vector = 0;
      for (int j = 7; j >= 0; --j) vector = 3 * vector + digit[8 * p + j];
      int index = table_.point(vector);
      if (index < 0) {
        all_points = false;
        const digit_levels levels = {shifted_level(0, is_down(split.down, p)), 1};
        index = table_.nearest(vector, levels, split.scale, x + 8 * p, weight + 8 * p);
      }
      g.points[p] = static_cast<std::uint16_t>(index);
    }
    g.scale = all_points ? split.scale : refitted(x, weight, g, split);
    if (!(g.scale >= 0)) return {};
    for (int p = 0; p < points; ++p) g.down |= is_down(split.down, p) ? 1U << p : 0U;
    return g;
  }

  [[nodiscard]] static float refitted(const float* x, const float* weight, const group& g,
                                      const ternary_split& split) noexcept {
    float sum_xl = 0;
    float sum_ll = 0;
    for (int i = 0; i < n; ++i) {
      const int p = i / 8;
      const float level = ternary_level(g.points[p], i % 8, is_down(split.down, p));
      sum_xl += unfused(weight[i] * level * x[i]);
      sum_ll += unfused(weight[i] * level * level);
    }
    return sum_xl > 0 && sum_ll > 0 ? sum_xl / sum_ll : split.scale;
  }

  SUBBYTE_INLINE static bool is_down(unsigned down, int p) noexcept {
    return (down >> p & 1U) != 0;
  }

  point_table<iq1_codebook, 3, Arch> table_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
