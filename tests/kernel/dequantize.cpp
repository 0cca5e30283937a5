// SPDX-License-Identifier: Apache-2.0
#include "subbyte/kernel/dequantize.hpp"

#include <algorithm>
#include <cmath>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/tested_formats.hpp"

using namespace subbyte;

TEST_CASE("dequantize: every format equals its block decode, as float, half and bfloat16") {
  for_each_type(test_support::tested_formats{}, []<class F>(std::type_identity<F>) {
    const index_t rows = 19;
    const index_t cols = 300;
    const auto w =
        test_support::encoded<F>(test_support::normal_vector(19 * 300, 0.02, 11), rows, cols);
    const auto expected = test_support::decoded(w.view());
    INFO(F::name);
    std::vector<float> out(19 * 300, NAN);
    dequantize(w.view(), {out.data(), rows, cols});
    REQUIRE(out == expected);
    std::vector<half> halves(19 * 300);
    std::vector<bfloat16> brains(19 * 300);
    thread_pool pool(3);
    dequantize<half>(w.view(), {halves.data(), rows, cols}, pool);
    dequantize<bfloat16>(w.view(), {brains.data(), rows, cols}, pool);
    for (std::size_t i = 0; i < expected.size(); ++i) {
      REQUIRE(halves[i] == half::nearest(expected[i]));
      REQUIRE(brains[i] == bfloat16::nearest(expected[i]));
    }
  });
}

TEST_CASE("dequantize: rows at a pitch are left alone between the columns") {
  const auto w = test_support::encoded<q4_1>(test_support::normal_vector(2 * 40, 1.0, 12), 2, 40);
  const auto expected = test_support::decoded(w.view());
  std::vector<float> out(2 * 50, -1.0F);
  dequantize(w.view(), tensor_view<float, 2, row_pitched>(out.data(), {2, 40}, {50}));
  for (std::size_t i = 0; i < out.size(); ++i) {
    REQUIRE(out[i] == (i % 50 < 40 ? expected[i / 50 * 40 + i % 50] : -1.0F));
  }
}

TEST_CASE("dequantize: output beyond the caches, at every alignment, from odd rows") {
  // Just above the size from which on stores bypass the caches; rows end in a cut block.
  const index_t rows = 5;
  const index_t cols = (detail::streamed_output_bytes / (4 * rows) / 32 + 2) * 32 - 7;
  const auto source = test_support::normal_vector(static_cast<std::size_t>(cols), 0.02, 14);
  std::vector<float> weights;
  for (index_t r = 0; r < rows; ++r) weights.insert(weights.end(), source.begin(), source.end());
  const auto w = test_support::encoded<q8_0>(weights, rows, cols);
  const auto expected = test_support::decoded(w.view());
  REQUIRE(static_cast<index_t>(expected.size()) * 4 >= detail::streamed_output_bytes);
  thread_pool pool(2);
  for (const std::size_t offset : {0U, 1U, 4U, 15U}) {
    std::vector<float> out(expected.size() + 16, NAN);
    dequantize(w.view(), {out.data() + offset, rows, cols}, pool);
    REQUIRE(std::equal(expected.begin(), expected.end(), out.begin() + std::ptrdiff_t(offset)));
    for (std::size_t i = 0; i < 16; ++i) {
      REQUIRE(std::isnan(out[i < offset ? i : i + expected.size()]));
    }
  }
}

TEST_CASE("get_rows: any rows in any order, repeated ones too") {
  const auto w =
      test_support::encoded<q6_k>(test_support::normal_vector(40 * 256, 1.0, 13), 40, 256);
  const auto all = test_support::decoded(w.view());
  const std::vector<index_t> indices{39, 0, 7, 7, 12, 0, 39, 1, 2, 3, 4, 5, 6, 8, 9, 10, 11, 20};
  std::vector<float> out(indices.size() * 256, NAN);
  thread_pool pool(2);
  get_rows(w.view(), indices, {out.data(), indices.size(), 256}, pool);
  for (std::size_t i = 0; i < out.size(); ++i) {
    REQUIRE(out[i] == all[static_cast<std::size_t>(indices[i / 256]) * 256 + i % 256]);
  }
  std::vector<half> halves(256);
  get_rows<half>(w.view(), std::vector<index_t>{5}, {halves.data(), 1, 256});
  for (std::size_t i = 0; i < 256; ++i) REQUIRE(halves[i] == half::nearest(all[5 * 256 + i]));
}
