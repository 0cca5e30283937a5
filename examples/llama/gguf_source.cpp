// SPDX-License-Identifier: Apache-2.0
#include "llama/gguf_source.hpp"

#include <cstdint>

#include "subbyte/core/error.hpp"

namespace llama {

namespace {

using subbyte::errc;
using subbyte::throw_error;
namespace gguf = subbyte::gguf;

class mapped_linear final : public linear {
 public:
  explicit mapped_linear(const gguf::tensor& stored) : stored_(stored) {}

  [[nodiscard]] index_t rows() const noexcept override { return stored_.rows(); }
  [[nodiscard]] index_t cols() const noexcept override { return stored_.cols(); }
  void multiply(subbyte::matrix_view<const float> in, subbyte::matrix_view<float> out,
                subbyte::executor_ref executor) const override {
    stored_.visit([&](auto w) { multiply_by(w, in, out, executor); });
  }
  void get_rows(subbyte::vector_view<const index_t> ids, subbyte::matrix_view<float> out,
                subbyte::executor_ref executor) const override {
    stored_.visit([&](auto w) { subbyte::get_rows(w, ids, out, executor); });
  }

 private:
  gguf::tensor stored_;
};

class gguf_source final : public weight_source {
 public:
  explicit gguf_source(const std::string& path) : file_(gguf::open_split(path)) {
    for (const gguf::tensor& t : file_.tensors()) {
      const char* const known = gguf::find_tensor_type(t.type()).name;
      tensors_.push_back({std::string(t.name()),
                          known != nullptr ? known : "type " + std::to_string(t.type()), t.rows(),
                          t.cols(), t.size_bytes(), [&t](index_t row, float* out) {
                            t.visit([&](auto w) { w.decode_row(row, 0, w.cols(), out); });
                          }});
    }
  }

  [[nodiscard]] std::string name() const override { return file_.name(); }
  [[nodiscard]] index_t size_bytes() const override { return file_.size_bytes(); }
  [[nodiscard]] std::span<const stored_weight> tensors() const noexcept override {
    return tensors_;
  }
  [[nodiscard]] std::shared_ptr<const linear> make_linear(
      const stored_weight& stored) const override {
    const gguf::tensor& t = file_.tensor(stored.name);
    t.visit([](auto) {});  // refuses a format that the library does not know, here and not later
    return std::make_shared<const mapped_linear>(t);
  }

  [[nodiscard]] llama::shape read_shape() const override {
    const auto architecture = file_.get<std::string_view>("general.architecture");
    if (architecture != "llama") {
      throw_error(errc::unsupported_format, name(),
                  "the architecture is \"" + subbyte::printable(architecture) +
                      "\", and only \"llama\" is run");
    }
    for (const char* key : {"llama.expert_count", "llama.rope.scaling.type"}) {
      if (file_.find(key) != nullptr) {
        throw_error(errc::unsupported_format, name(), std::string(key) + " is set, and is not run");
      }
    }
    for (const gguf::tensor& t : file_.tensors()) {
      const std::string_view end = ".bias";
      const bool bias =
          t.name().size() > end.size() && t.name().substr(t.name().size() - end.size()) == end;
      if (bias || t.name() == "rope_freqs.weight") {
        throw_error(errc::unsupported_format, name(),
                    "has a tensor " + subbyte::printable(t.name()) + ", which is not run");
      }
    }
    llama::shape s{};
    s.width = read_size("llama.embedding_length");
    s.layers = read_size("llama.block_count");
    s.heads = read_size("llama.attention.head_count");
    s.feed_forward = read_size("llama.feed_forward_length");
    s.context = read_size("llama.context_length");
    s.kv_heads = file_.get_or<index_t>("llama.attention.head_count_kv", s.heads);
    s.head_size = file_.get_or<index_t>("llama.attention.key_length", s.width / s.heads);
    s.rotated = file_.get_or<index_t>("llama.rope.dimension_count", s.head_size);
    s.rope_base = file_.get_or<float>("llama.rope.freq_base", 10000.0F);
    s.norm_epsilon = file_.get<float>("llama.attention.layer_norm_rms_epsilon");
    s.vocabulary = get("token_embd.weight").rows;
    return s;
  }

  [[nodiscard]] vocabulary read_vocabulary() const override {
    return llama::read_vocabulary(file_);
  }

 private:
  // A positive size that later products can be made of.
  [[nodiscard]] index_t read_size(const std::string& key) const {
    const auto value = file_.get<index_t>(key);
    constexpr index_t limit = 1 << 24;
    if (value < 1 || value > limit) {
      throw_error(
          errc::bad_metadata, name(),
          key + " is " + std::to_string(value) + ", required is 1 to " + std::to_string(limit));
    }
    return value;
  }

  gguf::split_file file_;
  std::vector<stored_weight> tensors_;
};

}  // namespace

vocabulary read_vocabulary(const gguf::split_file& file) {
  const auto kind = file.get<std::string_view>("tokenizer.ggml.model");
  if (kind != "llama") {
    throw_error(errc::unsupported_format, file.name(),
                "the tokenizer is \"" + subbyte::printable(kind) +
                    "\", and only \"llama\" (SentencePiece) is read");
  }
  vocabulary words;
  for (const auto piece : file.get<gguf::array_view<std::string_view>>("tokenizer.ggml.tokens")) {
    words.pieces.emplace_back(piece);
  }
  for (const float score : file.get<gguf::array_view<float>>("tokenizer.ggml.scores")) {
    words.scores.push_back(score);
  }
  for (const auto type : file.get<gguf::array_view<std::int32_t>>("tokenizer.ggml.token_type")) {
    words.kinds.push_back(static_cast<piece_kind>(type));
  }
  if (words.scores.size() != words.size() || words.kinds.size() != words.size()) {
    throw_error(errc::bad_metadata, file.name(),
                "the tokenizer has " + std::to_string(words.size()) + " tokens, " +
                    std::to_string(words.scores.size()) + " scores and " +
                    std::to_string(words.kinds.size()) + " types");
  }
  words.bos = file.get_or<token>("tokenizer.ggml.bos_token_id", words.bos);
  words.eos = file.get_or<token>("tokenizer.ggml.eos_token_id", words.eos);
  words.unknown = file.get_or<token>("tokenizer.ggml.unknown_token_id", words.unknown);
  words.add_bos = file.get_or<bool>("tokenizer.ggml.add_bos_token", words.add_bos);
  words.add_space_prefix =
      file.get_or<bool>("tokenizer.ggml.add_space_prefix", words.add_space_prefix);
  return words;
}

std::unique_ptr<weight_source> open_gguf_weights(const std::string& path) {
  return std::make_unique<gguf_source>(path);
}

}  // namespace llama
