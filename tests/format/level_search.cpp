// SPDX-License-Identifier: Apache-2.0
/// The search for the scale of a block and the levels of its groups, against every fp16 scale and
/// every level, in double.
#include "subbyte/format/level_search.hpp"

#include <algorithm>
#include <cmath>

#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;
using Arch = arch::native;
using search = level_search<8, 2, 16, Arch>;

/// Each octet has lines that are lowest one after the other; groups want scales within a factor of
/// `range`.
search sampled(std::mt19937_64& generator, double range, float unit) {
  search s{};
  s.unit = unit;
  for (auto& g : s.group_at) {
    const double wanted = 0.1 * std::pow(range, test_support::uniform(generator));
    double twice = 0;
    double square = 0;
    for (auto& variant : g.octet) {
      for (octet_choices& o : variant) {
        o.count = 1 + static_cast<int>(generator() % octet_trials);
        for (int c = 0; c < o.count; ++c) {
          const double b = 10 * (1 + test_support::uniform(generator)) / (1 + 0.2 * c);
          o.square[c] = static_cast<float>(b);
          o.twice[c] = static_cast<float>(2 * wanted * b * (1 + 0.05 * c));
          o.code[c] = static_cast<std::uint32_t>(c);
        }
      }
    }
    for (const octet_choices& o : g.octet[0]) {
      twice += static_cast<double>(o.twice[0]);
      square += static_cast<double>(o.square[0]);
    }
    g.scale = static_cast<float>(twice / 2 / square);
  }
  return s;
}

double octet_error(const octet_choices& o, double scale) {
  double least = 1e300;
  for (int c = 0; c < o.count; ++c) {
    least = std::min(least, scale * (scale * static_cast<double>(o.square[c]) -
                                     static_cast<double>(o.twice[c])));
  }
  return least;
}

double group_error(const search::group& g, int level, int variant, double scale) {
  double sum = 0;
  for (const octet_choices& o : g.octet[variant]) sum += octet_error(o, (2 * level + 1) * scale);
  return sum;
}

double block_error(const search& s, half scale) {
  double sum = 0;
  for (const auto& g : s.group_at) {
    double least = 1e300;
    for (int level = 0; level < 16; ++level) {
      for (int variant = 0; variant < 2; ++variant) {
        least = std::min(least, group_error(g, level, variant, static_cast<double>(s.seen(scale))));
      }
    }
    sum += least;
  }
  return sum;
}

double least_error(const search& s) {
  double least = 0;
  for (std::uint16_t bits = 1; bits < 0x7C00; ++bits) {
    least = std::min(least, block_error(s, half::from_bits(bits)));
  }
  return least;
}

TEST_CASE("A group gets the best of all levels and variants") {
  std::mt19937_64 generator(1);
  for (int draw = 0; draw < 20; ++draw) {
    const search s = sampled(generator, 8, 1);
    const half scale = half::nearest(0.02F);
    for (const auto& g : s.group_at) {
      const auto own = s.best_choice(g, scale);
      const double d = static_cast<double>(s.seen(scale));
      const double error = group_error(g, own.level, own.variant, d);
      for (int level = 0; level < 16; ++level) {
        for (int variant = 0; variant < 2; ++variant) {
          // Four sums of a few products, each rounded.
          CHECK(error <= group_error(g, level, variant, d) + 0x1p-20 * std::fabs(error));
        }
      }
    }
  }
}

TEST_CASE("The scale of a block is nearly the best of all fp16 numbers") {
  std::mt19937_64 generator(2);
  for (const double range : {1.0, 1.5, 8.0}) {
    // A large unit makes the stored scales subnormal, so that they are few.
    for (const float unit : {1.0F, 0x1p12F}) {
      const search s = sampled(generator, range, unit);
      const half scale = s.refined(s.coarse(256, 0.6F, 1.9F), 3);
      const double least = least_error(s);
      INFO("range " << range << ", unit " << unit);
      REQUIRE(least < 0);
      CHECK(block_error(s, scale) <= 0.999 * least);
    }
  }
}

TEST_CASE("Refining a scale never makes it worse") {
  std::mt19937_64 generator(3);
  for (int draw = 0; draw < 20; ++draw) {
    const search s = sampled(generator, 2, 1);
    const half coarse = s.coarse(16, 0.86F, 1.2F);
    const double before = block_error(s, coarse);
    CHECK(block_error(s, s.refined(coarse, 3)) <= before + 0x1p-20 * std::fabs(before));
  }
}

TEST_CASE("Refining fits the scale from farther away than its stored neighbours reach") {
  search s{};
  s.unit = 1;
  for (int g = 0; g < 8; ++g) {
    s.group_at[g].scale = 0.125F * static_cast<float>(2 * (g % 3) + 1);  // levels 0, 1 and 2
    for (auto& variant : s.group_at[g].octet) {
      for (octet_choices& o : variant) {
        o.count = 1;
        o.square[0] = 1;
        o.twice[0] = 2 * s.group_at[g].scale;
      }
    }
  }
  // 3 % are more than 30 fp16 numbers; eight on either side are tried.
  for (const float start : {0.125F * 0.97F, 0.125F * 1.03F}) {
    CHECK(s.refined(half::nearest(start), 3).to_float() == 0.125F);
  }
}

TEST_CASE("Without anything to gain the scale of a block is zero") {
  search s{};
  s.unit = 1;
  for (auto& g : s.group_at) {
    for (auto& variant : g.octet) {
      for (octet_choices& o : variant) {
        o.count = 1;
        o.square[0] = 1;
      }
    }
  }
  CHECK(s.coarse(16, 0.86F, 1.2F).bits == 0);
  CHECK(s.refined(half{}, 3).bits == 0);
}

}  // namespace
