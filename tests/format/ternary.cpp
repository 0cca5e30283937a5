// SPDX-License-Identifier: Apache-2.0
/// Ternary codes: ties, and weights whose largest magnitude has no inverse.
#include "subbyte/format/ternary.hpp"

#include <limits>
#include <vector>

#include "subbyte/core/arch.hpp"
#include "support/catch.hpp"

namespace {

std::vector<int> codes_of(const std::vector<float>& w) {
  std::vector<std::uint8_t> codes(w.size());
  subbyte::ternary::quantize<subbyte::arch::native>(w.data(), static_cast<int>(w.size()),
                                                    codes.data());
  return {codes.begin(), codes.end()};
}

}  // namespace

TEST_CASE("ternary: codes of the largest magnitude's halves, ties away from zero") {
  CHECK(codes_of({-4, 2, -2, 1.99F, -1.99F, 0, -0.0F, 4}) ==
        std::vector<int>{0, 2, 0, 1, 1, 1, 1, 2});
}

TEST_CASE("ternary: zeros, NaN and weights too small to divide by are code 1") {
  constexpr float tiny = 1e-40F;
  constexpr float nan = std::numeric_limits<float>::quiet_NaN();
  CHECK(codes_of({0, 0}) == std::vector<int>{1, 1});
  CHECK(codes_of({tiny, -tiny, 0}) == std::vector<int>{1, 1, 1});
  CHECK(codes_of({nan, -2, 2}) == std::vector<int>{1, 0, 2});
}
