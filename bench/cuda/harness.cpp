// SPDX-License-Identifier: Apache-2.0
/// Results as JSON, and the arguments of the GPU benchmarks.
#include "harness.hpp"

#include <cstdio>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>
#include <stdexcept>

namespace bench {
namespace {

using json = nlohmann::ordered_json;

json to_json(const record& fields) {
  json object = json::object();
  for (const auto& [name, value] : fields) {
    std::visit([&, &key = name](const auto& v) { object[key] = v; }, value);
  }
  return object;
}

}  // namespace

void write_json(const results& r, const std::string& path) {
  json file;
  file["machine"] = to_json(r.machine);
  for (const auto& [name, records] : r.sections) {
    json& list = file[name] = json::array();
    for (const record& fields : records) list.push_back(to_json(fields));
  }
  file["skipped"] = r.skipped;
  const std::string unfinished = path + ".unfinished";
  {
    std::ofstream out(unfinished);
    out << file.dump(1) << '\n';
    out.close();
    if (!out) throw std::runtime_error("cannot write " + unfinished);
  }
  if (std::rename(unfinished.c_str(), path.c_str()) != 0) {
    throw std::runtime_error("cannot write " + path);
  }
}

std::string table(const std::vector<record>& records, const std::vector<std::string>& columns) {
  std::vector<std::vector<std::string>> rows{columns};
  for (const record& r : records) {
    std::vector<std::string>& row = rows.emplace_back();
    for (const std::string& column : columns) {
      row.emplace_back("-");
      for (const auto& [name, value] : r) {
        if (name != column) continue;
        std::ostringstream text;
        text.precision(4);
        std::visit([&](const auto& v) { text << v; }, value);
        row.back() = text.str();
      }
    }
  }
  std::string lines;
  for (const auto& row : rows) {
    for (std::size_t c = 0; c < columns.size(); ++c) {
      std::size_t width = 0;
      for (const auto& other : rows) width = std::max(width, other[c].size());
      lines += row[c];
      lines += c + 1 == columns.size() ? "\n" : std::string(width - row[c].size() + 2, ' ');
    }
  }
  return lines;
}

options parse_options(int argc, char** argv, double default_seconds) {
  options o;
  o.seconds = default_seconds;
  for (int i = 1; i < argc; ++i) {
    const std::string name = argv[i];
    if (name != "--out" && name != "--seconds" && name != "--commit") {
      throw std::invalid_argument("usage: --out FILE.json [--seconds S] [--commit C]; not " + name);
    }
    if (++i == argc) throw std::invalid_argument(name + " needs a value");
    const std::string value = argv[i];
    if (name == "--out") {
      o.out = value;
    } else if (name == "--commit") {
      o.commit = value;
    } else {
      std::size_t used = 0;
      try {
        o.seconds = std::stod(value, &used);
      } catch (const std::exception&) {
        used = 0;
      }
      if (used != value.size() || !(o.seconds > 0)) {
        throw std::invalid_argument("--seconds wants a positive number, not " + value);
      }
    }
  }
  if (o.out.empty()) throw std::invalid_argument("--out FILE.json is missing");
  return o;
}

}  // namespace bench
