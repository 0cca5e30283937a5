#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What examples/inspect --verify says of sound and of damaged models, and its exit codes.

usage: verified_files.py --programs FOLDER --data FOLDER
"""

import json
import os
import struct
import subprocess
import sys
import tempfile

from checks import arguments, check, exit_status, run_program
from gguf_reader import read_gguf


def main():
    args = arguments()
    inspect = os.path.join(args.programs, "inspect")
    bundled = os.path.join(args.data, "model-f16.gguf")

    def verify(path, *options):
        return subprocess.run([inspect, path, "--verify", *options], check=False,
                              capture_output=True, text=True)

    for path in (bundled, args.data, os.path.join(args.data, "model.safetensors")):
        done = verify(path)
        check(done.returncode == 0 and done.stdout == f"{path}: 0 faults, 0 notes\n",
              f"{path} is sound: {done.stdout}{done.stderr}")

    with open(bundled, "rb") as file:
        content = file.read()
    _, tensors = read_gguf(bundled)
    with tempfile.TemporaryDirectory() as scratch:
        def damaged(name, *changes):
            path = os.path.join(scratch, name)
            data = bytearray(content)
            for at, replacement in changes:
                data[at:at + len(replacement)] = replacement
            with open(path, "wb") as file:
                file.write(data)
            return path

        # A NaN in row 2 of a matrix, and a head count that does not divide.
        matrix = tensors["blk.1.ffn_up.weight"]
        check(matrix[1] == 1 and content.count(matrix[2]) == 1, "the matrix is one of halves")
        at = content.index(matrix[2]) + 2 * (2 * matrix[0][0] + 7)
        key = b"llama.attention.head_count" + struct.pack("<I", 4)
        check(content.count(key) == 1, "the key is there once")
        heads = content.index(key) + len(key)
        path = damaged("both.gguf", (at, b"\x00\x7e"), (heads, struct.pack("<I", 7)))
        done = verify(path)
        lines = done.stdout.splitlines()
        check(done.returncode == 3, f"exit code {done.returncode}")
        check("FAULT blk.1.ffn_up.weight, row 2, block 7: the weight is Inf or NaN" in lines,
              f"the NaN is found: {lines}")
        check(any(line.startswith("FAULT llama.attention.head_count: 7 heads do not divide")
                  for line in lines), "the head count is found")
        done = verify(path, "--json")
        shown = json.loads(done.stdout)
        check(done.returncode == 3 and shown["faults"] == len(lines) - 1, "the same as JSON")
        found = [f for f in shown["findings"] if f["subject"] == "blk.1.ffn_up.weight"]
        check(found == [{"fault": True, "subject": "blk.1.ffn_up.weight", "row": 2, "block": 7,
                         "message": "the weight is Inf or NaN"}], f"the finding: {found}")

        check(verify(bundled, "--largest", "0.001").returncode == 3, "weights above a limit")
        run_program(inspect, damaged("cut.gguf", (0, b"GGUF\x03\0\0\0" + b"\xff" * 8)), "--verify",
                    refused="the number of tensors")
        run_program(inspect, bundled, "--largest", "5", refused="--verify", status=(2,))
    return exit_status("verified files: ")


if __name__ == "__main__":
    sys.exit(main())
