// SPDX-License-Identifier: Apache-2.0
/// Quantization configurations as the packages write them: read, written again, applied to modules,
/// and refused.
#include "subbyte/checkpoint/quantization_config.hpp"

#include "support/checkpoint_files.hpp"

namespace checkpoint_quantization_config_test {

namespace checkpoint = subbyte::checkpoint;
using checkpoint::awq_settings;
using checkpoint::awq_version;
using checkpoint::compressed_tensors_settings;
using checkpoint::gptq_format;
using checkpoint::gptq_settings;
using checkpoint::gptq_writer;
using checkpoint::marlin_settings;
using checkpoint::quantization_config;
using subbyte::errc;
using subbyte::json_value;
using test_support::contains;
using test_support::error_of;

namespace {

json_value golden_json(const std::string& name) {
  const auto content = test_support::read_file(test_support::golden_path(name));
  return subbyte::parse_json(std::string(content.begin(), content.end()), name);
}

quantization_config read(const std::string& text) {
  return checkpoint::read_quantization_config(subbyte::parse_json(text, "config.json"),
                                              "config.json");
}

void check_rewritten(const quantization_config& config) {
  const json_value written = config.to_json();
  const json_value reread = subbyte::parse_json(written.to_text(), "written");
  CHECK(checkpoint::read_quantization_config(reread, "written") == config);
  json_value root = json_value::object();
  root.set("model_type", "llama").set("quantization_config", reread);
  CHECK(checkpoint::read_quantization_config(root, "written") == config);
}

}  // namespace

TEST_CASE("quantization_config: gptqmodel's files are read, and read the same when rewritten") {
  const gptq_settings expected[] = {
      {4, 128, true, false, gptq_format::gptq, gptq_writer::unknown},
      {4, 32, false, true, gptq_format::gptq_v2, gptq_writer::unknown},
      {3, -1, true, true, gptq_format::gptq, gptq_writer::unknown},
      {8, 64, true, false, gptq_format::gptq, gptq_writer::unknown},
      {6, 32, true, false, gptq_format::gptq_p, gptq_writer::unknown}};
  for (std::size_t i = 0; i < 5; ++i) {
    CAPTURE(i);
    const quantization_config config = checkpoint::read_quantization_config(
        golden_json("gptqmodel/config/" + std::to_string(i) + "_quantize_config.json"), "file");
    CHECK(std::get<gptq_settings>(config.base) == expected[i]);
    check_rewritten(config);
    if (i != 3) continue;
    CHECK_FALSE(config.settings_of("model.layers.19.mlp.up_proj", "file"));
    gptq_settings down = expected[3];
    down.group_size = 32;
    CHECK(std::get<gptq_settings>(*config.settings_of("model.layers.18.mlp.down_proj", "file")) ==
          down);
    CHECK(std::get<gptq_settings>(*config.settings_of("model.layers.18.mlp.up_proj", "file")) ==
          expected[3]);
  }
}

TEST_CASE("quantization_config: AutoAWQ's files are read, and written as AutoAWQ writes them") {
  for (const int i : {0, 1, 2}) {
    CAPTURE(i);
    const std::string stem = "autoawq/config/" + std::to_string(i);
    const json_value modern = golden_json(stem + "_quantization_config.json");
    const json_value legacy = golden_json(stem + "_quant_config.json");
    const quantization_config config = checkpoint::read_quantization_config(modern, "file");
    CHECK(checkpoint::read_quantization_config(legacy, "file") == config);
    CHECK(config.to_json() == modern);
    CHECK(config.to_legacy_awq_json() == legacy);
    check_rewritten(config);
    if (i == 0) CHECK(std::get<awq_settings>(config.base) == awq_settings{});
    if (i == 1) {
      CHECK(std::get<awq_settings>(config.base) ==
            awq_settings{4, 64, false, awq_version::gemv, false});
      CHECK_FALSE(config.settings_of("lm_head", "file"));
      CHECK(config.settings_of("model.layers.0.mlp.up_proj", "file"));
    }
    if (i == 2) {
      CHECK(std::get<marlin_settings>(config.base) ==
            marlin_settings{4, 128, checkpoint::marlin_names::awq});
    }
  }
}

TEST_CASE("quantization_config: compressed-tensors' files are read, and written with equal JSON") {
  struct expectation {
    const char* name;
    compressed_tensors_settings settings;
  };
  const expectation files[] = {{"pack_b2_asym_group32_32x128_float16", {2, 32, false, false}},
                               {"pack_b3_asym_group128_36x256_float16", {3, 128, false, false}},
                               {"pack_b4_asym_channel_33x100_float32", {4, -1, false, false}},
                               {"pack_b4_asym_group64_40x128_float16", {4, 64, false, false}},
                               {"pack_b4_sym_channel_32x96_float32", {4, -1, true, false}},
                               {"pack_b8_sym_group64_32x128_bfloat16", {8, 64, true, false}},
                               {"preset_w4a16_32x128", {4, 128, true, false}},
                               {"preset_w4a16_asym_32x256", {4, 128, false, false}}};
  for (const expectation& e : files) {
    CAPTURE(e.name);
    json_value root = golden_json(std::string("compressed_tensors/") + e.name + ".config.json");
    const quantization_config config = checkpoint::read_quantization_config(root, "file");
    const auto settings = config.settings_of("model.layers.0.mlp.up_proj", "file");
    REQUIRE(settings);
    CHECK(std::get<compressed_tensors_settings>(*settings) == e.settings);
    CHECK_FALSE(config.settings_of("lm_head", "file"));
    CHECK_FALSE(config.settings_of("model.layers.0.mlp.gate", "file"));
    CHECK(config.settings_of("model.layers.0.mlp.gate_proj", "file"));
    json_value golden = *root.find("quantization_config");
    golden.erase("moe_sparsity_config");
    CHECK(config.to_json() == golden);
    check_rewritten(config);
  }
  const quantization_config other = checkpoint::read_quantization_config(
      golden_json("compressed_tensors/preset_fp8_32x128.config.json"), "file");
  const auto e = error_of([&] { (void)other.settings_of("model.x", "file"); });
  CHECK(e.code() == errc::unsupported_format);
  CHECK(contains(e.what(), "float-quantized"));
}

TEST_CASE("quantization_config: the writer of a GPTQ file comes from meta, and from nowhere else") {
  const auto writer = [](const std::string& meta) {
    return std::get<gptq_settings>(
               read(R"({"quant_method":"gptq","bits":4,"group_size":128)" + meta + "}").base)
        .writer;
  };
  CHECK(writer("") == gptq_writer::unknown);
  CHECK(writer(R"(,"meta":{"quantizer":["gptqmodel:4.0"]})") == gptq_writer::gptqmodel);
  CHECK(writer(R"(,"meta":{"quantizer":"gptqmodel:1.9"})") == gptq_writer::gptqmodel);
  CHECK(writer(R"(,"meta":{"quantizer":["auto_gptq:0.8"]})") == gptq_writer::auto_gptq);
  CHECK(writer(R"(,"meta":{"quantizer":["other"]})") == gptq_writer::unknown);
  CHECK(writer(R"(,"meta":{"quantizer":[]})") == gptq_writer::unknown);
  CHECK(writer(R"(,"meta":{"quantizer":[")" + checkpoint::producer_name() + "\"]}") ==
        gptq_writer::per_field);
}

TEST_CASE("quantization_config: synonyms, defaults, and objects without a method") {
  const quantization_config legacy = read(R"({"w_bit":4,"q_group_size":64,"sym":true})");
  CHECK(std::get<gptq_settings>(legacy.base).group_size == 64);
  CHECK(std::get<gptq_settings>(legacy.base).format == gptq_format::gptq);
  const quantization_config awq = read(R"({"w_bit":4,"q_group_size":64,"zero_point":true})");
  CHECK(std::get<awq_settings>(awq.base).version == awq_version::gemm);
  CHECK(std::get<awq_settings>(
            read(R"({"quant_method":"AWQ","bits":4,"group_size":-1,"version":"GEMV_FAST"})").base)
            .version == awq_version::gemv_tiled);
}

TEST_CASE("quantization_config: auto-round's two packings, with layers of their own") {
  const std::string layers = R"(,"extra_config":{"a.b":{"bits":8,"group_size":32},
      "lm_head":{"bits":16},".*up_proj.*":{"sym":false}})";
  const quantization_config gptq = read(
      R"({"quant_method":"auto-round","bits":4,"group_size":128,"sym":true,
          "packing_format":"auto_round:auto_gptq")" +
      layers + "}");
  const auto a = std::get<gptq_settings>(*gptq.settings_of("a.b", "file"));
  CHECK(a.bits == 8);
  CHECK(a.group_size == 32);
  CHECK(std::get<gptq_settings>(*gptq.settings_of("a.bc", "file")).bits == 4);
  CHECK_FALSE(gptq.settings_of("lm_head", "file"));
  CHECK_FALSE(std::get<gptq_settings>(*gptq.settings_of("m.up_proj", "file")).symmetric);
  const quantization_config awq = read(
      R"({"quant_method":"auto-round","bits":4,"group_size":128,"sym":false,
          "packing_format":"auto_round:auto_awq")" +
      layers + "}");
  CHECK(std::get<awq_settings>(*awq.settings_of("a.b", "file")).bits == 8);
  CHECK_FALSE(std::get<awq_settings>(awq.base).symmetric);
}

TEST_CASE("quantization_config: compressed-tensors' targets by name, pattern and class") {
  const quantization_config config = read(R"({"quant_method":"compressed-tensors",
      "format":"pack-quantized","version":"0.12.2","ignore":["re:.*router"],"config_groups":{
      "a":{"targets":["Linear"],"weights":{"num_bits":4,"strategy":"group","group_size":32}},
      "b":{"targets":["m.exact","re:m\\.layers\\.\\d+\\.down"],
           "weights":{"num_bits":8,"strategy":"channel"}}}})");
  const auto bits = [&](const char* module) {
    return std::get<compressed_tensors_settings>(*config.settings_of(module, "file")).bits;
  };
  CHECK(bits("m.other") == 4);
  CHECK(bits("m.exact") == 8);
  CHECK(bits("m.layers.11.down") == 8);
  CHECK(bits("m.layers.x.down") == 4);
  CHECK_FALSE(config.settings_of("m.router", "file"));
  CHECK(std::get<compressed_tensors_settings>(config.base).padded);
  check_rewritten(config);
  const auto padded = [](const char* version) {
    return std::get<compressed_tensors_settings>(
               read(std::string(R"({"quant_method":"compressed-tensors","version":")") + version +
                    R"(","format":"pack-quantized","config_groups":{"a":{"targets":["Linear"],
                    "weights":{"num_bits":3,"strategy":"channel"}}}})")
                   .base)
        .padded;
  };
  CHECK(padded("0.16.9"));
  CHECK(padded("0.9"));
  for (const char* version : {"0.17.0", "0.100.1", "1.2", "", "x", "0"}) {
    CAPTURE(version);
    CHECK_FALSE(padded(version));
  }
}

TEST_CASE("quantization_config: what is not read is refused with the key and the value") {
  const auto refused = [](const std::string& text, errc code, const char* part) {
    const auto e = error_of([&] { (void)read(text); });
    CAPTURE(text, e.what());
    CHECK(e.code() == code);
    CHECK(e.subject() == "config.json");
    CHECK(contains(e.what(), part));
  };
  const std::string gptq = R"("quant_method":"gptq","group_size":128,)";
  refused("{}", errc::not_found, "no quantization");
  refused("[]", errc::not_found, "no quantization");
  refused(R"({"quant_method":"bitsandbytes"})", errc::unsupported_format, "bitsandbytes");
  refused(R"({"quant_method":4})", errc::bad_metadata, "quant_method");
  refused("{" + gptq + R"("bits":"4"})", errc::bad_metadata, "bits is no integer");
  refused("{" + gptq + R"("bits":0})", errc::bad_metadata, "bits is 0");
  refused("{" + gptq + R"("bits":-4})", errc::bad_metadata, "bits is -4");
  refused("{" + gptq + R"("bits":17})", errc::bad_metadata, "bits is 17");
  refused("{" + gptq + R"("bits":99999999999999999999})", errc::bad_metadata, "bits");
  refused("{" + gptq + R"("x":1})", errc::bad_metadata, "bits is missing");
  refused(R"({"quant_method":"gptq","bits":4})", errc::bad_metadata, "group_size is missing");
  refused("{" + gptq + R"("bits":4,"sym":1})", errc::bad_metadata, "sym is no boolean");
  refused("{" + gptq + R"("bits":4,"dynamic":[]})", errc::bad_metadata, "dynamic");
  refused("{" + gptq + R"("bits":4,"dynamic":{"a":1}})", errc::bad_metadata, "dynamic");
  refused("{" + gptq + R"("bits":4,"checkpoint_format":"bitblas"})", errc::unsupported_format,
          "bitblas");
  refused("{" + gptq + R"("bits":4,"pack_dtype":"int16"})", errc::unsupported_format, "int16");
  refused(R"({"quant_method":"awq","bits":4,"group_size":1,"version":"ipex"})",
          errc::unsupported_format, "ipex");
  refused(R"({"quant_method":"awq","bits":4,"group_size":1,"modules_to_not_convert":"a"})",
          errc::bad_metadata, "modules_to_not_convert");
  refused(R"({"quant_method":"awq","bits":4,"group_size":1,"modules_to_not_convert":[1]})",
          errc::bad_metadata, "modules_to_not_convert");
  refused(R"({"quant_method":"compressed-tensors"})", errc::bad_metadata, "config_groups");
  refused(R"({"quant_method":"compressed-tensors","config_groups":{"a":1}})", errc::bad_metadata,
          "config_groups");
  refused(R"({"quant_method":"auto-round","bits":4,"group_size":1,"packing_format":"x:y"})",
          errc::unsupported_format, "x:y");
  // A pattern is read when a module is asked for.
  const quantization_config bad = read("{" + gptq + R"("bits":4,"dynamic":{"+:(":{}}})");
  CHECK(error_of([&] { (void)bad.settings_of("m", "config.json"); }).code() == errc::bad_metadata);
}

}  // namespace checkpoint_quantization_config_test
