// SPDX-License-Identifier: Apache-2.0
/// The table of methods, and a target format made of a type: instantiated by quantizers_*.cpp.
#pragma once

#include <type_traits>
#include <utility>

#include "quantizers.hpp"
#include "subbyte/calibrate/autoround.hpp"
#include "subbyte/calibrate/gptq.hpp"
#include "subbyte/quantize/hqq.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "subbyte/quantize/range_search.hpp"
#include "subbyte/quantize/rtn.hpp"
#include "subbyte/quantize/weighted.hpp"

namespace example {

/// GPTQ with its own defaults: columns in the order of activation within groups, the damp by tokens
/// per channel. A Hessian that has no factor gets more damp, and the report says so.
inline subbyte::gptq gptq_of(const layer_task& task) {
  subbyte::gptq policy;
  policy.hessian = subbyte::hessian_view(task.input->hessian.view());
  policy.tokens = task.input->tokens;
  policy.failure = subbyte::on_failure::more_damp;
  policy.progress = task.progress;
  return policy;
}

/// AWQ's second step as a policy: each group's range is clipped where that brings the layer's
/// output nearer, then nearest codes. Query and key projections, which AWQ's tools leave out, are
/// clipped too.
struct clipped {
  const known_input* input;
  subbyte::non_finite on_non_finite = subbyte::non_finite::reject;

  template <class Target>
  requires(subbyte::quantizer_for<subbyte::rtn, Target>) subbyte::policy_report
      apply(subbyte::weights_view w, Target& target, subbyte::executor_ref executor)
  const {
    subbyte::tensor<float, 2> copy(subbyte::uninitialized, w.extent(0), w.extent(1));
    for (index_t r = 0; r < w.extent(0); ++r) {
      for (index_t j = 0; j < w.extent(1); ++j) copy(r, j) = w(r, j);
    }
    subbyte::layer_inputs inputs;
    inputs.hessian = input->hessian.view();
    inputs.tokens = input->tokens;
    subbyte::awq_clip_options options;
    options.shape.group_size = target.group_size();
    options.rule = subbyte::grid_rule::target;
    const auto bounds = [&] {
      if constexpr (requires { typename Target::grid; }) {
        using F = subbyte::planar<typename Target::grid, typename Target::scale>;
        return subbyte::awq_clip<F>(std::as_const(copy).view(), inputs, options, executor);
      } else {
        return subbyte::awq_clip<typename Target::format>(std::as_const(copy).view(), inputs,
                                                          options, executor);
      }
    }();
    subbyte::apply_clip<>(copy.view(), bounds.view(), target.group_size());
    return subbyte::rtn{}.apply(std::as_const(copy).view(), target, executor);
  }
};

/// Calls visit(name, data, what, make) for every method, the fields of example::method.
/// make(std::type_identity<Target>, task) gives the policy; a method is one entry here.
template <class Visit>
void for_each_method(Visit&& visit) {
  using subbyte::index_t;
  visit("reference", needs::nothing, "the encoder of the tool that defined the format",
        [](auto, const layer_task&) { return subbyte::reference{}; });
  visit("best", needs::nothing, "reference's blocks with a lower squared error",
        [](auto, const layer_task&) { return subbyte::best{}; });
  visit("rtn", needs::nothing, "the range of each group, nearest codes",
        [](auto, const layer_task&) { return subbyte::rtn{}; });
  visit("range", needs::nothing, "params of the least squared error, nearest codes",
        [](auto, const layer_task&) { return subbyte::range_search{}; });
  visit("hqq", needs::nothing, "params of the least |error|^0.7, nearest codes",
        [](auto, const layer_task&) { return subbyte::hqq{}; });
  visit("imatrix", needs::importance,
        "params of the least squared error weighted by mean x^2, nearest codes",
        []<class Target>(std::type_identity<Target>, const layer_task& task) {
          if constexpr (subbyte::quantizer_for<subbyte::reference, Target>) {
            return subbyte::reference{.importance = task.input->importance.view()};
          } else {
            return subbyte::weighted{.importance = task.input->importance.view()};
          }
        });
  visit("weighted-best", needs::importance, "best with errors weighted by mean x^2",
        [](auto, const layer_task& task) {
          return subbyte::best{.importance = task.input->importance.view()};
        });
  visit("weighted-range", needs::importance, "range with errors weighted by mean x^2",
        [](auto, const layer_task& task) {
          return subbyte::range_search{.importance = task.input->importance.view()};
        });
  visit("clip", needs::hessian, "ranges clipped for the layer's output, nearest codes",
        [](auto, const layer_task& task) { return clipped{task.input}; });
  visit("gptq", needs::hessian, "errors fed back through the inverse of X^T X",
        [](auto, const layer_task& task) { return gptq_of(task); });
  visit("gptq-published", needs::hessian, "gptq, columns in their natural order",
        [](auto, const layer_task& task) {
          subbyte::gptq policy = gptq_of(task);
          policy.order = subbyte::column_order::natural;
          return policy;
        });
  visit("gptq-act", needs::hessian,
        "gptq, columns in the order of activation; formats that keep no order: static groups",
        []<class Target>(std::type_identity<Target>, const layer_task& task) {
          subbyte::gptq policy = gptq_of(task);
          policy.order = subbyte::column_order::activation;
          policy.static_groups = !requires(Target & t) { t.set_column_order({}); };
          return policy;
        });
  visit("gptq-clip", needs::hessian, "gptq, ranges that shrink in the Hessian metric",
        [](auto, const layer_task& task) {
          subbyte::gptq policy = gptq_of(task);
          policy.clip = subbyte::clip_search::hessian;
          return policy;
        });
  visit("autoround", needs::hessian, "rounding and ranges by sign gradients",
        [](auto, const layer_task& task) {
          subbyte::autoround policy;
          policy.hessian = subbyte::hessian_view(task.input->hessian.view());
          policy.progress = task.progress;
          return policy;
        });
}

/// Throws  bad_argument for a method that needs what is not known of the input.
void require_known(const method& how, const layer_task& task);
/// Throws  bad_argument for a method that cannot quantize to a format.
[[noreturn]] void reject_method(const method& how, const std::string& format);

/// Fills target by a method.
///
/// Throws  bad_argument when the method is not for this kind of format; what the policy throws.
template <class Target>
subbyte::policy_report fill(const method& how, const layer_task& task, Target& target,
                            const char* format) {
  subbyte::policy_report report;
  bool done = false;
  for_each_method([&](const char* name, needs, const char*, const auto& make) {
    using policy = decltype(make(std::type_identity<Target>{}, task));
    if constexpr (subbyte::quantizer_for<policy, Target>) {
      if (how.name != name) return;
      report = subbyte::quantize_into(task.weights, target,
                                      make(std::type_identity<Target>{}, task), task.executor);
      done = true;
    }
  });
  if (!done) reject_method(how, format);
  return report;
}

/// Whether fill() can.
template <class Target>
bool takes_method(const std::string& wanted) {
  bool takes = false;
  for_each_method([&](const char* name, needs, const char*, const auto& make) {
    using policy = decltype(make(std::type_identity<Target>{}, std::declval<const layer_task&>()));
    if (wanted == name) takes = subbyte::quantizer_for<policy, Target>;
  });
  return takes;
}

template <class View>
subbyte::tensor<float, 2> decoded(View w, subbyte::executor_ref executor) {
  subbyte::tensor<float, 2> out(subbyte::uninitialized, w.rows(), w.cols());
  executor.for_range(w.rows(), 16, [&](index_t begin, index_t end) noexcept {
    for (index_t r = begin; r < end; ++r) {
      w.template decode_row<>(r, 0, w.cols(), out.data() + r * w.cols());
    }
  });
  return out;
}

template <class F>
quantized_layer quantize_to_blocks(const method& how, const layer_task& task, bool decode) {
  subbyte::matrix_of<F, subbyte::arch::native> target(task.weights.extent(0),
                                                      task.weights.extent(1));
  quantized_layer made;
  require_known(how, task);
  made.report = fill(how, task, target, F::name);
  const auto view = target.view();
  made.stored_bytes = view.size_bytes();
  if (decode) {
    made.decoded = decoded(view, task.executor);
  } else {
    const auto* const bytes = reinterpret_cast<const std::uint8_t*>(view.data());
    made.blocks.assign(bytes, bytes + view.size_bytes());
  }
  return made;
}

template <class P>
quantized_layer quantize_to_groups(const method& how, const layer_task& task, bool decode) {
  subbyte::matrix_of<P, subbyte::arch::native> target(
      task.weights.extent(0), task.weights.extent(1), subbyte::planar_shape{task.group_size});
  quantized_layer made;
  require_known(how, task);
  made.report = fill(how, task, target, "groups");
  made.stored_bytes = target.view().size_bytes();
  if (decode) {
    made.decoded = decoded(target.view(), task.executor);
  } else if constexpr (requires { subbyte::from_planar(target.view()); }) {
    made.codes = subbyte::from_planar(target.view(), task.executor);
  }
  return made;
}

/// AWQ's search with nearest codes for every candidate.
template <class F>
subbyte::awq_result search_scale(std::span<const subbyte::matrix_view<const float>> weights,
                                 const subbyte::input_statistics& input,
                                 const subbyte::awq_options& options,
                                 subbyte::executor_ref executor) {
  using owner = subbyte::matrix_of<F, subbyte::arch::native>;
  if constexpr (subbyte::quantizer_for<subbyte::rtn, owner>) {
    return subbyte::awq_search<F, subbyte::rtn>(weights, input, options, subbyte::rtn{}, executor);
  } else {
    return subbyte::awq_search<F, subbyte::reference>(weights, input, options, subbyte::reference{},
                                                      executor);
  }
}

/// Groups of any size of G's codes, with f16 scales.
template <class G>
target_format grouped(const char* name) {
  using P = subbyte::planar<G, subbyte::half>;
  return {name,
          std::nullopt,
          0,
          0,
          0,
          &quantize_to_groups<P>,
          &search_scale<P>,
          &takes_method<subbyte::matrix_of<P, subbyte::arch::native>>};
}

}  // namespace example
