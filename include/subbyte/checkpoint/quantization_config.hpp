// SPDX-License-Identifier: Apache-2.0
/// The JSON that says how a checkpoint is quantized: quantize_config.json, quant_config.json and
/// the quantization_config of config.json, read and written.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <variant>
#include <vector>

#include "subbyte/checkpoint/awq.hpp"
#include "subbyte/checkpoint/compressed_tensors.hpp"
#include "subbyte/checkpoint/gptq.hpp"
#include "subbyte/checkpoint/marlin.hpp"
#include "subbyte/checkpoint/module_pattern.hpp"
#include "subbyte/io/json_value.hpp"
#include "subbyte/version.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// How the tensors of one module are to be read.
using module_settings =
    std::variant<gptq_settings, awq_settings, compressed_tensors_settings, marlin_settings>;

/// "gptq", "awq", "compressed-tensors" or "marlin".
[[nodiscard]] SUBBYTE_INLINE const char* scheme_name(const module_settings& s) noexcept {
  constexpr const char* names[] = {"gptq", "awq", "compressed-tensors", "marlin"};
  return names[s.index()];
}

/// The settings of modules whose name a pattern matches.
template <class Arch>
struct basic_override {
  std::string pattern;
  bool exact = false;  ///< a name rather than a pattern (auto-round's extra_config)
  bool skip = false;   ///< not quantized
  module_settings settings = gptq_settings{};

  friend bool operator==(const basic_override&, const basic_override&) = default;
};

/// Settings for the modules that are named (compressed-tensors' config_groups).
template <class Arch>
struct basic_target_group {
  std::vector<std::string> targets;  ///< a class of modules, a name, or "re:" and a pattern
  compressed_tensors_settings settings{};
  std::string actorder;     ///< as in the file; empty for null
  std::string unsupported;  ///< why its tensors cannot be read, or empty

  friend bool operator==(const basic_target_group&, const basic_target_group&) = default;
};

/// A quantization configuration.
template <class Arch>
struct basic_quantization_config {
  module_settings base = gptq_settings{};        ///< of modules that nothing below names
  std::vector<basic_override<Arch>> overrides;   ///< gptq: `dynamic`; the first match counts
  std::vector<basic_target_group<Arch>> groups;  ///< compressed-tensors: the first match counts
  std::vector<std::string> not_converted;  ///< awq: parts of names; compressed-tensors: `ignore`
  bool lm_head = false;                    ///< gptq: whether it is quantized
  std::string producer;                    ///< gptq: meta.quantizer, "gptqmodel:7.7.0"

  friend bool operator==(const basic_quantization_config&,
                         const basic_quantization_config&) = default;

  /// The settings of a module, or none if the configuration says that it is not quantized.
  ///
  /// What a checkpoint holds decides in the end: GPTQ files do not say which modules they leave
  /// out. `subject` names the configuration in errors.
  /// Throws  bad_metadata for a pattern that cannot be read; unsupported_format for a group of
  ///         compressed-tensors whose tensors are not pack-quantized integers.
  [[nodiscard]] std::optional<module_settings> settings_of(std::string_view module,
                                                           const std::string& subject) const {
    for (const basic_override<Arch>& o : overrides) {
      const bool matches = o.exact ? o.pattern == module
                                   : basic_module_pattern<Arch>(o.pattern, subject).matches(module);
      if (!matches) continue;
      if (o.skip) return std::nullopt;
      return o.settings;
    }
    const bool compressed = std::holds_alternative<compressed_tensors_settings>(base);
    for (const std::string& name : not_converted) {
      const bool listed = compressed ? is_target(name, module, subject)
                                     : module.find(name) != std::string_view::npos;
      if (listed) return std::nullopt;
    }
    if (!compressed) return base;
    // The class of a module is not in the checkpoint: what is packed is a linear layer.
    const basic_target_group<Arch>* by_class = nullptr;
    for (const basic_target_group<Arch>& g : groups) {
      for (const std::string& target : g.targets) {
        if (is_target(target, module, subject)) return settings_of(g, module);
        if (target == "Linear" && by_class == nullptr) by_class = &g;
      }
    }
    if (by_class != nullptr) return settings_of(*by_class, module);
    return std::nullopt;
  }

  /// The quantization_config of config.json; for GPTQ also the text of quantize_config.json.
  [[nodiscard]] basic_json_value<Arch> to_json() const {
    using value = basic_json_value<Arch>;
    value out = value::object();
    if (const auto* const s = std::get_if<gptq_settings>(&base)) {
      out.set("bits", s->bits);
      if (!overrides.empty()) out.set("dynamic", dynamic_json());
      out.set("group_size", s->group_size)
          .set("desc_act", s->act_order)
          .set("sym", s->symmetric)
          .set("lm_head", lm_head)
          .set("quant_method", "gptq")
          .set("checkpoint_format", format_name(s->format))
          .set("pack_dtype", "int32");
      if (!producer.empty()) {
        out.set("meta", value::object().set("quantizer", value::array({producer})));
      }
    } else if (const auto* const a = std::get_if<awq_settings>(&base)) {
      out.set("quant_method", "awq")
          .set("zero_point", !a->symmetric)
          .set("group_size", a->group_size)
          .set("bits", a->bits)
          .set("version", version_name(a->version))
          .set("modules_to_not_convert",
               not_converted.empty() ? value() : value::array(not_converted));
    } else if (const auto* const m = std::get_if<marlin_settings>(&base)) {
      out.set("quant_method", "awq")
          .set("zero_point", false)
          .set("group_size", m->group_size)
          .set("bits", m->bits)
          .set("version", "marlin")
          .set("modules_to_not_convert",
               not_converted.empty() ? value() : value::array(not_converted));
    } else {
      value all = value::object();
      for (std::size_t i = 0; i < groups.size(); ++i) {
        all.set("group_" + std::to_string(i), group_json(groups[i]));
      }
      out.set("config_groups", std::move(all))
          .set("quant_method", "compressed-tensors")
          .set("kv_cache_scheme", value())
          .set("format", "pack-quantized")
          .set("quantization_status", "compressed")
          .set("global_compression_ratio", value())
          .set("ignore", value::array(not_converted));
      const auto& s = std::get<compressed_tensors_settings>(base);
      if (s.padded) out.set("version", "0.16.0");
    }
    return out;
  }

  /// The text of AutoAWQ's quant_config.json.
  ///
  /// Requires  base holds awq_settings or marlin_settings.
  [[nodiscard]] basic_json_value<Arch> to_legacy_awq_json() const {
    using value = basic_json_value<Arch>;
    const basic_json_value<Arch> full = to_json();
    value out = value::object();
    out.set("zero_point", *full.find("zero_point"))
        .set("q_group_size", *full.find("group_size"))
        .set("w_bit", *full.find("bits"))
        .set("version", *full.find("version"))
        .set("modules_to_not_convert", *full.find("modules_to_not_convert"));
    return out;
  }

  [[nodiscard]] static const char* format_name(gptq_format format) noexcept {
    return format == gptq_format::gptq      ? "gptq"
           : format == gptq_format::gptq_v2 ? "gptq_v2"
                                            : "gptq_p";
  }
  [[nodiscard]] static const char* version_name(awq_version version) noexcept {
    return version == awq_version::gemm   ? "gemm"
           : version == awq_version::gemv ? "gemv"
                                          : "gemv_fast";
  }

 private:
  [[nodiscard]] static std::optional<module_settings> settings_of(
      const basic_target_group<Arch>& group, std::string_view module) {
    if (!group.unsupported.empty()) {
      throw_error(errc::unsupported_format, printable<Arch>(module), group.unsupported);
    }
    return group.settings;
  }
  [[nodiscard]] static bool is_target(const std::string& target, std::string_view module,
                                      const std::string& subject) {
    if (target.compare(0, 3, "re:") == 0) {
      return basic_module_pattern<Arch>(target.substr(3), subject).matches(module);
    }
    return target == module;
  }
  [[nodiscard]] basic_json_value<Arch> dynamic_json() const {
    using value = basic_json_value<Arch>;
    value out = value::object();
    for (const basic_override<Arch>& o : overrides) {
      value changes = value::object();
      if (!o.skip) {
        const auto& from = std::get<gptq_settings>(base);
        const auto& to = std::get<gptq_settings>(o.settings);
        if (to.bits != from.bits) changes.set("bits", to.bits);
        if (to.group_size != from.group_size) changes.set("group_size", to.group_size);
        if (to.symmetric != from.symmetric) changes.set("sym", to.symmetric);
        if (to.act_order != from.act_order) changes.set("desc_act", to.act_order);
      }
      out.set((o.skip ? "-:" : "+:") + o.pattern, std::move(changes));
    }
    return out;
  }
  [[nodiscard]] static basic_json_value<Arch> group_json(const basic_target_group<Arch>& g) {
    using value = basic_json_value<Arch>;
    value weights = value::object();
    const bool channel = g.settings.group_size == -1;
    weights.set("num_bits", g.settings.bits)
        .set("type", "int")
        .set("symmetric", g.settings.symmetric)
        .set("group_size", channel ? value() : value(g.settings.group_size))
        .set("strategy", channel ? "channel" : "group")
        .set("dynamic", false);
    if (!g.actorder.empty()) weights.set("actorder", g.actorder);
    value out = value::object();
    out.set("targets", value::array(g.targets))
        .set("weights", std::move(weights))
        .set("input_activations", value())
        .set("output_activations", value())
        .set("format", value());
    return out;
  }
};

using quantization_config = basic_quantization_config<arch::native>;

namespace detail {

// The members of one object, with the name of the file for errors.
template <class Arch>
class config_object {
 public:
  config_object(const basic_json_value<Arch>& object, const std::string& subject)
      : object_(object), subject_(subject) {}

  [[noreturn]] void fail(const std::string& message) const {
    throw_error(errc::bad_metadata, subject_, message);
  }
  // The first of two keys that is there and is not null.
  [[nodiscard]] const basic_json_value<Arch>* find(const char* key,
                                                   const char* synonym = nullptr) const {
    for (const char* const k : {key, synonym}) {
      if (k == nullptr) continue;
      const basic_json_value<Arch>* const found = object_.find(k);
      if (found != nullptr && !found->is_null()) return found;
    }
    return nullptr;
  }
  [[nodiscard]] std::optional<index_t> integer(const char* key,
                                               const char* synonym = nullptr) const {
    const auto* const found = find(key, synonym);
    if (found == nullptr) return std::nullopt;
    const std::optional<index_t> value = found->integer();
    if (!value) fail(std::string(key) + " is no integer");
    return value;
  }
  [[nodiscard]] int bits(const char* key, const char* synonym = nullptr) const {
    const std::optional<index_t> value = integer(key, synonym);
    if (!value) fail(std::string(key) + " is missing");
    if (*value < 1 || *value > 16) {
      fail(std::string(key) + " is " + std::to_string(*value) + ", required is 1 to 8");
    }
    return static_cast<int>(*value);
  }
  [[nodiscard]] std::optional<bool> boolean(const char* key) const {
    const auto* const found = find(key);
    if (found == nullptr) return std::nullopt;
    if (found->kind() != json_kind::boolean) fail(std::string(key) + " is no boolean");
    return found->boolean();
  }
  [[nodiscard]] std::string text(const char* key, const char* synonym = nullptr) const {
    const auto* const found = find(key, synonym);
    if (found == nullptr) return {};
    if (!found->is_string()) fail(std::string(key) + " is no string");
    return found->text();
  }
  [[nodiscard]] std::vector<std::string> texts(const char* key) const {
    std::vector<std::string> out;
    const auto* const found = find(key);
    if (found == nullptr) return out;
    if (found->kind() != json_kind::array) fail(std::string(key) + " is no list");
    for (const auto& item : found->items()) {
      if (!item.is_string()) fail("an item of " + std::string(key) + " is no string");
      out.push_back(item.text());
    }
    return out;
  }
  [[nodiscard]] const basic_json_value<Arch>* object(const char* key) const {
    const auto* const found = find(key);
    if (found != nullptr && !found->is_object()) fail(std::string(key) + " is no object");
    return found;
  }

 private:
  const basic_json_value<Arch>& object_;
  const std::string& subject_;
};

template <class Arch>
[[nodiscard]] gptq_writer writer_of(std::string_view producer) noexcept {
  const std::string_view name = producer.substr(0, producer.find(':'));
  if (name == "gptqmodel") return gptq_writer::gptqmodel;
  if (name == "auto_gptq" || name == "auto-gptq" || name == "autogptq") {
    return gptq_writer::auto_gptq;
  }
  return name == "subbyte" ? gptq_writer::per_field : gptq_writer::unknown;
}

template <class Arch>
[[nodiscard]] std::string lower(std::string text) {
  for (char& c : text) c = c >= 'A' && c <= 'Z' ? static_cast<char>(c - 'A' + 'a') : c;
  return text;
}

template <class Arch>
void read_dynamic(const basic_json_value<Arch>& dynamic, const std::string& subject,
                  basic_quantization_config<Arch>& config) {
  for (const auto& m : dynamic.members()) {
    basic_override<Arch> o;
    o.skip = m.key.compare(0, 2, "-:") == 0;
    o.pattern = o.skip || m.key.compare(0, 2, "+:") == 0 ? m.key.substr(2) : m.key;
    const config_object<Arch> changes(m.value, subject);
    if (!m.value.is_object()) changes.fail("dynamic has a value that is no object");
    gptq_settings s = std::get<gptq_settings>(config.base);
    if (changes.integer("bits")) s.bits = changes.bits("bits");
    s.group_size = changes.integer("group_size").value_or(s.group_size);
    s.symmetric = changes.boolean("sym").value_or(s.symmetric);
    s.act_order = changes.boolean("desc_act").value_or(s.act_order);
    o.settings = s;
    config.overrides.push_back(std::move(o));
  }
}

template <class Arch>
void read_gptq_config(const config_object<Arch>& c, const std::string& subject,
                      basic_quantization_config<Arch>& config) {
  gptq_settings s{};
  s.bits = c.bits("bits", "w_bit");
  const std::optional<index_t> group_size = c.integer("group_size", "q_group_size");
  if (!group_size) c.fail("group_size is missing");
  s.group_size = *group_size;
  s.act_order = c.boolean("desc_act").value_or(false);
  s.symmetric = c.boolean("sym").value_or(true);
  if (const auto* const meta = c.object("meta")) {
    const auto* const quantizer = meta->find("quantizer");
    if (quantizer != nullptr) {
      const bool list = quantizer->kind() == json_kind::array && !quantizer->items().empty();
      config.producer = list ? quantizer->items()[0].text() : quantizer->text();
    }
  }
  s.writer = writer_of<Arch>(config.producer);
  const std::string format = c.text("checkpoint_format", "format");
  if (format == "gptq_v2") {
    s.format = gptq_format::gptq_v2;
  } else if (format == "gptq_p") {
    s.format = gptq_format::gptq_p;
  } else if (!format.empty() && format != "gptq") {
    throw_error(
        errc::unsupported_format, subject,
        "checkpoint_format is " + printable<Arch>(format) + ", read are gptq, gptq_v2 and gptq_p");
  }
  const std::string packed = c.text("pack_dtype");
  if (!packed.empty() && packed != "int32") {
    throw_error(errc::unsupported_format, subject,
                "pack_dtype is " + printable<Arch>(packed) + ", read is int32");
  }
  config.lm_head = c.boolean("lm_head").value_or(false);
  config.base = s;
  if (const auto* const dynamic = c.object("dynamic")) {
    read_dynamic<Arch>(*dynamic, subject, config);
  }
}

template <class Arch>
void read_awq_config(const config_object<Arch>& c, const std::string& subject,
                     basic_quantization_config<Arch>& config) {
  awq_settings s{};
  s.bits = c.bits("bits", "w_bit");
  const std::optional<index_t> group_size = c.integer("group_size", "q_group_size");
  if (!group_size) c.fail("group_size is missing");
  s.group_size = *group_size;
  const std::optional<bool> zero_point = c.boolean("zero_point");
  s.symmetric = zero_point ? !*zero_point : c.boolean("sym").value_or(false);
  config.not_converted = c.texts("modules_to_not_convert");
  const std::string version = lower<Arch>(c.text("version", "checkpoint_format"));
  if (version == "marlin") {
    config.base = marlin_settings{s.bits, s.group_size, marlin_names::awq};
    return;
  }
  if (version == "gemv") {
    s.version = awq_version::gemv;
  } else if (version == "gemv_fast") {
    s.version = awq_version::gemv_tiled;
  } else if (!version.empty() && version != "gemm") {
    throw_error(
        errc::unsupported_format, subject,
        "version is " + printable<Arch>(version) + ", read are gemm, gemv, gemv_fast and marlin");
  }
  config.base = s;
}

template <class Arch>
[[nodiscard]] basic_target_group<Arch> read_target_group(const basic_json_value<Arch>& value,
                                                         const std::string& root_format,
                                                         const std::string& subject) {
  const config_object<Arch> group(value, subject);
  basic_target_group<Arch> out;
  out.targets = group.texts("targets");
  const std::string own_format = group.text("format");
  const std::string& format = own_format.empty() ? root_format : own_format;
  const auto* const stored = group.object("weights");
  if (stored == nullptr) {
    out.unsupported = "its group has no weights entry";
    return out;
  }
  const config_object<Arch> weights(*stored, subject);
  out.settings.bits = weights.bits("num_bits");
  out.settings.symmetric = weights.boolean("symmetric").value_or(true);
  const std::string type = weights.text("type"), strategy = weights.text("strategy");
  const bool grouped = strategy == "group" || (strategy.empty() && weights.integer("group_size"));
  out.settings.group_size = grouped ? weights.integer("group_size").value_or(0) : -1;
  const auto* const order = weights.find("actorder");
  if (order != nullptr && order->is_string()) out.actorder = order->text();
  if (format != "pack-quantized" || (!type.empty() && type != "int")) {
    out.unsupported = "its tensors are of format " + printable<Arch>(format) + " and type " +
                      printable<Arch>(type) + ", read are integers of format pack-quantized";
  } else if (!grouped && strategy != "channel" && strategy != "tensor") {
    out.unsupported = "the strategy of its weights is " + printable<Arch>(strategy) +
                      ", read are group, channel and tensor";
  }
  return out;
}

// "0.16.2" is before 0.17.
template <class Arch>
[[nodiscard]] bool is_padded_version(std::string_view version) noexcept {
  int parts[2] = {-1, -1};
  std::size_t at = 0;
  for (int& part : parts) {
    for (; at < version.size() && version[at] >= '0' && version[at] <= '9'; ++at) {
      part = (part < 0 ? 0 : part % 10000) * 10 + (version[at] - '0');
    }
    if (at < version.size() && version[at] == '.') ++at;
  }
  return parts[0] == 0 && parts[1] >= 0 && parts[1] < 17;
}

template <class Arch>
void read_compressed_config(const config_object<Arch>& c, const std::string& subject,
                            basic_quantization_config<Arch>& config) {
  config.not_converted = c.texts("ignore");
  const bool padded = is_padded_version<Arch>(c.text("version"));
  compressed_tensors_settings base{};
  if (const auto* const groups = c.object("config_groups")) {
    for (const auto& m : groups->members()) {
      if (!m.value.is_object()) c.fail("a group of config_groups is no object");
      config.groups.push_back(read_target_group<Arch>(m.value, c.text("format"), subject));
      config.groups.back().settings.padded = padded;
    }
  }
  if (config.groups.empty()) c.fail("config_groups is missing or empty");
  base = config.groups[0].settings;
  config.base = base;
}

template <class Arch>
void read_auto_round_layers(const config_object<Arch>& c, const std::string& subject,
                            basic_quantization_config<Arch>& config) {
  const auto* const layers = c.object("extra_config");
  if (layers == nullptr) return;
  for (const auto& m : layers->members()) {
    const config_object<Arch> changes(m.value, subject);
    if (!m.value.is_object()) changes.fail("extra_config has a value that is no object");
    basic_override<Arch> o;
    o.pattern = m.key;
    o.exact = m.key.find_first_of("*+?()[]|\\^$") == std::string::npos;
    o.settings = config.base;
    const int bits = changes.integer("bits") ? changes.bits("bits") : 0;
    o.skip = bits > 8;
    const auto change = [&](auto& s) {
      if (bits != 0) s.bits = bits;
      s.group_size = changes.integer("group_size").value_or(s.group_size);
      s.symmetric = changes.boolean("sym").value_or(s.symmetric);
    };
    if (auto* const g = std::get_if<gptq_settings>(&o.settings)) change(*g);
    if (auto* const a = std::get_if<awq_settings>(&o.settings)) change(*a);
    config.overrides.push_back(std::move(o));
  }
}

}  // namespace detail

/// The quantization configuration in a JSON value: the whole config.json, its quantization_config
/// alone, quantize_config.json or quant_config.json (also with w_bit and q_group_size).
///
/// Without quant_method an object with zero_point or version is AWQ's, one with sym, desc_act or
/// damp_percent GPTQ's. `subject` names the file in errors.
///
/// Throws  not_found if there is none; bad_metadata for values of the wrong type or out of range;
///         unsupported_format for methods and formats that are not read.
/// Source  gptqmodel, gptqmodel/quantization/config.py; AutoAWQ, awq/models/_config.py;
///         compressed-tensors, quantization/quant_config.py; auto-round, export folder.
template <class Arch = arch::native>
[[nodiscard]] basic_quantization_config<Arch> read_quantization_config(
    const basic_json_value<Arch>& json, const std::string& subject) {
  const basic_json_value<Arch>* root = &json;
  for (const char* const key : {"quantization_config", "compression_config"}) {
    const basic_json_value<Arch>* const inner = json.find(key);
    if (inner != nullptr && inner->is_object()) {
      root = inner;
      break;
    }
  }
  const detail::config_object<Arch> c(*root, subject);
  basic_quantization_config<Arch> config;
  std::string method = detail::lower<Arch>(c.text("quant_method", "method"));
  if (method.empty()) {
    if (c.find("zero_point") != nullptr || c.find("version") != nullptr) {
      method = "awq";
    } else if (c.find("sym") != nullptr || c.find("desc_act") != nullptr ||
               c.find("damp_percent") != nullptr) {
      method = "gptq";
    }
  }
  if (method == "gptq") {
    detail::read_gptq_config<Arch>(c, subject, config);
  } else if (method == "awq") {
    detail::read_awq_config<Arch>(c, subject, config);
  } else if (method == "compressed-tensors") {
    detail::read_compressed_config<Arch>(c, subject, config);
  } else if (method == "auto-round" || method == "intel/auto-round") {
    const std::string packing = c.text("packing_format");
    const std::string_view kind = std::string_view(packing).substr(
        packing.rfind(':') == std::string::npos ? 0 : packing.rfind(':') + 1);
    if (kind == "auto_gptq" || kind == "gptq") {
      detail::read_gptq_config<Arch>(c, subject, config);
    } else if (kind == "auto_awq" || kind == "awq") {
      detail::read_awq_config<Arch>(c, subject, config);
    } else {
      throw_error(errc::unsupported_format, subject,
                  "packing_format is " + printable<Arch>(packing) +
                      ", read are auto_round:auto_gptq and auto_round:auto_awq");
    }
    detail::read_auto_round_layers<Arch>(c, subject, config);
  } else if (method.empty()) {
    throw_error(errc::not_found, subject, "there is no quantization configuration");
  } else {
    throw_error(errc::unsupported_format, subject,
                "quant_method is " + printable<Arch>(method) +
                    ", read are gptq, awq, compressed-tensors and auto-round");
  }
  return config;
}

/// The producer that a written GPTQ configuration names.
[[nodiscard]] SUBBYTE_INLINE std::string producer_name() {
  return "subbyte:" + std::to_string(SUBBYTE_VERSION_MAJOR) + "." +
         std::to_string(SUBBYTE_VERSION_MINOR) + "." + std::to_string(SUBBYTE_VERSION_PATCH);
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
