#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""Makes tiny checkpoints of Hugging Face's with random weights, has examples/quantize write GGUF
files of them, and runs these in llama.cpp.

Logits of llama.cpp are compared with those of transformers in float32, tokens with those of the
checkpoint's own tokenizer. A control per model, with one thing of the configuration changed, shows
that the comparison would see an error. With llama.cpp's converter at hand (--converter) its file is
compared key by key and tensor by tensor. Prints a table and fails when something is outside its
limit.

usage: interop_huggingface.py --programs FOLDER --data FOLDER --work FOLDER [--converter FILE]
                              [--only NAME] [--report FILE]
"""

import argparse
import copy
import datetime
import importlib.metadata
import json
import os
import pathlib
import platform
import random
import shutil
import subprocess
import sys
import time
import unicodedata

import gguf
import llama_cpp
import numpy as np
import sentencepiece
import tokenizers
import torch
import transformers
from tokenizers import decoders, models, normalizers, pre_tokenizers, processors, trainers

# Largest difference of a logit, relative to the largest logit. llama.cpp rounds activations as it
# multiplies: to f16 with weights in f16, to 8 bits with q8_0.
LIMITS = {"f32": 2e-5, "f16": 5e-3, "q8_0": 1.5e-1}
CONTROL = 1000  # so many times the limit of f32 the control is off, at least
LENGTH = 96   # tokens of the compared text

CASE = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
PATTERNS = {
    "llama-bpe": CASE + r"\p{N}{1,3}" + REST,
    "smaug-bpe": CASE + r"\p{N}{1,3}" + REST,
    "qwen2": CASE + r"\p{N}" + REST,
    "tekken": rf"[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]*[{LOWER}]+|[^\r\n\p{{L}}\p{{N}}]?[{UPPER}]+[{LOWER}]*"
              r"|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+",
}
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}"


def strings(specials):
    """Some 200 texts: words, digits, punctuation, white space, scripts, emoji, special tokens."""
    base = ["", " ", "  ", "a", " a", "a ", "Hello world", "Hello  world", " leading", "trailing ",
            "tab\tbetween", "\ttab first", "line\nline", "line\r\nline", "\n", "\n\n", "\n \n",
            "  \n  x", "x   \n", "1", "12", "123", "1234", "12345 67", "3.14", "1,000,000", "0x1F",
            "I'm you're he'll WE'VE it'S", "don't", "'tis", "``quoted''", "a-b_c/d\\e", "x=y+z;",
            "(parenthesis) [bracket] {brace}", "...", "!!??", "#hash @at $5 50% ^ & * ~",
            "def f(x):\n    return x + 1\n", "for(int i=0;i<10;++i){\n\tf(i);\n}\n",
            "https://example.org/a?b=c&d=1", "MiXeD CaSe WORDS", "ALLCAPS", "camelCaseName",
            "caf\u00e9 na\u00efve", "Stra\u00dfe \u00c4pfel", "\u041f\u0440\u0438\u0432\u0435\u0442 \u043c\u0438\u0440",
            "\u4f60\u597d\u4e16\u754c", "\u65e5\u672c\u8a9e\u306e\u30c6\u30b9\u30c8", "\ud55c\uad6d\uc5b4 \ubb38\uc7a5",
            "\u0627\u0644\u0639\u0631\u0628\u064a\u0629", "\u05e2\u05d1\u05e8\u05d9\u05ea", "\u0939\u093f\u0928\u094d\u0926\u0940",
            "\u0e20\u0e32\u0e29\u0e32\u0e44\u0e17\u0e22", "\u0395\u03bb\u03bb\u03b7\u03bd\u03b9\u03ba\u03ac",
            "\U0001F600", "\U0001F600\U0001F680 emoji", "\U0001F468\u200d\U0001F469\u200d\U0001F467",
            "\u00a0no-break\u00a0", "\u2003em space", "\u200bzero", "soft\u00adhyphen", "\u2581mark",
            "\u00bd \u2153 \u00b2", "\u0661\u0662\u0663", "\u2026 \u2014 \u201cquotes\u201d", "\u20ac10 \u00a35"]
    words = ["Alice", " was", " the", "rabbit", " 42", "2026", "\n", "  ", "\t", ".", ", ", "!",
             "\u00e9", "\u4e16", "\U0001F680", "'s", "'LL", " (", ")", "x", "Queen", " of", " Hearts"]
    words += specials
    draw = random.Random(7)
    texts = base + [s + t for s in specials for t in ("", "x", " x")]
    while len(texts) < 200:
        texts.append("".join(draw.choice(words) for _ in range(draw.randint(2, 9))))
    return [unicodedata.normalize("NFC", t) for t in texts]


def training_text(data):
    text = (data / "alice.txt").read_text(encoding="utf-8")
    return text.splitlines()[:2000] + [t for t in strings([]) if t.strip()] * 3


def bpe_tokenizer(data, kind, specials, bos):
    """A byte-level BPE tokenizer of one of the known cuts, trained on the spot."""
    ignore = kind in ("llama-bpe", "tekken")
    tok = tokenizers.Tokenizer(models.BPE(ignore_merges=ignore))
    if kind in PATTERNS:
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Split(tokenizers.Regex(PATTERNS[kind]), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])
    elif kind == "smollm":
        tok.pre_tokenizer = pre_tokenizers.Sequence([
            pre_tokenizers.Digits(individual_digits=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False)])
    else:
        tok.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    if kind == "qwen2":
        tok.normalizer = normalizers.NFC()
    tok.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1500, show_progress=False,
                                  initial_alphabet=pre_tokenizers.ByteLevel.alphabet())
    tok.train_from_iterator(training_text(data), trainer)
    tok.add_special_tokens(specials)
    byte_level = processors.ByteLevel(add_prefix_space=False, trim_offsets=False)
    if bos:
        template = processors.TemplateProcessing(
            single=f"{bos} $A", pair=f"{bos} $A {bos}:1 $B:1",
            special_tokens=[(bos, tok.token_to_id(bos))])
        tok.post_processor = processors.Sequence([byte_level, template])
    else:
        tok.post_processor = byte_level
    return tok


def write_bpe(data, folder, kind):
    if kind == "qwen2":
        specials, bos, eos, pad = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], None, 2, 0
    elif kind == "llama-bpe" or kind == "smaug-bpe":
        specials = ["<|begin_of_text|>", "<|end_of_text|>", "<|eot_id|>", "<|reserved_0|>"]
        bos, eos, pad = specials[0], 2, None
    else:
        specials, bos, eos, pad = ["<s>", "</s>", "[INST]"], "<s>", 1, None
    tok = bpe_tokenizer(data, kind, specials, bos)
    tok.add_tokens(["<tool_call>", "  two spaces"])
    fast = transformers.PreTrainedTokenizerFast(
        tokenizer_object=tok, bos_token=bos, eos_token=specials[eos],
        pad_token=None if pad is None else specials[pad])
    fast.chat_template = TEMPLATE
    fast.save_pretrained(folder)
    return fast.encode, specials + ["<tool_call>"]


def train_sentencepiece(data, path):
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(training_text(data)), model_prefix=str(path.with_suffix("")),
        vocab_size=1200, model_type="bpe", byte_fallback=True, normalization_rule_name="identity",
        remove_extra_whitespaces=False, split_digits=True, character_coverage=0.995,
        allow_whitespace_only_pieces=True, minloglevel=2)
    path.with_suffix(".vocab").unlink()


def write_sentencepiece(data, folder, kind):
    """The bundled model, one trained on the spot, or the latter as tokenizer.json only."""
    path = folder / "tokenizer.model"
    if kind == "bundled":
        shutil.copy(data / "tokenizer.model", path)
    else:
        train_sentencepiece(data, path)
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>",
                "unk_token": "<unk>", "add_bos_token": True, "add_eos_token": False,
                "add_prefix_space": True, "legacy": True, "chat_template": TEMPLATE}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings), encoding="utf-8")
    if kind == "json":
        tok = transformers.AutoTokenizer.from_pretrained(folder)
        tok.save_pretrained(folder)
        path.unlink()
        # As the files of Llama 2 and Mistral 7B have it; transformers 5 writes Metaspace instead,
        # which puts no space before a text that begins with one.
        described = json.loads((folder / "tokenizer.json").read_text(encoding="utf-8"))
        described["pre_tokenizer"] = None
        described["normalizer"] = {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "\u2581"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]}
        (folder / "tokenizer.json").write_text(json.dumps(described, ensure_ascii=False),
                                               encoding="utf-8")
        return tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).encode, ["</s>"]
    words = sentencepiece.SentencePieceProcessor(str(path))
    return (lambda text: [1] + words.encode(text) if text else [1]), []


def base_config(**changes):
    sizes = dict(hidden_size=128, intermediate_size=256, num_hidden_layers=2,
                 num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
                 initializer_range=0.12, tie_word_embeddings=False, bos_token_id=None,
                 eos_token_id=None, pad_token_id=None)
    return sizes | changes


LLAMA3 = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
          "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}
OTHER_BASE = {"rope_type": "default", "rope_theta": 9000.0}

# name: class of the configuration, its values, the tokenizer, how the weights are stored, and what
# the control changes.
CASES = {
    "llama, sentencepiece": ("Llama", base_config(rms_norm_eps=1e-5), ("spm", "bundled"),
                             torch.float16, {"rope_parameters": OTHER_BASE}),
    "llama without GQA, tied, in shards": (
        "Llama", base_config(num_key_value_heads=4, tie_word_embeddings=True), ("spm", "trained"),
        torch.float32, {"rope_parameters": OTHER_BASE}),
    "llama 3, rope llama3, tied": (
        "Llama", base_config(rope_parameters=LLAMA3, tie_word_embeddings=True),
        ("bpe", "llama-bpe"), torch.bfloat16, {"rope_parameters": PLAIN}),
    "llama, rope linear": (
        "Llama", base_config(rope_parameters={"rope_type": "linear", "rope_theta": 10000.0,
                                              "factor": 4.0}),
        ("bpe", "smaug-bpe"), torch.bfloat16, {"rope_parameters": PLAIN}),
    "llama, biases": ("Llama", base_config(attention_bias=True), ("bpe", "gpt-2"), torch.float32,
                      {"rope_parameters": OTHER_BASE}),
    "llama, digits apart": ("Llama", base_config(head_dim=64), ("bpe", "smollm"), torch.bfloat16,
                            {"rope_parameters": OTHER_BASE}),
    "mistral, sentencepiece in tokenizer.json": (
        "Mistral", base_config(head_dim=48, sliding_window=None), ("spm", "json"), torch.bfloat16,
        {"rope_parameters": OTHER_BASE}),
    "mistral, tekken": (
        "Mistral", base_config(head_dim=64, sliding_window=None,
                               rope_parameters={"rope_type": "default", "rope_theta": 1e6}),
        ("bpe", "tekken"), torch.bfloat16, {"rope_parameters": PLAIN}),
    "qwen2, tied": ("Qwen2", base_config(tie_word_embeddings=True), ("bpe", "qwen2"),
                    torch.bfloat16, {"rope_parameters": OTHER_BASE}),
    "qwen2, in shards": ("Qwen2", base_config(num_key_value_heads=1), ("bpe", "qwen2"),
                        torch.float32, {"rope_parameters": OTHER_BASE}),
    "qwen3": ("Qwen3", base_config(head_dim=64), ("bpe", "qwen2"), torch.bfloat16,
              {"rope_parameters": OTHER_BASE}),
    "qwen3, tied": ("Qwen3", base_config(head_dim=32, tie_word_embeddings=True), ("bpe", "qwen2"),
                    torch.float16, {"rms_norm_eps": 1e-2}),
}


def make_checkpoint(data, folder, case):
    """Writes the folder; gives the model in float32, the tokenizer's encode and special tokens."""
    family, values, (style, kind), dtype, _ = case
    folder.mkdir(parents=True)
    write = write_sentencepiece if style == "spm" else write_bpe
    encode, specials = write(data, folder, kind)
    if (folder / "tokenizer.model").exists():
        words = sentencepiece.SentencePieceProcessor(str(folder / "tokenizer.model")).vocab_size()
    else:
        words = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json")).get_vocab_size()
    config = getattr(transformers, family + "Config")(vocab_size=words + 5, **values)
    torch.manual_seed(len(str(values)))
    model = getattr(transformers, family + "ForCausalLM")(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("norm.weight"):
                parameter.uniform_(0.5, 1.5)
            elif name.endswith(".bias"):
                parameter.uniform_(-1, 1)
    model.to(dtype)
    size = "5GB"
    if family == "Llama" and values["num_key_value_heads"] == 4:
        size = "700KB"
    elif family == "Qwen2" and values["num_key_value_heads"] == 1:
        size = "1200KB"
    model.save_pretrained(folder, max_shard_size=size)
    # Read again: to(dtype) rounds the frequencies of the positions, too.
    model = type(model).from_pretrained(folder, dtype=torch.float32).eval()
    return model, encode, specials, len(list(folder.glob("*.safetensors")))


def torch_logits(model, tokens):
    with torch.inference_mode():
        return model(torch.tensor([tokens]), use_cache=False).logits[0].numpy().astype(np.float64)


def open_llama(path):
    # One thread: its threads wait for each other by spinning, which a busy machine punishes. A
    # cache of float32 (type 0), as transformers has.
    return llama_cpp.Llama(str(path), n_ctx=256, n_batch=256, logits_all=True, n_threads=1,
                           n_threads_batch=1, type_k=0, type_v=0, flash_attn=False,
                           verbose=False)


def difference(a, b):
    return float(np.abs(a - b).max() / np.abs(b).max())


def compare_tokens(llama, encode, specials):
    wrong = []
    texts = strings(specials)
    for text in texts:
        expected = encode(text)
        expected = list(getattr(expected, "ids", expected))
        got = llama.tokenize(text.encode("utf-8"), add_bos=True, special=True)
        if got != expected:
            wrong.append((text, got, expected))
    return len(texts), wrong


def plain(value):
    return value.tolist() if hasattr(value, "tolist") else value


def compare_converted(ours, theirs):
    """What differs between our file and the converter's, in words."""
    a, b = gguf.GGUFReader(ours), gguf.GGUFReader(theirs)
    notes = []
    # Names and labels are made up differently.
    described = ("GGUF.", "general.name", "general.size_label")
    fields = [{k: plain(f.contents()) for k, f in r.fields.items() if not k.startswith(described)}
              for r in (a, b)]
    for key in sorted(set(fields[0]) | set(fields[1])):
        if key not in fields[0]:
            notes.append(f"only theirs: {key} = {str(fields[1][key])[:60]}")
        elif key not in fields[1]:
            notes.append(f"only ours: {key} = {str(fields[0][key])[:60]}")
        elif fields[0][key] != fields[1][key]:
            x, y = fields[0][key], fields[1][key]
            if isinstance(x, list) and isinstance(y, list) and len(x) == len(y):
                at = [i for i, (p, q) in enumerate(zip(x, y)) if p != q]
                notes.append(f"{key}: {len(at)} of {len(x)} items differ, the first at {at[0]}: "
                             f"ours {x[at[0]]!r}, theirs {y[at[0]]!r}")
            else:
                sizes = f" ({len(x)} and {len(y)} items)" if isinstance(x, list) else ""
                notes.append(f"{key}: ours {str(x)[:40]}, theirs {str(y)[:40]}{sizes}")
    tensors = [{t.name: t for t in r.tensors} for r in (a, b)]
    if set(tensors[0]) != set(tensors[1]):
        notes.append(f"tensors: {sorted(set(tensors[0]) ^ set(tensors[1]))}")
    equal = 0
    for name in sorted(set(tensors[0]) & set(tensors[1])):
        x, y = tensors[0][name], tensors[1][name]
        if x.tensor_type != y.tensor_type or x.shape.tolist() != y.shape.tolist():
            notes.append(f"{name}: ours {x.tensor_type.name} {x.shape.tolist()}, "
                         f"theirs {y.tensor_type.name} {y.shape.tolist()}")
        elif x.data.tobytes() != y.data.tobytes():
            notes.append(f"{name}: values differ by up to "
                         f"{np.abs(x.data.astype(np.float64) - y.data.astype(np.float64)).max():.2g}")
        else:
            equal += 1
    return f"{equal} of {len(tensors[1])}", notes


def check_case(args, name, case):
    """A row of the table, the failures and the differences from the converter."""
    folder = args.work / name.replace(" ", "-").replace(",", "")
    shutil.rmtree(folder, ignore_errors=True)
    model, encode, specials, shards = make_checkpoint(args.data, folder, case)
    failures, cells = [], []
    draw = random.Random(3)
    tokens = [draw.randrange(model.config.vocab_size - 5) for _ in range(LENGTH)]
    expected = torch_logits(model, tokens)

    changed = copy.deepcopy(model.config)
    for key, value in case[4].items():
        setattr(changed, key, value)
    control = type(model)(changed).eval()
    control.load_state_dict(model.state_dict(), strict=False)
    control.tie_weights()
    control_off = difference(torch_logits(control, tokens), expected)
    if control_off < CONTROL * LIMITS["f32"]:
        failures.append(f"{name}: the control is off by {control_off:.2g} only")

    for kind, limit in LIMITS.items():
        path = folder / f"model-{kind}.gguf"
        subprocess.run([args.programs / "quantize", folder, path, "--format", kind], check=True,
                       capture_output=True, text=True)
        reference = expected
        if kind == "f16":
            rounded = copy.deepcopy(model)
            with torch.no_grad():
                for parameter in rounded.parameters():
                    if parameter.dim() == 2:
                        parameter.copy_(parameter.half().float())
            reference = torch_logits(rounded, tokens)
        llama = open_llama(path)
        llama.reset()
        llama.eval(tokens)
        off = difference(llama.scores[:LENGTH].astype(np.float64), reference)
        cells.append(f"{off:.1e}")
        if not off <= limit:
            failures.append(f"{name}, {kind}: logits are off by {off:.3g}, limit {limit:g}")
        if kind == "f32":
            count, wrong = compare_tokens(llama, encode, specials)
            if llama.metadata.get("tokenizer.chat_template") != TEMPLATE:
                failures.append(f"{name}: the chat template is not the checkpoint's")
        llama.close()
    for text, got, right in wrong[:5]:
        failures.append(f"{name}: {text!r} is {got}, and {right} by the checkpoint")

    notes = []
    converted = "-"
    if args.converter:
        theirs = folder / "theirs.gguf"
        # It knows pre-tokenizers by a hash over ids, which no tokenizer trained here has.
        program = ("import runpy, sys; sys.path.insert(0, sys.argv[1]); import conversion.base as b; "
                   "name = sys.argv[2]; b.TextModel.get_vocab_base_pre = lambda self, t: name; "
                   "sys.argv[1:3] = []; sys.argv[0] = sys.argv.pop(1); "
                   "runpy.run_path(sys.argv[0], run_name='__main__')")
        run = subprocess.run([sys.executable, "-c", program, args.converter.parent, case[2][1],
                              args.converter, folder, "--outtype", "f32", "--outfile", theirs],
                             capture_output=True, text=True)
        if run.returncode == 0:
            converted, notes = compare_converted(folder / "model-f32.gguf", theirs)
        else:
            converted = "refused"
            notes = [run.stderr.strip().splitlines()[-1][:200]]
    row = [name, f"{shards}", f"{control_off:.1e}", *cells, f"{count - len(wrong)} of {count}",
           converted]
    return row, failures, notes


def main():
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--programs", type=pathlib.Path, required=True, help="the built examples")
    parser.add_argument("--data", type=pathlib.Path, required=True, help="examples/data")
    parser.add_argument("--work", type=pathlib.Path, required=True, help="emptied, then written")
    parser.add_argument("--converter", type=pathlib.Path,
                        help="convert_hf_to_gguf.py of a llama.cpp checkout")
    parser.add_argument("--only", help="cases with this in their name")
    parser.add_argument("--report", type=pathlib.Path, help="write the table to this file, too")
    args = parser.parse_args()
    begin = time.monotonic()
    shutil.rmtree(args.work, ignore_errors=True)
    args.work.mkdir(parents=True)
    torch.set_num_threads(1)
    silent = llama_cpp.llama_log_callback(lambda level, text, data: None)
    llama_cpp.llama_log_set(silent, None)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()

    rows, failures, differences = [], [], {}
    for name, case in CASES.items():
        if args.only and args.only not in name:
            continue
        row, failed, notes = check_case(args, name, case)
        print("  ".join(row), flush=True)
        for line in failed:
            print("  FAILED:", line, flush=True)
        for line in notes:
            print("   ", line, flush=True)
        rows.append(row)
        failures += failed
        for note in notes:
            differences.setdefault(note, []).append(name)

    text = report_text(rows, failures, differences, time.monotonic() - begin)
    if args.report:
        args.report.write_text(text, encoding="utf-8")
    print(f"{len(rows)} models, {len(failures)} failures")
    return 1 if failures else 0


def cpu_name():
    for line in pathlib.Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()


def report_text(rows, failures, differences, seconds):
    packages = ["llama-cpp-python", "gguf", "transformers", "tokenizers", "sentencepiece", "torch"]
    versions = ", ".join(f"{p} {importlib.metadata.version(p)}" for p in packages)
    lines = [
        f"# Checkpoints of Hugging Face's as GGUF files in llama.cpp, {datetime.date.today()}",
        "",
        f"`scripts/interop_huggingface.py` on {cpu_name()} ({os.cpu_count()} CPUs), Python "
        f"{platform.python_version()}, {seconds:.0f} s after the builds.",
        "",
        f"Clients: {versions}.",
        "",
        "Each model is tiny, with random weights and norms, made by transformers; its tokenizer is "
        "trained on the spot or the bundled one. `examples/quantize` writes the GGUF file. Logits: "
        f"the largest difference between llama.cpp and transformers in float32 on {LENGTH} random "
        "tokens, relative to the largest logit (f16: against weights rounded to f16; llama.cpp's "
        f"cache is float32). Limits: {LIMITS['f32']:g} for f32, {LIMITS['f16']:g} for f16, with "
        f"which llama.cpp rounds activations to f16, {LIMITS['q8_0']:g} for q8_0, which rounds "
        "weights and activations to 8 bits. Control: transformers with another RoPE or "
        "norm in the same model, which has to be seen. Tokens: texts in NFC that llama.cpp and the "
        "checkpoint's tokenizer cut alike, special tokens included. Tensors: equal to those of "
        "llama.cpp's own converter (told the name of the pre-tokenizer), bit for bit, in f32.",
        "",
        "| model | files | control | f32 | f16 | q8_0 | tokens | tensors |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    lines += ["| " + " | ".join(row) + " |" for row in rows]
    if differences:
        lines += ["", "Differences from the converter's files:", ""]
        for note, names in differences.items():
            models_of = "all" if len(names) == len(rows) else "; ".join(names)
            lines.append(f"- `{note}` ({models_of})")
    lines += ["", "Not as it must be:", "", "- " + "\n- ".join(failures)] if failures else []
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
