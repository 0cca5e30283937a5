#!/usr/bin/env bash
# Quantizes the bundled language model into nine formats and measures each against the original:
# one table, build/demo/results.json, and plots beside it. Installs what is missing (Debian, Ubuntu).
#
# usage: demo.sh [--windows N]     measure on the first N windows of the text instead of all 163
set -euo pipefail
cd "$(dirname "$0")/.."

windows=0
if [ $# -eq 2 ] && [ "$1" = --windows ]; then
  windows=$2
elif [ $# -ne 0 ]; then
  sed -n '2,5s/^# \{0,1\}//p' "$0"
  exit 2
fi
formats='q8_0 q6_k q5_k q4_k q4_0 iq4_xs mxfp4 q3_k q2_k'
data=examples/data
build=build/demo-build
out=build/demo
begin=$SECONDS

step() { printf '\n==== %s (%d s)\n' "$1" $((SECONDS - begin)); }

scripts/install_deps.sh build demo
mkdir -p "$out" "$build"

step 'build the examples for this CPU'
if [ ! -f "$build/CMakeCache.txt" ] && command -v ninja >/dev/null; then
  export CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}
fi
if ! cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DSUBBYTE_TEST_ARCH=-march=native \
  -DSUBBYTE_BUILD_EXAMPLES=ON -DSUBBYTE_BUILD_TESTS=OFF -DSUBBYTE_BUILD_BENCHMARKS=OFF \
  >"$out/configure.log" 2>&1; then
  cat "$out/configure.log"
  exit 1
fi
cmake --build "$build" --parallel "$(nproc)"
bin=$build/examples

step 'quantize'
models=()
for format in $formats; do
  "$bin/quantize" "$data/model-f16.gguf" "$out/$format.gguf" --format "$format" >"$out/$format.txt"
  printf '%-8s %9d bytes\n' "$format" "$(stat -c %s "$out/$format.gguf")"
  models+=("$out/$format.gguf")
done

step 'measure: every model on the same text, a few minutes'
"$bin/perplexity" "${models[@]}" --base "$data/model-f16.gguf" --tokens "$data/alice.tokens.u16" \
  --windows "$windows" --json "$out/results.json" | tee "$out/table.txt"

step 'plot'
scripts/plot_demo.py "$out/results.json" "$out"

step 'and it still writes: q4_k'
"$bin/generate" "$out/q4_k.gguf" 'Alice was beginning to' --tokens 60

printf '\nAll of it took %d s. Models, results.json, table.txt and plots are in %s/\n' \
  $((SECONDS - begin)) "$out"
