// SPDX-License-Identifier: Apache-2.0
#include "subbyte/format/affine_superblock.hpp"

#include <cstdint>
#include <cstring>
#include <random>
#include <vector>

#include "subbyte/format/q4_k.hpp"
#include "subbyte/format/q5_k.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace subbyte;

TEST_CASE("affine_superblock: the layout of each 6-bit field, by hand") {
  // One field at a time at 63 = 0b111111; the rest zero.
  for (int k = 0; k < 8; ++k) {
    std::uint8_t scales[8] = {};
    std::uint8_t minimums[8] = {};
    std::uint8_t bytes[12] = {};
    std::uint8_t expected[12] = {};
    scales[k] = 63;
    pack_6bit_pairs(scales, minimums, bytes);
    if (k < 4) {
      expected[k] = 0x3F;
    } else {
      expected[k + 4] = 0x0F;
      expected[k - 4] = 0xC0;
    }
    INFO("scale " << k);
    REQUIRE(std::memcmp(bytes, expected, 12) == 0);

    scales[k] = 0;
    minimums[k] = 63;
    std::memset(expected, 0, 12);
    pack_6bit_pairs(scales, minimums, bytes);
    if (k < 4) {
      expected[k + 4] = 0x3F;
    } else {
      expected[k + 4] = 0xF0;
      expected[k] = 0xC0;
    }
    INFO("minimum " << k);
    REQUIRE(std::memcmp(bytes, expected, 12) == 0);
  }
}

TEST_CASE("affine_superblock: packing and unpacking are inverse, both ways") {
  std::mt19937_64 generator(41);
  for (int trial = 0; trial < 20000; ++trial) {
    std::uint8_t bytes[12];
    for (std::uint8_t& b : bytes) b = static_cast<std::uint8_t>(generator());
    std::uint8_t scales[8];
    std::uint8_t minimums[8];
    unpack_6bit_pairs(bytes, scales, minimums);
    for (int k = 0; k < 8; ++k) REQUIRE((scales[k] <= 63 && minimums[k] <= 63));
    std::uint8_t back[12];
    pack_6bit_pairs(scales, minimums, back);
    REQUIRE(std::memcmp(back, bytes, 12) == 0);
  }
}

namespace {

/// How many of 2000 blocks come out otherwise when the search has these candidates.
template <class F>
int different_blocks(int last, const affine_candidates& candidates) {
  int different = 0;
  for (std::uint64_t seed = 0; seed < 2000; ++seed) {
    std::vector<float> w = test_support::normal_vector(256, 1, seed);
    if (seed % 2 == 0) {
      for (float& v : w) v = v * v * v;
    }
    typename F::codes c{};
    const auto p =
        encode_affine_superblock<arch::native>(w.data(), nullptr, last, candidates, c.code);
    const F ours = encode<F, arch::native>(w.data(), nullptr, 0);
    const F theirs = F::join(p, c);
    different += std::memcmp(&ours, &theirs, sizeof(F)) != 0 ? 1 : 0;
  }
  return different;
}

}  // namespace

// Source  ggml, quantize_row_q4_K_ref and quantize_row_q5_K_ref: rmin, rdelta and nstep.
TEST_CASE("affine_superblock: q4_k tries 21 scales and q5_k 16, and the ends matter") {
  CHECK(different_blocks<q4_k>(15, {-1.0F, 0.1F, 20, false}) == 0);
  CHECK(different_blocks<q4_k>(15, {-1.0F, 0.1F, 19, false}) > 0);
  CHECK(different_blocks<q4_k>(15, {-0.9F, 0.1F, 19, false}) > 0);
  CHECK(different_blocks<q5_k>(31, {-0.5F, 0.1F, 15, false}) == 0);
  CHECK(different_blocks<q5_k>(31, {-0.5F, 0.1F, 14, false}) > 0);
  CHECK(different_blocks<q5_k>(31, {-0.4F, 0.1F, 14, false}) > 0);
}
