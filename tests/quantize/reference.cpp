// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/reference.hpp"

#include <cstring>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

#include "subbyte/format/list.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/random.hpp"

namespace quantize_reference_test {

using namespace subbyte;

namespace {

template <class F>
bool same_bytes(const quantized<F>& first, const quantized<F>& second) {
  const auto a = first.view();
  const auto b = second.view();
  return a.size_bytes() == b.size_bytes() &&
         std::memcmp(a.data(), b.data(), static_cast<std::size_t>(a.size_bytes())) == 0;
}

constexpr float infinity = std::numeric_limits<float>::infinity();
constexpr float not_a_number = std::numeric_limits<float>::quiet_NaN();

template <class T>
std::vector<T> read_values(const std::string& file) {
  std::ifstream in(std::string(SUBBYTE_GOLDEN_DIR "/ggml/") + file, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(in), {}};
  std::vector<T> values(bytes.size() / sizeof(T));
  std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

}  // namespace

TEST_CASE("reference: whole matrices through quantize have the bytes of ggml's file quantizer") {
  constexpr index_t rows = 16;
  constexpr index_t cols = 512;
  const auto importance = read_values<float>("imatrix/im512.f32");
  for (const std::string set : {"gaussian", "heavy"}) {
    const auto w = read_values<float>("input/" + set + ".f32");
    REQUIRE(w.size() == rows * cols);
    const matrix_view<const float> view(w.data(), rows, cols);
    for_each_type(type_list<q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs>{},
                  [&]<class F>(std::type_identity<F>) {
                    std::string type = F::name;  // the files are spelled as in ggml: q4_K
                    if (type.ends_with("_k")) type.back() = 'K';
                    INFO(set << ' ' << type);
                    for (const bool weighted : {false, true}) {
                      const auto q = quantize<F>(
                          view, weighted ? reference{.importance = importance} : reference{});
                      const auto expected = read_values<std::uint8_t>(
                          "q/" + set + "/" + type + (weighted ? ".im.bin" : ".bin"));
                      REQUIRE(static_cast<index_t>(expected.size()) == q.view().size_bytes());
                      REQUIRE(std::memcmp(q.view().data(), expected.data(), expected.size()) == 0);
                    }
                  });
  }
}

TEST_CASE("reference: importance moves the error to the columns that matter less") {
  const index_t rows = 64;
  const index_t cols = 256;
  const auto w = test_support::normal_vector(64 * 256, 0.02, 27);
  std::vector<float> importance(256);
  for (std::size_t k = 0; k < 256; ++k) importance[k] = k % 4 == 0 ? 100.0F : 0.01F;
  const auto weighted_error = [&](const std::vector<float>& back) {
    double sum = 0;
    for (std::size_t i = 0; i < w.size(); ++i) {
      const double e = static_cast<double>(w[i]) - static_cast<double>(back[i]);
      sum += static_cast<double>(importance[i % 256]) * e * e;
    }
    return sum;
  };
  const matrix_view<const float> view(w.data(), rows, cols);
  for_each_type(type_list<q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs>{},
                [&]<class F>(std::type_identity<F>) {
                  INFO(F::name);
                  const auto plain = quantize<F>(view, reference{});
                  const auto weighted = quantize<F>(view, reference{.importance = importance});
                  REQUIRE(weighted_error(test_support::decoded(weighted.view())) <
                          weighted_error(test_support::decoded(plain.view())));
                });
}

TEST_CASE("reference: NaN and Inf can be taken as zero") {
  auto w = test_support::normal_vector(4 * 64, 1.0, 28);
  auto zeros = w;
  w[70] = not_a_number;
  w[130] = infinity;
  w[131] = -infinity;
  zeros[70] = zeros[130] = zeros[131] = 0;
  const matrix_view<const float> view(w.data(), 4, 64);
  const matrix_view<const float> expected(zeros.data(), 4, 64);
  const reference policy{.on_non_finite = non_finite::zero};
  REQUIRE(same_bytes(quantize<q8_0>(view, policy), quantize<q8_0>(expected, reference{})));
  const std::vector<float> importance(64, 1.0F);
  const reference weighted{.importance = importance, .on_non_finite = non_finite::zero};
  REQUIRE(same_bytes(quantize<q4_0>(view, weighted), quantize<q4_0>(expected, weighted)));
}

#if defined(__cpp_exceptions)
TEST_CASE("reference: importance of the wrong length or sign is an error") {
  const auto w = test_support::normal_vector(2 * 64, 1.0, 30);
  const matrix_view<const float> view(w.data(), 2, 64);
  const auto code_for = [&](const std::vector<float>& importance) {
    return test_support::error_of(
               [&] { (void)quantize<q4_k>(view, reference{.importance = importance}); })
        .code();
  };
  REQUIRE(code_for(std::vector<float>(63, 1.0F)) == errc::bad_shape);
  REQUIRE(code_for(std::vector<float>(65, 1.0F)) == errc::bad_shape);
  std::vector<float> bad(64, 1.0F);
  for (const float v : {-1.0F, not_a_number, infinity}) {
    bad[5] = v;
    REQUIRE(code_for(bad) == errc::non_finite);
  }
  bad[5] = 0;  // a column that does not matter is no error
  (void)quantize<q4_k>(view, reference{.importance = bad});
}
#endif

}  // namespace quantize_reference_test
