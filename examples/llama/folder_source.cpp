// SPDX-License-Identifier: Apache-2.0
/// Weights of a Hugging Face checkpoint folder: plain floats as they are, GPTQ, AWQ and
/// compressed-tensors by their codes, which products decode and nothing rounds again.
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <utility>

#include "llama/gguf_source.hpp"
#include "llama/sentencepiece.hpp"
#include "llama/weight_source.hpp"
#include "subbyte/checkpoint/directory.hpp"
#include "subbyte/checkpoint/model_config.hpp"
#include "subbyte/checkpoint/names.hpp"
#include "subbyte/format/bf16.hpp"
#include "subbyte/format/f16.hpp"
#include "subbyte/format/f32.hpp"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/group_codes.hpp"
#include "subbyte/matrix/planar_matrix.hpp"

namespace llama {

namespace {

using subbyte::errc;
using subbyte::throw_error;
namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;

// "model.layers.0.mlp.up_proj.weight" -> "model.layers.0.mlp.up_proj"
std::string module_of(const std::string& tensor) {
  return tensor.substr(0, tensor.size() - std::string_view(".weight").size());
}

// calls body(F) for the format of a float tensor.
template <class Body>
decltype(auto) visit_floats(const safetensors::tensor& t, const Body& body) {
  switch (t.type()) {
    case safetensors::dtype::f32:
      return body(std::type_identity<subbyte::f32>{});
    case safetensors::dtype::f16:
      return body(std::type_identity<subbyte::f16>{});
    case safetensors::dtype::bf16:
      return body(std::type_identity<subbyte::bf16>{});
    default:
      throw_error(errc::unsupported_format, subbyte::printable(t.name()),
                  std::string(t.type_name()) + "; run are F32, F16 and BF16");
  }
}

class folder_source final : public weight_source {
 public:
  explicit folder_source(const std::string& folder)
      : folder_(folder),
        directory_(folder),
        sizes_(checkpoint::read_model_config(directory_.model_config(), folder + "/config.json")) {
    const bool plain = sizes_.architecture == checkpoint::architecture::llama &&
                       sizes_.rope.scaling == checkpoint::rope_scaling::none &&
                       !sizes_.qkv_biases && sizes_.sliding_window == 0;
    if (!plain) {
      throw_error(errc::unsupported_format, folder + "/config.json",
                  "run are Llama models without biases, rope_scaling and sliding window");
    }
    for (const checkpoint::quantized_module& m : directory_.modules()) {
      const subbyte::group_codes codes = directory_.load_codes(m.name);
      index_t bytes = 0;
      for (const std::string_view tensor : m.tensors) {
        bytes += static_cast<index_t>(directory_.file().tensor(tensor).bytes().size());
      }
      add(m.name + ".weight", std::to_string(codes.bits) + " bit", codes.rows(), codes.cols(),
          bytes);
    }
    for (const safetensors::tensor& t : directory_.file().tensors()) {
      if (directory_.owner_of(t.name()) == nullptr) {
        std::string format = t.type_name();
        for (char& c : format) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
        add(std::string(t.name()), format, t.rows(), t.cols(),
            static_cast<index_t>(t.bytes().size()));
      }
    }
  }

  [[nodiscard]] std::string name() const override { return folder_; }
  [[nodiscard]] index_t size_bytes() const override {
    index_t bytes = 0;
    for (index_t i = 0; i < directory_.file().shard_count(); ++i) {
      bytes += static_cast<index_t>(std::filesystem::file_size(directory_.file().shard_path(i)));
    }
    return bytes;
  }
  [[nodiscard]] std::span<const stored_weight> tensors() const noexcept override {
    return tensors_;
  }

  [[nodiscard]] llama::shape read_shape() const override {
    return {sizes_.vocabulary,
            sizes_.width,
            sizes_.layers,
            sizes_.heads,
            sizes_.kv_heads,
            sizes_.head_size,
            sizes_.feed_forward,
            sizes_.context,
            sizes_.head_size,
            static_cast<float>(sizes_.rope.base),
            static_cast<float>(sizes_.norm_epsilon)};
  }

  [[nodiscard]] vocabulary read_vocabulary() const override {
    const std::string path = folder_ + "/tokenizer.model";
    const subbyte::mapped_file file(path);
    return parse_sentencepiece(
        {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()}, path);
  }

  [[nodiscard]] std::shared_ptr<const linear> make_linear(
      const stored_weight& stored) const override {
    const std::string tensor = checkpoint::hugging_face_name(stored.name).value();
    const std::string module = module_of(tensor);
    if (directory_.find_module(module) != nullptr) {
      const subbyte::group_codes codes = directory_.load_codes(module);
      return make_planar<8>(codes, stored);
    }
    const safetensors::tensor& plain = directory_.file().tensor(tensor);
    return visit_floats(plain, [&]<class F>(std::type_identity<F>) {
      subbyte::block_matrix<F> blocks(plain.rows(), plain.cols());
      const auto bytes = static_cast<std::size_t>(plain.cols()) * sizeof(F);
      for (index_t r = 0; r < plain.rows() && bytes != 0; ++r) {
        std::memcpy(static_cast<void*>(blocks.row(r)),
                    plain.bytes().data() + static_cast<std::size_t>(file_row(stored, r)) * bytes,
                    bytes);
      }
      return llama::make_linear(std::move(blocks));
    });
  }

 private:
  // The checkpoint's row that is row r here.
  [[nodiscard]] index_t file_row(const stored_weight& stored, index_t r) const {
    return checkpoint::rows_are_rotated(stored.name)
               ? checkpoint::hugging_face_row(r, sizes_.head_size)
               : r;
  }

  void add(const std::string& tensor, std::string format, index_t rows, index_t cols,
           index_t bytes) {
    constexpr std::string_view derived = ".rotary_emb.inv_freq";  // follows from rope_theta
    if (tensor.size() > derived.size() &&
        tensor.substr(tensor.size() - derived.size()) == derived) {
      return;
    }
    const std::optional<std::string> name = checkpoint::gguf_name(tensor);
    if (!name) {
      throw_error(errc::unsupported_format, folder_,
                  "tensor " + subbyte::printable(tensor) + " has no place in a Llama model");
    }
    stored_weight stored{*name, std::move(format), rows, cols, bytes, {}};
    if (checkpoint::rows_are_rotated(*name) && rows % sizes_.head_size != 0) {
      throw_error(errc::bad_shape, subbyte::printable(tensor),
                  std::to_string(rows) + " rows are no multiple of the head size " +
                      std::to_string(sizes_.head_size));
    }
    // One matrix is kept as floats from row to row; the next one takes its place.
    stored.read_row = [this, module = module_of(tensor), rotated = stored](index_t row,
                                                                           float* out) {
      if (cached_ != module) {
        cache_ = directory_.load_weight(module);
        cached_ = module;
      }
      const float* const from = &cache_(file_row(rotated, row), index_t{0});
      std::memcpy(out, from, static_cast<std::size_t>(cache_.extent(1)) * sizeof(float));
    };
    tensors_.push_back(std::move(stored));
  }

  // The codes as a planar matrix of their width, which is at most Bits.
  template <int Bits>
  [[nodiscard]] std::shared_ptr<const linear> make_planar(const subbyte::group_codes& codes,
                                                          const stored_weight& stored) const {
    if constexpr (Bits > 1) {
      if (codes.bits < Bits) return make_planar<Bits - 1>(codes, stored);
    }
    using grid = subbyte::int_grid<Bits>;
    subbyte::planar_matrix<grid, subbyte::f32_scale> m(codes.rows(), codes.cols(),
                                                       {codes.group_size});
    const auto order = codes.column_order(stored.name);
    if (!codes.sequential()) m.set_column_order(order.view());
    std::vector<std::uint8_t> group(static_cast<std::size_t>(m.group_size()));
    for (index_t r = 0; r < m.rows(); ++r) {
      const index_t from = file_row(stored, r);
      for (index_t g = 0; g < m.groups(); ++g) {
        index_t n = 0;
        for (index_t j = g * m.group_size(); j < m.cols() && n < m.group_size(); ++j, ++n) {
          group[static_cast<std::size_t>(n)] = codes.codes(from, index_t{order(j)});
        }
        m.store(r, g, {codes.scales(from, g), codes.zero(from, g)}, group.data(), n);
      }
    }
    return llama::make_linear(std::move(m));
  }

  std::string folder_;
  checkpoint::directory directory_;
  checkpoint::model_config sizes_;
  std::vector<stored_weight> tensors_;
  mutable std::string cached_;
  mutable subbyte::tensor<float, 2> cache_;
};

bool is_folder(const std::string& path) {
  std::error_code failed;
  return std::filesystem::is_directory(path, failed);
}

}  // namespace

const stored_weight& weight_source::get(std::string_view tensor) const {
  const stored_weight* const found = find(tensor);
  if (found == nullptr) {
    throw_error(errc::not_found, name(), "no tensor " + subbyte::printable(tensor));
  }
  return *found;
}

std::unique_ptr<weight_source> open_weights(const std::string& path) {
  if (is_folder(path)) return std::make_unique<folder_source>(path);
  return open_gguf_weights(path);
}

}  // namespace llama
