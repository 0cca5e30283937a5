// SPDX-License-Identifier: Apache-2.0
/// GPTQ checkpoints: qweight, qzeros, scales and g_idx, both conventions of zero points, the bit
/// stream and the planes of gptq_p.
#pragma once

#include <string>
#include <string_view>

#include "subbyte/checkpoint/stored_tensor.hpp"
#include "subbyte/layout/gptq_int32.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// What a GPTQ checkpoint's `checkpoint_format` says about its tensors.
enum class gptq_format {
  gptq,     ///< fields hold the zero point minus one ("gptq", or nothing)
  gptq_v2,  ///< fields hold the zero point
  gptq_p    ///< fields hold the zero point; codes in planes of bits
};

/// Who wrote a file of format gptq. It decides what a field with all bits set means, and nothing
/// else: a zero point of 0 has no field, and every writer has its own way of failing to store it.
enum class gptq_writer {
  unknown,    ///< such a field is refused
  per_field,  ///< zero points minus one modulo 2^bits, field by field: it is 0
  gptqmodel,  ///< 2, 4, 8 bits: one subtraction from the whole word, to be undone the same way
  auto_gptq   ///< the field and all above it in the word were lost: refused
};

struct gptq_settings {
  int bits = 4;
  index_t group_size = 128;  ///< -1: one group per row
  bool symmetric = true;
  bool act_order = false;  ///< what desc_act says; a reader goes by g_idx
  gptq_format format = gptq_format::gptq;
  gptq_writer writer = gptq_writer::unknown;

  SUBBYTE_INLINE friend bool operator==(const gptq_settings&, const gptq_settings&) = default;
};

/// The widths that a GPTQ checkpoint of this format has.
[[nodiscard]] SUBBYTE_INLINE constexpr bool gptq_has_bits(gptq_format format, int bits) noexcept {
  return format == gptq_format::gptq_p ? bits >= 2 && bits <= 8
                                       : bits == 2 || bits == 3 || bits == 4 || bits == 8;
}

namespace detail {

template <class Arch>
[[nodiscard]] const basic_packing<Arch>& gptq_packing(gptq_format format, int bits) noexcept {
  return format == gptq_format::gptq_p ? packing_of_bits<gptq_planar, Arch>(bits)
                                       : packing_of_bits<gptq_int32, Arch>(bits);
}
template <class Arch>
[[nodiscard]] const basic_packing<Arch>& gptq_zeros_packing(gptq_format format, int bits) noexcept {
  return format == gptq_format::gptq_p ? packing_of_bits<gptq_planar_zeros, Arch>(bits)
                                       : packing_of_bits<gptq_int32_zeros, Arch>(bits);
}

// Refuses fields that stand for a zero point of 0 where the writer does not say what they mean.
template <class Arch>
void require_known_zeros(const basic_tensor_slice<Arch>& stored, const gptq_settings& s,
                         const tensor<std::uint8_t, 2>& fields) {
  for (index_t r = 0; r < fields.extent(0); ++r) {
    for (index_t g = 0; g < fields.extent(1); ++g) {
      if (fields(r, g) != (1 << s.bits) - 1) continue;
      const std::string place = "row " + std::to_string(r) + ", group " + std::to_string(g) +
                                " has a zero point of 0, which format gptq cannot hold: ";
      if (s.writer == gptq_writer::unknown) {
        stored.reject(errc::bad_metadata,
                      place +
                          "what its neighbours are depends on the program that wrote the file, "
                          "and the configuration does not name it");
      }
      // The last field of a word has none above it to lose.
      const bool last = 32 % s.bits == 0 && r % (32 / s.bits) == 32 / s.bits - 1;
      if (s.writer == gptq_writer::auto_gptq && !last) {
        stored.reject(errc::bad_metadata,
                      place + "auto-gptq has overwritten the zero points of the rows behind it");
      }
    }
  }
}

template <class Arch>
[[nodiscard]] tensor<float, 2> read_gptq_zeros(const basic_tensor_slice<Arch>& stored,
                                               const gptq_settings& s, matrix_shape shape) {
  tensor<std::uint8_t, 2> zeros =
      unpack_tensor(gptq_zeros_packing<Arch>(s.format, s.bits), stored, shape);
  if (s.format == gptq_format::gptq) {
    require_known_zeros<Arch>(stored, s, zeros);
    zeros_from_gptq_fields<Arch>(zeros.view(), s.bits,
                                 s.writer == gptq_writer::gptqmodel
                                     ? gptq_zero_field::minus_one_with_borrow
                                     : gptq_zero_field::minus_one);
  }
  return widen_zeros<Arch>(zeros);
}

}  // namespace detail

/// Reads module.qweight, .qzeros, .scales and, where it is there, .g_idx.
///
/// Without zero points other than the middle of the codes the matrix comes back symmetric, whatever
/// the settings say; if they say symmetric and it is not, that is an error: the settings are those
/// of another file. A module without g_idx has its columns in order unless act_order is set.
///
/// Throws  not_found, bad_shape, unsupported_format (an element type), bad_metadata (a group or
/// zero
///         point that cannot be), layout_rejected, non_finite, bad_argument (settings).
/// Source  gptqmodel, gptqmodel/nn_modules/qlinear (tensors, conversion of zero points); auto-gptq,
///         qlinear_cuda.py (its packing of zero points).
template <class Arch = arch::native>
[[nodiscard]] basic_group_codes<Arch> load_gptq(const safetensors::basic_file<Arch>& file,
                                                std::string_view module,
                                                const gptq_settings& settings) {
  const basic_module_tensors<Arch> tensors(file, module);
  if (!gptq_has_bits(settings.format, settings.bits)) {
    throw_error(errc::bad_argument, printable<Arch>(module),
                std::to_string(settings.bits) +
                    " bits: GPTQ checkpoints have 2, 3, 4 or 8, of format gptq_p 2 to 8");
  }
  const auto packed = tensors.get("qweight", 2);
  packed.require_type({safetensors::dtype::i32});
  const index_t n = packed.shape[1];
  const std::optional<index_t> stream_bits = checked_multiply(packed.shape[0], 32);
  if (!stream_bits || *stream_bits % settings.bits != 0) {
    packed.reject(errc::bad_shape, "the shape is " + packed.shape_text() + ", required are whole " +
                                       std::to_string(settings.bits) + "-bit codes along [0]");
  }
  const index_t k = *stream_bits / settings.bits;
  basic_group_codes<Arch> w;
  w.bits = settings.bits;
  w.group_size = columns_per_group<Arch>(settings.group_size, k, module);
  const index_t groups = ceil_div(k, w.group_size);
  const std::string derived =
      "qweight and a group size of " + std::to_string(settings.group_size) + " give it";

  const auto scales = tensors.get("scales", 2);
  scales.require_shape({groups, n}, derived);
  const auto zeros = tensors.get("qzeros", 2);
  zeros.require_type({safetensors::dtype::i32});
  zeros.require_shape({groups, ceil_div(n * settings.bits, 32)}, derived);
  if (tensors.has("g_idx")) {
    w.group_of_column = read_group_indices<Arch>(tensors.get("g_idx", 1), k, w.group_size, groups);
  } else if (settings.act_order) {
    throw_error(errc::not_found, printable<Arch>(tensors.name("g_idx")),
                "the configuration says desc_act, and the tensor is missing");
  }
  w.codes =
      unpack_tensor(detail::gptq_packing<Arch>(settings.format, settings.bits), packed, {n, k});
  w.scales = scales.parameters(parameter_order::groups_first);
  w.stored_scale = scales.parameter_type();
  w.zeros = detail::read_gptq_zeros<Arch>(zeros, settings, {n, groups});
  drop_central_zeros<Arch>(w, settings.symmetric, zeros.name);
  w.validate(printable<Arch>(module));
  return w;
}

/// The tensors of a module; bits and group size are the matrix's, of the settings only the format
/// is used.
///
/// Throws  bad_argument for what readers of the format refuse or misread: widths other than 2, 3,
/// 4,
///         8 (gptq_p: 2 to 8), zero points that are no integers, zero points of 0 in format gptq,
///         group sizes other than the whole row or 16, 32, 64, ... 1024, scales in bf16 or f32 that
///         no f16 holds; layout_rejected for rows or columns that are no multiple of 32.
template <class Arch = arch::native>
[[nodiscard]] basic_stored_tensors<Arch> store_gptq(const basic_group_codes<Arch>& w,
                                                    std::string_view module,
                                                    const gptq_settings& settings) {
  const bool planar = settings.format == gptq_format::gptq_p;
  if (planar) {
    require_storable<Arch>(w, module, "GPTQ of format gptq_p", {2, 3, 4, 5, 6, 7, 8});
  } else {
    require_storable<Arch>(w, module, "GPTQ", {2, 3, 4, 8});
  }
  const std::string subject = printable<Arch>(module);
  const index_t n = w.rows(), k = w.cols();
  if (n % 32 != 0 || k % 32 != 0) {
    throw_error(errc::layout_rejected, subject,
                std::to_string(n) + " x " + std::to_string(k) +
                    ", GPTQ needs rows and columns that are multiples of 32");
  }
  bool known = w.group_size == k;
  for (index_t size = 16; size <= 1024; size *= 2) known = known || w.group_size == size;
  if (!known) {
    throw_error(errc::bad_argument, subject,
                "groups of " + std::to_string(w.group_size) +
                    " columns, GPTQ readers take 16, 32, 64, 128, 256, 512, 1024 or whole rows");
  }
  tensor<std::uint8_t, 2> fields = integer_zeros<Arch>(w, module, "GPTQ");
  if (settings.format == gptq_format::gptq) {
    for (index_t r = 0; r < n; ++r) {
      for (index_t g = 0; g < w.groups(); ++g) {
        if (fields(r, g) == 0) {
          throw_error(errc::bad_argument, subject,
                      "the zero point of row " + std::to_string(r) + ", group " +
                          std::to_string(g) +
                          " is 0, which format gptq cannot hold (readers disagree on it); "
                          "gptq_v2 can");
        }
      }
    }
    gptq_fields_from_zeros<Arch>(fields.view(), w.bits, gptq_zero_field::minus_one);
  }
  using safetensors::dtype;
  basic_stored_tensors<Arch> out;
  out.push_back(pack_tensor(detail::gptq_packing<Arch>(settings.format, w.bits),
                            tensor_name<Arch>(module, "qweight"), dtype::i32, {k * w.bits / 32, n},
                            w.codes.view()));
  out.push_back(pack_tensor(detail::gptq_zeros_packing<Arch>(settings.format, w.bits),
                            tensor_name<Arch>(module, "qzeros"), dtype::i32,
                            {w.groups(), n * w.bits / 32}, fields.view()));
  out.push_back(parameter_tensor<Arch>(tensor_name<Arch>(module, "scales"), w.scales,
                                       w.stored_scale, parameter_order::groups_first));
  tensor<std::int32_t, 1> indices(uninitialized, k);
  for (index_t c = 0; c < k; ++c) indices(c) = static_cast<std::int32_t>(w.group_of(c));
  out.push_back(int32_tensor<Arch>(tensor_name<Arch>(module, "g_idx"), indices.view()));
  return out;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
