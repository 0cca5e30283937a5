// SPDX-License-Identifier: Apache-2.0
/// A format, a quantizer and a thread pool that the library does not know, used with everything
/// that it has: quantize, measure, decode, multiply. Exits with 1 when a result is not what it must
/// be.
#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "mxfp6_e2m3.hpp"
#include "range_search.hpp"
#include "subbyte/cpu.hpp"
#include "subbyte/subbyte.hpp"
#include "worker_pool.hpp"

namespace {

using out_of_tree::mxfp6_e2m3;
using out_of_tree::range_search;
using out_of_tree::worker_pool;
using subbyte::index_t;

static_assert(subbyte::quantizer_for<range_search, subbyte::block_matrix<mxfp6_e2m3>>);
static_assert(subbyte::quantizer_for<range_search, subbyte::block_matrix<subbyte::q4_0>>);
static_assert(!subbyte::quantizer_for<range_search, subbyte::block_matrix<subbyte::f16>>,
              "an opaque format has no codes to search");

std::atomic<int> failures = 0;

void expect(bool condition, const char* what) {
  if (condition) return;
  std::printf("FAILED: %s\n", what);
  ++failures;
}

std::mt19937_64 generator(1);

/// Roughly normal; every hundredth value is ten times as large.
std::vector<float> random_values(index_t count) {
  std::vector<float> values(static_cast<std::size_t>(count));
  for (std::size_t i = 0; i < values.size(); ++i) {
    double sum = -6;
    for (int j = 0; j < 12; ++j) sum += static_cast<double>(generator() >> 11) * 0x1p-53;
    values[i] = static_cast<float>(i % 100 == 7 ? 10 * sum : sum);
  }
  return values;
}

/// The laws of format/concepts.hpp for every code at every scale: bytes to codes and back, fitted
/// params are storable, and the nearest code wins, the lower one in a tie.
void check_laws() {
  for (int scale = 0; scale < 255; ++scale) {
    const mxfp6_e2m3::params p{subbyte::e8m0::from_bits(static_cast<std::uint8_t>(scale))};
    mxfp6_e2m3::codes codes{};
    for (int i = 0; i < 32; ++i) codes[i] = static_cast<std::uint8_t>(generator() & 63U);
    const mxfp6_e2m3 block = mxfp6_e2m3::join(p, codes);
    const auto u = mxfp6_e2m3::split(block);
    expect(u.params == p && u.codes == codes, "split undoes join");
    float decoded[32];
    subbyte::decode(block, decoded);
    for (int i = 0; i < 32; ++i) {
      expect(decoded[i] == mxfp6_e2m3::value(codes[i], i, p), "decode gives the values");
    }
    for (int code = 0; code < 64; ++code) {
      const float value = mxfp6_e2m3::value(code, 0, p);
      if (!std::isfinite(value)) continue;  // Inf at the two largest scales
      expect(mxfp6_e2m3::round(value, 0, p) == (code == 32 ? 0 : code), "a value is its own code");
      if (code % 32 == 31 || !std::isfinite(mxfp6_e2m3::value(code + 1, 0, p))) continue;
      const float middle = 0.5F * value + 0.5F * mxfp6_e2m3::value(code + 1, 0, p);
      if (scale > 2) {  // below, the middle is no float
        expect(mxfp6_e2m3::round(middle, 0, p) == (code == 32 ? 0 : code), "ties go down");
        const float beyond = std::nextafter(middle, 2 * middle);
        expect(mxfp6_e2m3::round(beyond, 0, p) == code + 1, "beyond the tie goes up");
      }
    }
  }
}

/// Every index once, pieces on multiples of the grain, and a range inside a range.
void check_pool(worker_pool& pool) {
  const subbyte::executor_ref executor = pool;
  std::vector<int> counts(1003);
  executor.for_range(1003, 10, [&](index_t begin, index_t end) noexcept {
    expect(begin % 10 == 0 && (end % 10 == 0 || end == 1003), "a piece is whole grains");
    executor.for_range(end - begin, 1, [&](index_t first, index_t last) noexcept {
      for (index_t i = first; i < last; ++i) ++counts[static_cast<std::size_t>(begin + i)];
    });
  });
  for (int count : counts) expect(count == 1, "every index once");
}

template <class F>
void print_errors(subbyte::weights_view w, worker_pool& pool) {
  const auto plain = subbyte::quantize<F>(w, subbyte::reference{}, pool).report;
  const auto searched = subbyte::quantize<F>(w, range_search{}, pool).report;
  std::printf("%-12s %8.4f %14.2f %14.2f\n", F::name, plain.bits_per_weight, plain.error.sqnr_db,
              searched.error.sqnr_db);
}

void check_products(subbyte::block_matrix_view<mxfp6_e2m3> w, worker_pool& pool) {
  const index_t n = w.rows(), k = w.cols(), m = 5;
  std::vector<float> dense(static_cast<std::size_t>(n * k));
  subbyte::dequantize(w, subbyte::matrix_view<float>(dense.data(), n, k), pool);

  const std::vector<float> a = random_values(m * k);
  const subbyte::matrix_view<const float> activations(a.data(), m, k);
  std::vector<float> c(static_cast<std::size_t>(m * n)), y(static_cast<std::size_t>(n)),
      y_serial(y);
  subbyte::gemm(w, activations, subbyte::matrix_view<float>(c.data(), m, n), pool);
  subbyte::gemv(w, activations[0], y, pool);
  subbyte::gemv(w, activations[0], y_serial);
  expect(std::memcmp(y.data(), y_serial.data(), y.size() * sizeof(float)) == 0,
         "the pool changes no bit of gemv");

  double worst = 0;
  for (index_t i = 0; i < m; ++i) {
    for (index_t j = 0; j < n; ++j) {
      double exact = 0, magnitude = 0;
      for (index_t l = 0; l < k; ++l) {
        const double product = static_cast<double>(dense[static_cast<std::size_t>(j * k + l)]) *
                               static_cast<double>(activations(i, l));
        exact += product;
        magnitude += std::abs(product);
      }
      // The bound of any order of k additions of rounded products in float.
      const double bound = static_cast<double>(k + 1) * 0x1p-23 * magnitude;
      const double error = std::abs(c[static_cast<std::size_t>(i * n + j)] - exact);
      expect(error <= bound, "gemm is the product of the decoded weights");
      worst = std::max(worst, error / magnitude);
      if (i == 0) {
        expect(std::abs(y[static_cast<std::size_t>(j)] - exact) <= bound,
               "gemv is the product of the decoded weights");
      }
    }
  }
  std::printf("products of %lld x %lld with %lld: largest error %.1e of the sum of magnitudes\n",
              static_cast<long long>(n), static_cast<long long>(k), static_cast<long long>(m),
              worst);
}

}  // namespace

int main() {
  check_laws();
  worker_pool pool(4);
  check_pool(pool);

  const index_t n = 96, k = 1000;  // the last block of a row is cut
  const std::vector<float> values = random_values(n * k);
  const subbyte::matrix_view<const float> w(values.data(), n, k);

  std::printf("%-12s %8s %14s %14s\n", "format", "bits/w", "reference, dB", "searched, dB");
  print_errors<mxfp6_e2m3>(w, pool);
  print_errors<subbyte::q4_0>(w, pool);
  print_errors<subbyte::mxfp4>(w, pool);

  const auto plain = subbyte::quantize<mxfp6_e2m3>(w);
  const auto q = subbyte::quantize<mxfp6_e2m3>(w, range_search{}, pool);
  const auto q_serial = subbyte::quantize<mxfp6_e2m3>(w, range_search{});
  expect(q.report.error.sqnr_db >= plain.report.error.sqnr_db, "searching is no worse");
  expect(std::memcmp(q.view().data(), q_serial.view().data(),
                     static_cast<std::size_t>(q.view().size_bytes())) == 0,
         "the pool changes no byte of the blocks");
  check_products(q.view(), pool);

  if (failures == 0) std::printf("everything is as it must be\n");
  return failures == 0 ? 0 : 1;
}
