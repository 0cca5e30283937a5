// SPDX-License-Identifier: Apache-2.0
/// What calibration keeps of a layer's input: a collector that sees activations batch by batch, and
/// the statistics that it ends in.
#pragma once

#if !__has_include(<Eigen/Core>)
#error "subbyte/calibrate needs Eigen >= 3.4 on the include path (CMake: subbyte::calibrate)"
#endif

// g++ 12 takes AVX-512's undefined vectors for uninitialized variables, wherever Eigen is inlined.
#pragma GCC diagnostic push
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#endif
#include <Eigen/Core>
#pragma GCC diagnostic pop
#include <algorithm>  // std::sort, std::min
#include <atomic>
#include <new>  // std::bad_alloc, from Eigen's buffers
#include <string>
#include <utility>  // std::move, std::pair
#include <vector>

#include "subbyte/core/bits.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/exec/executor.hpp"
#include "subbyte/tensor/tensor.hpp"
#include "subbyte/tensor/tensor_view.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// What a collector keeps besides the sums per channel.
struct statistics_options {
  /// X^T X, for GPTQ: k * k doubles.
  bool hessian = true;
  /// At most so many rows of X itself, drawn uniformly, for losses that need them; 0: none.
  index_t sample_rows = 0;
  /// The number of this collector's first token in the whole stream: it decides which rows are
  /// drawn, so that parts of a stream draw what the whole would have.
  index_t first_token = 0;
  /// Refuses, with out_of_memory, to take more than this; 0: no bound.
  index_t memory_bytes = 0;
};

/// The contents of input_statistics, to make it from sums that come from elsewhere.
template <class Arch>
struct basic_statistics_parts {
  index_t tokens = 0;
  tensor<double, 1> sum_magnitude;  ///< [k] sum of |x|
  tensor<double, 1> sum_square;     ///< [k] sum of x^2
  tensor<float, 1> max_magnitude;   ///< [k] largest |x|
  tensor<double, 2> hessian;        ///< [k, k] X^T X, or empty
  tensor<float, 2> sample;          ///< [rows, k], or empty
  tensor<std::uint64_t, 1> order;   ///< [rows] ascending, which of two samples' rows a merger keeps
};

namespace detail {

template <class Arch>
[[noreturn, gnu::cold, gnu::noinline]] void reject_statistics(errc code, const char* subject,
                                                              index_t found, index_t required) {
  throw_error(code, subject,
              std::to_string(found) + " values, required are " + std::to_string(required));
}

/// A uniform sample of the rows of a stream: those with the smallest hash of their number.
///
/// Hence the sample depends neither on the order of the rows nor on how they came, and the smallest
/// of two parts' samples are the sample of the whole.
template <class Arch>
class row_sample {
 public:
  SUBBYTE_INLINE row_sample() = default;
  SUBBYTE_INLINE row_sample(index_t capacity, index_t cols)
      : rows_(uninitialized, capacity, cols), order_(capacity) {}

  void add(const float* row, index_t number) {
    add_ordered(row, hash(static_cast<std::uint64_t>(number)));
  }
  void add_ordered(const float* row, std::uint64_t order) {
    index_t slot = count_;
    if (count_ == order_.size()) {
      if (count_ == 0 || order >= order_.data()[last_]) return;
      slot = last_;
    } else {
      ++count_;
    }
    order_.data()[slot] = order;
    std::copy_n(row, rows_.extent(1), &rows_(slot, index_t{0}));
    if (count_ == order_.size()) {
      last_ = std::max_element(order_.data(), order_.data() + count_) - order_.data();
    }
  }

  /// The rows in ascending order of their hash: every prefix is a sample of its own.
  void take(tensor<float, 2>& rows, tensor<std::uint64_t, 1>& order) const {
    std::vector<std::pair<std::uint64_t, index_t>> sorted;
    for (index_t i = 0; i < count_; ++i) sorted.emplace_back(order_.data()[i], i);
    std::sort(sorted.begin(), sorted.end());
    rows = tensor<float, 2>(uninitialized, count_, rows_.extent(1));
    order = tensor<std::uint64_t, 1>(uninitialized, count_);
    for (index_t i = 0; i < count_; ++i) {
      const auto& [hashed, slot] = sorted[static_cast<std::size_t>(i)];
      order.data()[i] = hashed;
      std::copy_n(&rows_(slot, index_t{0}), rows_.extent(1), &rows(i, index_t{0}));
    }
  }

 private:
  // Source  the finalizer of splitmix64, Steele, Lea and Flood 2014.
  [[nodiscard]] SUBBYTE_INLINE static std::uint64_t hash(std::uint64_t z) noexcept {
    z += 0x9e3779b97f4a7c15U;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9U;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebU;
    return z ^ (z >> 31);
  }

  tensor<float, 2> rows_;
  tensor<std::uint64_t, 1> order_;
  index_t count_ = 0;
  index_t last_ = 0;  // the slot to be given up next, once all are taken
};

}  // namespace detail

/// What is known of one layer input X [tokens, k]: sums per channel, X^T X, some rows. Shared by
/// all weights that read this input. Move-only.
template <class Arch>
class basic_input_statistics {
 public:
  basic_input_statistics() = default;

  /// From sums that come from elsewhere, such as a file.
  ///
  /// Throws  bad_shape when sizes differ or X^T X is not square or not symmetric; bad_argument for
  ///         negative counts, negative sums and rows out of order; non_finite.
  explicit basic_input_statistics(basic_statistics_parts<Arch> parts) : parts_(std::move(parts)) {
    check();
  }

  /// Channels.
  [[nodiscard]] index_t cols() const noexcept { return parts_.sum_square.size(); }
  /// Tokens seen.
  [[nodiscard]] index_t tokens() const noexcept { return parts_.tokens; }
  /// Tokens per channel: below 1, X^T X is singular, and the sums of a few tokens describe little
  /// else than those tokens. 0 means that nothing is known, and what needs statistics throws.
  [[nodiscard]] double coverage() const noexcept {
    return cols() == 0 ? 0 : static_cast<double>(tokens()) / static_cast<double>(cols());
  }
  /// Channels that were zero in every token.
  [[nodiscard]] index_t dead_channels() const noexcept {
    index_t dead = 0;
    for (index_t j = 0; j < cols(); ++j) dead += parts_.sum_square.data()[j] == 0 ? 1 : 0;
    return dead;
  }

  /// Mean |x| of every channel [k]. Throws  bad_argument without tokens.
  [[nodiscard]] tensor<float, 1> mean_magnitude() const { return mean(parts_.sum_magnitude); }
  /// Mean x^2 of every channel [k]: the importance that imatrix weights errors with. Throws
  /// bad_argument without tokens.
  [[nodiscard]] tensor<float, 1> importance() const { return mean(parts_.sum_square); }
  /// Largest |x| of every channel [k].
  [[nodiscard]] vector_view<const float> max_magnitude() const noexcept {
    return parts_.max_magnitude.view();
  }

  [[nodiscard]] bool has_hessian() const noexcept { return parts_.hessian.size() != 0; }
  /// X^T X [k, k], symmetric, the plain sum over tokens; empty if it was not collected.
  [[nodiscard]] matrix_view<const double> hessian() const noexcept { return parts_.hessian.view(); }
  /// Rows of X, a uniform sample; so is every prefix of it. Empty if none were collected.
  [[nodiscard]] matrix_view<const float> sample() const noexcept { return parts_.sample.view(); }

  [[nodiscard]] const basic_statistics_parts<Arch>& parts() const noexcept { return parts_; }

  /// Adds the tokens of another part of the same stream, or of another stream.
  ///
  /// Both must keep the same things; the sample stays as large as the larger of the two.
  /// Numerics  sums in double: the order of mergers changes them by rounding only.
  /// Throws    bad_shape for other channels; bad_argument when only one has X^T X.
  void merge(const basic_input_statistics& other) {
    if (cols() != other.cols()) {
      throw_error(errc::bad_shape, "statistics",
                  std::to_string(other.cols()) + " channels, and those to merge with have " +
                      std::to_string(cols()));
    }
    if (has_hessian() != other.has_hessian()) {
      throw_error(errc::bad_argument, "statistics",
                  "only one of the two has X^T X; both or none is required");
    }
    const index_t rows = std::max(parts_.sample.extent(0), other.parts_.sample.extent(0));
    if (rows > 0) {
      detail::row_sample<Arch> both(rows, cols());
      const basic_statistics_parts<Arch>* const both_parts[] = {&parts_, &other.parts_};
      for (const basic_statistics_parts<Arch>* part : both_parts) {
        for (index_t r = 0; r < part->sample.extent(0); ++r) {
          both.add_ordered(&part->sample(r, index_t{0}), part->order.data()[r]);
        }
      }
      both.take(parts_.sample, parts_.order);
    }
    parts_.tokens += other.parts_.tokens;
    add(parts_.sum_magnitude.data(), other.parts_.sum_magnitude.data(), cols());
    add(parts_.sum_square.data(), other.parts_.sum_square.data(), cols());
    add(parts_.hessian.data(), other.parts_.hessian.data(), parts_.hessian.size());
    for (index_t j = 0; j < cols(); ++j) {
      parts_.max_magnitude.data()[j] =
          std::max(parts_.max_magnitude.data()[j], other.parts_.max_magnitude.data()[j]);
    }
  }

 private:
  static void add(double* to, const double* from, index_t n) noexcept {
    for (index_t i = 0; i < n; ++i) to[i] += from[i];
  }

  [[nodiscard]] tensor<float, 1> mean(const tensor<double, 1>& sums) const {
    if (parts_.tokens == 0) {
      throw_error(errc::bad_argument, "statistics",
                  "no tokens were seen, and a mean needs at least one");
    }
    tensor<float, 1> means(uninitialized, cols());
    const double count = static_cast<double>(parts_.tokens);
    for (index_t j = 0; j < cols(); ++j) {
      means.data()[j] = static_cast<float>(sums.data()[j] / count);
    }
    return means;
  }

  template <class T>
  static void check_values(const char* what, const T* values, index_t n, bool may_be_negative) {
    for (index_t i = 0; i < n; ++i) {
      if (values[i] - values[i] != 0) {
        throw_error(errc::non_finite, what,
                    "value " + std::to_string(i) + " is " + std::to_string(values[i]) +
                        ", required are finite values");
      }
      if (!may_be_negative && values[i] < 0) {
        throw_error(errc::bad_argument, what,
                    "value " + std::to_string(i) + " is " + std::to_string(values[i]) +
                        ", required is at least 0");
      }
    }
  }

  void check() const {
    const index_t k = cols();
    const basic_statistics_parts<Arch>& p = parts_;
    if (p.tokens < 0) {
      throw_error(errc::bad_argument, "tokens",
                  std::to_string(p.tokens) + ", required is at least 0");
    }
    const auto require = [](const char* what, index_t found, index_t required) {
      if (found != required) {
        detail::reject_statistics<Arch>(errc::bad_shape, what, found, required);
      }
    };
    require("sum_magnitude", p.sum_magnitude.size(), k);
    require("max_magnitude", p.max_magnitude.size(), k);
    if (p.hessian.size() != 0) {
      require("hessian, per row", p.hessian.extent(1), k);
      require("hessian, per column", p.hessian.extent(0), k);
    }
    if (p.sample.extent(0) != 0) require("sample, per row", p.sample.extent(1), k);
    require("order", p.order.size(), p.sample.extent(0));
    if (p.sample.extent(0) > p.tokens) {
      throw_error(
          errc::bad_argument, "sample",
          std::to_string(p.sample.extent(0)) + " rows of " + std::to_string(p.tokens) + " tokens");
    }
    check_values("sum_magnitude", p.sum_magnitude.data(), k, false);
    check_values("sum_square", p.sum_square.data(), k, false);
    check_values("max_magnitude", p.max_magnitude.data(), k, false);
    check_values("hessian", p.hessian.data(), p.hessian.size(), true);
    check_values("sample", p.sample.data(), p.sample.size(), true);
    for (index_t i = 0; i + 1 < p.order.size(); ++i) {
      if (p.order.data()[i] > p.order.data()[i + 1]) {
        throw_error(errc::bad_argument, "order",
                    "value " + std::to_string(i + 1) + " is below the one before it");
      }
    }
    if (p.hessian.size() == 0) return;
    for (index_t r = 0; r < k; ++r) {
      if (p.hessian(r, r) < 0) {
        throw_error(errc::bad_argument, "hessian",
                    "diagonal value " + std::to_string(r) + " is " +
                        std::to_string(p.hessian(r, r)) + ", required is at least 0");
      }
      for (index_t c = 0; c < r; ++c) {
        if (p.hessian(r, c) != p.hessian(c, r)) {
          throw_error(errc::bad_shape, "hessian",
                      "values (" + std::to_string(r) + ", " + std::to_string(c) +
                          ") and its mirror image differ; a symmetric matrix is required");
        }
      }
    }
  }

  basic_statistics_parts<Arch> parts_;
};

/// Sees the activations that enter a layer, batch by batch, and keeps sums. Move-only.
///
/// Numerics  sums per channel: double, in the order of the tokens. X^T X: products and sums of
///           256 tokens in float, those sums in double, so that each entry (i, j) is off by at
///           most 256 * 2^-24 * sum |x_i x_j|: 1.5e-5 of the geometric mean of its two diagonal
///           entries, and by observation 100 times less. The same bits for any executor, thread
///           count and division of the tokens into batches.
/// Cost      k * k multiply-adds per token for X^T X, half of a general product's; O(k) otherwise.
///           Memory: required_bytes().
template <class Arch>
class basic_statistics_collector {
 public:
  /// For inputs of `cols` channels.
  ///
  /// Throws  bad_argument for a negative option; out_of_memory.
  explicit basic_statistics_collector(index_t cols, const statistics_options& options = {})
      : options_(options) {
    const auto require = [](const char* what, index_t value) {
      if (value < 0) {
        throw_error(errc::bad_argument, what, std::to_string(value) + ", required is at least 0");
      }
    };
    require("cols", cols);
    require("sample_rows", options.sample_rows);
    require("first_token", options.first_token);
    require("memory_bytes", options.memory_bytes);
    if (options.memory_bytes > 0 && required_bytes(cols, options) > options.memory_bytes) {
      throw_error(errc::out_of_memory, "statistics",
                  std::to_string(required_bytes(cols, options)) + " bytes for " +
                      std::to_string(cols) + " channels, and at most " +
                      std::to_string(options.memory_bytes) + " are allowed");
    }
    parts_.sum_magnitude = tensor<double, 1>(cols);
    parts_.sum_square = tensor<double, 1>(cols);
    parts_.max_magnitude = tensor<float, 1>(cols);
    if (options.hessian) {
      parts_.hessian = tensor<double, 2>(cols, cols);
      pending_ = tensor<float, 2>(uninitialized, pending_rows, cols);
    }
    sample_ = detail::row_sample<Arch>(options.sample_rows, cols);
  }

  /// What a collector takes, besides 3 MiB for each thread that works on X^T X: the sums, X^T X
  /// (8 k^2 bytes), 1024 rows of X that wait to be multiplied, and the sample.
  [[nodiscard]] static index_t required_bytes(index_t cols,
                                              const statistics_options& options) noexcept {
    const index_t row = cols * static_cast<index_t>(sizeof(float));
    index_t bytes = 5 * row + options.sample_rows * (row + 8);
    if (options.hessian) bytes += 2 * cols * row + pending_rows * row;
    return bytes;
  }

  [[nodiscard]] index_t cols() const noexcept { return parts_.sum_square.size(); }
  [[nodiscard]] index_t tokens() const noexcept { return parts_.tokens; }

  /// Adds the activations of some tokens, x [tokens, k].
  ///
  /// Throws  bad_shape for other channels; non_finite, naming token and channel, for NaN, Inf and
  ///         magnitudes above 2^58, whose sums of squares need not be finite: nothing is added
  ///         then. out_of_memory: the collector is of no more use.
  void add(tensor_view<const float, 2, row_pitched> x, executor_ref ex = serial) {
    if (x.extent(1) != cols()) {
      throw_error(
          errc::bad_shape, "activations",
          std::to_string(x.extent(1)) + " channels, required are " + std::to_string(cols()));
    }
    check_range(x, ex);
    const index_t count = x.extent(0);
    add_to_sums(x, ex);
    if (options_.sample_rows > 0) {
      for (index_t t = 0; t < count; ++t) {
        sample_.add(x[t].data(), options_.first_token + parts_.tokens + t);
      }
    }
    parts_.tokens += count;
    if (!options_.hessian) return;
    for (index_t done = 0; done < count;) {
      const index_t n = std::min(count - done, pending_rows - pending_count_);
      for (index_t t = 0; t < n; ++t) {
        std::copy_n(x[done + t].data(), cols(), pending_row(pending_count_ + t));
      }
      pending_count_ += n;
      done += n;
      if (pending_count_ == pending_rows) multiply_pending(ex);
    }
  }

  /// Ends the collection.
  ///
  /// Throws  out_of_memory.
  [[nodiscard]] basic_input_statistics<Arch> finish(executor_ref ex = serial) && {
    if (options_.hessian) {
      multiply_pending(ex);
      mirror(ex);
    }
    if (options_.sample_rows > 0) sample_.take(parts_.sample, parts_.order);
    return basic_input_statistics<Arch>(std::move(parts_));
  }

 private:
  static constexpr index_t pending_rows = 1024;
  static constexpr index_t depth = 256;  // tokens that are summed in float
  static constexpr index_t strip = 32;   // channels whose sums stay in registers together

  [[nodiscard]] float* pending_row(index_t t) noexcept { return pending_.data() + t * cols(); }

  // A piece of X^T X that one thread computes. Larger ones repack less, smaller ones keep more
  // threads busy; the size decides the order of float sums, and so must not depend on the executor.
  [[nodiscard]] index_t tile() const noexcept { return cols() >= 512 ? 256 : 128; }

  static void check_range(tensor_view<const float, 2, row_pitched> x, executor_ref ex) {
    constexpr std::uint32_t largest = 0x5c800000;  // 2^58
    std::atomic<bool> fine{true};
    ex.for_range(x.extent(0), 16, [&](index_t begin, index_t end) noexcept {
      for (index_t t = begin; t < end; ++t) {
        if (largest_bits(x[t].data(), x.extent(1)) > largest) {
          fine.store(false, std::memory_order_relaxed);
        }
      }
    });
    if (fine) return;
    for (index_t t = 0; t < x.extent(0); ++t) {
      for (index_t j = 0; j < x.extent(1); ++j) {
        if (largest_bits(&x(t, j), 1) <= largest) continue;
        throw_error(errc::non_finite, "activations",
                    "token " + std::to_string(t) + " of the batch, channel " + std::to_string(j) +
                        " holds " + std::to_string(x(t, j)) +
                        "; finite values of magnitude up to 2^58 are required");
      }
    }
  }

  // Of the magnitudes; those of NaN and Inf are above all others.
  [[nodiscard]] static std::uint32_t largest_bits(const float* x, index_t n) noexcept {
    std::uint32_t largest = 0;
    for (index_t j = 0; j < n; ++j) {
      const std::uint32_t bits = bit_cast<std::uint32_t>(x[j]) & 0x7fffffffU;
      largest = bits > largest ? bits : largest;
    }
    return largest;
  }

  void add_to_sums(tensor_view<const float, 2, row_pitched> x, executor_ref ex) {
    const index_t k = cols();
    ex.for_range(ceil_div(k, strip), 1, [&](index_t begin, index_t end) noexcept {
      for (index_t s = begin; s < end; ++s) {
        const index_t first = s * strip;
        const index_t n = std::min(strip, k - first);
        double magnitude[strip], square[strip];
        float largest[strip];
        for (index_t j = 0; j < strip; ++j) {
          magnitude[j] = j < n ? parts_.sum_magnitude.data()[first + j] : 0;
          square[j] = j < n ? parts_.sum_square.data()[first + j] : 0;
          largest[j] = j < n ? parts_.max_magnitude.data()[first + j] : 0;
        }
        const auto add_row = [&](const float* row) {
          for (index_t j = 0; j < strip; ++j) {
            const float size = row[j] < 0 ? -row[j] : row[j];
            const double wide = static_cast<double>(size);
            magnitude[j] += wide;
            square[j] += wide * wide;  // a product of two floats is exact in double
            largest[j] = size > largest[j] ? size : largest[j];
          }
        };
        if (n == strip) {
          for (index_t t = 0; t < x.extent(0); ++t) add_row(x[t].data() + first);
        } else {
          float padded[strip] = {};
          for (index_t t = 0; t < x.extent(0); ++t) {
            std::copy_n(x[t].data() + first, n, padded);
            add_row(padded);
          }
        }
        for (index_t j = 0; j < n; ++j) {
          parts_.sum_magnitude.data()[first + j] = magnitude[j];
          parts_.sum_square.data()[first + j] = square[j];
          parts_.max_magnitude.data()[first + j] = largest[j];
        }
      }
    });
  }

  // X^T X += of the rows that wait, tile by tile of the lower triangle.
  void multiply_pending(executor_ref ex) {
    if (pending_count_ == 0) return;
    const index_t tiles = ceil_div(cols(), tile());
    std::atomic<bool> fine{true};
    ex.for_range(tiles * (tiles + 1) / 2, 1, [&](index_t begin, index_t end) noexcept {
      try {
        accumulate_tiles(begin, end);
      } catch (const std::bad_alloc&) {
        fine.store(false, std::memory_order_relaxed);
      }
    });
    if (!fine) {
      throw_error(
          errc::out_of_memory, "statistics",
          "cannot allocate the buffers of a product of " + std::to_string(cols()) + " channels");
    }
    pending_count_ = 0;
  }

  void accumulate_tiles(index_t begin, index_t end) {
    using float_matrix = Eigen::Matrix<float, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    using double_matrix = Eigen::Matrix<double, Eigen::Dynamic, Eigen::Dynamic, Eigen::RowMajor>;
    const index_t k = cols();
    const index_t size = tile();
    const Eigen::Map<const float_matrix> x(pending_.data(), pending_count_, k);
    Eigen::Map<double_matrix> target(parts_.hessian.data(), k, k);
    float_matrix product;
    double_matrix sum;
    for (index_t index = begin; index < end; ++index) {
      index_t row_tile = 0;
      while ((row_tile + 1) * (row_tile + 2) / 2 <= index) ++row_tile;
      const index_t row = row_tile * size;
      const index_t col = (index - row_tile * (row_tile + 1) / 2) * size;
      const index_t rows = std::min(size, k - row);
      const index_t columns = std::min(size, k - col);
      sum.setZero(rows, columns);
      for (index_t first = 0; first < pending_count_; first += depth) {
        const index_t n = std::min(depth, pending_count_ - first);
        const auto left = x.block(first, row, n, rows);
        if (row == col) {
          product.setZero(rows, columns);
          product.template selfadjointView<Eigen::Lower>().rankUpdate(left.transpose());
        } else {
          product.resize(rows, columns);
          product.noalias() = left.transpose() * x.block(first, col, n, columns);
        }
        sum += product.template cast<double>();
      }
      target.block(row, col, rows, columns) += sum;
    }
  }

  // Gives the upper triangle the values of the lower one.
  void mirror(executor_ref ex) {
    const index_t k = cols();
    double* const h = parts_.hessian.data();
    ex.for_range(ceil_div(k, strip), 1, [&](index_t begin, index_t end) noexcept {
      for (index_t s = begin; s < end; ++s) {
        const index_t last_row = std::min(k, (s + 1) * strip);
        for (index_t first = s * strip; first < k; first += strip) {
          const index_t last = std::min(k, first + strip);
          for (index_t r = s * strip; r < last_row; ++r) {
            for (index_t c = std::max(first, r + 1); c < last; ++c) h[r * k + c] = h[c * k + r];
          }
        }
      }
    });
  }

  statistics_options options_;
  basic_statistics_parts<Arch> parts_;
  detail::row_sample<Arch> sample_;
  tensor<float, 2> pending_;  // [pending_rows, k]
  index_t pending_count_ = 0;
};

using statistics_parts = basic_statistics_parts<arch::native>;
using input_statistics = basic_input_statistics<arch::native>;
using statistics_collector = basic_statistics_collector<arch::native>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
