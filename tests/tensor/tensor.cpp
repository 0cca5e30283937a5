// SPDX-License-Identifier: Apache-2.0
#include "subbyte/tensor/tensor.hpp"

#include <cstdint>
#include <limits>
#include <string>
#include <type_traits>
#include <utility>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

using matrix = tensor<float, 2>;

// Copies are spelled clone(); a view of a temporary does not compile.
static_assert(!std::is_copy_constructible_v<matrix> && !std::is_copy_assignable_v<matrix>);
static_assert(std::is_nothrow_move_constructible_v<matrix> &&
              std::is_nothrow_move_assignable_v<matrix>);
static_assert(!std::is_convertible_v<int, tensor<float, 1>>);
static_assert(!std::is_constructible_v<matrix, int>);
template <class Tensor>
concept gives_view = requires {
  std::declval<Tensor>().view();
};
static_assert(gives_view<matrix&> && gives_view<const matrix&>);
static_assert(!gives_view<matrix> && !gives_view<const matrix>);
static_assert(std::is_same_v<decltype(std::declval<matrix&>().view()), matrix_view<float>>);
static_assert(
    std::is_same_v<decltype(std::declval<const matrix&>().view()), matrix_view<const float>>);
static_assert(tensor_like<matrix>);
static_assert(!std::is_constructible_v<vector_view<const float>, matrix&>);

template <class Construct>
errc code_of(Construct construct) {
  try {
    construct();
  } catch (const error& e) {
    CHECK(e.subject() == "tensor");
    return e.code();
  }
  return errc::io;
}

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__)
constexpr bool allocator_returns = false;
#elif defined(__has_feature)
#if __has_feature(address_sanitizer) || __has_feature(thread_sanitizer)
constexpr bool allocator_returns = false;
#else
constexpr bool allocator_returns = true;
#endif
#else
constexpr bool allocator_returns = true;
#endif

}  // namespace

TEST_CASE("tensor: memory is zeroed and aligned to 64 bytes") {
  for (index_t n = 1; n < 300; n += 7) {
    {
      tensor<std::uint8_t, 1> dirty(uninitialized, n);  // leaves non-zero bytes to be reused
      for (index_t i = 0; i < n; ++i) dirty(i) = 0xa5;
    }
    const tensor<std::uint8_t, 1> t(n);
    CHECK(reinterpret_cast<std::uintptr_t>(t.data()) % 64 == 0);
    bool zero = true;
    for (index_t i = 0; i < n; ++i) zero = zero && t(i) == 0;
    CHECK(zero);
  }
  struct alignas(256) wide {
    float values[64];
  };
  const tensor<wide, 1> t(2);
  CHECK(reinterpret_cast<std::uintptr_t>(t.data()) % 256 == 0);
}

TEST_CASE("tensor: extents, strides and elements agree with its view") {
  tensor<int, 3> t(2, 3, 4);
  CHECK(t.rank() == 3);
  CHECK(t.size() == 24);
  const auto v = t.view();
  for (std::size_t d = 0; d < 3; ++d) {
    CHECK(t.extent(d) == v.extent(d));
    CHECK(t.stride(d) == v.stride(d));
  }
  for (int i = 0; i < 24; ++i) t.data()[i] = i;
  CHECK(t(1, 2, 3) == 23);
  t(1, 0, 2) = -1;
  CHECK(v(1, 0, 2) == -1);
  CHECK(std::as_const(t)(1, 0, 2) == -1);
}

TEST_CASE("tensor: a clone has the same elements in its own memory") {
  tensor<int, 2> t(3, 5);
  for (int i = 0; i < 15; ++i) t.data()[i] = i * i;
  const tensor<int, 2> copy = t.clone();
  CHECK(copy.extent(0) == 3);
  CHECK(copy.extent(1) == 5);
  CHECK(copy.data() != t.data());
  t(2, 4) = 0;
  CHECK(copy(2, 4) == 196);
  CHECK(copy(1, 1) == 36);
}

TEST_CASE("tensor: moving passes the memory on and leaves nothing behind") {
  tensor<int, 1> a(7);
  a(6) = 42;
  const int* const memory = a.data();
  tensor<int, 1> b = std::move(a);
  CHECK(b.data() == memory);
  CHECK(a.empty());  // NOLINT: the moved-from state is what is tested
  CHECK(a.data() == nullptr);
  tensor<int, 1> c(3);
  c = std::move(b);
  CHECK(c(6) == 42);
  CHECK(c.extent(0) == 7);
  CHECK(b.data() == nullptr);  // NOLINT
  auto& self = c;
  c = std::move(self);
  CHECK(c(6) == 42);
}

TEST_CASE("tensor: no elements need no memory") {
  const tensor<float, 2> none;
  CHECK(none.data() == nullptr);
  CHECK(none.view().empty());
  const tensor<float, 2> no_columns(4, 0);
  CHECK(no_columns.data() == nullptr);
  CHECK(no_columns.extent(0) == 4);
  CHECK(no_columns.clone().extent(0) == 4);
  const tensor<char, 3> wide_but_empty(index_t{1} << 31, 0, index_t{1} << 31);
  CHECK(wide_but_empty.empty());
  CHECK(wide_but_empty.data() == nullptr);
  CHECK(wide_but_empty.view().stride(1) == index_t{1} << 31);
}

#if defined(__cpp_exceptions)
TEST_CASE("tensor: shapes that cannot be are bad_shape") {
  const index_t huge = std::numeric_limits<index_t>::max();
  CHECK(code_of([] { matrix(-1, 4); }) == errc::bad_shape);
  CHECK(code_of([] { matrix(0, -4); }) == errc::bad_shape);
  CHECK(code_of([] { matrix(-2, -2); }) == errc::bad_shape);
  CHECK(code_of([&] { matrix(huge, 2); }) == errc::bad_shape);
  CHECK(code_of([&] { (tensor<float, 1>(huge)); }) == errc::bad_shape);
  CHECK(code_of([&] { (tensor<float, 3>(0, huge, huge)); }) == errc::bad_shape);
  CHECK(code_of([&] { (tensor<float, 3>(huge, huge, 0)); }) == errc::bad_shape);
  CHECK(code_of([&] { matrix(uninitialized, index_t{1} << 31, index_t{1} << 31); }) ==
        errc::bad_shape);  // 2^62 elements of 4 bytes
  CHECK(code_of([] { (tensor<float, 1>(std::numeric_limits<std::size_t>::max())); }) ==
        errc::bad_shape);
  CHECK(code_of([] { (tensor<float, 3>(index_t{1} << 22, index_t{1} << 22, index_t{1} << 22)); }) ==
        errc::bad_shape);  // wraps to 2^66 mod 2^64 = 4 without the check
}

TEST_CASE("tensor: the message names the extents found and what is required") {
  try {
    matrix(3, -1);
    FAIL("a negative extent was accepted");
  } catch (const error& e) {
    CHECK(std::string(e.what()) ==
          "tensor: extents 3 x -1 of 4-byte elements: every extent must be at least 0");
  }
}

TEST_CASE("tensor: an allocation that fails is out_of_memory") {
  if (!allocator_returns) return;
  const index_t beyond_any_machine = index_t{1} << 60;
  CHECK(code_of([&] { (tensor<char, 1>(uninitialized, beyond_any_machine)); }) ==
        errc::out_of_memory);
}
#endif
