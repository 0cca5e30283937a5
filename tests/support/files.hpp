// SPDX-License-Identifier: Apache-2.0
/// Files for the tests of io/: a directory that removes itself, whole files as bytes, a builder of
/// byte strings, and the error a call ends in.
#pragma once

#include <dirent.h>
#include <stdlib.h>  // mkdtemp
#include <sys/stat.h>
#include <unistd.h>

#include <cstdint>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "subbyte/core/error.hpp"
#include "support/catch.hpp"
#include "support/error_of.hpp"

namespace test_support {

using bytes = std::vector<std::uint8_t>;

[[nodiscard]] inline bytes read_file(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  if (!file) FAIL("cannot open " << path);
  bytes content(static_cast<std::size_t>(file.seekg(0, std::ios::end).tellg()));
  file.seekg(0).read(reinterpret_cast<char*>(content.data()),
                     static_cast<std::streamsize>(content.size()));
  if (!file) FAIL("cannot read " << path);
  return content;
}

inline void write_file(const std::string& path, const bytes& content) {
  std::ofstream file(path, std::ios::binary);
  file.write(reinterpret_cast<const char*>(content.data()),
             static_cast<std::streamsize>(content.size()));
  if (!file) FAIL("cannot write " << path);
}

inline void write_file(const std::string& path, std::string_view content) {
  write_file(path, bytes(content.begin(), content.end()));
}

[[nodiscard]] inline bool exists(const std::string& path) {
  struct stat status {};
  return ::lstat(path.c_str(), &status) == 0;
}

/// Names in a directory, but for . and ..
[[nodiscard]] inline std::vector<std::string> list_directory(const std::string& path) {
  std::vector<std::string> names;
  DIR* const directory = ::opendir(path.c_str());
  if (directory == nullptr) return names;
  while (const dirent* entry = ::readdir(directory)) {
    const std::string name = entry->d_name;
    if (name != "." && name != "..") names.push_back(name);
  }
  ::closedir(directory);
  return names;
}

class scratch_directory {
 public:
  scratch_directory() {
    const char* const base = ::getenv("TMPDIR");
    path_ = std::string(base != nullptr ? base : "/tmp") + "/subbyte-test-XXXXXX";
    if (::mkdtemp(path_.data()) == nullptr) FAIL("cannot make a directory " << path_);
  }
  scratch_directory(const scratch_directory&) = delete;
  scratch_directory& operator=(const scratch_directory&) = delete;
  ~scratch_directory() { remove(path_); }

  [[nodiscard]] const std::string& path() const { return path_; }
  [[nodiscard]] std::string file(const std::string& name) const { return path_ + "/" + name; }

 private:
  static void remove(const std::string& path) {
    for (const std::string& name : list_directory(path)) {
      const std::string child = path + "/" + name;
      struct stat status {};
      if (::lstat(child.c_str(), &status) == 0 && S_ISDIR(status.st_mode)) {
        remove(child);
      } else {
        ::unlink(child.c_str());
      }
    }
    ::rmdir(path.c_str());
  }

  std::string path_;
};

/// While it lives, a test that runs as root runs as a user whom permissions stop. `directory` stays
/// reachable for that user.
class as_ordinary_user {
 public:
  explicit as_ordinary_user(const std::string& directory) : root_(::geteuid() == 0) {
    if (!root_) return;
    if (::chmod(directory.c_str(), 0755) != 0 || ::seteuid(65534) != 0) FAIL("cannot drop root");
  }
  as_ordinary_user(const as_ordinary_user&) = delete;
  as_ordinary_user& operator=(const as_ordinary_user&) = delete;
  ~as_ordinary_user() {
    if (root_ && ::seteuid(0) != 0) ::abort();
  }

 private:
  bool root_;
};

[[nodiscard]] inline std::uint64_t fnv1a64(const std::uint8_t* data, std::size_t size) {
  std::uint64_t hash = 0xcbf29ce484222325U;
  for (std::size_t i = 0; i < size; ++i) hash = (hash ^ data[i]) * 0x100000001b3U;
  return hash;
}

/// Little-endian bytes, appended piece by piece.
class byte_string {
 public:
  template <class T>
  byte_string& number(T value) {
    const auto* const p = reinterpret_cast<const std::uint8_t*>(&value);
    content.insert(content.end(), p, p + sizeof(T));
    return *this;
  }
  byte_string& u8(std::uint8_t value) { return number(value); }
  byte_string& u32(std::uint32_t value) { return number(value); }
  byte_string& u64(std::uint64_t value) { return number(value); }
  byte_string& raw(std::string_view text) {
    content.insert(content.end(), text.begin(), text.end());
    return *this;
  }
  /// A 64-bit length and the characters.
  byte_string& text(std::string_view characters) { return u64(characters.size()).raw(characters); }
  byte_string& zeros(std::size_t count) {
    content.insert(content.end(), count, std::uint8_t{0});
    return *this;
  }
  byte_string& pad(std::size_t alignment) {
    while (content.size() % alignment != 0) u8(0);
    return *this;
  }

  bytes content;
};

[[nodiscard]] inline bool contains(std::string_view text, std::string_view part) {
  return text.find(part) != std::string_view::npos;
}

}  // namespace test_support
