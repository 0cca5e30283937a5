// SPDX-License-Identifier: Apache-2.0
/// GGUF files cut at every byte of their header and with every byte of it changed: each is refused
/// by a typed error or read correctly, in memory that follows the header.
#include <string>
#include <vector>

#include "subbyte/io/gguf.hpp"
#include "support/corpus.hpp"
#include "support/files.hpp"
#include "support/gguf_bytes.hpp"
#include "support/gguf_walk.hpp"
#include "support/verdicts.hpp"

namespace io_gguf_corpus_test {

namespace gguf = subbyte::gguf;
using test_support::byte_string;
using test_support::bytes;
using test_support::gguf_walk;
using test_support::judge_change;
using test_support::judge_cut;
using test_support::require_no_flaw;
using test_support::sample;
using test_support::value_step;
using test_support::verdicts;
using namespace test_support::gguf_bytes;

namespace {

// The reader's stated bound.
std::size_t memory_allowed(std::size_t header_bytes) { return 16 * header_bytes + 8192; }

// Every value type alone and as an array, the alignment, and tensors of every kind: without
// dimensions, of 1 to 4 dimensions, empty, of a type that is not known, without padding at the end.
sample every_kind() {
  byte_string b = header(6, 27).text("general.alignment").u32(u32_type).u32(16);
  const auto scalar = [&](std::uint32_t type, std::size_t width) {
    b.text({static_cast<const char*>("abcdefghijklmnop") + type, 1}).u32(type);
    for (std::size_t i = 0; i < width; ++i) b.u8(static_cast<std::uint8_t>(0x41 + i + type));
  };
  const auto array = [&](std::uint32_t type, std::size_t width) {
    b.text({static_cast<const char*>("ABCDEFGHIJKLMNOP") + type, 1}).u32(array_type);
    b.u32(type).u64(2);
    for (std::size_t i = 0; i < 2 * width; ++i) b.u8(static_cast<std::uint8_t>(0x31 + i));
  };
  constexpr std::size_t widths[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
  for (std::uint32_t type = 0; type < 13; ++type) {
    if (widths[type] == 0) continue;
    scalar(type, widths[type]);
    array(type, widths[type]);
  }
  b.text("i").u32(string_type).text("a string");
  b.text("z").u32(string_type).text("");
  b.text("I").u32(array_type).u32(string_type).u64(3).text("one").text("").text("three");
  b.text("Z").u32(array_type).u32(u32_type).u64(0);
  info(b, "scalar", {}, 0, 0);
  info(b, "row", {5}, 1, 16);
  info(b, "q4_0.3d", {32, 2, 2}, 2, 32);
  info(b, "none", {3, 0, 1, 2}, 0, 112);
  info(b, "unknown", {2, 2}, 99, 112);
  info(b, "last", {3}, 24, 144).pad(16);
  const std::size_t header_bytes = b.content.size();
  for (int i = 0; i < 147; ++i) b.u8(static_cast<std::uint8_t>(i));
  return {"every kind", b.content, header_bytes};
}

sample golden(const std::string& name, bool has_data = true) {
  const bytes content = test_support::read_file(SUBBYTE_GOLDEN_DIR "/ggml/gguf/" + name + ".gguf");
  const gguf::file file = gguf::parse(content, name, {.metadata_only = true});
  return {name, content, static_cast<std::size_t>(file.data_offset()), has_data};
}

std::vector<sample> small_files() {
  std::vector<sample> all = {every_kind(),
                             golden("empty"),
                             golden("kv_empty_arrays"),
                             golden("kv_all_types"),
                             golden("tensors_align32"),
                             golden("tensors_align64"),
                             golden("meta_only", false)};
  // Its offsets are wrong: with one byte changed it may become right.
  const bytes refused =
      test_support::read_file(SUBBYTE_GOLDEN_DIR "/ggml/gguf/refused_offsets.gguf");
  all.push_back({"refused_offsets", refused, refused.size() < 2000 ? refused.size() : 2000});
  return all;
}

void judge(verdicts& results, std::span<const std::uint8_t> content, const sample& s,
           const std::string& what) {
  const gguf::open_options options{.metadata_only = !s.has_data};
  results.judge(
      memory_allowed(s.header_bytes), [&] { return gguf::parse(content, "broken", options); },
      [&](const gguf::file& file) { return gguf_walk(file, content, !s.has_data).flaw(); },
      [&] { return s.name + ", " + what; });
}

// The fourth change: all one.
void judge_four_changes(verdicts& results, sample& s, std::size_t at) {
  test_support::judge_four_changes(judge, results, s, at, 0xFF);
}

sample bundled_model() {
  const bytes content = test_support::read_file(SUBBYTE_EXAMPLE_DATA_DIR "/model-f16.gguf");
  const gguf::file file = gguf::parse(content, "model");
  const auto header_bytes = static_cast<std::size_t>(file.data_offset());
  return {"bundled model", content, header_bytes};
}

}  // namespace

TEST_CASE("gguf corpus: the small files are read correctly as they are") {
  for (const sample& s : small_files()) {
    INFO(s.name);
    if (s.name == "refused_offsets") continue;
    const gguf::file file = gguf::parse(s.content, s.name, {.metadata_only = !s.has_data});
    REQUIRE(gguf_walk(file, s.content, !s.has_data).flaw().empty());
    if (s.name == "every kind") {
      REQUIRE(file.metadata().size() == 27);
      REQUIRE(file.tensor("unknown").size_bytes() == 32);
      REQUIRE(file.tensor("last").bytes()[2] == 146);
    }
  }
}

TEST_CASE("gguf corpus: small files cut at every byte are refused, or lack padding only") {
  verdicts results;
  for (const sample& s : small_files()) {
    for (std::size_t length = 0; length < s.content.size(); ++length) {
      if (length > 2 * s.header_bytes && length + 64 < s.content.size() && length % 61 != 0)
        continue;
      judge_cut(judge, results, s, length);
    }
  }
  require_no_flaw(results);
  REQUIRE(results.refused > 5000);
  REQUIRE(results.accepted > 20);
}

TEST_CASE("gguf corpus: a file of every kind with every header byte changed to every value") {
  verdicts results;
  sample s = every_kind();
  for (std::size_t at = 0; at < s.header_bytes; ++at) {
    for (int value = 0; value < 256; value += value_step) {
      judge_change(judge, results, s, at, static_cast<std::uint8_t>(value));
    }
  }
  require_no_flaw(results);
  REQUIRE(results.accepted > 10000 / value_step);
  REQUIRE(results.refused > 10000 / value_step);
}

TEST_CASE("gguf corpus: small files with every header byte changed to every value", "[.slow]") {
  verdicts results;
  for (sample& s : small_files()) {
    for (std::size_t at = 0; at < s.header_bytes; ++at) {
      for (int value = 0; value < 256; ++value) {
        judge_change(judge, results, s, at, static_cast<std::uint8_t>(value));
      }
    }
  }
  require_no_flaw(results);
  REQUIRE(results.accepted > 100000);
  REQUIRE(results.refused > 100000);
}

TEST_CASE("gguf corpus: small files with every header byte changed to four values") {
  verdicts results;
  for (sample& s : small_files()) {
    for (std::size_t at = 0; at < s.header_bytes; ++at) judge_four_changes(results, s, at);
  }
  require_no_flaw(results);
  REQUIRE(results.accepted > 1000);
  REQUIRE(results.refused > 1000);
}

TEST_CASE("gguf corpus: the bundled model, at a sample of its header's bytes") {
  sample s = bundled_model();
  // Cut there, no data are left: those of a whole tensor are not needed to see it.
  verdicts results;
  // The strides are coprime to the 8 bytes of a length and to the tokens' usual sizes.
  for (std::size_t length = 0; length < s.header_bytes; length += 97) {
    judge_cut(judge, results, s, length);
  }
  REQUIRE(results.accepted == 0);
  for (std::size_t at = 0; at < s.header_bytes;
       at += at < 2048 || at + 4096 > s.header_bytes ? 7 : 101) {
    judge_four_changes(results, s, at);
  }
  require_no_flaw(results);
  REQUIRE(results.accepted > 1000);
  REQUIRE(results.refused > 1000);
}

TEST_CASE("gguf corpus: the bundled model cut and changed at every byte of its header", "[.slow]") {
  sample s = bundled_model();
  verdicts results;
  for (std::size_t length = 0; length < s.header_bytes; ++length)
    judge_cut(judge, results, s, length);
  REQUIRE(results.accepted == 0);
  for (std::size_t at = 0; at < s.header_bytes; ++at) judge_four_changes(results, s, at);
  require_no_flaw(results);
  REQUIRE(results.accepted > 100000);
  REQUIRE(results.refused > 100000);
}

TEST_CASE("gguf corpus: memory of the least keys and tensors just after a list has grown") {
  // 2^k + 1 items: the list holds room for 2^k of them twice over, and the copy it came from.
  for (const std::uint64_t count : {std::uint64_t{1025}, std::uint64_t{16385}}) {
    const auto name = [](std::uint64_t i) {
      return std::string{static_cast<char>(i % 256), static_cast<char>(i / 256)};
    };
    byte_string keys = header(0, count);
    for (std::uint64_t i = 0; i < count; ++i) keys.text(name(i)).u32(0).u8(1);
    byte_string tensors = header(count, 0);
    for (std::uint64_t i = 0; i < count; ++i) {
      tensors.text(name(i)).u32(0).u32(24).u64(i * 32);
    }
    tensors.pad(32);
    const std::size_t tensor_header = tensors.content.size();
    tensors.zeros(count * 32);
    {
      const test_support::allocation_peak peak;
      REQUIRE(gguf::parse(keys.content, "").metadata().size() == count);
      REQUIRE(peak.bytes() <= memory_allowed(keys.content.size()));
    }
    {
      const test_support::allocation_peak peak;
      REQUIRE(gguf::parse(tensors.content, "").tensors().size() == count);
      REQUIRE(peak.bytes() <= memory_allowed(tensor_header));
    }
  }
}

}  // namespace io_gguf_corpus_test
