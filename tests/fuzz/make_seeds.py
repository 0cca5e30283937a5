#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Writes tests/fuzz/corpus: the inputs from which the libFuzzer programs begin.

Every file follows from this script and its seed; --check fails if a committed one does not.

usage: make_seeds.py [--check]
"""
import json
import pathlib
import random
import struct
import sys

CORPUS = pathlib.Path(__file__).resolve().parent / "corpus"
FORMAT_BYTES = 48  # at least the number of formats: the first byte of a block's input picks one


def decode_seeds():
    """A format, the bytes of a block, how weights are made, weights to round."""
    draw = random.Random(6)
    for number in range(FORMAT_BYTES):
        yield f"{number:02}", bytes([number]) + draw.randbytes(320)
    for name, byte in (("zeros", 0), ("ones", 255)):
        yield name, bytes([byte]) * 321


def encode_seeds():
    """A format, importance or not and the kinds of floats, 256 weights, their importance."""
    draw = random.Random(7)
    for number in range(FORMAT_BYTES):
        weighted = number % 2
        small_integers = 3  # as in fuzz/bytes.hpp
        flags = weighted | small_integers << 1 | small_integers << 3
        yield f"{number:02}", bytes([number, flags]) + draw.randbytes(512 if weighted else 256)
    halves, anything = 1, 0
    special = [0x7C00, 0xFC00, 0x7E00, 0x0000, 0x8000, 0x0001, 0x7BFF, 0xFBFF]
    yield "special_halves", bytes([10, 1 | halves << 1 | halves << 3]) + struct.pack(
        "<512H", *[draw.choice(special) for _ in range(512)])
    special = [0x7F800000, 0xFF800000, 0x7FC00000, 1, 0x80000000, 0x7F7FFFFF, 0xFF7FFFFF, 0x800000]
    yield "special_floats", bytes([11, 1 | anything << 1 | anything << 3]) + struct.pack(
        "<512I", *[draw.choice(special) for _ in range(512)])
    yield "normal_floats", bytes([12, 0]) + struct.pack(
        "<256f", *[draw.gauss(0, 0.02) for _ in range(256)])


def gguf_text(text):
    return struct.pack("<Q", len(text)) + text


def gguf_seeds():
    """Beside tests/golden/ggml/gguf: the shortest file with a key, an array and a tensor."""
    keys = gguf_text(b"general.alignment") + struct.pack("<II", 4, 8)
    keys += gguf_text(b"t") + struct.pack("<IIQ", 9, 8, 3) + 2 * gguf_text(b"") + gguf_text(b"ab")
    keys += gguf_text(b"n") + struct.pack("<IIQ3f", 9, 6, 3, 0, 1, 2)
    tensors = gguf_text(b"w") + struct.pack("<I2QIQ", 2, 32, 1, 2, 0)
    tensors += gguf_text(b"v") + struct.pack("<IQIQ", 1, 4, 0, 24)
    header = b"GGUF" + struct.pack("<IQQ", 3, 2, 3) + keys + tensors
    header += bytes(-len(header) % 8)
    yield "small", header + bytes(range(18)) + bytes(6) + bytes(16)
    yield "split", b"GGUF" + struct.pack("<IQQ", 3, 0, 3) + gguf_text(b"split.no") + struct.pack(
        "<IH", 2, 0) + gguf_text(b"split.count") + struct.pack("<IH", 2, 2) + gguf_text(
        b"split.tensors.count") + struct.pack("<Ii", 5, 0)


def imatrix_seeds():
    """The legacy form, its two older endings, and GGUF with a stack of experts."""
    entry = struct.pack("<i", 1) + b"w" + struct.pack("<ii3f", 2, 3, 1, 2, 0.5)
    one = struct.pack("<i", 1) + entry
    yield "oldest", one
    yield "old", one + struct.pack("<i", 7)
    yield "legacy", one + struct.pack("<ii", 7, 4) + b"text"
    keys = gguf_text(b"general.type") + struct.pack("<I", 8) + gguf_text(b"imatrix")
    keys += gguf_text(b"imatrix.datasets") + struct.pack("<IIQ", 9, 8, 1) + gguf_text(b"text")
    keys += gguf_text(b"imatrix.chunk_count") + struct.pack("<II", 4, 3)
    keys += gguf_text(b"imatrix.chunk_size") + struct.pack("<II", 4, 512)
    tensors = gguf_text(b"w.in_sum2") + struct.pack("<I2QIQ", 2, 2, 2, 0, 0)
    tensors += gguf_text(b"w.counts") + struct.pack("<I2QIQ", 2, 1, 2, 0, 32)
    header = b"GGUF" + struct.pack("<IQQ", 3, 2, 4) + keys + tensors
    header += bytes(-len(header) % 32)
    data = struct.pack("<4f", 1, 2, 3, 4) + bytes(16) + struct.pack("<2f", 5, 0) + bytes(24)
    yield "experts", header + data


def safetensors_file(tensors, metadata=None):
    header, data = {}, b""
    if metadata is not None:
        header["__metadata__"] = metadata
    for name, (dtype, shape, content) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape,
                        "data_offsets": [len(data), len(data) + len(content)]}
        data += content
    text = json.dumps(header, separators=(",", ":")).encode()
    return struct.pack("<Q", len(text)) + text + data


def safetensors_seeds():
    yield "small", safetensors_file(
        {"a": ("F32", [2, 2], bytes(16)), "b": ("F4", [4], b"\x12\x34"), "e": ("I8", [0, 3], b""),
         "s": ("BF16", [], b"\x80\x3f")}, {"format": "pt", "\u00e9": "\\\""})
    yield "empty", safetensors_file({})


def calibration_seeds():
    def doubles(*values):
        return struct.pack(f"<{len(values)}d", *values)

    def floats(*values):
        return struct.pack(f"<{len(values)}f", *values)

    plain = {
        "x.sum_magnitude": ("F64", [2], doubles(3, 4)),
        "x.sum_square": ("F64", [2], doubles(5, 6)),
        "x.max_magnitude": ("F32", [2], floats(1.5, 2)),
    }
    notes = {"subbyte.calibration": "1", "tokens:x": "3", "weights:x": "a.weight\nb.weight"}
    yield "sums", safetensors_file(plain, notes)
    full = dict(plain)
    full["x.hessian"] = ("F64", [3], doubles(5, 1, 6))
    full["x.sample"] = ("F32", [2, 2], floats(1, -1.5, 0.5, 2))
    full["x.order"] = ("U64", [2], struct.pack("<2Q", 7, 9))
    yield "everything", safetensors_file(full, notes | {"model": "m"})


def json_seeds():
    yield "kinds", b'{"a":[1,-2,3.5e-3,true,false,null],"b":{"c":"\\u00e9\\n","d":[]},"e":{}}'
    yield "gptq", json.dumps({
        "model_type": "llama", "quantization_config": {
            "quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": True, "sym": True,
            "dynamic": {"-:lm_head": {}, "+:.*down.*": {"bits": 8}}}}).encode()
    yield "awq", json.dumps({"quant_method": "awq", "bits": 4, "group_size": 64, "version": "gemm",
                             "zero_point": True, "modules_to_not_convert": ["lm_head"]}).encode()
    yield "compressed", json.dumps({
        "quant_method": "compressed-tensors", "format": "pack-quantized", "ignore": ["re:.*head"],
        "config_groups": {"g": {"targets": ["Linear"], "weights": {
            "num_bits": 4, "type": "int", "symmetric": False, "strategy": "group",
            "group_size": 32, "actorder": None}}}}).encode()
    yield "deep", b"[" * 32 + b"]" * 32


def pattern_seeds():
    lines = {
        "classes": r"^model\.layers\.(\d+|[a-f\-x]{2,3}?)\.[^q]_proj$" + "\nmodel.layers.12.k_proj",
        "lookahead": "(?!lm_head)(?:a|b*)+c?\naabbc",
        "repeats": "(a*)*b{0,3}\\w+\\S\naaaaaaaaaaaaaaaaaa",
        "nested": "((b|a{0}){553,}){553,}\\Sc\n",  # once took 20 seconds
        "any": ".*down.*\nmlp.down_proj",
    }
    for name, text in lines.items():
        yield name, text.encode()


SEEDS = {
    "calibration": calibration_seeds,
    "decode": decode_seeds,
    "encode": encode_seeds,
    "gguf": gguf_seeds,
    "imatrix": imatrix_seeds,
    "json": json_seeds,
    "pattern": pattern_seeds,
    "safetensors": safetensors_seeds,
}


def main():
    check = sys.argv[1:] == ["--check"]
    if sys.argv[1:] and not check:
        sys.exit(__doc__)
    wanted = {CORPUS / target / name: content
              for target, seeds in SEEDS.items() for name, content in seeds()}
    present = {path for path in CORPUS.glob("*/*") if path.parent.name in SEEDS}
    if check:
        wrong = [path for path, content in wanted.items()
                 if path not in present or path.read_bytes() != content]
        wrong += sorted(present - set(wanted))
        for path in wrong:
            print(f"{path}: not what make_seeds.py writes", file=sys.stderr)
        sys.exit(1 if wrong else 0)
    for path in present - set(wanted):
        path.unlink()
    for path, content in wanted.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    main()
