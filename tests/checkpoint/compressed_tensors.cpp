// SPDX-License-Identifier: Apache-2.0
/// pack-quantized tensors against the files of compressed-tensors, old packings, and what is
/// refused.
#include "subbyte/checkpoint/compressed_tensors.hpp"

#include "subbyte/io/json_value.hpp"
#include "support/checkpoint_files.hpp"

namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;
using checkpoint::compressed_tensors_settings;
using subbyte::errc;
using subbyte::group_codes;
using subbyte::index_t;
using test_support::contains;
using test_support::error_of;
using test_support::random_codes;
using test_support::same_codes;
using test_support::tensor_file;

namespace {

// As the package's configuration of that file says.
compressed_tensors_settings settings_of(const std::string& name) {
  const auto content = test_support::read_file(
      test_support::golden_path("compressed_tensors/" + name) + ".config.json");
  const auto json = subbyte::parse_json(std::string(content.begin(), content.end()), name);
  const auto& weights =
      *json.find("quantization_config")->find("config_groups")->find("group_0")->find("weights");
  compressed_tensors_settings s;
  s.bits = static_cast<int>(*weights.find("num_bits")->integer());
  s.group_size = weights.find("group_size")->integer().value_or(-1);
  s.symmetric = weights.find("symmetric")->boolean();
  return s;
}

}  // namespace

TEST_CASE("compressed_tensors: the package's files are read and written to the bit") {
  for (const char* name :
       {"pack_b2_asym_group32_32x128_float16", "pack_b3_asym_group128_36x256_float16",
        "pack_b3_sym_group32_32x160_float16", "pack_b4_asym_channel_33x100_float32",
        "pack_b4_asym_group64_40x128_float16", "pack_b4_sym_channel_32x96_float32",
        "pack_b4_sym_group32_32x128_bfloat16", "pack_b5_sym_channel_16x72_float16",
        "pack_b6_asym_group32_20x64_float32", "pack_b7_sym_group32_20x64_float32",
        "pack_b8_sym_group64_32x128_bfloat16", "preset_w4a16_32x128", "preset_w4a16_asym_32x256"}) {
    CAPTURE(name);
    const safetensors::file file =
        test_support::golden_tensors(std::string("compressed_tensors/") + name + ".safetensors");
    const compressed_tensors_settings s = settings_of(name);
    const group_codes w = checkpoint::load_compressed_tensors(file, "layer", s);
    CHECK(w.symmetric() == s.symmetric);
    CHECK(test_support::wrong_weights(w, file) == 0);
    const auto zeros = file.tensor("in.weight_zero_point").view<std::int32_t>();
    index_t wrong = 0;
    for (index_t r = 0; r < w.rows(); ++r) {
      for (index_t g = 0; g < w.groups(); ++g) {
        wrong += w.zero(r, g) != static_cast<float>(zeros(r, g) + (1 << (w.bits - 1)));
      }
    }
    CHECK(wrong == 0);
    const auto stored = checkpoint::store_compressed_tensors(w, "layer", s);
    CHECK(stored.size() == (s.symmetric ? 3U : 4U));
    for (const auto& t : stored) {
      CAPTURE(t.name);
      CHECK(test_support::same_tensor(file.tensor(t.name), t));
    }
  }
}

TEST_CASE("compressed_tensors: every width and packing comes back as it was stored") {
  for (int bits = 1; bits <= 8; ++bits) {
    for (const bool padded : {false, true}) {
      for (const bool symmetric : {false, true}) {
        for (const index_t group : {index_t{16}, index_t{80}}) {
          CAPTURE(bits, padded, symmetric, group);
          group_codes w = random_codes(bits, {37, 80, group}, 0, symmetric ? -1 : (1 << bits) - 1,
                                       static_cast<std::uint64_t>(bits));
          if (group == 16) test_support::scatter_columns(w, 3);
          const compressed_tensors_settings s{bits, group, symmetric, padded};
          const tensor_file file(checkpoint::store_compressed_tensors(w, "m", s));
          CHECK(same_codes(checkpoint::load_compressed_tensors(file.open(), "m", s), w));
        }
      }
    }
  }
}

TEST_CASE("compressed_tensors: unpacked int8 zero points of old versions are read") {
  const group_codes w = random_codes(4, {8, 64, 32}, 0, 15, 6);
  const compressed_tensors_settings s{4, 32, false, false};
  auto tensors = checkpoint::store_compressed_tensors(w, "m", s);
  tensors[3] = {"m.weight_zero_point", safetensors::dtype::i8, {8, 2}, {}};
  for (index_t i = 0; i < w.zeros.size(); ++i) {
    tensors[3].bytes.push_back(static_cast<std::uint8_t>(static_cast<int>(w.zeros.data()[i]) - 8));
  }
  CHECK(same_codes(checkpoint::load_compressed_tensors(tensor_file(tensors).open(), "m", s), w));
}

TEST_CASE("compressed_tensors: slices of stacked experts are matrices of their own") {
  const compressed_tensors_settings s{4, 32, false, false};
  const group_codes experts[2] = {random_codes(4, {8, 64, 32}, 0, 15, 6),
                                  random_codes(4, {8, 64, 32}, 0, 15, 7)};
  auto stacked = checkpoint::store_compressed_tensors(experts[0], "m", s);
  const auto second = checkpoint::store_compressed_tensors(experts[1], "m", s);
  for (std::size_t i = 0; i < stacked.size(); ++i) {
    if (stacked[i].name == "m.weight_shape") {
      stacked[i].shape = {3};
      stacked[i].bytes.insert(stacked[i].bytes.begin(), {2, 0, 0, 0, 0, 0, 0, 0});
      continue;
    }
    stacked[i].shape.insert(stacked[i].shape.begin(), 2);
    for (const std::uint8_t b : second[i].bytes) stacked[i].bytes.push_back(b);
  }
  const tensor_file file(stacked);
  for (const index_t e : {0, 1}) {
    CHECK(same_codes(checkpoint::load_compressed_tensors(file.open(), "m", s, e), experts[e]));
  }
  CHECK(error_of([&] {
          (void)checkpoint::load_compressed_tensors(file.open(), "m", s, 2);
        }).code() == errc::not_found);
  CHECK(error_of([&] { (void)checkpoint::load_compressed_tensors(file.open(), "m", s); }).code() ==
        errc::bad_shape);
}

TEST_CASE("compressed_tensors: one scale for the whole tensor, and a g_idx of -1") {
  group_codes w = random_codes(4, {8, 64, 64}, 1, 0, 6);
  const compressed_tensors_settings s{4, -1, true, false};
  auto tensors = checkpoint::store_compressed_tensors(w, "m", s);
  tensors[1].shape = {1};
  tensors[1].bytes.resize(2);
  for (index_t r = 0; r < 8; ++r) w.scales(r, 0) = w.scales(0, 0);
  tensors.push_back({"m.weight_g_idx", safetensors::dtype::i32, {64}, {}});
  tensors.back().bytes.assign(256, 0xFF);
  CHECK(same_codes(checkpoint::load_compressed_tensors(tensor_file(tensors).open(), "m", s), w));
}

TEST_CASE("compressed_tensors: what the format cannot hold is not written") {
  const auto refused = [&](const group_codes& w, bool symmetric, const char* text) {
    const auto e = error_of([&] {
      (void)checkpoint::store_compressed_tensors(w, "layer", {4, 32, symmetric, false});
    });
    CAPTURE(e.what(), text);
    CHECK(e.code() == errc::bad_argument);
    CHECK(contains(e.what(), text));
  };
  refused(random_codes(4, {8, 64, 32}, 3, 5, 1), true, "symmetric");
  refused(random_codes(4, {8, 72, 32}, 3, 5, 1), false, "do not divide");
  group_codes real = random_codes(4, {8, 64, 32}, 3, 5, 1);
  real.real_zeros = true;
  real.zeros(0, 0) = 0.5F;
  refused(real, false, "integers");
}

TEST_CASE("compressed_tensors: a file that contradicts itself or the configuration is refused") {
  const group_codes w = random_codes(3, {37, 80, 16}, 0, 7, 9);
  const compressed_tensors_settings s{3, 16, false, false};
  const auto good = checkpoint::store_compressed_tensors(w, "m", s);
  enum { packed, scale, shape, zero };
  const test_support::refusals refused(
      good, s, [](const safetensors::file& file, const compressed_tensors_settings& x) {
        (void)checkpoint::load_compressed_tensors(file, "m", x);
      });
  using tensors = checkpoint::stored_tensors;
  using settings = compressed_tensors_settings;
  const auto set_extent = [](tensors& t, int d, std::uint64_t value) {
    subbyte::store_le(t[shape].bytes.data() + 8 * d, value);
  };
  for (const int missing : {packed, scale, shape}) {
    refused([&](tensors& t, settings&) { t.erase(t.begin() + missing); }, errc::not_found,
            "in memory");
  }
  refused([](tensors& t, settings&) { t.pop_back(); }, errc::not_found, "m.weight_zero_point");
  refused([&](tensors& t, settings&) { set_extent(t, 0, 36); }, errc::bad_shape, "m.weight_shape");
  refused([&](tensors& t, settings&) { set_extent(t, 1, std::uint64_t{1} << 62); }, errc::bad_shape,
          "m.weight_shape");
  refused([&](tensors& t, settings&) { set_extent(t, 1, ~std::uint64_t{0}); }, errc::bad_shape,
          "m.weight_shape");
  refused([&](tensors& t, settings&) { set_extent(t, 1, 0); }, errc::bad_shape, "m.weight_shape");
  refused([&](tensors& t, settings&) { set_extent(t, 1, 96); }, errc::bad_shape, "m.weight_packed");
  refused([](tensors&, settings& x) { x.bits = 4; }, errc::bad_shape, "m.weight_packed");
  refused([](tensors&, settings& x) { x.bits = 0; }, errc::bad_argument, "m");
  refused([](tensors&, settings& x) { x.bits = 9; }, errc::bad_argument, "m");
  refused([](tensors&, settings& x) { x.group_size = 40; }, errc::bad_shape, "m.weight_scale");
  refused([](tensors&, settings& x) { x.symmetric = true; }, errc::bad_metadata,
          "m.weight_zero_point");
  refused([](tensors& t, settings&) { t[packed].type = safetensors::dtype::u32; },
          errc::unsupported_format, "m.weight_packed");
  refused([](tensors& t, settings&) { t[scale].type = safetensors::dtype::i16; },
          errc::unsupported_format, "m.weight_scale");
  refused([](tensors& t, settings&) { t[shape].type = safetensors::dtype::f64; },
          errc::unsupported_format, "m.weight_shape");
  refused([](tensors& t, settings&) { t[zero].type = safetensors::dtype::f32; },
          errc::unsupported_format, "m.weight_zero_point");
  refused(
      [](tensors& t, settings&) {
        t[zero].shape = {5, 4};
      },
      errc::bad_shape, "m.weight_zero_point");
}
