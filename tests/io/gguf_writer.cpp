// SPDX-License-Identifier: Apache-2.0
/// The GGUF writer: ggml's files written again byte by byte, and every way of giving up cleanly.
#include "subbyte/io/gguf_writer.hpp"

#include <sys/resource.h>  // a file size limit stands in for a full disk

#include <array>
#include <csignal>

#include "support/allocation_peak.hpp"
#include "support/files.hpp"
#include "support/interrupted.hpp"

namespace io_gguf_writer_test {

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

void copy(const gguf::file& file, const std::string& path) {
  gguf::writer out(path);
  for (const gguf::metadata_entry& entry : file.metadata()) out.metadata(entry);
  for (const gguf::tensor& t : file.tensors()) out.tensor(t);
  const index_t size = out.size_bytes();
  out.finish();
  REQUIRE(static_cast<index_t>(read_file(path).size()) == size);
}

std::vector<subbyte::f32> ramp(std::size_t count) {
  std::vector<subbyte::f32> blocks(count);
  for (std::size_t i = 0; i < count; ++i) blocks[i].weight = static_cast<float>(i);
  return blocks;
}

std::span<const std::uint8_t> bytes_of(const std::vector<subbyte::f32>& blocks) {
  return {reinterpret_cast<const std::uint8_t*>(blocks.data()), blocks.size() * 4};
}

subbyte::block_matrix_view<subbyte::f32> matrix(const std::vector<subbyte::f32>& blocks,
                                                index_t rows, index_t cols) {
  return {blocks.data(), rows, cols};
}

}  // namespace

TEST_CASE("gguf_writer: files of ggml come out byte for byte when written again") {
  const scratch_directory scratch;
  for (const char* name :
       {"empty", "kv_all_types", "kv_empty_arrays", "tensors_align32", "tensors_align64"}) {
    INFO(name);
    copy(gguf::open(golden + name + ".gguf"), scratch.file(name));
    REQUIRE(read_file(scratch.file(name)) == read_file(golden + name + ".gguf"));
  }
  REQUIRE(list_directory(scratch.path()).size() == 5);
}

TEST_CASE("gguf_writer: a file can be written over the one it is copied from") {
  const scratch_directory scratch;
  const bytes original = read_file(golden + "tensors_align32.gguf");
  test_support::write_file(scratch.file("model.gguf"), original);
  copy(gguf::open(scratch.file("model.gguf")), scratch.file("model.gguf"));
  REQUIRE(read_file(scratch.file("model.gguf")) == original);
}

TEST_CASE("gguf_writer: streaming the data in pieces gives the same file") {
  const scratch_directory scratch;
  const gguf::file file = gguf::open(golden + "tensors_align64.gguf");
  for (const std::size_t piece : {std::size_t{1}, std::size_t{7}, std::size_t{1000}}) {
    gguf::writer out(scratch.file("out"));
    for (const gguf::metadata_entry& entry : file.metadata()) out.metadata(entry);
    for (const gguf::tensor& t : file.tensors()) {
      out.declare(t.name(), t.dims(), t.type(), t.size_bytes());
    }
    for (const gguf::tensor& t : file.tensors()) {
      std::span<const std::uint8_t> left = t.bytes();
      while (!left.empty()) {
        const std::size_t n = piece < left.size() ? piece : left.size();
        out.write(t.name(), left.first(n));
        left = left.subspan(n);
      }
    }
    out.finish();
    REQUIRE(read_file(scratch.file("out")) == read_file(golden + "tensors_align64.gguf"));
  }
}

TEST_CASE("gguf_writer: tensors of unknown type and version 2 files survive a copy") {
  const scratch_directory scratch;
  test_support::byte_string b;
  b.raw("GGUF").u32(2).u64(2).u64(1).text("odd.key").u32(7).u8(5);
  b.text("a").u32(2).u64(7).u64(1).u32(1234).u64(0);
  b.text("b").u32(0).u32(999).u64(64).pad(32);
  for (int i = 0; i < 96; ++i) b.u8(static_cast<std::uint8_t>(i + 1));
  copy(gguf::parse(b.content, "odd"), scratch.file("out"));
  b.content[4] = 3;
  REQUIRE(read_file(scratch.file("out")) == b.content);
}

TEST_CASE("gguf_writer: every value type arrives as the type it was given as") {
  const scratch_directory scratch;
  const std::vector<std::string> words = {"one", "", std::string("a\0b", 3)};
  const std::vector<bool> bits = {true, false, true};
  const std::array<double, 2> doubles = {0.5, -1.0 / 3.0};
  const float floats[3] = {1.0F, 2.0F, -0.0F};
  {
    gguf::writer out(scratch.file("out"));
    out.metadata("u8", std::uint8_t{200});
    out.metadata("i8", std::int8_t{-100});
    out.metadata("u16", std::uint16_t{60000});
    out.metadata("i16", std::int16_t{-30000});
    out.metadata("u32", 4000000000U);
    out.metadata("i32", -2000000000);
    out.metadata("u64", std::uint64_t{1} << 63);
    out.metadata("i64", index_t{-1});
    out.metadata("f32", 1.5F);
    out.metadata("f64", 0.1);
    out.metadata("bool", true);
    out.metadata("literal", "text");
    out.metadata("string", std::string("a\0b", 3));
    out.metadata("words", words);
    out.metadata("literals", std::array<const char*, 2>{"x", "y"});
    out.metadata("bits", bits);
    out.metadata("doubles", doubles);
    out.metadata("floats", floats);
    out.metadata("none", std::vector<std::int16_t>{});
    out.metadata("bytes", std::span<const std::uint8_t>());
    out.finish();
  }
  const gguf::file file = gguf::open(scratch.file("out"));
  const auto has_type = [&](const char* key, gguf::value_type type) {
    return file.find(key)->element_type() == type;
  };
  REQUIRE((has_type("u8", gguf::value_type::u8) && file.get<int>("u8") == 200));
  REQUIRE((has_type("i8", gguf::value_type::i8) && file.get<int>("i8") == -100));
  REQUIRE((has_type("u16", gguf::value_type::u16) && file.get<int>("u16") == 60000));
  REQUIRE((has_type("i16", gguf::value_type::i16) && file.get<int>("i16") == -30000));
  REQUIRE((has_type("u32", gguf::value_type::u32) && file.get<index_t>("u32") == 4000000000));
  REQUIRE((has_type("i32", gguf::value_type::i32) && file.get<int>("i32") == -2000000000));
  REQUIRE((has_type("u64", gguf::value_type::u64) &&
           file.get<std::uint64_t>("u64") == std::uint64_t{1} << 63));
  REQUIRE((has_type("i64", gguf::value_type::i64) && file.get<int>("i64") == -1));
  REQUIRE((has_type("f32", gguf::value_type::f32) && file.get<float>("f32") == 1.5F));
  REQUIRE((has_type("f64", gguf::value_type::f64) && file.get<double>("f64") == 0.1));
  REQUIRE((has_type("bool", gguf::value_type::boolean) && file.get<bool>("bool")));
  REQUIRE(file.get<std::string_view>("literal") == "text");
  REQUIRE(file.get<std::string_view>("string") == std::string_view("a\0b", 3));
  const auto read_words = file.get<gguf::array_view<std::string_view>>("words");
  REQUIRE(std::vector<std::string>(read_words.begin(), read_words.end()) == words);
  REQUIRE(*file.get<gguf::array_view<std::string_view>>("literals").begin() == "x");
  const auto read_bits = file.get<gguf::array_view<bool>>("bits");
  REQUIRE(std::vector<bool>(read_bits.begin(), read_bits.end()) == bits);
  REQUIRE(file.get<gguf::array_view<double>>("doubles")[1] == doubles[1]);
  REQUIRE(file.get<gguf::array_view<float>>("floats").size() == 3);
  REQUIRE(has_type("none", gguf::value_type::i16));
  REQUIRE(file.find("none")->size() == 0);
  REQUIRE(has_type("bytes", gguf::value_type::u8));
}

TEST_CASE("gguf_writer: matrices and streamed tensors mix, in the order they were added") {
  const scratch_directory scratch;
  const std::vector<subbyte::f32> first = ramp(15);
  const std::vector<subbyte::f32> second = ramp(6);
  const std::vector<subbyte::f32> third = ramp(3);
  {
    gguf::writer out(scratch.file("out"));
    out.metadata("general.alignment", 128U);
    out.tensor("first", matrix(first, 3, 5));
    const index_t dims[3] = {2, 1, 3};
    REQUIRE(out.declare<subbyte::f32>("second", dims) == 24);
    out.tensor("third", matrix(third, 1, 3));
    const index_t nothing[1] = {0};
    out.declare<subbyte::q4_0>("empty", nothing);
    out.write("second", bytes_of(second));
    out.finish();
  }
  const gguf::file file = gguf::open(scratch.file("out"));
  REQUIRE(file.alignment() == 128);
  REQUIRE(file.size_bytes() % 128 == 0);
  REQUIRE(file.tensors().size() == 4);
  const auto same = [&](const char* name, const std::vector<subbyte::f32>& blocks) {
    const auto stored = file.tensor(name).bytes();
    const auto given = bytes_of(blocks);
    return bytes(stored.begin(), stored.end()) == bytes(given.begin(), given.end());
  };
  REQUIRE(same("first", first));
  REQUIRE(same("second", second));
  REQUIRE(same("third", third));
  const auto dims_of = [&](const char* name) {
    const auto dims = file.tensor(name).dims();
    return std::vector<index_t>(dims.begin(), dims.end());
  };
  REQUIRE(dims_of("first") == std::vector<index_t>{5, 3});
  REQUIRE(dims_of("second") == std::vector<index_t>{2, 1, 3});
  REQUIRE(dims_of("third") == std::vector<index_t>{3});
}

TEST_CASE("gguf_writer: rows that begin with a scale are written with their scales") {
  const scratch_directory scratch;
  subbyte::row_scaled_matrix<subbyte::iq5_ks> w(3, 512);
  subbyte::row_scaled_matrix<subbyte::iq5_ks> vector(1, 256);
  for (index_t r = 0; r < 3; ++r) {
    w.set_scale(r, subbyte::f32_scale::nearest(static_cast<float>(r) + 0.5F));
    w.row(r)[1].codes_low[127] = static_cast<std::uint8_t>(r + 1);
  }
  constexpr index_t size = 3 * (4 + 2 * 168);
  {
    gguf::writer out(scratch.file("out"));
    out.tensor("w", w.view());
    const index_t dims[3] = {512, 1, 3};
    REQUIRE(out.declare<subbyte::iq5_ks>("declared", dims) == size);
    out.tensor("vector", vector.view());
    out.write("declared", {w.view().data(), static_cast<std::size_t>(size)});
    out.finish();
  }
  const gguf::file file = gguf::open(scratch.file("out"));
  for (const char* name : {"w", "declared"}) {
    const auto stored = file.tensor(name).bytes();
    REQUIRE(static_cast<index_t>(stored.size()) == size);
    REQUIRE(std::memcmp(stored.data(), w.view().data(), stored.size()) == 0);
    const auto view = file.tensor(name).as<subbyte::iq5_ks>();
    REQUIRE(view.scale(2).value == 2.5F);
    REQUIRE(view.row(2)[1].codes_low[127] == 3);
  }
  REQUIRE(file.tensor("vector").dims().size() == 1);
  REQUIRE(file.tensor("vector").size_bytes() == 4 + 168);
  copy(file, scratch.file("copy"));
  REQUIRE(read_file(scratch.file("copy")) == read_file(scratch.file("out")));

  gguf::writer out(scratch.file("refused"));
  const index_t ragged[2] = {300, 2};
  REQUIRE(error_of([&] { out.declare<subbyte::iq5_ks>("x", ragged); }).code() == errc::bad_shape);
  const index_t dims[2] = {512, 3};
  REQUIRE(error_of([&] { out.declare("x", dims, 152, size - 4); }).code() == errc::bad_shape);
}

TEST_CASE("gguf_writer: memory does not grow with the model") {
  const scratch_directory scratch;
  const bytes chunk(1 << 16, 7);
  const test_support::allocation_peak peak;
  gguf::writer out(scratch.file("out"));
  const index_t dims[1] = {1 << 24};
  out.declare("w", dims, 24, 1 << 24);
  for (int i = 0; i < 256; ++i) out.write("w", chunk);
  out.finish();
  REQUIRE(peak.bytes() < 100000);
}

TEST_CASE("gguf_writer: what no GGUF file can hold is refused when it is added") {
  const scratch_directory scratch;
  const std::vector<subbyte::f32> blocks = ramp(64);
  gguf::writer out(scratch.file("out"));
  out.metadata("key", 1);
  const auto code = [](auto call) { return error_of(call).code(); };
  REQUIRE(code([&] { out.metadata("key", 2); }) == errc::bad_metadata);
  REQUIRE(code([&] { out.metadata("", 2); }) == errc::bad_metadata);
  REQUIRE(code([&] { out.metadata("general.alignment", 32); }) == errc::bad_metadata);
  REQUIRE(code([&] { out.metadata("general.alignment", "32"); }) == errc::bad_metadata);
  REQUIRE(code([&] { out.metadata("general.alignment", std::vector<unsigned>{32}); }) ==
          errc::bad_metadata);
  for (const unsigned alignment : {0U, 3U, 48U, 1U << 21}) {
    REQUIRE(code([&] { out.metadata("general.alignment", alignment); }) == errc::bad_metadata);
  }
  out.metadata("general.alignment", 64U);  // the refused ones left nothing behind

  out.tensor("w", matrix(blocks, 2, 32));
  REQUIRE(code([&] { out.tensor("w", matrix(blocks, 2, 32)); }) == errc::bad_metadata);
  REQUIRE(code([&] { out.tensor(std::string(64, 'n'), matrix(blocks, 2, 32)); }) ==
          errc::bad_metadata);
  const subbyte::block_matrix_view<subbyte::q4_0> cut(nullptr, 0, 33);
  const subbyte::error odd = error_of([&] { out.tensor("odd", cut); });
  REQUIRE(odd.code() == errc::bad_shape);
  REQUIRE(contains(odd.what(), "33 columns, q4_0 in a GGUF file needs a multiple of 32"));

  const auto declare = [&](const std::vector<index_t>& dims, std::uint32_t type, index_t size) {
    return code([&] { out.declare("x", dims, type, size); });
  };
  REQUIRE(declare({1, 1, 1, 1, 1}, 0, 4) == errc::bad_shape);
  REQUIRE(declare({-1}, 0, 4) == errc::bad_shape);
  REQUIRE(declare({1LL << 32, 1LL << 32}, 0, 0) == errc::bad_shape);
  REQUIRE(declare({1LL << 62}, 0, 0) == errc::bad_shape);
  REQUIRE(declare({4}, 0, 15) == errc::bad_shape);
  REQUIRE(declare({4}, 0, 17) == errc::bad_shape);
  REQUIRE(declare({31}, 8, 34) == errc::bad_shape);
  REQUIRE(declare({4}, 999, -1) == errc::bad_shape);
  REQUIRE(declare({4}, 999, std::numeric_limits<index_t>::max()) == errc::bad_shape);
  REQUIRE(code([&] { out.metadata(gguf::open(golden + "tensors_align64.gguf").metadata()[0]); }) ==
          errc::bad_metadata);
  out.finish();
  const gguf::file file = gguf::open(scratch.file("out"));
  REQUIRE(file.metadata().size() == 2);
  REQUIRE(file.tensors().size() == 1);
  REQUIRE(file.alignment() == 64);
}

TEST_CASE("gguf_writer: the alignment is set before tensors are laid out") {
  const scratch_directory scratch;
  const std::vector<subbyte::f32> blocks = ramp(4);
  gguf::writer out(scratch.file("out"));
  out.tensor("w", matrix(blocks, 1, 4));
  REQUIRE(error_of([&] { out.metadata("general.alignment", 64U); }).code() == errc::bad_argument);
}

TEST_CASE("gguf_writer: calls out of order and missing data are errors, and leave nothing behind") {
  const scratch_directory scratch;
  test_support::write_file(scratch.file("out"), "before");
  const std::vector<subbyte::f32> blocks = ramp(4);
  const index_t dims[1] = {4};
  const auto code = [](auto call) { return error_of(call).code(); };
  {
    gguf::writer out(scratch.file("out"));
    out.declare<subbyte::f32>("a", dims);
    out.declare<subbyte::f32>("b", dims);
    REQUIRE(code([&] { out.write("b", bytes_of(blocks)); }) == errc::bad_argument);
    out.write("a", bytes_of(blocks).first(10));
    REQUIRE(code([&] { out.metadata("late", 1); }) == errc::bad_argument);
    REQUIRE(code([&] { out.tensor("late", matrix(blocks, 1, 4)); }) == errc::bad_argument);
    const subbyte::error surplus = error_of([&] { out.write("a", bytes_of(blocks)); });
    REQUIRE(surplus.code() == errc::bad_argument);
    REQUIRE(contains(surplus.what(), "only 6 of the declared 16 are left"));
    const subbyte::error missing = error_of([&] { out.finish(); });
    REQUIRE(missing.code() == errc::bad_argument);
    REQUIRE(missing.subject() == "a");
    REQUIRE(contains(missing.what(), "10 of the declared 16"));
  }
  REQUIRE(list_directory(scratch.path()) == std::vector<std::string>{"out"});
  REQUIRE(read_file(scratch.file("out")).size() == 6);
  {
    gguf::writer out(scratch.file("out"));
    out.declare<subbyte::f32>("a", dims);
    out.write("a", bytes_of(blocks));
    REQUIRE(code([&] { out.write("a", bytes_of(blocks)); }) == errc::bad_argument);
    out.finish();
    REQUIRE(code([&] { out.finish(); }) == errc::bad_argument);
    REQUIRE(code([&] { out.metadata("late", 1); }) == errc::bad_argument);
    REQUIRE(code([&] { out.write("a", bytes_of(blocks)); }) == errc::bad_argument);
  }
  REQUIRE(gguf::open(scratch.file("out")).tensors().size() == 1);
}

TEST_CASE("gguf_writer: a target that cannot be written is refused at once") {
  const scratch_directory scratch;
  const auto failure = [](const std::string& path) {
    return error_of([&] { gguf::writer out(path); });
  };
  REQUIRE(failure(scratch.path()).code() == errc::io);
  REQUIRE(failure(scratch.file("missing/out")).code() == errc::io);
  REQUIRE(failure("/dev/full").code() == errc::io);
  REQUIRE(list_directory(scratch.path()).empty());
}

TEST_CASE("gguf_writer: a disk that fills up leaves the file before and nothing else") {
  const scratch_directory scratch;
  test_support::write_file(scratch.file("out"), "before");
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  const auto ignored = std::signal(SIGXFSZ, SIG_IGN);
  // Full while the data stream, and full when the last buffer is flushed in finish().
  for (const rlim_t space : {rlim_t{100000}, rlim_t{1 << 20}}) {
    rlimit small = before;
    small.rlim_cur = space;
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    std::optional<subbyte::error> caught;
    {
      const bytes data(1 << 20, 1);
      gguf::writer out(scratch.file("out"));
      const index_t dims[1] = {1 << 20};
      out.declare("w", dims, 24, 1 << 20);
      try {
        for (std::size_t at = 0; at < data.size(); at += 1000) {
          const std::size_t n = data.size() - at < 1000 ? data.size() - at : 1000;
          out.write("w", std::span<const std::uint8_t>(data).subspan(at, n));
        }
        out.finish();
      } catch (const subbyte::error& e) {
        caught = e;
      }
    }
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    REQUIRE(caught);
    REQUIRE(caught->code() == errc::io);
    REQUIRE(caught->subject() == scratch.file("out"));
    REQUIRE(list_directory(scratch.path()) == std::vector<std::string>{"out"});
    REQUIRE(read_file(scratch.file("out")).size() == 6);
  }
  std::signal(SIGXFSZ, ignored);
}

TEST_CASE("gguf_writer: a read-only target is refused, and keeps its bytes") {
  const scratch_directory scratch;
  test_support::write_file(scratch.file("out"), "before");
  REQUIRE(::chmod(scratch.file("out").c_str(), 0444) == 0);
  {
    const test_support::as_ordinary_user user(scratch.path());
    REQUIRE(error_of([&] { gguf::writer out(scratch.file("out")); }).code() == errc::io);
  }
  REQUIRE(list_directory(scratch.path()) == std::vector<std::string>{"out"});
  REQUIRE(read_file(scratch.file("out")).size() == 6);
}

TEST_CASE("gguf_writer: a process killed at any moment leaves the file before or the whole file") {
  const scratch_directory scratch;
  const std::string path = scratch.file("out");
  const auto write_all = [&](std::uint8_t value) {
    const bytes data(1 << 18, value);
    const index_t dims[1] = {1 << 18};
    gguf::writer out(path);
    out.declare("w", dims, 24, 1 << 18);
    for (std::size_t at = 0; at < data.size(); at += 1 << 14) {
      out.write("w", std::span<const std::uint8_t>(data).subspan(at, 1 << 14));
    }
    out.finish();
  };
  timespec begin{}, end{};
  ::clock_gettime(CLOCK_MONOTONIC, &begin);
  write_all(1);
  ::clock_gettime(CLOCK_MONOTONIC, &end);
  const std::int64_t whole =
      (end.tv_sec - begin.tv_sec) * 1000000000 + (end.tv_nsec - begin.tv_nsec);
  int last = 1;
  int kills = 0;
  constexpr int tries = 30;
  for (int i = 0; i < tries; ++i) {
    kills += test_support::killed_after(whole * i / 28,
                                        [&] { write_all(static_cast<std::uint8_t>(2 + i)); });
    const gguf::file file = gguf::open(path);
    const auto stored = file.tensor("w").bytes();
    const int found = stored[0];
    REQUIRE((found == last || found == 2 + i));
    REQUIRE((bytes(stored.begin(), stored.end()) == bytes(1 << 18, stored[0])));
    last = found;
  }
  REQUIRE(kills > 0);
}

}  // namespace io_gguf_writer_test
