// SPDX-License-Identifier: Apache-2.0
/// What the compiler and its flags allow: the macros every other header relies on.
#pragma once

#include <bit>      // std::endian
#include <cstddef>  // std::size_t
#include <cstdint>  // std::int64_t

/// Name of the inline namespace that holds the whole library. Define it to another name to keep two
/// differently configured copies apart in one program.
#ifndef SUBBYTE_ABI
#define SUBBYTE_ABI v0
#endif

#if defined(__FAST_MATH__) && !defined(SUBBYTE_ALLOW_FAST_MATH)
#error \
    "subbyte: -ffast-math breaks NaN checks and the order of float operations; compile without it, or define SUBBYTE_ALLOW_FAST_MATH"
#endif

// CPU capability clusters that this translation unit is compiled for. Literal 0 or 1, because their
// values are pasted into a name below.
#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)
#define SUBBYTE_WITH_AVX2 1
#else
#define SUBBYTE_WITH_AVX2 0
#endif
#if SUBBYTE_WITH_AVX2 && defined(__AVXVNNI__)
#define SUBBYTE_WITH_AVX_VNNI 1
#else
#define SUBBYTE_WITH_AVX_VNNI 0
#endif
#if SUBBYTE_WITH_AVX2 && defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512DQ__) && \
    defined(__AVX512VL__)
#define SUBBYTE_WITH_AVX512 1
#else
#define SUBBYTE_WITH_AVX512 0
#endif
#if SUBBYTE_WITH_AVX512 && defined(__AVX512VNNI__)
#define SUBBYTE_WITH_AVX512_VNNI 1
#else
#define SUBBYTE_WITH_AVX512_VNNI 0
#endif
#if SUBBYTE_WITH_AVX512_VNNI && defined(__AVX512BF16__)
#define SUBBYTE_WITH_AVX512_BF16 1
#else
#define SUBBYTE_WITH_AVX512_BF16 0
#endif
#if SUBBYTE_WITH_AVX512_BF16 && defined(__AMX_TILE__) && defined(__AMX_INT8__) && \
    defined(__AMX_BF16__)
#define SUBBYTE_WITH_AMX 1
#else
#define SUBBYTE_WITH_AMX 0
#endif
#if defined(__aarch64__) && defined(__ARM_NEON)
#define SUBBYTE_WITH_NEON 1
#else
#define SUBBYTE_WITH_NEON 0
#endif
#if SUBBYTE_WITH_NEON && defined(__ARM_FEATURE_DOTPROD)
#define SUBBYTE_WITH_NEON_DOT 1
#else
#define SUBBYTE_WITH_NEON_DOT 0
#endif
#if SUBBYTE_WITH_NEON_DOT && defined(__ARM_FEATURE_MATMUL_INT8)
#define SUBBYTE_WITH_NEON_I8MM 1
#else
#define SUBBYTE_WITH_NEON_I8MM 0
#endif

// Two translation units with different -m flags must not share a symbol: the linker would keep one
// copy, and the wrong CPU would run it. The flags are therefore part of the arch tags' names.
#define SUBBYTE_PASTE_ISA_(a, b, c, d, e, f, g, h, i) isa_##a##b##c##d##e##f##g##h##i
#define SUBBYTE_PASTE_ISA(a, b, c, d, e, f, g, h, i) SUBBYTE_PASTE_ISA_(a, b, c, d, e, f, g, h, i)
#define SUBBYTE_ISA                                                                       \
  SUBBYTE_PASTE_ISA(SUBBYTE_WITH_AVX2, SUBBYTE_WITH_AVX_VNNI, SUBBYTE_WITH_AVX512,        \
                    SUBBYTE_WITH_AVX512_VNNI, SUBBYTE_WITH_AVX512_BF16, SUBBYTE_WITH_AMX, \
                    SUBBYTE_WITH_NEON, SUBBYTE_WITH_NEON_DOT, SUBBYTE_WITH_NEON_I8MM)

/// A function with no symbol of its own (docs/decisions/007: mixed -m flags in one program).
#define SUBBYTE_INLINE __attribute__((always_inline)) inline

/// A function that may run on the host and on a CUDA device.
#if defined(__CUDACC__)
#define SUBBYTE_HD __host__ __device__
#else
#define SUBBYTE_HD
#endif
#define SUBBYTE_HD_INLINE SUBBYTE_HD SUBBYTE_INLINE

/// Whether this pass of the compiler is for a device.
#if defined(__CUDA_ARCH__)
#define SUBBYTE_ON_DEVICE 1
#else
#define SUBBYTE_ON_DEVICE 0
#endif

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Every count, extent and offset in elements.
using index_t = std::int64_t;

static_assert(std::endian::native == std::endian::little,
              "subbyte: blocks are the bytes on disk, and those are little-endian");

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
