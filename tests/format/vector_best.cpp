// SPDX-License-Identifier: Apache-2.0
/// The searches of least error of the IQ1, IQ2 and IQ3 formats: never worse than the reference
/// encoder, better by as much as we say, and the same bytes everywhere. Errors are summed here, in
/// double, from what decode() gives.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <fstream>
#include <limits>
#include <string>
#include <vector>

#include "subbyte/format/iq1_m.hpp"
#include "subbyte/format/iq1_s.hpp"
#include "subbyte/format/iq2_s.hpp"
#include "subbyte/format/iq2_xs.hpp"
#include "subbyte/format/iq2_xxs.hpp"
#include "subbyte/format/iq3_s.hpp"
#include "subbyte/format/iq3_xxs.hpp"
#include "support/archs.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;
using formats = type_list<iq2_xxs, iq2_xs, iq2_s, iq3_xxs, iq3_s, iq1_s, iq1_m>;
using row = std::vector<float>;

constexpr float quiet_nan = std::numeric_limits<float>::quiet_NaN();
constexpr float infinity = std::numeric_limits<float>::infinity();

template <class F, class Arch = arch::native>
const auto& encoder_of() {
  static const typename F::template encoder<Arch> encoder;
  return encoder;
}

template <class F>
std::string bytes_of(const F& block) {
  std::string bytes(sizeof(F), '\0');
  std::memcpy(bytes.data(), &block, sizeof(F));
  return bytes;
}

template <class F>
row decoded(const F& block) {
  row values(256);
  decode(block, values.data());
  return values;
}

/// An empty v: all ones.
template <class F>
double error_of(const F& block, const row& w, const row& v) {
  const row got = decoded(block);
  double sum = 0;
  for (std::size_t i = 0; i < 256; ++i) {
    const double difference = static_cast<double>(w[i]) - static_cast<double>(got[i]);
    sum += (v.empty() ? 1.0 : static_cast<double>(v[i])) * difference * difference;
  }
  return sum;
}

const float* pointer(const row& v) { return v.empty() ? nullptr : v.data(); }

template <class F>
F reference_of(const row& w, const row& v) {
  return encoder_of<F>()(w.data(), pointer(v), 1);
}

template <class F>
F best_of(const row& w, const row& v, int effort) {
  return encoder_of<F>().best(w.data(), pointer(v), 1, effort);
}

row made(std::mt19937_64& generator, double (*draw)(std::mt19937_64&)) {
  row w(256);
  for (float& x : w) x = static_cast<float>(draw(generator));
  return w;
}

double gaussian(std::mt19937_64& generator) { return 0.02 * test_support::normal(generator); }

double heavy_tailed(std::mt19937_64& generator) {
  const double z = test_support::normal(generator);
  return 0.004 * z * z * z;
}

double log_normal(std::mt19937_64& generator) { return std::exp(test_support::normal(generator)); }

/// `count` blocks from the matrices of the bundled model's last layer, which end its file.
std::vector<row> model_blocks(std::size_t count) {
  constexpr std::size_t layer = 3072;
  std::ifstream in(SUBBYTE_EXAMPLE_DATA_DIR "/model-f16.gguf", std::ios::binary);
  in.seekg(-static_cast<std::streamoff>(layer * 512), std::ios::end);
  std::vector<half> weights(layer * 256);
  in.read(reinterpret_cast<char*>(weights.data()),
          static_cast<std::streamsize>(weights.size() * sizeof(half)));
  REQUIRE(in.good());
  std::vector<row> blocks;
  for (std::size_t b = 0; b < count; ++b) {
    row w(256);
    const std::size_t first = b * (layer / count) * 256;
    for (std::size_t i = 0; i < 256; ++i) w[i] = weights[first + i].to_float();
    blocks.push_back(w);
  }
  return blocks;
}

struct sample {
  std::string what;
  row w;
  row v;
};

/// Weights of every kind with importance of every kind.
std::vector<sample> samples(int rounds) {
  std::mt19937_64 generator(606);
  std::vector<sample> all;
  for (int r = 0; r < rounds; ++r) {
    std::vector<sample> weights;
    weights.push_back({"gaussian", made(generator, gaussian), {}});
    weights.push_back({"heavy-tailed", made(generator, heavy_tailed), {}});
    const float constant = static_cast<float>(0.3 * test_support::normal(generator));
    weights.push_back({"constant", row(256, constant), {}});
    row sparse = made(generator, gaussian);
    for (std::size_t g = 0; g < 16; ++g) {
      if (generator() % 2 != 0) {
        std::fill_n(sparse.begin() + static_cast<std::ptrdiff_t>(16 * g), 16, 0.0F);
      }
    }
    std::fill_n(sparse.begin(), 64, 0.0F);
    weights.push_back({"groups of zeros", sparse, {}});
    row few(256, 0.0F);
    for (int k = 0; k < 5; ++k) few[generator() % 256] = 1;
    weights.push_back({"few that are not zero", few, {}});
    row outlier = made(generator, gaussian);
    outlier[generator() % 256] = 30;
    weights.push_back({"outlier", outlier, {}});
    for (const float factor : {1e-6F, 1e-9F, 1e-30F, 1e5F, 1e9F, 1e30F}) {
      row scaled = made(generator, gaussian);
      for (float& x : scaled) x *= factor;
      weights.push_back({"gaussian times " + std::to_string(factor), scaled, {}});
    }
    row uneven = made(generator, gaussian);
    for (std::size_t i = 0; i < 256; ++i) uneven[i] *= std::ldexp(1.0F, -static_cast<int>(i / 16));
    weights.push_back({"groups of falling magnitude", uneven, {}});
    weights.push_back({"zeros", row(256, 0.0F), {}});

    row random = made(generator, log_normal);
    row with_zeros = random;
    for (float& x : with_zeros) x = generator() % 3 == 0 ? 0.0F : x;
    row steep = random;
    for (float& x : steep) x = std::pow(x, 12.0F);
    row tiny = random;
    for (float& x : tiny) x *= 1e-33F;
    row one_group(256, 0.0F);
    std::fill_n(one_group.begin() + 32, 32, 1.0F);
    for (const sample& s : weights) {
      all.push_back({s.what, s.w, {}});
      all.push_back({s.what + ", ones", s.w, row(256, 1.0F)});
      all.push_back({s.what + ", random importance", s.w, random});
      all.push_back({s.what + ", importance with zeros", s.w, with_zeros});
      all.push_back({s.what + ", steep importance", s.w, steep});
      all.push_back({s.what + ", tiny importance", s.w, tiny});
      all.push_back({s.what + ", one group matters", s.w, one_group});
      all.push_back({s.what + ", nothing matters", s.w, row(256, 0.0F)});
    }
  }
  for (const row& w : model_blocks(static_cast<std::size_t>(8 * rounds))) {
    all.push_back({"model", w, {}});
    all.push_back({"model, random importance", w, made(generator, log_normal)});
  }
  return all;
}

template <class F>
void check_law(int rounds, int efforts) {
  int better = 0;
  for (const sample& s : samples(rounds)) {
    double least = error_of(reference_of<F>(s.w, s.v), s.w, s.v);
    const double reference = least;
    for (int effort = 1; effort <= efforts; ++effort) {
      const double error = error_of(best_of<F>(s.w, s.v, effort), s.w, s.v);
      INFO(F::name << ", effort " << effort << ": " << s.what);
      // A scale beyond fp16 decodes to Inf, and stays where nothing matters.
      CHECK((error <= least || !(least < infinity)));
      CHECK((error < infinity || *std::max_element(s.v.begin(), s.v.end()) == 0));
      least = error;
    }
    better += least < reference ? 1 : 0;
  }
  CHECK(better > 0);
}

TEST_CASE("A best IQ block is never worse than the reference encoder's") {
  for_each_type(formats{}, []<class F>(std::type_identity<F>) { check_law<F>(1, 1); });
}

TEST_CASE("More effort never makes an IQ block worse", "[.slow]") {
  for_each_type(formats{}, []<class F>(std::type_identity<F>) { check_law<F>(2, 3); });
}

/// The sums of errors of best blocks, relative to the reference encoder's, which gets ones for no
/// importance: ggml's IQ1_S, IQ2_XXS and IQ2_XS demand some.
template <class F>
double relative_error(const std::vector<row>& blocks, const std::vector<row>& importance) {
  double reference = 0;
  double best = 0;
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    const row v = importance.empty() ? row(256, 1.0F) : importance[b];
    reference += error_of(reference_of<F>(blocks[b], v), blocks[b], v);
    const row given = importance.empty() ? row{} : v;
    best += error_of(best_of<F>(blocks[b], given, 1), blocks[b], v);
  }
  return best / reference;
}

TEST_CASE("Best IQ blocks have the lower errors that the documentation states") {
  std::mt19937_64 generator(17);
  std::vector<row> normal;
  std::vector<row> heavy;
  std::vector<row> importance;
  for (int b = 0; b < 24; ++b) {
    normal.push_back(made(generator, gaussian));
    heavy.push_back(made(generator, heavy_tailed));
    importance.push_back(made(generator, log_normal));
  }
  const std::vector<row> model = model_blocks(24);
  for_each_type(formats{}, [&]<class F>(std::type_identity<F>) {
    // 0.94 is what IQ3_XXS measures, the others less; 24 blocks are within 0.01 of 512.
    const double goal = std::string(F::name) == "iq3_xxs" ? 0.96 : 0.94;
    INFO(F::name);
    CHECK(relative_error<F>(normal, {}) < goal);
    CHECK(relative_error<F>(heavy, {}) < 0.9);
    CHECK(relative_error<F>(model, {}) < goal);
    CHECK(relative_error<F>(normal, importance) < 0.9);
    CHECK(relative_error<F>(heavy, importance) < 0.85);
    CHECK(relative_error<F>(model, importance) < 0.9);
  });
}

TEST_CASE("A group of zeros leaves the other groups of an IQ3_S block alone") {
  std::mt19937_64 generator(3);
  row w = made(generator, gaussian);
  std::fill_n(w.begin() + 32, 32, 0.0F);
  double energy = 0;
  for (const float x : w) energy += static_cast<double>(x) * static_cast<double>(x);
  // The reference encoder packs the groups behind the zeros too far to the front.
  CHECK(error_of(reference_of<iq3_s>(w, {}), w, {}) > energy);
  CHECK(error_of(best_of<iq3_s>(w, {}, 1), w, {}) < 0.025 * energy);
}

template <class F>
void check_zero_group() {
  std::mt19937_64 generator(4);
  row w = made(generator, gaussian);
  std::fill_n(w.begin() + 64, 32, 0.0F);
  const auto largest_of_group = [](const row& values) {
    float largest = 0;
    for (std::size_t i = 64; i < 96; ++i) largest = std::max(largest, std::fabs(values[i]));
    return largest;
  };
  const float reference = largest_of_group(decoded(reference_of<F>(w, {})));
  const float best = largest_of_group(decoded(best_of<F>(w, {}, 1)));
  INFO(F::name << ": " << reference << " and " << best);
  CHECK(best > 0);  // 1/8 is the least magnitude of the format
  CHECK(best < 0.25F * reference);
}

TEST_CASE("A group of zeros decodes to the least magnitude that IQ1 has") {
  check_zero_group<iq1_s>();
  check_zero_group<iq1_m>();
}

TEST_CASE("What is not finite is left to the reference encoders") {
  for_each_type(formats{}, []<class F>(std::type_identity<F>) {
    std::mt19937_64 generator(5);
    for (const float strange : {quiet_nan, infinity, -infinity}) {
      row w = made(generator, gaussian);
      row v = made(generator, log_normal);
      w[77] = strange;
      CHECK(bytes_of(best_of<F>(w, v, 3)) == bytes_of(reference_of<F>(w, v)));
      w[77] = 0.01F;
      v[200] = strange;
      CHECK(bytes_of(best_of<F>(w, v, 3)) == bytes_of(reference_of<F>(w, v)));
    }
  });
}

/// Uniform weights whose magnitude varies from group to group, and importance: made without the
/// mathematical functions, in which platforms differ.
struct exact_sample {
  explicit exact_sample(std::uint64_t seed) : w(256), v(256) {
    std::mt19937_64 generator(seed);
    for (std::size_t i = 0; i < 256; ++i) {
      const float size = 0.01F + 0.005F * static_cast<float>((i / 16 + seed) % 5);
      const auto x = static_cast<float>(test_support::uniform(generator) +
                                        test_support::uniform(generator) - 1);
      w[i] = size * x;
      v[i] = static_cast<float>(0.125 + test_support::uniform(generator));
    }
  }
  row w;
  row v;
};

TEST_CASE("Every arch makes the same best IQ blocks") {
  for_each_type(formats{}, []<class F>(std::type_identity<F>) {
    for (std::uint64_t seed = 0; seed < 4; ++seed) {
      const exact_sample s(seed);
      const int effort = seed == 3 ? 2 : 1;
      const float* const v = seed % 2 == 0 ? s.v.data() : nullptr;
      const auto& scalar = encoder_of<F, arch::scalar>();
      const std::string expected = bytes_of(scalar.best(s.w.data(), v, 1, effort));
      test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
        INFO(F::name << ", " << Arch::name);
        CHECK(bytes_of(encoder_of<F, Arch>().best(s.w.data(), v, 1, effort)) == expected);
      });
    }
  });
}

TEST_CASE("Every compiler makes the same best IQ blocks") {
  // What g++ 12 and clang 14 make, with and without -march=native: new ones when the search
  // changes.
  struct {
    std::string name;
    std::uint64_t hash;
  } const hashes[] = {
      {"iq2_xxs", 0x918b5c586b9cf703}, {"iq2_xs", 0xe96ec79926387616},
      {"iq2_s", 0xf4c6556e27b874eb},   {"iq3_xxs", 0xc82eda4373dfc4c4},
      {"iq3_s", 0x2a7f3bfaaa939fef},   {"iq1_s", 0xba57078debdbf665},
      {"iq1_m", 0xc6a23c0c67a0dc51},
  };
  for_each_type(formats{}, [&]<class F>(std::type_identity<F>) {
    std::uint64_t hash = 0xCBF29CE484222325U;
    for (std::uint64_t seed = 10; seed < 18; ++seed) {
      const exact_sample s(seed);
      const F block = best_of<F>(s.w, seed % 2 == 0 ? s.v : row{}, seed == 17 ? 3 : 1);
      for (const char c : bytes_of(block)) {
        hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001B3U;
      }
    }
    const std::string name = F::name;
    INFO(name << " 0x" << std::hex << hash);
    const auto expected = std::find_if(std::begin(hashes), std::end(hashes),
                                       [&](const auto& h) { return h.name == name; });
    REQUIRE(expected != std::end(hashes));
    CHECK(hash == expected->hash);
  });
}

}  // namespace
