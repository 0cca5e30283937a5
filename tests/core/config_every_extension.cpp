// SPDX-License-Identifier: Apache-2.0
#include "support/forget_flags.hpp"
//
#define __AVX2__ 1
#define __FMA__ 1
#define __F16C__ 1
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VL__ 1
#define __AVX512VNNI__ 1
#define __AVX512BF16__ 1
#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1
#define __aarch64__ 1
#define __ARM_NEON 1
#define __ARM_FEATURE_DOTPROD 1
#include "subbyte/core/config.hpp"

TEST_CASE("config: every cluster whose flags are all there is on, and the name says which") {
  STATIC_REQUIRE(SUBBYTE_WITH_AVX2 == 1);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX_VNNI == 0);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX512 == 1);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX512_VNNI == 1);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX512_BF16 == 1);
  STATIC_REQUIRE(SUBBYTE_WITH_AMX == 1);
  STATIC_REQUIRE(SUBBYTE_WITH_NEON == 1);
  STATIC_REQUIRE(SUBBYTE_WITH_NEON_DOT == 1);
  STATIC_REQUIRE(SUBBYTE_WITH_NEON_I8MM == 0);
  CHECK(std::string(SUBBYTE_TEST_SPELLED(SUBBYTE_ISA)) == "isa_101111110");
}
