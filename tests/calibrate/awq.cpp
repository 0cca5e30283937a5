// SPDX-License-Identifier: Apache-2.0
#include "subbyte/calibrate/awq.hpp"

#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "subbyte/calibrate/gptq.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/q4_0.hpp"
#include "subbyte/format/q4_k.hpp"
#include "subbyte/io/safetensors.hpp"
#include "subbyte/quantize/reference.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

namespace {

using subbyte::awq_duo;
using subbyte::awq_options;
using subbyte::errc;
using subbyte::f32_scale;
using subbyte::grid_rule;
using subbyte::half;
using subbyte::index_t;
using subbyte::int_grid;
using subbyte::layer_inputs;
using subbyte::matrix_view;
using subbyte::planar;
using subbyte::rtn;
using subbyte::zero_points;
using test_support::error_of;

using asymmetric4 = planar<int_grid<4>, f32_scale>;
using symmetric4 = planar<int_grid<4, zero_points::none>, f32_scale>;
using asymmetric3 = planar<int_grid<3>, half>;

struct matrix {
  index_t rows = 0;
  index_t cols = 0;
  std::vector<float> values;

  [[nodiscard]] matrix_view<const float> view() const { return {values.data(), rows, cols}; }
  [[nodiscard]] matrix_view<float> writable() { return {values.data(), rows, cols}; }
};

matrix random_matrix(index_t rows, index_t cols, std::uint64_t seed, double deviation = 1) {
  return {rows, cols,
          test_support::normal_vector(static_cast<std::size_t>(rows * cols), deviation, seed)};
}

/// Activations of a usual layer: a few channels much larger than the rest, all of them correlated.
matrix activations(index_t tokens, index_t cols, std::uint64_t seed) {
  matrix x = random_matrix(tokens, cols, seed);
  std::mt19937_64 generator(seed + 1);
  std::vector<float> size;
  for (index_t j = 0; j < cols; ++j) {
    const double spread = std::exp(0.5 * test_support::normal(generator));
    size.push_back(static_cast<float>(j % 41 == 7 ? 15 * spread : spread));
  }
  for (index_t t = 0; t < tokens; ++t) {
    const auto common = static_cast<float>(test_support::normal(generator));
    for (index_t j = 0; j < cols; ++j) {
      float& v = x.values[static_cast<std::size_t>(t * cols + j)];
      v = (v + 0.5F * common) * size[static_cast<std::size_t>(j)];
    }
  }
  return x;
}

std::vector<double> hessian_of(const matrix& x) {
  const index_t k = x.cols;
  std::vector<double> h(static_cast<std::size_t>(k * k));
  for (index_t t = 0; t < x.rows; ++t) {
    for (index_t i = 0; i < k; ++i) {
      for (index_t j = 0; j < k; ++j) {
        h[static_cast<std::size_t>(i * k + j)] +=
            static_cast<double>(x.view()(t, i)) * static_cast<double>(x.view()(t, j));
      }
    }
  }
  return h;
}

/// Mean over tokens and rows of the squared output error, in double.
template <class M>
double output_error(const matrix& w, const M& quantized, const std::vector<float>& scale,
                    const matrix& x) {
  double total = 0;
  std::vector<float> row(static_cast<std::size_t>(w.cols));
  for (index_t r = 0; r < w.rows; ++r) {
    quantized.decode_row(r, 0, w.cols, row.data());
    for (index_t t = 0; t < x.rows; ++t) {
      double sum = 0;
      for (index_t j = 0; j < w.cols; ++j) {
        const auto i = static_cast<std::size_t>(j);
        sum += static_cast<double>(x.view()(t, j)) *
               (static_cast<double>(row[i]) / static_cast<double>(scale[i]) -
                static_cast<double>(w.view()(r, j)));
      }
      total += sum * sum;
    }
  }
  return total / static_cast<double>(w.rows * x.rows);
}

matrix scaled_by(const matrix& w, const std::vector<float>& scale) {
  matrix copy = w;
  subbyte::scale_columns(copy.writable(), scale);
  return copy;
}

std::vector<float> values_of(const subbyte::tensor<float, 1>& t) {
  return {t.data(), t.data() + t.size()};
}

struct golden {
  explicit golden(const std::string& name)
      : file(subbyte::safetensors::open(SUBBYTE_GOLDEN_DIR "/python/autoawq/" + name +
                                        ".safetensors")) {}
  [[nodiscard]] matrix floats(const std::string& name, index_t rows) const {
    const auto& t = file.tensor(name);
    matrix m{rows, t.size() / rows, std::vector<float>(static_cast<std::size_t>(t.size()))};
    t.to_float(m.values.data());
    return m;
  }
  template <class T>
  [[nodiscard]] std::vector<T> raw(const std::string& name) const {
    const auto v = file.tensor(name).view<T>();
    return {v.data(), v.data() + v.size()};
  }
  subbyte::safetensors::file file;
};

template <class F>
void check_golden_search(const std::string& name, index_t rows, index_t tokens, index_t group) {
  INFO(name);
  const golden g(name);
  const matrix w = g.floats("input", rows);
  const matrix x = g.floats("X", tokens);
  const matrix_view<const float> weights[] = {w.view()};
  layer_inputs inputs;
  inputs.x = x.view();
  const rtn policy{.rule = grid_rule::awq};
  std::vector<float> duo_scale;
  for (const bool duo : {true, false}) {
    const std::string prefix = duo ? "duo." : "plain.";
    const auto found = subbyte::awq_search<F>(
        weights, inputs, {.shape = {group}, .duo = duo ? awq_duo::with : awq_duo::without}, policy);
    const auto losses = g.raw<double>(prefix + "losses");
    REQUIRE(losses.size() == 20);
    REQUIRE(found.candidates.size() == 22);
    // README: losses to 1e-6; another order of summation may flip a rounding tie here and there.
    int apart = 0;
    for (std::size_t i = 0; i < 20; ++i) {
      const double loss = found.candidates(static_cast<index_t>(i) + 1).loss;
      apart += std::abs(loss - losses[i]) > 1e-6 * losses[i];
      CHECK(std::abs(loss - losses[i]) <= 1e-3 * losses[i]);
    }
    CHECK(apart <= 2);
    const auto best = std::min_element(losses.begin(), losses.end()) - losses.begin();
    // Theirs unless the identity or alpha = 1, which autoawq does not try, is better.
    CHECK(found.loss <= losses[static_cast<std::size_t>(best)] * (1 + 1e-6));
    if (found.alpha >= 0 && found.alpha < 1) {
      CHECK(found.alpha == static_cast<float>(static_cast<double>(best) / 20));
      const auto scales = g.floats(prefix + "scales", 1);
      for (index_t j = 0; j < w.cols; ++j) {
        // One unit of pow, one of the mean, one of each of three more operations.
        CHECK(std::abs(found.scale(j) - scales.view()(0, j)) <= 6e-7F * scales.view()(0, j));
      }
    }
  }

  // The clip search on scaled weights and inputs, and on those as they are.
  const matrix scales = g.floats("duo.scales", 1);
  const matrix sw = scaled_by(w, scales.values);
  matrix sx = x;
  subbyte::unscale_inputs(sx.writable(), scales.values);
  layer_inputs scaled_inputs;
  scaled_inputs.x = sx.view();
  const auto agreeing = [&](const subbyte::tensor<float, 2>& clip, const std::string& theirs) {
    const matrix expected = g.floats(theirs, rows);
    REQUIRE(clip.size() == static_cast<index_t>(expected.values.size()));
    index_t equal = 0;
    for (index_t i = 0; i < clip.size(); ++i) {
      equal += clip.data()[i] == expected.values[static_cast<std::size_t>(i)];
    }
    return static_cast<double>(equal) / static_cast<double>(clip.size());
  };
  const auto clip = subbyte::awq_clip<F>(sw.view(), scaled_inputs, {.shape = {group}});
  CHECK(agreeing(clip, "clip") >= 0.99);
  CHECK(agreeing(subbyte::awq_clip<F>(w.view(), inputs, {.shape = {group}}), "clip_unscaled") >=
        0.99);

  // Codes of the scaled and clipped weights, with their clip values: equal.
  matrix clipped = sw;
  const matrix their_clip = g.floats("clip", rows);
  subbyte::apply_clip(clipped.writable(), their_clip.view(), group);
  const auto q = subbyte::quantize<F>(clipped.view(), {group}, policy);
  const auto codes = g.raw<std::int8_t>("final_codes");
  const matrix final_scales = g.floats("final_scales", rows);
  const auto view = q.view();
  index_t wrong = 0;
  for (index_t r = 0; r < rows; ++r) {
    for (index_t j = 0; j < w.cols; ++j) {
      const int theirs = codes[static_cast<std::size_t>(r * w.cols + j)];
      const int bias = F::grid::zeros == zero_points::none ? 8 : 0;
      wrong += view.stored_code(r, j) != theirs + bias;
    }
    for (index_t at = 0; at < view.groups(); ++at) {
      wrong += view.group_params(r, at).scale != final_scales.view()(r, at);
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("awq: scales, losses, clip values and codes are autoawq's, by its golden README's rule") {
  check_golden_search<asymmetric4>("search_g128_asym_64x256", 64, 48, 128);
  check_golden_search<asymmetric4>("search_g32_asym_64x128", 64, 96, 32);
  check_golden_search<symmetric4>("search_g64_sym_64x128", 64, 64, 64);
}

TEST_CASE("awq: the loss is the outputs' squared error, and scaling lowers it") {
  // Figures of docs/methods/awq.md.
  const index_t k = 256;
  const matrix w = random_matrix(96, k, 1, 0.05);
  const matrix x = activations(128, k, 2);
  const matrix_view<const float> weights[] = {w.view()};
  layer_inputs inputs;
  inputs.x = x.view();
  const auto found = subbyte::awq_search<asymmetric3>(weights, inputs, {.shape = {128}});
  const std::vector<float> scale = values_of(found.scale);
  const matrix scaled = scaled_by(w, scale);
  const rtn policy{.rule = grid_rule::awq};
  const auto q = subbyte::quantize<asymmetric3>(scaled.view(), {128}, policy);
  const double exact = output_error(w, q.view(), scale, x);
  // Products of k terms in float: far below 1e-4 of the sum of squares.
  CHECK(std::abs(found.loss - exact) <= 1e-4 * exact);
  const std::vector<float> ones(static_cast<std::size_t>(k), 1);
  const auto plain = subbyte::quantize<asymmetric3>(w.view(), {128}, policy);
  const double before = output_error(w, plain.view(), ones, x);
  CHECK(std::abs(found.loss_identity - before) <= 1e-4 * before);
  CHECK(found.loss < 0.45 * found.loss_identity);
  CHECK(found.candidates.size() == 43);
  CHECK(found.candidates(0).alpha == -1);
  CHECK(found.candidates(0).loss == found.loss_identity);
  CHECK(found.candidates(21).alpha == 1);
  CHECK_FALSE(found.candidates(21).duo);
  CHECK(found.candidates(22).duo);
  CHECK(found.candidates(42).alpha == 1);
  double least = found.candidates(0).loss;
  for (index_t i = 1; i < 43; ++i) least = std::min(least, found.candidates(i).loss);
  CHECK(found.loss == least);

  // layer_loss sees the same error without a scale.
  const double loss = subbyte::layer_loss(w.view(), plain.view(), inputs);
  CHECK(std::abs(loss - before * 96) <= 1e-4 * loss);
}

TEST_CASE("awq: X and X^T X give the same losses, and statistics both") {
  const index_t k = 128;
  const matrix w = random_matrix(70, k, 3, 0.05);
  const matrix x = activations(300, k, 4);
  const std::vector<double> h = hessian_of(x);
  const matrix_view<const float> weights[] = {w.view()};
  layer_inputs from_x;
  from_x.x = x.view();
  layer_inputs from_h;
  from_h.hessian = matrix_view<const double>(h.data(), k, k);
  from_h.tokens = 300;
  std::vector<float> mean(static_cast<std::size_t>(k));
  for (index_t j = 0; j < k; ++j) {
    double sum = 0;
    for (index_t t = 0; t < 300; ++t) sum += std::abs(static_cast<double>(x.view()(t, j)));
    mean[static_cast<std::size_t>(j)] = static_cast<float>(sum / 300);
  }
  from_h.mean_magnitude = mean;
  const auto a = subbyte::awq_search<asymmetric3>(weights, from_x, {.shape = {64}});
  const auto b = subbyte::awq_search<asymmetric3>(weights, from_h, {.shape = {64}});
  for (index_t i = 0; i < a.candidates.size(); ++i) {
    // The Hessian is rounded to float once, relative to its mean diagonal; outlier channels are
    // 225 times that.
    CHECK(std::abs(a.candidates(i).loss - b.candidates(i).loss) <= 1e-3 * a.candidates(i).loss);
  }
  CHECK(a.alpha == b.alpha);

  subbyte::statistics_collector collector(k, {.sample_rows = 300});
  collector.add(x.view());
  const subbyte::input_statistics statistics = std::move(collector).finish();
  const auto c = subbyte::awq_search<asymmetric3>(weights, statistics, {.shape = {64}});
  CHECK(std::abs(c.loss - b.loss) <= 1e-4 * b.loss);
  CHECK(c.alpha == b.alpha);
  subbyte::statistics_collector samples(k, {.hessian = false, .sample_rows = 300});
  samples.add(x.view());
  const subbyte::input_statistics sampled = std::move(samples).finish();
  const auto d = subbyte::awq_search<asymmetric3>(weights, sampled, {.shape = {64}});
  CHECK(std::abs(d.loss - a.loss) <= 1e-4 * a.loss);

  // The clip search as well: the same sums in another order.
  const auto clip_x = subbyte::awq_clip<asymmetric3>(w.view(), from_x, {.shape = {64}});
  const auto clip_h = subbyte::awq_clip<asymmetric3>(w.view(), from_h, {.shape = {64}});
  index_t equal = 0;
  for (index_t i = 0; i < clip_x.size(); ++i) equal += clip_x.data()[i] == clip_h.data()[i];
  CHECK(equal >= clip_x.size() * 99 / 100);
}

TEST_CASE("awq: never worse than no scaling, for planar and block formats and other policies") {
  const index_t k = 256;
  const auto check = [&](auto format, const auto& policy, const matrix& w, const matrix& x) {
    using F = typename decltype(format)::type;
    const matrix_view<const float> weights[] = {w.view()};
    layer_inputs inputs;
    inputs.x = x.view();
    const auto found = subbyte::awq_search<F>(weights, inputs, {.shape = {64}, .grid = 5}, policy);
    CHECK(found.loss <= found.loss_identity);
    CHECK(found.candidates.size() == 13);
    for (index_t j = 0; j < k; ++j) REQUIRE(found.scale(j) > 0);
    return found.loss / found.loss_identity;
  };
  const matrix w = random_matrix(24, k, 5, 0.1);
  const matrix outliers = activations(64, k, 6);
  const matrix white = random_matrix(64, k, 7);
  for (const matrix* x : {&outliers, &white}) {
    check(std::type_identity<symmetric4>{}, rtn{}, w, *x);
    check(std::type_identity<planar<subbyte::codebook_grid<subbyte::nf4>, half>>{}, rtn{}, w, *x);
    check(std::type_identity<subbyte::q4_0>{}, subbyte::reference{}, w, *x);
    check(std::type_identity<subbyte::q4_k>{}, subbyte::reference{}, w, *x);
    check(std::type_identity<subbyte::q4_0>{}, rtn{}, w, *x);
  }
  CHECK(check(std::type_identity<subbyte::q4_0>{}, subbyte::reference{}, w, outliers) < 0.6);
}

TEST_CASE("awq: weights that share an input get one scale, judged by all their outputs") {
  const index_t k = 128;
  const matrix q = random_matrix(32, k, 8, 0.05);
  const matrix v = random_matrix(16, k, 9, 0.2);
  const matrix x = activations(64, k, 10);
  const matrix_view<const float> both[] = {q.view(), v.view()};
  const matrix_view<const float> first[] = {q.view()};
  const matrix_view<const float> second[] = {v.view()};
  layer_inputs inputs;
  inputs.x = x.view();
  const awq_options plain{.duo = awq_duo::without};
  const auto a = subbyte::awq_search(both, inputs, plain);
  const auto b = subbyte::awq_search(first, inputs, plain);
  const auto c = subbyte::awq_search(second, inputs, plain);
  for (index_t i = 0; i < a.candidates.size(); ++i) {
    // Without duo the candidates are the same: the losses are means over the outputs.
    const double mean = (32 * b.candidates(i).loss + 16 * c.candidates(i).loss) / 48;
    CHECK(std::abs(a.candidates(i).loss - mean) <= 1e-12 * mean);
  }
}

TEST_CASE(
    "awq: shared value heads get one scale per channel, which folds without changing outputs") {
  const subbyte::head_sharing sharing{8, 2};
  const index_t head_size = 16;
  const index_t k = 8 * head_size;
  matrix v = random_matrix(2 * head_size, 48, 11, 0.1);
  matrix o = random_matrix(40, k, 12, 0.1);
  const matrix x = activations(64, k, 13);
  const matrix_view<const float> weights[] = {o.view()};
  layer_inputs inputs;
  inputs.x = x.view();
  const auto found =
      subbyte::awq_search<asymmetric3>(weights, inputs, {.shape = {32}, .sharing = sharing});
  CHECK(found.loss <= found.loss_identity);
  bool uneven = false;
  for (index_t j = 0; j < k; ++j) {
    for (index_t i = 0; i < k; ++i) {
      if (subbyte::value_channel(sharing, k, i) == subbyte::value_channel(sharing, k, j)) {
        REQUIRE(found.scale(i) == found.scale(j));
      }
    }
    uneven |= found.scale(j) != found.scale(0);
  }
  CHECK(uneven);
  std::vector<float> none;
  subbyte::fold_value_output(found.scale.view(), sharing, v.writable(), none, o.writable());
}

TEST_CASE("awq: a policy may depend on the candidate's scale") {
  const index_t k = 64;
  const matrix w = random_matrix(16, k, 14, 0.1);
  const matrix x = activations(256, k, 15);
  const matrix_view<const float> weights[] = {w.view()};
  const std::vector<double> h = hessian_of(x);
  layer_inputs inputs;
  inputs.hessian = matrix_view<const double>(h.data(), k, k);
  inputs.tokens = 256;
  subbyte::statistics_collector collector(k, {});
  collector.add(x.view());
  const subbyte::input_statistics statistics = std::move(collector).finish();
  // GPTQ as the quantizer of every candidate: AWQ and GPTQ together.
  std::vector<double> scaled_h;
  const auto policy = [&](subbyte::vector_view<const float> scale) {
    scaled_h = h;
    subbyte::scale_hessian(matrix_view<double>(scaled_h.data(), k, k), scale);
    return subbyte::gptq{.hessian = matrix_view<const double>(scaled_h.data(), k, k),
                         .damp = 0.01F};
  };
  const auto together =
      subbyte::awq_search<asymmetric3>(weights, statistics, {.shape = {32}}, policy);
  const auto nearest = subbyte::awq_search<asymmetric3>(weights, statistics, {.shape = {32}});
  INFO("RTN " << nearest.loss_identity << ", AWQ " << nearest.loss << ", GPTQ "
              << together.loss_identity << ", both " << together.loss);
  CHECK(together.loss < 0.25 * together.loss_identity);
  CHECK(together.loss < 0.8 * nearest.loss);
  CHECK(together.loss_identity < nearest.loss_identity);
}

TEST_CASE("awq: the scaled Hessian is that of the scaled inputs") {
  const index_t k = 20;
  matrix x = random_matrix(30, k, 16);
  std::vector<double> h = hessian_of(x);
  std::vector<float> scale;
  for (index_t j = 0; j < k; ++j) scale.push_back(std::exp(static_cast<float>(j - 10) / 4));
  subbyte::scale_hessian(matrix_view<double>(h.data(), k, k), scale);
  subbyte::unscale_inputs(x.writable(), scale);
  const std::vector<double> expected = hessian_of(x);
  for (index_t i = 0; i < k; ++i) {
    for (index_t j = 0; j < k; ++j) {
      const auto at = static_cast<std::size_t>(i * k + j);
      const double bound = std::sqrt(expected[static_cast<std::size_t>(i * k + i)] *
                                     expected[static_cast<std::size_t>(j * k + j)]);
      CHECK(std::abs(h[at] - expected[at]) <= 2 * 0x1p-24 * 1.001 * bound);
      CHECK(h[at] == h[static_cast<std::size_t>(j * k + i)]);
    }
  }
  CHECK(error_of([&] {
          subbyte::scale_hessian(matrix_view<double>(h.data(), k, k), std::vector<float>(3, 1));
        }).code() == errc::bad_shape);
}

TEST_CASE("awq: clipping lowers the error of each group and leaves most of the range") {
  const index_t k = 128;
  matrix w = random_matrix(32, k, 17, 0.05);
  for (index_t r = 0; r < 32; r += 2) w.values[static_cast<std::size_t>(r * k + r)] = 0.5F;
  const matrix x = random_matrix(200, k, 18);
  layer_inputs inputs;
  inputs.x = x.view();
  using F = planar<int_grid<3>, f32_scale>;
  const auto clip = subbyte::awq_clip<F>(w.view(), inputs, {.shape = {64}});
  matrix clipped = w;
  subbyte::apply_clip(clipped.writable(), clip.view(), 64);
  const rtn policy{.rule = grid_rule::awq};
  const auto before = subbyte::quantize<F>(w.view(), {64}, policy);
  const auto after = subbyte::quantize<F>(clipped.view(), {64}, policy);
  std::vector<float> row(static_cast<std::size_t>(k));
  for (index_t r = 0; r < 32; ++r) {
    for (index_t g = 0; g < 2; ++g) {
      float most = 0;
      for (index_t j = 64 * g; j < 64 * g + 64; ++j) {
        most = std::max(most, std::abs(w.view()(r, j)));
      }
      CHECK(clip(r, g) <= most);
      CHECK(clip(r, g) >= most * 0.5499F);  // 1 - 9 / 20
      const auto error = [&](const auto& q) {
        q.view().decode_row(r, 0, k, row.data());
        double total = 0;
        for (index_t t = 0; t < 200; ++t) {
          double sum = 0;
          for (index_t j = 64 * g; j < 64 * g + 64; ++j) {
            sum += static_cast<double>(x.view()(t, j)) *
                   (static_cast<double>(row[static_cast<std::size_t>(j)]) -
                    static_cast<double>(w.view()(r, j)));
          }
          total += sum * sum;
        }
        return total;
      };
      CHECK(error(after) <= error(before) * (1 + 1e-12));
    }
  }
  // No shrinking allowed: the bounds are the largest magnitudes, and nothing changes.
  const auto unclipped = subbyte::awq_clip<F>(w.view(), inputs, {.shape = {64}, .max_shrink = 0});
  matrix same = w;
  subbyte::apply_clip(same.writable(), unclipped.view(), 64);
  CHECK(same.values == w.values);
  // More tokens than are used: every second one.
  matrix half_of_x{100, k, {}};
  for (index_t t = 0; t < 200; t += 2) {
    half_of_x.values.insert(half_of_x.values.end(), x.values.begin() + t * k,
                            x.values.begin() + (t + 1) * k);
  }
  layer_inputs fewer;
  fewer.x = half_of_x.view();
  const auto strided = subbyte::awq_clip<F>(w.view(), inputs, {.shape = {64}, .max_tokens = 100});
  const auto direct = subbyte::awq_clip<F>(w.view(), fewer, {.shape = {64}});
  for (index_t i = 0; i < strided.size(); ++i) CHECK(strided.data()[i] == direct.data()[i]);
}

TEST_CASE("awq: any executor gives the same bits") {
  const index_t k = 96;
  const matrix w = random_matrix(150, k, 19, 0.05);
  const matrix x = activations(40, k, 20);
  const matrix_view<const float> weights[] = {w.view()};
  layer_inputs inputs;
  inputs.x = x.view();
  subbyte::thread_pool pool(3);
  const rtn policy{.rule = grid_rule::awq};
  const auto a = subbyte::awq_search<asymmetric4>(weights, inputs, {.shape = {32}}, policy);
  const auto b = subbyte::awq_search<asymmetric4>(weights, inputs, {.shape = {32}}, policy, pool);
  for (index_t i = 0; i < a.candidates.size(); ++i) {
    CHECK(a.candidates(i).loss == b.candidates(i).loss);
  }
  CHECK(values_of(a.scale) == values_of(b.scale));
  const auto c = subbyte::awq_clip<asymmetric4>(w.view(), inputs, {.shape = {32}});
  const auto d = subbyte::awq_clip<asymmetric4>(w.view(), inputs, {.shape = {32}}, pool);
  for (index_t i = 0; i < c.size(); ++i) CHECK(c.data()[i] == d.data()[i]);
}

TEST_CASE("awq: zero channels, zero weights, one token, one row, one column, ragged groups") {
  matrix w = random_matrix(3, 20, 21);
  matrix x = random_matrix(1, 20, 22);
  x.values[4] = 0;
  for (index_t r = 0; r < 3; ++r) w.values[static_cast<std::size_t>(r * 20 + 5)] = 0;
  layer_inputs inputs;
  inputs.x = x.view();
  const matrix_view<const float> weights[] = {w.view()};
  const auto found = subbyte::awq_search(weights, inputs, {.shape = {16}});
  CHECK(found.loss <= found.loss_identity);
  for (index_t j = 0; j < 20; ++j) CHECK((found.scale(j) > 0 && std::isfinite(found.scale(j))));
  const auto clip = subbyte::awq_clip(w.view(), inputs, {.shape = {16}});
  CHECK(clip.extent(1) == 2);

  const matrix zero{3, 20, std::vector<float>(60, 0)};
  const matrix_view<const float> zeros[] = {zero.view()};
  CHECK(subbyte::awq_search(zeros, inputs).loss == 0);
  CHECK(subbyte::awq_clip(zero.view(), inputs)(0, 0) == 0);
  const matrix silent{4, 20, std::vector<float>(80, 0)};
  layer_inputs nothing_heard;
  nothing_heard.x = silent.view();
  const auto silence = subbyte::awq_search(weights, nothing_heard);
  CHECK(silence.loss == 0);
  CHECK(silence.alpha == -1);  // nothing is better than the identity
  CHECK(values_of(silence.scale) == std::vector<float>(20, 1));

  const matrix one{1, 1, {2}};
  const matrix_view<const float> single[] = {one.view()};
  layer_inputs narrow;
  narrow.x = one.view();
  CHECK(subbyte::awq_search(single, narrow).scale(0) == 1);
  const matrix no_rows{0, 20, {}};
  const matrix_view<const float> empty[] = {no_rows.view()};
  CHECK(subbyte::awq_search(empty, inputs).loss == 0);
}

TEST_CASE("awq: bad input is refused by name") {
  const matrix w = random_matrix(4, 16, 23);
  const matrix x = random_matrix(5, 16, 24);
  const matrix narrow = random_matrix(5, 8, 25);
  matrix poisoned = w;
  poisoned.values[20] = std::nanf("");
  matrix poisoned_x = x;
  poisoned_x.values[33] = INFINITY;
  const matrix_view<const float> weights[] = {w.view()};
  const matrix_view<const float> mixed[] = {w.view(), narrow.view()};
  const matrix_view<const float> bad[] = {poisoned.view()};
  layer_inputs inputs;
  inputs.x = x.view();
  const auto code = [](auto&& call) { return error_of(call).code(); };
  const auto search = [&](std::span<const matrix_view<const float>> ws, const layer_inputs& in,
                          const awq_options& options = {}) {
    return code([&] { (void)subbyte::awq_search(ws, in, options); });
  };
  CHECK(search({}, inputs) == errc::bad_argument);
  CHECK(search(mixed, inputs) == errc::bad_shape);
  CHECK(search(bad, inputs) == errc::non_finite);
  CHECK(search(weights, {}) == errc::bad_argument);
  CHECK(search(weights, inputs, {.grid = 0}) == errc::bad_argument);
  CHECK(search(weights, inputs, {.sharing = {3, 1}}) == errc::bad_shape);
  CHECK(search(weights, inputs, {.shape = {-1}}) == errc::bad_argument);
  layer_inputs wrong = inputs;
  wrong.x = narrow.view();
  CHECK(search(weights, wrong) == errc::bad_shape);
  wrong.x = poisoned_x.view();
  CHECK(search(weights, wrong) == errc::non_finite);
  wrong = inputs;
  const std::vector<float> short_mean(3, 1);
  wrong.mean_magnitude = short_mean;
  CHECK(search(weights, wrong) == errc::bad_shape);
  std::vector<float> negative_mean(16, 1);
  negative_mean[3] = -1;
  wrong.mean_magnitude = negative_mean;
  CHECK(search(weights, wrong) == errc::bad_argument);
  negative_mean[3] = std::nanf("");
  CHECK(search(weights, wrong) == errc::non_finite);
  layer_inputs only_hessian;
  const std::vector<double> h = hessian_of(x);
  only_hessian.hessian = matrix_view<const double>(h.data(), 16, 16);
  CHECK(search(weights, only_hessian) == errc::bad_argument);  // no mean |x|
  only_hessian.hessian = matrix_view<const double>(h.data(), 8, 8);
  CHECK(search(weights, only_hessian) == errc::bad_shape);
  CHECK(code([&] { (void)subbyte::awq_clip(w.view(), {}); }) == errc::bad_argument);
  CHECK(code([&] { (void)subbyte::awq_clip(poisoned.view(), inputs); }) == errc::non_finite);
  CHECK(code([&] { (void)subbyte::awq_clip(w.view(), inputs, {.shape = {0}}); }) ==
        errc::bad_argument);
  CHECK(code([&] { (void)subbyte::awq_clip(w.view(), inputs, {.max_shrink = 1.5F}); }) ==
        errc::bad_argument);
  matrix target = w;
  CHECK(code([&] { subbyte::apply_clip(target.writable(), narrow.view(), 8); }) == errc::bad_shape);
  CHECK(code([&] { subbyte::apply_clip(target.writable(), narrow.view(), 0); }) ==
        errc::bad_argument);
  const auto q = subbyte::quantize<subbyte::q4_0>(w.view());
  CHECK(code([&] { (void)subbyte::layer_loss(narrow.view(), q.view(), inputs); }) ==
        errc::bad_shape);
}

TEST_CASE("awq: the caller sees progress and can stop") {
  const matrix w = random_matrix(4, 16, 26);
  const matrix x = random_matrix(5, 16, 27);
  const matrix_view<const float> weights[] = {w.view(), w.view()};
  layer_inputs inputs;
  inputs.x = x.view();
  std::vector<double> seen;
  auto watch = [&](double fraction) {
    seen.push_back(fraction);
    return true;
  };
  (void)subbyte::awq_search(weights, inputs,
                            {.duo = awq_duo::without, .grid = 4, .progress = watch});
  CHECK(seen.size() == 13);  // 6 candidates of 2 weights, and the end
  CHECK(std::is_sorted(seen.begin(), seen.end()));
  CHECK(seen.front() == 0);
  CHECK(seen.back() == 1);
  int calls = 0;
  auto stop = [&](double) { return ++calls < 4; };
  CHECK(error_of([&] { (void)subbyte::awq_search(weights, inputs, {.progress = stop}); }).code() ==
        errc::cancelled);
  CHECK(calls == 4);
  calls = 2;
  CHECK(error_of([&] {
          (void)subbyte::awq_clip(w.view(), inputs, {.shape = {8}, .progress = stop});
        }).code() == errc::cancelled);
}
