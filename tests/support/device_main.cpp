// SPDX-License-Identifier: Apache-2.0
/// The main function of the programs that run on a GPU; without one they are skipped, exit code 77.
#define CATCH_CONFIG_RUNNER
#include <cstdio>

#include "subbyte/cuda/device.cuh"
#include "support/catch.hpp"

int main(int argc, char** argv) {
  if (subbyte::cuda::device::count() == 0) {
    std::puts("skipped: no GPU here");
    return 77;
  }
  return Catch::Session().run(argc, argv);
}
