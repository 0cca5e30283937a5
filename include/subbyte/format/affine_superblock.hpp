// SPDX-License-Identifier: Apache-2.0
/// What q4_k and q5_k share: 256 weights as 8 groups of 32, each with a 6-bit scale and a 6-bit
/// minimum under two fp16 factors.
#pragma once

#include "subbyte/format/search.hpp"
#include "subbyte/num/half.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// A weight of group g is scale * scales[g] * code - minimum * minimums[g].
struct affine_superblock_params {
  half scale;
  half minimum;
  std::uint8_t scales[8];    ///< 0 .. 63
  std::uint8_t minimums[8];  ///< 0 .. 63

  SUBBYTE_HD_INLINE friend constexpr bool operator==(const affine_superblock_params& a,
                                                     const affine_superblock_params& b) noexcept {
    for (int g = 0; g < 8; ++g) {
      if (a.scales[g] != b.scales[g] || a.minimums[g] != b.minimums[g]) return false;
    }
    return a.scale == b.scale && a.minimum == b.minimum;
  }
};

/// Eight 6-bit scales S and minimums M in 12 bytes.
///
///   byte     bits 7-6        bits 5-0            byte      bits 7-4       bits 3-0
///   k        S[k + 4] >> 4   S[k]                k + 8     M[k + 4] & 15  S[k + 4] & 15
///   k + 4    M[k + 4] >> 4   M[k]                                                   k = 0 .. 3
///
/// Source  ggml get_scale_min_k4 reads them.
SUBBYTE_HD_INLINE constexpr void pack_6bit_pairs(const std::uint8_t* scales,
                                                 const std::uint8_t* minimums,
                                                 std::uint8_t* bytes) noexcept {
  for (int k = 0; k < 4; ++k) {
    bytes[k] = static_cast<std::uint8_t>(scales[k] | scales[k + 4] >> 4 << 6);
    bytes[k + 4] = static_cast<std::uint8_t>(minimums[k] | minimums[k + 4] >> 4 << 6);
    bytes[k + 8] = static_cast<std::uint8_t>((scales[k + 4] & 15) | (minimums[k + 4] & 15) << 4);
  }
}

/// The inverse of pack_6bit_pairs.
SUBBYTE_HD_INLINE constexpr void unpack_6bit_pairs(const std::uint8_t* bytes, std::uint8_t* scales,
                                                   std::uint8_t* minimums) noexcept {
  for (int k = 0; k < 4; ++k) {
    scales[k] = static_cast<std::uint8_t>(bytes[k] & 63);
    minimums[k] = static_cast<std::uint8_t>(bytes[k + 4] & 63);
    scales[k + 4] = static_cast<std::uint8_t>((bytes[k + 8] & 15) | bytes[k] >> 6 << 4);
    minimums[k + 4] = static_cast<std::uint8_t>(bytes[k + 8] >> 4 | bytes[k + 4] >> 6 << 4);
  }
}

/// The reference encoder of q4_k and q5_k: params, and codes in [0, last] for 256 weights.
///
/// Without importance the error weight of x is |x| plus the group's root mean square, and the
/// largest scale and minimum become 63. With importance it is importance * sqrt(2 * block mean
/// square + x^2), and the scales and minimums are themselves searched under the groups' total
/// weights.
/// Codes are then rounded anew with the stored params, except where a group's scale is stored as 0.
/// Source  ggml quantize_row_q4_K_ref and quantize_row_q4_K_impl, and their q5_K counterparts.
template <class Arch>
[[nodiscard]] affine_superblock_params encode_affine_superblock(const float* w,
                                                                const float* importance, int last,
                                                                const affine_candidates& plain,
                                                                std::uint8_t* codes) noexcept {
  float totals[8] = {};
  float weight[256];
  const float variance =
      importance != nullptr ? 2.0F * sum_of_squares<Arch>(w, 256) / 256.0F : 0.0F;
  const affine_candidates candidates =
      importance != nullptr ? affine_candidates{-0.9F, 0.05F, 36, false} : plain;
  if (importance != nullptr) {
    energy_weights<Arch>(256, w, importance, variance, weight);
    for (int g = 0; g < 8; ++g) {
      for (int i = 32 * g; i < 32 * g + 32; ++i) totals[g] += weight[i];
    }
  } else {
    for (int g = 0; g < 8; ++g) {
      const float root_mean_square = __builtin_sqrtf(mean_square<Arch>(w + 32 * g, 32));
      for (int i = 32 * g; i < 32 * g + 32; ++i) weight[i] = root_mean_square + magnitude(w[i]);
    }
  }
  affine_scale found[8];
  search_affine<Arch, 32>(last, w, weight, candidates, codes, found);
  float scales[8];
  float minimums[8];
  for (int g = 0; g < 8; ++g) {
    scales[g] = found[g].scale;
    minimums[g] = found[g].minimum;
  }

  affine_superblock_params p{};
  if (importance != nullptr) {
    p.scale = half::nearest(search_nonnegative<Arch>(8, 63, scales, totals, p.scales));
    p.minimum = half::nearest(search_nonnegative<Arch>(8, 63, minimums, totals, p.minimums));
  } else {
    float max_scale = 0;
    float max_minimum = 0;
    for (int g = 0; g < 8; ++g) {
      if (scales[g] > max_scale) max_scale = scales[g];
      if (minimums[g] > max_minimum) max_minimum = minimums[g];
    }
    const float inverse_scale = max_scale > 0 ? 63.0F / max_scale : 0.0F;
    const float inverse_minimum = max_minimum > 0 ? 63.0F / max_minimum : 0.0F;
    for (int g = 0; g < 8; ++g) {
      // A byte first, then the limit: the reference's order.
      const int s = rint_even(unfused(inverse_scale * scales[g])) & 255;
      const int m = rint_even(unfused(inverse_minimum * minimums[g])) & 255;
      p.scales[g] = static_cast<std::uint8_t>(clamp(s, 0, 63));
      p.minimums[g] = static_cast<std::uint8_t>(clamp(m, 0, 63));
    }
    p.scale = half::nearest(max_scale / 63.0F);
    p.minimum = half::nearest(max_minimum / 63.0F);
  }
  // Through the packed bytes, so that what the search left beyond 6 bits becomes what is stored.
  std::uint8_t bytes[12];
  pack_6bit_pairs(p.scales, p.minimums, bytes);
  unpack_6bit_pairs(bytes, p.scales, p.minimums);

  const float scale = p.scale.to_float();
  const float minimum = p.minimum.to_float();
  for (int g = 0; g < 8; ++g) {
    round_affine<Arch>(32, last, w + 32 * g, scale * static_cast<float>(p.scales[g]),
                       minimum * static_cast<float>(p.minimums[g]), codes + 32 * g);
  }
  return p;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
