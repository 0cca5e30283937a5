#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Recipes and importance matrices from end to end: files with the bytes of llama.cpp's own, both
forms of an importance matrix, experts with an importance each.

usage: recipe_files.py --programs FOLDER --data FOLDER
"""

import hashlib
import os
import random
import struct
import sys
import tempfile

from checks import arguments, check, exit_status, run_program
from gguf_reader import read_gguf

RECIPES = {"Q4_K_M": 15, "Q2_K": 10, "IQ3_M": 27, "IQ4_XS": 30}


def text(value):
    return struct.pack("<Q", len(value)) + value.encode()


def write_gguf(path, tensors):
    """One layer of a model with experts; tensors: {name: (dims, values)}, stored as F32."""
    keys = [text("general.architecture") + struct.pack("<I", 8) + text("llama")]
    for key, value in (("block_count", 1), ("expert_count", 3), ("attention.head_count", 4)):
        keys.append(text(f"llama.{key}") + struct.pack("<II", 4, value))
    infos, data = b"", b""
    for name, (dims, values) in tensors.items():
        infos += text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, len(data))
        data += struct.pack(f"<{len(values)}f", *values)
    head = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + infos
    with open(path, "wb") as file:
        file.write(head + bytes(-len(head) % 32) + data)


def write_legacy(path, entries):
    with open(path, "wb") as file:
        file.write(struct.pack("<i", len(entries)))
        for name, values in entries.items():
            file.write(struct.pack("<i", len(name)) + name.encode())
            file.write(struct.pack(f"<ii{len(values)}f", 1, len(values), *values))


def check_experts(folder, quantize):
    """A stack of experts gets what its matrices get alone, each with its own importance."""
    random.seed(6)
    cols, rows, experts = 256, 4, 3
    weights = [[random.gauss(0, 1) for _ in range(cols * rows)] for _ in range(experts)]
    means = [[random.expovariate(1) ** 3 for _ in range(cols)] for _ in range(experts)]
    name = "blk.0.ffn_up_exps.weight"
    stack, alone, target = (os.path.join(folder, f"{n}.gguf") for n in ("stack", "alone", "out"))
    importance = os.path.join(folder, "experts.dat")
    write_gguf(stack, {name: ([cols, rows, experts], sum(weights, []))})
    write_legacy(importance, {name: sum(means, [])})
    run_program(quantize, stack, target, "-f", "iq2_xs", "--imatrix", importance)
    stacked = read_gguf(target)[1][name][2]
    write_gguf(alone, {f"blk.0.e{i}.weight": ([cols, rows], w) for i, w in enumerate(weights)})
    write_legacy(importance, {f"blk.0.e{i}.weight": m for i, m in enumerate(means)})
    run_program(quantize, alone, target, "-f", "iq2_xs", "--imatrix", importance)
    parts = [t[2] for t in read_gguf(target)[1].values()]
    check(len(parts) == experts and stacked == b"".join(parts), "experts as they are alone")
    write_legacy(importance, {name: means[0] * experts})
    run_program(quantize, stack, target, "-f", "iq2_xs", "--imatrix", importance)
    other = read_gguf(target)[1][name][2]
    size = len(parts[0])
    check(other[:size] == parts[0] and other[size:] != stacked[size:], "importance matters")
    write_legacy(importance, {name: means[0]})
    run_program(quantize, stack, target, "-f", "iq2_xs", "--imatrix", importance,
                refused="3 x 256 channels")


def main():
    args = arguments()
    source = os.path.join(args.data, "model-f16.gguf")
    quantize = os.path.join(args.programs, "quantize")
    with open(os.path.join(args.data, "reference_llamacpp_tensors.tsv"), encoding="utf-8") as file:
        rows = [line.rstrip("\n").split("\t") for line in file][1:]
    with open(os.path.join(args.data, "reference_llamacpp.tsv"), encoding="utf-8") as file:
        sizes = {row[0]: int(row[1]) for row in (line.split("\t") for line in list(file)[1:])}

    with tempfile.TemporaryDirectory() as folder:
        target, other = os.path.join(folder, "a.gguf"), os.path.join(folder, "b.gguf")
        for recipe, number in RECIPES.items():
            run_program(quantize, source, target, "--recipe", recipe.lower(), "-m", "reference")
            metadata, tensors = read_gguf(target)
            check(metadata["general.file_type"] == number, f"{recipe}: general.file_type")
            listed = {row[2]: row[4] for row in rows if row[:2] == ["recipe", recipe]}
            check(len(listed) == 29, f"{recipe}: {len(listed)} digests")
            for name, digest in listed.items():
                check(hashlib.sha256(tensors[name][2]).hexdigest() == digest,
                      f"{recipe}: the bytes of {name} are llama.cpp's")
            check(os.path.getsize(target) == sizes[recipe], f"{recipe}: the size of llama.cpp's")

        # A pattern, an output type, everything else as the recipe has it.
        run_program(quantize, source, target, "-r", "Q4_K_M", "--tensor-type",
                    r"blk\.[01]\.ffn_down=q3_k", "--tensor-type", "ffn_down=q5_1",
                    "--output-format", "q8_0")
        changed = {name: t[1] for name, t in read_gguf(target)[1].items()}
        check(changed["blk.1.ffn_down.weight"] == 11 and changed["blk.2.ffn_down.weight"] == 7
              and changed["token_embd.weight"] == 8 and changed["blk.0.ffn_up.weight"] == 12,
              "patterns and the output's type")
        run_program(quantize, source, target, "-r", "Q4_K_M", "--pure")
        kinds = {t[1] for t in read_gguf(target)[1].values()}
        check(kinds == {0, 12}, f"--pure: {kinds}")

        # Both forms of an importance matrix say the same.
        forms = [os.path.join(folder, name) for name in ("i.gguf", "i.dat")]
        for form in forms:
            run_program(os.path.join(args.programs, "perplexity"), source, "--imatrix-out", form,
                        "--tokens", os.path.join(args.data, "calibration.tokens.u16"), "--windows",
                        "1")
        keys, entries = read_gguf(forms[0])
        check(keys["general.type"] == b"imatrix" and keys["imatrix.chunk_count"] == 1
              and keys["imatrix.chunk_size"] == 255, "keys of an imatrix")
        check(len(entries) == 2 * 28 and "output.weight.in_sum2" not in entries, "its entries")
        check(struct.unpack("<f", entries["blk.0.attn_q.weight.counts"][2]) == (255.0,), "counts")
        for form, written in zip(forms, (target, other)):
            said = run_program(quantize, source, written, "-r", "IQ2_XS", "--imatrix", form)
            check("28 matrices with importance, 1 without" in said, "how many have importance")
        (first, a), (second, b) = read_gguf(target), read_gguf(other)
        # The legacy form rounds means, the other sums: codes next to a tie differ.
        different = sum(x != y for name in a for x, y in zip(a[name][2], b[name][2]))
        check([t[:2] for t in a.values()] == [t[:2] for t in b.values()], "types of both forms")
        check(different < 0.001 * os.path.getsize(target), f"{different} bytes differ by the form")
        check(a["blk.1.ffn_up.weight"][1] == 17, "IQ2_XS")
        check(first["quantize.imatrix.file"] == forms[0].encode(), "quantize.imatrix.file")
        check(second["quantize.imatrix.entries_count"] == 28, "quantize.imatrix.entries_count")
        check(first["quantize.imatrix.chunks_count"] == 1, "quantize.imatrix.chunks_count")
        check(first["quantize.imatrix.dataset"].endswith(b"calibration.tokens.u16"), "dataset")
        run_program(quantize, source, other, "-r", "IQ2_XS", "--imatrix", forms[0], forms[0])
        check(read_gguf(other)[1] == a, "an imatrix added to itself")
        run_program(quantize, target, other, "-r", "Q4_K_M", refused="quantized already")
        check_experts(folder, quantize)

    return exit_status()


if __name__ == "__main__":
    sys.exit(main())
