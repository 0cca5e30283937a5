// SPDX-License-Identifier: Apache-2.0
/// gemv, gemm and the transposed product of every format, one thread: GFLOP/s and weight bytes per
/// second.
#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <vector>

#include "subbyte/format/list.hpp"
#include "subbyte/kernel/gemm.hpp"
#include "subbyte/kernel/gemv.hpp"
#include "subbyte/quantize/reference.hpp"

using namespace subbyte;

namespace {

constexpr index_t rows = 4096;
constexpr index_t cols = 4096;

template <class F>
block_matrix<F> matrix() {
  std::vector<float> w(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < w.size(); ++i) {
    w[i] = 0.02F * std::sin(static_cast<float>(i % 7919) * 1.7F);
  }
  block_matrix<F> m(rows, cols);
  reference{}.apply(matrix_view<const float>(w.data(), rows, cols), m, serial);
  return m;
}

template <class F>
void product(benchmark::State& state, bool transpose) {
  const auto w = matrix<F>();
  const index_t m = state.range(0);
  std::vector<float> a(static_cast<std::size_t>(m * cols), 0.5F);
  std::vector<float> c(static_cast<std::size_t>(m * rows), 0.5F);
  for (auto _ : state) {
    if (transpose) {
      gemm_transposed(w.view(), {c.data(), m, rows}, {a.data(), m, cols});
    } else if (m == 1) {
      gemv(w.view(), a, c);
    } else {
      gemm(w.view(), {a.data(), m, cols}, {c.data(), m, rows});
    }
    benchmark::ClobberMemory();
  }
  const auto calls = static_cast<double>(state.iterations());
  state.counters["flop/s"] = benchmark::Counter(calls * 2 * static_cast<double>(m * rows * cols),
                                                benchmark::Counter::kIsRate);
  state.counters["block_bytes/s"] = benchmark::Counter(
      calls * static_cast<double>(w.view().size_bytes()), benchmark::Counter::kIsRate);
}

const bool registered = [] {
  for_each_type(all_formats{}, []<class F>(std::type_identity<F>) {
    const std::string name = F::name;
    benchmark::RegisterBenchmark(("product/" + name).c_str(),
                                 [](benchmark::State& state) { product<F>(state, false); })
        ->Arg(1)
        ->Arg(16)
        ->Arg(256)
        ->ArgName("m")
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("transposed/" + name).c_str(),
                                 [](benchmark::State& state) { product<F>(state, true); })
        ->Arg(256)
        ->ArgName("m")
        ->Unit(benchmark::kMillisecond);
  });
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
