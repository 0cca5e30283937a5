#!/usr/bin/env bash
# Objects with different -m flags may be linked into one program: every weak function of the library
# must carry the flags in its name (arch::isa_...), or the linker keeps one copy for both and the
# wrong CPU runs it. Compiles the two units of tests/odr with different flags, looks at their
# symbols, then links and runs them together.
#
# Allowed: data, the class error, and the standard library's templates over our types.
set -euo pipefail
cd "$(dirname "$0")/.."
out=$(mktemp -d)
trap 'rm -rf "$out"' EXIT

wide=-march=x86-64-v3
if [ "$(uname -m)" != x86_64 ]; then wide=-march=native; fi
if ! grep -qw fma /proc/cpuinfo && [ "$(uname -m)" = x86_64 ]; then
  echo "this CPU cannot run $wide: symbols are checked, the program is not run"
  run=true
fi

# stdin: nm output. The names of our weak functions without the flags in their name.
offenders() {
  awk 'NF == 3 && $2 == "W" && $NF ~ /7subbyte/ && $NF !~ /isa_[01]+/ &&
       $NF !~ /^_ZT/ && $NF !~ /^_ZN?K?(S[tabsiod]|9__gnu_cxx)/ && $NF !~ /^_ZN?K?7subbyte2v05error[CD]/ &&
       $NF !~ /^_ZNK7subbyte2v05error/ { print $NF }' | sort -u | c++filt
}

check() { # compiler optimization
  local name="$1 $2" unit flags status=0 found
  local -a objects=()
  for unit in baseline wide; do
    flags=
    if [ $unit = wide ]; then flags=$wide; fi
    objects+=("$out/$unit$1$2.o")
    # shellcheck disable=SC2086
    "$1" -std=c++20 "$2" $flags -Iinclude -c "tests/odr/$unit.cpp" -o "${objects[-1]}"
  done
  "$1" -std=c++20 "$2" -Iinclude -c tests/odr/main.cpp -o "$out/main$1$2.o"
  found=$(nm "${objects[@]}" | offenders)
  if [ -n "$found" ]; then
    printf '%s: weak functions that do not carry the -m flags:\n%s\n' "$name" "$found"
    status=1
  fi
  "$1" "$out/main$1$2.o" "${objects[@]}" -pthread -o "$out/odr$1$2"
  ${run:-} "$out/odr$1$2" || { echo "$name: the two units disagree"; status=1; }
  [ $status = 0 ] && echo "$name: no weak function without the -m flags; both units agree"
  return $status
}
export -f check offenders

# The check itself: a weak function without the flags is seen, one with them is not.
cat >"$out/planted.cpp" <<'PLANTED'
namespace subbyte::inline v0 {
namespace arch::inline isa_000 { struct tag; }
template <class T> void planted(T*) {}
inline void also_planted() {}
}  // namespace subbyte::inline v0
void f(subbyte::arch::tag* t, int* i) { subbyte::planted(t); subbyte::planted(i); subbyte::also_planted(); }
PLANTED
c++ -std=c++20 -O0 -c "$out/planted.cpp" -o "$out/planted.o"
if [ "$(nm "$out/planted.o" | offenders | grep -c planted)" != 2 ]; then
  echo "this script does not see the planted weak functions" >&2
  exit 1
fi
export out wide run

for compiler in g++ clang++ clang++-19; do
  command -v "$compiler" >/dev/null || continue
  for optimization in -O0 -O2; do printf '%s %s\n' "$compiler" "$optimization"; done
done | xargs -P "$(nproc)" -L 1 bash -euo pipefail -c 'check "$@"' check
