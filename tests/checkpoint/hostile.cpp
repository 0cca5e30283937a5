// SPDX-License-Identifier: Apache-2.0
/// Files that lie, at random: whatever shapes, types, bytes and settings come together, a loader
/// returns a matrix that validates or throws the library's error.
#include <random>

#include "subbyte/checkpoint/directory.hpp"
#include "subbyte/checkpoint/hqq.hpp"
#include "subbyte/checkpoint/onnx_matmul_nbits.hpp"
#include "support/checkpoint_files.hpp"

namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;
using checkpoint::module_settings;
using checkpoint::stored_tensor;
using checkpoint::stored_tensors;
using subbyte::group_codes;
using subbyte::index_t;
using test_support::random_codes;
using test_support::tensor_file;

namespace {

using generator = std::mt19937_64;

index_t below(generator& g, index_t n) {
  return static_cast<index_t>(g() % static_cast<std::uint64_t>(n));
}

// Another shape or type for the same bytes, other bytes, or no tensor at all.
void spoil(stored_tensors& tensors, generator& g) {
  stored_tensor& t =
      tensors[static_cast<std::size_t>(below(g, static_cast<index_t>(tensors.size())))];
  const index_t width = safetensors::traits_of(t.type).bits / 8;
  switch (below(g, 6)) {
    case 0:
      std::swap(t.shape.front(), t.shape.back());
      return;
    case 1:
      t.shape.insert(t.shape.begin() + below(g, static_cast<index_t>(t.shape.size()) + 1), 1);
      return;
    case 2: {  // fewer elements, zero among them
      const index_t n = below(g, 70);
      t.shape = {n};
      t.bytes.resize(static_cast<std::size_t>(n * width));
      return;
    }
    case 3: {
      const safetensors::dtype same_width[] = {safetensors::dtype::f32, safetensors::dtype::u32,
                                               safetensors::dtype::i32};
      const safetensors::dtype narrow[] = {safetensors::dtype::f16, safetensors::dtype::bf16,
                                           safetensors::dtype::i16};
      if (width == 4) t.type = same_width[below(g, 3)];
      if (width == 2) t.type = narrow[below(g, 3)];
      return;
    }
    case 4:
      for (int i = 0; i < 8; ++i) {
        t.bytes[static_cast<std::size_t>(below(g, static_cast<index_t>(t.bytes.size())))] =
            static_cast<std::uint8_t>(g());
      }
      return;
    default:
      t.name += "x";
  }
}

template <class Load>
void try_all(const stored_tensors& good, std::uint64_t seed, const Load& load) {
  generator g(seed);
  int loaded = 0, refused = 0;
  for (int i = 0; i < 400; ++i) {
    stored_tensors tensors = good;
    for (index_t n = below(g, 3); n >= 0; --n) {
      bool empty = false;
      for (const stored_tensor& t : tensors) empty = empty || t.bytes.empty();
      if (!empty) spoil(tensors, g);
    }
    const tensor_file file(tensors);
    try {
      const group_codes w = load(file.open(), g);
      w.validate();
      ++loaded;
    } catch (const subbyte::error&) {
      ++refused;
    }
  }
  CHECK(loaded > 0);
  CHECK(refused > 0);
}

}  // namespace

TEST_CASE("hostile: every loader returns a valid matrix or throws the library's error") {
  const group_codes w = random_codes(4, {64, 128, 32}, 1, 15, 1);
  const group_codes symmetric = random_codes(4, {64, 128, 32}, 1, 0, 1);
  checkpoint::gptq_settings gptq;
  gptq.group_size = 32;
  gptq.symmetric = false;
  const module_settings schemes[] = {
      gptq,
      checkpoint::awq_settings{4, 32, false, checkpoint::awq_version::gemm, false},
      checkpoint::awq_settings{4, 32, false, checkpoint::awq_version::gemv, false},
      checkpoint::awq_settings{4, 32, false, checkpoint::awq_version::gemv_tiled, false},
      checkpoint::compressed_tensors_settings{4, 32, false, false},
      checkpoint::marlin_settings{4, 32, {}}};
  std::uint64_t seed = 0;
  for (const module_settings& s : schemes) {
    CAPTURE(checkpoint::scheme_name(s), seed);
    const bool marlin = std::holds_alternative<checkpoint::marlin_settings>(s);
    const stored_tensors good = checkpoint::store_module(marlin ? symmetric : w, "m", s);
    try_all(good, seed++, [&](const safetensors::file& file, generator& g) {
      module_settings settings = s;
      const auto change = [&](auto& t) {
        const index_t what = below(g, 8);
        if (what == 0) t.bits = static_cast<int>(below(g, 12)) - 1;
        if (what == 1) t.group_size = below(g, 300) - 2;
      };
      if (auto* const a = std::get_if<checkpoint::gptq_settings>(&settings)) {
        change(*a);
        a->format = static_cast<checkpoint::gptq_format>(below(g, 3));
        a->writer = static_cast<checkpoint::gptq_writer>(below(g, 4));
      }
      if (auto* const a = std::get_if<checkpoint::awq_settings>(&settings)) change(*a);
      if (auto* const a = std::get_if<checkpoint::marlin_settings>(&settings)) change(*a);
      if (auto* const a = std::get_if<checkpoint::compressed_tensors_settings>(&settings)) {
        change(*a);
      }
      return checkpoint::load_module(file, "m", settings);
    });
  }
  try_all(checkpoint::store_matmul_nbits(w, "m"), seed++,
          [](const safetensors::file& file, generator& g) {
            const index_t what = below(g, 8);
            return checkpoint::load_matmul_nbits(file, "m",
                                                 {what == 0 ? static_cast<int>(below(g, 10)) : 4,
                                                  what == 1 ? below(g, 100) : index_t{32},
                                                  what == 2 ? below(g, 300) : index_t{128}});
          });
  try_all(checkpoint::store_hqq(w, "m"), seed++, [](const safetensors::file& file, generator& g) {
    const index_t what = below(g, 8);
    return checkpoint::load_hqq(
        file, "m",
        {what == 0 ? static_cast<int>(below(g, 10)) : 4, what == 1 ? below(g, 100) : index_t{32},
         what == 2 ? below(g, 100) : index_t{64}, what == 3 ? below(g, 300) : index_t{128}});
  });
}
