// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/range_search.hpp"

#include <cmath>
#include <string>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/num/ue4m3.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "subbyte/quantize/rtn.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/golden_python.hpp"
#include "support/layers.hpp"
#include "support/planes.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

template <class G>
void require_gptqmodel(const std::string& leaf, index_t group_size, float norm) {
  const auto file = test_support::golden_file("gptqmodel/" + leaf + ".safetensors");
  const auto input = test_support::golden_values<float>(file, "input");
  const index_t rows = file.tensor("input").rows();
  const index_t cols = file.tensor("input").cols();
  planar_matrix<G, f32_scale> target(rows, cols, {group_size});
  range_search{.method = range_method::shrink, .norm = norm, .rule = grid_rule::gptq}.apply(
      matrix_view<const float>(input.data(), rows, cols), target, serial);
  INFO(leaf);
  REQUIRE(test_support::scales_of(target) == test_support::golden_values<float>(file, "scale"));
  REQUIRE(test_support::zeros_of(target) ==
          test_support::golden_values<std::int32_t>(file, "zero"));
  REQUIRE(test_support::codes_of(target) ==
          test_support::golden_values<std::uint8_t>(file, "codes"));
}

}  // namespace

TEST_CASE("range_search: shrink gives gptqmodel's scales, zero points and codes") {
  require_gptqmodel<int_grid<2>>("rtn_b2_asym_g64_32x128_mse2.4", 64, 2.4F);
  require_gptqmodel<int_grid<3>>("rtn_b3_asym_g32_32x128_mse2", 32, 2.0F);
  require_gptqmodel<int_grid<4, zero_points::none>>("rtn_b4_sym_g32_32x128_mse2.4", 32, 2.4F);
}

namespace {

constexpr double epsilon = 0x1p-24;  // half a unit in the last place of a float, relative

// What a scale in float and products in float can add to a squared error: with x_hat' within
// 2 epsilon of x_hat, |sum v ((x - x_hat')^2 - (x - x_hat)^2)| is at most this, by Cauchy-Schwarz.
double rounding_of(double error, double estimate_energy) {
  const double moved = 2 * epsilon * std::sqrt(estimate_energy);
  return 2 * std::sqrt(error) * moved + moved * moved;
}

struct minimum {
  double error;
  double tolerance;
};

// Over every choice of levels, each with its best scale of an allowed sign.
minimum least_error_of_all_choices(const std::vector<float>& x, const std::vector<float>& v,
                                   const std::vector<double>& levels, bool negative) {
  double energy = 0;
  for (std::size_t i = 0; i < x.size(); ++i) energy += v[i] * double{x[i]} * double{x[i]};
  double gain = 0;
  std::vector<std::size_t> choice(x.size(), 0);
  for (;;) {
    double xl = 0;
    double ll = 0;
    for (std::size_t i = 0; i < x.size(); ++i) {
      xl += double{v[i]} * double{x[i]} * levels[choice[i]];
      ll += double{v[i]} * levels[choice[i]] * levels[choice[i]];
    }
    if (ll > 0 && (xl > 0 || negative) && xl * xl / ll > gain) gain = xl * xl / ll;
    std::size_t at = 0;
    while (at < x.size() && ++choice[at] == levels.size()) choice[at++] = 0;
    if (at == x.size()) break;
  }
  return {energy - gain, rounding_of(energy - gain, energy) + 1e-14 * energy};
}

template <class Target>
double weighted_error(const Target& target, const std::vector<float>& x,
                      const std::vector<float>& v) {
  const auto back = test_support::weights_of(target);
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double d = double{x[i]} - double{back[i]};
    sum += double{v[i % v.size()]} * d * d;
  }
  return sum;
}

// A few weights of one kind: 0 any sign, 1 positive, 2 with repetitions and zeros.
std::vector<float> few_weights(std::mt19937_64& generator, std::size_t count, int kind) {
  std::vector<float> x(count);
  for (float& w : x) {
    const double draw = test_support::normal(generator);
    w = static_cast<float>(kind == 1 ? std::fabs(draw) : draw);
    if (kind == 2) w = std::round(2 * w) / 2;
  }
  return x;
}

template <class G>
void require_minimum(std::size_t count, int trials) {
  std::mt19937_64 generator(7 + static_cast<std::uint64_t>(G::bits));
  for (int trial = 0; trial < trials; ++trial) {
    const auto x = few_weights(generator, count, trial % 3);
    std::vector<float> v(count, 1.0F);
    if (trial % 2 == 1) {
      for (float& weight : v) weight = static_cast<float>(test_support::uniform(generator));
    }
    const bool negative = trial % 4 < 2;
    const auto n = static_cast<index_t>(count);
    planar_matrix<G, f32_scale> target(1, n, {n});
    range_search{.importance = v, .negative_scales = negative}.apply(
        matrix_view<const float>(x.data(), 1, n), target, serial);
    minimum least{std::numeric_limits<double>::infinity(), 0};
    const int zeros = G::zeros == zero_points::integer ? G::last_code + 1 : 1;
    for (int z = 0; z < zeros; ++z) {
      std::vector<double> levels;
      for (int code = 0; code <= G::last_code; ++code) {
        if constexpr (detail::is_int_grid<G>) {
          levels.push_back(code - (zeros > 1 ? z : G::middle_code));
        } else {
          levels.push_back(double{G::value(code, {1.0F})});
        }
      }
      const minimum found =
          least_error_of_all_choices(x, v, levels, negative && G::zeros == zero_points::none);
      if (found.error < least.error) least = found;
    }
    INFO(G::bits << " bits, trial " << trial);
    const double error = weighted_error(target, x, v);
    REQUIRE(error <= least.error + least.tolerance);
    REQUIRE(error >= least.error - least.tolerance);
  }
}

}  // namespace

TEST_CASE("range_search: exact is the minimum over every choice of codes, scales and zero points") {
  require_minimum<int_grid<1>>(8, 40);
  require_minimum<int_grid<2>>(6, 40);
  require_minimum<int_grid<3>>(4, 40);
  require_minimum<int_grid<1, zero_points::none>>(8, 40);
  require_minimum<int_grid<2, zero_points::none>>(7, 40);
  require_minimum<int_grid<3, zero_points::none>>(5, 40);
  require_minimum<codebook_grid<nf4>>(4, 12);
  require_minimum<codebook_grid<iq4>>(4, 12);
  require_minimum<codebook_grid<fp4_e2m1>>(4, 12);
}

namespace {

// The error of every scale that S can hold, under every zero point.
template <class G, class S>
double least_error_of_all_scales(const std::vector<float>& x, bool negative) {
  double least = std::numeric_limits<double>::infinity();
  for (int bits = 0; bits < (sizeof(S) == 1 ? 256 : 65536); ++bits) {
    float scale = 0;
    if constexpr (sizeof(S) == 1) {
      scale = bit_cast<S>(static_cast<std::uint8_t>(bits)).to_float();
    } else {
      scale = bit_cast<S>(static_cast<std::uint16_t>(bits)).to_float();
    }
    if (!std::isfinite(scale) || (scale < 0 && !negative)) continue;
    const int zeros = G::zeros == zero_points::integer ? G::last_code + 1 : 1;
    for (int z = 0; z < zeros; ++z) {
      typename G::params p{};
      p.scale = scale;
      if constexpr (detail::is_int_grid<G>) {
        p.zero = static_cast<float>(zeros > 1 ? z : G::middle_code);
      }
      double error = 0;
      for (const float w : x) {
        double best = std::numeric_limits<double>::infinity();
        for (int code = 0; code < 1 << G::bits; ++code) {
          const double d = double{w} - double{G::value(code, p)};
          best = std::min(best, d * d);
        }
        error += best;
      }
      least = std::min(least, error);
    }
  }
  return least;
}

template <class G, class S>
void require_least_stored(double deviation) {
  std::mt19937_64 generator(19);
  for (int trial = 0; trial < 6; ++trial) {
    auto x = few_weights(generator, 12, trial % 3);
    for (float& w : x) w *= static_cast<float>(deviation);
    planar_matrix<G, S> target(1, 12, {12});
    range_search{}.apply(matrix_view<const float>(x.data(), 1, 12), target, serial);
    const double least = least_error_of_all_scales<G, S>(x, G::zeros == zero_points::none);
    const double found = weighted_error(target, x, {1.0F});
    INFO("trial " << trial << ", found " << found << ", least " << least);
    // Codes come from w / scale, rounded: a tie may cost what the rounding does.
    double energy = 0;
    for (const float w : x) energy += double{w} * double{w};
    REQUIRE(found <= least + rounding_of(least, energy));
  }
}

}  // namespace

TEST_CASE("range_search: no stored scale has a smaller error, coarse or subnormal ones included") {
  require_least_stored<int_grid<2>, e8m0>(1.0);
  require_least_stored<int_grid<3, zero_points::none>, e8m0>(1e-3);
  require_least_stored<codebook_grid<fp4_e2m1>, e8m0>(10.0);
  require_least_stored<int_grid<3>, ue4m3>(1.0);
  require_least_stored<int_grid<2>, half>(1.0);
  require_least_stored<int_grid<3, zero_points::none>, half>(1e-6);  // a few subnormal steps
  require_least_stored<int_grid<2>, bfloat16>(1.0);
}

namespace {

template <class P>
void require_no_worse_than_rtn() {
  for (const auto& layer : test_support::fixed_layers()) {
    const index_t size = layer.cols;
    for (const index_t group : {index_t{32}, index_t{128}, size}) {
      const auto plain = quantize<P>(layer.view(), {group}, rtn{});
      const auto exact = quantize<P>(layer.view(), {group}, range_search{});
      INFO(layer.name << ", group " << group);
      REQUIRE(exact.report.error.mse < plain.report.error.mse);
      // The sum of |.|^2.4 falls too, but it is not the error that the report measures.
      const auto shrunken = quantize<P>(layer.view(), {group},
                                        range_search{.method = range_method::shrink, .norm = 2.0F});
      REQUIRE(shrunken.report.error.mse <= plain.report.error.mse);
    }
  }
}

}  // namespace

TEST_CASE("range_search: the error of every planar grid falls below rtn's on three matrices") {
  require_no_worse_than_rtn<planar<int_grid<2>, half>>();
  require_no_worse_than_rtn<planar<int_grid<4>, bfloat16>>();
  require_no_worse_than_rtn<planar<int_grid<4, zero_points::none>, half>>();
  require_no_worse_than_rtn<planar<int_grid<3, zero_points::real>, half>>();
  require_no_worse_than_rtn<planar<codebook_grid<nf4>, f32_scale>>();
  require_no_worse_than_rtn<planar<codebook_grid<iq4>, half>>();
}

TEST_CASE("range_search: block formats with one scale get the least error of that scale") {
  for (const auto& layer : test_support::fixed_layers()) {
    INFO(layer.name);
    for_each_type(type_list<q4_0, q5_0, q8_0, iq4_nl, mxfp4>{},
                  [&]<class F>(std::type_identity<F>) {
                    INFO(F::name);
                    const auto tool = quantize<F>(layer.view(), reference{});
                    const auto exact = quantize<F>(layer.view(), range_search{});
                    REQUIRE(exact.report.error.mse < tool.report.error.mse);
                  });
  }
}

TEST_CASE("range_search: a weight that alone matters is kept to the rounding of its scale") {
  // One column with importance per group of 16: any symmetric grid can hit it exactly.
  const auto layer = test_support::fixed_layers()[0];
  std::vector<float> importance(200, 0.0F);
  for (std::size_t k = 5; k < 200; k += 16) importance[k] = 1;
  const auto q = quantize<planar<int_grid<3, zero_points::none>, half>>(
      layer.view(), {16}, range_search{.importance = importance});
  const auto back = test_support::weights_of(q.matrix);
  for (std::size_t i = 0; i < back.size(); ++i) {
    if (importance[i % 200] == 0) continue;
    REQUIRE(std::fabs(double{back[i]} - double{layer.w[i]}) <=
            std::fabs(double{layer.w[i]}) * 0x1p-11 + 0x1p-25);
  }
}

TEST_CASE("range_search: corner cases keep what the grid can hold") {
  const auto corners = test_support::corner_rows();
  for (const range_method method : {range_method::exact, range_method::shrink}) {
    const range_search policy{.method = method};
    const auto check = [&]<class P>(std::type_identity<P>) {
      const auto plain = quantize<P>(corners.view(), {16}, rtn{});
      const auto found = quantize<P>(corners.view(), {16}, policy);
      const auto rtn_back = test_support::weights_of(plain.matrix);
      const auto back = test_support::weights_of(found.matrix);
      for (index_t r = 0; r < corners.rows; ++r) {
        INFO("row " << r);
        double error = 0;
        double rtn_error = 0;
        for (index_t k = 0; k < 64; ++k) {
          const auto i = static_cast<std::size_t>(r * 64 + k);
          REQUIRE(std::isfinite(back[i]));
          error += std::pow(double{back[i]} - double{corners.w[i]}, 2);
          rtn_error += std::pow(double{rtn_back[i]} - double{corners.w[i]}, 2);
          if (r < 2) REQUIRE(back[i] == 0);
        }
        if (method == range_method::exact) REQUIRE(error <= rtn_error);
      }
    };
    check(std::type_identity<planar<int_grid<4>, f32_scale>>{});
    check(std::type_identity<planar<int_grid<4>, half>>{});
    check(std::type_identity<planar<int_grid<3, zero_points::none>, half>>{});
    check(std::type_identity<planar<int_grid<4, zero_points::real>, bfloat16>>{});
    check(std::type_identity<planar<codebook_grid<nf4>, half>>{});
  }
}

TEST_CASE("range_search: the bytes do not depend on the executor, the order or the strides") {
  const auto layer = test_support::fixed_layers()[1];
  const range_search policy{};
  const auto serially = quantize<planar<int_grid<4>, half>>(layer.view(), {32}, policy);
  thread_pool pool(3);
  const auto pooled = quantize<planar<int_grid<4>, half>>(layer.view(), {32}, policy, pool);
  REQUIRE(test_support::codes_of(serially.matrix) == test_support::codes_of(pooled.matrix));
  REQUIRE(test_support::scales_of(serially.matrix) == test_support::scales_of(pooled.matrix));

  // Columns stored backwards: the same as quantizing the reversed matrix.
  auto reversed = layer;
  std::vector<std::int32_t> order(200);
  for (index_t r = 0; r < 12; ++r) {
    for (index_t k = 0; k < 200; ++k) {
      reversed.w[static_cast<std::size_t>(r * 200 + k)] =
          layer.w[static_cast<std::size_t>(r * 200 + 199 - k)];
    }
  }
  std::vector<float> importance(200);
  std::vector<float> importance_reversed(200);
  for (std::size_t k = 0; k < 200; ++k) {
    order[k] = 199 - static_cast<std::int32_t>(k);
    importance[k] = importance_reversed[199 - k] = static_cast<float>(1 + k % 5);
  }
  planar_matrix<int_grid<4>, half> ordered(12, 200, {32});
  ordered.set_column_order(order);
  range_search{.importance = importance}.apply(layer.view(), ordered, serial);
  planar_matrix<int_grid<4>, half> plain(12, 200, {32});
  range_search{.importance = importance_reversed}.apply(reversed.view(), plain, serial);
  REQUIRE(test_support::codes_of(ordered) == test_support::codes_of(plain));
  const tensor_view<const float, 2, strided> backwards(layer.w.data() + 199, {12, 200}, {200, -1});
  planar_matrix<int_grid<4>, half> strided_target(12, 200, {32});
  range_search{.importance = importance_reversed}.apply(backwards, strided_target, serial);
  REQUIRE(test_support::codes_of(strided_target) == test_support::codes_of(plain));
}

TEST_CASE("range_search: NaN and Inf can be taken as zero") {
  auto layer = test_support::fixed_layers()[0];
  auto zeros = layer;
  layer.w[7] = std::numeric_limits<float>::quiet_NaN();
  layer.w[300] = std::numeric_limits<float>::infinity();
  zeros.w[7] = zeros.w[300] = 0;
  const range_search policy{.on_non_finite = non_finite::zero};
  const auto taken = quantize<planar<int_grid<4>, half>>(layer.view(), {32}, policy);
  const auto expected = quantize<planar<int_grid<4>, half>>(zeros.view(), {32}, policy);
  REQUIRE(test_support::codes_of(taken.matrix) == test_support::codes_of(expected.matrix));
}

#if defined(__cpp_exceptions)
TEST_CASE("range_search: a cancelled search leaves the target as it was") {
  const auto layer = test_support::fixed_layers()[0];
  auto target = quantize<planar<int_grid<4>, half>>(layer.view(), {32}, rtn{}).matrix;
  const auto before = test_support::codes_of(target);
  double last = 0;
  int calls = 0;
  const auto stop = [&](double fraction) {
    REQUIRE(fraction > last);
    last = fraction;
    return ++calls < 2;
  };
  const auto error = test_support::error_of(
      [&] { range_search{.progress = stop}.apply(layer.view(), target, serial); });
  REQUIRE(error.code() == errc::cancelled);
  REQUIRE(calls == 2);
  REQUIRE(test_support::codes_of(target) == before);
  const auto go_on = [&](double fraction) {
    last = fraction;
    return true;
  };
  range_search{.progress = go_on}.apply(layer.view(), target, serial);
  REQUIRE(last == 1.0);
  REQUIRE(test_support::codes_of(target) != before);
}

TEST_CASE("range_search: options outside their range are errors") {
  const auto layer = test_support::fixed_layers()[0];
  const auto code_of = [&](const range_search& policy) {
    return test_support::error_of(
               [&] { (void)quantize<planar<int_grid<4>, half>>(layer.view(), {32}, policy); })
        .code();
  };
  REQUIRE(code_of({.method = range_method::shrink, .norm = 0}) == errc::bad_argument);
  REQUIRE(code_of({.method = range_method::shrink, .steps = 0}) == errc::bad_argument);
  REQUIRE(code_of({.method = range_method::shrink, .max_shrink = 1.5F}) == errc::bad_argument);
  REQUIRE(code_of({.rule = grid_rule::gptq}) == errc::bad_argument);
  REQUIRE(code_of({.method = range_method::shrink, .rule = grid_rule::awq}) == errc::bad_argument);
  const std::vector<float> few(199, 1.0F);
  REQUIRE(code_of({.importance = few}) == errc::bad_shape);
  const std::vector<float> negative(200, -1.0F);
  REQUIRE(code_of({.importance = negative}) == errc::non_finite);
}
#endif
