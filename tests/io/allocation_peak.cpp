// SPDX-License-Identifier: Apache-2.0
/// Replaces operator new to measure what reading a file allocates.
#include "support/allocation_peak.hpp"

#include <malloc.h>  // malloc_usable_size

#include <atomic>
#include <cstdlib>
#include <new>

namespace {

std::atomic<std::size_t> in_use{0};
std::atomic<std::size_t> highest{0};

}  // namespace

void* operator new(std::size_t size, const std::nothrow_t&) noexcept {
  void* const p = std::malloc(size != 0 ? size : 1);
  if (p == nullptr) return nullptr;
  const std::size_t now = in_use += ::malloc_usable_size(p);
  std::size_t seen = highest;
  while (now > seen && !highest.compare_exchange_weak(seen, now)) {
  }
  return p;
}

void* operator new(std::size_t size) {
  void* const p = operator new(size, std::nothrow);
  if (p == nullptr) throw std::bad_alloc();
  return p;
}

void operator delete(void* p) noexcept {
  if (p == nullptr) return;
  in_use -= ::malloc_usable_size(p);
  std::free(p);
}

void operator delete(void* p, std::size_t) noexcept { operator delete(p); }
void operator delete(void* p, const std::nothrow_t&) noexcept { operator delete(p); }

namespace test_support {

allocation_peak::allocation_peak() noexcept : base_(in_use) { highest = base_; }

std::size_t allocation_peak::bytes() const noexcept { return highest - base_; }

}  // namespace test_support
