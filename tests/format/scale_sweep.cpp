// SPDX-License-Identifier: Apache-2.0
#include "subbyte/format/scale_sweep.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "subbyte/format/q4_0.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

using Arch = arch::native;
using lanes = float_lanes<Arch, 16>;

double error_of(const std::vector<float>& x, const std::vector<float>& weight, double scale) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double level = std::clamp(std::nearbyint(double{x[i]} / scale), -8.0, 7.0);
    sum += double{weight[i]} * std::pow(double{x[i]} - scale * level, 2);
  }
  return sum;
}

}  // namespace

TEST_CASE("scale_sweep: to_11_bits is the nearest half, ties aside") {
  const auto x = test_support::normal_vector(1 << 14, 3.0, 51);
  for (std::size_t i = 0; i < x.size(); i += 16) {
    float rounded[16];
    to_11_bits(lanes::load(x.data() + i)).store(rounded);
    for (std::size_t k = 0; k < 16; ++k) {
      if (std::fabs(x[i + k]) < 0x1p-14F) continue;  // fp16 has fewer bits there
      REQUIRE(half::nearest(rounded[k]).to_float() == rounded[k]);
      REQUIRE(std::fabs(rounded[k] - x[i + k]) <=
              std::fabs(half::nearest(x[i + k]).to_float() - x[i + k]));
    }
  }
}

TEST_CASE("scale_sweep: the largest magnitude that counts, and the mean of all") {
  std::vector<float> x(32, -0.5F);
  std::vector<float> weight(32, 1.0F);
  x[7] = 9;
  weight[7] = 0;
  x[20] = -2;
  const magnitudes found = magnitudes_of<Arch>(32, x.data(), weight.data());
  CHECK(found.largest == 2.0F);
  CHECK(found.mean == (30 * 0.5F + 9 + 2) / 32);
}

TEST_CASE("scale_sweep: the search comes near the least error of 20000 scales") {
  double found_sum = 0;
  double least_sum = 0;
  for (std::uint64_t seed = 0; seed < 60; ++seed) {
    const auto x = test_support::normal_vector(32, 0.02, 500 + seed);
    auto weight = test_support::normal_vector(32, 1.0, 600 + seed);
    for (float& v : weight) v = v * v;
    const float most = magnitudes_of<Arch>(32, x.data(), weight.data()).largest;
    const scale_sweep<Arch, whole_levels> sweep({-8, 7, 8}, 32, x.data(), weight.data());
    double least = 1e30;
    for (int k = 0; k < 10000; ++k) {
      const double scale = double{most} / (3 + 9 * (k / 10000.0));
      least = std::min({least, error_of(x, weight, scale), error_of(x, weight, -scale)});
    }
    double previous = 1e30;
    for (const int effort : {1, 2, 3}) {
      const float scale = sweep.search(most / 12, most / 4, true, effort);
      const double found = error_of(x, weight, double{scale});
      REQUIRE(found >= least * 0.999);
      if (effort == 1) found_sum += found;
      previous = std::min(previous, found);
    }
    // The highest effort looks at every basin that could matter.
    REQUIRE(previous <= least * 1.1);
    least_sum += least;
  }
  CHECK(found_sum <= 1.02 * least_sum);
}

TEST_CASE("scale_sweep: lower_of keeps the reference unless the other is clearly lower") {
  const auto x = test_support::normal_vector(32, 1.0, 61);
  const std::vector<float> weight(32, 1.0F);
  const q4_0 good = q4_0::encode_best<Arch>(x.data(), nullptr, 0, 3);
  q4_0 bad = good;
  bad.scale = half::nearest(good.scale.to_float() * 1.5F);
  const auto same = [](const q4_0& a, const q4_0& b) {
    return std::equal(a.codes_packed, a.codes_packed + 16, b.codes_packed) && a.scale == b.scale;
  };
  CHECK(same(lower_of<q4_0, Arch>(good, bad, x.data(), weight.data()), good));
  CHECK(same(lower_of<q4_0, Arch>(bad, good, x.data(), weight.data()), good));
}
