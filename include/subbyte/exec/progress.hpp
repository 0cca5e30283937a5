// SPDX-License-Identifier: Apache-2.0
/// A caller's view into long work: how far it is, and the means to stop it.
#pragma once

#include <concepts>
#include <type_traits>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

// Reached by pointer: the name carries the arch, so that copies compiled with other flags stay
// apart.
template <class Callback, class Arch>
struct progress_trampoline {
  static bool run(void* callback, double fraction) {
    return static_cast<bool>((*static_cast<Callback*>(callback))(fraction));
  }
};

}  // namespace detail

/// A reference to bool(double fraction): the fraction done, in [0, 1] and never falling; false
/// cancels, and the work then throws errc::cancelled with its target untouched.
///
/// Default constructed, nothing is called. Binds to lvalues only, which must outlive the work; the
/// work calls it from the thread that started it.
/// Cost  two words; one indirect call per report.
class progress_ref {
 public:
  SUBBYTE_INLINE constexpr progress_ref() noexcept = default;

  template <class Callback, class Arch = arch::native>
  requires(!std::same_as<std::remove_cv_t<Callback>, progress_ref> &&
           std::is_invocable_r_v<bool, Callback&, double>) SUBBYTE_INLINE
      progress_ref(Callback& callback)  // NOLINT: implicit, so that a lambda is an argument
  noexcept
      : callback_(
            const_cast<void*>(static_cast<const volatile void*>(__builtin_addressof(callback)))),
        run_(&detail::progress_trampoline<Callback, Arch>::run) {}

  /// Whether to go on.
  [[nodiscard]] SUBBYTE_INLINE bool operator()(double fraction) const {
    return run_ == nullptr || run_(callback_, fraction);
  }

 private:
  void* callback_ = nullptr;
  bool (*run_)(void*, double) = nullptr;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
