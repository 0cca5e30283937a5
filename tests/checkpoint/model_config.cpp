// SPDX-License-Identifier: Apache-2.0
/// Tests of checkpoint/model_config.hpp.
#include "subbyte/checkpoint/model_config.hpp"

#include <set>

#include "subbyte/io/gguf.hpp"
#include "subbyte/io/gguf_writer.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"

namespace checkpoint = subbyte::checkpoint;
using checkpoint::architecture;
using checkpoint::model_config;
using checkpoint::rope_scaling;
using subbyte::errc;
using subbyte::index_t;
using subbyte::json_value;
using test_support::error_of;

namespace {

json_value small(const std::string& name) {
  json_value v = json_value::object();
  v.set("architectures", json_value::array({name}))
      .set("vocab_size", 7)
      .set("hidden_size", 12)
      .set("num_hidden_layers", 2)
      .set("num_attention_heads", 6)
      .set("num_key_value_heads", 3)
      .set("head_dim", 4)
      .set("intermediate_size", 20)
      .set("max_position_embeddings", 64);
  return v;
}

model_config read(const json_value& v) { return checkpoint::read_model_config(v, "config.json"); }

json_value parse(const std::string& text) { return subbyte::parse_json(text, "text"); }

// The error must name the file, and say `part`.
void check_refused(const json_value& v, errc code, const std::string& part) {
  CAPTURE(part);
  const subbyte::error e = error_of([&] { return read(v); });
  CHECK(e.code() == code);
  CHECK(e.subject().find("config.json") == 0);
  CHECK_THAT(std::string(e.what()), Catch::Contains(part));
}

std::set<std::string> names_of(const model_config& c) {
  std::set<std::string> names;
  for (const auto& t : c.outer_tensors()) names.insert(t.gguf);
  for (const auto& t : c.layer_tensors(1)) names.insert(t.gguf);
  return names;
}

}  // namespace

TEST_CASE("model_config: the architectures by the names of their classes, and none else") {
  CHECK(read(small("LlamaForCausalLM")).architecture == architecture::llama);
  CHECK(read(small("MistralForCausalLM")).architecture == architecture::llama);
  CHECK(read(small("Qwen2ForCausalLM")).architecture == architecture::qwen2);
  CHECK(read(small("Qwen3ForCausalLM")).architecture == architecture::qwen3);
  for (const char* name : {"Qwen3MoeForCausalLM", "MixtralForCausalLM", "GemmaForCausalLM",
                           "Qwen2VLForConditionalGeneration", "llama2", "LlamaModel", ""}) {
    check_refused(small(name), errc::unsupported_format, "\"" + std::string(name) + "\"");
  }
  json_value v = small("x");
  v.set("architectures", json_value::array({"LlamaForCausalLM", "Other"}));
  check_refused(v, errc::bad_metadata, "architectures");
}

TEST_CASE("model_config: without architectures the model_type counts") {
  for (const auto& [type, expected] :
       {std::pair("llama", architecture::llama), std::pair("mistral", architecture::llama),
        std::pair("qwen2", architecture::qwen2), std::pair("qwen3", architecture::qwen3)}) {
    json_value v = small("x");
    v.erase("architectures");
    v.set("model_type", type);
    CHECK(read(v).architecture == expected);
  }
  json_value v = small("x");
  v.erase("architectures");
  check_refused(v.set("model_type", "mamba"), errc::unsupported_format, "\"mamba\"");
  v.erase("model_type");
  check_refused(v, errc::unsupported_format, "\"\"");
}

TEST_CASE("model_config: sizes, and what they are when they are missing") {
  model_config c = read(small("LlamaForCausalLM"));
  CHECK(c.vocabulary == 7);
  CHECK(c.width == 12);
  CHECK(c.layers == 2);
  CHECK(c.heads == 6);
  CHECK(c.kv_heads == 3);
  CHECK(c.head_size == 4);
  CHECK(c.feed_forward == 20);
  CHECK(c.context == 64);
  CHECK(c.norm_epsilon == 1e-6);
  CHECK(c.rope.base == 10000);
  CHECK(c.rope.scaling == rope_scaling::none);
  CHECK_FALSE(c.tied);
  CHECK(c.sliding_window == 0);

  json_value v = small("LlamaForCausalLM");
  v.erase("num_key_value_heads");
  v.set("head_dim", json_value());
  c = read(v.set("rms_norm_eps", parse("1e-5")).set("tie_word_embeddings", true));
  CHECK(c.kv_heads == 6);
  CHECK(c.head_size == 2);
  CHECK(c.norm_epsilon == 1e-5);
  CHECK(c.tied);
  v = small("Qwen3ForCausalLM");
  v.erase("head_dim");
  CHECK(read(v).head_size == 128);  // the default of that class alone
}

TEST_CASE("model_config: impossible values are rejected by key") {
  for (const char* key : {"vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads",
                          "intermediate_size", "max_position_embeddings"}) {
    json_value v = small("LlamaForCausalLM");
    v.erase(key);
    check_refused(v, errc::bad_metadata, key);
    for (const char* wrong : {"0", "-1", "2147483648", "1.5", "\"1\"", "true", "[1]", "1e3"}) {
      check_refused(v.set(key, parse(wrong)), errc::bad_metadata, key);
    }
  }
  const auto with = [](const char* key, const char* value) {
    json_value v = small("LlamaForCausalLM");
    v.set(key, parse(value));
    return v;
  };
  check_refused(with("num_key_value_heads", "4"), errc::bad_metadata, "num_key_value_heads 4");
  check_refused(with("head_dim", "5"), errc::bad_metadata, "head size is 5");
  check_refused(with("rms_norm_eps", "0"), errc::bad_metadata, "rms_norm_eps");
  check_refused(with("rms_norm_eps", "\"x\""), errc::bad_metadata, "rms_norm_eps");
  check_refused(with("rope_theta", "1e39"), errc::bad_metadata, "rope_theta");
  check_refused(with("rope_theta", "-1"), errc::bad_metadata, "rope_theta");
  check_refused(with("tie_word_embeddings", "1"), errc::bad_metadata, "tie_word_embeddings");
  check_refused(with("hidden_act", "1"), errc::bad_metadata, "hidden_act");
  check_refused(parse("[]"), errc::bad_metadata, "not a JSON object");
  json_value v = small("LlamaForCausalLM");
  v.erase("head_dim");
  check_refused(v.set("num_attention_heads", 5).set("num_key_value_heads", 5), errc::bad_metadata,
                "hidden_size 12");
}

TEST_CASE("model_config: options that would change the results are refused by name") {
  const auto with = [](const char* name, const char* key, const char* value) {
    json_value v = small(name);
    v.set(key, parse(value));
    return v;
  };
  check_refused(with("LlamaForCausalLM", "hidden_act", "\"gelu\""), errc::unsupported_format,
                "\"gelu\"");
  check_refused(with("LlamaForCausalLM", "mlp_bias", "true"), errc::unsupported_format, "mlp_bias");
  check_refused(with("LlamaForCausalLM", "partial_rotary_factor", "0.5"), errc::unsupported_format,
                "partial_rotary_factor");
  check_refused(with("Qwen3ForCausalLM", "attention_bias", "true"), errc::unsupported_format,
                "attention_bias");
  check_refused(with("MistralForCausalLM", "attention_bias", "true"), errc::unsupported_format,
                "attention_bias");
  CHECK_FALSE(read(with("Qwen3ForCausalLM", "attention_bias", "false")).qkv_biases);
  CHECK(read(with("LlamaForCausalLM", "partial_rotary_factor", "1.0")).width == 12);
}

TEST_CASE("model_config: the sliding window where attention has one and the context is longer") {
  const auto window = [](const char* name, const char* use, const char* value) {
    json_value v = small(name);
    v.set("use_sliding_window", parse(use)).set("sliding_window", parse(value));
    return read(v).sliding_window;
  };
  CHECK(window("MistralForCausalLM", "null", "32") == 32);
  CHECK(window("MistralForCausalLM", "null", "64") == 0);
  CHECK(window("MistralForCausalLM", "null", "null") == 0);
  CHECK(window("Qwen2ForCausalLM", "false", "32") == 0);
  CHECK(window("Qwen2ForCausalLM", "true", "32") == 32);
  CHECK(window("LlamaForCausalLM", "true", "32") == 0);
}

TEST_CASE("model_config: RoPE in the spelling of transformers 4 and in that of 5") {
  const auto rope = [](const char* key, const char* value, const char* theta = "null") {
    json_value v = small("LlamaForCausalLM");
    v.set(key, parse(value)).set("rope_theta", parse(theta));
    return read(v).rope;
  };
  CHECK(rope("rope_scaling", "null", "5e5").base == 500000);
  CHECK(rope("rope_parameters", R"({"rope_type": "default", "rope_theta": 1e6})").base == 1e6);
  for (const auto& r : {rope("rope_scaling", R"({"type": "linear", "factor": 4})", "20000"),
                        rope("rope_parameters",
                             R"({"rope_type": "linear", "factor": 4.0, "rope_theta": 20000})")}) {
    CHECK(r.scaling == rope_scaling::linear);
    CHECK(r.base == 20000);
    CHECK(r.factor == 4);
  }
  const auto r = rope("rope_scaling",
                      R"({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})");
  CHECK(r.scaling == rope_scaling::llama3);
  CHECK(r.factor == 8);
  CHECK(r.low_frequency_factor == 1);
  CHECK(r.high_frequency_factor == 4);
  CHECK(r.original_context == 8192);

  const auto refused = [&](const char* value, errc code, const char* part) {
    json_value v = small("LlamaForCausalLM");
    check_refused(v.set("rope_scaling", parse(value)), code, part);
  };
  refused(R"({"type": "yarn", "factor": 4})", errc::unsupported_format, "\"yarn\"");
  refused(R"({"rope_type": "dynamic", "factor": 4})", errc::unsupported_format, "\"dynamic\"");
  refused(R"({"type": "linear", "factor": 4, "beta_fast": 1})", errc::unsupported_format,
          "beta_fast");
  refused(R"({"full_attention": {}})", errc::unsupported_format, "full_attention");
  refused(R"({"partial_rotary_factor": 0.25})", errc::unsupported_format, "partial_rotary_factor");
  refused(R"({"type": "linear"})", errc::bad_metadata, "factor");
  refused(R"({"rope_type": "llama3", "factor": 8})", errc::bad_metadata, "low_freq_factor");
  refused(R"({"rope_type": "llama3", "factor": 8, "low_freq_factor": 4, "high_freq_factor": 4,
              "original_max_position_embeddings": 1})",
          errc::bad_metadata, "high_freq_factor");
  refused("7", errc::bad_metadata, "rope_scaling");
}

TEST_CASE("model_config: llama3's divisors are 1 for quick pairs, the factor for slow ones") {
  json_value v = small("LlamaForCausalLM");
  v.set("head_dim", 128).set("rope_theta", parse("500000.0"));
  CHECK(read(v).rope_divisors().empty());
  v.set("rope_scaling", parse(R"({"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0,
      "high_freq_factor": 4.0, "original_max_position_embeddings": 8192})"));
  const std::vector<float> divisors = read(v).rope_divisors();
  REQUIRE(divisors.size() == 64);
  // Source: the formula of transformers, evaluated by hand for these pairs. Pair i turns once in
  // 2 pi 500000^(i / 64) positions: pair 28 in 1956, pair 29 in 2402, pair 34 in 6696, pair 35 in
  // 8220; 8192 / 4 = 2048.
  for (std::size_t i = 0; i <= 28; ++i) CHECK(divisors[i] == 1.0F);
  for (std::size_t i = 35; i < 64; ++i) CHECK(divisors[i] == 32.0F);
  for (std::size_t i = 29; i < 35; ++i) {
    CHECK(divisors[i] > divisors[i - 1]);
    CHECK(divisors[i] < 32);
    const double wave = 6.283185307179586 * std::pow(500000.0, static_cast<double>(i) / 64);
    const double share = (8192 / wave - 1) / 3;
    CHECK(divisors[i] == Approx(1 / ((1 - share) / 32 + share)).epsilon(1e-6));
  }
}

TEST_CASE("model_config: the tensors that each architecture has, with their shapes") {
  const model_config llama = read(small("LlamaForCausalLM"));
  const std::set<std::string> plain = {
      "token_embd.weight",      "output_norm.weight",    "output.weight",
      "blk.1.attn_norm.weight", "blk.1.ffn_norm.weight", "blk.1.attn_q.weight",
      "blk.1.attn_k.weight",    "blk.1.attn_v.weight",   "blk.1.attn_output.weight",
      "blk.1.ffn_gate.weight",  "blk.1.ffn_up.weight",   "blk.1.ffn_down.weight"};
  CHECK(names_of(llama) == plain);
  std::set<std::string> biased = plain;
  for (const char* n : {"blk.1.attn_q.bias", "blk.1.attn_k.bias", "blk.1.attn_v.bias"}) {
    biased.insert(n);
  }
  CHECK(names_of(read(small("Qwen2ForCausalLM"))) == biased);
  std::set<std::string> normed = plain;
  normed.insert("blk.1.attn_q_norm.weight");
  normed.insert("blk.1.attn_k_norm.weight");
  CHECK(names_of(read(small("Qwen3ForCausalLM"))) == normed);
  biased.insert("blk.1.attn_output.bias");
  json_value v = small("LlamaForCausalLM");
  CHECK(names_of(read(v.set("attention_bias", true))) == biased);

  using shape = std::vector<index_t>;
  const std::pair<const char*, shape> shapes[] = {{"token_embd.weight", {7, 12}},
                                                  {"output_norm.weight", {12}},
                                                  {"output.weight", {7, 12}},
                                                  {"blk.1.attn_norm.weight", {12}},
                                                  {"blk.1.ffn_norm.weight", {12}},
                                                  {"blk.1.attn_q.weight", {24, 12}},
                                                  {"blk.1.attn_k.weight", {12, 12}},
                                                  {"blk.1.attn_v.weight", {12, 12}},
                                                  {"blk.1.attn_output.weight", {12, 24}},
                                                  {"blk.1.ffn_gate.weight", {20, 12}},
                                                  {"blk.1.ffn_up.weight", {20, 12}},
                                                  {"blk.1.ffn_down.weight", {12, 20}},
                                                  {"blk.1.attn_q.bias", {24}},
                                                  {"blk.1.attn_k.bias", {12}},
                                                  {"blk.1.attn_v.bias", {12}},
                                                  {"blk.1.attn_output.bias", {12}},
                                                  {"blk.1.attn_q_norm.weight", {4}},
                                                  {"blk.1.attn_k_norm.weight", {4}}};
  const model_config all[] = {read(v), read(small("Qwen3ForCausalLM"))};
  for (const model_config& c : all) {
    std::vector<checkpoint::model_tensor> tensors = c.outer_tensors();
    for (const auto& t : c.layer_tensors(1)) tensors.push_back(t);
    for (const auto& t : tensors) {
      CAPTURE(t.gguf);
      bool found = false;
      for (const auto& [name, expected] : shapes) {
        if (t.gguf != name) continue;
        found = true;
        CHECK(t.shape == expected);
      }
      CHECK(found);
      CHECK(checkpoint::gguf_name(t.hugging_face) == t.gguf);
      CHECK(t.required);
    }
  }
  v = small("LlamaForCausalLM");
  const auto tied = read(v.set("tie_word_embeddings", true)).outer_tensors();
  CHECK(tied[0].required);
  CHECK(tied[1].required);
  CHECK(tied[2].gguf == "output.weight");
  CHECK_FALSE(tied[2].required);
}

TEST_CASE("model_config: query and key rows change places in files of architecture llama only") {
  json_value v = small("LlamaForCausalLM");
  for (const auto& t : read(v.set("attention_bias", true)).layer_tensors(0)) {
    CAPTURE(t.gguf);
    CHECK(t.rotated == checkpoint::rows_are_rotated(t.gguf));
  }
  for (const auto& t : read(small("MistralForCausalLM")).layer_tensors(0)) {
    CHECK(t.rotated == checkpoint::rows_are_rotated(t.gguf));
  }
  for (const char* name : {"Qwen2ForCausalLM", "Qwen3ForCausalLM"}) {
    for (const auto& t : read(small(name)).layer_tensors(0)) CHECK_FALSE(t.rotated);
  }
}

TEST_CASE("model_config: the keys of the GGUF file") {
  const test_support::scratch_directory folder;
  const auto written = [&](const json_value& v) {
    const std::string path = folder.file("model.gguf");
    subbyte::gguf::writer out(path);
    read(v).write_metadata(out, "tiny", 1);
    out.finish();
    return subbyte::gguf::open(path);
  };
  json_value v = small("LlamaForCausalLM");
  v.set("rms_norm_eps", parse("1e-5"))
      .set("rope_scaling", parse(R"({"type": "linear", "factor": 2.5})"));
  {
    const auto file = written(v);
    CHECK(file.get<std::string_view>("general.architecture") == "llama");
    CHECK(file.get<std::string_view>("general.type") == "model");
    CHECK(file.get<std::string_view>("general.name") == "tiny");
    CHECK(file.get<std::uint32_t>("general.file_type") == 1);
    CHECK(file.get<std::uint32_t>("general.quantization_version") == 2);
    const std::pair<const char*, std::uint32_t> counts[] = {
        {"block_count", 2},          {"context_length", 64},
        {"embedding_length", 12},    {"feed_forward_length", 20},
        {"attention.head_count", 6}, {"attention.head_count_kv", 3},
        {"attention.key_length", 4}, {"attention.value_length", 4},
        {"rope.dimension_count", 4}, {"vocab_size", 7}};
    for (const auto& [key, value] : counts) {
      CAPTURE(key);
      CHECK(file.get<std::uint32_t>(std::string("llama.") + key) == value);
    }
    CHECK(file.get<float>("llama.attention.layer_norm_rms_epsilon") == 1e-5F);
    CHECK(file.get<float>("llama.rope.freq_base") == 10000.0F);
    CHECK(file.get<std::string_view>("llama.rope.scaling.type") == "linear");
    CHECK(file.get<float>("llama.rope.scaling.factor") == 2.5F);
    CHECK(file.metadata().size() == 19);
  }
  const auto file = written(small("Qwen3ForCausalLM"));
  CHECK(file.get<std::string_view>("general.architecture") == "qwen3");
  CHECK(file.get<std::uint32_t>("qwen3.attention.key_length") == 4);
  CHECK(file.find("qwen3.vocab_size") == nullptr);
  CHECK(file.find("qwen3.rope.dimension_count") == nullptr);
  CHECK(file.find("qwen3.rope.scaling.type") == nullptr);
  CHECK(file.metadata().size() == 15);
}
