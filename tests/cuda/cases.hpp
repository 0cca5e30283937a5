// SPDX-License-Identifier: Apache-2.0
/// What cuda/ promises, for every format: cases that run on a machine, emulated or real.
///
/// The program that includes this runs them all; what needs a large matrix stands in large.cu.
#pragma once

#include <cmath>
#include <string>
#include <utility>  // std::declval
#include <vector>

#include "cuda/bounds.hpp"
#include "cuda/machines.hpp"
#include "subbyte/cuda/dequantize.cuh"
#include "subbyte/cuda/gemv.cuh"
#include "subbyte/cuda/octet/all.cuh"
#include "subbyte/cuda/quantize.cuh"
#include "subbyte/format/list.hpp"
#include "subbyte/quantize/rtn.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace cuda_cases {

using namespace subbyte;
using test_support::machine;

struct shape {
  index_t rows;
  index_t cols;
};

inline std::vector<std::uint8_t> random_bytes(index_t count, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count));
  for (auto& b : bytes) b = static_cast<std::uint8_t>(generator() >> 56);
  return bytes;
}

/// Bytes of a matrix somewhere in memory: `offset` bytes behind an address as aligned as they come.
/// View is block_matrix_view<F> or row_scaled_matrix_view<F>.
template <class View>
struct placed_bytes {
  placed_bytes(const machine& on, std::vector<std::uint8_t> content, shape s, index_t offset)
      : host_bytes(std::move(content)),
        device_memory(on.place([&] {
          std::vector<std::uint8_t> moved(static_cast<std::size_t>(offset), 0xFF);
          moved.insert(moved.end(), host_bytes.begin(), host_bytes.end());
          return moved;
        }())),
        host(view_at(host_bytes.data(), s)),
        device(view_at(device_memory.data() + offset, s)) {}

  template <class Byte>
  static View view_at(Byte* bytes, shape s) {
    if constexpr (requires { typename View::scale_type; }) {
      return View(bytes, s.rows, s.cols);
    } else {
      return View(reinterpret_cast<const typename View::format*>(bytes), s.rows, s.cols);
    }
  }

  std::vector<std::uint8_t> host_bytes;
  machine::memory<std::uint8_t> device_memory;
  View host;
  cuda::device_view<View> device;
};

template <class F>
constexpr bool is_row_scaled = row_scaled_format<F>;
template <class F>
using view_of =
    std::conditional_t<is_row_scaled<F>, row_scaled_matrix_view<F>, block_matrix_view<F>>;

template <class T>
T host_rounded(float v) {
  if constexpr (std::is_same_v<T, float>) {
    return v;
  } else {
    return T::nearest(v);
  }
}
template <class T>
bool is_nan(T v) {
  if constexpr (std::is_same_v<T, float>) {
    return std::isnan(v);
  } else {
    return v.is_nan();
  }
}
template <class T>
bool same(T a, T b) {
  return std::memcmp(&a, &b, sizeof(T)) == 0 || (is_nan(a) && is_nan(b));
}

/// Rows `source` of `expected` [., cols] stand in out, rounded to T; what lies between the rows is
/// as poisoned() left it.
template <class T>
void check_rows(const std::vector<T>& out, index_t pitch, const std::vector<index_t>& source,
                const std::vector<float>& expected, index_t rows, index_t cols) {
  const T untouched = test_support::all_ones<T>(1)[0];
  const auto wrong = [&](std::size_t i, index_t k) {
    const bool exists = source[i] >= 0 && source[i] < rows;
    const T found = out[i * static_cast<std::size_t>(pitch) + static_cast<std::size_t>(k)];
    if (k >= cols) return std::memcmp(&found, &untouched, sizeof(T)) != 0;
    if (!exists) return !is_nan(found);
    return !same(found, host_rounded<T>(expected[static_cast<std::size_t>(source[i] * cols + k)]));
  };
  for (std::size_t i = 0; i < source.size(); ++i) {
    const index_t end = i + 1 == source.size() ? cols : pitch;  // the array ends with its last row
    for (index_t k = 0; k < end; ++k) {
      if (wrong(i, k)) FAIL("row " << i << ", column " << k);
    }
  }
}

template <class T, class View>
void check_dequantize(const machine& on, const View& host, cuda::device_view<View> device,
                      index_t pitch) {
  const index_t rows = host.rows();
  const index_t cols = host.cols();
  std::vector<index_t> all;
  for (index_t r = 0; r < rows; ++r) all.push_back(r);
  const auto out = on.poisoned<T>(static_cast<std::size_t>((rows - 1) * pitch + cols));
  cuda::dequantize(on.queue(), device,
                   cuda::device_tensor_view<T, 2, row_pitched>(
                       tensor_view<T, 2, row_pitched>(out.data(), {rows, cols}, {pitch})));
  check_rows(out.read(), pitch, all, decoded(host), rows, cols);
}

template <class View>
void check_get_rows(const machine& on, const View& host, cuda::device_view<View> device) {
  const std::vector<index_t> wanted{host.rows() - 1, 0, -1, 0, host.rows(), index_t{1} << 40};
  const auto indices = on.place(wanted);
  const auto count = static_cast<index_t>(wanted.size());
  const auto out = on.poisoned<half>(static_cast<std::size_t>(count * host.cols()));
  cuda::get_rows(
      on.queue(), device,
      cuda::device_view<vector_view<const index_t>>(
          vector_view<const index_t>(indices.data(), count)),
      cuda::device_tensor_view<half, 2>(matrix_view<half>(out.data(), count, host.cols())));
  check_rows(out.read(), host.cols(), wanted, decoded(host), host.rows(), host.cols());
}

/// y against a product in double of the decoded weights; `extra` is the relative error that every
/// product has besides the roundings of the sum, `absolute` that of a product of levels.
template <class View, class X>
void check_products(const std::vector<float>& y, index_t pitch, const View& host,
                    const std::vector<float>& x, index_t m, double extra) {
  const auto w = decoded(host);
  const auto size = magnitudes(host);
  const double unit = std::ldexp(1.0, -24);
  const auto cols = static_cast<std::size_t>(host.cols());
  const double relative =
      cuda::gemv_kernel<View, X, 8>::roundings(host.cols()) * unit * 1.001 + extra;
  for (index_t i = 0; i < m; ++i) {
    for (index_t r = 0; r < host.rows(); ++r) {
      double exact = 0;
      // What lies below the normal floats rounds by 2^-149, at most 2^28 times.
      double bound = std::ldexp(1.0, -121);
      for (std::size_t k = 0; k < cols; ++k) {
        const double activation = x[static_cast<std::size_t>(i) * cols + k];
        exact += activation * static_cast<double>(w[static_cast<std::size_t>(r) * cols + k]);
        bound += relative * std::fabs(activation) * size[static_cast<std::size_t>(r) * cols + k];
      }
      const float found = y[static_cast<std::size_t>(i * pitch + r)];
      if (!(std::fabs(static_cast<double>(found) - exact) <= bound)) {
        FAIL("x " << i << ", row " << r << ": " << found << ", exact " << exact << " +- " << bound);
      }
    }
  }
}

/// Products of m rows of x in every arithmetic that the matrix has, and the same bits once more.
template <class View>
void check_gemv(const machine& on, const View& host, cuda::device_view<View> device, index_t m,
                index_t x_pitch, std::uint64_t seed) {
  const index_t n = host.rows();
  const index_t k = host.cols();
  auto dense = test_support::normal_vector(static_cast<std::size_t>(m * k), 1.0, seed);
  // Numbers that fp16 holds, so that all arithmetics see the same x.
  for (float& v : dense) v = half::nearest(v).to_float();
  std::vector<float> pitched(static_cast<std::size_t>((m - 1) * x_pitch + k), NAN);
  for (index_t i = 0; i < m; ++i) {
    for (index_t j = 0; j < k; ++j) {
      pitched[static_cast<std::size_t>(i * x_pitch + j)] =
          dense[static_cast<std::size_t>(i * k + j)];
    }
  }
  const index_t y_pitch = n + 3;
  const auto count = static_cast<std::size_t>((m - 1) * y_pitch + n);
  const auto y_view = [&](const machine::memory<float>& y) {
    return cuda::device_tensor_view<float, 2, row_pitched>(
        tensor_view<float, 2, row_pitched>(y.data(), {m, n}, {y_pitch}));
  };
  const auto untouched_between = [&](const std::vector<float>& y) {
    for (index_t i = 0; i + 1 < m; ++i) {
      for (index_t r = n; r < y_pitch; ++r) {
        if (bit_cast<std::uint32_t>(y[static_cast<std::size_t>(i * y_pitch + r)]) != ~0U)
          return false;
      }
    }
    return true;
  };

  const auto x = on.place(pitched);
  const cuda::device_tensor_view<float, 2, row_pitched> x_view(
      tensor_view<float, 2, row_pitched>(x.data(), {m, k}, {x_pitch}));
  const auto y = on.poisoned<float>(count);
  cuda::gemv(on.queue(), device, x_view, y_view(y));
  const auto found = y.read();
  check_products<View, cuda::float_activations>(found, y_pitch, host, dense, m, 0);
  REQUIRE(untouched_between(found));
  const auto again = on.poisoned<float>(count);
  cuda::gemv(on.queue(), device, x_view, y_view(again));
  const auto second = again.read();
  REQUIRE(std::memcmp(second.data(), found.data(), count * sizeof(float)) == 0);

  if constexpr (cuda::integer_levels<View>) {
    std::vector<half> halves(pitched.size());
    for (std::size_t i = 0; i < pitched.size(); ++i) halves[i] = half::nearest(pitched[i]);
    const auto xh = on.place(halves);
    const auto yh = on.poisoned<float>(count);
    cuda::gemv(on.queue(), device,
               cuda::device_tensor_view<half, 2, row_pitched>(
                   tensor_view<half, 2, row_pitched>(xh.data(), {m, k}, {x_pitch})),
               y_view(yh));
    // Two roundings of halves for each product, and the square of one; the few products that are
    // no normal halves are lost among the others.
    check_products<View, cuda::half_activations>(yh.read(), y_pitch, host, dense, m,
                                                 2.01 * std::ldexp(1.0, -11));

    const index_t pitch = cuda::quantized_rows::pitch(k);
    const auto codes = on.poisoned<std::int8_t>(static_cast<std::size_t>(m * pitch));
    const auto scales = on.poisoned<float>(static_cast<std::size_t>(m * pitch / 32));
    const cuda::quantized_rows room{
        cuda::device_tensor_view<std::int8_t, 2>(matrix_view<std::int8_t>(codes.data(), m, pitch)),
        cuda::device_tensor_view<float, 2>(matrix_view<float>(scales.data(), m, pitch / 32))};
    const auto yi = on.poisoned<float>(count);
    cuda::gemv(on.queue(), device, cuda::quantize_activations(on.queue(), x_view, room),
               y_view(yi));
    const auto stored_codes = codes.read();
    const auto stored_scales = scales.read();
    std::vector<float> quantized(dense.size());
    for (index_t i = 0; i < m; ++i) {
      for (index_t j = 0; j < pitch; ++j) {
        const float scale = stored_scales[static_cast<std::size_t>((i * pitch + j) / 32)];
        const int code = stored_codes[static_cast<std::size_t>(i * pitch + j)];
        if (j >= k) {
          if (code != 0) FAIL("x " << i << ", " << j << " is padding");
          continue;
        }
        const float v = dense[static_cast<std::size_t>(i * k + j)];
        // Half a step, and what the quotient of at most 127 rounds by.
        if (!(std::fabs(static_cast<double>(v) - static_cast<double>(scale) * code) <=
              0.5001 * static_cast<double>(scale))) {
          FAIL("x " << i << ", " << j << ": " << v << " is " << code << " x " << scale);
        }
        // In float, as the product has it; exact enough for the bound, which is of the sum.
        quantized[static_cast<std::size_t>(i * k + j)] = scale * static_cast<float>(code);
      }
    }
    // The product of two scales and that of scale and code above each round once more.
    check_products<View, cuda::integer_activations>(yi.read(), y_pitch, host, quantized, m,
                                                    4 * std::ldexp(1.0, -24));
  }
}

/// One-hot x: y is a column of W, to the bit.
template <class View>
void check_one_hot(const machine& on, const View& host, cuda::device_view<View> device) {
  const auto w = decoded(host);
  const index_t n = host.rows();
  const index_t k = host.cols();
  for (index_t k0 = 0; k0 < k; k0 += 8) {
    const index_t m = k - k0 < 8 ? k - k0 : 8;
    std::vector<float> hot(static_cast<std::size_t>(m * k));
    for (index_t i = 0; i < m; ++i) hot[static_cast<std::size_t>(i * k + k0 + i)] = 1;
    const auto x = on.place(hot);
    const auto y = on.poisoned<float>(static_cast<std::size_t>(m * n));
    cuda::gemv(on.queue(), device,
               cuda::device_tensor_view<float, 2>(matrix_view<float>(x.data(), m, k)),
               cuda::device_tensor_view<float, 2>(matrix_view<float>(y.data(), m, n)));
    const auto found = y.read();
    for (index_t i = 0; i < m; ++i) {
      for (index_t r = 0; r < n; ++r) {
        if (found[static_cast<std::size_t>(i * n + r)] !=
            w[static_cast<std::size_t>(r * k + k0 + i)]) {
          FAIL("row " << r << ", column " << k0 + i);
        }
      }
    }
  }
}

#if defined(SUBBYTE_TESTED_FORMATS)
using tested_formats = joined_t<type_list<SUBBYTE_TESTED_FORMATS>, type_list<iq2_ks, iq4_kss>>;
#else
using tested_formats = file_formats;
#endif

// A build may take the formats in parts, each a program of its own: nvcc needs minutes for all.
#if !defined(SUBBYTE_TEST_PARTS)
#define SUBBYTE_TEST_PARTS 1
#define SUBBYTE_TEST_PART 0
#endif

template <class Body, class... F, std::size_t... I>
void for_each_of_part(Body&& body, type_list<F...>, std::index_sequence<I...>) {
  const auto one = [&]<std::size_t Index, class Format>() {
    if constexpr (Index % SUBBYTE_TEST_PARTS == SUBBYTE_TEST_PART) {
      body(std::type_identity<Format>{});
    }
  };
  (one.template operator()<I, F>(), ...);
}
template <class... F>
constexpr auto indices_of(type_list<F...>) {
  return std::index_sequence_for<F...>{};
}
template <class Body>
void for_each_tested_format(Body&& body) {
  for_each_of_part(body, tested_formats{}, indices_of(tested_formats{}));
}

/// Bytes of normal weights in F.
template <class F>
std::vector<std::uint8_t> encoded_bytes(shape s, std::uint64_t seed) {
  const auto w = test_support::normal_vector(static_cast<std::size_t>(s.rows * s.cols), 0.02, seed);
  const matrix_view<const float> view(w.data(), s.rows, s.cols);
  const auto bytes_of = [](const auto& m) {
    const auto v = m.view();
    const auto* begin = reinterpret_cast<const std::uint8_t*>(v.data());
    return std::vector<std::uint8_t>(begin, begin + v.size_bytes());
  };
  if constexpr (is_row_scaled<F>) {
    row_scaled_matrix<F> m(s.rows, s.cols);
    reference{}.apply(view, m, serial);
    return bytes_of(m);
  } else {
    block_matrix<F> m(s.rows, s.cols);
    reference{}.apply(view, m, serial);
    return bytes_of(m);
  }
}

template <class F>
index_t matrix_bytes(shape s) {
  return view_of<F>(nullptr, s.rows, s.cols).size_bytes();
}

/// Shapes that F's matrices may have: whole blocks for those whose rows begin with a scale.
template <class F>
std::vector<shape> ragged_shapes() {
  if (is_row_scaled<F>) return {{1, 256}, {5, 1280}};
  return {{1, 1}, {3, 31}, {2, 256}, {5, 300}, {7, 1284}};
}

/// The planes of a host's matrix where a device reads them: what cuda::device_matrix places, with
/// every plane where it can be seen to be left.
template <class G, class S>
struct placed_planes {
  using view_type = planar_matrix_view<G, S>;
  using zero = typename view_type::zero;
  template <class T>
  using memory = machine::memory<T>;

  placed_planes(const machine& on, const view_type& m)
      : host(m),
        codes(on.place(std::vector<std::uint8_t>(m.codes(), m.codes() + m.rows() * m.row_bytes()))),
        scales(on.place(plane(m))),
        outer(on.place(outer_plane(m))),
        zeros(on.place(zero_plane(m))),
        order(on.place(order_plane(m, m.order()))),
        position(on.place(order_plane(m, m.position()))),
        device(view_type(m.rows(), m.cols(), {m.group_size()}, codes.data(), scales_on_device(m),
                         zeros_on_device(), m.order() != nullptr ? order.data() : nullptr,
                         m.order() != nullptr ? position.data() : nullptr)) {}

  static auto plane(const view_type& m) {
    const auto count = m.rows() * m.groups();
    if constexpr (is_nested_scale<S>) {
      return std::vector<typename S::inner>(m.scales().codes(), m.scales().codes() + count);
    } else {
      return std::vector<S>(m.scales().data(), m.scales().data() + count);
    }
  }
  static std::vector<float> outer_plane(const view_type& m) {
    if constexpr (is_nested_scale<S>) {
      const auto count = ceil_div(m.rows() * m.groups(), S::block);
      return std::vector<float>(m.scales().outer(), m.scales().outer() + count);
    } else {
      return std::vector<float>(1);
    }
  }
  static auto zero_plane(const view_type& m) {
    if constexpr (G::zeros == zero_points::none) {
      return std::vector<std::uint8_t>(1);
    } else {
      return std::vector<zero>(m.zeros(), m.zeros() + m.rows() * m.groups());
    }
  }
  static std::vector<std::int32_t> order_plane(const view_type& m, const std::int32_t* from) {
    if (from == nullptr) return std::vector<std::int32_t>(1);
    return std::vector<std::int32_t>(from, from + m.cols());
  }
  scale_plane<S> scales_on_device(const view_type& m) const {
    if constexpr (is_nested_scale<S>) {
      return scale_plane<S>(scales.data(), outer.data(), m.scales().offset());
    } else {
      static_cast<void>(m);
      return scale_plane<S>(scales.data());
    }
  }
  const zero* zeros_on_device() const {
    if constexpr (G::zeros == zero_points::none) {
      return nullptr;
    } else {
      return zeros.data();
    }
  }

  view_type host;
  memory<std::uint8_t> codes;
  memory<typename decltype(plane(std::declval<view_type>()))::value_type> scales;
  memory<float> outer;
  memory<typename decltype(zero_plane(std::declval<view_type>()))::value_type> zeros;
  memory<std::int32_t> order;
  memory<std::int32_t> position;
  cuda::device_view<view_type> device;
};

/// Every column elsewhere.
inline std::vector<std::int32_t> shuffled_columns(index_t cols) {
  std::vector<std::int32_t> order(static_cast<std::size_t>(cols));
  for (index_t k = 0; k < cols; ++k) {
    order[static_cast<std::size_t>(k)] = static_cast<std::int32_t>(k);
  }
  std::mt19937_64 generator(5);
  for (std::size_t i = order.size(); i > 1; --i) std::swap(order[i - 1], order[generator() % i]);
  return order;
}

template <class G, class S>
void check_planar(const machine& on, const planar_matrix_view<G, S>& host, std::uint64_t seed) {
  const placed_planes<G, S> w(on, host);
  check_dequantize<float>(on, host, w.device, host.cols());
  check_dequantize<half>(on, host, w.device, host.cols() + 1);
  check_get_rows(on, host, w.device);
  for (const index_t m : {1, 3, 8}) {
    check_gemv(on, host, w.device, m, m == 3 ? host.cols() + 1 : host.cols(), seed);
  }
  check_one_hot(on, host, w.device);
}

template <class G, class S>
void check_planar_shapes(const machine& on) {
  std::uint64_t seed = 900;
  for (const shape s : {shape{3, 300}, shape{2, 72}, shape{5, 1}}) {
    for (const index_t group : {8, 48, 128, 1 << 20}) {
      for (const bool ordered : {false, true}) {
        INFO(G::bits << " bits, " << s.rows << " x " << s.cols << " in groups of " << group
                     << (ordered ? ", ordered" : ""));
        const auto x =
            test_support::normal_vector(static_cast<std::size_t>(s.rows * s.cols), 0.02, ++seed);
        const matrix_view<const float> weights(x.data(), s.rows, s.cols);
        planar_matrix<G, std::conditional_t<is_nested_scale<S>, f32_scale, S>> m(s.rows, s.cols,
                                                                                 {group});
        const auto columns = shuffled_columns(s.cols);
        if (ordered) m.set_column_order({columns.data(), s.cols});
        rtn{}.apply(weights, m, serial);
        if constexpr (is_nested_scale<S>) {
          const auto nested = planar_matrix<G, S>::nest_scales(m.view(), 448.0F);
          check_planar(on, nested.view(), seed);
        } else {
          check_planar(on, m.view(), seed);
        }
      }
    }
  }
}

/// Rows that make an encoder's special cases: zeros of both signs, equal magnitudes of both signs,
/// weights whose scale has no reciprocal or no fp16, a short last block.
inline std::vector<float> special_rows(shape s, std::uint64_t seed) {
  auto w = test_support::normal_vector(static_cast<std::size_t>(s.rows * s.cols), 1.0, seed);
  for (index_t r = 0; r < s.rows; ++r) {
    for (index_t k = 0; k < s.cols; ++k) {
      float& v = w[static_cast<std::size_t>(r * s.cols + k)];
      switch (r % 8) {
        case 1:
          v = k % 3 == 0 ? -0.0F : 0.0F;
          break;
        case 2:
          v = k % 2 == 0 ? 1.5F : -1.5F;
          break;
        case 3:
          v = k % 2 == 0 ? -1.5F : 1.5F;
          break;
        case 4:
          v *= 1e-40F;
          break;
        case 5:
          v *= 1e-6F;
          break;
        case 6:
          v *= 1e37F;
          break;
        case 7:
          v = k % 5 == 0 ? std::rint(v * 2) / 2 : 0.5F;
          break;
        default:
          break;
      }
    }
  }
  return w;
}

template <class F>
void check_quantize(const machine& on, shape s, index_t pitch) {
  const auto w = special_rows(s, 77);
  std::vector<float> pitched(static_cast<std::size_t>(s.rows * pitch), NAN);
  for (index_t r = 0; r < s.rows; ++r) {
    std::memcpy(pitched.data() + r * pitch, w.data() + r * s.cols,
                static_cast<std::size_t>(s.cols) * sizeof(float));
  }
  block_matrix<F> expected(s.rows, s.cols);
  reference{}.apply(matrix_view<const float>(w.data(), s.rows, s.cols), expected, serial);
  const auto x = on.place(pitched);
  const index_t row_blocks = expected.view().blocks_per_row();
  const auto out = on.poisoned<F>(static_cast<std::size_t>(s.rows * row_blocks));
  cuda::quantize(on.queue(),
                 cuda::device_tensor_view<const float, 2, row_pitched>(
                     tensor_view<const float, 2, row_pitched>(x.data(), {s.rows, s.cols}, {pitch})),
                 cuda::device_tensor_view<F, 2>(matrix_view<F>(out.data(), s.rows, row_blocks)));
  const auto found = out.read();
  for (index_t b = 0; b < s.rows * row_blocks; ++b) {
    if (std::memcmp(&found[static_cast<std::size_t>(b)], expected.view().data() + b, sizeof(F)) !=
        0) {
      FAIL(F::name << ": row " << b / row_blocks << ", block " << b % row_blocks);
    }
  }
}

template <class G, class S>
void check_quantize_groups(const machine& on, shape s, index_t group_size) {
  const auto w = special_rows(s, 78);
  planar_matrix<G, S> expected(s.rows, s.cols, {group_size});
  rtn{}.apply(matrix_view<const float>(w.data(), s.rows, s.cols), expected, serial);
  const auto view = expected.view();
  const auto x = on.place(w);
  const auto codes = on.poisoned<std::uint8_t>(static_cast<std::size_t>(s.rows * view.row_bytes()));
  const auto scales = on.poisoned<S>(static_cast<std::size_t>(s.rows * view.groups()));
  cuda::quantize_groups<G>(
      on.queue(), cuda::device_tensor_view<float, 2>(matrix_view<float>(x.data(), s.rows, s.cols)),
      group_size,
      cuda::device_tensor_view<std::uint8_t, 2>(
          matrix_view<std::uint8_t>(codes.data(), s.rows, view.row_bytes())),
      cuda::device_tensor_view<S, 2>(matrix_view<S>(scales.data(), s.rows, view.groups())));
  const auto found_codes = codes.read();
  const auto found_scales = scales.read();
  INFO("groups of " << group_size);
  REQUIRE(std::memcmp(found_scales.data(), view.scales().data(), found_scales.size() * sizeof(S)) ==
          0);
  for (std::size_t i = 0; i < found_codes.size(); ++i) {
    if (found_codes[i] != view.codes()[i]) {
      FAIL("row " << i / static_cast<std::size_t>(view.row_bytes()) << ", byte "
                  << i % static_cast<std::size_t>(view.row_bytes()));
    }
  }
}

}  // namespace cuda_cases

TEST_CASE("Random bytes of every format are dequantized as the host does") {
  using namespace cuda_cases;
  const machine on;
  for_each_tested_format([&]<class F>(std::type_identity<F>) {
    for (const shape s : ragged_shapes<F>()) {
      // Aligned to 16 bytes, and to as little as F may be.
      for (const index_t offset : {index_t{0}, index_t{4}, static_cast<index_t>(alignof(F))}) {
        INFO(F::name << ' ' << s.rows << " x " << s.cols << ", " << offset << " bytes behind");
        const placed_bytes<view_of<F>> w(on, random_bytes(matrix_bytes<F>(s), 7), s, offset);
        check_dequantize<float>(on, w.host, w.device, s.cols);
        check_dequantize<float>(on, w.host, w.device, s.cols + 3);
        check_dequantize<half>(on, w.host, w.device, (s.cols + 3) / 4 * 4);
        check_dequantize<bfloat16>(on, w.host, w.device, s.cols);
      }
    }
  });
}

TEST_CASE("Rows of every format are looked up, and rows that do not exist are NaN") {
  using namespace cuda_cases;
  const machine on;
  for_each_tested_format([&]<class F>(std::type_identity<F>) {
    INFO(F::name);
    const shape s{3, 512};
    const placed_bytes<view_of<F>> w(on, random_bytes(matrix_bytes<F>(s), 8), s, 0);
    check_get_rows(on, w.host, w.device);
  });
}

TEST_CASE("Products with one to eight rows of x are within their bounds, the same in every run") {
  using namespace cuda_cases;
  const machine on;
  for_each_tested_format([&]<class F>(std::type_identity<F>) {
    std::uint64_t seed = 100;
    for (const shape s : ragged_shapes<F>()) {
      for (const index_t m : {1, 2, 3, 5, 8}) {
        INFO(F::name << ' ' << s.rows << " x " << s.cols << ", " << m << " rows of x");
        const index_t offset = m % 2 == 0 ? 0 : static_cast<index_t>(alignof(F));
        const placed_bytes<view_of<F>> w(on, encoded_bytes<F>(s, ++seed), s, offset);
        check_gemv(on, w.host, w.device, m, m % 2 == 0 ? s.cols : (s.cols + 7) / 4 * 4, seed);
      }
    }
  });
}

// What the device's sanitizers see: they slow every call down, so one ragged shape of each kind.
TEST_CASE("A ragged matrix of every format, misaligned and not", "[sanitize]") {
  using namespace cuda_cases;
  const machine on;
  for_each_tested_format([&]<class F>(std::type_identity<F>) {
    const shape s{5, is_row_scaled<F> ? 1280 : 1300};
    for (const index_t offset : {index_t{0}, static_cast<index_t>(alignof(F))}) {
      INFO(F::name << ", " << offset << " bytes behind");
      const placed_bytes<view_of<F>> w(on, encoded_bytes<F>(s, 21), s, offset);
      check_dequantize<half>(on, w.host, w.device, s.cols + 1);
      check_get_rows(on, w.host, w.device);
      check_gemv(on, w.host, w.device, 3, s.cols + offset, 22);
    }
  });
}

TEST_CASE("A one-hot x picks a column of W, to the bit") {
  using namespace cuda_cases;
  const machine on;
  for_each_tested_format([&]<class F>(std::type_identity<F>) {
    INFO(F::name);
    const shape s{3, is_row_scaled<F> ? 256 : 288};
    const placed_bytes<view_of<F>> w(on, encoded_bytes<F>(s, 5), s, 0);
    check_one_hot(on, w.host, w.device);
  });
}

#if SUBBYTE_TEST_PART == 0
TEST_CASE("Planar matrices of every grid, scale, zero point and column order", "[planar]") {
  using namespace cuda_cases;
  const machine on;
  check_planar_shapes<int_grid<4>, half>(on);
  check_planar_shapes<int_grid<3, zero_points::none>, bfloat16>(on);
  check_planar_shapes<int_grid<2, zero_points::real>, half>(on);
  check_planar_shapes<int_grid<8>, f32_scale>(on);
  check_planar_shapes<codebook_grid<nf4>, f32_scale>(on);
  check_planar_shapes<codebook_grid<nf4>, nested_scale<e4m3fn>>(on);
  check_planar_shapes<codebook_grid<fp4_e2m1>, e8m0>(on);
}

TEST_CASE("The group of a column is found in long rows too") {
  using namespace cuda_cases;
  const machine on;
  const index_t cols = 70001;
  for (const index_t group : {8, 24, 120, 4104, 65536}) {
    INFO("groups of " << group);
    planar_matrix<codebook_grid<nf4>, f32_scale> m(1, cols, {group});
    const auto x = test_support::normal_vector(static_cast<std::size_t>(cols), 0.02, 33);
    rtn{}.apply(matrix_view<const float>(x.data(), 1, cols), m, serial);
    const placed_planes<codebook_grid<nf4>, f32_scale> w(on, m.view());
    check_dequantize<float>(on, w.host, w.device, cols);
  }
}

TEST_CASE("A ragged planar matrix, ordered", "[sanitize]") {
  using namespace cuda_cases;
  const machine on;
  planar_matrix<int_grid<3>, half> m(5, 300, {48});
  const auto columns = shuffled_columns(300);
  m.set_column_order({columns.data(), 300});
  const auto x = test_support::normal_vector(5 * 300, 0.02, 31);
  rtn{}.apply(matrix_view<const float>(x.data(), 5, 300), m, serial);
  const placed_planes<int_grid<3>, half> w(on, m.view());
  check_dequantize<half>(on, w.host, w.device, 301);
  check_gemv(on, w.host, w.device, 3, 300, 32);
}

TEST_CASE("What a device quantizes are the host's bytes", "[sanitize]") {
  using namespace cuda_cases;
  const machine on;
  check_quantize<q8_0>(on, {16, 160}, 160);
  check_quantize<q8_0>(on, {9, 75}, 80);
  check_quantize<q4_0>(on, {16, 160}, 160);
  check_quantize<q4_0>(on, {9, 75}, 80);
  check_quantize<mxfp4>(on, {16, 160}, 160);
  check_quantize<mxfp4>(on, {9, 75}, 80);
  for (const index_t group : {8, 64, 1 << 20}) {
    check_quantize_groups<int_grid<8, zero_points::none>, f32_scale>(on, {9, 300}, group);
    check_quantize_groups<int_grid<3, zero_points::none>, half>(on, {8, 75}, group);
    check_quantize_groups<codebook_grid<nf4>, f32_scale>(on, {9, 300}, group);
    check_quantize_groups<codebook_grid<fp4_e2m1>, f32_scale>(on, {8, 75}, group);
    check_quantize_groups<codebook_grid<iq4>, bfloat16>(on, {8, 136}, group);
  }
}
#endif

TEST_CASE("Calls refuse shapes that do not fit, by name") {
  using namespace cuda_cases;
  const machine on;
  const auto floats = on.poisoned<float>(1024);
  const auto* blocks = reinterpret_cast<const q4_0*>(floats.data());
  const cuda::device_view<block_matrix_view<q4_0>> w(block_matrix_view<q4_0>(blocks, 4, 64));
  const auto dense = [&](index_t rows, index_t cols) {
    return cuda::device_tensor_view<float, 2>(matrix_view<float>(floats.data(), rows, cols));
  };
  const auto refused = [](auto&& call, const std::string& part) {
    try {
      call();
    } catch (const error& e) {
      INFO(e.what());
      REQUIRE(e.code() == errc::bad_shape);
      REQUIRE(std::string(e.what()).find(part) != std::string::npos);
      return;
    }
    FAIL("nothing was thrown");
  };
  refused([&] { cuda::dequantize(on.queue(), w, dense(4, 63)); }, "4 x 64 is required");
  refused([&] { cuda::dequantize(on.queue(), w, dense(5, 64)); }, "an output of 5 x 64");
  refused(
      [&] {
        cuda::get_rows(on.queue(), w,
                       cuda::device_view<vector_view<const index_t>>(vector_view<const index_t>(
                           reinterpret_cast<const index_t*>(floats.data()), 3)),
                       dense(4, 64));
      },
      "get_rows");
  refused([&] { cuda::gemv(on.queue(), w, dense(9, 64), dense(9, 4)); }, "9 rows of x");
  refused([&] { cuda::gemv(on.queue(), w, dense(0, 64), dense(0, 4)); }, "0 rows of x");
  refused([&] { cuda::gemv(on.queue(), w, dense(1, 32), dense(1, 4)); }, "x 1 x 32");
  refused([&] { cuda::gemv(on.queue(), w, dense(2, 64), dense(1, 4)); }, "y 1 x 4");
  refused(
      [&] {
        static_cast<void>(cuda::quantize_activations(
            on.queue(), dense(2, 40),
            {cuda::device_tensor_view<std::int8_t, 2>(
                 matrix_view<std::int8_t>(reinterpret_cast<std::int8_t*>(floats.data()), 2, 40)),
             dense(2, 2)}));
      },
      "rows of 64 codes");
}

TEST_CASE("Empty matrices are nothing to do") {
  using namespace cuda_cases;
  const machine on;
  const auto floats = on.poisoned<float>(64);
  const auto* blocks = reinterpret_cast<const q4_0*>(floats.data());
  const cuda::device_view<block_matrix_view<q4_0>> none(block_matrix_view<q4_0>(blocks, 0, 64));
  const auto dense = [&](index_t rows, index_t cols) {
    return cuda::device_tensor_view<float, 2>(matrix_view<float>(floats.data(), rows, cols));
  };
  cuda::dequantize(on.queue(), none, dense(0, 64));
  cuda::gemv(on.queue(), none, dense(1, 64), dense(1, 0));
  // No columns: a sum of nothing.
  const cuda::device_view<block_matrix_view<q4_0>> narrow(block_matrix_view<q4_0>(blocks, 2, 0));
  cuda::dequantize(on.queue(), narrow, dense(2, 0));
  const auto y = on.poisoned<float>(2);
  cuda::gemv(on.queue(), narrow, dense(1, 0),
             cuda::device_tensor_view<float, 2>(matrix_view<float>(y.data(), 1, 2)));
  const auto found = y.read();
  REQUIRE((found[0] == 0.0F && found[1] == 0.0F));
}
