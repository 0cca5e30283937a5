// SPDX-License-Identifier: Apache-2.0
/// Products of dense 16-bit matrices by cuBLAS: what quantized ones are compared with.
#pragma once

#include <cuda_runtime_api.h>

#include <memory>
#include <string>
#include <vector>

#include "subbyte/cuda/device.cuh"

namespace bench {

using subbyte::index_t;

enum class dense_type { bf16, f16 };

/// y [m, n] = x [m, k] W [n, k]^T with float sums.
struct dense_shape {
  dense_type type = dense_type::bf16;
  index_t n = 0;
  index_t k = 0;
  index_t m = 0;
};

/// cuBLAS on one stream: the default algorithm, and those that cublasLt proposes.
class dense_products {
 public:
  /// Null where the program is built without cuBLAS.
  static std::unique_ptr<dense_products> make(const subbyte::cuda::device& on);

  dense_products() = default;
  dense_products(const dense_products&) = delete;
  dense_products& operator=(const dense_products&) = delete;
  virtual ~dense_products() = default;

  [[nodiscard]] virtual std::string version() const = 0;
  /// How many algorithms there are for a shape: number 0 is cublasGemmEx's own choice, number i
  /// the i-th proposal of cublasLt.
  virtual int algorithms(const dense_shape& shape) = 0;
  /// Queues a product by algorithm number `algorithm` of the shape.
  virtual void multiply(cudaStream_t s, const dense_shape& shape, int algorithm, const void* w,
                        const void* x, void* y) = 0;
};

}  // namespace bench
