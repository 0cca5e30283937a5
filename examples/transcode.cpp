// SPDX-License-Identifier: Apache-2.0
/// Turns a quantized checkpoint into another scheme with its codes kept: a folder into a folder, or
/// into a GGUF file of q4_0, q4_1 or q8_0.
#include "subbyte/checkpoint/transcode.hpp"

#include <filesystem>
#include <map>

#include "command_line.hpp"
#include "model_source.hpp"
#include "subbyte/format/f32.hpp"

namespace {

namespace checkpoint = subbyte::checkpoint;
namespace gguf = subbyte::gguf;
using checkpoint::awq_version;
using checkpoint::fidelity;
using checkpoint::gptq_format;
using checkpoint::module_settings;
using checkpoint::transcode_report;
using example::model_source;
using example::source_tensor;
using subbyte::index_t;

checkpoint::gptq_settings gptq_of(gptq_format format, int bits, index_t group_size) {
  checkpoint::gptq_settings s;
  s.bits = bits;
  s.group_size = group_size;
  s.format = format;
  return s;
}

/// The schemes by name; bits and group size of 0 are those of the source.
std::map<std::string, module_settings> schemes(int bits, index_t group) {
  return {{"gptq", gptq_of(gptq_format::gptq, bits, group)},
          {"gptq_v2", gptq_of(gptq_format::gptq_v2, bits, group)},
          {"gptq_p", gptq_of(gptq_format::gptq_p, bits, group)},
          {"awq", checkpoint::awq_settings{bits, group, false, awq_version::gemm, false}},
          {"awq-gemv", checkpoint::awq_settings{bits, group, false, awq_version::gemv, false}},
          {"awq-gemv_fast",
           checkpoint::awq_settings{bits, group, false, awq_version::gemv_tiled, false}},
          {"compressed-tensors", checkpoint::compressed_tensors_settings{bits, group, true, false}},
          {"marlin", checkpoint::marlin_settings{bits, group, checkpoint::marlin_names::awq}}};
}

void print_report(const transcode_report& report) {
  std::printf("%lld modules, %lld weights\n", static_cast<long long>(report.modules),
              static_cast<long long>(report.weights));
  if (report.exact()) std::printf("every weight is what it was\n");
  if (report.rounded_parameters > 0) {
    std::printf(
        "%lld scales or minima were rounded: scales by at most %.3g of themselves, which moves a "
        "weight by at most %.3g of a step; every code stayed\n",
        static_cast<long long>(report.rounded_parameters), report.largest_scale_change,
        report.largest_weight_change);
  }
  if (report.requantized_modules > 0) {
    std::printf(
        "%lld modules were quantized again: the root mean square change of their weights is %.3g "
        "of the weights\n",
        static_cast<long long>(report.requantized_modules), report.requantization_error());
  }
}

template <class F>
void write_blocks(const source_tensor& t, fidelity allowed, gguf::split_writer& out,
                  transcode_report& report) {
  const auto blocks = checkpoint::recode_blocks<F>(t.codes(), allowed, t.name, report);
  const auto view = blocks.view();
  out.write(t.name, {reinterpret_cast<const std::uint8_t*>(view.data()),
                     static_cast<std::size_t>(view.size_bytes())});
}

/// A GGUF file: quantized modules as blocks of F, all else as it is or, where GGUF wants another
/// type, as f32.
template <class F>
transcode_report write_gguf(const std::string& input, const std::string& output, fidelity allowed,
                            std::uint32_t file_type) {
  const model_source model = example::open_hugging_face_model(input);
  gguf::split_writer out(output, {});
  model.write_metadata(out, file_type);
  index_t total = 0, quantized = 0;
  for (const source_tensor& t : model.tensors) {
    total += t.size();
    if (t.codes) {
      ++quantized;
      if (t.cols() % F::block_size != 0) {
        subbyte::throw_error(subbyte::errc::bad_shape, subbyte::printable(t.name),
                             std::to_string(t.cols()) + " columns, " + F::name +
                                 " needs a multiple of " + std::to_string(F::block_size));
      }
      out.declare(t.name, t.dims, F::gguf_type,
                  t.size() / F::block_size * static_cast<index_t>(sizeof(F)));
    } else if (t.gguf_type) {
      out.declare(t.name, t.dims, *t.gguf_type, static_cast<index_t>(t.bytes.size()));
    } else {
      out.declare(t.name, t.dims, subbyte::f32::gguf_type, t.size() * 4);
    }
  }
  if (quantized == 0) {
    subbyte::throw_error(subbyte::errc::not_found, input, "there is no quantized module");
  }
  example::progress_bar bar("transcode");
  transcode_report report;
  index_t done = 0;
  std::vector<float> floats;
  for (const source_tensor& t : model.tensors) {
    example::check_interrupt();
    if (t.codes) {
      write_blocks<F>(t, allowed, out, report);
    } else if (t.gguf_type) {
      out.write(t.name, t.bytes);
    } else {
      floats.resize(static_cast<std::size_t>(t.size()));
      t.read(0, t.rows(), floats.data());
      out.write(t.name, {reinterpret_cast<const std::uint8_t*>(floats.data()), floats.size() * 4});
    }
    done += t.size();
    bar.update(static_cast<double>(done), static_cast<double>(total));
  }
  example::check_interrupt();
  out.finish();
  for (const std::string& note : model.notes) std::printf("%s\n", note.c_str());
  return report;
}

transcode_report write_directory(const std::string& input, const std::string& output,
                                 const module_settings& like, std::optional<bool> symmetric,
                                 checkpoint::transcode_options options) {
  const checkpoint::directory source(input);
  example::progress_bar bar("transcode");
  auto watch = [&](double share) {
    bar.update(share, 1);
    return example::interrupted == 0;
  };
  options.progress = watch;
  return checkpoint::transcode_directory(source, output, like, symmetric, options);
}

}  // namespace

int main(int argc, char** argv) {
  std::string input, output, scheme;
  int bits = 0;
  index_t group_size = 0;
  bool near_exact = false, requantize = false, symmetric = false, asymmetric = false;
  std::uint64_t shard_bytes = 5'000'000'000;
  CLI::App app(
      "Turns a quantized checkpoint into another scheme with its codes kept: every weight stays "
      "what it is, or the work is refused with the reason.",
      "transcode");
  app.add_option("input", input, "folder of a GPTQ, AWQ or compressed-tensors checkpoint")
      ->required();
  app.add_option("output", output, "new folder, or a GGUF file for q4_0, q4_1 and q8_0")
      ->required();
  app.add_option("-t,--to", scheme,
                 "gptq, gptq_v2, gptq_p, awq, awq-gemv, awq-gemv_fast, compressed-tensors, marlin, "
                 "q4_0, q4_1 or q8_0")
      ->required();
  app.add_option("--bits", bits, "bits of a code; default: those of every module")
      ->check(CLI::Range(1, 8));
  app.add_option("--group-size", group_size,
                 "columns per group, -1 for whole rows; default: that of every module");
  app.add_flag("--symmetric", symmetric, "no zero points (default: as the source says)");
  app.add_flag("--asymmetric", asymmetric, "zero points, also where the source has none")
      ->excludes("--symmetric");
  app.add_flag("--near-exact", near_exact,
               "round scales and minima where the target's type does not hold them; codes stay");
  app.add_flag("--requantize", requantize,
               "round weights to nearest again where the target cannot hold the codes");
  app.add_option("--max-shard-size", shard_bytes, "of the weights' files (5G, 500M; 0: one file)")
      ->transform(CLI::AsSizeValue(true));
  return example::run(app, argc, argv, [&] {
    checkpoint::transcode_options options;
    options.allowed = requantize   ? fidelity::requantize
                      : near_exact ? fidelity::near_exact
                                   : fidelity::exact;
    if (shard_bytes > std::uint64_t{1} << 62) {
      subbyte::throw_error(subbyte::errc::bad_argument, "--max-shard-size", "beyond 2^62 bytes");
    }
    options.write.max_shard_bytes = static_cast<index_t>(shard_bytes);
    example::cancel_on_interrupt();
    if (scheme == "q4_0") {
      print_report(write_gguf<subbyte::q4_0>(input, output, options.allowed, 2));
    } else if (scheme == "q4_1") {
      print_report(write_gguf<subbyte::q4_1>(input, output, options.allowed, 3));
    } else if (scheme == "q8_0") {
      print_report(write_gguf<subbyte::q8_0>(input, output, options.allowed, 7));
    } else {
      const auto known = schemes(bits, group_size);
      const auto found = known.find(scheme);
      if (found == known.end()) {
        subbyte::throw_error(subbyte::errc::bad_argument, "--to",
                             scheme + " is none of the schemes that --help lists");
      }
      const std::optional<bool> symmetry =
          symmetric || asymmetric ? std::optional(symmetric) : std::nullopt;
      print_report(write_directory(input, output, found->second, symmetry, options));
    }
  });
}
