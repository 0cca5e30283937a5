// SPDX-License-Identifier: Apache-2.0
/// What a header that only names the library's types can do with fwd.hpp alone.
#include "subbyte/fwd.hpp"

#include <type_traits>

#include "support/catch.hpp"

namespace {

// Incomplete types as parameters: every name, and every default argument.
using takes_formats = void (*)(
    subbyte::f32*, subbyte::f16*, subbyte::bf16*, subbyte::q4_0*, subbyte::q4_1*, subbyte::q5_0*,
    subbyte::q5_1*, subbyte::q8_0*, subbyte::q8_1*, subbyte::q2_k*, subbyte::q3_k*, subbyte::q4_k*,
    subbyte::q5_k*, subbyte::q6_k*, subbyte::q8_k*, subbyte::iq4_nl*, subbyte::iq4_xs*,
    subbyte::mxfp4*, subbyte::nvfp4*, subbyte::q1_0*, subbyte::q2_0*, subbyte::tq1_0*,
    subbyte::tq2_0*, subbyte::iq1_m*, subbyte::iq1_s*, subbyte::iq2_s*, subbyte::iq2_xs*,
    subbyte::iq2_xxs*, subbyte::iq3_s*, subbyte::iq3_xxs*, subbyte::q6_0*, subbyte::iq2_k*,
    subbyte::iq2_ks*, subbyte::iq3_k*, subbyte::iq3_ks*, subbyte::iq4_k*, subbyte::iq4_ks*,
    subbyte::iq4_kss*, subbyte::iq5_k*, subbyte::iq5_ks*, subbyte::iq6_k*);
static_assert(std::is_pointer_v<takes_formats>);

using subbyte::arch::native;
static_assert(std::is_same_v<subbyte::tensor_view<float, 2>,
                             subbyte::tensor_view<float, 2, subbyte::row_major>>);
static_assert(!std::is_same_v<subbyte::tensor_view<float, 2, subbyte::strided>,
                              subbyte::tensor_view<float, 2, subbyte::row_pitched>>);
static_assert(std::is_same_v<subbyte::block_matrix<subbyte::q4_0>,
                             subbyte::block_matrix<subbyte::q4_0, native>>);
static_assert(std::is_same_v<subbyte::row_scaled_matrix<subbyte::iq4_ks>,
                             subbyte::row_scaled_matrix<subbyte::iq4_ks, native>>);
static_assert(
    std::is_same_v<subbyte::quantized<subbyte::q4_0>, subbyte::quantized<subbyte::q4_0, native>>);
static_assert(std::is_same_v<subbyte::basic_thread_pool<>, subbyte::basic_thread_pool<native>>);
using takes_matrices = void (*)(subbyte::tensor<float, 2>*, subbyte::block_matrix_view<float>*);
static_assert(std::is_pointer_v<takes_matrices>);

}  // namespace

TEST_CASE("fwd: the defaults for an arch are those of the unit that includes it") {
  CHECK(std::is_same_v<subbyte::basic_thread_pool<>, subbyte::basic_thread_pool<native>>);
}
