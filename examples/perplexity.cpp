// SPDX-License-Identifier: Apache-2.0
/// Measures models on a text: perplexity, divergence from a base model, weight error, speed; or
/// collects what calibrated quantizers need.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <vector>

#include "command_line.hpp"
#include "llama/calibration.hpp"
#include "llama/perplexity.hpp"
#include "subbyte/checkpoint/imatrix.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/metrics/cost.hpp"
#include "subbyte/metrics/error.hpp"

namespace {

using subbyte::index_t;

struct options {
  std::vector<std::string> models;
  std::string base, text, tokens, json, calibration, imatrix;
  index_t window = 0, limit = 0, sample_rows = 0;
  bool with_hessian = true;
  double speed_seconds = 0.5;
  int threads = 0;
};

/// What is known of one model: the file, its weights against the base's, its predictions.
struct measured {
  std::unique_ptr<llama::model> model;
  std::string format;  // of most weights
  subbyte::storage_cost cost{};
  subbyte::error_report weights{};
  llama::stream_score score;
  llama::speed speed{};
};

std::string most_used_format(const llama::weight_source& source) {
  std::map<std::string, index_t> weights;
  for (const llama::stored_weight& t : source.tensors()) weights[t.format] += t.size();
  std::string best;
  for (const auto& [name, count] : weights) {
    if (best.empty() || count > weights[best]) best = name;
  }
  return best;
}

// All matrices of the base against the model's.
subbyte::error_report weight_error(const llama::weight_source& base,
                                   const llama::weight_source& model) {
  subbyte::error_sums sums;
  std::vector<float> signal, estimate;
  for (const llama::stored_weight& original : base.tensors()) {
    if (original.rows == 1) continue;
    const llama::stored_weight& stored = model.get(original.name);
    if (stored.rows != original.rows || stored.cols != original.cols) {
      subbyte::throw_error(subbyte::errc::bad_shape, model.name(),
                           "tensor " + subbyte::printable(original.name) +
                               " has another shape than in " + base.name());
    }
    signal.resize(static_cast<std::size_t>(original.cols));
    estimate.resize(signal.size());
    for (index_t r = 0; r < original.rows; ++r) {
      original.read_row(r, signal.data());
      stored.read_row(r, estimate.data());
      sums.add<>(signal, estimate);
    }
  }
  return sums.report();
}

measured open_measured(const std::string& path) {
  measured m;
  m.model = std::make_unique<llama::model>(path);
  m.format = most_used_format(m.model->source());
  for (const llama::stored_weight& t : m.model->source().tensors()) {
    m.cost.merge({t.size(), 0, t.bytes});
  }
  return m;
}

std::vector<llama::token> read_stream(const options& o, const llama::vocabulary& words) {
  if (!o.tokens.empty()) return llama::read_token_file(o.tokens);
  const subbyte::mapped_file file(o.text);
  return llama::tokenizer(words).encode_lines(
      {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()});
}

// JSON has no NaN and no infinity.
nlohmann::ordered_json number(double value) {
  return std::isfinite(value) ? nlohmann::ordered_json(value) : nlohmann::ordered_json(nullptr);
}

nlohmann::ordered_json to_json(const measured& m, bool against_base, bool with_speed) {
  nlohmann::ordered_json j;
  j["file"] = m.model->source().name();
  j["format"] = m.format;
  j["bits_per_weight"] = m.cost.bits_per_weight();
  j["file_bytes"] = m.model->source().size_bytes();
  j["tokens"] = m.score.likelihood.nll.count;
  j["perplexity"] = number(m.score.likelihood.perplexity());
  j["perplexity_standard_error"] = number(m.score.likelihood.standard_error());
  if (against_base) {
    const subbyte::divergence_report d = m.score.divergence.report();
    j["base_perplexity"] = number(d.base_perplexity);
    j["perplexity_ratio"] = number(d.perplexity_ratio);
    j["perplexity_ratio_standard_error"] = number(d.perplexity_ratio_standard_error);
    j["kl_mean"] = number(d.kl);
    j["kl_standard_error"] = number(m.score.window_kl.standard_error());
    j["kl_max"] = number(d.kl_max);
    j["top1_agreement"] = number(d.same_top);
    j["top1_standard_error"] = number(d.same_top_standard_error);
    j["weight_relative_rmse"] = number(m.weights.relative_rmse);
    j["weight_sqnr_db"] = number(m.weights.sqnr_db);
  }
  j["scoring_tokens_per_second"] =
      number(static_cast<double>(m.score.likelihood.nll.count) / m.score.seconds);
  if (with_speed) {
    j["prompt_tokens_per_second"] = number(m.speed.prompt);
    j["generation_tokens_per_second"] = number(m.speed.generation);
  }
  return j;
}

void print_table(const std::vector<measured>& all, bool has_base, bool with_speed) {
  std::printf("%-8s %7s %9s %16s", "format", "bits/w", "bytes", "perplexity");
  if (has_base) {
    std::printf(" %8s %20s %7s %9s %8s", "change", "KL (nats)", "top-1", "rel.RMSE", "SQNR dB");
  }
  if (with_speed) std::printf(" %9s %9s", "prompt/s", "gener./s");
  std::printf("  file\n");
  for (std::size_t i = 0; i < all.size(); ++i) {
    const measured& m = all[i];
    std::printf("%-8s %7.3f %9lld %9.4f ±%5.2f", m.format.c_str(), m.cost.bits_per_weight(),
                static_cast<long long>(m.model->source().size_bytes()),
                m.score.likelihood.perplexity(), m.score.likelihood.standard_error());
    if (has_base && i == 0) {
      std::printf(" %8s %20s %7s %9s %8s", "base", "-", "-", "-", "-");
    } else if (has_base) {
      const subbyte::divergence_report d = m.score.divergence.report();
      std::printf(" %+7.2f%% %10.6f ±%.6f %6.2f%% %9.5f %8.2f", 100 * (d.perplexity_ratio - 1),
                  d.kl, m.score.window_kl.standard_error(), 100 * d.same_top,
                  m.weights.relative_rmse, m.weights.sqnr_db);
    }
    if (with_speed) std::printf(" %9.0f %9.0f", m.speed.prompt, m.speed.generation);
    const std::string path = m.model->source().name();
    std::printf("  %s\n", path.substr(path.rfind('/') + 1).c_str());
  }
}

void write_json(const std::vector<measured>& all, const options& o, const llama::windows& text) {
  const bool has_base = !o.base.empty();
  nlohmann::ordered_json root;
  root["text"] = o.tokens.empty() ? o.text : o.tokens;
  root["windows"] = text.count();
  root["window_tokens"] = text.length();
  root["base"] = has_base ? nlohmann::ordered_json(o.base) : nlohmann::ordered_json(nullptr);
  root["models"] = nlohmann::ordered_json::array();
  for (std::size_t i = 0; i < all.size(); ++i) {
    root["models"].push_back(to_json(all[i], has_base && i > 0, o.speed_seconds > 0));
  }
  const std::string json =
      root.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n";
  if (o.json == "-") {
    std::cout << json;
    return;
  }
  std::ofstream file(o.json, std::ios::binary);
  file << json;
  file.close();
  if (!file) subbyte::throw_error(subbyte::errc::io, o.json, "cannot write");
}

// At most 511 unless asked for: memory grows with the window, by the logits of all its tokens.
llama::windows cut_stream(const options& o, const llama::model& model) {
  const llama::vocabulary words = model.source().read_vocabulary();
  const index_t length =
      o.window > 0 ? o.window : std::clamp<index_t>(model.shape().context - 1, 1, 511);
  return {read_stream(o, words), words.bos, length, o.limit};
}

// As llama.cpp's tool does, without the matrix that makes the logits.
void save_imatrix(const std::string& path, const llama::model& model,
                  const llama::input_list& statistics, const llama::windows& text,
                  const std::string& source) {
  namespace checkpoint = subbyte::checkpoint;
  checkpoint::imatrix data;
  data.datasets = {source};
  data.chunks = text.count();
  data.chunk_size = text.length();
  for (std::size_t i = 0; i < statistics.size(); ++i) {
    const auto& sums = statistics[i].parts().sum_square;
    const double count[] = {static_cast<double>(statistics[i].tokens())};
    for (const std::string& weight : model.inputs()[i].weights) {
      if (weight.substr(0, 4) != "blk.") continue;
      checkpoint::add_to_imatrix<>(
          data, weight, std::span(sums.data(), static_cast<std::size_t>(sums.size())), count);
    }
  }
  constexpr std::string_view legacy = ".dat";
  if (path.size() >= legacy.size() && path.substr(path.size() - legacy.size()) == legacy) {
    checkpoint::write_legacy_imatrix<>(path, data);
  } else {
    checkpoint::write_imatrix<>(path, data);
  }
}

void calibrate(const options& o) {
  if (o.models.size() != 1) {
    subbyte::throw_error(
        subbyte::errc::bad_argument, "models",
        std::to_string(o.models.size()) + "; --calibrate and --imatrix-out take one");
  }
  const llama::model model(o.models.front());
  const llama::windows text = cut_stream(o, model);
  subbyte::thread_pool pool(o.threads);
  subbyte::statistics_options keep;
  keep.hessian = o.with_hessian && !o.calibration.empty();
  keep.sample_rows = o.sample_rows;
  example::cancel_on_interrupt();
  llama::input_list statistics;
  {
    example::progress_bar bar("calibrate");
    statistics =
        llama::collect_statistics(model, text, 0, text.count(), keep, pool, [&](index_t done) {
          example::check_interrupt();
          bar.update(static_cast<double>(done), static_cast<double>(text.count()));
        });
  }
  const std::string& source = o.tokens.empty() ? o.text : o.tokens;
  if (!o.calibration.empty()) llama::save_statistics(o.calibration, model, statistics, source);
  if (!o.imatrix.empty()) save_imatrix(o.imatrix, model, statistics, text, source);

  std::printf("%-28s %8s %9s %9s %6s %11s %11s\n", "input", "channels", "tokens", "per ch.", "dead",
              "mean x^2", "max |x|");
  for (std::size_t i = 0; i < statistics.size(); ++i) {
    const subbyte::input_statistics& s = statistics[i];
    double square = 0;
    float largest = 0;
    for (index_t j = 0; j < s.cols(); ++j) {
      square += s.parts().sum_square(j) / static_cast<double>(s.tokens() * s.cols());
      largest = std::max(largest, s.max_magnitude()[j]);
    }
    std::printf("%-28s %8lld %9lld %9.1f %6lld %11.4g %11.4g\n", model.inputs()[i].name.c_str(),
                static_cast<long long>(s.cols()), static_cast<long long>(s.tokens()), s.coverage(),
                static_cast<long long>(s.dead_channels()), square, static_cast<double>(largest));
  }
}

void measure(const options& o) {
  std::vector<measured> all;
  if (!o.base.empty()) all.push_back(open_measured(o.base));
  for (const std::string& path : o.models) all.push_back(open_measured(path));
  if (all.empty()) {
    subbyte::throw_error(subbyte::errc::bad_argument, "models", "at least one is required");
  }
  const llama::model& first = *all.front().model;
  for (const measured& m : all) {
    if (m.model->shape().vocabulary != first.shape().vocabulary) {
      subbyte::throw_error(subbyte::errc::bad_shape, m.model->source().name(),
                           std::to_string(m.model->shape().vocabulary) + " tokens, and " +
                               first.source().name() + " has " +
                               std::to_string(first.shape().vocabulary));
    }
  }
  const llama::windows text = cut_stream(o, first);
  const index_t length = text.length();
  subbyte::thread_pool pool(o.threads);

  std::vector<const llama::model*> models;
  for (const measured& m : all) models.push_back(m.model.get());
  const bool has_base = !o.base.empty();
  {
    example::progress_bar bar("perplexity");
    const std::vector<llama::stream_score> scores =
        llama::score_stream(models, has_base, text, pool, [&](index_t done, index_t total) {
          bar.update(static_cast<double>(done), static_cast<double>(total));
        });
    for (std::size_t i = 0; i < all.size(); ++i) all[i].score = scores[i];
  }
  for (std::size_t i = 0; i < all.size(); ++i) {
    if (has_base && i > 0) {
      all[i].weights = weight_error(all[0].model->source(), all[i].model->source());
    }
    if (o.speed_seconds > 0) {
      const std::size_t prompt = static_cast<std::size_t>(length + 1) / 2;
      all[i].speed = llama::measure_speed(*all[i].model, text.targets(0).first(prompt),
                                          std::max<index_t>(1, length / 4), o.speed_seconds, pool);
    }
  }
  if (o.json != "-") print_table(all, has_base, o.speed_seconds > 0);
  if (!o.json.empty()) write_json(all, o, text);
}

}  // namespace

int main(int argc, char** argv) {
  options o;
  CLI::App app(
      "Measures Llama models on a text: the stream is cut into windows, and every "
      "token is predicted from bos and the tokens of its window before it.",
      "perplexity");
  app.add_option("models", o.models, "GGUF files, or folders of checkpoints, plain or quantized");
  app.add_option("--base", o.base,
                 "the unquantized model: adds KL divergence, top-1 agreement and "
                 "weight error against it");
  auto* const tokens = app.add_option("--tokens", o.tokens, "token stream, little-endian uint16");
  app.add_option("--text", o.text, "text file, encoded line by line with the model's tokenizer")
      ->excludes(tokens);
  app.add_option("--window", o.window,
                 "tokens per window; 0: the model's context less one, at most 511")
      ->check(CLI::Range(0, 1 << 20))
      ->capture_default_str();
  app.add_option("--windows", o.limit, "use the first so many windows; 0: all")
      ->check(CLI::Range(0, 1 << 30))
      ->capture_default_str();
  app.add_option("--speed", o.speed_seconds, "seconds of speed measurement per model; 0: none")
      ->check(CLI::Range(0.0, 3600.0))
      ->capture_default_str();
  app.add_option("--threads", o.threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  auto* const calibration = app.add_option(
      "--calibrate", o.calibration,
      "measure nothing; write the statistics of every layer's input to this file, which quantize "
      "--calibration reads");
  app.add_flag("!--no-hessian", o.with_hessian,
               "with --calibrate: leave out X^T X, which only GPTQ and AWQ need and which takes "
               "nearly all of the file")
      ->needs(calibration);
  app.add_option("--sample-rows", o.sample_rows,
                 "with --calibrate: keep so many rows of each input itself")
      ->check(CLI::Range(0, 1 << 24))
      ->capture_default_str()
      ->needs(calibration);
  app.add_option(
      "--imatrix-out", o.imatrix,
      "measure nothing; write the importance matrix that quantize --imatrix and llama.cpp "
      "read: GGUF, or the legacy form if the name ends in .dat");
  app.add_option("--json", o.json, "write the figures to this file, too; - : to standard output");
  return example::run(app, argc, argv, [&] {
    if (o.text.empty() && o.tokens.empty()) {
      subbyte::throw_error(subbyte::errc::bad_argument, "text", "--text or --tokens is required");
    }
    if (o.calibration.empty() && o.imatrix.empty()) {
      measure(o);
    } else {
      calibrate(o);
    }
  });
}
