// SPDX-License-Identifier: Apache-2.0
/// Blocks of any format by its search for the least error.
#pragma once

#include "subbyte/format/block_error.hpp"
#include "subbyte/format/concepts.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Makes blocks of any format as its search for a low error does; of a format without one as
/// block_encoder.
///
/// Cost    constructing one: as block_encoder.
/// Throws  the constructor out_of_memory.
template <class F, class Arch>
class best_encoder {
 public:
  /// Requires  effort in 1 .. 3.
  SUBBYTE_INLINE explicit best_encoder(int effort) : effort_(effort) {}

  /// Shapes    weights [count * block_size]; importance the same or null; out [count].
  SUBBYTE_INLINE void operator()(const float* weights, const float* importance,
                                 float row_mean_square, index_t count, F* out) const noexcept {
    if constexpr (!best_encodable<F>) {
      encoder_(weights, importance, row_mean_square, count, out);
    } else {
      index_t step = 1;
      if constexpr (requires { F::encode_ref_batch; }) step = F::encode_ref_batch;
      for (index_t b = 0; b < count; b += step) {
        const index_t at = b * F::block_size;
        const float* const w = weights + at;
        const float* const v = importance != nullptr ? importance + at : nullptr;
        if constexpr (requires { F::encode_ref_batch; }) {
          const index_t left = count - b < step ? count - b : step;
          F::template encode_best_blocks<Arch>(w, v, row_mean_square, effort_,
                                               static_cast<int>(left), out + b);
        } else if constexpr (table_encodable<F>) {
          out[b] = encoder_.best(w, v, row_mean_square, effort_);
        } else {
          out[b] = F::template encode_best<Arch>(w, v, row_mean_square, effort_);
        }
      }
    }
  }

  /// One block of which only the first n weights count, without importance: never a larger error
  /// on those than the normative encoder's, which sees zeros behind them.
  ///
  /// Shapes  weights [block_size].
  [[nodiscard]] SUBBYTE_INLINE F cut(const float* weights, int n) const noexcept {
    if constexpr (!best_encodable<F>) {
      return only(weights, nullptr);
    } else {
      float counted[F::block_size];
      for (int i = 0; i < F::block_size; ++i) counted[i] = i < n ? 1.0F : 0.0F;
      F reference;
      if constexpr (table_encodable<F>) {
        reference = encoder_(weights, nullptr, 0);
      } else {
        reference = encode<F, Arch>(weights, nullptr, 0);
      }
      return lower_of<F, Arch>(reference, only(weights, counted), weights, counted);
    }
  }

 private:
  [[nodiscard]] SUBBYTE_INLINE F only(const float* weights,
                                      const float* importance) const noexcept {
    F block;
    (*this)(weights, importance, 0, 1, &block);
    return block;
  }

  struct nothing {};
  template <class G>
  struct tables_of {
    using type = std::conditional_t<best_encodable<G>, nothing, block_encoder<G, Arch>>;
  };
  template <table_encodable G>
  requires best_encodable<G>
  struct tables_of<G> {
    using type = typename G::template encoder<Arch>;
  };

  [[no_unique_address]] typename tables_of<F>::type encoder_;
  int effort_;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
