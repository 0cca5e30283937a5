// SPDX-License-Identifier: Apache-2.0
/// From one checkpoint scheme to another with the codes kept: exactly, with parameters rounded and
/// the cost reported, or quantized again when that is asked for.
#pragma once

#include <cmath>  // std::isfinite, std::sqrt
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/checkpoint/directory.hpp"
#include "subbyte/checkpoint/onnx_matmul_nbits.hpp"
#include "subbyte/format/grid.hpp"
#include "subbyte/format/q4_0.hpp"
#include "subbyte/format/q4_1.hpp"
#include "subbyte/format/q8_0.hpp"
#include "subbyte/matrix/block_matrix.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// What may change on the way.
enum class fidelity {
  exact,       ///< no weight: what the target cannot hold is refused
  near_exact,  ///< codes stay; a scale or minimum may be rounded to the target's type
  requantize   ///< where neither works, round to nearest on the target's own grid
};

/// What a target can hold of a matrix.
struct code_target {
  const char* name = "";
  int bits = 4;
  index_t group_size = -1;  ///< columns; -1: whole rows
  bool symmetric = false;   ///< zero points only in the middle of the codes
  int lowest_zero = 0;      ///< the smallest integer zero point
  bool real_zeros = false;
  bool column_groups = false;    ///< a group per column (act-order)
  bool any_scale_type = false;   ///< bf16 and f32 as well as f16
  bool rounded_minimum = false;  ///< -(scale * zero) is stored in f16
};

/// What became of the weights.
struct transcode_report {
  index_t modules = 0;
  index_t weights = 0;
  index_t requantized_modules = 0;
  index_t rounded_parameters = 0;    ///< scales and minima that changed
  double largest_scale_change = 0;   ///< relative
  double largest_weight_change = 0;  ///< bound, in steps of the weight's own grid
  double squared_error = 0;          ///< of requantized weights against what they were
  double squared_weights = 0;        ///< of the same weights

  SUBBYTE_INLINE constexpr transcode_report() noexcept {}
  [[nodiscard]] SUBBYTE_INLINE bool exact() const noexcept {
    return rounded_parameters == 0 && requantized_modules == 0;
  }
  /// Root mean square change of requantized weights, relative to the weights.
  [[nodiscard]] SUBBYTE_INLINE double requantization_error() const noexcept {
    return squared_weights > 0 ? std::sqrt(squared_error / squared_weights) : 0;
  }
};

/// What GPTQ, AWQ, compressed-tensors or Marlin tensors hold with these settings.
[[nodiscard]] SUBBYTE_INLINE code_target target_of(const module_settings& settings) noexcept {
  code_target t{};
  if (const auto* const g = std::get_if<gptq_settings>(&settings)) {
    t.name = "GPTQ";
    t.bits = g->bits;
    t.group_size = g->group_size;
    t.symmetric = g->symmetric;
    t.lowest_zero = g->format == gptq_format::gptq ? 1 : 0;
    t.column_groups = true;
    t.any_scale_type = true;
  } else if (const auto* const a = std::get_if<awq_settings>(&settings)) {
    t.name = "AWQ";
    t.bits = a->bits;
    t.group_size = a->group_size;
    t.symmetric = a->symmetric;
  } else if (const auto* const m = std::get_if<marlin_settings>(&settings)) {
    t.name = "Marlin";
    t.bits = m->bits;
    t.group_size = m->group_size;
    t.symmetric = true;
  } else {
    const auto& c = std::get<compressed_tensors_settings>(settings);
    t.name = "compressed-tensors";
    t.bits = c.bits;
    t.group_size = c.group_size;
    t.symmetric = c.symmetric;
    t.column_groups = true;
    t.any_scale_type = true;
  }
  return t;
}

/// What MatMulNBits holds.
[[nodiscard]] SUBBYTE_INLINE code_target target_of(const matmul_nbits_settings& settings) noexcept {
  code_target t{};
  t.name = "MatMulNBits";
  t.bits = settings.bits;
  t.group_size = settings.block_size;
  t.real_zeros = true;
  t.any_scale_type = true;
  return t;
}

namespace detail {

// One matrix on its way to a target. Groups of the target take their parameters from the source
// groups of their columns; a reason says why it does not work.
template <class Arch>
class recoding {
 public:
  recoding(const basic_group_codes<Arch>& from, const code_target& target, fidelity allowed,
           std::string_view module)
      : from_(from), target_(target), allowed_(allowed), module_(module) {}

  // Whether the codes could be kept; `out` is complete then, and `report` holds what was rounded.
  [[nodiscard]] bool keep_codes(basic_group_codes<Arch>& out, transcode_report& report) {
    prepare(out);
    out.zeros = tensor<float, 2>(uninitialized, out.rows(), out.groups());
    out.real_zeros = from_.real_zeros;
    collect_columns(out);
    for (index_t g = 0; g < out.groups(); ++g) {
      for (index_t r = 0; r < out.rows(); ++r) {
        if (!move_group(out, r, g, report)) return false;
      }
    }
    if (!out.real_zeros && zeros_are_central<Arch>(out)) out.zeros = tensor<float, 2>();
    return true;
  }

  // Round to nearest on the target's grid, fitted to the weights that the source holds.
  void requantize(basic_group_codes<Arch>& out, transcode_report& report) {
    prepare(out);
    out.group_of_column = tensor<std::int32_t, 1>();
    out.stored_scale = scale_type::f16;
    const bool with_zeros = !target_.symmetric;
    out.zeros =
        with_zeros ? tensor<float, 2>(uninitialized, out.rows(), out.groups()) : tensor<float, 2>();
    std::vector<float> w(static_cast<std::size_t>(out.group_size));
    for (index_t r = 0; r < out.rows(); ++r) {
      for (index_t g = 0; g < out.groups(); ++g) {
        const index_t first = g * out.group_size;
        const index_t n = group_end(out, g) - first;
        for (index_t k = 0; k < n; ++k) {
          w[static_cast<std::size_t>(k)] = from_.value(r, first + k);
        }
        with_bits<2, 3, 4, 5, 6, 7, 8>(out.bits, [&](auto b) {
          if (with_zeros) {
            round_group<int_grid<b, zero_points::integer>>(out, r, g, w.data(), n);
          } else {
            round_group<int_grid<b, zero_points::none>>(out, r, g, w.data(), n);
          }
        });
        for (index_t k = 0; k < n; ++k) {
          const double before = static_cast<double>(w[static_cast<std::size_t>(k)]);
          const double change = static_cast<double>(out.value(r, first + k)) - before;
          report.squared_error += change * change;
          report.squared_weights += before * before;
        }
      }
    }
    if (with_zeros && zeros_are_central<Arch>(out)) out.zeros = tensor<float, 2>();
    ++report.requantized_modules;
  }

  [[nodiscard]] const std::string& reason() const noexcept { return reason_; }

 private:
  void prepare(basic_group_codes<Arch>& out) {
    out.bits = target_.bits;
    out.group_size = columns_per_group<Arch>(target_.group_size, from_.cols(), module_);
    out.codes = tensor<std::uint8_t, 2>(uninitialized, from_.rows(), from_.cols());
    out.scales = tensor<float, 2>(uninitialized, from_.rows(), out.groups());
    out.stored_scale = target_.any_scale_type ? from_.stored_scale : scale_type::f16;
    const bool same_groups = target_.column_groups && out.group_size == from_.group_size;
    out.group_of_column = same_groups && !from_.sequential() ? from_.group_of_column.clone()
                                                             : tensor<std::int32_t, 1>();
  }

  [[nodiscard]] static index_t group_end(const basic_group_codes<Arch>& out, index_t g) noexcept {
    const index_t end = (g + 1) * out.group_size;
    return end < out.cols() ? end : out.cols();
  }

  // The columns of every group of the target, and the source groups among them.
  void collect_columns(const basic_group_codes<Arch>& out) {
    columns_.assign(static_cast<std::size_t>(out.groups()), {});
    for (index_t k = 0; k < out.cols(); ++k) {
      columns_[static_cast<std::size_t>(out.group_of(k))].push_back(k);
    }
  }

  bool fail(index_t r, index_t g, const std::string& what) {
    reason_ = "row " + std::to_string(r) + ", group " + std::to_string(g) + ": " + what;
    return false;
  }

  [[nodiscard]] bool move_group(basic_group_codes<Arch>& out, index_t r, index_t g,
                                transcode_report& report) {
    const std::vector<index_t>& columns = columns_[static_cast<std::size_t>(g)];
    if (columns.empty()) {  // a group that no column is in
      out.scales(r, g) = 0;
      out.zeros(r, g) = static_cast<float>(1 << (out.bits - 1));
      return true;
    }
    const index_t source = from_.group_of(columns[0]);
    const float scale = from_.scales(r, source), zero = from_.zero(r, source);
    int low = 255, high = 0;
    for (const index_t k : columns) {
      const index_t other = from_.group_of(k);
      if (other != source && (from_.scales(r, other) != scale || from_.zero(r, other) != zero)) {
        return fail(r, g,
                    from_.sequential()
                        ? "its columns have more than one scale or zero point: the groups of the "
                          "source do not lie inside groups of " +
                              std::to_string(out.group_size)
                        : std::string("its columns are in several groups (act-order), and ") +
                              target_.name + " has no column order");
      }
      const int code = from_.codes(r, k);
      low = code < low ? code : low;
      high = code > high ? code : high;
    }
    int shift = 0;
    if (!find_shift(r, g, zero, low, high, shift)) return false;
    out.scales(r, g) = scale;
    out.zeros(r, g) = zero + static_cast<float>(shift);
    for (const index_t k : columns) {
      out.codes(r, k) = static_cast<std::uint8_t>(from_.codes(r, k) + shift);
    }
    const double reach = std::max(std::abs(static_cast<double>(low) - static_cast<double>(zero)),
                                  std::abs(static_cast<double>(high) - static_cast<double>(zero)));
    return round_parameters(out, r, g, reach, report);
  }

  // What is added to codes and zero point so that both fit the target: 0 where that works, else
  // the smallest that does.
  [[nodiscard]] bool find_shift(index_t r, index_t g, float zero, int low, int high, int& shift) {
    const int last = (1 << target_.bits) - 1;
    const bool whole = zero == std::nearbyint(zero) && std::abs(zero) < 1024;
    if (!whole) {
      if (target_.real_zeros && high <= last) return true;
      return fail(r, g,
                  "its zero point is " + std::to_string(zero) + ", and " + target_.name +
                      " holds integers" +
                      (high > last ? " of " + std::to_string(target_.bits) + " bits" : ""));
    }
    const int z = static_cast<int>(zero);
    const int first_zero = target_.symmetric ? 1 << (target_.bits - 1) : target_.lowest_zero;
    const int last_zero = target_.symmetric ? first_zero : last;
    // Real zero points are bound by nothing but the codes.
    const int least = target_.real_zeros ? -low : std::max(first_zero - z, -low);
    const int most = target_.real_zeros ? last - high : std::min(last_zero - z, last - high);
    if (least > most) {
      return fail(r, g,
                  "codes " + std::to_string(low) + " to " + std::to_string(high) +
                      " around a zero point of " + std::to_string(z) + " do not fit " +
                      std::to_string(target_.bits) + " bits" +
                      (target_.symmetric ? std::string(" around ") + std::to_string(first_zero)
                                         : std::string(" with zero points of at least ") +
                                               std::to_string(first_zero)));
    }
    shift = least > 0 ? least : most < 0 ? most : 0;
    return true;
  }

  [[nodiscard]] bool round_parameters(basic_group_codes<Arch>& out, index_t r, index_t g,
                                      double reach, transcode_report& report) {
    const float scale = out.scales(r, g);
    const float stored = nearest(out.stored_scale, scale);
    double change = 0;
    if (stored != scale) {
      if (allowed_ == fidelity::exact) {
        return fail(r, g,
                    "its scale " + std::to_string(scale) + " is no " + name_of(out.stored_scale) +
                        " (--near-exact rounds it)");
      }
      if (!std::isfinite(stored) || stored == 0) {
        return fail(r, g,
                    "its scale " + std::to_string(scale) + " is outside the range of " +
                        name_of(out.stored_scale));
      }
      const double relative = std::abs((static_cast<double>(stored) - static_cast<double>(scale)) /
                                       static_cast<double>(scale));
      report.largest_scale_change = std::max(report.largest_scale_change, relative);
      change += relative * reach;
      ++report.rounded_parameters;
      out.scales(r, g) = stored;
    }
    if (target_.rounded_minimum) {
      const auto minimum = static_cast<double>(-(stored * out.zeros(r, g)));
      const auto kept = static_cast<double>(half::nearest(static_cast<float>(minimum)).to_float());
      if (kept != minimum) {
        if (allowed_ == fidelity::exact) {
          return fail(
              r, g,
              "its minimum " + std::to_string(minimum) + " is no f16 (--near-exact rounds it)");
        }
        if (!std::isfinite(kept)) {
          return fail(r, g,
                      "its minimum " + std::to_string(minimum) + " is outside the range of f16");
        }
        if (stored != 0) change += std::abs((kept - minimum) / static_cast<double>(stored));
        ++report.rounded_parameters;
      }
    }
    report.largest_weight_change = std::max(report.largest_weight_change, change);
    return true;
  }

  template <class Grid>
  void round_group(basic_group_codes<Arch>& out, index_t r, index_t g, const float* w,
                   index_t n) const {
    typename Grid::params p = Grid::template fit<Arch>(w, nullptr, n);
    p.scale = nearest(out.stored_scale, p.scale);
    if (!out.symmetric()) {
      const auto least = static_cast<float>(target_.lowest_zero);
      p.zero = p.zero < least ? least : p.zero;
      out.zeros(r, g) = p.zero;
    }
    out.scales(r, g) = p.scale;
    for (index_t k = 0; k < n; ++k) {
      out.codes(r, g * out.group_size + k) = static_cast<std::uint8_t>(Grid::round(w[k], p));
    }
  }

  const basic_group_codes<Arch>& from_;
  const code_target& target_;
  fidelity allowed_;
  std::string_view module_;
  std::vector<std::vector<index_t>> columns_;
  std::string reason_;
};

}  // namespace detail

/// The matrix as the target can hold it.
///
/// Groups may be split, and joined where their parameters are the same; codes and zero point of a
/// group may move together by an integer, which changes no weight. Column orders stay where the
/// target holds them.
///
/// Numerics  exact: equal weights. near_exact: codes - zero unchanged; every rounded scale (and
///           f16 minimum, where the target stores one) is in the report with the bound that it
///           gives for a weight. requantize: round to nearest of the source's weights, only for a
///           matrix that the other two refuse.
/// Cost      memory: the result.
/// Throws    bad_argument with `module` and what stands in the way; what validate() throws.
template <class Arch = arch::native>
[[nodiscard]] basic_group_codes<Arch> recode(const basic_group_codes<Arch>& from,
                                             const code_target& target, fidelity allowed,
                                             std::string_view module, transcode_report& report) {
  const std::string subject = printable<Arch>(module);
  from.validate(subject);
  if (target.bits < 1 || target.bits > 8) {
    throw_error(errc::bad_argument, subject,
                std::to_string(target.bits) + " bits, required is 1 to 8");
  }
  detail::recoding<Arch> work(from, target, allowed, module);
  basic_group_codes<Arch> out;
  transcode_report kept = report;
  if (work.keep_codes(out, kept)) {
    report = kept;
  } else if (allowed != fidelity::requantize) {
    throw_error(errc::bad_argument, subject,
                std::string(target.name) + " cannot hold it: " + work.reason() +
                    "; --requantize rounds the weights again");
  } else if (target.bits == 1) {
    throw_error(errc::bad_argument, subject, "there is no quantizer to 1 bit");
  } else {
    work.requantize(out, report);
  }
  ++report.modules;
  report.weights += from.rows() * from.cols();
  return out;
}

/// What one of the block formats of GGUF files holds that has integer codes: q4_0, q4_1, q8_0.
template <class F>
[[nodiscard]] SUBBYTE_INLINE code_target block_target() noexcept {
  static_assert(std::is_same_v<F, q4_0> || std::is_same_v<F, q4_1> || std::is_same_v<F, q8_0>,
                "no other format's codes and parameters are those of a group");
  code_target t{};
  t.name = F::name;
  t.bits = std::is_same_v<F, q8_0> ? 8 : 4;
  t.group_size = 32;
  t.symmetric = !std::is_same_v<F, q4_1>;
  t.real_zeros = std::is_same_v<F, q4_1>;
  t.rounded_minimum = std::is_same_v<F, q4_1>;
  return t;
}

/// The matrix in blocks of F: code bias 8 (q4_0) or 128 (q8_0), or a minimum in f16 (q4_1).
///
/// Requantizing to q4_1 rounds to nearest with a zero point; the formats' own encoders may do
/// better.
/// Numerics  as recode.
/// Throws    as recode; bad_shape for rows that 32 does not divide.
template <class F, class Arch = arch::native>
[[nodiscard]] block_matrix<F> recode_blocks(const basic_group_codes<Arch>& from, fidelity allowed,
                                            std::string_view module, transcode_report& report) {
  if (from.cols() % 32 != 0) {
    throw_error(errc::bad_shape, printable<Arch>(module),
                std::to_string(from.cols()) + " columns, " + F::name + " needs a multiple of 32");
  }
  const basic_group_codes<Arch> w = recode<Arch>(from, block_target<F>(), allowed, module, report);
  block_matrix<F> out(w.rows(), w.cols());
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t g = 0; g < w.groups(); ++g) {
      typename F::params p;
      p.scale = half::nearest(w.scales(r, g));
      if constexpr (std::is_same_v<F, q4_1>) {
        p.minimum = half::nearest(-(w.scales(r, g) * w.zero(r, g)));
      }
      typename F::codes codes;
      for (int i = 0; i < 32; ++i) codes[i] = w.codes(r, g * 32 + i);
      out.row(r)[g] = F::join(p, codes);
    }
  }
  return out;
}

struct transcode_options {
  fidelity allowed = fidelity::exact;
  directory_write_options write{};
  progress_ref progress{};
};

namespace detail {

// A name as a pattern that matches nothing else.
template <class Arch>
[[nodiscard]] std::string exact_pattern(std::string_view name) {
  std::string out = "^";
  for (const char c : name) {
    const bool word =
        (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || (c >= 'a' && c <= 'z') || c == '_';
    if (!word) out += '\\';
    out += c;
  }
  return out + "$";
}

// The same field of the settings of any scheme.
template <class Arch, class F>
decltype(auto) visit_settings(module_settings& s, const F& f) {
  if (auto* const g = std::get_if<gptq_settings>(&s)) return f(*g);
  if (auto* const a = std::get_if<awq_settings>(&s)) return f(*a);
  if (auto* const m = std::get_if<marlin_settings>(&s)) return f(*m);
  return f(std::get<compressed_tensors_settings>(s));
}

// What the settings say about the symmetry of a module.
template <class Arch>
[[nodiscard]] bool says_symmetric(const module_settings& s) noexcept {
  if (const auto* const g = std::get_if<gptq_settings>(&s)) return g->symmetric;
  if (const auto* const a = std::get_if<awq_settings>(&s)) return a->symmetric;
  if (const auto* const c = std::get_if<compressed_tensors_settings>(&s)) return c->symmetric;
  return true;
}

// What a part remembers of how it was made, for a run that goes on after a kill.
struct part_note {
  transcode_report report{};
  bool act_order = false;
};

template <class Arch>
[[nodiscard]] std::string note_text(const part_note& note) {
  constexpr char digits[] = "0123456789abcdef";
  std::uint8_t bytes[sizeof(part_note)] = {};
  __builtin_memcpy(bytes, &note, sizeof(note));
  std::string text;
  for (const std::uint8_t b : bytes) {
    text += digits[b >> 4];
    text += digits[b & 15];
  }
  return text;
}

template <class Arch>
[[nodiscard]] part_note note_of(std::string_view text, const std::string& subject) {
  std::uint8_t bytes[sizeof(part_note)] = {};
  bool valid = text.size() == 2 * sizeof(part_note);
  for (std::size_t i = 0; valid && i < text.size(); ++i) {
    const char c = text[i];
    const int digit = c >= '0' && c <= '9' ? c - '0' : c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
    valid = digit >= 0;
    bytes[i / 2] = static_cast<std::uint8_t>(bytes[i / 2] << 4 | (digit & 15));
  }
  if (!valid) {
    throw_error(errc::bad_metadata, subject, "a part has no note of how it was made: remove it");
  }
  part_note note{};
  __builtin_memcpy(&note, bytes, sizeof(note));
  return note;
}

template <class Arch>
void add_to(transcode_report& sum, const transcode_report& part) noexcept {
  sum.modules += part.modules;
  sum.weights += part.weights;
  sum.requantized_modules += part.requantized_modules;
  sum.rounded_parameters += part.rounded_parameters;
  sum.largest_scale_change = std::max(sum.largest_scale_change, part.largest_scale_change);
  sum.largest_weight_change = std::max(sum.largest_weight_change, part.largest_weight_change);
  sum.squared_error += part.squared_error;
  sum.squared_weights += part.squared_weights;
}

// Linear layers that stay as they are: two-dimensional weights that are no embedding.
template <class Arch>
[[nodiscard]] std::vector<std::string> plain_linears(const basic_directory<Arch>& source) {
  std::vector<std::string> names;
  bool head = false;
  for (const safetensors::basic_tensor<Arch>& t : source.file().tensors()) {
    const std::string_view name = t.name();
    if (t.shape().size() != 2 || !ends_with<Arch>(name, ".weight")) continue;
    const std::string_view module = name.substr(0, name.size() - 7);
    const std::string_view leaf = module.substr(module.rfind('.') + 1);
    if (leaf.find("embed") != std::string_view::npos || leaf == "wte" || leaf == "wpe") continue;
    names.emplace_back(module);
    head = head || module == "lm_head";
  }
  // A tied output layer has no tensor, and is a linear layer to the loaders.
  if (!head && source.find_module("lm_head") == nullptr) names.emplace_back("lm_head");
  return names;
}

// The settings that a module gets: `like`, with what it leaves open taken from the module.
template <class Arch>
[[nodiscard]] module_settings settings_like(const module_settings& like,
                                            const module_settings& source,
                                            std::optional<bool> symmetric) {
  module_settings out = like, from = source;
  const int bits = visit_settings<Arch>(from, [](auto& s) { return s.bits; });
  const index_t group_size = visit_settings<Arch>(from, [](auto& s) { return s.group_size; });
  visit_settings<Arch>(out, [&](auto& s) {
    if (s.bits == 0) s.bits = bits;
    if (s.group_size == 0) s.group_size = group_size;
  });
  const bool same = symmetric.value_or(says_symmetric<Arch>(source));
  if (auto* const g = std::get_if<gptq_settings>(&out)) g->symmetric = same;
  if (auto* const c = std::get_if<compressed_tensors_settings>(&out)) c->symmetric = same;
  // AWQ keeps the middle of the codes as a zero point: every loader takes that.
  if (auto* const a = std::get_if<awq_settings>(&out)) a->symmetric = false;
  return out;
}

// The configuration of the copy.
template <class Arch>
[[nodiscard]] basic_quantization_config<Arch> describe(
    const basic_directory<Arch>& source, const std::vector<module_settings>& settings) {
  basic_quantization_config<Arch> config;
  config.base = settings[0];
  const auto modules = source.modules();
  const bool gptq = std::holds_alternative<gptq_settings>(config.base);
  if (gptq) {
    config.producer = producer_name();
    config.lm_head = source.find_module("lm_head") != nullptr;
  } else {
    config.not_converted = plain_linears<Arch>(source);
  }
  if (const auto* const c = std::get_if<compressed_tensors_settings>(&config.base)) {
    config.groups.push_back({{"Linear"}, *c, "", ""});
  }
  for (std::size_t i = 1; i < settings.size(); ++i) {
    if (settings[i] == settings[0]) continue;
    if (gptq) {
      basic_override<Arch> o;
      o.pattern = exact_pattern<Arch>(modules[i].name);
      o.settings = settings[i];
      config.overrides.push_back(std::move(o));
    } else if (const auto* const c = std::get_if<compressed_tensors_settings>(&settings[i])) {
      bool placed = false;
      for (std::size_t g = 1; g < config.groups.size() && !placed; ++g) {
        placed = config.groups[g].settings == *c;
        if (placed) config.groups[g].targets.push_back(modules[i].name);
      }
      if (!placed) config.groups.push_back({{modules[i].name}, *c, "", ""});
    } else {
      throw_error(errc::bad_argument, printable<Arch>(modules[i].name),
                  "its bits or group size differ from those of " +
                      printable<Arch>(modules[0].name) +
                      ", and the configuration of AWQ has one setting for all modules");
    }
  }
  for (std::size_t i = 0; i < settings.size(); ++i) {
    if (!config.settings_of(modules[i].name, source.path())) {
      throw_error(errc::bad_argument, printable<Arch>(modules[i].name),
                  "modules_to_not_convert would have to name a layer whose name is part of this "
                  "one, and AWQ's loaders compare parts of names");
    }
  }
  return config;
}

}  // namespace detail

/// A copy of a directory with every quantized module in another scheme.
///
/// `like` is the scheme, with bits and group size of 0 for those of each module; `symmetric` too is
/// each module's unless given (AWQ always keeps zero points, Marlin never).
///
/// A module that cannot be held ends the work before the copy has weights; what was done until then
/// stays as parts (see basic_directory_writer).
///
/// Cost    memory: one module. Time: reading, recoding and writing.
/// Throws  not_found for a directory without quantized modules; what recode and the store functions
///         throw; cancelled.
template <class Arch = arch::native>
transcode_report transcode_directory(const basic_directory<Arch>& source, const std::string& path,
                                     const module_settings& like,
                                     std::optional<bool> symmetric = std::nullopt,
                                     const transcode_options& options = {}) {
  const auto modules = source.modules();
  if (modules.empty()) {
    throw_error(errc::not_found, source.path(), "there is no quantized module");
  }
  std::vector<module_settings> settings;
  for (const auto& m : modules) {
    settings.push_back(detail::settings_like<Arch>(like, m.settings, symmetric));
  }
  basic_quantization_config<Arch> config = detail::describe<Arch>(source, settings);
  const std::string job =
      producer_name() + " transcode " + std::to_string(static_cast<int>(options.allowed)) + ' ' +
      std::to_string(options.write.max_shard_bytes) + '\n' + config.to_json().to_text();
  basic_directory_writer<Arch> out(path, source, job, options.write);
  transcode_report total{};
  bool act_order = false;
  constexpr double recoding_share = 0.7;  // of the time; the rest is copying
  for (std::size_t i = 0; i < modules.size(); ++i) {
    const std::string& name = modules[i].name;
    detail::part_note note{};
    if (out.has_part(name)) {
      note = detail::note_of<Arch>(out.part_note(name), path);
    } else {
      const basic_group_codes<Arch> w = recode<Arch>(
          source.load_codes(name), target_of(settings[i]), options.allowed, name, note.report);
      note.act_order = !w.sequential();
      out.write_part(name, store_module<Arch>(w, name, settings[i]), detail::note_text<Arch>(note));
    }
    detail::add_to<Arch>(total, note.report);
    act_order = act_order || note.act_order;
    const double share = static_cast<double>(i + 1) / static_cast<double>(modules.size());
    if (!options.progress(share * recoding_share)) {
      throw_error(errc::cancelled, path, "the copy has no weights yet; the parts are there");
    }
  }
  if (auto* const g = std::get_if<gptq_settings>(&config.base)) {
    g->act_order = act_order;
    for (auto& o : config.overrides) std::get<gptq_settings>(o.settings).act_order = act_order;
  }
  for (auto& g : config.groups) g.actorder = act_order ? "group" : "";
  auto copying = [&](double share) {
    return options.progress(recoding_share + share * (1 - recoding_share));
  };
  out.finish(config, copying);
  return total;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
