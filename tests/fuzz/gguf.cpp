// SPDX-License-Identifier: Apache-2.0
/// Any bytes as a GGUF file: a typed error, or a file that is what its bytes say.
#include <cstdio>
#include <cstdlib>

#include "support/gguf_walk.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::span<const std::uint8_t> bytes(data, size);
  for (const bool metadata_only : {false, true}) {
    try {
      const subbyte::gguf::file file =
          subbyte::gguf::parse(bytes, "fuzz", {.metadata_only = metadata_only});
      const test_support::gguf_walk walk(file, bytes, metadata_only);
      if (!walk.flaw().empty()) {
        std::fprintf(stderr, "accepted, but: %s\n", walk.flaw().c_str());
        std::abort();
      }
    } catch (const subbyte::error&) {
    }
  }
  return 0;
}
