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
struct matmul_nbits {
  static_assert(Bits == 2 || Bits == 4 || Bits == 8);
  static_assert(Block >= 16 && (Block & (Block - 1)) == 0);
  static constexpr const char* name = "matmul_nbits";
  static constexpr const char* requirement = "nothing";
  static constexpr int code_bits = Bits;
  static constexpr index_t shared_rows = 1;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape&) noexcept {
    return true;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.rows * row_bytes(s);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t k,
                                                                      int bit) noexcept {
    return r * row_bytes(s) * 8 + k * Bits + bit;
  }

  template <class Arch>
  static void pack_rows(const matrix_shape& s, const std::uint8_t* codes, index_t begin,
                        index_t end, std::uint8_t* out) noexcept {
    const index_t used = ceil_div(s.cols * Bits, 8);
    for (index_t r = begin; r < end; ++r) {
      std::uint8_t* const row = out + r * row_bytes(s);
      detail::pack_stream<Bits, Arch>(codes + r * s.cols, s.cols, row);
      for (index_t b = used; b < row_bytes(s); ++b) row[b] = 0;
    }
  }
  template <class Arch>
  static void unpack_rows(const matrix_shape& s, const std::uint8_t* in, index_t begin, index_t end,
                          std::uint8_t* codes) noexcept {
    for (index_t r = begin; r < end; ++r) {
      detail::unpack_stream<Bits, Arch>(in + r * row_bytes(s), s.cols, codes + r * s.cols);
    }
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t row_bytes(
      const matrix_shape& s) noexcept {
    return ceil_div(s.cols, Block) * (Block * Bits / 8);
  }
};

/// Input zero_points: bytes [n, ceil(groups * Bits / 8)], every row one bit stream along the
/// groups, filled with zeros to whole bytes (onnxruntime's own quantizer fills with 8, and nothing
/// reads it). The shape is [n, groups].
///
/// Source    ONNX Runtime, contrib operator com.microsoft.MatMulNBits.
template <int Bits>
struct matmul_nbits_zeros {
  static_assert(Bits == 2 || Bits == 4 || Bits == 8);
  static constexpr const char* name = "matmul_nbits_zeros";
  static constexpr const char* requirement = "nothing";
  static constexpr int code_bits = Bits;
  static constexpr index_t shared_rows = 1;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape&) noexcept {
    return true;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.rows * ceil_div(s.cols * Bits, 8);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t g,
                                                                      int bit) noexcept {
    return r * ceil_div(s.cols * Bits, 8) * 8 + g * Bits + bit;
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
