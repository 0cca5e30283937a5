// SPDX-License-Identifier: Apache-2.0
#include "subbyte/metrics/cost.hpp"

#include <limits>
#include <string>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();

// 4096 x 4096 weights in blocks of 32 with 18 bytes: the figures are exact in double.
constexpr index_t n = 4096;
constexpr storage_cost blocks{n * n, 4 * n* n, n* n / 32 * 18};
static_assert(blocks.bits_per_weight() == 4.5);
static_assert(blocks.payload_bits_per_weight() == 4);
static_assert(blocks.compared_with(baseline::f32).ratio == 32 / 4.5);
static_assert(blocks.compared_with(baseline::sixteen_bit).ratio == 16 / 4.5);

}  // namespace

TEST_CASE("cost: a compression ratio carries its baseline") {
  const compression to_16_bit = blocks.compared_with(baseline::sixteen_bit);
  CHECK(to_16_bit.against == baseline::sixteen_bit);
  CHECK(std::string(baseline_name(to_16_bit.against)) == "16-bit");
  const compression to_f32 = blocks.compared_with(baseline::f32);
  CHECK(to_f32.against == baseline::f32);
  CHECK(std::string(baseline_name(to_f32.against)) == "f32");
  CHECK(to_f32.ratio == 2 * to_16_bit.ratio);
  CHECK(baseline_bytes(10, baseline::f32) == 40);
  CHECK(baseline_bytes(10, baseline::sixteen_bit) == 20);
}

TEST_CASE("cost: known formats against f32 and 16 bits") {
  // 4 bits in groups of 128 with an f16 scale: 4.125 bits, 7.76x and 3.88x.
  const storage_cost group{128, 4 * 128, 64 + 2};
  CHECK(group.bits_per_weight() == 4.125);
  CHECK(group.compared_with(baseline::f32).ratio == Approx(7.76).epsilon(0).margin(0.005));
  CHECK(group.compared_with(baseline::sixteen_bit).ratio == Approx(3.88).epsilon(0).margin(0.005));
  // NF4 in blocks of 64 with an f32 scale: 4.5 bits, 7.11x.
  const storage_cost nf4{64, 4 * 64, 32 + 4};
  CHECK(nf4.compared_with(baseline::f32).ratio == Approx(7.11).epsilon(0).margin(0.005));
}

TEST_CASE("cost: padding counts as stored, not as weights") {
  const storage_cost ragged{30, 4 * 30, 18};  // 30 weights in a block of 32
  CHECK(ragged.bits_per_weight() == 8.0 * 18 / 30);
  CHECK(ragged.payload_bits_per_weight() == 4);
}

TEST_CASE("cost: a model is the sum of its matrices") {
  storage_cost total{0, 0, 0};
  CHECK(total.bits_per_weight() == 0);
  total.merge({32, 128, 18});
  total.merge({32, 32 * 16, 64});
  CHECK(total.weights == 64);
  CHECK(total.bits_per_weight() == 8.0 * 82 / 64);
  CHECK(total.payload_bits_per_weight() == 10);
}

TEST_CASE("cost: nothing stored is defined") {
  constexpr storage_cost none{0, 0, 0};
  CHECK(none.bits_per_weight() == 0);
  CHECK(none.payload_bits_per_weight() == 0);
  CHECK(none.compared_with(baseline::f32).ratio == 0);
  constexpr storage_cost table_only{0, 0, 16};
  CHECK(table_only.bits_per_weight() == infinity);
}

TEST_CASE("cost: y = W x touches the weights, x and y once") {
  const gemv_traffic t = gemv_bytes(4096, 11008, 4096 * 11008 / 32 * 18);
  CHECK(t.weight_bytes == 25362432);
  CHECK(t.activation_bytes == 44032);
  CHECK(t.output_bytes == 16384);
  CHECK(t.total_bytes() == 25362432 + 44032 + 16384);
  // Activations as 34-byte blocks of 32, outputs as f16.
  const gemv_traffic q = gemv_bytes(10, 64, 360, 34.0 / 32, 2);
  CHECK(q.activation_bytes == 68);
  CHECK(q.output_bytes == 20);
  CHECK(gemv_bytes(0, 0, 0).total_bytes() == 0);
}

TEST_CASE("cost: bandwidth is in units of 1e9 bytes") {
  CHECK(gigabytes_per_second(5'000'000'000, 2) == 2.5);
  CHECK(gigabytes_per_second(0, 0) == 0);
  CHECK(gigabytes_per_second(1, 0) == infinity);
  CHECK(bandwidth_utilization(45, 60) == 0.75);
  CHECK(bandwidth_utilization(0, 0) == 0);
}

TEST_CASE("cost: the ceiling of tokens per second reads the model and the KV cache once") {
  CHECK(tokens_per_second_ceiling(50, 4'000'000'000, 0) == 12.5);
  CHECK(tokens_per_second_ceiling(50, 4'000'000'000, 1'000'000'000) == 10);
  CHECK(tokens_per_second_ceiling(50, 0, 0) == infinity);
}
