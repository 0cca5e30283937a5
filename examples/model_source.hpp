// SPDX-License-Identifier: Apache-2.0
/// A model to be quantized, whatever file it comes from: keys and tensors under their GGUF names.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "subbyte/checkpoint/recipe.hpp"
#include "subbyte/io/gguf_split_writer.hpp"
#include "subbyte/matrix/group_codes.hpp"

namespace example {

using subbyte::index_t;

/// One tensor of the model.
struct source_tensor {
  std::string name;                        // as GGUF calls it
  std::vector<index_t> dims;               // dims[0] is the contiguous one
  std::string type_name;                   // how it is stored
  std::optional<std::uint32_t> gguf_type;  // if a GGUF file can take the stored bytes as they are
  std::span<const std::uint8_t> bytes;     // those
  bool lossy = false;                      // quantized already

  /// Rows [first, first + count) as floats.
  std::function<void(index_t first, index_t count, float* out)> read;
  /// The codes of a checkpoint's quantized module, rows in the order of read; empty for all else.
  std::function<subbyte::group_codes()> codes;

  [[nodiscard]] index_t cols() const { return dims.empty() ? 1 : dims[0]; }
  [[nodiscard]] index_t rows() const {
    index_t rows = 1;
    for (std::size_t d = 1; d < dims.size(); ++d) rows *= dims[d];
    return rows;
  }
  [[nodiscard]] index_t size() const { return rows() * cols(); }
};

/// The model; move-only, because tensors point into the files that it keeps open.
struct model_source {
  std::vector<source_tensor> tensors;  // in the order to be written
  std::vector<std::string> files;      // read from
  std::vector<std::string> notes;      // for the user
  index_t stored_bytes = 0;            // of all tensors
  index_t heads = 1, kv_heads = 1;     // of attention, where known
  subbyte::checkpoint::model_facts facts;

  /// Adds the model's keys to a file in the making, with this general.file_type.
  std::function<void(subbyte::gguf::split_writer& out, std::uint32_t file_type)> write_metadata;
};

/// A GGUF file, or all shards of a split one by any of them. Throws subbyte::error.
model_source open_gguf_model(const std::string& path);

/// A Llama, Mistral, Qwen2 or Qwen3 checkpoint of Hugging Face's: a folder with config.json,
/// safetensors and, if there is one, a tokenizer, quantized by GPTQ, AWQ or compressed-tensors or
/// not; or one of its safetensors files that are not. Throws subbyte::error, for anything else by
/// name.
model_source open_hugging_face_model(const std::string& path);

/// Either, by what is at `path`.
model_source open_model(const std::string& path);

}  // namespace example
