// SPDX-License-Identifier: Apache-2.0
/// Forgets this unit's -m flags, so that a test can make up its own and then include config.hpp.
#pragma once

// All that config.hpp includes, and Catch, read with the real flags.
#include <bit>
#include <cstddef>
#include <cstdint>

#include "support/catch.hpp"

#undef __AVX2__
#undef __FMA__
#undef __F16C__
#undef __AVXVNNI__
#undef __AVX512F__
#undef __AVX512BW__
#undef __AVX512DQ__
#undef __AVX512VL__
#undef __AVX512VNNI__
#undef __AVX512BF16__
#undef __AMX_TILE__
#undef __AMX_INT8__
#undef __AMX_BF16__
#undef __aarch64__
#undef __ARM_NEON
#undef __ARM_FEATURE_DOTPROD
#undef __ARM_FEATURE_MATMUL_INT8

#define SUBBYTE_TEST_SPELLED_(x) #x
#define SUBBYTE_TEST_SPELLED(x) SUBBYTE_TEST_SPELLED_(x)
