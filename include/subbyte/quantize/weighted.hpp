// SPDX-License-Identifier: Apache-2.0
/// Round to nearest under the importance of the columns: an imatrix on any grid.
#pragma once

#include "subbyte/quantize/refit.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Params that lower sum importance * (w - w_hat)^2 per group, then nearest codes.
///
/// Planar grids and block formats with one scale: from ranges of 1 to 0.5 times the full one,
/// nearest codes and the closed-form best params for them by turns; the best result stays. Whole
/// zero points are also tried one code up and down. Other block formats: their own search under
/// importance, which is the reference encoder's. range_search finds the true minimum where this
/// finds a near one, in a half (symmetric grids) to a seventh of the time.
///
/// importance     one weight per column [k], e.g. the mean of the squared activations; empty: all 1
/// on_non_finite  NaN and Inf among the weights: an error, or zero
struct weighted {
  vector_view<const float> importance{};
  non_finite on_non_finite = non_finite::reject;
  progress_ref progress{};

  /// Shapes    w [n, k]; target [n, k].
  /// Numerics  sums in double; on planar grids never a larger weighted error than rtn's.
  /// Cost      about 40 passes per group, parallel over rows; one params per group of memory.
  /// Throws    bad_shape, non_finite for importance; cancelled, the target untouched;
  ///           out_of_memory.
  template <quant_target Target, class Arch = detail::arch_of<Target>>
  policy_report apply(weights_view w, Target& target, executor_ref ex) const {
    detail::check_column_importance<Arch>(importance, w.extent(1));
    detail::group_source source;
    source.importance = importance;
    source.on_non_finite = on_non_finite;
    source.progress = progress;
    detail::quantize_groups<Arch>(
        w, target, source, ex, [&](const detail::weight_group& g) noexcept {
          const auto p = Target::template fit<Arch>(g.x, g.importance, g.n);
          if constexpr (detail::refit_target<Target>) {
            return searched<Target, Arch>(p, g);
          } else {
            return p;
          }
        });
    return {};
  }

 private:
  template <class Target, class Arch>
  [[nodiscard]] static typename Target::params searched(const typename Target::params& full,
                                                        const detail::weight_group& g) noexcept {
    detail::best_params<typename Target::params> best{
        full, detail::squared_error<Arch, Target>(full, g.x, g.importance, g.n)};
    constexpr float factors[] = {1.0F, 0.92F, 0.84F, 0.76F, 0.68F, 0.6F, 0.5F};
    for (const float factor : factors) {
      detail::alternate<Arch, Target>(best, detail::shrunken<Target>(full, factor), g.x,
                                      g.importance, g.n, 3, g.codes);
    }
    if constexpr (detail::whole_zero_target<Target>) {
      using grid = typename Target::grid;
      if constexpr (grid::zeros == zero_points::integer) {
        for (const float step : {-1.0F, 1.0F}) {
          auto p = best.params;
          p.zero += step;
          while (p.zero >= 0 && p.zero <= static_cast<float>(grid::last_code)) {
            const double before = best.error;
            detail::alternate<Arch, Target>(best, p, g.x, g.importance, g.n, 3, g.codes);
            if (!(best.error < before)) break;
            p = best.params;
            p.zero += step;
          }
        }
      }
    }
    return best.params;
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
