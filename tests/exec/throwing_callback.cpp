// SPDX-License-Identifier: Apache-2.0
/// A user's progress callback that throws, from an executor around the thread pool: the exception
/// reaches the caller once, nothing runs after it, and the pool and its threads go on.
#include <dirent.h>
#include <sys/resource.h>  // setrlimit
#include <sys/wait.h>
#include <unistd.h>  // fork

#include <atomic>
#include <chrono>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <string>
#include <system_error>
#include <thread>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/q4_0.hpp"
#include "support/catch.hpp"

#if defined(__cpp_exceptions)
#include "subbyte/core/error.hpp"
#include "subbyte/quantize/quantize.hpp"

#if defined(__has_feature)
#if __has_feature(thread_sanitizer)  // clang's way to say __SANITIZE_THREAD__
#define SUBBYTE_TEST_THREAD_SANITIZER
#endif
#endif

using namespace subbyte;

namespace {

// Threads of this process, as the kernel counts them.
int live_threads() {
  DIR* const tasks = ::opendir("/proc/self/task");
  if (tasks == nullptr) return -1;
  int count = 0;
  while (const dirent* task = ::readdir(tasks)) count += task->d_name[0] != '.' ? 1 : 0;
  ::closedir(tasks);
  return count;
}

// The first thread may bring one of a sanitizer's with it.
int threads_at_rest() {
  std::thread([] {}).join();
  std::this_thread::sleep_for(std::chrono::milliseconds(100));
  return live_threads();
}

// A thread that was joined is counted until the kernel has cleared it away.
bool settles_at(int threads) {
  const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(20);
  while (live_threads() != threads && std::chrono::steady_clock::now() < deadline) {
    std::this_thread::yield();
  }
  return live_threads() == threads;
}

// What a user may put around a pool: work in slabs of a few grains, and a call after each of them
// on the thread that asked for the work.
template <class Progress>
class reporting_executor {
 public:
  reporting_executor(thread_pool& pool, Progress progress)
      : pool_(pool), progress_(std::move(progress)) {}

  int concurrency() const noexcept { return pool_.concurrency(); }
  void for_range(index_t n, index_t grain, range_fn f, void* body) {
    const index_t slab = 3 * grain;
    for (index_t done = 0; done < n;) {
      part p{f, body, done, &running};
      const index_t count = n - done < slab ? n - done : slab;
      pool_.for_range(count, grain, &part::run, &p);
      done += count;
      progress_(done, n);
    }
  }

  std::atomic<int> running{0};

 private:
  struct part {
    range_fn f;
    void* body;
    index_t first;
    std::atomic<int>* running;
    static void run(void* self, index_t begin, index_t end) noexcept {
      const part& p = *static_cast<part*>(self);
      ++*p.running;
      p.f(p.body, p.first + begin, p.first + end);
      --*p.running;
    }
  };

  thread_pool& pool_;
  Progress progress_;
};

struct stop {
  int call;
};

std::vector<float> some_weights(index_t n) {
  std::mt19937_64 draw(20261121);
  std::vector<float> w(static_cast<std::size_t>(n));
  for (float& v : w) v = static_cast<float>(static_cast<double>(draw() >> 11) * 0x1p-53 - 0.5);
  return w;
}

bool same_bytes(block_matrix_view<q4_0> a, block_matrix_view<q4_0> b) {
  return a.size_bytes() == b.size_bytes() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size_bytes())) == 0;
}

}  // namespace

TEST_CASE("progress: an exception from any of its calls reaches the caller of quantize, once") {
  constexpr index_t rows = 131;
  constexpr index_t cols = 64;
  const std::vector<float> values = some_weights(rows * cols);
  const weights_view w(values.data(), rows, cols);
  const auto expected = quantize<q4_0>(w, reference{});

  const int before = threads_at_rest();
  thread_pool pool(4);
  REQUIRE(settles_at(before + 3));

  int completed_after = 0;
  for (int throwing_call = 1; completed_after == 0; ++throwing_call) {
    CAPTURE(throwing_call);
    REQUIRE(throwing_call < 1000);
    int calls = 0;
    int caught = 0;
    reporting_executor ex(pool, [&](index_t done, index_t n) {
      if (done <= 0 || done > n) FAIL("a part that is not of the whole");
      if (++calls == throwing_call) throw stop{calls};
    });
    try {
      const auto result = quantize<q4_0>(w, reference{}, ex);
      REQUIRE(same_bytes(result.view(), expected.view()));
      completed_after = calls;
    } catch (const stop& s) {
      ++caught;
      CHECK(s.call == throwing_call);
    }
    // The last round throws nothing: it only proves that every call before it could throw.
    CHECK(caught == (completed_after == 0 ? 1 : 0));
    CHECK(calls == (completed_after == 0 ? throwing_call : completed_after));
    CHECK(ex.running.load() == 0);
  }
  CHECK(completed_after > 10);
  CHECK(settles_at(before + 3));
  const auto again = quantize<q4_0>(w, reference{}, pool);
  CHECK(same_bytes(again.view(), expected.view()));
}

TEST_CASE("progress: an error of the library's own passes through a pool as it is") {
  std::vector<float> values = some_weights(64 * 64);
  values[64 * 63 + 7] = std::numeric_limits<float>::infinity();
  const weights_view w(values.data(), 64, 64);
  thread_pool pool(3);
  for (int round = 0; round < 20; ++round) {
    int caught = 0;
    try {
      (void)quantize<q4_0>(w, reference{}, pool);
    } catch (const error& e) {
      ++caught;
      CHECK(e.code() == errc::non_finite);
      CHECK(std::string(e.what()).find("row 63, column 7") != std::string::npos);
    }
    CHECK(caught == 1);
  }
}

TEST_CASE("progress: callers that throw and callers that do not share one pool") {
  constexpr index_t rows = 64;
  constexpr index_t cols = 64;
  const std::vector<float> values = some_weights(rows * cols);
  const weights_view w(values.data(), rows, cols);
  const auto expected = quantize<q4_0>(w, reference{});
  thread_pool pool(3);
  constexpr int callers = 4;
  constexpr int rounds = 30;
  std::atomic<int> thrown{0};
  std::atomic<int> right{0};
  std::vector<std::thread> threads;
  for (int c = 0; c < callers; ++c) {
    threads.emplace_back([&, c] {
      for (int round = 0; round < rounds; ++round) {
        if (c % 2 == 0) {
          reporting_executor ex(pool, [&](index_t, index_t) { throw stop{round}; });
          try {
            (void)quantize<q4_0>(w, reference{}, ex);
          } catch (const stop& s) {
            if (s.call == round) ++thrown;
          }
        } else {
          const auto result = quantize<q4_0>(w, reference{}, pool);
          if (same_bytes(result.view(), expected.view())) ++right;
        }
      }
    });
  }
  for (std::thread& t : threads) t.join();
  CHECK(thrown.load() == callers / 2 * rounds);
  CHECK(right.load() == callers / 2 * rounds);
}

TEST_CASE("progress: a pool that is destroyed after an exception leaves no thread behind") {
  const int before = threads_at_rest();
  for (int round = 0; round < 25; ++round) {
    const auto pool = std::make_unique<thread_pool>(2 + round % 4);
    reporting_executor ex(*pool, [](index_t, index_t) { throw stop{0}; });
    std::atomic<index_t> done{0};
    bool caught = false;
    try {
      executor_ref(ex).for_range(1000, 10,
                                 [&](index_t begin, index_t end) noexcept { done += end - begin; });
    } catch (const stop&) {
      caught = true;
    }
    CHECK(caught);
    CHECK(done.load() == 30);  // one slab: nothing runs behind the exception
  }
  CHECK(settles_at(before));
}

TEST_CASE("progress: a body that keeps its exceptions to itself hands them over after the range") {
  thread_pool pool(4);
  for (int round = 0; round < 50; ++round) {
    std::atomic<int> failed{0};
    std::exception_ptr first;
    std::atomic_flag taken = ATOMIC_FLAG_INIT;
    executor_ref(pool).for_range(64, 1, [&](index_t begin, index_t end) noexcept {
      for (; begin < end; ++begin) {
        try {
          if (begin % 5 == 0) throw stop{static_cast<int>(begin)};
        } catch (...) {
          ++failed;
          if (!taken.test_and_set()) first = std::current_exception();
        }
      }
    });
    CHECK(failed.load() == 13);
    REQUIRE(first != nullptr);
    CHECK_THROWS_AS(std::rethrow_exception(first), stop);
  }
}

// The thread sanitizer needs threads of its own.
#if !defined(__SANITIZE_THREAD__) && !defined(SUBBYTE_TEST_THREAD_SANITIZER)
namespace {

// A process of its own, whose user may have three threads: 0 if the pool behaves, 77 if the system
// does not keep the limit.
int pool_in_a_limited_process() {
  const pid_t child = ::fork();
  if (child != 0) {
    int status = 0;
    return ::waitpid(child, &status, 0) == child && WIFEXITED(status) ? WEXITSTATUS(status) : -1;
  }
  if (::geteuid() == 0 && ::setuid(65534) != 0) ::_exit(77);
  const rlimit three{3, 3};
  if (::setrlimit(RLIMIT_NPROC, &three) != 0) ::_exit(77);
  {
    std::vector<std::thread> threads;
    bool refused = false;
    try {
      for (int i = 0; i < 8; ++i) threads.emplace_back([] {});
    } catch (const std::system_error&) {
      refused = true;
    }
    for (std::thread& t : threads) t.join();
    if (!refused) ::_exit(77);
  }
  const int before = live_threads();
  for (int round = 0; round < 3; ++round) {
    try {
      const thread_pool pool(8);
      ::_exit(1);
    } catch (const error& e) {
      if (e.code() != errc::io) ::_exit(2);
    }
    if (!settles_at(before)) ::_exit(3);
  }
  ::_exit(0);
}

}  // namespace

TEST_CASE("progress: a pool whose workers cannot all be started throws and leaves no thread") {
  const int outcome = pool_in_a_limited_process();
  if (outcome == 77) {
    WARN("skipped: this system does not limit threads");
  } else {
    CHECK(outcome == 0);
  }
}
#endif
#endif
