// SPDX-License-Identifier: Apache-2.0
#include "subbyte/matrix/row_scaled_matrix.hpp"

#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "subbyte/format/list.hpp"
#include "subbyte/matrix/concepts.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"

using namespace subbyte;

namespace {

// Every row with a scale and bytes of its own.
template <class F>
row_scaled_matrix<F> patterned(index_t rows, index_t cols) {
  row_scaled_matrix<F> m(rows, cols);
  for (index_t r = 0; r < rows; ++r) {
    m.set_scale(r, F::row_scale::nearest(0.001F * static_cast<float>(r + 1)));
    auto* bytes = reinterpret_cast<std::uint8_t*>(m.row(r));
    const auto n = static_cast<std::size_t>(m.view().blocks_per_row()) * sizeof(F);
    for (std::size_t i = 0; i < n; ++i) {
      bytes[i] = static_cast<std::uint8_t>(31 * i + 7 * static_cast<std::size_t>(r));
    }
  }
  return m;
}

}  // namespace

TEST_CASE("row_scaled_matrix: rows are a scale and blocks, one after another") {
  for_each_type(row_scaled_formats{}, []<class F>(std::type_identity<F>) {
    INFO(F::name);
    STATIC_REQUIRE(quantized_matrix<row_scaled_matrix_view<F>>);
    STATIC_REQUIRE(!quant_target<row_scaled_matrix<F>>);
    const auto m = patterned<F>(3, 512);
    constexpr auto scale_bytes = static_cast<index_t>(sizeof(typename F::row_scale));
    const auto row_bytes = scale_bytes + 2 * static_cast<index_t>(sizeof(F));
    REQUIRE(m.rows() == 3);
    REQUIRE(m.cols() == 512);
    REQUIRE(m.view().blocks_per_row() == 2);
    REQUIRE(m.view().row_bytes() == row_bytes);
    REQUIRE(m.view().size_bytes() == 3 * row_bytes);
    REQUIRE(reinterpret_cast<std::uintptr_t>(m.view().data()) % 64 == 0);
    for (index_t r = 0; r < 3; ++r) {
      typename F::row_scale stored;
      std::memcpy(&stored, m.view().data() + r * row_bytes, sizeof(stored));
      REQUIRE(stored == F::row_scale::nearest(0.001F * static_cast<float>(r + 1)));
      REQUIRE(m.view().scale(r) == stored);
      REQUIRE(reinterpret_cast<const std::uint8_t*>(m.view().row(r)) ==
              m.view().data() + r * row_bytes + scale_bytes);
    }
    const auto middle = m.view().row_range(1, 2);
    REQUIRE(middle.rows() == 2);
    REQUIRE(middle.row(0) == m.view().row(1));
    REQUIRE(middle.scale(1) == m.view().scale(2));
  });
}

TEST_CASE("row_scaled_matrix: decode_row of any range equals the same range of the whole row") {
  for_each_type(row_scaled_formats{}, []<class F>(std::type_identity<F>) {
    INFO(F::name);
    const auto m = patterned<F>(2, 512);
    std::vector<float> whole(512);
    for (index_t b = 0; b < 2; ++b) {
      F::decode(m.view().row(1)[b], m.view().scale(1), whole.data() + 256 * b);
    }
    for (index_t k0 = 0; k0 <= 512; k0 += 37) {
      for (index_t count = 0; k0 + count <= 512; count += 41) {
        std::vector<float> part(static_cast<std::size_t>(count) + 1, -77.0F);
        m.view().decode_row(1, k0, count, part.data());
        REQUIRE(part.back() == -77.0F);
        REQUIRE(std::memcmp(part.data(), whole.data() + k0,
                            static_cast<std::size_t>(count) * sizeof(float)) == 0);
      }
    }
  });
}

TEST_CASE("row_scaled_matrix: a new matrix is zero, one without columns has no bytes") {
  const row_scaled_matrix<iq4_ks> m(2, 256);
  std::vector<float> row(256, 1.0F);
  m.view().decode_row(1, 0, 256, row.data());
  for (const float v : row) REQUIRE(v == 0.0F);
  const row_scaled_matrix<iq4_ks> none(5, 0);
  REQUIRE(none.view().size_bytes() == 0);
  REQUIRE(none.view().data() == nullptr);
  none.view().decode_row(4, 0, 0, nullptr);
}

TEST_CASE("row_scaled_matrix: moves leave an empty matrix, clone copies the bytes") {
  static_assert(!std::is_copy_constructible_v<row_scaled_matrix<iq4_ks>>);
  auto m = patterned<iq2_ks>(4, 256);
  const std::uint8_t* bytes = m.view().data();
  const auto size = static_cast<std::size_t>(m.view().size_bytes());
  auto copy = m.clone();
  REQUIRE(copy.view().data() != bytes);
  REQUIRE(std::memcmp(copy.view().data(), bytes, size) == 0);
  row_scaled_matrix<iq2_ks> moved = std::move(m);
  REQUIRE(moved.view().data() == bytes);
  REQUIRE(m.rows() == 0);
  REQUIRE(m.view().data() == nullptr);
  moved = std::move(copy);
  REQUIRE(moved.rows() == 4);
  auto& self = moved;
  moved = std::move(self);
  REQUIRE(moved.rows() == 4);
  REQUIRE(row_scaled_matrix<iq2_ks>().clone().rows() == 0);
}

#if defined(__cpp_exceptions)
TEST_CASE("row_scaled_matrix: extents that cannot be are errors that name them") {
  const auto code_of = [](index_t rows, index_t cols) {
    const error e = test_support::error_of([&] { row_scaled_matrix<iq4_ks> m(rows, cols); });
    REQUIRE(std::string(e.what()).find(std::to_string(cols)) != std::string::npos);
    return e.code();
  };
  constexpr index_t huge = std::numeric_limits<index_t>::max();
  REQUIRE(code_of(-1, 256) == errc::bad_shape);
  REQUIRE(code_of(4, -256) == errc::bad_shape);
  REQUIRE(code_of(4, 300) == errc::bad_shape);  // a row cannot be padded: files refuse it too
  REQUIRE(code_of(huge, 256) == errc::bad_shape);
  REQUIRE(code_of(huge / 140, 512) == errc::bad_shape);
  REQUIRE(code_of(1, huge - huge % 256) == errc::out_of_memory);
  REQUIRE(code_of(index_t{1} << 50, 1 << 10) == errc::out_of_memory);
}
#endif
