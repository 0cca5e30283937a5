// SPDX-License-Identifier: Apache-2.0
/// What decoding and products with a vector reach on a device, beside cuBLAS with dense 16-bit
/// weights: cold weights, graphs, contenders in turn. Nothing is timed before its result is
/// checked.
#include <cmath>
#include <cstdio>
#include <exception>
#include <map>
#include <stdexcept>
#include <tuple>

#include "dense.hpp"
#include "device_timing.cuh"
#include "formats.hpp"
#include "machine.hpp"
#include "subbyte/cuda/thread.cuh"

namespace {

using bench::arithmetic;
using bench::contender;
using bench::dense_shape;
using bench::dense_type;
using bench::record;
using bench::stored_format;
using bench::timed;
using subbyte::bfloat16;
using subbyte::half;
using subbyte::index_t;
using subbyte::cuda::device;
using subbyte::cuda::device_bytes;

struct shape {
  index_t n;
  index_t k;
};

// Layers of Llama-3 8B and 70B: o, down, gate + up; o, down.
constexpr shape shapes[] = {
    {4096, 4096}, {4096, 14336}, {28672, 4096}, {8192, 8192}, {8192, 28672}};
constexpr index_t largest_n = 28672;
constexpr index_t largest_k = 28672;
constexpr int dense_rows[] = {1, 2, 4, 8, 16, 32, 64, 128, 256, 1024, 4096};
constexpr index_t largest_m = 4096;
constexpr int vector_rows[] = {1, 4, 2, 8};  // the most wanted first
constexpr shape decoded_shapes[] = {{8192, 8192}, {4096, 4096}};
constexpr index_t cold_bytes = index_t{256} << 20;
constexpr index_t gigabyte = index_t{1} << 30;

/// Element i as a float in (-1, 1) times scale.
__host__ __device__ float random_element(index_t i, float scale) {
  auto h = static_cast<std::uint32_t>(i * 0x9E3779B1 + (i >> 32));
  h = (h ^ (h >> 15)) * 0x2C1B3C6DU;
  h = (h ^ (h >> 12)) * 0x297A2D39U;
  h ^= h >> 15;
  return scale * (static_cast<float>(h >> 8) * 0x1p-23F - 1.0F);
}

template <class T>
__global__ void random_kernel(T* to, index_t count, float scale) {
  const index_t stride = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < count;
       i += stride) {
    to[i] = subbyte::cuda::rounded<T>(random_element(i, scale));
  }
}

/// The halves as floats.
__global__ void widen_kernel(const half* from, float* to, index_t count) {
  const index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x;
  if (i < count) to[i] = subbyte::cuda::to_float(from[i]);
}

template <class T>
std::vector<T> downloaded(const void* from, index_t count) {
  std::vector<T> out(static_cast<std::size_t>(count));
  subbyte::cuda::copy_bytes({}, from, count * static_cast<index_t>(sizeof(T)), out.data());
  subbyte::cuda::stream_ref().synchronize();
  return out;
}

std::string text(const shape& s, index_t m) {
  return std::to_string(s.n) + " x " + std::to_string(s.k) + ", m = " + std::to_string(m);
}

class products {
 public:
  products(const device& on, double seconds)
      : on_(on),
        timer_(on),
        seconds_(seconds),
        budget_(seconds),
        dense_(bench::dense_products::make(on)),
        formats_(bench::stored_formats(on)),
        quantized_(on, 2 * gigabyte),
        outputs_(on, gigabyte),
        x_halves_(on, 8 * largest_k * 2),
        x_floats_(on, 8 * largest_k * 4),
        y_(on, 8 * largest_n * 4) {
    random<half>(x_halves_, 1.0F);
    random<half>(quantized_, 1.0F);  // what copies read where no matrix lies
    widen_kernel<<<8 * largest_k / 256, 256, 0, timer_.stream()>>>(
        reinterpret_cast<const half*>(x_halves_.on_device()), floats_of_x(), 8 * largest_k);
    bench::check(cudaGetLastError(), "fill");
    if (dense_ == nullptr) return;
    for (const dense_type t : {dense_type::bf16, dense_type::f16}) {
      dense_data& d = dense_data_[t == dense_type::f16];
      d.weights = device_bytes(on, gigabyte);
      d.x = device_bytes(on, largest_m * largest_k * 2);
      if (t == dense_type::bf16) {
        random<bfloat16>(d.weights, 0.05F);
        random<bfloat16>(d.x, 1.0F);
      } else {
        random<half>(d.weights, 0.05F);
        random<half>(d.x, 1.0F);
      }
    }
    dense_y_ = device_bytes(on, largest_m * largest_n * 2);
  }

  /// Whether every result was right. save(): whenever something is done.
  template <class Save>
  bool run(bench::results& out, Save save) {
    if (dense_ != nullptr) {
      out.machine.emplace_back("cublas", dense_->version());
      const bench::deadline own(0.3 * seconds_);
      for (const int m : dense_rows) {
        for (const shape& s : shapes) {
          for (const dense_type t : {dense_type::bf16, dense_type::f16}) {
            if (own.passed()) {
              out.skipped.push_back("cuBLAS " + text(s, m));
              continue;
            }
            multiply_dense(out.section("cublas"), {t, s.n, s.k, m});
          }
        }
        save();
      }
    }
    for (const shape& s : decoded_shapes) {
      for (const auto& format : formats_) {
        if (budget_.passed()) {
          out.skipped.push_back("dequantize " + format->name() + " " + text(s, 0));
          continue;
        }
        decode(out.section("dequantize"), *format, s);
      }
      save();
    }
    for (const int m : vector_rows) {
      for (const shape& s : shapes) {
        for (const auto& format : formats_) {
          if (budget_.passed()) {
            out.skipped.push_back("gemv " + format->name() + " " + text(s, m));
            continue;
          }
          multiply(out.section("gemv"), *format, s, m);
        }
        save();
      }
    }
    return right_;
  }

 private:
  struct dense_data {
    device_bytes weights;
    device_bytes x;
  };
  struct chosen {
    int algorithm = 0;
    double us = 0;
  };

  template <class T>
  void random(const device_bytes& to, float scale) {
    random_kernel<<<8192, 256, 0, timer_.stream()>>>(
        reinterpret_cast<T*>(to.on_device()), to.size() / static_cast<index_t>(sizeof(T)), scale);
    bench::check(cudaGetLastError(), "fill");
  }
  float* floats_of_x() const { return reinterpret_cast<float*>(x_floats_.on_device()); }
  float* y() const { return reinterpret_cast<float*>(y_.on_device()); }

  void poison(const device_bytes& b, index_t count) {
    bench::check(
        cudaMemsetAsync(b.on_device(), 0xFF, static_cast<std::size_t>(count), timer_.stream()),
        "poison");
  }

  static void append(record& r, const timed& t, double bytes) {
    r.emplace_back("us", t.us.median);
    r.emplace_back("fastest_us", t.us.fastest);
    r.emplace_back("spread", t.us.spread);
    r.emplace_back("calls", t.calls);
    r.emplace_back("bytes", bytes);
    r.emplace_back("tb_per_s", bytes / t.us.median * 1e-6);
  }

  void refuse(std::vector<record>& list, record r, const std::string& why) {
    r.emplace_back("error", why);
    list.push_back(std::move(r));
    right_ = false;
  }

  // ---- cuBLAS ---------------------------------------------------------------------------------

  contender dense_contender(const dense_shape& s, int algorithm) {
    const dense_data& d = dense_data_[s.type == dense_type::f16];
    const index_t bytes = s.n * s.k * 2;
    const auto copies = static_cast<int>(
        std::min<index_t>(bench::cold_copies(bytes, cold_bytes), d.weights.size() / bytes));
    return {"cublas",
            [this, s, algorithm, bytes, copies, &d](cudaStream_t stream, int i) {
              dense_->multiply(stream, s, algorithm, d.weights.on_device() + i % copies * bytes,
                               d.x.on_device(), dense_y_.on_device());
            },
            copies};
  }

  template <class T>
  std::string dense_error(const dense_shape& s) {
    const dense_data& d = dense_data_[s.type == dense_type::f16];
    for (int sample = 0; sample < 6; ++sample) {
      const index_t i = sample * (s.m - 1) / 5;
      const index_t j = (sample * 7919 + 13) % s.n;
      const auto w = downloaded<T>(d.weights.on_device() + j * s.k * 2, s.k);
      const auto x = downloaded<T>(d.x.on_device() + i * s.k * 2, s.k);
      const double y = downloaded<T>(dense_y_.on_device() + (i * s.n + j) * 2, 1)[0].to_float();
      double sum = 0;
      double magnitude = 0;
      for (std::size_t k = 0; k < w.size(); ++k) {
        const double product = static_cast<double>(w[k].to_float()) * x[k].to_float();
        sum += product;
        magnitude += std::abs(product);
      }
      // A gate, not a bound: the proposals may add partial sums in 16 bits, in any order.
      if (!(std::abs(y - sum) <= std::abs(sum) / 128 + magnitude * 1e-3)) {
        return "y[" + std::to_string(i) + "][" + std::to_string(j) + "] is " + std::to_string(y) +
               ", not " + std::to_string(sum);
      }
    }
    return "";
  }

  void multiply_dense(std::vector<record>& list, const dense_shape& s) {
    record r{{"type", std::string(s.type == dense_type::bf16 ? "bf16" : "f16")},
             {"n", s.n},
             {"k", s.k},
             {"m", s.m}};
    // The quickest of what is proposed.
    chosen best;
    best.us = std::numeric_limits<double>::infinity();
    const int algorithms = dense_->algorithms(s);
    for (int a = 0; a < algorithms; ++a) {
      const timed t =
          timer_.alone(dense_contender(s, a), {.replays = 3, .replay_us = 300, .most_calls = 60});
      if (t.us.median < best.us) best = {a, t.us.median};
    }
    poison(dense_y_, s.m * s.n * 2);
    dense_contender(s, best.algorithm).queue(timer_.stream(), 0);
    timer_.synchronize();
    const std::string error =
        s.type == dense_type::bf16 ? dense_error<bfloat16>(s) : dense_error<half>(s);
    if (!error.empty()) return refuse(list, std::move(r), error);

    const auto both = timer_.interleaved(
        {dense_contender(s, best.algorithm), dense_contender(s, 0)}, {.replays = 7});
    best.us = both[0].us.median;
    best_[std::make_tuple(s.type, s.n, s.k, s.m)] = best;
    const auto elements = static_cast<double>(s.n * s.k + s.m * s.k + s.m * s.n);
    append(r, both[0], 2 * elements);
    r.emplace_back("tflop_per_s", 2.0 * static_cast<double>(s.m) * static_cast<double>(s.n * s.k) /
                                      both[0].us.median * 1e-6);
    r.emplace_back("algorithm", best.algorithm);
    r.emplace_back("algorithms_tried", algorithms);
    r.emplace_back("default_us", both[1].us.median);
    list.push_back(std::move(r));
  }

  // ---- quantized ------------------------------------------------------------------------------

  /// Copies of the matrix, next to each other in quantized_; their number.
  int fill(stored_format& format, const shape& s) {
    const index_t bytes = stride(format, s);
    const auto copies = static_cast<int>(
        std::min<index_t>(bench::cold_copies(bytes, cold_bytes), quantized_.size() / bytes));
    if (copies < 1) throw std::runtime_error(format.name() + ": no room for a matrix");
    for (int c = 0; c < copies; ++c) {
      format.fill(timer_.stream(), quantized_.on_device() + c * bytes, s.n, s.k,
                  static_cast<std::uint32_t>(c) * 7919);
    }
    timer_.synchronize();
    return copies;
  }
  static index_t stride(const stored_format& format, const shape& s) {
    return (format.bytes(s.n, s.k) + 255) / 256 * 256;
  }

  record described(const stored_format& format, const shape& s) {
    const auto bytes = static_cast<double>(format.bytes(s.n, s.k));
    return {{"format", format.name()},
            {"bits_per_weight", 8 * bytes / static_cast<double>(s.n * s.k)},
            {"n", s.n},
            {"k", s.k}};
  }

  void decode(std::vector<record>& list, stored_format& format, const shape& s) {
    record r = described(format, s);
    const int copies = fill(format, s);
    const index_t bytes = stride(format, s);
    const index_t out_bytes = s.n * s.k * 2;
    const auto outputs = static_cast<int>(
        std::min<index_t>(bench::cold_copies(out_bytes, cold_bytes), outputs_.size() / out_bytes));
    const auto queue = [&](cudaStream_t stream, int i) {
      format.dequantize(stream, quantized_.on_device() + i % copies * bytes, s.n, s.k,
                        reinterpret_cast<half*>(outputs_.on_device() + i % outputs * out_bytes));
    };
    poison(outputs_, out_bytes);
    queue(timer_.stream(), 0);
    timer_.synchronize();
    for (const index_t row : {index_t{0}, s.n / 3, s.n - 1}) {
      const auto expected = format.row(quantized_.on_device(), s.n, s.k, row);
      const auto found = downloaded<half>(outputs_.on_device() + row * s.k * 2, s.k);
      for (std::size_t j = 0; j < expected.size(); ++j) {
        const half right = half::nearest(expected[j]);
        if (found[j].bits == right.bits) continue;
        return refuse(list, std::move(r),
                      "W[" + std::to_string(row) + "][" + std::to_string(j) + "] is " +
                          std::to_string(found[j].to_float()) + ", not " +
                          std::to_string(right.to_float()));
      }
    }
    // As many bytes read and written together by a copy, half of them each.
    const index_t moved = format.bytes(s.n, s.k) + out_bytes;
    const index_t copied = moved / 2 / 256 * 256;
    const index_t sources = quantized_.size() / copied;
    const auto copy = [&](cudaStream_t stream, int i) {
      bench::check(
          cudaMemcpyAsync(outputs_.on_device() + i % outputs * out_bytes,
                          quantized_.on_device() + i % sources * copied,
                          static_cast<std::size_t>(copied), cudaMemcpyDeviceToDevice, stream),
          "a copy");
    };
    const auto times =
        timer_.interleaved({{"dequantize", queue, std::max(copies, outputs)},
                            {"copy", copy, std::max(static_cast<int>(sources), outputs)}},
                           {.replays = 7});
    append(r, times[0], static_cast<double>(moved));
    r.emplace_back("copy_us", times[1].us.median);
    r.emplace_back("share_of_copy", times[1].us.median / times[0].us.median);
    list.push_back(std::move(r));
  }

  /// What is wrong with y = x W^T of the first copy of W; empty: nothing.
  std::string error_of(const stored_format& format, const shape& s, int m, arithmetic a) {
    const auto result = downloaded<float>(y(), m * s.n);
    for (std::size_t i = 0; i < result.size(); ++i) {
      if (!std::isfinite(result[i])) return "y has " + std::to_string(result[i]);
    }
    auto x = downloaded<float>(floats_of_x(), m * s.k);
    if (a == arithmetic::integers) round_to_integers(x, s.k);
    // Levels and offsets are larger than the weights that they make: eight times is ample.
    const double unit =
        8 * (format.roundings(s.k) * 0x1p-24 + (a == arithmetic::halves ? 2 * 0x1p-11 : 0.0));
    for (const index_t row : {index_t{0}, s.n / 3, s.n / 2 + 1, s.n - 1}) {
      const auto w = format.row(quantized_.on_device(), s.n, s.k, row);
      for (index_t i = 0; i < m; ++i) {
        double sum = 0;
        double magnitude = 0;
        for (index_t k = 0; k < s.k; ++k) {
          const double product = static_cast<double>(w[static_cast<std::size_t>(k)]) *
                                 x[static_cast<std::size_t>(i * s.k + k)];
          sum += product;
          magnitude += std::abs(product);
        }
        const double found = result[static_cast<std::size_t>(i * s.n + row)];
        if (!(std::abs(found - sum) <= unit * magnitude)) {
          return "y[" + std::to_string(i) + "][" + std::to_string(row) + "] is " +
                 std::to_string(found) + ", not " + std::to_string(sum);
        }
      }
    }
    return "";
  }

  /// What quantize_activations makes of x.
  static void round_to_integers(std::vector<float>& x, index_t cols) {
    constexpr index_t group = subbyte::cuda::integer_activations::group;
    static_cast<void>(cols);  // a multiple of the group
    for (std::size_t at = 0; at < x.size(); at += group) {
      float most = 0;
      for (std::size_t i = at; i < at + group; ++i) most = std::max(most, std::abs(x[i]));
      const float scale = most / 127.0F;
      for (std::size_t i = at; i < at + group; ++i) {
        x[i] = scale != 0 ? scale * std::nearbyint(x[i] / scale) : 0.0F;
      }
    }
  }

  void multiply(std::vector<record>& list, stored_format& format, const shape& s, int m) {
    const int copies = fill(format, s);
    const index_t bytes = stride(format, s);
    const index_t pitch = subbyte::cuda::quantized_rows::pitch(s.k);
    const subbyte::cuda::device_tensor<std::int8_t, 2> codes(on_, m, pitch);
    const subbyte::cuda::device_tensor<float, 2> scales(
        on_, m, pitch / subbyte::cuda::integer_activations::group);
    const auto integer_view = subbyte::cuda::quantize_activations(
        subbyte::cuda::stream_ref(timer_.stream()),
        subbyte::cuda::device_view(subbyte::tensor_view<const float, 2>(floats_of_x(), m, s.k)),
        {codes.view(), scales.view()});
    const bench::device_activations x{
        m, floats_of_x(), reinterpret_cast<const half*>(x_halves_.on_device()), &integer_view};

    std::vector<contender> contenders;
    std::vector<record> records;
    const auto base = best_.find(std::make_tuple(dense_type::bf16, s.n, s.k, index_t{m}));
    if (base != best_.end()) {
      contenders.push_back(
          dense_contender({dense_type::bf16, s.n, s.k, m}, base->second.algorithm));
    }
    const std::size_t ours = contenders.size();
    const std::pair<arithmetic, const char*> ways[] = {{arithmetic::floats, "float"},
                                                       {arithmetic::halves, "half"},
                                                       {arithmetic::integers, "integer"}};
    for (const auto& [way, name] : ways) {
      if (!format.takes(way)) continue;
      record r = described(format, s);
      r.emplace_back("m", m);
      r.emplace_back("x", std::string(name));
      const auto queue = [this, &format, &x, s, copies, bytes, w = way](cudaStream_t stream,
                                                                        int i) {
        format.gemv(stream, quantized_.on_device() + i % copies * bytes, s.n, s.k, w, x, y());
      };
      poison(y_, m * s.n * 4);
      queue(timer_.stream(), 0);
      timer_.synchronize();
      const std::string error = error_of(format, s, m, way);
      if (!error.empty()) {
        refuse(list, std::move(r), error);
        continue;
      }
      contenders.push_back({name, queue, copies});
      records.push_back(std::move(r));
    }
    const auto times = timer_.interleaved(contenders, {.replays = 7});
    for (std::size_t i = 0; i < records.size(); ++i) {
      const timed& t = times[ours + i];
      append(records[i], t,
             static_cast<double>(format.bytes(s.n, s.k) + 4 * m * s.k + 4 * m * s.n));
      if (ours != 0) {
        records[i].emplace_back("cublas_bf16_us", times[0].us.median);
        records[i].emplace_back("times_as_quick_as_cublas_bf16", times[0].us.median / t.us.median);
      }
      list.push_back(std::move(records[i]));
    }
  }

  const device& on_;
  bench::timer timer_;
  double seconds_;
  bench::deadline budget_;
  std::unique_ptr<bench::dense_products> dense_;
  std::vector<std::unique_ptr<stored_format>> formats_;
  device_bytes quantized_;
  device_bytes outputs_;
  device_bytes x_halves_;
  device_bytes x_floats_;
  device_bytes y_;
  dense_data dense_data_[2];
  device_bytes dense_y_;
  std::map<std::tuple<dense_type, index_t, index_t, index_t>, chosen> best_;
  bool right_ = true;
};

}  // namespace

int main(int argc, char** argv) try {
  const bench::options options = bench::parse_options(argc, argv, 150);
  const device on(0);
  on.make_current();
  bench::results out;
  out.machine = describe(on, options);
  bench::add_clocks(out, "before");
  const bool right = products(on, options.seconds).run(out, [&] { write_json(out, options.out); });
  bench::add_clocks(out, "after");
  write_json(out, options.out);
  std::printf(
      "%s\n%s%s%s", options.out.c_str(),
      bench::table(out.section("cublas"), {"type", "n", "k", "m", "us", "tb_per_s", "tflop_per_s"})
          .c_str(),
      bench::table(out.section("dequantize"),
                   {"format", "n", "k", "us", "tb_per_s", "share_of_copy", "error"})
          .c_str(),
      bench::table(out.section("gemv"), {"format", "x", "n", "k", "m", "us", "tb_per_s",
                                         "times_as_quick_as_cublas_bf16", "error"})
          .c_str());
  if (!right) std::fprintf(stderr, "products: wrong results, see \"error\" in the file\n");
  return right ? 0 : 1;
} catch (const std::exception& e) {
  std::fprintf(stderr, "products: %s\n", e.what());
  return 1;
}
