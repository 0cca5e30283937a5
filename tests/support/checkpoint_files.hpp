// SPDX-License-Identifier: Apache-2.0
/// Files for the tests of checkpoint/: golden tensors of the Python packages, small files made in
/// memory, and matrices of codes.
#pragma once

#include <cstring>  // std::memcmp
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "subbyte/checkpoint/stored_tensor.hpp"
#include "subbyte/io/json_value.hpp"
#include "subbyte/io/safetensors.hpp"
#include "subbyte/matrix/group_codes.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/files.hpp"

namespace test_support {

/// A file of tests/golden/python.
[[nodiscard]] inline std::string golden_path(const std::string& name) {
  return SUBBYTE_GOLDEN_DIR "/python/" + name;
}
[[nodiscard]] inline subbyte::safetensors::file golden_tensors(const std::string& name) {
  return subbyte::safetensors::file(golden_path(name));
}

/// What a golden file says its tensors were made with; null where that is no JSON.
[[nodiscard]] inline subbyte::json_value golden_settings(const subbyte::safetensors::file& file) {
  for (const auto& pair : file.metadata()) {
    if (pair.key == "settings" && pair.value[0] == '{') {
      return subbyte::parse_json(pair.value, "settings");
    }
  }
  return {};
}

/// A safetensors file in memory; tensors in the order given.
class tensor_file {
 public:
  explicit tensor_file(const subbyte::checkpoint::stored_tensors& tensors) {
    std::string header = "{";
    std::vector<std::uint8_t> data;
    for (const auto& t : tensors) {
      if (header.size() > 1) header += ',';
      header += '"' + t.name + "\":{\"dtype\":\"" + subbyte::safetensors::traits_of(t.type).name +
                "\",\"shape\":[";
      for (std::size_t d = 0; d < t.shape.size(); ++d) {
        header += (d != 0 ? "," : "") + std::to_string(t.shape[d]);
      }
      header += "],\"data_offsets\":[" + std::to_string(data.size()) + ',';
      data.insert(data.end(), t.bytes.begin(), t.bytes.end());
      header += std::to_string(data.size()) + "]}";
    }
    header += '}';
    byte_string file;
    file.u64(header.size()).raw(header);
    file.raw({reinterpret_cast<const char*>(data.data()), data.size()});
    content_ = std::move(file.content);
  }

  [[nodiscard]] subbyte::safetensors::file open() const {
    return subbyte::safetensors::parse(content_, "in memory");
  }

 private:
  bytes content_;
};

/// Calls refused(change, code, subject, text): what load(file, settings) throws for good tensors
/// and settings after change(tensors, settings) has that code, subject and, somewhere, text.
template <class Settings, class Load>
class refusals {
 public:
  refusals(const subbyte::checkpoint::stored_tensors& good, const Settings& settings, Load load)
      : good_(good), settings_(settings), load_(load) {}

  template <class Change>
  void operator()(const Change& change, subbyte::errc code, const std::string& subject,
                  const char* text = "") const {
    auto tensors = good_;
    Settings settings = settings_;
    change(tensors, settings);
    const tensor_file file(tensors);
    const auto e = error_of([&] { load_(file.open(), settings); });
    CAPTURE(e.what(), text);
    CHECK(e.code() == code);
    CHECK(e.subject() == subject);
    CHECK(contains(e.what(), text));
  }

 private:
  subbyte::checkpoint::stored_tensors good_;
  Settings settings_;
  Load load_;
};

[[nodiscard]] inline bool same_tensor(const subbyte::safetensors::tensor& a,
                                      const subbyte::checkpoint::stored_tensor& b) {
  return a.type() == b.type && a.bytes().size() == b.bytes.size() &&
         std::equal(a.shape().begin(), a.shape().end(), b.shape.begin(), b.shape.end()) &&
         std::memcmp(a.bytes().data(), b.bytes.data(), b.bytes.size()) == 0;
}

/// Whether the tensor of that leaf among those stored equals the file's tensor of that name.
[[nodiscard]] inline bool stored_equals(const subbyte::checkpoint::stored_tensors& stored,
                                        const std::string& name,
                                        const subbyte::safetensors::file& file,
                                        const std::string& golden_name) {
  for (const auto& t : stored) {
    if (t.name == name) return same_tensor(file.tensor(golden_name), t);
  }
  return false;
}

/// Whether codes are those of a golden `in.codes`, scales `in.scales` rounded to the stored type,
/// and zero points `in.zeros`.
inline void check_inputs(const subbyte::group_codes& w, const subbyte::safetensors::file& file) {
  using subbyte::index_t;
  const auto codes = file.tensor("in.codes").view<std::uint8_t>();
  REQUIRE(w.rows() == codes.extent(0));
  REQUIRE(w.cols() == codes.extent(1));
  CHECK(std::memcmp(w.codes.data(), codes.data(), static_cast<std::size_t>(codes.size())) == 0);
  const auto scales = file.tensor("in.scales").view<float>();
  REQUIRE(w.groups() == scales.extent(1));
  const auto* const zeros = file.find_tensor("in.zeros");
  index_t wrong_scales = 0, wrong_zeros = 0;
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t g = 0; g < w.groups(); ++g) {
      wrong_scales += w.scales(r, g) != subbyte::nearest(w.stored_scale, scales(r, g));
      if (zeros != nullptr) {
        wrong_zeros += w.zero(r, g) != static_cast<float>(zeros->view<std::int32_t>()(r, g));
      }
    }
  }
  CHECK(wrong_scales == 0);
  CHECK(wrong_zeros == 0);
}

/// How many weights differ from a file's `dequantized` by one rounding to its element type.
[[nodiscard]] inline subbyte::index_t wrong_weights(const subbyte::group_codes& w,
                                                    const subbyte::safetensors::file& file,
                                                    const std::string& name = "dequantized") {
  using subbyte::index_t;
  const subbyte::safetensors::tensor& t = file.tensor(name);
  const auto type = t.type() == subbyte::safetensors::dtype::f16    ? subbyte::scale_type::f16
                    : t.type() == subbyte::safetensors::dtype::bf16 ? subbyte::scale_type::bf16
                                                                    : subbyte::scale_type::f32;
  std::vector<float> expected(static_cast<std::size_t>(t.size()));
  t.to_float(expected.data());
  index_t wrong = 0;
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t k = 0; k < w.cols(); ++k) {
      wrong += subbyte::nearest(type, w.value(r, k)) !=
               expected[static_cast<std::size_t>(r * w.cols() + k)];
    }
  }
  return wrong;
}

struct codes_shape {
  subbyte::index_t rows, cols, group_size;
};

/// Random codes and positive f16 scales; zero points in [low, high], or none if low > high.
[[nodiscard]] inline subbyte::group_codes random_codes(int bits, codes_shape shape, int low,
                                                       int high, std::uint64_t seed) {
  using subbyte::index_t;
  std::mt19937_64 generator(seed);
  subbyte::group_codes w;
  w.bits = bits;
  w.group_size = shape.group_size;
  w.codes = subbyte::tensor<std::uint8_t, 2>(shape.rows, shape.cols);
  for (index_t i = 0; i < w.codes.size(); ++i) {
    w.codes.data()[i] = static_cast<std::uint8_t>(generator() & ((1U << bits) - 1));
  }
  w.scales = subbyte::tensor<float, 2>(shape.rows, w.groups());
  for (index_t i = 0; i < w.scales.size(); ++i) {
    w.scales.data()[i] =
        subbyte::half::nearest(0.01F + static_cast<float>(generator() % 1000) * 1e-4F).to_float();
  }
  if (low > high) return w;
  w.zeros = subbyte::tensor<float, 2>(shape.rows, w.groups());
  for (index_t i = 0; i < w.zeros.size(); ++i) {
    w.zeros.data()[i] = static_cast<float>(
        low + static_cast<int>(generator() % static_cast<std::uint64_t>(high - low + 1)));
  }
  return w;
}

/// A random order of groups of equal size.
inline void scatter_columns(subbyte::group_codes& w, std::uint64_t seed) {
  using subbyte::index_t;
  std::mt19937_64 generator(seed);
  w.group_of_column = subbyte::tensor<std::int32_t, 1>(w.cols());
  for (index_t k = 0; k < w.cols(); ++k) {
    w.group_of_column(k) = static_cast<std::int32_t>(k / w.group_size);
  }
  for (index_t k = w.cols() - 1; k > 0; --k) {
    const auto other = static_cast<index_t>(generator() % static_cast<std::uint64_t>(k + 1));
    std::swap(w.group_of_column(k), w.group_of_column(other));
  }
}

template <class T, std::size_t Rank>
[[nodiscard]] bool same_elements(const subbyte::tensor<T, Rank>& a,
                                 const subbyte::tensor<T, Rank>& b) {
  for (std::size_t d = 0; d < Rank; ++d) {
    if (a.extent(d) != b.extent(d)) return false;
  }
  return a.size() == 0 ||
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size()) * sizeof(T)) == 0;
}

/// Everything equal, bit for bit; g_idx by the groups it gives.
[[nodiscard]] inline bool same_codes(const subbyte::group_codes& a, const subbyte::group_codes& b) {
  bool same = a.bits == b.bits && a.group_size == b.group_size && a.real_zeros == b.real_zeros &&
              a.stored_scale == b.stored_scale && same_elements(a.codes, b.codes) &&
              same_elements(a.scales, b.scales) && same_elements(a.zeros, b.zeros);
  for (subbyte::index_t k = 0; same && k < a.cols(); ++k) same = a.group_of(k) == b.group_of(k);
  return same;
}

}  // namespace test_support
