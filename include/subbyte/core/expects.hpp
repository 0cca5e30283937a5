// SPDX-License-Identifier: Apache-2.0
/// Two debug checks that trap: SUBBYTE_EXPECTS for the caller's mistakes, SUBBYTE_ASSERT for ours.
///
/// Both are expressions, usable in constant evaluation and in device code, and vanish with NDEBUG.
/// Bad input (files, weights) is neither: it throws subbyte::error.
#pragma once

#if defined(__CUDACC__) && !defined(NDEBUG)
#include <cassert>  // the one trap that nvcc takes on both sides
#endif

#if !defined(SUBBYTE_EXPECTS)
#if defined(NDEBUG)
#define SUBBYTE_EXPECTS(condition) static_cast<void>(0)
#elif defined(__CUDACC__)
#define SUBBYTE_EXPECTS(condition) assert(condition)
#else
#define SUBBYTE_EXPECTS(condition) ((condition) ? static_cast<void>(0) : __builtin_trap())
#endif
#endif

#if !defined(SUBBYTE_ASSERT)
#if defined(NDEBUG)
#define SUBBYTE_ASSERT(condition) static_cast<void>(0)
#elif defined(__CUDACC__)
#define SUBBYTE_ASSERT(condition) assert(condition)
#else
#define SUBBYTE_ASSERT(condition) ((condition) ? static_cast<void>(0) : __builtin_trap())
#endif
#endif
