// SPDX-License-Identifier: Apache-2.0
/// Writes safetensors, one file or shards with an index: names appear when everything is complete,
/// and memory does not grow with the model.
#pragma once

#include <unistd.h>  // unlink

#include <cerrno>
#include <cstdio>  // std::snprintf: numbers of shards
#include <memory>  // std::unique_ptr: files do not move
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "subbyte/io/atomic_file.hpp"
#include "subbyte/io/json_text.hpp"
#include "subbyte/io/safetensors.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace safetensors {

/// The element type that has the bytes of T; U8 for std::uint8_t.
template <class T>
[[nodiscard]] SUBBYTE_INLINE constexpr dtype dtype_of() noexcept {
  dtype found = dtype::u8;
  for (int i = 0; i < dtype_count; ++i) {
    const dtype type = static_cast<dtype>(i);
    if (type != dtype::boolean && holds<T>(type)) found = type;
  }
  return found;
}

struct write_options {
  /// Tensors of a shard take at most this many bytes, a larger tensor its own shard; 0: one file.
  index_t max_shard_bytes = 0;
};

/// A safetensors file, or shards with their index, in the making.
///
/// First metadata() for the pairs of __metadata__, and for every tensor in file order either
/// tensor(), which keeps a view until finish(), or declare(). Then write() the bytes of the
/// declared tensors, in the order of declaration and in pieces of any size; then finish().
///
/// Data lie in that order without gaps, behind a header that spaces fill up to a multiple of 8
/// bytes: elements of up to 8 bytes are aligned as long as wide types come before narrow ones.
///
/// With max_shard_bytes, and if the tensors need more than one shard, "DIR/model.safetensors"
/// becomes DIR/model-00001-of-00003.safetensors and so on, and DIR/model.safetensors.index.json; a
/// shard ends before the tensor that would take it past the limit. All files are complete on the
/// disk before the first gets its name. Where no file of those names is there, shards are renamed
/// first and the index last. Where a set is replaced, an index that names the temporaries stands in
/// between, so that at every moment the directory's index leads to the whole of the old set or the
/// whole of the new one; without hard links in the file system this last promise shrinks to the
/// time before the first rename. At last the other form of the same model is removed, an old
/// DIR/model.safetensors or the index; shards that an old index listed and a new one does not stay.
///
/// Cost    memory: twice the headers, 64 KiB, no tensor data. finish() waits for the disk.
/// Throws  bad_metadata, bad_shape for what no safetensors file can hold; bad_argument for calls
///         out of order and data missing at finish(); io (see atomic_file). After a throw from
///         write() or finish() the files are lost; destruction without finish() removes every
///         trace of them.
/// Source  safetensors, README.md; names and index as Hugging Face transformers writes them.
template <class Arch>
class basic_writer {
 public:
  explicit basic_writer(const std::string& path, write_options options = {})
      : path_(path), options_(options) {
    if (options.max_shard_bytes < 0) {
      throw_error(errc::bad_argument, "max_shard_bytes",
                  std::to_string(options.max_shard_bytes) + ", required is at least 0");
    }
    // A target that cannot be written is refused before any work; sharded names come later.
    basic_atomic_file<Arch> probe(options.max_shard_bytes == 0 ? path : shard_name(0, 1));
  }

  /// Adds a pair to __metadata__ (of every shard).
  void metadata(std::string_view key, std::string_view value) {
    require_not_started(key);
    require_utf8(key, "the key");
    require_utf8(value, "the value");
    if (!keys_.emplace(key).second) {
      throw_error(errc::bad_metadata, printable<Arch>(key), "the key was added before");
    }
    if (!pairs_.empty()) pairs_ += ',';
    append_json_string<Arch>(pairs_, key);
    pairs_ += ':';
    append_json_string<Arch>(pairs_, value);
  }

  /// Adds a tensor whose bytes come later through write(); returns how many. The last extent is the
  /// contiguous one; an empty shape is a scalar.
  index_t declare(std::string_view name, std::span<const index_t> shape, dtype type) {
    return add(name, shape, type, nullptr);
  }

  /// Adds a tensor. The view's bytes are read by the time finish() returns, and must live until
  /// then.
  template <class T, std::size_t Rank>
  void tensor(std::string_view name, tensor_view<T, Rank> view) {
    index_t shape[Rank];
    for (std::size_t d = 0; d < Rank; ++d) shape[d] = view.extent(d);
    add(name, shape, dtype_of<std::remove_const_t<T>>(),
        reinterpret_cast<const std::uint8_t*>(view.data()));
  }

  /// Adds a tensor as it stands in a file that was read, which must live until finish().
  void tensor(const basic_tensor<Arch>& source) {
    add(source.name(), source.shape(), source.type(), source.bytes().data());
  }

  /// The next bytes of a declared tensor. The first call writes a header: no pairs and tensors can
  /// be added after it. Tensors added with tensor() are written when their turn comes.
  ///
  /// Throws  bad_argument if `name` is not the tensor whose turn it is, or has fewer bytes left.
  void write(std::string_view name, std::span<const std::uint8_t> bytes) {
    require_open();
    start();
    advance();
    if (current_ == tensors_.size()) {
      throw_error(errc::bad_argument, printable<Arch>(name),
                  "all declared tensors are complete already");
    }
    const pending& turn = tensors_[current_];
    const index_t left = turn.size_bytes - written_;
    if (turn.name != name) {
      throw_error(errc::bad_argument, printable<Arch>(name),
                  "data come in the order of declaration: next are " + std::to_string(left) +
                      " bytes of " + printable<Arch>(turn.name));
    }
    if (static_cast<index_t>(bytes.size()) > left) {
      throw_error(errc::bad_argument, printable<Arch>(name),
                  std::to_string(bytes.size()) + " bytes, and only " + std::to_string(left) +
                      " of the declared " + std::to_string(turn.size_bytes) + " are left");
    }
    files_.back()->write(bytes);
    written_ += static_cast<index_t>(bytes.size());
    advance();
  }

  /// Completes the file or the set and gives it its names.
  ///
  /// Throws  bad_argument if declared data are missing.
  void finish() {
    require_open();
    start();
    advance();
    if (current_ != tensors_.size()) {
      const pending& missing = tensors_[current_];
      throw_error(errc::bad_argument, printable<Arch>(missing.name),
                  std::to_string(written_) + " of the declared " +
                      std::to_string(missing.size_bytes) + " bytes were written");
    }
    finished_ = true;
    files_.back()->seal();
    if (shard_count() == 1) {
      files_.back()->commit();
      if (options_.max_shard_bytes != 0) remove_other(index_path());
    } else {
      commit_set();
      remove_other(path_);
    }
  }

  /// Of the tensors added so far.
  [[nodiscard]] index_t shard_count() const noexcept {
    return tensors_.empty() ? 1 : tensors_.back().shard + 1;
  }
  /// Where a shard goes, if there are no more tensors; the path as given if one file holds all.
  [[nodiscard]] std::string shard_path(index_t shard) const {
    SUBBYTE_EXPECTS(shard >= 0 && shard < shard_count());
    return shard_count() == 1 ? path_ : shard_name(shard, shard_count());
  }
  /// Where the index of a sharded set goes.
  [[nodiscard]] std::string index_path() const { return stem() + ".safetensors.index.json"; }

 private:
  using file = basic_atomic_file<Arch>;

  struct pending {
    std::string name;
    std::vector<index_t> shape;
    const std::uint8_t* data;  // null: comes through write()
    index_t size_bytes;
    index_t begin;  // within its shard's data
    index_t shard;
    dtype type;
  };

  [[nodiscard]] std::string stem() const {
    constexpr std::string_view ending = ".safetensors";
    const std::string_view path = path_;
    const bool named =
        path.size() > ending.size() && path.substr(path.size() - ending.size()) == ending;
    return std::string(named ? path.substr(0, path.size() - ending.size()) : path);
  }
  [[nodiscard]] std::string shard_name(index_t shard, index_t count) const {
    char numbers[64];
    std::snprintf(numbers, sizeof(numbers), "-%05lld-of-%05lld", static_cast<long long>(shard + 1),
                  static_cast<long long>(count));
    return stem() + numbers + ".safetensors";
  }
  [[nodiscard]] static std::string_view leaf(std::string_view path) noexcept {
    const std::size_t slash = path.rfind('/');
    return slash == std::string_view::npos ? path : path.substr(slash + 1);
  }

  void require_open() const {
    if (finished_) throw_error(errc::bad_argument, path_, "the file is finished already");
  }
  void require_not_started(std::string_view what) const {
    require_open();
    if (!files_.empty()) {
      throw_error(errc::bad_argument, printable<Arch>(what),
                  "pairs and tensors are added before the first data are written");
    }
  }
  static void require_utf8(std::string_view text, const char* what) {
    if (!is_utf8<Arch>(text)) {
      throw_error(errc::bad_metadata, printable<Arch>(text),
                  std::string(what) + " is not UTF-8, which JSON needs");
    }
  }

  index_t add(std::string_view name, std::span<const index_t> shape, dtype type,
              const std::uint8_t* data) {
    require_not_started(name);
    require_utf8(name, "the name");
    if (name == "__metadata__") {
      throw_error(errc::bad_metadata, printable<Arch>(name), "no tensor can have this name");
    }
    for (const index_t extent : shape) {
      if (extent < 0) {
        throw_error(errc::bad_shape, printable<Arch>(name),
                    "extent " + std::to_string(extent) + " is negative");
      }
    }
    const std::optional<index_t> size = checked_size<Arch>(shape);
    const std::optional<index_t> bits =
        size ? checked_multiply(*size, traits_of(type).bits) : std::nullopt;
    if (!bits) {
      throw_error(errc::bad_shape, printable<Arch>(name),
                  "the product of the extents does not fit 63 bits");
    }
    if (*bits % 8 != 0) {
      throw_error(errc::bad_shape, printable<Arch>(name),
                  std::to_string(*size) + " elements of " + traits_of(type).name +
                      " are no whole number of bytes");
    }
    const index_t size_bytes = *bits / 8;
    index_t shard = 0, begin = 0;
    if (!tensors_.empty()) {
      const pending& before = tensors_.back();
      shard = before.shard;
      begin = before.begin + before.size_bytes;
    }
    const std::optional<index_t> total = checked_add(total_bytes_, size_bytes);
    if (!total) {
      throw_error(errc::bad_shape, printable<Arch>(name),
                  std::to_string(size_bytes) + " bytes take the set past 2^63");
    }
    if (options_.max_shard_bytes != 0 && begin != 0 &&
        size_bytes > options_.max_shard_bytes - begin) {
      ++shard;
      begin = 0;
    }
    if (!names_.emplace(name).second) {
      throw_error(errc::bad_metadata, printable<Arch>(name),
                  "a tensor of that name was added before");
    }
    tensors_.push_back(
        {std::string(name), {shape.begin(), shape.end()}, data, size_bytes, begin, shard, type});
    total_bytes_ = *total;
    return size_bytes;
  }

  // Compact JSON, as upstream's serializer writes it.
  [[nodiscard]] std::string header(index_t shard) const {
    std::string text = "{";
    if (!pairs_.empty()) text += "\"__metadata__\":{" + pairs_ + "}";
    for (const pending& t : tensors_) {
      if (t.shard != shard) continue;
      if (text.size() > 1) text += ',';
      append_json_string<Arch>(text, t.name);
      text += ":{\"dtype\":\"";
      text += traits_of(t.type).name;
      text += "\",\"shape\":[";
      for (std::size_t d = 0; d < t.shape.size(); ++d) {
        if (d != 0) text += ',';
        text += std::to_string(t.shape[d]);
      }
      text += "],\"data_offsets\":[" + std::to_string(t.begin) + "," +
              std::to_string(t.begin + t.size_bytes) + "]}";
    }
    text += '}';
    while (text.size() % 8 != 0) text += ' ';
    return text;
  }

  void start() {
    if (files_.empty()) open_shard(0);
  }

  void open_shard(index_t shard) {
    const std::string path = shard_path(shard);
    const std::string text = header(shard);
    if (static_cast<index_t>(text.size()) > max_header_bytes) {
      throw_error(errc::bad_metadata, path,
                  "the header takes " + std::to_string(text.size()) + " bytes, at most " +
                      std::to_string(max_header_bytes) + " are allowed");
    }
    files_.push_back(std::make_unique<file>(path));
    std::uint8_t length[8];
    store_le(length, static_cast<std::uint64_t>(text.size()));
    files_.back()->write(length);
    files_.back()->write(as_bytes(text));
  }

  // Completes every tensor that needs no more bytes from the caller.
  void advance() {
    while (current_ < tensors_.size()) {
      const pending& turn = tensors_[current_];
      if (turn.shard == static_cast<index_t>(files_.size())) {
        files_.back()->seal();
        open_shard(turn.shard);
      }
      if (turn.data != nullptr) {
        files_.back()->write({turn.data, static_cast<std::size_t>(turn.size_bytes)});
        written_ = turn.size_bytes;
      }
      if (written_ != turn.size_bytes) return;
      written_ = 0;
      ++current_;
    }
  }

  [[nodiscard]] static std::span<const std::uint8_t> as_bytes(std::string_view text) noexcept {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
  }

  // The layout of Python's json.dumps with an indent of 2 and sorted keys, which transformers uses.
  void write_index(file& out, bool temporaries) const {
    out.write(as_bytes("{\n  \"metadata\": {\n    \"total_size\": " + std::to_string(total_bytes_) +
                       "\n  },\n  \"weight_map\": {"));
    std::vector<const pending*> sorted;
    for (const pending& t : tensors_) sorted.push_back(&t);
    std::sort(sorted.begin(), sorted.end(),
              [](const pending* a, const pending* b) { return a->name < b->name; });
    std::string line;
    for (const pending* t : sorted) {
      line = t == sorted.front() ? "\n    " : ",\n    ";
      append_json_string<Arch>(line, t->name);
      line += ": ";
      const file& shard = *files_[static_cast<std::size_t>(t->shard)];
      append_json_string<Arch>(line, leaf(temporaries ? shard.temporary() : shard.path()));
      out.write(as_bytes(line));
    }
    out.write(as_bytes("\n  }\n}\n"));
    out.seal();
  }

  void commit_set() {
    file index(index_path());
    write_index(index, false);
    lead_to_temporaries();
    for (const std::unique_ptr<file>& f : files_) f->commit();
    index.commit();
    for (const std::unique_ptr<file>& f : files_) f->drop_temporary();
  }

  // If shards are about to be replaced one by one, makes an index of the temporaries the one that
  // readers find meanwhile.
  void lead_to_temporaries() {
    const std::string to = index_path();
    const std::string directory = to.substr(0, to.size() - leaf(to).size());
    bool replaces = false;
    for (const std::unique_ptr<file>& f : files_) {
      const std::string& part = f->temporary();
      const std::string place = part.substr(0, part.size() - leaf(part).size());
      if (place != (directory.empty() ? "./" : directory)) return;
      replaces = replaces || f->replaces();
    }
    if (!replaces) return;
    for (const std::unique_ptr<file>& f : files_) {
      if (!f->hold_temporary()) return;
    }
    file interim(to);
    write_index(interim, true);
    for (const std::unique_ptr<file>& f : files_) f->pin_temporary();
    interim.commit();
  }

  // The same model in its other form, which readers might find first.
  void remove_other(const std::string& path) const {
    if (::unlink(path.c_str()) != 0 && errno != ENOENT) {
      throw_errno<Arch>(path, "remove what the finished files replace", errno);
    }
  }

  std::string path_;
  write_options options_;
  std::string pairs_;
  std::vector<pending> tensors_;
  std::set<std::string> keys_;
  std::set<std::string> names_;
  std::vector<std::unique_ptr<file>> files_;  // all but the last one are sealed
  index_t total_bytes_ = 0;
  std::size_t current_ = 0;  // the tensor whose turn it is
  index_t written_ = 0;      // bytes of it that are written
  bool finished_ = false;
};

using writer = basic_writer<arch::native>;

}  // namespace safetensors
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
