#!/usr/bin/env bash
# Builds the libFuzzer programs of tests/fuzz (clang 19, address and undefined-behaviour sanitizers)
# and runs each for a while, as many at a time as there are cores. Prints what each did; fails if one
# found something, and says with which file that can be run again.
#
# usage: fuzz.sh [--seconds N] [--build] [target...]
#
# --seconds N   for each target; otherwise SUBBYTE_FUZZ_SECONDS, otherwise 30
# --build       only builds them
#
# What a run finds interesting stays in build/fuzz/found/TARGET and is where the next begins.
set -euo pipefail
cd "$(dirname "$0")/.."

seconds=${SUBBYTE_FUZZ_SECONDS:-30}
run=1
targets=()
while [ $# -gt 0 ]; do
  case $1 in
    --seconds) seconds=${2:?--seconds needs a number}; shift ;;
    --build) run=0 ;;
    -*) sed -n '2,/^[^#]/{/^#/s/^# \{0,1\}//p}' "$0"; exit 2 ;;
    *) targets+=("$1") ;;
  esac
  shift
done
if [ ${#targets[@]} -eq 0 ]; then
  mapfile -t targets < <(basename -s .cpp tests/fuzz/*.cpp)
fi

mkdir -p build
if [ -z "${CMAKE_GENERATOR:-}" ] && command -v ninja >/dev/null; then export CMAKE_GENERATOR=Ninja; fi
cmake --preset fuzz >build/fuzz.configure.log 2>&1 || { cat build/fuzz.configure.log; exit 1; }
cmake --build --preset fuzz --parallel "$(nproc)" --target "${targets[@]/#/subbyte_fuzz_}"
[ $run = 1 ] || exit 0

fuzz_one() { # target seconds
  local target=$1 found=build/fuzz/found/$1 findings=build/fuzz/findings
  local log=build/fuzz/$1.log
  mkdir -p "$found" "$findings"
  local -a seeds=()
  for folder in "tests/fuzz/corpus/$target" "tests/golden/ggml/$target"; do
    if [ -d "$folder" ]; then seeds+=("$folder"); fi
  done
  # An input that takes 20 seconds counts as a loop; none may allocate 64 MiB at once.
  if ! "build/fuzz/tests/fuzz/$target" -max_total_time="$2" -max_len=4096 -len_control=10 \
    -timeout=20 -malloc_limit_mb=64 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="$findings/$target-" "$found" "${seeds[@]}" >"$log" 2>&1; then
    echo "$target: FAILED"
    grep -v '^#[0-9]' "$log" | grep -v '^INFO' | tail -60
    echo "$target: the input is in $findings; run build/fuzz/tests/fuzz/$target on it"
    return 1
  fi
  local runs coverage
  runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
  coverage=$(sed -n 's/^#.*DONE *cov: \([0-9]*\) ft: \([0-9]*\) corp: \([0-9]*\).*/\1 edges, \2 features, \3 inputs/p' "$log")
  printf '%-12s %10s runs in %s s, %s\n' "$target" "$runs" "$2" "$coverage"
}
export -f fuzz_one
printf '%s\n' "${targets[@]}" | xargs -P "$(nproc)" -I{} bash -c 'fuzz_one "$1" "$2"' _ {} "$seconds"
