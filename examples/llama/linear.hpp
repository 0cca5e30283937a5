// SPDX-License-Identifier: Apache-2.0
/// One matrix of a model as products see it, however it is stored.
#pragma once

#include <memory>
#include <utility>

#include "subbyte/kernel/dequantize.hpp"
#include "subbyte/kernel/gemm.hpp"
#include "subbyte/kernel/gemv.hpp"

namespace llama {

using subbyte::index_t;

/// W [rows, cols], read only.
class linear {
 public:
  linear() = default;
  linear(const linear&) = delete;
  linear& operator=(const linear&) = delete;
  virtual ~linear() = default;

  [[nodiscard]] virtual index_t rows() const noexcept = 0;
  [[nodiscard]] virtual index_t cols() const noexcept = 0;
  /// out = in W^T; in [tokens, cols], out [tokens, rows]. Several tokens through gemm, one through
  /// gemv.
  virtual void multiply(subbyte::matrix_view<const float> in, subbyte::matrix_view<float> out,
                        subbyte::executor_ref executor) const = 0;
  /// Rows of W as floats: ids [count], out [count, cols].
  virtual void get_rows(subbyte::vector_view<const index_t> ids, subbyte::matrix_view<float> out,
                        subbyte::executor_ref executor) const = 0;

 protected:
  template <class View>
  static void multiply_by(View w, subbyte::matrix_view<const float> in,
                          subbyte::matrix_view<float> out, subbyte::executor_ref executor) {
    if (in.extent(0) == 1) {
      subbyte::gemv(w, in[0], out[0], executor);
    } else {
      subbyte::gemm(w, in, out, executor);
    }
  }
};

/// A quantized matrix in memory, such as what quantize() returns, as a linear: anything whose
/// view() products can read.
template <class Owner>
class owned_linear final : public linear {
 public:
  explicit owned_linear(Owner matrix) : matrix_(std::move(matrix)) {}

  [[nodiscard]] index_t rows() const noexcept override { return matrix_.view().rows(); }
  [[nodiscard]] index_t cols() const noexcept override { return matrix_.view().cols(); }
  void multiply(subbyte::matrix_view<const float> in, subbyte::matrix_view<float> out,
                subbyte::executor_ref executor) const override {
    multiply_by(matrix_.view(), in, out, executor);
  }
  void get_rows(subbyte::vector_view<const index_t> ids, subbyte::matrix_view<float> out,
                subbyte::executor_ref executor) const override {
    subbyte::get_rows(matrix_.view(), ids, out, executor);
  }

 private:
  Owner matrix_;
};

template <class Owner>
[[nodiscard]] std::shared_ptr<const linear> make_linear(Owner matrix) {
  return std::make_shared<const owned_linear<Owner>>(std::move(matrix));
}

}  // namespace llama
