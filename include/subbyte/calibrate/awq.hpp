// SPDX-License-Identifier: Apache-2.0
/// AWQ: a search for the scales of input channels that make the quantized layer's outputs come out
/// nearest, shared by all weights that read the input; and a search for the range to clip to.
#pragma once

#include <cmath>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <type_traits>
#include <utility>  // std::move

#include "subbyte/calibrate/fold.hpp"
#include "subbyte/calibrate/layer_loss.hpp"
#include "subbyte/calibrate/statistics.hpp"
#include "subbyte/exec/progress.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "subbyte/quantize/rtn.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Which scales a candidate of strength alpha is made of, x the mean |x| of the channel, w the mean
/// over rows of |w| relative to its group's largest.
enum class awq_duo {
  without,  ///< x^alpha, as in the paper
  with,     ///< x^alpha / w^(1 - alpha), as in AutoAWQ
  both      ///< both are tried
};

/// shape     groups of the candidates, for planar formats; also the groups that duo scaling relates
///           weights to. Block formats use their blocks.
/// duo       see awq_duo.
/// grid      alpha = 0, 1/grid, ... 1; the identity comes first in any case.
/// sharing   query heads that share value heads, when the weight is an output projection whose
/// scale
///           is to be folded into the value projection: the columns of one value channel get one
///           scale.
/// progress  called per candidate and weight.
struct awq_options {
  planar_shape shape{128};
  awq_duo duo = awq_duo::both;
  int grid = 20;
  head_sharing sharing{};
  progress_ref progress{};
};

/// One candidate and its loss; alpha is -1 for the identity.
struct awq_candidate {
  float alpha;
  bool duo;
  double loss;
};

/// The best scale of a search.
template <class Arch>
struct basic_awq_result {
  tensor<float, 1> scale;  ///< [k]: divide the input by it, multiply the columns of the weights
  double loss = 0;         ///< mean squared error of one output of one token
  double loss_identity = 0;
  float alpha = -1;  ///< -1: the identity
  bool duo = false;
  tensor<awq_candidate, 1> candidates;  ///< in the order they were tried, the identity first
};
using awq_result = basic_awq_result<arch::native>;

namespace detail {

template <class F>
inline constexpr index_t block_group = F::block_size;
template <class G, class S>
inline constexpr index_t block_group<planar<G, S>> = 0;

/// Weights per group: the format's block, or where that is 0 as the shape says.
[[nodiscard]] SUBBYTE_INLINE constexpr index_t group_size_of(index_t block, planar_shape shape,
                                                             index_t cols) noexcept {
  const index_t size = block > 0 ? block : shape.group_size;
  return size < cols ? size : (cols > 0 ? cols : 1);
}

template <class F, class Arch>
[[nodiscard]] matrix_of<F, Arch> matrix_for(index_t rows, index_t cols, planar_shape shape) {
  if constexpr (block_group < F >> 0) {
    return matrix_of<F, Arch>(rows, cols);
  } else {
    return matrix_of<F, Arch>(rows, cols, shape);
  }
}

/// mean |x| per channel: what is given, or from x.
template <class Arch>
[[nodiscard]] tensor<float, 1> mean_magnitude_of(const layer_inputs& inputs, index_t cols) {
  tensor<float, 1> mean(cols);
  if (inputs.mean_magnitude.size() != 0) {
    if (inputs.mean_magnitude.size() != cols) {
      throw_error(errc::bad_shape, "mean_magnitude",
                  std::to_string(inputs.mean_magnitude.size()) + " channels, the weights have " +
                      std::to_string(cols) + " columns");
    }
    for (index_t j = 0; j < cols; ++j) {
      const float m = inputs.mean_magnitude[j];
      if (!(m >= 0) || !std::isfinite(m)) {
        throw_error(m < 0 ? errc::bad_argument : errc::non_finite, "mean_magnitude",
                    "channel " + std::to_string(j) + " holds " + std::to_string(m) +
                        "; a finite number of at least 0 is required");
      }
      mean(j) = m;
    }
    return mean;
  }
  const index_t tokens = inputs.x.extent(0);
  if (tokens == 0) {
    throw_error(errc::bad_argument, "mean_magnitude",
                "empty, and there are no rows of activations to make it from");
  }
  tensor<double, 1> sums(cols);
  for (index_t t = 0; t < tokens; ++t) {
    const float* const row = inputs.x.data() + t * cols;
    for (index_t j = 0; j < cols; ++j) {
      sums(j) += static_cast<double>(row[j] < 0 ? -row[j] : row[j]);
    }
  }
  for (index_t j = 0; j < cols; ++j) {
    mean(j) = static_cast<float>(sums(j) / static_cast<double>(tokens));
  }
  return mean;
}

/// The mean over all rows of |w| / (largest |w| of its group + 1e-6).
template <class Arch>
[[nodiscard]] tensor<float, 1> relative_weight_mean(
    std::span<const matrix_view<const float>> weights, index_t cols, index_t group) {
  tensor<double, 1> sums(cols);
  double rows = 0;
  for (const auto& w : weights) {
    rows += static_cast<double>(w.extent(0));
    for (index_t r = 0; r < w.extent(0); ++r) {
      const float* const row = w.data() + r * cols;
      for (index_t from = 0; from < cols; from += group) {
        const index_t end = cols - from < group ? cols : from + group;
        float most = 0;
        for (index_t j = from; j < end; ++j) {
          const float magnitude = row[j] < 0 ? -row[j] : row[j];
          most = magnitude > most ? magnitude : most;
        }
        const float divisor = most + 1e-6F;
        for (index_t j = from; j < end; ++j) {
          sums(j) += static_cast<double>((row[j] < 0 ? -row[j] : row[j]) / divisor);
        }
      }
    }
  }
  tensor<float, 1> mean(cols);
  for (index_t j = 0; j < cols; ++j) {
    mean(j) = rows > 0 ? static_cast<float>(sums(j) / rows) : 0.0F;
  }
  return mean;
}

/// Replaces the values of columns that read one value channel by their mean.
template <class Arch>
void average_shared(head_sharing sharing, tensor<float, 1>& values) {
  if (sharing.heads == sharing.kv_heads) return;
  const index_t cols = values.size();
  const index_t channels = cols / sharing.heads * sharing.kv_heads;
  const double readers = static_cast<double>(sharing.heads / sharing.kv_heads);
  tensor<double, 1> sums(channels);
  for (index_t j = 0; j < cols; ++j) {
    sums(value_channel(sharing, cols, j)) += static_cast<double>(values(j));
  }
  for (index_t j = 0; j < cols; ++j) {
    values(j) = static_cast<float>(sums(value_channel(sharing, cols, j)) / readers);
  }
}

/// The scale of one candidate, with its largest and smallest entries' geometric mean at one.
///
/// Source  AutoAWQ quantize/quantizer.py, _compute_best_scale.
template <class Arch>
void make_awq_scale(const tensor<float, 1>& x, const tensor<float, 1>& w, float alpha, bool duo,
                    tensor<float, 1>& scale) {
  float most = 0;
  float least = std::numeric_limits<float>::infinity();
  for (index_t j = 0; j < scale.size(); ++j) {
    float s = std::pow(x(j), alpha);
    if (duo) s /= std::pow(w(j), 1.0F - alpha) + 1e-4F;
    s = s > 1e-4F ? s : 1e-4F;
    scale(j) = s;
    most = s > most ? s : most;
    least = s < least ? s : least;
  }
  const float middle = std::sqrt(most * least);
  for (index_t j = 0; j < scale.size(); ++j) {
    const float s = scale(j) / middle;
    scale(j) = std::isfinite(s) && s > 0 && std::isfinite(1 / s) ? s : 1.0F;
  }
}

/// The policy of a candidate: itself, or what it makes of the candidate's scale.
template <class Policy>
[[nodiscard]] SUBBYTE_INLINE decltype(auto) policy_for(const Policy& policy,
                                                       vector_view<const float> scale) {
  if constexpr (std::is_invocable_v<const Policy&, vector_view<const float>>) {
    return policy(scale);
  } else {
    return (policy);
  }
}

template <class Arch>
void check_awq_weights(std::span<const matrix_view<const float>> weights, executor_ref ex) {
  if (weights.empty()) {
    throw_error(errc::bad_argument, "weights", "none; at least one is required");
  }
  const index_t cols = weights.front().extent(1);
  for (std::size_t i = 0; i < weights.size(); ++i) {
    if (weights[i].extent(1) != cols) {
      throw_error(errc::bad_shape, "weights",
                  "weight " + std::to_string(i) + " has " + std::to_string(weights[i].extent(1)) +
                      " columns, the first has " + std::to_string(cols) +
                      "; weights that read one input are required");
    }
    check_finite<Arch>(weights[i], ex);
  }
}

/// The largest magnitude of n weights.
template <class Arch>
[[nodiscard]] float largest_magnitude(const float* w, index_t n) noexcept {
  float most = 0;
  for (index_t j = 0; j < n; ++j) {
    const float magnitude = w[j] < 0 ? -w[j] : w[j];
    most = magnitude > most ? magnitude : most;
  }
  return most;
}

/// What one group decodes to when `values` are quantized, less the weights.
template <class Target, class Arch>
void clip_errors(grid_rule rule, const float* values, const float* weights, index_t n,
                 double* errors) noexcept {
  if constexpr (whole_zero_target<Target>) {
    using grid = typename Target::grid;
    if (rule != grid_rule::target) {
      const auto p = Target::storable(rule_params<Arch, grid>(rule, values, n));
      for (index_t j = 0; j < n; ++j) {
        const float decoded = Target::value(rule_code<grid>(rule, values[j], p), j, p);
        errors[j] = static_cast<double>(decoded) - static_cast<double>(weights[j]);
      }
      return;
    }
  }
  const auto p = Target::template fit<Arch>(values, nullptr, n);
  for (index_t j = 0; j < n; ++j) {
    const float decoded = Target::value(Target::round(values[j], j, p), j, p);
    errors[j] = static_cast<double>(decoded) - static_cast<double>(weights[j]);
  }
}

/// How a candidate is quantized, for a search that is compiled once for all formats and policies.
struct awq_trial {
  void* self;
  void (*quantize)(void* self, matrix_view<const float> w, vector_view<const float> scale,
                   executor_ref ex);
  void (*decode)(void* self, index_t row, index_t cols, float* out) noexcept;
};

/// awq_trial's functions for one format and policy. One candidate is in memory at a time.
template <class F, class Policy, class Arch>
struct awq_trial_of {
  const Policy& policy;
  const planar_shape& shape;
  std::optional<matrix_of<F, Arch>> target{};

  static void quantize(void* self, matrix_view<const float> w, vector_view<const float> scale,
                       executor_ref ex) {
    awq_trial_of& trial = *static_cast<awq_trial_of*>(self);
    trial.target.reset();
    trial.target.emplace(matrix_for<F, Arch>(w.extent(0), w.extent(1), trial.shape));
    const auto& chosen = policy_for(trial.policy, scale);
    (void)chosen.apply(w, *trial.target, ex);
  }
  static void decode(void* self, index_t row, index_t cols, float* out) noexcept {
    static_cast<awq_trial_of*>(self)->target->view().template decode_row<Arch>(row, 0, cols, out);
  }
};

template <class Arch>
[[nodiscard]] basic_awq_result<Arch> search_awq(std::span<const matrix_view<const float>> weights,
                                                const layer_inputs& inputs,
                                                const awq_options& options, index_t block,
                                                const awq_trial& trial, executor_ref ex) {
  check_awq_weights<Arch>(weights, ex);
  const index_t cols = weights.front().extent(1);
  if (options.grid < 1) {
    throw_error(errc::bad_argument, "grid",
                std::to_string(options.grid) + "; at least 1 is required");
  }
  if (options.shape.group_size < 1) {
    throw_error(errc::bad_argument, "group size",
                std::to_string(options.shape.group_size) + "; at least 1 is required");
  }
  check_sharing<Arch>(options.sharing, cols);
  const layer_loss_sums<Arch> sums(inputs, cols, ex);
  tensor<float, 1> x = mean_magnitude_of<Arch>(inputs, cols);
  average_shared<Arch>(options.sharing, x);
  tensor<float, 1> relative(cols);
  if (options.duo != awq_duo::without) {
    relative = relative_weight_mean<Arch>(weights, cols, group_size_of(block, options.shape, cols));
    average_shared<Arch>(options.sharing, relative);
  }

  double outputs = 0;
  index_t most_rows = 0;
  for (const auto& w : weights) {
    outputs += static_cast<double>(w.extent(0)) * sums.tokens();
    most_rows = w.extent(0) > most_rows ? w.extent(0) : most_rows;
  }
  const index_t kinds = options.duo == awq_duo::both ? 2 : 1;
  const index_t count = 1 + kinds * (options.grid + 1);
  basic_awq_result<Arch> result;
  result.candidates = tensor<awq_candidate, 1>(count);
  result.scale = tensor<float, 1>(cols);
  for (index_t j = 0; j < cols; ++j) result.scale(j) = 1;

  tensor<float, 2> scaled(uninitialized, most_rows, cols);
  tensor<float, 1> scale = result.scale.clone();
  const double steps = static_cast<double>(count) * static_cast<double>(weights.size());
  for (index_t c = 0; c < count; ++c) {
    awq_candidate candidate{-1, false, 0};
    if (c > 0) {
      candidate.duo = options.duo == awq_duo::with || c > options.grid + 1;
      // Divided in double and then rounded, as the Python tools do.
      candidate.alpha = static_cast<float>(static_cast<double>((c - 1) % (options.grid + 1)) /
                                           static_cast<double>(options.grid));
      make_awq_scale<Arch>(x, relative, candidate.alpha, candidate.duo, scale);
    }
    double total = 0;
    for (std::size_t i = 0; i < weights.size(); ++i) {
      const double done = static_cast<double>(c) * static_cast<double>(weights.size());
      if (!options.progress((done + static_cast<double>(i)) / steps)) {
        throw_error(errc::cancelled, "awq", "the progress callback said stop");
      }
      const matrix_view<const float> w = weights[i];
      ex.for_range(w.extent(0), 16, [&](index_t begin, index_t end) noexcept {
        for (index_t r = begin; r < end; ++r) {
          const float* const from = w.data() + r * cols;
          float* const to = scaled.data() + r * cols;
          for (index_t j = 0; j < cols; ++j) to[j] = from[j] * scale(j);
        }
      });
      trial.quantize(trial.self, matrix_view<const float>(scaled.data(), w.extent(0), cols),
                     scale.view(), ex);
      total += sums.sum(w.extent(0), ex, [&](index_t first, index_t rows, float* e) noexcept {
        for (index_t r = 0; r < rows; ++r, e += cols) {
          trial.decode(trial.self, first + r, cols, e);
          const float* const row = w.data() + (first + r) * cols;
          for (index_t j = 0; j < cols; ++j) e[j] = e[j] / scale(j) - row[j];
        }
      });
    }
    candidate.loss = outputs > 0 ? total / outputs : 0.0;
    result.candidates(c) = candidate;
    if (c == 0) {
      result.loss = result.loss_identity = candidate.loss;
    } else if (candidate.loss < result.loss) {
      result.loss = candidate.loss;
      result.alpha = candidate.alpha;
      result.duo = candidate.duo;
      __builtin_memcpy(result.scale.data(), scale.data(),
                       static_cast<std::size_t>(cols) * sizeof(float));
    }
  }
  if (!options.progress(1.0)) {
    throw_error(errc::cancelled, "awq", "the progress callback said stop");
  }
  return result;
}

/// H_ij / (s_i s_j), checked.
template <class Arch, class T>
void scale_hessian_in_place(matrix_view<T> h, vector_view<const float> scale) {
  const index_t k = scale.size();
  if (h.extent(0) != k || h.extent(1) != k) {
    throw_error(errc::bad_shape, "hessian",
                std::to_string(h.extent(0)) + " x " + std::to_string(h.extent(1)) +
                    ", the scale has " + std::to_string(k) + " channels");
  }
  check_scale<Arch>(scale);
  for (index_t i = 0; i < k; ++i) {
    for (index_t j = 0; j < k; ++j) {
      // The product first: both triangles round alike.
      const double divisor = static_cast<double>(scale[i]) * static_cast<double>(scale[j]);
      h(i, j) = static_cast<T>(static_cast<double>(h(i, j)) / divisor);
    }
  }
}

}  // namespace detail

/// H becomes S^-1 H S^-1, the Hessian of inputs divided by `scale`: what GPTQ needs after the
/// weights were scaled.
///
/// Shapes    h [k, k]; scale [k].
/// Numerics  one rounding of the product and one of the quotient; a symmetric H stays symmetric.
/// Throws    bad_shape; bad_argument for a scale that is not positive and finite.
template <class Arch = arch::native>
void scale_hessian(matrix_view<double> h, vector_view<const float> scale) {
  detail::scale_hessian_in_place<Arch, double>(h, scale);
}
template <class Arch = arch::native>
void scale_hessian(matrix_view<float> h, vector_view<const float> scale) {
  detail::scale_hessian_in_place<Arch, float>(h, scale);
}

/// Rows of activations divided by `scale`.
///
/// Shapes    x [tokens, k]; scale [k].
/// Throws    bad_shape; bad_argument for a scale that is not positive and finite.
template <class Arch = arch::native>
void unscale_inputs(tensor_view<float, 2, row_pitched> x, vector_view<const float> scale) {
  if (x.extent(1) != scale.size()) {
    detail::reject_fold<Arch>("the input", x.extent(1), "channels", scale.size());
  }
  detail::check_scale<Arch>(scale);
  for (index_t t = 0; t < x.extent(0); ++t) {
    float* const row = x[t].data();
    for (index_t j = 0; j < scale.size(); ++j) row[j] /= scale[j];
  }
}

/// The scale s for which quantizing W diag(s), with the input divided by s, changes the outputs of
/// all `weights` least.
///
/// Candidates: no scaling, then s = x^alpha (and x^alpha / w^(1 - alpha), see awq_duo) for alpha
/// from 0 to 1, each at least 1e-4 and with sqrt(max s * min s) = 1. Each is quantized to F by
/// `policy` and judged by the outputs' squared error, from X or from H; the first of equal ones
/// wins. Hence the result is never worse than no scaling on this objective, whatever F and policy
/// are.
///
/// F       planar<G, S> or a block format.
/// policy  how a candidate is quantized: any policy for F, or a callable that makes one of the
///         candidate's scale, policy(vector_view<const float> scale), for policies with data per
///         channel (importance / s^2, a Hessian through scale_hessian).
///
/// Shapes    weights: each [n, k], all reading one input; the result's scale [k].
/// Numerics  scales in float by AutoAWQ's formulas; losses as layer_loss. The same bits for any
///           executor.
/// Cost      2 * grid + 3 candidates (grid + 2 unless both), each one quantization and n k^2 or
///           n k tokens multiply-adds; memory for one candidate of the largest weight, in float and
///           quantized, and k^2 floats with a Hessian.
/// Throws    bad_argument without weights, without X and H, or for a grid below 1; bad_shape;
///           non_finite for NaN or Inf in weights or inputs; what the policy throws; cancelled;
///           out_of_memory.
/// Source    Lin et al., AWQ, arXiv 2306.00978, section 3.2; AutoAWQ's duo scaling. Alpha 1 and the
///           identity are not among AutoAWQ's candidates.
template <class F = planar<int_grid<4>, half>, class Policy = rtn, class Arch = arch::native>
[[nodiscard]] basic_awq_result<Arch> awq_search(
    std::type_identity_t<std::span<const matrix_view<const float>>> weights,
    const layer_inputs& inputs, const awq_options& options = {},
    const Policy& policy = rtn{.rule = grid_rule::awq}, executor_ref ex = serial) {
  using trial_type = detail::awq_trial_of<F, Policy, Arch>;
  trial_type trial{policy, options.shape};
  return detail::search_awq<Arch>(weights, inputs, options, detail::block_group<F>,
                                  {&trial, &trial_type::quantize, &trial_type::decode}, ex);
}

/// The same from collected statistics: X^T X if it was collected, else the rows that were kept.
template <class F = planar<int_grid<4>, half>, class Policy = rtn, class Arch = arch::native>
[[nodiscard]] basic_awq_result<Arch> awq_search(
    std::type_identity_t<std::span<const matrix_view<const float>>> weights,
    const basic_input_statistics<Arch>& statistics, const awq_options& options = {},
    const Policy& policy = rtn{.rule = grid_rule::awq}, executor_ref ex = serial) {
  const tensor<float, 1> mean = statistics.mean_magnitude();
  layer_inputs inputs;
  inputs.mean_magnitude = mean.view();
  if (statistics.has_hessian()) {
    inputs.hessian = statistics.hessian();
    inputs.tokens = statistics.tokens();
  } else {
    inputs.x = statistics.sample();
  }
  return awq_search<F, Policy, Arch>(weights, inputs, options, policy, ex);
}

/// shape       groups that are clipped, each on its own; block formats: their blocks.
/// rule        the grid's formula, as in rtn.
/// grid        ranges 1 - i / grid of the group's largest magnitude are tried ...
/// max_shrink  ... for i below grid * max_shrink.
/// max_tokens  of more rows of activations, every (tokens / max_tokens)th is used.
/// progress    called per group of columns.
struct awq_clip_options {
  planar_shape shape{128};
  grid_rule rule = grid_rule::awq;
  int grid = 20;
  float max_shrink = 0.5F;
  index_t max_tokens = 512;
  progress_ref progress{};
};

namespace detail {

/// awq_clip for any format.
template <class Arch>
[[nodiscard]] tensor<float, 2> search_clip(
    matrix_view<const float> w, const layer_inputs& inputs, const awq_clip_options& options,
    grid_rule rule, index_t block,
    void (*clip_errors)(grid_rule, const float*, const float*, index_t, double*) noexcept,
    executor_ref ex) {
  const matrix_view<const float> all[] = {w};
  check_awq_weights<Arch>(all, ex);
  const index_t rows = w.extent(0);
  const index_t cols = w.extent(1);
  if (options.grid < 1 || !(options.max_shrink >= 0 && options.max_shrink <= 1) ||
      options.max_tokens < 1) {
    throw_error(errc::bad_argument, "awq clip",
                "grid " + std::to_string(options.grid) + ", max_shrink " +
                    std::to_string(options.max_shrink) + ", max_tokens " +
                    std::to_string(options.max_tokens) +
                    "; at least 1, 0 to 1 and at least 1 are required");
  }
  if (options.shape.group_size < 1) {
    throw_error(errc::bad_argument, "group size",
                std::to_string(options.shape.group_size) + "; at least 1 is required");
  }
  layer_loss_sums<Arch>::check(inputs, cols);
  const index_t size = group_size_of(block, options.shape, cols);
  const index_t groups = ceil_div(cols, size);
  // int(max_shrink * grid) of the Python tools, whose product is in double.
  const int tried =
      static_cast<int>(static_cast<double>(options.max_shrink) * static_cast<double>(options.grid));
  tensor<float, 2> bounds(uninitialized, rows, groups);

  using double_matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
  const index_t tokens = inputs.x.extent(0);
  const index_t stride = tokens > options.max_tokens ? tokens / options.max_tokens : 1;
  std::atomic<bool> fine{true};
  for (index_t g = 0; g < groups; ++g) {
    if (!options.progress(static_cast<double>(g) / static_cast<double>(groups))) {
      throw_error(errc::cancelled, "awq clip", "the progress callback said stop");
    }
    const index_t from = g * size;
    const index_t n = cols - from < size ? cols - from : size;
    tensor<double, 2> h(n, n);
    Eigen::Map<double_matrix> hessian(h.data(), n, n);
    if (tokens > 0) {
      const index_t used = ceil_div(tokens, stride);
      const Eigen::Map<const Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>,
                       Eigen::Unaligned, Eigen::OuterStride<>>
          x(inputs.x.data() + from, used, n, Eigen::OuterStride<>(stride * cols));
      hessian.noalias() = x.template cast<double>().transpose() * x.template cast<double>();
    } else {
      for (index_t i = 0; i < n; ++i) {
        for (index_t j = 0; j < n; ++j) h(i, j) = inputs.hessian(from + i, from + j);
      }
    }
    const index_t pieces = ceil_div(rows, loss_rows);
    ex.for_range(pieces, 1, [&](index_t begin, index_t end) noexcept {
      try {
        double_matrix errors;
        double_matrix products;
        for (index_t piece = begin; piece < end; ++piece) {
          const index_t first = piece * loss_rows;
          const index_t count = rows - first < loss_rows ? rows - first : loss_rows;
          errors.resize(count, n);
          double best[loss_rows];
          tensor<float, 1> values(uninitialized, n);
          for (int i = 0; i < tried || i == 0; ++i) {
            const auto keep = static_cast<float>(1.0 - static_cast<double>(i) /
                                                           static_cast<double>(options.grid));
            for (index_t r = 0; r < count; ++r) {
              const float* const row = w.data() + (first + r) * cols + from;
              const float bound = largest_magnitude<Arch>(row, n) * keep;
              for (index_t j = 0; j < n; ++j) {
                const float v = row[j];
                values(j) = v > bound ? bound : (v < -bound ? -bound : v);
              }
              clip_errors(rule, values.data(), row, n, &errors(r, 0));
            }
            products.noalias() = errors * hessian;
            for (index_t r = 0; r < count; ++r) {
              double error = 0;
              for (index_t j = 0; j < n; ++j) error += products(r, j) * errors(r, j);
              if (i > 0 && !(error < best[r])) continue;
              best[r] = error;
              const float* const row = w.data() + (first + r) * cols + from;
              bounds(first + r, g) = largest_magnitude<Arch>(row, n) * keep;
            }
          }
        }
      } catch (...) {  // std::bad_alloc from Eigen's buffers, error{out_of_memory} from ours
        fine.store(false, std::memory_order_relaxed);
      }
    });
    if (!fine) {
      throw_error(errc::out_of_memory, "awq clip",
                  "cannot allocate the buffers of groups of " + std::to_string(n));
    }
  }
  if (!options.progress(1.0)) {
    throw_error(errc::cancelled, "awq clip", "the progress callback said stop");
  }
  return bounds;
}

}  // namespace detail

/// Per row and group the magnitude to limit weights to before they are quantized to F, so that the
/// group's share of the output comes out nearest; the group's largest magnitude where no clipping
/// is best. Search on weights and inputs that are scaled already. AWQ's tools leave out the query
/// and key projections.
///
/// Each group is judged alone: errors of different groups cancel or add in the output, which this
/// ignores.
///
/// Shapes    w [n, k]; returns [n, groups].
/// Numerics  errors in float, their squares through X^T X of the group in double; the same bits for
///           any executor.
/// Cost      grid * max_shrink * n k * group multiply-adds, and X^T X of each group.
/// Throws    bad_argument for options outside their range, without X and H, or for a rule that F
///           does not take; bad_shape; non_finite; cancelled; out_of_memory.
/// Source    AutoAWQ quantize/quantizer.py, _compute_best_clip.
template <class F = planar<int_grid<4>, half>, class Arch = arch::native>
[[nodiscard]] tensor<float, 2> awq_clip(matrix_view<const float> w, const layer_inputs& inputs,
                                        const awq_clip_options& options = {},
                                        executor_ref ex = serial) {
  using target = matrix_of<F, Arch>;
  const grid_rule rule = detail::whole_zero_target<target> ? options.rule : grid_rule::target;
  return detail::search_clip<Arch>(w, inputs, options, rule, detail::block_group<F>,
                                   &detail::clip_errors<target, Arch>, ex);
}

/// Limits every weight to its group's bound of awq_clip.
///
/// Shapes    w [n, k]; bounds [n, groups], groups of group_size columns.
/// Throws    bad_shape when the bounds are not one per row and group; bad_argument for a group size
///           below 1.
template <class Arch = arch::native>
void apply_clip(tensor_view<float, 2, row_pitched> w, matrix_view<const float> bounds,
                index_t group_size) {
  const index_t cols = w.extent(1);
  if (group_size < 1) {
    throw_error(errc::bad_argument, "group size",
                std::to_string(group_size) + "; at least 1 is required");
  }
  if (bounds.extent(0) != w.extent(0) || bounds.extent(1) != ceil_div(cols, group_size)) {
    throw_error(errc::bad_shape, "bounds",
                std::to_string(bounds.extent(0)) + " x " + std::to_string(bounds.extent(1)) +
                    ", required are " + std::to_string(w.extent(0)) + " x " +
                    std::to_string(ceil_div(cols, group_size)));
  }
  for (index_t r = 0; r < w.extent(0); ++r) {
    float* const row = w[r].data();
    for (index_t j = 0; j < cols; ++j) {
      const float bound = bounds(r, j / group_size);
      row[j] = row[j] > bound ? bound : (row[j] < -bound ? -bound : row[j]);
    }
  }
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
