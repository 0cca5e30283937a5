// SPDX-License-Identifier: Apache-2.0
/// Every lane of every operation against the scalar operation, on every arch that is compiled in.
#include "subbyte/num/float_lanes.hpp"

#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "subbyte/num/rounding.hpp"
#include "support/archs.hpp"
#include "support/catch.hpp"

using namespace subbyte;

namespace {

constexpr float infinity = std::numeric_limits<float>::infinity();

std::uint32_t bits(float x) { return bit_cast<std::uint32_t>(x); }

/// The same bits, or both NaN: which NaN an operation gives is the CPU's choice.
bool same(float a, float b) { return bits(a) == bits(b) || (std::isnan(a) && std::isnan(b)); }

/// Random bit patterns, ordinary numbers, and every special value.
std::vector<float> operands(std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  std::vector<float> x = {0.0F, -0.0F, 0.5F,   -0.5F,      1.5F,        -1.5F,
                          2.5F, -2.5F, 1e-45F, -1e-45F,    infinity,    -infinity,
                          NAN,  -NAN,  127.5F, 4194303.0F, -4194304.0F, 0.49999997F};
  while (x.size() < 960) {
    x.push_back(x.size() % 2 == 0
                    ? bit_cast<float>(static_cast<std::uint32_t>(generator()))
                    : static_cast<float>(static_cast<int>(generator() % 2001) - 1000) / 8);
  }
  return x;
}

/// Calls f with std::integral_constant lane counts, smaller and larger than a register.
template <class Arch, class F>
void for_each_count(F f) {
  f(std::integral_constant<int, 4>{});
  f(std::integral_constant<int, 8>{});
  f(std::integral_constant<int, 16>{});
  f(std::integral_constant<int, lanes_for<Arch, 19>>{});
}

template <class F>
void for_each_lanes(F f) {
  test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
    for_each_count<Arch>([&]<int N>(std::integral_constant<int, N>) {
      INFO(Arch::name << ", " << N << " lanes");
      f.template operator()<Arch, N>();
    });
  });
}

}  // namespace

TEST_CASE("float_lanes: each operation is the scalar one in every lane", "[num]") {
  for_each_lanes([]<class Arch, int N>() {
    using lanes = float_lanes<Arch, N>;
    const auto a = operands(1);
    const auto b = operands(2);
    const auto check = [&](auto lane_wise, auto scalar) {
      for (std::size_t i = 0; i + N <= a.size(); i += N) {
        float out[N];
        lane_wise(lanes::load(a.data() + i), lanes::load(b.data() + i)).store(out);
        for (std::size_t k = 0; k < N; ++k) {
          INFO(a[i + k] << " and " << b[i + k]);
          REQUIRE(same(out[k], scalar(a[i + k], b[i + k])));
        }
      }
    };
    check([](lanes x, lanes y) { return x + y; }, [](float x, float y) { return x + y; });
    check([](lanes x, lanes y) { return x - y; }, [](float x, float y) { return x - y; });
    check([](lanes x, lanes y) { return x * y; }, [](float x, float y) { return x * y; });
    check([](lanes x, lanes y) { return x / y; }, [](float x, float y) { return x / y; });
    check([](lanes x, lanes y) { return select(x < y, x, y); },
          [](float x, float y) { return x < y ? x : y; });
    check([](lanes x, lanes y) { return select(x > y, x, y); },
          [](float x, float y) { return x > y ? x : y; });
    check([](lanes x, lanes y) { return select(x == y, x, y - x); },
          [](float x, float y) { return x == y ? x : y - x; });
    check([](lanes x, lanes y) { return select(!(x < y), x, y); },
          [](float x, float y) { return !(x < y) ? x : y; });
    check([](lanes x, lanes) { return magnitude(x); }, [](float x, float) { return std::fabs(x); });
    check([](lanes x, lanes) { return limited(x, -3.5F, 100.0F); },
          [](float x, float) { return x > -3.5F ? (x < 100.0F ? x : 100.0F) : -3.5F; });
    check([](lanes x, lanes) { return to_float(trunc_to_int(limited(x, -4e6F, 4e6F))); },
          [](float x, float) {
            return static_cast<float>(trunc_to_int(x > -4e6F ? (x < 4e6F ? x : 4e6F) : -4e6F));
          });
    check([](lanes x, lanes) { return to_float(rint_even(x)); },
          [](float x, float) { return static_cast<float>(rint_even(x)); });
    check([](lanes x, lanes) { return to_float(rint_even(x).clamped(-7, 20)); },
          [](float x, float) { return static_cast<float>(clamp(rint_even(x), -7, 20)); });
    for (const float x : a) {
      float out[N];
      lanes::broadcast(x).store(out);
      for (const float lane : out) REQUIRE(same(lane, x));
    }
  });
}

TEST_CASE("float_lanes: a product that goes through unfused is rounded before the sum", "[num]") {
  for_each_lanes([]<class Arch, int N>() {
    using lanes = float_lanes<Arch, N>;
    // (1 + 2^-12)^2 needs 25 bits: rounded, minus 1 + 2^-11 it is 0, and fused 2^-24.
    volatile float unknown = 1.0F + 0x1p-12F;  // or the compiler does the sum, and without fma
    const lanes x = lanes::broadcast(unknown);
    float out[N];
    (unfused(x * x) - lanes::broadcast(1.0F + 0x1p-11F)).store(out);
    for (const float lane : out) CHECK(lane == 0);
  });
}

TEST_CASE("int_lanes: sums, differences, intersections and low bytes", "[num]") {
  for_each_lanes([]<class Arch, int N>() {
    using ints = int_lanes<Arch, N>;
    std::int32_t a[N];
    std::int32_t b[N];
    for (int i = 0; i < N; ++i) {
      a[i] = 77 * i - 100;
      b[i] = 1000 - 31 * i;
    }
    std::int32_t out[N];
    (ints::load(a) + ints::load(b)).store(out);
    for (int i = 0; i < N; ++i) CHECK(out[i] == a[i] + b[i]);
    (ints::load(a) - ints::load(b)).store(out);
    for (int i = 0; i < N; ++i) CHECK(out[i] == a[i] - b[i]);
    (ints::load(a) & ints::broadcast(60)).store(out);
    for (int i = 0; i < N; ++i) CHECK(out[i] == (a[i] & 60));
    std::uint8_t bytes[N];
    ints::load(a).store_bytes(bytes);
    for (int i = 0; i < N; ++i) CHECK(bytes[i] == static_cast<std::uint8_t>(a[i]));
  });
}

TEST_CASE("lanes_for: whole registers, or exactly what is asked for below one", "[num]") {
  STATIC_REQUIRE(lanes_for<arch::scalar, 19> == 20);
  STATIC_REQUIRE(lanes_for<arch::avx2, 19> == 24);
  STATIC_REQUIRE(lanes_for<arch::avx512, 19> == 32);
  STATIC_REQUIRE(lanes_for<arch::avx512, 8> == 8);
  STATIC_REQUIRE(lanes_for<arch::neon, 16> == 16);
}
