// SPDX-License-Identifier: Apache-2.0
#include "subbyte/quantize/refit.hpp"

#include <cmath>
#include <vector>

#include "subbyte/format/list.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

template <class Target>
double error_of_codes(const typename Target::params& p, const std::vector<float>& x,
                      const std::vector<float>& v, const std::vector<std::uint8_t>& codes) {
  double sum = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double e = double{x[i]} - double{Target::value(codes[i], static_cast<index_t>(i), p)};
    sum += double{v[i]} * e * e;
  }
  return sum;
}

}  // namespace

TEST_CASE("refit: no scale or zero point beside has a smaller error for the same codes") {
  std::mt19937_64 generator(41);
  const auto check = [&]<class Target>(std::type_identity<Target>) {
    for (int trial = 0; trial < 20; ++trial) {
      std::vector<float> x(24);
      std::vector<float> v(24);
      std::vector<std::uint8_t> codes(24);
      for (std::size_t i = 0; i < x.size(); ++i) {
        x[i] = static_cast<float>(test_support::normal(generator));
        v[i] = static_cast<float>(test_support::uniform(generator));
      }
      const auto start = Target::template fit<arch::scalar>(x.data(), nullptr, 24);
      detail::round_group<arch::scalar, Target>(start, x.data(), 24, codes.data());
      const auto p =
          detail::refit<arch::scalar, Target>(start, x.data(), v.data(), 24, codes.data());
      const double error = error_of_codes<Target>(p, x, v, codes);
      REQUIRE(error <= error_of_codes<Target>(start, x, v, codes));
      for (const float factor : {0.97F, 1.03F}) {
        auto beside = p;
        if constexpr (detail::int_grid_target<Target>) {
          beside.scale *= factor;
        } else {
          beside = detail::with_scale<Target>(detail::scale_of<Target>(p) * factor);
        }
        REQUIRE(error < error_of_codes<Target>(beside, x, v, codes));
        if constexpr (detail::real_zero_target<Target>) {
          beside = p;
          beside.zero += factor - 1;
          REQUIRE(error < error_of_codes<Target>(beside, x, v, codes));
        }
      }
    }
  };
  check(std::type_identity<planar_matrix<int_grid<3>, half>>{});
  check(std::type_identity<planar_matrix<int_grid<4, zero_points::none>, half>>{});
  check(std::type_identity<planar_matrix<int_grid<3, zero_points::real>, f32_scale>>{});
  check(std::type_identity<planar_matrix<codebook_grid<nf4>, half>>{});
  check(std::type_identity<block_matrix<q4_0>>{});
  check(std::type_identity<block_matrix<iq4_nl>>{});
}

TEST_CASE("refit: codes that determine nothing leave the params as they are") {
  using whole = planar_matrix<int_grid<4>, f32_scale>;
  using real = planar_matrix<int_grid<4, zero_points::real>, f32_scale>;
  const float x[4] = {1, 2, 3, 4};
  const std::uint8_t equal[4] = {5, 5, 5, 5};
  const auto of_zero = detail::refit<arch::scalar, whole>({0.5F, 5}, x, nullptr, 4, equal);
  REQUIRE(of_zero.scale == 0.5F);
  const auto of_one = detail::refit<arch::scalar, real>({0.5F, 5.25F}, x, nullptr, 4, equal);
  REQUIRE(of_one.scale == 0.5F);
  REQUIRE(of_one.zero == 5.25F);
  // A line through the points gives them back.
  const std::uint8_t rising[4] = {2, 4, 6, 8};
  const auto line = detail::refit<arch::scalar, real>({1.0F, 0}, x, nullptr, 4, rising);
  REQUIRE(line.scale == 0.5F);
  REQUIRE(line.zero == 0.0F);
}

TEST_CASE("refit: shrinking a range keeps its middle or its zero") {
  using real = planar_matrix<int_grid<4, zero_points::real>, f32_scale>;
  const auto p = detail::shrunken<real>({0.5F, 3.0F}, 0.5F);
  REQUIRE(p.scale == 0.25F);
  REQUIRE(real::value(0, 0, p) + real::value(15, 0, p) ==
          real::value(0, 0, {0.5F, 3.0F}) + real::value(15, 0, {0.5F, 3.0F}));
  using whole = planar_matrix<int_grid<4>, f32_scale>;
  REQUIRE(detail::shrunken<whole>({0.5F, 3.0F}, 0.5F).zero == 3.0F);
}
