// SPDX-License-Identifier: Apache-2.0
/// Views as mdspan and mdspan as views: as_mdspan() and as_view(); no element is copied.
///
/// std::mdspan where the standard library has it (C++23: libc++ 18, libstdc++ 15, in that mode),
/// else the Kokkos reference implementation where it is on the include path.
#pragma once

#include <array>
#include <concepts>
#include <type_traits>
#include <version>  // __cpp_lib_mdspan

#include "subbyte/core/config.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/tensor/tensor_view.hpp"

#if defined(__cpp_lib_mdspan)
#include <mdspan>
#elif __has_include(<mdspan/mdspan.hpp>)
#include <mdspan/mdspan.hpp>
#elif __has_include(<experimental/mdspan>)
#include <experimental/mdspan>
#else
#error \
    "subbyte/interop/mdspan.hpp needs std::mdspan (C++23) or the Kokkos reference implementation (mdspan/mdspan.hpp) on the include path"
#endif

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

#if defined(__cpp_lib_mdspan)
namespace mdspan_library = ::std;
#else
namespace mdspan_library = ::MDSPAN_IMPL_STANDARD_NAMESPACE;
#endif

template <std::size_t Rank>
using mdspan_extents = mdspan_library::dextents<index_t, Rank>;

}  // namespace detail

/// The same elements as an mdspan with run-time extents of index_t: layout_right for row_major,
/// layout_stride for row_pitched and strided.
///
/// Requires  every stride is positive and no two elements share memory, as layout_stride asks: no
///           broadcast and no reversed view.
template <class T, std::size_t Rank, class Layout>
[[nodiscard]] SUBBYTE_INLINE constexpr auto as_mdspan(
    const tensor_view<T, Rank, Layout>& view) noexcept {
  namespace library = detail::mdspan_library;
  using extents = detail::mdspan_extents<Rank>;
  std::array<index_t, Rank> sizes{};
  for (std::size_t d = 0; d < Rank; ++d) sizes[d] = view.extent(d);
  if constexpr (std::is_same_v<Layout, row_major>) {
    return library::mdspan<T, extents, library::layout_right>(view.data(), extents(sizes));
  } else {
    using mapping = typename library::layout_stride::template mapping<extents>;
    std::array<index_t, Rank> strides{};
    // Without elements the strides mean nothing and may be zero: dense ones instead.
    index_t dense = 1;
    for (std::size_t d = Rank; d-- > 0;) {
      strides[d] = view.size() > 0 ? view.stride(d) : dense;
      dense *= sizes[d] > 0 ? sizes[d] : 1;
      SUBBYTE_EXPECTS(strides[d] > 0);
    }
    return library::mdspan<T, extents, library::layout_stride>(view.data(),
                                                               mapping(extents(sizes), strides));
  }
}

/// The same elements as a view: row_major for layout_right, and for rank 1 also for layout_left;
/// strided for every other layout whose mapping is always strided.
///
/// Requires  elements are reached by pointer: default_accessor, or an accessor that converts to it;
///           index_type holds no value beyond 2^63 - 1.
template <class T, class Extents, class Layout, class Accessor>
requires(Extents::rank() > 0 &&
         std::convertible_to<Accessor, detail::mdspan_library::default_accessor<T>> &&
         Layout::template mapping<Extents>::is_always_strided()) [[nodiscard]] SUBBYTE_INLINE
    constexpr auto as_view(
        const detail::mdspan_library::mdspan<T, Extents, Layout, Accessor>& span) noexcept {
  constexpr std::size_t rank = Extents::rank();
  constexpr bool dense = std::is_same_v<Layout, detail::mdspan_library::layout_right> ||
                         (rank == 1 && std::is_same_v<Layout, detail::mdspan_library::layout_left>);
  T* const data = span.data_handle();
  index_t extents[rank]{};
  for (std::size_t d = 0; d < rank; ++d) extents[d] = static_cast<index_t>(span.extent(d));
  if constexpr (dense) {
    return tensor_view<T, rank>(data, extents);
  } else {
    index_t strides[rank]{};
    for (std::size_t d = 0; d < rank; ++d) strides[d] = static_cast<index_t>(span.stride(d));
    return tensor_view<T, rank, strided>(data, extents, strides);
  }
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
