// SPDX-License-Identifier: Apache-2.0
#include "subbyte/kernel/gemv.hpp"

#include <cmath>
#include <cstring>
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

// The documented order of operations, written out once more without registers.
std::vector<float> specification(const std::vector<float>& w, const std::vector<float>& x,
                                 std::size_t rows) {
  std::vector<float> y(rows);
  for (std::size_t r = 0; r < rows; ++r) {
    float lane[16] = {};
    for (std::size_t k = 0; k < x.size(); ++k) {
      lane[k % 16] = std::fma(w[r * x.size() + k], x[k], lane[k % 16]);
    }
    for (int stride = 8; stride > 0; stride /= 2) {
      for (int i = 0; i < stride; ++i) lane[i] += lane[i + stride];
    }
    y[r] = lane[0];
  }
  return y;
}

template <class F>
void check(index_t rows, index_t cols) {
  const auto seed = static_cast<std::uint64_t>(1000 * rows + cols);
  const auto w = test_support::encoded<F>(
      test_support::normal_vector(static_cast<std::size_t>(rows * cols), 0.02, seed), rows, cols);
  const auto x = test_support::normal_vector(static_cast<std::size_t>(cols), 1.0, seed + 1);
  const auto expected =
      specification(test_support::decoded(w.view()), x, static_cast<std::size_t>(rows));
  INFO(F::name << ' ' << rows << " x " << cols);
  test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
    INFO(Arch::name);
    std::vector<float> y(static_cast<std::size_t>(rows), NAN);
    gemv<Arch>(w.view(), x, y);
    REQUIRE(std::memcmp(y.data(), expected.data(), y.size() * sizeof(float)) == 0);
  });
}

}  // namespace

TEST_CASE("gemv: every format on every arch gives the bits of the sixteen-lane specification") {
  for_each_type(test_support::tested_formats{}, []<class F>(std::type_identity<F>) {
    check<F>(9, 512);
    check<F>(6, 300);  // a cut block at the end of each row
    check<F>(1, 1);
  });
}

TEST_CASE("gemv: row counts around the number of rows done together") {
  for (index_t rows = 1; rows <= 9; ++rows) check<q4_0>(rows, 96);
  check<q6_k>(131, 256);
}

TEST_CASE("gemv: activations past the last column are not read") {
  const index_t cols = 33;
  const auto w = test_support::encoded<q8_0>(test_support::normal_vector(2 * 33, 1.0, 5), 2, cols);
  // On the heap with no slack, so that the address sanitizer sees a read beyond.
  const auto x = test_support::normal_vector(static_cast<std::size_t>(cols), 1.0, 6);
  std::vector<float> y(2);
  gemv(w.view(), vector_view<const float>(x.data(), cols), y);
  REQUIRE(y == specification(test_support::decoded(w.view()), x, 2));
}

TEST_CASE("gemv: the result does not depend on the number of threads") {
  const index_t rows = 1000;
  const index_t cols = 256;
  const auto w =
      test_support::encoded<q4_k>(test_support::normal_vector(1000 * 256, 0.02, 7), rows, cols);
  const auto x = test_support::normal_vector(256, 1.0, 8);
  std::vector<float> alone(1000);
  gemv(w.view(), x, alone);
  for (const int threads : {1, 2, 3, 7}) {
    thread_pool pool(threads);
    std::vector<float> y(1000, NAN);
    gemv(w.view(), x, y, pool);
    REQUIRE(y == alone);
  }
}

TEST_CASE("gemv: a matrix without columns gives zeros, one without rows gives nothing") {
  const std::vector<float> x;
  std::vector<float> y(3, NAN);
  const block_matrix<q4_0> no_columns(3, 0);
  gemv(no_columns.view(), x, y);
  REQUIRE(y == std::vector<float>{0, 0, 0});
  const block_matrix<q4_0> no_rows(0, 32);
  std::vector<float> nothing;
  gemv(no_rows.view(), std::vector<float>(32, 1.0F), nothing);
  REQUIRE(nothing.empty());
}
