// SPDX-License-Identifier: Apache-2.0
/// Checkpoints in Marlin's own layout: codes in tensor-core tiles and scales in the kernel's order.
#pragma once

#include <string>
#include <string_view>

#include "subbyte/checkpoint/stored_tensor.hpp"
#include "subbyte/layout/marlin.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// Names of the tensors: Marlin's own B and s, or the qweight and scales of AutoAWQ's version
/// "marlin".
enum class marlin_names { marlin, awq };

struct marlin_settings {
  int bits = 4;              ///< 4, or 8 (only repacked at load time by the runtimes)
  index_t group_size = 128;  ///< -1: one group per row
  marlin_names names = marlin_names::marlin;

  SUBBYTE_INLINE friend bool operator==(const marlin_settings&, const marlin_settings&) = default;
};

namespace detail {

template <class Arch>
[[nodiscard]] const basic_packing<Arch>& marlin_packing(int bits) noexcept {
  return packing_with_bits<Arch, marlin<4>, marlin<8>>(bits);
}

template <class Arch>
[[nodiscard]] tensor<float, 2> permute_marlin_scales(const tensor<float, 2>& from, bool grouped,
                                                     bool to_stored) {
  tensor<float, 2> out(uninitialized, from.extent(0), from.extent(1));
  for (index_t at = 0; at < from.extent(0); ++at) {
    const index_t row = marlin_scale_source(at, !grouped);
    for (index_t g = 0; g < from.extent(1); ++g) {
      (to_stored ? out(at, g) : out(row, g)) = to_stored ? from(row, g) : from(at, g);
    }
  }
  return out;
}

template <class Arch>
void require_marlin_shape(std::string_view module, index_t n, index_t k, index_t group_size) {
  if (n % 64 != 0 || k % 16 != 0 || k % group_size != 0) {
    throw_error(errc::layout_rejected, printable<Arch>(module),
                std::to_string(n) + " x " + std::to_string(k) + " in groups of " +
                    std::to_string(group_size) +
                    ", Marlin needs rows in multiples of 64, columns in multiples of 16, and "
                    "groups that divide the row");
  }
}

}  // namespace detail

/// Reads module.B and .s, or .qweight and .scales. Always symmetric.
///
/// Throws  not_found, bad_shape, unsupported_format (an element type), layout_rejected, non_finite,
///         bad_argument (settings).
/// Source  IST-DASLab/marlin, marlin/__init__.py; AutoAWQ, awq/modules/linear/marlin.py.
template <class Arch = arch::native>
[[nodiscard]] basic_group_codes<Arch> load_marlin(const safetensors::basic_file<Arch>& file,
                                                  std::string_view module,
                                                  const marlin_settings& settings) {
  const basic_module_tensors<Arch> tensors(file, module);
  if (settings.bits != 4 && settings.bits != 8) {
    throw_error(errc::bad_argument, printable<Arch>(module),
                std::to_string(settings.bits) + " bits, Marlin has 4 and 8");
  }
  const bool awq = settings.names == marlin_names::awq;
  const auto packed = tensors.get(awq ? "qweight" : "B", 2);
  packed.require_type({safetensors::dtype::i32});
  const index_t words_per_column = settings.bits / 2;  // of 16 codes
  if (packed.shape[1] % words_per_column != 0) {
    packed.reject(errc::bad_shape, "the shape is " + packed.shape_text() +
                                       ", required is a multiple of " +
                                       std::to_string(words_per_column) + " for [1]");
  }
  const index_t n = packed.shape[1] / words_per_column, k = packed.shape[0] * 16;
  basic_group_codes<Arch> w;
  w.bits = settings.bits;
  w.group_size = columns_per_group<Arch>(settings.group_size, k, module);
  detail::require_marlin_shape<Arch>(module, n, k, w.group_size);
  const auto scales = tensors.get(awq ? "scales" : "s", 2);
  scales.require_shape({k / w.group_size, n}, packed.shape_text() + " words and a group size of " +
                                                  std::to_string(settings.group_size) + " give it");
  w.scales = detail::permute_marlin_scales<Arch>(scales.parameters(parameter_order::groups_first),
                                                 w.group_size != k, false);
  w.stored_scale = scales.parameter_type();
  w.codes = unpack_tensor(detail::marlin_packing<Arch>(settings.bits), packed, {n, k});
  w.validate(printable<Arch>(module));
  return w;
}

/// The tensors of a module; bits and group size are the matrix's, of the settings only the names
/// are used.
///
/// Throws  bad_argument for what Marlin cannot hold: zero points other than the middle of the
/// codes,
///         column orders, other widths than 4 and 8; layout_rejected for the shapes.
template <class Arch = arch::native>
[[nodiscard]] basic_stored_tensors<Arch> store_marlin(const basic_group_codes<Arch>& w,
                                                      std::string_view module,
                                                      const marlin_settings& settings) {
  require_storable<Arch>(w, module, "Marlin", {4, 8});
  const std::string subject = printable<Arch>(module);
  if (!w.sequential()) {
    throw_error(errc::bad_argument, subject,
                "the columns are not in order of their groups (act-order): Marlin keeps them "
                "permuted and needs the order beside it");
  }
  if (w.real_zeros || !zeros_are_central<Arch>(w)) {
    throw_error(errc::bad_argument, subject,
                "zero points other than " + std::to_string(1 << (w.bits - 1)) +
                    ", Marlin's files are symmetric");
  }
  const index_t n = w.rows(), k = w.cols();
  detail::require_marlin_shape<Arch>(module, n, k, w.group_size);
  const bool awq = settings.names == marlin_names::awq;
  const std::string words = tensor_name<Arch>(module, awq ? "qweight" : "B");
  const std::vector<index_t> shape{k / 16, n * w.bits / 2};
  basic_stored_tensors<Arch> out;
  out.push_back(pack_tensor(detail::marlin_packing<Arch>(w.bits), words, safetensors::dtype::i32,
                            shape, w.codes.view()));
  out.push_back(
      parameter_tensor<Arch>(tensor_name<Arch>(module, awq ? "scales" : "s"),
                             detail::permute_marlin_scales<Arch>(w.scales, w.group_size != k, true),
                             w.stored_scale, parameter_order::groups_first));
  return out;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
