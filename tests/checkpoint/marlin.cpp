// SPDX-License-Identifier: Apache-2.0
/// Marlin tensors against the files of AutoAWQ, and what is refused.
#include "subbyte/checkpoint/marlin.hpp"

#include "support/checkpoint_files.hpp"

namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;
using checkpoint::marlin_names;
using checkpoint::marlin_settings;
using subbyte::errc;
using subbyte::group_codes;
using subbyte::index_t;
using test_support::contains;
using test_support::error_of;
using test_support::random_codes;
using test_support::same_codes;
using test_support::tensor_file;

TEST_CASE("marlin: AutoAWQ's files are read and written to the bit") {
  for (const char* name : {"marlin_k128_n128_g32", "marlin_k128_n128_g64", "marlin_k128_n64_g-1",
                           "marlin_k256_n64_g128"}) {
    CAPTURE(name);
    const safetensors::file file =
        test_support::golden_tensors(std::string("marlin/") + name + ".safetensors");
    marlin_settings s;
    s.names = marlin_names::awq;
    s.group_size = *test_support::golden_settings(file).find("group_size")->integer();
    const group_codes w = checkpoint::load_marlin(file, "", s);
    test_support::check_inputs(w, file);
    CHECK(w.symmetric());
    const auto stored = checkpoint::store_marlin(w, "", s);
    CHECK(stored.size() == 2);
    CHECK(test_support::stored_equals(stored, "qweight", file, "qweight"));
    CHECK(test_support::stored_equals(stored, "scales", file, "scales"));
  }
}

TEST_CASE("marlin: AutoAWQ's whole flow gives the scales that it found") {
  for (const char* name : {"flow_marlin_g128_64x256", "flow_marlin_g64_64x128"}) {
    CAPTURE(name);
    const safetensors::file file =
        test_support::golden_tensors(std::string("autoawq/") + name + ".safetensors");
    const marlin_settings s{4, name[13] == '1' ? 128 : 64, marlin_names::awq};
    const group_codes w = checkpoint::load_marlin(file, "marlin", s);
    const auto scales = file.tensor("scales_found").view<subbyte::half>();
    index_t wrong = 0;
    for (index_t r = 0; r < w.rows(); ++r) {
      for (index_t g = 0; g < w.groups(); ++g) {
        wrong += w.scales(r, g) != scales(r, g).to_float();
      }
    }
    CHECK(wrong == 0);
    CHECK(test_support::wrong_weights(w, file, "fake_quantized") == 0);
  }
}

TEST_CASE("marlin: both widths and names come back as they were stored") {
  for (const int bits : {4, 8}) {
    for (const marlin_names names : {marlin_names::marlin, marlin_names::awq}) {
      for (const index_t group : {index_t{32}, index_t{128}}) {
        const group_codes w = random_codes(bits, {128, 128, group}, 1, 0, 7);
        const marlin_settings s{bits, group, names};
        const tensor_file file(checkpoint::store_marlin(w, "m", s));
        CHECK(same_codes(checkpoint::load_marlin(file.open(), "m", s), w));
      }
    }
  }
}

TEST_CASE("marlin: what Marlin cannot hold is not written") {
  const auto refused = [&](const group_codes& w, errc code, const char* text) {
    const auto e = error_of([&] { (void)checkpoint::store_marlin(w, "layer", {}); });
    CAPTURE(e.what(), text);
    CHECK(e.code() == code);
    CHECK(contains(e.what(), text));
  };
  group_codes scattered = random_codes(4, {64, 128, 32}, 1, 0, 1);
  test_support::scatter_columns(scattered, 2);
  refused(scattered, errc::bad_argument, "act-order");
  refused(random_codes(4, {64, 128, 32}, 7, 7, 1), errc::bad_argument, "symmetric");
  refused(random_codes(3, {64, 128, 32}, 1, 0, 1), errc::bad_argument, "3 bits");
  refused(random_codes(4, {32, 128, 32}, 1, 0, 1), errc::layout_rejected, "32 x 128");
  refused(random_codes(4, {64, 120, 40}, 1, 0, 1), errc::layout_rejected, "64 x 120");
  refused(random_codes(4, {64, 128, 48}, 1, 0, 1), errc::layout_rejected, "groups of 48");
  // Zero points that are all in the middle say nothing.
  CHECK(checkpoint::store_marlin(random_codes(4, {64, 128, 32}, 8, 8, 1), "m", {}).size() == 2);
}

TEST_CASE("marlin: a file that contradicts itself or the configuration is refused by name") {
  const group_codes w = random_codes(4, {64, 128, 32}, 1, 0, 9);
  const marlin_settings s{4, 32, marlin_names::marlin};
  const auto good = checkpoint::store_marlin(w, "m", s);
  const test_support::refusals refused(good, s,
                                       [](const safetensors::file& file, const marlin_settings& x) {
                                         (void)checkpoint::load_marlin(file, "m", x);
                                       });
  using tensors = checkpoint::stored_tensors;
  refused([](tensors&, marlin_settings& x) { x.bits = 5; }, errc::bad_argument, "m");
  refused([](tensors&, marlin_settings& x) { x.group_size = 64; }, errc::bad_shape, "m.s");
  refused([](tensors&, marlin_settings& x) { x.group_size = 48; }, errc::layout_rejected, "m");
  refused([](tensors&, marlin_settings& x) { x.names = marlin_names::awq; }, errc::not_found,
          "in memory");
  refused([](tensors& t, marlin_settings&) { t[0].type = safetensors::dtype::f32; },
          errc::unsupported_format, "m.B");
  refused([](tensors& t, marlin_settings&) { t[0].shape = {16, 64}; }, errc::layout_rejected, "m");
  refused(
      [](tensors& t, marlin_settings& x) {
        x.bits = 8;
        t[0].shape = {1024 / 2, 2};
      },
      errc::bad_shape, "m.B");
  refused([](tensors& t, marlin_settings&) { t[1].shape = {64, 4}; }, errc::bad_shape, "m.s");
}
