// SPDX-License-Identifier: Apache-2.0
/// Models that readers accept and that cannot be: every fault is found under the name of its key or
/// tensor, and a sound model has none.
#include "subbyte/checkpoint/verify.hpp"

#include <functional>
#include <limits>
#include <map>

#include "subbyte/io/gguf_writer.hpp"
#include "subbyte/io/safetensors_writer.hpp"
#include "support/blocks.hpp"
#include "support/catch.hpp"
#include "support/checkpoint_files.hpp"
#include "support/files.hpp"
#include "support/random.hpp"

namespace checkpoint_verify_test {

using namespace subbyte;
using checkpoint::finding;
using test_support::scratch_directory;

namespace {

using value = std::variant<bool, std::uint32_t, std::int32_t, float, std::string,
                           std::vector<float>, std::vector<std::int32_t>, std::vector<std::string>>;

/// A GGUF model to be broken: two layers, four heads of eight, two of them of keys and values.
struct model {
  std::map<std::string, value> keys;
  std::map<std::string, block_matrix<q8_0>> tensors;
};

block_matrix<q8_0> weights(index_t cols, index_t rows) {
  return test_support::encoded<q8_0>(
      test_support::normal_vector(static_cast<std::size_t>(cols * rows), 0.1, 3), rows, cols);
}

model sound_model(const std::string& architecture = "llama", std::uint32_t experts = 0) {
  model m;
  const std::string a = architecture + ".";
  m.keys["general.architecture"] = architecture;
  m.keys["general.quantization_version"] = std::uint32_t{2};
  m.keys[a + "context_length"] = std::uint32_t{128};
  m.keys[a + "embedding_length"] = std::uint32_t{32};
  m.keys[a + "block_count"] = std::uint32_t{2};
  m.keys[a + "feed_forward_length"] = std::uint32_t{64};
  m.keys[a + "attention.head_count"] = std::uint32_t{4};
  m.keys[a + "attention.head_count_kv"] = std::uint32_t{2};
  m.keys[a + "attention.layer_norm_rms_epsilon"] = 1e-5F;
  m.keys[a + "rope.dimension_count"] = std::uint32_t{8};
  m.keys["tokenizer.ggml.tokens"] = std::vector<std::string>{"a", "", "b", "<s>", "</s>"};
  m.keys["tokenizer.ggml.scores"] = std::vector<float>{0, -1, -2, -3, -4};
  m.keys["tokenizer.ggml.token_type"] = std::vector<std::int32_t>{1, 1, 1, 3, 3};
  m.keys["tokenizer.ggml.bos_token_id"] = std::uint32_t{3};
  m.keys["tokenizer.ggml.eos_token_id"] = std::uint32_t{4};
  m.tensors["token_embd.weight"] = weights(32, 5);
  m.tensors["output_norm.weight"] = weights(32, 1);
  for (const std::string layer : {"blk.0.", "blk.1."}) {
    for (const char* const norm : {"attn_norm.weight", "ffn_norm.weight"}) {
      m.tensors[layer + norm] = weights(32, 1);
    }
    m.tensors[layer + "attn_q.weight"] = weights(32, 32);
    m.tensors[layer + "attn_k.weight"] = weights(32, 16);
    m.tensors[layer + "attn_v.weight"] = weights(32, 16);
    m.tensors[layer + "attn_output.weight"] = weights(32, 32);
    if (experts == 0) {
      m.tensors[layer + "ffn_gate.weight"] = weights(32, 64);
      m.tensors[layer + "ffn_up.weight"] = weights(32, 64);
      m.tensors[layer + "ffn_down.weight"] = weights(64, 32);
    } else {
      m.keys[a + "expert_count"] = experts;
      m.keys[a + "expert_used_count"] = std::uint32_t{2};
      m.tensors[layer + "ffn_gate_inp.weight"] = weights(32, experts);
      m.tensors[layer + "ffn_gate_exps.weight"] = weights(32, 64 * experts);
      m.tensors[layer + "ffn_up_exps.weight"] = weights(32, 64 * experts);
      m.tensors[layer + "ffn_down_exps.weight"] = weights(64, 32 * experts);
    }
    if (architecture == "qwen2") {
      m.tensors[layer + "attn_q.bias"] = weights(32, 1);
      m.tensors[layer + "attn_k.bias"] = weights(16, 1);
      m.tensors[layer + "attn_v.bias"] = weights(16, 1);
    }
  }
  return m;
}

std::vector<finding> findings(const model& m, const checkpoint::verify_options& options = {}) {
  const scratch_directory scratch;
  const std::string path = scratch.file("model.gguf");
  gguf::writer out(path);
  for (const auto& [key, v] : m.keys) {
    std::visit([&, &name = key](const auto& held) { out.metadata(name, held); }, v);
  }
  for (const auto& [name, w] : m.tensors) {
    if (w.cols() % 32 == 0) {
      out.tensor(name, w.view());
    } else {  // a row that no block fits: as floats
      static const f32 zeros[64] = {};
      out.tensor(name, block_matrix_view<f32>(zeros, 1, w.cols()));
    }
  }
  out.finish();
  return checkpoint::verify(gguf::open_split(path), options);
}

/// The one fault that a change of the model makes; its text.
std::string fault_of(const std::function<void(model&)>& change, model m = sound_model()) {
  change(m);
  const std::vector<finding> found = findings(m);
  std::string all;
  for (const finding& f : found) all += (f.fault ? "" : "note ") + f.text() + "\n";
  INFO(all);
  REQUIRE(checkpoint::fault_count(found) == 1);
  for (const finding& f : found) {
    if (f.fault) return f.text();
  }
  return {};
}

std::uint32_t u32(std::uint32_t number) { return number; }

}  // namespace

TEST_CASE("verify: sound models have no fault") {
  CHECK(findings(sound_model()).empty());
  CHECK(findings(sound_model("llama", 4)).empty());
  CHECK(checkpoint::fault_count(findings(sound_model("qwen2"))) == 0);
  model other = sound_model("elsewhere");  // an architecture that is not known needs no tensors
  other.tensors.erase("blk.1.ffn_up.weight");
  CHECK(findings(other).empty());
  model vocabulary = sound_model();
  vocabulary.tensors.clear();
  CHECK(findings(vocabulary).empty());
  const std::string bundled = SUBBYTE_EXAMPLE_DATA_DIR "/model-f16.gguf";
  CHECK(checkpoint::verify(gguf::open_split(bundled)).empty());
}

TEST_CASE("verify: metadata that contradict themselves are found by key") {
  CHECK(fault_of([](model& m) { m.keys.erase("general.architecture"); }) ==
        "general.architecture: the key is missing");
  CHECK(fault_of([](model& m) { m.keys["general.architecture"] = 3.0F; }) ==
        "general.architecture: the value is no string");
  CHECK(fault_of([](model& m) { m.keys.erase("llama.context_length"); }) ==
        "llama.context_length: the key is missing");
  CHECK(fault_of([](model& m) { m.keys["llama.context_length"] = u32(0); }) ==
        "llama.context_length: required is a count above 0");
  CHECK(fault_of([](model& m) {
          m.keys["llama.context_length"] = std::int32_t{-5};
        }).find("llama.context_length: required") == 0);
  CHECK(fault_of([](model& m) {
          m.keys["llama.rope.dimension_count"] = u32(10);
        }).find("llama.rope.dimension_count: 10 rotated dimensions of heads of 8") == 0);
  CHECK(fault_of([](model& m) {
          m.keys["llama.rope.dimension_count"] = u32(7);
        }).find("llama.rope.dimension_count: 7") == 0);
  CHECK(fault_of([](model& m) {
          m.keys["llama.attention.layer_norm_rms_epsilon"] = 2.0F;
        }).find("llama.attention.layer_norm_rms_epsilon") == 0);
  CHECK(fault_of([](model& m) {
          m.keys["llama.rope.freq_base"] = std::numeric_limits<float>::infinity();
        }) == "llama.rope.freq_base: the number is Inf or NaN");
  CHECK(fault_of([](model& m) {
          std::get<std::vector<float>>(m.keys["tokenizer.ggml.scores"])[2] =
              std::numeric_limits<float>::quiet_NaN();
        }) == "tokenizer.ggml.scores: element 2 is Inf or NaN");
  CHECK(fault_of([](model& m) { m.keys["llama.expert_used_count"] = u32(2); }) ==
        "llama.expert_used_count: 2 experts are used of 0");
  CHECK(fault_of([](model& m) {
          m.keys["llama.attention.head_count"] = std::vector<std::int32_t>{4, 4, 4};
        }) == "llama.attention.head_count: 3 values for 2 layers");
  CHECK(fault_of(
            [](model& m) {
              m.keys.erase("elsewhere.attention.head_count_kv");
              m.keys.erase("elsewhere.rope.dimension_count");
              m.keys["elsewhere.attention.head_count"] = u32(5);
            },
            sound_model("elsewhere")) ==
        "elsewhere.attention.head_count: 5 heads do not divide elsewhere.embedding_length, which "
        "is 32");
  CHECK(fault_of([](model& m) { m.keys["elsewhere.attention.head_count"] = u32(0); },
                 sound_model("elsewhere")) ==
        "elsewhere.attention.head_count: 0 heads, required is at least 1");
  CHECK(fault_of([](model& m) { m.keys["elsewhere.attention.head_count_kv"] = u32(3); },
                 sound_model("elsewhere")) ==
        "elsewhere.attention.head_count_kv: 3 heads do not divide the 4 of "
        "elsewhere.attention.head_count");
  CHECK(fault_of([](model& m) { m.keys["elsewhere.attention.head_count_kv"] = u32(0); },
                 sound_model("elsewhere")) ==
        "elsewhere.attention.head_count_kv: 0 heads, required is at least 1");
}

TEST_CASE("verify: the tokenizer's lists are as long as its tokens, and so is the embedding") {
  CHECK(fault_of([](model& m) { m.keys["tokenizer.ggml.scores"] = std::vector<float>{1}; }) ==
        "tokenizer.ggml.scores: 1 values for 5 tokens");
  CHECK(fault_of([](model& m) {
          m.keys["tokenizer.ggml.token_type"] = std::vector<std::int32_t>(6, 1);
        }) == "tokenizer.ggml.token_type: 6 values for 5 tokens");
  CHECK(fault_of([](model& m) { m.keys["tokenizer.ggml.eos_token_id"] = u32(5); }) ==
        "tokenizer.ggml.eos_token_id: 5 is none of the 5 tokens");
  CHECK(fault_of([](model& m) { m.keys["tokenizer.ggml.eot_token_id"] = std::string("x"); }) ==
        "tokenizer.ggml.eot_token_id: the value is none of the 5 tokens");
  CHECK(fault_of([](model& m) { m.keys["tokenizer.ggml.tokens"] = std::string("a b"); }) ==
        "tokenizer.ggml.tokens: the value is no list");
  CHECK(fault_of([](model& m) { m.tensors["token_embd.weight"] = weights(32, 6); }) ==
        "token_embd.weight: 6 rows for 5 tokens");
  model padding = sound_model();
  padding.keys["tokenizer.ggml.padding_token_id"] = std::int32_t{-1};  // none
  CHECK(findings(padding).empty());
}

TEST_CASE("verify: tensors that are missing, too many or of another shape are found by name") {
  CHECK(fault_of([](model& m) { m.tensors.erase("blk.1.ffn_up.weight"); }) ==
        "blk.1.ffn_up.weight: the tensor is missing");
  CHECK(fault_of([](model& m) { m.tensors.erase("output_norm.weight"); }) ==
        "output_norm.weight: the tensor is missing");
  CHECK(fault_of([](model& m) { m.tensors["blk.0.attn_k.weight"] = weights(32, 32); }) ==
        "blk.0.attn_k.weight: 32 x 32, required by the metadata is 32 x 16");
  CHECK(fault_of([](model& m) { m.tensors["blk.0.ffn_down.weight"] = weights(32, 32); }) ==
        "blk.0.ffn_down.weight: 32 x 32, required by the metadata is 64 x 32");
  CHECK(fault_of([](model& m) { m.tensors["blk.2.ffn_up.weight"] = weights(32, 64); }) ==
        "blk.2.ffn_up.weight: a tensor of layer 2, and llama.block_count is 2");
  CHECK(fault_of([](model& m) { m.keys["llama.block_count"] = u32(3); }) ==
        "llama.block_count: 3 layers, and layer 2 has no tensor");
  // As many layers as fit: no loop over them.
  CHECK(fault_of([](model& m) { m.keys["llama.block_count"] = u32(0x7FFFFFFF); }) ==
        "llama.block_count: 2147483647 layers, and layer 2 has no tensor");
  CHECK(fault_of([](model& m) { m.tensors["blk.0.ffn_up_exps.weight"] = weights(32, 64 * 3); },
                 sound_model("llama", 4)) ==
        "blk.0.ffn_up_exps.weight: 32 x 192, required by the metadata is 32 x 256");
  CHECK(fault_of([](model& m) { m.tensors.erase("blk.0.attn_q.bias"); }, sound_model("qwen2")) ==
        "blk.0.attn_q.bias: the tensor is missing");
  CHECK(fault_of([](model& m) {
          for (auto it = m.tensors.begin(); it != m.tensors.end();) {
            it = it->first.substr(0, 4) == "blk." ? m.tensors.erase(it) : std::next(it);
          }
        }) == "llama.block_count: 2 layers, and layer 0 has no tensor");
}

TEST_CASE("verify: values are checked in every tensor, unless they are not asked for") {
  model m = sound_model();
  m.tensors["blk.1.attn_q.weight"].row(7)[0].scale = half::from_bits(0x7E00);
  m.tensors["blk.0.ffn_norm.weight"] = block_matrix<q8_0>(1, 32);
  const std::vector<finding> found = findings(m);
  REQUIRE(found.size() == 2);
  CHECK_FALSE(found[0].fault);
  CHECK(found[0].text() == "blk.0.ffn_norm.weight: every weight is zero");
  CHECK(found[1].text() == "blk.1.attn_q.weight, row 7, block 0: the scale is Inf or NaN");
  CHECK(findings(m, {.values = false}).empty());
}

TEST_CASE("verify: types without a format here are noted") {
  const scratch_directory scratch;
  const std::string path = scratch.file("m.gguf");
  gguf::writer out(path);
  out.metadata("general.architecture", "elsewhere");
  const index_t dims[1] = {2};
  out.declare("w", dims, 26, 8);
  out.declare("x", dims, 999, 8);
  const std::uint8_t zeros[8] = {};
  out.write("w", zeros);
  out.write("x", zeros);
  out.finish();
  const std::vector<finding> found = checkpoint::verify(gguf::open_split(path));
  REQUIRE(found.size() == 2);
  CHECK(checkpoint::fault_count(found) == 0);
  CHECK(found[0].text() == "w: the values are not checked: no format for type i32");
  CHECK(found[1].text() == "x: the values are not checked: no format for type number 999");
}

TEST_CASE("verify: a checkpoint's configuration, tensors and quantized scales") {
  const auto stored = [](const std::string& name, const std::vector<index_t>& shape,
                         const std::vector<float>& values) {
    checkpoint::stored_tensor t{name, safetensors::dtype::f32, shape, {}};
    t.bytes.resize(values.size() * 4);
    std::memcpy(t.bytes.data(), values.data(), t.bytes.size());
    return t;
  };
  const auto found_in = [&](const std::string& config, float weight, bool sound_scale = true) {
    const scratch_directory scratch;
    test_support::write_file(scratch.file("config.json"), config);
    checkpoint::stored_tensors tensors;
    tensors.push_back(stored("model.embed_tokens.weight", {2, 8}, std::vector<float>(16, weight)));
    const group_codes w = test_support::random_codes(4, {32, 32, 32}, 1, 0, 1);
    for (auto& t :
         checkpoint::store_module(w, "model.layers.0.mlp.up_proj", checkpoint::gptq_settings{})) {
      if (t.name == "model.layers.0.mlp.up_proj.scales" && !sound_scale) {
        t.bytes[10] = 0;  // row 5 of the first group, as a half
        t.bytes[11] = 0x7C;
      }
      tensors.push_back(std::move(t));
    }
    safetensors::writer out(scratch.file("model.safetensors"));
    for (const auto& t : tensors) t.declare(out);
    for (const auto& t : tensors) t.write(out);
    out.finish();
    std::string all;
    const checkpoint::directory directory(scratch.path());
    for (const finding& f : checkpoint::verify(directory)) all += f.text() + "\n";
    return all;
  };
  const auto config = [](int heads, int layers, int vocabulary) {
    return R"({"hidden_size":8,"num_attention_heads":)" + std::to_string(heads) +
           R"(,"num_hidden_layers":)" + std::to_string(layers) + R"(,"vocab_size":)" +
           std::to_string(vocabulary) +
           R"(,"quantization_config":{"quant_method":"gptq","bits":4,"group_size":32}})";
  };
  CHECK(found_in(config(4, 1, 2), 1).empty());
  CHECK(found_in(config(3, 1, 2), 1) ==
        "num_attention_heads: 3 heads do not divide hidden_size, which is 8\n");
  CHECK(found_in(config(4, 2, 2), 1) == "num_hidden_layers: 2 layers, and layer 1 has no tensor\n");
  CHECK(found_in(config(4, 1, 3), 1).find("model.embed_tokens.weight: 2 rows of 8") == 0);
  const float infinity = std::numeric_limits<float>::infinity();
  CHECK(found_in(config(4, 1, 2), infinity)
            .find("model.embed_tokens.weight, row 0, block 0: the weight is Inf or NaN") == 0);
  // The scales are a tensor of floats, and the loader refuses the module.
  CHECK(found_in(config(4, 1, 2), 1, false) ==
        "model.layers.0.mlp.up_proj.scales, row 0, block 5: the weight is Inf or NaN\n"
        "model.layers.0.mlp.up_proj: model.layers.0.mlp.up_proj: the scale of row 5, group 0 is "
        "not finite\n");
}

}  // namespace checkpoint_verify_test
