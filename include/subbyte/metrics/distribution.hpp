// SPDX-License-Identifier: Apache-2.0
/// How far apart two distributions of values are: KL divergence of histograms with stated bins.
#pragma once

#include <cmath>
#include <limits>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Bins of histogram figures unless stated otherwise.
inline constexpr int default_histogram_bins = 2048;

/// The smallest and the largest finite value seen; low > high if there was none.
struct value_range {
  float low = std::numeric_limits<float>::infinity();
  float high = -std::numeric_limits<float>::infinity();

  SUBBYTE_INLINE constexpr value_range() noexcept = default;
  SUBBYTE_INLINE constexpr value_range(float lowest, float highest) noexcept
      : low(lowest), high(highest) {}

  template <class Arch = arch::native>
  void add(vector_view<const float> values) noexcept {
    const float* const v = values.data();
    for (index_t i = 0; i < values.size(); ++i) {
      if (v[i] - v[i] != 0) continue;  // NaN or Inf
      if (v[i] < low) low = v[i];
      if (v[i] > high) high = v[i];
    }
  }

  SUBBYTE_INLINE constexpr void merge(const value_range& other) noexcept {
    if (other.low < low) low = other.low;
    if (other.high > high) high = other.high;
  }
};

/// Counts of values in Bins equal bins over a range.
///
/// Bin b holds low + b w <= v < low + (b + 1) w with w = (high - low) / Bins, in double; the last
/// one holds high too, and a range without width has all its values in bin 0. A value outside the
/// range is counted in the bin at that edge; NaN and Inf are counted apart. Numerics  counts are
/// integers: merging is exact in any order.
template <int Bins>
class histogram {
  static_assert(Bins > 0);

 public:
  SUBBYTE_INLINE constexpr explicit histogram(value_range range) noexcept
      : range_(range), total_(0), non_finite_(0), counts_{} {}

  template <class Arch = arch::native>
  void add(vector_view<const float> values) noexcept {
    const float* const v = values.data();
    const double low = static_cast<double>(range_.low);
    const double width = static_cast<double>(range_.high) - low;
    const double bins_per_unit = width > 0 ? Bins / width : 0;
    for (index_t i = 0; i < values.size(); ++i) {
      if (v[i] - v[i] != 0) {
        ++non_finite_;
        continue;
      }
      const double position = width > 0 ? (static_cast<double>(v[i]) - low) * bins_per_unit : 0;
      const int bin = position >= Bins ? Bins - 1 : position > 0 ? static_cast<int>(position) : 0;
      ++counts_[bin];
      ++total_;
    }
  }

  /// Requires  the same range.
  template <class Arch = arch::native>
  void merge(const histogram& other) noexcept {
    SUBBYTE_EXPECTS(range_.low == other.range_.low && range_.high == other.range_.high);
    for (int b = 0; b < Bins; ++b) counts_[b] += other.counts_[b];
    total_ += other.total_;
    non_finite_ += other.non_finite_;
  }

  SUBBYTE_INLINE static constexpr int bins() noexcept { return Bins; }
  [[nodiscard]] SUBBYTE_INLINE constexpr value_range range() const noexcept { return range_; }
  [[nodiscard]] SUBBYTE_INLINE constexpr index_t count(int bin) const noexcept {
    SUBBYTE_EXPECTS(bin >= 0 && bin < Bins);
    return counts_[bin];
  }
  /// Finite values counted.
  [[nodiscard]] SUBBYTE_INLINE constexpr index_t total() const noexcept { return total_; }
  [[nodiscard]] SUBBYTE_INLINE constexpr index_t non_finite() const noexcept { return non_finite_; }

 private:
  value_range range_;
  index_t total_;
  index_t non_finite_;
  index_t counts_[Bins];
};

/// KL(p || q) in nats between two histograms: sum of p ln(p / q'), where q' is q with every bin
/// raised to at least 1e-12 and then scaled to sum 1.
///
/// Of E empty bins the floor costs ln(1 + E 1e-12): below 3e-9 for 2048 bins. Two empty histograms
/// are equal: 0. One empty histogram, or any NaN or Inf counted: NaN.
template <class Arch = arch::native, int Bins>
[[nodiscard]] double kl_divergence(const histogram<Bins>& p, const histogram<Bins>& q) noexcept {
  SUBBYTE_EXPECTS(p.range().low == q.range().low && p.range().high == q.range().high);
  constexpr double floor = 1e-12;
  if (p.non_finite() + q.non_finite() > 0) return std::numeric_limits<double>::quiet_NaN();
  if (p.total() == 0 && q.total() == 0) return 0;
  if (p.total() == 0 || q.total() == 0) return std::numeric_limits<double>::quiet_NaN();
  const double p_total = static_cast<double>(p.total());
  const double q_total = static_cast<double>(q.total());
  double q_sum = 0;
  for (int b = 0; b < Bins; ++b) {
    const double share = static_cast<double>(q.count(b)) / q_total;
    q_sum += share > floor ? share : floor;
  }
  double divergence = 0;
  for (int b = 0; b < Bins; ++b) {
    if (p.count(b) == 0) continue;
    const double p_share = static_cast<double>(p.count(b)) / p_total;
    const double q_share = static_cast<double>(q.count(b)) / q_total;
    divergence += p_share * std::log(p_share * q_sum / (q_share > floor ? q_share : floor));
  }
  return divergence > 0 ? divergence : 0;
}

/// A histogram divergence with what it depends on.
struct histogram_divergence {
  double kl;          ///< nats
  int bins;           ///< equal bins over range
  value_range range;  ///< common range of both
};

/// KL divergence of the histograms of a signal and its estimate on their common range.
///
/// Not meaningful for an estimate with few distinct values (a block without its scales) unless the
/// bins are coarse: measure decoded weights, and state the bins.
/// Shapes    signal [n]; estimate [m].
/// Numerics  counts are exact; double after that. NaN if either holds a NaN or Inf.
/// Cost      reads both twice; 16 bytes of stack per bin.
/// Throws    nothing.
template <int Bins = default_histogram_bins, class Arch = arch::native>
[[nodiscard]] histogram_divergence measure_histogram_divergence(
    vector_view<const float> signal, vector_view<const float> estimate) noexcept {
  value_range range;
  range.add<Arch>(signal);
  range.add<Arch>(estimate);
  histogram<Bins> p(range);
  histogram<Bins> q(range);
  p.template add<Arch>(signal);
  q.template add<Arch>(estimate);
  return {kl_divergence<Arch>(p, q), Bins, range};
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
