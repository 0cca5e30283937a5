// SPDX-License-Identifier: Apache-2.0
/// The tokenizer of a Hugging Face checkpoint as the tokenizer.ggml.* keys of a GGUF file:
/// SentencePiece (tokenizer.model, or a tokenizer.json that says the same) and byte-level BPE
/// (tokenizer.json).
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <unordered_set>
#include <utility>  // std::pair, std::move
#include <vector>

#include "subbyte/checkpoint/directory.hpp"
#include "subbyte/checkpoint/sentencepiece.hpp"
#include "subbyte/io/json_value.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// A chat template of a name; "default" is the one that chats begin with.
template <class Arch>
struct basic_chat_template {
  std::string name, text;
};

/// The tokenizer.ggml.* keys; one token per row of the embedding.
template <class Arch>
struct basic_tokenizer_metadata {
  std::string model;                ///< "llama" (SentencePiece) or "gpt2" (byte-level BPE)
  std::string pre;                  ///< how a text is cut before merges
  std::vector<std::string> tokens;  ///< UTF-8; all different, none empty
  std::vector<float> scores;        ///< llama: a higher score merges first
  std::vector<token_kind> kinds;
  std::vector<std::string> merges;  ///< gpt2: "left right", first merged first
  std::optional<index_t> bos, eos, unknown, padding;
  bool add_bos = false, add_eos = false;
  std::optional<bool> add_space_prefix;  ///< llama
  std::vector<basic_chat_template<Arch>> chat_templates;
  std::vector<std::string> notes;  ///< for the user: what the keys cannot say

  /// Adds the keys to a GGUF file in the making (a gguf::writer or gguf::split_writer).
  template <class Writer>
  void write_metadata(Writer& out) const {
    std::vector<std::int32_t> types;
    for (const token_kind kind : kinds) types.push_back(static_cast<std::int32_t>(kind));
    out.metadata("tokenizer.ggml.model", model);
    out.metadata("tokenizer.ggml.pre", pre);
    out.metadata("tokenizer.ggml.tokens", tokens);
    if (!scores.empty()) out.metadata("tokenizer.ggml.scores", scores);
    out.metadata("tokenizer.ggml.token_type", types);
    if (!merges.empty()) out.metadata("tokenizer.ggml.merges", merges);
    const auto id = [&](const char* key, const std::optional<index_t>& token) {
      if (token) out.metadata(key, static_cast<std::uint32_t>(*token));
    };
    id("tokenizer.ggml.bos_token_id", bos);
    id("tokenizer.ggml.eos_token_id", eos);
    id("tokenizer.ggml.unknown_token_id", unknown);
    id("tokenizer.ggml.padding_token_id", padding);
    out.metadata("tokenizer.ggml.add_bos_token", add_bos);
    out.metadata("tokenizer.ggml.add_eos_token", add_eos);
    if (add_space_prefix) out.metadata("tokenizer.ggml.add_space_prefix", *add_space_prefix);
    std::vector<std::string> others;
    for (const basic_chat_template<Arch>& t : chat_templates) {
      const bool first = t.name == "default";
      out.metadata(first ? "tokenizer.chat_template" : "tokenizer.chat_template." + t.name, t.text);
      if (!first) others.push_back(t.name);
    }
    if (!others.empty()) out.metadata("tokenizer.chat_templates", others);
  }
};

using tokenizer_metadata = basic_tokenizer_metadata<arch::native>;

namespace detail {

inline constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581

/// A tokenizer.json: the two long lists apart, everything else as JSON.
template <class Arch>
struct tokenizer_json {
  std::vector<std::pair<std::string, index_t>> vocabulary;  // model.vocab
  std::vector<std::pair<std::string, std::string>> merges;  // model.merges
  basic_json_value<Arch> rest;                              // with both of them empty
};

template <class Arch>
class tokenizer_json_reader {
 public:
  explicit tokenizer_json_reader(const std::string& subject) : subject_(subject) {}

  void open(json_path<Arch> path, json_kind kind) {
    const std::size_t depth = path.size();
    if (depth > 2 && inside(path, "vocab") && !path[2].in_array) reject("model.vocab", path);
    if (depth > 2 && inside(path, "merges")) {
      if (depth != 3 || !path[2].in_array || kind != json_kind::array) {
        reject("model.merges", path);
      }
      parts_ = 0;
      out_.merges.emplace_back();
      return;
    }
    rest_.open(path, kind);
  }
  void close(json_path<Arch> path, json_kind kind) {
    if (path.size() > 2 && inside(path, "merges")) {
      if (parts_ != 2) reject("model.merges", path);
      return;
    }
    rest_.close(path, kind);
  }
  void value(json_path<Arch> path, const json_scalar& s) {
    const std::size_t depth = path.size();
    if (depth == 3 && inside(path, "vocab") && !path[2].in_array) {
      if (!s.is_count() || s.magnitude > 0x7FFFFFFF) reject("model.vocab", path);
      out_.vocabulary.emplace_back(path[2].key, static_cast<index_t>(s.magnitude));
    } else if (depth > 2 && inside(path, "merges")) {
      if (!path[2].in_array || s.kind != json_kind::string) reject("model.merges", path);
      add_merge(path, s.text);
    } else {
      rest_.value(path, s);
    }
  }

  [[nodiscard]] tokenizer_json<Arch> take() && {
    out_.rest = std::move(rest_.root);
    return std::move(out_);
  }

 private:
  [[nodiscard]] static bool inside(json_path<Arch> path, std::string_view list) {
    return !path[0].in_array && !path[1].in_array && path[0].key == "model" && path[1].key == list;
  }
  [[noreturn]] void reject(const char* list, json_path<Arch> path) const {
    throw_error(errc::bad_metadata, subject_,
                "item " + std::to_string(path[2].index) + " of " + list +
                    " is not what a BPE model has there");
  }

  // "left right", or one part of a pair.
  void add_merge(json_path<Arch> path, std::string_view text) {
    if (path.size() == 4) {
      auto& pair = out_.merges.back();
      if (parts_ < 2) (parts_ == 0 ? pair.first : pair.second) = text;
      ++parts_;
      return;
    }
    const std::size_t space = text.find(' ');
    if (space == text.npos || text.find(' ', space + 1) != text.npos) reject("model.merges", path);
    out_.merges.emplace_back(text.substr(0, space), text.substr(space + 1));
  }

  const std::string& subject_;
  json_value_reader<Arch> rest_;
  tokenizer_json<Arch> out_;
  int parts_ = 0;
};

/// A token that tokenizer_config.json, added_tokens.json or tokenizer.json adds to the vocabulary,
/// or says more about.
template <class Arch>
struct added_token {
  index_t id = 0;
  std::string text;
  bool special = false;
};

/// Some tokens are control tokens by their look whatever the file says.
///
/// Source  llama.cpp, conversion/base.py.
template <class Arch>
[[nodiscard]] bool looks_special(std::string_view text) {
  const auto framed = [&](std::string_view begin, std::string_view end) {
    return text.size() >= begin.size() + end.size() && text.substr(0, begin.size()) == begin &&
           ends_with<Arch>(text, end);
  };
  constexpr std::string_view full_width_bar = "\xEF\xBD\x9C";  // U+FF5C
  return text == "<pad>" || text == "<mask>" || text == "<2mass>" || text == "[@BOS@]" ||
         framed("<|", "|>") ||
         framed("<" + std::string(full_width_bar), std::string(full_width_bar) + ">") ||
         framed("<unused", ">");
}

/// Cuts of a text before merges, by the pattern that tokenizer.json has.
///
/// Source  tokenizer.json of Meta-Llama-3-8B, Qwen2-7B and Mistral-Nemo; llama.cpp, llama-vocab.cpp
///         (which name stands for which pattern, and for which of the ignore_merges).
struct known_cut {
  std::string_view name;
  std::string_view pattern;
  std::optional<bool> ignore_merges;  // none: either
};
inline constexpr known_cut known_cuts[] = {
    {"llama-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     true},
    {"smaug-bpe",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     false},
    {"qwen2",
     R"((?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     false},
    {"tekken",
     R"([^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+)",
     std::nullopt},
};

/// Builds the keys out of a folder's files.
template <class Arch>
class tokenizer_reader {
 public:
  using json = basic_json_value<Arch>;

  tokenizer_reader(const std::string& folder, index_t rows) : base_(folder + "/"), rows_(rows) {}

  [[nodiscard]] std::optional<basic_tokenizer_metadata<Arch>> read() {
    const std::string model = base_ + "tokenizer.model";
    const std::string described = base_ + "tokenizer.json";
    if (is_file<Arch>(described)) {
      tokenizer_json_reader<Arch> reader(described);
      const basic_mapped_file<Arch> file(described);
      read_json<Arch>(text_of(file), described, reader);
      described_ = std::move(reader).take();
    }
    settings_ = json_or_null("tokenizer_config.json");
    if (is_file<Arch>(model)) {
      subject_ = model;
      read_sentencepiece();
    } else if (described_) {
      subject_ = described;
      read_described();
    } else {
      return std::nullopt;
    }
    apply_added_tokens();
    complete();
    read_special_ids();
    read_template_of_ids();
    read_chat_templates();
    return std::move(out_);
  }

 private:
  [[noreturn]] void refuse(const std::string& why) const {
    throw_error(errc::unsupported_format, subject_, why);
  }
  [[noreturn]] void reject(const std::string& why) const {
    throw_error(errc::bad_metadata, subject_, why);
  }

  [[nodiscard]] static std::string_view text_of(const basic_mapped_file<Arch>& file) {
    return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
  }
  [[nodiscard]] json json_or_null(const char* leaf) const {
    const std::string path = base_ + leaf;
    return is_file<Arch>(path) ? read_json_file<Arch>(path) : json();
  }
  // A member of a member; null JSON where there is none.
  [[nodiscard]] static const json& at(const json& object, std::string_view key) {
    static const json null;
    const json* const found = object.find(key);
    return found == nullptr ? null : *found;
  }
  [[nodiscard]] static std::string type_of(const json& object) {
    return object.is_null() ? "none" : at(object, "type").text();
  }

  [[nodiscard]] index_t size() const { return static_cast<index_t>(out_.tokens.size()); }
  [[nodiscard]] static std::size_t index(index_t id) { return static_cast<std::size_t>(id); }

  // One entry per row of the embedding, all of them unused.
  void reserve_rows() {
    out_.tokens.resize(index(rows_));
    out_.kinds.assign(index(rows_), token_kind::unused);
    if (out_.model == "llama") out_.scores.assign(index(rows_), -10000.0F);
  }
  void require_row(index_t id, std::string_view text) const {
    if (id >= 0 && id < rows_) return;
    reject("token " + printable<Arch>(text) + " has the id " + std::to_string(id) +
           ", and the embedding has " + std::to_string(rows_) + " rows");
  }

  void read_sentencepiece() {
    const basic_mapped_file<Arch> file(subject_);
    basic_sentencepiece_model<Arch> words = parse_sentencepiece<Arch>(text_of(file), subject_);
    if (words.algorithm != sentencepiece_algorithm::bpe) {
      constexpr const char* names[] = {"unigram", "bpe", "word", "char"};
      refuse(std::string("the model's type is ") +
             names[static_cast<std::int32_t>(words.algorithm) - 1] + "; known is bpe");
    }
    out_.model = "llama";
    out_.pre = "default";
    require_row(static_cast<index_t>(words.size()) - 1, words.pieces.back());
    reserve_rows();
    for (std::size_t i = 0; i < words.size(); ++i) {
      out_.tokens[i] = std::move(words.pieces[i]);
      out_.scores[i] = words.scores[i];
      out_.kinds[i] = words.kinds[i];
    }
    const auto id = [&](std::int32_t stored) {
      return stored >= 0 && stored < size() ? std::optional<index_t>(stored) : std::nullopt;
    };
    fallback_ = {id(words.bos), id(words.eos), id(words.unknown), id(words.padding)};
    out_.add_bos = true;
    out_.add_space_prefix = words.add_space_prefix;
    const json& asked = at(settings_, "add_prefix_space");
    if (asked.kind() == json_kind::boolean) out_.add_space_prefix = asked.boolean();
  }

  void read_described() {
    const json& model = at(described_->rest, "model");
    // Files that are older than the member have BPE, and so have merges.
    const std::string type = type_of(model);
    if (type != "BPE" && !(type.empty() && !described_->merges.empty())) {
      refuse("the model is of type \"" + printable<Arch>(type) + "\"; known is BPE");
    }
    if (!at(model, "dropout").is_null()) refuse("model.dropout is set");
    for (const char* const key : {"continuing_subword_prefix", "end_of_word_suffix"}) {
      if (!at(model, key).text().empty()) refuse(std::string("model.") + key + " is set");
    }
    const bool bytes_as_pieces = at(model, "byte_fallback").boolean();
    out_.model = bytes_as_pieces ? "llama" : "gpt2";
    out_.pre = bytes_as_pieces ? "default" : find_cut();
    reserve_rows();
    for (auto& [text, id] : described_->vocabulary) {
      require_row(id, text);
      if (out_.kinds[index(id)] != token_kind::unused) reject(twice(id, text));
      out_.kinds[index(id)] = token_kind::normal;
      out_.tokens[index(id)] = text;
    }
    if (bytes_as_pieces) {
      read_pieces();
    } else {
      read_merges();
    }
  }

  [[nodiscard]] std::string twice(index_t id, std::string_view text) const {
    return "id " + std::to_string(id) + " is of both " + printable<Arch>(out_.tokens[index(id)]) +
           " and " + printable<Arch>(text);
  }

  // The pre-tokenizer's name, by its structure and pattern.
  [[nodiscard]] std::string find_cut() const {
    const json& normalizer = at(described_->rest, "normalizer");
    // The canonical composition is the one thing that llama.cpp leaves out and that changes little.
    if (!normalizer.is_null() && type_of(normalizer) != "NFC") {
      refuse("the normalizer is " + printable<Arch>(type_of(normalizer)) +
             "; known are none and NFC");
    }
    const bool ignore_merges = at(at(described_->rest, "model"), "ignore_merges").boolean();
    const json& cut = at(described_->rest, "pre_tokenizer");
    std::vector<const json*> steps;
    if (type_of(cut) == "Sequence") {
      for (const json& step : at(cut, "pretokenizers").items()) steps.push_back(&step);
    } else {
      steps.push_back(&cut);
    }
    const auto unknown = [&](const std::string& what) {
      refuse("the pre-tokenizer is not known: " + what +
             "; known are those of llama-bpe, smaug-bpe, qwen2, tekken, gpt-2 and smollm");
    };
    std::string types;
    for (const json* step : steps) types += (types.empty() ? "" : ", ") + type_of(*step);
    const json& bytes = steps.empty() ? cut : *steps.back();
    if (type_of(bytes) != "ByteLevel") unknown(printable<Arch>(types));
    if (at(bytes, "add_prefix_space").boolean()) unknown("ByteLevel with add_prefix_space");
    const json& own_pattern = at(bytes, "use_regex");  // true where it is missing
    const bool cuts = own_pattern.kind() != json_kind::boolean || own_pattern.boolean();

    if (types == "ByteLevel" && cuts) {
      if (ignore_merges) unknown("ByteLevel with model.ignore_merges");
      return "gpt-2";
    }
    if (types == "Digits, ByteLevel" && cuts && at(*steps[0], "individual_digits").boolean()) {
      if (ignore_merges) unknown("Digits, ByteLevel with model.ignore_merges");
      return "smollm";
    }
    if (types != "Split, ByteLevel" || cuts) unknown(printable<Arch>(types));
    const json& split = *steps[0];
    const std::string& pattern = at(at(split, "pattern"), "Regex").text();
    if (at(split, "behavior").text() != "Isolated" || at(split, "invert").boolean()) {
      unknown("Split with another behavior than Isolated");
    }
    bool pattern_known = false;
    for (const known_cut& known : known_cuts) {
      if (known.pattern != pattern) continue;
      pattern_known = true;
      if (!known.ignore_merges || *known.ignore_merges == ignore_merges) {
        return std::string(known.name);
      }
    }
    if (pattern_known) unknown("the pattern of qwen2 with model.ignore_merges");
    unknown("Split by " + printable<Arch>(pattern, 400));
    return {};
  }

  using ids_by_text = std::unordered_map<std::string_view, index_t>;

  [[nodiscard]] ids_by_text index_vocabulary() const {
    ids_by_text ids;
    ids.reserve(described_->vocabulary.size());
    for (const auto& [text, id] : described_->vocabulary) ids.emplace(text, id);
    return ids;
  }
  // Ids of a merge's parts and its result.
  struct merged {
    index_t left, right, result;
  };
  [[nodiscard]] merged find_merge(const ids_by_text& ids, std::size_t i, std::string& text) const {
    const auto& pair = described_->merges[i];
    const auto find = [&](std::string_view part) {
      const auto found = ids.find(part);
      if (found != ids.end()) return found->second;
      reject("merge " + std::to_string(i) + " is of " + printable<Arch>(pair.first) + " and " +
             printable<Arch>(pair.second) + ", and " + printable<Arch>(part) + " is no token");
    };
    text.assign(pair.first).append(pair.second);
    return {find(pair.first), find(pair.second), find(text)};
  }

  void read_merges() {
    const ids_by_text ids = index_vocabulary();
    if (described_->merges.empty()) reject("model.merges is missing or empty");
    std::string text;
    for (std::size_t i = 0; i < described_->merges.size(); ++i) {
      static_cast<void>(find_merge(ids, i, text));
      const auto& [left, right] = described_->merges[i];
      text.assign(left).append(right);
      if (text.find(' ') != text.npos) {
        reject("merge " + std::to_string(i) + " has a space inside, which byte-level BPE has not");
      }
      out_.merges.push_back(left + ' ' + right);
    }
  }

  // All pairs of a piece are looked up: the square of its length.
  static constexpr std::size_t max_piece_bytes = 512;

  // SentencePiece's vocabulary out of merges: scores that give the same order of merges, where
  // there are any.
  void read_pieces() {
    read_space_prefix();
    const ids_by_text ids = index_vocabulary();
    std::unordered_set<index_t> added;
    for (const json& t : at(described_->rest, "added_tokens").items()) {
      added.insert(at(t, "id").integer().value_or(-1));
    }
    std::vector<bool> made(index(rows_));
    std::vector<std::uint32_t> ways(index(rows_));  // merges that end in the token
    index_t last = -1, rank = 0;
    std::string text;
    for (index_t id = 0; id < size(); ++id) out_.scores[index(id)] = -1e6F;
    for (std::size_t i = 0; i < described_->merges.size(); ++i) {
      const index_t result = find_merge(ids, i, text).result;
      ++ways[index(result)];
      if (result == last) continue;
      if (made[index(result)]) {
        refuse("the merges that make " + printable<Arch>(text) +
               " do not stand together: no scores of SentencePiece have that order, and "
               "tokenizer.model is needed");
      }
      made[index(result)] = true;
      last = result;
      out_.scores[index(result)] = -static_cast<float>(rank++);
    }
    for (const auto& [piece, id] : described_->vocabulary) {
      if (is_byte(piece)) out_.kinds[index(id)] = token_kind::byte;
      if (is_byte(piece) || added.count(id) != 0) continue;
      if (piece.size() > max_piece_bytes) {
        reject("piece " + std::to_string(id) + " has " + std::to_string(piece.size()) +
               " bytes, at most " + std::to_string(max_piece_bytes) + " are read");
      }
      std::uint32_t pairs = 0;
      for (std::size_t cut = 1; cut < piece.size(); ++cut) {
        if ((static_cast<unsigned char>(piece[cut]) & 0xC0) == 0x80) continue;
        const std::string_view whole = piece;
        pairs += ids.count(whole.substr(0, cut)) != 0 && ids.count(whole.substr(cut)) != 0 ? 1 : 0;
      }
      if (pairs != ways[index(id)]) {
        refuse("of the pairs that make " + printable<Arch>(piece) +
               " some are no merges: SentencePiece would merge all, and tokenizer.model is needed");
      }
    }
    const std::string& unknown = at(at(described_->rest, "model"), "unk_token").text();
    if (const auto found = ids.find(unknown); found != ids.end()) {
      out_.kinds[index(found->second)] = token_kind::unknown;
      fallback_.unknown = found->second;
    }
    out_.add_bos = true;
  }

  [[nodiscard]] static bool is_byte(std::string_view piece) noexcept {
    const auto hex = [](char c) { return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'F'); };
    return piece.size() == 6 && piece.substr(0, 3) == "<0x" && hex(piece[3]) && hex(piece[4]) &&
           piece[5] == '>';
  }
  // Whether a space is put before a text, by what stands for it in tokenizer.json.
  void read_space_prefix() {
    const json& normalizer = at(described_->rest, "normalizer");
    const json& cut = at(described_->rest, "pre_tokenizer");
    std::vector<const json*> steps;
    if (type_of(normalizer) == "Sequence") {
      for (const json& step : at(normalizer, "normalizers").items()) steps.push_back(&step);
    } else if (!normalizer.is_null()) {
      steps.push_back(&normalizer);
    }
    bool prepends = false, marks = false;
    for (const json* step : steps) {
      if (type_of(*step) == "Prepend" && at(*step, "prepend").text() == space_mark && !prepends) {
        prepends = true;
      } else if (type_of(*step) == "Replace" && at(at(*step, "pattern"), "String").text() == " " &&
                 at(*step, "content").text() == space_mark) {
        marks = true;
      } else {
        refuse("the normalizer has a step " + printable<Arch>(type_of(*step)) +
               ", which SentencePiece's BPE has not");
      }
    }
    if (type_of(cut) == "Metaspace" && steps.empty()) {
      const std::string scheme = at(cut, "prepend_scheme").text();
      const json& split = at(cut, "split");
      if (at(cut, "replacement").text() != space_mark || split.kind() != json_kind::boolean ||
          split.boolean()) {
        refuse("the pre-tokenizer Metaspace splits, or marks spaces otherwise than by U+2581");
      }
      marks = true;
      prepends = scheme != "never";
      if (prepends) {
        out_.notes.push_back(
            scheme == "first"
                ? "Metaspace puts a space before a text that begins with none, and llama.cpp "
                  "before "
                  "every text and behind every special token"
                : "Metaspace puts a space before texts that begin with none, and llama.cpp before "
                  "all");
      }
    } else if (!cut.is_null()) {
      refuse("the pre-tokenizer " + printable<Arch>(type_of(cut)) +
             " is none of SentencePiece's BPE");
    }
    if (!marks) refuse("nothing replaces spaces by U+2581, as SentencePiece's BPE does");
    out_.add_space_prefix = prepends;
  }

  void apply_added_tokens() {
    std::vector<added_token<Arch>> added;
    const json by_text = json_or_null("added_tokens.json");
    for (const auto& m : by_text.members()) {
      if (const auto id = m.value.integer()) added.push_back({*id, m.key, false});
    }
    bool strips = false;
    const auto add = [&](const json& t, std::optional<index_t> id) {
      if (!id || !at(t, "content").is_string()) reject("an added token has no id or no content");
      added.push_back({*id, at(t, "content").text(), at(t, "special").boolean()});
      strips = strips || at(t, "lstrip").boolean() || at(t, "rstrip").boolean() ||
               at(t, "single_word").boolean();
    };
    for (const auto& m : at(settings_, "added_tokens_decoder").members()) {
      add(m.value, number_of(m.key));
    }
    if (described_) {
      for (const json& t : at(described_->rest, "added_tokens").items()) {
        add(t, at(t, "id").integer());
      }
    }
    if (strips) {
      out_.notes.push_back(
          "added tokens that swallow the spaces beside them (lstrip, rstrip, single_word) do not "
          "in llama.cpp");
    }
    index_t beyond = 0;
    for (const added_token<Arch>& t : added) {
      if (t.id < 0 || t.id >= rows_) {
        ++beyond;
        continue;
      }
      apply(t);
    }
    if (beyond > 0) {
      out_.notes.push_back(std::to_string(beyond) +
                           " added tokens are left out: the embedding has no row for them");
    }
  }

  [[nodiscard]] static std::optional<index_t> number_of(std::string_view digits) {
    index_t value = 0;
    if (digits.empty() || digits.size() > 9) return std::nullopt;
    for (const char c : digits) {
      if (c < '0' || c > '9') return std::nullopt;
      value = value * 10 + (c - '0');
    }
    return value;
  }

  void apply(const added_token<Arch>& t) {
    token_kind& kind = out_.kinds[index(t.id)];
    std::string text = t.text;
    const bool control = t.special || looks_special<Arch>(text);
    if (!control) replace_marks(text);
    std::string& place = out_.tokens[index(t.id)];
    if (kind != token_kind::unused && place != text && place != t.text) {
      out_.notes.push_back("token " + std::to_string(t.id) + " was " + printable<Arch>(place) +
                           " and is " + printable<Arch>(text));
    }
    const bool kept = place == text && (kind == token_kind::unknown || kind == token_kind::byte);
    place = std::move(text);
    if (kept) return;
    kind = control ? token_kind::control : token_kind::user_defined;
    if (!out_.scores.empty()) out_.scores[index(t.id)] = -1000;
  }

  static void replace_marks(std::string& text) {
    for (std::size_t at = 0; (at = text.find(space_mark, at)) != text.npos;) {
      text.replace(at, space_mark.size(), " ");
    }
  }

  // Names for the rows without a token, and the rule that llama.cpp insists on.
  void complete() {
    std::unordered_map<std::string_view, index_t> ids;
    for (index_t id = 0; id < size(); ++id) {
      std::string& text = out_.tokens[index(id)];
      if (text.empty()) text = "[PAD" + std::to_string(id) + "]";
    }
    ids.reserve(out_.tokens.size());
    for (index_t id = 0; id < size(); ++id) {
      const auto [first, is_first] = ids.emplace(out_.tokens[index(id)], id);
      if (is_first) continue;
      reject("tokens " + std::to_string(first->second) + " and " + std::to_string(id) +
             " are both " + printable<Arch>(out_.tokens[index(id)]));
    }
  }

  [[nodiscard]] std::optional<index_t> find_token(std::string_view text) const {
    for (index_t id = 0; id < size(); ++id) {
      if (out_.tokens[index(id)] == text) return id;
    }
    return std::nullopt;
  }
  // "</s>", or {"content": "</s>", ...}.
  [[nodiscard]] static const std::string& content_of(const json& token) {
    return token.is_string() ? token.text() : at(token, "content").text();
  }

  void read_special_ids() {
    const json config = json_or_null("config.json");
    const json generation = json_or_null("generation_config.json");
    const auto find = [&](const std::string& name, std::optional<index_t> otherwise) {
      const std::string& text = content_of(at(settings_, name + "_token"));
      if (!text.empty()) {
        if (const auto id = find_token(text)) return std::optional<index_t>(id);
      }
      for (const json* const file : {&config, &generation}) {
        const json& stored = at(*file, name + "_token_id");
        const json& one = stored.items().empty() ? stored : stored.items()[0];
        const std::optional<index_t> id = one.integer();
        if (id && *id >= 0 && *id < size()) return id;
      }
      return otherwise;
    };
    out_.bos = find("bos", fallback_.bos);
    out_.eos = find("eos", fallback_.eos);
    out_.unknown = find("unk", fallback_.unknown);
    out_.padding = find("pad", fallback_.padding);
  }

  // Whether bos and eos are put around a text: by the post-processor, or else
  // tokenizer_config.json.
  void read_template_of_ids() {
    std::optional<bool> bos, eos;
    if (described_) {
      const json& last = at(described_->rest, "post_processor");
      if (type_of(last) == "Sequence") {
        for (const json& step : at(last, "processors").items()) read_processor(step, bos, eos);
      } else if (!last.is_null()) {
        read_processor(last, bos, eos);
      }
    }
    const auto decide = [&](const std::optional<bool>& by_template, const char* key, bool& flag) {
      const json& asked = at(settings_, key);
      if (by_template) {
        flag = *by_template;
      } else if (asked.kind() == json_kind::boolean) {
        flag = asked.boolean();
      }
    };
    decide(bos, "add_bos_token", out_.add_bos);
    decide(eos, "add_eos_token", out_.add_eos);
  }

  void read_processor(const json& step, std::optional<bool>& bos, std::optional<bool>& eos) {
    const std::string type = type_of(step);
    if (type == "ByteLevel") {
      if (!bos) bos = false;
      if (!eos) eos = false;
      return;
    }
    if (type != "TemplateProcessing") {
      refuse("the post-processor is " + printable<Arch>(type) +
             "; known are ByteLevel and TemplateProcessing");
    }
    const auto& items = at(step, "single").items();
    if (items.size() < 2) return;  // the text alone: tokenizer_config.json decides
    std::size_t text = items.size();
    for (std::size_t i = 0; i < items.size(); ++i) {
      if (items[i].find("Sequence") != nullptr) text = i;
    }
    if (text > 1 || items.size() - text > 2) {
      refuse("the post-processor adds more than bos and eos");
    }
    const auto require = [&](const json& item, std::optional<index_t>& id, const char* name) {
      const std::string& added = at(at(item, "SpecialToken"), "id").text();
      if (!id) id = find_token(added);
      if (!id || out_.tokens[index(*id)] != added) {
        refuse("the post-processor adds " + printable<Arch>(added) + ", which is not " + name);
      }
    };
    bos = text == 1;
    eos = items.size() - text == 2;
    if (*bos) require(items.front(), out_.bos, "bos");
    if (*eos) require(items.back(), out_.eos, "eos");
  }

  void read_chat_templates() {
    const json* stored = &at(settings_, "chat_template");
    json alternative;
    const std::string jinja = base_ + "chat_template.jinja";
    if (stored->is_null() && is_file<Arch>(jinja)) {
      const basic_mapped_file<Arch> file(jinja);
      alternative = json(std::string(text_of(file)));
      stored = &alternative;
    } else if (stored->is_null()) {
      alternative = at(json_or_null("chat_template.json"), "chat_template");
      stored = &alternative;
    }
    if (stored->is_string()) {
      out_.chat_templates.push_back({"default", stored->text()});
      return;
    }
    for (const json& t : stored->items()) {
      std::string name = at(t, "name").text();
      // As llama.cpp wants names to be: they become part of a key.
      for (char& c : name) {
        const bool plain =
            (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_';
        if (!plain) c = '_';
      }
      if (!name.empty()) out_.chat_templates.push_back({std::move(name), at(t, "template").text()});
    }
  }

  struct ids_of_model {
    std::optional<index_t> bos, eos, unknown, padding;
  };

  std::string base_;
  std::string subject_;
  index_t rows_;
  json settings_;  // tokenizer_config.json
  std::optional<tokenizer_json<Arch>> described_;
  ids_of_model fallback_;
  basic_tokenizer_metadata<Arch> out_;
};

}  // namespace detail

/// The tokenizer of the checkpoint in `folder`, for an embedding of so many rows; nothing if the
/// folder has neither tokenizer.model nor tokenizer.json. The first counts if there are both;
/// beside it tokenizer_config.json, added_tokens.json, config.json, generation_config.json and chat
/// templates are read, where they are.
///
/// A tokenizer.json of SentencePiece's kind (byte_fallback) gets scores from the order of its
/// merges, if there are scores that give the same order.
///
/// Requires  rows >= 0, and no more than the file of the embedding backs: as many tokens are made.
/// Cost      memory: 64 bytes per row, and at worst some 200 times the size of the JSON files (of a
///           tokenizer.json with 128,000 tokens and 280,000 merges: 4 times).
/// Throws    unsupported_format, by name, for every model, normalizer, pre-tokenizer and
///           post-processor that is not known; bad_metadata for what contradicts itself, tokens
///           beyond the embedding, two tokens of one text, and what is no JSON or no SentencePiece
///           model.
/// Source    llama.cpp, conversion/base.py and gguf-py, vocab.py (which file decides what);
///           tokenizers (tokenizer.json).
template <class Arch = arch::native>
[[nodiscard]] std::optional<basic_tokenizer_metadata<Arch>> read_tokenizer(
    const std::string& folder, index_t rows) {
  SUBBYTE_EXPECTS(rows >= 0);
  return detail::tokenizer_reader<Arch>(folder, rows).read();
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
