// SPDX-License-Identifier: Apache-2.0
/// The 32-weight encoders round every product before they add: codes near a half step must not
/// depend on whether the compiler may fuse a product with an addition.
#include <algorithm>
#include <cmath>
#include <vector>

#include "subbyte/format/q4_0.hpp"
#include "subbyte/format/q4_1.hpp"
#include "subbyte/format/q5_0.hpp"
#include "subbyte/format/q5_1.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;

/// product + shift with two roundings, whatever the flags.
float added_in_two_steps(float a, float b, float shift) {
  volatile float product = a * b;
  return product + shift;
}

/// Weights a few units in the last place from (k + 1/2) * step, the first and second spanning the
/// range, and how often one rounding instead of two would change a code.
template <class F, class Code>
void check(int last, bool affine, const Code& reference) {
  std::mt19937_64 generator(11);
  int sensitive = 0;
  int wrong = 0;
  for (int draw = 0; draw < 2000; ++draw) {
    const float step = static_cast<float>(0.01 + test_support::uniform(generator));
    std::vector<float> w(32);
    const int half_range = (last + 1) / 2;
    w[0] = -static_cast<float>(half_range) * step;
    w[1] = static_cast<float>(half_range - 1) * step;
    for (std::size_t i = 2; i < w.size(); ++i) {
      const int k = static_cast<int>(generator() % static_cast<unsigned>(last - 1)) - half_range;
      w[i] = (static_cast<float>(k) + 0.5F) * step;
      for (std::uint64_t n = generator() % 3; n > 0; --n) w[i] = std::nextafter(w[i], -1e9F);
    }
    const auto codes = F::split(encode<F, arch::native>(w.data(), nullptr, 0)).codes;
    const float low = *std::min_element(w.begin(), w.end());
    const float high = *std::max_element(w.begin(), w.end());
    const float d =
        affine ? (high - low) / static_cast<float>(last) : w[0] / -static_cast<float>(half_range);
    const float inverse = 1.0F / d;
    for (int i = 0; i < 32; ++i) {
      const float v = w[static_cast<std::size_t>(i)];
      const float from = affine ? v - low : v;
      const float shift = affine ? 0.5F : static_cast<float>(half_range) + 0.5F;
      const int twice = reference(added_in_two_steps(from, inverse, shift));
      sensitive += reference(std::fma(from, inverse, shift)) != twice ? 1 : 0;
      wrong += codes[i] != twice ? 1 : 0;
    }
  }
  CHECK(sensitive > 0);  // else the data would prove nothing
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("q4_0, q4_1, q5_0 and q5_1 round a product before they add to it") {
  const auto limited = [](int last) {
    return [last](float v) { return std::clamp(static_cast<int>(v), 0, last); };
  };
  SECTION("q4_0") { check<q4_0>(15, false, limited(15)); }
  SECTION("q5_0") { check<q5_0>(31, false, limited(31)); }
  SECTION("q4_1") { check<q4_1>(15, true, limited(15)); }
  SECTION("q5_1") { check<q5_1>(31, true, limited(31)); }
}
