// SPDX-License-Identifier: Apache-2.0
/// Importance matrices cut at every byte and with every byte changed to every value: each is
/// refused by a typed error or read as what it then says, in memory that follows its size.
#include <cmath>
#include <string>

#include "subbyte/checkpoint/imatrix.hpp"
#include "support/allocation_peak.hpp"
#include "support/corpus.hpp"
#include "support/gguf_bytes.hpp"

namespace io_imatrix_corpus_test {

namespace checkpoint = subbyte::checkpoint;
namespace gguf_bytes = test_support::gguf_bytes;
using test_support::byte_string;
using test_support::bytes;
using test_support::error_of;
using test_support::judge_change;
using test_support::judge_cut;
using test_support::require_no_flaw;
using test_support::sample;
using test_support::value_step;
using test_support::verdicts;

namespace {

// The reader's stated bound.
std::size_t memory_allowed(std::size_t size) { return 16 * size + 8192; }

byte_string& legacy_entry(byte_string& b, std::string_view name, std::uint32_t calls,
                          const std::vector<float>& values) {
  b.u32(static_cast<std::uint32_t>(name.size())).raw(name).u32(calls);
  b.u32(static_cast<std::uint32_t>(values.size()));
  for (const float v : values) b.number(v);
  return b;
}

sample legacy() {
  byte_string b;
  b.u32(3);
  legacy_entry(b, "blk.0.attn_q.weight", 2, {1, 2, 0.5F});
  legacy_entry(b, "b", 0, {3});
  legacy_entry(b, "c", 7, {0, 1e-30F});
  b.u32(9).u32(4).raw("text");
  return {"legacy", b.content, b.content.size()};
}

sample legacy_of_many() {
  byte_string b;
  b.u32(200);
  for (int i = 0; i < 200; ++i) {
    legacy_entry(b, std::string(1, static_cast<char>(i + 1)), 1, {1});
  }
  return {"legacy, as small as entries can be", b.content, b.content.size()};
}

// Two experts; further statistics that are passed over; a scalar count.
sample current() {
  byte_string b = gguf_bytes::header(5, 4);
  b.text("general.type").u32(gguf_bytes::string_type).text("imatrix");
  b.text("imatrix.datasets").u32(gguf_bytes::array_type).u32(gguf_bytes::string_type).u64(2);
  b.text("one").text("two");
  b.text("imatrix.chunk_count").u32(gguf_bytes::u32_type).u32(3);
  b.text("imatrix.chunk_size").u32(gguf_bytes::u32_type).u32(64);
  gguf_bytes::info(b, "e.in_sum2", {2, 2}, 0, 0);
  gguf_bytes::info(b, "e.counts", {1, 2}, 0, 32);
  gguf_bytes::info(b, "e.in_sum", {2, 2}, 0, 64);
  gguf_bytes::info(b, "w.in_sum2", {3}, 0, 96);
  gguf_bytes::info(b, "w.counts", {1}, 0, 128);
  b.pad(32);
  for (const float v : {1.F, 2.F, 3.F, 4.F}) b.number(v);
  b.pad(32);
  for (const float v : {5.F, 0.F}) b.number(v);
  b.pad(32);
  for (const float v : {-1.F, 2.F, -3.F, 4.F}) b.number(v);
  b.pad(32);
  for (const float v : {6.F, 7.F, 8.F}) b.number(v);
  b.pad(32).number(9.F).pad(32);
  return {"GGUF", b.content, b.content.size()};
}

std::string flaw_of(const checkpoint::imatrix& data, std::size_t size) {
  std::size_t values = 0;
  for (const auto& [name, e] : data.entries) {
    if (name.empty() || e.counts.empty() || e.sum_square.empty()) return "an entry is empty";
    if (e.sum_square.size() % e.counts.size() != 0) return "sums do not fit counts";
    for (const double v : e.sum_square) {
      if (!std::isfinite(v) || v < 0) return "a sum is no sum of squares";
    }
    for (const double v : e.counts) {
      if (!std::isfinite(v) || v < 0) return "a count is none";
    }
    values += e.sum_square.size();
  }
  if (data.entries.empty()) return "there is no entry";
  if (4 * values > size) return "more values than bytes";
  if (data.chunks < 0 || data.chunk_size < 1) return "the chunks are none";
  return "";
}

void judge(verdicts& results, std::span<const std::uint8_t> content, const sample& s,
           const std::string& what) {
  results.judge(
      memory_allowed(content.size()), [&] { return checkpoint::parse_imatrix(content, "broken"); },
      [&](const checkpoint::imatrix& data) { return flaw_of(data, content.size()); },
      [&] { return s.name + ", " + what; });
}

subbyte::errc refusal(const byte_string& b) {
  return error_of([&] { static_cast<void>(checkpoint::parse_imatrix(b.content, "broken")); })
      .code();
}

}  // namespace

TEST_CASE("imatrix corpus: the files are read in their bound of memory as they are") {
  verdicts results;
  for (const sample& s : {legacy(), legacy_of_many(), current()}) judge(results, s.content, s, "");
  require_no_flaw(results);
  REQUIRE(results.accepted == 3);
}

TEST_CASE("imatrix corpus: files cut at every byte are refused, or end where old ones did") {
  verdicts results;
  for (const sample& s : {legacy(), current()}) {
    for (std::size_t length = 0; length < s.content.size(); ++length) {
      judge_cut(judge, results, s, length);
    }
  }
  require_no_flaw(results);
  // Legacy files without the dataset, and without the number of chunks before it; a GGUF file
  // without the padding behind its last tensor.
  REQUIRE(results.accepted == 2 + 28);
}

TEST_CASE("imatrix corpus: every byte changed to every value") {
  verdicts results;
  for (sample& s : std::vector<sample>{legacy(), current()}) {
    for (std::size_t at = 0; at < s.content.size(); ++at) {
      for (int value = 0; value < 256; value += value_step) {
        judge_change(judge, results, s, at, static_cast<std::uint8_t>(value));
      }
    }
  }
  require_no_flaw(results);
  REQUIRE(results.accepted > 30000 / value_step);
  REQUIRE(results.refused > 40000 / value_step);
}

TEST_CASE("imatrix corpus: counts that claim more than there is allocate nothing") {
  verdicts results;
  for (const std::uint32_t count : {0x7FFFFFFFU, 0x10000000U, 1000U, 0xFFFFFFFFU, 0x80000000U}) {
    for (const int field : {0, 1, 2}) {
      byte_string b;
      b.u32(field == 0 ? count : 1).u32(field == 1 ? count : 1).raw("x").u32(1);
      b.u32(field == 2 ? count : 1).number(1.F);
      const sample s{"claims", b.content, b.content.size()};
      judge(results, b.content, s, std::to_string(field) + " " + std::to_string(count));
    }
  }
  require_no_flaw(results);
  REQUIRE(results.accepted == 0);
}

TEST_CASE("imatrix corpus: what contradicts itself is refused by name") {
  using subbyte::errc;
  CHECK(refusal(byte_string().u32(0)) == errc::bad_metadata);
  byte_string twice;
  twice.u32(2);
  legacy_entry(twice, "w", 1, {1});
  legacy_entry(twice, "w", 1, {1});
  CHECK(refusal(twice) == errc::bad_metadata);
  byte_string negative;
  CHECK(refusal(legacy_entry(negative.u32(1), "w", 1, {-1})) == errc::bad_metadata);
  byte_string not_finite;
  CHECK(refusal(legacy_entry(not_finite.u32(1), "w", 1, {INFINITY})) == errc::non_finite);
  byte_string longer;
  CHECK(refusal(legacy_entry(longer.u32(1), "w", 1, {1}).u32(1).u32(0).u8(0)) ==
        errc::bad_metadata);
  // A model is no importance matrix.
  byte_string model = gguf_bytes::header(0, 1);
  model.text("general.type").u32(gguf_bytes::string_type).text("model");
  CHECK(refusal(model) == errc::bad_metadata);
  CHECK(refusal(gguf_bytes::header(0, 0)) == errc::bad_metadata);
  const auto of_two = [](const char* first, const char* second,
                         const std::vector<std::uint64_t>& counts, std::uint32_t type) {
    byte_string b = gguf_bytes::header(2, 0);
    gguf_bytes::info(b, first, {3}, 0, 0);
    gguf_bytes::info(b, second, counts, type, 32);
    return b.pad(32).zeros(64);
  };
  CHECK_NOTHROW(checkpoint::parse_imatrix(of_two("w.in_sum2", "w.counts", {1}, 0).content, "x"));
  CHECK(refusal(of_two("w.in_sum2", "v.counts", {1}, 0)) == errc::bad_metadata);
  CHECK(refusal(of_two("w.in_sum3", "w.counts", {1}, 0)) == errc::bad_metadata);
  CHECK(refusal(of_two("w.in_sum2", "w.counts", {2}, 0)) == errc::bad_shape);
  CHECK(refusal(of_two("w.in_sum2", "w.counts", {0}, 0)) == errc::bad_shape);
  CHECK(refusal(of_two("w.in_sum2", "w.counts", {1}, 1)) == errc::bad_metadata);
  for (const char* key : {"imatrix.chunk_count", "imatrix.chunk_size"}) {
    byte_string b = gguf_bytes::header(0, 1);
    b.text(key).u32(gguf_bytes::u32_type).u32(0xFFFFFFFF);
    CHECK(refusal(b) == errc::bad_metadata);
  }
}

}  // namespace io_imatrix_corpus_test
