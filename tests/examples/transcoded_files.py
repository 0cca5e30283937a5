#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What examples/transcode writes: a GPTQ checkpoint made here, as an AWQ directory and as a GGUF
file, decoded by code of this script's own; and what it refuses.

usage: transcoded_files.py --programs FOLDER --data FOLDER
"""

import json
import os
import random
import shutil
import struct
import subprocess
import sys
import tempfile

from checks import arguments, check, exit_status
from gguf_reader import read_gguf

GROUP = 32
QUERY = "model.layers.0.self_attn.q_proj"
DOWN = "model.layers.1.mlp.down_proj"
AWQ_ORDER = [0, 2, 4, 6, 1, 3, 5, 7]


def read_safetensors(path):
    """name -> (dtype, shape, bytes)"""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack_from("<Q", data)
    header = json.loads(data[8:8 + length])
    header.pop("__metadata__", None)
    return {name: (entry["dtype"], entry["shape"],
                   data[8 + length + entry["data_offsets"][0]:8 + length + entry["data_offsets"][1]])
            for name, entry in header.items()}


def write_safetensors(path, tensors):
    header, data = {}, b""
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header).encode()
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def words(values):
    return struct.pack(f"<{len(values)}I", *values)


class Module:
    """Random codes [n][k] and f16 scales [n][groups]; zero point 8."""

    def __init__(self, n, k, seed):
        generator = random.Random(seed)
        self.n, self.k, self.groups = n, k, k // GROUP
        self.codes = [[generator.randrange(16) for _ in range(k)] for _ in range(n)]
        self.scales = [[struct.pack("<e", generator.uniform(0.001, 0.01))
                        for _ in range(self.groups)] for _ in range(n)]

    def scale_bytes(self):
        return b"".join(self.scales[r][g] for g in range(self.groups) for r in range(self.n))

    def gptq(self, name):
        packed = [sum(self.codes[r][8 * w + i] << 4 * i for i in range(8))
                  for w in range(self.k // 8) for r in range(self.n)]
        return {name + ".qweight": ("I32", [self.k // 8, self.n], words(packed)),
                name + ".qzeros": ("I32", [self.groups, self.n // 8],
                                   words([0x77777777] * (self.groups * self.n // 8))),
                name + ".scales": ("F16", [self.groups, self.n], self.scale_bytes()),
                name + ".g_idx": ("I32", [self.k], words([c // GROUP for c in range(self.k)]))}

    def awq(self, name):
        packed = [sum(self.codes[8 * w + AWQ_ORDER[i]][c] << 4 * i for i in range(8))
                  for c in range(self.k) for w in range(self.n // 8)]
        return {name + ".qweight": ("I32", [self.k, self.n // 8], words(packed)),
                name + ".qzeros": ("I32", [self.groups, self.n // 8],
                                   words([0x88888888] * (self.groups * self.n // 8))),
                name + ".scales": ("F16", [self.groups, self.n], self.scale_bytes())}

    def q4_0(self, rows):
        out = b""
        for r in rows:
            for g in range(self.groups):
                c = self.codes[r][g * GROUP:(g + 1) * GROUP]
                out += self.scales[r][g] + bytes(c[i] | c[i + 16] << 4 for i in range(16))
        return out


def main():
    options = arguments()
    program = os.path.join(options.programs, "transcode")

    def run(*command):
        return subprocess.run([program, *command], capture_output=True, text=True, check=False)

    def refused(expected, *command):
        result = run(*command)
        check(result.returncode in (1, 2) and expected in result.stderr
              and result.stderr.count("\n") == 1,
              f"{command} says {expected!r} in one line, not {result.stderr!r}")

    plain = read_safetensors(os.path.join(options.data, "model.safetensors"))
    modules = {name: Module(*plain[name + ".weight"][1], seed)
               for seed, name in enumerate([QUERY, DOWN])}
    others = {name: t for name, t in plain.items()
              if name not in {m + ".weight" for m in modules}}
    with open(os.path.join(options.data, "config.json"), encoding="utf-8") as file:
        config = json.load(file)
    with tempfile.TemporaryDirectory() as folder:
        source = os.path.join(folder, "gptq")
        os.mkdir(source)
        tensors = dict(others)
        for name, module in modules.items():
            tensors.update(module.gptq(name))
        write_safetensors(os.path.join(source, "model.safetensors"), tensors)
        config["quantization_config"] = {"quant_method": "gptq", "bits": 4, "group_size": GROUP,
                                         "sym": True, "desc_act": False}
        with open(os.path.join(source, "config.json"), "w", encoding="utf-8") as file:
            json.dump(config, file)
        shutil.copy(os.path.join(options.data, "tokenizer.model"), source)

        awq = os.path.join(folder, "awq")
        result = run(source, awq, "--to", "awq")
        check(result.returncode == 0, result.stderr)
        check("every weight is what it was" in result.stdout, result.stdout)
        expected = dict(others)
        for name, module in modules.items():
            expected.update(module.awq(name))
        check(read_safetensors(os.path.join(awq, "model.safetensors")) == expected,
              "the AWQ directory has the codes, and all other tensors as they were")
        with open(os.path.join(awq, "config.json"), encoding="utf-8") as file:
            written = json.load(file)
        section = written.pop("quantization_config")
        check(written == {k: v for k, v in config.items() if k != "quantization_config"},
              "config.json keeps everything else")
        check((section["quant_method"], section["version"], section["bits"], section["group_size"],
               section["zero_point"]) == ("awq", "gemm", 4, GROUP, True), section)
        check("model.layers.0.self_attn.k_proj" in section["modules_to_not_convert"]
              and QUERY not in section["modules_to_not_convert"], section)
        check(sorted(os.listdir(awq)) == ["config.json", "model.safetensors", "tokenizer.model"],
              os.listdir(awq))

        target = os.path.join(folder, "out.gguf")
        result = run(source, target, "--to", "q4_0")
        check(result.returncode == 0, result.stderr)
        _, blocks = read_gguf(target)
        head = config["head_dim"]
        rotated = [r - r % head + r % head % 2 * (head // 2) + r % head // 2
                   for r in range(modules[QUERY].n)]
        dims, kind, content = blocks["blk.0.attn_q.weight"]
        check((dims, kind) == ([modules[QUERY].k, modules[QUERY].n], 2), dims)
        check(content == modules[QUERY].q4_0(rotated), "query rows in GGUF's order")
        _, _, content = blocks["blk.1.ffn_down.weight"]
        check(content == modules[DOWN].q4_0(range(modules[DOWN].n)), "the other matrix")

        refused("not empty", source, awq, "--to", "awq")
        refused("groups of 128", source, os.path.join(folder, "x"), "--to", "awq",
                "--group-size", "128")
        check(not os.path.exists(os.path.join(folder, "x", "config.json")), "nothing was finished")
        refused("none of the schemes", source, os.path.join(folder, "y"), "--to", "gguf")
        refused("no quantized module", options.data, os.path.join(folder, "y"), "--to", "awq")
        refused("no quantized module", options.data, target, "--to", "q4_0")
        refused("--to", source, os.path.join(folder, "y"))
        refused("No such file", os.path.join(folder, "none"), os.path.join(folder, "y"), "--to",
                "awq")
        result = run(source, os.path.join(folder, "x2"), "--to", "awq", "--group-size", "128",
                     "--requantize")
        check(result.returncode == 0 and "2 modules were quantized again" in result.stdout,
              result.stdout + result.stderr)
    return exit_status()


if __name__ == "__main__":
    sys.exit(main())
