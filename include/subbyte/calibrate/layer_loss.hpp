// SPDX-License-Identifier: Apache-2.0
/// The error of a layer's outputs when its weights are replaced: what scale searches minimise and
/// what plans predict with.
#pragma once

#if !__has_include(<Eigen/Core>)
#error "subbyte/calibrate needs Eigen >= 3.4 on the include path (CMake: subbyte::calibrate)"
#endif

// g++ 12 takes AVX-512's undefined vectors for uninitialized variables, wherever Eigen is inlined.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif
#include <Eigen/Core>
#pragma GCC diagnostic pop
#include <atomic>
#include <string>

#include "subbyte/core/bits.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/matrix/concepts.hpp"
#include "subbyte/quantize/concepts.hpp"
#include "subbyte/tensor/tensor.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// What is known of the input that one or more weights read. x or hessian is required; x is taken
/// if both are there.
struct layer_inputs {
  matrix_view<const float> x{};               ///< rows of activations [tokens, k]
  matrix_view<const double> hessian{};        ///< X^T X [k, k], the plain sum over tokens
  index_t tokens = 0;                         ///< behind hessian; 0 if unknown: counted as one
  vector_view<const float> mean_magnitude{};  ///< [k] mean |x|; made from x where it is empty
};

namespace detail {

/// Rows whose errors are multiplied together: fixed, so that no sum depends on the executor.
inline constexpr index_t loss_rows = 64;
/// Tokens whose outputs are held at a time.
inline constexpr index_t loss_tokens = 512;

/// Sums of squared output errors of one input, from X or from H = X^T X.
///
/// Numerics  products in float, their squares and sums in double; the same bits for any executor.
///           With H, a negative sum (H is only rounded to be positive) counts as zero.
/// Cost      k * tokens or k * k multiply-adds per row; H is copied to float.
template <class Arch>
class layer_loss_sums {
 public:
  /// Throws  bad_argument without x and hessian; bad_shape; non_finite; out_of_memory.
  layer_loss_sums(const layer_inputs& inputs, index_t cols, executor_ref ex) : cols_(cols) {
    check(inputs, cols);
    if (inputs.x.extent(0) > 0) {
      x_ = inputs.x;
      tokens_ = static_cast<double>(inputs.x.extent(0));
      return;
    }
    tokens_ = inputs.tokens > 0 ? static_cast<double>(inputs.tokens) : 1.0;
    hessian_ = tensor<float, 2>(uninitialized, cols, cols);
    const double* const from = inputs.hessian.data();
    float* const to = hessian_.data();
    // In units of the mean diagonal: float holds the sum over any number of tokens.
    double trace = 0;
    for (index_t j = 0; j < cols; ++j) trace += from[j * cols + j];
    unit_ = trace > 0 ? trace / static_cast<double>(cols) : 1.0;
    const double unit = unit_;
    ex.for_range(cols * cols, 1 << 16, [=](index_t begin, index_t end) noexcept {
      for (index_t i = begin; i < end; ++i) to[i] = static_cast<float>(from[i] / unit);
    });
  }

  /// What the constructor throws for the inputs.
  static void check(const layer_inputs& inputs, index_t cols) {
    if (inputs.x.extent(0) > 0) {
      require_shape("x", inputs.x.extent(1), cols);
      check_finite_values("x", inputs.x.data(), inputs.x.size());
      return;
    }
    if (cols > 0 && inputs.hessian.extent(0) == 0) {
      throw_error(errc::bad_argument, "layer inputs",
                  "neither rows of activations nor X^T X; one of them is required");
    }
    require_shape("hessian", inputs.hessian.extent(0), cols);
    require_shape("hessian", inputs.hessian.extent(1), cols);
    check_finite_values("hessian", inputs.hessian.data(), inputs.hessian.size());
  }

  [[nodiscard]] double tokens() const noexcept { return tokens_; }

  /// The sum over tokens and rows of (x . e_r)^2. error(first, count, e) writes the errors of rows
  /// first .. first + count - 1 to e [count, cols], from several threads.
  ///
  /// Throws  out_of_memory.
  template <class Error>
  [[nodiscard]] double sum(index_t rows, executor_ref ex, Error&& error) const {
    const index_t pieces = ceil_div(rows, loss_rows);
    tensor<double, 1> partial(pieces);
    std::atomic<bool> fine{true};
    ex.for_range(pieces, 1, [&](index_t begin, index_t end) noexcept {
      try {
        float_matrix e;
        float_matrix product;
        for (index_t piece = begin; piece < end; ++piece) {
          const index_t first = piece * loss_rows;
          const index_t count = rows - first < loss_rows ? rows - first : loss_rows;
          e.resize(count, cols_);
          error(first, count, e.data());
          partial(piece) = energy(e, product);
        }
      } catch (...) {  // std::bad_alloc from Eigen's buffers, error{out_of_memory} from ours
        fine.store(false, std::memory_order_relaxed);
      }
    });
    if (!fine) {
      throw_error(
          errc::out_of_memory, "layer loss",
          "cannot allocate the buffers of a product with " + std::to_string(cols_) + " columns");
    }
    double total = 0;
    for (index_t piece = 0; piece < pieces; ++piece) total += partial(piece);
    return total;
  }

 private:
  using float_matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  using float_map = Eigen::Map<const float_matrix>;

  [[nodiscard]] double energy(const float_matrix& e, float_matrix& product) const {
    double total = 0;
    if (x_.extent(0) > 0) {
      const float_map x(x_.data(), x_.extent(0), cols_);
      for (index_t t = 0; t < x_.extent(0); t += loss_tokens) {
        const index_t count = x_.extent(0) - t < loss_tokens ? x_.extent(0) - t : loss_tokens;
        product.noalias() = e * x.middleRows(t, count).transpose();
        const float* const p = product.data();
        for (index_t i = 0; i < product.size(); ++i) {
          total += static_cast<double>(p[i]) * static_cast<double>(p[i]);
        }
      }
      return total;
    }
    const float_map h(hessian_.data(), cols_, cols_);
    product.noalias() = e * h;
    const float* const p = product.data();
    for (index_t r = 0; r < e.rows(); ++r) {
      double row = 0;
      for (index_t j = 0; j < cols_; ++j) {
        row += static_cast<double>(p[r * cols_ + j]) * static_cast<double>(e.data()[r * cols_ + j]);
      }
      total += row < 0 ? 0 : row;  // NaN stays
    }
    return total * unit_;
  }

  static void require_shape(const char* what, index_t found, index_t required) {
    if (found == required) return;
    throw_error(errc::bad_shape, what,
                std::to_string(found) + " channels, the weights have " + std::to_string(required) +
                    " columns");
  }
  template <class T>
  static void check_finite_values(const char* what, const T* values, index_t n) {
    T poison = 0;
    for (index_t i = 0; i < n; ++i) poison += values[i] - values[i];
    if (poison == 0) return;
    index_t i = 0;
    while (values[i] - values[i] == 0) ++i;
    throw_error(errc::non_finite, what,
                "value " + std::to_string(i) + " is " + std::to_string(values[i]) +
                    "; finite values are required");
  }

  index_t cols_ = 0;
  matrix_view<const float> x_{};
  tensor<float, 2> hessian_;  // divided by unit_
  double unit_ = 1;
  double tokens_ = 1;
};

}  // namespace detail

/// tr(E H E^T) / tokens = |X E^T|^2 / tokens with E the error of `estimate`: the squared error of
/// the layer's outputs for an average token. Summed over a model's tensors, with a sensitivity
/// each, it is what plan.hpp minimises.
///
/// Shapes    w [n, k]; estimate [n, k]; inputs over k channels.
/// Numerics  products in float, sums in double; the same bits for any executor.
/// Cost      n k^2 multiply-adds with a Hessian, n k tokens with X; k^2 floats.
/// Throws    bad_shape; bad_argument without X and H; non_finite for NaN or Inf in them;
///           out_of_memory.
template <class Arch = arch::native, quantized_matrix M>
[[nodiscard]] double layer_loss(std::type_identity_t<weights_view> w, const M& estimate,
                                const layer_inputs& inputs, executor_ref ex = serial) {
  const index_t cols = w.extent(1);
  if (estimate.rows() != w.extent(0) || estimate.cols() != cols) {
    throw_error(errc::bad_shape, "layer loss",
                "the estimate is " + std::to_string(estimate.rows()) + " x " +
                    std::to_string(estimate.cols()) + ", the weights are " +
                    std::to_string(w.extent(0)) + " x " + std::to_string(cols));
  }
  const detail::layer_loss_sums<Arch> sums(inputs, cols, ex);
  const double total =
      sums.sum(w.extent(0), ex, [&](index_t first, index_t count, float* e) noexcept {
        for (index_t r = 0; r < count; ++r, e += cols) {
          estimate.template decode_row<Arch>(first + r, 0, cols, e);
          const auto row = w[first + r];
          for (index_t j = 0; j < cols; ++j) e[j] -= row[j];
        }
      });
  return total / sums.tokens();
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
