// SPDX-License-Identifier: Apache-2.0
/// The specification of every primitive in plain C++, for registers of any arch.
///
/// An arch without an overload of its own runs these on its lanes in memory.
#pragma once

#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/simd/register.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

/// The lanes of one register, one by one.
template <class T, class Arch>
struct lane_array {
  static constexpr int size = reg<T, Arch>::size;
  T at[size];

  [[nodiscard]] SUBBYTE_INLINE reg<T, Arch> in_register() const noexcept {
    return reg<T, Arch>::load(at);
  }
};

template <class T, class Arch>
[[nodiscard]] SUBBYTE_INLINE lane_array<T, Arch> lanes_of(reg<T, Arch> x) noexcept {
  lane_array<T, Arch> out;
  x.store(out.at);
  return out;
}

template <class Arch>
SUBBYTE_INLINE nibbles<Arch> unpack_nibbles(arch::scalar, reg<std::uint8_t, Arch> packed) noexcept {
  const auto in = lanes_of(packed);
  lane_array<std::uint8_t, Arch> low;
  lane_array<std::uint8_t, Arch> high;
  for (int i = 0; i < in.size; ++i) {
    low.at[i] = static_cast<std::uint8_t>(in.at[i] & 15);
    high.at[i] = static_cast<std::uint8_t>(in.at[i] >> 4);
  }
  return {low.in_register(), high.in_register()};
}

template <class Arch>
SUBBYTE_INLINE two_bit_codes<Arch> unpack_2bit(arch::scalar,
                                               reg<std::uint8_t, Arch> packed) noexcept {
  const auto in = lanes_of(packed);
  two_bit_codes<Arch> out;
  for (int j = 0; j < 4; ++j) {
    lane_array<std::uint8_t, Arch> part;
    for (int i = 0; i < in.size; ++i) {
      part.at[i] = static_cast<std::uint8_t>((in.at[i] >> (2 * j)) & 3);
    }
    out.part[j] = part.in_register();
  }
  return out;
}

template <class Arch>
SUBBYTE_INLINE reg<std::uint8_t, Arch> expand_bits(arch::scalar, std::uint64_t mask) noexcept {
  lane_array<std::uint8_t, Arch> out;
  for (int i = 0; i < out.size; ++i) {
    out.at[i] = ((mask >> i) & 1) != 0 ? std::uint8_t{0xFF} : std::uint8_t{0};
  }
  return out.in_register();
}

template <class Arch, class T>
SUBBYTE_INLINE reg<T, Arch> broadcast_16_bytes(arch::scalar, const T* p) noexcept {
  lane_array<T, Arch> out;
  for (int i = 0; i < out.size; ++i) out.at[i] = p[i % 16];
  return out.in_register();
}

template <class T, class Arch>
SUBBYTE_INLINE reg<T, Arch> lut16(arch::scalar, reg<T, Arch> table,
                                  reg<std::uint8_t, Arch> index) noexcept {
  const auto from = lanes_of(table);
  const auto at = lanes_of(index);
  lane_array<T, Arch> out;
  for (int i = 0; i < out.size; ++i) out.at[i] = from.at[i / 16 * 16 + at.at[i] % 16];
  return out.in_register();
}

template <class T, class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4(reg<std::int32_t, Arch> acc, reg<T, Arch> a,
                                            reg<std::int8_t, Arch> b) noexcept {
  const auto left = lanes_of(a);
  const auto right = lanes_of(b);
  lane_array<std::int32_t, Arch> sums;
  for (int i = 0; i < sums.size; ++i) {
    sums.at[i] = 0;
    for (int j = 4 * i; j < 4 * i + 4; ++j) sums.at[i] += left.at[j] * right.at[j];
  }
  return acc + sums.in_register();
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_u7i8(arch::scalar, reg<std::int32_t, Arch> acc,
                                                 reg<std::uint8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  return dot4(acc, a, b);
}

template <class Arch>
SUBBYTE_INLINE reg<std::int32_t, Arch> dot4_i8i8(arch::scalar, reg<std::int32_t, Arch> acc,
                                                 reg<std::int8_t, Arch> a,
                                                 reg<std::int8_t, Arch> b) noexcept {
  return dot4(acc, a, b);
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> f16_to_f32(arch::scalar, const half* p) noexcept {
  lane_array<float, Arch> out;
  for (int i = 0; i < out.size; ++i) {
    const std::uint32_t quiet = p[i].is_nan() ? 0x00400000U : 0U;
    out.at[i] = bit_cast<float>(bit_cast<std::uint32_t>(p[i].to_float()) | quiet);
  }
  return out.in_register();
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> bf16_to_f32(arch::scalar, const bfloat16* p) noexcept {
  lane_array<float, Arch> out;
  for (int i = 0; i < out.size; ++i) out.at[i] = p[i].to_float();
  return out.in_register();
}

template <class Arch>
SUBBYTE_INLINE void f32_to_f16(arch::scalar, reg<float, Arch> x, half* out) noexcept {
  const auto in = lanes_of(x);
  for (int i = 0; i < in.size; ++i) {
    out[i] = half::nearest(in.at[i]);
    if (out[i].is_nan()) {
      const std::uint32_t payload = (bit_cast<std::uint32_t>(in.at[i]) >> 13) & 0x1FFU;
      out[i] = half::from_bits(static_cast<std::uint16_t>(out[i].bits | payload));
    }
  }
}

template <class Arch>
SUBBYTE_INLINE void f32_to_bf16(arch::scalar, reg<float, Arch> x, bfloat16* out) noexcept {
  const auto in = lanes_of(x);
  for (int i = 0; i < in.size; ++i) out[i] = bfloat16::nearest(in.at[i]);
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> dot2_bf16(arch::scalar, reg<float, Arch> acc,
                                          reg<std::uint16_t, Arch> a,
                                          reg<std::uint16_t, Arch> b) noexcept {
  auto sums = lanes_of(acc);
  const auto left = lanes_of(a);
  const auto right = lanes_of(b);
  for (int i = 0; i < sums.size; ++i) {
    for (int j = 2 * i + 1; j >= 2 * i; --j) {
      sums.at[i] = __builtin_fmaf(bfloat16::from_bits(left.at[j]).to_float(),
                                  bfloat16::from_bits(right.at[j]).to_float(), sums.at[i]);
    }
  }
  return sums.in_register();
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> i8_to_f32(arch::scalar, const std::int8_t* p) noexcept {
  lane_array<float, Arch> out;
  for (int i = 0; i < out.size; ++i) out.at[i] = static_cast<float>(p[i]);
  return out.in_register();
}

template <int Quarter, class Arch>
SUBBYTE_INLINE reg<float, Arch> i8_quarter_to_f32(arch::scalar, reg<std::int8_t, Arch> x) noexcept {
  const auto in = lanes_of(x);
  lane_array<float, Arch> out;
  for (int i = 0; i < out.size; ++i) {
    out.at[i] = static_cast<float>(in.at[Quarter * out.size + i]);
  }
  return out.in_register();
}

template <class Arch>
SUBBYTE_INLINE reg<float, Arch> abs_max(arch::scalar, reg<float, Arch> acc,
                                        reg<float, Arch> x) noexcept {
  return max(abs(x), acc);
}

template <class Arch>
SUBBYTE_INLINE void round_to_i8(arch::scalar, reg<float, Arch> x, reg<float, Arch> inverse,
                                std::int8_t* out) noexcept {
  const auto in = lanes_of(unfused(x * inverse));
  for (int i = 0; i < in.size; ++i) {
    const float below = in.at[i] < 127.0F ? in.at[i] : 127.0F;
    out[i] = static_cast<std::int8_t>(rint_even(below > -128.0F ? below : -128.0F));
  }
}

template <class Arch>
SUBBYTE_INLINE float reduce_add(arch::scalar, reg<float, Arch> x) noexcept {
  auto sums = lanes_of(x);
  for (int width = sums.size / 2; width > 0; width /= 2) {
    for (int i = 0; i < width; ++i) sums.at[i] += sums.at[i + width];
  }
  return sums.at[0];
}

template <class Arch>
SUBBYTE_INLINE std::int32_t reduce_add(arch::scalar, reg<std::int32_t, Arch> x) noexcept {
  const auto in = lanes_of(x);
  std::uint32_t sum = 0;
  for (int i = 0; i < in.size; ++i) sum += static_cast<std::uint32_t>(in.at[i]);
  return static_cast<std::int32_t>(sum);
}

template <class Arch>
SUBBYTE_INLINE float reduce_max(arch::scalar, reg<float, Arch> x) noexcept {
  const auto in = lanes_of(x);
  float largest = in.at[0];
  for (int i = 1; i < in.size; ++i) largest = in.at[i] > largest ? in.at[i] : largest;
  return largest;
}

template <class Arch>
SUBBYTE_INLINE void stream(arch::scalar, reg<float, Arch> x, float* out) noexcept {
  x.store(out);
}

SUBBYTE_INLINE void stream_fence(arch::scalar) noexcept {}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
