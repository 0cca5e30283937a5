// SPDX-License-Identifier: Apache-2.0
/// Mixed precision: a format for every tensor, so that the predicted loss is smallest under a size,
/// or the size smallest under a loss.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <type_traits>
#include <utility>  // std::move
#include <vector>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/config.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/exec/progress.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// One way to store a tensor.
template <class Arch>
struct basic_plan_candidate {
  std::string format;  ///< any name, equal where tensors of one group may agree on it
  index_t bytes = 0;   ///< everything stored
  double loss = 0;     ///< predicted, at least 0: layer_loss() of the quantized tensor, say
};

/// A tensor to plan for.
///
/// Additive prediction: the loss of a plan is the sum of sensitivity * loss over its tensors. For
/// the second-order prediction loss is tr(E H E^T) and sensitivity 1, or what one measured
/// quantization of this tensor alone added to the model's loss, divided by its predicted loss.
template <class Arch>
struct basic_plan_tensor {
  std::string name;
  index_t weights = 0;
  std::vector<basic_plan_candidate<Arch>> candidates;
  double sensitivity = 1;
  std::string group;   ///< tensors of one group get the same format (fused q/k/v; all attention)
  std::string forced;  ///< only this format; empty: any
};

/// What was chosen, with what is known about better choices.
template <class Arch>
struct basic_plan {
  std::vector<index_t> choice;  ///< per tensor, the index of its candidate
  index_t weights = 0;
  index_t bytes = 0;
  double loss = 0;  ///< predicted
  /// No choice within the limit has a smaller objective (loss under a size, bytes under a loss):
  /// equal to the objective when the plan is proven optimal.
  double lower_bound = 0;
  bool optimal = false;

  [[nodiscard]] double bits_per_weight() const noexcept {
    return weights > 0 ? 8.0 * static_cast<double>(bytes) / static_cast<double>(weights) : 0.0;
  }
};

using plan_candidate = basic_plan_candidate<arch::native>;
using plan_tensor = basic_plan_tensor<arch::native>;
using plan = basic_plan<arch::native>;

/// max_states  how many partial plans the search keeps per tensor before it gives up the proof of
///             optimality (24 bytes each, and 8 more per tensor to trace the choices back).
struct plan_options {
  index_t max_states = index_t{1} << 16;
  progress_ref progress{};
};

/// One line of a printed plan.
template <class Arch>
struct basic_plan_row {
  std::string name;
  std::string format;
  double bits_per_weight = 0;
  index_t bytes = 0;
  double loss = 0;        ///< predicted, with the sensitivity
  double loss_share = 0;  ///< of the plan's loss, 0 to 1
};
using plan_row = basic_plan_row<arch::native>;

namespace detail {

/// One item of a multiple-choice knapsack: exactly one of its options is taken.
struct knapsack_option {
  double weight;
  double cost;
  index_t index;  // of the option as the caller knows it
};

template <class Arch>
struct knapsack_result {
  std::vector<index_t> choice;
  double cost = 0;
  double weight = 0;
  double lower_bound = 0;
  bool feasible = false;
  bool optimal = false;
};

/// Smallest total cost under a total weight, one option per item.
///
/// Lower convex hulls and a greedy walk over their edges give the linear relaxation: its
/// multiplier, a lower bound and a feasible choice. Then a dynamic programme over partial choices
/// that are not dominated, less those whose Lagrangian bound exceeds the best known choice: exact
/// unless it outgrows max_states. Source  Sinha and Zoltners, The multiple-choice knapsack problem
/// (1979), for the relaxation.
template <class Arch>
class knapsack {
 public:
  using options = std::vector<knapsack_option>;

  knapsack(std::vector<options> items, double capacity, const plan_options& how)
      : items_(std::move(items)), capacity_(capacity), how_(how) {}

  [[nodiscard]] knapsack_result<Arch> solve() {
    knapsack_result<Arch> best;
    for (options& item : items_) drop_dominated(item);
    double least = 0;
    for (const options& item : items_) least += item.front().weight;
    if (least > capacity_) {
      best.weight = least;
      return best;
    }
    best = relax();
    if (!best.optimal) search(best);
    return best;
  }

 private:
  // Ascending in weight, descending in cost: what is neither smaller nor better than another goes.
  static void drop_dominated(options& item) {
    std::sort(item.begin(), item.end(), [](const knapsack_option& a, const knapsack_option& b) {
      if (a.weight != b.weight) return a.weight < b.weight;
      if (a.cost != b.cost) return a.cost < b.cost;
      return a.index < b.index;
    });
    std::size_t kept = 1;
    for (std::size_t i = 1; i < item.size(); ++i) {
      if (item[i].cost < item[kept - 1].cost) item[kept++] = item[i];
    }
    item.resize(kept);
  }

  struct edge {
    double saving;  // cost saved per weight
    std::size_t item;
    std::size_t from, to;  // options
  };

  // The edges of an item's lower convex hull, with falling savings.
  static void add_hull(const options& item, std::size_t number, std::vector<edge>& edges) {
    const auto saving = [&](std::size_t a, std::size_t b) {
      return (item[a].cost - item[b].cost) / (item[b].weight - item[a].weight);
    };
    std::vector<std::size_t> hull;
    for (std::size_t i = 0; i < item.size(); ++i) {
      while (hull.size() > 1 &&
             saving(hull[hull.size() - 2], hull.back()) <= saving(hull.back(), i)) {
        hull.pop_back();
      }
      hull.push_back(i);
    }
    for (std::size_t i = 0; i + 1 < hull.size(); ++i) {
      edges.push_back({saving(hull[i], hull[i + 1]), number, hull[i], hull[i + 1]});
    }
  }

  [[nodiscard]] knapsack_result<Arch> relax() {
    std::vector<edge> edges;
    for (std::size_t i = 0; i < items_.size(); ++i) add_hull(items_[i], i, edges);
    std::sort(edges.begin(), edges.end(), [](const edge& a, const edge& b) {
      return a.saving != b.saving ? a.saving > b.saving : a.item < b.item;
    });
    std::vector<std::size_t> at(items_.size(), 0);
    double weight = total(at, &knapsack_option::weight);
    double relaxed = total(at, &knapsack_option::cost);
    bool split = false;
    for (const edge& e : edges) {
      const knapsack_option& from = items_[e.item][e.from];
      const knapsack_option& to = items_[e.item][e.to];
      const double more = to.weight - from.weight;
      if (!split) {
        if (weight + more <= capacity_) {
          relaxed -= from.cost - to.cost;
        } else {
          split = true;  // the edge that the relaxation takes a fraction of
          multiplier_ = e.saving;
          relaxed -= (capacity_ - weight) * e.saving;
        }
      }
      // Later edges may still fit; only from where an item stands.
      if (at[e.item] == e.from && weight + more <= capacity_) {
        at[e.item] = e.to;
        weight += more;
      }
    }
    knapsack_result<Arch> result;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      result.choice.push_back(items_[i][at[i]].index);
    }
    result.cost = total(at, &knapsack_option::cost);
    result.weight = total(at, &knapsack_option::weight);
    result.feasible = true;
    result.optimal = !split;
    result.lower_bound = split ? std::min(relaxed, result.cost) : result.cost;
    return result;
  }

  [[nodiscard]] double total(const std::vector<std::size_t>& at,
                             double knapsack_option::*field) const {
    double sum = 0;
    for (std::size_t i = 0; i < items_.size(); ++i) sum += items_[i][at[i]].*field;
    return sum;
  }

  struct state {
    double weight;
    double cost;
    std::uint32_t parent;
    std::uint32_t option;
  };
  struct step {
    std::uint32_t parent;
    std::uint32_t option;
  };

  void search(knapsack_result<Arch>& best) {
    // The least that the items from i on add: weight, and cost + multiplier * weight.
    std::vector<double> rest_weight(items_.size() + 1, 0);
    std::vector<double> rest_bound(items_.size() + 1, 0);
    for (std::size_t i = items_.size(); i-- > 0;) {
      double bound = std::numeric_limits<double>::infinity();
      for (const knapsack_option& o : items_[i]) {
        bound = std::min(bound, o.cost + multiplier_ * o.weight);
      }
      rest_weight[i] = rest_weight[i + 1] + items_[i].front().weight;
      rest_bound[i] = rest_bound[i + 1] + bound;
    }
    // Rounding of sums of n terms, so that no partial choice of an optimal one is lost to it.
    const double slack = static_cast<double>(items_.size() + 8) * 0x1p-52;
    bool complete = true;
    std::vector<std::vector<step>> trace(items_.size());
    std::vector<state> states{{0, 0, 0, 0}};
    std::vector<state> next;
    for (std::size_t i = 0; i < items_.size(); ++i) {
      if (!how_.progress(static_cast<double>(i) / static_cast<double>(items_.size()))) {
        throw_error(errc::cancelled, "plan", "stopped by the caller");
      }
      next.clear();
      const double room = capacity_ * (1 + slack) - rest_weight[i + 1];
      const double limit = best.cost + multiplier_ * capacity_;
      const double allowed = limit + slack * (std::abs(limit) + std::abs(best.cost));
      for (std::size_t p = 0; p < states.size(); ++p) {
        for (std::size_t o = 0; o < items_[i].size(); ++o) {
          const double weight = states[p].weight + items_[i][o].weight;
          const double cost = states[p].cost + items_[i][o].cost;
          if (weight > room) break;
          if (cost + multiplier_ * weight + rest_bound[i + 1] > allowed) continue;
          next.push_back(
              {weight, cost, static_cast<std::uint32_t>(p), static_cast<std::uint32_t>(o)});
        }
      }
      std::sort(next.begin(), next.end(), [](const state& a, const state& b) {
        if (a.weight != b.weight) return a.weight < b.weight;
        if (a.cost != b.cost) return a.cost < b.cost;
        return a.parent != b.parent ? a.parent < b.parent : a.option < b.option;
      });
      std::size_t kept = 0;
      for (const state& s : next) {
        if (kept == 0 || s.cost < next[kept - 1].cost) next[kept++] = s;
      }
      next.resize(kept);
      const auto most = static_cast<std::size_t>(how_.max_states);
      if (next.size() > most) {
        complete = false;
        thin(next, most);
      }
      for (const state& s : next) trace[i].push_back({s.parent, s.option});
      states.swap(next);
    }
    // Sorted by rising weight and falling cost: the last one that fits.
    while (!states.empty() && states.back().weight > capacity_) states.pop_back();
    if (!states.empty() && states.back().cost < best.cost) {
      best.cost = states.back().cost;
      best.weight = states.back().weight;
      std::size_t at = states.size() - 1;
      for (std::size_t i = items_.size(); i-- > 0;) {
        const step s = trace[i][at];
        best.choice[i] = items_[i][s.option].index;
        at = s.parent;
      }
    }
    best.optimal = complete;
    if (complete) best.lower_bound = best.cost;
    best.lower_bound = std::min(best.lower_bound, best.cost);
  }

  // Keeps those with the smallest bounds, in their order.
  void thin(std::vector<state>& states, std::size_t most) const {
    std::vector<double> bounds;
    for (const state& s : states) bounds.push_back(s.cost + multiplier_ * s.weight);
    std::vector<double> sorted = bounds;
    const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(most);
    std::nth_element(sorted.begin(), middle, sorted.end());
    const double threshold = *middle;
    std::size_t kept = 0;
    for (std::size_t i = 0; i < states.size(); ++i) {
      if (kept < most && bounds[i] <= threshold) states[kept++] = states[i];
    }
    states.resize(kept);
  }

  std::vector<options> items_;
  double capacity_;
  plan_options how_;
  double multiplier_ = 0;
};

/// Tensors of one group as one item: its options are the formats that all of them offer.
template <class Arch>
struct plan_item {
  std::vector<std::size_t> members;
  std::vector<std::vector<index_t>> choices;  // per option, each member's candidate
  std::vector<index_t> bytes;
  std::vector<double> loss;
};

template <class Arch>
[[noreturn, gnu::cold, gnu::noinline]] void reject_plan(const std::string& subject,
                                                        const std::string& message,
                                                        errc code = errc::bad_argument) {
  throw_error(code, subject, message);
}

template <class Arch>
void check_plan_tensor(const basic_plan_tensor<Arch>& t) {
  if (t.candidates.empty()) reject_plan<Arch>(t.name, "no candidates; at least one is required");
  if (t.weights < 0) {
    reject_plan<Arch>(t.name, std::to_string(t.weights) + " weights; at least 0 are required");
  }
  if (!(t.sensitivity >= 0) || !std::isfinite(t.sensitivity)) {
    reject_plan<Arch>(t.name, "sensitivity " + std::to_string(t.sensitivity) +
                                  "; a finite number of at least 0 is required");
  }
  for (const auto& c : t.candidates) {
    constexpr index_t most = index_t{1} << 52;
    if (const index_t bytes = c.bytes; bytes < 0 || bytes > most) {
      reject_plan<Arch>(t.name, c.format + " takes " + std::to_string(c.bytes) +
                                    " bytes; 0 to 2^52 are required");
    }
    if (!std::isfinite(c.loss) || !std::isfinite(c.loss * t.sensitivity)) {
      reject_plan<Arch>(
          t.name,
          c.format + " has loss " + std::to_string(c.loss) + "; a finite number is required",
          errc::non_finite);
    }
    if (c.loss < 0) {
      reject_plan<Arch>(
          t.name, c.format + " has loss " + std::to_string(c.loss) + "; at least 0 is required");
    }
  }
}

template <class Arch>
[[nodiscard]] index_t candidate_named(const basic_plan_tensor<Arch>& t, const std::string& format) {
  for (std::size_t c = 0; c < t.candidates.size(); ++c) {
    if (t.candidates[c].format == format) return static_cast<index_t>(c);
  }
  return -1;
}

template <class Arch>
[[nodiscard]] std::vector<plan_item<Arch>> plan_items(
    std::span<const basic_plan_tensor<Arch>> tensors) {
  std::vector<plan_item<Arch>> items;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    check_plan_tensor(tensors[t]);
    const std::string& group = tensors[t].group;
    plan_item<Arch>* found = nullptr;
    for (plan_item<Arch>& item : items) {
      if (!group.empty() && tensors[item.members.front()].group == group) found = &item;
    }
    if (found == nullptr) found = &items.emplace_back();
    found->members.push_back(t);
  }
  for (plan_item<Arch>& item : items) {
    const auto& first = tensors[item.members.front()];
    for (std::size_t option = 0; option < first.candidates.size(); ++option) {
      const std::string& format = first.candidates[option].format;
      std::vector<index_t> choice;
      index_t bytes = 0;
      double loss = 0;
      for (const std::size_t member : item.members) {
        const auto& t = tensors[member];
        // A tensor on its own may offer one format name twice (with other settings).
        const index_t c =
            item.members.size() == 1 ? static_cast<index_t>(option) : candidate_named(t, format);
        if (c < 0 || (!t.forced.empty() && t.forced != format)) break;
        const auto& candidate = t.candidates[static_cast<std::size_t>(c)];
        choice.push_back(c);
        bytes += candidate.bytes;
        loss += candidate.loss * t.sensitivity;
      }
      if (choice.size() != item.members.size()) continue;
      item.choices.push_back(std::move(choice));
      item.bytes.push_back(bytes);
      item.loss.push_back(loss);
    }
    if (item.choices.empty()) {
      reject_plan<Arch>(first.name, first.group.empty()
                                        ? "no candidate is the forced format " + first.forced
                                        : "the tensors of group " + first.group +
                                              " have no format in common that is allowed");
    }
  }
  return items;
}

/// The smallest objective under a limit on the other quantity.
template <class Arch>
[[nodiscard]] basic_plan<Arch> solve_plan(std::span<const basic_plan_tensor<Arch>> tensors,
                                          bool minimise_loss, double limit,
                                          const plan_options& options) {
  if (options.max_states < 1) {
    reject_plan<Arch>("max_states",
                      std::to_string(options.max_states) + "; at least 1 is required");
  }
  const auto items = plan_items<Arch>(tensors);
  std::vector<std::vector<knapsack_option>> problem;
  for (const plan_item<Arch>& item : items) {
    auto& choices = problem.emplace_back();
    for (std::size_t o = 0; o < item.choices.size(); ++o) {
      const double bytes = static_cast<double>(item.bytes[o]);
      const double loss = item.loss[o];
      choices.push_back(
          {minimise_loss ? bytes : loss, minimise_loss ? loss : bytes, static_cast<index_t>(o)});
    }
  }
  const knapsack_result<Arch> found = knapsack<Arch>(std::move(problem), limit, options).solve();
  if (!found.feasible) {
    reject_plan<Arch>("plan", minimise_loss
                                  ? "the smallest choice takes " +
                                        std::to_string(static_cast<index_t>(found.weight)) +
                                        " bytes, which is more than the " +
                                        std::to_string(static_cast<index_t>(limit)) + " allowed"
                                  : "the best choice has a predicted loss of " +
                                        std::to_string(found.weight) + ", which is more than the " +
                                        std::to_string(limit) + " allowed");
  }
  basic_plan<Arch> result;
  result.choice.resize(tensors.size());
  for (std::size_t i = 0; i < items.size(); ++i) {
    const auto o = static_cast<std::size_t>(found.choice[i]);
    for (std::size_t m = 0; m < items[i].members.size(); ++m) {
      result.choice[items[i].members[m]] = items[i].choices[o][m];
    }
    result.bytes += items[i].bytes[o];
    result.loss += items[i].loss[o];
  }
  for (const auto& t : tensors) result.weights += t.weights;
  result.lower_bound = found.lower_bound;
  result.optimal = found.optimal;
  return result;
}

}  // namespace detail

/// The smallest predicted loss in at most max_bytes.
///
/// Numerics  exact (plan::optimal) unless more than max_states partial plans would have to be kept;
///           otherwise loss - lower_bound is the most that is missing. The same for every run.
/// Cost      tensors * states; models of some hundred tensors and ten formats take well below a
///           second, because the bound leaves few states.
/// Throws    bad_argument when no choice fits (with the smallest size there is), for tensors
/// without
///           candidates, negative sizes or losses, a group without a common format; non_finite;
///           cancelled.
template <class Arch = arch::native>
[[nodiscard]] basic_plan<Arch> plan_smallest_loss(
    std::type_identity_t<std::span<const basic_plan_tensor<Arch>>> tensors, index_t max_bytes,
    const plan_options& options = {}) {
  return detail::solve_plan<Arch>(tensors, true, static_cast<double>(max_bytes), options);
}

/// The smallest predicted loss in at most `bits_per_weight` on average over all tensors.
///
/// Throws  as plan_smallest_loss; bad_argument for a width that is not a number.
template <class Arch = arch::native>
[[nodiscard]] basic_plan<Arch> plan_for_bits_per_weight(
    std::type_identity_t<std::span<const basic_plan_tensor<Arch>>> tensors, double bits_per_weight,
    const plan_options& options = {}) {
  double weights = 0;
  for (const auto& t : tensors) weights += static_cast<double>(t.weights);
  const double bytes = std::floor(bits_per_weight * weights / 8);
  if (!(bytes >= 0) || bytes > 0x1p62) {
    detail::reject_plan<Arch>("bits_per_weight", std::to_string(bits_per_weight) +
                                                     "; a finite number of at least 0 is required");
  }
  return detail::solve_plan<Arch>(tensors, true, bytes, options);
}

/// The smallest size with a predicted loss of at most max_loss.
///
/// Numerics, cost and errors as plan_smallest_loss, with size and loss exchanged.
template <class Arch = arch::native>
[[nodiscard]] basic_plan<Arch> plan_smallest_size(
    std::type_identity_t<std::span<const basic_plan_tensor<Arch>>> tensors, double max_loss,
    const plan_options& options = {}) {
  if (!(max_loss >= 0)) {
    detail::reject_plan<Arch>("max_loss",
                              std::to_string(max_loss) + "; a number of at least 0 is required");
  }
  return detail::solve_plan<Arch>(tensors, false, max_loss, options);
}

/// The plan as lines to print, one per tensor.
template <class Arch = arch::native>
[[nodiscard]] std::vector<basic_plan_row<Arch>> plan_rows(
    std::type_identity_t<std::span<const basic_plan_tensor<Arch>>> tensors,
    const basic_plan<Arch>& chosen) {
  std::vector<basic_plan_row<Arch>> rows;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const auto& c = tensors[t].candidates[static_cast<std::size_t>(chosen.choice[t])];
    const double loss = c.loss * tensors[t].sensitivity;
    const double weights = static_cast<double>(tensors[t].weights);
    rows.push_back({tensors[t].name, c.format,
                    weights > 0 ? 8 * static_cast<double>(c.bytes) / weights : 0.0, c.bytes, loss,
                    chosen.loss > 0 ? loss / chosen.loss : 0.0});
  }
  return rows;
}

/// max_measurements  how often the model may be measured.
/// size_tolerance    stop when the plan is known to be within this fraction of the smallest size.
struct measured_plan_options {
  int max_measurements = 12;
  double size_tolerance = 0.002;
  plan_options search{};
};

/// A plan whose loss was measured.
template <class Arch>
struct basic_measured_plan {
  basic_plan<Arch> best;
  double measured = 0;
  int measurements = 0;
};
using measured_plan = basic_measured_plan<arch::native>;

/// The smallest plan found whose measured loss (KL divergence, perplexity increase) is at most
/// max_measured.
///
/// measure(plan) quantizes and measures: double, lower is better. Predicted losses only rank; the
/// measured one decides. Starting from the smallest and the largest plan, sizes in between are
/// tried: alternately where the ratio of measured to predicted loss so far puts the limit, and
/// half way. The plan that is returned was measured and is within the limit, also when the measured
/// loss is not monotone in the size.
///
/// Cost    at most max_measurements calls of measure.
/// Throws  bad_argument when even the plan of the smallest predicted loss measures more than
///         max_measured (with what it measures), and as plan_smallest_loss; what measure throws.
template <class Arch = arch::native, class Measure>
requires std::is_invocable_r_v < double, Measure&, const basic_plan<Arch>
& > [[nodiscard]] basic_measured_plan<Arch> plan_measured(
        std::type_identity_t<std::span<const basic_plan_tensor<Arch>>> tensors, double max_measured,
        Measure&& measure, const measured_plan_options& options = {}) {
  if (options.max_measurements < 2) {
    detail::reject_plan<Arch>(
        "max_measurements", std::to_string(options.max_measurements) + "; at least 2 are required");
  }
  const double unlimited = 0x1p62;
  basic_measured_plan<Arch> result;
  const auto measured = [&](const basic_plan<Arch>& p) {
    ++result.measurements;
    return static_cast<double>(measure(p));
  };
  result.best =
      detail::solve_plan<Arch>(tensors, false, std::numeric_limits<double>::max(), options.search);
  result.measured = measured(result.best);
  if (result.measured <= max_measured) return result;
  index_t too_small = result.best.bytes;
  double ratio = result.best.loss > 0 ? result.measured / result.best.loss : 0;

  result.best = detail::solve_plan<Arch>(tensors, true, unlimited, options.search);
  result.measured = measured(result.best);
  if (!(result.measured <= max_measured)) {
    detail::reject_plan<Arch>("max_measured", "the plan of the smallest predicted loss measures " +
                                                  std::to_string(result.measured) +
                                                  ", which is more than the " +
                                                  std::to_string(max_measured) + " allowed");
  }
  for (bool by_ratio = true; result.measurements < options.max_measurements; by_ratio = !by_ratio) {
    const index_t span = result.best.bytes - too_small;
    if (static_cast<double>(span) <= options.size_tolerance * static_cast<double>(too_small) ||
        span <= 1) {
      break;
    }
    basic_plan<Arch> tried;
    tried.bytes = too_small;
    const double wanted = ratio > 0 ? max_measured / ratio : 0;
    if (by_ratio && wanted > result.best.loss) {
      tried = detail::solve_plan<Arch>(tensors, false, wanted, options.search);
    }
    if (tried.bytes <= too_small || tried.bytes >= result.best.bytes) {
      tried = detail::solve_plan<Arch>(tensors, true, static_cast<double>(too_small + span / 2),
                                       options.search);
    }
    if (tried.bytes <= too_small) {  // no plan lies between: the upper half is left
      too_small += span / 2;
      continue;
    }
    const double loss = measured(tried);
    if (tried.loss > 0 && loss > 0) ratio = loss / tried.loss;
    if (loss <= max_measured) {
      result.best = std::move(tried);
      result.measured = loss;
    } else {
      too_small = tried.bytes;
    }
  }
  return result;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
