// SPDX-License-Identifier: Apache-2.0
/// The lanes' decoders against the formats' own: every byte pattern is a valid block.
#include "subbyte/cuda/octet.cuh"

#include <cmath>
#include <cstring>
#include <vector>

#include "subbyte/cuda/octet/all.cuh"
#include "subbyte/format/list.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;
using cuda::octet;

bool same(float a, float b) {
  return bit_cast<std::uint32_t>(a) == bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

/// A span's bytes where nothing may be read beside them, at an address that is a multiple of
/// `alignment` and of no more.
struct span_of_bytes {
  span_of_bytes(int count, int alignment)
      : begin(static_cast<std::size_t>(alignment)),
        bytes(begin + static_cast<std::size_t>(count)) {}
  void randomize(std::mt19937_64& generator) {
    for (auto& b : bytes) b = static_cast<std::uint8_t>(generator() >> 56);
  }
  [[nodiscard]] const std::uint8_t* data() const { return bytes.data() + begin; }

  std::size_t begin;
  std::vector<std::uint8_t> bytes;  // from a multiple of 16
};

template <class F, class Load>
void check_span(const float (&expected)[256], Load load) {
  using quads_type = typename octet<F>::quads;
  for (int lane = 0; lane < cuda::warp_lanes; ++lane) {
    const quads_type quads = load(lane);
    for (int q = 0; q < 2; ++q) {
      float w[4];
      quads.weights(q, w);
      for (int i = 0; i < 4; ++i) {
        const int at = octet<F>::first(lane, q) + i;
        INFO(F::name << ", weight " << at << ": " << w[i] << ", expected " << expected[at]);
        REQUIRE(same(w[i], expected[at]));
      }
      if constexpr (requires { quads.bytes; }) {
        // The same levels in the three arithmetics.
        float level[4];
        cuda::bytes_to_floats<quads_type::bias>(quads.bytes[q], level);
        cuda::half_pair halves[2];
        cuda::bytes_to_halves<quads_type::bias>(quads.bytes[q], halves);
        const std::uint32_t bytes = cuda::signed_bytes<quads_type::bias>(quads.bytes[q]);
        for (int i = 0; i < 4; ++i) {
          const half h =
              i % 2 == 0 ? cuda::first_half(halves[i / 2]) : cuda::second_half(halves[i / 2]);
          REQUIRE(h.to_float() == level[i]);
          REQUIRE(static_cast<float>(static_cast<std::int8_t>(bytes >> (8 * i))) == level[i]);
        }
      }
    }
  }
}

template <class F>
void check_runs_cover_the_span() {
  bool seen[256] = {};
  for (int lane = 0; lane < cuda::warp_lanes; ++lane) {
    for (int q = 0; q < 2; ++q) {
      const int at = octet<F>::first(lane, q);
      REQUIRE((at % 4 == 0 && at >= 0 && at < 256));
      REQUIRE(!seen[at]);
      seen[at] = true;
    }
  }
}

}  // namespace

TEST_CASE("Every lane of every format decodes as the format does") {
  std::mt19937_64 generator(20261122);
  for_each_type(all_formats{}, [&]<class F>(std::type_identity<F>) {
    INFO(F::name);
    check_runs_cover_the_span<F>();
    span_of_bytes span(octet<F>::span_bytes, octet<F>::alignment);
    for (int round = 0; round < 400; ++round) {
      span.randomize(generator);
      float expected[256];
      for (int b = 0; b < cuda::span_blocks<F>; ++b) {
        F block;
        std::memcpy(&block, span.data() + static_cast<std::size_t>(b) * sizeof(F), sizeof(F));
        decode(block, expected + b * F::block_size);
      }
      check_span<F>(expected, [&](int lane) { return octet<F>::load(span.data(), lane); });
    }
  });
}

TEST_CASE("Every lane of every row-scaled format decodes as the format does") {
  std::mt19937_64 generator(20261123);
  for_each_type(row_scaled_formats{}, [&]<class F>(std::type_identity<F>) {
    INFO(F::name);
    check_runs_cover_the_span<F>();
    span_of_bytes span(octet<F>::span_bytes, octet<F>::alignment);
    for (int round = 0; round < 400; ++round) {
      span.randomize(generator);
      typename F::row_scale scale;
      const std::uint64_t bits = generator();
      std::memcpy(&scale, &bits, sizeof(scale));
      float expected[256];
      for (int b = 0; b < cuda::span_blocks<F>; ++b) {
        F block;
        std::memcpy(&block, span.data() + static_cast<std::size_t>(b) * sizeof(F), sizeof(F));
        F::decode(block, scale, expected + b * F::block_size);
      }
      check_span<F>(expected, [&](int lane) { return octet<F>::load(span.data(), lane, scale); });
    }
  });
}
