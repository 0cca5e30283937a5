// SPDX-License-Identifier: Apache-2.0
#include "subbyte/interop/eigen.hpp"

#include <array>
#include <type_traits>
#include <vector>

#include "subbyte/num/half.hpp"
#include "subbyte/tensor/tensor.hpp"
#include "support/catch.hpp"

using namespace subbyte;

namespace {

using column_major = Eigen::MatrixXf;
using row_major_matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
using any_strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;

template <class M>
constexpr bool has_view = requires(M&& m) {
  as_view(static_cast<M&&>(m));
};
template <class M>
using view_of = decltype(as_view(std::declval<M>()));

// A view's type says what is known of the strides; const is kept, a temporary gives none.
static_assert(std::is_same_v<view_of<row_major_matrix&>, matrix_view<float>>);
static_assert(std::is_same_v<view_of<const row_major_matrix&>, matrix_view<const float>>);
static_assert(std::is_same_v<view_of<column_major&>, tensor_view<float, 2, strided>>);
static_assert(std::is_same_v<view_of<const column_major&>, tensor_view<const float, 2, strided>>);
static_assert(std::is_same_v<view_of<Eigen::VectorXd&>, vector_view<double>>);
static_assert(std::is_same_v<view_of<Eigen::RowVectorXf&>, vector_view<float>>);
static_assert(std::is_same_v<view_of<Eigen::ArrayXXf&>, tensor_view<float, 2, strided>>);
static_assert(std::is_same_v<view_of<Eigen::Map<row_major_matrix>>, matrix_view<float>>);
static_assert(
    std::is_same_v<view_of<Eigen::Map<const row_major_matrix>>, matrix_view<const float>>);
static_assert(std::is_same_v<view_of<Eigen::Map<Eigen::VectorXf, 0, Eigen::InnerStride<>>>,
                             tensor_view<float, 1, strided>>);
static_assert(
    std::is_same_v<view_of<Eigen::Ref<row_major_matrix>>, tensor_view<float, 2, row_pitched>>);
static_assert(std::is_same_v<view_of<const Eigen::Ref<const row_major_matrix>&>,
                             tensor_view<const float, 2, row_pitched>>);
static_assert(!has_view<row_major_matrix>);
static_assert(!has_view<const column_major>);
static_assert(!has_view<Eigen::Ref<const row_major_matrix>>, "it may hold a copy");
static_assert(!has_view<decltype(column_major() + column_major())>, "a sum has no elements");
static_assert(!has_view<std::vector<float>&>);

// Back again: const T gives maps of const.
template <class V>
using map_of = decltype(as_eigen(std::declval<V>()));
static_assert(std::is_same_v<map_of<matrix_view<float>>, Eigen::Map<row_major_matrix>>);
static_assert(std::is_same_v<map_of<matrix_view<const float>>, Eigen::Map<const row_major_matrix>>);
static_assert(std::is_same_v<map_of<tensor_view<const float, 2, row_pitched>>,
                             Eigen::Map<const row_major_matrix, 0, Eigen::OuterStride<>>>);
static_assert(std::is_same_v<map_of<tensor_view<float, 2, strided>>,
                             Eigen::Map<row_major_matrix, 0, any_strides>>);
static_assert(std::is_same_v<map_of<vector_view<const double>>, Eigen::Map<const Eigen::VectorXd>>);
static_assert(std::is_same_v<map_of<tensor_view<int, 1, strided>>,
                             Eigen::Map<Eigen::VectorXi, 0, Eigen::InnerStride<>>>);

// Every element has a value of its own, so that a swapped stride shows.
row_major_matrix numbered(Eigen::Index rows, Eigen::Index cols) {
  row_major_matrix m(rows, cols);
  for (Eigen::Index r = 0; r < rows; ++r) {
    for (Eigen::Index c = 0; c < cols; ++c) m(r, c) = static_cast<float>(100 * r + c);
  }
  return m;
}

template <class Map, class View>
void check_same(const Map& map, const View& view) {
  REQUIRE(map.rows() == view.extent(0));
  REQUIRE(map.cols() == view.extent(1));
  for (index_t r = 0; r < view.extent(0); ++r) {
    for (index_t c = 0; c < view.extent(1); ++c) {
      CHECK(&map.coeffRef(r, c) == &view(r, c));
    }
  }
}

// There and back gives the address and the strides it began with.
template <class View>
void check_round_trip(const View& view) {
  const auto map = as_eigen(view);
  check_same(map, view);
  const auto back = as_view(map);
  CHECK(back.data() == view.data());
  for (std::size_t d = 0; d < 2; ++d) {
    CHECK(back.extent(d) == view.extent(d));
    CHECK(back.stride(d) == view.stride(d));
  }
}

}  // namespace

TEST_CASE("eigen: a matrix view and its map are the same elements, in every layout") {
  tensor<float, 2> owner(5, 7);
  const matrix_view<float> dense = owner.view();
  check_round_trip(matrix_view<const float>(dense));
  check_round_trip(tensor_view<const float, 2, row_pitched>(dense.data(), {5, 4}, {7}));
  check_round_trip(tensor_view<const float, 2, strided>(dense));
  check_round_trip(tensor_view<const float, 2, strided>(transposed(dense)));
  check_round_trip(tensor_view<const float, 2, strided>(dense.data() + 1, {2, 3}, {14, 2}));

  // Reversed and repeated rows: Eigen multiplies indices with whatever strides it is given.
  check_round_trip(tensor_view<const float, 2, strided>(dense.data() + 34, {5, 7}, {-7, -1}));
  check_round_trip(tensor_view<const float, 2, strided>(dense.data(), {4, 7}, {0, 1}));

  for (index_t rows = 0; rows <= 1; ++rows) {
    for (index_t cols = 0; cols <= 1; ++cols) {
      check_round_trip(matrix_view<const float>(dense.data(), rows, cols));
    }
  }
}

TEST_CASE("eigen: a strided view maps in either storage order") {
  tensor<float, 2> owner(5, 7);
  const tensor_view<const float, 2, strided> columns = transposed(owner.view());
  const auto by_row = as_eigen(columns);
  const auto by_column = as_eigen<Eigen::ColMajor>(columns);
  static_assert(decltype(by_row)::IsRowMajor && !decltype(by_column)::IsRowMajor);
  check_same(by_row, columns);
  check_same(by_column, columns);
  CHECK(by_column.innerStride() == columns.stride(0));
  CHECK(by_column.outerStride() == columns.stride(1));
}

TEST_CASE("eigen: vectors of any stride are the same elements") {
  std::array<float, 12> values{};
  const vector_view<float> dense(values);
  const auto map = as_eigen(dense);
  REQUIRE(map.size() == 12);
  CHECK(&map.coeffRef(11) == &values[11]);

  const tensor_view<const float, 1, strided> reversed(values.data() + 11, {4}, {-3});
  const auto reversed_map = as_eigen(reversed);
  for (index_t i = 0; i < 4; ++i) CHECK(&reversed_map.coeffRef(i) == &reversed[i]);
  const auto back = as_view(reversed_map);
  CHECK(back.data() == reversed.data());
  CHECK(back.stride(0) == -3);
}

TEST_CASE("eigen: parts of Eigen matrices are views of the same elements") {
  row_major_matrix by_row = numbered(6, 8);
  column_major by_column = by_row;

  check_same(by_row, as_view(by_row));
  check_same(by_column, as_view(by_column));
  const auto pitched = as_view(by_row.block(1, 2, 3, 4));
  static_assert(std::is_same_v<decltype(pitched)::layout_type, row_pitched>);
  check_same(by_row.block(1, 2, 3, 4), pitched);
  check_same(by_column.block(1, 2, 3, 4), as_view(by_column.block(1, 2, 3, 4)));
  check_same(by_column.transpose(), as_view(by_column.transpose()));

  const auto column = as_view(by_row.col(3));
  CHECK(column.stride(0) == 8);
  CHECK(&column[5] == &by_row(5, 3));
  const auto diagonal = as_view(by_column.diagonal());
  CHECK(diagonal.extent(0) == 6);
  CHECK(&diagonal[4] == &by_column(4, 4));

  // A non-const temporary block is still a door for writing.
  as_view(by_row.row(2))[1] = -1;
  CHECK(by_row(2, 1) == -1);
  as_view(by_column)(3, 7) = -2;
  CHECK(by_column(3, 7) == -2);

  using every_second = Eigen::Map<const row_major_matrix, 0, any_strides>;
  const every_second sparse(by_row.data(), 3, 4, any_strides(16, 2));
  check_same(sparse, as_view(sparse));
}

TEST_CASE("eigen: what Eigen computes through maps is what the elements say") {
  const row_major_matrix w = numbered(4, 6);
  tensor<float, 2> owner(6, 4);
  const tensor_view<float, 2, strided> target = transposed(owner.view());
  as_eigen(target) = w;  // a dense copy into the transposed memory
  for (index_t r = 0; r < 4; ++r) {
    for (index_t c = 0; c < 6; ++c) CHECK(owner(c, r) == static_cast<float>(100 * r + c));
  }

  const std::vector<float> x = {1, -1, 2, 0, 3, 1};
  const Eigen::VectorXf y = as_eigen(target) * as_eigen(vector_view<const float>(x));
  for (index_t r = 0; r < 4; ++r) {
    float expected = 0;  // small integers: exact in any order
    for (index_t c = 0; c < 6; ++c) expected += w(r, c) * x[static_cast<std::size_t>(c)];
    CHECK(y(r) == expected);
  }
}

TEST_CASE("eigen: element types that Eigen has no arithmetic for map as well") {
  std::array<half, 6> values{};
  const auto map = as_eigen(matrix_view<half>(values.data(), 2, 3));
  CHECK(&map.coeffRef(1, 2) == &values[5]);
  CHECK(as_view(map).data() == values.data());
}
