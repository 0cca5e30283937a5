#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks one line of a header at a time and checks that a test notices.

usage: mutation_test.py [--jobs N] [--list FILE]... [HEADER-PREFIX]...

tests/mutations/*.txt hold the lines:

    num/rounding.hpp: num/rounding format/golden
    - return value < low ? low : (value > high ? high : value);
    + return value <= low ? low + 1 : (value > high ? high : value);

A header (under include/subbyte) and the tests (under tests, without .cpp) that must notice, then
any number of mutations: text that occurs exactly once in the header, and what takes its place. A
mutation is caught when a test no longer compiles, fails, crashes or takes ten times as long. The
exit status is 1 when a mutation survives, when a text is not found once, and when a test fails
without a mutation.
"""
import argparse
import concurrent.futures
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import threading
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
FLAGS = ["-std=c++20", "-O1", "-march=native", "-fopenmp", "-w", f"-I{ROOT}/tests",
         f'-DSUBBYTE_GOLDEN_DIR="{ROOT}/tests/golden"',
         f'-DSUBBYTE_EXAMPLE_DATA_DIR="{ROOT}/examples/data"']
COMPILER = os.environ.get("CXX", "g++")


def parse(path):
    """[(header, tests, old text, mutated text, line number)]"""
    found, header, tests, old = [], None, [], None
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith("- "):
            old = line[2:].strip()
        elif line.startswith("+"):
            if old is None:
                sys.exit(f"{path.name}:{number}: a + without a -")
            found.append((header, tests, old, line[1:].strip(), number))
            old = None
        else:
            header, _, names = line.partition(":")
            tests = names.split()
            if not tests:
                sys.exit(f"{path.name}:{number}: no tests for {header}")
    return found


def build(test, include, program):
    sources = [ROOT / "tests" / (test + ".cpp")]
    if "support/allocation_peak.hpp" in sources[0].read_text(encoding="utf-8"):
        sources.append(ROOT / "tests" / "io" / "allocation_peak.cpp")
    return subprocess.run(
        [COMPILER, *FLAGS, *include, f"-I{ROOT}/include", *map(str, sources),
         str(program.parent.parent / "main.o"), "-o", str(program), "-pthread"],
        capture_output=True, text=True, check=False)


def run(program, limit):
    """'' when all tests pass, else what went wrong; and the seconds it took."""
    start = time.monotonic()
    try:
        done = subprocess.run([program, "~[slow]"], capture_output=True, text=True,
                              errors="replace", timeout=limit,
                              check=False, cwd=program.parent)
    except subprocess.TimeoutExpired:
        return "takes too long", limit
    seconds = time.monotonic() - start
    if done.returncode == 0:
        return "", seconds
    if done.returncode < 0:
        return f"signal {-done.returncode}", seconds
    names = done.stdout.split("\n" + "-" * 79 + "\n")
    return (names[1].strip() if len(names) > 1 else f"exit status {done.returncode}"), seconds


class Session:
    def __init__(self, folder):
        self.folder = pathlib.Path(folder)
        self.seconds = {}
        self.locks = {}
        self.lock = threading.Lock()

    def baseline(self, test):
        """Seconds that the test takes unmutated; exits when it does not pass."""
        with self.lock:
            lock = self.locks.setdefault(test, threading.Lock())
        with lock:
            if test not in self.seconds:
                own = self.folder / ("baseline_" + test.replace("/", "_"))
                own.mkdir()
                built = build(test, [], own / "test")
                if built.returncode != 0:
                    raise RuntimeError(f"{test} does not compile:\n{built.stderr[:2000]}")
                wrong, seconds = run(own / "test", 600)
                if wrong:
                    raise RuntimeError(f"{test} fails without a mutation: {wrong}")
                self.seconds[test] = seconds
                shutil.rmtree(own)
        return self.seconds[test]

    def try_mutation(self, index, mutation):
        header, tests, old, new, _ = mutation
        text = (ROOT / "include" / "subbyte" / header).read_text(encoding="utf-8")
        if text.count(old) != 1:
            return False, f"found {text.count(old)} times: {old}"
        own = self.folder / str(index)
        target = own / "include" / "subbyte" / header
        target.parent.mkdir(parents=True)
        target.write_text(text.replace(old, new), encoding="utf-8")
        try:
            for test in tests:
                limit = 10 * self.baseline(test) + 20
                built = build(test, [f"-I{own}/include"], own / "test")
                if built.returncode != 0:
                    first = built.stderr.partition(" error: ")[2].partition("\n")[0]
                    return True, f"{test}: does not compile: {first}"
                wrong, _ = run(own / "test", limit)
                if wrong:
                    return True, f"{test}: {wrong.splitlines()[0]}"
            return False, "SURVIVED " + " ".join(tests)
        finally:
            shutil.rmtree(own)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments.add_argument("--list", action="append", type=pathlib.Path)
    arguments.add_argument("prefix", nargs="*")
    options = arguments.parse_args()
    lists = options.list or sorted((ROOT / "tests" / "mutations").glob("*.txt"))
    mutations = [m for path in lists for m in parse(path)
                 if not options.prefix or m[0].startswith(tuple(options.prefix))]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run([COMPILER, *FLAGS, "-c", str(ROOT / "tests/support/main.cpp"), "-o",
                        os.path.join(folder, "main.o")], check=True)
        session = Session(folder)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = pool.map(lambda pair: session.try_mutation(*pair), enumerate(mutations))
            for (header, _, _, new, number), (caught, how) in zip(mutations, results):
                survived += not caught
                print(f"{'ok  ' if caught else 'FAIL'} {header}:{number} {how}", flush=True)
                if not caught:
                    print(f"     + {new}", flush=True)
    print(f"{len(mutations) - survived} passed, {survived} failed")
    return 1 if survived or not mutations else 0


if __name__ == "__main__":
    sys.exit(main())
