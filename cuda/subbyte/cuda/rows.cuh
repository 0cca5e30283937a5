// SPDX-License-Identifier: Apache-2.0
/// How a warp reads the rows of a quantized matrix: pieces of a row's bytes in shared memory, and
/// from them the quads of each lane.
#pragma once

#include "subbyte/cuda/octet.cuh"
#include "subbyte/cuda/octet/planar.cuh"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/planar_matrix.hpp"
#include "subbyte/matrix/row_scaled_matrix.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// One row of a matrix, specialised per storage family:
///
///   span_bytes          bytes of 256 weights in data()
///   alignment           what load() wants the span's address to be a multiple of
///   quads               what a lane decodes to
///   row_reader(w, r)    reads what belongs to the whole row
///   data(), bytes()     the row's spans; the last one may be cut short
///   first(lane, q)      as of an octet
///   load(span, k0, lane) the lane's quads of the span whose first weight is k0
template <class View>
class row_reader;

template <class F>
class row_reader<block_matrix_view<F>> {
 public:
  using quads = typename octet<F>::quads;
  static constexpr int span_bytes = octet<F>::span_bytes;
  static constexpr int alignment = octet<F>::alignment;

  SUBBYTE_HD_INLINE row_reader(const block_matrix_view<F>& w, index_t r) noexcept
      : data_(reinterpret_cast<const std::uint8_t*>(w.data() + r * w.blocks_per_row())),
        bytes_(w.blocks_per_row() * static_cast<index_t>(sizeof(F))) {}

  [[nodiscard]] SUBBYTE_HD_INLINE const std::uint8_t* data() const noexcept { return data_; }
  [[nodiscard]] SUBBYTE_HD_INLINE index_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return octet<F>::first(lane, q);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE quads load(const std::uint8_t* span, index_t,
                                             int lane) const noexcept {
    return octet<F>::load(span, lane);
  }

 private:
  const std::uint8_t* data_;
  index_t bytes_;
};

template <class F>
class row_reader<row_scaled_matrix_view<F>> {
 public:
  using quads = typename octet<F>::quads;
  static constexpr int span_bytes = octet<F>::span_bytes;
  static constexpr int alignment = octet<F>::alignment;

  SUBBYTE_HD_INLINE row_reader(const row_scaled_matrix_view<F>& w, index_t r) noexcept
      : data_(reinterpret_cast<const std::uint8_t*>(w.row(r))),
        bytes_(w.blocks_per_row() * static_cast<index_t>(sizeof(F))),
        scale_(w.scale(r)) {}

  [[nodiscard]] SUBBYTE_HD_INLINE const std::uint8_t* data() const noexcept { return data_; }
  [[nodiscard]] SUBBYTE_HD_INLINE index_t bytes() const noexcept { return bytes_; }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return octet<F>::first(lane, q);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE quads load(const std::uint8_t* span, index_t,
                                             int lane) const noexcept {
    return octet<F>::load(span, lane, scale_);
  }

 private:
  const std::uint8_t* data_;
  index_t bytes_;
  typename F::row_scale scale_;
};

template <class G, class S>
class row_reader<planar_matrix_view<G, S>> {
 public:
  using quads = float_quads;
  static constexpr int span_bytes = planar_octet<G>::span_bytes;
  static constexpr int alignment = planar_octet<G>::alignment;

  SUBBYTE_HD_INLINE row_reader(const planar_matrix_view<G, S>& w, index_t r) noexcept
      : w_(w), row_(r) {}

  [[nodiscard]] SUBBYTE_HD_INLINE const std::uint8_t* data() const noexcept {
    return w_.codes() + row_ * w_.row_bytes();
  }
  [[nodiscard]] SUBBYTE_HD_INLINE index_t bytes() const noexcept { return w_.row_bytes(); }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return planar_octet<G>::first(lane, q);
  }
  /// Eight codes never cross a group: groups are multiples of 8, or whole rows.
  [[nodiscard]] SUBBYTE_HD_INLINE quads load(const std::uint8_t* span, index_t k0,
                                             int lane) const noexcept {
    const index_t k = k0 + first(lane, 0);
    const index_t last = w_.groups() - 1;
    const index_t group = k / w_.group_size();
    return planar_octet<G>::load(span, lane, w_.group_params(row_, group < last ? group : last));
  }

 private:
  planar_matrix_view<G, S> w_;
  index_t row_;
};

/// The column of W that each stored column is, or null where they are the same.
template <class View>
[[nodiscard]] SUBBYTE_HD_INLINE const std::int32_t* column_order(const View& w) noexcept {
  if constexpr (requires { w.order(); }) {
    return w.order();
  } else {
    return nullptr;
  }
}

/// Four elements that are loaded or stored together.
template <class T>
struct alignas(4 * sizeof(T)) four {
  T at[4];
};

/// Whether every row of an array allows four<T> at multiples of 4.
template <class T>
[[nodiscard]] SUBBYTE_HD_INLINE bool rows_aligned(const T* data, index_t pitch) noexcept {
  return reinterpret_cast<std::uintptr_t>(data) % sizeof(four<T>) == 0 && pitch % 4 == 0;
}

/// Spans that a warp stages together: a power of two, about `wanted_bytes` of them, at most 4.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int piece_spans(int span_bytes,
                                                          int wanted_bytes) noexcept {
  int spans = 1;
  while (spans < 4 && 2 * spans * span_bytes <= wanted_bytes) spans *= 2;
  return spans;
}

/// Shared memory that a piece of `bytes` bytes of a row needs wherever the row lies.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int staged_bytes(int bytes) noexcept {
  return (bytes + 15 + 15) / 16 * 16;
}

/// Where a piece that begins at `from` begins in the memory that it is staged to: at as many bytes
/// beyond a multiple of 16 as in its own, or at the start if that is no multiple of Alignment.
template <int Alignment>
[[nodiscard]] SUBBYTE_HD_INLINE int staged_offset(const std::uint8_t* from) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(from);
  return address % Alignment == 0 ? static_cast<int>(address % 16) : 0;
}

/// Begins to copy `bytes` bytes of a row to shared memory; the caller commits. Reads nothing
/// beside them. What cannot be copied asynchronously is stored at once.
///
/// Requires  to is 16-byte aligned, staged_bytes(bytes) long.
template <int Alignment, class Thread>
SUBBYTE_DEVICE void stage(const Thread& t, const std::uint8_t* from, int bytes,
                          std::uint8_t* to) noexcept {
  const auto address = reinterpret_cast<std::uintptr_t>(from);
  to += staged_offset<Alignment>(from);
  if (address % 4 == 0 && address % Alignment == 0) {
    const int before = static_cast<int>((16 - address % 16) % 16);
    const int lead = before < bytes ? before : bytes & ~3;
    const int body = (bytes - lead) & ~15;
    const int tail = (bytes - lead - body) & ~3;
    for (int i = 16 * t.lane(); i < body; i += 16 * warp_lanes) {
      t.template copy_async<16>(to + lead + i, from + lead + i);
    }
    // At most three words on either side.
    const int word = 4 * (t.lane() % 4);
    const int at = t.lane() < 4 ? word : lead + body + word;
    if (t.lane() < 8 && word < (t.lane() < 4 ? lead : tail)) {
      t.template copy_async<4>(to + at, from + at);
    }
    const int done = lead + body + tail;
    if (t.lane() < bytes - done) to[done + t.lane()] = from[done + t.lane()];
  } else if (address % 2 == 0) {
    for (int i = 2 * t.lane(); i + 2 <= bytes; i += 2 * warp_lanes) {
      *reinterpret_cast<std::uint16_t*>(to + i) = *reinterpret_cast<const std::uint16_t*>(from + i);
    }
    if (t.lane() == 0 && bytes % 2 != 0) to[bytes - 1] = from[bytes - 1];
  } else {
    for (int i = t.lane(); i < bytes; i += warp_lanes) to[i] = from[i];
  }
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
