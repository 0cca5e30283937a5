// SPDX-License-Identifier: Apache-2.0
/// Published vulnerabilities of GGUF readers, one case each: the file that broke them is refused
/// here for what is wrong with it, in memory that follows its size.
#include "subbyte/io/gguf.hpp"
#include "support/allocation_peak.hpp"
#include "support/files.hpp"
#include "support/gguf_bytes.hpp"

namespace gguf = subbyte::gguf;
using subbyte::errc;
using subbyte::index_t;
using test_support::byte_string;
using test_support::bytes;
using test_support::contains;
using test_support::error_of;
using namespace test_support::gguf_bytes;

namespace {

constexpr std::uint64_t two_to(int exponent) { return std::uint64_t{1} << exponent; }

// The refusal, after the memory that it took was compared with the reader's bound.
void refused(const byte_string& file, errc code, std::string_view phrase) {
  const test_support::allocation_peak peak;
  const subbyte::error e = error_of([&] { (void)gguf::parse(file.content, "crafted"); });
  CHECK(peak.bytes() <= 16 * file.content.size() + 8192);
  INFO(e.what());
  CHECK(e.code() == code);
  CHECK(contains(e.what(), phrase));
  const subbyte::error no_data =
      error_of([&] { (void)gguf::parse(file.content, "crafted", {.metadata_only = true}); });
  CHECK(no_data.code() == code);
}

byte_string one_key(std::uint32_t type) { return header(0, 1).text("k").u32(type); }

}  // namespace

// Source  Cisco Talos, TALOS-2024-1915 (llama.cpp)
TEST_CASE("CVE-2024-21836: a number of tensors whose infos' size in bytes wraps") {
  for (const std::uint64_t count : {two_to(57), two_to(58) + 1, two_to(60), two_to(62), two_to(63),
                                    ~std::uint64_t{0}, ~std::uint64_t{0} / 24 + 1}) {
    CAPTURE(count);
    const bool fits = count < two_to(63);
    refused(header(count, 0).zeros(256), fits ? errc::truncated : errc::bad_metadata,
            fits ? "claims " + std::to_string(count) + " tensors" : "does not fit 63 bits");
  }
}

// Source  Cisco Talos, TALOS-2024-1916 (llama.cpp)
TEST_CASE("CVE-2024-23605: a number of keys whose entries' size in bytes wraps") {
  for (const std::uint64_t count : {two_to(58), two_to(59) + 1, two_to(60), two_to(62), two_to(63),
                                    ~std::uint64_t{0}, ~std::uint64_t{0} / 14 + 1}) {
    CAPTURE(count);
    const bool fits = count < two_to(63);
    refused(header(0, count).zeros(256), fits ? errc::truncated : errc::bad_metadata,
            fits ? "claims " + std::to_string(count) + " keys" : "does not fit 63 bits");
  }
}

// Source  Cisco Talos, TALOS-2024-1912 (llama.cpp)
TEST_CASE("CVE-2024-21825: an array of strings whose size in bytes wraps") {
  for (const std::uint64_t count : {two_to(60), two_to(60) + 1, two_to(61), two_to(63) - 1}) {
    CAPTURE(count);
    refused(one_key(array_type).u32(string_type).u64(count).zeros(64), errc::truncated, "strings");
  }
  refused(one_key(array_type).u32(string_type).u64(two_to(63)).zeros(64), errc::bad_metadata,
          "an array's size");
  // The same with numbers: 2^61 elements of 8 bytes are 0 bytes modulo 2^64.
  for (const std::uint32_t element : {10U, 11U, 12U}) {
    refused(one_key(array_type).u32(element).u64(two_to(61)).zeros(64), errc::truncated,
            "elements of 8 bytes");
  }
}

// Source  Cisco Talos, TALOS-2024-1913 (llama.cpp)
TEST_CASE("CVE-2024-23496: a string of 2^64 - 1 bytes, whose length with a terminator is 0") {
  const std::uint64_t all = ~std::uint64_t{0};
  refused(header(0, 1).u64(all).zeros(64), errc::bad_metadata, "a key");
  refused(one_key(string_type).u64(all).zeros(64), errc::bad_metadata, "a string");
  refused(one_key(array_type).u32(string_type).u64(1).u64(all).zeros(64), errc::bad_metadata,
          "a string of an array");
  refused(header(1, 0).u64(all).zeros(64), errc::bad_metadata, "a tensor name");
  // The largest length that is no negative number.
  refused(one_key(string_type).u64(two_to(63) - 1).zeros(64), errc::truncated, "a string");
}

// Source  Cisco Talos, TALOS-2024-1914 (llama.cpp)
TEST_CASE("CVE-2024-21802: more dimensions than a reader has room for") {
  for (const std::uint32_t dims : {5U, 6U, 64U, 0x7FFFFFFFU, 0x80000000U, ~0U}) {
    CAPTURE(dims);
    refused(header(1, 0).text("w").u32(dims).zeros(1024), errc::bad_shape,
            std::to_string(dims) + " dimensions, at most 4");
  }
}

// Source  llama.cpp, GHSA-p5mv-gjc5-mwqv
TEST_CASE("CVE-2024-32878: a file that ends inside its keys, with claimed ones left unread") {
  const bytes whole = header(0, 3)
                          .text("a")
                          .u32(string_type)
                          .text("value")
                          .text("b")
                          .u32(array_type)
                          .u32(string_type)
                          .u64(2)
                          .text("x")
                          .text("y")
                          .text("c")
                          .u32(string_type)
                          .text("end")
                          .content;
  REQUIRE(gguf::parse(whole, "").metadata().size() == 3);
  for (std::size_t length = 24; length < whole.size(); ++length) {
    CAPTURE(length);
    byte_string cut;
    cut.content.assign(whole.begin(), whole.begin() + static_cast<std::ptrdiff_t>(length));
    refused(cut, errc::truncated, "");
  }
}

// Source  llama.cpp before b3427
TEST_CASE("CVE-2024-41130: a tensor name that cannot be read, behind one that can") {
  byte_string file = header(2, 0);
  info(file, "w", {1}, 0, 0);
  SECTION("longer than the file") {
    refused(file.u64(1000).zeros(64), errc::truncated, "a tensor name");
  }
  SECTION("not there") { refused(file, errc::truncated, "tensors"); }
  SECTION("cut off") { refused(file.u64(40).zeros(16), errc::truncated, "a tensor name"); }
}

// Source  Ollama before 0.1.46
TEST_CASE("CVE-2024-39720: a file of four bytes, the magic") {
  refused(byte_string().raw("GGUF"), errc::truncated, "the version");
  for (const std::size_t more : {1U, 3U, 4U, 7U, 8U, 12U, 15U}) {
    refused(byte_string().raw("GGUF").raw(std::string_view("\3\0\0\0", 4)).zeros(more),
            errc::truncated, more < 8 ? "the number of tensors" : "the number of keys");
  }
}

// Source  Ollama up to 0.3.14: the array's claimed size was allocated before it was read
TEST_CASE("CVE-2025-0315: an allocation for what the file only claims") {
  for (const std::uint32_t element : {0U, 1U, 2U, 3U, 4U, 5U, 6U, 7U, 8U, 10U, 11U, 12U}) {
    for (const int exponent : {20, 30, 33, 40, 59}) {
      CAPTURE(element, exponent);
      refused(one_key(array_type).u32(element).u64(two_to(exponent)).zeros(100), errc::truncated,
              std::to_string(two_to(exponent)));
    }
  }
  refused(one_key(string_type).u64(two_to(34)).zeros(100), errc::truncated, "17179869184 bytes");
}

// Source  Ollama up to 0.3.14: a padding computed modulo the alignment
TEST_CASE("CVE-2025-0317: an alignment of zero") {
  byte_string file = header(1, 1).text("general.alignment").u32(u32_type).u32(0);
  info(file, "w", {1}, 0, 0).pad(32).zeros(32);
  refused(file, errc::bad_metadata, "general.alignment is 0");
}

// Source  llama.cpp, GHSA-vgg9-87g3-85w8
TEST_CASE("CVE-2025-53630: tensors whose sizes add up past 2^64") {
  // Five times 2^62 bytes, each size in range, the sum modulo 2^64 a small one.
  byte_string file = header(5, 0);
  for (std::uint64_t i = 0; i < 5; ++i) {
    info(file, std::string(1, static_cast<char>('a' + i)), {two_to(62)}, 24, i * two_to(62));
  }
  refused(file.pad(32).zeros(4096), errc::bad_metadata, "63");
}

// Source  llama.cpp, GHSA-3p4r-fq3f-q74v
TEST_CASE("CVE-2026-27940: sizes that stay below 2^64 until something is added to them") {
  SECTION("padding") {
    for (const std::uint64_t less : {1U, 2U, 31U}) {
      byte_string file = header(2, 0);
      info(file, "a", {two_to(63) - less}, 24, 0);
      info(file, "b", {32}, 24, 0).pad(32).zeros(64);
      refused(file, errc::bad_metadata, "2^63");
    }
  }
  SECTION("the second tensor") {
    byte_string file = header(2, 0);
    info(file, "a", {two_to(63) - 64}, 24, 0);
    info(file, "b", {64}, 24, two_to(63) - 64).pad(32).zeros(64);
    refused(file, errc::bad_metadata, "2^63");
  }
}

TEST_CASE(
    "CVE-2026-27940: the start of the data section, added to sizes that fit, stays in range") {
  byte_string file = header(1, 0);
  info(file, "a", {two_to(63) - 64}, 24, 0).pad(32).zeros(64);
  const subbyte::error e = error_of([&] { (void)gguf::parse(file.content, ""); });
  CHECK(e.code() == errc::truncated);
  CHECK(contains(e.what(), "needs 9223372036854775744 bytes"));
  // Without its data the file says what it says; no sum of it is formed.
  const gguf::file claims = gguf::parse(file.content, "", {.metadata_only = true});
  CHECK(claims.tensor("a").size_bytes() == 9223372036854775744);
  CHECK(error_of([&] { (void)claims.tensor("a").bytes(); }).code() == errc::truncated);
}

// Source  llama.cpp, GHSA-96jg-mvhq-q7q7
TEST_CASE("CVE-2026-33298: elements whose size in bytes wraps to something small") {
  struct shape {
    std::vector<std::uint64_t> dims;
    std::uint32_t type;
  };
  // Elements fit 63 bits; times the bytes of one they are 0, 1024 or 4 MiB modulo 2^64.
  for (const shape& s :
       {shape{{two_to(62)}, 0}, shape{{two_to(62) + 256}, 0}, shape{{two_to(61) + (1 << 19)}, 28},
        shape{{two_to(32), two_to(29) + 1}, 27}, shape{{two_to(30), two_to(30), 2}, 28}}) {
    byte_string file = header(1, 0);
    info(file, "w", s.dims, s.type, 0).pad(32).zeros(4096);
    refused(file, errc::bad_shape, "size in bytes does not fit 63 bits");
  }
}

// Source  Ollama before 0.17.1, the "Bleeding Llama"
TEST_CASE("CVE-2026-7482: a tensor whose claimed bytes end behind the file") {
  struct claim {
    std::vector<std::uint64_t> dims;
    std::uint32_t type;
  };
  for (const claim& c : {claim{{33}, 24}, claim{{1 << 20}, 24}, claim{{two_to(40)}, 1},
                         claim{{64}, 2}, claim{{256, 1000000}, 12}, claim{{4096, 4096}, 0}}) {
    byte_string file = header(1, 0);
    info(file, "w", c.dims, c.type, 0).pad(32).zeros(32);
    const subbyte::error e = error_of([&] { (void)gguf::parse(file.content, "crafted"); });
    INFO(e.what());
    CHECK(e.code() == errc::truncated);
    CHECK(contains(e.what(), "and the data section has 32"));
  }
}

TEST_CASE("CVE-2026-7482: an offset behind the file") {
  byte_string file = header(2, 0);
  info(file, "a", {32}, 24, 0);
  info(file, "b", {32}, 24, two_to(40)).pad(32).zeros(64);
  refused(file, errc::bad_metadata, "required is 32");
}

TEST_CASE("llama.cpp pull request 24263: a zero among the extents divides nothing") {
  for (const std::vector<std::uint64_t>& dims :
       {std::vector<std::uint64_t>{1, 0}, {0, 1}, {0}, {0, 0, 0, 0}, {256, 0, 7}}) {
    byte_string file = header(1, 0);
    info(file, "w", dims, 0, 0).pad(32);
    const gguf::file read = gguf::parse(file.content, "");
    CHECK(read.tensor("w").size() == 0);
    CHECK(read.tensor("w").bytes().empty());
    CHECK(read.tensor("w").as<subbyte::f32>().size_bytes() == 0);
  }
}

TEST_CASE("gguf-py issue of 2026: arrays in arrays, however deep, cost no stack") {
  byte_string file = one_key(array_type);
  for (int depth = 0; depth < 100000; ++depth) file.u32(array_type).u64(1);
  refused(file, errc::bad_metadata, "array of arrays");
}
