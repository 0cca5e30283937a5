#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Measures what it costs to include the library, prints it, and fails where it is over the budget.

Seconds of the compiler's own processor time, the least of several runs (what else a machine does
makes a compiler slower, never quicker), -O0 unless the line says otherwise; scaled to a machine on
which a unit of standard headers takes REFERENCE seconds, since machines differ, and one machine
from hour to hour, by more than a header grows.

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

REFERENCE = 0.80  # g++ 12.2 on an Intel Xeon with AMX, nothing else running
REFERENCE_HEADERS = ("algorithm", "filesystem", "functional", "iostream", "map", "regex")

# (what, seconds): a header, a folder whose every header has the budget, or a source file.
BUDGETS = [("core/", 0.5), ("num/", 0.5), ("tensor/tensor_view.hpp", 0.6), ("format/", 1.0),
           ("kernel/gemv.hpp", 2.0), ("layout/", 1.0), ("checkpoint/directory.hpp", 3.0),
           ("calibrate/gptq.hpp", 2.5), ("subbyte.hpp", 2.0), ("cpu.hpp", 3.0), ("io.hpp", 3.5),
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


class Stopwatch:
    """Times units on this machine, in seconds of the reference machine."""

    def __init__(self, compiler, folder):
        self.compiler = compiler
        self.unit = folder / "reference.cpp"
        self.unit.write_text("".join(f"#include <{h}>\n" for h in REFERENCE_HEADERS))
        compile_seconds(compiler, self.unit, ["-O0"])  # warms the file cache
        self.reference = self.least(self.unit, ["-O0"], 5)

    def least(self, source, flags, runs):
        return min(compile_seconds(self.compiler, source, flags) for _ in range(runs))

    def measure(self, source, flags, budget, runs):
        """The least of `runs`; over the budget, again beside the reference as it is by then."""
        seconds = self.least(source, flags, 1)
        # One run says enough of what takes seconds or is far below its budget.
        if budget / 10 < seconds < 10 and runs > 1:
            seconds = min(seconds, self.least(source, flags, runs - 1))
        scaled = seconds * REFERENCE / self.reference
        for _ in range(4):
            if scaled <= budget:
                break
            self.reference = self.least(self.unit, ["-O0"], 2)
            scaled = min(scaled, self.least(source, flags, 1) * REFERENCE / self.reference)
        return scaled


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--compiler", default="g++")
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--json", type=pathlib.Path)
    args = parser.parse_args()

    results, over = [], []
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        for umbrella in ("subbyte", "cpu", "io", "calibrate"):  # warms the file cache
            compile_seconds(args.compiler, INCLUDE / "subbyte" / f"{umbrella}.hpp", ["-x", "c++"])
        stopwatch = Stopwatch(args.compiler, folder)
        print(f"a unit of standard headers takes {stopwatch.reference:.2f} s here, "
              f"{REFERENCE:.2f} s on the machine of the budgets", flush=True)
        for name, budget, source, flags in units(folder):
            seconds = stopwatch.measure(source, flags, budget, args.runs)
            results.append({"unit": name, "seconds": round(seconds, 3), "budget": budget})
            if seconds > budget:
                over.append(name)
            mark = "  OVER" if seconds > budget else ""
            print(f"{name:32} {seconds:7.2f} s  budget {budget:4.1f} s{mark}", flush=True)
    if args.json:
        version = subprocess.run([args.compiler, "--version"], capture_output=True, text=True)
        record = {"compiler": version.stdout.splitlines()[0], "units": results}
        args.json.write_text(json.dumps(record, indent=1) + "\n")
    if over:
        sys.exit("over the compile-time budget: " + ", ".join(over))


main()
