// SPDX-License-Identifier: Apache-2.0
/// The search of least error for the IQ2 and IQ3 formats.
#pragma once

#include "subbyte/format/magnitude_search.hpp"
#include "subbyte/format/octet_block.hpp"
#include "subbyte/format/point_lines.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Rule is the format's rule of magnitude_search; `unit` times a level of its codebook, times 2 *
/// group level + 1, times the scale of the block is a magnitude.
///
/// Every point is compared for every octet, with the levels that decoding uses and with the sign
/// that parity demands on whichever element it costs least; then one search finds the scale of the
/// block together with the levels of all groups.
///
/// Numerics  the same bits on every compiler, arch and flag; sums in fp32 decide.
/// Cost      the constructor a table of 8 to 40 KB; a block takes stack only.
template <class Rule, class Arch>
class magnitude_best {
  using codebook = typename Rule::codebook;
  using lines = point_lines<codebook::size>;
  static constexpr int groups = 256 / Rule::group_size;
  static constexpr int parts = 8 / codebook::dimensions;
  using levels = level_search<groups, 1, 16, Arch>;
  using group = typename levels::group;

 public:
  magnitude_best() : points_(Rule::unit) {}

  /// The search starts around the scales of the groups that the reference encoder found.
  ///
  /// Returns  a scale of 0 when nothing better than zeros was found.
  [[nodiscard]] octet_block operator()(const float* w, const float* importance,
                                       const magnitude_block<Rule>& guess,
                                       int effort) const noexcept {
    const auto weights = scaled_octets::of<Arch>(w, importance);
    if (!weights.usable) return {};
    const octet_effort tried = octet_effort_of(effort);
    levels search;
    search.unit = weights.unit;
    for (int g = 0; g < groups; ++g) {
      choose(weights, g, guess.group_at[g].scale * weights.unit, tried.spread, true, search.group_at[g]);
    }
    half scale = search.refined(search.coarse(tried.scales, tried.least, tried.most), 3);
    for (int pass = 0; pass < tried.passes && scale.bits != 0; ++pass) {
      for (int g = 0; g < groups; ++g) {
        const int level = search.best_choice(search.group_at[g], scale).level;
        const float s = search.seen(scale) * static_cast<float>(2 * level + 1);
        choose(weights, g, s, tried.spread, false, search.group_at[g]);
      }
      const half before = scale;
      scale = search.refined(scale, 3);
      if (scale.bits == before.bits) break;
    }
    return unpacked_block(weights, search, scale);
  }

 private:
  static constexpr int octets = 32 / groups;

  /// The octet with the signs taken off.
  struct octet {
    float x[8];
    unsigned signs;
    bool odd;  ///< parity demands one more wrong sign
  };

  [[nodiscard]] static octet split_signs(const float* x) noexcept {
    octet o{};
    for (int j = 0; j < 8; ++j) {
      const bool negative = x[j] < 0;
      o.x[j] = negative ? -x[j] : x[j];
      o.signs |= static_cast<unsigned>(negative) << j;
    }
    o.odd = Rule::even_signs && signs_of_seven(o.signs) != o.signs;
    return o;
  }

  // Choices for a group at scales around `centre`, which `moves` until the best one is inside.
  void choose(const scaled_octets& weights, int g, float centre, float spread, bool moves,
              group& out) const noexcept {
    const int first = g * Rule::group_size;
    float largest = 0;
    for (int i = 0; i < Rule::group_size; ++i) {
      const float size = magnitude(weights.x[first + i]);
      largest = size > largest ? size : largest;
    }
    if (!(centre > 0) || !(centre < 4)) {
      const float top = static_cast<float>(codebook::level(codebook::digits - 1)) * Rule::unit;
      centre = largest > 0 ? largest / top : 1.0F;
    }
    for (int attempt = 0;; ++attempt) {
      float scales[octet_trials];
      for (int t = 0; t < octet_trials; ++t) {
        const float place = static_cast<float>(2 * t - (octet_trials - 1)) / (octet_trials - 1);
        scales[t] = centre * (1.0F + unfused(spread * place));
      }
      float twice[octet_trials] = {};
      float square[octet_trials] = {};
      for (int o = 0; o < octets; ++o) {
        const int at = first + 8 * o;
        trace(weights.x + at, weights.importance != nullptr ? weights.importance + at : nullptr,
              scales, twice, square, out.octet[0][o]);
      }
      int best = 0;
      float least = 0;
      for (int t = 0; t < octet_trials; ++t) {
        const float error = scales[t] * (unfused(scales[t] * square[t]) - twice[t]);
        if (t == 0 || error < least) {
          best = t;
          least = error;
        }
      }
      if (moves) {
        const bool inside = best > 0 && best < octet_trials - 1;
        out.scale = square[best] > 0 ? 0.5F * twice[best] / square[best] : 0.0F;
        if (inside || attempt == 7 || !(twice[best] > 0)) return;
        centre = scales[best];
      } else {
        return;
      }
    }
  }

  // Adds the sums of an octet at every scale, and lists what they are from.
  void trace(const float* x, const float* v, const float* scales, float* twice, float* square,
             octet_choices& out) const noexcept {
    const octet o = split_signs(x);
    lines straight[parts];
    lines flipped[parts];
    int point[parts][octet_trials] = {};
    int flipped_point[parts][octet_trials] = {};
    for (int part = 0; part < parts; ++part) {
      const int at = codebook::dimensions * part;
      const float* const own = v != nullptr ? v + at : nullptr;
      if (o.odd) {
        points_.lines_and_flipped(o.x + at, own, straight[part], flipped[part]);
        flipped[part].template nearest_each<Arch>(scales, flipped_point[part]);
      } else {
        points_.lines(o.x + at, own, straight[part]);
      }
      if (!o.odd || parts == 2) straight[part].template nearest_each<Arch>(scales, point[part]);
    }
    out.count = 0;
    for (int t = 0; t < octet_trials; ++t) {
      float a = 0;
      float b = 0;
      std::uint32_t code = 0;
      if (!o.odd) {
        for (int part = 0; part < parts; ++part) {
          const int p = point[part][t];
          a += straight[part].twice[p];
          b += straight[part].square[p];
          code |= static_cast<std::uint32_t>(p) << (10 * part);
        }
      } else if (parts == 1) {
        const int p = flipped_point[0][t];
        a = flipped[0].twice[p];
        b = flipped[0].square[p];
        code = static_cast<std::uint32_t>(p);
      } else {
        // The wrong sign goes into the part that it costs less.
        float least = 0;
        for (int wrong = 0; wrong < parts; ++wrong) {
          const int p = flipped_point[wrong][t];
          const int q = point[1 - wrong][t];
          const float own_a = flipped[wrong].twice[p] + straight[1 - wrong].twice[q];
          const float own_b = flipped[wrong].square[p] + straight[1 - wrong].square[q];
          const float error = unfused(scales[t] * own_b) - own_a;
          if (wrong == 0 || error < least) {
            least = error;
            a = own_a;
            b = own_b;
            code = static_cast<std::uint32_t>(p) << (10 * wrong) |
                   static_cast<std::uint32_t>(q) << (10 * (1 - wrong)) |
                   static_cast<std::uint32_t>(wrong) << 20;
          }
        }
      }
      twice[t] += a;
      square[t] += b;
      if (out.count == 0 || out.code[out.count - 1] != code) {
        out.twice[out.count] = a;
        out.square[out.count] = b;
        out.code[out.count++] = code;
      }
    }
  }

  [[nodiscard]] octet_block unpacked_block(const scaled_octets& weights, const levels& search,
                                           half scale) const noexcept {
    octet_block b{};
    b.scale = scale;
    if (scale.bits == 0) return b;
    for (int g = 0; g < groups; ++g) {
      const group& own = search.group_at[g];
      const int level = search.best_choice(own, scale).level;
      b.level[g] = static_cast<std::uint8_t>(level);
      const float s = search.seen(scale) * static_cast<float>(2 * level + 1);
      for (int o = 0; o < octets; ++o) {
        const int at = octets * g + o;
        const octet_choices& choices = own.octet[0][o];
        const std::uint32_t code = choices.code[choices.best_at(s)];
        for (int part = 0; part < parts; ++part) {
          b.points[parts * at + part] = static_cast<std::uint16_t>(code >> (10 * part) & 1023U);
        }
        b.signs[at] = static_cast<std::uint8_t>(signs_of(weights, at, code));
      }
    }
    return b;
  }

  [[nodiscard]] unsigned signs_of(const scaled_octets& weights, int at,
                                  std::uint32_t code) const noexcept {
    const octet o = split_signs(weights.x + 8 * at);
    if (!o.odd) return o.signs;
    const int part = static_cast<int>(code >> 20);
    const int point = static_cast<int>(code >> (10 * part) & 1023U);
    int wrong = 0;
    float least = 0;
    for (int j = 0; j < codebook::dimensions; ++j) {
      const int i = codebook::dimensions * part + j;
      const float v = weights.importance != nullptr ? weights.importance[8 * at + i] : 1.0F;
      const float cost = v * o.x[i] * points_.level(point, j);
      if (j == 0 || cost < least) {
        wrong = i;
        least = cost;
      }
    }
    return o.signs ^ 1U << wrong;
  }

  point_levels<codebook, Arch> points_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
