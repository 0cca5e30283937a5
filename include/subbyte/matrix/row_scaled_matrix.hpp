// SPDX-License-Identifier: Apache-2.0
/// A quantized matrix whose rows begin with a scale and go on with blocks: a view of bytes that
/// live elsewhere, and an owner.
#pragma once

#include <cstring>  // std::memcpy
#include <limits>
#include <string>
#include <utility>  // std::exchange

#include "subbyte/core/error.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/format/concepts.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/matrix/storage.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// W [rows, cols] of a row_scaled_format, rows dense one after another; read only, never owns.
///
/// Requires  cols is a multiple of F::block_size; the bytes are aligned for F (2 bytes at most).
template <class F>
class row_scaled_matrix_view {
 public:
  using format = F;
  using scale_type = typename F::row_scale;

  SUBBYTE_INLINE constexpr row_scaled_matrix_view() noexcept = default;
  SUBBYTE_HD_INLINE constexpr row_scaled_matrix_view(const std::uint8_t* bytes, index_t rows,
                                                     index_t cols) noexcept
      : bytes_(bytes), rows_(rows), cols_(cols) {
    SUBBYTE_EXPECTS(rows >= 0 && cols >= 0 && cols % F::block_size == 0);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t cols() const noexcept { return cols_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t blocks_per_row() const noexcept {
    return cols_ / F::block_size;
  }
  /// The scale and the blocks; 0 without columns.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t row_bytes() const noexcept {
    if (cols_ == 0) return 0;
    return static_cast<index_t>(sizeof(scale_type)) +
           blocks_per_row() * static_cast<index_t>(sizeof(F));
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const std::uint8_t* data() const noexcept {
    return bytes_;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t size_bytes() const noexcept {
    return rows_ * row_bytes();
  }
  /// The scale that row r begins with.
  [[nodiscard]] SUBBYTE_HD_INLINE scale_type scale(index_t r) const noexcept {
    SUBBYTE_EXPECTS(r >= 0 && r < rows_ && cols_ > 0);
    scale_type s;
    __builtin_memcpy(&s, bytes_ + r * row_bytes(), sizeof(s));
    return s;
  }
  /// The blocks_per_row() blocks of row r.
  [[nodiscard]] SUBBYTE_HD_INLINE const F* row(index_t r) const noexcept {
    SUBBYTE_EXPECTS(r >= 0 && r < rows_ && cols_ > 0);
    return reinterpret_cast<const F*>(bytes_ + r * row_bytes() + sizeof(scale_type));
  }
  /// Rows [first, first + count) as a matrix of their own.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr row_scaled_matrix_view row_range(
      index_t first, index_t count) const noexcept {
    SUBBYTE_EXPECTS(first >= 0 && count >= 0 && first + count <= rows_);
    return {bytes_ + first * row_bytes(), count, cols_};
  }

  /// Weights [k0, k0 + count) of row r into out[0, count). decode_block(block, scale, float*) gives
  /// the bits of F::decode; the kernels have their own.
  ///
  /// Cost  whole blocks decode straight into `out`; a cut block goes through a copy on the stack.
  template <class Arch = arch::native, class DecodeBlock = portable_decode>
  void decode_row(index_t r, index_t k0, index_t count, float* out,
                  DecodeBlock decode_block = {}) const noexcept {
    SUBBYTE_EXPECTS(k0 >= 0 && count >= 0 && k0 + count <= cols_);
    if (count == 0) return;
    constexpr index_t block = F::block_size;
    const scale_type s = scale(r);
    const F* source = row(r) + k0 / block;
    index_t skip = k0 % block;
    while (count > 0) {
      if (skip == 0 && count >= block) {
        decode_block(*source, s, out);
        out += block;
        count -= block;
      } else {
        float whole[static_cast<std::size_t>(block)];
        decode_block(*source, s, whole);
        const index_t n = count < block - skip ? count : block - skip;
        for (index_t i = 0; i < n; ++i) out[i] = whole[skip + i];
        out += n;
        count -= n;
        skip = 0;
      }
      ++source;
    }
  }

 private:
  const std::uint8_t* bytes_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

/// Owns the bytes of a [rows, cols] matrix of a row_scaled_format, zero-filled at first; move-only.
///
/// Throws  bad_shape for negative extents, columns that are no multiple of F::block_size or a size
///         beyond the address space; out_of_memory.
template <class F, class Arch>
class row_scaled_matrix {
 public:
  using format = F;
  using scale_type = typename F::row_scale;

  SUBBYTE_INLINE row_scaled_matrix() noexcept {}
  SUBBYTE_INLINE row_scaled_matrix(index_t rows, index_t cols) : rows_(rows), cols_(cols) {
    bytes_ =
        detail::allocate_matrix<Arch>(F::name, rows, cols, checked_bytes(rows, cols), alignment);
  }
  SUBBYTE_INLINE row_scaled_matrix(row_scaled_matrix&& other) noexcept
      : bytes_(std::exchange(other.bytes_, nullptr)),
        rows_(std::exchange(other.rows_, 0)),
        cols_(std::exchange(other.cols_, 0)) {}
  SUBBYTE_INLINE row_scaled_matrix& operator=(row_scaled_matrix&& other) noexcept {
    if (this != &other) {
      release();
      bytes_ = std::exchange(other.bytes_, nullptr);
      rows_ = std::exchange(other.rows_, 0);
      cols_ = std::exchange(other.cols_, 0);
    }
    return *this;
  }
  row_scaled_matrix(const row_scaled_matrix&) = delete;
  row_scaled_matrix& operator=(const row_scaled_matrix&) = delete;
  SUBBYTE_INLINE ~row_scaled_matrix() { release(); }

  [[nodiscard]] SUBBYTE_INLINE row_scaled_matrix clone() const {
    row_scaled_matrix copy(rows_, cols_);
    if (bytes_ != nullptr) {
      std::memcpy(copy.bytes_, bytes_, static_cast<std::size_t>(view().size_bytes()));
    }
    return copy;
  }

  [[nodiscard]] SUBBYTE_INLINE row_scaled_matrix_view<F> view() const& noexcept {
    return {bytes_, rows_, cols_};
  }
  row_scaled_matrix_view<F> view() const&& = delete;

  [[nodiscard]] SUBBYTE_INLINE index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_INLINE index_t cols() const noexcept { return cols_; }

  /// The blocks of row r, for an encoder to fill.
  [[nodiscard]] SUBBYTE_INLINE F* row(index_t r) noexcept {
    SUBBYTE_EXPECTS(r >= 0 && r < rows_ && cols_ > 0);
    return reinterpret_cast<F*>(bytes_ + r * view().row_bytes() + sizeof(scale_type));
  }
  SUBBYTE_INLINE void set_scale(index_t r, const scale_type& s) noexcept {
    SUBBYTE_EXPECTS(r >= 0 && r < rows_ && cols_ > 0);
    std::memcpy(bytes_ + r * view().row_bytes(), &s, sizeof(s));
  }

 private:
  static constexpr std::size_t alignment = 64;

  SUBBYTE_INLINE static std::size_t checked_bytes(index_t rows, index_t cols) {
    if (rows < 0 || cols < 0) {
      detail::reject_matrix<Arch>(F::name, rows, cols, "extents must not be negative");
    }
    if (cols % F::block_size != 0) {
      throw_error(errc::bad_shape, F::name,
                  std::to_string(rows) + " x " + std::to_string(cols) +
                      ": columns must be a multiple of " + std::to_string(F::block_size));
    }
    constexpr index_t largest = std::numeric_limits<index_t>::max();
    constexpr auto block = static_cast<index_t>(sizeof(F));
    constexpr auto scale = static_cast<index_t>(sizeof(scale_type));
    const index_t blocks = cols / F::block_size;
    if (blocks == 0) return 0;
    if (blocks > (largest - scale) / block || rows > largest / (scale + blocks * block)) {
      detail::reject_matrix<Arch>(F::name, rows, cols, "the size in bytes does not fit 63 bits");
    }
    return static_cast<std::size_t>(rows * (scale + blocks * block));
  }
  SUBBYTE_INLINE void release() noexcept { detail::release_matrix(bytes_, alignment); }

  std::uint8_t* bytes_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
