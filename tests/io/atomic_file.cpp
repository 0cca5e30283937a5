// SPDX-License-Identifier: Apache-2.0
/// Files that appear complete or not at all: success, every refusal, and a disk that fills up.
#include "subbyte/io/atomic_file.hpp"

#include <sys/resource.h>  // a file size limit stands in for a full disk
#include <sys/wait.h>

#include <csignal>

#include "support/files.hpp"

using subbyte::atomic_file;
using subbyte::errc;
using test_support::bytes;
using test_support::contains;
using test_support::error_of;
using test_support::list_directory;
using test_support::read_file;
using test_support::scratch_directory;
using test_support::write_file;

namespace {

bytes pattern(std::size_t size) {
  bytes content(size);
  for (std::size_t i = 0; i < size; ++i) content[i] = static_cast<std::uint8_t>(i * 31 + i / 251);
  return content;
}

mode_t mode_of(const std::string& path) {
  struct stat status {};
  REQUIRE(::stat(path.c_str(), &status) == 0);
  return status.st_mode & 07777;
}

}  // namespace

TEST_CASE("atomic_file: pieces of any size arrive in order, and the name appears at commit") {
  const scratch_directory scratch;
  const std::string path = scratch.file("out");
  const bytes content = pattern(400001);
  atomic_file file(path);
  REQUIRE(file.path() == path);
  std::size_t at = 0;
  std::size_t piece = 1;
  while (at < content.size()) {
    const std::size_t n = piece < content.size() - at ? piece : content.size() - at;
    file.write(std::span<const std::uint8_t>(content).subspan(at, n));
    at += n;
    piece = piece * 3 + 1;
  }
  file.write({});
  file.write_zeros(0);
  file.write_zeros(70000);
  REQUIRE(file.size() == 470001);
  REQUIRE(!test_support::exists(path));
  REQUIRE(list_directory(scratch.path()).size() == 1);
  file.commit();
  REQUIRE(list_directory(scratch.path()) == std::vector<std::string>{"out"});
  bytes expected = content;
  expected.resize(470001);
  REQUIRE(read_file(path) == expected);
}

TEST_CASE("atomic_file: without commit nothing is left and the file before stays") {
  const scratch_directory scratch;
  write_file(scratch.file("out"), "before");
  {
    atomic_file file(scratch.file("out"));
    file.write(pattern(100000));
  }
  REQUIRE(list_directory(scratch.path()) == std::vector<std::string>{"out"});
  REQUIRE(read_file(scratch.file("out")).size() == 6);
}

TEST_CASE("atomic_file: a replaced file hands its permissions on, a fresh one follows the umask") {
  const scratch_directory scratch;
  write_file(scratch.file("out"), "before");
  REQUIRE(::chmod(scratch.file("out").c_str(), 0640) == 0);
  {
    atomic_file file(scratch.file("out"));
    file.write(pattern(3));
    file.commit();
  }
  REQUIRE(read_file(scratch.file("out")) == pattern(3));
  REQUIRE(mode_of(scratch.file("out")) == 0640);

  const mode_t before = ::umask(027);
  {
    atomic_file file(scratch.file("fresh"));
    file.commit();
  }
  ::umask(before);
  REQUIRE(mode_of(scratch.file("fresh")) == 0640);
  REQUIRE(read_file(scratch.file("fresh")).empty());
}

TEST_CASE("atomic_file: two writers of one name do not meet; the last commit wins") {
  const scratch_directory scratch;
  atomic_file first(scratch.file("out"));
  atomic_file second(scratch.file("out"));
  first.write(pattern(10));
  second.write(pattern(20));
  second.commit();
  REQUIRE(read_file(scratch.file("out")).size() == 20);
  first.commit();
  REQUIRE(read_file(scratch.file("out")).size() == 10);
  REQUIRE(list_directory(scratch.path()).size() == 1);
}

TEST_CASE("atomic_file: a symbolic link stays, and what it points to is replaced") {
  const scratch_directory scratch;
  REQUIRE(::mkdir(scratch.file("real").c_str(), 0755) == 0);
  write_file(scratch.file("real/out"), "before");
  REQUIRE(::symlink("real/out", scratch.file("link").c_str()) == 0);
  {
    atomic_file file(scratch.file("link"));
    file.write(pattern(5));
    file.commit();
  }
  REQUIRE(read_file(scratch.file("real/out")) == pattern(5));
  struct stat status {};
  REQUIRE(::lstat(scratch.file("link").c_str(), &status) == 0);
  REQUIRE(S_ISLNK(status.st_mode));

  REQUIRE(::symlink("nowhere", scratch.file("dangling").c_str()) == 0);
  const subbyte::error e = error_of([&] { atomic_file file(scratch.file("dangling")); });
  REQUIRE(e.code() == errc::io);
  REQUIRE(contains(e.what(), "symbolic link"));
}

TEST_CASE("atomic_file: targets that cannot be written are refused before anything is written") {
  const scratch_directory scratch;
  const auto failure = [](const std::string& path) {
    return error_of([&] { atomic_file file(path); });
  };
  const subbyte::error directory = failure(scratch.path());
  REQUIRE(directory.code() == errc::io);
  REQUIRE(directory.subject() == scratch.path());
  REQUIRE(contains(directory.what(), "Is a directory"));
  REQUIRE(contains(failure(scratch.file("missing/out")).what(), "No such file"));
  REQUIRE(failure(scratch.file("out/")).code() == errc::io);
  REQUIRE(failure("").code() == errc::io);
  REQUIRE(failure(std::string("a\0b", 3)).code() == errc::bad_argument);
  // Renaming over a device would replace the device.
  REQUIRE(contains(failure("/dev/full").what(), "not a regular file"));
  struct stat status {};
  REQUIRE(::stat("/dev/full", &status) == 0);
  REQUIRE(S_ISCHR(status.st_mode));
  REQUIRE(list_directory(scratch.path()).empty());
}

TEST_CASE("atomic_file: a read-only directory and a read-only file are refused") {
  const scratch_directory scratch;
  write_file(scratch.file("out"), "before");
  REQUIRE(::chmod(scratch.file("out").c_str(), 0444) == 0);
  REQUIRE(::mkdir(scratch.file("closed").c_str(), 0555) == 0);
  {
    const test_support::as_ordinary_user user(scratch.path());
    const subbyte::error closed = error_of([&] { atomic_file file(scratch.file("closed/out")); });
    REQUIRE(closed.code() == errc::io);
    REQUIRE(contains(closed.what(), "Permission denied"));
    const subbyte::error read_only = error_of([&] { atomic_file file(scratch.file("out")); });
    REQUIRE(read_only.code() == errc::io);
    REQUIRE(contains(read_only.what(), "cannot replace"));
  }
  REQUIRE(read_file(scratch.file("out")).size() == 6);
  REQUIRE(list_directory(scratch.path()).size() == 2);
}

TEST_CASE("atomic_file: a disk that fills up leaves the file before and nothing else") {
  const scratch_directory scratch;
  write_file(scratch.file("out"), "before");
  // The limit is not a multiple of the write sizes: the last write before the error is a short one.
  rlimit before{};
  REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
  struct sigaction ignore {};
  struct sigaction old {};
  ignore.sa_handler = SIG_IGN;
  REQUIRE(::sigaction(SIGXFSZ, &ignore, &old) == 0);
  rlimit small = before;
  small.rlim_cur = 100001;
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
  std::optional<subbyte::error> caught;
  std::optional<subbyte::error> after;
  std::size_t names = 0;
  {
    atomic_file file(scratch.file("out"));
    try {
      for (int i = 0; i < 4; ++i) file.write(pattern(50000));
      file.commit();
    } catch (const subbyte::error& e) {
      caught = e;
    }
    names = list_directory(scratch.path()).size();
    try {
      file.write(pattern(1));
    } catch (const subbyte::error& e) {
      after = e;
    }
  }
  REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
  REQUIRE(::sigaction(SIGXFSZ, &old, nullptr) == 0);
  REQUIRE(caught);
  REQUIRE(caught->code() == errc::io);
  REQUIRE(caught->subject() == scratch.file("out"));
  REQUIRE(contains(caught->what(), "File too large"));
  REQUIRE(after);
  REQUIRE(after->code() == errc::bad_argument);
  REQUIRE(names == 1);
  REQUIRE(read_file(scratch.file("out")).size() == 6);
}

TEST_CASE("atomic_file: a directory that vanishes before commit is an error") {
  const scratch_directory scratch;
  REQUIRE(::mkdir(scratch.file("dir").c_str(), 0755) == 0);
  atomic_file file(scratch.file("dir/out"));
  file.write(pattern(10));
  for (const std::string& name : list_directory(scratch.file("dir"))) {
    REQUIRE(::unlink(scratch.file("dir/" + name).c_str()) == 0);
  }
  REQUIRE(::rmdir(scratch.file("dir").c_str()) == 0);
  REQUIRE(error_of([&] { file.commit(); }).code() == errc::io);
}

TEST_CASE("atomic_file: a killed process leaves the old file under the name") {
  const scratch_directory scratch;
  write_file(scratch.file("out"), "before");
  const pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    atomic_file file(scratch.file("out"));
    file.write(pattern(300000));
    ::kill(::getpid(), SIGKILL);
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  REQUIRE(WIFSIGNALED(status));
  REQUIRE(read_file(scratch.file("out")).size() == 6);
}

TEST_CASE("atomic_file: a sealed file takes no more bytes, and its name comes at commit") {
  const scratch_directory scratch;
  atomic_file file(scratch.file("out"));
  REQUIRE(!file.replaces());
  REQUIRE(file.target() == scratch.file("out"));
  file.write(pattern(100000));
  file.seal();
  REQUIRE(read_file(file.temporary()) == pattern(100000));
  REQUIRE(!test_support::exists(scratch.file("out")));
  REQUIRE(error_of([&] { file.write(pattern(1)); }).code() == errc::bad_argument);
  REQUIRE(error_of([&] { file.write_zeros(1); }).code() == errc::bad_argument);
  REQUIRE(error_of([&] { file.seal(); }).code() == errc::bad_argument);
  file.commit();
  REQUIRE(list_directory(scratch.path()) == std::vector<std::string>{"out"});
  REQUIRE(read_file(scratch.file("out")) == pattern(100000));
  REQUIRE(error_of([&] { file.commit(); }).code() == errc::bad_argument);
  REQUIRE(atomic_file(scratch.file("out")).replaces());
}

TEST_CASE("atomic_file: a sealed file that is not committed leaves nothing") {
  const scratch_directory scratch;
  {
    atomic_file file(scratch.file("out"));
    file.write(pattern(10));
    file.seal();
    REQUIRE(file.hold_temporary());
    REQUIRE(file.hold_temporary());
    REQUIRE(list_directory(scratch.path()).size() == 2);
  }
  REQUIRE(list_directory(scratch.path()).empty());
}

TEST_CASE(
    "atomic_file: a held temporary stays through commit, and a pinned one until it is dropped") {
  const scratch_directory scratch;
  const auto committed = [&](atomic_file& file) {
    file.write(pattern(10));
    REQUIRE(!file.hold_temporary());  // not sealed yet
    file.seal();
    REQUIRE(file.hold_temporary());
    file.commit();
    REQUIRE(read_file(scratch.file("out")) == pattern(10));
    REQUIRE(read_file(file.temporary()) == pattern(10));
    REQUIRE(list_directory(scratch.path()).size() == 2);
  };
  {
    atomic_file file(scratch.file("out"));
    committed(file);
  }
  REQUIRE(list_directory(scratch.path()) == std::vector<std::string>{"out"});
  {
    atomic_file file(scratch.file("out"));
    committed(file);
    file.pin_temporary();
    file.drop_temporary();
    REQUIRE(list_directory(scratch.path()) == std::vector<std::string>{"out"});
  }
  std::string left;
  {
    atomic_file file(scratch.file("out"));
    committed(file);
    file.pin_temporary();
    left = file.temporary();
  }
  REQUIRE(read_file(left) == pattern(10));
  REQUIRE(list_directory(scratch.path()).size() == 2);
}
