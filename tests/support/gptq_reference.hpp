// SPDX-License-Identifier: Apache-2.0
/// The published GPTQ, plain and in double, against which the library's is measured: written from
/// the paper, in the textbook's form (Cholesky, full inverse, Cholesky of that), one row at a time.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <limits>
#include <numeric>
#include <utility>
#include <vector>

namespace test_support {

struct gptq_settings {
  int bits = 4;
  bool symmetric = true;
  int group = -1;  ///< -1: the row
  bool act_order = false;
  bool static_groups = false;
  bool group_aware = false;
  bool fresh = false;
  int block = 128;
  double damp = 0.01;
  bool range_search = false;  ///< 80 ranges, exponent 2.4
};

struct gptq_solution {
  std::vector<int> codes;             ///< [n, k], columns as they lie
  std::vector<int> group_of_column;   ///< [k]
  std::vector<double> scales, zeros;  ///< [n, groups]
  std::vector<double> values;         ///< [n, k], decoded
  std::vector<double> u;              ///< [k, k], in the order of the columns' treatment
};

/// Lower triangular L with L L^T = a [k, k].
inline std::vector<double> plain_cholesky(const std::vector<double>& a, std::size_t k) {
  std::vector<double> l(k * k, 0.0);
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = a[i * k + j];
      for (std::size_t c = 0; c < j; ++c) sum -= l[i * k + c] * l[j * k + c];
      l[i * k + j] = i == j ? std::sqrt(sum) : sum / l[j * k + j];
    }
  }
  return l;
}

/// Upper triangular U with U^T U = inverse(a), through the inverse itself.
inline std::vector<double> plain_inverse_factor(const std::vector<double>& a, std::size_t k) {
  const std::vector<double> l = plain_cholesky(a, k);
  std::vector<double> m(k * k, 0.0);  // the inverse of L, column by column
  for (std::size_t c = 0; c < k; ++c) {
    for (std::size_t i = c; i < k; ++i) {
      double sum = i == c ? 1.0 : 0.0;
      for (std::size_t j = c; j < i; ++j) sum -= l[i * k + j] * m[j * k + c];
      m[i * k + c] = sum / l[i * k + i];
    }
  }
  std::vector<double> inverse(k * k, 0.0);
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j <= i; ++j) {
      double sum = 0;
      for (std::size_t c = i; c < k; ++c) sum += m[c * k + i] * m[c * k + j];
      inverse[i * k + j] = inverse[j * k + i] = sum;
    }
  }
  const std::vector<double> lower = plain_cholesky(inverse, k);
  std::vector<double> u(k * k, 0.0);
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j <= i; ++j) u[j * k + i] = lower[i * k + j];
  }
  return u;
}

/// The published grid, whose params and divisions are single precision in every implementation: an
/// extreme weight lies on a rounding tie, and only floats agree on its side.
struct plain_grid {
  float scale = 0;
  float zero = 0;

  static plain_grid over(float low, float high, const gptq_settings& s) {
    const auto last = static_cast<float>((1 << s.bits) - 1);
    if (s.symmetric) {
      high = std::max(-low, high);
      low = -high;
    }
    if (low == 0 && high == 0) {
      low = -1;
      high = 1;
    }
    plain_grid g;
    g.scale = (high - low) / last;
    g.zero = s.symmetric ? (last + 1) / 2 : std::nearbyint(-low / g.scale);
    return g;
  }
  static plain_grid of(const std::vector<double>& w, const gptq_settings& s) {
    float low = 0;
    float high = 0;
    for (const double v : w) {
      low = std::min(low, static_cast<float>(v));
      high = std::max(high, static_cast<float>(v));
    }
    if (!s.range_search) return over(low, high, s);
    if (s.symmetric) {
      high = std::max(-low, high);
      low = -high;
    }
    plain_grid best;
    double least = std::numeric_limits<double>::infinity();
    for (int i = 0; i < 80; ++i) {
      const auto part = static_cast<float>(1.0 - i / 100.0);
      const plain_grid g = over(part * low, part * high, s);
      double error = 0;
      for (const double v : w) {
        error += std::pow(std::abs(g.value(g.code(v, s)) - static_cast<double>(v)), 2.4);
      }
      if (error < least) {
        least = error;
        best = g;
      }
    }
    return best;
  }
  [[nodiscard]] int code(double w, const gptq_settings& s) const {
    const float steps = std::nearbyint(static_cast<float>(w) / scale) + zero;
    return static_cast<int>(std::clamp(steps, 0.0F, static_cast<float>((1 << s.bits) - 1)));
  }
  [[nodiscard]] double value(int code) const {
    return static_cast<double>(scale * (static_cast<float>(code) - zero));
  }
};

/// Weights [n, k] and Hessian [k, k] to codes.
inline gptq_solution plain_gptq(std::vector<double> w, std::size_t n, std::vector<double> h,
                                std::size_t k, const gptq_settings& s) {
  const std::size_t g =
      s.group < 0 || s.group > static_cast<int>(k) ? k : static_cast<std::size_t>(s.group);
  const std::size_t groups = (k + g - 1) / g;
  gptq_solution out;
  out.codes.resize(n * k);
  out.values.resize(n * k);
  out.scales.resize(n * groups);
  out.zeros.resize(n * groups);
  out.group_of_column.resize(k);

  const std::vector<double> as_given = w;
  for (std::size_t i = 0; i < k; ++i) {
    if (h[i * k + i] != 0) continue;
    h[i * k + i] = 1;
    for (std::size_t r = 0; r < n; ++r) w[r * k + i] = 0;
  }

  const auto before = [&](std::size_t a, std::size_t b) {
    return std::pair(-h[a * k + a], a) < std::pair(-h[b * k + b], b);
  };
  std::vector<std::size_t> order(k);
  std::iota(order.begin(), order.end(), std::size_t{0});
  if (s.act_order) std::sort(order.begin(), order.end(), before);
  if (s.group_aware) {
    std::vector<std::size_t> whole(k / g);
    std::iota(whole.begin(), whole.end(), std::size_t{0});
    const auto largest = [&](std::size_t group) {
      double m = 0;
      for (std::size_t i = group * g; i < (group + 1) * g; ++i) m = std::max(m, h[i * k + i]);
      return m;
    };
    std::sort(whole.begin(), whole.end(), [&](std::size_t a, std::size_t b) {
      return std::pair(-largest(a), a) < std::pair(-largest(b), b);
    });
    for (std::size_t j = 0; j < whole.size(); ++j) {
      std::iota(order.begin() + static_cast<std::ptrdiff_t>(j * g),
                order.begin() + static_cast<std::ptrdiff_t>((j + 1) * g), whole[j] * g);
    }
    for (std::size_t j = 0; j < k; j += g) {
      std::sort(order.begin() + static_cast<std::ptrdiff_t>(j),
                order.begin() + static_cast<std::ptrdiff_t>(std::min(j + g, k)), before);
    }
  }
  // Groups are runs of columns as they lie, but for act-order with params from the loop.
  const bool scattered = s.act_order && !s.static_groups && g < k;
  for (std::size_t j = 0; j < k; ++j) {
    out.group_of_column[order[j]] = static_cast<int>((scattered ? j : order[j]) / g);
  }

  double mean = 0;
  for (std::size_t i = 0; i < k; ++i) mean += h[i * k + i] / static_cast<double>(k);
  std::vector<double> permuted(k * k);
  for (std::size_t i = 0; i < k; ++i) {
    for (std::size_t j = 0; j < k; ++j) permuted[i * k + j] = h[order[i] * k + order[j]];
    permuted[i * k + i] += s.damp * mean;
  }
  out.u = plain_inverse_factor(permuted, k);

  for (std::size_t r = 0; r < n; ++r) {
    std::vector<plain_grid> grids(groups);
    const auto fit = [&](std::size_t group, const auto& weight_of_step) {
      std::vector<double> members;
      for (std::size_t j = 0; j < k; ++j) {
        if (out.group_of_column[order[j]] == static_cast<int>(group)) {
          members.push_back(weight_of_step(j));
        }
      }
      grids[group] = plain_grid::of(members, s);
    };
    if (g == k && !s.static_groups) {
      fit(0, [&](std::size_t j) { return as_given[r * k + order[j]]; });
    } else if (s.static_groups) {
      for (std::size_t group = 0; group < groups; ++group) {
        fit(group, [&](std::size_t j) { return w[r * k + order[j]]; });
      }
    }
    std::vector<double> row(k);
    for (std::size_t j = 0; j < k; ++j) row[j] = w[r * k + order[j]];
    std::vector<double> seen = row;  // what the params of dynamic groups are found from
    int current = -1;
    for (std::size_t j = 0; j < k; ++j) {
      if (s.fresh || j % static_cast<std::size_t>(s.block) == 0) seen = row;
      const int group = out.group_of_column[order[j]];
      if (!s.static_groups && g < k && group != current) {
        fit(static_cast<std::size_t>(group), [&](std::size_t step) { return seen[step]; });
      }
      current = group;
      const plain_grid& grid = grids[static_cast<std::size_t>(group)];
      const int code = grid.code(row[j], s);
      out.codes[r * k + order[j]] = code;
      out.values[r * k + order[j]] = grid.value(code);
      const double error = (row[j] - grid.value(code)) / out.u[j * k + j];
      for (std::size_t c = j; c < k; ++c) row[c] -= error * out.u[j * k + c];
    }
    for (std::size_t group = 0; group < groups; ++group) {
      out.scales[r * groups + group] = static_cast<double>(grids[group].scale);
      out.zeros[r * groups + group] = static_cast<double>(grids[group].zero);
    }
  }
  return out;
}

/// The trace of (w - v) h (w - v)^T.
inline double hessian_error(const std::vector<double>& w, const std::vector<double>& v,
                            std::size_t n, const std::vector<double>& h, std::size_t k) {
  double total = 0;
  std::vector<double> d(k);
  for (std::size_t r = 0; r < n; ++r) {
    for (std::size_t i = 0; i < k; ++i) d[i] = w[r * k + i] - v[r * k + i];
    for (std::size_t i = 0; i < k; ++i) {
      double dot = 0;
      for (std::size_t j = 0; j < k; ++j) dot += h[i * k + j] * d[j];
      total += d[i] * dot;
    }
  }
  return total;
}

}  // namespace test_support
