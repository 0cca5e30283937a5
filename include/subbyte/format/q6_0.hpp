// SPDX-License-Identifier: Apache-2.0
/// Q6_0: 32 weights, one fp16 scale, 6-bit codes with bias 32.
#pragma once

#include "subbyte/format/concepts.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Q6_0: 32 weights, one fp16 scale, 6-bit codes with bias 32; 6.5 bits per weight.
///
/// Layout   scale:f16 | codes_high:u8[8] | codes_low:u8[16]; the low four bits of weight j are the
///          low nibble of codes_low[j], those of weight j + 16 the high nibble; in nibble j / 8
///          (low first) of codes_high[j % 8] bits 0 and 1 are the high two bits of weight j, bits 2
///          and 3 those of weight j + 16.
/// Value    scale * (code - 32), exact in fp32.
/// Partner  q8_0
/// Source   GGUF tensor type 133 of ik_llama.cpp; its `block_q6_0` (d = scale, qh, qs = codes_high,
///          codes_low).
struct q6_0 {
  static constexpr const char* name = "q6_0";
  static constexpr int block_size = 32;
  static constexpr std::uint32_t gguf_type = 133;
  using partner = q8_0;

  half scale;
  std::uint8_t codes_high[8];
  std::uint8_t codes_low[16];

  struct params {
    half scale;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale;
    }
  };
  using codes = code_block<32>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return p.scale.to_float() * static_cast<float>(code - 32);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = p.scale.to_float();
    const int guess = d != 0 ? clamp(trunc_to_int(weight / d + 32.5F), 0, 63) : 0;
    return nearest_beside<q6_0>(guess, weight, i, p, 63);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<q6_0> split(const q6_0& b) noexcept {
    unpacked<q6_0> u{{b.scale}, {}};
    for (int j = 0; j < 16; ++j) {
      const int low = b.codes_low[j];
      const int high = b.codes_high[j % 8] >> (j / 8 * 4);
      u.codes[j] = static_cast<std::uint8_t>((low & 15) | (high & 3) << 4);
      u.codes[j + 16] = static_cast<std::uint8_t>(low >> 4 | (high >> 2 & 3) << 4);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr q6_0 join(const params& p,
                                                             const codes& c) noexcept {
    q6_0 b{p.scale, {}, {}};
    for (int j = 0; j < 16; ++j) {
      b.codes_low[j] = static_cast<std::uint8_t>((c[j] & 15) | (c[j + 16] & 15) << 4);
      const int high = c[j] >> 4 | c[j + 16] >> 4 << 2;
      b.codes_high[j % 8] = static_cast<std::uint8_t>(b.codes_high[j % 8] | high << (j / 8 * 4));
    }
    return b;
  }

  /// The same values as value(), in loops that compilers vectorise.
  SUBBYTE_HD_INLINE static constexpr void decode(const q6_0& b, float* __restrict out) noexcept {
    const float d = b.scale.to_float();
    for (int h = 0; h < 2; ++h) {
      for (int j = 0; j < 8; ++j) {
        const int low = b.codes_low[8 * h + j];
        const int high = b.codes_high[j] >> (4 * h);
        out[8 * h + j] = d * static_cast<float>(((low & 15) | (high & 3) << 4) - 32);
        out[8 * h + j + 16] = d * static_cast<float>((low >> 4 | (high >> 2 & 3) << 4) - 32);
      }
    }
  }

  /// The reference encoder's scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    return {encode_ref<Arch>(w, importance, mean_square<Arch>(w, block_size)).scale};
  }

  /// Byte-identical to ik_llama.cpp's file quantizer (not to its runtime quantizer, which does not
  /// search): a scale search under x^2, or with importance under importance * sqrt(row mean square
  /// + x^2); codes come from the unrounded scale.
  ///
  /// Numerics  an all-zero block is all zero bytes. Scales outside fp16's range are stored as 0 or
  ///           Inf and the codes stay.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static q6_0 encode_ref(const float* w, const float* importance,
                                                      float row_mean_square) noexcept {
    codes c{};
    float weight[32];
    if (importance != nullptr) {
      energy_weights<Arch>(32, w, importance, row_mean_square, weight);
    } else {
      for (int i = 0; i < 32; ++i) weight[i] = w[i] * w[i];
    }
    return join({half::nearest(search<Arch>(w, weight, c.code))}, c);
  }

 private:
  /// x[i] ~ scale * (codes[i] - 32): the best of 39 scales that put the weight of largest magnitude
  /// near either end, each refitted to its codes; then the code with the steepest error moves by
  /// one, and the scale with it, for as long as that lowers the error.
  ///
  /// Source  ik_llama.cpp ggml/src/ggml-quants.c, make_qx_quants, which ggml's has no longer in
  ///         common with search_symmetric.
  template <class Arch>
  [[nodiscard]] static float search(const float* x, const float* weight,
                                    std::uint8_t* codes) noexcept {
    const float extreme = signed_extreme<Arch>(x, 32);
    if (magnitude(extreme) < zero_group_magnitude) {
      for (int i = 0; i < 32; ++i) codes[i] = 0;
      return 0;
    }
    // One candidate per lane. Candidate 0 first: it is the one that the others must beat.
    constexpr int candidates = 39;
    constexpr int lane_count = lanes_for<Arch, candidates + 1>;
    using lanes = float_lanes<Arch, lane_count>;
    float inverses[lane_count];
    for (int k = 0; k < lane_count; ++k) {
      const float tenths = unfused(0.1F * static_cast<float>((k - 1) / 2 - 9));
      inverses[k] = k % 2 == 0 ? (31.0F + tenths) / extreme : -(32.0F + tenths) / extreme;
    }
    inverses[0] = -32.0F / extreme;
    const lanes inverse = lanes::load(inverses);
    lanes sum_xl = lanes::broadcast(0);
    lanes sum_ll = lanes::broadcast(0);
    for (int i = 0; i < 32; ++i) {
      const lanes scaled = unfused(inverse * lanes::broadcast(x[i]));
      const lanes level = to_float(rint_even(scaled).clamped(-32, 31));
      sum_xl = sum_xl + unfused(lanes::broadcast(weight[i] * x[i]) * level);
      sum_ll = sum_ll + unfused(lanes::broadcast(weight[i]) * level * level);
    }
    float xl[lane_count];
    float ll[lane_count];
    sum_xl.store(xl);
    sum_ll.store(ll);
    int chosen = 0;
    float scale = ll[0] != 0 ? xl[0] / ll[0] : 0.0F;
    float best = scale * xl[0];
    for (int k = 1; k < candidates; ++k) {
      if (ll[k] > 0 && xl[k] * xl[k] > best * ll[k]) {
        chosen = k;
        scale = xl[k] / ll[k];
        best = scale * xl[k];
      }
    }
    int levels[32];
    for (int i = 0; i < 32; ++i) {
      levels[i] = clamp(rint_even(unfused(inverses[chosen] * x[i])), -32, 31);
    }
    float own_xl = xl[chosen];
    float own_ll = ll[chosen];
    for (int move = 0; move < 32 * 63; ++move) {
      float steepest = 0;
      int at = -1;
      for (int i = 0; i < 32; ++i) {
        const float difference = x[i] - unfused(scale * static_cast<float>(levels[i]));
        const float slope = scale * weight[i] * difference;
        const bool free = slope > 0 ? levels[i] < 31 : (slope < 0 && levels[i] > -32);
        if (free && magnitude(slope) > magnitude(steepest)) {
          steepest = slope;
          at = i;
        }
      }
      if (at < 0) break;
      const int by = steepest > 0 ? 1 : -1;
      const float step = static_cast<float>(by);
      const float rise = static_cast<float>(2 * levels[at] + by);
      const float moved_xl = own_xl + step * unfused(weight[at] * x[at]);
      const float moved_ll = own_ll + step * unfused(weight[at] * rise);
      if (!(moved_ll > 0 && moved_xl * moved_xl > best * moved_ll)) break;
      own_xl = moved_xl;
      own_ll = moved_ll;
      scale = own_xl / own_ll;
      best = scale * own_xl;
      levels[at] += by;
    }
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(levels[i] + 32);
    return scale;
  }
};
static_assert(sizeof(q6_0) == 26 && grid_format<q6_0> && reference_encodable<q6_0>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
