// SPDX-License-Identifier: Apache-2.0
/// Shows what is in a GGUF or safetensors file: metadata, tensors, types, shapes, bits per weight;
/// or, with --verify, what is wrong with it.
#include <sys/stat.h>  // stat: is the path a folder

#include <cmath>
#include <cstdio>
#include <map>
#include <nlohmann/json.hpp>
#include <vector>

#include "command_line.hpp"
#include "subbyte/checkpoint/verify.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/io/gguf.hpp"
#include "subbyte/io/safetensors.hpp"
#include "subbyte/metrics/cost.hpp"

namespace {

using json = nlohmann::ordered_json;
using subbyte::index_t;
namespace gguf = subbyte::gguf;
namespace safetensors = subbyte::safetensors;
namespace checkpoint = subbyte::checkpoint;

struct tensor_row {
  std::string name, type;
  std::vector<index_t> shape;  // the last extent is contiguous
  subbyte::storage_cost cost;
};

struct listing {
  std::string container;
  index_t file_bytes;
  std::vector<std::pair<std::string, json>> metadata;
  std::vector<tensor_row> tensors;
};

template <class T>
json to_json(T value) {
  if constexpr (std::is_floating_point_v<T>) {
    if (!std::isfinite(value)) return nullptr;  // JSON has no NaN and no infinity
  }
  return value;
}

template <class T>
json read_value(const gguf::metadata_entry& entry) {
  if (entry.type() != gguf::value_type::array) return to_json(entry.get<T>());
  json list = json::array();
  for (const T item : entry.get<gguf::array_view<T>>()) list.push_back(to_json(item));
  return list;
}

json read_value(const gguf::metadata_entry& entry) {
  switch (entry.element_type()) {
    case gguf::value_type::u8:
      return read_value<std::uint8_t>(entry);
    case gguf::value_type::i8:
      return read_value<std::int8_t>(entry);
    case gguf::value_type::u16:
      return read_value<std::uint16_t>(entry);
    case gguf::value_type::i16:
      return read_value<std::int16_t>(entry);
    case gguf::value_type::u32:
      return read_value<std::uint32_t>(entry);
    case gguf::value_type::i32:
      return read_value<std::int32_t>(entry);
    case gguf::value_type::u64:
      return read_value<std::uint64_t>(entry);
    case gguf::value_type::i64:
      return read_value<std::int64_t>(entry);
    case gguf::value_type::f32:
      return read_value<float>(entry);
    case gguf::value_type::f64:
      return read_value<double>(entry);
    case gguf::value_type::boolean:
      return read_value<bool>(entry);
    case gguf::value_type::string:
    case gguf::value_type::array:
      return read_value<std::string_view>(entry);
  }
  return nullptr;
}

listing list_gguf(const std::string& path) {
  const gguf::file file = gguf::open(path);
  listing list{"GGUF version " + std::to_string(file.version()), file.size_bytes(), {}, {}};
  for (const gguf::metadata_entry& entry : file.metadata()) {
    list.metadata.emplace_back(entry.key(), read_value(entry));
  }
  for (const gguf::tensor& t : file.tensors()) {
    const char* const known = gguf::find_tensor_type(t.type()).name;
    list.tensors.push_back({std::string(t.name()),
                            known != nullptr ? known : "type " + std::to_string(t.type()),
                            {t.dims().rbegin(), t.dims().rend()},
                            {t.size(), 0, t.size_bytes()}});
  }
  return list;
}

listing list_safetensors(const std::string& path) {
  const safetensors::file file = safetensors::open(path);
  listing list{"safetensors", file.size_bytes(), {}, {}};
  if (file.shard_count() > 1)
    list.container += ", " + std::to_string(file.shard_count()) + " files";
  for (const safetensors::metadata_entry& entry : file.metadata()) {
    list.metadata.emplace_back(entry.key, entry.value);
  }
  for (const safetensors::tensor& t : file.tensors()) {
    list.tensors.push_back({std::string(t.name()),
                            t.type_name(),
                            {t.shape().begin(), t.shape().end()},
                            {t.size(), 0, static_cast<index_t>(t.bytes().size())}});
  }
  return list;
}

bool is_folder(const std::string& path) {
  struct stat status {};
  return ::stat(path.c_str(), &status) == 0 && S_ISDIR(status.st_mode);
}

// Whether it is a GGUF file; otherwise it is safetensors in one of their forms.
bool is_gguf(const std::string& path) {
  if (is_folder(path)) return false;
  const subbyte::mapped_file file(path);
  const auto bytes = file.bytes();
  if (bytes[0] == 'G') return true;
  const bool header = bytes.size() > 8 && bytes[8] == '{';
  if (!header && bytes[0] != '{') {
    subbyte::throw_error(subbyte::errc::bad_magic, path,
                         "neither a GGUF file nor a safetensors file");
  }
  return false;
}

listing list_file(const std::string& path) {
  return is_gguf(path) ? list_gguf(path) : list_safetensors(path);
}

std::vector<checkpoint::finding> verify_file(const std::string& path,
                                             const checkpoint::verify_options& options) {
  if (is_gguf(path)) {
    subbyte::thread_pool pool;
    return checkpoint::verify(gguf::open_split(path), options, pool);
  }
  if (is_folder(path)) return checkpoint::verify(checkpoint::directory(path), options);
  return checkpoint::verify(safetensors::open(path), options);
}

// Returns whether there is no fault.
bool print_findings(const std::vector<checkpoint::finding>& found, const std::string& path,
                    bool as_json) {
  const index_t faults = checkpoint::fault_count(found);
  if (as_json) {
    json root;
    root["file"] = path;
    root["faults"] = faults;
    root["findings"] = json::array();
    for (const checkpoint::finding& f : found) {
      json entry = {{"fault", f.fault}, {"subject", f.subject}, {"message", f.message}};
      if (f.row >= 0) entry["row"] = f.row;
      if (f.block >= 0) entry["block"] = f.block;
      root["findings"].push_back(std::move(entry));
    }
    std::cout << root.dump(1, ' ', false, json::error_handler_t::replace) << "\n";
    return faults == 0;
  }
  for (const checkpoint::finding& f : found) {
    std::printf("%s %s\n", f.fault ? "FAULT" : "note ", f.text().c_str());
  }
  std::printf("%s: %lld faults, %lld notes\n", path.c_str(), static_cast<long long>(faults),
              static_cast<long long>(found.size()) - static_cast<long long>(faults));
  return faults == 0;
}

void print_json(const listing& list, const std::string& path) {
  json root;
  root["file"] = path;
  root["container"] = list.container;
  root["file_bytes"] = list.file_bytes;
  json::object_t metadata;  // appended, not looked up: a file may hold very many keys
  for (const auto& [key, value] : list.metadata) metadata.push_back({key, value});
  root["metadata"] = std::move(metadata);
  root["tensors"] = json::array();
  subbyte::storage_cost all{};
  for (const tensor_row& t : list.tensors) {
    root["tensors"].push_back({{"name", t.name},
                               {"type", t.type},
                               {"shape", t.shape},
                               {"weights", t.cost.weights},
                               {"bytes", t.cost.total_bytes},
                               {"bits_per_weight", to_json(t.cost.bits_per_weight())}});
    all.merge(t.cost);
  }
  root["weights"] = all.weights;
  root["tensor_bytes"] = all.total_bytes;
  root["bits_per_weight"] = to_json(all.bits_per_weight());
  // Names and strings of a file need not be UTF-8.
  std::cout << root.dump(1, ' ', false, json::error_handler_t::replace) << "\n";
}

std::string short_text(const json& value) {
  const auto dump = [](const json& v) {
    return v.is_string() ? v.get<std::string>()
                         : v.dump(-1, ' ', false, json::error_handler_t::replace);
  };
  if (!value.is_array()) return subbyte::printable(dump(value));
  std::string text;
  for (std::size_t i = 0; i < value.size() && i < 6; ++i) {
    text += (i > 0 ? ", " : "") + dump(value[i]);
  }
  return std::to_string(value.size()) + " values: " + subbyte::printable(text) +
         (value.size() > 6 ? ", ..." : "");
}

void print_costs(const char* name, index_t tensors, const subbyte::storage_cost& cost) {
  std::printf("  %-10s %8lld %16lld %16lld %10.4f\n", name, static_cast<long long>(tensors),
              static_cast<long long>(cost.weights), static_cast<long long>(cost.total_bytes),
              cost.bits_per_weight());
}

void print_text(const listing& list, const std::string& path) {
  std::printf("%s: %s, %lld bytes\n\nmetadata\n", path.c_str(), list.container.c_str(),
              static_cast<long long>(list.file_bytes));
  for (const auto& [key, value] : list.metadata) {
    std::printf("  %-42s %s\n", subbyte::printable(key).c_str(), short_text(value).c_str());
  }
  std::printf("\ntensors\n  %-44s %-10s %-20s %14s %8s\n", "name", "type", "shape", "bytes",
              "bits/w");
  std::map<std::string, std::pair<index_t, subbyte::storage_cost>> types;
  subbyte::storage_cost all{};
  for (const tensor_row& t : list.tensors) {
    std::string shape;
    for (const index_t extent : t.shape) {
      shape += (shape.empty() ? "" : " x ") + std::to_string(extent);
    }
    std::printf("  %-44s %-10s %-20s %14lld %8.4f\n", subbyte::printable(t.name).c_str(),
                t.type.c_str(), shape.empty() ? "scalar" : shape.c_str(),
                static_cast<long long>(t.cost.total_bytes), t.cost.bits_per_weight());
    types[t.type].first += 1;
    types[t.type].second.merge(t.cost);
    all.merge(t.cost);
  }
  std::printf("\n  %-10s %8s %16s %16s %10s\n", "type", "tensors", "weights", "bytes", "bits/w");
  for (const auto& [type, sum] : types) print_costs(type.c_str(), sum.first, sum.second);
  print_costs("all", static_cast<index_t>(list.tensors.size()), all);
}

}  // namespace

int main(int argc, char** argv) {
  std::string path;
  bool as_json = false, verify = false, sound = true;
  checkpoint::verify_options options;
  CLI::App app("Shows what is in a GGUF or safetensors file.", "inspect");
  app.add_option("file", path,
                 "GGUF file (with --verify any shard of a split one), safetensors file, index of a "
                 "sharded one, or folder with either")
      ->required();
  app.add_flag("--json", as_json, "everything as JSON");
  CLI::Option* const flag = app.add_flag(
      "--verify", verify,
      "instead, check metadata, names, shapes and every value: a line for each finding, exit code "
      "3 if there is a fault");
  app.add_option("--largest", options.limits.largest, "magnitudes above this are faults")
      ->needs(flag)
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  const int code = example::run(app, argc, argv, [&] {
    if (verify) {
      sound = print_findings(verify_file(path, options), path, as_json);
      return;
    }
    const listing list = list_file(path);
    if (as_json) {
      print_json(list, path);
    } else {
      print_text(list, path);
    }
  });
  return code == 0 && !sound ? 3 : code;
}
