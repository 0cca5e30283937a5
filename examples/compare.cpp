// SPDX-License-Identifier: Apache-2.0
/// Compares two model files tensor by tensor: how far the second is from the first.
#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <memory>
#include <nlohmann/json.hpp>
#include <optional>

#include "command_line.hpp"
#include "model_source.hpp"
#include "subbyte/checkpoint/names.hpp"
#include "subbyte/io/safetensors.hpp"
#include "subbyte/metrics/error.hpp"

namespace {

using example::index_t;
using example::model_source;
using example::source_tensor;
using json = nlohmann::ordered_json;
namespace safetensors = subbyte::safetensors;

/// A model under GGUF names, or safetensors under their own, because no config.json says which
/// model they are: then the rows of queries and keys cannot be brought into GGUF's order.
struct opened_model {
  model_source model;
  bool named_as_stored = false;
};

model_source open_as_stored(const std::string& path) {
  const auto file = std::make_shared<const safetensors::file>(path);
  model_source model;
  for (const safetensors::tensor& stored : file->tensors()) {
    source_tensor t;
    t.name = stored.name();
    t.dims.assign(stored.shape().rbegin(), stored.shape().rend());
    t.type_name = stored.type_name();
    t.bytes = stored.bytes();
    t.read = [file, stored](index_t first, index_t count, float* out) {
      stored.read_rows(first, count, out);
    };
    model.tensors.push_back(std::move(t));
  }
  return model;
}

opened_model open_any(const std::string& path) {
  try {
    return {example::open_model(path), false};
  } catch (const subbyte::error& why) {
    try {
      opened_model plain{open_as_stored(path), true};
      plain.model.notes.push_back(std::string("tensors are taken under their own names: ") +
                                  why.what());
      return plain;
    } catch (const subbyte::error&) {
      throw why;  // what kept it from being read as a model says more
    }
  }
}

enum class outcome { compared, same_bytes, other_bytes, no_floats, rows_reordered, other_shape };

const char* text_of(outcome o) {
  switch (o) {
    case outcome::compared:
      return "compared";
    case outcome::same_bytes:
      return "no floats, the bytes are equal";
    case outcome::other_bytes:
      return "no floats, the bytes differ";
    case outcome::no_floats:
      return "cannot be read as floats";
    case outcome::rows_reordered:
      return "the rows have another order, and no config.json says how many heads there are";
    case outcome::other_shape:
      return "another shape";
  }
  return "";
}

struct pair_result {
  std::string name;
  const source_tensor* a;
  const source_tensor* b;
  outcome what = outcome::compared;
  subbyte::error_sums sums;
  subbyte::error_report report{};
};

/// Rows of both at a time: at most this many floats of each, or one row.
constexpr index_t slab_floats = index_t{1} << 18;

pair_result compare_tensors(const std::string& name, const source_tensor& a,
                            const source_tensor& b) {
  pair_result result{name, &a, &b, outcome::compared, {}, {}};
  if (a.dims != b.dims && (a.rows() != b.rows() || a.cols() != b.cols())) {
    result.what = outcome::other_shape;
    return result;
  }
  const index_t cols = a.cols();
  const index_t slab = std::max<index_t>(1, slab_floats / std::max<index_t>(1, cols));
  const index_t held = std::min(slab, a.rows()) * cols;
  std::vector<float> x(static_cast<std::size_t>(held)), y(x.size());
  try {
    for (index_t first = 0; first < a.rows(); first += slab) {
      const index_t count = std::min(slab, a.rows() - first);
      a.read(first, count, x.data());
      b.read(first, count, y.data());
      subbyte::error_sums part;
      part.add(subbyte::vector_view<const float>(x.data(), count * cols),
               subbyte::vector_view<const float>(y.data(), count * cols));
      result.sums.merge(part);
    }
    result.report = result.sums.report();
  } catch (const subbyte::error& e) {
    if (e.code() != subbyte::errc::unsupported_format) throw;
    if (a.type_name != b.type_name) {
      result.what = outcome::no_floats;
    } else {
      result.what = std::equal(a.bytes.begin(), a.bytes.end(), b.bytes.begin(), b.bytes.end())
                        ? outcome::same_bytes
                        : outcome::other_bytes;
    }
    result.sums = {};
  }
  return result;
}

struct comparison {
  std::vector<pair_result> pairs;  // in the order of the first model
  std::vector<std::string> only_in_a, only_in_b;
  subbyte::error_sums total;

  /// Whether every tensor of either has its counterpart.
  [[nodiscard]] bool complete() const {
    return only_in_a.empty() && only_in_b.empty() &&
           std::all_of(pairs.begin(), pairs.end(), [](const pair_result& p) {
             return p.what == outcome::compared || p.what == outcome::same_bytes;
           });
  }
};

comparison compare(const opened_model& a, const opened_model& b) {
  // Under GGUF names, unless both models have their own.
  const bool renamed = a.named_as_stored != b.named_as_stored;
  const auto name_in = [&](const opened_model& m, const source_tensor& t) {
    if (!renamed || !m.named_as_stored) return t.name;
    return subbyte::checkpoint::gguf_name(t.name).value_or(t.name);
  };
  std::map<std::string, const source_tensor*> of_b;
  for (const source_tensor& t : b.model.tensors) of_b.emplace(name_in(b, t), &t);
  index_t total = 0;
  for (const source_tensor& t : a.model.tensors) total += t.size();
  comparison all;
  example::progress_bar bar("comparing");
  index_t done = 0;
  for (const source_tensor& t : a.model.tensors) {
    const std::string name = name_in(a, t);
    const auto found = of_b.find(name);
    if (found == of_b.end()) {
      all.only_in_a.push_back(name);
    } else {
      if (renamed && subbyte::checkpoint::rows_are_rotated(name)) {
        all.pairs.push_back({name, &t, found->second, outcome::rows_reordered, {}, {}});
      } else {
        all.pairs.push_back(compare_tensors(name, t, *found->second));
        all.total.merge(all.pairs.back().sums);
      }
      of_b.erase(found);
    }
    done += t.size();
    bar.update(static_cast<double>(done), static_cast<double>(total));
  }
  for (const auto& [name, tensor] : of_b) all.only_in_b.push_back(name);
  return all;
}

/// Larger is worse; NaN is worst, and what has no figures comes last.
double badness(const pair_result& p, const std::string& by) {
  const subbyte::error_report& r = p.report;
  if (p.what != outcome::compared) return -std::numeric_limits<double>::infinity();
  const double value = by == "mse"      ? r.mse
                       : by == "max"    ? r.max_abs
                       : by == "cosine" ? -r.cosine
                       : by == "sqnr"   ? -r.sqnr_db
                                        : r.relative_rmse;
  return std::isnan(value) ? std::numeric_limits<double>::infinity() : value;
}

void sort_pairs(comparison& all, const std::string& by) {
  if (by.empty()) return;
  std::sort(all.pairs.begin(), all.pairs.end(), [&](const pair_result& x, const pair_result& y) {
    const double a = by == "name" ? 0 : badness(x, by), b = by == "name" ? 0 : badness(y, by);
    return a != b ? a > b : x.name < y.name;
  });
}

json number(double value) {
  if (!std::isfinite(value)) return nullptr;  // JSON has no NaN and no infinity
  return value;
}

json figures(const subbyte::error_report& r) {
  return {{"weights", r.count},
          {"mse", number(r.mse)},
          {"sqnr_db", number(r.sqnr_db)},
          {"relative_rms", number(r.relative_rmse)},
          {"max_error", number(r.max_abs)},
          {"cosine", number(r.cosine)}};
}

void print_json(const comparison& all, const std::string& a, const std::string& b) {
  json root = {
      {"a", a}, {"b", b}, {"complete", all.complete()}, {"total", figures(all.total.report())}};
  root["only_in_a"] = all.only_in_a;
  root["only_in_b"] = all.only_in_b;
  root["tensors"] = json::array();
  for (const pair_result& p : all.pairs) {
    json entry = {{"name", p.name},       {"type_a", p.a->type_name}, {"type_b", p.b->type_name},
                  {"shape_a", p.a->dims}, {"shape_b", p.b->dims},     {"outcome", text_of(p.what)}};
    if (p.what == outcome::compared) entry.update(figures(p.report));
    root["tensors"].push_back(std::move(entry));
  }
  // Names of a file need not be UTF-8.
  std::cout << root.dump(1, ' ', false, json::error_handler_t::replace) << "\n";
}

std::string shape_text(const source_tensor& t) {
  std::string text;
  for (auto d = t.dims.rbegin(); d != t.dims.rend(); ++d) {
    text += (text.empty() ? "" : " x ") + std::to_string(*d);
  }
  return text.empty() ? "scalar" : text;
}

void print_figures(const std::string& name, const std::string& a, const std::string& b,
                   const subbyte::error_report& r) {
  std::printf("%-36s %-8s %-8s %11.4e %8.2f %10.6f %11.4e %10.7f\n", name.c_str(), a.c_str(),
              b.c_str(), r.mse, r.sqnr_db, r.relative_rmse, r.max_abs, r.cosine);
}

void print_text(const comparison& all) {
  std::printf("%-36s %-8s %-8s %11s %8s %10s %11s %10s\n", "tensor", "a", "b", "MSE", "SQNR dB",
              "rel. RMS", "max error", "cosine");
  for (const pair_result& p : all.pairs) {
    const std::string name = subbyte::printable(p.name);
    if (p.what == outcome::compared) {
      print_figures(name, p.a->type_name, p.b->type_name, p.report);
    } else if (p.what == outcome::other_shape) {
      std::printf("%-36s %-8s %-8s another shape: %s and %s\n", name.c_str(),
                  p.a->type_name.c_str(), p.b->type_name.c_str(), shape_text(*p.a).c_str(),
                  shape_text(*p.b).c_str());
    } else {
      std::printf("%-36s %-8s %-8s %s\n", name.c_str(), p.a->type_name.c_str(),
                  p.b->type_name.c_str(), text_of(p.what));
    }
  }
  for (const std::string& name : all.only_in_a) {
    std::printf("%-36s only in the first\n", subbyte::printable(name).c_str());
  }
  for (const std::string& name : all.only_in_b) {
    std::printf("%-36s only in the second\n", subbyte::printable(name).c_str());
  }
  print_figures("all", "", "", all.total.report());
}

}  // namespace

int main(int argc, char** argv) {
  std::string a, b, by;
  bool as_json = false, complete = true;
  CLI::App app(
      "Compares two models tensor by tensor: the error of the second as an estimate of the first. "
      "Exit code 3 if a tensor is in one of them only, has another shape or cannot be compared.",
      "compare");
  const char* const kinds =
      "GGUF file (any shard of a split one), safetensors file, or checkpoint folder";
  app.add_option("a", a, kinds)->required();
  app.add_option("b", b, kinds)->required();
  app.add_flag("--json", as_json, "everything as JSON");
  app.add_option("--sort", by, "worst first by this figure, or by name; otherwise as in the first")
      ->check(CLI::IsMember({"mse", "sqnr", "relative", "max", "cosine", "name"}));
  const int code = example::run(app, argc, argv, [&] {
    const opened_model first = open_any(a), second = open_any(b);
    comparison all = compare(first, second);
    sort_pairs(all, by);
    complete = all.complete();
    if (as_json) return print_json(all, a, b);
    for (const opened_model* m : {&first, &second}) {
      if (!m->named_as_stored) continue;
      for (const std::string& note : m->model.notes) std::fprintf(stderr, "%s\n", note.c_str());
    }
    print_text(all);
  });
  return code == 0 && !complete ? 3 : code;
}
