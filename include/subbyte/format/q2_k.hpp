// SPDX-License-Identifier: Apache-2.0
/// Q2_K: 256 weights as 16 groups of 16; 4-bit scales and minimums under fp16 factors, 2-bit codes.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/format/superblock_search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q2_K: 256 weights as 16 groups of 16; 4-bit scales and minimums under fp16 factors, 2-bit codes;
/// 2.625 bits per weight.
///
/// Layout   offset 0 scales_packed:u8[16] | 16 codes_packed:u8[64] | 80 scale:f16 | 82 minimum:f16.
///          scales_packed[g]: low nibble the scale of group g, high nibble its minimum. Byte l of
///          half h of codes_packed (32 h + l, l < 32): bits 2r, 2r + 1 are weight 128 h + 32 r + l.
/// Value    scale * scales[g] * code - minimum * minimums[g], g = i / 16: products exact in
///          fp32, one rounding in the subtraction.
/// Partner  q8_k
/// Zero row all bytes 0.
/// Source   GGUF tensor type 10; ggml `block_q2_K` (scales, qs = the packed arrays; d, dmin =
/// scale,
///          minimum).
struct q2_k {
  static constexpr const char* name = "q2_k";
  static constexpr int block_size = 256;
  static constexpr std::uint32_t gguf_type = 10;
  using partner = q8_k;

  std::uint8_t scales_packed[16];
  std::uint8_t codes_packed[64];
  half scale;
  half minimum;

  struct params {
    half scale;
    half minimum;
    std::uint8_t scales[16];    ///< 0 .. 15
    std::uint8_t minimums[16];  ///< 0 .. 15

    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      for (int g = 0; g < 16; ++g) {
        if (a.scales[g] != b.scales[g] || a.minimums[g] != b.minimums[g]) return false;
      }
      return a.scale == b.scale && a.minimum == b.minimum;
    }
  };
  using codes = code_block<256>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    return step(i / 16, p) * static_cast<float>(code) - offset(i / 16, p);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = step(i / 16, p);
    const float m = offset(i / 16, p);
    const int guess = d != 0 ? clamp(trunc_to_int((weight + m) / d + 0.5F), 0, 3) : 0;
    return nearest_beside<q2_k>(guess, weight, i, p, 3);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q2_k> split(const q2_k& b) noexcept {
    unpacked<q2_k> u{unpack_params(b), {}};
    for (int h = 0; h < 2; ++h) {
      for (int r = 0; r < 4; ++r) {
        for (int l = 0; l < 32; ++l) {
          u.codes[128 * h + 32 * r + l] =
              static_cast<std::uint8_t>(b.codes_packed[32 * h + l] >> (2 * r) & 3);
        }
      }
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q2_k join(const params& p,
                                                             const codes& c) noexcept {
    q2_k b{{}, {}, p.scale, p.minimum};
    for (int g = 0; g < 16; ++g) {
      b.scales_packed[g] = static_cast<std::uint8_t>(p.scales[g] | p.minimums[g] << 4);
    }
    for (int h = 0; h < 2; ++h) {
      for (int l = 0; l < 32; ++l) {
        const int first = 128 * h + l;
        b.codes_packed[32 * h + l] = static_cast<std::uint8_t>(
            c[first] | c[first + 32] << 2 | c[first + 64] << 4 | c[first + 96] << 6);
      }
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise: they unroll a loop of 16 into
  /// scalar code, so two groups go in one loop, and with one choice between them. All products are
  /// exact and no factor but the fp16 ones has a sign, so their order does not show.
  SUBBYTE_HD_INLINE static constexpr void decode(const q2_k& b, float* __restrict out) noexcept {
    const unpacked<q2_k> u = split(b);
    const float scale = b.scale.to_float();
    const float minimum = b.minimum.to_float();
    for (int g = 0; g < 16; g += 2) {
      const int first = b.scales_packed[g];
      const int second = b.scales_packed[g + 1];
      for (int l = 0; l < 32; ++l) {
        const int pair = l < 16 ? first : second;
        const float level = static_cast<float>((pair & 15) * u.codes[16 * g + l]);
        out[16 * g + l] = scale * level - minimum * static_cast<float>(pair >> 4);
      }
    }
  }

  /// The reference encoder's params.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    codes c{};
    return search<Arch>(w, importance, c);
  }

  /// Byte-identical to ggml's file quantizer. Without importance: least weighted absolute error
  /// under weights |x|, the largest scale and minimum become 15. With importance: weights
  /// importance * sqrt(block mean square + x^2), the scales and minimums are searched under the
  /// groups' total weights. Codes are then rounded anew with the stored params, except where a
  /// group's scale is stored as 0.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q2_k encode_ref(const float* w, const float* importance,
                                                      float) noexcept {
    codes c{};
    const params p = search<Arch>(w, importance, c);
    return join(p, c);
  }

  /// Never a larger error than encode_ref's block; see lower_affine_superblock.
  template <class Arch = arch::native>
  [[nodiscard]] static q2_k encode_best(const float* w, const float* importance, float mean_square,
                                        int effort) noexcept {
    const q2_k start = encode_ref<Arch>(w, importance, mean_square);
    const descents plan =
        effort == 1 ? descents{1, 2} : (effort == 2 ? descents{3, 4} : descents{9, 8});
    return lower_affine_superblock<q2_k, Arch, 16>(start, 3, 15, w, importance, plan);
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float step(int g, const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(p.scales[g]);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float offset(int g, const params& p) noexcept {
    return p.minimum.to_float() * static_cast<float>(p.minimums[g]);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr params unpack_params(const q2_k& b) noexcept {
    params p{b.scale, b.minimum, {}, {}};
    for (int g = 0; g < 16; ++g) {
      p.scales[g] = static_cast<std::uint8_t>(b.scales_packed[g] & 15);
      p.minimums[g] = static_cast<std::uint8_t>(b.scales_packed[g] >> 4);
    }
    return p;
  }

  template <class Arch>
  [[nodiscard]] static params search(const float* w, const float* importance, codes& c) noexcept {
    float totals[16] = {};
    float weight[256];
    if (importance != nullptr) {
      energy_weights<Arch>(256, w, importance, mean_square<Arch>(w, 256), weight);
      for (int g = 0; g < 16; ++g) {
        for (int i = 16 * g; i < 16 * g + 16; ++i) totals[g] += weight[i];
      }
    } else {
      for (int i = 0; i < 256; ++i) weight[i] = magnitude(w[i]);
    }
    const affine_candidates candidates = importance != nullptr
                                             ? affine_candidates{-0.9F, 0.05F, 36, false}
                                             : affine_candidates{-0.5F, 0.1F, 15, true};
    affine_scale found[16];
    search_affine<Arch, 16>(3, w, weight, candidates, c.code, found);
    float scales[16];
    float minimums[16];
    for (int g = 0; g < 16; ++g) {
      scales[g] = found[g].scale;
      minimums[g] = found[g].minimum;
    }

    params p{};
    if (importance != nullptr) {
      p.scale = half::nearest(search_nonnegative<Arch>(16, 15, scales, totals, p.scales));
      p.minimum = half::nearest(search_nonnegative<Arch>(16, 15, minimums, totals, p.minimums));
    } else {
      p.scale = half::nearest(largest_to_15<Arch>(scales, p.scales));
      p.minimum = half::nearest(largest_to_15<Arch>(minimums, p.minimums));
    }
    // Through the packed bytes, so that what the search left beyond 4 bits becomes what is stored.
    p = unpack_params(join(p, c));
    for (int g = 0; g < 16; ++g) {
      round_affine<Arch>(16, 3, w + 16 * g, step(g, p), offset(g, p), c.code + 16 * g);
    }
    return p;
  }

  /// codes[g] = x[g] / step rounded, where step, returned, is the largest x over 15; all 0 if that
  /// is not positive.
  template <class Arch>
  [[nodiscard]] static float largest_to_15(const float* x, std::uint8_t* codes) noexcept {
    float largest = 0;
    for (int g = 0; g < 16; ++g) {
      if (x[g] > largest) largest = x[g];
    }
    const float inverse = largest > 0 ? 15.0F / largest : 0.0F;
    for (int g = 0; g < 16; ++g) {
      codes[g] = largest > 0 ? static_cast<std::uint8_t>(rint_even(unfused(inverse * x[g])))
                             : std::uint8_t{0};
    }
    return largest / 15.0F;
  }
};
static_assert(sizeof(q2_k) == 84 && grid_format<q2_k> && reference_encodable<q2_k>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
