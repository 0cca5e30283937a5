// SPDX-License-Identifier: Apache-2.0
/// Decode and reference encode of every format, one thread: weights and bytes per second.
#include <benchmark/benchmark.h>

#include <cmath>
#include <string>
#include <vector>

#include "subbyte/format/list.hpp"
#include "subbyte/kernel/dequantize.hpp"
#include "subbyte/quantize/reference.hpp"

using namespace subbyte;

namespace {

// 64 MB of floats: beyond any cache, as weights are.
constexpr index_t rows = 4096;
constexpr index_t cols = 4096;

std::vector<float> weights() {
  std::vector<float> w(static_cast<std::size_t>(rows * cols));
  for (std::size_t i = 0; i < w.size(); ++i) {
    w[i] = 0.02F * std::sin(static_cast<float>(i % 7919) * 1.7F);
  }
  return w;
}

template <class F>
void count(benchmark::State& state) {
  const auto done = static_cast<double>(state.iterations()) * static_cast<double>(rows * cols);
  state.counters["weights/s"] = benchmark::Counter(done, benchmark::Counter::kIsRate);
  state.counters["block_bytes/s"] =
      benchmark::Counter(done / 8 * bits_per_weight<F>, benchmark::Counter::kIsRate);
}

template <class F>
void decode_matrix(benchmark::State& state) {
  auto w = weights();
  block_matrix<F> m(rows, cols);
  reference{}.apply(matrix_view<const float>(w.data(), rows, cols), m, serial);
  for (auto _ : state) {
    dequantize(m.view(), {w.data(), rows, cols});
    benchmark::ClobberMemory();
  }
  count<F>(state);
}

template <class F>
void encode_matrix(benchmark::State& state) {
  const auto w = weights();
  const std::vector<float> importance(static_cast<std::size_t>(state.range(0) != 0 ? cols : 0), 1);
  const reference policy{.importance = importance};
  block_matrix<F> m(rows, cols);
  for (auto _ : state) {
    policy.apply(matrix_view<const float>(w.data(), rows, cols), m, serial);
    benchmark::ClobberMemory();
  }
  count<F>(state);
}

const bool registered = [] {
  for_each_type(all_formats{}, []<class F>(std::type_identity<F>) {
    const std::string name = F::name;
    benchmark::RegisterBenchmark(("decode/" + name).c_str(), decode_matrix<F>)
        ->Unit(benchmark::kMillisecond);
    benchmark::RegisterBenchmark(("encode/" + name).c_str(), encode_matrix<F>)
        ->Arg(0)
        ->Arg(1)
        ->ArgName("importance")
        ->Unit(benchmark::kMillisecond);
  });
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
