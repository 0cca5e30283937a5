// SPDX-License-Identifier: Apache-2.0
/// Tensors of the files in tests/golden/python, in row order.
#pragma once

#include <cstring>
#include <string>
#include <vector>

#include "subbyte/io/safetensors.hpp"

namespace test_support {

/// The elements of a tensor of a golden file, whose element size must be T's.
template <class T>
std::vector<T> golden_values(const subbyte::safetensors::file& file, const std::string& name) {
  const auto bytes = file.tensor(name).bytes();
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

inline subbyte::safetensors::file golden_file(const std::string& path) {
  return subbyte::safetensors::file(std::string(SUBBYTE_GOLDEN_DIR "/python/") + path);
}

}  // namespace test_support
