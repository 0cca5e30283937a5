// SPDX-License-Identifier: Apache-2.0
/// The safetensors writer: upstream's bytes, sharded sets as transformers lays them out, and every
/// way of stopping half-way.
#include "subbyte/io/safetensors_writer.hpp"

#include <algorithm>
#include <cstring>  // std::memcmp

#include "subbyte/tensor/tensor.hpp"
#include "support/allocation_peak.hpp"
#include "support/files.hpp"
#include "support/interrupted.hpp"

namespace safetensors = subbyte::safetensors;
using safetensors::dtype;
using subbyte::errc;
using subbyte::index_t;
using test_support::bytes;
using test_support::contains;
using test_support::error_of;
using test_support::exists;
using test_support::list_directory;
using test_support::read_file;
using test_support::scratch_directory;

namespace {

const std::string model = SUBBYTE_EXAMPLE_DATA_DIR "/model.safetensors";

void copy(const safetensors::file& file, const std::string& path,
          safetensors::write_options options = {}) {
  safetensors::writer out(path, options);
  for (const auto& pair : file.metadata()) {
    if (pair.shard == 0) out.metadata(pair.key, pair.value);
  }
  for (const safetensors::tensor& t : file.tensors()) out.tensor(t);
  out.finish();
}

std::string text_of(const std::string& path) {
  const bytes content = read_file(path);
  return {content.begin(), content.end()};
}

std::string header_of(const std::string& path) {
  const std::string content = text_of(path);
  return content.substr(8, static_cast<std::size_t>(subbyte::load_le<std::uint64_t>(
                               reinterpret_cast<const std::uint8_t*>(content.data()))));
}

bool same_tensors(const safetensors::file& a, const safetensors::file& b) {
  bool same = a.tensors().size() == b.tensors().size();
  for (const safetensors::tensor& t : a.tensors()) {
    const safetensors::tensor& other = b.tensor(t.name());
    same = same && t.type() == other.type() && t.bytes().size() == other.bytes().size() &&
           std::equal(t.shape().begin(), t.shape().end(), other.shape().begin(),
                      other.shape().end()) &&
           std::memcmp(t.bytes().data(), other.bytes().data(), t.bytes().size()) == 0;
  }
  return same;
}

std::vector<std::string> sorted_names(const std::string& directory) {
  std::vector<std::string> names = list_directory(directory);
  std::sort(names.begin(), names.end());
  return names;
}

// `count` tensors of `size` bytes, all of the value `generation`.
void write_generation(const std::string& path, std::uint8_t generation, int count, index_t size,
                      index_t max_shard_bytes) {
  safetensors::writer out(path, {.max_shard_bytes = max_shard_bytes});
  const index_t shape[1] = {size};
  for (int i = 0; i < count; ++i) out.declare("t" + std::to_string(i), shape, dtype::u8);
  const bytes data(static_cast<std::size_t>(size), generation);
  for (int i = 0; i < count; ++i) out.write("t" + std::to_string(i), data);
  out.finish();
}

// The value of every byte of every tensor; fails if they differ.
int generation_of(const safetensors::file& file, std::size_t count) {
  REQUIRE(file.tensors().size() == count);
  const int generation = file.tensors()[0].bytes()[0];
  for (const safetensors::tensor& t : file.tensors()) {
    for (const std::uint8_t byte : t.bytes()) {
      if (byte != generation) FAIL("tensor " << t.name() << " is of another generation");
    }
  }
  return generation;
}

}  // namespace

TEST_CASE("safetensors_writer: a file that upstream wrote comes out byte for byte") {
  // safetensors 0.8.0, safetensors.numpy.save of four arrays with {"format": "pt"}.
  const std::string upstream =
      std::string("\x08\x01\0\0\0\0\0\0", 8) +
      R"({"__metadata__":{"format":"pt"},"q\"\n)"
      "\xE2\x96\x81"
      R"(":{"dtype":"I64","shape":[0,7],"data_offsets":[0,0]},)"
      R"("w":{"dtype":"F32","shape":[2,3],"data_offsets":[0,24]},)"
      R"("s":{"dtype":"F16","shape":[],"data_offsets":[24,26]},)"
      R"("b":{"dtype":"I8","shape":[2],"data_offsets":[26,28]}}      )" +
      std::string(
          "\0\0\0\0\0\0\x80\x3F\0\0\0\x40\0\0\x40\x40\0\0\x80\x40\0\0\xA0\x40"
          "\0\x3E\xFF\x02",
          28);
  const bytes content(upstream.begin(), upstream.end());
  const scratch_directory scratch;
  copy(safetensors::parse(content, "upstream"), scratch.file("out.safetensors"));
  REQUIRE((read_file(scratch.file("out.safetensors")) == content));
  REQUIRE(list_directory(scratch.path()).size() == 1);
}

TEST_CASE("safetensors_writer: the header is compact JSON, filled up with spaces to 8 bytes") {
  const scratch_directory scratch;
  const std::string path = scratch.file("out.safetensors");
  {
    safetensors::writer out(path);
    out.metadata("format", "pt");
    out.metadata("a\n\"b\"", "\xE2\x96\x81");
    const index_t shape[2] = {2, 3};
    REQUIRE(out.declare("w", shape, dtype::bf16) == 12);
    REQUIRE(out.declare("scalar", {}, dtype::f32) == 4);
    const index_t nothing[2] = {0, 7};
    REQUIRE(out.declare("empty", nothing, dtype::i64) == 0);
    const index_t packed[1] = {4};
    REQUIRE(out.declare("packed", packed, dtype::f4) == 2);
    out.write("w", bytes(12, 1));
    out.write("scalar", bytes(4, 2));
    out.write("packed", bytes(2, 3));
    out.finish();
  }
  REQUIRE(header_of(path).size() % 8 == 0);
  std::string header = header_of(path);
  header.erase(header.find_last_not_of(' ') + 1);
  REQUIRE(header == R"({"__metadata__":{"format":"pt","a\n\"b\"":")"
                    "\xE2\x96\x81"
                    R"("},"w":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},)"
                    R"("scalar":{"dtype":"F32","shape":[],"data_offsets":[12,16]},)"
                    R"("empty":{"dtype":"I64","shape":[0,7],"data_offsets":[16,16]},)"
                    R"("packed":{"dtype":"F4","shape":[4],"data_offsets":[16,18]}})");
  const safetensors::file file = safetensors::open(path);
  REQUIRE(file.metadata().size() == 2);
  REQUIRE(file.metadata()[1].key == "a\n\"b\"");
  REQUIRE(file.tensor("packed").bytes()[1] == 3);
}

TEST_CASE("safetensors_writer: without tensors the file is an empty header") {
  const scratch_directory scratch;
  safetensors::writer out(scratch.file("out"));
  out.finish();
  REQUIRE(text_of(scratch.file("out")) == std::string("\x08\0\0\0\0\0\0\0{}      ", 16));
  REQUIRE(safetensors::open(scratch.file("out")).tensors().empty());
}

TEST_CASE("safetensors_writer: every element type arrives under its name") {
  const scratch_directory scratch;
  safetensors::writer out(scratch.file("out"));
  const index_t shape[1] = {8};
  for (int i = 0; i < safetensors::dtype_count; ++i) {
    const dtype type = static_cast<dtype>(i);
    REQUIRE(out.declare(safetensors::traits_of(type).name, shape, type) ==
            safetensors::traits_of(type).bits);
  }
  for (int i = 0; i < safetensors::dtype_count; ++i) {
    const auto traits = safetensors::traits_of(static_cast<dtype>(i));
    out.write(traits.name, bytes(static_cast<std::size_t>(traits.bits), 1));
  }
  out.finish();
  const safetensors::file file = safetensors::open(scratch.file("out"));
  for (const safetensors::tensor& t : file.tensors()) REQUIRE(t.name() == t.type_name());
  REQUIRE(file.tensors().size() == safetensors::dtype_count);

  REQUIRE(safetensors::dtype_of<std::uint8_t>() == dtype::u8);
  REQUIRE(safetensors::dtype_of<float>() == dtype::f32);
  REQUIRE(safetensors::dtype_of<subbyte::half>() == dtype::f16);
  REQUIRE(safetensors::dtype_of<subbyte::bfloat16>() == dtype::bf16);
  REQUIRE(safetensors::dtype_of<std::uint64_t>() == dtype::u64);
}

TEST_CASE("safetensors_writer: views and streamed tensors mix, in the order they were added") {
  const scratch_directory scratch;
  subbyte::tensor<float, 2> first(3, 5);
  for (index_t i = 0; i < 15; ++i) first.data()[i] = static_cast<float>(i);
  const std::vector<std::int32_t> third = {7, 8, 9};
  {
    safetensors::writer out(scratch.file("out"));
    out.tensor("first", first.view());
    const index_t shape[1] = {5};
    out.declare("second", shape, dtype::i8);
    out.tensor("third", subbyte::vector_view<const std::int32_t>(third.data(), 3));
    for (std::uint8_t byte = 1; byte <= 5; ++byte) out.write("second", bytes{byte});
    out.finish();
  }
  const safetensors::file file = safetensors::open(scratch.file("out"));
  REQUIRE(file.tensors()[0].name() == "first");
  REQUIRE(file.tensors()[0].shape()[1] == 5);
  std::vector<float> floats(15);
  file.tensor("first").to_float(floats.data());
  REQUIRE(floats[14] == 14);
  REQUIRE(file.tensor("second").bytes()[4] == 5);
  REQUIRE(file.tensor("third").bytes()[4] == 8);
}

TEST_CASE("safetensors_writer: a sharded set has transformers' names, index and limits") {
  const scratch_directory scratch;
  const std::string path = scratch.file("model.safetensors");
  // 40 + 60 | 1 (beyond with it) ... : a shard ends before the tensor that does not fit.
  const index_t sizes[] = {40, 60, 1, 250, 30, 70};
  {
    safetensors::writer out(path, {.max_shard_bytes = 100});
    out.metadata("format", "pt");
    int i = 0;
    for (const index_t size : sizes) {
      out.declare(std::string(1, static_cast<char>('z' - i++)), std::span(&size, 1), dtype::u8);
    }
    REQUIRE(out.shard_count() == 4);
    REQUIRE(out.shard_path(3) == scratch.file("model-00004-of-00004.safetensors"));
    i = 0;
    for (const index_t size : sizes) {
      out.write(std::string(1, static_cast<char>('z' - i)),
                bytes(static_cast<std::size_t>(size), static_cast<std::uint8_t>(i)));
      ++i;
    }
    out.finish();
  }
  REQUIRE(sorted_names(scratch.path()) ==
          std::vector<std::string>{
              "model-00001-of-00004.safetensors", "model-00002-of-00004.safetensors",
              "model-00003-of-00004.safetensors", "model-00004-of-00004.safetensors",
              "model.safetensors.index.json"});
  REQUIRE(text_of(scratch.file("model.safetensors.index.json")) == R"({
  "metadata": {
    "total_size": 451
  },
  "weight_map": {
    "u": "model-00004-of-00004.safetensors",
    "v": "model-00004-of-00004.safetensors",
    "w": "model-00003-of-00004.safetensors",
    "x": "model-00002-of-00004.safetensors",
    "y": "model-00001-of-00004.safetensors",
    "z": "model-00001-of-00004.safetensors"
  }
}
)");
  const safetensors::file file = safetensors::open(scratch.path());
  REQUIRE(file.shard_count() == 4);
  REQUIRE(file.metadata().size() == 4);
  REQUIRE(file.tensor("w").bytes().size() == 250);
  REQUIRE(file.tensor("v").bytes()[0] == 4);
}

TEST_CASE("safetensors_writer: a real model in shards reads as the model") {
  const scratch_directory scratch;
  const safetensors::file original = safetensors::open(model);
  copy(original, scratch.file("model.safetensors"), {.max_shard_bytes = 1 << 20});
  const safetensors::file sharded = safetensors::open(scratch.path());
  REQUIRE(sharded.shard_count() > 4);
  REQUIRE(same_tensors(original, sharded));
  // And back into one file, whose tensors are in the order of the shards.
  copy(sharded, scratch.file("joined.safetensors"));
  REQUIRE(same_tensors(safetensors::open(scratch.file("joined.safetensors")), original));
}

TEST_CASE("safetensors_writer: the form of the model that was there before goes, at the end") {
  const scratch_directory scratch;
  const std::string path = scratch.file("model.safetensors");
  write_generation(path, 1, 3, 100, 0);
  write_generation(path, 2, 3, 100, 100);
  REQUIRE(generation_of(safetensors::open(scratch.path()), 3) == 2);
  REQUIRE(!exists(path));
  // One shard is written as one file, even where a limit was given.
  write_generation(path, 3, 3, 100, 1000);
  REQUIRE(generation_of(safetensors::open(scratch.path()), 3) == 3);
  REQUIRE(!exists(path + ".index.json"));
  // Without a limit an index is none of the writer's business.
  write_generation(path, 4, 3, 100, 100);
  write_generation(path, 5, 3, 100, 0);
  REQUIRE(exists(path + ".index.json"));
}

TEST_CASE("safetensors_writer: a file or set can be written over the one it is copied from") {
  const scratch_directory scratch;
  const std::string path = scratch.file("model.safetensors");
  copy(safetensors::open(model), path);
  copy(safetensors::open(path), path);
  REQUIRE(same_tensors(safetensors::open(path), safetensors::open(model)));
  copy(safetensors::open(path), path, {.max_shard_bytes = 1 << 20});
  const std::vector<std::string> names = sorted_names(scratch.path());
  copy(safetensors::open(scratch.path()), path, {.max_shard_bytes = 1 << 20});
  REQUIRE(sorted_names(scratch.path()) == names);
  copy(safetensors::open(scratch.path()), scratch.file("joined"));
  REQUIRE(same_tensors(safetensors::open(scratch.file("joined")), safetensors::open(model)));
}

TEST_CASE("safetensors_writer: replaced shards lie in another directory behind links, and work") {
  const scratch_directory scratch;
  REQUIRE(::mkdir(scratch.file("real").c_str(), 0755) == 0);
  const std::string path = scratch.file("model.safetensors");
  write_generation(path, 1, 3, 100, 100);
  const std::string first = scratch.file("model-00001-of-00003.safetensors");
  REQUIRE(std::rename(first.c_str(), scratch.file("real/first").c_str()) == 0);
  REQUIRE(::symlink("real/first", first.c_str()) == 0);
  write_generation(path, 2, 3, 100, 100);
  REQUIRE(generation_of(safetensors::open(scratch.path()), 3) == 2);
  REQUIRE(list_directory(scratch.file("real")) == std::vector<std::string>{"first"});
  REQUIRE(list_directory(scratch.path()).size() == 5);
}

TEST_CASE("safetensors_writer: memory does not grow with the model") {
  const scratch_directory scratch;
  const bytes chunk(1 << 16, 7);
  const test_support::allocation_peak peak;
  safetensors::writer out(scratch.file("out.safetensors"), {.max_shard_bytes = 1 << 22});
  const index_t shape[1] = {1 << 22};
  for (const char* name : {"a", "b", "c", "d"}) out.declare(name, shape, dtype::u8);
  for (const char* name : {"a", "b", "c", "d"}) {
    for (int i = 0; i < 64; ++i) out.write(name, chunk);
  }
  out.finish();
  REQUIRE(peak.bytes() < 100000);
}

TEST_CASE("safetensors_writer: what no safetensors file can hold is refused when it is added") {
  const scratch_directory scratch;
  safetensors::writer out(scratch.file("out"));
  const auto code = [](auto call) { return error_of(call).code(); };
  const auto declare = [&](const std::string& name, const std::vector<index_t>& shape, dtype type) {
    return code([&] { out.declare(name, shape, type); });
  };
  out.metadata("key", "value");
  REQUIRE(code([&] { out.metadata("key", "other"); }) == errc::bad_metadata);
  REQUIRE(code([&] { out.metadata("k\xFF", "v"); }) == errc::bad_metadata);
  REQUIRE(code([&] { out.metadata("k", "v\xC0\x80"); }) == errc::bad_metadata);
  const index_t shape[1] = {4};
  out.declare("w", shape, dtype::u8);
  REQUIRE(declare("w", {4}, dtype::u8) == errc::bad_metadata);
  REQUIRE(declare("__metadata__", {4}, dtype::u8) == errc::bad_metadata);
  REQUIRE(declare("\xE2\x96", {4}, dtype::u8) == errc::bad_metadata);
  REQUIRE(declare("x", {-1}, dtype::u8) == errc::bad_shape);
  REQUIRE(declare("x", {1LL << 32, 1LL << 32}, dtype::u8) == errc::bad_shape);
  REQUIRE(declare("x", {0, 1LL << 32, 1LL << 32}, dtype::u8) == errc::bad_shape);
  REQUIRE(declare("x", {1LL << 60}, dtype::u8) == errc::bad_shape);
  REQUIRE(declare("x", {3}, dtype::f6_e2m3) == errc::bad_shape);
  REQUIRE(code([&] { safetensors::writer(scratch.file("x"), {.max_shard_bytes = -1}); }) ==
          errc::bad_argument);
  out.write("w", bytes(4, 0));
  out.finish();
  REQUIRE(safetensors::open(scratch.file("out")).tensors().size() == 1);
}

TEST_CASE("safetensors_writer: calls out of order and missing data are errors, leaving nothing") {
  for (const index_t limit : {0, 16}) {
    const scratch_directory scratch;
    const std::string path = scratch.file("model.safetensors");
    write_generation(path, 1, 2, 16, limit);
    const auto before = sorted_names(scratch.path());
    const index_t shape[1] = {16};
    const auto code = [](auto call) { return error_of(call).code(); };
    {
      safetensors::writer out(path, {.max_shard_bytes = limit});
      out.declare("t0", shape, dtype::u8);
      out.declare("t1", shape, dtype::u8);
      REQUIRE(code([&] { out.write("t1", bytes(1, 9)); }) == errc::bad_argument);
      out.write("t0", bytes(10, 9));
      REQUIRE(code([&] { out.metadata("late", "1"); }) == errc::bad_argument);
      REQUIRE(code([&] { out.declare("late", shape, dtype::u8); }) == errc::bad_argument);
      REQUIRE(contains(error_of([&] { out.write("t0", bytes(7, 9)); }).what(),
                       "only 6 of the declared 16 are left"));
      out.write("t0", bytes(6, 9));
      out.write("t1", bytes(10, 9));
      const subbyte::error missing = error_of([&] { out.finish(); });
      REQUIRE(missing.code() == errc::bad_argument);
      REQUIRE(contains(missing.what(), "10 of the declared 16"));
    }
    REQUIRE(sorted_names(scratch.path()) == before);
    REQUIRE(generation_of(safetensors::open(scratch.path()), 2) == 1);
    safetensors::writer out(scratch.file("done.safetensors"));
    out.finish();
    REQUIRE(code([&] { out.finish(); }) == errc::bad_argument);
    REQUIRE(code([&] { out.write("w", bytes(1, 1)); }) == errc::bad_argument);
    REQUIRE(code([&] { out.declare("w", shape, dtype::u8); }) == errc::bad_argument);
  }
}

TEST_CASE("safetensors_writer: a target that cannot be written is refused, and nothing changes") {
  const scratch_directory scratch;
  const auto failure = [](const std::string& path, index_t limit) {
    return error_of([&] { write_generation(path, 2, 3, 16, limit); });
  };
  REQUIRE(failure(scratch.path(), 0).code() == errc::io);
  REQUIRE(failure("/dev/full", 0).code() == errc::io);
  for (const index_t limit : {0, 16}) {
    REQUIRE(failure(scratch.file("missing/out.safetensors"), limit).code() == errc::io);
  }
  REQUIRE(::mkdir(scratch.file("closed").c_str(), 0555) == 0);
  // A directory that is open to everybody, with a shard that is read-only for everybody but root.
  const std::string set = scratch.file("open");
  REQUIRE(::mkdir(set.c_str(), 0777) == 0);
  REQUIRE(::chmod(set.c_str(), 0777) == 0);
  const std::string path = set + "/model.safetensors";
  write_generation(path, 1, 3, 16, 16);
  const auto before = sorted_names(set);
  for (const std::string& name : before) ::chmod((set + "/" + name).c_str(), 0666);
  REQUIRE(::chmod((set + "/model-00002-of-00003.safetensors").c_str(), 0444) == 0);
  {
    const test_support::as_ordinary_user user(scratch.path());
    REQUIRE(contains(failure(scratch.file("closed/model.safetensors"), 16).what(), "denied"));
    const subbyte::error refused = failure(path, 16);
    REQUIRE(refused.code() == errc::io);
    REQUIRE(refused.subject() == set + "/model-00002-of-00003.safetensors");
    REQUIRE(contains(refused.what(), "cannot replace"));
  }
  REQUIRE(sorted_names(set) == before);
  REQUIRE(generation_of(safetensors::open(set), 3) == 1);
}

TEST_CASE("safetensors_writer: a disk that fills up leaves what was there and nothing else") {
  for (const index_t limit : {index_t{0}, index_t{100000}, index_t{10000}}) {
    const scratch_directory scratch;
    const std::string path = scratch.file("model.safetensors");
    write_generation(path, 1, 9, 10000, limit);
    const auto before = sorted_names(scratch.path());
    std::optional<subbyte::error> caught;
    {
      // Full within the first tensor, within a later one, and in the last write of all.
      const test_support::file_size_limit small(limit == 10000 ? 9999 : 90000);
      caught = error_of([&] { write_generation(path, 2, 9, 10000, limit); });
    }
    REQUIRE(caught->code() == errc::io);
    REQUIRE(contains(caught->what(), "File too large"));
    REQUIRE(sorted_names(scratch.path()) == before);
    REQUIRE(generation_of(safetensors::open(scratch.path()), 9) == 1);
  }
}

TEST_CASE("safetensors_writer: a process killed at any moment leaves one whole set to read") {
  const scratch_directory scratch;
  const std::string path = scratch.file("model.safetensors");
  constexpr int count = 6;
  constexpr index_t size = 2000;
  write_generation(path, 0, count, size, size);
  // The moments are spread over the time that one write takes.
  timespec begin{}, end{};
  ::clock_gettime(CLOCK_MONOTONIC, &begin);
  write_generation(path, 1, count, size, size);
  ::clock_gettime(CLOCK_MONOTONIC, &end);
  const std::int64_t whole =
      (end.tv_sec - begin.tv_sec) * 1000000000 + (end.tv_nsec - begin.tv_nsec);
  int last = 1;
  int kills = 0;
  constexpr int tries = 60;
  for (int i = 0; i < tries; ++i) {
    const int next = 2 + i;
    kills += test_support::killed_after(whole * (i % 30) / 28, [&] {
      write_generation(path, static_cast<std::uint8_t>(next), count, size, size);
    });
    const int found = generation_of(safetensors::open(scratch.path()), count);
    REQUIRE((found == last || found == next));
    last = found;
  }
  REQUIRE(kills > 0);
}
