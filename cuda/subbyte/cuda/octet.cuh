// SPDX-License-Identifier: Apache-2.0
/// How a lane of a warp decodes: 256 consecutive weights of a row are a span, and each of 32 lanes
/// takes eight of them, in two runs of four.
///
/// One specialisation of octet per format (folder octet/). Everything here is tested on the host,
/// lane by lane, against the format's own decode.
#pragma once

#include "subbyte/cuda/decode.cuh"
#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// The lanes of a warp.
inline constexpr int warp_lanes = 32;
/// Consecutive weights of a row that a warp decodes together.
inline constexpr int span_weights = 256;

/// What a lane holds of an integer format: w = scale * (byte - Bias) + offset, four weights under
/// each scale and offset.
template <int Bias, bool HasOffset>
struct integer_quads {
  static constexpr int bias = Bias;
  static constexpr bool has_offset = HasOffset;

  std::uint32_t bytes[2];
  float scale[2];
  float offset[2];  ///< meaningless without HasOffset

  /// The four weights of run q.
  ///
  /// Numerics  those of the format: exact products, one rounding in the addition.
  SUBBYTE_HD_INLINE void weights(int q, float (&out)[4]) const noexcept {
    bytes_to_floats<Bias>(bytes[q], out);
    SUBBYTE_UNROLL
    for (float& w : out) w = HasOffset ? fused(scale[q], w, offset[q]) : scale[q] * w;
  }
};

/// What a lane holds of anything else: w = scale * level.
struct float_quads {
  static constexpr bool has_offset = false;

  float level[2][4];
  float scale;

  SUBBYTE_HD_INLINE void weights(int q, float (&out)[4]) const noexcept {
    SUBBYTE_UNROLL
    for (int i = 0; i < 4; ++i) out[i] = scale * level[q][i];
  }
};

/// How format F lies in a span; specialised per format with
///
///   span_bytes                bytes of 256 weights
///   alignment                 what load() wants the span's address to be a multiple of
///   quads                     integer_quads<Bias, HasOffset> or float_quads
///   first(lane, q)            position in the span of the first of four consecutive weights of
///                             run q of a lane; a multiple of 4. The 64 runs cover the span once
///   load(span, lane)          the lane's quads from the span's bytes; of a row_scaled_format
///                             load(span, lane, row_scale)
///
/// load() may read all of the span; past the end of a row it holds anything.
template <class F>
struct octet;

/// Blocks of F in a span.
template <block_storage F>
inline constexpr int span_blocks = span_weights / F::block_size;

/// What the address of each block of F in a span is a multiple of: 1, 2 or 4.
template <block_storage F>
inline constexpr int block_alignment = sizeof(F) % 4 == 0 ? 4 : (sizeof(F) % 2 == 0 ? 2 : 1);

/// The runs of a lane that are Distance weights apart; the runs of neighbouring lanes are
/// neighbours.
template <int Distance>
struct runs_apart {
  static_assert(Distance % 4 == 0 && span_weights % (2 * Distance) == 0);

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    constexpr int lanes = Distance / 4;
    return 2 * Distance * (lane / lanes) + Distance * q + 4 * (lane % lanes);
  }
};

/// What the octets of block formats share; their runs are Distance weights apart.
template <block_storage F, int Distance>
struct octet_base : runs_apart<Distance> {
  static constexpr int span_bytes = span_blocks<F> * static_cast<int>(sizeof(F));
  static constexpr int alignment = block_alignment<F>;

  /// A word of the block whose offset in it is a multiple of 4 (or of its alignment).
  [[nodiscard]] SUBBYTE_HD_INLINE static std::uint32_t word(const std::uint8_t* p) noexcept {
    return load_word<block_alignment<F>>(p);
  }
};

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
