#!/usr/bin/env bash
# Opens what the examples write with the programs it is for: llama.cpp, transformers with gptqmodel
# and compressed-tensors, onnxruntime, gguf and safetensors from PyPI, in an environment under
# build/interop. Fails when one of them reads something else than we do. Needs the network, some
# 10 GB of disk, and 30 minutes the first time. With few windows llama.cpp's rounding of activations
# alone can pass its limit.
#
# usage: interop.sh [--windows N] [--report FILE] [--recipe-report FILE]
#                   [--checkpoint-report FILE] [--folder-report FILE]
set -euo pipefail

case ${1:-} in -h | --help) sed -n '2,9s/^# \{0,1\}//p' "$0"; exit 0 ;; esac
arguments=()
checkpoint_arguments=()
folder_arguments=()
recipe_arguments=()
while [ $# -gt 0 ]; do
  case "$1 ${2:-}" in
    --windows\ [0-9]*) arguments+=(--windows "$2") recipe_arguments+=(--windows "$2") ;;
    --report\ ?*) arguments+=(--report "$(realpath -m "$2")") ;;
    --checkpoint-report\ ?*) checkpoint_arguments+=(--report "$(realpath -m "$2")") ;;
    --folder-report\ ?*) folder_arguments+=(--report "$(realpath -m "$2")") ;;
    --recipe-report\ ?*) recipe_arguments+=(--report "$(realpath -m "$2")") ;;
    *) sed -n '8,9s/^# //p' "$0" >&2; exit 2 ;;
  esac
  shift 2
done
cd "$(dirname "$0")/.."

out=build/interop
environment=$out/environment
clients='llama-cpp-python==0.3.36 gguf==0.19.0 safetensors==0.8.0 transformers==5.23.0
accelerate==1.15.0 torch==2.15.0 numpy==2.4.6 sentencepiece==0.2.3 protobuf==7.36.2
GPTQModel==7.7.0 optimum==2.3.0 compressed-tensors==0.20.0 onnx==1.23.2 onnxruntime==1.31.1'
begin=$SECONDS
step() { printf '\n==== %s (%d s)\n' "$1" $((SECONDS - begin)); }

scripts/install_deps.sh build interop
mkdir -p "$out"

step 'install the clients; llama.cpp is compiled'
if [ "$(cat "$environment/clients" 2>/dev/null)" != "$clients" ]; then
  rm -rf "$environment"
  python3 -m venv "$environment"
  # Only the library: neither images nor programs.
  # shellcheck disable=SC2086
  CMAKE_ARGS='-DLLAVA_BUILD=OFF -DLLAMA_BUILD_TOOLS=OFF -DLLAMA_BUILD_EXAMPLES=OFF
    -DLLAMA_BUILD_TESTS=OFF -DLLAMA_BUILD_SERVER=OFF' \
    CMAKE_BUILD_PARALLEL_LEVEL=${CMAKE_BUILD_PARALLEL_LEVEL:-$(nproc)} \
    "$environment/bin/python" -m pip install --disable-pip-version-check $clients \
    >"$out/install.log" 2>&1 || { tail -n 40 "$out/install.log"; exit 1; }
  printf '%s\n' "$clients" >"$environment/clients"
fi

step 'build the examples for this CPU'
if [ ! -f "$out/build/CMakeCache.txt" ] && command -v ninja >/dev/null; then
  export CMAKE_GENERATOR=${CMAKE_GENERATOR:-Ninja}
fi
cmake -S . -B "$out/build" -DCMAKE_BUILD_TYPE=Release -DSUBBYTE_TEST_ARCH=-march=native \
  -DSUBBYTE_BUILD_EXAMPLES=ON -DSUBBYTE_BUILD_TESTS=OFF -DSUBBYTE_BUILD_BENCHMARKS=OFF \
  >"$out/configure.log" 2>&1 || { cat "$out/configure.log"; exit 1; }
cmake --build "$out/build" --parallel "$(nproc)"

step 'write the files and compare'
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 "$environment/bin/python" scripts/interop.py \
  --programs "$out/build/examples" --data examples/data --work "$out/files" "${arguments[@]}"

step 'choose the types of recipes and compare'
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 "$environment/bin/python" scripts/interop_recipes.py \
  --programs "$out/build/examples" --data examples/data --work "$out/recipes" \
  "${recipe_arguments[@]}"

step 'write checkpoints and compare'
# Without the compiler of torch, which takes longer than the products it is for.
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 TORCHDYNAMO_DISABLE=1 "$environment/bin/python" \
  scripts/interop_checkpoints.py --programs "$out/build/examples" --data examples/data \
  --work "$out/checkpoints" "${checkpoint_arguments[@]}"

step 'write files of Hugging Face folders and compare'
TQDM_DISABLE=1 HF_HUB_OFFLINE=1 "$environment/bin/python" scripts/interop_huggingface.py \
  --programs "$out/build/examples" --data examples/data --work "$out/folders" \
  "${folder_arguments[@]}"
