// SPDX-License-Identifier: Apache-2.0
/// Files to damage, and the ways to damage one: cut it, or change a byte of it. What becomes of it
/// is for judge(results, content, sample, what) to say.
#pragma once

#include <span>
#include <string>

#include "support/catch.hpp"
#include "support/files.hpp"
#include "support/verdicts.hpp"

namespace test_support {

/// From one value of a byte to the next, where a byte takes all values: one in 17 under the address
/// sanitizer, the first and the last among them, which is slow; its [.slow] cases take all.
#if defined(__has_feature)
#if __has_feature(address_sanitizer)
inline constexpr int value_step = 17;
#else
inline constexpr int value_step = 1;
#endif
#elif defined(__SANITIZE_ADDRESS__)
inline constexpr int value_step = 17;
#else
inline constexpr int value_step = 1;
#endif

/// From one byte to the next in the largest files, likewise.
inline constexpr std::size_t byte_step = value_step == 1 ? 1 : 7;

struct sample {
  std::string name;
  bytes content;
  std::size_t header_bytes;
  bool has_data = true;
};

/// A copy of exactly that size, so that a read behind its end is one behind a heap block.
template <class Judge>
void judge_cut(const Judge& judge, verdicts& results, const sample& s, std::size_t length) {
  const bytes cut(s.content.begin(), s.content.begin() + static_cast<std::ptrdiff_t>(length));
  judge(results, cut, s, "cut after " + std::to_string(length) + " bytes");
}

/// Changes one byte of s.content and restores it.
template <class Judge>
void judge_change(const Judge& judge, verdicts& results, sample& s, std::size_t at,
                  std::uint8_t value) {
  const std::uint8_t original = s.content[at];
  if (value == original) return;
  s.content[at] = value;
  judge(results, s.content, s, "byte " + std::to_string(at) + " = " + std::to_string(value));
  s.content[at] = original;
}

/// Four changes that differ from byte to byte: one bit, all zero, `fourth`, and any value.
template <class Judge>
void judge_four_changes(const Judge& judge, verdicts& results, sample& s, std::size_t at,
                        std::uint8_t fourth) {
  const std::uint8_t original = s.content[at];
  judge_change(judge, results, s, at, static_cast<std::uint8_t>(original ^ (1U << (at % 8))));
  judge_change(judge, results, s, at, 0);
  judge_change(judge, results, s, at, fourth);
  const std::uint64_t mixed = (at + 1) * 0x9E3779B97F4A7C15U;
  judge_change(judge, results, s, at, static_cast<std::uint8_t>(mixed >> 56));
}

inline void require_no_flaw(const verdicts& results) {
  INFO(results.first_flaw);
  REQUIRE(results.flaws == 0);
}

}  // namespace test_support
