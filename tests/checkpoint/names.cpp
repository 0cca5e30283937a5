// SPDX-License-Identifier: Apache-2.0
/// Tests of checkpoint/names.hpp.
#include "subbyte/checkpoint/names.hpp"

#include <set>

#include "support/catch.hpp"

namespace checkpoint = subbyte::checkpoint;
using subbyte::index_t;

TEST_CASE("names: every tensor has one name in each kind of file") {
  const std::pair<const char*, const char*> pairs[] = {
      {"model.embed_tokens.weight", "token_embd.weight"},
      {"model.norm.weight", "output_norm.weight"},
      {"lm_head.weight", "output.weight"},
      {"model.layers.0.input_layernorm.weight", "blk.0.attn_norm.weight"},
      {"model.layers.1.self_attn.q_proj.weight", "blk.1.attn_q.weight"},
      {"model.layers.2.self_attn.k_proj.weight", "blk.2.attn_k.weight"},
      {"model.layers.3.self_attn.v_proj.weight", "blk.3.attn_v.weight"},
      {"model.layers.9.self_attn.o_proj.weight", "blk.9.attn_output.weight"},
      {"model.layers.10.post_attention_layernorm.weight", "blk.10.ffn_norm.weight"},
      {"model.layers.79.mlp.gate_proj.weight", "blk.79.ffn_gate.weight"},
      {"model.layers.100.mlp.up_proj.weight", "blk.100.ffn_up.weight"},
      {"model.layers.125.mlp.down_proj.weight", "blk.125.ffn_down.weight"},
      {"model.layers.4.self_attn.q_proj.bias", "blk.4.attn_q.bias"},
      {"model.layers.5.self_attn.k_proj.bias", "blk.5.attn_k.bias"},
      {"model.layers.6.self_attn.v_proj.bias", "blk.6.attn_v.bias"},
      {"model.layers.7.self_attn.o_proj.bias", "blk.7.attn_output.bias"},
      {"model.layers.8.self_attn.q_norm.weight", "blk.8.attn_q_norm.weight"},
      {"model.layers.9.self_attn.k_norm.weight", "blk.9.attn_k_norm.weight"},
  };
  for (const auto& [hugging_face, gguf] : pairs) {
    CHECK(checkpoint::gguf_name(hugging_face) == std::string(gguf));
    CHECK(checkpoint::hugging_face_name(gguf) == std::string(hugging_face));
  }
}

TEST_CASE("names: anything else has none") {
  for (const char* name :
       {"", "model.layers.", "model.layers.3", "model.layers.3.",
        "model.layers.x.mlp.up_proj.weight", "model.layers..mlp.up_proj.weight",
        "model.layers.3.mlp.up_proj.bias", "model.layers.3mlp.up_proj.weight",
        "model.layers.-1.mlp.up_proj.weight", "blk.3.ffn_up.weight",
        "model_layers.3.mlp.up_proj.weight", "model.layers.3xmlp.up_proj.weight",
        "model.layers.3.mlp.up_proj.weight2", "model.embed_tokens.weight.weight"}) {
    CAPTURE(name);
    CHECK_FALSE(checkpoint::gguf_name(name).has_value());
  }
  for (const char* name : {"", "blk.", "blk.1.", "blk.1.ffn_gate_exps.weight", "rope_freqs.weight",
                           "model.norm.weight"}) {
    CAPTURE(name);
    CHECK_FALSE(checkpoint::hugging_face_name(name).has_value());
  }
}

TEST_CASE("names: only query and key rows are rotated") {
  CHECK(checkpoint::rows_are_rotated("blk.0.attn_q.weight"));
  CHECK(checkpoint::rows_are_rotated("blk.17.attn_k.weight"));
  CHECK(checkpoint::rows_are_rotated("blk.0.attn_q.bias"));
  CHECK(checkpoint::rows_are_rotated("blk.17.attn_k.bias"));
  CHECK_FALSE(checkpoint::rows_are_rotated("blk.17.attn_v.bias"));
  CHECK_FALSE(checkpoint::rows_are_rotated("blk.0.attn_v.weight"));
  CHECK_FALSE(checkpoint::rows_are_rotated("blk.0.attn_output.weight"));
  CHECK_FALSE(checkpoint::rows_are_rotated("blk.0.attn_q_norm.weight"));
  CHECK_FALSE(checkpoint::rows_are_rotated("blk.0.cross_attn_k.weight"));
  CHECK_FALSE(checkpoint::rows_are_rotated(".attn_q.weight"));
  CHECK_FALSE(checkpoint::rows_are_rotated(""));
}

TEST_CASE("names: the two row orders are inverse permutations within each head") {
  for (const index_t head_size : {2, 6, 32, 128}) {
    CAPTURE(head_size);
    std::set<index_t> seen;
    for (index_t r = 0; r < 3 * head_size; ++r) {
      const index_t source = checkpoint::hugging_face_row(r, head_size);
      CHECK(source / head_size == r / head_size);
      CHECK(checkpoint::gguf_row(source, head_size) == r);
      seen.insert(source);
    }
    CHECK(static_cast<index_t>(seen.size()) == 3 * head_size);
  }
}

TEST_CASE("names: a rotated pair is half a head apart on one side and adjacent on the other") {
  constexpr index_t d = 8;
  static_assert(checkpoint::hugging_face_row(0, d) == 0);
  static_assert(checkpoint::hugging_face_row(1, d) == 4);
  static_assert(checkpoint::hugging_face_row(2, d) == 1);
  static_assert(checkpoint::hugging_face_row(7, d) == 7);
  for (index_t i = 0; i < d / 2; ++i) {
    CHECK(checkpoint::gguf_row(d + i, d) == d + 2 * i);
    CHECK(checkpoint::gguf_row(d + i + d / 2, d) == d + 2 * i + 1);
  }
}
