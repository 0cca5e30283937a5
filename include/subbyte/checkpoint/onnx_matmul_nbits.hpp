// SPDX-License-Identifier: Apache-2.0
/// The inputs of ONNX Runtime's MatMulNBits as tensors: B, scales and zero_points.
#pragma once

#include <string>
#include <string_view>

#include "subbyte/checkpoint/stored_tensor.hpp"
#include "subbyte/layout/matmul_nbits.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// Attributes of the operator.
struct matmul_nbits_settings {
  int bits = 4;             ///< 2, 4, 8
  index_t block_size = 32;  ///< a power of two, at least 16
  index_t cols = 0;         ///< K

  SUBBYTE_INLINE friend bool operator==(const matmul_nbits_settings&,
                                        const matmul_nbits_settings&) = default;
};

namespace detail {

// Calls f(bits, block size 16) as constants: rows are padded to whole blocks beforehand, so that
// the block size of the layout plays no part.
template <class Arch>
[[nodiscard]] const basic_packing<Arch>& matmul_packing(int bits) noexcept {
  return packing_with_bits<Arch, matmul_nbits<2, 16>, matmul_nbits<4, 16>, matmul_nbits<8, 16>>(
      bits);
}
template <class Arch>
[[nodiscard]] const basic_packing<Arch>& matmul_zeros_packing(int bits) noexcept {
  return packing_with_bits<Arch, matmul_nbits_zeros<2>, matmul_nbits_zeros<4>,
                           matmul_nbits_zeros<8>>(bits);
}

template <class Arch>
[[nodiscard]] index_t checked_matmul_blocks(std::string_view module,
                                            const matmul_nbits_settings& s) {
  constexpr index_t max_block = index_t{1} << 30;  // sizes in bits fit
  if (s.bits != 2 && s.bits != 4 && s.bits != 8) {
    throw_error(errc::bad_argument, printable<Arch>(module),
                std::to_string(s.bits) + " bits, MatMulNBits has 2, 4 and 8");
  }
  if (s.block_size < 16 || s.block_size > max_block || (s.block_size & (s.block_size - 1)) != 0) {
    throw_error(
        errc::bad_argument, printable<Arch>(module),
        "blocks of " + std::to_string(s.block_size) + ", MatMulNBits has powers of two from 16");
  }
  if (s.cols < 1 || s.cols > std::numeric_limits<index_t>::max() - s.block_size) {
    throw_error(errc::bad_argument, printable<Arch>(module),
                "K is " + std::to_string(s.cols) + ", required is at least 1");
  }
  return ceil_div(s.cols, s.block_size);
}

// [rows, blocks] in either of the two shapes that are in use.
template <class Arch>
[[nodiscard]] basic_tensor_slice<Arch> by_rows(const basic_module_tensors<Arch>& tensors,
                                               const char* leaf, index_t rows, index_t blocks,
                                               std::span<const index_t, 2> extents) {
  const safetensors::basic_tensor<Arch>& stored = tensors.tensor(leaf);
  basic_tensor_slice<Arch> found{stored.name(), stored.type(), stored.shape(), stored.bytes()};
  if (found.shape.size() == 1) {
    found.require_shape({rows * blocks}, "B and the attributes give it");
  } else {
    found.require_shape({rows, blocks}, "B and the attributes give it");
  }
  found.shape = extents;
  return found;
}

}  // namespace detail

/// Reads module.B, .scales and, where it is there, .zero_points: packed (U8) or one of the scales'
/// type per block.
///
/// B is [n, blocks, block bytes], the others [n, blocks] or flat; a module without a name has
/// tensors without a prefix. Codes behind the last column are not read.
///
/// Throws  not_found, bad_shape, unsupported_format (an element type), non_finite, bad_argument
///         (settings).
/// Source  ONNX Runtime, docs/ContribOperators.md, com.microsoft.MatMulNBits.
template <class Arch = arch::native>
[[nodiscard]] basic_group_codes<Arch> load_matmul_nbits(const safetensors::basic_file<Arch>& file,
                                                        std::string_view module,
                                                        const matmul_nbits_settings& settings) {
  const basic_module_tensors<Arch> tensors(file, module);
  const index_t blocks = detail::checked_matmul_blocks<Arch>(module, settings);
  const auto packed = tensors.get("B", 3);
  packed.require_type({safetensors::dtype::u8});
  const index_t n = packed.shape[0], k = settings.cols;
  packed.require_shape({n, blocks, settings.block_size * settings.bits / 8},
                       "the attributes give it");
  const index_t extents[2] = {n, blocks};
  const auto scales = detail::by_rows<Arch>(tensors, "scales", n, blocks, extents);
  basic_group_codes<Arch> w;
  w.bits = settings.bits;
  w.group_size = settings.block_size < k ? settings.block_size : k;
  w.scales = scales.parameters(parameter_order::rows_first);
  w.stored_scale = scales.parameter_type();
  // Whole blocks, then the columns that exist.
  const index_t stored_cols = blocks * settings.block_size;
  const tensor<std::uint8_t, 2> stored =
      unpack_tensor(detail::matmul_packing<Arch>(settings.bits), packed, {n, stored_cols});
  w.codes = tensor<std::uint8_t, 2>(uninitialized, n, k);
  for (index_t r = 0; r < n; ++r) {
    __builtin_memcpy(w.codes.data() + r * k, stored.data() + r * stored_cols,
                     static_cast<std::size_t>(k));
  }
  if (tensors.has("zero_points")) {
    const auto& zeros = tensors.tensor("zero_points");
    if (zeros.type() == safetensors::dtype::u8) {
      const index_t bytes = ceil_div(blocks * settings.bits, 8);
      const index_t packed_extents[2] = {n, bytes};
      const auto words = detail::by_rows<Arch>(tensors, "zero_points", n, bytes, packed_extents);
      w.zeros = widen_zeros<Arch>(
          unpack_tensor(detail::matmul_zeros_packing<Arch>(settings.bits), words, {n, blocks}));
      drop_central_zeros<Arch>(w, false, zeros.name());
    } else {
      const auto real = detail::by_rows<Arch>(tensors, "zero_points", n, blocks, extents);
      real.require_type({scales.type});
      w.zeros = real.parameters(parameter_order::rows_first);
      w.real_zeros = true;
    }
  }
  w.validate(printable<Arch>(module));
  return w;
}

/// The tensors of a module; bits, block size and K are the matrix's, and a group of a whole row
/// must be a power of two too. A symmetric matrix has no zero_points.
///
/// Throws  bad_argument for what the operator cannot hold: widths other than 2, 4, 8, column
/// orders,
///         block sizes, real zero points that the scales' type does not hold.
template <class Arch = arch::native>
[[nodiscard]] basic_stored_tensors<Arch> store_matmul_nbits(const basic_group_codes<Arch>& w,
                                                            std::string_view module) {
  require_storable<Arch>(w, module, "MatMulNBits", {2, 4, 8});
  const index_t n = w.rows(), k = w.cols();
  const index_t blocks = detail::checked_matmul_blocks<Arch>(module, {w.bits, w.group_size, k});
  if (!w.sequential()) {
    throw_error(errc::bad_argument, printable<Arch>(module),
                "the columns are not in order of their groups (act-order), which MatMulNBits "
                "cannot hold without its g_idx input");
  }
  const auto name = [&](const char* leaf) { return tensor_name<Arch>(module, leaf); };
  const index_t stored_cols = blocks * w.group_size;
  tensor<std::uint8_t, 2> padded(n, stored_cols);
  for (index_t r = 0; r < n; ++r) {
    __builtin_memcpy(padded.data() + r * stored_cols, w.codes.data() + r * k,
                     static_cast<std::size_t>(k));
  }
  using safetensors::dtype;
  basic_stored_tensors<Arch> out;
  out.push_back(pack_tensor(detail::matmul_packing<Arch>(w.bits), name("B"), dtype::u8,
                            {n, blocks, w.group_size * w.bits / 8}, padded.view()));
  out.push_back(parameter_tensor<Arch>(name("scales"), w.scales, w.stored_scale,
                                       parameter_order::rows_first));
  if (w.symmetric()) return out;
  if (w.real_zeros) {
    out.push_back(parameter_tensor<Arch>(name("zero_points"), w.zeros, w.stored_scale,
                                         parameter_order::rows_first));
    return out;
  }
  const tensor<std::uint8_t, 2> zeros = integer_zeros<Arch>(w, module, "MatMulNBits");
  // ONNX Runtime's own quantizer fills the last byte of a row with the middle of 4-bit codes.
  const index_t bytes = ceil_div(blocks * w.bits, 8), fields = bytes * 8 / w.bits;
  tensor<std::uint8_t, 2> filled(n, fields);
  for (index_t r = 0; r < n; ++r) {
    for (index_t g = 0; g < fields; ++g) {
      filled(r, g) = g < blocks ? zeros(r, g) : static_cast<std::uint8_t>(w.bits == 4 ? 8 : 0);
    }
  }
  out.push_back(pack_tensor(detail::matmul_zeros_packing<Arch>(w.bits), name("zero_points"),
                            dtype::u8, {n, bytes}, filled.view()));
  return out;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
