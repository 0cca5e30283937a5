// SPDX-License-Identifier: Apache-2.0
/// Pieces of GGUF files, byte by byte: nothing is checked, so that files can lie.
#pragma once

#include <string_view>
#include <vector>

#include "support/files.hpp"

namespace test_support::gguf_bytes {

inline constexpr std::uint32_t u32_type = 4;
inline constexpr std::uint32_t string_type = 8;
inline constexpr std::uint32_t array_type = 9;

[[nodiscard]] inline byte_string header(std::uint64_t tensors, std::uint64_t entries,
                                        std::uint32_t version = 3) {
  return byte_string().raw("GGUF").u32(version).u64(tensors).u64(entries);
}

inline byte_string& info(byte_string& b, std::string_view name,
                         const std::vector<std::uint64_t>& dims, std::uint32_t type,
                         std::uint64_t offset) {
  b.text(name).u32(static_cast<std::uint32_t>(dims.size()));
  for (const std::uint64_t extent : dims) b.u64(extent);
  return b.u32(type).u64(offset);
}

/// A file with one tensor and `data_bytes` of data.
[[nodiscard]] inline bytes one_tensor(const std::vector<std::uint64_t>& dims, std::uint32_t type,
                                      std::uint64_t offset, std::size_t data_bytes) {
  byte_string b = header(1, 0);
  return info(b, "w", dims, type, offset).pad(32).zeros(data_bytes).content;
}

}  // namespace test_support::gguf_bytes
