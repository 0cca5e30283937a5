// SPDX-License-Identifier: Apache-2.0
/// Quantizes a model in memory by every combination of method, format, group size and number of
/// calibration windows asked for, and measures each against the original on held-out texts.
///
/// Embedding and output matrix stay as they are: the comparison is of the linears in between.
/// Combinations of a method with a format that it cannot make are left out.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>
#include <vector>

#include "command_line.hpp"
#include "llama/calibration.hpp"
#include "llama/perplexity.hpp"
#include "llama/scaling.hpp"
#include "quantizers.hpp"
#include "subbyte/calibrate/layer_loss.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/f32.hpp"
#include "subbyte/matrix/block_matrix.hpp"

namespace {

using example::chosen_method;
using example::needs;
using example::target_format;
using subbyte::index_t;
using seconds_clock = std::chrono::steady_clock;

struct options {
  std::string model, calibration, calibration_tokens, json;
  std::vector<std::string> texts, methods{"rtn"}, formats{"int4"};
  std::vector<index_t> groups{128}, calibration_windows{0};
  index_t windows = 0, at_once = 8;
  int threads = 0;
};

/// One model to be made and measured.
struct combination {
  const target_format* format;
  index_t group;  // 0: the format's own
  chosen_method method;
  std::size_t calibration;  // which of the calibrations; they differ in their number of windows

  // As measured.
  double bits_per_weight = 0, relative_loss = 0, seconds = 0;
  index_t starved = 0, fell_back = 0;
  std::vector<llama::stream_score> scores;  // per text
};

/// Statistics from so many windows.
struct calibration {
  index_t windows = 0;  // 0: none, or as in the file
  llama::input_list inputs;
};

double seconds_since(seconds_clock::time_point start) {
  return std::chrono::duration<double>(seconds_clock::now() - start).count();
}

const target_format& find_format(const std::string& name) {
  std::string known;
  for (const auto* list : {&example::group_target_formats(), &example::block_target_formats()}) {
    for (const target_format& f : *list) {
      if (f.name == name) return f;
      known += " " + f.name;
    }
  }
  subbyte::throw_error(subbyte::errc::bad_argument, "format \"" + name + "\"", "known are" + known);
}

std::vector<calibration> load_calibration(const options& o, const llama::model& model) {
  const subbyte::calibration_file file(o.calibration);
  std::vector<calibration> list(1);
  for (const llama::model_input& in : model.inputs()) {
    const index_t found = file.find_weight(in.weights.front());
    list[0].inputs.push_back(found < 0 ? subbyte::input_statistics() : file.load(found));
  }
  return list;
}

// One pass over the longest; the shorter ones are its beginnings.
std::vector<calibration> run_calibration(const options& o, const llama::model& model,
                                         const llama::windows& text, subbyte::executor_ref pool) {
  std::vector<index_t> counts = o.calibration_windows;
  for (index_t& n : counts) n = n == 0 ? text.count() : std::min(n, text.count());
  std::sort(counts.begin(), counts.end());
  counts.erase(std::unique(counts.begin(), counts.end()), counts.end());
  example::progress_bar bar("calibrate");
  std::vector<calibration> list;
  index_t done = 0;
  for (const index_t n : counts) {
    calibration next;
    next.windows = n;
    next.inputs = llama::collect_statistics(model, text, done, n - done, {}, pool, [&](index_t w) {
      bar.update(static_cast<double>(done + w), static_cast<double>(counts.back()));
    });
    if (!list.empty()) {
      for (std::size_t i = 0; i < next.inputs.size(); ++i) {
        next.inputs[i].merge(list.back().inputs[i]);
      }
    }
    list.push_back(std::move(next));
    done = n;
  }
  return list;
}

class comparison {
 public:
  comparison(const options& o, std::vector<combination> combinations,
             const std::vector<calibration>& calibrations, subbyte::executor_ref pool)
      : options_(o),
        combinations_(std::move(combinations)),
        calibrations_(calibrations),
        pool_(pool),
        base_(o.model),
        original_(llama::read_weights(base_)) {}

  void run(const std::vector<llama::windows>& texts) {
    index_t windows = 0;
    for (const llama::windows& text : texts) windows += text.count();
    // A window through a model is the unit of the bar; quantizing is counted as ten.
    const double total =
        static_cast<double>(combinations_.size()) * static_cast<double>(windows + 10);
    example::progress_bar bar("compare");
    double done = 0;
    for (std::size_t first = 0; first < combinations_.size();
         first += static_cast<std::size_t>(options_.at_once)) {
      const std::size_t count =
          std::min(static_cast<std::size_t>(options_.at_once), combinations_.size() - first);
      std::vector<std::unique_ptr<llama::model>> made;
      std::vector<const llama::model*> models{&base_};
      for (std::size_t i = first; i < first + count; ++i) {
        example::check_interrupt();
        const auto start = seconds_clock::now();
        made.push_back(std::make_unique<llama::model>(options_.model));
        quantize(combinations_[i], *made.back());
        combinations_[i].seconds = seconds_since(start);
        models.push_back(made.back().get());
        done += 10;
        bar.update(done, total);
      }
      for (const llama::windows& text : texts) {
        const double before = done;
        const auto scores =
            llama::score_stream(models, true, text, pool_, [&](index_t at, index_t of) {
              example::check_interrupt();
              done = before + static_cast<double>(at) / static_cast<double>(of) *
                                  static_cast<double>(text.count()) * static_cast<double>(count);
              bar.update(done, total);
            });
        for (std::size_t i = 0; i < count; ++i) {
          combinations_[first + i].scores.push_back(scores[i + 1]);
        }
      }
    }
  }

  [[nodiscard]] const std::vector<combination>& combinations() const { return combinations_; }

 private:
  void quantize(combination& c, llama::model& model) {
    const llama::input_list* known = nullptr;
    if (c.method.data() != needs::nothing) known = &calibrations_[c.calibration].inputs;
    llama::float_weights weights = original_.clone();
    const std::size_t inputs = base_.inputs().size() - 1;  // without the output's
    std::vector<subbyte::tensor<float, 1>> scales(inputs);
    if (c.method.scaled) {
      for (std::size_t i = 0; i < inputs; ++i) {
        if ((*known)[i].tokens() > 0) scales[i] = search_scale(c, weights, i, (*known)[i]);
      }
    }
    subbyte::storage_cost cost{};
    double loss = 0, energy = 0;
    for (std::size_t i = 0; i < inputs; ++i) {
      std::optional<example::known_input> input;
      if (known != nullptr && (*known)[i].tokens() > 0)
        input.emplace((*known)[i], scales[i].view());
      for (const std::string& name : base_.inputs()[i].weights) {
        const subbyte::matrix_view<const float> w = std::as_const(weights.linears.at(name)).view();
        example::layer_task task{w, input ? &*input : nullptr, c.group, pool_};
        const bool starved = known != nullptr && !input;
        static const example::method nearest{"rtn", needs::nothing, ""};
        example::quantized_layer made =
            c.format->quantize(starved ? nearest : *c.method.codes, task, true);
        cost.merge({w.size(), 0, made.stored_bytes});
        c.starved += starved ? 1 : 0;
        c.fell_back += made.report.fell_back ? 1 : 0;
        subbyte::block_matrix<subbyte::f32> floats(w.extent(0), w.extent(1));
        std::copy_n(made.decoded.data(), made.decoded.size(),
                    reinterpret_cast<float*>(floats.row(0)));
        if (!calibrations_.empty()) add_loss(w, floats, i, scales[i], loss, energy);
        model.replace(name, llama::make_linear(std::move(floats)));
      }
    }
    for (const auto& [name, values] : weights.norms) {
      std::copy(values.begin(), values.end(), model.norm(name).begin());
    }
    c.bits_per_weight = cost.bits_per_weight();
    c.relative_loss = energy > 0 ? loss / energy : std::numeric_limits<double>::quiet_NaN();
  }

  // Of the outputs, by the largest calibration and for every method alike; scaled weights read
  // inputs that were divided.
  void add_loss(subbyte::matrix_view<const float> w,
                const subbyte::block_matrix<subbyte::f32>& estimate, std::size_t input,
                const subbyte::tensor<float, 1>& scale, double& loss, double& energy) {
    const subbyte::input_statistics& statistics = calibrations_.back().inputs[input];
    if (statistics.tokens() == 0 || !statistics.has_hessian()) return;
    const example::known_input known(statistics, scale.view());
    subbyte::layer_inputs inputs;
    inputs.hessian = known.hessian.view();
    inputs.tokens = statistics.tokens();
    const subbyte::block_matrix<subbyte::f32> nothing(w.extent(0), w.extent(1));
    loss += subbyte::layer_loss<>(w, estimate.view(), inputs, pool_);
    energy += subbyte::layer_loss<>(w, nothing.view(), inputs, pool_);
  }

  subbyte::tensor<float, 1> search_scale(const combination& c, llama::float_weights& weights,
                                         std::size_t input,
                                         const subbyte::input_statistics& statistics) {
    const llama::shape& shape = base_.shape();
    const int place = static_cast<int>(input % 4);
    std::vector<subbyte::matrix_view<const float>> readers;
    for (const std::string& name : base_.inputs()[input].weights) {
      readers.push_back(std::as_const(weights.linears.at(name)).view());
    }
    subbyte::awq_options how;
    how.shape.group_size = c.group > 0 ? c.group : 128;
    if (place == 1) how.sharing = {shape.heads, shape.kv_heads};
    subbyte::awq_result found = c.format->search_scale(readers, statistics, how, pool_);
    llama::fold_scale(weights, shape, static_cast<index_t>(input / 4), place, found.scale.view());
    return std::move(found.scale);
  }

  const options& options_;
  std::vector<combination> combinations_;
  const std::vector<calibration>& calibrations_;
  subbyte::executor_ref pool_;
  llama::model base_;
  llama::float_weights original_;
};

/// The difference of two combinations' KL divergences, window by window.
struct paired_difference {
  double mean = 0, standard_error = 0;
};

paired_difference compare_windows(const combination& a, const combination& b, std::size_t text) {
  subbyte::moments difference;
  const std::vector<double>& x = a.scores[text].kl_of_window;
  const std::vector<double>& y = b.scores[text].kl_of_window;
  for (std::size_t w = 0; w < x.size(); ++w) difference.add(x[w] - y[w]);
  return {difference.mean(), difference.standard_error()};
}

// The first combination of the same format and group: what the others are compared with.
const combination& reference_of(const std::vector<combination>& all, const combination& c) {
  return *std::find_if(all.begin(), all.end(), [&](const combination& other) {
    return other.format == c.format && other.group == c.group;
  });
}

void print_table(const options& o, const std::vector<combination>& all,
                 const std::vector<calibration>& calibrations) {
  std::printf("%-8s %5s %-16s %8s %7s %9s", "format", "group", "method", "windows", "bits/w",
              "rel. loss");
  for (std::size_t t = 0; t < o.texts.size(); ++t) {
    std::printf(" | %9s %9s %18s %18s", "perplex.", "change", "KL (nats)", "less than first");
  }
  std::printf(" %8s\n", "seconds");
  for (const combination& c : all) {
    const bool calibrated = c.method.data() != needs::nothing;
    char loss[16] = "-";
    if (!std::isnan(c.relative_loss)) std::snprintf(loss, sizeof loss, "%.2e", c.relative_loss);
    std::printf("%-8s %5s %-16s %8s %7.3f %9s", c.format->name.c_str(),
                c.group > 0 ? std::to_string(c.group).c_str() : "-", c.method.name.c_str(),
                calibrated ? std::to_string(calibrations[c.calibration].windows).c_str() : "-",
                c.bits_per_weight, loss);
    const combination& first = reference_of(all, c);
    for (std::size_t t = 0; t < o.texts.size(); ++t) {
      const subbyte::divergence_report d = c.scores[t].divergence.report();
      std::printf(" | %9.4f %+8.2f%% %9.6f ±%.5f", c.scores[t].likelihood.perplexity(),
                  100 * (d.perplexity_ratio - 1), d.kl, c.scores[t].window_kl.standard_error());
      if (&first == &c) {
        std::printf(" %18s", "-");
      } else {
        const paired_difference less = compare_windows(first, c, t);
        std::printf(" %9.5f (%5.1fs)", less.mean, less.mean / less.standard_error);
      }
    }
    std::printf(" %8.2f%s%s\n", c.seconds,
                c.starved > 0 ? "  (inputs without tokens: rounded to nearest)" : "",
                c.fell_back > 0 ? "  (fallbacks)" : "");
  }
  std::printf(
      "less than first: how much lower the KL divergence is than that of the first method of the "
      "same format and group, and how many standard errors that is, paired over windows\n");
}

nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

void write_json(const options& o, const std::vector<combination>& all,
                const std::vector<calibration>& calibrations) {
  nlohmann::ordered_json root;
  root["model"] = o.model;
  root["calibration"] = o.calibration.empty() ? o.calibration_tokens : o.calibration;
  root["texts"] = o.texts;
  root["combinations"] = nlohmann::ordered_json::array();
  for (const combination& c : all) {
    nlohmann::ordered_json j;
    const bool calibrated = c.method.data() != needs::nothing;
    j["format"] = c.format->name;
    j["group"] = c.group;
    j["method"] = c.method.name;
    j["calibration_windows"] = calibrated
                                   ? nlohmann::ordered_json(calibrations[c.calibration].windows)
                                   : nlohmann::ordered_json(nullptr);
    j["bits_per_weight"] = c.bits_per_weight;
    j["relative_layer_loss"] = number(c.relative_loss);
    j["quantize_seconds"] = c.seconds;
    j["linears_without_statistics"] = c.starved;
    j["linears_that_fell_back"] = c.fell_back;
    for (std::size_t t = 0; t < o.texts.size(); ++t) {
      const subbyte::divergence_report d = c.scores[t].divergence.report();
      nlohmann::ordered_json s;
      s["text"] = o.texts[t];
      s["perplexity"] = number(c.scores[t].likelihood.perplexity());
      s["perplexity_ratio"] = number(d.perplexity_ratio);
      s["perplexity_ratio_standard_error"] = number(d.perplexity_ratio_standard_error);
      s["kl_mean"] = number(d.kl);
      s["kl_standard_error"] = number(c.scores[t].window_kl.standard_error());
      s["top1_agreement"] = number(d.same_top);
      const combination& first = reference_of(all, c);
      if (&first != &c) {
        const paired_difference less = compare_windows(first, c, t);
        s["kl_less_than_first"] = number(less.mean);
        s["kl_less_than_first_standard_error"] = number(less.standard_error);
      }
      s["window_kl"] = c.scores[t].kl_of_window;
      j["scores"].push_back(s);
    }
    root["combinations"].push_back(j);
  }
  std::ofstream file(o.json, std::ios::binary);
  file << root.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) << "\n";
  file.close();
  if (!file) subbyte::throw_error(subbyte::errc::io, o.json, "cannot write");
}

std::vector<combination> combine(const options& o, const std::vector<calibration>& calibrations) {
  std::vector<combination> all;
  for (const std::string& format_name : o.formats) {
    const target_format& format = find_format(format_name);
    for (const index_t group : format.grouped() ? o.groups : std::vector<index_t>{0}) {
      for (const std::string& text : o.methods) {
        const chosen_method method = example::parse_method(text);
        if (!format.takes(*method.codes)) continue;
        if (method.data() == needs::nothing) {
          all.push_back({&format, group, method, 0, 0, 0, 0, 0, 0, {}});
          continue;
        }
        if (calibrations.empty()) {
          subbyte::throw_error(subbyte::errc::bad_argument, "method " + text,
                               "--calibration or --calibration-tokens is required");
        }
        for (std::size_t i = 0; i < calibrations.size(); ++i) {
          all.push_back({&format, group, method, i, 0, 0, 0, 0, 0, {}});
        }
      }
    }
  }
  return all;
}

void compare(const options& o) {
  const llama::model model(o.model);
  const llama::vocabulary words = model.source().read_vocabulary();
  const index_t length = std::clamp<index_t>(model.shape().context - 1, 1, 511);
  const auto cut = [&](const std::string& path, index_t limit) {
    return llama::windows(llama::read_token_file(path), words.bos, length, limit);
  };
  for (const std::string& text : o.methods) static_cast<void>(example::parse_method(text));
  std::vector<llama::windows> texts;
  for (const std::string& path : o.texts) texts.push_back(cut(path, o.windows));
  subbyte::thread_pool pool(o.threads);
  std::vector<calibration> calibrations;
  if (!o.calibration.empty()) {
    calibrations = load_calibration(o, model);
    calibrations[0].windows = calibrations[0].inputs[0].tokens() / length;
  } else if (!o.calibration_tokens.empty()) {
    calibrations = run_calibration(o, model, cut(o.calibration_tokens, 0), pool);
  }
  example::cancel_on_interrupt();
  comparison all(o, combine(o, calibrations), calibrations, pool);
  all.run(texts);
  print_table(o, all.combinations(), calibrations);
  if (!o.json.empty()) write_json(o, all.combinations(), calibrations);
}

}  // namespace

int main(int argc, char** argv) {
  options o;
  CLI::App app(
      "Quantizes the linears of a Llama model in memory by every combination of format, group size "
      "and method, and measures perplexity and KL divergence against the original. Embedding and "
      "output stay as they are.",
      "compare_methods");
  std::string known;
  for (const example::method& m : example::methods()) known += "\n  " + m.name + ": " + m.what;
  app.add_option("model", o.model, "GGUF file of the unquantized model")->required();
  app.add_option("--tokens", o.texts, "token streams to measure on, little-endian uint16")
      ->delimiter(',')
      ->required();
  app.add_option("--windows", o.windows, "use the first so many windows of each; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("-m,--methods", o.methods, "awq, awq+METHOD, or METHOD of" + known)
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("-f,--formats", o.formats,
                 "int2 int3 int4 (whole zero points), int4s (symmetric), int2r int3r int4r (real "
                 "zero points), nf4, or a GGUF format")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("-g,--groups", o.groups, "group sizes, for formats that leave them open")
      ->delimiter(',')
      ->capture_default_str();
  auto* const file =
      app.add_option("--calibration", o.calibration, "a file of perplexity --calibrate");
  app.add_option("--calibration-tokens", o.calibration_tokens,
                 "or the token stream to calibrate on")
      ->excludes(file);
  app.add_option("--calibration-windows", o.calibration_windows,
                 "how many of its windows; several: each is measured")
      ->delimiter(',')
      ->excludes(file);
  app.add_option("--at-once", o.at_once,
                 "models in memory at a time: they share one pass of the original")
      ->check(CLI::Range(1, 1024))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--json", o.json, "write the figures, also of every window, to this file");
  return example::run(app, argc, argv, [&] { compare(o); });
}
