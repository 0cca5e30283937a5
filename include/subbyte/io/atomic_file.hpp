// SPDX-License-Identifier: Apache-2.0
/// A file that appears under its name complete, or not at all.
#pragma once

#include <fcntl.h>     // open
#include <sys/stat.h>  // stat, fchmod
#include <unistd.h>    // write, fsync, unlink

#include <cerrno>
#include <cstdio>   // std::rename
#include <cstdlib>  // realpath
#include <ctime>    // clock_gettime, for the temporary's name
#include <span>
#include <string>
#include <vector>

#include "subbyte/core/arch.hpp"
#include "subbyte/io/diagnostics.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Writes to a temporary in the directory of `path`; commit() makes it durable and renames it.
///
/// Until commit() returns, an existing file under `path` keeps its bytes, and a reader that has it
/// mapped keeps them afterwards: writing over the file one reads from is safe. Destruction without
/// commit() removes the temporary; a killed process leaves it behind, named .subbyte-*.part. A file
/// that is replaced hands its permission bits on. If `path` is a symbolic link, the file it points
/// to is replaced and the link stays.
///
/// Cost      64 KiB of buffer; commit() waits for the disk.
/// Throws    io with the path: no such directory, no permission, a target that is not a
///           regular file or not writable, a full disk; bad_argument for a path with a NUL byte.
template <class Arch>
class basic_atomic_file {
 public:
  explicit basic_atomic_file(const std::string& path) : path_(path), target_(path) {
    if (path.find('\0') != std::string::npos) {
      throw_error(errc::bad_argument, printable<Arch>(path), "a path cannot hold a NUL byte");
    }
    follow_link();
    mode_t mode = 0;
    const bool replaces = check_target(mode);
    buffer_.reserve(buffer_bytes);
    open_temporary();
    if (replaces && ::fchmod(descriptor_, mode & 07777) != 0) {
      const int code = errno;
      discard();
      throw_errno<Arch>(path_, "give the temporary the permissions of the file it replaces", code);
    }
  }
  basic_atomic_file(const basic_atomic_file&) = delete;
  basic_atomic_file& operator=(const basic_atomic_file&) = delete;
  ~basic_atomic_file() { discard(); }

  [[nodiscard]] const std::string& path() const noexcept { return path_; }
  /// Bytes written so far.
  [[nodiscard]] index_t size() const noexcept { return size_; }
  /// The path with a symbolic link followed: the name that commit() gives.
  [[nodiscard]] const std::string& target() const noexcept { return target_; }
  /// Where the bytes are until commit(), in the directory of the file that gets the name.
  [[nodiscard]] const std::string& temporary() const noexcept { return temporary_; }
  /// Whether commit() would replace a file.
  [[nodiscard]] bool replaces() const noexcept { return ::access(target_.c_str(), F_OK) == 0; }

  /// Appends bytes.
  void write(std::span<const std::uint8_t> bytes) {
    require_open();
    size_ += static_cast<index_t>(bytes.size());
    if (buffer_.size() + bytes.size() > buffer_bytes) flush();
    if (bytes.size() > buffer_bytes) {
      write_through(bytes);
    } else {
      buffer_.insert(buffer_.end(), bytes.begin(), bytes.end());
    }
  }

  /// Appends zeros.
  void write_zeros(index_t count) {
    require_open();
    while (count > 0) {
      if (buffer_.size() == buffer_bytes) flush();
      const index_t room = static_cast<index_t>(buffer_bytes - buffer_.size());
      const index_t n = count < room ? count : room;
      buffer_.insert(buffer_.end(), static_cast<std::size_t>(n), std::uint8_t{0});
      size_ += n;
      count -= n;
    }
  }

  /// Puts the bytes on the disk and frees the buffer. No more writes; commit() then only renames.
  void seal() {
    require_open();
    flush();
    if (::fsync(descriptor_) != 0) throw_errno<Arch>(path_, "write to the disk", errno);
    const int closing = descriptor_;
    descriptor_ = -1;
    if (::close(closing) != 0) throw_errno<Arch>(path_, "close", errno);
    std::vector<std::uint8_t>().swap(buffer_);
    sealed_ = true;
  }

  /// Gives the file its name, after its bytes are on the disk. No more writes.
  void commit() {
    if (!sealed_) seal();
    sealed_ = false;
    const std::string& source = held_.empty() ? temporary_ : held_;
    if (std::rename(source.c_str(), target_.c_str()) != 0) {
      throw_errno<Arch>(path_, "rename the finished temporary to it", errno);
    }
    (held_.empty() ? temporary_ : held_).clear();
    sync_directory();
  }

  /// Makes commit() leave the bytes under temporary() too, until drop_temporary() or destruction.
  /// After seal(). False where the file system has no hard links: nothing is changed then.
  [[nodiscard]] bool hold_temporary() {
    if (!sealed_ || !held_.empty()) return !held_.empty();
    const std::string second = temporary_ + ".part";
    if (::link(temporary_.c_str(), second.c_str()) != 0) return false;
    held_ = second;
    return true;
  }
  /// From here on destruction leaves temporary() behind: something durable points to it.
  void pin_temporary() noexcept { pinned_ = true; }
  /// Removes temporary(), pinned or not. After commit().
  void drop_temporary() noexcept {
    pinned_ = false;
    discard();
  }

 private:
  static constexpr std::size_t buffer_bytes = std::size_t{1} << 16;

  void require_open() const {
    if (descriptor_ < 0) {
      throw_error(errc::bad_argument, path_, "written after it was committed or had failed");
    }
  }

  void follow_link() {
    struct stat status {};
    if (::lstat(path_.c_str(), &status) != 0 || !S_ISLNK(status.st_mode)) return;
    char* const resolved = ::realpath(path_.c_str(), nullptr);
    if (resolved == nullptr) throw_errno<Arch>(path_, "follow the symbolic link", errno);
    target_ = resolved;
    std::free(resolved);
  }

  // Whether there is a file to replace, and its mode. Renaming would replace a device or a file
  // that its owner made read-only.
  bool check_target(mode_t& mode) const {
    struct stat status {};
    if (::stat(target_.c_str(), &status) != 0) {
      if (errno == ENOENT && !target_.empty() && target_.back() != '/') return false;
      throw_errno<Arch>(path_, "create", errno);
    }
    if (S_ISDIR(status.st_mode)) throw_errno<Arch>(path_, "write a file", EISDIR);
    if (!S_ISREG(status.st_mode)) {
      throw_error(errc::io, path_, "not a regular file: it cannot be replaced");
    }
    if (::faccessat(AT_FDCWD, target_.c_str(), W_OK, AT_EACCESS) != 0)
      throw_errno<Arch>(path_, "replace", errno);
    mode = status.st_mode;
    return true;
  }

  [[nodiscard]] std::string directory() const {
    const std::size_t slash = target_.rfind('/');
    return slash == std::string::npos ? std::string("./") : target_.substr(0, slash + 1);
  }

  void open_temporary() {
    timespec now{};
    ::clock_gettime(CLOCK_REALTIME, &now);
    const std::string stem = directory() + ".subbyte-" + std::to_string(::getpid()) + "-" +
                             std::to_string(now.tv_sec) + std::to_string(now.tv_nsec) + "-";
    int code = EEXIST;
    for (int attempt = 0; attempt < 1000 && code == EEXIST; ++attempt) {
      temporary_ = stem + std::to_string(attempt) + ".part";
      descriptor_ = ::open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
      if (descriptor_ >= 0) return;
      code = errno;
    }
    temporary_.clear();
    throw_errno<Arch>(path_, "create a temporary file beside it", code);
  }

  void flush() {
    write_through(buffer_);
    buffer_.clear();
  }

  void write_through(std::span<const std::uint8_t> bytes) {
    while (!bytes.empty()) {
      const ssize_t written = ::write(descriptor_, bytes.data(), bytes.size());
      if (written < 0) {
        const int code = errno;
        if (code == EINTR) continue;
        discard();
        throw_errno<Arch>(path_, "write", code);
      }
      bytes = bytes.subspan(static_cast<std::size_t>(written));
    }
  }

  void sync_directory() const {
    const int opened = ::open(directory().c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    // A directory that may be written but not read cannot be synced; the file itself is complete.
    if (opened < 0) return;
    const int code = ::fsync(opened) != 0 ? errno : 0;
    ::close(opened);
    if (code != 0 && code != EINVAL) {
      throw_errno<Arch>(path_, "make the new name durable (the file itself is complete)", code);
    }
  }

  void discard() noexcept {
    if (descriptor_ >= 0) ::close(descriptor_);
    descriptor_ = -1;
    if (!held_.empty()) ::unlink(held_.c_str());
    held_.clear();
    if (!temporary_.empty() && !pinned_) ::unlink(temporary_.c_str());
    temporary_.clear();
    sealed_ = false;
  }

  std::string path_;
  std::string target_;
  std::string temporary_;
  std::string held_;  // a second name of the temporary, for commit() to rename
  std::vector<std::uint8_t> buffer_;
  index_t size_ = 0;
  int descriptor_ = -1;
  bool sealed_ = false;
  bool pinned_ = false;
};

using atomic_file = basic_atomic_file<arch::native>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
