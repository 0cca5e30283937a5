#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What examples/quantize_checkpoint writes: folders of every scheme that perplexity and generate
run, the same codes through every scheme, runs that were cut off, and what is refused.

usage: checkpoint_folders.py --programs FOLDER --data FOLDER
"""

import filecmp
import json
import os
import resource
import sys
import tempfile

from checks import arguments, check, exit_status, run_program


def read_safetensors(folder):
    with open(os.path.join(folder, "model.safetensors"), "rb") as file:
        data = file.read()
    start = 8 + int.from_bytes(data[:8], "little")
    header = json.loads(data[8:start])
    header.pop("__metadata__")
    return {name: (t["dtype"], t["shape"],
                   data[start + t["data_offsets"][0]:start + t["data_offsets"][1]])
            for name, t in header.items()}


def section(folder):
    with open(os.path.join(folder, "config.json"), encoding="utf-8") as file:
        return json.load(file)["quantization_config"]


def same_weights(a, b):
    return filecmp.cmp(*(os.path.join(f, "model.safetensors") for f in (a, b)), shallow=False)


def main():
    args = arguments()
    tokens = os.path.join(args.data, "alice.tokens.u16")
    original = os.path.join(args.data, "model-f16.gguf")

    def run(program, *options, refused="", limit=None):
        """What it prints. limit: of the bytes that a file may have."""
        return run_program(os.path.join(args.programs, program), *options, refused=refused,
                           status=(1, 2), preexec_fn=limit and (
                               lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))))

    with tempfile.TemporaryDirectory() as scratch:
        def path(name):
            return os.path.join(scratch, name)

        calibration = path("calibration.safetensors")
        run("perplexity", original, "--tokens", os.path.join(args.data, "calibration.tokens.u16"),
            "--windows", "12", "--calibrate", calibration)

        def quantize(name, *options, source=args.data, **others):
            return run("quantize_checkpoint", source, path(name), *options, **others)

        def scores(*folders, base=original):
            run("perplexity", *map(path, folders), "--base", base, "--tokens", tokens, "--windows",
                "2", "--speed", "0", "--json", path("scores.json"))
            with open(path("scores.json"), encoding="utf-8") as file:
                return json.load(file)["models"][1:]

        # The same codes and scales in every scheme are the same model, to the last bit.
        calibrated = ["--calibration", calibration]
        printed = quantize("plain", "--to", "gptq", "-m", "gptq", *calibrated)
        check("28 modules with calibration, 0 without" in printed, printed)
        check("exllamav2: takes it" in printed and "vLLM with Marlin: takes it" in printed, printed)
        printed = quantize("zeros", "--to", "gptq_v2", "--asymmetric", "--group-size", "32", "-m",
                           "gptq", *calibrated)
        check("qzeros are ignored" in printed, printed)
        quantize("ordered", "--to", "gptq", "-m", "gptq-act", *calibrated)
        for source, schemes in (("plain", ("awq", "compressed-tensors")),
                                ("zeros", ("awq", "compressed-tensors")),
                                ("ordered", ("compressed-tensors", "gptq_v2"))):
            copies = [f"{source}-{scheme}" for scheme in schemes]
            for scheme, copy in zip(schemes, copies):
                run("transcode", path(source), path(copy), "--to", scheme)
            for score in scores(*copies, base=path(source)):
                check(score["kl_mean"] == 0, f"{score['file']} is {source}: {score['kl_mean']}")
            one, *rest = scores(source, *copies)
            for score in rest:
                check((score["perplexity"], score["kl_mean"]) ==
                      (one["perplexity"], one["kl_mean"]), f"{source}: {one}, {score}")
            check(one["kl_mean"] < 0.03, f"{source} is near the original: {one}")
            texts = {run("generate", path(name), "Alice was", "--seed", "1", "--tokens", "12")
                     for name in (source, *copies)}
            check(len(texts) == 1 and len(texts.pop()) > 20, f"{source}: the same text")
        run("transcode", path("ordered"), path("stuck"), "--to", "awq", refused="act-order")
        quantize("direct", "--to", "compressed-tensors", "-m", "gptq", *calibrated)
        transcoded = read_safetensors(path("plain-compressed-tensors"))
        check(read_safetensors(path("direct")) == transcoded,
              "written at once and transcoded are the same")

        # Tensors and files.
        before, after = read_safetensors(args.data), read_safetensors(path("ordered"))
        kept = [name for name in before if name in after]
        check(len(kept) == len(before) - 28 and all(before[n] == after[n] for n in kept),
              "embedding and norms stay")
        for name in before.keys() - after.keys():
            module = name[:-len("weight")]
            rows, columns = before[name][1]
            check(after[module + "qweight"][:2] == ("I32", [columns // 8, rows]), module)
            check(after[module + "scales"][:2] == ("F16", [columns // 128, rows]), module)
            groups = memoryview(after[module + "g_idx"][2]).cast("i").tolist()
            check(sorted(groups) == [k // 128 for k in range(columns)], f"{module} groups")
            check(groups != sorted(groups), f"{module} columns are out of order")
        check((section(path("ordered"))["desc_act"], section(path("plain"))["desc_act"]) ==
              (True, False), "desc_act")
        for name in ("tokenizer.model", "README.md"):
            check(filecmp.cmp(path("plain/" + name), os.path.join(args.data, name), False), name)

        # Every other width and method; AWQ changes norms.
        for name, options in (("eight", ["--to", "gptq", "--bits", "8"]),
                              ("three", ["--to", "gptq", "--bits", "3", "-m", "imatrix"]),
                              ("two", ["--to", "compressed-tensors", "--bits", "2", "--asymmetric",
                                       "--group-size", "32", "-m", "hqq"]),
                              ("range", ["--to", "awq", "-m", "range"]),
                              ("rows", ["--to", "compressed-tensors", "--group-size", "-1"]),
                              ("scaled", ["--to", "awq", "-m", "awq+gptq", "--group-size", "64"])):
            quantize(name, *options, *calibrated)
        score = {os.path.basename(s["file"]): s["kl_mean"]
                 for s in scores("eight", "three", "two", "range", "rows", "scaled", "plain")}
        for name, bound in (("eight", 2e-4), ("three", 0.1), ("two", 0.6), ("range", 0.03),
                            ("rows", 0.05), ("scaled", 0.02)):
            check(0 < score[name] < bound, f"{name}: {score[name]}")
        scaled = read_safetensors(path("scaled"))
        check(scaled["model.norm.weight"] == before["model.norm.weight"]
              and any(scaled[n] != before[n] for n in before if n.endswith("layernorm.weight")),
              "scales are folded into the norms of the layers")
        check(section(path("scaled"))["modules_to_not_convert"] == ["lm_head"], "AWQ's exceptions")
        quantize("one", "--to", "awq", "-m", "awq+gptq", "--group-size", "64", *calibrated,
                 "--threads", "1")
        check(same_weights(path("one"), path("scaled")), "the same for any number of threads")

        # A full disk, and on from there.
        job = ["--to", "gptq", "-m", "gptq", *calibrated]
        quantize("cut", *job, limit=1_000_000, refused="model.safetensors")
        check(not os.path.exists(path("cut/model.safetensors")), "no weights yet")
        quantize("cut", "--to", "gptq", refused="parts of another job")
        os.remove(path("cut/.subbyte-parts/plain-3.safetensors"))
        printed = quantize("cut", *job)
        check("27 parts were there" in printed, printed)
        check("28 modules with calibration" in printed, printed)
        check(same_weights(path("cut"), path("plain")), "as without the interruption")
        check(sorted(os.listdir(path("cut"))) == sorted(os.listdir(path("plain"))), "nothing else")
        quantize("cut", *job, refused="not empty")

        # Inputs that no token reached.
        empty = path("empty.safetensors")
        with open(empty, "wb") as file:
            text = json.dumps({"__metadata__": {"subbyte.calibration": "1"}}).encode()
            file.write(len(text).to_bytes(8, "little") + text)
        printed = quantize("starved", "--to", "gptq", "-m", "gptq", "--calibration", empty)
        check(printed.count("warning: ") == 28 and "rounded to nearest" in printed, printed)
        quantize("nearest", "--to", "gptq")
        check(same_weights(path("starved"), path("nearest")), "nearest codes, nothing zeroed")

        quantize("no", "--to", "marlin", refused="written are gptq")
        quantize("no", "--to", "gptq", "--bits", "5", refused="written are 2, 3, 4 and 8")
        quantize("no", "--to", "gptq", "--group-size", "100", refused="a multiple of 8")
        quantize("no", "--to", "gptq", "--group-size", "0", refused="a multiple of 8")
        quantize("no", "--to", "gptq", "--group-size", "512", refused="has rows of 256")
        quantize("no", "--to", "gptq", "-m", "gptq", refused="--calibration is required")
        quantize("no", "--to", "gptq", "-m", "reference", refused="cannot quantize to integers")
        quantize("no", "--to", "gptq", "-m", "magic", refused="known are")
        quantize("no", "--to", "gptq", "--symmetric", "--asymmetric", refused="excludes")
        quantize("no", "--to", "gptq", source=path("plain"), refused="is quantized already")
        quantize("no", "--to", "gptq", source=path("none"), refused="No such file")
        quantize("no", "--to", "gptq", source=os.path.join(args.data, "model.safetensors"),
                 refused="no config.json")
        quantize("no", "--to", "gptq", "--calibration", path("none"), refused="No such file")
        quantize("no", refused="--to")
        run("quantize_checkpoint", args.data, args.data, "--to", "gptq", refused="not empty")
        check(not os.path.exists(path("no")), "nothing is left behind")
        # What loaders would refuse is found at the first module, and leaves parts at most.
        quantize("bad1", "--to", "awq", "-m", "gptq-act", *calibrated, refused="act-order")
        quantize("bad2", "--to", "gptq", "--group-size", "8", refused="GPTQ readers take 16, 32")
        quantize("bad3", "--to", "gptq", "--asymmetric", "--group-size", "16",
                 refused="is 0, which format gptq cannot hold")
        quantize("bad4", "--to", "compressed-tensors", "-m", "gptq-act", *calibrated,
                 refused="act-order")
        for name in ("bad1", "bad2", "bad3", "bad4"):
            check(not os.path.exists(path(name + "/config.json")), f"{name} is no checkpoint")
        quantize("good", "--to", "gptq_v2", "--asymmetric", "--group-size", "16")
    return exit_status("folders of quantized checkpoints: ")


if __name__ == "__main__":
    sys.exit(main())
