// SPDX-License-Identifier: Apache-2.0
/// The macros under this unit's own flags; the units config_*.cpp see made-up ones.
#include "subbyte/core/config.hpp"

#include <type_traits>

#include "support/catch.hpp"

namespace {

static_assert(std::is_same_v<subbyte::index_t, std::int64_t>);

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
static_assert(SUBBYTE_WITH_AVX2 == 1);
#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && defined(__AVX512VL__)
static_assert(SUBBYTE_WITH_AVX512 == 1);
#else
static_assert(SUBBYTE_WITH_AVX512 == 0);
#endif
#else
static_assert(SUBBYTE_WITH_AVX2 == 0 && SUBBYTE_WITH_AVX_VNNI == 0 && SUBBYTE_WITH_AVX512 == 0);
static_assert(SUBBYTE_WITH_AVX512_VNNI == 0 && SUBBYTE_WITH_AVX512_BF16 == 0);
static_assert(SUBBYTE_WITH_AMX == 0);
#endif

#if defined(__aarch64__)
static_assert(SUBBYTE_WITH_NEON == 1);
#else
static_assert(SUBBYTE_WITH_NEON == 0 && SUBBYTE_WITH_NEON_DOT == 0 && SUBBYTE_WITH_NEON_I8MM == 0);
#endif

SUBBYTE_INLINE void* frame_of_caller() { return __builtin_frame_address(0); }

}  // namespace

TEST_CASE("config: a function marked inline has no frame of its own, at any optimization level") {
  CHECK(frame_of_caller() == __builtin_frame_address(0));
}
