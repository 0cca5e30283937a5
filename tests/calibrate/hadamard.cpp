// SPDX-License-Identifier: Apache-2.0
#include "subbyte/calibrate/hadamard.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

#include "subbyte/calibrate/gptq.hpp"
#include "subbyte/calibrate/layer_loss.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "subbyte/quantize/rtn.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

namespace {

using subbyte::hadamard;
using subbyte::index_t;
using subbyte::matrix_view;
using test_support::error_of;

std::vector<double> identity(index_t n) {
  std::vector<double> m(static_cast<std::size_t>(n * n));
  for (index_t i = 0; i < n; ++i) m[static_cast<std::size_t>(i * n + i)] = 1;
  return m;
}

/// Q [n, n], row by row: the rotation of the unit vectors.
std::vector<double> written_out(const hadamard& q) {
  const index_t n = q.shape().size;
  std::vector<double> m = identity(n);
  q.rotate(matrix_view<double>(m.data(), n, n));
  return m;
}

double largest_difference(const std::vector<double>& a, const std::vector<double>& b) {
  double largest = 0;
  for (std::size_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::abs(a[i] - b[i]));
  return largest;
}

std::vector<double> product(const std::vector<double>& a, const std::vector<double>& b, index_t n,
                            bool transpose_a) {
  std::vector<double> c(static_cast<std::size_t>(n * n));
  for (index_t i = 0; i < n; ++i) {
    for (index_t k = 0; k < n; ++k) {
      const double left = a[static_cast<std::size_t>(transpose_a ? k * n + i : i * n + k)];
      for (index_t j = 0; j < n; ++j) {
        c[static_cast<std::size_t>(i * n + j)] += left * b[static_cast<std::size_t>(k * n + j)];
      }
    }
  }
  return c;
}

/// Roundings of one output, by the header's bound, in units of the type's epsilon / 2.
double roundings(const subbyte::hadamard_shape& s) {
  return 2 + std::log2(static_cast<double>(s.block / s.base)) +
         static_cast<double>(s.base - 1) * std::sqrt(static_cast<double>(s.base));
}

}  // namespace

TEST_CASE("hadamard: every matrix that Paley's constructions give has orthogonal rows of signs") {
  int found = 0;
  for (index_t order = 4; order <= 360; order += 4) {
    if (subbyte::detail::paley_construction<subbyte::arch::native>(order) ==
        subbyte::detail::paley::none) {
      continue;
    }
    ++found;
    const auto h = subbyte::detail::paley_matrix<subbyte::arch::native>(order);
    index_t wrong = 0;
    for (index_t i = 0; i < order; ++i) {
      for (index_t j = 0; j <= i; ++j) {
        int dot = 0;
        for (index_t k = 0; k < order; ++k) dot += h(i, k) * h(j, k);
        wrong += dot != (i == j ? order : 0);
        wrong += h(i, j) != 1 && h(i, j) != -1;
      }
    }
    INFO(order);
    REQUIRE(wrong == 0);
  }
  REQUIRE(found == 53);
}

TEST_CASE("hadamard: the usual layer widths get one block with a small dense factor") {
  struct width {
    index_t n, base;
  };
  for (const width& w : {width{1, 1},
                         {2, 1},
                         {256, 1},
                         {768, 12},
                         {1536, 12},
                         {2560, 20},
                         {3072, 12},
                         {4096, 1},
                         {5120, 20},
                         {8960, 140},
                         {28 * 512, 28},
                         {36 * 64, 36},
                         {40 * 8, 20},
                         {11008, 344},
                         {13824, 108},
                         {18944, 148},
                         {29568, 924},
                         {28672, 28}}) {
    const auto shape = subbyte::hadamard_shape_of(w.n);
    INFO(w.n);
    CHECK(shape.block == w.n);
    CHECK(shape.base == w.base);
  }
}

TEST_CASE("hadamard: other sizes are rotated in blocks of a power of two, at most 128") {
  // 92, 116 and 172 need constructions other than Paley's.
  CHECK(subbyte::hadamard_shape_of(92 + 0).block == 4);
  CHECK(subbyte::hadamard_shape_of(3).block == 1);
  CHECK(subbyte::hadamard_shape_of(6).block == 2);
  CHECK(subbyte::hadamard_shape_of(1031 * 256).block == 128);
  CHECK(subbyte::hadamard_blocks_of(4096, 128).block == 128);
  CHECK(subbyte::hadamard_blocks_of(4096, 128).base == 1);
  CHECK(subbyte::hadamard_blocks_of(240, 24).base == 12);
}

TEST_CASE("hadamard: Q is orthogonal, its entries have one magnitude, and back is its inverse") {
  for (const index_t n : {1, 2, 4, 8, 64, 12, 24, 20, 28, 36, 40, 56, 100, 3, 6, 46, 92}) {
    INFO(n);
    const auto shape = subbyte::hadamard_shape_of(n);
    const hadamard q(shape, 17);
    const std::vector<double> m = written_out(q);
    const double bound = 2 * roundings(shape) * 0x1p-53;
    CHECK(largest_difference(product(m, m, n, true), identity(n)) <=
          bound * static_cast<double>(shape.block));
    double uneven = 0;
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) {
        const bool same_block = i / shape.block == j / shape.block;
        const double expected = same_block ? 1 / std::sqrt(static_cast<double>(shape.block)) : 0.0;
        uneven =
            std::max(uneven, std::abs(std::abs(m[static_cast<std::size_t>(i * n + j)]) - expected));
      }
    }
    CHECK(uneven <= 0x1p-52);
    std::vector<double> back = m;
    q.rotate_back(matrix_view<double>(back.data(), n, n));
    CHECK(largest_difference(back, identity(n)) <= bound);
  }
}

TEST_CASE("hadamard: without signs a power of two is its own inverse, exactly for powers of four") {
  const hadamard q(subbyte::hadamard_shape_of(256));
  std::vector<float> x(256);
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 37) - 18;
  const std::vector<float> before = x;
  q.rotate(matrix_view<float>(x.data(), 1, 256));
  CHECK(x != before);
  // The first output is the scaled sum: the matrix is Sylvester's.
  float sum = 0;
  for (const float v : before) sum += v;
  CHECK(x[0] == sum / 16);
  q.rotate(matrix_view<float>(x.data(), 1, 256));
  CHECK(x == before);
}

TEST_CASE("hadamard: in float every output is within the stated roundings of the double result") {
  for (const index_t n : {128, 96, 344, 172}) {
    const auto shape = subbyte::hadamard_shape_of(n);
    const hadamard q(shape, 3);
    const auto draws = test_support::normal_vector(static_cast<std::size_t>(5 * n), 1, 11);
    for (const bool back : {false, true}) {
      std::vector<float> single = draws;
      std::vector<double> wide(draws.begin(), draws.end());
      const matrix_view<float> s(single.data(), 5, n);
      const matrix_view<double> d(wide.data(), 5, n);
      back ? q.rotate_back(s) : q.rotate(s);
      back ? q.rotate_back(d) : q.rotate(d);
      for (index_t r = 0; r < 5; ++r) {
        for (index_t first = 0; first < n; first += shape.block) {
          double length = 0;
          double worst = 0;
          for (index_t i = first; i < first + shape.block; ++i) {
            length += d(r, i) * d(r, i);
            worst = std::max(worst, std::abs(d(r, i) - static_cast<double>(s(r, i))));
          }
          INFO(n << " row " << r);
          CHECK(worst <= roundings(shape) * 0x1p-24 * std::sqrt(length));
        }
      }
    }
  }
}

TEST_CASE("hadamard: outputs are rotated by the transpose, and the Hessian on both sides") {
  for (const index_t n : {48, 64, 92}) {
    INFO(n);
    const hadamard q(subbyte::hadamard_shape_of(n), 5);
    const std::vector<double> m = written_out(q);
    std::vector<double> w(static_cast<std::size_t>(n * n));
    std::mt19937_64 generator(1);
    for (double& v : w) v = test_support::normal(generator);
    std::vector<double> mixed = w;
    q.rotate_outputs(matrix_view<double>(mixed.data(), n, n));
    const double bound = roundings(q.shape()) * 0x1p-53 * 4 * static_cast<double>(n);
    CHECK(largest_difference(mixed, product(m, w, n, true)) <= bound);

    // Columns beyond one panel, and a panel that is cut.
    const index_t wide = 70;
    std::vector<double> panel(static_cast<std::size_t>(n * wide));
    for (double& v : panel) v = test_support::normal(generator);
    std::vector<double> expected(panel.size());
    for (index_t i = 0; i < n; ++i) {
      for (index_t k = 0; k < n; ++k) {
        for (index_t j = 0; j < wide; ++j) {
          expected[static_cast<std::size_t>(i * wide + j)] +=
              m[static_cast<std::size_t>(k * n + i)] *
              panel[static_cast<std::size_t>(k * wide + j)];
        }
      }
    }
    q.rotate_outputs(matrix_view<double>(panel.data(), n, wide));
    CHECK(largest_difference(panel, expected) <= bound);

    const std::vector<double> h = product(w, w, n, true);
    std::vector<double> rotated = h;
    q.rotate_hessian(matrix_view<double>(rotated.data(), n, n));
    const std::vector<double> reference = product(m, product(h, m, n, false), n, true);
    CHECK(largest_difference(rotated, reference) <= bound * 8 * static_cast<double>(n));
    bool symmetric = true;
    for (index_t i = 0; i < n; ++i) {
      for (index_t j = 0; j < n; ++j) {
        symmetric &= rotated[static_cast<std::size_t>(i * n + j)] ==
                     rotated[static_cast<std::size_t>(j * n + i)];
      }
    }
    CHECK(symmetric);
  }
}

TEST_CASE("hadamard: a rotated layer of rotated inputs computes the same outputs") {
  const index_t n = 24;
  const hadamard q(subbyte::hadamard_shape_of(n), 9);
  std::mt19937_64 generator(2);
  std::vector<double> w(static_cast<std::size_t>(7 * n));
  std::vector<double> x(static_cast<std::size_t>(5 * n));
  for (double& v : w) v = test_support::normal(generator);
  for (double& v : x) v = test_support::normal(generator);
  const auto outputs = [&] {
    std::vector<double> y;
    for (index_t t = 0; t < 5; ++t) {
      for (index_t r = 0; r < 7; ++r) {
        double sum = 0;
        for (index_t j = 0; j < n; ++j) {
          sum += x[static_cast<std::size_t>(t * n + j)] * w[static_cast<std::size_t>(r * n + j)];
        }
        y.push_back(sum);
      }
    }
    return y;
  };
  const std::vector<double> before = outputs();
  q.rotate(matrix_view<double>(w.data(), 7, n));
  q.rotate(matrix_view<double>(x.data(), 5, n));
  // |x| |w| is below 2 n here; both rotations and both sums of n products round.
  CHECK(largest_difference(outputs(), before) <=
        (2 * roundings(q.shape()) + 2 * n) * 0x1p-53 * 2 * static_cast<double>(n));
}

TEST_CASE("hadamard: the signs come from the seed, and any executor gives the same bits") {
  const index_t n = 344;
  const auto draws = test_support::normal_vector(static_cast<std::size_t>(33 * n), 1, 4);
  const auto rotated = [&](std::uint64_t seed, subbyte::executor_ref ex) {
    std::vector<float> x = draws;
    const hadamard q(subbyte::hadamard_shape_of(n), seed);
    q.rotate(matrix_view<float>(x.data(), 33, n), ex);
    return x;
  };
  subbyte::thread_pool pool(3);
  CHECK(rotated(1, subbyte::serial) == rotated(1, pool));
  CHECK(rotated(1, subbyte::serial) != rotated(2, subbyte::serial));
  // Signs are balanced: 4 standard deviations of 344 fair draws.
  std::vector<double> m = identity(n);
  const hadamard q(subbyte::hadamard_shape_of(n), 1);
  const hadamard plain(subbyte::hadamard_shape_of(n));
  q.rotate(matrix_view<double>(m.data(), n, n));
  plain.rotate_back(matrix_view<double>(m.data(), n, n));
  double sum = 0;
  for (index_t i = 0; i < n; ++i) sum += m[static_cast<std::size_t>(i * n + i)];
  CHECK(std::abs(sum) < 4 * std::sqrt(344.0));
}

TEST_CASE("hadamard: a block form leaves the blocks apart, and pitched rows keep their padding") {
  const hadamard q(subbyte::hadamard_blocks_of(16, 4), 1);
  std::vector<float> x(40, 7.0F);
  for (std::size_t i = 0; i < 16; ++i) x[i] = x[20 + i] = i == 5 ? 1.0F : 0.0F;
  q.rotate(subbyte::tensor_view<float, 2, subbyte::row_pitched>(x.data(), {2, 16}, {20}));
  for (std::size_t i = 0; i < 16; ++i) {
    CHECK(std::abs(x[i]) == (i / 4 == 1 ? 0.5F : 0.0F));
    CHECK(x[i] == x[20 + i]);
  }
  for (std::size_t i = 16; i < 20; ++i) CHECK(x[i] == 7.0F);
}

TEST_CASE("hadamard: wrong shapes are bad_shape, before anything is written") {
  using subbyte::errc;
  CHECK(error_of([] { (void)subbyte::hadamard_shape_of(0); }).code() == errc::bad_shape);
  CHECK(error_of([] { (void)subbyte::hadamard_blocks_of(96, 20); }).code() == errc::bad_shape);
  CHECK(error_of([] { (void)subbyte::hadamard_blocks_of(92, 92); }).code() == errc::bad_shape);
  CHECK(error_of([] { hadamard(subbyte::hadamard_shape{12, 12, 3}); }).code() == errc::bad_shape);
  CHECK(error_of([] { hadamard(subbyte::hadamard_shape{}); }).code() == errc::bad_shape);
  const hadamard q(subbyte::hadamard_shape_of(8));
  std::vector<float> x(64, 1);
  const auto e = error_of([&] { q.rotate(matrix_view<float>(x.data(), 4, 16)); });
  CHECK(e.code() == errc::bad_shape);
  CHECK(std::string(e.what()).find("16 columns; the rotation has 8") != std::string::npos);
  CHECK(error_of([&] { q.rotate_outputs(matrix_view<float>(x.data(), 4, 16)); }).code() ==
        errc::bad_shape);
  CHECK(error_of([&] { q.rotate_hessian(matrix_view<float>(x.data(), 8, 4)); }).code() ==
        errc::bad_shape);
  CHECK(x == std::vector<float>(64, 1));
  q.rotate(matrix_view<float>(x.data(), 0, 8));  // no rows: nothing to do
}

TEST_CASE("hadamard: a NaN stays inside its row and block") {
  const hadamard q(subbyte::hadamard_blocks_of(8, 4));
  std::vector<float> x(16, 1);
  x[1] = std::nanf("");
  q.rotate(matrix_view<float>(x.data(), 2, 8));
  for (std::size_t i = 0; i < 16; ++i) CHECK(std::isnan(x[i]) == (i < 4));
}

TEST_CASE(
    "hadamard: rotated weights and Hessian lose less at 4 bits per row, with GPTQ much less") {
  // Figures of docs/methods/hadamard.md.
  using per_row = subbyte::planar<subbyte::int_grid<4, subbyte::zero_points::none>, subbyte::half>;
  const index_t n = 64;
  const index_t k = 256;
  const index_t tokens = 512;
  auto w = test_support::normal_vector(static_cast<std::size_t>(n * k), 1, 21);
  auto x = test_support::normal_vector(static_cast<std::size_t>(tokens * k), 1, 22);
  std::mt19937_64 generator(23);
  for (index_t t = 0; t < tokens; ++t) {
    const auto shared = static_cast<float>(test_support::normal(generator));
    for (index_t j = 0; j < k; ++j) {
      float& v = x[static_cast<std::size_t>(t * k + j)];
      v = (v + 0.5F * shared) * (j % 41 == 7 ? 15.0F : 1.0F);
    }
  }
  for (index_t r = 0; r < n; ++r) {
    for (index_t j = 5; j < k; j += 50) w[static_cast<std::size_t>(r * k + j)] *= 20;
  }
  std::vector<double> h(static_cast<std::size_t>(k * k));
  for (index_t t = 0; t < tokens; ++t) {
    const float* const row = x.data() + t * k;
    for (index_t i = 0; i < k; ++i) {
      for (index_t j = 0; j < k; ++j) {
        h[static_cast<std::size_t>(i * k + j)] +=
            static_cast<double>(row[i]) * static_cast<double>(row[j]);
      }
    }
  }
  struct losses {
    double weights, nearest, gptq;
  };
  const auto measured = [&] {
    const matrix_view<const float> wv(w.data(), n, k);
    subbyte::layer_inputs inputs;
    inputs.hessian = matrix_view<const double>(h.data(), k, k);
    inputs.tokens = tokens;
    const auto nearest = subbyte::quantize<per_row>(wv, {k}, subbyte::rtn{});
    const auto fed_back = subbyte::quantize<per_row>(
        wv, {k}, subbyte::gptq{.hessian = inputs.hessian, .tokens = tokens});
    return losses{nearest.report.error.nmse, subbyte::layer_loss(wv, nearest.view(), inputs),
                  subbyte::layer_loss(wv, fed_back.view(), inputs)};
  };
  const losses before = measured();
  const hadamard q(subbyte::hadamard_shape_of(k), 1);
  q.rotate(matrix_view<float>(w.data(), n, k));
  q.rotate_hessian(matrix_view<double>(h.data(), k, k));
  const losses after = measured();
  INFO("weights " << before.weights << " -> " << after.weights << ", outputs, nearest "
                  << before.nearest << " -> " << after.nearest << ", GPTQ " << before.gptq << " -> "
                  << after.gptq);
  CHECK(after.weights < 0.15 * before.weights);
  CHECK(after.nearest < 0.2 * before.nearest);
  CHECK(after.gptq < 0.05 * before.gptq);
  CHECK(after.gptq < 0.2 * after.nearest);
}
