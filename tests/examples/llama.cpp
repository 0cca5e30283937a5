// SPDX-License-Identifier: Apache-2.0
/// Tests of examples/llama: the tokenizer against the reference token streams, the runner against
/// reference logits and perplexities.
#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <string>

#include "llama/perplexity.hpp"
#include "llama/sentencepiece.hpp"
#include "subbyte/exec/thread_pool.hpp"
#include "support/catch.hpp"

namespace {

using llama::token;
using subbyte::index_t;

std::string data(const char* leaf) { return std::string(SUBBYTE_EXAMPLE_DATA_DIR) + "/" + leaf; }

std::string read_text(const char* leaf) {
  const subbyte::mapped_file file(data(leaf));
  return {reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size()};
}

const llama::model& f16_model() {
  static const llama::model model(data("model-f16.gguf"));
  return model;
}

const llama::tokenizer& bundled_tokenizer() {
  static const llama::tokenizer words(f16_model().source().read_vocabulary());
  return words;
}

llama::windows stream(const char* leaf, index_t limit) {
  return llama::windows(llama::read_token_file(data(leaf)), 1, 255, limit);
}

double perplexity(const char* leaf, index_t limit) {
  subbyte::thread_pool pool(2);
  const llama::model* const models[] = {&f16_model()};
  return llama::score_stream(models, false, stream(leaf, limit), pool, [](index_t, index_t) {})[0]
      .likelihood.perplexity();
}

// A vocabulary of normal pieces with the given scores, after the three special ones.
llama::vocabulary make_vocabulary(std::initializer_list<std::pair<const char*, float>> pieces) {
  llama::vocabulary words;
  words.pieces = {"<unk>", "<s>", "</s>"};
  words.scores = {0, 0, 0};
  words.kinds = {llama::piece_kind::unknown, llama::piece_kind::control,
                 llama::piece_kind::control};
  for (const auto& [piece, score] : pieces) {
    words.pieces.emplace_back(piece);
    words.scores.push_back(score);
    words.kinds.push_back(llama::piece_kind::normal);
  }
  words.add_space_prefix = false;
  return words;
}

}  // namespace

TEST_CASE("tokenizer: both books come back as the reference token streams, token for token") {
  for (const char* book : {"alice", "time_machine"}) {
    CAPTURE(book);
    std::vector<token> made =
        bundled_tokenizer().encode_lines(read_text((std::string(book) + ".txt").c_str()));
    made.insert(made.begin(), bundled_tokenizer().words().bos);
    const std::vector<token> reference =
        llama::read_token_file(data((std::string(book) + ".tokens.u16").c_str()));
    CHECK(made.size() == reference.size());
    CHECK(made == reference);
  }
}

TEST_CASE("tokenizer: decoding gives the text back, whatever its bytes") {
  const llama::tokenizer& words = bundled_tokenizer();
  for (const std::string text :
       {"Alice was beginning to get very tired", " two  spaces ", "tab\tand\nnewline\r\n",
        "\xC3\xA9t\xC3\xA9, \xE6\x97\xA5\xE6\x9C\xAC, \xF0\x9F\x90\x87", "\xFF\xC3\xE6\x97 cut",
        "<s> <0x41> </s>", "x"}) {
    CAPTURE(text);
    CHECK(words.decode(words.encode(text)) == text);
  }
  CHECK(words.encode("").empty());
  CHECK(words.decode({}).empty());
}

TEST_CASE("tokenizer: a character outside the vocabulary becomes its bytes") {
  const llama::tokenizer& words = bundled_tokenizer();
  const std::vector<token> tokens = words.encode("\xE6\x97\xA5");
  REQUIRE(tokens.size() == 4);  // the space in front, and three bytes
  CHECK(words.words().pieces[static_cast<std::size_t>(tokens[1])] == "<0xE6>");
  CHECK(words.words().pieces[static_cast<std::size_t>(tokens[2])] == "<0x97>");
  CHECK(words.words().pieces[static_cast<std::size_t>(tokens[3])] == "<0xA5>");
}

TEST_CASE("tokenizer: text that looks like a special token is plain text") {
  const std::vector<token> tokens = bundled_tokenizer().encode("<s>");
  CHECK(std::find(tokens.begin(), tokens.end(), bundled_tokenizer().words().bos) == tokens.end());
}

TEST_CASE("tokenizer: the best score merges first, and the leftmost of equals") {
  // Ids: a 3, b 4, ab 5, ba 6.
  const llama::tokenizer left(make_vocabulary({{"a", -9}, {"b", -9}, {"ab", -1}, {"ba", -2}}));
  CHECK(left.encode("bab") == std::vector<token>{4, 5});
  const llama::tokenizer right(make_vocabulary({{"a", -9}, {"b", -9}, {"ab", -2}, {"ba", -1}}));
  CHECK(right.encode("bab") == std::vector<token>{6, 4});
  const llama::tokenizer equal(make_vocabulary({{"a", -9}, {"b", -9}, {"aa", -1}}));
  CHECK(equal.encode("aaa") == std::vector<token>{5, 3});
  // A merge makes further merges possible: "aab" is never a pair of characters.
  const llama::tokenizer chain(
      make_vocabulary({{"a", -9}, {"b", -9}, {"aa", -2}, {"aab", -1}, {"ab", -3}}));
  CHECK(chain.encode("aab") == std::vector<token>{6});
}

TEST_CASE("tokenizer: without byte pieces a foreign character is unknown") {
  const llama::tokenizer words(make_vocabulary({{"a", 0}}));
  CHECK(words.encode("a?") == std::vector<token>{3, 0});
}

TEST_CASE("sentencepiece: tokenizer.model holds the vocabulary of the GGUF file") {
  const llama::vocabulary words =
      llama::parse_sentencepiece(read_text("tokenizer.model"), "tokenizer.model");
  const llama::vocabulary& gguf = bundled_tokenizer().words();
  CHECK(words.pieces == gguf.pieces);
  CHECK(words.scores == gguf.scores);
  CHECK(words.kinds == gguf.kinds);
  CHECK(words.bos == gguf.bos);
  CHECK(words.eos == gguf.eos);
  CHECK(words.unknown == gguf.unknown);
  CHECK(words.add_space_prefix == gguf.add_space_prefix);
}

TEST_CASE("sentencepiece: a cut file gives an error or the pieces before the cut") {
  const std::string whole = read_text("tokenizer.model");
  for (std::size_t length = 0; length < 400; ++length) {
    CAPTURE(length);
    try {
      // The shortest piece takes ten bytes.
      const std::size_t pieces = llama::parse_sentencepiece(whole.substr(0, length), "cut").size();
      CHECK(pieces <= length / 10);
    } catch (const subbyte::error& problem) {
      CHECK(problem.subject() == "cut");
    }
  }
  CHECK_THROWS_AS(llama::parse_sentencepiece("not a protobuf message", "text"), subbyte::error);
}

TEST_CASE("windows: bos in front, consecutive, without the short tail") {
  std::vector<token> tokens{1};
  for (token i = 10; i < 21; ++i) tokens.push_back(i);
  const llama::windows text(tokens, 1, 4, 0);
  REQUIRE(text.count() == 2);
  CHECK(text.inputs(0) == std::vector<token>{1, 10, 11, 12});
  CHECK(text.inputs(1) == std::vector<token>{1, 14, 15, 16});
  CHECK(text.targets(1).back() == 17);
  CHECK(llama::windows(tokens, 1, 4, 1).count() == 1);
  CHECK_THROWS_AS(llama::windows(tokens, 1, 12, 0), subbyte::error);
  CHECK(stream("alice.tokens.u16", 0).count() * 255 == 41565);
  CHECK(stream("time_machine.tokens.u16", 0).count() * 255 == 49215);
}

TEST_CASE("runner: the logits are the reference logits to 1e-3 of their spread") {
  const std::string bytes = read_text("reference_logits.f32");
  constexpr index_t positions[] = {0, 1, 2, 3, 31, 63, 127, 254};
  constexpr index_t vocabulary = 4096;
  REQUIRE(bytes.size() == std::size(positions) * vocabulary * sizeof(float));
  std::vector<float> reference(bytes.size() / sizeof(float));
  std::memcpy(reference.data(), bytes.data(), bytes.size());
  subbyte::moments spread;
  for (const float logit : reference) spread.add(static_cast<double>(logit));

  llama::session run(f16_model(), 255, 255, subbyte::serial);
  const auto logits = run.append(stream("alice.tokens.u16", 1).inputs(0));
  double largest = 0;
  for (std::size_t p = 0; p < std::size(positions); ++p) {
    for (index_t v = 0; v < vocabulary; ++v) {
      const double wanted =
          static_cast<double>(reference[p * vocabulary + static_cast<std::size_t>(v)]);
      largest = std::max(largest, std::fabs(static_cast<double>(logits(positions[p], v)) - wanted));
    }
  }
  CHECK(largest <= 1e-3 * std::sqrt(spread.variance()));
}

TEST_CASE("runner: the same logits one token at a time, in parts, and with more threads") {
  const std::vector<token> tokens = stream("alice.tokens.u16", 1).inputs(0);
  const std::span<const token> text(tokens.data(), 40);
  llama::session whole(f16_model(), 40, 40, subbyte::serial);
  const auto expected = whole.append(text);
  // Every logit is a chain of float dot products of at most 768 terms through 4 layers; gemm and
  // gemv add in different orders. 1e-4 is 600 times below what the reference test allows.
  const auto differ = [&](subbyte::vector_view<const float> a,
                          subbyte::vector_view<const float> b) {
    float largest = 0;
    for (index_t i = 0; i < a.size(); ++i) largest = std::max(largest, std::fabs(a[i] - b[i]));
    return largest;
  };

  llama::session single(f16_model(), 40, 1, subbyte::serial);
  for (index_t i = 0; i < 40; ++i) {
    const auto logits = single.append({&tokens[static_cast<std::size_t>(i)], 1});
    CAPTURE(i);
    CHECK(differ(logits[0], expected[i]) <= 1e-4F);
  }
  llama::session parts(f16_model(), 40, 25, subbyte::serial);
  parts.append(text.first(15));
  const auto rest = parts.append(text.subspan(15));
  CHECK(differ(rest[24], expected[39]) <= 1e-4F);

  subbyte::thread_pool pool(3);
  llama::session threaded(f16_model(), 40, 40, pool);
  const auto same = threaded.append(text);
  for (index_t i = 0; i < 40; ++i) CHECK(differ(same[i], expected[i]) == 0.0F);
  threaded.clear();
  const auto last = threaded.append(text, llama::logits_of::last_token);
  REQUIRE(last.extent(0) == 1);
  CHECK(differ(last[0], expected[39]) <= 1e-4F);
}

TEST_CASE("runner: tokens that do not fit are errors") {
  llama::session run(f16_model(), 4, 3, subbyte::serial);
  const token good[] = {1, 2, 3, 4};
  CHECK_THROWS_AS(run.append(good), subbyte::error);
  CHECK_THROWS_AS(run.append({}), subbyte::error);
  run.append({good, 3});
  CHECK(run.length() == 3);
  CHECK_THROWS_AS(run.append({good, 2}), subbyte::error);
  for (const token bad : {-1, 4096}) {
    CHECK_THROWS_AS(run.append({&bad, 1}), subbyte::error);
  }
  CHECK(run.length() == 3);
}

TEST_CASE("runner: a model agrees with itself") {
  subbyte::thread_pool pool(2);
  const llama::model* const models[] = {&f16_model(), &f16_model()};
  const llama::windows text(llama::read_token_file(data("alice.tokens.u16")), 1, 60, 1);
  const auto scores = llama::score_stream(models, true, text, pool, [](index_t, index_t) {});
  const subbyte::divergence_report same = scores[1].divergence.report();
  CHECK(same.tokens == 60);
  CHECK(same.kl == 0.0);
  CHECK(same.same_top == 1.0);
  CHECK(same.perplexity_ratio == 1.0);
}

TEST_CASE("runner: an exception of the progress callback reaches the caller once") {
  subbyte::thread_pool pool(2);
  const llama::model* const models[] = {&f16_model()};
  const llama::windows text(llama::read_token_file(data("alice.tokens.u16")), 1, 7, 3);
  const auto score = [&](const auto& on_window) {
    return llama::score_stream(models, false, text, pool, on_window)[0].likelihood.perplexity();
  };
  const auto silent = [](index_t, index_t) {};
  const double expected = score(silent);
  for (index_t failing = 1; failing <= 3; ++failing) {
    index_t calls = 0;
    int caught = 0;
    try {
      (void)score([&](index_t done, index_t total) {
        ++calls;
        CHECK((done == calls && total == 3));
        if (done == failing) throw std::runtime_error("stop");
      });
    } catch (const std::runtime_error&) {
      ++caught;
    }
    CHECK(caught == 1);
    CHECK(calls == failing);
    // The pool and the model are as before.
    CHECK(score(silent) == expected);
  }
}

TEST_CASE("runner: perplexity of the first windows") {
  // This runner's own figure for three windows; the slow test ties the whole stream to
  // transformers'.
  CHECK(std::fabs(perplexity("alice.tokens.u16", 3) / 36.5693 - 1) < 1e-5);
}

TEST_CASE("runner: perplexity of both books is the reference figure to 0.05 %", "[slow]") {
  CHECK(std::fabs(perplexity("alice.tokens.u16", 0) / 36.1344 - 1) < 5e-4);
  CHECK(std::fabs(perplexity("time_machine.tokens.u16", 0) / 43.3221 - 1) < 5e-4);
}
