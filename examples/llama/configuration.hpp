// SPDX-License-Identifier: Apache-2.0
/// config.json of a Hugging Face checkpoint: the sizes of a Llama, with errors that name the file
/// and the key.
#pragma once

#include <nlohmann/json.hpp>
#include <string>
#include <string_view>

#include "subbyte/core/error.hpp"
#include "subbyte/io/diagnostics.hpp"
#include "subbyte/io/mapped_file.hpp"

namespace llama {

class configuration {
 public:
  explicit configuration(const std::string& path) : path_(path) {
    const subbyte::mapped_file file(path);
    const std::string_view text(reinterpret_cast<const char*>(file.bytes().data()),
                                file.bytes().size());
    root_ = nlohmann::json::parse(text, nullptr, false);
    if (!root_.is_object()) reject(subbyte::errc::bad_metadata, "not a JSON object");
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] bool has(const char* key) const {
    return root_.contains(key) && !root_.at(key).is_null();
  }
  [[nodiscard]] std::uint32_t count(const char* key) const {
    const bool fits = has(key) && root_.at(key).is_number_unsigned() &&
                      root_.at(key).get<std::uint64_t>() <= 0x7FFFFFFF;
    if (!fits) reject(subbyte::errc::bad_metadata, std::string(key) + " is no count");
    return root_.at(key).get<std::uint32_t>();
  }
  [[nodiscard]] std::uint32_t count_or(const char* key, std::uint32_t fallback) const {
    return has(key) ? count(key) : fallback;
  }
  [[nodiscard]] float number_or(const char* key, float fallback) const {
    if (!has(key)) return fallback;
    if (!root_.at(key).is_number()) {
      reject(subbyte::errc::bad_metadata, std::string(key) + " is no number");
    }
    return root_.at(key).get<float>();
  }
  [[nodiscard]] std::string text_or(const char* key, const std::string& fallback) const {
    if (!has(key)) return fallback;
    if (!root_.at(key).is_string()) {
      reject(subbyte::errc::bad_metadata, std::string(key) + " is no string");
    }
    return root_.at(key).get<std::string>();
  }

  [[noreturn]] void reject(subbyte::errc code, const std::string& why) const {
    subbyte::throw_error(code, path_, why);
  }

 private:
  std::string path_;
  nlohmann::json root_;
};

/// The sizes that a configuration gives. Throws  subbyte::error unless it describes a Llama that is
/// read here.
struct configured_sizes {
  std::uint32_t vocabulary, width, layers, heads, kv_heads, head_size, feed_forward, context;
  float rope_base, norm_epsilon;

  explicit configured_sizes(const configuration& c)
      : vocabulary(c.count("vocab_size")),
        width(c.count("hidden_size")),
        layers(c.count("num_hidden_layers")),
        heads(c.count("num_attention_heads")),
        kv_heads(c.count_or("num_key_value_heads", heads)),
        head_size(c.count_or("head_dim", heads > 0 ? width / heads : 0)),
        feed_forward(c.count("intermediate_size")),
        context(c.count("max_position_embeddings")),
        rope_base(c.number_or("rope_theta", 10000.0F)),
        norm_epsilon(c.number_or("rms_norm_eps", 1e-6F)) {
    const std::string type = c.text_or("model_type", "");
    if (type != "llama") {
      c.reject(subbyte::errc::unsupported_format,
               "model_type is \"" + subbyte::printable(type) + "\", and only \"llama\" is read");
    }
    if (c.has("rope_scaling")) {
      c.reject(subbyte::errc::unsupported_format, "rope_scaling is set, and is not read");
    }
    if (head_size == 0 || head_size % 2 != 0) {
      c.reject(subbyte::errc::bad_metadata,
               "the head size is " + std::to_string(head_size) + ", required is an even number");
    }
  }
};

}  // namespace llama
