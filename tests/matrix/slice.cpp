// SPDX-License-Identifier: Apache-2.0
/// Slices and concatenations keep every weight, and refuse cuts inside a group.
#include "subbyte/matrix/slice.hpp"

#include <algorithm>
#include <numeric>
#include <string>
#include <vector>

#include "subbyte/format/q4_0.hpp"
#include "subbyte/format/q4_k.hpp"
#include "subbyte/num/half.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

using planes = planar_matrix<int_grid<3>, half>;
using plane_views = planar_matrix_view<int_grid<3>, half>;

template <class F>
block_matrix<F> random_blocks(index_t rows, index_t cols, std::uint64_t seed) {
  block_matrix<F> m(rows, cols);
  const auto w = test_support::normal_vector(static_cast<std::size_t>(rows * cols), 1.0, seed);
  for (index_t r = 0; r < rows; ++r) {
    for (index_t g = 0; g * F::block_size < cols; ++g) {
      const index_t first = g * F::block_size;
      const index_t n = std::min<index_t>(F::block_size, cols - first);
      const float* x = w.data() + r * cols + first;
      const auto p = block_matrix<F>::template fit<arch::scalar>(x, nullptr, n);
      std::vector<std::uint8_t> codes;
      for (index_t i = 0; i < n; ++i) {
        codes.push_back(static_cast<std::uint8_t>(block_matrix<F>::round(x[i], i, p)));
      }
      m.store(r, g, p, codes.data(), n);
    }
  }
  return m;
}

planes random_planes(index_t rows, index_t cols, index_t group_size, std::uint64_t seed,
                     bool shuffled) {
  planes m(rows, cols, {group_size});
  std::mt19937_64 generator(seed);
  if (shuffled) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(cols));
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[generator() % i]);
    m.set_column_order(order);
  }
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(m.group_size()));
  for (index_t r = 0; r < rows; ++r) {
    for (index_t g = 0; g < m.groups(); ++g) {
      for (auto& c : codes) c = static_cast<std::uint8_t>(generator() % 8);
      m.store(r, g, {static_cast<float>(1 + generator() % 9), static_cast<float>(generator() % 8)},
              codes.data(), std::min(m.group_size(), cols - g * m.group_size()));
    }
  }
  return m;
}

template <class View>
std::vector<float> weights(const View& w, index_t r, index_t first, index_t count) {
  std::vector<float> row(static_cast<std::size_t>(count));
  w.decode_row(r, first, count, row.data());
  return row;
}

}  // namespace

TEST_CASE("slice: columns of blocks and planes keep their weights") {
  const auto blocks = random_blocks<q4_0>(3, 150, 1);
  for (const auto& [first, count] : {std::pair<index_t, index_t>{0, 64}, {32, 96}, {96, 54}}) {
    const auto part = slice_columns(blocks.view(), first, count);
    REQUIRE(part.cols() == count);
    for (index_t r = 0; r < 3; ++r) {
      REQUIRE(weights(part.view(), r, 0, count) == weights(blocks.view(), r, first, count));
    }
  }
  const auto plane = random_planes(3, 150, 24, 2, false);
  for (const auto& [first, count] : {std::pair<index_t, index_t>{0, 48}, {24, 24}, {96, 54}}) {
    const auto part = slice_columns(plane.view(), first, count);
    for (index_t r = 0; r < 3; ++r) {
      REQUIRE(weights(part.view(), r, 0, count) == weights(plane.view(), r, first, count));
    }
  }
  REQUIRE(slice_columns(plane.view(), 24, 0).cols() == 0);
}

TEST_CASE("slice: a whole matrix with a column order is copied with it") {
  const auto shuffled = random_planes(2, 64, 32, 3, true);
  const auto copy = slice_columns(shuffled.view(), 0, 64);
  REQUIRE(weights(copy.view(), 1, 0, 64) == weights(shuffled.view(), 1, 0, 64));
}

TEST_CASE("concatenate_rows: the parts' rows, one after the other") {
  const auto a = random_blocks<q4_k>(2, 300, 4);
  const auto b = random_blocks<q4_k>(3, 300, 5);
  const std::vector<block_matrix_view<q4_k>> parts{a.view(), b.view()};
  const auto both = concatenate_rows<arch::native, q4_k>(parts);
  REQUIRE(both.rows() == 5);
  REQUIRE(weights(both.view(), 1, 0, 300) == weights(a.view(), 1, 0, 300));
  REQUIRE(weights(both.view(), 4, 0, 300) == weights(b.view(), 2, 0, 300));

  for (const bool shuffled : {false, true}) {
    const auto c = random_planes(2, 100, 32, 6, shuffled);
    const auto d = random_planes(1, 100, 32, 6, shuffled);  // the same order: the same seed
    const std::vector<plane_views> planes_of_both{c.view(), d.view()};
    const auto joined = concatenate_rows<arch::native, int_grid<3>, half>(planes_of_both);
    REQUIRE(weights(joined.view(), 0, 0, 100) == weights(c.view(), 0, 0, 100));
    REQUIRE(weights(joined.view(), 2, 0, 100) == weights(d.view(), 0, 0, 100));
  }
}

TEST_CASE("concatenate_columns: the parts' columns, side by side") {
  const auto a = random_blocks<q4_0>(2, 64, 7);
  const auto b = random_blocks<q4_0>(2, 50, 8);
  const std::vector<block_matrix_view<q4_0>> parts{a.view(), b.view()};
  const auto both = concatenate_columns<arch::native, q4_0>(parts);
  REQUIRE(both.cols() == 114);
  for (index_t r = 0; r < 2; ++r) {
    REQUIRE(weights(both.view(), r, 0, 64) == weights(a.view(), r, 0, 64));
    REQUIRE(weights(both.view(), r, 64, 50) == weights(b.view(), r, 0, 50));
  }
  for (const bool shuffled : {false, true}) {
    for (const index_t last : {100, 20}) {  // 20: shorter than a group
      const auto c = random_planes(2, 64, 32, 9, false);
      const auto d = random_planes(2, last, 32, 10, shuffled);
      const std::vector<plane_views> planes_of_both{c.view(), d.view()};
      const auto joined = concatenate_columns<arch::native, int_grid<3>, half>(planes_of_both);
      for (index_t r = 0; r < 2; ++r) {
        REQUIRE(weights(joined.view(), r, 0, 64) == weights(c.view(), r, 0, 64));
        REQUIRE(weights(joined.view(), r, 64, last) == weights(d.view(), r, 0, last));
      }
    }
  }
}

#if defined(__cpp_exceptions)
TEST_CASE("slices and concatenations: cuts inside a group and unlike parts are errors") {
  using test_support::error_of;
  const auto blocks = random_blocks<q4_0>(2, 96, 11);
  const auto plane = random_planes(2, 96, 24, 12, false);
  const auto shuffled = random_planes(2, 96, 24, 12, true);
  for (const auto& [first, count] : {std::pair<index_t, index_t>{16, 32}, {0, 40}, {8, 88}}) {
    CHECK(error_of([&] { (void)slice_columns(blocks.view(), first, count); }).code() ==
          errc::layout_rejected);
    CHECK(error_of([&] { (void)slice_columns(plane.view(), first, count); }).code() ==
          errc::layout_rejected);
  }
  for (const auto& [first, count] : {std::pair<index_t, index_t>{-24, 24}, {96, 24}, {0, 120}}) {
    CHECK(error_of([&] { (void)slice_columns(plane.view(), first, count); }).code() ==
          errc::bad_shape);
  }
  CHECK(error_of([&] { (void)slice_columns(shuffled.view(), 24, 24); }).code() ==
        errc::layout_rejected);

  const auto rows_of = [](const std::vector<plane_views>& parts) {
    return error_of([&] { (void)concatenate_rows<arch::native, int_grid<3>, half>(parts); }).code();
  };
  const auto columns_of = [](const std::vector<plane_views>& parts) {
    return error_of([&] { (void)concatenate_columns<arch::native, int_grid<3>, half>(parts); })
        .code();
  };
  const auto narrow = random_planes(2, 72, 24, 13, false);
  const auto coarse = random_planes(2, 96, 48, 14, false);
  const auto tall = random_planes(3, 96, 24, 15, false);
  const auto cut = random_planes(2, 64, 24, 16, false);
  CHECK(rows_of({}) == errc::bad_argument);
  CHECK(rows_of({plane.view(), narrow.view()}) == errc::bad_shape);
  CHECK(rows_of({plane.view(), coarse.view()}) == errc::bad_shape);
  CHECK(rows_of({plane.view(), shuffled.view()}) == errc::layout_rejected);
  CHECK(columns_of({}) == errc::bad_argument);
  CHECK(columns_of({plane.view(), tall.view()}) == errc::bad_shape);
  CHECK(columns_of({plane.view(), coarse.view()}) == errc::bad_shape);
  CHECK(columns_of({cut.view(), plane.view()}) == errc::layout_rejected);

  const auto odd = random_blocks<q4_0>(2, 50, 17);
  const std::vector<block_matrix_view<q4_0>> parts{odd.view(), blocks.view()};
  CHECK(error_of([&] { (void)concatenate_columns<arch::native, q4_0>(parts); }).code() ==
        errc::layout_rejected);
  CHECK(error_of([&] { (void)concatenate_rows<arch::native, q4_0>(parts); }).code() ==
        errc::bad_shape);
}
#endif
