// SPDX-License-Identifier: Apache-2.0
/// Params of the least squared error for codes that are given, in closed form.
#pragma once

#include "subbyte/quantize/groups.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

/// Targets with one scale, and at most one zero point, per group.
template <class T>
concept refit_target = int_grid_target<T> || scaled_table_target<T>;

/// The params that minimise sum v (x - x_hat)^2 while the codes stay as they are: the scale
/// sum v x l / sum v l^2 for levels l, and with real zero points the line through (code, x).
/// Whole zero points stay too.
///
/// Shapes    x [n]; v [n] or null; codes [n].
/// Returns   p where the codes determine nothing (all levels zero, or one code only).
/// Numerics  sums in double; the result as the target stores it.
template <class Arch, refit_target Target>
[[nodiscard]] typename Target::params refit(const typename Target::params& p, const float* x,
                                            const float* v, index_t n,
                                            const std::uint8_t* codes) noexcept {
  double sum_v = 0;
  double sum_x = 0;
  double sum_l = 0;
  double sum_xl = 0;
  double sum_ll = 0;
  for (index_t i = 0; i < n; ++i) {
    double l = 0;
    if constexpr (real_zero_target<Target>) {
      l = static_cast<double>(codes[i]);
    } else if constexpr (int_grid_target<Target>) {
      l = static_cast<double>(codes[i]) - static_cast<double>(p.zero);
    } else {
      l = static_cast<double>(Target::value(codes[i], i, with_scale<Target>(1.0F)));
    }
    const double weight = v != nullptr ? static_cast<double>(v[i]) : 1.0;
    const double w = static_cast<double>(x[i]);
    sum_v += weight;
    sum_x += weight * w;
    sum_l += weight * l;
    sum_xl += weight * (w * l);
    sum_ll += weight * (l * l);
  }
  if constexpr (real_zero_target<Target>) {
    const double determinant = sum_v * sum_ll - sum_l * sum_l;
    if (!(determinant > 1e-12 * sum_v * sum_ll)) return p;
    const double scale = (sum_v * sum_xl - sum_x * sum_l) / determinant;
    const double offset = (sum_x - scale * sum_l) / sum_v;
    if (scale == 0) return p;
    return Target::storable({static_cast<float>(scale), static_cast<float>(-offset / scale)});
  } else {
    if (!(sum_ll > 0)) return p;
    const auto scale = static_cast<float>(sum_xl / sum_ll);
    if constexpr (int_grid_target<Target>) {
      return Target::storable({scale, p.zero});
    } else {
      return with_scale<Target>(scale);
    }
  }
}

/// The lowest error so far and its params.
template <class Params>
struct best_params {
  Params params;
  double error;

  SUBBYTE_INLINE bool offer(const Params& candidate, double candidate_error) noexcept {
    if (!(candidate_error < error)) return false;
    params = candidate;
    error = candidate_error;
    return true;
  }
};

/// Nearest codes, refit, and again while the error falls, at most `rounds` times.
template <class Arch, refit_target Target>
void alternate(best_params<typename Target::params>& best, typename Target::params p,
               const float* x, const float* v, index_t n, int rounds,
               std::uint8_t* codes) noexcept {
  double error = squared_error<Arch, Target>(p, x, v, n);
  best.offer(p, error);
  for (int round = 0; round < rounds; ++round) {
    round_group<Arch, Target>(p, x, n, codes);
    p = refit<Arch, Target>(p, x, v, n, codes);
    const double refitted = squared_error<Arch, Target>(p, x, v, n);
    best.offer(p, refitted);
    if (!(refitted < error)) break;
    error = refitted;
  }
}

/// p with its range scaled by `factor`; a real zero point moves so that the range keeps its middle.
template <refit_target Target>
[[nodiscard]] SUBBYTE_INLINE typename Target::params shrunken(const typename Target::params& p,
                                                              float factor) noexcept {
  if constexpr (real_zero_target<Target>) {
    constexpr float half_range = static_cast<float>(Target::grid::last_code) / 2;
    return Target::storable({p.scale * factor, half_range - (half_range - p.zero) / factor});
  } else if constexpr (int_grid_target<Target>) {
    return Target::storable({p.scale * factor, p.zero});
  } else {
    return with_scale<Target>(scale_of<Target>(p) * factor);
  }
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
