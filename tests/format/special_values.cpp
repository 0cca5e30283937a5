// SPDX-License-Identifier: Apache-2.0
/// What every format does with zeros, denormals, constants, outliers, overflow, NaN and Inf, as its
/// header states it.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <string>
#include <vector>

#include "subbyte/format/list.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"
#include "support/tested_formats.hpp"

namespace {

using namespace subbyte;

template <class F>
[[gnu::noinline]] F encoded(const std::vector<float>& w, bool weighted) {
  const std::vector<float> ones(w.size(), 1.0F);
  const float energy = mean_square<arch::native>(w.data(), F::block_size);
  static const block_encoder<F, arch::native> encoder;
  F block;
  encoder(w.data(), weighted ? ones.data() : nullptr, energy, 1, &block);
  return block;
}

template <class F>
[[gnu::noinline]] std::vector<float> decoded(const F& block) {
  std::vector<float> values(F::block_size);
  decode(block, values.data());
  return values;
}

template <class F>
std::string bytes_of(const F& block) {
  std::string bytes(sizeof(F), '\0');
  std::memcpy(bytes.data(), &block, sizeof(F));
  return bytes;
}

/// The bytes of an all-zero block.
template <class F>
std::string zero_block(bool weighted) {
  std::string bytes(sizeof(F), '\0');
  const std::string name = F::name;
  if (name == "q4_0" && !weighted) bytes = std::string("\0\x80", 2) + std::string(16, '\x88');
  if (name == "q5_0" && !weighted) {
    bytes = std::string("\0\x80\xFF\xFF\xFF\xFF", 6) + std::string(16, '\0');
  }
  if (name == "iq4_nl") bytes = std::string(2, '\0') + std::string(16, '\x88');
  if (name == "iq4_xs") {
    bytes = std::string("\0\x80\xAA\xAA\0\0\0\0", 8) + std::string(128, '\x88');
  }
  if (name == "q1_0") bytes = std::string(2, '\0') + std::string(16, '\xFF');
  if (name == "q2_0") bytes = std::string(2, '\0') + std::string(16, '\x55');
  if (name == "tq1_0") {
    bytes = std::string(48, '\x80') + std::string(4, '\x7F') + std::string(2, '\0');
  }
  if (name == "iq2_k")
    bytes = std::string(4, '\0') + std::string(8, '\x88') + std::string(64, '\0');
  if (name == "iq4_k" || name == "iq5_k") bytes.replace(4, 4, 4, '\xAA');
  if (name == "tq2_0") bytes = std::string(64, '\x55') + std::string(2, '\0');
  return bytes;
}

/// Calls body(format, weighted) for every format, without and with importance.
template <class Body>
void for_each_encoder(Body&& body) {
  for_each_type(test_support::tested_formats{}, [&](auto format) {
    for (const bool weighted : {false, true}) {
      INFO(decltype(format)::type::name << ", weighted " << weighted);
      body(format, weighted);
    }
  });
}

/// Formats with one fp16 scale whose codes come from the unrounded fp32 scale.
template <class F>
constexpr bool has_one_half_scale = contains_v<
    type_list<q4_0, q4_1, q5_0, q5_1, q8_0, q8_1, iq4_nl, iq4_xs, q1_0, q2_0, tq1_0, tq2_0>, F>;

}  // namespace

TEST_CASE("an all-zero block has the reference's bytes and decodes to zeros") {
  for_each_encoder([](auto format, bool weighted) {
    using F = typename decltype(format)::type;
    const F block = encoded<F>(std::vector<float>(F::block_size, 0.0F), weighted);
    CHECK(bytes_of(block) == zero_block<F>(weighted));
    for (const float v : decoded(block)) CHECK(v == 0);
    for (const float v : decoded(encoded<F>(std::vector<float>(F::block_size, -0.0F), weighted))) {
      CHECK(v == 0);
    }
  });
}

TEST_CASE("q6_k takes a block for zero while every group's scale is below 1e-15") {
  for (const bool weighted : {false, true}) {
    // A group's scale is about its largest weight over 32.
    const std::vector<float> below(256, 2e-14F);
    const std::vector<float> above(256, 5e-14F);
    CHECK(bytes_of(encoded<q6_k>(below, weighted)) == std::string(sizeof(q6_k), '\0'));
    const auto u = q6_k::split(encoded<q6_k>(above, weighted));
    CHECK(u.params.scale.to_float() == 0);
    CHECK(u.params.scales[7] == -128);
  }
}

TEST_CASE("a constant block decodes to one value within an fp16 rounding of the constant") {
  for_each_encoder([](auto format, bool weighted) {
    using F = typename decltype(format)::type;
    if constexpr (table_encodable<F>) return;  // no vector of theirs is constant
    for (const float constant : {1.0F, -0.37F, 3.0F, -1234.5F}) {
      // One fp16 scale times integers, or one fp16 minimum: 2^-11 relative while it is a normal
      // half, that is from about 0.25 on. bfloat16 has 2^-8.
      // mxfp4 has two steps between 4 and 6 and saturates up to 8: a quarter. nvfp4 rounds its
      // scale to 4 significant bits and saturates above 448 * 6.
      const double bound = std::is_same_v<F, mxfp4>   ? 0.25
                           : std::is_same_v<F, nvfp4> ? 0x1p-4
                           : std::is_same_v<F, bf16>  ? 0x1p-8
                                                      : 0x1p-11 + 0x1p-20;
      const std::vector<float> values =
          decoded(encoded<F>(std::vector<float>(F::block_size, constant), weighted));
      INFO(constant << " became " << values[0]);
      CHECK(std::fabs(values[0] - constant) <= bound * std::fabs(constant));
      CHECK(std::count(values.begin(), values.end(), values[0]) == F::block_size);
    }
  });
}

TEST_CASE("a single outlier keeps its value and its neighbours stay near zero") {
  for_each_encoder([](auto format, bool weighted) {
    using F = typename decltype(format)::type;
    if constexpr (grid_format<F>) {
      for (const float outlier : {-5.0F, 5.0F}) {
        std::vector<float> w(F::block_size, 0.0F);
        w[F::block_size / 2 + 3] = outlier;
        const std::vector<float> values = decoded(encoded<F>(w, weighted));
        const double at_outlier = values[F::block_size / 2 + 3];
        INFO(outlier << " became " << at_outlier);
        // 5 is a midpoint of mxfp4's 4 and 6 and goes to 4. The others round a scale to fp16;
        // q3_k and q6_k round it to the grid's end too, one of 4 or 32 steps.
        // nvfp4's scale of 5 / 6 rounds to 13 / 16. The codebooks of iq2_k to iq5_k have no zero:
        // the least squares of one weight at the level -end and fifteen at 1.
        const auto without_zero = [](double end) { return 15 / (end * end + 15) + 0x1p-11; };
        const double bound = std::is_same_v<F, mxfp4>   ? 0.2
                             : std::is_same_v<F, nvfp4> ? 0.026
                             : std::is_same_v<F, q1_0>  ? 1
                             : std::is_same_v<F, iq2_k> ? without_zero(31)
                             : std::is_same_v<F, iq3_k> ? without_zero(63)
                             : std::is_same_v<F, iq4_k> ? without_zero(127)
                             : std::is_same_v<F, iq5_k> ? without_zero(126)
                                                        : 0x1p-10;
        CHECK(std::fabs(at_outlier - outlier) <= bound * 5);
        // Zero is a code, up to the fp16 rounding of a minimum; iq4's nearest level is 1 of 113.
        const bool no_zero =
            contains_v<type_list<iq4_nl, iq4_xs, iq2_k, iq3_k, iq4_k, iq5_k, iq6_k>, F>;
        for (int i = 0; i < F::block_size; ++i) {
          if (i == F::block_size / 2 + 3) continue;
          const double rest = std::fabs(values[static_cast<std::size_t>(i)]);
          // q1_0 has the mean magnitude and no zero.
          const double near_zero = std::is_same_v<F, q1_0>    ? 1.01 / 128
                                   : std::is_same_v<F, iq2_k> ? 1.01 / 31
                                   : std::is_same_v<F, iq3_k> ? 1.01 / 63
                                   : no_zero                  ? 1.01 / 113
                                                              : 0x1p-10;
          if (rest > 5 * near_zero) FAIL("weight " << i << ": " << rest);
        }
      }
    }
  });
}

TEST_CASE("denormal weights decode to finite values of no more than 2^-126") {
  for_each_encoder([](auto format, bool weighted) {
    using F = typename decltype(format)::type;
    std::mt19937_64 generator(6);
    std::vector<float> w(F::block_size);
    for (float& v : w) v = static_cast<float>(1e-39 * (2 * test_support::uniform(generator) - 1));
    for (const float v : decoded(encoded<F>(w, weighted))) {
      if (!(std::fabs(v) <= 0x1p-126F)) FAIL(v);
    }
  });
}

TEST_CASE("a scale above fp16's range is stored as Inf, below it as zero, and the codes stay") {
  for_each_encoder([](auto format, bool weighted) {
    using F = typename decltype(format)::type;
    if constexpr (has_one_half_scale<F>) {
      const std::vector<float> w = test_support::normal_vector(F::block_size, 1, 7);
      std::vector<float> large = w;
      std::vector<float> small = w;
      for (float& v : large) v *= 0x1p30F;
      for (float& v : small) v *= 0x1p-35F;
      const auto u = F::split(encoded<F>(w, weighted));
      const auto u_large = F::split(encoded<F>(large, weighted));
      const auto u_small = F::split(encoded<F>(small, weighted));
      CHECK(std::isinf(u_large.params.scale.to_float()));
      CHECK(u_small.params.scale.to_float() == 0);
      // The searches compare products of sums, which overflow and vanish earlier than the scale.
      if (!weighted && !contains_v<type_list<iq4_nl, iq4_xs>, F>) {
        CHECK(u_large.codes == u.codes);
        CHECK(u_small.codes == u.codes);
      }
      for (const float v : decoded(encoded<F>(large, weighted))) {
        if (std::isfinite(v)) FAIL(v);
      }
      for (const float v : decoded(encoded<F>(small, weighted))) {
        // A minimum may still be an fp16 number where the scale is not.
        if (std::fabs(v) > 4 * 0x1p-35) FAIL(v);
      }
    }
  });
}

TEST_CASE("weights that are not finite, or whose squares overflow, still make a block") {
  for_each_encoder([](auto format, bool weighted) {
    using F = typename decltype(format)::type;
    if constexpr (grid_format<F>) {
      for (const float strange : {std::nanf(""), HUGE_VALF, -HUGE_VALF, 3.4028235e38F, 1e30F}) {
        for (const bool all : {false, true}) {
          std::vector<float> w = test_support::normal_vector(F::block_size, 0.02, 8);
          if (all) std::fill(w.begin(), w.end(), strange);
          w[1] = strange;
          const F block = encoded<F>(w, weighted);
          CHECK(bytes_of(encoded<F>(w, weighted)) == bytes_of(block));
          const auto u = F::split(block);
          CHECK(bytes_of(F::join(u.params, u.codes)) == bytes_of(block));
        }
      }
    }
  });
}

TEST_CASE("q8_0 and q8_1 take a NaN weight as zero, mxfp4 too and Inf as its largest scale") {
  std::vector<float> w(32, 1.0F);
  w[5] = std::nanf("");
  CHECK(decoded(encoded<q8_0>(w, false))[5] == 0);
  CHECK(decoded(encoded<q8_1>(w, false))[5] == 0);
  CHECK(decoded(encoded<mxfp4>(w, false))[5] == 0);
  CHECK(decoded(encoded<mxfp4>(w, false))[6] == 1);
  w[5] = -HUGE_VALF;
  const mxfp4 block = encoded<mxfp4>(w, false);
  CHECK(block.scale.bits == 254);
  CHECK(decoded(block)[5] == -HUGE_VALF);
  CHECK(decoded(block)[6] == 0);
}

TEST_CASE("weights whose squares overflow give iq4_nl a NaN scale and code 15") {
  for (const bool weighted : {false, true}) {
    const auto u = iq4_nl::split(encoded<iq4_nl>(std::vector<float>(32, 1e30F), weighted));
    CHECK(u.params.scale.is_nan());
    for (int i = 0; i < 32; ++i) CHECK(u.codes[i] == 15);
  }
}

TEST_CASE("a NaN scale decodes to NaN everywhere, an Inf scale to nothing finite") {
  for_each_type(all_formats{}, [](auto format) {
    using F = typename decltype(format)::type;
    if constexpr (has_one_half_scale<F>) {
      auto u = F::split(encoded<F>(test_support::normal_vector(F::block_size, 1, 9), false));
      for (const half scale : {half::nearest(std::nanf("")), half::nearest(HUGE_VALF)}) {
        u.params.scale = scale;
        INFO(F::name << ", scale bits " << scale.bits);
        for (const float v : decoded(F::join(u.params, u.codes))) {
          if (scale.is_nan() ? !std::isnan(v) : std::isfinite(v)) FAIL(v);
        }
      }
    }
  });
}

TEST_CASE("q4_1 and q5_1: a range that overflows and one whose inverse does have defined codes") {
  std::vector<float> w(32, 3.4028235e38F);
  for (std::size_t i = 0; i < w.size(); i += 2) w[i] = -w[i];
  const auto u = q4_1::split(encoded<q4_1>(w, false));
  CHECK(std::isinf(u.params.scale.to_float()));
  CHECK(u.params.minimum.to_float() == -HUGE_VALF);
  // (w - min) / Inf: 0 for the small ones, Inf * 0 for the large ones.
  for (int i = 0; i < 32; ++i) CHECK(u.codes[i] == 0);

  std::fill(w.begin(), w.end(), 0.0F);
  w[3] = 1e-44F;
  const auto tiny = q5_1::split(encoded<q5_1>(w, false));
  CHECK(tiny.params.scale.bits == 0);
  CHECK(tiny.codes[3] == 0);  // 1e-44 / 31 is zero in fp32
  w[3] = 1e-40F;
  CHECK(q5_1::split(encoded<q5_1>(w, false)).codes[3] == 31);  // 1e-40 * Inf saturates
  CHECK(q5_1::split(encoded<q5_1>(w, false)).codes[4] == 0);   // 0 * Inf
}
