// SPDX-License-Identifier: Apache-2.0
/// The vocabulary in a SentencePiece tokenizer.model file (a protobuf message), read and written.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "llama/tokenizer.hpp"
#include "subbyte/checkpoint/sentencepiece.hpp"

namespace llama {

/// The vocabulary in the bytes of a tokenizer.model; `subject` is named in errors.
///
/// Throws  what checkpoint::parse_sentencepiece throws.
inline vocabulary parse_sentencepiece(std::string_view bytes, const std::string& subject) {
  subbyte::checkpoint::sentencepiece_model model =
      subbyte::checkpoint::parse_sentencepiece(bytes, subject);
  vocabulary words;
  words.pieces = std::move(model.pieces);
  words.scores = std::move(model.scores);
  words.kinds = std::move(model.kinds);
  words.unknown = model.unknown;
  words.bos = model.bos;
  words.eos = model.eos;
  words.add_space_prefix = model.add_space_prefix;
  return words;
}

/// One protobuf message in the making.
class protobuf_writer {
 public:
  void scalar(int number, std::uint64_t value) {
    key(number, 0);
    varint(value);
  }
  void bytes(int number, std::string_view value) {
    key(number, 2);
    varint(value.size());
    text_ += value;
  }
  void float32(int number, float value) {
    key(number, 5);
    text_.append(reinterpret_cast<const char*>(&value), sizeof(value));
  }
  [[nodiscard]] const std::string& text() const noexcept { return text_; }

 private:
  void key(int number, unsigned type) { varint(static_cast<std::uint64_t>(number) << 3 | type); }
  void varint(std::uint64_t value) {
    for (; value >= 0x80; value >>= 7) text_ += static_cast<char>(value | 0x80);
    text_ += static_cast<char>(value);
  }

  std::string text_;
};

/// A tokenizer.model with this vocabulary, that merges by score and does not normalize.
///
/// Source  sentencepiece_model.proto, as checkpoint::parse_sentencepiece; trainer 3 model_type (BPE
/// = 2), 4
///         vocab_size, 35 byte_fallback, 43 pad_id; normalizer 1 name, 4 remove_extra_whitespaces.
inline std::string write_sentencepiece(const vocabulary& words) {
  const auto as_int32 = [](token id) { return static_cast<std::uint64_t>(std::int64_t{id}); };
  protobuf_writer model;
  bool falls_back = false;
  for (std::size_t i = 0; i < words.size(); ++i) {
    protobuf_writer piece;
    piece.bytes(1, words.pieces[i]);
    piece.float32(2, words.scores[i]);
    if (words.kinds[i] != piece_kind::normal) {
      piece.scalar(3, static_cast<std::uint64_t>(words.kinds[i]));
    }
    model.bytes(1, piece.text());
    falls_back = falls_back || words.kinds[i] == piece_kind::byte;
  }
  protobuf_writer trainer;
  trainer.scalar(3, 2);
  trainer.scalar(4, words.size());
  trainer.scalar(35, falls_back ? 1 : 0);
  trainer.scalar(40, as_int32(words.unknown));
  trainer.scalar(41, as_int32(words.bos));
  trainer.scalar(42, as_int32(words.eos));
  trainer.scalar(43, as_int32(-1));
  model.bytes(2, trainer.text());
  protobuf_writer normalizer;
  normalizer.bytes(1, "identity");
  normalizer.scalar(3, words.add_space_prefix ? 1 : 0);
  normalizer.scalar(4, 0);
  model.bytes(3, normalizer.text());
  return model.text();
}

}  // namespace llama
