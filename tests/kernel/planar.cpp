// SPDX-License-Identifier: Apache-2.0
/// The drivers on planar matrices: the bits that the same weights give as floats.
#include <algorithm>
#include <cmath>
#include <numeric>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/f32.hpp"
#include "subbyte/kernel/dequantize.hpp"
#include "subbyte/kernel/gemm.hpp"
#include "subbyte/kernel/gemv.hpp"
#include "subbyte/matrix/planar_matrix.hpp"
#include "subbyte/metrics/weight_error.hpp"
#include "support/archs.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

template <class G, class S>
planar_matrix<G, S> random_matrix(index_t rows, index_t cols, index_t group_size, bool shuffled) {
  planar_matrix<G, S> m(rows, cols, {group_size});
  std::mt19937_64 generator(static_cast<std::uint64_t>(cols));
  if (shuffled) {
    std::vector<std::int32_t> order(static_cast<std::size_t>(cols));
    std::iota(order.begin(), order.end(), 0);
    for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[generator() % i]);
    m.set_column_order(order);
  }
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(m.group_size()));
  for (index_t r = 0; r < rows; ++r) {
    for (index_t g = 0; g < m.groups(); ++g) {
      typename G::params p{};
      p.scale = static_cast<float>(0.1 * test_support::normal(generator));
      if constexpr (requires { p.zero; }) {
        p.zero = static_cast<float>(generator() % (G::last_code + 1));
      }
      for (auto& c : codes) c = static_cast<std::uint8_t>(generator() % (G::last_code + 1));
      m.store(r, g, p, codes.data(), std::min(m.group_size(), cols - g * m.group_size()));
    }
  }
  return m;
}

block_matrix<f32> as_floats(matrix_view<const float> w) {
  block_matrix<f32> m(w.extent(0), w.extent(1));
  for (index_t r = 0; r < w.extent(0); ++r) {
    for (index_t k = 0; k < w.extent(1); ++k) m.row(r)[k] = f32{w(r, k)};
  }
  return m;
}

template <class G, class S>
void require_same_products(index_t rows, index_t cols, index_t group_size, bool shuffled) {
  INFO(rows << " x " << cols << ", groups of " << group_size << ", " << G::bits << " bits");
  const auto m = random_matrix<G, S>(rows, cols, group_size, shuffled);
  std::vector<float> w(static_cast<std::size_t>(rows * cols));
  const matrix_view<float> weights(w.data(), rows, cols);
  thread_pool pool(3);
  test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
    dequantize<float, Arch>(m.view(), weights, pool);
    const auto floats = as_floats(weights);
    const index_t batch = 5;
    const auto a = test_support::normal_vector(static_cast<std::size_t>(batch * cols), 1.0, 3);
    const auto dy = test_support::normal_vector(static_cast<std::size_t>(batch * rows), 1.0, 4);
    std::vector<float> y(static_cast<std::size_t>(rows)), y_floats(y.size());
    gemv<Arch>(m.view(), {a.data(), cols}, y, pool);
    gemv<Arch>(floats.view(), {a.data(), cols}, y_floats);
    REQUIRE(y == y_floats);

    std::vector<float> c(static_cast<std::size_t>(batch * rows)), c_floats(c.size());
    const matrix_view<const float> in(a.data(), batch, cols);
    gemm<Arch>(m.view(), in, matrix_view<float>(c.data(), batch, rows), pool);
    gemm<Arch>(floats.view(), in, matrix_view<float>(c_floats.data(), batch, rows));
    REQUIRE(c == c_floats);

    std::vector<float> dx(static_cast<std::size_t>(batch * cols)), dx_floats(dx.size());
    const matrix_view<const float> gradient(dy.data(), batch, rows);
    gemm_transposed<Arch>(m.view(), gradient, matrix_view<float>(dx.data(), batch, cols), pool);
    gemm_transposed<Arch>(floats.view(), gradient,
                          matrix_view<float>(dx_floats.data(), batch, cols));
    REQUIRE(dx == dx_floats);

    const std::vector<index_t> ids{rows - 1, 0, 0};
    std::vector<float> chosen(static_cast<std::size_t>(3 * cols));
    get_rows<float, Arch>(m.view(), ids, matrix_view<float>(chosen.data(), 3, cols));
    for (index_t k = 0; k < cols; ++k) {
      REQUIRE(chosen[static_cast<std::size_t>(k)] == weights(rows - 1, k));
      REQUIRE(chosen[static_cast<std::size_t>(cols + k)] == weights(0, k));
    }
    REQUIRE(measure_error<Arch>(weights, m.view(), pool).mse == 0);
  });
}

}  // namespace

TEST_CASE("kernels: planar matrices give the bits of the same weights as floats") {
  for (const bool shuffled : {false, true}) {
    require_same_products<int_grid<4>, half>(37, 320, 128, shuffled);
    require_same_products<int_grid<2, zero_points::none>, half>(9, 100, 32, shuffled);
    require_same_products<int_grid<3>, f32_scale>(5, 77, 77, shuffled);
    require_same_products<int_grid<8, zero_points::real>, f32_scale>(4, 513, 256, shuffled);
    require_same_products<codebook_grid<nf4>, f32_scale>(6, 192, 64, shuffled);
  }
}

TEST_CASE("kernels: half and bfloat16 from a planar matrix are rounded once") {
  const auto m = random_matrix<int_grid<4>, half>(3, 300, 64, false);
  std::vector<float> w(900);
  dequantize(m.view(), matrix_view<float>(w.data(), 3, 300));
  std::vector<half> rounded(900);
  dequantize<half>(m.view(), matrix_view<half>(rounded.data(), 3, 300));
  for (std::size_t i = 0; i < 900; ++i) REQUIRE(rounded[i] == half::nearest(w[i]));
}
