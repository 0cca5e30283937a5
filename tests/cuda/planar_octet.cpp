// SPDX-License-Identifier: Apache-2.0
/// The lanes' decoders of planar codes against the grids' own values.
#include <cmath>
#include <cstdint>
#include <vector>

#include "subbyte/cuda/octet/planar.cuh"
#include "subbyte/matrix/planar_matrix.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;
using cuda::planar_octet;

bool same(float a, float b) {
  return bit_cast<std::uint32_t>(a) == bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

float any_float(std::mt19937_64& generator) {
  return bit_cast<float>(static_cast<std::uint32_t>(generator()));
}

template <class G>
typename G::params any_params(std::mt19937_64& generator) {
  typename G::params p{};
  p.scale = any_float(generator);
  if constexpr (requires { p.zero; }) {
    if constexpr (G::zeros == zero_points::none) {
      p.zero = static_cast<float>(G::middle_code);
    } else if constexpr (G::zeros == zero_points::integer) {
      p.zero = static_cast<float>(generator() % 256);
    } else {
      // Mostly between the codes, where the subtraction rounds.
      p.zero = generator() % 8 == 0 ? any_float(generator)
                                    : static_cast<float>(generator() % 65536) / 173.0F;
    }
  }
  return p;
}

template <class G>
void check_grid() {
  INFO(G::bits << " bits, zero points " << static_cast<int>(G::zeros));
  std::mt19937_64 generator(20261124);
  constexpr int codes = 1 << G::bits;
  for (int round = 0; round < 200; ++round) {
    // Every code occurs, at every place of a lane.
    std::vector<std::uint8_t> code(256);
    for (int j = 0; j < 256; ++j) {
      code[static_cast<std::size_t>(j)] = static_cast<std::uint8_t>(
          round < 8 ? (j + round) % codes
                    : static_cast<int>(generator() % static_cast<unsigned>(codes)));
    }
    // At a multiple of the alignment and of no more; nothing may be read behind it.
    constexpr int begin = planar_octet<G>::alignment;
    std::vector<std::uint8_t> bytes(begin + planar_octet<G>::span_bytes);
    std::uint8_t* const span = bytes.data() + begin;
    for (int bit = 0; bit < 256 * G::bits; ++bit) {
      const int value = code[static_cast<std::size_t>(bit / G::bits)] >> (bit % G::bits) & 1;
      span[bit / 8] |= static_cast<std::uint8_t>(value << (bit % 8));
    }
    for (int lane = 0; lane < cuda::warp_lanes; ++lane) {
      const auto p = any_params<G>(generator);
      const auto quads = planar_octet<G>::load(span, lane, p);
      for (int q = 0; q < 2; ++q) {
        float w[4];
        quads.weights(q, w);
        for (int i = 0; i < 4; ++i) {
          const int at = planar_octet<G>::first(lane, q) + i;
          const float expected = G::value(code[static_cast<std::size_t>(at)], p);
          INFO("code " << int{code[static_cast<std::size_t>(at)]} << " at " << at << ": " << w[i]
                       << ", expected " << expected);
          REQUIRE(same(w[i], expected));
        }
      }
    }
  }
}

template <int Bits>
void check_bits() {
  check_grid<int_grid<Bits, zero_points::none>>();
  check_grid<int_grid<Bits, zero_points::integer>>();
  check_grid<int_grid<Bits, zero_points::real>>();
}

/// A codebook of 8 values: the codes of a lane are three bytes.
struct eighths {
  static constexpr const char* name = "eighths";
  static constexpr int bits = 3;
  static constexpr float value(int code) noexcept { return 0.125F * static_cast<float>(code) - 1; }
  static constexpr int nearest(float) noexcept { return 0; }
};

}  // namespace

TEST_CASE("Every lane decodes evenly spaced codes of every width as their grid does") {
  check_bits<1>();
  check_bits<2>();
  check_bits<3>();
  check_bits<4>();
  check_bits<5>();
  check_bits<6>();
  check_bits<7>();
  check_bits<8>();
}

TEST_CASE("Every lane decodes indices into codebooks as their grid does") {
  check_grid<codebook_grid<nf4>>();
  check_grid<codebook_grid<fp4_e2m1>>();
  check_grid<codebook_grid<iq4>>();
  check_grid<codebook_grid<eighths>>();
}

TEST_CASE("A lane decodes what the planar matrix stores") {
  std::mt19937_64 generator(20261125);
  using grid = int_grid<5>;
  planar_matrix<grid, half> matrix(1, 256, {64});
  for (index_t g = 0; g < 4; ++g) {
    std::uint8_t codes[64];
    for (auto& code : codes) code = static_cast<std::uint8_t>(generator() % 32);
    matrix.store(0, g, {0.25F * static_cast<float>(g + 1), static_cast<float>(3 * g)}, codes, 64);
  }
  const auto view = matrix.view();
  float expected[256];
  view.decode_row(0, 0, 256, expected);
  for (int lane = 0; lane < cuda::warp_lanes; ++lane) {
    const auto p = view.group_params(0, 8 * lane / 64);
    const auto quads = planar_octet<grid>::load(view.codes(), lane, p);
    for (int q = 0; q < 2; ++q) {
      float w[4];
      quads.weights(q, w);
      for (int i = 0; i < 4; ++i) {
        REQUIRE(same(w[i], expected[planar_octet<grid>::first(lane, q) + i]));
      }
    }
  }
}
