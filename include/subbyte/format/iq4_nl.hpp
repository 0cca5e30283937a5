// SPDX-License-Identifier: Apache-2.0
/// IQ4_NL: 32 weights, one fp16 scale, 4-bit indices into a non-uniform table.
#pragma once

#include <utility>  // std::integer_sequence

#include "subbyte/format/codebook.hpp"
#include "subbyte/format/concepts.hpp"
#include "subbyte/format/scale_sweep.hpp"
#include "subbyte/format/search.hpp"
#include "subbyte/fwd.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// iq4::value(iq4::nearest(x)) in every lane.
template <class Arch, int N>
[[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> iq4_levels(
    const float_lanes<Arch, N>& x) noexcept {
  using lanes = float_lanes<Arch, N>;
  lanes level = lanes::broadcast(iq4::value(15));
  const auto lower = [&]<int code>(std::integral_constant<int, code>) {
    constexpr float bound = iq4::upper_bound(code);
    constexpr float value = iq4::value(code);
    level = select(x < lanes::broadcast(bound), lanes::broadcast(value), level);
  };
  // Unrolled by hand: compilers keep the loop, and the tables with it.
  [&]<int... up>(std::integer_sequence<int, up...>) {
    (lower(std::integral_constant<int, 14 - up>{}), ...);
  }
  (std::make_integer_sequence<int, 15>{});
  return level;
}

/// The levels of the IQ4 formats for the searches of the least error.
struct iq4_grid {
  template <class Arch, int N>
  [[nodiscard]] SUBBYTE_INLINE float_lanes<Arch, N> operator()(
      const float_lanes<Arch, N>& v) const noexcept {
    return iq4_levels(v);
  }
  template <class Arch>
  SUBBYTE_INLINE void store_codes(const float_lanes<Arch, 16>& v,
                                  std::uint8_t* codes) const noexcept {
    float values[16];
    v.store(values);
    for (int k = 0; k < 16; ++k) codes[k] = static_cast<std::uint8_t>(iq4::nearest(values[k]));
  }
};

/// x[i] ~ scale * iq4::value(code): the least weighted squared error among 16 scales, each
/// refitted to its codes. The first puts the weight of largest magnitude at +127, the others at
/// -127 and steps of 1 around it. 32 weights.
///
/// Numerics  sums run in element order in fp32, no product is fused with an addition: the same
///           bits on every compiler, flag and CPU.
/// Returns   the scale, of either sign; 0 for a group below 1e-15.
/// Source    ggml src/ggml-quants.c, quantize_row_iq4_nl_impl with ntry = 7 (what it computes).
template <class Arch>
[[nodiscard]] float search_iq4(const float* x, const float* weight) noexcept {
  const float extreme = signed_extreme<Arch>(x, 32);
  if (magnitude(extreme) < zero_group_magnitude) return 0;
  // One trial per lane.
  constexpr int trials = 16;
  using lanes = float_lanes<Arch, trials>;
  float inverses[trials];
  // Not 127 / extreme: the reference divides twice, and the roundings differ.
  inverses[0] = 1.0F / (extreme / 127.0F);
  for (int k = 1; k < trials; ++k) inverses[k] = static_cast<float>(k - 8 - 127) / extreme;
  const lanes inverse = lanes::load(inverses);
  lanes sum_xl = lanes::broadcast(0);
  lanes sum_ll = lanes::broadcast(0);
  for (int i = 0; i < 32; ++i) {
    const lanes level = iq4_levels(inverse * lanes::broadcast(x[i]));
    const lanes weighted = lanes::broadcast(weight[i]) * level;
    sum_xl = sum_xl + unfused(weighted * lanes::broadcast(x[i]));
    sum_ll = sum_ll + unfused(weighted * level);
  }
  float xl[trials];
  float ll[trials];
  sum_xl.store(xl);
  sum_ll.store(ll);
  float scale = xl[0] / ll[0];
  float best = scale * xl[0];
  for (int k = 1; k < trials; ++k) {
    if (ll[k] > 0 && xl[k] * xl[k] > best * ll[k]) {
      scale = xl[k] / ll[k];
      best = scale * xl[k];
    }
  }
  return scale;
}

/// The error weights of the IQ4 encoders for `n` weights: x^2, or with importance importance *
/// sqrt(twice_mean_square + x^2).
template <class Arch>
SUBBYTE_INLINE void iq4_weights(int n, const float* x, const float* importance,
                                float twice_mean_square, float* out) noexcept {
  if (importance != nullptr) {
    energy_weights<Arch>(n, x, importance, twice_mean_square, out);
  } else {
    for (int i = 0; i < n; ++i) out[i] = x[i] * x[i];
  }
}

/// IQ4_NL: 32 weights, one fp16 scale, 4-bit indices into a non-uniform table; 4.5 bits per
/// weight.
///
/// Layout   scale:f16 | codes:u8[16]; weight j is the low nibble of codes[j], weight j + 16 the
///          high nibble.
/// Value    scale * iq4::value(code), exact in fp32. Not symmetric: there is no level 0, and the
///          ends are -127 and 113.
/// Partner  q8_0
/// Source   GGUF tensor type 20; ggml `block_iq4_nl` (d = scale, qs = codes).
struct iq4_nl {
  static constexpr const char* name = "iq4_nl";
  static constexpr int block_size = 32;
  static constexpr std::uint32_t gguf_type = 20;
  using partner = q8_0;

  half scale;
  std::uint8_t codes_packed[16];

  struct params {
    half scale;
    SUBBYTE_HD_INLINE friend constexpr bool operator==(const params& a, const params& b) noexcept {
      return a.scale == b.scale;
    }
  };
  using codes = code_block<32>;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code, int,
                                                               const params& p) noexcept {
    return p.scale.to_float() * iq4::value(code);
  }

  /// Ties go to the lower code, unlike in the encoder.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int round(float weight, int i,
                                                             const params& p) noexcept {
    const float d = p.scale.to_float();
    return nearest_beside<iq4_nl>(d != 0 ? iq4::nearest(weight / d) : 0, weight, i, p, 15);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr unpacked<iq4_nl> split(
      const iq4_nl& b) noexcept {
    unpacked<iq4_nl> u{{b.scale}, {}};
    for (int j = 0; j < 16; ++j) {
      u.codes[j] = static_cast<std::uint8_t>(b.codes_packed[j] & 15);
      u.codes[j + 16] = static_cast<std::uint8_t>(b.codes_packed[j] >> 4);
    }
    return u;
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr iq4_nl join(const params& p,
                                                               const codes& c) noexcept {
    iq4_nl b{p.scale, {}};
    for (int j = 0; j < 16; ++j) {
      b.codes_packed[j] = static_cast<std::uint8_t>((c[j] & 15) | c[j + 16] << 4);
    }
    return b;
  }

  /// The same values as value(), looked up in a table of the sixteen products.
  SUBBYTE_HD_INLINE static constexpr void decode(const iq4_nl& b, float* __restrict out) noexcept {
    const params p{b.scale};
    float values[16] = {};
    for (int code = 0; code < 16; ++code) values[code] = value(code, 0, p);
    for (int j = 0; j < 16; ++j) {
      out[j] = values[b.codes_packed[j] & 15];
      out[j + 16] = values[b.codes_packed[j] >> 4];
    }
  }

  /// The reference encoder's scale.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static params fit(const float* w, const float* importance) noexcept {
    return {half::nearest(search<Arch>(w, importance))};
  }

  /// Byte-identical to ggml's file quantizer (not to its runtime quantizer, which searches less):
  /// a weighted scale search, then codes from the unrounded scale.
  ///
  /// Numerics  an all-zero block has scale 0 and every code 8. A scale below fp16's range is
  ///           stored as 0, above it as Inf, with the codes that the search found; its sums
  ///           overflow from weights of about 10^5 on, and a better scale may then be missed.
  ///           Weights whose squares overflow make the scale NaN and every code 15.
  template <class Arch = arch::native>
  [[nodiscard]] SUBBYTE_INLINE static iq4_nl encode_ref(const float* w, const float* importance,
                                                        float) noexcept {
    const float d = search<Arch>(w, importance);
    const float inverse = d != 0 ? 1.0F / d : 0.0F;
    codes c{};
    for (int j = 0; j < 32; ++j) c[j] = static_cast<std::uint8_t>(iq4::nearest(w[j] * inverse));
    return join({half::nearest(d)}, c);
  }

  /// Never a larger error than encode_ref's block, under the importance itself.
  template <class Arch = arch::native>
  [[nodiscard]] static iq4_nl encode_best(const float* w, const float* importance,
                                          float row_mean_square, int effort) noexcept {
    const iq4_nl start = encode_ref<Arch>(w, importance, row_mean_square);
    return lower_scaled_block<iq4_nl, Arch>(start, iq4_grid{}, {142.0F, 88.0F, 0, true}, w,
                                            importance, effort);
  }

 private:
  template <class Arch>
  [[nodiscard]] SUBBYTE_INLINE static float search(const float* w,
                                                   const float* importance) noexcept {
    float weight[32];
    iq4_weights<Arch>(32, w, importance, sum_of_squares<Arch>(w, 32) * (2.0F / 32.0F), weight);
    return search_iq4<Arch>(w, weight);
  }
};
static_assert(sizeof(iq4_nl) == 18 && grid_format<iq4_nl> && reference_encodable<iq4_nl>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
