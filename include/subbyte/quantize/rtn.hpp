// SPDX-License-Identifier: Apache-2.0
/// Round to nearest: params from the range of each group, then nearest codes.
#pragma once

#include "subbyte/quantize/grid_rule.hpp"
#include "subbyte/quantize/groups.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The target's fit and nearest codes: what every calibrated method is measured against.
///
/// rule           for integer grids, whose formula to follow to the bit; other targets take
///                grid_rule::target only
/// on_non_finite  NaN and Inf among the weights: an error, or zero
struct rtn {
  grid_rule rule = grid_rule::target;
  non_finite on_non_finite = non_finite::reject;

  /// Shapes    w [n, k]; target [n, k].
  /// Numerics  codes are taken with the params as they are stored. Where S is f32_scale they are
  ///           the rule's tool's own, bit for bit.
  /// Cost      two passes per group, parallel over rows; 5 bytes per weight of a group and thread.
  /// Throws    bad_argument for a rule that the target does not take; out_of_memory.
  template <quant_target Target, class Arch = detail::arch_of<Target>>
  policy_report apply(weights_view w, Target& target, executor_ref ex) const {
    if constexpr (!detail::whole_zero_target<Target>) {
      if (rule != grid_rule::target) {
        throw_error(errc::bad_argument, "grid rule",
                    "this target is no integer grid with whole zero points; "
                    "grid_rule::target is required");
      }
    }
    detail::group_source source;
    source.on_non_finite = on_non_finite;
    detail::for_each_group<Arch>(
        w, target, source, ex, [&](const detail::weight_group& g) noexcept {
          if constexpr (detail::whole_zero_target<Target>) {
            using grid = typename Target::grid;
            if (rule != grid_rule::target) {
              const auto p = Target::storable(rule_params<Arch, grid>(rule, g.x, g.n));
              for (index_t i = 0; i < g.n; ++i) {
                g.codes[i] = static_cast<std::uint8_t>(rule_code<grid>(rule, g.x[i], p));
              }
              target.store(g.row, g.index, p, g.codes, g.n);
              return;
            }
          }
          const typename Target::params p = Target::template fit<Arch>(g.x, nullptr, g.n);
          detail::round_group<Arch, Target>(p, g.x, g.n, g.codes);
          target.store(g.row, g.index, p, g.codes, g.n);
        });
    return {};
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
