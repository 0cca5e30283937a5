// SPDX-License-Identifier: Apache-2.0
/// The tensors of one module: found in a file with their types and shapes checked, and made in
/// memory to be written.
#pragma once

#include <initializer_list>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/io/safetensors.hpp"
#include "subbyte/io/safetensors_writer.hpp"
#include "subbyte/layout/concepts.hpp"
#include "subbyte/layout/pack.hpp"
#include "subbyte/matrix/group_codes.hpp"
#include "subbyte/tensor/tensor.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// A tensor with bytes of its own, to be written.
template <class Arch>
struct basic_stored_tensor {
  std::string name;
  safetensors::dtype type = safetensors::dtype::u8;
  std::vector<index_t> shape;
  std::vector<std::uint8_t> bytes;

  /// Declares it to a writer; write() must follow in the same order.
  void declare(safetensors::basic_writer<Arch>& out) const { out.declare(name, shape, type); }
  void write(safetensors::basic_writer<Arch>& out) const { out.write(name, bytes); }
};

using stored_tensor = basic_stored_tensor<arch::native>;
template <class Arch>
using basic_stored_tensors = std::vector<basic_stored_tensor<Arch>>;
using stored_tensors = basic_stored_tensors<arch::native>;

/// "module.leaf", or the leaf alone for a module without a name.
template <class Arch = arch::native>
[[nodiscard]] std::string tensor_name(std::string_view module, std::string_view leaf) {
  std::string name(module);
  if (!name.empty()) name += '.';
  return name.append(leaf);
}

/// How a tensor of scales or zero points lies: [rows, groups] or [groups, rows].
enum class parameter_order { rows_first, groups_first };

/// A tensor of a file, or one slice along the first dimension of it.
template <class Arch>
struct basic_tensor_slice {
  std::string_view name;
  safetensors::dtype type = safetensors::dtype::u8;
  std::span<const index_t> shape;
  std::span<const std::uint8_t> bytes;

  [[nodiscard]] std::string shape_text() const {
    std::string text = "[";
    for (std::size_t d = 0; d < shape.size() && d < 8; ++d) {
      text += (d != 0 ? ", " : "") + std::to_string(shape[d]);
    }
    return text + (shape.size() > 8 ? ", ...]" : "]");
  }

  [[noreturn]] void reject(errc code, const std::string& message) const {
    throw_error(code, printable<Arch>(name), message);
  }
  void require_type(std::initializer_list<safetensors::dtype> allowed) const {
    std::string names;
    for (const safetensors::dtype t : allowed) {
      if (t == type) return;
      names += (names.empty() ? "" : " or ") + std::string(traits_of(t).name);
    }
    reject(errc::unsupported_format,
           std::string("the element type is ") + traits_of(type).name + ", required is " + names);
  }
  void require_rank(std::size_t rank) const {
    bool filled = shape.size() == rank;
    for (const index_t extent : shape) filled = filled && extent > 0;
    if (!filled) {
      reject(errc::bad_shape, "the shape is " + shape_text() + ", required are " +
                                  std::to_string(rank) + " dimensions of at least 1");
    }
  }
  /// `why` says where the required extents come from.
  void require_shape(std::initializer_list<index_t> required, const std::string& why) const {
    std::string text;
    bool same = shape.size() == required.size();
    std::size_t d = 0;
    for (const index_t extent : required) {
      same = same && shape[d] == extent;
      text += (d != 0 ? ", " : "") + std::to_string(extent);
      ++d;
    }
    if (!same) {
      reject(errc::bad_shape,
             "the shape is " + shape_text() + ", required is [" + text + "]" + ": " + why);
    }
  }

  /// Element i of an I32 tensor; any alignment.
  [[nodiscard]] std::int32_t int32(index_t i) const noexcept {
    return static_cast<std::int32_t>(load_le<std::uint32_t>(bytes.data() + 4 * i));
  }

  /// Elements of F16, BF16 or F32 as floats [rows, groups], whichever way they lie.
  ///
  /// Requires  rank 2.
  [[nodiscard]] tensor<float, 2> parameters(parameter_order order) const {
    require_type({safetensors::dtype::f16, safetensors::dtype::bf16, safetensors::dtype::f32});
    const index_t outer = shape[0], inner = shape[1];
    const bool turned = order == parameter_order::groups_first;
    tensor<float, 2> out(uninitialized, turned ? inner : outer, turned ? outer : inner);
    for (index_t i = 0; i < outer; ++i) {
      for (index_t j = 0; j < inner; ++j) {
        (turned ? out(j, i) : out(i, j)) = element(i * inner + j);
      }
    }
    return out;
  }
  [[nodiscard]] scale_type parameter_type() const noexcept {
    return type == safetensors::dtype::f16    ? scale_type::f16
           : type == safetensors::dtype::bf16 ? scale_type::bf16
                                              : scale_type::f32;
  }

 private:
  [[nodiscard]] float element(index_t i) const noexcept {
    if (type == safetensors::dtype::f32) {
      return bit_cast<float>(load_le<std::uint32_t>(bytes.data() + 4 * i));
    }
    const std::uint16_t bits = load_le<std::uint16_t>(bytes.data() + 2 * i);
    return type == safetensors::dtype::f16 ? bit_cast<half>(bits).to_float()
                                           : bit_cast<bfloat16>(bits).to_float();
  }
};

/// The tensors of one module of a file; of experts that are stored as one tensor, one slice.
template <class Arch>
class basic_module_tensors {
 public:
  basic_module_tensors(const safetensors::basic_file<Arch>& file, std::string_view module,
                       std::optional<index_t> slice = std::nullopt)
      : file_(file), module_(module), slice_(slice) {}

  [[nodiscard]] const std::string& module() const noexcept { return module_; }
  [[nodiscard]] std::string name(std::string_view leaf) const {
    return tensor_name<Arch>(module_, leaf);
  }
  [[nodiscard]] bool has(std::string_view leaf) const noexcept {
    return file_.find_tensor(name(leaf)) != nullptr;
  }
  /// The tensor `leaf` of the module. Throws  not_found.
  [[nodiscard]] const safetensors::basic_tensor<Arch>& tensor(std::string_view leaf) const {
    return file_.tensor(name(leaf));
  }
  /// The tensor `leaf` of the module, every extent at least 1.
  ///
  /// Throws  not_found, bad_shape.
  [[nodiscard]] basic_tensor_slice<Arch> get(std::string_view leaf, std::size_t rank) const {
    const safetensors::basic_tensor<Arch>& t = file_.tensor(name(leaf));
    basic_tensor_slice<Arch> found{t.name(), t.type(), t.shape(), t.bytes()};
    if (!slice_) {
      found.require_rank(rank);
      return found;
    }
    found.require_rank(rank + 1);
    if (*slice_ < 0 || *slice_ >= found.shape[0]) {
      found.reject(errc::not_found, "slice " + std::to_string(*slice_) + " is asked for, and " +
                                        std::to_string(found.shape[0]) + " are there");
    }
    const std::size_t size = found.bytes.size() / static_cast<std::size_t>(found.shape[0]);
    found.bytes = found.bytes.subspan(size * static_cast<std::size_t>(*slice_), size);
    found.shape = found.shape.subspan(1);
    return found;
  }

 private:
  const safetensors::basic_file<Arch>& file_;
  std::string module_;
  std::optional<index_t> slice_;
};

/// Codes [rows, cols] out of packed words.
///
/// Throws  layout_rejected for a shape that the layout does not take; bad_shape if the tensor has
///         another size than the layout gives the matrix.
template <class Arch>
[[nodiscard]] tensor<std::uint8_t, 2> unpack_tensor(const basic_packing<Arch>& layout,
                                                    const basic_tensor_slice<Arch>& packed,
                                                    matrix_shape shape) {
  const std::string size = std::to_string(shape.rows) + " x " + std::to_string(shape.cols);
  if (!layout.accepts(shape)) {
    packed.reject(errc::layout_rejected, std::string(layout.name) + " needs " + layout.requirement +
                                             ", found is a " + size + " matrix");
  }
  if (static_cast<index_t>(packed.bytes.size()) != layout.bytes(shape)) {
    packed.reject(errc::bad_shape, std::to_string(packed.bytes.size()) + " bytes, " +
                                       std::to_string(layout.bytes(shape)) + " are required for " +
                                       size + " codes");
  }
  tensor<std::uint8_t, 2> codes(uninitialized, shape.rows, shape.cols);
  unpack(layout, packed.bytes, codes.view());
  return codes;
}

/// A tensor of packed words from codes [rows, cols].
///
/// Throws  layout_rejected.
template <class Arch>
[[nodiscard]] basic_stored_tensor<Arch> pack_tensor(const basic_packing<Arch>& layout,
                                                    std::string name, safetensors::dtype type,
                                                    std::vector<index_t> shape,
                                                    matrix_view<const std::uint8_t> codes) {
  const matrix_shape extents{codes.extent(0), codes.extent(1)};
  if (!layout.accepts(extents)) {
    throw_error(errc::layout_rejected, printable<Arch>(name),
                std::string(layout.name) + " needs " + layout.requirement + ", found is a " +
                    std::to_string(extents.rows) + " x " + std::to_string(extents.cols) +
                    " matrix");
  }
  basic_stored_tensor<Arch> t{std::move(name), type, std::move(shape), {}};
  t.bytes.resize(static_cast<std::size_t>(layout.bytes(extents)));
  pack(layout, codes, std::span<std::uint8_t>(t.bytes));
  return t;
}

/// The safetensors type that holds scales of this type.
[[nodiscard]] SUBBYTE_INLINE constexpr safetensors::dtype dtype_of_scales(
    scale_type type) noexcept {
  return type == scale_type::f16    ? safetensors::dtype::f16
         : type == scale_type::bf16 ? safetensors::dtype::bf16
                                    : safetensors::dtype::f32;
}

/// A tensor of scales or of real zero points [rows, groups], stored in `order`; `padded_groups`
/// appends groups of zeros.
///
/// Throws  bad_argument for a value that `type` does not hold: rounding is the caller's decision.
template <class Arch>
[[nodiscard]] basic_stored_tensor<Arch> parameter_tensor(std::string name,
                                                         const tensor<float, 2>& values,
                                                         scale_type type, parameter_order order,
                                                         index_t padded_groups = 0) {
  const index_t rows = values.extent(0), groups = values.extent(1);
  const index_t stored = padded_groups > groups ? padded_groups : groups;
  const bool turned = order == parameter_order::groups_first;
  basic_stored_tensor<Arch> t{std::move(name), dtype_of_scales(type), {}, {}};
  t.shape = turned ? std::vector<index_t>{stored, rows} : std::vector<index_t>{rows, stored};
  const index_t width = type == scale_type::f32 ? 4 : 2;
  t.bytes.resize(static_cast<std::size_t>(rows * stored * width));
  for (index_t r = 0; r < rows; ++r) {
    for (index_t g = 0; g < groups; ++g) {
      const float value = values(r, g);
      if (nearest(type, value) != value) {
        throw_error(errc::bad_argument, printable<Arch>(t.name),
                    "the value of row " + std::to_string(r) + ", group " + std::to_string(g) +
                        " is " + std::to_string(value) + ", which no " + name_of(type) +
                        " holds exactly");
      }
      std::uint8_t* const at = t.bytes.data() + (turned ? g * rows + r : r * stored + g) * width;
      if (type == scale_type::f32) {
        store_le(at, bit_cast<std::uint32_t>(value));
      } else {
        store_le(at, type == scale_type::f16 ? bit_cast<std::uint16_t>(half::nearest(value))
                                             : bit_cast<std::uint16_t>(bfloat16::nearest(value)));
      }
    }
  }
  return t;
}

/// An I32 vector.
template <class Arch>
[[nodiscard]] basic_stored_tensor<Arch> int32_tensor(std::string name,
                                                     vector_view<const std::int32_t> values) {
  basic_stored_tensor<Arch> t{std::move(name), safetensors::dtype::i32, {values.extent(0)}, {}};
  t.bytes.resize(static_cast<std::size_t>(values.extent(0)) * 4);
  for (index_t i = 0; i < values.extent(0); ++i) {
    store_le(t.bytes.data() + 4 * i, static_cast<std::uint32_t>(values[i]));
  }
  return t;
}

/// The group size of a configuration as columns per group: -1 and anything beyond the row mean the
/// whole row.
///
/// Throws  bad_argument for 0 and below -1.
template <class Arch>
[[nodiscard]] index_t columns_per_group(index_t group_size, index_t cols, std::string_view module) {
  if (group_size < -1 || group_size == 0) {
    throw_error(errc::bad_argument, printable<Arch>(module),
                "the group size is " + std::to_string(group_size) +
                    ", required is a positive number, or -1 for whole rows");
  }
  return group_size == -1 || group_size > cols ? cols : group_size;
}

/// The group of every column of a module from its g_idx, or empty where that is the column's
/// position divided by the group size.
///
/// Throws  bad_metadata for a group that is not there.
template <class Arch>
[[nodiscard]] tensor<std::int32_t, 1> read_group_indices(const basic_tensor_slice<Arch>& stored,
                                                         index_t cols, index_t group_size,
                                                         index_t groups) {
  stored.require_type({safetensors::dtype::i32});
  stored.require_shape({cols}, "one group for each input column");
  tensor<std::int32_t, 1> indices(uninitialized, cols);
  bool sequential = true;
  for (index_t k = 0; k < cols; ++k) {
    const std::int32_t g = stored.int32(k);
    if (g < 0 || g >= groups) {
      stored.reject(errc::bad_metadata, "column " + std::to_string(k) + " is in group " +
                                            std::to_string(g) + ", and there are groups 0 to " +
                                            std::to_string(groups - 1));
    }
    sequential = sequential && g == k / group_size;
    indices(k) = g;
  }
  if (sequential) return {};
  return indices;
}

/// Integer zero points [rows, groups] from codes of the same shape.
template <class Arch>
[[nodiscard]] tensor<float, 2> widen_zeros(const tensor<std::uint8_t, 2>& stored) {
  tensor<float, 2> zeros(uninitialized, stored.extent(0), stored.extent(1));
  for (index_t r = 0; r < stored.extent(0); ++r) {
    for (index_t g = 0; g < stored.extent(1); ++g) zeros(r, g) = static_cast<float>(stored(r, g));
  }
  return zeros;
}

/// Whether every zero point is the middle of the codes.
template <class Arch>
[[nodiscard]] bool zeros_are_central(const basic_group_codes<Arch>& codes) {
  const float middle = static_cast<float>(1 << (codes.bits - 1));
  for (index_t r = 0; r < codes.zeros.extent(0); ++r) {
    for (index_t g = 0; g < codes.zeros.extent(1); ++g) {
      if (codes.zeros(r, g) != middle) return false;
    }
  }
  return true;
}

/// Removes zero points that are all the middle of the codes: the matrix is symmetric.
///
/// Throws  bad_metadata if the checkpoint says symmetric, and they are not.
template <class Arch>
void drop_central_zeros(basic_group_codes<Arch>& codes, bool said_symmetric,
                        std::string_view subject) {
  if (zeros_are_central<Arch>(codes)) {
    codes.zeros = tensor<float, 2>();
  } else if (said_symmetric) {
    throw_error(errc::bad_metadata, printable<Arch>(subject),
                "the configuration says symmetric, and not every zero point is " +
                    std::to_string(1 << (codes.bits - 1)) +
                    ": wrong bits, or the other convention of zero points?");
  }
}

/// Checks a matrix that is to be written: consistent, and of a width that the scheme has.
template <class Arch>
void require_storable(const basic_group_codes<Arch>& codes, std::string_view module,
                      const char* scheme, std::initializer_list<int> widths) {
  const std::string subject = printable<Arch>(module);
  codes.validate(subject);
  if (codes.rows() == 0 || codes.cols() == 0) {
    throw_error(errc::bad_shape, subject, "the matrix has no elements");
  }
  std::string names;
  for (const int b : widths) {
    if (b == codes.bits) return;
    names += (names.empty() ? "" : ", ") + std::to_string(b);
  }
  throw_error(errc::bad_argument, subject,
              std::to_string(codes.bits) + " bits, " + scheme + " has " + names);
}

/// Integer zero points as codes [rows, groups]; the middle of the codes where the matrix is
/// symmetric.
///
/// Throws  bad_argument for real zero points.
template <class Arch>
[[nodiscard]] tensor<std::uint8_t, 2> integer_zeros(const basic_group_codes<Arch>& codes,
                                                    std::string_view module, const char* scheme) {
  tensor<std::uint8_t, 2> zeros(uninitialized, codes.rows(), codes.groups());
  for (index_t r = 0; r < codes.rows(); ++r) {
    for (index_t g = 0; g < codes.groups(); ++g) {
      const float z = codes.zero(r, g);
      const int whole = z >= 0 && z <= 255 ? static_cast<int>(z) : -1;
      if (static_cast<float>(whole) != z) {
        throw_error(errc::bad_argument, printable<Arch>(module),
                    "the zero point of row " + std::to_string(r) + ", group " + std::to_string(g) +
                        " is " + std::to_string(z) + ", and " + scheme + " holds integers");
      }
      zeros(r, g) = static_cast<std::uint8_t>(whole);
    }
  }
  return zeros;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
