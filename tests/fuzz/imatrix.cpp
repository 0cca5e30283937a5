// SPDX-License-Identifier: Apache-2.0
/// Any bytes as an importance matrix of either form: a typed error, or finite sums and counts that
/// fit each other, merge with themselves and give an importance; in the memory that is promised.
#include <cmath>
#include <cstdio>
#include <cstdlib>

#include "fuzz/memory.hpp"
#include "subbyte/checkpoint/imatrix.hpp"

namespace {

void expect(bool holds, const char* law) {
  if (holds) return;
  std::fprintf(stderr, "accepted, but not so: %s\n", law);
  std::abort();
}

bool all_counts(const std::vector<double>& values) {
  for (const double v : values) {
    if (!(v >= 0 && std::isfinite(v))) return false;
  }
  return true;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  namespace checkpoint = subbyte::checkpoint;
  const fuzz::memory_bound memory;
  try {
    const checkpoint::imatrix read = checkpoint::parse_imatrix({data, size}, "fuzz");
    memory.expect_at_most(16 * size + 8192);
    checkpoint::imatrix twice = read;
    checkpoint::merge_imatrix(twice, read);
    for (const auto& [name, entry] : read.entries) {
      expect(!name.empty() && read.find(name) == &entry, "an entry is found under its name");
      expect(!entry.counts.empty() && !entry.sum_square.empty() &&
                 entry.sum_square.size() % entry.counts.size() == 0,
             "sums and counts fit each other");
      expect(all_counts(entry.sum_square) && all_counts(entry.counts),
             "sums and counts are finite");
      const auto matrices = static_cast<subbyte::index_t>(entry.counts.size());
      const auto cols = static_cast<subbyte::index_t>(entry.sum_square.size()) / matrices;
      const auto importance = checkpoint::importance_of(entry, name, cols, matrices);
      const auto again = checkpoint::importance_of(*twice.find(name), name, cols, matrices);
      for (subbyte::index_t i = 0; i < importance.size(); ++i) {
        expect(importance.data()[i] >= 0 && std::isfinite(importance.data()[i]),
               "importance is finite and not negative");
        expect(importance.data()[i] == again.data()[i], "twice the data have the same means");
      }
    }
  } catch (const subbyte::error&) {
    memory.expect_at_most(16 * size + 8192);
  }
  return 0;
}
