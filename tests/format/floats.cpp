// SPDX-License-Identifier: Apache-2.0
/// The formats of one weight per block: f32, f16 and bf16.
#include <cmath>
#include <cstring>

#include "subbyte/format/bf16.hpp"
#include "subbyte/format/f16.hpp"
#include "subbyte/format/f32.hpp"
#include "support/catch.hpp"

namespace {

using namespace subbyte;

float from_bits(std::uint32_t bits) { return bit_cast<float>(bits); }

template <class F>
F encoded(float v) {
  return encode<F, arch::native>(&v, nullptr, 0);
}

}  // namespace

TEST_CASE("f32 copies every bit, also of NaN") {
  for (const std::uint32_t bits :
       {0x80000000U, 0x00000001U, 0x3F800001U, 0x7F800000U, 0xFFC12345U}) {
    const f32 block = encoded<f32>(from_bits(bits));
    float out = 0;
    decode(block, &out);
    CHECK(bit_cast<std::uint32_t>(block.weight) == bits);
    CHECK(bit_cast<std::uint32_t>(out) == bits);
  }
}

TEST_CASE("f16 and bf16: every code decodes to its value, and encoding gives the code back") {
  int wrong = 0;
  for (std::uint32_t bits = 0; bits < 65536; ++bits) {
    const f16 h{half::from_bits(static_cast<std::uint16_t>(bits))};
    float value = 0;
    decode(h, &value);
    const int field = static_cast<int>(bits >> 10 & 31);
    const int mantissa = static_cast<int>(bits & 1023);
    if (field == 31 && mantissa != 0) {
      // ggml drops the payload: sign and 0x7E00.
      wrong +=
          value != value && encoded<f16>(value).weight.bits == ((bits & 0x8000U) | 0x7E00U) ? 0 : 1;
    } else {
      const double magnitude = field == 31  ? HUGE_VAL
                               : field == 0 ? std::ldexp(mantissa, -24)
                                            : std::ldexp(1024 + mantissa, field - 25);
      wrong += static_cast<double>(value) == (bits >= 0x8000U ? -magnitude : magnitude) ? 0 : 1;
      wrong += encoded<f16>(value).weight.bits == bits ? 0 : 1;
    }

    const bf16 b{bfloat16::from_bits(static_cast<std::uint16_t>(bits))};
    decode(b, &value);
    wrong += bit_cast<std::uint32_t>(value) == bits << 16 ? 0 : 1;
    // ggml keeps a NaN's payload and sets the quiet bit.
    const std::uint32_t expected = value != value ? bits | 0x40U : bits;
    wrong += encoded<bf16>(value).weight.bits == expected ? 0 : 1;
  }
  CHECK(wrong == 0);
}

TEST_CASE("f16 rounds to nearest even and overflows to Inf") {
  CHECK(encoded<f16>(65519.996F).weight.bits == 0x7BFF);
  CHECK(encoded<f16>(65520.0F).weight.bits == 0x7C00);
  CHECK(encoded<f16>(-1e30F).weight.bits == 0xFC00);
  CHECK(encoded<f16>(1.0F + 0x1p-11F).weight.bits == 0x3C00);
  CHECK(encoded<f16>(1.0F + 3 * 0x1p-11F).weight.bits == 0x3C02);
  CHECK(encoded<f16>(0x1p-25F).weight.bits == 0x0000);
  CHECK(encoded<f16>(std::nextafter(0x1p-25F, 1.0F)).weight.bits == 0x0001);
}

TEST_CASE("bf16 rounds to nearest even, overflows to Inf and keeps the payload of NaN") {
  CHECK(encoded<bf16>(from_bits(0x3F808000U)).weight.bits == 0x3F80);
  CHECK(encoded<bf16>(from_bits(0x3F818000U)).weight.bits == 0x3F82);
  CHECK(encoded<bf16>(from_bits(0x3F808001U)).weight.bits == 0x3F81);
  CHECK(encoded<bf16>(from_bits(0x7F7FFFFFU)).weight.bits == 0x7F80);
  CHECK(encoded<bf16>(from_bits(0xFF800001U)).weight.bits == 0xFFC0);
  CHECK(encoded<bf16>(from_bits(0x7FC12345U)).weight.bits == 0x7FC1);
}
