// SPDX-License-Identifier: Apache-2.0
#include "subbyte/metrics/divergence.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <vector>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

constexpr double infinity = std::numeric_limits<double>::infinity();
constexpr float inf = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();
constexpr double eps = 0x1p-52;

// |a - b| within a few roundings of numbers of the given size.
bool near(double a, double b, double size, int roundings = 16) {
  return std::fabs(a - b) <= roundings * eps * size;
}

// KL of softmax(0, x) against softmax(0, y): two classes with odds e^x and e^y.
double two_class_kl(double x, double y) {
  const double p = 1 / (1 + std::exp(-x));
  const double q = 1 / (1 + std::exp(-y));
  return p * std::log(p / q) + (1 - p) * std::log((1 - p) / (1 - q));
}

std::vector<float> random_logits(std::size_t n, std::mt19937_64& random) {
  std::vector<float> v(n);
  for (float& x : v) x = static_cast<float>(random() >> 40) * 0x1p-20f - 8;
  return v;
}

}  // namespace

TEST_CASE("divergence: log_sum_exp equals its definition and does not overflow") {
  CHECK(near(log_sum_exp(std::vector<float>{0, 0}), std::log(2.0), 1));
  CHECK(near(log_sum_exp(std::vector<float>{1, 2, 3}),
             std::log(std::exp(1.0) + std::exp(2.0) + std::exp(3.0)), 4));
  CHECK(log_sum_exp(std::vector<float>{5}) == 5);
  CHECK(near(log_sum_exp(std::vector<float>{3e38f, 3e38f}), 3.0e38, 3.1e38, 1 << 28));
  CHECK(near(log_sum_exp(std::vector<float>{-1e4f, -1e4f}), -1e4 + std::log(2.0), 1e4));
  CHECK(log_sum_exp(std::vector<float>{-inf, 2, -inf}) == 2);
  CHECK(log_sum_exp(std::vector<float>{}) == -infinity);
  CHECK(log_sum_exp(std::vector<float>{-inf, -inf}) == -infinity);
  CHECK(std::isnan(log_sum_exp(std::vector<float>{1, not_a_number, 3})));
  CHECK(std::isnan(log_sum_exp(std::vector<float>{1, inf})));
  CHECK(std::isnan(log_sum_exp(std::vector<float>{not_a_number, not_a_number})));
}

TEST_CASE("divergence: KL of two classes is the formula") {
  for (const float x : {-3.0f, -0.5f, 0.0f, 1.0f, 4.0f}) {
    for (const float y : {-2.0f, 0.0f, 0.25f, 5.0f}) {
      CAPTURE(x, y);
      const double kl = logit_kl(std::vector<float>{0, x}, std::vector<float>{0, y});
      const double expected = two_class_kl(static_cast<double>(x), static_cast<double>(y));
      // Both sides add terms of size up to |x| + |y|; each 1 - p of the formula loses e^|x| ulps.
      CHECK(near(kl, expected, 10 * std::exp(5.0)));
    }
  }
  // p = (1/2, 1/2) against q = (4/5, 1/5): ln(5/4) exactly, as 0.5 ln(5/8) + 0.5 ln(5/2).
  const float ln4 = std::log(4.0f);
  const double shift = static_cast<double>(ln4);
  CHECK(near(logit_kl(std::vector<float>{0, 0}, std::vector<float>{ln4, 0}),
             std::log((1 + std::exp(shift)) / 2) - shift / 2, 2));
}

TEST_CASE("divergence: KL of a uniform base is ln v minus entropy terms by formula") {
  // Base constant over v tokens, model a one-hot bump of height h:
  // KL = ln((v - 1 + e^h) / v) - h / v.
  for (const int v : {2, 10, 4096}) {
    for (const float h : {0.0f, 1.0f, 3.0f, -2.0f}) {
      std::vector<float> base(static_cast<std::size_t>(v), 1.5f);
      std::vector<float> bump(static_cast<std::size_t>(v), -0.25f);
      bump.back() += h;
      const double height = static_cast<double>(h);
      const double expected = std::log((v - 1 + std::exp(height)) / v) - height / v;
      CHECK(near(logit_kl(base, bump), expected, 20, v));
    }
  }
}

TEST_CASE("divergence: equal distributions have no divergence, however they are shifted") {
  std::mt19937_64 random(1);
  for (int round = 0; round < 20; ++round) {
    const std::vector<float> logits = random_logits(100, random);
    CHECK(logit_kl(logits, logits) == 0);
    std::vector<float> shifted = logits;
    for (float& l : shifted) l += 4;  // exact: multiples of 2^-20 below 16
    CHECK(near(logit_kl(logits, shifted), 0, 16, 100));
  }
  for (float x = 0.25f; x < 5; x += 0.25f) {
    for (float shift = 1; shift < 20; ++shift) {
      // Half of these round to just below 0 before the limit.
      const std::vector<float> base{0, x};
      CHECK(logit_kl(base, std::vector<float>{shift, x + shift}) >= 0);
    }
  }
  const std::vector<float> constant(50, 3.0f);
  const std::vector<float> other_constant(50, -7.0f);
  CHECK(near(logit_kl(constant, other_constant), 0, 16));
}

TEST_CASE("divergence: KL is not negative and grows when the model moves away") {
  std::mt19937_64 random(2);
  for (int round = 0; round < 50; ++round) {
    const std::vector<float> base = random_logits(64, random);
    const std::vector<float> direction = random_logits(64, random);
    double last = 0;
    for (const float step : {1.0f / 64, 1.0f / 16, 0.25f, 1.0f}) {
      std::vector<float> moved = base;
      for (std::size_t i = 0; i < moved.size(); ++i) moved[i] += step * direction[i];
      const double kl = logit_kl(base, moved);
      CHECK(kl > last);  // KL along a ray of logits is convex with its minimum 0 at the base
      last = kl;
    }
  }
}

TEST_CASE("divergence: masked, missing and broken logits are defined") {
  CHECK(near(logit_kl(std::vector<float>{0, -inf, 0}, std::vector<float>{0, 0, 0}), std::log(1.5),
             2));
  CHECK(logit_kl(std::vector<float>{0, 0}, std::vector<float>{0, -inf}) == infinity);
  CHECK(logit_kl(std::vector<float>{0, -inf}, std::vector<float>{5, -inf}) == 0);
  CHECK(logit_kl(std::vector<float>{}, std::vector<float>{}) == 0);
  CHECK(std::isnan(logit_kl(std::vector<float>{0, not_a_number}, std::vector<float>{0, 1})));
  CHECK(std::isnan(logit_kl(std::vector<float>{0, 1}, std::vector<float>{not_a_number, 1})));
  CHECK(std::isnan(logit_kl(std::vector<float>{-inf, -inf}, std::vector<float>{0, 1})));
}

TEST_CASE("divergence: the top token is the first largest, and never NaN") {
  CHECK(top_token(std::vector<float>{1, 3, 2}) == 1);
  CHECK(top_token(std::vector<float>{2, 2, 2}) == 0);
  CHECK(top_token(std::vector<float>{1, 5, 5}) == 1);
  CHECK(top_token(std::vector<float>{not_a_number, 1, not_a_number, 2}) == 3);
  CHECK(top_token(std::vector<float>{2, not_a_number, 1}) == 0);
  CHECK(top_token(std::vector<float>{not_a_number, not_a_number}) == 0);
  CHECK(top_token(std::vector<float>{-inf, -inf}) == 0);
}

TEST_CASE("divergence: likelihoods of all tokens add up to one") {
  std::mt19937_64 random(3);
  const std::vector<float> logits = random_logits(200, random);
  double total = 0;
  for (index_t t = 0; t < 200; ++t) total += std::exp(-token_nll(logits, t));
  CHECK(near(total, 1, 16, 200));
  CHECK(near(token_nll(std::vector<float>(8, 2.0f), 5), std::log(8.0), 4));
}

TEST_CASE("divergence: moments are mean, variance and standard error") {
  moments m;
  for (const double x : {2.0, 4.0, 4.0, 4.0, 5.0, 5.0, 7.0, 9.0}) m.add(x);
  CHECK(m.count == 8);
  CHECK(near(m.mean(), 5, 5));
  CHECK(near(m.variance(), 32.0 / 7, 8));
  CHECK(near(m.standard_error(), std::sqrt(32.0 / 7 / 8), 8));
  moments constant;
  for (int i = 0; i < 1000; ++i) constant.add(0.1);
  CHECK(constant.mean() == 0.1);
  CHECK(constant.variance() == 0);
}

TEST_CASE("divergence: moments of parts merge into those of the whole") {
  std::mt19937_64 random(4);
  std::vector<double> values(1000);
  for (double& v : values) v = static_cast<double>(random() >> 11) * 0x1p-53 + 1e3;
  moments whole;
  for (const double v : values) whole.add(v);
  for (const std::size_t cut : {std::size_t{0}, std::size_t{1}, std::size_t{400}, values.size()}) {
    moments a;
    moments b;
    for (std::size_t i = 0; i < values.size(); ++i) (i < cut ? a : b).add(values[i]);
    a.merge(b);
    CHECK(a.count == whole.count);
    CHECK(near(a.mean(), whole.mean(), 1e3, 1000));
    // Each of 1000 updates rounds products of numbers whose inputs carry eps * 1e3.
    CHECK(near(a.variance(), whole.variance(), 1e3, 1000));
  }
}

TEST_CASE("divergence: nothing measured is NaN, one value has no standard error") {
  moments m;
  CHECK(std::isnan(m.mean()));
  CHECK(std::isnan(m.variance()));
  CHECK(std::isnan(m.standard_error()));
  m.add(3);
  CHECK(m.mean() == 3);
  CHECK(std::isnan(m.standard_error()));
  CHECK(std::isnan(perplexity_sums().perplexity()));
  const divergence_report none = divergence_sums().report();
  CHECK(none.tokens == 0);
  CHECK(std::isnan(none.kl));
  CHECK(std::isnan(none.kl_max));
  CHECK(std::isnan(none.same_top));
  CHECK(std::isnan(none.perplexity));
}

TEST_CASE("divergence: perplexity of a uniform guess is the vocabulary") {
  perplexity_sums sums;
  const std::vector<float> logits(4096, 0.0f);
  for (index_t t = 0; t < 10; ++t) sums.add(token_nll(logits, t));
  CHECK(near(sums.perplexity(), 4096, 4096, 64));
  CHECK(sums.standard_error() == 0);
}

TEST_CASE("divergence: perplexity and its standard error, worked out by hand") {
  // NLL 1 and 3: mean 2, variance 2, standard error 1.
  perplexity_sums sums;
  sums.add(1);
  perplexity_sums rest;
  rest.add(3);
  sums.merge(rest);
  CHECK(near(sums.perplexity(), std::exp(2.0), 8));
  CHECK(near(sums.standard_error(), std::exp(2.0), 8));
}

TEST_CASE("divergence: the report of a stream, worked out by hand") {
  // p_base = 1/2, 1/4 and p = 1/4, 1/4: NLL differences ln 2 and 0, so the ratio is sqrt(2) and its
  // standard error sqrt(2) * (ln 2)/2; probability changes -1/4 and 0.
  const double ln2 = std::log(2.0);
  divergence_sums sums;
  sums.add(token_divergence{0.3, ln2, 2 * ln2, true});
  divergence_sums rest;
  rest.add(token_divergence{0.1, 2 * ln2, 2 * ln2, false});
  sums.merge(rest);
  const divergence_report r = sums.report();
  CHECK(r.tokens == 2);
  CHECK(near(r.kl, 0.2, 1));
  CHECK(near(r.kl_standard_error, 0.1, 1));
  CHECK(r.kl_max == 0.3);
  CHECK(r.same_top == 0.5);
  CHECK(near(r.same_top_standard_error, 0.5, 1));
  CHECK(near(r.base_perplexity, std::pow(2.0, 1.5), 4));
  CHECK(near(r.perplexity, 4, 4));
  CHECK(near(r.perplexity_standard_error, 0, 4));
  CHECK(near(r.perplexity_ratio, std::sqrt(2.0), 2));
  CHECK(near(r.perplexity_ratio_standard_error, std::sqrt(2.0) * ln2 / 2, 2));
  CHECK(near(r.probability_change, -0.125, 1));
  CHECK(near(r.probability_change_rms, std::sqrt(0.0625 / 2), 1));
}

TEST_CASE("divergence: paired differences see through noise that both models share") {
  std::mt19937_64 random(5);
  divergence_sums sums;
  for (int i = 0; i < 100; ++i) {
    const double shared = static_cast<double>(random() % 1000) / 100;
    sums.add(token_divergence{0.01, shared, shared + 0.5, true});
  }
  const divergence_report r = sums.report();
  CHECK(near(r.perplexity_ratio, std::exp(0.5), 10, 100));
  CHECK(r.perplexity_ratio_standard_error < 1e-12);
  CHECK(r.perplexity_standard_error > 1);
}

TEST_CASE("divergence: comparing one position gathers its four figures") {
  const std::vector<float> base{0, 2, 1};
  const std::vector<float> model{0, 1, 2};
  const token_divergence t = compare_token(base, model, 2);
  CHECK(t.kl == logit_kl(base, model));
  CHECK(t.base_nll == token_nll(base, 2));
  CHECK(t.nll == token_nll(model, 2));
  CHECK_FALSE(t.same_top);
  CHECK(compare_token(base, base, 0).same_top);
}

TEST_CASE("divergence: the largest divergence of a token keeps a NaN") {
  divergence_sums sums;
  sums.add(token_divergence{std::nan(""), 1, 1, true});
  sums.add(token_divergence{0.5, 1, 1, true});
  CHECK(std::isnan(sums.report().kl_max));
  CHECK(std::isnan(sums.report().kl));
}

TEST_CASE("divergence: quantiles equal those of the sorted values") {
  std::mt19937_64 random(6);
  for (int round = 0; round < 300; ++round) {
    const std::size_t n = 1 + random() % 40;
    std::vector<double> values(n);
    const std::uint64_t distinct = 1 + random() % 12;  // with many ties
    for (double& v : values) v = static_cast<double>(random() % distinct);
    std::vector<double> sorted = values;
    std::sort(sorted.begin(), sorted.end());
    for (const double q : {0.0, 0.25, 0.5, 0.9, 0.99, 1.0}) {
      std::vector<double> scratch = values;
      const double position = q * static_cast<double>(n - 1);
      const std::size_t below = static_cast<std::size_t>(position);
      const double fraction = position - static_cast<double>(below);
      const double lower = sorted[below];
      const double upper = sorted[below + 1 < n ? below + 1 : below];
      CAPTURE(n, q);
      CHECK(near(quantile(scratch, q), lower + fraction * (upper - lower), 12));
      std::sort(scratch.begin(), scratch.end());
      CHECK(scratch == sorted);
    }
  }
}

TEST_CASE("divergence: quantiles of sorted, reversed, equal, no and NaN values") {
  std::vector<double> up{1, 2, 3, 4};
  CHECK(quantile(up, 0.5) == 2.5);
  std::vector<double> down{5, 4, 3, 2, 1};
  CHECK(quantile(down, 0.5) == 3);
  std::vector<double> equal(9, 7.0);
  CHECK(quantile(equal, 0.3) == 7);
  std::vector<double> infinite{1, infinity, infinity};
  CHECK(quantile(infinite, 0.75) == infinity);
  std::vector<double> none;
  CHECK(std::isnan(quantile(none, 0.5)));
  std::vector<double> broken{1, std::nan(""), 2};
  CHECK(std::isnan(quantile(broken, 0.5)));
}
