// SPDX-License-Identifier: Apache-2.0
/// safetensors files, single and sharded: a reader that maps the files, checks all of their
/// headers, and copies no tensor.
#pragma once

#include <sys/stat.h>  // stat: is the path a directory

#include <algorithm>  // std::sort
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/core/bits.hpp"
#include "subbyte/io/bounds.hpp"
#include "subbyte/io/diagnostics.hpp"
#include "subbyte/io/json_header.hpp"
#include "subbyte/io/mapped_file.hpp"
#include "subbyte/io/name_index.hpp"
#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/e8m0.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/minifloat.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace safetensors {

/// Source  safetensors, safetensors/src/tensor.rs (MAX_HEADER_SIZE).
inline constexpr index_t max_header_bytes = 100'000'000;

/// Element types.
///
/// Source  safetensors, safetensors/src/tensor.rs (Dtype).
enum class dtype : std::uint8_t {
  boolean,
  f4,
  f6_e2m3,
  f6_e3m2,
  u8,
  i8,
  f8_e5m2,
  f8_e4m3,
  f8_e8m0,
  f8_e4m3fnuz,
  f8_e5m2fnuz,
  i16,
  u16,
  f16,
  bf16,
  i32,
  u32,
  f32,
  c64,
  f64,
  i64,
  u64
};
inline constexpr int dtype_count = 22;

struct dtype_traits {
  const char* name;  // as in the file
  int bits;
};

[[nodiscard]] SUBBYTE_INLINE constexpr dtype_traits traits_of(dtype type) noexcept {
  switch (type) {
    case dtype::boolean:
      return {"BOOL", 8};
    case dtype::f4:
      return {"F4", 4};
    case dtype::f6_e2m3:
      return {"F6_E2M3", 6};
    case dtype::f6_e3m2:
      return {"F6_E3M2", 6};
    case dtype::u8:
      return {"U8", 8};
    case dtype::i8:
      return {"I8", 8};
    case dtype::f8_e5m2:
      return {"F8_E5M2", 8};
    case dtype::f8_e4m3:
      return {"F8_E4M3", 8};
    case dtype::f8_e8m0:
      return {"F8_E8M0", 8};
    case dtype::f8_e4m3fnuz:
      return {"F8_E4M3FNUZ", 8};
    case dtype::f8_e5m2fnuz:
      return {"F8_E5M2FNUZ", 8};
    case dtype::i16:
      return {"I16", 16};
    case dtype::u16:
      return {"U16", 16};
    case dtype::f16:
      return {"F16", 16};
    case dtype::bf16:
      return {"BF16", 16};
    case dtype::i32:
      return {"I32", 32};
    case dtype::u32:
      return {"U32", 32};
    case dtype::f32:
      return {"F32", 32};
    case dtype::c64:
      return {"C64", 64};
    case dtype::f64:
      return {"F64", 64};
    case dtype::i64:
      return {"I64", 64};
    case dtype::u64:
      return {"U64", 64};
  }
  return {"", 0};
}

/// The element type of that name in a file.
template <class Arch = arch::native>
[[nodiscard]] constexpr std::optional<dtype> find_dtype(std::string_view name) noexcept {
  for (int i = 0; i < dtype_count; ++i) {
    if (name == traits_of(static_cast<dtype>(i)).name) return static_cast<dtype>(i);
  }
  return std::nullopt;
}

using e5m2fnuz = minifloat<5, 2, float_specials::nan_as_negative_zero>;

/// The element type that T has the bytes of. BOOL is read as std::uint8_t; F4, F6 and C64 have
/// none.
template <class T>
[[nodiscard]] SUBBYTE_INLINE constexpr bool holds(dtype type) noexcept {
  if constexpr (std::is_same_v<T, std::uint8_t>) {
    return type == dtype::u8 || type == dtype::boolean;
  } else if constexpr (std::is_same_v<T, std::int8_t>) {
    return type == dtype::i8;
  } else if constexpr (std::is_same_v<T, std::uint16_t>) {
    return type == dtype::u16;
  } else if constexpr (std::is_same_v<T, std::int16_t>) {
    return type == dtype::i16;
  } else if constexpr (std::is_same_v<T, std::uint32_t>) {
    return type == dtype::u32;
  } else if constexpr (std::is_same_v<T, std::int32_t>) {
    return type == dtype::i32;
  } else if constexpr (std::is_same_v<T, std::uint64_t>) {
    return type == dtype::u64;
  } else if constexpr (std::is_same_v<T, std::int64_t>) {
    return type == dtype::i64;
  } else if constexpr (std::is_same_v<T, float>) {
    return type == dtype::f32;
  } else if constexpr (std::is_same_v<T, double>) {
    return type == dtype::f64;
  } else if constexpr (std::is_same_v<T, half>) {
    return type == dtype::f16;
  } else if constexpr (std::is_same_v<T, bfloat16>) {
    return type == dtype::bf16;
  } else if constexpr (std::is_same_v<T, e4m3fn>) {
    return type == dtype::f8_e4m3;
  } else if constexpr (std::is_same_v<T, e5m2>) {
    return type == dtype::f8_e5m2;
  } else if constexpr (std::is_same_v<T, e8m0>) {
    return type == dtype::f8_e8m0;
  } else if constexpr (std::is_same_v<T, e4m3fnuz>) {
    return type == dtype::f8_e4m3fnuz;
  } else {
    static_assert(std::is_same_v<T, e5m2fnuz>, "no safetensors element type has the bytes of T");
    return type == dtype::f8_e5m2fnuz;
  }
}

/// One tensor of a file: a name, a shape, an element type and bytes.
template <class Arch>
class basic_tensor {
 public:
  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  [[nodiscard]] dtype type() const noexcept { return type_; }
  [[nodiscard]] const char* type_name() const noexcept { return traits_of(type_).name; }
  /// Extents, the last one contiguous; empty for a scalar.
  [[nodiscard]] std::span<const index_t> shape() const noexcept { return shape_; }
  /// Number of elements.
  [[nodiscard]] index_t size() const noexcept { return rows_ * cols_; }
  /// The last extent (1 for a scalar), and the product of the others.
  [[nodiscard]] index_t cols() const noexcept { return cols_; }
  [[nodiscard]] index_t rows() const noexcept { return rows_; }
  [[nodiscard]] std::span<const std::uint8_t> bytes() const noexcept { return bytes_; }
  /// Which of the file's shards holds it.
  [[nodiscard]] index_t shard() const noexcept { return shard_; }

  /// The elements where they lie, as a matrix [rows(), cols()] of T.
  ///
  /// Throws  unsupported_format if T is not the element type; bad_metadata if the data are not
  ///         aligned for T (the container does not promise it; read_rows does not mind).
  template <class T>
  [[nodiscard]] matrix_view<const T> view() const {
    if (!holds<T>(type_)) {
      throw_error(errc::unsupported_format, printable<Arch>(name_),
                  std::string("the element type is ") + type_name() +
                      ", which cannot be viewed as the one asked for");
    }
    const std::size_t misplaced = reinterpret_cast<std::uintptr_t>(bytes_.data()) % alignof(T);
    if (misplaced != 0) {
      throw_error(errc::bad_metadata, printable<Arch>(name_),
                  "the data lie " + std::to_string(misplaced) + " bytes past a multiple of " +
                      std::to_string(alignof(T)) + "; read_rows() or bytes() can read them");
    }
    return {reinterpret_cast<const T*>(bytes_.data()), rows_, cols_};
  }

  /// Whether read_rows can give floats: F64, F32, F16, BF16 and the F8 types.
  [[nodiscard]] bool is_float() const noexcept {
    switch (type_) {
      case dtype::f64:
      case dtype::f32:
      case dtype::f16:
      case dtype::bf16:
      case dtype::f8_e4m3:
      case dtype::f8_e5m2:
      case dtype::f8_e8m0:
      case dtype::f8_e4m3fnuz:
      case dtype::f8_e5m2fnuz:
        return true;
      default:
        return false;
    }
  }

  /// Rows first .. first + count - 1 as floats; out [count * cols()].
  ///
  /// Requires  0 <= first, 0 <= count, first + count <= rows(). Any alignment of the data.
  /// Numerics  exact, but for F64: rounded to nearest even, beyond the range of float to Inf.
  /// Throws    unsupported_format for element types that are not floats of at least 8 bits.
  void read_rows(index_t first, index_t count, float* out) const {
    SUBBYTE_EXPECTS(first >= 0 && count >= 0 && count <= rows_ && first <= rows_ - count);
    if (!is_float()) {
      throw_error(
          errc::unsupported_format, printable<Arch>(name_),
          std::string("the element type is ") + type_name() + ", which is not read as float");
    }
    const index_t n = count * cols_;
    if (n == 0) return;
    const std::uint8_t* const source = bytes_.data() + first * cols_ * (traits_of(type_).bits / 8);
    switch (type_) {
      case dtype::f64:
        return widen<double>(source, n, out);
      case dtype::f32:
        return widen<float>(source, n, out);
      case dtype::f16:
        return widen<half>(source, n, out);
      case dtype::bf16:
        return widen<bfloat16>(source, n, out);
      case dtype::f8_e4m3:
        return widen<e4m3fn>(source, n, out);
      case dtype::f8_e5m2:
        return widen<e5m2>(source, n, out);
      case dtype::f8_e8m0:
        return widen<e8m0>(source, n, out);
      case dtype::f8_e4m3fnuz:
        return widen<e4m3fnuz>(source, n, out);
      default:
        return widen<e5m2fnuz>(source, n, out);
    }
  }
  /// Row r as floats; out [cols()]. As read_rows.
  void read_row(index_t r, float* out) const { read_rows(r, 1, out); }
  /// All elements as floats; out [size()]. As read_rows.
  void to_float(float* out) const { read_rows(0, rows_, out); }

 private:
  template <class>
  friend class basic_file;

  template <class T>
  static void widen(const std::uint8_t* source, index_t n, float* out) noexcept {
    for (index_t i = 0; i < n; ++i) {
      T element;
      __builtin_memcpy(&element, source + i * static_cast<index_t>(sizeof(T)), sizeof(T));
      if constexpr (std::is_floating_point_v<T>) {
        out[i] = static_cast<float>(element);
      } else {
        out[i] = element.to_float();
      }
    }
  }

  std::string_view name_;
  std::span<const index_t> shape_;
  std::span<const std::uint8_t> bytes_;
  index_t rows_ = 1;
  index_t cols_ = 1;
  index_t shard_ = 0;
  dtype type_ = dtype::u8;
};

/// A pair of a file's __metadata__.
struct metadata_entry {
  std::string_view key;
  std::string_view value;
  index_t shard;
};

namespace detail {

// One header: texts and extents in two pools, so that memory stays a small multiple of the header.
template <class Arch>
class header_reader {
 public:
  struct slice {
    std::size_t at = 0;
    std::size_t size = 0;
  };
  struct tensor {
    slice name;
    slice shape;
    index_t begin = 0;
    index_t end = 0;
    dtype type = dtype::u8;
  };
  struct pair {
    slice key;
    slice value;
  };

  explicit header_reader(const std::string& subject) : subject_(subject) {}

  void open(json_path<Arch> path, json_kind kind) {
    if (skipping(path)) return;
    if (path.empty()) {
      if (kind != json_kind::object) fail("the header is not a JSON object");
    } else if (path.size() == 1) {
      if (kind != json_kind::object) fail(printable<Arch>(path[0].key) + " is not an object");
      in_metadata_ = path[0].key == "__metadata__";
      if (!in_metadata_) begin_tensor(path[0].key);
    } else if (path.size() == 2 && !in_metadata_ && kind == json_kind::array &&
               (path[1].key == "shape" || path[1].key == "data_offsets")) {
      if (path[1].key == "shape") has_shape_ = true;
    } else {
      fail(place(path) + " is a container, which does not belong there");
    }
  }

  void close(json_path<Arch> path, json_kind) {
    if (skipping(path)) return;
    if (path.size() == 1 && !in_metadata_) {
      if (!has_type_ || !has_shape_ || offsets_ != 2) {
        fail("tensor " + printable<Arch>(path[0].key) +
             " needs dtype, shape and data_offsets of two numbers");
      }
    }
  }

  void value(json_path<Arch> path, const json_scalar& scalar) {
    if (skipping(path)) return;
    if (path.size() < 2) {
      fail(path.empty() ? std::string("the header is not a JSON object")
                        : printable<Arch>(path[0].key) + " is not an object");
    }
    if (in_metadata_) {
      if (scalar.kind != json_kind::string) fail(place(path) + " is not a string");
      pairs.push_back({keep(path[1].key), keep(scalar.text)});
    } else if (path.size() == 2) {
      if (path[1].key != "dtype" || scalar.kind != json_kind::string) {
        fail(place(path) + " has a value of the wrong type");
      }
      const std::optional<dtype> type = find_dtype<Arch>(scalar.text);
      if (!type) {
        throw_error(errc::unsupported_format, subject_,
                    "tensor " + printable<Arch>(path[0].key) + " has dtype " +
                        printable<Arch>(scalar.text) + ", which is not known");
      }
      tensors.back().type = *type;
      has_type_ = true;
    } else {
      if (!scalar.is_count() ||
          scalar.magnitude > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
        fail(place(path) + " is not an integer from 0 to 2^63 - 1");
      }
      const index_t number = static_cast<index_t>(scalar.magnitude);
      if (path[1].key == "shape") {
        extents.push_back(number);
        ++tensors.back().shape.size;
      } else {
        if (offsets_ == 2) fail(place(path) + ": two offsets are required");
        (offsets_ == 0 ? tensors.back().begin : tensors.back().end) = number;
        ++offsets_;
      }
    }
  }

  std::vector<char> texts;
  std::vector<index_t> extents;
  std::vector<tensor> tensors;
  std::vector<pair> pairs;

 private:
  // Fields of a tensor that are not known here are left for whoever put them there, as upstream
  // does.
  [[nodiscard]] bool skipping(json_path<Arch> path) const {
    return path.size() >= 2 && !in_metadata_ && path[1].key != "dtype" && path[1].key != "shape" &&
           path[1].key != "data_offsets";
  }
  [[noreturn]] void fail(const std::string& message) const {
    throw_error(errc::bad_metadata, subject_, message);
  }
  [[nodiscard]] static std::string place(json_path<Arch> path) {
    return path.size() < 2 ? std::string("the header")
                           : printable<Arch>(path[1].key) + " of " + printable<Arch>(path[0].key);
  }
  slice keep(std::string_view text) {
    const slice kept{texts.size(), text.size()};
    texts.insert(texts.end(), text.begin(), text.end());
    return kept;
  }
  void begin_tensor(std::string_view name) {
    tensor t;
    t.name = keep(name);
    t.shape.at = extents.size();
    tensors.push_back(t);
    has_type_ = false;
    has_shape_ = false;
    offsets_ = 0;
  }

  const std::string& subject_;
  bool in_metadata_ = false;
  bool has_type_ = false;
  bool has_shape_ = false;
  int offsets_ = 0;
};

// The weight_map of an index.
template <class Arch>
class index_reader {
 public:
  struct entry {
    std::string tensor;
    std::string shard;
  };

  explicit index_reader(const std::string& subject) : subject_(subject) {}

  void open(json_path<Arch> path, json_kind kind) {
    if (path.empty() && kind != json_kind::object) fail("the index is not a JSON object");
    if (path.size() == 1 && path[0].key == "weight_map") {
      if (kind != json_kind::object) fail("weight_map is not an object");
      has_map = true;
    }
    if (path.size() == 2 && path[0].key == "weight_map") {
      fail("the shard of " + printable<Arch>(path[1].key) + " is not a string");
    }
  }
  void close(json_path<Arch>, json_kind) {}
  void value(json_path<Arch> path, const json_scalar& scalar) {
    if (path.empty()) fail("the index is not a JSON object");
    if (path[0].key != "weight_map") return;
    if (path.size() == 1) fail("weight_map is not an object");
    if (scalar.kind != json_kind::string) {
      fail("the shard of " + printable<Arch>(path[1].key) + " is not a string");
    }
    if (!stays_inside(scalar.text)) {
      fail("the shard of " + printable<Arch>(path[1].key) + " is " + printable<Arch>(scalar.text) +
           ", required is a path below the index's directory");
    }
    entries.push_back({path[1].key, std::string(scalar.text)});
  }

  std::vector<entry> entries;
  bool has_map = false;

 private:
  [[noreturn]] void fail(const std::string& message) const {
    throw_error(errc::bad_metadata, subject_, message);
  }
  // By its text: links are the business of whoever made the directory.
  [[nodiscard]] static bool stays_inside(std::string_view path) noexcept {
    if (path.find('\0') != std::string_view::npos || path.find('\\') != std::string_view::npos) {
      return false;
    }
    for (;;) {
      const std::size_t slash = path.find('/');
      const std::string_view part = path.substr(0, slash);
      if (part.empty() || part == "." || part == "..") return false;
      if (slash == std::string_view::npos) return true;
      path.remove_prefix(slash + 1);
    }
  }

  const std::string& subject_;
};

}  // namespace detail

/// A safetensors file, or the shards of an index as one: tensors shard by shard (by file name), in
/// the order of their data.
///
/// Accepts what the upstream reader accepts: data without gaps or overlap that end with the file,
/// headers of up to 100 MB. A shard may hold tensors that the index does not list; a tensor that
/// the index lists and its shard lacks is an error.
///
/// Cost    memory at most 32 times the bytes of the headers and the index (of a file that is
///         refused, all of it) and 16 KiB; time O(n log n) in them; no tensor is touched.
/// Threads any number of them may read one file.
/// Throws  truncated; bad_metadata; bad_shape; unsupported_format for an element type that is not
///         known; io and what mapped_file throws.
/// Source  safetensors, README.md and safetensors/src/tensor.rs; the index as Hugging Face
///         transformers writes it.
template <class Arch>
class basic_file {
 public:
  /// `path` is a .safetensors file, an index (any name ending in .json), or a directory that holds
  /// model.safetensors or model.safetensors.index.json (the first of these that is there).
  explicit basic_file(const std::string& path) : name_(path) {
    const std::string found = locate(path);
    if (ends_with(found, ".json")) {
      load_index(found);
    } else {
      basic_mapped_file<Arch> mapping(found);
      const std::span<const std::uint8_t> bytes = mapping.bytes();
      load_shard(found, bytes);
      mapping.require_whole(found);
      shards_.back().mapping = std::move(mapping);
      index();
    }
  }
  /// Reads one file's bytes that live elsewhere and outlive this object; `name` is for error
  /// messages.
  basic_file(std::span<const std::uint8_t> bytes, std::string name) : name_(std::move(name)) {
    load_shard(name_, bytes);
    index();
  }

  /// The path as given.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] index_t shard_count() const noexcept {
    return static_cast<index_t>(shards_.size());
  }
  /// The path of a shard; 0 is the file itself if there is only one.
  [[nodiscard]] const std::string& shard_path(index_t shard) const noexcept {
    SUBBYTE_EXPECTS(shard >= 0 && shard < shard_count());
    return shards_[static_cast<std::size_t>(shard)].path;
  }
  /// All files together.
  [[nodiscard]] index_t size_bytes() const noexcept { return size_bytes_; }

  /// The pairs of every shard's __metadata__, in file order.
  [[nodiscard]] std::span<const metadata_entry> metadata() const noexcept { return metadata_; }

  [[nodiscard]] std::span<const basic_tensor<Arch>> tensors() const noexcept { return tensors_; }
  /// The tensor of that name, or null. O(log n).
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
  struct shard {
    std::string path;
    basic_mapped_file<Arch> mapping;
    std::vector<char> texts;       // names and metadata of this shard
    std::vector<index_t> extents;  // its shapes
  };
  using reader = detail::header_reader<Arch>;

  [[nodiscard]] static std::string_view tensor_name(const basic_tensor<Arch>& t) noexcept {
    return t.name();
  }
  [[nodiscard]] static bool ends_with(std::string_view text, std::string_view end) noexcept {
    return text.size() >= end.size() && text.substr(text.size() - end.size()) == end;
  }

  [[nodiscard]] static std::string locate(const std::string& path) {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0 || !S_ISDIR(status.st_mode)) return path;
    const std::string base = ends_with(path, "/") ? path : path + "/";
    for (const char* leaf : {"model.safetensors", "model.safetensors.index.json"}) {
      if (::stat((base + leaf).c_str(), &status) == 0) return base + leaf;
    }
    throw_error(errc::io, path,
                "the directory holds neither model.safetensors nor model.safetensors.index.json");
  }

  void load_index(const std::string& path) {
    const basic_mapped_file<Arch> mapping(path);
    const std::span<const std::uint8_t> bytes = mapping.bytes();
    if (static_cast<index_t>(bytes.size()) > max_header_bytes) {
      throw_error(errc::bad_metadata, path,
                  "the index has " + std::to_string(bytes.size()) + " bytes, at most " +
                      std::to_string(max_header_bytes) + " are allowed");
    }
    size_bytes_ += static_cast<index_t>(bytes.size());
    detail::index_reader<Arch> listed(path);
    read_json<Arch>({reinterpret_cast<const char*>(bytes.data()), bytes.size()}, path, listed);
    if (!listed.has_map) throw_error(errc::bad_metadata, path, "the index has no weight_map");

    std::vector<std::string> names;
    for (const auto& entry : listed.entries) names.push_back(entry.shard);
    std::sort(names.begin(), names.end());
    names.erase(std::unique(names.begin(), names.end()), names.end());
    const std::size_t slash = path.rfind('/');
    const std::string base = slash == std::string::npos ? "" : path.substr(0, slash + 1);
    for (const std::string& leaf : names) {
      basic_mapped_file<Arch> shard_mapping(base + leaf);
      const std::span<const std::uint8_t> shard_bytes = shard_mapping.bytes();
      load_shard(base + leaf, shard_bytes);
      shard_mapping.require_whole(base + leaf);
      shards_.back().mapping = std::move(shard_mapping);
    }
    index();
    for (const auto& entry : listed.entries) {
      const basic_tensor<Arch>* const found = find_tensor(entry.tensor);
      if (found == nullptr || shard_path(found->shard()) != base + entry.shard) {
        throw_error(errc::bad_metadata, path,
                    "tensor " + printable<Arch>(entry.tensor) + " is listed in shard " +
                        printable<Arch>(entry.shard) + ", which does not hold it");
      }
    }
  }

  void load_shard(const std::string& path, std::span<const std::uint8_t> bytes) {
    const index_t size = static_cast<index_t>(bytes.size());
    if (size < 8) {
      throw_error(errc::truncated, path,
                  std::to_string(size) + " bytes, the header's length alone takes 8");
    }
    const std::uint64_t claimed = load_le<std::uint64_t>(bytes.data());
    if (claimed > static_cast<std::uint64_t>(max_header_bytes)) {
      throw_error(errc::bad_metadata, path,
                  "the header claims " + std::to_string(claimed) + " bytes, at most " +
                      std::to_string(max_header_bytes) + " are allowed: not a safetensors file?");
    }
    const index_t header = static_cast<index_t>(claimed);
    if (header > size - 8) {
      throw_error(errc::truncated, path,
                  "the header claims " + std::to_string(header) + " bytes, and " +
                      std::to_string(size - 8) + " are left");
    }
    const std::string_view text(reinterpret_cast<const char*>(bytes.data()) + 8,
                                static_cast<std::size_t>(header));
    if (text.empty() || text.front() != '{') {
      throw_error(errc::bad_magic, path,
                  "the header does not begin with {: not a safetensors file");
    }
    reader parsed(path);
    read_json<Arch>(text, path, parsed);
    place(path, parsed, bytes.subspan(static_cast<std::size_t>(8 + header)));
    size_bytes_ += size;
  }

  // Checks shapes and offsets of one shard and adds its tensors.
  void place(const std::string& path, reader& parsed, std::span<const std::uint8_t> data) {
    std::vector<typename reader::tensor>& listed = parsed.tensors;
    std::sort(listed.begin(), listed.end(), [](const auto& a, const auto& b) {
      if (a.begin != b.begin) return a.begin < b.begin;
      return a.end != b.end ? a.end < b.end : a.name.at < b.name.at;  // else as in the header
    });
    shards_.emplace_back();
    shard& target = shards_.back();
    target.path = path;
    target.texts = std::move(parsed.texts);
    target.extents = std::move(parsed.extents);
    const auto text = [&](typename reader::slice s) {
      return std::string_view(target.texts.data() + s.at, s.size);
    };
    const index_t shard_number = shard_count() - 1;
    for (const auto& p : parsed.pairs) {
      metadata_.push_back({text(p.key), text(p.value), shard_number});
    }
    index_t expected = 0;
    const index_t available = static_cast<index_t>(data.size());
    for (const auto& t : listed) {
      basic_tensor<Arch> placed;
      placed.name_ = text(t.name);
      placed.shape_ = {target.extents.data() + t.shape.at, t.shape.size};
      placed.type_ = t.type;
      placed.shard_ = shard_number;
      const std::string subject = "tensor " + printable<Arch>(placed.name_);
      if (t.begin != expected || t.end < t.begin) {
        throw_error(errc::bad_metadata, path,
                    subject + " has data_offsets " + std::to_string(t.begin) + " to " +
                        std::to_string(t.end) + ", required is a begin of " +
                        std::to_string(expected) + ": data lie without gaps or overlap");
      }
      if (t.end > available) {
        throw_error(errc::truncated, path,
                    subject + " ends at byte " + std::to_string(t.end) + " of the data, and " +
                        std::to_string(available) + " are there");
      }
      check_shape(path, subject, placed, t.end - t.begin);
      placed.bytes_ = data.subspan(static_cast<std::size_t>(t.begin),
                                   static_cast<std::size_t>(t.end - t.begin));
      tensors_.push_back(placed);
      expected = t.end;
    }
    if (expected != available) {
      throw_error(errc::bad_metadata, path,
                  "the tensors take " + std::to_string(expected) +
                      " bytes of data, and the file has " + std::to_string(available));
    }
  }

  static void check_shape(const std::string& path, const std::string& subject,
                          basic_tensor<Arch>& tensor, index_t length) {
    const std::optional<index_t> size = checked_size<Arch>(tensor.shape_);
    const dtype_traits traits = traits_of(tensor.type_);
    const std::optional<index_t> bits = size ? checked_multiply(*size, traits.bits) : std::nullopt;
    if (!bits || *bits % 8 != 0 || *bits / 8 != length) {
      std::string text;
      for (const index_t extent :
           tensor.shape_.first(tensor.shape_.size() < 8 ? tensor.shape_.size() : 8)) {
        text += (text.empty() ? "" : ", ") + std::to_string(extent);
      }
      if (tensor.shape_.size() > 8) text += ", ...";
      throw_error(
          errc::bad_shape, path,
          subject + " has shape [" + text + "] of " + traits.name + ", " +
              (!bits ? std::string("and its size does not fit 63 bits (beside a zero: 31 bits)")
               : *bits % 8 != 0 ? std::to_string(*bits) + " bits, no whole number of bytes"
                                : std::to_string(*bits / 8) + " bytes, and its data have " +
                                      std::to_string(length)));
    }
    if (!tensor.shape_.empty()) {
      tensor.cols_ = tensor.shape_.back();
      for (const index_t extent : tensor.shape_.first(tensor.shape_.size() - 1)) {
        tensor.rows_ *= extent;
      }
    }
  }

  void index() {
    const auto twice = names_.assign(tensors_, tensor_name);
    if (twice) {
      const std::string_view name = tensors_[static_cast<std::size_t>(twice->first)].name();
      throw_error(errc::bad_metadata, name_,
                  "tensor " + printable<Arch>(name) + " is in two shards");
    }
  }

  std::string name_;
  std::vector<shard> shards_;
  std::vector<basic_tensor<Arch>> tensors_;
  std::vector<metadata_entry> metadata_;
  basic_name_index<Arch> names_;  // of tensors_
  index_t size_bytes_ = 0;
};

using tensor = basic_tensor<arch::native>;
using file = basic_file<arch::native>;

/// Maps what is at `path` (a file, an index or a directory, see basic_file) and checks its headers.
template <class Arch = arch::native>
[[nodiscard]] basic_file<Arch> open(const std::string& path) {
  return basic_file<Arch>(path);
}

/// Checks a single file that is in memory already and outlives the result; `name` is for error
/// messages.
template <class Arch = arch::native>
[[nodiscard]] basic_file<Arch> parse(std::span<const std::uint8_t> bytes, std::string name) {
  return basic_file<Arch>(bytes, std::move(name));
}

}  // namespace safetensors
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
