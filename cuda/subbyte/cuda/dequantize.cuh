// SPDX-License-Identifier: Apache-2.0
/// A quantized matrix on a device, or chosen rows of it, as dense floats.
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

/// Rows of W -> out. A warp takes a piece of a row: its bytes to shared memory, then eight weights
/// a lane at a time.
template <class View, class T>
struct dequantize_kernel {
  using reader = matrix_reader<View>;
  static constexpr int spans = piece_spans(reader::span_bytes, 640);
  static constexpr int piece_bytes = spans * reader::span_bytes;
  static constexpr int piece_weights = spans * span_weights;
  static constexpr int warps = 4;
  static constexpr int resident_blocks = integer_levels<View> ? 12 : 8;
  static constexpr int threads = warps * warp_lanes;
  static constexpr int shared_bytes = warps * staged_bytes(piece_bytes);

  /// Row i of out [count, cols] is row i of W, or row rows[i]; a row that W does not have is NaN.
  ///
  /// Requires  count times the pieces of a row is below 2^32.
  template <class Thread>
  SUBBYTE_DEVICE static void run(const Thread& t, const reader& w, const index_t* rows,
                                 index_t count, T* out, index_t pitch) noexcept {
    const auto pieces = static_cast<std::uint32_t>((w.cols() + piece_weights - 1) / piece_weights);
    const auto item =
        static_cast<std::uint32_t>(t.block()) * warps + static_cast<std::uint32_t>(t.warp());
    const std::uint32_t i = item / pieces;
    if (i >= count) return;
    const auto piece = static_cast<int>(item % pieces);
    const int k0 = piece * piece_weights;
    T* const to = out + i * pitch;
    const index_t row = rows != nullptr ? rows[i] : i;
    if (row < 0 || row >= w.rows()) {
      for (int k = k0 + t.lane(); k < k0 + piece_weights && k < w.cols(); k += warp_lanes) {
        to[k] = rounded<T>(bit_cast<float>(0x7FC00000U));
      }
      return;
    }

    std::uint8_t* const bytes = t.shared() + t.warp() * staged_bytes(piece_bytes);
    const index_t begin = static_cast<index_t>(piece) * piece_bytes;
    const index_t left = w.row_bytes() - begin;
    const std::uint8_t* const from = w.row(row) + begin;
    stage<reader::alignment>(t, from, static_cast<int>(left < piece_bytes ? left : piece_bytes),
                             bytes);
    t.commit_copies();
    t.template wait_copies<0>();
    t.sync_warp();

    const std::uint8_t* const first_span = bytes + staged_offset<reader::alignment>(from);
    const std::int32_t* const order = w.order();
    const bool whole = order == nullptr && rows_aligned(out, pitch);
    for (int s = 0; s < spans; ++s) {
      const int span_k = k0 + s * span_weights;
      if (span_k >= w.cols()) break;
      const auto quads = w.load(first_span + s * reader::span_bytes, row, span_k, t.lane());
      SUBBYTE_UNROLL
      for (int q = 0; q < 2; ++q) {
        const int k = span_k + reader::first(t.lane(), q);
        if (k >= w.cols()) continue;
        float weight[4];
        quads.weights(q, weight);
        if (whole && k + 4 <= w.cols()) {
          four<T> rounded_weights;
          SUBBYTE_UNROLL
          for (int j = 0; j < 4; ++j) rounded_weights.at[j] = rounded<T>(weight[j]);
          *reinterpret_cast<four<T>*>(to + k) = rounded_weights;
        } else {
          SUBBYTE_UNROLL
          for (int j = 0; j < 4; ++j) {
            if (k + j < w.cols()) {
              to[order != nullptr ? order[k + j] : k + j] = rounded<T>(weight[j]);
            }
          }
        }
      }
    }
  }
};

namespace detail {

template <class T, class Queue, class View>
void dequantize_rows(const Queue& queue, const View& w, const index_t* rows, index_t count,
                     tensor_view<T, 2, row_pitched> out, const char* subject) {
  using kernel = dequantize_kernel<View, T>;
  if (out.extent(0) != count || out.extent(1) != w.cols()) {
    throw_error(errc::bad_shape, subject,
                "an output of " + std::to_string(out.extent(0)) + " x " +
                    std::to_string(out.extent(1)) + "; " + std::to_string(count) + " x " +
                    std::to_string(w.cols()) + " is required");
  }
  const index_t pieces = ceil_div(w.cols(), kernel::piece_weights);
  constexpr index_t most = 0xFFFFFFFF - kernel::warps;
  if (pieces > 0 && count > most / pieces) {
    throw_error(errc::bad_shape, subject,
                std::to_string(count) + " rows; at most " + std::to_string(most / pieces) + " of " +
                    std::to_string(w.cols()) + " columns are possible");
  }
  launch<kernel>(queue, ceil_div(count * pieces, kernel::warps), typename kernel::reader(w), rows,
                 count, out.data(), out.stride(0));
}

}  // namespace detail

/// W -> out, every weight. `queue` is a stream.
///
/// Shapes    W [n, k]; out [n, k], rows at any pitch, of float, half or bfloat16.
/// Numerics  float: the host's decode, the same bits (of NaN only that it is one). half, bfloat16:
///           rounded to nearest even from the float; overflow gives Inf.
/// Cost      reads W once, writes out once; no allocation, no synchronization; graphs capture it.
///           Rows of W at multiples of 16 bytes and rows of out at multiples of 4 elements are the
///           quickest; with a column order each weight is stored on its own.
/// Throws    bad_shape, launch_failed.
template <class Queue, class M, class T, class Layout>
void dequantize(const Queue& queue, device_view<M> w, device_tensor_view<T, 2, Layout> out) {
  detail::dequantize_rows<T>(queue, w.on_device(), nullptr, w.on_device().rows(), out.on_device(),
                             "dequantize");
}

/// Row indices[i] of W -> row i of out: the embedding look-up.
///
/// Shapes    W [n, k]; indices [m]; out [m, k].
/// Numerics  as dequantize; the row of an index outside [0, n) is NaN.
/// Throws    bad_shape, launch_failed.
template <class Queue, class M, class T, class Layout>
void get_rows(const Queue& queue, device_view<M> w,
              std::type_identity_t<device_view<vector_view<const index_t>>> indices,
              device_tensor_view<T, 2, Layout> out) {
  detail::dequantize_rows<T>(queue, w.on_device(), indices.on_device().data(),
                             indices.on_device().size(), out.on_device(), "get_rows");
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
