// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/grid_rule.hpp"

#include <initializer_list>
#include <vector>

#include "support/catch.hpp"

using namespace subbyte;

namespace {

using whole = int_grid<4>;
using middle = int_grid<4, zero_points::none>;

template <class G>
typename G::params params_of(grid_rule rule, std::initializer_list<float> w) {
  return rule_params<arch::scalar, G>(rule, w.begin(), static_cast<index_t>(w.size()));
}

}  // namespace

TEST_CASE("grid_rule: a symmetric group without negatives") {
  const std::initializer_list<float> w = {0.1F, 0.5F, 0.9F};
  const auto halved = params_of<middle>(grid_rule::gptq, w);
  REQUIRE(halved.scale == 0.9F / 15.0F);
  REQUIRE(middle::value(rule_code<middle>(grid_rule::gptq, 0.9F, halved), halved) ==
          7 * (0.9F / 15.0F));
  for (const auto rule : {grid_rule::target, grid_rule::compressed_tensors}) {
    REQUIRE(params_of<middle>(rule, w).scale == 1.8F / 15.0F);
  }
  REQUIRE(params_of<middle>(grid_rule::awq, w).scale == 0.9F / 7.0F);
  // The extreme takes the code that reaches furthest: the scale is negative.
  const auto signed_scale = params_of<middle>(grid_rule::onnx, w);
  REQUIRE(signed_scale.scale == 0.9F / -8.0F);
  REQUIRE(rule_code<middle>(grid_rule::onnx, 0.9F, signed_scale) == 0);
}

TEST_CASE("grid_rule: a group away from zero saturates under the awq rule only") {
  const std::initializer_list<float> w = {1.0F, 1.1F, 1.15F, 1.3F};
  const auto awq = params_of<whole>(grid_rule::awq, w);
  REQUIRE(awq.scale == (1.3F - 1.0F) / 15.0F);
  REQUIRE(awq.zero == 0);
  for (const float v : w) REQUIRE(rule_code<whole>(grid_rule::awq, v, awq) == 15);
  for (const auto rule :
       {grid_rule::target, grid_rule::gptq, grid_rule::compressed_tensors, grid_rule::onnx}) {
    REQUIRE(params_of<whole>(rule, w).scale == 1.3F / 15.0F);
    REQUIRE(params_of<whole>(rule, w).zero == 0);
  }
  const auto below = params_of<whole>(grid_rule::awq, {-1.0F, -1.3F});
  REQUIRE(below.zero == 15);
}

TEST_CASE("grid_rule: a group of zeros") {
  const std::initializer_list<float> w = {0.0F, -0.0F, 0.0F};
  REQUIRE(params_of<middle>(grid_rule::gptq, w).scale == 2.0F / 15.0F);
  REQUIRE(params_of<whole>(grid_rule::gptq, w).zero == 7);  // 1 / (2 / 15) is below 7.5 in fp32
  REQUIRE(params_of<middle>(grid_rule::awq, w).scale == 1e-5F / 7.0F);
  REQUIRE(params_of<whole>(grid_rule::awq, w).scale == 1e-5F / 15.0F);
  REQUIRE(params_of<whole>(grid_rule::awq, w).zero == 0);
  REQUIRE(params_of<middle>(grid_rule::compressed_tensors, w).scale == 0x1p-23F);
  REQUIRE(params_of<whole>(grid_rule::compressed_tensors, w).scale == 0x1p-23F);
  REQUIRE(params_of<whole>(grid_rule::compressed_tensors, w).zero == 8);
  REQUIRE(params_of<middle>(grid_rule::onnx, w).scale == 0);
  REQUIRE(params_of<whole>(grid_rule::onnx, w).scale == 0);
  REQUIRE(params_of<whole>(grid_rule::onnx, w).zero == 0);
  for (const auto rule : {grid_rule::target, grid_rule::gptq, grid_rule::awq,
                          grid_rule::compressed_tensors, grid_rule::onnx}) {
    const auto p = params_of<whole>(rule, w);
    REQUIRE(whole::value(rule_code<whole>(rule, 0.0F, p), p) == 0);
  }
}

TEST_CASE("grid_rule: where the roundings of the codes differ") {
  // w / scale is 2.5: half to even, and then the zero point; or the zero point first.
  const whole::params odd{2.0F, 7.0F};
  REQUIRE(rule_code<whole>(grid_rule::gptq, 5.0F, odd) == 9);
  REQUIRE(rule_code<whole>(grid_rule::compressed_tensors, 5.0F, odd) == 10);
  // 1 / 41 is rounded down: 143.5 / 41 is 3.5, a tie, and 143.5 * (1 / 41) is not.
  const whole::params inexact{41.0F, 0.0F};
  REQUIRE(rule_code<whole>(grid_rule::gptq, 143.5F, inexact) == 4);
  REQUIRE(rule_code<whole>(grid_rule::onnx, 143.5F, inexact) == 3);
}

TEST_CASE("grid_rule: codes stay codes, whatever the weight") {
  for (const auto rule :
       {grid_rule::gptq, grid_rule::awq, grid_rule::compressed_tensors, grid_rule::onnx}) {
    for (const float scale : {1e-30F, 1.0F, -0.5F}) {
      REQUIRE(rule_code<whole>(rule, 1e30F, {scale, 3.0F}) == (scale > 0 ? 15 : 0));
      REQUIRE(rule_code<whole>(rule, -1e30F, {scale, 3.0F}) == (scale > 0 ? 0 : 15));
    }
  }
}
