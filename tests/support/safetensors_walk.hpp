// SPDX-License-Identifier: Apache-2.0
/// Whether an accepted safetensors file was read correctly: its header is parsed again into a
/// document, and compared. Needs no test framework, so that fuzz targets can use it.
#pragma once

#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <span>
#include <string>
#include <vector>

#include "subbyte/io/safetensors.hpp"

namespace test_support {

/// Reads everything that a file offers and compares it with the bytes it was made from.
class safetensors_walk {
 public:
  safetensors_walk(const subbyte::safetensors::file& file, std::span<const std::uint8_t> bytes) {
    std::uint64_t header = 0;
    std::memcpy(&header, bytes.data(), sizeof(header));
    expect(header <= bytes.size() - 8, "the header goes past the end of the file");
    expect(file.size_bytes() == static_cast<subbyte::index_t>(bytes.size()), "size");
    expect(file.shard_count() == 1, "number of shards");
    if (!flaw_.empty()) return;
    const auto* const text = reinterpret_cast<const char*>(bytes.data()) + 8;
    const auto document = nlohmann::json::parse(text, text + header);
    metadata(file, document);
    data(file, document, bytes.subspan(8 + static_cast<std::size_t>(header)));
  }

  /// The first thing that is wrong; empty if nothing is.
  [[nodiscard]] const std::string& flaw() const { return flaw_; }
  /// Depends on every name and on the first and last elements of every tensor.
  [[nodiscard]] std::uint64_t sum() const { return sum_; }

 private:
  __extension__ using wide = unsigned __int128;

  void expect(bool holds, const char* what, std::string_view whose = {}) {
    if (holds || !flaw_.empty()) return;
    flaw_ = std::string(what) + (whose.empty() ? "" : " of ") + subbyte::printable(whose);
  }

  void metadata(const subbyte::safetensors::file& file, const nlohmann::json& document) {
    const auto pairs = document.find("__metadata__");
    expect(file.metadata().size() == (pairs == document.end() ? 0 : pairs->size()), "metadata");
    for (const subbyte::safetensors::metadata_entry& m : file.metadata()) {
      if (!flaw_.empty()) return;
      const auto pair = pairs->find(std::string(m.key));
      expect(pair != pairs->end() && pair->get<std::string>() == m.value, "metadata", m.key);
    }
    expect(file.tensors().size() + (pairs == document.end() ? 0 : 1) == document.size(),
           "number of tensors");
  }

  void data(const subbyte::safetensors::file& file, const nlohmann::json& document,
            std::span<const std::uint8_t> bytes) {
    std::size_t end = 0;
    for (const subbyte::safetensors::tensor& t : file.tensors()) {
      if (!flaw_.empty()) return;
      expect(file.find_tensor(t.name()) == &t, "a tensor that is not found", t.name());
      const auto found = document.find(std::string(t.name()));
      expect(found != document.end(), "a name that is not in the header", t.name());
      if (!flaw_.empty()) return;
      expect(found->at("dtype") == t.type_name(), "type", t.name());
      expect(found->at("shape") ==
                 nlohmann::json(std::vector<subbyte::index_t>(t.shape().begin(), t.shape().end())),
             "shape", t.name());
      expect(found->at("data_offsets") == nlohmann::json({end, end + t.bytes().size()}), "offsets",
             t.name());
      wide size = 1;
      for (const subbyte::index_t extent : t.shape()) {
        expect(extent >= 0, "extent", t.name());
        size *= static_cast<std::uint64_t>(extent);
        expect(size <= wide{std::uint64_t{1} << 63} - 1, "number of elements", t.name());
        if (!flaw_.empty()) return;
      }
      const auto elements = static_cast<std::uint64_t>(size);
      expect(
          t.size() == static_cast<subbyte::index_t>(elements) && t.rows() >= 0 && t.cols() >= 0 &&
              wide{static_cast<std::uint64_t>(t.rows())} * static_cast<std::uint64_t>(t.cols()) ==
                  elements,
          "rows and columns", t.name());
      expect(t.size() != 0 || (t.rows() < (1LL << 31) && t.cols() < (1LL << 31)),
             "extents of an empty tensor", t.name());
      expect(
          wide{elements} * static_cast<unsigned>(subbyte::safetensors::traits_of(t.type()).bits) ==
              wide{t.bytes().size()} * 8,
          "bytes", t.name());
      expect(t.bytes().size() <= bytes.size() - end, "data past the end", t.name());
      expect(t.bytes().empty() || t.bytes().data() == bytes.data() + end, "place of the data",
             t.name());
      end += t.bytes().size();
      for (const char c : t.name()) sum_ = sum_ * 31 + static_cast<unsigned char>(c);
      if (flaw_.empty() && !t.bytes().empty()) read(t);
    }
    expect(end == bytes.size(), "bytes that no tensor has");
  }

  void read(const subbyte::safetensors::tensor& t) {
    sum_ = sum_ * 31 + t.bytes().front();
    sum_ = sum_ * 31 + t.bytes().back();
    if (!t.is_float() || t.cols() > 4096) return;
    std::vector<float> row(static_cast<std::size_t>(t.cols()));
    t.read_row(t.rows() - 1, row.data());
    sum_ = sum_ * 31 + subbyte::bit_cast<std::uint32_t>(row.back());
  }

  std::string flaw_;
  std::uint64_t sum_ = 0;
};

}  // namespace test_support
