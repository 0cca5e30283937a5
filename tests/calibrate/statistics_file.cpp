// SPDX-License-Identifier: Apache-2.0
/// Calibration files: what is saved comes back, files merge, and everything malformed is an error
/// of the right kind.
#include "subbyte/calibrate/statistics_file.hpp"

#include <cstring>  // std::memcmp
#include <functional>

#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/random.hpp"

using subbyte::calibration_file;
using subbyte::calibration_input;
using subbyte::errc;
using subbyte::index_t;
using subbyte::input_statistics;
using subbyte::matrix_view;
using subbyte::statistics_collector;
using subbyte::statistics_options;
using test_support::bytes;
using test_support::contains;
using test_support::error_of;
using test_support::read_file;
using test_support::scratch_directory;

namespace {

constexpr index_t stream_tokens = 60;

// Tokens [first, first + count) of the stream that enters input `seed`.
input_statistics collect(index_t cols, std::uint64_t seed, statistics_options options = {},
                         index_t first = 0, index_t count = stream_tokens) {
  const std::vector<float> x =
      test_support::normal_vector(static_cast<std::size_t>(stream_tokens * cols), 1, seed);
  options.first_token = first;
  statistics_collector collector(cols, options);
  collector.add(matrix_view<const float>(x.data() + first * cols, count, cols));
  return std::move(collector).finish();
}

template <class Tensor>
bool same_bits(const Tensor& a, const Tensor& b) {
  return a.size() == b.size() &&
         (a.size() == 0 ||
          std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(*a.data())) ==
              0);
}

bool same_statistics(const input_statistics& a, const input_statistics& b) {
  return a.tokens() == b.tokens() && same_bits(a.parts().sum_magnitude, b.parts().sum_magnitude) &&
         same_bits(a.parts().sum_square, b.parts().sum_square) &&
         same_bits(a.parts().max_magnitude, b.parts().max_magnitude) &&
         same_bits(a.parts().hessian, b.parts().hessian) &&
         same_bits(a.parts().sample, b.parts().sample) &&
         same_bits(a.parts().order, b.parts().order);
}

struct saved_set {
  std::vector<calibration_input> inputs;
  std::vector<input_statistics> statistics;

  void add(const char* name, std::vector<std::string> weights, input_statistics s) {
    inputs.push_back(subbyte::describe_input(name, std::move(weights), s));
    statistics.push_back(std::move(s));
  }
  void save(const std::string& path) const {
    const std::pair<std::string, std::string> notes[] = {{"text", "two chapters"}};
    subbyte::save_calibration<subbyte::arch::native>(path, inputs, statistics, notes);
  }
};

statistics_options with_sample(index_t rows) {
  statistics_options options;
  options.sample_rows = rows;
  return options;
}

saved_set make_set(index_t first = 0, index_t count = stream_tokens) {
  saved_set set;
  set.add("attention", {"q", "k", "v"}, collect(7, 1, with_sample(5), first, count));
  statistics_options sums_only;
  sums_only.hessian = false;
  set.add("down", {"down"}, collect(12, 2, sums_only, first, count));
  set.add("unread", {}, collect(3, 3, {}, first, count));
  return set;
}

// The file of make_set() with one piece of its header replaced by another of the same length.
bytes replaced(const std::string& from, const std::string& to) {
  REQUIRE(from.size() == to.size());
  const scratch_directory scratch;
  make_set().save(scratch.file("c"));
  bytes content = read_file(scratch.file("c"));
  const auto at = std::search(content.begin(), content.end(), from.begin(), from.end());
  REQUIRE(at != content.end());
  std::copy(to.begin(), to.end(), at);
  return content;
}

errc open_code(const bytes& content) {
  return error_of([&] { calibration_file(content, "damaged"); }).code();
}

// A file written tensor by tensor, which need not make sense.
struct loose_file {
  std::vector<std::pair<std::string, std::string>> pairs = {
      {"subbyte.calibration", "1"}, {"tokens:a", "4"}, {"weights:a", "w"}};
  std::vector<double> magnitude = {1, 2}, square = {3, 4}, hessian = {3, 0, 4};
  std::vector<float> largest = {1, 2};

  [[nodiscard]] bytes content() const {
    const scratch_directory scratch;
    subbyte::safetensors::writer out(scratch.file("f"));
    for (const auto& [key, value] : pairs) out.metadata(key, value);
    out.tensor("a.sum_magnitude", subbyte::vector_view<const double>(magnitude));
    out.tensor("a.sum_square", subbyte::vector_view<const double>(square));
    out.tensor("a.hessian", subbyte::vector_view<const double>(hessian));
    out.tensor("a.max_magnitude", subbyte::vector_view<const float>(largest));
    out.finish();
    return read_file(scratch.file("f"));
  }
  [[nodiscard]] errc code(const std::function<void(loose_file&)>& damage) const {
    loose_file file = *this;
    damage(file);
    const bytes made = file.content();
    const subbyte::error problem = error_of([&] { (void)calibration_file(made, "loose").load(0); });
    CHECK(problem.subject() == "loose");
    return problem.code();
  }
};

}  // namespace

TEST_CASE("statistics_file: what was saved comes back bit by bit") {
  const scratch_directory scratch;
  const saved_set set = make_set();
  set.save(scratch.file("c"));
  CHECK(test_support::list_directory(scratch.path()) == std::vector<std::string>{"c"});
  const calibration_file file(scratch.file("c"));
  REQUIRE(file.inputs().size() == 3);
  for (std::size_t i = 0; i < 3; ++i) {
    CHECK(file.inputs()[i] == set.inputs[i]);
    CHECK(same_statistics(file.load(static_cast<index_t>(i)), set.statistics[i]));
  }
  CHECK(file.find_weight("k") == 0);
  CHECK(file.find_weight("down") == 1);
  CHECK(file.find_weight("attention") == -1);
  CHECK(file.find_input("unread") == 2);
  CHECK(file.find_input("q") == -1);
  CHECK(file.note("text") == "two chapters");
  CHECK(file.note("author").empty());
  // Half of X^T X: 7 * 8 / 2 doubles and not 49.
  CHECK(subbyte::safetensors::open(scratch.file("c")).tensor("attention.hessian").size() == 28);
}

TEST_CASE("statistics_file: without tokens, without channels, and without inputs") {
  const scratch_directory scratch;
  saved_set set;
  set.add("starved", {"expert.7"}, collect(4, 1, with_sample(2), 0, 0));
  set.add("empty", {"nothing"}, collect(0, 1));
  set.save(scratch.file("c"));
  const calibration_file file(scratch.file("c"));
  CHECK(file.load(0).tokens() == 0);
  CHECK(file.load(0).coverage() == 0);
  CHECK(file.load(1).cols() == 0);
  saved_set().save(scratch.file("none"));
  CHECK(calibration_file(scratch.file("none")).inputs().empty());
}

TEST_CASE("statistics_file: files of parts merge into the statistics of the whole") {
  const scratch_directory scratch;
  make_set(0, 20).save(scratch.file("a"));
  make_set(20, 40).save(scratch.file("b"));
  saved_set more;
  more.add("another", {"output"}, collect(2, 9));
  more.save(scratch.file("m"));
  const std::string paths[] = {scratch.file("a"), scratch.file("b"), scratch.file("m")};
  subbyte::merge_calibration_files<>(paths, scratch.file("all"));

  const calibration_file file(scratch.file("all"));
  REQUIRE(file.inputs().size() == 4);
  CHECK(same_statistics(file.load(3), more.statistics[0]));
  saved_set expected = make_set(0, 20);
  const saved_set rest = make_set(20, 40);
  for (std::size_t i = 0; i < 3; ++i) {
    expected.statistics[i].merge(rest.statistics[i]);
    const input_statistics merged = file.load(static_cast<index_t>(i));
    CHECK(merged.tokens() == stream_tokens);
    CHECK(same_statistics(merged, expected.statistics[i]));
  }
  CHECK(same_bits(file.load(0).parts().sample, make_set().statistics[0].parts().sample));
}

TEST_CASE("statistics_file: files that do not match do not merge") {
  const scratch_directory scratch;
  make_set().save(scratch.file("a"));
  const auto merge_code = [&](input_statistics s, std::vector<std::string> weights) {
    saved_set other;
    other.add("attention", std::move(weights), std::move(s));
    other.save(scratch.file("b"));
    const std::string paths[] = {scratch.file("a"), scratch.file("b")};
    const subbyte::error problem =
        error_of([&] { subbyte::merge_calibration_files<>(paths, scratch.file("all")); });
    CHECK(problem.subject() == scratch.file("b"));
    return problem.code();
  };
  statistics_options sums_only;
  sums_only.hessian = false;
  CHECK(merge_code(collect(6, 1), {"q", "k", "v"}) == errc::bad_shape);
  CHECK(merge_code(collect(7, 1, sums_only), {"q", "k", "v"}) == errc::bad_shape);
  CHECK(merge_code(collect(7, 1), {"q", "k"}) == errc::bad_metadata);
  CHECK_FALSE(test_support::exists(scratch.file("all")));
}

TEST_CASE("statistics_file: names and lists that no file can hold are refused") {
  const scratch_directory scratch;
  const auto save_code = [&](std::vector<std::string> first, std::vector<std::string> second) {
    saved_set set;
    set.add("a", std::move(first), collect(2, 1));
    set.add("b", std::move(second), collect(2, 1));
    return error_of([&] { set.save(scratch.file("c")); }).code();
  };
  CHECK(save_code({"w", "w"}, {}) == errc::bad_metadata);
  CHECK(save_code({"w"}, {"w"}) == errc::bad_metadata);
  CHECK(save_code({"w\nx"}, {}) == errc::bad_metadata);
  CHECK(save_code({""}, {}) == errc::bad_metadata);
  saved_set twice;
  twice.add("a", {}, collect(2, 1));
  twice.add("a", {}, collect(2, 1));
  CHECK(error_of([&] { twice.save(scratch.file("c")); }).code() == errc::bad_metadata);

  saved_set lied = make_set();
  lied.inputs[1].tokens += 1;
  CHECK(error_of([&] { lied.save(scratch.file("c")); }).code() == errc::bad_argument);
  lied = make_set();
  lied.inputs.pop_back();
  CHECK(error_of([&] { lied.save(scratch.file("c")); }).code() == errc::bad_argument);
  CHECK(test_support::list_directory(scratch.path()).empty());
}

TEST_CASE("statistics_file: every cut of a file is an error") {
  const scratch_directory scratch;
  make_set().save(scratch.file("c"));
  const bytes whole = read_file(scratch.file("c"));
  for (std::size_t size = 0; size < whole.size(); ++size) {
    const bytes cut(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(size));
    const errc code = open_code(cut);
    if (code != errc::truncated && code != errc::bad_metadata && code != errc::bad_magic) {
      CAPTURE(size);
      FAIL("an unexpected kind of error");
    }
  }
}

TEST_CASE("statistics_file: headers that contradict themselves are refused") {
  CHECK(open_code(replaced("\"subbyte.calibration\":\"1\"", "\"subbyte.calibration\":\"2\"")) ==
        errc::unsupported_format);
  CHECK(open_code(replaced("subbyte.calibration", "subbyte.collaborate")) == errc::bad_magic);
  CHECK(open_code(replaced("\"tokens:down\":\"60\"", "\"tokens:down\":\"-6\"")) ==
        errc::bad_metadata);
  CHECK(open_code(replaced("\"tokens:down\":\"60\"", "\"tokens:down\":\"6x\"")) ==
        errc::bad_metadata);
  CHECK(open_code(replaced("\"tokens:down\":\"60\"", "\"tokens:down\":\"  \"")) ==
        errc::bad_metadata);
  CHECK(open_code(replaced("weights:down", "weights:dawn")) == errc::bad_metadata);
  CHECK(open_code(replaced("\"weights:down\":\"down\"", "\"weights:down\":\"q\\nq\"")) ==
        errc::bad_metadata);  // a weight that reads two inputs
  CHECK(open_code(replaced("tokens:down", "tokens:dawn")) == errc::not_found);
  CHECK(open_code(replaced("down.sum_square", "down.sum_sqUare")) == errc::not_found);
  CHECK(open_code(replaced("attention.order", "attention.ordre")) == errc::not_found);
  CHECK(open_code(replaced("unread.hessian", "unread.hessien")) == errc::bad_metadata);
  CHECK(open_code(replaced("\"down.sum_square\":{\"dtype\":\"F64\"",
                           "\"down.sum_square\":{\"dtype\":\"U64\"")) == errc::bad_metadata);
  CHECK(open_code(replaced("\"down.sum_square\":{\"dtype\":\"F64\",\"shape\":[12]",
                           "\"down.sum_square\":{\"dtype\":\"F32\",\"shape\":[24]")) ==
        errc::bad_shape);
  CHECK(open_code(replaced("\"attention.sample\":{\"dtype\":\"F32\",\"shape\":[5,7]",
                           "\"attention.sample\":{\"dtype\":\"F32\",\"shape\":[7,5]")) ==
        errc::bad_shape);
  CHECK(calibration_file(replaced("two chapters", "six chapters"), "same").note("text") ==
        "six chapters");
}

TEST_CASE("statistics_file: values that no statistics have are refused") {
  const loose_file good;
  const bytes made = good.content();
  CHECK(calibration_file(made, "good").load(0).hessian()(1, 1) == 4);
  constexpr double nan = std::numeric_limits<double>::quiet_NaN();
  CHECK(good.code([&](auto& f) { f.square[1] = nan; }) == errc::non_finite);
  CHECK(good.code([&](auto& f) { f.hessian[1] = nan; }) == errc::non_finite);
  CHECK(good.code([&](auto& f) { f.largest[0] = static_cast<float>(nan); }) == errc::non_finite);
  CHECK(good.code([&](auto& f) { f.magnitude[0] = -1; }) == errc::bad_argument);
  CHECK(good.code([&](auto& f) { f.hessian[2] = -1; }) == errc::bad_argument);
  CHECK(good.code([&](auto& f) { f.hessian.push_back(0); }) == errc::bad_shape);
  CHECK(good.code([&](auto& f) { f.largest.pop_back(); }) == errc::bad_shape);
  CHECK(good.code([&](auto& f) { f.pairs.emplace_back("tokens:b", "1"); }) == errc::not_found);
  CHECK(good.code([&](auto& f) { f.pairs.pop_back(); }) == errc::bad_metadata);
  CHECK(good.code([&](auto& f) { f.pairs[1].second = "99999999999999999999"; }) ==
        errc::bad_metadata);
}
