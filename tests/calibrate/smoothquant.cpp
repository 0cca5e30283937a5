// SPDX-License-Identifier: Apache-2.0
#include "subbyte/calibrate/smoothquant.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "subbyte/calibrate/fold.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

namespace {

using subbyte::errc;
using subbyte::index_t;
using subbyte::matrix_view;
using test_support::error_of;

/// Rows rounded to int8 with one symmetric scale each, in place.
void round_rows_to_int8(std::vector<float>& m, index_t cols) {
  for (std::size_t first = 0; first < m.size(); first += static_cast<std::size_t>(cols)) {
    float largest = 0;
    for (std::size_t i = 0; i < static_cast<std::size_t>(cols); ++i) {
      largest = std::max(largest, std::abs(m[first + i]));
    }
    const float step = largest / 127;
    if (step == 0) continue;
    for (std::size_t i = 0; i < static_cast<std::size_t>(cols); ++i) {
      m[first + i] = step * std::nearbyint(m[first + i] / step);
    }
  }
}

/// Y = X W^T in double.
std::vector<double> outputs(const std::vector<float>& x, const std::vector<float>& w, index_t k) {
  std::vector<double> y;
  const auto width = static_cast<std::size_t>(k);
  for (std::size_t t = 0; t < x.size(); t += width) {
    for (std::size_t r = 0; r < w.size(); r += width) {
      double sum = 0;
      for (std::size_t j = 0; j < width; ++j) {
        sum += static_cast<double>(x[t + j]) * static_cast<double>(w[r + j]);
      }
      y.push_back(sum);
    }
  }
  return y;
}

}  // namespace

TEST_CASE("smoothquant: the scale is the published formula over all weights with one input") {
  const std::vector<float> a{1, -8, 0.5F, 0, 2, -1};  // [2, 3]: columns 0 and 1: 1, 8, 2 with b
  const std::vector<float> b{-0.25F, 4, 2};
  const matrix_view<const float> weights[] = {{a.data(), 2, 3}, {b.data(), 1, 3}};
  const std::vector<float> x{16, 2, 32};
  // Largest weights per column: 1, 8, 2.
  for (const float alpha : {0.0F, 0.25F, 0.5F, 1.0F}) {
    const auto s = subbyte::smooth_scale(weights, x, {.alpha = alpha});
    const double largest[] = {1, 8, 2};
    for (index_t j = 0; j < 3; ++j) {
      const double expected = std::pow(static_cast<double>(x[static_cast<std::size_t>(j)]),
                                       static_cast<double>(alpha)) /
                              std::pow(largest[j], 1 - static_cast<double>(alpha));
      CHECK(s(j) == static_cast<float>(expected));
    }
  }
}

TEST_CASE("smoothquant: at one half the range of activations and weights of a channel meet") {
  const auto w = test_support::normal_vector(40 * 30, 1, 1);
  const matrix_view<const float> weights[] = {{w.data(), 40, 30}};
  std::vector<float> x;
  for (int j = 0; j < 30; ++j) x.push_back(static_cast<float>(std::pow(1.5, j - 10)));
  const auto s = subbyte::smooth_scale(weights, x);
  for (index_t j = 0; j < 30; ++j) {
    float largest = 0;
    for (index_t r = 0; r < 40; ++r) largest = std::max(largest, std::abs(weights[0](r, j)));
    const double activations =
        static_cast<double>(x[static_cast<std::size_t>(j)]) / static_cast<double>(s(j));
    const double scaled_weights = static_cast<double>(largest) * static_cast<double>(s(j));
    CHECK(std::abs(activations - scaled_weights) <= 0x1p-22 * scaled_weights);
  }
}

TEST_CASE("smoothquant: channels without activations or without weights keep scale one") {
  const std::vector<float> w{1, 0, 3, 2, 0, 4};
  const matrix_view<const float> weights[] = {{w.data(), 2, 3}};
  const auto s = subbyte::smooth_scale(weights, std::vector<float>{0, 5, 8});
  CHECK(s(0) == 1);
  CHECK(s(1) == 1);
  CHECK(s(2) == static_cast<float>(std::sqrt(8.0 / 4)));
  // Extreme ratios stay usable: float's whole range on both sides.
  const std::vector<float> tiny{1e-38F};
  const matrix_view<const float> one[] = {{tiny.data(), 1, 1}};
  CHECK(subbyte::smooth_scale(one, std::vector<float>{3e38F}, {.alpha = 0.5F})(0) ==
        std::ldexp(1.0F, 60));
}

TEST_CASE("smoothquant: W8A8 with outlier channels has a much smaller error at every usual alpha") {
  // Figures of docs/methods/smoothquant.md.
  const index_t k = 512;
  const index_t n = 64;
  const index_t tokens = 64;
  const auto w = test_support::normal_vector(static_cast<std::size_t>(n * k), 0.05, 1);
  auto x = test_support::normal_vector(static_cast<std::size_t>(tokens * k), 1, 2);
  for (index_t t = 0; t < tokens; ++t) {
    for (const index_t j : {3, 77, 200, 201, 333, 480}) {
      x[static_cast<std::size_t>(t * k + j)] *= 60;  // the measured shape of LLM activations
    }
  }
  std::vector<float> largest(static_cast<std::size_t>(k));
  for (std::size_t i = 0; i < x.size(); ++i) {
    float& m = largest[i % static_cast<std::size_t>(k)];
    m = std::max(m, std::abs(x[i]));
  }
  const std::vector<double> exact = outputs(x, w, k);
  const auto error_with = [&](const std::vector<float>& scale) {
    std::vector<float> ws = w;
    std::vector<float> xs = x;
    subbyte::scale_columns(matrix_view<float>(ws.data(), n, k), scale);
    for (std::size_t i = 0; i < xs.size(); ++i) xs[i] /= scale[i % static_cast<std::size_t>(k)];
    round_rows_to_int8(ws, k);
    round_rows_to_int8(xs, k);
    const std::vector<double> y = outputs(xs, ws, k);
    double error = 0;
    double signal = 0;
    for (std::size_t i = 0; i < y.size(); ++i) {
      error += (y[i] - exact[i]) * (y[i] - exact[i]);
      signal += exact[i] * exact[i];
    }
    return error / signal;
  };
  const double without = error_with(std::vector<float>(static_cast<std::size_t>(k), 1));
  const matrix_view<const float> weights[] = {{w.data(), n, k}};
  struct row {
    float alpha;
    double at_most;  // of the error without
  };
  for (const row& expected : {row{0.25F, 0.2}, row{0.5F, 0.07}, row{0.65F, 0.1}, row{0.8F, 0.25}}) {
    const auto s = subbyte::smooth_scale(weights, largest, {.alpha = expected.alpha});
    const double with = error_with(std::vector<float>(s.data(), s.data() + k));
    INFO("alpha " << expected.alpha << ": " << with << " instead of " << without);
    CHECK(with < expected.at_most * without);
  }
}

TEST_CASE("smoothquant: any executor gives the same bits, and one row or column is enough") {
  const auto w = test_support::normal_vector(9 * 200, 1, 3);
  const matrix_view<const float> weights[] = {{w.data(), 9, 200}};
  std::vector<float> x = test_support::normal_vector(200, 1, 4);
  for (float& v : x) v = std::abs(v);
  subbyte::thread_pool pool(3);
  const auto a = subbyte::smooth_scale(weights, x);
  const auto b = subbyte::smooth_scale(weights, x, {}, pool);
  for (index_t j = 0; j < 200; ++j) CHECK(a(j) == b(j));
  const matrix_view<const float> single[] = {{w.data(), 1, 1}};
  CHECK(subbyte::smooth_scale(single, std::vector<float>{1})(0) > 0);
  const matrix_view<const float> empty[] = {{w.data(), 0, 2}};
  CHECK(subbyte::smooth_scale(empty, std::vector<float>{1, 1})(1) == 1);
}

TEST_CASE("smoothquant: bad input is refused by name") {
  const std::vector<float> w{1, 2, 3, std::nanf(""), 5, 6};
  const matrix_view<const float> weights[] = {{w.data(), 1, 3}};
  const matrix_view<const float> poisoned[] = {{w.data(), 2, 3}};
  const std::vector<float> x{1, 1, 1};
  const auto code = [](auto&& call) { return error_of(call).code(); };
  CHECK(code([&] { (void)subbyte::smooth_scale({}, x); }) == errc::bad_argument);
  CHECK(code([&] {
          (void)subbyte::smooth_scale(weights, std::vector<float>{1, 1});
        }) == errc::bad_shape);
  CHECK(code([&] {
          (void)subbyte::smooth_scale(weights, std::vector<float>{1, -1, 1});
        }) == errc::bad_argument);
  CHECK(code([&] {
          (void)subbyte::smooth_scale(weights, std::vector<float>{1, INFINITY, 1});
        }) == errc::non_finite);
  const float not_a_number = std::nanf("");
  for (const float alpha : {-0.1F, 1.1F, not_a_number}) {
    CHECK(code([&] { (void)subbyte::smooth_scale(weights, x, {.alpha = alpha}); }) ==
          errc::bad_argument);
  }
  const auto e = error_of([&] { (void)subbyte::smooth_scale(poisoned, x); });
  CHECK(e.code() == errc::non_finite);
  CHECK(std::string(e.what()).find("column 0") != std::string::npos);
  // Also above a row that is fine.
  const std::vector<float> first_row{1, INFINITY, 3, 4, 5, 6};
  const matrix_view<const float> above[] = {{first_row.data(), 2, 3}};
  CHECK(std::string(error_of([&] { (void)subbyte::smooth_scale(above, x); }).what())
            .find("column 1") != std::string::npos);
}
