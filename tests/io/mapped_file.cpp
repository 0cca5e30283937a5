// SPDX-License-Identifier: Apache-2.0
/// Files as memory, and everything that is not a readable file.
#include "subbyte/io/mapped_file.hpp"

#include <fstream>
#include <iterator>
#include <type_traits>

#include "support/files.hpp"

using subbyte::errc;
using subbyte::mapped_file;
using test_support::contains;
using test_support::error_of;

namespace {

test_support::bytes content_of(const mapped_file& file) {
  return {file.bytes().begin(), file.bytes().end()};
}

}  // namespace

static_assert(!std::is_copy_constructible_v<mapped_file> &&
              std::is_nothrow_move_constructible_v<mapped_file>);

TEST_CASE("mapped_file: the bytes of the file, which stay in place when the object moves") {
  const test_support::scratch_directory scratch;
  const std::string path = scratch.file("data");
  test_support::bytes content;
  for (int i = 0; i < 10000; ++i) content.push_back(static_cast<std::uint8_t>(i * 7));
  test_support::write_file(path, content);

  mapped_file file(path);
  REQUIRE(content_of(file) == content);
  const std::uint8_t* const at = file.bytes().data();
  mapped_file moved(std::move(file));
  REQUIRE(moved.bytes().data() == at);
  REQUIRE(file.bytes().empty());
  mapped_file assigned;
  REQUIRE(assigned.bytes().empty());
  assigned = std::move(moved);
  REQUIRE(content_of(assigned) == content);
  test_support::write_file(scratch.file("other"), "x");
  assigned = mapped_file(scratch.file("other"));
  REQUIRE(assigned.bytes().size() == 1);
}

TEST_CASE("mapped_file: a mapping survives the removal of its file") {
  const test_support::scratch_directory scratch;
  test_support::write_file(scratch.file("data"), "still here");
  const mapped_file file(scratch.file("data"));
  ::unlink(scratch.file("data").c_str());
  REQUIRE(file.bytes().size() == 10);
  REQUIRE(file.bytes()[0] == 's');
}

TEST_CASE("mapped_file: no descriptor stays open, and no mapping when the object is gone") {
  const test_support::scratch_directory scratch;
  const std::string path = scratch.file("data");
  test_support::write_file(path, "mapped");
  test_support::write_file(scratch.file("empty"), "");
  // Descriptors are given out from the lowest free number on.
  const auto next_descriptor = [] {
    const int number = ::dup(0);
    ::close(number);
    return number;
  };
  const auto mapped = [&] {
    std::ifstream maps("/proc/self/maps");
    return contains(std::string(std::istreambuf_iterator<char>(maps), {}), path);
  };
  const int before = next_descriptor();
  {
    mapped_file file(path);
    REQUIRE(next_descriptor() == before);
    REQUIRE(mapped());
    mapped_file& itself = file;
    file = std::move(itself);
    REQUIRE(file.bytes()[0] == 'm');
    file = mapped_file();
    REQUIRE(!mapped());
    file = mapped_file(path);
    REQUIRE(mapped());
  }
  REQUIRE(!mapped());
  for (const std::string& bad : {scratch.path(), scratch.file("empty"), scratch.file("missing")}) {
    static_cast<void>(error_of([&] { mapped_file file(bad); }));
    REQUIRE(next_descriptor() == before);
  }
}

TEST_CASE("mapped_file: what is no readable file is an error that names the path and the reason") {
  const test_support::scratch_directory scratch;
  const auto failure = [](const std::string& path) {
    return error_of([&] { mapped_file file(path); });
  };
  const subbyte::error missing = failure(scratch.file("missing"));
  REQUIRE(missing.code() == errc::io);
  REQUIRE(missing.subject() == scratch.file("missing"));
  REQUIRE(contains(missing.what(), "No such file"));

  const subbyte::error directory = failure(scratch.path());
  REQUIRE(directory.code() == errc::io);
  REQUIRE(contains(directory.what(), "Is a directory"));

  test_support::write_file(scratch.file("empty"), "");
  const subbyte::error empty = failure(scratch.file("empty"));
  REQUIRE(empty.code() == errc::truncated);
  REQUIRE(contains(empty.what(), "empty"));

  REQUIRE(failure("").code() == errc::io);
  REQUIRE(contains(failure("/dev/null").what(), "not a regular file"));
  // Opening a FIFO that nobody writes to must not wait.
  REQUIRE(::mkfifo(scratch.file("fifo").c_str(), 0600) == 0);
  REQUIRE(contains(failure(scratch.file("fifo")).what(), "not a regular file"));
  REQUIRE(failure(std::string("data\0x", 6)).code() == errc::bad_argument);
  REQUIRE(failure(scratch.file("missing/below")).code() == errc::io);
}

TEST_CASE("mapped_file: a file without read permission is an error") {
  const test_support::scratch_directory scratch;
  const std::string path = scratch.file("secret");
  test_support::write_file(path, "secret");
  REQUIRE(::chmod(path.c_str(), 0) == 0);
  const test_support::as_ordinary_user user(scratch.path());
  const subbyte::error e = error_of([&] { mapped_file file(path); });
  REQUIRE(e.code() == errc::io);
  REQUIRE(contains(e.what(), "Permission denied"));
}

TEST_CASE("mapped_file: a file that was cut while it was open is found, a replaced one is whole") {
  const test_support::scratch_directory scratch;
  const std::string path = scratch.file("data"), other = scratch.file("other");
  const test_support::bytes content(10000, 7);
  test_support::write_file(path, content);
  mapped_file file(path);
  REQUIRE_NOTHROW(file.require_whole(path));
  REQUIRE(::truncate(path.c_str(), 20000) == 0);
  REQUIRE_NOTHROW(file.require_whole(path));  // longer is whole
  REQUIRE(::truncate(path.c_str(), 9999) == 0);
  const auto e = error_of([&] { file.require_whole(path); });
  CHECK(e.code() == errc::truncated);
  CHECK(e.subject() == path);
  CHECK(contains(e.what(), "9999 of its 10000 bytes"));
  const mapped_file moved(std::move(file));
  CHECK(error_of([&] { moved.require_whole(path); }).code() == errc::truncated);
  mapped_file assigned;
  test_support::write_file(other, test_support::bytes(50, 1));
  assigned = mapped_file(other);
  test_support::write_file(other + ".part", test_support::bytes(10, 2));
  REQUIRE(::rename((other + ".part").c_str(), other.c_str()) == 0);
  REQUIRE_NOTHROW(assigned.require_whole(other));
  CHECK(content_of(assigned) == test_support::bytes(50, 1));
  REQUIRE(::unlink(other.c_str()) == 0);
  REQUIRE_NOTHROW(assigned.require_whole(other));
}
