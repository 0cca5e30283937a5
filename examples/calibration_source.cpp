// SPDX-License-Identifier: Apache-2.0
#include "calibration_source.hpp"

#include <utility>

#include "subbyte/calibrate/fold.hpp"

namespace example {

calibration_source::calibration_source(const std::vector<std::string>& paths) {
  for (const std::string& path : paths) {
    files_.push_back(std::make_unique<subbyte::calibration_file>(path));
  }
}

const subbyte::input_statistics& calibration_source::statistics_of(std::string_view weight) {
  std::string input;
  for (const auto& file : files_) {
    const index_t found = file->find_weight(weight);
    if (found >= 0) input = file->inputs()[static_cast<std::size_t>(found)].name;
  }
  if (input == input_ && !input.empty()) return loaded_;
  loaded_ = {};
  input_ = input;
  for (const auto& file : files_) {
    const index_t found = input.empty() ? -1 : file->find_input(input);
    if (found < 0) continue;
    if (loaded_.cols() == 0) {
      loaded_ = file->load(found);
    } else {
      loaded_.merge(file->load(found));
    }
  }
  return loaded_;
}

std::vector<std::string> calibration_source::readers_of(std::string_view weight) const {
  for (const auto& file : files_) {
    const index_t found = file->find_weight(weight);
    if (found >= 0) return file->inputs()[static_cast<std::size_t>(found)].weights;
  }
  return {std::string(weight)};
}

namespace {

// "blk.12." of "blk.12.attn_q.weight", and the rest.
std::pair<std::string_view, std::string_view> split_name(std::string_view name) {
  if (name.substr(0, 4) != "blk.") return {{}, name};
  const std::size_t dot = name.find('.', 4);
  if (dot == std::string_view::npos) return {{}, name};
  return {name.substr(0, dot + 1), name.substr(dot + 1)};
}

}  // namespace

bool folded_scales::touches(std::string_view name) {
  const auto [block, leaf] = split_name(name);
  for (const char* changed :
       {"attn_norm.weight", "attn_q.weight", "attn_k.weight", "attn_v.weight", "attn_output.weight",
        "ffn_norm.weight", "ffn_gate.weight", "ffn_up.weight", "ffn_down.weight"}) {
    if (!block.empty() && leaf == changed) return true;
  }
  return false;
}

void folded_scales::search(
    const model_source& model, calibration_source& calibration,
    const std::function<const target_format&(const source_tensor&)>& format_of,
    subbyte::executor_ref executor, const std::function<void(index_t, index_t)>& on_layer) {
  std::map<std::string, const source_tensor*, std::less<>> tensors;
  for (const source_tensor& t : model.tensors) tensors.emplace(t.name, &t);
  struct place {
    const char* reader;       // the weight whose input is scaled
    const char* predecessor;  // what is divided
  };
  constexpr place places[] = {{"attn_q.weight", "attn_norm.weight"},
                              {"attn_output.weight", "attn_v.weight"},
                              {"ffn_gate.weight", "ffn_norm.weight"},
                              {"ffn_down.weight", "ffn_up.weight"}};
  index_t layers = 0;
  while (tensors.count("blk." + std::to_string(layers) + ".attn_q.weight") != 0) ++layers;
  for (index_t l = 0; l < layers; ++l) {
    const std::string block = "blk." + std::to_string(l) + ".";
    if (tensors.count(block + "attn_v.bias") != 0) {
      subbyte::throw_error(subbyte::errc::unsupported_format, block + "attn_v.bias",
                           "scales are folded into weights only, and the values have a bias, too");
    }
    for (const place& p : places) {
      const auto found = tensors.find(block + p.reader);
      const auto predecessor = tensors.find(block + p.predecessor);
      if (found == tensors.end() || predecessor == tensors.end()) continue;
      const subbyte::input_statistics& statistics = calibration.statistics_of(found->first);
      if (statistics.tokens() == 0) continue;
      std::vector<subbyte::tensor<float, 2>> floats;
      const std::vector<std::string> names = calibration.readers_of(found->first);
      for (const std::string& name : names) {
        const auto reader = tensors.find(name);
        if (reader == tensors.end()) {
          subbyte::throw_error(subbyte::errc::not_found, subbyte::printable(name),
                               "is a weight of the calibration file, and the model has none of "
                               "that name");
        }
        const source_tensor& t = *reader->second;
        floats.emplace_back(subbyte::uninitialized, t.rows(), t.cols());
        t.read(0, t.rows(), floats.back().data());
      }
      std::vector<subbyte::matrix_view<const float>> readers;
      for (const auto& w : floats) readers.push_back(w.view());
      subbyte::awq_options how;
      const bool values = std::string_view(p.predecessor) == "attn_v.weight";
      if (values) how.sharing = {model.heads, model.kv_heads};
      const subbyte::awq_result result =
          format_of(*found->second).search_scale(readers, statistics, how, executor);
      const scale columns(result.scale.data(), result.scale.data() + result.scale.size());
      for (const std::string& name : names) columns_[name] = columns;
      scale rows = columns;
      if (values) {  // one per value channel, whose readers agree
        const index_t cols = static_cast<index_t>(columns.size());
        rows.resize(static_cast<std::size_t>(cols / model.heads * model.kv_heads));
        for (index_t j = 0; j < cols; ++j) {
          rows[static_cast<std::size_t>(subbyte::value_channel(how.sharing, cols, j))] =
              columns[static_cast<std::size_t>(j)];
        }
      }
      divide_[predecessor->first] = rows;
    }
    on_layer(l + 1, layers);
  }
}

subbyte::vector_view<const float> folded_scales::scale_of(std::string_view weight) const {
  const auto found = columns_.find(weight);
  if (found == columns_.end()) return {};
  return found->second;
}

void folded_scales::apply(const source_tensor& t, index_t first, index_t count, float* rows) const {
  const index_t cols = t.cols();
  if (const auto found = columns_.find(t.name); found != columns_.end()) {
    for (index_t r = 0; r < count; ++r) {
      for (index_t j = 0; j < cols; ++j) {
        rows[r * cols + j] *= found->second[static_cast<std::size_t>(j)];
      }
    }
  }
  if (const auto found = divide_.find(t.name); found != divide_.end()) {
    const bool vector = t.dims.size() == 1;
    for (index_t i = 0; i < count * cols; ++i) {
      rows[i] /= found->second[static_cast<std::size_t>(vector ? i : first + i / cols)];
    }
  }
}

}  // namespace example
