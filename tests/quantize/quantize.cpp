// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/quantize.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

template <class F>
bool same_bytes(const quantized<F>& first, const quantized<F>& second) {
  const auto a = first.view();
  const auto b = second.view();
  return a.size_bytes() == b.size_bytes() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size_bytes())) == 0;
}

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

}  // namespace

TEST_CASE("quantize: the bytes do not depend on the number of threads, in any format") {
  const index_t rows = 37;
  const index_t cols = 512;
  const auto w = test_support::normal_vector(37 * 512, 0.02, 21);
  auto importance = test_support::normal_vector(512, 1.0, 22);
  for (float& v : importance) v *= v;
  for_each_type(all_formats{}, [&]<class F>(std::type_identity<F>) {
    INFO(F::name);
    const matrix_view<const float> view(w.data(), rows, cols);
    const auto plain = quantize<F>(view);
    const auto weighted = quantize<F>(view, reference{.importance = importance});
    for (const int threads : {2, 5}) {
      thread_pool pool(threads);
      const auto other = quantize<F>(view, best{}, pool);
      REQUIRE(same_bytes(plain, other));
      REQUIRE(plain.report.error.mse == other.report.error.mse);
      REQUIRE(same_bytes(weighted, quantize<F>(view, reference{.importance = importance}, pool)));
    }
  });
}

TEST_CASE("quantize: row-scaled formats take any strides and threads, and whole blocks only") {
  const index_t rows = 9;
  const index_t cols = 512;
  const auto w = test_support::normal_vector(9 * 512, 0.02, 31);
  auto importance = test_support::normal_vector(512, 1.0, 32);
  for (float& v : importance) v *= v;
  std::vector<float> columns_first(9 * 512);
  for (std::size_t r = 0; r < 9; ++r) {
    for (std::size_t k = 0; k < 512; ++k) columns_first[k * 9 + r] = w[r * 512 + k];
  }
  const matrix_view<const float> view(w.data(), rows, cols);
  const weights_view turned =
      transposed(matrix_view<const float>(columns_first.data(), cols, rows));
  for_each_type(row_scaled_formats{}, [&]<class F>(std::type_identity<F>) {
    INFO(F::name);
    const auto plain = quantize<F>(view);
    const auto weighted = quantize<F>(view, reference{.importance = importance});
    REQUIRE(same_bytes(plain, quantize<F>(turned)));
    REQUIRE(!same_bytes(plain, weighted));
    thread_pool pool(3);
    REQUIRE(same_bytes(plain, quantize<F>(view, reference{}, pool)));
    REQUIRE(same_bytes(weighted, quantize<F>(view, reference{.importance = importance}, pool)));
    const auto row_bits = 8.0 * static_cast<double>(plain.view().row_bytes());
    REQUIRE(plain.report.bits_per_weight == Approx(row_bits / 512));
    // The error that a uniform grid of as many levels over +-3.5 deviations would leave.
    const double step = 7.0 * 0.02 / ((1 << F::codebook::bits) - 1);
    REQUIRE(std::sqrt(plain.report.error.mse) < 0.5 * step);
    const matrix_view<const float> ragged(w.data(), 2, 300);
    REQUIRE(test_support::error_of([&] { (void)quantize<F>(ragged); }).code() == errc::bad_shape);
  });
}

TEST_CASE("quantize: row-scaled formats refuse NaN, or take it as zero, as any") {
  auto w = test_support::normal_vector(512, 0.02, 33);
  w[300] = not_a_number;
  const matrix_view<const float> view(w.data(), 1, 512);
  REQUIRE(test_support::error_of([&] { (void)quantize<iq4_ks>(view); }).code() == errc::non_finite);
  const auto taken = quantize<iq4_ks>(view, reference{.on_non_finite = non_finite::zero});
  w[300] = 0;
  const auto zero = quantize<iq4_ks>(view);
  REQUIRE(same_bytes(taken, zero));
}

TEST_CASE("quantize: strided weights give the bytes of their dense copy") {
  const index_t rows = 6;
  const index_t cols = 300;
  const auto w = test_support::normal_vector(6 * 300, 0.02, 23);
  std::vector<float> columns_first(6 * 300);
  for (std::size_t r = 0; r < 6; ++r) {
    for (std::size_t k = 0; k < 300; ++k) columns_first[k * 6 + r] = w[r * 300 + k];
  }
  const auto dense = quantize<q5_k>(matrix_view<const float>(w.data(), rows, cols));
  const auto other =
      quantize<q5_k>(transposed(matrix_view<const float>(columns_first.data(), cols, rows)));
  REQUIRE(same_bytes(dense, other));

  auto importance = test_support::normal_vector(300, 1.0, 32);
  for (float& v : importance) v *= v;
  const reference policy{.importance = importance};
  const auto weighted = quantize<q4_0>(matrix_view<const float>(w.data(), rows, cols), policy);
  const auto other_weighted = quantize<q4_0>(
      transposed(matrix_view<const float>(columns_first.data(), cols, rows)), policy);
  REQUIRE(same_bytes(weighted, other_weighted));
}

TEST_CASE("quantize: a cut block is the block of the zero-padded row") {
  const auto w = test_support::normal_vector(2 * 40, 1.0, 24);
  std::vector<float> padded(2 * 64, 0.0F);
  for (std::size_t i = 0; i < 80; ++i) padded[i / 40 * 64 + i % 40] = w[i];
  const auto cut = quantize<q4_1>(matrix_view<const float>(w.data(), 2, 40), reference{});
  const auto whole = quantize<q4_1>(matrix_view<const float>(padded.data(), 2, 64), reference{});
  REQUIRE(cut.view().cols() == 40);
  REQUIRE(same_bytes(cut, whole));
  REQUIRE(cut.report.bits_per_weight == 8.0 * 2 * 2 * sizeof(q4_1) / 80);
  REQUIRE(whole.report.bits_per_weight == bits_per_weight<q4_1>);
}

TEST_CASE("quantize: the report is the error of the decoded weights") {
  const auto w = test_support::normal_vector(5 * 256, 1.0, 25);
  const auto q = quantize<q3_k>(matrix_view<const float>(w.data(), 5, 256));
  const auto back = test_support::decoded(q.view());
  double error = 0;
  double signal = 0;
  double largest = 0;
  for (std::size_t i = 0; i < w.size(); ++i) {
    const double e = static_cast<double>(w[i]) - static_cast<double>(back[i]);
    error += e * e;
    signal += static_cast<double>(w[i]) * static_cast<double>(w[i]);
    largest = std::max(largest, std::abs(e));
  }
  // Both sums have 1280 non-negative terms in double.
  const double slack = 1280 * std::numeric_limits<double>::epsilon();
  REQUIRE(std::abs(q.report.error.mse - error / 1280) <= slack * error / 1280);
  REQUIRE(std::abs(q.report.error.nmse - error / signal) <= 2 * slack * error / signal);
  REQUIRE(q.report.error.max_abs == largest);
  REQUIRE(q.report.error.count == 1280);
}

TEST_CASE("quantize: formats that hold every float have no error, importance or not") {
  const auto w = test_support::normal_vector(3 * 50, 1.0, 26);
  const std::vector<float> importance(50, 2.0F);
  const auto q =
      quantize<f32>(matrix_view<const float>(w.data(), 3, 50), reference{.importance = importance});
  REQUIRE(q.report.error.mse == 0);
  REQUIRE(q.report.error.sqnr_db == static_cast<double>(infinity));
  REQUIRE(test_support::decoded(q.view()) == w);
}

TEST_CASE("quantize: an empty matrix is an empty matrix") {
  const auto q = quantize<q4_k>(matrix_view<const float>(nullptr, 0, 256));
  REQUIRE(q.view().rows() == 0);
  REQUIRE(q.report.bits_per_weight == 0);
  const auto no_columns = quantize<q4_k>(matrix_view<const float>(nullptr, 3, 0));
  REQUIRE(no_columns.view().size_bytes() == 0);
}

#if defined(__cpp_exceptions)

TEST_CASE("quantize: the first NaN or Inf in row order is named, for any thread count") {
  for (const float bad : {not_a_number, infinity, -infinity}) {
    auto w = test_support::normal_vector(200 * 64, 1.0, 29);
    w[150 * 64 + 3] = bad;
    w[40 * 64 + 63] = bad;
    w[41 * 64] = bad;
    for (const int threads : {1, 4}) {
      thread_pool pool(threads);
      const error e = test_support::error_of([&] {
        (void)quantize<q4_k>(matrix_view<const float>(w.data(), 200, 64), reference{}, pool);
      });
      REQUIRE(e.code() == errc::non_finite);
      REQUIRE(e.subject() == "weights");
      REQUIRE(std::string(e.what()).find("row 40, column 63") != std::string::npos);
    }
  }
  // A row whose finite values overflow when added is not refused.
  const std::vector<float> large(64, 3e38F);
  (void)quantize<f32>(matrix_view<const float>(large.data(), 1, 64));
}

TEST_CASE("quantize_into: a target of another shape is an error that names both") {
  const auto w = test_support::normal_vector(2 * 64, 1.0, 31);
  block_matrix<q8_0> target(2, 32);
  const error e = test_support::error_of(
      [&] { quantize_into(matrix_view<const float>(w.data(), 2, 64), target); });
  REQUIRE(e.code() == errc::bad_shape);
  REQUIRE(std::string(e.what()) == "target: is 2 x 32, the weights are 2 x 64");
  for (const index_t other_rows : {1, 3}) {
    block_matrix<q8_0> of_other_rows(other_rows, 64);
    REQUIRE(test_support::error_of([&] {
              quantize_into(matrix_view<const float>(w.data(), 2, 64), of_other_rows);
            }).code() == errc::bad_shape);
  }
}
#endif
