#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Breaks one line of a header at a time and checks that a test notices.

usage: mutation_test.py [--texts] [--jobs N] [--list FILE]... [HEADER-PREFIX]...

tests/mutations/*.txt hold the lines:

    num/rounding.hpp: num/rounding format/golden
    - return value < low ? low : (value > high ? high : value);
    + return value <= low ? low + 1 : (value > high ? high : value);

A header (under include/subbyte or cuda/subbyte) and the tests (under tests, without .cpp) that must notice, where
format/golden:q4_k,f16 stands for the test of these formats only and simd/primitives@avx2 for that
of one arch, which compile faster; then any number of mutations: text that occurs exactly once in
the header, and what takes its place.
A list for another compiler begins with lines like

    @build aarch64-linux-gnu-g++ -static
    @run qemu-aarch64 -cpu max

and is left out where that compiler is missing; all others take $CXX with -march=native.

--texts only looks whether each text still occurs exactly once.

A mutation is caught when a test no longer compiles, fails, crashes or takes ten times as long. The
exit status is 1 when a mutation survives, when a text is not found once, and when a test fails
without a mutation.
"""
import argparse
import collections
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
# At -O1 g++ fuses products with sums only under -fexpensive-optimizations; tests look for that.
FLAGS = ["-std=c++20", "-O1", "-fexpensive-optimizations", "-w", f"-I{ROOT}/tests",
         "-isystem/usr/include/eigen3", f'-DSUBBYTE_GOLDEN_DIR="{ROOT}/tests/golden"',
         f'-DSUBBYTE_EXAMPLE_DATA_DIR="{ROOT}/examples/data"']
# What builds a program, and what runs it.
Tools = collections.namedtuple("Tools", ["build", "run"])
NATIVE = Tools((os.environ.get("CXX", "g++"), "-march=native", "-fopenmp"), ())


def parse(path):
    """[(header, tests, old text, mutated text, line number, Tools)]"""
    found, header, tests, old, tools = [], None, [], None, NATIVE
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip() or line.startswith("#"):
            continue
        if line.startswith(("@build ", "@run ")):
            field, _, words = line[1:].partition(" ")
            tools = tools._replace(**{field: tuple(words.split())})
        elif line.startswith("- "):
            old = line[2:].strip()
        elif line.startswith("+"):
            if old is None:
                sys.exit(f"{path.name}:{number}: a + without a -")
            found.append((header, tests, old, line[1:].strip(), number, tools))
            old = None
        else:
            header, _, names = line.partition(":")
            tests = names.split()
            if not tests:
                sys.exit(f"{path.name}:{number}: no tests for {header}")
    return found


def header_text(header):
    folder = ROOT / ("cuda" if header.endswith(".cuh") else "include") / "subbyte"
    return (folder / header).read_text(encoding="utf-8")


def build(tools, test, include, program):
    test, _, archs = test.partition("@")
    test, _, formats = test.partition(":")
    for macro, scope, names in (("FORMATS", "subbyte::", formats),
                                ("ARCHS", "subbyte::arch::", archs)):
        if names:
            listed = ",".join(scope + name for name in names.split(","))
            include = [*include, f"-DSUBBYTE_TESTED_{macro}={listed}"]
    sources = [ROOT / "tests" / (test + ".cpp")]
    if "support/allocation_peak.hpp" in sources[0].read_text(encoding="utf-8"):
        sources.append(ROOT / "tests" / "io" / "allocation_peak.cpp")
    return subprocess.run(
        [tools.build[0], *FLAGS, *tools.build[1:], *include, f"-I{ROOT}/include",
         f"-I{ROOT}/cuda", *map(str, sources), "-o", str(program), "-pthread"],
        capture_output=True, text=True, check=False)


def run(tools, program, limit):
    """'' when all tests pass, else what went wrong; and the seconds it took."""
    start = time.monotonic()
    try:
        done = subprocess.run([*tools.run, program, "~[slow]"], capture_output=True, text=True,
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
        self.seconds = {}  # by test and tools
        self.mains = {}
        self.locks = {}
        self.lock = threading.Lock()

    def main(self, tools):
        """Catch's main function, compiled."""
        with self.lock:
            if tools not in self.mains:
                target = self.folder / f"main_{len(self.mains)}.o"
                subprocess.run([tools.build[0], *FLAGS, *tools.build[1:], "-c",
                                str(ROOT / "tests/support/main.cpp"), "-o", str(target)],
                               check=True)
                self.mains[tools] = str(target)
            return self.mains[tools]

    def baseline(self, tools, test):
        """Seconds that the test takes unmutated; exits when it does not pass."""
        key = tools, test
        with self.lock:
            lock = self.locks.setdefault(key, threading.Lock())
        with lock:
            if key not in self.seconds:
                own = self.folder / f"baseline_{len(self.locks)}"
                own.mkdir()
                built = build(tools, test, [self.main(tools)], own / "test")
                if built.returncode != 0:
                    raise RuntimeError(f"{test} does not compile:\n{built.stderr[:2000]}")
                wrong, seconds = run(tools, own / "test", 600)
                if wrong:
                    raise RuntimeError(f"{test} fails without a mutation: {wrong}")
                self.seconds[key] = seconds
                shutil.rmtree(own)
        return self.seconds[key]

    def try_mutation(self, index, mutation):
        header, tests, old, new, _, tools = mutation
        text = header_text(header)
        if text.count(old) != 1:
            return False, f"found {text.count(old)} times: {old}"
        own = self.folder / str(index)
        target = own / "include" / "subbyte" / header
        target.parent.mkdir(parents=True)
        target.write_text(text.replace(old, new), encoding="utf-8")
        try:
            for test in tests:
                limit = 10 * self.baseline(tools, test) + 20
                built = build(tools, test, [f"-I{own}/include", self.main(tools)], own / "test")
                if built.returncode != 0:
                    first = built.stderr.partition(" error: ")[2].partition("\n")[0]
                    return True, f"{test}: does not compile: {first}"
                wrong, _ = run(tools, own / "test", limit)
                if wrong:
                    return True, f"{test}: {wrong.splitlines()[0]}"
            return False, "SURVIVED " + " ".join(tests)
        finally:
            shutil.rmtree(own)


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("--texts", action="store_true")
    arguments.add_argument("--jobs", type=int, default=os.cpu_count())
    arguments.add_argument("--list", action="append", type=pathlib.Path)
    arguments.add_argument("prefix", nargs="*")
    options = arguments.parse_args()
    lists = options.list or sorted((ROOT / "tests" / "mutations").glob("*.txt"))
    mutations = [m for path in lists for m in parse(path)
                 if not options.prefix or m[0].startswith(tuple(options.prefix))]
    if options.texts:
        stale = [m for m in mutations if header_text(m[0]).count(m[2]) != 1]
        for header, _, old, _, number, _ in stale:
            print(f"{header}, line {number} of its list: not found once: {old}")
        print(f"mutations: {len(mutations)} texts, {len(stale)} not found once")
        return 1 if stale or not mutations else 0
    for missing in sorted({m[5].build[0] for m in mutations if not shutil.which(m[5].build[0])}):
        print(f"left out: what {missing} builds, which is not here")
        mutations = [m for m in mutations if m[5].build[0] != missing]
    survived = 0
    with tempfile.TemporaryDirectory() as folder:
        session = Session(folder)
        with concurrent.futures.ThreadPoolExecutor(options.jobs) as pool:
            results = pool.map(lambda pair: session.try_mutation(*pair), enumerate(mutations))
            for (header, _, _, new, number, _), (caught, how) in zip(mutations, results):
                survived += not caught
                print(f"{'ok  ' if caught else 'FAIL'} {header}:{number} {how}", flush=True)
                if not caught:
                    print(f"     + {new}", flush=True)
    print(f"{len(mutations) - survived} passed, {survived} failed")
    return 1 if survived or not mutations else 0


if __name__ == "__main__":
    sys.exit(main())
