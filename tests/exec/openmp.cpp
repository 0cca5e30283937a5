// SPDX-License-Identifier: Apache-2.0
// Compiled with -fopenmp only: the header refuses to compile without it.
#if defined(_OPENMP)
#include "subbyte/exec/openmp.hpp"

#include <atomic>
#include <chrono>
#include <thread>
#include <vector>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

static_assert(executor<openmp_executor> && executor<const openmp_executor>);

bool covers(executor_ref ex, index_t n, index_t grain) {
  std::vector<std::atomic<int>> hits(static_cast<std::size_t>(n));
  std::atomic<bool> aligned{true};
  ex.for_range(n, grain, [&](index_t begin, index_t end) noexcept {
    if (begin >= end || begin % grain != 0 || (end % grain != 0 && end != n)) aligned = false;
    for (; begin < end; ++begin) hits[static_cast<std::size_t>(begin)].fetch_add(1);
  });
  for (const auto& h : hits) {
    if (h.load() != 1) return false;
  }
  return aligned.load();
}

}  // namespace

TEST_CASE("openmp_executor: every index is covered once, in whole grains") {
  for (const int threads : {0, 1, 2, 3}) {
    openmp_executor omp{threads};
    for (const index_t n : {0, 1, 2, 7, 65, 1000, 4097}) {
      for (const index_t grain : {1, 3, 64, 999, 5000}) {
        CAPTURE(threads, n, grain);
        CHECK(covers(omp, n, grain));
      }
    }
  }
}

TEST_CASE("openmp_executor: concurrency is the stated number of threads or the runtime's") {
  CHECK(openmp_executor{3}.concurrency() == 3);
  CHECK(openmp_executor{}.concurrency() == omp_get_max_threads());
  CHECK(openmp_executor{-1}.concurrency() == omp_get_max_threads());
}

TEST_CASE("openmp_executor: as many pieces run at the same time as it has threads") {
  const openmp_executor omp{2};
  std::atomic<int> arrived{0};
  std::atomic<int> met{0};
  executor_ref(omp).for_range(2, 1, [&](index_t, index_t) noexcept {
    ++arrived;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (arrived.load() < 2 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    if (arrived.load() == 2) ++met;
  });
  CHECK(met.load() == 2);
}

TEST_CASE("openmp_executor: a body may use the executor again") {
  const openmp_executor omp{2};
  std::atomic<index_t> total{0};
  executor_ref(omp).for_range(8, 1, [&](index_t i, index_t i_end) noexcept {
    for (; i < i_end; ++i) {
      executor_ref(omp).for_range(
          10, 1, [&](index_t begin, index_t end) noexcept { total += end - begin; });
    }
  });
  CHECK(total.load() == 80);
}
#endif
