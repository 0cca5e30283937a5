// SPDX-License-Identifier: Apache-2.0
/// C = A W^T for a quantized W on a device and any number of rows of A: W is dequantized to memory
/// that the caller lends, cuBLAS multiplies. Component cublas.
#pragma once

#include <cublas_v2.h>

#include "subbyte/cuda/dequantize.cuh"
#include "subbyte/cuda/device.cuh"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Throws launch_failed with what cuBLAS says of a failed call; out_of_memory where it is that.
SUBBYTE_INLINE void check(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw_error(status == CUBLAS_STATUS_ALLOC_FAILED ? errc::out_of_memory : errc::launch_failed,
              what, cublasGetStatusString(status));
}

/// A cuBLAS handle with memory of its own, so that no call allocates and graphs capture all.
/// Move-only; for one stream at a time.
///
/// Throws  the constructor out_of_memory, launch_failed.
class cublas {
 public:
  SUBBYTE_INLINE explicit cublas(const device& on, index_t workspace_bytes = index_t{32} << 20)
      : workspace_(on, workspace_bytes) {
    check(cublasCreate(&handle_), "cuBLAS");
    check(cublasSetWorkspace(handle_, workspace_.on_device(),
                             static_cast<std::size_t>(workspace_bytes)),
          "cuBLAS's workspace");
  }
  SUBBYTE_INLINE cublas(cublas&& other) noexcept
      : handle_(std::exchange(other.handle_, nullptr)), workspace_(std::move(other.workspace_)) {}
  SUBBYTE_INLINE cublas& operator=(cublas&& other) noexcept {
    if (this != &other) {
      release();
      handle_ = std::exchange(other.handle_, nullptr);
      workspace_ = std::move(other.workspace_);
    }
    return *this;
  }
  cublas(const cublas&) = delete;
  cublas& operator=(const cublas&) = delete;
  SUBBYTE_INLINE ~cublas() { release(); }

  /// The handle, its calls queued on s.
  [[nodiscard]] SUBBYTE_INLINE cublasHandle_t on(stream_ref s) const {
    check(cublasSetStream(handle_, s.get()), "cuBLAS's stream");
    // Setting a stream gives the handle its own workspace back.
    check(cublasSetWorkspace(handle_, workspace_.on_device(),
                             static_cast<std::size_t>(workspace_.size())),
          "cuBLAS's workspace");
    return handle_;
  }

 private:
  SUBBYTE_INLINE void release() noexcept {
    if (handle_ != nullptr) static_cast<void>(cublasDestroy(handle_));
  }

  cublasHandle_t handle_ = nullptr;
  device_bytes workspace_;
};

/// C = A W^T through a dense W.
///
/// Shapes    W [n, k]; a [m, k] of half or bfloat16; c [m, n] of the same or float; dense [p, k] of
///           a's type, p >= 1: as many rows of W as are dequantized at a time, n for one product.
///           Every extent at most 2^31 - 1; rows at any pitch.
/// Requires  c and dense overlap nothing.
/// Numerics  tolerant: weights are rounded to a's type, products are summed in float in cuBLAS's
///           order, which may differ between devices.
/// Cost      reads W once, writes and reads 2 n k bytes besides; no allocation, no synchronization;
///           graphs capture it.
/// Throws    bad_shape, launch_failed.
template <class M, class T, class Out, class ALayout, class CLayout, class DLayout>
void gemm(const cublas& blas, stream_ref s, device_view<M> w, device_tensor_view<T, 2, ALayout> a,
          device_tensor_view<Out, 2, CLayout> c,
          device_tensor_view<std::remove_const_t<T>, 2, DLayout> dense) {
  using element = std::remove_const_t<T>;
  static_assert(std::is_same_v<element, half> || std::is_same_v<element, bfloat16>);
  static_assert(std::is_same_v<Out, element> || std::is_same_v<Out, float>);
  constexpr cudaDataType_t type = std::is_same_v<element, half> ? CUDA_R_16F : CUDA_R_16BF;
  constexpr cudaDataType_t out_type = std::is_same_v<Out, float> ? CUDA_R_32F : type;

  const tensor_view<const element, 2, row_pitched> x = a.on_device();
  const tensor_view<Out, 2, row_pitched> y = c.on_device();
  const tensor_view<element, 2, row_pitched> room = dense.on_device();
  const index_t n = w.on_device().rows();
  const index_t k = w.on_device().cols();
  const index_t m = x.extent(0);
  const auto shape = [](index_t rows, index_t cols) {
    return std::to_string(rows) + " x " + std::to_string(cols);
  };
  if (x.extent(1) != k || y.extent(0) != m || y.extent(1) != n || room.extent(1) != k ||
      (room.extent(0) < 1 && n > 0)) {
    throw_error(errc::bad_shape, "gemm",
                "a " + shape(m, x.extent(1)) + ", c " + shape(y.extent(0), y.extent(1)) +
                    " and room for W " + shape(room.extent(0), room.extent(1)) + " for W " +
                    shape(n, k));
  }
  for (const index_t extent : {n, k, m, x.stride(0), y.stride(0), room.stride(0)}) {
    if (extent > 0x7FFFFFFF) {
      throw_error(
          errc::bad_shape, "gemm",
          "an extent or pitch of " + std::to_string(extent) + "; cuBLAS takes at most 2147483647");
    }
  }
  if (n == 0 || m == 0) return;
  const auto handle = blas.on(s);
  const float one = 1;
  const float zero = 0;
  const auto as_int = [](index_t v) { return static_cast<int>(v > 0 ? v : 1); };
  for (index_t r = 0; r < n; r += room.extent(0)) {
    const index_t rows = n - r < room.extent(0) ? n - r : room.extent(0);
    const auto part = w.on_device().row_range(r, rows);
    detail::dequantize_rows<element>(
        s, part, nullptr, rows,
        tensor_view<element, 2, row_pitched>(room.data(), {rows, k}, {room.stride(0)}), "gemm");
    // Column-major, C^T [rows, m] = W [rows, k] A^T: W's and A's rows are columns there.
    check(
        cublasGemmEx(handle, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(rows), static_cast<int>(m),
                     static_cast<int>(k), &one, room.data(), type, as_int(room.stride(0)), x.data(),
                     type, as_int(x.stride(0)), &zero, y.data() + r, out_type, as_int(y.stride(0)),
                     CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
        "cublasGemmEx");
  }
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
