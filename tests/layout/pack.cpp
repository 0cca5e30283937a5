// SPDX-License-Identifier: Apache-2.0
#include "subbyte/layout/pack.hpp"

#include <array>
#include <string>
#include <vector>

#include "subbyte/layout/gptq_int32.hpp"
#include "subbyte/layout/marlin.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"

namespace {

using subbyte::errc;
using subbyte::index_t;
using bytes = std::vector<std::uint8_t>;
using const_view = subbyte::matrix_view<const std::uint8_t>;
using view = subbyte::matrix_view<std::uint8_t>;

// A layout of 5-bit codes, one per byte, with a hole below each: only the specification packs it.
struct one_per_byte {
  static constexpr const char* name = "one_per_byte";
  static constexpr const char* requirement = "an even number of rows";
  static constexpr int code_bits = 5;
  static constexpr index_t shared_rows = 2;
  static constexpr bool accepts(const subbyte::matrix_shape& s) noexcept { return s.rows % 2 == 0; }
  static constexpr index_t bytes(const subbyte::matrix_shape& s) noexcept {
    return s.rows * s.cols;
  }
  static constexpr index_t bit_offset(const subbyte::matrix_shape& s, index_t r, index_t k,
                                      int bit) noexcept {
    return (r * s.cols + k) * 8 + 3 + bit;
  }
};
static_assert(subbyte::packing_layout<one_per_byte>);

}  // namespace

TEST_CASE("pack: a layout needs no more than its bit_offset") {
  const bytes codes = {1, 31, 0, 7, 16, 2};
  bytes out(6, 0xFF);
  subbyte::pack<one_per_byte>(const_view(codes.data(), 2, 3), out);
  CHECK(out == bytes{8, 248, 0, 56, 128, 16});
  for (auto& byte : out) byte = static_cast<std::uint8_t>(byte | 5U);
  bytes read(6);
  subbyte::unpack<one_per_byte>(out, view(read.data(), 2, 3));
  CHECK(read == codes);
}

TEST_CASE("pack: an empty matrix has no bytes") {
  bytes none;
  subbyte::pack<subbyte::gptq_int32<4>>(const_view(none.data(), 0, 8), none);
  subbyte::unpack<subbyte::gptq_int32<4>>(none, view(none.data(), 8, 0));
  CHECK(subbyte::packed_bytes<subbyte::gptq_int32<4>>({0, 8}) == 0);
}

TEST_CASE("pack: a width read from a file chooses among the widths offered") {
  int found = 0;
  CHECK(subbyte::with_bits<2, 3, 4, 8>(3, [&](auto bits) { found = decltype(bits)::value; }));
  CHECK(found == 3);
  CHECK_FALSE(subbyte::with_bits<2, 3, 4, 8>(5, [&](auto bits) { found = decltype(bits)::value; }));
  CHECK(found == 3);
}

TEST_CASE("pack: a layout as a value does what the layout does") {
  using subbyte::arch::native;
  static_assert(subbyte::packing_of<one_per_byte>.code_bits == 5);
  CHECK(&subbyte::packing_with_bits<native, subbyte::marlin<4>, subbyte::marlin<8>>(8) ==
        &subbyte::packing_of<subbyte::marlin<8>>);
  bytes codes(16 * 64);
  for (int bits = 1; bits <= 8; ++bits) {
    for (std::size_t i = 0; i < codes.size(); ++i) {
      codes[i] = static_cast<std::uint8_t>((i * 37 + 5) % (std::size_t{1} << bits));
    }
    const subbyte::packing& layout = subbyte::packing_of_bits<subbyte::gptq_int32, native>(bits);
    REQUIRE(layout.code_bits == bits);
    bytes out(static_cast<std::size_t>(subbyte::packed_bytes(layout, {16, 64})));
    subbyte::pack(layout, const_view(codes.data(), 16, 64), out);
    bytes expected(out.size());
    subbyte::with_bits<1, 2, 3, 4, 5, 6, 7, 8>(bits, [&](auto b) {
      subbyte::pack<subbyte::gptq_int32<b>>(const_view(codes.data(), 16, 64), expected);
    });
    CHECK(out == expected);
    bytes read(codes.size());
    subbyte::unpack(layout, out, view(read.data(), 16, 64));
    CHECK(read == codes);
  }
}

#if defined(__cpp_exceptions)
TEST_CASE("pack: a shape that the layout does not take is rejected with what it takes") {
  const bytes codes(64 * 24);
  bytes out(64 * 12);
  const auto e = test_support::error_of(
      [&] { subbyte::pack<subbyte::marlin<4>>(const_view(codes.data(), 64, 24), out); });
  CHECK(e.code() == errc::layout_rejected);
  CHECK(std::string(e.what()) ==
        "marlin: 64 x 24 codes of 4 bits: needs rows divisible by 64 and columns divisible by 16");
  bytes read(codes.size());
  CHECK(test_support::error_of([&] {
          subbyte::unpack<subbyte::marlin<4>>(out, view(read.data(), 64, 24));
        }).code() == errc::layout_rejected);
  CHECK(test_support::error_of([] {
          (void)subbyte::packed_bytes<subbyte::marlin<4>>({64, 24});
        }).code() == errc::layout_rejected);
  CHECK(test_support::error_of([] {
          (void)subbyte::packed_bytes<subbyte::marlin<4>>({-64, 16});
        }).code() == errc::layout_rejected);
  CHECK(test_support::error_of([] {
          (void)subbyte::packed_bytes<subbyte::marlin<4>>({64, -16});
        }).code() == errc::layout_rejected);
  CHECK(subbyte::packed_bytes<subbyte::marlin<4>>({64, 32}) == 1024);
}

TEST_CASE("pack: a buffer of another size is rejected") {
  bytes codes(2 * 8);
  for (const std::size_t size : {7U, 9U}) {
    bytes out(size);
    const auto e = test_support::error_of(
        [&] { subbyte::pack<subbyte::gptq_int32<4>>(const_view(codes.data(), 2, 8), out); });
    CHECK(e.code() == errc::bad_shape);
    CHECK(std::string(e.what()) ==
          "gptq_int32: the buffer of 2 x 8 codes has " + std::to_string(size) + " bytes, needs 8");
    CHECK(test_support::error_of([&] {
            subbyte::unpack<subbyte::gptq_int32<4>>(out, view(codes.data(), 2, 8));
          }).code() == errc::bad_shape);
  }
}

TEST_CASE("pack: a code that needs more bits is rejected, in any row") {
  for (const std::size_t at : {0U, 100U, 2399U}) {
    bytes codes(300 * 8, 15);
    bytes out(300 * 4);
    const const_view all(codes.data(), 300, 8);
    subbyte::pack<subbyte::gptq_int32<4>>(all, out);
    codes[at] = 16;
    const auto e = test_support::error_of([&] { subbyte::pack<subbyte::gptq_int32<4>>(all, out); });
    CHECK(e.code() == errc::bad_argument);
    CHECK(std::string(e.what()) == "gptq_int32: a code needs more than the 4 bits of this layout");
  }
}
#endif
