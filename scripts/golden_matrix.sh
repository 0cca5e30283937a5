#!/usr/bin/env bash
# Byte parity must not depend on the compiler, on optimization or on contraction to fma: builds and
# runs tests/format/golden.cpp and ik_golden.cpp for six of compilers x -march x -O, and with --full
# for all, -O0 and x86-64-v4 among them.
#
# usage: golden_matrix.sh [--full] [BUILD_FOLDER]
set -euo pipefail
cd "$(dirname "$0")/.."
full=false
if [ "${1:-}" = --full ]; then
  full=true
  shift
fi
out=${1:-build/golden_matrix}
mkdir -p "$out"

can_run() { # this CPU, a -march
  local flag needed
  case $1 in
    x86-64-v3) needed="avx2 fma f16c bmi1 bmi2 movbe" ;;
    x86-64-v4) needed="avx512f avx512bw avx512cd avx512dq avx512vl" ;;
    *) return 0 ;;
  esac
  for flag in $needed; do
    grep -qw "$flag" /proc/cpuinfo || return 1
  done
}

archs=(native)
if [ "$(uname -m)" = x86_64 ]; then
  archs=(x86-64)
  more=(x86-64-v3)
  if $full; then more+=(x86-64-v4); fi
  for arch in "${more[@]}"; do
    if can_run "$arch"; then archs+=("$arch"); else echo "skipped: this CPU cannot run $arch"; fi
  done
  archs+=(native)
fi
compilers=()
for compiler in g++ clang++ clang++-19; do
  if command -v "$compiler" >/dev/null; then compilers+=("$compiler"); else echo "skipped: no $compiler"; fi
done
[ ${#compilers[@]} -gt 0 ] || { echo "neither g++ nor clang++ is there" >&2; exit 1; }

export out
catch_libraries=
if [ -e /usr/include/catch2/catch_all.hpp ]; then catch_libraries="-lCatch2Main -lCatch2"; fi
export catch_libraries

one() { # compiler arch optimization
  local name="$1 -march=$2 $3" file="$out/$1$3-$2"
  # shellcheck disable=SC2086
  if "$1" -std=c++20 "$3" "-march=$2" -Iinclude -Itests "-DSUBBYTE_GOLDEN_DIR=\"$PWD/tests/golden\"" \
    tests/format/golden.cpp tests/format/ik_golden.cpp "$out/main-$1.o" $catch_libraries -o "$file" >"$file.log" 2>&1 &&
    "$file" '~[slow]' >>"$file.log" 2>&1; then
    printf 'passed  %s\n' "$name"
    rm -f "$file"
  else
    printf 'FAILED  %s\n%s\n' "$name" "$(tail -n 40 "$file.log")"
    return 1
  fi
}
export -f one

for compiler in "${compilers[@]}"; do
  "$compiler" -std=c++20 -O0 -c tests/support/main.cpp -o "$out/main-$compiler.o"
done
# Every compiler meets two of three -march and every -O, and every -march every -O.
wanted() { # index of the compiler, of the arch, of the optimization
  $full || [ $((($1 + $2 + $3) % 3)) -eq 2 ]
}
optimizations=(-O2 -O3)
if $full; then optimizations+=(-O0); fi
for c in "${!compilers[@]}"; do
  for a in "${!archs[@]}"; do
    for o in "${!optimizations[@]}"; do
      if wanted "$c" "$a" "$o"; then
        printf '%s %s %s\n' "${compilers[c]}" "${archs[a]}" "${optimizations[o]}"
      fi
    done
  done
done | xargs -P "$(nproc)" -L 1 bash -c 'one "$@"' one || {
  echo "golden matrix: a configuration failed" >&2
  exit 1
}
