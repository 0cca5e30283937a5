// SPDX-License-Identifier: Apache-2.0
// The component cuda from a host compiler: devices and their memory; kernels want nvcc.
#include <cstdio>
#include <subbyte/cuda/device.cuh>
#include <subbyte/cuda/matrix.cuh>
#include <subbyte/subbyte.hpp>

int main() {
  if (subbyte::cuda::device::count() == 0) {
    try {
      const subbyte::cuda::device none;
      return 1;
    } catch (const subbyte::error& e) {
      std::puts(e.what());
      return e.code() == subbyte::errc::device_unavailable ? 0 : 1;
    }
  }
  const subbyte::cuda::device device;
  const subbyte::block_matrix<subbyte::q4_0> w(8, 64);
  const auto on_device = subbyte::cuda::upload_matrix(device, {}, w.view());
  subbyte::cuda::stream_ref().synchronize();
  std::printf("%s: %lld rows\n", device.name(),
              static_cast<long long>(on_device.view().on_device().rows()));
}
