// SPDX-License-Identifier: Apache-2.0
/// The split GGUF writer: where shards end, what they hold, and every way of stopping half-way.
#include "subbyte/io/gguf_split_writer.hpp"

#include <algorithm>
#include <cstring>  // std::memcmp

#include "support/allocation_peak.hpp"
#include "support/files.hpp"
#include "support/interrupted.hpp"

namespace io_gguf_split_writer_test {

namespace gguf = subbyte::gguf;
using subbyte::errc;
using subbyte::index_t;
using test_support::bytes;
using test_support::contains;
using test_support::error_of;
using test_support::list_directory;
using test_support::read_file;
using test_support::scratch_directory;

namespace {

const std::string golden = SUBBYTE_GOLDEN_DIR "/ggml/gguf/";
const std::string model = SUBBYTE_EXAMPLE_DATA_DIR "/model-f16.gguf";
constexpr std::uint32_t i8 = 24;

template <class File>
void copy(const File& file, const std::string& path, gguf::split_options options = {}) {
  gguf::split_writer out(path, options);
  for (const gguf::metadata_entry& entry : file.metadata()) out.metadata(entry);
  for (const gguf::tensor& t : file.tensors()) out.tensor(t);
  out.finish();
}

bool same_tensors(const gguf::split_file& a, const gguf::split_file& b) {
  bool same = a.tensors().size() == b.tensors().size();
  for (std::size_t i = 0; same && i < a.tensors().size(); ++i) {
    const gguf::tensor& x = a.tensors()[i];
    const gguf::tensor& y = b.tensors()[i];
    same = x.name() == y.name() && x.type() == y.type() && x.bytes().size() == y.bytes().size() &&
           std::equal(x.dims().begin(), x.dims().end(), y.dims().begin(), y.dims().end()) &&
           std::memcmp(x.bytes().data(), y.bytes().data(), x.bytes().size()) == 0;
  }
  return same;
}

std::vector<std::string> sorted_names(const std::string& directory) {
  std::vector<std::string> names = list_directory(directory);
  std::sort(names.begin(), names.end());
  return names;
}

// The tensors of each shard for sizes in bytes.
std::vector<std::size_t> shards_of(const std::vector<index_t>& sizes, gguf::split_options options,
                                   index_t alignment = gguf::default_alignment) {
  const scratch_directory scratch;
  gguf::split_writer out(scratch.file("m.gguf"), options);
  if (alignment != gguf::default_alignment) {
    out.metadata("general.alignment", static_cast<std::uint32_t>(alignment));
  }
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    out.declare("t" + std::to_string(i), std::span(&sizes[i], 1), i8, sizes[i]);
  }
  const index_t count = out.shard_count();
  REQUIRE(out.shard_path(count - 1) == gguf::split_path(scratch.file("m"), count - 1, count));
  for (std::size_t i = 0; i < sizes.size(); ++i) {
    if (sizes[i] == 0) continue;
    out.write("t" + std::to_string(i), bytes(static_cast<std::size_t>(sizes[i]), 1));
  }
  out.finish();
  const gguf::split_file file = gguf::open_split(gguf::split_path(scratch.file("m"), 0, count));
  REQUIRE(static_cast<index_t>(file.shards().size()) == count);
  REQUIRE(static_cast<index_t>(list_directory(scratch.path()).size()) == count);
  std::vector<std::size_t> counts;
  for (const gguf::file& shard : file.shards()) counts.push_back(shard.tensors().size());
  return counts;
}

// Three shards of two tensors of `size` bytes each, all of the value `generation`.
void write_generation(const std::string& path, std::uint8_t generation, index_t size) {
  gguf::split_writer out(path, {.max_shard_tensors = 2});
  out.metadata("generation", generation);
  for (int i = 0; i < 6; ++i) {
    out.declare("t" + std::to_string(i), std::span(&size, 1), i8, size);
  }
  const bytes data(static_cast<std::size_t>(size), generation);
  for (int i = 0; i < 6; ++i) out.write("t" + std::to_string(i), data);
  out.finish();
}

// Fails if the set is of more than one generation.
int generation_of(const std::string& first) {
  const gguf::split_file file = gguf::open_split(first);
  REQUIRE(file.tensors().size() == 6);
  const int generation = file.get<int>("generation");
  for (const gguf::tensor& t : file.tensors()) {
    for (const std::uint8_t byte : t.bytes()) {
      if (byte != generation) FAIL("tensor " << t.name() << " is of another generation");
    }
  }
  return generation;
}

}  // namespace

TEST_CASE("gguf_split_writer: without limits it writes the writer's file") {
  const scratch_directory scratch;
  for (const char* name :
       {"empty", "kv_all_types", "kv_empty_arrays", "tensors_align32", "tensors_align64"}) {
    INFO(name);
    copy(gguf::open(golden + name + ".gguf"), scratch.file(name));
    REQUIRE((read_file(scratch.file(name)) == read_file(golden + name + ".gguf")));
  }
}

TEST_CASE("gguf_split_writer: shards end where llama.cpp's end") {
  using counts = std::vector<std::size_t>;
  // Sizes count with their padding to 32 bytes, headers not.
  const std::vector<index_t> sizes = {64, 32, 1, 33, 200, 10, 0, 54};
  REQUIRE(shards_of(sizes, {.max_shard_bytes = 128}) == counts{3, 1, 1, 3});
  REQUIRE(shards_of(sizes, {.max_shard_bytes = 127}) == counts{2, 2, 1, 3});
  REQUIRE(shards_of(sizes, {.max_shard_bytes = 1 << 20}) == counts{8});
  REQUIRE(shards_of(sizes, {.max_shard_tensors = 3}) == counts{3, 3, 2});
  REQUIRE(shards_of(sizes, {.max_shard_tensors = 8}) == counts{8});
  REQUIRE(shards_of(sizes, {.max_shard_tensors = 7}) == counts{7, 1});
  REQUIRE(shards_of(sizes, {.max_shard_tensors = 4, .first_without_tensors = true}) ==
          counts{0, 4, 4});
  REQUIRE(shards_of(sizes, {.first_without_tensors = true}) == counts{0, 8});
  REQUIRE(shards_of(sizes, {.max_shard_bytes = 128, .max_shard_tensors = 2}) ==
          counts{2, 2, 1, 2, 1});
  REQUIRE(shards_of({}, {.max_shard_tensors = 4}) == counts{0});
}

TEST_CASE("gguf_split_writer: the bytes of a shard count the padding of the model's alignment") {
  using counts = std::vector<std::size_t>;
  const std::vector<index_t> sizes = {64, 32, 1, 33, 200, 10, 0, 54};
  REQUIRE(shards_of(sizes, {.max_shard_bytes = 128}, 64) == counts{2, 2, 1, 3});
  REQUIRE(shards_of(sizes, {.max_shard_bytes = 112}, 16) == counts{3, 1, 1, 3});
}

TEST_CASE("gguf_split_writer: the first shard has the model's keys, all have those of the split") {
  const scratch_directory scratch;
  const gguf::file original = gguf::open(model);
  copy(original, scratch.file("m.gguf"), {.max_shard_tensors = 10});
  const gguf::split_file file = gguf::open_split(scratch.file("m-00001-of-00004.gguf"));
  const std::size_t keys = original.metadata().size();
  REQUIRE(file.metadata().size() == keys + 3);
  for (std::size_t i = 0; i < keys; ++i) {
    const gguf::metadata_entry& a = original.metadata()[i];
    const gguf::metadata_entry& b = file.metadata()[i];
    REQUIRE(a.key() == b.key());
    REQUIRE(a.type() == b.type());
    REQUIRE(
        (bytes(a.bytes().begin(), a.bytes().end()) == bytes(b.bytes().begin(), b.bytes().end())));
  }
  for (std::size_t i = 0; i < 4; ++i) {
    const gguf::file& shard = file.shards()[i];
    const std::size_t at = i == 0 ? keys : 0;
    REQUIRE(shard.metadata().size() == at + 3);
    REQUIRE(shard.metadata()[at].key() == "split.no");
    REQUIRE(shard.metadata()[at].type() == gguf::value_type::u16);
    REQUIRE(shard.metadata()[at].get<std::size_t>() == i);
    REQUIRE(shard.metadata()[at + 1].key() == "split.count");
    REQUIRE(shard.metadata()[at + 1].type() == gguf::value_type::u16);
    REQUIRE(shard.metadata()[at + 1].get<int>() == 4);
    REQUIRE(shard.metadata()[at + 2].key() == "split.tensors.count");
    REQUIRE(shard.metadata()[at + 2].type() == gguf::value_type::i32);
    REQUIRE(shard.metadata()[at + 2].get<std::size_t>() == original.tensors().size());
  }
  REQUIRE(same_tensors(file, gguf::open_split(model)));
}

TEST_CASE("gguf_split_writer: split and joined again, a model is byte for byte what it was") {
  const scratch_directory scratch;
  const gguf::split_options ways[] = {{.max_shard_bytes = 1 << 20},
                                      {.max_shard_tensors = 1},
                                      {.max_shard_bytes = 3 << 20, .first_without_tensors = true}};
  for (const gguf::split_options& way : ways) {
    for (const std::string& source : {model, golden + "tensors_align64.gguf"}) {
      const scratch_directory parts;
      copy(gguf::open(source), parts.file("m.gguf"), way);
      const std::string any = parts.file(list_directory(parts.path())[0]);
      const gguf::split_file split = gguf::open_split(any);
      copy(split, scratch.file("joined"));
      REQUIRE((read_file(scratch.file("joined")) == read_file(source)));
      for (const gguf::file& shard : split.shards()) {
        REQUIRE(shard.alignment() == gguf::open(source).alignment());
      }
    }
  }
}

TEST_CASE("gguf_split_writer: tensors of unknown type are carried as the bytes up to the next") {
  const scratch_directory scratch;
  test_support::byte_string b;
  b.raw("GGUF").u32(3).u64(3).u64(1).text("odd.key").u32(9).u32(8).u64(1).text("value");
  b.text("a").u32(2).u64(7).u64(1).u32(1234).u64(0);
  b.text("b").u32(1).u64(3).u32(24).u64(64);
  b.text("c").u32(0).u32(0xFFFFFFFF).u64(96).pad(32);
  for (int i = 0; i < 64; ++i) b.u8(static_cast<std::uint8_t>(i + 1));
  b.u8(1).u8(2).u8(3).pad(32);
  for (int i = 0; i < 96; ++i) b.u8(static_cast<std::uint8_t>(200 - i));
  test_support::write_file(scratch.file("odd.gguf"), b.content);
  copy(gguf::open(scratch.file("odd.gguf")), scratch.file("copy.gguf"));
  REQUIRE((read_file(scratch.file("copy.gguf")) == b.content));
  copy(gguf::open(scratch.file("odd.gguf")), scratch.file("s.gguf"), {.max_shard_tensors = 1});
  const gguf::split_file split = gguf::open_split(scratch.file("s-00001-of-00003.gguf"));
  REQUIRE(split.tensor("a").type() == 1234);
  REQUIRE(split.tensor("a").bytes().size() == 64);
  REQUIRE(split.tensor("c").type() == 0xFFFFFFFF);
  REQUIRE(split.tensor("c").bytes().size() == 96);
  copy(split, scratch.file("joined.gguf"));
  REQUIRE((read_file(scratch.file("joined.gguf")) == b.content));
}

TEST_CASE("gguf_split_writer: matrices and streamed tensors mix, in the order they were added") {
  const scratch_directory scratch;
  std::vector<subbyte::f32> blocks(4);
  for (std::size_t i = 0; i < 4; ++i) blocks[i].weight = static_cast<float>(i);
  const subbyte::block_matrix_view<subbyte::f32> matrix(blocks.data(), 2, 2);
  const bytes data(16, 7);
  gguf::split_writer out(scratch.file("m"), {.max_shard_tensors = 1});
  const index_t dims[2] = {2, 2};
  out.tensor("a", matrix);
  REQUIRE(out.declare<subbyte::f32>("b", dims) == 16);
  out.tensor("c", matrix);
  REQUIRE(out.declare<subbyte::f32>("d", dims) == 16);
  out.tensor("e", matrix);
  out.write("b", std::span(data).first(5));
  out.write("b", std::span(data).first(11));
  REQUIRE(error_of([&] { out.write("c", data); }).code() == errc::bad_argument);
  out.write("d", data);
  out.finish();
  const gguf::split_file file = gguf::open_split(scratch.file("m-00003-of-00005.gguf"));
  REQUIRE(file.tensor("c").as<subbyte::f32>().data()[3].weight == 3);
  REQUIRE(file.tensor("e").as<subbyte::f32>().rows() == 2);
  REQUIRE(file.tensor("d").bytes()[15] == 7);
}

TEST_CASE("gguf_split_writer: memory does not grow with the model") {
  const scratch_directory scratch;
  const bytes chunk(1 << 16, 7);
  const test_support::allocation_peak peak;
  gguf::split_writer out(scratch.file("m"), {.max_shard_tensors = 1});
  const index_t dims[1] = {1 << 22};
  for (const char* name : {"a", "b", "c", "d"}) out.declare(name, dims, i8, 1 << 22);
  for (const char* name : {"a", "b", "c", "d"}) {
    for (int i = 0; i < 64; ++i) out.write(name, chunk);
  }
  out.finish();
  REQUIRE(peak.bytes() < 100000);
}

TEST_CASE("gguf_split_writer: what no set can hold is refused when it is added") {
  const scratch_directory scratch;
  gguf::split_writer out(scratch.file("m"), {.max_shard_tensors = 1});
  const auto code = [](auto call) { return error_of(call).code(); };
  for (const char* key : {"split.no", "split.count", "split.tensors.count"}) {
    REQUIRE(code([&] { out.metadata(key, std::uint16_t{1}); }) == errc::bad_metadata);
  }
  out.metadata("key", 1);
  REQUIRE(code([&] { out.metadata("key", 1); }) == errc::bad_metadata);
  const index_t dims[1] = {4};
  const auto declare = [&](const std::string& name, std::uint32_t type, index_t size) {
    return code([&] { out.declare(name, dims, type, size); });
  };
  out.declare("w", dims, i8, 4);
  REQUIRE(declare("w", i8, 4) == errc::bad_metadata);
  REQUIRE(declare("x", i8, 5) == errc::bad_shape);
  REQUIRE(declare(std::string(64, 'n'), i8, 4) == errc::bad_metadata);
  REQUIRE(declare("x", 999, std::numeric_limits<index_t>::max()) == errc::bad_shape);
  REQUIRE(code([&] { out.metadata("general.alignment", 64U); }) == errc::bad_argument);
  REQUIRE(code([&] { gguf::split_writer(scratch.file("x"), {.max_shard_bytes = -1}); }) ==
          errc::bad_argument);
  REQUIRE(code([&] { gguf::split_writer(scratch.file("x"), {.max_shard_tensors = -1}); }) ==
          errc::bad_argument);
  for (int i = 1; i < 65535; ++i) out.declare("t" + std::to_string(i), dims, i8, 4);
  REQUIRE(out.shard_count() == 65535);
  REQUIRE(declare("beyond", i8, 4) == errc::bad_argument);
}

TEST_CASE("gguf_split_writer: calls out of order and missing data are errors, leaving nothing") {
  const scratch_directory scratch;
  write_generation(scratch.file("m.gguf"), 1, 16);
  const auto before = sorted_names(scratch.path());
  const index_t size = 16;
  const auto code = [](auto call) { return error_of(call).code(); };
  {
    gguf::split_writer out(scratch.file("m.gguf"), {.max_shard_tensors = 2});
    for (int i = 0; i < 6; ++i) {
      out.declare("t" + std::to_string(i), std::span(&size, 1), i8, size);
    }
    for (int i = 0; i < 5; ++i) out.write("t" + std::to_string(i), bytes(16, 9));
    REQUIRE(code([&] { out.metadata("late", 1); }) == errc::bad_argument);
    REQUIRE(code([&] { out.declare("late", std::span(&size, 1), i8, 16); }) == errc::bad_argument);
    out.write("t5", bytes(10, 9));
    const subbyte::error missing = error_of([&] { out.finish(); });
    REQUIRE(missing.code() == errc::bad_argument);
    REQUIRE(missing.subject() == "t5");
    REQUIRE(contains(missing.what(), "10 of the declared 16"));
  }
  REQUIRE(sorted_names(scratch.path()) == before);
  REQUIRE(generation_of(scratch.file("m-00001-of-00003.gguf")) == 1);
  gguf::split_writer out(scratch.file("x.gguf"), {.max_shard_tensors = 2});
  out.finish();
  REQUIRE(code([&] { out.finish(); }) == errc::bad_argument);
  REQUIRE(code([&] { out.write("w", bytes(1, 1)); }) == errc::bad_argument);
}

TEST_CASE("gguf_split_writer: a set can be written over the one it is copied from") {
  const scratch_directory scratch;
  copy(gguf::open(model), scratch.file("m.gguf"), {.max_shard_bytes = 1 << 20});
  const auto before = sorted_names(scratch.path());
  const std::string first =
      gguf::split_path(scratch.file("m"), 0, static_cast<index_t>(before.size()));
  copy(gguf::open_split(first), scratch.file("m.gguf"), {.max_shard_bytes = 1 << 20});
  REQUIRE(sorted_names(scratch.path()) == before);
  REQUIRE(same_tensors(gguf::open_split(first), gguf::open_split(model)));
}

TEST_CASE("gguf_split_writer: a first shard behind a link is replaced where it lies") {
  const scratch_directory scratch;
  REQUIRE(::mkdir(scratch.file("real").c_str(), 0755) == 0);
  write_generation(scratch.file("m.gguf"), 1, 16);
  const std::string first = scratch.file("m-00001-of-00003.gguf");
  REQUIRE(std::rename(first.c_str(), scratch.file("real/first").c_str()) == 0);
  REQUIRE(::symlink("real/first", first.c_str()) == 0);
  write_generation(scratch.file("m.gguf"), 2, 16);
  REQUIRE(generation_of(first) == 2);
  REQUIRE(list_directory(scratch.file("real")) == std::vector<std::string>{"first"});
  REQUIRE(list_directory(scratch.path()).size() == 4);
}

TEST_CASE("gguf_split_writer: a target that cannot be written is refused, and nothing changes") {
  const scratch_directory scratch;
  const auto failure = [](const std::string& path) {
    return error_of([&] { write_generation(path, 2, 16); });
  };
  REQUIRE(failure(scratch.file("missing/m.gguf")).code() == errc::io);
  REQUIRE(::mkdir(scratch.file("closed").c_str(), 0555) == 0);
  const std::string set = scratch.file("open");
  REQUIRE(::mkdir(set.c_str(), 0777) == 0);
  REQUIRE(::chmod(set.c_str(), 0777) == 0);
  write_generation(set + "/m.gguf", 1, 16);
  const auto before = sorted_names(set);
  for (const std::string& name : before) ::chmod((set + "/" + name).c_str(), 0666);
  REQUIRE(::chmod((set + "/m-00003-of-00003.gguf").c_str(), 0444) == 0);
  {
    const test_support::as_ordinary_user user(scratch.path());
    REQUIRE(contains(failure(scratch.file("closed/m.gguf")).what(), "denied"));
    const subbyte::error refused = failure(set + "/m.gguf");
    REQUIRE(refused.code() == errc::io);
    REQUIRE(refused.subject() == set + "/m-00003-of-00003.gguf");
  }
  REQUIRE(sorted_names(set) == before);
  REQUIRE(generation_of(set + "/m-00001-of-00003.gguf") == 1);
}

TEST_CASE("gguf_split_writer: a disk that fills up leaves what was there and nothing else") {
  const scratch_directory scratch;
  write_generation(scratch.file("m.gguf"), 1, 100000);
  const auto before = sorted_names(scratch.path());
  for (const std::uint64_t space : {std::uint64_t{100}, std::uint64_t{200100}}) {
    std::optional<subbyte::error> caught;
    {
      const test_support::file_size_limit small(space);
      caught = error_of([&] { write_generation(scratch.file("m.gguf"), 2, 100000); });
    }
    REQUIRE(caught->code() == errc::io);
    REQUIRE(contains(caught->what(), "File too large"));
    REQUIRE(sorted_names(scratch.path()) == before);
    REQUIRE(generation_of(scratch.file("m-00001-of-00003.gguf")) == 1);
  }
}

TEST_CASE("gguf_split_writer: a process killed at any moment never leaves a mixture of two sets") {
  const scratch_directory scratch;
  const std::string first = scratch.file("m-00001-of-00003.gguf");
  write_generation(scratch.file("m.gguf"), 0, 2000);
  timespec begin{}, end{};
  ::clock_gettime(CLOCK_MONOTONIC, &begin);
  write_generation(scratch.file("m.gguf"), 1, 2000);
  ::clock_gettime(CLOCK_MONOTONIC, &end);
  const std::int64_t whole =
      (end.tv_sec - begin.tv_sec) * 1000000000 + (end.tv_nsec - begin.tv_nsec);
  int last = 1;
  int kills = 0, whole_sets = 0;
  constexpr int tries = 60;
  for (int i = 0; i < tries; ++i) {
    const int next = 2 + i;
    kills += test_support::killed_after(whole * (i % 30) / 28, [&] {
      write_generation(scratch.file("m.gguf"), static_cast<std::uint8_t>(next), 2000);
    });
    if (!test_support::exists(first)) {
      // Killed between the renames: no reader begins, and the next write is a whole set again.
      REQUIRE(error_of([&] { (void)gguf::open_split(first); }).code() == errc::io);
      last = next;
      write_generation(scratch.file("m.gguf"), static_cast<std::uint8_t>(next), 2000);
    } else {
      ++whole_sets;
    }
    const int found = generation_of(first);
    REQUIRE((found == last || found == next));
    last = found;
  }
  REQUIRE(kills > 0);
  REQUIRE(whole_sets > 0);
}

TEST_CASE(
    "gguf_split_writer: where no set is replaced, a kill leaves a whole set or no first shard") {
  const scratch_directory scratch;
  constexpr int tries = 30;
  for (int i = 0; i < tries; ++i) {
    const std::string name = "m" + std::to_string(i);
    test_support::killed_after(200000 * i,
                               [&] { write_generation(scratch.file(name + ".gguf"), 3, 2000); });
    const std::string first = scratch.file(name + "-00001-of-00003.gguf");
    if (test_support::exists(first)) REQUIRE(generation_of(first) == 3);
  }
}

}  // namespace io_gguf_split_writer_test
