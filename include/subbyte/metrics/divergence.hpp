// SPDX-License-Identifier: Apache-2.0
/// How far a model's predictions are from another's: KL divergence of logits, top-1 agreement,
/// perplexity.
#pragma once

#include <cmath>
#include <limits>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Count, mean and spread of a stream of values; parts merge.
///
/// Numerics  double, by updates of the mean, so that equal values have spread 0. Merging parts in a
///           fixed order gives the same bits for any number of threads. After a NaN or Inf the mean
///           and the spread are not finite.
/// Source    update: Welford 1962; merge: Chan, Golub and LeVeque 1979.
struct moments {
  index_t count = 0;
  double running_mean = 0;
  double squared_deviation = 0;

  SUBBYTE_INLINE constexpr moments() noexcept = default;

  SUBBYTE_INLINE constexpr void add(double value) noexcept {
    ++count;
    const double delta = value - running_mean;
    running_mean += delta / static_cast<double>(count);
    squared_deviation += delta * (value - running_mean);
  }

  SUBBYTE_INLINE constexpr void merge(const moments& other) noexcept {
    if (other.count == 0) return;
    if (count == 0) {
      *this = other;
      return;
    }
    const double here = static_cast<double>(count);
    const double there = static_cast<double>(other.count);
    const double all = here + there;
    const double delta = other.running_mean - running_mean;
    count += other.count;
    running_mean += delta * (there / all);
    squared_deviation += other.squared_deviation + delta * delta * (here * there / all);
  }

  /// NaN without values.
  [[nodiscard]] SUBBYTE_INLINE constexpr double mean() const noexcept {
    return count > 0 ? running_mean : std::numeric_limits<double>::quiet_NaN();
  }
  /// The unbiased variance; NaN with fewer than two values.
  [[nodiscard]] SUBBYTE_INLINE constexpr double variance() const noexcept {
    return count > 1 ? squared_deviation / static_cast<double>(count - 1)
                     : std::numeric_limits<double>::quiet_NaN();
  }
  /// The standard error of the mean of independent values; NaN with fewer than two.
  [[nodiscard]] SUBBYTE_INLINE double standard_error() const noexcept {
    return std::sqrt(variance() / static_cast<double>(count));
  }
};

/// ln(sum exp(logit)) in double; -inf without logits or if all are -inf, NaN with a NaN or +inf.
template <class Arch = arch::native>
[[nodiscard]] double log_sum_exp(vector_view<const float> logits) noexcept {
  double largest = -std::numeric_limits<double>::infinity();
  for (index_t i = 0; i < logits.size(); ++i) {
    const double logit = static_cast<double>(logits[i]);
    if (logit > largest || logit != logit) largest = logit;
  }
  if (largest == -std::numeric_limits<double>::infinity()) return largest;
  double sum = 0;
  for (index_t i = 0; i < logits.size(); ++i) {
    sum += std::exp(static_cast<double>(logits[i]) - largest);
  }
  return largest + std::log(sum);
}

/// The index of the largest logit: the first of equal ones, never a NaN unless all are.
///
/// Requires  at least one logit.
template <class Arch = arch::native>
[[nodiscard]] index_t top_token(vector_view<const float> logits) noexcept {
  SUBBYTE_EXPECTS(!logits.empty());
  index_t top = 0;
  for (index_t i = 1; i < logits.size(); ++i) {
    if (logits[i] > logits[top] || (logits[top] != logits[top] && logits[i] == logits[i])) top = i;
  }
  return top;
}

/// The negative log-likelihood of a token, in nats: -ln softmax(logits)[token].
///
/// Requires  0 <= token < logits.size().
template <class Arch = arch::native>
[[nodiscard]] double token_nll(vector_view<const float> logits, index_t token) noexcept {
  return log_sum_exp<Arch>(logits) - static_cast<double>(logits[token]);
}

/// KL(softmax(base) || softmax(logits)) in nats over the whole vocabulary.
///
/// A token to which base gives no probability adds nothing; one that only base allows gives +inf.
/// Empty vectors: 0. llama.cpp skips tokens with ln p_base <= -16 and stores base log-probabilities
/// in 16 bits, so its figures differ.
/// Shapes    base [v]; logits [v].
/// Numerics  log-softmax and the sum in double; never negative; NaN with a NaN or +inf logit, or if
/// one side
///           is -inf throughout.
template <class Arch = arch::native>
[[nodiscard]] double logit_kl(vector_view<const float> base,
                              vector_view<const float> logits) noexcept {
  SUBBYTE_EXPECTS(base.size() == logits.size());
  const double base_sum = log_sum_exp<Arch>(base);
  const double sum = log_sum_exp<Arch>(logits);
  double divergence = 0;
  for (index_t i = 0; i < base.size(); ++i) {
    const double base_log = static_cast<double>(base[i]) - base_sum;
    const double probability = std::exp(base_log);
    if (probability == 0) continue;
    divergence += probability * (base_log - (static_cast<double>(logits[i]) - sum));
  }
  return divergence < 0 ? 0 : divergence;
}

/// What one position of a token stream says about a model and its base.
struct token_divergence {
  double kl;        ///< KL(base || model) of the prediction, nats
  double base_nll;  ///< of the token that came, under the base, nats
  double nll;       ///< of the token that came, under the model, nats
  bool same_top;    ///< both predict the same token
};

/// Compares the predictions of one position.
///
/// Shapes    base [v]; logits [v].
/// Requires  v >= 1; 0 <= token < v.
/// Numerics  as logit_kl, token_nll, top_token.
template <class Arch = arch::native>
[[nodiscard]] token_divergence compare_token(vector_view<const float> base,
                                             vector_view<const float> logits,
                                             index_t token) noexcept {
  return {logit_kl<Arch>(base, logits), token_nll<Arch>(base, token),
          token_nll<Arch>(logits, token), top_token<Arch>(base) == top_token<Arch>(logits)};
}

/// Perplexity from negative log-likelihoods: exp(mean). Parts merge as moments do.
///
/// Figures of different programs compare only if they score the same positions.
struct perplexity_sums {
  moments nll;

  SUBBYTE_INLINE constexpr perplexity_sums() noexcept = default;

  SUBBYTE_INLINE constexpr void add(double nats) noexcept { nll.add(nats); }
  SUBBYTE_INLINE constexpr void merge(const perplexity_sums& other) noexcept {
    nll.merge(other.nll);
  }

  /// NaN without tokens.
  [[nodiscard]] SUBBYTE_INLINE double perplexity() const noexcept { return std::exp(nll.mean()); }
  /// To first order: perplexity times the standard error of the mean.
  [[nodiscard]] SUBBYTE_INLINE double standard_error() const noexcept {
    return perplexity() * nll.standard_error();
  }
};

/// A model against its base over a token stream; every figure NaN without tokens, every standard
/// error NaN with fewer than two.
struct divergence_report {
  index_t tokens;
  double kl;                       ///< mean, nats per token
  double kl_standard_error;        ///< of the mean
  double kl_max;                   ///< the largest of any token
  double same_top;                 ///< share of positions with the same top token
  double same_top_standard_error;  ///< binomial, sqrt(p (1 - p) / (tokens - 1))
  double base_perplexity;
  double base_perplexity_standard_error;
  double perplexity;
  double perplexity_standard_error;
  double perplexity_ratio;                 ///< perplexity / base_perplexity
  double perplexity_ratio_standard_error;  ///< from paired differences: their covariance counts
  double probability_change;               ///< mean of p - p_base of the token that came
  double probability_change_rms;           ///< root of the mean square of the same
};

/// Sums over the positions of a token stream; parts merge as moments do.
struct divergence_sums {
  moments kl;
  double largest_kl = 0;
  index_t same_top = 0;
  perplexity_sums base;
  perplexity_sums model;
  moments nll_difference;
  moments probability_change;
  moments squared_probability_change;

  SUBBYTE_INLINE constexpr divergence_sums() noexcept = default;

  SUBBYTE_INLINE void add(const token_divergence& token) noexcept {
    const double change = std::exp(-token.nll) - std::exp(-token.base_nll);
    kl.add(token.kl);
    keep_largest(token.kl);
    same_top += token.same_top ? 1 : 0;
    base.add(token.base_nll);
    model.add(token.nll);
    nll_difference.add(token.nll - token.base_nll);
    probability_change.add(change);
    squared_probability_change.add(change * change);
  }

  SUBBYTE_INLINE void merge(const divergence_sums& other) noexcept {
    kl.merge(other.kl);
    keep_largest(other.largest_kl);
    same_top += other.same_top;
    base.merge(other.base);
    model.merge(other.model);
    nll_difference.merge(other.nll_difference);
    probability_change.merge(other.probability_change);
    squared_probability_change.merge(other.squared_probability_change);
  }

  [[nodiscard]] SUBBYTE_INLINE divergence_report report() const noexcept {
    constexpr double nan = std::numeric_limits<double>::quiet_NaN();
    const double n = static_cast<double>(kl.count);
    const double agreement = kl.count > 0 ? static_cast<double>(same_top) / n : nan;
    const double ratio = std::exp(nll_difference.mean());
    return {kl.count,
            kl.mean(),
            kl.standard_error(),
            kl.count > 0 ? largest_kl : nan,
            agreement,
            kl.count > 1 ? std::sqrt(agreement * (1 - agreement) / (n - 1)) : nan,
            base.perplexity(),
            base.standard_error(),
            model.perplexity(),
            model.standard_error(),
            ratio,
            ratio * nll_difference.standard_error(),
            probability_change.mean(),
            std::sqrt(squared_probability_change.mean())};
  }

 private:
  SUBBYTE_INLINE constexpr void keep_largest(double value) noexcept {
    if (value > largest_kl || value != value) largest_kl = value;
  }
};

namespace detail {

// Moves the value of rank k to values[k], nothing larger before it and nothing smaller after it.
template <class Arch>
SUBBYTE_INLINE void select_rank(double* values, index_t n, index_t k) noexcept {
  index_t low = 0;
  index_t high = n - 1;
  while (low < high) {
    const double a = values[low];
    const double b = values[low + (high - low) / 2];
    const double c = values[high];
    const double smaller = a < b ? a : b;
    const double larger = a < b ? b : a;
    const double pivot = c < smaller ? smaller : c > larger ? larger : c;
    index_t i = low;
    index_t j = high;
    while (i <= j) {
      while (values[i] < pivot) ++i;
      while (pivot < values[j]) --j;
      if (i <= j) {
        const double held = values[i];
        values[i++] = values[j];
        values[j--] = held;
      }
    }
    if (k <= j) {
      high = j;
    } else if (k >= i) {
      low = i;
    } else {
      return;
    }
  }
}

}  // namespace detail

/// The q-quantile, linear between order statistics at position q (n - 1): 0.5 is the median. For
/// the median and the tail of per-token divergences, which sums cannot give.
///
/// Requires  0 <= q <= 1.
/// Numerics  NaN without values or with a NaN among them.
/// Cost      linear on average; reorders values, no allocation.
template <class Arch = arch::native>
[[nodiscard]] double quantile(vector_view<double> values, double q) noexcept {
  SUBBYTE_EXPECTS(q >= 0 && q <= 1);
  const index_t n = values.size();
  double* const v = values.data();
  if (n == 0) return std::numeric_limits<double>::quiet_NaN();
  for (index_t i = 0; i < n; ++i) {
    if (v[i] != v[i]) return v[i];
  }
  const double position = q * static_cast<double>(n - 1);
  const index_t below = static_cast<index_t>(position);
  const double fraction = position - static_cast<double>(below);
  detail::select_rank<Arch>(v, n, below);
  if (fraction == 0) return v[below];
  double above = v[below + 1];
  for (index_t i = below + 2; i < n; ++i) {
    if (v[i] < above) above = v[i];
  }
  return v[below] == above ? above : v[below] + fraction * (above - v[below]);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
