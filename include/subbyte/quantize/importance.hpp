// SPDX-License-Identifier: Apache-2.0
/// What every policy asks of the importance of columns.
#pragma once

#include <string>

#include "subbyte/core/error.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace detail {

/// Throws unless importance is empty or holds one finite number >= 0 per column.
template <class Arch>
void check_column_importance(vector_view<const float> importance, index_t cols) {
  if (importance.size() == 0) return;
  if (importance.size() != cols) {
    throw_error(errc::bad_shape, "importance",
                std::to_string(importance.size()) + " values for " + std::to_string(cols) +
                    " columns; one per column is required");
  }
  for (index_t i = 0; i < cols; ++i) {
    const float v = importance[i];
    if (!(v >= 0 && v - v == 0)) {
      throw_error(errc::non_finite, "importance",
                  "column " + std::to_string(i) + " holds " + std::to_string(v) +
                      "; finite values >= 0 are required");
    }
  }
}

}  // namespace detail
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
