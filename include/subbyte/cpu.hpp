// SPDX-License-Identifier: Apache-2.0
/// The component cpu: products and decoding on the CPU, and the thread pool. Includes core.
#pragma once

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/kernel/dequantize.hpp"
#include "subbyte/kernel/gemm.hpp"
#include "subbyte/kernel/gemv.hpp"
#include "subbyte/kernel/lanes.hpp"
#include "subbyte/simd/primitives.hpp"
#include "subbyte/simd/register.hpp"
#include "subbyte/subbyte.hpp"
