// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/best.hpp"

#include <cmath>
#include <cstdio>  // std::snprintf
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/best_encoder.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/io/gguf.hpp"
#include "subbyte/quantize/block_rows.hpp"
#include "subbyte/quantize/importance.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

/// A matrix with weights of one kind.
struct sample {
  std::string name;
  index_t rows, cols;
  std::vector<float> w;

  [[nodiscard]] matrix_view<const float> view() const { return {w.data(), rows, cols}; }
};

template <class F>
bool same_bytes(const block_matrix<F>& a, const block_matrix<F>& b) {
  const auto bytes = static_cast<std::size_t>(a.view().size_bytes());
  return std::memcmp(a.view().data(), b.view().data(), bytes) == 0;
}

template <class F, class Policy>
block_matrix<F> made(const sample& s, const Policy& policy, executor_ref ex = serial) {
  block_matrix<F> m(s.rows, s.cols);
  policy.apply(s.view(), m, ex);
  return m;
}

/// Sum of importance * (w - w_hat)^2 of row r, in double.
template <class F>
double row_error(const sample& s, const block_matrix<F>& m, index_t r,
                 const std::vector<float>& importance) {
  std::vector<float> back(static_cast<std::size_t>(s.cols));
  m.view().decode_row(r, 0, s.cols, back.data());
  double sum = 0;
  for (std::size_t k = 0; k < back.size(); ++k) {
    const double e = double{s.w[static_cast<std::size_t>(r * s.cols) + k]} - double{back[k]};
    sum += (importance.empty() ? 1.0 : double{importance[k]}) * e * e;
  }
  return sum;
}

/// Rows of every kind that a search might trip over; the last block of a row is cut.
std::vector<sample> samples() {
  constexpr index_t cols = 2 * 256 + 72;
  std::mt19937_64 generator(91);
  std::vector<sample> all;
  const auto add = [&](const std::string& name, index_t rows, auto&& draw) {
    sample s{name, rows, cols, {}};
    for (index_t i = 0; i < rows * cols; ++i) s.w.push_back(static_cast<float>(draw(i)));
    all.push_back(std::move(s));
  };
  const auto normal = [&] { return test_support::normal(generator); };
  const auto uniform = [&] { return test_support::uniform(generator); };
  add("normal", 6, [&](index_t) { return 0.02 * normal(); });
  add("heavy", 6, [&](index_t) { return 0.02 * normal() / (0.05 + uniform()); });
  add("uniform", 3, [&](index_t) { return uniform() - 0.5; });
  add("positive", 3, [&](index_t) { return 1 + 0.1 * uniform(); });
  add("negative", 3, [&](index_t) { return -uniform(); });
  add("sparse", 3, [&](index_t i) { return i % 37 == 0 ? normal() : 0.0; });
  add("outlier", 3, [&](index_t i) { return i % 97 == 5 ? 50.0 * normal() : 0.01 * normal(); });
  add("constant", 1, [&](index_t) { return 0.7; });
  add("negative constant", 1, [&](index_t) { return -3e-4; });
  add("zero", 1, [&](index_t) { return 0.0; });
  add("two values", 1, [&](index_t i) { return i % 3 == 0 ? 0.25 : -1.0; });
  for (const double magnitude : {1e-30, 1e-20, 1e-9, 1e-6, 1e4, 1e6, 1e15, 1e25, 3e38}) {
    add("magnitude " + std::to_string(magnitude), 1,
        [&](index_t) { return magnitude * (2 * uniform() - 1); });
  }
  return all;
}

std::vector<float> importance_of(index_t cols, bool with_zeros) {
  std::mt19937_64 generator(92);
  std::vector<float> importance(static_cast<std::size_t>(cols));
  for (std::size_t k = 0; k < importance.size(); ++k) {
    importance[k] = static_cast<float>(std::exp(1.5 * test_support::normal(generator)));
    if (with_zeros && k % 5 < 2) importance[k] = 0;
  }
  return importance;
}

using searched_formats = type_list<q2_k, q3_k, q4_k, q5_k, q6_k, q4_0, q4_1, q5_0, q5_1, q8_0,
                                   iq4_nl, iq4_xs, mxfp4, nvfp4, q1_0, q2_0, tq1_0, tq2_0>;

/// Every so many-th row of every matrix of the bundled model.
std::vector<sample> model_rows(index_t step) {
  const auto file = gguf::open(SUBBYTE_EXAMPLE_DATA_DIR "/model-f16.gguf");
  std::vector<sample> all;
  for (const auto& t : file.tensors()) {
    if (t.rows() == 1) continue;
    sample s{std::string(t.name()), t.rows() / step, t.cols(), {}};
    s.w.resize(static_cast<std::size_t>(s.rows * s.cols));
    const auto stored = t.template as<f16>();
    for (index_t r = 0; r < s.rows; ++r) {
      stored.decode_row(step * r, 0, s.cols, s.w.data() + r * s.cols);
    }
    all.push_back(std::move(s));
  }
  return all;
}

/// Requires that no row is worse, and gives the mean of the errors over the reference's.
template <class F>
double checked_ratio(const std::vector<sample>& all, bool weighted, bool with_zeros, int effort) {
  double sum = 0;
  int counted = 0;
  for (const sample& s : all) {
    INFO(F::name << ", " << s.name << ", effort " << effort);
    const auto importance = weighted ? importance_of(s.cols, with_zeros) : std::vector<float>();
    const auto plain = made<F>(s, reference{.importance = importance});
    const auto found = made<F>(s, best{.importance = importance, .effort = effort});
    double error = 0;
    double reference_error = 0;
    for (index_t r = 0; r < s.rows; ++r) {
      const double own = row_error(s, found, r, importance);
      const double other = row_error(s, plain, r, importance);
      // Both sums are of at most 2^10 numbers >= 0 in double. An overflow of the reference is no
      // error that another could be below: its block stays, or another is finite.
      if (std::isfinite(other)) REQUIRE(own <= other * (1 + 0x1p-40));
      error += own;
      reference_error += other;
    }
    if (reference_error > 0 && std::isfinite(reference_error)) {
      sum += error / reference_error;
      ++counted;
    }
  }
  return sum / counted;
}

void check_every_kind(int effort) {
  const auto all = samples();
  for_each_type(searched_formats{}, [&]<class F>(std::type_identity<F>) {
    (void)checked_ratio<F>(all, false, false, effort);
    (void)checked_ratio<F>(all, true, true, effort);
  });
}

void check_model(index_t step) {
  const auto all = model_rows(step);
  // What each format saves at least of the reference's error, in percent, without and with
  // importance: a little below what docs/benchmarks has for the whole model.
  struct expectation {
    const char* name;
    double plain, weighted;
  };
  constexpr expectation expected[] = {
      {"q2_k", 20, 5},  {"q3_k", 7, 1},    {"q4_k", 4, 3},   {"q5_k", 9, 8},    {"q6_k", 8, 7},
      {"q4_0", 10, 2},  {"q4_1", 18, 2},   {"q5_0", 10, 3},  {"q5_1", 18, 2},   {"q8_0", 20, 25},
      {"iq4_nl", 6, 5}, {"iq4_xs", 5, 5},  {"mxfp4", 4, 4},  {"nvfp4", 22, 22}, {"q1_0", 0, 2},
      {"q2_0", 70, 70}, {"tq1_0", 65, 60}, {"tq2_0", 75, 70}};
  for_each_type(searched_formats{}, [&]<class F>(std::type_identity<F>) {
    for (const expectation& e : expected) {
      if (std::string(e.name) != F::name) continue;
      const double plain = 100 * (1 - checked_ratio<F>(all, false, false, 1));
      const double weighted = 100 * (1 - checked_ratio<F>(all, true, false, 1));
      INFO(F::name << " saves " << plain << " and " << weighted << " percent");
      CHECK(plain >= e.plain);
      CHECK(weighted >= e.weighted);
    }
  });
}

}  // namespace

TEST_CASE("best: no row of any kind has a larger error than the reference's") {
  check_every_kind(1);
}

TEST_CASE("best: no row of any kind has a larger error after more effort", "[.slow]") {
  check_every_kind(2);
  check_every_kind(3);
}

TEST_CASE("best: on the bundled model no row is worse and the mean error is much lower") {
  check_model(64);
}

TEST_CASE("best: on more rows of the bundled model none is worse", "[.slow]") { check_model(8); }

TEST_CASE("best: more effort lowers the error further on average") {
  const std::vector<sample> normal = {
      {"normal", 32, 512, test_support::normal_vector(32 * 512, 0.02, 93)}};
  for_each_type(type_list<q2_k, q3_k, q4_k, q5_k, q6_k, iq4_xs, q4_1>{},
                [&]<class F>(std::type_identity<F>) {
                  INFO(F::name);
                  const double first = checked_ratio<F>(normal, true, false, 1);
                  const double second = checked_ratio<F>(normal, true, false, 2);
                  CHECK(second < first);
                  CHECK(checked_ratio<F>(normal, true, false, 3) < second);
                });
}

TEST_CASE("best: the same bytes on every width of vectors") {
  const auto all = samples();
  for_each_type(searched_formats{}, [&]<class F>(std::type_identity<F>) {
    for (const sample& s : all) {
      INFO(F::name << ", " << s.name);
      for (const bool weighted : {false, true}) {
        const auto v = importance_of(256, true);
        const float* const importance = weighted ? v.data() : nullptr;
        for (const int effort : {1, 2}) {
          const F expected =
              F::template encode_best<arch::scalar>(s.w.data(), importance, 0.01F, effort);
          for_each_type(type_list<arch::avx2, arch::avx512, arch::neon>{},
                        [&]<class Arch>(std::type_identity<Arch>) {
                          if constexpr (Arch::enabled) {
                            const F block = F::template encode_best<Arch>(s.w.data(), importance,
                                                                          0.01F, effort);
                            REQUIRE(std::memcmp(&block, &expected, sizeof(F)) == 0);
                          }
                        });
        }
      }
    }
  });
}

TEST_CASE("best: the bytes are these, whatever the compiler and its flags") {
  // Weights without a function of the standard library: sums of uniform integers.
  std::uint64_t state = 12345;
  const auto draw = [&] {
    int sum = -2 * 255;
    for (int i = 0; i < 4; ++i) {
      state = state * 6364136223846793005U + 1442695040888963407U;
      sum += static_cast<int>(state >> 56);
    }
    return static_cast<float>(sum) * 0x1p-13F;
  };
  sample s{"sums", 4, 512, {}};
  for (int i = 0; i < 4 * 512; ++i) s.w.push_back(draw());
  std::vector<float> importance;
  for (int i = 0; i < 512; ++i) importance.push_back(std::fabs(draw()) + 0x1p-10F);
  std::string sums;
  for_each_type(searched_formats{}, [&]<class F>(std::type_identity<F>) {
    std::uint32_t sum = 2166136261U;  // FNV-1a
    for (const bool weighted : {false, true}) {
      best policy;
      if (weighted) policy.importance = importance;
      const auto m = made<F>(s, policy);
      const auto* const bytes = reinterpret_cast<const std::uint8_t*>(m.view().data());
      for (index_t i = 0; i < m.view().size_bytes(); ++i) sum = (sum ^ bytes[i]) * 16777619U;
    }
    char text[32];
    std::snprintf(text, sizeof text, "%s %08x\n", F::name, sum);
    sums += text;
  });
  CHECK(sums ==
        "q2_k 2be2b958\nq3_k bcd934a8\nq4_k 1a210759\nq5_k 14fa419b\nq6_k 654b0c81\n"
        "q4_0 71b82cb0\nq4_1 3d5b7c79\nq5_0 0b2e2966\nq5_1 422ab938\nq8_0 7768f861\n"
        "iq4_nl a6931996\niq4_xs 73c01af5\nmxfp4 6e690ec7\nnvfp4 036932ad\nq1_0 fee236e2\n"
        "q2_0 a4391cf5\ntq1_0 f9653006\ntq2_0 ba0fa929\n");
}

TEST_CASE("best: is the default, and other formats get the reference's bytes") {
  const sample s{"normal", 3, 300, test_support::normal_vector(3 * 300, 0.02, 94)};
  REQUIRE(same_bytes(quantize<q4_k>(s.view()).matrix, made<q4_k>(s, best{})));
  REQUIRE_FALSE(same_bytes(quantize<q4_k>(s.view()).matrix, made<q4_k>(s, reference{})));
  for_each_type(type_list<f32, f16, bf16, q8_1, q8_k>{}, [&]<class F>(std::type_identity<F>) {
    static_assert(!best_encodable<F>);
    REQUIRE(same_bytes(made<F>(s, best{}), made<F>(s, reference{})));
  });
}

TEST_CASE("best: the bytes do not depend on the number of threads") {
  const sample s{"normal", 37, 300, test_support::normal_vector(37 * 300, 0.02, 95)};
  thread_pool pool(3);
  for_each_type(searched_formats{}, [&]<class F>(std::type_identity<F>) {
    REQUIRE(same_bytes(made<F>(s, best{}), made<F>(s, best{}, pool)));
  });
}

TEST_CASE("best: importance decides even between formats' tools that ignore it") {
  // Half the columns do not matter: what matters must come out nearer than without importance.
  const sample s{"normal", 8, 512, test_support::normal_vector(8 * 512, 0.02, 96)};
  std::vector<float> importance(512);
  for (std::size_t k = 0; k < 512; ++k) importance[k] = k % 2 == 0 ? 1.0F : 0.0F;
  for_each_type(searched_formats{}, [&]<class F>(std::type_identity<F>) {
    const auto plain = made<F>(s, best{});
    const auto weighted = made<F>(s, best{.importance = importance});
    double plain_error = 0;
    double weighted_error = 0;
    for (index_t r = 0; r < s.rows; ++r) {
      plain_error += row_error(s, plain, r, importance);
      weighted_error += row_error(s, weighted, r, importance);
    }
    INFO(F::name);
    CHECK(weighted_error < plain_error);
  });
}

TEST_CASE("best: NaN and Inf can be taken as zero") {
  sample s{"normal", 2, 256, test_support::normal_vector(2 * 256, 0.02, 97)};
  sample zeros = s;
  s.w[40] = std::numeric_limits<float>::quiet_NaN();
  s.w[300] = std::numeric_limits<float>::infinity();
  zeros.w[40] = zeros.w[300] = 0;
  const best policy{.on_non_finite = non_finite::zero};
  REQUIRE(same_bytes(made<q4_k>(s, policy), made<q4_k>(zeros, policy)));
}

#if defined(__cpp_exceptions)
TEST_CASE("best: another effort and importance that is none are errors") {
  const sample s{"normal", 2, 64, test_support::normal_vector(2 * 64, 0.02, 98)};
  const auto code_of = [&](const best& policy) {
    return test_support::error_of([&] { (void)quantize<q4_0>(s.view(), policy); }).code();
  };
  for (const int effort : {-1, 0, 4}) CHECK(code_of({.effort = effort}) == errc::bad_argument);
  std::vector<float> importance(63, 1.0F);
  CHECK(code_of({.importance = importance}) == errc::bad_shape);
  importance.push_back(-1.0F);
  CHECK(code_of({.importance = importance}) == errc::non_finite);
}
#endif
