// SPDX-License-Identifier: Apache-2.0
#include "subbyte/layout/marlin.hpp"

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/packed.hpp"
#if defined(__cpp_exceptions)
#include "subbyte/layout/awq_int32.hpp"
#include "subbyte/num/half.hpp"
#include "support/golden_python.hpp"
#endif

namespace {

using subbyte::index_t;
using test_support::packed;
using test_support::packed_words;
using bytes = std::vector<std::uint8_t>;

}  // namespace

TEST_CASE("marlin: the first word of the published tile") {
  bytes codes;
  for (int n = 0; n < 64; ++n) {
    for (int k = 0; k < 16; ++k) codes.push_back(static_cast<std::uint8_t>((k + 3 * n) % 16));
  }
  CHECK(packed_words<subbyte::marlin<4>>(codes, 64)[0] == 0x19910880U);
}

TEST_CASE("marlin: words of 8 bits hold four columns of one row") {
  bytes codes;
  for (int n = 0; n < 64; ++n) {
    for (int k = 0; k < 16; ++k) codes.push_back(static_cast<std::uint8_t>(16 * (n % 16) + k));
  }
  const auto words = packed_words<subbyte::marlin<8>>(codes, 64);
  // Lane 0: rows 0 and 8, columns 0, 8, 1, 9; lane 5: rows 1 and 9, columns 2, 10, 3, 11.
  CHECK(words[0] == 0x09010800U);
  CHECK(words[1] == 0x89818880U);
  CHECK(words[5 * 8 + 2 * 3] == 0x1B131A12U);
  CHECK(words[5 * 8 + 2 * 3 + 1] == 0x9B939A92U);
}

TEST_CASE("marlin: tiles of one line of k lie side by side along n") {
  using layout = subbyte::marlin<4>;
  static_assert(layout::bit_offset({192, 32}, 64, 0, 0) == 128 * 32);
  static_assert(layout::bit_offset({192, 32}, 0, 16, 0) == 3 * 128 * 32);
  static_assert(subbyte::marlin<8>::bit_offset({192, 32}, 128, 16, 0) == 5 * 256 * 32);
  CHECK_FALSE(layout::accepts({32, 16}));
  CHECK_FALSE(layout::accepts({64, 8}));
}

TEST_CASE("marlin: the slot of a scale is where its column is taken from") {
  for (const bool one_group : {false, true}) {
    for (index_t i = 0; i < 192; ++i) {
      CHECK(subbyte::marlin_scale_slot(subbyte::marlin_scale_source(i, one_group), one_group) == i);
    }
  }
  static_assert(subbyte::marlin_scale_source(64 + 1, false) == 64 + 8);
  static_assert(subbyte::marlin_scale_source(32 + 2, true) == 32 + 8);
}

#if defined(__cpp_exceptions)
TEST_CASE("marlin: the permutation tables of the original kernel") {
  const auto file = test_support::golden_file("marlin/perms.safetensors");
  const auto weights = test_support::golden_values<std::int32_t>(file, "weight_perm_1024");
  REQUIRE(weights.size() == 1024);
  // Its old order: four tiles of 16 x 16 along n, each row by row.
  for (index_t n = 0; n < 64; ++n) {
    for (index_t k = 0; k < 16; ++k) {
      const index_t place = subbyte::marlin<4>::bit_offset({64, 16}, n, k, 0) / 4;
      CHECK(weights[static_cast<std::size_t>(place)] == n / 16 * 256 + k * 16 + n % 16);
    }
  }
  const auto grouped = test_support::golden_values<std::int32_t>(file, "scale_perm");
  for (index_t i = 0; i < 64; ++i) {
    CHECK(grouped[static_cast<std::size_t>(i)] == subbyte::marlin_scale_source(i, false));
  }
  const auto single = test_support::golden_values<std::int32_t>(file, "scale_perm_single");
  for (index_t i = 0; i < 32; ++i) {
    CHECK(single[static_cast<std::size_t>(i)] == subbyte::marlin_scale_source(i, true));
  }
}

TEST_CASE("marlin: the weights and scales of AutoAWQ's Marlin layers") {
  for (const char* const name : {"marlin_k128_n128_g32", "marlin_k128_n128_g64",
                                 "marlin_k128_n64_g-1", "marlin_k256_n64_g128"}) {
    INFO(name);
    const auto file = test_support::golden_file(std::string("marlin/") + name + ".safetensors");
    const bytes codes = test_support::golden_values<std::uint8_t>(file, "in.codes");
    const index_t n = file.tensor("in.codes").shape()[0];
    const index_t k = file.tensor("in.codes").shape()[1];
    const bytes stored = test_support::golden_values<std::uint8_t>(file, "qweight");
    CHECK((packed<subbyte::marlin<4>>(codes, n) == stored));
    CHECK((test_support::unpacked<subbyte::marlin<4>>(stored, n, k) == codes));
    const auto scales = test_support::golden_values<float>(file, "in.scales");
    const auto permuted = test_support::golden_values<std::uint16_t>(file, "scales");
    const index_t groups = static_cast<index_t>(scales.size()) / n;
    for (index_t g = 0; g < groups; ++g) {
      for (index_t i = 0; i < n; ++i) {
        const index_t r = subbyte::marlin_scale_source(i, groups == 1);
        CHECK(permuted[static_cast<std::size_t>(g * n + i)] ==
              subbyte::half::nearest(scales[static_cast<std::size_t>(r * groups + g)]).bits);
      }
    }
  }
}

TEST_CASE("marlin: the orders that gptqmodel gives to scales, biases and zero points") {
  const auto file = test_support::golden_file("marlin/runtime_permutations.safetensors");
  for (const std::string layer : {"k128_n192_g128", "k128_n64_g-1", "k256_n128_g64"}) {
    INFO(layer);
    const auto values = [&](const char* name) {
      return test_support::golden_values<std::uint16_t>(file, layer + name);
    };
    const auto scales = values(".scales");
    const auto permuted = values(".marlin_scales");
    const index_t n = file.tensor(layer + ".scales").shape()[1];
    const index_t groups = file.tensor(layer + ".scales").shape()[0];
    for (index_t g = 0; g < groups; ++g) {
      for (index_t i = 0; i < n; ++i) {
        const index_t r = subbyte::marlin_scale_source(i, groups == 1);
        CHECK(permuted[static_cast<std::size_t>(g * n + i)] ==
              scales[static_cast<std::size_t>(g * n + r)]);
      }
    }
    const auto bias = values(".bias");
    const auto permuted_bias = values(".marlin_bias");
    for (index_t i = 0; i < n; ++i) {
      CHECK(permuted_bias[static_cast<std::size_t>(i)] ==
            bias[static_cast<std::size_t>(subbyte::marlin_scale_source(i, true))]);
    }
    const auto zeros = [&](const char* name) {  // [groups, n] there
      const bytes stored = test_support::golden_values<std::uint8_t>(file, layer + name);
      bytes transposed(stored.size());
      for (index_t g = 0; g < groups; ++g) {
        for (index_t r = 0; r < n; ++r) {
          transposed[static_cast<std::size_t>(r * groups + g)] =
              stored[static_cast<std::size_t>(g * n + r)];
        }
      }
      return transposed;
    };
    const auto stored = [&](const char* name) {
      return test_support::golden_values<std::uint8_t>(file, layer + name);
    };
    CHECK((packed<subbyte::marlin_zeros<4>>(zeros(".zp4"), n) == stored(".marlin_zp4")));
    CHECK((packed<subbyte::marlin_zeros<8>>(zeros(".zp8"), n) == stored(".marlin_zp8")));
    // What it takes from AWQ files at 4 bits.
    CHECK((packed<subbyte::awq_gemm<4>>(zeros(".zp4"), n) == stored(".awq_zp4")));
  }
}
#endif
