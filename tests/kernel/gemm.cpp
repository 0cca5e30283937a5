// SPDX-License-Identifier: Apache-2.0
#include "subbyte/kernel/gemm.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "support/archs.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/tested_formats.hpp"

using namespace subbyte;

namespace {

constexpr double eps = std::numeric_limits<float>::epsilon();

struct problem {
  index_t m, n, k;
};

// out[i, j] against sum_t left(i, t) * right(t, j) in double, with the stated bound.
template <class Left, class Right>
void check_bound(const std::vector<float>& out, index_t rows, index_t cols, index_t terms,
                 Left left, Right right) {
  for (index_t i = 0; i < rows; ++i) {
    for (index_t j = 0; j < cols; ++j) {
      double exact = 0;
      double magnitude = 0;
      for (index_t t = 0; t < terms; ++t) {
        const double product = static_cast<double>(left(i, t)) * static_cast<double>(right(t, j));
        exact += product;
        magnitude += std::abs(product);
      }
      const double found = static_cast<double>(out[static_cast<std::size_t>(i * cols + j)]);
      INFO("element " << i << ", " << j << ": " << found << ", exact " << exact);
      REQUIRE(std::abs(found - exact) <= static_cast<double>(terms + 1) * eps * magnitude);
    }
  }
}

template <class F>
void check(problem p) {
  const auto seed = static_cast<std::uint64_t>(p.m * 7919 + p.n * 104729 + p.k);
  const auto w = test_support::encoded<F>(
      test_support::normal_vector(static_cast<std::size_t>(p.n * p.k), 0.02, seed), p.n, p.k);
  const auto weights = test_support::decoded(w.view());
  const auto a = test_support::normal_vector(static_cast<std::size_t>(p.m * p.k), 1.0, seed + 1);
  const auto dy = test_support::normal_vector(static_cast<std::size_t>(p.m * p.n), 1.0, seed + 2);
  const auto weight = [&](index_t r, index_t t) {
    return weights[static_cast<std::size_t>(r * p.k + t)];
  };
  INFO(F::name << " m " << p.m << " n " << p.n << " k " << p.k);
  test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
    INFO(Arch::name);
    std::vector<float> c(static_cast<std::size_t>(p.m * p.n), NAN);
    gemm<Arch>(w.view(), {a.data(), p.m, p.k}, {c.data(), p.m, p.n});
    check_bound(
        c, p.m, p.n, p.k,
        [&](index_t i, index_t t) { return a[static_cast<std::size_t>(i * p.k + t)]; },
        [&](index_t t, index_t j) { return weight(j, t); });

    std::vector<float> dx(static_cast<std::size_t>(p.m * p.k), NAN);
    gemm_transposed<Arch>(w.view(), {dy.data(), p.m, p.n}, {dx.data(), p.m, p.k});
    check_bound(
        dx, p.m, p.k, p.n,
        [&](index_t i, index_t t) { return dy[static_cast<std::size_t>(i * p.n + t)]; },
        [&](index_t t, index_t j) { return weight(t, j); });
  });
}

}  // namespace

TEST_CASE("gemm: every format is within the rounding bound, plain and transposed") {
  for_each_type(test_support::tested_formats{}, []<class F>(std::type_identity<F>) {
    check<F>({5, 6, 512});
    check<F>({3, 5, 300});
  });
}

TEST_CASE("gemm: shapes around the tile, the chunk of columns and the register") {
  for (index_t m = 1; m <= 9; ++m) check<q8_0>({m, 5, 40});
  for (index_t n = 1; n <= 18; ++n) check<q8_0>({2, n, 37});
  for (const index_t k : {1, 15, 16, 17, 31, 33, 1023, 1024, 1025, 2050}) check<q4_0>({3, 2, k});
  check<f16>({65, 33, 257});
  check<q5_k>({130, 20, 256});
}

TEST_CASE("gemm: rows at a pitch are left alone between the columns") {
  const index_t m = 3;
  const index_t n = 5;
  const index_t k = 64;
  const auto w = test_support::encoded<q8_0>(test_support::normal_vector(5 * 64, 0.02, 1), n, k);
  const auto dense = test_support::normal_vector(3 * 64, 1.0, 2);
  std::vector<float> a(3 * 70, 9.0F);
  for (index_t i = 0; i < m; ++i) {
    for (index_t t = 0; t < k; ++t) {
      a[static_cast<std::size_t>(i * 70 + t)] = dense[static_cast<std::size_t>(i * k + t)];
    }
  }
  std::vector<float> expected(3 * 5);
  gemm(w.view(), {dense.data(), m, k}, {expected.data(), m, n});
  std::vector<float> c(3 * 8, -1.0F);
  gemm(w.view(), tensor_view<const float, 2, row_pitched>(a.data(), {m, k}, {70}),
       tensor_view<float, 2, row_pitched>(c.data(), {m, n}, {8}));
  for (index_t i = 0; i < m; ++i) {
    for (index_t j = 0; j < 8; ++j) {
      const float found = c[static_cast<std::size_t>(i * 8 + j)];
      REQUIRE(found == (j < n ? expected[static_cast<std::size_t>(i * n + j)] : -1.0F));
    }
  }
}

TEST_CASE("gemm: the result does not depend on the number of threads") {
  const index_t m = 70;
  const index_t n = 150;
  const index_t k = 512;
  const auto w = test_support::encoded<q4_k>(test_support::normal_vector(150 * 512, 0.02, 3), n, k);
  const auto a = test_support::normal_vector(70 * 512, 1.0, 4);
  const auto dy = test_support::normal_vector(70 * 150, 1.0, 5);
  std::vector<float> c(70 * 150);
  std::vector<float> dx(70 * 512);
  gemm(w.view(), {a.data(), m, k}, {c.data(), m, n});
  gemm_transposed(w.view(), {dy.data(), m, n}, {dx.data(), m, k});
  for (const int threads : {2, 3, 7}) {
    thread_pool pool(threads);
    std::vector<float> c_threads(70 * 150, NAN);
    std::vector<float> dx_threads(70 * 512, NAN);
    gemm(w.view(), {a.data(), m, k}, {c_threads.data(), m, n}, pool);
    gemm_transposed(w.view(), {dy.data(), m, n}, {dx_threads.data(), m, k}, pool);
    REQUIRE(c == c_threads);
    REQUIRE(dx == dx_threads);
  }
}

TEST_CASE("gemm: empty batches and matrices without columns") {
  const block_matrix<q4_0> w(3, 0);
  std::vector<float> c(6, NAN);
  gemm(w.view(), tensor_view<const float, 2, row_pitched>(c.data(), {2, 0}, {0}), {c.data(), 2, 3});
  REQUIRE(c == std::vector<float>(6, 0.0F));
  const block_matrix<q4_0> v(3, 32);
  gemm(v.view(), {c.data(), 0, 32}, {c.data(), 0, 3});
  gemm_transposed(v.view(), {c.data(), 0, 3}, {c.data(), 0, 32});
  REQUIRE(c == std::vector<float>(6, 0.0F));
}
