// SPDX-License-Identifier: Apache-2.0
/// One function, compiled once per instruction set; only pointers and sizes cross.
#pragma once

#include <cstdint>

namespace products {

/// y = W x. W [rows, cols] as q4_0 blocks, `cols` a multiple of 32; x [cols]; y [rows].
using product = void(const void* blocks, std::int64_t rows, std::int64_t cols, const float* x,
                     float* y);

product baseline;
#if defined(__x86_64__)
product avx2;
product avx512;
#endif

}  // namespace products
