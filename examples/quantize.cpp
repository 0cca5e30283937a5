// SPDX-License-Identifier: Apache-2.0
/// Quantizes a model: safetensors or GGUF in, GGUF out.
#include <malloc.h>  // mallopt

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <vector>

#include "calibration_source.hpp"
#include "command_line.hpp"
#include "model_source.hpp"
#include "quantize_plan.hpp"
#include "quantizers.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/metrics/cost.hpp"

namespace {

using example::chosen_method;
using example::find_block_format;
using example::format_choice;
using example::is_quantizable;
using example::model_source;
using example::needs;
using example::plan_entry;
using example::source_tensor;
using example::target_format;
using subbyte::index_t;
namespace gguf = subbyte::gguf;

// Source  general.file_type of llama.cpp; where it names mixtures of several sizes, the smallest,
//         which is nearest to one format for all.
std::uint32_t file_type(const format_choice& choice) {
  static const std::map<std::string, std::uint32_t> numbers = {
      {"f32", 0},     {"f16", 1},     {"q4_0", 2},  {"q4_1", 3},   {"q8_0", 7},   {"q5_0", 8},
      {"q5_1", 9},    {"q2_k", 10},   {"q3_k", 11}, {"q4_k", 14},  {"q5_k", 16},  {"q6_k", 18},
      {"iq4_nl", 25}, {"iq4_xs", 30}, {"bf16", 32}, {"mxfp4", 38}, {"tq1_0", 36}, {"tq2_0", 37}};
  constexpr std::uint32_t guessed = 1024;  // llama.cpp's mark for "look at the tensors"
  const bool mixed =
      !choice.planned.empty() || choice.attention != nullptr || choice.feed_forward != nullptr;
  const auto found = numbers.find(choice.format->name);
  return mixed || found == numbers.end() ? guessed : found->second;
}

std::string shape_text(const source_tensor& t) {
  std::string text;
  for (auto d = t.dims.rbegin(); d != t.dims.rend(); ++d) {
    text += (text.empty() ? "" : " x ") + std::to_string(*d);
  }
  return text.empty() ? "1" : text;
}

void print_tensor_table(const std::vector<plan_entry>& plan) {
  std::printf("%-32s %-16s %-8s %-8s %14s\n", "tensor", "shape", "from", "to", "bytes");
  for (const plan_entry& e : plan) {
    std::printf("%-32s %-16s %-8s %-8s %14lld%s\n", subbyte::printable(e.tensor->name).c_str(),
                shape_text(*e.tensor).c_str(), e.tensor->type_name.c_str(), e.type_name().c_str(),
                static_cast<long long>(e.bytes()),
                e.fell_back ? "  (rows do not divide into blocks)" : "");
  }
}

void print_totals(const model_source& model, const std::vector<plan_entry>& plan) {
  struct total {
    index_t tensors = 0, weights = 0, bytes = 0;
  };
  std::map<std::string, total> formats;
  total all;
  index_t fallen_back = 0;
  for (const plan_entry& e : plan) {
    for (total* t : {&formats[e.type_name()], &all}) {
      t->tensors += 1;
      t->weights += e.tensor->size();
      t->bytes += e.bytes();
    }
    fallen_back += e.fell_back ? 1 : 0;
  }
  const auto line = [](const char* name, const total& t) {
    const subbyte::storage_cost cost{t.weights, 0, t.bytes};
    std::printf("%-8s %8lld %16lld %16lld %10.4f\n", name, static_cast<long long>(t.tensors),
                static_cast<long long>(t.weights), static_cast<long long>(t.bytes),
                cost.bits_per_weight());
  };
  std::printf("%-8s %8s %16s %16s %10s\n", "format", "tensors", "weights", "bytes", "bits/w");
  for (const auto& [name, t] : formats) line(name.c_str(), t);
  line("all", all);
  std::printf("the source's tensors take %lld bytes\n", static_cast<long long>(model.stored_bytes));
  if (fallen_back > 0) {
    std::printf("%lld tensors have rows that do not divide into blocks, and got another format\n",
                static_cast<long long>(fallen_back));
  }
}

/// How matrices are quantized, and what came of it.
struct quantizing {
  chosen_method method;
  example::calibration_source calibration;
  example::folded_scales scales;
  std::vector<std::string> notes;
  index_t calibrated = 0, uncalibrated = 0;
};

/// One tensor to be quantized, with what is known of its input.
struct layer {
  const target_format* format;
  const example::method* method;
  std::optional<example::known_input> input;
};

// Float formats, stacks of experts and inputs that saw no token are left to the format's own tool.
layer prepare(const plan_entry& e, quantizing& how) {
  static const example::method own{"reference", needs::nothing, ""};
  layer prepared{e.format, how.method.codes, std::nullopt};
  const source_tensor& t = *e.tensor;
  const bool floats = e.format->block_size == 1;
  if (!is_quantizable(t) || t.dims.size() > 2 || floats) {
    prepared.method = &own;
    return prepared;
  }
  if (how.method.data() == needs::nothing) return prepared;
  const subbyte::input_statistics& statistics = how.calibration.statistics_of(t.name);
  if (statistics.tokens() == 0) {
    prepared.method = &own;
    ++how.uncalibrated;
    how.notes.push_back("warning: " + subbyte::printable(t.name) +
                        ": no token reached it in calibration; quantized without");
    return prepared;
  }
  if (statistics.cols() != t.cols()) {
    subbyte::throw_error(subbyte::errc::bad_shape, subbyte::printable(t.name),
                         std::to_string(t.cols()) + " columns, and the calibration file has " +
                             std::to_string(statistics.cols()) + " channels");
  }
  if (statistics.coverage() < 1) {
    how.notes.push_back("warning: " + subbyte::printable(t.name) + ": " +
                        std::to_string(statistics.tokens()) + " tokens of calibration for " +
                        std::to_string(statistics.cols()) + " channels; more are better");
  }
  ++how.calibrated;
  prepared.input.emplace(statistics, how.scales.scale_of(t.name));
  return prepared;
}

// Rows [first, first + count) as the next bytes of the declared tensor.
void write_rows(const source_tensor& t, index_t first, index_t count, const layer& how,
                quantizing& all, std::vector<float>& floats, gguf::split_writer& out,
                subbyte::executor_ref executor, subbyte::progress_ref progress) {
  floats.resize(static_cast<std::size_t>(count * t.cols()));
  t.read(first, count, floats.data());
  all.scales.apply(t, first, count, floats.data());
  try {
    const subbyte::matrix_view<const float> rows(floats.data(), count, t.cols());
    const example::layer_task task{rows, how.input ? &*how.input : nullptr, 0, executor, progress};
    const example::quantized_layer made = how.format->quantize(*how.method, task, false);
    out.write(t.name, made.blocks);
    if (made.report.fell_back) {
      all.notes.push_back("warning: " + subbyte::printable(t.name) + ": " + how.method->name +
                          " fell back, with a damp of " + std::to_string(made.report.damp));
    }
  } catch (const subbyte::error& problem) {
    if (problem.code() == subbyte::errc::non_finite) {
      subbyte::throw_error(problem.code(), subbyte::printable(t.name),
                           "counted from row " + std::to_string(first) + ", " + problem.what());
    }
    if (problem.code() == subbyte::errc::cancelled) example::check_interrupt();
    subbyte::throw_error(problem.code(), subbyte::printable(t.name), problem.what());
  }
}

void search_scales(const model_source& model, const std::vector<plan_entry>& plan, quantizing& how,
                   subbyte::executor_ref executor) {
  std::map<std::string, const target_format*> formats;
  for (const plan_entry& e : plan) formats.emplace(e.tensor->name, e.format);
  example::progress_bar bar("search scales");
  how.scales.search(
      model, how.calibration,
      [&](const source_tensor& t) -> const target_format& { return *formats.at(t.name); }, executor,
      [&](index_t done, index_t layers) {
        example::check_interrupt();
        bar.update(static_cast<double>(done), static_cast<double>(layers));
      });
}

// The mix, planned with the losses of the method that will write it.
void plan_mix(const model_source& model, const example::mix_request& request,
              const std::vector<std::string>& calibration_files, quantizing& how,
              subbyte::executor_ref executor, format_choice& choice) {
  quantizing trials{how.method, example::calibration_source(calibration_files), {}, {}};
  const auto quantize = [&](const source_tensor& t, const target_format& format) {
    const layer prepared = prepare({&t, &format, false}, trials);
    subbyte::tensor<float, 2> floats(subbyte::uninitialized, t.rows(), t.cols());
    t.read(0, t.rows(), floats.data());
    const auto go_on = [](double) { return example::interrupted == 0; };
    const example::layer_task task{std::as_const(floats).view(),
                                   prepared.input ? &*prepared.input : nullptr, 0, executor, go_on};
    try {
      return format.quantize(*prepared.method, task, true).decoded;
    } catch (const subbyte::error& problem) {
      example::check_interrupt();
      subbyte::throw_error(problem.code(), subbyte::printable(t.name), problem.what());
    }
  };
  example::plan_mix(model, request, how.calibration, quantize, executor, choice);
}

void write_model(const model_source& model, const std::vector<plan_entry>& plan,
                 const format_choice& choice, const std::string& path,
                 const gguf::split_options& split, quantizing& how,
                 subbyte::executor_ref executor) {
  gguf::split_writer out(path, split);
  model.write_metadata(out, file_type(choice));
  index_t total = 0, done = 0;
  for (const plan_entry& e : plan) {
    const std::uint32_t type = e.format != nullptr ? *e.format->gguf_type : *e.tensor->gguf_type;
    out.declare(e.tensor->name, e.tensor->dims, type, e.bytes());
    total += e.tensor->size();
  }
  for (index_t i = 0; i < out.shard_count(); ++i) {
    std::error_code ignored;  // a file that does not exist yet is no input
    for (const std::string& file : model.files) {
      if (!std::filesystem::equivalent(file, out.shard_path(i), ignored)) continue;
      subbyte::throw_error(subbyte::errc::bad_argument, out.shard_path(i),
                           "is also the input; write to another file");
    }
  }
  example::progress_bar bar("quantize to " +
                            (choice.planned.empty() ? choice.format->name : "a mix"));
  std::vector<float> floats;
  for (const plan_entry& e : plan) {
    const source_tensor& t = *e.tensor;
    if (e.format == nullptr) {
      out.write(t.name, t.bytes);
    } else {
      // Slabs of rows: memory does not grow with the tensor. Feeding errors back starts with work
      // that is the same for all rows, and is done for all at once.
      const layer prepared = prepare(e, how);
      constexpr index_t slab = index_t{1} << 22;
      const index_t rows_at_once =
          prepared.method->data == needs::hessian
              ? std::max<index_t>(1, t.rows())
              : std::max<index_t>(1, slab / std::max<index_t>(1, t.cols()));
      for (index_t first = 0; first < t.rows(); first += rows_at_once) {
        example::check_interrupt();
        const index_t count = std::min(rows_at_once, t.rows() - first);
        const double before = static_cast<double>(done + first * t.cols());
        const auto report = [&](double fraction) {
          bar.update(before + fraction * static_cast<double>(count * t.cols()),
                     static_cast<double>(total));
          return example::interrupted == 0;
        };
        write_rows(t, first, count, prepared, how, floats, out, executor, report);
        bar.update(before, static_cast<double>(total));
      }
    }
    done += t.size();
    bar.update(static_cast<double>(done), static_cast<double>(total));
  }
  example::check_interrupt();
  out.finish();
}

// What a mix needs besides its own figures.
void check_mix(const example::mix_request& mix, const quantizing& how) {
  const auto refuse = [](const char* subject, const std::string& message) {
    subbyte::throw_error(subbyte::errc::bad_argument, subject, message);
  };
  const char* const limit = mix.max_kl > 0 ? "--max-kl" : "--target-bpw";
  if (how.calibration.empty()) refuse(limit, "--calibration is required");
  if (how.method.scaled) {
    refuse(limit, "method " + how.method.name +
                      " changes the weights of several tensors at once; a mix is planned tensor by "
                      "tensor (gptq, imatrix, ...)");
  }
  if (mix.max_kl > 0 && mix.tokens.empty()) refuse(limit, "--tokens is required");
  for (const std::string& name : mix.candidates) {
    const target_format& format = find_block_format(name);
    if (format.block_size > 1 && !format.takes(*how.method.codes)) {
      refuse("--candidates", how.method.name + " cannot quantize to " + format.name);
    }
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string input, output, format_name = "q4_k", output_format_name, method_name = "reference";
  std::string attention_name, feed_forward_name;
  example::mix_request mix;
  std::vector<std::string> calibration_files;
  int threads = 0;
  bool dry_run = false, allow_requantize = false;
  gguf::split_options split;
  std::uint64_t split_bytes = 0;
  CLI::App app(
      "Quantizes every matrix of a model to one format or to a planned mix; vectors and norms "
      "stay.",
      "quantize");
  app.add_option("input", input,
                 "GGUF file (of a split one any shard), safetensors file, or folder of a Llama "
                 "checkpoint")
      ->required();
  app.add_option("output", output, "GGUF file to write (not needed with --dry-run)");
  auto* const format_option = app.add_option("-f,--format", format_name,
                                             "any format of the registry that GGUF has an id for")
                                  ->capture_default_str();
  app.add_option("--output-format", output_format_name,
                 "format of the matrix that makes the logits: output.weight, or token_embd.weight "
                 "where there is none (llama.cpp's recipes use q6_k); default: as --format");
  app.add_option("--attention", attention_name, "format of attn_*; default: as --format");
  app.add_option("--feed-forward", feed_forward_name, "format of ffn_*; default: as --format");
  auto* const target =
      app.add_option("--target-bpw", mix.target_bits,
                     "plan a mix of so many bits per weight, over all matrices that are quantized, "
                     "with the least predicted loss; needs --calibration")
          ->check(CLI::PositiveNumber)
          ->excludes(format_option);
  app.add_option("--max-kl", mix.max_kl,
                 "plan the smallest mix whose KL divergence from the original, in nats per "
                 "token of --tokens, is at most so large; needs --calibration")
      ->check(CLI::PositiveNumber)
      ->excludes(format_option, target);
  app.add_option("--candidates", mix.candidates, "formats that a mix may use")
      ->delimiter(',')
      ->capture_default_str();
  app.add_option("--tokens", mix.tokens,
                 "16-bit token stream, of calibration text, that a mix is measured on: each matrix "
                 "alone, and whole plans for --max-kl");
  app.add_option("--windows", mix.windows, "use its first so many windows")
      ->check(CLI::Range(1, 1 << 30))
      ->capture_default_str();
  std::string known;
  for (const example::method& m : example::methods()) known += "\n  " + m.name + ": " + m.what;
  app.add_option("-m,--method", method_name,
                 "awq, awq+METHOD (which fold scales into norms and preceding matrices first), or "
                 "METHOD of" +
                     known)
      ->capture_default_str();
  app.add_option("--calibration", calibration_files,
                 "files of perplexity --calibrate; several are added up");
  app.add_option("--threads", threads, "0: one per hardware thread")
      ->check(CLI::Range(0, 1024))
      ->capture_default_str();
  app.add_option("--split-max-size", split_bytes,
                 "write shards NAME-00001-of-0000N.gguf with tensors of at most so many bytes "
                 "(2G, 500M)")
      ->transform(CLI::AsSizeValue(true));
  app.add_option("--split-max-tensors", split.max_shard_tensors, "the same by number of tensors")
      ->check(CLI::Range(1, 1 << 30));
  app.add_flag("--no-tensor-first-split", split.first_without_tensors,
               "the first shard holds the metadata only");
  app.add_flag("--dry-run", dry_run, "print what every tensor would become, write nothing");
  app.add_flag("--allow-requantize", allow_requantize, "quantize quantized tensors again");
  return example::run(app, argc, argv, [&] {
    const auto format_or = [](const std::string& name, const target_format* otherwise) {
      return name.empty() ? otherwise : &find_block_format(name);
    };
    format_choice choice;
    choice.format = &find_block_format(format_name);
    quantizing how{
        example::parse_method(method_name), example::calibration_source(calibration_files), {}, {}};
    if (how.method.data() != needs::nothing && how.calibration.empty()) {
      subbyte::throw_error(subbyte::errc::bad_argument, "method " + method_name,
                           "--calibration is required");
    }
    if (output.empty() && !dry_run) {
      subbyte::throw_error(subbyte::errc::bad_argument, "output", "a file to write is required");
    }
    choice.attention = format_or(attention_name, nullptr);
    choice.feed_forward = format_or(feed_forward_name, nullptr);
    choice.output = format_or(output_format_name, mix.wanted() ? nullptr : choice.format);
    if (mix.wanted()) check_mix(mix, how);
    if (split_bytes > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
      subbyte::throw_error(subbyte::errc::bad_argument, "--split-max-size", "beyond 2^63 bytes");
    }
    split.max_shard_bytes = static_cast<index_t>(split_bytes);
    const model_source model = example::open_model(input);
    example::cancel_on_interrupt();
#if defined(__GLIBC__)
    // Slabs go back to the system when they are freed. glibc would soon keep them on its heap,
    // where each new one misses the hole of the last by a few bytes and memory grows with the
    // model.
    ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
    subbyte::thread_pool pool(threads);
    if (mix.wanted()) {
      mix.model = input;
      plan_mix(model, mix, calibration_files, how, pool, choice);
    }
    const std::vector<plan_entry> plan =
        example::make_plan(model, choice, allow_requantize, how.method.scaled);
    if (dry_run) {
      print_tensor_table(plan);
    } else {
      if (how.method.scaled) search_scales(model, plan, how, pool);
      write_model(model, plan, choice, output, split, how, pool);
    }
    print_totals(model, plan);
    if (how.method.data() != needs::nothing && !dry_run) {
      std::printf("%s: %lld matrices with calibration, %lld without\n", method_name.c_str(),
                  static_cast<long long>(how.calibrated), static_cast<long long>(how.uncalibrated));
    }
    for (const std::string& note : how.notes) std::printf("%s\n", note.c_str());
    for (const std::string& note : model.notes) std::printf("%s\n", note.c_str());
  });
}
