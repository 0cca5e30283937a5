// SPDX-License-Identifier: Apache-2.0
/// The laws of grid formats for formats whose rows begin with a scale, and what iq4_kss has in
/// their place: codes that are not independent.
#include <cmath>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "subbyte/format/list.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;

struct fact {
  const char* name;
  std::uint32_t gguf_type;
  int block_bytes;
  int row_bytes;
  int codes;
};
constexpr fact facts[] = {
    {"iq2_ks", 145, 70, 2, 4},    {"iq3_ks", 156, 102, 2, 8},  {"iq4_ks", 144, 136, 4, 16},
    {"iq4_kss", 146, 128, 4, 16}, {"iq5_ks", 152, 168, 4, 32},
};

template <class F>
F random_block(std::mt19937_64& generator) {
  unsigned char bytes[sizeof(F)];
  for (unsigned char& b : bytes) b = static_cast<unsigned char>(generator() >> 56);
  F block;
  std::memcpy(&block, bytes, sizeof(F));
  return block;
}

template <class F>
typename F::row_scale random_scale(std::mt19937_64& generator) {
  const double size = std::exp2(-14 + 16 * test_support::uniform(generator));
  const double sign = generator() % 2 == 0 ? 1 : -1;
  return F::row_scale::nearest(static_cast<float>(sign * size));
}

template <class F>
bool same_bytes(const F& a, const F& b) {
  return std::memcmp(&a, &b, sizeof(F)) == 0;
}

template <class Body>
void for_each_grid(Body&& body) {
  for_each_type(row_scaled_formats{}, [&](auto format) {
    if constexpr (row_scaled_grid_format<typename decltype(format)::type>) body(format);
  });
}

template <class F>
constexpr int last_code = (1 << F::codebook::bits) - 1;

bool same(float a, float b) {
  return (a != a && b != b) || bit_cast<std::uint32_t>(a) == bit_cast<std::uint32_t>(b);
}

}  // namespace

TEST_CASE("row-scaled formats: sizes and numbers are those of the file format") {
  CHECK(row_scaled_formats::size == static_cast<index_t>(std::size(facts)));
  CHECK(file_formats::size == all_formats::size + row_scaled_formats::size);
  std::set<std::uint32_t> numbers;
  for_each_type(file_formats{}, [&](auto format) {
    using F = typename decltype(format)::type;
    if constexpr (gguf_format<F>) CHECK(numbers.insert(F::gguf_type).second);
  });
  for_each_type(row_scaled_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    INFO(F::name);
    bool known = false;
    for (const fact& f : facts) {
      if (std::string(f.name) != F::name) continue;
      known = true;
      CHECK(F::gguf_type == f.gguf_type);
      CHECK(block_bytes<F> == f.block_bytes);
      CHECK(sizeof(typename F::row_scale) == static_cast<std::size_t>(f.row_bytes));
      CHECK(F::block_size == 256);
      CHECK(last_code<F> == f.codes - 1);
    }
    CHECK(known);
    // Else matrices and files would take them for blocks with values of their own.
    CHECK(!block_format<F>);
    CHECK(gguf_format<F>);
  });
}

TEST_CASE("row-scaled formats, L1 and L2: split and join are inverse, decode is value") {
  for_each_grid([](auto format) {
    using F = typename decltype(format)::type;
    std::mt19937_64 generator(61);
    for (int draw = 0; draw < 200; ++draw) {
      const F block = random_block<F>(generator);
      const auto scale = random_scale<F>(generator);
      const unpacked<F> u = F::split(block, scale);
      INFO(F::name << ", draw " << draw);
      CHECK(same_bytes(F::join(u.params, u.codes), block));
      CHECK(u.params.scale == scale);
      float values[F::block_size];
      F::decode(block, scale, values);
      int differences = 0;
      for (int i = 0; i < F::block_size; ++i) {
        differences += same(values[i], F::value(u.codes[i], i, u.params)) ? 0 : 1;
      }
      CHECK(differences == 0);
    }
  });
}

TEST_CASE("row-scaled formats, L3: fit returns params that a block stores, under the given scale") {
  for_each_grid([](auto format) {
    using F = typename decltype(format)::type;
    std::mt19937_64 generator(62);
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      const auto scale = random_scale<F>(generator);
      const auto w =
          test_support::normal_vector(F::block_size, 40 * std::fabs(scale.to_float()), seed);
      const auto p = F::fit(w.data(), nullptr, scale);
      typename F::codes c{};
      for (int i = 0; i < F::block_size; ++i) {
        c[i] = static_cast<std::uint8_t>(generator() % (last_code<F> + 1));
      }
      const unpacked<F> u = F::split(F::join(p, c), scale);
      INFO(F::name << ", seed " << seed);
      CHECK(u.params == p);
      CHECK(p.scale == scale);
      CHECK(u.codes == c);
    }
  });
}

TEST_CASE("row-scaled formats, L4: round gives the lowest of the nearest codes") {
  for_each_type(row_scaled_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    std::mt19937_64 generator(63);
    for (int draw = 0; draw < 300; ++draw) {
      const auto scale = random_scale<F>(generator);
      const auto p = F::split(random_block<F>(generator), scale).params;
      const int i = static_cast<int>(generator() % F::block_size);
      const int code = static_cast<int>(generator() % last_code<F>);
      const float a = F::value(code, i, p);
      const float b = F::value(code + 1, i, p);
      for (const float v : {a, b, 0.5F * a + 0.5F * b,
                            static_cast<float>(a + test_support::uniform(generator) * (b - a)),
                            2 * a - b, 0.0F, -0.0F, 1e30F, -1e30F}) {
        int best = 0;
        for (int other = 1; other <= last_code<F>; ++other) {
          // Exact where differences are not: two values of one grid and their sum fit a double.
          const double now = static_cast<double>(F::value(best, i, p));
          const double candidate = static_cast<double>(F::value(other, i, p));
          const double sum = now + candidate;
          const double twice = 2.0 * static_cast<double>(v);
          if (candidate > now ? twice > sum : (candidate < now && twice < sum)) best = other;
        }
        INFO(F::name << ", weight " << v << " at " << i);
        CHECK(F::round(v, i, p) == best);
      }
      for (const float v : {std::numeric_limits<float>::quiet_NaN(), HUGE_VALF, -HUGE_VALF}) {
        const int result = F::round(v, i, p);
        CHECK((result >= 0 && result <= last_code<F>));
      }
    }
  });
}

TEST_CASE("row-scaled formats: params are equal exactly when they are stored as the same bytes") {
  for_each_grid([](auto format) {
    using F = typename decltype(format)::type;
    INFO(F::name);
    std::mt19937_64 generator(64);
    const auto scale = random_scale<F>(generator);
    F block = random_block<F>(generator);
    const typename F::codes none{};
    const auto p = F::split(block, scale).params;
    CHECK(p == p);
    CHECK(!(p == F::split(block, F::row_scale::nearest(2 * scale.to_float())).params));
    unsigned char bytes[sizeof(F)];
    std::memcpy(bytes, &block, sizeof(F));
    int different = 0;
    for (std::size_t bit = 0; bit < 8 * sizeof(F); ++bit) {
      bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ 1U << bit % 8);
      std::memcpy(&block, bytes, sizeof(F));
      const auto other = F::split(block, scale).params;
      const bool stored_alike = same_bytes(F::join(other, none), F::join(p, none));
      INFO("bit " << bit);
      CHECK((other == p) == stored_alike);
      different += stored_alike ? 0 : 1;
      bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ 1U << bit % 8);
    }
    CHECK(different == 8 * (F::levels.count == 32 ? 6 : 8));  // of 8 groups: level and position
  });
}

TEST_CASE("iq4_kss: any bytes come back from split and join, and its codes are even in fours") {
  std::mt19937_64 generator(65);
  for (int draw = 0; draw < 200; ++draw) {
    const iq4_kss block = random_block<iq4_kss>(generator);
    const auto scale = random_scale<iq4_kss>(generator);
    const auto u = iq4_kss::split(block, scale);
    CHECK(same_bytes(iq4_kss::join_even(u.params, u.codes), block));
    int odd = 0;
    for (int g = 0; g < 8; ++g) {
      for (int k = 0; k < 8; ++k) {
        int bits = 0;
        for (const int i : {2 * k, 2 * k + 16, 2 * k + 1, 2 * k + 17}) {
          bits += __builtin_popcount(u.codes[32 * g + i]);
        }
        odd += bits % 2;
      }
    }
    CHECK(odd == 0);
  }
}

TEST_CASE("iq4_kss: encode moves one code of four at most, and the one that costs least") {
  const auto w = test_support::normal_vector(256, 0.02, 66);
  const auto scale = f32_scale::nearest(2e-6F);
  const auto p = iq4_kss::fit(w.data(), nullptr, scale);
  const std::vector<float> ones(256, 1.0F);
  const auto u = iq4_kss::split(iq4_kss::encode<arch::native>(w.data(), ones.data(), p), scale);
  CHECK(u.params == p);
  int moved_fours = 0;
  for (int g = 0; g < 8; ++g) {
    for (int k = 0; k < 8; ++k) {
      const int at[4] = {32 * g + 2 * k, 32 * g + 2 * k + 16, 32 * g + 2 * k + 1,
                         32 * g + 2 * k + 17};
      int bits = 0;
      int moved = 0;
      double cost = 0;
      double least = HUGE_VAL;
      const auto loss = [&](int code, int i) {
        const double difference = static_cast<double>(w[static_cast<std::size_t>(i)]) -
                                  static_cast<double>(iq4_kss::value(code, i, p));
        return difference * difference;
      };
      for (const int i : at) {
        const int nearest = iq4_kss::round(w[static_cast<std::size_t>(i)], i, p);
        bits += __builtin_popcount(static_cast<unsigned>(nearest));
        moved += u.codes[i] != nearest ? 1 : 0;
        cost += loss(u.codes[i], i) - loss(nearest, i);
        for (int code = 0; code < 16; ++code) {
          if (__builtin_popcount(static_cast<unsigned>(code ^ nearest)) % 2 == 0) continue;
          least = std::fmin(least, loss(code, i) - loss(nearest, i));
        }
      }
      CHECK(moved == bits % 2);
      // The encoder compares costs in fp32.
      if (moved == 1) CHECK(cost <= least + 1e-6 * std::fabs(least) + 1e-12);
      moved_fours += moved;
    }
  }
  CHECK(moved_fours > 16);
}

TEST_CASE("a row of zeros has the scale 0 and decodes to zeros") {
  for_each_type(row_scaled_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    INFO(F::name);
    group_fit groups[2 * F::groups];
    F blocks[2];
    const auto scale = encode_shifted_row<F, arch::native>(
        2,
        [](index_t, float* x, float* weight) {
          for (int i = 0; i < F::block_size; ++i) {
            x[i] = 0;
            weight[i] = 1;
          }
        },
        groups, blocks);
    CHECK(scale.to_float() == 0);
    for (const F& block : blocks) {
      float values[F::block_size];
      F::decode(block, scale, values);
      for (const float v : values) CHECK(v == 0);
    }
  });
}
