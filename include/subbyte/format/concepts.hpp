// SPDX-License-Identifier: Apache-2.0
/// What a block format is: a trivially copyable struct that is the bytes on disk, and the few
/// scalar functions from which decode, encode, products and tests are derived.
#pragma once

#include <concepts>
#include <type_traits>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/bits.hpp"
#include "subbyte/format/scale.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The codes of one block, one unsigned code per byte, in row order.
///
/// Aligned by its type: g++ 12 at -O3 with AVX-512 otherwise vectorises a loop over a local one
/// with aligned stores and then gives it 16 bytes of alignment.
template <int N>
struct alignas(N % 64 == 0   ? 64
               : N % 32 == 0 ? 32
                             : 1) code_block {
  std::uint8_t code[N];

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr std::uint8_t& operator[](int i) noexcept {
    return code[i];
  }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const std::uint8_t& operator[](int i) const noexcept {
    return code[i];
  }
  SUBBYTE_HD_INLINE friend constexpr bool operator==(const code_block& a,
                                                     const code_block& b) noexcept {
    for (int i = 0; i < N; ++i) {
      if (a.code[i] != b.code[i]) return false;
    }
    return true;
  }
};

/// What split() returns and join() accepts: everything a block stores.
template <class F>
struct unpacked {
  typename F::params params;
  typename F::codes codes;
};

/// A struct that is `block_size` consecutive weights of a row as stored bytes.
template <class F>
concept block_storage =
    std::is_trivially_copyable_v<F> && std::is_standard_layout_v<F> && requires {
  { F::name } -> std::convertible_to<const char*>;
  requires F::block_size >
  0;
};

/// A block format with one small unsigned code per weight.
///
/// Laws, checked for every format of the registry by tests/format/conformance.cpp:
/// L1  join(split(b)) == b for every block an encoder makes; for any bytes decode(join(split(b)))
///     equals decode(b).
/// L2  decode(b)[i] == value(codes[i], i, params), bit for bit.
/// L3  fit returns storable params: split(join(p, c)).params == p.
/// L4  round is nearest: no code gives a smaller |v - value|; ties go to the lower code.
/// L5  encode(x) == join(fit(x), round(x)) unless the format declares encode_ref.
template <class F>
concept grid_format = block_storage<F> &&
    requires(const F& b, const typename F::params& p, const typename F::codes& c, const float* x,
             float v, int i) {
  { F::split(b) }
  noexcept->std::same_as<unpacked<F>>;
  { F::join(p, c) }
  noexcept->std::same_as<F>;
  { F::value(i, i, p) }
  noexcept->std::same_as<float>;  // code, position, params
  { F::round(v, i, p) }
  noexcept->std::same_as<int>;  // weight -> nearest code
  { F::fit(x, x) }
  noexcept->std::same_as<typename F::params>;  // weights, importance|null
};

/// A block format without a code per weight: floats, vector codebooks.
template <class F>
concept opaque_format = block_storage<F> && !grid_format<F> && requires(const F& b, float* out) {
  { F::decode(b, out) }
  noexcept;
};

template <class F>
concept block_format = grid_format<F> || opaque_format<F>;

/// A format whose rows begin with a scale, F::row_scale: the weights of a block follow from the
/// block and the scale of its row. It is no block_format, for a block alone has no values; matrices
/// of it are row_scaled_matrix.
///
/// decode(block, scale, out) writes block_size weights. Blocks follow the scale without a gap.
template <class F>
concept row_scaled_format = block_storage<F> && scale_store<typename F::row_scale> &&
                                    sizeof(typename F::row_scale) %
                                    alignof(F) ==
                                0 &&
                            requires(const F& b, const typename F::row_scale& s, float* out) {
  { F::decode(b, s, out) }
  noexcept;
};

/// A row-scaled format with one small unsigned code per weight; its params hold the row's scale.
///
/// Laws L1 to L4 of grid_format hold with the row's scale beside the block; checked by
/// tests/format/row_scaled.cpp.
template <class F>
concept row_scaled_grid_format = row_scaled_format<F> &&
    requires(const F& b, const typename F::row_scale& s, const typename F::params& p,
             const typename F::codes& c, const float* x, float v, int i) {
  { F::split(b, s) }
  noexcept->std::same_as<unpacked<F>>;
  { F::join(p, c) }
  noexcept->std::same_as<F>;
  { F::value(i, i, p) }
  noexcept->std::same_as<float>;
  { F::round(v, i, p) }
  noexcept->std::same_as<int>;
  { F::fit(x, x, s) }
  noexcept->std::same_as<typename F::params>;
};

/// A format with a normative encoder, byte-identical to the tool that defined the format.
///
/// encode_ref<Arch>(w, importance, row_mean_square): block_size weights; their importance or null;
/// the mean of w^2 over the whole row, which some encoders want when importance is given.
template <class F>
concept reference_encodable = block_storage<F> && requires(const float* x, float v) {
  { F::template encode_ref<arch::scalar>(x, x, v) }
  noexcept->std::same_as<F>;
};

/// A format whose normative encoder searches in tables: a default-constructed `encoder<Arch>` holds
/// them and makes blocks, encoder(w, importance, row_mean_square), from any threads. Constructing
/// one takes milliseconds and may throw out_of_memory.
template <class F>
concept table_encodable = block_storage<F> && requires {
  typename F::template encoder<arch::scalar>;
};

/// A format with a search for blocks of a lower error than its normative encoder's.
///
/// encode_best<Arch>(w, importance, row_mean_square, effort), or of a table_encodable format
/// encoder<Arch>::best with the same arguments: the first three as encode_ref's, effort from 1 (the
/// least time) to 3. Law, checked by tests/quantize/best.cpp: the sum of importance * (w -
/// w_hat)^2, every importance 1 where none is given, is never above that of encode_ref's block.
template <class F>
concept best_encodable = block_storage<F> &&(
    requires(const float* x, float v, int effort) {
      { F::template encode_best<arch::scalar>(x, x, v, effort) }
      noexcept->std::same_as<F>;
    } ||
    requires(const typename F::template encoder<arch::scalar>& tables, const float* x, float v,
             int effort) {
      { tables.best(x, x, v, effort) }
      noexcept->std::same_as<F>;
    });

/// A format that files name by a GGUF tensor type id.
template <class F>
concept gguf_format = (block_format<F> || row_scaled_format<F>)&&requires {
  { F::gguf_type } -> std::convertible_to<std::uint32_t>;
};

template <block_storage F>
inline constexpr index_t block_bytes = static_cast<index_t>(sizeof(F));
/// Of a row_scaled_format those of the blocks; the scales of the rows come on top.
template <block_storage F>
inline constexpr double bits_per_weight = 8.0 * sizeof(F) / F::block_size;

/// block_size weights of one block as floats.
///
/// Numerics  exact for fp16-scaled formats up to the one rounding of an addition; the same bits on
///           every compiler, arch and flag (docs/numerics.md).
template <block_format F>
SUBBYTE_HD_INLINE constexpr void decode(const F& block, float* out) noexcept {
  if constexpr (requires { F::decode(block, out); }) {
    F::decode(block, out);
  } else {
    const unpacked<F> u = F::split(block);
    for (int i = 0; i < F::block_size; ++i) out[i] = F::value(u.codes[i], i, u.params);
  }
}

/// decode() as a function object.
struct portable_decode {
  template <block_format F>
  SUBBYTE_INLINE void operator()(const F& block, float* out) const noexcept {
    decode(block, out);
  }
  template <row_scaled_format F>
  SUBBYTE_INLINE void operator()(const F& block, const typename F::row_scale& scale,
                                 float* out) const noexcept {
    F::decode(block, scale, out);
  }
};

/// One block from block_size floats: the format's encode_ref, else nearest codes to fitted params.
template <block_format F, class Arch>
requires(!table_encodable<F>) [[nodiscard]] SUBBYTE_INLINE F
    encode(const float* weights, const float* importance, float row_mean_square) noexcept {
  if constexpr (reference_encodable<F>) {
    return F::template encode_ref<Arch>(weights, importance, row_mean_square);
  } else {
    static_assert(grid_format<F>, "an opaque format needs an encode_ref");
    const typename F::params p = F::fit(weights, importance);
    typename F::codes c{};
    for (int i = 0; i < F::block_size; ++i) {
      c[i] = static_cast<std::uint8_t>(F::round(weights[i], i, p));
    }
    return F::join(p, c);
  }
}

/// `count` consecutive blocks, as encode() makes each; a format whose search fills its SIMD lanes
/// from several blocks takes encode_ref_batch of them at a time.
///
/// Shapes    weights [count * block_size]; importance the same or null; out [count].
template <block_format F, class Arch>
requires(!table_encodable<F>) SUBBYTE_INLINE
    void encode_blocks(const float* weights, const float* importance, float row_mean_square,
                       index_t count, F* out) noexcept {
  index_t step = 1;
  if constexpr (requires { F::encode_ref_batch; }) step = F::encode_ref_batch;
  for (index_t b = 0; b < count; b += step) {
    const float* w = weights + b * F::block_size;
    const float* v = importance != nullptr ? importance + b * F::block_size : nullptr;
    if constexpr (requires { F::encode_ref_batch; }) {
      const index_t left = count - b < step ? count - b : step;
      F::template encode_ref_blocks<Arch>(w, v, row_mean_square, static_cast<int>(left), out + b);
    } else {
      out[b] = encode<F, Arch>(w, v, row_mean_square);
    }
  }
}

/// Makes blocks of any format, one after the other, as its normative encoder does.
///
/// Cost    constructing one: nothing, or the tables of a table_encodable format.
/// Throws  the constructor out_of_memory.
template <class F, class Arch>
class block_encoder {
 public:
  /// Shapes  weights [count * block_size]; importance the same or null; out [count].
  SUBBYTE_INLINE void operator()(const float* weights, const float* importance,
                                 float row_mean_square, index_t count, F* out) const noexcept {
    encode_blocks<F, Arch>(weights, importance, row_mean_square, count, out);
  }
};
template <table_encodable F, class Arch>
class block_encoder<F, Arch> {
 public:
  SUBBYTE_INLINE void operator()(const float* weights, const float* importance,
                                 float row_mean_square, index_t count, F* out) const noexcept {
    for (index_t b = 0; b < count; ++b) {
      const index_t at = b * F::block_size;
      out[b] = encoder_(weights + at, importance != nullptr ? importance + at : nullptr,
                        row_mean_square);
    }
  }

 private:
  typename F::template encoder<Arch> encoder_;
};

/// The code whose value is nearest to `v`, given a guess at most one away from it; for grids whose
/// values are monotone in the code. Ties go to the lowest code, also between equal values.
///
/// Numerics  exact: distances are compared through the sum of two values, which double holds, not
///           through differences, which vanish when `v` is far outside the grid. NaN, as `v` or as
///           a value, loses no comparison: the result is then some code in [0, last_code].
template <class F>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int nearest_beside(int guess, float v, int i,
                                                             const typename F::params& p,
                                                             int last_code) noexcept {
  const double twice = 2.0 * static_cast<double>(v);
  int best = guess > 0 ? guess - 1 : 0;
  const int last = guess < last_code ? guess + 1 : last_code;
  double best_value = static_cast<double>(F::value(best, i, p));
  for (int code = best + 1; code <= last; ++code) {
    const double candidate = static_cast<double>(F::value(code, i, p));
    const double sum = best_value + candidate;
    if (candidate > best_value ? twice > sum : (candidate < best_value && twice < sum)) {
      best = code;
      best_value = candidate;
    }
  }
  while (best > 0 && static_cast<double>(F::value(best - 1, i, p)) == best_value) --best;
  return best;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
