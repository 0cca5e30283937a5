// SPDX-License-Identifier: Apache-2.0
/// Views as Eigen maps and Eigen matrices as views: as_eigen() and as_view(); no element is copied.
#pragma once

#if !__has_include(<Eigen/Core>)
#error "subbyte/interop/eigen.hpp needs Eigen >= 3.4 on the include path (CMake: Eigen3::Eigen)"
#endif

#include <Eigen/Core>
#include <type_traits>

#include "subbyte/core/config.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

template <class T, class Plain>
using eigen_constness = std::conditional_t<std::is_const_v<T>, const Plain, Plain>;
template <class T>
using eigen_vector =
    eigen_constness<T, Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, 1, Eigen::ColMajor>>;
template <class T, int Order>
using eigen_matrix =
    eigen_constness<T,
                    Eigen::Matrix<std::remove_const_t<T>, Eigen::Dynamic, Eigen::Dynamic, Order>>;

template <class D>
void accept_dense(const Eigen::DenseBase<D>&);
template <class D>
void accept_plain(const Eigen::PlainObjectBase<D>&);

template <class M>
concept plain_eigen = requires(const M& m) {
  detail::accept_plain(m);
};

template <class M>
inline constexpr bool holds_elements = plain_eigen<M>;
// Copies what it cannot refer to.
template <class Plain, int Options, class Stride>
inline constexpr bool holds_elements<Eigen::Ref<const Plain, Options, Stride>> = true;

template <class M>
inline constexpr bool without_pitch = plain_eigen<M>;
template <class Plain, int Options>
inline constexpr bool without_pitch<Eigen::Map<Plain, Options, Eigen::Stride<0, 0>>> = true;

}  // namespace detail

/// An Eigen object whose elements lie in memory at two strides: a matrix, vector or array, a map, a
/// reference, a block, row, column, diagonal or transpose of those; not a sum or a product.
template <class M>
concept eigen_in_memory = requires(const M& m) {
  detail::accept_dense(m);
  requires((static_cast<unsigned>(M::Flags) & static_cast<unsigned>(Eigen::DirectAccessBit)) != 0);
};

/// The same elements as an Eigen column vector: Map<Matrix<T, Dynamic, 1>>, of const for const T,
/// with an inner stride when the view is strided.
///
/// Cost  nothing is copied. A map with a run-time inner stride is not vectorized by Eigen.
template <class T, class Layout>
[[nodiscard]] SUBBYTE_INLINE auto as_eigen(const tensor_view<T, 1, Layout>& view) noexcept {
  if constexpr (std::is_same_v<Layout, strided>) {
    using map = Eigen::Map<detail::eigen_vector<T>, Eigen::Unaligned, Eigen::InnerStride<>>;
    return map(view.data(), view.extent(0), Eigen::InnerStride<>(view.stride(0)));
  } else {
    return Eigen::Map<detail::eigen_vector<T>>(view.data(), view.extent(0));
  }
}

/// The same elements as an Eigen matrix: row-major for row_major and row_pitched; for strided a map
/// with both strides, which may be zero or negative, in the storage order asked for.
///
/// Cost  nothing is copied. Eigen vectorizes along a stride that it knows to be one: the transpose
///       of a dense matrix is better spelled as_eigen(dense).transpose() than as a strided view.
template <int Order = Eigen::RowMajor, class T, class Layout>
requires(Order == Eigen::RowMajor || std::is_same_v<Layout, strided>) [[nodiscard]] SUBBYTE_INLINE
    auto as_eigen(const tensor_view<T, 2, Layout>& view) noexcept {
  using plain = detail::eigen_matrix<T, Order>;
  if constexpr (std::is_same_v<Layout, row_major>) {
    return Eigen::Map<plain>(view.data(), view.extent(0), view.extent(1));
  } else if constexpr (std::is_same_v<Layout, row_pitched>) {
    using map = Eigen::Map<plain, Eigen::Unaligned, Eigen::OuterStride<>>;
    return map(view.data(), view.extent(0), view.extent(1), Eigen::OuterStride<>(view.stride(0)));
  } else {
    using strides = Eigen::Stride<Eigen::Dynamic, Eigen::Dynamic>;
    constexpr int outer = Order == Eigen::RowMajor ? 0 : 1;
    return Eigen::Map<plain, Eigen::Unaligned, strides>(
        view.data(), view.extent(0), view.extent(1),
        strides(view.stride(outer), view.stride(1 - outer)));
  }
}

/// The same elements as a view: of rank 1 for what is a row or column by its type, else of rank 2.
/// Row-major matrices give row_major, row-major blocks and references row_pitched, everything with
/// unknown inner stride and every column-major matrix gives strided.
///
/// Requires  the Eigen object, where it holds the elements, outlives the view: temporary matrices
/// do
///           not compile. A row-major map's outer stride is at least its row.
/// Numerics  const objects and maps of const give views of const.
/// Cost      nothing is copied.
template <class M>
requires(eigen_in_memory<std::remove_cvref_t<M>> &&
         (std::is_lvalue_reference_v<M> || !detail::holds_elements<std::remove_cvref_t<M>>))
    [[nodiscard]] SUBBYTE_INLINE auto as_view(M&& matrix) noexcept {
  using object = std::remove_cvref_t<M>;
  using T = std::remove_pointer_t<decltype(matrix.data())>;
  constexpr bool unit_inner = object::InnerStrideAtCompileTime == 1;
  if constexpr (object::IsVectorAtCompileTime && unit_inner) {
    return tensor_view<T, 1>(matrix.data(), matrix.size());
  } else if constexpr (object::IsVectorAtCompileTime) {
    return tensor_view<T, 1, strided>(matrix.data(), {matrix.size()}, {matrix.innerStride()});
  } else if constexpr (!object::IsRowMajor) {
    return tensor_view<T, 2, strided>(matrix.data(), {matrix.rows(), matrix.cols()},
                                      {matrix.innerStride(), matrix.outerStride()});
  } else if constexpr (!unit_inner) {
    return tensor_view<T, 2, strided>(matrix.data(), {matrix.rows(), matrix.cols()},
                                      {matrix.outerStride(), matrix.innerStride()});
  } else if constexpr (detail::without_pitch<object>) {
    return tensor_view<T, 2>(matrix.data(), matrix.rows(), matrix.cols());
  } else {
    return tensor_view<T, 2, row_pitched>(matrix.data(), {matrix.rows(), matrix.cols()},
                                          {matrix.outerStride()});
  }
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
