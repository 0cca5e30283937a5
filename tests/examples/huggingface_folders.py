#!/usr/bin/env python3
# SPDX-License-Identifier: Apache-2.0
"""What examples/quantize makes of small Hugging Face folders of every architecture that it reads:
names, shapes, the order of query and key rows, biases, RoPE's divisors, the tokenizer, shards, and
what is refused.

usage: huggingface_folders.py --programs FOLDER --data FOLDER
"""

import json
import os
import shutil
import struct
import sys
import tempfile

from checks import arguments, check, exit_status, run_program
from gguf_reader import read_gguf

WIDTH, HEADS, KV_HEADS, HEAD, FORWARD, WORDS, LAYERS = 8, 4, 2, 6, 10, 5, 2

CONFIG = {"vocab_size": WORDS, "hidden_size": WIDTH, "num_hidden_layers": LAYERS,
          "num_attention_heads": HEADS, "num_key_value_heads": KV_HEADS, "head_dim": HEAD,
          "intermediate_size": FORWARD, "max_position_embeddings": 64, "eos_token_id": 4}

TOKENIZER = {
    "added_tokens": [{"id": 3, "content": "<|end|>", "special": True}],
    "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False},
    "post_processor": {"type": "ByteLevel"},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}


def write_safetensors(path, tensors):
    """name -> (shape, floats), stored as F32."""
    header, data = {}, b""
    for name, (shape, values) in tensors.items():
        stored = struct.pack(f"<{len(values)}f", *values)
        header[name] = {"dtype": "F32", "shape": shape,
                        "data_offsets": [len(data), len(data) + len(stored)]}
        data += stored
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text + data)


def make_tensors(architecture, tied, biased):
    """Every value is another one: its place in the checkpoint can be told from it."""
    tensors = {}
    count = 0

    def add(name, *shape):
        nonlocal count
        size = 1
        for extent in shape:
            size *= extent
        tensors[name] = (list(shape), [float(count + i) for i in range(size)])
        count += size

    add("model.embed_tokens.weight", WORDS, WIDTH)
    for layer in range(LAYERS):
        prefix = f"model.layers.{layer}."
        attention = prefix + "self_attn."
        add(prefix + "input_layernorm.weight", WIDTH)
        add(prefix + "post_attention_layernorm.weight", WIDTH)
        for letter, heads in (("q", HEADS), ("k", KV_HEADS), ("v", KV_HEADS)):
            add(f"{attention}{letter}_proj.weight", heads * HEAD, WIDTH)
            if biased or architecture == "Qwen2":
                add(f"{attention}{letter}_proj.bias", heads * HEAD)
        if architecture == "Qwen3":
            add(attention + "q_norm.weight", HEAD)
            add(attention + "k_norm.weight", HEAD)
        add(attention + "o_proj.weight", WIDTH, HEADS * HEAD)
        if biased:
            add(attention + "o_proj.bias", WIDTH)
        add(prefix + "mlp.gate_proj.weight", FORWARD, WIDTH)
        add(prefix + "mlp.up_proj.weight", FORWARD, WIDTH)
        add(prefix + "mlp.down_proj.weight", WIDTH, FORWARD)
    add("model.norm.weight", WIDTH)
    if not tied:
        add("lm_head.weight", WORDS, WIDTH)
    return tensors


LEAVES = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm",
          "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
          "self_attn.o_proj": "attn_output", "self_attn.q_norm": "attn_q_norm",
          "self_attn.k_norm": "attn_k_norm", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
          "mlp.down_proj": "ffn_down"}
OUTER = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


def expected_tensor(name, shape, values, pairs):
    """The GGUF name, dims and values. pairs: rows i and i + HEAD / 2 of a head become neighbours."""
    module, _, kind = name.rpartition(".")
    if module in OUTER:
        renamed = OUTER[module]
    else:
        _, _, layer, leaf = module.split(".", 3)
        renamed = f"blk.{layer}.{LEAVES[leaf]}"
    if pairs and renamed.endswith(("attn_q", "attn_k")):
        size = len(values) // shape[0]
        rows = [values[r * size:(r + 1) * size] for r in range(shape[0])]
        order = [head * HEAD + half * (HEAD // 2) + i for head in range(shape[0] // HEAD)
                 for i in range(HEAD // 2) for half in range(2)]
        values = [v for r in order for v in rows[r]]
    return f"{renamed}.{kind}", shape[::-1], values


def main():
    args = arguments()
    with tempfile.TemporaryDirectory() as scratch:
        folder, out = os.path.join(scratch, "model"), os.path.join(scratch, "out.gguf")

        def put(name, value):
            with open(os.path.join(folder, name), "w", encoding="utf-8") as file:
                json.dump(value, file)

        def make(architecture, tensors, shards=1, **config):
            shutil.rmtree(folder, ignore_errors=True)
            os.mkdir(folder)
            put("config.json", CONFIG | {"architectures": [architecture + "ForCausalLM"]} | config)
            put("tokenizer.json", TOKENIZER)
            if shards == 1:
                write_safetensors(os.path.join(folder, "model.safetensors"), tensors)
                return
            places = {}
            for i in range(shards):
                part = f"model-{i + 1:05}-of-{shards:05}.safetensors"
                chosen = {n: t for j, (n, t) in enumerate(tensors.items()) if j % shards == i}
                write_safetensors(os.path.join(folder, part), chosen)
                places |= dict.fromkeys(chosen, part)
            put("model.safetensors.index.json", {"metadata": {}, "weight_map": places})

        def quantize(refused="", status=(1,)):
            return run_program(os.path.join(args.programs, "quantize"), folder, out, "--format",
                               "f32", refused=refused, status=status)

        llama3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                  "high_freq_factor": 4.0, "original_max_position_embeddings": 32}
        for architecture, config, shards in (
                ("Llama", {}, 1), ("Llama", {"tie_word_embeddings": True}, 3),
                ("Llama", {"attention_bias": True}, 1), ("Llama", {"rope_scaling": llama3}, 1),
                ("Mistral", {"sliding_window": 16}, 1), ("Qwen2", {"tie_word_embeddings": True}, 2),
                ("Qwen3", {}, 1)):
            what = f"{architecture} {config}"
            tensors = make_tensors(architecture, "tie_word_embeddings" in config,
                                   "attention_bias" in config)
            make(architecture, tensors, shards, **config)
            printed = quantize()
            check(("16 positions back" in printed) == (architecture == "Mistral"),
                  f"{what}: the sliding window is told")
            metadata, written = read_gguf(out)
            name = {"Mistral": "llama"}.get(architecture, architecture.lower())
            check(metadata["general.architecture"] == name.encode(), f"{what}: the architecture")
            check(metadata[name + ".attention.key_length"] == HEAD, f"{what}: the head size")
            check(metadata["tokenizer.ggml.tokens"] == [b"a", b"b", b"ab", b"<|end|>", b"[PAD4]"],
                  f"{what}: the tokens")
            check(metadata["tokenizer.ggml.pre"] == b"gpt-2", f"{what}: the pre-tokenizer")
            check(metadata["tokenizer.ggml.eos_token_id"] == 4, f"{what}: the end of a text")
            if "rope_scaling" in config:
                dims, kind, data = written.pop("rope_freqs.weight")
                values = struct.unpack(f"<{HEAD // 2}f", data)
                # Pairs turn in 6.3, 135 and 2916 positions: 8 is above, 32 below.
                check((dims, kind) == ([HEAD // 2], 0) and values == (1.0, 8.0, 8.0),
                      f"{what}: the divisors {values}")
            expected = [expected_tensor(n, s, v, name == "llama") for n, (s, v) in tensors.items()]
            check(set(written) == {e[0] for e in expected}, f"{what}: the tensors' names")
            for tensor, dims, values in expected:
                stored = written.get(tensor, ([], 0, b""))
                check(stored[:2] == (dims, 0), f"{what}: {tensor} is {stored[:2]}")
                check(stored[2] == struct.pack(f"<{len(values)}f", *values),
                      f"{what}: the values of {tensor}")

        # What is not as config.json says.
        tensors = make_tensors("Llama", False, False)
        make("Llama", tensors | {"model.layers.2.mlp.up_proj.weight": ([1], [0.0])})
        quantize(refused="model.layers.2.mlp.up_proj.weight has no place")
        make("Qwen2", tensors)
        quantize(refused="no tensor model.layers.0.self_attn.q_proj.bias")
        make("Llama", make_tensors("Qwen2", False, False))
        quantize(refused="self_attn.k_proj.bias has no place")
        make("Llama", {n: t for n, t in tensors.items() if n != "lm_head.weight"})
        quantize(refused="no tensor lm_head.weight")
        make("Llama", tensors, num_key_value_heads=4)
        quantize(refused="the shape is [12 x 8], by config.json it is [24 x 8]")
        make("Llama", tensors, vocab_size=2000000000)
        quantize(refused="by config.json it is [2000000000 x 8]")
        make("Llama", tensors, num_hidden_layers=2000000000)
        quantize(refused="no tensor model.layers.2.input_layernorm.weight")
        make("Mixtral", tensors)
        quantize(refused='"MixtralForCausalLM"')
        make("Llama", tensors, rope_scaling={"type": "yarn", "factor": 2})
        quantize(refused='"yarn"')
        make("Llama", tensors, tie_word_embeddings=True)
        quantize(refused="lm_head.weight is another matrix")
        same = dict(tensors)
        same["lm_head.weight"] = same["model.embed_tokens.weight"]
        make("Llama", same, tie_word_embeddings=True)
        quantize()
        check("output.weight" not in read_gguf(out)[1], "an output layer that is the embedding")
        make("Llama", tensors)
        put("tokenizer.json", TOKENIZER | {"pre_tokenizer": {"type": "Whitespace"}})
        quantize(refused="not known: Whitespace")
        os.remove(os.path.join(folder, "tokenizer.json"))
        check("no tokenizer" in quantize(), "a folder without a tokenizer")
        check("tokenizer.ggml.model" not in read_gguf(out)[0], "a file without a tokenizer")
    return exit_status()


if __name__ == "__main__":
    sys.exit(main())
