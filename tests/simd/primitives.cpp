// SPDX-License-Identifier: Apache-2.0
/// Every primitive on every arch of this translation unit, and its specification on that arch's
/// registers, against plain loops: equal bits.
#include "subbyte/simd/primitives.hpp"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <type_traits>
#include <vector>

#include "support/all_binary32.hpp"
#include "support/archs.hpp"
#include "support/catch.hpp"
#include "support/tally.hpp"

namespace arch = subbyte::arch;
namespace detail = subbyte::detail;
using subbyte::bfloat16;
using subbyte::bit_cast;
using subbyte::half;
using subbyte::reg;
using test_support::tally;

namespace {

template <class Arch>
using bytes_of = reg<std::uint8_t, Arch>;
template <class Arch>
using signed_bytes_of = reg<std::int8_t, Arch>;
template <class Arch>
using floats_of = reg<float, Arch>;
template <class Arch>
using ints_of = reg<std::int32_t, Arch>;

/// Runs body<Arch>() for every enabled arch, with its name in the message of a failure.
template <class Body>
void for_each_arch(Body body) {
  test_support::for_each_enabled_arch([&]<class Arch>(std::type_identity<Arch>) {
    INFO(Arch::name);
    body.template operator()<Arch>();
  });
}

template <class Found, class Required>
void compare_all(tally& result, std::uint64_t where, const Found* found, const Required* required,
                 int count) {
  for (int i = 0; i < count; ++i) {
    result.compare(where + static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(found[i]),
                   static_cast<std::uint64_t>(required[i]));
  }
}

std::uint32_t bits_of(float x) { return bit_cast<std::uint32_t>(x); }
float float_of(std::uint32_t bits) { return bit_cast<float>(bits); }

std::uint32_t bits_or_nan(float x) { return std::isnan(x) ? 0x7FC00000U : bits_of(x); }

/// Pads with zeros to whole registers of any arch.
template <class T>
void pad(std::vector<T>& values) {
  while (values.size() % 64 != 0) values.push_back(T{});
}

/// Floats on and next to every rounding boundary of a 16-bit float type, NaNs, and random bits.
template <class Narrow>
std::vector<float> rounding_cases() {
  std::vector<float> values;
  const auto value = [](std::uint32_t code) {
    return static_cast<double>(Narrow::from_bits(static_cast<std::uint16_t>(code)).to_float());
  };
  for (std::uint32_t code = 0; code < 0x10000U; ++code) {
    if (!std::isfinite(value(code))) continue;
    // Infinity begins where the value after the largest finite one would be.
    const double next =
        std::isfinite(value(code + 1)) ? value(code + 1) : 2 * value(code) - value(code - 1);
    const std::uint32_t tie = bits_of(static_cast<float>((value(code) + next) / 2));
    values.insert(values.end(), {static_cast<float>(value(code)), float_of(tie - 1), float_of(tie),
                                 float_of(tie + 1)});
  }
  for (const std::uint32_t sign : {0U, 0x80000000U}) {
    for (const std::uint32_t bits :
         {0x7F800000U, 0x7F800001U, 0x7F801FFFU, 0x7F802000U, 0x7FA00000U, 0x7FBFFFFFU, 0x7FC00000U,
          0x7FC00001U, 0x7FD23456U, 0x7FFFFFFFU, 0x00000000U, 0x00000001U, 0x007FFFFFU, 0x00800000U,
          0x7F7FFFFFU, 0x7F7F8000U, 0x33000000U, 0x33000001U}) {
      values.push_back(float_of(sign | bits));
    }
  }
  std::mt19937_64 generator(7);
  for (int i = 0; i < 1 << 16; ++i) {
    values.push_back(float_of(static_cast<std::uint32_t>(generator())));
  }
  pad(values);
  return values;
}

/// f32_to_f16 as a formula: the library's rounding, and NaN as the hardware narrows it.
std::uint16_t half_bits(float x) {
  if (!std::isnan(x)) return half::nearest(x).bits;
  const std::uint32_t bits = bits_of(x);
  return static_cast<std::uint16_t>(((bits >> 16) & 0x8000U) | 0x7C00U | 0x0200U |
                                    ((bits & 0x7FFFFFU) >> 13));
}

/// round_to_i8 by the C library.
std::int8_t rounded_i8(float x, float inverse) {
  const volatile float product = x * inverse;
  const float value = product;
  if (std::isnan(value)) return 127;
  return static_cast<std::int8_t>(std::clamp(std::nearbyint(value), -128.0F, 127.0F));
}

}  // namespace

TEST_CASE("unpack_nibbles: every byte in every lane", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int size = bytes_of<Arch>::size;
    const auto check = [&](auto unpack) {
      tally result;
      for (int first = 0; first < 256; ++first) {
        std::uint8_t in[size];
        int low[size];
        int high[size];
        for (int i = 0; i < size; ++i) {
          in[i] = static_cast<std::uint8_t>(first + i);
          low[i] = in[i] % 16;
          high[i] = in[i] / 16;
        }
        const subbyte::nibbles<Arch> out = unpack(bytes_of<Arch>::load(in));
        std::uint8_t found[size];
        out.low.store(found);
        compare_all(result, 0, found, low, size);
        out.high.store(found);
        compare_all(result, 0x100, found, high, size);
      }
      CHECK(result.report() == "all equal");
    };
    check([](auto x) { return subbyte::unpack_nibbles(x); });
    check([](auto x) { return detail::unpack_nibbles(arch::scalar{}, x); });
  });
}

TEST_CASE("unpack_2bit: every byte in every lane", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int size = bytes_of<Arch>::size;
    const auto check = [&](auto unpack) {
      tally result;
      for (int first = 0; first < 256; ++first) {
        std::uint8_t in[size];
        for (int i = 0; i < size; ++i) in[i] = static_cast<std::uint8_t>(first + i);
        const subbyte::two_bit_codes<Arch> out = unpack(bytes_of<Arch>::load(in));
        for (int j = 0, unit = 1; j < 4; ++j, unit *= 4) {
          std::uint8_t found[size];
          out.part[j].store(found);
          for (int i = 0; i < size; ++i) {
            result.compare(static_cast<std::uint64_t>(j), found[i],
                           static_cast<std::uint64_t>(in[i] / unit % 4));
          }
        }
      }
      CHECK(result.report() == "all equal");
    };
    check([](auto x) { return subbyte::unpack_2bit(x); });
    check([](auto x) { return detail::unpack_2bit(arch::scalar{}, x); });
  });
}

TEST_CASE("expand_bits: every 16-bit mask at every byte, with bits above the register set",
          "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int size = bytes_of<Arch>::size;
    const auto check = [&](auto expand) {
      tally result;
      for (int shift = 0; shift < size; shift += 16) {
        for (std::uint64_t mask = 0; mask < 0x10000U; ++mask) {
          const std::uint64_t bits =
              (mask << shift) | (size < 64 ? ~std::uint64_t{0} << (size % 64) : 0);
          std::uint8_t found[size];
          expand(bits).store(found);
          std::uint64_t again = 0;
          bool only_masks = true;
          for (int i = 0; i < size; ++i) {
            only_masks = only_masks && (found[i] == 0 || found[i] == 0xFF);
            again |= static_cast<std::uint64_t>(found[i] & 1) << i;
          }
          result.compare(bits, again, mask << shift);
          result.compare(bits, only_masks ? 1 : 0, 1);
        }
      }
      CHECK(result.report() == "all equal");
    };
    check([](std::uint64_t bits) { return subbyte::expand_bits<Arch>(bits); });
    check([](std::uint64_t bits) { return detail::expand_bits<Arch>(arch::scalar{}, bits); });
  });
}

TEST_CASE("broadcast_16_bytes: the same 16 bytes in every 128-bit lane", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int size = bytes_of<Arch>::size;
    std::int8_t table[17];
    for (int i = 0; i < 17; ++i) table[i] = static_cast<std::int8_t>(17 * i - 128);
    const auto check = [&](auto broadcast) {
      std::int8_t found[size];
      broadcast(table + 1).store(found);
      tally result;
      for (int i = 0; i < size; ++i) {
        result.compare(static_cast<std::uint64_t>(i), static_cast<std::uint64_t>(found[i]),
                       static_cast<std::uint64_t>(table[1 + i % 16]));
      }
      CHECK(result.report() == "all equal");
    };
    check([](const std::int8_t* p) { return subbyte::broadcast_16_bytes<Arch>(p); });
    check([](const std::int8_t* p) { return detail::broadcast_16_bytes<Arch>(arch::scalar{}, p); });
  });
}

TEST_CASE("lut16: every index in every lane, each 128-bit lane with its own table", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int size = bytes_of<Arch>::size;
    const auto check = [&](auto lookup, auto element) {
      using T = decltype(element);
      T table[size];
      for (int i = 0; i < size; ++i) table[i] = static_cast<T>(197 * i + 5);
      tally result;
      for (int rotation = 0; rotation < 16; ++rotation) {
        std::uint8_t index[size];
        T required[size];
        for (int i = 0; i < size; ++i) {
          index[i] = static_cast<std::uint8_t>((3 * i + rotation) % 16);
          required[i] = table[i - i % 16 + index[i]];
        }
        T found[size];
        lookup(reg<T, Arch>::load(table), bytes_of<Arch>::load(index)).store(found);
        compare_all(result, static_cast<std::uint64_t>(256 * rotation), found, required, size);
      }
      CHECK(result.report() == "all equal");
    };
    const auto entry = [](auto table, auto index) { return subbyte::lut16(table, index); };
    const auto specification = [](auto table, auto index) {
      return detail::lut16(arch::scalar{}, table, index);
    };
    check(entry, std::int8_t{});
    check(entry, std::uint8_t{});
    check(specification, std::int8_t{});
    check(specification, std::uint8_t{});
  });
}

namespace {

/// All pairs (a, b) with a from `low_a` on, four equal and four mixed products per lane, and an
/// accumulator that wraps.
template <class Arch, class A, class Dot>
std::string check_dot4(Dot dot, int low_a, int high_a) {
  constexpr int lanes = ints_of<Arch>::size;
  std::vector<A> a;
  std::vector<std::int8_t> b;
  const auto add = [&](int x, int y) {
    a.push_back(static_cast<A>(x));
    b.push_back(static_cast<std::int8_t>(y));
  };
  for (int x = low_a; x <= high_a; ++x) {
    for (int y = -128; y <= 127; ++y) {
      for (int j = 0; j < 4; ++j) add(x, y);
    }
  }
  // Lanes from the extremes only, every combination of the four.
  const int left[] = {low_a, high_a, 0, 1};
  const int right[] = {-128, 127, -1, -127};
  for (int choice = 0; choice < 1 << 16; choice += 7) {
    for (int j = 0; j < 4; ++j) {
      add(left[(choice >> (4 * j)) & 3], right[(choice >> (4 * j + 2)) & 3]);
    }
  }
  std::mt19937_64 generator(11);
  for (int i = 0; i < 1 << 14; ++i) {
    const std::uint64_t draw = generator();
    add(low_a + static_cast<int>(draw % static_cast<std::uint64_t>(high_a - low_a + 1)),
        static_cast<int>((draw >> 32) % 256) - 128);
  }
  pad(a);
  pad(b);

  tally result;
  for (std::size_t at = 0; at < a.size(); at += 4 * lanes) {
    std::int32_t acc[lanes];
    std::int32_t found[lanes];
    for (int i = 0; i < lanes; ++i) {
      const std::int32_t start[] = {0, -5, std::numeric_limits<std::int32_t>::max(),
                                    std::numeric_limits<std::int32_t>::min(), 123456789};
      acc[i] = start[(at / 64 + static_cast<std::size_t>(i)) % 5];
    }
    dot(ints_of<Arch>::load(acc), reg<A, Arch>::load(&a[at]), signed_bytes_of<Arch>::load(&b[at]))
        .store(found);
    for (std::size_t i = 0; i < lanes; ++i) {
      std::int64_t required = acc[i];
      for (std::size_t j = at + 4 * i; j < at + 4 * i + 4; ++j) {
        required += std::int64_t{a[j]} * std::int64_t{b[j]};
      }
      result.compare(at + 4 * i, static_cast<std::uint32_t>(found[i]),
                     static_cast<std::uint32_t>(required));
    }
  }
  return result.report();
}

}  // namespace

TEST_CASE("dot4_u7i8: every product, saturation limits and a wrapping accumulator", "[simd]") {
  for_each_arch([]<class Arch>() {
    CHECK(check_dot4<Arch, std::uint8_t>(
              [](auto acc, auto a, auto b) { return subbyte::dot4_u7i8(acc, a, b); }, 0, 127) ==
          "all equal");
    CHECK(check_dot4<Arch, std::uint8_t>(
              [](auto acc, auto a, auto b) { return detail::dot4_u7i8(arch::scalar{}, acc, a, b); },
              0, 127) == "all equal");
  });
}

TEST_CASE("dot4_i8i8: every product, -128 times -128 included", "[simd]") {
  for_each_arch([]<class Arch>() {
    CHECK(check_dot4<Arch, std::int8_t>(
              [](auto acc, auto a, auto b) { return subbyte::dot4_i8i8(acc, a, b); }, -128, 127) ==
          "all equal");
    CHECK(check_dot4<Arch, std::int8_t>(
              [](auto acc, auto a, auto b) { return detail::dot4_i8i8(arch::scalar{}, acc, a, b); },
              -128, 127) == "all equal");
  });
}

TEST_CASE("f16_to_f32: all halves; NaN becomes quiet and keeps its payload", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int lanes = floats_of<Arch>::size;
    const auto check = [&](auto widen) {
      tally result;
      for (std::uint32_t first = 0; first < 0x10000U; first += lanes) {
        half in[lanes];
        for (std::uint32_t i = 0; i < lanes; ++i) {
          in[i] = half::from_bits(static_cast<std::uint16_t>(first + i));
        }
        float found[lanes];
        widen(in).store(found);
        for (std::uint32_t i = 0; i < lanes; ++i) {
          const std::uint32_t code = first + i;
          const std::uint32_t payload = code & 0x3FFU;
          const bool is_nan = (code & 0x7C00U) == 0x7C00U && payload != 0;
          const std::uint32_t required = is_nan
                                             ? (code & 0x8000U) << 16 | 0x7FC00000U | payload << 13
                                             : bits_of(in[i].to_float());
          result.compare(code, bits_of(found[i]), required);
        }
      }
      CHECK(result.report() == "all equal");
    };
    check([](const half* p) { return subbyte::f16_to_f32<Arch>(p); });
    check([](const half* p) { return detail::f16_to_f32<Arch>(arch::scalar{}, p); });
  });
}

TEST_CASE("bf16_to_f32: all codes move up by 16 bits", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int lanes = floats_of<Arch>::size;
    const auto check = [&](auto widen) {
      tally result;
      for (std::uint32_t first = 0; first < 0x10000U; first += lanes) {
        bfloat16 in[lanes];
        for (std::uint32_t i = 0; i < lanes; ++i) {
          in[i] = bfloat16::from_bits(static_cast<std::uint16_t>(first + i));
        }
        float found[lanes];
        widen(in).store(found);
        for (std::uint32_t i = 0; i < lanes; ++i) {
          result.compare(first + i, bits_of(found[i]), (first + i) << 16);
        }
      }
      CHECK(result.report() == "all equal");
    };
    check([](const bfloat16* p) { return subbyte::bf16_to_f32<Arch>(p); });
    check([](const bfloat16* p) { return detail::bf16_to_f32<Arch>(arch::scalar{}, p); });
  });
}

TEST_CASE("f32_to_f16: ties, neighbours of ties, overflow, subnormals, NaN payloads", "[simd]") {
  const std::vector<float> in = rounding_cases<half>();
  for_each_arch([&]<class Arch>() {
    constexpr int lanes = floats_of<Arch>::size;
    const auto check = [&](auto narrow) {
      tally result;
      for (std::size_t at = 0; at < in.size(); at += lanes) {
        half found[lanes];
        narrow(floats_of<Arch>::load(&in[at]), found);
        for (std::size_t i = 0; i < lanes; ++i) {
          result.compare(bits_of(in[at + i]), found[i].bits, half_bits(in[at + i]));
        }
      }
      CHECK(result.report() == "all equal");
    };
    check([](auto x, half* out) { subbyte::f32_to_f16(x, out); });
    check([](auto x, half* out) { detail::f32_to_f16(arch::scalar{}, x, out); });
  });
}

TEST_CASE("f32_to_bf16: ties, neighbours of ties, overflow, subnormals, NaN", "[simd]") {
  const std::vector<float> in = rounding_cases<bfloat16>();
  for_each_arch([&]<class Arch>() {
    constexpr int lanes = floats_of<Arch>::size;
    const auto check = [&](auto narrow) {
      tally result;
      for (std::size_t at = 0; at < in.size(); at += lanes) {
        bfloat16 found[lanes];
        narrow(floats_of<Arch>::load(&in[at]), found);
        for (std::size_t i = 0; i < lanes; ++i) {
          result.compare(bits_of(in[at + i]), found[i].bits, bfloat16::nearest(in[at + i]).bits);
        }
      }
      CHECK(result.report() == "all equal");
    };
    check([](auto x, bfloat16* out) { subbyte::f32_to_bf16(x, out); });
    check([](auto x, bfloat16* out) { detail::f32_to_bf16(arch::scalar{}, x, out); });
  });
}

TEST_CASE("f32_to_f16 and f32_to_bf16: all binary32 values on every arch", "[simd][.slow]") {
  for_each_arch([]<class Arch>() {
    constexpr std::uint32_t lanes = floats_of<Arch>::size;
    CHECK(test_support::over_all_binary32([&](tally& result, std::uint32_t bits) {
            if (bits % lanes != 0) return;
            float in[lanes];
            for (std::uint32_t i = 0; i < lanes; ++i) in[i] = float_of(bits + i);
            half as_half[lanes];
            bfloat16 as_bfloat16[lanes];
            subbyte::f32_to_f16(floats_of<Arch>::load(in), as_half);
            subbyte::f32_to_bf16(floats_of<Arch>::load(in), as_bfloat16);
            for (std::uint32_t i = 0; i < lanes; ++i) {
              result.compare(bits + i, as_half[i].bits, half_bits(in[i]));
              result.compare(bits + i, as_bfloat16[i].bits, bfloat16::nearest(in[i]).bits);
            }
          }) == "all equal");
  });
}

namespace {

/// bfloat16 operands and accumulators whose products and sums stay normal or zero.
struct dot2_operands {
  std::vector<std::uint16_t> a;
  std::vector<std::uint16_t> b;
  std::vector<float> acc;

  explicit dot2_operands(bool with_subnormals) {
    std::mt19937_64 generator(13);
    for (int i = 0; i < 1 << 14; ++i) {
      a.push_back(operand(generator(), with_subnormals));
      b.push_back(operand(generator(), with_subnormals));
    }
    for (int i = 0; i < 1 << 13; ++i) {
      const auto draw = static_cast<std::uint32_t>(generator());
      // Magnitudes around those of the products, so that every rounding and cancellation occurs.
      const std::uint32_t exponent =
          with_subnormals ? draw >> 23 & 0x3FU : 100U + (draw >> 23) % 60;
      acc.push_back(float_of((draw & 0x807FFFFFU) | exponent << 23));
    }
  }

 private:
  static std::uint16_t operand(std::uint64_t draw, bool with_subnormals) {
    const auto sign_and_mantissa = static_cast<std::uint32_t>(draw & 0x807FU);
    const auto choice = static_cast<std::uint32_t>(draw >> 32);
    if (choice % 64 == 0) return static_cast<std::uint16_t>(draw & 0x8000U);
    const std::uint32_t exponent = with_subnormals ? choice % 127 : 112U + choice % 30;
    return static_cast<std::uint16_t>(sign_and_mantissa | exponent << 7);
  }
};

template <class Arch, class Dot>
std::string check_dot2(const dot2_operands& in, Dot dot) {
  constexpr std::size_t lanes = floats_of<Arch>::size;
  tally result;
  for (std::size_t at = 0; at < in.acc.size(); at += lanes) {
    float found[lanes];
    dot(floats_of<Arch>::load(&in.acc[at]), reg<std::uint16_t, Arch>::load(&in.a[2 * at]),
        reg<std::uint16_t, Arch>::load(&in.b[2 * at]))
        .store(found);
    for (std::size_t i = 0; i < lanes; ++i) {
      const auto value = [](std::uint16_t bits) { return bfloat16::from_bits(bits).to_float(); };
      const std::size_t even = 2 * (at + i);
      const float odd_added =
          std::fma(value(in.a[even + 1]), value(in.b[even + 1]), in.acc[at + i]);
      const float required = std::fma(value(in.a[even]), value(in.b[even]), odd_added);
      result.compare(at + i, bits_or_nan(found[i]), bits_or_nan(required));
    }
  }
  return result.report();
}

}  // namespace

TEST_CASE("dot2_bf16: two fused steps, the odd element first", "[simd]") {
  const dot2_operands normal(false);
  const dot2_operands subnormal(true);
  for_each_arch([&]<class Arch>() {
    const auto entry = [](auto acc, auto a, auto b) { return subbyte::dot2_bf16(acc, a, b); };
    const auto specification = [](auto acc, auto a, auto b) {
      return detail::dot2_bf16(arch::scalar{}, acc, a, b);
    };
    CHECK(check_dot2<Arch>(normal, entry) == "all equal");
    CHECK(check_dot2<Arch>(normal, specification) == "all equal");
    CHECK(check_dot2<Arch>(subnormal, specification) == "all equal");
    if constexpr (!std::is_base_of_v<arch::avx512_bf16, Arch>) {
      CHECK(check_dot2<Arch>(subnormal, entry) == "all equal");
    }
  });
}

TEST_CASE("dot2_bf16: the bfloat16 instruction takes subnormals as zero", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr std::size_t lanes = floats_of<Arch>::size;
    const auto product = [&](std::uint16_t a, std::uint16_t b) {
      const std::uint16_t zero = 0;
      std::vector<std::uint16_t> left(2 * lanes, zero);
      std::vector<std::uint16_t> right(2 * lanes, zero);
      left[0] = a;
      right[0] = b;
      float found[lanes];
      subbyte::dot2_bf16(floats_of<Arch>::broadcast(0.0F),
                         reg<std::uint16_t, Arch>::load(left.data()),
                         reg<std::uint16_t, Arch>::load(right.data()))
          .store(found);
      return found[0];
    };
    const bool flushes = std::is_base_of_v<arch::avx512_bf16, Arch>;
    CHECK(product(0x0001, 0x4B00) == (flushes ? 0.0F : 0x1p-110F));  // 2^-133 * 2^23
    CHECK(product(0x0080, 0x3F00) == (flushes ? 0.0F : 0x1p-127F));  // 2^-126 * 2^-1
    CHECK(product(0x0080, 0x3F80) == 0x1p-126F);
  });
}

TEST_CASE("i8_to_f32: every byte from memory and from each quarter of a register", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int lanes = floats_of<Arch>::size;
    const auto check = [&](auto widen, int start) {
      tally result;
      for (int first = 0; first < 256; ++first) {
        std::int8_t in[4 * lanes];
        for (int i = 0; i < 4 * lanes; ++i) in[i] = static_cast<std::int8_t>(first + i);
        float found[lanes];
        widen(in).store(found);
        for (int i = 0; i < lanes; ++i) {
          const auto required = static_cast<float>(static_cast<int>(in[start + i]));
          result.compare(static_cast<std::uint64_t>(first), bits_of(found[i]), bits_of(required));
        }
      }
      CHECK(result.report() == "all equal");
    };
    using bytes = signed_bytes_of<Arch>;
    check([](const std::int8_t* p) { return subbyte::i8_to_f32<Arch>(p); }, 0);
    check([](const std::int8_t* p) { return detail::i8_to_f32<Arch>(arch::scalar{}, p); }, 0);
    const auto check_quarter = [&]<int Quarter>(std::integral_constant<int, Quarter>) {
      check([](const std::int8_t* p) { return subbyte::i8_to_f32<Quarter>(bytes::load(p)); },
            Quarter * lanes);
      check(
          [](const std::int8_t* p) {
            return detail::i8_quarter_to_f32<Quarter>(arch::scalar{}, bytes::load(p));
          },
          Quarter * lanes);
    };
    check_quarter(std::integral_constant<int, 0>{});
    check_quarter(std::integral_constant<int, 1>{});
    check_quarter(std::integral_constant<int, 2>{});
    check_quarter(std::integral_constant<int, 3>{});
  });
}

TEST_CASE("stream: the lanes arrive, and nothing beside them", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int lanes = floats_of<Arch>::size;
    alignas(64) float out[3 * lanes] = {};
    float in[lanes];
    for (int i = 0; i < lanes; ++i) in[i] = static_cast<float>(i + 1);
    subbyte::stream(floats_of<Arch>::load(in), out + lanes);
    subbyte::stream_fence<Arch>();
    for (int i = 0; i < 3 * lanes; ++i) {
      CHECK(out[i] == (i / lanes == 1 ? static_cast<float>(i - lanes + 1) : 0.0F));
    }
  });
}

TEST_CASE("abs_max: the larger magnitude; NaN in x leaves the accumulator", "[simd]") {
  const float inf = std::numeric_limits<float>::infinity();
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const std::vector<float> x = {0.0F, -0.0F, 1.0F, -1.0F, -3.5F,   2.0F,     0x1p-149F, -0x1p-149F,
                                nan,  -nan,  inf,  -inf,  3.4e38F, -3.4e38F, -1e-30F,   0.5F};
  const std::vector<float> acc = {0.0F, 0.0F, 0.5F, 0.5F, 3.0F, 2.5F, 0.0F, 0.0F,
                                  1.0F, 0.0F, 3.0F, 3.0F, 1.0F, inf,  0.0F, 0.5F};
  for_each_arch([&]<class Arch>() {
    constexpr std::size_t lanes = floats_of<Arch>::size;
    const auto check = [&](auto running) {
      tally result;
      for (std::size_t at = 0; at < x.size(); at += lanes) {
        float found[lanes];
        running(floats_of<Arch>::load(&acc[at]), floats_of<Arch>::load(&x[at])).store(found);
        for (std::size_t i = 0; i < lanes; ++i) {
          const float magnitude = std::fabs(x[at + i]);
          const float required = magnitude > acc[at + i] ? magnitude : acc[at + i];
          result.compare(at + i, bits_of(found[i]), bits_of(required));
        }
      }
      CHECK(result.report() == "all equal");
    };
    check([](auto m, auto v) { return subbyte::abs_max(m, v); });
    check([](auto m, auto v) { return detail::abs_max(arch::scalar{}, m, v); });
  });
}

TEST_CASE("round_to_i8: ties to even, saturation at any distance, NaN", "[simd]") {
  std::vector<float> x;
  std::vector<float> inverse;
  const auto add = [&](float value, float factor) {
    x.push_back(value);
    inverse.push_back(factor);
  };
  for (int twice = -600; twice <= 600; ++twice) {
    const float value = 0.5F * static_cast<float>(twice);
    for (const float near : {value, std::nextafter(value, 1e9F), std::nextafter(value, -1e9F)}) {
      add(near, 1.0F);
      add(near, 0.5F);
      add(-0.25F * near, 4.0F);
    }
  }
  const float inf = std::numeric_limits<float>::infinity();
  for (const float value : {0.0F, -0.0F, 32767.5F, 32768.0F, -32768.5F, 8388609.0F, 2147483520.0F,
                            2147483648.0F, -2147483648.0F, 4.3e9F, -4.3e9F, 3.4e38F, -3.4e38F, inf,
                            -inf, std::numeric_limits<float>::quiet_NaN(), 0x1p-149F, -0x1p-149F}) {
    for (const float factor : {1.0F, -1.0F, 1e30F, 1e-30F, 0.0F}) add(value, factor);
  }
  std::mt19937_64 generator(17);
  for (int i = 0; i < 1 << 15; ++i) {
    const std::uint64_t draw = generator();
    const auto signed_draw = static_cast<float>(static_cast<std::int32_t>(draw));
    add(signed_draw * 0x1p-31F, 127.0F + static_cast<float>(draw >> 40) * 0x1p-20F);
  }
  pad(x);
  pad(inverse);
  for_each_arch([&]<class Arch>() {
    constexpr std::size_t lanes = floats_of<Arch>::size;
    const auto check = [&](auto round) {
      tally result;
      for (std::size_t at = 0; at < x.size(); at += lanes) {
        std::int8_t found[lanes + 1];
        found[lanes] = 99;
        round(floats_of<Arch>::load(&x[at]), floats_of<Arch>::load(&inverse[at]), found);
        for (std::size_t i = 0; i < lanes; ++i) {
          result.compare(at + i, static_cast<std::uint8_t>(found[i]),
                         static_cast<std::uint8_t>(rounded_i8(x[at + i], inverse[at + i])));
        }
        result.compare(at, static_cast<std::uint8_t>(found[lanes]), 99);
      }
      CHECK(result.report() == "all equal");
    };
    check([](auto v, auto f, std::int8_t* out) { subbyte::round_to_i8(v, f, out); });
    check([](auto v, auto f, std::int8_t* out) { detail::round_to_i8(arch::scalar{}, v, f, out); });
  });
}

TEST_CASE("reduce_add: 16 virtual lanes reduce to the same bits from any register width",
          "[simd]") {
  std::mt19937_64 generator(19);
  std::vector<float> values(16 * 512);
  for (float& value : values) {
    // Magnitudes over 2^24, so that the order of additions shows.
    const auto draw = static_cast<std::uint32_t>(generator());
    value = float_of((draw & 0x807FFFFFU) | (115 + (draw >> 23) % 24) << 23);
  }
  int order_shows = 0;
  for_each_arch([&]<class Arch>() {
    constexpr int lanes = floats_of<Arch>::size;
    const auto check = [&](auto reduce) {
      tally result;
      for (std::size_t at = 0; at < values.size(); at += 16) {
        floats_of<Arch> part[16 / lanes];
        for (int i = 0; i < 16 / lanes; ++i) {
          part[i] = floats_of<Arch>::load(&values[at + static_cast<std::size_t>(i * lanes)]);
        }
        for (int width = 8 / lanes; width > 0; width /= 2) {
          for (int i = 0; i < width; ++i) part[i] = part[i] + part[i + width];
        }
        const float* v = &values[at];
        const auto four = [&](int i) { return (v[i] + v[i + 8]) + (v[i + 4] + v[i + 12]); };
        const float required = (four(0) + four(2)) + (four(1) + four(3));
        result.compare(at, bits_of(reduce(part[0])), bits_of(required));
        float sequential = 0;
        for (int i = 0; i < 16; ++i) sequential += v[i];
        order_shows += sequential != required ? 1 : 0;
      }
      CHECK(result.report() == "all equal");
    };
    check([](auto x) { return subbyte::reduce_add(x); });
    check([](auto x) { return detail::reduce_add(arch::scalar{}, x); });
  });
  CHECK(order_shows > 100);
}

TEST_CASE("reduce_add: integers wrap", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int lanes = ints_of<Arch>::size;
    std::mt19937_64 generator(23);
    tally specified;
    tally result;
    for (int trial = 0; trial < 1000; ++trial) {
      std::int32_t in[lanes];
      std::uint32_t required = 0;
      for (std::int32_t& x : in) {
        x = static_cast<std::int32_t>(generator());
        required += static_cast<std::uint32_t>(x);
      }
      const auto x = ints_of<Arch>::load(in);
      result.compare(static_cast<std::uint64_t>(trial),
                     static_cast<std::uint32_t>(subbyte::reduce_add(x)), required);
      specified.compare(static_cast<std::uint64_t>(trial),
                        static_cast<std::uint32_t>(detail::reduce_add(arch::scalar{}, x)),
                        required);
    }
    CHECK(result.report() == "all equal");
    CHECK(specified.report() == "all equal");
  });
}

TEST_CASE("reduce_max: finds the largest lane wherever it stands", "[simd]") {
  for_each_arch([]<class Arch>() {
    constexpr int lanes = floats_of<Arch>::size;
    for (int where = 0; where < lanes; ++where) {
      float in[lanes];
      for (int i = 0; i < lanes; ++i) in[i] = -1.0F - static_cast<float>(i % 3);
      in[where] = where % 2 == 0 ? -0.5F : 0x1p-149F;
      const auto x = floats_of<Arch>::load(in);
      CHECK(subbyte::reduce_max(x) == in[where]);
      CHECK(detail::reduce_max(arch::scalar{}, x) == in[where]);
    }
    CHECK(subbyte::reduce_max(floats_of<Arch>::broadcast(
              -std::numeric_limits<float>::infinity())) == -std::numeric_limits<float>::infinity());
  });
}
