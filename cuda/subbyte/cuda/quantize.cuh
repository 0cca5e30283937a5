// SPDX-License-Identifier: Apache-2.0
/// Quantization on a device, for the formats whose codes follow from the largest weight of a group:
/// the host's bytes.
#pragma once

#include <string>

#include "subbyte/core/error.hpp"
#include "subbyte/cuda/decode.cuh"
#include "subbyte/cuda/device_view.cuh"
#include "subbyte/format/grid.hpp"
#include "subbyte/format/mxfp4.hpp"
#include "subbyte/format/q4_0.hpp"
#include "subbyte/format/q8_0.hpp"
#include "subbyte/matrix/scale_plane.hpp"
#if defined(__CUDACC__)
#include "subbyte/cuda/thread.cuh"
#endif

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// The reference encoder of a format whose blocks are 32 weights under one scale, a lane per
/// weight; specialised per format with
///
///   fitted(extreme)   the stored scale and what codes are made with
///   code(w)           the code of a weight, 0 to 255
///   nibbles           whether weights j and j + 16 share byte j
template <class F>
struct absmax_encoder;

template <>
struct absmax_encoder<q8_0> {
  static constexpr bool nibbles = false;

  SUBBYTE_HD_INLINE explicit absmax_encoder(float extreme) noexcept {
    const float d = divided(magnitude(extreme), 127.0F);
    scale = half::nearest(d);
    inverse_ = d != 0 ? divided(1.0F, d) : 0.0F;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE int code(float w) const noexcept {
    const float scaled = rounded_product(w, inverse_);
    // Infinite scales are rounded to a last code, NaN to 0.
    const float bounded = scaled > 127.0F ? 127.0F : (scaled < -127.0F ? -127.0F : scaled);
    return round_half_away(bounded) & 0xFF;
  }
  SUBBYTE_HD_INLINE static std::uint8_t* bytes(q8_0& b) noexcept {
    return reinterpret_cast<std::uint8_t*>(b.signed_codes);
  }

  half scale{};

 private:
  float inverse_ = 0;
};

template <>
struct absmax_encoder<q4_0> {
  static constexpr bool nibbles = true;

  SUBBYTE_HD_INLINE explicit absmax_encoder(float extreme) noexcept {
    const float d = divided(extreme, -8.0F);
    scale = half::nearest(d);
    inverse_ = d != 0 ? divided(1.0F, d) : 0.0F;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE int code(float w) const noexcept {
    const float raised = rounded_product(w, inverse_) + 8.5F;
    return raised > 0 ? (raised < 15.0F ? trunc_to_int(raised) : 15) : 0;
  }
  SUBBYTE_HD_INLINE static std::uint8_t* bytes(q4_0& b) noexcept { return b.codes_packed; }

  half scale{};

 private:
  float inverse_ = 0;
};

template <>
struct absmax_encoder<mxfp4> {
  static constexpr bool nibbles = true;

  SUBBYTE_HD_INLINE explicit absmax_encoder(float extreme) noexcept
      : scale(mxfp4::scale_for(magnitude(extreme))) {}
  [[nodiscard]] SUBBYTE_HD_INLINE int code(float w) const noexcept {
    return mxfp4::round(w, 0, {scale});
  }
  SUBBYTE_HD_INLINE static std::uint8_t* bytes(mxfp4& b) noexcept { return b.codes_packed; }

  e8m0 scale;
};

/// Formats that a device encodes.
template <class F>
concept absmax_format = requires(const absmax_encoder<F>& e, float w) {
  e.code(w);
};

/// The weight of largest magnitude of a group, the first of several; of zeros +0.
struct extreme_weight {
  float value = 0;
  float position = 0;  ///< a float, which lanes exchange; groups are shorter than 2^24

  SUBBYTE_HD_INLINE void consider(float other, float at) noexcept {
    const float size = magnitude(value);
    const float found = magnitude(other);
    if (found > size || (found == size && found > 0 && at < position)) {
      value = other;
      position = at;
    }
  }
  /// That of all lanes.
  template <class Thread>
  SUBBYTE_DEVICE void gather(const Thread& t) noexcept {
    for (int mask = 16; mask > 0; mask /= 2) {
      const float other = t.exchanged(value, mask);
      const float at = t.exchanged(position, mask);
      consider(other, at);
    }
  }
};

/// x -> blocks: a warp per block, a lane per weight.
template <absmax_format F>
struct quantize_blocks_kernel {
  static_assert(F::block_size == 32);
  static constexpr int warps = 4;
  static constexpr int threads = 32 * warps;
  static constexpr int resident_blocks = 12;
  static constexpr int shared_bytes = 0;

  template <class Thread>
  SUBBYTE_DEVICE static void run(const Thread& t, tensor_view<const float, 2, row_pitched> x,
                                 F* blocks, index_t row_blocks) noexcept {
    const index_t item = t.block() * warps + t.warp();
    if (item >= row_blocks * x.extent(0)) return;
    const index_t r = item / row_blocks;
    const index_t k = item % row_blocks * F::block_size + t.lane();
    const float w = k < x.extent(1) ? x.data()[r * x.stride(0) + k] : 0.0F;
    extreme_weight extreme{magnitude(w) > 0 ? w : 0.0F, static_cast<float>(t.lane())};
    extreme.gather(t);
    const absmax_encoder<F> encoder(extreme.value);
    const int code = encoder.code(w);
    F& block = blocks[item];
    if constexpr (absmax_encoder<F>::nibbles) {
      const int other = static_cast<int>(t.exchanged(static_cast<float>(code), 16));
      if (t.lane() < 16) {
        encoder.bytes(block)[t.lane()] = static_cast<std::uint8_t>(code | other << 4);
      }
    } else {
      encoder.bytes(block)[t.lane()] = static_cast<std::uint8_t>(code);
    }
    if (t.lane() == 0) block.scale = encoder.scale;
  }
};

/// Grids that a device fits: no zero points stored.
template <class G>
concept absmax_grid = group_grid<G> && G::zeros == zero_points::none;

/// x -> planes of codes and scales: a warp per group, eight weights of it a lane at a time.
template <absmax_grid G, scale_store S>
struct quantize_groups_kernel {
  static constexpr int warps = 4;
  static constexpr int threads = 32 * warps;
  static constexpr int resident_blocks = 8;
  static constexpr int shared_bytes = 0;

  template <class Thread>
  SUBBYTE_DEVICE static void run(const Thread& t, tensor_view<const float, 2, row_pitched> x,
                                 index_t group_size, std::uint8_t* codes, index_t row_bytes,
                                 S* scales, index_t groups) noexcept {
    const index_t item = t.block() * warps + t.warp();
    if (item >= groups * x.extent(0)) return;
    const index_t r = item / groups;
    const index_t k0 = item % groups * group_size;
    const index_t left = x.extent(1) - k0;
    const index_t n = left < group_size ? left : group_size;
    const float* const w = x.data() + r * x.stride(0) + k0;

    typename G::params p = fit(t, w, n);
    const S stored = stored_scale<S>(p.scale);
    p.scale = stored.to_float();
    if (t.lane() == 0) scales[item] = stored;

    std::uint8_t* const out = codes + r * row_bytes + k0 / 8 * G::bits;
    for (index_t i0 = 8 * t.lane(); i0 < n; i0 += 8 * 32) {
      std::uint64_t stream = 0;
      const int count = n - i0 < 8 ? static_cast<int>(n - i0) : 8;
      SUBBYTE_UNROLL
      for (int i = 0; i < 8; ++i) {
        if (i < count) {
          stream |= static_cast<std::uint64_t>(G::round(w[i0 + i], p)) << (G::bits * i);
        }
      }
      const int bytes = (count * G::bits + 7) / 8;
      SUBBYTE_UNROLL
      for (int b = 0; b < G::bits; ++b) {
        if (b < bytes) out[i0 / 8 * G::bits + b] = static_cast<std::uint8_t>(stream >> (8 * b));
      }
    }
  }

 private:
  template <class Thread>
  SUBBYTE_DEVICE static typename G::params fit(const Thread& t, const float* w,
                                               index_t n) noexcept {
    if constexpr (requires { G::spanning(closed_interval{}); }) {
      float low = 0;
      float high = 0;
      for (index_t i = t.lane(); i < n; i += 32) {
        low = w[i] < low ? w[i] : low;
        high = w[i] > high ? w[i] : high;
      }
      for (int mask = 16; mask > 0; mask /= 2) {
        const float other_low = t.exchanged(low, mask);
        const float other_high = t.exchanged(high, mask);
        low = other_low < low ? other_low : low;
        high = other_high > high ? other_high : high;
      }
      return G::spanning({low, high});
    } else {
      extreme_weight extreme{};
      for (index_t i = t.lane(); i < n; i += 32) extreme.consider(w[i], static_cast<float>(i));
      extreme.gather(t);
      return G::reaching(extreme.value);
    }
  }
};

namespace detail {

SUBBYTE_INLINE void check_plane(const char* subject, const char* plane, index_t found_rows,
                                index_t found_cols, index_t rows, index_t cols) {
  if (found_rows == rows && found_cols == cols) return;
  throw_error(errc::bad_shape, subject,
              std::string(plane) + " of " + std::to_string(found_rows) + " x " +
                  std::to_string(found_cols) + "; " + std::to_string(rows) + " x " +
                  std::to_string(cols) + " is required");
}

}  // namespace detail

/// x -> blocks of q8_0, q4_0 or mxfp4. `queue` is a stream.
///
/// Shapes    x [n, k], rows at any pitch; blocks [n, ceil(k / 32)], the last of a row padded with
///           zeros.
/// Requires  finite x: a device cannot refuse.
/// Numerics  the bytes of reference{} on the host.
/// Cost      reads x once; no allocation, no synchronization; graphs capture it.
/// Throws    bad_shape, launch_failed.
template <class Queue, absmax_format F>
void quantize(const Queue& queue,
              std::type_identity_t<device_view<tensor_view<const float, 2, row_pitched>>> x,
              device_tensor_view<F, 2> blocks) {
  using kernel = quantize_blocks_kernel<F>;
  const auto from = x.on_device();
  const auto to = blocks.on_device();
  const index_t row_blocks = ceil_div(from.extent(1), F::block_size);
  detail::check_plane("quantize", "blocks", to.extent(0), to.extent(1), from.extent(0), row_blocks);
  launch<kernel>(queue, ceil_div(to.size(), kernel::warps), from, to.data(), row_blocks);
}

/// x -> codes and scales of a planar matrix of grid G: int_grid<Bits, zero_points::none>, whole
/// rows of which are LLM.int8()'s, or a codebook_grid, of which NF4 and FP4.
///
/// Shapes    x [n, k], rows at any pitch; codes [n, ceil(k G::bits / 8)]; scales [n, groups].
/// Requires  finite x; group_size a multiple of 8, or at least k for one scale per row.
/// Numerics  the bytes of rtn{} on the host.
/// Throws    bad_shape, bad_argument (a group size), launch_failed.
template <absmax_grid G, class Queue, scale_store S>
void quantize_groups(const Queue& queue,
                     std::type_identity_t<device_view<tensor_view<const float, 2, row_pitched>>> x,
                     index_t group_size, device_tensor_view<std::uint8_t, 2> codes,
                     device_tensor_view<S, 2> scales) {
  using kernel = quantize_groups_kernel<G, S>;
  const auto from = x.on_device();
  const index_t cols = from.extent(1);
  if (group_size <= 0 || (group_size < cols && group_size % 8 != 0)) {
    throw_error(errc::bad_argument, "group size",
                std::to_string(group_size) + " for rows of " + std::to_string(cols) +
                    "; a positive multiple of 8, or the whole row, is required");
  }
  if (group_size > cols) group_size = cols > 0 ? cols : 1;
  const index_t groups = ceil_div(cols, group_size);
  const index_t row_bytes = ceil_div(cols * G::bits, 8);
  const auto c = codes.on_device();
  const auto s = scales.on_device();
  detail::check_plane("quantize_groups", "codes", c.extent(0), c.extent(1), from.extent(0),
                      row_bytes);
  detail::check_plane("quantize_groups", "scales", s.extent(0), s.extent(1), from.extent(0),
                      groups);
  launch<kernel>(queue, ceil_div(s.size(), kernel::warps), from, group_size, c.data(), row_bytes,
                 s.data(), groups);
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
