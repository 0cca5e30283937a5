#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Keeps the generated format table in README.md and docs/formats.md equal to the registry.

usage: check_docs.py LIST_FORMATS_PROGRAM [--write]
"""
import pathlib
import subprocess
import sys

BEGIN, END = "<!-- formats: begin -->\n", "<!-- formats: end -->"


def main():
    if len(sys.argv) < 2:
        sys.exit(__doc__)
    root = pathlib.Path(__file__).resolve().parent.parent
    table = subprocess.run([sys.argv[1]], check=True, capture_output=True, text=True).stdout
    stale = []
    for name in ("README.md", "docs/formats.md"):
        path = root / name
        text = path.read_text()
        head, found, rest = text.partition(BEGIN)
        _, found_end, tail = rest.partition(END)
        if not found or not found_end:
            sys.exit(f"{name}: the markers of the format table are missing")
        fresh = head + BEGIN + table + END + tail
        if fresh != text:
            stale.append(name)
            if "--write" in sys.argv:
                path.write_text(fresh)
    if stale and "--write" not in sys.argv:
        sys.exit(f"format table out of date in {', '.join(stale)}: run {sys.argv[0]} "
                 f"{sys.argv[1]} --write")
    print("format table:", "rewritten in " + ", ".join(stale) if stale else "up to date")


main()
