// SPDX-License-Identifier: Apache-2.0
/// AWQ tensors against the files of AutoAWQ and gptqmodel, and what is refused.
#include "subbyte/checkpoint/awq.hpp"

#include "support/checkpoint_files.hpp"

namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;
using checkpoint::awq_settings;
using checkpoint::awq_version;
using subbyte::errc;
using subbyte::group_codes;
using subbyte::index_t;
using test_support::check_inputs;
using test_support::contains;
using test_support::error_of;
using test_support::golden_tensors;
using test_support::random_codes;
using test_support::same_codes;
using test_support::stored_equals;
using test_support::tensor_file;

namespace {

awq_settings settings_of(const safetensors::file& file) {
  awq_settings s;
  const auto json = test_support::golden_settings(file);
  s.bits = static_cast<int>(*json.find("bits")->integer());
  s.group_size = *json.find("group_size")->integer();
  if (json.find("sym") != nullptr) s.symmetric = json.find("sym")->boolean();
  return s;
}

// Zero points and scales that AutoAWQ's own quantization found.
void check_found(const group_codes& w, const safetensors::file& file) {
  const auto scales = file.tensor("scales_found").view<subbyte::half>();
  const auto zeros = file.tensor("zeros_found").view<std::int32_t>();
  REQUIRE(w.groups() == scales.extent(1));
  index_t wrong = 0;
  for (index_t r = 0; r < w.rows(); ++r) {
    for (index_t g = 0; g < w.groups(); ++g) {
      wrong += w.scales(r, g) != scales(r, g).to_float();
      wrong += w.zero(r, g) != static_cast<float>(zeros(r, g));
    }
  }
  CHECK(wrong == 0);
}

}  // namespace

TEST_CASE("awq: AutoAWQ's three versions are read and written to the bit") {
  for (const char* name : {"layout_g128_32x256_bias", "layout_g128_32x512", "layout_g32_32x128",
                           "layout_g64_32x384"}) {
    const safetensors::file file = golden_tensors(std::string("autoawq/") + name + ".safetensors");
    awq_settings s = settings_of(file);
    const std::pair<awq_version, const char*> versions[] = {{awq_version::gemm, "gemm"},
                                                            {awq_version::gemv, "gemv"},
                                                            {awq_version::gemv_tiled, "gemv_fast"}};
    for (const auto& [version, prefix] : versions) {
      CAPTURE(name, prefix);
      s.version = version;
      const group_codes w = checkpoint::load_awq(file, prefix, s);
      check_inputs(w, file);
      CHECK_FALSE(w.real_zeros);
      CHECK(test_support::wrong_weights(w, file) == 0);
      const auto stored = checkpoint::store_awq(w, prefix, s);
      CHECK(stored.size() == 3);
      for (const char* leaf : {".qweight", ".qzeros", ".scales"}) {
        CAPTURE(leaf);
        CHECK(stored_equals(stored, std::string(prefix) + leaf, file, std::string(prefix) + leaf));
      }
    }
  }
}

TEST_CASE("awq: files out of AutoAWQ's whole flow have the scales and zero points that it found") {
  const std::pair<const char*, awq_version> flows[] = {
      {"flow_gemm_g32_64x128", awq_version::gemm},
      {"flow_gemv_g128_32x256", awq_version::gemv},
      {"flow_gemv_fast_g64_32x256", awq_version::gemv_tiled}};
  for (const auto& [name, version] : flows) {
    CAPTURE(name);
    const safetensors::file file = golden_tensors(std::string("autoawq/") + name + ".safetensors");
    awq_settings s = settings_of(file);
    s.version = version;
    const char* const prefix = version == awq_version::gemm   ? "gemm"
                               : version == awq_version::gemv ? "gemv"
                                                              : "gemv_fast";
    const group_codes w = checkpoint::load_awq(file, prefix, s);
    check_found(w, file);
    const auto stored = checkpoint::store_awq(w, prefix, s);
    for (const char* leaf : {".qweight", ".qzeros", ".scales"}) {
      CAPTURE(leaf);
      CHECK(stored_equals(stored, std::string(prefix) + leaf, file, std::string(prefix) + leaf));
    }
  }
}

TEST_CASE("awq: gptqmodel's gemm tensors of 2 to 8 bits are read and written to the bit") {
  for (const char* name :
       {"awq_b2_asym_g32_32x96", "awq_b3_asym_g32_32x128", "awq_b4_asym_g32_32x128",
        "awq_b4_sym_g-1_32x64", "awq_b5_asym_g32_64x64", "awq_b8_asym_g64_32x128"}) {
    CAPTURE(name);
    const safetensors::file file =
        golden_tensors(std::string("gptqmodel/") + name + ".safetensors");
    const awq_settings s = settings_of(file);
    const group_codes w = checkpoint::load_awq(file, "", s);
    check_inputs(w, file);
    CHECK(w.symmetric() == s.symmetric);
    CHECK(test_support::wrong_weights(w, file) == 0);
    const auto stored = checkpoint::store_awq(w, "", s);
    for (const char* leaf : {"qweight", "qzeros", "scales"}) {
      CAPTURE(leaf);
      CHECK(stored_equals(stored, leaf, file, leaf));
    }
  }
}

TEST_CASE("awq: every width, version and group size comes back as it was stored") {
  for (int bits = 2; bits <= 8; ++bits) {
    for (const awq_version version :
         {awq_version::gemm, awq_version::gemv, awq_version::gemv_tiled}) {
      if (bits != 4 && version != awq_version::gemm) continue;
      for (const index_t group : {index_t{32}, index_t{64}, index_t{256}}) {
        for (const bool symmetric : {false, true}) {
          CAPTURE(bits, static_cast<int>(version), group, symmetric);
          const group_codes w =
              random_codes(bits, {64, 256, group}, 0, symmetric ? -1 : (1 << bits) - 1,
                           static_cast<std::uint64_t>(bits));
          const awq_settings s{bits, group, symmetric, version, false};
          const tensor_file file(checkpoint::store_awq(w, "m", s));
          CHECK(same_codes(checkpoint::load_awq(file.open(), "m", s), w));
        }
      }
    }
  }
}

TEST_CASE("awq: llm-awq calls the scaled zero points scaled_zeros") {
  const group_codes w = random_codes(4, {32, 128, 128}, 0, 15, 4);
  awq_settings s{4, 128, false, awq_version::gemv_tiled, true};
  const auto stored = checkpoint::store_awq(w, "m", s);
  CHECK(stored[1].name == "m.scaled_zeros");
  const tensor_file file(stored);
  CHECK(same_codes(checkpoint::load_awq(file.open(), "m", s), w));
  s.llm_awq_names = false;
  CHECK(error_of([&] { (void)checkpoint::load_awq(file.open(), "m", s); }).code() ==
        errc::not_found);
}

TEST_CASE("awq: scaled zero points that are no multiple of the scale are real zero points") {
  const group_codes w = random_codes(4, {32, 128, 128}, 0, 15, 4);
  const awq_settings s{4, 128, false, awq_version::gemv_tiled, false};
  auto stored = checkpoint::store_awq(w, "m", s);
  const subbyte::half off = subbyte::half::nearest(-0.123F);
  subbyte::store_le(stored[1].bytes.data() + 2 * 3, subbyte::bit_cast<std::uint16_t>(off));
  const group_codes read = checkpoint::load_awq(tensor_file(stored).open(), "m", s);
  CHECK(read.real_zeros);
  CHECK(read.zeros(3, 0) == -off.to_float() / read.scales(3, 0));
  // A zero scale beside a scaled zero point that is none: no zero point gives that.
  subbyte::store_le(stored[2].bytes.data() + 2 * 3, std::uint16_t{0});
  const auto e = error_of([&] { (void)checkpoint::load_awq(tensor_file(stored).open(), "m", s); });
  CHECK(e.code() == errc::bad_metadata);
  CHECK(contains(e.what(), "scale of 0"));
}

TEST_CASE("awq: what AWQ cannot hold is not written") {
  awq_settings s;
  const auto refused = [&](const group_codes& w, errc code, const char* text) {
    const auto e = error_of([&] { (void)checkpoint::store_awq(w, "layer", s); });
    CAPTURE(e.what(), text);
    CHECK(e.code() == code);
    CHECK(contains(e.what(), text));
  };
  group_codes scattered = random_codes(4, {32, 128, 32}, 0, 15, 1);
  test_support::scatter_columns(scattered, 2);
  refused(scattered, errc::bad_argument, "act-order");
  refused(random_codes(4, {32, 130, 64}, 0, 15, 1), errc::bad_argument, "do not divide");
  refused(random_codes(4, {33, 128, 64}, 0, 15, 1), errc::layout_rejected, "33 x 128");
  refused(random_codes(1, {32, 128, 64}, 0, 1, 1), errc::bad_argument, "1 bits");
  group_codes real = random_codes(4, {32, 128, 32}, 0, 15, 1);
  real.real_zeros = true;
  real.zeros(1, 1) = 0.3F;
  refused(real, errc::bad_argument, "integers");
  s.version = awq_version::gemv;
  refused(real, errc::bad_argument, "integers");
  refused(random_codes(3, {32, 128, 64}, 0, 1, 1), errc::bad_argument, "3 bits");
  refused(random_codes(4, {32, 128, 16}, 0, 1, 1), errc::layout_rejected, "groups of 16");
  s.version = awq_version::gemv_tiled;
  refused(real, errc::bad_argument, "-(scale * zero)");
  refused(random_codes(4, {32, 96, 32}, 0, 1, 1), errc::layout_rejected, "divisible by 64");
}

TEST_CASE("awq: a file that contradicts itself or the configuration is refused by name") {
  for (const awq_version version :
       {awq_version::gemm, awq_version::gemv, awq_version::gemv_tiled}) {
    const group_codes w = random_codes(4, {64, 128, 32}, 0, 15, 9);
    const awq_settings s{4, 32, false, version, false};
    const auto good = checkpoint::store_awq(w, "m", s);
    CAPTURE(static_cast<int>(version));
    const test_support::refusals refused(good, s,
                                         [](const safetensors::file& file, const awq_settings& x) {
                                           (void)checkpoint::load_awq(file, "m", x);
                                         });
    using tensors = checkpoint::stored_tensors;
    for (std::size_t i = 0; i < 3; ++i) {
      const std::string name = good[i].name;
      refused([&](tensors& t, awq_settings&) { t.erase(t.begin() + static_cast<long>(i)); },
              errc::not_found, "in memory");
      refused(
          [&](tensors& t, awq_settings&) {
            const bool wide = traits_of(t[i].type).bits == 32;
            t[i].type = wide ? safetensors::dtype::u32 : safetensors::dtype::u16;
          },
          errc::unsupported_format, name.c_str());
      refused([&](tensors& t, awq_settings&) { t[i].shape = {t[i].shape[0] * t[i].shape[1]}; },
              errc::bad_shape, name.c_str());
    }
    refused([](tensors&, awq_settings& settings) { settings.group_size = 64; }, errc::bad_shape,
            "m.scales");
    refused([](tensors&, awq_settings& settings) { settings.group_size = 0; }, errc::bad_argument,
            "m");
    refused([](tensors&, awq_settings& settings) { settings.bits = 9; }, errc::bad_argument, "m");
    refused([&](tensors&, awq_settings& settings) { settings.symmetric = true; },
            errc::bad_metadata, good[1].name.c_str());
    refused([](tensors& t,
               awq_settings&) { subbyte::store_le(t[2].bytes.data(), std::uint16_t{0x7E00}); },
            errc::non_finite, "m");
  }
}
