// SPDX-License-Identifier: Apache-2.0
#include "subbyte/layout/tinygemm.hpp"

#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/packed.hpp"
#if defined(__cpp_exceptions)
#include "support/golden_python.hpp"
#endif

TEST_CASE("tinygemm: bytes pair rows 32 apart, and neighbours in a last block of 32 rows") {
  using layout = subbyte::tinygemm_avx512;
  static_assert(layout::bit_offset({96, 4}, 5, 0, 0) == 5 * 8);
  static_assert(layout::bit_offset({96, 4}, 37, 0, 0) == 5 * 8 + 4);
  static_assert(layout::bit_offset({96, 4}, 5, 3, 0) == (3 * 32 + 5) * 8);
  static_assert(layout::bit_offset({96, 4}, 64, 0, 0) == 64 * 2 * 8);
  static_assert(layout::bit_offset({96, 4}, 65, 1, 2) == (64 * 2 + 16) * 8 + 6);
  CHECK_FALSE(layout::accepts({48, 4}));
  CHECK_FALSE(layout::accepts({32, 3}));
}

#if defined(__cpp_exceptions)
TEST_CASE("tinygemm: the bytes of torch with AVX-512") {
  for (const char* const name : {"int4pack_g128_96x128_float16", "int4pack_g32_64x128_bfloat16",
                                 "int4pack_g64_32x128_float32"}) {
    INFO(name);
    const auto file = test_support::golden_file(std::string("torch/") + name + ".safetensors");
    const auto codes = test_support::golden_values<std::uint8_t>(file, "codes");
    const auto stored = test_support::golden_values<std::uint8_t>(file, "packed_cpu");
    const auto rows = file.tensor("codes").shape()[0];
    CHECK((test_support::packed<subbyte::tinygemm_avx512>(codes, rows) == stored));
    CHECK((test_support::unpacked<subbyte::tinygemm_avx512>(
               stored, rows, file.tensor("codes").shape()[1]) == codes));
  }
}
#endif
