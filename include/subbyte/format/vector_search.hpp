// SPDX-License-Identifier: Apache-2.0
/// Which points of a codebook lie near a vector of digits: the table behind the encoders of the
/// IQ1, IQ2 and IQ3 formats.
#pragma once

#include "subbyte/format/vector_codebook.hpp"
#include "subbyte/num/float_lanes.hpp"
#include "subbyte/num/rounding.hpp"
#include "subbyte/tensor/tensor.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// The values of digits in a search: first + step * digit, exact in fp32.
struct digit_levels {
  float first;
  float step;
};

/// For every vector of Codebook::digits ^ Codebook::dimensions digits: the point that it is, or the
/// points on its nearest `Shells` distances, ordered by squared distance and then by index.
///
/// A vector is numbered sum(digit[j] * digits^j), so that only vectors that occur have a place.
///
/// Cost      the constructor takes 1 to 20 ms (256 to 2048 points) and 0.3 to 2.2 MB.
/// Throws    error{out_of_memory}.
/// Source    ggml builds the same lists in iq2xs_init_impl and iq3xs_init_impl, and keeps them in
///           globals.
template <class Codebook, int Shells, class Arch>
class point_table {
 public:
  static constexpr int dimensions = Codebook::dimensions;
  static constexpr int digits = Codebook::digits;
  /// How many vectors half of the dimensions have.
  static constexpr int half_vectors = [] {
    int count = 1;
    for (int j = 0; j < dimensions / 2; ++j) count *= digits;
    return count;
  }();
  static constexpr int vectors = half_vectors * half_vectors;

  point_table() : entries_(uninitialized, vectors), neighbours_(uninitialized, 1 << 16) {
    using distances = std::uint8_t[Codebook::size];
    // Squared distances from every half vector to the same half of every point: those of a vector
    // are sums of two of them.
    tensor<std::uint8_t, 2> halves(uninitialized, 2 * half_vectors, Codebook::size);
    for (int v = 0; v < half_vectors; ++v) {
      half_distances(v, 0, halves.data() + v * Codebook::size);
      half_distances(v, dimensions / 2, halves.data() + (half_vectors + v) * Codebook::size);
    }
    for (int v = 0; v < vectors; ++v) {
      const std::uint8_t* const low = halves.data() + v % half_vectors * Codebook::size;
      const std::uint8_t* const high =
          halves.data() + (half_vectors + v / half_vectors) * Codebook::size;
      distances distance;
      for (int p = 0; p < Codebook::size; ++p) {
        distance[p] = static_cast<std::uint8_t>(low[p] + high[p]);
      }
      entries_(v) = {size_, 0};
      append_shells(distance, entries_(v));
    }
    for (int p = 0; p < Codebook::size; ++p) entries_(vector_of(p)) = {p, 0};
  }

  /// The point that the vector is; -1 for none.
  [[nodiscard]] int point(int vector) const noexcept {
    const entry e = entries_.data()[vector];
    return e.count == 0 ? e.first : -1;
  }

  /// The neighbour p of the vector with the least sum(weight[j] * (scale * level[p][j] - x[j])^2),
  /// the earlier one on ties; the nearest one when every sum overflows or is NaN.
  ///
  /// Requires  the vector is no point.
  [[nodiscard]] int nearest(int vector, digit_levels levels, float scale, const float* x,
                            const float* weight) const noexcept {
    constexpr int mask = (1 << Codebook::digit_bits) - 1;
    using lanes = float_lanes<Arch, lane_count>;
    using ints = int_lanes<Arch, lane_count>;
    constexpr float positions[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    const entry e = entries_.data()[vector];
    const std::int32_t* const list = neighbours_.data() + e.first;
    lanes best_error = lanes::broadcast(3.40282347e+38F);
    lanes best_position = lanes::broadcast(0);
    lanes position = lanes::load(positions);
    for (int n = 0; n < e.count; n += lane_count) {
      const ints packed = ints::load(list + n);
      lanes error = lanes::broadcast(0);
      for (int j = 0; j < dimensions; ++j) {
        const lanes digit =
            to_float((packed >> (Codebook::digit_bits * j)) & ints::broadcast(mask));
        const lanes level =
            unfused(digit * lanes::broadcast(levels.step)) + lanes::broadcast(levels.first);
        const lanes difference = unfused(lanes::broadcast(scale) * level) - lanes::broadcast(x[j]);
        error = error + unfused(lanes::broadcast(weight[j]) * difference * difference);
      }
      const auto better = error < best_error;
      best_error = select(better, error, best_error);
      best_position = select(better, position, best_position);
      position = position + lanes::broadcast(lane_count);
    }
    float errors[lane_count];
    float at[lane_count];
    best_error.store(errors);
    best_position.store(at);
    // Errors are sums from +0 and never NaN here, so their bits order as they do; the position in
    // the low half decides ties.
    std::uint64_t best = ~std::uint64_t{0};
    for (int k = 0; k < lane_count; ++k) {
      const auto place = static_cast<std::uint64_t>(static_cast<std::uint32_t>(at[k]));
      const std::uint64_t key = std::uint64_t{bit_cast<std::uint32_t>(errors[k])} << 32 | place;
      best = key < best ? key : best;
    }
    return list[best & 0xFFFFFFFFU] >> 16;
  }

  /// How many scales nearest_each() takes.
  static constexpr int batch = 8;

  /// nearest() for `batch` scales: found[k] belongs to scales[k].
  void nearest_each(int vector, digit_levels levels, const float* scales, const float* x,
                    const float* weight, int* found) const noexcept {
    constexpr int mask = (1 << Codebook::digit_bits) - 1;
    using lanes = float_lanes<Arch, batch>;
    const entry e = entries_.data()[vector];
    const std::int32_t* const list = neighbours_.data() + e.first;
    // What each digit in each place adds to an error.
    float term[dimensions][digits][batch];
    const lanes scale = lanes::load(scales);
    for (int digit = 0; digit < digits; ++digit) {
      const float level = levels.first + unfused(levels.step * static_cast<float>(digit));
      const lanes value = unfused(scale * lanes::broadcast(level));
      for (int j = 0; j < dimensions; ++j) {
        const lanes difference = value - lanes::broadcast(x[j]);
        unfused(lanes::broadcast(weight[j]) * difference * difference).store(term[j][digit]);
      }
    }
    lanes best_error = lanes::broadcast(3.40282347e+38F);
    lanes best_position = lanes::broadcast(0);
    for (int n = 0; n < e.count; ++n) {
      lanes error = lanes::load(term[0][list[n] & mask]);
      for (int j = 1; j < dimensions; ++j) {
        error = error + lanes::load(term[j][list[n] >> (Codebook::digit_bits * j) & mask]);
      }
      const auto better = error < best_error;
      best_error = select(better, error, best_error);
      best_position = select(better, lanes::broadcast(static_cast<float>(n)), best_position);
    }
    float at[batch];
    best_position.store(at);
    for (int k = 0; k < batch; ++k) found[k] = list[static_cast<int>(at[k])] >> 16;
  }

 private:
  static constexpr int lane_count = Codebook::dimensions == 8 ? lanes_for<Arch, 16> : 8;

  /// count 0: the vector is point `first`. Else it has `count` neighbours from `first` on.
  struct entry {
    std::int32_t first;
    std::int32_t count;
  };

  static int digit_of(int point, int j) noexcept {
    return Codebook::point(point) >> (Codebook::digit_bits * j) & ((1 << Codebook::digit_bits) - 1);
  }

  static int vector_of(int point) noexcept {
    int vector = 0;
    for (int j = dimensions - 1; j >= 0; --j) vector = digits * vector + digit_of(point, j);
    return vector;
  }

  static void half_distances(int half_vector, int first, std::uint8_t* out) noexcept {
    for (int p = 0; p < Codebook::size; ++p) out[p] = 0;
    for (int j = first; j < first + dimensions / 2; ++j, half_vector /= digits) {
      for (int p = 0; p < Codebook::size; ++p) {
        const int difference = digit_of(p, j) - half_vector % digits;
        out[p] = static_cast<std::uint8_t>(out[p] + difference * difference);
      }
    }
  }

  // Appends the points on the nearest shells, padded to whole lanes: a copy ties with the original
  // and comes later.
  void append_shells(const std::uint8_t (&distance)[Codebook::size], entry& e) {
    int shell[Shells];
    int inner = -1;
    for (int& radius : shell) {
      // Distances up to `inner` wrap to the top of the byte.
      std::uint8_t least = 255;
      const auto next = static_cast<std::uint8_t>(inner + 1);
      for (int p = 0; p < Codebook::size; ++p) {
        const auto beyond = static_cast<std::uint8_t>(distance[p] - next);
        least = beyond < least ? beyond : least;
      }
      radius = inner = next + least;
    }
    if (shell[0] == 0) return;

    std::uint16_t near[Codebook::size];
    int found = 0;
    for (int p = 0; p < Codebook::size; ++p) {
      near[found] = static_cast<std::uint16_t>(p);
      found += distance[p] <= inner ? 1 : 0;
    }
    reserve(size_ + found + lane_count);
    std::int32_t* const list = neighbours_.data() + size_;
    for (const int radius : shell) {
      for (int k = 0; k < found; ++k) {
        if (distance[near[k]] == radius) {
          list[e.count++] = near[k] << 16 | Codebook::point(near[k]);
        }
      }
    }
    int padded = e.count;
    for (; padded % lane_count != 0; ++padded) list[padded] = list[e.count - 1];
    size_ += padded;
  }

  void reserve(index_t capacity) {
    if (capacity <= neighbours_.size()) return;
    tensor<std::int32_t, 1> larger(uninitialized, 2 * capacity);
    for (int k = 0; k < size_; ++k) larger.data()[k] = neighbours_.data()[k];
    neighbours_ = static_cast<tensor<std::int32_t, 1>&&>(larger);
  }

  tensor<entry, 1> entries_;
  /// Index << 16 | digits.
  tensor<std::int32_t, 1> neighbours_;
  std::int32_t size_ = 0;
};

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
