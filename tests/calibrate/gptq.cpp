// SPDX-License-Identifier: Apache-2.0
/// GPTQ against gptqmodel's runs, against the published algorithm in double, on formats of both
/// storage families, and in every case that is refused.
#include "subbyte/calibrate/gptq.hpp"

#include <algorithm>
#include <cmath>
#include <limits>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "subbyte/quantize/rtn.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/files.hpp"  // contains
#include "support/golden_python.hpp"
#include "support/gptq_reference.hpp"
#include "support/planes.hpp"
#include "support/random.hpp"

using namespace subbyte;
using test_support::contains;
using test_support::error_of;
using test_support::gptq_settings;
using test_support::gptq_solution;

namespace {

/// Weights [n, k] and X^T X [k, k].
struct problem {
  index_t n = 0;
  index_t k = 0;
  std::vector<float> w;
  std::vector<double> h;

  [[nodiscard]] matrix_view<const float> weights() const { return {w.data(), n, k}; }
  [[nodiscard]] matrix_view<const double> hessian() const { return {h.data(), k, k}; }
  [[nodiscard]] std::vector<double> exact_weights() const { return {w.begin(), w.end()}; }
};

void add_gram(problem& p, const std::vector<float>& x, double factor) {
  const auto k = static_cast<std::size_t>(p.k);
  p.h.assign(k * k, 0.0);
  for (std::size_t t = 0; t < x.size() / k; ++t) {
    const float* const row = x.data() + t * k;
    for (std::size_t i = 0; i < k; ++i) {
      for (std::size_t j = 0; j < k; ++j) {
        p.h[i * k + j] += factor * static_cast<double>(row[i]) * static_cast<double>(row[j]);
      }
    }
  }
}

/// Gaussian weights; inputs that are a Gaussian mixture of channels whose strengths fall like
/// i^-power.
problem synthetic(index_t n, index_t k, index_t tokens, double power, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  problem p;
  p.n = n;
  p.k = k;
  const auto size = static_cast<std::size_t>(k);
  std::vector<double> mixing(size * size);
  for (std::size_t i = 0; i < size; ++i) {
    const double strength = std::pow(static_cast<double>(i + 1), -power / 2);
    for (std::size_t j = 0; j < size; ++j) {
      mixing[i * size + j] = strength * test_support::normal(generator);
    }
  }
  std::vector<float> x(static_cast<std::size_t>(tokens) * size);
  std::vector<double> row(size);
  for (std::size_t t = 0; t < static_cast<std::size_t>(tokens); ++t) {
    std::fill(row.begin(), row.end(), 0.0);
    for (std::size_t i = 0; i < size; ++i) {
      const double z = test_support::normal(generator);
      for (std::size_t j = 0; j < size; ++j) row[j] += z * mixing[i * size + j];
    }
    for (std::size_t j = 0; j < size; ++j) x[t * size + j] = static_cast<float>(row[j]);
  }
  add_gram(p, x, 1);
  p.w.resize(static_cast<std::size_t>(n * k));
  for (float& v : p.w) v = static_cast<float>(0.02 * test_support::normal(generator));
  return p;
}

double error_of_weights(const problem& p, const std::vector<float>& values) {
  return test_support::hessian_error(p.exact_weights(), {values.begin(), values.end()},
                                     static_cast<std::size_t>(p.n), p.h,
                                     static_cast<std::size_t>(p.k));
}

/// Codes with their columns as in W.
template <class G, class S>
std::vector<int> codes_in_place(const planar_matrix<G, S>& m) {
  const auto stored = test_support::codes_of(m);
  const auto view = m.view();
  std::vector<int> codes(stored.size());
  for (index_t r = 0; r < view.rows(); ++r) {
    for (index_t j = 0; j < view.cols(); ++j) {
      const index_t column = view.order() != nullptr ? view.order()[j] : j;
      codes[static_cast<std::size_t>(r * view.cols() + column)] =
          stored[static_cast<std::size_t>(r * view.cols() + j)];
    }
  }
  return codes;
}

gptq policy_for(const gptq_settings& s, const problem& p) {
  gptq policy;
  policy.hessian = p.hessian();
  policy.damp = static_cast<float>(s.damp);
  policy.column_block = s.block;
  policy.order = s.act_order     ? column_order::activation
                 : s.group_aware ? column_order::group_aware
                                 : column_order::natural;
  policy.static_groups = s.static_groups;
  policy.params = s.fresh ? group_params::fresh : group_params::stale;
  policy.clip = s.range_search ? clip_search::power_error : clip_search::none;
  policy.dead = dead_columns::zero;
  return policy;
}

struct planar_result {
  std::vector<int> codes;
  std::vector<float> values;
  std::vector<float> scales;
  policy_report report;
};

template <int Bits, zero_points Zeros>
planar_result quantized_planar(const problem& p, index_t group, const gptq& policy,
                               executor_ref ex = serial) {
  planar_matrix<int_grid<Bits, Zeros>, f32_scale> m(p.n, p.k, {group < 0 ? p.k : group});
  planar_result out;
  out.report = quantize_into(p.weights(), m, policy, ex);
  out.codes = codes_in_place(m);
  out.values = test_support::weights_of(m);
  out.scales = test_support::scales_of(m);
  return out;
}

planar_result quantized_as(const gptq_settings& s, const problem& p) {
  constexpr auto none = zero_points::none;
  constexpr auto integer = zero_points::integer;
  const gptq policy = policy_for(s, p);
  const auto run = [&]<int Bits>() {
    return s.symmetric ? quantized_planar<Bits, none>(p, s.group, policy)
                       : quantized_planar<Bits, integer>(p, s.group, policy);
  };
  switch (s.bits) {
    case 2:
      return run.operator()<2>();
    case 3:
      return run.operator()<3>();
    case 4:
      return run.operator()<4>();
    default:
      return run.operator()<8>();
  }
}

template <class A, class B>
index_t rows_that_differ(const A& a, const B& b, index_t n, index_t k) {
  index_t count = 0;
  for (index_t r = 0; r < n; ++r) {
    bool differs = false;
    for (index_t j = 0; j < k; ++j) {
      const auto at = static_cast<std::size_t>(r * k + j);
      differs = differs || static_cast<int>(a[at]) != static_cast<int>(b[at]);
    }
    count += differs ? 1 : 0;
  }
  return count;
}

struct golden_run {
  int k;
  int variant;
  gptq_settings settings;
};

// bits, symmetric, group, act_order, static_groups, group_aware, fresh, block, damp, range_search
const golden_run golden_runs[] = {
    {128, 0, {4, true, 32, false, false, false, false, 128, 0.05, false}},
    {128, 1, {4, false, 32, true, false, false, false, 128, 0.01, false}},
    {128, 2, {4, true, 64, true, true, false, false, 128, 0.01, false}},
    {128, 3, {3, true, 128, false, false, false, false, 128, 0.05, false}},
    {128, 4, {2, false, 32, false, false, true, false, 128, 0.05, false}},
    {128, 5, {8, true, -1, true, false, false, false, 128, 0.01, false}},
    {128, 6, {4, true, 32, false, false, false, false, 128, 0.05, true}},
    {128, 7, {4, true, 32, false, true, false, false, 128, 0.05, false}},
    {128, 8, {4, true, -1, false, false, false, false, 128, 0.1, false}},
    {128, 9, {3, false, 64, false, false, true, false, 128, 0.05, false}},
    {256, 0, {4, true, 128, false, false, false, false, 128, 0.05, false}},
    {256, 1, {4, true, 128, true, false, false, false, 128, 0.01, false}},
    {256, 2, {4, false, -1, false, false, false, false, 128, 0.05, false}},
    {256, 3, {4, true, 32, false, false, true, false, 128, 0.05, false}},
    {256, 4, {4, true, 64, false, true, false, false, 128, 0.05, false}},
    {384, 0, {4, true, 128, false, false, true, false, 128, 0.05, false}},
    {384, 1, {3, false, 128, true, false, false, false, 128, 0.05, false}},
    {384, 2, {4, true, 96, false, false, false, false, 128, 0.05, false}},
};

template <class Target>
std::vector<float> values_by(const problem& p, Target target, const auto& policy,
                             executor_ref ex = serial) {
  quantize_into(p.weights(), target, policy, ex);
  return test_support::weights_of(target);
}

/// The least that a quant_target is: groups of any size, a code and a value per weight kept apart.
template <int Bits, zero_points Zeros>
struct bare_target {
  using grid = int_grid<Bits, Zeros>;
  using params = typename grid::params;

  index_t n;
  index_t k;
  index_t group;
  std::vector<int> codes = std::vector<int>(static_cast<std::size_t>(n * k), -1);
  std::vector<float> values = std::vector<float>(static_cast<std::size_t>(n * k));

  [[nodiscard]] index_t rows() const noexcept { return n; }
  [[nodiscard]] index_t cols() const noexcept { return k; }
  [[nodiscard]] index_t group_size() const noexcept { return group; }
  template <class Arch>
  [[nodiscard]] static params fit(const float* w, const float* importance, index_t count) noexcept {
    return grid::template fit<Arch>(w, importance, count);
  }
  [[nodiscard]] static int round(float v, index_t, const params& p) noexcept {
    return grid::round(v, p);
  }
  [[nodiscard]] static float value(int code, index_t, const params& p) noexcept {
    return grid::value(code, p);
  }
  void store(index_t r, index_t g, const params& p, const std::uint8_t* c, index_t count) noexcept {
    for (index_t i = 0; i < count; ++i) {
      const auto at = static_cast<std::size_t>(r * k + g * group + i);
      codes[at] = c[i];
      values[at] = grid::value(c[i], p);
    }
  }
};
static_assert(quantizer_for<gptq, bare_target<3, zero_points::integer>>);
static_assert(quantizer_for<gptq, block_matrix<q4_k>>);
static_assert(quantizer_for<gptq, planar_matrix<codebook_grid<nf4>, f32_scale>>);
static_assert(!quantizer_for<gptq, block_matrix<f16>>);

/// The published example of the reference sheet.
problem example() {
  problem p;
  p.n = 2;
  p.k = 6;
  p.w = {0.31F, -0.52F, 0.13F, 0.44F, -0.27F, 0.08F, -0.11F, 0.23F, 0.37F, -0.61F, 0.05F, 0.19F};
  add_gram(p, {3, 2, 1, 0, 1, 2, 2, 3, 2, 1, 0, 1, 1, 2, 3, 2, 1, 0, 0, 1, 2,
               3, 2, 1, 1, 0, 1, 2, 3, 2, 2, 1, 0, 1, 2, 3, 4, 4, 4, 4, 4, 4},
           2.0 / 7.0);
  return p;
}

}  // namespace

TEST_CASE("gptq: gptqmodel's runs, every variant") {
  for (const golden_run& run : golden_runs) {
    INFO("k" << run.k << " v" << run.variant);
    const auto file =
        test_support::golden_file("gptqmodel/gptq_run_k" + std::to_string(run.k) + ".safetensors");
    problem p;
    p.n = file.tensor("input").shape()[0];
    p.k = file.tensor("input").shape()[1];
    p.w.resize(static_cast<std::size_t>(p.n * p.k));
    file.tensor("input").to_float(p.w.data());
    std::vector<float> x(static_cast<std::size_t>(file.tensor("X").size()));
    file.tensor("X").to_float(x.data());
    add_gram(p, x, 2.0 / static_cast<double>(file.tensor("X").shape()[0]));

    const std::string prefix = "v" + std::to_string(run.variant) + ".";
    const auto codes = test_support::golden_values<std::uint8_t>(file, prefix + "codes");
    const auto scale = test_support::golden_values<float>(file, prefix + "scale");
    const auto zero = test_support::golden_values<std::int32_t>(file, prefix + "zero");
    const auto group = test_support::golden_values<std::int32_t>(file, prefix + "g_idx");
    const index_t groups = static_cast<index_t>(scale.size()) / p.n;
    std::vector<float> values(codes.size());
    for (index_t r = 0; r < p.n; ++r) {
      for (index_t j = 0; j < p.k; ++j) {
        const auto at = static_cast<std::size_t>(r * p.k + j);
        const auto g = static_cast<std::size_t>(r * groups + group[static_cast<std::size_t>(j)]);
        values[at] = scale[g] * static_cast<float>(codes[at] - zero[g]);
      }
    }

    const planar_result ours = quantized_as(run.settings, p);
    const gptq_solution plain =
        test_support::plain_gptq(p.exact_weights(), static_cast<std::size_t>(p.n), p.h,
                                 static_cast<std::size_t>(p.k), run.settings);
    // The golden README's rule: single rows may depart where a weight lies on a rounding tie.
    const index_t allowed = p.n / 32;
    CHECK(rows_that_differ(ours.codes, codes, p.n, p.k) <= allowed);
    CHECK(rows_that_differ(plain.codes, codes, p.n, p.k) <= allowed);
    CHECK(error_of_weights(p, ours.values) ==
          Approx(error_of_weights(p, values)).epsilon(0.02).margin(0));
    CHECK(plain.group_of_column == std::vector<int>(group.begin(), group.end()));
    if (rows_that_differ(ours.codes, codes, p.n, p.k) == 0) {
      CHECK(ours.scales.size() == scale.size());
    }
    CHECK(ours.report.dead_columns == (run.k == 256 ? 2 : 0));
    CHECK(ours.report.damp == static_cast<float>(run.settings.damp));
    CHECK_FALSE(ours.report.fell_back);
  }
}

TEST_CASE("gptq: the reference sheet's examples, code by code") {
  const problem p = example();
  // The sheet's errors are relative to those of all-zero weights.
  const double all = error_of_weights(p, std::vector<float>(12));
  struct row {
    gptq_settings settings;
    std::vector<int> nearest;
    std::vector<int> codes;
    double nearest_error;
    double error;
  };
  const auto settings = [](int bits, bool symmetric, int group, int block) {
    gptq_settings s;
    s.bits = bits;
    s.symmetric = symmetric;
    s.group = group;
    s.block = block;
    return s;
  };
  const std::vector<int> three = {7, 0, 5, 7, 0, 4, 0, 5, 7, 0, 5, 7};
  const std::vector<int> four = {12, 0, 10, 15, 3, 9, 6, 13, 15, 0, 9, 10};
  // A group of 3 in blocks of 3 is fresh, in a block of 6 stale.
  const row rows[] = {
      {settings(2, false, -1, 6),
       {3, 0, 2, 3, 1, 2, 2, 3, 3, 0, 2, 3},
       {3, 0, 3, 3, 1, 3, 2, 3, 3, 0, 3, 1},
       2.404386,
       0.490068},
      {settings(3, false, -1, 6),
       {6, 0, 5, 7, 2, 5, 3, 6, 7, 0, 4, 5},
       {6, 0, 5, 7, 2, 5, 3, 6, 6, 0, 4, 6},
       0.069605,
       0.035292},
      {settings(3, false, 3, 3), three, {7, 0, 4, 7, 0, 2, 0, 6, 7, 0, 5, 7}, 0.061502, 0.036105},
      {settings(3, false, 3, 6), three, {7, 0, 4, 7, 2, 3, 0, 6, 7, 0, 5, 7}, 0.061502, 0.043247},
      {settings(4, true, 3, 3),
       four,
       {12, 1, 10, 15, 4, 9, 6, 13, 15, 0, 9, 10},
       0.151341,
       0.014399},
      {settings(4, true, 3, 6),
       four,
       {12, 1, 10, 15, 4, 9, 6, 13, 15, 1, 8, 10},
       0.151341,
       0.015868},
      {settings(3, true, 3, 6),
       {6, 0, 5, 7, 2, 5, 3, 6, 7, 1, 4, 5},
       {6, 1, 4, 7, 3, 4, 3, 6, 7, 1, 4, 5},
       0.072615,
       0.074093},
  };
  for (const row& expected : rows) {
    const gptq_settings& s = expected.settings;
    INFO(s.bits << " bit, group " << s.group << ", block " << s.block);
    const gptq_solution plain =
        test_support::plain_gptq(p.exact_weights(), 2, p.h, 6, expected.settings);
    CHECK(plain.codes == expected.codes);
    CHECK(std::abs(test_support::hessian_error(p.exact_weights(), plain.values, 2, p.h, 6) / all -
                   expected.error) < 1e-6);
    const auto check = [&](auto target, const gptq& policy, const std::vector<int>& codes,
                           double error) {
      quantize_into(p.weights(), target, policy);
      CHECK(target.codes == codes);
      CHECK(std::abs(error_of_weights(p, target.values) / all - error) < 1e-6);
    };
    const auto check_all = [&](auto target) {
      gptq policy = policy_for(s, p);
      check(target, policy, expected.codes, expected.error);
      if (s.block == s.group) {
        policy.params = group_params::fresh;
        policy.column_block = 128;
        check(target, policy, expected.codes, expected.error);
      }
      const std::vector<double> zeros(36);
      policy.hessian = matrix_view<const double>(zeros.data(), 6, 6);
      policy.failure = on_failure::round_to_nearest;
      check(target, policy, expected.nearest, expected.nearest_error);
    };
    const index_t group = s.group < 0 ? 6 : s.group;
    if (s.bits == 2) check_all(bare_target<2, zero_points::integer>{2, 6, group});
    if (s.bits == 3 && !s.symmetric) check_all(bare_target<3, zero_points::integer>{2, 6, group});
    if (s.bits == 3 && s.symmetric) check_all(bare_target<3, zero_points::none>{2, 6, group});
    if (s.bits == 4) check_all(bare_target<4, zero_points::none>{2, 6, group});
  }
}

TEST_CASE("gptq: the objective of the published algorithm in double") {
  // bits, symmetric, group, act_order, static_groups, group_aware, fresh, block, damp, search
  const gptq_settings cases[] = {
      {4, true, 32, false, false, false, false, 128, 0.01, false},
      {4, true, 32, false, false, false, true, 128, 0.01, false},
      {3, false, 48, false, false, false, false, 64, 0.05, false},
      {3, false, 48, false, false, false, true, 64, 0.05, false},
      {2, false, 64, true, false, false, false, 128, 0.05, false},
      {2, false, 64, true, false, false, true, 128, 0.05, false},
      {4, false, 64, false, false, true, true, 128, 0.05, false},
      {3, true, 64, true, true, false, false, 128, 0.1, false},
      {8, true, -1, false, false, false, false, 128, 0.01, false},
      {4, true, 104, false, false, false, true, 40, 0.01, false},
  };
  for (const double power : {0.0, 1.0, 2.0}) {
    const problem p = synthetic(32, 200, 400, power, 21);
    for (const gptq_settings& s : cases) {
      INFO("power " << power << ", " << s.bits << " bit, group " << s.group);
      const planar_result ours = quantized_as(s, p);
      const gptq_solution plain = test_support::plain_gptq(p.exact_weights(), 32, p.h, 200, s);
      CHECK(rows_that_differ(ours.codes, plain.codes, 32, 200) <= 1);
      const double expected =
          test_support::hessian_error(p.exact_weights(), plain.values, 32, p.h, 200);
      CHECK(error_of_weights(p, ours.values) == Approx(expected).epsilon(1e-6).margin(0));

      std::vector<double> damped = p.h;
      double trace = 0;
      for (std::size_t i = 0; i < 200; ++i) trace += p.h[201 * i];
      for (std::size_t i = 0; i < 200; ++i) damped[201 * i] += s.damp * trace / 200;
      CHECK(ours.report.objective ==
            Approx(test_support::hessian_error(p.exact_weights(), plain.values, 32, damped, 200))
                .epsilon(1e-6)
                .margin(0));
    }
  }
}

TEST_CASE("gptq: the power 2.4 of the range search") {
  for (int exponent = -14; exponent <= 14; ++exponent) {
    for (int i = 0; i < 1000; ++i) {
      const double d = std::ldexp(1 + i / 1000.0, exponent) * (i % 2 == 0 ? 1 : -1);
      const auto x = static_cast<float>(d);
      const double expected = std::pow(std::abs(static_cast<double>(x)), 2.4);
      REQUIRE(std::abs(static_cast<double>(detail::power_2_4(x)) - expected) <= 1e-6 * expected);
    }
  }
  CHECK(detail::power_2_4(0.0F) == 0);
}

TEST_CASE("gptq: the error over that of rounding, by spectrum") {
  const struct {
    double power;
    double bound;
  } spectra[] = {{0, 0.7}, {1, 0.45}, {2, 0.12}};
  for (const auto& spectrum : spectra) {
    const problem p = synthetic(32, 128, 512, spectrum.power, 31);
    const gptq policy{.hessian = p.hessian(), .damp = 0.01F};
    const auto ratio = [&]<int Bits>() {
      using matrix = planar_matrix<int_grid<Bits, zero_points::none>, half>;
      return error_of_weights(p, values_by(p, matrix(32, 128, {64}), policy)) /
             error_of_weights(p, values_by(p, matrix(32, 128, {64}), rtn{}));
    };
    const double three = ratio.operator()<3>();
    const double four = ratio.operator()<4>();
    CHECK(three < spectrum.bound);
    CHECK(four < spectrum.bound);
  }
}

TEST_CASE("gptq: formats of both families lose less than by their own encoder") {
  // 600 columns: the last block of 256 is short.
  const problem p = synthetic(24, 600, 1200, 1, 41);
  std::vector<float> importance;
  for (index_t i = 0; i < p.k; ++i) {
    importance.push_back(static_cast<float>(p.h[static_cast<std::size_t>(i * (p.k + 1))] / 1200));
  }
  const gptq policy{.hessian = p.hessian()};
  const auto check = [&](const char* name, auto make, const auto& peer) {
    INFO(name);
    CHECK(error_of_weights(p, values_by(p, make(), policy)) <
          0.6 * error_of_weights(p, values_by(p, make(), peer)));
  };
  const auto check_block = [&]<class F>() {
    check(
        F::name, [&] { return block_matrix<F>(p.n, p.k); }, reference{.importance = importance});
  };
  check_block.operator()<q4_k>();
  check_block.operator()<q3_k>();
  check_block.operator()<q2_k>();
  check_block.operator()<q6_k>();
  check_block.operator()<q4_0>();
  check_block.operator()<q8_0>();
  check_block.operator()<iq4_xs>();
  check_block.operator()<mxfp4>();
  check(
      "nf4", [&] { return planar_matrix<codebook_grid<nf4>, f32_scale>(p.n, p.k, {64}); }, rtn{});
  check(
      "real zeros",
      [&] { return planar_matrix<int_grid<3, zero_points::real>, half>(p.n, p.k, {64}); }, rtn{});
}

TEST_CASE("gptq: orders that a block format can store, and the one that it cannot") {
  const problem p = synthetic(24, 512, 2048, 1, 42);
  const auto loss = [&](const gptq& policy) {
    return error_of_weights(p, values_by(p, block_matrix<q4_k>(p.n, p.k), policy));
  };
  const double natural = loss({.hessian = p.hessian(), .order = column_order::natural});
  CHECK(loss({.hessian = p.hessian()}) < natural);
  const double encoder =
      error_of_weights(p, values_by(p, block_matrix<q4_k>(p.n, p.k), reference{}));
  CHECK(natural < 0.6 * encoder);
  CHECK(loss({.hessian = p.hessian(), .order = column_order::activation, .static_groups = true}) <
        0.6 * encoder);
  const error e =
      error_of([&] { (void)loss({.hessian = p.hessian(), .order = column_order::activation}); });
  CHECK(e.code() == errc::bad_argument);
  CHECK(e.subject() == "order");
  // One group per row scatters nothing.
  const problem narrow = synthetic(4, 200, 400, 1, 43);
  CHECK_NOTHROW(values_by(narrow, block_matrix<q4_k>(4, 200),
                          gptq{.hessian = narrow.hessian(), .order = column_order::activation}));
}

TEST_CASE("gptq: the same result for any number of threads") {
  const problem p = synthetic(150, 300, 400, 1, 51);
  const gptq policies[] = {
      {.hessian = p.hessian()},
      {.hessian = p.hessian(), .column_block = 24, .params = group_params::fresh},
      {.hessian = p.hessian(), .order = column_order::activation, .clip = clip_search::hessian},
  };
  for (const gptq& policy : policies) {
    const planar_result alone = quantized_planar<4, zero_points::integer>(p, 64, policy);
    for (const int threads : {2, 5}) {
      thread_pool pool(threads);
      const planar_result shared = quantized_planar<4, zero_points::integer>(p, 64, policy, pool);
      CHECK(alone.codes == shared.codes);
      CHECK(alone.scales == shared.scales);
      CHECK(alone.report.objective == shared.report.objective);
    }
  }
}

TEST_CASE("gptq: with fresh or static params blocks of any width give the same codes") {
  const problem p = synthetic(32, 256, 400, 1, 52);
  for (const bool fixed : {false, true}) {
    gptq policy{.hessian = p.hessian(), .static_groups = fixed, .params = group_params::fresh};
    const planar_result whole = quantized_planar<4, zero_points::integer>(p, 64, policy);
    for (const int width : {1, 7, 16, 64, 100, 1000}) {
      INFO("width " << width);
      policy.column_block = width;
      const planar_result cut = quantized_planar<4, zero_points::integer>(p, 64, policy);
      CHECK(rows_that_differ(whole.codes, cut.codes, 32, 256) <= 1);
    }
  }
}

TEST_CASE("gptq: a factor on the Hessian changes no code") {
  problem p = synthetic(32, 128, 200, 1, 53);
  for (index_t j = 0; j < 128; ++j) {  // a dead column, whose stand-in must scale along
    p.h[static_cast<std::size_t>(128 * 9 + j)] = p.h[static_cast<std::size_t>(128 * j + 9)] = 0;
  }
  const planar_result once =
      quantized_planar<3, zero_points::none>(p, 32, {.hessian = p.hessian()});
  for (double& v : p.h) v *= 1024;
  const planar_result scaled =
      quantized_planar<3, zero_points::none>(p, 32, {.hessian = p.hessian()});
  CHECK(once.codes == scaled.codes);
  CHECK(scaled.report.objective == 1024 * once.report.objective);

  std::vector<float> single(p.h.begin(), p.h.end());
  p.h.assign(single.begin(), single.end());
  const planar_result of_doubles =
      quantized_planar<3, zero_points::none>(p, 32, {.hessian = p.hessian()});
  const planar_result of_floats = quantized_planar<3, zero_points::none>(
      p, 32, {.hessian = matrix_view<const float>(single.data(), 128, 128)});
  CHECK(of_doubles.codes == of_floats.codes);
}

TEST_CASE("gptq: the range search in the Hessian metric pays at few bits") {
  problem p = synthetic(32, 128, 512, 1, 54);
  for (float& v : p.w) v = v * std::abs(v);  // heavy tails
  const auto loss = [&](clip_search clip) {
    return error_of_weights(
        p, quantized_planar<2, zero_points::integer>(p, 64, {.hessian = p.hessian(), .clip = clip})
               .values);
  };
  const double without = loss(clip_search::none);
  CHECK(loss(clip_search::hessian) < 0.8 * without);
  CHECK(loss(clip_search::power_error) < without);
  const error e = error_of([&] {
    (void)quantized_planar<2, zero_points::integer>(p, 64,
                                                    {.hessian = p.hessian(),
                                                     .order = column_order::activation,
                                                     .static_groups = true,
                                                     .clip = clip_search::hessian});
  });
  CHECK(e.code() == errc::bad_argument);
  CHECK(e.subject() == "clip");
}

TEST_CASE("gptq: columns that were never seen are rounded to nearest, or zeroed") {
  problem p = synthetic(8, 64, 200, 1, 61);
  for (const index_t dead : {5, 40}) {
    for (index_t j = 0; j < 64; ++j) {
      p.h[static_cast<std::size_t>(64 * dead + j)] = p.h[static_cast<std::size_t>(64 * j + dead)] =
          0;
    }
    for (index_t r = 0; r < 8; ++r) p.w[static_cast<std::size_t>(64 * r + dead)] *= 5;
  }
  const planar_result kept =
      quantized_planar<4, zero_points::integer>(p, 32, {.hessian = p.hessian()});
  const planar_result zeroed = quantized_planar<4, zero_points::integer>(
      p, 32, {.hessian = p.hessian(), .dead = dead_columns::zero});
  CHECK(kept.report.dead_columns == 2);
  for (const index_t dead : {5, 40}) {
    for (index_t r = 0; r < 8; ++r) {
      const auto at = static_cast<std::size_t>(64 * r + dead);
      // The zero point is rounded to a code, which moves the range by half a step.
      CHECK(std::abs(kept.values[at] - p.w[at]) <=
            1.001F * kept.scales[static_cast<std::size_t>(2 * r + dead / 32)]);
      CHECK(zeroed.values[at] == 0);
    }
  }
  CHECK(error_of_weights(p, zeroed.values) < error_of_weights(p, kept.values));
}

TEST_CASE("gptq: a kept dead column leaves the others as they would be without it") {
  problem p = synthetic(32, 65, 200, 1, 66);
  for (index_t j = 0; j < 65; ++j) {
    p.h[static_cast<std::size_t>(65 * 64 + j)] = p.h[static_cast<std::size_t>(65 * j + 64)] = 0;
  }
  for (index_t r = 0; r < 32; ++r) p.w[static_cast<std::size_t>(65 * r + 64)] = 0;
  problem without;
  without.n = 32;
  without.k = 64;
  for (std::size_t r = 0; r < 32; ++r) {
    const auto row = p.w.begin() + static_cast<std::ptrdiff_t>(65 * r);
    without.w.insert(without.w.end(), row, row + 64);
  }
  for (std::size_t i = 0; i < 64; ++i) {
    const auto row = p.h.begin() + static_cast<std::ptrdiff_t>(65 * i);
    without.h.insert(without.h.end(), row, row + 64);
  }
  const planar_result wide =
      quantized_planar<3, zero_points::none>(p, -1, {.hessian = p.hessian(), .damp = 0.5F});
  const planar_result narrow = quantized_planar<3, zero_points::none>(
      without, -1, {.hessian = without.hessian(), .damp = 0.5F});
  CHECK(wide.scales == narrow.scales);
  for (std::size_t r = 0; r < 32; ++r) {
    const auto row = wide.codes.begin() + static_cast<std::ptrdiff_t>(65 * r);
    CHECK(std::equal(row, row + 64, narrow.codes.begin() + static_cast<std::ptrdiff_t>(64 * r)));
  }
  CHECK(wide.report.objective == Approx(narrow.report.objective).epsilon(1e-12).margin(0));
}

TEST_CASE("gptq: a Hessian without a live column is an error, or rounded without it") {
  problem p = synthetic(4, 64, 100, 1, 62);
  std::fill(p.h.begin(), p.h.end(), 0.0);
  for (const on_failure failure : {on_failure::error, on_failure::more_damp}) {
    const error e = error_of([&] {
      (void)quantized_planar<4, zero_points::none>(p, 32,
                                                   {.hessian = p.hessian(), .failure = failure});
    });
    CHECK(e.code() == errc::not_positive_definite);
    CHECK(contains(e.what(), "no input of this layer was ever seen"));
  }
  const planar_result rounded = quantized_planar<4, zero_points::none>(
      p, 32, {.hessian = p.hessian(), .failure = on_failure::round_to_nearest});
  CHECK(rounded.report.fell_back);
  CHECK(rounded.report.dead_columns == 64);
  CHECK(rounded.report.damp == 0);
  CHECK(rounded.values ==
        values_by(p, planar_matrix<int_grid<4, zero_points::none>, f32_scale>(4, 64, {32}), rtn{}));
}

TEST_CASE("gptq: a Hessian that is not positive definite") {
  problem p = synthetic(6, 96, 300, 1, 63);
  p.h[97 * 50] = -0.3 * p.h[97 * 49];  // an eigenvalue that a damp of about a third lifts
  const auto run = [&](on_failure failure) {
    return quantized_planar<4, zero_points::none>(
        p, 32, {.hessian = p.hessian(), .damp = 0.01F, .failure = failure});
  };
  const error e = error_of([&] { (void)run(on_failure::error); });
  CHECK(e.code() == errc::not_positive_definite);
  CHECK(contains(e.what(), "with damp 0.010000"));
  CHECK(contains(e.what(), "column 50"));
  const planar_result nearest = run(on_failure::round_to_nearest);
  CHECK(nearest.report.fell_back);
  CHECK(nearest.values ==
        values_by(p, planar_matrix<int_grid<4, zero_points::none>, f32_scale>(6, 96, {32}), rtn{}));
  p.h[97 * 50] = -1e3 * p.h[97 * 49];
  CHECK(contains(error_of([&] { (void)run(on_failure::more_damp); }).what(), "with damp 0.640000"));
}

TEST_CASE("gptq: fewer tokens than columns") {
  const problem p = synthetic(6, 96, 20, 0, 64);
  const auto run = [&](float damp, index_t tokens, on_failure failure) {
    return quantized_planar<4, zero_points::none>(
        p, 32, {.hessian = p.hessian(), .tokens = tokens, .damp = damp, .failure = failure});
  };
  CHECK(error_of([&] { (void)run(0, 0, on_failure::error); }).code() ==
        errc::not_positive_definite);
  const planar_result lifted = run(0, 0, on_failure::more_damp);
  CHECK(lifted.report.fell_back);
  CHECK(lifted.report.damp == 0.01F);
  CHECK(run(gptq::automatic_damp, 0, on_failure::error).report.damp == 0.05F);
  CHECK(run(gptq::automatic_damp, 20, on_failure::error).report.damp == 0.2F);
  CHECK(run(gptq::automatic_damp, 96, on_failure::error).report.damp == 0.1F);
  CHECK(run(gptq::automatic_damp, 192, on_failure::error).report.damp == 0.025F);
  CHECK(run(gptq::automatic_damp, 9600, on_failure::error).report.damp == 0.01F);
  CHECK_FALSE(run(gptq::automatic_damp, 20, on_failure::error).report.fell_back);
}

TEST_CASE("gptq: NaN and Inf, in the Hessian and among the weights") {
  problem p = synthetic(4, 64, 100, 1, 65);
  const planar_result sound =
      quantized_planar<4, zero_points::none>(p, 32, {.hessian = p.hessian()});
  for (const double bad :
       {std::numeric_limits<double>::quiet_NaN(), std::numeric_limits<double>::infinity()}) {
    const double kept = p.h[64 * 3 + 7];
    p.h[64 * 3 + 7] = bad;
    for (const on_failure failure : {on_failure::error, on_failure::more_damp}) {
      const error e = error_of([&] {
        (void)quantized_planar<4, zero_points::none>(p, 32,
                                                     {.hessian = p.hessian(), .failure = failure});
      });
      CHECK(e.code() == errc::non_finite);
      CHECK(contains(e.what(), "row 3, column 7"));
    }
    CHECK(quantized_planar<4, zero_points::none>(
              p, 32, {.hessian = p.hessian(), .failure = on_failure::round_to_nearest})
              .report.fell_back);
    p.h[64 * 3 + 7] = kept;
  }
  p.w[70] = std::numeric_limits<float>::quiet_NaN();
  CHECK(error_of([&] {
          (void)quantized_planar<4, zero_points::none>(p, 32, {.hessian = p.hessian()});
        }).code() == errc::non_finite);
  const planar_result zeroed = quantized_planar<4, zero_points::none>(
      p, 32, {.hessian = p.hessian(), .on_non_finite = non_finite::zero});
  p.w[70] = 0;
  CHECK(zeroed.codes ==
        quantized_planar<4, zero_points::none>(p, 32, {.hessian = p.hessian()}).codes);
  CHECK(std::equal(zeroed.codes.begin(), zeroed.codes.begin() + 64, sound.codes.begin()));
}

TEST_CASE("gptq: single rows, single columns, groups longer than the row, and nothing at all") {
  const problem row = synthetic(1, 72, 100, 1, 71);
  const planar_result alone = quantized_planar<4, zero_points::none>(
      row, 32, {.hessian = row.hessian(), .damp = 0.01F, .order = column_order::natural});
  gptq_settings s;
  s.group = 32;
  CHECK(alone.codes == test_support::plain_gptq(row.exact_weights(), 1, row.h, 72, s).codes);

  problem column = synthetic(5, 1, 10, 1, 72);
  const planar_result thin = quantized_planar<4, zero_points::integer>(
      column, 128, {.hessian = column.hessian(), .order = column_order::activation});
  for (std::size_t r = 0; r < 5; ++r) {
    CHECK(std::abs(thin.values[r] - column.w[r]) <= 0.5F * thin.scales[r] * 1.001F);
  }

  const problem p = synthetic(4, 48, 100, 1, 73);
  CHECK(quantized_planar<4, zero_points::none>(p, 4096, {.hessian = p.hessian()}).codes ==
        quantized_planar<4, zero_points::none>(p, 48, {.hessian = p.hessian()}).codes);

  planar_matrix<int_grid<4>, half> whole_rows(4, 48, {48});
  quantize_into(p.weights(), whole_rows,
                gptq{.hessian = p.hessian(), .order = column_order::activation});
  CHECK(whole_rows.view().order() == nullptr);
  planar_matrix<int_grid<4>, half> scattered(4, 48, {16});
  quantize_into(p.weights(), scattered,
                gptq{.hessian = p.hessian(), .order = column_order::activation});
  CHECK(scattered.view().order() != nullptr);

  planar_matrix<int_grid<4>, half> none(0, 48, {16});
  CHECK_NOTHROW(quantize_into(matrix_view<const float>(p.w.data(), 0, 48), none,
                              gptq{.hessian = p.hessian()}));
  block_matrix<q4_k> empty(3, 0);
  CHECK_NOTHROW(quantize_into(matrix_view<const float>(p.w.data(), 3, 0), empty, gptq{}));
}

TEST_CASE("gptq: more rows than are worked on at a time") {
  const problem p = synthetic(2100, 16, 40, 1, 74);
  const planar_result all = quantized_planar<4, zero_points::none>(p, 16, {.hessian = p.hessian()});
  problem last = p;
  last.n = 60;
  last.w.assign(p.w.end() - 60 * 16, p.w.end());
  const planar_result tail =
      quantized_planar<4, zero_points::none>(last, 16, {.hessian = p.hessian()});
  CHECK(std::equal(tail.codes.begin(), tail.codes.end(), all.codes.end() - 60 * 16));
}

TEST_CASE("gptq: options out of range and shapes that do not fit") {
  const problem p = synthetic(4, 64, 100, 1, 81);
  const auto rejected = [&](const gptq& policy, errc code, const char* subject) {
    const error e = error_of([&] { (void)quantized_planar<4, zero_points::none>(p, 32, policy); });
    CHECK(e.code() == code);
    CHECK(e.subject() == subject);
  };
  rejected({}, errc::bad_shape, "hessian");
  rejected({.hessian = matrix_view<const double>(p.h.data(), 64, 63)}, errc::bad_shape, "hessian");
  rejected({.hessian = matrix_view<const double>(p.h.data(), 63, 63)}, errc::bad_shape, "hessian");
  rejected({.hessian = p.hessian(), .damp = -0.5F}, errc::bad_argument, "damp");
  rejected({.hessian = p.hessian(), .damp = std::numeric_limits<float>::infinity()},
           errc::bad_argument, "damp");
  rejected({.hessian = p.hessian(), .column_block = 0}, errc::bad_argument, "column_block");
  rejected({.hessian = p.hessian(), .tokens = -1}, errc::bad_argument, "tokens");
  rejected({.hessian = p.hessian(), .memory_limit = -1}, errc::bad_argument, "memory_limit");

  planar_matrix<int_grid<4>, half> ordered(4, 64, {32});
  std::vector<std::int32_t> order(64);
  for (std::size_t j = 0; j < 64; ++j) order[j] = static_cast<std::int32_t>(63 - j);
  ordered.set_column_order(order);
  CHECK(error_of([&] {
          (void)quantize_into(p.weights(), ordered, gptq{.hessian = p.hessian()});
        }).subject() == "target");
}

TEST_CASE("gptq: progress rises to 1, and a cancelled run leaves the target as it was") {
  const problem p = synthetic(32, 300, 400, 1, 82);
  planar_matrix<int_grid<4>, half> target(32, 300, {64});
  quantize_into(p.weights(), target, rtn{});
  const auto before = test_support::codes_of(target);
  const auto scales_before = test_support::scales_of(target);

  std::vector<double> seen;
  const auto note = [&](double fraction) {
    seen.push_back(fraction);
    return true;
  };
  const planar_result whole =
      quantized_planar<4, zero_points::none>(p, 64, {.hessian = p.hessian(), .progress = note});
  REQUIRE(seen.size() == 5 + 3);  // the factor's panels of 128, down and up, and blocks of 128
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  CHECK(seen.back() == Approx(1.0));

  for (std::size_t stop = 1; stop <= seen.size(); ++stop) {
    std::size_t calls = 0;
    const auto refuse = [&](double) { return ++calls < stop; };
    const error e = error_of([&] {
      (void)quantize_into(
          p.weights(), target,
          gptq{.hessian = p.hessian(), .order = column_order::activation, .progress = refuse});
    });
    CHECK(e.code() == errc::cancelled);
    CHECK(test_support::codes_of(target) == before);
    CHECK(test_support::scales_of(target) == scales_before);
    CHECK(target.view().order() == nullptr);
  }
}

TEST_CASE("gptq: the memory that is asked for is stated, and bounded by three squares of doubles") {
  const problem p = synthetic(256, 512, 40, 1, 83);
  const auto run = [&](index_t limit) {
    return quantized_planar<4, zero_points::integer>(
        p, 128, {.hessian = p.hessian(), .memory_limit = limit});
  };
  CHECK_NOTHROW(run(3 * 512 * 512 * 8 + 256 * 512 * 4));
  const error e = error_of([&] { (void)run(1000); });
  CHECK(e.code() == errc::out_of_memory);
  const std::string message = e.what();
  const index_t needed = std::stoll(message.substr(message.rfind(' ') + 1));
  CHECK(needed >= 512 * 512 * 12);
  CHECK_NOTHROW(run(needed));
  CHECK(error_of([&] { (void)run(needed - 1); }).code() == errc::out_of_memory);
}
