// SPDX-License-Identifier: Apache-2.0
#include "model_source.hpp"

#include <sys/stat.h>  // stat: is the path a folder

#include <algorithm>
#include <filesystem>
#include <map>
#include <memory>
#include <utility>

#include "subbyte/checkpoint/directory.hpp"
#include "subbyte/checkpoint/model_config.hpp"
#include "subbyte/checkpoint/names.hpp"
#include "subbyte/checkpoint/tokenizer_metadata.hpp"
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

void require_shape(const checkpoint::model_tensor& expected, std::span<const index_t> shape) {
  if (std::equal(shape.begin(), shape.end(), expected.shape.begin(), expected.shape.end())) return;
  const auto text = [](std::span<const index_t> extents) {
    std::string list;
    for (const index_t e : extents) list += (list.empty() ? "" : " x ") + std::to_string(e);
    return "[" + list + "]";
  };
  throw_error(errc::bad_shape, subbyte::printable(expected.hugging_face),
              "the shape is " + text(shape) + ", by config.json it is " + text(expected.shape));
}

source_tensor from_hugging_face(const safetensors::tensor& stored,
                                const checkpoint::model_tensor& expected, index_t head_size) {
  using safetensors::dtype;
  require_shape(expected, stored.shape());
  source_tensor t;
  t.name = expected.gguf;
  t.dims.assign(stored.shape().rbegin(), stored.shape().rend());
  t.type_name = stored.type_name();
  for (char& c : t.type_name) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  const bool rotated = expected.rotated;
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
  // Vectors are F32 in GGUF whatever the checkpoint has.
  if (rotated || (!matrix && stored.type() != dtype::f32)) t.gguf_type.reset();
  t.bytes = stored.bytes();
  t.read = [stored, rotated, matrix, head_size](index_t first, index_t count, float* out) {
    if (!rotated) return stored.read_rows(first, count, out);
    if (matrix) {
      for (index_t r = 0; r < count; ++r) {
        stored.read_row(checkpoint::hugging_face_row(first + r, head_size),
                        out + r * stored.cols());
      }
      return;
    }
    std::vector<float> values(static_cast<std::size_t>(stored.cols()));
    stored.read_rows(0, 1, values.data());
    for (index_t i = 0; i < stored.cols(); ++i) {
      out[i] = values[static_cast<std::size_t>(checkpoint::hugging_face_row(i, head_size))];
    }
  };
  return t;
}

// A vector that follows from the configuration.
source_tensor from_values(std::string name, const std::vector<float>& values) {
  source_tensor t;
  t.name = std::move(name);
  t.dims = {static_cast<index_t>(values.size())};
  t.type_name = "f32";
  const auto kept = std::make_shared<const std::vector<float>>(values);
  t.gguf_type = subbyte::f32::gguf_type;
  t.bytes = {reinterpret_cast<const std::uint8_t*>(kept->data()), kept->size() * sizeof(float)};
  t.read = [kept](index_t, index_t, float* out) { std::copy(kept->begin(), kept->end(), out); };
  return t;
}

// A quantized module; its codes are read once for a run of reads.
source_tensor from_quantized_module(std::shared_ptr<const checkpoint::directory> directory,
                                    const checkpoint::quantized_module& module,
                                    const checkpoint::model_tensor& expected, index_t head_size) {
  source_tensor t;
  t.name = expected.gguf;
  const subbyte::matrix_shape shape = directory->shape_of(module.name);
  const std::vector<index_t> extents{shape.rows, shape.cols};
  require_shape(expected, extents);
  t.dims = {shape.cols, shape.rows};
  t.type_name = checkpoint::scheme_name(module.settings);
  t.lossy = true;
  const bool rotated = expected.rotated;
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

// An output layer beside a configuration that has none: transformers' versions disagree on which
// counts, and only if both are one is it left out.
void drop_tied_output(std::map<std::string, const safetensors::tensor*>& named,
                      const std::string& path) {
  const auto output = named.find("lm_head.weight");
  const auto embedding = named.find("model.embed_tokens.weight");
  if (output == named.end() || embedding == named.end()) return;
  const std::span<const std::uint8_t> a = output->second->bytes(), b = embedding->second->bytes();
  if (output->second->type() != embedding->second->type() ||
      !std::equal(a.begin(), a.end(), b.begin(), b.end())) {
    throw_error(errc::bad_metadata, path,
                "tie_word_embeddings is true, and lm_head.weight is another matrix than "
                "model.embed_tokens.weight");
  }
  named.erase(output);
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
  const std::string config_path = base + "config.json";
  const auto json = checkpoint::detail::read_json_file<subbyte::arch::native>(config_path);
  const checkpoint::model_config config = checkpoint::read_model_config(json, config_path);

  model_source model;
  model.heads = config.heads;
  model.kv_heads = config.kv_heads;
  model.facts = {checkpoint::name_of(config.architecture), config.layers, config.heads,
                 config.kv_heads, 0};
  for (index_t i = 0; i < file->shard_count(); ++i) model.files.push_back(file->shard_path(i));
  std::map<std::string, const safetensors::tensor*> named;  // by the plain weight's name
  for (const safetensors::tensor& stored : file->tensors()) {
    const std::string_view name = stored.name();
    constexpr std::string_view derived = ".rotary_emb.inv_freq";  // follows from rope_theta
    if (name.size() > derived.size() && name.substr(name.size() - derived.size()) == derived) {
      continue;
    }
    const auto* const owner = directory != nullptr ? directory->owner_of(name) : nullptr;
    named.emplace(owner != nullptr ? owner->name + ".weight" : std::string(name), &stored);
  }
  const auto take = [&](const checkpoint::model_tensor& expected) {
    const auto found = named.find(expected.hugging_face);
    if (found == named.end()) {
      if (!expected.required) return;
      throw_error(errc::not_found, path, "no tensor " + expected.hugging_face);
    }
    const auto* const owner =
        directory != nullptr ? directory->owner_of(found->second->name()) : nullptr;
    if (owner != nullptr) {
      model.tensors.push_back(from_quantized_module(directory, *owner, expected, config.head_size));
      for (const std::string_view part : owner->tensors) {
        model.stored_bytes += static_cast<index_t>(file->tensor(part).bytes().size());
      }
      named.erase(found);
      return;
    }
    model.tensors.push_back(from_hugging_face(*found->second, expected, config.head_size));
    model.tensors.back().read = [file, read = model.tensors.back().read](
                                    index_t first, index_t count, float* out) {
      read(first, count, out);
    };
    model.stored_bytes += static_cast<index_t>(found->second->bytes().size());
    named.erase(found);
  };
  if (config.tied) drop_tied_output(named, path);
  for (const checkpoint::model_tensor& t : config.outer_tensors()) take(t);
  if (const std::vector<float> divisors = config.rope_divisors(); !divisors.empty()) {
    model.tensors.push_back(from_values("rope_freqs.weight", divisors));
  }
  for (index_t l = 0; l < config.layers; ++l) {
    for (const checkpoint::model_tensor& t : config.layer_tensors(l)) take(t);
  }
  if (!named.empty()) {
    throw_error(errc::unsupported_format, path,
                "tensor " + subbyte::printable(named.begin()->first) +
                    " has no place in the model that config.json describes");
  }
  if (config.sliding_window != 0) {
    model.notes.push_back("attention sees " + std::to_string(config.sliding_window) +
                          " positions back in the checkpoint, and all of them in the GGUF file");
  }

  // The embedding was found to have so many rows.
  const auto words = checkpoint::read_tokenizer(folder.empty() ? "." : folder, config.vocabulary);
  if (words) {
    model.notes.insert(model.notes.end(), words->notes.begin(), words->notes.end());
  } else {
    model.notes.push_back(
        "no tokenizer.model or tokenizer.json beside the weights: the GGUF file has no tokenizer");
  }
  for (const char* leaf : {"config.json", "tokenizer.model", "tokenizer.json",
                           "tokenizer_config.json", "added_tokens.json"}) {
    if (exists(base + leaf)) model.files.push_back(base + leaf);
  }
  std::string name;
  if (const auto* const stored = json.find("_name_or_path")) name = stored->text();
  if (name.empty()) {
    const auto place = std::filesystem::absolute(folder.empty() ? "." : folder).lexically_normal();
    name = (place.has_filename() ? place : place.parent_path()).filename().string();
  }
  model.write_metadata = [name, config, words](gguf::split_writer& out, std::uint32_t file_type) {
    config.write_metadata(out, name, file_type);
    if (words) words->write_metadata(out);
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
