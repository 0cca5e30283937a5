// SPDX-License-Identifier: Apache-2.0
#include "subbyte/layout/compressed_tensors.hpp"

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/packed.hpp"
#if defined(__cpp_exceptions)
#include "support/golden_python.hpp"
#endif

namespace {

using subbyte::index_t;
using test_support::counting;
using test_support::packed;
using test_support::packed_words;
using bytes = std::vector<std::uint8_t>;
using words = std::vector<std::uint32_t>;

}  // namespace

TEST_CASE("compressed_tensors: dense words, and words with unused top bits before 0.17") {
  CHECK(packed_words<subbyte::compressed_tensors<4>>(counting(8, 8), 1) == words{0x76543210U});
  CHECK(packed_words<subbyte::compressed_tensors<3>>(counting(32, 8), 1) ==
        words{0x88FAC688U, 0xC688FAC6U, 0xFAC688FAU});
  // The last word of a row is its own.
  CHECK(packed_words<subbyte::compressed_tensors<4>>(counting(18, 16), 2) ==
        words{0x76543210U, 0x8U, 0x0FEDCBA9U, 0x1U});
  // Codes 0 to 9 and 10, 11 of i mod 8.
  CHECK(packed_words<subbyte::compressed_tensors_padded<3>>(counting(12, 8), 1) ==
        words{0x08FAC688U, 0x1AU});
  const bytes codes = counting(74, 16);
  CHECK(packed<subbyte::compressed_tensors_padded<4>>(codes, 2) ==
        packed<subbyte::compressed_tensors<4>>(codes, 2));
}

TEST_CASE("compressed_tensors: from 151 columns on the width of weight_packed tells its packing") {
  const auto differ = []<int Bits>(std::integral_constant<int, Bits>, index_t k) {
    return subbyte::compressed_tensors<Bits>::bytes({1, k}) <
           subbyte::compressed_tensors_padded<Bits>::bytes({1, k});
  };
  std::vector<index_t> columns = {32, 64, 96, 128};  // and multiples of 32 below
  for (index_t k = 151; k <= 4096; ++k) columns.push_back(k);
  for (const index_t k : columns) {
    CHECK(differ(std::integral_constant<int, 3>{}, k));
    CHECK(differ(std::integral_constant<int, 5>{}, k));
    CHECK(differ(std::integral_constant<int, 6>{}, k));
    CHECK(differ(std::integral_constant<int, 7>{}, k));
  }
  CHECK_FALSE(differ(std::integral_constant<int, 3>{}, 150));
}

#if defined(__cpp_exceptions)
namespace {

template <class L>
void check_both_ways(const bytes& stored, const bytes& codes, index_t rows) {
  CHECK((packed<L>(codes, rows) == stored));
  CHECK((test_support::unpacked<L>(stored, rows, static_cast<index_t>(codes.size()) / rows) ==
         codes));
}

bytes unsigned_codes(const std::vector<std::int8_t>& values, int bits) {
  bytes codes;
  for (const int v : values) codes.push_back(static_cast<std::uint8_t>(v + (1 << (bits - 1))));
  return codes;
}

template <template <int> class Weights, template <int> class Zeros, int Bits>
void check_width(const subbyte::safetensors::file& file) {
  INFO(Bits << " bits");
  const std::string b = "b" + std::to_string(Bits) + "_";
  for (const std::string shape : {"2x37", "3x64", "37x2_dim0", "64x3_dim0"}) {
    const bytes codes =
        unsigned_codes(test_support::golden_values<std::int8_t>(file, b + shape + ".value"), Bits);
    const bytes stored = test_support::golden_values<std::uint8_t>(file, b + shape + ".packed");
    const index_t rows = file.tensor(b + shape + ".value").shape()[0];
    if (shape.find("dim0") == std::string::npos) {
      check_both_ways<Weights<Bits>>(stored, codes, rows);
    } else {
      check_both_ways<Zeros<Bits>>(stored, codes, rows);
    }
  }
}

template <template <int> class Weights, template <int> class Zeros>
void check_file(const subbyte::safetensors::file& file) {
  check_width<Weights, Zeros, 1>(file);
  check_width<Weights, Zeros, 2>(file);
  check_width<Weights, Zeros, 3>(file);
  check_width<Weights, Zeros, 4>(file);
  check_width<Weights, Zeros, 5>(file);
  check_width<Weights, Zeros, 6>(file);
  check_width<Weights, Zeros, 7>(file);
  check_width<Weights, Zeros, 8>(file);
}

}  // namespace

TEST_CASE("compressed_tensors: the words of pack_to_int32, version 0.20") {
  const auto file = test_support::golden_file("compressed_tensors/pack_to_int32.safetensors");
  check_file<subbyte::compressed_tensors, subbyte::compressed_tensors_zeros>(file);
  // A stack of matrices is packed matrix by matrix: here all rows alike.
  const bytes codes =
      unsigned_codes(test_support::golden_values<std::int8_t>(file, "b3_2x3x40.value"), 3);
  check_both_ways<subbyte::compressed_tensors<3>>(
      test_support::golden_values<std::uint8_t>(file, "b3_2x3x40.packed"), codes, 6);
}

TEST_CASE("compressed_tensors: the words of pack_to_int32, version 0.13") {
  const auto file =
      test_support::golden_file("compressed_tensors/pack_to_int32_0.13.0.safetensors");
  check_file<subbyte::compressed_tensors_padded, subbyte::compressed_tensors_padded_zeros>(file);
}

TEST_CASE("compressed_tensors: the zero points of its checkpoints") {
  for (const char* const name :
       {"pack_b2_asym_group32_32x128_float16", "pack_b3_asym_group128_36x256_float16",
        "pack_b4_asym_channel_33x100_float32", "pack_b4_asym_group64_40x128_float16",
        "pack_b6_asym_group32_20x64_float32"}) {
    INFO(name);
    const auto file =
        test_support::golden_file(std::string("compressed_tensors/") + name + ".safetensors");
    CHECK(subbyte::with_bits<2, 3, 4, 6>(name[6] - '0', [&](auto bits) {
      constexpr int b = decltype(bits)::value;
      bytes codes;
      for (const int z : test_support::golden_values<std::int32_t>(file, "in.weight_zero_point")) {
        codes.push_back(static_cast<std::uint8_t>(z + (1 << (b - 1))));
      }
      check_both_ways<subbyte::compressed_tensors_zeros<b>>(
          test_support::golden_values<std::uint8_t>(file, "layer.weight_zero_point"), codes,
          file.tensor("in.weight_zero_point").shape()[0]);
    }));
  }
}
#endif
