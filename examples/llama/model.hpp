// SPDX-License-Identifier: Apache-2.0
/// A compact Llama: weights in whatever format they are stored, and a session
/// that runs tokens through them with the library's own products.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/linear.hpp"
#include "llama/weight_source.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/tensor/tensor.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace llama {

/// A place in the model where activations enter one or several linears.
struct model_input {
  std::string name;
  std::vector<std::string> weights;  // the tensors that read it, by their GGUF names
  index_t cols;
};

/// The weights, from whatever open_weights reads, and never decoded as a whole; linears and norms
/// can be replaced one by one. Move-only.
class model {
 public:
  /// Throws  subbyte::error when there is no Llama model, when it lacks a tensor or holds one of
  ///         another shape.
  explicit model(const std::string& path);

  [[nodiscard]] const llama::shape& shape() const noexcept { return shape_; }
  [[nodiscard]] const weight_source& source() const noexcept { return *source_; }

  /// Every input, in the order in which activations reach it.
  [[nodiscard]] std::span<const model_input> inputs() const noexcept { return inputs_; }

  /// Makes products with the linear of that name use other weights; the file's are not touched. An
  /// embedding that also makes the logits is replaced in both places.
  ///
  /// Throws  subbyte::error when there is no such linear, or when it has another shape.
  void replace(std::string_view name, std::shared_ptr<const linear> weights);
  /// The values of a norm (attn_norm, ffn_norm of a block, output_norm), to be changed in place.
  ///
  /// Throws  subbyte::error when there is no such norm.
  [[nodiscard]] std::span<float> norm(std::string_view name);

 private:
  friend class session;

  using shared_linear = std::shared_ptr<const linear>;
  struct layer {
    shared_linear query, key, value, attention_output, gate, up, down;
    std::vector<float> attention_norm, feed_forward_norm;
  };

  [[nodiscard]] shared_linear* find_linear(std::string_view name) noexcept;

  // The named tensor's matrix, which must have this shape.
  [[nodiscard]] shared_linear load(const std::string& name, index_t rows, index_t cols) const;
  [[nodiscard]] std::vector<float> load_vector(const std::string& name, index_t size) const;

  std::unique_ptr<weight_source> source_;
  llama::shape shape_{};
  shared_linear embedding_, output_;
  std::vector<float> output_norm_;
  std::vector<model_input> inputs_;
  std::vector<float> rope_factors_;  // empty, or one divisor per rotated pair
  std::vector<layer> layers_;
};

/// Which rows of logits session::append computes.
enum class logits_of { every_token, last_token };

/// One text running through a model: key-value cache and scratch, allocated once.
class session {
 public:
  /// Room for `capacity` tokens in all and `batch` in one call. The model and the executor must
  /// outlive the session.
  session(const model& weights, index_t capacity, index_t batch, subbyte::executor_ref executor);

  /// Called with every batch of activations that enters an input: the input's number in
  /// model::inputs(), and x [tokens, cols], valid during the call. The last input sees only the
  /// tokens whose logits are computed.
  using input_observer = std::function<void(std::size_t, subbyte::matrix_view<const float>)>;
  void observe(input_observer observer) { observer_ = std::move(observer); }

  /// Forgets every token.
  void clear() noexcept { length_ = 0; }
  /// Tokens in the cache.
  [[nodiscard]] index_t length() const noexcept { return length_; }

  /// Runs tokens after those already there: several through gemm, a single one through gemv.
  ///
  /// Returns  logits [tokens or 1, vocabulary], valid until the next call.
  /// Throws   subbyte::error for a token outside the vocabulary or more tokens than there is room
  ///          for.
  subbyte::matrix_view<const float> append(std::span<const token> tokens,
                                           logits_of wanted = logits_of::every_token);

 private:
  using rows = subbyte::matrix_view<float>;

  // Shows the activations to the observer; `place` counts the inputs of a layer.
  void show(index_t layer, std::size_t place, subbyte::matrix_view<const float> x) const;
  void normalize(rows in, const std::vector<float>& scale, rows out) const;
  void rotate(rows vectors) const;
  void store_keys_and_values(index_t layer, rows keys, rows values);
  void attend(index_t layer, rows queries, rows out) const;
  void feed_forward(index_t layer, rows x, index_t count);

  const model& weights_;
  subbyte::executor_ref executor_;
  index_t capacity_;
  index_t batch_;
  index_t length_ = 0;
  input_observer observer_;

  std::vector<index_t> ids_;
  subbyte::tensor<float, 2> x_, normed_, queries_, keys_, values_, mixed_, delta_, gate_, up_,
      logits_;
  subbyte::tensor<float, 3> cosine_sine_;  // [capacity, rotated / 2, 2]
  subbyte::tensor<float, 4> key_cache_;    // [layer, kv head, head size, capacity]
  subbyte::tensor<float, 4> value_cache_;  // [layer, kv head, capacity, head size]
};

}  // namespace llama
