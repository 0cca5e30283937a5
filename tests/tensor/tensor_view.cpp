// SPDX-License-Identifier: Apache-2.0
#include "subbyte/tensor/tensor_view.hpp"

#include <array>
#include <initializer_list>
#include <span>
#include <string>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

template <class T, std::size_t Rank>
using pitched_view = tensor_view<T, Rank, row_pitched>;
template <class T, std::size_t Rank>
using strided_view = tensor_view<T, Rank, strided>;

template <class From, class To>
constexpr bool converts = std::is_convertible_v<From, To>;

// Layouts widen, and only that.
static_assert(converts<matrix_view<float>, pitched_view<float, 2>>);
static_assert(converts<matrix_view<float>, strided_view<float, 2>>);
static_assert(converts<pitched_view<float, 2>, strided_view<float, 2>>);
static_assert(!converts<pitched_view<float, 2>, matrix_view<float>>);
static_assert(!converts<strided_view<float, 2>, matrix_view<float>>);
static_assert(!converts<strided_view<float, 2>, pitched_view<float, 2>>);
static_assert(!std::is_constructible_v<vector_view<const float>, strided_view<float, 1>>);

// Const is gained, never lost, also together with a layout; other element types do not mix.
static_assert(converts<matrix_view<float>, matrix_view<const float>>);
static_assert(converts<matrix_view<float>, strided_view<const float, 2>>);
static_assert(!converts<matrix_view<const float>, matrix_view<float>>);
static_assert(!converts<matrix_view<const float>, strided_view<float, 2>>);
static_assert(!converts<vector_view<float>, vector_view<const double>>);
static_assert(!converts<vector_view<int>, vector_view<unsigned>>);
struct base {
  int a;
};
struct derived : base {
  int b;
};
static_assert(!converts<vector_view<derived>, vector_view<const base>>);
static_assert(!converts<matrix_view<float>, vector_view<float>>);
static_assert(!converts<vector_view<float>, matrix_view<float>>);

// Containers: any for an input, an lvalue for an output, none that only looks contiguous.
static_assert(converts<std::vector<float>, vector_view<const float>>);
static_assert(converts<std::vector<float>&, vector_view<const float>>);
static_assert(converts<const std::vector<float>&, vector_view<const float>>);
static_assert(converts<std::vector<float>&, vector_view<float>>);
static_assert(!std::is_constructible_v<vector_view<float>, std::vector<float>>);
static_assert(!std::is_constructible_v<vector_view<float>, const std::vector<float>&>);
static_assert(!std::is_constructible_v<vector_view<const float>, std::vector<double>&>);
static_assert(!std::is_constructible_v<vector_view<bool>, std::vector<bool>&>);
static_assert(!std::is_constructible_v<matrix_view<const float>, std::vector<float>&>);
static_assert(converts<std::span<float>&, vector_view<float>>);
static_assert(converts<std::span<const float>, vector_view<const float>>);
static_assert(!std::is_constructible_v<vector_view<float>, std::span<const float>&>);
static_assert(converts<const std::array<int, 4>&, vector_view<const int>>);
static_assert(converts<const std::string&, vector_view<const char>>);
static_assert(converts<float (&)[3], vector_view<float>>);
static_assert(converts<float (&)[3], vector_view<const float>>);
static_assert(!std::is_constructible_v<vector_view<float>, const float (&)[3]>);
static_assert(!std::is_constructible_v<vector_view<const float>, std::initializer_list<float>>);

// A vector of another library with a stride of its own: data() and size() alone are not enough.
struct every_second {
  struct iterator {
    const float* at;
    const float& operator*() const { return *at; }
    iterator& operator++() {
      at += 2;
      return *this;
    }
    bool operator==(const iterator&) const = default;
  };
  const float* data() const;
  std::size_t size() const;
  iterator begin() const;
  iterator end() const;
};
static_assert(!std::is_constructible_v<vector_view<const float>, every_second&>);

// A foreign tensor: readable through tensor_like, but never flattened into a vector.
struct foreign_tensor {
  using element_type = float;
  static constexpr std::size_t rank() { return 2; }
  int extent(std::size_t) const;
  int stride(std::size_t) const;
  float* data() const;
  std::size_t size() const;
  float* begin() const;
  float* end() const;
};
static_assert(tensor_like<foreign_tensor>);
static_assert(tensor_like<matrix_view<float>> && tensor_like<strided_view<const float, 3>>);
static_assert(!tensor_like<std::vector<float>> && !tensor_like<float*>);
static_assert(!std::is_constructible_v<vector_view<const float>, foreign_tensor&>);

static_assert(is_view<matrix_view<float>> && is_view<strided_view<const int, 3>>);
static_assert(!is_view<std::vector<float>> && !is_view<foreign_tensor>);

// Slices: one dimension less, and the row of a pitched matrix is dense.
template <class V>
using slice_of = decltype(std::declval<const V&>()[0]);
static_assert(std::is_same_v<slice_of<matrix_view<float>>, vector_view<float>>);
static_assert(std::is_same_v<slice_of<pitched_view<float, 2>>, vector_view<float>>);
static_assert(std::is_same_v<slice_of<pitched_view<float, 3>>, pitched_view<float, 2>>);
static_assert(std::is_same_v<slice_of<strided_view<const float, 2>>, strided_view<const float, 1>>);
static_assert(std::is_same_v<slice_of<vector_view<const float>>, const float&>);

// Views are values; a dense one holds a pointer and its extents, nothing else.
template <class V>
constexpr bool is_value =
    std::is_trivially_copyable_v<V>&& std::is_nothrow_default_constructible_v<V>;
static_assert(is_value<matrix_view<float>> && is_value<pitched_view<float, 3>> &&
              is_value<strided_view<float, 2>>);
static_assert(sizeof(vector_view<float>) == 16 && sizeof(matrix_view<float>) == 24);
static_assert(sizeof(pitched_view<float, 2>) == 32 && sizeof(strided_view<float, 2>) == 40);

// Every operation is constexpr.
constexpr int sum_of_diagonal() {
  int values[12] = {};
  const matrix_view<int> dense(values, 3, 4);
  for (index_t i = 0; i < 3; ++i) {
    for (index_t j = 0; j < 4; ++j) dense(i, j) = static_cast<int>(10 * i + j);
  }
  const strided_view<const int, 2> general = dense;
  const auto flipped = transposed(general);
  const auto back = as_row_major(transposed(flipped));
  return flipped(0, 0) + flipped(1, 1) + general[2][2] + (back ? (*back)[0][3] : 1000);
}
static_assert(sum_of_diagonal() == 0 + 11 + 22 + 3);

#if !defined(NDEBUG)
// An index outside its extent traps even where it falls on another element of the array: here
// it is the check alone that keeps the expression from being constant.
constexpr int element(index_t i, index_t j) {
  const int values[8] = {};
  return matrix_view<const int>(values, 2, 4)(i, j);
}
constexpr int row_element(index_t i, index_t j) {
  const int values[8] = {};
  return matrix_view<const int>(values, 2, 4)[i][j];
}
constexpr int pitched_element(index_t cols, index_t pitch) {
  const int values[8] = {};
  return tensor_view<const int, 2, row_pitched>(values, {2, cols}, {pitch})(0, 0);
}
constexpr index_t size_with_extent(index_t n) {
  const int values[8] = {};
  return vector_view<const int>(values, n).extent(0);
}
template <index_t I, index_t J>
concept indexable = requires {
  typename std::bool_constant<(element(I, J), true)>;
};
template <index_t I, index_t J>
concept row_indexable = requires {
  typename std::bool_constant<(row_element(I, J), true)>;
};
template <index_t Cols, index_t Pitch>
concept pitch_allowed = requires {
  typename std::bool_constant<(pitched_element(Cols, Pitch), true)>;
};
template <index_t N>
concept extent_allowed = requires {
  typename std::bool_constant<(size_with_extent(N), true)>;
};
static_assert(indexable<0, 0> && indexable<1, 3>);
static_assert(!indexable<0, 4> && !indexable<1, -1> && !indexable<2, 0> && !indexable<-1, 4>);
static_assert(row_indexable<1, 3> && !row_indexable<0, 4> && !row_indexable<1, -1>);
static_assert(!row_indexable<2, 0>);
static_assert(pitch_allowed<3, 3> && pitch_allowed<3, 5> && !pitch_allowed<3, 2>);
static_assert(extent_allowed<0> && !extent_allowed<-1>);
#endif

float sum(vector_view<const float> x) {
  float total = 0;
  for (index_t i = 0; i < x.extent(0); ++i) total += x[i];
  return total;
}
void fill(vector_view<float> x, float value) {
  for (index_t i = 0; i < x.extent(0); ++i) x[i] = value;
}

std::vector<int> iota(int n) {
  std::vector<int> v(static_cast<std::size_t>(n));
  for (int i = 0; i < n; ++i) v[static_cast<std::size_t>(i)] = i;
  return v;
}

}  // namespace

TEST_CASE("tensor_view: an input parameter takes views, containers, arrays and {pointer, n}") {
  std::vector<float> v{1, 2, 3};
  const std::vector<float> constant = v;
  float array[] = {4, 5};
  std::span<float> span(v);
  CHECK(sum(v) == 6);
  CHECK(sum(constant) == 6);
  CHECK(sum(std::vector<float>{7, 8}) == 15);
  CHECK(sum(span) == 6);
  CHECK(sum(span.subspan(1)) == 5);
  CHECK(sum(array) == 9);
  CHECK(sum({v.data(), 2}) == 3);
  CHECK(sum({v.data(), v.size()}) == 6);
  CHECK(sum(vector_view<float>(v)) == 6);
  CHECK(sum({}) == 0);
  CHECK(sum({nullptr, 0}) == 0);
  CHECK(sum(std::vector<float>{}) == 0);
}

TEST_CASE("tensor_view: an output parameter writes through to the container") {
  std::vector<float> v(3);
  float array[2] = {};
  std::span<float> span(v);
  fill(v, 1);
  CHECK(v == std::vector<float>{1, 1, 1});
  fill(span, 2);
  CHECK(v == std::vector<float>{2, 2, 2});
  fill({v.data() + 1, 1}, 5);
  CHECK(v == std::vector<float>{2, 5, 2});
  fill(array, 3);
  CHECK(array[0] + array[1] == 6);
}

TEST_CASE("tensor_view: dense strides follow from the extents") {
  auto v = iota(60);
  const tensor_view<int, 3> t(v.data(), 3, 4, 5);
  CHECK(t.rank() == 3);
  CHECK(t.size() == 60);
  CHECK(t.stride(0) == 20);
  CHECK(t.stride(1) == 5);
  CHECK(t.stride(2) == 1);
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 4; ++j) {
      for (int k = 0; k < 5; ++k) {
        CHECK(t(i, j, k) == 20 * i + 5 * j + k);
        CHECK(t[i][j][k] == t(i, j, k));
      }
    }
  }
}

TEST_CASE("tensor_view: widening keeps every element where it is") {
  auto v = iota(60);
  const tensor_view<int, 3> dense(v.data(), 3, 4, 5);
  const pitched_view<const int, 3> pitched = dense;
  const strided_view<const int, 3> general = pitched;
  const strided_view<const int, 3> at_once = dense;
  const strided_view<int, 3> built(v.data(), 3, 4, 5);
  for (std::size_t d = 0; d < 3; ++d) {
    CHECK(pitched.extent(d) == dense.extent(d));
    CHECK(general.extent(d) == dense.extent(d));
    CHECK(pitched.stride(d) == dense.stride(d));
    CHECK(general.stride(d) == dense.stride(d));
    CHECK(at_once.stride(d) == dense.stride(d));
    CHECK(built.stride(d) == dense.stride(d));
  }
  CHECK(&general(2, 3, 4) == &dense(2, 3, 4));
  CHECK(&pitched[1][2][3] == &dense(1, 2, 3));
}

TEST_CASE("tensor_view: a pitch steps over the rest of a row") {
  auto v = iota(28);
  const pitched_view<int, 2> m(v.data(), {4, 5}, {7});
  CHECK(m.size() == 20);
  CHECK(m.stride(0) == 7);
  CHECK(m.stride(1) == 1);
  CHECK(m(3, 4) == 25);
  const vector_view<int> row = m[2];
  CHECK(row.extent(0) == 5);
  CHECK(row.stride(0) == 1);
  CHECK(row[4] == 18);

  auto w = iota(2 * 40);
  const pitched_view<int, 3> t(w.data(), {2, 3, 4}, {40, 10});
  CHECK(t(1, 2, 3) == 40 + 20 + 3);
  const pitched_view<int, 2> slice = t[1];
  CHECK(slice.stride(0) == 10);
  CHECK(slice[2][3] == t(1, 2, 3));
}

TEST_CASE("tensor_view: strides may be zero, negative or permuted") {
  auto v = iota(12);
  const strided_view<int, 2> broadcast(v.data(), {3, 4}, {0, 1});
  CHECK(broadcast(2, 3) == 3);
  const strided_view<int, 1> reversed(v.data() + 11, {12}, {-1});
  for (int i = 0; i < 12; ++i) CHECK(reversed[i] == 11 - i);
  const strided_view<int, 2> column_major(v.data(), {3, 4}, {1, 3});
  CHECK(column_major(2, 1) == 5);
  CHECK(column_major[2][1] == 5);
  CHECK(column_major[2].stride(0) == 3);
}

TEST_CASE("tensor_view: transposing twice gives the matrix back") {
  auto v = iota(12);
  const matrix_view<int> m(v.data(), 3, 4);
  const auto t = transposed(m);
  CHECK(t.extent(0) == 4);
  CHECK(t.extent(1) == 3);
  for (int i = 0; i < 3; ++i) {
    for (int j = 0; j < 4; ++j) CHECK(&t(j, i) == &m(i, j));
  }
  CHECK_FALSE(as_row_major(t).has_value());
  const auto back = as_row_major(transposed(t));
  REQUIRE(back.has_value());
  CHECK(back->data() == m.data());
  CHECK(back->extent(0) == 3);
  CHECK(back->extent(1) == 4);
}

TEST_CASE("tensor_view: as_row_major finds out whether strides are dense") {
  auto v = iota(40);
  CHECK(as_row_major(matrix_view<int>(v.data(), 5, 8)).has_value());
  CHECK(as_row_major(pitched_view<int, 2>(v.data(), {5, 8}, {8})).has_value());
  CHECK_FALSE(as_row_major(pitched_view<int, 2>(v.data(), {5, 7}, {8})).has_value());
  CHECK_FALSE(as_row_major(strided_view<int, 1>(v.data(), {20}, {2})).has_value());
  CHECK_FALSE(as_row_major(strided_view<int, 1>(v.data(), {20}, {0})).has_value());
  // The stride of a dimension with one index says nothing, and nor do those of an empty view.
  CHECK(as_row_major(pitched_view<int, 2>(v.data(), {1, 7}, {8})).has_value());
  CHECK(as_row_major(strided_view<int, 2>(v.data(), {5, 1}, {1, 99})).has_value());
  CHECK(as_row_major(strided_view<int, 2>(v.data(), {0, 4}, {-3, 2})).has_value());
  CHECK(as_row_major(strided_view<const int, 3>(v.data(), {2, 4, 5}, {20, 5, 1})).has_value());
  CHECK_FALSE(
      as_row_major(strided_view<const int, 3>(v.data(), {4, 2, 5}, {5, 20, 1})).has_value());
}

TEST_CASE("tensor_view: empty views have no elements and may be null") {
  const matrix_view<float> none;
  CHECK(none.empty());
  CHECK(none.data() == nullptr);
  CHECK(none.extent(1) == 0);
  const matrix_view<float> no_rows(nullptr, 0, 7);
  CHECK(no_rows.size() == 0);
  CHECK(no_rows.extent(1) == 7);
  CHECK(no_rows.stride(0) == 7);
  const strided_view<const float, 2> widened = no_rows;
  CHECK(widened.empty());
}
