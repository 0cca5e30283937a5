// SPDX-License-Identifier: Apache-2.0
/// What a kernel asks of the thread that runs it, on a device, and how kernels are launched.
///
/// A kernel is a struct:
///   threads        of a block, a multiple of 32
///   resident_blocks  of a multiprocessor, which the compiler limits registers for
///   shared_bytes   of a block, 16-byte aligned, at most 48 KiB
///   run(t, args...) static, a template on the type of t; every thread calls it
///
/// Its body is a template so that tests run it on threads of the host
/// (tests/support/emulated_device.hpp). All 32 lanes of a warp take part in what synchronizes.
#pragma once

#if !defined(__CUDACC__)
#error "subbyte: cuda/thread.cuh launches kernels: compile with nvcc"
#endif

#include <string>

#include "subbyte/cuda/decode.cuh"
#include "subbyte/cuda/device.cuh"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// A thread of a running kernel.
class device_thread {
 public:
  __device__ __forceinline__ explicit device_thread(std::uint8_t* shared) : shared_(shared) {}

  __device__ __forceinline__ int lane() const { return static_cast<int>(threadIdx.x % 32); }
  __device__ __forceinline__ int warp() const { return static_cast<int>(threadIdx.x / 32); }
  __device__ __forceinline__ index_t block() const { return blockIdx.x; }
  /// The block's shared memory.
  __device__ __forceinline__ std::uint8_t* shared() const { return shared_; }

  __device__ __forceinline__ void sync_warp() const { __syncwarp(); }
  __device__ __forceinline__ void sync_block() const { __syncthreads(); }
  /// The value of the lane whose number differs in the bits of `mask`.
  __device__ __forceinline__ float exchanged(float value, int mask) const {
    return __shfl_xor_sync(0xFFFFFFFFU, value, mask);
  }

  /// Begins to copy 4, 8 or 16 bytes, aligned to as many on both sides, to shared memory.
  template <int Bytes>
  __device__ __forceinline__ void copy_async(std::uint8_t* to, const std::uint8_t* from) const {
    static_assert(Bytes == 4 || Bytes == 8 || Bytes == 16);
    const auto address = static_cast<std::uint32_t>(__cvta_generic_to_shared(to));
    if constexpr (Bytes == 16) {
      asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(address), "l"(from)
                   : "memory");
    } else {
      asm volatile("cp.async.ca.shared.global [%0], [%1], %2;" ::"r"(address), "l"(from), "n"(Bytes)
                   : "memory");
    }
  }
  /// Ends a group of copies.
  __device__ __forceinline__ void commit_copies() const {
    asm volatile("cp.async.commit_group;" ::: "memory");
  }
  /// Waits until all but the last `Pending` groups of this thread have arrived; other lanes' are
  /// visible after sync_warp().
  template <int Pending>
  __device__ __forceinline__ void wait_copies() const {
    asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
  }

 private:
  std::uint8_t* shared_;
};

namespace detail {

template <class Kernel, class... Args>
__global__ void __launch_bounds__(Kernel::threads, Kernel::resident_blocks)
    run_kernel(Args... args) {
  alignas(16) __shared__ std::uint8_t shared[Kernel::shared_bytes > 0 ? Kernel::shared_bytes : 16];
  Kernel::run(device_thread(shared), args...);
}

}  // namespace detail

/// Queues `blocks` blocks of Kernel; nothing for 0. Every call of this library that queues work
/// goes through launch<Kernel>(queue, blocks, args...): a queue is whatever has one, a stream or
/// what tests put in its place.
///
/// Throws  bad_shape for more blocks than a grid has, launch_failed.
template <class Kernel, class... Args>
void launch(stream_ref s, index_t blocks, Args... args) {
  static_assert(Kernel::threads % 32 == 0 && Kernel::shared_bytes <= 48 * 1024);
  static_assert((std::is_trivially_copyable_v<Args> && ...));
  if (blocks == 0) return;
  if (blocks < 0 || blocks > 0x7FFFFFFF) {
    throw_error(errc::bad_shape, "a CUDA grid",
                std::to_string(blocks) + " blocks; at most 2147483647 are possible");
  }
  void* pointers[] = {static_cast<void*>(&args)...};
  check(cudaLaunchKernel(reinterpret_cast<const void*>(&detail::run_kernel<Kernel, Args...>),
                         dim3(static_cast<unsigned>(blocks)), dim3(Kernel::threads), pointers, 0,
                         s.get()),
        "a kernel launch");
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
