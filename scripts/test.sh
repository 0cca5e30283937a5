#!/usr/bin/env bash
# Checks the whole tree: installs what is missing (Debian, Ubuntu), builds, tests, and ends with the
# minutes that each part took. Fails when a part failed. --nightly adds what takes hours.
#
# usage: test.sh [--nightly] [--part NAME]... | --list
#
# part              compiler          -m flags       what
# format, floors    -                 -              style, include floors, third-party includes, texts of mutations
# dev_build, _tests g++ -Og and -O0   none           every test, example, benchmark
# cuda              nvcc              sm_80, sm_90a  every kernel; run where a GPU is, else skipped
# asan_ubsan        clang 19          none           memory, conversions, files, under both sanitizers
# clang             clang 14          none           every header alone, with and without exceptions
# avx2              g++               x86-64-v3      registers, products
# native            g++               this CPU       numbers, registers
# aarch64           g++, under qemu   none           registers
# no_exceptions     g++ -O0           none           errors, threads, products with -fno-exceptions
# tsan              g++               none           threads, under the thread sanitizer
# fuzz              clang 19          none           every libFuzzer target for 10 s, two at a time
# golden_matrix     all three         three          ggml's bytes, at -O2 and -O3
# consumers         g++               none           find_package, add_subdirectory, -I
# compile_time      g++ -O0           none           the budget of every header
# tidy              clang-tidy 14     none           the umbrellas
#
# By day products are tested with eleven formats, one of each kind of decoding. At night: products of
# all, every test optimized and without precompiled headers, under both sanitizers, with both clangs,
# with AVX-512 and on aarch64; every header with g++ and clang 19; formats with AVX2; every test with
# -fno-exceptions that can be; damaged files at every byte; golden_matrix in every combination;
# FetchContent, vcpkg and Conan; two units with other flags in one program; an hour of fuzzing, or
# SUBBYTE_FUZZ_SECONDS for each target.
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

# Where code depends on the flags it is compiled with.
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

has_avx512() { runs_here avx512f avx512bw avx512dq avx512vl; }

cross_compiles() { # on x86; an ARM machine runs the tests itself, in the other parts
  [ "$(uname -m)" = x86_64 ] || { echo "skipped: not an x86-64 machine"; return 1; }
}

part_format() { scripts/check_format.sh; }
part_floors() { scripts/check_floors.py --self-test && scripts/check_floors.py && scripts/mutation_test.py --texts; }
part_dev_build() { configure_and_build dev; }
part_dev_tests() { ctest --preset dev; }
part_cuda() {
  configure dev || return 1
  if [ ! -d build/dev/tests/cuda_objects ]; then
    echo "skipped: no nvcc here"
    return 0
  fi
  cmake --build --preset dev --target subbyte_test_device && ctest --test-dir build/dev -L cuda --output-on-failure
}
# The folders where memory, conversions or files are handled; everything at night. The fuzz targets
# decode and encode run the formats under the same sanitizers.
part_asan_ubsan() { subset asan-ubsan tensor matrix kernel io checkpoint; }
part_clang() { configure_and_build clang subbyte_test_headers subbyte_test_headers_without_exceptions; }
part_tsan() { subset tsan exec threads; }
part_fuzz() { scripts/fuzz.sh --seconds 10; }
part_no_exceptions() { subset no-exceptions core exec kernel; }
part_nightly_no_exceptions() { suite no-exceptions; }
part_avx2() { runs_here avx2 fma f16c || return 0; subset avx2 simd kernel; }
part_nightly_avx2() { runs_here avx2 fma f16c || return 0; subset avx2 format num; }
part_nightly_clang_avx2() { runs_here avx2 fma f16c || return 0; subset clang-avx2 format simd kernel; }
# shellcheck disable=SC2086
part_nightly_clang19_avx512() { has_avx512 || return 0; subset clang19-avx512 $flag_dependent; }
part_native() { subset native num simd; }
part_aarch64() {
  cross_compiles || return 0
  subset aarch64 simd
}
part_golden_matrix() { scripts/golden_matrix.sh; }
part_nightly_symbols() { scripts/check_symbols.sh; }
consumers() { configure dev && ctest --test-dir build/dev -R "$1" --output-on-failure; }
part_consumers() { consumers '^consumers\.(find_package|add_subdirectory|include_path\.g)'; }
part_nightly_consumers() { consumers '^consumers\.'; }
part_compile_time() { tests/compile_time/measure.py --runs 1 --json build/compile_time.json; }
part_tidy() {
  configure clang || return 1
  printf 'build/clang/tests/headers/%s.hpp.cpp\n' subbyte cpu io calibrate |
    xargs -P "$jobs" -n 1 clang-tidy --quiet -p build/clang
}

part_nightly_suite() { suite nightly; } # with the slow tests and the checks of the tree
part_nightly_asan_ubsan() { suite asan-ubsan && ctest --preset asan-ubsan-slow; }
part_nightly_fuzz() { scripts/fuzz.sh --seconds "${SUBBYTE_FUZZ_SECONDS:-450}"; } # an hour in all
part_nightly_clang() { suite clang && suite clang19; }
# shellcheck disable=SC2086
part_nightly_avx512() { has_avx512 || return 0; subset avx512 $flag_dependent; }
part_nightly_aarch64() {
  cross_compiles || return 0
  suite aarch64 && subset aarch64-i8mm simd kernel
}
part_nightly_native() { subset native format kernel; }
part_nightly_golden_matrix() { scripts/golden_matrix.sh --full; }
part_nightly_conan() { scripts/conan.sh; }

parts=(format floors dev_build dev_tests cuda asan_ubsan clang avx2 native aarch64 no_exceptions tsan
  fuzz golden_matrix consumers compile_time tidy)
nightly_parts=(nightly_suite nightly_asan_ubsan nightly_fuzz nightly_clang nightly_clang_avx2
  nightly_clang19_avx512 nightly_avx2 nightly_avx512 nightly_native nightly_aarch64
  nightly_golden_matrix nightly_no_exceptions nightly_symbols nightly_consumers nightly_conan)
selected=()
all=("${parts[@]}" "${nightly_parts[@]}")
while [ $# -gt 0 ]; do
  case $1 in
    --part)
      [[ " ${all[*]} " == *" ${2:-} "* ]] || { echo "no part ${2:-}: ${all[*]}" >&2; exit 2; }
      selected+=("$2")
      shift 2
      ;;
    --nightly)
      selected+=("${all[@]}")
      shift
      ;;
    --list) printf '%s\n' "${all[@]}"; exit 0 ;;
    *) sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
  esac
done
[ ${#selected[@]} -gt 0 ] || selected=("${parts[@]}")

sets=(build test lint)
if [ "$(uname -m)" = x86_64 ]; then sets+=(cross); fi
scripts/install_deps.sh "${sets[@]}" || exit 1
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
    'BEGIN { printf "%-22s %6.1f  %s", p, s / 60, r }')$'\n'
done
printf '\n%-22s minutes\n%s' part "$table"
awk -v s=$((SECONDS - begin)) 'BEGIN { printf "%-22s %6.1f\n", "total", s / 60 }'
exit $failed
