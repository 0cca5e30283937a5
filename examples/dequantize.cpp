// SPDX-License-Identifier: Apache-2.0
/// Dequantizes a GGUF model: to a Hugging Face Llama checkpoint, or to a GGUF file of floats.
#include <algorithm>
#include <charconv>  // std::to_chars: the shortest decimal of a float
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "command_line.hpp"
#include "llama/gguf_source.hpp"
#include "llama/sentencepiece.hpp"
#include "subbyte/checkpoint/names.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/io/gguf_split_writer.hpp"
#include "subbyte/io/safetensors_writer.hpp"

namespace {

using subbyte::errc;
using subbyte::index_t;
using subbyte::throw_error;
namespace checkpoint = subbyte::checkpoint;
namespace gguf = subbyte::gguf;
namespace safetensors = subbyte::safetensors;

/// An element type of the output.
struct float_type {
  const char* name;
  const char* torch_name;
  safetensors::dtype dtype;
  std::uint32_t gguf_type;
  std::uint32_t file_type;  // general.file_type of llama.cpp
  index_t bytes;
};

constexpr float_type float_types[] = {
    {"f16", "float16", safetensors::dtype::f16, subbyte::f16::gguf_type, 1, 2},
    {"bf16", "bfloat16", safetensors::dtype::bf16, subbyte::bf16::gguf_type, 32, 2},
    {"f32", "float32", safetensors::dtype::f32, subbyte::f32::gguf_type, 0, 4},
};

template <class T>
void narrow(std::span<const float> values, std::uint8_t* out) {
  for (std::size_t i = 0; i < values.size(); ++i) {
    const T element = T::nearest(values[i]);
    __builtin_memcpy(out + i * sizeof(T), &element, sizeof(T));
  }
}

// Appends the values' bytes in the type's order. Weights beyond the range of f16 are not made
// infinite in silence.
void store(std::span<const float> values, const float_type& type, const std::string& name,
           std::vector<std::uint8_t>& out) {
  out.resize(values.size() * static_cast<std::size_t>(type.bytes));
  switch (type.dtype) {
    case safetensors::dtype::f16:
      for (const float value : values) {
        if (value >= 65520.0F || value <= -65520.0F) {
          throw_error(
              errc::bad_argument, subbyte::printable(name),
              std::to_string(value) + " is beyond the range of f16; use --type bf16 or f32");
        }
      }
      return narrow<subbyte::half>(values, out.data());
    case safetensors::dtype::bf16:
      return narrow<subbyte::bfloat16>(values, out.data());
    default:
      std::copy_n(reinterpret_cast<const std::uint8_t*>(values.data()), out.size(), out.data());
  }
}

// Calls body(values of rows [first, first + count)) slab by slab: memory does not grow with the
// tensor. `source_row` says which stored row comes as the given one.
template <class Row, class Body>
void decode_in_slabs(const gguf::tensor& t, const Row& source_row, const Body& body) {
  constexpr index_t slab = index_t{1} << 20;
  std::vector<float> values;
  t.visit([&](auto w) {
    const index_t rows_at_once = std::max<index_t>(1, slab / std::max<index_t>(1, w.cols()));
    for (index_t first = 0; first < w.rows(); first += rows_at_once) {
      example::check_interrupt();
      const index_t count = std::min(rows_at_once, w.rows() - first);
      values.resize(static_cast<std::size_t>(count * w.cols()));
      for (index_t r = 0; r < count; ++r) {
        w.decode_row(source_row(first + r), 0, w.cols(), values.data() + r * w.cols());
      }
      body(std::span<const float>(values));
    }
  });
}

// The double whose shortest decimal is the float's: 1e-05, not 9.999999747378752e-06.
double decimal(float value) {
  char text[32];
  const auto end = std::to_chars(text, text + sizeof(text), value).ptr;
  return nlohmann::ordered_json::parse(text, end).get<double>();
}

/// The sizes of a Llama model that its configuration and its rotated rows need.
struct llama_sizes {
  index_t width, layers, heads, kv_heads, head_size, feed_forward, context, vocabulary;
  float rope_base, norm_epsilon;

  explicit llama_sizes(const gguf::split_file& file) {
    const auto architecture = file.get<std::string_view>("general.architecture");
    if (architecture != "llama") {
      throw_error(errc::unsupported_format, file.name(),
                  "the architecture is \"" + subbyte::printable(architecture) +
                      "\", and checkpoints are written for \"llama\" only (a .gguf output is not "
                      "limited to it)");
    }
    for (const char* key : {"llama.expert_count", "llama.rope.scaling.type"}) {
      if (file.find(key) != nullptr) {
        throw_error(errc::unsupported_format, file.name(),
                    std::string(key) + " is set, and has no place in the checkpoints written here");
      }
    }
    const auto size = [&](const char* key) {
      const index_t value = file.get<index_t>(key);
      if (value < 1 || value > 0x7FFFFFFF) {
        throw_error(errc::bad_metadata, file.name(),
                    std::string(key) + " is " + std::to_string(value) + ", required is a size");
      }
      return value;
    };
    width = size("llama.embedding_length");
    layers = size("llama.block_count");
    heads = size("llama.attention.head_count");
    kv_heads = file.get_or<index_t>("llama.attention.head_count_kv", heads);
    head_size = file.get_or<index_t>("llama.attention.key_length", width / heads);
    feed_forward = size("llama.feed_forward_length");
    context = size("llama.context_length");
    vocabulary = file.tensor("token_embd.weight").rows();
    rope_base = file.get_or<float>("llama.rope.freq_base", 10000.0F);
    norm_epsilon = file.get<float>("llama.attention.layer_norm_rms_epsilon");
    if (kv_heads < 1 || head_size < 2 || head_size % 2 != 0 ||
        file.get_or<index_t>("llama.rope.dimension_count", head_size) != head_size) {
      throw_error(errc::unsupported_format, file.name(),
                  "heads of " + std::to_string(head_size) +
                      ", required is an even size that is rotated as a whole");
    }
  }

  [[nodiscard]] std::string config(const gguf::split_file& file, const float_type& type) const {
    nlohmann::ordered_json c;
    c["architectures"] = {"LlamaForCausalLM"};
    c["model_type"] = "llama";
    c["hidden_size"] = width;
    c["intermediate_size"] = feed_forward;
    c["num_hidden_layers"] = layers;
    c["num_attention_heads"] = heads;
    c["num_key_value_heads"] = kv_heads;
    c["head_dim"] = head_size;
    c["vocab_size"] = vocabulary;
    c["max_position_embeddings"] = context;
    c["rms_norm_eps"] = decimal(norm_epsilon);
    c["rope_theta"] = decimal(rope_base);
    c["hidden_act"] = "silu";
    c["tie_word_embeddings"] = file.find_tensor("output.weight") == nullptr;
    for (const char* which : {"bos", "eos"}) {
      const auto* const id = file.find(std::string("tokenizer.ggml.") + which + "_token_id");
      if (id != nullptr) c[std::string(which) + "_token_id"] = id->get<index_t>();
    }
    c["torch_dtype"] = type.torch_name;
    c["attention_bias"] = false;
    c["mlp_bias"] = false;
    const auto name = file.get_or<std::string_view>("general.name", "");
    if (!name.empty() && subbyte::is_utf8(name)) c["_name_or_path"] = name;
    return c.dump(1) + "\n";
  }
};

void write_text(subbyte::atomic_file& file, std::string_view text) {
  file.write({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  file.seal();
}

void write_checkpoint(const gguf::split_file& file, const std::string& folder,
                      const float_type& type, index_t max_shard_bytes,
                      std::vector<std::string>& notes) {
  const llama_sizes sizes(file);
  std::map<std::string_view, std::string> names;
  for (const gguf::tensor& t : file.tensors()) {
    if (!checkpoint::hugging_face_name(t.name())) {
      throw_error(errc::unsupported_format, file.name(),
                  "tensor " + subbyte::printable(t.name()) +
                      " has no place in a Hugging Face Llama checkpoint");
    }
    names.emplace(t.name(), *checkpoint::hugging_face_name(t.name()));
    if (checkpoint::rows_are_rotated(t.name()) && t.rows() % sizes.head_size != 0) {
      throw_error(errc::bad_shape, subbyte::printable(t.name()),
                  std::to_string(t.rows()) + " rows are no multiple of the head size " +
                      std::to_string(sizes.head_size));
    }
  }
  std::string tokenizer;
  const auto kind = file.get_or<std::string_view>("tokenizer.ggml.model", "");
  if (kind == "llama") {
    tokenizer = llama::write_sentencepiece(llama::read_vocabulary(file));
  } else {
    notes.push_back("the tokenizer is no SentencePiece model: the checkpoint has none");
  }

  const bool made = std::filesystem::create_directory(folder);
  try {
    const std::string base = folder.back() == '/' ? folder : folder + "/";
    subbyte::atomic_file config(base + "config.json");
    write_text(config, sizes.config(file, type));
    std::optional<subbyte::atomic_file> words;
    if (!tokenizer.empty()) {
      words.emplace(base + "tokenizer.model");
      write_text(*words, tokenizer);
    }

    safetensors::writer out(base + "model.safetensors", {.max_shard_bytes = max_shard_bytes});
    out.metadata("format", "pt");
    double total = 0, done = 0;
    for (const gguf::tensor& t : file.tensors()) {
      const std::vector<index_t> shape(t.dims().rbegin(), t.dims().rend());
      out.declare(names.at(t.name()), shape, type.dtype);
      total += static_cast<double>(t.size());
    }
    example::progress_bar bar(std::string("dequantize to ") + type.name);
    std::vector<std::uint8_t> stored;
    for (const gguf::tensor& t : file.tensors()) {
      const std::string& name = names.at(t.name());
      const bool rotated = checkpoint::rows_are_rotated(t.name());
      const auto row = [&](index_t r) {
        return rotated ? checkpoint::gguf_row(r, sizes.head_size) : r;
      };
      decode_in_slabs(t, row, [&](std::span<const float> values) {
        store(values, type, name, stored);
        out.write(name, stored);
        bar.update(done += static_cast<double>(values.size()), total);
      });
    }
    example::check_interrupt();
    out.finish();
    if (words) words->commit();
    config.commit();
  } catch (...) {
    std::error_code ignored;  // it may hold files of the user
    if (made) std::filesystem::remove(folder, ignored);
    throw;
  }
}

void write_gguf(const gguf::split_file& file, const std::string& path, const float_type& type,
                const gguf::split_options& split) {
  gguf::split_writer out(path, split);
  constexpr std::string_view type_key = "general.file_type";
  for (const gguf::metadata_entry& entry : file.metadata()) {
    // It says how quantized blocks are laid out, and none are left.
    if (entry.key() == "general.quantization_version") continue;
    if (entry.key() == type_key) {
      out.metadata(type_key, type.file_type);
    } else {
      out.metadata(entry);
    }
  }
  if (file.find(type_key) == nullptr) out.metadata(type_key, type.file_type);
  // Vectors stay F32, as llama.cpp wants them; integers stay what they are.
  const auto is_float = [](const gguf::tensor& t) {
    // Quantized, and no format here: refused by name rather than copied.
    if (gguf::find_ik_tensor_type(t.type()).name != nullptr) t.visit([](auto) {});
    return subbyte::any_type(subbyte::file_formats{}, [&](auto tag) {
      using F = typename decltype(tag)::type;
      if constexpr (subbyte::gguf_format<F>) return t.type() == F::gguf_type;
      return false;
    });
  };
  const auto target = [&](const gguf::tensor& t) -> const float_type& {
    return t.dims().size() >= 2 ? type : float_types[2];
  };
  double total = 0, done = 0;
  for (const gguf::tensor& t : file.tensors()) {
    if (is_float(t)) {
      out.declare(t.name(), t.dims(), target(t).gguf_type, t.size() * target(t).bytes);
    } else {
      out.tensor(t);
    }
    total += static_cast<double>(t.size());
  }
  for (index_t i = 0; i < out.shard_count(); ++i) {
    std::error_code ignored;  // a file that does not exist yet is no input
    for (const gguf::file& shard : file.shards()) {
      if (!std::filesystem::equivalent(shard.name(), out.shard_path(i), ignored)) continue;
      throw_error(errc::bad_argument, out.shard_path(i),
                  "is also the input; write to another file");
    }
  }
  example::progress_bar bar(std::string("dequantize to ") + type.name);
  std::vector<std::uint8_t> stored;
  for (const gguf::tensor& t : file.tensors()) {
    if (!is_float(t)) continue;
    const auto row = [](index_t r) { return r; };
    decode_in_slabs(t, row, [&](std::span<const float> values) {
      store(values, target(t), std::string(t.name()), stored);
      out.write(t.name(), stored);
      bar.update(done += static_cast<double>(values.size()), total);
    });
  }
  example::check_interrupt();
  out.finish();
}

}  // namespace

int main(int argc, char** argv) {
  std::string input, output, type_name = "f16";
  std::uint64_t max_shard_bytes = 5'000'000'000;
  CLI::App app("Dequantizes a GGUF model to a Hugging Face Llama checkpoint or a GGUF file.",
               "dequantize");
  app.add_option("input", input, "GGUF file; of a split one any shard")->required();
  app.add_option("output", output, "folder of the checkpoint, or a file name that ends in .gguf")
      ->required();
  app.add_option("-t,--type", type_name, "f16, bf16 or f32")->capture_default_str();
  app.add_option("--max-shard-size", max_shard_bytes,
                 "tensors of one file take at most so many bytes (2GB, 500MB); 0: one file")
      ->transform(CLI::AsSizeValue(true))
      ->capture_default_str();
  return example::run(app, argc, argv, [&] {
    const float_type* type = nullptr;
    for (const float_type& known : float_types) {
      if (type_name == known.name) type = &known;
    }
    if (type == nullptr) {
      throw_error(errc::bad_argument, "type \"" + type_name + "\"", "known are f16, bf16 and f32");
    }
    if (output.empty()) throw_error(errc::bad_argument, "output", "a name is required");
    if (max_shard_bytes > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
      throw_error(errc::bad_argument, "--max-shard-size", "beyond 2^63 bytes");
    }
    const auto limit = static_cast<index_t>(max_shard_bytes);
    const gguf::split_file file = gguf::open_split(input);
    example::cancel_on_interrupt();
    std::vector<std::string> notes;
    if (std::filesystem::path(output).extension() == ".gguf") {
      index_t bytes = 0;
      for (const gguf::tensor& t : file.tensors()) bytes += t.size() * type->bytes;
      gguf::split_options split;
      if (limit != 0 && bytes > limit) split.max_shard_bytes = limit;
      write_gguf(file, output, *type, split);
    } else {
      write_checkpoint(file, output, *type, limit, notes);
    }
    std::printf("%zu tensors written as %s\n", file.tensors().size(), type->name);
    for (const std::string& note : notes) std::printf("%s\n", note.c_str());
  });
}
