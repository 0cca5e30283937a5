// SPDX-License-Identifier: Apache-2.0
/// A whole JSON text in memory: configuration files that are read, changed in a few places and
/// written again with everything else as it was.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/core/expects.hpp"
#include "subbyte/io/json_header.hpp"
#include "subbyte/io/json_text.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// A JSON value: a scalar, or a container of values. Members of an object keep their order.
template <class Arch>
class basic_json_value {
 public:
  struct member {
    std::string key;
    basic_json_value value;
  };

  basic_json_value() = default;
  basic_json_value(bool value)  // NOLINT: values stand where JSON has them
      : kind_(json_kind::boolean), boolean_(value) {}
  basic_json_value(index_t value)  // NOLINT
      : kind_(json_kind::integer),
        number_(static_cast<double>(value)),
        text_(std::to_string(value)) {}
  basic_json_value(int value)  // NOLINT
      : basic_json_value(static_cast<index_t>(value)) {}
  basic_json_value(std::string text)  // NOLINT
      : kind_(json_kind::string), text_(std::move(text)) {}
  basic_json_value(const char* text) : basic_json_value(std::string(text)) {}  // NOLINT

  [[nodiscard]] static basic_json_value object() {
    basic_json_value v;
    v.kind_ = json_kind::object;
    return v;
  }
  [[nodiscard]] static basic_json_value array() {
    basic_json_value v;
    v.kind_ = json_kind::array;
    return v;
  }
  /// An array of strings.
  [[nodiscard]] static basic_json_value array(const std::vector<std::string>& texts) {
    basic_json_value v = array();
    for (const std::string& text : texts) v.items_.emplace_back(text);
    return v;
  }

  [[nodiscard]] json_kind kind() const noexcept { return kind_; }
  [[nodiscard]] bool is_null() const noexcept { return kind_ == json_kind::null; }
  [[nodiscard]] bool is_object() const noexcept { return kind_ == json_kind::object; }
  [[nodiscard]] bool is_string() const noexcept { return kind_ == json_kind::string; }
  /// A boolean's value; false for every other kind.
  [[nodiscard]] bool boolean() const noexcept { return boolean_; }
  /// A string's characters, or a number as it was written; empty for every other kind.
  [[nodiscard]] const std::string& text() const noexcept { return text_; }
  /// An integer that fits, if it is one.
  [[nodiscard]] std::optional<index_t> integer() const noexcept {
    if (kind_ != json_kind::integer) return std::nullopt;
    const bool negative = !text_.empty() && text_[0] == '-';
    index_t value = 0;
    for (std::size_t i = negative ? 1 : 0; i < text_.size(); ++i) {
      const index_t digit = text_[i] - '0';
      if (__builtin_mul_overflow(value, index_t{10}, &value) ||
          __builtin_sub_overflow(value, digit, &value)) {
        return std::nullopt;
      }
    }
    if (negative) return value;
    if (__builtin_sub_overflow(index_t{0}, value, &value)) return std::nullopt;
    return value;
  }
  /// The value of a number, if it is one: an integer's to the nearest double.
  [[nodiscard]] std::optional<double> number() const noexcept {
    if (kind_ != json_kind::integer && kind_ != json_kind::real) return std::nullopt;
    return number_;
  }
  [[nodiscard]] const std::vector<basic_json_value>& items() const noexcept { return items_; }
  [[nodiscard]] const std::vector<member>& members() const noexcept { return members_; }

  /// The member of that key, or null.
  [[nodiscard]] const basic_json_value* find(std::string_view key) const noexcept {
    for (const member& m : members_) {
      if (m.key == key) return &m.value;
    }
    return nullptr;
  }
  /// Sets a member, in its place if it is there and behind the others if not; returns *this.
  ///
  /// Requires  an object.
  basic_json_value& set(std::string_view key, basic_json_value value) {
    SUBBYTE_EXPECTS(is_object());
    for (member& m : members_) {
      if (m.key != key) continue;
      m.value = std::move(value);
      return *this;
    }
    members_.push_back({std::string(key), std::move(value)});
    return *this;
  }
  /// Removes a member, if it is there.
  void erase(std::string_view key) {
    for (std::size_t i = 0; i < members_.size(); ++i) {
      if (members_[i].key != key) continue;
      members_.erase(members_.begin() + static_cast<std::ptrdiff_t>(i));
      return;
    }
  }
  /// Adds an item behind the others. Requires  an array.
  void append(basic_json_value value) {
    SUBBYTE_EXPECTS(kind_ == json_kind::array);
    items_.push_back(std::move(value));
  }

  /// Equality of JSON values: the order of members does not count, and numbers are equal as
  /// written.
  friend bool operator==(const basic_json_value& a, const basic_json_value& b) {
    if (a.kind_ != b.kind_ || a.boolean_ != b.boolean_ || a.text_ != b.text_ ||
        a.items_.size() != b.items_.size() || a.members_.size() != b.members_.size()) {
      return false;
    }
    for (std::size_t i = 0; i < a.items_.size(); ++i) {
      if (!(a.items_[i] == b.items_[i])) return false;
    }
    for (const member& m : a.members_) {
      const basic_json_value* const other = b.find(m.key);
      if (other == nullptr || !(m.value == *other)) return false;
    }
    return true;
  }

  /// The text, two spaces deeper for every level, as Python's json.dumps(indent=2) lays it out.
  [[nodiscard]] std::string to_text() const {
    std::string out;
    write(out, 0);
    return out;
  }

 private:
  template <class>
  friend class json_value_reader;

  void write(std::string& out, std::size_t depth) const {
    switch (kind_) {
      case json_kind::null:
        out += "null";
        return;
      case json_kind::boolean:
        out += boolean_ ? "true" : "false";
        return;
      case json_kind::integer:
      case json_kind::real:
        out += text_;
        return;
      case json_kind::string:
        append_json_string<Arch>(out, text_);
        return;
      case json_kind::array:
      case json_kind::object:
        break;
    }
    const bool list = kind_ == json_kind::array;
    const std::size_t count = list ? items_.size() : members_.size();
    out += list ? '[' : '{';
    for (std::size_t i = 0; i < count; ++i) {
      out += i == 0 ? "\n" : ",\n";
      out.append(2 * (depth + 1), ' ');
      if (list) {
        items_[i].write(out, depth + 1);
      } else {
        append_json_string<Arch>(out, members_[i].key);
        out += ": ";
        members_[i].value.write(out, depth + 1);
      }
    }
    if (count != 0) {
      out += '\n';
      out.append(2 * depth, ' ');
    }
    out += list ? ']' : '}';
  }

  json_kind kind_ = json_kind::null;
  bool boolean_ = false;
  double number_ = 0;
  std::string text_;
  std::vector<basic_json_value> items_;
  std::vector<member> members_;
};

using json_value = basic_json_value<arch::native>;

/// Builds a value from the events of read_json.
template <class Arch>
class json_value_reader {
 public:
  using node = basic_json_value<Arch>;

  void open(json_path<Arch> path, json_kind kind) {
    node v;
    v.kind_ = kind;
    open_.push_back(place(path, std::move(v)));
  }
  void close(json_path<Arch>, json_kind) { open_.pop_back(); }
  void value(json_path<Arch> path, const json_scalar& scalar) {
    node v;
    v.kind_ = scalar.kind;
    v.boolean_ = scalar.boolean;
    v.text_ = scalar.text;
    v.number_ = scalar.real;
    if (scalar.kind == json_kind::integer) {
      const auto magnitude = static_cast<double>(scalar.magnitude);
      v.number_ = scalar.negative ? -magnitude : magnitude;
      v.text_ = (scalar.negative ? "-" : "") + std::to_string(scalar.magnitude);
    }
    place(path, std::move(v));
  }

  node root;

 private:
  // A container that is being filled is the last child of its parent: nothing moves it.
  node* place(json_path<Arch> path, node v) {
    if (open_.empty()) {
      root = std::move(v);
      return &root;
    }
    node& parent = *open_.back();
    if (parent.kind_ == json_kind::array) {
      parent.items_.push_back(std::move(v));
      return &parent.items_.back();
    }
    parent.members_.push_back({path.back().key, std::move(v)});
    return &parent.members_.back().value;
  }

  std::vector<node*> open_;
};

/// parse_json allocates at most this many times the bytes of the text: an array of one-digit
/// numbers needs a value for every two bytes, three times while it grows.
inline constexpr std::size_t json_memory_factor = 160;

/// Reads a JSON text as read_json does.
///
/// Cost    memory at most json_memory_factor times the bytes of the text and 16 KiB, whether it is
///         read or refused.
/// Throws  bad_metadata with `subject`.
template <class Arch = arch::native>
[[nodiscard]] basic_json_value<Arch> parse_json(std::string_view text, const std::string& subject) {
  json_value_reader<Arch> reader;
  read_json<Arch>(text, subject, reader);
  return std::move(reader.root);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
