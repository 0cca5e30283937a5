// SPDX-License-Identifier: Apache-2.0
/// The blocks that the GPU benchmarks tile matrices with.
#include "weights.hpp"

#include <cmath>
#include <cstring>
#include <stdexcept>

#include "subbyte/format/list.hpp"
#include "support/catch.hpp"

TEST_CASE("Rows of every format hold weights of the deviation that was asked for") {
  using namespace subbyte;
  for_each_type(file_formats{}, [&]<class F>(std::type_identity<F>) {
    INFO(F::name);
    const bench::encoded_row row = bench::encode_random_row(F::name);
    constexpr std::size_t count = 16384 / F::block_size;
    REQUIRE(row.blocks.size() == count * sizeof(F));
    double squares = 0;
    for (std::size_t b = 0; b < count; ++b) {
      F block;
      std::memcpy(static_cast<void*>(&block), row.blocks.data() + b * sizeof(F), sizeof(F));
      float w[static_cast<std::size_t>(F::block_size)];
      if constexpr (row_scaled_format<F>) {
        typename F::row_scale scale;
        REQUIRE(row.header.size() == sizeof(scale));
        std::memcpy(&scale, row.header.data(), sizeof(scale));
        F::decode(block, scale, w);
      } else {
        REQUIRE(row.header.empty());
        decode(block, w);
      }
      for (const float v : w) squares += static_cast<double>(v) * static_cast<double>(v);
    }
    // 0.02; formats of a bit or two lose a part of it or overdo it.
    const double deviation = std::sqrt(squares / 16384);
    CHECK(deviation > 0.015);
    CHECK(deviation < 0.026);
  });
  CHECK_THROWS_AS(bench::encode_random_row("q4_9"), std::invalid_argument);
}
