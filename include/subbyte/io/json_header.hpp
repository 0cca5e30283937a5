// SPDX-License-Identifier: Apache-2.0
/// Strict reading of the JSON inside container files, as a stream of located values. The only
/// include of nlohmann_json.
#pragma once

#include <nlohmann/json.hpp>
#include <set>
#include <span>
#include <string>
#include <string_view>
#include <utility>  // std::move
#include <vector>

#include "subbyte/core/arch.hpp"
#include "subbyte/io/diagnostics.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Containers inside containers beyond this depth are refused.
inline constexpr std::size_t json_max_depth = 32;

enum class json_kind { null, boolean, integer, real, string, array, object };

/// A JSON value that is no container. An integer is `magnitude` with its sign, -0 negative; one
/// that fits neither 64-bit range is a real. `text` is a string's characters, or a real as written.
struct json_scalar {
  json_kind kind = json_kind::null;
  bool boolean = false;
  bool negative = false;
  std::uint64_t magnitude = 0;
  double real = 0;
  std::string_view text;

  SUBBYTE_INLINE json_scalar() noexcept {}
  [[nodiscard]] SUBBYTE_INLINE bool is_count() const noexcept {
    return kind == json_kind::integer && !negative;
  }
};

/// Where a value stands in one of the containers around it: its key in an object, or its index in
/// an array.
template <class Arch>
struct json_step {
  bool in_array = false;
  index_t index = 0;
  std::string key;
  std::set<std::string> keys;  // all keys of this object so far
};

/// The way to a value, outermost container first; empty for the value at the root.
template <class Arch>
using json_path = std::span<const json_step<Arch>>;

namespace detail {

/// A visitor of any type, for a parser that is compiled once for all of them.
template <class Arch>
struct json_visitor {
  void* object;
  void (*value)(void* object, json_path<Arch> path, const json_scalar& value);
  void (*open)(void* object, json_path<Arch> path, json_kind kind);
  void (*close)(void* object, json_path<Arch> path, json_kind kind);
};

template <class Visitor, class Arch>
struct json_visitor_of {
  static void value(void* object, json_path<Arch> path, const json_scalar& value) {
    static_cast<Visitor*>(object)->value(path, value);
  }
  static void open(void* object, json_path<Arch> path, json_kind kind) {
    static_cast<Visitor*>(object)->open(path, kind);
  }
  static void close(void* object, json_path<Arch> path, json_kind kind) {
    static_cast<Visitor*>(object)->close(path, kind);
  }
};

template <class Arch>
class json_events {
 public:
  using json = nlohmann::json;

  json_events(const std::string& subject, const json_visitor<Arch>& visitor)
      : subject_(subject), visitor_(visitor) {}

  bool null() { return scalar({}); }
  bool boolean(bool value) {
    json_scalar s;
    s.kind = json_kind::boolean;
    s.boolean = value;
    return scalar(s);
  }
  bool number_integer(json::number_integer_t value) {
    json_scalar s;
    s.kind = json_kind::integer;
    s.negative = true;  // the parser calls this for texts with a minus sign, -0 among them
    s.magnitude = 0 - static_cast<std::uint64_t>(value);
    return scalar(s);
  }
  bool number_unsigned(json::number_unsigned_t value) {
    json_scalar s;
    s.kind = json_kind::integer;
    s.magnitude = value;
    return scalar(s);
  }
  bool number_float(json::number_float_t value, const std::string& written) {
    json_scalar s;
    s.kind = json_kind::real;
    s.real = value;
    s.text = written;
    return scalar(s);
  }
  bool string(std::string& value) {
    json_scalar s;
    s.kind = json_kind::string;
    s.text = value;
    return scalar(s);
  }
  bool binary(json::binary_t&) { return false; }
  bool start_object(std::size_t) { return enter(json_kind::object); }
  bool end_object() { return leave(json_kind::object); }
  bool start_array(std::size_t) { return enter(json_kind::array); }
  bool end_array() { return leave(json_kind::array); }
  bool key(std::string& value) {
    json_step<Arch>& step = path_.back();
    if (!step.keys.insert(value).second) {
      throw_error(errc::bad_metadata, subject_, "key " + printable<Arch>(value) + " occurs twice");
    }
    step.key = std::move(value);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception&) {
    invalid(position);
    return false;
  }
  [[noreturn]] void invalid(std::size_t position) const {
    throw_error(errc::bad_metadata, subject_,
                "not valid JSON at byte " + std::to_string(position) + " of the text");
  }

 private:
  bool scalar(const json_scalar& value) {
    visitor_.value(visitor_.object, json_path<Arch>(path_), value);
    return next();
  }
  bool enter(json_kind kind) {
    if (path_.size() == json_max_depth) {
      throw_error(errc::bad_metadata, subject_,
                  "the JSON is nested deeper than " + std::to_string(json_max_depth) + " levels");
    }
    visitor_.open(visitor_.object, json_path<Arch>(path_), kind);
    path_.emplace_back();
    path_.back().in_array = kind == json_kind::array;
    return true;
  }
  bool leave(json_kind kind) {
    path_.pop_back();
    visitor_.close(visitor_.object, json_path<Arch>(path_), kind);
    return next();
  }
  bool next() {
    if (!path_.empty()) ++path_.back().index;
    return true;
  }

  const std::string& subject_;
  const json_visitor<Arch>& visitor_;
  std::vector<json_step<Arch>> path_;
};

template <class Arch>
void read_json(std::string_view text, const std::string& subject,
               const json_visitor<Arch>& visitor) {
  json_events<Arch> events(subject, visitor);
  // The parser takes a NUL for the end of the text and skips a mark: bytes could hide there.
  const std::size_t nul = text.find('\0');
  if (nul != std::string_view::npos) events.invalid(nul + 1);
  if (text.substr(0, 3) == "\xEF\xBB\xBF") events.invalid(1);
  nlohmann::json::sax_parse(text.data(), text.data() + text.size(), &events);
}

}  // namespace detail

/// Reads a JSON text into a visitor: value(path, scalar) for every scalar, open(path, kind) and
/// close(path, kind) around the contents of every container, in the order of the text.
///
/// Strict UTF-8 without a byte order mark, one value, nothing behind it; an object with two equal
/// keys is an error, not the last of them. The visitor throws to stop.
///
/// Cost    memory: the keys of the objects that are open, and the longest string.
/// Throws  bad_metadata with `subject`; what the visitor throws.
template <class Arch = arch::native, class Visitor>
SUBBYTE_INLINE void read_json(std::string_view text, const std::string& subject, Visitor& visitor) {
  using functions = detail::json_visitor_of<Visitor, Arch>;
  const detail::json_visitor<Arch> erased{&visitor, &functions::value, &functions::open,
                                          &functions::close};
  detail::read_json<Arch>(text, subject, erased);
}

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
