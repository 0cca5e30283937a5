# SPDX-License-Identifier: Apache-2.0
"""A GGUF reader of the tests' own, apart from the library's."""

import struct

# Block size and bytes of the tensor types used here. Source: ggml's table of types; from 133 on
# ik_llama.cpp's, some of whose rows begin with bytes of their own.
TYPES = {0: (1, 4), 1: (1, 2), 2: (32, 18), 3: (32, 20), 6: (32, 22), 7: (32, 24), 8: (32, 34),
         10: (256, 84), 11: (256, 110), 12: (256, 144), 13: (256, 176), 14: (256, 210),
         16: (256, 66), 17: (256, 74), 18: (256, 98), 19: (256, 50), 20: (32, 18), 21: (256, 110),
         22: (256, 82), 23: (256, 136), 29: (256, 56), 30: (1, 2), 34: (256, 54), 35: (256, 66),
         39: (32, 17), 40: (64, 36), 41: (128, 18), 42: (64, 18), 133: (32, 26), 137: (256, 76),
         138: (256, 110), 139: (256, 144), 140: (256, 176), 141: (256, 212), 144: (256, 136),
         145: (256, 70), 146: (256, 128), 152: (256, 168), 156: (256, 102)}
ROW_BYTES = {144: 4, 145: 2, 146: 4, 152: 4, 156: 2}
SCALARS = ["B", "b", "H", "h", "I", "i", "f", "?", None, None, "Q", "q", "d"]


def read_gguf(path):
    """Metadata, and name -> (dims, type, bytes)."""
    with open(path, "rb") as file:
        data = file.read()
    at = 4

    def scalar(code):
        nonlocal at
        (value,) = struct.unpack_from("<" + code, data, at)
        at += struct.calcsize("<" + code)
        return value

    def string():
        nonlocal at
        length = scalar("Q")
        at += length
        return data[at - length:at]

    def value(kind):
        if kind == 8:
            return string()
        if kind == 9:
            element, count = scalar("I"), scalar("Q")
            return [value(element) for _ in range(count)]
        return scalar(SCALARS[kind])

    assert data[:4] == b"GGUF" and scalar("I") == 3
    tensor_count, key_count = scalar("Q"), scalar("Q")
    metadata = {}
    for _ in range(key_count):
        key = string().decode()
        metadata[key] = value(scalar("I"))
    infos = []
    for _ in range(tensor_count):
        name = string().decode()
        dims = [scalar("Q") for _ in range(scalar("I"))]
        infos.append((name, dims, scalar("I"), scalar("Q")))
    start = (at + 31) // 32 * 32
    tensors = {}
    for name, dims, kind, offset in infos:
        size = 1
        for extent in dims:
            size *= extent
        weights, stored = TYPES[kind]
        begin = start + offset
        length = size // weights * stored + size // dims[0] * ROW_BYTES.get(kind, 0)
        tensors[name] = (dims, kind, data[begin:begin + length])
    return metadata, tensors
