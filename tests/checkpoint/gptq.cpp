// SPDX-License-Identifier: Apache-2.0
/// GPTQ tensors against the files of gptqmodel and auto-gptq, both conventions of zero points with
/// the writers' defects, and what is refused.
#include "subbyte/checkpoint/gptq.hpp"

#include "support/checkpoint_files.hpp"

namespace checkpoint_gptq_test {

namespace checkpoint = subbyte::checkpoint;
namespace safetensors = subbyte::safetensors;
using checkpoint::gptq_format;
using checkpoint::gptq_settings;
using checkpoint::gptq_writer;
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

gptq_settings settings_of(const safetensors::file& file) {
  gptq_settings s;
  const auto json = test_support::golden_settings(file);
  s.bits = static_cast<int>(*json.find("bits")->integer());
  s.group_size = *json.find("group_size")->integer();
  s.symmetric = json.find("sym")->boolean();
  s.act_order = json.find("desc_act")->boolean();
  return s;
}

// The tensors of a golden file under other names, to load parts of it.
checkpoint::stored_tensor taken(const safetensors::file& file, const std::string& golden,
                                const std::string& name) {
  const safetensors::tensor& t = file.tensor(golden);
  return {
      name, t.type(), {t.shape().begin(), t.shape().end()}, {t.bytes().begin(), t.bytes().end()}};
}

const std::vector<std::string> packed_files = {
    "pack_b2_asym_g32_act_64x128",       "pack_b2_sym_g64_seq_32x128",
    "pack_b3_asym_g-1_seq_64x128",       "pack_b3_asym_g32_act_96x128_bias",
    "pack_b3_sym_g128_seq_32x256",       "pack_b4_asym_g-1_act_32x256",
    "pack_b4_asym_g32_act_64x128_bias",  "pack_b4_asym_g64_seq_96x128",
    "pack_b4_sym_g-1_seq_32x128_bias",   "pack_b4_sym_g128_act_32x384_bias",
    "pack_b4_sym_g32_seq_64x128",        "pack_b8_asym_g-1_seq_32x128",
    "pack_b8_asym_g128_act_32x384_bias", "pack_b8_sym_g32_seq_32x128"};

}  // namespace

TEST_CASE("gptq: gptqmodel's files are read and written to the bit, with v2 zero points") {
  for (const std::string& name : packed_files) {
    CAPTURE(name);
    const safetensors::file file = golden_tensors("gptqmodel/" + name + ".safetensors");
    gptq_settings s = settings_of(file);
    s.format = gptq_format::gptq_v2;
    const group_codes w = checkpoint::load_gptq(file, "", s);
    check_inputs(w, file);
    CHECK(w.symmetric() == s.symmetric);
    const auto g_idx = file.tensor("in.g_idx").view<std::int32_t>();
    index_t wrong_groups = 0;
    for (index_t k = 0; k < w.cols(); ++k) wrong_groups += w.group_of(k) != g_idx(0, k);
    CHECK(wrong_groups == 0);
    CHECK(test_support::wrong_weights(w, file) == 0);
    const auto stored = checkpoint::store_gptq(w, "layer", s);
    for (const char* leaf : {"qweight", "qzeros", "scales", "g_idx"}) {
      CAPTURE(leaf);
      CHECK(stored_equals(stored, std::string("layer.") + leaf, file, leaf));
    }
  }
}

TEST_CASE("gptq: gptqmodel's v1 zero points are read to the bit, borrowed ones included") {
  int with_zero = 0;
  for (const std::string& name : packed_files) {
    CAPTURE(name);
    const safetensors::file file = golden_tensors("gptqmodel/" + name + ".safetensors");
    gptq_settings s = settings_of(file);
    const tensor_file v1({taken(file, "qweight", "qweight"), taken(file, "v1.qzeros", "qzeros"),
                          taken(file, "scales", "scales"), taken(file, "g_idx", "g_idx")});
    s.writer = gptq_writer::gptqmodel;
    const group_codes w = checkpoint::load_gptq(v1.open(), "", s);
    check_inputs(w, file);
    bool has_zero = false;
    for (index_t i = 0; i < w.zeros.size(); ++i) has_zero |= w.zeros.data()[i] == 0;
    with_zero += has_zero;
    s.writer = gptq_writer::unknown;
    if (has_zero) {
      // Which neighbours were borrowed from depends on the writer: nothing is guessed.
      const auto e = error_of([&] { (void)checkpoint::load_gptq(v1.open(), "", s); });
      CHECK(e.code() == errc::bad_metadata);
      CHECK(e.subject() == "qzeros");
      CHECK(contains(e.what(), "zero point of 0"));
      CHECK(error_of([&] { (void)checkpoint::store_gptq(w, "layer", s); }).code() ==
            errc::bad_argument);
    } else {
      CHECK(same_codes(checkpoint::load_gptq(v1.open(), "", s), w));
      const auto stored = checkpoint::store_gptq(w, "layer", s);
      CHECK(stored_equals(stored, "layer.qzeros", file, "v1.qzeros"));
      CHECK(stored_equals(stored, "layer.qweight", file, "qweight"));
    }
  }
  CHECK(with_zero > 2);
}

TEST_CASE("gptq: the planes of gptq_p are read and written to the bit") {
  for (const char* name :
       {"planar_b3_asym_g32_32x128", "planar_b4_asym_g32_32x128", "planar_b5_asym_g64_32x128",
        "planar_b6_asym_g32_64x128", "planar_b7_asym_g-1_32x128"}) {
    CAPTURE(name);
    const safetensors::file file =
        golden_tensors(std::string("gptqmodel/") + name + ".safetensors");
    gptq_settings s = settings_of(file);
    s.format = gptq_format::gptq_p;
    const group_codes w = checkpoint::load_gptq(file, "", s);
    check_inputs(w, file);
    CHECK(test_support::wrong_weights(w, file) == 0);
    const auto stored = checkpoint::store_gptq(w, "", s);
    for (const char* leaf : {"qweight", "qzeros", "scales", "g_idx"}) {
      CAPTURE(leaf);
      CHECK(stored_equals(stored, leaf, file, leaf));
    }
  }
}

TEST_CASE("gptq: auto-gptq's files are read and written to the bit, but for lost zero points") {
  for (const char* name :
       {"pack_b2_sym_g64_seq_32x128", "pack_b3_asym_g32_seq_32x128", "pack_b4_asym_g64_act_32x128",
        "pack_b4_sym_g32_seq_32x128", "pack_b8_asym_g-1_act_32x128"}) {
    CAPTURE(name);
    const safetensors::file file = golden_tensors(std::string("autogptq/") + name + ".safetensors");
    gptq_settings s = settings_of(file);
    for (const gptq_writer writer :
         {gptq_writer::unknown, gptq_writer::auto_gptq, gptq_writer::per_field}) {
      s.writer = writer;
      const group_codes w = checkpoint::load_gptq(file, "", s);
      check_inputs(w, file);
      const auto stored = checkpoint::store_gptq(w, "", s);
      for (const char* leaf : {"qweight", "qzeros", "scales", "g_idx"}) {
        CAPTURE(leaf);
        CHECK(stored_equals(stored, leaf, file, leaf));
      }
    }
  }
  for (const char* name :
       {"pack_b3_asym_g64_seq_32x128_zero0", "pack_b4_asym_g32_seq_32x96_zero0"}) {
    CAPTURE(name);
    const safetensors::file file = golden_tensors(std::string("autogptq/") + name + ".safetensors");
    gptq_settings s = settings_of(file);
    for (const gptq_writer writer : {gptq_writer::unknown, gptq_writer::auto_gptq}) {
      s.writer = writer;
      const auto e = error_of([&] { (void)checkpoint::load_gptq(file, "", s); });
      CHECK(e.code() == errc::bad_metadata);
      CHECK(contains(e.what(),
                     writer == gptq_writer::unknown ? "does not name it" : "has overwritten"));
    }
  }
}

TEST_CASE("gptq: auto-gptq's zero point of 0 in the last field of a word lost nothing") {
  group_codes w = random_codes(4, {32, 64, 32}, 1, 15, 3);
  gptq_settings s;
  s.group_size = 32;
  s.symmetric = false;
  auto stored = checkpoint::store_gptq(w, "m", s);
  stored[1].bytes[3] = static_cast<std::uint8_t>(stored[1].bytes[3] | 0xF0);  // row 7, group 0
  w.zeros(7, 0) = 0;
  const tensor_file file(stored);
  s.writer = gptq_writer::auto_gptq;
  CHECK(same_codes(checkpoint::load_gptq(file.open(), "m", s), w));
  s.writer = gptq_writer::per_field;
  CHECK(same_codes(checkpoint::load_gptq(file.open(), "m", s), w));
  // In the field below it, the last one is lost.
  stored[1].bytes[3] = static_cast<std::uint8_t>(stored[1].bytes[3] | 0x0F);
  const tensor_file damaged(stored);
  s.writer = gptq_writer::auto_gptq;
  CHECK(error_of([&] { (void)checkpoint::load_gptq(damaged.open(), "m", s); }).code() ==
        errc::bad_metadata);
}

TEST_CASE("gptq: every width, format and order comes back as it was stored") {
  for (const gptq_format format : {gptq_format::gptq, gptq_format::gptq_v2, gptq_format::gptq_p}) {
    for (int bits = 2; bits <= 8; ++bits) {
      if (!checkpoint::gptq_has_bits(format, bits)) continue;
      for (const index_t group : {index_t{16}, index_t{32}, index_t{96}}) {
        for (const bool scattered : {false, true}) {
          CAPTURE(static_cast<int>(format), bits, group, scattered);
          group_codes w = random_codes(bits, {64, 96, group}, format == gptq_format::gptq ? 1 : 0,
                                       (1 << bits) - 1, static_cast<std::uint64_t>(bits));
          if (scattered) test_support::scatter_columns(w, 5);
          gptq_settings s{bits, group, false, scattered, format, gptq_writer::unknown};
          const tensor_file file(checkpoint::store_gptq(w, "a.b", s));
          CHECK(same_codes(checkpoint::load_gptq(file.open(), "a.b", s), w));
        }
      }
    }
  }
}

TEST_CASE("gptq: what readers of the format would refuse or misread is not written") {
  gptq_settings s;
  const auto refused = [&](const group_codes& w, errc code, const char* text) {
    const auto e = error_of([&] { (void)checkpoint::store_gptq(w, "layer", s); });
    CAPTURE(e.what(), text);
    CHECK(e.code() == code);
    CHECK(contains(e.what(), text));
    CHECK(contains(e.subject(), "layer"));
  };
  refused(random_codes(5, {32, 64, 32}, 1, 0, 1), errc::bad_argument, "5 bits");
  refused(random_codes(4, {31, 64, 32}, 1, 0, 1), errc::layout_rejected, "31 x 64");
  refused(random_codes(4, {32, 72, 24}, 1, 0, 1), errc::layout_rejected, "multiples of 32");
  refused(random_codes(4, {32, 96, 48}, 1, 0, 1), errc::bad_argument, "groups of 48");
  refused(random_codes(4, {32, 64, 8}, 1, 0, 1), errc::bad_argument, "groups of 8");
  group_codes w = random_codes(4, {32, 64, 32}, 0, 0, 1);
  refused(w, errc::bad_argument, "is 0, which format gptq cannot hold");
  w.real_zeros = true;
  w.zeros(3, 1) = 2.5F;
  s.format = gptq_format::gptq_v2;
  refused(w, errc::bad_argument, "holds integers");
  s.format = gptq_format::gptq_p;
  refused(random_codes(1, {32, 64, 32}, 1, 0, 1), errc::bad_argument, "1 bits");
  // Scales are never rounded here.
  w = random_codes(4, {32, 64, 32}, 1, 0, 1);
  w.scales(2, 1) = 0.1F;
  refused(w, errc::bad_metadata, "which no f16 holds");
}

TEST_CASE("gptq: a file that contradicts itself or the configuration is refused by name") {
  const group_codes w = random_codes(4, {32, 64, 32}, 1, 15, 9);
  gptq_settings s;
  s.group_size = 32;
  s.symmetric = false;
  const auto good = checkpoint::store_gptq(w, "m", s);
  enum { qweight, qzeros, scales, g_idx };
  const test_support::refusals refused(good, s,
                                       [](const safetensors::file& file, const gptq_settings& x) {
                                         (void)checkpoint::load_gptq(file, "m", x);
                                       });
  using tensors = checkpoint::stored_tensors;
  refused([](tensors& t, gptq_settings&) { t[qweight].type = safetensors::dtype::u32; },
          errc::unsupported_format, "m.qweight", "U32, required is I32");
  refused([](tensors& t, gptq_settings&) { t[scales].type = safetensors::dtype::i16; },
          errc::unsupported_format, "m.scales", "I16");
  refused([](tensors& t, gptq_settings&) { t[qzeros].type = safetensors::dtype::f32; },
          errc::unsupported_format, "m.qzeros", "F32, required is I32");
  refused([](tensors& t, gptq_settings&) { t[g_idx].type = safetensors::dtype::f32; },
          errc::unsupported_format, "m.g_idx", "F32");
  for (const int missing : {qweight, qzeros, scales}) {
    refused([&](tensors& t, gptq_settings&) { t.erase(t.begin() + missing); }, errc::not_found,
            "in memory",
            missing == qweight  ? "m.qweight"
            : missing == qzeros ? "m.qzeros"
                                : "m.scales");
  }
  refused(
      [](tensors& t, gptq_settings& settings) {
        t.pop_back();
        settings.act_order = true;
      },
      errc::not_found, "m.g_idx", "desc_act");
  refused([](tensors& t, gptq_settings&) { t[qweight].shape = {256}; }, errc::bad_shape,
          "m.qweight", "2 dimensions");
  refused(
      [](tensors& t, gptq_settings&) {
        t[qweight].shape = {8, 0, 32};
        t[qweight].bytes.clear();
      },
      errc::bad_shape, "m.qweight", "[8, 0, 32]");
  refused(
      [](tensors& t, gptq_settings&) {
        t[qweight].shape = {4, 64};
      },
      errc::bad_shape, "m.scales", "required is [1, 64]");
  refused(
      [](tensors& t, gptq_settings&) {
        t[scales].shape = {32, 2};
      },
      errc::bad_shape, "m.scales", "[32, 2], required is [2, 32]");
  refused(
      [](tensors& t, gptq_settings&) {
        t[qzeros].shape = {4, 2};
      },
      errc::bad_shape, "m.qzeros", "[4, 2], required is [2, 4]");
  refused([](tensors&, gptq_settings& settings) { settings.bits = 8; }, errc::bad_shape, "m.scales",
          "required is [1, 32]");
  refused([](tensors&, gptq_settings& settings) { settings.bits = 5; }, errc::bad_argument, "m",
          "5 bits");
  refused([](tensors&, gptq_settings& settings) { settings.group_size = 16; }, errc::bad_shape,
          "m.scales", "[2, 32], required is [4, 32]");
  for (const index_t size : {index_t{0}, index_t{-2}}) {
    refused([&](tensors&, gptq_settings& settings) { settings.group_size = size; },
            errc::bad_argument, "m", "group size");
  }
  for (const std::int32_t group : {-1, 2, std::numeric_limits<std::int32_t>::min()}) {
    refused(
        [&](tensors& t, gptq_settings&) {
          subbyte::store_le(t[g_idx].bytes.data() + 4 * 63, static_cast<std::uint32_t>(group));
        },
        errc::bad_metadata, "m.g_idx", "column 63 is in group");
  }
  refused(
      [](tensors& t, gptq_settings&) {
        t[g_idx].shape = {32};
        t[g_idx].bytes.resize(128);
      },
      errc::bad_shape, "m.g_idx", "required is [64]");
  refused(
      [](tensors& t, gptq_settings&) {
        subbyte::store_le(t[scales].bytes.data() + 2, std::uint16_t{0x7C00});
      },
      errc::non_finite, "m", "row 1, group 0");
  // Zero points of v1 read as v2 are off by one: a symmetric file shows it.
  refused([](tensors&, gptq_settings& settings) { settings.symmetric = true; }, errc::bad_metadata,
          "m.qzeros", "symmetric");
}

TEST_CASE("gptq: a symmetric file under the wrong convention of zero points is noticed") {
  const group_codes w = random_codes(4, {32, 64, 32}, 1, 0, 9);
  gptq_settings s;
  s.group_size = 32;
  const tensor_file file(checkpoint::store_gptq(w, "m", s));
  CHECK(checkpoint::load_gptq(file.open(), "m", s).symmetric());
  s.symmetric = false;  // what the file holds counts
  CHECK(checkpoint::load_gptq(file.open(), "m", s).symmetric());
  s.symmetric = true;
  s.format = gptq_format::gptq_v2;
  const auto e = error_of([&] { (void)checkpoint::load_gptq(file.open(), "m", s); });
  CHECK(e.code() == errc::bad_metadata);
  CHECK(contains(e.what(), "convention"));
}

TEST_CASE("gptq: a file without g_idx has its columns in order") {
  const group_codes w = random_codes(3, {32, 64, 32}, 1, 0, 2);
  gptq_settings s;
  s.bits = 3;
  s.group_size = 32;
  auto tensors = checkpoint::store_gptq(w, "m", s);
  tensors.pop_back();
  CHECK(same_codes(checkpoint::load_gptq(tensor_file(tensors).open(), "m", s), w));
}

TEST_CASE("gptq: symmetric zero points are the constants of the two conventions") {
  struct constant {
    int bits;
    gptq_format format;
    std::vector<std::uint32_t> words;
  };
  const constant constants[] = {{2, gptq_format::gptq, {0x55555555}},
                                {3, gptq_format::gptq, {0xDB6DB6DB, 0xB6DB6DB6, 0x6DB6DB6D}},
                                {4, gptq_format::gptq, {0x77777777}},
                                {8, gptq_format::gptq, {0x7F7F7F7F}},
                                {2, gptq_format::gptq_v2, {0xAAAAAAAA}},
                                {3, gptq_format::gptq_v2, {0x24924924, 0x49249249, 0x92492492}},
                                {4, gptq_format::gptq_v2, {0x88888888}},
                                {8, gptq_format::gptq_v2, {0x80808080}}};
  for (const constant& c : constants) {
    CAPTURE(c.bits, static_cast<int>(c.format));
    gptq_settings s;
    s.format = c.format;
    const auto stored = checkpoint::store_gptq(random_codes(c.bits, {32, 64, 32}, 1, 0, 4), "m", s);
    for (std::size_t i = 0; i < stored[1].bytes.size() / 4; ++i) {
      CHECK(subbyte::load_le<std::uint32_t>(stored[1].bytes.data() + 4 * i) ==
            c.words[i % c.words.size()]);
    }
  }
}

}  // namespace checkpoint_gptq_test
