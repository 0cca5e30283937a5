#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Opens the files that the examples write with the programs they are for, and compares.

For every format that examples/quantize writes: gguf reads each tensor and decodes it to the same
bits; llama.cpp and transformers give the perplexity of examples/perplexity within their limits. The
checkpoint folders that examples/dequantize makes of these files go through safetensors and
transformers. Prints a table and fails when something is outside its limit.

usage: interop.py --programs FOLDER --data FOLDER --work FOLDER [--windows N] [--report FILE]
"""

import argparse
import contextlib
import datetime
import functools
import importlib.metadata
import json
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

import gguf
import llama_cpp
import numpy as np
import safetensors
import torch
import transformers

# Relative deviation of the perplexity from our runner's. llama.cpp rounds activations to 8 bits and
# its key-value cache to 16; transformers decodes the weights and computes in float32 as we do.
LLAMA_LIMIT, DENSE_LIMIT = 5e-3, 5e-4

BOS, WINDOW = 1, 255


class Client:
    """One client's answers: a cell for the table per format, and what was not as it must be."""

    def __init__(self, title):
        self.title, self.cells, self.failures = title, {}, []

    def ask(self, kind, check):
        """check() returns (cell, failure or None)."""
        try:
            cell, failure = check()
        except Exception as problem:  # whatever a client throws is its answer
            cell = "refused"
            failure = " ".join(f"{type(problem).__name__}: {problem}".split())[:300]
        self.cells[kind] = cell
        if failure:
            self.failures.append(f"{self.title} on {kind}: {failure}")
        print(f"  {self.title}: {cell}" + (f"  FAILED: {failure}" if failure else ""), flush=True)


def compare_perplexity(ours, theirs, limit):
    deviation = theirs / ours - 1
    cell = f"{theirs:.4f} ({100 * deviation:+.4f} %)"
    within = abs(deviation) <= limit
    return cell, None if within else f"perplexity {theirs:.4f}, ours {ours:.4f}, limit {limit:.2%}"


def read_windows(path, limit):
    """The rule of examples/perplexity: without the stream's bos, windows of 255, no short tail."""
    stream = np.fromfile(path, dtype="<u2").astype(np.int64)
    stream = stream[1:] if stream[0] == BOS else stream
    count = min(len(stream) // WINDOW, limit)
    return stream[: count * WINDOW].reshape(count, WINDOW)


def log_likelihood(logits, targets):
    """Sum over rows of the log probability of targets; float64."""
    logits = np.asarray(logits, dtype=np.float64)
    top = logits.max(axis=1)
    log_sum = np.log(np.exp(logits - top[:, None]).sum(axis=1)) + top
    return (logits[np.arange(len(targets)), targets] - log_sum).sum()


def llama_perplexity(path, windows):
    # One thread: its threads wait for each other by spinning, which a busy machine punishes.
    model = llama_cpp.Llama(str(path), n_ctx=WINDOW + 1, n_batch=WINDOW + 1, logits_all=True,
                            n_threads=1, n_threads_batch=1, verbose=False)
    total = 0.0
    for targets in windows:
        model.reset()
        model.eval([BOS] + targets[:-1].tolist())
        total += log_likelihood(model.scores[:WINDOW], targets)
    model.close()
    return float(np.exp(-total / windows.size))


def dense_perplexity(model, windows):
    total = 0.0
    with torch.inference_mode():
        for begin in range(0, len(windows), 4):
            targets = torch.from_numpy(windows[begin:begin + 4])
            first = torch.full((len(targets), 1), BOS)
            logits = model(torch.cat([first, targets[:, :-1]], dim=1), use_cache=False).logits
            total += log_likelihood(logits.flatten(0, 1).numpy(), targets.flatten().numpy())
    return float(np.exp(-total / windows.size))


def check_gguf(path, decoded_path, original_path):
    """Every tensor of path, decoded by the gguf package, has the bits that our decoder wrote."""
    ours = {t.name: t for t in gguf.GGUFReader(decoded_path).tensors}
    original = gguf.GGUFReader(original_path)
    reader = gguf.GGUFReader(path)
    for key, field in original.fields.items():
        if key.startswith("GGUF.") or key == "general.file_type":
            continue
        kept = key in reader.fields and reader.fields[key].contents() == field.contents()
        if not kept:
            return "differs", f"the value of {key} differs from the original's"
    if [t.name for t in reader.tensors] != [t.name for t in original.tensors]:
        return "differs", "the list of tensors differs from the original's"
    equal = 0
    for stored in reader.tensors:
        theirs = gguf.quants.dequantize(stored.data, stored.tensor_type).astype(np.float32)
        mine = ours[stored.name].data
        if theirs.shape != mine.shape:
            return "differs", f"{stored.name} is {theirs.shape}, ours {mine.shape}"
        different = int((theirs.view(np.uint32) != mine.view(np.uint32)).sum())
        if different:
            return "differs", f"{different} of {theirs.size} weights of {stored.name} differ from ours"
        equal += 1
    return f"{equal} of {len(reader.tensors)}", None


def check_llama(path, windows, ours):
    return compare_perplexity(ours, llama_perplexity(path, windows), LLAMA_LIMIT)


def load_transformers(path):
    """A model in float32 from a GGUF file, its weights decoded while loading, or from a folder."""
    load = transformers.AutoModelForCausalLM.from_pretrained
    if path.is_dir():
        return load(path, dtype=torch.float32)
    return load(path.parent, gguf_file=path.name, dtype=torch.float32,
                quantization_config=transformers.GgufConfig(dequantize=True))


def check_transformers(path, windows, ours):
    return compare_perplexity(ours, dense_perplexity(load_transformers(path), windows), DENSE_LIMIT)


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and bool(
        (a.contiguous().view(torch.uint8) == b.contiguous().view(torch.uint8)).all())


def read_safetensors(folder):
    tensors = {}
    for path in sorted(folder.glob("*.safetensors")):
        with safetensors.safe_open(path, framework="pt") as file:
            tensors.update({name: file.get_tensor(name) for name in file.keys()})
    return tensors


def check_shards(folder, gguf_path, names):
    """A float32 folder in shards holds the checkpoint's names, with the bits that transformers makes
    of the GGUF file; its index leads every tensor to the shard that has it."""
    index = json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"]
    for name, shard in index.items():
        with safetensors.safe_open(folder / shard, framework="pt") as file:
            if name not in file.keys():
                return "differs", f"the index leads {name} to {shard}"
    tensors = read_safetensors(folder)
    if set(tensors) != names or set(index) != names:
        return "differs", "the names are not those of the original checkpoint"
    theirs = load_transformers(gguf_path).state_dict()
    different = [name for name in names if not same_bits(tensors[name], theirs[name])]
    if different:
        return "differs", f"{len(different)} tensors differ from transformers' own, {different[0]} first"
    return f"{len(names)} of {len(names)}, {len(set(index.values()))} shards", None


def cpu_name():
    with contextlib.suppress(OSError), open("/proc/cpuinfo", encoding="utf-8") as file:
        for line in file:
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.machine()


def client_versions():
    names = ("llama-cpp-python", "gguf", "safetensors", "transformers", "accelerate", "torch",
             "numpy")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def report_text(args, formats, clients, ours, windows, seconds):
    date = datetime.date.today().isoformat()
    lines = [
        f"# Files of the examples in other programs, {date}",
        "",
        f"`scripts/interop.sh` on {cpu_name()} ({os.cpu_count()} CPUs), Python "
        f"{platform.python_version()}, {seconds:.0f} s after the builds.",
        "",
        f"Clients: {client_versions()}.",
        "",
        f"Perplexity of the bundled model on the first {len(windows)} windows of `alice` "
        f"({windows.size:,} tokens predicted), the same token ids for every program. In brackets: "
        f"the deviation from `examples/perplexity`. Limits: llama.cpp {LLAMA_LIMIT:.1%} (it rounds "
        f"activations to 8 bits and its key-value cache to fp16), transformers {DENSE_LIMIT:.2%}.",
        "",
        "| format | examples/perplexity | " + " | ".join(c.title for c in clients) + " |",
        "|---|---:" + "|---:" * len(clients) + "|",
    ]
    for kind in formats:
        cells = [f"`{kind}`", f"{ours[kind]:.4f}"] + [c.cells.get(kind, "-") for c in clients]
        lines.append("| " + " | ".join(cells) + " |")
    failures = [failure for c in clients for failure in c.failures]
    lines += ["", "Not as it must be:", "", "- " + "\n- ".join(failures)] if failures else []
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="the built examples")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="examples/data")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="emptied, then written")
    parser.add_argument("--windows", type=int, default=40, help="how much text (default: 40)")
    parser.add_argument("--report", type=pathlib.Path, help="write the table to this file, too")
    args = parser.parse_args()
    begin = time.monotonic()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    def example(program, *arguments, check=True):
        return subprocess.run([args.programs / program, *map(str, arguments)], check=check,
                              capture_output=True, text=True)

    original = args.data / "model-f16.gguf"
    tokens = args.data / "alice.tokens.u16"
    listed = example("quantize", original, "x", "--format", "nonsense", check=False).stderr
    formats = [kind for kind in listed.split("can hold ")[1].split()
               if kind.upper() in gguf.GGMLQuantizationType.__members__]  # not ik_llama.cpp's
    print(f"examples: {len(formats)} formats", flush=True)
    for kind in formats:
        example("quantize", original, args.work / f"{kind}.gguf", "--format", kind)
        example("quantize", args.work / f"{kind}.gguf", args.work / f"{kind}-decoded.gguf",
                "--format", "f32", "--allow-requantize")
    scored = example("perplexity", *(args.work / f"{kind}.gguf" for kind in formats), "--tokens",
                     tokens, "--windows", args.windows, "--speed", 0, "--json", "-")
    models = json.loads(scored.stdout)["models"]
    ours = {kind: model["perplexity"] for kind, model in zip(formats, models)}
    windows = read_windows(tokens, args.windows)
    if any(model["tokens"] != windows.size for model in models):
        sys.exit("the token windows differ from those of examples/perplexity")

    checkpoint = read_safetensors(args.data)
    by_gguf, by_llama, by_transformers, by_safetensors, by_folder = clients = [
        Client("gguf: tensors equal"), Client("llama.cpp"), Client("transformers, GGUF"),
        Client("safetensors, f32 folder: tensors equal"), Client("transformers, f16 folder")]
    for kind in formats:
        print(f"{kind}: perplexity {ours[kind]:.4f}", flush=True)
        path = args.work / f"{kind}.gguf"
        wide, narrow = args.work / f"{kind}-f32", args.work / f"{kind}-f16"
        example("dequantize", path, wide, "--type", "f32", "--max-shard-size", 4_000_000)
        example("dequantize", path, narrow)
        by_gguf.ask(kind, functools.partial(
            check_gguf, path, args.work / f"{kind}-decoded.gguf", original))
        by_llama.ask(kind, functools.partial(check_llama, path, windows, ours[kind]))
        by_transformers.ask(kind, functools.partial(check_transformers, path, windows, ours[kind]))
        by_safetensors.ask(kind, functools.partial(check_shards, wide, path, set(checkpoint)))
        by_folder.ask(kind, functools.partial(check_transformers, narrow, windows, ours[kind]))
        for folder in (wide, narrow):
            if kind != "f16" or folder != narrow:
                shutil.rmtree(folder)

    # Back where it came from, bit for bit; and a file in shards, which only llama.cpp can open.
    restored = read_safetensors(args.work / "f16-f16")
    if set(restored) != set(checkpoint) or not all(
            same_bits(restored[name], checkpoint[name]) for name in checkpoint):
        by_safetensors.failures.append("f16: the folder is not the original checkpoint")
    example("quantize", original, args.work / "shards.gguf", "--format", "q4_k",
            "--split-max-tensors", 10)
    shards = sorted(args.work.glob("shards-*.gguf"))
    print(f"q4_k in {len(shards)} shards", flush=True)
    split = f"q4_k in {len(shards)} shards"
    formats.append(split)
    ours[split] = ours["q4_k"]
    by_llama.ask(split, functools.partial(check_llama, shards[0], windows, ours[split]))
    if by_llama.cells[split] != by_llama.cells["q4_k"]:
        by_llama.failures.append("the file in shards is not the file in one piece")

    text = report_text(args, formats, clients, ours, windows, time.monotonic() - begin)
    print("\n" + text)
    if args.report:
        args.report.write_text(text, encoding="utf-8")
    return 1 if any(client.failures for client in clients) else 0


if __name__ == "__main__":
    sys.exit(main())
