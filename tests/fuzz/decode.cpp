// SPDX-License-Identifier: Apache-2.0
/// Any bytes as a block of any format: the first byte is the format, then the block, then weights
/// to round. Every way to read the block gives the same values.
#include "subbyte/kernel/decode.hpp"
#include "fuzz/bytes.hpp"
#include "subbyte/core/arch.hpp"
#include "support/tested_formats.hpp"

namespace {

template <class F>
void check_grid(const F& block, const float* values, fuzz::bytes& input) {
  const subbyte::unpacked<F> u = F::split(block);
  float again[static_cast<std::size_t>(F::block_size)];
  subbyte::decode(F::join(u.params, u.codes), again);
  for (int i = 0; i < F::block_size; ++i) {
    fuzz::expect(fuzz::same(values[i], F::value(u.codes[i], i, u.params)), F::name,
                 "decode() gives what value() gives");
    fuzz::expect(fuzz::same(values[i], again[i]), F::name,
                 "decode() gives the same after split() and join()");
  }
  const unsigned kind = input.next();
  for (int draw = 0; draw < 8; ++draw) {
    const int i = input.next() % F::block_size;
    const float weight = draw == 0 ? values[i] : input.next_float(kind);
    const int code = F::round(weight, i, u.params);
    fuzz::expect(code >= 0 && code <= 255, F::name, "round() gives a code");
    typename F::codes rounded = u.codes;
    rounded[i] = static_cast<std::uint8_t>(code);
    fuzz::expect(F::split(F::join(u.params, rounded)).codes[i] == code, F::name,
                 "round() gives a code that a block stores");
    if (!std::isfinite(weight) || !std::isfinite(values[i])) continue;
    const double found = static_cast<double>(F::value(code, i, u.params));
    fuzz::expect(std::fabs(weight - found) <= std::fabs(weight - static_cast<double>(values[i])),
                 F::name, "round() gives a code at least as near as any other");
  }
}

template <class F>
void check(fuzz::bytes& input) {
  F block;
  input.fill(&block, sizeof(F));
  float values[static_cast<std::size_t>(F::block_size)];
  float tuned[static_cast<std::size_t>(F::block_size)];
  subbyte::decode(block, values);
  subbyte::tuned_decode<subbyte::arch::native>{}(block, tuned);
  for (int i = 0; i < F::block_size; ++i) {
    fuzz::expect(fuzz::same(values[i], tuned[i]), F::name, "tuned_decode gives what decode() does");
  }
  if constexpr (subbyte::grid_format<F>) check_grid(block, values, input);
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::bytes input(data, size);
  fuzz::with_format<test_support::tested_formats>(
      input.next(), [&](auto format) { check<typename decltype(format)::type>(input); });
  return 0;
}
