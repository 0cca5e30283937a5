// SPDX-License-Identifier: Apache-2.0
/// The regular expressions over module names in quantization configurations, in time that no
/// pattern can blow up.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "subbyte/core/arch.hpp"
#include "subbyte/io/diagnostics.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {
namespace checkpoint {

/// A pattern of Python's `re` as configurations use it: characters, ., classes, \d \w \s and their
/// opposites, groups, |, * + ? {m,n} (also lazy), ^, $, lookahead. Backreferences, lookbehind and
/// flags are refused.
///
/// Cost    O(pattern * name^2) steps, more where repetitions are nested, at most max_steps: some
///         milliseconds. Memory: some hundred bytes for every character of the pattern.
/// Throws  bad_metadata with `subject` for a pattern outside this or longer than max_length, and
///         for a match that takes more steps.
template <class Arch>
class basic_module_pattern {
 public:
  static constexpr std::size_t max_length = 4096;
  static constexpr index_t max_steps = 4'000'000;

  basic_module_pattern(std::string_view pattern, std::string subject)
      : text_(pattern), subject_(std::move(subject)) {
    if (text_.size() > max_length) fail("is longer than " + std::to_string(max_length));
    root_ = parse_alternatives(0);
    if (at_ != text_.size()) fail("has a ) without a (");
  }

  /// Whether a beginning of the name matches, as Python's re.match says.
  [[nodiscard]] bool matches(std::string_view name) const { return matches_from(name, 1); }

  /// Whether any part of the name matches, as Python's re.search says.
  [[nodiscard]] bool found_in(std::string_view name) const {
    return matches_from(name, name.size() + 1);
  }

 private:
  using positions = std::vector<std::uint8_t>;  // which positions of the name can be reached

  enum class kind { characters, sequence, alternatives, repeat, begin, end, ahead, not_ahead };
  struct node {
    kind what = kind::sequence;
    std::vector<int> children;
    std::uint64_t allowed[4] = {};  // characters: one bit each
    int least = 0, most = 0;        // repeat; most -1: no bound
  };

  static constexpr int max_depth = 64;
  static constexpr int max_count = 1000;

  [[noreturn]] void fail(const std::string& what) const {
    throw_error(errc::bad_metadata, subject_, "the pattern " + printable<Arch>(text_) + " " + what);
  }
  [[nodiscard]] bool more() const noexcept { return at_ < text_.size(); }
  [[nodiscard]] bool take(char c) noexcept {
    if (!more() || text_[at_] != c) return false;
    ++at_;
    return true;
  }
  [[nodiscard]] int add(node n) {
    nodes_.push_back(std::move(n));
    return static_cast<int>(nodes_.size()) - 1;
  }

  int parse_alternatives(int depth) {
    if (depth > max_depth) fail("is nested too deep");
    node n;
    n.what = kind::alternatives;
    do {
      n.children.push_back(parse_sequence(depth));
    } while (take('|'));
    return add(std::move(n));
  }
  int parse_sequence(int depth) {
    node n;
    while (more() && text_[at_] != '|' && text_[at_] != ')') {
      n.children.push_back(parse_repeats(parse_atom(depth)));
    }
    return add(std::move(n));
  }

  int parse_repeats(int atom) {
    if (!more()) return atom;
    node n;
    n.what = kind::repeat;
    n.most = -1;
    if (take('*')) {
    } else if (take('+')) {
      n.least = 1;
    } else if (take('?')) {
      n.most = 1;
    } else if (text_[at_] == '{') {
      ++at_;
      n.least = text_[at_ < text_.size() ? at_ : 0] == ',' ? 0 : parse_count();
      n.most = n.least;
      if (take(',')) n.most = more() && text_[at_] == '}' ? -1 : parse_count();
      if (!take('}')) fail("has a { that is no {m,n}");
      if (n.most != -1 && n.most < n.least) fail("has a {m,n} with n below m");
    } else {
      return atom;
    }
    static_cast<void>(take('?'));  // lazy: whether it matches stays the same
    if (more() && (text_[at_] == '*' || text_[at_] == '+' || text_[at_] == '{')) {
      fail("repeats a repetition");
    }
    n.children.push_back(atom);
    return add(std::move(n));
  }
  int parse_count() {
    int value = 0;
    const std::size_t first = at_;
    while (more() && text_[at_] >= '0' && text_[at_] <= '9') {
      value = value * 10 + (text_[at_++] - '0');
      if (value > max_count) fail("repeats more than " + std::to_string(max_count) + " times");
    }
    if (at_ == first) fail("has a { that is no {m,n}");
    return value;
  }

  int parse_atom(int depth) {
    const char c = text_[at_++];
    node n;
    switch (c) {
      case '(':
        return parse_group(depth);
      case '[':
        return parse_class();
      case '^':
        n.what = kind::begin;
        return add(std::move(n));
      case '$':
        n.what = kind::end;
        return add(std::move(n));
      case '*':
      case '+':
      case '?':
        fail("repeats nothing");
      default:
        break;
    }
    n.what = kind::characters;
    if (c == '.') {
      for (unsigned i = 0; i < 256; ++i) {
        if (i != '\n') allow(n, i);
      }
    } else if (c == '\\') {
      parse_escape(n);
    } else {
      allow(n, static_cast<unsigned char>(c));
    }
    return add(std::move(n));
  }

  int parse_group(int depth) {
    kind what = kind::sequence;
    if (take('?')) {
      if (take('=')) {
        what = kind::ahead;
      } else if (take('!')) {
        what = kind::not_ahead;
      } else if (!take(':')) {
        fail("has a (? that is neither (?: nor a lookahead");
      }
    }
    const int inner = parse_alternatives(depth + 1);
    if (!take(')')) fail("has a ( without a )");
    node n;
    n.what = what;
    n.children.push_back(inner);
    return add(std::move(n));
  }

  // One escaped class or character; which character, or -1 for a class.
  int parse_escape(node& n) {
    if (!more()) fail("ends in a backslash");
    const char c = text_[at_++];
    const auto digit = [](unsigned i) { return i >= '0' && i <= '9'; };
    const auto word = [&](unsigned i) {
      return digit(i) || (i >= 'a' && i <= 'z') || (i >= 'A' && i <= 'Z') || i == '_';
    };
    const auto space = [](unsigned i) { return i == ' ' || (i >= 9 && i <= 13); };
    for (unsigned i = 0; i < 256; ++i) {
      const bool in = c == 'd' || c == 'D' ? digit(i) : c == 'w' || c == 'W' ? word(i) : space(i);
      if ((c == 'd' || c == 'w' || c == 's') && in) allow(n, i);
      if ((c == 'D' || c == 'W' || c == 'S') && !in) allow(n, i);
    }
    if (std::string_view("dDwWsS").find(c) != std::string_view::npos) return -1;
    if (word(static_cast<unsigned char>(c))) {
      fail(std::string("has the escape \\") + c + ", which is not read here");
    }
    allow(n, static_cast<unsigned char>(c));
    return static_cast<unsigned char>(c);
  }

  int parse_class() {
    node n;
    n.what = kind::characters;
    const bool opposite = take('^');
    bool first = true;
    while (first || !take(']')) {
      if (!more()) fail("has a [ without a ]");
      first = false;
      const char c = text_[at_++];
      const int low = c == '\\' ? parse_escape(n) : static_cast<unsigned char>(c);
      if (low >= 0 && at_ + 1 < text_.size() && text_[at_] == '-' && text_[at_ + 1] != ']') {
        ++at_;
        const char h = text_[at_++];
        const int high = h == '\\' ? parse_escape(n) : static_cast<unsigned char>(h);
        if (high < low) fail("has a range that goes down");
        for (int i = low; i <= high; ++i) allow(n, static_cast<unsigned>(i));
      } else if (low >= 0) {
        allow(n, static_cast<unsigned>(low));
      }
    }
    if (opposite) {
      for (std::uint64_t& bits : n.allowed) bits = ~bits;
    }
    return add(std::move(n));
  }
  static void allow(node& n, unsigned c) noexcept {
    n.allowed[c / 64] |= std::uint64_t{1} << c % 64;
  }

  // Whether a match begins at one of the first `starts` positions.
  [[nodiscard]] bool matches_from(std::string_view name, std::size_t starts) const {
    if (name.size() > max_length) return false;
    positions start(name.size() + 1, 0);
    for (std::size_t i = 0; i < starts; ++i) start[i] = 1;
    index_t steps = 0;
    return any(run(root_, name, start, steps));
  }

  [[nodiscard]] static bool any(const positions& set) noexcept {
    for (const std::uint8_t p : set) {
      if (p != 0) return true;
    }
    return false;
  }
  static bool add_to(positions& set, const positions& more) noexcept {
    bool grown = false;
    for (std::size_t i = 0; i < set.size(); ++i) {
      grown = grown || (more[i] != 0 && set[i] == 0);
      set[i] = static_cast<std::uint8_t>(set[i] | more[i]);
    }
    return grown;
  }

  // Where a match of the node can end that begins at one of `from`.
  [[nodiscard]] positions run(int index, std::string_view name, const positions& from,
                              index_t& steps) const {
    steps += static_cast<index_t>(from.size()) + 16;  // a run costs that much on an empty name too
    if (steps > max_steps) fail("takes too long to match");
    const node& n = nodes_[static_cast<std::size_t>(index)];
    positions to(from.size(), 0);
    switch (n.what) {
      case kind::characters:
        for (std::size_t i = 0; i < name.size(); ++i) {
          const auto c = static_cast<unsigned char>(name[i]);
          if (from[i] != 0 && (n.allowed[c / 64] >> c % 64 & 1) != 0) to[i + 1] = 1;
        }
        return to;
      case kind::sequence:
        to = from;
        for (const int child : n.children) to = run(child, name, to, steps);
        return to;
      case kind::alternatives:
        for (const int child : n.children) add_to(to, run(child, name, from, steps));
        return to;
      case kind::repeat: {
        positions reached = from;
        for (int i = 0; i < n.least && any(reached); ++i) {
          reached = run(n.children[0], name, reached, steps);
        }
        to = reached;
        for (int i = n.least; n.most == -1 || i < n.most; ++i) {
          reached = run(n.children[0], name, reached, steps);
          if (!add_to(to, reached)) break;
        }
        return to;
      }
      case kind::begin:
        to[0] = from[0];
        return to;
      case kind::end:
        to.back() = from.back();
        return to;
      case kind::ahead:
      case kind::not_ahead:
        for (std::size_t i = 0; i < from.size(); ++i) {
          if (from[i] == 0) continue;
          positions here(from.size(), 0);
          here[i] = 1;
          to[i] = any(run(n.children[0], name, here, steps)) == (n.what == kind::ahead) ? 1 : 0;
        }
        return to;
    }
    return to;
  }

  std::string text_;
  std::string subject_;
  std::size_t at_ = 0;
  std::vector<node> nodes_;
  int root_ = 0;
};

using module_pattern = basic_module_pattern<arch::native>;

}  // namespace checkpoint
}  // namespace SUBBYTE_ABI
}  // namespace subbyte
