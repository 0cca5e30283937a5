// SPDX-License-Identifier: Apache-2.0
/// A quantized matrix stored as rows of blocks: a view of bytes that live elsewhere, and an owner.
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

/// W [rows, cols], blocks along the columns, rows dense one after another; read only, never owns.
///
/// cols need not be a multiple of F::block_size: the last block of a row is then padded, and the
/// padding is never multiplied nor decoded.
template <class F>
class block_matrix_view {
 public:
  using format = F;

  SUBBYTE_INLINE constexpr block_matrix_view() noexcept = default;
  SUBBYTE_HD_INLINE constexpr block_matrix_view(const F* blocks, index_t rows,
                                                index_t cols) noexcept
      : blocks_(blocks), rows_(rows), cols_(cols) {
    SUBBYTE_EXPECTS(rows >= 0 && cols >= 0);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t cols() const noexcept { return cols_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t blocks_per_row() const noexcept {
    return ceil_div(cols_, F::block_size);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const F* data() const noexcept { return blocks_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t size_bytes() const noexcept {
    return rows_ * blocks_per_row() * static_cast<index_t>(sizeof(F));
  }
  /// The blocks_per_row() blocks of row r.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const F* row(index_t r) const noexcept {
    SUBBYTE_EXPECTS(r >= 0 && r < rows_);
    return blocks_ + r * blocks_per_row();
  }
  /// Rows [first, first + count) as a matrix of their own.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr block_matrix_view row_range(
      index_t first, index_t count) const noexcept {
    SUBBYTE_EXPECTS(first >= 0 && count >= 0 && first + count <= rows_);
    return {blocks_ + first * blocks_per_row(), count, cols_};
  }

  /// Weights [k0, k0 + count) of row r into out[0, count). decode_block(block, float*) gives the
  /// bits of decode(); the kernels have their own.
  ///
  /// Cost  whole blocks decode straight into `out`; a cut block goes through a copy on the stack.
  template <class Arch = arch::native, class DecodeBlock = portable_decode>
  void decode_row(index_t r, index_t k0, index_t count, float* out,
                  DecodeBlock decode_block = {}) const noexcept {
    SUBBYTE_EXPECTS(k0 >= 0 && count >= 0 && k0 + count <= cols_);
    constexpr index_t block = F::block_size;
    const F* source = row(r) + k0 / block;
    index_t skip = k0 % block;
    while (count > 0) {
      if (skip == 0 && count >= block) {
        decode_block(*source, out);
        out += block;
        count -= block;
      } else {
        float whole[static_cast<std::size_t>(block)];
        decode_block(*source, whole);
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
  const F* blocks_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

namespace detail {

// block_matrix<F>::params, where F has any.
template <class F>
struct params_of {};
template <class F>
requires requires { typename F::params; }
struct params_of<F> {
  using params = typename F::params;
};

}  // namespace detail

/// Owns the blocks of a [rows, cols] matrix, zero-filled at first; move-only. A quant_target where
/// F is a grid_format.
///
/// Throws  bad_shape for negative extents or a size beyond the address space, out_of_memory.
template <class F, class Arch>
class block_matrix : public detail::params_of<F> {
 public:
  using format = F;

  SUBBYTE_INLINE block_matrix() noexcept {}
  SUBBYTE_INLINE block_matrix(index_t rows, index_t cols) : rows_(rows), cols_(cols) {
    blocks_ = reinterpret_cast<F*>(
        detail::allocate_matrix<Arch>(F::name, rows, cols, checked_bytes(rows, cols), alignment));
  }
  SUBBYTE_INLINE block_matrix(block_matrix&& other) noexcept
      : blocks_(std::exchange(other.blocks_, nullptr)),
        rows_(std::exchange(other.rows_, 0)),
        cols_(std::exchange(other.cols_, 0)) {}
  SUBBYTE_INLINE block_matrix& operator=(block_matrix&& other) noexcept {
    if (this != &other) {
      release();
      blocks_ = std::exchange(other.blocks_, nullptr);
      rows_ = std::exchange(other.rows_, 0);
      cols_ = std::exchange(other.cols_, 0);
    }
    return *this;
  }
  block_matrix(const block_matrix&) = delete;
  block_matrix& operator=(const block_matrix&) = delete;
  SUBBYTE_INLINE ~block_matrix() { release(); }

  [[nodiscard]] SUBBYTE_INLINE block_matrix clone() const {
    block_matrix copy(rows_, cols_);
    if (blocks_ != nullptr) {
      std::memcpy(static_cast<void*>(copy.blocks_), blocks_,
                  static_cast<std::size_t>(view().size_bytes()));
    }
    return copy;
  }

  [[nodiscard]] SUBBYTE_INLINE block_matrix_view<F> view() const& noexcept {
    return {blocks_, rows_, cols_};
  }
  block_matrix_view<F> view() const&& = delete;

  [[nodiscard]] SUBBYTE_INLINE index_t rows() const noexcept { return rows_; }
  [[nodiscard]] SUBBYTE_INLINE index_t cols() const noexcept { return cols_; }
  /// A block is a group of a quant_target.
  [[nodiscard]] SUBBYTE_INLINE index_t group_size() const noexcept { return F::block_size; }
  /// F's params for n weights; a short group is padded with zeros of importance zero.
  template <class FitArch>
  [[nodiscard]] static auto fit(const float* w, const float* importance,
                                index_t n) noexcept requires grid_format<F> {
    SUBBYTE_EXPECTS(n > 0 && n <= F::block_size);
    if (n == F::block_size) return fit_block<FitArch>(w, importance);
    float weights[static_cast<std::size_t>(F::block_size)] = {};
    float weighing[static_cast<std::size_t>(F::block_size)] = {};
    for (index_t i = 0; i < n; ++i) {
      weights[i] = w[i];
      weighing[i] = importance != nullptr ? importance[i] : 0.0F;
    }
    return fit_block<FitArch>(weights, importance != nullptr ? weighing : nullptr);
  }
  template <class Params>
  [[nodiscard]] SUBBYTE_INLINE static int round(float v, index_t i,
                                                const Params& p) noexcept requires grid_format<F> {
    return F::round(v, static_cast<int>(i), p);
  }
  template <class Params>
  [[nodiscard]] SUBBYTE_INLINE static float value(
      int code, index_t i, const Params& p) noexcept requires grid_format<F> {
    return F::value(code, static_cast<int>(i), p);
  }
  /// Block `group` of row r from n codes; a short block's padding gets what zeros round to.
  template <class Params>
  SUBBYTE_INLINE void store(index_t r, index_t group, const Params& p, const std::uint8_t* codes,
                            index_t n) noexcept requires grid_format<F> {
    typename F::codes block{};
    for (index_t i = 0; i < F::block_size; ++i) {
      const auto at = static_cast<int>(i);
      block[at] = i < n ? codes[i] : static_cast<std::uint8_t>(F::round(0.0F, at, p));
    }
    row(r)[group] = F::join(p, block);
  }

  /// The blocks of row r, for an encoder to fill.
  [[nodiscard]] SUBBYTE_INLINE F* row(index_t r) noexcept {
    SUBBYTE_EXPECTS(r >= 0 && r < rows_);
    return blocks_ + r * ceil_div(cols_, F::block_size);
  }

 private:
  template <class FitArch>
  [[nodiscard]] SUBBYTE_INLINE static auto fit_block(const float* w,
                                                     const float* importance) noexcept {
    if constexpr (requires { F::template fit<FitArch>(w, importance); }) {
      return F::template fit<FitArch>(w, importance);
    } else {
      return F::fit(w, importance);
    }
  }

  static constexpr std::size_t alignment = alignof(F) > 64 ? alignof(F) : 64;

  SUBBYTE_INLINE static std::size_t checked_bytes(index_t rows, index_t cols) {
    if (rows < 0 || cols < 0) {
      detail::reject_matrix<Arch>(F::name, rows, cols, "extents must not be negative");
    }
    const index_t row_blocks = ceil_div(cols, F::block_size);
    const index_t limit = std::numeric_limits<index_t>::max() / static_cast<index_t>(sizeof(F));
    if (row_blocks != 0 && rows > limit / row_blocks) {
      detail::reject_matrix<Arch>(F::name, rows, cols, "the size in bytes does not fit 63 bits");
    }
    return static_cast<std::size_t>(rows * row_blocks) * sizeof(F);
  }
  SUBBYTE_INLINE void release() noexcept { detail::release_matrix(blocks_, alignment); }

  F* blocks_ = nullptr;
  index_t rows_ = 0;
  index_t cols_ = 0;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
