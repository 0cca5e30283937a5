// SPDX-License-Identifier: Apache-2.0
/// Any bytes as a GGUF file: a typed error, or a file that is what its bytes say; in the memory
/// that is promised.
#include <cstdio>
#include <cstdlib>

#include "fuzz/memory.hpp"
#include "support/gguf_walk.hpp"

namespace {

std::size_t memory_allowed(std::size_t header_bytes) { return 16 * header_bytes + 8192; }

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> bytes(data, size);
  for (const bool metadata_only : {false, true}) {
    const fuzz::memory_bound memory;
    try {
      const subbyte::gguf::file file =
          subbyte::gguf::parse(bytes, "fuzz", {.metadata_only = metadata_only});
      memory.expect_at_most(memory_allowed(static_cast<std::size_t>(file.data_offset())));
      const test_support::gguf_walk walk(file, bytes, metadata_only);
      if (!walk.flaw().empty()) {
        std::fprintf(stderr, "accepted, but: %s\n", walk.flaw().c_str());
        std::abort();
      }
    } catch (const subbyte::error&) {
      memory.expect_at_most(memory_allowed(size));
    }
  }
  return 0;
}
