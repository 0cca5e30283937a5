// SPDX-License-Identifier: Apache-2.0
#include "subbyte/calibrate/autoround.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "subbyte/quantize/rtn.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/layers.hpp"
#include "support/planes.hpp"

using namespace subbyte;

namespace {

// X^T X of 400 tokens whose channels fall off as 1 / (1 + channel / 8) and share a direction.
std::vector<double> hessian_of(index_t cols, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  const auto k = static_cast<std::size_t>(cols);
  std::vector<double> h(k * k);
  std::vector<double> x(k);
  for (int token = 0; token < 400; ++token) {
    const double shared = test_support::normal(generator);
    for (std::size_t j = 0; j < k; ++j) {
      x[j] = (test_support::normal(generator) + shared) / (1 + static_cast<double>(j) / 8);
    }
    for (std::size_t i = 0; i < k; ++i) {
      for (std::size_t j = 0; j < k; ++j) h[i * k + j] += x[i] * x[j];
    }
  }
  return h;
}

std::vector<double> row_objectives(const test_support::layer& layer, const std::vector<float>& back,
                                   const std::vector<double>& h) {
  std::vector<double> objectives;
  const auto k = static_cast<std::size_t>(layer.cols);
  std::vector<double> e(k);
  for (index_t r = 0; r < layer.rows; ++r) {
    const std::size_t at = static_cast<std::size_t>(r) * k;
    for (std::size_t j = 0; j < k; ++j) e[j] = double{back[at + j]} - double{layer.w[at + j]};
    double sum = 0;
    for (std::size_t i = 0; i < k; ++i) {
      for (std::size_t j = 0; j < k; ++j) sum += e[i] * h[i * k + j] * e[j];
    }
    objectives.push_back(sum);
  }
  return objectives;
}

double total(const std::vector<double>& values) {
  double sum = 0;
  for (const double v : values) sum += v;
  return sum;
}

// What the objective of a row may rise by: two objectives in float, each with products of k terms
// that are at most |e| H |e| together.
double float_slack(const test_support::layer& layer, const std::vector<float>& back,
                   const std::vector<double>& h, index_t r) {
  const auto k = static_cast<std::size_t>(layer.cols);
  double sum = 0;
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j < k; ++j) {
      const std::size_t at = static_cast<std::size_t>(r) * k;
      sum += std::fabs(double{back[at + i]} - double{layer.w[at + i]}) * std::fabs(h[i * k + j]) *
             std::fabs(double{back[at + j]} - double{layer.w[at + j]});
    }
  }
  return 2 * (static_cast<double>(k) + 3) * 0x1p-24 * sum;
}

}  // namespace

TEST_CASE("autoround: no row has a larger objective than rtn, and the layer has a smaller one") {
  for (const auto& layer : test_support::fixed_layers()) {
    INFO(layer.name);
    const auto h = hessian_of(layer.cols, 5);
    const matrix_view<const double> hessian(h.data(), layer.cols, layer.cols);
    const autoround policy{.hessian = hessian, .iterations = 100};
    const auto compare = [&](const auto& plain, const auto& learned, double ratio) {
      const auto before = test_support::weights_of(plain.matrix);
      const auto after = test_support::weights_of(learned.matrix);
      const auto start = row_objectives(layer, before, h);
      const auto end = row_objectives(layer, after, h);
      for (index_t r = 0; r < layer.rows; ++r) {
        const auto i = static_cast<std::size_t>(r);
        REQUIRE(end[i] <= start[i] + float_slack(layer, before, h, r));
      }
      INFO(total(end) / total(start));
      REQUIRE(total(end) < ratio * total(start));
    };
    const auto planes = [&]<class P>(std::type_identity<P>, double ratio) {
      compare(quantize<P>(layer.view(), {32}, rtn{}), quantize<P>(layer.view(), {32}, policy),
              ratio);
    };
    planes(std::type_identity<planar<int_grid<4>, half>>{}, 0.7);
    planes(std::type_identity<planar<int_grid<3, zero_points::none>, half>>{}, 0.7);
    planes(std::type_identity<planar<int_grid<2, zero_points::real>, half>>{}, 0.7);
    planes(std::type_identity<planar<codebook_grid<nf4>, half>>{}, 0.8);
    planes(std::type_identity<planar<codebook_grid<fp4_e2m1>, half>>{}, 0.8);
    for_each_type(type_list<q4_0, q4_1, iq4_nl, q4_k, q3_k, q2_k, mxfp4>{},
                  [&]<class F>(std::type_identity<F>) {
                    INFO(F::name);
                    compare(quantize<F>(layer.view(), rtn{}), quantize<F>(layer.view(), policy),
                            0.9);
                  });
  }
}

TEST_CASE("autoround: for two weights it finds the best of all codes") {
  // Two weights under a strongly correlated input: nearest codes err in the same direction.
  const float w[2] = {0.45F, 0.45F};
  const double h[4] = {1.0, 0.98, 0.98, 1.0};
  planar_matrix<int_grid<4>, f32_scale> target(1, 2, {2});
  autoround{.hessian = matrix_view<const double>(h, 2, 2), .tune_ranges = false}.apply(
      matrix_view<const float>(w, 1, 2), target, serial);
  const auto p = target.view().group_params(0, 0);
  double least = std::numeric_limits<double>::infinity();
  for (int a = 0; a < 16; ++a) {
    for (int b = 0; b < 16; ++b) {
      const double x = double{int_grid<4>::value(a, p)} - double{w[0]};
      const double y = double{int_grid<4>::value(b, p)} - double{w[1]};
      least = std::min(least, x * x + y * y + 2 * 0.98 * x * y);
    }
  }
  const auto back = test_support::weights_of(target);
  const double x = double{back[0]} - double{w[0]};
  const double y = double{back[1]} - double{w[1]};
  REQUIRE(x * x + y * y + 2 * 0.98 * x * y <= least + 1e-12);
}

TEST_CASE("autoround: without iterations, or with a Hessian that says nothing, it is rtn") {
  const auto layer = test_support::fixed_layers()[1];
  const auto h = hessian_of(layer.cols, 6);
  const std::vector<double> nothing(h.size(), 0.0);
  const auto same = [&]<class P>(std::type_identity<P>) {
    const auto plain = quantize<P>(layer.view(), {32}, rtn{});
    const autoround none{.hessian = matrix_view<const double>(h.data(), 200, 200), .iterations = 0};
    const autoround dead{.hessian = matrix_view<const double>(nothing.data(), 200, 200)};
    const auto still = quantize<P>(layer.view(), {32}, none);
    const auto blind = quantize<P>(layer.view(), {32}, dead);
    REQUIRE(test_support::codes_of(still.matrix) == test_support::codes_of(plain.matrix));
    REQUIRE(test_support::codes_of(blind.matrix) == test_support::codes_of(plain.matrix));
    REQUIRE(test_support::scales_of(blind.matrix) == test_support::scales_of(plain.matrix));
    REQUIRE(still.report.policy.dead_columns == 0);
    REQUIRE(blind.report.policy.dead_columns == 200);
  };
  same(std::type_identity<planar<int_grid<4>, half>>{});
  same(std::type_identity<planar<int_grid<3, zero_points::none>, f32_scale>>{});
  same(std::type_identity<planar<int_grid<4, zero_points::real>, half>>{});
  same(std::type_identity<planar<codebook_grid<nf4>, half>>{});
}

TEST_CASE("autoround: the codes do not depend on the executor or the factor of the Hessian") {
  // 150 rows: three panels, the last one short.
  const auto w = test_support::normal_vector(150 * 72, 0.05, 8);
  const matrix_view<const float> view(w.data(), 150, 72);
  const auto h = hessian_of(72, 9);
  auto larger = h;
  for (double& v : larger) v *= 1024;
  const autoround policy{.hessian = matrix_view<const double>(h.data(), 72, 72), .iterations = 20};
  using format = planar<int_grid<4>, half>;
  const auto serially = quantize<format>(view, {24}, policy);
  thread_pool pool(3);
  const auto pooled = quantize<format>(view, {24}, policy, pool);
  REQUIRE(test_support::codes_of(serially.matrix) == test_support::codes_of(pooled.matrix));
  REQUIRE(test_support::scales_of(serially.matrix) == test_support::scales_of(pooled.matrix));
  const autoround scaled{.hessian = matrix_view<const double>(larger.data(), 72, 72),
                         .iterations = 20};
  const auto of_larger = quantize<format>(view, {24}, scaled);
  REQUIRE(test_support::codes_of(serially.matrix) == test_support::codes_of(of_larger.matrix));
}

TEST_CASE("autoround: a column order permutes the Hessian with the weights") {
  const auto w = test_support::normal_vector(6 * 48, 0.05, 10);
  const auto h = hessian_of(48, 11);
  std::vector<float> turned(w.size());
  std::vector<double> turned_h(h.size());
  std::vector<std::int32_t> order(48);
  for (std::size_t j = 0; j < 48; ++j) {
    order[j] = static_cast<std::int32_t>(j * 5 % 48);
    for (std::size_t r = 0; r < 6; ++r) turned[r * 48 + j] = w[r * 48 + j * 5 % 48];
    for (std::size_t i = 0; i < 48; ++i) turned_h[i * 48 + j] = h[i * 5 % 48 * 48 + j * 5 % 48];
  }
  planar_matrix<int_grid<4>, half> ordered(6, 48, {16});
  ordered.set_column_order(order);
  autoround{.hessian = matrix_view<const double>(h.data(), 48, 48), .iterations = 30}.apply(
      matrix_view<const float>(w.data(), 6, 48), ordered, serial);
  planar_matrix<int_grid<4>, half> plain(6, 48, {16});
  autoround{.hessian = matrix_view<const double>(turned_h.data(), 48, 48), .iterations = 30}.apply(
      matrix_view<const float>(turned.data(), 6, 48), plain, serial);
  REQUIRE(test_support::codes_of(ordered) == test_support::codes_of(plain));
}

TEST_CASE("autoround: corner cases stay finite, zero rows zero") {
  auto corners = test_support::corner_rows();
  const auto h = hessian_of(64, 12);
  const matrix_view<const double> hessian(h.data(), 64, 64);
  const auto check = [&]<class P>(std::type_identity<P>, index_t group) {
    const auto q =
        quantize<P>(corners.view(), {group}, autoround{.hessian = hessian, .iterations = 10});
    const auto back = test_support::weights_of(q.matrix);
    for (std::size_t i = 0; i < back.size(); ++i) {
      INFO("row " << i / 64);
      REQUIRE(std::isfinite(back[i]));
      if (i < 128) REQUIRE(back[i] == 0);
    }
  };
  check(std::type_identity<planar<int_grid<4>, half>>{}, 16);
  check(std::type_identity<planar<int_grid<2, zero_points::none>, f32_scale>>{}, 64);
  check(std::type_identity<planar<int_grid<4, zero_points::real>, half>>{}, 24);
  check(std::type_identity<planar<codebook_grid<nf4>, half>>{}, 16);
  corners.w[3] = std::numeric_limits<float>::quiet_NaN();
  const auto q = quantize<planar<int_grid<4>, half>>(
      corners.view(), {16}, autoround{.hessian = hessian, .on_non_finite = non_finite::zero});
  REQUIRE(test_support::weights_of(q.matrix)[3] == 0);
  const float one = 0.3F;
  const double unit = 2.0;
  planar_matrix<int_grid<4>, half> single(1, 1, {8});
  autoround{.hessian = matrix_view<const double>(&unit, 1, 1)}.apply(
      matrix_view<const float>(&one, 1, 1), single, serial);
  REQUIRE(std::fabs(test_support::weights_of(single)[0] - one) < 0.3F * 0x1p-11F);
}

#if defined(__cpp_exceptions)
TEST_CASE("autoround: cancelled, it leaves the target as it was") {
  const auto w = test_support::normal_vector(150 * 64, 0.05, 13);
  const matrix_view<const float> view(w.data(), 150, 64);
  const auto h = hessian_of(64, 14);
  auto target = quantize<planar<int_grid<4>, half>>(view, {32}, rtn{}).matrix;
  const auto before = test_support::codes_of(target);
  int calls = 0;
  const auto stop = [&](double) { return ++calls < 2; };
  const auto error = test_support::error_of([&] {
    autoround{
        .hessian = matrix_view<const double>(h.data(), 64, 64), .iterations = 5, .progress = stop}
        .apply(view, target, serial);
  });
  REQUIRE(error.code() == errc::cancelled);
  REQUIRE(calls == 2);
  REQUIRE(test_support::codes_of(target) == before);
}

TEST_CASE("autoround: bad options and Hessians are errors") {
  const auto layer = test_support::corner_rows();
  auto h = hessian_of(64, 15);
  const auto code_of = [&](const autoround& policy) {
    return test_support::error_of(
               [&] { (void)quantize<planar<int_grid<4>, half>>(layer.view(), {32}, policy); })
        .code();
  };
  REQUIRE(code_of({}) == errc::bad_shape);
  REQUIRE(code_of({.hessian = matrix_view<const double>(h.data(), 63, 64)}) == errc::bad_shape);
  const matrix_view<const double> hessian(h.data(), 64, 64);
  REQUIRE(code_of({.hessian = hessian, .iterations = -1}) == errc::bad_argument);
  REQUIRE(code_of({.hessian = hessian, .rate = 1.5F}) == errc::bad_argument);
  h[64 * 3 + 9] = std::numeric_limits<double>::infinity();
  REQUIRE(code_of({.hessian = hessian}) == errc::non_finite);
}
#endif
