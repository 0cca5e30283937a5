// SPDX-License-Identifier: Apache-2.0
/// Randomised Hadamard rotations: an orthogonal change of basis that spreads outlier channels over
/// all others before quantization, in n log n operations.
#pragma once

#include <cmath>
#include <cstdint>
#include <optional>
#include <string>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/bits.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/tensor/tensor.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// How `size` channels are rotated: in consecutive blocks of base * 2^k channels each.
struct hadamard_shape {
  index_t size = 0;
  index_t block = 0;  ///< divides size
  index_t base = 0;   ///< order of the dense factor; block / base is a power of two
};

/// The largest order of a dense factor: its cost is `base` additions per element.
inline constexpr index_t largest_hadamard_base = 1024;

namespace detail {

/// q = prime^degree with degree 1 to 3; prime 0 when it is not.
struct field_order {
  index_t prime = 0;
  int degree = 0;
};

template <class Arch>
[[nodiscard]] field_order field_of_order(index_t q) noexcept {
  if (q < 2) return {};
  index_t prime = 2;
  while (prime * prime <= q && q % prime != 0) ++prime;
  if (q % prime != 0) return {q, 1};
  int degree = 0;
  for (; q % prime == 0; q /= prime) ++degree;
  if (q != 1 || degree > 3) return {};
  return {prime, degree};
}

/// Which construction gives a Hadamard matrix of an order.
enum class paley { none, trivial, first, second };

/// Source  R. E. A. C. Paley, On orthogonal matrices (1933): order q + 1 for a prime power q = 3
///         mod 4, order 2 (q + 1) for q = 1 mod 4.
template <class Arch>
[[nodiscard]] paley paley_construction(index_t order) noexcept {
  if (order == 1) return paley::trivial;
  if (order % 4 != 0 || order > largest_hadamard_base) return paley::none;
  if (field_of_order<Arch>(order - 1).prime != 0) return paley::first;
  if (order % 8 == 4 && field_of_order<Arch>(order / 2 - 1).prime != 0) return paley::second;
  return paley::none;
}

/// The field of q elements: element a is the polynomial whose coefficients are a's digits in base
/// `prime`.
template <class Arch>
class galois_field {
 public:
  explicit galois_field(index_t q) : order_(field_of_order<Arch>(q)), character_(q) {
    if (order_.degree > 1) find_modulus();
    for (index_t a = 1; a < q; ++a) character_(a) = -1;
    for (index_t a = 1; a < q; ++a) character_(square(a)) = 1;
  }

  /// 0 for zero, 1 for a square, -1 for another element: of a - b.
  [[nodiscard]] int character_of_difference(index_t a, index_t b) const noexcept {
    const index_t p = order_.prime;
    index_t difference = 0;
    index_t place = 1;
    for (int i = 0; i < order_.degree; ++i) {
      difference += place * ((a % p - b % p + p) % p);
      a /= p;
      b /= p;
      place *= p;
    }
    return character_(difference);
  }

 private:
  // A monic polynomial of degree 2 or 3 is irreducible exactly when it has no root.
  void find_modulus() noexcept {
    const index_t p = order_.prime;
    const index_t count = order_.degree == 2 ? p * p : p * p * p;
    for (index_t candidate = 0; candidate < count; ++candidate) {
      modulus_[0] = candidate % p;
      modulus_[1] = candidate / p % p;
      modulus_[2] = candidate / (p * p);
      bool rootless = true;
      for (index_t x = 0; rootless && x < p; ++x) {
        index_t value = 1;
        for (int i = order_.degree; i-- > 0;) value = (value * x + modulus_[i]) % p;
        rootless = value != 0;
      }
      if (rootless) return;
    }
  }

  [[nodiscard]] index_t square(index_t a) const noexcept {
    const index_t p = order_.prime;
    const int degree = order_.degree;
    const index_t digits[3] = {a % p, a / p % p, a / (p * p) % p};
    index_t product[5] = {};
    for (int i = 0; i < degree; ++i) {
      for (int j = 0; j < degree; ++j) {
        product[i + j] = (product[i + j] + digits[i] * digits[j]) % p;
      }
    }
    for (int top = 2 * degree - 2; top >= degree; --top) {
      for (int i = 0; i < degree; ++i) {
        index_t& digit = product[top - degree + i];
        digit = (digit + (p - modulus_[i]) * product[top]) % p;
      }
    }
    index_t result = 0;
    for (int i = degree; i-- > 0;) result = result * p + product[i];
    return result;
  }

  field_order order_;
  index_t modulus_[3] = {};  // x^degree + sum of modulus[i] x^i
  tensor<std::int8_t, 1> character_;
};

/// A Hadamard matrix of a constructible order: entries +1 and -1, orthogonal rows.
template <class Arch>
[[nodiscard]] tensor<std::int8_t, 2> paley_matrix(index_t order) {
  tensor<std::int8_t, 2> h(order, order);
  const paley construction = paley_construction<Arch>(order);
  SUBBYTE_ASSERT(construction != paley::none);
  if (construction == paley::trivial) {
    h(0, 0) = 1;
  } else if (construction == paley::first) {
    const galois_field<Arch> field(order - 1);
    for (index_t i = 0; i < order; ++i) {
      for (index_t j = 0; j < order; ++j) {
        int entry = i == 0 ? 1 : -1;  // the border
        if (i > 0 && j > 0) entry = i == j ? 1 : field.character_of_difference(i - 1, j - 1);
        h(i, j) = static_cast<std::int8_t>(entry);
      }
    }
  } else {
    const index_t half_order = order / 2;
    const galois_field<Arch> field(half_order - 1);
    for (index_t i = 0; i < half_order; ++i) {
      for (index_t j = 0; j < half_order; ++j) {
        int conference = i == j ? 0 : 1;
        if (i > 0 && j > 0) conference = field.character_of_difference(i - 1, j - 1);
        // conference (x) [1 1; 1 -1], and on the diagonal [1 -1; -1 -1].
        const int corner = i == j ? 1 : conference;
        const int side = i == j ? -1 : conference;
        h(2 * i, 2 * j) = static_cast<std::int8_t>(corner);
        h(2 * i, 2 * j + 1) = static_cast<std::int8_t>(side);
        h(2 * i + 1, 2 * j) = static_cast<std::int8_t>(side);
        h(2 * i + 1, 2 * j + 1) = static_cast<std::int8_t>(-corner);
      }
    }
  }
  return h;
}

/// The smallest dense factor that, times a power of two, gives n; 0 if there is none.
template <class Arch>
[[nodiscard]] index_t hadamard_base(index_t n) noexcept {
  if (n < 1) return 0;
  index_t base = n;
  while (base % 2 == 0) base /= 2;
  for (; base <= n && base <= largest_hadamard_base; base *= 2) {
    if (paley_construction<Arch>(base) != paley::none) return base;
  }
  return 0;
}

// n unnormalised butterflies over elements of `run` consecutive values each, `step` values apart.
template <class T, class Arch>
void walsh_butterflies(T* data, index_t count, index_t step, index_t run) noexcept {
  if (step == run) {  // dense: neighbouring elements are one longer run
    for (index_t h = run; h < count * run; h *= 2) {
      for (index_t i = 0; i < count * run; i += 2 * h) {
        T* const upper = data + i;
        T* const lower = data + i + h;
        for (index_t j = 0; j < h; ++j) {
          const T sum = upper[j] + lower[j];
          lower[j] = upper[j] - lower[j];
          upper[j] = sum;
        }
      }
    }
    return;
  }
  for (index_t h = 1; h < count; h *= 2) {
    for (index_t i = 0; i < count; i += 2 * h) {
      for (index_t e = i; e < i + h; ++e) {
        T* const upper = data + e * step;
        T* const lower = data + (e + h) * step;
        for (index_t j = 0; j < run; ++j) {
          const T sum = upper[j] + lower[j];
          lower[j] = upper[j] - lower[j];
          upper[j] = sum;
        }
      }
    }
  }
}

}  // namespace detail

/// The rotation of n channels as one block where a Hadamard matrix of that order is known here:
/// n = base * 2^k with base 1, or at most 1024 by one of Paley's constructions over a field of
/// p, p^2 or p^3 elements (12, 20, 28, 36, 44, 52, 60, 68, 76, 84, 100, 108, 124, 140, 148, 344
/// ...; the smallest is taken). Other sizes: blocks of the largest power of two that divides n, at
/// most 128.
///
/// Throws  bad_shape for n < 1.
template <class Arch = arch::native>
[[nodiscard]] hadamard_shape hadamard_shape_of(index_t n) {
  if (n < 1) {
    throw_error(errc::bad_shape, "hadamard",
                std::to_string(n) + " channels; at least one is required");
  }
  const index_t base = detail::hadamard_base<Arch>(n);
  if (base != 0) return {n, n, base};
  index_t block = 1;
  while (block < 128 && n % (2 * block) == 0) block *= 2;
  return {n, block, 1};
}

/// The rotation of n channels in blocks of `block`.
///
/// Throws  bad_shape when block does not divide n or is not base * 2^k of a known base.
template <class Arch = arch::native>
[[nodiscard]] hadamard_shape hadamard_blocks_of(index_t n, index_t block) {
  const index_t base = detail::hadamard_base<Arch>(block);
  if (n < 1 || base == 0 || n % block != 0) {
    throw_error(errc::bad_shape, "hadamard",
                "blocks of " + std::to_string(block) + " for " + std::to_string(n) +
                    " channels; a divisor of the channels is required for which a Hadamard matrix "
                    "is known (2^k, or Paley's orders times 2^k)");
  }
  return {n, block, base};
}

/// An orthogonal matrix Q [n, n]: random signs times a block diagonal Hadamard matrix over the
/// square root of its order, never written out.
///
/// With W' = W Q and x' = x Q the product is unchanged: x' W'^T = x W^T. A rotation of the residual
/// stream multiplies what reads it by Q on the input side (rotate) and what writes it on the output
/// side (rotate_outputs); the norm in between must have its weight absorbed first (absorb_norm).
///
/// Numerics  in the element type; each output has a relative error, against the length of its
///           block, of at most (2 + log2(block / base) + (base - 1) sqrt(base)) roundings; exactly
///           orthogonal in the absence of rounding. The same bits for any executor. NaN and Inf
///           spread over their block.
/// Cost      log2(block / base) + base additions per element, in place; no allocation.
/// Source    QuaRot (Ashkboos et al. 2024), QuIP# (Tseng et al. 2024): incoherence by randomised
///           Hadamard matrices.
template <class Arch>
class basic_hadamard {
 public:
  /// signs: the seed of the random signs; none: all +1.
  ///
  /// Throws  bad_shape when the shape was not made by hadamard_shape_of or hadamard_blocks_of;
  ///         out_of_memory.
  explicit basic_hadamard(hadamard_shape shape, std::optional<std::uint64_t> signs = {})
      : shape_(checked(shape)),
        base_(detail::paley_matrix<Arch>(shape.base)),
        signs_(uninitialized, shape.size) {
    // Source: splitmix64 (Steele, Lea, Flood 2014); one output per channel, its top bit the sign.
    std::uint64_t state = signs.value_or(0);
    for (index_t i = 0; i < shape.size; ++i) {
      state += 0x9E3779B97F4A7C15U;
      std::uint64_t mixed = state;
      mixed = (mixed ^ (mixed >> 30)) * 0xBF58476D1CE4E5B9U;
      mixed = (mixed ^ (mixed >> 27)) * 0x94D049BB133111EBU;
      mixed ^= mixed >> 31;
      signs_(i) = signs.has_value() && (mixed >> 63) != 0 ? std::int8_t{-1} : std::int8_t{1};
    }
  }

  [[nodiscard]] const hadamard_shape& shape() const noexcept { return shape_; }

  /// Every row x [n] of `rows` becomes x Q: weights on their input side, or activations.
  ///
  /// Throws  bad_shape unless there are n columns.
  void rotate(tensor_view<float, 2, row_pitched> rows, executor_ref ex = serial) const {
    rotate_rows<false>(rows, ex);
  }
  void rotate(tensor_view<double, 2, row_pitched> rows, executor_ref ex = serial) const {
    rotate_rows<false>(rows, ex);
  }

  /// Every row x [n] of `rows` becomes x Q^T: the inverse of rotate.
  ///
  /// Throws  bad_shape unless there are n columns.
  void rotate_back(tensor_view<float, 2, row_pitched> rows, executor_ref ex = serial) const {
    rotate_rows<true>(rows, ex);
  }
  void rotate_back(tensor_view<double, 2, row_pitched> rows, executor_ref ex = serial) const {
    rotate_rows<true>(rows, ex);
  }

  /// W [n, k] becomes Q^T W: weights on their output side. (A bias b [n] is a row: rotate it.)
  ///
  /// Throws  bad_shape unless there are n rows.
  void rotate_outputs(tensor_view<float, 2, row_pitched> w, executor_ref ex = serial) const {
    rotate_columns(w, ex);
  }
  void rotate_outputs(tensor_view<double, 2, row_pitched> w, executor_ref ex = serial) const {
    rotate_columns(w, ex);
  }

  /// H [n, n] = X^T X becomes Q^T H Q, the Hessian of the rotated inputs, exactly symmetric.
  ///
  /// Requires  H is symmetric.
  /// Throws    bad_shape unless it is [n, n].
  void rotate_hessian(matrix_view<float> h, executor_ref ex = serial) const {
    rotate_square(h, ex);
  }
  void rotate_hessian(matrix_view<double> h, executor_ref ex = serial) const {
    rotate_square(h, ex);
  }

 private:
  static hadamard_shape checked(hadamard_shape shape) {
    if (shape.size < 1 || shape.block < 1 || shape.base < 1 || shape.size % shape.block != 0 ||
        shape.block % shape.base != 0 ||
        detail::paley_construction<Arch>(shape.base) == detail::paley::none ||
        (shape.block / shape.base & (shape.block / shape.base - 1)) != 0) {
      throw_error(errc::bad_shape, "hadamard",
                  std::to_string(shape.size) + " channels in blocks of " +
                      std::to_string(shape.block) + " with a factor of " +
                      std::to_string(shape.base) + "; take the shape from hadamard_shape_of");
    }
    return shape;
  }

  void check_channels(index_t found, const char* what) const {
    if (found == shape_.size) return;
    throw_error(errc::bad_shape, "hadamard",
                std::to_string(found) + " " + what + "; the rotation has " +
                    std::to_string(shape_.size) + " channels");
  }

  // Multiplies the vector of the block's base elements, `step` values apart and `run` values long,
  // by the dense factor (or its transpose).
  template <bool Back, class T>
  void mix_base(T* data, index_t step, index_t run) const noexcept {
    const index_t base = shape_.base;
    constexpr index_t lanes = 64 / sizeof(T);
    T gathered[largest_hadamard_base * lanes];
    for (index_t j0 = 0; j0 < run; j0 += lanes) {
      const index_t count = run - j0 < lanes ? run - j0 : lanes;
      for (index_t a = 0; a < base; ++a) {
        for (index_t j = 0; j < count; ++j) gathered[a * lanes + j] = data[a * step + j0 + j];
        for (index_t j = count; j < lanes; ++j) gathered[a * lanes + j] = 0;
      }
      for (index_t b = 0; b < base; ++b) {
        T sums[lanes] = {};
        for (index_t a = 0; a < base; ++a) {
          const T sign = static_cast<T>(Back ? base_(b, a) : base_(a, b));
          for (index_t j = 0; j < lanes; ++j) sums[j] += sign * gathered[a * lanes + j];
        }
        for (index_t j = 0; j < count; ++j) data[b * step + j0 + j] = sums[j];
      }
    }
  }

  template <class T>
  [[nodiscard]] T scale() const noexcept {
    return static_cast<T>(1.0 / std::sqrt(static_cast<double>(shape_.block)));
  }

  template <bool Back, class T>
  void rotate_rows(tensor_view<T, 2, row_pitched> rows, executor_ref ex) const {
    check_channels(rows.extent(1), "columns");
    const T norm = scale<T>();
    const index_t walsh = shape_.block / shape_.base;
    ex.for_range(rows.extent(0), 4, [&](index_t begin, index_t end) noexcept {
      for (index_t r = begin; r < end; ++r) {
        T* const row = rows[r].data();
        for (index_t first = 0; first < shape_.size; first += shape_.block) {
          T* const x = row + first;
          const std::int8_t* const sign = signs_.data() + first;
          if (!Back) {
            for (index_t i = 0; i < shape_.block; ++i) x[i] *= norm * static_cast<T>(sign[i]);
          }
          for (index_t a = 0; a < shape_.base; ++a) {
            detail::walsh_butterflies<T, Arch>(x + a * walsh, walsh, 1, 1);
          }
          if (shape_.base > 1) mix_base<Back>(x, walsh, walsh);
          if (Back) {
            for (index_t i = 0; i < shape_.block; ++i) x[i] *= norm * static_cast<T>(sign[i]);
          }
        }
      }
    });
  }

  template <class T>
  void rotate_columns(tensor_view<T, 2, row_pitched> w, executor_ref ex) const {
    check_channels(w.extent(0), "rows");
    const T norm = scale<T>();
    const index_t walsh = shape_.block / shape_.base;
    const index_t pitch = w.stride(0);
    constexpr index_t panel = 256 / sizeof(T);
    ex.for_range(ceil_div(w.extent(1), panel), 1, [&](index_t begin, index_t end) noexcept {
      for (index_t p = begin; p < end; ++p) {
        const index_t rest = w.extent(1) - p * panel;
        const index_t count = rest < panel ? rest : panel;
        for (index_t first = 0; first < shape_.size; first += shape_.block) {
          T* const x = w.data() + first * pitch + p * panel;
          for (index_t i = 0; i < shape_.block; ++i) {
            const T factor = norm * static_cast<T>(signs_(first + i));
            for (index_t j = 0; j < count; ++j) x[i * pitch + j] *= factor;
          }
          for (index_t a = 0; a < shape_.base; ++a) {
            detail::walsh_butterflies<T, Arch>(x + a * walsh * pitch, walsh, pitch, count);
          }
          if (shape_.base > 1) {
            for (index_t b = 0; b < walsh; ++b) {
              mix_base<false>(x + b * pitch, walsh * pitch, count);
            }
          }
        }
      }
    });
  }

  template <class T>
  void rotate_square(matrix_view<T> h, executor_ref ex) const {
    check_channels(h.extent(0), "rows");
    check_channels(h.extent(1), "columns");
    rotate_rows<false, T>(h, ex);
    rotate_columns<T>(h, ex);
    ex.for_range(shape_.size, 64, [&](index_t begin, index_t end) noexcept {
      for (index_t i = begin; i < end; ++i) {
        for (index_t j = 0; j < i; ++j) {
          const T mean = (h(i, j) + h(j, i)) / 2;
          h(i, j) = mean;
          h(j, i) = mean;
        }
      }
    });
  }

  hadamard_shape shape_;
  tensor<std::int8_t, 2> base_;
  tensor<std::int8_t, 1> signs_;
};

/// The rotation for this translation unit's flags.
using hadamard = basic_hadamard<arch::native>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
