// SPDX-License-Identifier: Apache-2.0
/// Blocks of each format that hold encoded random weights: what big matrices are tiled with.
#include "weights.hpp"

#include <cmath>
#include <random>
#include <stdexcept>

#include "subbyte/exec/executor.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/matrix/block_matrix.hpp"
#include "subbyte/matrix/row_scaled_matrix.hpp"
#include "subbyte/quantize/reference.hpp"

namespace bench {
namespace {

using subbyte::index_t;

template <class F>
encoded_row encoded() {
  constexpr index_t count = 16384;
  std::mt19937_64 generator(20261122);
  const auto uniform = [&] { return static_cast<double>(generator() >> 11) * 0x1p-53; };
  std::vector<float> w(static_cast<std::size_t>(count));
  for (float& v : w) {
    v = static_cast<float>(0.02 * std::sqrt(-2 * std::log(1 - uniform())) *
                           std::cos(6.283185307179586 * uniform()));
  }
  const subbyte::matrix_view<const float> row(w.data(), 1, count);
  const auto bytes = [](const void* from, std::size_t n) {
    const auto* const p = static_cast<const std::uint8_t*>(from);
    return std::vector<std::uint8_t>(p, p + n);
  };
  constexpr auto blocks = static_cast<std::size_t>(count / F::block_size) * sizeof(F);
  if constexpr (subbyte::row_scaled_format<F>) {
    subbyte::row_scaled_matrix<F> m(1, count);
    subbyte::reference{}.apply(row, m, subbyte::serial);
    const std::uint8_t* const data = m.view().data();
    constexpr std::size_t header = sizeof(typename F::row_scale);
    return {bytes(data, header), bytes(data + header, blocks)};
  } else {
    subbyte::block_matrix<F> m(1, count);
    subbyte::reference{}.apply(row, m, subbyte::serial);
    return {{}, bytes(m.view().data(), blocks)};
  }
}

}  // namespace

encoded_row encode_random_row(const std::string& format) {
  encoded_row out;
  const bool found = subbyte::visit_format<subbyte::file_formats>(
      format.c_str(), [&]<class F>(std::type_identity<F>) { out = encoded<F>(); });
  if (!found) throw std::invalid_argument("no format is called " + format);
  return out;
}

}  // namespace bench
