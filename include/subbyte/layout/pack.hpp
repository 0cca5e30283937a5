// SPDX-License-Identifier: Apache-2.0
/// pack and unpack: codes, one per byte, into the buffer of any packing layout, and back.
#pragma once

#include <span>
#include <string>
#include <type_traits>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/bits.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/layout/concepts.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// Rows of one piece of work: whole cache lines of the word layouts.
template <class L>
inline constexpr index_t pack_grain = ceil_div(128, L::shared_rows) * L::shared_rows;

/// A layout with its own packer of rows [begin, end), which begin at a multiple of shared_rows and
/// end at one or at the last row; it writes every byte of these rows.
template <class L, class Arch>
concept packs_rows = requires(const matrix_shape& s, const std::uint8_t* codes, index_t r,
                              std::uint8_t* out) {
  L::template pack_rows<Arch>(s, codes, r, r, out);
};
template <class L, class Arch>
concept unpacks_rows = requires(const matrix_shape& s, const std::uint8_t* in, index_t r,
                                std::uint8_t* codes) {
  L::template unpack_rows<Arch>(s, in, r, r, codes);
};

/// Rows [begin, end) bit by bit: the specification of every pack_rows. `out` is zero before.
template <class L, class Arch>
void pack_bits(const matrix_shape& shape, const std::uint8_t* codes, index_t begin, index_t end,
               std::uint8_t* out) noexcept {
  for (index_t r = begin; r < end; ++r) {
    for (index_t k = 0; k < shape.cols; ++k) {
      const unsigned code = codes[r * shape.cols + k];
      for (int bit = 0; bit < L::code_bits; ++bit) {
        const index_t at = L::bit_offset(shape, r, k, bit);
        out[at / 8] = static_cast<std::uint8_t>(out[at / 8] | ((code >> bit) & 1U) << (at % 8));
      }
    }
  }
}

/// Rows [begin, end) bit by bit: the specification of every unpack_rows.
template <class L, class Arch>
void unpack_bits(const matrix_shape& shape, const std::uint8_t* in, index_t begin, index_t end,
                 std::uint8_t* codes) noexcept {
  for (index_t r = begin; r < end; ++r) {
    for (index_t k = 0; k < shape.cols; ++k) {
      unsigned code = 0;
      for (int bit = 0; bit < L::code_bits; ++bit) {
        const index_t at = L::bit_offset(shape, r, k, bit);
        code |= (static_cast<unsigned>(in[at / 8]) >> (at % 8) & 1U) << bit;
      }
      codes[r * shape.cols + k] = static_cast<std::uint8_t>(code);
    }
  }
}

/// The bits that are set in any of n codes.
template <class Arch>
[[nodiscard]] unsigned bits_of_any(const std::uint8_t* codes, index_t n) noexcept {
  std::uint64_t seen[4] = {};
  index_t i = 0;
  for (; i + 32 <= n; i += 32) {
    std::uint64_t piece[4];
    __builtin_memcpy(piece, codes + i, 32);
    for (int j = 0; j < 4; ++j) seen[j] |= piece[j];
  }
  std::uint64_t all = seen[0] | seen[1] | seen[2] | seen[3];
  for (; i < n; ++i) all |= codes[i];
  all |= all >> 32;
  all |= all >> 16;
  return static_cast<unsigned>((all | all >> 8) & 255);
}

template <class L, class Arch>
struct packing_functions {
  static bool accepts(const matrix_shape& shape) noexcept {
    return shape.rows >= 0 && shape.cols >= 0 && L::accepts(shape);
  }
  static index_t bytes(const matrix_shape& shape) noexcept { return L::bytes(shape); }
  static void pack(const matrix_shape& shape, const std::uint8_t* codes, index_t begin, index_t end,
                   std::uint8_t* out) noexcept {
    if constexpr (packs_rows<L, Arch>) {
      L::template pack_rows<Arch>(shape, codes, begin, end, out);
    } else {
      pack_bits<L, Arch>(shape, codes, begin, end, out);
    }
  }
  static void unpack(const matrix_shape& shape, const std::uint8_t* in, index_t begin, index_t end,
                     std::uint8_t* codes) noexcept {
    if constexpr (unpacks_rows<L, Arch>) {
      L::template unpack_rows<Arch>(shape, in, begin, end, codes);
    } else {
      unpack_bits<L, Arch>(shape, in, begin, end, codes);
    }
  }
};

}  // namespace detail

/// A packing layout as a value, for code that learns it from a file: packing_of<L>.
///
/// What reads and writes checkpoints goes through it, so that everything but the loops over codes
/// is compiled once and not for every layout and width.
template <class Arch>
struct basic_packing {
  const char* name;
  const char* requirement;
  int code_bits;
  index_t grain;      ///< rows that one thread takes at a time
  bool zeroed_first;  ///< pack_rows sets bits only
  bool (*accepts)(const matrix_shape&) noexcept;
  index_t (*bytes)(const matrix_shape&) noexcept;  ///< of shapes that are accepted
  void (*pack_rows)(const matrix_shape&, const std::uint8_t* codes, index_t begin, index_t end,
                    std::uint8_t* out) noexcept;
  void (*unpack_rows)(const matrix_shape&, const std::uint8_t* in, index_t begin, index_t end,
                      std::uint8_t* codes) noexcept;
};

using packing = basic_packing<arch::native>;

template <packing_layout L, class Arch = arch::native>
inline constexpr basic_packing<Arch> packing_of{
    L::name,
    L::requirement,
    L::code_bits,
    detail::pack_grain<L>,
    !detail::packs_rows<L, Arch>,
    &detail::packing_functions<L, Arch>::accepts,
    &detail::packing_functions<L, Arch>::bytes,
    &detail::packing_functions<L, Arch>::pack,
    &detail::packing_functions<L, Arch>::unpack,
};

/// The one of these layouts, of different widths, whose codes have so many bits: the way from a
/// width read in a file to a layout.
///
/// Requires  that there is one.
template <class Arch, packing_layout... Ls>
[[nodiscard]] const basic_packing<Arch>& packing_with_bits(int bits) noexcept {
  const basic_packing<Arch>* found = nullptr;
  ((Ls::code_bits == bits ? void(found = &packing_of<Ls, Arch>) : void()), ...);
  SUBBYTE_EXPECTS(found != nullptr);
  return *found;
}

/// The layout of a family L<1> ... L<8>.
///
/// Requires  bits from 1 to 8.
template <template <int> class L, class Arch = arch::native>
[[nodiscard]] SUBBYTE_INLINE const basic_packing<Arch>& packing_of_bits(int bits) noexcept {
  return packing_with_bits<Arch, L<1>, L<2>, L<3>, L<4>, L<5>, L<6>, L<7>, L<8>>(bits);
}

/// Bytes of a [rows, cols] matrix in this layout.
///
/// Throws  layout_rejected, naming the shape and what the layout needs.
template <class Arch>
[[nodiscard]] index_t packed_bytes(const basic_packing<Arch>& layout, const matrix_shape& shape) {
  if (!layout.accepts(shape)) {
    throw_error(errc::layout_rejected, layout.name,
                std::to_string(shape.rows) + " x " + std::to_string(shape.cols) + " codes of " +
                    std::to_string(layout.code_bits) + " bits: needs " + layout.requirement);
  }
  return layout.bytes(shape);
}

namespace detail {

template <class Arch>
void check_buffer(const basic_packing<Arch>& layout, const matrix_shape& shape, std::size_t found) {
  const index_t needed = packed_bytes(layout, shape);
  if (found != static_cast<std::size_t>(needed)) {
    throw_error(errc::bad_shape, layout.name,
                "the buffer of " + std::to_string(shape.rows) + " x " + std::to_string(shape.cols) +
                    " codes has " + std::to_string(found) + " bytes, needs " +
                    std::to_string(needed));
  }
}

}  // namespace detail

/// Writes codes [n, k] to a buffer of this layout.
///
/// Shapes    codes [n, k], one per byte; out packed_bytes(layout, {n, k}) bytes, any alignment.
/// Numerics  exact; the same bytes for every executor and arch.
/// Cost      reads the codes once and writes the buffer once for layouts with their own packer,
///           some nanoseconds per bit for the others; no allocation.
/// Throws    layout_rejected (shape), bad_shape (size of out), bad_argument (a code of more bits
///           than the layout's; the buffer is then of no use).
template <class Arch>
void pack(const basic_packing<Arch>& layout, matrix_view<const std::uint8_t> codes,
          std::span<std::uint8_t> out, executor_ref ex = serial) {
  const matrix_shape shape{codes.extent(0), codes.extent(1)};
  detail::check_buffer(layout, shape, out.size());
  if (out.empty()) return;
  if (layout.zeroed_first) __builtin_memset(out.data(), 0, out.size());
  unsigned seen = 0;
  auto body = [&](index_t begin, index_t end) noexcept {
    const unsigned found =
        detail::bits_of_any<Arch>(codes.data() + begin * shape.cols, (end - begin) * shape.cols);
    __atomic_fetch_or(&seen, found, __ATOMIC_RELAXED);
    if (found >> layout.code_bits == 0) {
      layout.pack_rows(shape, codes.data(), begin, end, out.data());
    }
  };
  ex.for_range<decltype(body)&, Arch>(shape.rows, layout.grain, body);
  if (seen >> layout.code_bits != 0) {
    throw_error(
        errc::bad_argument, layout.name,
        "a code needs more than the " + std::to_string(layout.code_bits) + " bits of this layout");
  }
}

/// Reads codes [n, k] from a buffer of this layout.
///
/// Shapes    in packed_bytes(layout, {n, k}) bytes, any alignment; codes [n, k], one per byte.
/// Numerics  exact; bits that no code lies in are ignored.
/// Cost      as pack.
/// Throws    layout_rejected (shape), bad_shape (size of in).
template <class Arch>
void unpack(const basic_packing<Arch>& layout, std::span<const std::uint8_t> in,
            matrix_view<std::uint8_t> codes, executor_ref ex = serial) {
  const matrix_shape shape{codes.extent(0), codes.extent(1)};
  detail::check_buffer(layout, shape, in.size());
  if (codes.empty()) return;
  auto body = [&](index_t begin, index_t end) noexcept {
    layout.unpack_rows(shape, in.data(), begin, end, codes.data());
  };
  ex.for_range<decltype(body)&, Arch>(shape.rows, layout.grain, body);
}

/// As above, with the layout known when the program is compiled.
template <packing_layout L, class Arch = arch::native>
[[nodiscard]] SUBBYTE_INLINE index_t packed_bytes(const matrix_shape& shape) {
  return packed_bytes(packing_of<L, Arch>, shape);
}
template <packing_layout L, class Arch = arch::native>
SUBBYTE_INLINE void pack(matrix_view<const std::uint8_t> codes, std::span<std::uint8_t> out,
                         executor_ref ex = serial) {
  pack(packing_of<L, Arch>, codes, out, ex);
}
template <packing_layout L, class Arch = arch::native>
SUBBYTE_INLINE void unpack(std::span<const std::uint8_t> in, matrix_view<std::uint8_t> codes,
                           executor_ref ex = serial) {
  unpack(packing_of<L, Arch>, in, codes, ex);
}

/// Calls body(std::integral_constant<int, B>{}) for the one of Bits... that equals bits; false if
/// none does.
template <int... Bits, class Body>
SUBBYTE_INLINE constexpr bool with_bits(int bits, Body&& body) {
  return ((bits == Bits && (body(std::integral_constant<int, Bits>{}), true)) || ...);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
