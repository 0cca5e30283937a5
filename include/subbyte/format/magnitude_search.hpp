// SPDX-License-Identifier: Apache-2.0
/// The reference encoder of the IQ2 and IQ3 formats up to the packing of its result: scales, signs
/// and points of magnitudes for a block of 256 weights.
#pragma once

#include "subbyte/format/search.hpp"
#include "subbyte/format/vector_search.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Which points of a group are chosen anew with the scale fitted to the best trial.
enum class second_choice {
  off_points,      ///< those whose digits were no point in the best trial
  all_if_any_off,  ///< all, if one of them was; also when no trial fitted
  always           ///< all
};

/// What a block of magnitude points stores, unpacked.
template <class Rule>
struct magnitude_block {
  static constexpr int groups = 256 / Rule::group_size;
  static constexpr int group_points = Rule::group_size / Rule::codebook::dimensions;

  struct group {
    float scale;          ///< 0: the group is zero, and so are its points and signs
    std::uint32_t signs;  ///< bit i: weight i is negative
    std::uint8_t level;   ///< the scale as stored, in [0, 15]
    bool skipped;         ///< all its weights are too small
    std::uint16_t points[group_points];
  };

  float scale;  ///< of level 15, over 31; 0 when every group's is
  group group_at[groups];
};

/// The 32-bit word of a group with even signs: seven signs of each eight, then the scale.
[[nodiscard]] SUBBYTE_INLINE constexpr std::uint32_t word_of_sevens(std::uint32_t signs,
                                                                    unsigned level) noexcept {
  std::uint32_t word = static_cast<std::uint32_t>(level) << 28;
  for (int i = 0; i < 4; ++i) word |= (signs >> (8 * i) & 127U) << (7 * i);
  return word;
}

/// The search of one format. Rule says how:
/// codebook, shells    the points, and how many distances of neighbours
/// group_size          weights per scale, 16 or 32
/// even_signs          eight weights have an even number of signs
/// zero_below          groups with no larger magnitude are zero
/// energy_factor       with importance, how much of the mean square joins the error weights
/// floored_weights     without, whether half the mean square joins them
/// trials, trial_step  how many scales: those that give the largest weight the largest odd number
///                     plus a small multiple of trial_step
/// starts_from_levels  a scale for plain levels, found first, stands for the largest weight
/// again               see second_choice
///
/// Numerics  sums run in element order in fp32, one lane per tried scale; see search.hpp. A weight
///           that is NaN or whose square overflows spoils its block's error weights: groups whose
///           scale is then no number count as zero. ggml aborts there.
/// Cost      the constructor as point_table; a block takes stack only, and threads may share it.
/// Source    ggml src/ggml-quants.c: quantize_row_iq{2,3}_*_impl.
template <class Rule, class Arch>
class magnitude_search {
  using codebook = typename Rule::codebook;
  using block = magnitude_block<Rule>;
  using group = typename block::group;
  using table = point_table<codebook, Rule::shells, Arch>;

  static constexpr int n = Rule::group_size;
  static constexpr int dimensions = codebook::dimensions;
  static constexpr int points = block::group_points;
  static constexpr int last_digit = codebook::digits - 1;
  /// The values of digits in a search: odd numbers, not the codebook's levels.
  static constexpr digit_levels odd_numbers = {1, 2};

 public:
  [[nodiscard]] block operator()(const float* w, const float* importance) const noexcept {
    const float energy = Rule::energy_factor * sum_of_squares<Arch>(w, 256) / 256.0F;
    float weight[256];
    if (importance != nullptr) {
      energy_weights<Arch>(256, w, importance, energy, weight);
    } else if constexpr (Rule::floored_weights) {
      const float floor = unfused(0.5F / Rule::energy_factor * energy);
      for (int i = 0; i < 256; ++i) weight[i] = floor + unfused(w[i] * w[i]);
    } else {
      for (int i = 0; i < 256; ++i) weight[i] = w[i] * w[i];
    }

    block b;
    float largest = 0;
    for (int g = 0; g < block::groups; ++g) {
      b.group_at[g] = search_group(w + n * g, weight + n * g);
      largest = largest > b.group_at[g].scale ? largest : b.group_at[g].scale;
    }
    b.scale = largest / 31.0F;
    const float inverse = 1.0F / b.scale;
    for (group& g : b.group_at) {
      const float position = 0.5F * (unfused(inverse * g.scale) - 1.0F);
      g.level = static_cast<std::uint8_t>(clamp(rint_even(unfused(position)), 0, 15));
    }
    return b;
  }

 private:
  /// The group with the signs taken off.
  struct magnitudes {
    float x[n];
    std::uint32_t signs;
    float largest;
  };

  // With even signs the weight that matters least takes the wrong one; its magnitude is then below
  // zero.
  [[nodiscard]] static magnitudes split_signs(const float* w, const float* weight) noexcept {
    magnitudes m{};
    for (int octet = 0; octet < n; octet += 8) {
      unsigned signs = 0;
      for (int i = 0; i < 8; ++i) {
        const float v = w[octet + i];
        const bool negative = !(v >= 0);
        m.x[octet + i] = negative ? -v : v;
        signs |= static_cast<unsigned>(negative) << i;
      }
      if (Rule::even_signs && signs_of_seven(signs) != signs) {
        int least = 0;
        float least_error = 0;
        for (int i = 0; i < 8; ++i) {
          const float v = w[octet + i];
          const float error = weight[octet + i] * v * v;
          if (i == 0 || error < least_error) {
            least = i;
            least_error = error;
          }
        }
        m.x[octet + least] = -m.x[octet + least];
        signs ^= 1U << least;
      }
      m.signs |= signs << octet;
    }
    m.largest = m.x[0];
    for (int i = 1; i < n; ++i) m.largest = m.largest > m.x[i] ? m.largest : m.x[i];
    return m;
  }

  /// What the trials found.
  struct fit {
    float scale;
    bool found;
    bool off_point[points];
    std::uint16_t point[points];
  };

  [[nodiscard]] group search_group(const float* w, const float* weight) const noexcept {
    const magnitudes m = split_signs(w, weight);
    group g{};
    g.skipped = m.largest == 0 || m.largest < Rule::zero_below;
    if (g.skipped) return g;
    float root_weight[n];
    for (int i = 0; i < n; ++i) root_weight[i] = __builtin_sqrtf(weight[i]);

    float top = m.largest;
    fit f{top / static_cast<float>(2 * last_digit + 1), false, {}, {}};
    if constexpr (Rule::starts_from_levels) {
      std::uint8_t codes[n];
      f.scale = search_nonnegative<Arch>(n, codebook::digits + 1, m.x, weight, codes);
      top = f.scale * static_cast<float>(codebook::digits);
      if (top <= 0) return g;
    }
    try_scales(m.x, weight, root_weight, top, f);
    choose_again(m.x, weight, root_weight, f);

    if (f.scale != f.scale) return g;
    g.signs = f.scale < 0 ? ~m.signs : m.signs;
    g.scale = magnitude(f.scale);
    for (int p = 0; p < points; ++p) g.points[p] = f.point[p];
    return g;
  }

  // Tries scales around the one that makes `top` the largest odd number, each refitted to its
  // points.
  void try_scales(const float* x, const float* weight, const float* root_weight, float top,
                  fit& f) const noexcept {
    constexpr int trials = Rule::trials;
    constexpr int lane_count = lanes_for<Arch, (trials + 3) / 4 * 4>;
    using lanes = float_lanes<Arch, lane_count>;
    float inverses[lane_count];
    float scales[lane_count + table::batch] = {};
    for (int t = 0; t < lane_count; ++t) {
      const float step = unfused(Rule::trial_step * static_cast<float>(t - trials / 2));
      inverses[t] = (static_cast<float>(2 * last_digit + 1) + step) / top;
      scales[t] = 1.0F / inverses[t];
    }
    const lanes inverse = lanes::load(inverses);
    const lanes one = lanes::broadcast(1);

    std::uint16_t point[points][lane_count];
    bool off[points][lane_count];
    float level[n][lane_count];
    for (int p = 0; p < points; ++p) {
      lanes vector = lanes::broadcast(0);
      float place = 1;
      for (int j = 0; j < dimensions; ++j) {
        const int i = dimensions * p + j;
        const lanes scaled = unfused(inverse * lanes::broadcast(x[i])) - one;
        const lanes digit =
            to_float(rint_even(unfused(lanes::broadcast(0.5F) * scaled)).clamped(0, last_digit));
        vector = vector + unfused(digit * lanes::broadcast(place));
        place *= static_cast<float>(codebook::digits);
        (unfused(digit * lanes::broadcast(2)) + one).store(level[i]);
      }
      std::int32_t vectors[lane_count];
      rint_even(vector).store(vectors);
      choose_points(vectors, scales, x + dimensions * p, root_weight + dimensions * p, point[p],
                    off[p]);
      for (int t = 0; t < trials; ++t) {
        if (!off[p][t]) continue;
        for (int j = 0; j < dimensions; ++j) level[dimensions * p + j][t] = odd_of(point[p][t], j);
      }
    }

    lanes sum_xl = lanes::broadcast(0);
    lanes sum_ll = lanes::broadcast(0);
    for (int i = 0; i < n; ++i) {
      const lanes l = lanes::load(level[i]);
      sum_xl = sum_xl + unfused(lanes::broadcast(weight[i] * x[i]) * l);
      sum_ll = sum_ll + unfused(lanes::broadcast(weight[i]) * l * l);
    }
    float xl[lane_count];
    float ll[lane_count];
    sum_xl.store(xl);
    sum_ll.store(ll);
    float best = 0;
    int chosen = 0;
    for (int t = 0; t < trials; ++t) {
      if (ll[t] > 0 && xl[t] * xl[t] > best * ll[t]) {
        f.scale = xl[t] / ll[t];
        best = f.scale * xl[t];
        f.found = true;
        chosen = t;
      }
    }
    if (!f.found) return;
    for (int p = 0; p < points; ++p) {
      f.point[p] = point[p][chosen];
      f.off_point[p] = off[p][chosen];
    }
  }

  // The points of all trials at one place. Neighbouring trials mostly have the same vector, and are
  // then searched together.
  void choose_points(const std::int32_t* vectors, const float* scales, const float* x,
                     const float* root_weight, std::uint16_t* point, bool* off) const noexcept {
    for (int t = 0; t < Rule::trials;) {
      const int vector = vectors[t];
      int run = 1;
      while (run < table::batch && t + run < Rule::trials && vectors[t + run] == vector) ++run;
      int found[table::batch];
      const int exact = table_.point(vector);
      if (exact >= 0) {
        for (int k = 0; k < run; ++k) found[k] = exact;
      } else if (run == 1) {
        found[0] = table_.nearest(vector, odd_numbers, scales[t], x, root_weight);
      } else {
        table_.nearest_each(vector, odd_numbers, scales + t, x, root_weight, found);
      }
      for (int k = 0; k < run; ++k) {
        point[t + k] = static_cast<std::uint16_t>(found[k]);
        off[t + k] = exact < 0;
      }
      t += run;
    }
  }

  void choose_again(const float* x, const float* weight, const float* root_weight,
                    fit& f) const noexcept {
    bool any_off = false;
    for (const bool off : f.off_point) any_off = any_off || off;
    bool wanted = any_off;
    if constexpr (Rule::again == second_choice::all_if_any_off) wanted = any_off || !f.found;
    if constexpr (Rule::again == second_choice::always) wanted = true;
    if (!wanted || !(f.scale > 0)) return;

    const float inverse = 1.0F / f.scale;
    float sum_xl = 0;
    float sum_ll = 0;
    for (int p = 0; p < points; ++p) {
      const float* const own = x + dimensions * p;
      if (Rule::again != second_choice::off_points || f.off_point[p]) {
        int vector = 0;
        for (int j = dimensions - 1; j >= 0; --j) {
          const float position = 0.5F * (unfused(inverse * own[j]) - 1.0F);
          const int digit = clamp(rint_even(unfused(position)), 0, last_digit);
          vector = codebook::digits * vector + digit;
        }
        int index = table_.point(vector);
        if (index < 0) {
          index = table_.nearest(vector, odd_numbers, f.scale, own, root_weight + dimensions * p);
        }
        f.point[p] = static_cast<std::uint16_t>(index);
      }
      for (int j = 0; j < dimensions; ++j) {
        const float w = weight[dimensions * p + j];
        const float level = odd_of(f.point[p], j);
        sum_xl += unfused(w * own[j] * level);
        sum_ll += unfused(w * level * level);
      }
    }
    if (sum_ll > 0) f.scale = sum_xl / sum_ll;
  }

  [[nodiscard]] static float odd_of(int index, int j) noexcept {
    constexpr int mask = (1 << codebook::digit_bits) - 1;
    return static_cast<float>(2 * (codebook::point(index) >> (codebook::digit_bits * j) & mask) +
                              1);
  }

  table table_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
