// SPDX-License-Identifier: Apache-2.0
/// Any bytes as a safetensors file: a typed error, or a file that is what its bytes say.
#include <cstdio>
#include <cstdlib>

#include "support/safetensors_walk.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> bytes(data, size);
  try {
    const subbyte::safetensors::file file = subbyte::safetensors::parse(bytes, "fuzz");
    const test_support::safetensors_walk walk(file, bytes);
    if (!walk.flaw().empty()) {
      std::fprintf(stderr, "accepted, but: %s\n", walk.flaw().c_str());
      std::abort();
    }
  } catch (const subbyte::error&) {
  }
  return 0;
}
