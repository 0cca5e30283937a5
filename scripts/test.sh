#!/usr/bin/env bash
# Checks the whole tree: installs what is missing (Debian, Ubuntu), builds, tests, and ends with the
# minutes that each part took. Fails when a part failed.
#
# usage: test.sh [--part NAME]... | --list
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1

jobs=$(nproc)
export CTEST_PARALLEL_LEVEL=$jobs CMAKE_BUILD_PARALLEL_LEVEL=$jobs

configure() { # preset
  cmake --preset "$1" >"build/$1.configure.log" 2>&1 || {
    cat "build/$1.configure.log"
    return 1
  }
}

configure_and_build() { # preset [target...]
  local preset=$1
  shift
  local -a targets=()
  if [ $# -gt 0 ]; then targets=(--target "$@"); fi
  configure "$preset" && cmake --build --preset "$preset" "${targets[@]}"
}

suite() { # preset: every test but the slow ones and the checks of the tree
  configure_and_build "$1" && ctest --preset "$1"
}

# Other flags matter where code depends on them: numbers, formats, registers, products.
flag_dependent='num format simd kernel'
subset() { # preset folder...
  local preset=$1
  shift
  local pattern
  pattern="^($(tr ' ' '|' <<<"$*"))\$"
  # shellcheck disable=SC2046
  configure_and_build "$preset" $(printf 'subbyte_test_%s ' "$@") && ctest --preset "$preset" -R "$pattern"
}

runs_here() { # cpu flag...
  local flag
  for flag in "$@"; do
    grep -qw "$flag" /proc/cpuinfo || { echo "skipped: this CPU has no $flag"; return 1; }
  done
}

part_format() { scripts/check_format.sh; }
part_floors() { scripts/check_floors.py --self-test && scripts/check_floors.py; }
part_dev_build() { configure_and_build dev; }
part_dev_tests() { ctest --preset dev; }
part_clang() { suite clang; }
# Compiling with both sanitizers is slow: the folders where memory, conversions or files are handled.
part_asan_ubsan() { subset asan-ubsan tensor exec matrix format quantize kernel metrics io checkpoint; }
part_tsan() { subset tsan exec; }
part_no_exceptions() { suite no-exceptions; }
# shellcheck disable=SC2086
part_avx2() { runs_here avx2 fma f16c || return 0; subset avx2 $flag_dependent; }
# shellcheck disable=SC2086
part_avx512() { runs_here avx512f avx512bw avx512dq avx512vl || return 0; subset avx512 $flag_dependent; }
part_golden_matrix() { scripts/golden_matrix.sh; }
part_symbols() { scripts/check_symbols.sh; }
part_consumers() { configure dev && ctest --test-dir build/dev -R '^consumers\.' --output-on-failure; }
part_tidy() {
  configure dev || return 1
  printf 'build/dev/tests/headers/%s.hpp.cpp\n' subbyte cpu io |
    xargs -P "$jobs" -n 1 clang-tidy --quiet -p build/dev
}

parts=(format floors dev_build dev_tests clang asan_ubsan tsan no_exceptions avx2 avx512
  golden_matrix symbols consumers tidy)
selected=()
while [ $# -gt 0 ]; do
  case $1 in
    --part)
      [[ " ${parts[*]} " == *" ${2:-} "* ]] || { echo "no part ${2:-}: ${parts[*]}" >&2; exit 2; }
      selected+=("$2")
      shift 2
      ;;
    --list) printf '%s\n' "${parts[@]}"; exit 0 ;;
    *) sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2 ;;
  esac
done
[ ${#selected[@]} -gt 0 ] || selected=("${parts[@]}")

scripts/install_deps.sh build test lint || exit 1
if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
mkdir -p build

table=
failed=0
begin=$SECONDS
for part in "${selected[@]}"; do
  printf '\n==== %s\n' "$part"
  start=$SECONDS
  if "part_$part"; then result=passed; else
    result=FAILED
    failed=1
  fi
  table+=$(awk -v p="$part" -v s=$((SECONDS - start)) -v r=$result \
    'BEGIN { printf "%-16s %6.1f  %s", p, s / 60, r }')$'\n'
done
printf '\n%-16s minutes\n%s' part "$table"
awk -v s=$((SECONDS - begin)) 'BEGIN { printf "%-16s %6.1f\n", "total", s / 60 }'
exit $failed
