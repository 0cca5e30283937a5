// SPDX-License-Identifier: Apache-2.0
/// The CUDA runtime as this library uses it: checked calls, streams, devices and their memory.
#pragma once

#include <cuda_runtime_api.h>

#include <limits>
#include <string>
#include <type_traits>
#include <utility>  // std::exchange

#include "subbyte/core/error.hpp"
#include "subbyte/cuda/device_view.cuh"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Throws what a failed call of the CUDA runtime says: device_unavailable (no device, no driver for
/// it), out_of_memory, launch_failed for everything else.
SUBBYTE_INLINE void check(cudaError_t status, const char* what) {
  if (status == cudaSuccess) return;
  const bool absent = status == cudaErrorNoDevice || status == cudaErrorInsufficientDriver ||
                      status == cudaErrorInvalidDevice || status == cudaErrorStubLibrary ||
                      status == cudaErrorDevicesUnavailable;
  const errc code = absent                                ? errc::device_unavailable
                    : status == cudaErrorMemoryAllocation ? errc::out_of_memory
                                                          : errc::launch_failed;
  throw_error(code, what,
              std::string(cudaGetErrorName(status)) + ": " + cudaGetErrorString(status));
}

/// A stream that somebody else owns; the default stream unless told otherwise.
class stream_ref {
 public:
  SUBBYTE_INLINE constexpr stream_ref() noexcept = default;
  SUBBYTE_INLINE constexpr stream_ref(cudaStream_t stream) noexcept  // NOLINT: implicit
      : stream_(stream) {}

  [[nodiscard]] SUBBYTE_INLINE constexpr cudaStream_t get() const noexcept { return stream_; }
  /// Waits until all work of the stream is done.
  ///
  /// Throws  what that work failed with.
  SUBBYTE_INLINE void synchronize() const {
    check(cudaStreamSynchronize(stream_), "a stream's work");
  }

 private:
  cudaStream_t stream_ = nullptr;
};

/// One device and what was read of it, once. Make one per device and keep it.
///
/// Throws  the constructor device_unavailable: no such device, or one older than compute capability
///         8.0.
class device {
 public:
  SUBBYTE_INLINE explicit device(int ordinal = 0) : ordinal_(ordinal) {
    check(cudaGetDeviceProperties(&properties_, ordinal), "a CUDA device");
    if (properties_.major < 8) {
      throw_error(errc::device_unavailable, properties_.name,
                  "compute capability " + std::to_string(properties_.major) + "." +
                      std::to_string(properties_.minor) + "; 8.0 or later is required");
    }
  }

  /// How many devices there are; 0 also without a driver.
  [[nodiscard]] SUBBYTE_INLINE static int count() noexcept {
    int n = 0;
    if (cudaGetDeviceCount(&n) == cudaSuccess) return n;
    static_cast<void>(cudaGetLastError());
    return 0;
  }

  [[nodiscard]] SUBBYTE_INLINE int ordinal() const noexcept { return ordinal_; }
  [[nodiscard]] SUBBYTE_INLINE const char* name() const noexcept { return properties_.name; }
  [[nodiscard]] SUBBYTE_INLINE const cudaDeviceProp& properties() const noexcept {
    return properties_;
  }
  [[nodiscard]] SUBBYTE_INLINE int multiprocessors() const noexcept {
    return properties_.multiProcessorCount;
  }
  /// Makes the device the one that the calling thread's launches and allocations are for.
  SUBBYTE_INLINE void make_current() const { check(cudaSetDevice(ordinal_), "a CUDA device"); }

 private:
  int ordinal_;
  cudaDeviceProp properties_{};
};

/// Bytes of a device, 256-byte aligned; move-only.
///
/// Cost    allocates and frees with cudaMalloc and cudaFree, which synchronize: never in a loop.
/// Throws  out_of_memory.
class device_bytes {
 public:
  SUBBYTE_INLINE constexpr device_bytes() noexcept = default;
  SUBBYTE_INLINE device_bytes(const device& on, index_t count) : count_(count) {
    if (count == 0) return;
    on.make_current();
    const cudaError_t status = cudaMalloc(&data_, static_cast<std::size_t>(count));
    if (status == cudaErrorMemoryAllocation) {
      static_cast<void>(cudaGetLastError());  // not sticky, but kept for the next who asks
      throw_error(errc::out_of_memory, on.name(),
                  "cannot allocate " + std::to_string(count) + " bytes");
    }
    check(status, "an allocation");
  }
  SUBBYTE_INLINE device_bytes(device_bytes&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)), count_(std::exchange(other.count_, 0)) {}
  SUBBYTE_INLINE device_bytes& operator=(device_bytes&& other) noexcept {
    if (this != &other) {
      release();
      data_ = std::exchange(other.data_, nullptr);
      count_ = std::exchange(other.count_, 0);
    }
    return *this;
  }
  device_bytes(const device_bytes&) = delete;
  device_bytes& operator=(const device_bytes&) = delete;
  SUBBYTE_INLINE ~device_bytes() { release(); }

  [[nodiscard]] SUBBYTE_INLINE std::uint8_t* on_device() const noexcept {
    return static_cast<std::uint8_t*>(data_);
  }
  [[nodiscard]] SUBBYTE_INLINE index_t size() const noexcept { return count_; }

 private:
  // A failure here is one of earlier work, which its own call reports.
  SUBBYTE_INLINE void release() noexcept { static_cast<void>(cudaFree(data_)); }

  void* data_ = nullptr;
  index_t count_ = 0;
};

/// Owns a dense array on a device, with unspecified contents at first; move-only.
///
/// Throws  bad_shape (a negative extent, a size beyond 63 bits), out_of_memory.
template <class T, std::size_t Rank>
class device_tensor {
  static_assert(std::is_trivially_copyable_v<T>);

 public:
  SUBBYTE_INLINE device_tensor() noexcept = default;
  template <std::integral... I>
  requires(sizeof...(I) == Rank) SUBBYTE_INLINE device_tensor(const device& on, I... extents)
      : memory_(on, checked_bytes({static_cast<index_t>(extents)...})),
        view_(reinterpret_cast<T*>(memory_.on_device()), extents...) {}

  [[nodiscard]] SUBBYTE_INLINE device_tensor_view<T, Rank> view() const& noexcept {
    return device_tensor_view<T, Rank>(view_);
  }
  device_tensor_view<T, Rank> view() const&& = delete;
  [[nodiscard]] SUBBYTE_INLINE index_t extent(std::size_t d) const noexcept {
    return view_.extent(d);
  }
  [[nodiscard]] SUBBYTE_INLINE index_t size() const noexcept { return view_.size(); }

 private:
  SUBBYTE_INLINE static index_t checked_bytes(const index_t (&extents)[Rank]) {
    constexpr index_t limit = std::numeric_limits<index_t>::max();
    index_t bytes = sizeof(T);
    bool empty = false;
    for (const index_t e : extents) empty = empty || e == 0;
    for (const index_t e : extents) {
      if (e < 0 || (!empty && bytes > limit / e)) {
        throw_error(errc::bad_shape, "device_tensor",
                    "an extent of " + std::to_string(e) +
                        "; extents of at least 0 and a size that fits 63 bits are required");
      }
      if (!empty) bytes *= e;
    }
    return empty ? 0 : bytes;
  }

  device_bytes memory_;
  tensor_view<T, Rank> view_;
};

/// Queues a copy of bytes between the host and a device, either way.
///
/// Requires  both stay until the stream has done it.
SUBBYTE_INLINE void copy_bytes(stream_ref s, const void* from, index_t count, void* to) {
  if (count == 0) return;
  check(cudaMemcpyAsync(to, from, static_cast<std::size_t>(count), cudaMemcpyDefault, s.get()),
        "a copy");
}

/// Queues host -> device.
///
/// Shapes  equal; dense.
/// Throws  bad_shape, launch_failed.
template <class T, std::size_t Rank>
SUBBYTE_INLINE void upload(stream_ref s, tensor_view<const T, Rank> from,
                           std::type_identity_t<device_tensor_view<T, Rank>> to) {
  if (from.size() != to.on_device().size()) {
    throw_error(
        errc::bad_shape, "upload",
        std::to_string(from.size()) + " elements into " + std::to_string(to.on_device().size()));
  }
  copy_bytes(s, from.data(), from.size() * static_cast<index_t>(sizeof(T)), to.on_device().data());
}

/// Queues device -> host; synchronize the stream before reading.
template <class T, std::size_t Rank>
SUBBYTE_INLINE void download(stream_ref s, device_tensor_view<T, Rank> from,
                             tensor_view<std::remove_const_t<T>, Rank> to) {
  if (to.size() != from.on_device().size()) {
    throw_error(
        errc::bad_shape, "download",
        std::to_string(from.on_device().size()) + " elements into " + std::to_string(to.size()));
  }
  copy_bytes(s, from.on_device().data(), to.size() * static_cast<index_t>(sizeof(T)), to.data());
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
