// SPDX-License-Identifier: Apache-2.0
/// IQ4_KSS: the weights of IQ4_KS, whose group scales hide in the parities of four codes each.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "subbyte/fwd.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// IQ4_KSS: as iq4_ks, in 4 bits per weight and 4 bytes per row. Of the 16 bits of four codes 15
/// are free: an even number of them is set. The sixteenth is a bit of the group's scale.
///
/// Layout   row: scale:f32 | blocks. Block: words:u16[64], little-endian, 8 for each group of 32
///          weights. Bit 0 of word k is bit k of the group's scale byte, as pack_odd_scales makes
///          it. The word without that bit, exclusive-or itself shifted right by one, has in its
///          nibbles, low to high, the codes of weights 2k, 2k + 16, 2k + 1, 2k + 17 of the group.
/// Value    that of iq4_ks.
/// Source   GGUF tensor type 146 of ik_llama.cpp; its `block_iq4_kss`.
struct iq4_kss {
  static constexpr const char* name = "iq4_kss";
  static constexpr int block_size = 256;
  static constexpr int group_size = 32;
  static constexpr int groups = block_size / group_size;
  static constexpr scale_levels levels{-127, 2, 128};
  static constexpr std::uint32_t gguf_type = 146;
  using row_scale = f32_scale;
  using codebook = iq4_shifted;

  std::uint8_t words[128];

  using params = shifted_params<row_scale, 8>;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return shifted_value<iq4_kss>(code, i, p);
  }

  /// The nearest code, as if it were free.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return shifted_round<iq4_kss>(weight, i, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq4_kss> split(
      const iq4_kss& b, const row_scale& scale) noexcept {
    unpacked<iq4_kss> u{{scale, {}, 0}, {}};
    std::uint8_t scales[groups] = {};
    for (int g = 0; g < groups; ++g) {
      for (int k = 0; k < 8; ++k) {
        const int word = load_le<std::uint16_t>(b.words + 16 * g + 2 * k);
        scales[g] = static_cast<std::uint8_t>(scales[g] | (word & 1) << k);
        const int even = word & 0xFFFE;
        const int own = even ^ even >> 1;
        for (int j = 0; j < 4; ++j) {
          u.codes[position(g, k, j)] = static_cast<std::uint8_t>(own >> (4 * j) & 15);
        }
      }
    }
    unpack_odd_scales(scales, u.params);
    return u;
  }

  /// The block of codes that have an even number of bits set in every four: it undoes split for
  /// them, and for no others. Hence no join().
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq4_kss join_even(const params& p,
                                                                     const codes& c) noexcept {
    iq4_kss b{};
    std::uint8_t scales[groups] = {};
    pack_odd_scales(p, scales);
    for (int g = 0; g < groups; ++g) {
      for (int k = 0; k < 8; ++k) {
        int word = four(c, g, k);
        // Undoes word ^ word >> 1: bit i is the parity of bits i and up.
        word ^= word >> 1;
        word ^= word >> 2;
        word ^= word >> 4;
        word ^= word >> 8;
        word = (word & 0xFFFE) | (scales[g] >> k & 1);
        store_le(b.words + 16 * g + 2 * k, static_cast<std::uint16_t>(word));
      }
    }
    return b;
  }

  /// The same values as value().
  SUBBYTE_HD_INLINE static constexpr void decode(const iq4_kss& b, const row_scale& scale,
                                                 float* __restrict out) noexcept {
    shifted_decode(split(b, scale), out);
  }

  /// A search of this library's own (fit_shifted), not the format's tool's, as if codes were free.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance,
                                                 const row_scale& scale) noexcept {
    return fit_shifted<iq4_kss, Arch>(w, importance, scale);
  }

  /// Nearest codes; where four of them have an odd number of bits set, the one moves to its
  /// next-best whose move costs the least weighted squared error.
  template <class Arch>
  [[nodiscard]] static iq4_kss encode(const float* w, const float* weight,
                                      const params& p) noexcept {
    codes c{};
    for (int i = 0; i < block_size; ++i) c[i] = static_cast<std::uint8_t>(round(w[i], i, p));
    for (int g = 0; g < groups; ++g) {
      for (int k = 0; k < 8; ++k) {
        if (!odd(four(c, g, k))) continue;
        int moved = position(g, k, 0);
        int target = c[moved] ^ 1;
        float least = 3.40282347e+38F;
        for (int j = 0; j < 4; ++j) {
          const int i = position(g, k, j);
          const float nearest = w[i] - value(c[i], i, p);
          for (int code = 0; code < 16; ++code) {
            if (!odd(code ^ c[i])) continue;
            const float other = w[i] - value(code, i, p);
            const float cost = weight[i] * (unfused(other * other) - unfused(nearest * nearest));
            if (cost < least) {
              least = cost;
              moved = i;
              target = code;
            }
          }
        }
        c[moved] = static_cast<std::uint8_t>(target);
      }
    }
    return join_even(p, c);
  }

 private:
  // The weight whose code is nibble j of word k of group g.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int position(int g, int k, int j) noexcept {
    return 32 * g + 2 * k + j / 2 + 16 * (j % 2);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int four(const codes& c, int g, int k) noexcept {
    int word = 0;
    for (int j = 0; j < 4; ++j) word |= (c[position(g, k, j)] & 15) << (4 * j);
    return word;
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr bool odd(int word) noexcept {
    word ^= word >> 8;
    word ^= word >> 4;
    word ^= word >> 2;
    word ^= word >> 1;
    return (word & 1) != 0;
  }
};
static_assert(sizeof(iq4_kss) == 128 && row_scaled_format<iq4_kss> &&
              !row_scaled_grid_format<iq4_kss>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
