// SPDX-License-Identifier: Apache-2.0
/// Any floats for the encoders of any format, the normative one and the search for the least error:
/// the first byte is the format, the second whether there is importance and how floats are made,
/// then 256 weights, then their importance.
#include <vector>

#include "fuzz/bytes.hpp"
#include "subbyte/core/arch.hpp"
#include "subbyte/format/best_encoder.hpp"
#include "subbyte/format/search.hpp"
#include "support/tested_formats.hpp"

namespace {

constexpr int weight_count = 256;

template <class F, class Arch, class Encoder>
std::vector<F> blocks_of(const Encoder& encoder, const float* weights, const float* importance) {
  std::vector<F> blocks(weight_count / F::block_size);
  encoder(weights, importance, subbyte::mean_square<Arch>(weights, weight_count),
          static_cast<subbyte::index_t>(blocks.size()), blocks.data());
  return blocks;
}

template <class F, class Arch>
std::vector<F> encoded(const float* weights, const float* importance) {
  static const subbyte::block_encoder<F, Arch> encoder;
  return blocks_of<F, Arch>(encoder, weights, importance);
}
template <class F, class Arch>
std::vector<F> searched(const float* weights, const float* importance) {
  static const subbyte::best_encoder<F, Arch> encoder(1);
  return blocks_of<F, Arch>(encoder, weights, importance);
}

template <class F>
double error_of(const F& block, const float* weights, const float* importance) {
  float values[static_cast<std::size_t>(F::block_size)];
  subbyte::decode(block, values);
  double sum = 0;
  for (int i = 0; i < F::block_size; ++i) {
    const double d = static_cast<double>(values[i]) - static_cast<double>(weights[i]);
    sum += d * d * (importance != nullptr ? static_cast<double>(importance[i]) : 1.0);
  }
  return sum;
}

/// Whether all of the numbers lie in a range that every format's scales cover.
bool within(const float* x, float least, float most) {
  for (int i = 0; i < weight_count; ++i) {
    if (!(x[i] >= least && x[i] <= most)) return false;
  }
  return true;
}

/// The same bytes; or, where a scale is NaN, whose sign nothing specifies, the same values.
template <class F>
bool same_block(const F& a, const F& b) {
  if (std::memcmp(&a, &b, sizeof(F)) == 0) return true;
  float x[static_cast<std::size_t>(F::block_size)], y[static_cast<std::size_t>(F::block_size)];
  subbyte::decode(a, x);
  subbyte::decode(b, y);
  bool any_nan = false;
  for (int i = 0; i < F::block_size; ++i) {
    if (!fuzz::same(x[i], y[i])) return false;
    any_nan = any_nan || std::isnan(x[i]);
  }
  return any_nan;
}

template <class F>
void check_equal(const std::vector<F>& a, const std::vector<F>& b) {
  for (std::size_t i = 0; i < a.size(); ++i) {
    fuzz::expect(same_block(a[i], b[i]), F::name, "the blocks are the same on every arch");
  }
}

template <class F>
void check_blocks(const std::vector<F>& blocks, bool usual) {
  for (const F& block : blocks) {
    float values[static_cast<std::size_t>(F::block_size)];
    subbyte::decode(block, values);
    for (const float value : values) {
      fuzz::expect(!usual || std::isfinite(value), F::name, "usual weights become finite ones");
    }
    if constexpr (subbyte::grid_format<F>) {
      const subbyte::unpacked<F> u = F::split(block);
      const F again = F::join(u.params, u.codes);
      fuzz::expect(std::memcmp(&again, &block, sizeof(F)) == 0, F::name,
                   "join() after split() keeps the bytes that an encoder makes");
    }
  }
}

template <class F>
void check(const float* weights, const float* importance) {
  using scalar = subbyte::arch::scalar;
  using native = subbyte::arch::native;
  const bool usual =
      within(weights, -1000, 1000) && (importance == nullptr || within(importance, 1e-3F, 1e3F));
  const std::vector<F> blocks = encoded<F, scalar>(weights, importance);
  check_blocks(blocks, usual);
  const std::vector<F> found = searched<F, scalar>(weights, importance);
  check_blocks(found, usual);
  if constexpr (!std::is_same_v<native, scalar>) {
    check_equal(blocks, encoded<F, native>(weights, importance));
    check_equal(found, searched<F, native>(weights, importance));
  }
  for (std::size_t b = 0; usual && b < blocks.size(); ++b) {
    const float* const w = weights + b * F::block_size;
    const float* const v = importance != nullptr ? importance + b * F::block_size : nullptr;
    // One part in 10^9 for the roundings of this sum.
    fuzz::expect(error_of(found[b], w, v) <= error_of(blocks[b], w, v) * (1 + 1e-9), F::name,
                 "the search has no larger error than the normative encoder");
  }
}

}  // namespace

// The encoders make their tables here, outside the time that an input may take.
extern "C" int LLVMFuzzerInitialize(int*, char***) {
  constexpr float zeros[weight_count] = {};
  subbyte::for_each_type(test_support::tested_formats{}, [&](auto format) {
    check<typename decltype(format)::type>(zeros, nullptr);
  });
  return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
  fuzz::bytes input(data, size);
  const std::uint8_t format_byte = input.next();
  const unsigned flags = input.next();
  float weights[weight_count];
  float importance[weight_count];
  for (float& w : weights) w = input.next_float(flags >> 1);
  for (float& v : importance) v = input.next_float(flags >> 3);
  fuzz::with_format<test_support::tested_formats>(format_byte, [&](auto format) {
    check<typename decltype(format)::type>(weights, (flags & 1) != 0 ? importance : nullptr);
  });
  return 0;
}
