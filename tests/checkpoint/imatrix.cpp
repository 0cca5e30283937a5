// SPDX-License-Identifier: Apache-2.0
/// Importance matrices: both file forms byte by byte, sums of several, experts that saw nothing.
#include "subbyte/checkpoint/imatrix.hpp"

#include <limits>

#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/files.hpp"

namespace checkpoint = subbyte::checkpoint;
using checkpoint::imatrix;
using checkpoint::imatrix_entry;
using subbyte::errc;
using subbyte::index_t;
using test_support::byte_string;
using test_support::error_of;
using test_support::read_file;
using test_support::scratch_directory;

namespace {

void add(imatrix& to, const char* name, const std::vector<double>& sums,
         const std::vector<double>& counts) {
  checkpoint::add_to_imatrix<>(to, name, sums, counts);
}

std::vector<float> means(const imatrix& data, const char* name, index_t cols,
                         index_t matrices = 1) {
  const auto t = checkpoint::importance_of<>(*data.find(name), name, cols, matrices);
  return {t.data(), t.data() + t.size()};
}

// A dense weight, a stack of three experts of which one saw nothing, and a weight without data.
imatrix three_entries() {
  imatrix data;
  data.datasets = {"first", "second"};
  data.chunks = 5;
  data.chunk_size = 10;
  add(data, "blk.0.ffn_up.weight", {50, 100, 0}, {50});
  add(data, "blk.0.ffn_up_exps.weight", {8, 4, 0, 0, 33, 66}, {4, 0, 33});
  add(data, "blk.0.idle.weight", {0, 0}, {0});
  return data;
}

}  // namespace

TEST_CASE("imatrix: the legacy form is the documented bytes") {
  const scratch_directory folder;
  const std::string path = folder.file("i.dat");
  checkpoint::write_legacy_imatrix<>(path, three_entries());
  // Calls are chunks, rounded up; values are means times calls; a starved expert has ones; what saw
  // nothing at all is missing.
  byte_string b;
  b.u32(2);
  b.u32(19).raw("blk.0.ffn_up.weight").u32(5).u32(3);
  for (const float v : {5.F, 10.F, 0.F}) b.number(v);
  b.u32(24).raw("blk.0.ffn_up_exps.weight").u32(4).u32(6);
  for (const float v : {8.F, 4.F, 4.F, 4.F, 4.F, 8.F}) b.number(v);
  b.u32(5).u32(6).raw("second");
  CHECK(read_file(path) == b.content);
}

TEST_CASE("imatrix: the legacy form reads back as the same means") {
  const scratch_directory folder;
  const std::string path = folder.file("i.dat");
  checkpoint::write_legacy_imatrix<>(path, three_entries());
  const imatrix data = checkpoint::open_imatrix<>(path, {.legacy_chunk_size = 10});
  CHECK(data.entries.size() == 2);
  CHECK(data.datasets == std::vector<std::string>{"second"});
  CHECK(data.chunks == 5);
  CHECK(data.chunk_size == 10);
  CHECK(data.find("blk.0.ffn_up.weight")->counts == std::vector<double>{50});
  CHECK(means(data, "blk.0.ffn_up.weight", 3) == std::vector<float>{1, 2, 0});
  CHECK(means(data, "blk.0.ffn_up_exps.weight", 2, 3) == std::vector<float>{2, 1, 1, 1, 1, 2});
  CHECK(data.find("blk.0.ffn_up_exps.weight")->starved() == 0);  // it no longer says
  CHECK(data.find("blk.0.idle.weight") == nullptr);
}

TEST_CASE("imatrix: a legacy file without calls holds means, and old ones end early") {
  byte_string b;
  b.u32(1).u32(1).raw("w").u32(0).u32(2).number(3.F).number(0.25F);
  const imatrix data = checkpoint::parse_imatrix<>(b.content, "old");
  CHECK(means(data, "w", 2) == std::vector<float>{3, 0.25F});
  CHECK(data.chunks == 0);
  CHECK(data.datasets.empty());
  CHECK(error_of([&] {
          static_cast<void>(
              checkpoint::parse_imatrix<>(b.content, "old", {.legacy_chunk_size = 0}));
        }).code() == errc::bad_argument);
}

TEST_CASE("imatrix: the GGUF form has llama.cpp's keys, names and shapes, and reads back") {
  const scratch_directory folder;
  const std::string path = folder.file("i.gguf");
  const imatrix data = three_entries();
  checkpoint::write_imatrix<>(path, data);
  const subbyte::gguf::file file = subbyte::gguf::open(path);
  CHECK(file.get<std::string_view>("general.type") == "imatrix");
  const auto texts = file.get<subbyte::gguf::array_view<std::string_view>>("imatrix.datasets");
  CHECK(std::vector<std::string>(texts.begin(), texts.end()) == data.datasets);
  CHECK(file.find("imatrix.chunk_count")->type() == subbyte::gguf::value_type::u32);
  CHECK(file.get<index_t>("imatrix.chunk_count") == 5);
  CHECK(file.get<index_t>("imatrix.chunk_size") == 10);
  CHECK(file.tensors().size() == 6);
  const auto dims = [&](const char* name) {
    const auto found = file.tensor(name).dims();
    return std::vector<index_t>(found.begin(), found.end());
  };
  CHECK(dims("blk.0.ffn_up.weight.in_sum2") == std::vector<index_t>{3});
  CHECK(dims("blk.0.ffn_up.weight.counts") == std::vector<index_t>{1});
  CHECK(dims("blk.0.ffn_up_exps.weight.in_sum2") == std::vector<index_t>{2, 3});
  CHECK(dims("blk.0.ffn_up_exps.weight.counts") == std::vector<index_t>{1, 3});

  const imatrix read = checkpoint::open_imatrix<>(path);
  CHECK(read.datasets == data.datasets);
  CHECK(read.chunks == data.chunks);
  CHECK(read.chunk_size == data.chunk_size);
  CHECK(read.entries.size() == 3);
  for (const auto& [name, e] : data.entries) {
    CHECK(read.find(name)->sum_square == e.sum_square);
    CHECK(read.find(name)->counts == e.counts);
  }
}

TEST_CASE("imatrix: a matrix that saw no row weights its columns alike") {
  const imatrix data = three_entries();
  CHECK(data.find("blk.0.ffn_up_exps.weight")->starved() == 1);
  CHECK(means(data, "blk.0.ffn_up_exps.weight", 2, 3) == std::vector<float>{2, 1, 1, 1, 1, 2});
  CHECK(means(data, "blk.0.idle.weight", 2) == std::vector<float>{1, 1});
  CHECK(means(data, "blk.0.ffn_up.weight", 3) == std::vector<float>{1, 2, 0});
  const auto refused = [&](const char* name, index_t cols, index_t matrices) {
    return error_of([&] {
             static_cast<void>(checkpoint::importance_of<>(*data.find(name), name, cols, matrices));
           }).code() == errc::bad_shape;
  };
  CHECK(refused("blk.0.ffn_up.weight", 4, 1));
  CHECK(refused("blk.0.ffn_up_exps.weight", 3, 2));
  CHECK(refused("blk.0.ffn_up_exps.weight", 6, 1));
}

TEST_CASE("imatrix: a mean beyond the range of float is refused, whatever its parts are") {
  imatrix data;
  add(data, "blk.0.ffn_up.weight", {1, 0x1p127}, {0.25});
  const auto refused = error_of([&] { means(data, "blk.0.ffn_up.weight", 2); });
  CHECK(refused.code() == errc::non_finite);
  CHECK(std::string(refused.what()).find("channel 1") != std::string::npos);
}

TEST_CASE("imatrix: pieces of text that hostile files claim add up without overflow") {
  imatrix whole, part;
  whole.chunk_size = 1;
  part.chunks = part.chunk_size = 0xFFFFFFFF;
  for (int i = 0; i < 3; ++i) checkpoint::merge_imatrix<>(whole, part);
  CHECK(whole.chunks == index_t{1} << 62);
}

TEST_CASE("imatrix: sums of parts are the sums of the whole") {
  imatrix whole = three_entries();
  imatrix part;
  part.datasets = {"third"};
  part.chunks = 4;
  part.chunk_size = 5;
  add(part, "blk.0.ffn_up_exps.weight", {1, 1, 6, 3, 0, 0}, {1, 3, 0});
  add(part, "blk.1.ffn_up.weight", {7}, {7});
  checkpoint::merge_imatrix<>(whole, part);
  CHECK(whole.entries.size() == 4);
  CHECK(whole.find("blk.0.ffn_up_exps.weight")->sum_square ==
        std::vector<double>{9, 5, 6, 3, 33, 66});
  CHECK(whole.find("blk.0.ffn_up_exps.weight")->counts == std::vector<double>{5, 3, 33});
  CHECK(whole.find("blk.0.ffn_up_exps.weight")->starved() == 0);
  CHECK(whole.find("blk.1.ffn_up.weight")->counts == std::vector<double>{7});
  CHECK(whole.datasets == std::vector<std::string>{"first", "second", "third"});
  CHECK(whole.chunks == 7);  // of 10 tokens

  // A legacy file has one count for all experts.
  imatrix legacy;
  add(legacy, "blk.0.ffn_up_exps.weight", {1, 1, 1, 1, 1, 1}, {2});
  checkpoint::merge_imatrix<>(whole, legacy);
  CHECK(whole.find("blk.0.ffn_up_exps.weight")->counts == std::vector<double>{7, 5, 35});
  checkpoint::merge_imatrix<>(legacy, part);
  CHECK(legacy.find("blk.0.ffn_up_exps.weight")->counts == std::vector<double>{3, 5, 2});

  const auto refused = [&](const std::vector<double>& sums, const std::vector<double>& counts) {
    return error_of([&] { add(whole, "blk.0.ffn_up_exps.weight", sums, counts); }).code();
  };
  CHECK(refused({1, 2, 3}, {1}) == errc::bad_shape);
  CHECK(refused({1, 2, 3, 4, 5, 6}, {1, 2}) == errc::bad_shape);
}

TEST_CASE("imatrix: what is no sum of squares is refused") {
  imatrix data;
  const auto code = [&](const char* name, const std::vector<double>& sums,
                        const std::vector<double>& counts) {
    return error_of([&] { add(data, name, sums, counts); }).code();
  };
  const double inf = std::numeric_limits<double>::infinity();
  CHECK(code("", {1}, {1}) == errc::bad_argument);
  CHECK(code("w", {}, {1}) == errc::bad_shape);
  CHECK(code("w", {1}, {}) == errc::bad_shape);
  CHECK(code("w", {1, 2, 3}, {1, 2}) == errc::bad_shape);
  CHECK(code("w", {-1}, {1}) == errc::bad_argument);
  CHECK(code("w", {1}, {-1}) == errc::bad_argument);
  CHECK(code("w", {inf}, {1}) == errc::non_finite);
  CHECK(code("w", {1}, {-inf}) == errc::non_finite);
  CHECK(data.entries.empty());
}

TEST_CASE("imatrix: what a file form cannot hold is not written, and nothing is left behind") {
  const scratch_directory folder;
  const std::string path = folder.file("i");
  const auto code = [&](const imatrix& data, bool legacy) {
    return error_of([&] {
             if (legacy) {
               checkpoint::write_legacy_imatrix<>(path, data);
             } else {
               checkpoint::write_imatrix<>(path, data);
             }
           })
        .code();
  };
  imatrix data;
  CHECK(code(data, true) == errc::bad_argument);
  add(data, "w", {0}, {0});
  CHECK(code(data, true) == errc::bad_argument);  // nothing was seen
  data.entries["w"] = {{1e300}, {1}};
  CHECK(code(data, true) == errc::non_finite);
  CHECK(code(data, false) == errc::non_finite);
  data.entries["w"] = {{1}, {1e30}};
  CHECK(code(data, true) == errc::bad_argument);  // too many calls
  data.entries["w"] = {{1}, {1}};
  data.chunks = index_t{1} << 31;
  CHECK(code(data, true) == errc::bad_argument);
  CHECK(code(data, false) == errc::bad_argument);
  data.chunks = 1;
  data.entries[std::string(56, 'n')] = {{1}, {1}};
  CHECK(code(data, false) == errc::bad_metadata);
  CHECK(test_support::list_directory(folder.path()).empty());
}
