#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What examples/dequantize writes: checkpoints and GGUF files that become the bundled model again,
whole, in shards and from shards.

usage: dequantized_files.py --programs FOLDER --data FOLDER
"""

import json
import os
import struct
import subprocess
import sys
import tempfile

from checks import arguments, check, exit_status
from gguf_reader import read_gguf


def read_safetensors(path):
    """name -> (dtype, shape, bytes); a reader of its own, apart from the library's."""
    with open(path, "rb") as file:
        data = file.read()
    (length,) = struct.unpack_from("<Q", data)
    check(length % 8 == 0, f"{path}: the header is filled up to 8 bytes")
    header = json.loads(data[8:8 + length])
    check(header.pop("__metadata__") == {"format": "pt"}, f"{path}: __metadata__")
    tensors, end = {}, 0
    for name, entry in header.items():
        begin, stop = entry["data_offsets"]
        check(begin == end, f"{path}: {name} lies behind the tensor before")
        end = stop
        tensors[name] = (entry["dtype"], entry["shape"], data[8 + length + begin:8 + length + stop])
    check(8 + length + end == len(data), f"{path}: the data end with the file")
    return tensors


def read_checkpoint(folder):
    whole = os.path.join(folder, "model.safetensors")
    if os.path.exists(whole):
        check(not os.path.exists(whole + ".index.json"), f"{folder}: one form of the model")
        return read_safetensors(whole), 1
    with open(whole + ".index.json", encoding="utf-8") as file:
        index = json.load(file)
    shards = {leaf: read_safetensors(os.path.join(folder, leaf))
              for leaf in sorted(set(index["weight_map"].values()))}
    tensors = {}
    for leaf, held in shards.items():
        for name, value in held.items():
            check(index["weight_map"][name] == leaf, f"{folder}: {name} is listed in its shard")
            tensors[name] = value
    total = sum(len(value[2]) for value in tensors.values())
    check(index["metadata"]["total_size"] == total, f"{folder}: total_size")
    check(len(index["weight_map"]) == len(tensors), f"{folder}: every tensor is listed")
    for i, leaf in enumerate(sorted(shards)):
        check(leaf == f"model-{i + 1:05d}-of-{len(shards):05d}.safetensors", f"{folder}: {leaf}")
    return tensors, len(shards)


def widened(data, dtype):
    """The bits of the values as 32-bit floats: F32 and BF16 only."""
    if dtype == "F32":
        return data
    return b"".join(b"\0\0" + data[i:i + 2] for i in range(0, len(data), 2))


def main():
    args = arguments()
    args.programs, args.data = os.path.abspath(args.programs), os.path.abspath(args.data)
    source = os.path.join(args.data, "model-f16.gguf")
    original_metadata, original = read_gguf(source)
    bundled = {}
    with open(os.path.join(args.data, "model.safetensors"), "rb") as file:
        content = file.read()
    (length,) = struct.unpack_from("<Q", content)
    for name, entry in json.loads(content[8:8 + length]).items():
        if name != "__metadata__":
            begin, end = (8 + length + offset for offset in entry["data_offsets"])
            bundled[name] = (entry["dtype"], entry["shape"], content[begin:end])

    with tempfile.TemporaryDirectory() as folder:
        def run(program, *arguments):
            subprocess.run([os.path.join(args.programs, program), *arguments], check=True,
                           cwd=folder, stdout=subprocess.DEVNULL)

        def there(name):
            return os.path.join(folder, name)

        # The checkpoint that the bundled GGUF file was made from, value for value.
        run("dequantize", source, "whole")
        tensors, shards = read_checkpoint(there("whole"))
        check(shards == 1, "a small model is one file")
        check(tensors == bundled, "every tensor of the checkpoint, q and k rows included")
        with open(there("whole/config.json"), encoding="utf-8") as file:
            config = json.load(file)
        with open(os.path.join(args.data, "config.json"), encoding="utf-8") as file:
            for key, value in json.load(file).items():
                check(config.get(key) == value, f"config.json: {key} is {config.get(key)}")

        # In shards, and back: the GGUF file again with all of its keys, the tokenizer's too.
        run("dequantize", source, "sharded", "--max-shard-size", "1MB")
        tensors, shards = read_checkpoint(there("sharded"))
        check(shards > 5 and tensors == bundled, "the same tensors in shards")
        for given in ("whole", "sharded", "sharded/model.safetensors.index.json"):
            run("quantize", given, "back.gguf", "-f", "f16")
            metadata, again = read_gguf(there("back.gguf"))
            check(again == original, f"{given}: every tensor of the GGUF file")
            for key, value in original_metadata.items():
                check(metadata.get(key) == value, f"{given}: {key} as in the GGUF file")

        # Over a checkpoint that is there, in its other form.
        run("dequantize", source, "sharded")
        tensors, shards = read_checkpoint(there("sharded"))
        check(shards == 1 and tensors == bundled, "one file replaces the set")

        # Quantized and split; what is read is the same model from any shard.
        split = ["--split-max-size", "500k"]
        run("quantize", source, "q.gguf", "-f", "q4_k")
        run("quantize", source, "s.gguf", "-f", "q4_k", *split)
        parts = sorted(name for name in os.listdir(folder) if name.startswith("s-"))
        check(len(parts) > 3, f"{len(parts)} shards")
        one_metadata, one = read_gguf(there("q.gguf"))
        joined = {}
        for i, name in enumerate(parts):
            check(name == f"s-{i + 1:05d}-of-{len(parts):05d}.gguf", name)
            metadata, held = read_gguf(there(name))
            check(metadata["split.no"] == i and metadata["split.count"] == len(parts) and
                  metadata["split.tensors.count"] == len(one), f"{name}: the split's keys")
            others = {k: v for k, v in metadata.items() if not k.startswith("split.")}
            check(others == (one_metadata if i == 0 else {}), f"{name}: the model's keys")
            check(sum(len(t[2]) for t in held.values()) <= 500000 or len(held) == 1,
                  f"{name}: at most 500 kB of tensors")
            joined.update(held)
        check(list(joined) == list(one) and joined == one, "the shards hold the model's tensors")
        run("quantize", source, "n.gguf", "-f", "q4_k", "--split-max-tensors", "20",
            "--no-tensor-first-split")
        check([len(read_gguf(there(f"n-{i:05d}-of-00003.gguf"))[1]) for i in (1, 2, 3)] ==
              [0, 20, len(one) - 20], "--split-max-tensors and --no-tensor-first-split")

        run("dequantize", "q.gguf", "a", "--type", "f32")
        run("dequantize", parts[2], "b", "--type", "f32")
        from_one, from_shards = read_checkpoint(there("a"))[0], read_checkpoint(there("b"))[0]
        check(from_one == from_shards, "the same checkpoint from one file and from shards")
        check({t[0] for t in from_one.values()} == {"F32"}, "--type f32")
        run("dequantize", "q.gguf", "c", "--type", "bf16")
        for name, (dtype, shape, data) in read_checkpoint(there("c"))[0].items():
            check(dtype == "BF16" and shape == from_one[name][1], f"--type bf16: {name}")
            if "layers.0." not in name:
                continue
            exact, near = from_one[name][2], widened(data, dtype)
            values = zip(struct.iter_unpack("<f", exact), struct.iter_unpack("<f", near))
            # Nearest of 8 significant bits: half a unit of the last place is 2^-9 of the value.
            check(all(abs(x - y) <= abs(x) / 256 for (x,), (y,) in values), f"bf16 of {name}")

        # GGUF of floats: nothing is lost that quantizing again would need.
        run("dequantize", "q.gguf", "f.gguf", "--type", "f32")
        metadata, floats = read_gguf(there("f.gguf"))
        check(list(floats) == list(one) and {t[1] for t in floats.values()} == {0}, "GGUF in F32")
        check(metadata["general.file_type"] == 0 and
              "general.quantization_version" not in metadata, "GGUF in F32: file type")
        run("dequantize", "q.gguf", "f.gguf", "--type", "f16", "--max-shard-size", "4MB")
        check({t[1] for name in os.listdir(folder) if name.startswith("f-")
               for t in read_gguf(there(name))[1].values()} == {0, 1}, "GGUF in F16, in shards")

        # The runner reads shards as well as files.
        scores = []
        for given in ("q.gguf", parts[1], "f.gguf"):
            done = subprocess.run(
                [os.path.join(args.programs, "perplexity"), there(given), "--tokens",
                 os.path.join(args.data, "alice.tokens.u16"), "--windows", "1", "--speed", "0",
                 "--json", "-"], check=True, capture_output=True)
            scores.append(json.loads(done.stdout)["models"][0]["perplexity"])
        check(scores[0] == scores[1], f"the same perplexity from shards: {scores}")
        check(abs(scores[2] / scores[0] - 1) < 1e-4, f"the same perplexity as floats: {scores}")

    return exit_status()


if __name__ == "__main__":
    sys.exit(main())
