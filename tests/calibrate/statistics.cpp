// SPDX-License-Identifier: Apache-2.0
/// Statistics of layer inputs against plain loops in double: sums, X^T X, the sample, mergers, and
/// everything that is refused.
#include "subbyte/calibrate/statistics.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>  // std::memcmp
#include <limits>
#include <set>

#include "subbyte/exec/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

using subbyte::errc;
using subbyte::index_t;
using subbyte::input_statistics;
using subbyte::matrix_view;
using subbyte::statistics_collector;
using subbyte::statistics_options;
using subbyte::statistics_parts;
using subbyte::tensor;
using test_support::error_of;

namespace {

/// X [tokens, k] with channels of unequal size.
struct activations {
  index_t tokens, cols;
  std::vector<float> x;

  activations(index_t t, index_t k, std::uint64_t seed)
      : tokens(t),
        cols(k),
        x(test_support::normal_vector(static_cast<std::size_t>(t * k), 1, seed)) {
    for (index_t i = 0; i < t; ++i) {
      for (index_t j = 0; j < k; ++j) at(i, j) *= j % 7 == 3 ? 20.0F : 1.0F / float(1 + j % 5);
    }
  }
  float& at(index_t t, index_t j) { return x[static_cast<std::size_t>(t * cols + j)]; }
  [[nodiscard]] float at(index_t t, index_t j) const {
    return x[static_cast<std::size_t>(t * cols + j)];
  }
  [[nodiscard]] matrix_view<const float> rows(index_t first, index_t count) const {
    return {x.data() + first * cols, count, cols};
  }
};

input_statistics collect(const activations& a, const statistics_options& options = {},
                         const std::vector<index_t>& batches = {},
                         subbyte::executor_ref executor = subbyte::serial) {
  statistics_collector collector(a.cols, options);
  index_t done = 0;
  for (const index_t n : batches) {
    collector.add(a.rows(done, n), executor);
    done += n;
  }
  collector.add(a.rows(done, a.tokens - done), executor);
  CHECK(collector.tokens() == a.tokens);
  return std::move(collector).finish(executor);
}

template <class View>
bool same_bits(const View& a, const View& b) {
  return a.size() == b.size() &&
         (a.size() == 0 ||
          std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(*a.data())) ==
              0);
}

bool same_statistics(const input_statistics& a, const input_statistics& b) {
  const statistics_parts& p = a.parts();
  const statistics_parts& q = b.parts();
  return p.tokens == q.tokens && same_bits(p.sum_magnitude, q.sum_magnitude) &&
         same_bits(p.sum_square, q.sum_square) && same_bits(p.max_magnitude, q.max_magnitude) &&
         same_bits(p.hessian, q.hessian) && same_bits(p.sample, q.sample) &&
         same_bits(p.order, q.order);
}

// sum x_i x_j and sum |x_i x_j| over tokens.
struct product {
  double sum = 0, magnitude = 0;
};
product multiply(const activations& a, index_t i, index_t j) {
  product p;
  for (index_t t = 0; t < a.tokens; ++t) {
    const double term = static_cast<double>(a.at(t, i)) * static_cast<double>(a.at(t, j));
    p.sum += term;
    p.magnitude += std::fabs(term);
  }
  return p;
}

// The stated bound, and what the oracle's own sums in double may be off by.
double hessian_bound(const activations& a, double magnitude) {
  return (256 * 0x1p-24 + static_cast<double>(a.tokens) * 0x1p-52) * magnitude;
}

}  // namespace

TEST_CASE("statistics: small integers give exact sums") {
  activations a(3, 2, 1);
  const float values[] = {1, -2, 3, 0, -5, 4};
  a.x.assign(std::begin(values), std::end(values));
  statistics_options options;
  options.sample_rows = 8;
  const input_statistics s = collect(a, options);
  CHECK(s.cols() == 2);
  CHECK(s.tokens() == 3);
  CHECK(s.coverage() == 1.5);
  CHECK(s.dead_channels() == 0);
  CHECK(s.mean_magnitude()(0) == 3.0F);
  CHECK(s.mean_magnitude()(1) == 2.0F);
  CHECK(s.importance()(0) == static_cast<float>(35.0 / 3));
  CHECK(s.importance()(1) == static_cast<float>(20.0 / 3));
  CHECK(s.max_magnitude()[0] == 5.0F);
  CHECK(s.max_magnitude()[1] == 4.0F);
  CHECK(s.hessian()(0, 0) == 35.0);
  CHECK(s.hessian()(1, 1) == 20.0);
  CHECK(s.hessian()(0, 1) == -22.0);
  CHECK(s.hessian()(1, 0) == -22.0);
  // All rows fit: they are there, each once.
  REQUIRE(s.sample().extent(0) == 3);
  std::set<float> firsts;
  for (index_t r = 0; r < 3; ++r) firsts.insert(s.sample()(r, 0));
  CHECK(firsts == std::set<float>{1, 3, -5});
}

TEST_CASE("statistics: sums of every width are those of plain loops, X^T X within its bound") {
  // Strips of 32, tiles of 128 and 256, floats summed over 256 tokens, rows kept back to 1024.
  for (const index_t cols : {1, 31, 33, 127, 130, 257, 515}) {
    const activations a(cols < 200 ? 1500 : 300, cols, static_cast<std::uint64_t>(cols));
    CAPTURE(cols);
    const input_statistics s = collect(a);
    const subbyte::tensor<float, 1> magnitude = s.mean_magnitude();
    const subbyte::tensor<float, 1> importance = s.importance();
    for (index_t j = 0; j < cols; ++j) {
      double sum = 0, square = 0;
      float largest = 0;
      for (index_t t = 0; t < a.tokens; ++t) {
        const float x = std::fabs(a.at(t, j));
        sum += static_cast<double>(x);
        square += static_cast<double>(x) * static_cast<double>(x);
        largest = std::max(largest, x);
      }
      REQUIRE(magnitude(j) == static_cast<float>(sum / static_cast<double>(a.tokens)));
      REQUIRE(importance(j) == static_cast<float>(square / static_cast<double>(a.tokens)));
      REQUIRE(s.max_magnitude()[j] == largest);
    }
    const index_t step = cols < 200 ? 1 : 37;
    for (index_t i = 0; i < cols; i += step) {
      for (index_t j = 0; j < cols; j += step) {
        const product expected = multiply(a, i, j);
        REQUIRE(std::fabs(s.hessian()(i, j) - expected.sum) <=
                hessian_bound(a, expected.magnitude));
        REQUIRE(s.hessian()(i, j) == s.hessian()(j, i));
      }
    }
  }
}

TEST_CASE("statistics: the same bits however the tokens are batched and on any executor") {
  const activations a(2300, 150, 7);
  statistics_options options;
  options.sample_rows = 40;
  const input_statistics whole = collect(a, options);
  CHECK(same_statistics(whole, collect(a, options, {1, 2, 3, 1000, 1024})));
  CHECK(same_statistics(whole, collect(a, options, std::vector<index_t>(23, 100))));
  CHECK(same_statistics(whole, collect(a, options, {0, 1023, 0, 1, 1276, 0})));
  for (const int threads : {1, 2, 3}) {
    subbyte::thread_pool pool(threads);
    CAPTURE(threads);
    CHECK(same_statistics(whole, collect(a, options, {255, 255}, pool)));
  }
}

TEST_CASE("statistics: rows with a pitch are read as rows") {
  const activations a(50, 12, 3);
  activations narrow(50, 5, 3);
  for (index_t t = 0; t < 50; ++t) {
    for (index_t j = 0; j < 5; ++j) narrow.at(t, j) = a.at(t, j + 4);
  }
  statistics_collector collector(5);
  collector.add(
      subbyte::tensor_view<const float, 2, subbyte::row_pitched>(a.x.data() + 4, {50, 5}, {12}));
  CHECK(same_statistics(std::move(collector).finish(), collect(narrow)));
}

TEST_CASE("statistics: merged parts are the whole, in any order within rounding") {
  const activations a(1800, 70, 11);
  statistics_options options;
  options.sample_rows = 25;
  const input_statistics whole = collect(a, options);
  const auto part = [&](index_t first, index_t count) {
    statistics_options here = options;
    here.first_token = first;
    statistics_collector collector(a.cols, here);
    collector.add(a.rows(first, count));
    return std::move(collector).finish();
  };
  for (const bool reversed : {false, true}) {
    std::vector<std::pair<index_t, index_t>> ranges = {{0, 10}, {10, 1000}, {1010, 790}};
    if (reversed) std::reverse(ranges.begin(), ranges.end());
    input_statistics merged = part(ranges[0].first, ranges[0].second);
    for (std::size_t i = 1; i < ranges.size(); ++i) {
      merged.merge(part(ranges[i].first, ranges[i].second));
    }
    CHECK(merged.tokens() == 1800);
    // Up to 1800 additions in double on either side.
    constexpr double rounding = 2 * 1800 * 0x1p-53;
    for (index_t j = 0; j < a.cols; ++j) {
      const statistics_parts& m = merged.parts();
      const statistics_parts& w = whole.parts();
      CHECK(std::fabs(m.sum_magnitude(j) - w.sum_magnitude(j)) <= rounding * w.sum_magnitude(j));
      CHECK(std::fabs(m.sum_square(j) - w.sum_square(j)) <= rounding * w.sum_square(j));
      CHECK(m.max_magnitude(j) == w.max_magnitude(j));
      for (index_t i = 0; i < a.cols; ++i) {
        const product p = multiply(a, i, j);
        REQUIRE(std::fabs(merged.hessian()(i, j) - p.sum) <= hessian_bound(a, p.magnitude));
      }
    }
    // The sample is exactly the whole's.
    CHECK(same_bits(merged.sample(), whole.sample()));
    CHECK(same_bits(merged.parts().order, whole.parts().order));
  }
}

TEST_CASE("statistics: the sample is bounded, of rows that were seen, each once, and uniform") {
  constexpr index_t tokens = 4000, rows = 400;
  activations a(tokens, 2, 5);
  for (index_t t = 0; t < tokens; ++t) a.at(t, 0) = static_cast<float>(t);
  statistics_options options;
  options.hessian = false;
  options.sample_rows = rows;
  const input_statistics s = collect(a, options);
  CHECK_FALSE(s.has_hessian());
  REQUIRE(s.sample().extent(0) == rows);
  std::set<float> seen;
  int quarter[4] = {};
  for (index_t r = 0; r < rows; ++r) {
    const auto t = static_cast<index_t>(s.sample()(r, 0));
    CHECK(s.sample()(r, 1) == a.at(t, 1));
    seen.insert(s.sample()(r, 0));
    ++quarter[t / 1000];
  }
  CHECK(seen.size() == rows);
  // A quarter holds 100 on average with a deviation of 8.2; five of those.
  for (const int n : quarter) CHECK((n > 59 && n < 141));

  // A larger sample begins with the smaller one.
  options.sample_rows = 2 * rows;
  const input_statistics larger = collect(a, options);
  CHECK(std::memcmp(larger.sample().data(), s.sample().data(),
                    static_cast<std::size_t>(s.sample().size()) * sizeof(float)) == 0);
}

TEST_CASE("statistics: starvation can be asked for, and no mean is made up") {
  statistics_collector collector(6);
  const input_statistics none = std::move(collector).finish();
  CHECK(none.tokens() == 0);
  CHECK(none.coverage() == 0);
  CHECK(none.dead_channels() == 6);
  CHECK(none.hessian()(5, 5) == 0);
  CHECK(error_of([&] { (void)none.importance(); }).code() == errc::bad_argument);
  CHECK(error_of([&] { (void)none.mean_magnitude(); }).code() == errc::bad_argument);
  CHECK(input_statistics().coverage() == 0);

  activations few(2, 6, 1);
  few.at(0, 4) = few.at(1, 4) = 0;
  const input_statistics s = collect(few);
  CHECK(s.coverage() == 2.0 / 6);
  CHECK(s.dead_channels() == 1);
  CHECK(s.importance()(4) == 0);
}

TEST_CASE("statistics: NaN, Inf and values without a finite square are refused whole") {
  constexpr float inf = std::numeric_limits<float>::infinity();
  for (const float bad : {std::numeric_limits<float>::quiet_NaN(), inf, -inf, 0x1.000002p58F,
                          -0x1.000002p58F, std::numeric_limits<float>::max()}) {
    CAPTURE(bad);
    activations a(40, 70, 2);
    statistics_collector collector(70);
    collector.add(a.rows(0, 20));
    const float before = a.at(33, 65);
    a.at(33, 65) = bad;
    const subbyte::error problem = error_of([&] { collector.add(a.rows(20, 20)); });
    CHECK(problem.code() == errc::non_finite);
    CHECK(std::string(problem.what()).find("token 13 of the batch, channel 65") !=
          std::string::npos);
    // Nothing of that batch was added.
    a.at(33, 65) = before;
    collector.add(a.rows(20, 20));
    CHECK(same_statistics(std::move(collector).finish(), collect(a)));
  }
  // The largest that is accepted, in every token that waits: the sum of squares is finite.
  activations a(1024, 2, 2);
  std::fill(a.x.begin(), a.x.end(), 0x1p58F);
  CHECK(collect(a).hessian()(1, 0) == 0x1p126);
}

TEST_CASE("statistics: shapes, options and bounds that do not fit are refused") {
  statistics_collector collector(8);
  const activations a(4, 7, 1);
  CHECK(error_of([&] { collector.add(a.rows(0, 4)); }).code() == errc::bad_shape);
  CHECK(error_of([&] { statistics_collector(-1); }).code() == errc::bad_argument);
  statistics_options options;
  options.sample_rows = -1;
  CHECK(error_of([&] { statistics_collector(8, options); }).code() == errc::bad_argument);
  options = {};
  options.first_token = -1;
  CHECK(error_of([&] { statistics_collector(8, options); }).code() == errc::bad_argument);
  options = {};
  options.memory_bytes = -1;
  CHECK(error_of([&] { statistics_collector(8, options); }).code() == errc::bad_argument);

  options = {};
  const index_t needed = statistics_collector::required_bytes(300, options);
  CHECK(needed == 300 * 300 * 8 + 1024 * 300 * 4 + 300 * 20);
  options.memory_bytes = needed;
  CHECK_NOTHROW(statistics_collector(300, options));
  options.memory_bytes = needed - 1;
  CHECK(error_of([&] { statistics_collector(300, options); }).code() == errc::out_of_memory);
  options.hessian = false;
  options.sample_rows = 10;
  CHECK(statistics_collector::required_bytes(300, options) == 300 * 20 + 10 * 1208);

  input_statistics eight = collect(activations(3, 8, 1));
  CHECK(error_of([&] { eight.merge(collect(a)); }).code() == errc::bad_shape);
  options.memory_bytes = 0;
  CHECK(error_of([&] { eight.merge(collect(activations(3, 8, 1), options)); }).code() ==
        errc::bad_argument);
}

TEST_CASE("statistics: parts from elsewhere are checked") {
  const auto make = [] {
    statistics_options options;
    options.sample_rows = 3;
    statistics_parts parts;
    const input_statistics s = collect(activations(5, 4, 9), options);
    parts.tokens = s.parts().tokens;
    parts.sum_magnitude = s.parts().sum_magnitude.clone();
    parts.sum_square = s.parts().sum_square.clone();
    parts.max_magnitude = s.parts().max_magnitude.clone();
    parts.hessian = s.parts().hessian.clone();
    parts.sample = s.parts().sample.clone();
    parts.order = s.parts().order.clone();
    return parts;
  };
  CHECK(same_statistics(input_statistics(make()), [] {
    statistics_options options;
    options.sample_rows = 3;
    return collect(activations(5, 4, 9), options);
  }()));
  const auto code_of = [&](auto&& damage) {
    statistics_parts parts = make();
    damage(parts);
    return error_of([&] { input_statistics(std::move(parts)); }).code();
  };
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(code_of([](auto& p) { p.tokens = -1; }) == errc::bad_argument);
  CHECK(code_of([](auto& p) { p.tokens = 2; }) == errc::bad_argument);  // fewer than in the sample
  CHECK(code_of([](auto& p) { p.sum_magnitude = tensor<double, 1>(3); }) == errc::bad_shape);
  CHECK(code_of([](auto& p) { p.max_magnitude = tensor<float, 1>(3); }) == errc::bad_shape);
  CHECK(code_of([](auto& p) { p.hessian = tensor<double, 2>(4, 3); }) == errc::bad_shape);
  CHECK(code_of([](auto& p) { p.hessian = tensor<double, 2>(3, 4); }) == errc::bad_shape);
  CHECK(code_of([](auto& p) { p.sample = tensor<float, 2>(3, 5); }) == errc::bad_shape);
  CHECK(code_of([](auto& p) { p.order = tensor<std::uint64_t, 1>(2); }) == errc::bad_shape);
  CHECK(code_of([](auto& p) { p.sum_magnitude(1) = -1; }) == errc::bad_argument);
  CHECK(code_of([](auto& p) { p.sum_square(1) = -1; }) == errc::bad_argument);
  CHECK(code_of([](auto& p) { p.max_magnitude(1) = -1; }) == errc::bad_argument);
  CHECK(code_of([](auto& p) { p.hessian(2, 2) = -1; }) == errc::bad_argument);
  CHECK(code_of([](auto& p) { p.hessian(2, 1) += 1; }) == errc::bad_shape);
  CHECK(code_of([](auto& p) { p.order(2) = 0; }) == errc::bad_argument);
  CHECK(code_of([&](auto& p) { p.sum_magnitude(0) = nan; }) == errc::non_finite);
  CHECK(code_of([&](auto& p) { p.sum_square(0) = nan; }) == errc::non_finite);
  CHECK(code_of([&](auto& p) { p.max_magnitude(0) = float(nan); }) == errc::non_finite);
  CHECK(code_of([&](auto& p) { p.hessian(1, 2) = p.hessian(2, 1) = nan; }) == errc::non_finite);
  CHECK(code_of([&](auto& p) { p.sample(1, 2) = float(nan); }) == errc::non_finite);
}
