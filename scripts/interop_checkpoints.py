#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Calibrated quantization in other programs: the folders that quantize_checkpoint writes in
transformers with gptqmodel and with compressed-tensors, MatMulNBits in onnxruntime, and the
k-quants that GPTQ makes in llama.cpp.

Prints tables and fails when something is outside its limit.

usage: interop_checkpoints.py --programs FOLDER --data FOLDER --work FOLDER [--calibration FILE]
                              [--windows N] [--stream-windows N] [--report FILE]
"""

import argparse
import datetime
import functools
import importlib.metadata
import json
import logging
import os
import pathlib
import platform
import shutil
import subprocess
import sys
import time

import llama_cpp
import numpy as np
import onnx
import onnxruntime
import safetensors.torch
import torch
import transformers

from interop import (BOS, WINDOW, Client, compare_perplexity, cpu_name, dense_perplexity,
                     read_safetensors, read_windows)

# Relative deviation of the perplexity from our runner's; every package here multiplies in float32.
FOLDER_LIMIT = 5e-4
# Of a product: root mean square of the differences, relative to that of the outputs. Both sum in
# float32, in different orders.
PRODUCT_LIMIT = 5e-7

GPTQ = ["--method", "gptq"]
# title, arguments of quantize_checkpoint, whether it needs calibration
FOLDERS = [
    ("gptq 4 bit g128", ["--to", "gptq", *GPTQ], True),
    ("gptq_v2 4 bit g32 asymmetric",
     ["--to", "gptq_v2", "--group-size", "32", "--asymmetric", *GPTQ], True),
    ("gptq 4 bit g128 act-order", ["--to", "gptq", "--method", "gptq-act"], True),
    ("gptq 3 bit g128", ["--to", "gptq", "--bits", "3", *GPTQ], True),
    ("gptq 8 bit g128", ["--to", "gptq", "--bits", "8", "--method", "rtn"], False),
    ("awq 4 bit g128", ["--to", "awq", "--method", "awq"], True),
    ("awq 4 bit g64", ["--to", "awq", "--group-size", "64", "--method", "awq"], True),
    ("compressed-tensors 4 bit g128", ["--to", "compressed-tensors", *GPTQ], True),
    ("compressed-tensors 4 bit g128 asymmetric",
     ["--to", "compressed-tensors", "--asymmetric", *GPTQ], True),
    ("compressed-tensors 8 bit g128", ["--to", "compressed-tensors", "--bits", "8"], False),
]
# bits, group size, symmetric
PRODUCTS = [(4, 128, True), (4, 32, False), (2, 64, True), (8, 128, False)]
K_QUANTS = ["q4_k", "q3_k", "q2_k"]


def load_folder(path):
    """A model in float32; backends in plain torch, because others are compiled while loading."""
    section = json.loads((path / "config.json").read_text())["quantization_config"]
    options = {}
    if section["quant_method"] == "gptq":
        options["quantization_config"] = transformers.GPTQConfig(bits=section["bits"],
                                                                 backend="gptq_torch")
    elif section["quant_method"] == "awq":
        options["quantization_config"] = transformers.AwqConfig(bits=section["bits"],
                                                                backend="torch_awq")
    elif not section["config_groups"]["group_0"]["weights"]["symmetric"]:
        # compressed-tensors 0.20 packs zero points and makes room for unpacked ones in a model that
        # is to stay packed: its own files do not load either. Decoded while loading they do.
        options["quantization_config"] = transformers.CompressedTensorsConfig(dequantize=True)
    return transformers.AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32,
                                                             device_map="cpu", **options).eval()


def check_folder(path, windows, ours):
    return compare_perplexity(ours, dense_perplexity(load_folder(path), windows), FOLDER_LIMIT)


def check_product(path, bits, group):
    """One MatMulNBits node with our bytes, against our product."""
    tensors = safetensors.torch.load_file(path)
    rows, cols = tensors["B"].shape[0], tensors["A"].shape[1]
    given = {name: tensors[name].numpy() for name in ("B", "scales", "zero_points")
             if name in tensors}
    if given["scales"].dtype == np.float16:  # the operator computes in the type of its scales
        given["scales"] = given["scales"].astype(np.float32)
    names = ["A", "B", "scales"] + (["zero_points"] if "zero_points" in given else [])
    node = onnx.helper.make_node("MatMulNBits", names, ["Y"], domain="com.microsoft", K=cols,
                                 N=rows, bits=bits, block_size=group, accuracy_level=0)
    graph = onnx.helper.make_graph(
        [node], "product",
        [onnx.helper.make_tensor_value_info("A", onnx.TensorProto.FLOAT, list(tensors["A"].shape))],
        [onnx.helper.make_tensor_value_info("Y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(value, name) for name, value in given.items()])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[
        onnx.helper.make_opsetid("", 21), onnx.helper.make_opsetid("com.microsoft", 1)])
    session = onnxruntime.InferenceSession(model.SerializeToString(),
                                           providers=["CPUExecutionProvider"])
    (theirs,) = session.run(None, {"A": tensors["A"].numpy()})
    ours = tensors["Y"].numpy()
    error = float(np.linalg.norm(theirs - ours) / np.linalg.norm(ours))
    largest = float(np.abs(theirs - ours).max() / np.abs(ours).max())
    return (f"{error:.2g} (largest: {largest:.2g} of the largest output)",
            None if error <= PRODUCT_LIMIT else f"the products differ by {error:.3g}")


class LlamaScorer:
    """llama.cpp on one file: logits of a window."""

    def __init__(self, path):
        self.model = llama_cpp.Llama(str(path), n_ctx=WINDOW + 1, n_batch=WINDOW + 1,
                                     logits_all=True, n_threads=1, n_threads_batch=1, verbose=False)

    def log_probabilities(self, targets):
        self.model.reset()
        self.model.eval([BOS] + targets[:-1].tolist())
        logits = np.asarray(self.model.scores[:WINDOW], dtype=np.float64)
        logits -= logits.max(axis=1, keepdims=True)
        return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))


def score_in_llama(base, paths, windows):
    """name -> (negative log likelihood, KL divergence from base's logits), one mean per window."""
    original = LlamaScorer(base)
    base_loss = []
    models = {name: LlamaScorer(path) for name, path in paths.items()}
    loss = {name: [] for name in paths}
    divergence = {name: [] for name in paths}
    for targets in windows:
        truth = original.log_probabilities(targets)
        base_loss.append(-truth[np.arange(WINDOW), targets].mean())
        for name, model in models.items():
            found = model.log_probabilities(targets)
            loss[name].append(-found[np.arange(WINDOW), targets].mean())
            divergence[name].append((np.exp(truth) * (truth - found)).sum(axis=1).mean())
    return (float(np.exp(np.mean(base_loss))),
            {name: (np.array(loss[name]), np.array(divergence[name])) for name in paths})


def paired(a, b):
    """Mean of a - b and its standard error."""
    d = a - b
    return d.mean(), d.std(ddof=1) / np.sqrt(len(d))


def compare_k_quants(example, args, calibration):
    """Rows for the table, and failures: GPTQ's codes against the imatrix-weighted k-quant."""
    original = args.data / "model-f16.gguf"
    paths = {}
    for kind in K_QUANTS:
        for method in ("imatrix", "gptq"):
            paths[f"{kind} {method}"] = path = args.work / f"{kind}-{method}.gguf"
            example("quantize", original, path, "--format", kind, "--method", method,
                    "--calibration", calibration)
    for kind in K_QUANTS:
        if len({paths[f"{kind} {m}"].stat().st_size for m in ("imatrix", "gptq")}) != 1:
            return [], [f"{kind}: the files have different sizes"]
    rows, failures = [], []
    for stream in ("alice", "time_machine"):
        tokens = args.data / f"{stream}.tokens.u16"
        windows = read_windows(tokens, args.stream_windows)
        unquantized, theirs = score_in_llama(original, paths, windows)
        scored = example("perplexity", *paths.values(), "--base", original, "--tokens", tokens,
                         "--windows", args.stream_windows, "--speed", 0, "--json", "-")
        ours = dict(zip(paths, json.loads(scored.stdout)["models"][1:]))
        for kind in K_QUANTS:
            weighted, fed_back = f"{kind} imatrix", f"{kind} gptq"
            kl, kl_error = paired(theirs[fed_back][1], theirs[weighted][1])
            nll, nll_error = paired(theirs[fed_back][0], theirs[weighted][0])
            mine = ours[fed_back]["kl_mean"] - ours[weighted]["kl_mean"]
            our_nll = np.log(ours[fed_back]["perplexity"] / ours[weighted]["perplexity"])
            perplexity = [np.exp(theirs[name][0].mean()) for name in (weighted, fed_back)]
            rows.append([f"`{kind}`", f"{stream} ({len(windows)})",
                         f"{theirs[weighted][1].mean():.5f}", f"{theirs[fed_back][1].mean():.5f}",
                         f"{kl:+.5f} ({kl_error:.5f})", f"{kl / kl_error:+.1f}", f"{mine:+.5f}",
                         f"{unquantized:.3f}", *(f"{p:.3f}" for p in perplexity),
                         f"{nll:+.5f} ({nll_error:.5f})", f"{our_nll:+.5f}"])
            print("  " + " | ".join(rows[-1]), flush=True)
            if not (kl < -2 * kl_error and mine < 0):
                failures.append(f"{kind} on {stream}: KL is not lower by two standard errors")
    return rows, failures


def table(head, rows):
    right = "|---" + "|---:" * (len(head) - 1) + "|"
    return ["| " + " | ".join(head) + " |", right] + ["| " + " | ".join(r) + " |" for r in rows]


def client_versions():
    names = ("transformers", "GPTQModel", "optimum", "compressed-tensors", "onnxruntime", "onnx",
             "torch", "llama-cpp-python")
    return ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def report_text(args, windows, folders, products, k_quants, failures, seconds):
    lines = [
        f"# Calibrated checkpoints in other programs, {datetime.date.today().isoformat()}", "",
        f"`scripts/interop.sh` on {cpu_name()} ({os.cpu_count()} CPUs), Python "
        f"{platform.python_version()}, {seconds:.0f} s after the builds.", "",
        f"Clients: {client_versions()}."]
    if folders:
        lines += [
            "", "## Folders", "",
            f"Perplexity of the bundled model on the first {len(windows)} windows of `alice` "
            f"({windows.size:,} tokens predicted). `examples/perplexity` and transformers run the "
            "same folder of `examples/quantize_checkpoint`; in brackets the deviation. Limit: "
            f"{FOLDER_LIMIT:.2%}. gptqmodel's torch backends round decoded weights to fp16; "
            "compressed-tensors with zero points is decoded while loading, to fp16 too.", "",
            *table(["folder", "examples/perplexity", "transformers"], folders)]
    if products:
        lines += [
            "", "## MatMulNBits", "",
            "One node in onnxruntime with the bytes of `examples/matmul_nbits`, accuracy_level 0: "
            "the root mean square difference from our product, relative to that of the outputs "
            f"(limit {PRODUCT_LIMIT:.0e}).", "",
            *table(["matrix", "difference"], products)]
    if k_quants:
        lines += [
            "", "## GPTQ's codes in k-quants", "",
            "The same bytes per weight, every matrix of the model, calibrated on the bundled text; "
            "llama.cpp runs both files. KL divergence from llama.cpp's own F16 logits; differences "
            "are GPTQ less imatrix, paired over windows, with their standard errors in brackets. "
            '"Ours" is the same difference in `examples/perplexity`, which does not round '
            "activations.", "",
            *table(["format", "text (windows)", "KL imatrix", "KL GPTQ", "difference", "in errors",
                    "ours", "perplexity F16", "imatrix", "GPTQ", "NLL difference", "ours"],
                   k_quants)]
    if failures:
        lines += ["", "Not as it must be:", "", "- " + "\n- ".join(failures)]
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="the built examples")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="examples/data")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="emptied, then written")
    parser.add_argument("--calibration", type=pathlib.Path,
                        help="of perplexity --calibrate (default: made of the bundled text)")
    parser.add_argument("--windows", type=int, default=20, help="of the folders (default: 20)")
    parser.add_argument("--stream-windows", type=int, default=60,
                        help="of each text for the k-quants (default: 60)")
    parser.add_argument("--report", type=pathlib.Path, help="write the tables to this file, too")
    parser.add_argument("--parts", default="folders,products,k-quants", help="which tables to make")
    args = parser.parse_args()
    begin = time.monotonic()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    logging.disable(logging.WARNING)

    def example(program, *arguments, check=True):
        done = subprocess.run([args.programs / program, *map(str, arguments)], check=False,
                              capture_output=True, text=True)
        if check and done.returncode != 0:
            sys.exit(f"{program} {arguments}: {done.stderr}")
        return done

    tokens = args.data / "alice.tokens.u16"
    calibration = args.calibration or args.work / "calibration.safetensors"
    if not args.calibration:
        example("perplexity", args.data / "model-f16.gguf", "--tokens",
                args.data / "calibration.tokens.u16", "--calibrate", calibration)
    windows = read_windows(tokens, args.windows)

    folders, failures = [], []
    for title, options, calibrated in FOLDERS if "folders" in args.parts else []:
        path = args.work / title.replace(" ", "-")
        example("quantize_checkpoint", args.data, path, *options,
                *(["--calibration", calibration] if calibrated else []))
        scored = example("perplexity", path, "--tokens", tokens, "--windows", args.windows,
                         "--speed", 0, "--json", "-")
        (model,) = json.loads(scored.stdout)["models"]
        if model["tokens"] != windows.size:
            sys.exit("the token windows differ from those of examples/perplexity")
        ours = model["perplexity"]
        print(f"{title}: perplexity {ours:.4f}", flush=True)
        client = Client("transformers")
        client.ask(title, functools.partial(check_folder, path, windows, ours))
        folders.append([title, f"{ours:.4f}", client.cells[title]])
        failures += client.failures

    products = []
    for bits, group, symmetric in PRODUCTS if "products" in args.parts else []:
        title = f"{bits} bit g{group} {'symmetric' if symmetric else 'with zero points'}"
        folder = args.work / f"product-{bits}-{group}"
        example("quantize_checkpoint", args.data, folder, "--to", "gptq_v2", "--bits", bits,
                "--group-size", group, "--symmetric" if symmetric else "--asymmetric")
        path = folder / "product.safetensors"
        example("matmul_nbits", folder, "model.layers.1.mlp.up_proj", path)
        client = Client("onnxruntime")
        client.ask(title, functools.partial(check_product, path, bits, group))
        products.append([title, client.cells[title]])
        failures += client.failures

    k_quants = []
    if "k-quants" in args.parts:
        k_quants, found = compare_k_quants(example, args, calibration)
        failures += found

    text = report_text(args, windows, folders, products, k_quants, failures,
                       time.monotonic() - begin)
    print("\n" + text)
    if args.report:
        args.report.write_text(text, encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
