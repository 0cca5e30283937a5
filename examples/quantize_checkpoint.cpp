// SPDX-License-Identifier: Apache-2.0
/// Quantizes a checkpoint: a Hugging Face folder of a Llama model in, a folder of GPTQ, AWQ or
/// compressed-tensors out.
#include <malloc.h>  // mallopt

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <filesystem>
#include <optional>
#include <vector>

#include "calibration_source.hpp"
#include "command_line.hpp"
#include "model_source.hpp"
#include "quantizers.hpp"
#include "subbyte/checkpoint/loader_rules.hpp"
#include "subbyte/checkpoint/names.hpp"
#include "subbyte/exec/thread_pool.hpp"

namespace {

namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;
using checkpoint::gptq_format;
using checkpoint::module_settings;
using example::model_source;
using example::needs;
using example::source_tensor;
using example::target_format;
using subbyte::index_t;

struct options {
  std::string input, output, scheme, method = "rtn";
  std::vector<std::string> calibration;
  int bits = 4, threads = 0;
  index_t group_size = 128;
  bool symmetric = false, asymmetric = false;
  std::uint64_t shard_bytes = 5'000'000'000;
};

const target_format& find_format(int bits, bool symmetric) {
  const std::string name = "int" + std::to_string(bits) + (symmetric ? "s" : "");
  for (const auto* const formats :
       {&example::group_target_formats(), &example::further_group_target_formats()}) {
    for (const target_format& f : *formats) {
      if (f.name == name) return f;
    }
  }
  subbyte::throw_error(subbyte::errc::bad_argument, "--bits",
                       std::to_string(bits) + "; written are 2, 3, 4 and 8");
}

/// How every module is quantized and stored.
struct recipe {
  example::chosen_method method;
  const target_format* format;
  module_settings settings;
  bool symmetric;
};

recipe read_recipe(const options& o) {
  recipe r{example::parse_method(o.method), nullptr, {}, false};
  r.symmetric = o.symmetric || (!o.asymmetric && o.scheme != "awq");
  r.format = &find_format(o.bits, r.symmetric);
  if (!r.format->takes(*r.method.codes)) {
    subbyte::throw_error(subbyte::errc::bad_argument, "method " + o.method,
                         "cannot quantize to integers in groups");
  }
  if (o.group_size != -1 && (o.group_size < 8 || o.group_size % 8 != 0)) {
    subbyte::throw_error(
        subbyte::errc::bad_argument, "--group-size",
        std::to_string(o.group_size) + "; required is a multiple of 8, or -1 for whole rows");
  }
  if (o.scheme == "awq") {
    // Zero points in the middle are zero points too: loaders want the tensor.
    r.settings =
        checkpoint::awq_settings{o.bits, o.group_size, false, checkpoint::awq_version::gemm, false};
  } else if (o.scheme == "compressed-tensors") {
    r.settings = checkpoint::compressed_tensors_settings{o.bits, o.group_size, r.symmetric, false};
  } else if (o.scheme == "gptq" || o.scheme == "gptq_v2") {
    checkpoint::gptq_settings s;
    s.bits = o.bits;
    s.group_size = o.group_size;
    s.symmetric = r.symmetric;
    s.format = o.scheme == "gptq" ? gptq_format::gptq : gptq_format::gptq_v2;
    r.settings = s;
  } else {
    subbyte::throw_error(
        subbyte::errc::bad_argument, "--to",
        subbyte::printable(o.scheme) + "; written are gptq, gptq_v2, awq and compressed-tensors");
  }
  return r;
}

// "model.layers.0.mlp.up_proj" of "blk.0.ffn_up.weight".
std::string module_of(const source_tensor& t) {
  const std::string name = checkpoint::hugging_face_name(t.name).value();
  return name.substr(0, name.size() - std::string_view(".weight").size());
}

// The embedding and the matrix that makes the logits stay.
bool is_quantizable(const source_tensor& t) {
  return t.dims.size() == 2 && t.name.substr(0, 4) == "blk.";
}

checkpoint::quantization_config describe(const recipe& r, bool act_order) {
  checkpoint::quantization_config config;
  config.base = r.settings;
  if (auto* const g = std::get_if<checkpoint::gptq_settings>(&config.base)) {
    g->act_order = act_order;
    config.producer = checkpoint::producer_name();
    return config;
  }
  config.not_converted = {"lm_head"};
  if (const auto* const c = std::get_if<checkpoint::compressed_tensors_settings>(&config.base)) {
    config.groups.push_back({{"Linear"}, *c, act_order ? "group" : "", ""});
  }
  return config;
}

/// What is remembered of a part, for a run that goes on after a kill.
struct part_note {
  bool quantized = false, calibrated = false, act_order = false;
  std::string warning;

  [[nodiscard]] std::string text() const {
    return std::string(quantized ? "q" : "-") + (calibrated ? "c" : "-") + (act_order ? "a" : "-") +
           warning;
  }
  static part_note from(const std::string& text) {
    part_note n;
    if (text.size() < 3) return n;
    n.quantized = text[0] == 'q';
    n.calibrated = text[1] == 'c';
    n.act_order = text[2] == 'a';
    n.warning = text.substr(3);
    return n;
  }
};

// The bytes of floats as a tensor of a plain type.
checkpoint::stored_tensor plain_tensor(const safetensors::tensor& like,
                                       const subbyte::tensor<float, 2>& values) {
  checkpoint::stored_tensor out{std::string(like.name()), like.type(), {}, {}};
  out.shape.assign(like.shape().begin(), like.shape().end());
  const auto put = [&](auto bits) {
    const std::size_t at = out.bytes.size();
    out.bytes.resize(at + sizeof(bits));
    subbyte::store_le(out.bytes.data() + at, bits);
  };
  for (index_t i = 0; i < values.size(); ++i) {
    const float value = values.data()[i];
    float kept = value;
    if (like.type() == safetensors::dtype::f16) {
      const auto h = subbyte::half::nearest(value);
      kept = h.to_float();
      put(subbyte::bit_cast<std::uint16_t>(h));
    } else if (like.type() == safetensors::dtype::bf16) {
      const auto b = subbyte::bfloat16::nearest(value);
      kept = b.to_float();
      put(subbyte::bit_cast<std::uint16_t>(b));
    } else {
      put(subbyte::bit_cast<std::uint32_t>(value));
    }
    if (!std::isfinite(kept)) {
      subbyte::throw_error(subbyte::errc::non_finite, subbyte::printable(like.name()),
                           "a scale folded into it goes beyond " + std::string(like.type_name()));
    }
  }
  return out;
}

class work {
 public:
  work(const options& o, const recipe& r)
      : options_(o),
        recipe_(r),
        source_(o.input),
        model_(example::open_hugging_face_model(o.input)),
        calibration_(o.calibration),
        pool_(o.threads) {
    if (!source_.model_config().is_object()) {
      subbyte::throw_error(subbyte::errc::not_found, o.input,
                           "no config.json: a checkpoint's folder is required");
    }
    if (!source_.modules().empty()) {
      subbyte::throw_error(subbyte::errc::bad_argument, o.input,
                           "is quantized already: transcode gives it another scheme");
    }
    for (const source_tensor& t : model_.tensors) {
      if (!is_quantizable(t)) continue;
      weights_ += t.size();
      if (o.group_size > t.cols()) {
        subbyte::throw_error(subbyte::errc::bad_argument, "--group-size",
                             std::to_string(o.group_size) + "; " + module_of(t) + " has rows of " +
                                 std::to_string(t.cols()) + " (-1 takes whole rows)");
      }
    }
  }

  void run() {
    checkpoint::directory_writer out(options_.output, source_, identity(),
                                     {static_cast<index_t>(options_.shard_bytes)});
    {
      // The parts of an earlier run were made with the same scales: the search gives them again.
      if (recipe_.method.scaled) search_scales();
      example::progress_bar bar("quantize");
      for (const source_tensor& t : model_.tensors) {
        const bool norm =
            recipe_.method.scaled && t.dims.size() == 1 && example::folded_scales::touches(t.name);
        if (norm || is_quantizable(t)) make_part(t, out, bar);
      }
      auto copying = [&](double share) {
        bar.update(0.9 + 0.1 * share, 1);
        return example::interrupted == 0;
      };
      out.finish(describe(recipe_, act_order_), copying);
    }
    report();
  }

 private:
  // Of everything that decides what the parts hold.
  [[nodiscard]] std::string identity() const {
    std::string text = checkpoint::producer_name() + " quantize " + options_.method + ' ' +
                       std::to_string(options_.shard_bytes) + '\n' + options_.scheme + ' ' +
                       describe(recipe_, false).to_json().to_text();
    for (const std::string& path : options_.calibration) {
      const auto written = std::filesystem::last_write_time(path).time_since_epoch().count();
      text += '\n' + std::filesystem::absolute(path).lexically_normal().string() + ' ' +
              std::to_string(std::filesystem::file_size(path)) + ' ' + std::to_string(written);
    }
    return text;
  }

  void check_interrupt() const {
    if (example::interrupted == 0) return;
    subbyte::throw_error(subbyte::errc::cancelled, options_.output,
                         "interrupted; the same command goes on from here");
  }

  void search_scales() {
    example::progress_bar bar("search scales");
    scales_.search(
        model_, calibration_,
        [&](const source_tensor&) -> const target_format& { return *recipe_.format; }, pool_,
        [&](index_t done, index_t layers) {
          check_interrupt();
          bar.update(static_cast<double>(done), static_cast<double>(layers));
        });
  }

  void make_part(const source_tensor& t, checkpoint::directory_writer& out,
                 example::progress_bar& bar) {
    const std::string module = module_of(t);
    part_note note;
    if (out.has_part(module)) {
      note = part_note::from(out.part_note(module));
      ++found_;
    } else {
      check_interrupt();
      // Rows stay in the checkpoint's order: methods treat each on its own.
      subbyte::tensor<float, 2> w = source_.load_weight(module);
      scales_.apply(t, 0, t.rows(), w.data());
      if (is_quantizable(t)) {
        const auto progress = [&](double share) {
          bar.update((static_cast<double>(done_) + share * static_cast<double>(t.size())) * 0.9,
                     static_cast<double>(weights_));
          return example::interrupted == 0;
        };
        const subbyte::group_codes codes = quantize(t, module, w, note, progress);
        out.write_part(module, checkpoint::store_module(codes, module, recipe_.settings),
                       note.text());
      } else {
        out.write_part(module, {plain_tensor(source_.file().tensor(module + ".weight"), w)},
                       note.text());
      }
    }
    if (is_quantizable(t)) {
      done_ += t.size();
      ++modules_;
      calibrated_ += note.calibrated ? 1 : 0;
    }
    act_order_ = act_order_ || note.act_order;
    if (!note.warning.empty()) warnings_.push_back(note.warning);
    bar.update(static_cast<double>(done_) * 0.9, static_cast<double>(weights_));
  }

  subbyte::group_codes quantize(const source_tensor& t, const std::string& module,
                                const subbyte::tensor<float, 2>& w, part_note& note,
                                subbyte::progress_ref progress) {
    static const example::method nearest{"rtn", needs::nothing, ""};
    const example::method* how = recipe_.method.codes;
    std::optional<example::known_input> input;
    if (recipe_.method.data() != needs::nothing) {
      const subbyte::input_statistics& statistics = calibration_.statistics_of(t.name);
      if (statistics.tokens() == 0) {
        how = &nearest;
        note.warning = module + ": no token reached it in calibration; rounded to nearest";
      } else {
        if (statistics.cols() != t.cols()) {
          subbyte::throw_error(subbyte::errc::bad_shape, subbyte::printable(module),
                               std::to_string(t.cols()) +
                                   " columns, and the calibration file has " +
                                   std::to_string(statistics.cols()) + " channels");
        }
        if (statistics.coverage() < 1) {
          note.warning = module + ": " + std::to_string(statistics.tokens()) +
                         " tokens of calibration for " + std::to_string(statistics.cols()) +
                         " channels; more are better";
        }
        note.calibrated = true;
        input.emplace(statistics, scales_.scale_of(t.name));
      }
    }
    try {
      const index_t group = options_.group_size == -1 ? t.cols() : options_.group_size;
      const example::layer_task task{w.view(), input ? &*input : nullptr, group, pool_, progress};
      example::quantized_layer made = recipe_.format->quantize(*how, task, false);
      note.quantized = true;
      note.act_order = !made.codes->sequential();
      if (note.act_order && options_.scheme == "compressed-tensors") {
        subbyte::throw_error(subbyte::errc::bad_argument, how->name,
                             "the columns are not in order of their groups (act-order), which "
                             "compressed-tensors refuses in version 0.20; gptq can hold it");
      }
      if (made.report.fell_back) {
        note.warning = module + ": " + how->name + " fell back, with a damp of " +
                       std::to_string(made.report.damp);
      }
      return std::move(*made.codes);
    } catch (const subbyte::error& problem) {
      if (problem.code() == subbyte::errc::cancelled) check_interrupt();
      subbyte::throw_error(problem.code(), subbyte::printable(module), problem.what());
    }
  }

  void report() const {
    const checkpoint::directory written(options_.output);
    index_t bytes = 0, weights = 0;
    for (const checkpoint::quantized_module& m : written.modules()) {
      const subbyte::matrix_shape shape = written.shape_of(m.name);
      weights += shape.rows * shape.cols;
      for (const std::string_view part : m.tensors) {
        bytes += static_cast<index_t>(written.file().tensor(part).bytes().size());
      }
    }
    std::printf("%s: %lld modules, %lld weights, %.4f bits per weight with scales and indices\n",
                options_.method.c_str(), static_cast<long long>(modules_),
                static_cast<long long>(weights),
                8 * static_cast<double>(bytes) / static_cast<double>(weights));
    if (found_ > 0) {
      std::printf("%lld parts were there from an earlier run\n", static_cast<long long>(found_));
    }
    if (recipe_.method.data() != needs::nothing) {
      std::printf("%lld modules with calibration, %lld without\n",
                  static_cast<long long>(calibrated_),
                  static_cast<long long>(modules_ - calibrated_));
    }
    for (const std::string& warning : warnings_) std::printf("warning: %s\n", warning.c_str());
    for (const auto& v : checkpoint::judge_directory(written)) {
      if (v.verdict.accepted) {
        std::printf("%s: takes it, by its rules\n", checkpoint::name_of(v.which));
      } else {
        std::printf("%s: refuses %s: %s\n", checkpoint::name_of(v.which), v.module.c_str(),
                    v.verdict.reason.c_str());
      }
    }
  }

  const options& options_;
  const recipe& recipe_;
  checkpoint::directory source_;
  model_source model_;
  example::calibration_source calibration_;
  example::folded_scales scales_;
  subbyte::thread_pool pool_;
  index_t weights_ = 0, done_ = 0;
  index_t modules_ = 0, calibrated_ = 0, found_ = 0;
  bool act_order_ = false;
  std::vector<std::string> warnings_;
};

}  // namespace

int main(int argc, char** argv) {
  options o;
  CLI::App app(
      "Quantizes the linear layers of a Llama checkpoint: a Hugging Face folder in, a folder of "
      "the same model out, which other programs load. Embedding, output layer and norms stay.",
      "quantize_checkpoint");
  app.add_option("input", o.input, "folder with config.json and safetensors")->required();
  app.add_option("output", o.output,
                 "new folder; a run that was interrupted goes on when it is started again")
      ->required();
  app.add_option("-t,--to", o.scheme, "gptq, gptq_v2 (zero points of 0), awq, compressed-tensors")
      ->required();
  app.add_option("--bits", o.bits, "2, 3, 4 or 8")->capture_default_str();
  app.add_option("--group-size", o.group_size, "columns that share a scale; -1: whole rows")
      ->capture_default_str();
  app.add_flag("--symmetric", o.symmetric, "no zero points (default, but for awq)");
  app.add_flag("--asymmetric", o.asymmetric, "zero points (default for awq)")
      ->excludes("--symmetric");
  std::string known;
  for (const example::method& m : example::methods()) known += "\n  " + m.name + ": " + m.what;
  app.add_option("-m,--method", o.method,
                 "awq, awq+METHOD (which fold scales into norms and preceding matrices first), or "
                 "METHOD of" +
                     known)
      ->capture_default_str();
  app.add_option("--calibration", o.calibration,
                 "files of perplexity --calibrate; several are added up");
  app.add_option("--max-shard-size", o.shard_bytes, "of the weights' files (5G, 500M; 0: one file)")
      ->transform(CLI::AsSizeValue(true));
  app.add_option("--threads", o.threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  return example::run(app, argc, argv, [&] {
    const recipe r = read_recipe(o);
    if (r.method.data() != needs::nothing && o.calibration.empty()) {
      subbyte::throw_error(subbyte::errc::bad_argument, "method " + o.method,
                           "--calibration is required");
    }
    if (o.shard_bytes > std::uint64_t{1} << 62) {
      subbyte::throw_error(subbyte::errc::bad_argument, "--max-shard-size", "beyond 2^62 bytes");
    }
    example::cancel_on_interrupt();
#if defined(__GLIBC__)
    ::mallopt(M_MMAP_THRESHOLD, 1 << 20);  // one tensor's memory goes back before the next
#endif
    work(o, r).run();
  });
}
