// SPDX-License-Identifier: Apache-2.0
/// The codebooks of ik_llama.cpp's non-linear formats: each comes in two positions, as it is and
/// raised by a constant, and a bit per group of weights chooses.
#pragma once

#include "subbyte/core/constant_table.hpp"
#include "subbyte/format/codebook.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The nearest code of an ascending codebook by bisection; ties go to the upper code, NaN gives the
/// last.
///
/// Numerics  exact: a float and the sum of two table entries fit a double.
template <class C>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr int nearest_ascending(float x) noexcept {
  const double twice = 2.0 * static_cast<double>(x);
  int code = 0;
  for (int step = 1 << (C::bits - 1); step > 0; step /= 2) {
    const int below = code + step - 1;
    const double sum =
        static_cast<double>(C::value(below)) + static_cast<double>(C::value(below + 1));
    code += !(twice < sum) ? step : 0;
  }
  return code;
}

/// The 4 levels of the 2-bit formats iq2_k and iq2_ks.
///
/// Source   ik_llama.cpp ggml/src/ggml-common.h, iq2nl_values.
struct iq2 {
  static constexpr const char* name = "iq2";
  static constexpr int bits = 2;
  static constexpr float shift = 5;

  struct table {
    [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<float, 4> values() noexcept {
      return {{-31, -13, 1, 17}};
    }
  };

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code) noexcept {
    return look_up<table>(code & 3);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int nearest(float x) noexcept {
    return nearest_ascending<iq2>(x);
  }
};
static_assert(codebook<iq2>);

/// The 8 levels of the 3-bit formats iq3_k and iq3_ks.
///
/// Source   ik_llama.cpp ggml/src/ggml-common.h, iq3nl_values.
struct iq3 {
  static constexpr const char* name = "iq3";
  static constexpr int bits = 3;
  static constexpr float shift = 4;

  struct table {
    [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<float, 8> values() noexcept {
      return {{-63, -40, -23, -10, 1, 13, 28, 47}};
    }
  };

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code) noexcept {
    return look_up<table>(code & 7);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int nearest(float x) noexcept {
    return nearest_ascending<iq3>(x);
  }
};
static_assert(codebook<iq3>);

/// The 16 levels of iq4_nl, with their shift in the formats iq4_k, iq4_ks and iq4_kss.
///
/// Source   ik_llama.cpp ggml/src/ggml-common.h, iq4k_values.
struct iq4_shifted : iq4 {
  static constexpr float shift = 4;
};
static_assert(codebook<iq4_shifted>);

/// The 32 levels of the 5-bit formats iq5_k and iq5_ks.
///
/// Source   ik_llama.cpp ggml/src/ggml-common.h, iq5nl_values.
struct iq5 {
  static constexpr const char* name = "iq5";
  static constexpr int bits = 5;
  static constexpr float shift = 2;

  struct table {
    [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<float, 32> values() noexcept {
      return {{-126, -114, -103, -92, -83, -74, -65, -57, -50, -43, -36, -30, -24, -18, -12, -6,
               -1,   5,    11,   17,  23,  29,  36,  43,  51,  59,  68,  77,  87,  97,  109, 121}};
    }
  };

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code) noexcept {
    return look_up<table>(code & 31);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int nearest(float x) noexcept {
    return nearest_ascending<iq5>(x);
  }
};
static_assert(codebook<iq5>);

/// The 64 levels of the 6-bit format iq6_k: a cubic polynomial of the code.
///
/// Numerics  evaluated by Horner's rule in fp32, every operation rounded once. Not the integers of
///           iq6nl_values, which ik_llama.cpp's products use in its place: its dequantization and
///           this library decode the polynomial.
/// Source    ik_llama.cpp ggml/src/iqk/iqk_quantize.cpp, dequantize_row_iq6_k.
struct iq6 {
  static constexpr const char* name = "iq6";
  static constexpr int bits = 6;
  static constexpr float shift = 1;

  /// The level of a code that is a float already, without a table.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float level_of(float code) noexcept {
    const float cubic = rounded_product(code, 0.0011972F);
    const float square = rounded_product(code, cubic - 0.11218F);
    const float linear = rounded_product(code, square + 6.2568F);
    return linear - 127.0F;
  }

  struct table {
    [[nodiscard]] SUBBYTE_HD_INLINE static constexpr constant_array<float, 64> values() noexcept {
      constant_array<float, 64> levels{};
      for (int code = 0; code < 64; ++code) levels.at[code] = level_of(static_cast<float>(code));
      return levels;
    }
  };

  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr float value(int code) noexcept {
    // Computed by the compiler, so that no flag contracts the polynomial.
    return look_up<table>(code & 63);
  }
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr int nearest(float x) noexcept {
    return nearest_ascending<iq6>(x);
  }
};
static_assert(codebook<iq6>);

/// C's level for a code in one of its two positions; exact but for iq6, where the sum rounds once.
template <class C>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr float shifted_level(int code, bool shifted) noexcept {
  return C::value(code) + (shifted ? C::shift : 0.0F);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
