// SPDX-License-Identifier: Apache-2.0
/// The vocabulary in a SentencePiece tokenizer.model file (a protobuf message).
#pragma once

#include <bit>  // std::bit_cast
#include <cstdint>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/core/arch.hpp"
#include "subbyte/core/bits.hpp"
#include "subbyte/core/error.hpp"
#include "subbyte/io/diagnostics.hpp"
#include "subbyte/io/json_text.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// What a token is.
///
/// Source  sentencepiece_model.proto; the same numbers in tokenizer.ggml.token_type.
enum class token_kind : std::int32_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

/// How a SentencePiece model cuts a text.
///
/// Source  sentencepiece_model.proto, TrainerSpec.ModelType.
enum class sentencepiece_algorithm : std::int32_t { unigram = 1, bpe = 2, word = 3, character = 4 };

/// A SentencePiece model: one piece, score and kind per token.
template <class Arch>
struct basic_sentencepiece_model {
  std::vector<std::string> pieces;  ///< UTF-8; U+2581 stands for a space
  std::vector<float> scores;        ///< a higher score merges first
  std::vector<token_kind> kinds;
  sentencepiece_algorithm algorithm = sentencepiece_algorithm::unigram;
  std::int32_t unknown = 0, bos = 1, eos = 2, padding = -1;  ///< ids, negative: none
  bool add_space_prefix = true;  ///< a text is read as if a space stood before it

  [[nodiscard]] std::size_t size() const noexcept { return pieces.size(); }
};

using sentencepiece_model = basic_sentencepiece_model<arch::native>;

namespace detail {

/// The fields of one protobuf message, in file order; throws where a field does not fit the
/// message.
///
/// Source  protobuf wire format: key = number << 3 | type; types 0 varint, 1 eight bytes, 2 length
///         and bytes, 5 four bytes.
template <class Arch>
class protobuf_reader {
 public:
  protobuf_reader(std::string_view message, const std::string& subject)
      : rest_(message), subject_(subject) {}

  /// Steps to the next field; false at the end.
  bool next() {
    if (rest_.empty()) return false;
    const std::uint64_t key = varint();
    number_ = static_cast<std::uint32_t>(key >> 3 & 0x1FFFFFFF);
    bytes_ = {};
    scalar_ = 0;
    type_ = static_cast<unsigned>(key & 7);
    switch (type_) {
      case 0:
        scalar_ = varint();
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
        throw_error(errc::bad_magic, subject_, "not a SentencePiece model");
    }
  }

  [[nodiscard]] std::uint32_t number() const noexcept { return number_; }
  /// The bytes of a string or an inner message.
  [[nodiscard]] std::string_view bytes() const {
    require(2, "bytes");
    return bytes_;
  }
  [[nodiscard]] std::uint64_t scalar() const {
    require(0, "a number");
    return scalar_;
  }
  [[nodiscard]] float float32() const {
    require(5, "a float");
    const auto* const stored = reinterpret_cast<const std::uint8_t*>(bytes_.data());
    return std::bit_cast<float>(load_le<std::uint32_t>(stored));
  }

 private:
  void require(unsigned type, const char* what) const {
    if (type_ == type) return;
    throw_error(errc::bad_metadata, subject_,
                "field " + std::to_string(number_) + " is not " + what +
                    ", as it is in a SentencePiece model");
  }

  std::uint64_t varint() {
    std::uint64_t value = 0;
    for (unsigned shift = 0; shift < 64; shift += 7) {
      const auto byte = static_cast<unsigned char>(take(1)[0]);
      value |= static_cast<std::uint64_t>(byte & 0x7F) << shift;
      if (byte < 0x80) return value;
    }
    throw_error(errc::bad_magic, subject_, "not a SentencePiece model");
  }

  std::string_view take(std::uint64_t count) {
    if (count > rest_.size()) {
      throw_error(errc::truncated, subject_,
                  "a field of " + std::to_string(count) + " bytes, " +
                      std::to_string(rest_.size()) + " are left");
    }
    const std::string_view taken = rest_.substr(0, static_cast<std::size_t>(count));
    rest_.remove_prefix(static_cast<std::size_t>(count));
    return taken;
  }

  std::string_view rest_;
  const std::string& subject_;
  std::uint32_t number_ = 0;
  unsigned type_ = 0;
  std::uint64_t scalar_ = 0;
  std::string_view bytes_;
};

}  // namespace detail

/// Reads the bytes of a tokenizer.model; `subject` names it in errors.
///
/// Cost    memory: at most 16 bytes per byte of the file.
/// Throws  truncated, bad_magic for bytes that are no such message; bad_metadata for fields of
///         another type, pieces that are empty or not UTF-8, kinds that there are not, and a model
///         without pieces.
/// Source  sentencepiece_model.proto: ModelProto 1 pieces, 2 trainer, 3 normalizer; SentencePiece 1
///         piece, 2 score, 3 type; trainer 3 model_type, 40-43 ids of unk, bos, eos, pad;
///         normalizer 3 add_dummy_prefix.
template <class Arch = arch::native>
[[nodiscard]] basic_sentencepiece_model<Arch> parse_sentencepiece(std::string_view bytes,
                                                                  const std::string& subject) {
  basic_sentencepiece_model<Arch> model;
  const auto id = [](const auto& field) { return static_cast<std::int32_t>(field.scalar()); };
  detail::protobuf_reader<Arch> outer(bytes, subject);
  while (outer.next()) {
    if (outer.number() < 1 || outer.number() > 3) continue;
    detail::protobuf_reader<Arch> part(outer.bytes(), subject);
    if (outer.number() == 1) {
      std::string piece;
      float score = 0;
      std::uint64_t kind = 1;
      while (part.next()) {
        if (part.number() == 1) piece = part.bytes();
        if (part.number() == 2) score = part.float32();
        if (part.number() == 3) kind = part.scalar();
      }
      const std::string named = "piece " + std::to_string(model.size());
      if (piece.empty() || !is_utf8<Arch>(piece)) {
        throw_error(errc::bad_metadata, subject,
                    named + " is " + (piece.empty() ? "empty" : "not UTF-8"));
      }
      if (kind < 1 || kind > 6) {
        throw_error(errc::bad_metadata, subject,
                    named + " is of type " + std::to_string(kind) + ", required is 1 to 6");
      }
      model.pieces.push_back(std::move(piece));
      model.scores.push_back(score);
      model.kinds.push_back(static_cast<token_kind>(kind));
    } else if (outer.number() == 2) {
      while (part.next()) {
        if (part.number() == 3) {
          const std::uint64_t algorithm = part.scalar();
          if (algorithm < 1 || algorithm > 4) {
            throw_error(errc::bad_metadata, subject,
                        "model_type is " + std::to_string(algorithm) + ", required is 1 to 4");
          }
          model.algorithm = static_cast<sentencepiece_algorithm>(algorithm);
        }
        if (part.number() == 40) model.unknown = id(part);
        if (part.number() == 41) model.bos = id(part);
        if (part.number() == 42) model.eos = id(part);
        if (part.number() == 43) model.padding = id(part);
      }
    } else {
      while (part.next()) {
        if (part.number() == 3) model.add_space_prefix = part.scalar() != 0;
      }
    }
  }
  if (model.pieces.empty()) {
    throw_error(errc::bad_metadata, subject, "holds no vocabulary");
  }
  return model;
}

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
