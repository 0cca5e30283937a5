#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Models in ik_llama.cpp's types, from end to end: written, listed, run, dequantized and quantized
again; and files with its row-interleaved types, which are listed and refused by name.

usage: ik_files.py --programs FOLDER --data FOLDER
"""

import json
import os
import struct
import sys
import tempfile

from checks import arguments, check, exit_status, run_program
from gguf_reader import ROW_BYTES, TYPES, read_gguf

# GGUF type, and by how much perplexity may exceed that of F16: well above what was seen (a
# hundredth at 4 bits), well below a decoder that goes wrong.
WRITTEN = {"q6_0": (133, 1.02), "iq2_k": (137, 1.6), "iq3_k": (138, 1.1), "iq4_k": (139, 1.05),
           "iq5_k": (140, 1.03), "iq6_k": (141, 1.02), "iq2_ks": (145, 1.8), "iq3_ks": (156, 1.15),
           "iq4_ks": (144, 1.06), "iq4_kss": (146, 1.1), "iq5_ks": (152, 1.03)}


def main():
    args = arguments()
    source = os.path.join(args.data, "model-f16.gguf")
    tokens = os.path.join(args.data, "alice.tokens.u16")

    with tempfile.TemporaryDirectory() as folder:
        def path(name):
            return os.path.join(folder, name)

        def run(program, *options, refused=""):
            return run_program(os.path.join(args.programs, program), *options, refused=refused)

        def perplexity(model):
            printed = run("perplexity", model, "--tokens", tokens, "--windows", "1", "--speed", "0",
                          "--json", "-")
            return json.loads(printed)["models"][0]["perplexity"]

        original = perplexity(source)
        for name, (kind, limit) in WRITTEN.items():
            model = path(name + ".gguf")
            run("quantize", source, model, "--format", name)
            _, tensors = read_gguf(model)
            weights, stored = TYPES[kind]
            matrices = [t for t in tensors.values() if t[1] == kind]
            check(len(matrices) == 29, f"{name}: all matrices are of that type")
            for dims, _, data in matrices:
                row = dims[0] // weights * stored + ROW_BYTES.get(kind, 0)
                check(len(data) == row * dims[1], f"{name}: bytes of a tensor")
            listing = json.loads(run("inspect", model, "--json"))
            listed = {t["name"]: t for t in listing["tensors"]}
            check(listed["token_embd.weight"]["type"] == name, f"{name}: inspect names the type")
            check(listed["token_embd.weight"]["bytes"] == len(tensors["token_embd.weight"][2]),
                  f"{name}: inspect counts the bytes")
            ratio = perplexity(model) / original
            print(f"{name:8} perplexity {ratio:.4f} of F16's")
            check(ratio < limit, f"{name}: perplexity is {ratio} times that of F16")

        # Floats of the blocks, and the blocks as a source: the same values by two ways.
        for name in ("iq4_k", "iq4_ks"):
            model = path(name + ".gguf")
            run("dequantize", model, path("floats.gguf"), "--type", "f32")
            run("quantize", path("floats.gguf"), path("by_floats.gguf"), "--format", "q8_0")
            run("quantize", model, path("again.gguf"), "--format", "q8_0",
                refused="quantizing it again loses more")
            run("quantize", model, path("again.gguf"), "--format", "q8_0", "--allow-requantize")
            check(read_gguf(path("again.gguf"))[1] == read_gguf(path("by_floats.gguf"))[1],
                  f"{name}: requantizing takes the dequantized values")

        # The same bytes under the number of an interleaved type of the same size.
        for name, number, said in (("iq4_k", 339, "339 (iq4_k_r4)"),
                                   ("iq4_ks", 344, "344 (iq4_ks_r4)"),
                                   ("iq4_kss", 155, "155 (iq4_kt)")):
            kind = WRITTEN[name][0]
            with open(path(name + ".gguf"), "rb") as file:
                data = bytearray(file.read())
            marker = b"token_embd.weight" + struct.pack("<IQQI", 2, 256, 4096, kind)
            at = data.index(marker) + len(marker) - 4
            data[at:at + 4] = struct.pack("<I", number)
            repacked = path("repacked.gguf")
            with open(repacked, "wb") as file:
                file.write(data)
            listing = json.loads(run("inspect", repacked, "--json"))
            listed = {t["name"]: t["type"] for t in listing["tensors"]}
            check(listed["token_embd.weight"] == said.split("(")[1][:-1], f"{said}: inspect's name")
            for program, options in (("perplexity", ("--tokens", tokens, "--windows", "1")),
                                     ("dequantize", (path("no.gguf"),)),
                                     ("quantize", (path("no.gguf"), "--allow-requantize"))):
                run(program, repacked, *options, refused=said)
            check(not os.path.exists(path("no.gguf")), f"{said}: nothing is written")
    return exit_status("models in ik_llama.cpp's types: ")


if __name__ == "__main__":
    sys.exit(main())
