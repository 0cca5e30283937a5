#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Compares the tensor types that examples/quantize --recipe chooses with llama.cpp's own choice.

Writes models of several architectures with tiny rows, which llama.cpp's quantizer takes for the
real ones: it looks at metadata, names and row lengths. Every recipe, with and without an importance
matrix, and some changes to recipes are asked of both programs, tensor by tensor. Then files that
recipes make of the bundled model are run by both. Fails when anything differs.

--freeze writes llama.cpp's answers as the table that tests/checkpoint/recipe.cpp checks.

usage: interop_recipes.py --programs FOLDER --data FOLDER --work FOLDER [--windows N]
                          [--report FILE] [--freeze FILE]
"""

import argparse
import ctypes
import datetime
import importlib.metadata
import json
import os
import pathlib
import re
import shutil
import struct
import subprocess
import sys
import time

import gguf
import llama_cpp
import numpy as np

from interop import LLAMA_LIMIT, compare_perplexity, cpu_name, llama_perplexity, read_windows

ROWS = 2
# llama.cpp's name and number of every recipe; its quantizer does not take that of NVFP4.
RECIPES = {name.removeprefix("LLAMA_FTYPE_").removeprefix("MOSTLY_").removeprefix("ALL_"):
           getattr(llama_cpp, name)
           for name in dir(llama_cpp)
           if re.match(r"LLAMA_FTYPE_(MOSTLY|ALL)_(?!NVFP4)", name)}
TYPES = {t.name.lower(): int(t) for t in gguf.GGMLQuantizationType}

# Changes to a recipe: for which model, to which recipe, which.
CHANGES = [
    ("llama2-7b", "Q4_K_M", ["pure"]),
    ("llama2-7b", "Q4_K_M", ["output=q8_0"]),
    ("llama2-7b", "Q4_K_M", ["embedding=q3_k"]),
    ("llama2-7b", "Q4_K_M", [r"type=attn_v=q8_0"]),
    ("llama2-7b", "Q4_K_M", [r"type=blk\.(0|1|2)\.attn_v=q8_0"]),
    ("llama2-7b", "Q3_K_L", [r"type=blk\.[0-9]\.ffn_(up|gate)=iq4_xs", "type=ffn_up=q6_k"]),
    ("llama2-7b", "IQ3_M", [r"type=^output\.weight$=bf16", "imatrix"]),
    ("llama2-7b", "Q8_0", ["pure"]),
    ("llama2-7b", "IQ2_XS", ["pure", "imatrix"]),
    ("mixtral", "Q2_K", ["pure", "output=q6_k", "embedding=q2_k"]),
    ("mixtral", "Q4_K_S", [r"type=_exps\.weight=q3_k"]),
    ("mixtral", "MXFP4_MOE", ["type=attn=bf16"]),
    ("qwen2-tied", "Q4_K_M", ["output=q8_0"]),
    ("qwen2-tied", "Q4_K_M", ["embedding=q8_0", "output=q4_0"]),
    ("qwen2-tied", "Q4_K_M", ["pure", "output=q8_0"]),
    ("rows-of-32", "Q4_K_M", ["type=ffn_down=q6_k"]),
    ("rows-of-32", "IQ1_M", ["pure", "imatrix"]),
]


class Model:
    """A synthetic model: the keys that the rules read, and its tensors as (pattern, dims, type).

    A pattern "blk.FIRST-LAST.LEAF" stands for a tensor in each of these layers."""

    def __init__(self, name, arch, layers, heads, kv_heads, experts, tensors, **keys):
        self.name, self.arch, self.layers, self.experts = name, arch, layers, experts
        self.heads, self.kv_heads, self.tensors, self.keys = heads, kv_heads, tensors, keys

    def names(self):
        """(pattern, name, dims, type) in an order that is not llama.cpp's."""
        for pattern, dims, kind in self.tensors:
            span = re.match(r"blk\.(\d+)-(\d+)\.(.*)", pattern)
            if not span:
                yield pattern, pattern, dims, kind
                continue
            for layer in range(int(span[1]), int(span[2]) + 1):
                yield pattern, f"blk.{layer}.{span[3]}", dims, kind

    def write(self, path):
        out = gguf.GGUFWriter(path, self.arch)
        keys = {"block_count": self.layers, "attention.head_count": self.heads,
                "attention.head_count_kv": self.kv_heads, "context_length": 64,
                "embedding_length": 64 * self.heads, "feed_forward_length": 256,
                "attention.layer_norm_rms_epsilon": 1e-5, "attention.layer_norm_epsilon": 1e-5}
        if self.experts:
            keys.update(expert_count=self.experts, expert_used_count=2)
        keys.update(self.keys)
        for key, value in keys.items():
            add = out.add_float32 if isinstance(value, float) else out.add_uint32
            add(f"{self.arch}.{key}", value)
        for _, name, dims, kind in self.names():
            dtype = np.float32 if kind == "f32" else np.float16
            out.add_tensor(name, np.zeros(dims[::-1], dtype))
        out.write_header_to_file()
        out.write_kv_data_to_file()
        out.write_tensors_to_file()
        out.close()


def matrix(leaf, last=None, cols=256, first=0, experts=0):
    dims = [cols, ROWS, experts] if experts else [cols, ROWS]
    return (f"blk.{first}-{last}.{leaf}.weight" if last is not None else f"{leaf}.weight", dims,
            "f16")


def norm(leaf, last=None, cols=256):
    return (f"blk.0-{last}.{leaf}.weight" if last is not None else f"{leaf}.weight", [cols], "f32")


def llama(name, layers, heads, kv_heads, experts=0, width=256, inner=256, tied=False, arch="llama",
          **keys):
    last = layers - 1
    tensors = [matrix("token_embd", cols=width), norm("output_norm", cols=width)]
    tensors += [] if tied else [matrix("output", cols=width)]
    tensors += [norm(leaf, last, width) for leaf in ("attn_norm", "ffn_norm")]
    tensors += [matrix(leaf, last, width)
                for leaf in ("attn_q", "attn_k", "attn_v", "attn_output")]
    if experts:
        tensors += [matrix("ffn_gate_inp", last, width)]
        tensors += [matrix(f"ffn_{part}_exps", last, inner if part == "down" else width, 0, experts)
                    for part in ("gate", "up", "down")]
    else:
        tensors += [matrix(f"ffn_{part}", last, inner if part == "down" else width)
                    for part in ("gate", "up", "down")]
    return Model(name, arch, layers, heads, kv_heads, experts, tensors, **keys)


def falcon(name, layers, heads, kv_heads):
    last = layers - 1
    tensors = [matrix("token_embd"), matrix("output"), norm("output_norm"),
               norm("attn_norm", last)]
    tensors += [matrix(leaf, last) for leaf in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")]
    return Model(name, "falcon", layers, heads, kv_heads, 0, tensors)


def deepseek():
    last = 26
    tensors = [matrix("token_embd"), matrix("output"), norm("output_norm"),
               norm("attn_norm", last), norm("ffn_norm", last), norm("attn_kv_a_norm", last)]
    tensors += [matrix(leaf, last) for leaf in ("attn_q", "attn_kv_a_mqa", "attn_output")]
    tensors += [matrix(leaf, last, experts=4) for leaf in ("attn_k_b", "attn_v_b")]
    tensors += [matrix("attn_kv_b", last)]
    tensors += [matrix(f"ffn_{part}", 0) for part in ("gate", "up", "down")]
    tensors += [matrix("ffn_gate_inp", last, first=1)]
    for part in ("gate", "up", "down"):
        tensors += [matrix(f"ffn_{part}_exps", last, first=1, experts=4),
                    matrix(f"ffn_{part}_shexp", last, first=1)]
    return Model("deepseek2-lite", "deepseek2", 27, 16, 16, 64, tensors,
                 **{"attention.kv_lora_rank": 512, "leading_dense_block_count": 1,
                    "expert_feed_forward_length": 256, "expert_shared_count": 2,
                    "expert_weights_scale": 1.0, "rope.dimension_count": 64,
                    "attention.key_length": 192, "attention.value_length": 128})


def gpt2():
    last = 11
    tensors = [matrix("token_embd"), matrix("position_embd"), norm("output_norm")]
    tensors += [norm(leaf, last) for leaf in ("attn_norm", "ffn_norm")]
    tensors += [matrix(leaf, last) for leaf in ("attn_qkv", "attn_output", "ffn_up", "ffn_down")]
    tensors += [("blk.0-11.attn_qkv.bias", [256], "f32")]
    return Model("gpt2-tied", "gpt2", 12, 12, 12, 0, tensors)


def odd_names():
    """What recipes leave alone, beside names that look like it and are quantized."""
    kept = ["blk.0.attn_q_norm", "blk.0.ffn_gate_inp", "blk.0.ffn_gate_tid2eid", "altup_proj",
            "altup_unembd_proj", "per_layer_model_proj", "blk.0.laurel_l", "blk.0.ssm_conv1d",
            "blk.0.shortconv.conv", "blk.0.indexer.k_proj", "blk.0.indexer.q_proj",
            "blk.0.attn_rel_b", "v.position_embd", "v.patch_embd", "mm.patch_merger", "v.rel_pos_w",
            "sam.pos_embd", "sam.neck.0", "sam.net_2", "a.rvq.codebook.0", "mm.a.code_embd"]
    kept += [f"blk.0.time_mix_{part}" for part in
             ("first", "w0", "w1", "w2", "v0", "v1", "v2", "a0", "a1", "a2", "g1", "g2", "decay_w1",
              "decay_w2", "lerp_fused")]
    taken = ["blk.0.time_mix_key", "blk.0.ssm_in", "blk.0.ffn_gate_inp_shexp", "v.patch_em",
             "blk.0.attn_kv_b", "blk.0.cross_attn_v", "blk.1.nextn.eh_proj", "per_layer_token_embd",
             "blk.0.attn_qkv", "cls", "blk.1.ffn_gate_up_exps", "dec.blk.0.attn_q"]
    tensors = [(f"{name}.weight", [256, ROWS], "f16") for name in kept + taken]
    tensors += [("blk.0.attn_q.bias", [256, ROWS], "f16"), ("blk.1.attn_q.scale", [256, ROWS], "f16"),
                ("blk.1.one_row.weight", [256, 1], "f16"), matrix("token_embd")]
    return Model("odd-names", "llama", 2, 4, 4, 0, tensors)


MODELS = [
    llama("llama2-70b", 80, 64, 8),
    llama("llama-65b", 80, 64, 64),
    llama("llama2-7b", 32, 32, 32),
    llama("mistral-7b", 32, 32, 8),
    llama("mixtral", 32, 32, 8, experts=8),
    llama("experts-of-4", 16, 32, 32, experts=4),
    llama("qwen2-tied", 24, 14, 2, tied=True, arch="qwen2"),
    llama("qwen2-72b", 80, 64, 64, arch="qwen2"),
    llama("qwen3moe", 48, 32, 4, experts=16, arch="qwen3moe", expert_feed_forward_length=256),
    falcon("falcon-7b", 32, 71, 1),
    falcon("falcon-40b", 60, 128, 8),
    gpt2(),
    deepseek(),
    odd_names(),
    llama("rows-of-32", 16, 8, 2, width=160, inner=288),
    llama("rows-of-16", 8, 8, 8, width=48, inner=272, tied=True),
    llama("three-layers", 3, 8, 1),
]


class Reference:
    """llama.cpp's quantizer, asked without writing anything."""

    def __init__(self):
        self.lines = []
        self.callback = llama_cpp.llama_log_callback(
            lambda _, text, __: self.lines.append(text.decode(errors="replace")))
        llama_cpp.llama_log_set(self.callback, ctypes.c_void_p(0))
        llama_cpp.llama_backend_init()

    def ask(self, path, recipe, options):
        """{tensor: type}, or the reason of a refusal."""
        p = llama_cpp.llama_model_quantize_default_params()
        p.ftype, p.dry_run, p.nthread = RECIPES[recipe], True, 1
        values = (ctypes.c_float * 1)(1.0)
        entries = (llama_cpp.llama_model_imatrix_data * 2)()
        entries[0].name, entries[0].data, entries[0].size = b"x", values, 1
        overrides = (llama_cpp.llama_model_tensor_override * (len(options) + 1))()
        used = 0
        for option in options:
            what, _, value = option.partition("=")
            if what == "imatrix":
                p.imatrix = entries
            elif what == "pure":
                p.pure = True
            elif what == "output":
                p.output_tensor_type = TYPES[value]
            elif what == "embedding":
                p.token_embedding_type = TYPES[value]
            else:
                pattern, _, kind = value.rpartition("=")
                overrides[used].pattern = pattern.encode()
                overrides[used].type = TYPES[kind]
                used += 1
        if used:
            p.tt_overrides = overrides
        self.lines.clear()
        failed = llama_cpp.llama_model_quantize(os.fsencode(path), b"", ctypes.byref(p))
        text = "".join(self.lines)
        if failed:
            return re.findall(r"failed to quantize: (.*)", text)[-1]
        found = {}
        for name, before, rest in re.findall(
                r"^\[ *\d+/ *\d+\] +(\S+) +- \[.*?\], type = +(\w+), (.*)$", text, re.MULTILINE):
            after = re.search(r"-> .*\((\w+)\)", rest)
            found[name] = (after[1] if after else before).lower()
        return found


def our_arguments(recipe, options, importance):
    arguments = ["--recipe", recipe, "--dry-run"]
    names = {"output": "--output-format", "embedding": "--token-embedding-format",
             "type": "--tensor-type"}
    for option in options:
        what, _, value = option.partition("=")
        arguments += (["--imatrix", str(importance)] if what == "imatrix" else
                      ["--pure"] if what == "pure" else [names[what], value])
    return arguments


def our_answer(text):
    return {name: kind for name, kind in re.findall(
        r"^(\S+) +\d+(?: x \d+)* +\w+ +(\w+) +\d+(?:  \(.*)?$", text, re.MULTILINE)}


def in_runs(values):
    """"a a b" as "a*2,b"."""
    runs = []
    for value in values:
        if runs and runs[-1][0] == value:
            runs[-1][1] += 1
        else:
            runs.append([value, 1])
    return ",".join(kind if count == 1 else f"{kind}*{count}" for kind, count in runs)


def frozen_answer(model, answer, usual):
    """What differs from: F32 stays, everything else gets the recipe's usual type."""
    by_pattern = {}
    for pattern, name, _, kind in model.names():
        by_pattern.setdefault(pattern, []).append((answer[name], kind))
    parts = [usual]
    for pattern, found in by_pattern.items():
        if any(kind != ("f32" if source == "f32" else usual) for kind, source in found):
            parts.append(f"{pattern}={in_runs([kind for kind, _ in found])}")
    return " ".join(parts)


def freeze(path, models, answers):
    """Equal answers with and without importance in one line."""
    lines = []
    for model in models:
        lines.append("\t".join(["model", model.name, model.arch, str(model.layers),
                                str(model.heads), str(model.kv_heads), str(model.experts)]))
        for pattern, dims, kind in model.tensors:
            lines.append("\t".join(["tensor", pattern, "x".join(map(str, dims)), kind]))
        for (name, recipe, options), answer in answers.items():
            if name != model.name:
                continue
            label = " ".join(options) or "-"
            if options == () and answers.get((name, recipe, ("imatrix",))) == answer:
                label = "any"
            if options == ("imatrix",) and answers.get((name, recipe, ())) == answer:
                continue
            if isinstance(answer, str):
                lines.append("\t".join(["refused", recipe, label]))
                continue
            kinds = [answer[n] for _, n, _, kind in model.names() if kind != "f32"]
            usual = max(sorted(set(kinds)), key=kinds.count)
            lines.append("\t".join(["types", recipe, label, frozen_answer(model, answer, usual)]))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")


def compare_types(models, folder, quantize):
    """(answers of llama.cpp, {model: counts}, failures)."""
    reference = Reference()
    importance = folder / "one.dat"
    importance.write_bytes(struct.pack("<ii1siifii1s", 1, 1, b"x", 1, 1, 1.0, 1, 1, b"t"))
    answers, counts, failures = {}, {}, []
    for model in models:
        path = folder / f"{model.name}.gguf"
        model.write(path)
        questions = [(recipe, options) for recipe in RECIPES for options in ([], ["imatrix"])]
        questions += [(recipe, options) for name, recipe, options in CHANGES if name == model.name]
        count = counts[model.name] = {"tensors": len(list(model.names())), "asked": 0, "equal": 0,
                                      "refused": 0}
        for recipe, options in questions:
            answer = reference.ask(path, recipe, options)
            answers[model.name, recipe, tuple(options)] = answer
            ours = subprocess.run([quantize, path, *our_arguments(recipe, options, importance)],
                                  capture_output=True, text=True, check=False)
            what = f"{model.name}, {recipe} {' '.join(options)}"
            if ours.returncode:
                failures.append(f"{what}: {ours.stderr.strip()[:300]}")
                continue
            if isinstance(answer, str):
                count["refused"] += 1
                if "no tensor type fallback" not in answer:
                    failures.append(f"{what}: llama.cpp refuses: {answer}")
                continue
            found = our_answer(ours.stdout)
            different = [name for name in answer if found.get(name) != answer[name]]
            if set(found) != set(answer) or len(answer) != count["tensors"]:
                failures.append(f"{what}: {len(found)} tensors, llama.cpp has {len(answer)}")
            elif different:
                name = different[0]
                failures.append(f"{what}: {len(different)} tensors differ; {name} is "
                                f"{found[name]}, in llama.cpp {answer[name]}")
            count["asked"] += 1
            count["equal"] += not different
        print(f"{model.name}: {count}", flush=True)
    return answers, counts, failures


def read_importance(path):
    """The means of an imatrix file as llama.cpp takes them, and what keeps their memory alive."""
    tensors = {t.name: t.data for t in gguf.GGUFReader(path).tensors}
    names = [name.removesuffix(".in_sum2") for name in tensors if name.endswith(".in_sum2")]
    entries = (llama_cpp.llama_model_imatrix_data * (len(names) + 1))()
    kept = []
    for entry, name in zip(entries, names):
        means = np.ascontiguousarray(tensors[f"{name}.in_sum2"] / tensors[f"{name}.counts"],
                                     dtype=np.float32)
        kept.append(means)
        entry.name, entry.size = name.encode(), means.size
        entry.data = means.ctypes.data_as(ctypes.POINTER(ctypes.c_float))
    return entries, kept


def compare_bundled(args, run):
    """Files that recipes make of the bundled model: types, bytes and perplexity in both programs."""
    original = args.data / "model-f16.gguf"
    tokens = args.data / "alice.tokens.u16"
    importance = args.work / "imatrix.gguf"
    run("perplexity", original, "--imatrix-out", importance, "--windows", args.windows, "--tokens",
        args.data / "calibration.tokens.u16")
    entries, kept = read_importance(importance)
    windows = read_windows(tokens, args.windows)
    rows, failures = [], []
    for recipe, weighted in (("Q4_K_M", False), ("Q4_K_M", True), ("Q2_K", False), ("Q2_K", True),
                             ("IQ3_M", False), ("IQ3_M", True), ("IQ2_XS", True), ("IQ1_M", True)):
        what = f"{recipe}{' with importance' if weighted else ''}"
        path, reference = (args.work / f"{name}-{recipe}-{weighted}.gguf"
                           for name in ("ours", "theirs"))
        run("quantize", original, path, "--recipe", recipe,
            *(["--imatrix", importance, "--method", "imatrix"] if weighted
              else ["--method", "reference"]))
        p = llama_cpp.llama_model_quantize_default_params()
        p.ftype, p.nthread = RECIPES[recipe], 1
        if weighted:
            p.imatrix = entries
        if llama_cpp.llama_model_quantize(os.fsencode(original), os.fsencode(reference),
                                          ctypes.byref(p)):
            failures.append(f"{what}: llama.cpp refuses")
            continue
        reader, theirs = gguf.GGUFReader(path), gguf.GGUFReader(reference)
        tensors = {t.name: t for t in theirs.tensors}
        if any(t.tensor_type != tensors[t.name].tensor_type for t in reader.tensors):
            failures.append(f"{what}: the types differ")
        same = sum(np.array_equal(t.data, tensors[t.name].data) for t in reader.tensors)
        if same != len(tensors):
            failures.append(f"{what}: {len(tensors) - same} tensors have other bytes")
        key = "general.file_type"
        if reader.fields[key].contents() != theirs.fields[key].contents():
            failures.append(f"{what}: {key} differs")
        count = reader.fields.get("quantize.imatrix.entries_count")
        if (count.contents() if count else 0) != (len(kept) if weighted else 0):
            failures.append(f"{what}: quantize.imatrix.entries_count is not {len(kept)}")
        scored = run("perplexity", path, "--tokens", tokens, "--windows", args.windows, "--speed",
                     0, "--json", "-")
        ours = json.loads(scored.stdout)["models"][0]["perplexity"]
        cell, failure = compare_perplexity(ours, llama_perplexity(path, windows), LLAMA_LIMIT)
        if failure:
            failures.append(f"{what}: {failure}")
        rows.append((recipe, "yes" if weighted else "no", path.stat().st_size,
                     f"{same} of {len(tensors)}", f"{ours:.4f}", cell))
        print(rows[-1], flush=True)
    return rows, failures


def report_text(args, counts, rows, failures, seconds):
    lines = [
        f"# Recipes in examples/quantize and in llama.cpp, {datetime.date.today().isoformat()}",
        "",
        f"`scripts/interop.sh` on {cpu_name()} ({os.cpu_count()} CPUs), {seconds:.0f} s. "
        f"llama-cpp-python {importlib.metadata.version('llama-cpp-python')}.",
        "",
        f"Models of other architectures, with tiny rows: every one of {len(RECIPES)} recipes with "
        f"and without an importance matrix, and {len(CHANGES)} changed recipes (`--pure`, "
        "`--tensor-type`, ...), asked of `llama_model_quantize` and of `quantize --recipe`. A "
        "question counts as equal when every tensor gets the same type. llama.cpp refuses recipes "
        "whose type has no substitute for rows that do not divide into its blocks; here these rows "
        "become F16.",
        "",
        "| model | tensors | questions answered by both | equal | refused by llama.cpp |",
        "|---|---:|---:|---:|---:|",
    ]
    for name, c in counts.items():
        lines.append(f"| {name} | {c['tensors']} | {c['asked']} | {c['equal']} | {c['refused']} |")
    lines += [
        "",
        "The bundled model, quantized by both programs with the same recipe and, where it says so, "
        "the importance matrix of `perplexity --imatrix-out`: tensors with equal bytes. Our file, "
        f"run by both on {args.windows} windows of `alice`: perplexity, limit {LLAMA_LIMIT:.1%} "
        "(llama.cpp rounds activations to 8 bits and its key-value cache to fp16).",
        "",
        "| recipe | imatrix | bytes | tensors equal | examples/perplexity | llama.cpp |",
        "|---|---|---:|---:|---:|---:|",
    ]
    lines += ["| " + " | ".join(map(str, row)) + " |" for row in rows]
    lines += ["", "Not as it must be:", "", "- " + "\n- ".join(failures)] if failures else []
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="the built examples")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="examples/data")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="emptied, then written")
    parser.add_argument("--windows", type=int, default=40, help="how much text (default: 40)")
    parser.add_argument("--report", type=pathlib.Path, help="write the tables to this file, too")
    parser.add_argument("--freeze", type=pathlib.Path, help="write llama.cpp's answers to this file")
    args = parser.parse_args()
    begin = time.monotonic()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)

    def run(program, *arguments):
        return subprocess.run([args.programs / program, *map(str, arguments)], check=True,
                              capture_output=True, text=True)

    answers, counts, failures = compare_types(MODELS, args.work, args.programs / "quantize")
    if args.freeze:
        freeze(args.freeze, MODELS, answers)
    rows, more = compare_bundled(args, run)
    failures += more
    text = report_text(args, counts, rows, failures, time.monotonic() - begin)
    print("\n" + text)
    if args.report:
        args.report.write_text(text, encoding="utf-8")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
