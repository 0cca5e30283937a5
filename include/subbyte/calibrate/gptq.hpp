// SPDX-License-Identifier: Apache-2.0
/// GPTQ: codes chosen column by column, each column's rounding error fed into the columns still to
/// come through the inverse of the layer's Hessian.
#pragma once

#include <algorithm>  // std::sort
#include <limits>
#include <string>
#include <vector>

#include "subbyte/calibrate/cholesky.hpp"
#include "subbyte/num/rounding.hpp"
#include "subbyte/quantize/concepts.hpp"
#include "subbyte/quantize/groups.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The order in which GPTQ goes through the columns.
enum class column_order {
  natural,     ///< as they lie
  activation,  ///< by the Hessian's diagonal, largest first (act-order, desc_act)
  group_aware  ///< so within each group, and groups by their largest: nothing to store
};

/// Which weights the params of a group are fitted to when its first column comes up.
enum class group_params {
  stale,  ///< as before this block of columns, as published
  fresh   ///< as they are, with every error so far fed back; blocks are cut where groups begin
};

/// How much of a group's range its params cover.
enum class clip_search {
  none,         ///< what the grid's own fit says
  power_error,  ///< of 80 shrunk ranges the one with the least sum |error|^2.4
  hessian       ///< of 76 shrunk ranges the one with the least error in the Hessian metric
};

/// What becomes of the weights of columns whose input was always zero.
enum class dead_columns {
  keep,  ///< rounded to nearest
  zero   ///< zeroed first, as published: a group's range is then that of its live columns
};

/// What to do when the Hessian cannot be factorised or says nothing.
enum class on_failure {
  error,            ///< throw
  more_damp,        ///< try again with four times the damp, up to 1; then throw
  round_to_nearest  ///< do without feedback; the report says so
};

namespace detail {

/// Rows that one piece of work rounds together, rows held in memory as columns at a time, and the
/// pieces of a lazy update: fixed, so that no result depends on the executor.
inline constexpr index_t gptq_lanes = 32;
inline constexpr index_t gptq_rows = 2048;
inline constexpr index_t gptq_update_rows = 1024;
inline constexpr index_t gptq_update_cols = 256;

/// |d|^2.4 as d^2 times the fifth root of d^2, in a form that vectorises.
///
/// Numerics  relative error below 1e-6: three Newton steps from a guess within 6 %.
[[nodiscard]] SUBBYTE_INLINE float power_2_4(float d) noexcept {
  const float square = d * d;
  if (!(square > 1e-30F)) return 0.0F;
  // A fifth of the exponent, bits and bias alike.
  float root = bit_cast<float>(bit_cast<std::uint32_t>(square) / 5U + 0x32CCCCCDU - 0x20000U);
  for (int i = 0; i < 3; ++i) {
    const float fourth = root * root * root * root;
    root = 0.2F * (4.0F * root + square / fourth);
  }
  return square * root;
}

/// The columns in the order they are quantized in, and where each is stored.
struct gptq_plan {
  std::vector<std::int32_t> column;  ///< of W, per step
  std::vector<std::int32_t> slot;    ///< among the stored columns, per step
  std::vector<index_t> blocks;       ///< step boundaries, 0 first and cols last
  bool ordered = false;              ///< stored columns are steps, and the target keeps the order
};

/// Indices by descending diagonal, the smaller of two equal ones first.
template <class Arch>
void sort_by_diagonal(std::int32_t* first, std::int32_t* last, const double* diagonal) {
  std::sort(first, last, [diagonal](std::int32_t a, std::int32_t b) {
    return diagonal[a] != diagonal[b] ? diagonal[a] > diagonal[b] : a < b;
  });
}

template <class Arch>
[[nodiscard]] gptq_plan plan_columns(index_t cols, index_t group, column_order order,
                                     bool static_groups, group_params params, index_t column_block,
                                     const double* diagonal) {
  gptq_plan plan;
  plan.column.resize(static_cast<std::size_t>(cols));
  std::int32_t* const column = plan.column.data();
  for (index_t j = 0; j < cols; ++j) column[j] = static_cast<std::int32_t>(j);
  if (order == column_order::activation) {
    sort_by_diagonal<Arch>(column, column + cols, diagonal);
    plan.ordered = !static_groups && group < cols;
  } else if (order == column_order::group_aware) {
    const index_t whole = cols / group;
    std::vector<std::int32_t> groups(static_cast<std::size_t>(whole));
    std::vector<double> largest(static_cast<std::size_t>(whole));
    for (index_t g = 0; g < whole; ++g) {
      groups[static_cast<std::size_t>(g)] = static_cast<std::int32_t>(g);
      largest[static_cast<std::size_t>(g)] =
          *std::max_element(diagonal + g * group, diagonal + (g + 1) * group);
    }
    sort_by_diagonal<Arch>(groups.data(), groups.data() + whole, largest.data());
    std::int32_t* out = column;
    for (const std::int32_t g : groups) {
      for (index_t i = 0; i < group; ++i) {
        out[i] = static_cast<std::int32_t>(g * group + i);
      }
      sort_by_diagonal<Arch>(out, out + group, diagonal);
      out += group;
    }
    sort_by_diagonal<Arch>(out, column + cols, diagonal);
  }
  plan.slot = plan.column;
  if (plan.ordered) {
    for (index_t j = 0; j < cols; ++j) {
      plan.slot[static_cast<std::size_t>(j)] = static_cast<std::int32_t>(j);
    }
  }
  // Fresh params want every earlier error fed back, so no block may end inside a group that another
  // block's columns precede in it: whole groups per block, or whole blocks per group.
  plan.blocks.push_back(0);
  const bool aligned = params == group_params::fresh && !static_groups;
  while (plan.blocks.back() < cols) {
    const index_t begin = plan.blocks.back();
    index_t end = begin + column_block;
    if (aligned && group <= column_block) {
      end = begin + column_block / group * group;
    } else if (aligned) {
      const index_t group_end = (begin / group + 1) * group;
      end = end < group_end ? end : group_end;
    }
    plan.blocks.push_back(end < cols ? end : cols);
  }
  return plan;
}

/// error [lanes, n] times the inverse of a group's block of U, in place; both with a row pitch.
template <class Arch>
[[gnu::noinline]] void solve_group(const double* factor, index_t factor_pitch, index_t n,
                                   double* error, index_t error_pitch, index_t lanes) noexcept {
  const eigen_pitched<const eigen_rows_d> u(factor, n, n, Eigen::OuterStride<>(factor_pitch));
  eigen_pitched<eigen_rows_d> e(error, lanes, n, Eigen::OuterStride<>(error_pitch));
  u.template triangularView<Eigen::Upper>().template solveInPlace<Eigen::OnTheRight>(e);
}

/// The errors [block, rows] of steps begin .. end - 1 off all columns behind them, for `count` rows
/// of the weights [k, rows].
template <class Arch>
void update_behind(matrix_view<const double> u, matrix_view<const double> errors, index_t begin,
                   index_t end, index_t count, matrix_view<double> weights, executor_ref ex) {
  using map = eigen_pitched<eigen_rows_d>;
  using const_map = eigen_pitched<const eigen_rows_d>;
  const index_t cols = u.extent(0);
  const index_t chunk = weights.extent(1);
  const index_t behind = cols - end;
  const index_t across = ceil_div(count, gptq_update_rows);
  const index_t pieces = across * ceil_div(behind, gptq_update_cols);
  ex.for_range(pieces, 1, [&](index_t first, index_t last) noexcept {
    for (index_t piece = first; piece < last; ++piece) {
      const index_t c = piece / across * gptq_update_cols;
      const index_t r = piece % across * gptq_update_rows;
      const index_t n = behind - c < gptq_update_cols ? behind - c : gptq_update_cols;
      const index_t m = count - r < gptq_update_rows ? count - r : gptq_update_rows;
      const const_map factor(&u(begin, end + c), end - begin, n, Eigen::OuterStride<>(cols));
      const const_map error(&errors(0, r), end - begin, m, Eigen::OuterStride<>(chunk));
      map(&weights(end + c, r), n, m, Eigen::OuterStride<>(chunk)).noalias() -=
          factor.transpose() * error;
    }
  });
}

}  // namespace detail

/// The policy: GPTQ with the Hessian of the layer's input.
///
/// For every row w it looks for codes that minimise (w - q) H (w - q)^T. Columns are rounded one
/// after another; with U^T U = inverse(H), the error of column c over U_cc times the row U_c goes
/// off the columns behind it. Columns are worked on in blocks, whose errors reach the columns
/// beyond the block in one matrix product.
///
/// Options
///  - hessian: X^T X [k, k] of the layer's input, up to a positive factor.
///  - tokens: how many rows X had; 0: not known.
///  - damp: added to the diagonal, as a part of its mean. automatic_damp is 0.05 or, where tokens
///    are known, 0.1 (k / tokens)^2 within 0.01 and 0.2: docs/methods/gptq.md has the figures.
///  - column_block: columns per block. Changes rounding only, but for stale params.
///  - order: group_aware has most of what activation gives, and every format can store it.
///    activation needs a target that stores a column order (planar), static groups, or one group
///    per row. natural is the published order.
///  - static_groups: params of every group from the weights as they are given.
///  - params: stale as published; fresh differs by less than 1 %, to either side.
///  - clip, dead, failure: see their types. A Hessian without a live column is a failure.
///  - on_non_finite: NaN and Inf among the weights are an error, or zero.
///  - memory_limit: bytes that the work may take besides w and the target; 0: no limit.
///  - progress: called between blocks.
///
/// Any quant_target will do. The params of a block format are fitted by the format's own search,
/// with the Hessian's diagonal as importance, and are fixed while the block's codes are chosen.
/// Source  Frantar et al., GPTQ, arXiv 2210.17323, algorithm 1; group_aware: arXiv 2505.14638.
struct gptq {
  static constexpr float automatic_damp = -1.0F;

  hessian_view hessian{};
  index_t tokens = 0;
  float damp = automatic_damp;
  int column_block = 128;
  column_order order = column_order::group_aware;
  bool static_groups = false;
  group_params params = group_params::stale;
  clip_search clip = clip_search::none;
  dead_columns dead = dead_columns::keep;
  on_failure failure = on_failure::error;
  non_finite on_non_finite = non_finite::reject;
  index_t memory_limit = 0;
  progress_ref progress{};

  /// Shapes    w [n, k]; target [n, k].
  /// Numerics  double, but for what the grid rounds; the same codes for any executor. The report's
  ///           objective is the trace of (W - Q) (H + damp) (W - Q)^T.
  /// Cost      1/3 k^3 + n k^2 / 2 multiply-adds in products of Eigen's; k^2 doubles, n k bytes,
  ///           the params, and at most 2048 rows of W in double at a time. clip_search::hessian
  ///           adds 38 n k times the group size, power_error 80 passes of rounding.
  /// Throws    bad_shape when the Hessian is not [k, k]; bad_argument for options outside their
  ///           range or that the target cannot store; non_finite for a Hessian with NaN or Inf;
  ///           not_positive_definite; out_of_memory, also beyond memory_limit; cancelled. The
  ///           target is then as it was.
  template <quant_target Target, class Arch = detail::arch_of<Target>>
  policy_report apply(weights_view w, Target& target, executor_ref ex) const {
    const index_t rows = w.extent(0);
    const index_t cols = w.extent(1);
    SUBBYTE_EXPECTS(target.rows() == rows && target.cols() == cols);
    check_options<Arch>(cols, group_of(target), stores_order<Target>);
    if (detail::stored_order(target) != nullptr) {
      throw_error(errc::bad_argument, "target",
                  "has a column order already; one without is required");
    }
    if (rows == 0 || cols == 0) return {};
    check_memory<Arch>(rows, cols, group_of(target), sizeof(typename Target::params));

    policy_report report;
    std::vector<double> diagonal(static_cast<std::size_t>(cols));
    const bool usable = read_diagonal<Arch>(cols, diagonal.data(), report, ex);
    if (!usable) {
      report.fell_back = true;
      for (double& d : diagonal) d = 1;
    }
    detail::gptq_plan plan = detail::plan_columns<Arch>(
        cols, group_of(target), order, static_groups, params, column_block, diagonal.data());
    tensor<double, 2> u;
    if (usable) u = factor<Arch>(cols, rows, plan, diagonal, report, ex);
    if (u.empty()) {
      plan = detail::plan_columns<Arch>(cols, group_of(target), column_order::natural, true, params,
                                        column_block, diagonal.data());
    }
    run<Target, Arch> work{*this, w, target, plan, u, report, ex, group_of(target)};
    work.go(diagonal);
    return report;
  }

 private:
  template <class Target>
  [[nodiscard]] SUBBYTE_INLINE static index_t group_of(const Target& target) noexcept {
    return target.group_size() < target.cols() ? target.group_size() : target.cols();
  }

  template <class Target>
  static constexpr bool stores_order = requires(Target& t,
                                                vector_view<const std::int32_t> columns) {
    t.set_column_order(columns);
  };

  template <class Arch>
  void check_options(index_t cols, index_t group, bool can_store_order) const {
    if (hessian.rows() != cols || hessian.cols() != cols) {
      throw_error(errc::bad_shape, "hessian",
                  std::to_string(hessian.rows()) + " x " + std::to_string(hessian.cols()) +
                      " for weights of " + std::to_string(cols) +
                      " columns; one row and column for each is required");
    }
    if (damp != automatic_damp && !(damp >= 0 && damp <= std::numeric_limits<float>::max())) {
      throw_error(errc::bad_argument, "damp",
                  std::to_string(damp) + "; a finite value >= 0 or automatic_damp is required");
    }
    if (column_block < 1) {
      throw_error(errc::bad_argument, "column_block",
                  std::to_string(column_block) + "; at least 1 is required");
    }
    if (tokens < 0 || memory_limit < 0) {
      throw_error(errc::bad_argument, tokens < 0 ? "tokens" : "memory_limit",
                  "negative; 0 (unknown, none) or more is required");
    }
    const bool scattered = order == column_order::activation && group < cols;
    if (scattered && !static_groups && !can_store_order) {
      throw_error(errc::bad_argument, "order",
                  "activation order scatters a group's columns, and this format stores no order; "
                  "group_aware or static_groups is required");
    }
    if (scattered && static_groups && clip == clip_search::hessian) {
      throw_error(errc::bad_argument, "clip",
                  "the Hessian metric of a group needs its columns together; another order, or "
                  "power_error, is required with activation order and static groups");
    }
  }

  /// Bytes at the worst moment.
  [[nodiscard]] SUBBYTE_INLINE index_t peak_bytes(index_t rows, index_t cols, index_t group,
                                                  index_t params_bytes) const {
    constexpr index_t real = sizeof(double);
    const index_t chunk = rows < detail::gptq_rows ? rows : detail::gptq_rows;
    const index_t block = column_block < cols ? column_block : cols;
    const index_t searching = clip == clip_search::hessian ? real : 0;
    const index_t factoring = cols * (detail::cholesky_panel + 1) * real;
    const index_t rounding = chunk * cols * real + rows * cols +
                             rows * ceil_div(cols, group) * params_bytes +
                             chunk * group * (2 * static_cast<index_t>(sizeof(float)) + searching) +
                             chunk * block * (2 * real + 1);
    return cols * cols * real + (factoring > rounding ? factoring : rounding);
  }
  template <class Arch>
  void check_memory(index_t rows, index_t cols, index_t group, index_t params_bytes) const {
    if (memory_limit == 0) return;
    const index_t needed = peak_bytes(rows, cols, group, params_bytes);
    if (needed > memory_limit) {
      throw_error(errc::out_of_memory, "memory_limit",
                  std::to_string(memory_limit) + " bytes, and " + std::to_string(rows) + " x " +
                      std::to_string(cols) + " weights take " + std::to_string(needed));
    }
  }

  /// The diagonal of H, zero where dead. False: H says nothing, and the policy wants to go on.
  template <class Arch>
  [[nodiscard]] bool read_diagonal(index_t cols, double* diagonal, policy_report& report,
                                   executor_ref ex) const {
    std::vector<double> poison(static_cast<std::size_t>(cols));
    ex.for_range(cols, 16, [&](index_t begin, index_t end) noexcept {
      for (index_t i = begin; i < end; ++i) {
        double sum = 0;
        for (index_t j = i; j < cols; ++j) sum += hessian(i, j) - hessian(i, j);
        poison[static_cast<std::size_t>(i)] = sum;
      }
    });
    for (index_t i = 0; i < cols; ++i) {
      if (poison[static_cast<std::size_t>(i)] == 0) continue;
      if (failure == on_failure::round_to_nearest) return false;
      index_t j = i;
      while (hessian(i, j) - hessian(i, j) == 0) ++j;
      throw_error(errc::non_finite, "hessian",
                  "row " + std::to_string(i) + ", column " + std::to_string(j) + " holds " +
                      std::to_string(hessian(i, j)) + "; finite values are required");
    }
    for (index_t i = 0; i < cols; ++i) {
      diagonal[i] = hessian(i, i);
      report.dead_columns += diagonal[i] == 0 ? 1 : 0;
    }
    if (report.dead_columns < cols) return true;
    if (failure == on_failure::round_to_nearest) return false;
    throw_error(errc::not_positive_definite, "hessian",
                "is zero: no input of this layer was ever seen; a live column, or the fallback "
                "round_to_nearest, is required");
  }

  [[nodiscard]] SUBBYTE_INLINE double first_damp(index_t cols) const noexcept {
    if (damp != automatic_damp) return static_cast<double>(damp);
    if (tokens == 0) return 0.05;
    const double coverage = static_cast<double>(tokens) / static_cast<double>(cols);
    const double wanted = 0.1 / (coverage * coverage);
    return wanted < 0.01 ? 0.01 : (wanted > 0.2 ? 0.2 : wanted);
  }

  /// U in step order; empty after a fallback. On return `diagonal` is the importance of
  /// every column.
  template <class Arch>
  [[nodiscard]] tensor<double, 2> factor(index_t cols, index_t rows, const detail::gptq_plan& plan,
                                         std::vector<double>& diagonal, policy_report& report,
                                         executor_ref ex) const {
    // Published, a dead column's diagonal element becomes 1 and counts. Kept columns do not count,
    // so that a factor on the Hessian changes nothing.
    const bool published = dead == dead_columns::zero;
    double mean = published ? static_cast<double>(report.dead_columns) : 0.0;
    for (const double d : diagonal) mean += d;
    mean /= static_cast<double>(published ? cols : cols - report.dead_columns);
    const double share = factor_share(rows, cols);
    const auto progress_here = [&](double fraction) { return progress(share * fraction); };
    double tried = first_damp(cols);
    tensor<double, 2> u(uninitialized, cols, cols);
    for (;;) {
      ex.for_range(cols, 16, [&](index_t begin, index_t end) noexcept {
        for (index_t i = begin; i < end; ++i) {
          const index_t row = plan.column[static_cast<std::size_t>(i)];
          for (index_t j = i; j < cols; ++j) {
            u(i, j) = hessian(row, plan.column[static_cast<std::size_t>(j)]);
          }
          if (u(i, i) == 0) u(i, i) = published ? 1.0 : mean;
          u(i, i) += tried * mean;
        }
      });
      const cholesky_outcome outcome =
          inverse_cholesky_into<Arch>(tensor_view<double, 2>(u.view()), ex, progress_here);
      if (outcome.cancelled) cancel();
      report.damp = static_cast<float>(tried);
      if (outcome.ok()) break;
      if (failure == on_failure::round_to_nearest) {
        report.fell_back = true;
        for (double& d : diagonal) d = (d > 0 ? d / mean : 0.0) + 1e-3;
        return {};
      }
      const double next = tried > 0 ? 4 * tried : 0.01;
      if (failure == on_failure::error || next > 1) {
        throw_error(
            errc::not_positive_definite, "hessian",
            "with damp " + std::to_string(tried) + " the pivot of column " +
                std::to_string(plan.column[static_cast<std::size_t>(outcome.failed_column)]) +
                " is " + std::to_string(outcome.pivot) +
                "; a positive definite matrix, a larger damp, or a fallback is required");
      }
      tried = next;
      report.fell_back = true;
    }
    // Dead columns keep a little weight: a group of them has params to be fitted, too.
    for (double& d : diagonal) d = d / mean + 1e-3;
    return u;
  }

  /// The part of the arithmetic that factorising is.
  [[nodiscard]] SUBBYTE_INLINE static double factor_share(index_t rows, index_t cols) noexcept {
    const double factoring = 2.0 / 3.0 * static_cast<double>(cols);
    return factoring / (factoring + static_cast<double>(rows));
  }

  [[noreturn]] SUBBYTE_INLINE static void cancel() {
    throw_error(errc::cancelled, "gptq", "the progress callback said stop");
  }

  /// One call of apply, from the factor on.
  template <class Target, class Arch>
  struct run {
    using target_params = typename Target::params;
    static constexpr index_t lanes_together = detail::gptq_lanes;

    const gptq& policy;
    weights_view w;
    Target& target;
    const detail::gptq_plan& plan;
    const tensor<double, 2>& u;  ///< [k, k] in step order, or empty: no feedback
    policy_report& report;
    executor_ref ex;
    index_t group;

    const index_t rows = w.extent(0);
    const index_t cols = w.extent(1);
    const index_t groups = ceil_div(cols, group);
    const index_t chunk = rows < detail::gptq_rows ? rows : detail::gptq_rows;
    const index_t block_limit = policy.column_block < cols ? policy.column_block : cols;
    const bool feedback = !u.empty();

    const index_t tiles = ceil_div(chunk, lanes_together);
    /// Params that no feedback changes: all of them, before the first column.
    const bool fitted_first = policy.static_groups || groups == 1 || !feedback;

    const bool searches_hessian = policy.clip == clip_search::hessian && feedback;

    tensor<std::uint8_t, 2> codes{uninitialized, rows, cols};  ///< by slot
    tensor<target_params, 2> fitted{uninitialized, rows, groups};
    tensor<double, 2> weights{uninitialized, cols, chunk};  ///< [step, row]: W, transposed
    tensor<double, 2> block{uninitialized, tiles, block_limit* lanes_together};
    tensor<std::uint8_t, 2> block_codes{uninitialized, tiles, block_limit* lanes_together};
    tensor<double, 2> errors{uninitialized, block_limit, chunk};
    tensor<float, 2> gathered{uninitialized, chunk, group};  ///< a group's weights by position
    tensor<float, 2> trial{uninitialized, chunk, group};
    tensor<double, 2> trial_errors{uninitialized, searches_hessian ? chunk : 0, group};
    tensor<float, 1> importance{uninitialized, cols};  ///< by slot
    tensor<std::int32_t, 1> step_of_slot{uninitialized, cols};
    tensor<double, 1> loss{rows};

    [[nodiscard]] SUBBYTE_INLINE index_t slot(index_t step) const noexcept {
      return plan.slot[static_cast<std::size_t>(step)];
    }
    [[nodiscard]] SUBBYTE_INLINE index_t group_length(index_t g) const noexcept {
      return cols - g * group < group ? cols - g * group : group;
    }

    void go(const std::vector<double>& weighing) {
      for (index_t j = 0; j < cols; ++j) {
        const auto column = static_cast<std::size_t>(plan.column[static_cast<std::size_t>(j)]);
        importance.data()[slot(j)] = static_cast<float>(weighing[column]);
        step_of_slot.data()[slot(j)] = static_cast<std::int32_t>(j);
      }
      const double share = feedback ? factor_share(rows, cols) : 0.0;
      const double blocks_in_all =
          static_cast<double>(ceil_div(rows, chunk)) * static_cast<double>(plan.blocks.size() - 1);
      double blocks_done = 0;
      for (index_t row = 0; row < rows; row += chunk) {
        const index_t count = rows - row < chunk ? rows - row : chunk;
        take_rows(row, count);
        for (std::size_t b = 0; b + 1 < plan.blocks.size(); ++b) {
          const index_t begin = plan.blocks[b];
          const index_t end = plan.blocks[b + 1];
          ex.for_range(count, lanes_together, [&](index_t first, index_t last) noexcept {
            for (index_t r = first; r < last; r += lanes_together) {
              round_block(row, r, last - r < lanes_together ? last - r : lanes_together, begin,
                          end);
            }
          });
          if (feedback) {
            detail::update_behind<Arch>(u.view(), errors.view(), begin, end, count, weights.view(),
                                        ex);
          }
          ++blocks_done;
          if (!policy.progress(share + (1 - share) * blocks_done / blocks_in_all)) cancel();
        }
      }
      report.objective = 0;
      for (index_t r = 0; r < rows; ++r) report.objective += loss.data()[r];
      if constexpr (stores_order<Target>) {
        if (plan.ordered) target.set_column_order(plan.column);
      }
      ex.for_range(rows, 8, [&](index_t first, index_t last) noexcept {
        for (index_t r = first; r < last; ++r) {
          for (index_t g = 0; g < groups; ++g) {
            target.store(r, g, fitted(r, g), &codes(r, g * group), group_length(g));
          }
        }
      });
    }

    /// Rows [row, row + count) of W into `weights`; params that no feedback may change.
    void take_rows(index_t row, index_t count) {
      constexpr index_t columns_together = 16;
      const bool before_zeroing =
          policy.dead == dead_columns::zero && groups == 1 && !policy.static_groups && feedback;
      copy_rows<columns_together>(row, count, before_zeroing);
      // One group per row is fitted to the weights as they are given even where dead columns are
      // zeroed: what gptqmodel does.
      if (fitted_first) {
        ex.for_range(count, lanes_together, [&](index_t first, index_t last) noexcept {
          for (index_t r = first; r < last; r += lanes_together) {
            const index_t lanes = last - r < lanes_together ? last - r : lanes_together;
            for (index_t g = 0; g < groups; ++g) fit_group(row, r, lanes, g, 0, 0);
          }
        });
      }
      if (before_zeroing) copy_rows<columns_together>(row, count, false);
    }

    template <index_t Together>
    void copy_rows(index_t row, index_t count, bool with_dead) {
      const bool zero_dead = policy.dead == dead_columns::zero && feedback && !with_dead;
      ex.for_range(cols, Together, [&](index_t first, index_t last) noexcept {
        for (index_t at = first; at < last; at += Together) {
          const index_t n = last - at < Together ? last - at : Together;
          for (index_t r = 0; r < count; ++r) {
            for (index_t j = 0; j < n; ++j) {
              const index_t column = plan.column[static_cast<std::size_t>(at + j)];
              float v = w(row + r, column);
              if (policy.on_non_finite == non_finite::zero && !(v - v == 0)) v = 0;
              weights(at + j, r) = static_cast<double>(v);
            }
          }
          for (index_t j = 0; zero_dead && j < n; ++j) {
            const index_t column = plan.column[static_cast<std::size_t>(at + j)];
            if (policy.hessian(column, column) != 0) continue;
            for (index_t r = 0; r < count; ++r) weights(at + j, r) = 0;
          }
        }
      });
    }

    /// The params of group g for rows r .. r + lanes - 1 of the chunk that begins at `row`. Steps
    /// begin .. end - 1 are taken from the block, with the errors fed back so far.
    void fit_group(index_t row, index_t r, index_t lanes, index_t g, index_t begin,
                   index_t end) noexcept {
      const index_t n = group_length(g);
      for (index_t at = 0; at < n; ++at) {
        const index_t step = step_of_slot.data()[g * group + at];
        const double* const from =
            step >= begin && step < end ? block_column(r, step - begin) : &weights(step, r);
        for (index_t i = 0; i < lanes; ++i) gathered(r + i, at) = static_cast<float>(from[i]);
      }
      for (index_t i = 0; i < lanes; ++i) {
        fitted(row + r + i, g) = fit_weights(&gathered(r + i, index_t{0}), weighing(g), n);
      }
      if (policy.clip == clip_search::power_error) {
        for (index_t i = 0; i < lanes; ++i) search_power_error(row, r + i, g, n);
      } else if (searches_hessian) {
        search_hessian(row, r, lanes, g, n);
      }
    }
    // Formats' searches are inlined by force: one copy of them is enough.
    [[nodiscard, gnu::noinline]] static target_params fit_weights(const float* x,
                                                                  const float* weight,
                                                                  index_t n) noexcept {
      return Target::template fit<Arch>(x, weight, n);
    }
    [[nodiscard]] SUBBYTE_INLINE const float* weighing(index_t g) const noexcept {
      return importance.data() + g * group;
    }

    /// The params of the group in `gathered`, its range cut to `part`; leaves the cut weights in
    /// `trial`.
    [[nodiscard]] target_params fit_cut(index_t r, index_t g, index_t n, float part) noexcept {
      const float* const x = &gathered(r, index_t{0});
      float* const cut = &trial(r, index_t{0});
      float low = 0;
      float high = 0;
      for (index_t i = 0; i < n; ++i) {
        low = x[i] < low ? x[i] : low;
        high = x[i] > high ? x[i] : high;
      }
      low *= part;
      high *= part;
      for (index_t i = 0; i < n; ++i) cut[i] = x[i] < low ? low : (x[i] > high ? high : x[i]);
      return fit_weights(cut, weighing(g), n);
    }

    /// Source  IST-DASLab/gptq and gptqmodel: 100 steps down to a fifth, exponent 2.4.
    void search_power_error(index_t row, index_t r, index_t g, index_t n) noexcept {
      const float* const x = &gathered(r, index_t{0});
      target_params candidate = fitted(row + r, g);
      double least = std::numeric_limits<double>::infinity();
      for (int i = 0; i < 80; ++i) {
        if (i > 0) candidate = fit_cut(r, g, n, static_cast<float>(1.0 - i / 100.0));
        double sum = 0;
        for (index_t at = 0; at < n; ++at) {
          const int code = Target::round(x[at], at, candidate);
          sum += static_cast<double>(detail::power_2_4(Target::value(code, at, candidate) - x[at]));
        }
        if (sum < least) {
          least = sum;
          fitted(row + r, g) = candidate;
        }
      }
    }

    /// What rounding to nearest would add to the objective if the columns behind the group made up
    /// for all they can: the error times the inverse of the group's block of U, squared.
    ///
    /// Source  the GPTQ of IST-DASLab/marlin: 76 steps down to a quarter.
    void search_hessian(index_t row, index_t r, index_t lanes, index_t g, index_t n) noexcept {
      index_t first = cols;
      for (index_t at = 0; at < n; ++at) {
        const index_t step = step_of_slot.data()[g * group + at];
        first = step < first ? step : first;
      }
      target_params candidate[static_cast<std::size_t>(lanes_together)];
      double least[static_cast<std::size_t>(lanes_together)];
      for (int c = 0; c < 76; ++c) {
        for (index_t i = 0; i < lanes; ++i) {
          candidate[i] = c == 0 ? fitted(row + r + i, g)
                                : fit_cut(r + i, g, n, static_cast<float>(1.0 - c / 100.0));
          const float* const x = &gathered(r + i, index_t{0});
          double* const error = &trial_errors(r + i, index_t{0});
          for (index_t at = 0; at < n; ++at) {
            const int code = Target::round(x[at], at, candidate[i]);
            error[step_of_slot.data()[g * group + at] - first] =
                static_cast<double>(Target::value(code, at, candidate[i]) - x[at]);
          }
        }
        detail::solve_group<Arch>(&u(first, first), cols, n, &trial_errors(r, index_t{0}), group,
                                  lanes);
        for (index_t i = 0; i < lanes; ++i) {
          double sum = 0;
          for (index_t at = 0; at < n; ++at) {
            const double e = trial_errors(r + i, at);
            sum += e * e;
          }
          if (c == 0 || sum < least[i]) {
            least[i] = sum;
            fitted(row + r + i, g) = candidate[i];
          }
        }
      }
    }

    [[nodiscard]] SUBBYTE_INLINE double* block_column(index_t r, index_t column) noexcept {
      return block.data() + (r / lanes_together * block_limit + column) * lanes_together;
    }

    /// Steps begin .. end - 1 of rows r .. r + lanes - 1: their codes, and their errors over U_jj.
    void round_block(index_t row, index_t r, index_t lanes, index_t begin, index_t end) noexcept {
      constexpr index_t together = lanes_together;
      for (index_t j = begin; j < end; ++j) {
        double* const to = block_column(r, j - begin);
        for (index_t i = 0; i < lanes; ++i) to[i] = weights(j, r + i);
        for (index_t i = lanes; i < together; ++i) to[i] = 0;
      }
      target_params params[static_cast<std::size_t>(together)];
      double lost[static_cast<std::size_t>(together)] = {};
      std::uint8_t* const codes_here = block_codes.data() + r / together * block_limit * together;
      index_t current = -1;
      for (index_t j = begin; j < end; ++j) {
        const index_t g = slot(j) / group;
        const index_t at = slot(j) - g * group;
        if (g != current) {
          const bool first_column = j == 0 || slot(j - 1) / group != g;
          if (!fitted_first && first_column) {
            const bool fresh = policy.params == group_params::fresh;
            fit_group(row, r, lanes, g, begin, fresh ? end : begin);
          }
          for (index_t i = 0; i < together; ++i) {
            params[i] = fitted(row + r + (i < lanes ? i : 0), g);
          }
          current = g;
        }
        const double* const column = block_column(r, j - begin);
        std::uint8_t* const code = codes_here + (j - begin) * together;
        double error[static_cast<std::size_t>(together)];
        for (index_t i = 0; i < together; ++i) {
          const int nearest = Target::round(static_cast<float>(column[i]), at, params[i]);
          code[i] = static_cast<std::uint8_t>(nearest);
          error[i] = column[i] - static_cast<double>(Target::value(nearest, at, params[i]));
        }
        if (!feedback) continue;
        const double* const factor = u.data() + j * cols;
        for (index_t i = 0; i < together; ++i) {
          error[i] /= factor[j];
          lost[i] += error[i] * error[i];
        }
        for (index_t i = 0; i < lanes; ++i) errors(j - begin, r + i) = error[i];
        for (index_t c = j + 1; c < end; ++c) {
          double* const to = block_column(r, c - begin);
          const double f = factor[c];
          for (index_t i = 0; i < together; ++i) to[i] -= error[i] * f;
        }
      }
      for (index_t i = 0; i < lanes; ++i) {
        loss.data()[row + r + i] += lost[i];
        std::uint8_t* const out = &codes(row + r + i, index_t{0});
        for (index_t j = begin; j < end; ++j) {
          out[slot(j)] = codes_here[(j - begin) * together + i];
        }
      }
    }
  };
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
