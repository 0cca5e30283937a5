// SPDX-License-Identifier: Apache-2.0
/// Tests of checkpoint/tokenizer_metadata.hpp.
#include "subbyte/checkpoint/tokenizer_metadata.hpp"

#include <concepts>

#include "subbyte/io/gguf.hpp"
#include "subbyte/io/gguf_writer.hpp"
#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/sentencepiece_bytes.hpp"

namespace checkpoint_tokenizer_metadata_test {

namespace checkpoint = subbyte::checkpoint;
using checkpoint::token_kind;
using checkpoint::tokenizer_metadata;
using subbyte::errc;
using subbyte::index_t;
using subbyte::json_value;
using test_support::error_of;
using test_support::message;

namespace {

using texts = std::vector<std::string>;
using kinds = std::vector<token_kind>;

constexpr token_kind N = token_kind::normal, U = token_kind::unknown, C = token_kind::control,
                     D = token_kind::user_defined, X = token_kind::unused, B = token_kind::byte;

/// A folder of files, and what is read of it.
class folder {
 public:
  folder& put(const std::string& name, std::string_view text) {
    test_support::write_file(directory_.file(name), text);
    return *this;
  }
  template <std::same_as<json_value> Value>
  folder& put(const std::string& name, const Value& value) {
    return put(name, value.to_text());
  }
  [[nodiscard]] tokenizer_metadata read(index_t rows) const {
    auto found = checkpoint::read_tokenizer(directory_.path(), rows);
    REQUIRE(found.has_value());
    return std::move(*found);
  }
  [[nodiscard]] bool has_tokenizer() const {
    return checkpoint::read_tokenizer(directory_.path(), 4).has_value();
  }
  // The error's code, if its text has `part`.
  [[nodiscard]] std::string refusal(index_t rows) const {
    const subbyte::error e = error_of([&] { return read(rows); });
    CHECK(e.subject().find(directory_.path()) == 0);
    const char* const code = e.code() == errc::unsupported_format ? "unsupported: "
                             : e.code() == errc::bad_metadata     ? "bad: "
                                                                  : "other: ";
    return code + std::string(e.what());
  }
  [[nodiscard]] std::string file(const std::string& name) const { return directory_.file(name); }

 private:
  test_support::scratch_directory directory_;
};

void check_refused(const folder& f, index_t rows, const std::string& part) {
  CHECK_THAT(f.refusal(rows), Catch::Contains(part));
}

json_value parse(std::string_view text) { return subbyte::parse_json(text, "text"); }

const std::string mark = "\xE2\x96\x81";

// Five pieces: unknown, bos, eos, a byte and a letter.
message sentencepiece(std::uint64_t algorithm = 2) {
  message m;
  m.bytes(1, message().bytes(1, "<unk>").scalar(3, 2).text)
      .bytes(1, message().bytes(1, "<s>").scalar(3, 3).text)
      .bytes(1, message().bytes(1, "</s>").scalar(3, 3).text)
      .bytes(1, message().bytes(1, "<0x0A>").scalar(3, 6).text)
      .bytes(1, message().bytes(1, "a").float32(2, -7).text);
  return m.bytes(2, message().scalar(3, algorithm).text);
}

constexpr const char* llama3_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)";
constexpr const char* qwen2_pattern =
    R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)";

std::string split_by(const std::string& pattern) {
  return R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": ")" +
         pattern +
         R"("}, "behavior": "Isolated", "invert": false}, {"type": "ByteLevel",
         "add_prefix_space": false, "trim_offsets": true, "use_regex": false}]})";
}

// A byte-level tokenizer.json: a, b, c, ab, abc, with <e> added.
json_value byte_level(const std::string& cut, bool ignore_merges) {
  json_value v = parse(R"({"version": "1.0",
      "added_tokens": [{"id": 5, "content": "<e>", "special": true}],
      "normalizer": null, "pre_tokenizer": null, "post_processor": {"type": "ByteLevel"},
      "model": {"type": "BPE", "dropout": null, "byte_fallback": false,
                "vocab": {"a": 0, "b": 1, "c": 2, "ab": 3, "abc": 4},
                "merges": ["a b", "ab c"]}})");
  v.set("pre_tokenizer", parse(cut));
  json_value model = *v.find("model");
  v.set("model", model.set("ignore_merges", ignore_merges));
  return v;
}

json_value with_model(json_value v, const char* key, const char* value) {
  json_value model = *v.find("model");
  return v.set("model", model.set(key, parse(value)));
}

// SentencePiece as tokenizer.json: merges in the order of falling scores.
json_value pieces() {
  return parse(R"({"added_tokens": [{"id": 1, "content": "<s>", "special": true}],
      "normalizer": {"type": "Sequence", "normalizers": [
          {"type": "Prepend", "prepend": "\u2581"},
          {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
      "pre_tokenizer": null,
      "post_processor": {"type": "TemplateProcessing", "single": [
          {"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
      "model": {"type": "BPE", "unk_token": "<unk>", "byte_fallback": true,
                "vocab": {"<unk>": 0, "<s>": 1, "<0x41>": 2, "a": 3, "b": 4, "aa": 5, "ab": 6,
                          "aab": 7},
                "merges": [["a", "b"], ["a", "a"], ["aa", "b"], ["a", "ab"]]}})");
}

}  // namespace

TEST_CASE("tokenizer: a folder without one has none") {
  folder f;
  CHECK_FALSE(f.has_tokenizer());
  f.put("config.json", "{}").put("vocab.json", "{}");
  CHECK_FALSE(f.has_tokenizer());
}

TEST_CASE("tokenizer: a SentencePiece model alone") {
  folder f;
  f.put("tokenizer.model", sentencepiece().text);
  const tokenizer_metadata t = f.read(7);
  CHECK(t.model == "llama");
  CHECK(t.pre == "default");
  CHECK(t.tokens == texts{"<unk>", "<s>", "</s>", "<0x0A>", "a", "[PAD5]", "[PAD6]"});
  CHECK(t.kinds == kinds{U, C, C, B, N, X, X});
  CHECK(t.scores == std::vector<float>{0, 0, 0, 0, -7, -10000, -10000});
  CHECK(t.merges.empty());
  CHECK(t.bos == 1);
  CHECK(t.eos == 2);
  CHECK(t.unknown == 0);
  CHECK_FALSE(t.padding.has_value());
  CHECK(t.add_bos);
  CHECK_FALSE(t.add_eos);
  CHECK(t.add_space_prefix == true);
  CHECK(t.chat_templates.empty());
  CHECK(t.notes.empty());
}

TEST_CASE("tokenizer: other algorithms of SentencePiece are refused by name") {
  for (const auto& [number, name] :
       {std::pair(1, "unigram"), std::pair(3, "word"), std::pair(4, "char")}) {
    folder f;
    f.put("tokenizer.model", sentencepiece(static_cast<std::uint64_t>(number)).text);
    check_refused(f, 7, std::string("unsupported: ") + f.file("tokenizer.model"));
    check_refused(f, 7, std::string("type is ") + name);
  }
}

TEST_CASE("tokenizer: more pieces than rows are refused, more added tokens left out") {
  folder f;
  f.put("tokenizer.model", sentencepiece().text);
  CHECK(f.read(5).tokens.size() == 5);
  check_refused(f, 4, "the id 4, and the embedding has 4 rows");
  f.put("added_tokens.json", R"({"[PAD]": 5, "far": 99999999999})");
  CHECK(f.read(6).tokens[5] == "[PAD]");
  const tokenizer_metadata t = f.read(5);
  CHECK(t.tokens.size() == 5);
  REQUIRE(t.notes.size() == 1);
  CHECK_THAT(t.notes[0], Catch::Contains("2 added tokens are left out"));
}

TEST_CASE("tokenizer: added tokens of all files, control by flag or by look") {
  folder f;
  f.put("tokenizer.model", sentencepiece().text)
      .put("added_tokens.json", R"({"<|im_start|>": 5, "word": 6})")
      .put("tokenizer_config.json",
           "{\"added_tokens_decoder\": {\"7\": {\"content\": \"x" + mark + mark +
               "y\", \"special\": false}, \"0\": {\"content\": \"<unk>\", \"special\": true},"
               "\"8\": {\"content\": \"<t>\", \"special\": true, \"lstrip\": true}}}")
      .put("tokenizer.json",
           R"({"added_tokens": [{"id": 9, "content": "<pad>", "special": false}]})");
  const tokenizer_metadata t = f.read(11);
  CHECK(t.tokens == texts{"<unk>", "<s>", "</s>", "<0x0A>", "a", "<|im_start|>", "word", "x  y",
                          "<t>", "<pad>", "[PAD10]"});
  CHECK(t.kinds == kinds{U, C, C, B, N, C, D, D, C, C, X});
  CHECK(t.scores[0] == 0);
  CHECK(t.scores[6] == -1000);
  CHECK(t.scores[8] == -1000);
  REQUIRE(t.notes.size() == 1);
  CHECK_THAT(t.notes[0], Catch::Contains("lstrip"));
}

TEST_CASE("tokenizer: special ids by tokenizer_config, then config, then generation_config") {
  folder f;
  f.put("tokenizer.model", sentencepiece().text)
      .put("generation_config.json",
           R"({"bos_token_id": 4, "eos_token_id": [3, 2], "pad_token_id": 4})");
  tokenizer_metadata t = f.read(5);
  CHECK(t.bos == 4);
  CHECK(t.eos == 3);
  CHECK(t.padding == 4);
  CHECK(t.unknown == 0);
  f.put("config.json", R"({"bos_token_id": 2, "eos_token_id": 99, "pad_token_id": null})");
  t = f.read(5);
  CHECK(t.bos == 2);
  CHECK(t.eos == 3);
  CHECK(t.padding == 4);
  f.put("tokenizer_config.json",
        R"({"bos_token": "<s>", "eos_token": {"content": "</s>"}, "pad_token": "nowhere",
            "add_bos_token": false, "add_eos_token": true, "add_prefix_space": false})");
  t = f.read(5);
  CHECK(t.bos == 1);
  CHECK(t.eos == 2);
  CHECK(t.padding == 4);
  CHECK_FALSE(t.add_bos);
  CHECK(t.add_eos);
  CHECK(t.add_space_prefix == false);
}

TEST_CASE("tokenizer: byte-level BPE by tokenizer.json") {
  folder f;
  json_value v = byte_level(split_by(llama3_pattern), true);
  f.put("tokenizer.json", v).put("tokenizer_config.json", R"({"eos_token": "<e>"})");
  const tokenizer_metadata t = f.read(8);
  CHECK(t.model == "gpt2");
  CHECK(t.pre == "llama-bpe");
  CHECK(t.tokens == texts{"a", "b", "c", "ab", "abc", "<e>", "[PAD6]", "[PAD7]"});
  CHECK(t.kinds == kinds{N, N, N, N, N, C, X, X});
  CHECK(t.scores.empty());
  CHECK(t.merges == texts{"a b", "ab c"});
  CHECK_FALSE(t.bos.has_value());
  CHECK(t.eos == 5);
  CHECK_FALSE(t.add_bos);
  CHECK_FALSE(t.add_eos);
  CHECK_FALSE(t.add_space_prefix.has_value());
  // Pairs say the same as texts.
  f.put("tokenizer.json", with_model(v, "merges", R"([["a", "b"], ["ab", "c"]])"));
  CHECK(f.read(8).merges == t.merges);
}

TEST_CASE("tokenizer: pre-tokenizers by structure and pattern, all others refused by name") {
  const std::string plain = R"({"type": "ByteLevel", "add_prefix_space": false})";
  const std::string digits =
      R"({"type": "Sequence", "pretokenizers": [{"type": "Digits", "individual_digits": true},
          {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true}]})";
  const std::string tekken = split_by(
      R"([^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]*[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]+|[^\\r\\n\\p{L}\\p{N}]?[\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}]+[\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}]*|\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+)");
  struct known {
    std::string cut;
    bool ignore_merges;
    const char* name;
  };
  for (const known& k : {known{split_by(llama3_pattern), true, "llama-bpe"},
                         {split_by(llama3_pattern), false, "smaug-bpe"},
                         {split_by(qwen2_pattern), false, "qwen2"},
                         {tekken, true, "tekken"},
                         {tekken, false, "tekken"},
                         {plain, false, "gpt-2"},
                         {digits, false, "smollm"}}) {
    folder f;
    f.put("tokenizer.json", byte_level(k.cut, k.ignore_merges));
    CHECK(f.read(6).pre == k.name);
  }
  struct unknown {
    std::string cut;
    bool ignore_merges;
    const char* part;
  };
  std::string merged = split_by(qwen2_pattern), inverted = merged, cutting = merged;
  merged.replace(merged.find("Isolated"), 8, "Removed!");
  inverted.replace(inverted.find("\"invert\": false"), 15, "\"invert\": true ");
  cutting.replace(cutting.find("\"use_regex\": false"), 18, "\"use_regex\": true ");
  std::string other = split_by(qwen2_pattern);  // of the same length
  other.replace(other.find("p{N}]?"), 6, "p{M}]?");
  for (const unknown& u :
       {unknown{"null", false, "not known: none"},
        {R"({"type": "Whitespace"})", false, "not known: Whitespace"},
        {R"({"type": "Sequence", "pretokenizers": []})", false, "not known: "},
        {R"({"type": "Sequence", "pretokenizers": [{"type": "Punctuation"},
             {"type": "ByteLevel"}]})",
         false, "not known: Punctuation, ByteLevel"},
        {R"({"type": "ByteLevel", "add_prefix_space": true})", false, "add_prefix_space"},
        {R"({"type": "ByteLevel", "use_regex": false})", false, "not known: ByteLevel"},
        {plain, true, "ignore_merges"},
        {digits, true, "ignore_merges"},
        {split_by(qwen2_pattern), true, "ignore_merges"},
        {split_by("\\\\p{N}+"), false, "Split by \\\\p{N}+"},
        {other, false, "Split by (?i:'s"},
        {merged, false, "behavior"},
        {inverted, false, "behavior"},
        {cutting, false, "Split, ByteLevel"}}) {
    CAPTURE(u.part);
    folder f;
    f.put("tokenizer.json", byte_level(u.cut, u.ignore_merges));
    check_refused(f, 6, "unsupported: ");
    check_refused(f, 6, u.part);
  }
}

TEST_CASE("tokenizer: models, normalizers and post-processors that are not known are refused") {
  const json_value good = byte_level(split_by(qwen2_pattern), false);
  const auto refused = [](const json_value& v, const char* part) {
    CAPTURE(part);
    folder f;
    f.put("tokenizer.json", v);
    check_refused(f, 6, "unsupported: ");
    check_refused(f, 6, part);
  };
  const auto with = [&](const char* key, const char* value) {
    json_value v = good;
    return v.set(key, parse(value));
  };
  for (const char* type : {"WordPiece", "WordLevel"}) {
    refused(with_model(good, "type", ("\"" + std::string(type) + "\"").c_str()), type);
  }
  refused(with("model", R"({"type": "Unigram", "vocab": [["a", -1.5], ["b", -2]]})"), "Unigram");
  refused(with_model(good, "dropout", "0.1"), "dropout");
  refused(with_model(good, "continuing_subword_prefix", "\"##\""), "continuing_subword_prefix");
  refused(with_model(good, "end_of_word_suffix", "\"</w>\""), "end_of_word_suffix");
  refused(with("normalizer", R"({"type": "NFKC"})"), "NFKC");
  refused(with("normalizer", R"({"type": "Sequence", "normalizers": []})"), "Sequence");
  refused(with("post_processor", R"({"type": "RobertaProcessing"})"), "RobertaProcessing");
  folder f;
  f.put("tokenizer.json", with("normalizer", R"({"type": "NFC"})"));
  CHECK(f.read(6).pre == "qwen2");
}

TEST_CASE("tokenizer: the template around a text decides about bos and eos") {
  const std::string bos = R"({"SpecialToken": {"id": "<s>", "type_id": 0}})";
  const std::string eos = R"({"SpecialToken": {"id": "<e>", "type_id": 0}})";
  const std::string text = R"({"Sequence": {"id": "A", "type_id": 0}})";
  const auto put = [&](folder& f, const std::string& single, const char* settings) {
    json_value v = byte_level(split_by(qwen2_pattern), false);
    v.set("added_tokens", parse(R"([{"id": 5, "content": "<e>", "special": true},
                                    {"id": 6, "content": "<s>", "special": true}])"));
    v.set("post_processor", parse(R"({"type": "Sequence", "processors": [{"type": "ByteLevel"},
                {"type": "TemplateProcessing", "single": [)" +
                                  single + "]}]}"));
    f.put("tokenizer.json", v).put("tokenizer_config.json", settings);
  };
  constexpr const char* both =
      R"({"bos_token": "<s>", "eos_token": "<e>", "add_bos_token": true, "add_eos_token": false})";
  struct expected {
    std::string single;
    bool bos, eos;
  };
  for (const expected& e : {expected{bos + "," + text, true, false},
                            {text + "," + eos, false, true},
                            {bos + "," + text + "," + eos, true, true},
                            {text, false, false}}) {
    folder f;
    put(f, e.single, both);
    const tokenizer_metadata t = f.read(7);
    CHECK(t.add_bos == e.bos);
    CHECK(t.add_eos == e.eos);
  }
  folder f;
  put(f, bos + "," + text, "{}");
  CHECK(f.read(7).bos == 6);  // the token that it begins with
  put(f, eos + "," + text, both);
  check_refused(f, 7, "adds <e>, which is not bos");
  put(f, bos + "," + bos + "," + text, both);
  check_refused(f, 7, "more than bos and eos");
  put(f, bos + "," + eos, both);
  check_refused(f, 7, "more than bos and eos");
}

TEST_CASE("tokenizer: SentencePiece in tokenizer.json gets scores in the order of its merges") {
  folder f;
  f.put("tokenizer.json", pieces())
      .put("tokenizer_config.json", R"({"bos_token": "<s>", "add_bos_token": false})");
  const tokenizer_metadata t = f.read(9);
  CHECK(t.model == "llama");
  CHECK(t.pre == "default");
  CHECK(t.tokens == texts{"<unk>", "<s>", "<0x41>", "a", "b", "aa", "ab", "aab", "[PAD8]"});
  CHECK(t.kinds == kinds{U, C, B, N, N, N, N, N, X});
  CHECK(t.scores[6] == 0);
  CHECK(t.scores[5] == -1);
  CHECK(t.scores[7] == -2);
  CHECK(t.scores[3] < -1000);
  CHECK(t.merges.empty());
  CHECK(t.bos == 1);
  CHECK(t.unknown == 0);
  CHECK(t.add_bos);  // by the template
  CHECK(t.add_space_prefix == true);
}

TEST_CASE("tokenizer: merges whose order no scores have are refused") {
  const auto refused = [](const char* merges, const char* part) {
    folder f;
    f.put("tokenizer.json", with_model(pieces(), "merges", merges));
    check_refused(f, 9, part);
  };
  refused(R"([["aa", "b"], ["a", "b"], ["a", "a"], ["a", "ab"]])", "do not stand together");
  refused(R"([["a", "b"], ["a", "a"], ["aa", "b"]])", "some are no merges");
  refused(R"([["a", "b"], ["aa", "b"], ["a", "ab"]])", "some are no merges");
  refused(R"([["a", "c"]])", "c is no token");
  refused(R"([["b", "b"]])", "bb is no token");
}

TEST_CASE("tokenizer: the space in front, by the normalizer or by Metaspace") {
  const auto prefix = [](const char* normalizer, const char* cut) {
    folder f;
    json_value v = pieces();
    v.set("normalizer", parse(normalizer)).set("pre_tokenizer", parse(cut));
    f.put("tokenizer.json", v);
    return f.read(8);
  };
  constexpr const char* replace =
      R"({"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"})";
  CHECK(prefix(replace, "null").add_space_prefix == false);
  const auto metaspace = [](const char* scheme) {
    return R"({"type": "Metaspace", "replacement": "\u2581", "split": false, "prepend_scheme": ")" +
           std::string(scheme) + "\"}";
  };
  CHECK(prefix("null", metaspace("never").c_str()).add_space_prefix == false);
  CHECK(prefix("null", metaspace("never").c_str()).notes.empty());
  CHECK(prefix("null", metaspace("first").c_str()).add_space_prefix == true);
  CHECK(prefix("null", metaspace("first").c_str()).notes.size() == 1);
  CHECK(prefix("null", metaspace("always").c_str()).notes.size() == 1);
  const auto refused = [](const char* normalizer, const char* cut, const char* part) {
    folder f;
    json_value v = pieces();
    v.set("normalizer", parse(normalizer)).set("pre_tokenizer", parse(cut));
    f.put("tokenizer.json", v);
    check_refused(f, 8, "unsupported: ");
    check_refused(f, 8, part);
  };
  refused("null", "null", "nothing replaces spaces");
  refused(R"({"type": "Lowercase"})", "null", "Lowercase");
  refused("null", R"({"type": "Metaspace", "replacement": "_", "split": false})", "Metaspace");
  refused("null", R"({"type": "Metaspace", "replacement": "\u2581"})", "Metaspace");
  refused(replace, R"({"type": "Whitespace"})", "Whitespace");
}

TEST_CASE("tokenizer: texts and ids that contradict each other are rejected") {
  const json_value good = byte_level(split_by(qwen2_pattern), false);
  const auto rejected = [](const json_value& v, const std::string& part) {
    folder f;
    f.put("tokenizer.json", v);
    check_refused(f, 6, "bad: ");
    check_refused(f, 6, part);
  };
  rejected(with_model(good, "vocab", R"({"a": 0, "b": 0})"), "id 0 is of both a and b");
  rejected(with_model(good, "vocab", R"({"a": 0, "b": 6})"), "the id 6");
  for (const char* id : {"-1", "1.5", "\"1\"", "null", "4294967296", "{}", "[1]"}) {
    rejected(with_model(good, "vocab", (R"({"a": 0, "b": )" + std::string(id) + "}").c_str()),
             "item 1 of model.vocab");
  }
  for (const char* merge : {"\"ab\"", "\"a b c\"", "[\"a\"]", "[\"a\", \"b\", \"c\"]", "7", "{}",
                            "[[\"a\"], \"b\"]", "[\"a\", 1]"}) {
    rejected(with_model(good, "merges", (R"(["a b", )" + std::string(merge) + "]").c_str()),
             "item 1 of model.merges");
  }
  rejected(with_model(good, "merges", R"({"x": "a b"})"), "model.merges");
  rejected(with_model(good, "merges", "[]"), "model.merges is missing or empty");
  rejected(with_model(good, "merges", R"(["a d"])"), "d is no token");
  rejected(with_model(with_model(good, "vocab", R"({"a": 0, " ": 1, "a ": 2})"), "merges",
                      R"([["a", " "]])"),
           "space inside");
  json_value v = good;
  rejected(v.set("added_tokens", parse(R"([{"id": 5, "content": "ab"}])")),
           "tokens 3 and 5 are both ab");
  rejected(v.set("added_tokens", parse(R"([{"id": 5}])")), "no id or no content");
  folder f;
  f.put("tokenizer.json", v.set("added_tokens", parse(R"([{"id": 5, "content": "[PAD6]"}])")));
  check_refused(f, 7, "tokens 5 and 6 are both [PAD6]");
}

TEST_CASE("tokenizer: a tokenizer.json cut anywhere is an error that names it") {
  const std::string whole = byte_level(split_by(qwen2_pattern), false).to_text();
  folder f;
  for (std::size_t length = 1; length < whole.size(); length += 3) {
    f.put("tokenizer.json", std::string_view(whole).substr(0, length));
    const subbyte::error e = error_of([&] { return f.read(6); });
    CHECK(e.code() == errc::bad_metadata);
    CHECK(e.subject() == f.file("tokenizer.json"));
  }
}

TEST_CASE("tokenizer: any byte of tokenizer.json changed is an error or a tokenizer of the rows") {
  const std::string whole =
      byte_level(R"({"type": "ByteLevel", "add_prefix_space": false})", false).to_text();
  folder f;
  std::size_t read = 0;
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (const char c : {'"', '}', '[', '0', 'x', '\0', '\xFF', ' '}) {
      std::string changed = whole;
      changed[i] = c;
      f.put("tokenizer.json", changed);
      std::size_t tokens = 6;
      try {
        tokens = f.read(6).tokens.size();
        ++read;
      } catch (const subbyte::error&) {
      }
      REQUIRE(tokens == 6);
    }
  }
  CHECK(read > 100);
}

TEST_CASE("tokenizer: containers in containers and pieces that are too long are refused") {
  folder f;
  f.put("tokenizer.json", "{\"x\": " + std::string(100, '[') + std::string(100, ']') + "}");
  check_refused(f, 6, "nested deeper");
  const std::string longer(600, 'a');
  f.put("tokenizer.json",
        with_model(with_model(pieces(), "merges", "[]"), "vocab",
                   ("{\"<unk>\": 0, \"<s>\": 1, \"" + longer + "\": 2}").c_str()));
  check_refused(f, 8, "600 bytes");
}

TEST_CASE("tokenizer: chat templates from all the places that there are") {
  folder f;
  f.put("tokenizer.model", sentencepiece().text)
      .put("chat_template.json", R"({"chat_template": "json"})");
  REQUIRE(f.read(5).chat_templates.size() == 1);
  CHECK(f.read(5).chat_templates[0].text == "json");
  f.put("chat_template.jinja", "jinja\n");
  CHECK(f.read(5).chat_templates[0].text == "jinja\n");
  f.put("tokenizer_config.json", R"({"chat_template": "config"})");
  CHECK(f.read(5).chat_templates[0].text == "config");
  f.put("tokenizer_config.json",
        R"({"chat_template": [{"name": "default", "template": "x"},
                              {"name": "tool use", "template": "y"}]})");
  const tokenizer_metadata t = f.read(5);
  REQUIRE(t.chat_templates.size() == 2);
  CHECK(t.chat_templates[0].name == "default");
  CHECK(t.chat_templates[1].name == "tool_use");
  CHECK(t.chat_templates[1].text == "y");
}

TEST_CASE("tokenizer: the keys of the GGUF file") {
  folder f;
  f.put("tokenizer.model", sentencepiece().text)
      .put("tokenizer_config.json",
           R"({"pad_token": "a", "chat_template": [{"name": "default", "template": "x"},
                                                   {"name": "rag", "template": "y"}]})");
  const auto written = [&](const tokenizer_metadata& t) {
    subbyte::gguf::writer out(f.file("model.gguf"));
    t.write_metadata(out);
    out.finish();
    return subbyte::gguf::open(f.file("model.gguf"));
  };
  {
    const auto file = written(f.read(6));
    CHECK(file.get<std::string_view>("tokenizer.ggml.model") == "llama");
    CHECK(file.get<std::string_view>("tokenizer.ggml.pre") == "default");
    const auto tokens =
        file.get<subbyte::gguf::array_view<std::string_view>>("tokenizer.ggml.tokens");
    CHECK(texts(tokens.begin(), tokens.end()) ==
          texts{"<unk>", "<s>", "</s>", "<0x0A>", "a", "[PAD5]"});
    const auto scores = file.get<subbyte::gguf::array_view<float>>("tokenizer.ggml.scores");
    CHECK(std::vector<float>(scores.begin(), scores.end()) ==
          std::vector<float>{0, 0, 0, 0, -7, -10000});
    const auto types =
        file.get<subbyte::gguf::array_view<std::int32_t>>("tokenizer.ggml.token_type");
    CHECK(std::vector<std::int32_t>(types.begin(), types.end()) ==
          std::vector<std::int32_t>{2, 3, 3, 6, 1, 5});
    CHECK(file.get<std::uint32_t>("tokenizer.ggml.bos_token_id") == 1);
    CHECK(file.get<std::uint32_t>("tokenizer.ggml.eos_token_id") == 2);
    CHECK(file.get<std::uint32_t>("tokenizer.ggml.unknown_token_id") == 0);
    CHECK(file.get<std::uint32_t>("tokenizer.ggml.padding_token_id") == 4);
    CHECK(file.get<bool>("tokenizer.ggml.add_bos_token"));
    CHECK_FALSE(file.get<bool>("tokenizer.ggml.add_eos_token"));
    CHECK(file.get<bool>("tokenizer.ggml.add_space_prefix"));
    CHECK(file.get<std::string_view>("tokenizer.chat_template") == "x");
    CHECK(file.get<std::string_view>("tokenizer.chat_template.rag") == "y");
    const auto names =
        file.get<subbyte::gguf::array_view<std::string_view>>("tokenizer.chat_templates");
    CHECK(texts(names.begin(), names.end()) == texts{"rag"});
    CHECK(file.metadata().size() == 15);
  }
  folder bpe;
  bpe.put("tokenizer.json", byte_level(split_by(qwen2_pattern), false));
  const auto file = written(bpe.read(6));
  CHECK(file.get<std::string_view>("tokenizer.ggml.model") == "gpt2");
  const auto merges =
      file.get<subbyte::gguf::array_view<std::string_view>>("tokenizer.ggml.merges");
  CHECK(texts(merges.begin(), merges.end()) == texts{"a b", "ab c"});
  CHECK(file.find("tokenizer.ggml.scores") == nullptr);
  CHECK(file.find("tokenizer.ggml.add_space_prefix") == nullptr);
  CHECK(file.find("tokenizer.ggml.bos_token_id") == nullptr);
}

}  // namespace checkpoint_tokenizer_metadata_test
