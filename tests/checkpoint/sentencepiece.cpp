// SPDX-License-Identifier: Apache-2.0
/// Tests of checkpoint/sentencepiece.hpp.
#include "subbyte/checkpoint/sentencepiece.hpp"

#include "support/catch.hpp"
#include "support/error_of.hpp"
#include "support/files.hpp"
#include "support/sentencepiece_bytes.hpp"

namespace checkpoint = subbyte::checkpoint;
using checkpoint::parse_sentencepiece;
using checkpoint::sentencepiece_model;
using checkpoint::token_kind;
using subbyte::errc;
using test_support::error_of;
using test_support::message;

namespace {

std::string small_model() {
  return message()
      .bytes(1, message().bytes(1, "<unk>").scalar(3, 2).text)
      .bytes(1, message().bytes(1, "<s>").scalar(3, 3).text)
      .bytes(1, message()
                    .bytes(1,
                           "\xE2\x96\x81"
                           "a")
                    .float32(2, -1.5F)
                    .text)
      .bytes(1, message().bytes(1, "<0x0A>").scalar(3, 6).float32(2, 0).text)
      .bytes(2, message()
                    .scalar(3, 2)
                    .scalar(40, ~std::uint64_t{0})
                    .scalar(41, 1)
                    .scalar(42, 7)
                    .scalar(43, 3)
                    .text)
      .bytes(3, message().bytes(1, "identity").scalar(3, 0).text)
      .text;
}

}  // namespace

TEST_CASE("sentencepiece: pieces, scores, kinds, ids and the space in front") {
  const sentencepiece_model m = parse_sentencepiece(small_model(), "tokenizer.model");
  CHECK(m.pieces == std::vector<std::string>{"<unk>", "<s>",
                                             "\xE2\x96\x81"
                                             "a",
                                             "<0x0A>"});
  CHECK(m.scores == std::vector<float>{0, 0, -1.5F, 0});
  CHECK(m.kinds == std::vector<token_kind>{token_kind::unknown, token_kind::control,
                                           token_kind::normal, token_kind::byte});
  CHECK(m.algorithm == checkpoint::sentencepiece_algorithm::bpe);
  CHECK(m.unknown == -1);
  CHECK(m.bos == 1);
  CHECK(m.eos == 7);
  CHECK(m.padding == 3);
  CHECK_FALSE(m.add_space_prefix);
}

TEST_CASE("sentencepiece: what is missing is what the format says it is") {
  const std::string text = message().bytes(1, message().bytes(1, "x").text).text;
  const sentencepiece_model m = parse_sentencepiece(text, "text");
  CHECK(m.algorithm == checkpoint::sentencepiece_algorithm::unigram);
  CHECK(m.kinds[0] == token_kind::normal);
  CHECK(m.unknown == 0);
  CHECK(m.bos == 1);
  CHECK(m.eos == 2);
  CHECK(m.padding == -1);
  CHECK(m.add_space_prefix);
}

TEST_CASE("sentencepiece: fields that are not known are skipped, whatever their type") {
  const std::string text = message()
                               .bytes(4, "self test data")
                               .scalar(200, 5)
                               .float32(201, 1)
                               .bytes(1, message().bytes(1, "x").bytes(9, "y").scalar(10, 1).text)
                               .text;
  CHECK(parse_sentencepiece(text, "text").pieces == std::vector<std::string>{"x"});
  const std::string eight = std::string("\x09") + "12345678" + text;  // field 1 as eight bytes
  CHECK(error_of([&] { return parse_sentencepiece(eight, "t"); }).code() == errc::bad_metadata);
}

TEST_CASE("sentencepiece: a file cut anywhere is an error, or has the pieces before the cut") {
  const std::string whole = small_model();
  const sentencepiece_model m = parse_sentencepiece(whole, "whole");
  for (std::size_t length = 0; length < whole.size(); ++length) {
    CAPTURE(length);
    try {
      const sentencepiece_model cut = parse_sentencepiece(whole.substr(0, length), "cut");
      REQUIRE(cut.size() <= m.size());
      for (std::size_t i = 0; i < cut.size(); ++i) CHECK(cut.pieces[i] == m.pieces[i]);
    } catch (const subbyte::error& e) {
      CHECK(e.subject() == "cut");
    }
  }
}

TEST_CASE("sentencepiece: any byte changed is an error or a vocabulary, and nothing else") {
  const std::string whole = small_model();
  for (std::size_t i = 0; i < whole.size(); ++i) {
    for (int value = 0; value < 256; ++value) {
      std::string changed = whole;
      changed[i] = static_cast<char>(value);
      try {
        const sentencepiece_model m = parse_sentencepiece(changed, "changed");
        REQUIRE(m.size() <= whole.size() / 5);
        REQUIRE(m.scores.size() == m.size());
        REQUIRE(m.kinds.size() == m.size());
      } catch (const subbyte::error& e) {
        REQUIRE(e.subject() == "changed");
      }
    }
  }
}

TEST_CASE("sentencepiece: lengths beyond the file and numbers without an end are refused") {
  const auto code_of = [](std::string_view text) {
    return error_of([&] { return parse_sentencepiece(text, "text"); }).code();
  };
  CHECK(code_of("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x7Fx") == errc::truncated);
  CHECK(code_of("\x0A\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01x") == errc::truncated);
  CHECK(code_of(std::string(40, '\xFF')) == errc::bad_magic);
  CHECK(code_of("\x0A") == errc::truncated);
  CHECK(code_of("\x0B") == errc::bad_magic);  // a group, which proto3 has not
  CHECK(code_of("\x0E") == errc::bad_magic);  // type 6, which nothing has
  CHECK(code_of("") == errc::bad_metadata);
  CHECK(code_of("not a protobuf message") != errc::unsupported_format);
}

TEST_CASE("sentencepiece: pieces that no vocabulary has are refused with their number") {
  const auto error_with = [](const message& piece) {
    const std::string text =
        message().bytes(1, message().bytes(1, "x").text).bytes(1, piece.text).text;
    return error_of([&] { return parse_sentencepiece(text, "text"); });
  };
  const auto names = [](const subbyte::error& e) {
    return e.code() == errc::bad_metadata &&
           std::string(e.what()).find("piece 1") != std::string::npos;
  };
  CHECK(names(error_with(message().float32(2, 1))));
  CHECK(names(error_with(message().bytes(1, "\xC3"))));
  CHECK(names(error_with(message().bytes(1, "y").scalar(3, 0))));
  CHECK(names(error_with(message().bytes(1, "y").scalar(3, 7))));
  CHECK(error_with(message().scalar(1, 5)).code() == errc::bad_metadata);
  CHECK(error_with(message().bytes(1, "y").scalar(2, 5)).code() == errc::bad_metadata);
  CHECK(error_with(message().bytes(1, "y").bytes(3, "z")).code() == errc::bad_metadata);
  const std::string wrong =
      message().bytes(1, message().bytes(1, "x").text).bytes(2, message().scalar(3, 5).text).text;
  CHECK(error_of([&] { return parse_sentencepiece(wrong, "t"); }).code() == errc::bad_metadata);
}
