// SPDX-License-Identifier: Apache-2.0
/// An owner of a dense array: 64-byte aligned, move-only, copied only by clone().
#pragma once

#include <concepts>
#include <new>  // aligned operator new without exceptions
#include <string>
#include <type_traits>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Tag: leave the elements as the allocator gave them.
struct uninitialized_t {};
inline constexpr uninitialized_t uninitialized{};

namespace detail {

template <class Arch = arch::native>
[[noreturn, gnu::cold, gnu::noinline]] void reject_extents(errc code, const index_t* extents,
                                                           std::size_t rank,
                                                           std::size_t element_bytes,
                                                           const char* required) {
  std::string message = "extents ";
  for (std::size_t d = 0; d < rank; ++d) {
    if (d > 0) message += " x ";
    message += std::to_string(extents[d]);
  }
  message += " of " + std::to_string(element_bytes) + "-byte elements: ";
  message += required;
  throw_error(code, "tensor", message);
}

}  // namespace detail

/// A dense row-major array of T that owns its memory.
///
/// Requires  T is trivially copyable and its all-zero bytes are its zero.
/// Cost      one allocation, aligned to 64 bytes; moving is free; nothing copies but clone().
/// Throws    error{bad_shape} for a negative extent or a product that passes 2^63 bytes,
///           error{out_of_memory} when the allocation fails.
template <class T, std::size_t Rank>
class tensor {
  static_assert(Rank > 0, "a tensor has at least one dimension");
  static_assert(std::is_trivially_copyable_v<T> && !std::is_const_v<T>,
                "elements are copied and zeroed by bytes");

 public:
  using element_type = T;
  using value_type = T;

  static constexpr std::size_t alignment_bytes = alignof(T) > 64 ? alignof(T) : 64;

  /// No elements: every extent zero.
  SUBBYTE_INLINE tensor() noexcept : data_(nullptr), extents_{} {}

  /// Zeroed elements, one extent per dimension.
  template <std::integral... I>
  requires(sizeof...(I) == Rank) SUBBYTE_INLINE explicit tensor(I... extents)
      : tensor(uninitialized, extents...) {
    if (data_ != nullptr) __builtin_memset(static_cast<void*>(data_), 0, bytes());
  }

  /// Elements with indeterminate values, for an output that is written whole.
  template <std::integral... I>
  requires(sizeof...(I) == Rank) SUBBYTE_INLINE explicit tensor(uninitialized_t, I... extents)
      : data_(nullptr), extents_{static_cast<index_t>(extents)...} {
    allocate();
  }

  SUBBYTE_INLINE tensor(tensor&& other) noexcept : tensor() { swap(other); }
  SUBBYTE_INLINE tensor& operator=(tensor&& other) noexcept {
    tensor taken(static_cast<tensor&&>(other));
    swap(taken);
    return *this;
  }
  tensor(const tensor&) = delete;
  tensor& operator=(const tensor&) = delete;
  SUBBYTE_INLINE ~tensor() {
    ::operator delete (static_cast<void*>(data_), std::align_val_t{alignment_bytes});
  }

  /// A copy of the elements in memory of their own.
  [[nodiscard]] SUBBYTE_INLINE tensor clone() const {
    tensor copy;
    for (std::size_t d = 0; d < Rank; ++d) copy.extents_[d] = extents_[d];
    copy.allocate();
    if (data_ != nullptr) {
      __builtin_memcpy(static_cast<void*>(copy.data_), static_cast<const void*>(data_), bytes());
    }
    return copy;
  }

  SUBBYTE_INLINE static constexpr std::size_t rank() noexcept { return Rank; }
  [[nodiscard]] SUBBYTE_INLINE index_t extent(std::size_t d) const noexcept {
    SUBBYTE_EXPECTS(d < Rank);
    return extents_[d];
  }
  [[nodiscard]] SUBBYTE_INLINE index_t stride(std::size_t d) const noexcept {
    return view().stride(d);
  }
  [[nodiscard]] SUBBYTE_INLINE index_t size() const noexcept {
    index_t product = 1;
    for (std::size_t d = 0; d < Rank; ++d) product *= extents_[d];
    return product;
  }
  [[nodiscard]] SUBBYTE_INLINE bool empty() const noexcept { return size() == 0; }

  [[nodiscard]] SUBBYTE_INLINE T* data() noexcept { return data_; }
  [[nodiscard]] SUBBYTE_INLINE const T* data() const noexcept { return data_; }

  template <std::integral... I>
  requires(sizeof...(I) == Rank) [[nodiscard]] SUBBYTE_INLINE T& operator()(I... indices) noexcept {
    return view()(indices...);
  }
  template <std::integral... I>
  requires(sizeof...(I) == Rank) [[nodiscard]] SUBBYTE_INLINE const T& operator()(
      I... indices) const noexcept {
    return view()(indices...);
  }

  /// A view that must not outlive the tensor; a temporary gives none.
  [[nodiscard]] SUBBYTE_INLINE tensor_view<T, Rank> view() & noexcept { return {data_, extents_}; }
  [[nodiscard]] SUBBYTE_INLINE tensor_view<const T, Rank> view() const& noexcept {
    return {data_, extents_};
  }
  void view() && = delete;
  void view() const&& = delete;

 private:
  [[nodiscard]] SUBBYTE_INLINE std::size_t bytes() const noexcept {
    return static_cast<std::size_t>(size()) * sizeof(T);
  }

  SUBBYTE_INLINE void swap(tensor& other) noexcept {
    T* const data = data_;
    data_ = other.data_;
    other.data_ = data;
    for (std::size_t d = 0; d < Rank; ++d) {
      const index_t extent = extents_[d];
      extents_[d] = other.extents_[d];
      other.extents_[d] = extent;
    }
  }

  // Takes the memory for extents_. An extent of zero needs no memory, but the strides are products
  // of the others, so those must fit all the same.
  SUBBYTE_INLINE void allocate() {
    index_t total_bytes = sizeof(T);
    for (std::size_t d = 0; d < Rank; ++d) {
      if (extents_[d] < 0) reject(errc::bad_shape, "every extent must be at least 0");
      if (extents_[d] > 0 && __builtin_mul_overflow(total_bytes, extents_[d], &total_bytes)) {
        reject(errc::bad_shape, "the array must be smaller than 2^63 bytes");
      }
    }
    if (empty()) return;
    data_ = static_cast<T*>(::operator new (static_cast<std::size_t>(total_bytes),
                                            std::align_val_t{alignment_bytes}, std::nothrow));
    if (data_ == nullptr) reject(errc::out_of_memory, "the allocation failed");
  }

  [[noreturn]] SUBBYTE_INLINE void reject(errc code, const char* required) const {
    detail::reject_extents(code, extents_, Rank, sizeof(T), required);
  }

  T* data_;
  index_t extents_[Rank];
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
