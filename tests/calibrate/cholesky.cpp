// SPDX-License-Identifier: Apache-2.0
/// The factor of the inverse against the textbook's route through the inverse itself, against
/// gptqmodel's, and what is not positive definite.
#include "subbyte/calibrate/cholesky.hpp"

#include <algorithm>
#include <cmath>
#include <cstring>  // std::memcmp
#include <limits>

#include "subbyte/exec/thread_pool.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/files.hpp"  // contains
#include "support/golden_python.hpp"
#include "support/gptq_reference.hpp"
#include "support/random.hpp"

using namespace subbyte;
using test_support::contains;
using test_support::error_of;

namespace {

/// X^T X of `tokens` rows of correlated channels.
tensor<double, 2> gram(index_t k, index_t tokens, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  tensor<double, 2> h(k, k);
  std::vector<double> x(static_cast<std::size_t>(k));
  for (index_t t = 0; t < tokens; ++t) {
    const double common = test_support::normal(generator);
    for (double& v : x) v = common + test_support::normal(generator);
    for (index_t i = 0; i < k; ++i) {
      for (index_t j = 0; j < k; ++j) {
        h(i, j) += x[static_cast<std::size_t>(i)] * x[static_cast<std::size_t>(j)];
      }
    }
  }
  return h;
}

std::vector<double> values(const tensor<double, 2>& m) { return {m.data(), m.data() + m.size()}; }

std::vector<double> damped(const tensor<double, 2>& h, double damp) {
  std::vector<double> d = values(h);
  const auto k = static_cast<std::size_t>(h.extent(0));
  double trace = 0;
  for (std::size_t i = 0; i < k; ++i) trace += d[i * k + i];
  for (std::size_t i = 0; i < k; ++i) d[i * k + i] += damp * trace / static_cast<double>(k);
  return d;
}

double largest(const std::vector<double>& v) {
  double m = 0;
  for (const double x : v) m = std::max(m, std::abs(x));
  return m;
}

}  // namespace

TEST_CASE("cholesky: the factor equals the one taken through the inverse") {
  // Both are backward stable: they agree to k eps times the condition number, here below 1e4.
  for (const index_t k : {1, 2, 7, 127, 128, 129, 255, 257, 300}) {
    INFO("k = " << k);
    const tensor<double, 2> h = gram(k, 2 * k + 3, 11);
    const tensor<double, 2> u = inverse_cholesky(h.view(), 0.05);
    const auto expected =
        test_support::plain_inverse_factor(damped(h, 0.05), static_cast<std::size_t>(k));
    double difference = 0;
    for (index_t i = 0; i < k; ++i) {
      for (index_t j = 0; j < k; ++j) {
        difference =
            std::max(difference, std::abs(u(i, j) - expected[static_cast<std::size_t>(i * k + j)]));
        if (j < i) REQUIRE(u(i, j) == 0);
      }
    }
    CHECK(difference <= 1e4 * static_cast<double>(k) * 0x1p-52 * largest(expected));
  }
}

TEST_CASE("cholesky: U^T U times H is the identity") {
  const index_t k = 200;
  const tensor<double, 2> h = gram(k, 500, 3);
  const tensor<double, 2> u = inverse_cholesky(h.view(), 0);
  double worst = 0;
  for (index_t i = 0; i < k; ++i) {
    std::vector<double> row(static_cast<std::size_t>(k));  // row i of U^T U
    for (index_t j = 0; j < k; ++j) {
      for (index_t c = 0; c <= std::min(i, j); ++c) {
        row[static_cast<std::size_t>(j)] += u(c, i) * u(c, j);
      }
    }
    for (index_t j = 0; j < k; ++j) {
      double sum = i == j ? -1.0 : 0.0;
      for (index_t c = 0; c < k; ++c) sum += row[static_cast<std::size_t>(c)] * h(c, j);
      worst = std::max(worst, std::abs(sum));
    }
  }
  CHECK(worst < 1e-10);  // k eps times the condition number, about 1e4
}

TEST_CASE("cholesky: gptqmodel's factor") {
  const auto file = test_support::golden_file("gptqmodel/gptq_run_k128.safetensors");
  const auto h = test_support::golden_values<float>(file, "H");
  const auto golden = test_support::golden_values<float>(file, "v0.U");
  const tensor<double, 2> u = inverse_cholesky(matrix_view<const float>(h.data(), 128, 128), 0.05);
  double worst = 0;
  double most = 0;
  for (index_t i = 0; i < 128; ++i) {
    for (index_t j = 0; j < 128; ++j) {
      const auto g = static_cast<double>(golden[static_cast<std::size_t>(128 * i + j)]);
      worst = std::max(worst, std::abs(u(i, j) - g));
      most = std::max(most, std::abs(g));
    }
  }
  // Three single-precision factorisations there: a few hundred units in the last place.
  CHECK(worst < 512 * 0x1p-24 * most);
}

TEST_CASE("cholesky: the published example's factor") {
  const double x[7][6] = {{3, 2, 1, 0, 1, 2}, {2, 3, 2, 1, 0, 1}, {1, 2, 3, 2, 1, 0},
                          {0, 1, 2, 3, 2, 1}, {1, 0, 1, 2, 3, 2}, {2, 1, 0, 1, 2, 3},
                          {4, 4, 4, 4, 4, 4}};
  tensor<double, 2> h(6, 6);
  for (index_t i = 0; i < 6; ++i) {
    for (index_t j = 0; j < 6; ++j) {
      for (const auto& row : x) h(i, j) += 2.0 / 7.0 * row[i] * row[j];
    }
  }
  const tensor<double, 2> u = inverse_cholesky(h.view(), 0.01);
  const double diagonal[] = {1.959611, 1.653847, 0.823711, 0.778429, 0.740521, 0.314658};
  const double first[] = {1.959611, -1.051126, -0.646535, 1.44578, -0.646535, -1.051126};
  for (index_t i = 0; i < 6; ++i) {
    CHECK(std::abs(u(i, i) - diagonal[i]) < 1e-6);
    CHECK(std::abs(u(0, i) - first[i]) < 1e-5);
  }
}

TEST_CASE("cholesky: the same bits for any number of threads") {
  const tensor<double, 2> h = gram(700, 900, 5);
  const tensor<double, 2> alone = inverse_cholesky(h.view(), 0.01);
  for (const int threads : {2, 3, 5}) {
    thread_pool pool(threads);
    const tensor<double, 2> shared = inverse_cholesky(h.view(), 0.01, pool);
    CHECK(std::memcmp(alone.data(), shared.data(), static_cast<std::size_t>(700 * 700 * 8)) == 0);
  }
}

TEST_CASE("cholesky: only the upper triangle is read, at any pitch, in float too") {
  const index_t k = 150;
  const tensor<double, 2> h = gram(k, 300, 6);
  const tensor<double, 2> u = inverse_cholesky(h.view(), 0.01);
  tensor<double, 2> wide(k, k + 5);
  for (index_t i = 0; i < k; ++i) {
    for (index_t j = 0; j < k + 5; ++j) {
      wide(i, j) = j >= i && j < k ? h(i, j) : std::numeric_limits<double>::quiet_NaN();
    }
  }
  const tensor_view<const double, 2, strided> pitched(wide.data(), {k, k}, {k + 5, 1});
  const tensor<double, 2> from_wide = inverse_cholesky(pitched, 0.01);
  CHECK(std::memcmp(u.data(), from_wide.data(), static_cast<std::size_t>(k * k * 8)) == 0);

  tensor<float, 2> single(k, k);
  tensor<double, 2> rounded(k, k);
  for (index_t i = 0; i < k * k; ++i) {
    single.data()[i] = static_cast<float>(h.data()[i]);
    rounded.data()[i] = static_cast<double>(single.data()[i]);
  }
  const tensor<double, 2> of_floats = inverse_cholesky(single.view(), 0.01);
  const tensor<double, 2> of_doubles = inverse_cholesky(rounded.view(), 0.01);
  CHECK(std::memcmp(of_floats.data(), of_doubles.data(), static_cast<std::size_t>(k * k * 8)) == 0);
}

TEST_CASE("cholesky: what has no factor is refused with its column and the damp") {
  // Twice the same channel, once inside a panel and once across panels.
  for (const index_t twin : {3, 200}) {
    tensor<double, 2> h = gram(260, 600, 7);
    for (index_t j = 0; j < 260; ++j) h(twin, j) = h(j, twin) = h(250, j);
    h(twin, twin) = h(twin, index_t{250}) = h(index_t{250}, twin) = h(index_t{250}, index_t{250});
    const error e = error_of([&] { (void)inverse_cholesky(h.view(), 0); });
    CHECK(e.code() == errc::not_positive_definite);
    CHECK(e.subject() == "hessian");
    CHECK(contains(e.what(), "with damp 0.000000 the pivot of column " + std::to_string(twin)));
    CHECK_NOTHROW((void)inverse_cholesky(h.view(), 0.01));
  }
  tensor<double, 2> negative(3, 3);
  for (index_t i = 0; i < 3; ++i) negative(i, i) = i == 1 ? -1.0 : 1.0;
  CHECK(contains(error_of([&] { (void)inverse_cholesky(negative.view(), 0); }).what(),
                 "column 1 of 3"));
  tensor<double, 2> poisoned = gram(140, 300, 8);
  poisoned(4, 139) = std::numeric_limits<double>::quiet_NaN();
  CHECK(error_of([&] { (void)inverse_cholesky(poisoned.view(), 0.05); }).code() ==
        errc::not_positive_definite);
  // A pivot of one unit in the last place is what rounding left, eight are not.
  for (const double units : {1.0, 8.0}) {
    tensor<double, 2> thin(2, 2);
    for (index_t i = 0; i < 4; ++i) thin.data()[i] = 1;
    thin(0, 0) += units * 0x1p-52;
    if (units == 1) {
      CHECK(error_of([&] { (void)inverse_cholesky(thin.view(), 0); }).code() ==
            errc::not_positive_definite);
    } else {
      CHECK_NOTHROW((void)inverse_cholesky(thin.view(), 0));
    }
  }
  const tensor<double, 2> oblong(3, 4);
  CHECK(error_of([&] { (void)inverse_cholesky(oblong.view(), 0.05); }).code() == errc::bad_shape);
  CHECK(inverse_cholesky(hessian_view{}, 0.05).size() == 0);
}

TEST_CASE("cholesky: fewer tokens than columns need a damp") {
  const tensor<double, 2> h = gram(96, 20, 9);
  CHECK(error_of([&] { (void)inverse_cholesky(h.view(), 0); }).code() ==
        errc::not_positive_definite);
  CHECK_NOTHROW((void)inverse_cholesky(h.view(), 1e-6));
}

TEST_CASE("cholesky: progress rises to 1, and false stops the work") {
  const tensor<double, 2> h = gram(400, 500, 10);
  std::vector<double> seen;
  const auto note = [&](double fraction) {
    seen.push_back(fraction);
    return true;
  };
  (void)inverse_cholesky(h.view(), 0.01, serial, note);
  REQUIRE(seen.size() == 7);  // four panels down, three up
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  CHECK(seen.back() == 1.0);
  for (std::size_t stop = 1; stop <= 7; ++stop) {
    std::size_t calls = 0;
    const auto refuse = [&](double) { return ++calls < stop; };
    CHECK(error_of([&] { (void)inverse_cholesky(h.view(), 0.01, serial, refuse); }).code() ==
          errc::cancelled);
    CHECK(calls == stop);
  }
}
