// SPDX-License-Identifier: Apache-2.0
/// One program for every CPU: asks it at run time which copy of a function it can run, calls the
/// widest, and checks that all that it can run agree.
#if defined(__x86_64__)
#include <cpuid.h>
#endif

#include <cstdio>
#include <cstring>  // std::memcmp
#include <vector>

#include "runtime_dispatch/products.hpp"
#include "subbyte/subbyte.hpp"

namespace {

struct variant {
  const char* name;
  products::product* run;
  bool supported;
};

#if defined(__x86_64__)
bool has_f16c() {
  unsigned eax = 0;
  unsigned ebx = 0;
  unsigned ecx = 0;
  unsigned edx = 0;
  return __get_cpuid(1, &eax, &ebx, &ecx, &edx) != 0 && (ecx & bit_F16C) != 0;
}
#endif

/// The widest last.
std::vector<variant> variants() {
  std::vector<variant> all{{"baseline", products::baseline, true}};
#if defined(__x86_64__)
  // The flags that CMakeLists.txt compiles each copy with. The compilers' builtin also asks whether
  // the operating system saves the registers; clang 14's does not know f16c.
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") && has_f16c();
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") &&
                      __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl");
  all.push_back({"avx2", products::avx2, avx2});
  all.push_back({"avx512", products::avx512, avx512});
#endif
  return all;
}

}  // namespace

int main() {
  const subbyte::index_t n = 64;
  const subbyte::index_t k = 1024;
  subbyte::tensor<float, 2> weights(n, k);
  std::vector<float> x(k);
  // Whole numbers that q4_0 holds exactly: the sums are exact, so every copy must give the same.
  for (subbyte::index_t i = 0; i < n * k; ++i) {
    weights.data()[i] = static_cast<float>((7 * i + i / k) % 16 - 8);
  }
  for (std::size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(i % 5) - 2.0F;
  const auto q = subbyte::quantize<subbyte::q4_0>(weights.view());

  const char* chosen = nullptr;
  std::vector<float> expected(n);
  products::baseline(q.view().data(), n, k, x.data(), expected.data());
  for (const variant& v : variants()) {
    if (!v.supported) {
      std::printf("%-8s  not on this CPU\n", v.name);
      continue;
    }
    std::vector<float> y(n);
    v.run(q.view().data(), n, k, x.data(), y.data());
    if (std::memcmp(y.data(), expected.data(), n * sizeof(float)) != 0) {
      std::fprintf(stderr, "%s differs from baseline\n", v.name);
      return 1;
    }
    std::printf("%-8s  y[0] = %g\n", v.name, static_cast<double>(y[0]));
    chosen = v.name;
  }
  std::printf("chosen: %s\n", chosen);
}
