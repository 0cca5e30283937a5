// SPDX-License-Identifier: Apache-2.0
/// Calibration data for a model that is quantized tensor by tensor: statistics from one or several
/// files, and AWQ's scales, which tensors get as they are read.
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "model_source.hpp"
#include "quantizers.hpp"
#include "subbyte/calibrate/statistics_file.hpp"

namespace example {

/// Files of perplexity --calibrate; what several say of an input is added up.
class calibration_source {
 public:
  /// Throws  subbyte::error for a file that is none.
  explicit calibration_source(const std::vector<std::string>& paths);

  [[nodiscard]] bool empty() const { return files_.empty(); }
  /// The statistics of the input that a weight reads; without tokens where no file knows it. Valid
  /// until the next call.
  const subbyte::input_statistics& statistics_of(std::string_view weight);
  /// The weights that read the same input.
  [[nodiscard]] std::vector<std::string> readers_of(std::string_view weight) const;

 private:
  std::vector<std::unique_ptr<subbyte::calibration_file>> files_;
  std::string input_;  // whose statistics are loaded
  subbyte::input_statistics loaded_;
};

/// AWQ's scales of a Llama model, folded into norms and preceding linears as tensors are read.
class folded_scales {
 public:
  /// Searches a scale for every input of the model's layers that the calibration has seen.
  ///
  /// format_of(weight) is what it will be quantized to. on_layer(done, layers) is called after
  /// each. Memory: the largest input's weights as floats, twice.
  void search(const model_source& model, calibration_source& calibration,
              const std::function<const target_format&(const source_tensor&)>& format_of,
              subbyte::executor_ref executor,
              const std::function<void(index_t, index_t)>& on_layer);

  /// Whether a tensor may be changed, by its name.
  [[nodiscard]] static bool touches(std::string_view name);

  /// What the channels of a weight's input are divided by; empty: nothing.
  [[nodiscard]] subbyte::vector_view<const float> scale_of(std::string_view weight) const;
  /// Changes rows [first, first + count) of a tensor that was read.
  void apply(const source_tensor& t, index_t first, index_t count, float* rows) const;

 private:
  using scale = std::vector<float>;
  std::map<std::string, scale, std::less<>> columns_;  // multiply the columns of that weight
  std::map<std::string, scale, std::less<>> divide_;   // divide its rows; of a norm, its values
};

}  // namespace example
