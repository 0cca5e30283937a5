// SPDX-License-Identifier: Apache-2.0
#include "subbyte/checkpoint/exl3.hpp"

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "subbyte/exec/thread_pool.hpp"
#include "subbyte/io/safetensors.hpp"
#include "subbyte/io/safetensors_writer.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/files.hpp"

namespace {

namespace ckpt = subbyte::checkpoint;
using ckpt::exl3_codebook;
using subbyte::errc;
using subbyte::index_t;
using bytes = std::vector<std::uint8_t>;

const std::vector<exl3_codebook> codebooks = {exl3_codebook::three_inst, exl3_codebook::mcg,
                                              exl3_codebook::mul1};

struct layer {
  index_t rows, cols;
  int bits;
  exl3_codebook codebook;
  bytes trellis, suh, svh;

  ckpt::exl3_linear view() const { return {rows, cols, bits, codebook, trellis, suh, svh}; }
};

bytes halves(const std::vector<float>& values) {
  bytes out;
  for (const float v : values) {
    const auto h = subbyte::half::nearest(v).bits;
    out.push_back(static_cast<std::uint8_t>(h & 255));
    out.push_back(static_cast<std::uint8_t>(h >> 8));
  }
  return out;
}

layer random_layer(index_t rows, index_t cols, int bits, exl3_codebook codebook,
                   std::uint64_t seed) {
  std::mt19937_64 generator(seed);
  layer w{rows, cols, bits, codebook, {}, {}, {}};
  w.trellis.resize(static_cast<std::size_t>(rows * cols * bits / 8));
  for (auto& b : w.trellis) b = static_cast<std::uint8_t>(generator() >> 56);
  const auto scale = [&] {
    const float magnitude = 0.5F + static_cast<float>(generator() >> 40) * 0x1p-24F;
    return generator() >> 63 ? magnitude : -magnitude;
  };
  std::vector<float> suh, svh;
  for (index_t k = 0; k < cols; ++k) suh.push_back(scale());
  for (index_t r = 0; r < rows; ++r) svh.push_back(scale());
  w.suh = halves(suh);
  w.svh = halves(svh);
  return w;
}

double half_of(const bytes& values, index_t i) {
  const auto at = static_cast<std::size_t>(2 * i);
  return subbyte::half::from_bits(static_cast<std::uint16_t>(values[at] | values[at + 1] << 8))
      .to_float();
}

// The decoded states D [k, n], straight from the description: the stream as a string of bits.
std::vector<double> states_of(const layer& w) {
  std::vector<double> d(static_cast<std::size_t>(w.rows * w.cols));
  const auto tile_bytes = static_cast<std::size_t>(32 * w.bits);
  for (index_t tk = 0; tk < w.cols / 16; ++tk) {
    for (index_t tn = 0; tn < w.rows / 16; ++tn) {
      const std::size_t first = static_cast<std::size_t>(tk * (w.rows / 16) + tn) * tile_bytes;
      std::vector<int> stream;
      for (std::size_t word = 0; word < tile_bytes / 4; ++word) {
        for (int byte = 3; byte >= 0; --byte) {
          for (int bit = 7; bit >= 0; --bit) {
            stream.push_back(w.trellis[first + 4 * word + static_cast<std::size_t>(byte)] >> bit &
                             1);
          }
        }
      }
      std::size_t i = 0;
      for (int lane = 0; lane < 32; ++lane) {
        const index_t r0 = 2 * (lane % 4), c0 = lane / 4;
        for (const index_t c : {c0, c0 + 8}) {
          for (const index_t r : {r0, r0 + 1, r0 + 8, r0 + 9}) {
            // Walk back from the end of the element's own bits.
            unsigned state = 0;
            const std::size_t end = (i + 1) * static_cast<std::size_t>(w.bits);
            for (std::size_t back = 16; back >= 1; --back) {
              state = 2 * state +
                      static_cast<unsigned>(stream[(end + stream.size() - back) % stream.size()]);
            }
            const auto at = static_cast<std::size_t>((tk * 16 + r) * w.rows + tn * 16 + c);
            d[at] = ckpt::exl3_value(static_cast<std::uint16_t>(state), w.codebook).to_float();
            ++i;
          }
        }
      }
    }
  }
  return d;
}

// Entry (i, j) of the unscaled Hadamard matrix of any power of two.
int hadamard_sign(index_t i, index_t j) {
  return __builtin_parityll(static_cast<unsigned long long>(i & j)) ? -1 : 1;
}

// Columns of blocks of 128 (or, of the transposed, rows) by the definition of the product.
std::vector<double> transformed(const std::vector<double>& d, index_t k, index_t n) {
  std::vector<double> left(d.size()), both(d.size());
  for (index_t i = 0; i < k; ++i) {
    for (index_t j = 0; j < n; ++j) {
      double sum = 0;
      for (index_t m = 0; m < 128; ++m) {
        sum += hadamard_sign(i % 128, m) * d[static_cast<std::size_t>((i / 128 * 128 + m) * n + j)];
      }
      left[static_cast<std::size_t>(i * n + j)] = sum;
    }
  }
  for (index_t i = 0; i < k; ++i) {
    for (index_t j = 0; j < n; ++j) {
      double sum = 0;
      for (index_t m = 0; m < 128; ++m) {
        sum +=
            left[static_cast<std::size_t>(i * n + j / 128 * 128 + m)] * hadamard_sign(m, j % 128);
      }
      both[static_cast<std::size_t>(i * n + j)] = sum / 128;
    }
  }
  return both;
}

std::vector<float> decoded(const layer& w, subbyte::executor_ref ex = subbyte::serial) {
  std::vector<float> out(static_cast<std::size_t>(w.rows * w.cols));
  ckpt::decode_exl3(w.view(), subbyte::matrix_view<float>(out.data(), w.rows, w.cols), ex);
  return out;
}

}  // namespace

TEST_CASE("exl3: the published values of the three codebooks") {
  const struct {
    std::uint16_t state;
    std::uint16_t bits[3];
  } samples[] = {{0, {0x3A25, 0x3F60, 0xC2E8}},      {1, {0xBB5B, 0x304E, 0x3921}},
                 {2, {0x3B74, 0xBA13, 0xB72D}},      {0x1234, {0xC066, 0x3E0F, 0xB89E}},
                 {0x8000, {0xB7F8, 0xB915, 0xBAF2}}, {0xFFFF, {0xB110, 0x3ACD, 0xB936}}};
  for (const auto& s : samples) {
    for (std::size_t c = 0; c < 3; ++c) {
      CHECK(ckpt::exl3_value(s.state, codebooks[c]).bits == s.bits[c]);
    }
  }
  static_assert(ckpt::exl3_value(2, exl3_codebook::mcg).bits == 0xBA13);
}

TEST_CASE("exl3: the deviation of all states is the published one of each codebook") {
  const double published[] = {1.24371, 1.24411, 1.00031};
  for (std::size_t c = 0; c < 3; ++c) {
    double sum = 0, squares = 0;
    for (unsigned state = 0; state < 65536; ++state) {
      const double v = ckpt::exl3_value(static_cast<std::uint16_t>(state), codebooks[c]).to_float();
      sum += v;
      squares += v * v;
    }
    const double mean = sum / 65536;
    // Published to five decimals.
    CHECK(std::abs(std::sqrt(squares / 65536 - mean * mean) - published[c]) <= 5.1e-6);
  }
}

TEST_CASE("exl3: every element of a tile has one place") {
  std::vector<int> seen(256);
  for (int i = 0; i < 256; ++i) {
    ++seen[static_cast<std::size_t>(ckpt::exl3_tile_row(i) * 16 + ckpt::exl3_tile_column(i))];
  }
  CHECK(seen == std::vector<int>(256, 1));
  static_assert(ckpt::exl3_tile_column(0) == 0 && ckpt::exl3_tile_column(1) == 1);
  static_assert(ckpt::exl3_tile_column(2) == 8 && ckpt::exl3_tile_column(3) == 9);
  static_assert(ckpt::exl3_tile_row(3) == 0 && ckpt::exl3_tile_row(4) == 8);
  static_assert(ckpt::exl3_tile_column(8) == 2 && ckpt::exl3_tile_row(32) == 1);
}

TEST_CASE("exl3: the first states reach round to the end of the stream") {
  for (int bits = 1; bits <= 8; ++bits) {
    bytes tile(static_cast<std::size_t>(32 * bits));
    // The last bit of the stream is the lowest of the last word.
    tile[tile.size() - 4] = 1;
    for (int i = 0; i < 256; ++i) {
      // Its place in a state that ends `after` bits later, modulo the stream.
      const int after = ((i + 1) * bits) % (256 * bits);
      const int expected = after < 16 ? 1 << after : 0;
      CHECK(ckpt::exl3_state(tile.data(), bits, i) == expected);
    }
  }
}

TEST_CASE("exl3: a state keeps all but its oldest bits from one element to the next") {
  std::mt19937_64 generator(11);
  for (int bits = 1; bits <= 8; ++bits) {
    bytes tile(static_cast<std::size_t>(32 * bits));
    for (auto& b : tile) b = static_cast<std::uint8_t>(generator() >> 56);
    for (int i = 0; i < 256; ++i) {
      const unsigned here = ckpt::exl3_state(tile.data(), bits, i);
      const unsigned next = ckpt::exl3_state(tile.data(), bits, (i + 1) % 256);
      CHECK(next >> bits == (here & (0xFFFFU >> bits)));
    }
  }
}

TEST_CASE("exl3: the weights are those of the definition, within the rounding of the sums") {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const exl3_codebook codebook : codebooks) {
      if (bits % 3 != static_cast<int>(codebook) && bits != 4) continue;
      const bool wide = bits % 2 == 0;
      const layer w = random_layer(wide ? 256 : 128, wide ? 128 : 256, bits, codebook,
                                   static_cast<std::uint64_t>(bits));
      const std::vector<double> d = states_of(w);
      const std::vector<double> expected = transformed(d, w.cols, w.rows);
      std::vector<double> magnitude(d.size());  // sum of |terms| of each 128 x 128 block / 128
      std::vector<double> block_sums(static_cast<std::size_t>(w.rows / 128 * (w.cols / 128)));
      const auto block_of = [&](index_t k, index_t n) {
        return static_cast<std::size_t>(k / 128 * (w.rows / 128) + n / 128);
      };
      for (index_t k = 0; k < w.cols; ++k) {
        for (index_t n = 0; n < w.rows; ++n) {
          block_sums[block_of(k, n)] += std::abs(d[static_cast<std::size_t>(k * w.rows + n)]) / 128;
        }
      }
      const std::vector<float> out = decoded(w);
      double worst = 0;
      for (index_t n = 0; n < w.rows; ++n) {
        for (index_t k = 0; k < w.cols; ++k) {
          const double scale = half_of(w.suh, k) * half_of(w.svh, n);
          const double value = expected[static_cast<std::size_t>(k * w.rows + n)] * scale;
          // 14 sums and 3 products, each within 2^-24 of the sum of the magnitudes.
          const double bound = 17.01 * 0x1p-24 * block_sums[block_of(k, n)] * std::abs(scale);
          worst = std::max(worst,
                           std::abs(out[static_cast<std::size_t>(n * w.cols + k)] - value) / bound);
        }
      }
      INFO(bits << " bits");
      CHECK(worst <= 1);
    }
  }
}

TEST_CASE("exl3: the transforms keep the energy of every block") {
  layer w = random_layer(128, 128, 3, exl3_codebook::mcg, 5);
  w.suh = halves(std::vector<float>(128, 1.0F));
  w.svh = halves(std::vector<float>(128, -1.0F));
  double before = 0, after = 0;
  for (const double v : states_of(w)) before += v * v;
  for (const float v : decoded(w)) after += static_cast<double>(v) * v;
  CHECK(after == Approx(before).epsilon(1e-6));
}

TEST_CASE("exl3: threads do not change a bit") {
  const layer w = random_layer(256, 384, 2, exl3_codebook::mul1, 6);
  subbyte::thread_pool pool(3);
  CHECK((decoded(w) == decoded(w, pool)));
}

namespace {

struct stored {
  std::string name;
  std::vector<index_t> shape;
  subbyte::safetensors::dtype type;
  bytes content;
};

std::vector<stored> tensors_of(const layer& w) {
  using subbyte::safetensors::dtype;
  std::vector<stored> tensors = {
      {"m.trellis", {w.cols / 16, w.rows / 16, 16 * w.bits}, dtype::i16, w.trellis},
      {"m.suh", {w.cols}, dtype::f16, w.suh},
      {"m.svh", {w.rows}, dtype::f16, w.svh}};
  if (w.codebook == exl3_codebook::mcg) tensors.push_back({"m.mcg", {}, dtype::i32, bytes(4)});
  if (w.codebook == exl3_codebook::mul1) tensors.push_back({"m.mul1", {}, dtype::i32, bytes(4)});
  return tensors;
}

void write(const std::string& path, const std::vector<stored>& tensors) {
  subbyte::safetensors::writer out(path);
  for (const stored& t : tensors) out.declare(t.name, t.shape, t.type);
  for (const stored& t : tensors) out.write(t.name, t.content);
  out.finish();
}

template <class Change>
subbyte::error rejection(Change&& change) {
  const test_support::scratch_directory directory;
  std::vector<stored> tensors = tensors_of(random_layer(128, 256, 2, exl3_codebook::three_inst, 7));
  change(tensors);
  write(directory.file("x.safetensors"), tensors);
  const subbyte::safetensors::file file(directory.file("x.safetensors"));
  return test_support::error_of([&] { (void)ckpt::read_exl3(file, "m"); });
}

}  // namespace

TEST_CASE("exl3: a layer is read from its file, codebook by marker") {
  for (const exl3_codebook codebook : codebooks) {
    const test_support::scratch_directory directory;
    const layer w = random_layer(128, 256, 5, codebook, 8);
    write(directory.file("x.safetensors"), tensors_of(w));
    const subbyte::safetensors::file file(directory.file("x.safetensors"));
    const ckpt::exl3_linear read = ckpt::read_exl3(file, "m");
    CHECK(read.rows == 128);
    CHECK(read.cols == 256);
    CHECK(read.bits == 5);
    CHECK(read.codebook == codebook);
    std::vector<float> out(128 * 256);
    ckpt::decode_exl3(read, subbyte::matrix_view<float>(out.data(), 128, 256));
    CHECK((out == decoded(w)));
  }
}

TEST_CASE("exl3: tensors that contradict each other are rejected") {
  using subbyte::safetensors::dtype;
  CHECK(rejection([](auto& t) { t[0].name = "m.other"; }).code() == errc::not_found);
  CHECK(rejection([](auto& t) { t[1].name = "m.other"; }).code() == errc::not_found);
  const auto packed_signs = rejection([](auto& t) { t[1].name = "m.su"; });
  CHECK(packed_signs.code() == errc::unsupported_format);
  CHECK(rejection([](auto& t) { t[0].type = dtype::f16; }).code() == errc::unsupported_format);
  CHECK(rejection([](auto& t) { t[1].type = dtype::bf16; }).code() == errc::unsupported_format);
  CHECK(rejection([](auto& t) { t[2].type = dtype::bf16; }).code() == errc::unsupported_format);
  CHECK(rejection([](auto& t) { t[0].shape = {16, 8 * 32}; }).code() == errc::bad_shape);
  CHECK(rejection([](auto& t) { t[0].shape = {16, 16, 16}; }).code() == errc::bad_shape);
  CHECK(rejection([](auto& t) { t[0].shape = {16, 32, 8}; }).code() == errc::bad_shape);
  CHECK(rejection([](auto& t) { t[0].shape = {4, 8, 128}; }).code() == errc::bad_shape);
  CHECK(rejection([](auto& t) { t[0].shape = {8, 4, 128}; }).code() == errc::bad_shape);
  CHECK(rejection([](auto& t) {
          t[0].shape = {8, 8, 144};
          t[0].content.resize(8 * 8 * 288);
        }).code() == errc::bad_shape);
  CHECK(rejection([](auto& t) {
          t[1].shape = {255};
          t[1].content.resize(510);
        }).code() == errc::bad_shape);
  CHECK(rejection([](auto& t) {
          t[2].shape = {129};
          t[2].content.resize(258);
        }).code() == errc::bad_shape);
  const layer w = random_layer(128, 128, 1, exl3_codebook::mcg, 9);
  std::vector<float> out(128 * 256);
  CHECK(test_support::error_of([&] {
          ckpt::decode_exl3(w.view(), subbyte::matrix_view<float>(out.data(), 128, 256));
        }).code() == errc::bad_shape);
}
