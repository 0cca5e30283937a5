// SPDX-License-Identifier: Apache-2.0
/// Reads the golden .safetensors files of the tests; trusts them, and needs nothing of the library.
#pragma once

#if __has_include(<nlohmann/json.hpp>)
#define SUBBYTE_TEST_HAS_SAFETENSORS 1

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <fstream>
#include <iterator>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "support/catch.hpp"

#if !defined(SUBBYTE_GOLDEN_DIR)
#error "define SUBBYTE_GOLDEN_DIR as the path of tests/golden"
#endif

namespace test_support {

class safetensors_bytes {
 public:
  /// `path` is relative to the golden folder.
  explicit safetensors_bytes(const std::string& path) {
    const std::string full = std::string(SUBBYTE_GOLDEN_DIR) + "/" + path;
    std::ifstream file(full, std::ios::binary);
    if (!file) FAIL("cannot open " << full);
    const std::vector<char> content{std::istreambuf_iterator<char>(file),
                                    std::istreambuf_iterator<char>()};
    std::uint64_t header_bytes = 0;
    if (content.size() < sizeof(header_bytes)) FAIL("truncated: " << full);
    std::memcpy(&header_bytes, content.data(), sizeof(header_bytes));
    const auto header = content.begin() + sizeof(header_bytes);
    const auto data = header + static_cast<std::ptrdiff_t>(header_bytes);
    header_ = nlohmann::json::parse(header, data);
    data_.assign(data, content.end());
  }

  [[nodiscard]] bool contains(const std::string& name) const { return header_.contains(name); }

  /// The elements of a tensor, row-major. T must be the tensor's type, or one of the same size.
  template <class T>
  [[nodiscard]] std::vector<T> elements(const std::string& name) const {
    const auto offsets = header_.at(name).at("data_offsets").get<std::vector<std::size_t>>();
    std::vector<T> result((offsets.at(1) - offsets.at(0)) / sizeof(T));
    if (offsets[1] > data_.size() || result.empty()) FAIL("bad tensor " << name);
    std::memcpy(result.data(), data_.data() + offsets[0], result.size() * sizeof(T));
    return result;
  }

 private:
  nlohmann::json header_;
  std::vector<char> data_;
};

}  // namespace test_support

#endif
