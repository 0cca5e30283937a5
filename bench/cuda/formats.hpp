// SPDX-License-Identifier: Apache-2.0
/// Every format as the benchmarks of products see it: bytes of a device, and calls on them.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "subbyte/cuda/activations.cuh"
#include "subbyte/cuda/device.cuh"

namespace bench {

using subbyte::index_t;

enum class arithmetic { floats, halves, integers };

/// x [rows, cols], the same values three times.
struct device_activations {
  index_t rows = 0;
  const float* floats = nullptr;
  const subbyte::half* halves = nullptr;
  const subbyte::cuda::device_view<subbyte::cuda::integer_activations>* integers = nullptr;
};

/// A way to store a matrix [n, k]; `w` is where the matrix begins on the device.
class stored_format {
 public:
  stored_format() = default;
  stored_format(const stored_format&) = delete;
  stored_format& operator=(const stored_format&) = delete;
  virtual ~stored_format() = default;

  [[nodiscard]] virtual std::string name() const = 0;
  [[nodiscard]] virtual index_t bytes(index_t n, index_t k) const = 0;
  /// Queues the writing of a matrix of real weights, other ones for another salt.
  virtual void fill(cudaStream_t s, std::uint8_t* w, index_t n, index_t k, std::uint32_t salt) = 0;
  /// Row r, decoded by the host from the bytes on the device.
  [[nodiscard]] virtual std::vector<float> row(const std::uint8_t* w, index_t n, index_t k,
                                               index_t r) const = 0;

  virtual void dequantize(cudaStream_t s, const std::uint8_t* w, index_t n, index_t k,
                          subbyte::half* out) const = 0;
  [[nodiscard]] virtual bool takes(arithmetic a) const = 0;
  /// y [x.rows, n].
  virtual void gemv(cudaStream_t s, const std::uint8_t* w, index_t n, index_t k, arithmetic a,
                    const device_activations& x, float* y) const = 0;
  /// Roundings of a sum of k products with one row of x.
  [[nodiscard]] virtual double roundings(index_t k) const = 0;
};

/// All of them; memory of `on` holds what matrices are tiled with.
///
/// formats.cu is compiled in parts, each with a share of the formats; a program links all.
std::vector<std::unique_ptr<stored_format>> stored_formats(const subbyte::cuda::device& on);

}  // namespace bench
