// SPDX-License-Identifier: Apache-2.0
/// Runs a comparison for each of the 2^32 binary32 bit patterns, on all cores.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

#include "support/tally.hpp"

namespace test_support {

/// Calls compare(tally&, bits) for every pattern; compare is called from several threads, each with
/// its own tally.
template <class Compare>
std::string over_all_binary32(const Compare& compare) {
  const std::uint64_t threads = std::clamp(std::thread::hardware_concurrency(), 1U, 64U);
  std::vector<tally> tallies(threads);
  std::vector<std::thread> running;
  for (std::uint64_t i = 0; i < threads; ++i) {
    running.emplace_back([&, i] {
      tally own;
      const std::uint64_t last = ((i + 1) << 32) / threads;
      for (std::uint64_t bits = (i << 32) / threads; bits < last; ++bits) {
        compare(own, static_cast<std::uint32_t>(bits));
      }
      tallies[i] = own;
    });
  }
  for (std::thread& thread : running) thread.join();
  for (std::uint64_t i = 1; i < threads; ++i) tallies[0].add(tallies[i]);
  return tallies[0].report();
}

}  // namespace test_support
