// SPDX-License-Identifier: Apache-2.0
/// Split GGUF files: names, sets that read as one model, and sets whose files contradict each
/// other.
#include "subbyte/io/gguf_split.hpp"

#include "support/allocation_peak.hpp"
#include "support/files.hpp"

namespace io_gguf_split_test {

namespace gguf = subbyte::gguf;
using subbyte::errc;
using subbyte::index_t;
using test_support::byte_string;
using test_support::contains;
using test_support::error_of;
using test_support::scratch_directory;
using test_support::write_file;

namespace {

/// One shard with tensors of one f32 each, written by hand.
struct shard_text {
  std::optional<int> number, count, total;
  std::vector<std::string> tensors;

  [[nodiscard]] test_support::bytes content() const {
    byte_string b;
    const int keys = (number ? 1 : 0) + (count ? 1 : 0) + (total ? 1 : 0);
    const bool first = number.value_or(0) == 0;
    b.raw("GGUF")
        .u32(3)
        .u64(tensors.size())
        .u64(static_cast<std::uint64_t>(keys + (first ? 1 : 0)));
    if (first) b.text("general.name").u32(8).text("joined");
    if (number) b.text("split.no").u32(2).number(static_cast<std::uint16_t>(*number));
    if (count) b.text("split.count").u32(2).number(static_cast<std::uint16_t>(*count));
    if (total) b.text("split.tensors.count").u32(5).number(static_cast<std::int32_t>(*total));
    for (std::size_t i = 0; i < tensors.size(); ++i) {
      b.text(tensors[i]).u32(1).u64(1).u32(0).u64(32 * i);
    }
    b.pad(32);
    for (const std::string& name : tensors) {
      b.number(static_cast<float>(name.back())).pad(32);
    }
    return b.content;
  }
};

/// Three shards with five tensors, the last shard's missing key included.
std::vector<shard_text> good_set() {
  return {{0, 3, 5, {"t0"}}, {1, 3, 5, {"t1", "t2"}}, {2, 3, std::nullopt, {"t3", "t4"}}};
}

void write_set(const scratch_directory& scratch, const std::vector<shard_text>& shards) {
  for (std::size_t i = 0; i < shards.size(); ++i) {
    write_file(gguf::split_path(scratch.file("m"), static_cast<index_t>(i),
                                static_cast<index_t>(shards.size())),
               shards[i].content());
  }
}

}  // namespace

TEST_CASE("gguf_split: names of shards are llama.cpp's, and read back") {
  REQUIRE(gguf::split_path("dir/m", 1, 3) == "dir/m-00002-of-00003.gguf");
  REQUIRE(gguf::split_path("", 65534, 65535) == "-65535-of-65535.gguf");
  for (const index_t count : {index_t{1}, index_t{9}, index_t{65535}}) {
    const std::string path = gguf::split_path("a-00001-of-00002", count - 1, count);
    const auto name = gguf::parse_split_path(path);
    REQUIRE(name);
    REQUIRE(name->prefix == "a-00001-of-00002");
    REQUIRE(name->shard == count - 1);
    REQUIRE(name->count == count);
  }
  for (const char* path :
       {"", "m.gguf", "-00001-of-00002.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf",
        "m-0001-of-0002.gguf", "m-00001-of-00002.bin", "m-00001-of_00002.gguf",
        "m_00001-of-00002.gguf", "m-0000a-of-00002.gguf", "m-00001-of- 0002.gguf",
        "m-00001-of-00002.ggu", "m-00001-OF-00002.gguf"}) {
    INFO(path);
    REQUIRE(!gguf::parse_split_path(path));
  }
  REQUIRE(gguf::is_split_key("split.no"));
  REQUIRE(gguf::is_split_key("split.count"));
  REQUIRE(gguf::is_split_key("split.tensors.count"));
  REQUIRE(!gguf::is_split_key("split.other"));
}

TEST_CASE("gguf_split: a set reads as one model from any of its shards") {
  const scratch_directory scratch;
  write_set(scratch, good_set());
  for (index_t start = 0; start < 3; ++start) {
    const std::string path = gguf::split_path(scratch.file("m"), start, 3);
    const gguf::split_file file = gguf::open_split(path);
    REQUIRE(file.name() == path);
    REQUIRE(file.shards().size() == 3);
    REQUIRE(file.get<std::string_view>("general.name") == "joined");
    REQUIRE(file.get_or<int>("split.count", 0) == 3);
    REQUIRE(file.get_or<int>("no.such.key", 7) == 7);
    REQUIRE(file.find("no.such.key") == nullptr);
    REQUIRE(file.metadata().size() == 4);
    REQUIRE(file.tensors().size() == 5);
    for (std::size_t i = 0; i < 5; ++i) {
      const std::string name = "t" + std::to_string(i);
      REQUIRE(file.tensors()[i].name() == name);
      REQUIRE(file.find_tensor(name) == &file.tensors()[i]);
      const auto view = file.tensor(name).as<subbyte::f32>();
      REQUIRE(view.data()->weight == static_cast<float>(name.back()));
    }
    REQUIRE(file.find_tensor("t5") == nullptr);
    REQUIRE(error_of([&] { (void)file.tensor("t5"); }).code() == errc::not_found);
    index_t bytes = 0;
    for (const shard_text& shard : good_set())
      bytes += static_cast<index_t>(shard.content().size());
    REQUIRE(file.size_bytes() == bytes);
  }
}

TEST_CASE("gguf_split: shards under other names are read when they are listed") {
  const scratch_directory scratch;
  const std::vector<shard_text> set = good_set();
  std::vector<std::string> paths;
  for (const char* name : {"x", "y", "z"}) paths.push_back(scratch.file(name));
  for (std::size_t i = 0; i < 3; ++i) write_file(paths[i], set[i].content());
  const gguf::split_file file{std::span<const std::string>(paths)};
  REQUIRE(file.tensors().size() == 5);
  REQUIRE(file.name() == paths[0]);
  std::swap(paths[1], paths[2]);
  const subbyte::error swapped =
      error_of([&] { gguf::split_file{std::span<const std::string>(paths)}; });
  REQUIRE(swapped.code() == errc::bad_metadata);
  REQUIRE(swapped.subject() == scratch.file("z"));
  paths.pop_back();
  REQUIRE(error_of([&] { gguf::split_file{std::span<const std::string>(paths)}; }).code() ==
          errc::bad_metadata);
  paths.pop_back();
  REQUIRE(error_of([&] { gguf::split_file{std::span<const std::string>(paths)}; }).code() ==
          errc::bad_metadata);
  paths.clear();
  REQUIRE(error_of([&] { gguf::split_file{std::span<const std::string>(paths)}; }).code() ==
          errc::bad_argument);
  REQUIRE(contains(error_of([&] { (void)gguf::open_split(scratch.file("x")); }).what(),
                   "one shard of 3, and its name does not end in -00001-of-00003.gguf"));
}

TEST_CASE("gguf_split: a file that is not split reads as itself, whatever its name") {
  const scratch_directory scratch;
  for (const char* name : {"plain.gguf", "odd-00002-of-00003.gguf"}) {
    write_file(scratch.file(name), shard_text{{}, {}, {}, {"t0", "t1"}}.content());
    const gguf::split_file file = gguf::open_split(scratch.file(name));
    REQUIRE(file.shards().size() == 1);
    REQUIRE(file.tensors().size() == 2);
    REQUIRE(file.metadata().size() == 1);
  }
  for (const int count : {0, 1}) {
    write_file(scratch.file("one.gguf"), shard_text{0, count, 1, {"t0"}}.content());
    REQUIRE(gguf::open_split(scratch.file("one.gguf")).shards().size() == 1);
  }
}

TEST_CASE("gguf_split: metadata can be read without the data of any shard") {
  const scratch_directory scratch;
  std::vector<shard_text> set = good_set();
  for (index_t i = 0; i < 3; ++i) {
    auto content = set[static_cast<std::size_t>(i)].content();
    content.resize(content.size() - 32);
    write_file(gguf::split_path(scratch.file("m"), i, 3), content);
  }
  const std::string first = gguf::split_path(scratch.file("m"), 0, 3);
  REQUIRE(error_of([&] { (void)gguf::open_split(first); }).code() == errc::truncated);
  const gguf::split_file file = gguf::open_split(first, {.metadata_only = true});
  REQUIRE(file.tensors().size() == 5);
  REQUIRE(error_of([&] { (void)file.tensor("t3").bytes(); }).code() == errc::truncated);
}

TEST_CASE("gguf_split: a shard that is missing, cut or of another set is named in the error") {
  const auto failure = [](const std::vector<shard_text>& set, int missing, int opened) {
    const scratch_directory scratch;
    write_set(scratch, set);
    const auto path = [&](index_t i) { return gguf::split_path(scratch.file("m"), i, 3); };
    if (missing >= 0) REQUIRE(::unlink(path(missing).c_str()) == 0);
    const subbyte::error e = error_of([&] { (void)gguf::open_split(path(opened)); });
    const std::size_t slash = e.subject().rfind('/');
    return std::pair(e.code(), std::string(e.subject().substr(slash + 1)) + ": " + e.what());
  };
  for (int missing = 0; missing < 3; ++missing) {
    const int opened = (missing + 1) % 3;
    const auto [code, text] = failure(good_set(), missing, opened);
    REQUIRE(code == errc::not_found);
    REQUIRE(text.substr(0, 21) == gguf::split_path("m", missing, 3));
  }
  struct bad {
    int shard;
    shard_text replacement;
    const char* said;
  };
  const std::vector<bad> sets = {
      {1, {2, 3, 5, {"t1", "t2"}}, "split.no is 2, required is 1"},
      {2, {1, 3, 5, {"t3", "t4"}}, "split.no is 1, required is 2"},
      {0, {1, 3, 5, {"t0"}}, "split.no is 1, required is 0"},
      {2, {2, 4, 5, {"t3", "t4"}}, "split.count is 4, and the model has 3 shards"},
      {2, {2, 1, 5, {"t3", "t4"}}, "split.count is 1, and the model has 3 shards"},
      {1, {1, {}, 5, {"t1", "t2"}}, "no key split.count"},
      {1, {{}, 3, 5, {"t1", "t2"}}, "no key split.no"},
      {0, {0, 3, {}, {"t0"}}, "no key split.tensors.count"},
      {0, {0, 3, 4, {"t0"}}, "split.tensors.count is 4, and the shards have 5 together"},
      {1, {1, 3, 6, {"t1", "t2"}}, "split.tensors.count is 6, and the shards have 5 together"},
      {1, {1, 3, -1, {"t1", "t2"}}, "split.tensors.count is -1"},
      {2, {2, 3, 5, {"t0", "t4"}}, "tensor t0 is in"},
      {2, {2, 3, 5, {"t2", "t4"}}, "tensor t2 is in"},
      {0, {0, 2, 5, {"t0"}}, "split.count is 2, and the name says 3"},
      {0, {0, 65535, 5, {"t0"}}, "split.count is 65535, and the name says 3"},
  };
  for (const bad& b : sets) {
    INFO(b.said);
    std::vector<shard_text> set = good_set();
    set[static_cast<std::size_t>(b.shard)] = b.replacement;
    const auto [code, text] = failure(set, -1, 0);
    INFO(text);
    REQUIRE((code == errc::bad_metadata || code == errc::not_found));
    REQUIRE(contains(text, b.said));
    REQUIRE(text.substr(0, 21) == gguf::split_path("m", b.shard, 3));
  }
}

TEST_CASE("gguf_split: keys of a wrong type or an absurd value are errors") {
  const scratch_directory scratch;
  const auto code = [&](std::uint32_t type, std::uint64_t value, std::size_t width) {
    byte_string b;
    b.raw("GGUF").u32(3).u64(0).u64(1).text("split.count").u32(type);
    for (std::size_t i = 0; i < width; ++i)
      b.u8(i < 8 ? static_cast<std::uint8_t>(value >> 8 * i) : std::uint8_t{0});
    write_file(scratch.file("m-00001-of-00002.gguf"), b.content);
    return error_of([&] { (void)gguf::open_split(scratch.file("m-00001-of-00002.gguf")); }).code();
  };
  REQUIRE(code(4, 65536, 4) == errc::bad_metadata);
  REQUIRE(code(5, 0xFFFFFFFF, 4) == errc::bad_metadata);          // -1
  REQUIRE(code(10, ~std::uint64_t{0}, 8) == errc::bad_metadata);  // beyond 63 bits
  REQUIRE(code(6, 0x40000000, 4) == errc::bad_metadata);          // 2.0 as a float
  REQUIRE(code(8, 1, 9) == errc::bad_metadata);                   // a string
  REQUIRE(code(2, 2, 2) == errc::not_found);                      // split.no is missing
}

TEST_CASE("split: a shard that claims tens of thousands of others costs what it is") {
  const scratch_directory scratch;
  const shard_text lone{0, 65535, 1, {"t0"}};
  const std::string path = gguf::split_path(scratch.file("m"), 0, 65535);
  write_file(path, lone.content());
  const std::size_t allowed = 32 * lone.content().size() + 8192 + 4096;  // as the header states
  const test_support::allocation_peak peak;
  CHECK(error_of([&] { (void)gguf::open_split(path); }).code() == errc::not_found);
  CHECK(peak.bytes() <= allowed);
}

TEST_CASE("split: memory of shards with the least tensors is what the header states") {
  const scratch_directory scratch;
  constexpr std::uint64_t count = 4097;  // just after a list has grown
  std::size_t header_bytes = 0;
  for (int shard = 0; shard < 2; ++shard) {
    byte_string b;
    b.raw("GGUF").u32(3).u64(count).u64(3);
    b.text("split.no").u32(2).number(static_cast<std::uint16_t>(shard));
    b.text("split.count").u32(2).number(std::uint16_t{2});
    b.text("split.tensors.count").u32(5).number(static_cast<std::int32_t>(2 * count));
    for (std::uint64_t i = 0; i < count; ++i) {
      const std::uint64_t name = i + count * static_cast<std::uint64_t>(shard);
      b.text(std::string{static_cast<char>(name % 256), static_cast<char>(name / 256)})
          .u32(0)
          .u32(24)
          .u64(32 * i);
    }
    b.pad(32);
    header_bytes += b.content.size();
    for (std::uint64_t i = 0; i < count; ++i) b.u8(0).pad(32);
    write_file(gguf::split_path(scratch.file("m"), shard, 2), b.content);
  }
  const std::string path = gguf::split_path(scratch.file("m"), 0, 2);
  const test_support::allocation_peak peak;
  CHECK(gguf::open_split(path).tensors().size() == 2 * count);
  CHECK(peak.bytes() <= 32 * header_bytes + 2 * 8192 + 2 * 4096);
}

}  // namespace io_gguf_split_test
