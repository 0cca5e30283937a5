// SPDX-License-Identifier: Apache-2.0
#include "subbyte/layout/matmul_nbits.hpp"

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/packed.hpp"
#if defined(__cpp_exceptions)
#include "subbyte/num/half.hpp"
#include "support/golden_python.hpp"
#endif

namespace {

using subbyte::index_t;
using test_support::packed;
using test_support::unpacked;
using bytes = std::vector<std::uint8_t>;

}  // namespace

TEST_CASE("matmul_nbits: low code first, and the last block of a row filled with zeros") {
  const bytes codes = {1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 0, 15,
                       1, 1, 1, 1, 1, 1, 1, 1, 1, 1,  1,  1,  1,  1,  1,  1, 2};
  const bytes out = packed<subbyte::matmul_nbits<4, 16>>(codes, 2);
  bytes expected = {0x21, 0x43, 0x65, 0x87, 0xA9, 0xCB, 0xED, 0x0F, 0x0F, 0, 0, 0, 0, 0, 0, 0,
                    0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x11, 0x02, 0, 0, 0, 0, 0, 0, 0};
  CHECK(out == expected);
  CHECK(packed<subbyte::matmul_nbits_zeros<4>>({1, 2, 3, 4, 5, 6}, 2) ==
        bytes{0x21, 0x03, 0x54, 0x06});
  CHECK(packed<subbyte::matmul_nbits_zeros<2>>({1, 2, 3, 3, 2}, 1) == bytes{0xF9, 0x02});
}

#if defined(__cpp_exceptions)
namespace {

// (code - zero) * scale of every stored code must be what the package says it decodes to.
template <int Bits, index_t Block>
void check_file(const std::string& name, const std::string& scale_type) {
  const auto file = test_support::golden_file("onnxruntime/" + name + ".safetensors");
  const index_t n = file.tensor("B").shape()[0];
  const index_t k = file.tensor("A").shape()[1];
  const index_t groups = file.tensor("B").shape()[1];
  CHECK(groups == (k + Block - 1) / Block);
  const bytes stored = test_support::golden_values<std::uint8_t>(file, "B");
  const bytes codes = unpacked<subbyte::matmul_nbits<Bits, Block>>(stored, n, k);
  CHECK((packed<subbyte::matmul_nbits<Bits, Block>>(codes, n) == stored));
  bytes zeros(static_cast<std::size_t>(n * groups), 1 << (Bits - 1));
  if (file.find_tensor("zero_points") != nullptr) {
    const bytes stored_zeros = test_support::golden_values<std::uint8_t>(file, "zero_points");
    zeros = unpacked<subbyte::matmul_nbits_zeros<Bits>>(stored_zeros, n, groups);
    // The package fills the spare nibble of a row with 8, this layout with 0.
    bytes ours = packed<subbyte::matmul_nbits_zeros<Bits>>(zeros, n);
    if (Bits == 4 && groups % 2 == 1) {
      const auto row_bytes = static_cast<std::size_t>(groups + 1) / 2;
      for (std::size_t at = row_bytes - 1; at < ours.size(); at += row_bytes) {
        CHECK(ours[at] >> 4 == 0);
        ours[at] = static_cast<std::uint8_t>(ours[at] | 0x80);
      }
    }
    CHECK((ours == stored_zeros));
  }
  if (file.find_tensor("dequantized_by_definition") == nullptr) return;
  const auto expected = test_support::golden_values<float>(file, "dequantized_by_definition");
  std::vector<float> scales;
  if (scale_type == "f16") {
    for (const auto s : test_support::golden_values<std::uint16_t>(file, "scales")) {
      scales.push_back(subbyte::half::from_bits(s).to_float());
    }
  } else {
    scales = test_support::golden_values<float>(file, "scales");
  }
  index_t wrong = 0;
  for (index_t r = 0; r < n; ++r) {
    for (index_t c = 0; c < k; ++c) {
      const auto at = static_cast<std::size_t>(r * k + c);
      const auto group = static_cast<std::size_t>(r * groups + c / Block);
      const auto steps = static_cast<float>(codes[at] - zeros[group]);
      wrong += scales[group] * steps != expected[at];
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("matmul_nbits: the bytes of onnxruntime's quantizer decode as it says") {
  check_file<2, 32>("matmulnbits_b2_bs32_asym_k128_n32_float32", "f32");
  check_file<2, 64>("matmulnbits_b2_bs64_sym_k128_n32_float32", "f32");
  check_file<4, 16>("matmulnbits_b4_bs16_asym_k96_n24_float32", "f32");
  check_file<4, 32>("matmulnbits_b4_bs32_asym_k128_n32_float16", "f16");
  check_file<4, 32>("matmulnbits_b4_bs32_asym_k128_n32_float32_acc4", "f32");
  check_file<4, 32>("matmulnbits_b4_bs32_asym_k72_n20_float32", "f32");
  check_file<4, 32>("matmulnbits_b4_bs32_sym_k128_n32_float32", "f32");
  check_file<4, 64>("matmulnbits_b4_bs64_sym_k256_n16_float32_acc4", "f32");
  check_file<4, 128>("matmulnbits_b4_bs128_asym_k384_n16_float32", "f32");
  check_file<8, 32>("matmulnbits_b8_bs32_sym_k128_n32_float32", "f32");
  check_file<8, 64>("matmulnbits_b8_bs64_asym_k128_n32_float32_acc4", "f32");
}
#endif
