// SPDX-License-Identifier: Apache-2.0
/// Prints what the pages of docs/formats are made of: the registry as a table, or with --bits what
/// every bit of a block of every format does, found by turning it over.
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <string>
#include <string_view>
#include <vector>

#include "subbyte/format/list.hpp"

namespace {

template <class F>
void print_row() {
  std::string gguf = "-";
  if constexpr (subbyte::gguf_format<F>) gguf = std::to_string(F::gguf_type);
  std::string partner = "-";
  if constexpr (requires { typename F::partner; }) partner = F::partner::name;
  std::printf("| [`%s`](%s.md) | %s | %d | %d | %.4f | %s | %s |\n", F::name, F::name, gguf.c_str(),
              F::block_size, static_cast<int>(sizeof(F)), subbyte::bits_per_weight<F>,
              partner.c_str(), subbyte::grid_format<F> ? "grid" : "opaque");
}

template <class F>
void print_row_scaled() {
  std::printf("| [`%s`](%s.md) | %d | %d | %d + %d per row | %.4f | - | %s |\n", F::name, F::name,
              static_cast<int>(F::gguf_type), F::block_size, static_cast<int>(sizeof(F)),
              static_cast<int>(sizeof(typename F::row_scale)), subbyte::bits_per_weight<F>,
              subbyte::row_scaled_grid_format<F> ? "grid" : "opaque");
}

template <class F>
inline constexpr bool has_codes = subbyte::grid_format<F> || subbyte::row_scaled_grid_format<F>;

// Blocks of rows that begin with a scale count under the scale 1.
template <class F>
void decode_block(const F& block, float* out) {
  if constexpr (subbyte::row_scaled_format<F>) {
    F::decode(block, F::row_scale::nearest(1.0F), out);
  } else {
    subbyte::decode(block, out);
  }
}
template <class F>
auto split_block(const F& block) {
  if constexpr (subbyte::row_scaled_format<F>) {
    return F::split(block, F::row_scale::nearest(1.0F));
  } else {
    return F::split(block);
  }
}

template <class F>
F with_bit_turned(F block, std::size_t bit) {
  std::uint8_t bytes[sizeof(F)];
  std::memcpy(bytes, &block, sizeof(F));
  bytes[bit / 8] = static_cast<std::uint8_t>(bytes[bit / 8] ^ 1U << bit % 8);
  std::memcpy(static_cast<void*>(&block), bytes, sizeof(F));
  return block;
}

/// Blocks of any bytes whose weights are finite and not all zero.
template <class F>
std::vector<F> sample_blocks() {
  std::mt19937_64 random(1);
  std::vector<F> blocks;
  while (blocks.size() < (has_codes<F> ? 24 : 200)) {
    F block;
    std::uint8_t bytes[sizeof(F)];
    for (std::uint8_t& byte : bytes) byte = static_cast<std::uint8_t>(random() >> 56);
    std::memcpy(static_cast<void*>(&block), bytes, sizeof(F));
    float weights[static_cast<std::size_t>(F::block_size)];
    decode_block(block, weights);
    bool finite = true, zero = true;
    for (const float w : weights) {
      finite = finite && std::isfinite(w);
      zero = zero && w == 0;
    }
    if (finite && !zero) blocks.push_back(block);
  }
  return blocks;
}

bool near(double a, double b, double rounding = 0) {
  return std::abs(a - b) <= 1e-3 * std::abs(b) + rounding;
}

/// Whether the value of position i changes by the same whatever its code is.
template <class F>
bool shifts(const typename F::params& before, const typename F::params& after, int i) {
  const auto change = [&](int code) {
    return static_cast<double>(F::value(code, i, after)) -
           static_cast<double>(F::value(code, i, before));
  };
  const double size = std::abs(static_cast<double>(F::value(1, i, before))) +
                      std::abs(static_cast<double>(F::value(1, i, after)));
  return near(change(0), change(1), 1e-6 * size);
}

template <class F>
auto params_of(const F& block) {
  if constexpr (has_codes<F>) {
    return split_block(block).params;
  } else {
    return 0;
  }
}

/// The weights that a bit acts on, and how they change with it.
struct effect {
  std::vector<bool> weights;
  bool offset = true;  ///< by differences that do not depend on their codes, or are all the same
  bool scale = true;   ///< a parameter otherwise, or by one factor
  bool sign = true;    ///< by the factor -1
};

template <class F>
effect effect_of(const std::vector<F>& blocks, std::size_t bit) {
  constexpr auto n = static_cast<std::size_t>(F::block_size);
  effect found{std::vector<bool>(n)};
  for (const F& before : blocks) {
    const F after = with_bit_turned(before, bit);
    float a[n];
    float b[n];
    decode_block(before, a);
    decode_block(after, b);
    [[maybe_unused]] const auto p = params_of(before);
    [[maybe_unused]] const auto q = params_of(after);
    [[maybe_unused]] const bool same = p == q;
    double difference = 0, factor = 0;
    for (std::size_t i = 0; i < n; ++i) {
      if (std::memcmp(&a[i], &b[i], sizeof(float)) == 0) continue;
      found.weights[i] = true;
      const double d = static_cast<double>(b[i]) - static_cast<double>(a[i]);
      const double f = static_cast<double>(b[i]) / static_cast<double>(a[i]);
      if (!std::isfinite(d) || !std::isfinite(f)) continue;
      if (difference == 0) difference = d;
      if (factor == 0) factor = f;
      found.sign = found.sign && f == -1;
      if constexpr (has_codes<F>) {
        found.offset = found.offset && !same && shifts<F>(p, q, static_cast<int>(i));
        found.scale = !found.offset && !same;
      } else {
        found.offset = found.offset && near(d, difference);
        found.scale = found.scale && near(f, factor);
      }
    }
  }
  return found;
}

/// The code that a bit belongs to and its place there, or -1.
template <class F>
std::pair<int, int> code_bit(const F& before, std::size_t bit) {
  std::pair<int, int> found{-1, -1};
  if constexpr (has_codes<F>) {
    const auto a = split_block(before);
    const auto b = split_block(with_bit_turned(before, bit));
    for (int i = 0; i < F::block_size; ++i) {
      const int changed = a.codes[i] ^ b.codes[i];
      if (changed == 0) continue;
      if (found.first >= 0 || (changed & (changed - 1)) != 0) return {-1, -1};
      found.first = i;
      while (changed >> (found.second + 1) != 0) ++found.second;
    }
  }
  return found;
}

// A line per bit: code WEIGHT PLACE; or what it changes, and ranges of weights.
template <class F>
void print_bits() {
  std::printf("format %s %d\n", F::name, static_cast<int>(sizeof(F)));
  const std::vector<F> blocks = sample_blocks<F>();
  for (std::size_t bit = 0; bit < 8 * sizeof(F); ++bit) {
    bool same = true;
    const auto code = code_bit(blocks.front(), bit);
    for (const F& b : blocks) same = same && code_bit(b, bit) == code;
    if (same && code.first >= 0) {
      std::printf("code %d %d\n", code.first, code.second);
      continue;
    }
    const effect e = effect_of(blocks, bit);
    std::string ranges;
    int count = 0;
    for (std::size_t i = 0; i < e.weights.size(); ++i) {
      if (!e.weights[i]) continue;
      std::size_t end = i;
      while (end + 1 < e.weights.size() && e.weights[end + 1]) ++end;
      count += static_cast<int>(end - i + 1);
      ranges += " " + std::to_string(i) + " " + std::to_string(end);
      i = end;
    }
    std::printf("%s%s\n",
                count == 0   ? "none"
                : e.sign     ? "sign"
                : count == 1 ? "value"
                : e.offset   ? "offset"
                : e.scale    ? "scale"
                             : "value",
                ranges.c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  if (argc > 1 && std::string_view(argv[1]) == "--bits") {
    subbyte::for_each_type(subbyte::file_formats{},
                           []<class F>(std::type_identity<F>) { print_bits<F>(); });
    return 0;
  }
  std::puts(
      "| format | GGUF type | weights per block | bytes | bits per weight | partner | kind |");
  std::puts("|---|---|---|---|---|---|---|");
  subbyte::for_each_type(subbyte::all_formats{},
                         []<class F>(std::type_identity<F>) { print_row<F>(); });
  subbyte::for_each_type(subbyte::row_scaled_formats{},
                         []<class F>(std::type_identity<F>) { print_row_scaled<F>(); });
}
