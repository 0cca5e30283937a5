// SPDX-License-Identifier: Apache-2.0
/// The comparison of all points of a codebook against sums in double, point by point.
#include "subbyte/format/point_lines.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;
using Arch = arch::native;

/// sum(v (s l - x)^2) of a point whose levels are `unit` times the codebook's plus `shift`; element
/// `wrong` with the other sign.
template <class Codebook>
double error_of(int point, double s, double unit, double shift, const float* x, const float* v,
                int wrong = -1) {
  double sum = 0;
  for (int j = 0; j < Codebook::dimensions; ++j) {
    const double level = unit * static_cast<double>(elements_of<Codebook>(point).at[j]) + shift;
    const double signed_level = j == wrong ? -level : level;
    const double difference = s * signed_level - static_cast<double>(x[j]);
    sum += (v != nullptr ? static_cast<double>(v[j]) : 1.0) * difference * difference;
  }
  return sum;
}

/// The chosen point's error may be above the least by rounding only: sums of at most 3 * 8 terms,
/// each rounded a few times, none larger than sum(v (x^2 + (s l)^2)).
double slack(double energy, double s, double top) {
  return 64 * 0x1p-24 * (energy + 8 * s * s * top * top);
}

struct vector_sample {
  std::vector<float> x;
  std::vector<float> v;
  double energy;
};

vector_sample sampled(std::mt19937_64& generator, bool magnitudes) {
  vector_sample s{{}, {}, 0};
  for (int j = 0; j < 8; ++j) {
    const auto x = static_cast<float>(test_support::normal(generator));
    s.x.push_back(magnitudes ? std::fabs(x) : x);
    s.v.push_back(static_cast<float>(std::exp(test_support::normal(generator)) / 8));
    s.energy += static_cast<double>(std::max(1.0F, s.v.back()) * x * x);
  }
  return s;
}

std::vector<float> scales_around(float centre) {
  std::vector<float> scales;
  for (int t = 0; t < octet_trials; ++t) {
    scales.push_back(centre * (0.7F + 0.08F * static_cast<float>(t)));
  }
  return scales;
}

template <class Codebook>
void check_magnitudes(double unit) {
  static const point_levels<Codebook, Arch> levels(static_cast<float>(unit));
  const double top = unit * Codebook::level(Codebook::digits - 1);
  std::mt19937_64 generator(Codebook::size);
  for (int draw = 0; draw < 20; ++draw) {
    const vector_sample s = sampled(generator, true);
    const float* const v = draw % 2 == 0 ? s.v.data() : nullptr;
    const auto scales =
        scales_around(static_cast<float>((1 + test_support::uniform(generator)) / top));
    point_lines<Codebook::size> straight;
    point_lines<Codebook::size> flipped;
    int found[octet_trials];
    levels.lines(s.x.data(), v, straight);
    straight.template nearest_each<Arch>(scales.data(), found);
    for (int t = 0; t < octet_trials; ++t) {
      const double scale = static_cast<double>(scales[static_cast<std::size_t>(t)]);
      double least = 1e300;
      for (int p = 0; p < Codebook::size; ++p) {
        least = std::min(least, error_of<Codebook>(p, scale, unit, 0, s.x.data(), v));
      }
      const double own = error_of<Codebook>(found[t], scale, unit, 0, s.x.data(), v);
      CHECK(own <= least + slack(s.energy, scale, top));
    }

    levels.lines_and_flipped(s.x.data(), v, straight, flipped);
    flipped.template nearest_each<Arch>(scales.data(), found);
    for (int t = 0; t < octet_trials; ++t) {
      const double scale = static_cast<double>(scales[static_cast<std::size_t>(t)]);
      const auto flipped_error = [&](int p) {
        double least = 1e300;
        for (int j = 0; j < Codebook::dimensions; ++j) {
          least = std::min(least, error_of<Codebook>(p, scale, unit, 0, s.x.data(), v, j));
        }
        return least;
      };
      double least = 1e300;
      for (int p = 0; p < Codebook::size; ++p) least = std::min(least, flipped_error(p));
      CHECK(flipped_error(found[t]) <= least + slack(s.energy, scale, top));
    }
  }
}

TEST_CASE("The nearest of all magnitude points is found for every scale") {
  check_magnitudes<iq2_xxs_codebook>(0.125);
  check_magnitudes<iq2_xs_codebook>(0.125);
  check_magnitudes<iq2_s_codebook>(0.125);
  check_magnitudes<iq3_xxs_codebook>(0.25);
  check_magnitudes<iq3_s_codebook>(1);
}

TEST_CASE("The nearest of all shifted ternary points is found for every scale") {
  static const point_levels<iq1_codebook, Arch> levels(1);
  std::mt19937_64 generator(9);
  for (int draw = 0; draw < 20; ++draw) {
    const vector_sample s = sampled(generator, false);
    const float* const v = draw % 2 == 0 ? s.v.data() : nullptr;
    const auto scales = scales_around(static_cast<float>(0.5 + test_support::uniform(generator)));
    static point_lines<iq1_codebook::size> shifted[2];
    levels.shifted_lines(s.x.data(), v, 0.125F, shifted[0], shifted[1]);
    for (int down = 0; down < 2; ++down) {
      int found[octet_trials];
      shifted[down].nearest_each<Arch>(scales.data(), found);
      const double shift = down != 0 ? -0.125 : 0.125;
      for (int t = 0; t < octet_trials; ++t) {
        const double scale = static_cast<double>(scales[static_cast<std::size_t>(t)]);
        double least = 1e300;
        for (int p = 0; p < iq1_codebook::size; ++p) {
          least = std::min(least, error_of<iq1_codebook>(p, scale, 1, shift, s.x.data(), v));
        }
        const double own = error_of<iq1_codebook>(found[t], scale, 1, shift, s.x.data(), v);
        CHECK(own <= least + slack(s.energy, scale, 1.125));
      }
    }
  }
}

}  // namespace
