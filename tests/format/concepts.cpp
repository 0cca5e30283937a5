// SPDX-License-Identifier: Apache-2.0
/// What format/concepts.hpp derives for every format: comparisons, and runs of blocks. The laws are
/// in conformance.cpp.
#include "subbyte/format/concepts.hpp"

#include <cstring>
#include <vector>

#include "subbyte/format/list.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;

template <class F>
bool same_bytes(const F& a, const F& b) {
  return std::memcmp(&a, &b, sizeof(F)) == 0;
}

/// Blocks in one run, of any number, are the blocks one by one; nothing is written behind them.
template <class F>
void check_runs() {
  INFO(F::name);
  constexpr std::size_t most = 19;
  const std::vector<float> w = test_support::normal_vector(most * F::block_size, 0.5, 51);
  std::vector<float> importance;
  std::mt19937_64 generator(52);
  for (std::size_t i = 0; i < w.size(); ++i) {
    importance.push_back(static_cast<float>(0.01 + test_support::uniform(generator)));
  }
  const block_encoder<F, arch::native> encoder;
  for (const bool weighted : {false, true}) {
    const float* const v = weighted ? importance.data() : nullptr;
    for (std::size_t count = 0; count <= most; ++count) {
      std::vector<F> run(most + 1);
      std::memset(static_cast<void*>(run.data()), 0xA5, run.size() * sizeof(F));
      const F untouched = run.back();
      encoder(w.data(), v, 0.25F, static_cast<index_t>(count), run.data());
      for (std::size_t b = 0; b <= most; ++b) {
        INFO("block " << b << " of " << count << ", weighted " << weighted);
        const std::size_t at = b * F::block_size;
        if (b < count) {
          const float* const own = weighted ? v + at : nullptr;
          F one;
          encoder(w.data() + at, own, 0.25F, 1, &one);
          REQUIRE(same_bytes(run[b], one));
        } else {
          REQUIRE(same_bytes(run[b], untouched));
        }
      }
    }
  }
}

/// The lowest of the codes whose values are nearest to v: |v - a| < |v - b| for a < b means
/// 2 v < a + b, and a sum of two values fits a double.
template <class F>
int nearest_of_all(float v, int i, const typename F::params& p, int last) {
  int best = 0;
  for (int code = 1; code <= last; ++code) {
    const double a = static_cast<double>(F::value(best, i, p));
    const double b = static_cast<double>(F::value(code, i, p));
    const double twice = 2.0 * static_cast<double>(v);
    if (b > a ? twice > a + b : (b < a && twice < a + b)) best = code;
  }
  return best;
}

/// nearest_beside finds that code from itself and from both of its neighbours.
template <class F>
void check_guesses(int last) {
  INFO(F::name);
  std::mt19937_64 generator(54);
  for (int draw = 0; draw < 300; ++draw) {
    const std::vector<float> w =
        test_support::normal_vector(F::block_size, 1.0, static_cast<std::uint64_t>(draw));
    const auto p = F::fit(w.data(), nullptr);
    const int i = static_cast<int>(generator() % F::block_size);
    const int code = static_cast<int>(generator() % static_cast<unsigned>(last));
    const float middle = 0.5F * (F::value(code, i, p) + F::value(code + 1, i, p));
    for (const float v : {w[static_cast<std::size_t>(i)], middle, F::value(code, i, p), 100.0F,
                          static_cast<float>(4 * test_support::normal(generator))}) {
      const int expected = nearest_of_all<F>(v, i, p, last);
      for (int guess = expected - 1; guess <= expected + 1; ++guess) {
        if (guess < 0 || guess > last) continue;
        REQUIRE(nearest_beside<F>(guess, v, i, p, last) == expected);
      }
    }
  }
}

}  // namespace

TEST_CASE("nearest_beside finds the nearest code from a guess one beside it") {
  check_guesses<q4_0>(15);
  check_guesses<q4_1>(15);
  check_guesses<q6_k>(63);
  check_guesses<iq4_nl>(15);
}

TEST_CASE("nearest_beside goes to code 0 where all values are equal") {
  const q4_0::params zero{half::from_bits(0)};
  for (int guess = 0; guess < 16; ++guess) {
    CHECK(nearest_beside<q4_0>(guess, 1.0F, 0, zero, 15) == 0);
  }
}

TEST_CASE("code blocks are equal when every code is") {
  code_block<32> a{};
  for (int i = 0; i < 32; ++i) a[i] = static_cast<std::uint8_t>(7 * i);
  code_block<32> b = a;
  CHECK(a == b);
  for (int i = 0; i < 32; ++i) {
    b[i] ^= 1;
    CHECK(!(a == b));
    b[i] ^= 1;
  }
}

TEST_CASE("params are equal exactly when they are stored as the same bytes") {
  for_each_type(all_formats{}, []<class F>(std::type_identity<F>) {
    if constexpr (grid_format<F>) {
      INFO(F::name);
      std::mt19937_64 generator(53);
      unsigned char bytes[sizeof(F)];
      for (unsigned char& byte : bytes) byte = static_cast<unsigned char>(generator());
      F block;
      std::memcpy(&block, bytes, sizeof(F));
      const typename F::codes none{};
      const auto p = F::split(block).params;
      const F stored = F::join(p, none);
      CHECK(p == p);
      int different = 0;
      for (std::size_t bit = 0; bit < 8 * sizeof(F); ++bit) {
        bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ 1U << bit % 8);
        std::memcpy(&block, bytes, sizeof(F));
        const auto other = F::split(block).params;
        const bool same = same_bytes(F::join(other, none), stored);
        INFO("bit " << bit);
        CHECK((other == p) == same);
        different += same ? 0 : 1;
        bytes[bit / 8] = static_cast<unsigned char>(bytes[bit / 8] ^ 1U << bit % 8);
      }
      CHECK(different >= 8);  // the least that holds params is mxfp4, with one byte
    }
  });
}

TEST_CASE("a run of blocks is encoded as its blocks are") {
  check_runs<q4_1>();  // eight blocks of these two share a search
  check_runs<q5_1>();
  check_runs<q4_0>();
  check_runs<f16>();
}
