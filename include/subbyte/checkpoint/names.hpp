// SPDX-License-Identifier: Apache-2.0
/// Tensors of Llama and its kin in Hugging Face checkpoints and in GGUF files: two sets of names,
/// and the two orders of the query and key rows.
#pragma once

#include <optional>
#include <string>
#include <string_view>

#include "subbyte/core/config.hpp"
#include "subbyte/core/expects.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

namespace detail {

struct name_pair {
  std::string_view hugging_face, gguf;
};

// Source  transformers modeling_llama.py, modeling_qwen2.py, modeling_qwen3.py (module names); GGUF
//         specification, "Standardized tensor names"; gguf-py, tensor_mapping.py (norms of Qwen3).
inline constexpr name_pair model_names[] = {
    {"model.embed_tokens.weight", "token_embd.weight"},
    {"model.norm.weight", "output_norm.weight"},
    {"lm_head.weight", "output.weight"},
};
inline constexpr name_pair layer_names[] = {
    {"input_layernorm.weight", "attn_norm.weight"},
    {"self_attn.q_proj.weight", "attn_q.weight"},
    {"self_attn.k_proj.weight", "attn_k.weight"},
    {"self_attn.v_proj.weight", "attn_v.weight"},
    {"self_attn.o_proj.weight", "attn_output.weight"},
    {"self_attn.q_proj.bias", "attn_q.bias"},
    {"self_attn.k_proj.bias", "attn_k.bias"},
    {"self_attn.v_proj.bias", "attn_v.bias"},
    {"self_attn.o_proj.bias", "attn_output.bias"},
    {"self_attn.q_norm.weight", "attn_q_norm.weight"},
    {"self_attn.k_norm.weight", "attn_k_norm.weight"},
    {"post_attention_layernorm.weight", "ffn_norm.weight"},
    {"mlp.gate_proj.weight", "ffn_gate.weight"},
    {"mlp.up_proj.weight", "ffn_up.weight"},
    {"mlp.down_proj.weight", "ffn_down.weight"},
};
inline constexpr std::string_view hugging_face_layers = "model.layers.";
inline constexpr std::string_view gguf_layers = "blk.";

// One direction of the map: From and To are members of name_pair.
SUBBYTE_INLINE std::optional<std::string> renamed(std::string_view name,
                                                  std::string_view name_pair::*from,
                                                  std::string_view name_pair::*to,
                                                  std::string_view from_layers,
                                                  std::string_view to_layers) {
  for (const name_pair& pair : model_names) {
    if (pair.*from == name) return std::string(pair.*to);
  }
  if (name.substr(0, from_layers.size()) != from_layers) return std::nullopt;
  name.remove_prefix(from_layers.size());
  std::size_t digits = 0;
  while (digits < name.size() && name[digits] >= '0' && name[digits] <= '9') ++digits;
  if (digits == 0 || digits == name.size() || name[digits] != '.') return std::nullopt;
  for (const name_pair& pair : layer_names) {
    if (pair.*from == name.substr(digits + 1)) {
      return std::string(to_layers).append(name.substr(0, digits + 1)).append(pair.*to);
    }
  }
  return std::nullopt;
}

}  // namespace detail

/// "model.layers.3.mlp.up_proj.weight" -> "blk.3.ffn_up.weight"; nothing for names that none of
/// Llama, Mistral, Qwen2 and Qwen3 has.
[[nodiscard]] SUBBYTE_INLINE std::optional<std::string> gguf_name(
    std::string_view hugging_face_name) {
  return detail::renamed(hugging_face_name, &detail::name_pair::hugging_face,
                         &detail::name_pair::gguf, detail::hugging_face_layers,
                         detail::gguf_layers);
}

/// The inverse of gguf_name.
[[nodiscard]] SUBBYTE_INLINE std::optional<std::string> hugging_face_name(
    std::string_view gguf_name) {
  return detail::renamed(gguf_name, &detail::name_pair::gguf, &detail::name_pair::hugging_face,
                         detail::gguf_layers, detail::hugging_face_layers);
}

/// Whether the tensor's rows are rotated by position, and so stand in different orders in a
/// checkpoint and in a GGUF file of architecture "llama"; by GGUF name. (The files of other
/// architectures keep the checkpoint's order.)
[[nodiscard]] SUBBYTE_INLINE bool rows_are_rotated(std::string_view gguf_name) noexcept {
  constexpr std::string_view rotated[] = {".attn_q.weight", ".attn_k.weight", ".attn_q.bias",
                                          ".attn_k.bias"};
  for (const std::string_view end : rotated) {
    if (gguf_name.size() > end.size() && gguf_name.substr(gguf_name.size() - end.size()) == end) {
      return true;
    }
  }
  return false;
}

/// The Hugging Face row that GGUF row r of a query or key projection holds.
///
/// Within a head of d rows, Hugging Face rotates row i with row i + d/2, GGUF's Llama rows 2i and
/// 2i + 1:
///
///     GGUF row          0    1        2    3         ...  d-2     d-1
///     Hugging Face row  0    d/2      1    d/2 + 1   ...  d/2-1   d-1
///
/// Requires  r >= 0; head_size even and positive.
/// Source    transformers modeling_llama.py `rotate_half`; GGUF specification, "llama" tensors.
[[nodiscard]] SUBBYTE_INLINE constexpr index_t hugging_face_row(index_t r,
                                                                index_t head_size) noexcept {
  SUBBYTE_EXPECTS(r >= 0 && head_size > 0 && head_size % 2 == 0);
  const index_t within = r % head_size;
  return r - within + within % 2 * (head_size / 2) + within / 2;
}

/// The GGUF row that holds Hugging Face row r: the inverse of hugging_face_row.
///
/// Requires  as hugging_face_row.
[[nodiscard]] SUBBYTE_INLINE constexpr index_t gguf_row(index_t r, index_t head_size) noexcept {
  SUBBYTE_EXPECTS(r >= 0 && head_size > 0 && head_size % 2 == 0);
  const index_t within = r % head_size;
  return r - within + within % (head_size / 2) * 2 + within / (head_size / 2);
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
