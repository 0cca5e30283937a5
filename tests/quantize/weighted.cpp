// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/weighted.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/quantize/quantize.hpp"
#include "subbyte/quantize/range_search.hpp"
#include "subbyte/quantize/rtn.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/layers.hpp"
#include "support/planes.hpp"

using namespace subbyte;

namespace {

std::vector<float> uneven_importance(std::size_t cols) {
  std::vector<float> importance(cols);
  for (std::size_t k = 0; k < cols; ++k) {
    importance[k] = k % 11 == 0 ? 0.0F : k % 4 == 0 ? 30.0F : 0.05F * static_cast<float>(1 + k % 5);
  }
  return importance;
}

template <class M>
double weighted_error(const test_support::layer& layer, const M& matrix,
                      const std::vector<float>& importance) {
  const auto back = test_support::weights_of(matrix);
  double sum = 0;
  for (std::size_t i = 0; i < back.size(); ++i) {
    const double e = double{back[i]} - double{layer.w[i]};
    sum += double{importance[i % importance.size()]} * e * e;
  }
  return sum;
}

}  // namespace

TEST_CASE("weighted: the weighted error lies between the exact minimum and a part of rtn's") {
  const auto importance = uneven_importance(200);
  for (const auto& layer : test_support::fixed_layers()) {
    INFO(layer.name);
    const auto check = [&]<class P>(std::type_identity<P>, double part) {
      const auto error = [&](const auto& policy) {
        return weighted_error(layer, quantize<P>(layer.view(), {32}, policy).matrix, importance);
      };
      const double plain = error(rtn{});
      const double found = error(weighted{.importance = importance});
      const double least = error(range_search{.importance = importance});
      INFO(found / plain << " of rtn's error, the minimum is " << least / plain);
      REQUIRE(found < part * plain);
      if (P::grid::zeros != zero_points::real) REQUIRE(least <= found * (1 + 1e-6));
    };
    check(std::type_identity<planar<int_grid<4>, half>>{}, 0.75);
    check(std::type_identity<planar<int_grid<3>, bfloat16>>{}, 0.75);
    check(std::type_identity<planar<int_grid<3, zero_points::none>, half>>{}, 0.75);
    check(std::type_identity<planar<int_grid<3, zero_points::real>, half>>{}, 0.75);
    check(std::type_identity<planar<codebook_grid<nf4>, half>>{}, 0.9);
  }
}

TEST_CASE("weighted: block formats lower the weighted error") {
  const auto importance = uneven_importance(200);
  for (const auto& layer : test_support::fixed_layers()) {
    INFO(layer.name);
    for_each_type(type_list<q4_0, q4_1, q5_0, q5_1, q2_k, q3_k, q4_k, q5_k, q6_k, iq4_nl, iq4_xs>{},
                  [&]<class F>(std::type_identity<F>) {
                    INFO(F::name);
                    const auto plain = quantize<F>(layer.view(), rtn{});
                    const auto found =
                        quantize<F>(layer.view(), weighted{.importance = importance});
                    REQUIRE(weighted_error(layer, found.matrix, importance) <
                            weighted_error(layer, plain.matrix, importance));
                  });
  }
}

TEST_CASE("weighted: corner cases stay finite, zeros stay zero, no importance is importance one") {
  const auto corners = test_support::corner_rows();
  const std::vector<float> ones(64, 1.0F);
  const std::vector<float> nothing(64, 0.0F);
  const auto check = [&]<class P>(std::type_identity<P>) {
    const auto plain = quantize<P>(corners.view(), {16}, weighted{});
    const auto even = quantize<P>(corners.view(), {16}, weighted{.importance = ones});
    REQUIRE(test_support::codes_of(plain.matrix) == test_support::codes_of(even.matrix));
    const auto blind = quantize<P>(corners.view(), {16}, weighted{.importance = nothing});
    for (const auto& back :
         {test_support::weights_of(plain.matrix), test_support::weights_of(blind.matrix)}) {
      for (std::size_t i = 0; i < back.size(); ++i) {
        INFO("row " << i / 64);
        REQUIRE(std::isfinite(back[i]));
        if (i < 128) REQUIRE(back[i] == 0);
      }
    }
  };
  check(std::type_identity<planar<int_grid<4>, half>>{});
  check(std::type_identity<planar<int_grid<2, zero_points::none>, f32_scale>>{});
  check(std::type_identity<planar<int_grid<4, zero_points::real>, half>>{});
  check(std::type_identity<planar<codebook_grid<nf4>, bfloat16>>{});
}

TEST_CASE("weighted: the bytes do not depend on the executor") {
  const auto layer = test_support::fixed_layers()[1];
  const auto importance = uneven_importance(200);
  thread_pool pool(3);
  const weighted policy{.importance = importance};
  const auto serially = quantize<planar<int_grid<4>, half>>(layer.view(), {32}, policy);
  const auto pooled = quantize<planar<int_grid<4>, half>>(layer.view(), {32}, policy, pool);
  REQUIRE(test_support::codes_of(serially.matrix) == test_support::codes_of(pooled.matrix));
}

#if defined(__cpp_exceptions)
TEST_CASE("weighted: importance of the wrong length or sign is an error, NaN a choice") {
  auto layer = test_support::fixed_layers()[0];
  const auto code_for = [&](const std::vector<float>& importance) {
    return test_support::error_of(
               [&] { (void)quantize<q4_k>(layer.view(), weighted{.importance = importance}); })
        .code();
  };
  REQUIRE(code_for(std::vector<float>(199, 1.0F)) == errc::bad_shape);
  REQUIRE(code_for(std::vector<float>(200, -1.0F)) == errc::non_finite);
  layer.w[3] = std::numeric_limits<float>::infinity();
  REQUIRE(test_support::error_of([&] { (void)quantize<q4_k>(layer.view(), weighted{}); }).code() ==
          errc::non_finite);
  const auto q = quantize<planar<int_grid<4>, half>>(layer.view(), {32},
                                                     weighted{.on_non_finite = non_finite::zero});
  REQUIRE(test_support::weights_of(q.matrix)[3] == 0);
}
#endif
