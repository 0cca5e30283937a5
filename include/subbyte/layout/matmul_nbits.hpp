// SPDX-License-Identifier: Apache-2.0
/// The layout of ONNX Runtime's MatMulNBits operator.
#pragma once

#include "subbyte/core/bits.hpp"
#include "subbyte/layout/bit_stream.hpp"
#include "subbyte/layout/concepts.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Input B: bytes [n, ceil(k / Block), Block * Bits / 8], codes of a block in their natural order,
/// first code in the least significant bits. The last block is filled with code 0.
///
///     4 bit, row r      bit 7       0
///     byte 0                k1    k0
///     byte 1                k3    k2
///
/// Source    ONNX Runtime, contrib operator com.microsoft.MatMulNBits.
template <int Bits, index_t Block>
struct matmul_nbits : detail::row_streams<Bits, Block * Bits / 8> {
  static_assert(Bits == 2 || Bits == 4 || Bits == 8);
  static_assert(Block >= 16 && (Block & (Block - 1)) == 0);
  static constexpr const char* name = "matmul_nbits";
};

/// Input zero_points: bytes [n, ceil(groups * Bits / 8)], every row one bit stream along the
/// groups, filled with zeros to whole bytes (onnxruntime's own quantizer fills with 8, and nothing
/// reads it). The shape is [n, groups].
///
/// Source    ONNX Runtime, contrib operator com.microsoft.MatMulNBits.
template <int Bits>
struct matmul_nbits_zeros : detail::row_streams<Bits, 1> {
  static_assert(Bits == 2 || Bits == 4 || Bits == 8);
  static constexpr const char* name = "matmul_nbits_zeros";
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
