// SPDX-License-Identifier: Apache-2.0
/// What is a quantizer policy and what is not, checked by the compiler.
#include "subbyte/quantize/concepts.hpp"

#include <type_traits>

#include "subbyte/format/list.hpp"
#include "subbyte/quantize/reference.hpp"
#include "support/catch.hpp"

using namespace subbyte;

namespace {

using target = block_matrix<q4_0>;

struct complete {
  non_finite on_non_finite = non_finite::reject;
  policy_report apply(weights_view, target&, executor_ref) const { return {}; }
};
static_assert(quantizer_for<complete, target>);
static_assert(!quantizer_for<complete, block_matrix<q8_0>>);

struct without_a_rule_for_nan {
  policy_report apply(weights_view, target&, executor_ref) const { return {}; }
};
static_assert(!quantizer_for<without_a_rule_for_nan, target>);

struct with_another_rule {
  bool on_non_finite = true;
  policy_report apply(weights_view, target&, executor_ref) const { return {}; }
};
static_assert(!quantizer_for<with_another_rule, target>);

struct changed_by_use {
  non_finite on_non_finite = non_finite::reject;
  policy_report apply(weights_view, target&, executor_ref) { return {}; }
};
static_assert(!quantizer_for<changed_by_use, target>);

struct without_apply {
  non_finite on_non_finite = non_finite::reject;
};
static_assert(!quantizer_for<without_apply, target>);

// Weights come with any strides, and are never written.
static_assert(std::is_convertible_v<matrix_view<float>, weights_view>);
static_assert(std::is_convertible_v<tensor_view<float, 2, strided>, weights_view>);
static_assert(std::is_same_v<weights_view::element_type, const float>);

}  // namespace

TEST_CASE("quantizer_for: reference is a policy for every format") {
  for_each_type(all_formats{}, []<class F>(std::type_identity<F>) {
    STATIC_REQUIRE(quantizer_for<reference, block_matrix<F>>);
  });
}
