// SPDX-License-Identifier: Apache-2.0
/// Rounding learned by signed gradient descent on a layer's own error.
#pragma once

#if !__has_include(<Eigen/Core>)
#error "subbyte/calibrate needs Eigen >= 3.4 on the include path (CMake: subbyte::calibrate)"
#endif

// g++ 12 takes AVX-512's undefined vectors for uninitialized variables, wherever Eigen is inlined.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#pragma GCC diagnostic pop
#include <atomic>
#include <string>

#include "subbyte/calibrate/cholesky.hpp"
#include "subbyte/quantize/range_search.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

namespace detail {

/// Rows that learn together: fixed, so that no product depends on the executor.
inline constexpr index_t autoround_rows = 64;

/// The range of a group, and what is left of each end of it.
struct tuned_range {
  float low;
  float high;
  float keep_low;
  float keep_high;
};

/// One panel of rows while it learns, in memory that is given.
///
/// Numerics  products in float, each row's objective in double.
template <class Target, class Arch>
class autoround_panel {
 public:
  using params = typename Target::params;
  using float_matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  static constexpr bool tunes_ranges = int_grid_target<Target>;

  /// h [k, k] and its diagonal [k], over stored columns.
  /// Throws  std::bad_alloc, error{out_of_memory}.
  autoround_panel(const float* h, const float* diagonal, index_t cols, index_t group)
      : h_(h),
        diagonal_(diagonal),
        cols_(cols),
        group_(group),
        groups_(ceil_div(cols, group)),
        weights_(autoround_rows, cols),
        shift_(autoround_rows, cols),
        error_(autoround_rows, cols),
        gradient_(autoround_rows, cols),
        codes_(uninitialized, autoround_rows, cols),
        params_(uninitialized, autoround_rows, groups_),
        ranges_(uninitialized, autoround_rows, groups_),
        objective_(uninitialized, autoround_rows),
        scratch_(uninitialized, search_bytes(group)) {
    if constexpr (!tunes_ranges) step_.resize(autoround_rows, cols);
  }

  [[nodiscard]] float* row(index_t r) noexcept { return &weights_(r, 0); }

  /// Learns rows 0 .. count - 1; writes the best codes [count, cols] and params [count, groups].
  void learn(index_t count, int iterations, float rate, bool search, bool tune,
             std::uint8_t* best_codes, params* best) {
    rows_ = count;
    shift_.setZero();
    start(false);
    evaluate(true, best_codes, best);
    if (iterations == 0) return;
    if (search) {
      start(true);
      evaluate(false, best_codes, best);
    }
    for (int i = 0; i < iterations; ++i) {
      const float left = 1.0F - static_cast<float>(i) / static_cast<float>(iterations);
      for (index_t r = 0; r < rows_; ++r) descend(r, rate * left, tune);
      evaluate(false, best_codes, best);
    }
  }

 private:
  [[nodiscard]] static index_t search_bytes(index_t group) noexcept {
    if constexpr (refit_target<Target>) {
      return least_error_search<Target, Arch>::scratch_bytes(group);
    } else {
      return 1;
    }
  }

  // Errors, gradients and objectives where every row stands; keeps the rows that are better.
  void evaluate(bool first, std::uint8_t* best_codes, params* best) {
    for (index_t r = 0; r < rows_; ++r) place(r);
    const Eigen::Map<const float_matrix> h(h_, cols_, cols_);
    gradient_.topRows(rows_).noalias() = error_.topRows(rows_) * h;
    for (index_t r = 0; r < rows_; ++r) {
      double objective = 0;
      for (index_t j = 0; j < cols_; ++j) {
        objective += static_cast<double>(error_(r, j)) * static_cast<double>(gradient_(r, j));
      }
      if (!first && !(objective < objective_(r))) continue;
      objective_(r) = objective;
      for (index_t j = 0; j < cols_; ++j) best_codes[r * cols_ + j] = codes_(r, j);
      for (index_t g = 0; g < groups_; ++g) best[r * groups_ + g] = params_(r, g);
    }
  }

  // Params of every group: the target's fit, or those of the least error weighted by the diagonal.
  void start(bool search) noexcept {
    for (index_t r = 0; r < rows_; ++r) {
      for (index_t g = 0; g < groups_; ++g) {
        const index_t from = g * group_;
        const index_t n = cols_ - from < group_ ? cols_ - from : group_;
        const float* const x = &weights_(r, from);
        params& p = params_(r, g);
        if (!search) {
          p = Target::template fit<Arch>(x, nullptr, n);
        } else if constexpr (refit_target<Target>) {
          p = search_.params_of({r, g, n, x, diagonal_ + from, &codes_(r, from), scratch_.data()});
        } else {
          p = Target::template fit<Arch>(x, diagonal_ + from, n);
        }
        if constexpr (tunes_ranges) {
          using grid = typename Target::grid;
          constexpr auto last = static_cast<float>(grid::last_code);
          const float below = grid::zeros == zero_points::none ? last / 2 : p.zero;
          ranges_(r, g) = {-p.scale * below, p.scale * (last - below), 1.0F, 1.0F};
        } else {
          for (index_t i = 0; i < n; ++i) step_(r, from + i) = step_at(x[i], i, p);
        }
      }
    }
  }

  // The distance between the two values that v lies between, or of the last two.
  [[nodiscard]] SUBBYTE_INLINE static float step_at(float v, index_t i, const params& p) noexcept {
    const int code = Target::round(v, i, p);
    const float value = Target::value(code, i, p);
    float any = 0;
    for (const int beside : {code - 1, code + 1}) {
      if (beside < 0 || beside > 255) continue;
      const float other = Target::value(beside, i, p) - value;
      // A code that no weight has is no neighbour.
      if (Target::round(value + other, i, p) == code) continue;
      if ((other > 0) == (v > value)) return magnitude(other);
      if (any == 0 || magnitude(other) < any) any = magnitude(other);
    }
    return any;
  }

  // Codes, params and errors of row r as its shifts and ranges are now.
  void place(index_t r) noexcept {
    for (index_t g = 0; g < groups_; ++g) {
      const index_t from = g * group_;
      const index_t n = cols_ - from < group_ ? cols_ - from : group_;
      const float* const x = &weights_(r, from);
      const float* const shift = &shift_(r, from);
      float* const error = &error_(r, from);
      std::uint8_t* const codes = &codes_(r, from);
      if constexpr (tunes_ranges) {
        using grid = typename Target::grid;
        const tuned_range& t = ranges_(r, g);
        if (t.keep_low != 1.0F || t.keep_high != 1.0F) {
          params_(r, g) =
              Target::storable(grid::spanning({t.low * t.keep_low, t.high * t.keep_high}));
        }
        const params p = params_(r, g);
        constexpr float limit = 65536.0F;
        const float inner = grid::zeros == zero_points::real ? p.zero : 0.0F;
        const int outer = grid::zeros == zero_points::real ? 0 : static_cast<int>(p.zero);
        for (index_t i = 0; i < n; ++i) {
          float steps = p.scale != 0 ? x[i] / p.scale : 0.0F;
          steps = steps > limit ? limit : (steps < -limit ? -limit : steps);
          const int code = clamp(rint_even((steps + inner) + shift[i]) + outer, 0, grid::last_code);
          codes[i] = static_cast<std::uint8_t>(code);
          error[i] = unfused(grid::value(code, p)) - x[i];
        }
      } else {
        const params& p = params_(r, g);
        const float* const step = &step_(r, from);
        for (index_t i = 0; i < n; ++i) {
          const int code = Target::round(x[i] + unfused(shift[i] * step[i]), i, p);
          codes[i] = static_cast<std::uint8_t>(code);
          error[i] = unfused(Target::value(code, i, p)) - x[i];
        }
      }
    }
  }

  // One signed step of row r against its gradient. Rounding passes gradients on as they are, the
  // limits of the codes do not.
  void descend(index_t r, float rate, bool tune) noexcept {
    for (index_t g = 0; g < groups_; ++g) {
      const index_t from = g * group_;
      const index_t n = cols_ - from < group_ ? cols_ - from : group_;
      const float* const slope = &gradient_(r, from);
      float* const shift = &shift_(r, from);
      if constexpr (tunes_ranges) {
        using grid = typename Target::grid;
        constexpr auto last = static_cast<float>(grid::last_code);
        const params& p = params_(r, g);
        tuned_range& t = ranges_(r, g);
        const float* const x = &weights_(r, from);
        double by_low = 0;
        double by_high = 0;
        for (index_t i = 0; i < n; ++i) {
          const float steps = p.scale != 0 ? x[i] / p.scale : 0.0F;
          const float code = static_cast<float>(codes_(r, from + i));
          const float place = steps + p.zero + shift[i];
          const bool above = place > last + 0.5F;
          const bool below = place < -0.5F;
          const auto pull = static_cast<double>(slope[i]);
          if constexpr (grid::zeros == zero_points::none) {
            by_high += pull * static_cast<double>(code - p.zero - (above || below ? 0.0F : steps));
          } else if (above) {
            by_high += pull * static_cast<double>(last * t.high);
          } else if (below) {
            by_low += pull * static_cast<double>(last * t.low);
          } else {
            const double residual = pull * static_cast<double>(code - p.zero - steps);
            by_high += residual * static_cast<double>(t.high);
            by_low -= residual * static_cast<double>(t.low);
          }
          if (!above && !below) shift[i] = moved(shift[i], rate * sign_of(slope[i]));
        }
        if (tune) {
          t.keep_high = kept(t.keep_high - rate * sign_of(by_high));
          t.keep_low = grid::zeros == zero_points::none ? t.keep_high
                                                        : kept(t.keep_low - rate * sign_of(by_low));
        }
      } else {
        for (index_t i = 0; i < n; ++i) {
          shift[i] = moved(shift[i], rate * sign_of(slope[i]));
        }
      }
    }
  }

  template <class T>
  [[nodiscard]] SUBBYTE_INLINE static float sign_of(T v) noexcept {
    return v > 0 ? 1.0F : (v < 0 ? -1.0F : 0.0F);
  }
  [[nodiscard]] SUBBYTE_INLINE static float moved(float shift, float by) noexcept {
    const float v = shift - by;
    return v > 0.5F ? 0.5F : (v < -0.5F ? -0.5F : v);
  }
  [[nodiscard]] SUBBYTE_INLINE static float kept(float part) noexcept {
    constexpr float least = 0.01F;
    return part > 1.0F ? 1.0F : (part < least ? least : part);
  }

  struct no_search {
    explicit no_search(bool) noexcept {}
  };
  template <class T>
  struct search_of {
    using type = no_search;
  };
  template <refit_target T>
  struct search_of<T> {
    using type = least_error_search<T, Arch>;
  };

  const float* h_;
  const float* diagonal_;
  index_t cols_;
  index_t group_;
  index_t groups_;
  index_t rows_ = 0;
  float_matrix weights_;
  float_matrix shift_;  // in steps, within half of one
  float_matrix error_;
  float_matrix gradient_;  // half of it
  float_matrix step_;      // where params stay as they are
  tensor<std::uint8_t, 2> codes_;
  tensor<params, 2> params_;
  tensor<tuned_range, 2> ranges_;
  tensor<double, 1> objective_;
  tensor<std::uint8_t, 1> scratch_;
  // A range that learns has its low end below its high one.
  typename search_of<Target>::type search_{!tunes_ranges};
};

}  // namespace detail

/// The policy: AutoRound's signed gradient descent, on tr((W - W_hat) H (W - W_hat)^T).
///
/// Each weight gets a shift within half a step that is added before rounding; on integer grids the
/// two ends of each group's range learn too, and only shrink. A step goes `rate` against the sign
/// of the gradient, with rounding taken for the identity; the rate falls to zero in a line. Other
/// targets keep the params that they start with. Every row keeps its best iterate, rtn included.
///
/// hessian        X^T X [k, k] of the layer's input, up to a positive factor
/// iterations     steps; 0 gives rtn
/// rate           of the first step; 0: 1 / iterations
/// search_params  start from the params of range_search (or, for block formats with more than a
///                scale, of their own search) with the Hessian's diagonal as importance; else from
///                the target's fit, as published
/// tune_ranges    integer grids: learn the ranges too
/// on_non_finite  NaN and Inf among the weights: an error, or zero
struct autoround {
  hessian_view hessian{};
  int iterations = 200;
  float rate = 0;
  bool search_params = true;
  bool tune_ranges = true;
  non_finite on_non_finite = non_finite::reject;
  progress_ref progress{};

  /// Shapes    w [n, k]; target [n, k].
  /// Numerics  products in float, objectives in double; the same codes for any executor. Never a
  ///           larger objective than rtn's, up to the rounding of a float product.
  /// Cost      (iterations + 2) n k^2 multiply-adds in products of Eigen's; k^2 floats, n k bytes,
  ///           the params, and 64 rows of 17 bytes per weight and thread.
  /// Throws    bad_shape when the Hessian is not [k, k]; non_finite when it holds NaN or Inf;
  ///           bad_argument for options outside their range; cancelled, out_of_memory. The target
  ///           is then as it was.
  /// Source    Cheng et al., SignRound, arXiv 2309.05516; intel/auto-round. There the loss is that
  ///           of a block's outputs on batches; here it is the layer's, whole.
  template <quant_target Target, class Arch = detail::arch_of<Target>>
  policy_report apply(weights_view w, Target& target, executor_ref ex) const {
    using panel = detail::autoround_panel<Target, Arch>;
    using params = typename Target::params;
    const index_t rows = w.extent(0);
    const index_t cols = w.extent(1);
    SUBBYTE_EXPECTS(target.rows() == rows && target.cols() == cols);
    check_options<Arch>(cols);
    if (rows == 0 || cols == 0) return {};
    const index_t group = target.group_size() < cols ? target.group_size() : cols;
    const index_t groups = ceil_div(cols, group);
    const std::int32_t* const order = detail::stored_order(target);
    policy_report report;
    const tensor<float, 2> h = scaled_hessian<Arch>(cols, order, report, ex);
    tensor<float, 1> diagonal(uninitialized, cols);
    for (index_t j = 0; j < cols; ++j) diagonal(j) = h(j, j) > 0 ? h(j, j) : 0.0F;
    tensor<std::uint8_t, 2> codes(uninitialized, rows, cols);
    tensor<params, 2> found(uninitialized, rows, groups);
    const float first_rate =
        rate > 0 ? rate : 1.0F / static_cast<float>(iterations > 0 ? iterations : 1);

    const index_t panels = ceil_div(rows, detail::autoround_rows);
    const index_t threads = ex.concurrency() > 1 ? ex.concurrency() : 1;
    std::atomic<bool> fine{true};
    for (index_t begin = 0; begin < panels; begin += threads) {
      const index_t count = panels - begin < threads ? panels - begin : threads;
      ex.for_range(count, 1, [&](index_t from, index_t to) noexcept {
        try {
          panel work(h.data(), diagonal.data(), cols, group);
          for (index_t i = begin + from; i < begin + to; ++i) {
            const index_t r0 = i * detail::autoround_rows;
            const index_t n =
                rows - r0 < detail::autoround_rows ? rows - r0 : detail::autoround_rows;
            for (index_t r = 0; r < n; ++r) {
              const auto row = w[r0 + r];
              float* const x = work.row(r);
              for (index_t j = 0; j < cols; ++j) {
                const float v = row[order != nullptr ? order[j] : j];
                x[j] = on_non_finite == non_finite::zero && v - v != 0 ? 0.0F : v;
              }
            }
            work.learn(n, iterations, first_rate, search_params, tune_ranges, &codes(r0, 0),
                       &found(r0, 0));
          }
        } catch (...) {  // std::bad_alloc from Eigen's buffers, error{out_of_memory} from ours
          fine.store(false, std::memory_order_relaxed);
        }
      });
      if (!fine) {
        throw_error(errc::out_of_memory, "autoround",
                    "cannot allocate the buffers of " + std::to_string(detail::autoround_rows) +
                        " rows of " + std::to_string(cols) + " weights");
      }
      if (!progress(static_cast<double>(begin + count) / static_cast<double>(panels))) {
        throw_error(errc::cancelled, "autoround", "the progress callback returned false");
      }
    }
    ex.for_range(rows, 8, [&](index_t begin, index_t end) noexcept {
      for (index_t r = begin; r < end; ++r) {
        for (index_t g = 0; g < groups; ++g) {
          const index_t from = g * group;
          target.store(r, g, found(r, g), &codes(r, from),
                       cols - from < group ? cols - from : group);
        }
      }
    });
    return report;
  }

 private:
  template <class Arch>
  void check_options(index_t cols) const {
    if (hessian.rows() != cols || hessian.cols() != cols) {
      throw_error(errc::bad_shape, "hessian",
                  std::to_string(hessian.rows()) + " x " + std::to_string(hessian.cols()) +
                      " for weights of " + std::to_string(cols) +
                      " columns; one row and column for each is required");
    }
    if (iterations < 0 || !(rate >= 0 && rate <= 1)) {
      throw_error(errc::bad_argument, "iterations and rate",
                  "are " + std::to_string(iterations) + " and " + std::to_string(rate) +
                      "; at least 0, and in [0, 1], are required");
    }
  }

  // Over stored columns, in units of the mean diagonal.
  template <class Arch>
  [[nodiscard]] tensor<float, 2> scaled_hessian(index_t cols, const std::int32_t* order,
                                                policy_report& report, executor_ref ex) const {
    double trace = 0;
    for (index_t j = 0; j < cols; ++j) {
      trace += hessian(j, j);
      report.dead_columns += hessian(j, j) == 0 ? 1 : 0;
    }
    const double unit = trace > 0 ? trace / static_cast<double>(cols) : 1.0;
    tensor<float, 2> h(uninitialized, cols, cols);
    std::atomic<bool> fine{true};
    ex.for_range(cols, 16, [&](index_t begin, index_t end) noexcept {
      double poison = 0;
      for (index_t i = begin; i < end; ++i) {
        for (index_t j = 0; j < cols; ++j) {
          const double v =
              hessian(order != nullptr ? order[i] : i, order != nullptr ? order[j] : j);
          poison += v - v;
          h(i, j) = static_cast<float>(v / unit);
        }
      }
      if (poison != 0) fine.store(false, std::memory_order_relaxed);
    });
    if (!fine) {
      throw_error(errc::non_finite, "hessian", "holds NaN or Inf; finite values are required");
    }
    return h;
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
