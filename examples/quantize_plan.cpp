// SPDX-License-Identifier: Apache-2.0
#include "quantize_plan.hpp"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <memory>
#include <optional>
#include <utility>

#include "command_line.hpp"
#include "llama/perplexity.hpp"
#include "subbyte/calibrate/layer_loss.hpp"
#include "subbyte/calibrate/plan.hpp"
#include "subbyte/format/f32.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/matrix/block_matrix.hpp"

namespace example {

namespace checkpoint = subbyte::checkpoint;

const target_format& find_block_format(const std::string& name) {
  std::string known;
  for (const target_format& f : block_target_formats()) {
    if (subbyte::same_format_name(f.name.c_str(), name.c_str())) return f;
    known += std::string(known.empty() ? "" : " ") + f.name;
  }
  subbyte::throw_error(subbyte::errc::bad_argument, "format \"" + name + "\"",
                       "a GGUF file can hold " + known);
}

const target_format& find_block_format(std::uint32_t gguf_type) {
  for (const target_format& f : block_target_formats()) {
    if (f.gguf_type == gguf_type) return f;
  }
  subbyte::throw_error(subbyte::errc::unsupported_format, "type " + std::to_string(gguf_type),
                       "nothing can be quantized to it");
}

bool is_quantizable(const source_tensor& t) {
  return checkpoint::is_quantized_by_recipes(t.name, t.dims);
}

namespace {

index_t stored_bytes(const target_format& f, const source_tensor& t) {
  return t.size() / f.block_size * f.block_bytes + t.rows() * f.row_bytes;
}

const target_format& fall_back(const target_format& wanted, const source_tensor& t) {
  return find_block_format(checkpoint::fallback_type(*wanted.gguf_type, t.cols()));
}

// What was asked for this tensor alone or for its part of the model; null: nothing.
const target_format* forced_format(const source_tensor& t,
                                   const checkpoint::recipe_options& options) {
  const auto found = [](std::uint32_t type) { return &find_block_format(type); };
  if (t.name == "token_embd.weight" && options.token_embedding_type) {
    return found(*options.token_embedding_type);
  }
  if (t.name == "output.weight" && options.output_type) return found(*options.output_type);
  for (const checkpoint::type_override& o : options.overrides) {
    if (o.pattern.found_in(t.name)) return found(o.type);
  }
  return nullptr;
}

}  // namespace

index_t plan_entry::bytes() const {
  return format != nullptr ? stored_bytes(*format, *tensor)
                           : static_cast<index_t>(tensor->bytes.size());
}

std::string plan_entry::type_name() const {
  return format != nullptr ? format->name : tensor->type_name;
}

std::vector<plan_entry> make_plan(const model_source& model, const format_choice& choice,
                                  bool scaled, const importance_query& has_importance) {
  std::vector<checkpoint::recipe_tensor> tensors;
  for (const source_tensor& t : model.tensors) {
    const bool changed = scaled && folded_scales::touches(t.name);
    tensors.push_back({t.name, t.dims, changed ? std::nullopt : t.gguf_type, t.lossy});
  }
  const std::vector<checkpoint::recipe_choice> choices =
      checkpoint::apply_recipe(choice.recipe, model.facts, tensors, choice.options);
  if (has_importance) checkpoint::require_importance(tensors, choices, has_importance);
  std::vector<plan_entry> plan;
  for (std::size_t i = 0; i < choices.size(); ++i) {
    const checkpoint::recipe_choice& c = choices[i];
    plan.push_back(
        {&model.tensors[i], c.copied ? nullptr : &find_block_format(c.type), c.fell_back});
  }
  return plan;
}

namespace {

std::shared_ptr<const llama::linear> float_linear(const subbyte::tensor<float, 2>& w) {
  subbyte::block_matrix<subbyte::f32> floats(w.extent(0), w.extent(1));
  std::copy_n(w.data(), w.size(), reinterpret_cast<float*>(floats.row(0)));
  return llama::make_linear(std::move(floats));
}

/// The original, and what quantizing does to it, on the text of the request.
class measurement {
 public:
  measurement(const mix_request& request, subbyte::executor_ref executor)
      : path_(request.model),
        executor_(executor),
        base_(request.model),
        text_(llama::read_token_file(request.tokens), base_.source().read_vocabulary().bos,
              std::clamp<index_t>(base_.shape().context - 1, 1, 511), request.windows) {}

  [[nodiscard]] index_t windows() const { return text_.count(); }

  /// A copy of the original, to be changed.
  [[nodiscard]] std::unique_ptr<llama::model> copy() const {
    return std::make_unique<llama::model>(path_);
  }

  /// The mean KL divergence of each from the original; they share one pass of the original.
  [[nodiscard]] std::vector<double> divergence(
      const std::vector<std::unique_ptr<llama::model>>& models) const {
    std::vector<const llama::model*> all{&base_};
    for (const auto& m : models) all.push_back(m.get());
    const auto scores = llama::score_stream(all, true, text_, executor_,
                                            [](index_t, index_t) { check_interrupt(); });
    std::vector<double> kl;
    for (std::size_t i = 1; i < scores.size(); ++i) {
      kl.push_back(scores[i].divergence.report().kl);
    }
    return kl;
  }

 private:
  std::string path_;
  subbyte::executor_ref executor_;
  llama::model base_;
  llama::windows text_;
};

/// The candidates of every tensor, with their losses.
class mix_planner {
 public:
  mix_planner(const model_source& model, const mix_request& request,
              calibration_source& calibration, const trial& quantize,
              subbyte::executor_ref executor, const format_choice& choice)
      : request_(request),
        calibration_(calibration),
        quantize_(quantize),
        executor_(executor),
        choice_(choice) {
    if (!request.tokens.empty()) text_.emplace(request, executor);
    for (const source_tensor& t : model.tensors) {
      if (is_quantizable(t)) tensors_.push_back(&t);
    }
  }

  /// Quantizes every tensor to every candidate.
  void predict() {
    refuse_sizes_without_plan();
    progress_bar bar("plan");
    double done = 0;
    for (const source_tensor* t : tensors_) {
      add_tensor(*t);
      bar.update(done += 1, static_cast<double>(tensors_.size()));
    }
    measure_pending();
  }

  [[nodiscard]] const std::vector<subbyte::plan_tensor>& tensors() const { return planned_; }

  subbyte::plan under_size() const {
    return subbyte::plan_for_bits_per_weight<>(planned_, request_.target_bits);
  }

  subbyte::measured_plan under_divergence() {
    progress_bar bar("search under the KL divergence");
    subbyte::measured_plan_options how;
    double done = 0;
    return subbyte::plan_measured<>(
        planned_, request_.max_kl,
        [&](const subbyte::plan& p) {
          const double kl = divergence_of(p);
          bar.update(done += 1, how.max_measurements);
          return kl;
        },
        how);
  }

  /// The KL divergence of the whole plan; only what differs from the last one is quantized.
  double divergence_of(const subbyte::plan& p) {
    if (whole_.empty()) {
      whole_.push_back(text_->copy());
      in_whole_.assign(tensors_.size(), nullptr);
    }
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      const target_format& format = format_of(p, i);
      if (in_whole_[i] == &format) continue;
      check_interrupt();
      whole_.back()->replace(tensors_[i]->name, float_linear(quantize_(*tensors_[i], format)));
      in_whole_[i] = &format;
    }
    return text_->divergence(whole_)[0];
  }

  void print(const subbyte::plan& p) const {
    const char* const unit = text_ ? "KL (nats)" : "loss";
    std::printf("%-32s %-8s %8s %14s %12s %7s\n", "planned tensor", "format", "bits/w", "bytes",
                unit, "share");
    for (const subbyte::plan_row& row : subbyte::plan_rows<>(planned_, p)) {
      std::printf("%-32s %-8s %8.4f %14lld %12.3e %6.1f%%\n", subbyte::printable(row.name).c_str(),
                  row.format.c_str(), row.bits_per_weight, static_cast<long long>(row.bytes),
                  row.loss, 100 * row.loss_share);
    }
    std::printf("plan: %lld bytes, %.4f bits per weight, predicted %s %.4e%s\n",
                static_cast<long long>(p.bytes), p.bits_per_weight(), unit, p.loss,
                p.optimal ? ", no mix of these candidates has less" : "");
    for (const std::string& note : notes_) std::printf("%s\n", note.c_str());
  }

  [[nodiscard]] index_t windows() const { return text_->windows(); }

  [[nodiscard]] const target_format& format_of(const subbyte::plan& p, std::size_t tensor) const {
    const auto chosen = static_cast<std::size_t>(p.choice[tensor]);
    return find_block_format(planned_[tensor].candidates[chosen].format);
  }

  void enter(const subbyte::plan& p, format_choice& choice) const {
    for (std::size_t i = 0; i < tensors_.size(); ++i) {
      choice.options.named[tensors_[i]->name] = *format_of(p, i).gguf_type;
    }
  }

 private:
  // Smallest first, and each once: rows that do not divide into blocks may leave fewer formats.
  [[nodiscard]] std::vector<const target_format*> candidates_of(const source_tensor& t) const {
    std::vector<const target_format*> list;
    if (const target_format* forced = forced_format(t, choice_.options)) {
      list.push_back(&fall_back(*forced, t));
      return list;
    }
    for (const std::string& name : request_.candidates) {
      const target_format& f = fall_back(find_block_format(name), t);
      if (std::find(list.begin(), list.end(), &f) != list.end()) continue;
      const auto smaller = [&](const target_format* a, const target_format* b) {
        return stored_bytes(*a, t) < stored_bytes(*b, t);
      };
      list.insert(std::upper_bound(list.begin(), list.end(), &f, smaller), &f);
    }
    return list;
  }

  // Before any work is done: no loss has to be known for this.
  void refuse_sizes_without_plan() const {
    double least = 0, weights = 0;
    for (const source_tensor* t : tensors_) {
      least += static_cast<double>(stored_bytes(*candidates_of(*t).front(), *t));
      weights += static_cast<double>(t->size());
    }
    if (request_.target_bits <= 0 || weights == 0) return;
    if (std::floor(request_.target_bits * weights / 8) >= least) return;
    char text[128];
    std::snprintf(text, sizeof text, "%g; the smallest mix of these candidates takes %.4f",
                  request_.target_bits, 8 * least / weights);
    subbyte::throw_error(subbyte::errc::bad_argument, "--target-bpw", text);
  }

  void add_tensor(const source_tensor& t) {
    std::vector<const target_format*> formats = candidates_of(t);
    subbyte::plan_tensor planned;
    planned.name = t.name;
    planned.weights = t.size();

    const subbyte::input_statistics& seen = calibration_.statistics_of(t.name);
    const bool embedding = seen.tokens() == 0 && t.name == "token_embd.weight";
    if (!embedding && (seen.tokens() == 0 || t.dims.size() > 2)) {
      if (formats.size() > 1) {
        notes_.push_back("warning: " + subbyte::printable(t.name) +
                         ": no token reached it in calibration; it gets the largest candidate");
      }
      planned.candidates.push_back({formats.back()->name, stored_bytes(*formats.back(), t), 0});
      planned_.push_back(std::move(planned));
      return;
    }
    subbyte::tensor<double, 2> every_token_alike;
    subbyte::layer_inputs inputs;
    if (embedding) {
      every_token_alike = subbyte::tensor<double, 2>(t.cols(), t.cols());
      for (index_t j = 0; j < t.cols(); ++j) every_token_alike(j, j) = 1;
      inputs.hessian = std::as_const(every_token_alike).view();
      inputs.tokens = t.rows();
    } else {
      if (!seen.has_hessian()) {
        subbyte::throw_error(subbyte::errc::bad_argument, subbyte::printable(t.name),
                             "the calibration holds no X^T X of its input (made with "
                             "--no-hessian?); a plan needs it");
      }
      inputs.hessian = seen.hessian();
      inputs.tokens = seen.tokens();
    }
    subbyte::tensor<float, 2> w(subbyte::uninitialized, t.rows(), t.cols());
    t.read(0, t.rows(), w.data());
    const auto original = std::as_const(w).view();
    const auto loss_of = [&](const float* estimate) {
      subbyte::block_matrix<subbyte::f32> floats(t.rows(), t.cols());
      if (estimate != nullptr) {
        std::copy_n(estimate, w.size(), reinterpret_cast<float*>(floats.row(0)));
      }
      return subbyte::layer_loss<>(original, floats.view(), inputs, executor_);
    };
    const std::size_t probed = formats.size() / 2;  // the sensitivity hardly depends on it
    for (std::size_t c = 0; c < formats.size(); ++c) {
      check_interrupt();
      const subbyte::tensor<float, 2> estimate = quantize_(t, *formats[c]);
      planned.candidates.push_back(
          {formats[c]->name, stored_bytes(*formats[c], t), loss_of(estimate.data())});
      if (text_ && c == probed) {
        pending_.push_back(text_->copy());
        pending_.back()->replace(t.name, float_linear(estimate));
        pending_tensor_.push_back({planned_.size(), c});
      }
    }
    if (const double energy = loss_of(nullptr); !text_) {
      planned.sensitivity = energy > 0 ? 1 / energy : 0;
    }
    planned_.push_back(std::move(planned));
    constexpr std::size_t at_once = 8;
    if (pending_.size() == at_once) measure_pending();
  }

  void measure_pending() {
    if (pending_.empty()) return;
    const std::vector<double> kl = text_->divergence(pending_);
    for (std::size_t i = 0; i < kl.size(); ++i) {
      subbyte::plan_tensor& t = planned_[pending_tensor_[i].tensor];
      const double loss = t.candidates[pending_tensor_[i].candidate].loss;
      t.sensitivity = loss > 0 ? std::max(kl[i], 0.0) / loss : 0;
    }
    pending_.clear();
    pending_tensor_.clear();
  }

  struct probe {
    std::size_t tensor, candidate;
  };

  const mix_request& request_;
  calibration_source& calibration_;
  const trial& quantize_;
  subbyte::executor_ref executor_;
  const format_choice& choice_;
  std::optional<measurement> text_;
  std::vector<const source_tensor*> tensors_;
  std::vector<subbyte::plan_tensor> planned_;
  std::vector<std::string> notes_;
  std::vector<std::unique_ptr<llama::model>> pending_;  // with one tensor quantized
  std::vector<probe> pending_tensor_;
  std::vector<std::unique_ptr<llama::model>> whole_;  // the plan that was measured last, if any
  std::vector<const target_format*> in_whole_;
};

}  // namespace

void plan_mix(const model_source& model, const mix_request& request,
              calibration_source& calibration, const trial& quantize,
              subbyte::executor_ref executor, format_choice& choice) {
  mix_planner planner(model, request, calibration, quantize, executor, choice);
  planner.predict();
  if (request.max_kl > 0) {
    const subbyte::measured_plan found = planner.under_divergence();
    planner.print(found.best);
    std::printf("measured KL %.4e on %lld windows, at most %.4e allowed; %d plans measured\n",
                found.measured, static_cast<long long>(planner.windows()), request.max_kl,
                found.measurements);
    planner.enter(found.best, choice);
    return;
  }
  const subbyte::plan found = planner.under_size();
  planner.print(found);
  planner.enter(found, choice);
}

}  // namespace example
