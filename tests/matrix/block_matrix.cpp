// SPDX-License-Identifier: Apache-2.0
#include "subbyte/matrix/block_matrix.hpp"

#include <algorithm>
#include <cstring>
#include <limits>
#include <type_traits>
#include <vector>

#include "subbyte/format/list.hpp"
#include "subbyte/matrix/concepts.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

// Every byte of the owner's storage set from its position, so that each weight is different bytes.
template <class F>
block_matrix<F> patterned(index_t rows, index_t cols) {
  block_matrix<F> m(rows, cols);
  for (index_t r = 0; r < rows; ++r) {
    auto* bytes = reinterpret_cast<std::uint8_t*>(m.row(r));
    const auto n = static_cast<std::size_t>(m.view().blocks_per_row()) * sizeof(F);
    for (std::size_t i = 0; i < n; ++i) {
      bytes[i] = static_cast<std::uint8_t>(31 * i + 7 * static_cast<std::size_t>(r));
    }
  }
  return m;
}

bool same_bits(const std::vector<float>& a, const std::vector<float>& b) {
  if (a.size() != b.size()) return false;
  return a.empty() || std::memcmp(a.data(), b.data(), a.size() * sizeof(float)) == 0;
}

}  // namespace

TEST_CASE("block_matrix: a new matrix decodes to the format's all-zero bytes") {
  block_matrix<q8_0> m(3, 70);
  REQUIRE(m.rows() == 3);
  REQUIRE(m.cols() == 70);
  REQUIRE(m.view().blocks_per_row() == 3);
  REQUIRE(m.view().size_bytes() == 3 * 3 * 34);
  std::vector<float> row(70, 1.0F);
  m.view().decode_row(2, 0, 70, row.data());
  for (const float v : row) REQUIRE(v == 0.0F);
}

TEST_CASE("block_matrix: decode_row of any range equals the same range of the whole row") {
  for_each_type(all_formats{}, []<class F>(std::type_identity<F>) {
    const index_t cols = 2 * F::block_size + F::block_size / 2 + 1;
    const auto m = patterned<F>(2, cols);
    std::vector<float> padded(static_cast<std::size_t>(m.view().blocks_per_row() * F::block_size));
    for (index_t b = 0; b < m.view().blocks_per_row(); ++b) {
      decode(m.view().row(1)[b], padded.data() + b * F::block_size);
    }
    const index_t step = F::block_size > 32 ? 37 : 1;
    for (index_t k0 = 0; k0 <= cols; k0 += step) {
      for (index_t count = 0; k0 + count <= cols; count += step) {
        std::vector<float> part(static_cast<std::size_t>(count) + 1, -77.0F);
        m.view().decode_row(1, k0, count, part.data());
        REQUIRE(part.back() == -77.0F);
        part.pop_back();
        REQUIRE(same_bits(part, {padded.begin() + k0, padded.begin() + k0 + count}));
      }
    }
  });
}

TEST_CASE("block_matrix: owner and view agree on where a row is, with a cut block too") {
  block_matrix<q4_0> m(3, 70);
  for (index_t r = 0; r < 3; ++r) {
    REQUIRE(m.view().row(r) == m.view().data() + 3 * r);
    REQUIRE(m.row(r) == m.view().row(r));
  }
}

TEST_CASE("block_matrix: memory is aligned to 64 bytes") {
  for (index_t cols = 1; cols < 2000; cols += 61) {
    const block_matrix<q4_0> m(1, cols);
    REQUIRE(reinterpret_cast<std::uintptr_t>(m.view().data()) % 64 == 0);
  }
}

TEST_CASE("block_matrix: row_range is the same rows") {
  const auto m = patterned<q4_0>(5, 64);
  const auto middle = m.view().row_range(2, 2);
  REQUIRE(middle.rows() == 2);
  REQUIRE(middle.cols() == 64);
  REQUIRE(middle.row(0) == m.view().row(2));
  REQUIRE(m.view().row_range(5, 0).rows() == 0);
}

TEST_CASE("block_matrix: moves leave an empty matrix, clone copies the bytes") {
  static_assert(!std::is_copy_constructible_v<block_matrix<q4_0>>);
  auto m = patterned<q4_0>(4, 96);
  const q4_0* blocks = m.view().data();
  auto copy = m.clone();
  REQUIRE(copy.view().data() != blocks);
  REQUIRE(std::memcmp(copy.view().data(), blocks, 4 * 3 * sizeof(q4_0)) == 0);
  block_matrix<q4_0> moved = std::move(m);
  REQUIRE(moved.view().data() == blocks);
  REQUIRE(m.rows() == 0);
  REQUIRE(m.view().data() == nullptr);
  moved = std::move(copy);
  REQUIRE(moved.rows() == 4);
  auto& self = moved;
  moved = std::move(self);
  REQUIRE(moved.rows() == 4);
  REQUIRE(block_matrix<q4_0>().clone().rows() == 0);
}

#if defined(__cpp_exceptions)
TEST_CASE("block_matrix: extents that cannot be are errors that name them") {
  const auto code_of = [](index_t rows, index_t cols) {
    const error e = test_support::error_of([&] { block_matrix<q4_0> m(rows, cols); });
    const std::string extents = std::to_string(rows) + " x " + std::to_string(cols);
    REQUIRE(std::string(e.what()).find(extents) != std::string::npos);
    return e.code();
  };
  constexpr index_t huge = std::numeric_limits<index_t>::max();
  REQUIRE(code_of(-1, 4) == errc::bad_shape);
  REQUIRE(code_of(4, -1) == errc::bad_shape);
  REQUIRE(code_of(huge, 64) == errc::bad_shape);
  REQUIRE(code_of(huge / 16, 64) == errc::bad_shape);
  REQUIRE(code_of(huge / 64, 1 << 12) == errc::bad_shape);  // fits by rows, not by their blocks
  REQUIRE(code_of(index_t{1} << 50, 1 << 10) == errc::out_of_memory);
}
#endif

TEST_CASE("block_matrix: as a target, groups are blocks, fitted as the format fits them") {
  STATIC_REQUIRE(quant_target<block_matrix<q4_0>> && quant_target<block_matrix<q4_k>> &&
                 quant_target<block_matrix<mxfp4>>);
  STATIC_REQUIRE(!quant_target<block_matrix<f16>>);
  const auto w = test_support::normal_vector(256, 1.0, 77);
  std::vector<float> importance(256);
  for (std::size_t i = 0; i < 256; ++i) importance[i] = static_cast<float>(1 + i % 5);
  using target = block_matrix<q4_k>;
  target m(2, 256);
  REQUIRE(m.group_size() == 256);
  REQUIRE(target::fit<arch::native>(w.data(), nullptr, 256) ==
          q4_k::fit<arch::native>(w.data(), nullptr));
  REQUIRE(target::fit<arch::native>(w.data(), importance.data(), 256) ==
          q4_k::fit<arch::native>(w.data(), importance.data()));
  const auto p = target::fit<arch::native>(w.data(), importance.data(), 256);
  std::uint8_t codes[256];
  for (int i = 0; i < 256; ++i) {
    codes[i] = static_cast<std::uint8_t>(target::round(w[static_cast<std::size_t>(i)], i, p));
    REQUIRE(codes[i] == q4_k::round(w[static_cast<std::size_t>(i)], i, p));
  }
  m.store(1, 0, p, codes, 256);
  float decoded[256];
  m.view().decode_row(1, 0, 256, decoded);
  for (int i = 0; i < 256; ++i) REQUIRE(decoded[i] == target::value(codes[i], i, p));
}

TEST_CASE("block_matrix: a short group is fitted and stored as if padded with zeros") {
  const auto w = test_support::normal_vector(20, 1.0, 78);
  std::vector<float> padded(32, 0.0F), importance(20, 2.0F), padded_importance(32, 0.0F);
  std::copy(w.begin(), w.end(), padded.begin());
  std::fill_n(padded_importance.begin(), 20, 2.0F);
  using target = block_matrix<q4_1>;
  REQUIRE(target::fit<arch::native>(w.data(), nullptr, 20) ==
          q4_1::fit<arch::native>(padded.data(), nullptr));
  const auto p = target::fit<arch::native>(w.data(), importance.data(), 20);
  REQUIRE(p == q4_1::fit<arch::native>(padded.data(), padded_importance.data()));
  target m(1, 52);
  std::uint8_t codes[20];
  for (int i = 0; i < 20; ++i) {
    codes[i] = static_cast<std::uint8_t>(target::round(w[static_cast<std::size_t>(i)], i, p));
  }
  m.store(0, 1, p, codes, 20);
  float block[32];
  decode(m.row(0)[1], block);
  for (int i = 0; i < 32; ++i) {
    const int code = i < 20 ? codes[i] : q4_1::round(0.0F, i, p);
    REQUIRE(block[i] == q4_1::value(code, i, p));
  }
}
