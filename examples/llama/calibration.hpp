// SPDX-License-Identifier: Apache-2.0
/// Calibration: runs a text through a model and collects the statistics of every input.
#pragma once

#include <algorithm>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "llama/model.hpp"
#include "llama/perplexity.hpp"
#include "subbyte/calibrate/statistics.hpp"
#include "subbyte/calibrate/statistics_file.hpp"

namespace llama {

/// What a text says about the inputs of a model, input by input as in model::inputs().
using input_list = std::vector<subbyte::input_statistics>;

/// Collects the statistics of windows [first, first + count) of a text.
///
/// options.first_token is set from `first`, so that parts of a text merge into the whole.
/// on_window(done) is called after each window, done counting from 1.
/// Throws  what collectors throw, naming the input.
template <class Progress>
input_list collect_statistics(const model& weights, const windows& text, index_t first,
                              index_t count, subbyte::statistics_options options,
                              subbyte::executor_ref executor, const Progress& on_window) {
  std::vector<subbyte::statistics_collector> collectors;
  options.first_token = first * text.length();
  for (const model_input& in : weights.inputs()) collectors.emplace_back(in.cols, options);
  session run(weights, text.length(), text.length(), executor);
  run.observe([&](std::size_t input, subbyte::matrix_view<const float> x) {
    try {
      collectors[input].add(x, executor);
    } catch (const subbyte::error& problem) {
      subbyte::throw_error(problem.code(), weights.inputs()[input].name, problem.what());
    }
  });
  for (index_t w = 0; w < count; ++w) {
    run.clear();
    run.append(text.inputs(first + w));
    on_window(w + 1);
  }
  input_list finished;
  for (subbyte::statistics_collector& collector : collectors) {
    finished.push_back(std::move(collector).finish(executor));
  }
  return finished;
}

/// Writes the statistics of a model's inputs as a calibration file.
inline void save_statistics(const std::string& path, const model& weights,
                            const input_list& statistics, const std::string& text) {
  std::vector<subbyte::calibration_input> inputs;
  for (std::size_t i = 0; i < statistics.size(); ++i) {
    const model_input& in = weights.inputs()[i];
    inputs.push_back(subbyte::describe_input(in.name, in.weights, statistics[i]));
  }
  const std::pair<std::string, std::string> notes[] = {{"model", weights.source().name()},
                                                       {"text", text}};
  subbyte::save_calibration<subbyte::arch::native>(path, inputs, statistics, notes);
}

}  // namespace llama
