#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what it costs to include the library, prints it, and fails where it is over the budget.

Seconds of the compiler's own processor time, the least of several runs (what else a machine does
makes a compiler slower, never quicker), -O0 unless the line says otherwise.

usage: measure.py [--compiler g++] [--runs 5] [--json FILE]
"""
import argparse
import json
import pathlib
import resource
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent.parent
INCLUDE = ROOT / "include"
EIGEN = "/usr/include/eigen3"  # where Debian and Ubuntu install it
EVERY_FORMAT = ROOT / "tests/compile_time/gemv_of_every_format.cpp"

# (what, seconds): a header, a folder whose every header has the budget, or a source file.
BUDGETS = [("core/", 0.5), ("num/", 0.5), ("tensor/tensor_view.hpp", 0.6), ("format/", 1.0),
           ("kernel/gemv.hpp", 2.0), ("layout/", 1.0), ("checkpoint/directory.hpp", 3.0),
           ("calibrate/gptq.hpp", 2.5), ("subbyte.hpp", 2.0), ("cpu.hpp", 3.0), ("io.hpp", 3.0),
           ("calibrate.hpp", 4.0), (EVERY_FORMAT.name, 20.0)]


def compile_seconds(compiler, source, flags):
    """User and system time of one compilation. The only child at that moment is the compiler."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [compiler, "-std=c++20", *flags, f"-I{INCLUDE}", "-isystem", EIGEN]
    command += ["-c", source, "-o", "/dev/null"]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode:
        sys.exit(f"{' '.join(command)}\n{result.stderr}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime


def units(folder):
    """(name, budget, source, flags) of every translation unit that has a budget."""
    for what, budget in BUDGETS:
        if what == EVERY_FORMAT.name:
            yield what, budget, EVERY_FORMAT, ["-O2"]
            continue
        headers = sorted((INCLUDE / "subbyte" / what).glob("*.hpp")) if what.endswith("/") else [
            INCLUDE / "subbyte" / what]
        if not headers:
            sys.exit(f"no headers in {what}")
        for header in headers:
            name = str(header.relative_to(INCLUDE))
            source = folder / (name.replace("/", "_") + ".cpp")
            source.write_text(f'#include "{name}"\n')
            yield name.removeprefix("subbyte/"), budget, source, ["-O0"]


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()

    results, over = [], []
    with tempfile.TemporaryDirectory() as folder:
        for umbrella in ("subbyte", "cpu", "io", "calibrate"):  # warms the file cache
            compile_seconds(args.compiler, INCLUDE / "subbyte" / f"{umbrella}.hpp", ["-x", "c++"])
        for name, budget, source, flags in units(pathlib.Path(folder)):
            # One run says enough of what takes seconds or is far below its budget.
            times = [compile_seconds(args.compiler, source, flags)]
            while len(times) < args.runs and budget / 10 < times[0] and times[0] < 10:
                times.append(compile_seconds(args.compiler, source, flags))
            while min(times) > budget and len(times) < 3:
                times.append(compile_seconds(args.compiler, source, flags))
            least = min(times)
            results.append({"unit": name, "seconds": round(least, 3), "budget": budget})
            if least > budget:
                over.append(name)
            mark = "  OVER" if least > budget else ""
            print(f"{name:32} {least:7.2f} s  budget {budget:4.1f} s{mark}", flush=True)
    if args.json:
        version = subprocess.run([args.compiler, "--version"], capture_output=True, text=True)
        record = {"compiler": version.stdout.splitlines()[0], "units": results}
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    if over:
        sys.exit("over the compile-time budget: " + ", ".join(over))


main()
