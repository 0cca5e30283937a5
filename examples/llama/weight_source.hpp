// SPDX-License-Identifier: Apache-2.0
/// Where a model's weights come from: a GGUF file, or a checkpoint folder of Hugging Face's, plain
/// or quantized. Both under GGUF's names and in GGUF's row order.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "llama/linear.hpp"
#include "llama/tokenizer.hpp"

namespace llama {

/// The sizes of a Llama model.
struct shape {
  index_t vocabulary, width, layers, heads, kv_heads, head_size, feed_forward, context;
  index_t rotated;  // dimensions of a head that are rotated by position
  float rope_base, norm_epsilon;
};

/// One tensor as it is stored.
struct stored_weight {
  std::string name;    // as GGUF calls it
  std::string format;  // "q4_k", "gptq 4 bit"
  index_t rows, cols, bytes;
  std::function<void(index_t row, float* out)> read_row;

  [[nodiscard]] index_t size() const noexcept { return rows * cols; }
};

class weight_source {
 public:
  weight_source() = default;
  weight_source(const weight_source&) = delete;
  weight_source& operator=(const weight_source&) = delete;
  virtual ~weight_source() = default;

  [[nodiscard]] virtual std::string name() const = 0;
  /// Of all files with weights.
  [[nodiscard]] virtual index_t size_bytes() const = 0;
  /// Throws  subbyte::error when this is no Llama model that the runner knows.
  [[nodiscard]] virtual llama::shape read_shape() const = 0;
  /// Throws  subbyte::error unless there is a SentencePiece vocabulary.
  [[nodiscard]] virtual vocabulary read_vocabulary() const = 0;
  [[nodiscard]] virtual std::span<const stored_weight> tensors() const noexcept = 0;
  /// The matrix of a tensor, ready for products. Throws  subbyte::error.
  [[nodiscard]] virtual std::shared_ptr<const linear> make_linear(
      const stored_weight& stored) const = 0;

  [[nodiscard]] const stored_weight* find(std::string_view name) const noexcept {
    for (const stored_weight& t : tensors()) {
      if (t.name == name) return &t;
    }
    return nullptr;
  }
  /// Throws  subbyte::error when there is no such tensor.
  [[nodiscard]] const stored_weight& get(std::string_view name) const;
};

/// By what is at `path`: a GGUF file (all shards of a split one), a folder, or a safetensors file
/// in a folder. Throws  subbyte::error.
[[nodiscard]] std::unique_ptr<weight_source> open_weights(const std::string& path);

}  // namespace llama
