// SPDX-License-Identifier: Apache-2.0
/// What products read and what quantizers fill, whichever way a quantized matrix is stored.
#pragma once

#include <concepts>

#include "subbyte/core/arch.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// W [rows, cols] to be read: a view whose rows decode piece by piece.
///
/// decode_row<Arch>(r, k0, count, out) writes weights [k0, k0 + count) of row r.
template <class M>
concept quantized_matrix = requires(const M& m, index_t i, float* out) {
  { m.rows() }
  noexcept->std::same_as<index_t>;
  { m.cols() }
  noexcept->std::same_as<index_t>;
  { m.size_bytes() }
  noexcept->std::same_as<index_t>;
  { m.template decode_row<arch::scalar>(i, i, i, out) }
  noexcept;
};

/// W [rows, cols] to be filled: an owner whose rows are groups of group_size() weights along the
/// columns (the last one may be short), each with params of its own.
///
/// fit<Arch>(w, importance or null, n)  params for n <= group_size() weights, as they will be
///                                      stored; what a short group lacks is padding
/// round(v, i, params)                  the code nearest to v at position i of a group
/// value(code, i, params)               what that code decodes to
/// store(row, group, params, codes, n)  writes a group: n codes, one per byte; the only way in.
///                                      Different groups of rows may be stored from several threads
template <class T>
concept quant_target = requires(T& t, const T& c, const typename T::params& p, const float* x,
                                float v, int code, index_t i, const std::uint8_t* codes) {
  { c.rows() }
  noexcept->std::same_as<index_t>;
  { c.cols() }
  noexcept->std::same_as<index_t>;
  { c.group_size() }
  noexcept->std::same_as<index_t>;
  { T::template fit<arch::scalar>(x, x, i) }
  noexcept->std::same_as<typename T::params>;
  { T::round(v, i, p) }
  noexcept->std::same_as<int>;
  { T::value(code, i, p) }
  noexcept->std::same_as<float>;
  { t.store(i, i, p, codes, i) }
  noexcept;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
