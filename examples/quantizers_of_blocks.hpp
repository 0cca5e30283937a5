// SPDX-License-Identifier: Apache-2.0
/// The registry's block formats as target formats, in two halves that compile beside each other.
#pragma once

#include "quantizers_of.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/io/gguf.hpp"

namespace example {

/// A format and its place in the registry.
using numbered_format = std::pair<int, target_format>;

template <class F, class... T>
constexpr int place_of(subbyte::type_list<T...>) {
  int place = 0;
  static_cast<void>(((std::is_same_v<F, T> || (++place, false)) || ...));
  return place;
}

/// Those at even places, or at odd ones.
template <int Parity>
std::vector<numbered_format> numbered_block_formats() {
  std::vector<numbered_format> list;
  subbyte::for_each_type(subbyte::file_formats{}, [&](auto tag) {
    using F = typename decltype(tag)::type;
    constexpr int place = place_of<F>(subbyte::file_formats{});
    if constexpr (subbyte::gguf_format<F> && place % 2 == Parity) {
      using owner = subbyte::matrix_of<F, subbyte::arch::native>;
      list.emplace_back(
          place, target_format{F::name, F::gguf_type, F::block_size, sizeof(F),
                               subbyte::gguf::tensor_type_of<F>().row_bytes, &quantize_to_blocks<F>,
                               &search_scale<F>, &takes_method<owner>});
    }
  });
  return list;
}

std::vector<numbered_format> odd_block_formats();

}  // namespace example
