// SPDX-License-Identifier: Apache-2.0
/// What policies that treat one group of weights at a time share: gathering the groups of a target,
/// from several threads and with scratch memory, and rounding one.
#pragma once

#include <atomic>

#include "subbyte/exec/progress.hpp"
#include "subbyte/matrix/concepts.hpp"
#include "subbyte/matrix/planar_matrix.hpp"
#include "subbyte/quantize/concepts.hpp"
#include "subbyte/quantize/importance.hpp"
#include "subbyte/tensor/tensor.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

template <class T, class Default = arch::native>
struct target_arch {
  using type = Default;
};
template <class F, class Arch, class Default>
struct target_arch<block_matrix<F, Arch>, Default> {
  using type = Arch;
};
template <class G, class S, class Arch, class Default>
struct target_arch<planar_matrix<G, S, Arch>, Default> {
  using type = Arch;
};
/// The arch that a target's owner was instantiated with.
template <class T>
using arch_of = typename target_arch<T>::type;

template <class T>
inline constexpr bool is_int_grid = false;
template <int Bits, zero_points Zeros>
inline constexpr bool is_int_grid<int_grid<Bits, Zeros>> = true;

/// A planar target of evenly spaced values.
template <class T>
concept int_grid_target = quant_target<T> && requires {
  typename T::grid;
  requires is_int_grid<typename T::grid>;
};
/// Zero points, if stored, are codes.
template <class T>
concept whole_zero_target = int_grid_target<T> && T::grid::zeros != zero_points::real;
template <class T>
concept real_zero_target = int_grid_target<T> && T::grid::zeros == zero_points::real;

/// A target whose values are one scale times a fixed table: codebook grids, and block formats
/// whose only parameter is a scale.
template <class T>
concept scaled_table_target = quant_target<T> && !int_grid_target<T> &&
                              sizeof(typename T::params) == sizeof(T::params::scale);

/// Params with this scale, as they will be stored.
template <scaled_table_target Target>
[[nodiscard]] SUBBYTE_INLINE typename Target::params with_scale(float scale) noexcept {
  using stored = std::remove_cvref_t<decltype(Target::params::scale)>;
  if constexpr (std::is_same_v<stored, float>) {
    return Target::storable({scale});
  } else {
    return {stored_scale<stored>(scale)};
  }
}
template <scaled_table_target Target>
[[nodiscard]] SUBBYTE_INLINE float scale_of(const typename Target::params& p) noexcept {
  if constexpr (requires { p.scale.to_float(); }) {
    return p.scale.to_float();
  } else {
    return p.scale;
  }
}

/// The stored order of the target's columns, or null.
template <class Target>
[[nodiscard]] SUBBYTE_INLINE const std::int32_t* stored_order(const Target& target) noexcept {
  if constexpr (requires { target.view().order(); }) {
    return target.view().order();
  } else {
    return nullptr;
  }
}

/// One group as a policy sees it.
struct weight_group {
  index_t row;
  index_t index;            ///< of the group in its row
  index_t n;                ///< weights, at most the target's group size
  const float* x;           ///< [n], in stored order
  const float* importance;  ///< [n], or null
  std::uint8_t* codes;      ///< [n], for the policy
  std::uint8_t* scratch;    ///< as many bytes as were asked for, aligned to 64
};

/// What for_each_group gathers.
struct group_source {
  vector_view<const float> importance{};
  non_finite on_non_finite = non_finite::reject;
  progress_ref progress{};
  double progress_from = 0;  ///< what the first row counts as
  double progress_to = 1;    ///< what the last one does
  index_t scratch_bytes = 0;
};

/// How the columns of a target fall into groups.
struct group_shape {
  index_t size;               ///< of a group
  const std::int32_t* order;  ///< the column at every stored position, or null
};

template <class Arch>
void visit_groups(weights_view w, const group_shape& shape, const group_source& source,
                  executor_ref ex, void* body,
                  void (*call)(void* body, const weight_group&) noexcept) {
  const index_t rows = w.extent(0);
  const index_t cols = w.extent(1);
  if (rows == 0 || cols == 0) return;
  const index_t size = shape.size < cols ? shape.size : cols;
  const index_t groups = ceil_div(cols, size);
  const bool weighted = source.importance.size() != 0;
  const auto padded = [](index_t bytes) noexcept { return ceil_div(bytes, 64) * 64; };
  const index_t floats = padded(size * static_cast<index_t>(sizeof(float)));
  const index_t codes_at = weighted ? 2 * floats : floats;
  const index_t scratch_at = codes_at + padded(size);
  const index_t threads = ex.concurrency() > 1 ? ex.concurrency() : 1;
  const index_t slots = threads < rows ? threads : rows;
  tensor<std::uint8_t, 2> memory(uninitialized, slots, scratch_at + padded(source.scratch_bytes));
  // A slot takes rows until none is left: which one does a row changes nothing.
  std::atomic<index_t> next{0};
  const index_t batch = ceil_div(rows, 64) > 4 * slots ? ceil_div(rows, 64) : 4 * slots;
  for (index_t first = 0; first < rows; first += batch) {
    const index_t end = rows - first < batch ? rows : first + batch;
    next = first;
    ex.for_range(slots, 1, [&](index_t slot, index_t last_slot) noexcept {
      for (; slot < last_slot; ++slot) {
        std::uint8_t* const base = &memory(slot, 0);
        float* const x = reinterpret_cast<float*>(base);
        float* const importance = weighted ? reinterpret_cast<float*>(base + floats) : nullptr;
        for (index_t r = next++; r < end; r = next++) {
          const auto row = w[r];
          for (index_t g = 0; g < groups; ++g) {
            const index_t from = g * size;
            const index_t n = cols - from < size ? cols - from : size;
            for (index_t i = 0; i < n; ++i) {
              const index_t column = shape.order != nullptr ? shape.order[from + i] : from + i;
              const float v = row[column];
              x[i] = source.on_non_finite == non_finite::zero && v - v != 0 ? 0.0F : v;
              if (weighted) importance[i] = source.importance[column];
            }
            call(body, weight_group{r, g, n, x, importance, base + codes_at, base + scratch_at});
          }
        }
      }
    });
    const double done = static_cast<double>(end) / static_cast<double>(rows);
    if (!source.progress(source.progress_from +
                         (source.progress_to - source.progress_from) * done)) {
      throw_error(errc::cancelled, "quantize", "the progress callback returned false");
    }
  }
}

template <class Body, class Arch>
struct group_body {
  static void call(void* body, const weight_group& g) noexcept { (*static_cast<Body*>(body))(g); }
};

/// Calls body(const weight_group&) for every group of target.
///
/// Requires  body is noexcept and may run on several threads, for different rows at a time.
/// Cost      (9 + scratch) bytes per weight of a group and per thread; rows go to whichever thread
///           is free. The loops are compiled once for all targets and bodies.
/// Throws    out_of_memory; cancelled when progress says so; what the executor throws.
template <class Arch, class Target, class Body>
SUBBYTE_INLINE void for_each_group(weights_view w, const Target& target, const group_source& source,
                                   executor_ref ex, Body&& body) {
  SUBBYTE_EXPECTS(target.rows() == w.extent(0) && target.cols() == w.extent(1));
  using body_type = std::remove_reference_t<Body>;
  visit_groups<Arch>(w, {target.group_size(), stored_order(target)}, source, ex,
                     __builtin_addressof(body), &group_body<body_type, Arch>::call);
}

/// Nearest codes to x.
template <class Arch, class Target>
void round_group(const typename Target::params& p, const float* x, index_t n,
                 std::uint8_t* codes) noexcept {
  for (index_t i = 0; i < n; ++i) codes[i] = static_cast<std::uint8_t>(Target::round(x[i], i, p));
}

/// Sum of importance * (x - x_hat)^2, in double, of nearest codes.
template <class Arch, class Target>
[[nodiscard]] double squared_error(const typename Target::params& p, const float* x,
                                   const float* importance, index_t n) noexcept {
  double sum = 0;
  for (index_t i = 0; i < n; ++i) {
    const double estimate = static_cast<double>(Target::value(Target::round(x[i], i, p), i, p));
    const double difference = static_cast<double>(x[i]) - estimate;
    const double weight = importance != nullptr ? static_cast<double>(importance[i]) : 1.0;
    sum += weight * (difference * difference);
  }
  return sum;
}

/// Writes the target: nearest codes to the params [n, groups].
template <class Arch, class Target>
void store_groups(weights_view w, Target& target, matrix_view<const typename Target::params> params,
                  const group_source& source, executor_ref ex) {
  for_each_group<Arch>(w, target, source, ex, [&](const weight_group& g) noexcept {
    const typename Target::params& p = params(g.row, g.index);
    round_group<Arch, Target>(p, g.x, g.n, g.codes);
    target.store(g.row, g.index, p, g.codes, g.n);
  });
}

/// Finds params for every group with find(const weight_group&), and only then writes the target:
/// nearest codes to them.
///
/// Cost  beside for_each_group's memory, one params per group.
template <class Arch, class Target, class Find>
void quantize_groups(weights_view w, Target& target, group_source source, executor_ref ex,
                     Find&& find) {
  const index_t size = target.group_size();
  tensor<typename Target::params, 2> found(uninitialized, w.extent(0), ceil_div(w.extent(1), size));
  for_each_group<Arch>(w, target, source, ex,
                       [&](const weight_group& g) noexcept { found(g.row, g.index) = find(g); });
  source.progress = {};
  source.importance = {};
  store_groups<Arch>(w, target, found.view(), source, ex);
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
