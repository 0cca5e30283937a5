// SPDX-License-Identifier: Apache-2.0
/// What only a device shows: memory, uploads, streams, graphs, large shapes, cuBLAS.
#include <cmath>
#include <cstring>
#include <vector>

#include "cuda/bounds.hpp"
#include "subbyte/cuda/dequantize.cuh"
#include "subbyte/cuda/gemv.cuh"
#include "subbyte/cuda/matrix.cuh"
#include "subbyte/cuda/octet/all.cuh"
#if defined(SUBBYTE_TEST_CUBLAS)
#include "subbyte/cuda/gemm.cuh"
#endif
#include "subbyte/quantize/rtn.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/random.hpp"

namespace {

using namespace subbyte;

class owned_stream {
 public:
  owned_stream() {
    cuda::check(cudaStreamCreateWithFlags(&stream_, cudaStreamNonBlocking), "a stream");
  }
  ~owned_stream() { static_cast<void>(cudaStreamDestroy(stream_)); }
  owned_stream(const owned_stream&) = delete;
  owned_stream& operator=(const owned_stream&) = delete;
  operator cuda::stream_ref() const { return stream_; }  // NOLINT: as cudaStream_t
  cudaStream_t get() const { return stream_; }

 private:
  cudaStream_t stream_ = nullptr;
};

template <class T>
std::vector<T> read(cuda::stream_ref s, cuda::device_tensor_view<T, 2> from) {
  std::vector<T> out(static_cast<std::size_t>(from.on_device().size()));
  cuda::download(
      s, from, matrix_view<T>(out.data(), from.on_device().extent(0), from.on_device().extent(1)));
  s.synchronize();
  return out;
}

template <class T>
void write(cuda::stream_ref s, const std::vector<T>& from, cuda::device_tensor_view<T, 2> to) {
  cuda::upload<T, 2>(
      s, matrix_view<const T>(from.data(), to.on_device().extent(0), to.on_device().extent(1)), to);
  s.synchronize();
}

/// Random blocks: those of a small matrix, again and again.
template <class F>
block_matrix<F> tiled(index_t rows, index_t cols) {
  const auto w = test_support::normal_vector(static_cast<std::size_t>(64 * cols), 0.02, 3);
  const auto some = test_support::encoded<F>(w, 64, cols);
  block_matrix<F> all(rows, cols);
  for (index_t r = 0; r < rows; ++r) {
    std::memcpy(static_cast<void*>(all.row(r)), some.view().row(r % 64),
                static_cast<std::size_t>(all.view().blocks_per_row()) * sizeof(F));
  }
  return all;
}

/// Sampled outputs of y = W x against a product in double. `deviation` [m, k]: what each x may
/// deviate by, in what its weight is made of: scale times level and offset, or `dense` weights.
template <class F>
void check_sampled(const block_matrix<F>& w, const std::vector<float>& x,
                   const std::vector<float>& y, index_t m, const std::vector<double>& deviation,
                   bool dense = false) {
  const index_t cols = w.cols();
  std::mt19937_64 generator(17);
  for (int sample = 0; sample < 200; ++sample) {
    const auto r = static_cast<index_t>(generator() % static_cast<std::uint64_t>(w.rows()));
    const auto i = static_cast<index_t>(generator() % static_cast<std::uint64_t>(m));
    const auto row = cuda_cases::decoded(w.view().row_range(r, 1));
    const auto made_of = cuda_cases::magnitudes(w.view().row_range(r, 1));
    double exact = 0;
    double bound = 0;
    for (std::size_t k = 0; k < row.size(); ++k) {
      const std::size_t at = static_cast<std::size_t>(i * cols) + k;
      const auto weight = static_cast<double>(row[k]);
      exact += weight * static_cast<double>(x[at]);
      bound += deviation[at] * (dense ? std::fabs(weight) : made_of[k]);
    }
    const auto found = static_cast<double>(y[static_cast<std::size_t>(i * w.rows() + r)]);
    INFO("row " << r << ", x " << i << ": " << found << ", exact " << exact << " +- " << bound);
    REQUIRE(std::fabs(found - exact) <= bound);
  }
}

std::vector<double> relative(const std::vector<float>& x, double share) {
  std::vector<double> out(x.size());
  for (std::size_t i = 0; i < x.size(); ++i) out[i] = share * std::fabs(static_cast<double>(x[i]));
  return out;
}

/// The bound that gemv states for float x.
template <class F>
double stated(index_t k) {
  using kernel = cuda::gemv_kernel<block_matrix_view<F>, cuda::float_activations, 8>;
  return kernel::roundings(k) * std::ldexp(1.0, -24);
}

}  // namespace

TEST_CASE("A device says what it is, and refuses what it is not") {
  const cuda::device device;
  REQUIRE(cuda::device::count() > 0);
  REQUIRE(device.properties().major >= 8);
  REQUIRE(device.multiprocessors() > 0);
  try {
    const cuda::device absent(cuda::device::count());
    FAIL("a device that does not exist");
  } catch (const error& e) {
    REQUIRE(e.code() == errc::device_unavailable);
  }
  try {
    const cuda::device_bytes all(device, index_t{1} << 50);
    FAIL("a petabyte");
  } catch (const error& e) {
    REQUIRE(e.code() == errc::out_of_memory);
  }
  REQUIRE_THROWS_AS((cuda::device_tensor<float, 2>(device, -1, 3)), error);
  // Errors leave nothing behind.
  const cuda::device_tensor<float, 2> some(device, 3, 5);
  REQUIRE(some.size() == 15);
}

TEST_CASE("Matrices are uploaded whole, and moved") {
  const cuda::device device;
  const owned_stream s;
  const auto w = test_support::normal_vector(6 * 520, 0.02, 1);
  planar_matrix<codebook_grid<nf4>, f32_scale> flat(6, 520, {64});
  rtn{}.apply(matrix_view<const float>(w.data(), 6, 520), flat, serial);
  const auto nested =
      planar_matrix<codebook_grid<nf4>, nested_scale<e4m3fn, 16>>::nest_scales(flat.view(), 448.0F);
  // A part whose scales begin within a block of 16.
  const auto part = nested.view().row_range(1, 4);
  auto placed = cuda::upload_matrix(device, s, part);
  auto moved = std::move(placed);
  const cuda::device_tensor<float, 2> out(device, 4, 520);
  cuda::dequantize(cuda::stream_ref(s), moved.view(), out.view());
  const auto found = read<float>(s, out.view());
  for (index_t r = 0; r < 4; ++r) {
    std::vector<float> row(520);
    part.decode_row(r, 0, 520, row.data());
    REQUIRE(std::memcmp(row.data(), found.data() + r * 520, 520 * sizeof(float)) == 0);
  }
}

TEST_CASE("Products of large matrices are within their bounds on sampled outputs") {
  const cuda::device device;
  const owned_stream s;
  const index_t n = 4096;
  const index_t k = 14336;
  for (const index_t m : {1, 2, 4, 8}) {
    const auto w = tiled<q4_k>(n, k);
    const auto placed = cuda::upload_matrix(device, s, w.view());
    const auto x = test_support::normal_vector(static_cast<std::size_t>(m * k), 1.0, 9);
    const cuda::device_tensor<float, 2> xs(device, m, k);
    const cuda::device_tensor<float, 2> y(device, m, n);
    write(s, x, xs.view());
    cuda::gemv(cuda::stream_ref(s), placed.view(), xs.view(), y.view());
    const auto found = read<float>(s, y.view());
    check_sampled(w, x, found, m, relative(x, stated<q4_k>(k)));
    cuda::gemv(cuda::stream_ref(s), placed.view(), xs.view(), y.view());
    const auto again = read<float>(s, y.view());
    REQUIRE(std::memcmp(found.data(), again.data(), found.size() * sizeof(float)) == 0);
  }
}

TEST_CASE("Calls are captured in graphs and run on two streams") {
  const cuda::device device;
  const owned_stream s;
  const auto w = tiled<q6_k>(512, 1024);
  const auto placed = cuda::upload_matrix(device, s, w.view());
  const auto x = test_support::normal_vector(2 * 1024, 1.0, 11);
  const cuda::device_tensor<float, 2> xs(device, 2, 1024);
  write(s, x, xs.view());
  const cuda::device_tensor<float, 2> y(device, 2, 512);
  const cuda::device_tensor<subbyte::half, 2> dense(device, 512, 1024);
  const cuda::device_tensor<std::int8_t, 2> codes(device, 2, cuda::quantized_rows::pitch(1024));
  const cuda::device_tensor<float, 2> scales(device, 2, cuda::quantized_rows::pitch(1024) / 32);
  const cuda::device_tensor<float, 2> yi(device, 2, 512);

  cudaGraph_t graph = nullptr;
  cuda::check(cudaStreamBeginCapture(s.get(), cudaStreamCaptureModeGlobal), "a capture");
  cuda::gemv(cuda::stream_ref(s), placed.view(), xs.view(), y.view());
  cuda::dequantize(cuda::stream_ref(s), placed.view(), dense.view());
  const auto xi =
      cuda::quantize_activations(cuda::stream_ref(s), xs.view(), {codes.view(), scales.view()});
  cuda::gemv(cuda::stream_ref(s), placed.view(), xi, yi.view());
  cuda::check(cudaStreamEndCapture(s.get(), &graph), "a capture");
  cudaGraphExec_t runnable = nullptr;
  cuda::check(cudaGraphInstantiate(&runnable, graph, 0), "a graph");
  for (int i = 0; i < 3; ++i) cuda::check(cudaGraphLaunch(runnable, s.get()), "a graph");
  check_sampled(w, x, read<float>(s, y.view()), 2, relative(x, stated<q6_k>(1024)));
  // Integer x deviates by half a step besides: the largest of its 32 by 254, and the roundings of
  // the scale and of the quotient.
  auto deviation = relative(x, 2 * stated<q6_k>(1024));
  for (std::size_t i = 0; i < x.size(); ++i) {
    float most = 0;
    for (std::size_t j = i / 32 * 32; j < i / 32 * 32 + 32; ++j) {
      most = std::fmax(most, std::fabs(x[j]));
    }
    deviation[i] += 0.5001 * static_cast<double>(most) / 127;
  }
  check_sampled(w, x, read<float>(s, yi.view()), 2, deviation);
  const auto halves = read<subbyte::half>(s, dense.view());
  std::vector<float> row(1024);
  w.view().decode_row(511, 0, 1024, row.data());
  for (std::size_t i = 0; i < 1024; ++i)
    REQUIRE(halves[511 * 1024 + i] == subbyte::half::nearest(row[i]));
  cuda::check(cudaGraphExecDestroy(runnable), "a graph");
  cuda::check(cudaGraphDestroy(graph), "a graph");

  const owned_stream other;
  const cuda::device_tensor<float, 2> y2(device, 2, 512);
  for (int i = 0; i < 20; ++i) {
    cuda::gemv(cuda::stream_ref(s), placed.view(), xs.view(), y.view());
    cuda::gemv(cuda::stream_ref(other), placed.view(), xs.view(), y2.view());
  }
  REQUIRE(read<float>(s, y.view()) == read<float>(other, y2.view()));
}

#if defined(SUBBYTE_TEST_CUBLAS)
TEST_CASE("gemm takes any number of rows, in panels of any height, in graphs") {
  const cuda::device device;
  const owned_stream s;
  const cuda::cublas blas(device);
  const index_t n = 320;
  const index_t k = 768;
  const auto w = tiled<q5_k>(n, k);
  const auto placed = cuda::upload_matrix(device, s, w.view());
  for (const index_t m : {1, 3, 64, 129}) {
    const auto x = test_support::normal_vector(static_cast<std::size_t>(m * k), 1.0, 13);
    std::vector<bfloat16> narrow(x.size());
    std::vector<float> seen(x.size());
    for (std::size_t i = 0; i < x.size(); ++i) {
      narrow[i] = bfloat16::nearest(x[i]);
      seen[i] = narrow[i].to_float();
    }
    const cuda::device_tensor<bfloat16, 2> a(device, m, k);
    write(s, narrow, a.view());
    for (const index_t panel : {index_t{1}, index_t{100}, n}) {
      const cuda::device_tensor<bfloat16, 2> dense(device, panel, k);
      const cuda::device_tensor<float, 2> c(device, m, n);
      cuda::gemm(blas, s, placed.view(), a.view(), c.view(), dense.view());
      // Weights rounded to bfloat16, sums of k exact products in float, in whatever order.
      const double share = std::ldexp(1.0, -9) + static_cast<double>(k) * std::ldexp(1.0, -24);
      check_sampled(w, seen, read<float>(s, c.view()), m, relative(seen, share), true);
    }
  }
  const cuda::device_tensor<bfloat16, 2> a(device, 4, k + 1);
  const cuda::device_tensor<bfloat16, 2> dense(device, n, k);
  const cuda::device_tensor<float, 2> c(device, 4, n);
  REQUIRE_THROWS_AS(cuda::gemm(blas, s, placed.view(), a.view(), c.view(), dense.view()), error);
}
#endif
