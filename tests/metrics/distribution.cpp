// SPDX-License-Identifier: Apache-2.0
#include "subbyte/metrics/distribution.hpp"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

template <int Bins>
histogram<Bins> counted(value_range range, const std::vector<float>& values) {
  histogram<Bins> h(range);
  h.add(values);
  return h;
}

}  // namespace

TEST_CASE("distribution: the range is that of the finite values") {
  value_range r;
  CHECK(r.low > r.high);
  r.add(std::vector<float>{not_a_number, infinity, -infinity});
  CHECK(r.low > r.high);
  r.add(std::vector<float>{2, not_a_number, -3, infinity});
  CHECK(r.low == -3);
  CHECK(r.high == 2);
  value_range other;
  other.add(std::vector<float>{7});
  r.merge(other);
  CHECK(r.low == -3);
  CHECK(r.high == 7);
  r.merge(value_range());
  CHECK(r.high == 7);
}

TEST_CASE("distribution: bins are closed below, and the last one above") {
  const auto h = counted<4>({0, 8}, {0, 1.999f, 2, 3, 4, 5.999f, 6, 7, 8});
  CHECK(h.count(0) == 2);
  CHECK(h.count(1) == 2);
  CHECK(h.count(2) == 2);
  CHECK(h.count(3) == 3);
  CHECK(h.total() == 9);
  CHECK(h.bins() == 4);
}

TEST_CASE("distribution: values outside go to the edge, NaN and Inf are counted apart") {
  const auto h = counted<2>({-1, 1}, {-5, 5, not_a_number, infinity, -infinity, 0.5f});
  CHECK(h.count(0) == 1);
  CHECK(h.count(1) == 2);
  CHECK(h.total() == 3);
  CHECK(h.non_finite() == 3);
}

TEST_CASE("distribution: a range without width puts everything into bin 0") {
  const auto h = counted<8>({3, 3}, {3, 3, 3});
  CHECK(h.count(0) == 3);
  CHECK(h.total() == 3);
}

TEST_CASE("distribution: the widest range does not overflow") {
  const float huge = std::numeric_limits<float>::max();
  const auto h = counted<2>({-huge, huge}, {-huge, -huge / 2, huge / 2, huge});
  CHECK(h.count(0) == 2);
  CHECK(h.count(1) == 2);
}

TEST_CASE("distribution: merging counts is counting everything") {
  const value_range range(0, 4);
  auto a = counted<4>(range, {0, 1, 1, infinity});
  a.merge(counted<4>(range, {1, 3, not_a_number}));
  CHECK(a.count(0) == 1);
  CHECK(a.count(1) == 3);
  CHECK(a.count(2) == 0);
  CHECK(a.count(3) == 1);
  CHECK(a.total() == 5);
  CHECK(a.non_finite() == 2);
}

TEST_CASE("distribution: KL of two coins is the formula") {
  // p = (3/4, 1/4), q = (1/4, 3/4): KL = (3/4) ln 3 + (1/4) ln (1/3) = (1/2) ln 3.
  const value_range range(0, 2);
  const auto p = counted<2>(range, {0, 0, 0, 1});
  const auto q = counted<2>(range, {0, 1, 1, 1});
  // Two logs, two products, one sum, all of size below 1: 8 roundings of 2^-53 cover it.
  CHECK(std::fabs(kl_divergence(p, q) - 0.5 * std::log(3.0)) <= 8 * 0x1p-53);
  CHECK(kl_divergence(p, p) == 0);
  const auto fair = counted<2>(range, {0, 1});
  const double biased = 0.75 * std::log(1.5) + 0.25 * std::log(0.5);
  CHECK(std::fabs(kl_divergence(p, fair) - biased) <= 8 * 0x1p-53);
  const double reverse = 0.5 * std::log(0.5 / 0.75) + 0.5 * std::log(0.5 / 0.25);
  CHECK(std::fabs(kl_divergence(fair, p) - reverse) <= 8 * 0x1p-53);
}

TEST_CASE("distribution: the size of the samples does not matter, only their shares") {
  const value_range range(0, 2);
  const auto p = counted<2>(range, {0, 0, 0, 1});
  const auto p_twice = counted<2>(range, {0, 0, 0, 1, 0, 0, 0, 1});
  CHECK(kl_divergence(p, p_twice) == 0);
}

TEST_CASE("distribution: a sum of shares that rounds to below 1 gives no negative KL") {
  // Ten shares of 0.1 add up to 1 - 2^-53 in double.
  const auto p = counted<10>({0, 10}, {0, 1, 2, 3, 4, 5, 6, 7, 8, 9});
  CHECK(kl_divergence(p, p) == 0);
}

TEST_CASE("distribution: an empty bin of the estimate is floored at 1e-12 and renormalised") {
  // p = (1/2, 1/2), q = (1, 0) -> (1, 1e-12) / (1 + 1e-12).
  const value_range range(0, 2);
  const auto p = counted<2>(range, {0, 1});
  const auto q = counted<2>(range, {0});
  const double z = 1 + 1e-12;
  const double expected = 0.5 * std::log(0.5 * z) + 0.5 * std::log(0.5 * z / 1e-12);
  // The terms are below 14, of which each log and each sum may round: 8 * 14 * 2^-53.
  CHECK(std::fabs(kl_divergence(p, q) - expected) <= 8 * 14 * 0x1p-53);
  // The other way round the empty bin has no mass, and no bin of the estimate is empty.
  CHECK(std::fabs(kl_divergence(q, p) - std::log(2.0)) <= 8 * 0x1p-53);
}

TEST_CASE("distribution: equal samples differ by the floor of their empty bins only") {
  const std::vector<float> values{0, 1};  // 2 of 2048 bins are used
  const histogram_divergence d = measure_histogram_divergence(values, values);
  CHECK(d.bins == 2048);
  CHECK(d.range.low == 0);
  CHECK(d.range.high == 1);
  const double expected = std::log1p(2046e-12);
  CHECK(std::fabs(d.kl - expected) <= 1e-15 * 2048);  // 2048 additions of at most 1 to the sum
  CHECK(d.kl < 3e-9);
}

TEST_CASE("distribution: constants, no values, and NaN are defined") {
  const std::vector<float> constant(5, 2.5f);
  const std::vector<float> none;
  CHECK(measure_histogram_divergence<16>(constant, constant).kl < 1e-10);
  CHECK(measure_histogram_divergence<16>(none, none).kl == 0);
  CHECK(std::isnan(measure_histogram_divergence<16>(constant, none).kl));
  CHECK(std::isnan(measure_histogram_divergence<16>(none, constant).kl));
  CHECK(std::isnan(
      measure_histogram_divergence<16>(std::vector<float>{not_a_number, 1}, constant).kl));
  CHECK(std::isnan(measure_histogram_divergence<16>(constant, std::vector<float>{infinity}).kl));
  CHECK(std::isnan(
      measure_histogram_divergence<16>(constant, std::vector<float>{2.5f, infinity}).kl));
  // Two different constants share no bin: p = (1, 0, ...), q floored there.
  const double apart =
      measure_histogram_divergence<2>(std::vector<float>{1}, std::vector<float>{2}).kl;
  CHECK(std::fabs(apart - std::log((1 + 1e-12) / 1e-12)) <= 8 * 28 * 0x1p-53);
}

TEST_CASE("distribution: KL is never negative, and coarser bins never see more") {
  std::mt19937_64 random(11);
  for (int round = 0; round < 20; ++round) {
    std::vector<float> x(2000);
    std::vector<float> y(2000);
    for (std::size_t i = 0; i < x.size(); ++i) {
      x[i] = static_cast<float>(random() >> 40);
      y[i] = x[i] + static_cast<float>(random() >> 44);
    }
    const double fine = measure_histogram_divergence<64>(x, y).kl;
    const double coarse = measure_histogram_divergence<8>(x, y).kl;
    CHECK(fine >= 0);
    CHECK(coarse >= 0);
    // Data processing: merging bins cannot raise KL; the floors of up to 64 bins add 1e-10.
    CHECK(coarse <= fine + 1e-10);
  }
}
