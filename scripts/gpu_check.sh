#!/usr/bin/env bash
# Checks a GPU: builds the CUDA tests and benchmarks with nothing but nvcc, runs the tests, the
# sanitizers on small shapes, the probes of the device's limits and the benchmarks beside cuBLAS.
#
# usage: scripts/gpu_check.sh [STEP...]    steps: build tests memcheck racecheck probes products
#                                          initcheck synccheck; none named: all, in this order
#        scripts/gpu_check.sh --collect    before, on a machine that has them: copies the headers
#                                          that a GPU machine may lack to build/gpu_headers
#
# OUT                where results.json and log.txt go                       (build/gpu_check)
# GPU_CHECK_SECONDS  the whole ends within them: what takes too long is cut  (530)
# GPU_CHECK_ARCH     what to compile for, 90a                                (the device's own)
# GPU_CHECK_FORMATS  only these, subbyte::q4_0,subbyte::q6_k                 (all)
# GPU_CHECK_AT_ONCE  programs of a step that run side by side                (8)
# GPU_CHECK_OBJECTS  where programs are built                                (build/gpu_objects)
#
# exit: 0 tests and sanitizers passed; 1 something failed, was cut or is missing;
#       77 no GPU here: everything was built, nothing ran; 78 no nvcc here: nothing was done.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
case ${1:-} in
  -h | --help) sed -n '2,/^set/s/^# \{0,1\}//p' "$0" && exit 0 ;;
  --collect)
    mkdir -p build/gpu_headers
    for header in catch2/catch.hpp nlohmann/json.hpp; do
      found=$(echo "#include <$header>" | c++ -std=c++20 -E -x c++ - | sed -n "s|^# 1 \"\(.*\)/$header\".*|\1|p" | head -1)
      [ -n "$found" ] || { echo "$header is not installed here (Catch2: version 2.13)" && exit 1; }
      cp -rL "$found/${header%/*}" build/gpu_headers/
    done
    git describe --always --dirty --abbrev=40 >build/gpu_headers/commit
    echo "build/gpu_headers: $(du -sh build/gpu_headers | cut -f1), take it along" && exit 0 ;;
esac

out=${OUT:-build/gpu_check}
objects=${GPU_CHECK_OBJECTS:-build/gpu_objects}
parts=16 # of the sources that hold every format
mkdir -p "$out" "$objects"
out=$(realpath "$out")
logs=$objects/logs # one per step; what the programs measured lies beside them
rm -rf "$logs" "$out/results.json" "$out/log.txt"
mkdir -p "$logs"
steps=$logs/steps.tsv
: >"$steps"
wanted=" ${*:-build tests memcheck racecheck probes products initcheck synccheck} "

# Seconds: each step has its share and what the steps before it left over.
declare -A share=([build]=200 [tests]=70 [memcheck]=45 [racecheck]=45 [probes]=35 [products]=120
                  [initcheck]=0 [synccheck]=0)
total=${GPU_CHECK_SECONDS:-530}
later=0
for step in $wanted; do
  [ -n "${share[$step]:-}" ] || { echo "no step is called $step" && exit 1; }
  later=$((later + share[$step]))
done

# report NAME STATUS SECONDS [WHY]
report() { printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "${4:-}" >>"$steps"; }
# step NAME FUNCTION: runs it within its time, unless it is not wanted.
step() {
  case $wanted in *" $1 "*) ;; *) return ;; esac
  later=$((later - share[$1]))
  limit=$((total - SECONDS - later - 5))
  local begin=$SECONDS status
  if [ "$limit" -lt 3 ]; then report "$1" skipped 0 "no time was left"; return; fi
  "$2" "$1" >"$logs/$1.log" 2>&1
  status=$?
  case $status in
    0) report "$1" passed $((SECONDS - begin)) ;;
    69) report "$1" missing 0 "$(tail -1 "$logs/$1.log")" ;;
    124 | 137) report "$1" "cut" $((SECONDS - begin)) "after $limit seconds" ;;
    *) report "$1" failed $((SECONDS - begin)) "$(tail -1 "$logs/$1.log")" ;;
  esac
  { echo "==== $1: $(tail -1 "$steps")" && cat "$logs/$1.log"; } >>"$out/log.txt"
  save_results
  return $status
}
# results.json: {"steps": [...], "probes": {...}, "products": {...}}
save_results() {
  {
    printf '{"steps": ['
    awk -F'\t' '{ gsub(/["\\]/, " ", $4); gsub(/[[:cntrl:]]/, " ", $4)
      printf "%s\n {\"name\": \"%s\", \"status\": \"%s\", \"seconds\": %s, \"why\": \"%s\"}", (NR > 1 ? "," : ""), $1, $2, $3, $4 }' "$steps"
    printf ']'
    for name in probes products; do
      if [ -s "$logs/$name.json" ]; then printf ',\n"%s": ' "$name" && cat "$logs/$name.json"; fi
    done
    printf '}\n'
  } >"$out/results.json"
}

PATH=$PATH:${CUDA_PATH:-/usr/local/cuda}/bin
nvcc=$(command -v nvcc) || { echo "gpu_check: no nvcc here: nothing was done" && exit 78; }
toolkit=$(dirname "$(dirname "$(realpath "$nvcc")")")
includes="-Iinclude -Icuda -Ibench/cuda -Itests -isystem build/gpu_headers"
if ! printf '#include <catch2/catch.hpp>\n#include <nlohmann/json.hpp>\n' >"$objects/headers.cpp" ||
  ! nvcc -std=c++20 $includes -E "$objects/headers.cpp" -o /dev/null 2>"$logs/headers.log"; then
  cat "$logs/headers.log"
  echo "gpu_check: run 'scripts/gpu_check.sh --collect' where Catch2 2.13 and nlohmann/json are" \
    "installed, and bring build/gpu_headers"
  exit 1
fi
commit=$(git describe --always --dirty --abbrev=40 2>/dev/null || cat build/gpu_headers/commit 2>/dev/null)

# The device's own architecture, with its own instructions.
cat >"$objects/capability.cu" <<'CUDA'
#include <cstdio>
int main() {
  cudaDeviceProp p;
  if (cudaGetDeviceProperties(&p, 0) != cudaSuccess) return 1;
  std::printf("%d%d%s\n", p.major, p.minor, p.major == 9 ? "a" : "");
}
CUDA
nvcc -o "$objects/capability" "$objects/capability.cu" || exit 1
gpu=1
found=$("$objects/capability") || gpu=0
arch=${GPU_CHECK_ARCH:-${found:-90a}}
if [ $gpu = 0 ]; then
  echo "gpu_check: NO GPU HERE. Everything is built for sm_$arch, however long it takes; nothing runs."
  total=86400
fi

flags="-std=c++20 -O2 $(tr '\n' ' ' <cmake/cuda_flags.txt) -gencode arch=compute_$arch,code=sm_$arch $includes"
if [ -n "${GPU_CHECK_FORMATS:-}" ]; then
  flags+=" -DSUBBYTE_TESTED_FORMATS=$GPU_CHECK_FORMATS"
  parts=1
fi

# Where cuBLAS is: the toolkit, or the Python package.
blas=
blas_flags=
for root in "$toolkit" "$(python3 -c 'import nvidia; print(list(nvidia.__path__)[0] + "/cu13")' 2>/dev/null)"; do
  for lib in "$root/lib64" "$root/lib"; do
    [ -z "$blas" ] && [ -e "$root/include/cublasLt.h" ] || continue
    names=$(cd "$lib" 2>/dev/null && ls libcublas.so* libcublasLt.so* 2>/dev/null) || continue
    libraries=$(printf '%s\n' "$names" | awk -F'[.]so' '!seen[$1]++ { print lib "/" $0 }' lib="$lib" | paste -sd,)
    blas_flags="-DSUBBYTE_BENCH_CUBLAS -DSUBBYTE_TEST_CUBLAS -isystem $root/include"
    blas="-Xlinker --as-needed,$libraries,-rpath,$lib"
  done
done

# Runs stdin's lines side by side, all of them even if one fails.
each_line() {
  # shellcheck disable=SC2016
  timeout -k 5 "$limit" xargs -P "${JOBS:-$(nproc)}" -d '\n' -n 1 \
    bash -c 'eval "$0" && echo "$SECONDS s: $0" || { echo "FAILED: $0" && exit 1; }'
}

build() { # two rounds of commands, one a line: objects, programs
  local stamp source name part failed
  stamp=$({ echo "$flags $blas"; find include cuda bench/cuda tests/cuda tests/support -type f -exec cat {} +; } | sha256sum)
  if [ "$(cat "$objects/stamp" 2>/dev/null)" = "$stamp" ]; then echo "nothing has changed" && return; fi
  rm -rf "$objects/stamp" "$objects"/*.o "$objects"/tests.*
  local compile="nvcc $flags"
  {
    for source in tests/cuda/*.cu; do
      name=$(basename "$source" .cu)
      if grep -q 'cuda/cases.hpp' "$source"; then
        for ((part = 0; part < parts; ++part)); do
          echo "$compile -DSUBBYTE_TEST_PARTS=$parts -DSUBBYTE_TEST_PART=$part -c $source -o $objects/tests.$name.$part.o"
        done
      else
        echo "$compile $blas_flags -c $source -o $objects/tests.$name.o"
      fi
    done
    for ((part = 0; part < parts; ++part)); do
      echo "$compile -DSUBBYTE_FORMATS_PARTS=$parts -DSUBBYTE_FORMATS_PART=$part -c bench/cuda/formats.cu -o $objects/products.formats.$part.o"
    done
    echo "$compile -c bench/cuda/weights.cpp -o $objects/products.weights.o"
    echo "$compile -c tests/support/device_main.cpp -o $objects/main.o"
    echo "$compile -c bench/cuda/products.cu -o $objects/products.o"
    echo "$compile -c bench/cuda/probes.cu -o $objects/probes.o"
    echo "$compile $blas_flags -c bench/cuda/dense.cpp -o $objects/products.dense.o"
    echo "$compile -c bench/cuda/formats_list.cpp -o $objects/products.list.o"
    echo "$compile -c bench/cuda/harness.cpp -o $objects/bench.harness.o"
    echo "$compile -c bench/cuda/machine.cpp -o $objects/bench.machine.o"
  } >"$objects/compile.txt"
  each_line <"$objects/compile.txt"
  failed=$?
  [ $failed != 124 ] || return 124
  {
    for name in "$objects"/tests.*.o; do
      echo "nvcc $flags $name $objects/main.o $blas -o ${name%.o}"
    done
    echo "nvcc $flags $objects/probes.o $objects/bench.*.o -o $objects/probes"
    echo "nvcc $flags $objects/products.o $objects/products.*.o $objects/bench.*.o $blas -o $objects/products"
  } >"$objects/link.txt"
  each_line <"$objects/link.txt" && [ $failed = 0 ] || return
  echo "warnings: $(grep -c 'warning' "$logs/build.log")"
  echo "$stamp" >"$objects/stamp"
}

# Several at once: most of their time is the host's. All run; the worst status counts.
each_test() { # COMMAND...
  # shellcheck disable=SC2016
  timeout -k 5 "$limit" xargs -P "${GPU_CHECK_AT_ONCE:-8}" -n 1 bash -c '"${@:1:$#-1}" "${@:$#}" $cases >"${@:$#}.log" 2>&1
    status=$?; echo "== ${@:$#}: exit $status"; tail -25 "${@:$#}.log"; exit $((status != 0))' each "$@" \
    < <(printf '%s\n' "$objects"/tests.* | grep -v '\.\(o\|log\)$')
  local status=$?
  [ $status != 123 ] || status=1
  return $status
}
tests() { cases="" each_test env; }
sanitize() {
  local tool
  tool=$(PATH=$PATH:$toolkit/compute-sanitizer command -v compute-sanitizer) || { echo "no compute-sanitizer here" && return 69; }
  cases="[sanitize]" each_test "$tool" --tool "$1" --error-exitcode 9
}
bench() {
  timeout -k 5 "$limit" "$objects/$1" --out "$logs/$1.json" --seconds $((limit > 25 ? limit - 15 : 10)) --commit "$commit"
}
export cases

step build build
built=$?
if [ $gpu = 0 ]; then
  cat "$steps"
  grep -h -m 20 'FAILED\|error' "$logs/build.log"
  [ $built = 0 ] || exit 1
  echo "gpu_check: NO GPU HERE. Everything was built for sm_$arch, nothing has run."
  exit 77
fi
step tests tests
step memcheck sanitize
step racecheck sanitize
step probes bench
step products bench
step initcheck sanitize
step synccheck sanitize

for log in build tests memcheck racecheck initcheck synccheck; do
  [ ! -e "$logs/$log.log" ] || grep -h 'exit [^0]\|FAILED\|ERROR SUMMARY: [^0]' "$logs/$log.log" | cut -c 1-200 | head -8
done
python3 scripts/gpu_report.py "$out/results.json" 2>/dev/null ||
  for log in probes products; do [ ! -e "$logs/$log.log" ] || tail -40 "$logs/$log.log"; done
echo "gpu_check: $(awk -F'\t' '{ printf "%-10s %-8s %5s s  %s\n", $1, $2, $3, $4 }' "$steps" | sed '1!s/^/           /')"
echo "gpu_check: $SECONDS seconds; results in $out/results.json, all output in $out/log.txt"
! awk -F'\t' '$1 !~ /initcheck|synccheck/ || $2 == "failed"' "$steps" | cut -f2 | grep -qv passed
