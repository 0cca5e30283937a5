// SPDX-License-Identifier: Apache-2.0
/// Weights where they lie in a GGUF file: mapped, and decoded only inside products.
#pragma once

#include <memory>
#include <string>

#include "llama/weight_source.hpp"
#include "subbyte/io/gguf_split.hpp"

namespace llama {

/// A GGUF file, or all shards of a split one. Throws  subbyte::error.
[[nodiscard]] std::unique_ptr<weight_source> open_gguf_weights(const std::string& path);

/// The tokenizer.ggml.* keys of a file; throws subbyte::error unless they hold a SentencePiece
/// vocabulary.
[[nodiscard]] vocabulary read_vocabulary(const subbyte::gguf::split_file& file);

}  // namespace llama
