// SPDX-License-Identifier: Apache-2.0
#include "subbyte/kernel/lanes.hpp"

#include <cmath>
#include <vector>

#include "support/archs.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace subbyte;

TEST_CASE("lanes: products round once and the sum is the halving tree, on every arch") {
  for (std::uint64_t seed = 0; seed < 50; ++seed) {
    const auto a = test_support::normal_vector(16, 1.0, 3 * seed);
    const auto b = test_support::normal_vector(16, 1.0, 3 * seed + 1);
    const auto c = test_support::normal_vector(16, 1.0, 3 * seed + 2);
    float expected[16];
    for (std::size_t i = 0; i < 16; ++i) expected[i] = std::fma(a[i], b[i], c[i]);
    for (int stride = 8; stride > 0; stride /= 2) {
      for (int i = 0; i < stride; ++i) expected[i] += expected[i + stride];
    }
    test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
      INFO(Arch::name << ", seed " << seed);
      auto sum = detail::lanes<Arch>::load(c.data());
      sum.add_product(detail::lanes<Arch>::load(a.data()), detail::lanes<Arch>::load(b.data()));
      REQUIRE(sum.sum() == expected[0]);
      REQUIRE(detail::lanes<Arch>::zero().sum() == 0);
    });
  }
}

TEST_CASE("lanes: load_first reads n floats and fills with zeros") {
  for (index_t n = 0; n <= 16; ++n) {
    // Exactly n floats on the heap: the address sanitizer sees a read beyond.
    std::vector<float> values(static_cast<std::size_t>(n));
    for (std::size_t i = 0; i < values.size(); ++i) values[i] = static_cast<float>(1U << i);
    test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
      const float sum = detail::lanes<Arch>::load_first(values.data(), n).sum();
      REQUIRE(sum == static_cast<float>((1U << n) - 1));
    });
  }
}
