// SPDX-License-Identifier: Apache-2.0
/// Codebooks: fixed tables of real values that codes index.
#pragma once

#include <concepts>

#include "subbyte/core/bits.hpp"
#include "subbyte/core/constant_table.hpp"
#include "subbyte/num/minifloat.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// A type whose value(code) is a table of 2^bits floats and whose nearest(x) is its inverse.
///
/// Laws, checked by tests/format/codebook.cpp: nearest(x) is a code whose value no other value
/// beats in distance to x, for every float but NaN; which one on a tie is stated by the codebook.
/// A type and not an array: nvcc cannot index a static constexpr array at run time, and clang 14
/// takes no float arrays as template arguments.
template <class C>
concept codebook = requires(int code, float x) {
  { C::name } -> std::convertible_to<const char*>;
  { C::bits } -> std::convertible_to<int>;
  { C::value(code) }
  noexcept->std::same_as<float>;
  { C::nearest(x) }
  noexcept->std::same_as<int>;
};

namespace detail {

struct iq4_levels {
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<std::int8_t, 16>
  values() noexcept {
    return {{-127, -104, -83, -65, -49, -35, -22, -10, 1, 13, 25, 38, 53, 69, 89, 113}};
  }
};

struct iq4_midpoints {
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<float, 15> values() noexcept {
    return {{-115.5F, -93.5F, -74.0F, -57.0F, -42.0F, -28.5F, -16.0F, -4.5F, 7.0F, 19.0F, 31.5F,
             45.5F, 61.0F, 79.0F, 101.0F}};
  }
};

struct fp4_values {
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<float, 16> values() noexcept {
    constant_array<float, 16> all{};
    for (int code = 0; code < 16; ++code) {
      all.at[code] = e2m1::from_bits(static_cast<std::uint8_t>(code)).to_float();
    }
    return all;
  }
};

struct fp4_midpoints {
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<float, 7> values() noexcept {
    return {{0.25F, 0.75F, 1.25F, 1.75F, 2.5F, 3.5F, 5.0F}};
  }
};

struct nf4_levels {
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<float, 16> values() noexcept {
    return {{-1.0F, -0.6961928009986877F, -0.5250730514526367F, -0.39491748809814453F,
             -0.28444138169288635F, -0.18477343022823334F, -0.09105003625154495F, 0.0F,
             0.07958029955625534F, 0.16093020141124725F, 0.24611230194568634F, 0.33791524171829224F,
             0.44070982933044434F, 0.5626170039176941F, 0.7229568362236023F, 1.0F}};
  }
};

struct nf4_midpoints {
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<float, 15> values() noexcept {
    return {{-0.8480964004993439F, -0.6106329262256622F, -0.4599952697753906F,
             -0.33967943489551544F, -0.23460740596055984F, -0.13791173323988914F,
             -0.045525018125772476F, 0.03979014977812767F, 0.1202552504837513F, 0.2035212516784668F,
             0.2920137718319893F, 0.3893125355243683F, 0.5016634166240692F, 0.6427869200706482F,
             0.8614784181118011F}};
  }
};

}  // namespace detail

/// The 16 non-uniform levels of the IQ4 formats, ascending, dense around zero.
///
/// Source   ggml src/ggml-common.h, kvalues_iq4nl.
struct iq4 {
  static constexpr const char* name = "iq4";
  static constexpr int bits = 4;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int level(int code) noexcept {
    return look_up<detail::iq4_levels>(code & 15);
  }

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code) noexcept {
    return static_cast<float>(level(code));
  }

  /// What lies below this and not below upper_bound(code - 1) is nearest to `code`; code in [0,
  /// 14].
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float upper_bound(int code) noexcept {
    // Midpoints of neighbours. All differences near a midpoint are exact in fp32, so comparing with
    // it is comparing distances.
    return look_up<detail::iq4_midpoints>(code);
  }

  /// Ties go to the upper code, as in the reference encoders. NaN gives 15.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int nearest(float x) noexcept {
    // Bisection, without a branch to mispredict.
    int code = !(x < upper_bound(7)) ? 8 : 0;
    code += !(x < upper_bound(code + 3)) ? 4 : 0;
    code += !(x < upper_bound(code + 1)) ? 2 : 0;
    code += !(x < upper_bound(code)) ? 1 : 0;
    return code;
  }
};
static_assert(codebook<iq4>);

/// The values of OCP FP4 E2M1: 0, 0.5, 1, 1.5, 2, 3, 4, 6 and, from code 8, their negatives (8 is
/// -0).
///
/// Source   OCP Microscaling Formats 1.0 section 5.3.3.
struct fp4_e2m1 {
  static constexpr const char* name = "fp4_e2m1";
  static constexpr int bits = 4;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code) noexcept {
    return look_up<detail::fp4_values>(code & 15);
  }

  /// Magnitudes up to this, and above upper_bound(code - 1), are nearest to `code`; code in [0, 6].
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float upper_bound(int code) noexcept {
    return look_up<detail::fp4_midpoints>(code);
  }

  /// Ties go to the lower code, that is toward zero; results of zero are code 0, never 8.
  /// Magnitudes above 6 saturate. NaN gives 0. (e2m1::nearest rounds ties to the even code and
  /// keeps -0.)
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int nearest(float x) noexcept {
    const float size = x < 0 ? -x : x;
    int code = size > upper_bound(3) ? 4 : 0;
    code += size > upper_bound(code + 1) ? 2 : 0;
    code += size > upper_bound(code) ? 1 : 0;
    return code + (x < 0 && code != 0 ? 8 : 0);
  }
};
static_assert(codebook<fp4_e2m1>);

/// The 16 levels of NormalFloat 4 in [-1, 1], ascending: quantiles of a normal distribution, with
/// an exact zero at code 7.
///
/// Source   QLoRA (arXiv 2305.14314) appendix E; bitsandbytes csrc/kernels.cu, dQuantizeNF4.
struct nf4 {
  static constexpr const char* name = "nf4";
  static constexpr int bits = 4;

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code) noexcept {
    return look_up<detail::nf4_levels>(code & 15);
  }

  /// What lies above this is nearer to code + 1; code in [0, 14]. Midpoints rounded to float.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float upper_bound(int code) noexcept {
    return look_up<detail::nf4_midpoints>(code);
  }

  /// Ties go to the lower code. NaN gives 0.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int nearest(float x) noexcept {
    int code = x > upper_bound(7) ? 8 : 0;
    code += x > upper_bound(code + 3) ? 4 : 0;
    code += x > upper_bound(code + 1) ? 2 : 0;
    code += x > upper_bound(code) ? 1 : 0;
    return code;
  }
};
static_assert(codebook<nf4>);

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
