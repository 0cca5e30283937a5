// SPDX-License-Identifier: Apache-2.0
/// EXL3 checkpoints (exllamav3) decoded to floats: trellis codes between two Hadamard transforms.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "subbyte/checkpoint/stored_tensor.hpp"
#include "subbyte/core/arch.hpp"
#include "subbyte/core/bits.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/io/safetensors.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// Which function of a 16-bit state is its weight.
enum class exl3_codebook : std::uint8_t {
  three_inst,  ///< "3inst", where no marker tensor says otherwise
  mcg,
  mul1
};

/// The weight of a trellis state.
///
/// Numerics  exactly the fp16 number of the original: one fp16 addition, or one fp16 fused
///           multiply-add, of values whose float results need no rounding.
/// Source    exllamav3, codebook.cuh.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr half exl3_value(std::uint16_t state,
                                                          exl3_codebook codebook) noexcept {
  if (codebook == exl3_codebook::mul1) {
    const std::uint32_t y = state * 0x83DCD12DU;
    const std::uint32_t bytes = (y & 255) + (y >> 8 & 255) + (y >> 16 & 255) + (y >> 24);
    const float u = half::from_bits(static_cast<std::uint16_t>(0x6400U + bytes)).to_float();
    const float product = u * half::from_bits(0x1EEE).to_float();
    return half::nearest(product + half::from_bits(0xC931).to_float());
  }
  const std::uint32_t y =
      codebook == exl3_codebook::mcg ? state * 0xCBAC1FEDU : state * 89226354U + 64248484U;
  const std::uint32_t halves = (y & 0x8FFF8FFFU) ^ 0x3B603B60U;
  const float low = half::from_bits(static_cast<std::uint16_t>(halves & 0xFFFF)).to_float();
  const float high = half::from_bits(static_cast<std::uint16_t>(halves >> 16)).to_float();
  return half::nearest(low + high);
}

/// State i of a tile: the 16 bits that end at bit (i + 1) * bits of its circular stream.
///
///     stream   least significant word first, most significant bit of a word first
///     state i  bits i * bits + bits - 16 .. i * bits + bits - 1, the first of them its highest,
///              modulo 256 * bits: the stream bites its tail
///
/// Requires  tile holds 32 * bits bytes; 0 <= i < 256; 1 <= bits <= 8.
/// Source    exllamav3, exl3_dq.cuh.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr std::uint16_t exl3_state(const std::uint8_t* tile,
                                                                   int bits, int i) noexcept {
  const int length = 256 * bits;
  const int first = (i * bits + bits - 16 + length) % length;
  const int word = first / 32;
  const std::uint64_t here = load_le<std::uint32_t>(tile + 4 * word);
  const std::uint64_t next = load_le<std::uint32_t>(tile + 4 * ((word + 1) % (8 * bits)));
  return static_cast<std::uint16_t>((here << 32 | next) >> (48 - first % 32) & 0xFFFF);
}

/// The column (input) and row (output) of element i inside its tile of 16 x 16 weights.
///
///     lane = i / 8 has columns k = 2 (lane % 4) + {0, 1, 8, 9} of row n = lane / 4, then the same
///     columns of row n + 8
///
/// Source  exllamav3, the order of mma.m16n8k16's operand.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int exl3_tile_column(int i) noexcept {
  return i / 8 % 4 * 2 + i % 2 + i % 4 / 2 * 8;
}
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int exl3_tile_row(int i) noexcept {
  return i / 32 + i % 8 / 4 * 8;
}

/// The tensors of one linear layer, where they lie.
struct exl3_linear {
  index_t rows;  ///< outputs n
  index_t cols;  ///< inputs k
  int bits;      ///< bits per weight, 1 to 8
  exl3_codebook codebook;
  std::span<const std::uint8_t> trellis;  ///< int16 [k / 16, n / 16, 16 * bits]
  std::span<const std::uint8_t> suh;      ///< fp16 [k]
  std::span<const std::uint8_t> svh;      ///< fp16 [n]
};

/// The side of the blocks that EXL3's Hadamard transforms mix.
inline constexpr index_t exl3_block = 128;

/// The layer `module` of a file: tensors trellis, suh, svh and, for another codebook than "3inst",
/// the marker mcg or mul1. A bias is left to the caller.
///
/// Throws  not_found, unsupported_format (an element type, or the packed signs su and sv of files
///         from before 2025), bad_shape.
/// Source  exllamav3, modules/quant/exl3.py.
template <class Arch>
[[nodiscard]] exl3_linear read_exl3(const safetensors::basic_file<Arch>& file,
                                    std::string_view module) {
  const basic_module_tensors<Arch> tensors(file, module);
  const auto trellis = tensors.get("trellis", 3);
  trellis.require_type({safetensors::dtype::i16});
  exl3_linear w{};
  w.cols = trellis.shape[0] * 16;
  w.rows = trellis.shape[1] * 16;
  w.bits = static_cast<int>(trellis.shape[2] / 16);
  if (trellis.shape[2] % 16 != 0 || trellis.shape[2] < 16 || trellis.shape[2] > 128) {
    trellis.reject(errc::bad_shape, "the shape is " + trellis.shape_text() +
                                        ", required is a last extent of 16 times 1 to 8");
  }
  if (w.rows % exl3_block != 0 || w.cols % exl3_block != 0) {
    trellis.reject(errc::bad_shape, "the shape is " + trellis.shape_text() +
                                        ", required are inputs and outputs in blocks of 128, so "
                                        "multiples of 8 here");
  }
  if (!tensors.has("suh") && tensors.has("su")) {
    trellis.reject(errc::unsupported_format,
                   "the layer has packed signs su and sv, required are suh and svh");
  }
  const auto suh = tensors.get("suh", 1);
  const auto svh = tensors.get("svh", 1);
  suh.require_type({safetensors::dtype::f16});
  svh.require_type({safetensors::dtype::f16});
  suh.require_shape({w.cols}, "one scale per input of trellis");
  svh.require_shape({w.rows}, "one scale per output of trellis");
  w.codebook = tensors.has("mcg")    ? exl3_codebook::mcg
               : tensors.has("mul1") ? exl3_codebook::mul1
                                     : exl3_codebook::three_inst;
  w.trellis = trellis.bytes;
  w.suh = suh.bytes;
  w.svh = svh.bytes;
  return w;
}

namespace detail {

/// Sums and differences of 128 numbers: the Hadamard transform without its factor 128^-0.5. `step`
/// lies between neighbours of a vector, and `count` vectors lie `apart` from each other.
template <class Arch>
void hadamard_128(float* x, index_t step, index_t count, index_t apart) noexcept {
  for (index_t half_size = 1; half_size < exl3_block; half_size *= 2) {
    for (index_t i = 0; i < exl3_block; i += i % half_size == half_size - 1 ? half_size + 1 : 1) {
      float* const low = x + i * step;
      float* const high = low + half_size * step;
      for (index_t v = 0; v < count; ++v) {
        const float sum = low[v * apart] + high[v * apart];
        high[v * apart] = low[v * apart] - high[v * apart];
        low[v * apart] = sum;
      }
    }
  }
}

[[nodiscard]] SUBBYTE_INLINE float half_at(std::span<const std::uint8_t> values,
                                           index_t i) noexcept {
  return half::from_bits(load_le<std::uint16_t>(values.data() + 2 * i)).to_float();
}

/// Rows n0 .. n0 + 127 and columns k0 .. k0 + 127 of W.
template <class Arch>
void decode_exl3_block(const exl3_linear& w, index_t n0, index_t k0,
                       matrix_view<float> out) noexcept {
  float block[exl3_block * exl3_block];  // [rows, columns]
  for (index_t tk = 0; tk < exl3_block / 16; ++tk) {
    for (index_t tn = 0; tn < exl3_block / 16; ++tn) {
      const std::uint8_t* const tile =
          w.trellis.data() +
          ((k0 / 16 + tk) * (w.rows / 16) + n0 / 16 + tn) * 32 * static_cast<index_t>(w.bits);
      float* const corner = block + tn * 16 * exl3_block + tk * 16;
      for (int i = 0; i < 256; ++i) {
        corner[exl3_tile_row(i) * exl3_block + exl3_tile_column(i)] =
            exl3_value(exl3_state(tile, w.bits, i), w.codebook).to_float();
      }
    }
  }
  hadamard_128<Arch>(block, 1, exl3_block, exl3_block);
  hadamard_128<Arch>(block, exl3_block, exl3_block, 1);
  for (index_t r = 0; r < exl3_block; ++r) {
    const float row_scale = half_at(w.svh, n0 + r) * (1.0F / exl3_block);
    float* const row = out.data() + (n0 + r) * w.cols + k0;
    for (index_t c = 0; c < exl3_block; ++c) {
      row[c] = block[r * exl3_block + c] * (half_at(w.suh, k0 + c) * row_scale);
    }
  }
}

}  // namespace detail

/// W [n, k] as floats: W(r, c) = svh(r) * suh(c) * (H D H)(c, r), where D [k, n] are the decoded
/// states and H is 128 x 128 blocks of the orthonormal Hadamard matrix in its natural order.
///
/// Shapes    out [w.rows, w.cols].
/// Requires  w as read_exl3 gives it.
/// Numerics  fp32 sums and differences, 14 deep; the same bits for every executor. exllamav3
///           rounds to fp16 on the way, so that its own weights differ in their last bits.
/// Cost      64 KiB of stack per thread; no allocation.
/// Throws    bad_shape if out has other extents.
/// Source    exllamav3, modules/quant/exl3.py, get_weight_tensor.
template <class Arch = arch::native>
void decode_exl3(const exl3_linear& w, matrix_view<float> out, executor_ref ex = serial) {
  if (out.extent(0) != w.rows || out.extent(1) != w.cols) {
    throw_error(errc::bad_shape, "exl3",
                "the output is " + std::to_string(out.extent(0)) + " x " +
                    std::to_string(out.extent(1)) + ", required is " + std::to_string(w.rows) +
                    " x " + std::to_string(w.cols));
  }
  const index_t blocks_per_row = w.cols / exl3_block;
  auto body = [&](index_t begin, index_t end) noexcept {
    for (index_t b = begin; b < end; ++b) {
      detail::decode_exl3_block<Arch>(w, b / blocks_per_row * exl3_block,
                                      b % blocks_per_row * exl3_block, out);
    }
  };
  ex.for_range<decltype(body)&, Arch>(w.rows / exl3_block * blocks_per_row, 1, body);
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
