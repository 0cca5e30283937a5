// SPDX-License-Identifier: Apache-2.0
/// SentencePiece byte-pair tokenizer: text to token ids and back.
#pragma once

#include <algorithm>
#include <cstdint>
#include <queue>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "subbyte/checkpoint/sentencepiece.hpp"

namespace llama {

using token = std::int32_t;

using piece_kind = subbyte::checkpoint::token_kind;

/// A vocabulary as both SentencePiece and GGUF store it: one entry per token id.
struct vocabulary {
  std::vector<std::string> pieces;  // UTF-8; U+2581 stands for a space
  std::vector<float> scores;        // a higher score merges first
  std::vector<piece_kind> kinds;
  token bos = 1;
  token eos = 2;
  token unknown = 0;
  bool add_bos = true;           // a text begins with bos
  bool add_space_prefix = true;  // a text is read as if a space stood before it

  [[nodiscard]] std::size_t size() const noexcept { return pieces.size(); }
};

/// Encodes by score-driven merges with byte fallback, without any normalisation.
///
/// A text becomes its UTF-8 characters; the adjacent pair whose union is the piece of highest score
/// is joined, the leftmost of equals first, until no pair is a piece. A character that is no piece
/// becomes its bytes' tokens.
class tokenizer {
 public:
  explicit tokenizer(vocabulary words) : words_(std::move(words)) {
    std::fill(std::begin(byte_token_), std::end(byte_token_), words_.unknown);
    for (std::size_t i = 0; i < words_.size(); ++i) {
      const std::string& piece = words_.pieces[i];
      const auto id = static_cast<token>(i);
      switch (words_.kinds[i]) {
        case piece_kind::normal:
        case piece_kind::user_defined:
          ids_.emplace(piece, id);
          break;
        case piece_kind::byte:
          if (const int value = byte_value(piece); value >= 0) byte_token_[value] = id;
          break;
        default:
          break;
      }
    }
  }
  tokenizer(tokenizer&&) noexcept = default;
  tokenizer& operator=(tokenizer&&) noexcept = default;
  tokenizer(const tokenizer&) = delete;  // ids_ points into words_
  tokenizer& operator=(const tokenizer&) = delete;

  [[nodiscard]] const vocabulary& words() const noexcept { return words_; }

  /// The tokens of a text, without bos.
  [[nodiscard]] std::vector<token> encode(std::string_view text) const {
    std::vector<token> out;
    if (!text.empty()) append(text, out);
    return out;
  }

  /// The tokens of a text whose lines, each with its newline, are encoded one by one; lines of
  /// nothing but white space are left out. How the model's training text was made.
  [[nodiscard]] std::vector<token> encode_lines(std::string_view text) const {
    std::vector<token> out;
    while (!text.empty()) {
      const std::size_t newline = text.find('\n');
      const std::size_t length = newline == text.npos ? text.size() : newline + 1;
      const std::string_view line = text.substr(0, length);
      if (line.find_first_not_of(" \t\r\n") != line.npos) append(line, out);
      text.remove_prefix(length);
    }
    return out;
  }

  /// The text of one token; control tokens have none.
  [[nodiscard]] std::string text(token id) const {
    const auto i = static_cast<std::size_t>(id);
    if (id < 0 || i >= words_.size()) return {};
    const std::string& piece = words_.pieces[i];
    switch (words_.kinds[i]) {
      case piece_kind::control:
        return {};
      case piece_kind::byte:
        return std::string(1, static_cast<char>(byte_value(piece)));
      default:
        return with_spaces(piece);
    }
  }

  /// The text of a run of tokens; the space that encode() put in front is taken away again.
  [[nodiscard]] std::string decode(std::span<const token> tokens) const {
    std::string out;
    for (const token id : tokens) out += text(id);
    if (words_.add_space_prefix && !out.empty() && out.front() == ' ') out.erase(0, 1);
    return out;
  }

 private:
  static constexpr std::string_view space_mark = "\xE2\x96\x81";  // U+2581

  // The symbols of a text are a linked list of slices: a merge lengthens one and unlinks the next.
  struct symbol {
    std::size_t begin, length;
    int previous, next;
  };
  struct candidate {
    float score;
    int left, right;
    std::size_t length;
    bool operator<(const candidate& other) const noexcept {  // top of the queue is merged first
      return score < other.score || (score == other.score && left > other.left);
    }
  };

  // 0 .. 255 for "<0x00>" .. "<0xFF>", else -1.
  static int byte_value(std::string_view piece) noexcept {
    if (piece.size() != 6 || piece.substr(0, 3) != "<0x" || piece[5] != '>') return -1;
    int value = 0;
    for (const char c : piece.substr(3, 2)) {
      const int digit = c >= '0' && c <= '9'   ? c - '0'
                        : c >= 'A' && c <= 'F' ? c - 'A' + 10
                        : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                               : -1;
      if (digit < 0) return -1;
      value = value * 16 + digit;
    }
    return value;
  }

  static std::string with_spaces(std::string_view piece) {
    std::string out;
    for (std::size_t at; (at = piece.find(space_mark)) != piece.npos;) {
      out.append(piece.substr(0, at)).push_back(' ');
      piece.remove_prefix(at + space_mark.size());
    }
    return out.append(piece);
  }

  std::string with_space_marks(std::string_view text) const {
    std::string out(words_.add_space_prefix ? space_mark : std::string_view{});
    for (const char c : text) {
      if (c == ' ') {
        out += space_mark;
      } else {
        out += c;
      }
    }
    return out;
  }

  // Bytes of the UTF-8 character at text[at]; 1 where the bytes are not UTF-8.
  static std::size_t character_length(std::string_view text, std::size_t at) noexcept {
    const auto lead = static_cast<unsigned char>(text[at]);
    const std::size_t length = lead < 0xC0 ? 1 : lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
    if (length > text.size() - at) return 1;
    for (std::size_t i = 1; i < length; ++i) {
      if ((static_cast<unsigned char>(text[at + i]) & 0xC0) != 0x80) return 1;
    }
    return length;
  }

  void append(std::string_view text, std::vector<token>& out) const {
    const std::string marked = with_space_marks(text);
    const std::string_view bytes = marked;
    std::vector<symbol> symbols;
    for (std::size_t at = 0; at < bytes.size();) {
      const std::size_t length = character_length(bytes, at);
      const int self = static_cast<int>(symbols.size());
      symbols.push_back({at, length, self - 1, self + 1});
      at += length;
    }
    symbols.back().next = -1;

    std::priority_queue<candidate> queue;
    const auto consider = [&](int left, int right) {
      if (left < 0 || right < 0) return;
      const symbol& l = symbols[static_cast<std::size_t>(left)];
      const std::size_t length = l.length + symbols[static_cast<std::size_t>(right)].length;
      const auto found = ids_.find(bytes.substr(l.begin, length));
      if (found == ids_.end()) return;
      queue.push({words_.scores[static_cast<std::size_t>(found->second)], left, right, length});
    };
    for (std::size_t i = 1; i < symbols.size(); ++i) {
      consider(static_cast<int>(i) - 1, static_cast<int>(i));
    }
    while (!queue.empty()) {
      const candidate best = queue.top();
      queue.pop();
      symbol& left = symbols[static_cast<std::size_t>(best.left)];
      symbol& right = symbols[static_cast<std::size_t>(best.right)];
      // Stale: one of the two has been merged with another neighbour since.
      if (left.length == 0 || right.length == 0 || left.length + right.length != best.length) {
        continue;
      }
      left.length += right.length;
      right.length = 0;
      left.next = right.next;
      if (right.next >= 0) symbols[static_cast<std::size_t>(right.next)].previous = best.left;
      consider(left.previous, best.left);
      consider(best.left, left.next);
    }

    for (int i = 0; i >= 0; i = symbols[static_cast<std::size_t>(i)].next) {
      const symbol& s = symbols[static_cast<std::size_t>(i)];
      const std::string_view piece = bytes.substr(s.begin, s.length);
      if (const auto found = ids_.find(piece); found != ids_.end()) {
        out.push_back(found->second);
      } else {
        for (const char c : piece) out.push_back(byte_token_[static_cast<unsigned char>(c)]);
      }
    }
  }

  vocabulary words_;
  std::unordered_map<std::string_view, token> ids_;
  token byte_token_[256];
};

}  // namespace llama
