// SPDX-License-Identifier: Apache-2.0
/// AWQ checkpoints: the tensors of AutoAWQ's gemm, gemv and gemv_fast, and llm-awq's name for the
/// last.
#pragma once

#include <cmath>  // std::nearbyint
#include <string>
#include <string_view>

#include "subbyte/checkpoint/stored_tensor.hpp"
#include "subbyte/layout/awq_int32.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// The `version` of an AWQ configuration that keeps its tensors as this header does.
enum class awq_version {
  gemm,
  gemv,
  gemv_tiled  ///< "gemv_fast"
};

struct awq_settings {
  int bits = 4;
  index_t group_size = 128;  ///< -1: one group per row
  bool symmetric = false;    ///< zero_point false
  awq_version version = awq_version::gemm;
  bool llm_awq_names = false;  ///< gemv_fast with `scaled_zeros` for `qzeros`

  SUBBYTE_INLINE friend bool operator==(const awq_settings&, const awq_settings&) = default;
};

namespace detail {

template <class Arch>
[[noreturn]] void reject_awq(std::string_view module, const std::string& message) {
  throw_error(errc::bad_argument, printable<Arch>(module), message);
}

template <class Arch>
void require_gemv_groups(std::string_view module, index_t cols, index_t group_size) {
  if (group_size < 32 || cols % group_size != 0) {
    throw_error(errc::layout_rejected, printable<Arch>(module),
                "groups of " + std::to_string(group_size) + " in rows of " + std::to_string(cols) +
                    ", the gemv tensors need groups of at least 32 that divide the row");
  }
}

// The first `groups` columns.
template <class T, class Arch>
[[nodiscard]] tensor<T, 2> leading_groups(const tensor<T, 2>& padded, index_t groups) {
  tensor<T, 2> out(uninitialized, padded.extent(0), groups);
  for (index_t r = 0; r < padded.extent(0); ++r) {
    for (index_t g = 0; g < groups; ++g) out(r, g) = padded(r, g);
  }
  return out;
}

template <class Arch>
void load_awq_gemm(const basic_module_tensors<Arch>& tensors, const awq_settings& s,
                   basic_group_codes<Arch>& w) {
  const auto packed = tensors.get("qweight", 2);
  packed.require_type({safetensors::dtype::i32});
  const index_t k = packed.shape[0];
  const std::optional<index_t> bits = checked_multiply(packed.shape[1], 32);
  if (!bits || *bits % s.bits != 0) {
    packed.reject(errc::bad_shape, "the shape is " + packed.shape_text() + ", required are whole " +
                                       std::to_string(s.bits) + "-bit codes along [1]");
  }
  const index_t n = *bits / s.bits;
  w.group_size = columns_per_group<Arch>(s.group_size, k, tensors.module());
  const index_t groups = ceil_div(k, w.group_size);
  const std::string derived =
      "qweight and a group size of " + std::to_string(s.group_size) + " give it";
  const auto scales = tensors.get("scales", 2);
  scales.require_shape({groups, n}, derived);
  w.scales = scales.parameters(parameter_order::groups_first);
  w.stored_scale = scales.parameter_type();
  const basic_packing<Arch>& layout = packing_of_bits<awq_gemm, Arch>(s.bits);
  w.codes = unpack_tensor(layout, packed, {n, k});
  if (s.symmetric && !tensors.has("qzeros")) return;
  const auto zeros = tensors.get("qzeros", 2);
  zeros.require_type({safetensors::dtype::i32});
  zeros.require_shape({groups, packed.shape[1]}, derived);
  w.zeros = widen_zeros<Arch>(unpack_tensor(layout, zeros, {n, groups}));
  drop_central_zeros<Arch>(w, s.symmetric, zeros.name);
}

template <class Arch>
void load_awq_gemv(const basic_module_tensors<Arch>& tensors, const awq_settings& s,
                   basic_group_codes<Arch>& w) {
  const auto packed = tensors.get("qweight", 2);
  packed.require_type({safetensors::dtype::i32});
  const index_t n = packed.shape[0], k = packed.shape[1] * 8;
  w.group_size = columns_per_group<Arch>(s.group_size, k, tensors.module());
  require_gemv_groups<Arch>(tensors.module(), k, w.group_size);
  const index_t groups = k / w.group_size;
  const index_t width = awq_zero_words(groups, w.group_size);
  const std::string derived =
      "qweight and a group size of " + std::to_string(s.group_size) + " give it";
  const auto scales = tensors.get("scales", 2);
  scales.require_shape({n, width * 8}, derived);
  w.scales = leading_groups<float, Arch>(scales.parameters(parameter_order::rows_first), groups);
  w.stored_scale = scales.parameter_type();
  w.codes = unpack_tensor(packing_of<awq_gemv, Arch>, packed, {n, k});
  const auto zeros = tensors.get("qzeros", 2);
  zeros.require_type({safetensors::dtype::i32});
  zeros.require_shape({n, width}, derived);
  w.zeros = leading_groups<float, Arch>(
      widen_zeros<Arch>(unpack_tensor(packing_of<awq_gemv, Arch>, zeros, {n, width * 8})), groups);
  drop_central_zeros<Arch>(w, s.symmetric, zeros.name);
}

// Integer zero points behind -(scale * zero), where rounding left no doubt about them; real ones
// otherwise.
template <class Arch>
void recover_scaled_zeros(basic_group_codes<Arch>& w, const tensor<float, 2>& scaled,
                          std::string_view subject) {
  const float last = static_cast<float>((1 << w.bits) - 1);
  w.zeros = tensor<float, 2>(uninitialized, w.rows(), w.groups());
  bool whole = true;
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t g = 0; g < w.groups(); ++g) {
      const float s = w.scales(r, g);
      if (s == 0 && scaled(r, g) != 0) {
        throw_error(errc::bad_metadata, printable<Arch>(subject),
                    "row " + std::to_string(r) + ", group " + std::to_string(g) +
                        " has a scaled zero point beside a scale of 0");
      }
      const float z = s == 0 ? 0 : -scaled(r, g) / s;
      const float near = std::nearbyint(z);
      whole = whole && near >= 0 && near <= last &&
              nearest(w.stored_scale, -(s * near)) == scaled(r, g);
      w.zeros(r, g) = z;
    }
  }
  w.real_zeros = !whole;
  if (!whole) return;
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t g = 0; g < w.groups(); ++g) {
      w.zeros(r, g) = std::nearbyint(w.zeros(r, g)) + 0.0F;  // no negative zero
    }
  }
}

template <class Arch>
void load_awq_gemv_tiled(const basic_module_tensors<Arch>& tensors, const awq_settings& s,
                         basic_group_codes<Arch>& w) {
  const auto packed = tensors.get("qweight", 2);
  packed.require_type({safetensors::dtype::i16});
  const index_t n = packed.shape[0] * 4, k = packed.shape[1];
  w.group_size = columns_per_group<Arch>(s.group_size, k, tensors.module());
  require_gemv_groups<Arch>(tensors.module(), k, w.group_size);
  const index_t groups = k / w.group_size;
  const index_t width = awq_zero_words(groups, w.group_size);
  const std::string derived =
      "qweight and a group size of " + std::to_string(s.group_size) + " give it";
  const auto scales = tensors.get("scales", 2);
  scales.require_shape({width * 8, n}, derived);
  w.scales = leading_groups<float, Arch>(scales.parameters(parameter_order::groups_first), groups);
  w.stored_scale = scales.parameter_type();
  w.codes = unpack_tensor(packing_of<awq_gemv_tiled, Arch>, packed, {n, k});
  const auto zeros = tensors.get(s.llm_awq_names ? "scaled_zeros" : "qzeros", 2);
  zeros.require_shape({width * 8, n}, derived);
  zeros.require_type({scales.type});
  recover_scaled_zeros<Arch>(
      w, leading_groups<float, Arch>(zeros.parameters(parameter_order::groups_first), groups),
      zeros.name);
  if (!w.real_zeros) drop_central_zeros<Arch>(w, s.symmetric, zeros.name);
}

}  // namespace detail

/// Reads module.qweight, .qzeros (.scaled_zeros) and .scales.
///
/// The 4-bit gemm words hold eight rows in the order 0 2 4 6 1 3 5 7; of the other widths, which
/// gptqmodel writes, the plain bit stream. gemv_fast keeps -(scale * zero): the zero points come
/// back as integers where every one of them rounds back to what is stored, and real otherwise.
///
/// Throws  not_found, bad_shape, unsupported_format (an element type), bad_metadata,
/// layout_rejected,
///         non_finite, bad_argument (settings).
/// Source  AutoAWQ, awq/modules/linear; llm-awq, awq/quantize/qmodule.py; gptqmodel, awq linears.
template <class Arch = arch::native>
[[nodiscard]] basic_group_codes<Arch> load_awq(const safetensors::basic_file<Arch>& file,
                                               std::string_view module,
                                               const awq_settings& settings) {
  const basic_module_tensors<Arch> tensors(file, module);
  basic_group_codes<Arch> w;
  w.bits = settings.bits;
  const bool gemm = settings.version == awq_version::gemm;
  if (settings.bits < 2 || settings.bits > 8 || (!gemm && settings.bits != 4)) {
    detail::reject_awq<Arch>(module, std::to_string(settings.bits) +
                                         " bits: AWQ checkpoints have 4, of version gemm 2 to 8");
  }
  if (gemm) {
    detail::load_awq_gemm<Arch>(tensors, settings, w);
  } else if (settings.version == awq_version::gemv) {
    detail::load_awq_gemv<Arch>(tensors, settings, w);
  } else {
    detail::load_awq_gemv_tiled<Arch>(tensors, settings, w);
  }
  w.validate(printable<Arch>(module));
  return w;
}

/// The tensors of a module; bits and group size are the matrix's, of the settings version and names
/// are used.
///
/// Throws  bad_argument for what AWQ cannot hold: column orders, real zero points (gemm and gemv),
///         groups that do not divide the row, other widths than 4 (gemm: 2 to 8), scales that the
///         stored type does not hold, with gemv_fast -(scale * zero) that it does not hold;
///         layout_rejected for the shapes.
template <class Arch = arch::native>
[[nodiscard]] basic_stored_tensors<Arch> store_awq(const basic_group_codes<Arch>& w,
                                                   std::string_view module,
                                                   const awq_settings& settings) {
  const bool gemm = settings.version == awq_version::gemm;
  if (gemm) {
    require_storable<Arch>(w, module, "AWQ of version gemm", {2, 3, 4, 5, 6, 7, 8});
  } else {
    require_storable<Arch>(w, module, "AWQ of versions gemv and gemv_fast", {4});
  }
  const index_t n = w.rows(), k = w.cols(), groups = w.groups();
  if (!w.sequential()) {
    detail::reject_awq<Arch>(module,
                             "the columns are not in order of their groups (act-order), "
                             "which AWQ cannot hold");
  }
  if (k % w.group_size != 0) {
    detail::reject_awq<Arch>(module, "groups of " + std::to_string(w.group_size) +
                                         " do not divide rows of " + std::to_string(k));
  }
  if (!gemm) detail::require_gemv_groups<Arch>(module, k, w.group_size);
  using safetensors::dtype;
  const auto name = [&](const char* leaf) { return tensor_name<Arch>(module, leaf); };
  basic_stored_tensors<Arch> out;
  if (settings.version == awq_version::gemv_tiled) {
    out.push_back(pack_tensor(packing_of<awq_gemv_tiled, Arch>, name("qweight"), dtype::i16,
                              {n / 4, k}, w.codes.view()));
    const index_t padded = awq_zero_words(groups, w.group_size) * 8;
    tensor<float, 2> scaled(uninitialized, n, groups);
    for (index_t r = 0; r < n; ++r) {
      for (index_t g = 0; g < groups; ++g) {
        // One rounding, which is the format's; integer zero points survive it (load_awq checks).
        scaled(r, g) = nearest(w.stored_scale, -(w.scales(r, g) * w.zero(r, g)));
        if (w.real_zeros && scaled(r, g) != -(w.scales(r, g) * w.zero(r, g))) {
          detail::reject_awq<Arch>(module, "-(scale * zero) of row " + std::to_string(r) +
                                               ", group " + std::to_string(g) + " is no " +
                                               name_of(w.stored_scale));
        }
      }
    }
    out.push_back(parameter_tensor<Arch>(name(settings.llm_awq_names ? "scaled_zeros" : "qzeros"),
                                         scaled, w.stored_scale, parameter_order::groups_first,
                                         padded));
    out.push_back(parameter_tensor<Arch>(name("scales"), w.scales, w.stored_scale,
                                         parameter_order::groups_first, padded));
    return out;
  }
  const tensor<std::uint8_t, 2> zeros = integer_zeros<Arch>(w, module, "AWQ");
  if (gemm) {
    const basic_packing<Arch>& layout = packing_of_bits<awq_gemm, Arch>(w.bits);
    const index_t words = n * w.bits / 32;
    out.push_back(pack_tensor(layout, name("qweight"), dtype::i32, {k, words}, w.codes.view()));
    out.push_back(pack_tensor(layout, name("qzeros"), dtype::i32, {groups, words}, zeros.view()));
    out.push_back(parameter_tensor<Arch>(name("scales"), w.scales, w.stored_scale,
                                         parameter_order::groups_first));
    return out;
  }
  const index_t width = awq_zero_words(groups, w.group_size);
  tensor<std::uint8_t, 2> padded(n, width * 8);
  for (index_t r = 0; r < n; ++r) {
    for (index_t g = 0; g < groups; ++g) padded(r, g) = zeros(r, g);
  }
  out.push_back(pack_tensor(packing_of<awq_gemv, Arch>, name("qweight"), dtype::i32, {n, k / 8},
                            w.codes.view()));
  out.push_back(pack_tensor(packing_of<awq_gemv, Arch>, name("qzeros"), dtype::i32, {n, width},
                            padded.view()));
  out.push_back(parameter_tensor<Arch>(name("scales"), w.scales, w.stored_scale,
                                       parameter_order::rows_first, width * 8));
  return out;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
