// SPDX-License-Identifier: Apache-2.0
/// The portable kernels on matrices whose rows begin with a scale.
#include <cmath>
#include <cstring>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/kernel/dequantize.hpp"
#include "subbyte/kernel/gemm.hpp"
#include "subbyte/kernel/gemv.hpp"
#include "subbyte/matrix/row_scaled_matrix.hpp"
#include "subbyte/quantize/reference.hpp"
#include "support/archs.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace subbyte;

TEST_CASE("row-scaled matrices: dequantize and products are those of the decoded weights") {
  const index_t rows = 9;
  const index_t cols = 512;
  const auto w = test_support::normal_vector(9 * 512, 0.02, 81);
  const auto x = test_support::normal_vector(3 * 512, 1.0, 82);
  for_each_type(row_scaled_formats{}, [&]<class F>(std::type_identity<F>) {
    INFO(F::name);
    row_scaled_matrix<F> stored(rows, cols);
    reference{}.apply(matrix_view<const float>(w.data(), rows, cols), stored, serial);
    std::vector<float> decoded(9 * 512);
    for (index_t r = 0; r < rows; ++r) {
      stored.view().decode_row(r, 0, cols, decoded.data() + r * cols);
    }
    const auto floats = test_support::encoded<f32>(decoded, rows, cols);
    test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
      INFO(Arch::name);
      std::vector<float> out(9 * 512, NAN);
      thread_pool pool(2);
      dequantize<float, Arch>(stored.view(), {out.data(), rows, cols}, pool);
      REQUIRE(out == decoded);
      std::vector<float> y(9, NAN);
      std::vector<float> expected(9, NAN);
      const vector_view<const float> first(x.data(), cols);
      gemv<Arch>(stored.view(), first, y, pool);
      gemv<Arch>(floats.view(), first, expected);
      REQUIRE(y == expected);
      std::vector<float> product(3 * 9, NAN);
      std::vector<float> expected_product(3 * 9, NAN);
      const matrix_view<const float> activations(x.data(), 3, cols);
      gemm<Arch>(stored.view(), activations, {product.data(), 3, rows});
      gemm<Arch>(floats.view(), activations, {expected_product.data(), 3, rows});
      REQUIRE(product == expected_product);
    });
    const std::vector<index_t> ids{8, 0, 8};
    std::vector<float> picked(3 * 512, NAN);
    get_rows(stored.view(), ids, {picked.data(), 3, cols});
    REQUIRE(std::memcmp(picked.data(), decoded.data() + 8 * 512, 2048) == 0);
    REQUIRE(std::memcmp(picked.data() + 512, decoded.data(), 2048) == 0);
  });
}
