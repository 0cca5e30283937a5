// SPDX-License-Identifier: Apache-2.0
/// ik_llama.cpp's types against bytes and values that it made: equal bit for bit, whatever the
/// compiler, optimisation level and -march. Input: tests/golden/ik, inputs of tests/golden/ggml.
#include <cstring>
#include <fstream>
#include <string>
#include <vector>

#include "subbyte/format/list.hpp"
#include "subbyte/format/shifted_superblock.hpp"
#include "support/catch.hpp"

namespace {

using namespace subbyte;

constexpr int columns = 512;
constexpr int rows = 5;
constexpr int encoded_rows = 3;  // the others are random bytes
using plain_formats = type_list<q6_0, iq2_k, iq3_k, iq4_k, iq5_k, iq6_k>;

template <class T>
std::vector<T> load(const std::string& path) {
  std::ifstream file(std::string(SUBBYTE_GOLDEN_DIR "/") + path, std::ios::binary);
  const std::string bytes{std::istreambuf_iterator<char>(file), {}};
  std::vector<T> values(bytes.size() / sizeof(T));
  if (!values.empty()) std::memcpy(values.data(), bytes.data(), values.size() * sizeof(T));
  return values;
}

/// Values that differ in a bit, NaNs among each other aside.
int differences(const std::vector<float>& a, const std::vector<float>& b) {
  REQUIRE(a.size() == b.size());
  int count = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const bool both_nan = a[i] != a[i] && b[i] != b[i];
    if (!both_nan && bit_cast<std::uint32_t>(a[i]) != bit_cast<std::uint32_t>(b[i])) ++count;
  }
  return count;
}

template <class F>
[[gnu::noinline]] std::vector<float> decoded(const std::vector<F>& blocks) {
  std::vector<float> values(blocks.size() * F::block_size);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    decode(blocks[b], values.data() + b * F::block_size);
  }
  return values;
}

template <class F>
[[gnu::noinline]] std::vector<float> decoded_row(const typename F::row_scale& scale,
                                                 const std::vector<F>& blocks) {
  std::vector<float> values(blocks.size() * F::block_size);
  for (std::size_t b = 0; b < blocks.size(); ++b) {
    F::decode(blocks[b], scale, values.data() + b * F::block_size);
  }
  return values;
}

/// The rows that ik's encoders were given.
std::vector<float> encoder_input(int row) {
  const auto all = load<float>(row < 2 ? "ggml/input/gaussian.f32" : "ggml/input/heavy.f32");
  const auto first = all.begin() + columns * (row % 2);
  return {first, first + columns};
}

/// Row 1 has importance.
std::vector<float> encoder_importance(int row) {
  return row == 1 ? load<float>("ggml/imatrix/im512.f32") : std::vector<float>();
}

double weighted_error(const std::vector<float>& a, const float* b,
                      const std::vector<float>& weight) {
  double sum = 0;
  for (std::size_t i = 0; i < a.size(); ++i) {
    const double difference = static_cast<double>(a[i]) - static_cast<double>(b[i]);
    sum += difference * difference * (weight.empty() ? 1.0 : static_cast<double>(weight[i]));
  }
  return sum;
}

/// A row as this library encodes it.
template <class F>
struct encoded {
  std::vector<F> blocks;
  std::vector<unsigned char> scale;  // of the row, where F has one
  std::vector<float> values;
};

template <class F>
[[gnu::noinline]] encoded<F> encode_plain(const std::vector<float>& w, const float* importance) {
  std::vector<F> blocks(columns / F::block_size);
  const float energy = mean_square<arch::native>(w.data(), columns);
  block_encoder<F, arch::native>()(w.data(), importance, energy,
                                   static_cast<index_t>(blocks.size()), blocks.data());
  return {blocks, {}, decoded(blocks)};
}

template <class F>
[[gnu::noinline]] encoded<F> encode_row(const std::vector<float>& w, const float* importance) {
  std::vector<F> blocks(columns / F::block_size);
  std::vector<group_fit> groups(blocks.size() * F::groups);
  const auto load_block = [&](index_t b, float* x, float* weight) {
    for (index_t i = 0; i < F::block_size; ++i) {
      const auto k = static_cast<std::size_t>(b * F::block_size + i);
      x[i] = w[k];
      weight[i] = importance != nullptr ? importance[k] : 1.0F;
    }
  };
  const auto scale = encode_shifted_row<F, arch::native>(static_cast<index_t>(blocks.size()),
                                                         load_block, groups.data(), blocks.data());
  std::vector<unsigned char> bytes(sizeof(scale));
  std::memcpy(bytes.data(), &scale, sizeof(scale));
  return {blocks, bytes, decoded_row<F>(scale, blocks)};
}

template <class F>
encoded<F> encode_by_us(const std::vector<float>& w, const float* importance) {
  if constexpr (row_scaled_format<F>) {
    return encode_row<F>(w, importance);
  } else {
    return encode_plain<F>(w, importance);
  }
}

std::uint64_t fnv1a64(std::uint64_t hash, const void* data, std::size_t size) {
  const auto* const bytes = static_cast<const unsigned char*>(data);
  for (std::size_t i = 0; i < size; ++i) hash = (hash ^ bytes[i]) * 0x100000001B3U;
  return hash;
}

}  // namespace

TEST_CASE("ik_llama.cpp's plain types decode to its values") {
  for_each_type(plain_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    INFO(F::name);
    const auto blocks = load<F>(std::string("ik/") + F::name + ".bin");
    const auto expected = load<float>(std::string("ik/") + F::name + ".f32");
    REQUIRE(expected.size() == rows * columns);
    CHECK(differences(decoded(blocks), expected) == 0);
  });
}

TEST_CASE("ik_llama.cpp's row-scaled types decode to its values") {
  for_each_type(row_scaled_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    constexpr std::size_t blocks_per_row = columns / F::block_size;
    const auto bytes = load<unsigned char>(std::string("ik/") + F::name + ".bin");
    const auto expected = load<float>(std::string("ik/") + F::name + ".f32");
    constexpr std::size_t row_bytes = sizeof(typename F::row_scale) + blocks_per_row * sizeof(F);
    REQUIRE(bytes.size() == rows * row_bytes);
    REQUIRE(expected.size() == rows * columns);
    for (std::size_t r = 0; r < rows; ++r) {
      INFO(F::name << ", row " << r);
      typename F::row_scale scale;
      std::vector<F> blocks(blocks_per_row);
      std::memcpy(&scale, bytes.data() + r * row_bytes, sizeof(scale));
      std::memcpy(blocks.data(), bytes.data() + r * row_bytes + sizeof(scale),
                  blocks_per_row * sizeof(F));
      const auto first = expected.begin() + static_cast<std::ptrdiff_t>(r * columns);
      CHECK(differences(decoded_row<F>(scale, blocks), {first, first + columns}) == 0);
    }
  });
}

TEST_CASE("q6_0 encodes to the bytes of ik_llama.cpp") {
  const auto importance = load<float>("ggml/imatrix/im512.f32");
  REQUIRE(importance.size() == columns);
  int compared = 0;
  for (const std::string set : {"gaussian", "heavy", "edge", "gaussian.im", "edge.im"}) {
    const bool weighted = set.find(".im") != std::string::npos;
    const auto input = load<float>("ggml/input/" + set.substr(0, set.find('.')) + ".f32");
    const auto expected = load<q6_0>("ik/encode_q6_0." + set + ".bin");
    REQUIRE(expected.size() == input.size() / 32);
    for (std::size_t b = 0; b < expected.size(); ++b) {
      INFO("set " << set << ", block " << b);
      const std::size_t row = b / 16;
      const float energy = mean_square<arch::native>(input.data() + row * columns, columns);
      const q6_0 block = encode<q6_0, arch::native>(
          input.data() + 32 * b, weighted ? importance.data() + b % 16 * 32 : nullptr, energy);
      CHECK(std::memcmp(&block, &expected[b], sizeof(q6_0)) == 0);
      ++compared;
    }
  }
  CHECK(compared == 5 * 256);
}

TEST_CASE("our encoders of ik_llama.cpp's types lose no more than its own do") {
  for_each_type(file_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    if constexpr (contains_v<plain_formats, F> || row_scaled_format<F>) {
      const auto theirs = load<float>(std::string("ik/") + F::name + ".f32");
      REQUIRE(theirs.size() == rows * columns);
      for (int r = 0; r < encoded_rows; ++r) {
        const auto w = encoder_input(r);
        const auto importance = encoder_importance(r);
        const float* const weight = importance.empty() ? nullptr : importance.data();
        const auto ours = encode_by_us<F>(w, weight).values;
        INFO(F::name << ", row " << r);
        CHECK(weighted_error(w, ours.data(), importance) <=
              weighted_error(w, theirs.data() + r * columns, importance));
      }
    }
  });
}

TEST_CASE("our encoders of ik_llama.cpp's types give these bytes with any compiler and flags") {
  struct known {
    const char* name;
    std::uint64_t hash;
  };
  constexpr known hashes[] = {
      {"q6_0", 0xE36F6DC36C52CCBFU},   {"iq2_k", 0xBFCC86E42662A234U},
      {"iq3_k", 0xE7AC2424B79C4B90U},  {"iq4_k", 0x7A83B971E9573BC9U},
      {"iq5_k", 0x336B38B276007B0CU},  {"iq6_k", 0x64B27D87C7B5AD07U},
      {"iq2_ks", 0x9E58133234C6B022U}, {"iq3_ks", 0x632A27FC91CE9D60U},
      {"iq4_ks", 0xFC688D39B86668CFU}, {"iq4_kss", 0x9034A27E5990C6D6U},
      {"iq5_ks", 0xE227C5373ABA5965U},
  };
  for_each_type(file_formats{}, [&](auto format) {
    using F = typename decltype(format)::type;
    if constexpr (contains_v<plain_formats, F> || row_scaled_format<F>) {
      std::uint64_t hash = 0xCBF29CE484222325U;
      for (int r = 0; r < encoded_rows; ++r) {
        const auto importance = encoder_importance(r);
        const auto row =
            encode_by_us<F>(encoder_input(r), importance.empty() ? nullptr : importance.data());
        hash = fnv1a64(hash, row.scale.data(), row.scale.size());
        hash = fnv1a64(hash, row.blocks.data(), row.blocks.size() * sizeof(F));
      }
      bool found = false;
      for (const known& k : hashes) {
        if (std::string(k.name) != F::name) continue;
        found = true;
        INFO(F::name << " gives " << hash);
        CHECK(hash == k.hash);
      }
      CHECK(found);
    }
  });
}
