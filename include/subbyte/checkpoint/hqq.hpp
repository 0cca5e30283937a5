// SPDX-License-Identifier: Apache-2.0
/// HQQ's tensors: W_q, scale and zero of groups along the columns (axis 1).
#pragma once

#include <string>
#include <string_view>

#include "subbyte/checkpoint/stored_tensor.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// W_q of HQQ, of the matrix [groups of all rows, group size]: its rows are cut into parts of equal
/// length, and the same row of every part shares an element, the first part in the highest bits.
/// Elements are bytes of 8 / Bits codes; of 3 bits, 32-bit words of ten.
///
///     4 bit, element (i, k)   bit 7            0
///                                 row i | row i + rows / 2
///
/// Requires  rows divisible by 8 / Bits; any rows for 3 bits.
/// Source    hqq, hqq/core/bitpack.py.
template <int Bits>
struct hqq_parts {
  static_assert(Bits == 1 || Bits == 2 || Bits == 3 || Bits == 4 || Bits == 8);
  static constexpr const char* name = "hqq_parts";
  static constexpr const char* requirement = "rows divisible by the codes of a byte";
  static constexpr int code_bits = Bits;
  static constexpr index_t shared_rows = index_t{1} << 62;  // the parts are far from each other
  static constexpr index_t parts = Bits == 3 ? 10 : 8 / Bits;
  static constexpr index_t element_bits = Bits == 3 ? 32 : 8;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t element_rows(index_t rows) noexcept {
    return ceil_div(rows, parts);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape& s) noexcept {
    return Bits == 3 || s.rows % parts == 0;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return element_rows(s.rows) * s.cols * (element_bits / 8);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t k,
                                                                      int bit) noexcept {
    const index_t length = element_rows(s.rows);
    const index_t element = r % length * s.cols + k;
    return element * element_bits + (parts - 1 - r / length) * Bits + bit;
  }
};

/// What a file of HQQ's keeps beside the tensors.
struct hqq_settings {
  int bits = 4;             ///< nbits: 1, 2, 3, 4, 8
  index_t group_size = 64;  ///< divides the columns
  index_t rows = 0;         ///< shape[0]
  index_t cols = 0;         ///< shape[1]

  SUBBYTE_INLINE friend bool operator==(const hqq_settings&, const hqq_settings&) = default;
};

namespace detail {

template <class Arch>
[[nodiscard]] const basic_packing<Arch>& hqq_packing(int bits) noexcept {
  return packing_with_bits<Arch, hqq_parts<1>, hqq_parts<2>, hqq_parts<3>, hqq_parts<4>,
                           hqq_parts<8>>(bits);
}

template <class Arch>
void require_hqq(std::string_view module, const hqq_settings& s) {
  const std::string subject = printable<Arch>(module);
  if (s.bits < 1 || s.bits > 8 || (s.bits > 4 && s.bits != 8)) {
    throw_error(errc::bad_argument, subject,
                std::to_string(s.bits) + " bits, HQQ has 1, 2, 3, 4 and 8");
  }
  if (s.rows < 1 || s.cols < 1 || !checked_multiply(s.rows, s.cols)) {
    throw_error(errc::bad_argument, subject,
                "the shape is " + std::to_string(s.rows) + " x " + std::to_string(s.cols) +
                    ", required are extents of at least 1");
  }
  if (s.group_size < 1 || s.cols % s.group_size != 0) {
    throw_error(errc::bad_argument, subject,
                "groups of " + std::to_string(s.group_size) + " in rows of " +
                    std::to_string(s.cols) + ": HQQ's groups divide the row");
  }
}

// [rows, groups] of a tensor [rows * groups, 1].
template <class Arch>
[[nodiscard]] tensor<float, 2> read_hqq_parameters(const basic_tensor_slice<Arch>& stored,
                                                   index_t rows, index_t groups) {
  stored.require_shape({rows * groups, 1}, "one for each group");
  basic_tensor_slice<Arch> matrix = stored;
  const index_t extents[2] = {rows, groups};
  matrix.shape = extents;
  return matrix.parameters(parameter_order::rows_first);
}

}  // namespace detail

/// Reads module.W_q, .scale and .zero of axis 1, neither of them quantized again.
///
/// Throws  not_found, bad_shape, unsupported_format (an element type), non_finite, layout_rejected,
///         bad_argument (settings).
/// Source  hqq, hqq/core/quantize.py.
template <class Arch = arch::native>
[[nodiscard]] basic_group_codes<Arch> load_hqq(const safetensors::basic_file<Arch>& file,
                                               std::string_view module,
                                               const hqq_settings& settings) {
  detail::require_hqq<Arch>(module, settings);
  const basic_module_tensors<Arch> tensors(file, module);
  const index_t groups = settings.cols / settings.group_size;
  const matrix_shape stored{settings.rows * groups, settings.group_size};
  const auto packed = tensors.get("W_q", 2);
  packed.require_type({settings.bits == 3 ? safetensors::dtype::i32 : safetensors::dtype::u8});
  basic_group_codes<Arch> w;
  w.bits = settings.bits;
  w.group_size = settings.group_size;
  w.codes = tensor<std::uint8_t, 2>(uninitialized, settings.rows, settings.cols);
  const tensor<std::uint8_t, 2> codes =
      unpack_tensor(detail::hqq_packing<Arch>(settings.bits), packed, stored);
  // Groups of a row lie one after the other: the same bytes under another shape.
  __builtin_memcpy(w.codes.data(), codes.data(), static_cast<std::size_t>(codes.size()));
  const auto scales = tensors.get("scale", 2);
  w.scales = detail::read_hqq_parameters<Arch>(scales, settings.rows, groups);
  w.stored_scale = scales.parameter_type();
  const auto zeros = tensors.get("zero", 2);
  zeros.require_type({scales.type});
  w.zeros = detail::read_hqq_parameters<Arch>(zeros, settings.rows, groups);
  w.real_zeros = true;
  w.validate(printable<Arch>(module));
  return w;
}

/// The three tensors of a module; bits, group size and shape are the matrix's.
///
/// Throws  bad_argument for what HQQ cannot hold: other widths, column orders, groups that do not
///         divide the row, zero points that the scales' type does not hold; layout_rejected.
template <class Arch = arch::native>
[[nodiscard]] basic_stored_tensors<Arch> store_hqq(const basic_group_codes<Arch>& w,
                                                   std::string_view module) {
  require_storable<Arch>(w, module, "HQQ", {1, 2, 3, 4, 8});
  detail::require_hqq<Arch>(module, {w.bits, w.group_size, w.rows(), w.cols()});
  if (!w.sequential()) {
    throw_error(errc::bad_argument, printable<Arch>(module),
                "the columns are not in order of their groups (act-order), which HQQ cannot hold");
  }
  const index_t rows = w.rows() * w.groups();
  const auto name = [&](const char* leaf) { return tensor_name<Arch>(module, leaf); };
  basic_stored_tensors<Arch> out;
  const bool wide = w.bits == 3;
  const index_t element_rows = wide ? hqq_parts<3>::element_rows(rows) : ceil_div(rows, 8 / w.bits);
  out.push_back(pack_tensor(detail::hqq_packing<Arch>(w.bits), name("W_q"),
                            wide ? safetensors::dtype::i32 : safetensors::dtype::u8,
                            {element_rows, w.group_size},
                            matrix_view<const std::uint8_t>(w.codes.data(), rows, w.group_size)));
  tensor<float, 2> zeros(uninitialized, w.rows(), w.groups());
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t g = 0; g < w.groups(); ++g) zeros(r, g) = w.zero(r, g);
  }
  for (const bool scale : {true, false}) {
    out.push_back(parameter_tensor<Arch>(name(scale ? "scale" : "zero"), scale ? w.scales : zeros,
                                         w.stored_scale, parameter_order::rows_first));
    out.back().shape = {rows, 1};
  }
  return out;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
