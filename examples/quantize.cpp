// SPDX-License-Identifier: Apache-2.0
/// Quantizes a model: safetensors or GGUF in, GGUF out.
#include <malloc.h>  // mallopt

#include <algorithm>
#include <cstdio>
#include <filesystem>
#include <limits>
#include <map>
#include <utility>
#include <vector>

#include "calibration_source.hpp"
#include "command_line.hpp"
#include "model_source.hpp"
#include "quantize_plan.hpp"
#include "quantizers.hpp"
#include "subbyte/checkpoint/imatrix.hpp"
#include "subbyte/checkpoint/recipe.hpp"
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
namespace checkpoint = subbyte::checkpoint;
namespace gguf = subbyte::gguf;

// llama.cpp writes the number of the recipe, whatever the changes to it.
std::uint32_t file_type_of(const format_choice& choice, bool by_recipe) {
  const auto& options = choice.options;
  const bool mixed = !options.named.empty() || (!by_recipe && !options.overrides.empty());
  return static_cast<std::uint32_t>(mixed ? checkpoint::file_type::guessed : choice.recipe.id);
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
  std::string imatrix_path;
  checkpoint::imatrix imatrix;
  example::folded_scales scales;
  std::vector<std::string> notes;
  index_t calibrated = 0, uncalibrated = 0;
};

/// One tensor to be quantized, with what is known of its inputs: one input, or one for each of a
/// stack of experts.
struct layer {
  const target_format* format;
  const example::method* method;
  std::vector<example::known_input> inputs;
};

// Whether importance is known for a tensor, from either source.
bool has_importance(const std::string& name, quantizing& how) {
  if (how.method.data() == needs::nothing) return false;
  if (!how.imatrix_path.empty()) return how.imatrix.find(name) != nullptr;
  return how.calibration.statistics_of(name).tokens() > 0;
}

// The part of an importance matrix; false: it has none.
bool read_imatrix(const source_tensor& t, quantizing& how, layer& prepared) {
  const checkpoint::imatrix_entry* const entry = how.imatrix.find(t.name);
  if (entry == nullptr) return false;
  index_t matrices = 1;
  for (std::size_t d = 2; d < t.dims.size(); ++d) matrices *= t.dims[d];
  const auto means = checkpoint::importance_of<>(*entry, t.name, t.cols(), matrices);
  for (index_t m = 0; m < matrices; ++m) {
    subbyte::statistics_parts parts;  // of one token that is the mean of all
    parts.tokens = 1;
    parts.sum_magnitude = subbyte::tensor<double, 1>(t.cols());
    parts.sum_square = subbyte::tensor<double, 1>(t.cols());
    parts.max_magnitude = subbyte::tensor<float, 1>(t.cols());
    for (index_t j = 0; j < t.cols(); ++j) {
      parts.sum_square(j) = static_cast<double>(means(m, j));
    }
    prepared.inputs.emplace_back(subbyte::input_statistics(std::move(parts)),
                                 subbyte::vector_view<const float>());
  }
  if (const index_t starved = entry->starved(); starved > 0) {
    how.notes.push_back("warning: " + subbyte::printable(t.name) + ": " + std::to_string(starved) +
                        " of " + std::to_string(matrices) +
                        " matrices saw no token; their weights count alike");
  }
  return true;
}

// Float formats, and inputs that saw no token, are left to the format's own tool; so are stacks of
// experts, but for an importance matrix.
layer prepare(const plan_entry& e, quantizing& how) {
  static const example::method own{"best", needs::nothing, ""};
  layer prepared{e.format, how.method.codes, {}};
  const source_tensor& t = *e.tensor;
  const bool floats = e.format->block_size == 1;
  const bool calibrated = how.method.data() != needs::nothing && how.imatrix_path.empty();
  if (!is_quantizable(t) || floats || (calibrated && t.dims.size() > 2)) {
    prepared.method = &own;
    return prepared;
  }
  if (how.method.data() == needs::nothing) return prepared;
  if (!how.imatrix_path.empty()) {
    if (read_imatrix(t, how, prepared)) {
      ++how.calibrated;
    } else {
      prepared.method = &own;
      ++how.uncalibrated;
    }
    return prepared;
  }
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
  prepared.inputs.emplace_back(statistics, how.scales.scale_of(t.name));
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
    const std::size_t matrix =
        how.inputs.size() > 1 ? static_cast<std::size_t>(first / t.dims[1]) : 0;
    const example::layer_task task{rows, how.inputs.empty() ? nullptr : &how.inputs[matrix], 0,
                                   executor, progress};
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
  quantizing trials{how.method, example::calibration_source(calibration_files), {}, {}, {}, {}};
  const auto quantize = [&](const source_tensor& t, const target_format& format) {
    const layer prepared = prepare({&t, &format, false}, trials);
    subbyte::tensor<float, 2> floats(subbyte::uninitialized, t.rows(), t.cols());
    t.read(0, t.rows(), floats.data());
    const auto go_on = [](double) { return example::interrupted == 0; };
    const example::layer_task task{std::as_const(floats).view(),
                                   prepared.inputs.empty() ? nullptr : prepared.inputs.data(), 0,
                                   executor, go_on};
    try {
      return format.quantize(*prepared.method, task, true).decoded;
    } catch (const subbyte::error& problem) {
      example::check_interrupt();
      subbyte::throw_error(problem.code(), subbyte::printable(t.name), problem.what());
    }
  };
  example::plan_mix(model, request, how.calibration, quantize, executor, choice);
}

// Source  llama.cpp, tools/quantize/quantize.cpp at 03161a4e.
void write_imatrix_keys(gguf::split_writer& out, const quantizing& how) {
  const checkpoint::imatrix& data = how.imatrix;
  out.metadata("quantize.imatrix.file", how.imatrix_path);
  if (!data.datasets.empty()) out.metadata("quantize.imatrix.dataset", data.datasets.front());
  out.metadata("quantize.imatrix.entries_count", static_cast<std::uint32_t>(data.entries.size()));
  if (data.chunks > 0) {
    out.metadata("quantize.imatrix.chunks_count", static_cast<std::uint32_t>(data.chunks));
  }
}

void write_model(const model_source& model, const std::vector<plan_entry>& plan,
                 std::uint32_t file_type, const std::string& label, const std::string& path,
                 const gguf::split_options& split, quantizing& how,
                 subbyte::executor_ref executor) {
  gguf::split_writer out(path, split);
  model.write_metadata(out, file_type);
  if (!how.imatrix_path.empty()) write_imatrix_keys(out, how);
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
  example::progress_bar bar("quantize to " + label);
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
      // Experts have inputs of their own, so no slab reaches from one into the next.
      const index_t together = prepared.inputs.size() > 1 ? t.dims[1] : t.rows();
      for (index_t first = 0, count = 0; first < t.rows(); first += count) {
        example::check_interrupt();
        count = std::min(rows_at_once, together - first % together);
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

// The changes to a recipe, or to one format for all, that the user asked for.
void choose_options(format_choice& choice, bool by_recipe, const std::string& output,
                    const std::string& embedding, const std::vector<std::string>& tensor_types,
                    const std::pair<std::string, std::string>& parts) {
  checkpoint::recipe_options& options = choice.options;
  const auto type_or_none = [](const std::string& name) {
    return name.empty() ? std::nullopt : find_block_format(name).gguf_type;
  };
  options.pure = options.pure || !by_recipe;
  options.output_type = type_or_none(output);
  options.token_embedding_type = type_or_none(embedding);
  for (const std::string& text : tensor_types) {
    options.overrides.push_back(checkpoint::parse_type_override<>(text));
  }
  for (const auto& [pattern, name] :
       {std::pair("\\.attn_", parts.first), std::pair("\\.ffn_", parts.second)}) {
    if (name.empty()) continue;
    options.overrides.push_back(
        {checkpoint::module_pattern(pattern, "part"), *find_block_format(name).gguf_type});
  }
}

void read_imatrices(const std::vector<std::string>& paths, quantizing& how) {
  for (const std::string& path : paths) {
    if (how.imatrix_path.empty()) {
      how.imatrix = checkpoint::open_imatrix<>(path);
    } else {
      checkpoint::merge_imatrix<>(how.imatrix, checkpoint::open_imatrix<>(path));
    }
    how.imatrix_path += (how.imatrix_path.empty() ? "" : " ") + path;
  }
}

}  // namespace

int main(int argc, char** argv) {
  std::string input, output, format_name = "q4_k", recipe_name, method_name;
  std::string output_format_name, embedding_format_name, attention_name, feed_forward_name;
  example::mix_request mix;
  std::vector<std::string> calibration_files, imatrix_files, tensor_types;
  int threads = 0;
  bool dry_run = false;
  format_choice choice;
  gguf::split_options split;
  std::uint64_t split_bytes = 0;
  CLI::App app(
      "Quantizes every matrix of a model by a recipe, to one format or to a planned mix; vectors "
      "and norms stay.",
      "quantize");
  app.add_option("input", input,
                 "GGUF file (of a split one any shard), safetensors file, or folder of a Llama "
                 "checkpoint")
      ->required();
  app.add_option("output", output, "GGUF file to write (not needed with --dry-run)");
  auto* const format_option = app.add_option("-f,--format", format_name,
                                             "any format of the registry that GGUF has an id for")
                                  ->capture_default_str();
  std::string recipes;
  for (const checkpoint::recipe& r : checkpoint::all_recipes) {
    recipes += std::string(recipes.empty() ? "" : " ") + r.name;
  }
  auto* const recipe_option =
      app.add_option(
             "-r,--recipe", recipe_name,
             "the formats that llama.cpp's recipe of this name gives every tensor: " + recipes)
          ->excludes(format_option);
  app.add_flag("--pure", choice.options.pure, "one format for all matrices of the recipe")
      ->needs(recipe_option);
  app.add_option("--output-format", output_format_name,
                 "format of the matrix that makes the logits: output.weight, or token_embd.weight "
                 "where there is none; default: as --format or --recipe has it");
  app.add_option("--token-embedding-format", embedding_format_name,
                 "format of token_embd.weight; default: as --format or --recipe has it");
  app.add_option("--tensor-type", tensor_types,
                 "REGEX=TYPE: this format for tensors in whose names the pattern is found; the "
                 "first such option that matches counts")
      ->take_all();
  app.add_option("--attention", attention_name, "format of attn_*; default: as --format");
  app.add_option("--feed-forward", feed_forward_name, "format of ffn_*; default: as --format");
  auto* const target =
      app.add_option("--target-bpw", mix.target_bits,
                     "plan a mix of so many bits per weight, over all matrices that are quantized, "
                     "with the least predicted loss; needs --calibration")
          ->check(CLI::PositiveNumber)
          ->excludes(format_option, recipe_option);
  app.add_option("--max-kl", mix.max_kl,
                 "plan the smallest mix whose KL divergence from the original, in nats per "
                 "token of --tokens, is at most so large; needs --calibration")
      ->check(CLI::PositiveNumber)
      ->excludes(format_option, recipe_option, target);
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
                     known + "\ndefault: best, with --imatrix: weighted-best");
  auto* const calibration = app.add_option("--calibration", calibration_files,
                                           "files of perplexity --calibrate; several are added up");
  app.add_option(
         "--imatrix", imatrix_files,
         "importance matrices, of llama.cpp or of perplexity --imatrix-out, in either form; "
         "several are added up")
      ->excludes(calibration);
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
  app.add_flag("--allow-requantize", choice.options.allow_requantize,
               "quantize quantized tensors again");
  return example::run(app, argc, argv, [&] {
    const bool by_recipe = !recipe_name.empty();
    choice.recipe = by_recipe
                        ? checkpoint::find_recipe(recipe_name)
                        : checkpoint::uniform_recipe(*find_block_format(format_name).gguf_type);
    choose_options(choice, by_recipe, output_format_name, embedding_format_name, tensor_types,
                   {attention_name, feed_forward_name});
    if (method_name.empty()) method_name = imatrix_files.empty() ? "best" : "weighted-best";
    quantizing how{example::parse_method(method_name),
                   example::calibration_source(calibration_files),
                   {},
                   {},
                   {},
                   {}};
    read_imatrices(imatrix_files, how);
    if (how.method.data() != needs::nothing && how.calibration.empty() && imatrix_files.empty()) {
      subbyte::throw_error(subbyte::errc::bad_argument, "method " + method_name,
                           how.method.data() == needs::importance
                               ? "--calibration or --imatrix is required"
                               : "--calibration is required");
    }
    if (!imatrix_files.empty() && how.method.data() != needs::importance) {
      subbyte::throw_error(subbyte::errc::bad_argument, "method " + method_name,
                           "has no use for --imatrix");
    }
    choice.options.has_importance = how.method.data() != needs::nothing;
    if (output.empty() && !dry_run) {
      subbyte::throw_error(subbyte::errc::bad_argument, "output", "a file to write is required");
    }
    if (mix.wanted()) check_mix(mix, how);
    if (split_bytes > static_cast<std::uint64_t>(std::numeric_limits<index_t>::max())) {
      subbyte::throw_error(subbyte::errc::bad_argument, "--split-max-size", "beyond 2^63 bytes");
    }
    split.max_shard_bytes = static_cast<index_t>(split_bytes);
    const model_source model = example::open_model(input);
    const bool tied = std::none_of(model.tensors.begin(), model.tensors.end(),
                                   [](const auto& t) { return t.name == "output.weight"; });
    if (!by_recipe && tied && !choice.options.token_embedding_type) {
      choice.options.token_embedding_type = choice.options.output_type;
    }
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
    example::importance_query query;
    if (by_recipe && !dry_run) {
      query = [&](std::string_view name) { return has_importance(std::string(name), how); };
    }
    const std::vector<plan_entry> plan =
        example::make_plan(model, choice, how.method.scaled, query);
    if (dry_run) {
      print_tensor_table(plan);
    } else {
      if (how.method.scaled) search_scales(model, plan, how, pool);
      const std::string label = by_recipe      ? choice.recipe.name
                                : mix.wanted() ? "a mix"
                                               : find_block_format(format_name).name;
      write_model(model, plan, file_type_of(choice, by_recipe), label, output, split, how, pool);
    }
    print_totals(model, plan);
    if (how.method.data() != needs::nothing && !dry_run) {
      std::printf("%s: %lld matrices with %s, %lld without\n", method_name.c_str(),
                  static_cast<long long>(how.calibrated),
                  imatrix_files.empty() ? "calibration" : "importance",
                  static_cast<long long>(how.uncalibrated));
    }
    for (const std::string& note : how.notes) std::printf("%s\n", note.c_str());
    for (const std::string& note : model.notes) std::printf("%s\n", note.c_str());
  });
}
