// SPDX-License-Identifier: Apache-2.0
/// Every method of the library on every target format, by name: what quantize and compare_methods
/// choose from.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "subbyte/calibrate/awq.hpp"
#include "subbyte/calibrate/statistics.hpp"
#include "subbyte/matrix/group_codes.hpp"
#include "subbyte/quantize/concepts.hpp"
#include "subbyte/tensor/tensor.hpp"

namespace example {

using subbyte::index_t;

/// What a method needs to know of a layer's input.
enum class needs { nothing, importance, hessian };

/// A method by name.
struct method {
  std::string name;
  needs data;
  const char* what;  // in a line
};

/// All of them; quantizers_of.hpp makes their policies.
const std::vector<method>& methods();

/// A method as the user wrote it: "awq" in front searches and folds scales first.
struct chosen_method {
  std::string name;     // as written
  const method* codes;  // what then chooses the codes
  bool scaled = false;

  /// What is to be known of the inputs.
  [[nodiscard]] needs data() const { return scaled ? needs::hessian : codes->data; }
};

/// "gptq", "awq" (which is "awq+rtn"), "awq+gptq"... Throws subbyte::error.
chosen_method parse_method(const std::string& text);

/// What is known of an input when its channels are divided by a scale.
struct known_input {
  subbyte::tensor<float, 1> importance;  // [k] mean x^2
  subbyte::tensor<double, 2> hessian;    // [k, k], or empty
  index_t tokens = 0;

  /// An empty scale: as collected.
  /// Throws  subbyte::error when no token was seen.
  known_input(const subbyte::input_statistics& statistics, subbyte::vector_view<const float> scale);
};

/// A matrix to be quantized.
struct layer_task {
  subbyte::weights_view weights;
  const known_input* input = nullptr;  // null: nothing is known
  index_t group_size = 128;            // of formats that leave it open
  subbyte::executor_ref executor;
  subbyte::progress_ref progress{};
};

/// What became of it.
struct quantized_layer {
  std::vector<std::uint8_t> blocks;  // of block formats: the bytes
  // Of groups with integers or real zero points: the codes, unless decoded was asked for.
  std::optional<subbyte::group_codes> codes;
  subbyte::tensor<float, 2> decoded;  // if asked for
  index_t stored_bytes = 0;           // codes, scales and zero points
  subbyte::policy_report report;
};

/// A format to quantize to.
struct target_format {
  std::string name;
  std::optional<std::uint32_t> gguf_type;
  index_t block_size, block_bytes;  // 0: groups of any size
  index_t row_bytes;                // what a row begins with

  quantized_layer (*quantize)(const method& how, const layer_task& task, bool decode);
  subbyte::awq_result (*search_scale)(std::span<const subbyte::matrix_view<const float>> weights,
                                      const subbyte::input_statistics& input,
                                      const subbyte::awq_options& options,
                                      subbyte::executor_ref executor);

  bool (*takes_method)(const std::string& name);

  [[nodiscard]] bool grouped() const { return block_size == 0; }
  /// Whether a method can quantize to this format.
  [[nodiscard]] bool takes(const method& how) const { return takes_method(how.name); }
};

/// The formats of the library that a GGUF file can hold.
const std::vector<target_format>& block_target_formats();
/// int2 ... int8 (whole zero points), with the ending s symmetric, with r real zero points as
/// HQQ's; nf4. Scales are f16.
const std::vector<target_format>& group_target_formats();
/// int2s, int3s, int8 and int8s, which checkpoints hold besides.
const std::vector<target_format>& further_group_target_formats();

}  // namespace example
