#!/usr/bin/env bash
# Makes sure that the programs and libraries of the named sets are there: installs what is missing
# on Debian and Ubuntu, elsewhere says what is missing and fails.
#
# usage: install_deps.sh SET...     sets: build test lint cross demo interop
set -euo pipefail

# set | probe (a command, a header or a Python module) | Debian package | what it is
dependencies='
build | c++                      | g++                | a C++20 compiler (g++ >= 12 or clang >= 14)
build | cmake                    | cmake              | CMake >= 3.25
build | ninja                    | ninja-build        | Ninja
build | python3                  | python3            | Python 3
build | xsimd/xsimd.hpp          | libxsimd-dev       | xsimd >= 8.1
build | nlohmann/json.hpp        | nlohmann-json3-dev | nlohmann_json >= 3.11
build | CLI/CLI.hpp              | libcli11-dev       | CLI11 >= 2.1
test  | g++                      | g++                | g++ >= 12
test  | clang++                  | clang              | clang >= 14
test  | clang++-19               | clang-19           | clang 19
test  | ../lib/llvm-19/lib/clang/19/lib/linux | libclang-rt-19-dev | the sanitizers and libFuzzer of clang 19
test  | pkg-config               | pkgconf            | pkg-config
test  | nm                       | binutils           | binutils
build | eigen3/Eigen/Core        | libeigen3-dev      | Eigen >= 3.4
test  | ../lib/llvm-19/include/c++/v1/mdspan | libc++-19-dev | libc++ 19, for std::mdspan
test  | catch2/catch_all.hpp catch2/catch.hpp | catch2 | Catch2 >= 2.13
test  | benchmark/benchmark.h    | libbenchmark-dev   | Google Benchmark >= 1.7
lint  | clang-format             | clang-format       | clang-format 14
lint  | clang-tidy               | clang-tidy         | clang-tidy 14
cross | aarch64-linux-gnu-g++    | g++-aarch64-linux-gnu | g++ for 64-bit ARM
cross | ../aarch64-linux-gnu/include/stdio.h | libc6-dev-arm64-cross | the C library for 64-bit ARM
cross | qemu-aarch64             | qemu-user          | qemu for programs of 64-bit ARM
demo  | gnuplot                  | gnuplot-nox        | gnuplot
interop | python3:ensurepip      | python3-venv       | venv of Python 3
'

trim() {
  local text=$1
  text=${text#"${text%%[![:space:]]*}"}
  printf '%s' "${text%"${text##*[![:space:]]}"}"
}

prefixes=${CMAKE_PREFIX_PATH:-}
present() { # any of the commands, headers or modules named
  local probe prefix
  for probe in $1; do
    case $probe in
      python3:*) python3 -c "import ${probe#*:}" 2>/dev/null && return 0 ;;
      */*)
        for prefix in /usr /usr/local /opt/homebrew ${prefixes//[:;]/ }; do
          [ -e "$prefix/include/$probe" ] && return 0
        done
        ;;
      *) command -v "$probe" >/dev/null && return 0 ;;
    esac
  done
  return 1
}
missing() { # "package | what it is", one a line, for the sets in the arguments
  local set probe package description
  while IFS='|' read -r set probe package description; do
    set=$(trim "$set")
    [ -n "$set" ] && [[ " $* " == *" $set "* ]] || continue
    present "$(trim "$probe")" || printf '%s|%s\n' "$(trim "$package")" "$(trim "$description")"
  done <<<"$dependencies"
}

[ $# -gt 0 ] || { sed -n '2,5s/^# \{0,1\}//p' "$0"; exit 2; }
wanted=$(missing "$@")
if [ -n "$wanted" ]; then
  if ! command -v apt-get >/dev/null; then
    echo "Please install, then run this again:" >&2
    cut -d'|' -f2 <<<"$wanted" | sed 's/^/  /' >&2
    exit 1
  fi
  as_root=()
  if [ "$(id -u)" -ne 0 ]; then
    if ! command -v sudo >/dev/null; then
      echo "Not root and no sudo. As root: apt-get install $(cut -d'|' -f1 <<<"$wanted" | xargs)" >&2
      exit 1
    fi
    as_root=(sudo)
  fi
  mapfile -t packages < <(cut -d'|' -f1 <<<"$wanted" | sort -u)
  echo "Installing: ${packages[*]}"
  "${as_root[@]}" apt-get update -q
  "${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -q -y --no-install-recommends "${packages[@]}"
  wanted=$(missing "$@")
  if [ -n "$wanted" ]; then
    echo "Still missing after the installation:" >&2
    cut -d'|' -f2 <<<"$wanted" | sed 's/^/  /' >&2
    exit 1
  fi
fi

version=$(cmake --version | sed -n '1s/[^0-9]*\([0-9.]*\).*/\1/p')
if [ "$(printf '%s\n3.25\n' "$version" | sort -V | head -1)" != 3.25 ]; then
  echo "CMake $version is too old for the presets: 3.25 or later is needed" >&2
  exit 1
fi
