// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/hqq.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "subbyte/quantize/rtn.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/golden_python.hpp"
#include "support/layers.hpp"
#include "support/planes.hpp"

using namespace subbyte;

namespace {

template <int Bits>
void require_package(const std::string& leaf, index_t rows, index_t cols, int iterations) {
  const auto file = test_support::golden_file("hqq/" + leaf + ".safetensors");
  const auto input = test_support::golden_values<float>(file, "input");
  planar_matrix<int_grid<Bits, zero_points::real>, f32_scale> target(rows, cols, {64});
  hqq{.iterations = iterations}.apply(matrix_view<const float>(input.data(), rows, cols), target,
                                      serial);
  INFO(leaf);
  REQUIRE(test_support::scales_of(target) == test_support::golden_values<float>(file, "scale"));
  REQUIRE(test_support::codes_of(target) ==
          test_support::golden_values<std::uint8_t>(file, "codes"));
  // A mean of 64 numbers whose sum torch takes in another order, in fp32: 64 half units in the last
  // place of at most 2^Bits + 64 of them.
  const auto zeros = test_support::golden_values<float>(file, "zero");
  const auto view = target.view();
  for (std::size_t i = 0; i < zeros.size(); ++i) {
    const float ours = view.zeros()[i].to_float();
    INFO("zero " << i << ": " << ours << " and " << zeros[i]);
    REQUIRE(std::fabs(double{ours} - double{zeros[i]}) <=
            64 * 0x1p-24 * std::max(1.0, std::fabs(double{zeros[i]})));
  }
}

}  // namespace

TEST_CASE("hqq: real zero points are those of the hqq package") {
  require_package<1>("hqq_b1_g64_axis1_32x64", 32, 64, 20);
  require_package<2>("hqq_b2_g64_axis1_32x128", 32, 128, 20);
  require_package<3>("hqq_b3_g64_axis1_32x128", 32, 128, 20);
  require_package<4>("hqq_b4_g64_axis1_32x128", 32, 128, 20);
  require_package<8>("hqq_b8_g64_axis1_32x128", 32, 128, 20);
  require_package<4>("hqq_b4_g64_axis1_noopt_32x128", 32, 128, 0);
}

namespace {

double power_sum(const test_support::layer& layer, const std::vector<float>& back, double p) {
  double sum = 0;
  for (std::size_t i = 0; i < back.size(); ++i) {
    sum += std::pow(std::fabs(double{back[i]} - double{layer.w[i]}), p);
  }
  return sum;
}

}  // namespace

TEST_CASE("hqq: the sum of |error|^p falls below that of rtn on every target") {
  for (const auto& layer : test_support::fixed_layers()) {
    INFO(layer.name);
    const auto compare = [&](const auto& plain, const auto& found, bool strictly) {
      const double before = power_sum(layer, test_support::weights_of(plain.matrix), 0.7);
      const double after = power_sum(layer, test_support::weights_of(found.matrix), 0.7);
      REQUIRE(after <= before * (1 + 1e-6));  // the policy's powers are in float
      if (strictly) REQUIRE(after < 0.999 * before);
    };
    const auto planes = [&]<class P>(std::type_identity<P>) {
      compare(quantize<P>(layer.view(), {64}, rtn{}), quantize<P>(layer.view(), {64}, hqq{}), true);
    };
    planes(std::type_identity<planar<int_grid<3, zero_points::real>, half>>{});
    planes(std::type_identity<planar<int_grid<3>, half>>{});
    planes(std::type_identity<planar<int_grid<3, zero_points::none>, half>>{});
    planes(std::type_identity<planar<codebook_grid<nf4>, half>>{});
    for_each_type(
        type_list<q4_0, q4_1, iq4_nl, q4_k, mxfp4>{}, [&]<class F>(std::type_identity<F>) {
          INFO(F::name);
          compare(quantize<F>(layer.view(), rtn{}), quantize<F>(layer.view(), hqq{}), false);
        });
  }
}

TEST_CASE("hqq: stopping per group is never worse in mean |error| than its own start") {
  using format = planar<int_grid<3, zero_points::real>, f32_scale>;
  for (const auto& layer : test_support::fixed_layers()) {
    INFO(layer.name);
    const auto start = quantize<format>(layer.view(), {64}, hqq{.iterations = 0});
    const auto found = quantize<format>(layer.view(), {64}, hqq{.stop = hqq_stop::group});
    const auto before = test_support::weights_of(start.matrix);
    const auto after = test_support::weights_of(found.matrix);
    for (std::size_t group = 0; group < 12 * 4; ++group) {
      const std::size_t from = group / 4 * 200 + group % 4 * 64;
      const std::size_t to = from + (group % 4 == 3 ? 8 : 64);
      double sum_before = 0;
      double sum_after = 0;
      for (std::size_t i = from; i < to; ++i) {
        sum_before += std::fabs(double{before[i]} - double{layer.w[i]});
        sum_after += std::fabs(double{after[i]} - double{layer.w[i]});
      }
      // scale * (code - zero) against (code - zero) / inverse: two roundings per weight.
      REQUIRE(sum_after <= sum_before * (1 + 1e-5));
    }
    REQUIRE(found.report.error.mae < start.report.error.mae);
  }
}

TEST_CASE("hqq: corner cases stay finite, zeros stay zero") {
  const auto corners = test_support::corner_rows();
  const auto check = [&]<class P>(std::type_identity<P>, const hqq& policy) {
    const auto q = quantize<P>(corners.view(), {16}, policy);
    const auto back = test_support::weights_of(q.matrix);
    for (std::size_t i = 0; i < back.size(); ++i) {
      INFO("row " << i / 64);
      REQUIRE(std::isfinite(back[i]));
      if (i < 128) REQUIRE(back[i] == 0);
    }
  };
  using real = int_grid<4, zero_points::real>;
  check(std::type_identity<planar<real, f32_scale>>{}, {});
  check(std::type_identity<planar<real, half>>{}, {.p = 1.0F});
  check(std::type_identity<planar<real, half>>{}, {.stop = hqq_stop::group});
  check(std::type_identity<planar<int_grid<4>, half>>{}, {});
  check(std::type_identity<planar<int_grid<2, zero_points::none>, f32_scale>>{}, {.p = 0.5F});
  check(std::type_identity<planar<codebook_grid<nf4>, half>>{}, {});
}

TEST_CASE("hqq: the bytes do not depend on the executor") {
  const auto w = test_support::normal_vector(100 * 128, 0.1, 32);
  const matrix_view<const float> view(w.data(), 100, 128);
  thread_pool pool(3);
  const auto same = [&]<class P>(std::type_identity<P>) {
    const auto serially = quantize<P>(view, {64}, hqq{});
    const auto pooled = quantize<P>(view, {64}, hqq{}, pool);
    REQUIRE(test_support::codes_of(serially.matrix) == test_support::codes_of(pooled.matrix));
    REQUIRE(test_support::scales_of(serially.matrix) == test_support::scales_of(pooled.matrix));
  };
  same(std::type_identity<planar<int_grid<4, zero_points::real>, half>>{});
  same(std::type_identity<planar<int_grid<4>, half>>{});
}

TEST_CASE("hqq: NaN and Inf can be taken as zero") {
  auto layer = test_support::fixed_layers()[0];
  auto zeros = layer;
  layer.w[7] = std::numeric_limits<float>::quiet_NaN();
  zeros.w[7] = 0;
  using format = planar<int_grid<4, zero_points::real>, half>;
  const auto taken = quantize<format>(layer.view(), {32}, hqq{.on_non_finite = non_finite::zero});
  const auto expected = quantize<format>(zeros.view(), {32}, hqq{});
  REQUIRE(test_support::codes_of(taken.matrix) == test_support::codes_of(expected.matrix));
}

#if defined(__cpp_exceptions)
TEST_CASE("hqq: options outside their range are errors") {
  const auto layer = test_support::fixed_layers()[0];
  for (const hqq& policy : {hqq{.iterations = -1}, hqq{.p = 0}, hqq{.p = 1.5F}, hqq{.beta = 0},
                            hqq{.beta = std::numeric_limits<float>::infinity()}}) {
    REQUIRE(test_support::error_of([&] {
              (void)quantize<planar<int_grid<4>, half>>(layer.view(), {32}, policy);
            }).code() == errc::bad_argument);
  }
}
#endif
