// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/groups.hpp"

#include <atomic>
#include <limits>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"

using namespace subbyte;

TEST_CASE("groups: every group of every row comes once, in stored order, with its importance") {
  constexpr index_t rows = 37;
  constexpr index_t cols = 44;
  std::vector<float> w(rows * cols);
  for (std::size_t i = 0; i < w.size(); ++i) w[i] = static_cast<float>(i);
  std::vector<float> importance(cols);
  std::vector<std::int32_t> order(cols);
  for (std::size_t k = 0; k < cols; ++k) {
    importance[k] = static_cast<float>(1000 + k);
    order[k] = static_cast<std::int32_t>(k * 7 % cols);
  }
  planar_matrix<int_grid<4>, half> target(rows, cols, {16});
  target.set_column_order(order);
  thread_pool pool(3);
  std::vector<std::atomic<int>> seen(rows * 3);
  std::atomic<int> wrong{0};
  detail::group_source source;
  source.importance = importance;
  source.scratch_bytes = 100;
  detail::for_each_group<arch::native>(matrix_view<const float>(w.data(), rows, cols), target,
                                       source, pool, [&](const detail::weight_group& g) noexcept {
                                         ++seen[static_cast<std::size_t>(g.row * 3 + g.index)];
                                         if (g.n != (g.index == 2 ? 12 : 16)) ++wrong;
                                         if (reinterpret_cast<std::uintptr_t>(g.scratch) % 64 != 0)
                                           ++wrong;
                                         for (index_t i = 0; i < g.n; ++i) {
                                           const auto column =
                                               order[static_cast<std::size_t>(g.index * 16 + i)];
                                           if (g.x[i] != static_cast<float>(g.row * cols + column))
                                             ++wrong;
                                           if (g.importance[i] != static_cast<float>(1000 + column))
                                             ++wrong;
                                           g.codes[i] = 255;  // its own memory
                                         }
                                         for (int i = 0; i < 100; ++i) g.scratch[i] = 255;
                                       });
  REQUIRE(wrong == 0);
  for (const auto& count : seen) REQUIRE(count == 1);
}

TEST_CASE("groups: without importance there is none, and matrices of nothing call nothing") {
  const float w[3] = {1, 2, 3};
  planar_matrix<int_grid<4>, half> target(1, 3, {8});
  int calls = 0;
  detail::for_each_group<arch::native>(matrix_view<const float>(w, 1, 3), target, {}, serial,
                                       [&](const detail::weight_group& g) noexcept {
                                         ++calls;
                                         calls += g.importance != nullptr ? 100 : 0;
                                       });
  REQUIRE(calls == 1);
  planar_matrix<int_grid<4>, half> empty(0, 3, {8});
  detail::for_each_group<arch::native>(matrix_view<const float>(w, 0, 3), empty, {}, serial,
                                       [&](const detail::weight_group&) noexcept { ++calls; });
  REQUIRE(calls == 1);
}

TEST_CASE("groups: a scale target is one whose only parameter is a scale") {
  STATIC_REQUIRE(detail::scaled_table_target<block_matrix<q4_0>>);
  STATIC_REQUIRE(detail::scaled_table_target<block_matrix<mxfp4>>);
  STATIC_REQUIRE(!detail::scaled_table_target<block_matrix<q4_1>>);
  STATIC_REQUIRE(!detail::scaled_table_target<block_matrix<q4_k>>);
  STATIC_REQUIRE(detail::scaled_table_target<planar_matrix<codebook_grid<nf4>, half>>);
  STATIC_REQUIRE(!detail::scaled_table_target<planar_matrix<int_grid<4>, half>>);
  STATIC_REQUIRE(detail::whole_zero_target<planar_matrix<int_grid<4>, half>>);
  STATIC_REQUIRE(detail::real_zero_target<planar_matrix<int_grid<4, zero_points::real>, half>>);
  // The values of such a target are its scale times those of scale 1.
  for_each_type(type_list<q4_0, q5_0, q8_0, iq4_nl, mxfp4>{}, [&]<class F>(std::type_identity<F>) {
    using target = block_matrix<F>;
    for (int code = 0; code < 16; ++code) {
      REQUIRE(target::value(code, 0, detail::with_scale<target>(0.25F)) ==
              0.25F * target::value(code, 0, detail::with_scale<target>(1.0F)));
    }
  });
}

#if defined(__cpp_exceptions)
TEST_CASE("groups: progress rises to its end, and false cancels") {
  const std::vector<float> w(1000 * 8, 1.0F);
  planar_matrix<int_grid<4>, half> target(1000, 8, {8});
  detail::group_source source;
  std::vector<double> reports;
  const auto record = [&](double fraction) {
    reports.push_back(fraction);
    return reports.size() < 5;
  };
  source.progress = record;
  source.progress_from = 0.25;
  source.progress_to = 0.75;
  int rows = 0;
  const auto error = test_support::error_of([&] {
    detail::for_each_group<arch::native>(matrix_view<const float>(w.data(), 1000, 8), target,
                                         source, serial,
                                         [&](const detail::weight_group&) noexcept { ++rows; });
  });
  REQUIRE(error.code() == errc::cancelled);
  REQUIRE(reports.size() == 5);
  REQUIRE(rows == 5 * 16);
  REQUIRE(reports[0] == 0.25 + 0.5 * 0.016);
  REQUIRE(reports[4] == 0.25 + 0.5 * 0.08);
}
#endif
