// SPDX-License-Identifier: Apache-2.0
/// config.json of a Hugging Face checkpoint: what it says of a dense Llama, Mistral, Qwen2 or Qwen3
/// model, the tensors that such a model has, and the keys of its GGUF file.
#pragma once

#include <cmath>  // std::pow
#include <limits>
#include <optional>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/checkpoint/names.hpp"
#include "subbyte/io/bounds.hpp"
#include "subbyte/io/json_value.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// Architectures as GGUF tells them apart: Mistral is a Llama there.
enum class architecture { llama, qwen2, qwen3 };

/// The value of general.architecture, and the beginning of the model's keys.
[[nodiscard]] SUBBYTE_INLINE constexpr const char* name_of(architecture a) noexcept {
  return a == architecture::llama ? "llama" : a == architecture::qwen2 ? "qwen2" : "qwen3";
}

/// How the angles of the rotary embedding are changed for contexts beyond those of the pretraining.
enum class rope_scaling {
  none,
  linear,  ///< positions are divided by a factor
  llama3   ///< slow frequencies are divided by a factor, quick ones stay, in between a blend
};

/// The rotary embedding of positions.
struct rope_settings {
  double base = 10000;
  rope_scaling scaling = rope_scaling::none;
  double factor = 1;
  double low_frequency_factor = 1, high_frequency_factor = 1;  ///< llama3
  double original_context = 0;                                 ///< llama3
};

/// One tensor that a model has.
template <class Arch>
struct basic_model_tensor {
  std::string hugging_face, gguf;  ///< its names
  std::vector<index_t> shape;      ///< outermost extent first, as safetensors has it
  bool required = true;
  /// Whether the rows (elements, of a vector) of each head stand in another order in the GGUF file;
  /// names.hpp has the order.
  bool rotated = false;
};

using model_tensor = basic_model_tensor<arch::native>;

/// What a config.json says of a model.
template <class Arch>
struct basic_model_config {
  checkpoint::architecture architecture = checkpoint::architecture::llama;
  index_t vocabulary = 0, width = 0, layers = 0, heads = 0, kv_heads = 0, head_size = 0;
  index_t feed_forward = 0, context = 0;
  double norm_epsilon = 0;
  rope_settings rope;
  bool tied = false;             ///< the output layer is the embedding
  bool qkv_biases = false;       ///< query, key and value projections add a vector
  bool output_biases = false;    ///< the projection behind attention does
  bool query_key_norms = false;  ///< queries and keys are normalized head by head
  /// Attention sees so many positions back, and fewer than the context has; 0: all.
  index_t sliding_window = 0;

  /// The tensors outside the layers: embedding, last norm, output layer.
  [[nodiscard]] std::vector<basic_model_tensor<Arch>> outer_tensors() const {
    std::vector<basic_model_tensor<Arch>> list;
    add(list, "token_embd.weight", {vocabulary, width});
    add(list, "output_norm.weight", {width});
    add(list, "output.weight", {vocabulary, width});
    list.back().required = !tied;
    return list;
  }

  /// The tensors of one layer. Requires  0 <= layer < layers.
  [[nodiscard]] std::vector<basic_model_tensor<Arch>> layer_tensors(index_t layer) const {
    SUBBYTE_EXPECTS(layer >= 0 && layer < layers);
    std::vector<basic_model_tensor<Arch>> list;
    const auto put = [&](const char* leaf, std::vector<index_t> shape) {
      add(list, std::string(detail::gguf_layers) + std::to_string(layer) + "." + leaf,
          std::move(shape));
    };
    const index_t queries = heads * head_size, keys = kv_heads * head_size;
    put("attn_norm.weight", {width});
    put("ffn_norm.weight", {width});
    put("attn_q.weight", {queries, width});
    put("attn_k.weight", {keys, width});
    put("attn_v.weight", {keys, width});
    if (qkv_biases) {
      put("attn_q.bias", {queries});
      put("attn_k.bias", {keys});
      put("attn_v.bias", {keys});
    }
    if (query_key_norms) {
      put("attn_q_norm.weight", {head_size});
      put("attn_k_norm.weight", {head_size});
    }
    put("attn_output.weight", {width, queries});
    if (output_biases) put("attn_output.bias", {width});
    put("ffn_gate.weight", {feed_forward, width});
    put("ffn_up.weight", {feed_forward, width});
    put("ffn_down.weight", {width, feed_forward});
    return list;
  }

  /// The values of rope_freqs.weight, one per pair of a head's elements: what the pair's angle is
  /// divided by. Empty unless the scaling is llama3.
  ///
  /// Source  transformers, modeling_rope_utils.py (llama3).
  [[nodiscard]] std::vector<float> rope_divisors() const {
    std::vector<float> divisors;
    if (rope.scaling != rope_scaling::llama3) return divisors;
    constexpr double turn = 6.283185307179586;
    const double low = rope.low_frequency_factor, high = rope.high_frequency_factor;
    for (index_t i = 0; i < head_size; i += 2) {
      const double exponent = static_cast<double>(i) / static_cast<double>(head_size);
      const double wave = turn * std::pow(rope.base, exponent);  // positions of one turn
      const double waves = rope.original_context / wave;         // in the old context
      double divisor = rope.factor;
      if (waves > high) {
        divisor = 1;
      } else if (waves >= low) {
        const double share = (waves - low) / (high - low);
        divisor = 1 / ((1 - share) / rope.factor + share);
      }
      divisors.push_back(static_cast<float>(divisor));
    }
    return divisors;
  }

  /// Adds the keys of the model, but none of the tokenizer, to a GGUF file in the making (a
  /// gguf::writer or gguf::split_writer).
  ///
  /// Source  GGUF specification, "Standardized key-value pairs"; llama.cpp, conversion/base.py and
  ///         llama.py (which keys an architecture has).
  template <class Writer>
  void write_metadata(Writer& out, std::string_view name, std::uint32_t file_type) const {
    const std::string prefix = std::string(name_of(architecture)) + ".";
    const auto count = [&](const char* key, index_t value) {
      out.metadata(prefix + key, static_cast<std::uint32_t>(value));
    };
    const auto real = [&](const char* key, double value) {
      out.metadata(prefix + key, static_cast<float>(value));
    };
    out.metadata("general.architecture", name_of(architecture));
    out.metadata("general.type", "model");
    out.metadata("general.name", name);
    count("block_count", layers);
    count("context_length", context);
    count("embedding_length", width);
    count("feed_forward_length", feed_forward);
    count("attention.head_count", heads);
    count("attention.head_count_kv", kv_heads);
    count("attention.key_length", head_size);
    count("attention.value_length", head_size);
    real("attention.layer_norm_rms_epsilon", norm_epsilon);
    real("rope.freq_base", rope.base);
    if (rope.scaling == rope_scaling::linear) {
      out.metadata(prefix + "rope.scaling.type", "linear");
      real("rope.scaling.factor", rope.factor);
    }
    if (architecture == checkpoint::architecture::llama) {
      count("rope.dimension_count", head_size);
      count("vocab_size", vocabulary);
    }
    out.metadata("general.file_type", file_type);
    out.metadata("general.quantization_version", std::uint32_t{2});
  }

 private:
  void add(std::vector<basic_model_tensor<Arch>>& list, std::string&& name,
           std::vector<index_t>&& shape) const {
    basic_model_tensor<Arch> t;
    t.hugging_face = hugging_face_name(name).value();
    t.rotated = architecture == checkpoint::architecture::llama && rows_are_rotated(name);
    t.gguf = std::move(name);
    t.shape = std::move(shape);
    list.push_back(std::move(t));
  }
};

using model_config = basic_model_config<arch::native>;

namespace detail {

/// A configuration's values, with errors that name the file and the key.
template <class Arch>
class config_reader {
 public:
  using value = basic_json_value<Arch>;

  config_reader(const value& object, const std::string& subject)
      : object_(object), subject_(subject) {}

  [[noreturn]] void refuse(const std::string& why) const {
    throw_error(errc::unsupported_format, subject_, why);
  }
  [[noreturn]] void reject(const std::string& why) const {
    throw_error(errc::bad_metadata, subject_, why);
  }

  /// A member that is there and not null.
  [[nodiscard]] const value* find(const char* key) const {
    const value* const found = object_.find(key);
    return found == nullptr || found->is_null() ? nullptr : found;
  }
  [[nodiscard]] index_t count(const char* key) const {
    const value* const found = find(key);
    if (found == nullptr) reject(std::string(key) + " is missing");
    const std::optional<index_t> number = found->integer();
    if (!number || *number < 1 || *number > std::numeric_limits<std::int32_t>::max()) {
      reject(std::string(key) + " is no number from 1 to 2147483647");
    }
    return *number;
  }
  [[nodiscard]] index_t count_or(const char* key, index_t otherwise) const {
    return find(key) != nullptr ? count(key) : otherwise;
  }
  /// A number above zero.
  [[nodiscard]] double positive(const char* key) const {
    const value* const found = find(key);
    if (found == nullptr) reject(std::string(key) + " is missing");
    const std::optional<double> number = found->number();
    if (!number || !(*number > 0) ||
        !(*number <= static_cast<double>(std::numeric_limits<float>::max()))) {
      reject(std::string(key) + " is no positive number");
    }
    return *number;
  }
  [[nodiscard]] double positive_or(const char* key, double otherwise) const {
    return find(key) != nullptr ? positive(key) : otherwise;
  }
  [[nodiscard]] bool flag(const char* key) const {
    const value* const found = find(key);
    if (found == nullptr) return false;
    if (found->kind() != json_kind::boolean)
      reject(std::string(key) + " is neither true nor false");
    return found->boolean();
  }
  [[nodiscard]] std::string text_or(const char* key, const char* otherwise) const {
    const value* const found = find(key);
    if (found == nullptr) return otherwise;
    if (!found->is_string()) reject(std::string(key) + " is no string");
    return found->text();
  }

 private:
  const value& object_;
  const std::string& subject_;
};

// "LlamaForCausalLM" of architectures, or else model_type.
template <class Arch>
[[nodiscard]] std::string declared_architecture(const config_reader<Arch>& config) {
  const auto* const list = config.find("architectures");
  if (list == nullptr) return config.text_or("model_type", "");
  const auto& names = list->items();
  if (names.size() != 1 || !names[0].is_string()) {
    config.reject("architectures is no list of one name");
  }
  return names[0].text();
}

template <class Arch>
[[nodiscard]] rope_settings read_rope(const config_reader<Arch>& config,
                                      const std::string& subject) {
  rope_settings rope;
  rope.base = config.positive_or("rope_theta", rope.base);
  const char* key = "rope_parameters";
  const auto* found = config.find(key);
  if (found == nullptr) found = config.find(key = "rope_scaling");
  if (found == nullptr) return rope;
  if (!found->is_object()) config.reject(std::string(key) + " is no object");
  for (const auto& m : found->members()) {
    constexpr std::string_view known[] = {"rope_type",
                                          "type",
                                          "rope_theta",
                                          "factor",
                                          "low_freq_factor",
                                          "high_freq_factor",
                                          "original_max_position_embeddings",
                                          "partial_rotary_factor"};
    bool read = false;
    for (const std::string_view k : known) read = read || m.key == k;
    if (!read) config.refuse(std::string(key) + "." + printable<Arch>(m.key) + " is not known");
  }
  const std::string inner_subject = subject + ": " + key;
  const config_reader<Arch> inner(*found, inner_subject);
  if (inner.positive_or("partial_rotary_factor", 1) != 1) {
    inner.refuse("partial_rotary_factor is not 1: only part of a head is rotated");
  }
  rope.base = inner.positive_or("rope_theta", rope.base);
  const std::string type = inner.text_or("rope_type", inner.text_or("type", "default").c_str());
  if (type == "default") return rope;
  if (type != "linear" && type != "llama3") {
    inner.refuse("rope_type is \"" + printable<Arch>(type) +
                 "\"; known are default, linear and llama3");
  }
  rope.factor = inner.positive("factor");
  if (type == "linear") {
    rope.scaling = rope_scaling::linear;
    return rope;
  }
  rope.scaling = rope_scaling::llama3;
  rope.low_frequency_factor = inner.positive("low_freq_factor");
  rope.high_frequency_factor = inner.positive("high_freq_factor");
  rope.original_context = inner.positive("original_max_position_embeddings");
  if (rope.high_frequency_factor <= rope.low_frequency_factor) {
    inner.reject("high_freq_factor is not above low_freq_factor");
  }
  return rope;
}

}  // namespace detail

/// Reads a config.json; `subject` names it in errors.
///
/// Throws  unsupported_format, by name, for every architecture, rotary embedding and option that
///         this header does not know; bad_metadata for values that are missing or impossible.
/// Source  transformers, configuration_llama.py, configuration_mistral.py, configuration_qwen2.py,
///         configuration_qwen3.py (keys and what they are when they are missing).
template <class Arch = arch::native>
[[nodiscard]] basic_model_config<Arch> read_model_config(const basic_json_value<Arch>& json,
                                                         const std::string& subject) {
  const detail::config_reader<Arch> config(json, subject);
  if (!json.is_object()) config.reject("not a JSON object");

  basic_model_config<Arch> model;
  const std::string declared = detail::declared_architecture<Arch>(config);
  const bool mistral = declared == "MistralForCausalLM" || declared == "mistral";
  if (declared == "Qwen2ForCausalLM" || declared == "qwen2") {
    model.architecture = architecture::qwen2;
  } else if (declared == "Qwen3ForCausalLM" || declared == "qwen3") {
    model.architecture = architecture::qwen3;
  } else if (declared != "LlamaForCausalLM" && declared != "llama" && !mistral) {
    config.refuse("the architecture is \"" + printable<Arch>(declared) +
                  "\"; known are LlamaForCausalLM, MistralForCausalLM, Qwen2ForCausalLM and "
                  "Qwen3ForCausalLM");
  }
  const bool llama = model.architecture == architecture::llama;

  model.vocabulary = config.count("vocab_size");
  model.width = config.count("hidden_size");
  model.layers = config.count("num_hidden_layers");
  model.heads = config.count("num_attention_heads");
  model.kv_heads = config.count_or("num_key_value_heads", model.heads);
  if (config.find("head_dim") == nullptr && model.width % model.heads != 0) {
    config.reject("hidden_size " + std::to_string(model.width) +
                  " is no multiple of num_attention_heads " + std::to_string(model.heads));
  }
  // Qwen3's class has a head size of its own where the file has none.
  const index_t derived =
      model.architecture == architecture::qwen3 ? 128 : model.width / model.heads;
  model.head_size = config.count_or("head_dim", derived);
  model.feed_forward = config.count("intermediate_size");
  model.context = config.count("max_position_embeddings");
  model.norm_epsilon = config.positive_or("rms_norm_eps", 1e-6);
  model.rope = detail::read_rope<Arch>(config, subject);
  model.tied = config.flag("tie_word_embeddings");
  if (model.head_size % 2 != 0) {
    config.reject("the head size is " + std::to_string(model.head_size) +
                  ", required is an even number");
  }
  if (model.heads % model.kv_heads != 0) {
    config.reject("num_attention_heads " + std::to_string(model.heads) +
                  " is no multiple of num_key_value_heads " + std::to_string(model.kv_heads));
  }

  const std::string activation = config.text_or("hidden_act", "silu");
  if (activation != "silu") {
    config.refuse("hidden_act is \"" + printable<Arch>(activation) + "\"; known is silu");
  }
  if (config.flag("mlp_bias")) config.refuse("mlp_bias is true, which is not known");
  if (config.positive_or("partial_rotary_factor", 1) != 1) {
    config.refuse("partial_rotary_factor is not 1: only part of a head is rotated");
  }
  model.query_key_norms = model.architecture == architecture::qwen3;
  model.qkv_biases = model.architecture == architecture::qwen2;
  if (config.flag("attention_bias")) {
    if (!llama || mistral) config.refuse("attention_bias is true, which is known of Llama only");
    model.qkv_biases = model.output_biases = true;
  }
  const bool slides = llama ? mistral : config.flag("use_sliding_window");
  if (slides && config.find("sliding_window") != nullptr) {
    const index_t window = config.count("sliding_window");
    if (window < model.context) model.sliding_window = window;
  }
  return model;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
