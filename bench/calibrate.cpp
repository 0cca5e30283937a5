// SPDX-License-Identifier: Apache-2.0
/// GPTQ of whole layers with the Hessian given, two threads: seconds, beside one single-precision
/// product of k x k matrices with the same threads, and the part of the time that matrix products
/// take. The layer shapes are those of an 8B model. And the collector of X^T X on one thread beside
/// Eigen's symmetric rank-k update.
#include <benchmark/benchmark.h>

#include <chrono>
#include <cmath>
#include <numbers>
#include <random>
#include <utility>

#include "subbyte/calibrate/gptq.hpp"
#include "subbyte/calibrate/statistics.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/q4_k.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/quantize/quantize.hpp"

using namespace subbyte;

namespace {

template <class T>
using matrix = Eigen::Matrix<T, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;

double seconds() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

/// Normal deviates; a table of them repeated, for speed.
void fill(float* out, index_t count, double deviation, std::uint64_t seed) {
  std::mt19937_64 bits(seed);
  const auto uniform = [&] { return (static_cast<double>(bits() >> 11U) + 0.5) * 0x1p-53; };
  float table[4099];
  for (float& x : table) {
    x = static_cast<float>(deviation * std::sqrt(-2 * std::log(uniform())) *
                           std::cos(2 * std::numbers::pi * uniform()));
  }
  for (index_t i = 0; i < count; ++i) out[i] = table[bits() % 4099U];
}

/// X^T X of k / 8 tokens, and a diagonal that makes it definite.
tensor<float, 2> hessian(index_t k, executor_ref ex) {
  const index_t tokens = k / 8;
  tensor<float, 2> x(uninitialized, tokens, k);
  fill(x.data(), x.size(), 1, 1);
  tensor<float, 2> h(uninitialized, k, k);
  const Eigen::Map<matrix<float>> factor(x.data(), tokens, k);
  Eigen::Map<matrix<float>> product(h.data(), k, k);
  ex.for_range(k, 256, [&](index_t begin, index_t end) noexcept {
    product.middleRows(begin, end - begin).noalias() =
        factor.middleCols(begin, end - begin).transpose() * factor;
  });
  for (index_t i = 0; i < k; ++i)
    h(i, i) += static_cast<float>(tokens) * (0.1F + 0.01F * static_cast<float>(i % 50));
  return h;
}

/// C = A B for k x k floats, in tiles that the threads share. Returns seconds.
double product_seconds(index_t k, executor_ref ex) {
  constexpr index_t tile = 512;
  tensor<float, 2> a(uninitialized, k, k);
  tensor<float, 2> b(uninitialized, k, k);
  tensor<float, 2> c(k, k);
  fill(a.data(), a.size(), 1, 2);
  fill(b.data(), b.size(), 1, 3);
  const Eigen::Map<matrix<float>> left(a.data(), k, k);
  const Eigen::Map<matrix<float>> right(b.data(), k, k);
  Eigen::Map<matrix<float>> out(c.data(), k, k);
  const double begin = seconds();
  ex.for_range(k / tile * (k / tile), 1, [&](index_t first, index_t last) noexcept {
    for (index_t i = first; i < last; ++i) {
      const index_t row = i / (k / tile) * tile;
      const index_t col = i % (k / tile) * tile;
      out.block(row, col, tile, tile).noalias() =
          left.middleRows(row, tile) * right.middleCols(col, tile);
    }
  });
  return seconds() - begin;
}

/// The products of one GPTQ run alone, on tiles of the same shapes. Returns seconds.
double gptq_products_seconds(index_t n, index_t k, executor_ref ex) {
  constexpr index_t panel = detail::cholesky_panel;
  constexpr index_t tile = detail::cholesky_tile;
  tensor<double, 2> u(k, k);
  tensor<double, 2> side(k, panel);
  Eigen::Map<matrix<double>> square(u.data(), k, k);
  Eigen::Map<matrix<double>> column(side.data(), k, panel);
  const double begin = seconds();
  for (index_t p = k / panel - 1; p >= 0; --p) {
    const index_t at = p * panel;
    const index_t behind = k - at - panel;
    ex.for_range(at + panel, tile, [&](index_t first, index_t last) noexcept {
      for (index_t r = first; r < last; r += tile) {
        const index_t rows = last - r < tile ? last - r : tile;
        square.block(r, at, rows, panel).noalias() -=
            square.block(r, at + panel, rows, behind) *
            square.block(at, at + panel, panel, behind).transpose();
        square.block(r, at, rows, panel).noalias() =
            column.middleRows(r, rows) * square.block(at, at, panel, panel).transpose();
      }
    });
    ex.for_range(at, tile, [&](index_t first, index_t last) noexcept {
      for (index_t r = first; r < last; r += tile) {
        const index_t rows = last - r < tile ? last - r : tile;
        column.middleRows(r, rows).noalias() =
            square.block(r, at, rows, panel) * square.block(at, at, panel, panel);
        square.block(r, at, rows, panel).noalias() =
            square.block(r, r, rows, at - r) * column.middleRows(r, at - r);
      }
    });
  }
  const index_t chunk = n < detail::gptq_rows ? n : detail::gptq_rows;
  tensor<double, 2> w(k, chunk);
  tensor<double, 2> e(index_t{128}, chunk);
  Eigen::Map<matrix<double>> weights(w.data(), k, chunk);
  Eigen::Map<matrix<double>> errors(e.data(), 128, chunk);
  for (index_t row = 0; row < n; row += chunk) {
    for (index_t at = 128; at < k; at += 128) {
      const index_t across = ceil_div(chunk, detail::gptq_update_rows);
      const index_t down = ceil_div(k - at, detail::gptq_update_cols);
      ex.for_range(across * down, 1, [&](index_t first, index_t last) noexcept {
        for (index_t i = first; i < last; ++i) {
          const index_t c = at + i / across * detail::gptq_update_cols;
          const index_t r = i % across * detail::gptq_update_rows;
          const index_t cols = k - c < detail::gptq_update_cols ? k - c : detail::gptq_update_cols;
          const index_t rows =
              chunk - r < detail::gptq_update_rows ? chunk - r : detail::gptq_update_rows;
          weights.block(c, r, cols, rows).noalias() -=
              square.block(at - 128, c, 128, cols).transpose() * errors.middleCols(r, rows);
        }
      });
    }
  }
  return seconds() - begin;
}

void product(benchmark::State& state) {
  thread_pool pool(2);
  const index_t k = state.range(0);
  double total = 0;
  for (auto _ : state) {
    const double s = product_seconds(k, pool);
    state.SetIterationTime(s);
    total += s;
  }
  const auto size = static_cast<double>(k);
  state.counters["GFLOP/s"] =
      2e-9 * size * size * size * static_cast<double>(state.iterations()) / total;
}

/// All that a collector does with 4096 tokens; the counter is its speed over that of the rank-k
/// update alone.
void collector(benchmark::State& state) {
  constexpr index_t tokens = 4096;
  const index_t k = state.range(0);
  tensor<float, 2> x(uninitialized, tokens, k);
  fill(x.data(), x.size(), 1, 5);
  const Eigen::Map<const matrix<float>> rows(x.data(), tokens, k);
  matrix<float> h = matrix<float>::Zero(k, k);
  statistics_collector collected(k);
  double collecting = 0;
  double updating = 0;
  for (auto _ : state) {
    double begin = seconds();
    collected.add(std::as_const(x).view());
    const double s = seconds() - begin;
    state.SetIterationTime(s);
    collecting += s;
    begin = seconds();
    h.selfadjointView<Eigen::Lower>().rankUpdate(rows.transpose());
    updating += seconds() - begin;
    benchmark::DoNotOptimize(h.data());
  }
  state.counters["of_rank_k_update"] = updating / collecting;
}

template <class Target>
void layer(benchmark::State& state, Target make(index_t, index_t), bool with_products) {
  thread_pool pool(2);
  const index_t n = state.range(0);
  const index_t k = state.range(1);
  const tensor<float, 2> h = hessian(k, pool);
  tensor<float, 2> w(uninitialized, n, k);
  fill(w.data(), w.size(), 0.02, 4);
  Target target = make(n, k);
  double quantizing = 0;
  double products = 0;
  double one_product = 0;
  for (auto _ : state) {
    const double begin = seconds();
    quantize_into(w.view(), target, gptq{.hessian = h.view()}, pool);
    const double s = seconds() - begin;
    state.SetIterationTime(s);
    quantizing += s;
    if (with_products) {
      products += gptq_products_seconds(n, k, pool);
      one_product += product_seconds(k, pool);
    }
  }
  if (with_products) {
    state.counters["times_one_product"] = quantizing / one_product;
    state.counters["part_in_products"] = products / quantizing;
  }
}

planar_matrix<int_grid<4>, half> int4_g128(index_t n, index_t k) {
  return planar_matrix<int_grid<4>, half>(n, k, {128});
}
block_matrix<q4_k> blocks_q4_k(index_t n, index_t k) { return block_matrix<q4_k>(n, k); }

}  // namespace

BENCHMARK(collector)->Arg(256)->Arg(768)->Arg(1024)->Arg(2048)->Arg(4096)->UseManualTime()->Unit(
    benchmark::kMillisecond);
BENCHMARK(product)->Arg(4096)->UseManualTime()->Unit(benchmark::kSecond);
BENCHMARK_CAPTURE(layer, int4_g128, int4_g128, true)
    ->Args({4096, 4096})
    ->UseManualTime()
    ->Unit(benchmark::kSecond);
BENCHMARK_CAPTURE(layer, int4_g128, int4_g128, false)
    ->Args({1024, 4096})
    ->Args({14336, 4096})
    ->Args({4096, 14336})
    ->Iterations(1)
    ->UseManualTime()
    ->Unit(benchmark::kSecond);
BENCHMARK_CAPTURE(layer, q4_k, blocks_q4_k, false)
    ->Args({4096, 4096})
    ->UseManualTime()
    ->Unit(benchmark::kSecond);

BENCHMARK_MAIN();
