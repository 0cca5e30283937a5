// SPDX-License-Identifier: Apache-2.0
/// The tuned decodes against decode(), bit for bit, on every arch that is compiled in.
#include "subbyte/kernel/decode.hpp"

#include <cmath>
#include <cstring>
#include <random>

#include "subbyte/format/list.hpp"
#include "support/archs.hpp"
#include "support/catch.hpp"

using namespace subbyte;

namespace {

/// The same bits, or both NaN.
bool same(float a, float b) {
  return bit_cast<std::uint32_t>(a) == bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

template <class Arch, class F>
void check(const F& block) {
  float expected[static_cast<std::size_t>(F::block_size)];
  float found[static_cast<std::size_t>(F::block_size)];
  decode(block, expected);
  tuned_decode<Arch>{}(block, found);
  for (int i = 0; i < F::block_size; ++i) {
    INFO(F::name << " on " << Arch::name << ", weight " << i << ": " << expected[i] << ", "
                 << found[i]);
    REQUIRE(same(expected[i], found[i]));
  }
}

}  // namespace

TEST_CASE("tuned_decode: the bits of decode for random bytes of every format") {
  test_support::for_each_enabled_arch([]<class Arch>(std::type_identity<Arch>) {
    for_each_type(all_formats{}, []<class F>(std::type_identity<F>) {
      std::mt19937_64 generator(31);
      for (int k = 0; k < 300; ++k) {
        unsigned char bytes[sizeof(F)];
        for (unsigned char& b : bytes) b = static_cast<unsigned char>(generator());
        F block;
        std::memcpy(&block, bytes, sizeof(F));
        check<Arch>(block);
      }
    });
  });
}

TEST_CASE("tuned_decode: every scale of mxfp4 with every code, overflow and NaN included") {
  test_support::for_each_enabled_arch([]<class Arch>(std::type_identity<Arch>) {
    for (int scale = 0; scale < 256; ++scale) {
      mxfp4 block{e8m0::from_bits(static_cast<std::uint8_t>(scale)), {}};
      for (int j = 0; j < 16; ++j) {
        block.codes_packed[j] = static_cast<std::uint8_t>(j | (15 - j) << 4);
      }
      check<Arch>(block);
    }
  });
}
