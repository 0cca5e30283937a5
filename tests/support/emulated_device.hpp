// SPDX-License-Identifier: Apache-2.0
/// Runs kernels of cuda/ on the host: every thread of a block is a fiber, so that a kernel's
/// staging, synchronization and indices are executed without a device, also under the sanitizers.
///
/// An asynchronous copy arrives when its thread waits for it and not before; until then the
/// destination holds other bytes. Fibers run in a new order after every barrier. What can go wrong
/// on a device stops the test: a barrier that not all reach, a misaligned copy, a copy still under
/// way at the end of the thread.
#pragma once

#include <ucontext.h>
#include <csetjmp>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <random>
#include <vector>

#include "subbyte/core/bits.hpp"

namespace test_support {

[[noreturn]] inline void device_fault(const char* what) {
  std::fprintf(stderr, "emulated device: %s\n", what);
  std::abort();
}

class emulated_block;

/// What cuda::device_thread is on a device.
class emulated_thread {
 public:
  emulated_thread(emulated_block& block, int index) noexcept : block_(&block), index_(index) {}

  [[nodiscard]] int lane() const noexcept { return index_ % 32; }
  [[nodiscard]] int warp() const noexcept { return index_ / 32; }
  [[nodiscard]] subbyte::index_t block() const noexcept;
  [[nodiscard]] std::uint8_t* shared() const noexcept;
  void sync_warp() const;
  void sync_block() const;
  [[nodiscard]] float exchanged(float value, int mask) const;

  template <int Bytes>
  void copy_async(std::uint8_t* to, const std::uint8_t* from) const {
    begin_copy(to, from, Bytes);
  }
  void commit_copies() const;
  template <int Pending>
  void wait_copies() const {
    wait_for(Pending);
  }

 private:
  void begin_copy(std::uint8_t* to, const std::uint8_t* from, int bytes) const;
  void wait_for(std::size_t pending) const;

  emulated_block* block_;
  int index_;
};

/// One block of threads.
class emulated_block {
 public:
  template <class Body>
  emulated_block(subbyte::index_t block, int threads, int shared_bytes, Body&& body)
      : block_(block), shared_(allocate(shared_bytes)) {
    fibers_.reserve(static_cast<std::size_t>(threads));
    for (int i = 0; i < threads; ++i) fibers_.push_back(std::make_unique<fiber>(*this, i));
    body_ = [](void* b, emulated_thread t) {
      (*static_cast<std::remove_reference_t<Body>*>(b))(t);
    };
    argument_ = &body;
    warps_.resize(static_cast<std::size_t>(threads) / 32);
    run();
  }

 private:
  friend class emulated_thread;

  struct copy {
    std::uint8_t* to;
    const std::uint8_t* from;
    int bytes;
  };
  struct barrier {
    int arrived = 0;
    std::uint64_t passed = 0;
  };
  struct warp_state {
    barrier gate;
    float value[2][32];  // used in turn: one barrier is enough
  };
  struct fiber {
    fiber(emulated_block& b, int i) : owner(&b), index(i) {}
    emulated_block* owner;
    int index;
    bool done = false;
    std::vector<copy> open;
    std::vector<std::vector<copy>> groups;
    ucontext_t context{};  // how it is entered
    std::jmp_buf resume;   // where it waits; no system call, unlike swapcontext
    bool entered = false;
  };
  struct freed {
    void operator()(std::uint8_t* p) const noexcept { std::free(p); }
  };

  static std::unique_ptr<std::uint8_t, freed> allocate(int bytes) {
    // As large as asked for and no larger, for the address sanitizer.
    void* p = nullptr;
    if (posix_memalign(&p, 16, static_cast<std::size_t>(bytes > 0 ? bytes : 1)) != 0) {
      device_fault("no memory");
    }
    std::memset(p, 0xFF, static_cast<std::size_t>(bytes));
    return std::unique_ptr<std::uint8_t, freed>(static_cast<std::uint8_t*>(p));
  }

  static constexpr std::size_t stack_bytes = std::size_t{256} << 10;
  // Kept for all blocks of a program: one runs at a time.
  static char* stack_of(int index) {
    static std::vector<std::unique_ptr<char[]>> stacks;
    while (stacks.size() <= static_cast<std::size_t>(index)) {
      stacks.emplace_back(new char[stack_bytes]);  // not zeroed
    }
    return stacks[static_cast<std::size_t>(index)].get();
  }

  // makecontext passes ints only.
  static void enter(unsigned high, unsigned low) {
    auto* const f = reinterpret_cast<fiber*>(static_cast<std::uintptr_t>(high) << 32 | low);
    f->owner->body_(f->owner->argument_, emulated_thread(*f->owner, f->index));
    if (!f->open.empty() || !f->groups.empty()) device_fault("a thread ended before its copies");
    f->done = true;
    _longjmp(f->owner->scheduler_, 1);
  }

  void run() {
    for (auto& f : fibers_) {
      getcontext(&f->context);
      f->context.uc_stack.ss_sp = stack_of(f->index);
      f->context.uc_stack.ss_size = stack_bytes;
      f->context.uc_link = nullptr;
      const auto address = reinterpret_cast<std::uintptr_t>(f.get());
      makecontext(&f->context, reinterpret_cast<void (*)()>(&enter), 2,
                  static_cast<unsigned>(address >> 32), static_cast<unsigned>(address));
    }
    std::mt19937 order(static_cast<unsigned>(block_));
    std::vector<std::size_t> turn(fibers_.size());
    for (std::size_t i = 0; i < turn.size(); ++i) turn[i] = i;
    // One warp falls behind: it takes a turn only when the others cannot go on without it.
    const auto behind = static_cast<int>(order() % (warps_.size() + 1));
    bool waits = true;
    for (bool left = true; left;) {
      for (std::size_t i = turn.size(); i > 1; --i) std::swap(turn[i - 1], turn[order() % i]);
      left = false;
      moved_ = false;
      for (const std::size_t i : turn) {
        fiber& f = *fibers_[i];
        if (f.done) continue;
        left = true;
        if (waits && f.index / 32 == behind) continue;
        current_ = &f;
        resume(f);
        if (f.done) moved_ = true;
      }
      if (left && !moved_ && !waits) device_fault("a barrier that not all threads reach");
      waits = moved_;
    }
  }

  // Runs a fiber until it waits or ends.
  void resume(fiber& f) {
    if (_setjmp(scheduler_) != 0) return;
    if (f.entered) _longjmp(f.resume, 1);
    f.entered = true;
    setcontext(&f.context);
  }

  void pass(barrier& gate, int threads) {
    moved_ = true;
    const std::uint64_t before = gate.passed;
    if (++gate.arrived == threads) {
      gate.arrived = 0;
      ++gate.passed;
      return;
    }
    fiber* const own = current_;
    while (gate.passed == before) {
      if (_setjmp(own->resume) == 0) _longjmp(scheduler_, 1);
    }
    moved_ = true;
  }

  subbyte::index_t block_;
  std::unique_ptr<std::uint8_t, freed> shared_;
  std::vector<std::unique_ptr<fiber>> fibers_;
  std::vector<warp_state> warps_;
  barrier gate_;
  void (*body_)(void*, emulated_thread) = nullptr;
  void* argument_ = nullptr;
  std::jmp_buf scheduler_;
  fiber* current_ = nullptr;
  bool moved_ = false;
};

inline subbyte::index_t emulated_thread::block() const noexcept { return block_->block_; }
inline std::uint8_t* emulated_thread::shared() const noexcept { return block_->shared_.get(); }
inline void emulated_thread::sync_warp() const {
  block_->pass(block_->warps_[static_cast<std::size_t>(warp())].gate, 32);
}
inline void emulated_thread::sync_block() const {
  block_->pass(block_->gate_, static_cast<int>(block_->fibers_.size()));
}
inline float emulated_thread::exchanged(float value, int mask) const {
  auto& own = block_->warps_[static_cast<std::size_t>(warp())];
  auto& values = own.value[own.gate.passed % 2];
  values[lane()] = value;
  sync_warp();
  return values[lane() ^ mask];
}
inline void emulated_thread::begin_copy(std::uint8_t* to, const std::uint8_t* from,
                                        int bytes) const {
  const auto unaligned =
      (reinterpret_cast<std::uintptr_t>(to) | reinterpret_cast<std::uintptr_t>(from)) %
      static_cast<std::uintptr_t>(bytes);
  if (unaligned != 0) device_fault("a misaligned copy");
  std::memset(to, 0xFF, static_cast<std::size_t>(bytes));
  block_->current_->open.push_back({to, from, bytes});
}
inline void emulated_thread::commit_copies() const {
  auto& f = *block_->current_;
  f.groups.push_back(std::move(f.open));
  f.open.clear();
}
inline void emulated_thread::wait_for(std::size_t pending) const {
  auto& groups = block_->current_->groups;
  while (groups.size() > pending) {
    for (const auto& c : groups.front()) {
      std::memcpy(c.to, c.from, static_cast<std::size_t>(c.bytes));
    }
    groups.erase(groups.begin());
  }
}

/// A queue that runs what is launched at once, block after block.
struct emulated_queue {};

template <class Kernel, class... Args>
void launch(const emulated_queue&, subbyte::index_t blocks, Args... args) {
  for (subbyte::index_t b = 0; b < blocks; ++b) {
    auto body = [&](emulated_thread t) { Kernel::run(t, args...); };
    emulated_block(b, Kernel::threads, Kernel::shared_bytes, body);
  }
}

}  // namespace test_support
