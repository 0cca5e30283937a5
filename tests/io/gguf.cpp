// SPDX-License-Identifier: Apache-2.0
/// The GGUF reader: ggml's own files read as ggml reads them, typed access, and files that lie.
#include "subbyte/io/gguf.hpp"

#include <cinttypes>
#include <cmath>
#include <cstdio>
#include <limits>

#include "support/allocation_peak.hpp"
#include "support/files.hpp"
#include "support/gguf_bytes.hpp"

namespace gguf = subbyte::gguf;
using subbyte::errc;
using subbyte::index_t;
using test_support::byte_string;
using test_support::bytes;
using test_support::contains;
using test_support::error_of;
using namespace test_support::gguf_bytes;

namespace {

const std::string golden = SUBBYTE_GOLDEN_DIR "/ggml/gguf/";
const std::vector<std::string> golden_names = {
    "empty",           "kv_all_types", "kv_empty_arrays", "tensors_align32",
    "tensors_align64", "meta_only",    "refused_offsets"};

template <class... A>
std::string format(const char* pattern, A... values) {
  char text[256];
  std::snprintf(text, sizeof(text), pattern, values...);
  return text;
}

// The notation of the golden .txt files.
std::string quoted(std::string_view text) {
  std::string out = "\"";
  for (const char c : text) {
    const unsigned code = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      out += std::string("\\") + c;
    } else if (code < 0x20 || code >= 0x7F) {
      out += format("\\x%02x", code);
    } else {
      out += c;
    }
  }
  return out + "\"";
}

std::string golden_type(std::string_view name) {
  std::string text(name);
  if (text.size() == 4 && text[0] == 'q' && text.substr(2) == "_k") text[3] = 'K';
  return text == "string" ? "str" : text;
}

std::string shown(bool value) { return value ? "true" : "false"; }
std::string shown(float value) {
  return format("0x%08" PRIx32 "(%.9g)", subbyte::bit_cast<std::uint32_t>(value),
                static_cast<double>(value));
}
std::string shown(double value) {
  return format("0x%016" PRIx64 "(%.17g)", subbyte::bit_cast<std::uint64_t>(value), value);
}
std::string shown(std::string_view value) { return quoted(value); }
template <class T>
std::string shown(T value) {
  return std::to_string(value);
}

template <class T>
std::string shown_value(const gguf::metadata_entry& e) {
  if (e.type() != gguf::value_type::array) return shown(e.get<T>());
  std::string text = std::to_string(e.size()) + "\t";
  const char* separator = "";
  index_t count = 0;
  for (const T item : e.get<gguf::array_view<T>>()) {
    text += separator + shown(item);
    separator = " ";
    ++count;
  }
  REQUIRE(count == e.size());
  return text;
}

std::string shown_value(const gguf::metadata_entry& e) {
  switch (e.element_type()) {
    case gguf::value_type::u8:
      return shown_value<std::uint8_t>(e);
    case gguf::value_type::i8:
      return shown_value<std::int8_t>(e);
    case gguf::value_type::u16:
      return shown_value<std::uint16_t>(e);
    case gguf::value_type::i16:
      return shown_value<std::int16_t>(e);
    case gguf::value_type::u32:
      return shown_value<std::uint32_t>(e);
    case gguf::value_type::i32:
      return shown_value<std::int32_t>(e);
    case gguf::value_type::f32:
      return shown_value<float>(e);
    case gguf::value_type::boolean:
      return shown_value<bool>(e);
    case gguf::value_type::string:
      return shown_value<std::string_view>(e);
    case gguf::value_type::u64:
      return shown_value<std::uint64_t>(e);
    case gguf::value_type::i64:
      return shown_value<std::int64_t>(e);
    case gguf::value_type::f64:
      return shown_value<double>(e);
    case gguf::value_type::array:
      break;
  }
  return "?";
}

// Everything a file holds, as the golden .txt files write it.
std::string described(const gguf::file& file, const std::string& name, const bytes& content,
                      bool with_data) {
  std::string text = "file\t" + name + "\n";
  text += "bytes\t" + std::to_string(content.size()) + "\n";
  text +=
      format("fnv1a64\t%016" PRIx64 "\n", test_support::fnv1a64(content.data(), content.size()));
  text += "version\t" + std::to_string(file.version()) + "\n";
  text += "alignment\t" + std::to_string(file.alignment()) + "\n";
  text += "data_offset\t" + std::to_string(file.data_offset()) + "\n";
  text += "n_kv\t" + std::to_string(file.metadata().size()) + "\n";
  text += "n_tensors\t" + std::to_string(file.tensors().size()) + "\n";
  int i = 0;
  for (const gguf::metadata_entry& e : file.metadata()) {
    const std::string type = golden_type(gguf::value_type_name(e.element_type()));
    text += "kv\t" + std::to_string(i++) + "\t" + quoted(e.key()) + "\t" +
            (e.type() == gguf::value_type::array ? "arr[" + type + "]" : type) + "\t" +
            shown_value(e) + "\n";
  }
  i = 0;
  for (const gguf::tensor& t : file.tensors()) {
    index_t ne[4] = {1, 1, 1, 1};
    for (std::size_t d = 0; d < t.dims().size(); ++d) ne[d] = t.dims()[d];
    text += "tensor\t" + std::to_string(i++) + "\t" + quoted(t.name()) + "\t" +
            golden_type(gguf::find_tensor_type(t.type()).name) + "\t" + std::to_string(t.type()) +
            "\tne=" + std::to_string(ne[0]) + "," + std::to_string(ne[1]) + "," +
            std::to_string(ne[2]) + "," + std::to_string(ne[3]) +
            "\toffset=" + std::to_string(t.offset()) + "\tsize=" + std::to_string(t.size_bytes());
    text += with_data ? format("\tfnv1a64=%016" PRIx64 "\n",
                               test_support::fnv1a64(t.bytes().data(), t.bytes().size()))
                      : std::string("\tfnv1a64=data missing\n");
  }
  return text;
}

// Reads every value and every byte that the file offers: under ASan this is the proof that what was
// accepted lies inside the file. Returns something that depends on all of it.
std::uint64_t touch(const gguf::file& file) {
  std::uint64_t sum = 0;
  for (const gguf::metadata_entry& e : file.metadata()) {
    sum += shown_value(e).size() + e.key().size();
    if (file.find(e.key()) != &e) FAIL("a key is not found under its name");
  }
  for (const gguf::tensor& t : file.tensors()) {
    if (file.find_tensor(t.name()) != &t) FAIL("a tensor is not found under its name");
    const auto stored = t.bytes();
    sum += test_support::fnv1a64(stored.data(), stored.size());
    if (t.size() < 0 || t.rows() < 0 || t.cols() < 0) FAIL("negative extents");
    try {
      t.visit([&](auto matrix) {
        using F = typename decltype(matrix)::format;
        if (matrix.size_bytes() > static_cast<index_t>(stored.size())) FAIL("past the tensor");
        if (matrix.rows() == 0 || matrix.cols() == 0) return;
        std::vector<float> row(F::block_size);
        matrix.decode_row(matrix.rows() - 1, 0, F::block_size, row.data());
        sum += subbyte::bit_cast<std::uint32_t>(row[0]);
      });
    } catch (const subbyte::error& e) {
      if (e.code() != errc::unsupported_format && e.code() != errc::bad_metadata &&
          e.code() != errc::bad_shape) {
        throw;
      }
    }
  }
  return sum;
}

bytes with_alignment(std::uint32_t value_type, std::uint64_t value, std::size_t width) {
  byte_string b = header(0, 1);
  b.text("general.alignment").u32(value_type);
  for (std::size_t i = 0; i < width; ++i) b.u8(static_cast<std::uint8_t>(value >> (8 * i)));
  return b.content;
}

struct hostile {
  std::string name;
  bytes content;
  errc code;
  std::string phrase;
};

constexpr std::uint64_t huge = std::uint64_t{1} << 63;

std::vector<hostile> hostile_files() {
  std::vector<hostile> list;
  const auto add = [&](std::string name, bytes content, errc code, std::string phrase) {
    list.push_back({std::move(name), std::move(content), code, std::move(phrase)});
  };
  const auto add_entry = [&](std::string name, const byte_string& entry, errc code,
                             std::string phrase) {
    byte_string b = header(0, 1);
    b.content.insert(b.content.end(), entry.content.begin(), entry.content.end());
    add(std::move(name), b.content, code, std::move(phrase));
  };
  using b = byte_string;

  add("no bytes", {}, errc::truncated, "the magic");
  add("half a magic", b().raw("GG").content, errc::truncated, "the magic");
  add("another magic", b().raw("GGML").zeros(60).content, errc::bad_magic, "\"GGML\"");
  add("terminal escapes for a magic", b().raw("\x1b[2J").zeros(60).content, errc::bad_magic,
      "\\x1b[2J");
  add("only a magic", b().raw("GGUF").content, errc::truncated, "the version");
  add("version 0", header(0, 0, 0).content, errc::unsupported_format, "version 0");
  add("version 1", header(0, 0, 1).content, errc::unsupported_format, "version 1 (32-bit counts");
  add("version 4", header(0, 0, 4).content, errc::unsupported_format, "version 4");
  add("big-endian version 3", header(0, 0, 0x03000000).content, errc::unsupported_format,
      "big-endian");
  add("no counts", b().raw("GGUF").u32(3).u64(0).content, errc::truncated, "number of keys");

  add("negative tensor count", header(~std::uint64_t{0}, 0).content, errc::bad_metadata,
      "number of tensors");
  add("negative key count", header(0, huge).content, errc::bad_metadata, "number of keys");
  add("2^60 tensors", header(std::uint64_t{1} << 60, 0).zeros(64).content, errc::truncated,
      "claims 1152921504606846976 tensors");
  add("2^60 keys", header(0, std::uint64_t{1} << 60).zeros(64).content, errc::truncated,
      "claims 1152921504606846976 keys");
  add("one key more than there is room", header(0, 2).zeros(27).content, errc::truncated,
      "room for 1");
  add("tensors whose room the keys have used",
      header(1, 1).text("key").u32(string_type).text(std::string(64, 'x')).content, errc::truncated,
      "claims 1 tensors");

  add_entry("key length that wraps", b().u64(~std::uint64_t{0}).zeros(32), errc::bad_metadata,
            "a key");
  add_entry("key length past the end", b().u64(33).zeros(32), errc::truncated, "a key");
  add_entry("key length 2^62", b().u64(std::uint64_t{1} << 62).zeros(32), errc::truncated, "a key");
  add_entry("empty key", b().text("").u32(u32_type).u32(1), errc::bad_metadata, "is empty");
  add_entry("value type 13", b().text("key").u32(13).zeros(8), errc::bad_metadata,
            "value type 13, known are 0 to 12");
  add_entry("value type 2^32 - 1", b().text("key").u32(~0U).zeros(8), errc::bad_metadata,
            "value type 4294967295");
  add_entry("value cut off", b().text("key").u32(10).zeros(7), errc::truncated, "1 elements of 8");
  add_entry("string length that wraps",
            b().text("key").u32(string_type).u64(~std::uint64_t{0} - 7).zeros(8),
            errc::bad_metadata, "a string");
  add_entry("string past the end", b().text("key").u32(string_type).u64(9).zeros(8),
            errc::truncated, "a string");
  add_entry("array of arrays", b().text("key").u32(array_type).u32(array_type).u64(0),
            errc::bad_metadata, "array of arrays");
  add_entry("array of an unknown type", b().text("key").u32(array_type).u32(13).u64(0),
            errc::bad_metadata, "value type 13");
  add_entry("array whose size in bytes wraps to 0",
            b().text("key").u32(array_type).u32(10).u64(std::uint64_t{1} << 61), errc::truncated,
            "2305843009213693952 elements of 8");
  add_entry("array with a negative size",
            b().text("key").u32(array_type).u32(0).u64(~std::uint64_t{0}), errc::bad_metadata,
            "an array's size");
  add_entry("1 GiB of array in 160 bytes (ggml PR 1516)",
            b().text("key").u32(array_type).u32(0).u64(std::uint64_t{1} << 30).zeros(107),
            errc::truncated, "1073741824 elements");
  add_entry("2^60 strings in 43 bytes (llama.cpp PR 27188)",
            b().text("k").u32(array_type).u32(string_type).u64(std::uint64_t{1} << 60),
            errc::truncated, "1152921504606846976 strings");
  for (const std::uint32_t depth : {2U, 3U, 40U}) {
    b nested = b().text("key").u32(array_type);
    for (std::uint32_t i = 1; i < depth; ++i) nested.u32(array_type).u64(std::uint64_t{1} << 62);
    add_entry("arrays in arrays of 2^62, " + std::to_string(depth) + " deep",
              nested.u32(0).u64(1).u8(1), errc::bad_metadata, "array of arrays");
  }
  add_entry("array of the largest size that is no negative number",
            b().text("key").u32(array_type).u32(0).u64(huge - 1).zeros(8), errc::truncated,
            "9223372036854775807 elements");
  add_entry("key length 2^63", b().u64(huge).zeros(32), errc::bad_metadata, "a key");
  add_entry("string length 2^63", b().text("key").u32(string_type).u64(huge).zeros(32),
            errc::bad_metadata, "a string");
  add_entry("string that would take the data and the header's end",
            b().text("key").u32(string_type).u64(huge - 1).zeros(32), errc::truncated, "a string");
  add_entry("an element type cut off", b().text("key").u32(array_type).raw("ab"), errc::truncated,
            "an array's element type");
  add_entry("string of an array past the end",
            b().text("key").u32(array_type).u32(string_type).u64(2).text("one").u64(2).u8('x'),
            errc::truncated, "a string of an array");
  add("duplicate key",
      header(0, 3).text("a").u32(0).u8(1).text("b").u32(0).u8(1).text("a").u32(0).u8(2).content,
      errc::bad_metadata, "key a occurs twice");

  add("alignment of type u64", with_alignment(10, 32, 8), errc::bad_metadata,
      "general.alignment is u64");
  add("alignment of type i32", with_alignment(5, 32, 4), errc::bad_metadata, "is i32");
  add_entry("alignment of type string", b().text("general.alignment").u32(string_type).text("32"),
            errc::bad_metadata, "is string");
  add_entry("alignment of type array",
            b().text("general.alignment").u32(array_type).u32(u32_type).u64(1).u32(32),
            errc::bad_metadata, "is array");
  for (const std::uint32_t value : {0U, 3U, 48U, 1U << 21, 1U << 31, ~0U}) {
    add("alignment " + std::to_string(value), with_alignment(u32_type, value, 4),
        errc::bad_metadata, "general.alignment is " + std::to_string(value));
  }

  {
    b f = header(1, 0);
    info(f, std::string(64, 'n'), {4}, 0, 0).pad(32).zeros(32);
    add("name of 64 bytes", f.content, errc::bad_metadata, "64 bytes, at most 63");
  }
  {
    b f = header(2, 0);
    info(f, "w", {4}, 0, 0);
    info(f, "w", {4}, 0, 32).pad(32).zeros(64);
    add("duplicate tensor name", f.content, errc::bad_metadata, "tensor name w occurs twice");
  }
  add("name length that wraps", header(1, 0).u64(~std::uint64_t{0} - 3).zeros(64).content,
      errc::bad_metadata, "a tensor name");
  add("5 dimensions", one_tensor({1, 1, 1, 1, 1}, 0, 0, 32), errc::bad_shape, "5 dimensions");
  add("9 dimensions (gguf-tools 25)", one_tensor({1, 1, 1, 1, 1, 1, 1, 1, 1}, 0, 0, 32),
      errc::bad_shape, "9 dimensions");
  add("2^32 - 1 dimensions", header(1, 0).text("w").u32(~0U).zeros(64).content, errc::bad_shape,
      "4294967295 dimensions");
  add("dimensions cut off", header(1, 0).text("name").u32(4).u64(1).u64(1).content, errc::truncated,
      "");
  add("extent 2^63", one_tensor({huge}, 0, 0, 32), errc::bad_metadata, "an extent");
  add("four extents of 2^16 - 1 and one bit more",
      one_tensor({1 << 16, 1 << 16, 1 << 16, 1 << 16}, 24, 0, 32), errc::bad_shape,
      "65536 x 65536 x 65536 x 65536 elements");
  add("extents of an unknown type whose product wraps",
      one_tensor({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 99, 0, 32), errc::bad_shape,
      "63 bits");
  add("negative extent", one_tensor({~std::uint64_t{0}}, 0, 0, 32), errc::bad_metadata,
      "an extent");
  add("extents whose product wraps to 0 (ggml HEAD)",
      one_tensor({std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0, 0, 32), errc::bad_shape,
      "4294967296 x 4294967296 elements");
  add("extents whose product wraps to something small",
      one_tensor({(std::uint64_t{1} << 62) + 8, 4}, 0, 0, 128), errc::bad_shape, "63 bits");
  add("absurd extents behind a zero",
      one_tensor({0, std::uint64_t{1} << 32, std::uint64_t{1} << 32}, 0, 0, 32), errc::bad_shape,
      "63 bits");
  add("2^62 rows of nothing", one_tensor({0, std::uint64_t{1} << 62}, 0, 0, 32), errc::bad_shape,
      "beside a zero: 31 bits");
  add("2^62 rows of nothing, in a type that is not known",
      one_tensor({0, std::uint64_t{1} << 62}, 99, 0, 32), errc::bad_shape, "31 bits");
  add("elements times type size wraps (CVE-2026-33298)",
      one_tensor({std::uint64_t{1} << 62}, 0, 0, 32), errc::bad_shape, "size in bytes");
  add("2^61 blocks of 34 bytes", one_tensor({32, std::uint64_t{1} << 57, 16}, 8, 0, 32),
      errc::bad_shape, "63 bits");
  add("33 columns of q4_0", one_tensor({33}, 2, 0, 64), errc::bad_shape,
      "33 columns, q4_0 needs a multiple of 32");
  add("255 columns of iq2_xxs, which has no format here", one_tensor({255}, 16, 0, 128),
      errc::bad_shape, "needs a multiple of 256");
  {
    b f = header(2, 0);
    info(f, "a", {std::uint64_t{1} << 62}, 24, 0);
    info(f, "b", {std::uint64_t{1} << 62}, 24, std::uint64_t{1} << 62).pad(32).zeros(64);
    add("sum of sizes that overflows (GHSA-vgg9-87g3-85w8)", f.content, errc::bad_metadata, "2^63");
  }
  add("padding that wraps (llama.cpp PR 24759)", one_tensor({huge - 1}, 24, 0, 32),
      errc::bad_metadata, "2^63");
  add("offset 2^64 - 32", one_tensor({4}, 0, ~std::uint64_t{31}, 32), errc::bad_metadata,
      "a tensor offset");
  add("offset that is not aligned", one_tensor({4}, 0, 16, 64), errc::bad_metadata,
      "offset 16, no multiple of the alignment 32");
  add("first tensor behind a gap", one_tensor({4}, 0, 32, 64), errc::bad_metadata,
      "offset 32, required is 0");
  for (const std::uint64_t offset : {std::uint64_t{0}, std::uint64_t{32}, std::uint64_t{96}}) {
    b f = header(2, 0);
    info(f, "a", {16}, 0, 0);
    info(f, "b", {4}, 0, offset).pad(32).zeros(160);
    add("second tensor at " + std::to_string(offset) + " instead of 64", f.content,
        errc::bad_metadata, "required is 64");
  }
  {
    b f = header(2, 0);
    info(f, "b", {4}, 0, 32);
    info(f, "a", {4}, 0, 0).pad(32).zeros(64);
    add("tensors out of order", f.content, errc::bad_metadata, "offset 32, required is 0");
  }
  {
    b f = header(2, 0);
    info(f, "a", {4}, 99, 0);
    info(f, "b", {4}, 0, 1 << 20).pad(32).zeros(64);
    add("tensor behind one of unknown type, past the end", f.content, errc::truncated,
        "tensor a needs 1048576 bytes");
  }
  {
    b f = header(3, 0);
    info(f, "a", {4}, 99, 0);
    info(f, "b", {4}, 99, 64);
    info(f, "c", {4}, 0, 32).pad(32).zeros(96);
    add("tensor behind one of unknown type, going back", f.content, errc::bad_metadata,
        "at least 64");
  }
  {
    b f = header(2, 0);
    info(f, "a", {4}, 99, 0);
    info(f, "b", {0}, 0, 128).pad(32).zeros(64);
    add("unknown type with an empty tensor behind it, past the end", f.content, errc::truncated,
        "tensor a needs 128 bytes");
  }
  add("unknown type, past the end", one_tensor({4}, 99, 32, 64), errc::bad_metadata,
      "required is 0");
  {
    b f = header(2, 0);
    info(f, "a", {4}, 0, 0);
    info(f, "b", {4}, 99, 1 << 20).pad(32).zeros(64);
    add("unknown type behind a gap", f.content, errc::bad_metadata, "required is 32");
  }
  {
    b f = header(1, 1).text("general.alignment").u32(u32_type).u32(1 << 20);
    info(f, "w", {4}, 0, 0).zeros(4096);
    add("alignment that moves the data behind the end", f.content, errc::truncated,
        "the data section has 0");
  }
  {
    bytes f = one_tensor({4}, 0, 0, 16);
    f.pop_back();
    add("last byte of the last tensor missing", f, errc::truncated, "needs 16 bytes at offset 0");
  }
  add("no data section", one_tensor({4}, 0, 0, 0), errc::truncated, "the data section has 0");
  {
    b f = header(1, 0);
    info(f, "w", {4}, 0, 0);
    add("file that ends before the data section begins", f.content, errc::truncated,
        "the data section has 0");
  }
  return list;
}

}  // namespace

TEST_CASE("gguf: files of ggml read as ggml reads them") {
  for (const std::string& name : golden_names) {
    if (name == "refused_offsets") continue;
    INFO(name);
    const bool with_data = name != "meta_only";
    const bytes content = test_support::read_file(golden + name + ".gguf");
    const bytes text = test_support::read_file(golden + name + ".gguf.txt");
    const gguf::file file = gguf::open(golden + name + ".gguf", {.metadata_only = !with_data});
    REQUIRE(described(file, name + ".gguf", content, with_data) ==
            std::string(text.begin(), text.end()));
    REQUIRE(file.name() == golden + name + ".gguf");
    REQUIRE(file.size_bytes() == static_cast<index_t>(content.size()));
    if (with_data) touch(file);
  }
}

TEST_CASE("gguf: a file whose offsets ggml refuses is refused") {
  const subbyte::error e = error_of([] { (void)gguf::open(golden + "refused_offsets.gguf"); });
  REQUIRE(e.code() == errc::bad_metadata);
  REQUIRE(contains(e.what(), "offset"));
}

TEST_CASE("gguf: a file without its data is refused, unless only the metadata are asked for") {
  const subbyte::error refused = error_of([] { (void)gguf::open(golden + "meta_only.gguf"); });
  REQUIRE(refused.code() == errc::truncated);
  const gguf::file file = gguf::open(golden + "meta_only.gguf", {.metadata_only = true});
  REQUIRE(file.tensors().size() == 5);
  const gguf::tensor& t = file.tensor("q8");
  REQUIRE(t.size_bytes() == 102);
  REQUIRE(error_of([&] { (void)t.bytes(); }).code() == errc::truncated);
  REQUIRE(error_of([&] { (void)t.as<subbyte::q8_0>(); }).code() == errc::truncated);
  REQUIRE(error_of([&] { t.visit([](auto) {}); }).code() == errc::truncated);
}

TEST_CASE("gguf: version 2 reads like version 3") {
  bytes content = test_support::read_file(golden + "tensors_align64.gguf");
  content[4] = 2;
  const gguf::file file = gguf::parse(content, "v2");
  REQUIRE(file.version() == 2);
  REQUIRE(file.name() == "v2");
  REQUIRE(touch(file) == touch(gguf::open(golden + "tensors_align64.gguf")));
}

TEST_CASE("gguf: every file that lies ends in its typed error") {
  for (const hostile& h : hostile_files()) {
    INFO(h.name);
    const test_support::allocation_peak peak;
    const subbyte::error e = error_of([&] { (void)gguf::parse(h.content, "hostile"); });
    INFO(e.what());
    REQUIRE(e.code() == h.code);
    REQUIRE(contains(e.what(), h.phrase));
    REQUIRE(e.subject() == "hostile");
    // The stated bound, and room for the message.
    REQUIRE(peak.bytes() <= 16 * h.content.size() + 8192);
  }
}

TEST_CASE("gguf: what is odd but harmless is accepted") {
  {
    INFO("a header and nothing else");
    const bytes content = header(0, 0).content;
    const gguf::file file = gguf::parse(content, "");
    REQUIRE(file.data_offset() == 24);
    REQUIRE(file.alignment() == 32);
    REQUIRE(file.find("x") == nullptr);
    REQUIRE(file.find_tensor("x") == nullptr);
  }
  {
    INFO("a tensor without dimensions, whose data have no padding");
    const bytes content = one_tensor({}, 0, 0, 4);
    const gguf::file file = gguf::parse(content, "");
    const gguf::tensor& t = file.tensor("w");
    REQUIRE(t.dims().empty());
    REQUIRE((t.rows() == 1 && t.cols() == 1 && t.size() == 1 && t.size_bytes() == 4));
  }
  {
    INFO("a tensor without elements");
    const bytes content = one_tensor({64, 0, 3}, 2, 0, 0);
    const gguf::file file = gguf::parse(content, "");
    const gguf::tensor& t = file.tensor("w");
    REQUIRE((t.rows() == 0 && t.cols() == 64 && t.size_bytes() == 0 && t.bytes().empty()));
    REQUIRE(t.as<subbyte::q4_0>().rows() == 0);
  }
  {
    INFO("names and keys are bytes");
    byte_string b = header(1, 1).text(std::string_view("\xff\0k", 3)).u32(7).u8(2);
    info(b, std::string_view("a\0b", 3), {1}, 0, 0).pad(32).zeros(4);
    const gguf::file file = gguf::parse(b.content, "");
    REQUIRE(file.get<bool>(std::string_view("\xff\0k", 3)));
    REQUIRE(file.find_tensor(std::string_view("a\0b", 3)) != nullptr);
    REQUIRE(file.find_tensor("a") == nullptr);
  }
  {
    INFO("an empty name");
    byte_string b = header(1, 0);
    info(b, "", {1}, 0, 0).pad(32).zeros(4);
    REQUIRE(gguf::parse(b.content, "").find_tensor("") != nullptr);
  }
  for (std::uint64_t count = 0; count < 40; ++count) {
    INFO(count << " empty strings that fill the file to its last byte");
    byte_string b = header(0, 1).text("x").u32(array_type).u32(string_type).u64(count);
    b.zeros(8 * count);
    const gguf::file file = gguf::parse(b.content, "");
    const auto strings = file.get<gguf::array_view<std::string_view>>("x");
    REQUIRE(strings.size() == static_cast<index_t>(count));
    for (const std::string_view text : strings) REQUIRE(text.empty());
  }
  for (std::uint32_t alignment = 1; alignment <= 1U << 20; alignment *= 2) {
    INFO("alignment " << alignment << ", given by the last key");
    byte_string b = header(2, 2).text("x").u32(0).u8(1);
    b.text("general.alignment").u32(u32_type).u32(alignment);
    const std::size_t second = (3 + alignment - 1) / alignment * alignment;
    info(b, "a", {3}, 24, 0);
    info(b, "b", {2}, 24, second).pad(alignment);
    const std::size_t data = b.content.size();
    b.zeros(second).u8(7).u8(9);
    const gguf::file file = gguf::parse(b.content, "");
    REQUIRE(file.alignment() == alignment);
    REQUIRE(file.data_offset() == static_cast<index_t>(data));
    REQUIRE(file.tensor("b").bytes()[0] == 7);
    REQUIRE(file.tensor("b").bytes()[1] == 9);
  }
}

TEST_CASE("gguf: tensors of unknown type keep their bytes and have no values") {
  // Retired ids count as unknown: ggml gives them no size either.
  for (const std::uint32_t type : {4U, 5U, 31U, 33U, 36U, 38U, 43U, 1000U, ~0U}) {
    INFO(type);
    byte_string b = header(3, 0);
    info(b, "first", {7, 3}, type, 0);
    info(b, "second", {8}, 0, 96);
    info(b, "last", {1}, type, 128).pad(32);
    const std::size_t data = b.content.size();
    for (int i = 0; i < 128 + 41; ++i) b.u8(static_cast<std::uint8_t>(i));
    const gguf::file file = gguf::parse(b.content, "");
    const gguf::tensor& first = file.tensor("first");
    REQUIRE(first.type() == type);
    REQUIRE(first.size_bytes() == 96);
    REQUIRE(first.bytes().data() == b.content.data() + data);
    REQUIRE(first.rows() == 3);
    REQUIRE(file.tensor("second").size_bytes() == 32);
    REQUIRE(file.tensor("last").size_bytes() == 41);
    REQUIRE(file.tensor("last").bytes()[40] == 168);
    const subbyte::error e = error_of([&] { first.visit([](auto) {}); });
    REQUIRE(e.code() == errc::unsupported_format);
    REQUIRE(e.subject() == "first");
    REQUIRE(contains(e.what(), std::to_string(type) + " (unknown to ggml)"));
  }
  const bytes nothing_behind = one_tensor({4}, 99, 0, 0);
  REQUIRE(gguf::parse(nothing_behind, "").tensor("w").bytes().empty());
}

TEST_CASE("gguf: memory follows the header's bytes, not the file's size nor its claims") {
  // Keys of the least size, then data: the file is large, the header is not.
  constexpr int entries = 2000;
  byte_string b = header(1, entries);
  for (int i = 0; i < entries; ++i) {
    const std::string key = {static_cast<char>('a' + i / 676 % 26),
                             static_cast<char>('a' + i / 26 % 26), static_cast<char>('a' + i % 26)};
    b.text(key).u32(0).u8(static_cast<std::uint8_t>(i));
  }
  info(b, "w", {1 << 20}, 24, 0).pad(32);
  const std::size_t header_bytes = b.content.size();
  b.zeros(1 << 20);
  const test_support::allocation_peak peak;
  const gguf::file file = gguf::parse(b.content, "");
  REQUIRE(file.metadata().size() == entries);
  REQUIRE(peak.bytes() <= 16 * header_bytes + 1024);
}

TEST_CASE("gguf: numbers convert when the value stays the same, and only then") {
  const gguf::file file = gguf::open(golden + "kv_all_types.gguf");
  REQUIRE(file.get<std::uint8_t>("k.u8") == 255);
  REQUIRE(file.get<int>("k.u8") == 255);
  REQUIRE(file.get<float>("k.u8") == 255.0F);
  REQUIRE(file.get<int>("k.i8") == -128);
  REQUIRE(file.get<double>("k.i64") == -9223372036854775808.0);
  REQUIRE(file.get<std::int64_t>("k.u32") == 4294967295);
  REQUIRE(file.get<double>("k.f32") == static_cast<double>(file.get<float>("k.f32")));
  REQUIRE(file.get<bool>("k.true"));
  REQUIRE(!file.get<bool>("k.false"));
  REQUIRE(file.get<std::string_view>("general.name") == "all key-value types");
  REQUIRE(file.get<std::string_view>("k.str.empty").empty());

  const auto refused = [&](auto type, const char* key) {
    const subbyte::error e = error_of([&] { (void)file.get<decltype(type)>(key); });
    return e.code() == errc::bad_metadata && e.subject() == key &&
           !file.find(key)->try_get<decltype(type)>();
  };
  REQUIRE(refused(std::int8_t{}, "k.u8"));
  REQUIRE(refused(std::uint64_t{}, "k.i8"));
  REQUIRE(refused(std::int32_t{}, "k.u32"));
  REQUIRE(refused(std::int64_t{}, "k.u64"));
  REQUIRE(refused(float{}, "k.u32"));
  REQUIRE(refused(double{}, "k.u64"));
  REQUIRE(refused(int{}, "k.f32"));
  REQUIRE(refused(float{}, "k.f64"));
  REQUIRE(refused(bool{}, "k.u8"));
  REQUIRE(refused(int{}, "k.true"));
  REQUIRE(refused(std::string_view{}, "k.u8"));
  REQUIRE(refused(int{}, "general.name"));
  REQUIRE(refused(int{}, "a.i32"));
  REQUIRE(refused(gguf::array_view<std::int32_t>{}, "a.u32"));
  REQUIRE(refused(gguf::array_view<std::int32_t>{}, "k.i32"));
  REQUIRE(refused(gguf::array_view<std::string_view>{}, "general.name"));

  REQUIRE(file.get_or<int>("k.u8", 3) == 255);
  REQUIRE(file.get_or<int>("absent", 3) == 3);
  REQUIRE(error_of([&] { (void)file.get_or<int>("general.name", 3); }).code() ==
          errc::bad_metadata);
  const subbyte::error absent = error_of([&] { (void)file.get<int>("absent"); });
  REQUIRE(absent.code() == errc::not_found);
  REQUIRE(contains(absent.what(), "no key absent"));
  REQUIRE(error_of([&] { (void)file.tensor("absent"); }).code() == errc::not_found);
}

TEST_CASE("gguf: exact conversion agrees with 128-bit and long double arithmetic") {
  const auto as_float = [](std::int64_t v) {
    return gguf::detail::exactly<float>(v).has_value() ==
           (static_cast<long double>(static_cast<float>(v)) == static_cast<long double>(v));
  };
  const auto as_double = [](std::int64_t v) {
    return gguf::detail::exactly<double>(v).has_value() ==
           (static_cast<long double>(static_cast<double>(v)) == static_cast<long double>(v));
  };
  for (int shift = 0; shift < 63; ++shift) {
    for (std::int64_t d = -3; d <= 3; ++d) {
      for (const std::int64_t base : {std::int64_t{1}, std::int64_t{-1}, std::int64_t{0x1000001}}) {
        if (base > 1 && shift > 38) continue;
        const std::int64_t v = base * (std::int64_t{1} << shift) + d;
        REQUIRE(as_float(v));
        REQUIRE(as_double(v));
      }
    }
  }
  REQUIRE(as_double(std::numeric_limits<std::int64_t>::min()));
  REQUIRE(as_double(std::numeric_limits<std::int64_t>::max()));
  const double infinity = std::numeric_limits<double>::infinity();
  REQUIRE(gguf::detail::exactly<float>(infinity) == std::numeric_limits<float>::infinity());
  REQUIRE(std::isnan(*gguf::detail::exactly<float>(std::nan(""))));
  REQUIRE(!gguf::detail::exactly<float>(1e300));
  REQUIRE(!gguf::detail::exactly<float>(-1e300));
  REQUIRE(!gguf::detail::exactly<float>(0.1));
  REQUIRE(gguf::detail::exactly<float>(0.5) == 0.5F);
}

TEST_CASE("gguf: arrays are walked where they lie") {
  const gguf::file file = gguf::open(golden + "kv_all_types.gguf");
  const auto numbers = file.get<gguf::array_view<std::int32_t>>("a.i32");
  REQUIRE(numbers.size() == 5);
  REQUIRE(numbers[0] == -403875845);
  REQUIRE(numbers[4] == -1431945498);
  REQUIRE(std::vector<std::int32_t>(numbers.begin(), numbers.end()).size() == 5);
  const auto words = file.get<gguf::array_view<std::string_view>>("a.str");
  auto at = words.begin();
  REQUIRE(*at == "<s>");
  REQUIRE(*at++ == "<s>");
  REQUIRE((*at).empty());
  REQUIRE(*++at == "hello");
  const gguf::file empties = gguf::open(golden + "kv_empty_arrays.gguf");
  const auto none = empties.get<gguf::array_view<std::string_view>>("a.empty.str");
  REQUIRE(none.size() == 0);
  REQUIRE(none.begin() == none.end());
}

TEST_CASE("gguf: views stay valid when the file object moves") {
  gguf::file file = gguf::open(golden + "tensors_align32.gguf");
  const gguf::tensor* const t = file.find_tensor("blk.0.q4_K.weight");
  const std::uint8_t* const data = t->bytes().data();
  const gguf::file moved = std::move(file);
  REQUIRE(moved.find_tensor("blk.0.q4_K.weight") == t);
  REQUIRE(t->bytes().data() == data);
  touch(moved);
}

TEST_CASE("gguf: the table of types agrees with every format that has a GGUF id") {
  int checked = 0;
  subbyte::for_each_type(subbyte::file_formats{}, [&](auto tag) {
    using F = typename decltype(tag)::type;
    if constexpr (requires { F::gguf_type; }) {
      const gguf::tensor_type type = gguf::find_tensor_type(F::gguf_type);
      INFO(F::name);
      REQUIRE(type.name == std::string(F::name));
      REQUIRE(type.block_size == F::block_size);
      REQUIRE(type.block_bytes == static_cast<int>(sizeof(F)));
      REQUIRE(type.interleaved_rows == 0);
      if constexpr (subbyte::row_scaled_format<F>) {
        REQUIRE(type.row_bytes == static_cast<int>(sizeof(typename F::row_scale)));
      } else {
        REQUIRE(type.row_bytes == 0);
      }
      ++checked;
    }
  });
  REQUIRE(checked >= 15);
}

TEST_CASE("gguf: visit gives a tensor as a matrix of its format, over the file's bytes") {
  const gguf::file file = gguf::open(golden + "tensors_align32.gguf");
  const gguf::tensor& t = file.tensor("blk.0.q4_K.weight");
  int calls = 0;
  t.visit([&](auto matrix) {
    using F = typename decltype(matrix)::format;
    REQUIRE(F::name == std::string("q4_k"));
    REQUIRE((matrix.rows() == 4 && matrix.cols() == 512));
    REQUIRE(static_cast<const void*>(matrix.data()) == t.bytes().data());
    ++calls;
  });
  REQUIRE(calls == 1);
  REQUIRE(t.as<subbyte::q4_k>().size_bytes() == t.size_bytes());
  const auto cube = file.tensor("q4_0.3d").as<subbyte::q4_0>();
  REQUIRE((cube.rows() == 6 && cube.cols() == 64));

  const subbyte::error other = error_of([&] { (void)t.as<subbyte::q4_0>(); });
  REQUIRE(other.code() == errc::unsupported_format);
  REQUIRE(contains(other.what(), "12 (q4_k), not q4_0"));
  using short_list = subbyte::type_list<subbyte::f32, subbyte::q4_0>;
  const subbyte::error unlisted = error_of([&] { t.visit<short_list>([](auto) {}); });
  REQUIRE(unlisted.code() == errc::unsupported_format);
  REQUIRE(contains(unlisted.what(), "the 2 formats of the list"));
  file.tensor("odd.f32").visit<short_list>([&](auto matrix) {
    REQUIRE(matrix.cols() == 7);
    ++calls;
  });
  REQUIRE(calls == 2);
}

TEST_CASE("gguf: rows that begin with a scale are read in place, and their bytes are counted") {
  byte_string b = header(2, 0);
  info(b, "w", {512, 3}, subbyte::iq2_ks::gguf_type, 0);
  constexpr std::size_t row_bytes = 2 + 2 * 70;
  info(b, "next", {8}, 0, (3 * row_bytes + 31) / 32 * 32).pad(32);
  const std::size_t data = b.content.size();
  for (std::size_t i = 0; i < 3 * row_bytes; ++i) b.u8(static_cast<std::uint8_t>(37 * i));
  b.pad(32).zeros(32);
  const gguf::file file = gguf::parse(b.content, "");
  const gguf::tensor& t = file.tensor("w");
  REQUIRE(t.size_bytes() == 3 * row_bytes);
  const auto w = t.as<subbyte::iq2_ks>();
  REQUIRE((w.rows() == 3 && w.cols() == 512));
  REQUIRE(w.data() == b.content.data() + data);
  int calls = 0;
  t.visit([&](auto matrix) {
    using M = decltype(matrix);
    REQUIRE(std::is_same_v<M, subbyte::row_scaled_matrix_view<subbyte::iq2_ks>>);
    std::vector<float> values(512);
    matrix.decode_row(2, 0, 512, values.data());
    const std::uint8_t* const row = b.content.data() + data + 2 * row_bytes;
    subbyte::half scale;
    std::memcpy(&scale, row, 2);
    subbyte::iq2_ks last;
    std::memcpy(&last, row + 2 + 70, 70);
    std::vector<float> block(256);
    subbyte::iq2_ks::decode(last, scale, block.data());
    REQUIRE(std::memcmp(block.data(), values.data() + 256, 1024) == 0);
    ++calls;
  });
  REQUIRE(calls == 1);

  // One row short, and columns that are no whole block.
  bytes cut(b.content.begin(),
            b.content.begin() + static_cast<std::ptrdiff_t>(data + 2 * row_bytes));
  REQUIRE(error_of([&] { (void)gguf::parse(cut, ""); }).code() == errc::truncated);
  const subbyte::error e = error_of([] {
    (void)gguf::parse(one_tensor({300, 2}, 144, 0, 1024), "");
  });
  REQUIRE(e.code() == errc::bad_shape);
  REQUIRE(contains(e.what(), "iq4_ks needs a multiple of 256"));
  // q8_kv: rows of 32 bytes behind 8 pass 2^63 where their 32 elements do not.
  const std::uint64_t most = std::uint64_t{0x7FFFFFFFFFFFFFFF} / 36;
  const subbyte::error size = error_of([&] {
    (void)gguf::parse(one_tensor({32, most}, 151, 0, 0), "");
  });
  REQUIRE(size.code() == errc::bad_shape);
  REQUIRE(contains(size.what(), "the size in bytes does not fit 63 bits"));
  // No columns: no bytes, however many rows.
  REQUIRE(gguf::parse(one_tensor({0, 7}, 144, 0, 0), "").tensor("w").size_bytes() == 0);
}

TEST_CASE("gguf: interleaved rows are recognised by id and refused by name, with a way out") {
  int interleaved = 0;
  for (std::uint32_t id = 200; id < 400; ++id) {
    const gguf::tensor_type type = gguf::find_tensor_type(id);
    if (type.name == nullptr) continue;
    INFO(type.name);
    REQUIRE(type.interleaved_rows > 0);
    const std::string suffix = "_r" + std::to_string(type.interleaved_rows);
    const std::string name = type.name;
    REQUIRE(name.size() > suffix.size());
    REQUIRE(name.substr(name.size() - suffix.size()) == suffix);
    const auto cols = static_cast<std::uint64_t>(type.block_size);
    const auto rows = static_cast<std::uint64_t>(type.interleaved_rows);
    const auto stored = rows * static_cast<std::uint64_t>(type.row_bytes + type.block_bytes);
    const bytes content = one_tensor({cols, rows}, id, 0, stored);
    const gguf::file file = gguf::parse(content, "");
    REQUIRE(file.tensor("w").size_bytes() == static_cast<index_t>(stored));
    const subbyte::error e = error_of([&] { file.tensor("w").visit([](auto) {}); });
    REQUIRE(e.code() == errc::unsupported_format);
    REQUIRE(e.subject() == "w");
    REQUIRE(contains(e.what(), std::to_string(id) + " (" + name + ")"));
    REQUIRE(contains(e.what(), std::to_string(rows) + " rows interleaved"));
    REQUIRE(contains(e.what(), "Use the file that was repacked"));
    ++interleaved;
  }
  REQUIRE(interleaved == 30);
}

TEST_CASE("gguf: ik_llama.cpp's types without a format here are refused by name") {
  for (const std::uint32_t id : {134U, 135U, 151U, 153U, 154U, 155U, 157U, 158U}) {
    const gguf::tensor_type type = gguf::find_tensor_type(id);
    REQUIRE(type.name != nullptr);
    const auto cols = static_cast<std::uint64_t>(type.block_size);
    const bytes content =
        one_tensor({cols}, id, 0, static_cast<std::size_t>(type.row_bytes + type.block_bytes));
    const gguf::file file = gguf::parse(content, "");
    const subbyte::error e = error_of([&] { file.tensor("w").visit([](auto) {}); });
    REQUIRE(e.code() == errc::unsupported_format);
    REQUIRE(contains(e.what(), std::string(type.name) + ")"));
    REQUIRE(contains(e.what(), "ik_llama.cpp"));
    REQUIRE(!contains(e.what(), "interleaved"));
  }
  // A type of ggml's says nothing of that.
  const bytes content = one_tensor({4}, 26, 0, 16);
  const gguf::file file = gguf::parse(content, "");
  const subbyte::error e = error_of([&] { file.tensor("w").visit([](auto) {}); });
  REQUIRE(!contains(e.what(), "ik_llama.cpp"));
}

namespace {

// A format of somebody else's, with an id that ggml does not know.
struct pairs_of_bytes {
  static constexpr const char* name = "pairs_of_bytes";
  static constexpr int block_size = 2;
  static constexpr std::uint32_t gguf_type = 500;
  std::uint8_t weight[2];
  static void decode(const pairs_of_bytes& b, float* out) noexcept {
    out[0] = b.weight[0];
    out[1] = b.weight[1];
  }
};

}  // namespace

TEST_CASE("gguf: a format from outside the library reads tensors that ggml does not know") {
  using list = subbyte::type_list<subbyte::f32, pairs_of_bytes>;
  const bytes content = one_tensor({6, 2}, 500, 0, 12);
  const gguf::file file = gguf::parse(content, "");
  bool visited = false;
  file.tensor("w").visit<list>([&](auto matrix) {
    REQUIRE(matrix.size_bytes() == 12);
    visited = true;
  });
  REQUIRE(visited);
  const bytes odd = one_tensor({5}, 500, 0, 32);
  REQUIRE(error_of([&] { (void)gguf::parse(odd, "").tensor("w").as<pairs_of_bytes>(); }).code() ==
          errc::bad_shape);
  const bytes few = one_tensor({6, 2}, 500, 0, 11);
  const subbyte::error e =
      error_of([&] { (void)gguf::parse(few, "").tensor("w").as<pairs_of_bytes>(); });
  REQUIRE(e.code() == errc::bad_shape);
  REQUIRE(contains(e.what(), "11 bytes are too few for 12"));
}

TEST_CASE("gguf: data that are not aligned for their format are an error, not a crash") {
  byte_string b = header(2, 1).text("general.alignment").u32(u32_type).u32(1);
  info(b, "a", {1}, 24, 0);
  info(b, "w", {2}, 0, 1).zeros(9);
  // Of four copies at consecutive addresses one at most is aligned.
  int refused = 0;
  for (std::size_t shift = 0; shift < 4; ++shift) {
    bytes moved(shift, 0);
    moved.insert(moved.end(), b.content.begin(), b.content.end());
    const gguf::file file =
        gguf::parse(std::span<const std::uint8_t>(moved).subspan(shift), "shifted");
    REQUIRE(file.tensor("w").bytes().size() == 8);
    try {
      (void)file.tensor("w").as<subbyte::f32>();
    } catch (const subbyte::error& e) {
      REQUIRE(e.code() == errc::bad_metadata);
      REQUIRE(contains(e.what(), "past a multiple of 4"));
      ++refused;
    }
  }
  REQUIRE(refused == 3);
}
