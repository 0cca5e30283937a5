// SPDX-License-Identifier: Apache-2.0
/// Non-owning views of dense arrays: rank, extents and element strides in three layouts.
#pragma once

#include <concepts>
#include <iterator>  // std::contiguous_iterator: which containers are dense
#include <optional>
#include <type_traits>

#include "subbyte/core/config.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/fwd.hpp"  // the default layout

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Dense, last index fastest: the strides are functions of the extents and are not stored.
struct row_major {};
/// Inner stride 1, one stored pitch per outer dimension; rows never overlap.
struct row_pitched {};
/// Every stride stored; a stride may be zero (broadcast) or negative.
struct strided {};

template <class T>
using vector_view = tensor_view<T, 1>;
template <class T>
using matrix_view = tensor_view<T, 2>;

/// What a foreign array type offers to be read as a tensor; strides are in elements.
template <class V>
concept tensor_like = requires(const V& v, std::size_t d) {
  typename V::element_type;
  { V::rank() } -> std::convertible_to<std::size_t>;
  { v.extent(d) } -> std::convertible_to<index_t>;
  { v.stride(d) } -> std::convertible_to<index_t>;
  { v.data() } -> std::convertible_to<const typename V::element_type*>;
};

/// Whether C is a tensor_view.
template <class C>
inline constexpr bool is_view = false;
template <class T, std::size_t Rank, class Layout>
inline constexpr bool is_view<tensor_view<T, Rank, Layout>> = true;

namespace detail {

template <class Layout>
inline constexpr int layout_generality = -1;
template <>
inline constexpr int layout_generality<row_major> = 0;
template <>
inline constexpr int layout_generality<row_pitched> = 1;
template <>
inline constexpr int layout_generality<strided> = 2;

template <std::size_t Rank, class Layout>
inline constexpr std::size_t stored_stride_count = 0;
template <std::size_t Rank>
inline constexpr std::size_t stored_stride_count<Rank, row_pitched> = Rank - 1;
template <std::size_t Rank>
inline constexpr std::size_t stored_stride_count<Rank, strided> = Rank;

// The strides that cannot be computed; positions past Count are not stored.
template <std::size_t Count>
struct stored_strides {
  index_t values[Count];
  SUBBYTE_HD_INLINE constexpr void set(std::size_t d, index_t stride) noexcept {
    if (d < Count) values[d] = stride;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t get(std::size_t d) const noexcept {
    return d < Count ? values[d] : 1;
  }
};
template <>
struct stored_strides<0> {  // an empty base: a dense view holds a pointer and its extents only
  SUBBYTE_HD_INLINE constexpr void set(std::size_t, index_t) noexcept {}
};

// The array form of the conversion: float* -> const float* passes, derived* -> base* does not.
template <class From, class To>
concept element_convertible = std::is_convertible_v<From (*)[], To (*)[]>;

// Contiguous by its iterators, not only by having data() and size(): a strided vector of another
// library has those too. A tensor (any rank) is asked for its view() instead.
template <class C, class T>
concept dense_container = !tensor_like<std::remove_cvref_t<C>> && requires(C & c) {
  { c.size() } -> std::convertible_to<std::size_t>;
  requires std::contiguous_iterator<decltype(c.begin())>;
  requires std::is_pointer_v<decltype(c.data())>;
  requires element_convertible<std::remove_pointer_t<decltype(c.data())>, T>;
};

}  // namespace detail

/// A view of a dense array of T; const T for inputs.
///
/// Requires  extents >= 0; the product of those that are not 0 fits index_t; every access inside
///           them (trapped in debug).
/// Numerics  strides count elements, not bytes.
/// Cost      row_major holds a pointer and the extents; copying is trivial; nothing allocates.
/// Throws    nothing.
template <class T, std::size_t Rank, class Layout>
class tensor_view : private detail::stored_strides<detail::stored_stride_count<Rank, Layout>> {
  static_assert(Rank > 0, "a view of rank 0 is a pointer");
  static_assert(detail::layout_generality<Layout> >= 0,
                "Layout is one of row_major, row_pitched, strided");

  static constexpr std::size_t stride_count = detail::stored_stride_count<Rank, Layout>;
  using strides_base = detail::stored_strides<stride_count>;
  // One row of a pitched matrix is dense.
  using slice_layout =
      std::conditional_t<Rank == 2 && std::is_same_v<Layout, row_pitched>, row_major, Layout>;

  template <class, std::size_t, class>
  friend class tensor_view;

 public:
  using element_type = T;
  using value_type = std::remove_cv_t<T>;
  using layout_type = Layout;

  /// An empty view: null data, every extent zero.
  SUBBYTE_HD_INLINE constexpr tensor_view() noexcept : strides_base{}, data_(nullptr), extents_{} {}

  /// A dense array: {pointer, n} or {pointer, rows, cols}.
  template <std::integral... I>
  requires(sizeof...(I) == Rank) SUBBYTE_HD_INLINE
      constexpr tensor_view(T* data, I... extents) noexcept
      : strides_base{}, data_(data), extents_{static_cast<index_t>(extents)...} {
    check_extents();
    store_dense_strides();
  }

  /// A dense array of the given extents.
  SUBBYTE_HD_INLINE constexpr tensor_view(T* data, const index_t (&extents)[Rank]) noexcept
      : strides_base{}, data_(data), extents_{} {
    for (std::size_t d = 0; d < Rank; ++d) extents_[d] = extents[d];
    check_extents();
    store_dense_strides();
  }

  /// An array with explicit strides: one per dimension for strided, one pitch per outer dimension
  /// for row_pitched, e.g. tensor_view<float, 2, row_pitched>(p, {rows, cols}, {pitch}).
  ///
  /// Requires  row_pitched: a pitch is at least the span of what it steps over.
  template <std::size_t Count>
  requires(Count == stride_count) SUBBYTE_HD_INLINE
      constexpr tensor_view(T* data, const index_t (&extents)[Rank],
                            const index_t (&strides)[Count]) noexcept
      : strides_base{}, data_(data), extents_{} {
    for (std::size_t d = 0; d < Rank; ++d) extents_[d] = extents[d];
    for (std::size_t d = 0; d < Count; ++d) strides_base::set(d, strides[d]);
    check_extents();
    if constexpr (std::is_same_v<Layout, row_pitched>) check_pitches();
  }

  /// From a view of T or of its non-const self, of the same or a less general layout.
  template <class U, class FromLayout>
  requires(detail::element_convertible<U, T>&& detail::layout_generality<FromLayout> <=
           detail::layout_generality<Layout>) SUBBYTE_HD_INLINE
      constexpr tensor_view(
          const tensor_view<U, Rank, FromLayout>& from) noexcept  // NOLINT: widening is implicit
      : strides_base{}, data_(from.data_), extents_{} {
    for (std::size_t d = 0; d < Rank; ++d) extents_[d] = from.extents_[d];
    for (std::size_t d = 0; d < Rank; ++d) strides_base::set(d, from.stride(d));
  }

  /// From a contiguous container (std::vector, std::array, std::span, std::string...): any for
  /// const T, an lvalue for an output. The view must not outlive a temporary container.
  template <class C>
  requires(Rank == 1 && !is_view<std::remove_cvref_t<C>> &&
           (std::is_const_v<T> ||
            std::is_lvalue_reference_v<C>)&&detail::dense_container<C, T>) SUBBYTE_INLINE
      constexpr tensor_view(C&& container) noexcept  // NOLINT: implicit like std::span
      : tensor_view(container.data(), container.size()) {}

  /// From an array.
  template <class U, std::size_t Count>
  requires(Rank == 1 && detail::element_convertible<U, T>) SUBBYTE_HD_INLINE
      constexpr tensor_view(U (&array)[Count]) noexcept  // NOLINT: like std::span
      : tensor_view(array, Count) {}

  SUBBYTE_HD_INLINE static constexpr std::size_t rank() noexcept { return Rank; }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t extent(std::size_t d) const noexcept {
    SUBBYTE_EXPECTS(d < Rank);
    return extents_[d];
  }

  /// Elements from one index to the next along dimension d.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t stride(std::size_t d) const noexcept {
    SUBBYTE_EXPECTS(d < Rank);
    if constexpr (stride_count > 0) {
      return strides_base::get(d);
    } else {
      return dense_stride(d);
    }
  }

  /// The number of elements.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t size() const noexcept {
    index_t product = 1;
    for (std::size_t d = 0; d < Rank; ++d) product *= extents_[d];
    return product;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr bool empty() const noexcept { return size() == 0; }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr T* data() const noexcept { return data_; }

  /// The element at one index per dimension.
  template <std::integral... I>
  requires(sizeof...(I) == Rank) SUBBYTE_HD_INLINE constexpr T& operator()(
      I... indices) const noexcept {
    const index_t at[Rank] = {static_cast<index_t>(indices)...};
    index_t offset = 0;
    for (std::size_t d = 0; d < Rank; ++d) {
      SUBBYTE_EXPECTS(at[d] >= 0 && at[d] < extents_[d]);
      offset += at[d] * stride(d);
    }
    return data_[offset];
  }

  /// Element i.
  SUBBYTE_HD_INLINE constexpr T& operator[](index_t i) const noexcept requires(Rank == 1) {
    SUBBYTE_EXPECTS(i >= 0 && i < extents_[0]);
    return data_[i * stride(0)];
  }

  /// Slice i of the first dimension: row i of a matrix.
  SUBBYTE_HD_INLINE constexpr tensor_view<T, Rank - 1, slice_layout> operator[](
      index_t i) const noexcept requires(Rank > 1) {
    SUBBYTE_EXPECTS(i >= 0 && i < extents_[0]);
    tensor_view<T, Rank - 1, slice_layout> slice;
    slice.data_ = data_ + i * stride(0);
    for (std::size_t d = 1; d < Rank; ++d) slice.extents_[d - 1] = extents_[d];
    for (std::size_t d = 1; d < Rank; ++d) slice.set(d - 1, stride(d));
    return slice;
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t dense_stride(std::size_t d) const noexcept {
    index_t product = 1;
    for (std::size_t e = d + 1; e < Rank; ++e) product *= extents_[e];
    return product;
  }

  SUBBYTE_HD_INLINE constexpr void store_dense_strides() noexcept {
    for (std::size_t d = 0; d < Rank; ++d) strides_base::set(d, dense_stride(d));
  }

  SUBBYTE_HD_INLINE constexpr void check_extents() const noexcept {
    for (std::size_t d = 0; d < Rank; ++d) SUBBYTE_EXPECTS(extents_[d] >= 0);
    SUBBYTE_EXPECTS(data_ != nullptr || size() == 0);
  }

  SUBBYTE_HD_INLINE constexpr void check_pitches() const noexcept {
    for (std::size_t d = 0; d + 1 < Rank; ++d) {
      SUBBYTE_EXPECTS(extents_[d] <= 1 || stride(d) >= extents_[d + 1] * stride(d + 1));
    }
  }

  T* data_;
  index_t extents_[Rank];
};

/// The same view as row_major, if its strides are the dense ones; dimensions of extent 1 may have
/// any stride, and an empty view is always dense.
template <class T, std::size_t Rank, class Layout>
[[nodiscard]] SUBBYTE_INLINE constexpr std::optional<tensor_view<T, Rank, row_major>> as_row_major(
    const tensor_view<T, Rank, Layout>& view) noexcept {
  index_t extents[Rank] = {};
  for (std::size_t d = 0; d < Rank; ++d) extents[d] = view.extent(d);
  const tensor_view<T, Rank, row_major> dense(view.data(), extents);
  if (!view.empty()) {
    for (std::size_t d = 0; d < Rank; ++d) {
      if (view.extent(d) > 1 && view.stride(d) != dense.stride(d)) return std::nullopt;
    }
  }
  return dense;
}

/// The matrix with rows and columns exchanged; no element moves.
template <class T, class Layout>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr tensor_view<T, 2, strided> transposed(
    const tensor_view<T, 2, Layout>& view) noexcept {
  return tensor_view<T, 2, strided>(view.data(), {view.extent(1), view.extent(0)},
                                    {view.stride(1), view.stride(0)});
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
