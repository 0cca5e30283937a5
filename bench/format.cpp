// SPDX-License-Identifier: Apache-2.0
/// Decode and encode of every format, with one thread and with two, beside ggml where
/// SUBBYTE_PEER_GGML names a build of it: weights and bytes per second. Ratios come from one run
/// with
/// --benchmark_enable_random_interleaving=true, see docs/benchmarks.
#include <benchmark/benchmark.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numbers>
#include <random>
#include <string>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/kernel/dequantize.hpp"
#include "subbyte/quantize/reference.hpp"

#if defined(SUBBYTE_PEER_GGML)
#include <ggml.h>
#endif

using namespace subbyte;

namespace {

// 64 MB of floats: beyond any cache, as weights are.
constexpr index_t cols = 4096;
constexpr index_t decoded_rows = 4096;
// Encoding is bound by arithmetic: fewer rows give the same rate.
constexpr index_t encoded_rows = 512;

/// Normal deviates of a weight's usual size.
std::vector<float> weights(index_t rows) {
  std::mt19937_64 bits(7);
  const auto uniform = [&] { return (static_cast<double>(bits() >> 11U) + 0.5) * 0x1p-53; };
  std::vector<float> w(static_cast<std::size_t>(rows * cols));
  for (float& x : w) {
    x = static_cast<float>(0.02 * std::sqrt(-2 * std::log(uniform())) *
                           std::cos(2 * std::numbers::pi * uniform()));
  }
  return w;
}

/// Weights of a column's mean square, as an importance matrix holds.
std::vector<float> importance() {
  auto v = weights(1);
  for (float& x : v) x = x * x + 1e-6F;
  return v;
}

template <class F>
block_matrix<F> encoded(index_t rows) {
  const auto some = weights(encoded_rows);
  block_matrix<F> few(encoded_rows, cols);
  reference{}.apply(matrix_view<const float>(some.data(), encoded_rows, cols), few, serial);
  block_matrix<F> m(rows, cols);
  for (index_t r = 0; r < rows; ++r) {
    std::copy_n(few.view().row(r % encoded_rows), m.view().blocks_per_row(), m.row(r));
  }
  return m;
}

void count(benchmark::State& state, index_t rows, double bits) {
  const auto done = static_cast<double>(state.iterations()) * static_cast<double>(rows * cols);
  state.counters["weights/s"] = benchmark::Counter(done, benchmark::Counter::kIsRate);
  state.counters["block_bytes/s"] =
      benchmark::Counter(done / 8 * bits, benchmark::Counter::kIsRate);
}

template <class F>
void decode(benchmark::State& state, int threads) {
  std::vector<float> out(static_cast<std::size_t>(decoded_rows * cols));
  const auto m = encoded<F>(decoded_rows);
  thread_pool pool(threads);
  for (auto _ : state) {
    dequantize(m.view(), {out.data(), decoded_rows, cols}, pool);
    benchmark::ClobberMemory();
  }
  count(state, decoded_rows, bits_per_weight<F>);
}

template <class F>
void encode(benchmark::State& state, int threads, bool with_importance) {
  const auto w = weights(encoded_rows);
  const auto v = with_importance ? importance() : std::vector<float>();
  const reference policy{.importance = v};
  block_matrix<F> m(encoded_rows, cols);
  thread_pool pool(threads);
  for (auto _ : state) {
    policy.apply(matrix_view<const float>(w.data(), encoded_rows, cols), m, pool);
    benchmark::ClobberMemory();
  }
  count(state, encoded_rows, bits_per_weight<F>);
}

#if defined(SUBBYTE_PEER_GGML)
template <class F>
void decode_ggml(benchmark::State& state) {
  std::vector<float> out(static_cast<std::size_t>(decoded_rows * cols));
  const auto m = encoded<F>(decoded_rows);
  const auto to_float = ggml_get_type_traits(static_cast<ggml_type>(F::gguf_type))->to_float;
  for (auto _ : state) {
    to_float(m.view().row(0), out.data(), decoded_rows * cols);
    benchmark::ClobberMemory();
  }
  count(state, decoded_rows, bits_per_weight<F>);
}

template <class F>
void encode_ggml(benchmark::State& state, bool with_importance) {
  const auto w = weights(encoded_rows);
  const auto v = with_importance ? importance() : std::vector<float>();
  block_matrix<F> m(encoded_rows, cols);
  for (auto _ : state) {
    ggml_quantize_chunk(static_cast<ggml_type>(F::gguf_type), w.data(), m.row(0), 0, encoded_rows,
                        cols, with_importance ? v.data() : nullptr);
    benchmark::ClobberMemory();
  }
  block_matrix<F> ours(encoded_rows, cols);
  reference{.importance = v}.apply(matrix_view<const float>(w.data(), encoded_rows, cols), ours,
                                   serial);
  const auto bytes = static_cast<std::size_t>(m.view().size_bytes());
  if (std::memcmp(m.row(0), ours.row(0), bytes) != 0) {
    state.SkipWithError("ggml's bytes differ");
  }
  count(state, encoded_rows, bits_per_weight<F>);
}
#endif

template <class Run>
void add(const std::string& name, Run run) {
  benchmark::RegisterBenchmark(name.c_str(), run)->UseRealTime()->Unit(benchmark::kMillisecond);
}

const bool registered = [] {
  for_each_type(all_formats{}, []<class F>(std::type_identity<F>) {
    const std::string name = F::name;
    for (const int threads : {1, 2}) {
      const std::string suffix = "/" + name + "/subbyte" + (threads == 1 ? "" : "_2_threads");
      add("decode" + suffix, [=](benchmark::State& state) { decode<F>(state, threads); });
      add("encode" + suffix, [=](benchmark::State& state) { encode<F>(state, threads, false); });
      add("encode_importance" + suffix,
          [=](benchmark::State& state) { encode<F>(state, threads, true); });
    }
#if defined(SUBBYTE_PEER_GGML)
    if constexpr (gguf_format<F>) {
      const std::string suffix = "/" + name + "/ggml";
      const auto* traits = ggml_get_type_traits(static_cast<ggml_type>(F::gguf_type));
      if (traits->to_float != nullptr) add("decode" + suffix, decode_ggml<F>);
      if (traits->from_float_ref != nullptr) {
        add("encode" + suffix, [](benchmark::State& state) { encode_ggml<F>(state, false); });
        add("encode_importance" + suffix,
            [](benchmark::State& state) { encode_ggml<F>(state, true); });
      }
    }
#endif
  });
  return true;
}();

}  // namespace

BENCHMARK_MAIN();
