// SPDX-License-Identifier: Apache-2.0
/// The methods on block formats, and the table of methods.
#include <algorithm>

#include "quantizers_of_blocks.hpp"

namespace example {

const std::vector<method>& methods() {
  static const std::vector<method> table = [] {
    std::vector<method> list;
    for_each_method([&](const char* name, needs data, const char* what, const auto&) {
      list.push_back({name, data, what});
    });
    return list;
  }();
  return table;
}

chosen_method parse_method(const std::string& text) {
  chosen_method chosen{text, nullptr};
  std::string rest = text;
  if (rest == "awq") rest = "awq+rtn";
  if (rest.substr(0, 4) == "awq+") {
    chosen.scaled = true;
    rest = rest.substr(4);
  }
  std::string known;
  for (const method& m : methods()) {
    if (m.name == rest) chosen.codes = &m;
    known += " " + m.name;
  }
  if (chosen.codes == nullptr) {
    subbyte::throw_error(subbyte::errc::bad_argument, "method \"" + text + "\"",
                         "known are" + known + ", and awq and awq+METHOD");
  }
  return chosen;
}

void require_known(const method& how, const layer_task& task) {
  const bool known =
      how.data == needs::nothing ||
      (task.input != nullptr && (how.data != needs::hessian || !task.input->hessian.empty()));
  if (known) return;
  subbyte::throw_error(subbyte::errc::bad_argument, how.name,
                       how.data == needs::hessian
                           ? "needs X^T X of the layer's input, and it is not known"
                           : "needs the mean squares of the layer's input, and they are not known");
}

void reject_method(const method& how, const std::string& format) {
  subbyte::throw_error(subbyte::errc::bad_argument, how.name, "cannot quantize to " + format);
}

known_input::known_input(const subbyte::input_statistics& statistics,
                         subbyte::vector_view<const float> scale)
    : importance(statistics.importance()), tokens(statistics.tokens()) {
  if (statistics.has_hessian()) {
    hessian =
        subbyte::tensor<double, 2>(subbyte::uninitialized, statistics.cols(), statistics.cols());
    std::copy_n(statistics.hessian().data(), hessian.size(), hessian.data());
  }
  if (scale.empty()) return;
  for (index_t j = 0; j < scale.size(); ++j) importance(j) /= scale[j] * scale[j];
  if (!hessian.empty()) subbyte::scale_hessian<>(hessian.view(), scale);
}

const std::vector<target_format>& block_target_formats() {
  static const std::vector<target_format> formats = [] {
    auto numbered = numbered_block_formats<0>();
    for (auto& format : odd_block_formats()) numbered.push_back(std::move(format));
    std::sort(numbered.begin(), numbered.end(),
              [](const auto& a, const auto& b) { return a.first < b.first; });
    std::vector<target_format> list;
    for (auto& format : numbered) list.push_back(std::move(format.second));
    return list;
  }();
  return formats;
}

}  // namespace example
