// SPDX-License-Identifier: Apache-2.0
/// An engine's own thread pool: two members make it an executor.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>
#include <vector>

#include "subbyte/exec/executor.hpp"

namespace out_of_tree {

/// Each thread takes every n-th grain of a range. One range at a time: calls from other threads
/// wait, and a range inside a range runs on the thread that asked for it.
class worker_pool {
 public:
  explicit worker_pool(int threads) : threads_(threads) {
    for (int i = 1; i < threads; ++i) workers_.emplace_back([this, i] { serve(i); });
  }
  worker_pool(const worker_pool&) = delete;
  worker_pool& operator=(const worker_pool&) = delete;
  ~worker_pool() {
    {
      const std::lock_guard lock(mutex_);
      stopping_ = true;
    }
    wake_.notify_all();
    for (std::thread& worker : workers_) worker.join();
  }

  [[nodiscard]] int concurrency() const noexcept { return threads_; }

  void for_range(subbyte::index_t n, subbyte::index_t grain, subbyte::range_fn f, void* body) {
    if (inside_) {
      f(body, 0, n);
      return;
    }
    const std::lock_guard one_range(callers_);
    {
      const std::lock_guard lock(mutex_);
      range_ = {n, grain, f, body};
      busy_ = threads_ - 1;
      ++generation_;
    }
    wake_.notify_all();
    run(range_, 0);
    std::unique_lock lock(mutex_);
    done_.wait(lock, [this] { return busy_ == 0; });
  }

 private:
  struct range {
    subbyte::index_t n, grain;
    subbyte::range_fn f;
    void* body;
  };

  void run(const range& work, int thread) const {
    inside_ = true;
    for (subbyte::index_t begin = thread * work.grain; begin < work.n;
         begin += threads_ * work.grain) {
      const bool last = work.n - begin < work.grain;
      work.f(work.body, begin, last ? work.n : begin + work.grain);
    }
    inside_ = false;
  }

  void serve(int thread) {
    std::unique_lock lock(mutex_);
    for (unsigned long seen = 0;;) {
      wake_.wait(lock, [&] { return stopping_ || generation_ != seen; });
      if (stopping_) return;
      seen = generation_;
      const range work = range_;
      lock.unlock();
      run(work, thread);
      lock.lock();
      if (--busy_ == 0) done_.notify_one();
    }
  }

  const int threads_;
  std::mutex callers_, mutex_;
  std::condition_variable wake_, done_;
  range range_{};
  int busy_ = 0;
  unsigned long generation_ = 0;
  bool stopping_ = false;
  std::vector<std::thread> workers_;
  static inline thread_local bool inside_ = false;
};
static_assert(subbyte::executor<worker_pool>);

}  // namespace out_of_tree
