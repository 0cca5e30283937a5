// SPDX-License-Identifier: Apache-2.0
/// What the GPU benchmarks share beside the device: medians, a wall-clock budget, results as
/// records.
#pragma once

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <utility>
#include <variant>
#include <vector>

namespace bench {

/// NaN of nothing.
inline double median(std::vector<double> values) {
  if (values.empty()) return std::numeric_limits<double>::quiet_NaN();
  std::sort(values.begin(), values.end());
  const std::size_t half = values.size() / 2;
  return values.size() % 2 != 0 ? values[half] : (values[half - 1] + values[half]) / 2;
}

struct summary {
  double median = std::numeric_limits<double>::quiet_NaN();
  double fastest = std::numeric_limits<double>::quiet_NaN();
  /// How far the medians of the even and of the odd repetitions lie apart, over the median: what a
  /// difference between two contenders must exceed.
  double spread = std::numeric_limits<double>::quiet_NaN();
  int repetitions = 0;
};

inline summary summarize(const std::vector<double>& repetitions) {
  summary s;
  s.repetitions = static_cast<int>(repetitions.size());
  if (repetitions.empty()) return s;
  s.median = median(repetitions);
  s.fastest = *std::min_element(repetitions.begin(), repetitions.end());
  std::vector<double> half[2];
  for (std::size_t i = 0; i < repetitions.size(); ++i) half[i % 2].push_back(repetitions[i]);
  if (!half[1].empty()) s.spread = std::abs(median(half[0]) - median(half[1])) / s.median;
  return s;
}

/// Ends what is too long for the time that there is.
class deadline {
 public:
  explicit deadline(double seconds)
      : end_(clock::now() +
             std::chrono::duration_cast<clock::duration>(std::chrono::duration<double>(seconds))) {}
  /// Seconds, negative when it has passed.
  [[nodiscard]] double left() const {
    return std::chrono::duration<double>(end_ - clock::now()).count();
  }
  [[nodiscard]] bool passed() const { return left() <= 0; }

 private:
  using clock = std::chrono::steady_clock;
  clock::time_point end_;
};

/// How many calls one replay of a graph makes: enough to touch every copy of the data, and to last
/// `replay_us`.
inline int calls_of_a_replay(double call_us, int copies, double replay_us, int most) {
  const double wanted = call_us > 0 ? std::ceil(replay_us / call_us) : most;
  return static_cast<int>(
      std::clamp(wanted, static_cast<double>(copies), static_cast<double>(std::max(most, copies))));
}

/// How many copies of a matrix are walked so that none is still in a cache when its turn comes.
inline int cold_copies(std::int64_t bytes, std::int64_t cold_bytes) {
  return static_cast<int>(std::max<std::int64_t>(2, (cold_bytes + bytes - 1) / bytes));
}

using scalar = std::variant<bool, std::int64_t, double, std::string>;
using record = std::vector<std::pair<std::string, scalar>>;

/// What a program writes.
struct results {
  record machine;
  std::vector<std::pair<std::string, std::vector<record>>> sections;
  /// What the budget left no time for.
  std::vector<std::string> skipped;

  std::vector<record>& section(const std::string& name) {
    for (auto& [own, records] : sections) {
      if (own == name) return records;
    }
    return sections.emplace_back(name, std::vector<record>()).second;
  }
};

/// Throws  std::runtime_error when the file cannot be written; it is whole or not there.
void write_json(const results& r, const std::string& path);

/// The records as lines of text under these columns; a record that lacks one has "-" there.
std::string table(const std::vector<record>& records, const std::vector<std::string>& columns);

/// The arguments of every program: --out FILE, --seconds S, --commit C.
struct options {
  std::string out;
  std::string commit;
  double seconds = 0;
};

/// Throws  std::invalid_argument, saying what is wrong.
options parse_options(int argc, char** argv, double default_seconds);

}  // namespace bench
