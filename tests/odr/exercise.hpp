// SPDX-License-Identifier: Apache-2.0
/// Most of the public API, instantiated. Each unit that includes this has its own copy, compiled
/// with its own -m flags.
#pragma once

#include <unistd.h>  // getpid

#include <cstdint>
#include <cstdio>  // std::remove
#include <span>
#include <string>

#include "subbyte/cpu.hpp"
#include "subbyte/io.hpp"

/// One hash of everything that must not depend on flags or threads.
std::uint64_t exercise_baseline();
std::uint64_t exercise_wide();

namespace {

struct fnv1a {
  std::uint64_t value = 0xCBF29CE484222325U;

  void add(const void* bytes, subbyte::index_t size) {
    const auto* p = static_cast<const unsigned char*>(bytes);
    for (subbyte::index_t i = 0; i < size; ++i) value = (value ^ p[i]) * 0x100000001B3U;
  }
};

using subbyte::index_t;

constexpr index_t n = 5;
constexpr index_t k = 2 * 256 + 32;  // the super-block formats pad
constexpr index_t m = 3;

subbyte::tensor<float, 2> matrix(index_t rows, index_t cols, std::uint32_t seed) {
  subbyte::tensor<float, 2> out(rows, cols);
  for (index_t i = 0; i < rows * cols; ++i) {
    seed = seed * 1664525U + 1013904223U;
    out.data()[i] = static_cast<float>(static_cast<std::int32_t>(seed)) * 0x1p-31F;
  }
  return out;
}

template <class F, class Arch>
void exercise_format(fnv1a& hash, subbyte::executor_ref ex) {
  const auto w = matrix(n, k, 1);
  const auto a = matrix(m, k, 2);
  const auto importance = matrix(1, k, 3);
  subbyte::tensor<float, 1> weight(k);
  for (index_t i = 0; i < k; ++i) weight(i) = importance(0, i) + 1.5F;

  const auto plain = subbyte::quantize<F, subbyte::reference, Arch>(w.view(), {}, ex);
  const subbyte::reference weighted{.importance = weight.view()};
  const auto fitted = subbyte::quantize<F, subbyte::reference, Arch>(w.view(), weighted, ex);
  for (const auto* q : {&plain, &fitted}) {
    hash.add(q->view().data(), q->view().size_bytes());
  }
  auto copy = plain.matrix.clone();
  const subbyte::block_matrix<F, Arch> moved = static_cast<decltype(copy)&&>(copy);

  subbyte::tensor<float, 2> decoded(n, k);
  subbyte::dequantize<float, Arch>(moved.view(), decoded.view(), ex);
  hash.add(decoded.data(), n * k * 4);
  subbyte::tensor<subbyte::half, 2> halves(n, k);
  subbyte::dequantize<subbyte::half, Arch>(moved.view(), halves.view(), ex);
  const index_t chosen[] = {4, 0, 4};
  subbyte::tensor<float, 2> rows(3, k);
  subbyte::get_rows<float, Arch>(moved.view(), chosen, rows.view(), ex);
  hash.add(rows.data(), 3 * k * 4);

  subbyte::tensor<float, 1> y(n);
  subbyte::gemv<Arch>(moved.view(), a.view()[0], y.view(), ex);
  hash.add(y.data(), n * 4);
  // Declared tolerant: instantiated, not compared.
  subbyte::tensor<float, 2> c(m, n);
  subbyte::gemm<Arch>(moved.view(), a.view(), c.view(), ex);
  subbyte::tensor<float, 2> back(m, k);
  subbyte::gemm_transposed<Arch>(moved.view(), c.view(), back.view(), ex);
}

std::uint64_t exercise(const char* unit) {
  fnv1a hash;
  subbyte::thread_pool pool(2);
#if defined(__OPTIMIZE__)
  // Optimizing removes weak functions and adds none: enough formats to run every driver.
  using formats = subbyte::type_list<subbyte::f16, subbyte::q4_0, subbyte::q4_k>;
#else
  using formats = subbyte::all_formats;
#endif
  subbyte::for_each_type(formats{}, [&](auto tag) {
    using F = typename decltype(tag)::type;
    exercise_format<F, subbyte::arch::native>(hash, pool);
    exercise_format<F, subbyte::arch::scalar>(hash, subbyte::serial);
  });

  const auto w = matrix(n, k, 4);
  const auto v = matrix(n, k, 5);
  (void)subbyte::compare_token(w.view()[0], v.view()[0], 7);
  (void)subbyte::measure_histogram_divergence(w.view()[0], v.view()[0]);

  const std::string path =
      std::string("/tmp/subbyte_odr_") + unit + "_" + std::to_string(getpid()) + ".gguf";
  const auto q = subbyte::quantize<subbyte::q8_0>(w.view());
  {
    subbyte::gguf::writer writer(path);
    writer.metadata("general.architecture", "odr");
    writer.metadata("odr.numbers", std::span<const index_t>());
    writer.tensor("w", q.view());
    writer.finish();
  }
  const auto file = subbyte::gguf::open(path);
  file.tensor("w").visit([&](auto matrix) { hash.add(matrix.data(), matrix.size_bytes()); });
  hash.add(file.get<std::string_view>("general.architecture").data(), 3);
  try {
    (void)file.get<index_t>("general.architecture");
  } catch (const subbyte::error& e) {
    hash.add(e.what(), 1);
  }
  std::remove(path.c_str());
  return hash.value;
}

}  // namespace
