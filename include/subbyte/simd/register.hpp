// SPDX-License-Identifier: Apache-2.0
/// One CPU register of elements, with the same few operations on every arch; the only door to
/// xsimd.
///
/// Other headers name reg<T, Arch> and the primitives, never an xsimd type.
#pragma once

#include <type_traits>  // std::is_base_of_v, std::conditional_t

#include "subbyte/core/arch.hpp"
#include "subbyte/num/rounding.hpp"

#if SUBBYTE_WITH_AVX2 || SUBBYTE_WITH_NEON
#include <xsimd/xsimd.hpp>

#if XSIMD_VERSION_MAJOR < 8 || (XSIMD_VERSION_MAJOR == 8 && XSIMD_VERSION_MINOR < 1)
#error "subbyte: simd/register.hpp needs xsimd 8.1 or later"
#endif

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

/// xsimd's name for the architecture of a tag; the one place that knows these names.
template <class Arch>
struct xsimd_name;
#if SUBBYTE_WITH_AVX2
template <>
struct xsimd_name<arch::avx2> {
  using type = xsimd::fma3<xsimd::avx2>;
};
#endif
#if SUBBYTE_WITH_AVX512
template <>
struct xsimd_name<arch::avx512> {
  using type = xsimd::avx512bw;
};
#endif
#if SUBBYTE_WITH_NEON
template <>
struct xsimd_name<arch::neon> {
  using type = xsimd::neon64;
};
#endif

/// xsimd's architecture under a name that holds our tag.
///
/// xsimd's functions are plain inline in 8.1, so two translation units with different -m flags
/// would share `xsimd::kernel::add<fma3<avx2>>`. A derived architecture puts SUBBYTE_ISA into the
/// symbols.
template <class Arch>
struct xsimd_arch : xsimd_name<Arch>::type {};

/// The tag that decides the registers of Arch; its descendants add instructions, not width.
template <class Arch>
using register_family = std::conditional_t<
    std::is_base_of_v<arch::avx512, Arch>, arch::avx512,
    std::conditional_t<std::is_base_of_v<arch::avx2, Arch>, arch::avx2, arch::neon>>;

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte

namespace xsimd {
namespace types {

// The entries of a derived architecture in xsimd's register tables, the same from 8.1 to 14.3. They
// are not derived from the entries of its base, whose constructors would be symbols without the
// tag.
template <class T, class Arch>
struct simd_register<T, subbyte::detail::xsimd_arch<Arch>> {
  using register_type =
      typename simd_register<T, typename subbyte::detail::xsimd_name<Arch>::type>::register_type;
  register_type data;

  simd_register() = default;
  SUBBYTE_INLINE simd_register(register_type native) noexcept : data(native) {}
  SUBBYTE_INLINE operator register_type() const noexcept { return data; }
};
template <class T, class Arch>
struct has_simd_register<T, subbyte::detail::xsimd_arch<Arch>>
    : has_simd_register<T, typename subbyte::detail::xsimd_name<Arch>::type> {};
template <class T, class Arch>
struct get_bool_simd_register<T, subbyte::detail::xsimd_arch<Arch>>
    : get_bool_simd_register<T, typename subbyte::detail::xsimd_name<Arch>::type> {};

}  // namespace types
}  // namespace xsimd
#endif

namespace subbyte {
inline namespace SUBBYTE_ABI {

template <class T, class Arch>
requires(Arch::enabled) struct reg;

/// The register of the specification: 512 bits of plain array, 16 floats or 64 bytes.
///
/// 16 floats are the 16 virtual lanes of a consistent dot product, so there the whole accumulator
/// is one register. The other archs have 32 bytes (avx2), 64 (avx512) or 16 (neon) per register.
///
/// Elements  float, and signed or unsigned integers of 8, 16 and 32 bits; integers wrap.
/// Numerics  each operation rounds once, to nearest even. The compiler may contract `a * b + c`:
///           write fma(a, b, c), or unfused(a * b) + c.
template <class T>
struct reg<T, arch::scalar> {
  static_assert(std::is_same_v<T, float> || (std::is_integral_v<T> && sizeof(T) <= 4));
  using value_type = T;
  using arch_type = arch::scalar;
  static constexpr int size = 64 / static_cast<int>(sizeof(T));

  T lanes[size];

  /// Reads `size` elements; any alignment that T allows.
  [[nodiscard]] SUBBYTE_INLINE static reg load(const T* p) noexcept {
    return make([&](int i) { return p[i]; });
  }
  [[nodiscard]] SUBBYTE_INLINE static reg broadcast(T value) noexcept {
    return make([&](int) { return value; });
  }
  /// Writes `size` elements; any alignment that T allows.
  SUBBYTE_INLINE void store(T* p) const noexcept {
    for (int i = 0; i < size; ++i) p[i] = lanes[i];
  }

  SUBBYTE_INLINE friend reg operator+(reg a, reg b) noexcept {
    return make([&](int i) { return static_cast<T>(wide(a.lanes[i]) + wide(b.lanes[i])); });
  }
  SUBBYTE_INLINE friend reg operator-(reg a, reg b) noexcept {
    return make([&](int i) { return static_cast<T>(wide(a.lanes[i]) - wide(b.lanes[i])); });
  }
  /// For float and for integers of 16 and 32 bits (the lower half of the product).
  SUBBYTE_INLINE friend reg operator*(reg a, reg b) noexcept requires(sizeof(T) > 1) {
    return make([&](int i) { return static_cast<T>(wide(a.lanes[i]) * wide(b.lanes[i])); });
  }
  SUBBYTE_INLINE friend reg operator&(reg a, reg b) noexcept requires(std::is_integral_v<T>) {
    return make([&](int i) { return static_cast<T>(a.lanes[i] & b.lanes[i]); });
  }
  SUBBYTE_INLINE friend reg operator|(reg a, reg b) noexcept requires(std::is_integral_v<T>) {
    return make([&](int i) { return static_cast<T>(a.lanes[i] | b.lanes[i]); });
  }

  /// a * b + c with one rounding.
  SUBBYTE_INLINE friend reg fma(reg a, reg b, reg c) noexcept requires(std::is_same_v<T, float>) {
    return make([&](int i) { return __builtin_fmaf(a.lanes[i], b.lanes[i], c.lanes[i]); });
  }
  /// a < b ? a : b, so b where either is NaN and where both are zeros.
  SUBBYTE_INLINE friend reg min(reg a, reg b) noexcept {
    return make([&](int i) { return a.lanes[i] < b.lanes[i] ? a.lanes[i] : b.lanes[i]; });
  }
  /// a > b ? a : b, so b where either is NaN and where both are zeros.
  SUBBYTE_INLINE friend reg max(reg a, reg b) noexcept {
    return make([&](int i) { return a.lanes[i] > b.lanes[i] ? a.lanes[i] : b.lanes[i]; });
  }
  /// Clears the sign bit, also of NaN.
  SUBBYTE_INLINE friend reg abs(reg a) noexcept requires(std::is_same_v<T, float>) {
    return make(
        [&](int i) { return bit_cast<float>(bit_cast<std::uint32_t>(a.lanes[i]) & 0x7FFFFFFFU); });
  }
  /// The argument, which no later operation is fused with; see num/rounding.hpp.
  SUBBYTE_INLINE friend reg unfused(reg a) noexcept requires(std::is_same_v<T, float>) {
    return make([&](int i) { return unfused(a.lanes[i]); });
  }

 private:
  template <class Lane>
  SUBBYTE_INLINE static reg make(Lane lane) noexcept {
    reg out;
    for (int i = 0; i < size; ++i) out.lanes[i] = lane(i);
    return out;
  }
  // Unsigned arithmetic wraps where int would overflow.
  SUBBYTE_INLINE static auto wide(T value) noexcept {
    if constexpr (std::is_same_v<T, float>) {
      return value;
    } else {
      return static_cast<std::uint32_t>(value);
    }
  }
};

#if SUBBYTE_WITH_AVX2 || SUBBYTE_WITH_NEON
/// One native register; operations and element types as in reg<T, arch::scalar>.
template <class T, class Arch>
requires(Arch::enabled) struct reg {
  static_assert(std::is_same_v<T, float> || (std::is_integral_v<T> && sizeof(T) <= 4));
  using value_type = T;
  using arch_type = Arch;

 private:
  using batch = xsimd::batch<T, detail::xsimd_arch<detail::register_family<Arch>>>;

 public:
  /// The compiler's own vector type, for intrinsics.
  using native_type = typename batch::register_type;
  static constexpr int size = static_cast<int>(sizeof(native_type) / sizeof(T));

  native_type native;

  [[nodiscard]] SUBBYTE_INLINE static reg load(const T* p) noexcept {
    return reg{batch::load_unaligned(p)};
  }
  [[nodiscard]] SUBBYTE_INLINE static reg broadcast(T value) noexcept {
#if SUBBYTE_WITH_NEON
    // In xsimd 8.1 neon64's broadcast does not compile for a derived architecture.
    return reg{xsimd::batch<T, xsimd::neon64>(value)};
#else
    return reg{batch(value)};
#endif
  }
  SUBBYTE_INLINE void store(T* p) const noexcept { batch(native).store_unaligned(p); }

  SUBBYTE_INLINE friend reg operator+(reg a, reg b) noexcept {
    return reg{batch(a.native) + batch(b.native)};
  }
  SUBBYTE_INLINE friend reg operator-(reg a, reg b) noexcept {
    return reg{batch(a.native) - batch(b.native)};
  }
  SUBBYTE_INLINE friend reg operator*(reg a, reg b) noexcept requires(sizeof(T) > 1) {
    return reg{batch(a.native) * batch(b.native)};
  }
  SUBBYTE_INLINE friend reg operator&(reg a, reg b) noexcept requires(std::is_integral_v<T>) {
    return reg{batch(a.native) & batch(b.native)};
  }
  SUBBYTE_INLINE friend reg operator|(reg a, reg b) noexcept requires(std::is_integral_v<T>) {
    return reg{batch(a.native) | batch(b.native)};
  }

  SUBBYTE_INLINE friend reg fma(reg a, reg b, reg c) noexcept requires(std::is_same_v<T, float>) {
#if SUBBYTE_WITH_AVX512
    // xsimd 8.1 has no fma for AVX-512: its generic one multiplies, rounds and adds.
    if constexpr (std::is_base_of_v<arch::avx512, Arch>) {
      return reg{_mm512_fmadd_ps(a.native, b.native, c.native)};
    }
#endif
    return reg{xsimd::fma(batch(a.native), batch(b.native), batch(c.native))};
  }
  SUBBYTE_INLINE friend reg min(reg a, reg b) noexcept {
    const lanes first = __builtin_bit_cast(lanes, a.native);
    const lanes second = __builtin_bit_cast(lanes, b.native);
    return reg{__builtin_bit_cast(native_type, first < second ? first : second)};
  }
  SUBBYTE_INLINE friend reg max(reg a, reg b) noexcept {
    const lanes first = __builtin_bit_cast(lanes, a.native);
    const lanes second = __builtin_bit_cast(lanes, b.native);
    return reg{__builtin_bit_cast(native_type, first > second ? first : second)};
  }
  SUBBYTE_INLINE friend reg abs(reg a) noexcept requires(std::is_same_v<T, float>) {
    return reg{xsimd::abs(batch(a.native))};
  }
  SUBBYTE_INLINE friend reg unfused(reg a) noexcept requires(std::is_same_v<T, float>) {
#if SUBBYTE_WITH_AVX512
    asm("" : "+v"(a.native));
#elif SUBBYTE_WITH_AVX2
    asm("" : "+x"(a.native));
#else
    asm("" : "+w"(a.native));
#endif
    return a;
  }

 private:
  // Compilers turn `first < second ? first : second` into the one instruction that means it.
  // xsimd's min differs on AArch64 for NaN and zeros, and its 512-bit one makes g++ 12 warn of an
  // uninitialised value in the caller's code.
  using lanes [[gnu::vector_size(sizeof(native_type))]] = T;
};
#endif

/// The low and the high 4 bits of every byte.
template <class Arch>
struct nibbles {
  reg<std::uint8_t, Arch> low;
  reg<std::uint8_t, Arch> high;
};

/// Bits 0-1, 2-3, 4-5 and 6-7 of every byte.
template <class Arch>
struct two_bit_codes {
  reg<std::uint8_t, Arch> part[4];
};

/// Every lane as a float, rounded to nearest even (exact up to 2^24 in magnitude).
template <class Arch>
[[nodiscard]] SUBBYTE_INLINE reg<float, Arch> to_float(reg<std::int32_t, Arch> x) noexcept {
  if constexpr (std::is_same_v<Arch, arch::scalar>) {
    reg<float, Arch> out;
    for (int i = 0; i < out.size; ++i) out.lanes[i] = static_cast<float>(x.lanes[i]);
    return out;
  } else {
    // Not xsimd::to_float, whose 512-bit intrinsic makes g++ 12 warn in the caller's code.
    using integers [[gnu::vector_size(sizeof(x))]] = std::int32_t;
    return reg<float, Arch>{__builtin_convertvector(__builtin_bit_cast(integers, x.native),
                                                    typename reg<float, Arch>::native_type)};
  }
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
