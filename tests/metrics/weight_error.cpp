// SPDX-License-Identifier: Apache-2.0
#include "subbyte/metrics/weight_error.hpp"

#include <cmath>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace subbyte;

TEST_CASE("weight_error: equals the error of the decoded matrix, cut blocks and strides included") {
  const index_t rows = 70;  // more than the pieces that rows are shared out to
  const index_t cols = 300;
  const auto w = test_support::normal_vector(70 * 300, 0.02, 51);
  const auto m = test_support::encoded<q4_k>(w, rows, cols);
  const auto back = test_support::decoded(m.view());
  // The sums are merged per 256 columns here and per row there, so the last bits may differ:
  // each of 21000 additions of non-negative doubles rounds by at most 2^-53.
  const error_report direct = measure_error(matrix_view<const float>(w.data(), rows, cols),
                                            matrix_view<const float>(back.data(), rows, cols));
  const error_report found =
      measure_error(matrix_view<const float>(w.data(), rows, cols), m.view());
  REQUIRE(found.count == direct.count);
  REQUIRE(found.max_abs == direct.max_abs);
  REQUIRE(std::abs(found.mse - direct.mse) <= 2 * 21000 * 0x1p-53 * direct.mse);
  REQUIRE(std::abs(found.nmse - direct.nmse) <= 4 * 21000 * 0x1p-53 * direct.nmse);
  REQUIRE(found.nmse > 0);

  std::vector<float> columns_first(w.size());
  for (std::size_t i = 0; i < w.size(); ++i) columns_first[i % 300 * 70 + i / 300] = w[i];
  const auto strided_view = transposed(matrix_view<const float>(columns_first.data(), cols, rows));
  REQUIRE(measure_error(strided_view, m.view()).mse == found.mse);

  thread_pool pool(3);
  REQUIRE(measure_error(strided_view, m.view(), pool).mse == found.mse);
}

TEST_CASE("weight_error: an exact matrix has none") {
  const auto w = test_support::normal_vector(3 * 17, 1.0, 52);
  const auto m = test_support::encoded<f32>(w, 3, 17);
  const error_report report = measure_error(matrix_view<const float>(w.data(), 3, 17), m.view());
  REQUIRE(report.count == 51);
  REQUIRE(report.mse == 0);
  REQUIRE(report.cosine == 1);
}
