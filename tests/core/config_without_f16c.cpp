// SPDX-License-Identifier: Apache-2.0
#include "support/forget_flags.hpp"
//
#define __AVX2__ 1
#define __FMA__ 1
#define __AVXVNNI__ 1
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#include "subbyte/core/config.hpp"

TEST_CASE("config: AVX2 without F16C counts as plain C++") {
  STATIC_REQUIRE(SUBBYTE_WITH_AVX2 == 0);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX_VNNI == 0);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX512 == 0);
  CHECK(std::string(SUBBYTE_TEST_SPELLED(SUBBYTE_ISA)) == "isa_000000000");
}
