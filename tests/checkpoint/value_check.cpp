// SPDX-License-Identifier: Apache-2.0
/// Blocks that no encoder makes are found in every format, by row and block, and only they.
#include "subbyte/checkpoint/value_check.hpp"

#include <cmath>
#include <limits>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/tested_formats.hpp"

using namespace subbyte;
using checkpoint::check_values;
using checkpoint::finding;
using checkpoint::value_check_options;

namespace {

constexpr index_t row_count = 70;  // more than the pieces that rows are divided into

template <class F>
constexpr index_t columns = F::block_size == 1 ? 5 : 2 * F::block_size;

template <class F>
block_matrix<F> usual_weights() {
  const index_t size = row_count * columns<F>;
  return test_support::encoded<F>(
      test_support::normal_vector(static_cast<std::size_t>(size), 1, 11), row_count, columns<F>);
}

template <class F>
std::vector<finding> findings(const block_matrix<F>& w, const value_check_options& options = {}) {
  std::vector<finding> out;
  check_values(w.view(), "w\n", out, options);
  return out;
}

/// All bits set: NaN in every number that a block holds.
template <class F>
F broken_block(const F& block) {
  F broken = block;
  auto* const bytes = reinterpret_cast<std::uint8_t*>(&broken);
  for (std::size_t i = 0; i < sizeof(F); ++i) bytes[i] = 0xFF;
  return broken;
}

}  // namespace

TEST_CASE("value check: usual weights give no finding in any format") {
  for_each_type(test_support::tested_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    INFO(F::name);
    CHECK(findings(usual_weights<F>()).empty());
  });
}

TEST_CASE("value check: a block that is not finite is found in every format by row and block") {
  for_each_type(test_support::tested_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    INFO(F::name);
    block_matrix<F> w = usual_weights<F>();
    const index_t blocks = w.view().blocks_per_row();
    F* const bad = w.row(0) + 37 * blocks + 1;
    *bad = broken_block(*bad);
    const std::vector<finding> found = findings(w);
    REQUIRE(found.size() == 1);
    CHECK(found[0].fault);
    CHECK(found[0].subject == "w\\x0a");
    CHECK(found[0].row == 37);
    CHECK(found[0].block == 1);
    CHECK(found[0].text() == "w\\x0a, row 37, block 1: " + found[0].message);
  });
}

TEST_CASE("value check: the field that is not finite is named") {
  block_matrix<q4_k> k = usual_weights<q4_k>();
  k.row(0)[3].minimum = half::from_bits(0xFC00);
  CHECK(findings(k)[0].message == "the minimum is Inf or NaN");
  k.row(0)[3].scale = half::from_bits(0x7E00);
  CHECK(findings(k)[0].message == "the scale is Inf or NaN");
  block_matrix<nvfp4> n = usual_weights<nvfp4>();
  n.row(0)[1].scales[2] = ue4m3::from_bits(0x7F);
  CHECK(findings(n)[0].message == "one of the scales is Inf or NaN");
  block_matrix<mxfp4> m = usual_weights<mxfp4>();
  m.row(0)[0].scale = e8m0::from_bits(255);
  CHECK(findings(m)[0].message == "the scale is Inf or NaN");
  block_matrix<subbyte::f16> h = usual_weights<subbyte::f16>();
  h.row(0)[0].weight = half::from_bits(0x7C00);
  CHECK(findings(h)[0].message == "the weight is Inf or NaN");
}

TEST_CASE("value check: magnitudes above the limit are found, at the limit they are not") {
  block_matrix<f32> w = usual_weights<f32>();
  w.row(0)[12].weight = -1e6F;
  CHECK(findings(w).empty());
  w.row(0)[12].weight = -std::nextafter(1e6F, 2e6F);
  REQUIRE(findings(w).size() == 1);
  CHECK(findings(w)[0].row == 2);
  CHECK(findings(w)[0].block == 2);
  CHECK(findings(w, {.largest = 2e6F}).empty());
  CHECK(findings(w, {.largest = 3.0F})[0].message.find("the largest of the tensor is 1e+06") !=
        std::string::npos);
}

TEST_CASE("value check: zeros are a note, and nothing at all is none") {
  const std::vector<finding> found = findings(block_matrix<q8_0>(3, 64));
  REQUIRE(found.size() == 1);
  CHECK_FALSE(found[0].fault);
  block_matrix<f32> nan_among_zeros(2, 5);
  nan_among_zeros.row(1)[2].weight = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(findings(nan_among_zeros).size() == 1);
  CHECK(findings(nan_among_zeros)[0].fault);
  CHECK(findings(block_matrix<q8_0>(3, 0)).empty());
  CHECK(findings(block_matrix<q8_0>(0, 64)).empty());
}

TEST_CASE("value check: the padding of a last block is not looked at") {
  block_matrix<q8_0> w(1, 40);
  for (int i = 0; i < 32; ++i) w.row(0)[1].signed_codes[i] = i < 8 ? 1 : 127;
  w.row(0)[1].scale = half::from_bits(0x4000);
  CHECK(findings(w, {.largest = 2.0F}).empty());
  CHECK(findings(w, {.largest = 1.5F}).size() == 1);
}

TEST_CASE("value check: many bad blocks are counted, the first are named, on any executor") {
  block_matrix<q4_0> w = usual_weights<q4_0>();
  for (index_t r = 10; r < 60; ++r) w.row(0)[2 * r].scale = half::from_bits(0x7C00);
  for (const index_t limit : {1, 4, 16, 1000}) {
    const std::vector<finding> found = findings(w, {.findings_per_tensor = limit});
    REQUIRE(found.size() == static_cast<std::size_t>(limit < 16 ? limit : 16));
    for (std::size_t i = 0; i < found.size(); ++i) {
      CHECK(found[i].row == static_cast<index_t>(10 + i));
    }
    CHECK(found.back().message == "the scale is Inf or NaN; 50 such blocks in all");
  }
  thread_pool pool(3);
  std::vector<finding> serially, in_parallel;
  check_values(w.view(), "w", serially);
  check_values(w.view(), "w", in_parallel, {}, pool);
  REQUIRE(serially.size() == in_parallel.size());
  for (std::size_t i = 0; i < serially.size(); ++i) {
    CHECK(serially[i].text() == in_parallel[i].text());
  }
}

TEST_CASE("value check: rows that are read give the same findings as floats") {
  std::vector<float> w(6, 0.0F);
  const auto read = [&](index_t first, index_t count, float* out) {
    for (index_t i = 0; i < count * 3; ++i) out[i] = w[static_cast<std::size_t>(first * 3 + i)];
  };
  std::vector<finding> found;
  check_values(2, 3, read, "w", found);
  REQUIRE(found.size() == 1);
  CHECK_FALSE(found[0].fault);
  found.clear();
  w[4] = std::numeric_limits<float>::quiet_NaN();
  w[5] = 1e7F;
  check_values(2, 3, read, "w", found);
  REQUIRE(found.size() == 2);
  CHECK(found[0].text() == "w, row 1, block 1: the weight is Inf or NaN");
  CHECK(found[1].text() ==
        "w, row 1, block 2: a magnitude above 1e+06, the largest of the tensor is 1e+07");
}
