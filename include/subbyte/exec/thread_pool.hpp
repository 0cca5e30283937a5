// SPDX-License-Identifier: Apache-2.0
/// A thread pool: std::thread workers that share ranges of work in pieces claimed by a counter.
#pragma once

#include <atomic>
#include <condition_variable>
#include <mutex>
#include <new>  // std::nothrow
#include <string>
#include <system_error>  // what std::thread throws
#include <thread>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/bits.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/fwd.hpp"  // the default arch

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Worker threads that wait for ranges of work; one per engine, no globals.
///
/// The caller of for_range takes part, and waits only for workers that are inside its own range.
/// Therefore any number of threads may call for_range at once, and a body may call it again: with
/// every worker busy the inner call runs on its caller alone.
///
/// Requires  outlives every call of for_range.
/// Cost      one mutex round trip per participant and range, one atomic addition per piece; no
///           allocation after construction. An idle worker yields for some tens of microseconds
///           before it sleeps.
template <class Arch>
class basic_thread_pool {
 public:
  /// threads counts the caller: threads - 1 workers are started. threads <= 0 means one per
  /// hardware thread.
  ///
  /// Throws  error{out_of_memory} or error{io} when the workers cannot be started.
  explicit basic_thread_pool(int threads = 0) {
    if (threads <= 0) threads = static_cast<int>(std::thread::hardware_concurrency());
    const int wanted = threads > 1 ? threads - 1 : 0;
    if (wanted == 0) return;
    workers_ = new (std::nothrow) std::thread[static_cast<std::size_t>(wanted)];
    if (workers_ == nullptr) {
      throw_error(errc::out_of_memory, "thread_pool",
                  "no memory for " + std::to_string(wanted) + " workers");
    }
#if defined(__cpp_exceptions)
    try {
      start(wanted);
    } catch (const std::system_error& refusal) {
      const int started = worker_count_;
      stop();
      throw_error(errc::io, "thread_pool",
                  "worker " + std::to_string(started + 1) + " of " + std::to_string(wanted) +
                      " could not be started: " + refusal.what());
    }
#else
    start(wanted);
#endif
  }

  basic_thread_pool(const basic_thread_pool&) = delete;
  basic_thread_pool& operator=(const basic_thread_pool&) = delete;

  ~basic_thread_pool() { stop(); }

  /// The workers and the caller.
  [[nodiscard]] int concurrency() const noexcept { return worker_count_ + 1; }

  /// Runs f over 0 .. n - 1, as the executor concept asks.
  void for_range(index_t n, index_t grain, range_fn f, void* body) noexcept {
    SUBBYTE_EXPECTS(grain >= 1);
    if (n <= 0) return;
    const index_t grains = ceil_div(n, grain);
    // Eight pieces per thread: even when one thread is late, the rest of the work is not.
    const index_t grains_per_piece = grains / (index_t{8} * concurrency());
    const index_t piece = grains_per_piece > 1 ? grains_per_piece * grain : grain;
    range work{f, body, n, piece, ceil_div(n, piece)};
    if (worker_count_ == 0 || work.pieces == 1) {
      f(body, 0, n);
      return;
    }
    {
      const std::lock_guard lock(mutex_);
      work.below = first_.load(std::memory_order_relaxed);
      first_.store(&work, std::memory_order_relaxed);
    }
    if (work.pieces > worker_count_) {
      wake_.notify_all();
    } else {
      for (index_t i = 1; i < work.pieces; ++i) wake_.notify_one();
    }
    work.run();
    {
      const std::lock_guard lock(mutex_);
      withdraw(&work);
    }
    for (int i = 0; i < yields_before_sleep && work.helpers.load(std::memory_order_relaxed) > 0;
         ++i) {
      std::this_thread::yield();
    }
    // A helper's last access to work is inside its lock, so work may end after this one.
    std::unique_lock lock(mutex_);
    done_.wait(lock, [&] { return work.helpers.load(std::memory_order_relaxed) == 0; });
  }

 private:
  // Lives in the frame of its for_range. helpers and below change under the pool's mutex only.
  struct range {
    range_fn f;
    void* body;
    index_t n;
    index_t piece;
    index_t pieces;
    range* below = nullptr;
    std::atomic<index_t> next{0};
    std::atomic<int> helpers{0};

    void run() noexcept {
      for (;;) {
        const index_t i = next.fetch_add(1, std::memory_order_relaxed);
        if (i >= pieces) return;
        const index_t begin = i * piece;
        f(body, begin, n - begin < piece ? n : begin + piece);
      }
    }
  };

  // Short enough to give the core back between tokens, long enough to meet the next product of the
  // same token awake.
  static constexpr int yields_before_sleep = 128;

  void start(int wanted) {
    for (int i = 0; i < wanted; ++i) {
      workers_[i] = std::thread([this] { serve(); });
      ++worker_count_;
    }
  }

  void stop() noexcept {
    {
      const std::lock_guard lock(mutex_);
      stopping_.store(true, std::memory_order_relaxed);
    }
    wake_.notify_all();
    for (int i = 0; i < worker_count_; ++i) workers_[i].join();
    delete[] workers_;
    workers_ = nullptr;
    worker_count_ = 0;
  }

  void serve() noexcept {
    std::unique_lock lock(mutex_);
    for (;;) {
      range* const work = first_.load(std::memory_order_relaxed);
      if (work != nullptr) {
        work->helpers.fetch_add(1, std::memory_order_relaxed);
        lock.unlock();
        work->run();
        lock.lock();
        withdraw(work);
        if (work->helpers.fetch_sub(1, std::memory_order_relaxed) == 1) done_.notify_all();
      } else if (stopping_.load(std::memory_order_relaxed)) {
        return;
      } else {
        lock.unlock();
        for (int i = 0; i < yields_before_sleep && !called(); ++i) std::this_thread::yield();
        lock.lock();
        wake_.wait(lock, [this] { return called(); });
      }
    }
  }

  [[nodiscard]] bool called() const noexcept {
    return first_.load(std::memory_order_relaxed) != nullptr ||
           stopping_.load(std::memory_order_relaxed);
  }

  // Takes a range without unclaimed pieces off the stack, so that no further worker joins it.
  void withdraw(range* work) noexcept {
    range* at = first_.load(std::memory_order_relaxed);
    if (at == work) {
      first_.store(work->below, std::memory_order_relaxed);
      return;
    }
    for (; at != nullptr; at = at->below) {
      if (at->below == work) {
        at->below = work->below;
        return;
      }
    }
  }

  std::mutex mutex_;
  std::condition_variable wake_;
  std::condition_variable done_;
  std::atomic<range*> first_{nullptr};  // a stack: an inner range is served before its outer one
  std::atomic<bool> stopping_{false};
  std::thread* workers_ = nullptr;
  int worker_count_ = 0;
};

/// The pool for this translation unit's flags.
using thread_pool = basic_thread_pool<arch::native>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
