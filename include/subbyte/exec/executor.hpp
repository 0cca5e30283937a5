// SPDX-License-Identifier: Apache-2.0
/// Executors: who runs a range of work. The concept an engine's own pool meets, the type-erased
/// reference that drivers take, and the serial one.
#pragma once

#include <concepts>
#include <type_traits>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/expects.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// One piece of work: indices begin .. end - 1.
using range_fn = void (*)(void* body, index_t begin, index_t end) noexcept;

/// What an engine's pool must offer.
///
/// for_range(n, grain, f, body) calls f(body, begin, end) on pieces that cover 0 .. n - 1 once
/// each, from any threads and in any order, and returns when every index is done and its effects
/// are visible to the caller. A piece begins at a multiple of grain and ends at one or at n; it may
/// hold several grains. concurrency() is how many pieces can run at the same time, the caller
/// included.
///
/// Called with n > 0 and grain >= 1. A body may call for_range on the same executor again: an
/// executor that cannot nest must run the inner range inline.
template <class E>
concept executor = requires(E& e, index_t n, index_t grain, range_fn f, void* body) {
  { e.concurrency() }
  noexcept->std::convertible_to<int>;
  e.for_range(n, grain, f, body);
};

namespace detail {

// Weak symbols that are reached by pointer: they carry the arch, so that copies compiled with other
// flags stay apart.
template <class E, class Arch>
struct trampoline {
  static void run(void* object, index_t n, index_t grain, range_fn f, void* body) {
    static_cast<E*>(object)->for_range(n, grain, f, body);
  }
  static int concurrency(void* object) noexcept {
    return static_cast<int>(static_cast<E*>(object)->concurrency());
  }
};

template <class Body, class Arch>
struct range_body {
  static void run(void* body, index_t begin, index_t end) noexcept {
    (*static_cast<Body*>(body))(begin, end);
  }
};

}  // namespace detail

/// A reference to an executor of any type: what drivers take.
///
/// Binds to lvalues, and to temporaries as arguments; never store one made from a temporary.
/// Cost  three words; one indirect call per piece of work; no allocation.
class executor_ref {
 public:
  template <class E, class Arch = arch::native>
  requires(!std::same_as<std::remove_cvref_t<E>, executor_ref> &&
           executor<std::remove_reference_t<E>>) SUBBYTE_INLINE executor_ref(E&& e)
  noexcept  // NOLINT: implicit, so that a pool is an argument
      : object_(const_cast<void*>(static_cast<const volatile void*>(__builtin_addressof(e)))),
        run_(&detail::trampoline<std::remove_reference_t<E>, Arch>::run),
        concurrency_(&detail::trampoline<std::remove_reference_t<E>, Arch>::concurrency) {}

  /// How many pieces can run at the same time, the caller included.
  [[nodiscard]] SUBBYTE_INLINE int concurrency() const noexcept { return concurrency_(object_); }

  /// Calls body(begin, end) on pieces that cover 0 .. n - 1 once each; returns when all are done.
  ///
  /// Requires  n >= 0; grain >= 1; body is noexcept and may run on several threads at once.
  /// Numerics  a piece begins at a multiple of grain and ends at one or at n: a result that depends
  ///           on grains only does not depend on the executor.
  /// Cost      n == 0 calls nothing; n <= grain runs on the calling thread.
  /// Throws    what the executor's own for_range throws.
  template <class Body, class Arch = arch::native>
  SUBBYTE_INLINE void for_range(index_t n, index_t grain, Body&& body) const {
    using body_type = std::remove_reference_t<Body>;
    static_assert(std::is_invocable_v<body_type&, index_t, index_t>,
                  "the body is called as body(begin, end) with two index_t");
    static_assert(std::is_nothrow_invocable_v<body_type&, index_t, index_t>,
                  "the body must be noexcept: errors cannot cross threads");
    SUBBYTE_EXPECTS(n >= 0);
    SUBBYTE_EXPECTS(grain >= 1);
    if (n <= 0) return;
    const range_fn f = &detail::range_body<body_type, Arch>::run;
    void* const erased =
        const_cast<void*>(static_cast<const volatile void*>(__builtin_addressof(body)));
    if (n <= grain) {
      f(erased, 0, n);
    } else {
      run_(object_, n, grain, f, erased);
    }
  }

 private:
  void* object_;
  void (*run_)(void*, index_t, index_t, range_fn, void*);
  int (*concurrency_)(void*) noexcept;
};

/// Runs everything in one piece on the calling thread.
struct serial_executor {
  [[nodiscard]] SUBBYTE_INLINE constexpr int concurrency() const noexcept { return 1; }
  SUBBYTE_INLINE void for_range(index_t n, index_t, range_fn f, void* body) const noexcept {
    if (n > 0) f(body, 0, n);
  }
};

/// The default executor everywhere.
inline constexpr serial_executor serial{};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
