// SPDX-License-Identifier: Apache-2.0
/// The header of the component core brings what its users need, and nothing of the others.
#include "subbyte/subbyte.hpp"

#include <type_traits>

#include "support/catch.hpp"

#if !defined(SUBBYTE_VERSION_MAJOR) || !defined(SUBBYTE_VERSION_MINOR) || \
    !defined(SUBBYTE_VERSION_PATCH)
#error "subbyte.hpp states the version"
#endif

using namespace subbyte;

static_assert(SUBBYTE_VERSION_MAJOR >= 0 && SUBBYTE_VERSION_MINOR >= 0 &&
              SUBBYTE_VERSION_PATCH >= 0);
static_assert(sizeof(half) == 2 && sizeof(bfloat16) == 2);
static_assert(sizeof(e8m0) == 1 && sizeof(ue4m3) == 1 && sizeof(e4m3fn) == 1);
static_assert(executor<serial_executor>);
static_assert(all_formats::size > 0 && contains_v<all_formats, mxfp4>);

TEST_CASE("subbyte.hpp: quantizing and every metric, from one include") {
  tensor<float, 2> w(2, 32);
  for (index_t i = 0; i < 64; ++i) w.data()[i] = static_cast<float>(i);
  const auto q = quantize<q4_0>(w.view());
  CHECK(q.report.error.sqnr_db > 15);
  CHECK(measure_error(w.view(), q.view()).count == 64);
  CHECK(measure_histogram_divergence<4>(w.view()[0], w.view()[0]).kl < 1e-9);
  CHECK(logit_kl(w.view()[0], w.view()[0]) == 0);
  CHECK(storage_cost{64, 0, q.view().size_bytes()}.bits_per_weight() == 4.5);
}
