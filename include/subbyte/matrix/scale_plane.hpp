// SPDX-License-Identifier: Apache-2.0
/// The scales of a planar matrix: stored one by one, or quantized a second time.
#pragma once

#include "subbyte/core/arch.hpp"
#include "subbyte/core/expects.hpp"
#include "subbyte/format/scale.hpp"
#include "subbyte/num/rounding.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Names scales that are quantized themselves: an Inner each, one float per Block of them, and one
/// offset for all (QLoRA's double quantization).
///
/// Value     inner * outer[i / Block] + offset, two roundings; i counts the groups of the whole
///           matrix, row by row.
/// Source    QLoRA (arXiv 2305.14314) section 3; bitsandbytes' compress_statistics.
template <scale_store Inner, int Block = 256>
struct nested_scale {
  static_assert(Block > 0);
  using inner = Inner;
  static constexpr int block = Block;
};

template <class S>
inline constexpr bool is_nested_scale = false;
template <class Inner, int Block>
inline constexpr bool is_nested_scale<nested_scale<Inner, Block>> = true;

/// What a planar matrix's scales may be.
template <class S>
concept plane_scale = scale_store<S> || is_nested_scale<S>;

/// The scales of all groups where they lie; read only, never owns.
template <class S>
class scale_plane {
 public:
  SUBBYTE_INLINE constexpr scale_plane() noexcept = default;
  SUBBYTE_HD_INLINE constexpr scale_plane(const S* data) noexcept  // NOLINT: implicit
      : data_(data) {}

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const S* data() const noexcept { return data_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const S& operator[](index_t i) const noexcept {
    return data_[i];
  }
  /// Scale i as a float.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr float at(index_t i) const noexcept {
    return data_[i].to_float();
  }
  /// The plane without its first `count` scales.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr scale_plane from(index_t count) const noexcept {
    return {data_ + count};
  }
  /// What `count` scales take.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t size_bytes(index_t count) noexcept {
    return count * static_cast<index_t>(sizeof(S));
  }

 private:
  const S* data_ = nullptr;
};

template <class Inner, int Block>
class scale_plane<nested_scale<Inner, Block>> {
 public:
  SUBBYTE_INLINE constexpr scale_plane() noexcept = default;
  /// codes [count]; outer [ceil(count / Block)].
  SUBBYTE_HD_INLINE constexpr scale_plane(const Inner* codes, const float* outer,
                                          float offset) noexcept
      : codes_(codes), outer_(outer), offset_(offset) {}

  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const Inner* codes() const noexcept { return codes_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr const float* outer() const noexcept { return outer_; }
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr float offset() const noexcept { return offset_; }
  /// Scales of codes() that from() has left out.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr index_t first() const noexcept { return first_; }
  /// Scale i as a float.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr float at(index_t i) const noexcept {
    const index_t j = first_ + i;
    return rounded_product(codes_[j].to_float(), outer_[j / Block]) + offset_;
  }
  /// The plane without its first `count` scales.
  [[nodiscard]] SUBBYTE_HD_INLINE constexpr scale_plane from(index_t count) const noexcept {
    scale_plane rest = *this;
    rest.first_ += count;
    return rest;
  }
  /// What `count` scales take.
  [[nodiscard]] SUBBYTE_HD_INLINE static constexpr index_t size_bytes(index_t count) noexcept {
    return count * static_cast<index_t>(sizeof(Inner)) +
           (ceil_div(count, Block) + 1) * static_cast<index_t>(sizeof(float));
  }

 private:
  const Inner* codes_ = nullptr;
  const float* outer_ = nullptr;
  float offset_ = 0;
  index_t first_ = 0;  // blocks are counted from the whole matrix's first scale
};

/// v through the store; a value beyond its range gives its largest.
template <scale_store S>
[[nodiscard]] SUBBYTE_HD_INLINE constexpr S stored_scale(float v) noexcept {
  if constexpr (requires { S::nearest_saturating(v); }) {
    return S::nearest_saturating(v);
  } else {
    return S::nearest(v);
  }
}

/// Quantizes `count` scales a second time: the mean is the offset, and each block's largest
/// distance from it lands on Inner's `largest`.
///
/// Shapes    scales [count]; codes [count]; outer [ceil(count / Block)].
/// Numerics  double for the mean, fp32 otherwise; a block of equal scales gets outer 0.
/// Returns   the offset.
template <class Arch, class Inner, int Block>
[[nodiscard]] float nest_scales(const float* scales, index_t count, float largest, Inner* codes,
                                float* outer) noexcept {
  double sum = 0;
  for (index_t i = 0; i < count; ++i) sum += static_cast<double>(scales[i]);
  const auto offset = static_cast<float>(count > 0 ? sum / static_cast<double>(count) : 0.0);
  for (index_t b = 0; b * Block < count; ++b) {
    const index_t end = (b + 1) * Block < count ? (b + 1) * Block : count;
    float extreme = 0;
    for (index_t i = b * Block; i < end; ++i) {
      const float distance = scales[i] - offset;
      const float size = distance < 0 ? -distance : distance;
      extreme = size > extreme ? size : extreme;
    }
    outer[b] = extreme / largest;
    for (index_t i = b * Block; i < end; ++i) {
      codes[i] = stored_scale<Inner>(outer[b] != 0 ? (scales[i] - offset) / outer[b] : 0.0F);
    }
  }
  return offset;
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
