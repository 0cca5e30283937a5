// SPDX-License-Identifier: Apache-2.0
#include "subbyte/layout/bit_stream.hpp"

#include <random>
#include <type_traits>
#include <vector>

#include "subbyte/core/arch.hpp"
#include "support/catch.hpp"

namespace {

using subbyte::index_t;
using bytes = std::vector<std::uint8_t>;

// Calls body(std::integral_constant<int, B>{}) for B = 1 .. 8.
template <class Body>
void for_each_width(Body&& body) {
  [&]<int... B>(std::integer_sequence<int, B...>) {
    (body(std::integral_constant<int, B + 1>{}), ...);
  }
  (std::make_integer_sequence<int, 8>{});
}

}  // namespace

TEST_CASE("bit_stream: eight codes join lowest first, and split again") {
  // Every code alone at every place fixes the linear map; random words join what they add up to.
  for_each_width([](auto width) {
    constexpr int bits = decltype(width)::value;
    for (int place = 0; place < 8; ++place) {
      for (std::uint64_t code = 0; code < (1U << bits); ++code) {
        const std::uint64_t joined = code << (bits * place);
        CHECK(subbyte::detail::join_codes<bits>(code << (8 * place)) == joined);
        CHECK(subbyte::detail::split_codes<bits>(joined) == code << (8 * place));
      }
    }
    std::mt19937_64 generator(1);
    for (int i = 0; i < 1000; ++i) {
      const std::uint64_t codes = generator() & subbyte::detail::lane_mask(8, bits);
      std::uint64_t expected = 0;
      for (int place = 0; place < 8; ++place) {
        expected |= (codes >> (8 * place) & 255) << (bits * place);
      }
      CHECK(subbyte::detail::join_codes<bits>(codes) == expected);
      const std::uint64_t above = bits == 8 ? 0 : generator() << (8 * bits % 64);
      CHECK(subbyte::detail::split_codes<bits>(expected | above) == codes);
    }
  });
}

TEST_CASE("bit_stream: a lane mask repeats its low bits over the word") {
  CHECK(subbyte::detail::lane_mask(8, 3) == 0x0707070707070707U);
  CHECK(subbyte::detail::lane_mask(16, 10) == 0x03FF03FF03FF03FFU);
  CHECK(subbyte::detail::lane_mask(64, 64) == ~std::uint64_t{0});
}

TEST_CASE("bit_stream: streams of every length are packed to the bit and no byte further") {
  std::mt19937_64 generator(2);
  for_each_width([&](auto width) {
    constexpr int bits = decltype(width)::value;
    for (std::size_t n = 0; n <= 67; ++n) {
      bytes codes(n);
      for (auto& c : codes) c = static_cast<std::uint8_t>(generator() >> (64 - bits));
      const std::size_t used = (n * bits + 7) / 8;
      bytes expected(used + 2, 0);
      for (std::size_t at = 0; at < n * bits; ++at) {
        const unsigned bit = codes[at / bits] >> at % bits & 1U;
        expected[at / 8] = static_cast<std::uint8_t>(expected[at / 8] | bit << at % 8);
      }
      expected[used] = expected[used + 1] = 0xEE;
      bytes out(used + 2, 0xEE);
      subbyte::detail::pack_stream<bits, subbyte::arch::scalar>(
          codes.data(), static_cast<index_t>(n), out.data());
      CHECK((out == expected));
      bytes read(n + 2, 0xEE);
      subbyte::detail::unpack_stream<bits, subbyte::arch::scalar>(
          out.data(), static_cast<index_t>(n), read.data());
      codes.resize(n + 2, 0xEE);
      CHECK((read == codes));
    }
  });
}
