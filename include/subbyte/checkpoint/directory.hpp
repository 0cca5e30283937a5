// SPDX-License-Identifier: Apache-2.0
/// Directories of quantized checkpoints: opened with everything that says how they are quantized,
/// and written one module at a time, resumable after a kill.
#pragma once

#include <sys/stat.h>  // stat

#include <algorithm>  // std::sort
#include <filesystem>
#include <map>
#include <memory>  // std::unique_ptr: parts do not move
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <system_error>
#include <vector>

#include "subbyte/checkpoint/quantization_config.hpp"
#include "subbyte/exec/progress.hpp"
#include "subbyte/io/mapped_file.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// A module whose weight a directory keeps quantized.
template <class Arch>
struct basic_quantized_module {
  std::string name;
  module_settings settings = gptq_settings{};
  std::vector<std::string_view> tensors;  ///< of the file, those that hold the weight
};

using quantized_module = basic_quantized_module<arch::native>;

namespace detail {

/// The leaves that hold a weight under a scheme; the first one is what a module is known by.
[[nodiscard]] SUBBYTE_INLINE std::span<const std::string_view> leaves_of(
    const module_settings& s) noexcept {
  static constexpr std::string_view gptq[] = {"qweight", "qzeros", "scales", "g_idx"};
  static constexpr std::string_view awq[] = {"qweight", "qzeros", "scaled_zeros", "scales"};
  static constexpr std::string_view compressed[] = {"weight_packed", "weight_scale", "weight_shape",
                                                    "weight_zero_point", "weight_g_idx"};
  static constexpr std::string_view marlin[] = {"B", "s"};
  static constexpr std::string_view awq_marlin[] = {"qweight", "scales"};
  if (std::holds_alternative<gptq_settings>(s)) return gptq;
  if (std::holds_alternative<awq_settings>(s)) return awq;
  if (std::holds_alternative<compressed_tensors_settings>(s)) return compressed;
  if (std::get<marlin_settings>(s).names == marlin_names::awq) return awq_marlin;
  return marlin;
}

template <class Arch>
[[nodiscard]] bool is_file(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISREG(status.st_mode);
}

template <class Arch>
[[nodiscard]] basic_json_value<Arch> read_json_file(const std::string& path) {
  const basic_mapped_file<Arch> file(path);
  const auto bytes = file.bytes();
  return parse_json<Arch>({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path);
}

template <class Arch>
void write_text_file(const std::string& path, std::string_view text) {
  basic_atomic_file<Arch> out(path);
  out.write({reinterpret_cast<const std::uint8_t*>(text.data()), text.size()});
  out.commit();
}

template <class Arch>
[[nodiscard]] bool ends_with(std::string_view text, std::string_view end) noexcept {
  return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
}

}  // namespace detail

/// The weight of a module out of a file, by its settings.
///
/// Throws  what the scheme's load function throws.
template <class Arch = arch::native>
[[nodiscard]] basic_group_codes<Arch> load_module(const safetensors::basic_file<Arch>& file,
                                                  std::string_view module,
                                                  const module_settings& settings) {
  if (const auto* const g = std::get_if<gptq_settings>(&settings)) {
    return load_gptq<Arch>(file, module, *g);
  }
  if (const auto* const a = std::get_if<awq_settings>(&settings)) {
    return load_awq<Arch>(file, module, *a);
  }
  if (const auto* const m = std::get_if<marlin_settings>(&settings)) {
    return load_marlin<Arch>(file, module, *m);
  }
  return load_compressed_tensors<Arch>(file, module,
                                       std::get<compressed_tensors_settings>(settings));
}

/// The tensors of a module, by the settings of the scheme it is to have.
///
/// Throws  what the scheme's store function throws.
template <class Arch = arch::native>
[[nodiscard]] basic_stored_tensors<Arch> store_module(const basic_group_codes<Arch>& w,
                                                      std::string_view module,
                                                      const module_settings& settings) {
  if (const auto* const g = std::get_if<gptq_settings>(&settings)) {
    return store_gptq<Arch>(w, module, *g);
  }
  if (const auto* const a = std::get_if<awq_settings>(&settings)) {
    return store_awq<Arch>(w, module, *a);
  }
  if (const auto* const m = std::get_if<marlin_settings>(&settings)) {
    return store_marlin<Arch>(w, module, *m);
  }
  return store_compressed_tensors<Arch>(w, module, std::get<compressed_tensors_settings>(settings));
}

/// A checkpoint directory of Hugging Face's: safetensors (one file, or shards and their index),
/// config.json, and for every module either the plain weight or quantized codes.
///
/// Which modules are quantized is what the files hold; how, the quantization_config of config.json,
/// or else quantize_config.json or quant_config.json.
///
/// Cost    headers and configurations only; a weight is read when it is asked for.
/// Throws  what the safetensors reader and the configuration's reader throw; not_found for
/// quantized
///         tensors without a configuration; bad_metadata for modules that the configuration leaves
///         out and the files hold quantized, or that the files hold in both forms.
template <class Arch>
class basic_directory {
 public:
  explicit basic_directory(const std::string& path) : path_(path), file_(path) {
    const std::string base = path_ + "/";
    if (detail::is_file<Arch>(base + "config.json")) {
      model_config_ = detail::read_json_file<Arch>(base + "config.json");
    }
    find_quantization(base);
    find_modules();
  }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  [[nodiscard]] const safetensors::basic_file<Arch>& file() const noexcept { return file_; }
  /// config.json as it stands; null if there is none.
  [[nodiscard]] const basic_json_value<Arch>& model_config() const noexcept {
    return model_config_;
  }
  /// None for a checkpoint that is not quantized.
  [[nodiscard]] const std::optional<basic_quantization_config<Arch>>& quantization()
      const noexcept {
    return quantization_;
  }

  /// The quantized modules, in the order of the files.
  [[nodiscard]] std::span<const basic_quantized_module<Arch>> modules() const noexcept {
    return modules_;
  }
  /// The quantized module of that name, or null.
  [[nodiscard]] const basic_quantized_module<Arch>* find_module(
      std::string_view name) const noexcept {
    const auto found = by_name_.find(std::string(name));
    return found == by_name_.end() ? nullptr : &modules_[found->second];
  }
  /// The quantized module that a tensor of the file belongs to, or null for every other tensor.
  [[nodiscard]] const basic_quantized_module<Arch>* owner_of(
      std::string_view tensor) const noexcept {
    const auto found = by_tensor_.find(std::string(tensor));
    return found == by_tensor_.end() ? nullptr : &modules_[found->second];
  }

  /// Whether there is a weight of that name, quantized or not.
  [[nodiscard]] bool has_weight(std::string_view module) const {
    return find_module(module) != nullptr ||
           file_.find_tensor(tensor_name<Arch>(module, "weight")) != nullptr;
  }
  /// The codes of a quantized module. Throws  not_found; what load_module throws.
  [[nodiscard]] basic_group_codes<Arch> load_codes(std::string_view module) const {
    const basic_quantized_module<Arch>* const found = find_module(module);
    if (found == nullptr) {
      throw_error(errc::not_found, path_, "no quantized module " + printable<Arch>(module));
    }
    return load_module<Arch>(file_, found->name, found->settings);
  }
  /// The extents [out, in] of a quantized module, without reading it.
  ///
  /// Throws  not_found, bad_shape.
  [[nodiscard]] matrix_shape shape_of(std::string_view module) const {
    const basic_quantized_module<Arch>* const found = find_module(module);
    if (found == nullptr) {
      throw_error(errc::not_found, path_, "no quantized module " + printable<Arch>(module));
    }
    const basic_module_tensors<Arch> tensors(file_, module);
    if (std::holds_alternative<compressed_tensors_settings>(found->settings)) {
      const auto stored = tensors.get("weight_shape", 1);
      stored.require_type({safetensors::dtype::i64});
      stored.require_shape({2}, "the extents of the weight");
      const auto extent = [&](index_t d) {
        return static_cast<index_t>(load_le<std::uint64_t>(stored.bytes.data() + 8 * d));
      };
      return {extent(0), extent(1)};
    }
    const auto packed = tensors.get(detail::leaves_of(found->settings)[0], 2);
    const index_t a = packed.shape[0], b = packed.shape[1];
    if (const auto* const g = std::get_if<gptq_settings>(&found->settings)) {
      return {b, a * 32 / g->bits};
    }
    if (const auto* const m = std::get_if<marlin_settings>(&found->settings)) {
      return {b * 2 / m->bits, a * 16};
    }
    const auto& awq = std::get<awq_settings>(found->settings);
    if (awq.version == awq_version::gemm) return {b * 32 / awq.bits, a};
    if (awq.version == awq_version::gemv) return {a, b * 8};
    return {a * 4, b};
  }
  /// The weight of a module [out, in] as floats, whichever way it is kept; a vector has one row.
  ///
  /// Throws  not_found; what load_module throws; unsupported_format for element types that are no
  ///         floats.
  [[nodiscard]] tensor<float, 2> load_weight(std::string_view module) const {
    if (find_module(module) != nullptr) {
      const basic_group_codes<Arch> codes = load_codes(module);
      tensor<float, 2> out(uninitialized, codes.rows(), codes.cols());
      codes.dequantize(out.view());
      return out;
    }
    const safetensors::basic_tensor<Arch>& plain =
        file_.tensor(tensor_name<Arch>(module, "weight"));
    tensor<float, 2> out(uninitialized, plain.rows(), plain.cols());
    plain.to_float(out.data());
    return out;
  }

  /// Whether the output layer is the embedding: config.json says so, and there is no lm_head.
  [[nodiscard]] bool ties_embeddings() const {
    const basic_json_value<Arch>* const tied = model_config_.find("tie_word_embeddings");
    return tied != nullptr && tied->boolean() && !has_weight("lm_head");
  }

  /// Names of the files beside the weights that belong to a copy of the directory: all but the
  /// weights in any container, their index, hidden files, and what the writer makes anew.
  [[nodiscard]] std::vector<std::string> other_files() const {
    std::vector<std::string> names;
    std::error_code failed;
    for (std::filesystem::directory_iterator at(path_, failed), end; !failed && at != end;
         at.increment(failed)) {
      std::error_code unreadable;
      const std::string name = at->path().filename().string();
      if (at->is_regular_file(unreadable) && is_carried(name)) names.push_back(name);
    }
    if (failed) throw_errno<Arch>(path_, "list the directory", failed.value());
    std::sort(names.begin(), names.end());
    return names;
  }

 private:
  [[nodiscard]] static bool is_carried(std::string_view name) noexcept {
    for (const char* const made : {"config.json", "quantize_config.json", "quant_config.json"}) {
      if (name == made) return false;
    }
    for (const char* const end :
         {".safetensors", ".safetensors.index.json", ".bin", ".bin.index.json", ".pt", ".pth",
          ".gguf", ".h5", ".msgpack", ".onnx", ".part"}) {
      if (detail::ends_with<Arch>(name, end)) return false;
    }
    return !name.empty() && name[0] != '.';
  }

  void find_quantization(const std::string& base) {
    if (model_config_.find("quantization_config") != nullptr ||
        model_config_.find("compression_config") != nullptr) {
      quantization_subject_ = base + "config.json";
      quantization_ = read_quantization_config<Arch>(model_config_, quantization_subject_);
    }
    for (const char* const leaf : {"quantize_config.json", "quant_config.json"}) {
      if (quantization_ || !detail::is_file<Arch>(base + leaf)) continue;
      quantization_subject_ = base + leaf;
      quantization_ = read_quantization_config<Arch>(
          detail::read_json_file<Arch>(quantization_subject_), quantization_subject_);
    }
  }

  void find_modules() {
    for (const safetensors::basic_tensor<Arch>& t : file_.tensors()) {
      const std::string_view name = t.name();
      std::string_view leaf;
      for (const std::string_view known : {".qweight", ".weight_packed", ".B"}) {
        if (detail::ends_with<Arch>(name, known)) leaf = known;
      }
      if (leaf.empty()) continue;
      const std::string module(name.substr(0, name.size() - leaf.size()));
      if (leaf == ".B" && file_.find_tensor(tensor_name<Arch>(module, "s")) == nullptr) continue;
      add_module(module, leaf.substr(1));
    }
  }

  void add_module(const std::string& name, std::string_view leaf) {
    if (!quantization_) {
      throw_error(errc::not_found, path_,
                  "module " + printable<Arch>(name) + " has a tensor " + std::string(leaf) +
                      ", and no configuration says how it is quantized");
    }
    std::optional<module_settings> settings =
        quantization_->settings_of(name, quantization_subject_);
    if (!settings) {
      throw_error(errc::bad_metadata, quantization_subject_,
                  "module " + printable<Arch>(name) + " is not to be quantized, and has a tensor " +
                      std::string(leaf));
    }
    if (auto* const awq = std::get_if<awq_settings>(&*settings);
        awq != nullptr && file_.find_tensor(tensor_name<Arch>(name, "scaled_zeros")) != nullptr) {
      awq->llm_awq_names = true;
    }
    const std::span<const std::string_view> leaves = detail::leaves_of(*settings);
    if (leaf != leaves[0]) {
      throw_error(errc::bad_metadata, quantization_subject_,
                  std::string("the method is ") + scheme_name(*settings) + ", and module " +
                      printable<Arch>(name) + " has a tensor " + std::string(leaf) +
                      " of another one");
    }
    if (file_.find_tensor(tensor_name<Arch>(name, "weight")) != nullptr) {
      throw_error(
          errc::bad_metadata, path_,
          "module " + printable<Arch>(name) + " has both a weight and a " + std::string(leaf));
    }
    basic_quantized_module<Arch> found{name, *settings, {}};
    for (const std::string_view l : leaves) {
      const auto* const t = file_.find_tensor(tensor_name<Arch>(name, l));
      if (t == nullptr) continue;
      found.tensors.push_back(t->name());
      by_tensor_.emplace(std::string(t->name()), modules_.size());
    }
    by_name_.emplace(name, modules_.size());
    modules_.push_back(std::move(found));
  }

  std::string path_;
  safetensors::basic_file<Arch> file_;
  basic_json_value<Arch> model_config_;
  std::optional<basic_quantization_config<Arch>> quantization_;
  std::string quantization_subject_;
  std::vector<basic_quantized_module<Arch>> modules_;
  std::map<std::string, std::size_t> by_name_;
  std::map<std::string, std::size_t> by_tensor_;
};

using directory = basic_directory<arch::native>;

struct directory_write_options {
  /// As safetensors::write_options; 0: one file.
  index_t max_shard_bytes = 5'000'000'000;
};

/// A copy of a checkpoint directory in the making, with new tensors in the place of some modules.
///
/// For every module to be replaced, in any order: unless has_part(), write_part(). Then finish().
/// A module is one that the source has quantized, or whose plain weight it has.
/// Each part is complete on the disk when write_part() returns, in PATH/.subbyte-parts: the same
/// job started again finds it there and goes on. A directory without config.json and without a
/// model is what a kill leaves behind; finish() writes the other files first, then config.json,
/// then the weights (all at once, as safetensors::writer does), and removes the parts at last.
///
/// Requires  the source lives as long as the writer.
/// Cost      memory: one module, the headers. Disk: the parts and the model at the same time.
/// Throws    bad_argument for a directory that holds anything but parts of the same job (the same
///           source, unchanged, and the same `job` text); io.
template <class Arch>
class basic_directory_writer {
 public:
  basic_directory_writer(const std::string& path, const basic_directory<Arch>& source,
                         std::string_view job, directory_write_options options = {})
      : path_(path), source_(source), options_(options) {
    const std::string identity = identify(job);
    std::error_code failed;
    std::filesystem::create_directories(path_, failed);
    if (failed) throw_errno<Arch>(path_, "create the directory", failed.value());
    const std::string note = parts_directory() + "/job";
    if (detail::is_file<Arch>(note)) {
      const basic_mapped_file<Arch> found(note);
      const auto bytes = found.bytes();
      if (std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()) != identity) {
        throw_error(errc::bad_argument, path_,
                    "it holds the parts of another job, or its source has changed: remove it, or "
                    "write elsewhere");
      }
      return;
    }
    for (std::filesystem::directory_iterator at(path_, failed), end; !failed && at != end;
         at.increment(failed)) {
      const std::string name = at->path().filename().string();
      if (name == parts_leaf || name.compare(0, 9, ".subbyte-") == 0) continue;
      throw_error(errc::bad_argument, path_,
                  "it is not empty (it holds " + printable<Arch>(name) + ")");
    }
    if (failed) throw_errno<Arch>(path_, "list the directory", failed.value());
    std::filesystem::create_directories(parts_directory(), failed);
    if (failed) throw_errno<Arch>(parts_directory(), "create the directory", failed.value());
    detail::write_text_file<Arch>(note, identity);
  }

  /// Whether the module's part was written, now or before a kill.
  [[nodiscard]] bool has_part(std::string_view module) const {
    return detail::is_file<Arch>(part_path(module));
  }
  /// Writes the tensors that take a module's place, and a note to be found by part_note().
  void write_part(std::string_view module, const basic_stored_tensors<Arch>& tensors,
                  std::string_view note = {}) {
    safetensors::basic_writer<Arch> out(part_path(module));
    if (!note.empty()) out.metadata("note", note);
    for (const basic_stored_tensor<Arch>& t : tensors) t.declare(out);
    for (const basic_stored_tensor<Arch>& t : tensors) t.write(out);
    out.finish();
  }

  /// The note of a part; empty if it has none.
  [[nodiscard]] std::string part_note(std::string_view module) const {
    const safetensors::basic_file<Arch> part(part_path(module));
    for (const safetensors::metadata_entry& pair : part.metadata()) {
      if (pair.key == "note") return std::string(pair.value);
    }
    return {};
  }

  /// Puts the copy together: modules with a part have its tensors, all other tensors are carried
  /// over. `quantization` becomes the quantization_config of config.json, and quantize_config.json
  /// too if it is GPTQ's.
  ///
  /// Throws  cancelled, after which the same job can go on.
  void finish(const basic_quantization_config<Arch>& quantization, progress_ref progress = {}) {
    for (const std::string& name : source_.other_files()) copy_file(name);
    basic_json_value<Arch> config = source_.model_config();
    if (!config.is_object()) config = basic_json_value<Arch>::object();
    config.erase("compression_config");
    const basic_json_value<Arch> section = quantization.to_json();
    config.set("quantization_config", section);
    if (std::holds_alternative<gptq_settings>(quantization.base)) {
      detail::write_text_file<Arch>(path_ + "/quantize_config.json", section.to_text() + "\n");
    }
    detail::write_text_file<Arch>(path_ + "/config.json", config.to_text() + "\n");
    write_weights(progress);
    remove_parts();
  }

 private:
  static constexpr const char* parts_leaf = ".subbyte-parts";

  [[nodiscard]] std::string parts_directory() const { return path_ + "/" + parts_leaf; }
  // The number of the module, or of a plain weight's tensor, keeps names short and safe.
  [[nodiscard]] std::string part_path(std::string_view module) const {
    const basic_quantized_module<Arch>* const found = source_.find_module(module);
    if (found != nullptr) {
      return parts_directory() + "/" + std::to_string(found - source_.modules().data()) +
             ".safetensors";
    }
    const safetensors::basic_tensor<Arch>* const plain =
        source_.file().find_tensor(tensor_name<Arch>(module, "weight"));
    if (plain == nullptr) {
      throw_error(errc::not_found, source_.path(), "no module " + printable<Arch>(module));
    }
    return parts_directory() + "/plain-" + std::to_string(plain - source_.file().tensors().data()) +
           ".safetensors";
  }
  // The module whose part may stand in the place of a tensor; empty for tensors that stay.
  [[nodiscard]] std::string replaced_module(const safetensors::basic_tensor<Arch>& t) const {
    const basic_quantized_module<Arch>* const owner = source_.owner_of(t.name());
    if (owner != nullptr) return owner->name;
    constexpr std::string_view leaf = ".weight";
    if (!detail::ends_with<Arch>(t.name(), leaf)) return {};
    return std::string(t.name().substr(0, t.name().size() - leaf.size()));
  }

  [[nodiscard]] std::string identify(std::string_view job) const {
    std::string text(job);
    text += '\n';
    for (index_t i = 0; i < source_.file().shard_count(); ++i) {
      struct stat status {};
      const std::string& shard = source_.file().shard_path(i);
      if (::stat(shard.c_str(), &status) != 0) throw_errno<Arch>(shard, "read its size", errno);
      std::error_code unknown;
      text += std::filesystem::absolute(shard, unknown).lexically_normal().string() + ' ' +
              std::to_string(status.st_size) + ' ' + std::to_string(status.st_mtim.tv_sec) + '.' +
              std::to_string(status.st_mtim.tv_nsec) + '\n';
    }
    return text;
  }

  void copy_file(const std::string& name) const {
    const std::string from = source_.path() + "/" + name;
    basic_atomic_file<Arch> out(path_ + "/" + name);
    struct stat status {};
    if (::stat(from.c_str(), &status) != 0) throw_errno<Arch>(from, "read its size", errno);
    if (status.st_size != 0) {  // an empty file cannot be mapped
      const basic_mapped_file<Arch> in(from);
      out.write(in.bytes());
    }
    out.commit();
  }

  void write_weights(progress_ref progress) {
    safetensors::basic_writer<Arch> out(path_ + "/model.safetensors", {options_.max_shard_bytes});
    std::set<std::string_view> keys;
    for (const safetensors::metadata_entry& pair : source_.file().metadata()) {
      if (keys.insert(pair.key).second) out.metadata(pair.key, pair.value);
    }
    if (keys.count("format") == 0) out.metadata("format", "pt");  // transformers wants to see it
    std::vector<std::unique_ptr<safetensors::basic_file<Arch>>> parts;
    std::vector<const safetensors::basic_tensor<Arch>*> all;
    std::set<std::string> replaced;
    index_t total = 0;
    for (const safetensors::basic_tensor<Arch>& t : source_.file().tensors()) {
      const std::string module = replaced_module(t);
      if (module.empty() || !has_part(module)) {
        all.push_back(&t);
      } else if (replaced.insert(module).second) {
        parts.push_back(std::make_unique<safetensors::basic_file<Arch>>(part_path(module)));
        for (const safetensors::basic_tensor<Arch>& made : parts.back()->tensors()) {
          all.push_back(&made);
        }
      }
    }
    for (const safetensors::basic_tensor<Arch>* const t : all) {
      total += out.declare(t->name(), t->shape(), t->type());
    }
    index_t done = 0;
    for (const safetensors::basic_tensor<Arch>* const t : all) {
      constexpr std::size_t piece = std::size_t{1} << 24;
      for (std::size_t at = 0; at < t->bytes().size(); at += piece) {
        const std::size_t left = t->bytes().size() - at;
        const std::size_t n = left < piece ? left : piece;
        out.write(t->name(), t->bytes().subspan(at, n));
        done += static_cast<index_t>(n);
        if (!progress(static_cast<double>(done) / static_cast<double>(total))) {
          throw_error(errc::cancelled, path_, "the weights were not written; the parts are there");
        }
      }
    }
    out.finish();
  }

  void remove_parts() const {
    std::error_code ignored;
    for (std::size_t i = 0; i < source_.modules().size(); ++i) {
      std::filesystem::remove(parts_directory() + "/" + std::to_string(i) + ".safetensors",
                              ignored);
    }
    for (std::size_t i = 0; i < source_.file().tensors().size(); ++i) {
      std::filesystem::remove(parts_directory() + "/plain-" + std::to_string(i) + ".safetensors",
                              ignored);
    }
    std::filesystem::remove(parts_directory() + "/job", ignored);
    // Temporaries of killed runs included.
    std::filesystem::remove_all(parts_directory(), ignored);
    std::vector<std::filesystem::path> stale;
    for (std::filesystem::directory_iterator at(path_, ignored), end; !ignored && at != end;
         at.increment(ignored)) {
      const std::string name = at->path().filename().string();
      if (name.compare(0, 9, ".subbyte-") == 0) stale.push_back(at->path());
    }
    for (const auto& file : stale) std::filesystem::remove(file, ignored);
  }

  std::string path_;
  const basic_directory<Arch>& source_;
  directory_write_options options_;
};

using directory_writer = basic_directory_writer<arch::native>;

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
