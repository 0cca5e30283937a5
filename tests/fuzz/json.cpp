// SPDX-License-Identifier: Apache-2.0
/// Any bytes as a JSON text: a typed error, or a value that is the same when written and read
/// again, in the memory that is promised; and any value as a quantization configuration.
#include <cstdio>
#include <cstdlib>

#include "fuzz/memory.hpp"
#include "subbyte/checkpoint/quantization_config.hpp"
#include "subbyte/io/json_value.hpp"

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  const std::string_view text(reinterpret_cast<const char*>(data), size);
  const fuzz::memory_bound memory;
  try {
    const subbyte::json_value value = subbyte::parse_json(text, "fuzz");
    memory.expect_at_most(subbyte::json_memory_factor * size + 16384);
    if (!nlohmann::json::accept(text)) {
      std::fputs("accepted, but it is no JSON\n", stderr);
      std::abort();
    }
    if (!(subbyte::parse_json(value.to_text(), "fuzz") == value)) {
      std::fputs("another value after it was written and read\n", stderr);
      std::abort();
    }
    static_cast<void>(subbyte::checkpoint::read_quantization_config(value, "fuzz"));
  } catch (const subbyte::error&) {
  }
  return 0;
}
