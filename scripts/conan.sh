#!/usr/bin/env bash
# Creates the Conan package from this checkout and builds the consumers against it, in a throw-away
# virtual environment and Conan home, with the distribution's packages in place of remote recipes.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/install_deps.sh build test interop
out=$(mktemp -d)
trap 'rm -rf "$out" tests/consumers/conan/build' EXIT

python3 -m venv "$out/venv"
"$out/venv/bin/pip" install --quiet 'conan>=2.5,<3'
export CONAN_HOME=$out/home
version=$(g++ -dumpversion)
json=$(pkg-config --modversion nlohmann_json)
xsimd=$(pkg-config --modversion xsimd)
eigen=$(pkg-config --modversion eigen3)
cat >"$out/profile" <<PROFILE
[settings]
os=Linux
arch=$(uname -m | sed 's/aarch64/armv8/')
compiler=gcc
compiler.version=${version%%.*}
compiler.libcxx=libstdc++11
compiler.cppstd=20
build_type=Release

[platform_requires]
xsimd/$xsimd
nlohmann_json/$json
eigen/$eigen

[conf]
tools.cmake.cmaketoolchain:generator=Ninja
PROFILE
"$out/venv/bin/conan" create . -pr:a "$out/profile" --build=missing --no-remote
