// SPDX-License-Identifier: Apache-2.0
/// TQ1_0: 256 ternary weights, one fp16 scale, five weights in a byte.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/ternary.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// TQ1_0: 256 weights, one fp16 scale, codes 0, 1, 2 with bias 1 as digits of base 3; 1.6875 bits
/// per weight.
///
/// Layout   codes:u8[48] | codes_rest:u8[4] | scale:f16. A byte holds up to five digits as the
///          fraction 0.d0 d1 d2 d3 d4 in base 3, times 256 and rounded up: digit n is
///          3 * (byte * 3^n mod 256) >> 8. Weights 0 .. 159: digit j / 32 of codes[j % 32];
///          160 .. 239: digit (j - 160) / 16 of codes[32 + (j - 160) % 16]; 240 .. 255: digit
///          (j - 240) / 4 of codes_rest[(j - 240) % 4], whose fifth digit is 0.
/// Value    scale * (code - 1), exact in fp32. 13 of 256 bytes are no encoder's; they decode as the
///          formula says.
/// Partner  q8_k
/// Source   GGUF tensor type 34; ggml `block_tq1_0` (qs = codes, qh = codes_rest, d = scale).
struct tq1_0 {
  static constexpr const char* name = "tq1_0";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 34;
  using partner = q8_k;

  std::uint8_t codes_packed[48];
  std::uint8_t codes_rest[4];
  half scale;

  using params = ternary::params;
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return ternary::value(code, p);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    return ternary::round<tq1_0>(weight, i, p, 2);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<tq1_0> split(const tq1_0& b) noexcept {
    unpacked<tq1_0> u{{b.scale}, {}};
    for (int run = 0; run < 3; ++run) {
      const run_of_bytes r = runs(run);
      for (int j = 0; j < r.bytes; ++j) {
        unsigned rest = byte_at(b, r.first_byte + j);
        for (int digit = 0; digit < r.digits; ++digit) {
          rest = (rest & 255U) * 3;
          u.codes[r.first_weight + digit * r.bytes + j] = static_cast<std::uint8_t>(rest >> 8);
        }
      }
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr tq1_0 join(const params& p,
                                                              const codes& c) noexcept {
    tq1_0 b{{}, {}, p.scale};
    for (int run = 0; run < 3; ++run) {
      const run_of_bytes r = runs(run);
      for (int j = 0; j < r.bytes; ++j) {
        unsigned number = 0;
        for (int digit = 0; digit < 5; ++digit) {
          number *= 3;
          if (digit < r.digits) number += c[r.first_weight + digit * r.bytes + j];
        }
        const auto byte = static_cast<std::uint8_t>((number * 256 + 242) / 243);
        const int at = r.first_byte + j;
        (at < 48 ? b.codes_packed[at] : b.codes_rest[at - 48]) = byte;
      }
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const tq1_0& b, float* __restrict out) noexcept {
    const float d = b.scale.to_float();
    for (int run = 0; run < 3; ++run) {
      const run_of_bytes r = runs(run);
      const std::uint8_t* const bytes = run < 2 ? b.codes_packed + r.first_byte : b.codes_rest;
      unsigned power = 1;
      for (int digit = 0; digit < r.digits; ++digit, power *= 3) {
        float* const to = out + r.first_weight + digit * r.bytes;
        for (int j = 0; j < r.bytes; ++j) {
          const auto code = static_cast<int>((bytes[j] * power & 255U) * 3 >> 8);
          to[j] = d * static_cast<float>(code - 1);
        }
      }
    }
  }

  /// The reference encoder's scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float*) noexcept {
    return ternary::fit<Arch>(w, block_size);
  }

  /// Byte-identical to ggml's file quantizer: the largest magnitude is the scale. Importance is not
  /// used.
  ///
  /// Numerics  an all-zero block has scale 0 and every code 1.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static tq1_0 encode_ref(const float* w, const float*,
                                                       float) noexcept {
    codes c{};
    ternary::quantize<Arch>(w, block_size, c.code);
    return join(fit<Arch>(w, nullptr), c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself.
  template <class Arch = arch::native>
  [[nodiscard]] static tq1_0 encode_best(const float* w, const float* importance,
                                         float row_mean_square, int effort) noexcept {
    const tq1_0 start = encode_ref<Arch>(w, importance, row_mean_square);
    return lower_scaled_block<tq1_0, Arch>(start, whole_levels{-1, 1, 1}, {0, 0, 0.7F, false}, w,
                                           importance, effort);
  }

 private:
  /// Bytes whose first digits are consecutive weights, then their second digits, and so on.
  struct run_of_bytes {
    int first_byte, bytes, first_weight, digits;
  };
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr run_of_bytes runs(int i) noexcept {
    return i == 0   ? run_of_bytes{0, 32, 0, 5}
           : i == 1 ? run_of_bytes{32, 16, 160, 5}
                    : run_of_bytes{48, 4, 240, 4};
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unsigned byte_at(const tq1_0& b,
                                                                    int i) noexcept {
    return i < 48 ? b.codes_packed[i] : b.codes_rest[i - 48];
  }
};
static_assert(sizeof(tq1_0) == 54 && grid_format<tq1_0> && reference_encodable<tq1_0>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
