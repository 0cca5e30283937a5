// SPDX-License-Identifier: Apache-2.0
/// llama.cpp's recipes: which GGUF type every tensor of a model gets under Q4_K_M and its like.
#pragma once

#include <algorithm>  // std::sort
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/checkpoint/module_pattern.hpp"
#include "subbyte/format/list.hpp"
#include "subbyte/io/diagnostics.hpp"
#include "subbyte/io/gguf.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// What general.file_type says of a GGUF file.
///
/// Source  llama.cpp, include/llama.h `llama_ftype` at 007dbbf3.
enum class file_type : std::uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q8_0 = 7,
  q5_0 = 8,
  q5_1 = 9,
  q2_k = 10,
  q3_k_s = 11,
  q3_k_m = 12,
  q3_k_l = 13,
  q4_k_s = 14,
  q4_k_m = 15,
  q5_k_s = 16,
  q5_k_m = 17,
  q6_k = 18,
  iq2_xxs = 19,
  iq2_xs = 20,
  q2_k_s = 21,
  iq3_xs = 22,
  iq3_xxs = 23,
  iq1_s = 24,
  iq4_nl = 25,
  iq3_s = 26,
  iq3_m = 27,
  iq2_s = 28,
  iq2_m = 29,
  iq4_xs = 30,
  iq1_m = 31,
  bf16 = 32,
  tq1_0 = 36,
  tq2_0 = 37,
  mxfp4_moe = 38,
  nvfp4 = 39,
  q1_0 = 40,
  q2_0 = 41,
  guessed = 1024  ///< look at the tensors
};

/// A recipe: what users call it, the number that the file carries, and the type of every tensor
/// that no rule of the recipe names.
struct recipe {
  const char* name;
  file_type id;
  std::uint32_t type;
};

/// Every recipe, those with one type for all before the mixtures that begin from that type.
///
/// Source  llama.cpp, src/llama-quant.cpp at 007dbbf3.
inline constexpr recipe all_recipes[] = {
    {"F32", file_type::f32, f32::gguf_type},
    {"F16", file_type::f16, f16::gguf_type},
    {"BF16", file_type::bf16, bf16::gguf_type},
    {"Q8_0", file_type::q8_0, q8_0::gguf_type},
    {"Q6_K", file_type::q6_k, q6_k::gguf_type},
    {"Q5_0", file_type::q5_0, q5_0::gguf_type},
    {"Q5_1", file_type::q5_1, q5_1::gguf_type},
    {"Q5_K_S", file_type::q5_k_s, q5_k::gguf_type},
    {"Q5_K_M", file_type::q5_k_m, q5_k::gguf_type},
    {"Q4_0", file_type::q4_0, q4_0::gguf_type},
    {"Q4_1", file_type::q4_1, q4_1::gguf_type},
    {"Q4_K_S", file_type::q4_k_s, q4_k::gguf_type},
    {"Q4_K_M", file_type::q4_k_m, q4_k::gguf_type},
    {"IQ4_NL", file_type::iq4_nl, iq4_nl::gguf_type},
    {"IQ4_XS", file_type::iq4_xs, iq4_xs::gguf_type},
    {"MXFP4_MOE", file_type::mxfp4_moe, mxfp4::gguf_type},
    {"NVFP4", file_type::nvfp4, nvfp4::gguf_type},
    {"Q3_K_S", file_type::q3_k_s, q3_k::gguf_type},
    {"Q3_K_M", file_type::q3_k_m, q3_k::gguf_type},
    {"Q3_K_L", file_type::q3_k_l, q3_k::gguf_type},
    {"IQ3_XXS", file_type::iq3_xxs, iq3_xxs::gguf_type},
    {"IQ3_S", file_type::iq3_s, iq3_s::gguf_type},
    {"IQ3_M", file_type::iq3_m, iq3_s::gguf_type},
    {"IQ3_XS", file_type::iq3_xs, iq3_s::gguf_type},
    {"Q2_K", file_type::q2_k, q2_k::gguf_type},
    {"Q2_K_S", file_type::q2_k_s, q2_k::gguf_type},
    {"IQ2_XXS", file_type::iq2_xxs, iq2_xxs::gguf_type},
    {"IQ2_XS", file_type::iq2_xs, iq2_xs::gguf_type},
    {"IQ2_S", file_type::iq2_s, iq2_xs::gguf_type},
    {"IQ2_M", file_type::iq2_m, iq2_s::gguf_type},
    {"IQ1_S", file_type::iq1_s, iq1_s::gguf_type},
    {"IQ1_M", file_type::iq1_m, iq1_m::gguf_type},
    {"TQ1_0", file_type::tq1_0, tq1_0::gguf_type},
    {"TQ2_0", file_type::tq2_0, tq2_0::gguf_type},
    {"Q2_0", file_type::q2_0, q2_0::gguf_type},
    {"Q1_0", file_type::q1_0, q1_0::gguf_type},
};

/// The recipe of that name, in capitals or not. Q3_K, Q4_K and Q5_K are their medium sizes.
///
/// Throws  unsupported_format for a name that is none, with the list of them.
[[nodiscard]] SUBBYTE_INLINE const recipe& find_recipe(std::string_view name) {
  std::string wanted(name);
  for (const char* alias : {"Q3_K", "Q4_K", "Q5_K"}) {
    if (same_format_name(alias, wanted.c_str())) wanted += "_M";
  }
  std::string known;
  for (const recipe& r : all_recipes) {
    if (same_format_name(r.name, wanted.c_str())) return r;
    known += std::string(known.empty() ? "" : " ") + r.name;
  }
  throw_error(errc::unsupported_format, "recipe \"" + printable<>(name) + "\"",
              "known are " + known);
}

/// One type for every matrix, whatever a recipe would do; its file_type is that of the first recipe
/// with this type, or guessed. Use it with recipe_options::pure.
[[nodiscard]] SUBBYTE_INLINE recipe uniform_recipe(std::uint32_t type) noexcept {
  for (const recipe& r : all_recipes) {
    if (r.type == type) return r;
  }
  return {"", file_type::guessed, type};
}

/// The type id of a name such as "q4_k", of those that a matrix can be quantized to.
///
/// Throws  unsupported_format for a name that is none, with the list of them.
[[nodiscard]] SUBBYTE_INLINE std::uint32_t weight_type_named(std::string_view name) {
  const std::string wanted(name);
  std::string known;
  std::optional<std::uint32_t> found;
  for_each_type(file_formats{}, [&](auto tag) {
    using F = typename decltype(tag)::type;
    if constexpr (requires { F::gguf_type; }) {
      if (same_format_name(F::name, wanted.c_str())) found = F::gguf_type;
      known += std::string(known.empty() ? "" : " ") + F::name;
    }
  });
  if (!found) {
    throw_error(errc::unsupported_format, "type \"" + printable<>(name) + "\"",
                "a matrix of a GGUF file can be " + known);
  }
  return *found;
}

/// What the rules look at, besides the tensors themselves.
struct model_facts {
  std::string architecture = "llama";  ///< general.architecture
  index_t layers = 0;                  ///< ARCH.block_count
  index_t heads = 0;                   ///< ARCH.attention.head_count, of the first layer
  index_t kv_heads = 0;                ///< ARCH.attention.head_count_kv, of the first layer
  index_t experts = 0;                 ///< ARCH.expert_count

  /// Query heads per key head, rounded down; 0 without attention.
  [[nodiscard]] index_t sharing() const noexcept { return kv_heads > 0 ? heads / kv_heads : 0; }
};

/// The facts as a GGUF file has them: a gguf::file or gguf::split_file.
///
/// Throws  not_found without general.architecture; bad_metadata for values of another type.
template <class File>
[[nodiscard]] model_facts read_model_facts(const File& file) {
  model_facts facts;
  facts.architecture = std::string(file.template get<std::string_view>("general.architecture"));
  // One number, or one for each layer.
  const auto first = [&](const char* key, index_t otherwise) {
    const std::string full = facts.architecture + key;
    const auto* const entry = file.find(full);
    if (entry == nullptr) return otherwise;
    if (const auto u = entry->template try_get<gguf::array_view<std::uint32_t>>()) {
      return u->size() > 0 ? index_t{(*u)[0]} : otherwise;
    }
    if (const auto i = entry->template try_get<gguf::array_view<std::int32_t>>()) {
      return i->size() > 0 ? index_t{(*i)[0]} : otherwise;
    }
    return file.template get<index_t>(full);
  };
  facts.layers = first(".block_count", 0);
  facts.heads = first(".attention.head_count", 0);
  facts.kv_heads = first(".attention.head_count_kv", facts.heads);
  facts.experts = first(".expert_count", 0);
  return facts;
}

/// A tensor of the model to be quantized.
struct recipe_tensor {
  std::string name;                   ///< as GGUF calls it
  std::vector<index_t> dims;          ///< dims[0] is the contiguous one
  std::optional<std::uint32_t> type;  ///< the GGUF type that it has; nothing: some other
  bool quantized = false;  ///< some other than floats; follows from `type` if that is set
};

/// Tensors with names of this pattern get this type, before any rule of the recipe.
template <class Arch>
struct basic_type_override {
  basic_module_pattern<Arch> pattern;  ///< found anywhere in the name
  std::uint32_t type;
};

using type_override = basic_type_override<arch::native>;

/// "PATTERN=TYPE", as in "ffn_down=q6_k" or "blk\.[0-3]\.attn_v=q8_0".
///
/// Throws  bad_argument without an = or a pattern; unsupported_format for an unknown type;
///         bad_metadata for a pattern outside module_pattern's language.
template <class Arch = arch::native>
[[nodiscard]] basic_type_override<Arch> parse_type_override(std::string_view text) {
  const std::size_t at = text.rfind('=');
  if (at == std::string_view::npos || at == 0) {
    throw_error(errc::bad_argument, "tensor type \"" + printable<Arch>(text) + "\"",
                "required is PATTERN=TYPE");
  }
  const std::uint32_t type = weight_type_named(text.substr(at + 1));
  return {basic_module_pattern<Arch>(text.substr(0, at), "tensor type"), type};
}

/// What may be changed in a recipe.
template <class Arch>
struct basic_recipe_options {
  /// Types by the whole name, from a plan for instance. They come before all that follows.
  std::map<std::string, std::uint32_t, std::less<>> named;
  std::vector<basic_type_override<Arch>> overrides;  ///< the first that matches counts
  std::optional<std::uint32_t> output_type;  ///< of output.weight, or of the embedding if tied
  std::optional<std::uint32_t> token_embedding_type;  ///< of token_embd.weight, tied or not
  bool pure = false;                                  ///< one type for every matrix, no rules
  bool leave_output = false;                          ///< output.weight stays as it is
  bool has_importance = false;    ///< there is an importance matrix; some rules then differ
  bool allow_requantize = false;  ///< tensors that are quantized already may be quantized again
};

using recipe_options = basic_recipe_options<arch::native>;

/// What becomes of a tensor.
struct recipe_choice {
  std::uint32_t type = 0;  ///< in the file to be written
  bool quantized = false;  ///< by the recipe or an override; false: it stays as it is
  bool copied = false;     ///< the source's bytes already are of this type
  bool fell_back = false;  ///< its rows do not divide into the blocks of the type meant for it
  bool needs_importance = false;  ///< without an importance matrix the result would be noise
};

/// Whether recipes quantize a tensor at all: matrices whose names end in "weight", but for norms,
/// routers, convolutions, position embeddings and other small or fragile ones.
///
/// Source  llama.cpp, src/llama-quant.cpp at 007dbbf3.
[[nodiscard]] SUBBYTE_INLINE bool is_quantized_by_recipes(std::string_view name,
                                                          std::span<const index_t> dims) noexcept {
  std::size_t used = dims.size();
  while (used > 0 && dims[used - 1] == 1) --used;
  constexpr std::string_view ending = "weight";
  if (used < 2 || name.size() < ending.size() ||
      name.substr(name.size() - ending.size()) != ending) {
    return false;
  }
  if (name == "position_embd.weight" || name == "token_types.weight") return false;
  constexpr std::string_view parts[] = {
      "_norm.weight", "ffn_gate_inp.weight", "ffn_gate_tid2eid.weight",
      // Gemma 3n
      "altup", "laurel", "per_layer_model_proj",
      // recurrent models and relative positions
      "ssm_conv1d", "shortconv.conv.weight", "indexer.k_proj.weight", "indexer.q_proj.weight",
      "time_mix_first.weight", "time_mix_w0.weight", "time_mix_w1.weight", "time_mix_w2.weight",
      "time_mix_v0.weight", "time_mix_v1.weight", "time_mix_v2.weight", "time_mix_a0.weight",
      "time_mix_a1.weight", "time_mix_a2.weight", "time_mix_g1.weight", "time_mix_g2.weight",
      "time_mix_decay_w1.weight", "time_mix_decay_w2.weight", "time_mix_lerp_fused.weight",
      "attn_rel_b.weight",
      // pictures and sound
      ".position_embd", "sam.pos_embd", "sam.neck.", "sam.net_", ".rel_pos", ".patch_embd",
      ".patch_merger", "a.rvq.codebook", "mm.a.code_embd"};
  for (const std::string_view part : parts) {
    if (name.find(part) != std::string_view::npos) return false;
  }
  return true;
}

/// The type for rows of `cols` weights where `type` was meant: the same, if they divide into its
/// blocks; else the one that llama.cpp takes instead, whose blocks are smaller and whose size is
/// not (from 2 to 8 bits: IQ4_NL, Q4_0, Q5_0, Q5_1 and Q8_0); F16 where that does not fit either,
/// and for types without such a substitute, which llama.cpp refuses.
///
/// Source  llama.cpp, src/llama-quant.cpp at 007dbbf3.
[[nodiscard]] SUBBYTE_INLINE constexpr std::uint32_t fallback_type(std::uint32_t type,
                                                                   index_t cols) noexcept {
  const auto fits = [&](std::uint32_t id) {
    const int block = gguf::find_tensor_type(id).block_size;
    return block > 0 && cols % block == 0;
  };
  if (fits(type)) return type;
  std::uint32_t other = f16::gguf_type;
  switch (type) {
    case iq1_s::gguf_type:
    case iq1_m::gguf_type:
    case iq2_xxs::gguf_type:
    case iq2_xs::gguf_type:
    case iq2_s::gguf_type:
    case iq3_xxs::gguf_type:
    case iq3_s::gguf_type:
    case iq4_xs::gguf_type:
      other = iq4_nl::gguf_type;
      break;
    case q2_0::gguf_type:
    case q2_k::gguf_type:
    case q3_k::gguf_type:
    case tq1_0::gguf_type:
    case tq2_0::gguf_type:
      other = q4_0::gguf_type;
      break;
    case q4_k::gguf_type:
      other = q5_0::gguf_type;
      break;
    case q5_k::gguf_type:
      other = q5_1::gguf_type;
      break;
    case q6_k::gguf_type:
      other = q8_0::gguf_type;
      break;
    default:
      break;
  }
  return fits(other) ? other : std::uint32_t{f16::gguf_type};
}

namespace detail {

/// The part of a model that a tensor is, as far as rules tell parts apart.
enum class model_part { embedding, q, k, v, attention_output, up, gate, down, output, other };

// Fused projections that contain the values count as values.
SUBBYTE_INLINE model_part part_of(std::string_view name) noexcept {
  const auto has = [&](std::string_view text) { return name.find(text) != std::string_view::npos; };
  if (name == "output.weight") return model_part::output;
  if (name == "token_embd.weight" || name == "per_layer_token_embd.weight") {
    return model_part::embedding;
  }
  if (has("attn_qkv.weight") || has("attn_kv_b.weight") || has("attn_v.weight")) {
    return model_part::v;
  }
  if (has("attn_k.weight")) return model_part::k;
  if (has("attn_q.weight")) return model_part::q;
  if (has("attn_output.weight")) return model_part::attention_output;
  if (has("ffn_up")) return model_part::up;
  if (has("ffn_gate")) return model_part::gate;
  if (has("ffn_down")) return model_part::down;
  return model_part::other;
}

// The number after "blk." at the beginning of a name; -1: there is none.
SUBBYTE_INLINE index_t layer_of(std::string_view name) noexcept {
  constexpr std::string_view begin = "blk.";
  if (name.substr(0, begin.size()) != begin) return -1;
  name.remove_prefix(begin.size());
  index_t layer = 0;
  std::size_t digits = 0;
  for (; digits < name.size() && name[digits] >= '0' && name[digits] <= '9'; ++digits) {
    if (layer > 1'000'000) return -1;
    layer = 10 * layer + (name[digits] - '0');
  }
  return digits == 0 ? -1 : layer;
}

/// One pass over the tensors of a model: rules count the tensors of a part that came before.
template <class Arch>
class recipe_pass {
 public:
  recipe_pass(const recipe& chosen, const model_facts& facts,
              std::span<const recipe_tensor> tensors, const basic_recipe_options<Arch>& options)
      : recipe_(chosen), facts_(facts), options_(options) {
    for (const recipe_tensor& t : tensors) {
      const model_part part = part_of(t.name);
      value_count_ += part == model_part::v ? 1 : 0;
      tied_ = tied_ && part != model_part::output;
    }
  }

  /// The type meant for a tensor, before any fallback. Call in the order of apply_recipe.
  [[nodiscard]] std::uint32_t choose(const recipe_tensor& t) {
    const model_part part = part_of(t.name);
    if (const auto n = options_.named.find(t.name); n != options_.named.end()) return n->second;
    if (part == model_part::embedding && options_.token_embedding_type) {
      return *options_.token_embedding_type;
    }
    if (part == model_part::output && options_.output_type) return *options_.output_type;
    for (const basic_type_override<Arch>& o : options_.overrides) {
      if (o.pattern.found_in(t.name)) return o.type;
    }
    const bool floats = gguf::find_tensor_type(recipe_.type).block_size <= 1;
    if (options_.pure || floats || recipe_.id == file_type::guessed) return recipe_.type;
    return by_rule(t, part);
  }

 private:
  using id = file_type;

  [[nodiscard]] std::uint32_t by_rule(const recipe_tensor& t, model_part part) {
    if (part == model_part::output || (part == model_part::embedding && tied_)) {
      return output_type(t);
    }
    if (recipe_.id == id::mxfp4_moe) {
      const bool expert_part =
          part == model_part::up || part == model_part::gate || part == model_part::down;
      const bool stacked = t.dims.size() > 2 && t.dims[2] > 1;
      const bool experts = stacked && (facts_.architecture != "bailingmoe3" || expert_part);
      return experts ? mxfp4::gguf_type : q8_0::gguf_type;
    }
    if (part == model_part::embedding) return embedding_type();
    if (is_below_three_bits()) return type_below_three_bits(part);
    switch (part) {
      case model_part::v:
        return value_type(value_at_++);
      case model_part::k:
      case model_part::q:
        return query_type(part);
      case model_part::down: {
        const std::uint32_t type = down_type(layer(t, down_at_));
        ++down_at_;
        return type;
      }
      case model_part::attention_output:
        return attention_output_type();
      case model_part::gate:
        return wide_type(layer(t, gate_at_++));
      case model_part::up:
        return wide_type(layer(t, up_at_++));
      default:
        return recipe_.type;
    }
  }

  [[nodiscard]] bool is_below_three_bits() const noexcept {
    switch (recipe_.id) {
      case id::iq1_s:
      case id::iq1_m:
      case id::iq2_xxs:
      case id::iq2_xs:
      case id::iq2_s:
      case id::iq2_m:
        return true;
      default:
        return false;
    }
  }
  // The two larger of them take IQ3_S where the others take Q2_K.
  [[nodiscard]] bool is_wider_two_bits() const noexcept {
    return recipe_.id == id::iq2_s || recipe_.id == id::iq2_m;
  }
  [[nodiscard]] bool shares_values() const noexcept { return facts_.sharing() >= 4; }
  [[nodiscard]] bool is_falcon() const noexcept { return facts_.architecture == "falcon"; }
  // What llama.cpp takes for the shape of Llama 2 70B.
  [[nodiscard]] bool is_70b() const noexcept {
    const std::string& a = facts_.architecture;
    if (facts_.layers != 80) return false;
    if (a == "llama" || a == "llama-embed") return facts_.heads != facts_.kv_heads;
    return a == "qwen2" || a == "deci" || a == "olmo";
  }
  // The first and last eighth of the layers, and every third between them.
  [[nodiscard]] static bool gets_more_bits(index_t i, index_t n) noexcept {
    return i < n / 8 || i >= 7 * n / 8 || (i - n / 8) % 3 == 2;
  }

  // Experts come in no order that a count could follow, hence the name; without, the count.
  [[nodiscard]] index_t layer(const recipe_tensor& t, index_t count) const {
    if (facts_.experts <= 1) return count;
    const index_t named = layer_of(t.name);
    if (named < 0 || named >= facts_.layers) {
      throw_error(errc::bad_argument, printable<Arch>(t.name),
                  "a recipe needs the layer of this tensor; required is blk.N. in front, with N "
                  "from 0 to " +
                      std::to_string(facts_.layers - 1));
    }
    return named;
  }

  [[nodiscard]] std::uint32_t output_type(const recipe_tensor& t) const {
    if (options_.output_type) return *options_.output_type;
    const index_t cols = t.dims.empty() ? 1 : t.dims[0];
    const int block = gguf::find_tensor_type(recipe_.type).block_size;
    if (recipe_.id == id::mxfp4_moe || is_falcon() || cols % block != 0) return q8_0::gguf_type;
    if (is_below_three_bits() || recipe_.id == id::iq3_xxs) return q5_k::gguf_type;
    return recipe_.id == id::q8_0 ? q8_0::gguf_type : q6_k::gguf_type;
  }

  [[nodiscard]] std::uint32_t embedding_type() const noexcept {
    switch (recipe_.id) {
      case id::iq1_s:
      case id::iq1_m:
      case id::iq2_xxs:
      case id::iq2_xs:
        return q2_k::gguf_type;
      case id::iq2_s:
      case id::iq2_m:
      case id::iq3_xxs:
        return iq3_s::gguf_type;
      case id::tq1_0:
      case id::tq2_0:
      case id::q2_0:
        return q4_k::gguf_type;
      default:
        return recipe_.type;
    }
  }

  [[nodiscard]] std::uint32_t type_below_three_bits(model_part part) noexcept {
    const std::uint32_t wider = is_wider_two_bits() ? iq3_s::gguf_type : q2_k::gguf_type;
    switch (part) {
      case model_part::v:
        return shares_values() || facts_.experts >= 4 ? q4_k::gguf_type : wider;
      case model_part::k:
        return facts_.experts == 8 ? q4_k::gguf_type : recipe_.type;
      case model_part::down:
        return down_at_++ < facts_.layers / 8 ? wider : recipe_.type;
      case model_part::attention_output:
        if (facts_.experts == 8) return q5_k::gguf_type;
        if (is_wider_two_bits()) return iq3_s::gguf_type;
        return recipe_.id == id::iq1_s || recipe_.id == id::iq1_m ? iq2_xxs::gguf_type
                                                                  : recipe_.type;
      default:
        return recipe_.type;
    }
  }

  [[nodiscard]] std::uint32_t value_type(index_t i) const noexcept {
    if (facts_.experts == 8) return q8_0::gguf_type;
    const std::uint32_t type = value_type_of_any_size(i);
    const bool small = type == q3_k::gguf_type || type == q4_k::gguf_type;
    return is_70b() && small ? q5_k::gguf_type : type;
  }
  [[nodiscard]] std::uint32_t value_type_of_any_size(index_t i) const noexcept {
    const std::uint32_t base = recipe_.type;
    switch (recipe_.id) {
      case id::q2_k:
        return shares_values() ? q4_k::gguf_type : q3_k::gguf_type;
      case id::q2_k_s:
      case id::iq3_xs:
      case id::iq3_s:
        return shares_values() ? q4_k::gguf_type : base;
      case id::iq3_xxs:
        if (shares_values()) return q4_k::gguf_type;
        return options_.has_importance ? base : std::uint32_t{iq3_s::gguf_type};
      case id::iq3_m:
        return q4_k::gguf_type;
      case id::q3_k_m:
        return i < 2 ? q5_k::gguf_type : q4_k::gguf_type;
      case id::q3_k_l:
        return q5_k::gguf_type;
      case id::iq4_nl:
      case id::iq4_xs:
        return shares_values() ? q5_k::gguf_type : base;
      case id::q4_k_s:
        return i < 4 ? q5_k::gguf_type : base;
      case id::q4_k_m:
      case id::q5_k_m:
        return gets_more_bits(i, value_count_) ? q6_k::gguf_type : base;
      default:
        return base;
    }
  }

  [[nodiscard]] std::uint32_t query_type(model_part part) const noexcept {
    if (part == model_part::k && facts_.experts == 8) return q8_0::gguf_type;
    if (recipe_.id == id::iq3_xs) return iq3_xxs::gguf_type;
    return recipe_.id == id::iq3_xxs ? std::uint32_t{iq2_s::gguf_type} : recipe_.type;
  }

  [[nodiscard]] std::uint32_t down_type(index_t i) const noexcept {
    const std::uint32_t base = recipe_.type;
    const index_t n = facts_.layers;
    const bool first_eighth = i < n / 8;
    switch (recipe_.id) {
      case id::q2_k:
        return q3_k::gguf_type;
      case id::q2_k_s:
        return first_eighth ? q4_k::gguf_type : base;
      case id::iq3_xxs:
        if (options_.has_importance) return base;
        return first_eighth ? q4_k::gguf_type : q3_k::gguf_type;
      case id::q3_k_m:
        if (i < n / 16) return q5_k::gguf_type;
        return !is_falcon() || gets_more_bits(i, n) ? q4_k::gguf_type : base;
      case id::q3_k_l:
        return is_falcon() ? q4_k::gguf_type : q5_k::gguf_type;
      case id::iq3_m:
        return first_eighth || (facts_.experts == 8 && gets_more_bits(i, n)) ? q4_k::gguf_type
                                                                             : base;
      case id::q4_k_s:
        return first_eighth && !is_falcon() ? q5_k::gguf_type : base;
      case id::q4_k_m:
        if (!is_falcon()) return gets_more_bits(i, n) ? q6_k::gguf_type : base;
        if (i < n / 16) return q6_k::gguf_type;
        return gets_more_bits(i, n) ? q5_k::gguf_type : base;
      case id::q5_k_m:
        return gets_more_bits(i, n) ? q6_k::gguf_type : base;
      case id::iq4_nl:
      case id::iq4_xs:
        return first_eighth && !options_.has_importance ? q5_k::gguf_type : base;
      case id::q4_0:
        return first_eighth && options_.has_importance ? q4_1::gguf_type : base;
      case id::q5_0:
        return first_eighth && options_.has_importance ? q5_1::gguf_type : base;
      default:
        return base;
    }
  }

  [[nodiscard]] std::uint32_t attention_output_type() const noexcept {
    const std::uint32_t base = recipe_.type;
    if (is_falcon()) return recipe_.id == id::q3_k_l ? q4_k::gguf_type : base;
    if (facts_.experts == 8) {
      switch (recipe_.id) {
        case id::q2_k:
        case id::q3_k_s:
        case id::q3_k_m:
        case id::q4_k_s:
        case id::q4_k_m:
        case id::iq3_xxs:
        case id::iq3_xs:
        case id::iq3_s:
        case id::iq3_m:
        case id::iq4_nl:
        case id::iq4_xs:
          return q5_k::gguf_type;
        default:
          return base;
      }
    }
    switch (recipe_.id) {
      case id::q2_k:
        return q3_k::gguf_type;
      case id::iq3_xxs:
        return iq3_s::gguf_type;
      case id::q3_k_m:
      case id::iq3_m:
        return q4_k::gguf_type;
      case id::q3_k_l:
        return q5_k::gguf_type;
      default:
        return base;
    }
  }

  // Of gate and up, which are the largest part of most models.
  [[nodiscard]] std::uint32_t wide_type(index_t i) const noexcept {
    const bool middle = i >= facts_.layers / 8 && i < 7 * facts_.layers / 8;
    return recipe_.id == id::iq3_xs && middle ? std::uint32_t{iq3_xxs::gguf_type} : recipe_.type;
  }

  const recipe& recipe_;
  const model_facts& facts_;
  const basic_recipe_options<Arch>& options_;
  bool tied_ = true;
  index_t value_count_ = 0;
  index_t value_at_ = 0, down_at_ = 0, gate_at_ = 0, up_at_ = 0;
};

// Source  llama.cpp, src/llama-quant.cpp at 007dbbf3.
SUBBYTE_INLINE bool needs_importance(std::string_view name, std::uint32_t type,
                                     file_type id) noexcept {
  const model_part part = part_of(name);
  if (part == model_part::embedding || part == model_part::output) return false;
  switch (type) {
    case iq1_s::gguf_type:
    case iq1_m::gguf_type:
    case iq2_xxs::gguf_type:
    case iq2_xs::gguf_type:
    case iq2_s::gguf_type:
    case iq3_xxs::gguf_type:
      return true;
    case q2_k::gguf_type:
      return id == file_type::q2_k_s;
    default:
      return false;
  }
}

}  // namespace detail

/// The type of every tensor of a model under a recipe, in the order of `tensors`.
///
/// The types are those that llama.cpp's llama-quantize chooses for the same model and options. Its
/// rules count tensors, layer by layer and by name within a layer: the order of `tensors` changes
/// nothing, and tensors that an override or `pure` decides are not counted. Three things differ:
/// rows that no quantized type divides become F16 where llama.cpp gives up (fallback_type);
/// output_type and token_embedding_type fall back, too; and overrides count under F32, F16 and BF16
/// as well, where llama.cpp passes over them.
///
/// Throws  bad_argument naming the first tensor that is quantized already and would be quantized
///         again, unless that is allowed; bad_argument for an expert's tensor without its layer in
///         its name; bad_metadata from overrides whose patterns take too long.
/// Source  llama.cpp, src/llama-quant.cpp at 007dbbf3; for models of 80 layers, which
///         architectures count as 70B, src/models/ at the same commit.
template <class Arch = arch::native>
[[nodiscard]] std::vector<recipe_choice> apply_recipe(
    const recipe& chosen, const model_facts& facts, std::span<const recipe_tensor> tensors,
    const basic_recipe_options<Arch>& options = {}) {
  std::vector<std::size_t> order(tensors.size());
  std::vector<index_t> layers(tensors.size());
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    order[i] = i;
    layers[i] = detail::layer_of(tensors[i].name);
  }
  std::sort(order.begin(), order.end(), [&](std::size_t a, std::size_t b) {
    if (layers[a] != layers[b]) return layers[a] < layers[b];
    const int names = tensors[a].name.compare(tensors[b].name);
    return names != 0 ? names < 0 : a < b;
  });
  detail::recipe_pass<Arch> pass(chosen, facts, tensors, options);
  std::vector<recipe_choice> choices(tensors.size());
  for (const std::size_t i : order) {
    const recipe_tensor& t = tensors[i];
    recipe_choice& c = choices[i];
    c.quantized = is_quantized_by_recipes(t.name, t.dims) &&
                  !(options.leave_output && t.name == "output.weight");
    if (!c.quantized) {
      c.type = t.type.value_or(f32::gguf_type);
      c.copied = t.type.has_value();
      continue;
    }
    const std::uint32_t meant = pass.choose(t);
    c.type = fallback_type(meant, t.dims[0]);
    c.fell_back = c.type != meant;
    c.copied = t.type == c.type;
    c.needs_importance = !c.copied && detail::needs_importance(t.name, c.type, chosen.id);
  }
  if (options.allow_requantize) return choices;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    const recipe_tensor& t = tensors[i];
    const gguf::tensor_type stored = gguf::find_tensor_type(t.type.value_or(f32::gguf_type));
    const bool again = t.type ? stored.block_size > 1 : t.quantized;
    if (choices[i].copied || !again) continue;
    throw_error(errc::bad_argument, printable<Arch>(t.name),
                "is quantized already" +
                    (t.type ? std::string(", to ") + stored.name : std::string()) +
                    "; quantizing it again loses more than quantizing the original, and is done "
                    "on request only");
  }
  return choices;
}

/// Refuses to quantize without an importance matrix what would become noise.
///
/// known(name) says whether there is importance for a tensor.
/// Throws  bad_argument naming the tensors: the first three, and how many there are.
template <class Known>
void require_importance(std::span<const recipe_tensor> tensors,
                        std::span<const recipe_choice> choices, Known&& known) {
  SUBBYTE_EXPECTS(tensors.size() == choices.size());
  index_t missing = 0;
  std::string first, names;
  for (std::size_t i = 0; i < tensors.size(); ++i) {
    if (!choices[i].needs_importance || known(std::string_view(tensors[i].name))) continue;
    if (missing == 0) first = gguf::find_tensor_type(choices[i].type).name;
    if (missing < 3) names += (missing > 0 ? ", " : "") + printable<>(tensors[i].name);
    ++missing;
  }
  if (missing == 0) return;
  throw_error(errc::bad_argument, names + (missing > 3 ? ", ..." : ""),
              std::to_string(missing) + (missing == 1 ? " tensor needs" : " tensors need") +
                  " an importance matrix (imatrix) for types as small as " + first +
                  ", and there is none for " + (missing == 1 ? "it" : "them"));
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
