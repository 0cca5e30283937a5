// SPDX-License-Identifier: Apache-2.0
/// Writes GGUF version 3: the file appears under its name when it is complete, and memory does not
/// grow with the model.
#pragma once

#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <vector>

#include "subbyte/io/atomic_file.hpp"
#include "subbyte/io/gguf.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace gguf {

/// A GGUF file in the making.
///
/// First metadata() for every key, and for every tensor in file order either tensor(), which keeps
/// a view until finish(), or declare(). Then write() the bytes of the declared tensors, in the
/// order of declaration and in pieces of any size; then finish(). The bytes are those that ggml
/// writes for the same keys and tensors: little-endian, every tensor padded with zeros to
/// general.alignment (set it with metadata(); default 32), the last one too. A file that was read
/// and is written again entry by entry and tensor by tensor comes out identical, but for its
/// version if that was 2.
///
/// Cost    memory: the header, 64 KiB, no tensor data. finish() waits for the disk.
/// Throws  bad_metadata, bad_shape for what no GGUF file can hold; bad_argument for calls out of
///         order and data missing at finish(); io (see atomic_file). After a throw from write() or
///         finish() the file is lost; destruction without finish() removes every trace of it.
template <class Arch>
class basic_writer {
 public:
  explicit basic_writer(const std::string& path) { file_.emplace(path); }

  /// Adds a key. The value: bool, an integer of 8 to 64 bits, float, double, a string, or a range
  /// of one of these, each stored as the GGUF type that value_type_of names for its C++ type.
  template <class T>
  void metadata(std::string_view key, const T& value) {
    if constexpr (std::is_convertible_v<const T&, std::string_view>) {
      begin_entry(key, value_type::string, 0);
      append_string(std::string_view(value));
    } else if constexpr (std::is_arithmetic_v<T>) {
      const std::optional<index_t> number = detail::exactly<index_t>(value);
      begin_entry(key, value_type_of<T>(), number ? *number : 0);
      append_number(value);
    } else {
      using element = element_of<T>;
      begin_entry(key, value_type::array, 0);
      append_number(static_cast<std::uint32_t>(value_type_of<element>()));
      const std::size_t count_at = entries_.size();
      std::uint64_t count = 0;
      append_number(count);
      for (const auto& item : value) {
        if constexpr (std::is_same_v<element, std::string_view>) {
          append_string(std::string_view(item));
        } else {
          append_number(static_cast<element>(item));
        }
        ++count;
      }
      store_le(entries_.data() + count_at, count);
    }
  }

  /// Adds a key as it stands in a file that was read.
  void metadata(const metadata_entry& entry) {
    const std::optional<index_t> number = entry.try_get<index_t>();
    begin_entry(entry.key(), entry.type(), number ? *number : 0);
    if (entry.type() == value_type::array) {
      append_number(static_cast<std::uint32_t>(entry.element_type()));
      append_number(static_cast<std::uint64_t>(entry.size()));
    } else if (entry.type() == value_type::string) {
      append_number(static_cast<std::uint64_t>(entry.bytes().size()));
    }
    append(entry.bytes());
  }

  /// Adds a tensor whose bytes come later through write().
  ///
  /// dims[0] is the contiguous extent; dims are stored as given. size_bytes must be what the
  /// extents give for a type that ggml knows; for others it is the caller's word.
  void declare(std::string_view name, std::span<const index_t> dims, std::uint32_t type,
               index_t size_bytes) {
    add(name, dims, type, size_bytes, nullptr);
  }

  /// Adds a tensor of format F whose bytes come later through write(); returns how many.
  template <class F>
  index_t declare(std::string_view name, std::span<const index_t> dims) {
    const index_t size_bytes = size_of<F>(name, dims);
    add(name, dims, F::gguf_type, size_bytes, nullptr);
    return size_bytes;
  }

  /// Adds a matrix, stored as dims {cols, rows}, or {cols} if it has one row. The view's bytes are
  /// read by the time finish() returns, and must live until then.
  template <class F>
  void tensor(std::string_view name, block_matrix_view<F> matrix) {
    const index_t dims[2] = {matrix.cols(), matrix.rows()};
    const std::span<const index_t> used(dims, matrix.rows() == 1 ? 1 : 2);
    const index_t size_bytes = size_of<F>(name, used);
    add(name, used, F::gguf_type, size_bytes, reinterpret_cast<const std::uint8_t*>(matrix.data()));
  }
  template <class F>
  void tensor(std::string_view name, row_scaled_matrix_view<F> matrix) {
    const index_t dims[2] = {matrix.cols(), matrix.rows()};
    const std::span<const index_t> used(dims, matrix.rows() == 1 ? 1 : 2);
    add(name, used, F::gguf_type, size_of<F>(name, used), matrix.data());
  }

  /// Adds a tensor as it stands in a file that was read, which must live until finish(): any type,
  /// known or not.
  void tensor(const basic_tensor<Arch>& source) {
    const std::span<const std::uint8_t> bytes = source.bytes();
    add(source.name(), source.dims(), source.type(), source.size_bytes(), bytes.data());
  }

  /// The next bytes of a declared tensor. The first call writes the header: no keys and tensors can
  /// be added after it. Tensors added with tensor() are written when their turn comes.
  ///
  /// Throws  bad_argument if `name` is not the tensor whose turn it is, or has fewer bytes left.
  void write(std::string_view name, std::span<const std::uint8_t> bytes) {
    require_open();
    if (!started_) start();
    advance();
    if (current_ == tensors_.size()) {
      throw_error(errc::bad_argument, printable<Arch>(name),
                  "all declared tensors are complete already");
    }
    const pending& turn = tensors_[current_];
    if (turn.name != name) {
      throw_error(errc::bad_argument, printable<Arch>(name),
                  "data come in the order of declaration: next are " +
                      std::to_string(turn.size_bytes - written_) + " bytes of " +
                      printable<Arch>(turn.name));
    }
    const index_t left = turn.size_bytes - written_;
    if (static_cast<index_t>(bytes.size()) > left) {
      throw_error(errc::bad_argument, printable<Arch>(name),
                  std::to_string(bytes.size()) + " bytes, and only " + std::to_string(left) +
                      " of the declared " + std::to_string(turn.size_bytes) + " are left");
    }
    file_->write(bytes);
    written_ += static_cast<index_t>(bytes.size());
    advance();
  }

  /// Completes the file and gives it its name.
  ///
  /// Throws  bad_argument if declared data are missing.
  void finish() {
    seal();
    file_->commit();
  }

  /// Bytes of the whole file, header and padding included, as declared so far.
  [[nodiscard]] index_t size_bytes() const {
    const std::optional<index_t> total = checked_add(header_bytes(), data_bytes_);
    if (!total) throw_error(errc::bad_shape, file_->path(), "the file would pass 2^63 bytes");
    return *total;
  }

 private:
  template <class>
  friend class basic_split_writer;

  struct pending {
    std::string name;
    const std::uint8_t* data;  // null: comes through write()
    index_t size_bytes;
  };

  template <class T>
  struct range_element {
    using type = std::remove_cvref_t<decltype(*std::declval<const T&>().begin())>;
  };
  template <class T, std::size_t Count>
  struct range_element<T[Count]> {
    using type = std::remove_cv_t<T>;
  };
  // The stored type of a range's elements; std::vector<bool> has its own reference type.
  template <class T>
  using element_of =
      std::conditional_t<std::is_convertible_v<typename range_element<T>::type, std::string_view>,
                         std::string_view, typename range_element<T>::type>;

  [[nodiscard]] static std::span<const std::uint8_t> as_bytes(std::string_view text) noexcept {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
  }
  void append(std::span<const std::uint8_t> bytes) {
    entries_.insert(entries_.end(), bytes.begin(), bytes.end());
  }
  template <class T>
  static void append_to(std::vector<std::uint8_t>& buffer, T value) {
    const std::uint8_t* const bytes = reinterpret_cast<const std::uint8_t*>(&value);
    buffer.insert(buffer.end(), bytes, bytes + sizeof(T));
  }
  template <class T>
  void append_number(T value) {
    append_to(entries_, value);
  }
  void append_string(std::string_view text) {
    append_number(static_cast<std::uint64_t>(text.size()));
    append(as_bytes(text));
  }

  // Writes what needs no more bytes from the caller; whether nothing is missing.
  bool pump() {
    if (!started_) start();
    advance();
    return current_ == tensors_.size();
  }

  // Everything of finish() but the name.
  void seal() {
    require_open();
    if (!pump()) {
      const pending& missing = tensors_[current_];
      throw_error(errc::bad_argument, printable<Arch>(missing.name),
                  std::to_string(written_) + " of the declared " +
                      std::to_string(missing.size_bytes) + " bytes were written");
    }
    finished_ = true;
    file_->seal();
  }

  void require_open() const {
    if (finished_) throw_error(errc::bad_argument, file_->path(), "the file is finished already");
  }
  void require_not_started(std::string_view what) const {
    require_open();
    if (started_) {
      throw_error(errc::bad_argument, printable<Arch>(what),
                  "keys and tensors are added before the first data are written");
    }
  }

  // `number` is the value, for the one key that has a meaning here.
  void begin_entry(std::string_view key, value_type type, index_t number) {
    require_not_started(key);
    if (key.empty()) throw_error(errc::bad_metadata, file_->path(), "a key is empty");
    if (keys_.count(std::string(key)) != 0) {
      throw_error(errc::bad_metadata, printable<Arch>(key), "the key was added before");
    }
    if (key == alignment_key) set_alignment(type, number);
    keys_.emplace(key);
    append_string(key);
    append_number(static_cast<std::uint32_t>(type));
  }

  void set_alignment(value_type type, index_t alignment) {
    if (!tensors_.empty()) {
      throw_error(errc::bad_argument, alignment_key, "set the alignment before adding tensors");
    }
    if (type != value_type::u32) {
      throw_error(errc::bad_metadata, alignment_key,
                  std::string("the value is ") + value_type_name(type) + ", required is u32");
    }
    if (!is_alignment(alignment)) {
      throw_error(errc::bad_metadata, alignment_key,
                  "the value is " + std::to_string(alignment) +
                      ", required is a power of two from 1 to " + std::to_string(max_alignment));
    }
    alignment_ = alignment;
  }

  // Number of elements, with everything a reader checks about a shape.
  [[nodiscard]] static index_t checked_elements(std::string_view name,
                                                std::span<const index_t> dims, const char* format,
                                                index_t block_size) {
    if (dims.size() > max_dims) {
      throw_error(errc::bad_shape, printable<Arch>(name),
                  std::to_string(dims.size()) + " dimensions, at most " + std::to_string(max_dims) +
                      " are allowed");
    }
    for (const index_t extent : dims) {
      if (extent < 0) {
        throw_error(errc::bad_shape, printable<Arch>(name),
                    "extent " + std::to_string(extent) + " is negative");
      }
    }
    const std::optional<index_t> size = checked_size<Arch>(dims);
    if (!size) {
      throw_error(errc::bad_shape, printable<Arch>(name),
                  "the product of the extents does not fit 63 bits");
    }
    const index_t columns = dims.empty() ? 1 : dims[0];
    if (columns % block_size != 0) {
      throw_error(errc::bad_shape, printable<Arch>(name),
                  std::to_string(columns) + " columns, " + format + " in a GGUF file needs a " +
                      "multiple of " + std::to_string(block_size));
    }
    return *size;
  }

  [[nodiscard]] static index_t checked_bytes(std::string_view name, const tensor_type& type,
                                             index_t elements, std::span<const index_t> dims) {
    const std::optional<index_t> bytes = stored_bytes(type, elements, dims.empty() ? 1 : dims[0]);
    if (!bytes) {
      throw_error(errc::bad_shape, printable<Arch>(name), "the size does not fit 63 bits");
    }
    return *bytes;
  }

  template <class F>
  [[nodiscard]] static index_t size_of(std::string_view name, std::span<const index_t> dims) {
    static_assert(
        requires { F::gguf_type; }, "F has no gguf_type: GGUF has no id for it");
    const index_t elements = checked_elements(name, dims, F::name, F::block_size);
    return checked_bytes(name, tensor_type_of<F>(), elements, dims);
  }

  // Everything about a tensor that does not depend on those before it.
  static void check_tensor(std::string_view name, std::span<const index_t> dims, std::uint32_t type,
                           index_t size_bytes) {
    if (name.size() > max_name_bytes) {
      throw_error(errc::bad_metadata, printable<Arch>(name),
                  "the name has " + std::to_string(name.size()) + " bytes, at most " +
                      std::to_string(max_name_bytes) + " are allowed");
    }
    const tensor_type known = find_tensor_type(type);
    const index_t elements = checked_elements(name, dims, known.name != nullptr ? known.name : "",
                                              known.name != nullptr ? known.block_size : 1);
    if (known.name != nullptr) {
      const index_t required = checked_bytes(name, known, elements, dims);
      if (size_bytes != required) {
        throw_error(errc::bad_shape, printable<Arch>(name),
                    std::to_string(size_bytes) + " bytes, " + known.name + " of this shape needs " +
                        std::to_string(required));
      }
    }
    if (size_bytes < 0) {
      throw_error(errc::bad_shape, printable<Arch>(name),
                  std::to_string(size_bytes) + " bytes: a size is not negative");
    }
  }

  void add(std::string_view name, std::span<const index_t> dims, std::uint32_t type,
           index_t size_bytes, const std::uint8_t* data) {
    require_not_started(name);
    check_tensor(name, dims, type, size_bytes);
    const std::optional<index_t> end = checked_add(data_bytes_, size_bytes);
    const std::optional<index_t> next = end ? checked_pad(*end, alignment_) : std::nullopt;
    if (!next) {
      throw_error(errc::bad_shape, printable<Arch>(name),
                  std::to_string(size_bytes) + " bytes take the file past 2^63");
    }
    if (!names_.emplace(name).second) {
      throw_error(errc::bad_metadata, printable<Arch>(name),
                  "a tensor of that name was added before");
    }
    append_to(infos_, static_cast<std::uint64_t>(name.size()));
    infos_.insert(infos_.end(), name.begin(), name.end());
    append_to(infos_, static_cast<std::uint32_t>(dims.size()));
    for (const index_t extent : dims) append_to(infos_, static_cast<std::uint64_t>(extent));
    append_to(infos_, type);
    append_to(infos_, static_cast<std::uint64_t>(data_bytes_));
    tensors_.push_back({std::string(name), data, size_bytes});
    data_bytes_ = *next;
  }

  [[nodiscard]] index_t header_bytes() const noexcept {
    const index_t bytes = static_cast<index_t>(24 + entries_.size() + infos_.size());
    return (bytes + alignment_ - 1) & ~(alignment_ - 1);
  }

  void start() {
    started_ = true;
    std::vector<std::uint8_t> head = {'G', 'G', 'U', 'F'};
    append_to(head, written_version);
    append_to(head, static_cast<std::uint64_t>(tensors_.size()));
    append_to(head, static_cast<std::uint64_t>(keys_.size()));
    file_->write(head);
    file_->write(entries_);
    file_->write(infos_);
    file_->write_zeros(header_bytes() - file_->size());
  }

  // Completes every tensor that needs no more bytes from the caller.
  void advance() {
    while (current_ < tensors_.size()) {
      const pending& turn = tensors_[current_];
      if (turn.data != nullptr) {
        file_->write({turn.data, static_cast<std::size_t>(turn.size_bytes)});
        written_ = turn.size_bytes;
      }
      if (written_ != turn.size_bytes) return;
      const index_t mask = alignment_ - 1;
      file_->write_zeros(((file_->size() + mask) & ~mask) - file_->size());
      written_ = 0;
      ++current_;
    }
  }

  std::optional<basic_atomic_file<Arch>> file_;
  std::vector<std::uint8_t> entries_;
  std::vector<std::uint8_t> infos_;
  std::vector<pending> tensors_;
  std::set<std::string> keys_;
  std::set<std::string> names_;
  index_t alignment_ = default_alignment;
  index_t data_bytes_ = 0;   // padded, of all tensors added so far
  std::size_t current_ = 0;  // the tensor whose turn it is
  index_t written_ = 0;      // bytes of it that are written
  bool started_ = false;
  bool finished_ = false;
};

using writer = basic_writer<arch::native>;

}  // namespace gguf
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
