// SPDX-License-Identifier: Apache-2.0
#include "subbyte/exec/thread_pool.hpp"

#include <unistd.h>  // gettid

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <limits>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <thread>
#include <type_traits>
#include <vector>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

static_assert(executor<thread_pool>);
static_assert(!std::is_copy_constructible_v<thread_pool> &&
              !std::is_move_constructible_v<thread_pool>);
static_assert(!std::is_convertible_v<int, thread_pool>);
static_assert(std::is_same_v<thread_pool, basic_thread_pool<arch::native>>);

// How often each index was covered, and whether every piece began and ended at a grain.
struct coverage {
  explicit coverage(index_t n) : hits(static_cast<std::size_t>(n)) {}
  std::vector<std::atomic<int>> hits;
  std::atomic<bool> aligned{true};

  void take(index_t begin, index_t end, index_t n, index_t grain) noexcept {
    if (begin >= end || begin % grain != 0 || (end % grain != 0 && end != n)) aligned = false;
    for (; begin < end; ++begin) hits[static_cast<std::size_t>(begin)].fetch_add(1);
  }
  bool complete() const {
    for (const auto& h : hits) {
      if (h.load() != 1) return false;
    }
    return aligned.load();
  }
};

bool covers(executor_ref ex, index_t n, index_t grain) {
  coverage seen(n);
  ex.for_range(n, grain,
               [&](index_t begin, index_t end) noexcept { seen.take(begin, end, n, grain); });
  return seen.complete();
}

// Whether every other thread of this process sleeps, as the system sees it.
bool others_sleep() {
  const std::filesystem::path tasks("/proc/self/task");
  if (!std::filesystem::exists(tasks)) return true;
  const std::string own = std::to_string(::gettid());
  for (const auto& task : std::filesystem::directory_iterator(tasks)) {
    if (task.path().filename() == own) continue;
    std::ifstream file(task.path() / "stat");
    std::string line;
    std::getline(file, line);
    const std::size_t name_end = line.rfind(')');  // "17 (name) S ..."
    if (name_end != std::string::npos && line.compare(name_end, 3, ") S") != 0) return false;
  }
  return true;
}

// Lets the pool's other threads end their yielding, which takes long on a busy machine.
void wait_until_others_sleep() {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  for (int times = 0; times < 5 && std::chrono::steady_clock::now() < deadline;) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
    times = others_sleep() ? times + 1 : 0;
  }
}

// Every piece waits for all the others: how many met within 20 seconds.
template <class OnArrival>
index_t meet(executor_ref ex, index_t pieces, const OnArrival& on_arrival) {
  std::atomic<index_t> arrived{0};
  std::atomic<index_t> met{0};
  ex.for_range(pieces, 1, [&](index_t, index_t) noexcept {
    on_arrival();
    ++arrived;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (arrived.load() < pieces && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();
    }
    if (arrived.load() == pieces) ++met;
  });
  return met.load();
}
index_t meet(executor_ref ex, index_t pieces) {
  return meet(ex, pieces, []() noexcept {});
}

}  // namespace

TEST_CASE("thread_pool: every index is covered once, in whole grains") {
  for (const int threads : {1, 2, 3, 5}) {
    thread_pool pool(threads);
    CAPTURE(threads);
    for (const index_t n : {1, 2, 3, 7, 64, 65, 1000, 4097}) {
      for (const index_t grain : {1, 2, 3, 16, 64, 999, 5000}) {
        CAPTURE(n, grain);
        CHECK(covers(pool, n, grain));
      }
    }
  }
}

TEST_CASE("thread_pool: concurrency counts the caller") {
  CHECK(thread_pool(1).concurrency() == 1);
  CHECK(thread_pool(2).concurrency() == 2);
  CHECK(thread_pool(5).concurrency() == 5);
  const int hardware = static_cast<int>(std::thread::hardware_concurrency());
  const int expected = hardware > 1 ? hardware : 1;
  CHECK(thread_pool().concurrency() == expected);
  CHECK(thread_pool(0).concurrency() == expected);
  CHECK(thread_pool(-3).concurrency() == expected);
}

TEST_CASE("thread_pool: no work calls nothing, also without the reference in between") {
  thread_pool pool(2);
  const range_fn never = [](void*, index_t, index_t) noexcept { std::abort(); };
  pool.for_range(0, 1, never, nullptr);
  CHECK(covers(pool, 0, 1));
}

TEST_CASE("thread_pool: two pieces run at the same time, one of them on the caller") {
  thread_pool pool(2);
  std::mutex mutex;
  std::set<std::thread::id> threads;
  CHECK(meet(pool, 2, [&]() noexcept {
          const std::lock_guard lock(mutex);
          threads.insert(std::this_thread::get_id());
        }) == 2);
  CHECK(threads.size() == 2);
  CHECK(threads.count(std::this_thread::get_id()) == 1);
}

TEST_CASE("thread_pool: the call returns when the slowest piece is done, also on a worker") {
  thread_pool pool(2);
  const std::thread::id caller = std::this_thread::get_id();
  std::atomic<int> arrived{0};
  std::atomic<bool> worker_done{false};
  executor_ref(pool).for_range(2, 1, [&](index_t, index_t) noexcept {
    ++arrived;
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
    while (arrived.load() < 2 && std::chrono::steady_clock::now() < deadline) {
      std::this_thread::yield();  // or the caller takes both pieces
    }
    if (std::this_thread::get_id() == caller) return;
    wait_until_others_sleep();
    worker_done = true;
  });
  CHECK(worker_done.load());
}

TEST_CASE("thread_pool: plain writes of the pieces are visible to the caller") {
  thread_pool pool(4);
  std::vector<index_t> values(5000);
  for (int round = 0; round < 50; ++round) {
    executor_ref(pool).for_range(5000, 8, [&](index_t begin, index_t end) noexcept {
      for (; begin < end; ++begin) values[static_cast<std::size_t>(begin)] += begin;
    });
  }
  bool right = true;
  for (index_t i = 0; i < 5000; ++i) right = right && values[static_cast<std::size_t>(i)] == 50 * i;
  CHECK(right);
}

TEST_CASE("thread_pool: a body may use the pool it runs on") {
  for (const int threads : {1, 2, 4}) {
    CAPTURE(threads);
    thread_pool pool(threads);
    constexpr index_t outer = 12;
    constexpr index_t middle = 9;
    constexpr index_t inner = 33;
    coverage seen(outer * middle * inner);
    const executor_ref ex(pool);
    ex.for_range(outer, 1, [&](index_t i, index_t i_end) noexcept {
      for (; i < i_end; ++i) {
        ex.for_range(middle, 2, [&, i](index_t j, index_t j_end) noexcept {
          for (; j < j_end; ++j) {
            const index_t base = (i * middle + j) * inner;
            ex.for_range(inner, 4, [&, base](index_t k, index_t k_end) noexcept {
              seen.take(base + k, base + k_end, outer * middle * inner, 1);
            });
          }
        });
      }
    });
    CHECK(seen.complete());
  }
}

TEST_CASE("thread_pool: several threads may share it") {
  thread_pool pool(3);
  constexpr int callers = 4;
  std::atomic<int> complete{0};
  std::vector<std::thread> threads;
  for (int c = 0; c < callers; ++c) {
    threads.emplace_back([&pool, &complete, c] {
      bool all = true;
      for (index_t round = 0; round < 100; ++round) all = all && covers(pool, 37 * (c + 1), 1 + c);
      if (all) ++complete;
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(complete.load() == callers);
}

TEST_CASE("thread_pool: it ends cleanly used, unused, and right after work") {
  for (int round = 0; round < 50; ++round) {
    auto pool = std::make_unique<thread_pool>(1 + round % 4);
    if (round % 3 != 0) CHECK(covers(*pool, 1 + 10 * round, 1));
    if (round % 7 == 0) std::this_thread::sleep_for(std::chrono::milliseconds(1));
    pool.reset();
  }
}

TEST_CASE("thread_pool: sleeping workers wake up, all of them or as many as there are pieces") {
  for (const int threads : {2, 4}) {
    for (const index_t pieces : {2, 4}) {
      if (pieces > threads) continue;
      CAPTURE(threads, pieces);
      thread_pool pool(threads);
      wait_until_others_sleep();
      CHECK(meet(pool, pieces) == pieces);
    }
  }
}

TEST_CASE("thread_pool: a huge range does not overflow its piece counter") {
  thread_pool pool(3);
  const index_t n = std::numeric_limits<index_t>::max();
  std::atomic<std::uint64_t> covered{0};
  for (const index_t grain : {n / 2, n / 3 + 1, n / 1000}) {
    covered = 0;
    executor_ref(pool).for_range(n, grain, [&](index_t begin, index_t end) noexcept {
      covered += static_cast<std::uint64_t>(end - begin);
    });
    CHECK(covered.load() == static_cast<std::uint64_t>(n));
  }
}

TEST_CASE("thread_pool: many callers, nested ranges and short-lived pools, for a while") {
  thread_pool shared(3);
  constexpr int callers = 4;
  std::atomic<int> complete{0};
  std::vector<std::thread> threads;
  for (int c = 0; c < callers; ++c) {
    threads.emplace_back([&shared, &complete, c] {
      std::uint64_t state = static_cast<std::uint64_t>(c) * 0x9E3779B97F4A7C15U + 1;
      bool all = true;
      for (int round = 0; round < 60; ++round) {
        state = state * 6364136223846793005U + 1442695040888963407U;
        const index_t n = 1 + static_cast<index_t>(state >> 33) % 90;
        const index_t grain = 1 + static_cast<index_t>(state >> 40) % 7;
        all = all && covers(shared, n, grain);
        // Inside the shared pool's workers: a pool of their own, and the shared one again.
        std::atomic<int> inner{0};
        executor_ref(shared).for_range(3, 1, [&](index_t begin, index_t end) noexcept {
          for (; begin < end; ++begin) {
            thread_pool own(2);
            if (covers(own, n, grain) && covers(shared, n, grain)) ++inner;
          }
        });
        all = all && inner.load() == 3;
      }
      if (all) ++complete;
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(complete.load() == callers);
}
