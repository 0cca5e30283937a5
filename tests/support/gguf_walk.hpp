// SPDX-License-Identifier: Apache-2.0
/// Whether an accepted GGUF file was read correctly: its bytes are walked again, by arithmetic that
/// shares nothing with the reader. Needs no test framework, so that fuzz targets can use it.
#pragma once

#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <vector>

#include "subbyte/io/gguf.hpp"

namespace test_support {

/// Reads everything that a file offers and compares it with the bytes it was made from.
class gguf_walk {
 public:
  gguf_walk(const subbyte::gguf::file& file, std::span<const std::uint8_t> bytes,
            bool metadata_only = false)
      : file_(file), bytes_(bytes), metadata_only_(metadata_only) {
    header();
    for (const subbyte::gguf::metadata_entry& e : file_.metadata()) entry(e);
    for (const subbyte::gguf::tensor& t : file_.tensors()) info(t);
    layout();
  }

  /// The first thing that is wrong; empty if nothing is.
  [[nodiscard]] const std::string& flaw() const { return flaw_; }
  /// Depends on every value and on the first and last bytes of every tensor.
  [[nodiscard]] std::uint64_t sum() const { return sum_; }

 private:
  __extension__ using wide = unsigned __int128;

  void expect(bool holds, const char* what, std::string_view whose = {}) {
    if (holds || !flaw_.empty()) return;
    flaw_ = std::string(what) + (whose.empty() ? "" : " of ") + subbyte::printable(whose);
  }

  // The next bytes of the file: must be where the reader says they are.
  const std::uint8_t* next(std::size_t count) {
    if (count > bytes_.size() - at_) {
      expect(false, "the header goes past the end of the file");
      return nullptr;
    }
    const std::uint8_t* const p = bytes_.data() + at_;
    at_ += count;
    return p;
  }
  template <class T>
  T next_number() {
    T value{};
    const std::uint8_t* const p = next(sizeof(T));
    if (p != nullptr) std::memcpy(&value, p, sizeof(T));
    return value;
  }
  void next_text(std::string_view read, const char* what) {
    expect(next_number<std::uint64_t>() == read.size(), what, read);
    expect(static_cast<const void*>(next(read.size())) == read.data(), what, read);
    if (!flaw_.empty()) return;
    for (const char c : read) sum_ = sum_ * 31 + static_cast<unsigned char>(c);
  }

  void header() {
    expect(file_.size_bytes() == static_cast<subbyte::index_t>(bytes_.size()), "size");
    expect(bytes_.size() >= 24 && std::memcmp(bytes_.data(), "GGUF", 4) == 0, "magic");
    if (!flaw_.empty()) return;
    at_ = 4;
    expect(next_number<std::uint32_t>() == file_.version(), "version");
    expect(file_.version() == 2 || file_.version() == 3, "version");
    expect(next_number<std::uint64_t>() == file_.tensors().size(), "number of tensors");
    expect(next_number<std::uint64_t>() == file_.metadata().size(), "number of keys");
    const subbyte::index_t a = file_.alignment();
    expect(a > 0 && a <= (1 << 20) && __builtin_popcountll(static_cast<unsigned long long>(a)) == 1,
           "alignment");
  }

  static std::size_t width_of(std::uint32_t type) {
    constexpr std::size_t widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    return type < std::size(widths) ? widths[type] : 0;
  }

  template <class T>
  void typed(const subbyte::gguf::metadata_entry& e, subbyte::gguf::value_type own) {
    const bool is_array = e.type() == subbyte::gguf::value_type::array;
    const auto number = e.try_get<T>();
    const auto array = e.try_get<subbyte::gguf::array_view<T>>();
    expect(!is_array || !number, "an array is read as a number", e.key());
    expect(is_array || e.type() != own || number.has_value(), "a value is not read", e.key());
    expect(array.has_value() == (is_array && e.element_type() == own), "array type", e.key());
    if (number) add(*number);
    if (!array) return;
    subbyte::index_t count = 0;
    for (const T item : *array) {
      add(item);
      ++count;
    }
    expect(count == e.size() && array->size() == e.size(), "array size", e.key());
  }
  template <class T>
  void add(T value) {
    if constexpr (std::is_same_v<T, std::string_view>) {
      for (const char c : value) sum_ = sum_ * 31 + static_cast<unsigned char>(c);
    } else {
      std::uint64_t bits = 0;
      std::memcpy(&bits, &value, sizeof(value));
      sum_ = sum_ * 31 + bits;
    }
  }

  void entry(const subbyte::gguf::metadata_entry& e) {
    if (!flaw_.empty()) return;
    using vt = subbyte::gguf::value_type;
    next_text(e.key(), "key");
    expect(!e.key().empty(), "an empty key");
    expect(file_.find(e.key()) == &e, "a key that is not found under its name", e.key());
    expect(next_number<std::uint32_t>() == static_cast<std::uint32_t>(e.type()), "type", e.key());
    const bool is_array = e.type() == vt::array;
    if (is_array) {
      expect(next_number<std::uint32_t>() == static_cast<std::uint32_t>(e.element_type()),
             "element type", e.key());
      expect(next_number<std::uint64_t>() == static_cast<std::uint64_t>(e.size()), "array size",
             e.key());
    } else {
      expect(e.size() == 1 && e.element_type() == e.type(), "size of a single value", e.key());
    }
    if (!flaw_.empty()) return;
    if (e.element_type() == vt::string) {
      if (is_array) {
        const std::uint8_t* const start = bytes_.data() + at_;
        expect(e.bytes().data() == start, "place of an array", e.key());
        for (subbyte::index_t i = 0; i < e.size() && flaw_.empty(); ++i) {
          const std::uint64_t length = next_number<std::uint64_t>();
          expect(length <= bytes_.size() - at_, "string length", e.key());
          if (flaw_.empty()) next(static_cast<std::size_t>(length));
        }
        expect(e.bytes().data() + e.bytes().size() == bytes_.data() + at_, "end of an array",
               e.key());
      } else {
        const auto text = e.try_get<std::string_view>();
        expect(text.has_value(), "a string is not read", e.key());
        if (text) next_text(*text, "string");
      }
    } else {
      const std::size_t width = width_of(static_cast<std::uint32_t>(e.element_type()));
      expect(width != 0, "element type", e.key());
      const wide length = wide{width} * static_cast<std::uint64_t>(e.size());
      expect(e.size() >= 0 && length == e.bytes().size(), "bytes of a value", e.key());
      expect(next(e.bytes().size()) == e.bytes().data(), "place of a value", e.key());
    }
    if (!flaw_.empty()) return;
    typed<std::uint8_t>(e, vt::u8);
    typed<std::int8_t>(e, vt::i8);
    typed<std::uint16_t>(e, vt::u16);
    typed<std::int16_t>(e, vt::i16);
    typed<std::uint32_t>(e, vt::u32);
    typed<std::int32_t>(e, vt::i32);
    typed<std::uint64_t>(e, vt::u64);
    typed<std::int64_t>(e, vt::i64);
    typed<float>(e, vt::f32);
    typed<double>(e, vt::f64);
    typed<bool>(e, vt::boolean);
    typed<std::string_view>(e, vt::string);
  }

  void info(const subbyte::gguf::tensor& t) {
    if (!flaw_.empty()) return;
    next_text(t.name(), "tensor name");
    expect(t.name().size() <= 63, "name length", t.name());
    expect(file_.find_tensor(t.name()) == &t, "a tensor that is not found", t.name());
    expect(next_number<std::uint32_t>() == t.dims().size(), "rank", t.name());
    expect(t.dims().size() <= 4, "rank", t.name());
    wide size = 1;
    for (const subbyte::index_t extent : t.dims()) {
      expect(next_number<std::uint64_t>() == static_cast<std::uint64_t>(extent), "extent",
             t.name());
      expect(extent >= 0, "extent", t.name());
      size *= static_cast<std::uint64_t>(extent);
      expect(size <= wide{std::uint64_t{1} << 63} - 1, "number of elements", t.name());
    }
    if (!flaw_.empty()) return;
    const auto elements = static_cast<std::uint64_t>(size);
    expect(next_number<std::uint32_t>() == t.type(), "type id", t.name());
    expect(next_number<std::uint64_t>() == static_cast<std::uint64_t>(t.offset()), "offset",
           t.name());
    expect(t.rows() >= 0 && t.cols() >= 0 && t.size() == static_cast<subbyte::index_t>(elements) &&
               wide{static_cast<std::uint64_t>(t.rows())} * static_cast<std::uint64_t>(t.cols()) ==
                   elements,
           "rows and columns", t.name());
    expect(t.size() != 0 || (t.rows() < (1LL << 31) && t.cols() < (1LL << 31)),
           "extents of an empty tensor", t.name());
    const subbyte::gguf::tensor_type known = subbyte::gguf::find_tensor_type(t.type());
    if (known.name == nullptr) return;
    const auto block = static_cast<std::uint64_t>(known.block_size);
    expect(static_cast<std::uint64_t>(t.cols()) % block == 0, "columns", t.name());
    expect(wide{elements / block} * static_cast<std::uint64_t>(known.block_bytes) ==
               static_cast<std::uint64_t>(t.size_bytes()),
           "size in bytes", t.name());
  }

  void layout() {
    if (!flaw_.empty()) return;
    const auto alignment = static_cast<std::size_t>(file_.alignment());
    const auto start = static_cast<std::size_t>(file_.data_offset());
    if (file_.tensors().empty()) {
      expect(start == at_, "end of the header");
      return;
    }
    expect(start >= at_ && start - at_ < alignment && start % alignment == 0, "data offset");
    std::size_t end = 0;
    for (const subbyte::gguf::tensor& t : file_.tensors()) {
      const auto offset = static_cast<std::size_t>(t.offset());
      const auto size = static_cast<std::size_t>(t.size_bytes());
      expect(offset % alignment == 0, "alignment", t.name());
      expect(offset >= end, "overlap", t.name());
      end = offset + size;
      expect(end >= offset, "end", t.name());
      if (!flaw_.empty()) return;
      if (metadata_only_) {
        try {
          (void)t.bytes();
          expect(false, "data of a file without data", t.name());
        } catch (const subbyte::error& e) {
          expect(e.code() == subbyte::errc::truncated, "error code", t.name());
        }
        continue;
      }
      const auto stored = t.bytes();
      expect(stored.size() == size, "bytes", t.name());
      if (size == 0) continue;
      expect(start <= bytes_.size() && end <= bytes_.size() - start, "data past the end", t.name());
      expect(stored.data() == bytes_.data() + start + offset, "place of the data", t.name());
      if (!flaw_.empty()) return;
      sum_ = sum_ * 31 + stored.front();
      sum_ = sum_ * 31 + stored.back();
      decode_last_block(t);
    }
  }

  void decode_last_block(const subbyte::gguf::tensor& t) {
    try {
      t.visit([&](auto matrix) {
        using F = typename decltype(matrix)::format;
        expect(matrix.size_bytes() <= t.size_bytes(), "matrix past the tensor", t.name());
        expect(matrix.rows() == t.rows() && matrix.cols() == t.cols(), "matrix shape", t.name());
        if (!flaw_.empty() || matrix.rows() == 0 || matrix.cols() == 0) return;
        float block[F::block_size];
        matrix.decode_row(matrix.rows() - 1, matrix.cols() - F::block_size, F::block_size, block);
        add(block[0]);
      });
    } catch (const subbyte::error& e) {
      // No format of that id here, or the file's alignment is less than the format's.
      expect(
          e.code() == subbyte::errc::unsupported_format || e.code() == subbyte::errc::bad_metadata,
          "error code of a visit", t.name());
    }
  }

  const subbyte::gguf::file& file_;
  std::span<const std::uint8_t> bytes_;
  bool metadata_only_;
  std::size_t at_ = 0;
  std::string flaw_;
  std::uint64_t sum_ = 0;
};

}  // namespace test_support
