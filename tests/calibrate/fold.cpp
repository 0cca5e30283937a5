// SPDX-License-Identifier: Apache-2.0
#include "subbyte/calibrate/fold.hpp"

#include <cmath>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

namespace {

using subbyte::errc;
using subbyte::head_sharing;
using subbyte::index_t;
using subbyte::matrix_view;
using subbyte::norm_weight;
using test_support::error_of;

struct matrix {
  index_t rows, cols;
  std::vector<float> values;

  matrix(index_t r, index_t c, std::uint64_t seed)
      : rows(r),
        cols(c),
        values(test_support::normal_vector(static_cast<std::size_t>(r * c), 1, seed)) {}
  [[nodiscard]] matrix_view<float> view() { return {values.data(), rows, cols}; }
  [[nodiscard]] double at(index_t r, index_t c) const {
    return static_cast<double>(values[static_cast<std::size_t>(r * cols + c)]);
  }
};

/// Positive scales over four decades.
std::vector<float> scales(index_t count, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<float> s;
  for (index_t i = 0; i < count; ++i) {
    s.push_back(static_cast<float>(std::pow(10.0, 4 * test_support::uniform(generator) - 2)));
  }
  return s;
}

std::vector<double> draws(index_t count, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<double> x;
  for (index_t i = 0; i < count; ++i) x.push_back(test_support::normal(generator));
  return x;
}

/// A result and the sum of the magnitudes of the products in it.
struct measured {
  double value = 0;
  double magnitude = 0;
};

constexpr double rounding = 0x1p-24;  // half a unit in the last place of float, relative

/// Each product of float values changed by at most `count` float roundings.
void require_close(const std::vector<measured>& before, const std::vector<measured>& after,
                   double count) {
  REQUIRE(before.size() == after.size());
  for (std::size_t i = 0; i < before.size(); ++i) {
    INFO(i);
    // 1e-6 of the bound: second order terms and the sums in double.
    REQUIRE(std::abs(before[i].value - after[i].value) <=
            count * rounding * before[i].magnitude * 1.000001);
  }
}

std::vector<measured> linear(const matrix& w, const std::vector<double>& x) {
  std::vector<measured> y(static_cast<std::size_t>(w.rows));
  for (index_t r = 0; r < w.rows; ++r) {
    for (index_t c = 0; c < w.cols; ++c) {
      const double product = w.at(r, c) * x[static_cast<std::size_t>(c)];
      y[static_cast<std::size_t>(r)].value += product;
      y[static_cast<std::size_t>(r)].magnitude += std::abs(product);
    }
  }
  return y;
}

}  // namespace

TEST_CASE("fold: a norm and all its readers compute the same, to two roundings per product") {
  const index_t k = 37;
  matrix q(5, k, 1);
  matrix v(3, k, 2);
  auto norm = test_support::normal_vector(static_cast<std::size_t>(k), 1, 3);
  auto bias = test_support::normal_vector(static_cast<std::size_t>(k), 1, 4);
  const std::vector<float> s = scales(k, 5);
  const std::vector<double> x = draws(k, 6);
  const auto outputs = [&] {
    std::vector<measured> all;
    for (const matrix* w : {&q, &v}) {
      for (index_t r = 0; r < w->rows; ++r) {
        measured y;
        for (index_t c = 0; c < k; ++c) {
          const auto i = static_cast<std::size_t>(c);
          const double from_norm = w->at(r, c) * x[i] * static_cast<double>(norm[i]);
          const double from_bias = w->at(r, c) * static_cast<double>(bias[i]);
          y.value += from_norm + from_bias;
          y.magnitude += std::abs(from_norm) + std::abs(from_bias);
        }
        all.push_back(y);
      }
    }
    return all;
  };
  const auto before = outputs();
  const matrix_view<float> readers[] = {q.view(), v.view()};
  const std::vector<float> norm_before = norm;
  subbyte::fold_norm(s, norm, readers, norm_weight::plain, bias);
  require_close(before, outputs(), 2);
  for (std::size_t i = 0; i < norm.size(); ++i) CHECK(norm[i] == norm_before[i] / s[i]);
}

TEST_CASE("fold: powers of two fold without any rounding") {
  const index_t k = 16;
  matrix w(4, k, 1);
  auto norm = test_support::normal_vector(16, 1, 2);
  std::vector<float> s;
  for (int i = 0; i < 16; ++i) s.push_back(std::ldexp(1.0F, i - 8));
  const matrix original = w;
  const auto norm_before = norm;
  const matrix_view<float> readers[] = {w.view()};
  subbyte::fold_norm(s, norm, readers);
  for (index_t r = 0; r < 4; ++r) {
    for (index_t c = 0; c < k; ++c) {
      const auto i = static_cast<std::size_t>(c);
      CHECK(w.at(r, c) * static_cast<double>(norm[i]) ==
            original.at(r, c) * static_cast<double>(norm_before[i]));
      CHECK(w.at(r, c) == original.at(r, c) * static_cast<double>(s[i]));
    }
  }
}

TEST_CASE("fold: a norm that adds one stores the scaled weight minus one") {
  const index_t k = 29;
  matrix w(6, k, 7);
  auto norm = test_support::normal_vector(static_cast<std::size_t>(k), 0.3, 8);
  norm[3] = 1e-9F;  // far below one: 1 + weight in float would forget it
  norm[4] = -1;     // a channel that is switched off stays off
  std::vector<float> s = scales(k, 9);
  s[3] = 1;
  const std::vector<double> x = draws(k, 10);
  struct bounded {
    double value, bound;
  };
  const auto outputs = [&] {
    std::vector<bounded> all;
    for (index_t r = 0; r < w.rows; ++r) {
      bounded y{0, 0};
      for (index_t c = 0; c < k; ++c) {
        const auto i = static_cast<std::size_t>(c);
        const double stored = static_cast<double>(norm[i]);
        const double product = w.at(r, c) * x[i] * (1 + stored);
        y.value += product;
        // One rounding of the weight (relative to the product) and one of the stored norm.
        y.bound += std::abs(product) + std::abs(w.at(r, c) * x[i] * stored);
      }
      all.push_back(y);
    }
    return all;
  };
  const auto before = outputs();
  const matrix_view<float> readers[] = {w.view()};
  subbyte::fold_norm(s, norm, readers, norm_weight::plus_one);
  const auto after = outputs();
  for (std::size_t i = 0; i < before.size(); ++i) {
    CHECK(std::abs(before[i].value - after[i].value) <= rounding * after[i].bound * 1.000001);
  }
  CHECK(norm[3] == 1e-9F);
  CHECK(norm[4] == -1.0F);
}

TEST_CASE("fold: an absorbed norm leaves ones, or zeros where one is added") {
  const index_t k = 11;
  for (const norm_weight form : {norm_weight::plain, norm_weight::plus_one}) {
    matrix w(3, k, 1);
    auto norm = test_support::normal_vector(static_cast<std::size_t>(k), 1, 2);
    norm[2] = form == norm_weight::plain ? 0.0F : -1.0F;
    const matrix original = w;
    const auto before = norm;
    const double added = form == norm_weight::plain ? 0 : 1;
    const matrix_view<float> readers[] = {w.view()};
    subbyte::absorb_norm(norm, readers, form);
    for (index_t c = 0; c < k; ++c) {
      const auto i = static_cast<std::size_t>(c);
      CHECK(norm[i] == (form == norm_weight::plain ? 1.0F : 0.0F));
      for (index_t r = 0; r < 3; ++r) {
        const double exact = original.at(r, c) * (static_cast<double>(before[i]) + added);
        CHECK(std::abs(w.at(r, c) - exact) <= rounding * std::abs(exact));
      }
    }
  }
}

TEST_CASE("fold: up into down through the gate's product, and only the last rows of a fused one") {
  const index_t k = 12;
  matrix gate_up(2 * k, 5, 1);
  matrix down(4, k, 2);
  auto bias = test_support::normal_vector(static_cast<std::size_t>(2 * k), 1, 3);
  const std::vector<float> s = scales(k, 4);
  const std::vector<double> x = draws(5, 5);
  const auto outputs = [&] {
    const auto hidden = linear(gate_up, x);
    std::vector<measured> all;
    for (index_t r = 0; r < down.rows; ++r) {
      measured y;
      for (index_t c = 0; c < k; ++c) {
        const auto i = static_cast<std::size_t>(c);
        const auto up = static_cast<std::size_t>(k + c);
        const double g = hidden[i].value + static_cast<double>(bias[i]);
        const double gated = g / (1 + std::exp(-g));
        const double u = hidden[up].value + static_cast<double>(bias[up]);
        const double largest = hidden[up].magnitude + std::abs(static_cast<double>(bias[up]));
        y.value += down.at(r, c) * gated * u;
        y.magnitude += std::abs(down.at(r, c) * gated) * largest;
      }
      all.push_back(y);
    }
    return all;
  };
  const auto before = outputs();
  const matrix fused_before = gate_up;
  const matrix_view<float> seconds[] = {down.view()};
  subbyte::fold_linear(s, gate_up.view(), bias, seconds);
  require_close(before, outputs(), 2);
  for (index_t r = 0; r < 2 * k; ++r) {
    CHECK((gate_up.at(r, 0) == fused_before.at(r, 0)) == (r < k));
  }
}

TEST_CASE("fold: value into output with shared heads, one scale per value channel") {
  const head_sharing sharing{6, 2};
  const index_t head_size = 4;
  const index_t cols = 6 * head_size;
  // Query head h reads value head h / 3.
  for (index_t j = 0; j < cols; ++j) {
    CHECK(subbyte::value_channel(sharing, cols, j) ==
          j / head_size / 3 * head_size + j % head_size);
  }
  matrix v(8, 5, 1);
  matrix o(7, cols, 2);
  auto bias = test_support::normal_vector(8, 1, 3);
  const std::vector<float> per_channel = scales(8, 4);
  std::vector<float> s;
  for (index_t j = 0; j < cols; ++j) {
    s.push_back(per_channel[static_cast<std::size_t>(subbyte::value_channel(sharing, cols, j))]);
  }
  const std::vector<double> x = draws(5, 5);
  const std::vector<double> attention = draws(6, 6);  // one weight per query head
  const auto outputs = [&] {
    const auto values = linear(v, x);
    std::vector<measured> all;
    for (index_t r = 0; r < o.rows; ++r) {
      measured y;
      for (index_t j = 0; j < cols; ++j) {
        const auto c = static_cast<std::size_t>(j / head_size / 3 * head_size + j % head_size);
        const double weight = o.at(r, j) * attention[static_cast<std::size_t>(j / head_size)];
        const double b = static_cast<double>(bias[c]);
        y.value += weight * (values[c].value + b);
        y.magnitude += std::abs(weight) * (values[c].magnitude + std::abs(b));
      }
      all.push_back(y);
    }
    return all;
  };
  const auto before = outputs();
  subbyte::fold_value_output(s, sharing, v.view(), bias, o.view());
  require_close(before, outputs(), 2);

  // Columns of one value channel with two scales cannot be folded; nothing is written.
  const auto kept = o.values;
  s[static_cast<std::size_t>(head_size)] *= 2;
  const auto e =
      error_of([&] { subbyte::fold_value_output(s, sharing, v.view(), bias, o.view()); });
  CHECK(e.code() == errc::bad_argument);
  CHECK(std::string(e.what()).find("column 4") != std::string::npos);
  CHECK(o.values == kept);
}

TEST_CASE("fold: a scale that is zero, negative, NaN, Inf or without reciprocal is refused") {
  for (const float bad : {0.0F, -1.0F, std::nanf(""), INFINITY, 1e-40F}) {
    matrix w(2, 3, 1);
    std::vector<float> norm(3, 1);
    const std::vector<float> s{1, bad, 1};
    const auto kept = w.values;
    const matrix_view<float> readers[] = {w.view()};
    const auto refused = [&](auto&& call) {
      const auto e = error_of(call);
      CHECK(e.code() == errc::bad_argument);
      CHECK(std::string(e.what()).find("channel 1") != std::string::npos);
    };
    refused([&] { subbyte::fold_norm(s, norm, readers); });
    refused([&] { subbyte::scale_columns(w.view(), s); });
    std::vector<float> none;
    matrix first(3, 3, 2);
    const auto first_kept = first.values;
    refused([&] { subbyte::fold_linear(s, first.view(), none, readers); });
    CHECK(w.values == kept);
    CHECK(first.values == first_kept);
    CHECK(norm == std::vector<float>(3, 1));
  }
}

TEST_CASE("fold: shapes that do not fit are refused before anything is written") {
  matrix w(2, 3, 1);
  matrix narrow(2, 2, 1);
  std::vector<float> norm(3, 1);
  std::vector<float> s(3, 2);
  std::vector<float> two(2, 1);
  std::vector<float> none;
  const matrix_view<float> readers[] = {w.view(), narrow.view()};
  const matrix_view<float> good[] = {w.view()};
  const auto kept = w.values;
  const auto code = [](auto&& call) { return error_of(call).code(); };
  CHECK(code([&] { subbyte::fold_norm(s, norm, readers); }) == errc::bad_shape);
  CHECK(code([&] { subbyte::fold_norm(s, two, good); }) == errc::bad_shape);
  CHECK(code([&] { subbyte::fold_norm(s, norm, good, norm_weight::plain, two); }) ==
        errc::bad_shape);
  CHECK(code([&] { subbyte::absorb_norm(two, good); }) == errc::bad_shape);
  CHECK(code([&] { subbyte::fold_linear(s, w.view(), none, good); }) == errc::bad_shape);
  matrix first(3, 4, 1);
  CHECK(code([&] { subbyte::fold_linear(s, first.view(), two, good); }) == errc::bad_shape);
  CHECK(code([&] { subbyte::fold_linear(s, first.view(), none, readers); }) == errc::bad_shape);
  CHECK(code([&] { subbyte::scale_columns(narrow.view(), s); }) == errc::bad_shape);
  CHECK(code([&] {
          subbyte::fold_value_output(s, head_sharing{2, 1}, first.view(), none, w.view());
        }) == errc::bad_shape);
  CHECK(code([&] {
          subbyte::fold_value_output(two, head_sharing{1, 1}, first.view(), none, w.view());
        }) == errc::bad_shape);
  CHECK(code([&] {
          subbyte::fold_value_output(s, head_sharing{3, 0}, first.view(), none, w.view());
        }) == errc::bad_shape);
  CHECK(w.values == kept);
  CHECK(norm == std::vector<float>(3, 1));
  norm[1] = std::nanf("");
  CHECK(code([&] { subbyte::absorb_norm(norm, good); }) == errc::non_finite);
  CHECK(w.values == kept);
}
