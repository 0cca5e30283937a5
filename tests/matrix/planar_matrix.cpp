// SPDX-License-Identifier: Apache-2.0
/// Planar matrices: what is stored comes back code by code and weight by weight, for every width,
/// zero point, group size and column order.
#include "subbyte/matrix/planar_matrix.hpp"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <random>
#include <utility>
#include <vector>

#include "subbyte/matrix/concepts.hpp"
#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/e8m0.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/minifloat.hpp"
#include "subbyte/num/rounding.hpp"
#include "subbyte/num/ue4m3.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"

using namespace subbyte;

namespace {

static_assert(quantized_matrix<planar_matrix_view<int_grid<4>, half>>);
static_assert(quant_target<planar_matrix<int_grid<3, zero_points::real>, f32_scale>>);
static_assert(quant_target<planar_matrix<codebook_grid<nf4>, e8m0>>);
static_assert(quant_target<planar_matrix<int_grid<8, zero_points::none>, bfloat16>>);
static_assert(quant_target<planar_matrix<codebook_grid<fp4_e2m1>, ue4m3>>);
static_assert(!std::is_copy_constructible_v<planar_matrix<int_grid<4>, half>>);
static_assert(std::is_nothrow_move_constructible_v<planar_matrix<int_grid<4>, half>>);

// A matrix of random codes and params, and what it must decode to, in W's column order.
template <class G, class S>
struct example {
  planar_matrix<G, S> matrix;
  std::vector<std::uint8_t> codes;  // [rows, cols] by stored column
  std::vector<float> weights;       // [rows, cols] by column of W

  example(index_t rows, index_t cols, index_t group_size, bool shuffled, std::uint64_t seed)
      : matrix(rows, cols, {group_size}),
        codes(static_cast<std::size_t>(rows * cols)),
        weights(codes.size()) {
    std::mt19937_64 generator(seed);
    std::vector<std::int32_t> order(static_cast<std::size_t>(cols));
    std::iota(order.begin(), order.end(), 0);
    if (shuffled) {
      for (std::size_t i = order.size(); i > 1; --i) {
        std::swap(order[i - 1], order[generator() % i]);
      }
      matrix.set_column_order(order);
    }
    const index_t group = matrix.group_size();
    for (index_t r = 0; r < rows; ++r) {
      for (index_t g = 0; g < matrix.groups(); ++g) {
        const index_t first = g * group;
        const index_t n = std::min(group, cols - first);
        typename G::params p{};
        p.scale = S::nearest(0.25F * static_cast<float>(1 + generator() % 7)).to_float();
        if constexpr (requires { p.zero; }) {
          p.zero = static_cast<float>(generator() % (G::last_code + 1));
          if constexpr (G::zeros == zero_points::none) p.zero = G::middle_code;
          if constexpr (G::zeros == zero_points::real) p.zero += 0.5F;
        }
        std::uint8_t* const c = codes.data() + r * cols + first;
        for (index_t i = 0; i < n; ++i) {
          c[i] = static_cast<std::uint8_t>(generator() % (G::last_code + 1));
          weights[static_cast<std::size_t>(r * cols + order[static_cast<std::size_t>(first + i)])] =
              G::value(c[i], p);
        }
        matrix.store(r, g, p, c, n);
      }
    }
  }
};

template <class G, class S>
void require_decodes(index_t rows, index_t cols, index_t group_size, bool shuffled) {
  INFO(rows << " x " << cols << ", groups of " << group_size << ", " << G::bits << " bits");
  const example<G, S> e(rows, cols, group_size, shuffled, static_cast<std::uint64_t>(cols));
  const auto view = e.matrix.view();
  std::vector<float> row(static_cast<std::size_t>(cols) + 1, -7.0F);
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(cols));
  for (index_t r = 0; r < rows; ++r) {
    const float* const expected = e.weights.data() + r * cols;
    view.decode_row(r, 0, cols, row.data());
    REQUIRE(std::equal(expected, expected + cols, row.begin()));
    REQUIRE(row.back() == -7.0F);
    view.stored_codes(r, 0, cols, codes.data());
    REQUIRE(std::equal(codes.begin(), codes.end(), e.codes.begin() + r * cols));
    for (index_t k0 = 0; k0 < cols; k0 += 5) {
      const index_t count = std::min<index_t>(cols - k0, 1 + k0 % 37);
      view.decode_row(r, k0, count, row.data());
      REQUIRE(std::equal(row.begin(), row.begin() + count, expected + k0));
      REQUIRE(view.stored_code(r, k0) == e.codes[static_cast<std::size_t>(r * cols + k0)]);
    }
  }
}

template <class G, class S>
void require_all_shapes() {
  for (const bool shuffled : {false, true}) {
    require_decodes<G, S>(3, 128, 32, shuffled);
    require_decodes<G, S>(2, 100, 24, shuffled);   // a short last group
    require_decodes<G, S>(2, 77, 8, shuffled);     // a short last byte too
    require_decodes<G, S>(3, 77, 77, shuffled);    // one group per row
    require_decodes<G, S>(2, 40, 1000, shuffled);  // as well
    require_decodes<G, S>(1, 1, 1, shuffled);
    require_decodes<G, S>(1, 600, 304, shuffled);
  }
}

}  // namespace

TEST_CASE("planar_matrix: every width decodes what was stored, in any piece") {
  require_all_shapes<int_grid<1>, f32_scale>();
  require_all_shapes<int_grid<2>, half>();
  require_all_shapes<int_grid<3>, half>();
  require_all_shapes<int_grid<4>, bfloat16>();
  require_all_shapes<int_grid<5>, f32_scale>();
  require_all_shapes<int_grid<6>, half>();
  require_all_shapes<int_grid<7>, half>();
  require_all_shapes<int_grid<8>, half>();
}

TEST_CASE("planar_matrix: every kind of zero point and scale") {
  require_all_shapes<int_grid<3, zero_points::none>, half>();
  require_all_shapes<int_grid<4, zero_points::real>, half>();
  require_all_shapes<int_grid<4, zero_points::real>, f32_scale>();
  require_all_shapes<codebook_grid<nf4>, f32_scale>();
  require_all_shapes<codebook_grid<iq4>, half>();
  require_all_shapes<codebook_grid<fp4_e2m1>, e8m0>();
  require_all_shapes<codebook_grid<fp4_e2m1>, ue4m3>();
}

TEST_CASE("planar_matrix: rows are bit streams, least significant bits first") {
  planar_matrix<int_grid<3>, half> m(2, 11, {11});
  const std::uint8_t codes[11] = {0, 1, 2, 3, 4, 5, 6, 7, 7, 0, 1};
  m.store(1, 0, {1.0F, 0.0F}, codes, 11);
  // 33 bits: 24 of the first eight codes, 9 of the others.
  REQUIRE(m.view().row_bytes() == 5);
  const std::uint8_t expected[5] = {0x88, 0xC6, 0xFA, 0x47, 0x00};
  for (index_t i = 0; i < 5; ++i) {
    CHECK(m.view().codes()[i] == 0);
    CHECK(m.view().codes()[5 + i] == expected[i]);
  }
}

TEST_CASE("planar_matrix: fit gives what the scale store holds, and store keeps it") {
  using matrix = planar_matrix<int_grid<4>, half>;
  const float w[] = {-0.1F, 0.3F, 0.77F};
  const auto p = matrix::fit<arch::scalar>(w, nullptr, 3);
  REQUIRE(p.scale == half::nearest(p.scale).to_float());
  REQUIRE(p.scale != int_grid<4>::fit<arch::scalar>(w, nullptr, 3).scale);
  matrix m(1, 3, {3});
  const std::uint8_t codes[] = {0, 7, 15};
  m.store(0, 0, p, codes, 3);
  REQUIRE(m.view().group_params(0, 0).scale == p.scale);
  REQUIRE(m.view().group_params(0, 0).zero == p.zero);

  using with_real_zeros = planar_matrix<int_grid<4, zero_points::real>, half>;
  const auto q = with_real_zeros::fit<arch::scalar>(w, nullptr, 3);
  REQUIRE(q.zero == half::nearest(q.zero).to_float());
}

TEST_CASE("planar_matrix: a scale beyond its store becomes the store's largest") {
  const float huge[] = {3e9F, -1e9F};
  using matrix = planar_matrix<int_grid<4>, half>;
  REQUIRE(matrix::fit<arch::scalar>(huge, nullptr, 2).scale == 65504.0F);
  const float tiny[] = {1e-12F};
  REQUIRE(matrix::fit<arch::scalar>(tiny, nullptr, 1).scale == 0.0F);
}

TEST_CASE("planar_matrix: size_bytes counts every plane") {
  const planar_matrix<int_grid<4>, half> a(4, 256, {64});
  REQUIRE(a.view().size_bytes() == 4 * 128 + 16 * 2 + 16);
  const planar_matrix<int_grid<4, zero_points::none>, half> s(4, 256, {64});
  REQUIRE(s.view().size_bytes() == 4 * 128 + 16 * 2);
  planar_matrix<int_grid<2, zero_points::real>, half> r(4, 20, {8});
  REQUIRE(r.view().size_bytes() == 4 * 5 + 12 * 4);
  std::vector<std::int32_t> order(20);
  std::iota(order.rbegin(), order.rend(), 0);
  r.set_column_order(order);
  REQUIRE(r.view().size_bytes() == 4 * 5 + 12 * 4 + 20 * 4);
}

TEST_CASE("planar_matrix: rows are cut out with their groups and order") {
  const example<int_grid<3>, half> e(6, 80, 32, true, 5);
  const auto part = e.matrix.view().row_range(2, 3);
  REQUIRE(part.rows() == 3);
  std::vector<float> row(80);
  for (index_t r = 0; r < 3; ++r) {
    part.decode_row(r, 0, 80, row.data());
    REQUIRE(std::equal(row.begin(), row.end(), e.weights.begin() + (r + 2) * 80));
  }
}

TEST_CASE("planar_matrix: in stored order the columns are those of the order") {
  const example<int_grid<4>, half> e(2, 64, 32, true, 9);
  const auto view = e.matrix.view();
  const auto stored = view.in_stored_order();
  REQUIRE(stored.order() == nullptr);
  std::vector<float> row(64);
  stored.decode_row(1, 0, 64, row.data());
  for (std::size_t j = 0; j < 64; ++j) {
    REQUIRE(row[j] == e.weights[64 + static_cast<std::size_t>(view.order()[j])]);
  }
}

TEST_CASE("planar_matrix: moves leave nothing behind, clones share nothing") {
  example<int_grid<4>, half> e(2, 64, 32, true, 3);
  planar_matrix<int_grid<4>, half> copy = e.matrix.clone();
  planar_matrix<int_grid<4>, half> moved = std::move(e.matrix);
  REQUIRE(e.matrix.rows() == 0);
  REQUIRE(e.matrix.view().size_bytes() == 0);
  const std::uint8_t zeros[32] = {};
  moved.store(0, 0, {2.0F, 0.0F}, zeros, 32);
  std::vector<float> row(64);
  copy.view().decode_row(0, 0, 64, row.data());
  REQUIRE(std::equal(row.begin(), row.end(), e.weights.begin()));
  copy = std::move(moved);
  REQUIRE(copy.view().group_params(0, 0).scale == 2.0F);
  REQUIRE(planar_matrix<int_grid<4>, half>().clone().rows() == 0);
}

TEST_CASE("planar_matrix: nested scales are their code times their block's float plus the offset") {
  using nested = nested_scale<e4m3fn, 16>;
  static_assert(quantized_matrix<planar_matrix_view<int_grid<4>, nested>>);
  static_assert(!quant_target<planar_matrix<int_grid<4>, nested>>);
  for (const bool shuffled : {false, true}) {
    const example<int_grid<4>, f32_scale> e(6, 100, 16, shuffled, 21);
    const auto from = e.matrix.view();
    const auto m = planar_matrix<int_grid<4>, nested>::nest_scales(from, 448.0F);
    const auto view = m.view();
    // 42 scales of one byte in three blocks, and the offset.
    REQUIRE(view.size_bytes() == from.size_bytes() - 42 * 4 + 42 + 4 * 4);
    double mean = 0;
    for (index_t i = 0; i < 42; ++i) mean += static_cast<double>(from.scales().at(i)) / 42;
    REQUIRE(std::fabs(static_cast<double>(view.scales().offset()) - mean) < 1e-6);
    float extreme[3] = {};
    for (index_t i = 0; i < 42; ++i) {
      extreme[i / 16] =
          std::max(extreme[i / 16], std::fabs(from.scales().at(i) - view.scales().offset()));
    }
    for (int b = 0; b < 3; ++b) REQUIRE(view.scales().outer()[b] == extreme[b] / 448.0F);
    for (index_t r = 0; r < 6; ++r) {
      for (index_t g = 0; g < 7; ++g) {
        const index_t i = 7 * r + g;
        const float stored =
            unfused(view.scales().codes()[i].to_float() * view.scales().outer()[i / 16]);
        const float scale = stored + view.scales().offset();
        REQUIRE(view.group_params(r, g).scale == scale);
        REQUIRE(view.group_params(r, g).zero == from.group_params(r, g).zero);
        // Three mantissa bits: at most a sixteenth of the value off.
        REQUIRE(std::fabs(scale - from.scales().at(i)) <= extreme[i / 16] / 16 * 1.0001F);
      }
    }
    std::vector<float> row(100), part(100);
    for (index_t r = 0; r < 6; ++r) {
      view.decode_row(r, 0, 100, row.data());
      for (index_t k = 0; k < 100; ++k) {
        index_t j = k;
        for (index_t s = 0; shuffled && s < 100; ++s) j = from.order()[s] == k ? s : j;
        REQUIRE(row[static_cast<std::size_t>(k)] ==
                int_grid<4>::value(from.stored_code(r, j), view.group_params(r, j / 16)));
      }
      view.row_range(r, 1).decode_row(0, 0, 100, part.data());
      REQUIRE(row == part);
    }
    const auto copy = m.clone();
    copy.view().decode_row(5, 0, 100, part.data());
    REQUIRE(row == part);
  }
}

TEST_CASE("planar_matrix: equal scales nest without loss") {
  planar_matrix<codebook_grid<nf4>, f32_scale> m(3, 64, {8});
  const std::uint8_t codes[8] = {0, 15, 7, 3, 4, 9, 12, 1};
  for (index_t r = 0; r < 3; ++r) {
    for (index_t g = 0; g < 8; ++g) m.store(r, g, {0.3F}, codes, 8);
  }
  const auto nested =
      planar_matrix<codebook_grid<nf4>, nested_scale<e4m3fn>>::nest_scales(m.view(), 448.0F);
  REQUIRE(nested.view().group_params(2, 7).scale == 0.3F);
  const planar_matrix<codebook_grid<nf4>, nested_scale<e4m3fn>> nothing;
  REQUIRE(nothing.view().rows() == 0);
}

#if defined(__cpp_exceptions)
TEST_CASE("planar_matrix: bad shapes, group sizes and orders are errors") {
  using matrix = planar_matrix<int_grid<4>, half>;
  using test_support::error_of;
  REQUIRE(error_of([] { matrix m(-1, 8, {8}); }).code() == errc::bad_shape);
  REQUIRE(error_of([] { matrix m(index_t{1} << 40, index_t{1} << 30, {8}); }).code() ==
          errc::bad_shape);
  REQUIRE(error_of([] { matrix m(1, index_t{1} << 31, {8}); }).code() == errc::bad_shape);
  for (const index_t group : {0, -8, 12, 4}) {
    const auto e = error_of([&] { matrix m(4, 64, {group}); });
    REQUIRE(e.code() == errc::bad_argument);
    REQUIRE(std::string(e.what()).find(std::to_string(group)) != std::string::npos);
  }
  matrix m(1, 4, {4});
  const std::vector<std::int32_t> good{3, 1, 0, 2};
  m.set_column_order(good);
  for (const std::vector<std::int32_t>& order :
       {std::vector<std::int32_t>{0, 1, 2}, {0, 1, 2, 2}, {0, 1, 2, 4}, {-1, 1, 2, 3}}) {
    const auto e = error_of([&] { m.set_column_order(order); });
    REQUIRE((e.code() == errc::bad_argument || e.code() == errc::bad_shape));
    REQUIRE(m.view().order() == nullptr);
  }
}
#endif
