# SPDX-License-Identifier: Apache-2.0
"""scripts/gpu_report.py on a result file with invented figures: what it judges, and that it survives
files that lack parts.

usage: gpu_report.py REPOSITORY
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

MACHINE = {"device": "Invented GPU 9000 (80 GB)", "compute_capability": "9.0", "multiprocessors": 100,
           "l2_bytes": 50 << 20, "memory_bytes": 80 << 30, "driver": "1.2", "toolkit": "13.0",
           "cublas": "130000", "date": "2000-01-01T00:00:00Z", "commit": "none"}


def decoded(name, bits, share, n=8192):
    return {"format": name, "bits_per_weight": bits, "n": n, "k": 8192, "us": 50.0, "spread": 0.01,
            "tb_per_s": share * 2.0}


def product(name, bits, share, ratio, m=1, x="float"):
    return {"format": name, "bits_per_weight": bits, "n": 4096, "k": 4096, "m": m, "x": x,
            "us": 10 / share, "spread": 0.01, "tb_per_s": share * 3.0,
            "times_as_quick_as_cublas_bf16": ratio}


INVENTED = {
    "steps": [{"name": "tests", "status": "passed", "seconds": 3, "why": ""},
              {"name": "racecheck", "status": "cut", "seconds": 45, "why": "after 45 seconds"}],
    "probes": {"machine": MACHINE, "clocks": [{"when": "before", "sm_mhz": 1000.0}],
               "ceilings": [{"read_tb_per_s": 3.0, "copy_tb_per_s": 2.0, "write_tb_per_s": 2.5}],
               "reads": [{"name": "loads", "us": 300.0, "tb_per_s": 3.0}],
               "lane_instructions": [{"name": "dp4a", "tera_per_s": 100.0, "clock_mhz": 1000.0,
                                      "per_clock_and_multiprocessor": 512.0}],
               "skipped": ["probe reads_by_size"]},
    "products": {"machine": MACHINE,
                 "dequantize": [decoded("q4_0", 4.5, 0.9), decoded("q6_k", 6.5625, 0.5),
                                decoded("q8_0", 8.5, 0.1, n=1024),
                                {"format": "iq1_s", "bits_per_weight": 1.5625, "n": 8192, "k": 8192,
                                 "error": "W[0][0] is 1, not 2"}],
                 "gemv": [product("q4_0", 4.5, 0.3, 0.9), product("q4_0", 4.5, 0.7, 2.1, x="integer"),
                          product("q8_0", 8.5, 0.59, 1.2), product("iq2_xxs", 2.0625, 0.45, 1.5),
                          product("q2_k", 2.625, 0.2, 1.1), product("q4_0", 4.5, 0.5, 0.8, m=4),
                          product("q4_0", 4.5, 0.1, 0.1, m=8)],
                 "cublas": [{"type": "bf16", "n": 4096, "k": 4096, "m": 1, "us": 21.25}],
                 "skipped": []}}


def report(repository, folder, data):
    source = folder / "given.json"
    source.write_text(json.dumps(data))
    done = subprocess.run([sys.executable, repository / "scripts/gpu_report.py", source, folder / "out"],
                          capture_output=True, text=True)
    page = folder / "out/cuda-invented-gpu-9000-80-gb.md"
    return done, page.read_text() if page.exists() else ""


def expect(text, *parts):
    for part in parts:
        if part not in text:
            print(f"missing: {part}\nin:\n{text}")
            sys.exit(1)


def main():
    repository = pathlib.Path(sys.argv[1]).resolve()
    with tempfile.TemporaryDirectory() as name:
        folder = pathlib.Path(name)
        done, page = report(repository, folder, INVENTED)
        expect(f"exit {done.returncode}", "exit 0")
        expect(page, "# Invented GPU 9000 (80 GB)", "1000 MHz", "racecheck cut (after 45 seconds)",
               # q8_0's output is below 64 MB and does not count.
               "| dequantize to half: 0.85 of the copy ceiling | not met by 1 of 2 "
               "| q6_k 8192x8192 (0.50) |",
               # The quickest x of q4_0 meets it; a format of two bits that is no codebook has none.
               "0.60 of the read ceiling | not met by 1 of 2 | q8_0 4096x4096 (0.59) |",
               "0.40 of the read ceiling | met |",
               # m = 8 is beyond the promise.
               "not slower than cuBLAS bf16 | not met by 1 of 5 | q4_0 4096x4096 m = 4 (0.80) |",
               "| q4_0 | 4.5 | 0.7 / 2.1 i |", "| 1 | 21.25 |", "iq1_s 8192x8192: W[0][0] is 1, not 2",
               "probe reads_by_size", "| dp4a | 100 | 512 | 1000 |")
        expect((folder / "out/cuda-invented-gpu-9000-80-gb.json").read_text(), "iq2_xxs")
        if shutil.which("gnuplot"):
            for plot in ("dequantize", "gemv", "cublas"):
                file = folder / f"out/cuda-invented-gpu-9000-80-gb-{plot}.png"
                expect(page, file.name)
                expect(repr(file.read_bytes()[:8]), "PNG")

        done = subprocess.run([sys.executable, repository / "scripts/gpu_report.py",
                               folder / "given.json"], capture_output=True, text=True)
        expect(done.stdout, "| 3 | 2 | 2.5 |", "not met by 1 of 2", "| q4_0 | 4.5 | 0.7 / 2.1 i |")

        done, page = report(repository, folder, {"steps": [], "products": {"machine": MACHINE}})
        expect(f"exit {done.returncode} {done.stderr}", "exit 0")
        expect(page, "not measured")
        done, _ = report(repository, folder, {"steps": []})
        expect(f"exit {done.returncode} {done.stderr}", "exit 1", "nothing was measured")
    print("gpu_report: as expected")


if __name__ == "__main__":
    main()
