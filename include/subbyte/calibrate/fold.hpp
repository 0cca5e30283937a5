// SPDX-License-Identifier: Apache-2.0
/// Folding per-channel scales into the neighbouring layer, so that they cost nothing at run time:
/// norm into linears, linear into linear, value into output projection with shared heads.
#pragma once

#include <cmath>
#include <span>
#include <string>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/tensor/tensor.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// How a norm applies its weight.
enum class norm_weight {
  plain,    ///< y = normalised x * weight
  plus_one  ///< y = normalised x * (1 + weight), as in Gemma
};

/// Attention heads that share key/value heads: query head h reads key/value head
/// h / (heads / kv_heads). The default shares nothing.
struct head_sharing {
  index_t heads = 1;
  index_t kv_heads = 1;
};

/// The channel of v that column j of the output projection [n, cols] reads.
///
/// Requires  cols % heads == 0, heads % kv_heads == 0, 0 <= j < cols.
[[nodiscard]] SUBBYTE_INLINE constexpr index_t value_channel(head_sharing sharing, index_t cols,
                                                             index_t j) noexcept {
  const index_t head_size = cols / sharing.heads;
  const index_t readers = sharing.heads / sharing.kv_heads;
  return j / head_size / readers * head_size + j % head_size;
}

namespace detail {

template <class Arch>
[[noreturn, gnu::cold, gnu::noinline]] void reject_fold(const char* what, index_t found,
                                                        const char* of, index_t required) {
  throw_error(errc::bad_shape, "fold",
              std::string(what) + " has " + std::to_string(found) + " " + of + "; " +
                  std::to_string(required) + " are required");
}

/// Throws bad_argument for the first scale that is not a positive, finite number with a finite
/// reciprocal.
template <class Arch>
void check_scale(vector_view<const float> scale) {
  for (index_t j = 0; j < scale.size(); ++j) {
    const float s = scale[j];
    if (!(s > 0) || !std::isfinite(s) || !std::isfinite(1 / s)) {
      throw_error(errc::bad_argument, "scale",
                  "channel " + std::to_string(j) + " has " + std::to_string(s) +
                      "; a positive, finite number with a finite reciprocal is required");
    }
  }
}

template <class Arch>
void check_columns(std::span<const matrix_view<float>> weights, index_t channels) {
  for (const auto& w : weights) {
    if (w.extent(1) != channels) {
      reject_fold<Arch>("a weight that reads the scaled input", w.extent(1), "columns", channels);
    }
  }
}

/// Throws for sharing that does not divide `cols` columns.
template <class Arch>
void check_sharing(head_sharing sharing, index_t cols) {
  if (sharing.heads < 1 || sharing.kv_heads < 1 || sharing.heads % sharing.kv_heads != 0 ||
      cols % sharing.heads != 0) {
    throw_error(errc::bad_shape, "head_sharing",
                std::to_string(sharing.heads) + " heads on " + std::to_string(sharing.kv_heads) +
                    " key/value heads over " + std::to_string(cols) +
                    " columns; each must divide the one before it");
  }
}

}  // namespace detail

/// W[:, j] *= scale[j]: what a weight whose input was divided by `scale` becomes.
///
/// Shapes    w [n, k]; scale [k].
/// Numerics  one rounding per weight.
/// Throws    bad_shape; bad_argument for a scale that is not positive and finite.
template <class Arch = arch::native>
void scale_columns(tensor_view<float, 2, row_pitched> w, vector_view<const float> scale) {
  if (w.extent(1) != scale.size()) {
    detail::reject_fold<Arch>("a weight", w.extent(1), "columns", scale.size());
  }
  detail::check_scale<Arch>(scale);
  for (index_t r = 0; r < w.extent(0); ++r) {
    float* const row = w[r].data();
    for (index_t j = 0; j < scale.size(); ++j) row[j] *= scale[j];
  }
}

/// The last scale.size() rows of w, and of its bias, divided by `scale`: the predecessor of a
/// scaled weight. The last rows, because a fused projection (qkv, gate_up) ends in the part that
/// the next weight reads.
///
/// Shapes    w [m, k] and bias [m] or empty, m >= scale.size().
/// Numerics  one rounding per weight.
/// Throws    bad_shape; bad_argument for a scale that is not positive and finite.
template <class Arch = arch::native>
void unscale_rows(tensor_view<float, 2, row_pitched> w, vector_view<float> bias,
                  vector_view<const float> scale) {
  if (w.extent(0) < scale.size()) {
    detail::reject_fold<Arch>("the preceding weight", w.extent(0), "rows or more", scale.size());
  }
  if (bias.size() != 0 && bias.size() != w.extent(0)) {
    detail::reject_fold<Arch>("the preceding bias", bias.size(), "values", w.extent(0));
  }
  detail::check_scale<Arch>(scale);
  const index_t first = w.extent(0) - scale.size();
  for (index_t i = 0; i < scale.size(); ++i) {
    float* const row = w[first + i].data();
    for (index_t j = 0; j < w.extent(1); ++j) row[j] /= scale[i];
    if (bias.size() != 0) bias[first + i] /= scale[i];
  }
}

/// Folds the scale of an input that a norm produces: norm / scale, W[:, j] * scale[j].
///
/// Every reader of the norm's output must be among `weights` (in a mixture of experts the router
/// and the shared experts too); anything else that reads it computes something else afterwards.
///
/// Shapes    norm [k]; norm_bias [k] or empty; each weight [n, k]; scale [k].
/// Numerics  plain: one rounding per value, the outputs differ by 2 roundings per product;
///           plus_one stores (1 + w) / scale - 1, whose rounding counts absolutely. Powers of two
///           as scales are exact with plain.
/// Throws    bad_shape; bad_argument for a scale that is not positive and finite. Then nothing is
///           written.
/// Source    AWQ (Lin et al. 2024), section 3; Gemma's norm adds one to its weight.
template <class Arch = arch::native>
void fold_norm(vector_view<const float> scale, vector_view<float> norm,
               std::span<const matrix_view<float>> weights, norm_weight form = norm_weight::plain,
               vector_view<float> norm_bias = {}) {
  if (norm.size() != scale.size()) {
    detail::reject_fold<Arch>("the norm", norm.size(), "weights", scale.size());
  }
  if (norm_bias.size() != 0 && norm_bias.size() != scale.size()) {
    detail::reject_fold<Arch>("the norm's bias", norm_bias.size(), "values", scale.size());
  }
  detail::check_columns<Arch>(weights, scale.size());
  detail::check_scale<Arch>(scale);
  for (index_t j = 0; j < scale.size(); ++j) {
    if (form == norm_weight::plain) {
      norm[j] /= scale[j];
    } else {
      // (1 + w) / s - 1, without the sum that would lose what w has below one's last place.
      const double s = static_cast<double>(scale[j]);
      norm[j] = static_cast<float>((static_cast<double>(norm[j]) + (1.0 - s)) / s);
    }
    if (norm_bias.size() != 0) norm_bias[j] /= scale[j];
  }
  for (const auto& w : weights) scale_columns<Arch>(w, scale);
}

/// Multiplies a norm's weight into the linears that read it and leaves the norm without effect
/// (ones, or zeros where one is added): needed before a rotation of the residual stream.
///
/// Shapes    norm [k]; each weight [n, k].
/// Numerics  one rounding per weight. A norm weight of zero is allowed: its columns become zero.
/// Throws    bad_shape; non_finite for a norm weight that is NaN or Inf. Then nothing is written.
template <class Arch = arch::native>
void absorb_norm(vector_view<float> norm, std::span<const matrix_view<float>> weights,
                 norm_weight form = norm_weight::plain) {
  detail::check_columns<Arch>(weights, norm.size());
  for (index_t j = 0; j < norm.size(); ++j) {
    if (!std::isfinite(norm[j])) {
      throw_error(errc::non_finite, "norm",
                  "channel " + std::to_string(j) + " holds " + std::to_string(norm[j]) +
                      "; finite weights are required");
    }
  }
  for (const auto& w : weights) {
    for (index_t r = 0; r < w.extent(0); ++r) {
      float* const row = w[r].data();
      for (index_t j = 0; j < norm.size(); ++j) {
        const double factor = static_cast<double>(norm[j]) + (form == norm_weight::plain ? 0 : 1);
        row[j] = static_cast<float>(static_cast<double>(row[j]) * factor);
      }
    }
  }
  for (index_t j = 0; j < norm.size(); ++j) norm[j] = form == norm_weight::plain ? 1.0F : 0.0F;
}

/// Folds the scale of an input that another linear produces (up -> down through the elementwise
/// product with the gate, fc1 -> fc2 through an activation that commutes with positive scales):
/// the last k rows of `first` / scale, second[:, j] * scale[j].
///
/// Shapes    first [m, i] and its bias [m] or empty, m >= k; each of `seconds` [n, k]; scale [k].
/// Numerics  one rounding per weight, the outputs differ by 2 roundings per product.
/// Throws    bad_shape; bad_argument for a scale that is not positive and finite. Then nothing is
///           written.
template <class Arch = arch::native>
void fold_linear(vector_view<const float> scale, tensor_view<float, 2, row_pitched> first,
                 vector_view<float> first_bias, std::span<const matrix_view<float>> seconds) {
  detail::check_columns<Arch>(seconds, scale.size());
  unscale_rows<Arch>(first, first_bias, scale);
  for (const auto& w : seconds) scale_columns<Arch>(w, scale);
}

/// Folds the scale of the output projection's input into the value projection, where several query
/// heads read one value head: their columns must have one scale (awq_options::sharing makes such
/// scales).
///
/// Shapes    v [m, i] and its bias [m] or empty, its last kv_heads * head_size rows the values;
///           o [n, heads * head_size]; scale [heads * head_size].
/// Numerics  as fold_linear.
/// Throws    bad_shape; bad_argument for a scale that is not positive and finite or that differs
///           between columns that read the same value channel. Then nothing is written.
template <class Arch = arch::native>
void fold_value_output(vector_view<const float> scale, head_sharing sharing,
                       tensor_view<float, 2, row_pitched> v, vector_view<float> v_bias,
                       matrix_view<float> o) {
  const index_t cols = o.extent(1);
  if (scale.size() != cols) {
    detail::reject_fold<Arch>("the scale", scale.size(), "channels", cols);
  }
  detail::check_sharing<Arch>(sharing, cols);
  const index_t channels = cols / sharing.heads * sharing.kv_heads;
  tensor<float, 1> shared(channels);
  for (index_t j = 0; j < cols; ++j) {
    float& s = shared(value_channel(sharing, cols, j));
    if (s == 0) s = scale[j];
    if (s != scale[j]) {
      throw_error(errc::bad_argument, "scale",
                  "column " + std::to_string(j) + " has " + std::to_string(scale[j]) +
                      ", another that reads the same value channel " + std::to_string(s) +
                      "; one scale per value channel is required");
    }
  }
  unscale_rows<Arch>(v, v_bias, shared.view());
  scale_columns<Arch>(o, scale);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
