// SPDX-License-Identifier: Apache-2.0
#include "subbyte/layout/awq_int32.hpp"

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

TEST_CASE("awq_gemm: eight rows of a column share a word in the order 0 2 4 6 1 3 5 7") {
  CHECK(packed_words<subbyte::awq_gemm<4>>(counting(8, 8), 8) == words{0x75316420U});
  CHECK(packed_words<subbyte::awq_gemm<8>>(counting(4, 8), 4) == words{0x03020100U});
  // Word c of column k is word k * (n / 8) + c.
  static_assert(subbyte::awq_gemm<4>::bit_offset({24, 5}, 17, 3, 0) == (3 * 3 + 2) * 32 + 16);
  CHECK(subbyte::awq_gemm<4>::accepts({8, 5}));
  CHECK_FALSE(subbyte::awq_gemm<4>::accepts({12, 8}));
  CHECK_FALSE(subbyte::awq_gemm<3>::accepts({16, 8}));
}

TEST_CASE("awq_gemv: a row is one stream") {
  CHECK(packed_words<subbyte::awq_gemv>(counting(8, 8), 1) == words{0x76543210U});
  CHECK_FALSE(subbyte::awq_gemv::accepts({8, 12}));
}

TEST_CASE("awq_gemv: a row of zero points fills whole words, more of them for small groups") {
  CHECK(subbyte::awq_zero_words(1, 128) == 1);
  CHECK(subbyte::awq_zero_words(8, 128) == 1);
  CHECK(subbyte::awq_zero_words(9, 128) == 2);
  CHECK(subbyte::awq_zero_words(17, 256) == 3);
  CHECK(subbyte::awq_zero_words(1, 64) == 2);
  CHECK(subbyte::awq_zero_words(17, 64) == 4);
  CHECK(subbyte::awq_zero_words(1, 32) == 4);
  CHECK(subbyte::awq_zero_words(33, 32) == 8);
  CHECK(packed_words<subbyte::awq_gemv_zeros<2>>({1, 2, 3, 4}, 2) == words{0x21U, 0, 0x43U, 0});
}

TEST_CASE("awq_gemv_tiled: the words of a tile") {
  bytes codes;
  for (int r = 0; r < 4; ++r) {
    for (int k = 0; k < 64; ++k) codes.push_back(static_cast<std::uint8_t>(r == 0 ? k % 16 : r));
  }
  const bytes out = packed<subbyte::awq_gemv_tiled>(codes, 4);
  const auto word = [&](std::size_t t) { return out[2 * t] | out[2 * t + 1] << 8; };
  CHECK(word(0) == 0x8080);
  CHECK(word(7) == 0xF7F7);
  CHECK(word(16) == 0x1111);
  CHECK(word(63) == 0x3333);
  using layout = subbyte::awq_gemv_tiled;
  static_assert(layout::bit_offset({8, 128}, 1, 64 + 32 + 3 + 16, 0) == (64 + 16 + 8 + 3) * 16 + 8);
  static_assert(layout::bit_offset({8, 128}, 4, 0, 0) == 128 * 16);
  CHECK_FALSE(layout::accepts({2, 64}));
  CHECK_FALSE(layout::accepts({4, 32}));
}

#if defined(__cpp_exceptions)
namespace {

bytes zeros_of(const subbyte::safetensors::file& file) {
  const auto zeros = test_support::golden_values<std::int32_t>(file, "in.zeros");
  return bytes(zeros.begin(), zeros.end());
}

template <class L>
void check_both_ways(const subbyte::safetensors::file& file, const std::string& name,
                     const bytes& codes, index_t rows) {
  const bytes stored = test_support::golden_values<std::uint8_t>(file, name);
  CHECK((packed<L>(codes, rows) == stored));
  CHECK((test_support::unpacked<L>(stored, rows, static_cast<index_t>(codes.size()) / rows) ==
         codes));
}

}  // namespace

TEST_CASE("awq layouts: the bytes of AutoAWQ's three kinds of linear layers") {
  for (const char* const name : {"layout_g128_32x256_bias", "layout_g128_32x512",
                                 "layout_g32_32x128", "layout_g64_32x384"}) {
    INFO(name);
    const auto file = test_support::golden_file(std::string("autoawq/") + name + ".safetensors");
    const bytes codes = test_support::golden_values<std::uint8_t>(file, "in.codes");
    const bytes zeros = zeros_of(file);
    check_both_ways<subbyte::awq_gemm<4>>(file, "gemm.qweight", codes, 32);
    check_both_ways<subbyte::awq_gemm<4>>(file, "gemm.qzeros", zeros, 32);
    check_both_ways<subbyte::awq_gemv>(file, "gemv.qweight", codes, 32);
    check_both_ways<subbyte::awq_gemv_tiled>(file, "gemv_fast.qweight", codes, 32);
    check_both_ways<subbyte::gptq_int32<4>>(file, "exllama.qweight", codes, 32);
    const int group_size = std::stoi(std::string(name).substr(8));
    CHECK(subbyte::with_bits<1, 2, 4>(128 / group_size, [&](auto multiple) {
      using layout = subbyte::awq_gemv_zeros<decltype(multiple)::value>;
      check_both_ways<layout>(file, "gemv.qzeros", zeros, 32);
    }));
    // Scales keep the slots of the zero points.
    CHECK(file.tensor("gemv.scales").shape()[1] ==
          8 * subbyte::awq_zero_words(static_cast<index_t>(zeros.size()) / 32, group_size));
  }
}

TEST_CASE("awq_gemm: the bytes of gptqmodel at every width") {
  for (const char* const name :
       {"awq_b2_asym_g32_32x96", "awq_b3_asym_g32_32x128", "awq_b4_asym_g32_32x128",
        "awq_b4_sym_g-1_32x64", "awq_b5_asym_g32_64x64", "awq_b8_asym_g64_32x128"}) {
    INFO(name);
    const auto file = test_support::golden_file(std::string("gptqmodel/") + name + ".safetensors");
    const bytes codes = test_support::golden_values<std::uint8_t>(file, "in.codes");
    const index_t rows = file.tensor("in.codes").shape()[0];
    CHECK(subbyte::with_bits<2, 3, 4, 5, 8>(name[5] - '0', [&](auto bits) {
      using layout = subbyte::awq_gemm<decltype(bits)::value>;
      check_both_ways<layout>(file, "qweight", codes, rows);
      check_both_ways<layout>(file, "qzeros", zeros_of(file), rows);
    }));
  }
}
#endif
