#!/usr/bin/env bash
# Fails when clang-format would change a source file. --fix changes it instead.
set -euo pipefail
cd "$(dirname "$0")/.."

format=$(command -v clang-format-14 || command -v clang-format) || {
  echo "clang-format is missing" >&2
  exit 1
}
version=$("$format" --version | sed 's/.*version \([0-9]*\).*/\1/')
if [ "$version" != 14 ]; then
  echo "format: not checked; the sources follow clang-format 14, this is $version"
  exit 0
fi
patterns=('*.hpp' '*.cpp' '*.cuh' '*.cu')
if git rev-parse --is-inside-work-tree >/dev/null 2>&1; then
  list() { git ls-files -z --cached --others --exclude-standard -- "${patterns[@]}"; }
else
  list() { find include cuda tests examples bench -type f \( -name '*.?pp' -o -name '*.cu*' \) -print0 2>/dev/null; }
fi
# A file deleted but not yet committed is still listed.
mapfile -d '' files < <(list | while IFS= read -r -d '' f; do [ -e "$f" ] && printf '%s\0' "$f"; done)

if [ "${1:-}" = --fix ]; then
  "$format" -i "${files[@]}"
else
  "$format" --dry-run -Werror "${files[@]}"
  echo "format: ${#files[@]} files, nothing to change"
fi
