// SPDX-License-Identifier: Apache-2.0
/// Products of dense 16-bit matrices by cuBLAS; none without SUBBYTE_BENCH_CUBLAS.
#include "dense.hpp"

#if defined(SUBBYTE_BENCH_CUBLAS)

#include <cublasLt.h>
#include <cublas_v2.h>

#include <map>
#include <stdexcept>
#include <tuple>

namespace bench {
namespace {

void check_blas(cublasStatus_t status, const char* what) {
  if (status == CUBLAS_STATUS_SUCCESS) return;
  throw std::runtime_error(std::string(what) + ": " + cublasGetStatusString(status));
}

cudaDataType_t data_type(dense_type t) { return t == dense_type::bf16 ? CUDA_R_16BF : CUDA_R_16F; }

/// The descriptors of one shape and the algorithms for it.
struct plan {
  plan() = default;
  plan(const plan&) = delete;
  plan& operator=(const plan&) = delete;
  ~plan() {
    if (operation != nullptr) static_cast<void>(cublasLtMatmulDescDestroy(operation));
    for (cublasLtMatrixLayout_t layout : {w, x, y}) {
      if (layout != nullptr) static_cast<void>(cublasLtMatrixLayoutDestroy(layout));
    }
  }
  cublasLtMatmulDesc_t operation = nullptr;
  cublasLtMatrixLayout_t w = nullptr;
  cublasLtMatrixLayout_t x = nullptr;
  cublasLtMatrixLayout_t y = nullptr;
  std::vector<cublasLtMatmulHeuristicResult_t> proposals;
};

class with_cublas final : public dense_products {
 public:
  explicit with_cublas(const subbyte::cuda::device& on) : workspace_(on, workspace_bytes) {
    check_blas(cublasCreate(&handle_), "cublasCreate");
    check_blas(cublasLtCreate(&light_), "cublasLtCreate");
  }
  ~with_cublas() override {
    plans_.clear();
    static_cast<void>(cublasLtDestroy(light_));
    static_cast<void>(cublasDestroy(handle_));
  }

  [[nodiscard]] std::string version() const override {
    int number = 0;
    check_blas(cublasGetVersion(handle_, &number), "cublasGetVersion");
    return std::to_string(number);
  }

  int algorithms(const dense_shape& shape) override {
    return 1 + static_cast<int>(planned(shape).proposals.size());
  }

  void multiply(cudaStream_t s, const dense_shape& shape, int algorithm, const void* w,
                const void* x, void* y) override {
    const float one = 1;
    const float zero = 0;
    // Column-major, as cuBLAS sees it: y^T [n, m] = W [n, k] x^T, with W and x transposed views.
    if (algorithm == 0) {
      check_blas(cublasSetStream(handle_, s), "cublasSetStream");
      check_blas(cublasSetWorkspace(handle_, workspace_.on_device(), workspace_bytes),
                 "cublasSetWorkspace");
      const cudaDataType_t type = data_type(shape.type);
      check_blas(
          cublasGemmEx(handle_, CUBLAS_OP_T, CUBLAS_OP_N, static_cast<int>(shape.n),
                       static_cast<int>(shape.m), static_cast<int>(shape.k), &one, w, type,
                       static_cast<int>(shape.k), x, type, static_cast<int>(shape.k), &zero, y,
                       type, static_cast<int>(shape.n), CUBLAS_COMPUTE_32F, CUBLAS_GEMM_DEFAULT),
          "cublasGemmEx");
      return;
    }
    const plan& p = planned(shape);
    const auto& chosen = p.proposals[static_cast<std::size_t>(algorithm - 1)];
    check_blas(cublasLtMatmul(light_, p.operation, &one, w, p.w, x, p.x, &zero, y, p.y, y, p.y,
                              &chosen.algo, workspace_.on_device(), workspace_bytes, s),
               "cublasLtMatmul");
  }

 private:
  static constexpr std::size_t workspace_bytes = std::size_t{64} << 20;
  static constexpr int most_proposals = 6;

  const plan& planned(const dense_shape& shape) {
    const auto key = std::make_tuple(shape.type, shape.n, shape.k, shape.m);
    std::unique_ptr<plan>& p = plans_[key];
    if (p != nullptr) return *p;
    p = std::make_unique<plan>();
    const cudaDataType_t type = data_type(shape.type);
    check_blas(cublasLtMatmulDescCreate(&p->operation, CUBLAS_COMPUTE_32F, CUDA_R_32F),
               "cublasLtMatmulDescCreate");
    const cublasOperation_t transposed = CUBLAS_OP_T;
    check_blas(cublasLtMatmulDescSetAttribute(p->operation, CUBLASLT_MATMUL_DESC_TRANSA,
                                              &transposed, sizeof(transposed)),
               "cublasLtMatmulDescSetAttribute");
    const auto n = static_cast<std::uint64_t>(shape.n);
    const auto k = static_cast<std::uint64_t>(shape.k);
    const auto m = static_cast<std::uint64_t>(shape.m);
    const char* const layout = "cublasLtMatrixLayoutCreate";
    check_blas(cublasLtMatrixLayoutCreate(&p->w, type, k, n, shape.k), layout);
    check_blas(cublasLtMatrixLayoutCreate(&p->x, type, k, m, shape.k), layout);
    check_blas(cublasLtMatrixLayoutCreate(&p->y, type, n, m, shape.n), layout);
    cublasLtMatmulPreference_t preference = nullptr;
    check_blas(cublasLtMatmulPreferenceCreate(&preference), "cublasLtMatmulPreferenceCreate");
    const std::size_t bytes = workspace_bytes;
    cublasStatus_t status = cublasLtMatmulPreferenceSetAttribute(
        preference, CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, &bytes, sizeof(bytes));
    cublasLtMatmulHeuristicResult_t found[most_proposals];
    int count = 0;
    if (status == CUBLAS_STATUS_SUCCESS) {
      status = cublasLtMatmulAlgoGetHeuristic(light_, p->operation, p->w, p->x, p->y, p->y,
                                              preference, most_proposals, found, &count);
    }
    static_cast<void>(cublasLtMatmulPreferenceDestroy(preference));
    if (status == CUBLAS_STATUS_NOT_SUPPORTED) count = 0;
    for (int i = 0; i < count; ++i) {
      if (found[i].state == CUBLAS_STATUS_SUCCESS) p->proposals.push_back(found[i]);
    }
    return *p;
  }

  subbyte::cuda::device_bytes workspace_;
  cublasHandle_t handle_ = nullptr;
  cublasLtHandle_t light_ = nullptr;
  std::map<std::tuple<dense_type, index_t, index_t, index_t>, std::unique_ptr<plan>> plans_;
};

}  // namespace

std::unique_ptr<dense_products> dense_products::make(const subbyte::cuda::device& on) {
  return std::make_unique<with_cublas>(on);
}

}  // namespace bench

#else

namespace bench {

std::unique_ptr<dense_products> dense_products::make(const subbyte::cuda::device&) {
  return nullptr;
}

}  // namespace bench

#endif
