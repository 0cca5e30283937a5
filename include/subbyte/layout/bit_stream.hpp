// SPDX-License-Identifier: Apache-2.0
/// Codes of 1 to 8 bits, one after the other from the least significant bit on: eight at a time.
#pragma once

#include "subbyte/core/bits.hpp"
#include "subbyte/layout/concepts.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// The low `width` bits of each of the 64 / lane lanes.
[[nodiscard]] SUBBYTE_HD_INLINE constexpr std::uint64_t lane_mask(int lane, int width) noexcept {
  const std::uint64_t one = width == 64 ? ~std::uint64_t{0} : (std::uint64_t{1} << width) - 1;
  std::uint64_t mask = 0;
  for (int at = 0; at < 64; at += lane) mask |= one << at;
  return mask;
}

/// Lanes of 2 * Lane bits that hold two numbers of `Width` bits each, at 0 and at Lane: both next
/// to each other, from 0 on.
template <int Lane, int Width>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr std::uint64_t close_lanes(std::uint64_t x) noexcept {
  constexpr std::uint64_t low = lane_mask(2 * Lane, Width);
  return (x & low) | (x >> (Lane - Width) & low << Width);
}

/// The inverse of close_lanes.
template <int Lane, int Width>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr std::uint64_t open_lanes(std::uint64_t x) noexcept {
  constexpr std::uint64_t low = lane_mask(2 * Lane, Width);
  return (x & low) | (x & low << Width) << (Lane - Width);
}

/// Eight codes, one per byte, as 8 * Bits bits; the code of the lowest byte comes lowest.
/// Requires  every byte below 2^Bits.
template <int Bits>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr std::uint64_t join_codes(std::uint64_t codes) noexcept {
  if constexpr (Bits == 8) return codes;
  return close_lanes<32, 4 * Bits>(close_lanes<16, 2 * Bits>(close_lanes<8, Bits>(codes)));
}

/// The inverse of join_codes.
/// Numerics  bits above the low 8 * Bits are ignored.
template <int Bits>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr std::uint64_t split_codes(std::uint64_t joined) noexcept {
  if constexpr (Bits == 8) return joined;
  return open_lanes<8, Bits>(open_lanes<16, 2 * Bits>(open_lanes<32, 4 * Bits>(joined)));
}

/// codes[0 .. n) as a bit stream of ceil(n * Bits / 8) bytes; the last byte is filled with zeros.
/// Requires  every code below 2^Bits.
template <int Bits, class Arch>
void pack_stream(const std::uint8_t* codes, index_t n, std::uint8_t* out) noexcept {
  if constexpr (Bits == 8) {
    if (n > 0) __builtin_memcpy(out, codes, static_cast<std::size_t>(n));
  } else {
    index_t i = 0;
    for (; i + 8 <= n; i += 8) {
      std::uint64_t eight;
      __builtin_memcpy(&eight, codes + i, 8);
      eight = join_codes<Bits>(eight);
      __builtin_memcpy(out + i / 8 * Bits, &eight, Bits);
    }
    if (i < n) {
      std::uint64_t rest = 0;
      for (index_t j = i; j < n; ++j) rest |= static_cast<std::uint64_t>(codes[j]) << (8 * (j - i));
      rest = join_codes<Bits>(rest);
      const index_t bytes = ceil_div((n - i) * Bits, 8);
      for (index_t b = 0; b < bytes; ++b) {
        out[i / 8 * Bits + b] = static_cast<std::uint8_t>(rest >> (8 * b));
      }
    }
  }
}

/// The inverse of pack_stream.
template <int Bits, class Arch>
void unpack_stream(const std::uint8_t* in, index_t n, std::uint8_t* codes) noexcept {
  if constexpr (Bits == 8) {
    if (n > 0) __builtin_memcpy(codes, in, static_cast<std::size_t>(n));
  } else {
    index_t i = 0;
    // Whole words as long as they lie inside the stream: a load of 3, 5, 6 or 7 bytes is slow.
    if constexpr ((Bits & (Bits - 1)) != 0) {
      for (; i / 8 * Bits + 8 <= n * Bits / 8 && i + 8 <= n; i += 8) {
        std::uint64_t eight;
        __builtin_memcpy(&eight, in + i / 8 * Bits, 8);
        eight = split_codes<Bits>(eight);
        __builtin_memcpy(codes + i, &eight, 8);
      }
    }
    for (; i + 8 <= n; i += 8) {
      std::uint64_t eight = 0;
      __builtin_memcpy(&eight, in + i / 8 * Bits, Bits);
      eight = split_codes<Bits>(eight);
      __builtin_memcpy(codes + i, &eight, 8);
    }
    if (i < n) {
      std::uint64_t rest = 0;
      const index_t bytes = ceil_div((n - i) * Bits, 8);
      for (index_t b = 0; b < bytes; ++b) {
        rest |= static_cast<std::uint64_t>(in[i / 8 * Bits + b]) << (8 * b);
      }
      rest = split_codes<Bits>(rest);
      for (index_t j = i; j < n; ++j) codes[j] = static_cast<std::uint8_t>(rest >> (8 * (j - i)));
    }
  }
}

/// What layouts of matrices of any shape have in common.
template <int Bits, index_t SharedRows>
struct any_shape {
  static_assert(Bits >= 1 && Bits <= 8);
  static constexpr const char* requirement = "nothing";
  static constexpr int code_bits = Bits;
  static constexpr index_t shared_rows = SharedRows;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool accepts(const matrix_shape&) noexcept {
    return true;
  }
};

/// Every row one bit stream along k, filled with zeros to a multiple of Unit bytes.
template <int Bits, index_t Unit>
struct row_streams : any_shape<Bits, 1> {
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bytes(const matrix_shape& s) noexcept {
    return s.rows * row_bytes(s);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t bit_offset(const matrix_shape& s,
                                                                      index_t r, index_t k,
                                                                      int bit) noexcept {
    return r * row_bytes(s) * 8 + k * Bits + bit;
  }

  template <class Arch>
  static void pack_rows(const matrix_shape& s, const std::uint8_t* codes, index_t begin,
                        index_t end, std::uint8_t* out) noexcept {
    const index_t used = ceil_div(s.cols * Bits, 8);
    for (index_t r = begin; r < end; ++r) {
      std::uint8_t* const row = out + r * row_bytes(s);
      pack_stream<Bits, Arch>(codes + r * s.cols, s.cols, row);
      for (index_t b = used; b < row_bytes(s); ++b) row[b] = 0;
    }
  }
  template <class Arch>
  static void unpack_rows(const matrix_shape& s, const std::uint8_t* in, index_t begin, index_t end,
                          std::uint8_t* codes) noexcept {
    for (index_t r = begin; r < end; ++r) {
      unpack_stream<Bits, Arch>(in + r * row_bytes(s), s.cols, codes + r * s.cols);
    }
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t row_bytes(
      const matrix_shape& s) noexcept {
    return ceil_div(s.cols * Bits, 8 * Unit) * Unit;
  }
};

/// Rows and word columns of the tiles that go through the stack, where rows of codes become columns
/// of words: a cache line of the output at a time, and few enough pages.
inline constexpr index_t packed_tile_rows = 64;
inline constexpr index_t tile_words = 32;

/// from [rows, words] (row pitch tile_words) -> words of 32 bits [words, rows] (row pitch `pitch`).
template <class Arch>
void store_tile(const std::uint32_t* from, index_t rows, index_t words, std::uint8_t* to,
                index_t pitch) noexcept {
  for (index_t w = 0; w < words; ++w) {
    std::uint8_t* const line = to + 4 * w * pitch;
    for (index_t r = 0; r < rows; ++r) __builtin_memcpy(line + 4 * r, from + r * tile_words + w, 4);
  }
}

/// The inverse of store_tile.
template <class Arch>
void load_tile(const std::uint8_t* from, index_t pitch, index_t rows, index_t words,
               std::uint32_t* to) noexcept {
  for (index_t w = 0; w < words; ++w) {
    const std::uint8_t* const line = from + 4 * w * pitch;
    for (index_t r = 0; r < rows; ++r) __builtin_memcpy(to + r * tile_words + w, line + 4 * r, 4);
  }
}

}  // namespace detail

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
