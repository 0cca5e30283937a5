// SPDX-License-Identifier: Apache-2.0
/// The encoders of the IQ2 and IQ3 formats: the normative one and the search of least error.
#pragma once

#include "subbyte/format/magnitude_search.hpp"
#include "subbyte/format/octet_search.hpp"
#include "subbyte/format/point_lines.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Codes octets by magnitudes and signs. Rule is the format's rule of magnitude_search; its `unit`
/// times a level of the codebook, times 2 * group level + 1, times the scale of the block is a
/// magnitude.
///
/// Every point is compared, with the levels that decoding uses; where parity demands a wrong sign,
/// with that sign on the element that it costs least with this point.
///
/// Cost  the constructor a table of 8 to 40 KB.
template <class Rule, class Arch>
class magnitude_coder {
  using codebook = typename Rule::codebook;
  using lines = point_lines<codebook::size>;
  static constexpr int dimensions = codebook::dimensions;
  static constexpr int parts = 8 / dimensions;

 public:
  static constexpr int groups = 256 / Rule::group_size;
  static constexpr int levels = 16;
  static constexpr int variants = 1;
  static constexpr float top =
      static_cast<float>(codebook::level(codebook::digits - 1)) * Rule::unit;

  magnitude_coder() : points_(Rule::unit) {}

  void code(const float* x, const float* v, const float* scales,
            octet_trial (&out)[1]) const noexcept {
    const octet o = split_signs(x);
    lines straight[parts];
    lines flipped[parts];
    int point[parts][octet_trials] = {};
    int flipped_point[parts][octet_trials] = {};
    for (int part = 0; part < parts; ++part) {
      const float* const own = v != nullptr ? v + dimensions * part : nullptr;
      if (o.odd) {
        points_.lines_and_flipped(o.x + dimensions * part, own, straight[part], flipped[part]);
        flipped[part].template nearest_each<Arch>(scales, flipped_point[part]);
      } else {
        points_.lines(o.x + dimensions * part, own, straight[part]);
      }
      if (!o.odd || parts == 2) straight[part].template nearest_each<Arch>(scales, point[part]);
    }
    for (int t = 0; t < octet_trials; ++t) {
      if constexpr (parts == 1) {
        const int p = o.odd ? flipped_point[0][t] : point[0][t];
        const lines& from = o.odd ? flipped[0] : straight[0];
        out[0].twice[t] = from.twice[p];
        out[0].square[t] = from.square[p];
        out[0].code[t] = static_cast<std::uint32_t>(p);
      } else {
        // A wrong sign goes into the half that it costs less.
        float least = 0;
        for (int wrong = 0; wrong < (o.odd ? 2 : 1); ++wrong) {
          const lines& changed = o.odd ? flipped[wrong] : straight[0];
          const int p = o.odd ? flipped_point[wrong][t] : point[0][t];
          const int q = point[1 - wrong][t];
          const float twice = changed.twice[p] + straight[1 - wrong].twice[q];
          const float square = changed.square[p] + straight[1 - wrong].square[q];
          const float error = unfused(scales[t] * square) - twice;
          if (wrong == 1 && !(error < least)) continue;
          least = error;
          out[0].twice[t] = twice;
          out[0].square[t] = square;
          out[0].code[t] = static_cast<std::uint32_t>(p) << (index_bits * wrong) |
                           static_cast<std::uint32_t>(q) << (index_bits * (1 - wrong)) |
                           static_cast<std::uint32_t>(wrong) << (2 * index_bits);
        }
      }
    }
  }

  void store(const float* x, const float* v, std::uint32_t code, int, int at,
             octet_block& out) const noexcept {
    int point[parts];
    for (int part = 0; part < parts; ++part) {
      point[part] = static_cast<int>(code >> (index_bits * part) & ((1U << index_bits) - 1));
      out.points[parts * at + part] = static_cast<std::uint16_t>(point[part]);
    }
    const octet o = split_signs(x);
    unsigned signs = o.signs;
    if (o.odd) {
      const int part = static_cast<int>(code >> (2 * index_bits));
      int wrong = 0;
      float least = 0;
      for (int j = 0; j < dimensions; ++j) {
        const int i = dimensions * part + j;
        const float cost = (v != nullptr ? v[i] : 1.0F) * o.x[i] * points_.level(point[part], j);
        if (j == 0 || cost < least) {
          wrong = i;
          least = cost;
        }
      }
      signs ^= 1U << wrong;
    }
    out.signs[at] = static_cast<std::uint8_t>(signs);
  }

 private:
  /// Of a code: the point of each half, then the half with the wrong sign.
  static constexpr int index_bits = 10;

  /// The octet with the signs taken off.
  struct octet {
    float x[8];
    unsigned signs;
    bool odd;  ///< parity demands one wrong sign
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

  point_levels<codebook, Arch> points_;
};

/// The encoder of an IQ2 or IQ3 format. Rule is the format's rule of magnitude_search and of
/// magnitude_coder; it names the format and packs what the two searches find.
template <class Rule, class Arch>
class magnitude_encoder {
  using format = typename Rule::format;
  using coder = magnitude_coder<Rule, Arch>;

 public:
  /// The normative encoder's block: the format's header says whose.
  [[nodiscard]] format operator()(const float* w, const float* importance, float) const noexcept {
    return Rule::template packed<Arch>(search_(w, importance));
  }

  /// The block of least sum(importance * (w - decoded)^2), importance null: ones, among
  /// operator()'s and what searches find: one with effort 1, two or three with 2 or 3; see
  /// octet_search.
  ///
  /// Numerics  the same bits on every compiler, arch and flag. What is not finite, or too small for
  ///           an fp16 scale, is left to operator().
  [[nodiscard]] format best(const float* w, const float* importance, float,
                            int effort) const noexcept {
    const auto found = search_(w, importance);
    const auto search = [&](int k) noexcept {
      return octet_search<coder, Arch>(coder_)(w, importance, found, octet_plans[k]);
    };
    const auto pack = [](const octet_block& b) noexcept { return Rule::template packed<Arch>(b); };
    return least_error_block<Arch>(Rule::template packed<Arch>(found), w, importance, effort,
                                   search, pack);
  }

 private:
  magnitude_search<Rule, Arch> search_;
  coder coder_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
