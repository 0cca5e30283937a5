// SPDX-License-Identifier: Apache-2.0
/// Units with different -m flags in one program: each runs its own code, and both agree.
#include <cstdint>
#include <cstdio>

std::uint64_t exercise_baseline();
std::uint64_t exercise_wide();

int main() {
  const std::uint64_t baseline = exercise_baseline();
  const std::uint64_t wide = exercise_wide();
  if (baseline == wide) return 0;
  std::fprintf(stderr, "baseline %016llx, wide %016llx\n",
               static_cast<unsigned long long>(baseline), static_cast<unsigned long long>(wide));
  return 1;
}
