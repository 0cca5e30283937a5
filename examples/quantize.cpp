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
#include "quantizers.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/metrics/cost.hpp"

namespace {

using example::chosen_method;
using example::model_source;
using example::needs;
using example::source_tensor;
using example::target_format;
using subbyte::index_t;
namespace gguf = subbyte::gguf;

bool fits(const target_format& f, const source_tensor& t) { return t.cols() % f.block_size == 0; }

index_t stored_bytes(const target_format& f, const source_tensor& t) {
  return t.size() / f.block_size * f.block_bytes;
}

const target_format& find_format(const std::string& name) {
  std::string known;
  for (const target_format& f : example::block_target_formats()) {
    if (subbyte::same_format_name(f.name.c_str(), name.c_str())) return f;
    known += std::string(known.empty() ? "" : " ") + f.name;
  }
  subbyte::throw_error(subbyte::errc::bad_argument, "format \"" + name + "\"",
                       "a GGUF file can hold " + known);
}

// Source  general.file_type of llama.cpp; where it names mixtures of several sizes, the smallest,
//         which is nearest to one format for all.
std::uint32_t file_type(const target_format& format) {
  static const std::map<std::string, std::uint32_t> numbers = {
      {"f32", 0},     {"f16", 1},     {"q4_0", 2},  {"q4_1", 3},  {"q8_0", 7},  {"q5_0", 8},
      {"q5_1", 9},    {"q2_k", 10},   {"q3_k", 11}, {"q4_k", 14}, {"q5_k", 16}, {"q6_k", 18},
      {"iq4_nl", 25}, {"iq4_xs", 30}, {"bf16", 32}, {"mxfp4", 38}};
  const auto found = numbers.find(format.name);
  constexpr std::uint32_t guessed = 1024;  // llama.cpp's mark for "look at the tensors"
  return found == numbers.end() ? guessed : found->second;
}

// Matrices are quantized; vectors, norms and a router of experts are not.
bool is_quantizable(const source_tensor& t) {
  const auto ends_with = [&](std::string_view end) {
    return t.name.size() >= end.size() && t.name.substr(t.name.size() - end.size()) == end;
  };
  return t.dims.size() >= 2 && ends_with("weight") && !ends_with("_norm.weight") &&
         !ends_with("ffn_gate_inp.weight");
}

// The format for rows that the wanted one cannot divide into blocks.
// Source  llama.cpp's llama-quantize.
const target_format& fall_back(const target_format& wanted, const source_tensor& t) {
  static const std::map<std::string, std::string> next = {{"iq4_xs", "iq4_nl"}, {"q2_k", "q4_0"},
                                                          {"q3_k", "q4_0"},     {"q4_k", "q5_0"},
                                                          {"q5_k", "q5_1"},     {"q6_k", "q8_0"}};
  const target_format* format = &wanted;
  if (const auto found = next.find(wanted.name); !fits(wanted, t) && found != next.end()) {
    format = &find_format(found->second);
  }
  return fits(*format, t) ? *format : find_format("f16");
}

// The matrix that makes the logits: errors there reach the output directly.
const source_tensor* find_output(const model_source& model) {
  const source_tensor* embedding = nullptr;
  for (const source_tensor& t : model.tensors) {
    if (t.name == "output.weight") return &t;
    if (t.name == "token_embd.weight") embedding = &t;
  }
  return embedding;  // used for both
}

/// What becomes of one tensor: a null format means that its bytes are copied.
struct plan_entry {
  const source_tensor* tensor;
  const target_format* format;
  bool fell_back;

  [[nodiscard]] index_t bytes() const {
    return format != nullptr ? stored_bytes(*format, *tensor)
                             : static_cast<index_t>(tensor->bytes.size());
  }
  [[nodiscard]] std::string type_name() const {
    return format != nullptr ? format->name : tensor->type_name;
  }
};

std::vector<plan_entry> make_plan(const model_source& model, const target_format& most,
                                  const target_format& output, bool allow_requantize, bool scaled) {
  std::vector<plan_entry> plan;
  const source_tensor* const output_tensor = find_output(model);
  for (const source_tensor& t : model.tensors) {
    const bool chosen = is_quantizable(t);
    const target_format& wanted = &t == output_tensor ? output : most;
    const target_format& format = chosen ? fall_back(wanted, t) : find_format("f32");
    const bool changed = scaled && example::folded_scales::touches(t.name);
    const bool same = t.gguf_type && !changed && (!chosen || *t.gguf_type == format.gguf_type);
    if (!same && t.lossy && !allow_requantize) {
      subbyte::throw_error(subbyte::errc::bad_argument, t.name,
                           "is " + t.type_name +
                               " already; quantizing it again loses more than "
                               "quantizing the original (--allow-requantize does it)");
    }
    plan.push_back({&t, same ? nullptr : &format, chosen && &format != &wanted});
  }
  return plan;
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

void write_model(const model_source& model, const std::vector<plan_entry>& plan,
                 const target_format& wanted, const std::string& path,
                 const gguf::split_options& split, quantizing& how,
                 subbyte::executor_ref executor) {
  gguf::split_writer out(path, split);
  model.write_metadata(out, file_type(wanted));
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
  example::progress_bar bar(std::string("quantize to ") + wanted.name);
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

}  // namespace

int main(int argc, char** argv) {
  std::string input, output, format_name = "q4_k", output_format_name, method_name = "reference";
  std::vector<std::string> calibration_files;
  int threads = 0;
  bool dry_run = false, allow_requantize = false;
  gguf::split_options split;
  std::uint64_t split_bytes = 0;
  CLI::App app(
      "Quantizes every matrix of a model to one format; vectors and norms stay as they are.",
      "quantize");
  app.add_option("input", input,
                 "GGUF file (of a split one any shard), safetensors file, or folder of a Llama "
                 "checkpoint")
      ->required();
  app.add_option("output", output, "GGUF file to write (not needed with --dry-run)");
  app.add_option("-f,--format", format_name, "any format of the registry that GGUF has an id for")
      ->capture_default_str();
  app.add_option("--output-format", output_format_name,
                 "format of the matrix that makes the logits: output.weight, or token_embd.weight "
                 "where there is none (llama.cpp's recipes use q6_k); default: as --format");
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
    const target_format& format = find_format(format_name);
    quantizing how{
        example::parse_method(method_name), example::calibration_source(calibration_files), {}, {}};
    if (how.method.data() != needs::nothing && how.calibration.empty()) {
      subbyte::throw_error(subbyte::errc::bad_argument, "method " + method_name,
                           "--calibration is required");
    }
    if (output.empty() && !dry_run) {
      subbyte::throw_error(subbyte::errc::bad_argument, "output", "a file to write is required");
    }
    const target_format& output_format =
        output_format_name.empty() ? format : find_format(output_format_name);
    if (split_bytes > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
      subbyte::throw_error(subbyte::errc::bad_argument, "--split-max-size", "beyond 2^63 bytes");
    }
    split.max_shard_bytes = static_cast<index_t>(split_bytes);
    const model_source model = example::open_model(input);
    const std::vector<plan_entry> plan =
        make_plan(model, format, output_format, allow_requantize, how.method.scaled);
    if (dry_run) {
      print_tensor_table(plan);
    } else {
      example::cancel_on_interrupt();
#if defined(__GLIBC__)
      // Slabs go back to the system when they are freed. glibc would soon keep them on its heap,
      // where each new one misses the hole of the last by a few bytes and memory grows with the
      // model.
      ::mallopt(M_MMAP_THRESHOLD, 1 << 20);
#endif
      subbyte::thread_pool pool(threads);
      if (how.method.scaled) search_scales(model, plan, how, pool);
      write_model(model, plan, format, output, split, how, pool);
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
