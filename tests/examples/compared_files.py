#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What examples/compare says of two models: figures that are computed here anew, tensors that are
missing or of another shape, and the same weights in containers with other names.

usage: compared_files.py --programs FOLDER --data FOLDER
"""

import json
import math
import os
import shutil
import struct
import subprocess
import sys
import tempfile

from checks import arguments, check, exit_status, run_program
from gguf_reader import read_gguf


def write_safetensors(path, tensors):
    """tensors: name -> (dtype, shape, bytes)."""
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def floats(*values):
    return struct.pack(f"<{len(values)}f", *values)


def q8_0_values(data):
    values = []
    for at in range(0, len(data), 34):
        scale, *codes = struct.unpack_from("<e32b", data, at)
        values += [scale * code for code in codes]
    return values


def main():
    args = arguments()
    compare = os.path.join(args.programs, "compare")

    def compared(a, b, *options, status=0):
        done = subprocess.run([compare, a, b, "--json", *options], check=False,
                              capture_output=True, text=True)
        check(done.returncode == status, f"compare {a} {b}: {done.returncode} {done.stderr}")
        return json.loads(done.stdout) if done.stdout else {"tensors": []}

    bundled = os.path.join(args.data, "model-f16.gguf")
    with tempfile.TemporaryDirectory() as scratch:
        # The same weights under other names, with rows of queries and keys in another order.
        for a, b in ((bundled, args.data), (args.data, bundled),
                     (os.path.join(args.data, "model.safetensors"), bundled)):
            same = compared(a, b)
            check(same["complete"] and same["total"]["mse"] == 0 and same["total"]["cosine"] == 1,
                  f"{a} and {b} hold the same weights")
            check(all(t["outcome"] == "compared" and t["max_error"] == 0 for t in same["tensors"]),
                  f"{a} and {b}: every tensor")

        # A quantized copy: the figures of every tensor, from decoding it here.
        quantized = os.path.join(scratch, "q8_0.gguf")
        run_program(os.path.join(args.programs, "quantize"), bundled, quantized, "--format", "q8_0")
        _, before = read_gguf(bundled)
        _, after = read_gguf(quantized)
        shown = compared(bundled, quantized)
        check([t["name"] for t in shown["tensors"]] == list(before), "in the order of the first")
        total = [0.0, 0.0, 0.0, 0]
        for entry in shown["tensors"]:
            name = entry["name"]
            if after[name][1] != 8:
                check(entry["mse"] == 0, f"{name} was not quantized")
                x = struct.unpack(f"<{len(before[name][2]) // 4}f", before[name][2]) \
                    if before[name][1] == 0 else \
                    struct.unpack(f"<{len(before[name][2]) // 2}e", before[name][2])
                total[1] += sum(v * v for v in x)
                total[3] += len(x)
                continue
            x = struct.unpack(f"<{len(before[name][2]) // 2}e", before[name][2])
            y = q8_0_values(after[name][2])
            squared = math.fsum((a - b) ** 2 for a, b in zip(x, y))
            signal = math.fsum(a * a for a in x)
            product = math.fsum(a * b for a, b in zip(x, y))
            estimate = math.fsum(b * b for b in y)
            # Sums of doubles in another order: far nearer than 1e-9.
            for key, value in (("mse", squared / len(x)),
                               ("relative_rms", math.sqrt(squared / signal)),
                               ("sqnr_db", -10 * math.log10(squared / signal)),
                               ("cosine", product / math.sqrt(signal * estimate)),
                               ("max_error", max(abs(a - b) for a, b in zip(x, y)))):
                check(abs(entry[key] - value) <= 1e-9 * abs(value), f"{name}: {key}")
            check(entry["type_a"] == "f16" and entry["type_b"] == "q8_0", f"{name}: types")
            total[0] += squared
            total[1] += signal
            total[2] = max(total[2], entry["max_error"])
            total[3] += len(x)
        check(abs(shown["total"]["mse"] - total[0] / total[3]) <= 1e-9 * total[0] / total[3],
              "the MSE of all weights")
        check(abs(shown["total"]["relative_rms"] - math.sqrt(total[0] / total[1])) <= 1e-8,
              "the relative RMS of all weights")
        check(shown["total"]["max_error"] == total[2] and shown["total"]["weights"] == total[3],
              "the largest error and the number of all weights")
        for by, key, sign in (("mse", "mse", 1), ("max", "max_error", 1), ("cosine", "cosine", -1),
                              ("sqnr", "sqnr_db", -1), ("relative", "relative_rms", 1)):
            order = [sign * (t[key] if t[key] is not None else math.inf)
                     for t in compared(bundled, quantized, "--sort", by)["tensors"]]
            check(order == sorted(order, reverse=True), f"sorted by {by}")
        text = run_program(compare, bundled, quantized, "--sort", "name").splitlines()
        check(len(text) == len(before) + 2, "a line for each tensor, a head and a sum")
        check(text[1:-1] == sorted(text[1:-1]), "sorted by name")

        # Tensors without a counterpart, and the exit code that says so.
        a, b = os.path.join(scratch, "a.safetensors"), os.path.join(scratch, "b.safetensors")
        write_safetensors(a, {"w": ("F32", [2, 2], floats(1, 2, 3, 4)),
                              "s": ("F32", [2], floats(1, 2)),
                              "i": ("I32", [1], b"\1\0\0\0"), "j": ("I32", [1], b"\1\0\0\0"),
                              "gone": ("F32", [1], floats(0))})
        write_safetensors(b, {"w": ("F32", [2, 2], floats(1, 2, 3, 6)),
                              "s": ("F32", [3], floats(1, 2, 3)),
                              "i": ("I32", [1], b"\1\0\0\0"), "j": ("I32", [1], b"\2\0\0\0"),
                              "come": ("F32", [1], floats(0))})
        shown = compared(a, b, status=3)
        check(not shown["complete"], "not every tensor has its counterpart")
        check(shown["only_in_a"] == ["gone"] and shown["only_in_b"] == ["come"], "missing tensors")
        outcomes = {t["name"]: t["outcome"] for t in shown["tensors"]}
        check(outcomes == {"w": "compared", "s": "another shape",
                           "i": "no floats, the bytes are equal",
                           "j": "no floats, the bytes differ"}, f"outcomes {outcomes}")
        figures = next(t for t in shown["tensors"] if t["name"] == "w")
        check(figures["mse"] == 1 and figures["max_error"] == 2, "figures of w")
        done = subprocess.run([compare, a, b], check=False, capture_output=True, text=True)
        check(done.returncode == 3 and "another shape: 2 and 3" in done.stdout
              and "only in the first" in done.stdout and "only in the second" in done.stdout,
              f"the same as text: {done.stdout}")
        compared(a, a)

        # Without a config.json the rows of queries cannot be brought into GGUF's order.
        rotated = compared(bundled, os.path.join(scratch, "lone.safetensors"), status=1)
        check(not rotated["tensors"], "a file that is not there")
        shutil.copy(os.path.join(args.data, "model.safetensors"), os.path.join(scratch, "lone.safetensors"))
        rotated = compared(bundled, os.path.join(scratch, "lone.safetensors"), status=3)
        outcomes = {t["name"].rsplit(".", 2)[-2]: t["outcome"] for t in rotated["tensors"]}
        check("another order" in outcomes["attn_q"] and outcomes["attn_v"] == "compared",
              f"rows in another order: {outcomes}")
        check(rotated["total"]["mse"] == 0, "what can be compared is equal")

        run_program(compare, bundled, os.path.join(args.data, "README.md"),
                    refused="neither a GGUF file nor a safetensors file")
        run_program(compare, bundled, refused="b is required", status=(2,))
    return exit_status("compared files: ")


if __name__ == "__main__":
    sys.exit(main())
