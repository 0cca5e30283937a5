// SPDX-License-Identifier: Apache-2.0
/// CPU capability clusters as tag types; inheritance is the order of fallback.
#pragma once

#include <type_traits>  // std::conditional_t

#include "subbyte/core/config.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace arch {
inline namespace SUBBYTE_ISA {

/// Plain C++: the specification of every kernel. Without hardware fma its std::fma is a library
/// call.
struct scalar {
  using base = void;
  static constexpr const char* name = "scalar";
  static constexpr bool enabled = true;
};
/// AVX2, FMA and F16C.
struct avx2 : scalar {
  using base = scalar;
  static constexpr const char* name = "avx2";
  static constexpr bool enabled = SUBBYTE_WITH_AVX2;
};
/// avx2 and the VEX-encoded 8-bit dot product.
struct avx_vnni : avx2 {
  using base = avx2;
  static constexpr const char* name = "avx_vnni";
  static constexpr bool enabled = SUBBYTE_WITH_AVX_VNNI;
};
/// AVX-512 F, BW, DQ and VL.
struct avx512 : avx2 {
  using base = avx2;
  static constexpr const char* name = "avx512";
  static constexpr bool enabled = SUBBYTE_WITH_AVX512;
};
/// avx512 and the 8-bit dot product.
struct avx512_vnni : avx512 {
  using base = avx512;
  static constexpr const char* name = "avx512_vnni";
  static constexpr bool enabled = SUBBYTE_WITH_AVX512_VNNI;
};
/// avx512_vnni and the bfloat16 dot product.
struct avx512_bf16 : avx512_vnni {
  using base = avx512_vnni;
  static constexpr const char* name = "avx512_bf16";
  static constexpr bool enabled = SUBBYTE_WITH_AVX512_BF16;
};
/// avx512_bf16 and the tile unit for 8-bit and bfloat16 products.
struct amx : avx512_bf16 {
  using base = avx512_bf16;
  static constexpr const char* name = "amx";
  static constexpr bool enabled = SUBBYTE_WITH_AMX;
};
/// AArch64 Advanced SIMD.
struct neon : scalar {
  using base = scalar;
  static constexpr const char* name = "neon";
  static constexpr bool enabled = SUBBYTE_WITH_NEON;
};
/// neon and the 8-bit dot product.
struct neon_dot : neon {
  using base = neon;
  static constexpr const char* name = "neon_dot";
  static constexpr bool enabled = SUBBYTE_WITH_NEON_DOT;
};
/// neon_dot and the 8-bit matrix product.
struct neon_i8mm : neon_dot {
  using base = neon_dot;
  static constexpr const char* name = "neon_i8mm";
  static constexpr bool enabled = SUBBYTE_WITH_NEON_I8MM;
};

namespace detail {
template <class First, class... Rest>
struct first_enabled {
  using type = typename std::conditional_t<First::enabled, std::type_identity<First>,
                                           first_enabled<Rest...>>::type;
};
template <class Last>
struct first_enabled<Last> {
  using type = Last;
};
}  // namespace detail

/// The best cluster that this translation unit's flags allow; scalar without -m flags.
using native = detail::first_enabled<amx, avx512_bf16, avx512_vnni, avx512, avx_vnni, avx2,
                                     neon_i8mm, neon_dot, neon, scalar>::type;

}  // namespace SUBBYTE_ISA
}  // namespace arch
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
