// SPDX-License-Identifier: Apache-2.0
/// Which format each tensor of a model gets: by a recipe, or by a mix that is planned for a size or
/// for a KL divergence.
#pragma once

#include <functional>
#include <string>
#include <string_view>
#include <vector>

#include "calibration_source.hpp"
#include "model_source.hpp"
#include "quantizers.hpp"
#include "subbyte/checkpoint/recipe.hpp"

namespace example {

/// Throws  subbyte::error, which lists what there is.
const target_format& find_block_format(const std::string& name);

/// The format of a GGUF type id that checkpoint/recipe.hpp names.
const target_format& find_block_format(std::uint32_t gguf_type);

/// By the rules of the recipes.
bool is_quantizable(const source_tensor& t);

/// A recipe and the changes to it. One format for all is a recipe without rules: options.pure.
struct format_choice {
  subbyte::checkpoint::recipe recipe = subbyte::checkpoint::find_recipe("F16");
  subbyte::checkpoint::recipe_options options;
};

/// What becomes of one tensor: a null format means that its bytes are copied.
struct plan_entry {
  const source_tensor* tensor;
  const target_format* format;
  bool fell_back;

  [[nodiscard]] index_t bytes() const;
  [[nodiscard]] std::string type_name() const;
};

/// Whether the importance of a tensor's inputs is known; none: whoever asks does not want to know.
using importance_query = std::function<bool(std::string_view name)>;

/// scaled: AWQ's scales will be folded into the tensors that they touch.
/// Throws  subbyte::error for a tensor that is quantized already, unless that is allowed; for
///         tensors that need an importance matrix and have none.
std::vector<plan_entry> make_plan(const model_source& model, const format_choice& choice,
                                  bool scaled, const importance_query& has_importance = {});

/// What a mix is planned for. Either target_bits or max_kl is set.
struct mix_request {
  double target_bits = 0;  // per weight, over the matrices that are quantized
  double max_kl = 0;       // nats per token, measured on the text
  std::vector<std::string> candidates{"q2_k", "q3_k", "iq4_xs", "q4_k", "q5_k", "q6_k", "q8_0"};
  std::string model;   // where the runner finds the original
  std::string tokens;  // the text to measure on; empty: the layers' own losses are added up
  index_t windows = 8;

  [[nodiscard]] bool wanted() const { return target_bits > 0 || max_kl > 0; }
};

/// A whole tensor in a format and back to floats, by the method that will write it.
using trial = std::function<subbyte::tensor<float, 2>(const source_tensor&, const target_format&)>;

/// Plans the mix, prints it, and enters it in choice.options.named. What choice.options forces
/// stays forced.
///
/// The loss of a candidate is tr(E H E^T) per token of the tensor quantized to it. With a text,
/// each tensor alone is quantized to its middle candidate and the KL divergence measured; divided
/// by the loss it is the tensor's sensitivity, and predictions are KL divergences. Without, losses
/// are divided by the energy of the layer's outputs. A tensor of which the calibration knows
/// nothing gets the largest candidate, but for the embedding, whose tokens then all count alike.
///
/// Memory  the largest tensor as floats, twice, and its Hessian; with a text also the model as
///         floats while a plan is measured.
/// Throws  subbyte::error for a limit that no mix keeps (with the nearest that there is).
void plan_mix(const model_source& model, const mix_request& request,
              calibration_source& calibration, const trial& quantize,
              subbyte::executor_ref executor, format_choice& choice);

}  // namespace example
