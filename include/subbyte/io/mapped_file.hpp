// SPDX-License-Identifier: Apache-2.0
/// A whole file as read-only memory.
#pragma once

#include <fcntl.h>     // open
#include <sys/mman.h>  // mmap
#include <sys/stat.h>  // fstat
#include <unistd.h>    // close

#include <cerrno>
#include <span>
#include <string>
#include <utility>  // std::exchange

#include "subbyte/core/arch.hpp"
#include "subbyte/io/diagnostics.hpp"

namespace subbyte {
inline namespace SUBBYTE_ABI {

/// Maps a regular file; move-only; the bytes stay where they are when the object moves.
///
/// Requires  nobody shortens the file while it is mapped: reading past its new end is a SIGBUS, as
///           with every mapping. A file that is replaced by renaming, or removed, stays intact
///           here. require_whole() finds a file that was shortened before it is called, and the
///           readers of io/ call it when they have read a header; nothing finds one that is
///           shortened later.
/// Threads   bytes() may be read by any number of threads.
/// Cost      no bytes are read until they are touched.
/// Throws    io for what is missing, unreadable, a directory or not a regular file; truncated
///           for an empty file; bad_argument for a path with a NUL byte.
template <class Arch>
class basic_mapped_file {
 public:
  basic_mapped_file() noexcept = default;
  explicit basic_mapped_file(const std::string& path) {
    if (path.find('\0') != std::string::npos) {
      throw_error(errc::bad_argument, printable<Arch>(path), "a path cannot hold a NUL byte");
    }
    // A FIFO without a writer would block an open without O_NONBLOCK.
    const descriptor file{::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK)};
    if (file.number < 0) throw_errno<Arch>(path, "open for reading", errno);
    struct stat status {};
    if (::fstat(file.number, &status) != 0) throw_errno<Arch>(path, "read its status", errno);
    if (S_ISDIR(status.st_mode)) throw_errno<Arch>(path, "read as a file", EISDIR);
    if (!S_ISREG(status.st_mode)) {
      throw_error(errc::io, path, "not a regular file: only those can be mapped");
    }
    if (status.st_size <= 0) throw_error(errc::truncated, path, "the file is empty");
    const std::size_t size = static_cast<std::size_t>(status.st_size);
    void* const address = ::mmap(nullptr, size, PROT_READ, MAP_PRIVATE, file.number, 0);
    if (address == MAP_FAILED) throw_errno<Arch>(path, "map", errno);
    data_ = static_cast<const std::uint8_t*>(address);
    size_ = size;
    device_ = status.st_dev;
    inode_ = status.st_ino;
  }
  basic_mapped_file(basic_mapped_file&& other) noexcept
      : data_(std::exchange(other.data_, nullptr)),
        size_(std::exchange(other.size_, 0)),
        device_(other.device_),
        inode_(other.inode_) {}
  basic_mapped_file& operator=(basic_mapped_file&& other) noexcept {
    if (this != &other) {
      release();
      data_ = std::exchange(other.data_, nullptr);
      size_ = std::exchange(other.size_, 0);
      device_ = other.device_;
      inode_ = other.inode_;
    }
    return *this;
  }
  basic_mapped_file(const basic_mapped_file&) = delete;
  basic_mapped_file& operator=(const basic_mapped_file&) = delete;
  ~basic_mapped_file() { release(); }

  [[nodiscard]] std::span<const std::uint8_t> bytes() const noexcept { return {data_, size_}; }

  /// Looks at the path that was mapped once more: the file there, if it is this one, must have all
  /// of the bytes still.
  ///
  /// Throws  truncated.
  void require_whole(const std::string& path) const {
    struct stat status {};
    if (::stat(path.c_str(), &status) != 0) return;  // removed: the mapping keeps its bytes
    if (status.st_dev != device_ || status.st_ino != inode_) return;
    if (static_cast<std::size_t>(status.st_size) >= size_) return;
    throw_error(errc::truncated, path,
                "the file was cut to " + std::to_string(status.st_size) + " of its " +
                    std::to_string(size_) + " bytes while it was open");
  }

 private:
  struct descriptor {
    int number;
    ~descriptor() {
      if (number >= 0) ::close(number);
    }
  };

  void release() noexcept {
    if (data_ != nullptr) ::munmap(const_cast<std::uint8_t*>(data_), size_);
  }

  const std::uint8_t* data_ = nullptr;
  std::size_t size_ = 0;
  dev_t device_ = 0;
  ino_t inode_ = 0;
};

using mapped_file = basic_mapped_file<arch::native>;

}  // namespace SUBBYTE_ABI
}  // namespace subbyte
