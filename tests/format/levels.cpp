// SPDX-License-Identifier: Apache-2.0
#include "subbyte/format/levels.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "subbyte/format/block_error.hpp"
#include "subbyte/format/q4_0.hpp"
#include "subbyte/format/superblock_search.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

using Arch = arch::native;
using lanes = float_lanes<Arch, 16>;

template <class Body>
std::vector<float> mapped(const std::vector<float>& x, Body&& body) {
  std::vector<float> out(x.size());
  for (std::size_t i = 0; i < x.size(); i += 16) {
    body(lanes::load(x.data() + i)).store(out.data() + i);
  }
  return out;
}

}  // namespace

TEST_CASE("levels: rounded_within is the nearest integer in the limits, from anywhere") {
  std::vector<float> x;
  for (int i = -400; i < 400; ++i) x.push_back(static_cast<float>(i) * 0.125F);
  for (const float far : {4e6F, -4e6F, 1e9F, -1e9F, 3e38F, -3e38F}) x.push_back(far);
  while (x.size() % 16 != 0) x.push_back(0);
  const auto rounded = mapped(x, [](const lanes& v) { return rounded_within(v, -5, 31); });
  for (std::size_t i = 0; i < x.size(); ++i) {
    // nearbyint: ties to even, as the default rounding mode is.
    REQUIRE(rounded[i] == std::fmin(std::fmax(std::nearbyint(x[i]), -5.0F), 31.0F));
  }
}

TEST_CASE("levels: fp4_magnitudes are as near as the codebook's nearest") {
  std::vector<float> x;
  for (int i = 0; i < 1024; ++i) x.push_back(static_cast<float>(i) / 128);
  x.back() = 1e30F;
  const auto levels = mapped(x, [](const lanes& v) { return fp4_magnitudes{}(v); });
  for (std::size_t i = 0; i < x.size(); ++i) {
    const float nearest = fp4_e2m1::value(fp4_e2m1::nearest(x[i]));
    REQUIRE(std::fabs(levels[i] - x[i]) == std::fabs(nearest - x[i]));
  }
}

TEST_CASE("levels: codes of integer levels are the levels above the middle") {
  const float x[16] = {-9, -8, -7.6F, -1, 0, 0.4F, 1, 6.6F, 7, 8, 100, -100, 2, 3, 4, 5};
  std::uint8_t codes[16];
  whole_levels{-8, 7, 8}.store_codes(lanes::load(x), codes);
  const int expected[16] = {0, 0, 0, 7, 8, 8, 9, 15, 15, 15, 15, 0, 10, 11, 12, 13};
  for (int i = 0; i < 16; ++i) CHECK(codes[i] == expected[i]);
}

TEST_CASE("levels: lowest_of finds the lowest of all rows and never a NaN") {
  for (int at = 0; at < 64; ++at) {
    float values[64];
    for (int i = 0; i < 64; ++i) {
      values[i] =
          i % 7 == 3 ? std::numeric_limits<float>::quiet_NaN() : 2.0F + static_cast<float>(i % 5);
    }
    values[at] = 1.5F;
    lanes rows[4];
    for (int r = 0; r < 4; ++r) rows[r] = lanes::load(values + 16 * r);
    REQUIRE(lowest_of<Arch, 4>(rows) == at);
  }
}

TEST_CASE("levels: the sum of lanes and the error of a block are those of double") {
  const auto x = test_support::normal_vector(32, 1.0, 5);
  std::vector<float> weight(32);
  for (std::size_t i = 0; i < 32; ++i) weight[i] = 0.5F + static_cast<float>(i % 3);
  const q4_0 block = q4_0::encode_ref<Arch>(x.data(), nullptr, 0);
  float back[32];
  decode(block, back);
  double expected = 0;
  for (std::size_t i = 0; i < 32; ++i) {
    expected += double{weight[i]} * std::pow(double{x[i]} - double{back[i]}, 2);
  }
  const double found = block_error<q4_0, Arch>(block, x.data(), weight.data());
  CHECK(std::fabs(found / expected - 1) <= (32 / 16 + 8) * 0x1p-24);
  CHECK(clearly_lower(0.99F, 1.0F));
  CHECK_FALSE(clearly_lower(1.0F - 0x1p-17F, 1.0F));
  CHECK_FALSE(clearly_lower(0, 1e-30F));
  CHECK_FALSE(clearly_lower(0, std::numeric_limits<float>::infinity()));
}

TEST_CASE("superblock_search: a super-block's own weights are found again exactly") {
  // Weights that are a block's values: descending from it changes nothing; from a block whose
  // factor and integers are off it comes back.
  affine_superblock<8> truth{half::nearest(0.01F), half::nearest(0.02F), {}, {}, 0};
  float x[256];
  float weight[256];
  for (int g = 0; g < 8; ++g) {
    truth.scales[g] = static_cast<std::uint8_t>(20 + 5 * g);
    truth.minimums[g] = static_cast<std::uint8_t>(60 - 4 * g);
    for (int i = 0; i < 32; ++i) {
      x[32 * g + i] = truth.scale.to_float() * truth.scales[g] * static_cast<float>(i * 5 % 16) -
                      truth.minimum.to_float() * truth.minimums[g];
      weight[32 * g + i] = 1;
    }
  }
  const affine_superblock_search<Arch, 32, 8> search(15, 63, x, weight);
  affine_superblock<8> b = truth;
  for (int g = 0; g < 8; ++g) {
    b.scales[g] = static_cast<std::uint8_t>(b.scales[g] + g % 4 - 1);
    b.minimums[g] = static_cast<std::uint8_t>(b.minimums[g] - g % 3);
  }
  search.choose_integers(b);
  CHECK(b.error < 1e-9F);
  for (int g = 0; g < 8; ++g) {
    CHECK(b.scales[g] == truth.scales[g]);
    CHECK(b.minimums[g] == truth.minimums[g]);
  }
  b.scale = half::nearest(0.0101F);
  b.minimum = half::nearest(0.0199F);
  search.refit(b);
  CHECK(b.scale == truth.scale);
  CHECK(b.minimum == truth.minimum);
}
