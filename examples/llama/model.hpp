// SPDX-License-Identifier: Apache-2.0
/// A compact Llama: the weights of a GGUF file in whatever format they are stored, and a session
/// that runs tokens through them with the library's own products.
#pragma once

#include <span>
#include <string>
#include <vector>

#include "llama/tokenizer.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/io/gguf_split.hpp"
#include "subbyte/tensor/tensor.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace llama {

using subbyte::index_t;

/// The sizes of a Llama model, from a file's llama.* keys.
struct shape {
  index_t vocabulary, width, layers, heads, kv_heads, head_size, feed_forward, context;
  index_t rotated;  // dimensions of a head that are rotated by position
  float rope_base, norm_epsilon;
};

/// The tokenizer.ggml.* keys of a file; throws subbyte::error unless they hold a SentencePiece
/// vocabulary.
vocabulary read_vocabulary(const subbyte::gguf::split_file& file);

/// The weights, mapped from a GGUF file (or all shards of a split one) and never decoded as a
/// whole; move-only.
class model {
 public:
  /// Throws  subbyte::error when the file is no Llama model, lacks a tensor or holds one of another
  ///         shape.
  explicit model(const std::string& path);

  [[nodiscard]] const llama::shape& shape() const noexcept { return shape_; }
  [[nodiscard]] const subbyte::gguf::split_file& file() const noexcept { return file_; }

 private:
  friend class session;

  struct layer {
    subbyte::gguf::tensor query, key, value, attention_output, gate, up, down;
    std::vector<float> attention_norm, feed_forward_norm;
  };

  subbyte::gguf::split_file file_;
  llama::shape shape_{};
  subbyte::gguf::tensor embedding_, output_;
  std::vector<float> output_norm_;
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

  void multiply(const subbyte::gguf::tensor& w, subbyte::matrix_view<const float> in,
                rows out) const;
  void normalize(rows in, const std::vector<float>& scale, rows out) const;
  void rotate(rows vectors) const;
  void store_keys_and_values(index_t layer, rows keys, rows values);
  void attend(index_t layer, rows queries, rows out) const;
  void feed_forward(const model::layer& layer, rows x, index_t count);

  const model& weights_;
  subbyte::executor_ref executor_;
  index_t capacity_;
  index_t batch_;
  index_t length_ = 0;

  std::vector<index_t> ids_;
  subbyte::tensor<float, 2> x_, normed_, queries_, keys_, values_, mixed_, delta_, gate_, up_,
      logits_;
  subbyte::tensor<float, 3> cosine_sine_;  // [capacity, rotated / 2, 2]
  subbyte::tensor<float, 4> key_cache_;    // [layer, kv head, head size, capacity]
  subbyte::tensor<float, 4> value_cache_;  // [layer, kv head, capacity, head size]
};

}  // namespace llama
