// SPDX-License-Identifier: Apache-2.0
#include "subbyte/calibrate/plan.hpp"

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "subbyte/calibrate/layer_loss.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "subbyte/quantize/rtn.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

namespace {

using subbyte::errc;
using subbyte::index_t;
using subbyte::plan;
using subbyte::plan_tensor;
using test_support::error_of;
using test_support::uniform;

/// Losses that fall with the bits, roughly as rounding errors do.
std::vector<plan_tensor> model(int tensors, int formats, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<plan_tensor> all;
  for (int t = 0; t < tensors; ++t) {
    plan_tensor one;
    one.name = "tensor " + std::to_string(t);
    one.weights = 256 * (1 + static_cast<index_t>(uniform(generator) * 8));
    one.sensitivity = std::pow(10.0, 3 * uniform(generator) - 2);
    for (int f = 0; f < formats; ++f) {
      const double bits = 2 + 6.0 * f / formats + 0.5 * uniform(generator);
      const double noise = std::exp(0.6 * test_support::normal(generator));
      one.candidates.push_back({"format " + std::to_string(f),
                                static_cast<index_t>(bits * static_cast<double>(one.weights) / 8),
                                noise * std::pow(4.0, -bits)});
    }
    all.push_back(one);
  }
  return all;
}

struct totals {
  index_t bytes = 0;
  double loss = 0;
};

totals totals_of(const std::vector<plan_tensor>& tensors, const std::vector<index_t>& choice) {
  totals sum;
  for (std::size_t t = 0; t < tensors.size(); ++t) {
    const auto& c = tensors[t].candidates[static_cast<std::size_t>(choice[t])];
    sum.bytes += c.bytes;
    sum.loss += c.loss * tensors[t].sensitivity;
  }
  return sum;
}

/// Every choice there is.
std::vector<totals> all_choices(const std::vector<plan_tensor>& tensors) {
  std::vector<totals> found;
  std::vector<index_t> choice(tensors.size(), 0);
  for (;;) {
    found.push_back(totals_of(tensors, choice));
    std::size_t t = 0;
    for (; t < tensors.size(); ++t) {
      if (++choice[t] < static_cast<index_t>(tensors[t].candidates.size())) break;
      choice[t] = 0;
    }
    if (t == tensors.size()) return found;
  }
}

void require_consistent(const std::vector<plan_tensor>& tensors, const plan& p) {
  const totals sum = totals_of(tensors, p.choice);
  REQUIRE(p.bytes == sum.bytes);
  REQUIRE(std::abs(p.loss - sum.loss) <= 1e-14 * sum.loss);
}

}  // namespace

TEST_CASE("plan: under every size the loss is the smallest of all choices") {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    const auto tensors = model(6, 4, seed);
    const auto choices = all_choices(tensors);
    index_t least = std::numeric_limits<index_t>::max();
    index_t most = 0;
    for (const totals& c : choices) {
      least = std::min(least, c.bytes);
      most = std::max(most, c.bytes);
    }
    for (int i = 0; i <= 40; ++i) {
      const index_t budget = least + (most - least) * i / 40;
      double best = std::numeric_limits<double>::infinity();
      for (const totals& c : choices) {
        if (c.bytes <= budget) best = std::min(best, c.loss);
      }
      const plan p = subbyte::plan_smallest_loss(tensors, budget);
      INFO("seed " << seed << ", " << budget << " bytes");
      require_consistent(tensors, p);
      REQUIRE(p.bytes <= budget);
      REQUIRE(p.optimal);
      REQUIRE(std::abs(p.loss - best) <= 1e-13 * best);
      REQUIRE(p.lower_bound <= p.loss * (1 + 1e-14));
      REQUIRE(p.lower_bound >= best * (1 - 1e-13));
    }
  }
}

TEST_CASE("plan: under every loss the size is the smallest of all choices") {
  for (std::uint64_t seed = 1; seed <= 12; ++seed) {
    const auto tensors = model(6, 4, seed);
    const auto choices = all_choices(tensors);
    double least = std::numeric_limits<double>::infinity();
    double most = 0;
    for (const totals& c : choices) {
      least = std::min(least, c.loss);
      most = std::max(most, c.loss);
    }
    for (int i = 0; i <= 40; ++i) {
      // Between two choices' losses, so that rounding cannot decide.
      const double limit = 1.0000001 * least * std::pow(most / least, i / 40.0);
      index_t best = std::numeric_limits<index_t>::max();
      for (const totals& c : choices) {
        if (c.loss <= limit) best = std::min(best, c.bytes);
      }
      const plan p = subbyte::plan_smallest_size(tensors, limit);
      INFO("seed " << seed << ", loss " << limit);
      require_consistent(tensors, p);
      REQUIRE(p.loss <= limit);
      REQUIRE(p.optimal);
      REQUIRE(p.bytes == best);
    }
  }
}

TEST_CASE("plan: a model of 300 tensors and 12 formats is planned exactly") {
  const auto tensors = model(300, 12, 5);
  for (const double bits : {2.6, 3.6, 4.5, 6.0}) {
    const plan p = subbyte::plan_for_bits_per_weight(tensors, bits);
    INFO(bits);
    require_consistent(tensors, p);
    CHECK(p.bits_per_weight() <= bits);
    CHECK(p.bits_per_weight() > bits - 0.01);
    CHECK(p.optimal);
    // A search that may keep little states its gap truthfully.
    const plan hasty = subbyte::plan_for_bits_per_weight(tensors, bits, {.max_states = 2});
    CHECK_FALSE(hasty.optimal);
    CHECK(hasty.lower_bound <= p.loss);
    CHECK(hasty.loss >= p.loss);
    CHECK(hasty.loss - hasty.lower_bound <= 0.01 * p.loss);
  }
}

TEST_CASE("plan: a mix has no larger loss than any uniform format of the same size") {
  const auto tensors = model(40, 8, 9);
  for (index_t f = 0; f < 8; ++f) {
    const totals uniform_format = totals_of(tensors, std::vector<index_t>(40, f));
    const plan p = subbyte::plan_smallest_loss(tensors, uniform_format.bytes);
    // The smallest format everywhere is the only choice of its size.
    CHECK((f == 0 ? p.loss <= uniform_format.loss : p.loss < uniform_format.loss));
    const plan small = subbyte::plan_smallest_size(tensors, uniform_format.loss);
    CHECK((f == 0 ? small.bytes <= uniform_format.bytes : small.bytes < uniform_format.bytes));
  }
}

TEST_CASE("plan: groups share a format, forced tensors keep theirs, sensitivity counts") {
  auto tensors = model(8, 5, 3);
  for (std::size_t t = 0; t < 4; ++t) tensors[t].group = "attention";
  for (std::size_t t = 4; t < 7; ++t) tensors[t].group = "feed-forward";
  tensors[7].forced = "format 4";
  tensors[1].candidates.erase(tensors[1].candidates.begin());  // no "format 0" there
  for (const double bits : {4.0, 4.6, 5.5}) {
    const plan p = subbyte::plan_for_bits_per_weight(tensors, bits);
    require_consistent(tensors, p);
    const auto rows = subbyte::plan_rows(tensors, p);
    for (std::size_t t = 0; t < 4; ++t) CHECK(rows[t].format == rows[0].format);
    for (std::size_t t = 4; t < 7; ++t) CHECK(rows[t].format == rows[4].format);
    CHECK(rows[0].format != "format 0");
    CHECK(rows[7].format == "format 4");
    // The only other choices: 4 x 5 pairs of formats.
    double best = std::numeric_limits<double>::infinity();
    for (index_t a = 1; a < 5; ++a) {
      for (index_t f = 0; f < 5; ++f) {
        const totals sum = totals_of(tensors, {a, a - 1, a, a, f, f, f, 4});
        if (8 * static_cast<double>(sum.bytes) <= bits * static_cast<double>(p.weights)) {
          best = std::min(best, sum.loss);
        }
      }
    }
    CHECK(std::abs(p.loss - best) <= 1e-13 * best);
  }

  // Bits go where a lost one costs more.
  std::vector<plan_tensor> pair(2);
  for (plan_tensor& t : pair) {
    t.weights = 8;
    t.candidates = {{"small", 1, 4.0}, {"large", 2, 1.0}};
  }
  pair[1].sensitivity = 2;
  CHECK(subbyte::plan_smallest_loss(pair, 3).choice == std::vector<index_t>{0, 1});
  pair[0].sensitivity = 3;
  CHECK(subbyte::plan_smallest_loss(pair, 3).choice == std::vector<index_t>{1, 0});
}

TEST_CASE("plan: rows hold what an example prints, and their shares add up") {
  const auto tensors = model(5, 3, 2);
  const plan p = subbyte::plan_for_bits_per_weight(tensors, 4);
  const auto rows = subbyte::plan_rows(tensors, p);
  REQUIRE(rows.size() == 5);
  double share = 0;
  index_t bytes = 0;
  for (std::size_t t = 0; t < 5; ++t) {
    CHECK(rows[t].name == tensors[t].name);
    const auto& c = tensors[t].candidates[static_cast<std::size_t>(p.choice[t])];
    CHECK(rows[t].format == c.format);
    CHECK(rows[t].loss == c.loss * tensors[t].sensitivity);
    CHECK(rows[t].bits_per_weight ==
          8 * static_cast<double>(c.bytes) / static_cast<double>(tensors[t].weights));
    share += rows[t].loss_share;
    bytes += rows[t].bytes;
  }
  CHECK(std::abs(share - 1) < 1e-12);
  CHECK(bytes == p.bytes);
}

TEST_CASE("plan: a measured limit is met by the smallest of the plans that meet it") {
  const auto tensors = model(30, 8, 4);
  for (const double factor : {0.3, 1.0, 7.0}) {
    for (const double exponent : {0.8, 1.0, 1.3}) {  // measured losses bend
      const auto measure = [&](const plan& p) { return factor * std::pow(p.loss, exponent); };
      const plan reference = subbyte::plan_for_bits_per_weight(tensors, 4.2);
      const double limit = measure(reference) * 1.0000001;
      const auto found = subbyte::plan_measured(tensors, limit, measure, {.max_measurements = 20});
      INFO(factor << " " << exponent);
      CHECK(found.measured <= limit);
      CHECK(found.measured == measure(found.best));
      CHECK(found.measurements <= 20);
      CHECK(static_cast<double>(found.best.bytes) <= 1.003 * static_cast<double>(reference.bytes));
    }
  }
  // The smallest plan at once, when it is good enough; an error when none is.
  const auto zero = [](const plan&) { return 0.0; };
  const auto at_once = subbyte::plan_measured(tensors, 1.0, zero);
  CHECK(at_once.measurements == 1);
  CHECK(at_once.best.bytes == subbyte::plan_smallest_size(tensors, 1e300).bytes);
  const auto one = [](const plan&) { return 1.0; };
  const auto e = error_of([&] { (void)subbyte::plan_measured(tensors, 0.5, one); });
  CHECK(e.code() == errc::bad_argument);
  CHECK(std::string(e.what()).find("measures 1.0") != std::string::npos);
  // A measurement that is not a number never counts as met.
  const auto nan = [](const plan&) { return std::nan(""); };
  CHECK(error_of([&] { (void)subbyte::plan_measured(tensors, 0.5, nan); }).code() ==
        errc::bad_argument);
}

TEST_CASE("plan: nothing to plan, one tensor, equal sizes and equal losses") {
  CHECK(subbyte::plan_smallest_loss({}, 0).choice.empty());
  CHECK(subbyte::plan_smallest_loss({}, 0).bits_per_weight() == 0);
  std::vector<plan_tensor> tensors(1);
  tensors[0].weights = 8;
  tensors[0].candidates = {{"a", 4, 2.0}, {"b", 4, 1.0}, {"c", 5, 1.0}, {"d", 3, 2.0}};
  CHECK(subbyte::plan_smallest_loss(tensors, 100).choice == std::vector<index_t>{1});
  CHECK(subbyte::plan_smallest_loss(tensors, 3).choice == std::vector<index_t>{3});
  CHECK(subbyte::plan_smallest_size(tensors, 1.5).choice == std::vector<index_t>{1});
  CHECK(subbyte::plan_smallest_size(tensors, 2).choice == std::vector<index_t>{3});
  tensors[0].candidates = {{"lossless", 16, 0.0}};
  CHECK(subbyte::plan_smallest_size(tensors, 0).loss == 0);
}

TEST_CASE("plan: what cannot be met or makes no sense is refused by name") {
  const auto message_of = [](auto&& call, errc code) {
    const auto e = error_of(call);
    CHECK(e.code() == code);
    return std::string(e.what());
  };
  auto tensors = model(3, 3, 1);
  const index_t least = subbyte::plan_smallest_size(tensors, 1e300).bytes;
  CHECK(
      message_of([&] { (void)subbyte::plan_smallest_loss(tensors, least - 1); }, errc::bad_argument)
          .find("takes " + std::to_string(least) + " bytes") != std::string::npos);
  CHECK(subbyte::plan_smallest_loss(tensors, least).bytes == least);
  (void)message_of([&] { (void)subbyte::plan_smallest_size(tensors, 0); }, errc::bad_argument);
  (void)message_of([&] { (void)subbyte::plan_smallest_size(tensors, std::nan("")); },
                   errc::bad_argument);
  (void)message_of([&] { (void)subbyte::plan_for_bits_per_weight(tensors, std::nan("")); },
                   errc::bad_argument);
  (void)message_of([&] { (void)subbyte::plan_smallest_loss(tensors, 9999, {.max_states = 0}); },
                   errc::bad_argument);
  const auto with = [&](auto&& change, errc code, const char* words) {
    auto changed = tensors;
    change(changed[1]);
    const std::string what =
        message_of([&] { (void)subbyte::plan_smallest_loss(changed, 1 << 20); }, code);
    CHECK(what.find("tensor 1: ") == 0);
    CHECK(what.find(words) != std::string::npos);
  };
  with([](plan_tensor& t) { t.candidates.clear(); }, errc::bad_argument, "no candidates");
  with([](plan_tensor& t) { t.candidates[1].loss = std::nan(""); }, errc::non_finite, "nan");
  with([](plan_tensor& t) { t.candidates[1].loss = -1; }, errc::bad_argument, "loss -1");
  with([](plan_tensor& t) { t.candidates[1].bytes = -1; }, errc::bad_argument, "-1 bytes");
  with([](plan_tensor& t) { t.sensitivity = -1; }, errc::bad_argument, "sensitivity");
  with([](plan_tensor& t) { t.weights = -1; }, errc::bad_argument, "-1 weights");
  with([](plan_tensor& t) { t.forced = "q9"; }, errc::bad_argument, "forced format q9");
  auto grouped = tensors;
  grouped[0].group = grouped[1].group = "pair";
  grouped[0].forced = "format 0";
  grouped[1].forced = "format 1";
  CHECK(message_of([&] { (void)subbyte::plan_smallest_loss(grouped, 1 << 20); }, errc::bad_argument)
            .find("group pair") != std::string::npos);
}

TEST_CASE("plan: the caller can stop the search") {
  const auto tensors = model(50, 8, 1);
  int calls = 0;
  double last = -1;
  auto stop = [&](double fraction) {
    CHECK(fraction >= last);
    last = fraction;
    return ++calls < 10;
  };
  const auto e =
      error_of([&] { (void)subbyte::plan_for_bits_per_weight(tensors, 4, {.progress = stop}); });
  CHECK(e.code() == errc::cancelled);
  CHECK(calls == 10);
}

TEST_CASE(
    "plan: layers whose inputs differ get different widths, and lose less than any uniform one") {
  // Figures of docs/methods/mixed-precision.md.
  const index_t n = 48;
  const index_t k = 128;
  const index_t tokens = 64;
  std::vector<plan_tensor> tensors;
  for (int layer = 0; layer < 8; ++layer) {
    const auto seed = static_cast<std::uint64_t>(layer);
    const auto w = test_support::normal_vector(static_cast<std::size_t>(n * k), 0.05, 2 * seed);
    const auto x = test_support::normal_vector(static_cast<std::size_t>(tokens * k),
                                               std::pow(2.5, layer - 4), 2 * seed + 1);
    const subbyte::matrix_view<const float> weights(w.data(), n, k);
    subbyte::layer_inputs inputs;
    inputs.x = subbyte::matrix_view<const float>(x.data(), tokens, k);
    plan_tensor t;
    t.name = "layer " + std::to_string(layer);
    t.weights = n * k;
    const auto offer = [&](auto format, const char* name) {
      using F = typename decltype(format)::type;
      const auto q = subbyte::quantize<F>(weights, {64}, subbyte::rtn{});
      t.candidates.push_back(
          {name, q.view().size_bytes(), subbyte::layer_loss(weights, q.view(), inputs)});
    };
    offer(std::type_identity<subbyte::planar<subbyte::int_grid<2>, subbyte::half>>{}, "2 bit");
    offer(std::type_identity<subbyte::planar<subbyte::int_grid<3>, subbyte::half>>{}, "3 bit");
    offer(std::type_identity<subbyte::planar<subbyte::int_grid<4>, subbyte::half>>{}, "4 bit");
    offer(std::type_identity<subbyte::planar<subbyte::int_grid<6>, subbyte::half>>{}, "6 bit");
    offer(std::type_identity<subbyte::planar<subbyte::int_grid<8>, subbyte::half>>{}, "8 bit");
    tensors.push_back(std::move(t));
  }
  for (const index_t f : {1, 2, 3}) {
    const totals same = totals_of(tensors, std::vector<index_t>(8, f));
    const plan p = subbyte::plan_smallest_loss(tensors, same.bytes);
    INFO(tensors[0].candidates[static_cast<std::size_t>(f)].format << " everywhere: " << same.loss
                                                                   << ", planned " << p.loss);
    CHECK(p.loss < 0.1 * same.loss);
    // Inputs grow with the layer's number, and widths with them.
    for (std::size_t t = 1; t < 8; ++t) CHECK(p.choice[t] >= p.choice[t - 1]);
  }
}
