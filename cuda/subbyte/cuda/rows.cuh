// SPDX-License-Identifier: Apache-2.0
/// How a warp reads the rows of a quantized matrix: pieces of a row's bytes in shared memory, and
/// from them the quads of each lane.
#pragma once

#include <string>

#include "subbyte/core/error.hpp"
#include "subbyte/cuda/octet.cuh"
#include "subbyte/cuda/octet/planar.cuh"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/planar_matrix.hpp"
#include "subbyte/matrix/row_scaled_matrix.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace cuda {

/// Columns of a matrix at most: kernels count them in int, a span beyond the last included.
inline constexpr index_t most_columns = 0x7FFFFFFF - 8 * span_weights;

/// What a kernel takes of a matrix; made on the host. Specialised per storage family with
///
///   span_bytes           bytes of 256 weights of a row
///   alignment            what load() wants a span's address to be a multiple of
///   quads                what a lane decodes to
///   rows(), cols(), row_bytes()
///   row(r)               the spans of row r; the last one may be cut short
///   first(lane, q)       as of an octet
///   load(span, r, k0, lane)  the lane's quads of the span of row r whose first weight is k0
///   order()              null, or the column of W that each stored column is
template <class View>
class matrix_reader;

namespace detail {

/// What the readers of all families know.
template <class Octet>
class reader_base {
 public:
  using quads = typename Octet::quads;
  static constexpr int span_bytes = Octet::span_bytes;
  static constexpr int alignment = Octet::alignment;
  static_assert(span_bytes % alignment == 0 && alignment <= 16);

  [[nodiscard]] SUBBYTE_HD_INLINE index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_HD_INLINE int cols() const noexcept { return cols_; }
  [[nodiscard]] SUBBYTE_HD_INLINE index_t row_bytes() const noexcept { return row_bytes_; }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int first(int lane, int q) noexcept {
    return Octet::first(lane, q);
  }

 protected:
  SUBBYTE_INLINE reader_base(const char* subject, index_t rows, index_t cols, index_t row_bytes)
      : rows_(rows), cols_(static_cast<int>(cols)), row_bytes_(row_bytes) {
    if (cols > most_columns) {
      throw_error(errc::bad_shape, subject,
                  std::to_string(cols) + " columns; at most " + std::to_string(most_columns) +
                      " are possible");
    }
  }

 private:
  index_t rows_;
  int cols_;
  index_t row_bytes_;
};

}  // namespace detail

template <class F>
class matrix_reader<block_matrix_view<F>> : public detail::reader_base<octet<F>> {
 public:
  SUBBYTE_INLINE explicit matrix_reader(const block_matrix_view<F>& w)
      : matrix_reader::reader_base(F::name, w.rows(), w.cols(),
                                   w.blocks_per_row() * static_cast<index_t>(sizeof(F))),
        data_(reinterpret_cast<const std::uint8_t*>(w.data())) {}

  [[nodiscard]] SUBBYTE_HD_INLINE const std::uint8_t* row(index_t r) const noexcept {
    return data_ + r * this->row_bytes();
  }
  [[nodiscard]] SUBBYTE_HD_INLINE auto load(const std::uint8_t* span, index_t, int,
                                            int lane) const noexcept {
    return octet<F>::load(span, lane);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static const std::int32_t* order() noexcept { return nullptr; }

 private:
  const std::uint8_t* data_;
};

template <class F>
class matrix_reader<row_scaled_matrix_view<F>> : public detail::reader_base<octet<F>> {
 public:
  SUBBYTE_INLINE explicit matrix_reader(const row_scaled_matrix_view<F>& w)
      : matrix_reader::reader_base(F::name, w.rows(), w.cols(),
                                   w.blocks_per_row() * static_cast<index_t>(sizeof(F))),
        w_(w) {}

  [[nodiscard]] SUBBYTE_HD_INLINE const std::uint8_t* row(index_t r) const noexcept {
    return w_.data() + r * w_.row_bytes() + static_cast<index_t>(sizeof(typename F::row_scale));
  }
  [[nodiscard]] SUBBYTE_HD_INLINE auto load(const std::uint8_t* span, index_t r, int,
                                            int lane) const noexcept {
    return octet<F>::load(span, lane, w_.scale(r));
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static const std::int32_t* order() noexcept { return nullptr; }

 private:
  row_scaled_matrix_view<F> w_;
};

template <class G, class S>
class matrix_reader<planar_matrix_view<G, S>> : public detail::reader_base<planar_octet<G>> {
 public:
  SUBBYTE_INLINE explicit matrix_reader(const planar_matrix_view<G, S>& w)
      : matrix_reader::reader_base("a planar matrix", w.rows(), w.cols(), w.row_bytes()),
        w_(w),
        groups_(w.groups()) {
    // k / group size is (k * multiplier >> 32) >> shift, for any k below 2^31 (Granlund and
    // Montgomery 1994, with one bit of k to spare).
    const auto divisor = static_cast<std::uint64_t>(w.group_size());
    int bits = 0;
    while ((std::uint64_t{1} << bits) < divisor) ++bits;
    if (bits == 0) return;  // one column, in group 0
    multiplier_ = static_cast<std::uint32_t>((std::uint64_t{1} << (31 + bits)) / divisor + 1);
    shift_ = bits - 1;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE const std::uint8_t* row(index_t r) const noexcept {
    return w_.codes() + r * this->row_bytes();
  }
  /// Eight codes never cross a group: groups are multiples of 8, or whole rows.
  [[nodiscard]] SUBBYTE_HD_INLINE float_quads load(const std::uint8_t* span, index_t r, int k0,
                                                   int lane) const noexcept {
    const int k = k0 + this->first(lane, 0);
    const int last = this->cols() - 1;
    const auto group = high_product(static_cast<std::uint32_t>(k < last ? k : last), multiplier_);
    return planar_octet<G>::load(span, lane, w_.params_at(r * groups_ + (group >> shift_)));
  }
  [[nodiscard]] SUBBYTE_HD_INLINE const std::int32_t* order() const noexcept { return w_.order(); }

 private:
  planar_matrix_view<G, S> w_;
  index_t groups_;
  std::uint32_t multiplier_ = 0;
  int shift_ = 0;
};

/// A quantized matrix whose levels are small integers under scales (and offsets).
template <class View>
concept integer_levels = requires(typename matrix_reader<View>::quads q) {
  q.bytes;
};

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
    SUBBYTE_ROLLED
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
  } else if (address % 4 == 0) {
    const int done = bytes & ~3;
    SUBBYTE_ROLLED
    for (int i = 4 * t.lane(); i < done; i += 4 * warp_lanes) {
      t.template copy_async<4>(to + i, from + i);
    }
    if (t.lane() < bytes - done) to[done + t.lane()] = from[done + t.lane()];
  } else if (address % 2 == 0) {
    SUBBYTE_ROLLED
    for (int i = 2 * t.lane(); i + 2 <= bytes; i += 2 * warp_lanes) {
      *reinterpret_cast<std::uint16_t*>(to + i) = *reinterpret_cast<const std::uint16_t*>(from + i);
    }
    if (t.lane() == 0 && bytes % 2 != 0) to[bytes - 1] = from[bytes - 1];
  } else {
    SUBBYTE_ROLLED
    for (int i = t.lane(); i < bytes; i += warp_lanes) to[i] = from[i];
  }
}

}  // namespace cuda
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
