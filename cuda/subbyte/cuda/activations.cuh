// SPDX-License-Identifier: Apache-2.0
/// The x of a product with a vector, in three arithmetics: float, pairs of halves, 8-bit integers.
#pragma once

#include <string>

#include "subbyte/core/error.hpp"
#include "subbyte/cuda/device_view.cuh"
#include "subbyte/cuda/rows.cuh"
#if defined(__CUDACC__)
#include "subbyte/cuda/thread.cuh"
#endif

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

namespace detail {

/// Rows of x as they lie: what the activations of floats and of halves share.
template <class T>
class activation_rows {
 public:
  SUBBYTE_HD_INLINE explicit activation_rows(tensor_view<const T, 2, row_pitched> x) noexcept
      : data_(x.data()),
        pitch_(x.stride(0)),
        rows_(x.extent(0)),
        cols_(x.extent(1)),
        aligned_(rows_aligned(x.data(), x.stride(0))) {}

  [[nodiscard]] SUBBYTE_HD_INLINE index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_HD_INLINE index_t cols() const noexcept { return cols_; }

 protected:
  /// Elements k to k + 3 of row m, those beyond the columns 0; a row beyond the last is the last.
  [[nodiscard]] SUBBYTE_HD_INLINE four<T> at(int m, int k,
                                             const std::int32_t* order) const noexcept {
    const T* const row = data_ + (m < rows_ ? m : rows_ - 1) * pitch_;
    if (order == nullptr && aligned_ && k + 4 <= cols_) {
      return *reinterpret_cast<const four<T>*>(row + k);
    }
    four<T> out{};
    SUBBYTE_UNROLL
    for (int i = 0; i < 4; ++i) {
      if (k + i < cols_) out.at[i] = row[order != nullptr ? order[k + i] : k + i];
    }
    return out;
  }

 private:
  const T* data_;
  index_t pitch_;
  index_t rows_;
  index_t cols_;
  bool aligned_;
};

}  // namespace detail

/// x in float.
class float_activations : public detail::activation_rows<float> {
 public:
  using activation_rows::activation_rows;

  struct quad {
    float at[4];
    float sum;
  };

  [[nodiscard]] SUBBYTE_HD_INLINE quad load(int m, int k,
                                            const std::int32_t* order) const noexcept {
    const four<float> x = at(m, k, order);
    return {{x.at[0], x.at[1], x.at[2], x.at[3]}, (x.at[0] + x.at[1]) + (x.at[2] + x.at[3])};
  }

  /// Run q of a lane's weights.
  template <class Quads>
  class levels {
   public:
    SUBBYTE_HD_INLINE levels(const Quads& own, int q) noexcept {
      if constexpr (requires { own.bytes; }) {
        bytes_to_floats<Quads::bias>(own.bytes[q], level_);
        scale_ = own.scale[q];
        if constexpr (Quads::has_offset) offset_ = own.offset[q];
      } else {
        SUBBYTE_UNROLL
        for (int i = 0; i < 4; ++i) level_[i] = own.level[q][i];
        scale_ = own.scale;
      }
    }
    [[nodiscard]] SUBBYTE_HD_INLINE float plus_product(const quad& x, float sum) const noexcept {
      float product = level_[0] * x.at[0];
      SUBBYTE_UNROLL
      for (int i = 1; i < 4; ++i) product = fused(level_[i], x.at[i], product);
      sum = fused(scale_, product, sum);
      if constexpr (Quads::has_offset) sum = fused(offset_, x.sum, sum);
      return sum;
    }

   private:
    float level_[4];
    float scale_ = 0;
    float offset_ = 0;
  };
};

/// x in half.
class half_activations : public detail::activation_rows<half> {
 public:
  using activation_rows::activation_rows;

  struct quad {
    half_pair at[2];
    float sum;
  };

  [[nodiscard]] SUBBYTE_HD_INLINE quad load(int m, int k,
                                            const std::int32_t* order) const noexcept {
    const four<half> x = at(m, k, order);
    return {{join_halves(x.at[0], x.at[1]), join_halves(x.at[2], x.at[3])},
            (to_float(x.at[0]) + to_float(x.at[1])) + (to_float(x.at[2]) + to_float(x.at[3]))};
  }

  template <class Quads>
  class levels {
   public:
    SUBBYTE_HD_INLINE levels(const Quads& own, int q) noexcept : scale_(own.scale[q]), offset_(0) {
      bytes_to_halves<Quads::bias>(own.bytes[q], level_);
      if constexpr (Quads::has_offset) offset_ = own.offset[q];
    }
    [[nodiscard]] SUBBYTE_HD_INLINE float plus_product(const quad& x, float sum) const noexcept {
      const half_pair pair = fused(level_[1], x.at[1], fused(level_[0], x.at[0], half_pair{0}));
      sum = fused(scale_, to_float(first_half(pair)) + to_float(second_half(pair)), sum);
      if constexpr (Quads::has_offset) sum = fused(offset_, x.sum, sum);
      return sum;
    }

   private:
    half_pair level_[2];
    float scale_;
    float offset_;
  };
};

/// x in 8-bit integers: 32 of them under each scale, x = scale * code. Columns are padded to a
/// multiple of 32 with zeros.
class integer_activations {
 public:
  static constexpr int group = 32;

  struct quad {
    std::uint32_t bytes;
    float scale;
  };

  /// codes [m, pitch]; scales [m, pitch / 32]; pitch a multiple of 32, at least cols.
  SUBBYTE_HD_INLINE integer_activations(const std::int8_t* codes, const float* scales, index_t rows,
                                        index_t cols, index_t pitch) noexcept
      : codes_(codes), scales_(scales), rows_(rows), cols_(cols), pitch_(pitch) {}

  [[nodiscard]] SUBBYTE_HD_INLINE index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_HD_INLINE index_t cols() const noexcept { return cols_; }

  [[nodiscard]] SUBBYTE_HD_INLINE quad load(int m, int k, const std::int32_t*) const noexcept {
    const index_t row = (m < rows_ ? m : rows_ - 1) * pitch_;
    return {load_word<4>(reinterpret_cast<const std::uint8_t*>(codes_ + row + k)),
            scales_[(row + k) / group]};
  }

  template <class Quads>
  class levels {
   public:
    SUBBYTE_HD_INLINE levels(const Quads& own, int q) noexcept
        : bytes_(signed_bytes<Quads::bias>(own.bytes[q])), scale_(own.scale[q]), offset_(0) {
      if constexpr (Quads::has_offset) offset_ = own.offset[q];
    }
    [[nodiscard]] SUBBYTE_HD_INLINE float plus_product(const quad& x, float sum) const noexcept {
      sum = fused(scale_ * x.scale, static_cast<float>(dot4(bytes_, x.bytes, 0)), sum);
      if constexpr (Quads::has_offset) {
        sum = fused(offset_ * x.scale, static_cast<float>(dot4(0x01010101U, x.bytes, 0)), sum);
      }
      return sum;
    }

   private:
    std::uint32_t bytes_;
    float scale_;
    float offset_;
  };

 private:
  const std::int8_t* codes_;
  const float* scales_;
  index_t rows_;
  index_t cols_;
  index_t pitch_;
};

/// x -> codes and scales: a warp per 32 elements.
struct quantize_activations_kernel {
  static constexpr int warps = 4;
  static constexpr int resident_blocks = 12;
  static constexpr int threads = warps * warp_lanes;
  static constexpr int shared_bytes = 0;

  template <class Thread>
  SUBBYTE_DEVICE static void run(const Thread& t, tensor_view<const float, 2, row_pitched> x,
                                 index_t pitch, std::int8_t* codes, float* scales) noexcept {
    const index_t groups = pitch / integer_activations::group;
    const index_t item = t.block() * warps + t.warp();
    if (item >= groups * x.extent(0)) return;
    const index_t m = item / groups;
    const index_t k = item % groups * integer_activations::group + t.lane();
    const float v = k < x.extent(1) ? x.data()[m * x.stride(0) + k] : 0.0F;
    float most = v < 0 ? -v : v;
    for (int mask = warp_lanes / 2; mask > 0; mask /= 2) {
      const float other = t.exchanged(most, mask);
      most = other > most ? other : most;
    }
    const float scale = divided(most, 127.0F);
    codes[m * pitch + k] =
        static_cast<std::int8_t>(scale != 0 ? clamp(rint_even(divided(v, scale)), -127, 127) : 0);
    if (t.lane() == 0) scales[item] = scale;
  }
};

/// Memory for x [m, k] in 8-bit integers, the caller's: codes [m, pitch], scales [m, pitch / 32].
struct quantized_rows {
  /// What rows of k elements are padded to.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t pitch(index_t k) noexcept {
    return ceil_div(k, integer_activations::group) * integer_activations::group;
  }

  device_tensor_view<std::int8_t, 2> codes;
  device_tensor_view<float, 2> scales;
};

/// x -> 8-bit integers: scale = max |x| / 127 of each 32, codes to nearest even.
///
/// Shapes   x [m, k] at any pitch; out.codes [m, pitch(k)]; out.scales [m, pitch(k) / 32].
/// Returns  what gemv takes as x.
/// Throws   bad_shape, launch_failed.
template <class Queue>
device_view<integer_activations> quantize_activations(
    const Queue& queue,
    std::type_identity_t<device_view<tensor_view<const float, 2, row_pitched>>> x,
    const quantized_rows& out) {
  const auto from = x.on_device();
  const auto codes = out.codes.on_device();
  const auto scales = out.scales.on_device();
  const index_t pitch = quantized_rows::pitch(from.extent(1));
  if (codes.extent(0) != from.extent(0) || codes.extent(1) != pitch ||
      scales.extent(0) != from.extent(0) ||
      scales.extent(1) != pitch / integer_activations::group) {
    throw_error(errc::bad_shape, "quantize_activations",
                "codes " + std::to_string(codes.extent(0)) + " x " +
                    std::to_string(codes.extent(1)) + " and scales " +
                    std::to_string(scales.extent(0)) + " x " + std::to_string(scales.extent(1)) +
                    " for x " + std::to_string(from.extent(0)) + " x " +
                    std::to_string(from.extent(1)) + ": rows of " + std::to_string(pitch) +
                    " codes and a scale for each 32 are required");
  }
  launch<quantize_activations_kernel>(queue,
                                      ceil_div(scales.size(), quantize_activations_kernel::warps),
                                      from, pitch, codes.data(), scales.data());
  return device_view<integer_activations>(
      integer_activations(codes.data(), scales.data(), from.extent(0), from.extent(1), pitch));
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
