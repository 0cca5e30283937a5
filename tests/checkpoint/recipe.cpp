// SPDX-License-Identifier: Apache-2.0
/// Recipes: llama.cpp's own choices for models of many shapes, frozen; the options; what is
/// refused.
#include "subbyte/checkpoint/recipe.hpp"

#include <set>
#include <sstream>

#include "subbyte/io/gguf_writer.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/files.hpp"

namespace checkpoint = subbyte::checkpoint;
namespace gguf = subbyte::gguf;
using checkpoint::recipe_choice;
using checkpoint::recipe_options;
using checkpoint::recipe_tensor;
using subbyte::errc;
using subbyte::index_t;
using test_support::error_of;

namespace {

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::istringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

std::vector<std::vector<std::string>> read_table(const std::string& path) {
  const test_support::bytes content = test_support::read_file(path);
  std::vector<std::vector<std::string>> rows;
  for (const std::string& line : split({content.begin(), content.end()}, '\n')) {
    rows.push_back(split(line, '\t'));
  }
  return rows;
}

std::string type_name(std::uint32_t type) { return gguf::find_tensor_type(type).name; }

/// A model of the table: tensors, and for each the pattern of its line.
struct model {
  std::string name;
  checkpoint::model_facts facts;
  std::vector<recipe_tensor> tensors;
  std::vector<std::string> patterns;

  void add(const std::string& pattern, const std::string& shape, const std::string& kind) {
    recipe_tensor t;
    for (const std::string& extent : split(shape, 'x')) t.dims.push_back(std::stoll(extent));
    t.type = checkpoint::weight_type_named(kind);
    int first = 0, last = 0, used = 0;
    const bool layers = std::sscanf(pattern.c_str(), "blk.%d-%d.%n", &first, &last, &used) == 2;
    if (!layers) first = last = 0;
    for (int l = first; l <= last; ++l) {
      t.name =
          layers ? "blk." + std::to_string(l) + "." + pattern.substr(static_cast<std::size_t>(used))
                 : pattern;
      tensors.push_back(t);
      patterns.push_back(pattern);
    }
  }
};

// "usual pattern=a*2,b ..." as one type per tensor of the model.
std::vector<std::string> expand(const model& m, const std::string& text) {
  const std::vector<std::string> parts = split(text, ' ');
  std::vector<std::string> types;
  for (const recipe_tensor& t : m.tensors) {
    types.push_back(t.type == subbyte::f32::gguf_type ? "f32" : parts[0]);
  }
  for (std::size_t p = 1; p < parts.size(); ++p) {
    const std::size_t equals = parts[p].find('=');
    std::vector<std::string> listed;
    for (const std::string& run : split(parts[p].substr(equals + 1), ',')) {
      const std::vector<std::string> of = split(run, '*');
      listed.insert(listed.end(), of.size() > 1 ? std::stoul(of[1]) : 1, of[0]);
    }
    std::size_t next = 0;
    for (std::size_t i = 0; i < types.size(); ++i) {
      if (m.patterns[i] == parts[p].substr(0, equals)) types[i] = listed.at(next++);
    }
    REQUIRE(next == listed.size());
  }
  return types;
}

recipe_options read_options(const std::string& label) {
  recipe_options options;
  if (label == "-" || label == "any") return options;
  for (const std::string& option : split(label, ' ')) {
    const std::string value = option.substr(std::min(option.size(), option.find('=') + 1));
    if (option == "imatrix") options.has_importance = true;
    if (option == "pure") options.pure = true;
    if (option.rfind("output=", 0) == 0) options.output_type = checkpoint::weight_type_named(value);
    if (option.rfind("embedding=", 0) == 0) {
      options.token_embedding_type = checkpoint::weight_type_named(value);
    }
    if (option.rfind("type=", 0) == 0) {
      options.overrides.push_back(checkpoint::parse_type_override<>(value));
    }
  }
  return options;
}

std::vector<std::string> types_of(const std::vector<recipe_choice>& choices) {
  std::vector<std::string> types;
  for (const recipe_choice& c : choices) types.push_back(type_name(c.type));
  return types;
}

recipe_tensor tensor_of(std::string name, std::vector<index_t> dims, std::uint32_t type) {
  return {std::move(name), std::move(dims), type, false};
}

std::vector<recipe_choice> choose(const char* recipe, const std::vector<recipe_tensor>& tensors,
                                  const recipe_options& options = {},
                                  const checkpoint::model_facts& facts = {"llama", 32, 32, 32, 0}) {
  return checkpoint::apply_recipe(checkpoint::find_recipe(recipe), facts, tensors, options);
}

constexpr std::uint32_t f16 = subbyte::f16::gguf_type;

}  // namespace

TEST_CASE("recipe: every tensor of every model of the table gets llama.cpp's type") {
  model m;
  index_t models = 0, questions = 0, refused = 0;
  std::set<std::string> recipes;
  for (const auto& row : read_table(SUBBYTE_GOLDEN_DIR "/llama_cpp/recipes.tsv")) {
    if (row[0] == "model") {
      m = {row[1],
           {row[2], std::stoll(row[3]), std::stoll(row[4]), std::stoll(row[5]), std::stoll(row[6])},
           {},
           {}};
      ++models;
    } else if (row[0] == "tensor") {
      m.add(row[1], row[2], row[3]);
    } else {
      recipe_options options = read_options(row[2]);
      for (const bool importance : {false, true}) {
        if (importance != options.has_importance && row[2] != "any") continue;
        options.has_importance = importance;
        INFO(m.name << ", " << row[1] << ", " << row[2]);
        const auto choices = choose(row[1].c_str(), m.tensors, options, m.facts);
        recipes.insert(row[1]);
        if (row[0] == "refused") {
          // Rows that nothing divides are F16 here.
          for (std::size_t i = 0; i < choices.size(); ++i) {
            const int block = gguf::find_tensor_type(choices[i].type).block_size;
            REQUIRE(m.tensors[i].dims[0] % block == 0);
          }
          ++refused;
          continue;
        }
        REQUIRE(row[0] == "types");
        REQUIRE(types_of(choices) == expand(m, row[3]));
        ++questions;
      }
    }
  }
  CHECK(models == 17);
  CHECK(questions > 17 * 35 * 2);
  CHECK(refused == 4);
  CHECK(recipes.size() == 35);
}

TEST_CASE("recipe: the order of the tensors does not matter") {
  model m;
  for (const auto& row : read_table(SUBBYTE_GOLDEN_DIR "/llama_cpp/recipes.tsv")) {
    if (row[0] == "model" && !m.name.empty()) break;
    if (row[0] == "model") m.name = row[1], m.facts = {"llama", 80, 64, 8, 0};
    if (row[0] == "tensor") m.add(row[1], row[2], row[3]);
  }
  const auto forward = choose("Q4_K_M", m.tensors, {}, m.facts);
  std::vector<recipe_tensor> backward(m.tensors.rbegin(), m.tensors.rend());
  const auto types = types_of(choose("Q4_K_M", backward, {}, m.facts));
  CHECK(types == types_of({forward.rbegin(), forward.rend()}));
  std::set<std::string> used(types.begin(), types.end());
  CHECK(used == std::set<std::string>{"f32", "q4_k", "q5_k", "q6_k"});
}

TEST_CASE("recipe: the bundled model's tensors get the types of the files that llama.cpp made") {
  const gguf::file file = gguf::open(SUBBYTE_EXAMPLE_DATA_DIR "/model-f16.gguf");
  const checkpoint::model_facts facts = checkpoint::read_model_facts(file);
  CHECK(facts.architecture == "llama");
  CHECK(facts.layers == 4);
  CHECK(facts.heads == 8);
  CHECK(facts.kv_heads == 4);
  CHECK(facts.experts == 0);
  std::vector<recipe_tensor> tensors;
  for (const gguf::tensor& t : file.tensors()) {
    tensors.push_back(
        tensor_of(std::string(t.name()), {t.dims().begin(), t.dims().end()}, t.type()));
  }
  std::map<std::pair<std::string, std::string>, std::map<std::string, std::string>> listed;
  for (const auto& row : read_table(SUBBYTE_EXAMPLE_DATA_DIR "/reference_llamacpp_tensors.tsv")) {
    if (row[0] != "mode") listed[{row[0], row[1]}][row[2]] = row[3];
  }
  CHECK(listed.size() == 28);
  for (const auto& [key, types] : listed) {
    INFO(key.first << ' ' << key.second);
    recipe_options options;
    options.pure = key.first == "pure";
    const auto choices = choose(key.second.c_str(), tensors, options, facts);
    std::size_t compared = 0;
    for (std::size_t i = 0; i < choices.size(); ++i) {
      const auto found = types.find(tensors[i].name);
      if (found == types.end()) continue;
      CHECK(subbyte::same_format_name(type_name(choices[i].type).c_str(), found->second.c_str()));
      ++compared;
    }
    CHECK(compared == types.size());
  }
  // Counted by type, and more recipes.
  for (const auto& row : read_table(SUBBYTE_EXAMPLE_DATA_DIR "/reference_llamacpp.tsv")) {
    if (row[0] == "recipe") continue;
    INFO(row[0]);
    std::map<std::string, int> counts, expected;
    const auto choices = choose(row[0].c_str(), tensors, {}, facts);
    for (const recipe_choice& c : choices) {
      if (c.quantized) ++counts[type_name(c.type)];
    }
    for (const std::string& part : split(row[3], ' ')) {
      const auto of = split(part, ':');
      expected[type_name(checkpoint::weight_type_named(of[0]))] = std::stoi(of[1]);
    }
    CHECK(counts == expected);
  }
}

TEST_CASE("recipe: names are found in any case, and three have a short form") {
  CHECK(checkpoint::find_recipe("q4_k_m").id == checkpoint::file_type::q4_k_m);
  CHECK(checkpoint::find_recipe("Q3_K").id == checkpoint::file_type::q3_k_m);
  CHECK(checkpoint::find_recipe("q4_k").id == checkpoint::file_type::q4_k_m);
  CHECK(checkpoint::find_recipe("Q5_K").id == checkpoint::file_type::q5_k_m);
  CHECK(checkpoint::find_recipe("Q2_K").id == checkpoint::file_type::q2_k);
  const auto problem = error_of([] { static_cast<void>(checkpoint::find_recipe("Q9_Z")); });
  CHECK(problem.code() == errc::unsupported_format);
  CHECK(std::string(problem.what()).find("IQ2_XXS") != std::string::npos);
  std::set<std::uint32_t> ids;
  for (const checkpoint::recipe& r : checkpoint::all_recipes) {
    ids.insert(static_cast<std::uint32_t>(r.id));
    CHECK(&checkpoint::find_recipe(r.name) == &r);
    CHECK(checkpoint::uniform_recipe(r.type).type == r.type);
  }
  CHECK(ids.size() == std::size(checkpoint::all_recipes));
  CHECK(checkpoint::uniform_recipe(subbyte::q4_k::gguf_type).id == checkpoint::file_type::q4_k_s);
  CHECK(checkpoint::uniform_recipe(24).id == checkpoint::file_type::guessed);
}

TEST_CASE("recipe: a type and a pattern make an override; anything else is refused") {
  const auto parsed = checkpoint::parse_type_override<>(R"(blk\.[0-3]\.attn_v=Q8_0)");
  CHECK(parsed.type == subbyte::q8_0::gguf_type);
  CHECK(parsed.pattern.found_in("blk.2.attn_v.weight"));
  CHECK_FALSE(parsed.pattern.found_in("blk.12.attn_v.weight"));
  const auto refused = [](const char* text) {
    return error_of([&] { static_cast<void>(checkpoint::parse_type_override<>(text)); }).code();
  };
  CHECK(checkpoint::parse_type_override<>("attn_v=iq4_ks").type == 144);  // of ik_llama.cpp
  CHECK(refused("attn_v") == errc::bad_argument);
  CHECK(refused("=q8_0") == errc::bad_argument);
  CHECK(refused("attn_v=") == errc::unsupported_format);
  CHECK(refused("attn_v=i32") == errc::unsupported_format);
  CHECK(refused("(attn_v=q8_0") == errc::bad_metadata);
}

TEST_CASE("recipe: a name decides before a pattern, and the first pattern that matches counts") {
  const std::vector<recipe_tensor> tensors = {
      tensor_of("token_embd.weight", {256, 8}, f16), tensor_of("output.weight", {256, 8}, f16),
      tensor_of("blk.0.attn_v.weight", {256, 8}, f16),
      tensor_of("blk.1.attn_v.weight", {256, 8}, f16),
      tensor_of("blk.0.attn_norm.weight", {256}, subbyte::f32::gguf_type)};
  recipe_options options;
  options.named["blk.1.attn_v.weight"] = subbyte::q2_k::gguf_type;
  options.overrides.push_back(checkpoint::parse_type_override<>("attn_v=q3_k"));
  options.overrides.push_back(checkpoint::parse_type_override<>("attn=q5_k"));
  options.token_embedding_type = subbyte::q4_0::gguf_type;
  options.output_type = subbyte::q5_1::gguf_type;
  CHECK(types_of(choose("Q6_K", tensors, options)) ==
        std::vector<std::string>{"q4_0", "q5_1", "q3_k", "q2_k", "f32"});
  // llama.cpp would pass over the patterns here.
  CHECK(types_of(choose("F16", tensors, options)) ==
        std::vector<std::string>{"q4_0", "q5_1", "q3_k", "q2_k", "f32"});
  options.leave_output = true;
  const auto left = choose("Q6_K", tensors, options);
  CHECK(type_name(left[1].type) == "f16");
  CHECK_FALSE(left[1].quantized);
  CHECK(left[1].copied);
}

TEST_CASE("recipe: rows that do not divide into blocks get the type with smaller blocks") {
  const auto fallback = [](const char* type, index_t cols) {
    return type_name(checkpoint::fallback_type(checkpoint::weight_type_named(type), cols));
  };
  for (const char* type :
       {"iq1_s", "iq1_m", "iq2_xxs", "iq2_xs", "iq2_s", "iq3_xxs", "iq3_s", "iq4_xs"}) {
    CHECK(fallback(type, 512) == type);
    CHECK(fallback(type, 288) == "iq4_nl");
    CHECK(fallback(type, 48) == "f16");
  }
  for (const char* type : {"q2_k", "q3_k", "tq1_0", "tq2_0"}) CHECK(fallback(type, 288) == "q4_0");
  CHECK(fallback("q2_0", 64) == "q2_0");
  CHECK(fallback("q2_0", 96) == "q4_0");
  CHECK(fallback("q4_k", 288) == "q5_0");
  CHECK(fallback("q5_k", 288) == "q5_1");
  CHECK(fallback("q6_k", 288) == "q8_0");
  CHECK(fallback("q8_0", 48) == "f16");
  CHECK(fallback("q1_0", 96) == "f16");
  CHECK(fallback("nvfp4", 96) == "f16");
  CHECK(fallback("bf16", 7) == "bf16");
  const auto choices = choose("Q4_K_S", {tensor_of("blk.0.attn_q.weight", {288, 4}, f16),
                                         tensor_of("blk.0.ffn_up.weight", {256, 4}, f16)});
  CHECK(choices[0].fell_back);
  CHECK_FALSE(choices[1].fell_back);
}

TEST_CASE("recipe: quantizing again happens on request only, and copying is no quantizing") {
  std::vector<recipe_tensor> tensors = {
      tensor_of("blk.0.ffn_up.weight", {256, 4}, subbyte::q4_k::gguf_type),
      tensor_of("blk.0.ffn_gate.weight", {256, 4}, subbyte::bf16::gguf_type)};
  CHECK(choose("Q4_K_S", tensors)[0].copied);
  CHECK_FALSE(choose("Q4_K_S", tensors)[1].copied);
  const auto problem = error_of([&] { static_cast<void>(choose("Q6_K", tensors)); });
  CHECK(problem.code() == errc::bad_argument);
  CHECK(problem.subject() == "blk.0.ffn_up.weight");
  CHECK(std::string(problem.what()).find("q4_k") != std::string::npos);
  recipe_options options;
  options.allow_requantize = true;
  CHECK(type_name(choose("Q6_K", tensors, options)[0].type) == "q6_k");
  // A checkpoint's module that no GGUF type names.
  tensors[0].type.reset();
  CHECK_FALSE(choose("Q4_K_S", tensors)[0].copied);
  tensors[0].quantized = true;
  CHECK(error_of([&] { static_cast<void>(choose("Q4_K_S", tensors)); }).code() ==
        errc::bad_argument);
}

TEST_CASE("recipe: types that need an importance matrix are named with their tensors") {
  std::vector<recipe_tensor> tensors = {tensor_of("output.weight", {256, 4}, f16),
                                        tensor_of("token_embd.weight", {256, 4}, f16)};
  for (int l = 0; l < 5; ++l) {
    tensors.push_back(tensor_of("blk." + std::to_string(l) + ".ffn_up.weight", {256, 4}, f16));
  }
  const auto known = [](std::string_view name) { return name == "blk.0.ffn_up.weight"; };
  const auto choices = choose("IQ2_XS", tensors);
  CHECK_FALSE(choices[0].needs_importance);
  CHECK_FALSE(choices[1].needs_importance);
  CHECK(choices[2].needs_importance);
  const auto problem = error_of([&] { checkpoint::require_importance(tensors, choices, known); });
  CHECK(problem.code() == errc::bad_argument);
  CHECK(problem.subject() == "blk.1.ffn_up.weight, blk.2.ffn_up.weight, blk.3.ffn_up.weight, ...");
  CHECK(std::string(problem.what()).find("4 tensors need") != std::string::npos);
  CHECK(std::string(problem.what()).find("iq2_xs") != std::string::npos);
  CHECK_NOTHROW(
      checkpoint::require_importance(tensors, choices, [](std::string_view) { return true; }));
  CHECK_NOTHROW(checkpoint::require_importance(tensors, choose("Q2_K", tensors), known));
  CHECK(choose("Q2_K_S", tensors)[2].needs_importance);
  CHECK_FALSE(choose("Q2_K", tensors)[2].needs_importance);
  // What is copied was made by someone else.
  tensors.assign(1, tensor_of("blk.0.ffn_up.weight", {256, 4}, subbyte::iq2_xs::gguf_type));
  CHECK_FALSE(choose("IQ2_XS", tensors)[0].needs_importance);
}

TEST_CASE("recipe: an expert's tensor has its layer in its name") {
  const checkpoint::model_facts facts{"llama", 4, 8, 2, 8};
  const auto refused = [&](const char* name) {
    return error_of([&] {
             static_cast<void>(choose("Q4_K_M", {tensor_of(name, {256, 4, 8}, f16)}, {}, facts));
           }).code() == errc::bad_argument;
  };
  CHECK_NOTHROW(
      choose("Q4_K_M", {tensor_of("blk.3.ffn_down_exps.weight", {256, 4, 8}, f16)}, {}, facts));
  CHECK(refused("blk.4.ffn_down_exps.weight"));
  CHECK(refused("ffn_up_exps.weight"));
  CHECK(refused("blk.99999999999999999999.ffn_gate_exps.weight"));
}

TEST_CASE("recipe: facts are read from a GGUF file's metadata") {
  const test_support::scratch_directory folder;
  const std::string path = folder.file("facts.gguf");
  const auto facts_of = [&](const auto& fill) {
    gguf::writer out(path);
    fill(out);
    out.finish();
    return checkpoint::read_model_facts(gguf::open(path));
  };
  const auto arrays = facts_of([](gguf::writer& out) {
    out.metadata("general.architecture", "deci");
    out.metadata("deci.block_count", std::uint32_t{80});
    out.metadata("deci.attention.head_count", std::vector<std::int32_t>{64, 0, 32});
    out.metadata("deci.attention.head_count_kv", std::vector<std::uint32_t>{8, 0, 4});
  });
  CHECK(arrays.architecture == "deci");
  CHECK(arrays.layers == 80);
  CHECK(arrays.heads == 64);
  CHECK(arrays.kv_heads == 8);
  CHECK(arrays.sharing() == 8);
  const auto few = facts_of([](gguf::writer& out) {
    out.metadata("general.architecture", "mamba");
    out.metadata("mamba.attention.head_count", std::uint32_t{0});
    out.metadata("mamba.expert_count", std::uint32_t{8});
  });
  CHECK(few.kv_heads == 0);
  CHECK(few.sharing() == 0);
  CHECK(few.experts == 8);
  const auto code = [&](const auto& fill) {
    return error_of([&] { static_cast<void>(facts_of(fill)); }).code();
  };
  CHECK(code([](gguf::writer& out) { out.metadata("a", 1); }) == errc::not_found);
  CHECK(code([](gguf::writer& out) {
          out.metadata("general.architecture", "x");
          out.metadata("x.block_count", "many");
        }) == errc::bad_metadata);
}
