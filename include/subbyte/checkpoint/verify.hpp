// SPDX-License-Identifier: Apache-2.0
/// Whether a file that a reader accepts can be a model: metadata against each other and against the
/// tensors, and the values of every tensor.
#pragma once

#include <algorithm>  // std::find
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/checkpoint/directory.hpp"
#include "subbyte/checkpoint/value_check.hpp"
#include "subbyte/io/gguf_split.hpp"
#include "subbyte/io/safetensors.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

struct verify_options {
  /// Decode and look at every weight; otherwise only names, shapes and metadata.
  bool values = true;
  value_check_options limits = {};
};

/// How many of the findings are faults.
template <class Arch>
[[nodiscard]] index_t fault_count(const std::vector<basic_finding<Arch>>& findings) noexcept {
  index_t count = 0;
  for (const basic_finding<Arch>& f : findings) count += f.fault ? 1 : 0;
  return count;
}

namespace detail {

template <class Arch>
class finding_list {
 public:
  void fault(std::string_view subject, std::string message) {
    all.push_back({true, printable<Arch>(subject), -1, -1, std::move(message)});
  }
  void note(std::string_view subject, std::string message) {
    all.push_back({false, printable<Arch>(subject), -1, -1, std::move(message)});
  }

  std::vector<basic_finding<Arch>> all;
};

/// The numbers of attention, under the names that the file has for them.
struct attention_numbers {
  std::string_view width_key, heads_key, kv_heads_key;
  std::optional<index_t> width, heads, kv_heads;
  bool own_head_size = false;  // the size of a head is stated, not width / heads
};

template <class Arch>
void check_attention(const attention_numbers& n, finding_list<Arch>& found) {
  const auto text = [](index_t number) { return std::to_string(number); };
  if (n.heads && *n.heads <= 0) {
    found.fault(n.heads_key, text(*n.heads) + " heads, required is at least 1");
    return;
  }
  if (n.width && n.heads && !n.own_head_size && *n.width % *n.heads != 0) {
    found.fault(n.heads_key, text(*n.heads) + " heads do not divide " + std::string(n.width_key) +
                                 ", which is " + text(*n.width));
  }
  if (n.kv_heads && *n.kv_heads <= 0) {
    found.fault(n.kv_heads_key, text(*n.kv_heads) + " heads, required is at least 1");
  } else if (n.heads && n.kv_heads && *n.heads % *n.kv_heads != 0) {
    found.fault(n.kv_heads_key, text(*n.kv_heads) + " heads do not divide the " + text(*n.heads) +
                                    " of " + std::string(n.heads_key));
  }
}

/// The layers that tensors PREFIX<number>.* belong to, against the number of layers.
template <class Arch>
class layer_census {
 public:
  explicit layer_census(std::string_view prefix) : prefix_(prefix) {}

  void add(std::string_view tensor) {
    if (tensor.substr(0, prefix_.size()) != prefix_) return;
    tensor.remove_prefix(prefix_.size());
    index_t number = 0;
    std::size_t digits = 0;
    while (digits < tensor.size() && digits < 9 && tensor[digits] >= '0' && tensor[digits] <= '9') {
      number = number * 10 + (tensor[digits] - '0');
      ++digits;
    }
    if (digits == 0 || digits == tensor.size() || tensor[digits] != '.') return;
    seen_.emplace(number, prefix_ + std::string(tensor));
  }

  /// Whether there is no such tensor: an architecture with other names, or none at all.
  [[nodiscard]] bool empty() const noexcept { return seen_.empty(); }

  /// Returns  whether every layer has a tensor, so that a loop over the layers is no longer than
  ///          one over the tensors.
  [[nodiscard]] bool complete(index_t layers, std::string_view key,
                              finding_list<Arch>& found) const {
    for (const auto& [number, tensor] : seen_) {
      if (number < layers) continue;
      found.fault(tensor, "a tensor of layer " + std::to_string(number) + ", and " +
                              std::string(key) + " is " + std::to_string(layers));
      break;
    }
    index_t first_missing = 0;
    for (const auto& [number, tensor] : seen_) {
      if (number != first_missing) break;
      ++first_missing;
    }
    if (first_missing >= layers) return true;
    found.fault(key, std::to_string(layers) + " layers, and layer " +
                         std::to_string(first_missing) + " has no tensor");
    return false;
  }

 private:
  std::string prefix_;
  std::map<index_t, std::string> seen_;  // a layer, and one of its tensors
};

template <class Arch>
class gguf_verifier {
 public:
  gguf_verifier(const gguf::basic_split_file<Arch>& file, finding_list<Arch>& found)
      : file_(file), found_(found) {}

  void metadata() {
    for (const gguf::metadata_entry& entry : file_.metadata()) finite(entry);
    tokenizer();
    const gguf::metadata_entry* const named = file_.find("general.architecture");
    if (named == nullptr || !named->template try_get<std::string_view>()) {
      found_.fault("general.architecture",
                   named == nullptr ? "the key is missing" : "the value is no string");
      return;
    }
    architecture_ = *named->template try_get<std::string_view>();
    const gguf::metadata_entry* const version = file_.find("general.quantization_version");
    if (version != nullptr && version->template try_get<index_t>() != index_t{2}) {
      found_.note("general.quantization_version", "not 2, the version of all known formats");
    }
    if (file_.tensors().empty()) return;  // a vocabulary alone
    sizes();
    layers();
  }

 private:
  [[nodiscard]] bool is_known() const noexcept {
    return architecture_ == "llama" || architecture_ == "qwen2" || architecture_ == "qwen3";
  }
  [[nodiscard]] std::string key(const char* leaf) const {
    return std::string(architecture_) + "." + leaf;
  }
  // A count; nothing if the key is missing, or if it is a list with a value for every layer.
  std::optional<index_t> count(const char* leaf) {
    const std::string name = key(leaf);
    const gguf::metadata_entry* const entry = file_.find(name);
    if (entry == nullptr || entry->type() == gguf::value_type::array) return std::nullopt;
    const std::optional<index_t> value = entry->template try_get<index_t>();
    if (!value) {
      found_.fault(name, "the value is no count");
    } else if (*value < 0 || *value > max_empty_extents) {
      found_.fault(name, std::to_string(*value) + " is out of all range");
      return std::nullopt;
    }
    return value;
  }

  template <class T>
  void finite_number(const gguf::metadata_entry& entry) {
    const auto value = entry.template try_get<T>();
    if (value && !(*value - *value == 0)) found_.fault(entry.key(), "the number is Inf or NaN");
    const auto list = entry.template try_get<gguf::array_view<T>>();
    if (!list) return;
    index_t at = 0;
    for (const T element : *list) {
      if (!(element - element == 0)) {
        found_.fault(entry.key(), "element " + std::to_string(at) + " is Inf or NaN");
        return;
      }
      ++at;
    }
  }
  void finite(const gguf::metadata_entry& entry) {
    if (entry.element_type() == gguf::value_type::f32) finite_number<float>(entry);
    if (entry.element_type() == gguf::value_type::f64) finite_number<double>(entry);
  }

  void tokenizer() {
    const gguf::metadata_entry* const tokens = file_.find("tokenizer.ggml.tokens");
    if (tokens == nullptr) return;
    if (tokens->type() != gguf::value_type::array) {
      found_.fault(tokens->key(), "the value is no list");
      return;
    }
    for (const char* const beside : {"tokenizer.ggml.scores", "tokenizer.ggml.token_type"}) {
      const gguf::metadata_entry* const list = file_.find(beside);
      if (list != nullptr && list->size() != tokens->size()) {
        found_.fault(beside, std::to_string(list->size()) + " values for " +
                                 std::to_string(tokens->size()) + " tokens");
      }
    }
    constexpr std::string_view prefix = "tokenizer.ggml.", suffix = "_token_id";
    for (const gguf::metadata_entry& entry : file_.metadata()) {
      const std::string_view name = entry.key();
      if (name.size() < prefix.size() + suffix.size() || name.substr(0, prefix.size()) != prefix ||
          name.substr(name.size() - suffix.size()) != suffix) {
        continue;
      }
      const std::optional<index_t> id = entry.template try_get<index_t>();
      if (!id || *id < -1 || *id >= tokens->size()) {
        found_.fault(name, (id ? std::to_string(*id) : std::string("the value")) +
                               " is none of the " + std::to_string(tokens->size()) + " tokens");
      }
    }
    const auto* const embedding = file_.find_tensor("token_embd.weight");
    if (embedding != nullptr && embedding->rows() != tokens->size()) {
      found_.fault("token_embd.weight", std::to_string(embedding->rows()) + " rows for " +
                                            std::to_string(tokens->size()) + " tokens");
    }
  }

  void sizes() {
    width_ = count("embedding_length");
    layers_ = count("block_count");
    feed_forward_ = count("feed_forward_length");
    heads_ = count("attention.head_count");
    kv_heads_ = count("attention.head_count_kv");
    if (!kv_heads_ && file_.find(key("attention.head_count_kv")) == nullptr) kv_heads_ = heads_;
    const std::optional<index_t> head_size = count("attention.key_length");
    const std::string width_key = key("embedding_length"), heads_key = key("attention.head_count"),
                      kv_heads_key = key("attention.head_count_kv");
    check_attention<Arch>(
        {width_key, heads_key, kv_heads_key, width_, heads_, kv_heads_, head_size.has_value()},
        found_);
    for (const char* const leaf : {"attention.head_count", "attention.head_count_kv"}) {
      const gguf::metadata_entry* const list = file_.find(key(leaf));
      if (list == nullptr || list->type() != gguf::value_type::array || !layers_) continue;
      if (list->size() != *layers_) {
        found_.fault(list->key(), std::to_string(list->size()) + " values for " +
                                      std::to_string(*layers_) + " layers");
      }
    }
    key_size_ = head_size;
    if (!key_size_ && width_ && heads_ && *heads_ > 0) key_size_ = *width_ / *heads_;
    value_size_ = count("attention.value_length");
    if (!value_size_) value_size_ = key_size_;
    const std::optional<index_t> rotated = count("rope.dimension_count");
    if (rotated && key_size_ && (*rotated > *key_size_ || *rotated % 2 != 0)) {
      found_.fault(key("rope.dimension_count"),
                   std::to_string(*rotated) + " rotated dimensions of heads of " +
                       std::to_string(*key_size_) + ", required is an even number of them");
    }
    for (const char* const leaf :
         {"attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"}) {
      const gguf::metadata_entry* const entry = file_.find(key(leaf));
      if (entry == nullptr) continue;
      const std::optional<double> epsilon = entry->template try_get<double>();
      if (!epsilon || !(*epsilon >= 0 && *epsilon < 1)) {
        found_.fault(entry->key(), "not a number from 0 to 1");
      }
    }
    experts_ = count("expert_count").value_or(0);
    const std::optional<index_t> used = count("expert_used_count");
    if (used && *used > experts_) {
      found_.fault(key("expert_used_count"),
                   std::to_string(*used) + " experts are used of " + std::to_string(experts_));
    }
    if (!is_known()) return;
    for (const char* const leaf : {"context_length", "embedding_length", "block_count",
                                   "feed_forward_length", "attention.head_count"}) {
      const std::string name = key(leaf);
      const gguf::metadata_entry* const entry = file_.find(name);
      if (entry == nullptr) {
        found_.fault(name, "the key is missing");
      } else if (entry->type() != gguf::value_type::array && count_or_zero(*entry) <= 0) {
        found_.fault(name, "required is a count above 0");
      }
    }
  }
  [[nodiscard]] static index_t count_or_zero(const gguf::metadata_entry& entry) noexcept {
    return entry.template try_get<index_t>().value_or(0);
  }

  void layers() {
    layer_census<Arch> census("blk.");
    for (const gguf::basic_tensor<Arch>& t : file_.tensors()) census.add(t.name());
    if (!layers_ || (census.empty() && !is_known())) return;
    const bool complete = census.complete(*layers_, key("block_count"), found_);
    if (!is_known()) return;
    expect("token_embd.weight", width_, std::nullopt);
    expect("output_norm.weight", width_, index_t{1});
    if (!complete) return;
    for (index_t layer = 0; layer < *layers_; ++layer) tensors_of(layer);
  }

  [[nodiscard]] static std::optional<index_t> product(std::optional<index_t> a,
                                                      std::optional<index_t> b) noexcept {
    if (!a || !b) return std::nullopt;
    return *a * *b;  // both below 2^31
  }

  // What llama, qwen2 and qwen3 have in every layer.
  //
  // Source  llama.cpp, src/llama-model.cpp (load_tensors).
  void tensors_of(index_t layer) {
    const std::string prefix = "blk." + std::to_string(layer) + ".";
    const auto q_rows = product(heads_, key_size_);
    const auto k_rows = product(kv_heads_, key_size_);
    const auto v_rows = product(kv_heads_, value_size_);
    expect(prefix + "attn_norm.weight", width_, index_t{1});
    if (file_.find_tensor(prefix + "attn_qkv.weight") == nullptr) {
      expect(prefix + "attn_q.weight", width_, q_rows);
      expect(prefix + "attn_k.weight", width_, k_rows);
      expect(prefix + "attn_v.weight", width_, v_rows);
      if (architecture_ == "qwen2") {
        expect(prefix + "attn_q.bias", q_rows, index_t{1});
        expect(prefix + "attn_k.bias", k_rows, index_t{1});
        expect(prefix + "attn_v.bias", v_rows, index_t{1});
      }
    }
    if (architecture_ == "qwen3") {
      expect(prefix + "attn_q_norm.weight", key_size_, index_t{1});
      expect(prefix + "attn_k_norm.weight", key_size_, index_t{1});
    }
    expect(prefix + "attn_output.weight", product(heads_, value_size_), width_);
    expect(prefix + "ffn_norm.weight", width_, index_t{1});
    if (experts_ == 0) {
      expect(prefix + "ffn_gate.weight", width_, feed_forward_);
      expect(prefix + "ffn_up.weight", width_, feed_forward_);
      expect(prefix + "ffn_down.weight", feed_forward_, width_);
    } else {
      expect(prefix + "ffn_gate_inp.weight", width_, experts_);
      if (file_.find_tensor(prefix + "ffn_up.0.weight") != nullptr) return;  // one tensor each
      for (const char* const leaf : {"ffn_gate_exps.weight", "ffn_up_exps.weight"}) {
        expect(prefix + leaf, width_, product(feed_forward_, experts_));
      }
      expect(prefix + "ffn_down_exps.weight", feed_forward_, product(width_, experts_));
    }
  }

  // A tensor that must be there, with so many columns and rows, where known.
  void expect(const std::string& name, std::optional<index_t> cols, std::optional<index_t> rows) {
    const gguf::basic_tensor<Arch>* const t = file_.find_tensor(name);
    if (t == nullptr) {
      found_.fault(name, "the tensor is missing");
    } else if ((cols && t->cols() != *cols) || (rows && t->rows() != *rows)) {
      const auto text = [](std::optional<index_t> n) { return n ? std::to_string(*n) : "any"; };
      found_.fault(name, std::to_string(t->cols()) + " x " + std::to_string(t->rows()) +
                             ", required by the metadata is " + text(cols) + " x " + text(rows));
    }
  }

  const gguf::basic_split_file<Arch>& file_;
  finding_list<Arch>& found_;
  std::string_view architecture_;
  std::optional<index_t> width_, layers_, feed_forward_, heads_, kv_heads_, key_size_, value_size_;
  index_t experts_ = 0;
};

template <class Arch>
void check_stored_values(const safetensors::basic_file<Arch>& file, const verify_options& options,
                         finding_list<Arch>& found) {
  for (const safetensors::basic_tensor<Arch>& t : file.tensors()) {
    if (!t.is_float()) continue;
    check_values<Arch>(
        t.rows(), t.cols(),
        [&](index_t first, index_t count, float* out) { t.read_rows(first, count, out); }, t.name(),
        found.all, options.limits);
  }
}

/// config.json of a checkpoint against itself and against the names of its tensors.
template <class Arch>
void check_config(const basic_directory<Arch>& directory, finding_list<Arch>& found) {
  const basic_json_value<Arch>& config = directory.model_config();
  if (!config.is_object()) return;
  const auto count = [&](const char* key) -> std::optional<index_t> {
    const basic_json_value<Arch>* const value = config.find(key);
    if (value == nullptr || value->is_null()) return std::nullopt;
    const std::optional<index_t> number = value->integer();
    if (!number || *number < 0 || *number > max_empty_extents) {
      found.fault(key, "the value in config.json is no count");
      return std::nullopt;
    }
    return number;
  };
  const std::optional<index_t> width = count("hidden_size"), heads = count("num_attention_heads");
  check_attention<Arch>({"hidden_size", "num_attention_heads", "num_key_value_heads", width, heads,
                         count("num_key_value_heads"), count("head_dim").has_value()},
                        found);
  const std::optional<index_t> layers = count("num_hidden_layers");
  layer_census<Arch> census("model.layers.");
  for (const auto& t : directory.file().tensors()) census.add(t.name());
  if (layers && !census.empty())
    static_cast<void>(census.complete(*layers, "num_hidden_layers", found));
  const auto* const embedding = directory.file().find_tensor("model.embed_tokens.weight");
  if (embedding == nullptr) return;
  const std::optional<index_t> vocabulary = count("vocab_size");
  if ((vocabulary && embedding->rows() != *vocabulary) || (width && embedding->cols() != *width)) {
    found.fault(embedding->name(), std::to_string(embedding->rows()) + " rows of " +
                                       std::to_string(embedding->cols()) +
                                       ", and config.json has another vocab_size or hidden_size");
  }
}

}  // namespace detail

/// What is wrong with a GGUF model.
///
/// Metadata of any architecture: numbers that are Inf or NaN, head counts that do not divide, lists
/// of the tokenizer of unequal lengths, ids of no token, rows of the embedding that are not the
/// tokens, layers without tensors and tensors of no layer; of llama, qwen2 and qwen3 also keys and
/// tensors that are missing, and shapes that contradict the keys. Values: as check_values; types
/// without a format of this library are noted and passed over.
///
/// Cost     decodes every tensor once; memory for the findings.
/// Throws   out_of_memory; what the executor throws.
template <class Arch = arch::native>
[[nodiscard]] std::vector<basic_finding<Arch>> verify(const gguf::basic_split_file<Arch>& file,
                                                      const verify_options& options = {},
                                                      executor_ref ex = serial) {
  detail::finding_list<Arch> found;
  detail::gguf_verifier<Arch>(file, found).metadata();
  if (!options.values) return std::move(found.all);
  for (const gguf::basic_tensor<Arch>& t : file.tensors()) {
    bool decoded = false;
    try {
      t.visit([&](auto w) {
        decoded = true;
        check_values(w, t.name(), found.all, options.limits, ex);
      });
    } catch (const error& problem) {
      if (decoded) throw;
      if (problem.code() == errc::unsupported_format) {
        const gguf::tensor_type known = gguf::find_tensor_type(t.type());
        const std::string type =
            known.name != nullptr ? known.name : "number " + std::to_string(t.type());
        found.note(t.name(), "the values are not checked: no format for type " + type);
      } else {
        found.fault(t.name(), problem.what());
      }
    }
  }
  return std::move(found.all);
}

/// What is wrong with the values of safetensors files: every tensor of floats of at least 8 bits.
///
/// Cost     reads every such tensor once; memory for the findings and the longest row.
/// Throws   out_of_memory.
template <class Arch = arch::native>
[[nodiscard]] std::vector<basic_finding<Arch>> verify(const safetensors::basic_file<Arch>& file,
                                                      const verify_options& options = {}) {
  detail::finding_list<Arch> found;
  if (options.values) detail::check_stored_values(file, options, found);
  return std::move(found.all);
}

/// What is wrong with a checkpoint directory: config.json against itself and against the tensors,
/// the values of every tensor of floats, and every quantized module that cannot be read or whose
/// scales are Inf or NaN.
///
/// Cost     reads every tensor once; memory for the findings and one module.
/// Throws   out_of_memory.
template <class Arch = arch::native>
[[nodiscard]] std::vector<basic_finding<Arch>> verify(const basic_directory<Arch>& directory,
                                                      const verify_options& options = {}) {
  detail::finding_list<Arch> found;
  detail::check_config(directory, found);
  if (!options.values) return std::move(found.all);
  detail::check_stored_values(directory.file(), options, found);
  for (const basic_quantized_module<Arch>& module : directory.modules()) {
    try {
      const basic_group_codes<Arch> w = directory.load_codes(module.name);
      const auto read = [&](index_t row, index_t, float* out) {
        for (index_t g = 0; g < w.scales.extent(1); ++g) out[g] = w.scales(row, g);
      };
      check_values<Arch>(w.scales.extent(0), w.scales.extent(1), read, module.name, found.all,
                         options.limits, "scale");
    } catch (const error& problem) {
      if (problem.code() == errc::out_of_memory) throw;
      found.fault(module.name, problem.what());
    }
  }
  return std::move(found.all);
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
