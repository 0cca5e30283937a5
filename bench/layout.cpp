// SPDX-License-Identifier: Apache-2.0
/// Packing and unpacking of 4096 x 4096 codes by the layouts of checkpoints, one thread: bytes of
/// codes and words per second, beside a copy of as many bytes.
#include <benchmark/benchmark.h>

#include <cstring>
#include <vector>

#include "subbyte/layout/list.hpp"
#include "subbyte/layout/pack.hpp"

using namespace subbyte;

namespace {

constexpr matrix_shape shape{4096, 4096};

std::vector<std::uint8_t> codes_of(int bits) {
  std::vector<std::uint8_t> codes(static_cast<std::size_t>(shape.rows * shape.cols));
  std::uint64_t state = 1;
  for (std::uint8_t& code : codes) {
    state = state * 6364136223846793005U + 1442695040888963407U;
    code = static_cast<std::uint8_t>(state >> 56 & ((1U << bits) - 1));
  }
  return codes;
}

void count(benchmark::State& state, std::size_t bytes) {
  state.SetBytesProcessed(static_cast<std::int64_t>(state.iterations()) *
                          static_cast<std::int64_t>(bytes));
}

void pack_codes(benchmark::State& state, const packing& layout) {
  const auto codes = codes_of(layout.code_bits);
  std::vector<std::uint8_t> words(static_cast<std::size_t>(packed_bytes(layout, shape)));
  const matrix_view<const std::uint8_t> view(codes.data(), shape.rows, shape.cols);
  for (auto _ : state) pack(layout, view, words);
  count(state, codes.size() + words.size());
}

void unpack_codes(benchmark::State& state, const packing& layout) {
  auto codes = codes_of(layout.code_bits);
  std::vector<std::uint8_t> words(static_cast<std::size_t>(packed_bytes(layout, shape)));
  const matrix_view<std::uint8_t> view(codes.data(), shape.rows, shape.cols);
  pack(layout, matrix_view<const std::uint8_t>(codes.data(), shape.rows, shape.cols), words);
  for (auto _ : state) unpack(layout, words, view);
  count(state, codes.size() + words.size());
}

void copy(benchmark::State& state) {
  const auto from = codes_of(8);
  std::vector<std::uint8_t> to(from.size());
  for (auto _ : state) {
    std::memcpy(to.data(), from.data(), from.size());
    benchmark::DoNotOptimize(to.data());
    benchmark::ClobberMemory();
  }
  count(state, from.size() + to.size());
}

template <class L>
void register_layout() {
  const std::string name = std::string(L::name) + "/" + std::to_string(L::code_bits);
  benchmark::RegisterBenchmark(("pack/" + name).c_str(), pack_codes, packing_of<L>)
      ->Unit(benchmark::kMillisecond);
  benchmark::RegisterBenchmark(("unpack/" + name).c_str(), unpack_codes, packing_of<L>)
      ->Unit(benchmark::kMillisecond);
}

}  // namespace

int main(int argc, char** argv) {
  benchmark::RegisterBenchmark("copy", copy)->Unit(benchmark::kMillisecond);
  for_each_type(all_layouts{}, [](auto tag) { register_layout<typename decltype(tag)::type>(); });
  benchmark::Initialize(&argc, argv);
  benchmark::RunSpecifiedBenchmarks();
}
