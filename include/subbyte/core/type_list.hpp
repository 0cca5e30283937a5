// SPDX-License-Identifier: Apache-2.0
/// A list of types as a value: registries are data, and dispatch, tests and docs walk the same
/// data.
#pragma once

#include <type_traits>  // std::is_same_v, std::type_identity

#include "subbyte/core/config.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

template <class... T>
struct type_list {
  static constexpr index_t size = sizeof...(T);
};

template <class List, class T>
inline constexpr bool contains_v = false;
template <class... U, class T>
inline constexpr bool contains_v<type_list<U...>, T> = (std::is_same_v<U, T> || ...);

namespace detail {

template <class A, class B>
struct joined;
template <class... T, class... U>
struct joined<type_list<T...>, type_list<U...>> {
  using type = type_list<T..., U...>;
};

}  // namespace detail

/// The types of A, then those of B.
template <class A, class B>
using joined_t = typename detail::joined<A, B>::type;

/// Calls f(std::type_identity<T>{}) for every T of the list, in order.
template <class... T, class Body>
SUBBYTE_INLINE constexpr void for_each_type(type_list<T...>, Body&& body) {
  (body(std::type_identity<T>{}), ...);
}

/// Calls f(std::type_identity<T>{}) for the first T for which the call returns true; false if none
/// did.
template <class... T, class Body>
SUBBYTE_INLINE constexpr bool any_type(type_list<T...>, Body&& body) {
  return (body(std::type_identity<T>{}) || ...);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
