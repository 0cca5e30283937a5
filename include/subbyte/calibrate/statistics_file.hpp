// SPDX-License-Identifier: Apache-2.0
/// Calibration files: the statistics of every input of a model, and which weights read which.
///
/// Not part of the umbrella header calibrate.hpp, because it needs component io too.
#pragma once

#include <algorithm>
#include <charconv>  // std::from_chars
#include <cstring>   // std::memcpy
#include <initializer_list>
#include <map>
#include <memory>  // std::unique_ptr: mapped files do not move
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/calibrate/statistics.hpp"
#include "subbyte/io/diagnostics.hpp"
#include "subbyte/io/safetensors.hpp"
#include "subbyte/io/safetensors_writer.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The version of the files that are written, and the only one that is read.
inline constexpr std::string_view calibration_version = "1";

/// One input of a model: its name, the weights that multiply it, and what is known of it.
template <class Arch>
struct basic_calibration_input {
  std::string name;
  std::vector<std::string> weights;
  index_t cols = 0;
  index_t tokens = 0;
  bool hessian = false;
  index_t sample_rows = 0;

  friend bool operator==(const basic_calibration_input&, const basic_calibration_input&) = default;
};

/// A calibration file, mapped: a safetensors file in which input NAME of k channels has
///
///     NAME.sum_magnitude  F64 [k]            NAME.max_magnitude  F32 [k]
///     NAME.sum_square     F64 [k]            NAME.hessian        F64 [k (k + 1) / 2], optional
///     NAME.sample         F32 [rows, k] and  NAME.order          U64 [rows], both optional
///
/// where hessian is the lower triangle of X^T X row by row, and __metadata__ holds
/// subbyte.calibration (the version), tokens:NAME (how many), weights:NAME (the names of the
/// weights that read the input, a line each) and anything else.
///
/// Cost    opening reads the header; load() copies one input's values.
/// Throws  what safetensors throws; unsupported_format for another version; bad_metadata for
///         counts and names that make no sense, weights in two inputs, tensors of no input;
///         bad_shape; not_found for a tensor that is missing.
template <class Arch>
class basic_calibration_file {
 public:
  explicit basic_calibration_file(const std::string& path) : file_(path) { read_header(); }
  /// Reads bytes that live elsewhere and outlive this object; `name` is for error messages.
  basic_calibration_file(std::span<const std::uint8_t> bytes, std::string name)
      : file_(bytes, std::move(name)) {
    read_header();
  }

  [[nodiscard]] const std::string& name() const noexcept { return file_.name(); }
  [[nodiscard]] std::span<const basic_calibration_input<Arch>> inputs() const noexcept {
    return inputs_;
  }

  /// The number of the input that a weight reads, or -1.
  [[nodiscard]] index_t find_weight(std::string_view weight) const {
    const auto found = input_of_weight_.find(weight);
    return found == input_of_weight_.end() ? -1 : found->second;
  }
  /// The number of the input of that name, or -1.
  [[nodiscard]] index_t find_input(std::string_view input) const {
    const auto found = numbers_.find(input);
    return found == numbers_.end() ? -1 : found->second;
  }

  /// The statistics of an input.
  ///
  /// Throws  bad_argument, bad_shape, non_finite for values that no statistics have, naming file
  ///         and input; out_of_memory.
  [[nodiscard]] basic_input_statistics<Arch> load(index_t input) const {
    SUBBYTE_EXPECTS(input >= 0 && input < static_cast<index_t>(inputs_.size()));
    const basic_calibration_input<Arch>& in = inputs_[static_cast<std::size_t>(input)];
    basic_statistics_parts<Arch> parts;
    parts.tokens = in.tokens;
    parts.sum_magnitude = read<double>(in, "sum_magnitude");
    parts.sum_square = read<double>(in, "sum_square");
    parts.max_magnitude = read<float>(in, "max_magnitude");
    if (in.hessian) {
      const std::uint8_t* stored = file_.tensor(in.name + ".hessian").bytes().data();
      parts.hessian = tensor<double, 2>(uninitialized, in.cols, in.cols);
      double* const h = parts.hessian.data();
      for (index_t r = 0; r < in.cols; ++r) {
        const std::size_t row_bytes = static_cast<std::size_t>(r + 1) * sizeof(double);
        std::memcpy(h + r * in.cols, stored, row_bytes);
        stored += row_bytes;
        for (index_t c = 0; c < r; ++c) h[c * in.cols + r] = h[r * in.cols + c];
      }
    }
    if (in.sample_rows > 0) {
      const tensor<float, 1> rows = read<float>(in, "sample");
      parts.sample = tensor<float, 2>(uninitialized, in.sample_rows, in.cols);
      std::copy_n(rows.data(), rows.size(), parts.sample.data());
      parts.order = read<std::uint64_t>(in, "order");
    }
    try {
      return basic_input_statistics<Arch>(std::move(parts));
    } catch (const error& problem) {
      throw_error(problem.code(), file_.name(),
                  "input " + printable<Arch>(in.name) + ": " + problem.what());
    }
  }

  /// A pair of __metadata__ beside those of the format, or an empty text.
  [[nodiscard]] std::string_view note(std::string_view key) const noexcept {
    for (const safetensors::metadata_entry& entry : file_.metadata()) {
      if (entry.key == key) return entry.value;
    }
    return {};
  }

 private:
  [[noreturn]] void fail(errc code, const std::string& message) const {
    throw_error(code, file_.name(), message);
  }

  // F64, F32 or U64 at any alignment.
  template <class T>
  [[nodiscard]] tensor<T, 1> read(const basic_calibration_input<Arch>& in, const char* leaf) const {
    const std::span<const std::uint8_t> bytes = file_.tensor(in.name + "." + leaf).bytes();
    tensor<T, 1> values(uninitialized, bytes.size() / sizeof(T));
    if (!bytes.empty()) std::memcpy(values.data(), bytes.data(), bytes.size());
    return values;
  }

  void read_header() {
    const std::string_view version = note("subbyte.calibration");
    if (version.empty())
      fail(errc::bad_magic, "no calibration file: subbyte.calibration is missing");
    if (version != calibration_version) {
      fail(errc::unsupported_format, "version " + printable<Arch>(version) + ", read is version " +
                                         std::string(calibration_version));
    }
    std::map<std::string_view, std::string_view> weights;
    constexpr std::string_view tokens_key = "tokens:", weights_key = "weights:";
    for (const safetensors::metadata_entry& entry : file_.metadata()) {
      if (entry.key.substr(0, weights_key.size()) == weights_key) {
        weights.emplace(entry.key.substr(weights_key.size()), entry.value);
      } else if (entry.key.substr(0, tokens_key.size()) == tokens_key) {
        basic_calibration_input<Arch> in;
        in.name = std::string(entry.key.substr(tokens_key.size()));
        in.tokens = read_count(in.name, entry.value);
        numbers_.emplace(in.name, static_cast<index_t>(inputs_.size()));
        inputs_.push_back(std::move(in));
      }
    }
    std::size_t tensors = 0;
    for (basic_calibration_input<Arch>& in : inputs_) {
      tensors += read_shapes(in);
      const auto listed = weights.find(in.name);
      if (listed == weights.end()) {
        fail(errc::bad_metadata, "input " + printable<Arch>(in.name) + " has no list of weights");
      }
      read_weights(in, listed->second);
      weights.erase(listed);
    }
    if (!weights.empty()) {
      fail(errc::bad_metadata, "weights are listed for " + printable<Arch>(weights.begin()->first) +
                                   ", which is no input");
    }
    if (tensors != file_.tensors().size()) {
      fail(errc::bad_metadata, std::to_string(file_.tensors().size()) +
                                   " tensors, and the inputs "
                                   "have " +
                                   std::to_string(tensors));
    }
  }

  [[nodiscard]] index_t read_count(const std::string& input, std::string_view text) const {
    index_t value = -1;
    const auto [end, problem] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (problem != std::errc() || end != text.data() + text.size() || value < 0) {
      fail(errc::bad_metadata, "input " + printable<Arch>(input) + " has " + printable<Arch>(text) +
                                   " tokens, required is a count");
    }
    return value;
  }

  // How many tensors the input has.
  std::size_t read_shapes(basic_calibration_input<Arch>& in) const {
    using safetensors::dtype;
    const auto optional = [&](const char* leaf) {
      return file_.find_tensor(in.name + "." + leaf) != nullptr;
    };
    const auto require = [&](const char* leaf, dtype type, std::initializer_list<index_t> shape) {
      const auto& t = file_.tensor(in.name + "." + leaf);
      if (t.type() != type) {
        fail(errc::bad_metadata, "tensor " + printable<Arch>(t.name()) + " is " + t.type_name() +
                                     ", required is " + safetensors::traits_of(type).name);
      }
      if (!std::equal(t.shape().begin(), t.shape().end(), shape.begin(), shape.end())) {
        std::string text;
        for (const index_t extent : shape) {
          text += (text.empty() ? "" : ", ") + std::to_string(extent);
        }
        fail(errc::bad_shape, "tensor " + printable<Arch>(t.name()) + " has " +
                                  std::to_string(t.size()) + " values, required are [" + text +
                                  "]");
      }
    };
    in.cols = file_.tensor(in.name + ".sum_square").size();
    in.hessian = optional("hessian");
    require("sum_magnitude", dtype::f64, {in.cols});
    require("sum_square", dtype::f64, {in.cols});
    require("max_magnitude", dtype::f32, {in.cols});
    if (in.hessian) require("hessian", dtype::f64, {in.cols * (in.cols + 1) / 2});
    if (!optional("sample") && !optional("order")) return in.hessian ? 4 : 3;
    in.sample_rows = file_.tensor(in.name + ".order").size();
    require("order", dtype::u64, {in.sample_rows});
    require("sample", dtype::f32, {in.sample_rows, in.cols});
    return in.hessian ? 6 : 5;
  }

  void read_weights(basic_calibration_input<Arch>& in, std::string_view lines) {
    const index_t number = static_cast<index_t>(&in - inputs_.data());
    while (!lines.empty()) {
      const std::size_t end = std::min(lines.find('\n'), lines.size());
      in.weights.emplace_back(lines.substr(0, end));
      if (!input_of_weight_.emplace(in.weights.back(), number).second) {
        fail(errc::bad_metadata,
             "weight " + printable<Arch>(in.weights.back()) + " is listed twice");
      }
      lines.remove_prefix(std::min(end + 1, lines.size()));
    }
  }

  safetensors::basic_file<Arch> file_;
  std::vector<basic_calibration_input<Arch>> inputs_;
  std::map<std::string, index_t, std::less<>> input_of_weight_;
  std::map<std::string, index_t, std::less<>> numbers_;
};

using calibration_input = basic_calibration_input<arch::native>;
using calibration_file = basic_calibration_file<arch::native>;

namespace detail {

/// Writes inputs one after another: statistics_of(i) is asked for once each, in order, and gives a
/// reference or a value.
template <class Arch, class Source>
void write_calibration(const std::string& path,
                       std::span<const basic_calibration_input<Arch>> inputs,
                       std::span<const std::pair<std::string, std::string>> notes,
                       const Source& statistics_of) {
  using safetensors::dtype;
  safetensors::basic_writer<Arch> out(path);
  out.metadata("subbyte.calibration", calibration_version);
  for (const auto& [key, value] : notes) out.metadata(key, value);
  std::set<std::string_view> seen;
  for (const basic_calibration_input<Arch>& in : inputs) {
    std::string lines;
    for (const std::string& weight : in.weights) {
      if (weight.empty() || weight.find('\n') != std::string::npos || !seen.insert(weight).second) {
        throw_error(errc::bad_metadata, path,
                    "weight " + printable<Arch>(weight) +
                        ": a name of one line that occurs once is required");
      }
      lines += (lines.empty() ? "" : "\n") + weight;
    }
    out.metadata("tokens:" + in.name, std::to_string(in.tokens));
    out.metadata("weights:" + in.name, lines);
  }
  for (const basic_calibration_input<Arch>& in : inputs) {
    const auto declare = [&](const char* leaf, dtype type, std::initializer_list<index_t> shape) {
      out.declare(in.name + "." + leaf, {shape.begin(), shape.size()}, type);
    };
    declare("sum_magnitude", dtype::f64, {in.cols});
    declare("sum_square", dtype::f64, {in.cols});
    if (in.hessian) declare("hessian", dtype::f64, {in.cols * (in.cols + 1) / 2});
    if (in.sample_rows > 0) declare("order", dtype::u64, {in.sample_rows});
    declare("max_magnitude", dtype::f32, {in.cols});
    if (in.sample_rows > 0) declare("sample", dtype::f32, {in.sample_rows, in.cols});
  }
  for (std::size_t i = 0; i < inputs.size(); ++i) {
    const basic_calibration_input<Arch>& in = inputs[i];
    const auto& statistics = statistics_of(i);
    const basic_statistics_parts<Arch>& parts = statistics.parts();
    const auto write = [&](const char* leaf, const auto* values, index_t n) {
      if (n == 0) return;  // a tensor without bytes is complete as declared
      out.write(in.name + "." + leaf, {reinterpret_cast<const std::uint8_t*>(values),
                                       static_cast<std::size_t>(n) * sizeof(*values)});
    };
    write("sum_magnitude", parts.sum_magnitude.data(), in.cols);
    write("sum_square", parts.sum_square.data(), in.cols);
    if (in.hessian) {
      for (index_t r = 0; r < in.cols; ++r) write("hessian", &parts.hessian(r, index_t{0}), r + 1);
    }
    if (in.sample_rows > 0) write("order", parts.order.data(), in.sample_rows);
    write("max_magnitude", parts.max_magnitude.data(), in.cols);
    if (in.sample_rows > 0) write("sample", parts.sample.data(), parts.sample.size());
  }
  out.finish();
}

}  // namespace detail

/// The description of statistics that are about to be saved.
template <class Arch>
[[nodiscard]] basic_calibration_input<Arch> describe_input(
    std::string name, std::vector<std::string> weights,
    const basic_input_statistics<Arch>& statistics) {
  return {std::move(name),     std::move(weights),       statistics.cols(),
          statistics.tokens(), statistics.has_hessian(), statistics.sample().extent(0)};
}

/// Writes a calibration file; it appears when it is complete. `inputs` describe `statistics` one by
/// one (describe_input); `notes` are pairs for the file's metadata.
///
/// Throws  bad_argument when the two lists differ; bad_metadata for names that are empty, of more
///         than one line, or used twice; io.
template <class Arch>
void save_calibration(const std::string& path,
                      std::span<const basic_calibration_input<Arch>> inputs,
                      std::span<const basic_input_statistics<Arch>> statistics,
                      std::span<const std::pair<std::string, std::string>> notes = {}) {
  bool described = inputs.size() == statistics.size();
  for (std::size_t i = 0; described && i < inputs.size(); ++i) {
    described = describe_input(inputs[i].name, inputs[i].weights, statistics[i]) == inputs[i];
  }
  if (!described) {
    throw_error(errc::bad_argument, path, "the statistics are not those that the list describes");
  }
  detail::write_calibration<Arch>(
      path, inputs, notes,
      [&](std::size_t i) -> const basic_input_statistics<Arch>& { return statistics[i]; });
}

/// Merges calibration files of parts of a stream, or of several streams, into one.
///
/// Inputs appear in the order of the files; one that several files have must have the same weights
/// and keep the same things in all of them.
/// Cost    memory of two inputs at a time.
/// Throws  bad_metadata, bad_shape for inputs that do not match; what reading and writing throw.
template <class Arch = arch::native>
void merge_calibration_files(std::span<const std::string> paths, const std::string& target) {
  std::vector<std::unique_ptr<const basic_calibration_file<Arch>>> files;
  std::vector<basic_calibration_input<Arch>> inputs;
  std::map<std::string, std::size_t> numbers;
  for (const std::string& path : paths) {
    files.push_back(std::make_unique<const basic_calibration_file<Arch>>(path));
    for (const basic_calibration_input<Arch>& in : files.back()->inputs()) {
      const auto [at, added] = numbers.emplace(in.name, inputs.size());
      if (added) {
        inputs.push_back(in);
        continue;
      }
      basic_calibration_input<Arch>& merged = inputs[at->second];
      if (merged.cols != in.cols || merged.hessian != in.hessian) {
        throw_error(errc::bad_shape, path,
                    "input " + printable<Arch>(in.name) + " has " + std::to_string(in.cols) +
                        " channels" + (in.hessian ? " and X^T X" : "") + ", in a file before it " +
                        std::to_string(merged.cols) + (merged.hessian ? " and X^T X" : ""));
      }
      if (merged.weights != in.weights) {
        throw_error(errc::bad_metadata, path,
                    "input " + printable<Arch>(in.name) +
                        " is read by other weights than in a file before it");
      }
      merged.tokens += in.tokens;
      merged.sample_rows = std::max(merged.sample_rows, in.sample_rows);
    }
  }
  detail::write_calibration<Arch>(target, inputs, {}, [&](std::size_t i) {
    basic_input_statistics<Arch> merged;
    bool first = true;
    for (const auto& file : files) {
      const index_t number = file->find_input(inputs[i].name);
      if (number < 0) continue;
      if (first) {
        merged = file->load(number);
      } else {
        merged.merge(file->load(number));
      }
      first = false;
    }
    return merged;
  });
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
