// SPDX-License-Identifier: Apache-2.0
/// What the fuzz targets of blocks take their input apart with, and how they fail.
#pragma once

#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <span>
#include <type_traits>

#include "subbyte/core/bits.hpp"
#include "subbyte/core/type_list.hpp"
#include "subbyte/num/bfloat16.hpp"
#include "subbyte/num/half.hpp"

namespace fuzz {

/// The bytes of an input one after the other; zeros behind its end.
class bytes {
 public:
  bytes(const std::uint8_t* data, std::size_t size) : left_(data, size) {}

  std::uint8_t next() {
    std::uint8_t byte = 0;
    fill(&byte, 1);
    return byte;
  }
  void fill(void* to, std::size_t count) {
    const std::size_t have = count < left_.size() ? count : left_.size();
    std::memset(to, 0, count);
    if (have != 0) std::memcpy(to, left_.data(), have);
    left_ = left_.subspan(have);
  }
  [[nodiscard]] bool empty() const { return left_.empty(); }

  /// Any float: from all of its bits, from a half's or a bfloat16's, or a small integer.
  float next_float(unsigned kind) {
    std::uint32_t bits = 0;
    switch (kind % 4) {
      case 0:
        fill(&bits, 4);
        return subbyte::bit_cast<float>(bits);
      case 1:
        fill(&bits, 2);
        return subbyte::half::from_bits(static_cast<std::uint16_t>(bits)).to_float();
      case 2:
        fill(&bits, 2);
        return subbyte::bfloat16::from_bits(static_cast<std::uint16_t>(bits)).to_float();
      default:
        return static_cast<float>(static_cast<std::int8_t>(next()));
    }
  }

 private:
  std::span<const std::uint8_t> left_;
};

/// Ends the program if a law does not hold.
inline void expect(bool holds, const char* whose, const char* law) {
  if (holds) return;
  std::fprintf(stderr, "%s: %s\n", whose, law);
  std::abort();
}

/// The same bits, or both NaN.
inline bool same(float a, float b) {
  return subbyte::bit_cast<std::uint32_t>(a) == subbyte::bit_cast<std::uint32_t>(b) ||
         (std::isnan(a) && std::isnan(b));
}

/// Calls body(std::type_identity<F>{}) for the format that the byte numbers.
template <class List, class Body>
void with_format(std::uint8_t byte, const Body& body) {
  subbyte::index_t number = byte % List::size;
  subbyte::any_type(List{}, [&](auto format) {
    if (number-- != 0) return false;
    body(format);
    return true;
  });
}

}  // namespace fuzz
