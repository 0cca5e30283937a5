#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Anonymous memory of examples/quantize: at most the largest tensor in F32, its output and 32 MB.

The limit is the kernel's: RLIMIT_DATA counts what a process may write to privately, whether touched
or not, so a run under the limit proves the bound for every moment of it. Mapped files do not count.

usage: quantize_memory.py --programs FOLDER --data FOLDER
"""

import os
import resource
import struct
import subprocess
import sys
import tempfile

from checks import arguments, check, exit_status
from gguf_reader import TYPES, read_gguf

SPARE = 32 << 20
STACK = 1 << 20  # of a thread; counted too


def write_large(path, tensors, rows, cols):
    """F16 matrices of zeros, which take no space on the disk."""
    with open(path, "wb") as file:
        file.write(b"GGUF" + struct.pack("<IQQ", 3, tensors, 0))
        for i in range(tensors):
            name = f"blk.{i}.ffn_up.weight".encode()
            file.write(struct.pack("<Q", len(name)) + name)
            file.write(struct.pack("<IQQIQ", 2, cols, rows, 1, i * rows * cols * 2))
        end = (file.tell() + 31) // 32 * 32
        file.truncate(end + tensors * rows * cols * 2)


def main():
    args = arguments()
    program = os.path.join(args.programs, "quantize")
    source = os.path.join(args.data, "model-f16.gguf")

    def run(command, limit):
        def restrict():
            resource.setrlimit(resource.RLIMIT_STACK, (STACK, STACK))
            resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))

        return subprocess.run([program] + command, preexec_fn=restrict, capture_output=True)

    if run(["--help"], 64 << 20).returncode != 0:
        print("skipped: the program does not start under a limit (a sanitizer reserves memory)")
        return 0

    with tempfile.TemporaryDirectory() as folder:
        target = os.path.join(folder, "out.gguf")
        _, tensors = read_gguf(source)
        weights = max(t[0][0] * t[0][-1] for t in tensors.values() if len(t[0]) == 2)
        for kind, name in ((14, "q6_k"), (2, "q4_0"), (0, "f32")):
            block, stored = TYPES[kind]
            bound = weights * 4 + weights // block * stored + SPARE
            done = run([source, target, "-f", name, "--threads", "2"], bound)
            check(done.returncode == 0, f"{name}: {bound} bytes are enough, {done.stderr!r}")

        # Nothing may be kept of the other tensors, nor of the file as a whole: its output alone is
        # larger than the bound.
        large = os.path.join(folder, "large.gguf")
        count, rows, cols = 16, 2048, 2048
        write_large(large, count, rows, cols)
        block, stored = TYPES[8]
        output = rows * cols // block * stored
        bound = rows * cols * 4 + output + SPARE
        check(count * output > bound, "the model is large enough to tell")
        for split in ([], ["--split-max-tensors", "3"]):
            done = run([large, target, "-f", "q8_0", "--threads", "2"] + split, bound)
            check(done.returncode == 0, f"{bound} bytes are enough for {split}, {done.stderr!r}")

        # The limit has teeth.
        done = run([large, target, "-f", "q8_0", "--threads", "2"], 6 << 20)
        check(done.returncode == 1 and b"memory" in done.stderr, f"a limit of 6 MB: {done.stderr!r}")

    return exit_status()


if __name__ == "__main__":
    sys.exit(main())
