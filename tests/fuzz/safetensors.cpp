// SPDX-License-Identifier: Apache-2.0
/// Any bytes as a safetensors file: a typed error, or a file that is what its bytes say; in the
/// memory that is promised.
#include <cstdio>
#include <cstdlib>

#include "fuzz/memory.hpp"
#include "support/safetensors_walk.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> bytes(data, size);
  const fuzz::memory_bound memory;
  const std::size_t memory_allowed = 32 * size + 16384;
  try {
    const subbyte::safetensors::file file = subbyte::safetensors::parse(bytes, "fuzz");
    memory.expect_at_most(memory_allowed);
    const test_support::safetensors_walk walk(file, bytes);
    if (!walk.flaw().empty()) {
      std::fprintf(stderr, "accepted, but: %s\n", walk.flaw().c_str());
      std::abort();
    }
  } catch (const subbyte::error&) {
    memory.expect_at_most(memory_allowed);
  }
  return 0;
}
