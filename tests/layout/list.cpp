// SPDX-License-Identifier: Apache-2.0
// The law of every layout: one to one and inside its buffer; and its own packer, where it has one,
// gives the bytes of its bit_offset.
#include "subbyte/layout/list.hpp"

#include <algorithm>
#include <cstdint>
#include <random>
#include <string>
#include <vector>

#include "subbyte/layout/concepts.hpp"
#include "subbyte/layout/pack.hpp"
#include "support/catch.hpp"

namespace {

using subbyte::all_layouts;
using subbyte::for_each_type;
using subbyte::index_t;
using subbyte::matrix_shape;
using bytes = std::vector<std::uint8_t>;

template <class L>
std::string title() {
  return std::string(L::name) + " of " + std::to_string(L::code_bits) + " bits";
}

template <class L>
bytes random_codes(const matrix_shape& shape, std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  bytes codes(static_cast<std::size_t>(shape.rows * shape.cols));
  for (auto& code : codes) code = static_cast<std::uint8_t>(generator() >> (64 - L::code_bits));
  return codes;
}

// Ragged and whole tiles, single rows and columns, more rows than one piece of work.
const std::vector<matrix_shape> shapes = {{1, 1},   {1, 32},   {3, 40},  {5, 7},    {8, 1},
                                          {32, 2},  {32, 16},  {36, 64}, {64, 16},  {64, 64},
                                          {96, 48}, {128, 32}, {33, 37}, {64, 192}, {256, 16}};
// Beyond the tiles that go through the stack, and beyond one piece of work.
const std::vector<matrix_shape> large_shapes = {{64, 1120}, {192, 352}, {320, 192}, {96, 2080},
                                                {70, 1056}, {160, 70},  {1, 4096},  {640, 64}};

// Runs pieces from the last to the first, one grain each.
struct backwards_executor {
  int concurrency() const noexcept { return 2; }
  void for_range(index_t n, index_t grain, subbyte::range_fn f, void* body) const {
    for (index_t begin = (n - 1) / grain * grain; begin >= 0; begin -= grain) {
      f(body, begin, begin + grain < n ? begin + grain : n);
    }
  }
};

}  // namespace

TEST_CASE("layouts: bit_offset is one to one, inside the buffer, and rows share bytes as stated") {
  for_each_type(all_layouts{}, []<class L>(std::type_identity<L>) {
    int accepted = 0;
    for (const matrix_shape& shape : shapes) {
      if (!L::accepts(shape)) continue;
      ++accepted;
      const index_t bits = L::bytes(shape) * 8;
      std::vector<bool> taken(static_cast<std::size_t>(bits));
      std::vector<index_t> owner(static_cast<std::size_t>(bits / 8), -1);
      index_t outside = 0, twice = 0, shared = 0;
      for (index_t r = 0; r < shape.rows; ++r) {
        for (index_t k = 0; k < shape.cols; ++k) {
          for (int bit = 0; bit < L::code_bits; ++bit) {
            const index_t at = L::bit_offset(shape, r, k, bit);
            if (at < 0 || at >= bits) {
              ++outside;
              continue;
            }
            twice += taken[static_cast<std::size_t>(at)];
            taken[static_cast<std::size_t>(at)] = true;
            index_t& block = owner[static_cast<std::size_t>(at / 8)];
            shared += block != -1 && block != r / L::shared_rows;
            block = r / L::shared_rows;
          }
        }
      }
      INFO(title<L>() << ", " << shape.rows << " x " << shape.cols);
      CHECK(outside == 0);
      CHECK(twice == 0);
      CHECK(shared == 0);
    }
    INFO(title<L>());
    CHECK(accepted >= 2);
  });
}

TEST_CASE("layouts: pack writes and unpack reads the bits that bit_offset names") {
  std::vector<matrix_shape> all = shapes;
  all.insert(all.end(), large_shapes.begin(), large_shapes.end());
  for_each_type(all_layouts{}, [&]<class L>(std::type_identity<L>) {
    int accepted = 0;
    for (const matrix_shape& shape : all) {
      if (!L::accepts(shape)) continue;
      ++accepted;
      const bytes codes = random_codes<L>(shape, static_cast<std::uint64_t>(shape.cols));
      const auto size = static_cast<std::size_t>(subbyte::packed_bytes<L>(shape));
      bytes expected(size);
      for (index_t r = 0; r < shape.rows; ++r) {
        for (index_t k = 0; k < shape.cols; ++k) {
          const unsigned code = codes[static_cast<std::size_t>(r * shape.cols + k)];
          for (int bit = 0; bit < L::code_bits; ++bit) {
            const auto at = static_cast<std::size_t>(L::bit_offset(shape, r, k, bit));
            expected[at / 8] =
                static_cast<std::uint8_t>(expected[at / 8] | (code >> bit & 1U) << at % 8);
          }
        }
      }
      INFO(title<L>() << ", " << shape.rows << " x " << shape.cols);
      const subbyte::matrix_view<const std::uint8_t> view(codes.data(), shape.rows, shape.cols);
      // A buffer at an odd address, full of ones: whatever pack leaves would show.
      bytes buffer(size + 1, 0xFF);
      const std::span<std::uint8_t> out(buffer.data() + 1, size);
      subbyte::pack<L>(view, out);
      CHECK(std::equal(out.begin(), out.end(), expected.begin()));
      bytes again(size, 0xAA);
      backwards_executor backwards;
      subbyte::pack<L>(view, again, backwards);
      CHECK((again == expected));

      // What no code lies in must not matter when reading.
      bytes noisy = expected;
      std::vector<bool> used(size * 8);
      for (index_t r = 0; r < shape.rows; ++r) {
        for (index_t k = 0; k < shape.cols; ++k) {
          for (int bit = 0; bit < L::code_bits; ++bit) {
            used[static_cast<std::size_t>(L::bit_offset(shape, r, k, bit))] = true;
          }
        }
      }
      for (std::size_t at = 0; at < used.size(); ++at) {
        if (!used[at]) noisy[at / 8] = static_cast<std::uint8_t>(noisy[at / 8] | 1U << at % 8);
      }
      noisy.insert(noisy.begin(), 0xFF);
      bytes read(codes.size(), 0xFF);
      const subbyte::matrix_view<std::uint8_t> read_view(read.data(), shape.rows, shape.cols);
      subbyte::unpack<L>(std::span<const std::uint8_t>(noisy).subspan(1), read_view);
      CHECK((read == codes));
      read.assign(read.size(), 0);
      subbyte::unpack<L>(expected, read_view, backwards);
      CHECK((read == codes));
    }
    INFO(title<L>());
    CHECK(accepted >= 4);
  });
}

TEST_CASE("layouts: the list holds every layout once") {
  std::vector<std::string> titles;
  for_each_type(all_layouts{}, [&]<class L>(std::type_identity<L>) {
    static_assert(subbyte::packing_layout<L>);
    CHECK(L::code_bits >= 1);
    CHECK(L::code_bits <= 8);
    CHECK(std::string(L::requirement).size() > 0);
    titles.push_back(title<L>());
  });
  CHECK(titles.size() == static_cast<std::size_t>(all_layouts::size));
  // awq_gemv_zeros stands three times, for its three paddings.
  std::sort(titles.begin(), titles.end());
  CHECK(std::unique(titles.begin(), titles.end()) - titles.begin() ==
        static_cast<std::ptrdiff_t>(titles.size()) - 2);
}
