// SPDX-License-Identifier: Apache-2.0
/// Tables of constants that functions of host and device index at run time.
#pragma once

#include "subbyte/core/config.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// An array that a function can return.
template <class T, int N>
struct constant_array {
  T at[N];
};

namespace detail {

template <class Table>
inline constexpr auto stored_table = Table::values();
#if defined(__CUDACC__)
// Internal linkage: nvcc takes no other without relocatable device code.
template <class Table>
static __device__ constexpr auto device_table = Table::values();
#endif

}  // namespace detail

/// Element `index` of the constant_array that Table::values(), a constexpr function, returns.
///
/// A local constexpr array would do, but g++ 12 and ptxas write such an array to the stack at every
/// call; a static one of the host cannot be read on a device.
template <class Table>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr auto look_up(int index) noexcept {
#if SUBBYTE_ON_DEVICE
  return detail::device_table<Table>.at[index];
#else
  return detail::stored_table<Table>.at[index];
#endif
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
