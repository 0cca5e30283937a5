// SPDX-License-Identifier: Apache-2.0
#include "subbyte/metrics/error.hpp"

#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "support/catch.hpp"

using namespace subbyte;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

error_report report_of(const std::vector<float>& x, const std::vector<float>& y) {
  return measure_error(x, y);
}

// Multiples of 2^-10 in [-8, 8): sums of a few thousand of their products are exact in double.
std::vector<float> grid_values(std::size_t n, std::uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(static_cast<int>(random() >> 50) - 8192) / 1024;
  return v;
}

bool same_bits(const error_report& a, const error_report& b) {
  return a.count == b.count && a.mse == b.mse && a.nmse == b.nmse &&
         a.relative_rmse == b.relative_rmse && a.sqnr_db == b.sqnr_db && a.mae == b.mae &&
         a.max_abs == b.max_abs && a.cosine == b.cosine;
}

}  // namespace

TEST_CASE("error: figures of a small vector, worked out by hand") {
  // e = {1, -2, 0, 0}; x^2 sums to 9 + 16 + 0 + 25 = 50; <x, y> = 6 + 24 + 0 + 25 = 55;
  // y^2 sums to 4 + 36 + 0 + 25 = 65.
  const error_report r = report_of({3, 4, 0, -5}, {2, 6, 0, -5});
  CHECK(r.count == 4);
  CHECK(r.mse == 5.0 / 4);
  CHECK(r.nmse == 5.0 / 50);
  CHECK(r.relative_rmse == std::sqrt(0.1));
  CHECK(r.sqnr_db == 10.0);
  CHECK(r.mae == 3.0 / 4);
  CHECK(r.max_abs == 2);
  CHECK(r.cosine == 55 / std::sqrt(50.0 * 65.0));
}

TEST_CASE("error: an exact estimate has no error, infinite SQNR and cosine 1") {
  for (const auto& x : {grid_values(1000, 1), std::vector<float>(7, 0.1f), std::vector<float>{3}}) {
    const error_report r = report_of(x, x);
    CHECK(r.mse == 0);
    CHECK(r.nmse == 0);
    CHECK(r.relative_rmse == 0);
    CHECK(r.sqnr_db == infinity);
    CHECK(r.mae == 0);
    CHECK(r.max_abs == 0);
    CHECK(r.cosine == 1);
  }
}

TEST_CASE("error: no elements, and zeros estimated as zeros, count as exact") {
  for (const std::size_t n : {std::size_t{0}, std::size_t{5}}) {
    const std::vector<float> zeros(n);
    const error_report r = report_of(zeros, zeros);
    CHECK(r.count == static_cast<index_t>(n));
    CHECK(r.mse == 0);
    CHECK(r.nmse == 0);
    CHECK(r.sqnr_db == infinity);
    CHECK(r.cosine == 1);
  }
}

TEST_CASE("error: zero signal with an error, and a signal estimated as zero") {
  const error_report lost = report_of({0, 0}, {1, 0});
  CHECK(lost.nmse == infinity);
  CHECK(lost.relative_rmse == infinity);
  CHECK(lost.sqnr_db == -infinity);
  CHECK(lost.cosine == 0);
  const error_report silent = report_of({3, -4}, {0, 0});
  CHECK(silent.nmse == 1);
  CHECK(silent.sqnr_db == 0);
  CHECK(silent.cosine == 0);
}

TEST_CASE("error: a scaled estimate has the closed form of its factor") {
  // y = c x: NMSE = (1 - c)^2, cosine = sign(c). c and x are dyadic, so every sum is exact.
  const std::vector<float> x = grid_values(500, 2);
  for (const float c : {0.5f, 2.0f, -1.0f, 0.75f, -0.25f}) {
    CAPTURE(c);
    std::vector<float> y = x;
    for (float& v : y) v *= c;
    const error_report r = report_of(x, y);
    const double d = 1 - static_cast<double>(c);
    CHECK(r.nmse == d * d);
    CHECK(r.relative_rmse == std::fabs(d));
    // |x|^2 |y|^2 = c^2 |x|^4 rounds once, its root once, the quotient once: 3 * 2^-53.
    CHECK(std::fabs(r.cosine - (c > 0 ? 1 : -1)) <= 4e-16);
  }
}

TEST_CASE("error: one LSB of uniform rounding error is worth 6.02 dB per bit") {
  // x on a fine grid of N points of [0, 1), rounded down to a multiple of 1/L and placed in the
  // middle of its cell: e is uniform over the L-cell's N/L points, so with M = N / L
  // sum e^2 / N = (1 - 1 / M^2) / (12 L^2), exactly.
  constexpr int n = 1 << 16;
  for (const int levels : {2, 16, 256}) {
    std::vector<float> x(n);
    std::vector<float> y(n);
    const int cell = n / levels;
    for (int i = 0; i < n; ++i) {
      const std::size_t at = static_cast<std::size_t>(i);
      x[at] = (static_cast<float>(i) + 0.5f) / n;
      y[at] = (static_cast<float>(i / cell) + 0.5f) / static_cast<float>(levels);
    }
    const double m = cell;
    const double l = levels;
    CHECK(report_of(x, y).mse == (1 - 1 / (m * m)) / (12 * l * l));
  }
}

TEST_CASE("error: lengths that are not a multiple of the lanes count every element once") {
  for (std::size_t n = 1; n < 40; ++n) {
    const std::vector<float> x = grid_values(n, 3 + n);
    const std::vector<float> y = grid_values(n, 300 + n);
    error_sums one_by_one;
    for (std::size_t i = 0; i < n; ++i) one_by_one.add(x[i], y[i]);
    CHECK(same_bits(report_of(x, y), one_by_one.report()));  // exact sums: no order matters
  }
}

TEST_CASE("error: merging parts gives the sums of the whole") {
  const std::vector<float> x = grid_values(1003, 4);
  const std::vector<float> y = grid_values(1003, 5);
  for (const index_t cut : {0, 1, 500, 1003}) {
    error_sums a;
    error_sums b;
    a.add({x.data(), cut}, {y.data(), cut});
    b.add({x.data() + cut, 1003 - cut}, {y.data() + cut, 1003 - cut});
    a.merge(b);
    CHECK(same_bits(a.report(), report_of(x, y)));
  }
}

TEST_CASE("error: any executor gives the same bits") {
  // Values whose sums do round, so that another order would show.
  std::mt19937_64 random(6);
  std::vector<float> x(300'007);
  std::vector<float> y(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) {
    x[i] = static_cast<float>(random() >> 40) * 1.7e-5f;
    y[i] = x[i] + static_cast<float>(random() >> 40) * 1.3e-9f;
  }
  const error_report expected = measure_error(x, y);
  CHECK(expected.mse > 0);
  const tensor_view<const float, 2, row_pitched> mx(x.data(), {299, 1000}, {1003});
  const tensor_view<const float, 2, row_pitched> my(y.data(), {299, 1000}, {1003});
  const error_report expected_matrix = measure_error(mx, my);
  CHECK(expected_matrix.count == 299'000);
  for (const int threads : {1, 2, 3, 7}) {
    thread_pool pool(threads);
    CHECK(same_bits(measure_error(x, y, pool), expected));
    CHECK(same_bits(measure_error(mx, my, pool), expected_matrix));
  }
}

TEST_CASE("error: a cosine is never beyond 1") {
  // Of parallel vectors whose sums round, one in forty has a quotient of 1 + 2^-52.
  std::mt19937_64 random(7);
  for (std::size_t round = 0; round < 1000; ++round) {
    std::vector<float> x(2 + round % 4);
    for (float& v : x) v = static_cast<float>(random() >> 40) * 1.7e-5f;
    std::vector<float> y = x;
    for (float& v : y) v *= round % 2 == 0 ? 0.1f : -0.1f;
    CHECK(std::fabs(report_of(x, y).cosine) <= 1);
  }
}

TEST_CASE("error: a matrix is the sum of its rows") {
  // Values whose sums are exact: many rows per piece, and no order matters.
  const std::vector<float> x = grid_values(150 * 7, 8);
  const std::vector<float> y = grid_values(150 * 7, 9);
  const matrix_view<const float> mx(x.data(), 150, 7);
  const matrix_view<const float> my(y.data(), 150, 7);
  CHECK(same_bits(measure_error(mx, my), report_of(x, y)));
}

TEST_CASE("error: a matrix skips the gap between its rows") {
  std::vector<float> x(3 * 5, 100.0f);
  std::vector<float> y(3 * 5, -100.0f);
  for (std::size_t i = 0; i < 3; ++i) {
    for (std::size_t j = 0; j < 4; ++j) {
      x[5 * i + j] = 1;
      y[5 * i + j] = 0.5f;
    }
  }
  const tensor_view<const float, 2, row_pitched> mx(x.data(), {3, 4}, {5});
  const tensor_view<const float, 2, row_pitched> my(y.data(), {3, 4}, {5});
  const error_report r = measure_error(mx, my);
  CHECK(r.count == 12);
  CHECK(r.mse == 0.25);
  CHECK(r.max_abs == 0.5);
}

TEST_CASE("error: NaN and Inf reach the figures, wherever they stand") {
  for (std::size_t at = 0; at < 9; ++at) {
    std::vector<float> x(9, 1.0f);
    std::vector<float> y(9, 2.0f);
    y[at] = not_a_number;
    const error_report r = report_of(x, y);
    CHECK(std::isnan(r.mse));
    CHECK(std::isnan(r.nmse));
    CHECK(std::isnan(r.sqnr_db));
    CHECK(std::isnan(r.mae));
    CHECK(std::isnan(r.max_abs));
    CHECK(std::isnan(r.cosine));
    y[at] = std::numeric_limits<float>::infinity();
    CHECK(report_of(x, y).mse == infinity);
    CHECK(report_of(x, y).max_abs == infinity);
  }
}

TEST_CASE("error: the largest floats neither overflow nor vanish") {
  const float huge = std::numeric_limits<float>::max();
  const float tiny = std::numeric_limits<float>::denorm_min();
  const error_report large = report_of({huge, huge}, {-huge, -huge});
  CHECK(large.nmse == 4);
  CHECK(large.cosine == -1);
  const error_report small = report_of({tiny, tiny}, {2 * tiny, 2 * tiny});
  CHECK(small.nmse == 1);
  CHECK(small.cosine == 1);
}
