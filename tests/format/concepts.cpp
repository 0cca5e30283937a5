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
  for (const bool weighted : {false, true}) {
    const float* const v = weighted ? importance.data() : nullptr;
    for (std::size_t count = 0; count <= most; ++count) {
      std::vector<F> run(most + 1);
      std::memset(static_cast<void*>(run.data()), 0xA5, run.size() * sizeof(F));
      const F untouched = run.back();
      encode_blocks<F, arch::native>(w.data(), v, 0.25F, static_cast<index_t>(count), run.data());
      for (std::size_t b = 0; b <= most; ++b) {
        INFO("block " << b << " of " << count << ", weighted " << weighted);
        const std::size_t at = b * F::block_size;
        if (b < count) {
          const float* const own = weighted ? v + at : nullptr;
          REQUIRE(same_bytes(run[b], encode<F, arch::native>(w.data() + at, own, 0.25F)));
        } else {
          REQUIRE(same_bytes(run[b], untouched));
        }
      }
    }
  }
}

}  // namespace

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
