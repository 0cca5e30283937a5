// SPDX-License-Identifier: Apache-2.0
/// NVFP4: 64 weights in 4 groups with UE4M3 scales, 4-bit floating-point codes.
#pragma once

#include "subbyte/format/codebook.hpp"
#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/rounding.hpp"
#include "subbyte/num/ue4m3.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// NVFP4: 4 groups of 16 weights with UE4M3 scales, FP4 E2M1 codes; 4.5 bits per weight.
///
/// The scale of the whole tensor that NVIDIA's checkpoints have is no part of the block: GGUF files
/// keep it beside, as tensor `<name>.scale`.
///
/// Layout   scales:ue4m3[4] | codes:u8[32]; in group g weight j is the low nibble of codes[8 g +
/// j],
///          weight j + 8 the high nibble.
/// Value    group scale * fp4_e2m1::value(code), exact in fp32. Code 8 is +0, as in ggml, and the
///          scale's NaN counts as 0.
/// Partner  q8_0
/// Source   GGUF tensor type 40; ggml `block_nvfp4` (d = scales, qs = codes).
struct nvfp4 {
  static constexpr const char* name = "nvfp4";
  static constexpr int block_size = 64;
  static constexpr int group_size = 16;
  static constexpr int groups = block_size / group_size;
  static constexpr std::uint32_t gguf_type = 40;
  using partner = q8_0;

  ue4m3 scales[4];
  std::uint8_t codes_packed[32];

  struct params {
    ue4m3 scales[4];
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      for (int g = 0; g < groups; ++g) {
        if (!(a.scales[g] == b.scales[g])) return false;
      }
      return true;
    }
  };
  using codes = code_block<64>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int i,
                                                               const params& p) noexcept {
    // Adding zero turns -0 into +0.
    return scale_of(p.scales[i / group_size]) * (fp4_e2m1::value(code) + 0.0F);
  }

  /// Ties go to the lower code, that is toward zero; the result is never 8.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float size = weight < 0 ? -weight : weight;
    const float d = scale_of(p.scales[i / group_size]);
    const int guess = d != 0 ? fp4_e2m1::nearest(size / d) : 0;
    const int code = nearest_beside<nvfp4>(guess, size, i, p, 7);
    return code + (weight < 0 && code != 0 ? 8 : 0);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<nvfp4> split(const nvfp4& b) noexcept {
    unpacked<nvfp4> u{};
    for (int g = 0; g < groups; ++g) {
      u.params.scales[g] = b.scales[g];
      for (int j = 0; j < 8; ++j) {
        u.codes[16 * g + j] = static_cast<std::uint8_t>(b.codes_packed[8 * g + j] & 15);
        u.codes[16 * g + j + 8] = static_cast<std::uint8_t>(b.codes_packed[8 * g + j] >> 4);
      }
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr nvfp4 join(const params& p,
                                                              const codes& c) noexcept {
    nvfp4 b{};
    for (int g = 0; g < groups; ++g) {
      b.scales[g] = p.scales[g];
      for (int j = 0; j < 8; ++j) {
        b.codes_packed[8 * g + j] =
            static_cast<std::uint8_t>((c[16 * g + j] & 15) | c[16 * g + j + 8] << 4);
      }
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const nvfp4& b, float* __restrict out) noexcept {
    for (int g = 0; g < groups; ++g) {
      const float d = scale_of(b.scales[g]);
      for (int j = 0; j < 8; ++j) {
        const int byte = b.codes_packed[8 * g + j];
        out[16 * g + j] = d * (fp4_e2m1::value(byte & 15) + 0.0F);
        out[16 * g + j + 8] = d * (fp4_e2m1::value(byte >> 4) + 0.0F);
      }
    }
  }

  /// The scale that the reference encoder stores for x, half up and not to even; nothing between
  /// 240 and 448.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr ue4m3 stored_scale(float x) noexcept {
    if (!(x > 0)) return ue4m3::from_bits(0);
    if (x > 448.0F) x = 448.0F;
    const std::uint32_t bits = bit_cast<std::uint32_t>(x);
    if (bits < 0x3C800000U) {  // below 2^-6, the smallest normal; the product is exact
      const int eighths = trunc_to_int(x * 512.0F + 0.5F);
      return ue4m3::from_bits(static_cast<std::uint8_t>(eighths > 7 ? 7 : eighths));
    }
    const std::uint32_t rounded = bits + 0x80000U;
    const int exponent = static_cast<int>(rounded >> 23) - 127 + 7;
    if (exponent >= 15) return ue4m3::from_bits(0x7E);
    return ue4m3::from_bits(
        static_cast<std::uint8_t>(exponent << 3 | static_cast<int>(rounded >> 20 & 7)));
  }

  /// The reference encoder's scales.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float*) noexcept {
    params p{};
    for (int g = 0; g < groups; ++g) {
      p.scales[g] =
          stored_scale(magnitude(signed_extreme<Arch>(w + group_size * g, group_size)) / 6.0F);
    }
    return p;
  }

  /// Byte-identical to ggml's file quantizer: the scale that puts the largest magnitude at 6, then
  /// nearest codes by distances in fp32. Importance is not used.
  ///
  /// Numerics  an all-zero block is all zero bytes.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static nvfp4 encode_ref(const float* w, const float* importance,
                                                       float) noexcept {
    const params p = fit<Arch>(w, importance);
    codes c{};
    for (int j = 0; j < block_size; ++j) {
      const float d = scale_of(p.scales[j / group_size]);
      // Distances to values of the other sign are larger; of the two zeros the first counts.
      const float size = magnitude(w[j]);
      int best = 0;
      float least = size;
      for (int code = 1; code < 8; ++code) {
        const float distance = magnitude(unfused(d * fp4_e2m1::value(code)) - size);
        if (distance < least) {
          least = distance;
          best = code;
        }
      }
      c[j] = static_cast<std::uint8_t>(best + (w[j] < 0 && best != 0 ? 8 : 0));
    }
    return join(p, c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself; the scales
  /// are the best of 32 each, whatever the effort.
  template <class Arch = arch::native>
  [[nodiscard]] static nvfp4 encode_best(const float* w, const float* importance,
                                         float row_mean_square, int effort) noexcept {
    const nvfp4 reference = encode_ref<Arch>(w, importance, row_mean_square);
    static_cast<void>(effort);
    float weight[block_size];
    float sizes[block_size];
    error_weights<Arch>(block_size, importance, weight);
    for (int i = 0; i < block_size; ++i) sizes[i] = magnitude(w[i]);
    using lanes = float_lanes<Arch, 16>;
    params p{};
    codes c{};
    for (int g = 0; g < groups; ++g) {
      const int first = clamp(reference.scales[g].bits - 20, 0, 0x7E - 31);
      float scales[32];
      for (int k = 0; k < 32; ++k) {
        scales[k] = ue4m3::from_bits(static_cast<std::uint8_t>(first + k)).to_float();
      }
      const lanes scale[2] = {lanes::load(scales), lanes::load(scales + 16)};
      lanes error[2];
      const int at = group_size * g;
      scale_sweep<Arch, fp4_magnitudes>({}, group_size, sizes + at, weight + at)
          .errors(scale, error);
      const int chosen = lowest_of<Arch, 2>(error);
      p.scales[g] = ue4m3::from_bits(static_cast<std::uint8_t>(first + chosen));
      const float inverse = scales[chosen] != 0 ? 1.0F / scales[chosen] : 0.0F;
      for (int i = at; i < at + group_size; ++i) {
        c[i] = static_cast<std::uint8_t>(fp4_e2m1::nearest(w[i] * inverse));
      }
    }
    return lower_of<nvfp4, Arch>(reference, join(p, c), w, weight);
  }

 private:
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float scale_of(ue4m3 stored) noexcept {
    return stored.is_nan() ? 0.0F : stored.to_float();
  }
};
static_assert(sizeof(nvfp4) == 36 && grid_format<nvfp4> && reference_encodable<nvfp4>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
