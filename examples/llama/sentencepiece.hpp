// SPDX-License-Identifier: Apache-2.0
/// The vocabulary in a SentencePiece tokenizer.model file (a protobuf message), read and written.
#pragma once

#include <cstring>
#include <string>
#include <string_view>

#include "llama/tokenizer.hpp"
#include "subbyte/core/error.hpp"

namespace llama {

/// The fields of one protobuf message, in file order; throws subbyte::error where a field does not
/// fit the message.
///
/// Source  protobuf wire format: key = number << 3 | type; types 0 varint, 1 eight bytes, 2 length
///         and bytes, 5 four bytes.
class protobuf_reader {
 public:
  protobuf_reader(std::string_view message, std::string subject)
      : rest_(message), subject_(std::move(subject)) {}

  /// Steps to the next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    number_ = static_cast<int>(key >> 3 & 0x1FFFFFFF);
    switch (key & 7) {
      case 0:
        scalar_ = varint();
        bytes_ = {};
        return true;
      case 1:
        bytes_ = take(8);
        return true;
      case 2:
        bytes_ = take(varint());
        return true;
      case 5:
        bytes_ = take(4);
        return true;
      default:
        subbyte::throw_error(subbyte::errc::bad_magic, subject_, "not a SentencePiece model");
    }
  }

  [[nodiscard]] int number() const noexcept { return number_; }
  [[nodiscard]] std::string_view bytes() const noexcept { return bytes_; }
  [[nodiscard]] std::uint64_t scalar() const noexcept { return scalar_; }
  [[nodiscard]] float float32() const {
    if (bytes_.size() != sizeof(float)) {
      subbyte::throw_error(subbyte::errc::bad_metadata, subject_,
                           "a score has " + std::to_string(bytes_.size()) + " bytes, not 4");
    }
    float value = 0;
    std::memcpy(&value, bytes_.data(), sizeof(value));
    return value;
  }

 private:
  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    subbyte::throw_error(subbyte::errc::bad_magic, subject_, "not a SentencePiece model");
  }

  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) {
      subbyte::throw_error(subbyte::errc::truncated, subject_,
                           "a field of " + std::to_string(count) + " bytes, " +
                               std::to_string(rest_.size()) + " are left");
    }
    const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(count));
    rest_.remove_prefix(static_cast<std::size_t>(count));
    return taken;
  }

  std::string_view rest_;
  std::string subject_;
  int number_ = 0;
  std::uint64_t scalar_ = 0;
  std::string_view bytes_;
};

/// The vocabulary in the bytes of a tokenizer.model; `subject` is named in errors.
///
/// Source  sentencepiece_model.proto: ModelProto 1 pieces, 2 trainer, 3 normalizer; SentencePiece 1
///         piece, 2 score, 3 type; trainer 40-42 ids of unk, bos, eos; normalizer 3
///         add_dummy_prefix.
inline vocabulary parse_sentencepiece(std::string_view bytes, const std::string& subject) {
  vocabulary words;
  protobuf_reader model(bytes, subject);
  while (model.next()) {
    protobuf_reader part(model.bytes(), subject);
    if (model.number() == 1) {
      std::string piece;
      float score = 0;
      auto kind = piece_kind::normal;
      while (part.next()) {
        if (part.number() == 1) piece = part.bytes();
        if (part.number() == 2) score = part.float32();
        if (part.number() == 3) kind = static_cast<piece_kind>(part.scalar());
      }
      words.pieces.push_back(std::move(piece));
      words.scores.push_back(score);
      words.kinds.push_back(kind);
    } else if (model.number() == 2) {
      while (part.next()) {
        if (part.number() == 40) words.unknown = static_cast<token>(part.scalar());
        if (part.number() == 41) words.bos = static_cast<token>(part.scalar());
        if (part.number() == 42) words.eos = static_cast<token>(part.scalar());
      }
    } else if (model.number() == 3) {
      while (part.next()) {
        if (part.number() == 3) words.add_space_prefix = part.scalar() != 0;
      }
    }
  }
  if (words.pieces.empty()) {
    subbyte::throw_error(subbyte::errc::bad_metadata, subject, "holds no vocabulary");
  }
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
/// Source  sentencepiece_model.proto, as parse_sentencepiece; trainer 3 model_type (BPE = 2), 4
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
