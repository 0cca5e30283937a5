// SPDX-License-Identifier: Apache-2.0
/// GGUF models that are split over several files: a reader that finds and checks all of them and
/// reads as one.
#pragma once

#include <sys/stat.h>  // stat: is a shard there

#include <cerrno>
#include <cstdio>  // std::snprintf
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/io/gguf.hpp"
#include "subbyte/io/name_index.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace gguf {

/// The keys of a shard: its number from 0 and the number of shards, both u16, and the tensors of
/// all shards together, i32. The first shard has every key of the model beside them.
///
/// Source  llama.cpp, src/llama-arch.cpp (LLM_KV_SPLIT_*) and tools/gguf-split.
inline constexpr const char* split_number_key = "split.no";
inline constexpr const char* split_count_key = "split.count";
inline constexpr const char* split_tensors_key = "split.tensors.count";
inline constexpr index_t max_split_count = 65535;

/// Whether a key is one of those.
[[nodiscard]] SUBBYTE_INLINE bool is_split_key(std::string_view key) noexcept {
  return key == split_number_key || key == split_count_key || key == split_tensors_key;
}

/// "PREFIX-00002-of-00003.gguf" for shard 1 of 3.
///
/// Source  llama.cpp, src/llama.cpp (llama_split_path).
template <class Arch = arch::native>
[[nodiscard]] std::string split_path(std::string_view prefix, index_t shard, index_t count) {
  char numbers[64];
  std::snprintf(numbers, sizeof(numbers), "-%05lld-of-%05lld.gguf",
                static_cast<long long>(shard + 1), static_cast<long long>(count));
  return std::string(prefix) + numbers;
}

/// What the name of a shard says.
struct split_name {
  std::string_view prefix;
  index_t shard;  // from 0
  index_t count;
};

/// Takes the name of a shard apart; nothing if it is not of the form that split_path makes.
template <class Arch = arch::native>
[[nodiscard]] std::optional<split_name> parse_split_path(std::string_view path) noexcept {
  // "-00001-of-00003.gguf"
  constexpr std::size_t length = 20;
  if (path.size() <= length) return std::nullopt;
  const std::string_view end = path.substr(path.size() - length);
  if (end[0] != '-' || end.substr(6, 4) != "-of-" || end.substr(15) != ".gguf") {
    return std::nullopt;
  }
  index_t numbers[2] = {0, 0};
  for (std::size_t i = 0; i < 2; ++i) {
    for (const char c : end.substr(i == 0 ? 1 : 10, 5)) {
      if (c < '0' || c > '9') return std::nullopt;
      numbers[i] = numbers[i] * 10 + (c - '0');
    }
  }
  if (numbers[0] < 1 || numbers[0] > numbers[1]) return std::nullopt;
  return split_name{path.substr(0, path.size() - length), numbers[0] - 1, numbers[1]};
}

/// A GGUF model in one file or in shards, read as one: the keys of the first shard, and the tensors
/// of all, shard by shard.
///
/// Every shard is checked as gguf::basic_file checks it, and all of them against each other: the
/// names, split.no, split.count and split.tensors.count agree, and no two tensors have one name.
///
/// Cost    as basic_file for every shard, and 16 times the bytes of the headers again and 4 KiB for
///         every shard that is there, however many a file claims; all shards stay mapped.
/// Throws  what basic_file throws, with the path of the shard; not_found for a shard that is not
///         there; bad_metadata with the path of a shard that contradicts the others.
/// Source  llama.cpp, src/llama-model-loader.cpp.
template <class Arch>
class basic_split_file {
 public:
  /// `path` is any of the shards (the others are found by its name), or a file that is not split.
  explicit basic_split_file(const std::string& path, open_options options = {}) : name_(path) {
    basic_file<Arch> opened(path, options);
    const index_t count = claimed_count(opened);
    if (count <= 1) {
      shards_.push_back(std::move(opened));
    } else {
      const std::optional<split_name> named = parse_split_path<Arch>(path);
      if (!named) {
        throw_error(errc::bad_metadata, path,
                    "one shard of " + std::to_string(count) + ", and its name does not end in " +
                        split_path<Arch>("", 0, count) +
                        " (or another number): the others cannot be found");
      }
      if (named->count != count) {
        throw_error(errc::bad_metadata, path,
                    std::string(split_count_key) + " is " + std::to_string(count) +
                        ", and the name says " + std::to_string(named->count));
      }
      // No room for `count` shards beforehand: a small file may claim many that are not there.
      for (index_t i = 0; i < count; ++i) {
        if (i == named->shard) {
          shards_.push_back(std::move(opened));
        } else {
          add(split_path<Arch>(named->prefix, i, count), options);
        }
        check_number(i, count);
      }
    }
    join();
  }
  /// The shards in order, under whatever names.
  explicit basic_split_file(std::span<const std::string> paths, open_options options = {}) {
    if (paths.empty()) throw_error(errc::bad_argument, "paths", "no shards, required is one");
    name_ = paths[0];
    shards_.reserve(paths.size());
    for (std::size_t i = 0; i < paths.size(); ++i) {
      add(paths[i], options);
      if (paths.size() > 1 || claimed_count(shards_[0]) > 1) {
        check_number(static_cast<index_t>(i), static_cast<index_t>(paths.size()));
      }
    }
    join();
  }

  /// The path as given.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  /// The files; one if the model is not split.
  [[nodiscard]] std::span<const basic_file<Arch>> shards() const noexcept { return shards_; }
  /// All files together.
  [[nodiscard]] index_t size_bytes() const noexcept {
    index_t total = 0;
    for (const basic_file<Arch>& shard : shards_) total += shard.size_bytes();
    return total;
  }

  /// Keys and values of the first shard, those of the split included.
  [[nodiscard]] std::span<const metadata_entry> metadata() const noexcept {
    return shards_[0].metadata();
  }
  /// As basic_file::find, get and get_or, in the first shard.
  [[nodiscard]] const metadata_entry* find(std::string_view key) const noexcept {
    return shards_[0].find(key);
  }
  template <class T>
  [[nodiscard]] T get(std::string_view key) const {
    return shards_[0].template get<T>(key);
  }
  template <class T>
  [[nodiscard]] T get_or(std::string_view key, T fallback) const {
    return shards_[0].get_or(key, fallback);
  }

  /// The tensors of all shards, shard by shard in file order.
  [[nodiscard]] std::span<const basic_tensor<Arch>> tensors() const noexcept { return tensors_; }
  /// The tensor of that name in any shard, or null. O(log n).
  [[nodiscard]] const basic_tensor<Arch>* find_tensor(std::string_view name) const noexcept {
    return names_.find(tensors_, name, tensor_name);
  }
  /// The tensor of that name. Throws  not_found.
  [[nodiscard]] const basic_tensor<Arch>& tensor(std::string_view name) const {
    const basic_tensor<Arch>* const found = find_tensor(name);
    if (found == nullptr) {
      throw_error(errc::not_found, name_, "no tensor " + printable<Arch>(name));
    }
    return *found;
  }

 private:
  [[nodiscard]] static std::string_view tensor_name(const basic_tensor<Arch>& t) noexcept {
    return t.name();
  }

  [[nodiscard]] static index_t claimed_count(const basic_file<Arch>& shard) {
    const index_t count = shard.template get_or<index_t>(split_count_key, 0);
    if (count < 0 || count > max_split_count) {
      throw_error(errc::bad_metadata, shard.name(),
                  std::string(split_count_key) + " is " + std::to_string(count) +
                      ", required is 0 to " + std::to_string(max_split_count));
    }
    return count;
  }

  void add(const std::string& path, const open_options& options) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 && errno == ENOENT) {
      throw_error(errc::not_found, path, "the shard is not there, and " + name_ + " needs it");
    }
    shards_.emplace_back(path, options);
  }

  // The shard added last.
  void check_number(index_t shard, index_t count) const {
    const basic_file<Arch>& file = shards_.back();
    const index_t found_count = file.template get<index_t>(split_count_key);
    if (found_count != count) {
      throw_error(errc::bad_metadata, file.name(),
                  std::string(split_count_key) + " is " + std::to_string(found_count) +
                      ", and the model has " + std::to_string(count) + " shards");
    }
    const index_t number = file.template get<index_t>(split_number_key);
    if (number != shard) {
      throw_error(errc::bad_metadata, file.name(),
                  std::string(split_number_key) + " is " + std::to_string(number) + ", required " +
                      "is " + std::to_string(shard) + ": it is not the shard of this place");
    }
  }

  void join() {
    for (const basic_file<Arch>& shard : shards_) {
      tensors_.insert(tensors_.end(), shard.tensors().begin(), shard.tensors().end());
    }
    const index_t total = static_cast<index_t>(tensors_.size());
    if (shards_.size() > 1) {
      for (const basic_file<Arch>& shard : shards_) {
        // llama.cpp looks at the first shard's only.
        if (&shard != &shards_[0] && shard.find(split_tensors_key) == nullptr) continue;
        const index_t claimed = shard.template get<index_t>(split_tensors_key);
        if (claimed != total) {
          throw_error(errc::bad_metadata, shard.name(),
                      std::string(split_tensors_key) + " is " + std::to_string(claimed) +
                          ", and the shards have " + std::to_string(total) + " together");
        }
      }
    }
    const auto twice = names_.assign(tensors_, tensor_name);
    if (twice) {
      const std::string_view name = tensors_[static_cast<std::size_t>(twice->first)].name();
      throw_error(
          errc::bad_metadata, shard_of(twice->second).name(),
          "tensor " + printable<Arch>(name) + " is in " + shard_of(twice->first).name() + " too");
    }
  }

  [[nodiscard]] const basic_file<Arch>& shard_of(index_t tensor) const noexcept {
    std::size_t shard = 0;
    while (tensor >= static_cast<index_t>(shards_[shard].tensors().size())) {
      tensor -= static_cast<index_t>(shards_[shard].tensors().size());
      ++shard;
    }
    return shards_[shard];
  }

  std::string name_;
  std::vector<basic_file<Arch>> shards_;
  std::vector<basic_tensor<Arch>> tensors_;
  basic_name_index<Arch> names_;  // of tensors_
};

using split_file = basic_split_file<arch::native>;

/// Maps a model of one file or more and checks all of it: `path` is any shard, or the file.
template <class Arch = arch::native>
[[nodiscard]] basic_split_file<Arch> open_split(const std::string& path,
                                                open_options options = {}) {
  return basic_split_file<Arch>(path, options);
}

}  // namespace gguf
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
