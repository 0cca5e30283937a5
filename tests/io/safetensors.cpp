// SPDX-License-Identifier: Apache-2.0
/// The safetensors reader: a real model, every element type, sharded sets, and files that lie.
#include "subbyte/io/safetensors.hpp"

#include <cmath>
#include <cstring>
#include <limits>

#include "support/allocation_peak.hpp"
#include "support/files.hpp"

namespace io_safetensors_test {

namespace safetensors = subbyte::safetensors;
using safetensors::dtype;
using subbyte::errc;
using subbyte::index_t;
using test_support::byte_string;
using test_support::bytes;
using test_support::contains;
using test_support::error_of;
using test_support::scratch_directory;

namespace {

bytes file_of(std::string_view header, const bytes& data = {}) {
  byte_string b;
  b.text(header);
  b.content.insert(b.content.end(), data.begin(), data.end());
  return b.content;
}

// One tensor "w" that takes all the data.
bytes one_tensor(const std::string& type, const std::string& shape, const bytes& data) {
  return file_of(R"({"w":{"dtype":")" + type + R"(","shape":)" + shape + R"(,"data_offsets":[0,)" +
                     std::to_string(data.size()) + "]}}",
                 data);
}

bytes counting(std::size_t size) {
  bytes data(size);
  for (std::size_t i = 0; i < size; ++i) data[i] = static_cast<std::uint8_t>(i);
  return data;
}

std::vector<float> floats_of(const safetensors::tensor& t) {
  std::vector<float> out(static_cast<std::size_t>(t.size()));
  t.to_float(out.data());
  return out;
}

bool same_bits(float a, float b) {
  return (std::isnan(a) && std::isnan(b)) ||
         subbyte::bit_cast<std::uint32_t>(a) == subbyte::bit_cast<std::uint32_t>(b);
}

// All codes of a storage type as a tensor of that element type give the type's own values.
template <class T>
void check_all_codes(dtype type) {
  constexpr std::size_t count = std::size_t{1} << (8 * sizeof(T));
  byte_string codes;
  for (std::size_t i = 0; i < count; ++i) {
    if constexpr (sizeof(T) == 1) {
      codes.u8(static_cast<std::uint8_t>(i));
    } else {
      codes.number(static_cast<std::uint16_t>(i));
    }
  }
  const std::string name = safetensors::traits_of(type).name;
  const bytes content = one_tensor(name, "[4," + std::to_string(count / 4) + "]", codes.content);
  const safetensors::file file = safetensors::parse(content, name);
  const safetensors::tensor& t = file.tensor("w");
  REQUIRE(t.type() == type);
  REQUIRE(t.is_float());
  const std::vector<float> values = floats_of(t);
  std::size_t equal = 0;
  for (std::size_t i = 0; i < count; ++i) {
    T element;
    std::memcpy(&element, codes.content.data() + i * sizeof(T), sizeof(T));
    equal += same_bits(values[i], element.to_float()) ? 1 : 0;
  }
  REQUIRE(equal == count);
  std::vector<float> row(count / 4);
  t.read_row(3, row.data());
  REQUIRE(std::memcmp(row.data(), values.data() + count / 4 * 3, row.size() * 4) == 0);
}

// Reads everything the file offers.
std::uint64_t touch(const safetensors::file& file) {
  std::uint64_t sum = 0;
  for (const safetensors::metadata_entry& m : file.metadata()) {
    sum += m.key.size() * 3 + m.value.size();
  }
  for (const safetensors::tensor& t : file.tensors()) {
    if (file.find_tensor(t.name()) != &t) FAIL("a tensor is not found under its name");
    sum += test_support::fnv1a64(t.bytes().data(), t.bytes().size());
    if (t.is_float()) {
      for (const float v : floats_of(t)) sum += subbyte::bit_cast<std::uint32_t>(v);
    }
  }
  return sum;
}

const std::string two_tensors = R"({"__metadata__":{"format":"pt","by \u00e9":"hand"},)"
                                R"("b":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32]},)"
                                R"("a":{"dtype":"I16","shape":[4],"data_offsets":[0,8]}})";

struct hostile {
  std::string name;
  bytes content;
  errc code;
  std::string phrase;
};

std::vector<hostile> hostile_files() {
  std::vector<hostile> list;
  const auto add = [&](std::string name, bytes content, errc code, std::string phrase) {
    list.push_back({std::move(name), std::move(content), code, std::move(phrase)});
  };
  const auto add_header = [&](std::string name, std::string_view text, errc code,
                              std::string phrase) {
    list.push_back({std::move(name), file_of(text, bytes(8)), code, std::move(phrase)});
  };
  add("no bytes", {}, errc::truncated, "the header's length alone takes 8");
  add("7 bytes", bytes(7), errc::truncated, "7 bytes");
  add("length past the end", byte_string().u64(3).raw("{}").content, errc::truncated,
      "claims 3 bytes, and 2 are left");
  add("length 2^64 - 1", byte_string().u64(~std::uint64_t{0}).raw("{}").content, errc::bad_metadata,
      "claims 18446744073709551615 bytes");
  add("length one above the cap", byte_string().u64(100000001).raw("{}").content,
      errc::bad_metadata, "at most 100000000");
  add("length at the cap", byte_string().u64(100000000).raw("{}").content, errc::truncated,
      "claims 100000000");
  add("empty header", byte_string().u64(0).raw("{}").content, errc::bad_magic, "begin with {");
  add("white space first", file_of(" {}"), errc::bad_magic, "begin with {");
  add("array for a header", file_of("[]"), errc::bad_magic, "begin with {");
  add("a GGUF file", byte_string().raw("GGUF").u32(3).u64(0).u64(0).content, errc::bad_metadata,
      "not a safetensors file?");
  add_header("broken JSON", R"({"w":)", errc::bad_metadata, "not valid JSON");
  add_header("text behind the header", "{} x", errc::bad_metadata, "not valid JSON");
  add_header("invalid UTF-8", "{\"\xff\":1}", errc::bad_metadata, "not valid JSON");
  add_header("tensor that is a number", R"({"w":1})", errc::bad_metadata, "w is not an object");
  add_header("tensor that is an array", R"({"w":[]})", errc::bad_metadata, "w is not an object");
  add_header("metadata that is a string", R"({"__metadata__":"x"})", errc::bad_metadata,
             "__metadata__ is not an object");
  add_header("metadata with a number", R"({"__metadata__":{"k":1}})", errc::bad_metadata,
             "k of __metadata__ is not a string");
  add_header("metadata with an object", R"({"__metadata__":{"k":{}}})", errc::bad_metadata,
             "container");
  add_header("duplicate tensor",
             R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
             R"("w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
             errc::bad_metadata, "key w occurs twice");
  add_header("duplicate field", R"({"w":{"dtype":"U8","dtype":"U8"}})", errc::bad_metadata,
             "key dtype occurs twice");
  add_header("duplicate metadata key", R"({"__metadata__":{"k":"1","k":"2"}})", errc::bad_metadata,
             "key k occurs twice");
  const auto tensor = [](const std::string& fields) { return R"({"w":{)" + fields + "}}"; };
  add_header("no fields", tensor(""), errc::bad_metadata, "needs dtype, shape and data_offsets");
  add_header("no dtype", tensor(R"("shape":[8],"data_offsets":[0,8])"), errc::bad_metadata,
             "needs dtype");
  add_header("no shape", tensor(R"("dtype":"U8","data_offsets":[0,8])"), errc::bad_metadata,
             "needs dtype");
  add_header("no offsets", tensor(R"("dtype":"U8","shape":[8])"), errc::bad_metadata,
             "needs dtype");
  add_header("one offset", tensor(R"("dtype":"U8","shape":[8],"data_offsets":[0])"),
             errc::bad_metadata, "two numbers");
  add_header("three offsets", tensor(R"("dtype":"U8","shape":[8],"data_offsets":[0,8,8])"),
             errc::bad_metadata, "two offsets");
  add_header("dtype that is a number", tensor(R"("dtype":8,"shape":[8],"data_offsets":[0,8])"),
             errc::bad_metadata, "dtype of w has a value of the wrong type");
  add_header("dtype that is an array", tensor(R"("dtype":["U8"],"shape":[8],"data_offsets":[0,8])"),
             errc::bad_metadata, "container");
  add_header("unknown dtype", tensor(R"("dtype":"Q4","shape":[8],"data_offsets":[0,8])"),
             errc::unsupported_format, "dtype Q4, which is not known");
  add_header("shape that is a number", tensor(R"("dtype":"U8","shape":8,"data_offsets":[0,8])"),
             errc::bad_metadata, "shape of w");
  add_header("shape that is a dtype", tensor(R"("shape":"U8","dtype":"U8","data_offsets":[0,8])"),
             errc::bad_metadata, "shape of w has a value of the wrong type");
  add_header("offsets that are a dtype", tensor(R"("dtype":"U8","shape":[8],"data_offsets":"Q4")"),
             errc::bad_metadata, "data_offsets of w has a value of the wrong type");
  add_header("negative extent", tensor(R"("dtype":"U8","shape":[-8],"data_offsets":[0,8])"),
             errc::bad_metadata, "shape of w is not an integer");
  add_header("fractional extent", tensor(R"("dtype":"U8","shape":[8.0],"data_offsets":[0,8])"),
             errc::bad_metadata, "shape of w is not an integer");
  add_header("extent 2^63",
             tensor(R"("dtype":"U8","shape":[9223372036854775808],"data_offsets":[0,8])"),
             errc::bad_metadata, "not an integer from 0");
  add_header("extent as text", tensor(R"("dtype":"U8","shape":["8"],"data_offsets":[0,8])"),
             errc::bad_metadata, "not an integer from 0");
  add_header("nested shape", tensor(R"("dtype":"U8","shape":[[8]],"data_offsets":[0,8])"),
             errc::bad_metadata, "container");
  add_header("product that wraps to 0",
             tensor(R"("dtype":"U8","shape":[4294967296,4294967296],"data_offsets":[0,0])"),
             errc::bad_shape, "does not fit 63 bits");
  add_header("product that wraps, behind a zero",
             tensor(R"("dtype":"U8","shape":[0,4294967296,4294967296],"data_offsets":[0,0])"),
             errc::bad_shape, "does not fit 63 bits");
  add_header("bytes that wrap",
             tensor(R"("dtype":"F64","shape":[2305843009213693953],"data_offsets":[0,8])"),
             errc::bad_shape, "does not fit 63 bits");
  add_header("shape and bytes that disagree",
             tensor(R"("dtype":"F32","shape":[3],"data_offsets":[0,8])"), errc::bad_shape,
             "[3] of F32, 12 bytes, and its data have 8");
  add_header("no whole number of bytes", tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,8])"),
             errc::bad_shape, "12 bits");
  add("half a byte more than the data",
      file_of(tensor(R"("dtype":"F4","shape":[3],"data_offsets":[0,1])"), bytes(1)),
      errc::bad_shape, "12 bits, no whole number of bytes");
  add_header("offsets that go back", tensor(R"("dtype":"U8","shape":[8],"data_offsets":[8,0])"),
             errc::bad_metadata, "8 to 0");
  add_header("offsets that go back from where they should begin",
             R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
             R"("b":{"dtype":"U8","shape":[0],"data_offsets":[8,0]}})",
             errc::bad_metadata, "tensor b has data_offsets 8 to 0");
  add_header("data past the end", tensor(R"("dtype":"U8","shape":[9],"data_offsets":[0,9])"),
             errc::truncated, "ends at byte 9");
  add_header("gap in front", tensor(R"("dtype":"U8","shape":[4],"data_offsets":[4,8])"),
             errc::bad_metadata, "required is a begin of 0");
  add_header("bytes behind the last tensor",
             tensor(R"("dtype":"U8","shape":[7],"data_offsets":[0,7])"), errc::bad_metadata,
             "take 7 bytes of data, and the file has 8");
  add_header("bytes and no tensor", "{}", errc::bad_metadata, "take 0 bytes");
  add_header("overlap",
             R"({"a":{"dtype":"U8","shape":[5],"data_offsets":[0,5]},)"
             R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
             errc::bad_metadata, "tensor b has data_offsets 4 to 8, required is a begin of 5");
  add_header("gap between",
             R"({"a":{"dtype":"U8","shape":[3],"data_offsets":[0,3]},)"
             R"("b":{"dtype":"U8","shape":[4],"data_offsets":[4,8]}})",
             errc::bad_metadata, "required is a begin of 3");
  add("bytes hidden behind a NUL", file_of(std::string_view("{}\0hidden", 9)), errc::bad_metadata,
      "not valid JSON at byte 3");
  add("header padded with NUL, not with space", file_of(std::string_view("{}\0\0", 4)),
      errc::bad_metadata, "not valid JSON at byte 3");
  add_header("two headers", "{}{}", errc::bad_metadata, "not valid JSON at byte 3");
  add("length one short", byte_string().u64(1).raw("{}").content, errc::bad_metadata,
      "not valid JSON");
  add("length 2^63", byte_string().u64(std::uint64_t{1} << 63).raw("{}").content,
      errc::bad_metadata, "claims 9223372036854775808 bytes");
  add("length 2^64 - 8, which wraps with the 8 in front",
      byte_string().u64(~std::uint64_t{7}).raw("{}").content, errc::bad_metadata,
      "claims 18446744073709551608 bytes");
  add_header("a lone surrogate", R"({"\ud800":1})", errc::bad_metadata, "not valid JSON");
  add_header("an overlong character", "{\"\xc0\xaf\":1}", errc::bad_metadata, "not valid JSON");
  add_header("a line break in a name", "{\"a\nb\":1}", errc::bad_metadata, "not valid JSON");
  for (const char* const number :
       {"-0", "-1", "8.0", "8e0", "1e999", "0.5", "18446744073709551616", "18446744073709551615",
        "9223372036854775808", "-9223372036854775808", "08", "+8", "0x8", "NaN", "true", "null",
        "\"8\"", "{}", "[8]"}) {
    add_header(
        std::string("extent ") + number,
        tensor(std::string(R"("dtype":"U8","shape":[)") + number + R"(],"data_offsets":[0,8])"),
        errc::bad_metadata, "");
    add_header(std::string("end of the data ") + number,
               tensor(std::string(R"("dtype":"U8","shape":[8],"data_offsets":[0,)") + number + "]"),
               errc::bad_metadata, "");
    add_header(std::string("begin of the data ") + number,
               tensor(std::string(R"("dtype":"U8","shape":[8],"data_offsets":[)") + number + ",8]"),
               errc::bad_metadata, "");
  }
  add_header("the largest offsets",
             tensor(R"("dtype":"U8","shape":[9223372036854775807],)"
                    R"("data_offsets":[0,9223372036854775807])"),
             errc::truncated, "ends at byte 9223372036854775807");
  add_header("2^62 rows of nothing",
             tensor(R"("dtype":"U8","shape":[4611686018427387904,0],"data_offsets":[0,0])"),
             errc::bad_shape, "beside a zero: 31 bits");
  add_header("two tensors in the same bytes",
             R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
             R"("b":{"dtype":"U8","shape":[8],"data_offsets":[0,8]}})",
             errc::bad_metadata, "tensor b has data_offsets 0 to 8, required is a begin of 8");
  add_header("empty tensor inside another",
             R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
             R"("b":{"dtype":"U8","shape":[0],"data_offsets":[4,4]}})",
             errc::bad_metadata, "tensor b has data_offsets 4 to 4");
  add_header("the same name, once in an escape",
             R"({"w":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
             R"("\u0077":{"dtype":"U8","shape":[0],"data_offsets":[8,8]}})",
             errc::bad_metadata, "key w occurs twice");
  add_header("dtype in small letters", tensor(R"("dtype":"u8","shape":[8],"data_offsets":[0,8])"),
             errc::unsupported_format, "dtype u8");
  add_header("dtype with a NUL", tensor(R"("dtype":"U8\u0000","shape":[8],"data_offsets":[0,8])"),
             errc::unsupported_format, "dtype U8\\x00");
  add_header("the tensor's fields as an array", R"({"w":["U8",[8],[0,8]]})", errc::bad_metadata,
             "w is not an object");
  add_header("deep nesting in a field that is skipped",
             R"({"w":{"x":)" + std::string(40, '[') + std::string(40, ']') + "}}",
             errc::bad_metadata, "deeper than 32");
  return list;
}

std::string index_of(const std::string& map) { return R"({"weight_map":)" + map + "}"; }

}  // namespace

TEST_CASE("safetensors: a real model, tensor by tensor") {
  const std::string path = SUBBYTE_EXAMPLE_DATA_DIR "/model.safetensors";
  const safetensors::file file = safetensors::open(path);
  REQUIRE(file.name() == path);
  REQUIRE(file.shard_count() == 1);
  REQUIRE(file.shard_path(0) == path);
  index_t elements = 0;
  for (const safetensors::tensor& t : file.tensors()) {
    REQUIRE(t.type() == dtype::f16);
    elements += t.size();
    const auto stored = t.view<subbyte::half>();
    const std::vector<float> values = floats_of(t);
    index_t equal = 0;
    for (index_t i = 0; i < t.size(); ++i) {
      equal += values[static_cast<std::size_t>(i)] == stored.data()[i].to_float() ? 1 : 0;
    }
    REQUIRE(equal == t.size());
  }
  REQUIRE(elements == 4196608);  // the model card's parameter count
  const safetensors::tensor& down = file.tensor("model.layers.0.mlp.down_proj.weight");
  REQUIRE((down.rows() == 256 && down.cols() == 768 && down.shape().size() == 2));
  const safetensors::tensor& norm = file.tensor("model.norm.weight");
  REQUIRE((norm.rows() == 1 && norm.cols() == 256 && norm.shape().size() == 1));
}

TEST_CASE(
    "safetensors: tensors come in the order of their data, metadata in the order of the file") {
  byte_string data;
  for (const int v : {1, -2, 3, -4}) data.number(static_cast<std::int16_t>(v));
  for (int i = 0; i < 6; ++i) data.number(0.5F * static_cast<float>(i));
  const bytes content = file_of(two_tensors + "   ", data.content);
  const safetensors::file file = safetensors::parse(content, "two");
  REQUIRE(file.size_bytes() == static_cast<index_t>(content.size()));
  REQUIRE(file.tensors().size() == 2);
  REQUIRE(file.tensors()[0].name() == "a");
  REQUIRE(file.metadata().size() == 2);
  REQUIRE((file.metadata()[0].key == "format" && file.metadata()[0].value == "pt"));
  REQUIRE(file.metadata()[1].key == "by \xc3\xa9");
  const safetensors::tensor& b = file.tensor("b");
  REQUIRE((b.rows() == 2 && b.cols() == 3 && b.size() == 6));
  REQUIRE(floats_of(b) == std::vector<float>{0, 0.5F, 1, 1.5F, 2, 2.5F});
  float row[3];
  b.read_row(1, row);
  REQUIRE((row[0] == 1.5F && row[2] == 2.5F));
  b.read_rows(2, 0, row);
  REQUIRE(row[0] == 1.5F);
  const subbyte::error ints = error_of([&] { (void)floats_of(file.tensor("a")); });
  REQUIRE(ints.code() == errc::unsupported_format);
  REQUIRE(contains(ints.what(), "I16"));
  REQUIRE(error_of([&] { (void)file.tensor("c"); }).code() == errc::not_found);
  REQUIRE(file.find_tensor("c") == nullptr);
}

TEST_CASE("safetensors: every element type has its size and name") {
  struct expectation {
    const char* name;
    int bits;
  };
  const std::vector<expectation> all = {
      {"BOOL", 8},        {"F4", 4},      {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
      {"I8", 8},          {"F8_E5M2", 8}, {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"F8_E4M3FNUZ", 8},
      {"F8_E5M2FNUZ", 8}, {"I16", 16},    {"U16", 16},    {"F16", 16},    {"BF16", 16},
      {"I32", 32},        {"U32", 32},    {"F32", 32},    {"C64", 64},    {"F64", 64},
      {"I64", 64},        {"U64", 64}};
  REQUIRE(all.size() == safetensors::dtype_count);
  for (const expectation& e : all) {
    INFO(e.name);
    const bytes content = one_tensor(e.name, "[2,4]", counting(static_cast<std::size_t>(e.bits)));
    const safetensors::file file = safetensors::parse(content, e.name);
    const safetensors::tensor& t = file.tensor("w");
    REQUIRE(t.type_name() == std::string(e.name));
    REQUIRE(safetensors::find_dtype(e.name) == t.type());
    REQUIRE(t.bytes().size() == static_cast<std::size_t>(e.bits));
    REQUIRE(t.is_float() == (e.name[0] != 'I' && e.name[0] != 'U' && e.name[0] != 'C' &&
                             e.name != std::string("BOOL") && e.bits >= 8));
    if (!t.is_float()) {
      REQUIRE(error_of([&] { (void)floats_of(t); }).code() == errc::unsupported_format);
    }
  }
  REQUIRE(!safetensors::find_dtype("f32"));
}

TEST_CASE("safetensors: every code of the 8 and 16 bit floats reads as its value") {
  check_all_codes<subbyte::half>(dtype::f16);
  check_all_codes<subbyte::bfloat16>(dtype::bf16);
  check_all_codes<subbyte::e4m3fn>(dtype::f8_e4m3);
  check_all_codes<subbyte::e5m2>(dtype::f8_e5m2);
  check_all_codes<subbyte::e8m0>(dtype::f8_e8m0);
  check_all_codes<subbyte::e4m3fnuz>(dtype::f8_e4m3fnuz);
  check_all_codes<safetensors::e5m2fnuz>(dtype::f8_e5m2fnuz);
}

TEST_CASE("safetensors: doubles round to the nearest float") {
  byte_string data;
  for (const double v : {0.1, -1.0, 1e300, 1.0 + 0x1p-24, 0x1p-149}) data.number(v);
  const bytes content = one_tensor("F64", "[5]", data.content);
  const std::vector<float> values = floats_of(safetensors::parse(content, "").tensor("w"));
  REQUIRE(values ==
          std::vector<float>{0.1F, -1.0F, std::numeric_limits<float>::infinity(), 1.0F, 0x1p-149F});
}

TEST_CASE("safetensors: a view needs its own element type") {
  const bytes content = one_tensor("BF16", "[2,2]", counting(8));
  const safetensors::file file = safetensors::parse(content, "");
  REQUIRE(error_of([&] { (void)file.tensor("w").view<subbyte::half>(); }).code() ==
          errc::unsupported_format);
  const bytes flags = one_tensor("BOOL", "[3]", {1, 0, 1});
  const safetensors::file bools = safetensors::parse(flags, "");
  REQUIRE(bools.tensor("w").view<std::uint8_t>()(0, 2) == 1);
}

TEST_CASE("safetensors: data at any address read as floats; a view of them may be refused") {
  const bytes content = one_tensor("F32", "[2]", byte_string().number(1.5F).number(-2.0F).content);
  int refused = 0;
  for (std::size_t shift = 0; shift < 4; ++shift) {
    bytes moved(shift, 0);
    moved.insert(moved.end(), content.begin(), content.end());
    const safetensors::file file =
        safetensors::parse(std::span<const std::uint8_t>(moved).subspan(shift), "shifted");
    const safetensors::tensor& t = file.tensor("w");
    REQUIRE(floats_of(t) == std::vector<float>{1.5F, -2.0F});
    try {
      const subbyte::matrix_view<const float> view = t.view<float>();
      REQUIRE(view(0, 1) == -2.0F);
    } catch (const subbyte::error& e) {
      REQUIRE(e.code() == errc::bad_metadata);
      ++refused;
    }
  }
  REQUIRE(refused == 3);
}

TEST_CASE("safetensors: scalars, empty tensors and unknown fields are accepted") {
  const bytes scalar = one_tensor("F32", "[]", byte_string().number(2.5F).content);
  const safetensors::file file = safetensors::parse(scalar, "");
  REQUIRE((file.tensor("w").rows() == 1 && file.tensor("w").cols() == 1));
  REQUIRE(floats_of(file.tensor("w")) == std::vector<float>{2.5F});

  const bytes nothing =
      file_of(R"({"a":{"dtype":"F32","shape":[0,4],"data_offsets":[0,0],"note":{"shape":[1]}},)"
              R"("b":{"extra":1,"dtype":"F32","shape":[4,0],"data_offsets":[0,0]}})");
  const safetensors::file empties = safetensors::parse(nothing, "");
  REQUIRE((empties.tensor("a").rows() == 0 && empties.tensor("a").cols() == 4));
  REQUIRE((empties.tensor("b").rows() == 4 && empties.tensor("b").cols() == 0));
  REQUIRE(floats_of(empties.tensor("b")).empty());
  const bytes none = file_of("{}");
  REQUIRE(safetensors::parse(none, "").tensors().empty());
}

TEST_CASE("safetensors: names are UTF-8 that may hold anything, and stay apart") {
  const bytes content =
      file_of(R"({"a\u0000b":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},)"
              R"("a":{"dtype":"U8","shape":[1],"data_offsets":[1,2]},)"
              R"("":{"dtype":"U8","shape":[1],"data_offsets":[2,3]},)"
              R"("../\u001b[2J":{"dtype":"U8","shape":[1],"data_offsets":[3,4]}})",
              {1, 2, 3, 4});
  const safetensors::file file = safetensors::parse(content, "");
  REQUIRE(file.tensor(std::string_view("a\0b", 3)).bytes()[0] == 1);
  REQUIRE(file.tensor("a").bytes()[0] == 2);
  REQUIRE(file.tensor("").bytes()[0] == 3);
  REQUIRE(file.tensor("../\x1b[2J").bytes()[0] == 4);
  const subbyte::error e = error_of([&] { (void)file.tensor("../\x1b[2J").view<std::int16_t>(); });
  REQUIRE(contains(e.what(), "../\\x1b[2J"));
}

TEST_CASE("safetensors: every file that lies ends in its typed error") {
  for (const hostile& h : hostile_files()) {
    INFO(h.name);
    const test_support::allocation_peak peak;
    const subbyte::error e = error_of([&] { (void)safetensors::parse(h.content, "hostile"); });
    INFO(e.what());
    REQUIRE(e.code() == h.code);
    REQUIRE(contains(e.what(), h.phrase));
    REQUIRE(e.subject() == "hostile");
    REQUIRE(peak.bytes() <= 32 * h.content.size() + 16384);
  }
}

TEST_CASE("safetensors: memory follows the header's bytes") {
  std::string header = R"({"__metadata__":{)";
  for (int i = 0; i < 20000; ++i) {
    header += (i == 0 ? "\"" : ",\"") + std::to_string(i) + R"(":"")";
  }
  const bytes many_pairs = file_of(header + "}}");
  {
    const test_support::allocation_peak peak;
    REQUIRE(safetensors::parse(many_pairs, "").metadata().size() == 20000);
    REQUIRE(peak.bytes() <= 32 * many_pairs.size());
  }
  header = "{";
  for (int i = 0; i < 20000; ++i) {
    header += (i == 0 ? "\"" : ",\"") + std::to_string(i) +
              R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]})";
  }
  const bytes many_tensors = file_of(header + "}");
  {
    const test_support::allocation_peak peak;
    REQUIRE(safetensors::parse(many_tensors, "").tensors().size() == 20000);
    REQUIRE(peak.bytes() <= 32 * many_tensors.size());
  }
  header = R"({"w":{"dtype":"U8","data_offsets":[0,0],"shape":[0)";
  for (int i = 0; i < 50000; ++i) header += ",1";
  const bytes many_extents = file_of(header + "]}}");
  {
    const test_support::allocation_peak peak;
    REQUIRE(safetensors::parse(many_extents, "").tensor("w").shape().size() == 50001);
    REQUIRE(peak.bytes() <= 32 * many_extents.size());
  }
}

TEST_CASE("safetensors: shards of an index are one file") {
  const scratch_directory scratch;
  const std::string index = scratch.file("model.safetensors.index.json");
  REQUIRE(::mkdir(scratch.file("sub").c_str(), 0755) == 0);
  test_support::write_file(scratch.file("model-2.safetensors"),
                           one_tensor("F32", "[1]", byte_string().number(2.0F).content));
  test_support::write_file(
      scratch.file("sub/model-1.safetensors"),
      file_of(R"({"__metadata__":{"k":"v"},"v":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},)"
              R"("unlisted":{"dtype":"U8","shape":[2],"data_offsets":[4,6]}})",
              byte_string().number(1.0F).u8(8).u8(9).content));
  test_support::write_file(index,
                           R"({"metadata":{"total_size":10,"x":[1,{"weight_map":2}]},"weight_map":)"
                           R"({"w":"model-2.safetensors","v":"sub/model-1.safetensors"}})");
  for (const std::string& path : {index, scratch.path(), scratch.path() + "/"}) {
    INFO(path);
    const safetensors::file file = safetensors::open(path);
    REQUIRE(file.shard_count() == 2);
    REQUIRE(file.tensors().size() == 3);
    REQUIRE(floats_of(file.tensor("w")) == std::vector<float>{2.0F});
    REQUIRE(floats_of(file.tensor("v")) == std::vector<float>{1.0F});
    REQUIRE(file.tensor("unlisted").bytes()[1] == 9);
    REQUIRE(file.tensor("w").shard() == 0);
    REQUIRE(contains(file.shard_path(1), "sub/model-1.safetensors"));
    REQUIRE(file.metadata().size() == 1);
    REQUIRE(file.metadata()[0].shard == 1);
    const safetensors::file moved = safetensors::open(path);
    REQUIRE(touch(moved) == touch(file));
  }
  // A directory with a single file too: that one is read.
  test_support::write_file(scratch.file("model.safetensors"), one_tensor("U8", "[1]", {3}));
  REQUIRE(safetensors::open(scratch.path()).tensors().size() == 1);
}

TEST_CASE("safetensors: views stay valid when a sharded file object moves") {
  const scratch_directory scratch;
  test_support::write_file(scratch.file("a"), one_tensor("F32", "[1]", counting(4)));
  test_support::write_file(scratch.file("model.safetensors.index.json"), index_of(R"({"w":"a"})"));
  safetensors::file file = safetensors::open(scratch.path());
  const safetensors::tensor* const t = file.find_tensor("w");
  const safetensors::file moved = std::move(file);
  REQUIRE(moved.find_tensor("w") == t);
  REQUIRE(t->name() == "w");
  REQUIRE(t->bytes()[3] == 3);
  REQUIRE(t->shape()[0] == 1);
}

TEST_CASE("safetensors: an index that lies, or points outside its directory, is an error") {
  const scratch_directory scratch;
  const std::string index = scratch.file("x.json");
  test_support::write_file(scratch.file("a"), one_tensor("U8", "[1]", {1}));
  test_support::write_file(scratch.file("b"), one_tensor("U8", "[1]", {2}));
  test_support::write_file(scratch.file("c"),
                           file_of(R"({"v":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"));
  const auto failure = [&](const std::string& text) {
    test_support::write_file(index, text);
    return error_of([&] { (void)safetensors::open(index); });
  };
  const auto refused = [&](const std::string& text, std::string_view phrase) {
    const subbyte::error e = failure(text);
    INFO(e.what());
    CHECK(e.code() == errc::bad_metadata);
    CHECK(e.subject() == index);
    CHECK(contains(e.what(), phrase));
  };
  refused("{", "not valid JSON");
  refused("[]", "not a JSON object");
  refused("1", "not a JSON object");
  refused("{}", "no weight_map");
  refused(index_of("[]"), "not an object");
  refused(index_of("1"), "not an object");
  refused(index_of(R"({"w":1})"), "the shard of w is not a string");
  refused(index_of(R"({"w":["a"]})"), "the shard of w is not a string");
  refused(index_of(R"({"w":"a","w":"b"})"), "key w occurs twice");
  for (const char* shard : {"", "/etc/passwd", "../a", "sub/../../a", "./a", "a/", "sub//a", "..",
                            "..\\\\a", "a\\u0000b"}) {
    INFO(shard);
    refused(index_of(std::string(R"({"w":")") + shard + "\"}"), "below the index's directory");
  }
  refused(index_of(R"({"absent":"a"})"), "absent is listed in shard a, which does not hold it");
  refused(index_of(R"({"w":"c","v":"c"})"), "w is listed in shard c, which does not hold it");
  refused(index_of(R"({"w":"a","v":"a"})"), "v is listed in shard a");
  refused(index_of(R"({"w":"c","v":"a"})"), "is listed in shard c, which does not hold it");
  refused(index_of(R"({"w":"a","x":"b"})"), "tensor w is in two shards");

  // Longer than a header may be; the file is sparse.
  REQUIRE(::truncate(index.c_str(), safetensors::max_header_bytes + 1) == 0);
  const subbyte::error too_long = error_of([&] { (void)safetensors::open(index); });
  REQUIRE(too_long.code() == errc::bad_metadata);
  REQUIRE(contains(too_long.what(), "100000001 bytes, at most 100000000 are allowed"));

  const subbyte::error missing = failure(index_of(R"({"w":"nowhere"})"));
  REQUIRE(missing.code() == errc::io);
  REQUIRE(missing.subject() == scratch.file("nowhere"));
  test_support::write_file(scratch.file("broken"), "1234567");
  REQUIRE(failure(index_of(R"({"w":"broken"})")).code() == errc::truncated);
}

TEST_CASE("safetensors: paths that hold no file are errors") {
  const scratch_directory scratch;
  const subbyte::error none = error_of([&] { (void)safetensors::open(scratch.path()); });
  REQUIRE(none.code() == errc::io);
  REQUIRE(contains(none.what(), "neither model.safetensors nor"));
  REQUIRE(error_of([&] { (void)safetensors::open(scratch.file("x")); }).code() == errc::io);
  REQUIRE(error_of([&] { (void)safetensors::open(scratch.file("x.json")); }).code() == errc::io);
}

}  // namespace io_safetensors_test
