// SPDX-License-Identifier: Apache-2.0
/// GGUF files, versions 2 and 3: a reader that maps the file, checks all of it, and copies nothing.
#pragma once

#include <cstring>   // std::memcmp
#include <iterator>  // iterator tags
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <type_traits>
#include <vector>

#include "subbyte/core/bits.hpp"
#include "subbyte/core/type_list.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/io/bounds.hpp"
#include "subbyte/io/diagnostics.hpp"
#include "subbyte/io/mapped_file.hpp"
#include "subbyte/io/name_index.hpp"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/row_scaled_matrix.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace gguf {

/// Source  ggml, docs/gguf.md and include/gguf.h.
inline constexpr std::uint32_t written_version = 3;
inline constexpr index_t default_alignment = 32;
/// ggml sets no upper bound; padding is written out, so an absurd one would fill the disk.
inline constexpr index_t max_alignment = index_t{1} << 20;
inline constexpr std::uint32_t max_dims = 4;
/// Bytes of a tensor name; ggml keeps one of its 64 for the terminator.
inline constexpr std::size_t max_name_bytes = 63;
inline constexpr const char* alignment_key = "general.alignment";

/// Whether tensors may be aligned so: a power of two from 1 to max_alignment.
[[nodiscard]] SUBBYTE_INLINE constexpr bool is_alignment(index_t bytes) noexcept {
  return bytes > 0 && bytes <= max_alignment && (bytes & (bytes - 1)) == 0;
}

/// The type of a metadata value, numbered as in the file.
enum class value_type : std::uint32_t {
  u8,
  i8,
  u16,
  i16,
  u32,
  i32,
  f32,
  boolean,
  string,
  array,
  u64,
  i64,
  f64
};

/// Bytes of a value in the file; 0 for strings, arrays and unknown types.
[[nodiscard]] SUBBYTE_INLINE constexpr index_t value_bytes(value_type type) noexcept {
  switch (type) {
    case value_type::u8:
    case value_type::i8:
    case value_type::boolean:
      return 1;
    case value_type::u16:
    case value_type::i16:
      return 2;
    case value_type::u32:
    case value_type::i32:
    case value_type::f32:
      return 4;
    case value_type::u64:
    case value_type::i64:
    case value_type::f64:
      return 8;
    case value_type::string:
    case value_type::array:
      return 0;
  }
  return 0;
}

/// "u8", "f32", "string", ...; "unknown" for a number that is no type.
[[nodiscard]] SUBBYTE_INLINE constexpr const char* value_type_name(value_type type) noexcept {
  switch (type) {
    case value_type::u8:
      return "u8";
    case value_type::i8:
      return "i8";
    case value_type::u16:
      return "u16";
    case value_type::i16:
      return "i16";
    case value_type::u32:
      return "u32";
    case value_type::i32:
      return "i32";
    case value_type::f32:
      return "f32";
    case value_type::boolean:
      return "bool";
    case value_type::string:
      return "string";
    case value_type::array:
      return "array";
    case value_type::u64:
      return "u64";
    case value_type::i64:
      return "i64";
    case value_type::f64:
      return "f64";
  }
  return "unknown";
}

/// The value type that holds a C++ type: bool, integers of 8 to 64 bits, float, double,
/// std::string_view. Character types have none.
template <class T>
[[nodiscard]] SUBBYTE_INLINE constexpr value_type value_type_of() noexcept {
  if constexpr (std::is_same_v<T, bool>) {
    return value_type::boolean;
  } else if constexpr (std::is_same_v<T, float>) {
    return value_type::f32;
  } else if constexpr (std::is_same_v<T, double>) {
    return value_type::f64;
  } else if constexpr (std::is_same_v<T, std::string_view>) {
    return value_type::string;
  } else {
    static_assert(std::is_integral_v<T> && !std::is_same_v<T, char> &&
                      !std::is_same_v<T, wchar_t> && !std::is_same_v<T, char8_t> &&
                      !std::is_same_v<T, char16_t> && !std::is_same_v<T, char32_t> &&
                      sizeof(T) <= 8,
                  "GGUF metadata holds bool, integers, float, double and strings");
    constexpr bool is_signed = std::is_signed_v<T>;
    if constexpr (sizeof(T) == 1) return is_signed ? value_type::i8 : value_type::u8;
    if constexpr (sizeof(T) == 2) return is_signed ? value_type::i16 : value_type::u16;
    if constexpr (sizeof(T) == 4) return is_signed ? value_type::i32 : value_type::u32;
    if constexpr (sizeof(T) == 8) return is_signed ? value_type::i64 : value_type::u64;
  }
}

/// What a tensor type id stands for: weights per block along dims[0], and bytes per block.
struct tensor_type {
  const char* name;
  int block_size;
  int block_bytes;
  int row_bytes = 0;         ///< what a row begins with, before its blocks
  int interleaved_rows = 0;  ///< whose blocks are mixed with each other; 0: none
};

/// The tensor types that only ik_llama.cpp has; a null name for other ids.
///
/// Of its ids that collide with ggml's, 41 is the same type under another name (Q1_0_G128), and 36
/// (I2_S, whose size does not follow from the extents) is retired in ggml and unknown here. The
/// types of activations, which files do not hold, are left out.
///
/// Source  ik_llama.cpp, ggml/include/ggml.h `ggml_type` and ggml/src/ggml.c `type_traits` at
///         8337e4cd.
[[nodiscard]] SUBBYTE_INLINE constexpr tensor_type find_ik_tensor_type(std::uint32_t id) noexcept {
  struct entry {
    std::uint32_t id;
    tensor_type type;
  };
  constexpr entry entries[] = {
      {133, {"q6_0", 32, 26}},
      {134, {"iq1_bn", 64, 13, 2}},
      {135, {"iq2_bn", 64, 16, 4}},
      {137, {"iq2_k", 256, 76}},
      {138, {"iq3_k", 256, 110}},
      {139, {"iq4_k", 256, 144}},
      {140, {"iq5_k", 256, 176}},
      {141, {"iq6_k", 256, 212}},
      {144, {"iq4_ks", 256, 136, 4}},
      {145, {"iq2_ks", 256, 70, 2}},
      {146, {"iq4_kss", 256, 128, 4}},
      {151, {"q8_kv", 32, 32, 8}},
      {152, {"iq5_ks", 256, 168, 4}},
      {153, {"iq2_kt", 256, 68, 4}},
      {154, {"iq3_kt", 256, 100, 4}},
      {155, {"iq4_kt", 256, 128, 4}},
      {156, {"iq3_ks", 256, 102, 2}},
      {157, {"iq2_kl", 256, 86, 2}},
      {158, {"iq1_kt", 256, 56, 4}},
      {202, {"q4_0_r8", 32, 18, 0, 8}},
      {206, {"q5_0_r4", 32, 22, 0, 4}},
      {208, {"q8_0_r8", 32, 34, 0, 8}},
      {210, {"q2_k_r4", 256, 84, 0, 4}},
      {211, {"q3_k_r4", 256, 110, 0, 4}},
      {212, {"q4_k_r4", 256, 144, 0, 4}},
      {213, {"q5_k_r4", 256, 176, 0, 4}},
      {214, {"q6_k_r4", 256, 210, 0, 4}},
      {216, {"iq2_xxs_r4", 256, 66, 0, 4}},
      {217, {"iq2_xs_r4", 256, 74, 0, 4}},
      {218, {"iq3_xxs_r4", 256, 98, 0, 4}},
      {219, {"iq1_s_r4", 32, 6, 2, 4}},
      {220, {"iq4_nl_r4", 32, 18, 0, 4}},
      {221, {"iq3_s_r4", 256, 110, 0, 4}},
      {222, {"iq2_s_r4", 256, 82, 0, 4}},
      {223, {"iq4_xs_r8", 256, 136, 0, 8}},
      {229, {"iq1_m_r4", 32, 7, 2, 4}},
      {230, {"bf16_r16", 1, 2, 0, 16}},
      {233, {"q6_0_r4", 32, 26, 0, 4}},
      {335, {"iq2_bn_r4", 64, 16, 4, 4}},
      {337, {"iq2_k_r4", 256, 76, 0, 4}},
      {338, {"iq3_k_r4", 256, 110, 0, 4}},
      {339, {"iq4_k_r4", 256, 144, 0, 4}},
      {340, {"iq5_k_r4", 256, 176, 0, 4}},
      {344, {"iq4_ks_r4", 256, 136, 4, 4}},
      {352, {"iq5_ks_r4", 256, 168, 4, 4}},
      {353, {"mxfp4_r8", 32, 17, 0, 8}},
      {397, {"q8_k_r16", 256, 258, 0, 16}},
      {398, {"q8_kv_r8", 32, 32, 4, 8}},
      {399, {"q8_k_r8", 256, 258, 0, 8}},
  };
  for (const entry& e : entries) {
    if (e.id == id) return e.type;
  }
  return {nullptr, 0, 0};
}

/// The table of tensor types of ggml and of ik_llama.cpp, whether or not this library has a format
/// for them; a null name for ids that neither knows or that ggml has retired.
///
/// Source  ggml, include/ggml.h `ggml_type` and src/ggml-common.h at d99724f2.
[[nodiscard]] SUBBYTE_INLINE constexpr tensor_type find_tensor_type(std::uint32_t id) noexcept {
  switch (id) {
    case 0:
      return {"f32", 1, 4};
    case 1:
      return {"f16", 1, 2};
    case 2:
      return {"q4_0", 32, 18};
    case 3:
      return {"q4_1", 32, 20};
    case 6:
      return {"q5_0", 32, 22};
    case 7:
      return {"q5_1", 32, 24};
    case 8:
      return {"q8_0", 32, 34};
    case 9:
      return {"q8_1", 32, 36};
    case 10:
      return {"q2_k", 256, 84};
    case 11:
      return {"q3_k", 256, 110};
    case 12:
      return {"q4_k", 256, 144};
    case 13:
      return {"q5_k", 256, 176};
    case 14:
      return {"q6_k", 256, 210};
    case 15:
      return {"q8_k", 256, 292};
    case 16:
      return {"iq2_xxs", 256, 66};
    case 17:
      return {"iq2_xs", 256, 74};
    case 18:
      return {"iq3_xxs", 256, 98};
    case 19:
      return {"iq1_s", 256, 50};
    case 20:
      return {"iq4_nl", 32, 18};
    case 21:
      return {"iq3_s", 256, 110};
    case 22:
      return {"iq2_s", 256, 82};
    case 23:
      return {"iq4_xs", 256, 136};
    case 24:
      return {"i8", 1, 1};
    case 25:
      return {"i16", 1, 2};
    case 26:
      return {"i32", 1, 4};
    case 27:
      return {"i64", 1, 8};
    case 28:
      return {"f64", 1, 8};
    case 29:
      return {"iq1_m", 256, 56};
    case 30:
      return {"bf16", 1, 2};
    case 34:
      return {"tq1_0", 256, 54};
    case 35:
      return {"tq2_0", 256, 66};
    case 39:
      return {"mxfp4", 32, 17};
    case 40:
      return {"nvfp4", 64, 36};
    case 41:
      return {"q1_0", 128, 18};
    case 42:
      return {"q2_0", 64, 18};
    default:
      return find_ik_tensor_type(id);
  }
}

/// The bytes of a tensor with `size` elements in rows of `cols`, if they fit 63 bits; none for one
/// without elements.
///
/// Requires  cols is a multiple of the type's block_size.
[[nodiscard]] SUBBYTE_INLINE constexpr std::optional<index_t> stored_bytes(const tensor_type& type,
                                                                           index_t size,
                                                                           index_t cols) noexcept {
  if (size == 0) return 0;
  const std::optional<index_t> blocks = checked_multiply(size / type.block_size, type.block_bytes);
  const std::optional<index_t> starts = checked_multiply(size / cols, type.row_bytes);
  return blocks && starts ? checked_add(*blocks, *starts) : std::nullopt;
}

namespace detail {

template <class F>
struct view_of {
  using type = block_matrix_view<F>;
  static constexpr int row_bytes = 0;
};
template <row_scaled_format F>
struct view_of<F> {
  using type = row_scaled_matrix_view<F>;
  static constexpr int row_bytes = static_cast<int>(sizeof(typename F::row_scale));
};

}  // namespace detail

/// The view of stored rows of F: block_matrix_view, or row_scaled_matrix_view.
template <class F>
using view_of = typename detail::view_of<F>::type;

/// What F::gguf_type stands for.
template <class F>
[[nodiscard]] SUBBYTE_INLINE constexpr tensor_type tensor_type_of() noexcept {
  return {F::name, F::block_size, static_cast<int>(sizeof(F)), detail::view_of<F>::row_bytes};
}

/// The elements of a metadata array, read where they lie in the file.
///
/// T is a type that value_type_of takes; elements may be unaligned and come by value. operator[] is
/// for numbers; strings have no index in the file and are walked in order.
template <class T>
class array_view {
 public:
  using value_type = T;

  class iterator {
   public:
    using iterator_concept = std::forward_iterator_tag;
    using iterator_category = std::input_iterator_tag;
    using value_type = T;
    using difference_type = std::ptrdiff_t;
    using reference = T;
    using pointer = void;

    SUBBYTE_INLINE iterator() noexcept = default;
    SUBBYTE_INLINE explicit iterator(const std::uint8_t* at) noexcept : at_(at) {}
    [[nodiscard]] SUBBYTE_INLINE T operator*() const noexcept {
      if constexpr (std::is_same_v<T, std::string_view>) {
        return {reinterpret_cast<const char*>(at_ + 8), load_le<std::uint64_t>(at_)};
      } else {
        return load(at_);
      }
    }
    SUBBYTE_INLINE iterator& operator++() noexcept {
      if constexpr (std::is_same_v<T, std::string_view>) {
        at_ += 8 + load_le<std::uint64_t>(at_);
      } else {
        at_ += sizeof(T);
      }
      return *this;
    }
    SUBBYTE_INLINE iterator operator++(int) noexcept {
      const iterator before = *this;
      ++*this;
      return before;
    }
    SUBBYTE_INLINE friend bool operator==(const iterator& a, const iterator& b) noexcept {
      return a.at_ == b.at_;
    }

   private:
    const std::uint8_t* at_ = nullptr;
  };

  SUBBYTE_INLINE array_view() noexcept {}
  SUBBYTE_INLINE array_view(std::span<const std::uint8_t> bytes, index_t size) noexcept
      : bytes_(bytes), size_(size) {}

  [[nodiscard]] SUBBYTE_INLINE index_t size() const noexcept { return size_; }
  [[nodiscard]] SUBBYTE_INLINE iterator begin() const noexcept { return iterator(bytes_.data()); }
  [[nodiscard]] SUBBYTE_INLINE iterator end() const noexcept {
    return iterator(bytes_.data() + bytes_.size());
  }
  [[nodiscard]] SUBBYTE_INLINE T operator[](index_t i) const noexcept
      requires(!std::is_same_v<T, std::string_view>) {
    SUBBYTE_EXPECTS(i >= 0 && i < size_);
    return load(bytes_.data() + static_cast<std::size_t>(i) * sizeof(T));
  }

 private:
  SUBBYTE_INLINE static T load(const std::uint8_t* p) noexcept {
    if constexpr (std::is_same_v<T, bool>) {
      return *p != 0;
    } else {
      T element;
      __builtin_memcpy(&element, p, sizeof(T));
      return element;
    }
  }

  std::span<const std::uint8_t> bytes_;
  index_t size_ = 0;
};

namespace detail {

template <class T>
inline constexpr bool is_array_view = false;
template <class T>
inline constexpr bool is_array_view<array_view<T>> = true;

// A number as another type, if that holds its value exactly; a NaN stays one. Floats do not become
// integers.
template <class To, class From>
[[nodiscard]] SUBBYTE_INLINE constexpr std::optional<To> exactly(From from) noexcept {
  if constexpr (std::is_same_v<To, From>) {
    return from;
  } else if constexpr (std::is_same_v<To, bool> || std::is_same_v<From, bool> ||
                       (std::is_floating_point_v<From> && std::is_integral_v<To>)) {
    return std::nullopt;
  } else if constexpr (std::is_integral_v<To>) {
    const To to = static_cast<To>(from);
    if (static_cast<From>(to) != from || (to < To{}) != (from < From{})) return std::nullopt;
    return to;
  } else if constexpr (std::is_integral_v<From>) {
    // Every integer that a 24 or 53 bit significand holds after dropping trailing zeros is exact.
    constexpr int significand = std::numeric_limits<To>::digits;
    std::uint64_t magnitude =
        from < From{} ? 0 - static_cast<std::uint64_t>(from) : static_cast<std::uint64_t>(from);
    if (magnitude != 0) magnitude >>= __builtin_ctzll(magnitude);
    if (magnitude >> significand != 0) return std::nullopt;
    return static_cast<To>(from);
  } else {
    if (from != from) return static_cast<To>(from);
    if constexpr (sizeof(To) < sizeof(From)) {
      const bool finite = from - from == From{};
      if (finite && (from > static_cast<From>(std::numeric_limits<To>::max()) ||
                     from < static_cast<From>(std::numeric_limits<To>::lowest()))) {
        return std::nullopt;
      }
    }
    const To to = static_cast<To>(from);
    if (static_cast<From>(to) != from) return std::nullopt;
    return to;
  }
}

}  // namespace detail

/// One key and its value, in the file's bytes.
class metadata_entry {
 public:
  SUBBYTE_INLINE metadata_entry(std::string_view key, value_type type, value_type element,
                                index_t size, std::span<const std::uint8_t> bytes) noexcept
      : key_(key), bytes_(bytes), size_(size), type_(type), element_(element) {}

  [[nodiscard]] SUBBYTE_INLINE std::string_view key() const noexcept { return key_; }
  [[nodiscard]] SUBBYTE_INLINE value_type type() const noexcept { return type_; }
  /// The type of an array's elements; type() for everything else.
  [[nodiscard]] SUBBYTE_INLINE value_type element_type() const noexcept { return element_; }
  /// The number of elements of an array; 1 for everything else.
  [[nodiscard]] SUBBYTE_INLINE index_t size() const noexcept { return size_; }
  /// The value as stored: a number, a string's characters, or an array's elements one after another
  /// (strings with their 8-byte lengths).
  [[nodiscard]] SUBBYTE_INLINE std::span<const std::uint8_t> bytes() const noexcept {
    return bytes_;
  }

  /// The value as T, if it is one: a number as any arithmetic type that holds it exactly (a float
  /// never as an integer), bool as bool, a string as std::string_view, an array as array_view<E> of
  /// exactly its element type.
  template <class T>
  [[nodiscard]] SUBBYTE_INLINE std::optional<T> try_get() const noexcept {
    if constexpr (detail::is_array_view<T>) {
      if (type_ != value_type::array || element_ != value_type_of<typename T::value_type>()) {
        return std::nullopt;
      }
      return T(bytes_, size_);
    } else if constexpr (std::is_same_v<T, std::string_view>) {
      if (type_ != value_type::string) return std::nullopt;
      return std::string_view(reinterpret_cast<const char*>(bytes_.data()), bytes_.size());
    } else {
      static_assert(std::is_arithmetic_v<T>,
                    "metadata is read as a number, bool, std::string_view or array_view");
      switch (type_) {
        case value_type::u8:
          return number<T, std::uint8_t>();
        case value_type::i8:
          return number<T, std::int8_t>();
        case value_type::u16:
          return number<T, std::uint16_t>();
        case value_type::i16:
          return number<T, std::int16_t>();
        case value_type::u32:
          return number<T, std::uint32_t>();
        case value_type::i32:
          return number<T, std::int32_t>();
        case value_type::f32:
          return number<T, float>();
        case value_type::boolean:
          return detail::exactly<T>(bytes_[0] != 0);
        case value_type::u64:
          return number<T, std::uint64_t>();
        case value_type::i64:
          return number<T, std::int64_t>();
        case value_type::f64:
          return number<T, double>();
        case value_type::string:
        case value_type::array:
          return std::nullopt;
      }
      return std::nullopt;
    }
  }

  /// The value as T. Throws  bad_metadata with the key where try_get gives nothing.
  template <class T, class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE T get() const {
    const std::optional<T> value = try_get<T>();
    if (!value) {
      if constexpr (detail::is_array_view<T>) {
        throw_mismatch<Arch>("an array of ", value_type_of<typename T::value_type>());
      } else {
        throw_mismatch<Arch>("", value_type_of<T>());
      }
    }
    return *value;
  }

 private:
  template <class T, class Stored>
  [[nodiscard]] SUBBYTE_INLINE std::optional<T> number() const noexcept {
    Stored stored;
    __builtin_memcpy(&stored, bytes_.data(), sizeof(Stored));
    return detail::exactly<T>(stored);
  }

  template <class Arch>
  [[noreturn]] void throw_mismatch(const char* container, value_type wanted) const {
    std::string found = value_type_name(type_);
    if (type_ == value_type::array) found += std::string(" of ") + value_type_name(element_);
    throw_error(errc::bad_metadata, printable<Arch>(key_),
                "the value is " + found + " and cannot be read as " + container +
                    value_type_name(wanted) + " without a change of value");
  }

  std::string_view key_;
  std::span<const std::uint8_t> bytes_;
  index_t size_;
  value_type type_;
  value_type element_;
};

/// One tensor of a file: a name, a shape, a type id and bytes.
template <class Arch>
class basic_tensor {
 public:
  [[nodiscard]] std::string_view name() const noexcept { return name_; }
  /// Extents as stored: dims()[0] is the contiguous one. May be empty: one element.
  [[nodiscard]] std::span<const index_t> dims() const noexcept { return {dims_, dims_used_}; }
  /// The product of all extents but the first.
  [[nodiscard]] index_t rows() const noexcept { return dims_[1] * dims_[2] * dims_[3]; }
  [[nodiscard]] index_t cols() const noexcept { return dims_[0]; }
  /// Number of elements.
  [[nodiscard]] index_t size() const noexcept { return cols() * rows(); }

  /// The file's type id; find_tensor_type(type()) says what ggml or ik_llama.cpp means by it.
  [[nodiscard]] std::uint32_t type() const noexcept { return type_; }
  /// From the start of the data section.
  [[nodiscard]] index_t offset() const noexcept { return offset_; }
  /// From the extents; for a type id that ggml does not know, up to the next tensor or the end of
  /// the file, padding included.
  [[nodiscard]] index_t size_bytes() const noexcept { return size_bytes_; }

  /// The stored bytes. Throws  truncated if the file was opened for its metadata only.
  [[nodiscard]] std::span<const std::uint8_t> bytes() const {
    if (!has_data_) {
      throw_error(errc::truncated, printable<Arch>(name_),
                  "the data are out of reach: the file was opened with metadata_only");
    }
    return {data_, static_cast<std::size_t>(size_bytes_)};
  }

  /// The tensor as a matrix [rows(), cols()] of F, in the file's bytes.
  ///
  /// Throws  unsupported_format for another type id; bad_shape if cols() is no multiple of
  ///         F::block_size or the bytes do not suffice (possible only where ggml does not know the
  ///         type); bad_metadata if the data are not aligned for F; truncated as bytes().
  template <class F>
  [[nodiscard]] view_of<F> as() const {
    static_assert(
        requires { F::gguf_type; }, "F has no gguf_type: GGUF has no id for it");
    const std::uint8_t* const data = data_as(F::gguf_type, tensor_type_of<F>(), alignof(F));
    if constexpr (row_scaled_format<F>) {
      return {data, rows(), cols()};
    } else {
      return {reinterpret_cast<const F*>(data), rows(), cols()};
    }
  }

  /// Calls body(view_of<F>) for the F of List whose gguf_type is this tensor's.
  ///
  /// Throws  unsupported_format if there is none; what as<F>() and the body throw.
  template <class List = file_formats, class Body>
  void visit(Body&& body) const {
    const bool visited = any_type(List{}, [&](auto tag) {
      using F = typename decltype(tag)::type;
      if constexpr (requires { F::gguf_type; }) {
        if (type_ == F::gguf_type) {
          body(as<F>());
          return true;
        }
      }
      return false;
    });
    if (!visited) {
      throw_error(errc::unsupported_format, printable<Arch>(name_),
                  "the type is " + type_text() + ", which is not among the " +
                      std::to_string(List::size) + " formats of the list" + remedy());
    }
  }

 private:
  template <class>
  friend class basic_file;

  // The checks of as(), once for all formats.
  [[nodiscard]] const std::uint8_t* data_as(std::uint32_t id, const tensor_type& wanted,
                                            std::size_t alignment) const {
    if (type_ != id) {
      throw_error(errc::unsupported_format, printable<Arch>(name_),
                  "the type is " + type_text() + ", not " + wanted.name);
    }
    const std::span<const std::uint8_t> stored = bytes();
    if (cols() % wanted.block_size != 0) {
      throw_error(errc::bad_shape, printable<Arch>(name_),
                  std::to_string(cols()) + " columns, " + wanted.name + " needs a multiple of " +
                      std::to_string(wanted.block_size));
    }
    const std::optional<index_t> needed = stored_bytes(wanted, size(), cols());
    if (!needed || *needed > size_bytes_) {
      throw_error(errc::bad_shape, printable<Arch>(name_),
                  std::to_string(size_bytes_) + " bytes are too few for " + std::to_string(size()) +
                      " weights as " + wanted.name);
    }
    const std::size_t misplaced = reinterpret_cast<std::uintptr_t>(stored.data()) % alignment;
    if (misplaced != 0) {
      throw_error(errc::bad_metadata, printable<Arch>(name_),
                  "the data lie " + std::to_string(misplaced) + " bytes past a multiple of " +
                      std::to_string(alignment) + ", which " + wanted.name +
                      " needs; copy bytes() to read them");
    }
    return stored.data();
  }

  [[nodiscard]] std::string type_text() const {
    const char* const known = find_tensor_type(type_).name;
    return std::to_string(type_) +
           (known != nullptr ? std::string(" (") + known + ")" : std::string(" (unknown to ggml)"));
  }

  // What to do about a type of ik_llama.cpp's that is not read.
  [[nodiscard]] std::string remedy() const {
    const tensor_type known = find_ik_tensor_type(type_);
    if (known.name == nullptr) return {};
    std::string text;
    if (known.interleaved_rows != 0) {
      text = "; it holds the blocks of " + std::to_string(known.interleaved_rows) +
             " rows interleaved, as ik_llama.cpp packs them for its CPU kernels. Use the file that "
             "was repacked, or a";
    } else {
      text = "; it is a type of ik_llama.cpp's. A";
    }
    return text +
           "nother type can be had from ik_llama.cpp's llama-quantize with "
           "--allow-requantize";
  }

  std::string_view name_;
  const std::uint8_t* data_ = nullptr;
  index_t dims_[max_dims] = {1, 1, 1, 1};
  index_t offset_ = 0;
  index_t size_bytes_ = 0;
  std::uint32_t dims_used_ = 0;
  std::uint32_t type_ = 0;
  bool has_data_ = false;
};

struct open_options {
  /// Read keys and tensor infos only: the data may be missing, and bytes() throws.
  bool metadata_only = false;
};

/// A GGUF file: metadata and tensors in file order, all views of its bytes.
///
/// Accepts what ggml's reader accepts, and more in two places: tensor type ids that ggml does not
/// know (their tensors have bytes, and no values), and a last tensor without padding behind it.
/// Refused, as in ggml: nested arrays, more than 4 dimensions, offsets with gaps or out of order,
/// duplicate keys and names. Stricter than ggml: alignments above 1 MiB, extents whose true product
/// does not fit 63 bits, and absurd extents beside a zero (see checked_size).
///
/// Cost    memory at most 16 times the bytes of the header (what precedes the data; of a file that
///         is refused, all of it) and 8 KiB, however large the counts it claims: 48 bytes for each
///         of its 14-byte keys or 88 for each of its 24-byte tensors, three times while the list
///         grows. Time is O(n log n) in the bytes of the header. The data are not touched.
/// Threads any number of them may read one file.
/// Throws  bad_magic; truncated; unsupported_format for other versions and byte orders;
///         bad_metadata; bad_shape; what mapped_file throws.
/// Source  ggml, docs/gguf.md; limits as in src/gguf.cpp at d99724f2.
template <class Arch>
class basic_file {
 public:
  /// Maps and checks a file.
  explicit basic_file(const std::string& path, open_options options = {})
      : mapping_(path), name_(path), bytes_(mapping_.bytes()) {
    parse(options);
    mapping_.require_whole(path);
  }
  /// Checks bytes that live elsewhere and outlive this object; `name` is for error messages.
  basic_file(std::span<const std::uint8_t> bytes, std::string name, open_options options = {})
      : name_(std::move(name)), bytes_(bytes) {
    parse(options);
  }

  /// The path, or the name given for bytes.
  [[nodiscard]] const std::string& name() const noexcept { return name_; }
  [[nodiscard]] std::uint32_t version() const noexcept { return version_; }
  /// general.alignment, or 32.
  [[nodiscard]] index_t alignment() const noexcept { return alignment_; }
  /// Where tensor offsets count from; the end of the header if there are no tensors.
  [[nodiscard]] index_t data_offset() const noexcept { return data_offset_; }
  [[nodiscard]] index_t size_bytes() const noexcept { return static_cast<index_t>(bytes_.size()); }

  /// Keys and values in file order.
  [[nodiscard]] std::span<const metadata_entry> metadata() const noexcept { return metadata_; }
  /// The entry of a key, or null. O(log n).
  [[nodiscard]] const metadata_entry* find(std::string_view key) const noexcept {
    return keys_.find(metadata_, key, [](const metadata_entry& e) { return label(e); });
  }
  /// The value of a key as T (see metadata_entry::try_get). Throws  not_found, bad_metadata.
  template <class T>
  [[nodiscard]] T get(std::string_view key) const {
    const metadata_entry* const entry = find(key);
    if (entry == nullptr) throw_error(errc::not_found, name_, "no key " + printable<Arch>(key));
    return entry->template get<T, Arch>();
  }
  /// The same, or `fallback` if there is no such key. Throws  bad_metadata if it has another type.
  template <class T>
  [[nodiscard]] T get_or(std::string_view key, T fallback) const {
    const metadata_entry* const entry = find(key);
    return entry == nullptr ? fallback : entry->template get<T, Arch>();
  }

  /// Tensors in file order.
  [[nodiscard]] std::span<const basic_tensor<Arch>> tensors() const noexcept { return tensors_; }
  /// The tensor of that name, or null. O(log n).
  [[nodiscard]] const basic_tensor<Arch>* find_tensor(std::string_view name) const noexcept {
    return names_.find(tensors_, name, [](const basic_tensor<Arch>& t) { return label(t); });
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
  // The smallest key with value and the smallest tensor info, in bytes.
  static constexpr index_t least_entry_bytes = 8 + 1 + 4 + 1;
  static constexpr index_t least_info_bytes = 8 + 0 + 4 + 0 + 4 + 8;

  [[nodiscard]] static std::string_view label(const metadata_entry& entry) noexcept {
    return entry.key();
  }
  [[nodiscard]] static std::string_view label(const basic_tensor<Arch>& tensor) noexcept {
    return tensor.name();
  }

  template <class T>
  void index(const std::vector<T>& items, basic_name_index<Arch>& names, const char* what) const {
    const auto twice = names.assign(items, [](const T& item) { return label(item); });
    if (twice) {
      const std::string_view name = label(items[static_cast<std::size_t>(twice->first)]);
      fail(errc::bad_metadata, std::string(what) + " " + printable<Arch>(name) + " occurs twice");
    }
  }

  [[noreturn]] void fail(errc code, const std::string& message) const {
    throw_error(code, name_, message);
  }

  [[nodiscard]] index_t remaining() const noexcept { return size_bytes() - at_; }

  // The next `count` bytes. The sum that could wrap is never formed.
  const std::uint8_t* take(index_t count, const char* what) {
    if (count > remaining()) {
      fail(errc::truncated, std::string(what) + " at byte " + std::to_string(at_) + " needs " +
                                std::to_string(count) + " bytes, and " +
                                std::to_string(remaining()) + " are left");
    }
    const std::uint8_t* const start = bytes_.data() + at_;
    at_ += count;
    return start;
  }
  std::uint32_t take_u32(const char* what) { return load_le<std::uint32_t>(take(4, what)); }
  // A 64-bit count, length, extent or offset.
  index_t take_index(const char* what) {
    const std::uint64_t value = load_le<std::uint64_t>(take(8, what));
    if (value > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
      fail(errc::bad_metadata, std::string(what) + " at byte " + std::to_string(at_ - 8) + " is " +
                                   std::to_string(value) + ", which does not fit 63 bits");
    }
    return static_cast<index_t>(value);
  }
  std::string_view take_string(const char* what) {
    const index_t length = take_index(what);
    return {reinterpret_cast<const char*>(take(length, what)), static_cast<std::size_t>(length)};
  }

  // A claimed count, before anything is allocated or multiplied by it.
  index_t bounded(index_t count, index_t least_bytes, const char* what) const {
    if (count > remaining() / least_bytes) {
      fail(errc::truncated, "the header claims " + std::to_string(count) + " " + what +
                                ", and the " + std::to_string(remaining()) +
                                " bytes behind it have room for " +
                                std::to_string(remaining() / least_bytes) + " at most");
    }
    return count;
  }

  void parse(const open_options& options) {
    check_magic();
    check_version();
    const index_t tensor_count = take_index("the number of tensors");
    const index_t entry_count = take_index("the number of keys");
    bounded(tensor_count, least_info_bytes, "tensors");
    bounded(entry_count, least_entry_bytes, "keys");
    for (index_t i = 0; i < entry_count; ++i) read_entry();
    index(metadata_, keys_, "key");
    read_alignment();
    bounded(tensor_count, least_info_bytes, "tensors");
    for (index_t i = 0; i < tensor_count; ++i) read_info();
    index(tensors_, names_, "tensor name");
    place_data(options.metadata_only);
  }

  void check_magic() {
    constexpr std::uint8_t magic[4] = {'G', 'G', 'U', 'F'};
    const std::size_t have = bytes_.size() < 4 ? bytes_.size() : 4;
    if (have != 0 && std::memcmp(bytes_.data(), magic, have) != 0) {
      std::string found(reinterpret_cast<const char*>(bytes_.data()), have);
      fail(errc::bad_magic, "the file begins with \"" + printable<Arch>(found) +
                                "\", a GGUF file begins with \"GGUF\"");
    }
    take(4, "the magic");
  }

  void check_version() {
    version_ = take_u32("the version");
    if (version_ == 2 || version_ == 3) return;
    std::string found = "GGUF version " + std::to_string(version_);
    if (version_ == 1) {
      found += " (32-bit counts, obsolete)";
    } else if (version_ != 0 && (version_ & 0xFFFFU) == 0) {
      found = "a big-endian GGUF file";
    }
    fail(errc::unsupported_format, found + "; little-endian versions 2 and 3 are read");
  }

  void read_entry() {
    const std::string_view key = take_string("a key");
    if (key.empty()) {
      fail(errc::bad_metadata, "the key before byte " + std::to_string(at_) + " is empty");
    }
    const value_type type = static_cast<value_type>(take_u32("a value type"));
    value_type element = type;
    index_t size = 1;
    if (type == value_type::array) {
      element = static_cast<value_type>(take_u32("an array's element type"));
      size = take_index("an array's size");
    }
    std::span<const std::uint8_t> value;
    if (element == value_type::string) {
      value =
          type == value_type::array ? take_strings(key, size) : as_bytes(take_string("a string"));
    } else {
      const index_t width = value_bytes(element);
      if (width == 0) {
        fail(errc::bad_metadata,
             "key " + printable<Arch>(key) +
                 (element == value_type::array
                      ? std::string(" is an array of arrays, which is not read (nor by ggml)")
                      : " has value type " + std::to_string(static_cast<std::uint32_t>(element)) +
                            ", known are 0 to 12"));
      }
      const std::optional<index_t> length = checked_multiply(size, width);
      if (!length || *length > remaining()) {
        fail(errc::truncated, "key " + printable<Arch>(key) + " claims " + std::to_string(size) +
                                  " elements of " + std::to_string(width) + " bytes, and " +
                                  std::to_string(remaining()) + " bytes are left");
      }
      value = {take(*length, "a value"), static_cast<std::size_t>(*length)};
    }
    metadata_.emplace_back(key, type, element, size, value);
  }

  std::span<const std::uint8_t> take_strings(std::string_view key, index_t count) {
    if (count > remaining() / 8) {
      fail(errc::truncated, "key " + printable<Arch>(key) + " claims " + std::to_string(count) +
                                " strings, and " + std::to_string(remaining()) + " bytes are left");
    }
    const std::uint8_t* const start = bytes_.data() + at_;
    for (index_t i = 0; i < count; ++i) take_string("a string of an array");
    return {start, static_cast<std::size_t>(bytes_.data() + at_ - start)};
  }

  [[nodiscard]] static std::span<const std::uint8_t> as_bytes(std::string_view text) noexcept {
    return {reinterpret_cast<const std::uint8_t*>(text.data()), text.size()};
  }

  void read_alignment() {
    const metadata_entry* const entry = find(alignment_key);
    if (entry == nullptr) return;
    if (entry->type() != value_type::u32) {
      fail(errc::bad_metadata, std::string(alignment_key) + " is " +
                                   value_type_name(entry->type()) + ", required is u32");
    }
    alignment_ = entry->template get<index_t, Arch>();
    if (!is_alignment(alignment_)) {
      fail(errc::bad_metadata, std::string(alignment_key) + " is " + std::to_string(alignment_) +
                                   ", required is a power of two from 1 to " +
                                   std::to_string(max_alignment));
    }
  }

  void read_info() {
    basic_tensor<Arch> t;
    t.name_ = take_string("a tensor name");
    if (t.name_.size() > max_name_bytes) {
      fail(errc::bad_metadata, "tensor name " + printable<Arch>(t.name_) + " has " +
                                   std::to_string(t.name_.size()) + " bytes, at most " +
                                   std::to_string(max_name_bytes) + " are allowed");
    }
    const std::string subject = "tensor " + printable<Arch>(t.name_);
    t.dims_used_ = take_u32("a number of dimensions");
    if (t.dims_used_ > max_dims) {
      fail(errc::bad_shape, subject + " has " + std::to_string(t.dims_used_) +
                                " dimensions, at most " + std::to_string(max_dims) +
                                " are allowed");
    }
    for (std::uint32_t d = 0; d < t.dims_used_; ++d) t.dims_[d] = take_index("an extent");
    t.type_ = take_u32("a tensor type");
    t.offset_ = take_index("a tensor offset");
    const std::optional<index_t> size = checked_size<Arch>(t.dims());
    if (!size) {
      fail(errc::bad_shape,
           subject + " has " + dims_text(t) +
               " elements, and the product does not fit 63 bits (beside a zero: 31 bits)");
    }
    const tensor_type known = find_tensor_type(t.type_);
    if (known.name != nullptr) {
      if (t.dims_[0] % known.block_size != 0) {
        fail(errc::bad_shape, subject + " has " + std::to_string(t.dims_[0]) + " columns, " +
                                  known.name + " needs a multiple of " +
                                  std::to_string(known.block_size));
      }
      const std::optional<index_t> length = stored_bytes(known, *size, t.dims_[0]);
      if (!length) {
        fail(errc::bad_shape, subject + " has " + dims_text(t) + " elements of type " + known.name +
                                  ", and the size in bytes does not fit 63 bits");
      }
      t.size_bytes_ = *length;
    }
    tensors_.push_back(t);
  }

  [[nodiscard]] static std::string dims_text(const basic_tensor<Arch>& t) {
    std::string text;
    for (const index_t extent : t.dims()) {
      if (!text.empty()) text += " x ";
      text += std::to_string(extent);
    }
    return text;
  }

  // Offsets must be the running sum of padded sizes, as ggml demands; behind a tensor of unknown
  // type, whose size is what is left to the next one, any aligned offset that does not go back.
  void place_data(bool metadata_only) {
    data_offset_ = at_;
    if (tensors_.empty()) return;
    const std::optional<index_t> start = checked_pad(at_, alignment_);
    if (!start) fail(errc::bad_metadata, "the data section begins past 2^63");
    data_offset_ = *start;
    const index_t available = size_bytes() > data_offset_ ? size_bytes() - data_offset_ : 0;
    index_t expected = 0;
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      basic_tensor<Arch>& t = tensors_[i];
      const bool sized = find_tensor_type(t.type_).name != nullptr;
      const bool after_unsized = i > 0 && find_tensor_type(tensors_[i - 1].type_).name == nullptr;
      if (t.offset_ % alignment_ != 0) {
        fail(errc::bad_metadata, "tensor " + printable<Arch>(t.name_) + " has offset " +
                                     std::to_string(t.offset_) + ", no multiple of the alignment " +
                                     std::to_string(alignment_));
      }
      if (after_unsized ? t.offset_ < expected : t.offset_ != expected) {
        fail(errc::bad_metadata, "tensor " + printable<Arch>(t.name_) + " has offset " +
                                     std::to_string(t.offset_) + ", required is " +
                                     (after_unsized ? "at least " : "") + std::to_string(expected) +
                                     ": tensors lie in order without gaps or overlap");
      }
      if (after_unsized) tensors_[i - 1].size_bytes_ = t.offset_ - tensors_[i - 1].offset_;
      expected = t.offset_;
      if (sized) {
        const std::optional<index_t> end = checked_add(t.offset_, t.size_bytes_);
        const std::optional<index_t> next = end ? checked_pad(*end, alignment_) : std::nullopt;
        if (!next) {
          fail(errc::bad_metadata, "tensor " + printable<Arch>(t.name_) + " ends past 2^63 bytes");
        }
        expected = *next;
      }
    }
    basic_tensor<Arch>& last = tensors_.back();
    if (find_tensor_type(last.type_).name == nullptr && last.offset_ < available) {
      last.size_bytes_ = available - last.offset_;
    }
    if (metadata_only) return;
    for (basic_tensor<Arch>& t : tensors_) {
      if (t.offset_ > available || t.size_bytes_ > available - t.offset_) {
        fail(errc::truncated, "tensor " + printable<Arch>(t.name_) + " needs " +
                                  std::to_string(t.size_bytes_) + " bytes at offset " +
                                  std::to_string(t.offset_) + ", and the data section has " +
                                  std::to_string(available));
      }
      t.has_data_ = true;
      if (t.size_bytes_ != 0) t.data_ = bytes_.data() + data_offset_ + t.offset_;
    }
  }

  basic_mapped_file<Arch> mapping_;
  std::string name_;
  std::span<const std::uint8_t> bytes_;
  index_t at_ = 0;
  std::uint32_t version_ = 0;
  index_t alignment_ = default_alignment;
  index_t data_offset_ = 0;
  std::vector<metadata_entry> metadata_;
  std::vector<basic_tensor<Arch>> tensors_;
  basic_name_index<Arch> keys_;   // of metadata_
  basic_name_index<Arch> names_;  // of tensors_
};

using tensor = basic_tensor<arch::native>;
using file = basic_file<arch::native>;

/// Maps the file at `path` and checks all of it.
template <class Arch = arch::native>
[[nodiscard]] basic_file<Arch> open(const std::string& path, open_options options = {}) {
  return basic_file<Arch>(path, options);
}

/// Checks a file that is in memory already and outlives the result; `name` is for error messages.
template <class Arch = arch::native>
[[nodiscard]] basic_file<Arch> parse(std::span<const std::uint8_t> bytes, std::string name,
                                     open_options options = {}) {
  return basic_file<Arch>(bytes, std::move(name), options);
}

}  // namespace gguf
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
