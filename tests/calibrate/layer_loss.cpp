// SPDX-License-Identifier: Apache-2.0
#include "subbyte/calibrate/layer_loss.hpp"

#include <cmath>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/q4_0.hpp"
#include "subbyte/format/q8_0.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

namespace {

using subbyte::errc;
using subbyte::index_t;
using subbyte::layer_inputs;
using subbyte::matrix_view;
using test_support::error_of;

struct layer {
  index_t rows, cols, tokens;
  std::vector<float> w;
  std::vector<float> x;
  std::vector<double> h;

  layer(index_t n, index_t k, index_t t, std::uint64_t seed)
      : rows(n),
        cols(k),
        tokens(t),
        w(test_support::normal_vector(static_cast<std::size_t>(n * k), 0.1, seed)),
        x(test_support::normal_vector(static_cast<std::size_t>(t * k), 1, seed + 1)),
        h(static_cast<std::size_t>(k * k)) {
    for (index_t s = 0; s < t; ++s) {
      for (index_t i = 0; i < k; ++i) {
        for (index_t j = 0; j < k; ++j) {
          h[at(i, j)] += static_cast<double>(x[at(s, i)]) * static_cast<double>(x[at(s, j)]);
        }
      }
    }
  }
  [[nodiscard]] std::size_t at(index_t r, index_t c) const {
    return static_cast<std::size_t>(r * cols + c);
  }
  [[nodiscard]] matrix_view<const float> weights() const { return {w.data(), rows, cols}; }
  [[nodiscard]] layer_inputs activations() const {
    layer_inputs inputs;
    inputs.x = matrix_view<const float>(x.data(), tokens, cols);
    return inputs;
  }
  [[nodiscard]] layer_inputs hessian() const {
    layer_inputs inputs;
    inputs.hessian = matrix_view<const double>(h.data(), cols, cols);
    inputs.tokens = tokens;
    return inputs;
  }
  /// In double, from the definition.
  template <class M>
  [[nodiscard]] double loss(const M& estimate) const {
    double total = 0;
    std::vector<float> row(static_cast<std::size_t>(cols));
    for (index_t r = 0; r < rows; ++r) {
      estimate.decode_row(r, 0, cols, row.data());
      for (index_t t = 0; t < tokens; ++t) {
        double sum = 0;
        for (index_t j = 0; j < cols; ++j) {
          sum += static_cast<double>(x[at(t, j)]) *
                 (static_cast<double>(row[static_cast<std::size_t>(j)]) -
                  static_cast<double>(w[at(r, j)]));
        }
        total += sum * sum;
      }
    }
    return total / static_cast<double>(tokens);
  }
};

}  // namespace

TEST_CASE("layer_loss: X and X^T X both give the squared output error per token") {
  // Rows and tokens below, at and beyond one piece of work.
  for (const index_t rows : {1, 64, 131}) {
    for (const index_t tokens : {1, 40, 600}) {
      const layer l(rows, 96, tokens, 7);
      const auto q = subbyte::quantize<subbyte::q4_0>(l.weights());
      const double exact = l.loss(q.view());
      INFO(rows << " rows, " << tokens << " tokens");
      // Sums of 96 products in float: each output is off by at most 96 roundings relative to the
      // sum of magnitudes, sqrt(96) times the root mean square output; squares double that.
      const double bound = 2 * 96 * std::sqrt(96.0) * 0x1p-24 * exact;
      CHECK(std::abs(subbyte::layer_loss(l.weights(), q.view(), l.activations()) - exact) <= bound);
      CHECK(std::abs(subbyte::layer_loss(l.weights(), q.view(), l.hessian()) - exact) <= bound);
    }
  }
}

TEST_CASE("layer_loss: more bits lose less, and the weights themselves nothing") {
  const layer l(32, 64, 100, 1);
  const auto four = subbyte::quantize<subbyte::q4_0>(l.weights());
  const auto eight = subbyte::quantize<subbyte::q8_0>(l.weights());
  const double at_four = subbyte::layer_loss(l.weights(), four.view(), l.hessian());
  const double at_eight = subbyte::layer_loss(l.weights(), eight.view(), l.hessian());
  // Four bits less: 256 times the squared error, up to a factor of two.
  CHECK(at_four > 128 * at_eight);
  CHECK(at_four < 512 * at_eight);
  std::vector<float> same(static_cast<std::size_t>(32 * 64));
  for (index_t r = 0; r < 32; ++r) four.view().decode_row(r, 0, 64, same.data() + r * 64);
  const matrix_view<const float> exact(same.data(), 32, 64);
  CHECK(subbyte::layer_loss(exact, four.view(), l.hessian()) == 0);
  CHECK(subbyte::layer_loss(exact, four.view(), l.activations()) == 0);
}

TEST_CASE("layer_loss: tokens divide, huge Hessians fit, any executor gives the same bits") {
  const layer l(200, 64, 50, 3);
  const auto q = subbyte::quantize<subbyte::q4_0>(l.weights());
  layer_inputs unknown = l.hessian();
  unknown.tokens = 0;
  const double per_token = subbyte::layer_loss(l.weights(), q.view(), l.hessian());
  CHECK(std::abs(subbyte::layer_loss(l.weights(), q.view(), unknown) - 50 * per_token) <=
        1e-12 * per_token);
  layer huge = l;
  for (double& v : huge.h) v *= 0x1p150;  // beyond float
  CHECK(subbyte::layer_loss(l.weights(), q.view(), huge.hessian()) == per_token * 0x1p150);
  subbyte::thread_pool pool(3);
  CHECK(subbyte::layer_loss(l.weights(), q.view(), l.hessian(), pool) == per_token);
  CHECK(subbyte::layer_loss(l.weights(), q.view(), l.activations(), pool) ==
        subbyte::layer_loss(l.weights(), q.view(), l.activations()));
}

TEST_CASE("layer_loss: a Hessian that rounding made indefinite gives no negative loss") {
  const layer l(1, 32, 4, 5);
  const auto q = subbyte::quantize<subbyte::q4_0>(l.weights());
  std::vector<double> negative(32 * 32);
  for (std::size_t i = 0; i < 32; ++i) negative[i * 33] = -1;
  layer_inputs inputs;
  inputs.hessian = matrix_view<const double>(negative.data(), 32, 32);
  CHECK(subbyte::layer_loss(l.weights(), q.view(), inputs) == 0);
}

TEST_CASE("layer_loss: bad input is refused by name") {
  const layer l(4, 32, 4, 5);
  const layer narrow(4, 16, 4, 5);
  const auto q = subbyte::quantize<subbyte::q4_0>(l.weights());
  const auto code = [&](const layer_inputs& inputs) {
    return error_of([&] { (void)subbyte::layer_loss(l.weights(), q.view(), inputs); }).code();
  };
  CHECK(code({}) == errc::bad_argument);
  CHECK(code(narrow.activations()) == errc::bad_shape);
  CHECK(code(narrow.hessian()) == errc::bad_shape);
  layer poisoned = l;
  poisoned.x[7] = std::nanf("");
  CHECK(code(poisoned.activations()) == errc::non_finite);
  poisoned.h[9] = INFINITY;
  CHECK(code(poisoned.hessian()) == errc::non_finite);
  const auto e =
      error_of([&] { (void)subbyte::layer_loss(narrow.weights(), q.view(), narrow.hessian()); });
  CHECK(e.code() == errc::bad_shape);
  const layer empty(0, 32, 4, 5);
  const auto none = subbyte::quantize<subbyte::q4_0>(empty.weights());
  CHECK(subbyte::layer_loss(empty.weights(), none.view(), l.hessian()) == 0);
}
