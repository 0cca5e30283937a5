// SPDX-License-Identifier: Apache-2.0
/// safetensors files cut at every byte of their header and with every byte of it changed: each is
/// refused by a typed error or read correctly, in memory that follows the header.
#include <string>
#include <vector>

#include "subbyte/io/safetensors.hpp"
#include "support/corpus.hpp"
#include "support/files.hpp"
#include "support/safetensors_walk.hpp"
#include "support/verdicts.hpp"

namespace io_safetensors_corpus_test {

namespace safetensors = subbyte::safetensors;
using test_support::byte_step;
using test_support::byte_string;
using test_support::bytes;
using test_support::error_of;
using test_support::judge_change;
using test_support::judge_cut;
using test_support::require_no_flaw;
using test_support::safetensors_walk;
using test_support::sample;
using test_support::scratch_directory;
using test_support::value_step;
using test_support::verdicts;

namespace {

// The reader's stated bound.
std::size_t memory_allowed(std::size_t header_bytes) { return 32 * header_bytes + 16384; }

sample of_header(std::string name, const std::string& header, std::size_t data_bytes) {
  byte_string b;
  b.text(header);
  for (std::size_t i = 0; i < data_bytes; ++i) b.u8(static_cast<std::uint8_t>(i * 7));
  return {std::move(name), b.content, 8 + header.size()};
}

// Metadata, escapes, fields that are not known, a scalar, an empty tensor, tensors out of order.
sample every_kind() {
  return of_header("every kind",
                   R"({"__metadata__":{"format":"pt","\u00e9\n":"\"\\"},)"
                   R"("b":{"dtype":"F32","shape":[2,3],"data_offsets":[8,32],"x":[{"y":1.5}]},)"
                   R"("a":{"dtype":"I16","shape":[4],"data_offsets":[0,8]},)"
                   R"("s":{"dtype":"F8_E4M3","shape":[],"data_offsets":[32,33]},)"
                   R"("e":{"shape":[0,9],"dtype":"U64","data_offsets":[32,32]}} )",
                   33);
}

sample every_type() {
  std::string header;
  std::size_t end = 0;
  for (int i = 0; i < safetensors::dtype_count; ++i) {
    const safetensors::dtype_traits traits =
        safetensors::traits_of(static_cast<safetensors::dtype>(i));
    const std::size_t size = static_cast<std::size_t>(traits.bits);  // 8 elements
    header += (i == 0 ? "{\"" : ",\"") + std::to_string(i) + R"(":{"dtype":")" + traits.name +
              R"(","shape":[4,2],"data_offsets":[)" + std::to_string(end) + "," +
              std::to_string(end + size) + "]}";
    end += size;
  }
  return of_header("every type", header + "}", end);
}

sample stored(const std::string& name, const std::string& path) {
  const bytes content = test_support::read_file(path);
  return {name, content,
          8 + static_cast<std::size_t>(subbyte::load_le<std::uint64_t>(content.data()))};
}

void judge(verdicts& results, std::span<const std::uint8_t> content, const sample& s,
           const std::string& what) {
  results.judge(
      memory_allowed(s.header_bytes), [&] { return safetensors::parse(content, "broken"); },
      [&](const safetensors::file& file) { return safetensors_walk(file, content).flaw(); },
      [&] { return s.name + ", " + what; });
}

// The fourth change: another digit.
void judge_four_changes(verdicts& results, sample& s, std::size_t at) {
  test_support::judge_four_changes(judge, results, s, at, static_cast<std::uint8_t>('0' + at % 10));
}

void judge_all_changes(verdicts& results, sample& s, int step = 1) {
  for (std::size_t at = 0; at < s.header_bytes; ++at) {
    for (int value = 0; value < 256; value += step) {
      judge_change(judge, results, s, at, static_cast<std::uint8_t>(value));
    }
  }
}

const std::string golden = SUBBYTE_GOLDEN_DIR "/ml_dtypes/decode.safetensors";
const std::string model = SUBBYTE_EXAMPLE_DATA_DIR "/model.safetensors";

}  // namespace

TEST_CASE("safetensors corpus: the files are read correctly as they are") {
  for (const sample& s :
       {every_kind(), every_type(), stored("golden", golden), stored("bundled model", model)}) {
    INFO(s.name);
    const safetensors_walk walk(safetensors::parse(s.content, s.name), s.content);
    INFO(walk.flaw());
    REQUIRE(walk.flaw().empty());
  }
}

TEST_CASE("safetensors corpus: files cut at every byte are refused") {
  verdicts results;
  for (const sample& s : {every_kind(), every_type(), stored("golden", golden)}) {
    for (std::size_t length = 0; length < s.content.size(); ++length) {
      if (length > s.header_bytes + 64 && length + 64 < s.content.size() && length % 61 != 0) {
        continue;
      }
      judge_cut(judge, results, s, length);
    }
  }
  require_no_flaw(results);
  REQUIRE(results.accepted == 0);
  REQUIRE(results.refused > 2000);
}

TEST_CASE(
    "safetensors corpus: a file of every kind with every header byte changed to every value") {
  verdicts results;
  sample s = every_kind();
  judge_all_changes(results, s, value_step);
  require_no_flaw(results);
  REQUIRE(results.accepted > 1000 / value_step);
  REQUIRE(results.refused > 50000 / value_step);
}

TEST_CASE("safetensors corpus: files with every header byte changed to every value", "[.slow]") {
  verdicts results;
  for (sample& s : std::vector<sample>{every_kind(), every_type(), stored("golden", golden)}) {
    judge_all_changes(results, s);
  }
  require_no_flaw(results);
  REQUIRE(results.accepted > 10000);
  REQUIRE(results.refused > 100000);
}

TEST_CASE(
    "safetensors corpus: a file of every type with every header byte changed to four values") {
  verdicts results;
  sample s = every_type();
  for (std::size_t at = 0; at < s.header_bytes; ++at) judge_four_changes(results, s, at);
  require_no_flaw(results);
  REQUIRE(results.accepted > 20);
  REQUIRE(results.refused > 1000);
}

namespace {

void judge_bundled_model(std::size_t step) {
  sample s = stored("bundled model", model);
  verdicts results;
  for (std::size_t length = 0; length < s.header_bytes; length += step)
    judge_cut(judge, results, s, length);
  REQUIRE(results.accepted == 0);
  for (std::size_t at = 0; at < s.header_bytes; at += step) judge_four_changes(results, s, at);
  require_no_flaw(results);
  REQUIRE(results.accepted > 100 / static_cast<long>(step));
  REQUIRE(results.refused > 10000 / static_cast<long>(step));
}

}  // namespace

TEST_CASE("safetensors corpus: the bundled model cut and changed at bytes of its header") {
  judge_bundled_model(byte_step);
}

TEST_CASE("safetensors corpus: the bundled model cut and changed at every byte of its header",
          "[.slow]") {
  judge_bundled_model(1);
}

TEST_CASE("safetensors corpus: memory of headers that are made to cost much") {
  // Just more items than a list that doubles has room for.
  constexpr int count = 8193;
  const auto joined = [](const std::string& begin, const auto& item, const std::string& end) {
    std::string text = begin;
    for (int i = 0; i < count; ++i) {
      if (i != 0) text += ",";
      text += item(i);
    }
    return text + end;
  };
  const auto key = [](int i) {
    return std::string{'"', static_cast<char>('a' + i % 26), static_cast<char>('A' + i / 26 % 26),
                       static_cast<char>('a' + i / 676), '"'};
  };
  struct costly {
    const char* name;
    std::string header;
  };
  std::string nested = joined(
      "", [&](int i) { return key(i) + ":0"; }, "");
  for (int level = 0; level < 28; ++level) nested += R"(,"d":{"a":0,"b":0)";
  nested += std::string(28, '}');
  const std::vector<costly> all = {
      {"tensors",
       joined(
           "{",
           [&](int i) { return key(i) + R"(:{"dtype":"U8","shape":[0],"data_offsets":[0,0]})"; },
           "}")},
      {"scalars that overlap",
       joined(
           "{",
           [&](int i) { return key(i) + R"(:{"dtype":"U8","shape":[],"data_offsets":[0,1]})"; },
           "}")},
      {"pairs", joined(R"({"__metadata__":{)", [&](int i) { return key(i) + R"(:"")"; }, "}}")},
      {"extents", joined(R"({"w":{"dtype":"U8","data_offsets":[0,0],"shape":[0,)",
                         [](int) { return "1"; }, "]}}")},
      {"fields that are not known",
       joined(R"({"w":{)", [&](int i) { return key(i) + ":0"; }, "}}")},
      {"fields that are not known, in objects in objects", R"({"w":{)" + nested + "}}"},
      {"a name",
       "{\"" + std::string(100000, 'x') + R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"},
      {"a name in escapes", "{\"" +
                                [] {
                                  std::string text;
                                  for (int i = 0; i < 20000; ++i) text += "\\u20ac";
                                  return text;
                                }() +
                                R"(":{"dtype":"U8","shape":[0],"data_offsets":[0,0]}})"},
      {"a string that does not end", "{\"" + std::string(100000, 'x')},
      {"a string that ends in a control character", "{\"" + std::string(100000, 'x') + "\n\":1}"},
      {"a number of many digits", R"({"w":{"shape":[)" + std::string(100000, '1') + "]}}"},
      {"a fraction of many digits", R"({"w":{"x":0.)" + std::string(100000, '1') + "}}"},
      {"brackets", R"({"w":{"x":)" + std::string(100000, '[')},
      {"white space", "{" + std::string(100000, ' ')},
  };
  for (const costly& c : all) {
    INFO(c.name);
    const sample s = of_header(c.name, c.header, 0);
    verdicts results;
    judge(results, s.content, s, "as it is");
    require_no_flaw(results);
  }
}

TEST_CASE("safetensors corpus: memory of an index that is made to cost much") {
  const scratch_directory scratch;
  const std::string path = scratch.file("x.json");
  std::string letters;
  for (char c = ' '; c <= '~'; ++c) {
    if (c != '"' && c != '\\') letters += c;
  }
  // The shortest keys that are enough for one more entry than a list that doubles has room for.
  std::string text = R"({"weight_map":{)";
  for (std::size_t i = 0; i < 8193; ++i) {
    text += i == 0 ? "\"" : ",\"";
    text += letters[i % letters.size()];
    text += letters[i / letters.size()];
    text += R"(":"s")";
  }
  test_support::write_file(path, text + "}}");
  const test_support::allocation_peak peak;
  const subbyte::error e = error_of([&] { (void)safetensors::open(path); });
  REQUIRE(peak.bytes() <= memory_allowed(text.size() + 2));
  INFO(e.what());
  REQUIRE(e.code() == subbyte::errc::io);
}

}  // namespace io_safetensors_corpus_test
