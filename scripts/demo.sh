#!/usr/bin/env bash
# Quantizes the bundled language model into eleven formats, and by every method at the same bits, and
# measures each against the original: tables, build/demo/*.json, and plots beside them. Installs what
# is missing (Debian, Ubuntu).
#
# usage: demo.sh [--windows N] [--full]
#   --windows N   measure on the first N windows of the text instead of all 163
#   --full        all methods, bits and group sizes on both books, and calibration of 16 to 1024
#                 windows: hours instead of minutes
set -euo pipefail
cd "$(dirname "$0")/.."

windows=0
full=
while [ $# -ne 0 ]; do
  if [ "$1" = --full ]; then
    full=yes
    shift
  elif [ "$1" = --windows ] && [ $# -ge 2 ]; then
    windows=$2
    shift 2
  else
    sed -n '2,9s/^# \{0,1\}//p' "$0"
    exit 2
  fi
done
formats='q8_0 q6_k q5_k q4_k q4_0 iq4_xs mxfp4 q3_k iq3_xxs q2_k iq2_xs'
data=examples/data
build=build/demo-build
out=build/demo
begin=$SECONDS

step() { printf '\n==== %s (%d s)\n' "$1" $((SECONDS - begin)); }

scripts/install_deps.sh build demo
mkdir -p "$out" "$build"

step 'build for this CPU'
if [ ! -f "$build/CMakeCache.txt" ] && command -v ninja >/dev/null; then
  export CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}
fi
if ! cmake -S . -B "$build" -DCMAKE_BUILD_TYPE=Release -DSUBBYTE_TEST_ARCH=-march=native \
  -DSUBBYTE_BUILD_EXAMPLES=ON -DSUBBYTE_BUILD_TESTS=OFF -DSUBBYTE_BUILD_BENCHMARKS=OFF \
  >"$out/configure.log" 2>&1; then
  cat "$out/configure.log"
  exit 1
fi
cmake --build "$build" --parallel "$(nproc)" --target subbyte_example_quantize \
  subbyte_example_perplexity subbyte_example_compare_methods subbyte_example_generate
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

step 'calibrate, and quantize to the same bytes: as llama.cpp does, with importance, by GPTQ'
if [ -n "$full" ]; then calibration_windows=0; else calibration_windows=128; fi
"$bin/perplexity" "$data/model-f16.gguf" --tokens "$data/calibration.tokens.u16" \
  --windows "$calibration_windows" --calibrate "$out/calibration.safetensors"
models=()
for format in q4_k q3_k q2_k; do
  for method in reference weighted-best gptq; do
    "$bin/quantize" "$data/model-f16.gguf" "$out/$format-$method.gguf" --format "$format" \
      --method "$method" --calibration "$out/calibration.safetensors" >"$out/$format-$method.txt"
    models+=("$out/$format-$method.gguf")
  done
done
"$bin/perplexity" "${models[@]}" --base "$data/model-f16.gguf" --tokens "$data/alice.tokens.u16" \
  --windows "$windows" --speed 0 --json "$out/calibrated.json" | tee "$out/calibrated.txt"

step 'every method at the same bits'
compare() { # NAME, then options
  local name=$1
  shift
  "$bin/compare_methods" "$data/model-f16.gguf" --json "$out/$name.json" "$@" | tee "$out/$name.txt"
}
calibrated=(--calibration "$out/calibration.safetensors")
if [ -n "$full" ]; then
  texts="$data/alice.tokens.u16,$data/time_machine.tokens.u16"
  compare methods "${calibrated[@]}" --tokens "$texts" --windows "$windows" -f int4,int3,int2 \
    -g 32,64,128 -m rtn,imatrix,awq,gptq,gptq-act,awq+gptq,gptq-clip
  compare hqq --tokens "$texts" --windows "$windows" -f int4r,int3r,int2r -g 32,64,128 -m hqq
  compare blocks "${calibrated[@]}" --tokens "$texts" --windows "$windows" -f q4_k,q3_k,q2_k \
    -m imatrix,reference,gptq,awq+imatrix,awq+gptq
  compare efficiency --calibration-tokens "$data/calibration.tokens.u16" \
    --calibration-windows 16,32,64,128,256,512,1024 --tokens "$texts" --windows "$windows" \
    -f int3 -g 128 -m imatrix,awq,gptq,gptq-act,awq+gptq
  scripts/plot_methods.py "$out" "$out/methods.json" "$out/hqq.json" "$out/efficiency.json"
else
  compare methods "${calibrated[@]}" --tokens "$data/alice.tokens.u16" --windows 24 \
    -f int4,int3,int2 -g 64 -m rtn,imatrix,awq,gptq,awq+gptq,gptq-clip
  compare hqq --tokens "$data/alice.tokens.u16" --windows 24 -f int4r,int3r,int2r -g 64 -m hqq
  scripts/plot_methods.py "$out" "$out/methods.json" "$out/hqq.json"
fi

step 'and it still writes: q4_k'
"$bin/generate" "$out/q4_k.gguf" 'Alice was beginning to' --tokens 60

printf '\nAll of it took %d s. Models, tables, figures (.json) and plots are in %s/\n' \
  $((SECONDS - begin)) "$out"
