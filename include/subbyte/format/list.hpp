// SPDX-License-Identifier: Apache-2.0
/// The registry of block formats: tests, tables, file dispatch and benchmarks walk this one list.
#pragma once

#include <concepts>
#include <utility>  // std::in_range

#include "subbyte/core/type_list.hpp"
#include "subbyte/format/bf16.hpp"
#include "subbyte/format/f16.hpp"
#include "subbyte/format/f32.hpp"
#include "subbyte/format/iq1_m.hpp"
#include "subbyte/format/iq1_s.hpp"
#include "subbyte/format/iq2_k.hpp"
#include "subbyte/format/iq2_ks.hpp"
#include "subbyte/format/iq2_s.hpp"
#include "subbyte/format/iq2_xs.hpp"
#include "subbyte/format/iq2_xxs.hpp"
#include "subbyte/format/iq3_k.hpp"
#include "subbyte/format/iq3_ks.hpp"
#include "subbyte/format/iq3_s.hpp"
#include "subbyte/format/iq3_xxs.hpp"
#include "subbyte/format/iq4_k.hpp"
#include "subbyte/format/iq4_ks.hpp"
#include "subbyte/format/iq4_kss.hpp"
#include "subbyte/format/iq4_nl.hpp"
#include "subbyte/format/iq4_xs.hpp"
#include "subbyte/format/iq5_k.hpp"
#include "subbyte/format/iq5_ks.hpp"
#include "subbyte/format/iq6_k.hpp"
#include "subbyte/format/mxfp4.hpp"
#include "subbyte/format/nvfp4.hpp"
#include "subbyte/format/q1_0.hpp"
#include "subbyte/format/q2_0.hpp"
#include "subbyte/format/q2_k.hpp"
#include "subbyte/format/q3_k.hpp"
#include "subbyte/format/q4_0.hpp"
#include "subbyte/format/q4_1.hpp"
#include "subbyte/format/q4_k.hpp"
#include "subbyte/format/q5_0.hpp"
#include "subbyte/format/q5_1.hpp"
#include "subbyte/format/q5_k.hpp"
#include "subbyte/format/q6_0.hpp"
#include "subbyte/format/q6_k.hpp"
#include "subbyte/format/q8_0.hpp"
#include "subbyte/format/q8_1.hpp"
#include "subbyte/format/q8_k.hpp"
#include "subbyte/format/tq1_0.hpp"
#include "subbyte/format/tq2_0.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Every block format of the library. Names and gguf_type numbers are unique.
///
/// q8_1 and q8_k are here as partners: activations are quantized to them. They have no gguf_type.
using all_formats =
    type_list<f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q8_1, q2_k, q3_k, q4_k, q5_k, q6_k,
              q8_k, iq4_nl, iq4_xs, mxfp4, nvfp4, q1_0, q2_0, tq1_0, tq2_0, iq2_xxs, iq2_xs, iq2_s,
              iq3_xxs, iq3_s, iq1_s, iq1_m, q6_0, iq2_k, iq3_k, iq4_k, iq5_k, iq6_k>;

/// Every format whose rows begin with a scale: matrices of them are row_scaled_matrix.
using row_scaled_formats = type_list<iq2_ks, iq3_ks, iq4_ks, iq4_kss, iq5_ks>;

/// Everything that a tensor of a GGUF file is looked up in.
using file_formats = joined_t<all_formats, row_scaled_formats>;

/// Whether two names are equal but for the case of ASCII letters; null equals nothing.
[[nodiscard]] SUBBYTE_INLINE constexpr bool same_format_name(const char* a,
                                                             const char* b) noexcept {
  if (a == nullptr || b == nullptr) return false;
  const auto lower = [](char c) noexcept {
    return c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  };
  for (; lower(*a) == lower(*b); ++a, ++b) {
    if (*a == '\0') return true;
  }
  return false;
}

/// Calls body(std::type_identity<F>{}) for the format F of List with this name, "q4_k" or "Q4_K".
///
/// Returns  whether there is one; body is called at most once.
/// Cost     compares names in turn; the body is instantiated once per format of List.
template <class List = all_formats, class Body>
SUBBYTE_INLINE constexpr bool visit_format(const char* name, Body&& body) {
  return any_type(List{}, [&](auto format) {
    if (!same_format_name(decltype(format)::type::name, name)) return false;
    body(format);
    return true;
  });
}

/// Calls body(std::type_identity<F>{}) for the format F of List with this GGUF tensor type
/// number.
///
/// Returns  whether there is one; body is called at most once, and instantiated only for formats
///          that have a gguf_type.
template <class List = all_formats, std::integral Number, class Body>
SUBBYTE_INLINE constexpr bool visit_format(Number gguf_type, Body&& body) {
  return any_type(List{}, [&](auto format) {
    using F = typename decltype(format)::type;
    if constexpr (gguf_format<F>) {
      if (!std::in_range<std::uint32_t>(gguf_type)) return false;
      if (F::gguf_type != static_cast<std::uint32_t>(gguf_type)) return false;
      body(format);
      return true;
    } else {
      return false;
    }
  });
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
