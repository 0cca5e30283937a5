// SPDX-License-Identifier: Apache-2.0
/// Writes a GGUF model split over several files: their names appear when all of them are complete.
#pragma once

#include <unistd.h>  // unlink

#include <cstdio>  // std::rename
#include <memory>  // std::unique_ptr: writers do not move
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "subbyte/io/gguf_split.hpp"
#include "subbyte/io/gguf_writer.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace gguf {

/// Where shards end; as the options of llama.cpp's gguf-split. All zero: one file, not split.
struct split_options {
  /// The tensors of a shard take at most this many bytes, padding included and the header not; a
  /// larger tensor gets its own shard. 0: no limit. (gguf-split counts padding to 32 whatever
  /// general.alignment says; the shards of other alignments may end elsewhere.)
  index_t max_shard_bytes = 0;
  /// 0: no limit.
  index_t max_shard_tensors = 0;
  /// The first shard holds the keys only.
  bool first_without_tensors = false;

  [[nodiscard]] SUBBYTE_INLINE bool splits() const noexcept {
    return max_shard_bytes != 0 || max_shard_tensors != 0 || first_without_tensors;
  }
};

/// A GGUF model in the making, in one file or in shards; used as basic_writer is.
///
/// With options that split, "DIR/model.gguf" becomes DIR/model-00001-of-00003.gguf and so on, also
/// if there is only one. The first shard has all keys; every shard has those of the split, and
/// general.alignment if that was set. Without, the file of basic_writer.
///
/// All shards are complete on the disk before the first gets its name, and the first shard, which
/// readers begin with, gets it last. Where shards of a former set with the same names are replaced,
/// its first shard steps aside before: whoever reads between the renames, or after a power cut
/// there, finds no first shard, and never a mixture of two sets. (It is then beside the others,
/// named .subbyte-*.part.old.)
///
/// Cost    memory: three times the headers, 64 KiB, no tensor data. finish() waits for the disk.
/// Throws  as basic_writer; bad_argument for more than 65535 shards.
template <class Arch>
class basic_split_writer {
 public:
  explicit basic_split_writer(const std::string& path, split_options options = {})
      : path_(path), options_(options) {
    if (options.max_shard_bytes < 0 || options.max_shard_tensors < 0) {
      throw_error(errc::bad_argument, "split_options",
                  "limits of " + std::to_string(options.max_shard_bytes) + " bytes and " +
                      std::to_string(options.max_shard_tensors) +
                      " tensors, required is at least 0");
    }
    writers_.push_back(std::make_unique<basic_writer<Arch>>(
        options.splits() ? split_path<Arch>(prefix(), 0, 1) : path));
    if (options.first_without_tensors) shard_ = 1;
  }

  /// Adds a key to the first shard, as basic_writer::metadata. Keys of the split are refused.
  template <class T>
  void metadata(std::string_view key, const T& value) {
    require_key_allowed(key);
    if (is_split_key(key)) {
      throw_error(errc::bad_metadata, printable<Arch>(key), "is set by the writer");
    }
    writers_[0]->metadata(key, value);
  }
  /// Adds a key as it stands in a file that was read; skips the keys of the split.
  void metadata(const metadata_entry& entry) {
    require_key_allowed(entry.key());
    if (!is_split_key(entry.key())) writers_[0]->metadata(entry);
  }

  /// As basic_writer::declare.
  void declare(std::string_view name, std::span<const index_t> dims, std::uint32_t type,
               index_t size_bytes) {
    add(name, dims, type, size_bytes, nullptr);
  }
  template <class F>
  index_t declare(std::string_view name, std::span<const index_t> dims) {
    const index_t size_bytes = basic_writer<Arch>::template size_of<F>(name, dims);
    add(name, dims, F::gguf_type, size_bytes, nullptr);
    return size_bytes;
  }
  /// As basic_writer::tensor.
  template <class F>
  void tensor(std::string_view name, block_matrix_view<F> matrix) {
    const index_t dims[2] = {matrix.cols(), matrix.rows()};
    const std::span<const index_t> used(dims, matrix.rows() == 1 ? 1 : 2);
    const index_t size_bytes = basic_writer<Arch>::template size_of<F>(name, used);
    add(name, used, F::gguf_type, size_bytes, reinterpret_cast<const std::uint8_t*>(matrix.data()));
  }
  template <class F>
  void tensor(std::string_view name, row_scaled_matrix_view<F> matrix) {
    const index_t dims[2] = {matrix.cols(), matrix.rows()};
    const std::span<const index_t> used(dims, matrix.rows() == 1 ? 1 : 2);
    const index_t size_bytes = basic_writer<Arch>::template size_of<F>(name, used);
    add(name, used, F::gguf_type, size_bytes, matrix.data());
  }
  void tensor(const basic_tensor<Arch>& source) {
    const std::span<const std::uint8_t> bytes = source.bytes();
    add(source.name(), source.dims(), source.type(), source.size_bytes(), bytes.data());
  }

  /// As basic_writer::write.
  void write(std::string_view name, std::span<const std::uint8_t> bytes) {
    require_open();
    start();
    advance();
    writers_.back()->write(name, bytes);
    advance();
  }

  /// Completes all files and gives them their names.
  ///
  /// Throws  bad_argument if declared data are missing.
  void finish() {
    require_open();
    start();
    advance();
    writers_.back()->seal();
    finished_ = true;
    commit();
  }

  /// Of the tensors added so far.
  [[nodiscard]] index_t shard_count() const noexcept { return shard_ + 1; }
  /// Where a shard goes, if there are no more tensors.
  [[nodiscard]] std::string shard_path(index_t shard) const {
    SUBBYTE_EXPECTS(shard >= 0 && shard < shard_count());
    return options_.splits() ? split_path<Arch>(prefix(), shard, shard_count()) : path_;
  }

 private:
  struct pending {
    std::string name;
    std::vector<index_t> dims;
    const std::uint8_t* data;  // null: comes through write()
    index_t size_bytes;
    index_t shard;
    std::uint32_t type;
  };

  [[nodiscard]] std::string_view prefix() const noexcept {
    constexpr std::string_view ending = ".gguf";
    const std::string_view path = path_;
    const bool named =
        path.size() > ending.size() && path.substr(path.size() - ending.size()) == ending;
    return named ? path.substr(0, path.size() - ending.size()) : path;
  }
  [[nodiscard]] index_t alignment() const noexcept { return writers_[0]->alignment_; }

  void require_open() const {
    if (finished_) throw_error(errc::bad_argument, path_, "the file is finished already");
  }
  void require_not_started(std::string_view what) const {
    require_open();
    if (started_) {
      throw_error(errc::bad_argument, printable<Arch>(what),
                  "keys and tensors are added before the first data are written");
    }
  }
  void require_key_allowed(std::string_view key) const {
    require_not_started(key);
    if (key == alignment_key && !tensors_.empty()) {
      throw_error(errc::bad_argument, alignment_key, "set the alignment before adding tensors");
    }
  }

  void add(std::string_view name, std::span<const index_t> dims, std::uint32_t type,
           index_t size_bytes, const std::uint8_t* data) {
    require_not_started(name);
    if (!options_.splits()) {
      writers_[0]->add(name, dims, type, size_bytes, data);
      return;
    }
    basic_writer<Arch>::check_tensor(name, dims, type, size_bytes);
    const std::optional<index_t> padded = checked_pad(size_bytes, max_alignment);
    const std::optional<index_t> total = padded ? checked_add(total_bytes_, *padded) : std::nullopt;
    if (!total) {
      throw_error(errc::bad_shape, printable<Arch>(name),
                  std::to_string(size_bytes) + " bytes take the model past 2^63");
    }
    const index_t mask = alignment() - 1;
    const index_t taken = (size_bytes + mask) & ~mask;
    const bool full =
        shard_tensors_ != 0 &&
        ((options_.max_shard_tensors != 0 && shard_tensors_ >= options_.max_shard_tensors) ||
         (options_.max_shard_bytes != 0 && taken > options_.max_shard_bytes - shard_bytes_));
    if (full && shard_ + 1 == max_split_count) {
      throw_error(errc::bad_argument, path_,
                  "the limits make more than " + std::to_string(max_split_count) + " shards");
    }
    if (!names_.emplace(name).second) {
      throw_error(errc::bad_metadata, printable<Arch>(name),
                  "a tensor of that name was added before");
    }
    if (full) {
      ++shard_;
      shard_tensors_ = 0;
      shard_bytes_ = 0;
    }
    tensors_.push_back(
        {std::string(name), {dims.begin(), dims.end()}, data, size_bytes, shard_, type});
    ++shard_tensors_;
    shard_bytes_ += taken;
    total_bytes_ = *total;
  }

  void start() {
    if (started_) return;
    if (options_.splits()) {
      if (tensors_.size() > 0x7FFFFFFF) {
        throw_error(errc::bad_argument, path_, "more than 2^31 - 1 tensors");
      }
      // Nothing is written yet: the first file may change its name, now that the count is known.
      writers_[0]->file_.emplace(shard_path(0));
      describe(0);
    }
    started_ = true;
  }

  // Adds the keys of the split and the tensors of a shard to its writer.
  void describe(index_t shard) {
    basic_writer<Arch>& out = *writers_.back();
    out.metadata(split_number_key, static_cast<std::uint16_t>(shard));
    out.metadata(split_count_key, static_cast<std::uint16_t>(shard_count()));
    out.metadata(split_tensors_key, static_cast<std::int32_t>(tensors_.size()));
    for (; described_ < tensors_.size() && tensors_[described_].shard == shard; ++described_) {
      const pending& t = tensors_[described_];
      out.add(t.name, t.dims, t.type, t.size_bytes, t.data);
    }
  }

  // Completes every shard that needs no more bytes from the caller, up to the last one.
  void advance() {
    while (writers_.back()->pump()) {
      const index_t next = static_cast<index_t>(writers_.size());
      if (next == shard_count()) return;
      writers_.back()->seal();
      writers_.push_back(std::make_unique<basic_writer<Arch>>(shard_path(next)));
      if (alignment() != default_alignment) {
        writers_.back()->metadata(alignment_key, static_cast<std::uint32_t>(alignment()));
      }
      describe(next);
    }
  }

  void commit() {
    bool replaces = false;
    for (std::size_t i = 1; i < writers_.size(); ++i) {
      replaces = replaces || writers_[i]->file_->replaces();
    }
    const std::string first = writers_[0]->file_->target();
    const std::string aside = writers_[0]->file_->temporary() + ".old";
    const bool moved = replaces && std::rename(first.c_str(), aside.c_str()) == 0;
    for (std::size_t i = 1; i < writers_.size(); ++i) writers_[i]->file_->commit();
    writers_[0]->file_->commit();
    if (moved) ::unlink(aside.c_str());
  }

  std::string path_;
  split_options options_;
  std::vector<pending> tensors_;
  std::set<std::string> names_;
  std::vector<std::unique_ptr<basic_writer<Arch>>> writers_;  // all but the last one are sealed
  index_t shard_ = 0;          // of the next tensor, unless it is full
  index_t shard_tensors_ = 0;  // in it so far
  index_t shard_bytes_ = 0;
  index_t total_bytes_ = 0;
  std::size_t described_ = 0;  // tensors that are with their writers
  bool started_ = false;
  bool finished_ = false;
};

using split_writer = basic_split_writer<arch::native>;

}  // namespace gguf
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
