#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Calibration from end to end: perplexity --calibrate, quantize --calibration with every kind of
method, and what becomes of the model; starved inputs, merged files and wrong ones.

usage: calibrated_files.py --programs FOLDER --data FOLDER
"""

import json
import os
import sys
import tempfile

from checks import arguments, check, exit_status, run_program
from gguf_reader import read_gguf

INPUTS = [f"blk.{layer}.{place}" for layer in range(4)
          for place in ("attention", "attention_output", "feed_forward", "feed_forward_down")]


def header(path):
    with open(path, "rb") as file:
        return json.loads(file.read(int.from_bytes(file.read(8), "little")))


def main():
    args = arguments()
    model = os.path.join(args.data, "model-f16.gguf")
    tokens = os.path.join(args.data, "calibration.tokens.u16")

    def run(program, *options, **expected):
        return run_program(os.path.join(args.programs, program), *options, **expected)

    with tempfile.TemporaryDirectory() as folder:
        def path(name):
            return os.path.join(folder, name)

        calibrated = path("calibration.safetensors")
        printed = run("perplexity", model, "--tokens", tokens, "--windows", "12", "--calibrate",
                      calibrated, "--threads", "1")
        check(all(name in printed for name in INPUTS), "every input is listed")
        stored = header(calibrated)
        metadata = stored.pop("__metadata__")
        check(metadata["subbyte.calibration"] == "1", "version")
        check(metadata["weights:blk.1.attention"].split("\n") ==
              [f"blk.1.attn_{w}.weight" for w in "qkv"], "q, k and v share an input")
        for name in INPUTS + ["output"]:
            check(metadata["tokens:" + name] == str(12 * 255), f"{name}: tokens")
            channels = 768 if name.endswith("down") else 256
            check(stored[name + ".hessian"]["shape"] == [channels * (channels + 1) // 2],
                  f"{name}: half of X^T X")
        again = path("again.safetensors")
        run("perplexity", model, "--tokens", tokens, "--windows", "12", "--calibrate", again,
            "--threads", "3")
        with open(calibrated, "rb") as a, open(again, "rb") as b:
            check(a.read() == b.read(), "the same calibration for any number of threads")
        light = path("light.safetensors")
        run("perplexity", model, "--tokens", tokens, "--windows", "2", "--calibrate", light,
            "--no-hessian", "--sample-rows", "5")
        stored = header(light)
        check("output.hessian" not in stored and stored["output.sample"]["shape"] == [5, 256],
              "--no-hessian and --sample-rows")

        def divergence(quantized):
            run("perplexity", quantized, "--base", model, "--tokens",
                os.path.join(args.data, "alice.tokens.u16"), "--windows", "4", "--speed", "0",
                "--json", path("score.json"))
            with open(path("score.json"), encoding="utf-8") as file:
                return json.load(file)["models"][1]["kl_mean"]

        sizes, kl = set(), {}
        for method in ("reference", "imatrix", "gptq", "awq", "awq+imatrix", "awq+gptq"):
            target = path(method + ".gguf")
            given = [] if method == "reference" else ["--calibration", calibrated]
            printed = run("quantize", model, target, "-f", "q3_k", "--output-format", "q6_k",
                          "-m", method, *given)
            if given:
                check("29 matrices with calibration, 0 without" in printed, f"{method}: {printed}")
            sizes.add(os.path.getsize(target))
            kl[method] = divergence(target)
        check(len(sizes) == 1, "the method does not change the size")
        check(kl["imatrix"] < kl["reference"], f"imatrix is nearer: {kl}")
        check(kl["gptq"] < 0.9 * kl["reference"], f"gptq is nearer: {kl}")
        check(kl["awq+gptq"] < 0.9 * kl["reference"], f"awq+gptq is nearer: {kl}")

        # AWQ changes norms and weights, and not the function: with 8 bits it is nearly the model.
        run("quantize", model, path("plain.gguf"), "-f", "q8_0")
        run("quantize", model, path("scaled.gguf"), "-f", "q8_0", "-m", "awq+reference",
            "--calibration", calibrated)
        _, original = read_gguf(model)
        _, scaled = read_gguf(path("scaled.gguf"))
        check(scaled["output_norm.weight"] == original["output_norm.weight"], "the last norm stays")
        norms = [name for name in original if name.endswith("attn_norm.weight")]
        check(any(scaled[name] != original[name] for name in norms), "a scale is folded")
        check(divergence(path("scaled.gguf")) < 2 * divergence(path("plain.gguf")),
              "folded scales leave the function")

        one, two = path("one.gguf"), path("two.gguf")
        for target, threads in ((one, "1"), (two, "3")):
            run("quantize", model, target, "-f", "q4_k", "-m", "awq+gptq", "--calibration",
                calibrated, "--threads", threads)
        with open(one, "rb") as a, open(two, "rb") as b:
            check(a.read() == b.read(), "the same file for any number of threads")

        # Two files are added up: twice the same tokens weight errors as once.
        run("quantize", model, one, "-f", "q4_k", "-m", "imatrix", "--calibration", calibrated)
        run("quantize", model, two, "-f", "q4_k", "-m", "imatrix", "--calibration", calibrated,
            "--calibration", calibrated)
        with open(one, "rb") as a, open(two, "rb") as b:
            check(a.read() == b.read(), "a file and itself are as the file alone")

        # A model that the file knows nothing of is quantized without, and the report says so.
        empty = path("empty.safetensors")
        with open(empty, "wb") as file:
            text = json.dumps({"__metadata__": {"subbyte.calibration": "1"}}).encode()
            file.write(len(text).to_bytes(8, "little") + text)
        printed = run("quantize", model, two, "-f", "q4_k", "-m", "gptq", "--calibration", empty)
        check("0 matrices with calibration, 29 without" in printed, "starved inputs are counted")
        check(printed.count("warning: ") == 29, "each has its warning")
        run("quantize", model, one, "-f", "q4_k")
        with open(one, "rb") as a, open(two, "rb") as b:
            check(a.read() == b.read(), "without tokens: as without calibration, nothing zeroed")
        few = path("few.safetensors")
        run("perplexity", model, "--tokens", tokens, "--windows", "1", "--calibrate", few)
        printed = run("quantize", model, two, "-f", "q4_k", "-m", "gptq", "--calibration", few)
        check("255 tokens of calibration for 768 channels" in printed, "few tokens are a warning")
        check(divergence(two) < 2 * divergence(one), "few tokens do no great harm")

        names = os.listdir(folder)
        run("quantize", model, path("no.gguf"), "-m", "gptq", refused="--calibration is required")
        run("quantize", model, path("no.gguf"), "-m", "gptq", "--calibration", light,
            refused="needs X^T X")
        run("quantize", model, path("no.gguf"), "-m", "magic", refused="known are reference")
        run("quantize", model, path("no.gguf"), "-m", "range", "-f", "q4_k",
            refused="cannot quantize to q4_k")
        run("quantize", model, path("no.gguf"), "-m", "gptq", "--calibration", model,
            refused="not a safetensors file")
        run("quantize", model, path("no.gguf"), "-m", "gptq", "--calibration",
            os.path.join(args.data, "model.safetensors"), refused="no calibration file")
        run("perplexity", model, model, "--tokens", tokens, "--calibrate", path("no"),
            refused="--calibrate takes one")
        run("perplexity", model, "--calibrate", path("no"), refused="--tokens is required")
        check(os.listdir(folder) == names, "a run that fails leaves no file")

        run("compare_methods", model, "--calibration-tokens", tokens, "--calibration-windows",
            "2,8", "--tokens", os.path.join(args.data, "alice.tokens.u16"), "--windows", "3",
            "-f", "int4,q3_k", "-g", "32,256", "-m", "rtn,imatrix,hqq,gptq", "--at-once", "3",
            "--json", path("compared.json"))
        with open(path("compared.json"), encoding="utf-8") as file:
            compared = json.load(file)["combinations"]
        found = [(c["format"], c["group"], c["method"], c["calibration_windows"])
                 for c in compared]
        expected = [(f, g, m, w) for f, g in (("int4", 32), ("int4", 256), ("q3_k", 0))
                    for m, windows in (("rtn", [None]), ("imatrix", [2, 8]), ("hqq", [None]),
                                       ("gptq", [2, 8])) for w in windows]
        check(found == expected, f"every combination: {found}")
        for c in compared:
            score = c["scores"][0]
            check(len(score["window_kl"]) == 3, "one divergence per window")
            check(abs(sum(score["window_kl"]) / 3 - score["kl_mean"]) < 1e-9, "their mean")
            check(0 < c["relative_layer_loss"] < 0.2, f"layer loss of {c}")
        run("compare_methods", model, "--tokens", tokens, "-m", "gptq",
            refused="--calibration or --calibration-tokens is required")
        run("compare_methods", model, "--tokens", tokens, "-f", "int5", refused="known are int2")
    return exit_status("calibration and what it is for: ")


if __name__ == "__main__":
    sys.exit(main())
