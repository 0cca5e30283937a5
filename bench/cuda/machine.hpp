// SPDX-License-Identifier: Apache-2.0
/// What a result must say about the machine it is from.
#pragma once

#include "harness.hpp"
#include "subbyte/cuda/device.cuh"

namespace bench {

/// Device, driver, toolkit, date, commit.
record describe(const subbyte::cuda::device& on, const options& o);

/// Clocks, power and temperature as nvidia-smi tells them; nothing where there is none.
void add_clocks(results& r, const std::string& when);

}  // namespace bench
