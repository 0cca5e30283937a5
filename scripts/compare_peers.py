#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Ratios from one interleaved run of a benchmark beside a peer.

usage: compare_peers.py RUN.json --peer NAME@COMMIT --compiler TEXT [--json OUT.json] > OUT.md

RUN.json is Google Benchmark's output of
    build/.../bench/format --benchmark_enable_random_interleaving=true --benchmark_repetitions=9
        --benchmark_out=RUN.json
with benchmarks named operation/format/contender. A ratio is the peer's median time over ours: above
1 we take less time. In brackets, the same from the fastest repetitions.
"""
import argparse
import collections
import json
import re
import statistics
import sys


def cpu_model():
    with open("/proc/cpuinfo", encoding="utf-8") as info:
        for line in info:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return "unknown CPU"


def times_of(path):
    """{(operation, format): {contender: [milliseconds]}} and the run's date."""
    with open(path, encoding="utf-8") as file:
        run = json.load(file)
    times = collections.defaultdict(lambda: collections.defaultdict(list))
    for entry in run["benchmarks"]:
        if entry.get("error_occurred"):
            sys.exit(f"{entry['name']}: {entry['error_message']}")
        if entry["run_type"] == "iteration":
            operation, name, contender = entry["run_name"].split("/")[:3]
            times[operation, name][contender].append(entry["real_time"])
    return times, run["context"]["date"][:10]


def main():
    arguments = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    arguments.add_argument("run")
    arguments.add_argument("--peer", required=True)
    arguments.add_argument("--compiler", required=True)
    arguments.add_argument("--json")
    options = arguments.parse_args()
    times, date = times_of(options.run)
    peer = re.split("@", options.peer)[0]

    def ratio(slow, quick):
        return {"median": round(statistics.median(slow) / statistics.median(quick), 2),
                "fastest": round(min(slow) / min(quick), 2)}

    rows = []
    for (operation, name), by in sorted(times.items()):
        ours = by["subbyte"]
        row = {"operation": operation, "format": name,
               "milliseconds": round(statistics.median(ours), 3)}
        if peer in by:
            row["over_" + peer] = ratio(by[peer], ours)
        if "subbyte_2_threads" in by:
            row["two_threads"] = ratio(ours, by["subbyte_2_threads"])
        rows.append(row)

    machine = cpu_model()
    repetitions = max(len(by["subbyte"]) for by in times.values())
    print(f"{machine}; {date}; {options.compiler}; peer {options.peer}; {repetitions} interleaved "
          "repetitions.\n")
    print(f"| operation | format | ms | times faster than {peer} | two threads over one |")
    print("|---|---|---|---|---|")

    def cell(value):
        return f"{value['median']:.2f} ({value['fastest']:.2f})" if value else ""

    for row in rows:
        print(f"| {row['operation']} | {row['format']} | {row['milliseconds']:.2f} | "
              f"{cell(row.get('over_' + peer))} | {cell(row.get('two_threads'))} |")
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"machine": machine, "date": date, "compiler": options.compiler,
                       "peer": options.peer, "repetitions": repetitions, "results": rows},
                      file, indent=1)
            file.write("\n")


if __name__ == "__main__":
    main()
