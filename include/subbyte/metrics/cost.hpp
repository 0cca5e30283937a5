// SPDX-License-Identifier: Apache-2.0
/// What a quantized matrix costs: bits per weight, compression with its baseline, bytes touched,
/// bandwidth.
#pragma once

#include <limits>

#include "subbyte/core/config.hpp"
#include "subbyte/core/expects.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// What a compression ratio is a ratio to.
enum class baseline {
  f32,         ///< 4 bytes per weight
  sixteen_bit  ///< f16 or bf16, 2 bytes per weight
};

[[nodiscard]] SUBBYTE_INLINE constexpr const char* baseline_name(baseline against) noexcept {
  return against == baseline::f32 ? "f32" : "16-bit";
}

/// Bytes of so many unquantized weights.
[[nodiscard]] SUBBYTE_INLINE constexpr index_t baseline_bytes(index_t weights,
                                                              baseline against) noexcept {
  return weights * (against == baseline::f32 ? 4 : 2);
}

namespace detail {

// 0 / 0 is "nothing of nothing": 0.
[[nodiscard]] SUBBYTE_INLINE constexpr double quotient(double part, double whole) noexcept {
  if (whole != 0) return part / whole;
  return part == 0 ? 0 : std::numeric_limits<double>::infinity();
}

}  // namespace detail

/// A ratio that says what it is a ratio to.
struct compression {
  double ratio;  ///< baseline bytes / stored bytes
  baseline against;
};

/// Space of stored weights. No weights and no bytes: every figure 0.
struct storage_cost {
  index_t weights;       ///< logical weights, padding not counted
  index_t payload_bits;  ///< codes alone
  index_t total_bytes;   ///< everything stored: codes, scales, zero points, tables, padding

  /// All-in bits per weight: 8 * total_bytes / weights.
  [[nodiscard]] SUBBYTE_INLINE constexpr double bits_per_weight() const noexcept {
    return detail::quotient(8.0 * static_cast<double>(total_bytes), static_cast<double>(weights));
  }

  /// Bits per weight of the codes alone. Never quote it without the all-in figure.
  [[nodiscard]] SUBBYTE_INLINE constexpr double payload_bits_per_weight() const noexcept {
    return detail::quotient(static_cast<double>(payload_bits), static_cast<double>(weights));
  }

  [[nodiscard]] SUBBYTE_INLINE constexpr compression compared_with(
      baseline against) const noexcept {
    return {detail::quotient(static_cast<double>(baseline_bytes(weights, against)),
                             static_cast<double>(total_bytes)),
            against};
  }

  /// The sum over several matrices.
  SUBBYTE_INLINE constexpr void merge(const storage_cost& other) noexcept {
    weights += other.weights;
    payload_bits += other.payload_bits;
    total_bytes += other.total_bytes;
  }
};

/// Bytes that y = W x has to move, each touched once.
struct gemv_traffic {
  index_t weight_bytes;      ///< codes, scales and whatever else W stores
  index_t activation_bytes;  ///< x as the kernel reads it
  index_t output_bytes;      ///< y

  [[nodiscard]] SUBBYTE_INLINE constexpr index_t total_bytes() const noexcept {
    return weight_bytes + activation_bytes + output_bytes;
  }
};

/// The traffic of y = W x for W [rows, cols]; elements of x and y are floats unless stated.
[[nodiscard]] SUBBYTE_INLINE constexpr gemv_traffic gemv_bytes(
    index_t rows, index_t cols, index_t weight_bytes, double bytes_per_activation = 4,
    double bytes_per_output = 4) noexcept {
  SUBBYTE_EXPECTS(rows >= 0 && cols >= 0 && weight_bytes >= 0);
  return {weight_bytes, static_cast<index_t>(static_cast<double>(cols) * bytes_per_activation),
          static_cast<index_t>(static_cast<double>(rows) * bytes_per_output)};
}

/// Achieved bandwidth in GB/s (1e9 bytes). With baseline_bytes instead of the bytes touched it is
/// the effective bandwidth.
///
/// A time of 0 gives +inf (0 for no bytes).
[[nodiscard]] SUBBYTE_INLINE constexpr double gigabytes_per_second(index_t bytes,
                                                                   double seconds) noexcept {
  SUBBYTE_EXPECTS(bytes >= 0 && seconds >= 0);
  return detail::quotient(static_cast<double>(bytes) / 1e9, seconds);
}

/// Share of the measured bandwidth (STREAM triad on a CPU, device copy on a GPU) that was achieved.
[[nodiscard]] SUBBYTE_INLINE constexpr double bandwidth_utilization(
    double achieved_gigabytes_per_second, double measured_gigabytes_per_second) noexcept {
  return detail::quotient(achieved_gigabytes_per_second, measured_gigabytes_per_second);
}

/// The most tokens per second that decoding can give: every token reads the model and the KV cache
/// once.
[[nodiscard]] SUBBYTE_INLINE constexpr double tokens_per_second_ceiling(double gigabytes_per_second,
                                                                        index_t model_bytes,
                                                                        index_t kv_bytes) noexcept {
  SUBBYTE_EXPECTS(model_bytes >= 0 && kv_bytes >= 0);
  return detail::quotient(gigabytes_per_second * 1e9,
                          static_cast<double>(model_bytes) + static_cast<double>(kv_bytes));
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
