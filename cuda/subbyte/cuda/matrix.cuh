// SPDX-License-Identifier: Apache-2.0
/// Quantized matrices in a device's memory, uploaded as they lie in a host's or in a mapped file.
#pragma once

#include "subbyte/cuda/device.cuh"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/planar_matrix.hpp"
#include "subbyte/matrix/row_scaled_matrix.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Owns a copy of a matrix on a device; View is block_matrix_view<F>, row_scaled_matrix_view<F> or
/// planar_matrix_view<G, S>. Move-only.
///
/// The constructor queues the copies: the host's matrix must stay until the stream has done them.
/// Throws  out_of_memory, launch_failed.
template <class View>
class device_matrix;

template <class F>
class device_matrix<block_matrix_view<F>> {
 public:
  SUBBYTE_INLINE device_matrix() noexcept = default;
  SUBBYTE_INLINE device_matrix(const device& on, stream_ref s, const block_matrix_view<F>& from)
      : memory_(on, from.size_bytes()), rows_(from.rows()), cols_(from.cols()) {
    copy_bytes(s, from.data(), from.size_bytes(), memory_.on_device());
  }

  [[nodiscard]] SUBBYTE_INLINE device_view<block_matrix_view<F>> view() const& noexcept {
    return device_view<block_matrix_view<F>>(
        block_matrix_view<F>(reinterpret_cast<const F*>(memory_.on_device()), rows_, cols_));
  }
  device_view<block_matrix_view<F>> view() const&& = delete;

 private:
  device_bytes memory_;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

template <class F>
class device_matrix<row_scaled_matrix_view<F>> {
 public:
  SUBBYTE_INLINE device_matrix() noexcept = default;
  SUBBYTE_INLINE device_matrix(const device& on, stream_ref s,
                               const row_scaled_matrix_view<F>& from)
      : memory_(on, from.size_bytes()), rows_(from.rows()), cols_(from.cols()) {
    copy_bytes(s, from.data(), from.size_bytes(), memory_.on_device());
  }

  [[nodiscard]] SUBBYTE_INLINE device_view<row_scaled_matrix_view<F>> view() const& noexcept {
    return device_view<row_scaled_matrix_view<F>>(
        row_scaled_matrix_view<F>(memory_.on_device(), rows_, cols_));
  }
  device_view<row_scaled_matrix_view<F>> view() const&& = delete;

 private:
  device_bytes memory_;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

/// Every plane begins at a multiple of 256 bytes.
template <class G, class S>
class device_matrix<planar_matrix_view<G, S>> {
 public:
  SUBBYTE_INLINE device_matrix() noexcept = default;
  SUBBYTE_INLINE device_matrix(const device& on, stream_ref s,
                               const planar_matrix_view<G, S>& from) {
    placement where(from);
    memory_ = device_bytes(on, where.end);
    view_ = where.view_at(memory_.on_device(), from);
    for (const plane& p : where.planes) {
      copy_bytes(s, p.from, p.bytes, memory_.on_device() + p.offset);
    }
  }
  SUBBYTE_INLINE device_matrix(device_matrix&& other) noexcept
      : memory_(std::move(other.memory_)), view_(std::exchange(other.view_, {})) {}
  SUBBYTE_INLINE device_matrix& operator=(device_matrix&& other) noexcept {
    memory_ = std::move(other.memory_);
    view_ = std::exchange(other.view_, {});
    return *this;
  }

  [[nodiscard]] SUBBYTE_INLINE device_view<planar_matrix_view<G, S>> view() const& noexcept {
    return device_view<planar_matrix_view<G, S>>(view_);
  }
  device_view<planar_matrix_view<G, S>> view() const&& = delete;

 private:
  struct plane {
    const void* from = nullptr;
    index_t bytes = 0;
    index_t offset = 0;
  };
  /// Which plane lies where.
  struct placement {
    enum : int { codes, scales, outer_scales, zeros, order, position, count };

    SUBBYTE_INLINE explicit placement(const planar_matrix_view<G, S>& m) {
      const index_t groups = m.rows() * m.groups();
      add(codes, m.codes(), m.rows() * m.row_bytes());
      if constexpr (is_nested_scale<S>) {
        const index_t all = m.scales().first() + groups;
        add(scales, m.scales().codes(), all * static_cast<index_t>(sizeof(typename S::inner)));
        add(outer_scales, m.scales().outer(),
            ceil_div(all, S::block) * static_cast<index_t>(sizeof(float)));
      } else {
        add(scales, m.scales().data(), groups * static_cast<index_t>(sizeof(S)));
      }
      if constexpr (G::zeros != zero_points::none) {
        add(zeros, m.zeros(),
            groups * static_cast<index_t>(sizeof(typename planar_matrix_view<G, S>::zero)));
      }
      if (m.order() != nullptr) {
        const index_t bytes = m.cols() * static_cast<index_t>(sizeof(std::int32_t));
        add(order, m.order(), bytes);
        add(position, m.position(), bytes);
      }
    }

    [[nodiscard]] SUBBYTE_INLINE planar_matrix_view<G, S> view_at(
        std::uint8_t* base, const planar_matrix_view<G, S>& m) const {
      const auto at = [&]<class T>(int which, std::type_identity<T>) {
        return planes[which].bytes > 0 ? reinterpret_cast<const T*>(base + planes[which].offset)
                                       : nullptr;
      };
      scale_plane<S> stored;
      if constexpr (is_nested_scale<S>) {
        stored = scale_plane<S>(at(scales, std::type_identity<typename S::inner>{}),
                                at(outer_scales, std::type_identity<float>{}), m.scales().offset())
                     .from(m.scales().first());
      } else {
        stored = scale_plane<S>(at(scales, std::type_identity<S>{}));
      }
      using zero = typename planar_matrix_view<G, S>::zero;
      const zero* zero_plane = nullptr;
      if constexpr (G::zeros != zero_points::none) {
        zero_plane = at(zeros, std::type_identity<zero>{});
      }
      return {m.rows(),
              m.cols(),
              {m.group_size()},
              base,
              stored,
              zero_plane,
              at(order, std::type_identity<std::int32_t>{}),
              at(position, std::type_identity<std::int32_t>{})};
    }

    SUBBYTE_INLINE void add(int which, const void* from, index_t bytes) {
      planes[which] = {from, bytes, end};
      end += ceil_div(bytes, 256) * 256;
    }

    plane planes[count];
    index_t end = 0;
  };

  device_bytes memory_;
  planar_matrix_view<G, S> view_;
};

/// A copy of a matrix on a device.
template <class View>
[[nodiscard]] SUBBYTE_INLINE device_matrix<View> upload_matrix(const device& on, stream_ref s,
                                                               const View& from) {
  return device_matrix<View>(on, s, from);
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
