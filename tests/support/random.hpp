// SPDX-License-Identifier: Apache-2.0
/// Seeded test data that is the same on every standard library.
#pragma once

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <random>
#include <vector>

namespace test_support {

/// Uniform in [0, 1).
inline double uniform(std::mt19937_64& generator) {
  return static_cast<double>(generator() >> 11) * 0x1p-53;
}

/// Standard normal, by Box and Muller.
inline double normal(std::mt19937_64& generator) {
  const double radius = std::sqrt(-2 * std::log(1 - uniform(generator)));
  return radius * std::cos(6.283185307179586 * uniform(generator));
}

/// `count` draws of N(0, deviation).
inline std::vector<float> normal_vector(std::size_t count, double deviation, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<float> values(count);
  for (float& v : values) v = static_cast<float>(deviation * normal(generator));
  return values;
}

}  // namespace test_support
