// SPDX-License-Identifier: Apache-2.0
/// The GPU benchmarks' medians, budget, arguments and result files.
#include "harness.hpp"

#include <cmath>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>

#include "support/catch.hpp"

namespace {

bench::options parsed(std::vector<std::string> arguments) {
  arguments.insert(arguments.begin(), "program");
  std::vector<char*> pointers;
  for (auto& a : arguments) pointers.push_back(a.data());
  return bench::parse_options(static_cast<int>(pointers.size()), pointers.data(), 40);
}

}  // namespace

TEST_CASE("Medians are the middle, of an even count the mean of the two in it") {
  CHECK(bench::median({3, 1, 2}) == 2);
  CHECK(bench::median({4, 1, 2, 3}) == 2.5);
  CHECK(bench::median({7}) == 7);
  CHECK(std::isnan(bench::median({})));
}

TEST_CASE("A summary tells how far the even repetitions lie from the odd ones") {
  const bench::summary s = bench::summarize({10, 12, 10, 12, 10});
  CHECK(s.median == 10);
  CHECK(s.fastest == 10);
  CHECK(s.spread == Approx(0.2));
  CHECK(s.repetitions == 5);
  CHECK(std::isnan(bench::summarize({5}).spread));
  CHECK(std::isnan(bench::summarize({}).median));
}

TEST_CASE("A replay touches every copy and lasts as long as wanted") {
  CHECK(bench::calls_of_a_replay(10, 3, 1500, 500) == 150);
  CHECK(bench::calls_of_a_replay(1000, 3, 1500, 500) == 3);   // every copy
  CHECK(bench::calls_of_a_replay(0.1, 3, 1500, 500) == 500);  // not more than wanted
  CHECK(bench::calls_of_a_replay(0.1, 900, 1500, 500) == 900);
  CHECK(bench::calls_of_a_replay(0, 1, 1500, 500) == 500);  // too short to be measured
}

TEST_CASE("Copies fill what no cache holds, two at least") {
  CHECK(bench::cold_copies(100, 256) == 3);
  CHECK(bench::cold_copies(64, 256) == 4);
  CHECK(bench::cold_copies(1000, 256) == 2);
}

TEST_CASE("A budget passes") {
  CHECK(bench::deadline(-1).passed());
  const bench::deadline hour(3600);
  CHECK_FALSE(hour.passed());
  CHECK(hour.left() > 3500);
}

TEST_CASE("Arguments are read, wrong ones named") {
  const bench::options o = parsed({"--seconds", "2.5", "--out", "x.json", "--commit", "abc"});
  CHECK(o.seconds == 2.5);
  CHECK(o.out == "x.json");
  CHECK(o.commit == "abc");
  CHECK(parsed({"--out", "x"}).seconds == 40);
  for (const auto& wrong : {std::vector<std::string>{},
                            {"--out"},
                            {"--out", "x", "--seconds", "0"},
                            {"--out", "x", "--seconds", "1s"},
                            {"--out", "x", "--seconds", "many"},
                            {"x.json"}}) {
    CHECK_THROWS_AS(parsed(wrong), std::invalid_argument);
  }
}

TEST_CASE("Results are whole JSON files with every field, NaN as null") {
  const auto folder = std::filesystem::temp_directory_path() / "subbyte_bench_harness";
  std::filesystem::create_directories(folder);
  const std::string path = (folder / "results.json").string();
  bench::results r;
  r.machine = {{"device", std::string("a \"quoted\" name")}, {"l2_bytes", 50}};
  r.section("reads").push_back({{"us", 1.5}, {"whole", true}, {"spread", std::nan("")}});
  r.section("reads").push_back({{"us", 2.5}});
  r.section("empty");
  r.skipped = {"gemv"};
  write_json(r, path);
  CHECK_FALSE(std::filesystem::exists(path + ".unfinished"));

  const auto file = nlohmann::json::parse(std::ifstream(path));
  CHECK(file["machine"]["device"] == "a \"quoted\" name");
  CHECK(file["machine"]["l2_bytes"] == 50);
  REQUIRE(file["reads"].size() == 2);
  CHECK(file["reads"][0]["us"] == 1.5);
  CHECK(file["reads"][0]["whole"] == true);
  CHECK(file["reads"][0]["spread"].is_null());
  CHECK(file["empty"].empty());
  CHECK(file["skipped"][0] == "gemv");
  std::filesystem::remove_all(folder);

  CHECK_THROWS_AS(write_json(r, path), std::runtime_error);  // no such folder
}

TEST_CASE("Tables have a line per record and a dash where one lacks a column") {
  CHECK(bench::table({{{"name", std::string("long name")}, {"us", 1.5}}, {{"us", 1234567.0}}},
                     {"name", "us"}) ==
        "name       us\n"
        "long name  1.5\n"
        "-          1.235e+06\n");
}
