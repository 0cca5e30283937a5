// SPDX-License-Identifier: Apache-2.0
/// Writers that are stopped: by SIGKILL at any moment, and by a file size limit that stands in for
/// a full disk.
#pragma once

#include <sys/resource.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <csignal>
#include <cstdint>

#include "support/catch.hpp"

namespace test_support {

/// Runs body() in a child process until it has ended or `nanoseconds` are over, then kills it;
/// whether the kill met it.
template <class Body>
bool killed_after(std::int64_t nanoseconds, const Body& body) {
  int ready[2];
  if (::pipe(ready) != 0) FAIL("no pipe");
  const pid_t child = ::fork();
  if (child < 0) FAIL("cannot fork");
  if (child == 0) {
    const char one = 1;
    if (::write(ready[1], &one, 1) != 1) ::_exit(3);
    try {
      body();
    } catch (...) {
      ::_exit(2);
    }
    ::_exit(0);
  }
  char one = 0;
  if (::read(ready[0], &one, 1) != 1) FAIL("the child did not start");
  ::close(ready[0]);
  ::close(ready[1]);
  timespec wait{static_cast<time_t>(nanoseconds / 1000000000),
                static_cast<long>(nanoseconds % 1000000000)};
  ::nanosleep(&wait, nullptr);
  ::kill(child, SIGKILL);
  int status = 0;
  if (::waitpid(child, &status, 0) != child) FAIL("lost the child");
  if (WIFEXITED(status) && WEXITSTATUS(status) != 0) FAIL("the child failed");
  return WIFSIGNALED(status);
}

/// While it lives, no file of this process grows beyond `bytes`.
class file_size_limit {
 public:
  explicit file_size_limit(std::uint64_t bytes) {
    if (::getrlimit(RLIMIT_FSIZE, &before_) != 0) FAIL("no limit to read");
    ignored_ = std::signal(SIGXFSZ, SIG_IGN);
    rlimit small = before_;
    small.rlim_cur = bytes;
    if (::setrlimit(RLIMIT_FSIZE, &small) != 0) FAIL("cannot set a limit");
  }
  file_size_limit(const file_size_limit&) = delete;
  file_size_limit& operator=(const file_size_limit&) = delete;
  ~file_size_limit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, ignored_);
  }

 private:
  rlimit before_{};
  void (*ignored_)(int) = nullptr;
};

}  // namespace test_support
