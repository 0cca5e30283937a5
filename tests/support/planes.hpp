// SPDX-License-Identifier: Apache-2.0
/// The planes of planar matrices as vectors.
#pragma once

#include <vector>

#include "subbyte/matrix/planar_matrix.hpp"

namespace test_support {

/// One code per byte, in stored column order.
template <class G, class S, class Arch>
std::vector<std::uint8_t> codes_of(const subbyte::planar_matrix<G, S, Arch>& m) {
  const auto view = m.view();
  std::vector<std::uint8_t> codes;
  for (subbyte::index_t r = 0; r < view.rows(); ++r) {
    for (subbyte::index_t k = 0; k < view.cols(); ++k) {
      int code = 0;
      for (int bit = 0; bit < G::bits; ++bit) {
        const subbyte::index_t at = k * G::bits + bit;
        code |= (view.codes()[r * view.row_bytes() + at / 8] >> (at % 8) & 1) << bit;
      }
      codes.push_back(static_cast<std::uint8_t>(code));
    }
  }
  return codes;
}

template <class G, class S, class Arch>
std::vector<float> scales_of(const subbyte::planar_matrix<G, S, Arch>& m) {
  const auto view = m.view();
  std::vector<float> scales;
  for (subbyte::index_t i = 0; i < view.rows() * view.groups(); ++i) {
    scales.push_back(view.scales()[i].to_float());
  }
  return scales;
}

/// Of a grid whose zero points are codes.
template <class G, class S, class Arch>
std::vector<std::int32_t> zeros_of(const subbyte::planar_matrix<G, S, Arch>& m) {
  const auto view = m.view();
  std::vector<std::int32_t> zeros;
  for (subbyte::index_t r = 0; r < view.rows(); ++r) {
    for (subbyte::index_t g = 0; g < view.groups(); ++g) {
      zeros.push_back(static_cast<std::int32_t>(view.group_params(r, g).zero));
    }
  }
  return zeros;
}

/// Every weight, row-major, in the original column order.
template <class M>
std::vector<float> weights_of(const M& m) {
  const auto view = m.view();
  std::vector<float> w(static_cast<std::size_t>(view.rows() * view.cols()));
  for (subbyte::index_t r = 0; r < view.rows(); ++r) {
    view.decode_row(r, 0, view.cols(), w.data() + r * view.cols());
  }
  return w;
}

}  // namespace test_support
