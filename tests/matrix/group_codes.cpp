// SPDX-License-Identifier: Apache-2.0
#include "subbyte/matrix/group_codes.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "support/catch.hpp"
#include "support/error_of.hpp"

namespace {

using subbyte::errc;
using subbyte::group_codes;
using subbyte::index_t;
using subbyte::scale_type;

// 3 rows of 10 columns in groups of 4, 4 and 2.
group_codes example(bool zeros = true) {
  group_codes w;
  w.bits = 3;
  w.group_size = 4;
  w.codes = subbyte::tensor<std::uint8_t, 2>(3, 10);
  w.scales = subbyte::tensor<float, 2>(3, 3);
  if (zeros) w.zeros = subbyte::tensor<float, 2>(3, 3);
  for (index_t r = 0; r < 3; ++r) {
    for (index_t k = 0; k < 10; ++k) {
      w.codes(r, k) = static_cast<std::uint8_t>((5 * r + 3 * k) % 8);
    }
    for (index_t g = 0; g < 3; ++g) {
      w.scales(r, g) = 0.5F * static_cast<float>(r + 1) - 0.25F * static_cast<float>(g);
      if (zeros) w.zeros(r, g) = static_cast<float>((r + 2 * g) % 8);
    }
  }
  return w;
}

void set_groups(group_codes& w, const std::vector<std::int32_t>& groups) {
  w.group_of_column = subbyte::tensor<std::int32_t, 1>(groups.size());
  for (std::size_t k = 0; k < groups.size(); ++k) {
    w.group_of_column(static_cast<index_t>(k)) = groups[k];
  }
}

#if defined(__cpp_exceptions)
template <class Change>
subbyte::error rejection(Change&& change) {
  group_codes w = example();
  change(w);
  return test_support::error_of([&] { w.validate("layer"); });
}
#endif

}  // namespace

TEST_CASE("group_codes: a weight is the scale times the distance of its code from the zero point") {
  const group_codes w = example();
  w.validate();
  CHECK(w.rows() == 3);
  CHECK(w.cols() == 10);
  CHECK(w.groups() == 3);
  // Row 1, column 7: code (5 + 21) % 8 = 2, group 1: scale 0.75, zero 3.
  CHECK(w.value(1, 7) == -0.75F);
  subbyte::tensor<float, 2> out(3, 10);
  w.dequantize(out.view());
  for (index_t r = 0; r < 3; ++r) {
    for (index_t k = 0; k < 10; ++k) {
      const index_t g = k / 4;
      const auto code = static_cast<float>((5 * r + 3 * k) % 8);
      CHECK(out(r, k) == w.scales(r, g) * (code - static_cast<float>((r + 2 * g) % 8)));
    }
  }
}

TEST_CASE("group_codes: without zero points the middle code is zero") {
  const group_codes w = example(false);
  w.validate();
  CHECK(w.symmetric());
  CHECK_FALSE(example().symmetric());
  for (int bits = 1; bits <= 8; ++bits) {
    group_codes other = example(false);
    other.bits = bits;
    CHECK(other.zero(2, 1) == std::ldexp(1.0F, bits - 1));
  }
}

TEST_CASE("group_codes: a column takes the parameters of its own group") {
  group_codes w = example();
  set_groups(w, {2, 0, 1, 1, 0, 2, 0, 1, 1, 0});
  w.validate();
  CHECK_FALSE(w.sequential());
  CHECK(w.group_of(0) == 2);
  CHECK(w.value(2, 0) == w.scales(2, 2) * (2 - 6));
  set_groups(w, {0, 0, 0, 0, 1, 1, 1, 1, 2, 2});
  CHECK(w.sequential());
  CHECK(example().sequential());
}

TEST_CASE("group_codes: the column order gathers the groups and keeps their columns in order") {
  group_codes w = example();
  set_groups(w, {2, 0, 1, 1, 0, 2, 0, 1, 1, 0});
  const auto order = w.column_order();
  const std::vector<std::int32_t> expected = {1, 4, 6, 9, 2, 3, 7, 8, 0, 5};
  REQUIRE(order.extent(0) == 10);
  for (index_t j = 0; j < 10; ++j) CHECK(order(j) == expected[static_cast<std::size_t>(j)]);
  const auto plain = example().column_order();
  for (index_t j = 0; j < 10; ++j) CHECK(plain(j) == j);
}

#if defined(__cpp_exceptions)
TEST_CASE("group_codes: unequal groups have no column order") {
  group_codes w = example();
  set_groups(w, {0, 0, 0, 0, 0, 1, 1, 1, 2, 2});
  w.validate();
  const auto e = test_support::error_of([&] { (void)w.column_order("layer.3"); });
  CHECK(e.code() == errc::bad_shape);
  CHECK(e.subject() == "layer.3");
  CHECK(std::string(e.what()).find("group 0 holds more than 4") != std::string::npos);
  set_groups(w, {0, 0, 0, 2, 2, 1, 1, 1, 1, 2});
  CHECK(test_support::error_of([&] { (void)w.column_order(); }).code() == errc::bad_shape);
}
#endif

TEST_CASE("group_codes: a clone is equal and has memory of its own") {
  group_codes w = example();
  w.real_zeros = true;
  w.stored_scale = scale_type::bf16;
  set_groups(w, {2, 0, 1, 1, 0, 2, 0, 1, 1, 0});
  const group_codes copy = w.clone();
  w.codes(1, 1) = static_cast<std::uint8_t>(7 - w.codes(1, 1));
  CHECK(copy.codes(1, 1) == 7 - w.codes(1, 1));
  CHECK(copy.bits == 3);
  CHECK(copy.group_size == 4);
  CHECK(copy.real_zeros);
  CHECK(copy.stored_scale == scale_type::bf16);
  CHECK(copy.scales(2, 2) == w.scales(2, 2));
  CHECK(copy.zeros(2, 2) == w.zeros(2, 2));
  CHECK(copy.group_of_column(5) == 2);
}

#if defined(__cpp_exceptions)
TEST_CASE("group_codes: what contradicts itself is rejected, with the place and what was needed") {
  CHECK(rejection([](group_codes& w) { w.bits = 0; }).code() == errc::bad_argument);
  CHECK(rejection([](group_codes& w) { w.bits = 9; }).code() == errc::bad_argument);
  CHECK(rejection([](group_codes& w) { w.group_size = 0; }).code() == errc::bad_argument);
  CHECK(rejection([](group_codes& w) { w.group_size = 3; }).code() == errc::bad_shape);
  CHECK(rejection([](group_codes& w) { w.scales = subbyte::tensor<float, 2>(2, 3); }).code() ==
        errc::bad_shape);
  CHECK(rejection([](group_codes& w) { w.zeros = subbyte::tensor<float, 2>(3, 2); }).code() ==
        errc::bad_shape);
  CHECK(rejection([](group_codes& w) { w.zeros = subbyte::tensor<float, 2>(0, 3); }).code() ==
        errc::bad_shape);
  CHECK(rejection([](group_codes& w) {
          set_groups(w, {0, 0, 0, 0, 1});
        }).code() == errc::bad_shape);
  CHECK(rejection([](group_codes& w) {
          set_groups(w, {0, 0, 0, 0, 1, 1, 1, 1, 2, 3});
        }).code() == errc::bad_metadata);
  CHECK(rejection([](group_codes& w) {
          set_groups(w, {0, 0, 0, 0, 1, -1, 1, 1, 2, 2});
        }).code() == errc::bad_metadata);
  const auto code = rejection([](group_codes& w) { w.codes(1, 9) = 8; });
  CHECK(code.code() == errc::bad_metadata);
  CHECK(std::string(code.what()) == "layer: the code of row 1, column 9 is 8, needs 0 to 7");
  CHECK(rejection([](group_codes& w) {
          w.scales(2, 2) = std::numeric_limits<float>::infinity();
        }).code() == errc::non_finite);
  CHECK(rejection([](group_codes& w) { w.scales(0, 0) = 0.1F; }).code() == errc::bad_metadata);
  CHECK(rejection([](group_codes& w) { w.zeros(2, 2) = std::nanf(""); }).code() ==
        errc::non_finite);
  CHECK(rejection([](group_codes& w) { w.zeros(0, 0) = 8; }).code() == errc::bad_metadata);
  CHECK(rejection([](group_codes& w) { w.zeros(0, 0) = -1; }).code() == errc::bad_metadata);
  CHECK(rejection([](group_codes& w) { w.zeros(0, 0) = 1.5F; }).code() == errc::bad_metadata);
}
#endif

#if defined(__cpp_exceptions)
TEST_CASE("group_codes: real zero points and scales of every stored type pass where they fit") {
  group_codes w = example();
  w.real_zeros = true;
  w.zeros(0, 0) = -3.7F;
  w.validate();
  w.scales(0, 0) = 0.1F;
  w.stored_scale = scale_type::f32;
  w.validate();
  w.stored_scale = scale_type::bf16;
  CHECK(test_support::error_of([&] { w.validate(); }).code() == errc::bad_metadata);
  w.scales(0, 0) = 0x1p-60F;  // a bf16, but no f16
  w.validate();
  w.stored_scale = scale_type::f16;
  CHECK(test_support::error_of([&] { w.validate(); }).code() == errc::bad_metadata);
  w.scales(0, 0) = -0.0F;
  w.validate();
}
#endif

TEST_CASE("group_codes: scales round to the type that the file holds") {
  CHECK(subbyte::nearest(scale_type::f16, 1.0004883F) == 1.0F);
  CHECK(subbyte::nearest(scale_type::bf16, 1.004F) == 1.0078125F);
  CHECK(subbyte::nearest(scale_type::f32, 0.1F) == 0.1F);
  CHECK(std::string(subbyte::name_of(scale_type::f16)) == "f16");
  CHECK(std::string(subbyte::name_of(scale_type::bf16)) == "bf16");
  CHECK(std::string(subbyte::name_of(scale_type::f32)) == "f32");
}

namespace {

// Every weight of W, decoded from its planes, must be that of the codes.
template <class Planar>
bool same_weights(const group_codes& w, const Planar& planes) {
  std::vector<float> row(static_cast<std::size_t>(w.cols()));
  for (index_t r = 0; r < w.rows(); ++r) {
    planes.view().decode_row(r, 0, w.cols(), row.data());
    for (index_t k = 0; k < w.cols(); ++k) {
      if (row[static_cast<std::size_t>(k)] != w.value(r, k)) return false;
    }
  }
  return true;
}

bool equal(const group_codes& a, const group_codes& b) {
  const auto same = [](const auto& x, const auto& y) {
    for (std::size_t d = 0; d < x.rank(); ++d) {
      if (x.extent(d) != y.extent(d)) return false;
    }
    return std::equal(x.data(), x.data() + x.size(), y.data());
  };
  return a.bits == b.bits && a.group_size == b.group_size && a.stored_scale == b.stored_scale &&
         a.real_zeros == b.real_zeros && same(a.codes, b.codes) && same(a.scales, b.scales) &&
         same(a.zeros, b.zeros) && same(a.group_of_column, b.group_of_column);
}

// 40 rows of 20 columns in groups of 8, 8 and 4.
group_codes larger(bool zeros, bool ordered) {
  group_codes w;
  w.bits = 5;
  w.group_size = 8;
  w.codes = subbyte::tensor<std::uint8_t, 2>(40, 20);
  w.scales = subbyte::tensor<float, 2>(40, 3);
  if (zeros) w.zeros = subbyte::tensor<float, 2>(40, 3);
  for (index_t r = 0; r < 40; ++r) {
    for (index_t k = 0; k < 20; ++k) {
      w.codes(r, k) = static_cast<std::uint8_t>((7 * r + 11 * k + r * k) % 32);
    }
    for (index_t g = 0; g < 3; ++g) {
      w.scales(r, g) = 0.125F * static_cast<float>(r - 3 * g);
      if (zeros) w.zeros(r, g) = static_cast<float>((3 * r + 5 * g) % 32);
    }
  }
  if (ordered) set_groups(w, {2, 0, 1, 1, 0, 2, 0, 1, 1, 0, 0, 0, 1, 2, 1, 0, 0, 1, 2, 1});
  return w;
}

}  // namespace

TEST_CASE("group_codes: planes hold the same weights, and give the same codes back") {
  using subbyte::int_grid;
  using subbyte::zero_points;
  for (const bool ordered : {false, true}) {
    group_codes w = larger(true, ordered);
    w.validate();
    const auto integers = subbyte::to_planar<int_grid<5>, subbyte::half>(w);
    CHECK(same_weights(w, integers));
    CHECK(equal(subbyte::from_planar(integers.view()), w));
    w.real_zeros = true;
    w.stored_scale = scale_type::f32;
    w.zeros(3, 1) = 2.3F;
    w.scales(3, 1) = 0.1F;
    const auto reals = subbyte::to_planar<int_grid<5, zero_points::real>, subbyte::f32_scale>(w);
    CHECK(same_weights(w, reals));
    CHECK(equal(subbyte::from_planar(reals.view()), w));
    group_codes middle = larger(false, ordered);
    middle.stored_scale = scale_type::bf16;
    const auto none = subbyte::to_planar<int_grid<5, zero_points::none>, subbyte::bfloat16>(middle);
    CHECK(same_weights(middle, none));
    CHECK(equal(subbyte::from_planar(none.view()), middle));
    // Integer planes also hold a symmetric matrix.
    middle.stored_scale = scale_type::f16;
    const auto spelled_out = subbyte::to_planar<int_grid<5>, subbyte::half>(middle);
    CHECK(same_weights(middle, spelled_out));
  }
}

TEST_CASE("group_codes: a group_of_column that changes nothing makes no column order") {
  group_codes w = larger(true, false);
  set_groups(w, {0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2});
  const auto planes = subbyte::to_planar<subbyte::int_grid<5>, subbyte::half>(w);
  CHECK(planes.view().order() == nullptr);
  CHECK(same_weights(w, planes));
}

#if defined(__cpp_exceptions)
TEST_CASE("group_codes: what planes cannot hold is rejected") {
  using subbyte::half;
  using subbyte::int_grid;
  using subbyte::to_planar;
  using subbyte::zero_points;
  const auto code_of = [](auto&& call) { return test_support::error_of(call).code(); };
  CHECK(code_of([] { (void)to_planar<int_grid<4>, half>(larger(true, false)); }) ==
        errc::bad_argument);
  CHECK(code_of([] { (void)to_planar<int_grid<6>, half>(larger(true, false)); }) ==
        errc::bad_argument);
  CHECK(code_of([] {
          group_codes w = larger(true, false);
          w.stored_scale = scale_type::f32;
          w.scales(39, 2) = 0.1F;
          (void)to_planar<int_grid<5>, half>(w);
        }) == errc::bad_metadata);
  CHECK(code_of([] {
          (void)to_planar<int_grid<5, zero_points::none>, half>(larger(true, false));
        }) == errc::bad_metadata);
  CHECK(code_of([] {
          group_codes w = larger(true, false);
          w.real_zeros = true;
          w.zeros(39, 2) = 1.5F;
          (void)to_planar<int_grid<5>, half>(w);
        }) == errc::bad_metadata);
  for (const float z : {-1.0F, 32.0F}) {
    CHECK(code_of([z] {
            group_codes w = larger(true, false);
            w.real_zeros = true;
            w.zeros(39, 2) = z;
            (void)to_planar<int_grid<5>, half>(w);
          }) == errc::bad_metadata);
  }
  CHECK(code_of([] {
          group_codes w = larger(true, false);
          w.real_zeros = true;
          w.zeros(39, 2) = 0.1F;
          (void)to_planar<int_grid<5, zero_points::real>, half>(w);
        }) == errc::bad_metadata);
  CHECK(code_of([] {
          group_codes w = larger(true, false);
          set_groups(w, {0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 2, 2, 2, 2});
          (void)to_planar<int_grid<5>, half>(w);
        }) == errc::bad_shape);
  // Groups of 4 share bytes of 5-bit codes.
  CHECK(code_of([] {
          group_codes w = larger(true, false);
          w.group_size = 4;
          w.scales = subbyte::tensor<float, 2>(40, 5);
          w.zeros = subbyte::tensor<float, 2>(40, 5);
          (void)to_planar<int_grid<5>, half>(w);
        }) == errc::bad_argument);
}
#endif
