// SPDX-License-Identifier: Apache-2.0
/// expected: block_format
#include "subbyte/subbyte.hpp"

struct three_bits {
  std::uint8_t bytes[12];  // neither a block size nor a decode
};

void use(subbyte::matrix_view<const float> w) {
#if defined(WRONG)
  using format = three_bits;
#else
  using format = subbyte::q3_k;
#endif
  (void)subbyte::quantize<format>(w);
}
