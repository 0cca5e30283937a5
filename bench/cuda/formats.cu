// SPDX-License-Identifier: Apache-2.0
/// A share of the formats for the benchmarks of products: compiled once for each part, so that the
/// parts compile side by side.
#include "formats.hpp"

#include <algorithm>
#include <cstring>
#include <stdexcept>

#include "formats_parts.hpp"
#include "subbyte/cuda/dequantize.cuh"
#include "subbyte/cuda/gemv.cuh"
#include "subbyte/cuda/octet/all.cuh"
#include "subbyte/format/codebook.hpp"
#include "subbyte/format/list.hpp"
#include "weights.hpp"

#if !defined(SUBBYTE_FORMATS_PART) || !defined(SUBBYTE_FORMATS_PARTS)
#error "compile with -DSUBBYTE_FORMATS_PART=0 and so on, -DSUBBYTE_FORMATS_PARTS=their number"
#endif

namespace bench {
namespace {

using namespace subbyte;
using cuda::check;
using cuda::device_view;

/// Byte i of rows of a header and blocks that are drawn from `pool`.
__global__ void tile_kernel(std::uint8_t* to, index_t bytes, index_t row_bytes,
                            const std::uint8_t* header, int header_bytes, const std::uint8_t* pool,
                            int block_bytes, int pool_blocks, std::uint32_t salt) {
  const index_t stride = static_cast<index_t>(gridDim.x) * blockDim.x;
  for (index_t i = static_cast<index_t>(blockIdx.x) * blockDim.x + threadIdx.x; i < bytes;
       i += stride) {
    const index_t in_row = i % row_bytes;
    if (in_row < header_bytes) {
      to[i] = header[in_row];
      continue;
    }
    const index_t block = (in_row - header_bytes) / block_bytes;
    const int in_block = static_cast<int>((in_row - header_bytes) % block_bytes);
    std::uint32_t h =
        static_cast<std::uint32_t>(i / row_bytes * 0x9E3779B1 + block * 0x85EBCA77 + salt);
    h = (h ^ (h >> 15)) * 0x2C1B3C6DU;
    h = (h ^ (h >> 12)) * 0x297A2D39U;
    h ^= h >> 15;
    to[i] = pool[static_cast<int>(h % static_cast<std::uint32_t>(pool_blocks)) * block_bytes +
                 in_block];
  }
}

/// A pool of blocks on a device.
class tiles {
 public:
  tiles(const cuda::device& on, const encoded_row& from, int block_bytes)
      : header_(on, std::max<index_t>(1, static_cast<index_t>(from.header.size()))),
        pool_(on, static_cast<index_t>(from.blocks.size())),
        header_bytes_(static_cast<int>(from.header.size())),
        block_bytes_(block_bytes) {
    cuda::copy_bytes({}, from.header.data(), header_bytes_, header_.on_device());
    cuda::copy_bytes({}, from.blocks.data(), pool_.size(), pool_.on_device());
    cuda::stream_ref().synchronize();
  }

  void write(cudaStream_t s, std::uint8_t* to, index_t rows, index_t row_bytes,
             std::uint32_t salt) const {
    tile_kernel<<<8192, 256, 0, s>>>(to, rows * row_bytes, row_bytes, header_.on_device(),
                                     header_bytes_, pool_.on_device(), block_bytes_,
                                     static_cast<int>(pool_.size()) / block_bytes_, salt);
    check(cudaGetLastError(), "a fill");
  }

 private:
  cuda::device_bytes header_;
  cuda::device_bytes pool_;
  int header_bytes_;
  int block_bytes_;
};

std::vector<std::uint8_t> downloaded(const std::uint8_t* from, index_t count) {
  std::vector<std::uint8_t> bytes(static_cast<std::size_t>(count));
  cuda::copy_bytes({}, from, count, bytes.data());
  cuda::stream_ref().synchronize();
  return bytes;
}

/// What all storages share; Storage has name(), bytes(n, k), view(w, n, k), fill(...), row(...).
template <class Storage>
class stored final : public stored_format {
 public:
  using view_type = typename Storage::view_type;

  explicit stored(const cuda::device& on) : storage_(on) {}

  [[nodiscard]] std::string name() const override { return Storage::name(); }
  [[nodiscard]] index_t bytes(index_t n, index_t k) const override { return Storage::bytes(n, k); }
  void fill(cudaStream_t s, std::uint8_t* w, index_t n, index_t k, std::uint32_t salt) override {
    storage_.fill(s, w, n, k, salt);
  }
  [[nodiscard]] std::vector<float> row(const std::uint8_t* w, index_t n, index_t k,
                                       index_t r) const override {
    return Storage::row(w, n, k, r);
  }
  void dequantize(cudaStream_t s, const std::uint8_t* w, index_t n, index_t k,
                  half* out) const override {
    cuda::dequantize(cuda::stream_ref(s), device_view(Storage::view(w, n, k)),
                     device_view(tensor_view<half, 2>(out, n, k)));
  }
  [[nodiscard]] bool takes(arithmetic a) const override {
    return a == arithmetic::floats || cuda::integer_levels<view_type>;
  }
  void gemv(cudaStream_t s, const std::uint8_t* w, index_t n, index_t k, arithmetic a,
            const device_activations& x, float* y) const override {
    const cuda::stream_ref queue(s);
    const device_view matrix(Storage::view(w, n, k));
    const device_view result(
        tensor_view<float, 2, row_pitched>(tensor_view<float, 2>(y, x.rows, n)));
    if (a == arithmetic::floats) {
      cuda::gemv(queue, matrix,
                 device_view(tensor_view<const float, 2, row_pitched>(
                     tensor_view<const float, 2>(x.floats, x.rows, k))),
                 result);
      return;
    }
    if constexpr (cuda::integer_levels<view_type>) {
      if (a == arithmetic::halves) {
        cuda::gemv(queue, matrix,
                   device_view(tensor_view<const half, 2, row_pitched>(
                       tensor_view<const half, 2>(x.halves, x.rows, k))),
                   result);
      } else {
        cuda::gemv(queue, matrix, *x.integers, result);
      }
      return;
    }
    throw std::logic_error(name() + " takes no such x");
  }
  [[nodiscard]] double roundings(index_t k) const override {
    return cuda::gemv_kernel<view_type, cuda::float_activations, 1>::roundings(k);
  }

 private:
  Storage storage_;
};

template <class F>
class blocks {
 public:
  using view_type = block_matrix_view<F>;

  explicit blocks(const cuda::device& on)
      : tiles_(on, encode_random_row(F::name), static_cast<int>(sizeof(F))) {}
  static std::string name() { return F::name; }
  static index_t bytes(index_t n, index_t k) { return view(nullptr, n, k).size_bytes(); }
  static view_type view(const std::uint8_t* w, index_t n, index_t k) {
    return {reinterpret_cast<const F*>(w), n, k};
  }
  void fill(cudaStream_t s, std::uint8_t* w, index_t n, index_t k, std::uint32_t salt) const {
    tiles_.write(s, w, n, bytes(1, k), salt);
  }
  static std::vector<float> row(const std::uint8_t* w, index_t, index_t k, index_t r) {
    const auto raw = downloaded(w + r * bytes(1, k), bytes(1, k));
    // A format's alignment is that of its first member.
    std::vector<F> aligned(raw.size() / sizeof(F));
    std::memcpy(static_cast<void*>(aligned.data()), raw.data(), raw.size());
    std::vector<float> out(static_cast<std::size_t>(k));
    view_type(aligned.data(), 1, k).decode_row(0, 0, k, out.data());
    return out;
  }

 private:
  tiles tiles_;
};

template <class F>
class scaled_rows {
 public:
  using view_type = row_scaled_matrix_view<F>;

  explicit scaled_rows(const cuda::device& on)
      : tiles_(on, encode_random_row(F::name), static_cast<int>(sizeof(F))) {}
  static std::string name() { return F::name; }
  static index_t bytes(index_t n, index_t k) { return view(nullptr, n, k).size_bytes(); }
  static view_type view(const std::uint8_t* w, index_t n, index_t k) { return {w, n, k}; }
  void fill(cudaStream_t s, std::uint8_t* w, index_t n, index_t k, std::uint32_t salt) const {
    tiles_.write(s, w, n, bytes(1, k), salt);
  }
  static std::vector<float> row(const std::uint8_t* w, index_t, index_t k, index_t r) {
    const auto raw = downloaded(w + r * bytes(1, k), bytes(1, k));
    std::vector<float> out(static_cast<std::size_t>(k));
    view(raw.data(), 1, k).decode_row(0, 0, k, out.data());
    return out;
  }

 private:
  tiles tiles_;
};

template <class G>
struct named {
  static std::string text() { return "int" + std::to_string(G::bits); }
};
template <class C>
struct named<codebook_grid<C>> {
  static std::string text() { return C::name; }
};

/// Codes, then scales, then zero points where there are any, each at a multiple of 256 bytes.
/// Group: 0 for one scale per row.
template <class grid, class scale, int Group>
class planes {
 public:
  using view_type = planar_matrix_view<grid, scale>;

  explicit planes(const cuda::device& on)
      : codes_(on, {{}, random_bytes(16 * 1024)}, 16),
        scales_(on, {{}, random_scales()}, static_cast<int>(sizeof(scale))),
        zeros_(on, {{}, random_bytes(64, grid::last_code)}, 1) {}
  static std::string name() {
    std::string text = named<grid>::text();
    if (has_zeros) text += "_zeros";
    return text + (Group > 0 ? "_g" + std::to_string(Group) : "_rows");
  }
  static index_t bytes(index_t n, index_t k) {
    return zeros_at(n, k) + (has_zeros ? padded(n * groups(k)) : 0);
  }
  static view_type view(const std::uint8_t* w, index_t n, index_t k) {
    const auto* const scales = reinterpret_cast<const scale*>(w + scales_at(n, k));
    if constexpr (has_zeros) {
      return {n, k, {group(k)}, w, scales, w + zeros_at(n, k)};
    } else {
      return {n, k, {group(k)}, w, scales};
    }
  }
  void fill(cudaStream_t s, std::uint8_t* w, index_t n, index_t k, std::uint32_t salt) const {
    codes_.write(s, w, n, row_bytes(k), salt);
    scales_.write(s, w + scales_at(n, k), n, groups(k) * static_cast<index_t>(sizeof(scale)), salt);
    if (has_zeros) zeros_.write(s, w + zeros_at(n, k), n, groups(k), salt);
  }
  static std::vector<float> row(const std::uint8_t* w, index_t n, index_t k, index_t r) {
    const auto codes = downloaded(w + r * row_bytes(k), row_bytes(k));
    const index_t scale_bytes = groups(k) * static_cast<index_t>(sizeof(scale));
    const auto raw_scales = downloaded(w + scales_at(n, k) + r * scale_bytes, scale_bytes);
    std::vector<scale> scales(static_cast<std::size_t>(groups(k)));
    std::memcpy(static_cast<void*>(scales.data()), raw_scales.data(), raw_scales.size());
    std::vector<std::uint8_t> zeros;
    if (has_zeros) zeros = downloaded(w + zeros_at(n, k) + r * groups(k), groups(k));
    const view_type one = [&]() -> view_type {
      if constexpr (has_zeros) {
        return {1, k, {group(k)}, codes.data(), scales.data(), zeros.data()};
      } else {
        return {1, k, {group(k)}, codes.data(), scales.data()};
      }
    }();
    std::vector<float> out(static_cast<std::size_t>(k));
    for (index_t j = 0; j < k; ++j) {
      out[static_cast<std::size_t>(j)] =
          grid::value(one.stored_code(0, j), one.group_params(0, j / group(k)));
    }
    return out;
  }

 private:
  static constexpr bool has_zeros = grid::zeros == zero_points::integer;
  static_assert(has_zeros || grid::zeros == zero_points::none);

  static index_t padded(index_t bytes) { return ceil_div(bytes, 256) * 256; }
  static index_t group(index_t k) { return Group > 0 ? Group : k; }
  static index_t groups(index_t k) { return ceil_div(k, group(k)); }
  static index_t row_bytes(index_t k) { return k * grid::bits / 8; }
  static index_t scales_at(index_t n, index_t k) { return padded(n * row_bytes(k)); }
  static index_t zeros_at(index_t n, index_t k) {
    return scales_at(n, k) + padded(n * groups(k) * static_cast<index_t>(sizeof(scale)));
  }

  static std::vector<std::uint8_t> random_bytes(int count, int largest = 255) {
    std::vector<std::uint8_t> out(static_cast<std::size_t>(count));
    std::uint32_t h = 1;
    for (auto& b : out) {
      h = h * 1664525U + 1013904223U;
      b = static_cast<std::uint8_t>((h >> 16) % static_cast<std::uint32_t>(largest + 1));
    }
    return out;
  }
  static std::vector<std::uint8_t> random_scales() {
    std::vector<std::uint8_t> out;
    for (int i = 0; i < 64; ++i) {
      const scale s = scale::nearest(0.001F + 0.0001F * static_cast<float>(i));
      const auto* const p = reinterpret_cast<const std::uint8_t*>(&s);
      out.insert(out.end(), p, p + sizeof(s));
    }
    return out;
  }

  tiles codes_;
  tiles scales_;
  tiles zeros_;
};

template <class F>
using storage_of = std::conditional_t<row_scaled_format<F>, std::type_identity<scaled_rows<F>>,
                                      std::type_identity<blocks<F>>>;

template <class... F>
auto storages_of(type_list<F...>) -> type_list<typename storage_of<F>::type...>;
#if defined(SUBBYTE_TESTED_FORMATS)
using all_storages = decltype(storages_of(type_list<SUBBYTE_TESTED_FORMATS>()));
#else
using all_storages = joined_t<
    decltype(storages_of(file_formats())),
    type_list<planes<int_grid<4, zero_points::none>, half, 128>, planes<int_grid<4>, half, 128>,
              planes<int_grid<8, zero_points::none>, f32_scale, 0>,
              planes<codebook_grid<nf4>, f32_scale, 64>>>;
#endif

template <class... S>
void add_share(const cuda::device& on, type_list<S...>,
               std::vector<std::unique_ptr<stored_format>>& formats) {
  [&]<std::size_t... At>(std::index_sequence<At...>) {
    const auto add = [&]<std::size_t I, class Storage>(std::integral_constant<std::size_t, I>,
                                                       std::type_identity<Storage>) {
      if constexpr (I % SUBBYTE_FORMATS_PARTS == SUBBYTE_FORMATS_PART) {
        formats.push_back(std::make_unique<stored<Storage>>(on));
      }
    };
    (add(std::integral_constant<std::size_t, At>(), std::type_identity<S>()), ...);
  }
  (std::index_sequence_for<S...>());
}

const bool listed =
    list_part([](const cuda::device& on, std::vector<std::unique_ptr<stored_format>>& formats) {
      add_share(on, all_storages(), formats);
    });

}  // namespace
}  // namespace bench
