// SPDX-License-Identifier: Apache-2.0
/// Half-quadratic quantization: zero points that fit most weights well and let outliers err.
#pragma once

#include "subbyte/quantize/refit.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// When the iterations end.
enum class hqq_stop {
  matrix,  ///< for all groups at once, when the mean |w - w_hat| of the matrix stops falling
  group    ///< for each group, with the best of its own iterates
};

namespace detail {

/// The inverse scale and the zero point of an iteration, as the method keeps them.
struct hqq_state {
  float inverse;
  float zero;
};

}  // namespace detail

/// Params that lower sum |w - w_hat|^p for p < 1, without data.
///
/// An auxiliary error e splits the problem in two that are solved by turns: for fixed params, e is
/// the shrunken residual, sign(r) max(|r| - |r|^(p - 1) / beta, 0); for fixed e, the params fit
/// w - e in the least squares.
///
/// On planar grids with real zero points this is the published method: the scale is that of the
/// full range and the zero point iterates. On grids with a scale, or a scale and a whole zero
/// point, the scale iterates instead; on block formats with more params their own fit is applied to
/// w - e. These two keep, per group, the iterate with the least sum |w - w_hat|^p, the start
/// included.
///
/// p, beta        of the shrinkage; p in (0, 1], beta > 0
/// iterations     at most this many; 0 gives the start
/// stop           real zero points: matrix is the published rule
/// on_non_finite  NaN and Inf among the weights: an error, or zero
struct hqq {
  int iterations = 20;
  float p = 0.7F;
  float beta = 10.0F;
  hqq_stop stop = hqq_stop::matrix;
  non_finite on_non_finite = non_finite::reject;

  /// Shapes    w [n, k]; target [n, k].
  /// Numerics  real zero points into f32_scale: codes, scales and zero points of hqq's own default
  ///           optimiser on a CPU. The sum that ends the iterations is in double, in row order.
  /// Cost      iterations passes with one power per weight each; 8 bytes per group of memory.
  /// Throws    bad_argument for options outside their range; out_of_memory.
  /// Source    HQQ (mobiusml.github.io/hqq_blog); mobiusml/hqq hqq/core/optimize.py and
  ///           quantize.py.
  template <quant_target Target, class Arch = detail::arch_of<Target>>
  policy_report apply(weights_view w, Target& target, executor_ref ex) const {
    if (iterations < 0 || !(p > 0 && p <= 1) || !(beta > 0 && beta - beta == 0)) {
      throw_error(errc::bad_argument, "iterations, p and beta",
                  "are " + std::to_string(iterations) + ", " + std::to_string(p) + " and " +
                      std::to_string(beta) + "; at least 0, in (0, 1] and above 0 are required");
    }
    if constexpr (detail::real_zero_target<Target>) {
      fit_zeros<Target, Arch>(w, target, ex);
    } else {
      detail::group_source source;
      source.on_non_finite = on_non_finite;
      source.scratch_bytes = target.group_size() * static_cast<index_t>(sizeof(float));
      detail::quantize_groups<Arch>(
          w, target, source, ex,
          [&](const detail::weight_group& g) noexcept { return refined<Target, Arch>(g); });
    }
    return {};
  }

 private:
  [[nodiscard]] SUBBYTE_INLINE float shrink(float residual) const noexcept {
    const float size = magnitude(residual);
    const float by = p == 1 ? 1.0F / beta : unfused(1.0F / beta * __builtin_powf(size, p - 1));
    const float left = size - by;
    // A residual of zero gives 0 - inf.
    return !(left > 0) ? 0.0F : (residual < 0 ? -left : left);
  }

  template <class Arch, class G>
  [[nodiscard]] static detail::hqq_state start(const float* x, index_t n) noexcept {
    float low = x[0];
    float high = x[0];
    for (index_t i = 1; i < n; ++i) {
      low = x[i] < low ? x[i] : low;
      high = x[i] > high ? x[i] : high;
    }
    constexpr float most = 2e4F;
    const float span = high - low;
    // A reciprocal times Q, as a tensor library divides a number by a tensor.
    const float inverse = span <= 1e-4F ? 1.0F : 1.0F / span * static_cast<float>(G::last_code);
    const float limited = inverse < most ? inverse : most;
    return {limited, unfused(-low * limited)};
  }

  template <class G>
  [[nodiscard]] SUBBYTE_INLINE static float code_of(float w, const detail::hqq_state& s) noexcept {
    const float code = unfused(w * s.inverse) + s.zero;
    constexpr auto last = static_cast<float>(G::last_code);
    if (!(code > 0)) return 0;
    return code >= last ? last : static_cast<float>(rint_even(code));
  }

  // One iteration: the zero point moves. Returns sum |x - x_hat| for the one that it had.
  template <class Arch, class G>
  [[nodiscard]] double iterate(const float* x, index_t n, detail::hqq_state& s) const noexcept {
    double error = 0;
    double zeros = 0;
    for (index_t i = 0; i < n; ++i) {
      const float code = code_of<G>(x[i], s);
      const float residual = x[i] - (code - s.zero) / s.inverse;
      error += static_cast<double>(magnitude(residual));
      zeros += static_cast<double>(code - unfused((x[i] - shrink(residual)) * s.inverse));
    }
    s.zero = static_cast<float>(zeros / static_cast<double>(n));
    return error;
  }

  template <class Target, class Arch>
  void fit_zeros(weights_view w, Target& target, executor_ref ex) const {
    using grid = typename Target::grid;
    const index_t rows = w.extent(0);
    tensor<detail::hqq_state, 2> states(uninitialized, rows,
                                        ceil_div(w.extent(1), target.group_size()));
    detail::group_source source;
    source.on_non_finite = on_non_finite;
    detail::for_each_group<Arch>(
        w, target, source, ex, [&](const detail::weight_group& g) noexcept {
          detail::hqq_state s = start<Arch, grid>(g.x, g.n);
          if (stop == hqq_stop::group) {
            detail::best_params<detail::hqq_state> best{s, __builtin_inf()};
            for (int i = 0; i <= iterations; ++i) {
              const detail::hqq_state had = s;
              if (!best.offer(had, iterate<Arch, grid>(g.x, g.n, s))) break;
            }
            s = best.params;
          }
          states(g.row, g.index) = s;
        });
    if (stop == hqq_stop::matrix) {
      tensor<double, 1> errors(rows);
      double least = __builtin_inf();
      for (int i = 0; i < iterations; ++i) {
        for (index_t r = 0; r < rows; ++r) errors(r) = 0;
        detail::for_each_group<Arch>(
            w, target, source, ex, [&](const detail::weight_group& g) noexcept {
              errors(g.row) += iterate<Arch, grid>(g.x, g.n, states(g.row, g.index));
            });
        double sum = 0;
        for (index_t r = 0; r < rows; ++r) sum += errors(r);
        if (!(sum < least)) break;
        least = sum;
      }
    }
    detail::for_each_group<Arch>(
        w, target, source, ex, [&](const detail::weight_group& g) noexcept {
          const detail::hqq_state& s = states(g.row, g.index);
          const typename Target::params exact{1.0F / s.inverse, s.zero};
          const typename Target::params p_stored = Target::storable(exact);
          const bool kept = p_stored.scale == exact.scale && p_stored.zero == exact.zero;
          for (index_t i = 0; i < g.n; ++i) {
            g.codes[i] = static_cast<std::uint8_t>(kept ? static_cast<int>(code_of<grid>(g.x[i], s))
                                                        : Target::round(g.x[i], i, p_stored));
          }
          target.store(g.row, g.index, p_stored, g.codes, g.n);
        });
  }

  // Nearest codes of x and sum |x - x_hat|^p.
  template <class Target, class Arch>
  [[nodiscard]] double power_error(const typename Target::params& q, const float* x, index_t n,
                                   std::uint8_t* codes) const noexcept {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) {
      const int code = Target::round(x[i], i, q);
      codes[i] = static_cast<std::uint8_t>(code);
      const float residual = x[i] - unfused(Target::value(code, i, q));
      sum += static_cast<double>(__builtin_powf(magnitude(residual), p));
    }
    return sum;
  }

  template <class Target, class Arch>
  [[nodiscard]] typename Target::params refined(const detail::weight_group& g) const noexcept {
    using params = typename Target::params;
    float* const reachable = reinterpret_cast<float*>(g.scratch);
    params q = Target::template fit<Arch>(g.x, nullptr, g.n);
    detail::best_params<params> best{q, power_error<Target, Arch>(q, g.x, g.n, g.codes)};
    for (int i = 0; i < iterations; ++i) {
      for (index_t j = 0; j < g.n; ++j) {
        const float residual = g.x[j] - unfused(Target::value(g.codes[j], j, q));
        reachable[j] = g.x[j] - shrink(residual);
      }
      if constexpr (detail::refit_target<Target>) {
        q = detail::refit<Arch, Target>(q, reachable, nullptr, g.n, g.codes);
      } else {
        q = Target::template fit<Arch>(reachable, nullptr, g.n);
      }
      if (!best.offer(q, power_error<Target, Arch>(q, g.x, g.n, g.codes))) break;
    }
    return best.params;
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
