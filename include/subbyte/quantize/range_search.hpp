// SPDX-License-Identifier: Apache-2.0
/// Params of the least squared error: the true minimum over scales and zero points, by a sweep, or
/// the published search over shrunken ranges.
#pragma once

#include "subbyte/quantize/grid_rule.hpp"
#include "subbyte/quantize/refit.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Which range search.
enum class range_method {
  exact,  ///< the minimum over every scale and every whole zero point
  shrink  ///< the best of a grid of ranges, as gptqmodel's `mse`
};

namespace detail {

/// The scale of a sweep and how much of the error of w_hat = 0 it takes away.
struct swept_scale {
  double scale;
  double gain;
};

/// Where in the sweep one weight takes its next level.
struct sweep_event {
  double scale;
  std::int32_t index;
};

/// What sweep_scale needs for n weights.
struct sweep_buffers {
  sweep_event* events;   ///< [n]
  std::uint8_t* levels;  ///< [n]

  [[nodiscard]] SUBBYTE_INLINE static constexpr index_t bytes(index_t n) noexcept {
    return n * static_cast<index_t>(sizeof(sweep_event) + 1);
  }
  [[nodiscard]] SUBBYTE_INLINE static sweep_buffers at(std::uint8_t* memory, index_t n) noexcept {
    return {reinterpret_cast<sweep_event*>(memory),
            memory + n * static_cast<index_t>(sizeof(sweep_event))};
  }
};

/// Lets the first of n events, a heap by scale but for that one, sink to its place.
template <class Arch>
SUBBYTE_INLINE void sink_event(sweep_event* heap, index_t n, index_t at) noexcept {
  const sweep_event moved = heap[at];
  for (;;) {
    index_t child = 2 * at + 1;
    if (child >= n) break;
    if (child + 1 < n && heap[child + 1].scale > heap[child].scale) ++child;
    if (!(heap[child].scale > moved.scale)) break;
    heap[at] = heap[child];
    at = child;
  }
  heap[at] = moved;
}

/// min over scale > floor of sum v (x - scale * nearest level)^2.
///
/// As the scale falls from infinity every weight goes through the levels on its side of zero, one
/// at a time; between two such events the nearest levels l are fixed, and the best scale for them
/// is sum v x l / sum v l^2, which takes (sum v x l)^2 / sum v l^2 away from the error of zero
/// weights. The error of any fixed choice of levels is at least that of the nearest ones, so the
/// best of these choices is the minimum.
///
/// Requires  level is count >= 2 ascending distinct values; v is n weights >= 0 or null; a minimum
///           below `floor` is not looked for.
/// Returns   gain 0 when no choice is better than zero weights.
/// Numerics  sums in double, updated per event.
/// Cost      O(events * log n), at most n * count / 2 events for n weights of one sign.
template <class Arch>
[[nodiscard]] swept_scale sweep_scale(const float* x, const float* v, index_t n, const float* level,
                                      int count, double floor,
                                      const sweep_buffers& buffers) noexcept {
  const auto value = [&](int l) noexcept { return static_cast<double>(level[l]); };
  // Twice the middle between l and l + 1.
  const auto twice_middle = [&](int l) noexcept { return value(l) + value(l + 1); };
  // What positive, negative and zero weights are nearest to at an infinite scale.
  int positive = 0;
  while (positive + 1 < count && twice_middle(positive) <= 0) ++positive;
  int negative = 0;
  while (negative + 1 < count && twice_middle(negative) < 0) ++negative;

  const auto weight = [&](index_t i) noexcept {
    return v != nullptr ? static_cast<double>(v[i]) : 1.0;
  };
  // The scale at which weight i leaves level l for the next one outwards, 0 for never.
  const auto leaves = [&](index_t i, int l) noexcept {
    const double twice = 2 * static_cast<double>(x[i]);
    if (twice > 0) return l + 1 < count ? twice / twice_middle(l) : 0.0;
    return l > 0 ? twice / twice_middle(l - 1) : 0.0;
  };
  double sum_xl = 0;
  double sum_ll = 0;
  index_t pending = 0;
  for (index_t i = 0; i < n; ++i) {
    const int l = x[i] > 0 ? positive : negative;
    const double weighed = weight(i) * value(l);
    sum_xl += weighed * static_cast<double>(x[i]);
    sum_ll += weighed * value(l);
    buffers.levels[i] = static_cast<std::uint8_t>(l);
    if (x[i] == 0 || weight(i) == 0) continue;
    const double at = leaves(i, l);
    if (at > floor) buffers.events[pending++] = {at, static_cast<std::int32_t>(i)};
  }
  for (index_t at = pending / 2 - 1; at >= 0; --at) sink_event<Arch>(buffers.events, pending, at);

  double best_xl = 0;
  double best_ll = 1;
  const auto consider = [&]() noexcept {
    if (sum_xl > 0 && sum_ll > 0 && sum_xl * sum_xl * best_ll > best_xl * best_xl * sum_ll) {
      best_xl = sum_xl;
      best_ll = sum_ll;
    }
  };
  consider();
  while (pending > 0) {
    const index_t i = buffers.events[0].index;
    const int l = buffers.levels[i];
    const int next = x[i] > 0 ? l + 1 : l - 1;
    const double v_i = weight(i);
    sum_xl += v_i * static_cast<double>(x[i]) * (value(next) - value(l));
    sum_ll += v_i * (value(next) - value(l)) * (value(next) + value(l));
    consider();
    buffers.levels[i] = static_cast<std::uint8_t>(next);
    const double at = leaves(i, next);
    buffers.events[0].scale = at;
    if (!(at > floor)) buffers.events[0] = buffers.events[--pending];
    sink_event<Arch>(buffers.events, pending, 0);
  }
  return {best_xl / best_ll, best_xl * best_xl / best_ll};
}

/// A scale below which clipping alone costs more than `error`: no minimum at most `error` lies
/// below it. Infinite when clipping costs more at every scale.
template <class Arch>
[[nodiscard]] double least_scale(const float* x, const float* v, index_t n, float lowest,
                                 float highest, double error) noexcept {
  const auto clipped = [&](double scale) noexcept {
    double sum = 0;
    for (index_t i = 0; i < n; ++i) {
      const double w = static_cast<double>(x[i]);
      const double limit = scale * static_cast<double>(w > 0 ? highest : lowest);
      const double beyond = w > 0 ? w - limit : limit - w;
      if (beyond > 0) sum += (v != nullptr ? static_cast<double>(v[i]) : 1.0) * beyond * beyond;
    }
    return sum;
  };
  double low = 0;
  double high = 0;
  for (index_t i = 0; i < n; ++i) {
    const double w = static_cast<double>(x[i]);
    const double limit = static_cast<double>(w > 0 ? highest : lowest);
    if (limit != 0 && w / limit > high) high = w / limit;
  }
  if (clipped(high) > error) return __builtin_inf();
  for (int step = 0; step < 12; ++step) {
    const double middle = (low + high) / 2;
    (clipped(middle) > error ? low : high) = middle;
  }
  return low;
}

/// The levels of a table target in ascending order, without repetition.
struct level_table {
  float level[256];
  int count;
};

template <class Arch, scaled_table_target Target>
[[nodiscard]] level_table ascending_levels(bool negated) noexcept {
  constexpr int codes = [] {
    if constexpr (requires { Target::grid::bits; }) {
      return 1 << Target::grid::bits;
    } else {
      return 256;
    }
  }();
  const typename Target::params unit = with_scale<Target>(1.0F);
  const float last = Target::value(Target::round(__builtin_huge_valf(), 0, unit), 0, unit);
  const float first = Target::value(Target::round(-__builtin_huge_valf(), 0, unit), 0, unit);
  level_table table{};
  for (int code = 0; code < codes; ++code) {
    const float v = Target::value(code, 0, unit);
    // A format with fewer codes than 256 has its values between those of its extreme codes.
    if (v < first || v > last) continue;
    const float l = negated ? 0.0F - v : v;
    int at = table.count;
    while (at > 0 && table.level[at - 1] >= l) --at;
    if (at < table.count && table.level[at] == l) continue;
    for (int i = table.count; i > at; --i) table.level[i] = table.level[i - 1];
    table.level[at] = l;
    ++table.count;
  }
  return table;
}

/// Calls offer(scale) for the scales that S holds at and beside `scale`; a store of one byte offers
/// all of its scales between floor and ceiling.
template <class S, class Offer>
SUBBYTE_INLINE void for_stored_scales(double scale, double floor, double ceiling,
                                      Offer&& offer) noexcept {
  if constexpr (sizeof(S) == 1) {
    for (int bits = 0; bits < 256; ++bits) {
      const float v = bit_cast<S>(static_cast<std::uint8_t>(bits)).to_float();
      if (static_cast<double>(v) >= floor && static_cast<double>(v) <= ceiling) offer(v);
    }
  } else if constexpr (sizeof(S) == 2) {
    const auto middle = bit_cast<std::uint16_t>(stored_scale<S>(static_cast<float>(scale)));
    for (int beside = -1; beside <= 1; ++beside) {
      const float v = bit_cast<S>(static_cast<std::uint16_t>(middle + beside)).to_float();
      if (v - v == 0) offer(v);
    }
  } else {
    offer(stored_scale<S>(static_cast<float>(scale)).to_float());
  }
}

template <class T>
struct scale_store_of {
  using type = std::remove_cvref_t<decltype(T::params::scale)>;
};
template <class G, class S, class Arch>
struct scale_store_of<planar_matrix<G, S, Arch>> {
  using type = S;
};

/// The params of the least sum importance * (w - w_hat)^2 of a group.
template <refit_target Target, class Arch>
class least_error_search {
 public:
  using params = typename Target::params;

  SUBBYTE_INLINE explicit least_error_search(bool negative_scales) noexcept
      : negative_scales_(negative_scales) {
    if constexpr (scaled_table_target<Target>) {
      tables_.up = ascending_levels<Arch, Target>(false);
      tables_.down = ascending_levels<Arch, Target>(true);
    } else {
      // Whole numbers: every zero point's levels are a part of them.
      constexpr int last = Target::grid::last_code;
      for (int i = 0; i <= 2 * last; ++i) tables_.level[i] = static_cast<float>(i - last);
    }
  }

  /// Scratch for groups of `size` weights.
  [[nodiscard]] SUBBYTE_INLINE static constexpr index_t scratch_bytes(index_t size) noexcept {
    return sweep_buffers::bytes(size);
  }

  /// Never a larger error than that of the target's fit, but for the sign that was forbidden.
  /// Overwrites g.codes and g.scratch.
  [[nodiscard]] params params_of(const weight_group& g) const noexcept {
    params full = Target::template fit<Arch>(g.x, g.importance, g.n);
    if constexpr (scaled_table_target<Target>) {
      const float scale = scale_of<Target>(full);
      if (scale < 0 && !negative_scales_) full = with_scale<Target>(-scale);
    }
    best_params<params> best{full, squared_error<Arch, Target>(full, g.x, g.importance, g.n)};
    if constexpr (scaled_table_target<Target>) {
      sweep(best, g, tables_.up.level, tables_.up.count, 1.0F, 0.0F);
      if (negative_scales_) sweep(best, g, tables_.down.level, tables_.down.count, -1.0F, 0.0F);
    } else if constexpr (whole_zero_target<Target>) {
      using grid = typename Target::grid;
      constexpr int last = grid::last_code;
      // Zero points near the first guess first: a low error early cuts the others short.
      const int first = static_cast<int>(full.zero);
      const int reach = grid::zeros == zero_points::integer ? last : 0;
      for (int step = 0; step <= 2 * reach; ++step) {
        const int zero = first + (step % 2 == 0 ? step / 2 : -(step + 1) / 2);
        if (zero < 0 || zero > last) continue;
        sweep(best, g, tables_.level + last - zero, last + 1, 1.0F, static_cast<float>(zero));
      }
      if (grid::zeros == zero_points::none && negative_scales_) {
        // Codes around the middle one under a negative scale: the levels mirrored.
        sweep(best, g, tables_.level + grid::middle_code, last + 1, -1.0F,
              static_cast<float>(grid::middle_code));
      }
    } else {
      constexpr float factors[] = {1.0F, 0.95F, 0.9F, 0.85F, 0.8F, 0.75F, 0.7F, 0.6F, 0.5F};
      for (const float factor : factors) {
        alternate<Arch, Target>(best, shrunken<Target>(full, factor), g.x, g.importance, g.n, 12,
                                g.codes);
      }
    }
    return best.params;
  }

 private:
  template <class T>
  struct level_tables {
    float level[511];
  };
  template <scaled_table_target T>
  struct level_tables<T> {
    level_table up;
    level_table down;
  };

  // Offers what the sweep over these levels finds; `sign` is the scale's.
  static void sweep(best_params<params>& best, const weight_group& g, const float* level, int count,
                    float sign, float zero) noexcept {
    using store = typename scale_store_of<Target>::type;
    const double floor =
        least_scale<Arch>(g.x, g.importance, g.n, level[0], level[count - 1], best.error);
    if (!(floor < __builtin_inf())) return;
    double scale = 0;
    double ceiling = 0;
    if constexpr (sizeof(store) == 1) {
      // Beyond this every weight is nearest to the level nearest to zero.
      float least = __builtin_huge_valf();
      for (int l = 0; l + 1 < count; ++l) {
        const float middle = magnitude(level[l] + level[l + 1]) / 2;
        if (middle > 0 && middle < least) least = middle;
      }
      for (index_t i = 0; i < g.n; ++i) {
        const double last = static_cast<double>(magnitude(g.x[i])) / static_cast<double>(least);
        ceiling = last > ceiling ? last : ceiling;
      }
    } else {
      double total = 0;
      for (index_t i = 0; i < g.n; ++i) {
        const double w = static_cast<double>(g.x[i]);
        total += (g.importance != nullptr ? static_cast<double>(g.importance[i]) : 1.0) * (w * w);
      }
      const swept_scale found = sweep_scale<Arch>(g.x, g.importance, g.n, level, count, floor,
                                                  sweep_buffers::at(g.scratch, g.n));
      // What rounding of the sums could hide is looked at all the same.
      if (!(found.gain > 0) || total - found.gain > best.error + 1e-10 * total) return;
      scale = found.scale;
    }
    for_stored_scales<store>(scale, floor, ceiling, [&](float stored) noexcept {
      params p;
      if constexpr (int_grid_target<Target>) {
        p = Target::storable({sign * stored, zero});
      } else {
        p = with_scale<Target>(sign * stored);
      }
      best.offer(p, squared_error<Arch, Target>(p, g.x, g.importance, g.n));
    });
  }

  bool negative_scales_;
  level_tables<Target> tables_;
};

}  // namespace detail

/// Scale and zero point of the least squared error per group.
///
/// exact   Minimises sum importance * (w - w_hat)^2 over all scales, and all whole zero points
/// where
///         the target stores one. What the scale's storage leaves of that minimum is kept by
///         comparing the stored scales beside it (all of them for one-byte stores). Real zero
///         points make it a search in two dimensions: a local minimum by alternating, from several
///         ranges.
/// shrink  Ranges of 1 - i / steps times the full one for i < max_shrink * steps; the least
///         sum importance * |w - w_hat|^norm wins, the wider range on ties.
///
/// importance       one weight per column [k], or empty
/// negative_scales  exact, no stored zero points: whether the side of the table that reaches
///                  further may be that of the positive weights
/// rule             shrink on integer grids: target or gptq, the latter to gptqmodel's bit
struct range_search {
  range_method method = range_method::exact;
  vector_view<const float> importance{};
  bool negative_scales = true;
  float norm = 2.4F;
  int steps = 100;
  float max_shrink = 0.8F;
  grid_rule rule = grid_rule::target;
  non_finite on_non_finite = non_finite::reject;
  progress_ref progress{};

  /// Shapes    w [n, k]; target [n, k].
  /// Numerics  sums in double; never a larger error in the method's own measure than rtn, as both
  ///           are stored.
  /// Cost      exact: O(n log n) per group of n and whole zero point, times the codes that its
  ///           range needs; shrink: max_shrink * steps passes. One params per group of memory.
  /// Throws    bad_shape, non_finite for importance; bad_argument for options outside their range;
  ///           cancelled, the target untouched; out_of_memory.
  /// Source    shrink: gptqmodel quantization/quantizer.py, find_params with mse.
  template <detail::refit_target Target, class Arch = detail::arch_of<Target>>
  policy_report apply(weights_view w, Target& target, executor_ref ex) const {
    detail::check_column_importance<Arch>(importance, w.extent(1));
    if (!(norm > 0 && norm <= 16)) {
      throw_error(errc::bad_argument, "norm",
                  "is " + std::to_string(norm) + "; above 0 and at most 16 is required");
    }
    if (steps < 1 || !(max_shrink > 0 && max_shrink <= 1)) {
      throw_error(errc::bad_argument, "steps and max_shrink",
                  "are " + std::to_string(steps) + " and " + std::to_string(max_shrink) +
                      "; at least 1, and above 0 and at most 1, are required");
    }
    if (rule != grid_rule::target && (rule != grid_rule::gptq || method == range_method::exact)) {
      throw_error(errc::bad_argument, "grid rule",
                  "a range search takes grid_rule::target or, with range_method::shrink, gptq");
    }
    detail::group_source source;
    source.importance = importance;
    source.on_non_finite = on_non_finite;
    source.progress = progress;
    const index_t size = target.group_size();
    source.scratch_bytes = detail::least_error_search<Target, Arch>::scratch_bytes(size);
    if (method == range_method::shrink) {
      detail::quantize_groups<Arch>(
          w, target, source, ex,
          [&](const detail::weight_group& g) noexcept { return best_range<Target, Arch>(g); });
      return {};
    }
    const detail::least_error_search<Target, Arch> search(negative_scales);
    detail::quantize_groups<Arch>(
        w, target, source, ex,
        [&](const detail::weight_group& g) noexcept { return search.params_of(g); });
    return {};
  }

 private:
  template <class Target, class Arch>
  [[nodiscard]] double norm_error(const typename Target::params& p,
                                  const detail::weight_group& g) const noexcept {
    double sum = 0;
    for (index_t i = 0; i < g.n; ++i) {
      // In fp32 like the tool's, so that what is equal there is equal here.
      const float difference = unfused(Target::value(Target::round(g.x[i], i, p), i, p)) - g.x[i];
      const double size = static_cast<double>(magnitude(difference));
      const double cost = norm == 2 ? size * size : __builtin_pow(size, static_cast<double>(norm));
      sum += (g.importance != nullptr ? static_cast<double>(g.importance[i]) : 1.0) * cost;
    }
    return sum;
  }

  template <class Target, class Arch>
  [[nodiscard]] typename Target::params best_range(const detail::weight_group& g) const noexcept {
    using params = typename Target::params;
    const int count = static_cast<int>(max_shrink * static_cast<float>(steps));
    const auto factor = [&](int i) noexcept {
      return static_cast<float>(1.0 - static_cast<double>(i) / static_cast<double>(steps));
    };
    if constexpr (detail::int_grid_target<Target>) {
      using grid = typename Target::grid;
      closed_interval range = detail::exact_range<Arch>(g.x, g.n);
      range = {range.low < 0 ? range.low : 0.0F, range.high > 0 ? range.high : 0.0F};
      // gptqmodel leaves half the codes of a symmetric group without negatives unused.
      const bool halved = grid::zeros == zero_points::none && rule == grid_rule::gptq &&
                          range.low == 0 && range.high > 0;
      detail::best_params<params> best{{}, __builtin_inf()};
      for (int i = 0; i < count || i == 0; ++i) {
        const float low = factor(i) * range.low;
        params p = grid::spanning({low, factor(i) * range.high});
        if (halved) p.scale = factor(i) * range.high / static_cast<float>(grid::last_code);
        best.offer(Target::storable(p), norm_error<Target, Arch>(Target::storable(p), g));
        if (grid::bits == 2 && grid::zeros == zero_points::integer) {
          // With three steps it is worth a try which of the two whole zero points beside to take.
          const float zero = p.scale != 0 ? -low / p.scale : 0.0F;
          const int below = clamp(static_cast<int>(zero), 0, grid::last_code);
          const int above =
              clamp(below + (zero > static_cast<float>(below) ? 1 : 0), 0, grid::last_code);
          p.zero = static_cast<float>(static_cast<int>(p.zero) == below ? above : below);
          best.offer(Target::storable(p), norm_error<Target, Arch>(Target::storable(p), g));
        }
      }
      return best.params;
    } else {
      const params full = Target::template fit<Arch>(g.x, g.importance, g.n);
      detail::best_params<params> best{full, norm_error<Target, Arch>(full, g)};
      for (int i = 1; i < count; ++i) {
        const params p = detail::shrunken<Target>(full, factor(i));
        best.offer(p, norm_error<Target, Arch>(p, g));
      }
      return best.params;
    }
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
