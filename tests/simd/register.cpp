// SPDX-License-Identifier: Apache-2.0
/// Every operation of reg, for every element type and every arch of this translation unit, against
/// plain loops.
#include "subbyte/simd/register.hpp"

#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "support/archs.hpp"
#include "support/catch.hpp"
#include "support/tally.hpp"

namespace arch = subbyte::arch;
using subbyte::bit_cast;
using subbyte::reg;
using subbyte::type_list;
using test_support::tally;

namespace {

using element_types = type_list<float, std::int8_t, std::uint8_t, std::int16_t, std::uint16_t,
                                std::int32_t, std::uint32_t>;

template <class T>
std::uint32_t bits_of(T value) {
  if constexpr (std::is_same_v<T, float>) {
    return bit_cast<std::uint32_t>(value);
  } else {
    return static_cast<std::uint32_t>(value);
  }
}

// Where the operation makes a NaN, its payload is the machine's own.
std::uint32_t bits_or_nan(float value) {
  return std::isnan(value) ? 0x7FC00000U : bit_cast<std::uint32_t>(value);
}
template <class T>
requires(std::is_integral_v<T>) std::uint32_t bits_or_nan(T value) {
  return static_cast<std::uint32_t>(value);
}

template <class T>
std::vector<T> edge_values() {
  using limits = std::numeric_limits<T>;
  std::vector<T> values = {T(0), T(1), T(2), T(3), T(7), T(100), limits::max(), limits::lowest()};
  if constexpr (std::is_same_v<T, float>) {
    values.insert(values.end(),
                  {-0.0F, -1.0F, 1.5F, -0.75F, 1.0F / 3, limits::min(), 0x1p-149F, -0x1p-149F,
                   0x1.fffffcp-127F, 16777216.0F, 1e30F, -1e-30F, limits::infinity(),
                   -limits::infinity(), limits::quiet_NaN(), bit_cast<float>(0xFFC12345U)});
  } else {
    for (const int x : {-1, -2, 63, 64, 127, 128, 255, 256, 32767, 32768, 65535, 65536}) {
      values.push_back(static_cast<T>(x));
    }
    values.push_back(static_cast<T>(limits::max() - 1));
    values.push_back(static_cast<T>(limits::lowest() + 1));
  }
  return values;
}

/// Every pair of edge values, then random bits, padded to whole registers of any arch.
template <class T>
struct operand_pairs {
  std::vector<T> a;
  std::vector<T> b;

  operand_pairs() {
    for (const T x : edge_values<T>()) {
      for (const T y : edge_values<T>()) add(x, y);
    }
    std::mt19937_64 generator(20240601);
    while (a.size() < 4096) {
      const std::uint64_t draw = generator();
      if constexpr (std::is_same_v<T, float>) {
        add(bit_cast<float>(static_cast<std::uint32_t>(draw)),
            bit_cast<float>(static_cast<std::uint32_t>(draw >> 32)));
      } else {
        add(static_cast<T>(draw), static_cast<T>(draw >> 32));
      }
    }
  }

 private:
  void add(T x, T y) {
    a.push_back(x);
    b.push_back(y);
  }
};

/// Runs body for every enabled arch and every element type, named in the message of a failure.
template <class Body>
void for_each_register(Body body) {
  test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
    subbyte::for_each_type(element_types{}, [&]<class T>(std::type_identity<T>) {
      INFO(Arch::name << ", " << (std::is_same_v<T, float> ? "float" : "integer") << " of "
                      << sizeof(T) << " bytes, " << (T(-1) < T(0) ? "signed" : "unsigned"));
      body.template operator()<reg<T, Arch>>();
    });
  });
}

template <class Reg, class Vector, class Scalar>
std::string binary(Vector vector, Scalar scalar, bool keep_nan_bits = false) {
  using T = typename Reg::value_type;
  static const operand_pairs<T> in;
  tally result;
  for (std::size_t at = 0; at < in.a.size(); at += Reg::size) {
    T found[Reg::size];
    vector(Reg::load(&in.a[at]), Reg::load(&in.b[at])).store(found);
    for (std::size_t i = 0; i < Reg::size; ++i) {
      const T required = scalar(in.a[at + i], in.b[at + i]);
      if (keep_nan_bits) {
        result.compare(at + i, bits_of(found[i]), bits_of(required));
      } else {
        result.compare(at + i, bits_or_nan(found[i]), bits_or_nan(required));
      }
    }
  }
  return result.report();
}

// Unsigned arithmetic wraps; g++ would promote 16-bit operands to a signed product that overflows.
template <class T, class Operation>
T wrapped(T x, T y, Operation operation) {
  if constexpr (std::is_same_v<T, float>) {
    return operation(x, y);
  } else {
    return static_cast<T>(operation(static_cast<std::uint32_t>(x), static_cast<std::uint32_t>(y)));
  }
}

}  // namespace

TEST_CASE("reg: a register holds 64, 32 or 16 bytes, by family", "[simd]") {
  test_support::for_each_enabled_arch([]<class Arch>(std::type_identity<Arch>) {
    constexpr int bytes = std::is_base_of_v<arch::avx512, Arch> ? 64
                          : std::is_base_of_v<arch::avx2, Arch> ? 32
                          : std::is_base_of_v<arch::neon, Arch> ? 16
                                                                : 64;
    CHECK(reg<float, Arch>::size == bytes / 4);
    CHECK(reg<std::int16_t, Arch>::size == bytes / 2);
    CHECK(reg<std::int8_t, Arch>::size == bytes);
    CHECK(sizeof(reg<std::uint8_t, Arch>) == bytes);
    CHECK(std::is_trivially_copyable_v<reg<float, Arch>>);
  });
}

TEST_CASE("reg: load and store move exactly one register at any alignment", "[simd]") {
  for_each_register([]<class Reg>() {
    using T = typename Reg::value_type;
    constexpr int size = Reg::size;
    T from[size + 3];
    for (int i = 0; i < size + 3; ++i) from[i] = static_cast<T>(7 * i + 1);
    for (int shift = 0; shift < 3; ++shift) {
      T to[size + 4];
      for (T& x : to) x = T(99);
      Reg::load(from + shift).store(to + 1 + shift);
      tally result;
      for (int i = 0; i < size + 4; ++i) {
        const bool inside = i > shift && i <= shift + size;
        result.compare(static_cast<std::uint64_t>(i), bits_of(to[i]),
                       bits_of(inside ? from[i - 1] : T(99)));
      }
      CHECK(result.report() == "all equal");
    }
  });
}

TEST_CASE("reg: broadcast keeps the bits of its argument in every lane", "[simd]") {
  for_each_register([]<class Reg>() {
    using T = typename Reg::value_type;
    tally result;
    for (const T value : edge_values<T>()) {
      T found[Reg::size];
      Reg::broadcast(value).store(found);
      for (const T x : found) result.compare(bits_of(value), bits_of(x), bits_of(value));
    }
    CHECK(result.report() == "all equal");
  });
}

TEST_CASE("reg: sum, difference and product round once or wrap", "[simd]") {
  for_each_register([]<class Reg>() {
    using T = typename Reg::value_type;
    CHECK(binary<Reg>([](Reg a, Reg b) { return a + b; },
                      [](T a, T b) {
                        return wrapped(a, b, [](auto x, auto y) { return x + y; });
                      }) == "all equal");
    CHECK(binary<Reg>([](Reg a, Reg b) { return a - b; },
                      [](T a, T b) {
                        return wrapped(a, b, [](auto x, auto y) { return x - y; });
                      }) == "all equal");
    if constexpr (sizeof(T) > 1) {
      CHECK(binary<Reg>([](Reg a, Reg b) { return a * b; },
                        [](T a, T b) {
                          return wrapped(a, b, [](auto x, auto y) { return x * y; });
                        }) == "all equal");
    }
  });
}

TEST_CASE("reg: bitwise and and or", "[simd]") {
  for_each_register([]<class Reg>() {
    using T = typename Reg::value_type;
    if constexpr (std::is_integral_v<T>) {
      CHECK(binary<Reg>([](Reg a, Reg b) { return a & b; },
                        [](T a, T b) { return static_cast<T>(a & b); }) == "all equal");
      CHECK(binary<Reg>([](Reg a, Reg b) { return a | b; },
                        [](T a, T b) { return static_cast<T>(a | b); }) == "all equal");
    }
  });
}

TEST_CASE("reg: min and max give their second operand for NaN and for two zeros", "[simd]") {
  for_each_register([]<class Reg>() {
    using T = typename Reg::value_type;
    CHECK(binary<Reg>([](Reg a, Reg b) { return min(a, b); },
                      [](T a, T b) { return a < b ? a : b; }, true) == "all equal");
    CHECK(binary<Reg>([](Reg a, Reg b) { return max(a, b); },
                      [](T a, T b) { return a > b ? a : b; }, true) == "all equal");
  });
}

TEST_CASE("reg: abs clears the sign bit, also of NaN", "[simd]") {
  test_support::for_each_enabled_arch([]<class Arch>(std::type_identity<Arch>) {
    INFO(Arch::name);
    using Reg = reg<float, Arch>;
    CHECK(binary<Reg>([](Reg a, Reg) { return abs(a); },
                      [](float a, float) { return std::copysign(a, 1.0F); }, true) == "all equal");
  });
}

TEST_CASE("reg: fma rounds once", "[simd]") {
  const operand_pairs<float> in;
  test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
    INFO(Arch::name);
    using Reg = reg<float, Arch>;
    tally result;
    for (std::size_t at = 0; at + 64 < in.a.size(); at += Reg::size) {
      float found[Reg::size];
      fma(Reg::load(&in.a[at]), Reg::load(&in.b[at]), Reg::load(&in.a[at + 37])).store(found);
      for (std::size_t i = 0; i < Reg::size; ++i) {
        result.compare(at + i, bits_or_nan(found[i]),
                       bits_or_nan(std::fma(in.a[at + i], in.b[at + i], in.a[at + i + 37])));
      }
    }
    CHECK(result.report() == "all equal");

    // (1 + e)(1 - e) - 1 is -e^2 fused and 0 otherwise.
    float found[Reg::size];
    fma(Reg::broadcast(1 + 0x1p-20F), Reg::broadcast(1 - 0x1p-20F), Reg::broadcast(-1.0F))
        .store(found);
    CHECK(found[Reg::size - 1] == -0x1p-40F);
  });
}

TEST_CASE("reg: unfused keeps a product from being fused into a later sum", "[simd]") {
  test_support::for_each_enabled_arch([]<class Arch>(std::type_identity<Arch>) {
    INFO(Arch::name);
    using Reg = reg<float, Arch>;
    float found[Reg::size];
    (unfused(Reg::broadcast(1 + 0x1p-20F) * Reg::broadcast(1 - 0x1p-20F)) + Reg::broadcast(-1.0F))
        .store(found);
    for (const float x : found) CHECK(bit_cast<std::uint32_t>(x) == 0U);
  });
}

TEST_CASE("reg: to_float rounds to nearest even", "[simd]") {
  const operand_pairs<std::int32_t> in;
  test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
    INFO(Arch::name);
    using Reg = reg<std::int32_t, Arch>;
    tally result;
    for (std::size_t at = 0; at < in.a.size(); at += Reg::size) {
      float found[Reg::size];
      to_float(Reg::load(&in.a[at])).store(found);
      for (std::size_t i = 0; i < Reg::size; ++i) {
        // An int is exact in double, so there is one rounding.
        const auto required = static_cast<float>(static_cast<double>(in.a[at + i]));
        result.compare(at + i, bits_of(found[i]), bits_of(required));
      }
    }
    CHECK(result.report() == "all equal");
  });
}

TEST_CASE("reg: bit_cast between element types keeps the bytes", "[simd]") {
  test_support::for_each_enabled_arch([]<class Arch>(std::type_identity<Arch>) {
    std::uint8_t bytes[64];
    for (int i = 0; i < 64; ++i) bytes[i] = static_cast<std::uint8_t>(251 * i + 3);
    const auto packed = reg<std::uint8_t, Arch>::load(bytes);
    std::int8_t found[64];
    bit_cast<reg<std::int8_t, Arch>>(packed).store(found);
    CHECK(std::memcmp(found, bytes, reg<std::uint8_t, Arch>::size) == 0);
  });
}
