// SPDX-License-Identifier: Apache-2.0
/// The weights of a model as floats, and AWQ's scales folded into them.
#pragma once

#include <algorithm>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "llama/model.hpp"
#include "subbyte/calibrate/fold.hpp"
#include "subbyte/tensor/tensor.hpp"

namespace llama {

/// The matrices that are quantized and the norms in front of them, as floats and by name.
struct float_weights {
  std::map<std::string, subbyte::tensor<float, 2>> linears;
  std::map<std::string, std::vector<float>> norms;

  [[nodiscard]] float_weights clone() const {
    float_weights copy;
    for (const auto& [name, w] : linears) copy.linears.emplace(name, w.clone());
    copy.norms = norms;
    return copy;
  }
};

/// Reads all linears but the one that makes the logits, and their norms.
inline float_weights read_weights(model& m) {
  float_weights weights;
  const std::span<const model_input> inputs = m.inputs();
  for (const model_input& in : inputs.first(inputs.size() - 1)) {
    for (const std::string& name : in.weights) {
      const stored_weight& stored = m.source().get(name);
      subbyte::tensor<float, 2> w(subbyte::uninitialized, stored.rows, stored.cols);
      for (index_t r = 0; r < stored.rows; ++r) stored.read_row(r, w.data() + r * stored.cols);
      weights.linears.emplace(name, std::move(w));
    }
  }
  for (index_t l = 0; l < m.shape().layers; ++l) {
    for (const char* leaf : {".attn_norm.weight", ".ffn_norm.weight"}) {
      const std::string name = "blk." + std::to_string(l) + leaf;
      const std::span<const float> values = m.norm(name);
      weights.norms.emplace(name, std::vector<float>(values.begin(), values.end()));
    }
  }
  return weights;
}

/// Folds a scale of an input of `layer` into what produces it, so that the model stays the same
/// function: the norm in front, the value projection, or the up projection. `place` counts the
/// inputs of a layer as model::inputs() does.
inline void fold_scale(float_weights& weights, const llama::shape& shape, index_t layer, int place,
                       subbyte::vector_view<const float> scale) {
  const std::string block = "blk." + std::to_string(layer) + ".";
  const auto linear = [&](const char* leaf) {
    return weights.linears.at(block + leaf + ".weight").view();
  };
  switch (place) {
    case 0: {
      const subbyte::matrix_view<float> readers[] = {linear("attn_q"), linear("attn_k"),
                                                     linear("attn_v")};
      return subbyte::fold_norm<>(scale, weights.norms.at(block + "attn_norm.weight"), readers);
    }
    case 1:
      return subbyte::fold_value_output<>(scale, {shape.heads, shape.kv_heads}, linear("attn_v"),
                                          {}, linear("attn_output"));
    case 2: {
      const subbyte::matrix_view<float> readers[] = {linear("ffn_gate"), linear("ffn_up")};
      return subbyte::fold_norm<>(scale, weights.norms.at(block + "ffn_norm.weight"), readers);
    }
    default: {
      const subbyte::matrix_view<float> readers[] = {linear("ffn_down")};
      return subbyte::fold_linear<>(scale, linear("ffn_up"), {}, readers);
    }
  }
}

}  // namespace llama
