// SPDX-License-Identifier: Apache-2.0
#include "model_source.hpp"

#include <sys/stat.h>  // stat: is the path a folder

#include <filesystem>
#include <map>
#include <memory>
#include <utility>

#include "llama/configuration.hpp"
#include "llama/sentencepiece.hpp"
#include "subbyte/checkpoint/directory.hpp"
#include "subbyte/checkpoint/names.hpp"
#include "subbyte/io/safetensors.hpp"

namespace example {

namespace {

using subbyte::errc;
using subbyte::throw_error;
namespace checkpoint = subbyte::checkpoint;
namespace gguf = subbyte::gguf;
namespace safetensors = subbyte::safetensors;

bool exists(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0;
}

bool is_folder(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

std::string_view text_of(const subbyte::mapped_file& file) {
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

void write_llama_metadata(gguf::split_writer& out, const std::string& name,
                          const llama::configured_sizes& s, std::uint32_t file_type,
                          const llama::vocabulary& words) {
  out.metadata("general.architecture", "llama");
  out.metadata("general.name", name);
  out.metadata("llama.context_length", s.context);
  out.metadata("llama.embedding_length", s.width);
  out.metadata("llama.block_count", s.layers);
  out.metadata("llama.feed_forward_length", s.feed_forward);
  out.metadata("llama.attention.head_count", s.heads);
  out.metadata("llama.attention.head_count_kv", s.kv_heads);
  out.metadata("llama.attention.layer_norm_rms_epsilon", s.norm_epsilon);
  if (s.head_size != s.width / s.heads) {
    out.metadata("llama.attention.key_length", s.head_size);
    out.metadata("llama.attention.value_length", s.head_size);
  }
  out.metadata("llama.rope.dimension_count", s.head_size);
  out.metadata("llama.rope.freq_base", s.rope_base);
  out.metadata("llama.vocab_size", s.vocabulary);
  out.metadata("general.file_type", file_type);
  out.metadata("general.quantization_version", std::uint32_t{2});
  if (words.size() == 0) return;
  std::vector<std::int32_t> kinds;
  for (const llama::piece_kind kind : words.kinds) kinds.push_back(static_cast<std::int32_t>(kind));
  out.metadata("tokenizer.ggml.model", "llama");
  out.metadata("tokenizer.ggml.tokens", words.pieces);
  out.metadata("tokenizer.ggml.scores", words.scores);
  out.metadata("tokenizer.ggml.token_type", kinds);
  out.metadata("tokenizer.ggml.bos_token_id", static_cast<std::uint32_t>(words.bos));
  out.metadata("tokenizer.ggml.eos_token_id", static_cast<std::uint32_t>(words.eos));
  out.metadata("tokenizer.ggml.unknown_token_id", static_cast<std::uint32_t>(words.unknown));
  out.metadata("tokenizer.ggml.add_bos_token", words.add_bos);
  if (!words.add_space_prefix) out.metadata("tokenizer.ggml.add_space_prefix", false);
}

// The embedding may have more rows than the tokenizer has pieces; GGUF wants one piece per row.
void pad_vocabulary(llama::vocabulary& words, std::uint32_t rows) {
  while (words.size() < rows) {
    words.pieces.push_back("[PAD" + std::to_string(words.size()) + "]");
    words.scores.push_back(0);
    words.kinds.push_back(llama::piece_kind::unused);
  }
}

source_tensor from_hugging_face(const safetensors::tensor& stored, std::string name,
                                index_t head_size) {
  using safetensors::dtype;
  source_tensor t;
  t.name = std::move(name);
  t.dims.assign(stored.shape().rbegin(), stored.shape().rend());
  t.type_name = stored.type_name();
  for (char& c : t.type_name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  const bool rotated = checkpoint::rows_are_rotated(t.name);
  const bool matrix = t.dims.size() >= 2;
  switch (stored.type()) {
    case dtype::f32:
      t.gguf_type = subbyte::f32::gguf_type;
      break;
    case dtype::f16:
      t.gguf_type = subbyte::f16::gguf_type;
      break;
    case dtype::bf16:
      t.gguf_type = subbyte::bf16::gguf_type;
      break;
    case dtype::f64:
      break;
    default:
      throw_error(errc::unsupported_format, subbyte::printable(stored.name()),
                  t.type_name + "; read are F64, F32, F16 and BF16");
  }
  // Norms are F32 in GGUF whatever the checkpoint has.
  if (rotated || (!matrix && stored.type() != dtype::f32)) t.gguf_type.reset();
  t.bytes = stored.bytes();
  if (rotated && (!matrix || stored.rows() % head_size != 0)) {
    throw_error(errc::bad_shape, subbyte::printable(stored.name()),
                std::to_string(stored.rows()) + " rows are no multiple of the head size " +
                    std::to_string(head_size));
  }
  t.read = [stored, rotated, head_size](index_t first, index_t count, float* out) {
    if (!rotated) return stored.read_rows(first, count, out);
    for (index_t r = 0; r < count; ++r) {
      stored.read_row(checkpoint::hugging_face_row(first + r, head_size), out + r * stored.cols());
    }
  };
  return t;
}

// A quantized module; its codes are read once for a run of reads.
source_tensor from_quantized_module(std::shared_ptr<const checkpoint::directory> directory,
                                    const checkpoint::quantized_module& module, std::string name,
                                    index_t head_size) {
  source_tensor t;
  t.name = std::move(name);
  const subbyte::matrix_shape shape = directory->shape_of(module.name);
  t.dims = {shape.cols, shape.rows};
  t.type_name = checkpoint::scheme_name(module.settings);
  t.lossy = true;
  const bool rotated = checkpoint::rows_are_rotated(t.name);
  if (rotated && shape.rows % head_size != 0) {
    throw_error(errc::bad_shape, subbyte::printable(module.name),
                std::to_string(shape.rows) + " rows are no multiple of the head size " +
                    std::to_string(head_size));
  }
  t.codes = [directory, module = module.name, rotated, head_size] {
    subbyte::group_codes stored = directory->load_codes(module);
    if (!rotated) return stored;
    subbyte::group_codes w = stored.clone();
    const auto copy_row = [&](auto& to, const auto& from, index_t r) {
      for (index_t k = 0; k < from.extent(1); ++k) {
        to(r, k) = from(checkpoint::hugging_face_row(r, head_size), k);
      }
    };
    for (index_t r = 0; r < w.rows(); ++r) {
      copy_row(w.codes, stored.codes, r);
      copy_row(w.scales, stored.scales, r);
      if (!w.symmetric()) copy_row(w.zeros, stored.zeros, r);
    }
    return w;
  };
  t.read = [load = t.codes, loaded = std::make_shared<subbyte::group_codes>()](
               index_t first, index_t count, float* out) {
    if (loaded->rows() == 0) *loaded = load();
    for (index_t r = 0; r < count; ++r) {
      for (index_t k = 0; k < loaded->cols(); ++k) {
        out[r * loaded->cols() + k] = loaded->value(first + r, k);
      }
    }
    if (first + count == loaded->rows()) *loaded = subbyte::group_codes();
  };
  return t;
}

}  // namespace

model_source open_gguf_model(const std::string& path) {
  const auto file = std::make_shared<const gguf::split_file>(gguf::open_split(path));
  model_source model;
  if (file->get_or<std::string_view>("general.architecture", "") == "llama") {
    model.heads = file->get_or<index_t>("llama.attention.head_count", 1);
    model.kv_heads = file->get_or<index_t>("llama.attention.head_count_kv", model.heads);
  }
  if (file->find("general.architecture") != nullptr) {
    model.facts = checkpoint::read_model_facts(*file);
  }
  for (const gguf::file& shard : file->shards()) model.files.push_back(shard.name());
  for (const gguf::tensor& stored : file->tensors()) {
    source_tensor t;
    t.name = stored.name();
    t.dims.assign(stored.dims().begin(), stored.dims().end());
    const char* const known = gguf::find_tensor_type(stored.type()).name;
    t.type_name = known != nullptr ? known : "type " + std::to_string(stored.type());
    t.gguf_type = stored.type();
    t.bytes = stored.bytes();
    t.lossy = stored.type() != subbyte::f32::gguf_type &&
              stored.type() != subbyte::f16::gguf_type && stored.type() != subbyte::bf16::gguf_type;
    t.read = [file, stored](index_t first, index_t count, float* out) {
      stored.visit([&](auto w) {
        for (index_t r = 0; r < count; ++r) {
          w.decode_row(first + r, 0, w.cols(), out + r * w.cols());
        }
      });
    };
    model.stored_bytes += stored.size_bytes();
    model.tensors.push_back(std::move(t));
  }
  model.write_metadata = [file](gguf::split_writer& out, std::uint32_t file_type) {
    constexpr std::string_view type_key = "general.file_type";
    constexpr std::string_view version_key = "general.quantization_version";
    for (const gguf::metadata_entry& entry : file->metadata()) {
      // How the source was made is not how this file is.
      if (entry.key() == version_key || entry.key().substr(0, 17) == "quantize.imatrix.") continue;
      if (entry.key() == type_key) {
        out.metadata(type_key, file_type);
      } else {
        out.metadata(entry);
      }
    }
    if (file->find(type_key) == nullptr) out.metadata(type_key, file_type);
    out.metadata(version_key, std::uint32_t{2});
  };
  return model;
}

model_source open_hugging_face_model(const std::string& path) {
  const std::string folder =
      is_folder(path) ? path : std::filesystem::path(path).parent_path().string();
  const std::string base = folder.empty() ? std::string() : folder + "/";
  // The configuration beside a single file may be that of other files: only a folder is quantized.
  const auto directory =
      is_folder(path) ? std::make_shared<const checkpoint::directory>(path) : nullptr;
  const auto file = directory != nullptr
                        ? std::shared_ptr<const safetensors::file>(directory, &directory->file())
                        : std::make_shared<const safetensors::file>(safetensors::open(path));
  const llama::configuration config(base + "config.json");
  const llama::configured_sizes sizes(config);

  model_source model;
  model.heads = sizes.heads;
  model.kv_heads = sizes.kv_heads;
  model.facts = {"llama", sizes.layers, sizes.heads, sizes.kv_heads, 0};
  for (index_t i = 0; i < file->shard_count(); ++i) model.files.push_back(file->shard_path(i));
  std::map<std::string, const safetensors::tensor*> named;
  for (const safetensors::tensor& stored : file->tensors()) {
    const std::string_view name = stored.name();
    constexpr std::string_view derived = ".rotary_emb.inv_freq";  // follows from rope_theta
    if (name.size() > derived.size() && name.substr(name.size() - derived.size()) == derived) {
      continue;
    }
    const auto* const owner = directory != nullptr ? directory->owner_of(name) : nullptr;
    const std::optional<std::string> renamed =
        checkpoint::gguf_name(owner != nullptr ? owner->name + ".weight" : std::string(name));
    if (!renamed) {
      throw_error(errc::unsupported_format, path,
                  "tensor " + subbyte::printable(name) + " has no place in a Llama GGUF file");
    }
    named.emplace(*renamed, &stored);
  }
  const auto take = [&](const std::string& name) {
    const auto found = named.find(name);
    if (found == named.end()) {
      throw_error(errc::not_found, path,
                  "no tensor " + checkpoint::hugging_face_name(name).value_or(name));
    }
    const auto* const owner =
        directory != nullptr ? directory->owner_of(found->second->name()) : nullptr;
    if (owner != nullptr) {
      model.tensors.push_back(from_quantized_module(directory, *owner, name, sizes.head_size));
      for (const std::string_view part : owner->tensors) {
        model.stored_bytes += static_cast<index_t>(file->tensor(part).bytes().size());
      }
      named.erase(found);
      return;
    }
    model.tensors.push_back(from_hugging_face(*found->second, name, sizes.head_size));
    model.tensors.back().read = [file, read = model.tensors.back().read](
                                    index_t first, index_t count, float* out) {
      read(first, count, out);
    };
    model.stored_bytes += static_cast<index_t>(found->second->bytes().size());
    named.erase(found);
  };
  take("token_embd.weight");
  take("output_norm.weight");
  if (named.count("output.weight") != 0) take("output.weight");
  for (std::uint32_t l = 0; l < sizes.layers; ++l) {
    for (const char* leaf : {"attn_norm", "ffn_norm", "attn_q", "attn_k", "attn_v", "attn_output",
                             "ffn_gate", "ffn_up", "ffn_down"}) {
      take("blk." + std::to_string(l) + "." + leaf + ".weight");
    }
  }
  if (!named.empty()) {
    throw_error(errc::bad_metadata, path,
                "tensor " + subbyte::printable(named.begin()->second->name()) +
                    " is beyond the layers that config.json counts");
  }

  llama::vocabulary words;
  const std::string tokenizer = base + "tokenizer.model";
  if (exists(tokenizer)) {
    const subbyte::mapped_file stored(tokenizer);
    words = llama::parse_sentencepiece(text_of(stored), tokenizer);
    pad_vocabulary(words, sizes.vocabulary);
    model.files.push_back(tokenizer);
  } else {
    model.notes.push_back("no tokenizer.model beside the weights: the GGUF file has no tokenizer");
  }
  model.files.push_back(base + "config.json");
  const std::string name =
      config.text_or("_name_or_path", std::filesystem::absolute(folder.empty() ? "." : folder)
                                          .lexically_normal()
                                          .filename()
                                          .string());
  model.write_metadata = [name, sizes, words](gguf::split_writer& out, std::uint32_t file_type) {
    write_llama_metadata(out, name, sizes, file_type, words);
  };
  return model;
}

model_source open_model(const std::string& path) {
  if (is_folder(path)) return open_hugging_face_model(path);
  const subbyte::mapped_file file(path);
  const std::string_view text = text_of(file);
  if (text.substr(0, 4) == "GGUF") return open_gguf_model(path);
  if ((text.size() > 8 && text[8] == '{') || text[0] == '{') return open_hugging_face_model(path);
  throw_error(errc::bad_magic, path, "neither a GGUF file nor a safetensors file");
}

}  // namespace example
