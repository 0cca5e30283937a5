// SPDX-License-Identifier: Apache-2.0
/// The scale searches against their definitions: errors in double, cases by hand, symmetries.
/// Their bytes are compared with the reference in golden.cpp.
#include "subbyte/format/search.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;
using Arch = arch::native;

constexpr double unit_roundoff = 0x1p-24;
constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

/// Groups of every kind that the searches meet: normal, heavy-tailed, one-sided, one outlier,
/// sparse.
std::vector<std::vector<float>> groups(int n, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<std::vector<float>> all;
  for (int k = 0; k < 300; ++k) {
    std::vector<float> x(static_cast<std::size_t>(n));
    for (float& v : x) {
      const double z = test_support::normal(generator);
      switch (k % 6) {
        case 0:
          v = static_cast<float>(0.02 * z);
          break;
        case 1:
          v = static_cast<float>(z * z * z);
          break;
        case 2:
          v = static_cast<float>(5 + 0.1 * z);
          break;
        case 3:
          v = static_cast<float>(-1 - std::fabs(z));
          break;
        case 4:
          v = static_cast<float>(0.01 * z);
          break;
        default:
          v = test_support::uniform(generator) < 0.7 ? 0.0F : static_cast<float>(z);
      }
    }
    if (k % 6 == 4) x[generator() % x.size()] = 100;
    all.push_back(x);
  }
  return all;
}

std::vector<float> positive(int n, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<float> w(static_cast<std::size_t>(n));
  for (float& v : w) v = static_cast<float>(0.05 + test_support::uniform(generator));
  return w;
}

std::vector<float> squares(const std::vector<float>& x) {
  std::vector<float> w(x);
  for (float& v : w) v *= v;
  return w;
}

std::vector<float> multiplied(std::vector<float> x, float factor) {
  for (float& v : x) v *= factor;
  return x;
}

/// (sum w x l)^2 / (sum w l^2): what the best scale for these levels takes off the weighted energy.
double explained(const std::vector<float>& x, const std::vector<float>& w,
                 const std::vector<int>& levels) {
  double xl = 0;
  double ll = 0;
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double weighted = static_cast<double>(w[i]) * levels[i];
    xl += weighted * x[i];
    ll += weighted * levels[i];
  }
  return ll > 0 ? xl * xl / ll : 0;
}

/// How much of explained() fp32 sums may miss: every term of both sums has one sign, so each sum of
/// n terms of up to 3 roundings is within (n + 3) u relatively, and the quotient within three times
/// that; twice for a comparison of two, and a factor for second order.
double explained_tolerance(std::size_t n) {
  return 2 * 3 * static_cast<double>(n + 3) * unit_roundoff * 1.01;
}

std::vector<int> levels_of(const std::vector<std::uint8_t>& codes, std::size_t n, int bias) {
  std::vector<int> levels(n);
  for (std::size_t i = 0; i < n; ++i) levels[i] = codes[i] - bias;
  return levels;
}

std::vector<int> rounded(const std::vector<float>& x, float inverse, int low, int high) {
  std::vector<int> levels;
  for (const float v : x) levels.push_back(clamp(rint_even(unfused(inverse * v)), low, high));
  return levels;
}

/// A weighted error in double and a bound on what its fp32 evaluation may differ by: each
/// difference passes 3 roundings of numbers below `size`, each sum n + 2 roundings of positive
/// terms.
struct measured {
  double error;
  double slack;
};

measured affine_error(const std::vector<float>& x, const std::vector<float>& w,
                      const std::vector<int>& levels, double scale, double minimum, bool absolute) {
  measured m{0, 0};
  for (std::size_t i = 0; i < x.size(); ++i) {
    const double product = scale * levels[i];
    const double difference = std::fabs(product - minimum - x[i]);
    const double size = std::fabs(product) + std::fabs(minimum) + std::fabs(x[i]);
    const double delta = 3 * unit_roundoff * size;
    const double weight = w[i];
    m.error += weight * (absolute ? difference : difference * difference);
    m.slack += weight * (absolute ? delta : 2 * difference * delta + delta * delta);
  }
  m.slack += static_cast<double>(x.size() + 2) * unit_roundoff * (m.error + m.slack);
  return m;
}

std::vector<std::uint8_t> guarded_codes() { return std::vector<std::uint8_t>(40, 0xAA); }

void require_in_range(const std::vector<std::uint8_t>& codes, std::size_t n, int last_code) {
  for (std::size_t i = 0; i < codes.size(); ++i) {
    if (i < n) {
      REQUIRE(codes[i] <= last_code);
    } else {
      REQUIRE(codes[i] == 0xAA);
    }
  }
}

}  // namespace

TEST_CASE("magnitude clears the sign of every kind of float") {
  STATIC_REQUIRE(magnitude(-2.5F) == 2.5F);
  STATIC_REQUIRE(magnitude(3.0F) == 3.0F);
  CHECK(bit_cast<std::uint32_t>(magnitude(-0.0F)) == 0);
  CHECK(magnitude(-infinity) == infinity);
  CHECK(bit_cast<std::uint32_t>(magnitude(bit_cast<float>(0xFFC01234U))) == 0x7FC01234U);
}

TEST_CASE("signed_extreme is the first element of largest magnitude") {
  const float ties[] = {1, -3, 3, 2};
  CHECK(signed_extreme<Arch>(ties, 4) == -3);
  CHECK(signed_extreme<Arch>(ties + 2, 2) == 3);
  const float zeros[] = {-0.0F, 0.0F};
  CHECK(bit_cast<std::uint32_t>(signed_extreme<Arch>(zeros, 2)) == 0);
  const float broken[] = {quiet_nan, -1, quiet_nan, 0.5F};
  CHECK(signed_extreme<Arch>(broken, 4) == -1);
  CHECK(signed_extreme<Arch>(broken, 1) == 0);
}

TEST_CASE("signed_extreme is its definition for groups of every length") {
  std::mt19937_64 generator(18);
  for (int draw = 0; draw < 4000; ++draw) {
    const int n = 1 + draw % 40;
    // Few magnitudes, so that the largest one occurs with both signs.
    const float values[] = {0.0F, -0.0F, 1.5F, -1.5F, 3.0F, -3.0F, quiet_nan, infinity, -infinity};
    const std::size_t distinct = 2 + generator() % 8;
    std::vector<float> x(static_cast<std::size_t>(n));
    float expected = 0;
    for (float& v : x) {
      v = values[generator() % distinct];
      if (std::fabs(v) > std::fabs(expected)) expected = v;
    }
    INFO("draw " << draw);
    REQUIRE(bit_cast<std::uint32_t>(signed_extreme<Arch>(x.data(), n)) ==
            bit_cast<std::uint32_t>(expected));
  }
}

TEST_CASE("sum_of_squares adds in element order") {
  std::vector<float> x(9, 0x1p-12F);
  x[0] = 1;
  CHECK(sum_of_squares<Arch>(x.data(), 9) == 1.0F);  // each 2^-24 is half an ulp, ties to even
  std::reverse(x.begin(), x.end());
  CHECK(sum_of_squares<Arch>(x.data(), 9) == 1.0F + 0x1p-21F);
  CHECK(mean_square<Arch>(x.data(), 8) == 0x1p-24F);
}

TEST_CASE("sum_of_squares rounds every square before it adds") {
  // (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24 rounds down; with the 2^-26 before it, fused, it would round
  // up.
  volatile float large = 1.0F + 0x1p-12F;  // volatile: or the compiler computes the sum, unfused
  const float x[] = {0x1p-13F, large};
  CHECK(sum_of_squares<Arch>(x, 2) == 1.0F + 0x1p-11F);
}

TEST_CASE("energy_weights by hand") {
  const float x[] = {4, 0, -4};
  const float importance[] = {2, 3, 1};
  float out[3];
  energy_weights<Arch>(3, x, importance, 9, out);
  CHECK(out[0] == 10);
  CHECK(out[1] == 9);
  CHECK(out[2] == 5);
}

TEST_CASE("search_symmetric finds an exact grid and puts the extreme at code 0") {
  for (const float sign : {1.0F, -1.0F}) {
    const std::vector<float> x = {sign * -2.0F, sign * 1.75F, 0, sign * 0.25F, sign * -0.5F};
    auto codes = guarded_codes();
    CHECK(search_symmetric<Arch>(5, 8, x.data(), nullptr, codes.data()) == sign * 0.25F);
    const std::vector<std::uint8_t> expected = {0, 15, 8, 9, 6};
    CHECK(std::equal(expected.begin(), expected.end(), codes.begin()));
    require_in_range(codes, 5, 15);
  }
}

/// search_symmetric_refined of one group of n, between others that must have no part in it.
template <int n>
float refined_search(int last, const float* x, std::uint8_t* codes) {
  constexpr int groups = 4;
  static int own = 0;
  own = (own + 1) % groups;
  float all[groups * n];
  for (int i = 0; i < groups * n; ++i) all[i] = 0.3F * static_cast<float>(i % 7) - 1.0F;
  std::copy_n(x, n, all + own * n);
  std::uint8_t all_codes[groups * n];
  float scales[groups];
  search_symmetric_refined<Arch, n>(last, all, all_codes, scales);
  std::copy_n(all_codes + own * n, n, codes);
  return scales[own];
}
float refined_search(int n, int last, const float* x, std::uint8_t* codes) {
  switch (n) {
    case 1:
      return refined_search<1>(last, x, codes);
    case 2:
      return refined_search<2>(last, x, codes);
    case 5:
      return refined_search<5>(last, x, codes);
    case 16:
      return refined_search<16>(last, x, codes);
    default:
      return refined_search<32>(last, x, codes);
  }
}

TEST_CASE("search_symmetric leaves code 0 in a zero group") {
  for (const float tiny : {0.0F, -0.0F, 9e-16F, quiet_nan}) {
    const std::vector<float> x(16, tiny);
    auto codes = guarded_codes();
    CHECK(search_symmetric<Arch>(16, 4, x.data(), nullptr, codes.data()) == 0);
    require_in_range(codes, 16, 0);
    codes = guarded_codes();
    CHECK(refined_search(16, 4, x.data(), codes.data()) == 0);
    require_in_range(codes, 16, 0);
  }
  const std::vector<float> x(16, 2e-15F);
  auto codes = guarded_codes();
  const std::vector<float> w(16, 1.0F);
  CHECK(search_symmetric<Arch>(16, 4, x.data(), w.data(), codes.data()) != 0);
}

TEST_CASE("search_symmetric is the best of its nineteen candidates") {
  for (const int n : {1, 7, 16, 32}) {
    for (const int last : {4, 8, 16, 32}) {
      std::uint64_t seed = 1;
      for (const auto& x : groups(n, 11)) {
        const bool weighted = ++seed % 2 == 0;
        const std::vector<float> w = weighted ? positive(n, seed) : squares(x);
        const float extreme = signed_extreme<Arch>(x.data(), n);
        if (extreme == 0) continue;
        double best = 0;
        for (int step = -9; step <= 9; ++step) {
          const float offset = unfused(0.1F * static_cast<float>(step));
          const float inverse = -(static_cast<float>(last) + offset) / extreme;
          best = std::max(best, explained(x, w, rounded(x, inverse, -last, last - 1)));
        }
        auto codes = guarded_codes();
        const float scale =
            search_symmetric<Arch>(n, last, x.data(), weighted ? w.data() : nullptr, codes.data());
        require_in_range(codes, x.size(), 2 * last - 1);
        const auto levels = levels_of(codes, x.size(), last);
        const double found = explained(x, w, levels);
        REQUIRE(found >= best * (1 - explained_tolerance(x.size())));
        REQUIRE(found <= best * (1 + explained_tolerance(x.size())));
        double xl = 0;
        double ll = 0;
        for (std::size_t i = 0; i < x.size(); ++i) {
          const double product = static_cast<double>(w[i]) * levels[i];
          xl += product * x[i];
          ll += product * levels[i];
        }
        REQUIRE(std::fabs(scale * ll / xl - 1) <= explained_tolerance(x.size()));
      }
    }
  }
}

TEST_CASE("search_symmetric_refined explains no less than its start, and sometimes more") {
  int better = 0;
  for (const int n : {1, 16, 32}) {
    for (const auto& x : groups(n, 12)) {
      const float extreme = signed_extreme<Arch>(x.data(), n);
      if (extreme == 0) continue;
      const auto w = squares(x);
      const double start = explained(x, w, rounded(x, -4.0F / extreme, -4, 3));
      auto codes = guarded_codes();
      static_cast<void>(refined_search(n, 4, x.data(), codes.data()));
      require_in_range(codes, x.size(), 7);
      const double found = explained(x, w, levels_of(codes, x.size(), 4));
      REQUIRE(found >= start * (1 - explained_tolerance(x.size())));
      better += found > start * 1.0001 ? 1 : 0;
    }
  }
  CHECK(better > 50);
}

TEST_CASE("search_symmetric_refined moves a code by hand") {
  // Start: scale 1, levels -4 and 3 (3.9 is limited). The 3.9 alone asks for a scale of 1.3, by
  // which -4 is nearest to level -3; that explains more, and then nothing moves.
  const float x[] = {-4.0F, 3.9F};
  auto codes = guarded_codes();
  const float scale = refined_search(2, 4, x, codes.data());
  CHECK(codes[0] == 1);
  CHECK(codes[1] == 7);
  const double expected = (64 * 3 + 3.9 * 3.9 * 3.9 * 3) / (16 * 9 + 3.9 * 3.9 * 9);
  CHECK(std::fabs(scale / expected - 1) < 16 * unit_roundoff);
  // 2.45 starts at level 2 and moves to 3, because three 2.6 at level 3 ask for a smaller scale.
  const float y[] = {-4.0F, 2.6F, 2.6F, 2.6F, 2.45F};
  static_cast<void>(refined_search(5, 4, y, codes.data()));
  const std::vector<std::uint8_t> moved = {0, 7, 7, 7, 7};
  CHECK(std::equal(moved.begin(), moved.end(), codes.begin()));
}

TEST_CASE("search_symmetric_refined sweeps only where the extreme is negative, as the reference") {
  const float x[] = {4.0F, -2.6F, -2.6F, -2.6F, -2.45F};
  auto codes = guarded_codes();
  CHECK(refined_search(5, 4, x, codes.data()) < 0);
  const std::vector<std::uint8_t> start = {0, 7, 7, 7, 6};
  CHECK(std::equal(start.begin(), start.end(), codes.begin()));
}

TEST_CASE(
    "the symmetric searches follow a power of two exactly, one of them a change of sign too") {
  for (const auto& x : groups(32, 13)) {
    auto codes = guarded_codes();
    auto refined_codes = guarded_codes();
    const float scale = search_symmetric<Arch>(32, 8, x.data(), nullptr, codes.data());
    const float refined = refined_search(32, 4, x.data(), refined_codes.data());
    for (const float factor : {-1.0F, 0x1p9F, -0x1p-9F}) {
      const auto y = multiplied(x, factor);
      auto other = guarded_codes();
      REQUIRE(search_symmetric<Arch>(32, 8, y.data(), nullptr, other.data()) == scale * factor);
      REQUIRE(other == codes);
    }
    // No larger: the refined search compares eighth powers, which must not underflow.
    for (const float factor : {4.0F, 0.25F}) {
      const auto y = multiplied(x, factor);
      auto other = guarded_codes();
      REQUIRE(refined_search(32, 4, y.data(), other.data()) == refined * factor);
      REQUIRE(other == refined_codes);
    }
  }
}

/// search_affine of one group, between others that must have no part in it.
affine_scale affine_search(int n, int last, const float* x, const float* weight,
                           const affine_candidates& candidates, std::uint8_t* codes) {
  constexpr int lanes = 8;
  static int lane = 0;
  lane = (lane + 1) % lanes;
  std::mt19937_64 generator(static_cast<std::uint64_t>(lane));
  std::vector<float> all_x;
  std::vector<float> all_weights;
  for (int g = 0; g < lanes; ++g) {
    for (int i = 0; i < n; ++i) {
      const bool own = g == lane;
      const auto other = static_cast<float>(test_support::normal(generator));
      all_x.push_back(own ? x[i] : other);
      all_weights.push_back(own ? weight[i] : 1.0F + magnitude(other));
    }
  }
  std::vector<std::uint8_t> all_codes(all_x.size());
  affine_scale found[lanes];
  const auto search = n == 32 ? search_affine<Arch, 32, lanes> : search_affine<Arch, 16, lanes>;
  search(last, all_x.data(), all_weights.data(), candidates, all_codes.data(), found);
  std::copy_n(all_codes.begin() + lane * n, n, codes);
  return found[lane];
}

TEST_CASE("search_affine finds an exact grid") {
  std::vector<float> x;
  for (int code = 0; code < 16; ++code) x.push_back(0.5F * static_cast<float>(code) - 1.5F);
  const std::vector<float> w(16, 1.0F);
  auto codes = guarded_codes();
  for (const bool absolute : {false, true}) {
    const affine_scale found =
        affine_search(16, 15, x.data(), w.data(), {-1.0F, 0.1F, 20, absolute}, codes.data());
    CHECK(found.scale == 0.5F);
    CHECK(found.minimum == 1.5F);
    for (std::size_t i = 0; i < 16; ++i) CHECK(codes[i] == i);
  }
}

TEST_CASE("search_affine on constant groups") {
  const std::vector<float> w(32, 1.0F);
  auto codes = guarded_codes();
  for (const float constant : {0.0F, -0.0F, -0.375F, -infinity}) {
    const std::vector<float> x(32, constant);
    const affine_scale found =
        affine_search(32, 15, x.data(), w.data(), {-0.9F, 0.05F, 36, false}, codes.data());
    CHECK(found.scale == 0);
    CHECK(found.minimum == -constant);
    require_in_range(codes, 32, 0);
  }
  // A positive one has no minimum to carry it: every weight gets the last code.
  const std::vector<float> x(32, 3.0F);
  const affine_scale found =
      affine_search(32, 15, x.data(), w.data(), {-0.9F, 0.05F, 36, false}, codes.data());
  CHECK(found.minimum == 0);
  CHECK(std::fabs(found.scale * static_cast<float>(codes[0]) - 3.0F) <= 3 * 0x1p-23F);
  CHECK(std::all_of(codes.begin(), codes.begin() + 32, [&](int c) { return c == codes[0]; }));
}

TEST_CASE("search_affine is never worse than the plain range, and often better") {
  int better = 0;
  for (const int n : {16, 32}) {
    for (const int last : {3, 15, 31}) {
      for (const bool absolute : {false, true}) {
        std::uint64_t seed = 0;
        for (const auto& x : groups(n, 14)) {
          const auto w = positive(n, ++seed);
          auto codes = guarded_codes();
          const affine_scale found = affine_search(n, last, x.data(), w.data(),
                                                   {-0.9F, 0.05F, 36, absolute}, codes.data());
          REQUIRE(found.minimum >= 0);
          require_in_range(codes, x.size(), last);

          const float low = std::min(0.0F, *std::min_element(x.begin(), x.end()));
          const float high = *std::max_element(x.begin(), x.end());
          if (high == low) continue;
          std::vector<float> raised(x);
          for (float& v : raised) v -= low;
          const float inverse = static_cast<float>(last) / (high - low);
          const auto plain =
              affine_error(x, w, rounded(raised, inverse, 0, last), 1.0F / inverse, -low, absolute);
          const auto got = affine_error(x, w, levels_of(codes, x.size(), 0), found.scale,
                                        found.minimum, absolute);
          REQUIRE(got.error <= plain.error + plain.slack + got.slack);
          better += got.error < 0.99 * plain.error ? 1 : 0;
        }
      }
    }
  }
  CHECK(better > 1500);
}

TEST_CASE("search_affine follows a power of two exactly") {
  for (const auto& x : groups(32, 15)) {
    const auto w = positive(32, 7);
    auto codes = guarded_codes();
    const affine_candidates candidates{-1.0F, 0.1F, 20, false};
    const affine_scale a = affine_search(32, 15, x.data(), w.data(), candidates, codes.data());
    const auto y = multiplied(x, 0x1p-7F);
    const auto v = multiplied(w, 0x1p5F);
    auto other = guarded_codes();
    const affine_scale b = affine_search(32, 15, y.data(), v.data(), candidates, other.data());
    REQUIRE(b.scale == a.scale * 0x1p-7F);
    REQUIRE(b.minimum == a.minimum * 0x1p-7F);
    REQUIRE(other == codes);
  }
}

TEST_CASE("search_affine keeps an earlier candidate on ties") {
  // Scale 1 with codes 0 and 4 is exact, and so is the only candidate, scale 2 with 0 and 2: every
  // sum is a small integer.
  std::vector<float> x(16, 0.0F);
  for (std::size_t i = 8; i < 16; ++i) x[i] = 4;
  const std::vector<float> w(16, 1.0F);
  for (const bool absolute : {false, true}) {
    auto codes = guarded_codes();
    const affine_scale found =
        affine_search(16, 4, x.data(), w.data(), {-2.0F, 0.0F, 0, absolute}, codes.data());
    CHECK(found.scale == 1);
    CHECK(found.minimum == 0);
    for (std::size_t i = 0; i < 16; ++i) CHECK(codes[i] == (i < 8 ? 0 : 4));
  }
}

TEST_CASE("search_nonnegative finds an exact grid, and zero for a zero group") {
  const std::vector<float> x = {0, 0.25F, 15.75F, 8, 3.5F};
  const std::vector<float> w(5, 1.0F);
  auto codes = guarded_codes();
  CHECK(search_nonnegative<Arch>(5, 63, x.data(), w.data(), codes.data()) == 0.25F);
  const std::vector<std::uint8_t> expected = {0, 1, 63, 32, 14};
  CHECK(std::equal(expected.begin(), expected.end(), codes.begin()));
  require_in_range(codes, 5, 63);

  for (const float tiny : {0.0F, -1.0F, 9e-16F}) {
    const std::vector<float> none(16, tiny);
    const std::vector<float> ones(16, 1.0F);
    codes = guarded_codes();
    CHECK(search_nonnegative<Arch>(16, 15, none.data(), ones.data(), codes.data()) == 0);
    require_in_range(codes, 16, 0);
  }
}

TEST_CASE("search_nonnegative is never worse than the plain range, and often better") {
  int better = 0;
  for (const int n : {8, 16}) {
    for (const int last : {15, 63}) {
      std::uint64_t seed = 0;
      for (auto x : groups(n, 16)) {
        for (float& v : x) v = magnitude(v);
        const auto w = positive(n, ++seed);
        const float largest = *std::max_element(x.begin(), x.end());
        if (largest == 0) continue;
        const float inverse = static_cast<float>(last) / largest;
        const auto plain =
            affine_error(x, w, rounded(x, inverse, 0, last), 1.0F / inverse, 0, false);
        auto codes = guarded_codes();
        const float scale = search_nonnegative<Arch>(n, last, x.data(), w.data(), codes.data());
        require_in_range(codes, x.size(), last);
        const auto got = affine_error(x, w, levels_of(codes, x.size(), 0), scale, 0, false);
        // The sweeps compare explained energies, so their roundings are relative to the whole
        // energy.
        double energy = 0;
        for (std::size_t i = 0; i < x.size(); ++i) {
          energy += static_cast<double>(w[i]) * x[i] * x[i];
        }
        const double slack = plain.slack + got.slack + energy * explained_tolerance(x.size());
        REQUIRE(got.error <= plain.error + slack);
        better += got.error < 0.99 * plain.error ? 1 : 0;
      }
    }
  }
  CHECK(better > 400);
}

namespace {

float rounded_product(float a, float b) {
  const volatile float product = a * b;  // or the compiler may fuse it with an addition
  return product;
}

/// search_nonnegative, step by step as make_qp_quants does it.
float defined_nonnegative(int last, const std::vector<float>& x, const std::vector<float>& w,
                          std::vector<int>& codes) {
  const std::size_t n = x.size();
  float largest = 0;
  for (const float v : x) largest = std::max(largest, v);
  float inverse = static_cast<float>(last) / largest;
  float least = 0;
  const auto error_with = [&](float trial, bool in_bytes) {
    float error = 0;
    for (std::size_t i = 0; i < n; ++i) {
      const int nearest = rint_even(rounded_product(trial, x[i]));
      const int l = in_bytes ? static_cast<std::uint8_t>(nearest) : std::min(nearest, last);
      const float difference = x[i] - rounded_product(1.0F / trial, static_cast<float>(l));
      error += rounded_product(rounded_product(w[i], difference), difference);
    }
    return error;
  };
  least = error_with(inverse, true);
  for (int step = -4; step <= 4; ++step) {
    if (step == 0) continue;
    const float trial =
        (rounded_product(0.1F, static_cast<float>(step)) + static_cast<float>(last)) / largest;
    const float error = error_with(trial, false);
    if (error < least) {
      least = error;
      inverse = trial;
    }
  }
  codes.clear();
  float xl = 0;
  float ll = 0;
  const auto xl_of = [&](std::size_t i, int l) {
    return rounded_product(rounded_product(w[i], x[i]), static_cast<float>(l));
  };
  const auto ll_of = [&](std::size_t i, int l) {
    return rounded_product(rounded_product(w[i], static_cast<float>(l)), static_cast<float>(l));
  };
  for (std::size_t i = 0; i < n; ++i) {
    const int l = std::min(rint_even(rounded_product(inverse, x[i])), last);
    codes.push_back(static_cast<std::uint8_t>(l));
    xl += xl_of(i, l);
    ll += ll_of(i, l);
  }
  for (int sweep = 0; sweep < 5; ++sweep) {
    int changes = 0;
    for (std::size_t i = 0; i < n; ++i) {
      float other_xl = xl - xl_of(i, codes[i]);
      float other_ll = ll - ll_of(i, codes[i]);
      if (!(other_xl > 0) || !(other_ll > 0)) continue;
      const int moved = std::min(rint_even(rounded_product(x[i], other_ll) / other_xl), last);
      if (moved == codes[i]) continue;
      other_xl += xl_of(i, moved);
      other_ll += ll_of(i, moved);
      const float with = rounded_product(rounded_product(other_xl, other_xl), ll);
      if (with > rounded_product(rounded_product(xl, xl), other_ll)) {
        codes[i] = static_cast<std::uint8_t>(moved);
        xl = other_xl;
        ll = other_ll;
        ++changes;
      }
    }
    if (changes == 0) break;
  }
  return ll > 0 ? xl / ll : 0.0F;
}

}  // namespace

TEST_CASE("search_nonnegative is its definition, also for what is negative") {
  std::mt19937_64 generator(21);
  int below_zero = 0;
  for (int draw = 0; draw < 4000; ++draw) {
    const int last = draw % 2 == 0 ? 15 : 63;
    const std::size_t n = draw % 3 == 0 ? 8 : 16;
    std::vector<float> x(n);
    std::vector<float> w(n);
    for (std::size_t i = 0; i < n; ++i) {
      x[i] = static_cast<float>(test_support::normal(generator));
      w[i] = static_cast<float>(0.05 + test_support::uniform(generator));
      if (draw % 5 != 0) x[i] = magnitude(x[i]);
      if (draw % 7 == 0) x[i] *= x[i] * x[i];
    }
    if (*std::max_element(x.begin(), x.end()) < 0.01F) continue;
    auto codes = guarded_codes();
    const float found =
        search_nonnegative<Arch>(static_cast<int>(n), last, x.data(), w.data(), codes.data());
    std::vector<int> expected;
    const float scale = defined_nonnegative(last, x, w, expected);
    below_zero += *std::min_element(x.begin(), x.end()) < 0 ? 1 : 0;
    INFO("draw " << draw);
    REQUIRE(found == scale);
    REQUIRE(levels_of(codes, n, 0) == expected);
  }
  CHECK(below_zero > 100);
}

TEST_CASE("search_nonnegative limits what a NaN hides from the largest weight") {
  // The largest is taken in order, and whatever follows a NaN replaces it.
  const float x[] = {100.0F, quiet_nan, 1.0F, 0.5F};
  const float w[] = {1.0F, 1.0F, 1.0F, 1.0F};
  auto codes = guarded_codes();
  static_cast<void>(search_nonnegative<Arch>(4, 63, x, w, codes.data()));
  CHECK(codes[0] == 63);
  CHECK(codes[2] == 63);
  CHECK(codes[3] == 32);
}

TEST_CASE("round_affine and round_symmetric round to even, limit, and leave codes for step 0") {
  const float x[] = {0.5F, 1.5F, -7, 100, quiet_nan};
  std::uint8_t codes[] = {9, 9, 9, 9, 9};
  round_affine<Arch>(5, 3, x, 0.0F, 1.0F, codes);
  round_symmetric<Arch>(5, 4, x, -0.0F, codes);
  for (const int code : codes) CHECK(code == 9);

  round_affine<Arch>(4, 3, x, 1.0F, 1.0F, codes);
  CHECK(codes[0] == 2);  // 1.5
  CHECK(codes[1] == 2);  // 2.5
  CHECK(codes[2] == 0);
  CHECK(codes[3] == 3);
  round_symmetric<Arch>(5, 4, x, -1.0F, codes);
  CHECK(codes[0] == 4);  // -0.5
  CHECK(codes[1] == 2);  // -1.5
  CHECK(codes[2] == 7);
  CHECK(codes[3] == 0);
  CHECK(codes[4] <= 7);
  round_affine<Arch>(4, 3, x, quiet_nan, 1.0F, codes);
  round_symmetric<Arch>(4, 4, x, infinity, codes);
  for (int i = 0; i < 4; ++i) CHECK(codes[i] <= 7);
}

TEST_CASE("range_of is the least and the largest, of zeros the first, of NaNs none") {
  std::mt19937_64 generator(20);
  for (int k = 0; k < 3000; ++k) {
    // Few distinct values, so that zeros of both signs meet as ends of the range, or none is in it.
    const float values[] = {0.0F, -0.0F, 1.5F, -2.0F, quiet_nan, infinity};
    const std::size_t end = 2 + generator() % 5;
    const std::size_t first = generator() % end;
    float x[32];
    for (float& v : x) v = values[first + generator() % (end - first)];
    float low = std::numeric_limits<float>::max();
    float high = -low;
    for (const float v : x) {
      if (v < low) low = v;
      if (v > high) high = v;
    }
    const auto found = range_of<Arch>(x);
    REQUIRE(bit_cast<std::uint32_t>(found.low) == bit_cast<std::uint32_t>(low));
    REQUIRE(found.high == high);
    // The sign of a zero shows in the difference only.
    REQUIRE(bit_cast<std::uint32_t>(found.high - found.low) == bit_cast<std::uint32_t>(high - low));
  }
}

TEST_CASE("truncate_affine truncates, limits, and gives 0 for NaN") {
  float x[32] = {};
  const float given[] = {0,     0.99F, 1,      -0.5F,    -3,        14.99F,   15,
                         15.5F, 1e30F, -1e30F, infinity, -infinity, quiet_nan};
  const int required[] = {1, 1, 2, 0, 0, 15, 15, 15, 15, 0, 15, 0, 0};
  std::copy(std::begin(given), std::end(given), x);
  std::uint8_t codes[32];
  truncate_affine<Arch>(x, -0.5F, 1.0F, 0.5F, 15, codes);
  for (std::size_t i = 0; i < 13; ++i) CHECK(codes[i] == required[i]);
  for (std::size_t i = 13; i < 32; ++i) CHECK(codes[i] == 1);
  // 0 * Inf is NaN.
  truncate_affine<Arch>(x, 0.0F, infinity, 8.5F, 15, codes);
  CHECK(codes[0] == 0);
  CHECK(codes[1] == 15);
  CHECK(codes[3] == 0);
  // The product rounds up to 8 - 2^-21, and that plus 8 to 16; with one rounding it is below.
  volatile float factor = 0x1.0561d8p+0F;  // volatile: or the compiler computes it, unfused
  volatile float inverse = 0x1.f5750cp+2F;
  x[0] = factor;
  truncate_affine<Arch>(x, 0.0F, inverse, 8.0F, 31, codes);
  CHECK(codes[0] == 16);
}

TEST_CASE("the searches keep codes in range for weights that are not numbers") {
  std::mt19937_64 generator(17);
  for (int k = 0; k < 2000; ++k) {
    std::vector<float> x(32);
    std::vector<float> w(32);
    for (std::size_t i = 0; i < 32; ++i) {
      x[i] = bit_cast<float>(static_cast<std::uint32_t>(generator() >> 32));
      w[i] = magnitude(bit_cast<float>(static_cast<std::uint32_t>(generator() >> 32)));
    }
    auto codes = guarded_codes();
    static_cast<void>(search_symmetric<Arch>(32, 16, x.data(), w.data(), codes.data()));
    require_in_range(codes, 32, 31);
    static_cast<void>(search_symmetric<Arch>(32, 16, x.data(), nullptr, codes.data()));
    require_in_range(codes, 32, 31);
    static_cast<void>(refined_search(32, 4, x.data(), codes.data()));
    require_in_range(codes, 32, 7);
    static_cast<void>(
        affine_search(32, 31, x.data(), w.data(), {-0.9F, 0.05F, 36, false}, codes.data()));
    require_in_range(codes, 32, 31);
    static_cast<void>(search_nonnegative<Arch>(32, 63, x.data(), w.data(), codes.data()));
    require_in_range(codes, 32, 255);
  }
}
