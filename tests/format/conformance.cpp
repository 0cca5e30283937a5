// SPDX-License-Identifier: Apache-2.0
/// Laws L1 to L5 of format/concepts.hpp, sizes and numbers, for every format of the registry.
#include <cmath>
#include <cstring>
#include <set>
#include <string>
#include <vector>

#include "subbyte/format/list.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/tested_formats.hpp"

namespace {

using namespace subbyte;

/// What the file format says. codes: how many a weight has, 0 for the formats without codes.
struct fact {
  const char* name;
  int block_size;
  int bytes;
  int gguf_type;  // -1: no file stores weights in it
  int codes;
  double bits_per_weight;
};
constexpr fact facts[] = {
    {"f32", 1, 4, 0, 0, 32},
    {"f16", 1, 2, 1, 0, 16},
    {"bf16", 1, 2, 30, 0, 16},
    {"q4_0", 32, 18, 2, 16, 4.5},
    {"q4_1", 32, 20, 3, 16, 5},
    {"q5_0", 32, 22, 6, 32, 5.5},
    {"q5_1", 32, 24, 7, 32, 6},
    {"q8_0", 32, 34, 8, 256, 8.5},
    {"q8_1", 32, 36, -1, 256, 9},
    {"q2_k", 256, 84, 10, 4, 2.625},
    {"q3_k", 256, 110, 11, 8, 3.4375},
    {"q4_k", 256, 144, 12, 16, 4.5},
    {"q5_k", 256, 176, 13, 32, 5.5},
    {"q6_k", 256, 210, 14, 64, 6.5625},
    {"q8_k", 256, 292, -1, 256, 9.125},
    {"iq4_nl", 32, 18, 20, 16, 4.5},
    {"iq4_xs", 256, 136, 23, 16, 4.25},
    {"mxfp4", 32, 17, 39, 16, 4.25},
    {"nvfp4", 64, 36, 40, 16, 4.5},
    {"q1_0", 128, 18, 41, 2, 1.125},
    {"q2_0", 64, 18, 42, 4, 2.25},
    {"tq1_0", 256, 54, 34, 3, 1.6875},
    {"tq2_0", 256, 66, 35, 4, 2.0625},
    {"iq2_xxs", 256, 66, 16, 0, 2.0625},
    {"iq2_xs", 256, 74, 17, 0, 2.3125},
    {"iq2_s", 256, 82, 22, 0, 2.5625},
    {"iq3_xxs", 256, 98, 18, 0, 3.0625},
    {"iq3_s", 256, 110, 21, 0, 3.4375},
    {"iq1_s", 256, 50, 19, 0, 1.5625},
    {"iq1_m", 256, 56, 29, 0, 1.75},
    {"q6_0", 32, 26, 133, 64, 6.5},
    {"iq2_k", 256, 76, 137, 4, 2.375},
    {"iq3_k", 256, 110, 138, 8, 3.4375},
    {"iq4_k", 256, 144, 139, 16, 4.5},
    {"iq5_k", 256, 176, 140, 32, 5.5},
    {"iq6_k", 256, 212, 141, 64, 6.625},
};

/// ik_llama.cpp's non-linear types, whose encoders are the library's own: derived from fit.
template <class F>
constexpr bool encoded_by_fit = contains_v<type_list<iq2_k, iq3_k, iq4_k, iq5_k, iq6_k>, F>;

template <class F>
const fact& fact_of() {
  for (const fact& f : facts) {
    if (std::string(f.name) == F::name) return f;
  }
  FAIL("no fact about " << F::name);
  return facts[0];
}

template <class F>
int code_count() {
  return fact_of<F>().codes;
}

template <class Body>
void for_each_grid_format(Body&& body) {
  for_each_type(test_support::tested_formats{}, [&](auto format) {
    if constexpr (grid_format<typename decltype(format)::type>) body(format);
  });
}

/// Equal bits, or both NaN.
bool same(float a, float b) {
  return (a != a && b != b) || bit_cast<std::uint32_t>(a) == bit_cast<std::uint32_t>(b);
}

/// A block of weights whose spread, offset and sparsity change with `seed`.
template <class F>
std::vector<float> weights(std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  const double deviation = std::exp2(-20 + 24 * test_support::uniform(generator));
  const double offset =
      seed % 3 == 0 ? deviation * 8 * (test_support::uniform(generator) - 0.5) : 0;
  std::vector<float> w(F::block_size);
  for (float& v : w) {
    const double draw = deviation * test_support::normal(generator) + offset;
    v = seed % 5 == 4 && test_support::uniform(generator) < 0.7 ? 0.0F : static_cast<float>(draw);
  }
  return w;
}

template <class F>
std::vector<float> importance(std::uint64_t seed) {
  std::mt19937_64 generator(~seed);
  std::vector<float> v(F::block_size);
  for (float& x : v) x = static_cast<float>(0.01 + test_support::uniform(generator));
  return v;
}

template <class F>
[[gnu::noinline]] F encoded(std::uint64_t seed, bool weighted) {
  const std::vector<float> w = weights<F>(seed);
  const std::vector<float> v = importance<F>(seed);
  const float energy = mean_square<arch::native>(w.data(), F::block_size);
  static const block_encoder<F, arch::native> encoder;
  F block;
  encoder(w.data(), weighted ? v.data() : nullptr, energy, 1, &block);
  return block;
}

template <class F>
F random_bytes(std::mt19937_64& generator) {
  unsigned char bytes[sizeof(F)];
  for (unsigned char& b : bytes) b = static_cast<unsigned char>(generator() >> 56);
  F block;
  std::memcpy(&block, bytes, sizeof(F));
  return block;
}

template <class F>
bool same_bytes(const F& a, const F& b) {
  return std::memcmp(&a, &b, sizeof(F)) == 0;
}

template <class F>
[[gnu::noinline]] std::vector<float> decoded(const F& block) {
  std::vector<float> values(F::block_size);
  decode(block, values.data());
  return values;
}

/// Whether `code` is the lowest of the codes nearest to `v`, by comparing with every code.
template <class F>
void check_nearest(float v, int i, const typename F::params& p) {
  const int code = F::round(v, i, p);
  REQUIRE((code >= 0 && code < code_count<F>()));
  const float value = F::value(code, i, p);
  INFO(F::name << ": weight " << v << " at " << i << " got code " << code << ", value " << value);
  bool finite = true;
  int lowest = 0;
  float lowest_value = F::value(0, i, p);
  for (int other = 0; other < code_count<F>(); ++other) {
    const float candidate = F::value(other, i, p);
    finite = finite && std::isfinite(candidate);
    const long double distance = std::fabs(static_cast<long double>(v) - value);
    const long double beaten_by = std::fabs(static_cast<long double>(v) - candidate);
    if (beaten_by < distance) FAIL("code " << other << ", value " << candidate << " is nearer");
    // Exact where differences are not: |v - a| < |v - b| for a < b means 2v < a + b, and a sum of
    // two values of one grid fits a double.
    const double sum = static_cast<double>(lowest_value) + candidate;
    if (candidate > lowest_value ? 2.0 * v > sum : (candidate < lowest_value && 2.0 * v < sum)) {
      lowest = other;
      lowest_value = candidate;
    }
  }
  if (finite) CHECK(code == lowest);
}

template <class F>
[[gnu::noinline]] void check_rounding(const typename F::params& p, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  const int last = code_count<F>() - 1;
  for (int draw = 0; draw < 6; ++draw) {
    const int i = static_cast<int>(generator() % F::block_size);
    const int code = static_cast<int>(generator() % static_cast<unsigned>(last));
    const float a = F::value(code, i, p);
    const float b = F::value(code + 1, i, p);
    const float middle = 0.5F * a + 0.5F * b;
    for (const float v : {a, middle, std::nextafter(middle, a), std::nextafter(middle, b),
                          static_cast<float>(a + test_support::uniform(generator) * (b - a)),
                          2 * a - b, 1000 * F::value(0, i, p), 1000 * F::value(last, i, p), 0.0F,
                          -0.0F, 1e30F, -1e30F, 1e-40F, -1e-40F}) {
      if (std::isfinite(v)) check_nearest<F>(v, i, p);
    }
    for (const float v : {HUGE_VALF, -HUGE_VALF, std::nanf("")}) {
      const int result = F::round(v, i, p);
      CHECK((result >= 0 && result <= last));
    }
  }
}

/// The least that a grid format may be: the encoder is derived from fit and round.
struct quarters {
  static constexpr const char* name = "quarters";
  static constexpr int block_size = 4;
  float scale;
  std::uint8_t packed;

  struct params {
    float scale;
  };
  using codes = code_block<4>;

  static constexpr float value(int code, int, const params& p) noexcept {
    return p.scale * static_cast<float>(code);
  }
  static constexpr int round(float v, int i, const params& p) noexcept {
    return nearest_beside<quarters>(clamp(trunc_to_int(v / p.scale + 0.5F), 0, 3), v, i, p, 3);
  }
  static constexpr unpacked<quarters> split(const quarters& b) noexcept {
    unpacked<quarters> u{{b.scale}, {}};
    for (int i = 0; i < 4; ++i) u.codes[i] = static_cast<std::uint8_t>(b.packed >> 2 * i & 3);
    return u;
  }
  static constexpr quarters join(const params& p, const codes& c) noexcept {
    return {p.scale, static_cast<std::uint8_t>(c[0] | c[1] << 2 | c[2] << 4 | c[3] << 6)};
  }
  static params fit(const float* w, const float*) noexcept { return {w[3] / 3}; }
};
static_assert(grid_format<quarters> && !reference_encodable<quarters> && !gguf_format<quarters>);

}  // namespace

TEST_CASE("sizes, bits per weight and type numbers are those of the file format") {
  CHECK(all_formats::size == static_cast<index_t>(std::size(facts)));
  std::set<std::string> names;
  std::set<int> numbers;
  for_each_type(all_formats{}, [&](auto format) {
    using F = typename decltype(format)::type;
    const fact& expected = fact_of<F>();
    INFO(F::name);
    CHECK(F::block_size == expected.block_size);
    CHECK(block_bytes<F> == expected.bytes);
    CHECK(bits_per_weight<F> == expected.bits_per_weight);
    CHECK(grid_format<F> == (expected.codes != 0));
    CHECK(opaque_format<F> == (expected.codes == 0));
    CHECK((reference_encodable<F> || table_encodable<F>) != encoded_by_fit<F>);
    CHECK(names.insert(F::name).second);
    if constexpr (gguf_format<F>) {
      CHECK(static_cast<int>(F::gguf_type) == expected.gguf_type);
      CHECK(numbers.insert(static_cast<int>(F::gguf_type)).second);
    } else {
      CHECK(expected.gguf_type == -1);
    }
  });
}

TEST_CASE("L1: join undoes split for blocks that an encoder makes") {
  for_each_grid_format([](auto format) {
    using F = typename decltype(format)::type;
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
      for (const bool weighted : {false, true}) {
        INFO(F::name << ", seed " << seed << ", weighted " << weighted);
        const F block = encoded<F>(seed, weighted);
        const unpacked<F> u = F::split(block);
        CHECK(same_bytes(F::join(u.params, u.codes), block));
      }
    }
  });
}

TEST_CASE("L1: for any bytes join after split keeps the values, and every code survives") {
  for_each_grid_format([](auto format) {
    using F = typename decltype(format)::type;
    std::mt19937_64 generator(1);
    for (int draw = 0; draw < 300; ++draw) {
      const F block = random_bytes<F>(generator);
      const unpacked<F> u = F::split(block);
      const F again = F::join(u.params, u.codes);
      const std::vector<float> a = decoded(block);
      const std::vector<float> b = decoded(again);
      int differences = 0;
      int out_of_range = 0;
      for (int i = 0; i < F::block_size; ++i) {
        const std::size_t at = static_cast<std::size_t>(i);
        differences += same(a[at], b[at]) ? 0 : 1;
        out_of_range += u.codes[i] < code_count<F>() ? 0 : 1;
      }
      INFO(F::name << ", draw " << draw);
      CHECK(differences == 0);
      CHECK(out_of_range == 0);
      CHECK(F::split(again).codes == u.codes);
    }
  });
}

TEST_CASE("L2: decode is value of every code") {
  for_each_grid_format([](auto format) {
    using F = typename decltype(format)::type;
    std::mt19937_64 generator(2);
    for (int draw = 0; draw < 100; ++draw) {
      const F block = draw % 2 == 0 ? random_bytes<F>(generator)
                                    : encoded<F>(static_cast<std::uint64_t>(draw), false);
      const unpacked<F> u = F::split(block);
      const std::vector<float> values = decoded(block);
      int differences = 0;
      for (int i = 0; i < F::block_size; ++i) {
        const float value = F::value(u.codes[i], i, u.params);
        differences += same(values[static_cast<std::size_t>(i)], value) ? 0 : 1;
      }
      INFO(F::name << ", draw " << draw);
      CHECK(differences == 0);
    }
  });
}

TEST_CASE("L3: fit returns params that a block stores, those of the reference encoder") {
  for_each_grid_format([](auto format) {
    using F = typename decltype(format)::type;
    std::mt19937_64 generator(3);
    for (std::uint64_t seed = 0; seed < 60; ++seed) {
      for (const bool weighted : {false, true}) {
        INFO(F::name << ", seed " << seed << ", weighted " << weighted);
        const std::vector<float> w = weights<F>(seed);
        const std::vector<float> v = importance<F>(seed);
        const auto p = F::fit(w.data(), weighted ? v.data() : nullptr);
        typename F::codes c{};
        for (int i = 0; i < F::block_size; ++i) {
          c[i] = static_cast<std::uint8_t>(generator() % static_cast<unsigned>(code_count<F>()));
        }
        const unpacked<F> u = F::split(F::join(p, c));
        CHECK(u.params == p);
        CHECK(u.codes == c);
        CHECK(F::split(encoded<F>(seed, weighted)).params == p);
      }
    }
  });
}

TEST_CASE("L4: round gives the lowest of the nearest codes, for fitted params") {
  for_each_grid_format([](auto format) {
    using F = typename decltype(format)::type;
    for (std::uint64_t seed = 0; seed < 40; ++seed) {
      const std::vector<float> w = weights<F>(seed);
      check_rounding<F>(F::fit(w.data(), nullptr), seed);
    }
  });
}

TEST_CASE("L4: round gives the lowest of the nearest codes, for params of any bytes") {
  for_each_grid_format([](auto format) {
    using F = typename decltype(format)::type;
    std::mt19937_64 generator(4);
    for (std::uint64_t seed = 0; seed < 80; ++seed) {
      check_rounding<F>(F::split(random_bytes<F>(generator)).params, seed);
    }
    check_rounding<F>(F::split(F{}).params, 0);  // all scales zero: every code is nearest, 0 wins
  });
}

TEST_CASE("L5: without encode_ref a block is join of fit and round") {
  const float w[4] = {0.1F, 1.4F, -3.0F, 3.0F};
  const quarters block = encode<quarters, arch::native>(w, nullptr, 0);
  CHECK(block.scale == 1.0F);
  CHECK(block.packed == (0 | 1 << 2 | 0 << 4 | 3 << 6));
  float values[4] = {-1, -1, -1, -1};
  decode(block, values);
  CHECK(values[0] == 0.0F);
  CHECK(values[1] == 1.0F);
  CHECK(values[2] == 0.0F);
  CHECK(values[3] == 3.0F);

  for_each_grid_format([](auto format) {
    using F = typename decltype(format)::type;
    if constexpr (encoded_by_fit<F>) {
      for (std::uint64_t seed = 0; seed < 20; ++seed) {
        const std::vector<float> x = weights<F>(seed);
        const auto p = F::fit(x.data(), nullptr);
        typename F::codes c{};
        for (int i = 0; i < F::block_size; ++i) {
          c[i] = static_cast<std::uint8_t>(F::round(x[static_cast<std::size_t>(i)], i, p));
        }
        CHECK(same_bytes(encoded<F>(seed, false), F::join(p, c)));
      }
    }
  });
}

TEST_CASE(
    "encoders come close: the error of normal weights stays below half a step of a uniform grid") {
  for_each_grid_format([](auto format) {
    using F = typename decltype(format)::type;
    for (const bool weighted : {false, true}) {
      const std::vector<float> w = test_support::normal_vector(F::block_size, 0.02, 9);
      const std::vector<float> v = importance<F>(9);
      const float energy = mean_square<arch::native>(w.data(), F::block_size);
      F block;
      block_encoder<F, arch::native>()(w.data(), weighted ? v.data() : nullptr, energy, 1, &block);
      const std::vector<float> values = decoded(block);
      double largest = 0;
      double squares = 0;
      for (std::size_t i = 0; i < w.size(); ++i) {
        largest = std::max(largest, std::fabs(static_cast<double>(w[i])));
        squares += std::pow(static_cast<double>(w[i]) - values[i], 2);
      }
      // A uniform grid over +-largest has steps of 2 * largest / (codes - 1), and rounding to it
      // leaves a root mean square of step / sqrt(12); half a step leaves room for the other grids.
      const double step = 2 * largest / (code_count<F>() - 1);
      INFO(F::name << ", weighted " << weighted);
      CHECK(std::sqrt(squares / F::block_size) < 0.5 * step);
    }
  });
}
