// SPDX-License-Identifier: Apache-2.0
#include "subbyte/interop/mdspan.hpp"

#include <array>
#include <cstdint>
#include <type_traits>
#include <utility>
#include <vector>

#include "subbyte/tensor/tensor.hpp"
#include "support/catch.hpp"

using namespace subbyte;

namespace {

// The library under test: std or the reference implementation.
namespace library = subbyte::detail::mdspan_library;
using library::dextents;
using library::dynamic_extent;
using library::extents;
using library::layout_left;
using library::layout_right;
using library::layout_stride;
using library::mdspan;

template <class View>
using span_of = decltype(as_mdspan(std::declval<View>()));
template <class Span>
using view_of = decltype(as_view(std::declval<Span>()));
template <class Span>
constexpr bool has_view = requires(const Span& span) {
  as_view(span);
};
using matrix_extents = dextents<index_t, 2>;

static_assert(
    std::is_same_v<span_of<matrix_view<float>>, mdspan<float, matrix_extents, layout_right>>);
static_assert(std::is_same_v<span_of<tensor_view<const float, 2, row_pitched>>,
                             mdspan<const float, matrix_extents, layout_stride>>);
static_assert(std::is_same_v<span_of<tensor_view<int, 2, strided>>,
                             mdspan<int, matrix_extents, layout_stride>>);
static_assert(std::is_same_v<view_of<mdspan<float, dextents<int, 2>>>, matrix_view<float>>);
static_assert(std::is_same_v<view_of<mdspan<const float, extents<std::size_t, 3, 4>>>,
                             matrix_view<const float>>);
static_assert(std::is_same_v<view_of<mdspan<float, dextents<int, 2>, layout_left>>,
                             tensor_view<float, 2, strided>>);
static_assert(
    std::is_same_v<view_of<mdspan<float, dextents<int, 1>, layout_left>>, vector_view<float>>);
static_assert(std::is_same_v<view_of<mdspan<const int, dextents<int, 3>, layout_stride>>,
                             tensor_view<const int, 3, strided>>);

// An accessor that is more than a pointer must not be forgotten on the way.
struct doubling_accessor {
  using offset_policy = doubling_accessor;
  using element_type = const float;
  using reference = float;
  using data_handle_type = const float*;
  constexpr reference access(data_handle_type p, std::size_t i) const noexcept { return 2 * p[i]; }
  constexpr data_handle_type offset(data_handle_type p, std::size_t i) const noexcept {
    return p + i;
  }
};
static_assert(!has_view<mdspan<const float, matrix_extents, layout_right, doubling_accessor>>);
static_assert(!has_view<mdspan<float, extents<int>>>, "rank 0 is a pointer");

// mdspan's multi-argument operator[] is C++23 and the reference implementation's operator() is its
// own: the mapping says the same for both.
template <class Span, class... I>
auto* address(const Span& span, I... indices) {
  return span.data_handle() + span.mapping()(indices...);
}

template <class Span, class View>
void check_same(const Span& span, const View& view) {
  REQUIRE(static_cast<index_t>(span.extent(0)) == view.extent(0));
  REQUIRE(static_cast<index_t>(span.extent(1)) == view.extent(1));
  using index = typename Span::index_type;
  for (index_t r = 0; r < view.extent(0); ++r) {
    for (index_t c = 0; c < view.extent(1); ++c) {
      CHECK(address(span, static_cast<index>(r), static_cast<index>(c)) == &view(r, c));
    }
  }
}

template <class View>
void check_round_trip(const View& view) {
  const auto span = as_mdspan(view);
  check_same(span, view);
  const auto back = as_view(span);
  CHECK(back.data() == view.data());
  for (std::size_t d = 0; d < 2; ++d) {
    CHECK(back.extent(d) == view.extent(d));
    if (view.size() > 0) CHECK(back.stride(d) == view.stride(d));
  }
}

}  // namespace

TEST_CASE("mdspan: a matrix view and its mdspan are the same elements, in every layout") {
  tensor<float, 2> owner(5, 7);
  const matrix_view<float> dense = owner.view();
  check_round_trip(matrix_view<const float>(dense));
  check_round_trip(tensor_view<const float, 2, row_pitched>(dense.data(), {5, 4}, {7}));
  check_round_trip(tensor_view<const float, 2, strided>(dense));
  check_round_trip(tensor_view<const float, 2, strided>(transposed(dense)));
  check_round_trip(tensor_view<const float, 2, strided>(dense.data() + 1, {2, 3}, {14, 2}));
}

TEST_CASE("mdspan: empty views pass, although their strides may be zero") {
  for (index_t rows = 0; rows <= 2; ++rows) {
    for (index_t cols = 0; cols <= 2; ++cols) {
      float memory[4]{};
      const matrix_view<const float> dense(memory, rows, cols);
      check_round_trip(dense);
      check_round_trip(tensor_view<const float, 2, row_pitched>(dense));
      check_round_trip(tensor_view<const float, 2, strided>(dense));
    }
  }
  const tensor_view<const float, 3, strided> empty(nullptr, {3, 0, 4}, {0, 4, 1});
  const auto span = as_mdspan(empty);
  CHECK(span.empty());
  CHECK(span.stride(0) == 4);
  CHECK(span.stride(1) == 4);
  CHECK(span.stride(2) == 1);
}

TEST_CASE("mdspan: vectors and tensors of rank 3 are the same elements") {
  std::array<float, 24> values{};
  const auto vector = as_mdspan(vector_view<float>(values));
  CHECK(address(vector, 23) == &values[23]);
  const tensor_view<const float, 1, strided> every_third(values.data() + 2, {7}, {3});
  const auto sparse = as_mdspan(every_third);
  for (index_t i = 0; i < 7; ++i) CHECK(address(sparse, i) == &every_third[i]);
  CHECK(as_view(sparse).stride(0) == 3);

  const tensor_view<float, 3> cube(values.data(), 2, 3, 4);
  const auto cube_span = as_mdspan(cube);
  const tensor_view<float, 3, strided> turned(values.data(), {4, 2, 3}, {1, 12, 4});
  const auto turned_span = as_mdspan(turned);
  for (index_t i = 0; i < 2; ++i) {
    for (index_t j = 0; j < 3; ++j) {
      for (index_t k = 0; k < 4; ++k) {
        CHECK(address(cube_span, i, j, k) == &cube(i, j, k));
        CHECK(address(turned_span, k, i, j) == &cube(i, j, k));
        CHECK(&as_view(turned_span)(k, i, j) == &cube(i, j, k));
      }
    }
  }
}

TEST_CASE("mdspan: every standard layout, with other index types and static extents, is a view") {
  std::vector<float> values(35);
  const mdspan<float, extents<std::uint8_t, 5, dynamic_extent>> right(values.data(), 7);
  check_same(right, as_view(right));
  const mdspan<const float, dextents<unsigned, 2>, layout_left> left(values.data(), 5U, 7U);
  check_same(left, as_view(left));
  CHECK(as_view(left).stride(0) == 1);
  CHECK(as_view(left).stride(1) == 5);

  using shape = dextents<int, 2>;
  const layout_stride::mapping<shape> mapping(shape(3, 4), std::array<int, 2>{1, 8});
  const mdspan<float, shape, layout_stride> sparse(values.data(), mapping);
  check_same(sparse, as_view(sparse));

  as_view(right)(4, 6) = 3;
  CHECK(values[34] == 3);
}
