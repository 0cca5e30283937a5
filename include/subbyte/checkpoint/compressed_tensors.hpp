// SPDX-License-Identifier: Apache-2.0
/// Checkpoints of compressed-tensors in its format "pack-quantized": integer weights of 1 to 8
/// bits.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "subbyte/checkpoint/stored_tensor.hpp"
#include "subbyte/layout/compressed_tensors.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

struct compressed_tensors_settings {
  int bits = 4;
  index_t group_size = 128;  ///< -1: strategy "channel" or "tensor", one group per row
  bool symmetric = true;
  /// floor(32 / bits) codes per word, as versions before 0.17 pack 3, 5, 6 and 7 bits. Decides what
  /// is written; of a file that is read, its widths decide, and this only where both are the same.
  bool padded = false;

  SUBBYTE_INLINE friend bool operator==(const compressed_tensors_settings&,
                                        const compressed_tensors_settings&) = default;
};

namespace detail {

template <class Arch>
[[nodiscard]] const basic_packing<Arch>& compressed_packing(int bits, bool padded) noexcept {
  return padded ? packing_of_bits<compressed_tensors_padded, Arch>(bits)
                : packing_of_bits<compressed_tensors, Arch>(bits);
}
template <class Arch>
[[nodiscard]] const basic_packing<Arch>& compressed_zeros_packing(int bits, bool padded) noexcept {
  return padded ? packing_of_bits<compressed_tensors_padded_zeros, Arch>(bits)
                : packing_of_bits<compressed_tensors_zeros, Arch>(bits);
}

/// Words that hold n codes along one dimension.
[[nodiscard]] SUBBYTE_INLINE constexpr index_t words_of(index_t n, int bits, bool padded) noexcept {
  return padded ? ceil_div(n, 32 / bits) : ceil_div(n * bits, 32);
}

// Zero points: none, packed words of both widths, or one int8 each.
template <class Arch>
void read_compressed_zeros(const basic_module_tensors<Arch>& tensors, bool said_padded,
                           basic_group_codes<Arch>& w) {
  const auto stored = tensors.get("weight_zero_point", 2);
  stored.require_type({safetensors::dtype::i32, safetensors::dtype::i8});
  const index_t n = w.rows(), groups = w.groups();
  const int middle = 1 << (w.bits - 1);
  if (stored.type == safetensors::dtype::i8) {
    stored.require_shape({n, groups}, "one zero point per row and group");
    w.zeros = tensor<float, 2>(uninitialized, n, groups);
    for (index_t r = 0; r < n; ++r) {
      for (index_t g = 0; g < groups; ++g) {
        const auto z =
            static_cast<std::int8_t>(stored.bytes[static_cast<std::size_t>(r * groups + g)]);
        w.zeros(r, g) = static_cast<float>(z + middle);
      }
    }
    return;
  }
  const index_t dense = words_of(n, w.bits, false), padded = words_of(n, w.bits, true);
  const bool is_padded = padded != dense ? stored.shape[0] == padded : said_padded;
  stored.require_shape({is_padded ? padded : dense, groups},
                       std::to_string(n) + " rows of " + std::to_string(w.bits) + " bits give it");
  w.zeros = widen_zeros<Arch>(
      unpack_tensor(compressed_zeros_packing<Arch>(w.bits, is_padded), stored, {n, groups}));
}

}  // namespace detail

/// Reads module.weight_packed, .weight_scale, .weight_shape and, where they are there,
/// .weight_zero_point and .weight_g_idx; of experts that are stored as one tensor, one `slice`.
///
/// Zero points are packed words, or one int8 each as before version 0.10.
///
/// Throws  not_found, bad_shape, unsupported_format (an element type), bad_metadata, non_finite,
///         bad_argument (settings).
/// Source  compressed-tensors, compressors/pack_quantized.
template <class Arch = arch::native>
[[nodiscard]] basic_group_codes<Arch> load_compressed_tensors(
    const safetensors::basic_file<Arch>& file, std::string_view module,
    const compressed_tensors_settings& settings, std::optional<index_t> slice = std::nullopt) {
  const basic_module_tensors<Arch> tensors(file, module, slice);
  if (settings.bits < 1 || settings.bits > 8) {
    throw_error(errc::bad_argument, printable<Arch>(module),
                std::to_string(settings.bits) + " bits, pack-quantized has 1 to 8");
  }
  const auto packed = tensors.get("weight_packed", 2);
  packed.require_type({safetensors::dtype::i32});
  // The shape of a 3-D weight is one tensor for all slices.
  const auto shape = basic_module_tensors<Arch>(file, module).get("weight_shape", 1);
  shape.require_type({safetensors::dtype::i64, safetensors::dtype::i32});
  const index_t rank = slice ? 3 : 2;
  shape.require_shape({rank}, "the extents of the weight");
  const auto extent = [&](index_t d) {
    return shape.type == safetensors::dtype::i32
               ? static_cast<index_t>(shape.int32(d))
               : static_cast<index_t>(load_le<std::uint64_t>(shape.bytes.data() + 8 * d));
  };
  const index_t n = extent(rank - 2), k = extent(rank - 1);
  if (n != packed.shape[0] || k < 1 || k > packed.shape[1] * 32) {
    shape.reject(errc::bad_shape, "it says " + std::to_string(n) + " x " + std::to_string(k) +
                                      ", and weight_packed has the shape " + packed.shape_text());
  }
  const index_t dense = detail::words_of(k, settings.bits, false);
  const index_t padded = detail::words_of(k, settings.bits, true);
  const bool is_padded = padded != dense ? packed.shape[1] == padded : settings.padded;
  packed.require_shape({n, is_padded ? padded : dense},
                       "weight_shape and " + std::to_string(settings.bits) + " bits give it");

  basic_group_codes<Arch> w;
  w.bits = settings.bits;
  w.group_size = columns_per_group<Arch>(settings.group_size, k, module);
  w.codes =
      unpack_tensor(detail::compressed_packing<Arch>(settings.bits, is_padded), packed, {n, k});

  const safetensors::basic_tensor<Arch>& one =
      file.tensor(tensor_name<Arch>(module, "weight_scale"));
  if (one.size() == 1 && n * w.groups() != 1) {  // strategy "tensor"
    basic_tensor_slice<Arch> single{one.name(), one.type(), {}, one.bytes()};
    const index_t extents[2] = {1, 1};
    single.shape = extents;
    const float value = single.parameters(parameter_order::rows_first)(0, 0);
    w.scales = tensor<float, 2>(uninitialized, n, w.groups());
    for (index_t r = 0; r < n; ++r) {
      for (index_t g = 0; g < w.groups(); ++g) w.scales(r, g) = value;
    }
    w.stored_scale = single.parameter_type();
  } else {
    const auto scales = tensors.get("weight_scale", 2);
    scales.require_shape({n, w.groups()}, "weight_shape and a group size of " +
                                              std::to_string(settings.group_size) + " give it");
    w.scales = scales.parameters(parameter_order::rows_first);
    w.stored_scale = scales.parameter_type();
  }
  if (tensors.has("weight_zero_point")) {
    detail::read_compressed_zeros<Arch>(tensors, settings.padded, w);
    drop_central_zeros<Arch>(w, settings.symmetric, tensors.name("weight_zero_point"));
  } else if (!settings.symmetric) {
    throw_error(errc::not_found, printable<Arch>(tensors.name("weight_zero_point")),
                "the configuration says asymmetric, and the tensor is missing");
  }
  if (tensors.has("weight_g_idx")) {
    const auto indices = tensors.get("weight_g_idx", 1);
    // A placeholder of -1 stands where the columns are in order.
    bool placeholder = indices.type == safetensors::dtype::i32 && indices.shape[0] == k;
    for (index_t c = 0; c < k && placeholder; ++c) placeholder = indices.int32(c) == -1;
    if (!placeholder) {
      w.group_of_column = read_group_indices<Arch>(indices, k, w.group_size, w.groups());
    }
  }
  w.validate(printable<Arch>(module));
  return w;
}

/// The tensors of a module; bits and group size are the matrix's, of the settings only the packing
/// and whether there are zero points are used. weight_g_idx is written where the columns are not in
/// order (actorder "group").
///
/// Throws  bad_argument for what the format cannot hold: real zero points, zero points in a
///         symmetric file, groups that do not divide the row.
template <class Arch = arch::native>
[[nodiscard]] basic_stored_tensors<Arch> store_compressed_tensors(
    const basic_group_codes<Arch>& w, std::string_view module,
    const compressed_tensors_settings& settings) {
  require_storable<Arch>(w, module, "compressed-tensors", {1, 2, 3, 4, 5, 6, 7, 8});
  const std::string subject = printable<Arch>(module);
  const index_t n = w.rows(), k = w.cols(), groups = w.groups();
  if (k % w.group_size != 0) {
    throw_error(errc::bad_argument, subject,
                "groups of " + std::to_string(w.group_size) + " do not divide rows of " +
                    std::to_string(k));
  }
  if (settings.symmetric && !zeros_are_central<Arch>(w)) {
    throw_error(errc::bad_argument, subject,
                "it has zero points other than " + std::to_string(1 << (w.bits - 1)) +
                    ", and the file is to be symmetric");
  }
  using safetensors::dtype;
  const auto name = [&](const char* leaf) { return tensor_name<Arch>(module, leaf); };
  basic_stored_tensors<Arch> out;
  out.push_back(pack_tensor(detail::compressed_packing<Arch>(w.bits, settings.padded),
                            name("weight_packed"), dtype::i32,
                            {n, detail::words_of(k, w.bits, settings.padded)}, w.codes.view()));
  out.push_back(parameter_tensor<Arch>(name("weight_scale"), w.scales, w.stored_scale,
                                       parameter_order::rows_first));
  basic_stored_tensor<Arch> shape{name("weight_shape"), dtype::i64, {2}, {}};
  shape.bytes.resize(16);
  store_le(shape.bytes.data(), static_cast<std::uint64_t>(n));
  store_le(shape.bytes.data() + 8, static_cast<std::uint64_t>(k));
  out.push_back(std::move(shape));
  if (!settings.symmetric) {
    const tensor<std::uint8_t, 2> zeros = integer_zeros<Arch>(w, module, "compressed-tensors");
    out.push_back(pack_tensor(
        detail::compressed_zeros_packing<Arch>(w.bits, settings.padded), name("weight_zero_point"),
        dtype::i32, {detail::words_of(n, w.bits, settings.padded), groups}, zeros.view()));
  }
  if (!w.sequential()) {
    out.push_back(int32_tensor<Arch>(name("weight_g_idx"), w.group_of_column.view()));
  }
  return out;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
