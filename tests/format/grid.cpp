// SPDX-License-Identifier: Apache-2.0
/// The grids of planar storage: values, nearest codes and fitted ranges, against their definitions.
#include "subbyte/format/grid.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace subbyte;

namespace {

template <int Bits>
using symmetric = int_grid<Bits, zero_points::none>;
template <int Bits>
using real = int_grid<Bits, zero_points::real>;

static_assert(group_grid<int_grid<1>> && group_grid<int_grid<8>> && group_grid<symmetric<4>> &&
              group_grid<real<2>>);
static_assert(group_grid<codebook_grid<nf4>> && group_grid<codebook_grid<iq4>> &&
              group_grid<codebook_grid<fp4_e2m1>>);
static_assert(int_grid<3>::last_code == 7 && symmetric<3>::middle_code == 4);
static_assert(int_grid<4>::value(11, {0.5F, 8.0F}) == 1.5F);
static_assert(int_grid<4>::round(1.25F, {0.5F, 8.0F}) == 10);  // 2.5 steps: to the even number
static_assert(int_grid<4>::round(-100.0F, {0.5F, 8.0F}) == 0);

// No code's value is nearer to w, up to the rounding of w / scale: three units in the last place.
template <class G>
void require_nearest(float w, const typename G::params& p) {
  const auto distance = [&](int code) {
    return std::fabs(static_cast<double>(w) - static_cast<double>(G::value(code, p)));
  };
  const int code = G::round(w, p);
  REQUIRE((code >= 0 && code <= G::last_code));
  double least = distance(0);
  for (int other = 1; other <= G::last_code; ++other) least = std::min(least, distance(other));
  const double slack = 3 * 0x1p-23 *
                       (std::fabs(static_cast<double>(w)) +
                        std::fabs(static_cast<double>(p.scale)) * 2 * (G::last_code + 1));
  if (!(distance(code) <= least + slack))
    FAIL("w " << w << " scale " << p.scale << " code " << code);
}

template <class G>
void require_laws(std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  for (int trial = 0; trial < 400; ++trial) {
    std::vector<float> w(40);
    const double size = std::exp(20 * (test_support::uniform(generator) - 0.5));
    for (float& v : w) v = static_cast<float>(size * test_support::normal(generator));
    const auto p = G::template fit<arch::scalar>(w.data(), nullptr, 40);
    for (const float v : w) require_nearest<G>(v, p);
    for (int code = 0; code <= G::last_code; ++code) {
      REQUIRE(G::value(G::round(G::value(code, p), p), p) == G::value(code, p));
    }
  }
}

}  // namespace

TEST_CASE("grid: round is nearest and gives a value's own code back") {
  require_laws<int_grid<1>>(1);
  require_laws<int_grid<2>>(2);
  require_laws<int_grid<3>>(3);
  require_laws<int_grid<4>>(4);
  require_laws<int_grid<8>>(8);
  require_laws<symmetric<2>>(12);
  require_laws<symmetric<4>>(14);
  require_laws<symmetric<8>>(18);
  require_laws<codebook_grid<nf4>>(21);
  require_laws<codebook_grid<iq4>>(22);
  require_laws<codebook_grid<fp4_e2m1>>(23);
}

TEST_CASE("int_grid: a real zero point need not be a code, and rounds after it is added") {
  STATIC_REQUIRE(real<4>::value(3, {2.0F, 2.5F}) == 1.0F);
  STATIC_REQUIRE(real<4>::round(1.0F, {2.0F, 2.5F}) == 3);
  STATIC_REQUIRE(real<4>::round(-5.0F, {2.0F, 2.5F}) == 0);
  // An integer zero rounds before it is added: the tie of 0.5 goes down, then 3 is added.
  STATIC_REQUIRE(int_grid<4>::round(1.0F, {2.0F, 3.0F}) == 3);
  STATIC_REQUIRE(real<4>::round(1.0F, {2.0F, 3.0F}) == 4);
  const float w[] = {-1.0F, 2.0F};
  const auto p = real<2>::fit<arch::scalar>(w, nullptr, 2);
  REQUIRE(p.scale == 1.0F);
  REQUIRE(p.zero == 1.0F);
}

TEST_CASE("int_grid: the asymmetric range holds zero") {
  const float above[] = {1.0F, 1.1F, 1.3F};
  const auto p = int_grid<4>::fit<arch::scalar>(above, nullptr, 3);
  REQUIRE(p.scale == 1.3F / 15.0F);
  REQUIRE(p.zero == 0.0F);
  const float both[] = {-1.0F, 2.0F};
  const auto q = int_grid<2>::fit<arch::scalar>(both, nullptr, 2);
  REQUIRE(q.scale == 1.0F);
  REQUIRE(q.zero == 1.0F);
}

TEST_CASE("int_grid: a symmetric group without negative weights keeps its whole range") {
  // The published tool would take 0.06 here and decode 0.9 as 0.42.
  const float positive[] = {0.1F, 0.5F, 0.9F};
  const auto p = symmetric<4>::fit<arch::scalar>(positive, nullptr, 3);
  REQUIRE(p.scale == (2.0F * 0.9F) / 15.0F);
  REQUIRE(p.zero == 8.0F);
  REQUIRE(std::fabs(symmetric<4>::value(symmetric<4>::round(0.9F, p), p) - 0.9F) <=
          0.5F * p.scale * (1 + 0x1p-20F));
}

TEST_CASE("int_grid: all zeros get the range of one, and decode to zero") {
  const float zeros[5] = {};
  const auto a = int_grid<4>::fit<arch::scalar>(zeros, nullptr, 5);
  const auto s = symmetric<4>::fit<arch::scalar>(zeros, nullptr, 5);
  REQUIRE(a.scale == 2.0F / 15.0F);
  REQUIRE(s.scale == 2.0F / 15.0F);
  REQUIRE(int_grid<4>::value(int_grid<4>::round(0.0F, a), a) == 0.0F);
  REQUIRE(symmetric<4>::value(symmetric<4>::round(-0.0F, s), s) == 0.0F);
}

TEST_CASE("grids: a scale of zero, and weights that are not finite, still give codes") {
  const float odd[] = {0.0F,
                       1.0F,
                       -1e30F,
                       std::numeric_limits<float>::infinity(),
                       -std::numeric_limits<float>::infinity(),
                       std::numeric_limits<float>::quiet_NaN()};
  for (const float w : odd) {
    for (const float scale : {0.0F, 1.0F, -1.0F, 1e-38F}) {
      CHECK(
          (int_grid<3>::round(w, {scale, 2.0F}) >= 0 && int_grid<3>::round(w, {scale, 2.0F}) < 8));
      CHECK((real<3>::round(w, {scale, 2.5F}) >= 0 && real<3>::round(w, {scale, 2.5F}) < 8));
      const int code = codebook_grid<nf4>::round(w, {scale});
      CHECK((code >= 0 && code < 16));
    }
  }
  REQUIRE(int_grid<3>::round(5.0F, {0.0F, 2.0F}) == 2);
  REQUIRE(codebook_grid<nf4>::round(5.0F, {0.0F}) == 7);
  REQUIRE(int_grid<4>::round(std::numeric_limits<float>::infinity(), {1.0F, 3.0F}) == 15);
}

TEST_CASE("codebook_grid: the extreme weight falls on the codebook's largest value") {
  const float w[] = {0.25F, -2.0F, 1.0F};
  REQUIRE(codebook_grid<nf4>::fit<arch::scalar>(w, nullptr, 3).scale == 2.0F);
  REQUIRE(codebook_grid<fp4_e2m1>::fit<arch::scalar>(w, nullptr, 3).scale == 2.0F / 6.0F);
  // iq4 reaches -127 but only 113: a positive extreme turns the scale around.
  REQUIRE(codebook_grid<iq4>::fit<arch::scalar>(w, nullptr, 3).scale == 2.0F / 127.0F);
  const float turned[] = {-0.25F, 2.0F};
  const auto p = codebook_grid<iq4>::fit<arch::scalar>(turned, nullptr, 2);
  REQUIRE(p.scale == -2.0F / 127.0F);
  REQUIRE(codebook_grid<iq4>::round(2.0F, p) == 0);
}

TEST_CASE("grids: long groups are seen to their end") {
  std::vector<float> w((std::size_t{1} << 20) + 7, 0.5F);
  w.back() = -3.0F;
  const auto n = static_cast<index_t>(w.size());
  REQUIRE(symmetric<4>::fit<arch::scalar>(w.data(), nullptr, n).scale == 6.0F / 15.0F);
}
