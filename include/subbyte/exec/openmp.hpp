// SPDX-License-Identifier: Apache-2.0
/// An executor on the OpenMP runtime.
#pragma once

#if !defined(_OPENMP)
#error "subbyte/exec/openmp.hpp needs the compiler flag -fopenmp (CMake: OpenMP::OpenMP_CXX)"
#endif

#include <omp.h>

#include "subbyte/core/bits.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/exec/executor.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Runs ranges on an OpenMP team; threads <= 0 means what the runtime would take.
///
/// Inside another parallel region, nesting is the runtime's choice (by default inline).
struct openmp_executor {
  int threads = 0;

  [[nodiscard]] SUBBYTE_INLINE int concurrency() const noexcept {
    return threads > 0 ? threads : omp_get_max_threads();
  }

  /// Runs f over 0 .. n - 1, as the executor concept asks.
  SUBBYTE_INLINE void for_range(index_t n, index_t grain, range_fn f, void* body) const noexcept {
    SUBBYTE_EXPECTS(grain >= 1);
    if (n <= 0) return;
    const index_t grains = ceil_div(n, grain);
    const index_t grains_per_piece = grains / (index_t{8} * concurrency());
    const index_t piece = grains_per_piece > 1 ? grains_per_piece * grain : grain;
    const index_t pieces = ceil_div(n, piece);
#pragma omp parallel for schedule(dynamic, 1) num_threads(concurrency())
    for (index_t i = 0; i < pieces; ++i) {
      const index_t begin = i * piece;
      f(body, begin, n - begin < piece ? n : begin + piece);
    }
  }
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
