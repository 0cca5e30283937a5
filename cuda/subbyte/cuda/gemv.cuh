// SPDX-License-Identifier: Apache-2.0
/// y = W x for a quantized W on a device and one to eight rows of x.
#pragma once

#include <utility>  // std::integer_sequence

#include "subbyte/cuda/activations.cuh"
#include "subbyte/cuda/rows.cuh"
#if defined(__CUDACC__)
#include "subbyte/cuda/thread.cuh"
#endif

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Rows of x that a product with a vector takes at most.
inline constexpr int gemv_rows = 8;

/// y [m, n] = x W^T, m <= M. Each warp of a block walks every fourth piece of the block's rows of W
/// through a ring of shared memory of its own; the four sums of an output are added last.
template <class View, class X, int M>
struct gemv_kernel {
  static_assert(M >= 1 && M <= gemv_rows);
  using reader = matrix_reader<View>;
  using quads = typename reader::quads;
  /// Rows of W together: they share the loads of x.
  static constexpr int together = M >= 4 ? 4 : 2;
  static constexpr int spans = piece_spans(reader::span_bytes, 640);
  static constexpr int piece_bytes = spans * reader::span_bytes;
  static constexpr int piece_weights = spans * span_weights;
  static constexpr int stage_bytes = together * staged_bytes(piece_bytes);
  static constexpr int warps = 4;
  /// Blocks of a multiprocessor that the registers are meant for.
  static constexpr int resident_blocks = M == 8   ? 2
                                         : M == 4 ? (integer_levels<View> ? 4 : 3)
                                                  : (integer_levels<View> ? 8 : 6);
  static constexpr int threads = warps * warp_lanes;
  static constexpr int stages = stage_bytes > 4096 ? 2 : 3;
  static constexpr int shared_bytes = warps * stages * stage_bytes;
  static_assert(shared_bytes >= warps * together * M * static_cast<int>(sizeof(float)));

  /// Roundings that a sum of k products goes through at most, in float; see gemv.
  [[nodiscard]] static constexpr double roundings(index_t k) noexcept {
    // A lane's chain: of each span two runs of four products, each with a scale and an offset; then
    // the tree of the lanes and the four warps.
    const index_t chain = ceil_div(ceil_div(k, piece_weights), warps) * spans * 2 * 2;
    return static_cast<double>(chain + 6 + 5 + warps);
  }

  template <class Thread>
  SUBBYTE_DEVICE static void run(const Thread& t, const reader& w, const X& x, float* y,
                                 index_t pitch) noexcept {
    const index_t row0 = t.block() * together;
    const int pieces = (w.cols() + piece_weights - 1) / piece_weights;
    std::uint8_t* const ring = t.shared() + t.warp() * (stages * stage_bytes);

    for (int ahead = 0; ahead < stages - 1; ++ahead) {
      stage_rows(t, w, row0, t.warp() + ahead * warps, ring + ahead * stage_bytes);
    }
    float sum[together][M] = {};
    int slot = 0;
    for (int piece = t.warp(); piece < pieces; piece += warps) {
      t.template wait_copies<stages - 2>();
      // What the lanes copied is there for all, and all are done with the slot that is filled next.
      t.sync_warp();
      const int filled = slot == 0 ? stages - 1 : slot - 1;
      stage_rows(t, w, row0, piece + (stages - 1) * warps, ring + filled * stage_bytes);
      const std::uint8_t* span[together];
      SUBBYTE_UNROLL
      for (int j = 0; j < together; ++j) {
        span[j] = ring + slot * stage_bytes + j * staged_bytes(piece_bytes) +
                  staged_offset<reader::alignment>(w.row(existing_row(w, row0 + j)) +
                                                   static_cast<index_t>(piece) * piece_bytes);
      }
      for (int s = 0; s < spans; ++s) {
        const int k0 = (piece * spans + s) * span_weights;
        if (k0 >= w.cols()) break;
        add_span(t, w, x, row0, k0, span, s * reader::span_bytes, sum);
      }
      slot = slot == stages - 1 ? 0 : slot + 1;
    }
    t.template wait_copies<0>();
    t.sync_block();  // the rings are free

    auto* const sums = reinterpret_cast<float*>(t.shared());
    constexpr int outputs = together * M;
    float left[outputs];
    SUBBYTE_UNROLL
    for (int j = 0; j < together; ++j) {
      SUBBYTE_UNROLL
      for (int m = 0; m < M; ++m) left[j * M + m] = sum[j][m];
    }
    const int output = add_lanes(t, left);
    if (t.lane() % (warp_lanes / outputs) == 0) sums[t.warp() * outputs + output] = left[0];
    t.sync_block();
    const int own = t.warp() * warp_lanes + t.lane();
    if (own < outputs) {
      const index_t r = row0 + own / M;
      const int m = own % M;
      float v = sums[own];
      for (int other = 1; other < warps; ++other) v += sums[other * outputs + own];
      if (r < w.rows() && m < x.rows()) y[m * pitch + r] = v;
    }
  }

 private:
  // A row beyond the last is the last: its sums are not stored.
  SUBBYTE_DEVICE static index_t existing_row(const reader& w, index_t r) noexcept {
    return r < w.rows() ? r : w.rows() - 1;
  }

  // The sums over all lanes of each of `value`, in value[0]: of which one, the result says. Each
  // step halves the sums that a lane keeps, until one is left.
  template <class Thread, int Count>
  SUBBYTE_DEVICE static int add_lanes(const Thread& t, float (&value)[Count]) noexcept {
    static_assert((Count & (Count - 1)) == 0 && Count <= warp_lanes);
    int kept = 0;
    int width = Count / 2;
    SUBBYTE_UNROLL
    for (int mask = warp_lanes / 2; mask > 0; mask /= 2) {
      if (width == 0) {
        value[0] += t.exchanged(value[0], mask);
        continue;
      }
      const bool upper = (t.lane() & mask) != 0;
      SUBBYTE_UNROLL
      for (int i = 0; i < Count / 2; ++i) {
        if (i >= width) break;
        const float sent = upper ? value[i] : value[i + width];
        value[i] = (upper ? value[i + width] : value[i]) + t.exchanged(sent, mask);
      }
      kept += upper ? width : 0;
      width /= 2;
    }
    return kept;
  }

  struct levels_of_rows {
    typename X::template levels<quads> of_row[together];
  };
  template <int... J>
  SUBBYTE_DEVICE static levels_of_rows levels_of(const quads (&own)[together], int q,
                                                 std::integer_sequence<int, J...>) noexcept {
    return {{typename X::template levels<quads>(own[J], q)...}};
  }

  // What lies behind a row of floats may be a NaN, which no zero of x silences.
  SUBBYTE_DEVICE static void clear_beyond(int left, int lane, quads& own) noexcept {
    if (left >= span_weights) return;
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      SUBBYTE_UNROLL
      for (int i = 0; i < 4; ++i) {
        if (reader::first(lane, q) + i >= left) own.level[q][i] = 0;
      }
    }
  }

  template <class Thread>
  SUBBYTE_DEVICE static void stage_rows(const Thread& t, const reader& w, index_t row0, int piece,
                                        std::uint8_t* to) noexcept {
    SUBBYTE_UNROLL
    for (int j = 0; j < together; ++j) {
      const index_t begin = static_cast<index_t>(piece) * piece_bytes;
      const index_t left = w.row_bytes() - begin;
      if (left > 0) {
        stage<reader::alignment>(t, w.row(existing_row(w, row0 + j)) + begin,
                                 static_cast<int>(left < piece_bytes ? left : piece_bytes),
                                 to + j * staged_bytes(piece_bytes));
      }
    }
    t.commit_copies();  // also an empty group: what waits counts groups
  }

  template <class Thread>
  SUBBYTE_DEVICE static void add_span(const Thread& t, const reader& w, const X& x, index_t row0,
                                      int k0, const std::uint8_t* const (&span)[together], int at,
                                      float (&sum)[together][M]) noexcept {
    quads own[together];
    SUBBYTE_UNROLL
    for (int j = 0; j < together; ++j) {
      own[j] = w.load(span[j] + at, existing_row(w, row0 + j), k0, t.lane());
      if constexpr (requires { own[j].level; }) clear_beyond(w.cols() - k0, t.lane(), own[j]);
    }
    const std::int32_t* const order = w.order();
    SUBBYTE_UNROLL
    for (int q = 0; q < 2; ++q) {
      const int k = k0 + reader::first(t.lane(), q);
      if (k >= w.cols()) continue;
      const auto level = levels_of(own, q, std::make_integer_sequence<int, together>());
      SUBBYTE_UNROLL
      for (int m = 0; m < M; ++m) {
        const typename X::quad four_of_x = x.load(m, k, order);
        SUBBYTE_UNROLL
        for (int j = 0; j < together; ++j) {
          sum[j][m] = level.of_row[j].plus_product(four_of_x, sum[j][m]);
        }
      }
    }
  }
};

namespace detail {

template <class Queue, class X, class View>
void gemv_of(const Queue& queue, const View& w, const X& x, tensor_view<float, 2, row_pitched> y) {
  const index_t m = x.rows();
  if (m < 1 || m > gemv_rows) {
    throw_error(errc::bad_shape, "gemv",
                std::to_string(m) + " rows of x; 1 to " + std::to_string(gemv_rows) +
                    " are required, gemm takes more");
  }
  if (x.cols() != w.cols() || y.extent(0) != m || y.extent(1) != w.rows()) {
    throw_error(errc::bad_shape, "gemv",
                "x " + std::to_string(m) + " x " + std::to_string(x.cols()) + " and y " +
                    std::to_string(y.extent(0)) + " x " + std::to_string(y.extent(1)) + " for W " +
                    std::to_string(w.rows()) + " x " + std::to_string(w.cols()));
  }
  const auto rows = [&]<int M>(std::integral_constant<int, M>) {
    using kernel = gemv_kernel<View, X, M>;
    launch<kernel>(queue, ceil_div(w.rows(), kernel::together), typename kernel::reader(w), x,
                   y.data(), y.stride(0));
  };
  if (m == 1) return rows(std::integral_constant<int, 1>{});
  // Products of halves and integers cost little beside the decoding that four rows share.
  if constexpr (std::is_same_v<X, float_activations>) {
    if (m == 2) return rows(std::integral_constant<int, 2>{});
  }
  if (m <= 4) return rows(std::integral_constant<int, 4>{});
  rows(std::integral_constant<int, 8>{});
}

}  // namespace detail

/// y = x W^T with x in float. `queue` is a stream.
///
/// Shapes    W [n, k]; x [m, k], 1 <= m <= 8; y [m, n]; rows of x and y at any pitch.
/// Requires  y does not overlap x or W.
/// Numerics  tolerant: |error| <= gemv_kernel::roundings(k) 2^-24 sum |x| (|scale level| +
/// |offset|)
///           of the weights scale * level + offset. The same bits in every run and on every device;
///           not those of another m, nor the host's.
/// Cost      reads W once; no allocation, no synchronization; graphs capture it. Rows of W at
///           multiples of 16 bytes and rows of x at multiples of 4 elements are the quickest.
/// Throws    bad_shape, launch_failed.
template <class Queue, class M>
void gemv(const Queue& queue, device_view<M> w,
          std::type_identity_t<device_view<tensor_view<const float, 2, row_pitched>>> x,
          std::type_identity_t<device_view<tensor_view<float, 2, row_pitched>>> y) {
  detail::gemv_of(queue, w.on_device(), float_activations(x.on_device()), y.on_device());
}

/// y = x W^T with x in half, products of pairs in half arithmetic.
///
/// Numerics  as above with two roundings of 2^-11 for every product besides. A sum of two products
///           of x with a level of the format (127 at most) beyond 65504 is Inf: |x| <= 250 is safe.
/// Throws    bad_shape, launch_failed.
template <class Queue, class M>
requires integer_levels<M>
void gemv(const Queue& queue, device_view<M> w,
          std::type_identity_t<device_view<tensor_view<const half, 2, row_pitched>>> x,
          std::type_identity_t<device_view<tensor_view<float, 2, row_pitched>>> y) {
  detail::gemv_of(queue, w.on_device(), half_activations(x.on_device()), y.on_device());
}

/// y = x W^T with x in 8-bit integers (quantize_activations), exact integer products of four.
///
/// Numerics  as the first, over the quantized x. Choosing this changes numerics: it is spelled by
///           the type of x.
/// Throws    bad_shape, launch_failed.
template <class Queue, class M>
requires integer_levels<M>
void gemv(const Queue& queue, device_view<M> w, device_view<integer_activations> x,
          std::type_identity_t<device_view<tensor_view<float, 2, row_pitched>>> y) {
  detail::gemv_of(queue, w.on_device(), x.on_device(), y.on_device());
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
