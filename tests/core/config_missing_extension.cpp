// SPDX-License-Identifier: Apache-2.0
#include "support/forget_flags.hpp"
//
#define __AVX2__ 1
#define __FMA__ 1
#define __F16C__ 1
#define __AVXVNNI__ 1
#define __AVX512F__ 1
#define __AVX512BW__ 1
#define __AVX512DQ__ 1
#define __AVX512VNNI__ 1
#define __AVX512BF16__ 1
#define __AMX_TILE__ 1
#define __AMX_INT8__ 1
#define __AMX_BF16__ 1
#define __ARM_NEON 1
#define __ARM_FEATURE_DOTPROD 1
#define __ARM_FEATURE_MATMUL_INT8 1
#include "subbyte/core/config.hpp"

TEST_CASE("config: without one extension nothing above it is on either") {
  // AVX512VL is missing, and so is AArch64.
  STATIC_REQUIRE(SUBBYTE_WITH_AVX2 == 1);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX_VNNI == 1);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX512 == 0);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX512_VNNI == 0);
  STATIC_REQUIRE(SUBBYTE_WITH_AVX512_BF16 == 0);
  STATIC_REQUIRE(SUBBYTE_WITH_AMX == 0);
  STATIC_REQUIRE(SUBBYTE_WITH_NEON == 0);
  STATIC_REQUIRE(SUBBYTE_WITH_NEON_DOT == 0);
  STATIC_REQUIRE(SUBBYTE_WITH_NEON_I8MM == 0);
  CHECK(std::string(SUBBYTE_TEST_SPELLED(SUBBYTE_ISA)) == "isa_110000000");
}
