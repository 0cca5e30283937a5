// SPDX-License-Identifier: Apache-2.0
/// Views of a device's memory, a type of their own, and what queues work for a device. Needs no
/// CUDA Toolkit.
#pragma once

#include <type_traits>

#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// A view whose pointers are addresses of a device: no host function takes it, and no call to a
/// device takes anything else.
template <class View>
class device_view {
 public:
  using view_type = View;

  SUBBYTE_INLINE constexpr device_view() noexcept = default;
  /// Requires  every pointer of `view` is an address of the device that it will be used on.
  SUBBYTE_INLINE constexpr explicit device_view(View view) noexcept : view_(view) {}
  /// From a view of T to one of const T, from a dense to a pitched one.
  template <class From>
  requires(!std::is_same_v<From, View> && std::is_convertible_v<From, View>) SUBBYTE_INLINE
      constexpr device_view(const device_view<From>& from) noexcept  // NOLINT: widening
      : view_(from.on_device()) {}

  /// The view itself: for code that runs on the device, and for its extents.
  [[nodiscard]] SUBBYTE_INLINE constexpr const View& on_device() const noexcept { return view_; }

 private:
  View view_{};
};

template <class T, std::size_t Rank, class Layout = row_major>
using device_tensor_view = device_view<tensor_view<T, Rank, Layout>>;

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
