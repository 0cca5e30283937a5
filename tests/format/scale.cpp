// SPDX-License-Identifier: Apache-2.0
/// Every scale store: what it stores comes back, and what it rounds is nearest.
#include "subbyte/format/scale.hpp"

#include <cmath>
#include <limits>
#include <vector>

#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/e8m0.hpp"
#include "subbyte/num/half.hpp"
#include "subbyte/num/ue4m3.hpp"
#include "support/catch.hpp"

using namespace subbyte;

static_assert(scale_store<half> && scale_store<bfloat16> && scale_store<e8m0> &&
              scale_store<ue4m3> && scale_store<f32_scale>);
static_assert(!scale_store<float>);

namespace {

template <class S>
void require_round_trip(std::uint32_t codes) {
  for (std::uint32_t code = 0; code < codes; ++code) {
    const S s = S::from_bits(static_cast<decltype(s.bits)>(code));
    const float value = s.to_float();
    if (!std::isfinite(value)) continue;
    if (!(S::nearest(value).to_float() == value)) FAIL("code " << code);
  }
  SUCCEED();
}

}  // namespace

TEST_CASE("scale: every finite code of a store comes back from its value") {
  require_round_trip<half>(1U << 16);
  require_round_trip<bfloat16>(1U << 16);
  require_round_trip<e8m0>(256);
  require_round_trip<ue4m3>(128);
}

TEST_CASE("f32_scale: keeps every float, and compares bits") {
  for (const float v : {0.0F, -0.0F, 1.5F, 1e-45F, std::numeric_limits<float>::max(),
                        std::numeric_limits<float>::infinity()}) {
    REQUIRE(f32_scale::nearest(v).to_float() == v);
    REQUIRE(f32_scale::nearest(v) == f32_scale{v});
  }
  REQUIRE_FALSE(f32_scale{0.0F} == f32_scale{-0.0F});
  const float nan = std::numeric_limits<float>::quiet_NaN();
  REQUIRE(f32_scale{nan} == f32_scale{nan});
}
